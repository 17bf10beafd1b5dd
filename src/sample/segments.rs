//! Segment-page storage: the files `1` to `5` of a database, one for each extent size.
//!
//! | block | content |
//! |---|---|
//! | 0, 1 | file head and space head: zero |
//! | 2 | map head: extent size, map groups, blocks in use |
//! | 3 to 66 | map pages: one bit an extent |
//! | 67 to 70 | inverse pointers: which segment owns an extent |
//! | 71 … | extents |
//!
//! A server reserves 4090 blocks for inverse pointers; map pages say where the extents begin, and
//! here they begin early, so that a small cluster stays small.
//!
//! Source: `src/include/storage/smgr/segment_internal.h`.

use super::page::{
    self, FLAG_CHECKSUM_FNV1A, HEADER_BYTES, Header, LAYOUT_SEGMENT, put_u16, put_u32, put_u64,
};
use super::random::Random;
use super::rows::{self, RowShape};
use super::text::TextPool;
use crate::types::{BlockNumber, PAGE_SIZE};

/// Which of the five files, and how many of its extents are in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentFile {
    /// 1 to 5.
    pub(super) number: u32,
    /// Extents in use, from the first on.
    pub(super) extents: u32,
}

const MAP_HEAD_BLOCK: u32 = 2;
const MAP_BLOCK_FIRST: u32 = 3;
const MAP_BLOCKS: u32 = 64;
const INVERSE_BLOCK_FIRST: u32 = MAP_BLOCK_FIRST + MAP_BLOCKS;
const INVERSE_BLOCKS: u32 = 4;
/// Where the extents begin.
pub(super) const DATA_BLOCK_FIRST: u32 = INVERSE_BLOCK_FIRST + INVERSE_BLOCKS;

/// Extents that one map page has bits for.
const MAP_PAGE_EXTENTS: u32 = 65_248;
const MAP_BITS_OFFSET: usize = HEADER_BYTES + 12;
const SEGMENT_HEAD_MAGIC: u64 = 0x4441_4548_544E_454D;
const SEGMENT_HEAD_LOWER: usize = 0x17E8;

impl SegmentFile {
    /// Blocks of one extent.
    pub(super) fn extent_blocks(self) -> u32 {
        match self.number {
            1 => 1,
            2 => 8,
            3 => 128,
            4 => 1024,
            _ => 8192,
        }
    }

    /// Blocks of the file that are in use.
    pub(super) fn used_blocks(self) -> u32 {
        DATA_BLOCK_FIRST + self.extents * self.extent_blocks()
    }
}

/// Fills a zeroed page of a segment file; pages that a server leaves zero stay so.
pub(super) fn fill_segment(
    page: &mut [u8],
    block: BlockNumber,
    file: SegmentFile,
    random: &mut Random,
    texts: &TextPool,
) {
    match block.0 {
        MAP_HEAD_BLOCK => fill_map_head(page, file, random),
        MAP_BLOCK_FIRST..INVERSE_BLOCK_FIRST => {
            fill_map(page, block.0 - MAP_BLOCK_FIRST, file, random);
        }
        INVERSE_BLOCK_FIRST..DATA_BLOCK_FIRST => {
            fill_inverse(page, block.0 - INVERSE_BLOCK_FIRST, file, random);
        }
        data if data >= DATA_BLOCK_FIRST && data < file.used_blocks() => {
            if file.number == 1 {
                fill_segment_head(page, random);
            } else {
                let shape = RowShape {
                    text_bytes_min: 30,
                    text_bytes_span: 120,
                    free_percent: 2,
                };
                rows::fill_heap(page, block, shape, random, texts);
                return;
            }
        }
        _ => return,
    }
}

fn fill_map_head(page: &mut [u8], file: SegmentFile, random: &mut Random) {
    write_header(page, 0x1B8, random);
    put_u16(
        page,
        24,
        page::offset16(usize::try_from(file.extent_blocks()).unwrap_or(usize::MAX)),
    );
    put_u16(page, 26, 1);
    put_u32(page, 36, file.extents);
    put_u32(page, 40, file.used_blocks());
    put_u32(page, 44, MAP_BLOCK_FIRST);
    put_u32(page, 52, MAP_BLOCKS);
}

fn fill_map(page: &mut [u8], map: u32, file: SegmentFile, random: &mut Random) {
    let used = if map == 0 {
        file.extents.min(MAP_PAGE_EXTENTS)
    } else {
        0
    };
    write_header(page, PAGE_SIZE, random);
    let first = DATA_BLOCK_FIRST.wrapping_add(
        map.wrapping_mul(MAP_PAGE_EXTENTS)
            .wrapping_mul(file.extent_blocks()),
    );
    put_u32(page, 24, first);
    let used16 = u16::try_from(used).expect("a map page has fewer than 65536 extents");
    put_u16(page, 28, used16);
    put_u16(page, 30, used16.saturating_sub(1));
    let free = u16::try_from(MAP_PAGE_EXTENTS - used).expect("fewer than 65536 extents");
    put_u16(page, 32, free);
    for extent in 0..usize::from(used16) {
        page[MAP_BITS_OFFSET + extent / 8] |= 1 << (extent % 8);
    }
}

fn fill_inverse(page: &mut [u8], inverse: u32, file: SegmentFile, random: &mut Random) {
    write_header(page, HEADER_BYTES, random);
    let entries = page[HEADER_BYTES..].chunks_exact_mut(8);
    let entries_per_page = u32::try_from((PAGE_SIZE - HEADER_BYTES) / 8).expect("few entries");
    for (entry, number) in entries.zip(inverse * entries_per_page..) {
        if number < file.extents {
            put_u32(entry, 0, 0x2000_0001);
            put_u32(entry, 4, DATA_BLOCK_FIRST);
        }
    }
}

fn fill_segment_head(page: &mut [u8], random: &mut Random) {
    write_header(page, SEGMENT_HEAD_LOWER, random);
    put_u64(page, 24, SEGMENT_HEAD_MAGIC);
    put_u64(page, 32, page::some_lsn(random).0);
    let extents = 1 + random.below(12);
    put_u32(page, 40, extents * 8 - random.below(8));
    put_u32(page, 44, extents);
    put_u32(page, 48, 0xFFFF_05E7);
    put_u32(page, 52, extents * 8);
    for (slot, extent) in (0..12).zip(0..extents) {
        put_u32(page, 64 + slot * 4, DATA_BLOCK_FIRST + extent * 8);
    }
}

fn write_header(page: &mut [u8], lower: usize, random: &mut Random) {
    let lsn = page::some_lsn(random);
    let special = PAGE_SIZE;
    Header {
        lsn,
        flags: FLAG_CHECKSUM_FNV1A,
        lower,
        upper: PAGE_SIZE,
        special,
        layout: LAYOUT_SEGMENT,
    }
    .write(page);
}
