//! A page in the compressed form in which the server keeps pages of compressed relations.
//!
//! | offset | type | field |
//! |---|---|---|
//! | 0 | bytes | page header as long as the layout has it: 24, 40 or 56 bytes, uncompressed |
//! | h | u32 | checksum of the compressed bytes |
//! | h + 4 | u16 | length of the compressed bytes |
//! | h + 6 | u16 | bit 0 columns gathered, bit 1 differences taken, bits 2–5 algorithm |
//! | h + 8 | bytes | compressed bytes |
//!
//! The header is that of the page before compression: its `pd_checksum` says nothing about the
//! bytes here, and nothing here protects the header. The checksum of the compressed bytes is the
//! full 32-bit sum of a page's checksum, without a block number.
//!
//! Source: `PageCompressData` and `HeapPageCompressData` in
//! `src/include/storage/page_compression.h`, `CompressedChecksum` in
//! `src/gausskernel/storage/smgr/cfs/cfs_tools.cpp`.

use super::checksum::data_checksum;
use super::header::PageHeader;
use super::layout::PageLayout;

/// Bytes between the page header and the compressed bytes.
const PREFIX_BYTES: usize = 8;

/// A page read as being in compressed form; only [`CompressedPage::is_intact`] tells whether it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct CompressedPage<'a> {
    prefix_end: usize,
    stored_checksum: u32,
    data: &'a [u8],
}

impl<'a> CompressedPage<'a> {
    /// `None` where the page has a layout that the server does not compress, or a length that does
    /// not fit the page.
    pub(super) fn parse(page: &'a [u8]) -> Option<CompressedPage<'a>> {
        let layout = PageLayout::from_version(PageHeader::parse(page).layout_version);
        let header_bytes = match layout {
            PageLayout::Common(5) | PageLayout::Heap | PageLayout::Uheap => layout.header_bytes(),
            PageLayout::Common(_) | PageLayout::Segment | PageLayout::Unknown(_) => return None,
        };
        let (prefix, rest) = page
            .get(header_bytes..)?
            .split_first_chunk::<PREFIX_BYTES>()?;
        let length = u16::from_le_bytes([prefix[4], prefix[5]]);
        Some(CompressedPage {
            prefix_end: header_bytes + PREFIX_BYTES,
            stored_checksum: u32::from_le_bytes([prefix[0], prefix[1], prefix[2], prefix[3]]),
            data: rest.get(..usize::from(length))?,
        })
    }

    /// Whether the compressed bytes are what the server wrote.
    pub(super) fn is_intact(&self) -> bool {
        self.computed_checksum() == self.stored_checksum
    }

    /// What the page says of its compressed bytes.
    pub(super) fn stored_checksum(&self) -> u32 {
        self.stored_checksum
    }

    /// What it should say.
    pub(super) fn computed_checksum(&self) -> u32 {
        data_checksum(self.data)
    }

    /// Bytes of the page from its beginning; what follows is filling.
    pub(super) fn length(&self) -> usize {
        self.prefix_end + self.data.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PAGE_SIZE;

    fn page(version: u8, header_bytes: usize, data: &[u8]) -> Vec<u8> {
        let mut page = vec![0; PAGE_SIZE];
        page[18] = version;
        let length = u16::try_from(data.len()).unwrap();
        page[header_bytes..][..4].copy_from_slice(&data_checksum(data).to_le_bytes());
        page[header_bytes + 4..][..2].copy_from_slice(&length.to_le_bytes());
        page[header_bytes + 8..][..data.len()].copy_from_slice(data);
        page
    }

    #[test]
    fn compressed_bytes_follow_the_header_of_each_layout() {
        for (version, header_bytes) in [(5, 24), (6, 40), (7, 56)] {
            for length in [0, 1, 127, 128, 129, 700, PAGE_SIZE - header_bytes - 8] {
                let data: Vec<u8> = (0..length).map(|at| at.to_le_bytes()[0]).collect();
                let page = page(version, header_bytes, &data);
                let parsed = CompressedPage::parse(&page).unwrap();
                assert!(parsed.is_intact(), "version {version}, {length} bytes");
                assert_eq!(parsed.length(), header_bytes + 8 + length);
            }
        }
    }

    #[test]
    fn a_flipped_bit_of_the_compressed_bytes_is_noticed() {
        let mut page = page(6, 40, &[7; 300]);
        for at in 40..348 {
            // Nothing covers the upper half of the length word, and a length that grows over the
            // zeros behind the data, within a row of 128 bytes, gives the same sum.
            if (44..48).contains(&at) {
                continue;
            }
            page[at] ^= 0x10;
            let intact = CompressedPage::parse(&page).is_some_and(|page| page.is_intact());
            assert!(!intact, "byte {at}");
            page[at] ^= 0x10;
        }
    }

    #[test]
    fn a_length_beyond_the_page_or_a_foreign_layout_is_no_compressed_page() {
        for version in [0, 4, 8, 9] {
            assert!(CompressedPage::parse(&page(version, 24, &[1])).is_none());
        }
        let mut page = page(6, 40, &[]);
        page[44..46].copy_from_slice(&8145_u16.to_le_bytes());
        assert!(CompressedPage::parse(&page).is_none());
        page[44..46].copy_from_slice(&8144_u16.to_le_bytes());
        assert!(CompressedPage::parse(&page).is_some());
    }
}
