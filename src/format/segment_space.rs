//! Segment-page storage: what a space says of which of its blocks were ever written.
//!
//! A space is a database's part of a tablespace: five files `1` to `5`, one for each extent size,
//! each with a fork for free space maps and one for visibility maps (`2_fsm`). Each of these is
//! laid out as
//!
//! | block | content |
//! |---|---|
//! | 0, 1 | reserved; no server writes them |
//! | 2 | map head: blocks of an extent, groups of maps |
//! | 3 … | a group: 64 map pages, inverse pointers, extents; then the next group |
//!
//! All pages have the common header of 24 bytes, and behind it, little endian:
//!
//! | page | offset | size | field |
//! |---|---|---|---|
//! | map head | 24 | 2 | blocks of an extent |
//! | | 26 | 2 | groups |
//! | | 44 | 12 each | group: u32 first map page, u32, u8 map pages |
//! | map page | 24 | 4 | its first extent |
//! | | 36 | 8156 | a bit for each extent, 1 where it belongs to a segment |
//! | inverse pointers | 24 | 8 each | u32 usage (4 bits) and extent number (18), u32 segment head |
//! | segment head | 24 | 8 | magic |
//! | | 40 | 4 | blocks of the segment |
//! | | 44 | 4 | extents of the segment |
//! | | 64 | 1255 × 4 | first blocks of its extents |
//! | | 5084 | 256 × 4 | pages with those of 2000 more each |
//! | such a page | 24 | 8 | magic |
//! | | 32 | 2000 × 4 | first blocks |
//!
//! Heads and such pages are the extents of file `1`. An extent is not written when it is given to a
//! segment, but block by block as the segment grows: what is behind its last block has never been.
//! Files grow without being written either. The extents of a segment are 16 of 8 blocks, 127 of
//! 128, 112 of 1024, then of 8192.
//!
//! Source: openGauss `src/include/storage/smgr/segment_internal.h`, `extent_group.cpp`,
//! `segstore.cpp`; the offsets as in files of a real server.

use super::little_endian::{u16_at, u32_at, u64_at};
use crate::types::PAGE_SIZE;

/// Blocks at the start of a file that no server writes.
pub const RESERVED_BLOCKS: u32 = 2;
/// The block of the map head.
pub const MAP_HEAD_BLOCK: u32 = 2;
/// Extents that a map page has bits for.
pub const MAP_PAGE_EXTENTS: u32 = 65_248;
/// Extents that a page of inverse pointers is about.
pub const POINTER_PAGE_EXTENTS: u32 = 1021;
/// Blocks by which a file grows at once; the tracking of changes names the last of them.
pub const GROWTH_BLOCKS: u32 = 16_384;
/// What starts a segment head.
pub const SEGMENT_HEAD_MAGIC: u64 = 0x4441_4548_544E_454D;
/// What starts a page with more extents of a segment.
pub const MORE_EXTENTS_MAGIC: u64 = 0x306C_6576_654C_544D;
/// Usage of an extent that holds blocks of a segment.
pub const USAGE_DATA: u32 = 6;

const CONTENT_AT: usize = 24;
const GROUPS_AT: usize = 44;
const GROUP_BYTES: usize = 12;
const GROUPS_MAX: usize = 33;
const MAP_BITS_AT: usize = 36;
const HEAD_EXTENTS_AT: usize = 64;
const HEAD_EXTENTS: u32 = 1255;
const HEAD_MORE_AT: usize = 5084;
const HEAD_MORE: u32 = 256;
const MORE_AT: usize = 32;
const MORE_EXTENTS: u32 = 2000;

const _: () = assert!(GROUPS_AT + GROUPS_MAX * GROUP_BYTES <= PAGE_SIZE);

/// Blocks of an extent in the file of this number, 1 to 5.
#[must_use]
pub fn extent_blocks(number: u32) -> u32 {
    match number {
        1 => 1,
        2 => 8,
        3 => 128,
        4 => 1024,
        _ => 8192,
    }
}

/// Where maps are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapGroup {
    /// Block of the first map page; inverse pointers follow the last.
    pub first_map: u32,
    /// Map pages.
    pub map_pages: u32,
}

/// The groups of maps, by the map head of a file with extents of `blocks` blocks; `None` where the
/// page is no such head.
///
/// # Panics
/// Where `page` is not a page long.
#[must_use]
pub fn map_groups(page: &[u8], blocks: u32) -> Option<Vec<MapGroup>> {
    let count = usize::from(u16_at(page, 26));
    if u32::from(u16_at(page, CONTENT_AT)) != blocks || count > GROUPS_MAX {
        return None;
    }
    let groups: Vec<MapGroup> = (0..count)
        .map(|index| {
            let at = GROUPS_AT + index * GROUP_BYTES;
            MapGroup {
                first_map: u32_at(page, at),
                map_pages: u32::from(page[at + 8]),
            }
        })
        .collect();
    let is_good = |group: &MapGroup| {
        group.first_map > MAP_HEAD_BLOCK
            && group.map_pages > 0
            && group.first_map.checked_add(group.map_pages).is_some()
    };
    let rising = groups
        .windows(2)
        .all(|pair| pair[0].first_map < pair[1].first_map);
    (rising && groups.iter().all(is_good)).then_some(groups)
}

/// The first block that a map page is about.
///
/// # Panics
/// Where `page` is not a page long.
#[must_use]
pub fn map_first(page: &[u8]) -> u32 {
    u32_at(page, CONTENT_AT)
}

/// Whether a map page says that the extent of this place belongs to a segment.
///
/// # Panics
/// Where `page` is not a page long, or there is no such place.
#[must_use]
pub fn is_allocated(page: &[u8], place: u32) -> bool {
    assert!(place < MAP_PAGE_EXTENTS, "a map page has so many bits");
    let place = to_usize(place);
    page[MAP_BITS_AT + place / 8] >> (place % 8) & 1 == 1
}

/// Whose an extent is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InversePointer {
    /// What it is used for; 0 where it never was.
    pub usage: u32,
    /// Which extent of its segment it is.
    pub extent: u32,
    /// Block of the segment's head, in file `1`.
    pub head: u32,
}

/// The inverse pointer at this place of its page.
///
/// # Panics
/// Where `page` is not a page long, or there is no such place.
#[must_use]
pub fn inverse_pointer(page: &[u8], place: u32) -> InversePointer {
    assert!(place < POINTER_PAGE_EXTENTS, "a page has so many pointers");
    let at = CONTENT_AT + to_usize(place) * 8;
    let word = u32_at(page, at);
    InversePointer {
        usage: word >> 28,
        extent: word & 0x3_FFFF,
        head: u32_at(page, at + 4),
    }
}

/// Where a segment has the number of an extent's first block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExtentPlace {
    /// It is this one.
    First(u32),
    /// In this block of file `1`, at this place.
    More(u32, u32),
}

/// A segment head.
#[derive(Clone, Copy, Debug)]
pub struct SegmentHead<'a>(&'a [u8]);

impl<'a> SegmentHead<'a> {
    /// The head on `page`, if there is one.
    ///
    /// # Panics
    /// Where `page` is not a page long.
    #[must_use]
    pub fn parse(page: &'a [u8]) -> Option<SegmentHead<'a>> {
        assert_eq!(page.len(), PAGE_SIZE);
        (u64_at(page, CONTENT_AT) == SEGMENT_HEAD_MAGIC).then_some(SegmentHead(page))
    }

    /// Blocks that the segment has.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        u32_at(self.0, 40)
    }

    /// Where its extent of this number is; `None` where it has none.
    #[must_use]
    pub fn extent(&self, number: u32) -> Option<ExtentPlace> {
        if number >= u32_at(self.0, 44) {
            return None;
        }
        let Some(more) = number.checked_sub(HEAD_EXTENTS) else {
            let at = HEAD_EXTENTS_AT + to_usize(number) * 4;
            return Some(ExtentPlace::First(u32_at(self.0, at)));
        };
        let page = more / MORE_EXTENTS;
        (page < HEAD_MORE).then(|| {
            let block = u32_at(self.0, HEAD_MORE_AT + to_usize(page) * 4);
            ExtentPlace::More(block, more % MORE_EXTENTS)
        })
    }
}

/// The first block of the extent at this place of a page with more extents; `None` where the page
/// is no such page.
///
/// # Panics
/// Where `page` is not a page long, or there is no such place.
#[must_use]
pub fn more_extents(page: &[u8], place: u32) -> Option<u32> {
    assert!(place < MORE_EXTENTS, "a page has so many");
    let is_one = u64_at(page, CONTENT_AT) == MORE_EXTENTS_MAGIC;
    is_one.then(|| u32_at(page, MORE_AT + to_usize(place) * 4))
}

/// Blocks of a segment before its extent of this number.
#[must_use]
pub fn blocks_before(extent: u32) -> u64 {
    let steps = [(16, 8), (127, 128), (112, 1024), (u32::MAX, 8192)];
    let (mut rest, mut blocks) = (extent, 0);
    for (count, size) in steps {
        let here = rest.min(count);
        blocks += u64::from(here) * size;
        rest -= here;
    }
    blocks
}

fn to_usize(value: u32) -> usize {
    usize::try_from(value).expect("32 bits fit on every supported platform")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_of_a_segment_grow_as_the_server_has_it() {
        for (extent, blocks) in [
            (0, 0),
            (16, 128),
            (143, 16_384),
            (255, 131_072),
            (256, 139_264),
            (0x3_FFFF, 131_072 + u64::from(0x3_FFFF - 255_u32) * 8192),
        ] {
            assert_eq!(blocks_before(extent), blocks, "{extent}");
        }
    }

    #[test]
    fn pages_that_are_none_of_the_space_are_told() {
        let page = vec![0xA5; PAGE_SIZE];
        assert_eq!(map_groups(&page, 8), None);
        assert!(SegmentHead::parse(&page).is_none());
        assert_eq!(more_extents(&page, 1999), None);
        let mut page = vec![0; PAGE_SIZE];
        page[CONTENT_AT] = 8;
        assert_eq!(map_groups(&page, 8), Some(Vec::new()));
        assert_eq!(map_groups(&page, 128), None);
        // A group that begins in front of all maps.
        page[26] = 1;
        page[GROUPS_AT + 8] = 64;
        assert_eq!(map_groups(&page, 8), None);
        page[GROUPS_AT] = 3;
        assert!(map_groups(&page, 8).is_some());
        page[26..28].copy_from_slice(&34_u16.to_le_bytes());
        assert_eq!(map_groups(&page, 8), None);
    }

    #[test]
    fn extents_of_a_segment_are_in_its_head_and_then_in_pages_of_their_own() {
        let mut page = vec![0; PAGE_SIZE];
        page[24..32].copy_from_slice(&SEGMENT_HEAD_MAGIC.to_le_bytes());
        page[44..48].copy_from_slice(&6000_u32.to_le_bytes());
        let mut put = |at: usize, value: u32| {
            page[at..at + 4].copy_from_slice(&value.to_le_bytes());
        };
        put(64 + 1254 * 4, 77);
        put(5084 + 2 * 4, 88);
        let head = SegmentHead::parse(&page).unwrap();
        assert_eq!(head.extent(1254), Some(ExtentPlace::First(77)));
        assert_eq!(head.extent(5256), Some(ExtentPlace::More(88, 1)));
        assert_eq!(head.extent(6000), None);
    }
}
