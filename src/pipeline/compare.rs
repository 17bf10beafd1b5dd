//! What a destination has already of what a restore will write: read once, changed never.
//!
//! A page stays where LSN and checksum are those that the page header map recorded, which no backup
//! file is read for. A file of other kind stays where it has the CRC of the content list and, byte
//! for byte, the content of the backup's copy: a CRC alone says nothing of files that contain their
//! own, such as `pg_filenode.map`, which have the same CRC whatever is in them. A `_compress` file
//! stays where every page does and the extents are, byte for byte, what packing its pages gives;
//! otherwise all of it is written anew.

use super::chain_file::ChainFile;
use super::crc_parts::CrcParts;
use super::per_thread::PerThread;
use super::wanted_pages::WantedPages;
use super::{Kind, PipelineError, Processed, ReadRange, Write};
use crate::format::page::compressed::{
    EXTENT_BYTES, EXTENT_DATA_BLOCKS, ExtentHeader, assemble_page, build_extent,
};
use crate::format::page::{PageVerdict, verify_compressed_page, verify_pages};
use crate::io::{Buffer, File, IoError};
use crate::limits::{CHANGED_BLOCKS_BYTES_MAX, EXTENT_BYTES_MAX, EXTENT_PAGES_MAX};
use crate::storage::{FileKind, Metadata, Storage, StorageError};
use crate::types::{BlockSet, FileBlock, Lsn, PAGE_SIZE, SegmentNumber};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// A file of a chain, and where it may be already.
#[derive(Debug)]
pub struct CompareItem {
    /// Its number among the results.
    pub index: usize,
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
    /// For a `_compress` file: bytes of a chunk and the server's number of its compression.
    pub packed: Option<(u32, u8)>,
    /// Whether its changes are not in WAL, so that LSNs say nothing.
    pub unlogged: bool,
}

/// What is where a file goes.
#[derive(Clone, Debug, Default)]
pub enum Existing {
    /// Nothing that is in the way.
    #[default]
    Nothing,
    /// A file of which nothing can be used.
    Other,
    /// A file of pages of which these blocks have to be written; others are right.
    Pages {
        /// The blocks.
        needed: Arc<BlockSet>,
        /// Bytes that the file will have.
        bytes: u64,
    },
    /// The file as it has to be.
    Same {
        /// Whether its mode is another.
        other_mode: bool,
    },
}

/// The comparison's use of the transfer loop.
#[derive(Debug)]
pub struct CompareKind {
    shift: Option<Lsn>,
    scratch: PerThread<Scratch>,
    results: Mutex<Vec<Existing>>,
    /// Memory of the sets of needed blocks so far.
    held: AtomicUsize,
}

#[derive(Debug, Default)]
struct Scratch {
    verdicts: Vec<PageVerdict>,
    extent: Vec<u8>,
}

/// A file being compared.
#[derive(Debug)]
pub struct CompareFile {
    index: usize,
    metadata: Metadata,
    mode: u32,
    source: Arc<File>,
    read_offset: u64,
    wanted: Wanted,
    needed: BlockSet,
    /// Something was found that only a whole new file can repair.
    differs: bool,
}

#[derive(Debug)]
enum Wanted {
    Pages {
        segno: SegmentNumber,
        pages: Arc<WantedPages>,
    },
    Packed {
        segno: SegmentNumber,
        pages: Arc<WantedPages>,
        chunk_size: u32,
        algorithm: u8,
    },
    Plain {
        crc: u32,
        crcs: CrcParts,
        /// The backup's copy; `None` of an empty file.
        stored: Option<Arc<File>>,
    },
}

/// What the CPU stage must know of an extent.
#[derive(Debug)]
pub struct CompareExtent(Work);

#[derive(Debug)]
enum Work {
    /// Pages from block `first` on.
    Pages {
        segno: SegmentNumber,
        pages: Arc<WantedPages>,
        first: usize,
    },
    /// One extent of packed pages, from logical block `first` on.
    Packed {
        segno: SegmentNumber,
        pages: Arc<WantedPages>,
        first: usize,
        chunk_size: u32,
        algorithm: u8,
    },
    /// Bytes of another file, and the backup's copy of it.
    Plain { stored: Arc<File>, offset: u64 },
}

/// What the CPU stage found.
#[derive(Debug)]
pub enum Compared {
    /// Blocks that have to be written.
    Needed(Vec<u32>),
    /// The file has to be written whole.
    Differs,
    /// CRC and length of bytes.
    Crc(u32, usize),
}

impl CompareKind {
    /// Compares `count` files on `threads` threads. With `shift`, pages of backups that ended
    /// before also stay where they were changed up to then.
    #[must_use]
    pub fn new(threads: usize, count: usize, shift: Option<Lsn>) -> CompareKind {
        CompareKind {
            shift,
            scratch: PerThread::new(threads, Scratch::default),
            results: Mutex::new(vec![Existing::Nothing; count]),
            held: AtomicUsize::new(0),
        }
    }

    /// What was found, by the numbers of the items.
    ///
    /// # Panics
    /// When a thread panicked while it stored a result.
    #[must_use]
    pub fn into_results(self) -> Vec<Existing> {
        let results = self.results.into_inner();
        results.expect("storing a result does not panic")
    }

    fn store(&self, index: usize, existing: Existing) {
        let mut results = self.results.lock();
        let results = results.as_mut().expect("storing a result does not panic");
        results[index] = existing;
    }

    /// What the file has to be, or what is known of it without reading it.
    fn wanted(
        &self,
        item: &CompareItem,
        size: u64,
    ) -> Result<Result<Wanted, Existing>, PipelineError> {
        match &item.file {
            ChainFile::Plain(None) if size > 0 => Ok(Err(Existing::Other)),
            ChainFile::Plain(None) => Ok(Ok(Wanted::Plain {
                crc: 0,
                crcs: CrcParts::default(),
                stored: None,
            })),
            ChainFile::Plain(Some(member)) => match member.crc {
                Some(crc) if member.size == size => Ok(Ok(Wanted::Plain {
                    crc,
                    crcs: CrcParts::default(),
                    stored: Some(member.open(false)?),
                })),
                _ => Ok(Err(Existing::Other)),
            },
            ChainFile::Pages {
                segno,
                n_blocks,
                members,
                ..
            } => {
                let shift = self.shift.filter(|_| !item.unlogged);
                let pages = WantedPages::read(&item.name, members, *n_blocks, shift)?;
                let (segno, pages) = (*segno, Arc::new(pages));
                let Some((chunk_size, algorithm)) = item.packed else {
                    return Ok(Ok(Wanted::Pages { segno, pages }));
                };
                let extents = pages.len().div_ceil(PACKED_PAGES);
                if size != bytes(extents * EXTENT_BYTES) {
                    return Ok(Err(Existing::Other));
                }
                Ok(Ok(Wanted::Packed {
                    segno,
                    pages,
                    chunk_size,
                    algorithm,
                }))
            }
        }
    }

    /// What a file of pages is that was read to its end.
    fn judge_pages(&self, file: &CompareFile, pages: &WantedPages) -> Existing {
        let size = bytes(pages.len() * PAGE_SIZE);
        let mut needed = file.needed.clone();
        let present = usize::try_from(file.metadata.size / bytes(PAGE_SIZE)).unwrap_or(usize::MAX);
        for block in (present..pages.len()).filter(|block| pages.is_stored(*block)) {
            needed.insert(block_number(block));
        }
        if needed.is_empty() && file.metadata.size == size {
            return same(file);
        }
        let held = needed.memory_bytes();
        let is_writable = file.metadata.mode & 0o600 == 0o600;
        // Nothing of it may stay. Where the size is right, all its pages may only be such as have
        // to be compared with those of the backup, and equal them.
        let is_another = needed.len() == pages.stored() && file.metadata.size != size;
        // Beyond the limit a file is written whole, which takes no memory.
        if !is_writable
            || is_another
            || !file.metadata.size.is_multiple_of(bytes(PAGE_SIZE))
            || self.held.fetch_add(held, Ordering::Relaxed) + held > CHANGED_BLOCKS_BYTES_MAX
        {
            return Existing::Other;
        }
        Existing::Pages {
            needed: Arc::new(needed),
            bytes: size,
        }
    }
}

/// Logical pages of a packed extent.
const PACKED_PAGES: usize = EXTENT_DATA_BLOCKS as usize;

fn same(file: &CompareFile) -> Existing {
    Existing::Same {
        other_mode: file.metadata.mode & 0o7777 != file.mode,
    }
}

/// Whether there is nothing at a path, or something else on the way to it, which is cleared away.
fn is_absent(error: &StorageError) -> bool {
    let in_the_way = [
        ErrorKind::NotFound,
        ErrorKind::NotADirectory,
        ErrorKind::InvalidInput,
    ];
    in_the_way.contains(&error.source.kind())
}

impl Kind for CompareKind {
    type Item = CompareItem;
    type File = CompareFile;
    type Extent = CompareExtent;
    type Done = Compared;

    fn open(&self, item: CompareItem) -> Result<Option<CompareFile>, PipelineError> {
        let metadata = match item.target.metadata(&item.target_path) {
            Ok(metadata) if metadata.kind == FileKind::File => metadata,
            Ok(_) => return Ok(None),
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // What has a second name may be changed by nobody who knows only this one.
        let wanted = if metadata.links > 1 {
            Err(Existing::Other)
        } else {
            self.wanted(&item, metadata.size)?
        };
        let wanted = match wanted {
            Ok(wanted) => wanted,
            Err(existing) => {
                self.store(item.index, existing);
                return Ok(None);
            }
        };
        let source = match item.target.open_read(&item.target_path, false) {
            Ok(source) => Arc::new(source),
            Err(error) if error.source.kind() == ErrorKind::PermissionDenied => {
                self.store(item.index, Existing::Other);
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Some(CompareFile {
            index: item.index,
            metadata,
            mode: item.mode,
            source,
            read_offset: 0,
            wanted,
            needed: BlockSet::default(),
            differs: false,
        }))
    }

    fn held_bytes(&self, file: &CompareFile) -> usize {
        match &file.wanted {
            Wanted::Pages { pages, .. } | Wanted::Packed { pages, .. } => pages.held_bytes(),
            Wanted::Plain { .. } => 0,
        }
    }

    fn next_extent(&self, file: &mut CompareFile) -> Option<(ReadRange, CompareExtent)> {
        if file.differs {
            return None;
        }
        let number = usize::try_from(file.read_offset / bytes(EXTENT_BYTES_MAX)).ok()?;
        let size = file.metadata.size;
        let (end, work) = match &file.wanted {
            Wanted::Pages { segno, pages } => (
                bytes(pages.len() * PAGE_SIZE).min(size - size % bytes(PAGE_SIZE)),
                Work::Pages {
                    segno: *segno,
                    pages: pages.clone(),
                    first: number * EXTENT_PAGES_MAX,
                },
            ),
            Wanted::Packed {
                segno,
                pages,
                chunk_size,
                algorithm,
            } => (
                size,
                Work::Packed {
                    segno: *segno,
                    pages: pages.clone(),
                    first: number * PACKED_PAGES,
                    chunk_size: *chunk_size,
                    algorithm: *algorithm,
                },
            ),
            Wanted::Plain { stored, .. } => (
                size,
                Work::Plain {
                    stored: stored.clone()?,
                    offset: file.read_offset,
                },
            ),
        };
        let left = usize::try_from(end.saturating_sub(file.read_offset)).unwrap_or(usize::MAX);
        let length = left.min(EXTENT_BYTES_MAX);
        if length == 0 {
            return None;
        }
        let range = ReadRange {
            source: file.source.clone(),
            offset: file.read_offset,
            length,
            parts: Vec::new(),
            needs_output: matches!(work, Work::Packed { .. }),
        };
        file.read_offset += bytes(length);
        Some((range, CompareExtent(work)))
    }

    fn process(
        &self,
        extent: &mut CompareExtent,
        _attempt: u32,
        input: &mut Buffer,
        output: Option<&mut Buffer>,
    ) -> Result<Processed<Compared>, PipelineError> {
        let data = input.data();
        Ok(Processed::Done(match (&extent.0, output) {
            (Work::Plain { stored, offset }, _) => {
                // Read in this thread: where the copy is needed at all it is mostly of small files.
                let copy = &mut self.scratch.get().extent;
                copy.resize(data.len(), 0);
                if stored.read_up_to_at(copy, *offset)? == data.len() && copy == data {
                    Compared::Crc(crc32c::crc32c(data), data.len())
                } else {
                    Compared::Differs
                }
            }
            (
                Work::Pages {
                    segno,
                    pages,
                    first,
                },
                _,
            ) => {
                let mut scratch = self.scratch.get();
                let verdicts = &mut scratch.verdicts;
                verdicts.clear();
                let whole = &data[..data.len() - data.len() % PAGE_SIZE];
                let block = segno.relation_block(FileBlock(block_number(*first)));
                verify_pages(whole, block, verdicts);
                let judged = whole.chunks_exact(PAGE_SIZE).zip(&*verdicts);
                let needed = (*first..).zip(judged);
                let needed =
                    needed.filter(|(block, (page, verdict))| !pages.keeps(*block, page, **verdict));
                Compared::Needed(needed.map(|(block, _)| block_number(block)).collect())
            }
            (packed, Some(output)) => {
                if self.packed_differs(packed, data, output) {
                    Compared::Differs
                } else {
                    Compared::Needed(Vec::new())
                }
            }
            (Work::Packed { .. }, None) => unreachable!("it asked for a buffer"),
        }))
    }

    fn collect(
        &self,
        file: &mut CompareFile,
        done: Compared,
        _input: Buffer,
        _output: Option<Buffer>,
    ) -> Result<Option<Write>, PipelineError> {
        match (done, &mut file.wanted) {
            (Compared::Needed(blocks), Wanted::Pages { pages, .. }) => {
                for block in blocks {
                    // Where no backup has the block there must be a hole, which only a new file
                    // has for sure.
                    let place = usize::try_from(block).expect("32 bits fit");
                    file.differs |= !pages.is_stored(place);
                    file.needed.insert(block);
                }
            }
            (Compared::Crc(crc, length), Wanted::Plain { crcs, .. }) => crcs.push(crc, length),
            (Compared::Differs, _) => file.differs = true,
            _ => {}
        }
        Ok(None)
    }

    /// What cannot be read is written anew.
    fn read_failed(&self, file: &mut CompareFile, error: IoError) -> Result<(), PipelineError> {
        tracing::warn!("{error}: {}; it is written anew", error.source);
        file.differs = true;
        Ok(())
    }

    fn complete(&self, file: &mut CompareFile) -> Result<(), PipelineError> {
        let existing = match &file.wanted {
            _ if file.differs => Existing::Other,
            Wanted::Pages { pages, .. } => self.judge_pages(file, pages),
            Wanted::Packed { .. } => same(file),
            Wanted::Plain { crc, crcs, .. } if crcs.combined() == *crc => same(file),
            Wanted::Plain { .. } => Existing::Other,
        };
        self.store(file.index, existing);
        Ok(())
    }

    fn seal(&self, _file: &mut CompareFile) -> Result<Option<Arc<File>>, PipelineError> {
        Ok(None)
    }

    fn finish(&self, _file: CompareFile) -> Result<(), PipelineError> {
        Ok(())
    }
}

impl CompareKind {
    /// Whether an extent of a `_compress` file is anything but its wanted pages, packed.
    fn packed_differs(&self, extent: &Work, data: &[u8], output: &mut Buffer) -> bool {
        let Work::Packed {
            segno,
            pages,
            first,
            chunk_size,
            algorithm,
        } = extent
        else {
            return true;
        };
        if data.len() != EXTENT_BYTES {
            return true;
        }
        let Ok(header) = ExtentHeader::parse(&data[EXTENT_BYTES - PAGE_SIZE..]) else {
            return true;
        };
        let count = (pages.len() - first).min(PACKED_PAGES);
        if usize::try_from(header.block_count()) != Ok(count) {
            return true;
        }
        let logical = &mut output.whole_mut()[..count * PAGE_SIZE];
        for ((slot, block), page) in (0..).zip(*first..).zip(logical.chunks_exact_mut(PAGE_SIZE)) {
            if assemble_page(data, &header, slot, page).is_err() {
                return true;
            }
            let number = segno.relation_block(FileBlock(block_number(block)));
            let verdict = verify_compressed_page(page, number);
            if !pages.keeps(block, page, verdict) {
                return true;
            }
        }
        let mut scratch = self.scratch.get();
        scratch.extent.resize(EXTENT_BYTES, 0);
        let built = build_extent(logical, *chunk_size, *algorithm, &mut scratch.extent);
        built.is_err() || scratch.extent != data
    }
}

fn block_number(block: usize) -> u32 {
    u32::try_from(block).expect("a segment file has 131072 blocks")
}

fn bytes(length: usize) -> u64 {
    u64::try_from(length).expect("a usize fits on every supported platform")
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
