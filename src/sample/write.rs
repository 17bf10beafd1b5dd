//! Writes the planned files: threads take ranges of 1 MiB in turn, fill them and write them.
//!
//! Every range has its own random numbers, so the bytes do not depend on how many threads there are
//! or which took what. These are plain threads, not rayon's: writing may block.

use super::columns::{self, UNIT_BYTES};
use super::compressed::{EXTENT_BLOCKS, EXTENT_PAGES, ExtentPacker};
use super::plan::{Content, FilePlan};
use super::random::Random;
use super::text::TextPool;
use super::{indexes, page, rows, segments};
use crate::limits::EXTENT_BYTES_MAX;
use crate::storage::StorageError;
use crate::types::{BlockNumber, PAGE_SIZE};
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Blocks that a thread fills at once.
const RANGE_BLOCKS: u32 = EXTENT_BLOCKS;

const _: () = assert!(RANGE_BLOCKS as usize * PAGE_SIZE == EXTENT_BYTES_MAX);

/// Where the files go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Roots<'a> {
    pub(super) data_directory: &'a Path,
    pub(super) tablespace: &'a Path,
}

impl Roots<'_> {
    fn path_of(&self, file: &FilePlan) -> PathBuf {
        if file.in_tablespace {
            self.tablespace
        } else {
            self.data_directory
        }
        .join(&file.path)
    }
}

/// Blocks of one file, at most [`RANGE_BLOCKS`].
#[derive(Clone, Copy, Debug)]
struct BlockRange {
    file: usize,
    first: u32,
    blocks: u32,
}

/// Creates all files of the plan.
pub(super) fn write_files(
    roots: Roots<'_>,
    files: &[FilePlan],
    seed: u64,
) -> Result<(), StorageError> {
    let mut ranges = Vec::new();
    for (index, file) in files.iter().enumerate() {
        create(
            &roots.path_of(file),
            u64::from(file.blocks) * PAGE_SIZE as u64,
        )?;
        ranges.extend(
            (0..file.blocks)
                .step_by(RANGE_BLOCKS as usize)
                .map(|first| BlockRange {
                    file: index,
                    first,
                    blocks: (file.blocks - first).min(RANGE_BLOCKS),
                }),
        );
    }
    let texts = TextPool::new(seed);
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut worker = Worker::new(roots, seed, &texts);
                    while let Some(range) = ranges.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let written = worker.write_range(&files[range.file], *range);
                        if written.is_err() {
                            // The others find nothing more to do.
                            next.store(ranges.len(), Ordering::Relaxed);
                            return written;
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .fold(Ok(()), Result::and)
    })
}

/// One thread's buffers and tables.
#[derive(Debug)]
struct Worker<'a> {
    roots: Roots<'a>,
    seed: u64,
    texts: &'a TextPool,
    packer: ExtentPacker,
    buffer: Vec<u8>,
    checksums: Vec<u16>,
}

impl<'a> Worker<'a> {
    fn new(roots: Roots<'a>, seed: u64, texts: &'a TextPool) -> Worker<'a> {
        Worker {
            roots,
            seed,
            texts,
            packer: ExtentPacker::new(),
            buffer: vec![0; EXTENT_BYTES_MAX],
            checksums: Vec::new(),
        }
    }

    fn write_range(&mut self, file: &FilePlan, range: BlockRange) -> Result<(), StorageError> {
        let path = self.roots.path_of(file);
        let open = OpenOptions::new().write(true).open(&path);
        let target = open.map_err(|e| StorageError::new("open", &path, e))?;
        let offset = u64::from(range.first) * PAGE_SIZE as u64;
        let bytes = range.blocks as usize * PAGE_SIZE;
        let holes = self.fill_range(file, range);
        let starts = std::iter::once(0).chain(holes.iter().map(|hole| hole.end));
        let ends = holes.iter().map(|hole| hole.start).chain([bytes]);
        for (start, end) in starts.zip(ends) {
            target
                .write_all_at(&self.buffer[start..end], offset + start as u64)
                .map_err(|e| StorageError::new("write", &path, e))?;
        }
        Ok(())
    }

    /// Fills the head of the buffer and returns what of it is to stay a hole in the file.
    fn fill_range(&mut self, file: &FilePlan, range: BlockRange) -> Vec<Range<usize>> {
        let bytes = range.blocks as usize * PAGE_SIZE;
        let buffer = &mut self.buffer[..bytes];
        buffer.fill(0);
        let texts = self.texts;
        let position = u64::from(file.first_block) + u64::from(range.first);
        let mut random = Random::of_part(self.seed, file.stream << 32 | position);
        match file.content {
            Content::Compressed(compression, file_pages) => {
                let skipped = range.first / EXTENT_BLOCKS * EXTENT_PAGES;
                let count = (file_pages - skipped).min(EXTENT_PAGES);
                let pages = (BlockNumber(file.first_block + skipped), count);
                let packer = &mut self.packer;
                packer.fill_extent(buffer, pages, compression, &mut random, texts)
            }
            Content::Column(kind) => {
                let unit_blocks = u32::try_from(UNIT_BYTES / PAGE_SIZE).expect("a few blocks");
                columns::fill_units(buffer, range.first / unit_blocks, kind, &mut random, texts);
                Vec::new()
            }
            _ => {
                let first = BlockNumber(file.first_block + range.first);
                for (page, block) in buffer.chunks_exact_mut(PAGE_SIZE).zip(first.0..) {
                    fill_page(page, BlockNumber(block), file, &mut random, texts);
                }
                page::seal(buffer, first, &mut self.checksums);
                if buffer.iter().all(|byte| *byte == 0) {
                    vec![0..bytes]
                } else {
                    Vec::new()
                }
            }
        }
    }
}

fn fill_page(
    page: &mut [u8],
    block: BlockNumber,
    file: &FilePlan,
    random: &mut Random,
    texts: &TextPool,
) {
    match file.content {
        Content::Heap(shape) => rows::fill_heap(page, block, shape, random, texts),
        Content::Uheap(shape) => rows::fill_uheap(page, block, shape, random, texts),
        Content::Index(key) => {
            indexes::fill_index(page, block, file.relation_blocks, key, random, texts);
        }
        Content::FreeSpaceMap => indexes::fill_fsm(page, block, random),
        Content::VisibilityMap => indexes::fill_vm(page, block, random),
        // A quarter of the undo file is in use.
        Content::Undo if block.0 < file.relation_blocks / 4 => {
            indexes::fill_undo(page, block, random)
        }
        Content::UndoSlots if block.0 == 0 => indexes::fill_undo_slots(page, block, random),
        Content::Undo | Content::UndoSlots => {}
        Content::Segment(segment) => segments::fill_segment(page, block, segment, random, texts),
        Content::Compressed(..) | Content::Column(_) => unreachable!("not made of single pages"),
    }
}

fn create(path: &Path, bytes: u64) -> Result<(), StorageError> {
    let create = || -> std::io::Result<()> {
        let file: File = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.set_len(bytes)
    };
    create().map_err(|e| StorageError::new("create", path, e))
}
