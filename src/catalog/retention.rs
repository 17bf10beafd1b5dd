//! Which backups a retention policy still wants: a plan from records and a clock, nothing else.
//!
//! The rule, of the original (`delete.cpp`): a backup, FULL or increment, good or bad, is expired
//! where it is **outside of the window** (or there is none) **and** its FULL backup is not one of
//! the newest good ones that the redundancy asks for (or that is not set) **and** it is not pinned.
//!
//! * Expired backups on which a wanted one grows are kept; or merged into that one.
//! * The window of `n` days begins with the local midnight that is `n - 1` days before the last
//!   one: a window of 1 is today. Days are those of the calendar, also where the clock is changed.
//! * What is running, what has no readable record, and the members of a merge that is not finished
//!   are never expired by themselves.

use super::BackupEntry;
use crate::format::catalog::{BackupControl, BackupMode, BackupStatus};
use crate::types::BackupId;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// What is to be kept; 0 is no rule.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RetentionPolicy {
    /// FULL backups, with what grows on them.
    pub redundancy: u32,
    /// Days.
    pub window: u32,
}

impl RetentionPolicy {
    /// Whether there is a rule at all.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.redundancy > 0 || self.window > 0
    }
}

/// The time, and where days begin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Calendar {
    now: i64,
    zone: TimeZone,
}

impl Calendar {
    /// The local calendar at this time, in seconds since 1970.
    #[must_use]
    pub fn local(now: i64) -> Calendar {
        Calendar::in_zone(now, TimeZone::system())
    }

    /// The calendar of a zone.
    #[must_use]
    pub fn in_zone(now: i64, zone: TimeZone) -> Calendar {
        Calendar { now, zone }
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> i64 {
        self.now
    }

    fn date(&self, seconds: i64) -> jiff::civil::Date {
        let timestamp = Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH);
        timestamp.to_zoned(self.zone.clone()).date()
    }

    /// Where the window begins: what is older is outside. A window beyond all time has no begin.
    #[must_use]
    pub fn window_begin(&self, days: u32) -> i64 {
        let back = Span::new().try_days(i64::from(days.saturating_sub(1)));
        let begin = back
            .and_then(|back| self.date(self.now).checked_sub(back))
            .and_then(|date| date.to_zoned(self.zone.clone()));
        begin.map_or(i64::MIN, |begin| begin.timestamp().as_second())
    }

    /// Midnights between a time and now.
    fn age_days(&self, seconds: i64) -> i64 {
        let days = self.date(self.now).since(self.date(seconds));
        days.map_or(0, |days| i64::from(days.get_days()).max(0))
    }
}

/// What the policy says of a backup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// The backup.
    pub id: BackupId,
    /// Its mode, if it has a readable record.
    pub mode: Option<BackupMode>,
    /// Its status.
    pub status: BackupStatus,
    /// Number of its FULL backup, the newest being 1.
    pub ordinal: u32,
    /// Its age in days.
    pub age_days: i64,
    /// The days that it is kept: of its pin, or of the policy.
    pub kept_days: i64,
    /// Pinned until then.
    pub pinned_until: Option<i64>,
    /// Whether nobody wants it any more.
    pub is_expired: bool,
}

/// A chain that can be merged so that no more of it stays than is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlannedMerge {
    /// The expired FULL backup.
    pub full: BackupId,
    /// The oldest wanted increment.
    pub destination: BackupId,
}

/// What a retention policy comes to.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RetentionPlan {
    /// Every backup, newest first.
    pub verdicts: Vec<Verdict>,
    /// What can be deleted, newest first: nothing that stays grows on it.
    pub purge: Vec<BackupId>,
    /// Expired backups that stay, and the wanted one that grows on each.
    pub retained: Vec<(BackupId, BackupId)>,
    /// What can be merged, or why an increment whose parent is expired cannot be.
    pub merges: Vec<(BackupId, Result<PlannedMerge, String>)>,
}

/// Plans; `entries` newest first, `running` those that somebody is making now.
#[must_use]
pub fn plan_retention(
    entries: &[BackupEntry],
    policy: RetentionPolicy,
    calendar: &Calendar,
    running: &BTreeSet<BackupId>,
) -> RetentionPlan {
    let backups = Backups::new(entries);
    let verdicts = backups.verdicts(policy, calendar, running);
    let expired: BTreeSet<BackupId> = verdicts
        .iter()
        .filter(|verdict| verdict.is_expired)
        .map(|verdict| verdict.id)
        .collect();
    let mut guards = BTreeMap::new();
    for entry in entries.iter().filter(|entry| !expired.contains(&entry.id)) {
        for ancestor in backups.ancestors(entry.id) {
            guards.entry(ancestor).or_insert(entry.id);
        }
    }
    backups.guard_unfinished_merges(&expired, &mut guards);
    let retained = expired.iter().rev();
    let retained = retained.filter_map(|id| Some((*id, *guards.get(id)?)));
    let purge = expired.iter().rev().filter(|id| !guards.contains_key(id));
    RetentionPlan {
        purge: purge.copied().collect(),
        retained: retained.collect(),
        merges: backups.merges(&expired, running),
        verdicts,
    }
}

/// The records by id.
struct Backups<'a> {
    entries: &'a [BackupEntry],
    by_id: BTreeMap<BackupId, &'a BackupEntry>,
}

impl<'a> Backups<'a> {
    fn new(entries: &'a [BackupEntry]) -> Backups<'a> {
        let by_id = entries.iter().map(|entry| (entry.id, entry)).collect();
        Backups { entries, by_id }
    }

    fn control(&self, id: BackupId) -> Option<&'a BackupControl> {
        self.by_id.get(&id)?.control.as_ref().ok()
    }

    /// What a backup grows on, nearest first; parents are always older.
    fn ancestors(&self, id: BackupId) -> Vec<BackupId> {
        let mut found = Vec::new();
        let mut last = id;
        while let Some(parent) = self
            .control(last)
            .and_then(|control| control.parent_backup_id)
            .filter(|parent| *parent < last && self.by_id.contains_key(parent))
        {
            found.push(parent);
            last = parent;
        }
        found
    }

    /// The FULL backup of a chain, if that is whole.
    fn full_of(&self, id: BackupId) -> Option<BackupId> {
        let last = self.ancestors(id).last().copied().unwrap_or(id);
        let control = self.control(last)?;
        (control.mode == BackupMode::Full).then_some(last)
    }

    fn verdicts(
        &self,
        policy: RetentionPolicy,
        calendar: &Calendar,
        running: &BTreeSet<BackupId>,
    ) -> Vec<Verdict> {
        let is_good_full = |entry: &&BackupEntry| {
            let control = entry.control.as_ref();
            control.is_ok_and(|c| c.mode == BackupMode::Full && c.status.is_usable())
        };
        let good = self
            .entries
            .iter()
            .filter(is_good_full)
            .map(|entry| entry.id);
        let redundancy = usize::try_from(policy.redundancy).unwrap_or(usize::MAX);
        let kept: BTreeSet<BackupId> = good.take(redundancy).collect();
        let begin = calendar.window_begin(policy.window);
        let mut ordinal = 1;
        let verdict = |entry: &BackupEntry| {
            let mut verdict = Verdict {
                id: entry.id,
                mode: None,
                status: entry.status(),
                ordinal,
                age_days: 0,
                kept_days: i64::from(policy.window),
                pinned_until: None,
                is_expired: false,
            };
            let Ok(control) = &entry.control else {
                return verdict;
            };
            if control.mode == BackupMode::Full {
                ordinal += 1;
            }
            verdict.mode = Some(control.mode);
            let recovery_time = control.recovery_time.filter(|time| *time > 0);
            verdict.age_days = recovery_time.map_or(0, |time| calendar.age_days(time));
            let time = recovery_time.unwrap_or(control.start_time);
            if let Some(until) = control.expire_time {
                let days = until.saturating_sub(recovery_time.unwrap_or(0)) / 86_400;
                if days > 0 {
                    verdict.kept_days = days;
                }
                verdict.pinned_until = Some(until).filter(|until| *until > calendar.now);
            }
            let is_outside = policy.window == 0 || time < begin;
            let is_redundant = policy.redundancy == 0
                || self
                    .full_of(entry.id)
                    .is_none_or(|full| !kept.contains(&full));
            let is_unwanted = policy.is_set() && is_outside && is_redundant;
            if !is_unwanted {
                verdict.pinned_until = None;
            }
            verdict.is_expired =
                is_unwanted && verdict.pinned_until.is_none() && !running.contains(&entry.id);
            verdict
        };
        self.entries.iter().map(verdict).collect()
    }

    /// A merge that is not finished stays as it is, unless all of it is expired.
    fn guard_unfinished_merges(
        &self,
        expired: &BTreeSet<BackupId>,
        guards: &mut BTreeMap<BackupId, BackupId>,
    ) {
        for entry in self.entries {
            let Ok(control) = &entry.control else {
                continue;
            };
            let is_merging = matches!(control.status, BackupStatus::Merging | BackupStatus::Merged);
            if control.mode != BackupMode::Full || !is_merging {
                continue;
            }
            let mut members = vec![entry.id];
            let grown = self.entries.iter().map(|entry| entry.id);
            members.extend(grown.filter(|id| self.ancestors(*id).contains(&entry.id)));
            members.extend(control.merge_dest_id);
            let stays = |id: &&BackupId| {
                self.by_id.contains_key(id) && (!expired.contains(id) || guards.contains_key(id))
            };
            if let Some(guard) = members.iter().find(stays).copied() {
                for member in members {
                    guards.entry(member).or_insert(guard);
                }
            }
        }
    }

    fn merges(
        &self,
        expired: &BTreeSet<BackupId>,
        running: &BTreeSet<BackupId>,
    ) -> Vec<(BackupId, Result<PlannedMerge, String>)> {
        let mut merges = Vec::new();
        for entry in self.entries {
            let ancestors = self.ancestors(entry.id);
            let grows_on_expired = ancestors.first().is_some_and(|id| expired.contains(id));
            if grows_on_expired && !expired.contains(&entry.id) {
                merges.push((entry.id, self.merge(entry.id, &ancestors, expired, running)));
            }
        }
        merges
    }

    fn merge(
        &self,
        id: BackupId,
        ancestors: &[BackupId],
        expired: &BTreeSet<BackupId>,
        running: &BTreeSet<BackupId>,
    ) -> Result<PlannedMerge, String> {
        let full = self
            .full_of(id)
            .ok_or_else(|| format!("Failed to find FULL parent for {id}"))?;
        if !expired.contains(&full) {
            return Err(format!(
                "Skip backup {id} for merging, because his FULL parent is not marked for purge"
            ));
        }
        if let Some(between) = ancestors.iter().find(|id| !expired.contains(id)) {
            return Err(format!(
                "Skip backup {id} for merging, because backup {between} between it and its FULL \
                 parent is guarded by retention"
            ));
        }
        let status = |id: &BackupId| self.by_id[id].status();
        let mut chain = std::iter::once(&id).chain(ancestors);
        if let Some(bad) = chain.find(|id| !status(id).is_usable() || running.contains(id)) {
            return Err(format!(
                "Skip backup {id} for merging, because backup {bad} has status: {}",
                status(bad)
            ));
        }
        // Others lose their ground when their parent becomes part of the result.
        let grows_beside = |entry: &&BackupEntry| {
            let matters = entry.status().is_usable() || running.contains(&entry.id);
            let mut below = self.ancestors(entry.id).into_iter();
            let met = below.find(|other| *other == id || ancestors.contains(other));
            let is_beside = met.is_some_and(|met| met != id) && entry.id != id;
            matters && !expired.contains(&entry.id) && is_beside && !ancestors.contains(&entry.id)
        };
        if let Some(other) = self.entries.iter().find(grows_beside) {
            return Err(format!(
                "Skip backup {id} for merging, because backup {} grows on the same chain and is \
                 guarded by retention",
                other.id
            ));
        }
        Ok(PlannedMerge {
            full,
            destination: id,
        })
    }
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
