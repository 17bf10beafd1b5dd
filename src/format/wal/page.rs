//! WAL page headers.
//!
//! ```text
//! 0   u16  magic
//! 2   u16  flags: 1 a record continues here, 2 long header, 4 backup blocks removable,
//!          8 continuation given up
//! 4   u32  timeline
//! 8   u64  position of the page
//! 16  u32  bytes left of the record that continues
//! 20  u32  openGauss: 0, or a page size on shared storage; PostgreSQL: zero
//! 24  u64  system identifier   \
//! 32  u32  bytes of a segment   > first page of a segment only
//! 36  u32  bytes of a page     /
//! ```
//!
//! Flag 4 tells archivers whether full page images may be dropped; either value is right anywhere
//! and no reader looks at it. It is the one bit of a header that nothing vouches for. Flag 8
//! (PostgreSQL) marks the first page that a server wrote after a crash cut the record before it
//! short.

use super::WalDialect;
use super::error::PageFault;
use crate::format::little_endian::{u16_at, u32_at, u64_at};
use crate::limits::WAL_PAGE_BYTES;
use crate::types::{Lsn, TimelineId};

/// Bytes of the header of every page but the first of a segment.
pub(super) const SHORT_HEADER_BYTES: usize = 24;

/// Bytes of the header of the first page of a segment.
pub const LONG_HEADER_BYTES: usize = 40;

const CONTINUED: u16 = 1;
const LONG: u16 = 2;
const REMOVABLE: u16 = 4;
const OVERWRITE: u16 = 8;

/// What a page header must say.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageRule {
    pub(super) dialect: WalDialect,
    pub(super) magic: u16,
    pub(super) timeline: TimelineId,
    pub(super) segment_bytes: u64,
    pub(super) system_identifier: Option<u64>,
    /// What the page that reading started on has at offset 20: all others must have the same.
    pub(super) reserved: u32,
}

/// How reading arrives at a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Arrival {
    /// From nowhere: reading starts on this page.
    Start,
    /// The record before ended with the page before.
    Boundary,
    /// This many bytes of a record are missing.
    Continued(u32),
}

/// What a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PageKind {
    /// What the rule and the arrival ask for.
    Regular,
    /// PostgreSQL gave up the record that should continue here; another one starts.
    Overwrites,
    /// Nothing was written here.
    Zero,
    /// The segment file was used before, for WAL at this position.
    Recycled(Lsn),
}

/// The field at offset 20.
pub(super) fn reserved(bytes: &[u8]) -> u32 {
    u32_at(bytes, 20)
}

/// Bytes of the header of the page at `page`.
pub(super) fn header_bytes(page: Lsn, segment_bytes: u64) -> usize {
    if page.0.is_multiple_of(segment_bytes) {
        LONG_HEADER_BYTES
    } else {
        SHORT_HEADER_BYTES
    }
}

/// The size of a segment that the header of its first page states, and its position. `None` where
/// this is no such header; that of any version of a server will do.
#[must_use]
pub fn stated_segment_size(header: &[u8; LONG_HEADER_BYTES]) -> Option<(u64, Lsn)> {
    let is_known = matches!(header[1], 0xD0 | 0xD1);
    let is_long = u16_at(header, 2) & LONG != 0;
    let has_pages = usize::try_from(u32_at(header, 36)) == Ok(WAL_PAGE_BYTES);
    let stated = (u64::from(u32_at(header, 32)), Lsn(u64_at(header, 8)));
    (is_known && is_long && has_pages).then_some(stated)
}

impl PageRule {
    /// Judges the header at the start of `bytes`, a whole page at position `page`.
    pub(super) fn verify(
        &self,
        bytes: &[u8],
        page: Lsn,
        arrival: Arrival,
    ) -> Result<PageKind, PageFault> {
        assert_eq!(bytes.len(), WAL_PAGE_BYTES, "pages are whole");
        let header = header_bytes(page, self.segment_bytes);
        if arrival == Arrival::Boundary && bytes[..header].iter().all(|&byte| byte == 0) {
            return Ok(PageKind::Zero);
        }
        let magic = u16_at(bytes, 0);
        if magic != self.magic {
            return Err(PageFault::Magic {
                found: magic,
                expected: self.magic,
            });
        }
        let address = Lsn(u64_at(bytes, 8));
        if address != page {
            let whole_page = address.0.is_multiple_of(bytes.len() as u64);
            if arrival == Arrival::Boundary && address < page && whole_page {
                return Ok(PageKind::Recycled(address));
            }
            return Err(PageFault::Address { found: address });
        }
        self.verify_timeline(TimelineId(u32_at(bytes, 4)), arrival)?;
        self.verify_reserved(reserved(bytes), arrival)?;
        if header == LONG_HEADER_BYTES {
            self.verify_long(bytes)?;
        }
        self.verify_flags(u16_at(bytes, 2), u32_at(bytes, 16), header, arrival)
    }

    /// The page that reading starts on may carry the timeline that this one branched off.
    fn verify_timeline(&self, found: TimelineId, arrival: Arrival) -> Result<(), PageFault> {
        let older = arrival == Arrival::Start && found.0 > 0 && found < self.timeline;
        if found == self.timeline || older {
            return Ok(());
        }
        Err(PageFault::Timeline {
            found: found.0,
            expected: self.timeline.0,
        })
    }

    /// openGauss writes the page size here when WAL goes to shared storage, else nothing.
    fn verify_reserved(&self, found: u32, arrival: Arrival) -> Result<(), PageFault> {
        let page_size =
            self.dialect == WalDialect::OpenGauss && usize::try_from(found) == Ok(WAL_PAGE_BYTES);
        let known = if arrival == Arrival::Start {
            found == 0 || page_size
        } else {
            found == self.reserved
        };
        if known {
            Ok(())
        } else {
            Err(PageFault::Reserved { found })
        }
    }

    fn verify_long(&self, bytes: &[u8]) -> Result<(), PageFault> {
        let found = u64_at(bytes, 24);
        if let Some(expected) = self.system_identifier
            && found != expected
        {
            return Err(PageFault::SystemIdentifier { found, expected });
        }
        let (segment_bytes, page_bytes) = (u32_at(bytes, 32), u32_at(bytes, 36));
        let sizes_agree = u64::from(segment_bytes) == self.segment_bytes
            && usize::try_from(page_bytes) == Ok(WAL_PAGE_BYTES);
        if sizes_agree {
            Ok(())
        } else {
            Err(PageFault::Sizes {
                segment_bytes,
                page_bytes,
            })
        }
    }

    fn verify_flags(
        &self,
        flags: u16,
        remaining: u32,
        header: usize,
        arrival: Arrival,
    ) -> Result<PageKind, PageFault> {
        let continued = flags & CONTINUED != 0;
        let overwrites = flags & OVERWRITE != 0;
        let known = match self.dialect {
            WalDialect::OpenGauss => CONTINUED | LONG | REMOVABLE,
            WalDialect::PostgreSql { .. } => CONTINUED | LONG | REMOVABLE | OVERWRITE,
        };
        let long = flags & LONG != 0;
        if flags & !known != 0 || long != (header == LONG_HEADER_BYTES) || (overwrites && continued)
        {
            return Err(PageFault::Flags { found: flags });
        }
        let expected = match arrival {
            Arrival::Start if continued && remaining > 0 => remaining,
            Arrival::Start | Arrival::Boundary => 0,
            Arrival::Continued(_) if overwrites => 0,
            Arrival::Continued(missing) => missing,
        };
        if remaining != expected || continued != (expected > 0) {
            return Err(PageFault::Continuation {
                found: remaining,
                expected,
            });
        }
        match arrival {
            Arrival::Continued(_) if overwrites => Ok(PageKind::Overwrites),
            Arrival::Boundary if overwrites => Err(PageFault::Flags { found: flags }),
            _ => Ok(PageKind::Regular),
        }
    }
}
