//! Every page of the server's relations is what it says, and damaged ones are noticed.

use super::{fixtures, visit_files};
use crate::format::page::{
    PAGE_SIZE, PageHeader, PageLayout, PageVerdict, is_zero_page, page_checksum,
    verify_compressed_page, verify_page, verify_pages,
};
use crate::types::{BlockNumber, FileBlock, Lsn, SegmentNumber};
use std::collections::BTreeMap;

/// Files of segment-page storage have 128 MiB, used from the front.
const FILE_BYTES_MAX: u64 = 40 << 20;

/// The segment of a relation file that consists of plain pages, else `None`.
fn segment_of(path: &str) -> Option<SegmentNumber> {
    let path = path.strip_prefix("gauss/data/dn1/")?;
    if !path.starts_with("base/") && !path.starts_with("global/") {
        return None;
    }
    let name = path.rsplit('/').next()?;
    let fork = ["_fsm", "_vm", "_bcm", "_init"]
        .iter()
        .find_map(|fork| name.strip_suffix(fork));
    let name = fork.unwrap_or(name);
    let (relation, segno) = name.split_once('.').unwrap_or((name, "0"));
    relation.parse::<u32>().ok()?;
    segno.parse().ok().map(SegmentNumber)
}

#[derive(Default)]
struct Seen {
    files: usize,
    zero_pages: usize,
    pages_by_layout: BTreeMap<u8, usize>,
    flips: usize,
}

impl Seen {
    fn file(&mut self, path: &str, segno: SegmentNumber, pages: &[u8]) {
        assert!(pages.len().is_multiple_of(PAGE_SIZE), "{path}");
        self.files += 1;
        let mut verdicts = Vec::new();
        let first = segno.relation_block(FileBlock(0));
        verify_pages(pages, first, &mut verdicts);
        assert_eq!(verdicts.len(), pages.len() / PAGE_SIZE);
        for ((page, verdict), block) in pages.chunks_exact(PAGE_SIZE).zip(verdicts).zip(first.0..) {
            self.page(path, page, verdict, BlockNumber(block));
        }
    }

    fn page(&mut self, path: &str, page: &[u8], verdict: PageVerdict, block: BlockNumber) {
        assert_eq!(verify_page(page, block), verdict, "{path} block {block}");
        match verdict {
            PageVerdict::Zero => {
                assert!(is_zero_page(page));
                self.zero_pages += 1;
            }
            PageVerdict::Valid { lsn, checksum } => {
                let header = PageHeader::parse(page);
                assert_eq!((header.lsn, header.checksum), (lsn, checksum));
                let layout = PageLayout::of(page);
                let sane = usize::from(header.lower) >= layout.header_bytes();
                let never_initialised = header.page_size == 0 && is_zero_page(&page[12..]);
                assert!(sane || never_initialised, "{path} block {block}");
                *self.pages_by_layout.entry(layout.version()).or_default() += 1;
                let valid_pages: usize = self.pages_by_layout.values().sum();
                if valid_pages.is_multiple_of(5) {
                    self.flip(path, page, block);
                }
                let elsewhere = verify_page(page, BlockNumber(block.0 ^ 1));
                assert!(
                    matches!(elsewhere, PageVerdict::Bad(_)),
                    "{path} block {block} moved"
                );
            }
            PageVerdict::SegmentPca | PageVerdict::Bad(_) => {
                panic!("{path} block {block}: {verdict:?}")
            }
        }
    }

    /// Flips one bit of every kind of place in turn.
    fn flip(&mut self, path: &str, page: &[u8], block: BlockNumber) {
        let mut damaged = page.to_vec();
        let at = match self.flips % 3 {
            0 => self.flips / 3 % 24,
            1 => self.flips * 7919 % PAGE_SIZE,
            _ => PAGE_SIZE - 1 - self.flips / 3 % 64,
        };
        damaged[at] ^= 1 << (self.flips % 8);
        let verdict = verify_page(&damaged, block);
        assert!(
            matches!(verdict, PageVerdict::Bad(_)),
            "{path} block {block} byte {at}"
        );
        self.flips += 1;
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "says how much was tested")]
fn every_page_of_the_servers_relations_is_valid_and_flipped_bits_are_noticed() {
    let Some(fixtures) = fixtures() else { return };
    let mut seen = Seen::default();
    visit_files(
        &fixtures.join("pgdata.tar.zst"),
        FILE_BYTES_MAX,
        |path| segment_of(path).is_some(),
        |path, pages| seen.file(path, segment_of(path).unwrap(), pages),
    );
    let Seen {
        files,
        zero_pages,
        pages_by_layout,
        flips,
    } = seen;
    eprintln!(
        "{files} files, {zero_pages} zero pages, by layout {pages_by_layout:?}, {flips} flips"
    );
    assert!(files > 2000 && zero_pages > 1000 && flips > 1000);
    assert_eq!(
        pages_by_layout[&0], 2,
        "pages that were written but never initialised"
    );
    let layouts: Vec<u8> = pages_by_layout.into_keys().collect();
    assert_eq!(
        layouts,
        [0, 5, 6, 7, 8],
        "all layouts that the server writes"
    );
}

#[test]
fn page_of_zeros_is_valid_without_checksum() {
    let mut pages = vec![0; 5 * PAGE_SIZE];
    let mut verdicts = Vec::new();
    verify_pages(&pages, BlockNumber(9), &mut verdicts);
    assert_eq!(verdicts, [PageVerdict::Zero; 5]);
    for at in 0..PAGE_SIZE {
        pages[at] = 0x80;
        let verdict = verify_page(&pages[..PAGE_SIZE], BlockNumber(9));
        assert!(matches!(verdict, PageVerdict::Bad(_)), "byte {at}");
        pages[at] = 0;
    }
}

#[test]
fn page_written_but_never_initialised_is_valid_by_its_checksum_alone() {
    let block = BlockNumber(4158);
    let mut page = vec![0; PAGE_SIZE];
    page[..12].copy_from_slice(&[0, 0, 0, 0, 0x60, 0x37, 0x8e, 0x02, 0x38, 0xdd, 0x40, 0]);
    let valid = PageVerdict::Valid {
        lsn: Lsn(0x28E_3760),
        checksum: 0xDD38,
    };
    assert_eq!(verify_page(&page, block), valid);
    assert_eq!(verify_compressed_page(&page, block), valid);
    for at in 0..PAGE_SIZE {
        page[at] ^= 1;
        assert!(
            matches!(verify_page(&page, block), PageVerdict::Bad(_)),
            "byte {at}"
        );
        assert!(
            matches!(verify_compressed_page(&page, block), PageVerdict::Bad(_)),
            "byte {at}"
        );
        page[at] ^= 1;
    }
    page[13] = 0x80;
    assert_eq!(verify_compressed_page(&page, block), valid);
    assert!(matches!(verify_page(&page, block), PageVerdict::Bad(_)));
}

#[test]
fn page_that_ends_with_the_magic_is_chunk_addresses() {
    let mut page = [0xA5; PAGE_SIZE];
    page[PAGE_SIZE - 8..].copy_from_slice(b"seg_comp");
    assert_eq!(verify_page(&page, BlockNumber(3)), PageVerdict::SegmentPca);
    page[PAGE_SIZE - 1] ^= 1;
    assert!(matches!(
        verify_page(&page, BlockNumber(3)),
        PageVerdict::Bad(_)
    ));
}

#[test]
fn mark_of_compressed_pages_is_wrong_in_an_ordinary_page() {
    let mut page = super::extents::plain_page(BlockNumber(3));
    let verdict = verify_page(&page, BlockNumber(3));
    assert!(
        matches!(verdict, PageVerdict::Valid { lsn: Lsn(0x77), .. }),
        "{verdict:?}"
    );
    page[13] |= 0x80;
    let PageVerdict::Bad(defect) = verify_page(&page, BlockNumber(3)) else {
        panic!("a marked page passed");
    };
    assert_eq!(
        defect.to_string(),
        "page header invalid, pd_lower 32808 is greater than pd_upper 8000"
    );
}

#[test]
fn checksum_mismatch_names_both_sums_the_right_way_round() {
    let mut page = super::extents::plain_page(BlockNumber(3));
    let stored = PageHeader::parse(&page).checksum;
    page[5000] ^= 1;
    let computed = page_checksum(&page, BlockNumber(3));
    let PageVerdict::Bad(defect) = verify_page(&page, BlockNumber(3)) else {
        panic!("a damaged page passed");
    };
    assert_ne!(stored, computed);
    assert_eq!(
        defect.to_string(),
        format!("page verification failed, calculated checksum {computed} but expected {stored}")
    );
}

#[test]
fn block_numbers_wrap_like_the_servers() {
    let pages = [
        super::extents::plain_page(BlockNumber(u32::MAX)),
        super::extents::plain_page(BlockNumber(0)),
    ]
    .concat();
    let mut verdicts = Vec::new();
    verify_pages(&pages, BlockNumber(u32::MAX), &mut verdicts);
    assert!(
        verdicts
            .iter()
            .all(|verdict| matches!(verdict, PageVerdict::Valid { .. }))
    );
}
