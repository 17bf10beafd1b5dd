//! Extents that are stored as they are read: plain files, and pages that the catalog's format keeps
//! as bytes.

use super::judge::WrongPages;
use super::{BackupDone, BackupExtent, BackupKind, KeptCount, Processed};
use super::{corrupt, ended_or, number, ranges_of, whole_pages};
use crate::format::page::{PageVerdict, verify_pages};
use crate::format::relation_path::BytePages;
use crate::io::Buffer;
use crate::limits::EXTENT_PAGES_MAX;
use crate::pipeline::PipelineError;

impl BackupKind {
    /// Verifies pages that are stored as they are. What is behind the last whole page is no page.
    pub(super) fn process_byte_pages(
        &self,
        extent: &BackupExtent,
        pages: BytePages,
        attempt: u32,
        input: &Buffer,
    ) -> Result<Processed<BackupDone>, PipelineError> {
        let mut contexts = self.compressors.get();
        let verdicts = &mut contexts.verdicts;
        verdicts.clear();
        verify_pages(
            whole_pages(input.data()),
            pages.block(extent.first),
            verdicts,
        );
        let mut kept = KeptCount::default();
        match self.judge_wrong(extent, pages.segno, attempt, verdicts)? {
            WrongPages::None => {}
            WrongPages::Reread(again) => return Ok(Processed::Reread(ranges_of(&again))),
            WrongPages::Keep(count) => kept = count,
            WrongPages::Damaged { index, more } if pages.keep_bad => {
                tell_of_damage(extent, &verdicts[index], index, more);
            }
            WrongPages::Damaged { index, .. } => {
                let error = corrupt(extent, pages.segno, index, &verdicts[index]);
                return ended_or(extent, error).map(Processed::Done);
            }
        }
        Ok(Processed::Done(BackupDone {
            kept,
            ..done(extent, input)
        }))
    }
}

/// Tells of a wrong page at `index`, and that there are more, in a file that is stored as it is all
/// the same.
fn tell_of_damage(extent: &BackupExtent, verdict: &PageVerdict, index: usize, more: usize) {
    let PageVerdict::Bad(defect) = verdict else {
        unreachable!("found by being bad");
    };
    let others = match more {
        0 => String::new(),
        count => format!(" ({count} more blocks of the next {EXTENT_PAGES_MAX} too)"),
    };
    tracing::warn!(
        "Corruption detected in file \"{}\", block {}{others}: {defect}. \
         It is backed up as it is.",
        extent.name.escape_debug(),
        extent.first.0 + number(index),
    );
}

/// An extent that is stored as it was read.
pub(super) fn done(extent: &BackupExtent, input: &Buffer) -> BackupDone {
    BackupDone {
        crc: crc32c::crc32c(input.data()),
        range: input.range(),
        records: Vec::new(),
        end: 0,
        short: input.data().len() < extent.wanted,
        compressed: None,
        kept: KeptCount::default(),
    }
}
