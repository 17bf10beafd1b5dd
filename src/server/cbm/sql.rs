//! Asks the server which blocks changed.

use super::CbmError;
use crate::limits::CHANGED_BLOCKS_BYTES_MAX;
use crate::server::{ServerError, Sql};
use crate::types::{BlockNumber, BlockSet, ChangedBlocks, ForkChanges, Lsn};
use std::time::Duration;

const TRACKED_STATEMENT: &str = "SELECT pg_catalog.pg_cbm_tracked_location()";

/// The original asks for path, number and list only, and so misses what was dropped, created or
/// truncated.
const CHANGED_STATEMENT: &str = "SELECT path, rel_dropped, rel_created, rel_truncated, \
     truncate_blocknum, changed_block_number, changed_block_list \
     FROM pg_catalog.pg_cbm_get_changed_block($1, $2)";

/// Columns of [`CHANGED_STATEMENT`].
const COLUMNS: usize = 7;

/// Characters of an invalid value that are shown.
const SHOWN_CHARS_MAX: usize = 64;

/// How long to wait for tracking.
#[derive(Clone, Copy)]
pub struct CbmWait<'a> {
    /// How long tracking may stand still.
    pub stall_timeout: Duration,
    /// How long to pause between two questions.
    pub poll: Duration,
    /// Pauses; says no when the run is to end.
    pub pause: &'a dyn Fn(Duration) -> bool,
}

impl std::fmt::Debug for CbmWait<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CbmWait")
            .field("stall_timeout", &self.stall_timeout)
            .field("poll", &self.poll)
            .finish_non_exhaustive()
    }
}

/// Waits until changes are tracked as far as `wanted`, and returns how far they are.
///
/// # Errors
/// [`CbmError::Off`] when nothing is tracked, [`CbmError::Stalled`] when tracking stands still for
/// too long, [`ServerError::Interrupted`], and what the server says.
pub fn wait_until_tracked(
    sql: &mut dyn Sql,
    wanted: Lsn,
    wait: &CbmWait<'_>,
) -> Result<Lsn, CbmError> {
    let mut before = None;
    let mut stalled = Duration::ZERO;
    loop {
        let rows = sql.query(TRACKED_STATEMENT)?;
        let text = rows
            .single()
            .filter(|text| !text.is_empty())
            .ok_or(CbmError::Off)?;
        let tracked = text.parse().map_err(|_| row("tracked location", text))?;
        if tracked >= wanted {
            return Ok(tracked);
        }
        if before.is_none_or(|before| before < tracked) {
            stalled = Duration::ZERO;
        }
        if stalled >= wait.stall_timeout {
            return Err(CbmError::Stalled {
                tracked,
                wanted,
                seconds: stalled.as_secs(),
            });
        }
        before = Some(tracked);
        if !(wait.pause)(wait.poll) {
            return Err(ServerError::Interrupted.into());
        }
        stalled += wait.poll.max(Duration::from_millis(1));
    }
}

/// Waits until changes are tracked as far as `to`, and asks for those since `from`. Rows are taken
/// as they come.
///
/// # Errors
/// As [`wait_until_tracked`]; [`CbmError::NotTracked`] when changes since `from` are not all known,
/// [`CbmError::Row`] for an answer that no server gives.
pub fn changed_blocks_by_sql(
    sql: &mut dyn Sql,
    from: Lsn,
    to: Lsn,
    wait: &CbmWait<'_>,
) -> Result<ChangedBlocks, CbmError> {
    if to < from {
        return Err(CbmError::Order { from, to });
    }
    wait_until_tracked(sql, to, wait)?;
    let range = [from.to_string(), to.to_string()];
    let mut rows = ChangedBlockRows::new();
    let mut wrong = None;
    let asked = sql.each_row(CHANGED_STATEMENT, &[&range[0], &range[1]], &mut |values| {
        rows.push(values).map_err(|error| {
            let text = error.to_string();
            wrong = Some(error);
            text
        })
    });
    if let Some(error) = wrong {
        return Err(error);
    }
    asked.map_err(|source| match &source {
        ServerError::Statement { message, .. } if message.contains("CBM file") => {
            CbmError::NotTracked {
                source: Box::new(source),
                from,
            }
        }
        _ => source.into(),
    })?;
    Ok(rows.finish())
}

/// Takes the rows of the answer one by one. The rows of one relation are united: a list of blocks
/// that is too long for one value comes in several.
#[derive(Debug)]
pub struct ChangedBlockRows {
    changed: ChangedBlocks,
}

impl Default for ChangedBlockRows {
    fn default() -> ChangedBlockRows {
        ChangedBlockRows::new()
    }
}

impl ChangedBlockRows {
    /// No rows yet.
    #[must_use]
    pub fn new() -> ChangedBlockRows {
        ChangedBlockRows {
            changed: ChangedBlocks::new(CHANGED_BLOCKS_BYTES_MAX),
        }
    }

    /// Takes a row with the columns `path, rel_dropped, rel_created, rel_truncated,
    /// truncate_blocknum, changed_block_number, changed_block_list`.
    ///
    /// # Errors
    /// [`CbmError::Row`].
    pub fn push(&mut self, values: &[Option<impl AsRef<str>>]) -> Result<(), CbmError> {
        let found: Vec<Option<&str>> = values
            .iter()
            .map(|value| value.as_ref().map(AsRef::as_ref))
            .collect();
        let found: [Option<&str>; COLUMNS] = found
            .try_into()
            .map_err(|found: Vec<_>| row("number of columns", &found.len().to_string()))?;
        let [path, dropped, created, truncated, block, count, list] = found;
        let path = path.ok_or_else(|| row("path", "NULL"))?;
        let is_truncated = parse_bool("rel_truncated", truncated)?;
        let truncated_at = block.map(|text| parse_block("truncate_blocknum", text));
        let truncated_at = truncated_at.transpose()?.map(BlockNumber);
        if is_truncated != truncated_at.is_some() {
            return Err(row("truncate_blocknum", block.unwrap_or("NULL")));
        }
        let changes = ForkChanges {
            dropped: parse_bool("rel_dropped", dropped)?,
            created: parse_bool("rel_created", created)?,
            all: false,
            truncated_at,
            blocks: parse_list(count.unwrap_or("NULL"), list.unwrap_or(""))?,
        };
        self.changed
            .record(path, changes)
            .map_err(|_| row("path", path))
    }

    /// The changes that all rows say.
    #[must_use]
    pub fn finish(self) -> ChangedBlocks {
        self.changed
    }
}

fn parse_bool(column: &'static str, value: Option<&str>) -> Result<bool, CbmError> {
    match value {
        Some("t") => Ok(true),
        Some("f") => Ok(false),
        other => Err(row(column, other.unwrap_or("NULL"))),
    }
}

/// A block number as the server prints it.
fn parse_block(column: &'static str, text: &str) -> Result<u32, CbmError> {
    let digits = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|&block| digits && block != u32::MAX)
        .ok_or_else(|| row(column, text))
}

/// Block numbers separated by comma and blank, as many as `count` says.
fn parse_list(count: &str, list: &str) -> Result<BlockSet, CbmError> {
    let expected = parse_block("changed_block_number", count)?;
    let mut blocks = BlockSet::default();
    let mut found = 0_u64;
    if !list.is_empty() {
        for text in list.split(", ") {
            blocks.insert(parse_block("changed_block_list", text)?);
            found += 1;
        }
    }
    if found != u64::from(expected) {
        return Err(row("changed_block_number", count));
    }
    Ok(blocks)
}

fn row(column: &'static str, found: &str) -> CbmError {
    CbmError::Row {
        column,
        found: found.chars().take(SHOWN_CHARS_MAX).collect(),
    }
}
