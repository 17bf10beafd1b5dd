//! The newer records of a chain, written over the old ones in the oldest copy's own file.
//!
//! Only where every record keeps its place and length ([`super::merge_file`]). It can be stopped at
//! any instant and repeated: what is written does not depend on what is there, and the copies that
//! it is read from stay until it is durable.

use super::chain_file::PlannedExtent;
use super::merge_sources::{
    MergeCopies, RAW_RECORD_BYTES, Sources, Tools, read_file, record_header,
};
use super::per_thread::PerThread;
use super::{Kind, PipelineError, Processed, ReadRange, Write};
use crate::io::{Buffer, File};
use crate::limits::PAGE_RECORD_HEADER_BYTES;
use std::ops::Range;
use std::sync::Arc;

/// A file to overwrite.
#[derive(Debug)]
pub struct OverwriteItem {
    /// The file's copies; the oldest is the file itself.
    pub copies: MergeCopies,
    /// The file, opened to be written.
    pub target: File,
}

/// The overwriting's use of the transfer loop.
#[derive(Debug)]
pub struct OverwriteKind {
    tools: PerThread<Tools>,
}

/// A file being overwritten.
#[derive(Debug)]
pub struct OverwriteFile {
    sources: Arc<Sources>,
    extents: std::vec::IntoIter<PlannedExtent>,
    target: Arc<File>,
}

/// What the CPU stage must know of an extent.
#[derive(Debug)]
pub struct OverwriteExtent {
    sources: Arc<Sources>,
    extent: PlannedExtent,
}

/// Offset in the file and range in the buffer.
type Runs = Vec<(u64, Range<usize>)>;

impl OverwriteKind {
    /// Works on `threads` threads.
    #[must_use]
    pub fn new(threads: usize) -> OverwriteKind {
        OverwriteKind {
            // Nothing is compressed here: replaced records are not.
            tools: PerThread::new(threads, || Tools::new(1)),
        }
    }
}

impl Kind for OverwriteKind {
    type Item = Result<OverwriteItem, PipelineError>;
    type File = OverwriteFile;
    type Extent = OverwriteExtent;
    type Done = Runs;

    fn open(&self, item: Self::Item) -> Result<Option<OverwriteFile>, PipelineError> {
        let item = item?;
        let sources = Sources::open(item.copies)?;
        if sources.replaced_in_place().is_none() {
            let oldest = &sources.sources[sources.oldest()].member;
            let detail = "its records are not those that were to be overwritten".to_owned();
            return Err(oldest.damaged(detail));
        }
        Ok(Some(OverwriteFile {
            extents: sources.newer_extents().into_iter(),
            sources: Arc::new(sources),
            target: Arc::new(item.target),
        }))
    }

    fn held_bytes(&self, file: &OverwriteFile) -> usize {
        file.sources.held_bytes()
    }

    fn next_extent(&self, file: &mut OverwriteFile) -> Option<(ReadRange, OverwriteExtent)> {
        let extent = file.extents.next()?;
        let stored = &file.sources.sources[extent.source].file;
        let range = ReadRange {
            source: read_file(&file.sources, extent.source),
            offset: u64::from(stored.position(extent.first)),
            length: stored.span(extent.first, extent.count),
            parts: Vec::new(),
            needs_output: true,
        };
        let sources = file.sources.clone();
        Some((range, OverwriteExtent { sources, extent }))
    }

    fn process(
        &self,
        extent: &mut OverwriteExtent,
        _attempt: u32,
        input: &mut Buffer,
        output: Option<&mut Buffer>,
    ) -> Result<Processed<Runs>, PipelineError> {
        let OverwriteExtent { sources, extent } = extent;
        let output = output.expect("an output was asked for");
        let source = &sources.sources[extent.source];
        let mut tools = self.tools.get();
        let mut runs: Runs = Vec::new();
        let mut end = 0;
        for at in (0..extent.count).filter(|at| extent.wanted >> at & 1 == 1) {
            let index = extent.first + at;
            let from = source.file.span(extent.first, at);
            let stored = input
                .data()
                .get(from..from + source.file.span(index, 1))
                .ok_or_else(|| {
                    let detail = "it became shorter meanwhile".to_owned();
                    source.member.damaged(detail)
                })?;
            let block = source.file.records[index].block;
            let payload = sources.payload((extent.source, index), stored, &mut tools)?;
            let record = end..end + PAGE_RECORD_HEADER_BYTES + payload.len();
            assert_eq!(
                record.len(),
                RAW_RECORD_BYTES,
                "looked at when it was opened"
            );
            let (header, page) =
                output.whole_mut()[record.clone()].split_at_mut(PAGE_RECORD_HEADER_BYTES);
            header.copy_from_slice(&record_header(block, payload));
            page.copy_from_slice(payload);
            let place = sources
                .place_of(block)
                .expect("looked at when it was opened");
            add_run(&mut runs, u64::from(place), record.clone());
            end = record.end;
        }
        Ok(Processed::Done(runs))
    }

    fn collect(
        &self,
        file: &mut OverwriteFile,
        runs: Runs,
        _input: Buffer,
        output: Option<Buffer>,
    ) -> Result<Option<Write>, PipelineError> {
        let buffer = output.expect("an output was asked for");
        Ok((!runs.is_empty()).then(|| Write {
            file: file.target.clone(),
            buffer,
            runs,
        }))
    }

    fn complete(&self, _file: &mut OverwriteFile) -> Result<(), PipelineError> {
        Ok(())
    }

    fn seal(&self, file: &mut OverwriteFile) -> Result<Option<Arc<File>>, PipelineError> {
        Ok(Some(file.target.clone()))
    }

    fn finish(&self, _file: OverwriteFile) -> Result<(), PipelineError> {
        Ok(())
    }
}

/// Adds a record to the last run if it follows that in the file.
fn add_run(runs: &mut Runs, place: u64, record: Range<usize>) {
    if let Some((offset, range)) = runs.last_mut() {
        let length = u64::try_from(range.len()).expect("an extent is small");
        if *offset + length == place {
            range.end = record.end;
            return;
        }
    }
    runs.push((place, record));
}
