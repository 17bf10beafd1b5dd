//! Extents that are stored as they are read: plain files, and pages that the catalog's format keeps
//! as bytes.

use super::whole_pages;
use super::{
    BackupDone, BackupExtent, BackupKind, Processed, bad_ranges, corrupt, ended_or, number,
};
use crate::format::page::{PageVerdict, verify_pages};
use crate::format::relation_path::{BytePages, is_segment_space};
use crate::io::Buffer;
use crate::limits::{EXTENT_PAGES_MAX, PAGE_REREADS_MAX};
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
        let is_bad = |verdict: &PageVerdict| matches!(verdict, PageVerdict::Bad(_));
        if let Some(index) = verdicts.iter().position(is_bad) {
            if attempt < PAGE_REREADS_MAX {
                return Ok(Processed::Reread(bad_ranges(verdicts)));
            }
            let is_lenient =
                is_segment_space(&extent.name) && self.may_be_unwritten(extent, pages.segno, index);
            if is_lenient && extent.source.is_as_read()? {
                self.keep_wrong(extent, verdicts);
                return Ok(Processed::Done(done(extent, input)));
            }
            if !pages.keep_bad {
                let error = corrupt(extent, pages.segno, index, &verdicts[index]);
                return ended_or(extent, error).map(Processed::Done);
            }
            let PageVerdict::Bad(defect) = &verdicts[index] else {
                unreachable!("found by being bad");
            };
            let others = match verdicts.iter().filter(|verdict| is_bad(verdict)).count() - 1 {
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
        Ok(Processed::Done(done(extent, input)))
    }
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
    }
}
