//! `validate`: is everything that a restore needs there and intact?
//!
//! Without an id, every backup of one or all instances; with one, its chain. Each backup is checked
//! for itself (`check`); then what it means for others is drawn from it: a backup whose parent is
//! not valid is ORPHAN, and becomes OK again when the parent does.

mod check;
mod control;
mod extra;
mod reach;
mod wal;

use check::check_unfinished;
pub use check::{CheckOptions, check_backup};
pub(super) use check::{
    PROGRAM_VERSION, Stores, check_version, has_page_records, is_control_file, roots_of,
    version_number,
};
pub(super) use reach::{check_target, holds_restore_point};

use super::Error;
use super::recovery_target::RecoveryTarget;
use super::restore::Wanted;
use crate::catalog::lock::{LockError, LockOptions, lock_shared};
use crate::catalog::{BackupDir, BackupEntry, Catalog, Instance};
use crate::format::catalog::{BackupControl, BackupStatus};
use crate::monitor::Monitor;
use crate::types::BackupId;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What `validate` is asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// The catalog.
    pub catalog: PathBuf,
    /// One instance; all by default.
    pub instance: Option<String>,
    /// One backup and its parents; all by default.
    pub backup_id: Option<BackupId>,
    /// How far a server is to recover: whether WAL goes that far, and from which backup.
    pub target: RecoveryTarget,
    /// A directory with WAL besides the archive of the instance.
    pub archive_dir: Option<PathBuf>,
    /// How a backup is checked.
    pub check: CheckOptions,
}

/// Validates.
///
/// # Errors
/// When a backup is not valid, or the catalog cannot be read.
pub fn run(options: &Options, monitor: &dyn Monitor) -> Result<(), Error> {
    let catalog = Catalog::open(&options.catalog)?;
    if options.target.is_set() {
        return validate_target(&catalog, options, monitor);
    }
    if let Some(id) = options.backup_id {
        let Some(name) = &options.instance else {
            return Err(Error::MissingOption {
                option: "--instance",
            });
        };
        tracing::debug!("Validate begin.");
        validate_one(&catalog.instance(name)?, id, &options.check, monitor)?;
        tracing::info!("Validate of backup {id} completed.");
        return Ok(());
    }
    let instances = match &options.instance {
        Some(name) => vec![catalog.instance(name)?],
        None => catalog.instances()?,
    };
    let mut totals = Totals::default();
    for instance in &instances {
        tracing::info!("Validate backups of the instance '{}'", instance.name());
        validate_instance(instance, &options.check, monitor, &mut totals)?;
    }
    if totals.skipped > 0 {
        tracing::warn!("Some backups weren't locked and they were skipped");
    }
    let count = totals.invalid + totals.skipped + totals.unsupported;
    if count > 0 {
        tracing::warn!("Some backups are not valid");
        return Err(Error::SomeInvalid { count });
    }
    tracing::info!("All backups are valid");
    Ok(())
}

/// Validates the backup that a restore to the target would use, and the WAL up to there.
fn validate_target(
    catalog: &Catalog,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<(), Error> {
    let Some(name) = &options.instance else {
        return Err(Error::MissingOption {
            option: "--instance",
        });
    };
    tracing::debug!("Validate begin.");
    let instance = catalog.instance(name)?;
    let archives = super::restore::archives(options.archive_dir.as_deref(), &instance)?;
    let wanted = Wanted {
        backup_id: options.backup_id,
        target: &options.target,
        is_tolerant: true,
        archives: &archives,
        cancel: &options.check.cancel,
    };
    let chain = super::restore::choose_chain(&instance, &wanted)?;
    let last = chain.last().expect("a chain has a member");
    let id = last.id;
    if options.backup_id.is_none() {
        tracing::info!("Backup {id} is the newest that lies before the recovery target");
    }
    validate_chain(&chain, &options.check, monitor)?;
    let dir = last.open();
    let patience = LockOptions::PATIENT.cancelled_by(&options.check.cancel);
    let _lock = lock_shared(dir.path(), id, &patience)?;
    let (control, _) = dir.read_control()?;
    check_target(
        &dir,
        &control,
        &options.target,
        &archives,
        &options.check.cancel,
    )?;
    tracing::info!("Validate of backup {id} completed.");
    Ok(())
}

#[derive(Default)]
struct Totals {
    invalid: usize,
    /// In use by others.
    skipped: usize,
    /// Not to be judged by this version.
    unsupported: usize,
}

/// Validates every backup of an instance, parents before children.
fn validate_instance(
    instance: &Instance,
    options: &CheckOptions,
    monitor: &dyn Monitor,
    totals: &mut Totals,
) -> Result<(), Error> {
    let all = instance.backups()?;
    let merged = super::chain::merged_members(&all);
    let mut entries = super::chain::with_unfinished_merges(all);
    entries.retain(|entry| !merged.contains_key(&entry.id));
    entries.sort_by_key(|entry| entry.id);
    let mut known = HashMap::new();
    for entry in &entries {
        let id = entry.id;
        let dir = entry.open();
        let patience = LockOptions::PATIENT.cancelled_by(&options.cancel);
        let lock = match lock_shared(dir.path(), id, &patience) {
            Ok(lock) => lock,
            Err(LockError::Interrupted) => return Err(LockError::Interrupted.into()),
            Err(error) => {
                tracing::warn!("Cannot lock backup {id} directory, skip validation: {error}");
                totals.skipped += 1;
                known.insert(id, None);
                continue;
            }
        };
        if entry.unfinished_merge.is_some() {
            // Whole or not, it waits for somebody to finish it.
            totals.invalid += 1;
            let intact = check_unfinished(entry, options, monitor)?;
            let status = [BackupStatus::Corrupt, BackupStatus::Ok][usize::from(intact)];
            known.insert(id, Some(Judged::of(id, status)));
            continue;
        }
        let Some(mut control) = read_control(entry) else {
            totals.invalid += 1;
            continue;
        };
        let mut judged = None;
        match parent_of(&control, &known) {
            Parent::Good => match check_backup(&dir, &mut control, options, monitor) {
                Ok(true) => {}
                Ok(false) => totals.invalid += 1,
                Err(error) => return Err(error),
            },
            Parent::Bad(cause) => {
                totals.invalid += 1;
                orphan(entry, &mut control, cause)?;
                judged = Some(Judged {
                    status: control.status,
                    cause,
                });
            }
            Parent::Unknown(parent) => {
                tracing::warn!("Backup {id} is skipped, because its parent {parent} was");
                totals.unsupported += 1;
                known.insert(id, None);
                continue;
            }
        }
        let status = control.status;
        known.insert(id, Some(judged.unwrap_or(Judged::of(id, status))));
        drop(lock);
    }
    Ok(())
}

/// Validates a backup and all it grows on.
fn validate_one(
    instance: &Instance,
    id: BackupId,
    options: &CheckOptions,
    monitor: &dyn Monitor,
) -> Result<(), Error> {
    let all = instance.backups()?;
    if let Some(result) = super::chain::merged_members(&all).get(&id) {
        return Err(Error::Refused(format!(
            "Backup {id} has unfinished merge with backup {result}: run merge -i {result}"
        )));
    }
    let entries = super::chain::with_unfinished_merges(all);
    if !entries.iter().any(|entry| entry.id == id) {
        return Err(Error::BackupNotFound { id });
    }
    let chain = super::chain::members(&entries, id)?;
    validate_chain(&chain, options, monitor)
}

/// Validates the members of a chain, the FULL backup first; stops at the first that is not valid
/// and marks the rest.
///
/// # Errors
/// When a member is not valid.
///
/// # Panics
/// When the chain is empty.
pub fn validate_chain(
    chain: &[BackupEntry],
    options: &CheckOptions,
    monitor: &dyn Monitor,
) -> Result<(), Error> {
    let target = chain.last().expect("a chain has a member").id;
    if chain.len() > 1 {
        tracing::info!("Validating parents for backup {target}");
    }
    for (index, entry) in chain.iter().enumerate() {
        let dir = entry.open();
        let patience = LockOptions::PATIENT.cancelled_by(&options.cancel);
        let _lock = lock_shared(dir.path(), entry.id, &patience)?;
        let (intact, status) = check_member(entry, &dir, options, monitor)?;
        if intact {
            continue;
        }
        let cause = Cause::Status(entry.id, status);
        let rest = &chain[index + 1..];
        for child in rest {
            mark(child, cause)?;
        }
        for child in other_descendants(entry, rest)? {
            mark(&child, cause)?;
        }
        if entry.id == target {
            return Err(Error::InvalidBackup { id: target, status });
        }
        return Err(Error::InvalidBackup {
            id: target,
            status: BackupStatus::Orphan,
        });
    }
    tracing::info!("Backup {target} is valid.");
    Ok(())
}

/// Checks a member of a chain; returns whether it is valid, and its status.
fn check_member(
    entry: &BackupEntry,
    dir: &BackupDir,
    options: &CheckOptions,
    monitor: &dyn Monitor,
) -> Result<(bool, BackupStatus), Error> {
    if entry.unfinished_merge.is_some() {
        let intact = check_unfinished(entry, options, monitor)?;
        return Ok((intact, BackupStatus::Corrupt));
    }
    let Some(mut control) = read_control(entry) else {
        return Err(Error::UnreadableControl { id: entry.id });
    };
    let intact = check_backup(dir, &mut control, options, monitor)?;
    Ok((intact, control.status))
}

/// The backup's control data as they are now, or a warning why there are none.
///
/// Those of the entry may be from before somebody else finished the backup: judged by them, a good
/// backup would be marked as broken off.
fn read_control(entry: &BackupEntry) -> Option<BackupControl> {
    match entry.open().read_control() {
        Ok((control, warnings)) => {
            for warning in warnings {
                tracing::warn!("{warning}");
            }
            Some(control)
        }
        Err(error) => {
            tracing::warn!("{}", super::words::describe(&error));
            None
        }
    }
}

/// The instance that a backup's directory is of.
fn instance_of(backup: &Path) -> Result<Instance, Error> {
    // <catalog>/backups/<instance>/<id>
    let mut levels = backup.ancestors();
    let name = levels.nth(1).and_then(Path::file_name).unwrap_or_default();
    let catalog = levels.nth(1).unwrap_or(Path::new("/")).to_owned();
    Ok(Catalog::open(catalog)?.instance(&name.to_string_lossy())?)
}

/// What grows on a backup that is not valid and is not in `chain`.
fn other_descendants(
    parent: &BackupEntry,
    chain: &[BackupEntry],
) -> Result<Vec<BackupEntry>, Error> {
    let instance = instance_of(&parent.dir)?;
    let mut entries = instance.backups()?;
    entries.sort_by_key(|entry| entry.id);
    let mut ids = vec![parent.id];
    let mut found = Vec::new();
    for entry in entries {
        let grows_on = entry.control.as_ref().ok().and_then(|c| c.parent_backup_id);
        if grows_on.is_some_and(|id| ids.contains(&id)) {
            ids.push(entry.id);
            if chain.iter().all(|member| member.id != entry.id) {
                found.push(entry);
            }
        }
    }
    Ok(found)
}

/// What makes a backup one that cannot be restored, though nothing in it is damaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cause {
    /// This backup, which it grows on, has a status that is not good.
    Status(BackupId, BackupStatus),
    /// This one is missing.
    Missing(BackupId),
}

/// What was found out about a backup.
#[derive(Clone, Copy, Debug)]
struct Judged {
    status: BackupStatus,
    /// What it means for those that grow on it.
    cause: Cause,
}

impl Judged {
    fn of(id: BackupId, status: BackupStatus) -> Judged {
        Judged {
            status,
            cause: Cause::Status(id, status),
        }
    }
}

/// What the backup that another one grows on means for that one.
#[derive(PartialEq, Eq, Debug)]
enum Parent {
    /// It has none, or a valid one.
    Good,
    /// It cannot be restored, for this reason.
    Bad(Cause),
    /// Its parent could not be looked at, so nothing is known.
    Unknown(BackupId),
}

/// Judges the parent by what was found; `None` is a backup that was not looked at.
fn parent_of(control: &BackupControl, known: &HashMap<BackupId, Option<Judged>>) -> Parent {
    let Some(parent) = control.parent_backup_id else {
        return Parent::Good;
    };
    match known.get(&parent) {
        None => Parent::Bad(Cause::Missing(parent)),
        Some(None) => Parent::Unknown(parent),
        Some(Some(judged)) if judged.status == BackupStatus::Ok => Parent::Good,
        Some(Some(judged)) => Parent::Bad(judged.cause),
    }
}

/// Marks a descendant of a backup that is not valid. One that somebody is changing is left to the
/// next validation.
fn mark(entry: &BackupEntry, cause: Cause) -> Result<(), Error> {
    let Ok(_lock) = lock_shared(&entry.dir, entry.id, &LockOptions::FAIL_FAST) else {
        tracing::warn!("Backup {} is in use and keeps its status for now", entry.id);
        return Ok(());
    };
    match read_control(entry) {
        Some(mut control) => orphan(entry, &mut control, cause),
        None => Ok(()),
    }
}

/// Marks a backup ORPHAN that was thought to be good.
fn orphan(entry: &BackupEntry, control: &mut BackupControl, cause: Cause) -> Result<(), Error> {
    let id = entry.id;
    if !matches!(control.status, BackupStatus::Ok | BackupStatus::Done) {
        match cause {
            Cause::Status(parent, status) => {
                tracing::warn!("Backup {id} has parent {parent} with status: {status}");
            }
            Cause::Missing(parent) => tracing::warn!("Backup {id} has missing parent {parent}"),
        }
        return Ok(());
    }
    match cause {
        Cause::Status(parent, status) => tracing::warn!(
            "Backup {id} is orphaned because his parent {parent} has status: {status}"
        ),
        Cause::Missing(parent) => {
            tracing::warn!("Backup {id} is orphaned because his parent {parent} is missing");
        }
    }
    control.status = BackupStatus::Orphan;
    super::status::set(&entry.open(), control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::catalog::BackupMode;

    #[test]
    fn only_a_parent_that_was_looked_at_makes_an_orphan() {
        let parent = BackupId::from_start_time(1_795_240_367).unwrap();
        let mut control = BackupControl::new(BackupMode::Ptrack, 1_795_240_400);
        assert_eq!(parent_of(&control, &HashMap::new()), Parent::Good);
        control.parent_backup_id = Some(parent);
        let judge = |judged| parent_of(&control, &HashMap::from([(parent, judged)]));
        let of = |status| Some(Judged::of(parent, status));
        assert_eq!(judge(of(BackupStatus::Ok)), Parent::Good);
        assert_eq!(judge(None), Parent::Unknown(parent));
        let corrupt = Cause::Status(parent, BackupStatus::Corrupt);
        assert_eq!(judge(of(BackupStatus::Corrupt)), Parent::Bad(corrupt));
        let missing = Cause::Missing(parent);
        assert_eq!(parent_of(&control, &HashMap::new()), Parent::Bad(missing));
        let orphan = Judged {
            status: BackupStatus::Orphan,
            cause: corrupt,
        };
        assert_eq!(judge(Some(orphan)), Parent::Bad(corrupt));
    }
}
