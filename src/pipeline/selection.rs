//! Which part of a file goes into an increment, and which part has to be read for that.
//!
//! Wanted blocks that lie close together are read in one request, with the blocks between them,
//! which are left out again. Two kinds of file are read by extents of which only parts are read at
//! first, because a block of theirs cannot be found or judged alone:
//!
//! * `_compress` files: a block's place is in the header at the end of its extent, which is read
//!   first. That of the last extent is always read, for it tells how many blocks the file has.
//! * segment-page storage of extents of 1 MiB and more: whether these are pages or pieces of
//!   compressed ones, the end of the extent says, which is read with the wanted pages.

use super::Content;
use super::records::may_have_compressed_extents;
use crate::format::page::compressed::{EXTENT_BYTES, EXTENT_DATA_BLOCKS};
use crate::format::page::page_changed_since;
use crate::format::relation_path::SEGMENT_EXTENTS_AT;
use crate::limits::{
    CHANGED_GAP_BYTES_MAX, DIRECT_IO_ALIGNMENT, EXTENT_BYTES_MAX, EXTENT_PAGES_MAX,
};
use crate::types::{Lsn, PAGE_SIZE};
use std::ops::Range;

/// What of a file goes into a backup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Selection {
    /// Everything.
    All,
    /// Of a file of pages: these blocks of the file, in ascending order and apart. The last range
    /// may reach behind the end of the file.
    Blocks(Vec<Range<u32>>),
    /// Of a file of pages: those that say that they changed since `lsn`, and every one from block
    /// `new_from` on. All pages are read.
    Since {
        /// Where the parent backup started.
        lsn: Lsn,
        /// Blocks that the parent backup has of the file.
        new_from: u32,
    },
    /// Of any other file: nothing if it has this CRC, else everything.
    UnlessCrc(u32),
}

/// Which pages of an extent are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PageFilter {
    /// Bit i: the page is stored whatever is in it.
    bits: u128,
    /// Others are stored if they changed since.
    since: Option<Lsn>,
}

impl PageFilter {
    /// Stores every page.
    pub(super) const ALL: PageFilter = PageFilter {
        bits: u128::MAX,
        since: None,
    };

    /// Whether the page at this place of the extent has to be looked at.
    pub(super) fn wants(self, index: usize) -> bool {
        self.since.is_some() || self.has_bit(index)
    }

    /// Whether the page is stored.
    pub(super) fn keeps(self, index: usize, page: &[u8]) -> bool {
        self.has_bit(index) || self.since.is_some_and(|lsn| page_changed_since(page, lsn))
    }

    fn has_bit(self, index: usize) -> bool {
        self.bits >> index & 1 == 1
    }
}

/// Blocks to read, at most an extent.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Piece {
    pub(super) blocks: Range<u32>,
    /// Which of them are wanted.
    pub(super) filter: PageFilter,
    /// What of their bytes is read at first, counted from the first; empty means all.
    pub(super) parts: Vec<Range<usize>>,
}

/// How blocks of a file are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Manner {
    /// As they are asked for.
    Alone,
    /// With the end of their extent.
    WithEndOfExtent,
    /// The header of their extent, which says where they are.
    Header,
}

/// The extents to read of a file and what is wanted of each.
#[derive(Debug)]
pub(super) struct ReadPlan {
    manner: Manner,
    /// Wanted blocks.
    wanted: Vec<Range<u32>>,
    /// Blocks to read, at most an extent each.
    pieces: std::vec::IntoIter<Range<u32>>,
    /// Before this index no range of `wanted` is of interest any more.
    cursor: usize,
}

impl ReadPlan {
    /// Plans for the file `name` of `units` pages, or extents if it is compressed.
    pub(super) fn new(
        wanted: Vec<Range<u32>>,
        name: &str,
        content: Content,
        units: u32,
    ) -> ReadPlan {
        let manner = match content {
            Content::CompressedPages(_) => Manner::Header,
            _ if may_have_compressed_extents(name) => Manner::WithEndOfExtent,
            _ => Manner::Alone,
        };
        let pieces = match manner {
            Manner::Header => {
                let mut pieces = whole_extents(&wanted, EXTENT_DATA_BLOCKS, units);
                let last = units.saturating_sub(1);
                let last = last * EXTENT_DATA_BLOCKS..(last + 1) * EXTENT_DATA_BLOCKS;
                if units > 0 && pieces.last() != Some(&last) {
                    pieces.push(last);
                }
                pieces
            }
            Manner::WithEndOfExtent => segment_extents(&wanted, units),
            Manner::Alone => joined(&wanted, units),
        };
        ReadPlan {
            manner,
            wanted,
            pieces: pieces.into_iter(),
            cursor: 0,
        }
    }

    /// The next blocks to read, and which of them are wanted.
    pub(super) fn next(&mut self) -> Option<Piece> {
        let blocks = self.pieces.next()?;
        while self
            .wanted
            .get(self.cursor)
            .is_some_and(|range| range.end <= blocks.start)
        {
            self.cursor += 1;
        }
        let wanted = &self.wanted[self.cursor..];
        let wanted = wanted.iter().take_while(|range| range.start < blocks.end);
        let bits = wanted
            .clone()
            .fold(0, |bits, range| bits | bits_of(&blocks, range));
        let parts = match self.manner {
            Manner::Alone => Vec::new(),
            Manner::Header => std::iter::once(EXTENT_BYTES - PAGE_SIZE..EXTENT_BYTES).collect(),
            Manner::WithEndOfExtent => parts_with_end(wanted, &blocks),
        };
        Some(Piece {
            blocks,
            filter: PageFilter { bits, since: None },
            parts,
        })
    }

    /// Memory that it takes, all but a constant.
    pub(super) fn held_bytes(&self) -> usize {
        (self.wanted.len() + self.pieces.len()) * size_of::<Range<u32>>()
    }
}

/// What is wanted of an extent that is judged by what its pages say.
pub(super) fn since(lsn: Lsn, new_from: u32, first: u32) -> PageFilter {
    let extent = first..first.saturating_add(block(EXTENT_PAGES_MAX));
    PageFilter {
        bits: bits_of(&extent, &(new_from..u32::MAX)),
        since: Some(lsn),
    }
}

/// The bits of the blocks of `range` in `piece`.
fn bits_of(piece: &Range<u32>, range: &Range<u32>) -> u128 {
    let start = range.start.max(piece.start);
    let end = range.end.min(piece.end);
    if start >= end {
        return 0;
    }
    let (from, count) = (start - piece.start, end - start);
    (u128::MAX >> (u128::BITS - count)) << from
}

/// The extents of `size` blocks that hold wanted blocks, of a file of `extents` extents.
fn whole_extents(wanted: &[Range<u32>], size: u32, extents: u32) -> Vec<Range<u32>> {
    let mut pieces: Vec<Range<u32>> = Vec::new();
    let mut next = 0;
    for range in wanted.iter().filter(|range| !range.is_empty()) {
        let first = (range.start / size).max(next);
        let end = range.end.div_ceil(size).min(extents);
        for extent in first..end {
            pieces.push(extent * size..(extent + 1) * size);
        }
        next = next.max(end);
    }
    pieces
}

/// The extents of segment-page storage of 1 MiB that hold wanted blocks before `end`; what is in
/// front of the first belongs to one of another file, or to none.
fn segment_extents(wanted: &[Range<u32>], end: u32) -> Vec<Range<u32>> {
    let (size, first) = (block(EXTENT_PAGES_MAX), block(SEGMENT_EXTENTS_AT));
    let mut pieces: Vec<Range<u32>> = Vec::new();
    for range in wanted {
        let mut next = range.start.max(pieces.last().map_or(0, |last| last.end));
        while next < range.end.min(end) {
            let start = match next.checked_sub(first) {
                Some(behind) => next - behind % size,
                None => 0,
            };
            let piece_end = if start < first {
                first
            } else {
                start.saturating_add(size)
            };
            pieces.push(start..piece_end.min(end));
            next = piece_end;
        }
    }
    pieces
}

/// Bytes of the wanted blocks among `blocks`, and the end of the extent if that is a whole one.
fn parts_with_end<'a>(
    wanted: impl Iterator<Item = &'a Range<u32>>,
    blocks: &Range<u32>,
) -> Vec<Range<usize>> {
    let within = |range: &Range<u32>| {
        let start = range.start.clamp(blocks.start, blocks.end) - blocks.start;
        let end = range.end.clamp(blocks.start, blocks.end) - blocks.start;
        start * block(PAGE_SIZE)..end * block(PAGE_SIZE)
    };
    let mut parts: Vec<Range<usize>> = Vec::new();
    let length = (blocks.end - blocks.start) * block(PAGE_SIZE);
    let end = block(EXTENT_BYTES_MAX - DIRECT_IO_ALIGNMENT)..block(EXTENT_BYTES_MAX);
    let end = (length == end.end).then_some(end);
    for range in wanted.map(within).chain(end) {
        let range = size(range.start)..size(range.end);
        match parts.last_mut() {
            Some(last) if range.start <= last.end + CHANGED_GAP_BYTES_MAX => {
                last.end = last.end.max(range.end);
            }
            _ => parts.push(range),
        }
    }
    parts
}

/// The wanted blocks before `end` in runs of at most an extent; gaps that cost less than a further
/// request are read along.
fn joined(wanted: &[Range<u32>], end: u32) -> Vec<Range<u32>> {
    let gap = block(CHANGED_GAP_BYTES_MAX / PAGE_SIZE);
    let size = block(EXTENT_PAGES_MAX);
    let mut pieces: Vec<Range<u32>> = Vec::new();
    for range in wanted {
        let range = range.start..range.end.min(end);
        let mut start = range.start;
        if let Some(last) = pieces.last_mut()
            && range.start < range.end
            && range.start - last.end <= gap
            && range.start - last.start < size
        {
            last.end = range.end.min(last.start + size);
            start = last.end;
        }
        while start < range.end {
            let stop = range.end.min(start + size);
            pieces.push(start..stop);
            start = stop;
        }
    }
    pieces
}

fn block(count: usize) -> u32 {
    u32::try_from(count).expect("an extent is small")
}

fn size(bytes: u32) -> usize {
    usize::try_from(bytes).expect("a usize fits on every supported platform")
}

const _: () = assert!(EXTENT_PAGES_MAX <= 128, "a filter has a bit for each page");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::SegmentNumber;

    const PAGES: Content = Content::Pages(SegmentNumber(0));

    /// All that a plan says: blocks to read, and those wanted among them.
    fn said(mut plan: ReadPlan) -> Vec<(Range<u32>, Vec<u32>)> {
        let mut pieces = Vec::new();
        while let Some(Piece { blocks, filter, .. }) = plan.next() {
            let wanted = blocks
                .clone()
                .filter(|at| filter.wants(usize::try_from(at - blocks.start).unwrap()))
                .collect();
            pieces.push((blocks, wanted));
        }
        pieces
    }

    #[test]
    fn blocks_that_lie_close_together_are_read_in_one_request() {
        let wanted = vec![1..2, 3..4, 6..8, 11..12, 200..2000];
        let plan = ReadPlan::new(wanted, "base/1/16384", PAGES, 400);
        assert_eq!(
            said(plan),
            [
                (1..8, vec![1, 3, 6, 7]),
                (11..12, vec![11]),
                (200..328, (200..328).collect()),
                (328..400, (328..400).collect()),
            ]
        );
    }

    #[test]
    fn a_run_that_is_joined_is_at_most_an_extent() {
        let plan = ReadPlan::new(vec![0..1, 3..300], "base/1/16384", PAGES, 1000);
        let ranges: Vec<_> = said(plan).into_iter().map(|(range, _)| range).collect();
        assert_eq!(ranges, [0..128, 128..256, 256..300]);
    }

    #[test]
    fn of_segment_storage_and_compressed_files_parts_of_extents_are_read() {
        // Extents are at 61, 189, 317 and so on.
        let page = |from: usize, to: usize| from * PAGE_SIZE..to * PAGE_SIZE;
        let end = EXTENT_BYTES_MAX - DIRECT_IO_ALIGNMENT..EXTENT_BYTES_MAX;
        let wanted = vec![3..5, 7..8, 20..21, 64..65, 187..188, 200..9000];
        let plan = || ReadPlan::new(wanted.clone(), "base/1/3.2", PAGES, 330);
        let mut parts = plan();
        let mut parts = || parts.next().unwrap().parts;
        // What is in front of the first extent cannot be one of compressed pages.
        assert_eq!(parts(), [page(3, 8), page(20, 21)]);
        assert_eq!(parts(), [page(3, 4), 126 * PAGE_SIZE..end.end]);
        assert_eq!(parts(), [page(11, 128)]);
        // Nor can one that is not complete.
        assert_eq!(parts(), [page(0, 13)]);
        assert_eq!(
            said(plan()),
            [
                (0..61, vec![3, 4, 7, 20]),
                (61..189, vec![64, 187]),
                (189..317, (200..317).collect()),
                (317..330, (317..330).collect()),
            ]
        );
        let mut plan = ReadPlan::new(vec![64..65, 380..381], "base/1/3.2", PAGES, 390);
        assert_eq!(plan.next().unwrap().parts, [page(3, 4), end]);
        // There are no compressed pages in extents of less than 1 MiB.
        let plan = ReadPlan::new(vec![3..4, 90..91], "base/1/2.2", PAGES, 390);
        assert_eq!(said(plan), [(3..4, vec![3]), (90..91, vec![90])]);
    }

    #[test]
    fn of_compressed_files_the_headers_are_read_first() {
        let content = Content::CompressedPages(SegmentNumber(0));
        let wanted = vec![126..128, 129..130];
        let mut plan = ReadPlan::new(wanted.clone(), "base/1/16384_compress", content, 4);
        let header = EXTENT_BYTES - PAGE_SIZE..EXTENT_BYTES;
        while let Some(piece) = plan.next() {
            assert_eq!(piece.parts, std::slice::from_ref(&header));
        }
        let plan = ReadPlan::new(wanted, "base/1/16384_compress", content, 4);
        assert_eq!(
            said(plan),
            [
                (0..127, vec![126]),
                (127..254, vec![127, 129]),
                // For the number of blocks.
                (381..508, vec![]),
            ]
        );
    }

    #[test]
    fn new_blocks_are_stored_whatever_they_say() {
        let old = [0x10; PAGE_SIZE];
        let lsn = Lsn(u64::MAX);
        for (first, new_from, kept) in [
            (0, 128, None),
            (0, 127, Some(127)),
            (0, 3, Some(3)),
            (128, 3, Some(0)),
            (0, 0, Some(0)),
        ] {
            let filter = since(lsn, new_from, first);
            let found = (0..128).find(|index| filter.keeps(*index, &old));
            assert_eq!(found, kept, "{first} {new_from}");
        }
    }
}
