//! What follows the common header, by layout version.
//!
//! | version | pages of | header bytes |
//! |---|---|---|
//! | 0–5 | indexes, maps, sequences | 24 |
//! | 6 | row tables | 40 |
//! | 7 | ustore tables | 56 |
//! | 8 | segment heads and maps | 24 |
//!
//! Row tables, then ustore tables:
//!
//! | offset | type | field |
//! |---|---|---|
//! | 24 | u64 | `xid_base` |
//! | 32 | u64 | `multi_base` |
//!
//! | offset | type | field |
//! |---|---|---|
//! | 20 | u16 | space that deleted rows may free |
//! | 22 | u16 | transaction slots |
//! | 24 | u64 | `prune_xid` |
//! | 32 | u64 | `xid_base` |
//! | 40 | u64 | `multi_base` |
//! | 48 | u64 | reserved |
//!
//! Source: `HeapPageHeaderData` in `src/include/storage/buf/bufpage.h`, `UHeapPageHeaderData` in
//! `src/include/access/ustore/knl_upage.h`.

use super::header::{COMMON_HEADER_BYTES, PageHeader};

/// How a page is laid out behind its common header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PageLayout {
    /// The common header alone; carries the version, 0 to 5.
    Common(u8),
    /// A row table with 64-bit transaction numbers.
    Heap,
    /// A ustore table.
    Uheap,
    /// Metadata of segment-page storage.
    Segment,
    /// A version the server does not write.
    Unknown(u8),
}

impl PageLayout {
    /// The layout of this version number.
    #[must_use]
    pub fn from_version(version: u8) -> PageLayout {
        match version {
            0..=5 => PageLayout::Common(version),
            6 => PageLayout::Heap,
            7 => PageLayout::Uheap,
            8 => PageLayout::Segment,
            _ => PageLayout::Unknown(version),
        }
    }

    /// The layout that `page` says it has.
    ///
    /// # Panics
    ///
    /// Where `page` is shorter than a page header.
    #[must_use]
    pub fn of(page: &[u8]) -> PageLayout {
        PageLayout::from_version(PageHeader::parse(page).layout_version)
    }

    /// Its version number.
    #[must_use]
    pub fn version(self) -> u8 {
        match self {
            PageLayout::Common(version) | PageLayout::Unknown(version) => version,
            PageLayout::Heap => 6,
            PageLayout::Uheap => 7,
            PageLayout::Segment => 8,
        }
    }

    /// Bytes before the first line pointer; for ustore, before the transaction slots.
    #[must_use]
    pub fn header_bytes(self) -> usize {
        match self {
            PageLayout::Common(_) | PageLayout::Segment | PageLayout::Unknown(_) => {
                COMMON_HEADER_BYTES
            }
            PageLayout::Heap => 40,
            PageLayout::Uheap => 56,
        }
    }

    /// What the short transaction numbers of `page` count from, where the layout has such.
    #[must_use]
    pub fn xid_base(self, page: &[u8]) -> Option<u64> {
        match self {
            PageLayout::Heap => u64_at(page, 24),
            PageLayout::Uheap => u64_at(page, 32),
            PageLayout::Common(_) | PageLayout::Segment | PageLayout::Unknown(_) => None,
        }
    }

    /// What the short multi-transaction numbers of `page` count from, where the layout has such.
    #[must_use]
    pub fn multi_base(self, page: &[u8]) -> Option<u64> {
        match self {
            PageLayout::Heap => u64_at(page, 32),
            PageLayout::Uheap => u64_at(page, 40),
            PageLayout::Common(_) | PageLayout::Segment | PageLayout::Unknown(_) => None,
        }
    }

    /// How many transaction slots `page` has, where the layout has such.
    #[must_use]
    pub fn transaction_slots(self, page: &[u8]) -> Option<u16> {
        match self {
            PageLayout::Uheap => Some(u16::from_le_bytes(*page.get(22..)?.first_chunk()?)),
            PageLayout::Common(_)
            | PageLayout::Heap
            | PageLayout::Segment
            | PageLayout::Unknown(_) => None,
        }
    }
}

fn u64_at(page: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*page.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PAGE_SIZE;

    #[test]
    fn every_version_is_read_back() {
        for version in 0..=u8::MAX {
            assert_eq!(PageLayout::from_version(version).version(), version);
        }
        assert_eq!(PageLayout::from_version(9), PageLayout::Unknown(9));
    }

    #[test]
    fn transaction_bases_are_where_each_layout_puts_them() {
        let mut heap = [0; PAGE_SIZE];
        heap[18..20].copy_from_slice(&[6, 0x20]);
        heap[24] = 0x1E;
        heap[25] = 0x34;
        heap[32] = 7;
        let layout = PageLayout::of(&heap);
        assert_eq!((layout, layout.header_bytes()), (PageLayout::Heap, 40));
        assert_eq!(
            (layout.xid_base(&heap), layout.multi_base(&heap)),
            (Some(0x341E), Some(7))
        );
        assert_eq!(layout.transaction_slots(&heap), None);

        // First bytes of a ustore page of the server.
        let mut uheap = [0; PAGE_SIZE];
        uheap[16..34].copy_from_slice(&[
            0x00, 0x20, 0x07, 0x20, 0x0c, 0x00, 0x04, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, 0x14, 0x34,
        ]);
        let layout = PageLayout::of(&uheap);
        assert_eq!((layout, layout.header_bytes()), (PageLayout::Uheap, 56));
        assert_eq!(
            (layout.xid_base(&uheap), layout.multi_base(&uheap)),
            (Some(0x3414), Some(0))
        );
        assert_eq!(layout.transaction_slots(&uheap), Some(4));
    }

    #[test]
    fn layouts_without_transaction_bases_have_none() {
        let page = [0xFF; PAGE_SIZE];
        for version in [0, 5, 8, 9] {
            let layout = PageLayout::from_version(version);
            assert_eq!(layout.header_bytes(), 24);
            assert_eq!(
                (layout.xid_base(&page), layout.multi_base(&page)),
                (None, None)
            );
        }
    }
}
