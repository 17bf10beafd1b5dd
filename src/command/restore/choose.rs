//! Which backup is restored: the one named, or the newest that satisfies the recovery target.

use super::super::Error;
use super::super::recovery_target::RecoveryTarget;
use super::super::validate::holds_restore_point;
use crate::catalog::{BackupEntry, Instance};
use crate::format::catalog::{BackupControl, BackupStatus};
use crate::types::BackupId;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

/// Which backup is wanted.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Wanted<'a> {
    /// This one; otherwise the newest that fits the target.
    pub(in super::super) backup_id: Option<BackupId>,
    /// How far a server is to recover.
    pub(in super::super) target: &'a RecoveryTarget,
    /// Whether one that was found damaged may be named: it is validated again, or damage is no
    /// matter.
    pub(in super::super) is_tolerant: bool,
    /// Where WAL is.
    pub(in super::super) archives: &'a [PathBuf],
    /// Ends reading once it is set.
    pub(in super::super) cancel: &'a AtomicBool,
}

/// The chain to restore, the FULL backup first.
pub(in super::super) fn chain(
    instance: &Instance,
    wanted: &Wanted<'_>,
) -> Result<Vec<BackupEntry>, Error> {
    let mut entries = super::super::chain::with_unfinished_merges(instance.backups()?);
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.id));
    for warning in entries.iter().flat_map(|entry| &entry.warnings) {
        tracing::warn!("{warning}");
    }
    let entry = match wanted.backup_id {
        Some(id) => {
            let entry = entries.iter().find(|entry| entry.id == id);
            let entry = entry.ok_or(Error::BackupNotFound { id })?;
            check_named(entry, wanted, is_foreign_name(&entries, wanted.target))?;
            entry
        }
        None if is_foreign_name(&entries, wanted.target) => newest_before_name(&entries, wanted)?,
        None => newest(&entries, wanted.target)?,
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

/// Whether the target is a restore point that no backup is named after: one of the user, to be
/// found in WAL.
fn is_foreign_name(entries: &[BackupEntry], target: &RecoveryTarget) -> bool {
    let is_own = |entry: &BackupEntry| {
        let control = entry.control.as_ref();
        control.is_ok_and(|control| target.is_end_of(control))
    };
    target.name.is_some() && !entries.iter().any(is_own)
}

/// The newest backup with the restore point behind it. Each stretch of WAL is read once: behind a
/// newer backup it was not.
fn newest_before_name<'a>(
    entries: &'a [BackupEntry],
    wanted: &Wanted<'_>,
) -> Result<&'a BackupEntry, Error> {
    let mut until = None;
    for entry in entries.iter().filter(|entry| is_valid(entry)) {
        let control = control(entry)?;
        let (target, archives) = (wanted.target, wanted.archives);
        let dir = entry.open();
        if holds_restore_point(&dir, &control, target, archives, until, wanted.cancel)? {
            return Ok(entry);
        }
        until = Some(control.stop_lsn);
    }
    if until.is_none() {
        return Err(Error::NoBackupForTarget);
    }
    Err(Error::NotEnoughWal {
        target: wanted.target.words(),
        archive: wanted.archives.first().cloned(),
    })
}

/// Whether a backup is one to restore; says why where it is not.
fn is_valid(entry: &BackupEntry) -> bool {
    match &entry.control {
        Ok(control) if matches!(control.status, BackupStatus::Ok | BackupStatus::Done) => true,
        Ok(control) => {
            tracing::warn!(
                "Skipping backup {}, because it has non-valid status: {}",
                entry.id,
                control.status
            );
            false
        }
        Err(reason) => {
            tracing::warn!("{reason}");
            false
        }
    }
}

fn check_named(entry: &BackupEntry, wanted: &Wanted<'_>, is_foreign: bool) -> Result<(), Error> {
    let control = control(entry)?;
    let id = entry.id;
    match control.status {
        BackupStatus::Ok | BackupStatus::Done => {}
        BackupStatus::Orphan | BackupStatus::Corrupt | BackupStatus::Running
            if wanted.is_tolerant =>
        {
            tracing::warn!("Backup {id} has status: {}", control.status);
        }
        status => return Err(Error::NotRestorable { id, status }),
    }
    if !is_foreign && !wanted.target.is_satisfied_by(&control) {
        return Err(Error::TargetNotSatisfied { id });
    }
    Ok(())
}

fn newest<'a>(
    entries: &'a [BackupEntry],
    target: &RecoveryTarget,
) -> Result<&'a BackupEntry, Error> {
    for entry in entries.iter().filter(|entry| is_valid(entry)) {
        if target.is_satisfied_by(&control(entry)?) {
            return Ok(entry);
        }
    }
    Err(Error::NoBackupForTarget)
}
