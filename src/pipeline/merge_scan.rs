//! Page headers of a stored file, taken from the file itself.
//!
//! A merge of the original that was interrupted leaves data files that no map describes: some are
//! as the FULL backup's list says, others are already the result. The headers within the file, and
//! the pages, which have checksums, tell the same as the map would have.

use super::PipelineError;
use super::header_map::EncodedHeaders;
use super::merge_sources::MergePart;
use super::records::{decode, is_segment_space, without_checksum};
use crate::codec::Decompressor;
use crate::format::catalog::{HeaderRecords, PageHeaderRecord};
use crate::format::page::{PageVerdict, verify_compressed_page, verify_page};
use crate::io::File;
use crate::limits::{EXTENT_BYTES_MAX, PAGE_RECORD_HEADER_BYTES};
use crate::storage::Storage;
use crate::types::{BlockNumber, SegmentNumber};
use crate::types::{CompressAlgorithm, FileBlock, Location, Lsn, PAGE_SIZE, RELSEG_SIZE};
use std::collections::HashSet;
use std::path::Path;

/// What the pages of a stored data file are.
#[derive(Clone, Copy, Debug)]
pub struct PagesOfFile {
    /// Which segment of its relation the file is.
    pub segno: SegmentNumber,
    /// Whether they are in the server's compressed form.
    pub compressed: bool,
    /// Whether they carry checksums.
    pub page_checksums: bool,
    /// Whether they have to be right. On shared storage the original stores pages as they are.
    pub judged: bool,
}

/// What a stored data file turned out to hold.
#[derive(Debug)]
pub struct ScannedFile {
    /// Its records.
    pub headers: HeaderRecords,
    /// CRC-32C of its bytes.
    pub crc: u32,
    /// How its pages are compressed.
    pub algorithm: CompressAlgorithm,
}

impl ScannedFile {
    /// Its page headers, to be appended to a map.
    #[must_use]
    pub fn encoded_headers(&self) -> EncodedHeaders {
        EncodedHeaders::new(&self.headers.records, self.headers.file_bytes)
    }
}

/// Size and CRC-32C of a stored file.
///
/// # Errors
/// When it cannot be read.
///
/// # Panics
/// Never: a buffer's size fits.
pub fn file_crc(storage: &dyn Storage, path: &Path) -> Result<(u64, u32), PipelineError> {
    let file = storage.open_read(path, false)?;
    let size = file.size()?;
    let mut crc = 0;
    for_parts(&file, size, |part| {
        crc = crc32c::crc32c_append(crc, part);
        Ok(())
    })?;
    Ok((size, crc))
}

fn for_parts(
    file: &File,
    size: u64,
    mut see: impl FnMut(&[u8]) -> Result<(), PipelineError>,
) -> Result<(), PipelineError> {
    let mut buffer = vec![0; EXTENT_BYTES_MAX];
    let mut at = 0;
    while at < size {
        let left = usize::try_from(size - at).unwrap_or(usize::MAX);
        let part = &mut buffer[..left.min(EXTENT_BYTES_MAX)];
        file.read_exact_at(part, at)?;
        see(part)?;
        at += u64::try_from(part.len()).expect("a buffer is small");
    }
    Ok(())
}

/// Reads the records of a stored data file, each page verified; the first of `algorithms` that
/// makes pages of all of them is the file's. Pages that the `newer` copies replace need not be
/// whole: whoever overwrote them may have been interrupted.
///
/// # Errors
/// When it cannot be read, or is no file of records under any of the algorithms.
pub fn scan_file(
    storage: &dyn Storage,
    path: &Path,
    name: &str,
    pages: PagesOfFile,
    algorithms: &[CompressAlgorithm],
    newer: &[MergePart],
) -> Result<ScannedFile, PipelineError> {
    let file = storage.open_read(path, false)?;
    let replaced = replaced_by(newer)?;
    let mut failed = None;
    for algorithm in algorithms {
        let mut scan = Scan {
            name,
            pages,
            algorithm: *algorithm,
            replaced: &replaced,
            decompressor: Decompressor::new(),
            page: vec![0; PAGE_SIZE],
            records: Vec::new(),
            position: 0,
        };
        match scan.run(&file) {
            Ok(crc) => {
                return Ok(ScannedFile {
                    headers: HeaderRecords {
                        records: scan.records,
                        file_bytes: scan.position,
                    },
                    crc,
                    algorithm: *algorithm,
                });
            }
            Err(error @ PipelineError::DamagedBackup { .. }) => failed = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(failed.unwrap_or_else(|| PipelineError::DamagedBackup {
        location: Location::file(name),
        detail: "no algorithm is known for it".to_owned(),
    }))
}

/// The blocks that newer copies have.
fn replaced_by(newer: &[MergePart]) -> Result<HashSet<u32>, PipelineError> {
    let mut blocks = HashSet::new();
    for part in newer {
        let records = part.file.read_headers()?.records;
        let records = records.iter().map(|record| record.block);
        blocks.extend(records.filter(|block| *block < part.block_limit));
    }
    Ok(blocks)
}

struct Scan<'a> {
    name: &'a str,
    pages: PagesOfFile,
    algorithm: CompressAlgorithm,
    replaced: &'a HashSet<u32>,
    decompressor: Decompressor,
    page: Vec<u8>,
    records: Vec<PageHeaderRecord>,
    /// Where the next record begins.
    position: u32,
}

impl Scan<'_> {
    fn run(&mut self, file: &File) -> Result<u32, PipelineError> {
        let mut crc = 0;
        let mut carried = Vec::new();
        for_parts(file, file.size()?, |part| {
            crc = crc32c::crc32c_append(crc, part);
            carried.extend_from_slice(part);
            let used = self.take_records(&carried)?;
            carried.drain(..used);
            Ok(())
        })?;
        if !carried.is_empty() {
            return Err(self.damaged("it ends within a record".to_owned()));
        }
        Ok(crc)
    }

    fn damaged(&self, detail: String) -> PipelineError {
        PipelineError::DamagedBackup {
            location: Location::file(self.name),
            detail: format!("record at {}: {detail}", self.position),
        }
    }

    /// Takes the whole records at the head of `bytes`; returns their length.
    fn take_records(&mut self, bytes: &[u8]) -> Result<usize, PipelineError> {
        let mut used = 0;
        while let Some((header, rest)) = bytes[used..].split_at_checked(PAGE_RECORD_HEADER_BYTES) {
            let block = u32::from_le_bytes(header[..4].try_into().expect("four bytes"));
            let length = u32::from_le_bytes(header[4..].try_into().expect("four bytes"));
            let length = usize::try_from(length).expect("32 bits fit");
            let follows = self.records.last().is_none_or(|last| last.block < block);
            if length == 0 || length > PAGE_SIZE || block >= RELSEG_SIZE || !follows {
                return Err(self.damaged(format!("it says block {block} and {length} bytes")));
            }
            let Some(payload) = rest.get(..length) else {
                break;
            };
            self.take(block, payload)?;
            used += PAGE_RECORD_HEADER_BYTES + length;
        }
        Ok(used)
    }

    fn take(&mut self, block: u32, payload: &[u8]) -> Result<(), PipelineError> {
        let page = &mut self.page[..];
        if let Err(detail) = decode(&mut self.decompressor, self.algorithm, payload, page) {
            return Err(self.damaged(detail));
        }
        let verified = self.verify(self.pages.segno.relation_block(FileBlock(block)));
        let (lsn, checksum) = match verified {
            Err(_) if self.replaced.contains(&block) => (Lsn::INVALID, 0),
            verified => verified?,
        };
        self.records.push(PageHeaderRecord {
            lsn,
            block,
            position: self.position,
            checksum,
        });
        let length = PAGE_RECORD_HEADER_BYTES + payload.len();
        let length = u32::try_from(length).expect("a record is small");
        // A segment file's blocks, each once, are far from 4 GiB.
        self.position += length;
        Ok(())
    }

    /// What the header map says of the page.
    fn verify(&self, block: BlockNumber) -> Result<(Lsn, u16), PipelineError> {
        let mut verdict = if self.pages.compressed {
            verify_compressed_page(&self.page, block)
        } else {
            verify_page(&self.page, block)
        };
        if !self.pages.page_checksums {
            verdict = without_checksum(&self.page, verdict);
        }
        match verdict {
            PageVerdict::Valid { lsn, checksum } => Ok((lsn, checksum)),
            PageVerdict::Bad(_) if !self.pages.judged || is_segment_space(self.name) => {
                Ok((Lsn::INVALID, 0))
            }
            PageVerdict::Bad(defect) => Err(self.damaged(defect.to_string())),
            PageVerdict::SegmentPca | PageVerdict::Zero => Ok((Lsn::INVALID, 0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Posix;

    #[test]
    fn a_page_that_is_not_right_is_refused_where_pages_are_judged() {
        let scratch = tempfile::tempdir().unwrap();
        let mut record = vec![0xA5; PAGE_RECORD_HEADER_BYTES + PAGE_SIZE];
        record[..4].copy_from_slice(&7_u32.to_le_bytes());
        record[4..8].copy_from_slice(&8192_u32.to_le_bytes());
        std::fs::write(scratch.path().join("f"), &record).unwrap();
        let storage = Posix::open(scratch.path()).unwrap();
        let scan = |name: &str, judged| {
            let pages = PagesOfFile {
                segno: SegmentNumber(0),
                compressed: false,
                page_checksums: true,
                judged,
            };
            let algorithms = [CompressAlgorithm::None];
            scan_file(&storage, Path::new("f"), name, pages, &algorithms, &[])
        };
        let refused = scan("base/1/16384", true).unwrap_err();
        assert!(matches!(refused, PipelineError::DamagedBackup { .. }));
        for (name, judged) in [("base/1/16384", false), ("base/1/2", true)] {
            let found = scan(name, judged).unwrap();
            let [record] = &found.headers.records[..] else {
                panic!("{name}: {found:?}");
            };
            assert_eq!((record.block, record.lsn.0, record.checksum), (7, 0, 0));
        }
    }
}
