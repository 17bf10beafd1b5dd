//! Merge: the stored copies of one relation file become one file of page records.
//!
//! The oldest copy gives the algorithm. Its records that stay are moved as they are; newer ones
//! replace theirs, verified, and encoded anew only where their algorithm is another. Two ways:
//!
//! * **Stream**: the file is written from its beginning, piece by piece ([`super::merge_piece`]).
//!   All of the oldest copy is read, so that its CRC is checked on the way. Where the result of a
//!   piece goes is known when it is collected, in the order of the file.
//! * **In place**: every record keeps its place and length, as those of uncompressed pages do. Then
//!   nothing is written here: the newer records are written over the old ones after the commit
//!   ([`super::merge_overwrite`]). What the CRC will be follows from the old one: CRCs are linear,
//!   so only the replaced records, old and new, are read. What is damaged elsewhere stays as
//!   detectable as before.

use super::chain_file::PlannedExtent;
use super::crc_parts::CrcParts;
use super::crc_shift::shifted;
use super::header_map::EncodedHeaders;
use super::merge_piece::{DonePiece, Piece, check_length, make_piece, next_piece};
use super::merge_sources::{MergeCopies, Sources, Tools, read_file, record_header};
use super::per_thread::PerThread;
use super::stream_writer::StreamWriter;
use super::{Kind, PipelineError, Processed, ReadRange, Write};
use crate::format::catalog::PageHeaderRecord;
use crate::io::{Buffer, File};
use crate::limits::DIRECT_IO_BYTES_MIN;
use crate::storage::Storage;
use crate::types::CompressAlgorithm;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// A relation file to merge.
#[derive(Debug)]
pub struct MergeItem {
    /// Comes back with the result.
    pub id: usize,
    /// The file's copies.
    pub copies: MergeCopies,
    /// Tree and path of the result; `None` to learn only what it would be.
    pub target: Option<(Arc<dyn Storage>, PathBuf)>,
    /// Whether the oldest copy may be left to be overwritten.
    pub may_overwrite: bool,
}

/// The result.
#[derive(Debug)]
pub struct MergedFile {
    /// Bytes; with 0 there is no file.
    pub size: u64,
    /// CRC-32C.
    pub crc: u32,
    /// How its pages are compressed.
    pub algorithm: CompressAlgorithm,
    /// Its page headers, if it has pages.
    pub headers: Option<EncodedHeaders>,
    /// Whether it comes to be by overwriting the oldest copy, which is left to do.
    pub in_place: bool,
}

/// Mode of files in a backup.
const FILE_MODE: u32 = 0o600;

/// The merge's use of the transfer loop. `F` is told each result.
pub struct MergeKind<F> {
    tools: PerThread<(Tools, Vec<u8>)>,
    on_merged: F,
}

impl<F> fmt::Debug for MergeKind<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MergeKind").finish_non_exhaustive()
    }
}

impl<F: Fn(usize, MergedFile) -> Result<(), PipelineError> + Sync> MergeKind<F> {
    /// Works on `threads` threads; `level` is that of records that are encoded anew.
    pub fn new(threads: usize, level: u32, on_merged: F) -> MergeKind<F> {
        MergeKind {
            tools: PerThread::new(threads, || (Tools::new(level), Vec::new())),
            on_merged,
        }
    }
}

/// A file being merged.
#[derive(Debug)]
pub struct MergeFile {
    id: usize,
    sources: Arc<Sources>,
    way: Way,
    result: Option<MergedFile>,
}

#[derive(Debug)]
enum Way {
    Stream(Box<Stream>),
    InPlace {
        extents: std::vec::IntoIter<PlannedExtent>,
        old_crc: u32,
        difference: u32,
    },
}

#[derive(Debug)]
struct Stream {
    /// The next winner, and the next record of the oldest copy, to be read.
    next: (usize, usize),
    /// Where the next extent's result begins, as long as nothing is encoded anew.
    expected: usize,
    /// `None` where nothing is written.
    writer: Option<StreamWriter>,
    /// Bytes of the result so far.
    position: usize,
    crcs: CrcParts,
    old_crcs: CrcParts,
    records: Vec<PageHeaderRecord>,
}

/// What the CPU stage must know of an extent.
#[derive(Debug)]
pub struct MergeExtent {
    sources: Arc<Sources>,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Stream(Piece),
    Difference(PlannedExtent),
}

/// What the CPU stage made of an extent.
#[derive(Debug)]
pub enum MergeDone {
    /// A run of the result.
    Piece(DonePiece),
    /// What it changes about the file's CRC.
    Difference(u32),
}

impl<F: Fn(usize, MergedFile) -> Result<(), PipelineError> + Sync> MergeKind<F> {
    /// What an extent of replaced records, old or new, changes about the CRC of the file.
    fn difference(
        &self,
        sources: &Sources,
        extent: &PlannedExtent,
        data: &[u8],
    ) -> Result<u32, PipelineError> {
        let file = &sources.sources[extent.source].file;
        check_length(
            sources,
            extent.source,
            data.len(),
            file.span(extent.first, extent.count),
        )?;
        let size = u64::from(sources.sources[sources.oldest()].file.file_bytes);
        let mut tools = self.tools.get();
        let mut difference = 0;
        for at in (0..extent.count).filter(|at| extent.wanted >> at & 1 == 1) {
            let index = extent.first + at;
            let from = file.span(extent.first, at);
            let stored = &data[from..from + file.span(index, 1)];
            let block = file.records[index].block;
            let payload = sources.payload((extent.source, index), stored, &mut tools.0)?;
            let header = record_header(block, payload);
            let crc = crc32c::crc32c_append(crc32c::crc32c(&header), payload);
            let position = sources
                .place_of(block)
                .expect("replaced records have a place");
            let length = header.len() + payload.len();
            let end = u64::from(position) + u64::try_from(length).expect("a record is small");
            difference ^= shifted(crc, size - end);
        }
        Ok(difference)
    }
}

impl Stream {
    fn take(&mut self, mut done: DonePiece, buffer: Buffer) -> Option<Write> {
        self.old_crcs.push(done.old.0, done.old.1);
        if done.new.1 == 0 {
            return None;
        }
        self.crcs.push(done.new.0, done.new.1);
        let shift = u32::try_from(self.position).expect("a segment file's records are below 2 GiB");
        for record in &mut done.records {
            record.position += shift;
        }
        self.records.append(&mut done.records);
        self.position += done.new.1;
        self.writer.as_mut()?.append(buffer)
    }
}

impl<F: Fn(usize, MergedFile) -> Result<(), PipelineError> + Sync> Kind for MergeKind<F> {
    type Item = Result<MergeItem, PipelineError>;
    type File = MergeFile;
    type Extent = MergeExtent;
    type Done = MergeDone;

    fn open(&self, item: Self::Item) -> Result<Option<MergeFile>, PipelineError> {
        let item = item?;
        let mut sources = Sources::open(item.copies)?;
        if sources.winners.is_empty() {
            (self.on_merged)(item.id, MergedFile::empty())?;
            return Ok(None);
        }
        let way = match in_place(&sources, item.may_overwrite)? {
            Some(way) => way,
            None => {
                sources.read_oldest_from_medium()?;
                for source in &sources.sources[..sources.oldest()] {
                    source.file.file.will_need();
                }
                Way::Stream(Box::new(Stream::new(&sources, item.target)?))
            }
        };
        Ok(Some(MergeFile {
            id: item.id,
            sources: Arc::new(sources),
            way,
            result: None,
        }))
    }

    fn held_bytes(&self, file: &MergeFile) -> usize {
        file.sources.held_bytes()
    }

    fn next_extent(&self, file: &mut MergeFile) -> Option<(ReadRange, MergeExtent)> {
        let sources = &file.sources;
        let (work, (source, first, count)) = match &mut file.way {
            Way::Stream(stream) => {
                let piece = next_piece(sources, stream.next, stream.expected)?;
                stream.next = (piece.winners.end, piece.old.end);
                let winners = sources.winners[piece.winners.clone()].iter();
                stream.expected += winners
                    .map(|winner| sources.stored_bytes(*winner))
                    .sum::<usize>();
                let input = piece.input;
                (Work::Stream(piece), input)
            }
            Way::InPlace { extents, .. } => {
                let extent = extents.next()?;
                let input = (extent.source, extent.first, extent.count);
                (Work::Difference(extent), input)
            }
        };
        let stored = &sources.sources[source].file;
        let needs_output = matches!(&work, Work::Stream(piece)
            if !piece.is_input && !piece.winners.is_empty());
        let range = ReadRange {
            source: read_file(sources, source),
            offset: u64::from(stored.position(first)),
            length: stored.span(first, count),
            parts: Vec::new(),
            needs_output,
        };
        let sources = sources.clone();
        Some((range, MergeExtent { sources, work }))
    }

    fn process(
        &self,
        extent: &mut MergeExtent,
        _attempt: u32,
        input: &mut Buffer,
        output: Option<&mut Buffer>,
    ) -> Result<Processed<MergeDone>, PipelineError> {
        let (sources, data) = (&extent.sources, input.data());
        Ok(Processed::Done(match &extent.work {
            Work::Stream(piece) => {
                let tools = &mut *self.tools.get();
                MergeDone::Piece(make_piece(sources, piece, data, output, tools)?)
            }
            Work::Difference(extent) => {
                MergeDone::Difference(self.difference(sources, extent, data)?)
            }
        }))
    }

    fn collect(
        &self,
        file: &mut MergeFile,
        done: MergeDone,
        input: Buffer,
        output: Option<Buffer>,
    ) -> Result<Option<Write>, PipelineError> {
        match (&mut file.way, done) {
            (Way::Stream(stream), MergeDone::Piece(done)) => {
                Ok(stream.take(done, output.unwrap_or(input)))
            }
            (Way::InPlace { difference, .. }, MergeDone::Difference(here)) => {
                *difference ^= here;
                Ok(None)
            }
            _ => unreachable!("an extent is of its file's way"),
        }
    }

    fn complete(&self, file: &mut MergeFile) -> Result<(), PipelineError> {
        let sources = &file.sources;
        let oldest = &sources.sources[sources.oldest()];
        let algorithm = sources.algorithm();
        let (records, size, crc, in_place) = match &mut file.way {
            Way::Stream(stream) => {
                let found = stream.old_crcs.combined();
                if let Some(expected) = oldest.member.crc.filter(|expected| *expected != found) {
                    let detail = format!("Invalid CRC: {found:X}. Expected {expected:X}");
                    return Err(oldest.member.damaged(detail));
                }
                let records = std::mem::take(&mut stream.records);
                (records, stream.position, stream.crcs.combined(), false)
            }
            Way::InPlace {
                old_crc,
                difference,
                ..
            } => {
                let records = sources.winners.iter().zip(oldest.file.records.iter());
                let records = records.map(|(winner, old)| PageHeaderRecord {
                    position: old.position,
                    ..*sources.record(*winner)
                });
                let size = oldest.file.span(0, oldest.file.records.len());
                (records.collect(), size, *old_crc ^ *difference, true)
            }
        };
        let file_bytes = u32::try_from(size).expect("a segment file's records are below 2 GiB");
        file.result = Some(MergedFile {
            size: u64::from(file_bytes),
            crc,
            algorithm,
            headers: Some(EncodedHeaders::new(&records, file_bytes)),
            in_place,
        });
        Ok(())
    }

    fn seal(&self, file: &mut MergeFile) -> Result<Option<Arc<File>>, PipelineError> {
        let Way::Stream(stream) = &mut file.way else {
            return Ok(None);
        };
        let Some(writer) = &mut stream.writer else {
            return Ok(None);
        };
        writer.finish()?;
        Ok(Some(writer.file().clone()))
    }

    fn finish(&self, file: MergeFile) -> Result<(), PipelineError> {
        let result = file.result.expect("a file is completed before its end");
        (self.on_merged)(file.id, result)
    }
}

/// How the file comes to be in place, where it can and that is worth it.
fn in_place(sources: &Sources, may_overwrite: bool) -> Result<Option<Way>, PipelineError> {
    let oldest = &sources.sources[sources.oldest()];
    let (true, Some(old_crc)) = (may_overwrite, oldest.member.crc) else {
        return Ok(None);
    };
    let Some(replaced) = sources.replaced_in_place() else {
        return Ok(None);
    };
    if !sources.is_worth_overwriting(&replaced)? {
        return Ok(None);
    }
    let mut extents = sources.replaced_extents(&replaced);
    extents.extend(sources.newer_extents());
    Ok(Some(Way::InPlace {
        extents: extents.into_iter(),
        old_crc,
        difference: 0,
    }))
}

impl Stream {
    fn new(
        sources: &Sources,
        target: Option<(Arc<dyn Storage>, PathBuf)>,
    ) -> Result<Stream, PipelineError> {
        let bytes_max = sources.bytes_max();
        let writer = match target {
            None => None,
            Some((storage, path)) => {
                let direct = bytes_max >= DIRECT_IO_BYTES_MIN;
                let file = Arc::new(storage.create(&path, FILE_MODE, direct)?);
                Some(StreamWriter::new(file, bytes_max)?)
            }
        };
        Ok(Stream {
            next: (0, 0),
            expected: 0,
            writer,
            position: 0,
            crcs: CrcParts::default(),
            old_crcs: CrcParts::default(),
            records: Vec::with_capacity(sources.winners.len()),
        })
    }
}

impl MergedFile {
    fn empty() -> MergedFile {
        MergedFile {
            size: 0,
            crc: 0,
            algorithm: CompressAlgorithm::None,
            headers: None,
            in_place: false,
        }
    }
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
