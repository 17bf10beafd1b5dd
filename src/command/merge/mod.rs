//! `merge`: a FULL backup and the increments on it up to one of them become one FULL backup.
//!
//! Steps of [`run`]:
//!
//! 1. choose the FULL backup and the destination; lock all members
//! 2. validate them, unless told not to
//! 3. plan from the content lists: which files stay, which are taken over, which are written anew
//! 4. prepare the result in a staging directory beside the FULL backup's files; nothing that is
//!    there changes. Files whose records keep place and length are left out: only what they will be
//!    is worked out
//! 5. commit, write those records over the old ones, put the rest in place, remove the increments,
//!    rename the directory (`finish`)
//! 6. validate the result, unless told not to
//!
//! Killed before the commit, the chain is as it was; from then on the result is complete and
//! `restore` finds it, whether or not it is in place (`journal` tells how). The next run goes on
//! from where this one ended, and from where a run of the original did. The directory of the FULL
//! backup becomes that of the result, so files that no increment changed are not touched.

mod finish;
mod journal;
mod plan;
mod recover;
mod relations;
mod select;
mod stage;

pub(in crate::command) use journal::{OverwrittenFiles, being_overwritten, unfinished_result};
pub(in crate::command) use relations::check_overwritten;

use super::Error;
use super::validate::{CheckOptions, PROGRAM_VERSION, check_backup, version_number};
use super::words::{pretty_size, pretty_time};
use crate::catalog::lock::{LockGuard, LockOptions, lock_exclusive};
use crate::catalog::{BackupDir, BackupEntry, Catalog, Instance};
use crate::format::catalog::{BackupControl, BackupStatus};
use crate::io::fault;
use crate::monitor::Monitor;
use crate::storage::StorageError;
use crate::types::BackupId;
use finish::Finish;
use journal::Journal;
use plan::Plan;
use select::Selection;
use stage::Staging;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What `merge` is asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// The catalog.
    pub catalog: PathBuf,
    /// The instance's name.
    pub instance: String,
    /// The last backup to merge, or the FULL one.
    pub backup_id: BackupId,
    /// Whether the chain is validated before.
    pub validate: bool,
    /// Whether files are made durable before they count.
    pub sync: bool,
    /// Whether only to say what would be done.
    pub dry_run: bool,
    /// Threads, engine.
    pub check: CheckOptions,
}

/// Makes a step that no other layer announces to [`fault`].
fn step(
    operation: &'static str,
    path: &Path,
    make: impl FnOnce() -> std::io::Result<()>,
) -> Result<(), Error> {
    let made = fault::step(operation, path).and_then(|()| make());
    Ok(made.map_err(|e| StorageError::new(operation, path, e))?)
}

/// The directories of the members, all locked.
#[derive(Debug)]
struct Members {
    instance: PathBuf,
    full: BackupDir,
    lock: LockGuard,
    increments: Vec<(BackupDir, LockGuard)>,
}

impl Members {
    /// Locks the members and reads their records again.
    fn lock(instance: &Instance, selection: &mut Selection) -> Result<Members, Error> {
        let mut locked = Vec::new();
        for entry in &mut selection.members {
            let lock = lock_exclusive(&entry.dir, entry.id, &LockOptions::PATIENT)?;
            let (control, _) = entry.open().read_control()?;
            refuse_changed(entry, &control)?;
            entry.control = Ok(control);
            locked.push((entry.open(), lock));
        }
        let (full, lock) = locked.remove(0);
        // What was being removed may be there without a record, or without its parent.
        let journal = Journal::committed(&full, &control_of(selection.full())?);
        let mut others = journal.map_or_else(Vec::new, |journal| journal.increments());
        others.push(selection.destination);
        for id in others {
            let is_known = |(dir, _): &(BackupDir, LockGuard)| dir.id() == id;
            if full.id() == id || locked.iter().any(is_known) {
                continue;
            }
            if let Ok(dir) = instance.backup(id) {
                let lock = lock_exclusive(dir.path(), id, &LockOptions::PATIENT)?;
                locked.push((dir, lock));
            }
        }
        Ok(Members {
            instance: instance.dir().to_owned(),
            full,
            lock,
            increments: locked,
        })
    }

    fn instance(&self) -> &Path {
        &self.instance
    }

    fn increment(&self, id: BackupId) -> Option<BackupDir> {
        let increment = self.increments.iter().find(|(dir, _)| dir.id() == id);
        increment.map(|(dir, _)| dir.clone())
    }

    fn increments(&self) -> Vec<BackupId> {
        self.increments.iter().map(|(dir, _)| dir.id()).collect()
    }

    /// An increment that is to be removed, with its lock.
    fn take(&mut self, id: BackupId) -> Option<(BackupDir, LockGuard)> {
        let at = self.increments.iter().position(|(dir, _)| dir.id() == id)?;
        Some(self.increments.remove(at))
    }

    /// The FULL backup's directory has another name.
    fn renamed(&mut self, id: BackupId, path: &Path) {
        self.lock.moved_to(path);
        self.full = BackupDir::at(id, path);
    }
}

/// Refuses a member whose record is another than when the chain was chosen: another merge may have
/// gone as far as its commit, with another destination, before it was killed and its lock free.
fn refuse_changed(entry: &BackupEntry, now: &BackupControl) -> Result<(), Error> {
    match &entry.control {
        Ok(then) if then != now => Err(Error::Refused(format!(
            "backup {} was changed by another process while its lock was waited for: run the merge \
             again",
            entry.id
        ))),
        _ => Ok(()),
    }
}

/// Merges.
///
/// # Errors
/// When it could not be merged; then the chain or the result can still be restored, and the next
/// run goes on.
pub fn run(options: &Options, monitor: &dyn Monitor) -> Result<(), Error> {
    tracing::info!("Merge started");
    let instance = Catalog::open(&options.catalog)?.instance(&options.instance)?;
    let entries = instance.backups()?;
    for warning in entries.iter().flat_map(|entry| &entry.warnings) {
        tracing::warn!("{warning}");
    }
    let mut selection = select::select(&entries, options.backup_id)?;
    let destination = selection.destination;
    let mut members = Members::lock(&instance, &mut selection)?;
    // Not those of before: a backup may have begun on a member while its lock was waited for.
    for id in select::orphans(&instance.backups()?, &selection) {
        tracing::warn!("Backup {id} cannot be restored after the merge: its parent is merged");
    }
    if selection.is_complete {
        tracing::warn!("Backup {destination} is merged already: nothing is left to do");
        if !options.dry_run {
            super::seal::forget_aside(&members.full)?;
        }
        return validate_result(options, &members.full, monitor);
    }
    let began = Instant::now();
    let control = control_of(selection.full())?;
    let committed = Journal::committed(&members.full, &control);
    let is_merging = matches!(control.status, BackupStatus::Merging | BackupStatus::Merged);
    if !is_merging && !options.dry_run {
        // Of a merge that was stopped right before its commit.
        super::seal::take_back(&members.full)?;
    }
    if options.dry_run && (committed.is_some() || control.status == BackupStatus::Merged) {
        tracing::info!("The merge is prepared; only renames and removals are left to do");
        return Ok(());
    }
    let mut finish = Finish {
        options,
        monitor,
        members: &mut members,
        destination,
    };
    match (control.status, committed) {
        (BackupStatus::Merged, _) => {}
        (BackupStatus::Merging, Some(journal)) => {
            tracing::info!("Retry failed merge of backup {destination} with parent chain");
            finish.roll_forward(journal, &selection.members)?;
        }
        _ => {
            if !prepare(options, &mut selection, &mut finish, monitor)? {
                return Ok(());
            }
            tracing::info!(
                "Backup files are successfully merged, time elapsed: {}",
                pretty_time(began)
            );
        }
    }
    finish.conclude()?;
    validate_result(options, &members.full, monitor)?;
    tracing::info!("Merge of backup {destination} completed");
    Ok(())
}

/// Checks the files of the result against its content list; pages were verified when they were
/// merged.
fn validate_result(
    options: &Options,
    result: &BackupDir,
    monitor: &dyn Monitor,
) -> Result<(), Error> {
    if !options.validate || options.dry_run {
        return Ok(());
    }
    let (mut control, _) = result.read_control()?;
    if check_backup(result, &mut control, &files_only(options), monitor)? {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "Merging of backup {} failed",
        result.id()
    )))
}

/// How members and result are checked: by the files' CRCs, as the original does it.
fn files_only(options: &Options) -> CheckOptions {
    CheckOptions {
        skip_block_validation: true,
        ..options.check.clone()
    }
}

fn control_of(entry: &BackupEntry) -> Result<BackupControl, Error> {
    entry.control.clone().map_err(|reason| {
        tracing::warn!("{reason}");
        Error::UnreadableControl { id: entry.id }
    })
}

/// From the chain as it is to the result in place; `false` where only the plan was wanted.
fn prepare(
    options: &Options,
    selection: &mut Selection,
    finish: &mut Finish<'_>,
    monitor: &dyn Monitor,
) -> Result<bool, Error> {
    let destination = selection.destination;
    let recovers = selection.full().status() == BackupStatus::Merging;
    if recovers {
        tracing::info!("Retry failed merge of backup {destination} with parent chain");
    } else {
        tracing::info!("Merging backup {destination} with parent chain");
    }
    check_versions(selection)?;
    if options.validate && !options.dry_run {
        validate(selection, recovers, options, monitor)?;
    }
    let control = control_of(selection.full())?;
    if recovers && let Some(full) = selection.members.first_mut() {
        // The original writes list and record one after the other.
        full.control = Ok(BackupControl {
            content_crc: None,
            ..control.clone()
        });
    }
    let plan = Plan::new(&selection.members)?;
    if options.dry_run {
        describe(&plan);
        return Ok(false);
    }
    tracing::info!("Start merging backup files");
    let staging = Staging {
        options,
        plan: &plan,
        members: &selection.members,
        recovers,
        merge_time: now(),
        monitor,
    };
    let result = staging.run().inspect_err(|_| {
        tracing::debug!("Backup files merging failed");
    })?;
    let merge_time = result.merge_time.unwrap_or_default();
    if recovers {
        forget_the_originals(&finish.members.full)?;
    }
    finish.commit(&control, merge_time)?;
    let (control, _) = finish.members.full.read_control()?;
    let journal = Journal::committed(&finish.members.full, &control)
        .ok_or_else(|| Error::Refused("the journal of the merge cannot be read back".to_owned()))?;
    finish.roll_forward(journal, &selection.members)?;
    Ok(true)
}

/// Removes the header map that the original had begun; its files are in the result.
fn forget_the_originals(full: &BackupDir) -> Result<(), Error> {
    let path = full.path().join("page_header_map_tmp");
    if path.symlink_metadata().is_ok() {
        step("remove", &path, || std::fs::remove_file(&path))?;
    }
    Ok(())
}

fn check_versions(selection: &Selection) -> Result<(), Error> {
    for entry in &selection.members {
        let control = control_of(entry)?;
        let version = &control.program_version;
        if version_number(version) > version_number(PROGRAM_VERSION) {
            return Err(Error::Refused(format!(
                "Backup {} has been produced by gs_probackup version {version}, but current \
                 program version is {PROGRAM_VERSION}. Forward compatibility is not supported.",
                entry.id
            )));
        }
        let full = control_of(selection.full())?;
        if control.storage_type != full.storage_type {
            return Err(Error::Refused(format!(
                "Backup {} is of a cluster on another kind of storage than backup {}: they cannot \
                 be merged",
                entry.id,
                selection.full().id
            )));
        }
    }
    Ok(())
}

/// Checks the files of every member, as the original does before it merges.
fn validate(
    selection: &mut Selection,
    recovers: bool,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<(), Error> {
    tracing::info!("Validate parent chain for backup {}", selection.destination);
    // Pages are verified when they are merged; the files' CRCs cover the rest.
    let check = files_only(options);
    for (index, entry) in selection.members.iter_mut().enumerate() {
        if recovers && index == 0 {
            tracing::warn!(
                "Full backup {} has status MERGING, skip validation",
                entry.id
            );
            continue;
        }
        let mut control = control_of(entry)?;
        if !check_backup(&entry.open(), &mut control, &check, monitor)? {
            return Err(Error::Refused(format!(
                "Backup {} has status {}, merge is aborted",
                entry.id, control.status
            )));
        }
        entry.control = Ok(control);
    }
    Ok(())
}

/// Says what a merge would do.
fn describe(plan: &Plan) {
    let totals = plan.totals();
    tracing::info!(
        "Files that stay: {} ({})",
        totals.kept_files,
        pretty_size(totals.kept_bytes)
    );
    tracing::info!(
        "Files that are taken over from increments: {} ({})",
        totals.taken_files,
        pretty_size(totals.taken_bytes)
    );
    tracing::info!(
        "Files that are written anew from several backups: {} ({} to read)",
        totals.rewritten_files,
        pretty_size(totals.rewritten_bytes)
    );
    tracing::info!(
        "Files and directories that are removed: {}",
        plan.removals.len()
    );
}

fn now() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    elapsed
        .ok()
        .and_then(|elapsed| i64::try_from(elapsed.as_secs()).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::catalog::BackupMode;

    #[test]
    fn a_member_that_another_merge_committed_meanwhile_is_refused() {
        let chosen = BackupControl::new(BackupMode::Full, 1_795_240_367);
        let entry = BackupEntry {
            id: BackupId::from_start_time(1_795_240_367).unwrap(),
            dir: "/catalog".into(),
            control: Ok(chosen.clone()),
            warnings: Vec::new(),
            unfinished_merge: None,
        };
        assert!(refuse_changed(&entry, &chosen).is_ok());
        let committed = BackupControl {
            status: BackupStatus::Merging,
            merge_dest_id: BackupId::from_start_time(1_795_240_400),
            ..chosen
        };
        let error = refuse_changed(&entry, &committed).unwrap_err().to_string();
        assert!(error.contains("was changed by another process"), "{error}");
    }
}
