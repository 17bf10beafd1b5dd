//! Second pass of restoring a `_compress` file: its logical pages, flat, are packed into extents as
//! the server keeps them.
//!
//! The flat file is removed once the packed one is durable.

use super::{Kind, PipelineError, Processed, ReadRange, Write};
use crate::format::page::compressed::{EXTENT_BYTES, EXTENT_DATA_BLOCKS, build_extent};
use crate::io::{Buffer, File};
use crate::limits::DIRECT_IO_BYTES_MIN;
use crate::storage::Storage;
use crate::types::{Location, PAGE_SIZE};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// A `_compress` file to pack.
#[derive(Debug)]
pub struct RebuildItem {
    /// For messages: path as the content list has it.
    pub name: String,
    /// Where both files are.
    pub storage: Arc<dyn Storage>,
    /// The flat file.
    pub flat_path: PathBuf,
    /// The packed file.
    pub target_path: PathBuf,
    /// Its mode.
    pub mode: u32,
    /// Bytes of a chunk.
    pub chunk_size: u32,
    /// The server's number of its compression.
    pub algorithm: u8,
    /// Whether an older packed file is to be removed.
    pub replaces: bool,
}

/// The packing's use of the transfer loop.
#[derive(Debug, Default)]
pub struct RebuildKind;

/// A file being packed.
#[derive(Debug)]
pub struct RebuildFile {
    item: RebuildItem,
    flat: Arc<File>,
    target: Arc<File>,
    size: u64,
    next_extent: u64,
}

/// What the CPU stage must know of an extent.
#[derive(Debug)]
pub struct RebuildExtent {
    name: String,
    number: u64,
    chunk_size: u32,
    algorithm: u8,
}

const FLAT_EXTENT_BYTES: usize = EXTENT_DATA_BLOCKS as usize * PAGE_SIZE;

impl Kind for RebuildKind {
    type Item = RebuildItem;
    type File = RebuildFile;
    type Extent = RebuildExtent;
    type Done = Vec<(u64, Range<usize>)>;

    fn open(&self, item: RebuildItem) -> Result<Option<RebuildFile>, PipelineError> {
        let flat = Arc::new(item.storage.open_read(&item.flat_path, false)?);
        let size = flat.size()?;
        let direct = size >= DIRECT_IO_BYTES_MIN;
        if item.replaces {
            item.storage.remove_file(&item.target_path)?;
        }
        let target = Arc::new(item.storage.create(&item.target_path, item.mode, direct)?);
        Ok(Some(RebuildFile {
            item,
            flat,
            target,
            size,
            next_extent: 0,
        }))
    }

    fn next_extent(&self, file: &mut RebuildFile) -> Option<(ReadRange, RebuildExtent)> {
        let number = file.next_extent;
        let offset = number * bytes(FLAT_EXTENT_BYTES);
        if offset >= file.size {
            return None;
        }
        file.next_extent += 1;
        let left = usize::try_from(file.size - offset).unwrap_or(usize::MAX);
        let range = ReadRange {
            source: file.flat.clone(),
            offset,
            length: left.min(FLAT_EXTENT_BYTES),
            parts: Vec::new(),
            needs_output: true,
        };
        let extent = RebuildExtent {
            name: file.item.name.clone(),
            number,
            chunk_size: file.item.chunk_size,
            algorithm: file.item.algorithm,
        };
        Some((range, extent))
    }

    fn process(
        &self,
        extent: &mut RebuildExtent,
        _attempt: u32,
        input: &mut Buffer,
        output: Option<&mut Buffer>,
    ) -> Result<Processed<Vec<(u64, Range<usize>)>>, PipelineError> {
        let output = output.expect("packing asks for an output buffer");
        let packed = &mut output.whole_mut()[..EXTENT_BYTES];
        let holes = build_extent(input.data(), extent.chunk_size, extent.algorithm, packed)
            .map_err(|error| PipelineError::DamagedBackup {
                location: Location::file(extent.name.clone()),
                detail: format!("cannot pack extent {}: {error}", extent.number),
            })?;
        let start = extent.number * bytes(EXTENT_BYTES);
        let mut runs = Vec::new();
        let mut from = 0;
        for hole in holes {
            if hole.start > from {
                runs.push((start + bytes(from), from..hole.start));
            }
            from = hole.end;
        }
        if from < EXTENT_BYTES {
            runs.push((start + bytes(from), from..EXTENT_BYTES));
        }
        Ok(Processed::Done(runs))
    }

    fn collect(
        &self,
        file: &mut RebuildFile,
        runs: Vec<(u64, Range<usize>)>,
        _input: Buffer,
        output: Option<Buffer>,
    ) -> Result<Option<Write>, PipelineError> {
        let buffer = output.expect("packing asks for an output buffer");
        Ok(Some(Write {
            file: file.target.clone(),
            buffer,
            runs,
        }))
    }

    fn complete(&self, _file: &mut RebuildFile) -> Result<(), PipelineError> {
        Ok(())
    }

    fn seal(&self, file: &mut RebuildFile) -> Result<Option<Arc<File>>, PipelineError> {
        file.target
            .set_len(file.next_extent * bytes(EXTENT_BYTES))?;
        Ok(Some(file.target.clone()))
    }

    fn finish(&self, file: RebuildFile) -> Result<(), PipelineError> {
        file.item.storage.remove_file(&file.item.flat_path)?;
        Ok(())
    }
}

fn bytes(length: usize) -> u64 {
    u64::try_from(length).expect("a usize fits on every supported platform")
}
