//! The FULL backup's files after a merge of the original was interrupted.
//!
//! The original puts each merged file in the place of the FULL backup's and writes list and header
//! map only at the end. Such a file is told by its CRC and read by its own headers; applying the
//! increments to it once more changes nothing.

use super::super::Error;
use super::stage::{ResultFile, Shared};
use crate::format::catalog::ContentEntry;
use crate::pipeline::{MemberFile, MergePart, PagesOfFile, PipelineError, file_crc, scan_file};
use crate::storage::Storage;
use crate::types::{CompressAlgorithm, Location, SegmentNumber};

/// The FULL backup's copy of a relation file, whichever it is.
pub(super) fn part(
    shared: &Shared<'_>,
    entry: &ContentEntry<'_>,
    found: &ContentEntry<'_>,
    block_limit: u32,
    newer: &[MergePart],
) -> Result<MergePart, Error> {
    let (tree, path) = shared.source(found, shared.staging.plan.members.len() - 1)?;
    let compressed = entry.compressed.or(found.compressed).is_some();
    let pages = pages_of(shared, entry, compressed);
    let scanned = scan_file(
        &*tree,
        &path,
        &entry.path,
        pages,
        &algorithms(shared, found),
        newer,
    )?;
    let file = MemberFile {
        storage: tree,
        path,
        size: u64::from(scanned.headers.file_bytes),
        crc: Some(scanned.crc),
        algorithm: scanned.algorithm,
        page_checksums: pages.page_checksums,
        // It was just read.
        knows_pages: pages.judged,
        headers: None,
    };
    Ok(MergePart {
        file,
        block_limit,
        headers: Some(scanned.headers),
    })
}

fn pages_of(shared: &Shared<'_>, entry: &ContentEntry<'_>, compressed: bool) -> PagesOfFile {
    let control = shared.staging.members[0].control.as_ref();
    PagesOfFile {
        segno: SegmentNumber(entry.segno),
        compressed,
        page_checksums: control.map_or(true, |control| control.checksum_version > 0),
        // As the seals have it: pages that are none come from the original's own backups only.
        judged: shared.knows_pages,
    }
}

/// The algorithms that a file may have, the likeliest first.
fn algorithms(shared: &Shared<'_>, found: &ContentEntry<'_>) -> Vec<CompressAlgorithm> {
    let newest = shared.staging.members.last();
    let newest = newest.and_then(|newest| newest.control.as_ref().ok());
    let newest = newest.map(|control| control.compress_algorithm);
    let mut algorithms = vec![found.compress_algorithm];
    // Compressed relations are stored with pglz where nothing else was asked for.
    for algorithm in newest.into_iter().chain([CompressAlgorithm::Pglz]) {
        if !algorithms.contains(&algorithm) {
            algorithms.push(algorithm);
        }
    }
    algorithms
}

/// A file of the FULL backup that no increment changed.
pub(super) fn kept(shared: &Shared<'_>, entry: &ContentEntry<'_>) -> Result<ResultFile, Error> {
    let full = shared.staging.plan.members.len() - 1;
    let found = shared.staging.plan.find(entry, full);
    let found = found.expect("found when planned");
    let (tree, path) = shared.source(&found, full)?;
    if !entry.is_datafile {
        let (size, crc) = file_crc(&*tree, &path)?;
        if (size, crc) != (found.size.bytes(), found.crc) {
            let path = tree.display_path(&path).display().to_string();
            return Err(Error::Pipeline(PipelineError::DamagedBackup {
                location: Location::file(path),
                detail: format!("Invalid CRC: {crc:X}. Expected {:X}", found.crc),
            }));
        }
        return Ok(ResultFile {
            size,
            crc,
            algorithm: found.compress_algorithm,
            headers: None,
            compressed: None,
            in_place: false,
        });
    }
    let compressed = entry.compressed.or(found.compressed);
    let scanned = scan_file(
        &*tree,
        &path,
        &entry.path,
        pages_of(shared, entry, compressed.is_some()),
        &algorithms(shared, &found),
        &[],
    )?;
    Ok(ResultFile {
        size: u64::from(scanned.headers.file_bytes),
        crc: scanned.crc,
        algorithm: scanned.algorithm,
        headers: Some(shared.map.append(&scanned.encoded_headers())?),
        compressed,
        in_place: false,
    })
}
