//! The members of a backup chain, with the original's words where it is broken.

use super::Error;
use crate::catalog::{BackupEntry, Chain};
use crate::types::BackupId;
use std::collections::HashMap;

/// The backup and all it grows on, the FULL backup first.
///
/// # Errors
/// When a parent is missing or its control data cannot be read.
pub(super) fn members(entries: &[BackupEntry], id: BackupId) -> Result<Vec<BackupEntry>, Error> {
    let chain = Chain::for_backup(entries, id)?;
    Ok(chain
        .members()
        .iter()
        .map(|member| member.entry.clone())
        .collect())
}

/// The backups with the results of merges that were not finished in the place of their members.
///
/// From its commit on such a merge has a complete result, which can be restored as if the merge had
/// been finished; its members, but for the one it is named after, are no backups any more.
pub(super) fn with_unfinished_merges(entries: Vec<BackupEntry>) -> Vec<BackupEntry> {
    let results: Vec<(BackupId, BackupEntry)> = entries
        .iter()
        .filter_map(|entry| Some((entry.id, super::merge::unfinished_result(entry)?)))
        .collect();
    let mut entries = entries;
    for (full, result) in results {
        entries.retain(|entry| entry.id != full && entry.id != result.id);
        entries.push(result);
    }
    entries
}

/// The members of merges that were not finished but have a complete result, and which backup that
/// is: they are no backups any more, and what is left of them says nothing.
pub(super) fn merged_members(entries: &[BackupEntry]) -> HashMap<BackupId, BackupId> {
    let mut merged = HashMap::new();
    for entry in entries {
        let Some(result) = super::merge::unfinished_result(entry) else {
            continue;
        };
        if entry.id != result.id {
            merged.insert(entry.id, result.id);
        }
        let parent = |id: BackupId| {
            let found = entries.iter().find(|entry| entry.id == id)?;
            found.control.as_ref().ok()?.parent_backup_id
        };
        let mut next = parent(result.id);
        while let Some(id) = next.filter(|id| *id != entry.id && !merged.contains_key(id)) {
            merged.insert(id, result.id);
            next = parent(id);
        }
    }
    merged
}
