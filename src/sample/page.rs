//! What all generated pages have in common: the 24-byte header, little-endian fields, the checksum.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | LSN, high half first |
//! | 8 | 2 | checksum |
//! | 10 | 2 | flags |
//! | 12 | 6 | lower, upper, special |
//! | 18 | 2 | page size and layout version |
//! | 20 | 4 | prune xid (layouts 5, 6, 8) |
//!
//! Source: `src/include/storage/buf/bufpage.h` (PageHeaderData).

use super::random::Random;
use crate::format::page::page_checksums;
use crate::types::{BlockNumber, Lsn, PAGE_SIZE};

/// Flag of every page that the server wrote with a checksum of the present kind.
pub(super) const FLAG_CHECKSUM_FNV1A: u16 = 0x0040;
/// Flag of a page with unused line pointers.
pub(super) const FLAG_FREE_LINES: u16 = 0x0001;

const SIZE_AND_LAYOUT_OFFSET: usize = 18;

/// Header bytes of layouts 5 and 8.
pub(super) const HEADER_BYTES: usize = 24;
/// Header bytes of layout 6: two 64-bit bases follow.
pub(super) const HEAP_HEADER_BYTES: usize = 40;

/// Layout of indexes, maps and undo.
pub(super) const LAYOUT_COMMON: u16 = 5;
/// Layout of heap pages.
pub(super) const LAYOUT_HEAP: u16 = 6;
/// Layout of ustore pages.
pub(super) const LAYOUT_UHEAP: u16 = 7;
/// Layout of segment-page storage's own pages.
pub(super) const LAYOUT_SEGMENT: u16 = 8;

/// First LSN that a generated page carries.
pub(super) const FIRST_LSN: Lsn = Lsn(0x0200_0000);
/// Pages carry LSNs below this one; the checkpoint comes after it.
pub(super) const LAST_LSN: Lsn = Lsn(0x0300_0000);

/// Oldest transaction of the cluster; 64-bit xids of a page count from it.
pub(super) const XID_BASE: u64 = 13_332;

/// The part of a header that differs between pages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) lsn: Lsn,
    pub(super) flags: u16,
    pub(super) lower: usize,
    pub(super) upper: usize,
    pub(super) special: usize,
    pub(super) layout: u16,
}

impl Header {
    /// Writes the first 20 bytes of a page; the checksum comes with [`seal`].
    pub(super) fn write(&self, page: &mut [u8]) {
        put_u32(page, 0, high_half(self.lsn.0));
        put_u32(page, 4, low_half(self.lsn.0));
        put_u16(page, 10, self.flags);
        put_u16(page, 12, offset16(self.lower));
        put_u16(page, 14, offset16(self.upper));
        put_u16(page, 16, offset16(self.special));
        put_u16(
            page,
            SIZE_AND_LAYOUT_OFFSET,
            offset16(PAGE_SIZE) | self.layout,
        );
    }
}

/// Puts the checksums into pages whose other bytes are final; a page without a header stays zero.
///
/// Separate from filling, because checksums of adjacent pages are computed several at a time.
pub(super) fn seal(pages: &mut [u8], first: BlockNumber, checksums: &mut Vec<u16>) {
    checksums.resize(pages.len() / PAGE_SIZE, 0);
    page_checksums(pages, first, checksums);
    for (page, checksum) in pages.chunks_exact_mut(PAGE_SIZE).zip(checksums) {
        if page[SIZE_AND_LAYOUT_OFFSET..][..2] != [0, 0] {
            put_u16(page, 8, *checksum);
        }
    }
}

/// An LSN that some change before the checkpoint may have had.
pub(super) fn some_lsn(random: &mut Random) -> Lsn {
    let span = u32::try_from(LAST_LSN.0 - FIRST_LSN.0).expect("one WAL segment");
    Lsn(FIRST_LSN.0 + u64::from(random.below(span) & !7))
}

/// A line pointer in use: offset, state 1, length.
#[inline]
pub(super) fn line_pointer(offset: usize, length: usize) -> u32 {
    u32::from(offset16(offset)) | 1 << 15 | u32::from(offset16(length)) << 17
}

/// An offset or length inside a page.
#[inline]
pub(super) fn offset16(value: usize) -> u16 {
    u16::try_from(value).expect("offsets inside a page fit 16 bits")
}

#[inline]
pub(super) fn low_half(value: u64) -> u32 {
    u32::try_from(value & 0xFFFF_FFFF).expect("masked to 32 bits")
}

#[inline]
pub(super) fn high_half(value: u64) -> u32 {
    u32::try_from(value >> 32).expect("shifted to 32 bits")
}

#[inline]
pub(super) fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

#[inline]
pub(super) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

#[inline]
pub(super) fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// A block number as tuple ids store it: high half first.
#[inline]
pub(super) fn put_block_id(bytes: &mut [u8], at: usize, block: u32) {
    bytes[at..at + 2].copy_from_slice(&block.to_le_bytes()[2..]);
    bytes[at + 2..at + 4].copy_from_slice(&block.to_le_bytes()[..2]);
}
