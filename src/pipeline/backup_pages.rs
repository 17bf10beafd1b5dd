//! Extents that are stored as page records.

use super::judge::{WrongPages, keep_wrong};
use super::part::{missing_chunks, missing_of_extent};
use super::{BackupDone, BackupExtent, BackupKind, Contexts, KeptCount, Processed};
use super::{corrupt, ended_or, number, ranges_of, whole_pages};
use crate::format::catalog::CompressedAttributes;
use crate::format::page::compressed::{
    EXTENT_BYTES, EXTENT_DATA_BLOCKS, ExtentHeader, assemble_page,
};
use crate::format::page::{PageVerdict, verify_compressed_page, verify_pages};
use crate::io::Buffer;
use crate::limits::{EXTENT_PAGES_MAX, PAGE_REREADS_MAX};
use crate::pipeline::PipelineError;
use crate::pipeline::page_encoder::Encoder;
use crate::pipeline::present::Present;
use crate::pipeline::records::{may_have_compressed_extents, without_checksum};
use crate::pipeline::selection::PageFilter;
use crate::types::{CompressAlgorithm, FileBlock, Location, PAGE_SIZE, SegmentNumber};

impl BackupKind {
    /// Verifies and encodes an extent of pages.
    pub(super) fn process_pages(
        &self,
        extent: &mut BackupExtent,
        segno: SegmentNumber,
        attempt: u32,
        input: &Buffer,
        output: &mut Buffer,
    ) -> Result<Processed<BackupDone>, PipelineError> {
        if let Some(missing) = missing_of_extent(extent, input.data()) {
            return Ok(Processed::Fetch(missing));
        }
        let pages = whole_pages(input.data());
        let mut filter = extent.filter;
        let mut contexts = self.compressors.get();
        let Contexts {
            compressor,
            verdicts,
            ..
        } = &mut *contexts;
        self.verify_present(extent, segno, pages, verdicts);
        if is_compressed_extent(&extent.name, verdicts) {
            // Its blocks are pieces of compressed pages: none of them is a page, and no checksum
            // is of a block. They are kept as they are, with nothing recorded of them.
            verdicts.fill(PageVerdict::SegmentPca);
            // Which piece belongs to which changed page is not known.
            filter = PageFilter::ALL;
        } else {
            // Pages that were read along are not judged: nobody needs them.
            for (_, verdict) in verdicts
                .iter_mut()
                .enumerate()
                .filter(|at| !filter.wants(at.0))
            {
                *verdict = PageVerdict::Zero;
            }
        }
        let kept = match self.judge_wrong(extent, segno, attempt, verdicts)? {
            WrongPages::None => KeptCount::default(),
            WrongPages::Reread(pages) => return Ok(Processed::Reread(ranges_of(&pages))),
            WrongPages::Keep(kept) => kept,
            WrongPages::Damaged { index, .. } => {
                let error = corrupt(extent, segno, index, &verdicts[index]);
                return ended_or(extent, error).map(Processed::Done);
            }
        };
        keep_wrong(verdicts);
        let mut encoder = Encoder::new(output, extent.lead);
        for (index, (page, verdict)) in pages.chunks_exact(PAGE_SIZE).zip(&*verdicts).enumerate() {
            if filter.keeps(index, page) {
                encoder.push(extent.first.0 + number(index), page, verdict, compressor);
            }
        }
        let end = extent.first.0 + number(pages.len() / PAGE_SIZE);
        let short = input.data().len() < extent.wanted;
        let mut done = encoder.finish(end, short, None);
        done.kept = kept;
        Ok(Processed::Done(done))
    }

    /// A verdict for each page; one that was not read counts as zero.
    fn verify_present(
        &self,
        extent: &BackupExtent,
        segno: SegmentNumber,
        pages: &[u8],
        verdicts: &mut Vec<PageVerdict>,
    ) {
        let count = pages.len() / PAGE_SIZE;
        verdicts.clear();
        for run in extent.present.whole_pages(count) {
            let first = FileBlock(extent.first.0 + number(run.start));
            let run_pages = &pages[run.start * PAGE_SIZE..run.end * PAGE_SIZE];
            verdicts.resize(run.start, PageVerdict::Zero);
            verify_pages(run_pages, segno.relation_block(first), verdicts);
            if !self.page_checksums {
                let run_verdicts = &mut verdicts[run.start..];
                for (page, verdict) in run_pages.chunks_exact(PAGE_SIZE).zip(run_verdicts) {
                    *verdict = without_checksum(page, *verdict);
                }
            }
        }
        verdicts.resize(count, PageVerdict::Zero);
    }

    /// Takes the pages of a `_compress` file out of their extent, verifies and encodes them.
    pub(super) fn process_compressed(
        &self,
        extent: &mut BackupExtent,
        segno: SegmentNumber,
        attempt: u32,
        input: &Buffer,
        output: &mut Buffer,
    ) -> Result<Processed<BackupDone>, PipelineError> {
        let data = input.data();
        if data.len() < extent.wanted && extent.present != Present::All {
            // Its header was not there: is anything of it?
            let _ = extent.present.complete(extent.wanted);
            return Ok(Processed::Fetch(
                std::iter::once(0..extent.wanted).collect(),
            ));
        }
        let again = |extent: &mut BackupExtent, detail: String, slot: u32| {
            extent.header = None;
            if attempt < PAGE_REREADS_MAX {
                let _ = extent.present.complete(extent.wanted);
                return Ok(Processed::Reread(std::iter::once(0..data.len()).collect()));
            }
            let block = FileBlock(extent.first.0 + slot);
            let location = Location::block(&*extent.name, segno, block);
            let error = PipelineError::CorruptPage { location, detail };
            ended_or(extent, error).map(Processed::Done)
        };
        if data.is_empty() {
            // The file became shorter by this extent.
            let encoder = Encoder::new(output, extent.lead);
            return Ok(Processed::Done(encoder.finish(extent.first.0, true, None)));
        }
        if data.len() < EXTENT_BYTES {
            let detail = format!("a compressed extent ends after {} bytes", data.len());
            return again(extent, detail, 0);
        }
        let header = match ExtentHeader::parse(&data[EXTENT_BYTES - PAGE_SIZE..]) {
            Ok(header) => header,
            Err(error) => return again(extent, error.to_string(), EXTENT_DATA_BLOCKS),
        };
        let missing = missing_chunks(extent, &header, data);
        if !missing.is_empty() {
            return Ok(Processed::Fetch(missing));
        }
        if extent.header.as_deref() != Some(&data[EXTENT_BYTES - PAGE_SIZE..]) {
            let detail = "its header changed while its chunks were read".to_owned();
            return again(extent, detail, EXTENT_DATA_BLOCKS);
        }
        match self.encode_compressed(extent, segno, data, &header, output) {
            Ok(done) => Ok(Processed::Done(done)),
            Err((slot, detail)) => again(extent, detail, slot),
        }
    }

    /// Encodes the wanted pages of an extent; on failure says what is wrong with which.
    fn encode_compressed(
        &self,
        extent: &BackupExtent,
        segno: SegmentNumber,
        data: &[u8],
        header: &ExtentHeader,
        output: &mut Buffer,
    ) -> Result<BackupDone, (u32, String)> {
        let mut contexts = self.compressors.get();
        let Contexts {
            compressor,
            pglz,
            page,
            ..
        } = &mut *contexts;
        let compressor = if self.algorithm == CompressAlgorithm::None {
            pglz
        } else {
            compressor
        };
        let mut encoder = Encoder::new(output, extent.lead);
        for slot in 0..header.block_count() {
            let index = usize::try_from(slot).expect("an extent has few blocks");
            if !extent.filter.wants(index) {
                continue;
            }
            assemble_page(data, header, slot, &mut page[..])
                .map_err(|error| (slot, error.to_string()))?;
            let block = FileBlock(extent.first.0 + slot);
            let verdict = verify_compressed_page(&page[..], segno.relation_block(block));
            if let PageVerdict::Bad(defect) = &verdict {
                return Err((slot, defect.to_string()));
            }
            if !extent.filter.keeps(index, &page[..]) {
                continue;
            }
            // A zero page is stored as it is: with the mark it would be neither zero nor sane.
            if verdict != PageVerdict::Zero {
                mark_compressed(&mut page[..]);
            }
            encoder.push(block.0, &page[..], &verdict, compressor);
        }
        let attributes = CompressedAttributes {
            chunk_size: u32::try_from(header.chunk_size()).expect("at most a page"),
            algorithm: u32::from(header.algorithm()),
        };
        let end = extent.first.0 + header.block_count();
        // Behind an extent that is not full there is nothing, whatever there was.
        let short = header.block_count() < EXTENT_DATA_BLOCKS && !extent.is_last;
        Ok(encoder.finish(end, short, Some(attributes)))
    }
}

/// Whether these are the blocks of a compressed extent in segment-page storage: the last one holds
/// chunk addresses.
fn is_compressed_extent(name: &str, verdicts: &[PageVerdict]) -> bool {
    verdicts.len() == EXTENT_PAGES_MAX
        && verdicts.last() == Some(&PageVerdict::SegmentPca)
        && may_have_compressed_extents(name)
}

/// Sets the bit of `pd_lower` by which the original tells a page in the server's compressed form.
fn mark_compressed(page: &mut [u8]) {
    page[13] |= 0x80;
}
