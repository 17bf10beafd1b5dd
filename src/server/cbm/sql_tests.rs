//! Tests of asking the server for changed blocks.

use super::{CbmError, CbmWait, ChangedBlockRows, changed_blocks_by_sql, wait_until_tracked};
use crate::format::fixtures;
use crate::server::{Rows, ServerError, Sql};
use crate::types::{ChangedBlocks, FileChanges, Lsn};
use std::cell::RefCell;
use std::error::Error;
use std::time::Duration;

/// The rows of a recorded answer.
pub(super) fn recorded_rows(answer: &str) -> Option<Vec<Vec<String>>> {
    let bytes = fixtures::file(&format!("cbm/changed_block_{answer}.txt"))?;
    let text = String::from_utf8(bytes).unwrap();
    let rows = text.lines().filter(|line| line.contains('|')).skip(1);
    let rows: Vec<Vec<String>> = rows
        .map(|line| line.split('|').map(str::to_owned).collect())
        .collect();
    assert!(rows.iter().all(|row| row.len() == 13));
    assert!(
        text.ends_with(&format!("({} rows)\n", rows.len())),
        "{answer}"
    );
    Some(rows)
}

/// A server that tracks ahead with each question, up to its last position.
struct Tracker {
    tracked: Vec<Option<&'static str>>,
    answer: Result<Vec<Vec<Option<String>>>, &'static str>,
    asked: Vec<String>,
}

impl Tracker {
    fn new(tracked: &[Option<&'static str>]) -> Tracker {
        Tracker {
            tracked: tracked.to_vec(),
            answer: Ok(Vec::new()),
            asked: Vec::new(),
        }
    }
}

impl Sql for Tracker {
    fn query(&mut self, statement: &str) -> Result<Rows, ServerError> {
        assert_eq!(statement, "SELECT pg_catalog.pg_cbm_tracked_location()");
        let now = match self.tracked.len() {
            1 => self.tracked[0],
            _ => self.tracked.remove(0),
        };
        Ok(Rows {
            columns: vec!["pg_cbm_tracked_location".to_owned()],
            rows: vec![vec![now.map(str::to_owned)]],
        })
    }

    fn query_with(&mut self, statement: &str, parameters: &[&str]) -> Result<Rows, ServerError> {
        self.asked.push(format!("{statement} {parameters:?}"));
        match &self.answer {
            Ok(rows) => Ok(Rows {
                columns: Vec::new(),
                rows: rows.clone(),
            }),
            Err(message) => Err(ServerError::Statement {
                statement: statement.to_owned(),
                severity: "ERROR".to_owned(),
                code: "XX000".to_owned(),
                message: (*message).to_owned(),
                hint: None,
            }),
        }
    }
}

/// Waits without sleeping, and notes how often.
fn waited<T>(seconds: u64, run: impl FnOnce(&CbmWait<'_>) -> T) -> (T, usize) {
    let pauses = RefCell::new(0);
    let wait = CbmWait {
        stall_timeout: Duration::from_secs(seconds),
        poll: Duration::from_secs(1),
        pause: &|_| {
            *pauses.borrow_mut() += 1;
            true
        },
    };
    let result = run(&wait);
    (result, pauses.into_inner())
}

fn row(values: [&str; 7]) -> Vec<Option<String>> {
    let value = |text: &str| (text != "NULL").then(|| text.to_owned());
    values.map(value).to_vec()
}

#[test]
fn the_wait_ends_when_tracking_arrives_however_long_it_takes_moving() {
    let moving = ["0/1", "0/2", "0/3", "0/4", "00000000/00000010"].map(Some);
    let mut sql = Tracker::new(&moving);
    let (result, pauses) = waited(2, |wait| wait_until_tracked(&mut sql, Lsn(9), wait));
    assert_eq!((result.unwrap(), pauses), (Lsn(0x10), 4));
}

#[test]
fn tracking_that_stands_still_ends_the_wait_with_what_to_check() {
    let mut sql = Tracker::new(&[Some("0/1"), Some("0/100")]);
    let (result, pauses) = waited(3, |wait| wait_until_tracked(&mut sql, Lsn(0x10A), wait));
    assert_eq!(
        result.unwrap_err().to_string(),
        "changed blocks are tracked up to 0/100 only, 10 bytes before 0/10A, and no further for 3 \
         seconds: check that enable_cbm_tracking is on and the CBM writer runs"
    );
    assert_eq!(pauses, 4);
}

#[test]
fn no_tracking_is_said_as_the_original_says_it() {
    for nothing in [None, Some("")] {
        let mut sql = Tracker::new(&[nothing]);
        let (result, _) = waited(3, |wait| wait_until_tracked(&mut sql, Lsn(9), wait));
        let text = result.unwrap_err().to_string();
        let original = "cannot get cbm tracked lsn location, maybe enable_cbm_tracking is off";
        assert!(text.starts_with(original), "{text}");
        assert!(text.contains("FULL"), "{text}");
    }
    let mut sql = Tracker::new(&[Some("nonsense")]);
    let (result, _) = waited(3, |wait| wait_until_tracked(&mut sql, Lsn(9), wait));
    assert!(matches!(result, Err(CbmError::Row { .. })));
}

#[test]
fn the_wait_can_be_interrupted() {
    let mut sql = Tracker::new(&[Some("0/1")]);
    let wait = CbmWait {
        stall_timeout: Duration::MAX,
        poll: Duration::ZERO,
        pause: &|_| false,
    };
    let result = wait_until_tracked(&mut sql, Lsn(9), &wait);
    let Err(CbmError::Server(error)) = result else {
        panic!("interrupted");
    };
    assert!(matches!(*error, ServerError::Interrupted));
}

#[test]
fn the_server_is_asked_for_the_range_with_the_columns_that_the_original_leaves_out() {
    let mut sql = Tracker::new(&[Some("0/20")]);
    sql.answer = Ok(vec![
        row(["base/5/7", "f", "f", "f", "NULL", "2", "1, 4"]),
        row(["base/5/7", "f", "f", "f", "NULL", "1", "9"]),
        row(["base/5/8", "t", "f", "f", "NULL", "0", "NULL"]),
    ]);
    let range = (Lsn(0x10), Lsn(0x20));
    let (changed, _) = waited(1, |wait| {
        changed_blocks_by_sql(&mut sql, range.0, range.1, wait)
    });
    let changed = changed.unwrap();
    assert_eq!(
        sql.asked,
        [
            "SELECT path, rel_dropped, rel_created, rel_truncated, truncate_blocknum, \
             changed_block_number, changed_block_list \
             FROM pg_catalog.pg_cbm_get_changed_block($1, $2) [\"0/10\", \"0/20\"]"
        ]
    );
    assert!(matches!(changed.file("base/5/8"), FileChanges::All));
    let (_, changes) = changed.forks().next().unwrap();
    assert_eq!(changes.blocks.iter().collect::<Vec<_>>(), [1, 4, 9]);
}

#[test]
fn a_hole_that_the_server_reports_needs_a_full_backup() {
    for (message, not_tracked) in [
        (
            "could not find valid CBM file that contains the merging start point 0/1",
            true,
        ),
        ("there is a gap between CBM file a and b", true),
        (
            "permission denied for function pg_cbm_get_changed_block",
            false,
        ),
    ] {
        let mut sql = Tracker::new(&[Some("0/20")]);
        sql.answer = Err(message);
        let (result, _) = waited(1, |wait| {
            changed_blocks_by_sql(&mut sql, Lsn(1), Lsn(9), wait)
        });
        let error = result.unwrap_err();
        assert_eq!(
            matches!(error, CbmError::NotTracked { .. }),
            not_tracked,
            "{message}"
        );
        assert_eq!(error.to_string().contains("FULL"), not_tracked, "{error}");
        let first: &dyn Error = &error;
        let causes = std::iter::successors(Some(first), |cause| Error::source(*cause));
        let said = causes.map(ToString::to_string).collect::<Vec<_>>();
        assert!(said.iter().any(|text| text.contains(message)), "{said:?}");
    }
    let mut sql = Tracker::new(&[Some("0/20")]);
    let (result, _) = waited(1, |wait| {
        changed_blocks_by_sql(&mut sql, Lsn(9), Lsn(1), wait)
    });
    assert!(matches!(result, Err(CbmError::Order { .. })));
}

#[test]
fn rows_that_no_server_sends_are_refused() {
    let good = ["base/5/7", "f", "f", "f", "NULL", "2", "1, 4"];
    let push = |values: &[Option<String>]| ChangedBlockRows::new().push(values);
    push(&row(good)).unwrap();
    let many = "1".repeat(1000);
    for (at, value) in [
        (0, "NULL"),
        (0, "../etc/passwd"),
        (0, "base/5/\u{1b}"),
        (1, "NULL"),
        (1, "true"),
        (2, "x"),
        (3, "t"),
        (3, ""),
        (4, "7"),
        (4, "-1"),
        (5, "NULL"),
        (5, "3"),
        (5, "+2"),
        (5, "4294967295"),
        (6, "NULL"),
        (6, "1,4"),
        (6, "1, 4, "),
        (6, "1, x"),
        (6, "1, -4"),
        (6, "1, 4294967295"),
        (6, many.as_str()),
    ] {
        let mut values = row(good);
        values[at] = row([value; 7]).remove(0);
        let error = push(&values).unwrap_err();
        assert!(matches!(error, CbmError::Row { .. }), "{at} {value}");
        let text = error.to_string();
        assert!(text.len() < 200 && !text.contains('\u{1b}'), "{text}");
    }
    assert!(push(&row(good)[..6]).is_err());
    let truncated = row(["base/5/7", "f", "f", "t", "3", "0", "NULL"]);
    push(&truncated).unwrap();
}

#[test]
fn directories_in_the_answer_mean_all_their_files() {
    let mut rows = ChangedBlockRows::new();
    for values in [
        ["base/16390", "f", "t", "f", "NULL", "0", "NULL"],
        ["base/5", "f", "f", "t", "0", "0", "NULL"],
        ["global", "f", "f", "t", "0", "0", "NULL"],
    ] {
        rows.push(&row(values)).unwrap();
    }
    let changed: ChangedBlocks = rows.finish();
    assert_eq!(changed.directories().collect::<Vec<_>>(), ["base/16390"]);
    assert!(matches!(changed.file("base/16390/1259"), FileChanges::All));
    assert!(matches!(changed.file("base/5/1259"), FileChanges::None));
}
