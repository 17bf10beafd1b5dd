//! `validate`: is everything that a restore needs there and intact?
//!
//! Without an id, every backup of one or all instances; with one, its chain. Each backup is checked
//! for itself (`check`); then what it means for others is drawn from it: a backup whose parent is
//! not valid is ORPHAN, and becomes OK again when the parent does.

mod check;
mod control;
mod extra;
mod wal;

use check::check_unfinished;
pub use check::{CheckOptions, check_backup};
pub(super) use check::{PROGRAM_VERSION, Stores, check_version, is_control_file, version_number};

use super::Error;
use crate::catalog::lock::{LockError, LockOptions, lock_shared};
use crate::catalog::{BackupDir, BackupEntry, Catalog, Instance};
use crate::format::catalog::{BackupControl, BackupStatus};
use crate::monitor::Monitor;
use crate::types::BackupId;
use std::collections::HashMap;
use std::path::PathBuf;

/// What `validate` is asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// The catalog.
    pub catalog: PathBuf,
    /// One instance; all by default.
    pub instance: Option<String>,
    /// One backup and its parents; all by default.
    pub backup_id: Option<BackupId>,
    /// How a backup is checked.
    pub check: CheckOptions,
}

/// Validates.
///
/// # Errors
/// When a backup is not valid, or the catalog cannot be read.
pub fn run(options: &Options, monitor: &dyn Monitor) -> Result<(), Error> {
    let catalog = Catalog::open(&options.catalog)?;
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
            known.insert(id, Some(status));
            continue;
        }
        let Some(mut control) = read_control(entry) else {
            totals.invalid += 1;
            continue;
        };
        match parent_of(&control, &known) {
            Parent::Good => match check_backup(&dir, &mut control, options, monitor) {
                Ok(true) => {}
                Ok(false) => totals.invalid += 1,
                Err(Error::NotSupportedYet { what, instead }) => {
                    tracing::warn!("{what} cannot be validated yet: {instead}");
                    totals.unsupported += 1;
                    known.insert(id, None);
                    continue;
                }
                Err(error) => return Err(error),
            },
            Parent::Bad(reason) => {
                totals.invalid += 1;
                orphan(entry, &mut control, &reason)?;
            }
            Parent::Unknown(parent) => {
                tracing::warn!("Backup {id} is skipped, because its parent {parent} was");
                totals.unsupported += 1;
                known.insert(id, None);
                continue;
            }
        }
        known.insert(id, Some(control.status));
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
        for child in &chain[index + 1..] {
            if let Some(mut control_of_child) = read_control(child) {
                let reason = format!("his parent {} has status: {status}", entry.id);
                orphan(child, &mut control_of_child, &reason)?;
            }
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

/// What the backup that another one grows on means for that one.
#[derive(PartialEq, Eq, Debug)]
enum Parent {
    /// It has none, or a valid one.
    Good,
    /// It cannot be restored, for this reason.
    Bad(String),
    /// Its parent could not be looked at, so nothing is known.
    Unknown(BackupId),
}

/// Judges the parent by the status that was found; `None` is a backup that was not looked at.
fn parent_of(control: &BackupControl, known: &HashMap<BackupId, Option<BackupStatus>>) -> Parent {
    let Some(parent) = control.parent_backup_id else {
        return Parent::Good;
    };
    match known.get(&parent) {
        None => Parent::Bad(format!("his parent {parent} is missing")),
        Some(None) => Parent::Unknown(parent),
        Some(Some(BackupStatus::Ok)) => Parent::Good,
        Some(Some(status)) => Parent::Bad(format!("his parent {parent} has status: {status}")),
    }
}

/// Marks a backup ORPHAN that was thought to be good.
fn orphan(entry: &BackupEntry, control: &mut BackupControl, reason: &str) -> Result<(), Error> {
    let id = entry.id;
    if matches!(control.status, BackupStatus::Ok | BackupStatus::Done) {
        tracing::warn!("Backup {id} is orphaned because {reason}");
        control.status = BackupStatus::Orphan;
        super::status::set(&entry.open(), control)?;
    } else {
        tracing::warn!("Backup {id} cannot be restored: {reason}");
    }
    Ok(())
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
        let judge = |status| parent_of(&control, &HashMap::from([(parent, status)]));
        assert_eq!(judge(Some(BackupStatus::Ok)), Parent::Good);
        assert_eq!(judge(None), Parent::Unknown(parent));
        assert!(matches!(judge(Some(BackupStatus::Corrupt)), Parent::Bad(_)));
        let missing = parent_of(&control, &HashMap::new());
        assert!(matches!(missing, Parent::Bad(reason) if reason.ends_with("is missing")));
    }
}
