//! Tests of retention, most of them against a slow model written from the manual.

use super::*;
use std::path::PathBuf;

/// 2026-11-21 06:04:00 UTC.
const NOW: i64 = 1_795_241_040;
const DAY: i64 = 86_400;

fn id(start_time: i64) -> BackupId {
    BackupId::from_start_time(start_time).unwrap()
}

fn entry(start_time: i64, parent: Option<i64>, status: BackupStatus) -> BackupEntry {
    let mode = if parent.is_some() {
        BackupMode::Ptrack
    } else {
        BackupMode::Full
    };
    let mut control = BackupControl::new(mode, start_time);
    control.parent_backup_id = parent.map(id);
    control.recovery_time = Some(start_time);
    control.status = status;
    BackupEntry {
        id: id(start_time),
        dir: PathBuf::new(),
        control: Ok(control),
        warnings: Vec::new(),
        unfinished_merge: None,
    }
}

fn utc() -> Calendar {
    Calendar::in_zone(NOW, TimeZone::UTC)
}

fn plan(entries: &[BackupEntry], redundancy: u32, window: u32) -> RetentionPlan {
    let policy = RetentionPolicy { redundancy, window };
    plan_retention(entries, policy, &utc(), &BTreeSet::new())
}

fn seconds(ids: &[BackupId]) -> Vec<i64> {
    ids.iter().map(|id| id.start_time() - NOW).collect()
}

/// A chain of three and a newer one of two, days apart.
fn two_chains() -> Vec<BackupEntry> {
    let ok = BackupStatus::Ok;
    let at = |days: i64| NOW - days * DAY;
    vec![
        entry(at(0) - 60, Some(at(2)), ok),
        entry(at(2), None, ok),
        entry(at(4), Some(at(5)), ok),
        entry(at(5), Some(at(6)), ok),
        entry(at(6), None, ok),
    ]
}

#[test]
fn a_window_begins_at_local_midnight() {
    let at = |text: &str| text.parse::<Timestamp>().unwrap().as_second();
    for (zone, now, days, begin) in [
        ("UTC0", "2026-11-21T06:04:00Z", 1, "2026-11-21T00:00:00Z"),
        ("UTC0", "2026-11-21T06:04:00Z", 7, "2026-11-15T00:00:00Z"),
        // 02:00 on the 22nd; the original takes the 21st here.
        ("CST-8", "2026-11-21T18:00:00Z", 1, "2026-11-21T16:00:00Z"),
        // 21:00 on the 20th; the original takes the 21st, which has not begun.
        ("EST5", "2026-11-21T02:00:00Z", 1, "2026-11-20T05:00:00Z"),
        (
            "IST-5:30",
            "2026-11-21T06:04:00Z",
            2,
            "2026-11-19T18:30:00Z",
        ),
        // The clock was put back on 2026-10-25: that day had 25 hours.
        (
            "CET-1CEST,M3.5.0,M10.5.0/3",
            "2026-10-26T12:00:00Z",
            2,
            "2026-10-24T22:00:00Z",
        ),
    ] {
        let calendar = Calendar::in_zone(at(now), TimeZone::posix(zone).unwrap());
        assert_eq!(
            calendar.window_begin(days),
            at(begin),
            "{zone} {now} {days}"
        );
    }
    assert!(utc().window_begin(u32::MAX) < 0);
}

#[test]
fn what_is_wanted_or_grown_on_stays() {
    let entries = two_chains();
    let purge = |redundancy, window| seconds(&plan(&entries, redundancy, window).purge);
    assert_eq!(purge(1, 0), [-4 * DAY, -5 * DAY, -6 * DAY]);
    assert_eq!(purge(2, 0), [] as [i64; 0]);
    assert_eq!(purge(0, 3), [-4 * DAY, -5 * DAY, -6 * DAY]);
    assert_eq!(
        purge(0, 5),
        [] as [i64; 0],
        "the last of the chain is wanted"
    );
    assert_eq!(purge(0, 4), [-4 * DAY, -5 * DAY, -6 * DAY]);
    assert_eq!(purge(2, 1), [] as [i64; 0], "both rules have to agree");
    assert_eq!(purge(0, 0), [] as [i64; 0]);
    let planned = plan(&entries, 0, 5);
    assert_eq!(planned.retained.len(), 2);
    let merge = PlannedMerge {
        full: entries[4].id,
        destination: entries[2].id,
    };
    assert_eq!(planned.merges, [(entries[2].id, Ok(merge))]);
}

#[test]
fn a_pin_holds_until_it_ends_and_holds_what_is_below() {
    let mut entries = two_chains();
    entries[3].control.as_mut().unwrap().expire_time = Some(NOW + 1);
    let planned = plan(&entries, 1, 0);
    assert_eq!(seconds(&planned.purge), [-4 * DAY]);
    assert_eq!(planned.verdicts[3].pinned_until, Some(NOW + 1));
    entries[3].control.as_mut().unwrap().expire_time = Some(NOW);
    assert_eq!(plan(&entries, 1, 0).purge.len(), 3);
}

#[test]
fn bad_full_backups_do_not_count_and_unreadable_ones_are_left_alone() {
    let mut entries = two_chains();
    entries[1].control.as_mut().unwrap().status = BackupStatus::Corrupt;
    assert_eq!(seconds(&plan(&entries, 1, 0).purge), [-60, -2 * DAY]);
    entries[1].control = Err("damaged".to_owned());
    let planned = plan(&entries, 1, 0);
    assert_eq!(seconds(&planned.purge), [-60]);
    assert_eq!(planned.verdicts[1].mode, None);
}

#[test]
fn what_runs_or_is_being_merged_is_left_alone() {
    let mut entries = two_chains();
    let running = BTreeSet::from([entries[2].id]);
    let policy = RetentionPolicy {
        redundancy: 1,
        window: 0,
    };
    let planned = plan_retention(&entries, policy, &utc(), &running);
    assert_eq!(planned.purge, []);
    let [(_, Err(_))] = planned.merges.as_slice() else {
        panic!("{:?}", planned.merges);
    };
    // The destination is pinned: nothing of the merge goes.
    let full = entries[4].control.as_mut().unwrap();
    full.status = BackupStatus::Merging;
    full.merge_dest_id = Some(id(NOW - 5 * DAY));
    entries[3].control.as_mut().unwrap().expire_time = Some(NOW + DAY);
    assert_eq!(plan(&entries, 1, 0).purge, []);
    entries[3].control.as_mut().unwrap().expire_time = None;
    assert_eq!(plan(&entries, 1, 0).purge.len(), 3, "all of it is expired");
}

#[test]
fn no_merge_takes_the_ground_from_another_wanted_backup() {
    let ok = BackupStatus::Ok;
    let mut entries = vec![
        entry(NOW - 10, Some(NOW - 9 * DAY), ok),
        entry(NOW - 20, Some(NOW - 8 * DAY), ok),
        entry(NOW - 8 * DAY, Some(NOW - 9 * DAY), ok),
        entry(NOW - 9 * DAY, None, ok),
    ];
    let planned = plan(&entries, 0, 1);
    assert!(planned.merges.iter().all(|(_, merge)| merge.is_err()));
    assert_eq!(planned.merges.len(), 2);
    // One that cannot be restored anyway does not count.
    entries[0].control.as_mut().unwrap().status = BackupStatus::Corrupt;
    let planned = plan(&entries, 0, 1);
    assert!(planned.merges[0].1.is_err() && planned.merges[1].1.is_ok());
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

    fn days(&mut self, bound: u64) -> i64 {
        i64::try_from(self.below(bound)).unwrap() * DAY
    }

    fn catalog(&mut self) -> Vec<BackupEntry> {
        let mut entries: Vec<BackupEntry> = Vec::new();
        let mut at = NOW - 30 * DAY;
        for _ in 0..self.below(14) {
            at += 1 + self.days(5) + i64::try_from(self.below(86_400)).unwrap();
            let parent = if entries.is_empty() || self.below(3) == 0 {
                None
            } else {
                let choice = self.below(entries.len() as u64 + 1);
                let choice = usize::try_from(choice).unwrap();
                // Now and then a parent that is gone.
                Some(entries.get(choice).map_or(at - 1, |e| e.id.start_time()))
            };
            let status = match self.below(8) {
                0 => BackupStatus::Error,
                1 => BackupStatus::Corrupt,
                2 => BackupStatus::Done,
                _ => BackupStatus::Ok,
            };
            let mut new = entry(at, parent, status);
            let control = new.control.as_mut().unwrap();
            if self.below(6) == 0 {
                control.recovery_time = None;
            }
            if self.below(6) == 0 {
                control.expire_time = Some(NOW - 3 * DAY + self.days(7));
            }
            entries.push(new);
        }
        entries.reverse();
        entries
    }
}

/// The manual, sentence by sentence: who is wanted, and then, as long as something changes, whom a
/// backup that stays grows on.
fn model(entries: &[BackupEntry], redundancy: u32, window: u32) -> Vec<BackupId> {
    let control = |entry: &BackupEntry| entry.control.clone().unwrap();
    let parent = |entry: &BackupEntry| {
        let parent = control(entry).parent_backup_id?;
        entries.iter().find(|other| other.id == parent)
    };
    let full = |entry: &BackupEntry| {
        let mut entry = entry.clone();
        while let Some(below) = parent(&entry) {
            entry = below.clone();
        }
        (control(&entry).mode == BackupMode::Full).then_some(entry.id)
    };
    let mut good_fulls: Vec<BackupId> = entries
        .iter()
        .filter(|entry| control(entry).mode == BackupMode::Full)
        .filter(|entry| ["OK", "DONE"].contains(&control(entry).status.name()))
        .map(|entry| entry.id)
        .collect();
    good_fulls.sort();
    let newest: Vec<BackupId> = good_fulls
        .into_iter()
        .rev()
        .take(redundancy as usize)
        .collect();
    let midnight = NOW - NOW % DAY;
    let mut stays: Vec<bool> = entries
        .iter()
        .map(|entry| {
            let control = control(entry);
            let time = control.recovery_time.unwrap_or(control.start_time);
            let in_window = window > 0 && time >= midnight - (i64::from(window) - 1) * DAY;
            let in_redundancy = full(entry).is_some_and(|full| newest.contains(&full));
            let is_pinned = control.expire_time.is_some_and(|until| until > NOW);
            in_window || in_redundancy || is_pinned || (window == 0 && redundancy == 0)
        })
        .collect();
    loop {
        let mut changed = false;
        for at in 0..entries.len() {
            if let Some(below) = parent(&entries[at]).filter(|_| stays[at]) {
                let below = entries.iter().position(|e| e.id == below.id).unwrap();
                changed |= !stays[below];
                stays[below] = true;
            }
        }
        if !changed {
            break;
        }
    }
    let gone = entries.iter().zip(stays).filter(|(_, stays)| !stays);
    gone.map(|(entry, _)| entry.id).collect()
}

#[test]
fn ten_thousand_catalogs_are_judged_as_the_manual_says() {
    let (mut purged, mut merged) = (0, 0);
    for seed in 0..10_000 {
        let mut random = Random(seed);
        let entries = random.catalog();
        let redundancy = u32::try_from(random.below(4)).unwrap();
        let window = u32::try_from(random.below(12)).unwrap();
        let planned = plan(&entries, redundancy, window);
        let when = format!("seed {seed}, redundancy {redundancy}, window {window}");
        assert_eq!(planned.purge, model(&entries, redundancy, window), "{when}");
        purged += planned.purge.len();
        for merge in planned
            .merges
            .iter()
            .filter_map(|(_, merge)| merge.as_ref().ok())
        {
            merged += 1;
            check_merge(&entries, &planned, *merge, &when);
        }
    }
    assert!(purged > 5_000 && merged > 500, "{purged} {merged}");
}

/// A merge loses no backup that is wanted, and none its ground.
fn check_merge(entries: &[BackupEntry], plan: &RetentionPlan, merge: PlannedMerge, when: &str) {
    let expired = |id: BackupId| plan.verdicts.iter().any(|v| v.id == id && v.is_expired);
    let parent = |id: BackupId| {
        let entry = entries.iter().find(|entry| entry.id == id)?;
        entry.control.as_ref().ok()?.parent_backup_id
    };
    let mut lost = Vec::new();
    let mut next = parent(merge.destination);
    while let Some(id) = next {
        assert!(expired(id), "{when}: {id} is wanted, and merged");
        lost.push(id);
        next = parent(id);
    }
    assert_eq!(lost.last(), Some(&merge.full), "{when}");
    for entry in entries.iter().filter(|entry| entry.id != merge.destination) {
        let is_good = entry.status().is_usable() && !expired(entry.id);
        let loses = parent(entry.id).is_some_and(|parent| lost.contains(&parent));
        assert!(!(is_good && loses), "{when}: {} loses its parent", entry.id);
    }
}
