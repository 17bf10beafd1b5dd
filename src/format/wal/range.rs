//! Proves that the WAL a backup needs is there and whole.
//!
//! A backup is consistent once replay has passed its stop position. That position is the *end* of a
//! record, aligned to 8 bytes, which is where the next record starts: seen in catalogs of the
//! original, where `stop-lsn = 0/30001E8` is 0/30001B8 plus the 42 bytes of the backup-end record,
//! rounded up, and the record that starts at 0/30001E8 is the switch to the next segment. From a
//! standby it is the end of whatever record was replayed last.
//!
//! Hence the rule: **every record that starts before `stop` must be readable to its end, and so
//! must the header of a page whose header lies before `stop`.** A record that starts at `stop` is
//! not needed.

use super::WalDialect;
use super::error::{EndOfWal, WalError};
use super::reader::WalReader;
use super::record::{Record, record_time};
use crate::types::{Lsn, TimelineId};
use std::error::Error;

/// Which WAL must be whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RangeRequest {
    /// Which server wrote it.
    pub dialect: WalDialect,
    /// Its timeline.
    pub timeline: TimelineId,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// The cluster it must belong to, where that is known.
    pub system_identifier: Option<u64>,
    /// Start of the first record.
    pub start: Lsn,
    /// End of the last record.
    pub stop: Lsn,
}

/// What was found in a range.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WalRange {
    /// Records read.
    pub records: u64,
    /// The last of them: the one that ends at, or contains, the stop position.
    pub last: Record,
    /// The last time that a record of the range carries, in microseconds since 1970: the backup's
    /// recovery time.
    pub last_time: Option<i64>,
}

/// Reads every record from `start` up to the one that ends at or contains `stop`; at least one.
///
/// A change of any byte from `start` to `stop` makes this fail, with two exceptions: a flag of page
/// headers without meaning (see `page.rs`), and the system identifier in the first page of a
/// segment if the request does not name it.
///
/// # Errors
/// [`WalError`]: [`WalError::EndsEarly`] where WAL ends cleanly before `stop`, others where
/// something is damaged.
pub fn check_range<F, E>(request: &RangeRequest, segments: F) -> Result<WalRange, WalError>
where
    F: FnMut(u64) -> Result<Option<Vec<u8>>, E>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let (start, stop) = (request.start, request.stop);
    if start > stop {
        return Err(WalError::Range { start, stop });
    }
    let mut reader = WalReader::new(
        request.dialect,
        request.timeline,
        request.segment_bytes,
        start,
        segments,
    );
    if let Some(system_identifier) = request.system_identifier {
        reader = reader.with_system_identifier(system_identifier);
    }
    let mut records = 0;
    let mut last_time = None;
    loop {
        let last = match reader.advance()? {
            Ok(record) => record,
            Err(reason) => return Err(ends_early(reader.position(), stop, reason)),
        };
        records += 1;
        last_time = record_time(&last).or(last_time);
        if reaches(&mut reader, &last, stop)? {
            return Ok(WalRange {
                records,
                last,
                last_time,
            });
        }
    }
}

fn ends_early(end: Lsn, stop: Lsn, reason: EndOfWal) -> WalError {
    WalError::EndsEarly { end, stop, reason }
}

/// Whether no record is left between `last`, just read, and `stop`; checks what else lies between
/// the two.
fn reaches<F, E>(reader: &mut WalReader<F>, last: &Record, stop: Lsn) -> Result<bool, WalError>
where
    F: FnMut(u64) -> Result<Option<Vec<u8>>, E>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    if stop <= last.end {
        if let Some(from) = reader.void() {
            reader.check_void(from, stop)?;
        }
        return Ok(true);
    }
    if !reader.is_in_header(stop) {
        return Ok(false);
    }
    match reader.enter_record()? {
        Ok(_) => Ok(true),
        Err(reason) => Err(ends_early(last.end, stop, reason)),
    }
}
