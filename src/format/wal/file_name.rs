//! Names of WAL files, and arithmetic between positions and segments.
//!
//! A segment's name is its timeline, then its number in two halves: the lower counts the segments
//! of 4 GiB of WAL.

use super::page::{LONG_HEADER_BYTES, SHORT_HEADER_BYTES};
use crate::limits::WAL_PAGE_BYTES;
use crate::types::{Lsn, TimelineId};

/// Hexadecimal digits of a segment's name.
const NAME_DIGITS: usize = 24;

/// The page size as positions count.
pub(super) const PAGE_BYTES: u64 = WAL_PAGE_BYTES as u64;

/// Segments in 4 GiB of WAL.
///
/// # Panics
/// If `segment_bytes` is not a power of two from a WAL page to 4 GiB.
fn segments_per_id(segment_bytes: u64) -> u64 {
    assert!(
        is_segment_size(segment_bytes),
        "the size of a WAL segment is checked where it is read"
    );
    (1 << 32) / segment_bytes
}

/// Whether segments can have this size at all; servers are stricter.
pub(super) fn is_segment_size(segment_bytes: u64) -> bool {
    segment_bytes.is_power_of_two() && (PAGE_BYTES..=1 << 32).contains(&segment_bytes)
}

/// The file name of segment `segno`: `000000010000000000000003`.
///
/// # Panics
/// If `segment_bytes` is not a power of two from a WAL page to 4 GiB, as `pg_control` guarantees.
#[must_use]
pub fn segment_name(tli: TimelineId, segno: u64, segment_bytes: u64) -> String {
    let per_id = segments_per_id(segment_bytes);
    format!("{:08X}{:08X}{:08X}", tli.0, segno / per_id, segno % per_id)
}

/// The timeline and number of a segment's name without suffix, or `None` where no segment of this
/// size has that name.
#[must_use]
pub fn parse_segment_name(name: &str, segment_bytes: u64) -> Option<(TimelineId, u64)> {
    if !is_wal_name(name) || !is_segment_size(segment_bytes) {
        return None;
    }
    let part = |at: usize| u32::from_str_radix(&name[at..at + 8], 16).ok();
    let per_id = segments_per_id(segment_bytes);
    let low = u64::from(part(16)?);
    if low >= per_id {
        return None;
    }
    Some((TimelineId(part(0)?), u64::from(part(8)?) * per_id + low))
}

/// Whether a file name is that of a WAL segment: 24 upper-case hexadecimal digits.
#[must_use]
pub fn is_wal_name(name: &str) -> bool {
    name.len() == NAME_DIGITS
        && name
            .bytes()
            .all(|digit| matches!(digit, b'0'..=b'9' | b'A'..=b'F'))
}

/// The number of the segment that holds the byte at `lsn`.
///
/// # Panics
/// If `segment_bytes` is zero.
#[must_use]
pub fn segment_number(lsn: Lsn, segment_bytes: u64) -> u64 {
    lsn.0 / segment_bytes
}

/// Whether a record may start at `lsn`: the test that gs_probackup makes on start and stop
/// positions.
#[must_use]
pub fn is_record_offset(lsn: Lsn) -> bool {
    lsn.0 % PAGE_BYTES >= SHORT_HEADER_BYTES as u64
}

/// Where the record starts that follows one which ended at `end`: behind the page header where
/// `end` is a page boundary.
///
/// Servers report a backup's stop position as the end of a record. gs_probackup refuses a stop
/// position that lies on a page boundary, so such a one is stored moved by this.
#[must_use]
pub fn record_position(end: Lsn, segment_bytes: u64) -> Lsn {
    if !end.0.is_multiple_of(PAGE_BYTES) {
        return end;
    }
    let header = if end.0.is_multiple_of(segment_bytes) {
        LONG_HEADER_BYTES
    } else {
        SHORT_HEADER_BYTES
    };
    Lsn(end.0.saturating_add(header as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB_16: u64 = 16 * 1024 * 1024;
    const GIB: u64 = 1024 * 1024 * 1024;

    #[test]
    fn a_segment_name_is_timeline_and_number_in_two_halves() {
        for (tli, segno, bytes, name) in [
            (1, 3, MIB_16, "000000010000000000000003"),
            (1, 255, MIB_16, "0000000100000000000000FF"),
            (1, 256, MIB_16, "000000010000000100000000"),
            (0xA, 0x1_2345, MIB_16, "0000000A0000012300000045"),
            (2, 5, GIB, "000000020000000100000001"),
        ] {
            let name_found = segment_name(TimelineId(tli), segno, bytes);
            assert_eq!(name_found, name);
            assert_eq!(
                parse_segment_name(name, bytes),
                Some((TimelineId(tli), segno))
            );
        }
    }

    #[test]
    fn a_name_that_no_segment_of_this_size_has_is_refused() {
        for name in [
            "",
            "000000010000000000000100",
            "00000001000000000000000G",
            "00000001000000000000000a",
            "00000001000000000000000",
            "0000000100000000000000033",
            "000000010000000000000003.partial",
            "00000001.history",
            "+00000010000000000000003",
        ] {
            assert_eq!(parse_segment_name(name, MIB_16), None, "{name:?}");
        }
        assert_eq!(parse_segment_name("000000010000000000000003", 0), None);
        assert_eq!(parse_segment_name("000000010000000000000004", GIB), None);
        assert!(is_wal_name("FFFFFFFFFFFFFFFFFFFFFFFF"));
        assert!(!is_wal_name("ÄÄÄÄÄÄÄÄÄÄÄÄ"));
    }

    #[test]
    fn a_record_starts_behind_a_page_header() {
        assert!(!is_record_offset(Lsn(0x300_0000)));
        assert!(!is_record_offset(Lsn(0x300_2017)));
        assert!(is_record_offset(Lsn(0x300_2018)));
        assert_eq!(record_position(Lsn(0x300_01E8), MIB_16), Lsn(0x300_01E8));
        assert_eq!(record_position(Lsn(0x300_2000), MIB_16), Lsn(0x300_2018));
        assert_eq!(record_position(Lsn(0x300_0000), MIB_16), Lsn(0x300_0028));
        assert_eq!(segment_number(Lsn(0x3FF_FFFF), MIB_16), 3);
    }
}
