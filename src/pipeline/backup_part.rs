//! Part of a file for an increment: what is read, what is written, and whether it changed.

use super::{BackupExtent, BackupFile, BackupItem, Content, ReadRange, Selection, bytes};
use crate::format::page::compressed::{EXTENT_BYTES, EXTENT_DATA_BLOCKS, ExtentHeader};
use crate::format::page::is_segment_pca;
use crate::limits::{DIRECT_IO_BYTES_MIN, EXTENT_BYTES_MAX, PAGE_RECORD_HEADER_BYTES};
use crate::pipeline::PipelineError;
use crate::pipeline::present::Present;
use crate::pipeline::selection::Piece;
use crate::pipeline::stream_writer::StreamWriter;
use crate::types::{FileBlock, PAGE_SIZE};
use std::ops::Range;
use std::sync::Arc;

/// Creates the copy of a file of which at most `read_bytes` go into it.
pub(super) fn create_target(
    item: &BackupItem,
    read_bytes: u64,
) -> Result<StreamWriter, PipelineError> {
    let direct = read_bytes >= DIRECT_IO_BYTES_MIN;
    let target = item
        .target
        .create(&item.target_path, item.target_mode, direct)?;
    // At most: every page raw, with its record header.
    let records = read_bytes.div_ceil(bytes(PAGE_SIZE)) * bytes(PAGE_RECORD_HEADER_BYTES);
    StreamWriter::new(Arc::new(target), read_bytes + records)
}

/// An extent that a plan asks for.
pub(super) fn planned_extent(file: &BackupFile, piece: Piece) -> (ReadRange, BackupExtent) {
    let (offset, length) = match file.item.content {
        Content::CompressedPages(_) => {
            let extent = u64::from(piece.blocks.start / EXTENT_DATA_BLOCKS);
            (extent * bytes(EXTENT_BYTES), EXTENT_BYTES)
        }
        _ => {
            let pages = piece.blocks.end - piece.blocks.start;
            let pages = usize::try_from(pages).expect("an extent is small");
            let offset = u64::from(piece.blocks.start) * bytes(PAGE_SIZE);
            (offset, pages * PAGE_SIZE)
        }
    };
    let is_last = offset + bytes(length) >= file.read_end;
    let range = ReadRange {
        source: file.source.clone(),
        offset,
        length,
        parts: piece.parts,
        needs_output: true,
    };
    let extent = BackupExtent {
        name: file.name.clone(),
        source: file.source.clone(),
        content: file.item.content,
        first: FileBlock(piece.blocks.start),
        wanted: length,
        present: if range.parts.is_empty() {
            Present::All
        } else {
            Present::Parts(range.parts.clone())
        },
        header: None,
        is_last,
        filter: piece.filter,
        is_tracked: piece.blocks.end <= file.tracked_end,
        maps: file.item.maps.clone(),
        lead: 0,
    };
    (range, extent)
}

/// What is still to be read of an extent of pages of which parts were read, if anything: all of it
/// if it ends earlier by now, or if these are no pages but pieces of compressed ones.
pub(super) fn missing_of_extent(
    extent: &mut BackupExtent,
    data: &[u8],
) -> Option<Vec<Range<usize>>> {
    if extent.present == Present::All {
        return None;
    }
    if data.len() < extent.wanted {
        let _ = extent.present.complete(extent.wanted);
        return Some(std::iter::once(0..extent.wanted).collect());
    }
    if data.len() == EXTENT_BYTES && is_segment_pca(data) {
        return Some(extent.present.complete(extent.wanted));
    }
    None
}

/// What is still to be read for the wanted pages of a compressed extent, whose header was read as
/// `header` from `data`.
///
/// Whatever is missing, the header is read once more, as the last: a server that moves pages to
/// other chunks, and gives theirs to other pages, changes it.
pub(super) fn missing_chunks(
    extent: &mut BackupExtent,
    header: &ExtentHeader,
    data: &[u8],
) -> Vec<Range<usize>> {
    if extent.header.is_some() {
        return Vec::new();
    }
    extent.header = Some(data[EXTENT_BYTES - PAGE_SIZE..].into());
    let slots = (0..header.block_count()).zip(0..);
    let wanted = slots.filter(|(_, index)| extent.filter.wants(*index));
    let chunks: Vec<_> = wanted.flat_map(|(slot, _)| header.chunks(slot)).collect();
    if chunks.is_empty() {
        return Vec::new();
    }
    let mut missing = extent.present.add(chunks.into_iter(), EXTENT_BYTES);
    missing.push(EXTENT_BYTES - PAGE_SIZE..EXTENT_BYTES);
    missing
}

/// Whether the file is too large to keep it until its CRC is known: it is only read, and copied
/// later in the rare case that its time says unchanged and its CRC does not.
pub(super) fn is_only_read(file: &BackupFile) -> bool {
    file.read_end > bytes(EXTENT_BYTES_MAX)
}

/// Whether bytes that were read are not to be written, because they are those of the parent or may
/// still prove to be.
pub(super) fn is_compared(file: &BackupFile) -> bool {
    match file.item.selection {
        Selection::UnlessCrc(crc) => is_only_read(file) || file.crcs.combined() == crc,
        _ => false,
    }
}

/// Whether a file that was looked at is as the parent backup has it.
pub(super) fn is_unchanged(file: &BackupFile) -> bool {
    match file.item.selection {
        Selection::All => false,
        Selection::UnlessCrc(crc) => file.crc == crc && file.writer.is_none(),
        Selection::Blocks(_) | Selection::Since { .. } => file.writer.is_none() && file.blocks > 0,
    }
}
