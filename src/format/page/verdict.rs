//! Whether a page is what the server wrote. A bad page is an answer here, not an error: the
//! command decides what to do about it.
//!
//! Order of the tests:
//!
//! 1. A page that ends with `seg_comp` holds the chunk addresses of a compressed extent in
//!    segment-page storage. It has no header and no checksum of its own.
//! 2. A page of zeros was allocated and never written. One that is zeros but for LSN, checksum and
//!    flags was written and never initialised: the server makes and accepts such pages (seen in
//!    the free space map of segment-page storage), so with a right checksum it is valid. To the
//!    original its header is invalid.
//! 3. The header must be sane ([`PageHeader::check`]). Layout version and transactions are not
//!    looked at: servers to come may use others.
//! 4. The checksum must be right for the block the page was read from.
//!
//! The original also accepts a page anywhere whose [compressed form](super::compressed) has a
//! right checksum. Here that holds for pages of `_compress` relations only
//! ([`verify_compressed_page`]): nowhere else does a backup contain one, and an ordinary page that
//! passes by it is damaged.
//!
//! Source: `validate_one_page` and `get_header_errormsg` in gs_probackup's `data.cpp`.

use super::checksum::{page_checksum, page_checksums};
use super::compressed::server_block;
use super::compressed_page::CompressedPage;
use super::header::{COMPRESSED_MARK, HeaderDefect, PageHeader};
use crate::types::{BlockNumber, Lsn, PAGE_SIZE};

/// What ends the page of chunk addresses of a compressed extent in segment-page storage.
pub(super) const SEGMENT_PCA_MAGIC: &[u8; 8] = b"seg_comp";

/// Where the fields end that the server fills in when it writes a page: LSN, checksum, flags.
const BODY_AT: usize = 12;

/// Pages whose checksums are taken before any is judged: half an L1 cache of them.
const BATCH_PAGES: usize = 4;

/// What a page turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageVerdict {
    /// The page is what the server wrote to this block.
    Valid {
        /// End of the WAL record that last changed it.
        lsn: Lsn,
        /// Its checksum as computed, which is what a page header map records.
        checksum: u16,
    },
    /// All zeros: allocated, never written.
    Zero,
    /// Chunk addresses of a compressed extent in segment-page storage; nothing in it is checked.
    SegmentPca,
    /// The page is damaged, or was being written while it was read.
    Bad(PageDefect),
}

/// What is wrong with a page, in the words of the original, but with the two checksums named the
/// right way round.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PageDefect {
    /// The header cannot be right.
    #[error(transparent)]
    HeaderInvalid(HeaderDefect),
    /// The checksum differs.
    #[error("page verification failed, calculated checksum {computed} but expected {stored}")]
    ChecksumMismatch {
        /// What the page says.
        stored: u16,
        /// What it should say.
        computed: u16,
    },
    /// The page is neither what it says nor in a compressed form that is.
    #[error(
        "page verification failed, calculated checksum {computed} of the compressed data but \
         expected {stored}"
    )]
    CompressedChecksumMismatch {
        /// What the page says of its compressed bytes.
        stored: u32,
        /// What it should say.
        computed: u32,
    },
}

/// Judges `page`, read from `block`.
///
/// # Panics
///
/// Where `page` is not [`PAGE_SIZE`] long.
#[must_use]
pub fn verify_page(page: &[u8], block: BlockNumber) -> PageVerdict {
    judge(page, page_checksum(page, block))
}

/// Judges the adjacent pages `pages`, the first of them read from `first`, and appends the
/// verdicts to `out`; the same as [`verify_page`] of each, several times as fast.
///
/// # Panics
///
/// Where `pages` is not whole pages.
pub fn verify_pages(pages: &[u8], first: BlockNumber, out: &mut Vec<PageVerdict>) {
    assert!(pages.len().is_multiple_of(PAGE_SIZE), "whole pages");
    out.reserve(pages.len() / PAGE_SIZE);
    let mut block = first;
    for batch in pages.chunks(BATCH_PAGES * PAGE_SIZE) {
        let mut checksums = [0; BATCH_PAGES];
        let checksums = &mut checksums[..batch.len() / PAGE_SIZE];
        page_checksums(batch, block, checksums);
        let batch = batch.chunks_exact(PAGE_SIZE).zip(&*checksums);
        out.extend(batch.map(|(page, &checksum)| judge(page, checksum)));
        for _ in checksums {
            block = BlockNumber(block.0.wrapping_add(1));
        }
    }
}

/// Judges a page of a `_compress` relation as a backup has it: in the server's compressed form and
/// filled up with zeros, or plain; with or without gs_probackup's mark in `pd_lower`.
///
/// `block` counts [`RELSEG_SIZE`](crate::types::RELSEG_SIZE) blocks to a segment file, as
/// gs_probackup does for its page header map, although such a file holds fewer; the checksum in
/// the verdict is for this number. The server's own number goes into the test of a plain page.
///
/// Of a page in compressed form the compressed bytes are tested, and the sanity of its header. The
/// rest of the header is covered by the checksum in the verdict alone, once that is recorded.
///
/// # Panics
///
/// Where `page` is not [`PAGE_SIZE`] long.
#[must_use]
pub fn verify_compressed_page(page: &[u8], block: BlockNumber) -> PageVerdict {
    let checksum = page_checksum(page, block);
    let header = PageHeader::parse(page).unmarked();
    let server_block = server_block(block);
    let plain = if server_block == block {
        checksum
    } else {
        page_checksum(page, server_block)
    };
    let valid = PageVerdict::Valid {
        lsn: header.lsn,
        checksum,
    };
    if let Err(defect) = header.check() {
        let [_, mark] = COMPRESSED_MARK.to_le_bytes();
        let body_is_zero = page[BODY_AT] == 0
            && page[BODY_AT + 1] & !mark == 0
            && is_zero_page(&page[BODY_AT + 2..]);
        return judge_uninitialised(header, defect, body_is_zero, plain).unwrap_or(valid);
    }
    let compressed = CompressedPage::parse(page);
    let intact = compressed.as_ref().is_some_and(CompressedPage::is_intact);
    if intact || plain == header.checksum {
        return valid;
    }
    PageVerdict::Bad(match compressed {
        Some(compressed) => PageDefect::CompressedChecksumMismatch {
            stored: compressed.stored_checksum(),
            computed: compressed.computed_checksum(),
        },
        None => PageDefect::ChecksumMismatch {
            stored: header.checksum,
            computed: plain,
        },
    })
}

/// Whether `page` is all zeros.
#[must_use]
pub fn is_zero_page(page: &[u8]) -> bool {
    let (blocks, rest) = page.as_chunks::<64>();
    let is_zero = |block: &[u8; 64]| block.iter().fold(0, |bits, byte| bits | byte) == 0;
    blocks.iter().all(is_zero) && rest.iter().all(|byte| *byte == 0)
}

/// Whether `page`, or an extent that ends with it, says that the extent is one of compressed pages
/// in segment-page storage.
#[must_use]
pub fn is_segment_pca(page: &[u8]) -> bool {
    page.ends_with(SEGMENT_PCA_MAGIC)
}

fn judge(page: &[u8], computed: u16) -> PageVerdict {
    if is_segment_pca(page) {
        return PageVerdict::SegmentPca;
    }
    let header = PageHeader::parse(page);
    let valid = PageVerdict::Valid {
        lsn: header.lsn,
        checksum: computed,
    };
    if let Err(defect) = header.check() {
        let body_is_zero = is_zero_page(&page[BODY_AT..]);
        return judge_uninitialised(header, defect, body_is_zero, computed).unwrap_or(valid);
    }
    if header.checksum == computed {
        return valid;
    }
    let stored = header.checksum;
    PageVerdict::Bad(PageDefect::ChecksumMismatch { stored, computed })
}

/// What a page is whose header has `defect`, `None` for valid.
fn judge_uninitialised(
    header: PageHeader,
    defect: HeaderDefect,
    body_is_zero: bool,
    computed: u16,
) -> Option<PageVerdict> {
    if body_is_zero && (header.lsn, header.checksum, header.flags) == (Lsn::INVALID, 0, 0) {
        return Some(PageVerdict::Zero);
    }
    if body_is_zero && header.has_only_checksum_flag() && header.checksum == computed {
        return None;
    }
    Some(PageVerdict::Bad(PageDefect::HeaderInvalid(defect)))
}
