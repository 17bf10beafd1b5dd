//! What is done about pages that are not right: read again, stored as they are, or refused.

use super::{BackupExtent, BackupKind, KeptCount, number};
use crate::format::page::PageVerdict;
use crate::limits::{PAGE_REREADS_MAX, UNTOLD_REREADS_MAX, UNTOLD_REREADS_MIN};
use crate::pipeline::PipelineError;
use crate::pipeline::space_maps::PageUse;
use crate::types::{FileBlock, SegmentNumber};
use std::sync::atomic::Ordering;

/// What is done about the wrong pages of an extent.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum WrongPages {
    /// There are none.
    None,
    /// These are to be read again.
    Reread(Vec<usize>),
    /// They are stored as they are.
    Keep(KeptCount),
    /// Some were written and are not right however often they are read.
    Damaged {
        /// The place of the first.
        index: usize,
        /// How many there are besides.
        more: usize,
    },
}

impl BackupKind {
    /// Judges the pages of `verdicts` that are not right; `attempt` counts the reads before.
    pub(super) fn judge_wrong(
        &self,
        extent: &BackupExtent,
        segno: SegmentNumber,
        attempt: u32,
        verdicts: &[PageVerdict],
    ) -> Result<WrongPages, PipelineError> {
        let wrong = || {
            let is_bad = |verdict: &PageVerdict| matches!(verdict, PageVerdict::Bad(_));
            let wrong = verdicts.iter().enumerate().filter(move |at| is_bad(at.1));
            wrong.map(|(index, _)| index)
        };
        let Some(first) = wrong().next() else {
            return Ok(WrongPages::None);
        };
        let Some(maps) = &extent.maps else {
            return Ok(if attempt < PAGE_REREADS_MAX {
                WrongPages::Reread(wrong().collect())
            } else {
                WrongPages::Damaged {
                    index: first,
                    more: wrong().count() - 1,
                }
            });
        };
        let mut kept = KeptCount::default();
        let mut damaged = Vec::new();
        let mut again = Vec::new();
        for index in wrong() {
            let block = FileBlock(extent.first.0 + number(index));
            match maps.judge(segno.relation_block(block), extent.is_tracked)? {
                PageUse::Unused => {
                    kept.unused += 1;
                    continue;
                }
                PageUse::Used => damaged.push(index),
                PageUse::Unknown => {
                    kept.untold += 1;
                    kept.first_untold = kept.first_untold.or(Some(block));
                }
            }
            again.push(index);
        }
        let may_change = !maps.are_final() && kept.untold > 0 && self.rereads_untold(attempt);
        Ok(match damaged.first() {
            Some(_) if attempt < PAGE_REREADS_MAX => WrongPages::Reread(again),
            Some(index) => WrongPages::Damaged {
                index: *index,
                more: damaged.len() - 1,
            },
            None if may_change => WrongPages::Reread(again),
            None => WrongPages::Keep(kept),
        })
    }

    /// Whether pages of which cannot be told whether they were ever written are read once more.
    fn rereads_untold(&self, attempt: u32) -> bool {
        let limit = if self.untold_rereads.load(Ordering::Relaxed) < UNTOLD_REREADS_MAX {
            PAGE_REREADS_MAX
        } else {
            UNTOLD_REREADS_MIN
        };
        let again = attempt < limit;
        if again {
            self.untold_rereads.fetch_add(1, Ordering::Relaxed);
        }
        again
    }
}

/// Has wrong pages stored like pieces of compressed ones, of which nothing is recorded.
pub(super) fn keep_wrong(verdicts: &mut [PageVerdict]) {
    for verdict in verdicts {
        if matches!(verdict, PageVerdict::Bad(_)) {
            *verdict = PageVerdict::SegmentPca;
        }
    }
}
