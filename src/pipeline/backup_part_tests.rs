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
    scratch.put(65, &torn(65));
    scratch.put(188, &torn(188));
    let wanted = vec![3..4, 63..64, 69..70, 280..281];
    let backed_up = scratch.back_up_blocks(SEGMENT, MAIN, wanted, |_, attempt| {
        assert_eq!(attempt, 0);
    });
    let (file, read) = backed_up.unwrap();
    assert_eq!(read, 4 * PAGE_SIZE + END);
    assert_eq!(file.n_blocks, 300);
    let records = scratch.records();
    assert_eq!(blocks(&records), [3, 63, 69, 280]);
    assert_bytes_of(&records, &whole);
}

/// Blocks of segment-page storage with an extent of compressed pages, at 189.
fn with_compressed_extent() -> Vec<u8> {
    // Positions in WAL that pages have which were changed by WAL.
    let lsn = 1 << 30;
    let mut whole: Vec<u8> = (0..400).flat_map(|block| page(block, lsn)).collect();
    let extent = 189 * PAGE_SIZE..317 * PAGE_SIZE;
    whole[extent.clone()].fill(0xA5);
    // A piece that looks like a page proves nothing.
    whole[191 * PAGE_SIZE..][..PAGE_SIZE].copy_from_slice(&page(191, lsn));
    whole[extent.end - 8..extent.end].copy_from_slice(b"seg_comp");
    whole
}

fn assert_bytes_of(records: &[(u32, Vec<u8>)], whole: &[u8]) {
    for (block, stored) in records {
        let at = usize::try_from(*block).unwrap() * PAGE_SIZE;
        assert_eq!(*stored, whole[at..at + PAGE_SIZE], "{block}");
    }
}

#[test]
fn of_an_extent_of_compressed_pages_in_segment_storage_all_is_stored() {
    let whole = with_compressed_extent();
    let scratch = Scratch::with(&whole);
    let wanted = vec![1..2, 191..192, 390..391];
    let backed_up = scratch.back_up_blocks(SEGMENT, MAIN, wanted, |_, _| {});
    let (_, read) = backed_up.unwrap();
    assert_eq!(read, 2 * PAGE_SIZE + EXTENT_PAGES_MAX * PAGE_SIZE);
    let records = scratch.records();
    let stored: Vec<u32> = std::iter::once(1).chain(189..317).chain([390]).collect();
    assert_eq!(blocks(&records), stored);
    assert_bytes_of(&records, &whole);
}

#[test]
fn extents_of_compressed_pages_are_found_where_the_server_has_them() {
    let whole = with_compressed_extent();
    let scratch = Scratch::with(&whole);
    let item = || BackupItem {
        name: SEGMENT.to_owned(),
        size: bytes_of(whole.len()),
        ..scratch.item()
    };
    let (file, _) = scratch.run(true, item(), |_, _| {}).unwrap();
    assert_eq!(file.n_blocks, 400);
    assert_bytes_of(&scratch.records(), &whole);
    let since = BackupItem {
        selection: Selection::Since {
            lsn: crate::types::Lsn(u64::MAX),
            new_from: 400,
        },
        ..item()
    };
    scratch.run(true, since, |_, _| {}).unwrap();
    assert_eq!(blocks(&scratch.records()), (189..317).collect::<Vec<_>>());
    // Elsewhere the same bytes are damage.
    let of_a_relation = BackupItem {
        name: "base/1/16384".to_owned(),
        ..item()
    };
    assert!(scratch.run(true, of_a_relation, |_, _| {}).is_err());
}

#[test]
fn a_changed_page_of_segment_storage_that_is_torn_is_read_again() {
    let whole = pages(300);
    let scratch = Scratch::with(&whole);
    scratch.put(70, &torn(70));
    let wanted = vec![70..71, 180..181];
    let backed_up = scratch.back_up_blocks(SEGMENT, MAIN, wanted.clone(), |_, attempt| {
        if attempt == 1 {
            scratch.put(70, &page(70, 2));
        }
    });
    assert_eq!(backed_up.unwrap().1, 2 * PAGE_SIZE + END);
    let records = scratch.records();
    assert_eq!(records, [(70, page(70, 2)), (180, page(180, 1))]);
    scratch.put(70, &torn(70));
    let failed = scratch.back_up_blocks(SEGMENT, MAIN, wanted, |_, _| {});
    let error = failed.unwrap_err().to_string();
    assert!(error.contains("base/1/3 block 70"), "{error}");
}

#[test]
fn segment_storage_that_becomes_shorter_ends_there() {
    for (left, stored, n_blocks) in [
        (250, vec![70, 240], 250),
        (240, vec![70], 240),
        (65, vec![], 65),
    ] {
        let scratch = Scratch::with(&pages(317));
        // The plan is made of what was listed.
        let item = BackupItem {
            name: SEGMENT.to_owned(),
            size: bytes_of(317 * PAGE_SIZE),
            selection: Selection::Blocks(vec![70..71, 240..241]),
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
        .back_up_blocks(PACKED, content, vec![0..100, 100..1000], |_, _| {})
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
    // Two headers, the one with pages twice, and two pages, which are not compressed.
    assert_eq!(read, 5 * PAGE_SIZE);
    let stored = scratch.records();
    assert_eq!(stored, [all[3].clone(), all[100].clone()]);
}

#[test]
fn pages_that_moved_since_the_header_was_read_are_found_by_reading_all_again() {
    let (bytes, logical) = packed();
    let moved = {
        // Pages 3 and 4 are in each other's place, and the header says so.
        let mut pages = logical[..127 * PAGE_SIZE].to_vec();
        let (front, back) = pages.split_at_mut(4 * PAGE_SIZE);
        front[3 * PAGE_SIZE..].swap_with_slice(&mut back[..PAGE_SIZE]);
        let mut extent = vec![0; EXTENT_BYTES];
        build_extent(&pages, 512, 1, &mut extent).unwrap();
        let (header, size) = (EXTENT_BYTES - PAGE_SIZE, 6 + 2 * 16);
        let address = |slot: usize| header + 144 + slot * size..header + 144 + (slot + 1) * size;
        let (third, fourth) = (extent[address(3)].to_vec(), extent[address(4)].to_vec());
        extent[address(3)].copy_from_slice(&fourth);
        extent[address(4)].copy_from_slice(&third);
        extent
    };
    let content = Content::CompressedPages(SegmentNumber(0));
    for wanted in [vec![3..4, 9..10], vec![0..100, 100..127]] {
        let scratch = Scratch::with(&bytes);
        let back_up = |disturb: &(dyn Fn(u32, u32) + Sync)| {
            let wanted = wanted.clone();
            let done = scratch.back_up_blocks(PACKED, content, wanted, disturb);
            done.unwrap();
            scratch.records()
        };
        let expected = back_up(&|_, _| {});
        // The server moves them before their chunks are read, and after that.
        for moved_at in [1, 2] {
            scratch.put(0, &bytes);
            let calls = AtomicUsize::new(0);
            let found = back_up(&|first, _| {
                if first == 0 && calls.fetch_add(1, Ordering::Relaxed) + 1 == moved_at {
                    scratch.put(0, &moved);
                }
            });
            assert_eq!(found, expected, "{wanted:?} {moved_at}");
        }
    }
}

#[test]
fn behind_a_compressed_extent_that_is_not_full_a_file_ends() {
    let logical = pages(50);
    let mut bytes = vec![0; 2 * EXTENT_BYTES];
    for extent in bytes.chunks_exact_mut(EXTENT_BYTES) {
        build_extent(&logical, 512, 1, extent).unwrap();
    }
    let scratch = Scratch::with(&bytes);
    let item = BackupItem {
        name: PACKED.to_owned(),
        size: bytes_of(bytes.len()),
        content: Content::CompressedPages(SegmentNumber(0)),
        ..scratch.item()
    };
    // The second is left of a file that was longer; were it read, its pages would be damaged.
    scratch.truncate(bytes_of(EXTENT_BYTES));
    let short = BackupItem {
        size: bytes_of(2 * EXTENT_BYTES),
        ..item
    };
    let (file, _) = scratch.run(true, short, |_, _| {}).unwrap();
    let records = scratch.records();
    assert_eq!((file.n_blocks, records.len()), (50, 50));
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
