//! What each page of a file has to be after a restore, by the page headers of the chain alone: no
//! page is read for it.

use super::PipelineError;
use super::chain_file::{ChainMember, take};
use super::records::{is_segment_space, without_checksum};
use crate::format::page::PageVerdict;
use crate::limits::WAL_SEGMENT_BYTES_MIN;
use crate::types::{Lsn, PAGE_SIZE};

/// The pages of a file as a chain has them.
#[derive(Debug)]
pub(super) struct WantedPages {
    pages: Vec<WantedPage>,
    segment_space: bool,
    /// Changes up to here are in the destination as they are in the chain.
    shift: Option<Lsn>,
}

/// What the page header map recorded of a page.
#[derive(Clone, Copy, Default, Debug)]
struct WantedPage {
    lsn: Lsn,
    checksum: u16,
    /// Whether a backup has the page at all.
    is_stored: bool,
    /// Whether its backup's pages carry checksums.
    page_checksums: bool,
    /// Whether LSN and checksum are those of the page.
    knows_page: bool,
    /// Whether its backup ended at or before the shift LSN.
    is_before_shift: bool,
}

impl WantedPages {
    /// Reads the page headers of `members`, newest first, for a file of `n_blocks` blocks. With
    /// `shift`, pages up to there are as good as those of backups that ended before.
    pub(super) fn read(
        name: &str,
        members: &[ChainMember],
        n_blocks: u32,
        shift: Option<Lsn>,
    ) -> Result<WantedPages, PipelineError> {
        let blocks = usize::try_from(n_blocks).expect("32 bits fit");
        let mut pages = vec![WantedPage::default(); blocks];
        let mut taken = vec![false; blocks];
        for member in members {
            let limit = usize::try_from(member.block_limit).expect("32 bits fit");
            let taken = &mut taken[..limit.min(blocks)];
            for record in member.file.read_headers()?.records {
                if take(taken, record.block) {
                    let place = usize::try_from(record.block).expect("32 bits fit");
                    pages[place] = WantedPage {
                        lsn: record.lsn,
                        checksum: record.checksum,
                        is_stored: true,
                        page_checksums: member.file.page_checksums,
                        knows_page: member.file.knows_pages,
                        is_before_shift: shift.is_some_and(|shift| member.stop_lsn <= shift),
                    };
                }
            }
        }
        // Behind the last page that a backup has the file ends.
        let end = pages.iter().rposition(|page| page.is_stored);
        pages.truncate(end.map_or(0, |last| last + 1));
        Ok(WantedPages {
            pages,
            segment_space: is_segment_space(name),
            shift,
        })
    }

    /// Blocks that the file will have.
    pub(super) fn len(&self) -> usize {
        self.pages.len()
    }

    /// Blocks that a backup has.
    pub(super) fn stored(&self) -> u64 {
        let stored = self.pages.iter().filter(|page| page.is_stored).count();
        u64::try_from(stored).expect("a segment file has 131072 blocks")
    }

    /// Whether a backup has the block; where none has, the file gets a hole.
    pub(super) fn is_stored(&self, block: usize) -> bool {
        self.pages.get(block).is_some_and(|page| page.is_stored)
    }

    /// Memory that it takes, all but a constant.
    pub(super) fn held_bytes(&self) -> usize {
        self.pages.len() * size_of::<WantedPage>()
    }

    /// Whether a page that is there can stay.
    ///
    /// A page without WAL has a checksum of 16 bits to tell it by, which is too little where many
    /// changed. And of segment-page storage the header map does not tell apart pages of zeros,
    /// chunk addresses and chunks. Such a page never stays by its verdict; the restore compares it
    /// with the backup's before it writes.
    pub(super) fn keeps(&self, block: usize, page: &[u8], verdict: PageVerdict) -> bool {
        debug_assert_eq!(page.len(), PAGE_SIZE, "a page");
        let Some(wanted) = self.pages.get(block) else {
            return false;
        };
        if wanted.is_stored && !wanted.knows_page {
            return false;
        }
        let mut verdict = verdict;
        if wanted.is_stored && !wanted.page_checksums {
            verdict = without_checksum(page, verdict);
        }
        match verdict {
            PageVerdict::Zero if !wanted.is_stored => true,
            PageVerdict::Zero => {
                (wanted.lsn, wanted.checksum) == (Lsn::INVALID, 0) && !self.segment_space
            }
            PageVerdict::Valid { lsn, checksum } if wanted.is_stored => {
                let is_equal = (lsn, checksum) == (wanted.lsn, wanted.checksum);
                is_in_wal(lsn) && (is_equal || self.is_old(wanted, lsn))
            }
            _ => false,
        }
    }

    /// Whether a page with this LSN was last changed before the shift LSN, and not before its
    /// backup copied it. Pages without WAL have no LSN that says when they were changed.
    fn is_old(&self, wanted: &WantedPage, lsn: Lsn) -> bool {
        wanted.is_before_shift
            && wanted.page_checksums
            && is_in_wal(wanted.lsn)
            && wanted.lsn <= lsn
            && self.shift.is_some_and(|shift| lsn <= shift)
    }
}

/// Whether an LSN is a position in WAL, and not none or one of the small numbers that stand in for
/// positions in relations without WAL.
pub(super) fn is_in_wal(lsn: Lsn) -> bool {
    lsn.0 >= WAL_SEGMENT_BYTES_MIN
}
