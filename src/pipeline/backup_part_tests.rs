//! Tests of increments: what is read of files of which some blocks changed, and what is stored.

use super::*;
use crate::format::page::compressed::build_extent;
use crate::limits::DIRECT_IO_ALIGNMENT;

/// A file of segment-page storage with extents of 1 MiB.
const SEGMENT: &str = "base/1/3";

const PACKED: &str = "base/1/16384_compress";

/// Bytes that say what an extent of segment-page storage holds.
const END: usize = DIRECT_IO_ALIGNMENT;

fn blocks(records: &[(u32, Vec<u8>)]) -> Vec<u32> {
    records.iter().map(|(block, _)| *block).collect()
}

#[test]
fn of_segment_storage_changed_pages_and_the_ends_of_extents_are_read() {
    let whole = pages(300);
    let scratch = Scratch::with(&whole);
    // Nobody looks at what did not change.
    scratch.put(5, &torn(5));
    scratch.put(127, &torn(127));
    let wanted = vec![3..4, 9..10, 280..281];
    let backed_up = scratch.back_up_blocks(SEGMENT, MAIN, wanted, |_, attempt| {
        assert_eq!(attempt, 0);
    });
    let (file, read) = backed_up.unwrap();
    assert_eq!(read, 3 * PAGE_SIZE + END);
    assert_eq!(file.n_blocks, 300);
    let records = scratch.records();
    assert_eq!(blocks(&records), [3, 9, 280]);
    assert!(
        records
            .iter()
            .all(|(block, stored)| *stored == page(*block, 1))
    );
}

#[test]
fn of_an_extent_of_compressed_pages_in_segment_storage_all_is_stored() {
    let mut whole = pages(300);
    let extent = EXTENT_PAGES_MAX * PAGE_SIZE;
    whole[extent..2 * extent].fill(0xA5);
    // A piece that looks like a page proves nothing.
    whole[extent + 2 * PAGE_SIZE..][..PAGE_SIZE].copy_from_slice(&page(130, 1));
    whole[2 * extent - 8..2 * extent].copy_from_slice(b"seg_comp");
    let scratch = Scratch::with(&whole);
    let wanted = vec![1..2, 130..131, 290..291];
    let backed_up = scratch.back_up_blocks(SEGMENT, MAIN, wanted, |_, _| {});
    let (_, read) = backed_up.unwrap();
    assert_eq!(read, 2 * PAGE_SIZE + END + extent);
    let records = scratch.records();
    let stored: Vec<u32> = std::iter::once(1).chain(128..256).chain([290]).collect();
    assert_eq!(blocks(&records), stored);
    for (block, stored) in &records {
        let at = usize::try_from(*block).unwrap() * PAGE_SIZE;
        assert_eq!(*stored, whole[at..at + PAGE_SIZE], "{block}");
    }
}

#[test]
fn a_changed_page_of_segment_storage_that_is_torn_is_read_again() {
    let whole = pages(128);
    let scratch = Scratch::with(&whole);
    scratch.put(7, &torn(7));
    let wanted = vec![7..8, 100..101];
    let backed_up = scratch.back_up_blocks(SEGMENT, MAIN, wanted.clone(), |_, attempt| {
        if attempt == 1 {
            scratch.put(7, &page(7, 2));
        }
    });
    assert_eq!(backed_up.unwrap().1, 2 * PAGE_SIZE + END);
    let records = scratch.records();
    assert_eq!(records, [(7, page(7, 2)), (100, page(100, 1))]);
    scratch.put(7, &torn(7));
    let failed = scratch.back_up_blocks(SEGMENT, MAIN, wanted, |_, _| {});
    let error = failed.unwrap_err().to_string();
    assert!(error.contains("base/1/3 block 7"), "{error}");
}

#[test]
fn segment_storage_that_becomes_shorter_ends_there() {
    for (left, stored, n_blocks) in [
        (150, vec![3, 140], 150),
        (140, vec![3], 140),
        (2, vec![], 2),
    ] {
        let scratch = Scratch::with(&pages(256));
        // The plan is made of what was listed.
        let item = BackupItem {
            name: SEGMENT.to_owned(),
            size: bytes_of(256 * PAGE_SIZE),
            selection: Selection::Blocks(vec![3..4, 140..141]),
            ..scratch.item()
        };
        scratch.truncate(left * bytes_of(PAGE_SIZE));
        let (file, _) = scratch.run(true, item, |_, _| {}).unwrap();
        assert_eq!(blocks(&scratch.records()), stored);
        assert_eq!(u64::from(file.n_blocks), n_blocks, "{left}");
    }
}

/// A `_compress` file of two extents, of 127 and 50 pages, and the pages.
fn packed() -> (Vec<u8>, Vec<u8>) {
    let logical = pages(177);
    let mut bytes = vec![0; 2 * EXTENT_BYTES];
    let (first, second) = logical.split_at(127 * PAGE_SIZE);
    let (front, back) = bytes.split_at_mut(EXTENT_BYTES);
    build_extent(first, 512, 1, front).unwrap();
    build_extent(second, 512, 1, back).unwrap();
    (bytes, logical)
}

#[test]
fn of_a_compressed_file_headers_and_the_chunks_of_changed_pages_are_read() {
    let (bytes, _) = packed();
    let scratch = Scratch::with(&bytes);
    let content = Content::CompressedPages(SegmentNumber(0));
    let (file, read) = scratch
        .back_up_blocks(PACKED, content, vec![0..1000], |_, _| {})
        .unwrap();
    assert_eq!(file.n_blocks, 177);
    assert!(read > EXTENT_BYTES);
    let all = scratch.records();
    assert_eq!(blocks(&all), (0..177).collect::<Vec<_>>());
    let wanted = vec![3..4, 100..101];
    let (file, read) = scratch
        .back_up_blocks(PACKED, content, wanted, |_, attempt| assert_eq!(attempt, 0))
        .unwrap();
    assert_eq!(file.n_blocks, 177);
    // Two headers and two pages, which are not compressed.
    assert_eq!(read, 4 * PAGE_SIZE);
    let stored = scratch.records();
    assert_eq!(stored, [all[3].clone(), all[100].clone()]);
}

#[test]
fn a_chunk_that_moved_since_the_header_was_read_is_found_by_reading_all_again() {
    let (bytes, _) = packed();
    let scratch = Scratch::with(&bytes);
    let content = Content::CompressedPages(SegmentNumber(0));
    let (_, _) = scratch
        .back_up_blocks(PACKED, content, vec![3..4], |_, _| {})
        .unwrap();
    let expected = scratch.records();
    // As the header is read, page 3 is where page 4 was, and the other way round.
    let swapped = |bytes: &mut [u8]| {
        let (front, back) = bytes.split_at_mut(4 * PAGE_SIZE);
        front[3 * PAGE_SIZE..].swap_with_slice(&mut back[..PAGE_SIZE]);
    };
    let mut before = bytes.clone();
    swapped(&mut before);
    scratch.put(0, &before);
    let calls = AtomicUsize::new(0);
    let (_, read) = scratch
        .back_up_blocks(PACKED, content, vec![3..4], |first, attempt| {
            if first == 0 && calls.fetch_add(1, Ordering::Relaxed) == 2 {
                assert_eq!(attempt, 1);
                scratch.put(0, &bytes);
            }
        })
        .unwrap();
    assert_eq!(scratch.records(), expected);
    assert_eq!(read, 3 * PAGE_SIZE);
}

#[test]
fn a_compressed_file_that_becomes_shorter_ends_there() {
    let (bytes, _) = packed();
    let content = Content::CompressedPages(SegmentNumber(0));
    let scratch = Scratch::with(&bytes);
    let item = BackupItem {
        name: PACKED.to_owned(),
        size: bytes_of(bytes.len()),
        content,
        selection: Selection::Blocks(vec![3..4, 130..131]),
        ..scratch.item()
    };
    scratch.truncate(bytes_of(EXTENT_BYTES));
    let (file, _) = scratch.run(true, item, |_, _| {}).unwrap();
    assert_eq!(file.n_blocks, 127);
    assert_eq!(blocks(&scratch.records()), [3]);
}
