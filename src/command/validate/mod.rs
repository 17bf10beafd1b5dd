//! `validate`: is everything that a restore needs there and intact?
//!
//! Without an id, every backup of one or all instances; with one, its chain. Each backup is checked
//! for itself ([`check`]); then what it means for others is drawn from it: a backup whose parent is
//! not valid is ORPHAN, and becomes OK again when the parent does.

mod check;
mod control;
mod extra;
mod wal;

pub use check::{CheckOptions, check_backup};
pub(super) use check::{Stores, is_control_file};

use super::Error;
use crate::catalog::lock::{LockOptions, lock_shared};
use crate::catalog::{BackupEntry, Catalog, Instance};
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
    if totals.invalid > 0 || totals.skipped > 0 {
        tracing::warn!("Some backups are not valid");
        return Err(Error::SomeInvalid {
            count: totals.invalid + totals.skipped,
        });
    }
    tracing::info!("All backups are valid");
    Ok(())
}

#[derive(Default)]
struct Totals {
    invalid: usize,
    skipped: usize,
}

/// Validates every backup of an instance, parents before children.
fn validate_instance(
    instance: &Instance,
    options: &CheckOptions,
    monitor: &dyn Monitor,
    totals: &mut Totals,
) -> Result<(), Error> {
    let mut entries = instance.backups()?;
    entries.sort_by_key(|entry| entry.id);
    let mut valid: HashMap<BackupId, BackupStatus> = HashMap::new();
    for entry in &entries {
        let Some(mut control) = readable_control(entry) else {
            totals.invalid += 1;
            continue;
        };
        let id = entry.id;
        if let Some(reason) = orphaned(&control, &valid) {
            totals.invalid += 1;
            orphan(entry, &mut control, &reason)?;
            valid.insert(id, control.status);
            continue;
        }
        let dir = entry.open();
        let lock = match lock_shared(dir.path(), id, &LockOptions::PATIENT) {
            Ok(lock) => lock,
            Err(error) => {
                tracing::warn!("Cannot lock backup {id} directory, skip validation: {error}");
                totals.skipped += 1;
                continue;
            }
        };
        if !check_backup(&dir, &mut control, options, monitor)? {
            totals.invalid += 1;
        }
        valid.insert(id, control.status);
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
    let entries = instance.backups()?;
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
        let Some(mut control) = readable_control(entry) else {
            return Err(Error::UnreadableControl { id: entry.id });
        };
        let dir = entry.open();
        let _lock = lock_shared(dir.path(), entry.id, &LockOptions::PATIENT)?;
        if check_backup(&dir, &mut control, options, monitor)? {
            continue;
        }
        for child in &chain[index + 1..] {
            if let Some(mut control_of_child) = readable_control(child) {
                let reason = format!("his parent {} has status: {}", entry.id, control.status);
                orphan(child, &mut control_of_child, &reason)?;
            }
        }
        if entry.id == target {
            return Err(Error::InvalidBackup {
                id: target,
                status: control.status,
            });
        }
        return Err(Error::InvalidBackup {
            id: target,
            status: BackupStatus::Orphan,
        });
    }
    tracing::info!("Backup {target} is valid.");
    Ok(())
}

/// The backup's control data, or a warning why there are none.
fn readable_control(entry: &BackupEntry) -> Option<BackupControl> {
    for warning in &entry.warnings {
        tracing::warn!("{warning}");
    }
    match &entry.control {
        Ok(control) => Some(control.clone()),
        Err(reason) => {
            tracing::warn!("{reason}");
            None
        }
    }
}

/// Why an incremental backup cannot be restored, if its parent is at fault.
fn orphaned(control: &BackupControl, valid: &HashMap<BackupId, BackupStatus>) -> Option<String> {
    let parent = control.parent_backup_id?;
    match valid.get(&parent) {
        None => Some(format!("his parent {parent} is missing")),
        Some(BackupStatus::Ok) => None,
        Some(status) => Some(format!("his parent {parent} has status: {status}")),
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
