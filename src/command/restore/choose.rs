//! Which backup is restored: the one named, or the newest that satisfies the recovery target.

use super::super::Error;
use super::{Options, RecoveryTarget};
use crate::catalog::{BackupEntry, Instance};
use crate::format::catalog::{BackupControl, BackupStatus};

/// The chain to restore, the FULL backup first.
pub(super) fn chain(instance: &Instance, options: &Options) -> Result<Vec<BackupEntry>, Error> {
    let mut entries = super::super::chain::with_unfinished_merges(instance.backups()?);
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.id));
    for warning in entries.iter().flat_map(|entry| &entry.warnings) {
        tracing::warn!("{warning}");
    }
    let entry = match options.backup_id {
        Some(id) => {
            let entry = entries.iter().find(|entry| entry.id == id);
            let entry = entry.ok_or(Error::BackupNotFound { id })?;
            check_named(entry, options)?;
            entry
        }
        None => newest(&entries, &options.target)?,
    };
    super::super::chain::members(&entries, entry.id)
}

/// The control data, or an error that says why there are none.
pub(super) fn control(entry: &BackupEntry) -> Result<BackupControl, Error> {
    entry.control.clone().map_err(|reason| {
        tracing::warn!("{reason}");
        Error::UnreadableControl { id: entry.id }
    })
}

fn check_named(entry: &BackupEntry, options: &Options) -> Result<(), Error> {
    let control = control(entry)?;
    let id = entry.id;
    match control.status {
        BackupStatus::Ok | BackupStatus::Done => {}
        BackupStatus::Orphan | BackupStatus::Corrupt | BackupStatus::Running
            if options.validate || options.force =>
        {
            tracing::warn!("Backup {id} has status: {}", control.status);
        }
        status => return Err(Error::NotRestorable { id, status }),
    }
    if !options.target.is_satisfied_by(&control) {
        return Err(Error::TargetNotSatisfied { id });
    }
    Ok(())
}

fn newest<'a>(
    entries: &'a [BackupEntry],
    target: &RecoveryTarget,
) -> Result<&'a BackupEntry, Error> {
    for entry in entries {
        match &entry.control {
            Ok(control) if !matches!(control.status, BackupStatus::Ok | BackupStatus::Done) => {
                tracing::warn!(
                    "Skipping backup {}, because it has non-valid status: {}",
                    entry.id,
                    control.status
                );
            }
            Ok(control) if target.is_satisfied_by(control) => return Ok(entry),
            Ok(_) => {}
            Err(reason) => tracing::warn!("{reason}"),
        }
    }
    Err(Error::NoBackupForTarget)
}
