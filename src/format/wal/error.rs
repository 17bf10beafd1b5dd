//! What can be wrong with WAL.

use crate::types::Lsn;
use std::error::Error;
use std::fmt;

/// What is wrong with a page header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PageFault {
    /// Not the magic number of this server version.
    #[error("magic number {found:04X}, expected {expected:04X}")]
    Magic {
        /// In the page.
        found: u16,
        /// Of the server.
        expected: u16,
    },
    /// Unknown flags, or a long header where a short one belongs, or the reverse.
    #[error("flags {found:04X}")]
    Flags {
        /// In the page.
        found: u16,
    },
    /// The page is of another timeline.
    #[error("timeline {found}, expected {expected}")]
    Timeline {
        /// In the page.
        found: u32,
        /// Of the file's name.
        expected: u32,
    },
    /// The page belongs elsewhere.
    #[error("address {found}")]
    Address {
        /// In the page.
        found: Lsn,
    },
    /// A record continues, or does not, unlike the pages before say.
    #[error("{found} bytes of a continued record, expected {expected}")]
    Continuation {
        /// In the page; 0 without a continued record.
        found: u32,
        /// What is left of the record.
        expected: u32,
    },
    /// Bytes that the server leaves zero are not.
    #[error("reserved bytes {found:08X}")]
    Reserved {
        /// In the page.
        found: u32,
    },
    /// The WAL of another cluster.
    #[error("system identifier {found}, expected {expected}")]
    SystemIdentifier {
        /// In the page.
        found: u64,
        /// Of the cluster.
        expected: u64,
    },
    /// Segment or page size of another cluster.
    #[error("segments of {segment_bytes} and pages of {page_bytes} bytes")]
    Sizes {
        /// In the page.
        segment_bytes: u32,
        /// In the page.
        page_bytes: u32,
    },
}

/// What is wrong with a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordFault {
    /// Shorter than its header or longer than a server writes.
    #[error("length {found}")]
    Length {
        /// In the record.
        found: u32,
    },
    /// Damaged.
    #[error("CRC {stored:08X}, computed {computed:08X}")]
    Crc {
        /// In the record.
        stored: u32,
        /// Of the record.
        computed: u32,
    },
    /// The record follows another one than the record before it.
    #[error("link to the previous record {found}, expected {expected}")]
    Previous {
        /// In the record.
        found: Lsn,
        /// Start of the record before.
        expected: Lsn,
    },
    /// The bytes up to the next record, or of the segment behind a switch record, are not zero.
    #[error("byte {at} behind the record is not zero")]
    Padding {
        /// Position of the byte.
        at: Lsn,
    },
}

/// How WAL ended at a record boundary without anything being wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EndOfWal {
    /// There is no such segment.
    SegmentAbsent {
        /// Its file name.
        segment: String,
    },
    /// Zeros where a page should start.
    ZeroPage,
    /// Zeros where a record should start.
    ZeroLength,
    /// A page that an earlier use of a recycled segment file left.
    RecycledPage {
        /// The position it once had.
        address: Lsn,
    },
}

impl fmt::Display for EndOfWal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndOfWal::SegmentAbsent { segment } => {
                write!(f, "WAL segment \"{segment}\" is absent")
            }
            EndOfWal::ZeroPage => f.write_str("the page is empty"),
            EndOfWal::ZeroLength => f.write_str("no record was written there"),
            EndOfWal::RecycledPage { address } => {
                write!(f, "the page is an old one of {address}")
            }
        }
    }
}

/// Why WAL cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// No record can start there.
    #[error("no WAL record can start at {lsn}")]
    Start {
        /// Where reading should start.
        lsn: Lsn,
    },
    /// The end lies before the start.
    #[error("WAL cannot be read from {start} to {stop}")]
    Range {
        /// Where reading should start.
        start: Lsn,
        /// Where reading should end.
        stop: Lsn,
    },
    /// WAL of this server cannot be read.
    #[error("the WAL format of PostgreSQL {major} is not known")]
    UnknownDialect {
        /// Its major version.
        major: u32,
    },
    /// No server has segments of this size.
    #[error("WAL segments cannot have {found} bytes")]
    SegmentSize {
        /// The size asked for.
        found: u64,
    },
    /// A segment could not be fetched.
    #[error("cannot read WAL segment \"{segment}\"")]
    Segment {
        /// Its file name.
        segment: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A segment file has the wrong size.
    #[error("WAL segment \"{segment}\" has {found} bytes, expected {expected}")]
    SegmentLength {
        /// Its file name.
        segment: String,
        /// Its bytes.
        found: u64,
        /// Bytes of a segment.
        expected: u64,
    },
    /// A record goes on in a segment that does not exist.
    #[error("WAL segment \"{segment}\" is absent, the record at {record} goes on there")]
    SegmentAbsent {
        /// Its file name.
        segment: String,
        /// Start of the record.
        record: Lsn,
    },
    /// A page header is wrong.
    #[error("WAL page at {page} is not valid: {fault}")]
    Page {
        /// Start of the page.
        page: Lsn,
        /// What is wrong.
        fault: PageFault,
    },
    /// A record is wrong.
    #[error("WAL record at {record} is not valid: {fault}")]
    Record {
        /// Start of the record.
        record: Lsn,
        /// What is wrong.
        fault: RecordFault,
    },
    /// There is less WAL than asked for.
    #[error("WAL ends at {end}, before {stop}: {reason}")]
    EndsEarly {
        /// Where the next record would start.
        end: Lsn,
        /// Where reading should end.
        stop: Lsn,
        /// What is there.
        reason: EndOfWal,
    },
}
