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
//! All extents of the files `2` to `5` belong to one segment, whose head is the first in file `1`,
//! in the order and number that a server gives them out.
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
use crate::format::segment_space::{
    MAP_PAGE_EXTENTS, SEGMENT_HEAD_MAGIC, USAGE_DATA, extent_blocks,
};
use crate::types::{BlockNumber, PAGE_SIZE};

/// Which of the five files, and how many extents are in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentFile {
    /// 1 to 5.
    pub(super) number: u32,
    /// Extents in use of each of the five, from the first on.
    pub(super) in_use: [u32; 5],
}

const MAP_HEAD_BLOCK: u32 = 2;
const MAP_BLOCK_FIRST: u32 = 3;
const MAP_BLOCKS: u32 = 64;
const INVERSE_BLOCK_FIRST: u32 = MAP_BLOCK_FIRST + MAP_BLOCKS;
const INVERSE_BLOCKS: u32 = 4;
/// Where the extents begin.
pub(super) const DATA_BLOCK_FIRST: u32 = INVERSE_BLOCK_FIRST + INVERSE_BLOCKS;

const MAP_BITS_OFFSET: usize = HEADER_BYTES + 12;
const SEGMENT_HEAD_LOWER: usize = 0x17E8;
/// Where a head's first blocks of extents end.
const SEGMENT_SLOTS_END: usize = 64 + 1255 * 4;
const USAGE_SEGMENT_HEAD: u32 = 1;

impl SegmentFile {
    /// Blocks of one extent.
    pub(super) fn extent_blocks(self) -> u32 {
        extent_blocks(self.number)
    }

    /// Extents of the file that are in use.
    fn extents(self) -> u32 {
        self.in_use[self.index()]
    }

    /// Extents that the segment has in smaller sizes.
    fn extents_before(self) -> u32 {
        self.in_use[1..self.index().max(1)].iter().sum()
    }

    fn index(self) -> usize {
        usize::try_from(self.number - 1).expect("1 to 5")
    }

    /// Blocks of the file that are in use.
    pub(super) fn used_blocks(self) -> u32 {
        DATA_BLOCK_FIRST + self.extents() * self.extent_blocks()
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
                fill_segment_head(page, data - DATA_BLOCK_FIRST, file, random);
            } else {
                let shape = RowShape {
                    text_bytes_min: 30,
                    text_bytes_span: 120,
                    free_percent: 2,
                };
                rows::fill_heap(page, block, shape, random, texts);
            }
        }
        _ => {}
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
    put_u32(page, 36, file.extents());
    put_u32(page, 40, file.used_blocks());
    put_u32(page, 44, MAP_BLOCK_FIRST);
    put_u32(page, 52, MAP_BLOCKS);
}

fn fill_map(page: &mut [u8], map: u32, file: SegmentFile, random: &mut Random) {
    let used = if map == 0 {
        file.extents().min(MAP_PAGE_EXTENTS)
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
        if number < file.extents() {
            let (usage, extent, head) = match file.number {
                1 => (USAGE_SEGMENT_HEAD, 0, u32::MAX),
                _ => (USAGE_DATA, file.extents_before() + number, DATA_BLOCK_FIRST),
            };
            put_u32(entry, 0, usage << 28 | extent);
            put_u32(entry, 4, head);
        }
    }
}

/// The first head has all extents, the others have none.
fn fill_segment_head(page: &mut [u8], index: u32, file: SegmentFile, random: &mut Random) {
    write_header(page, SEGMENT_HEAD_LOWER, random);
    put_u64(page, 24, SEGMENT_HEAD_MAGIC);
    put_u64(page, 32, page::some_lsn(random).0);
    put_u32(page, 48, 0xFFFF_05E7);
    if index > 0 {
        put_u32(page, 64, DATA_BLOCK_FIRST + index);
        return;
    }
    let mut slots = (64..SEGMENT_SLOTS_END).step_by(4);
    let (mut extents, mut blocks) = (0, 0);
    for (number, in_use) in (2..).zip(&file.in_use[1..]) {
        let size = extent_blocks(number);
        for (extent, slot) in (0..*in_use).zip(&mut slots) {
            put_u32(page, slot, DATA_BLOCK_FIRST + extent * size);
            extents += 1;
            blocks += size;
        }
    }
    put_u32(page, 40, blocks);
    put_u32(page, 44, extents);
    put_u32(page, 52, blocks);
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
