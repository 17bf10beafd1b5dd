//! Tests of the purge of WAL, most of them against a slow model: who needs this segment?

use super::*;
use std::collections::BTreeMap;

const SEGMENT: u64 = 16 << 20;

fn id(number: u64) -> BackupId {
    let start_time = 1_795_240_000 + i64::try_from(number).unwrap();
    BackupId::from_start_time(start_time).unwrap()
}

/// A good backup with its own WAL, from the middle of one segment to the middle of another.
fn backup(number: u64, tli: u32, start: u64, stop: u64) -> WalBackup {
    WalBackup {
        id: id(number),
        timeline: TimelineId(tli),
        start_lsn: Lsn(start * SEGMENT + 0x28),
        stop_lsn: Lsn(stop * SEGMENT + 0x1000),
        stream: true,
        is_good: true,
        is_pinned: false,
    }
}

fn file(segno: u64) -> WalFile {
    WalFile {
        segno,
        name: segno.to_string(),
        kind: WalFileKind::Segment,
        size_bytes: SEGMENT,
    }
}

fn timeline(segments: RangeInclusive<u64>, history: &[(u32, u64)]) -> TimelineFiles {
    let known = history.iter().map(|(tli, segno)| {
        let switchpoint = Lsn(segno * SEGMENT + 0x2000);
        (TimelineId(*tli), switchpoint)
    });
    let known: Vec<_> = known.collect();
    TimelineFiles {
        files: segments.map(file).collect(),
        history: if known.is_empty() {
            TimelineHistory::Absent
        } else {
            TimelineHistory::Known(known)
        },
    }
}

fn archive(timelines: Vec<(u32, TimelineFiles)>) -> WalFiles {
    let timelines = timelines.into_iter();
    WalFiles {
        segment_bytes: Some(SEGMENT),
        timelines: timelines
            .map(|(tli, found)| (TimelineId(tli), found))
            .collect(),
    }
}

/// What is removed of each timeline.
fn removed(archive: &WalFiles, backups: &[WalBackup], depth: u32) -> BTreeMap<u32, Vec<u64>> {
    let plan = plan_wal_purge(&WalNeeds {
        archive,
        segment_bytes: SEGMENT,
        backups,
        depth,
    });
    let plan = plan.into_iter();
    let numbers = |purge: &TimelinePurge| purge.remove.iter().map(|file| file.segno).collect();
    plan.map(|purge| (purge.tli.0, numbers(&purge))).collect()
}

fn range(segments: RangeInclusive<u64>) -> Vec<u64> {
    segments.collect()
}

#[test]
fn what_is_older_than_the_oldest_backup_goes_whatever_its_status() {
    let one = archive(vec![(1, timeline(3..=9, &[]))]);
    let mut backups = [backup(2, 1, 7, 8), backup(1, 1, 5, 5)];
    assert_eq!(removed(&one, &backups, 0)[&1], [3, 4]);
    backups[1].is_good = false;
    assert_eq!(removed(&one, &backups, 0)[&1], [3, 4]);
    assert_eq!(removed(&one, &backups[..1], 0)[&1], [3, 4, 5, 6]);
    assert_eq!(removed(&one, &[], 0)[&1], range(3..=9));
    assert!(removed(&one, &[backup(1, 1, 2, 3)], 0)[&1].is_empty());
}

#[test]
fn a_depth_counts_good_backups_that_are_not_pinned() {
    let one = archive(vec![(1, timeline(1..=12, &[]))]);
    let mut backups = vec![
        backup(4, 1, 10, 10),
        backup(3, 1, 8, 8),
        backup(2, 1, 5, 5),
        backup(1, 1, 2, 3),
    ];
    assert_eq!(removed(&one, &backups, 2)[&1], range(1..=7));
    backups[1].is_good = false;
    assert_eq!(removed(&one, &backups, 2)[&1], range(1..=4));
    backups[2].is_pinned = true;
    assert_eq!(removed(&one, &backups, 2)[&1], [1]);
    // Too few: as without a depth.
    assert_eq!(removed(&one, &backups, 9)[&1], [1]);
}

#[test]
fn what_an_archive_backup_needs_to_become_consistent_stays() {
    let one = archive(vec![(1, timeline(1..=12, &[]))]);
    let mut backups = [backup(2, 1, 10, 10), backup(1, 1, 3, 5)];
    assert_eq!(removed(&one, &backups, 1)[&1], range(1..=9));
    backups[1].stream = false;
    assert_eq!(removed(&one, &backups, 1)[&1], [1, 2, 7, 8, 9]);
    // It failed: nothing makes it consistent.
    backups[1].stop_lsn = Lsn(0);
    assert_eq!(removed(&one, &backups, 1)[&1], range(1..=9));
}

/// The example of the original: timeline 2 left 1 in segment 4, 3 left 2 in segment 6.
fn branches() -> WalFiles {
    archive(vec![
        (1, timeline(1..=12, &[])),
        (2, timeline(4..=8, &[(1, 4)])),
        (3, timeline(6..=9, &[(1, 4), (2, 6)])),
        (4, timeline(5..=7, &[(1, 1), (2, 1)])),
    ])
}

#[test]
fn a_branch_that_a_backup_leads_to_stays_with_the_way_there() {
    let backups = [backup(3, 1, 10, 10), backup(2, 1, 8, 8), backup(1, 1, 2, 2)];
    let plain = removed(&branches(), &backups, 0);
    assert_eq!(plain[&1], [1]);
    assert_eq!((plain[&2].len(), plain[&3].len()), (0, 0));
    assert_eq!(plain[&4], range(5..=7), "no backup is that old");
    let deep = removed(&branches(), &backups, 2);
    assert_eq!(deep[&1], [1, 5, 6, 7], "the first backup and the way to 2");
    assert_eq!((deep[&2].len(), deep[&3].len()), (0, 0));
    assert_eq!(deep[&4], range(5..=7));
}

#[test]
fn a_branch_without_a_history_stays_while_a_backup_may_lead_to_it() {
    let mut found = branches();
    let unknown = found.timelines.get_mut(&TimelineId(2)).unwrap();
    unknown.history = TimelineHistory::Unreadable;
    let backups = [backup(3, 1, 10, 10), backup(2, 1, 8, 8)];
    let plain = removed(&found, &backups, 0);
    assert_eq!((plain[&1].len(), plain[&2].len()), (7, 0));
    // What leads to it is not known either, so the depth does not count.
    assert_eq!(removed(&found, &backups, 1)[&1], range(1..=7));
    assert_eq!(removed(&branches(), &backups, 1)[&1], range(1..=9));
    assert_eq!(removed(&found, &[], 0)[&2], range(4..=8));
}

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % bound
    }

    /// Timelines that branch off each other, and backups on them.
    fn world(&mut self) -> (WalFiles, Vec<WalBackup>) {
        let mut timelines: Vec<(u32, TimelineFiles)> = Vec::new();
        let mut paths: Vec<Vec<(u32, u64)>> = Vec::new();
        for tli in 1..=1 + u32::try_from(self.below(4)).unwrap() {
            let mut path = Vec::new();
            let mut first = 1 + self.below(4);
            if tli > 1 {
                let parent = usize::try_from(self.below(u64::from(tli) - 1)).unwrap();
                let least = paths[parent].last().map_or(1, |(_, segno)| *segno);
                first = least + self.below(8);
                path = paths[parent].clone();
                path.push((u32::try_from(parent).unwrap() + 1, first));
            }
            let mut found = timeline(first..=first + self.below(12), &path);
            let unknown = self.below(12);
            if unknown == 0 {
                found.history = TimelineHistory::Unreadable;
            }
            // Segments are lost, and now and then there is a history only.
            let lost = if self.below(6) == 0 { 0 } else { 9 };
            found.files.retain(|_| lost != 0 && self.below(lost) > 0);
            timelines.push((tli, found));
            paths.push(path);
        }
        let mut backups = Vec::new();
        for number in 0..self.below(9) {
            let tli = 1 + u32::try_from(self.below(timelines.len() as u64)).unwrap();
            let path = &paths[tli as usize - 1];
            let start = path.last().map_or(1, |(_, segno)| *segno) + self.below(12);
            let mut new = backup(number, tli, start, start + self.below(3));
            new.stream = self.below(4) > 0;
            new.is_good = self.below(4) > 0;
            new.is_pinned = self.below(5) == 0;
            if !new.is_good && self.below(2) == 0 {
                new.stop_lsn = Lsn(0);
            }
            backups.push(new);
        }
        (archive(timelines), backups)
    }
}

/// Asks of one segment who needs it, of everybody in turn.
struct Model<'a> {
    archive: &'a WalFiles,
    backups: &'a [WalBackup],
    depth: usize,
}

impl Model<'_> {
    /// From the root to the timeline itself, each with where it was left; unknown: no path.
    fn path(&self, tli: u32) -> Option<Vec<(u32, u64)>> {
        let mut path = match &self.archive.timelines[&TimelineId(tli)].history {
            TimelineHistory::Known(known) => known.iter().map(|(t, l)| (t.0, l.0)).collect(),
            _ if tli == 1 => Vec::new(),
            _ => return None,
        };
        path.push((tli, u64::MAX));
        Some(path)
    }

    fn good_on(&self, tli: u32) -> Vec<WalBackup> {
        let mut good: Vec<WalBackup> = self.backups.to_vec();
        good.retain(|backup| backup.timeline.0 == tli && backup.is_good);
        good
    }

    /// The backups that keep the WAL up to the end of a timeline, by the depth.
    fn deep(&self, tli: u32) -> Option<Vec<WalBackup>> {
        let mut counted = self.good_on(tli);
        counted.retain(|backup| !backup.is_pinned);
        counted.sort_by_key(|backup| (backup.start_lsn, backup.id));
        let surplus = counted.len().checked_sub(self.depth)?;
        (self.depth > 0).then(|| counted.split_off(surplus))
    }

    /// Whether recovery of the backup to the end of the timeline of a path reads the segment.
    fn reads(path: &[(u32, u64)], backup: &WalBackup, tli: u32, segno: u64) -> bool {
        let mut on_path = false;
        for (id, left) in path {
            let begins = *id == backup.timeline.0;
            on_path |= begins;
            let behind = !begins || segno >= backup.start_lsn.0 / SEGMENT;
            let before = *left == u64::MAX || segno <= left / SEGMENT;
            if *id == tli && on_path {
                return behind && before;
            }
        }
        false
    }

    fn unknown(&self, tli: u32) -> bool {
        self.path(tli).is_none() && self.backups.iter().any(|b| b.is_good && b.timeline.0 < tli)
    }

    fn is_needed(&self, tli: u32, segno: u64) -> bool {
        let timelines = || self.archive.timelines.keys().map(|tli| tli.0);
        let is_blind = timelines().any(|u| u > tli && self.unknown(u) && self.deep(u).is_none());
        for end in timelines() {
            let deep = self.deep(end).filter(|_| end != tli || !is_blind);
            if let Some(deep) = deep {
                // Each of these to the end of its own timeline, and no other.
                let path = [(end, u64::MAX)];
                if deep.iter().any(|b| Self::reads(&path, b, tli, segno)) {
                    return true;
                }
                continue;
            }
            if end == tli && self.unknown(end) {
                return true;
            }
            let path = self.path(end).unwrap_or_else(|| vec![(end, u64::MAX)]);
            let mut closest: Option<WalBackup> = None;
            for (id, left) in &path[..path.len() - 1] {
                let mut good = self.good_on(*id);
                good.retain(|b| b.stop_lsn.0 <= *left);
                good.sort_by_key(|backup| (backup.stop_lsn, backup.id));
                closest = good.last().copied().or(closest);
            }
            if let Some(closest) = closest {
                if end == tli || Self::reads(&path, &closest, tli, segno) {
                    return true;
                }
            } else if end == tli {
                let mut own = self.backups.iter().filter(|b| b.timeline.0 == end);
                if own.any(|b| segno >= b.start_lsn.0 / SEGMENT) {
                    return true;
                }
            }
        }
        self.backups.iter().any(|b| {
            let (start, stop) = (b.start_lsn.0 / SEGMENT, b.stop_lsn.0 / SEGMENT);
            b.timeline.0 == tli && !b.stream && (start..=stop + 1).contains(&segno) && start <= stop
        })
    }
}

#[test]
fn ten_thousand_archives_lose_what_nobody_needs_and_nothing_else() {
    let (mut gone, mut kept) = (0, 0);
    for seed in 0..10_000 {
        let mut random = Random(seed);
        let (archive, backups) = random.world();
        let depth = u32::try_from(random.below(4)).unwrap();
        let removed = removed(&archive, &backups, depth);
        let model = Model {
            archive: &archive,
            backups: &backups,
            depth: depth as usize,
        };
        for (tli, found) in &archive.timelines {
            for file in &found.files {
                let is_gone = removed[&tli.0].contains(&file.segno);
                let when = format!("seed {seed}, depth {depth}, timeline {tli}, {}", file.segno);
                assert_eq!(!is_gone, model.is_needed(tli.0, file.segno), "{when}");
                gone += u64::from(is_gone);
                kept += u64::from(!is_gone);
            }
        }
    }
    assert!(gone > 10_000 && kept > 10_000, "{gone} {kept}");
}
