//! Tests of `parent.rs`: which backup an increment grows on, and what is said of the others.

use super::*;

fn id(start_time: i64) -> BackupId {
    BackupId::from_start_time(1_795_240_000 + start_time).unwrap()
}

/// `10 full OK 1`, `20 <10 OK 1`: number, FULL or parent, status, timeline.
fn candidate(line: &str) -> Candidate {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [number, link, status, timeline] = words[..] else {
        panic!("{line}")
    };
    let parent = link.strip_prefix('<').map(|parent| parent.parse().unwrap());
    Candidate {
        id: id(number.parse().unwrap()),
        status: match status {
            "OK" => BackupStatus::Ok,
            "DONE" => BackupStatus::Done,
            "ERROR" => BackupStatus::Error,
            "CORRUPT" => BackupStatus::Corrupt,
            "ORPHAN" => BackupStatus::Orphan,
            "RUNNING" => BackupStatus::Running,
            "MERGING" => BackupStatus::Merging,
            other => panic!("{other}"),
        },
        mode: if parent.is_some() {
            BackupMode::Ptrack
        } else {
            BackupMode::Full
        },
        timeline: TimelineId(timeline.parse().unwrap()),
        parent: parent.filter(|parent| *parent > 0).map(id),
    }
}

/// The parent's number among `backups`, and the warnings with numbers for ids.
fn chosen(backups: &[&str]) -> (Option<i64>, Vec<String>) {
    let candidates: Vec<Candidate> = backups.iter().map(|line| candidate(line)).collect();
    let mut warnings = Vec::new();
    let parent = choose(&candidates, TimelineId(1), |text| {
        let mut text = text;
        for number in (0..100).rev() {
            text = text.replace(&id(number).to_string(), &number.to_string());
        }
        warnings.push(text);
    });
    (parent.map(|id| id.start_time() - 1_795_240_000), warnings)
}

const NOT_ON_TIMELINE: &str = "Valid backup on current timeline 1 is not found, trying to look up \
                               on previous timelines";
const NO_ARCHIVE: &str =
    "Cannot find valid backup on previous timelines, WAL archive is not available";

/// Backups, the parent that is chosen of them, and what is said on the way.
type Case = (
    &'static [&'static str],
    Option<i64>,
    &'static [&'static str],
);

const CASES: [Case; 14] = [
    (&["10 full OK 1"], Some(10), &[]),
    (&["10 full DONE 1", "20 <10 DONE 1"], Some(20), &[]),
    (
        &["30 <20 OK 1", "10 full OK 1", "20 <10 OK 1"],
        Some(30),
        &[],
    ),
    // Also where an older chain is longer.
    (
        &["10 full OK 1", "20 <10 OK 1", "30 full OK 1"],
        Some(30),
        &[],
    ),
    (
        &["10 full OK 1", "20 full OK 1", "30 <10 OK 1"],
        Some(20),
        &[],
    ),
    (
        &["10 full OK 1", "20 <10 ERROR 1"],
        Some(10),
        &["Backup 20 has status: ERROR. Cannot be a parent."],
    ),
    (
        &["10 full OK 1", "20 <10 CORRUPT 1", "30 <20 OK 1"],
        Some(10),
        &[
            "Backup 30 has invalid parent: 20. Cannot be a parent",
            "Backup 20 has status: CORRUPT. Cannot be a parent.",
        ],
    ),
    (
        &[
            "10 full OK 1",
            "20 <10 ERROR 1",
            "30 <20 ORPHAN 1",
            "40 <30 OK 1",
        ],
        Some(10),
        &[
            "Backup 40 has invalid parent: 20. Cannot be a parent",
            "Backup 30 has status: ORPHAN. Cannot be a parent.",
            "Backup 20 has status: ERROR. Cannot be a parent.",
        ],
    ),
    (
        &["10 full OK 1", "30 <20 OK 1", "40 <0 OK 1", "50 <60 OK 1"],
        Some(10),
        &[
            "Backup 50 has missing parent: 60. Cannot be a parent",
            "Backup 40 has missing parent: 0. Cannot be a parent",
            "Backup 30 has missing parent: 20. Cannot be a parent",
        ],
    ),
    // A newer one that failed does not hide the older.
    (
        &["10 full OK 1", "20 <10 OK 1", "30 full ERROR 1"],
        Some(20),
        &["Backup 30 has status: ERROR. Cannot be a parent."],
    ),
    (
        &["10 full OK 1", "20 <10 MERGING 1"],
        Some(10),
        &["Backup 20 has status: MERGING. Cannot be a parent."],
    ),
    (&[], None, &[NOT_ON_TIMELINE, NO_ARCHIVE]),
    (
        &["10 full OK 2", "20 <10 OK 2"],
        None,
        &[NOT_ON_TIMELINE, NO_ARCHIVE],
    ),
    (
        &["10 full CORRUPT 1", "20 <10 ORPHAN 1"],
        None,
        &[NOT_ON_TIMELINE, NO_ARCHIVE],
    ),
];

#[test]
fn the_newest_good_descendant_of_the_newest_good_full_backup_is_the_parent() {
    for (backups, parent, warnings) in CASES {
        let found = chosen(backups);
        assert_eq!(found.0, parent, "{backups:?}");
        assert_eq!(found.1, warnings, "{backups:?}");
    }
}

#[test]
fn backups_that_name_each_other_as_parent_end_nowhere() {
    let (parent, warnings) = chosen(&["10 full OK 1", "20 <30 OK 1", "30 <20 OK 1", "40 <40 OK 1"]);
    assert_eq!(parent, Some(10));
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(
        warnings
            .iter()
            .all(|warning| warning.contains("missing parent"))
    );
}

#[test]
fn external_directories_are_those_that_are_named() {
    assert_eq!(external_dirs(Some("/a:/b")), ["/a", "/b"]);
    assert!(external_dirs(None).is_empty());
}
