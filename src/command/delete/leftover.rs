//! What a deletion that was interrupted left behind: the next one ends it.

use super::plan::{merge_members, unfinished_merges, with_descendants};
use crate::catalog::BackupEntry;
use crate::format::catalog::BackupStatus;
use crate::types::BackupId;
use std::collections::BTreeSet;

/// Backups whose deletion was begun, newest first, and warnings about those that cannot simply be
/// ended. What a merge was removing is left to the merge.
pub(super) fn half_deleted(entries: &[BackupEntry]) -> (Vec<&BackupEntry>, Vec<String>) {
    let mut of_merges = BTreeSet::new();
    for (full, destination) in unfinished_merges(entries) {
        of_merges.extend(merge_members(entries, full, destination));
    }
    let is_begun = |entry: &&BackupEntry| {
        entry.status() == BackupStatus::Deleting && !of_merges.contains(&entry.id)
    };
    let begun: BTreeSet<BackupId> = entries.iter().filter(is_begun).map(|e| e.id).collect();
    let mut found = Vec::new();
    let mut warnings = Vec::new();
    for entry in entries.iter().filter(is_begun) {
        let grown = with_descendants(entries, &BTreeSet::from([entry.id]));
        // The original removes a FULL backup before what grows on it.
        match grown.iter().find(|id| !begun.contains(id)) {
            Some(child) => warnings.push(format!(
                "Backup {} is half deleted, so backup {child}, which grows on it, cannot be \
                 restored: delete -i {} removes both",
                entry.id, entry.id
            )),
            None => found.push(entry),
        }
    }
    found.sort_by_key(|entry| std::cmp::Reverse(entry.id));
    (found, warnings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::catalog::{BackupControl, BackupMode};

    const START: i64 = 1_795_240_000;

    fn entry(at: i64, parent: Option<i64>, status: BackupStatus) -> BackupEntry {
        let id = |at| BackupId::from_start_time(START + at);
        let mut control = BackupControl::new(BackupMode::Full, START + at);
        if parent.is_some() {
            control.mode = BackupMode::Ptrack;
        }
        control.parent_backup_id = parent.and_then(id);
        control.status = status;
        BackupEntry {
            id: id(at).unwrap(),
            dir: std::path::PathBuf::new(),
            control: Ok(control),
            warnings: Vec::new(),
            unfinished_merge: None,
        }
    }

    fn times(entries: &[BackupEntry]) -> (Vec<i64>, usize) {
        let (found, warnings) = half_deleted(entries);
        let times = found.iter().map(|entry| entry.id.start_time() - START);
        (times.collect(), warnings.len())
    }

    #[test]
    fn what_was_begun_is_ended_newest_first() {
        use BackupStatus::{Deleting, Ok};
        let entries = [
            entry(40, Some(30), Deleting),
            entry(30, Some(10), Deleting),
            entry(20, None, Ok),
            entry(10, None, Ok),
        ];
        assert_eq!(times(&entries), (vec![40, 30], 0));
    }

    #[test]
    fn what_others_still_grow_on_and_what_a_merge_removes_is_left_alone() {
        use BackupStatus::{Deleting, Merged, Ok};
        let mut full = entry(10, None, Merged);
        full.control.as_mut().unwrap().merge_dest_id = BackupId::from_start_time(START + 30);
        let entries = [
            entry(60, Some(50), Ok),
            entry(50, None, Deleting),
            entry(30, Some(20), Deleting),
            entry(20, Some(10), Deleting),
            full,
        ];
        assert_eq!(times(&entries), (vec![], 1));
    }
}
