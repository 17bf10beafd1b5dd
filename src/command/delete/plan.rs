//! Which backups a deletion takes: those that were meant and all that grow on them.

use super::super::Error;
use crate::catalog::BackupEntry;
use crate::format::catalog::{BackupControl, BackupMode, BackupStatus};
use crate::types::BackupId;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Backups to delete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Newest first, the order of their deletion: an increment goes before what it grows on.
    pub backups: Vec<Planned>,
}

/// A backup to delete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Planned {
    /// Its id.
    pub id: BackupId,
    /// Its directory.
    pub dir: PathBuf,
    /// Its status.
    pub status: BackupStatus,
    /// What its record says of its size.
    pub bytes: u64,
}

impl Plan {
    /// The backups `wanted` with all that grow on them.
    ///
    /// # Errors
    /// Where that would take the ground from a merge that is not finished.
    pub fn new(entries: &[BackupEntry], wanted: &BTreeSet<BackupId>) -> Result<Plan, Error> {
        let doomed = with_descendants(entries, wanted);
        refuse_parts_of_merges(entries, &doomed)?;
        let mut backups: Vec<Planned> = entries
            .iter()
            .filter(|entry| doomed.contains(&entry.id))
            .map(Planned::of)
            .collect();
        backups.sort_by_key(|backup| std::cmp::Reverse(backup.id));
        Ok(Plan { backups })
    }

    /// Bytes that the records say will be free.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.backups
            .iter()
            .fold(0, |sum, backup| sum.saturating_add(backup.bytes))
    }

    /// Their ids.
    #[must_use]
    pub fn ids(&self) -> BTreeSet<BackupId> {
        self.backups.iter().map(|backup| backup.id).collect()
    }
}

impl Planned {
    fn of(entry: &BackupEntry) -> Planned {
        let size = |control: &BackupControl| {
            let bytes = |size: Option<i64>| size.and_then(|size| u64::try_from(size).ok());
            let data = bytes(control.data_bytes).unwrap_or(0);
            data.saturating_add(bytes(control.wal_bytes).unwrap_or(0))
        };
        Planned {
            id: entry.id,
            dir: entry.dir.clone(),
            status: entry.status(),
            bytes: entry.control.as_ref().map_or(0, size),
        }
    }
}

/// The parent of a backup, by its record.
pub(in crate::command) fn parent_of(entry: &BackupEntry) -> Option<BackupId> {
    entry.control.as_ref().ok()?.parent_backup_id
}

/// The backups `wanted` and all that grow on them.
pub(in crate::command) fn with_descendants(
    entries: &[BackupEntry],
    wanted: &BTreeSet<BackupId>,
) -> BTreeSet<BackupId> {
    let mut children: BTreeMap<BackupId, Vec<BackupId>> = BTreeMap::new();
    for entry in entries {
        if let Some(parent) = parent_of(entry) {
            children.entry(parent).or_default().push(entry.id);
        }
    }
    // The result of a merge lies in the directory of the FULL backup until that is renamed.
    let results: BTreeMap<BackupId, BackupId> = unfinished_merges(entries)
        .map(|(full, destination)| (full.id, destination))
        .collect();
    let mut doomed = BTreeSet::new();
    let mut pending: Vec<BackupId> = wanted.iter().copied().collect();
    while let Some(id) = pending.pop() {
        if doomed.insert(id) {
            pending.extend(children.get(&id).into_iter().flatten());
            pending.extend(results.get(&id));
        }
    }
    doomed
}

/// The FULL backups whose merge is not finished, and into what they are merged.
pub(in crate::command) fn unfinished_merges(
    entries: &[BackupEntry],
) -> impl Iterator<Item = (&BackupEntry, BackupId)> {
    entries.iter().filter_map(|entry| {
        let control = entry.control.as_ref().ok()?;
        let is_merging = matches!(control.status, BackupStatus::Merging | BackupStatus::Merged);
        if control.mode == BackupMode::Full && is_merging {
            Some((entry, control.merge_dest_id?))
        } else {
            None
        }
    })
}

/// The members of a merge that is not finished, without the FULL backup: what lies between it and
/// the destination, and what is left of them.
pub(in crate::command) fn merge_members(
    entries: &[BackupEntry],
    full: &BackupEntry,
    destination: BackupId,
) -> BTreeSet<BackupId> {
    let find = |id: BackupId| entries.iter().find(|entry| entry.id == id);
    let mut members = BTreeSet::from([destination]);
    let mut next = find(destination).and_then(parent_of);
    while let Some(id) = next.filter(|id| *id != full.id && members.insert(*id)) {
        next = find(id).and_then(parent_of);
    }
    let grown = with_descendants(entries, &BTreeSet::from([full.id]));
    let is_left = |entry: &&BackupEntry| {
        entry.id != full.id
            && entry.id < destination
            && grown.contains(&entry.id)
            && matches!(
                entry.status(),
                BackupStatus::Merging | BackupStatus::Deleting
            )
    };
    members.extend(entries.iter().filter(is_left).map(|entry| entry.id));
    members
}

/// Refuses to take members of a merge that is not finished, unless the FULL backup goes too: the
/// rest could not be finished, or would come back under the name that was just deleted.
fn refuse_parts_of_merges(
    entries: &[BackupEntry],
    doomed: &BTreeSet<BackupId>,
) -> Result<(), Error> {
    for (full, destination) in unfinished_merges(entries) {
        if doomed.contains(&full.id) {
            continue;
        }
        let members = merge_members(entries, full, destination);
        if let Some(id) = members.intersection(doomed).next() {
            return Err(Error::UnfinishedMerge {
                id: *id,
                full: full.id,
                destination,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_795_240_000;

    fn id(at: i64) -> BackupId {
        BackupId::from_start_time(START + at).unwrap()
    }

    fn entry(at: i64, parent: Option<i64>, status: BackupStatus) -> BackupEntry {
        let mode = if parent.is_some() {
            BackupMode::Ptrack
        } else {
            BackupMode::Full
        };
        let mut control = BackupControl::new(mode, START + at);
        control.parent_backup_id = parent.map(id);
        control.status = status;
        control.data_bytes = Some(1000);
        control.wal_bytes = Some(16);
        BackupEntry {
            id: id(at),
            dir: PathBuf::from(format!("/b/{}", id(at))),
            control: Ok(control),
            warnings: Vec::new(),
            unfinished_merge: None,
        }
    }

    fn planned(entries: &[BackupEntry], wanted: &[i64]) -> Result<Vec<i64>, String> {
        let wanted = wanted.iter().map(|at| id(*at)).collect();
        let plan = Plan::new(entries, &wanted).map_err(|error| error.to_string())?;
        let ids = plan.backups.iter();
        Ok(ids.map(|backup| backup.id.start_time() - START).collect())
    }

    #[test]
    fn all_that_grows_on_a_backup_goes_with_it_newest_first() {
        let ok = BackupStatus::Ok;
        let entries = [
            entry(60, Some(20), ok),
            entry(50, Some(40), BackupStatus::Error),
            entry(40, None, ok),
            entry(30, Some(20), ok),
            entry(20, Some(10), ok),
            entry(10, None, ok),
        ];
        assert_eq!(planned(&entries, &[10]).unwrap(), [60, 30, 20, 10]);
        assert_eq!(planned(&entries, &[20]).unwrap(), [60, 30, 20]);
        assert_eq!(planned(&entries, &[30, 40]).unwrap(), [50, 40, 30]);
        assert_eq!(planned(&entries, &[70]).unwrap(), [] as [i64; 0]);
        let plan = Plan::new(&entries, &BTreeSet::from([id(20)])).unwrap();
        assert_eq!(plan.bytes(), 3 * 1016);
    }

    #[test]
    fn parents_in_a_circle_end_the_search() {
        let ok = BackupStatus::Ok;
        let entries = [entry(20, Some(10), ok), entry(10, Some(20), ok)];
        assert_eq!(planned(&entries, &[20]).unwrap(), [20, 10]);
    }

    #[test]
    fn a_member_of_an_unfinished_merge_goes_only_with_the_full_backup() {
        for status in [BackupStatus::Merging, BackupStatus::Merged] {
            let mut full = entry(10, None, status);
            full.control.as_mut().unwrap().merge_dest_id = Some(id(30));
            let entries = [
                entry(50, Some(30), BackupStatus::Ok),
                entry(40, Some(10), BackupStatus::Ok),
                entry(30, Some(20), BackupStatus::Merging),
                entry(20, Some(10), BackupStatus::Deleting),
                full,
            ];
            for wanted in [20, 30] {
                let text = planned(&entries, &[wanted]).unwrap_err();
                assert!(text.contains("merge"), "{text}");
            }
            assert_eq!(planned(&entries, &[40]).unwrap(), [40]);
            assert_eq!(planned(&entries, &[50]).unwrap(), [50]);
            assert_eq!(planned(&entries, &[10]).unwrap(), [50, 40, 30, 20, 10]);
            // The destination's directory is gone: what grows on it grows on the result.
            let left = [entries[0].clone(), entries[4].clone()];
            assert_eq!(planned(&left, &[10]).unwrap(), [50, 10]);
        }
    }
}
