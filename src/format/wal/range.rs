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
use super::reader::{SegmentBytes, WalReader};
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
pub fn check_range<F, S, E>(request: &RangeRequest, segments: F) -> Result<WalRange, WalError>
where
    F: FnMut(u64) -> Result<Option<S>, E>,
    S: SegmentBytes,
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
fn reaches<F, S, E>(
    reader: &mut WalReader<F, S>,
    last: &Record,
    stop: Lsn,
) -> Result<bool, WalError>
where
    F: FnMut(u64) -> Result<Option<S>, E>,
    S: SegmentBytes,
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

#[cfg(test)]
mod tests {
    use super::super::builder::{
        COMMIT_TIME, DIALECTS, SEGMENT_BYTES, SYSTEM_IDENTIFIER, TIMELINE, WalBuilder,
    };
    use super::super::page::header_bytes;
    use super::*;

    fn request(wal: &WalBuilder, stop: Lsn) -> RangeRequest {
        RangeRequest {
            dialect: wal.dialect,
            timeline: TIMELINE,
            segment_bytes: SEGMENT_BYTES,
            system_identifier: Some(SYSTEM_IDENTIFIER),
            start: Lsn(WalBuilder::base().0 + 40),
            stop,
        }
    }

    fn check(wal: &WalBuilder, stop: Lsn) -> Result<WalRange, WalError> {
        check_range(&request(wal, stop), wal.segments())
    }

    /// Short and long records, a switch, boundaries of pages and segments.
    fn some_wal(dialect: WalDialect) -> WalBuilder {
        let mut wal = WalBuilder::new(dialect);
        wal.record(1, 0x00, &COMMIT_TIME.to_le_bytes());
        wal.record(9, 0, &[7; 13]);
        wal.record(9, 0, &[8; 9001]);
        wal.fill_page(0);
        wal.switch();
        wal.fill_page(16);
        wal.record(9, 0, &[9; 61]);
        wal
    }

    #[test]
    fn any_flipped_byte_from_start_to_stop_is_noticed() {
        for dialect in DIALECTS {
            let mut wal = some_wal(dialect);
            let stop = wal.position();
            // Not needed, and not looked at.
            wal.record(9, 0, b"after");
            let range = check(&wal, stop).unwrap();
            assert_eq!(range.records, 7);
            assert_eq!(range.last.end, stop);
            assert_eq!(range.last_time, Some(1_795_240_369_000_000));
            let start = request(&wal, stop).start;
            for at in start.0..stop.0 {
                let page = Lsn(at - at % 8192);
                // Every bit of page headers; of other bytes one, a CRC does not know which.
                let in_header = at - page.0 < 40;
                for bit in (0..8).filter(|bit| in_header || at % 8 == *bit) {
                    // The flag without meaning.
                    if at - page.0 == 2 && bit == 2 {
                        continue;
                    }
                    *wal.byte(Lsn(at)) ^= 1 << bit;
                    let result = check(&wal, stop);
                    assert!(result.is_err(), "{dialect:?} {} bit {bit}", Lsn(at));
                    *wal.byte(Lsn(at)) ^= 1 << bit;
                }
            }
            *wal.byte(Lsn(stop.0 + 9)) ^= 1;
            assert!(check(&wal, stop).is_ok());
        }
    }

    #[test]
    fn the_range_ends_with_the_record_that_holds_the_stop_position() {
        for dialect in DIALECTS {
            let mut wal = WalBuilder::new(dialect);
            let first = wal.record(9, 0, &[1; 100]);
            let second = wal.record(9, 0, &[2; 100]);
            let end = wal.position();
            for (stop, last) in [
                (first, first),
                (Lsn(first.0 + 1), first),
                (second, first),
                (Lsn(second.0 + 1), second),
                (end, second),
            ] {
                assert_eq!(check(&wal, stop).unwrap().last.start, last);
            }
            let error = check(&wal, Lsn(end.0 + 1)).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "WAL ends at {end}, before {}: no record was written there",
                    Lsn(end.0 + 1)
                )
            );
            let error = check(&wal, Lsn(first.0 - 8)).unwrap_err();
            assert!(matches!(error, WalError::Range { .. }));
        }
    }

    #[test]
    fn a_stop_position_behind_a_page_header_needs_that_header() {
        for dialect in DIALECTS {
            for fill_segment in [false, true] {
                let mut wal = WalBuilder::new(dialect);
                wal.record(9, 0, b"x");
                let last = wal.fill_page(0);
                let last = if fill_segment { wal.switch() } else { last };
                let boundary = wal.position();
                let header = header_bytes(boundary, SEGMENT_BYTES) as u64;
                let stop = Lsn(boundary.0 + header);
                assert_eq!(check(&wal, boundary).unwrap().last.start, last);
                let error = check(&wal, stop).unwrap_err();
                assert!(matches!(error, WalError::EndsEarly { .. }), "{error:?}");
                wal.record(9, 0, b"next");
                assert_eq!(check(&wal, stop).unwrap().last.start, last);
                *wal.byte(Lsn(boundary.0 + 20)) = 1;
                assert!(check(&wal, stop).is_err());
                assert!(check(&wal, boundary).is_ok());
            }
        }
    }

    #[test]
    fn a_stop_position_behind_a_switch_does_not_need_the_next_segment() {
        for dialect in DIALECTS {
            let mut wal = WalBuilder::new(dialect);
            wal.record(9, 0, b"x");
            let switch = wal.switch();
            let end = wal.position();
            for stop in [
                switch.0 + 40,
                end.0 - 9000,
                end.0 - 8192,
                end.0 - 8180,
                end.0,
            ] {
                assert_eq!(check(&wal, Lsn(stop)).unwrap().last.start, switch);
            }
            // Damage behind the stop position is not its business.
            *wal.byte(Lsn(end.0 - 100)) = 1;
            assert!(check(&wal, Lsn(end.0 - 100)).is_ok());
            assert!(check(&wal, Lsn(end.0 - 99)).is_err());
        }
    }

    #[test]
    fn a_missing_segment_is_named() {
        let mut wal = WalBuilder::new(DIALECTS[0]);
        wal.record(9, 0, b"x");
        wal.switch();
        let end = wal.position();
        let error = check(&wal, Lsn(end.0 + 0x48)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "WAL ends at 0/20000, before 0/20048: \
             WAL segment \"000000010000000000000004\" is absent"
        );
    }
}
