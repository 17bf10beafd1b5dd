//! Which files of a WAL archive no backup needs: a plan from a listing and records, nothing else.
//!
//! The rule, of the original (`catalog.cpp`, `delete.cpp`), for each timeline by itself:
//!
//! * Without a depth, WAL stays from the start of the oldest backup of the timeline on, whatever
//!   its status. A timeline that a good backup of an older one can be recovered along stays whole.
//!   One that no backup can be recovered along goes.
//! * With a depth of `n`, WAL stays from the start of the `n`-th newest backup on, counting good
//!   ones that are not pinned. Where there are not so many and a good backup of an older timeline
//!   leads here, the timeline stays whole, and below it what leads here from that backup. Where
//!   there is none, the rule without a depth holds.
//! * What a backup without WAL of its own (`ARCHIVE`) needs to become consistent stays.
//!
//! Where the original would guess, more stays: a timeline whose history is not there, while an
//! older one has good backups, stays whole, and a depth is not applied to the older ones.

use super::BackupEntry;
use super::wal_archive::{TimelineFiles, TimelineHistory, WalFile, WalFileKind, WalFiles};
use crate::format::wal::segment_number;
use crate::types::{BackupId, Lsn, TimelineId};
use std::ops::RangeInclusive;

/// What the WAL of a backup depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalBackup {
    /// The backup.
    pub id: BackupId,
    /// Its timeline.
    pub timeline: TimelineId,
    /// Where recovery begins.
    pub start_lsn: Lsn,
    /// Where it is consistent; 0/0 if it never got so far.
    pub stop_lsn: Lsn,
    /// Whether the WAL between is in the backup.
    pub stream: bool,
    /// Whether it can be restored.
    pub is_good: bool,
    /// Whether it is pinned now.
    pub is_pinned: bool,
}

impl WalBackup {
    /// What a record says at a time, in seconds since 1970; `None` where the record cannot be read
    /// or the backup never had a start.
    #[must_use]
    pub fn of(entry: &BackupEntry, now: i64) -> Option<WalBackup> {
        let control = entry.control.as_ref().ok()?;
        let has_start = control.start_lsn > Lsn(0) && control.timeline > TimelineId(0);
        has_start.then(|| WalBackup {
            id: entry.id,
            timeline: control.timeline,
            start_lsn: control.start_lsn,
            stop_lsn: control.stop_lsn,
            stream: control.stream,
            is_good: control.status.is_usable(),
            is_pinned: control.expire_time.is_some_and(|until| until > now),
        })
    }
}

/// What stays of a timeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeptWal {
    /// Everything: this backup can be recovered along it.
    Reachable(WalBackup),
    /// Everything: it may be that a backup can be recovered along it.
    UnknownHistory,
    /// What is not older than this position.
    From(Lsn),
    /// Nothing.
    Nothing,
}

/// Segments that stay though they are older.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptSegments {
    /// Their numbers.
    pub segments: RangeInclusive<u64>,
    /// Who needs them.
    pub of: KeptFor,
}

/// Who needs segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeptFor {
    /// A backup, to become consistent.
    Backup(BackupId),
    /// A younger timeline, to be reached.
    Timeline(TimelineId),
}

/// What becomes of a timeline.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimelinePurge {
    /// The timeline.
    pub tli: TimelineId,
    /// What stays.
    pub kept: KeptWal,
    /// What stays though it is older.
    pub kept_segments: Vec<KeptSegments>,
    /// Numbers of the first whole segment that is there and of the last one.
    pub segments: Option<RangeInclusive<u64>>,
    /// Whether there is any file but its history.
    pub has_files: bool,
    /// What can be removed, the oldest first.
    pub remove: Vec<WalFile>,
}

/// What is known of the archive and of the backups.
#[derive(Clone, Copy, Debug)]
pub struct WalNeeds<'a> {
    /// The archive.
    pub archive: &'a WalFiles,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// All backups.
    pub backups: &'a [WalBackup],
    /// How many backups of a timeline keep their WAL; 0: all.
    pub depth: u32,
}

/// Plans, for each timeline of the archive, the oldest first.
#[must_use]
pub fn plan_wal_purge(needs: &WalNeeds<'_>) -> Vec<TimelinePurge> {
    let timelines = needs.archive.timelines.iter();
    let kept: Vec<(TimelineId, &TimelineFiles, KeptWal)> = timelines
        .map(|(tli, found)| (*tli, found, needs.kept(*tli, &found.history)))
        .collect();
    let plan = kept.iter().map(|(tli, found, of_timeline)| {
        let kept_segments = needs.kept_segments(*tli, *of_timeline, &kept);
        let stays = |file: &&WalFile| {
            let newer = match of_timeline {
                KeptWal::Reachable(_) | KeptWal::UnknownHistory => true,
                KeptWal::From(lsn) => file.segno >= segment_number(*lsn, needs.segment_bytes),
                KeptWal::Nothing => false,
            };
            let mut ranges = kept_segments.iter();
            newer || ranges.any(|kept| kept.segments.contains(&file.segno))
        };
        let removed = found.files.iter().filter(|file| !stays(file));
        let numbers = || {
            let whole = found.files.iter();
            let whole = whole.filter(|file| file.kind == WalFileKind::Segment);
            whole.map(|file| file.segno)
        };
        TimelinePurge {
            tli: *tli,
            kept: *of_timeline,
            segments: numbers().min().zip(numbers().max()).map(|(a, b)| a..=b),
            has_files: !found.files.is_empty(),
            remove: removed.cloned().collect(),
            kept_segments,
        }
    });
    plan.collect()
}

impl WalNeeds<'_> {
    fn own(&self, tli: TimelineId) -> impl Iterator<Item = &WalBackup> {
        let backups = self.backups.iter();
        backups.filter(move |backup| backup.timeline == tli)
    }

    fn kept(&self, tli: TimelineId, history: &TimelineHistory) -> KeptWal {
        if let Some(anchor) = self.anchor(tli).filter(|_| !self.is_blind(tli)) {
            return KeptWal::From(anchor.start_lsn);
        }
        if let Some(closest) = self.closest(history) {
            return KeptWal::Reachable(closest);
        }
        if self.is_unknown(tli, history) {
            return KeptWal::UnknownHistory;
        }
        let oldest = self.own(tli).map(|backup| backup.start_lsn).min();
        oldest.map_or(KeptWal::Nothing, KeptWal::From)
    }

    /// The backup that keeps its WAL by the depth.
    fn anchor(&self, tli: TimelineId) -> Option<WalBackup> {
        let depth = usize::try_from(self.depth).unwrap_or(usize::MAX);
        let counted = self.own(tli);
        let counted = counted.filter(|backup| backup.is_good && !backup.is_pinned);
        let mut counted: Vec<&WalBackup> = counted.collect();
        counted.sort_by_key(|backup| std::cmp::Reverse((backup.start_lsn, backup.id)));
        counted.get(depth.checked_sub(1)?).copied().copied()
    }

    /// The good backup that ends nearest to where the history left its timeline.
    fn closest(&self, history: &TimelineHistory) -> Option<WalBackup> {
        history.ancestors().find_map(|(ancestor, switchpoint)| {
            let good = self.own(ancestor).filter(|backup| {
                backup.is_good && backup.stop_lsn > Lsn(0) && backup.stop_lsn <= switchpoint
            });
            good.max_by_key(|backup| (backup.stop_lsn, backup.id))
                .copied()
        })
    }

    /// Whether a backup may lead to this timeline without anything telling.
    fn is_unknown(&self, tli: TimelineId, history: &TimelineHistory) -> bool {
        let is_known = matches!(history, TimelineHistory::Known(_));
        let is_older = |backup: &WalBackup| backup.is_good && backup.timeline < tli;
        !is_known && tli > TimelineId(1) && self.backups.iter().any(is_older)
    }

    /// Whether a younger timeline may need any WAL of this one.
    fn is_blind(&self, tli: TimelineId) -> bool {
        let younger = self.archive.timelines.iter().filter(|(id, _)| **id > tli);
        let mut unknown = younger.filter(|(id, found)| self.is_unknown(**id, &found.history));
        unknown.any(|(id, _)| self.anchor(*id).is_none())
    }

    fn kept_segments(
        &self,
        tli: TimelineId,
        kept: KeptWal,
        all: &[(TimelineId, &TimelineFiles, KeptWal)],
    ) -> Vec<KeptSegments> {
        let mut found = Vec::new();
        let number = |lsn| segment_number(lsn, self.segment_bytes);
        for (younger, files, of_younger) in all {
            let KeptWal::Reachable(closest) = of_younger else {
                continue;
            };
            let mut path = files.history.ancestors();
            let switchpoint = path.find_map(|(id, switchpoint)| (id == tli).then_some(switchpoint));
            if let Some(switchpoint) = switchpoint.filter(|_| tli >= closest.timeline) {
                let first = if closest.timeline == tli {
                    number(closest.start_lsn)
                } else {
                    0
                };
                found.push(KeptSegments {
                    segments: first..=number(switchpoint),
                    of: KeptFor::Timeline(*younger),
                });
            }
        }
        let KeptWal::From(lsn) = kept else {
            return found;
        };
        // The record at the stop position may end in the next segment.
        let of_archive = self.own(tli).filter(|backup| {
            !backup.stream && backup.start_lsn < lsn && backup.stop_lsn >= backup.start_lsn
        });
        found.extend(of_archive.map(|backup| KeptSegments {
            segments: number(backup.start_lsn)..=number(backup.stop_lsn) + 1,
            of: KeptFor::Backup(backup.id),
        }));
        found
    }
}

#[cfg(test)]
#[path = "wal_purge_tests.rs"]
mod tests;
