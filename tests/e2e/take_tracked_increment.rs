//! Increments of a running openGauss by the blocks that it tracked, through the recorded
//! conversations: by the answers of its function, and by its files.
//!
//! Recorded are the conversations, the WAL, and which blocks the server said had changed between
//! one backup and the next; five increments in a row. Composed are the changes themselves: each
//! block that the server named gets new content, as the data directory is of an earlier time. The
//! files with which the server tracked these ranges were not recorded: where a test reads files,
//! they are made from the recorded answers, behind what the recorded file has.

use crate::back_up_through_recorded_server::{PASSWORD, Recorded, SHA, TRUST, Way, way};
use crate::fixtures;
use crate::online::completed_id;
use crate::replay::{Replay, Report, Tracking, recorded_changes};
use crate::support::{Output, assert_success, gs_probackup};
use crate::take_full_backup::{check_independently, logical_pages};
use crate::take_incremental_backup::changes::{copy_tree, empty_page, is_backed_up};
use crate::take_incremental_backup::stored_blocks;
use gs_probackup::format::cbm::builder::PageBuilder;
use gs_probackup::format::cbm::complete_bytes;
use gs_probackup::format::page::{PAGE_SIZE, page_checksum};
use gs_probackup::types::{BlockNumber, Lsn};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The file in which the recorded server tracks.
const CBM_FILE: &str = "pg_cbm/pg_xlog_1_0000000002619030_0000000000000000.cbm";

/// No failure here may take longer.
const SOON: Duration = Duration::from_secs(60);

/// Blocks by file.
type Stored = BTreeMap<String, Vec<u32>>;

fn data(recorded: &Recorded) -> PathBuf {
    recorded.scratch.path().join("gauss/data/dn1")
}

fn position(segment: u8) -> Lsn {
    Lsn(u64::from(segment) << 24 | 0x28)
}

/// Whether blocks of it are those of a file of ordinary pages: not of undo, not of segment-page
/// storage, whose files 1 to 5 hold pages of other relations.
fn is_ordinary(name: &str) -> bool {
    let number = name
        .rsplit_once('/')
        .and_then(|(_, number)| number.parse().ok());
    number.is_some_and(|number: u32| number > 5)
}

/// Gives each block new content, in a page of the time of the segment. What is not ordinary stays:
/// that the server says that it changed is all that matters. Returns what has to be stored of
/// ordinary files: these blocks, and those by which files grew, which nobody tracks.
fn change(recorded: &Recorded, changes: &[(String, Vec<u32>)], segment: u8) -> Stored {
    let mut stored = Stored::new();
    for (name, blocks) in changes.iter().filter(|(name, _)| is_ordinary(name)) {
        let path = data(recorded).join(name);
        if !path.exists() {
            // Of a relation that came later, or was moved since.
            fs::write(&path, []).unwrap();
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .unwrap();
        let before = blocks_of(&file);
        for &block in blocks {
            let at = u64::from(block) * PAGE_SIZE as u64;
            let mut page = empty_page();
            let length = file.metadata().unwrap().len();
            if at < length {
                file.read_exact_at(&mut page, at).unwrap();
            }
            page[..4].copy_from_slice(&0_u32.to_le_bytes());
            let low = (u32::from(segment) << 24) - 0x1000;
            page[4..8].copy_from_slice(&low.to_le_bytes());
            page[PAGE_SIZE - 1] = segment;
            let checksum = page_checksum(&page, BlockNumber(block));
            page[8..10].copy_from_slice(&checksum.to_le_bytes());
            file.write_all_at(&page, at).unwrap();
        }
        let grown = blocks_of(&file);
        let mut all: BTreeSet<u32> = (before..grown).collect();
        all.extend(blocks);
        stored.insert(name.clone(), all.into_iter().collect());
    }
    stored
}

fn blocks_of(file: &File) -> u32 {
    u32::try_from(file.metadata().unwrap().len() / PAGE_SIZE as u64).unwrap()
}

/// Tablespace, database and number of a relation by its path.
fn relation(path: &str) -> (u32, u32, u32) {
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        ["global", number] => (1664, 0, number.parse().unwrap()),
        ["base", database, number] => (1663, database.parse().unwrap(), number.parse().unwrap()),
        _ => panic!("{path}"),
    }
}

/// Goes on in the tracking file: nothing up to `from`, then these changes up to `to`.
fn track(recorded: &Recorded, changes: &[(String, Vec<u32>)], from: Lsn, to: Lsn) {
    let path = data(recorded).join(CBM_FILE);
    let mut bytes = fs::read(&path).unwrap();
    let (length, end) = complete_bytes(&bytes).unwrap();
    bytes.truncate(length);
    if end < from {
        bytes.extend(PageBuilder::empty((end.0, from.0)));
    }
    let begin = end.max(from);
    for (index, (name, blocks)) in changes.iter().enumerate() {
        let page = PageBuilder {
            is_last: index + 1 == changes.len(),
            batch: (begin.0, to.0),
            relation: relation(name),
            blocks,
            ..PageBuilder::default()
        };
        bytes.extend(page.build());
    }
    fs::write(path, bytes).unwrap();
}

/// Whether the server was asked which blocks changed.
fn was_asked(report: &Report) -> bool {
    let mut texts = report.statements.iter().map(|statement| &statement.text);
    texts.any(|text| text.contains("pg_cbm_get_changed_block"))
}

fn plain_copy(recorded: &Recorded, id: &str) -> PathBuf {
    recorded.scratch.path().join(format!("plain.{id}"))
}

fn full(recorded: &Recorded) -> String {
    recorded.set_checkpoint(TRUST.segment);
    let (output, report) = recorded.back_up_with(TRUST, &["-w"], |_| ());
    assert_success(&output);
    assert_eq!(report.unknown, Vec::<String>::new());
    // The data directory is of another moment than the recorded streams, and so is its WAL.
    for entry in fs::read_dir(data(recorded).join("pg_xlog")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    completed_id(&output)
}

fn password(way: Way) -> &'static [&'static str] {
    match way.session.ends_with("unix") {
        true => &["-w"],
        false => &["-W", PASSWORD],
    }
}

/// Makes the changes that a session was told of and takes the increment that it took.
fn increment(recorded: &Recorded, way: Way, others: &[&str]) -> (Output, Report) {
    recorded.set_checkpoint(way.segment);
    let mut words = vec!["-b", "PTRACK"];
    words.extend(password(way));
    words.extend(others);
    recorded.back_up_with(way, &words, |_| ())
}

/// What a backup has to store of ordinary pages, and nothing else.
fn assert_stores(recorded: &Recorded, id: &str, expected: &Stored) {
    let backup = backup_path(recorded, id);
    let mut stored = stored_blocks(&backup);
    stored.retain(|path, _| is_ordinary(path));
    assert_eq!(&stored, expected, "{id}");
    check_independently(&backup);
}

fn backup_path(recorded: &Recorded, id: &str) -> PathBuf {
    recorded.catalog.join("backups/dn1").join(id)
}

/// Restores a backup and compares all that recovery does not write.
fn assert_comes_back(recorded: &Recorded, id: &str) {
    let root = recorded.scratch.path();
    let target = root.join(format!("restored.{id}"));
    let moved = root.join(format!("restored.{id}.ts1"));
    let to = target.display().to_string();
    let mapping = format!("{}={}", recorded.tablespace.display(), moved.display());
    let words = [
        "restore",
        "--instance=dn1",
        "-i",
        id,
        "-D",
        &to,
        "-T",
        &mapping,
    ];
    assert_success(&gs_probackup(&words, &recorded.catalog));
    let plain = plain_copy(recorded, id);
    let own = [
        "backup_label",
        "database_map",
        "global/pg_control",
        "pg_tblspc/16385",
    ];
    // Recovery makes unlogged relations anew, and this backup the files for double writes.
    let is_remade = |path: &str| {
        let relation = path
            .split_once("_fsm")
            .map_or(path, |(relation, _)| relation);
        path.starts_with("global/pg_dw") || plain.join(format!("{relation}_init")).exists()
    };
    let manifest = |root: &Path| {
        let mut lines = fixtures::manifest(root);
        lines.retain(|path, _| {
            is_backed_up(path) && !own.contains(&path.as_str()) && !is_remade(path)
        });
        lines
    };
    let (mut expected, mut found) = (manifest(&plain), manifest(&target));
    let packed: Vec<String> = expected.keys().cloned().collect();
    for path in packed.iter().filter(|path| path.ends_with("_compress")) {
        let same = logical_pages(&plain.join(path)) == logical_pages(&target.join(path));
        assert!(same, "{path}");
        expected.remove(path);
        found.remove(path);
    }
    let differences = fixtures::differences(&expected, &found);
    assert!(differences.is_empty(), "{id}:\n{}", differences.join("\n"));
    for path in [target, moved, plain] {
        let _ = fs::remove_dir_all(path);
    }
}

#[test]
fn chain_by_the_answers_of_the_server_comes_back_from_every_member() {
    let Some(recorded) = Recorded::create() else {
        return;
    };
    let mut parent = full(&recorded);
    let mut taken = Vec::new();
    for (session, user, algorithm) in [
        ("sha_ptrack", "bk_sha", "zlib"),
        ("md5_ptrack", "bk_md5", "none"),
        ("sm3_ptrack", "bk_sm3", "lz4"),
        ("trust_ptrack_unix", "omm", "zstd"),
        ("omm_tcp_password_ptrack", "omm", "pglz"),
    ] {
        let way = way(session, user, &recorded.gauss);
        let changes = recorded_changes(&recorded.gauss, session);
        let expected = change(&recorded, &changes, way.segment);
        let compress = format!("--compress-algorithm={algorithm}");
        let (output, report) = increment(&recorded, way, &[&compress]);
        assert_success(&output);
        assert_eq!(report.unknown, Vec::<String>::new(), "{output:#?}");
        assert!(was_asked(&report), "{session}: the files end too early");
        assert_eq!(report.backups_in_progress, 0);
        let said = format!("INFO: Parent backup: {parent}");
        assert!(output.stderr.contains(&said), "{output:#?}");
        let id = completed_id(&output);
        copy_tree(&data(&recorded), &plain_copy(&recorded, &id));
        assert_stores(&recorded, &id, &expected);
        taken.push(id.clone());
        parent = id;
    }
    let validate = ["validate", "--instance=dn1", "-j2"];
    assert_success(&gs_probackup(&validate, &recorded.catalog));
    for id in taken.iter().rev() {
        assert_comes_back(&recorded, id);
    }
}

#[test]
fn increment_by_the_files_of_the_server_is_that_of_its_answers() {
    let Some(recorded) = Recorded::create() else {
        return;
    };
    full(&recorded);
    let way = way("trust_ptrack_unix", "omm", &recorded.gauss);
    let changes = recorded_changes(&recorded.gauss, way.session);
    let expected = change(&recorded, &changes, way.segment);
    let (from, to) = (position(TRUST.segment), position(way.segment));
    track(&recorded, &changes, from, to);
    let (output, report) = increment(&recorded, way, &["--compress-algorithm=lz4"]);
    assert_success(&output);
    assert!(!was_asked(&report), "the files say all: {output:#?}");
    for line in [
        format!("INFO: change bitmap start lsn location is {from}"),
        format!("INFO: change bitmap end lsn location is {to}"),
    ] {
        assert!(output.stderr.contains(&line), "{output:#?}");
    }
    let id = completed_id(&output);
    copy_tree(&data(&recorded), &plain_copy(&recorded, &id));
    assert_stores(&recorded, &id, &expected);
    assert_comes_back(&recorded, &id);
}

/// What stands between a FULL backup and the increment that was recorded first.
struct Trouble {
    recorded: Recorded,
    stored: Stored,
    full: String,
}

impl Trouble {
    fn create() -> Option<Trouble> {
        let recorded = Recorded::create()?;
        let full = full(&recorded);
        let changes = recorded_changes(&recorded.gauss, SHA.session);
        let stored = change(&recorded, &changes, SHA.segment);
        recorded.set_checkpoint(SHA.segment);
        Some(Trouble {
            recorded,
            stored,
            full,
        })
    }

    fn try_with(&self, others: &[&str], tracking: Tracking) -> (Output, Report) {
        let mut words = vec!["-b", "PTRACK"];
        words.extend(password(SHA));
        words.extend(others);
        let set = |replay: &Replay| replay.set_tracking(tracking);
        self.recorded.back_up_with(SHA, &words, set)
    }

    /// The increment fails soon, with these lines, leaves the server in order, and is no parent.
    #[track_caller]
    fn assert_fails(&self, tracking: Tracking, others: &[&str], error: &str, hint: Option<&str>) {
        let begin = Instant::now();
        let (output, report) = self.try_with(others, tracking);
        assert!(begin.elapsed() < SOON, "{output:#?}");
        assert_eq!(output.code, Some(1), "{output:#?}");
        let lines: Vec<&str> = output.stderr.lines().collect();
        let of = |prefix: &str| {
            let found = lines.iter().filter_map(|line| line.strip_prefix(prefix));
            found.collect::<Vec<&str>>()
        };
        assert_eq!(of("ERROR: "), [error], "{output:#?}");
        assert_eq!(of("HINT: "), hint.into_iter().collect::<Vec<_>>());
        assert_eq!(report.backups_in_progress, 0);
        let statuses = self.statuses();
        assert_eq!(statuses.first(), Some(&("FULL", "OK")), "{statuses:?}");
        let failed = &statuses[1..];
        assert!(!failed.is_empty() && failed.iter().all(|status| *status == ("PTRACK", "ERROR")));
    }

    /// Mode and status of all backups, oldest first.
    fn statuses(&self) -> Vec<(&'static str, &'static str)> {
        let words = ["show", "--instance=dn1", "--format=json"];
        let output = gs_probackup(&words, &self.recorded.catalog);
        assert_success(&output);
        let shown: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
        let backups = shown["backup_info"][0]["backups"]
            .as_array()
            .unwrap_or_else(|| panic!("{shown}"));
        let known = |text: &serde_json::Value| {
            let all = [
                "FULL", "PTRACK", "OK", "ERROR", "RUNNING", "CORRUPT", "DONE",
            ];
            *all.iter().find(|known| text == **known).unwrap()
        };
        let backups = backups.iter().rev();
        let pairs = backups.map(|backup| (known(&backup["backup-mode"]), known(&backup["status"])));
        pairs.collect()
    }

    /// The increment is possible now, and grows on the FULL backup.
    fn assert_succeeds(&self, others: &[&str], tracking: Tracking) {
        let (output, _) = self.try_with(others, tracking);
        assert_success(&output);
        let said = format!("INFO: Parent backup: {}", self.full);
        assert!(output.stderr.contains(&said), "{output:#?}");
        let id = completed_id(&output);
        copy_tree(&data(&self.recorded), &plain_copy(&self.recorded, &id));
        assert_stores(&self.recorded, &id, &self.stored);
        assert_comes_back(&self.recorded, &id);
    }
}

const HINT: &str =
    "with enable_cbm_tracking = on, take a FULL backup; -b DELTA does without tracking";

fn positions(positions: &[&str]) -> Tracking {
    let positions = positions.iter().map(|text| Some((*text).to_owned()));
    Tracking {
        positions: positions.collect(),
        refusal: None,
    }
}

fn refused(words: &str) -> Tracking {
    Tracking {
        positions: Vec::new(),
        refusal: Some(words.to_owned()),
    }
}

#[test]
fn tracking_that_is_off_or_stands_still_is_said_soon() {
    let Some(trouble) = Trouble::create() else {
        return;
    };
    let off = Tracking {
        positions: vec![None],
        refusal: None,
    };
    let words = "cannot get cbm tracked lsn location, maybe enable_cbm_tracking is off: switch it \
                 on and take a FULL backup";
    trouble.assert_fails(off, &[], words, Some(HINT));
    let behind = positions(&["00000000/25000000"]);
    let words = "changed blocks are tracked up to 0/25000000 only, 16777256 bytes before \
                 0/26000028, and no further for 2 seconds: check that enable_cbm_tracking is on \
                 and the CBM writer runs";
    trouble.assert_fails(behind, &["--archive-timeout=2"], words, Some(HINT));
    let words = "invalid row of pg_cbm_get_changed_block: tracked location nonsense";
    trouble.assert_fails(positions(&["nonsense"]), &[], words, None);
    // As long as it moves, it is waited for: ten steps take longer than the patience.
    let steps: Vec<String> = (0..10)
        .map(|step| format!("00000000/25{step:X}00000"))
        .chain(["00000000/26000028".to_owned()])
        .collect();
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    trouble.assert_succeeds(&["--archive-timeout=1"], positions(&steps));
}

/// Our line about a refused question for blocks.
fn query_failed(words: &str) -> String {
    format!(
        "query failed: ERROR:  {words} query was: SELECT path, rel_dropped, rel_created, \
         rel_truncated, truncate_blocknum, changed_block_number, changed_block_list FROM \
         pg_catalog.pg_cbm_get_changed_block($1, $2)"
    )
}

#[test]
fn changes_that_are_not_all_known_are_no_increment() {
    let Some(trouble) = Trouble::create() else {
        return;
    };
    // The server's words, as recorded of another range.
    let words = "could not find valid CBM file that contains the merging start point \
                 00000000/24000028";
    let error = format!(
        "changed blocks since 0/24000028 are not all tracked, or their files are damaged, so a \
         FULL backup is needed: {}",
        query_failed(words)
    );
    trouble.assert_fails(refused(words), &[], &error, Some(HINT));
    let other = "out of memory";
    trouble.assert_fails(refused(other), &[], &query_failed(other), None);
    // Files with a hole: the next one begins behind the end of the one before.
    let (from, to) = (position(TRUST.segment), position(SHA.segment));
    let root = data(&trouble.recorded);
    let before = fs::read(root.join(CBM_FILE)).unwrap();
    let (_, end) = complete_bytes(&before).unwrap();
    let ended = root.join(format!(
        "pg_cbm/pg_xlog_1_0000000002619030_{:016X}.cbm",
        end.0
    ));
    fs::rename(root.join(CBM_FILE), &ended).unwrap();
    let next = |start: Lsn| {
        let name = format!("pg_cbm/pg_xlog_2_{:016X}_{:016X}.cbm", start.0, 0);
        let path = root.join(name);
        fs::write(&path, PageBuilder::empty((start.0, to.0))).unwrap();
        path
    };
    let path = next(Lsn(from.0 + 0x100));
    let error = format!(
        "changed blocks from {end} to 0/24000128 were not tracked: enable_cbm_tracking was off, or \
         files are missing; a FULL backup is needed"
    );
    trouble.assert_fails(Tracking::default(), &[], &error, Some(HINT));
    // Nothing at all from before: tracking was switched on too late.
    fs::remove_file(&ended).unwrap();
    let error = "changed blocks are tracked from 0/24000128 on, not from 0/24000028: a FULL backup \
                 is needed";
    trouble.assert_fails(Tracking::default(), &[], error, Some(HINT));
    fs::remove_file(path).unwrap();
    // A damaged file: the server, which reads it too, has the last word.
    let path = next(Lsn(from.0));
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, bytes).unwrap();
    let words = "CBM file \"pg_xlog_2\" is damaged";
    let error = format!(
        "changed blocks since 0/24000028 are not all tracked, or their files are damaged, so a \
         FULL backup is needed: {}",
        query_failed(words)
    );
    trouble.assert_fails(refused(words), &[], &error, Some(HINT));
    // No files that we may read at all: the server's answer does.
    fs::remove_dir_all(root.join("pg_cbm")).unwrap();
    fs::create_dir(root.join("pg_cbm")).unwrap();
    trouble.assert_succeeds(&[], Tracking::default());
}
