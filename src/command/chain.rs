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
