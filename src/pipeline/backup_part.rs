//! Part of a file for an increment: what is read, what is written, and whether it changed.

use super::{
    BackupExtent, BackupFile, BackupItem, Content, PageFilter, ReadRange, Selection, bytes,
};
use crate::format::page::compressed::{EXTENT_BYTES, EXTENT_DATA_BLOCKS};
use crate::limits::{DIRECT_IO_BYTES_MIN, EXTENT_BYTES_MAX, PAGE_RECORD_HEADER_BYTES};
use crate::pipeline::PipelineError;
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
pub(super) fn planned_extent(
    file: &BackupFile,
    piece: &Range<u32>,
    filter: PageFilter,
) -> (ReadRange, BackupExtent) {
    let (offset, length) = match file.item.content {
        Content::CompressedPages(_) => {
            let extent = u64::from(piece.start / EXTENT_DATA_BLOCKS);
            (extent * bytes(EXTENT_BYTES), EXTENT_BYTES)
        }
        _ => {
            let pages = usize::try_from(piece.end - piece.start).expect("an extent is small");
            (u64::from(piece.start) * bytes(PAGE_SIZE), pages * PAGE_SIZE)
        }
    };
    let range = ReadRange {
        source: file.source.clone(),
        offset,
        length,
        needs_output: true,
    };
    let extent = BackupExtent {
        name: file.name.clone(),
        content: file.item.content,
        first: FileBlock(piece.start),
        wanted: length,
        filter,
        lead: 0,
    };
    (range, extent)
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
