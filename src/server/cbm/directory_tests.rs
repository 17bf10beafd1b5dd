//! Tests of reading the directory of changed block maps, with what a real server wrote and
//! answered.

use super::directory::{read_cbm_directory, read_map};
use super::sql_tests::recorded_rows;
use super::{CbmError, ChangedBlockRows};
use crate::format::cbm::builder::PageBuilder;
use crate::format::cbm::{CbmPageFault, CbmRow};
use crate::format::fixtures;
use crate::types::{ChangedBlocks, FileChanges, Lsn};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// The version directory of the server that made the recordings.
const VERSION: &str = "PG_9.2_201611171_single";

/// The files of the recorded directory.
const NAMES: [&str; 3] = [
    "pg_merged_xlog_0000000004000028_000000000A000028_1795240831-640512.cbm",
    "pg_merged_xlog_000000000A000028_0000000010000028_1795240831-662079.cbm",
    "pg_xlog_1_0000000002619030_0000000000000000.cbm",
];

/// The recorded answers: file and range.
const ANSWERS: [(&str, u64, u64); 6] = [
    ("none_full-ptrack1", 0x300_0028, 0x900_0028),
    ("none_full-ptrack2", 0x300_0028, 0xF00_0028),
    ("none_ptrack1-ptrack2", 0x900_0028, 0xF00_0028),
    ("zlib_full-ptrack1", 0x400_0028, 0xA00_0028),
    ("zlib_full-ptrack2", 0x400_0028, 0x1000_0028),
    ("zlib_ptrack1-ptrack2", 0xA00_0028, 0x1000_0028),
];

type Files = BTreeMap<String, Vec<u8>>;

fn open(files: &Files) -> impl Fn(&str) -> io::Result<Vec<u8>> + Sync + '_ {
    |name| {
        files
            .get(name)
            .cloned()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

fn read(files: &Files, from: u64, to: u64) -> Result<ChangedBlocks, CbmError> {
    let names: Vec<&String> = files.keys().collect();
    read_cbm_directory(&names, open(files), Lsn(from), Lsn(to))
}

fn recorded_files() -> Option<Files> {
    NAMES
        .iter()
        .map(|name| {
            let bytes = fixtures::file(&format!("cbm/pg_cbm/{name}"))?;
            Some(((*name).to_owned(), bytes))
        })
        .collect()
}

/// The columns of a row but for the first two, as the recordings have them.
fn printed(row: &CbmRow<'_>) -> String {
    let relation = row.fork.relation;
    let letter = |yes: bool| if yes { "t" } else { "f" };
    let truncated = row.changes.truncated_at;
    let blocks: Vec<String> = row
        .changes
        .blocks
        .iter()
        .map(|block| block.to_string())
        .collect();
    [
        relation.tablespace.to_string(),
        relation.database.to_string(),
        relation.relation.to_string(),
        row.fork.fork.to_string(),
        row.fork.path(VERSION),
        letter(row.changes.dropped).to_owned(),
        letter(row.changes.created).to_owned(),
        letter(truncated.is_some()).to_owned(),
        truncated.map(|block| block.to_string()).unwrap_or_default(),
        blocks.len().to_string(),
        blocks.join(", "),
    ]
    .join("|")
}

#[test]
fn our_reading_of_the_files_is_the_answer_of_the_server_row_by_row() {
    let Some(files) = recorded_files() else {
        return;
    };
    let names: Vec<&String> = files.keys().collect();
    for (answer, from, to) in ANSWERS {
        let Some(rows) = recorded_rows(answer) else {
            return;
        };
        let theirs: BTreeSet<String> = rows.iter().map(|row| row[2..].join("|")).collect();
        let map = read_map(&names, open(&files), Lsn(from), Lsn(to)).unwrap();
        let ours: BTreeSet<String> = map.rows().map(|row| printed(&row)).collect();
        assert_eq!(ours, theirs, "{answer}");
        assert!(ours.len() >= 37, "{answer}");
    }
}

#[test]
fn files_and_answers_give_the_same_changed_blocks() {
    let Some(files) = recorded_files() else {
        return;
    };
    for (answer, from, to) in ANSWERS {
        let Some(rows) = recorded_rows(answer) else {
            return;
        };
        let mut by_sql = ChangedBlockRows::new();
        for row in rows {
            let columns = [6, 7, 8, 9, 10, 11, 12];
            let value = |at: usize| Some(row[at].clone()).filter(|text| !text.is_empty());
            by_sql.push(&columns.map(value)).unwrap();
        }
        let by_sql = by_sql.finish();
        let by_files = read(&files, from, to).unwrap();
        assert_eq!(by_files, by_sql, "{answer}");
        let file = |path: &str| format!("{:?}", by_files.file(path));
        assert_eq!(
            file("base/16384/1"),
            format!("{:?}", by_sql.file("base/16384/1"))
        );
    }
}

#[test]
fn recorded_changes_are_found_by_the_names_of_files() {
    let Some(files) = recorded_files() else {
        return;
    };
    let changed = read(&files, 0x400_0028, 0xA00_0028).unwrap();
    let tablespace = format!("pg_tblspc/16385/{VERSION}/16384/16444");
    let blocks = |path: &str| match changed.file(path) {
        FileChanges::None => Some(vec![]),
        FileChanges::All => None,
        FileChanges::Blocks(blocks) => Some(
            blocks
                .ranges(0)
                .flat_map(|range| range.start.0..range.end.0)
                .collect(),
        ),
    };
    assert_eq!(blocks(&tablespace), Some(vec![1]));
    assert_eq!(blocks("base/16384/2"), Some(vec![4165, 4207, 4214, 16383]));
    assert_eq!(
        blocks("base/16384/16432_compress"),
        Some((98..103).collect())
    );
    assert_eq!(blocks("base/16384/16402_C1.0"), None);
    assert_eq!(blocks("base/16384/16470"), None);
    assert_eq!(
        blocks("undo/permanent/00000.0000000"),
        Some(vec![25, 26, 27])
    );
    assert_eq!(blocks("base/16384/2.1"), Some(vec![]));
}

#[test]
fn every_position_of_the_recorded_range_has_an_answer_and_none_outside() {
    let Some(files) = recorded_files() else {
        return;
    };
    let (start, end) = (0x261_9030, 0x1D00_0028);
    for at in [start, start + 1, 0x300_0027, 0x300_0029, end - 1, end] {
        read(&files, start, at).unwrap();
        read(&files, at, end).unwrap();
    }
    let early = read(&files, start - 1, end).unwrap_err();
    assert_eq!(
        early.to_string(),
        "changed blocks are tracked from 0/2619030 on, not from 0/261902F: a FULL backup is needed"
    );
    let late = read(&files, start, end + 10).unwrap_err();
    assert!(late.is_temporary());
    assert_eq!(
        late.to_string(),
        "changed blocks are tracked up to 0/1D000028 only, 10 bytes before 0/1D000032"
    );
    // Narrower ranges have no more than wider ones.
    let wide = read(&files, start, end).unwrap();
    let mut both = read(&files, start, 0x900_0028).unwrap();
    both.union(read(&files, 0x900_0028, end).unwrap());
    let paths = |changed: &ChangedBlocks| {
        let paths = changed.forks().map(|(path, _)| path.to_owned());
        paths.collect::<BTreeSet<_>>()
    };
    assert!(paths(&wide).is_subset(&paths(&both)));
}

#[test]
fn damage_in_the_recorded_file_is_found_wherever_it_is() {
    let Some(mut files) = recorded_files() else {
        return;
    };
    let (from, to) = (0x300_0028, 0x900_0028);
    let length = files[NAMES[2]].len();
    for at in (0..length).step_by(509) {
        files.get_mut(NAMES[2]).unwrap()[at] ^= 0x10;
        let result = read(&files, from, to);
        // The damaged batch may be the last one: then the file ends before it.
        let error = matches!(result, Err(CbmError::Damaged { .. }));
        assert!(error || at >= length - 4 * 512, "{at}");
        files.get_mut(NAMES[2]).unwrap()[at] ^= 0x10;
    }
}

/// Files of one page each: sequence, start, end as in the name, and whether it has pages.
fn made(parts: &[(u64, u64, u64)]) -> Files {
    let mut files = Files::new();
    for &(sequence, start, end) in parts {
        let named = end % 1000;
        let name = format!("pg_xlog_{sequence}_{start:016X}_{named:016X}.cbm");
        let end = if end >= 1000 { end / 1000 } else { end };
        let block = [u32::try_from(sequence).unwrap()];
        let page = PageBuilder {
            batch: (start, end),
            blocks: &block,
            ..PageBuilder::default()
        };
        files.insert(name, page.build());
    }
    files
}

/// The blocks found in relation 7.
fn blocks(changed: &ChangedBlocks) -> Vec<u32> {
    let (_, changes) = changed.forks().next().expect("relation 7");
    changes.blocks.iter().collect()
}

#[test]
fn files_in_a_row_are_put_together() {
    // The file being written: no end in its name, 40 in its page.
    let files = made(&[(1, 10, 20), (2, 20, 30), (10, 30, 40_000)]);
    for (from, to, expected) in [
        (10, 40, vec![1, 2, 10]),
        (10, 20, vec![1]),
        (20, 21, vec![2]),
        (19, 21, vec![1, 2]),
        (30, 40, vec![10]),
        (29, 40, vec![2, 10]),
    ] {
        assert_eq!(
            blocks(&read(&files, from, to).unwrap()),
            expected,
            "{from} {to}"
        );
    }
    assert!(read(&files, 15, 15).unwrap().is_empty());
    assert!(matches!(read(&files, 16, 15), Err(CbmError::Order { .. })));
    assert!(matches!(
        read(&files, 9, 15),
        Err(CbmError::TooEarly { .. })
    ));
    assert!(matches!(read(&files, 10, 41), Err(CbmError::Behind { .. })));
    assert!(matches!(read(&Files::new(), 1, 2), Err(CbmError::Off)));
}

#[test]
fn a_hole_between_files_is_named_unless_the_range_is_beside_it() {
    let files = made(&[(1, 10, 20), (3, 30, 40), (4, 40, 50)]);
    let error = read(&files, 15, 45).unwrap_err();
    assert_eq!(
        error.to_string(),
        "changed blocks from 0/14 to 0/1E were not tracked: enable_cbm_tracking was off, or files \
         are missing; a FULL backup is needed"
    );
    assert!(!error.is_temporary());
    assert!(matches!(read(&files, 22, 45), Err(CbmError::Hole { .. })));
    assert_eq!(blocks(&read(&files, 10, 20).unwrap()), [1]);
    assert_eq!(blocks(&read(&files, 30, 50).unwrap()), [3, 4]);
    // A file that was being written when its follower began.
    let files = made(&[(1, 10, 20_000), (2, 21, 30)]);
    assert!(matches!(read(&files, 10, 30), Err(CbmError::Hole { .. })));
    let files = made(&[(1, 10, 20_000), (2, 20, 30)]);
    assert_eq!(blocks(&read(&files, 10, 30).unwrap()), [1, 2]);
}

#[test]
fn a_file_renamed_while_the_directory_is_listed_counts_once() {
    let mut files = made(&[(1, 10, 20), (2, 20, 30_000)]);
    files.insert(
        "pg_xlog_1_000000000000000A_0000000000000000.cbm".to_owned(),
        vec![],
    );
    assert_eq!(blocks(&read(&files, 10, 30).unwrap()), [1, 2]);
    // A file just begun has no pages yet.
    files.insert(
        "pg_xlog_3_000000000000001E_0000000000000000.cbm".to_owned(),
        vec![],
    );
    files.remove("pg_xlog_2_0000000000000014_0000000000000000.cbm");
    files.extend(made(&[(2, 20, 30)]));
    assert_eq!(blocks(&read(&files, 10, 30).unwrap()), [1, 2]);
    assert!(matches!(
        read(&files, 10, 31),
        Err(CbmError::Behind {
            tracked: Lsn(30),
            wanted: Lsn(31)
        })
    ));
    let names = ["pg_xlog_9_0000000000000001_0000000000000000.cbm"];
    let error = read_cbm_directory(&names, open(&files), Lsn(1), Lsn(2)).unwrap_err();
    assert!(matches!(error, CbmError::Open { name, .. } if name == names[0]));
}

#[test]
fn a_torn_end_counts_only_in_the_file_being_written() {
    let mut files = made(&[(1, 10, 20_000)]);
    let name = files.keys().next().unwrap().clone();
    let torn = PageBuilder {
        batch: (20, 30),
        is_last: false,
        blocks: &[5],
        ..PageBuilder::default()
    };
    let bytes = files.get_mut(&name).unwrap();
    bytes.extend(torn.build());
    bytes.extend([1; 100]);
    assert_eq!(blocks(&read(&files, 10, 20).unwrap()), [1]);
    assert!(matches!(
        read(&files, 10, 30),
        Err(CbmError::Behind {
            tracked: Lsn(20),
            wanted: Lsn(30)
        })
    ));
    let bytes = files.remove(&name).unwrap();
    let closed = Files::from([(
        "pg_xlog_1_000000000000000A_000000000000001E.cbm".to_owned(),
        bytes,
    )]);
    let Err(CbmError::Damaged { fault, .. }) = read(&closed, 10, 20) else {
        panic!("damaged");
    };
    assert_eq!(
        (fault.offset, fault.fault),
        (1024, CbmPageFault::Length { found: 100 })
    );
}
