//! Restore: the newest state of each file of a chain, page by page, each page verified before it is
//! written.
//!
//! A `_compress` file is restored in two passes: its logical pages go to a flat file next to it,
//! then [`super::rebuild`] packs them into extents.

use super::chain_file::{ChainFile, PageSource, PlannedExtent};
use super::compare::Existing;
use super::crc_parts::CrcParts;
use super::per_thread::PerThread;
use super::records::{PageCheck, check_page, decode, is_segment_space, payload_of};
use super::stream_writer::presize;
use super::wanted_pages::is_in_wal;
use super::{Kind, PipelineError, Processed, ReadRange, Write};
use crate::codec::Decompressor;
use crate::io::{Buffer, File};
use crate::limits::{DIRECT_IO_BYTES_MIN, EXTENT_BYTES_MAX};
use crate::storage::Storage;
use crate::types::{FileBlock, Location, PAGE_SIZE, SegmentNumber};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A file to restore.
#[derive(Debug)]
pub struct RestoreItem {
    /// For messages: path as the content list has it.
    pub name: String,
    /// Its parts in the chain.
    pub file: ChainFile,
    /// Where it goes.
    pub target: Arc<dyn Storage>,
    /// Path there.
    pub target_path: PathBuf,
    /// Its mode.
    pub mode: u32,
    /// What is there already.
    pub existing: Existing,
}

/// The restore's use of the transfer loop.
#[derive(Debug)]
pub struct RestoreKind {
    decompressors: PerThread<Decompressor>,
    /// Damaged pages and files are warned of and restored as they are.
    force: bool,
    damaged: AtomicU64,
    written: AtomicU64,
}

/// A file being restored.
#[derive(Debug)]
pub struct RestoreFile {
    name: Arc<str>,
    input: Input,
    target: Arc<File>,
    /// The target, if pages in it are to be compared before they are written.
    compare_with: Option<Arc<File>>,
    next_extent: usize,
    read_offset: u64,
    crcs: CrcParts,
    /// Bytes that the target was given when it was opened.
    presized: u64,
    /// Where the last written byte ends.
    end: u64,
}

#[derive(Debug)]
enum Input {
    Pages {
        source: Arc<PageSource>,
        segno: SegmentNumber,
        compressed: bool,
        crc: Option<u32>,
    },
    Plain {
        source: Arc<File>,
        size: u64,
        crc: Option<u32>,
    },
    Empty,
}

/// What the CPU stage must know of an extent.
#[derive(Debug)]
pub struct RestoreExtent {
    name: Arc<str>,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Pages {
        source: Arc<PageSource>,
        planned: PlannedExtent,
        segno: SegmentNumber,
        compressed: bool,
        check_crc: bool,
        /// Pages whose headers do not tell are written only if this has others.
        compare_with: Option<Arc<File>>,
    },
    Plain {
        offset: u64,
        wanted: usize,
    },
}

/// What the CPU stage made of an extent.
#[derive(Debug)]
pub struct RestoreDone {
    crc: u32,
    read: usize,
    runs: Vec<(u64, Range<usize>)>,
}

impl RestoreKind {
    /// Works on `threads` threads; with `force`, damage is a warning.
    #[must_use]
    pub fn new(threads: usize, force: bool) -> RestoreKind {
        RestoreKind {
            decompressors: PerThread::new(threads, Decompressor::new),
            force,
            damaged: AtomicU64::new(0),
            written: AtomicU64::new(0),
        }
    }

    /// Bytes written to the target.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Damaged pages and files that were restored all the same.
    #[must_use]
    pub fn damaged(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Damage ends the run unless it is forced.
    fn on_damage(&self, location: Location, detail: String) -> Result<(), PipelineError> {
        let error = PipelineError::DamagedBackup { location, detail };
        if !self.force {
            return Err(error);
        }
        self.damaged.fetch_add(1, Ordering::Relaxed);
        tracing::warn!("{error}, restored as far as it can be read");
        Ok(())
    }

    fn process_pages(
        &self,
        name: &str,
        work: &Work,
        input: &Buffer,
        output: &mut Buffer,
    ) -> Result<RestoreDone, PipelineError> {
        let Work::Pages {
            source,
            planned,
            segno,
            compressed,
            check_crc,
            compare_with,
        } = work
        else {
            unreachable!("called for pages");
        };
        let file = &source.sources[planned.source];
        let mut decompressor = self.decompressors.get();
        let data = input.data();
        let check = PageCheck {
            name,
            compressed: *compressed,
            page_checksums: file.page_checksums,
            knows_pages: file.knows_pages,
        };
        let in_segment_space = is_segment_space(name);
        let mut runs = Runs::default();
        for index in (0..planned.count).filter(|index| planned.wanted >> index & 1 == 1) {
            let record = &file.records[planned.first + index];
            let from = file.span(planned.first, index);
            let to = from + file.span(planned.first + index, 1);
            let place = runs.reserve(record.block);
            let page = &mut output.whole_mut()[place.clone()];
            let block = segno.relation_block(FileBlock(record.block));
            let restored = data
                .get(from..to)
                .ok_or_else(|| "the file ends before it".to_owned())
                .and_then(|stored| payload_of(stored, record))
                .and_then(|payload| decode(&mut decompressor, file.algorithm, payload, page))
                // The buffer holds pages of other files: those must not get into this one.
                .inspect_err(|_| output.whole_mut()[place.clone()].fill(0))
                .and_then(|()| check_page(&output.whole()[place.clone()], check, block, record));
            if let Err(detail) = restored {
                let location = Location::block(name, *segno, FileBlock(record.block));
                self.on_damage(location, detail)?;
            }
            if let Some(target) = compare_with
                && (in_segment_space || !is_in_wal(record.lsn))
                && is_there(target, record.block, &output.whole()[place])?
            {
                runs.drop_last();
            }
        }
        let crc = if *check_crc { crc32c::crc32c(data) } else { 0 };
        Ok(RestoreDone {
            crc,
            read: data.len(),
            runs: runs.runs,
        })
    }
}

/// Pages put one behind the other in a buffer, and which runs of blocks they are.
#[derive(Default)]
struct Runs {
    runs: Vec<(u64, Range<usize>)>,
    end: usize,
}

impl Runs {
    /// The buffer range for the page of `block`.
    fn reserve(&mut self, block: u32) -> Range<usize> {
        let size = u64::try_from(PAGE_SIZE).expect("a page is small");
        let offset = u64::from(block) * size;
        let range = self.end..self.end + PAGE_SIZE;
        self.end = range.end;
        if let Some((start, last)) = self.runs.last_mut() {
            let length = u64::try_from(last.len()).expect("a run is small");
            if *start + length == offset {
                last.end = range.end;
                return range;
            }
        }
        self.runs.push((offset, range.clone()));
        range
    }

    /// Takes the page back that was reserved last.
    fn drop_last(&mut self) {
        self.end -= PAGE_SIZE;
        if let Some((_, last)) = self.runs.last_mut() {
            last.end = self.end;
            if last.start == last.end {
                self.runs.pop();
            }
        }
    }
}

/// Whether a file has this page already. Reads in a CPU thread, but only pages whose headers do not
/// tell.
fn is_there(target: &File, block: u32, page: &[u8]) -> Result<bool, PipelineError> {
    let mut found = [0; PAGE_SIZE];
    let offset = u64::from(block) * u64::try_from(PAGE_SIZE).expect("a page is small");
    let length = target.read_up_to_at(&mut found, offset)?;
    Ok(length == PAGE_SIZE && found == page)
}

/// Opens a file that is to be written, and what may still be in it of what was there before.
fn open_target(item: &RestoreItem, bytes: u64) -> Result<(Arc<File>, u64), PipelineError> {
    let (target, path) = (&item.target, &item.target_path);
    match &item.existing {
        Existing::Pages { bytes, .. } => {
            // Single pages all over the file are written faster through the page cache.
            let file = Arc::new(target.open_write(path, false)?);
            if file.size()? > *bytes {
                file.set_len(*bytes)?;
            }
            file.set_mode(item.mode)?;
            return Ok((file, 0));
        }
        Existing::Other => target.remove_file(path)?,
        Existing::Nothing | Existing::Same { .. } => {}
    }
    let direct = bytes >= DIRECT_IO_BYTES_MIN;
    let file = Arc::new(target.create(path, item.mode, direct)?);
    let presized = presize(&file, bytes)?;
    Ok((file, presized))
}

impl Kind for RestoreKind {
    type Item = RestoreItem;
    type File = RestoreFile;
    type Extent = RestoreExtent;
    type Done = RestoreDone;

    fn open(&self, item: RestoreItem) -> Result<Option<RestoreFile>, PipelineError> {
        let needed = match &item.existing {
            Existing::Pages { needed, .. } => Some(&**needed),
            _ => None,
        };
        let (input, bytes) = match &item.file {
            ChainFile::Plain(None) => (Input::Empty, 0),
            ChainFile::Plain(Some(member)) => {
                let source = member.open(false)?;
                let size = member.size;
                (
                    Input::Plain {
                        source,
                        size,
                        crc: member.crc,
                    },
                    size,
                )
            }
            ChainFile::Pages {
                segno,
                compressed,
                n_blocks,
                members,
            } => {
                let source = Arc::new(PageSource::open(members, *n_blocks, needed)?);
                let whole = source.is_whole_file;
                let crc = members
                    .first()
                    .and_then(|member| member.file.crc)
                    .filter(|_| whole);
                let bytes = u64::from(*n_blocks) * u64::try_from(PAGE_SIZE).expect("small");
                (
                    Input::Pages {
                        source,
                        segno: *segno,
                        compressed: *compressed,
                        crc,
                    },
                    bytes,
                )
            }
        };
        let compares = needed.is_some();
        let (target, presized) = open_target(&item, bytes)?;
        Ok(Some(RestoreFile {
            name: item.name.as_str().into(),
            input,
            compare_with: compares.then(|| target.clone()),
            target,
            next_extent: 0,
            read_offset: 0,
            crcs: CrcParts::default(),
            presized,
            end: 0,
        }))
    }

    fn held_bytes(&self, file: &RestoreFile) -> usize {
        match &file.input {
            Input::Pages { source, .. } => source.held_bytes(),
            Input::Plain { .. } | Input::Empty => 0,
        }
    }

    fn next_extent(&self, file: &mut RestoreFile) -> Option<(ReadRange, RestoreExtent)> {
        let name = file.name.clone();
        match &file.input {
            Input::Empty => None,
            Input::Plain { source, size, .. } => {
                let left = size - file.read_offset;
                let wanted = usize::try_from(left)
                    .unwrap_or(usize::MAX)
                    .min(EXTENT_BYTES_MAX);
                if wanted == 0 {
                    return None;
                }
                let offset = file.read_offset;
                file.read_offset += u64::try_from(wanted).expect("an extent is small");
                let range = ReadRange {
                    source: source.clone(),
                    offset,
                    length: wanted,
                    parts: Vec::new(),
                    needs_output: false,
                };
                Some((
                    range,
                    RestoreExtent {
                        name,
                        work: Work::Plain { offset, wanted },
                    },
                ))
            }
            Input::Pages {
                source,
                segno,
                compressed,
                crc,
            } => {
                let planned = *source.extents.get(file.next_extent)?;
                file.next_extent += 1;
                let stored = &source.sources[planned.source];
                let range = ReadRange {
                    source: stored.file.clone(),
                    offset: u64::from(stored.position(planned.first)),
                    length: stored.span(planned.first, planned.count),
                    parts: Vec::new(),
                    needs_output: true,
                };
                let work = Work::Pages {
                    source: source.clone(),
                    planned,
                    segno: *segno,
                    compressed: *compressed,
                    check_crc: crc.is_some(),
                    compare_with: file.compare_with.clone(),
                };
                Some((range, RestoreExtent { name, work }))
            }
        }
    }

    fn process(
        &self,
        extent: &mut RestoreExtent,
        _attempt: u32,
        input: &mut Buffer,
        output: Option<&mut Buffer>,
    ) -> Result<Processed<RestoreDone>, PipelineError> {
        let done = match (&extent.work, output) {
            (Work::Plain { offset, wanted }, _) => {
                let range = input.range();
                if range.len() < *wanted {
                    let location = Location::file(&*extent.name);
                    self.on_damage(location, "it became shorter meanwhile".to_owned())?;
                }
                let crc = crc32c::crc32c(input.data());
                RestoreDone {
                    crc,
                    read: range.len(),
                    runs: vec![(*offset, range)],
                }
            }
            (work, Some(output)) => self.process_pages(&extent.name, work, input, output)?,
            (Work::Pages { .. }, None) => unreachable!("pages are given an output buffer"),
        };
        Ok(Processed::Done(done))
    }

    fn collect(
        &self,
        file: &mut RestoreFile,
        done: RestoreDone,
        input: Buffer,
        output: Option<Buffer>,
    ) -> Result<Option<Write>, PipelineError> {
        file.crcs.push(done.crc, done.read);
        for (offset, range) in &done.runs {
            let length = u64::try_from(range.len()).expect("an extent is small");
            file.end = file.end.max(offset + length);
        }
        let bytes: usize = done.runs.iter().map(|(_, range)| range.len()).sum();
        if bytes == 0 {
            return Ok(None);
        }
        self.written.fetch_add(
            u64::try_from(bytes).expect("an extent is small"),
            Ordering::Relaxed,
        );
        let buffer = output.unwrap_or(input);
        Ok(Some(Write {
            file: file.target.clone(),
            buffer,
            runs: done.runs,
        }))
    }

    fn complete(&self, file: &mut RestoreFile) -> Result<(), PipelineError> {
        // What was read is of no more use: page headers and descriptors need not wait for the sync.
        let expected = match std::mem::replace(&mut file.input, Input::Empty) {
            Input::Pages { crc, .. } | Input::Plain { crc, .. } => crc,
            Input::Empty => None,
        };
        match expected {
            Some(expected) if expected != file.crcs.combined() => {
                let found = file.crcs.combined();
                let detail = format!("Invalid CRC: {found:X}. Expected {expected:X}");
                self.on_damage(Location::file(&*file.name), detail)
            }
            _ => Ok(()),
        }
    }

    fn seal(&self, file: &mut RestoreFile) -> Result<Option<Arc<File>>, PipelineError> {
        if file.presized > 0 && file.end != file.presized {
            file.target.set_len(file.end)?;
        }
        Ok(Some(file.target.clone()))
    }

    fn finish(&self, _file: RestoreFile) -> Result<(), PipelineError> {
        Ok(())
    }
}
