//! Page records as a backup file holds them: taken apart, decompressed and verified.

use crate::codec::Decompressor;
use crate::format::catalog::PageHeaderRecord;
use crate::format::page::{
    PageDefect, PageHeader, PageVerdict, verify_compressed_page, verify_page,
};
use crate::format::relation_path::{self, FileKind};
use crate::limits::PAGE_RECORD_HEADER_BYTES;
use crate::types::{BlockNumber, CompressAlgorithm, Lsn, PAGE_SIZE};

/// The payload of the record that fills `stored`.
///
/// Its own header must say what the page header map says, else the text tells what differs.
pub(super) fn payload_of<'a>(
    stored: &'a [u8],
    record: &PageHeaderRecord,
) -> Result<&'a [u8], String> {
    let Some((header, payload)) = stored.split_at_checked(PAGE_RECORD_HEADER_BYTES) else {
        return Err(format!("record of {} bytes is too short", stored.len()));
    };
    let block = u32::from_le_bytes(header[..4].try_into().expect("four bytes"));
    let length = u32::from_le_bytes(header[4..].try_into().expect("four bytes"));
    let expected = u32::try_from(payload.len()).expect("records are at most a page long");
    if block != record.block || length != expected {
        return Err(format!(
            "the record at {} says block {block} and {length} bytes, the header map block {} and \
             {expected} bytes",
            record.position, record.block
        ));
    }
    Ok(payload)
}

/// Puts the page of a payload into `page`.
pub(super) fn decode(
    decompressor: &mut Decompressor,
    algorithm: CompressAlgorithm,
    payload: &[u8],
    page: &mut [u8],
) -> Result<(), String> {
    if payload.len() == PAGE_SIZE {
        page.copy_from_slice(payload);
        return Ok(());
    }
    decompressor
        .decompress(algorithm, payload, page)
        .map_err(|error| error.to_string())
}

/// Whether a file of the content list holds segment-page storage.
pub(super) fn is_segment_space(name: &str) -> bool {
    match relation_path::classify(name).kind {
        FileKind::Relation(relation) => relation.is_segment_space(),
        _ => false,
    }
}

/// Whether a file of the content list may hold extents of compressed pages.
pub(super) fn may_have_compressed_extents(name: &str) -> bool {
    match relation_path::classify(name).kind {
        FileKind::Relation(relation) => relation.may_have_compressed_extents(),
        _ => false,
    }
}

/// The verdict on a page of a cluster that writes no checksums: what a page has in the place of one
/// means nothing.
pub(super) fn without_checksum(page: &[u8], verdict: PageVerdict) -> PageVerdict {
    match verdict {
        PageVerdict::Bad(PageDefect::ChecksumMismatch { computed, .. }) => PageVerdict::Valid {
            lsn: PageHeader::parse(page).lsn,
            checksum: computed,
        },
        other => other,
    }
}

/// What a page of a backup is checked with.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageCheck<'a> {
    /// The file's name in the content list.
    pub(super) name: &'a str,
    /// Whether its pages are in the server's compressed form.
    pub(super) compressed: bool,
    /// Whether pages carry checksums.
    pub(super) page_checksums: bool,
    /// Whether there is something to check them against.
    pub(super) knows_pages: bool,
}

/// Checks a page against its own checksum and against what the page header map recorded of it.
pub(super) fn check_page(
    page: &[u8],
    check: PageCheck<'_>,
    block: BlockNumber,
    record: &PageHeaderRecord,
) -> Result<(), String> {
    if !check.knows_pages {
        return Ok(());
    }
    let name = check.name;
    let mut verdict = if check.compressed {
        verify_compressed_page(page, block)
    } else {
        verify_page(page, block)
    };
    if !check.page_checksums {
        verdict = without_checksum(page, verdict);
    }
    let (lsn, checksum) = match &verdict {
        // A block of a compressed extent, which is no page even where it looks like one; the
        // file's CRC covers it.
        PageVerdict::Bad(_) | PageVerdict::Valid { .. }
            if (record.lsn, record.checksum) == (Lsn::INVALID, 0) && is_segment_space(name) =>
        {
            return Ok(());
        }
        PageVerdict::Bad(defect) => return Err(defect.to_string()),
        // The original leaves lsn and checksum of these to chance.
        PageVerdict::SegmentPca => return Ok(()),
        PageVerdict::Zero => (0, 0),
        PageVerdict::Valid { lsn, checksum } => (lsn.0, *checksum),
    };
    if lsn != record.lsn.0 || checksum != record.checksum {
        return Err(format!(
            "the page has lsn {:X}/{:X} and checksum {checksum}, the header map {} and {}",
            lsn >> 32,
            lsn & 0xFFFF_FFFF,
            record.lsn,
            record.checksum
        ));
    }
    Ok(())
}
