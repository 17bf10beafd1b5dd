//! The arrays of `page_header_map`, uncompressed.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | LSN of the page |
//! | 8 | 4 | block in the segment file |
//! | 12 | 4 | position of the page's record in the backup file |
//! | 16 | 2 | page checksum |
//! | 18 | 6 | padding |
//!
//! One record a stored page, then one more of which only the position means anything: the size of
//! the backup file. The original leaves its other bytes and all padding uninitialised; we write
//! zeros and never look at them. Source: `BackupPageHeader2` in `pg_probackupb.h`,
//! `data.cpp:3422-3639`.

use crate::limits::{HEADER_RECORD_BYTES, PAGE_RECORD_HEADER_BYTES};
use crate::types::{Lsn, PAGE_SIZE, RELSEG_SIZE};

/// Where a stored page is in its backup file, and what it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageHeaderRecord {
    /// LSN in the page's header.
    pub lsn: Lsn,
    /// Position of the page in its segment file.
    pub block: u32,
    /// Position of the page's record in the backup file, in bytes.
    pub position: u32,
    /// The page's checksum; 0 for a page of zeros.
    pub checksum: u16,
}

/// The array of one backup file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeaderRecords {
    /// One a stored page, ascending by block and by position.
    pub records: Vec<PageHeaderRecord>,
    /// Size of the backup file in bytes.
    pub file_bytes: u32,
}

/// The bytes are no array of page headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeaderMapError {
    /// The length does not go with the count.
    #[error("page headers take {found} bytes instead of {expected} for {count} pages")]
    Length {
        /// Pages that the content list names.
        count: u32,
        /// Bytes that they need.
        expected: u64,
        /// Bytes that there are.
        found: u64,
    },
    /// No pages, or more than a segment file has.
    #[error("page headers of {count} pages: a file has 1 to {RELSEG_SIZE}")]
    Count {
        /// Pages that the content list names.
        count: u32,
    },
    /// Blocks do not ascend or lie beyond a segment file.
    #[error("page header {index} names block {block} after block {previous}")]
    Block {
        /// Number of the record.
        index: u32,
        /// Its block.
        block: i64,
        /// Block of the record before it; -1 for the first.
        previous: i64,
    },
    /// Positions leave no room for a page or too much.
    #[error("page header {index} is at position {position} and the next at {next}")]
    Position {
        /// Number of the record.
        index: u32,
        /// Its position.
        position: u32,
        /// Position of the next one, or the file's size.
        next: u32,
    },
}

/// The bytes of an array: `(records.len() + 1) * 24`, padding zero.
#[must_use]
pub fn encode_header_records(records: &[PageHeaderRecord], file_bytes: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity((records.len() + 1) * HEADER_RECORD_BYTES);
    let last = PageHeaderRecord {
        lsn: Lsn::INVALID,
        block: 0,
        position: file_bytes,
        checksum: 0,
    };
    for record in records.iter().chain([&last]) {
        bytes.extend_from_slice(&record.lsn.0.to_le_bytes());
        bytes.extend_from_slice(&record.block.to_le_bytes());
        bytes.extend_from_slice(&record.position.to_le_bytes());
        bytes.extend_from_slice(&record.checksum.to_le_bytes());
        bytes.extend_from_slice(&[0; 6]);
    }
    bytes
}

/// The array of `count` pages.
///
/// # Errors
/// Where the length is not that of `count` pages, blocks or positions do not ascend, the first
/// record is not at the beginning of the file, or a payload would be empty or larger than a page.
pub fn parse_header_records(bytes: &[u8], count: u32) -> Result<HeaderRecords, HeaderMapError> {
    if count == 0 || count > RELSEG_SIZE {
        return Err(HeaderMapError::Count { count });
    }
    let expected = (u64::from(count) + 1) * HEADER_RECORD_BYTES as u64;
    if bytes.len() as u64 != expected {
        let found = bytes.len() as u64;
        return Err(HeaderMapError::Length {
            count,
            expected,
            found,
        });
    }
    let mut records = bytes
        .chunks_exact(HEADER_RECORD_BYTES)
        .map(parse_record)
        .collect::<Vec<_>>();
    let file_bytes = records.pop().map_or(0, |last| last.position);
    check(&records, file_bytes)?;
    Ok(HeaderRecords {
        records,
        file_bytes,
    })
}

fn parse_record(bytes: &[u8]) -> PageHeaderRecord {
    let word =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    PageHeaderRecord {
        lsn: Lsn(u64::from(word(4)) << 32 | u64::from(word(0))),
        block: word(8),
        position: word(12),
        checksum: u16::from_le_bytes([bytes[16], bytes[17]]),
    }
}

fn check(records: &[PageHeaderRecord], file_bytes: u32) -> Result<(), HeaderMapError> {
    let mut previous = -1;
    for (index, record) in (0_u32..).zip(records) {
        let block = i64::from(record.block);
        if block <= previous || record.block >= RELSEG_SIZE {
            return Err(HeaderMapError::Block {
                index,
                block,
                previous,
            });
        }
        previous = block;
        let next = usize::try_from(index)
            .ok()
            .and_then(|at| records.get(at + 1))
            .map_or(file_bytes, |next| next.position);
        let payload = next
            .checked_sub(record.position)
            .and_then(|bytes| usize::try_from(bytes).ok())
            .and_then(|bytes| bytes.checked_sub(PAGE_RECORD_HEADER_BYTES));
        let fits = payload.is_some_and(|bytes| (1..=PAGE_SIZE).contains(&bytes));
        if !fits || (index == 0 && record.position != 0) {
            return Err(HeaderMapError::Position {
                index,
                position: record.position,
                next,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_pages() -> HeaderRecords {
        HeaderRecords {
            records: vec![
                PageHeaderRecord {
                    lsn: Lsn(0x1_0000_0002),
                    block: 0,
                    position: 0,
                    checksum: 7,
                },
                PageHeaderRecord {
                    lsn: Lsn(3),
                    block: 5,
                    position: 8200,
                    checksum: 0,
                },
            ],
            file_bytes: 8209,
        }
    }

    #[test]
    fn records_are_read_back() {
        let pages = two_pages();
        let bytes = encode_header_records(&pages.records, pages.file_bytes);
        assert_eq!(bytes.len(), 72);
        assert_eq!(parse_header_records(&bytes, 2), Ok(pages));
    }

    #[test]
    fn garbage_in_padding_and_last_record_is_ignored() {
        let pages = two_pages();
        let mut bytes = encode_header_records(&pages.records, pages.file_bytes);
        bytes[18..24].fill(0xAA);
        bytes[48..60].fill(0xAA);
        bytes[64..72].fill(0xAA);
        assert_eq!(parse_header_records(&bytes, 2), Ok(pages));
    }

    #[test]
    fn records_that_cannot_be_are_refused() {
        let refused = |change: fn(&mut HeaderRecords)| {
            let mut pages = two_pages();
            change(&mut pages);
            let bytes = encode_header_records(&pages.records, pages.file_bytes);
            parse_header_records(&bytes, 2).unwrap_err()
        };
        let block = |error| matches!(error, HeaderMapError::Block { .. });
        let position = |error| matches!(error, HeaderMapError::Position { .. });
        assert!(block(refused(|pages| pages.records[1].block = 0)));
        assert!(block(refused(|pages| pages.records[1].block = RELSEG_SIZE)));
        assert!(position(refused(|pages| pages.records[0].position = 1)));
        assert!(position(refused(|pages| pages.records[1].position = 8201)));
        assert!(position(refused(|pages| pages.records[1].position = 8)));
        assert!(position(refused(|pages| pages.file_bytes = 8208)));
        assert!(position(refused(|pages| pages.file_bytes = 0)));
    }

    #[test]
    fn count_and_length_must_agree() {
        let pages = two_pages();
        let bytes = encode_header_records(&pages.records, pages.file_bytes);
        for count in [0, 1, 3, RELSEG_SIZE + 1, u32::MAX] {
            assert!(parse_header_records(&bytes, count).is_err(), "{count}");
        }
        assert!(parse_header_records(&bytes[..71], 2).is_err());
    }
}
