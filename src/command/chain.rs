//! The members of a backup chain, with the original's words where it is broken.

use super::Error;
use crate::catalog::{BackupEntry, Chain};
use crate::types::BackupId;

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
