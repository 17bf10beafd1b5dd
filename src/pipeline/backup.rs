//! Backup: pages are verified, compressed and strung together; other files are copied; both get a
//! CRC-32C.
//!
//! While a server runs, files change under the reader:
//!
//! * A page that is not right was perhaps being written: it is read again up to
//!   [`PAGE_REREADS_MAX`](crate::limits::PAGE_REREADS_MAX) times. A torn page is never stored,
//!   however new its LSN: openGauss writes no full page images to WAL that would repair it.
//! * A file that became shorter is kept as far as it was read in one piece: what is behind its end
//!   is not part of the backup, even if the file has grown again meanwhile. WAL brings it back.
//! * A file that grew is read up to the size it was listed with.
//! * A file that is gone is reported as vanished; one removed after it was opened is read on.
//! * A page of segment-page storage on volumes may never have been written and hold anything. If
//!   the maps of its space say so ([`SpaceMaps`]), it is stored as it is, with nothing recorded of
//!   it, and counted.
//! * A file whose bytes were moved while it was read ([`File::is_as_read`]) is left out of the
//!   results and named by [`BackupKind::take_moved`]: it is to be copied again from the start.
//!
//! Layout of a stored data file: for each page u32 block, i32 payload length, payload; a payload of
//! 8192 bytes is the page itself (Source: gs_probackup `data.cpp`, `compress_and_backup_page`).

use self::part::{create_target, is_compared, is_only_read, is_unchanged, planned_extent};
use super::crc_parts::CrcParts;
use super::header_map::EncodedHeaders;
use super::page_encoder::{BackupDone, KeptCount};
use super::per_thread::PerThread;
use super::present::Present;
use super::records::may_have_compressed_extents;
use super::selection::{PageFilter, ReadPlan, Selection, since};
use super::space_maps::SpaceMaps;
use super::stream_writer::StreamWriter;
use super::{HeaderMapFile, Kind, PipelineError, Processed, ReadRange, Write};
use crate::codec::Compressor;
use crate::format::catalog::{CompressedAttributes, HeaderMapRef, PageHeaderRecord};
use crate::format::page::compressed::{EXTENT_BYTES, EXTENT_DATA_BLOCKS};
use crate::format::page::{PageDefect, PageVerdict};
use crate::format::relation_path::BytePages;
use crate::format::relation_path::SEGMENT_EXTENTS_AT;
use crate::io::{Buffer, File};
use crate::limits::{DIRECT_IO_ALIGNMENT, EXTENT_BYTES_MAX, PAGE_RECORD_HEADER_BYTES};
use crate::storage::Storage;
use crate::types::{CompressAlgorithm, FileBlock, Location, PAGE_SIZE, SegmentNumber};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};

/// How a file's bytes are treated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Pages of a relation's segment file: verified, compressed.
    Pages(SegmentNumber),
    /// A `_compress` file: its logical pages are taken out of their extents.
    CompressedPages(SegmentNumber),
    /// Pages that are stored as bytes: verified and read again like those of a relation.
    BytePages(BytePages),
    /// Bytes.
    Plain,
}

impl Content {
    /// Whether the file is stored as a stream of page records.
    #[must_use]
    pub fn is_page_stream(self) -> bool {
        matches!(self, Content::Pages(_) | Content::CompressedPages(_))
    }
}

/// A file to back up.
#[derive(Debug)]
pub struct BackupItem {
    /// Place in the plan; comes back in [`BackedUpFile`].
    pub index: usize,
    /// For messages: path as the content list has it.
    pub name: String,
    /// Where the file is.
    pub source: Arc<dyn Storage>,
    /// Its path there.
    pub source_path: PathBuf,
    /// Where its copy goes.
    pub target: Arc<dyn Storage>,
    /// Path there.
    pub target_path: PathBuf,
    /// Mode of the copy.
    pub target_mode: u32,
    /// Bytes when it was listed; later growth is left to WAL.
    pub size: u64,
    /// Its treatment.
    pub content: Content,
    /// What of it goes into the backup.
    pub selection: Selection,
    /// What tells which of its blocks were ever written, where some may not have been.
    pub maps: Option<Arc<SpaceMaps>>,
}

/// What the content list says of a file that is backed up.
#[derive(Clone, Debug)]
pub struct BackedUpFile {
    /// Place in the plan.
    pub index: usize,
    /// Whether the file was gone when its turn came.
    pub vanished: bool,
    /// Whether it is as the parent backup has it; then nothing of it is in this backup.
    pub unchanged: bool,
    /// Bytes in the backup.
    pub size: u64,
    /// CRC-32C of these.
    pub crc: u32,
    /// How its pages are compressed; `None` when it has none.
    pub compress_algorithm: CompressAlgorithm,
    /// Blocks of the file.
    pub n_blocks: u32,
    /// Where its page headers are.
    pub headers: Option<HeaderMapRef>,
    /// Attributes of a `_compress` file.
    pub compressed: Option<CompressedAttributes>,
}

/// Pages of a file that are not right and were stored as they are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptPages {
    /// The file, as the content list has it.
    pub name: Arc<str>,
    /// How many.
    pub count: KeptCount,
}

/// The backup's use of the transfer loop.
#[derive(Debug)]
pub struct BackupKind {
    algorithm: CompressAlgorithm,
    compressors: PerThread<Contexts>,
    header_map: HeaderMapFile,
    /// Whether pages carry checksums.
    page_checksums: bool,
    /// Times that pages were read again of which cannot be told whether they were ever written.
    untold_rereads: AtomicU32,
    /// Wrong pages that were stored all the same, of files that are done.
    kept: Mutex<Vec<KeptPages>>,
    results: Mutex<Vec<BackedUpFile>>,
    /// Files that were expected to have the CRC of their parent, were only read, and have another.
    differing: Mutex<Vec<usize>>,
    /// Files whose bytes were moved while they were read.
    moved: Mutex<Vec<usize>>,
}

#[derive(Debug)]
struct Contexts {
    compressor: Compressor,
    pglz: Compressor,
    verdicts: Vec<PageVerdict>,
    page: Box<[u8; PAGE_SIZE]>,
}

/// A file on its way into the backup.
#[derive(Debug)]
pub struct BackupFile {
    item: BackupItem,
    name: Arc<str>,
    source: Arc<File>,
    writer: Option<StreamWriter>,
    plan: Option<ReadPlan>,
    /// Where the blocks of the plan end that the tracking of changes named; those behind are new.
    tracked_end: u32,
    read_offset: u64,
    read_end: u64,
    /// A short read was seen: the file became shorter, what is behind is not part of the backup.
    ended: bool,
    /// What was read is perhaps not the file's.
    has_moved: bool,
    kept: KeptCount,
    crcs: CrcParts,
    crc: u32,
    blocks: u32,
    records: Vec<PageHeaderRecord>,
    encoded: Option<EncodedHeaders>,
    headers: Option<HeaderMapRef>,
    compressed: Option<CompressedAttributes>,
}

/// What the CPU stage must know of an extent.
#[derive(Debug)]
pub struct BackupExtent {
    name: Arc<str>,
    /// Where it was read from.
    source: Arc<File>,
    content: Content,
    first: FileBlock,
    wanted: usize,
    /// What of it was read.
    present: Present,
    /// The header of a compressed extent as it was before the chunks were read.
    header: Option<Box<[u8]>>,
    /// Whether the file was listed with nothing behind it.
    is_last: bool,
    /// Which pages are stored.
    filter: PageFilter,
    /// Whether the tracking of changes named these blocks.
    is_tracked: bool,
    /// What tells which blocks were ever written, where some may not have been.
    maps: Option<Arc<SpaceMaps>>,
    /// Bytes that the stream will carry in front of this extent, where that is known before.
    lead: usize,
}

impl BackupKind {
    /// Compresses with `algorithm` at `level` on `threads` threads and writes page headers to
    /// `header_map`.
    #[must_use]
    pub fn new(
        algorithm: CompressAlgorithm,
        level: u32,
        threads: usize,
        header_map: HeaderMapFile,
    ) -> BackupKind {
        let make = || Contexts {
            compressor: Compressor::new(algorithm, level),
            pglz: Compressor::new(CompressAlgorithm::Pglz, level),
            verdicts: Vec::new(),
            page: Box::new([0; PAGE_SIZE]),
        };
        BackupKind {
            algorithm,
            compressors: PerThread::new(threads, make),
            header_map,
            page_checksums: true,
            untold_rereads: AtomicU32::new(0),
            kept: Mutex::new(Vec::new()),
            results: Mutex::new(Vec::new()),
            differing: Mutex::new(Vec::new()),
            moved: Mutex::new(Vec::new()),
        }
    }

    /// Says whether the cluster's pages carry checksums. Of pages that carry none only the headers
    /// are checked; the checksums that they would have are recorded all the same, so that a reader
    /// of the backup can tell damage.
    #[must_use]
    pub fn with_page_checksums(self, page_checksums: bool) -> BackupKind {
        BackupKind {
            page_checksums,
            ..self
        }
    }

    /// Pages that are not right and were stored as they are.
    ///
    /// # Panics
    /// When a thread panicked while it added some.
    pub fn take_kept(&self) -> Vec<KeptPages> {
        std::mem::take(&mut *self.kept.lock().expect("adding does not panic"))
    }

    /// The backed-up files and the header map, which is still to be synced.
    ///
    /// # Panics
    /// When a thread panicked while it added a result.
    #[must_use]
    pub fn into_results(self) -> (Vec<BackedUpFile>, HeaderMapFile) {
        let results = self
            .results
            .into_inner()
            .expect("adding a result does not panic");
        (results, self.header_map)
    }

    /// Places in the plan of files that were only read, because they were expected to have the CRC
    /// of [`Selection::UnlessCrc`], and have another: they are still to be copied.
    ///
    /// # Panics
    /// When a thread panicked while it added one.
    pub fn take_differing(&self) -> Vec<usize> {
        let mut differing = self.differing.lock().expect("adding does not panic");
        std::mem::take(&mut *differing)
    }

    /// Places in the plan of files that were moved while they were read: nothing is in the backup
    /// of them, and they are still to be copied.
    ///
    /// # Panics
    /// When a thread panicked while it added one.
    pub fn take_moved(&self) -> Vec<usize> {
        std::mem::take(&mut *self.moved.lock().expect("adding does not panic"))
    }

    /// The algorithm that a file's pages are stored with.
    fn algorithm_of(&self, content: Content) -> CompressAlgorithm {
        match (content, self.algorithm) {
            (Content::Plain | Content::BytePages(_), _) => CompressAlgorithm::None,
            // Pages of compressed relations are mostly zeros behind their data: the original never
            // stores them raw.
            (Content::CompressedPages(_), CompressAlgorithm::None) => CompressAlgorithm::Pglz,
            (_, algorithm) => algorithm,
        }
    }

    fn push_result(&self, result: BackedUpFile) {
        self.results
            .lock()
            .expect("adding a result does not panic")
            .push(result);
    }
}

impl Kind for BackupKind {
    type Item = BackupItem;
    type File = BackupFile;
    type Extent = BackupExtent;
    type Done = BackupDone;

    fn open(&self, item: BackupItem) -> Result<Option<BackupFile>, PipelineError> {
        let source = match item.source.open_read(&item.source_path, false) {
            Ok(source) => Arc::new(source),
            Err(error) if error.is_not_found() => {
                self.push_result(BackedUpFile {
                    vanished: true,
                    ..empty_result(item.index)
                });
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let read_end = match item.content {
            Content::Plain | Content::BytePages(_) => item.size,
            Content::Pages(_) => item.size - item.size % bytes(PAGE_SIZE),
            Content::CompressedPages(_) => item.size - item.size % bytes(EXTENT_BYTES),
        };
        let plan = match &item.selection {
            Selection::Blocks(wanted) => {
                let unit = match item.content {
                    Content::CompressedPages(_) => EXTENT_BYTES,
                    _ => PAGE_SIZE,
                };
                let units = u32::try_from(read_end / bytes(unit)).unwrap_or(u32::MAX);
                let plan = ReadPlan::new(wanted.clone(), &item.name, item.content, units);
                Some(plan)
            }
            _ => None,
        };
        let tracked_end = match (&item.selection, &plan) {
            (Selection::Blocks(wanted), Some(_)) => tracked_end(wanted, read_end),
            _ => 0,
        };
        let writer = if read_end > 0 && item.selection == Selection::All {
            Some(create_target(&item, read_end)?)
        } else {
            None
        };
        let blocks = match (&plan, item.content) {
            (Some(_), Content::Pages(_)) => read_end / bytes(PAGE_SIZE),
            _ => 0,
        };
        Ok(Some(BackupFile {
            name: item.name.as_str().into(),
            item,
            source,
            writer,
            plan,
            tracked_end,
            read_offset: 0,
            read_end,
            ended: false,
            has_moved: false,
            kept: KeptCount::default(),
            crcs: CrcParts::default(),
            crc: 0,
            blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
            records: Vec::new(),
            encoded: None,
            headers: None,
            compressed: None,
        }))
    }

    fn held_bytes(&self, file: &BackupFile) -> usize {
        file.plan.as_ref().map_or(0, ReadPlan::held_bytes)
    }

    fn next_extent(&self, file: &mut BackupFile) -> Option<(ReadRange, BackupExtent)> {
        if file.ended {
            return None;
        }
        if let Some(plan) = &mut file.plan {
            let piece = plan.next()?;
            return Some(planned_extent(file, piece));
        }
        let left = file.read_end - file.read_offset;
        if left == 0 {
            return None;
        }
        let wanted = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(EXTENT_BYTES_MAX);
        let offset = file.read_offset;
        let wanted = match offset {
            // The extents behind are whole then.
            0 if may_have_compressed_extents(&file.name) => {
                wanted.min(SEGMENT_EXTENTS_AT * PAGE_SIZE)
            }
            _ => wanted,
        };
        file.read_offset += bytes(wanted);
        let extent_number = offset / bytes(EXTENT_BYTES_MAX);
        let first = match file.item.content {
            Content::Pages(_) | Content::BytePages(_) | Content::Plain => offset / bytes(PAGE_SIZE),
            Content::CompressedPages(_) => extent_number * u64::from(EXTENT_DATA_BLOCKS),
        };
        // Uncompressed records have a fixed length, so their place in the stream is known before.
        let raw = self.algorithm_of(file.item.content) == CompressAlgorithm::None;
        let record = bytes(PAGE_SIZE + PAGE_RECORD_HEADER_BYTES);
        let lead = if raw && file.item.selection == Selection::All {
            first * record % bytes(DIRECT_IO_ALIGNMENT)
        } else {
            0
        };
        let range = ReadRange {
            source: file.source.clone(),
            offset,
            length: wanted,
            parts: Vec::new(),
            needs_output: file.item.content.is_page_stream(),
        };
        let first = u32::try_from(first).unwrap_or(u32::MAX);
        let filter = match file.item.selection {
            Selection::Since { lsn, new_from } => since(lsn, new_from, first),
            _ => PageFilter::ALL,
        };
        let extent = BackupExtent {
            name: file.name.clone(),
            source: file.source.clone(),
            content: file.item.content,
            first: FileBlock(first),
            wanted,
            present: Present::All,
            header: None,
            is_last: file.read_offset == file.read_end,
            filter,
            is_tracked: false,
            maps: file.item.maps.clone(),
            lead: usize::try_from(lead).expect("below the alignment"),
        };
        Some((range, extent))
    }

    fn process(
        &self,
        extent: &mut BackupExtent,
        attempt: u32,
        input: &mut Buffer,
        output: Option<&mut Buffer>,
    ) -> Result<Processed<BackupDone>, PipelineError> {
        match (extent.content, output) {
            (Content::Pages(segno), Some(output)) => {
                self.process_pages(extent, segno, attempt, input, output)
            }
            (Content::CompressedPages(segno), Some(output)) => {
                self.process_compressed(extent, segno, attempt, input, output)
            }
            (Content::BytePages(pages), _) if self.page_checksums => {
                self.process_byte_pages(extent, pages, attempt, input)
            }
            _ => Ok(Processed::Done(as_bytes::done(extent, input))),
        }
    }

    fn collect(
        &self,
        file: &mut BackupFile,
        done: BackupDone,
        input: Buffer,
        output: Option<Buffer>,
    ) -> Result<Option<Write>, PipelineError> {
        if file.ended {
            return Ok(None);
        }
        file.ended = done.short;
        file.kept.add(done.kept);
        file.crcs.push(done.crc, done.range.len());
        file.blocks = if done.short {
            done.end
        } else {
            file.blocks.max(done.end)
        };
        file.compressed = done.compressed.or(file.compressed);
        if done.range.is_empty() || is_compared(file) {
            return Ok(None);
        }
        if file.writer.is_none() {
            // Only now is it known that something of the file goes into the backup.
            file.writer = Some(create_target(&file.item, file.read_end)?);
        }
        let writer = file.writer.as_mut().expect("just created");
        let start = writer.position();
        file.records
            .extend(done.records.into_iter().map(|record| PageHeaderRecord {
                position: record.position
                    + u32::try_from(start).expect("the plan has no relation file above 1 GiB"),
                ..record
            }));
        let mut buffer = output.unwrap_or(input);
        buffer.set_range(done.range);
        Ok(writer.append(buffer))
    }

    fn complete(&self, file: &mut BackupFile) -> Result<(), PipelineError> {
        file.has_moved = !file.source.is_as_read()?;
        if file.has_moved {
            return Ok(());
        }
        file.crc = file.crcs.combined();
        let position = file.writer.as_ref().map_or(0, StreamWriter::position);
        if !file.records.is_empty() {
            let length =
                u32::try_from(position).expect("the plan has no relation file above 1 GiB");
            file.encoded = Some(EncodedHeaders::new(&file.records, length));
            file.records = Vec::new();
        }
        Ok(())
    }

    fn seal(&self, file: &mut BackupFile) -> Result<Option<Arc<File>>, PipelineError> {
        if file.has_moved {
            return Ok(None);
        }
        if let Some(encoded) = file.encoded.take() {
            file.headers = Some(self.header_map.append(&encoded)?);
        }
        let Some(writer) = file.writer.as_mut() else {
            return Ok(None);
        };
        writer.finish()?;
        Ok(Some(writer.file().clone()))
    }

    fn finish(&self, file: BackupFile) -> Result<(), PipelineError> {
        if file.has_moved {
            if file.writer.is_some() {
                file.item.target.remove_file(&file.item.target_path)?;
            }
            let mut moved = self.moved.lock().expect("adding does not panic");
            moved.push(file.item.index);
            return Ok(());
        }
        let unchanged = is_unchanged(&file);
        if !unchanged
            && matches!(file.item.selection, Selection::UnlessCrc(_))
            && is_only_read(&file)
        {
            let mut differing = self.differing.lock().expect("adding does not panic");
            differing.push(file.item.index);
            return Ok(());
        }
        let size = file.writer.as_ref().map_or(0, StreamWriter::position);
        if size == 0 && file.writer.is_some() {
            // The file became empty meanwhile; an entry of size 0 has no file.
            file.item.target.remove_file(&file.item.target_path)?;
        }
        if !unchanged && file.kept != KeptCount::default() {
            let mut kept = self.kept.lock().expect("adding does not panic");
            kept.push(KeptPages {
                name: file.name.clone(),
                count: file.kept,
            });
        }
        let stored = file.headers.is_some();
        self.push_result(BackedUpFile {
            unchanged,
            size,
            crc: file.crc,
            compress_algorithm: if stored {
                self.algorithm_of(file.item.content)
            } else {
                CompressAlgorithm::None
            },
            n_blocks: file.blocks,
            headers: file.headers,
            compressed: file.compressed,
            ..empty_result(file.item.index)
        });
        Ok(())
    }
}

/// Where the blocks of a plan end that were named: a last range that reaches behind the end of the
/// file begins with what is new since the parent, tracked or not.
fn tracked_end(wanted: &[Range<u32>], read_end: u64) -> u32 {
    match wanted.last() {
        Some(last) if u64::from(last.end) > read_end / bytes(PAGE_SIZE) => last.start,
        _ => u32::MAX,
    }
}

fn whole_pages(data: &[u8]) -> &[u8] {
    &data[..data.len() - data.len() % PAGE_SIZE]
}

fn ranges_of(pages: &[usize]) -> Vec<Range<usize>> {
    let range = |index: &usize| index * PAGE_SIZE..(index + 1) * PAGE_SIZE;
    pages.iter().map(range).collect()
}

fn corrupt(
    extent: &BackupExtent,
    segno: SegmentNumber,
    index: usize,
    verdict: &PageVerdict,
) -> PipelineError {
    let block = FileBlock(extent.first.0 + number(index));
    let detail = match verdict {
        PageVerdict::Bad(defect) => PageDefect::to_string(defect),
        _ => String::new(),
    };
    PipelineError::CorruptPage {
        location: Location::block(&*extent.name, segno, block),
        detail,
    }
}

/// What an extent of a page that is not right comes to: the end of the file if its bytes were moved
/// while it was read, so that the page is perhaps another file's; else the error.
fn ended_or(extent: &BackupExtent, error: PipelineError) -> Result<BackupDone, PipelineError> {
    if extent.source.is_as_read()? {
        return Err(error);
    }
    Ok(BackupDone {
        crc: 0,
        range: 0..0,
        records: Vec::new(),
        end: extent.first.0,
        short: true,
        compressed: None,
        kept: KeptCount::default(),
    })
}

fn empty_result(index: usize) -> BackedUpFile {
    BackedUpFile {
        index,
        vanished: false,
        unchanged: false,
        size: 0,
        crc: 0,
        compress_algorithm: CompressAlgorithm::None,
        n_blocks: 0,
        headers: None,
        compressed: None,
    }
}

fn number(value: usize) -> u32 {
    u32::try_from(value).expect("bounded by an extent")
}

fn bytes(length: usize) -> u64 {
    u64::try_from(length).expect("a usize fits on every supported platform")
}

#[path = "backup_bytes.rs"]
mod as_bytes;
#[path = "backup_pages.rs"]
mod as_pages;
#[path = "backup_judge.rs"]
mod judge;
#[path = "backup_part.rs"]
mod part;

#[cfg(test)]
#[path = "backup_judge_tests.rs"]
mod judge_tests;
#[cfg(test)]
#[path = "backup_moved_tests.rs"]
mod moved_tests;
#[cfg(test)]
#[path = "backup_tests.rs"]
mod tests;
