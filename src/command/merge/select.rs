//! Which backups are merged: from the id that was named to the FULL backup, the destination and
//! what lies between, as the original chooses them.

use super::super::Error;
use crate::catalog::{BackupEntry, Chain};
use crate::format::catalog::{BackupControl, BackupMode, BackupStatus};
use crate::types::BackupId;

/// The backups of a merge.
#[derive(Debug)]
pub(super) struct Selection {
    /// The members that are still there, the FULL backup first.
    pub(super) members: Vec<BackupEntry>,
    /// The backup that the result will be.
    pub(super) destination: BackupId,
    /// Whether the FULL backup is this result already, as after a run that was stopped at its very
    /// end.
    pub(super) is_complete: bool,
}

impl Selection {
    /// The FULL backup, whose directory becomes the result.
    pub(super) fn full(&self) -> &BackupEntry {
        self.members.first().expect("a merge has a FULL backup")
    }
}

fn refused<T>(text: String) -> Result<T, Error> {
    Err(Error::Refused(text))
}

/// Chooses the backups.
pub(super) fn select(entries: &[BackupEntry], id: BackupId) -> Result<Selection, Error> {
    let Some(target) = entries.iter().find(|entry| entry.id == id) else {
        // Its directory may be gone already.
        if let Some(full) = merged_into(entries, id) {
            return rerun(full, id);
        }
        if let Some(result) = result_on(entries, id) {
            tracing::warn!("Backup {id} was merged: it is part of backup {result}");
        }
        return refused(format!("Target backup {id} was not found"));
    };
    let control = match &target.control {
        Ok(control) => control,
        Err(reason) => {
            // So it is while the destination of a merge is being removed.
            if let Some(full) = merged_into(entries, id) {
                return rerun(full, id);
            }
            tracing::warn!("{reason}");
            return Err(Error::UnreadableControl { id });
        }
    };
    let selection = match control.mode {
        BackupMode::Full => from_full(entries, target, control)?,
        BackupMode::Ptrack => from_increment(entries, target, control)?,
    };
    check_statuses(&selection)?;
    Ok(selection)
}

fn rerun(full: &BackupEntry, id: BackupId) -> Result<Selection, Error> {
    tracing::warn!("Rerun unfinished merge for backup {id}");
    Ok(Selection {
        members: vec![full.clone()],
        destination: id,
        is_complete: false,
    })
}

/// The FULL backup that holds the merged data of `id`.
fn merged_into(entries: &[BackupEntry], id: BackupId) -> Option<&BackupEntry> {
    entries.iter().find(|entry| {
        entry.control.as_ref().is_ok_and(|control| {
            control.mode == BackupMode::Full
                && control.status == BackupStatus::Merged
                && control.merge_dest_id == Some(id)
        })
    })
}

fn from_full(
    entries: &[BackupEntry],
    target: &BackupEntry,
    control: &BackupControl,
) -> Result<Selection, Error> {
    let id = target.id;
    tracing::info!("Merge target backup {id} is full backup");
    let destination = match control.status {
        BackupStatus::Ok | BackupStatus::Done => {
            if control.merge_time.is_some() && !has_child(entries, id) {
                return Ok(Selection {
                    members: vec![target.clone()],
                    destination: id,
                    is_complete: true,
                });
            }
            closest_child(entries, id)?
        }
        BackupStatus::Merging => {
            let Some(destination) = control.merge_dest_id else {
                return refused("Failed to determine merge destination backup".to_owned());
            };
            if !entries.iter().any(|entry| entry.id == destination) {
                return refused(format!(
                    "Full backup {id} has unfinished merge with missing backup {destination}"
                ));
            }
            destination
        }
        BackupStatus::Merged => {
            let Some(destination) = control.merge_dest_id else {
                return refused("Failed to determine merge destination backup".to_owned());
            };
            if !entries.iter().any(|entry| entry.id == destination) {
                tracing::warn!(
                    "Full backup {id} has unfinished merge with missing backup {destination}"
                );
            }
            return merged_members(entries, target, destination);
        }
        status => return refused(format!("Backup {id} has status: {status}")),
    };
    let members = super::super::chain::members(entries, destination)?;
    Ok(Selection {
        members,
        destination,
        is_complete: false,
    })
}

/// The members of a merge whose data are merged; what is left of the increments is removed.
fn merged_members(
    entries: &[BackupEntry],
    full: &BackupEntry,
    destination: BackupId,
) -> Result<Selection, Error> {
    let mut members = vec![full.clone()];
    // A link of the chain may be gone: then what is above it goes by itself.
    if let Ok(chain) = Chain::for_backup(entries, destination)
        && chain.full().entry.id == full.id
    {
        let rest = chain.members().iter().skip(1);
        members.extend(rest.map(|member| member.entry.clone()));
    } else {
        let rest = entries.iter().filter(|entry| {
            entry.id == destination && entry.id != full.id && entry.control.is_ok()
        });
        members.extend(rest.cloned());
    }
    Ok(Selection {
        members,
        destination,
        is_complete: false,
    })
}

/// Whether a backup grows on this one that is not being removed.
fn has_child(entries: &[BackupEntry], id: BackupId) -> bool {
    entries.iter().any(|entry| {
        entry.control.as_ref().is_ok_and(|control| {
            let is_gone = matches!(
                control.status,
                BackupStatus::Deleting | BackupStatus::Deleted
            );
            control.parent_backup_id == Some(id) && !is_gone
        })
    })
}

/// The result of a merge onto the FULL backup `id`, which keeps the name of its recovery point.
fn result_on(entries: &[BackupEntry], id: BackupId) -> Option<BackupId> {
    let name = format!("backup {id}");
    let result = entries.iter().find(|entry| {
        entry
            .control
            .as_ref()
            .is_ok_and(|control| control.merge_time.is_some() && control.recovery_name == name)
    });
    result.map(|entry| entry.id)
}

fn closest_child(entries: &[BackupEntry], id: BackupId) -> Result<BackupId, Error> {
    tracing::debug!("Looking for closest incremental backup to merge with");
    let is_valid_child = |entry: &&BackupEntry| {
        entry.control.as_ref().is_ok_and(|control| {
            control.parent_backup_id == Some(id)
                && matches!(control.status, BackupStatus::Ok | BackupStatus::Done)
        })
    };
    let mut children = entries.iter().filter(is_valid_child);
    match (children.next(), children.next()) {
        (Some(child), None) => Ok(child.id),
        (None, _) => refused(format!(
            "Failed to find merge candidate, backup {id} has no valid children"
        )),
        (Some(_), Some(_)) => refused(
            "Merge target is full backup and has multiple direct children, you must specify child \
             backup id you want to merge with"
                .to_owned(),
        ),
    }
}

fn from_increment(
    entries: &[BackupEntry],
    target: &BackupEntry,
    control: &BackupControl,
) -> Result<Selection, Error> {
    let id = target.id;
    match control.status {
        BackupStatus::Ok | BackupStatus::Done => {}
        BackupStatus::Merging | BackupStatus::Merged | BackupStatus::Deleting => {
            tracing::warn!("Rerun unfinished merge for backup {id}");
        }
        status => return refused(format!("Backup {id} has status: {status}")),
    }
    let Ok(members) = super::super::chain::members(entries, id) else {
        let Some(full) = merged_into(entries, id) else {
            return refused(
                "Incremental chain is broken, merge is impossible to finish".to_owned(),
            );
        };
        tracing::warn!("Incremental chain is broken, try to recover unfinished merge");
        return merged_members(entries, full, id);
    };
    let full = members.first().expect("a chain has a FULL backup");
    let other = full
        .control
        .as_ref()
        .ok()
        .and_then(|full| full.merge_dest_id);
    if let Some(other) = other.filter(|other| *other != id) {
        return refused(format!(
            "Full backup {} has unfinished merge with backup {other}",
            full.id
        ));
    }
    Ok(Selection {
        members,
        destination: id,
        is_complete: false,
    })
}

fn check_statuses(selection: &Selection) -> Result<(), Error> {
    let is_merged = selection.full().status() == BackupStatus::Merged;
    for entry in &selection.members {
        match entry.status() {
            BackupStatus::Ok
            | BackupStatus::Done
            | BackupStatus::Merging
            | BackupStatus::Merged => {}
            // Its data are merged. Otherwise it was being deleted, and some may be missing.
            BackupStatus::Deleting if is_merged => {}
            status => return refused(format!("Backup {} has status: {status}", entry.id)),
        }
    }
    Ok(())
}

/// Backups outside the merge that grow on a member that it will remove: they lose their parent.
pub(super) fn orphans(entries: &[BackupEntry], selection: &Selection) -> Vec<BackupId> {
    let is_member = |id| selection.members.iter().any(|member| member.id == id);
    let parent = |entry: &BackupEntry| entry.control.as_ref().ok()?.parent_backup_id;
    let loses_parent = |entry: &&BackupEntry| {
        parent(entry).is_some_and(|parent| {
            is_member(parent) && parent != selection.destination && !is_member(entry.id)
        })
    };
    entries
        .iter()
        .filter(loses_parent)
        .map(|entry| entry.id)
        .collect()
}
