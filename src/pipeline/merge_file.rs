//! Merges the stored copies of one relation file into one file of page records.
//!
//! The oldest copy gives the algorithm. Its records that stay are moved as they are; newer ones
//! replace theirs, verified, and encoded anew only where their algorithm is another. Two ways:
//!
//! * **Overwrite**: every record keeps its place and length, as those of uncompressed pages do. The
//!   new file shares the blocks of the oldest one, or is copied from it within the kernel, and the
//!   newer records are written into it. Its CRC follows from the old one: CRCs are linear, so only
//!   the replaced records, old and new, are read. What is damaged elsewhere stays as detectable as
//!   before.
//! * **Stream**: the file is written from its beginning. The oldest copy is read once, all of it;
//!   its CRC is checked on the way, as every byte passes the CPU for the CRC of the new file
//!   anyway.

use super::PipelineError;
use super::chain_file::MemberFile;
use super::header_map::EncodedHeaders;
use super::records::{PageCheck, check_page, decode, payload_of};
use crate::codec::{Compressor, Decompressor};
use crate::format::catalog::{HeaderRecords, PageHeaderRecord};
use crate::io::File;
use crate::limits::{EXTENT_BYTES_MAX, PAGE_RECORD_HEADER_BYTES};
use crate::storage::Storage;
use crate::types::{CompressAlgorithm, FileBlock, Location, PAGE_SIZE, SegmentNumber};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A copy of the file in one backup.
#[derive(Debug)]
pub struct MergePart {
    /// The copy.
    pub file: MemberFile,
    /// Its blocks from here on were cut off later.
    pub block_limit: u32,
    /// Its records, where the page header map does not describe it.
    pub headers: Option<HeaderRecords>,
}

/// A relation file to merge.
#[derive(Debug)]
pub struct MergeItem<'a> {
    /// For messages: path as the content list has it.
    pub name: &'a str,
    /// Which segment of its relation.
    pub segno: SegmentNumber,
    /// Whether its pages are in the server's compressed form.
    pub compressed: bool,
    /// Blocks of the file in the newest backup.
    pub n_blocks: u32,
    /// Copies, newest first; at least one.
    pub parts: Vec<MergePart>,
    /// Level for records that are encoded anew.
    pub level: u32,
    /// Where the result goes.
    pub target: Arc<dyn Storage>,
    /// Path there.
    pub target_path: PathBuf,
    /// Whether it is made durable.
    pub sync: bool,
}

/// The result.
#[derive(Debug)]
pub struct MergedFile {
    /// Bytes; with 0 there is no file.
    pub size: u64,
    /// CRC-32C.
    pub crc: u32,
    /// How its pages are compressed.
    pub algorithm: CompressAlgorithm,
    /// Its page headers, if it has pages.
    pub headers: Option<EncodedHeaders>,
}

/// Mode of files in a backup.
const FILE_MODE: u32 = 0o600;

const RAW_RECORD_BYTES: usize = PAGE_RECORD_HEADER_BYTES + PAGE_SIZE;

/// Merges one file.
///
/// # Errors
/// When a copy is damaged or cannot be read, the result cannot be written, or `cancel` is set.
///
/// # Panics
/// When there are no copies.
pub fn merge_file(item: MergeItem<'_>, cancel: &AtomicBool) -> Result<MergedFile, PipelineError> {
    let sources = item.parts.into_iter().map(Source::open);
    let sources = sources.collect::<Result<Vec<_>, _>>()?;
    let winners = choose(&sources, item.n_blocks);
    let oldest = sources.len() - 1;
    let algorithm = sources[oldest].file.algorithm;
    if winners.is_empty() {
        return Ok(MergedFile {
            size: 0,
            crc: 0,
            algorithm: CompressAlgorithm::None,
            headers: None,
        });
    }
    let target = item.target.create(&item.target_path, FILE_MODE, false)?;
    let mut merge = Merge {
        name: item.name,
        segno: item.segno,
        compressed: item.compressed,
        sources,
        oldest,
        algorithm,
        compressor: Compressor::new(algorithm, item.level),
        decompressor: Decompressor::new(),
        page: vec![0; PAGE_SIZE],
        encoded: vec![0; PAGE_SIZE],
        target,
        pending: Vec::new(),
        written: 0,
        crc: 0,
        records: Vec::with_capacity(winners.len()),
        cancel,
    };
    match merge.replaced_in_place(&winners) {
        Some(crc) => merge.overwrite(&winners, crc)?,
        None => merge.stream(&winners)?,
    }
    merge.finish(item.sync)
}

/// An opened copy.
struct Source {
    file: MemberFile,
    opened: Arc<File>,
    headers: HeaderRecords,
    block_limit: u32,
}

impl Source {
    fn open(part: MergePart) -> Result<Source, PipelineError> {
        let headers = match part.headers {
            Some(headers) => headers,
            None => part.file.read_headers()?,
        };
        Ok(Source {
            opened: part.file.open(false)?,
            file: part.file,
            headers,
            block_limit: part.block_limit,
        })
    }

    fn position(&self, index: usize) -> u32 {
        let record = self.headers.records.get(index);
        record.map_or(self.headers.file_bytes, |record| record.position)
    }

    fn record_bytes(&self, index: usize) -> usize {
        let length = self.position(index + 1) - self.position(index);
        usize::try_from(length).expect("32 bits fit")
    }

    fn read(&self, index: usize) -> Result<Vec<u8>, PipelineError> {
        let mut bytes = vec![0; self.record_bytes(index)];
        let offset = u64::from(self.position(index));
        self.opened.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}

/// The record that provides a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Winner {
    source: usize,
    index: usize,
}

/// The record of each block that has one, by block: that of the newest copy.
fn choose(sources: &[Source], n_blocks: u32) -> Vec<Winner> {
    let mut blocks = vec![None; usize::try_from(n_blocks).expect("32 bits fit")];
    for (source, copy) in sources.iter().enumerate() {
        for (index, record) in copy.headers.records.iter().enumerate() {
            if record.block >= copy.block_limit {
                break;
            }
            let place = usize::try_from(record.block).expect("32 bits fit");
            if let Some(winner @ None) = blocks.get_mut(place) {
                *winner = Some(Winner { source, index });
            }
        }
    }
    blocks.into_iter().flatten().collect()
}

struct Merge<'a> {
    name: &'a str,
    segno: SegmentNumber,
    compressed: bool,
    sources: Vec<Source>,
    oldest: usize,
    algorithm: CompressAlgorithm,
    compressor: Compressor,
    decompressor: Decompressor,
    page: Vec<u8>,
    encoded: Vec<u8>,
    target: File,
    /// Bytes of the stream that are not written yet.
    pending: Vec<u8>,
    /// Bytes that are.
    written: u64,
    /// CRC of both.
    crc: u32,
    records: Vec<PageHeaderRecord>,
    cancel: &'a AtomicBool,
}

impl Merge<'_> {
    fn check_cancelled(&self) -> Result<(), PipelineError> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(PipelineError::Interrupted);
        }
        Ok(())
    }

    /// The oldest copy's CRC, if every winner has the place and length of the record it replaces.
    fn replaced_in_place(&self, winners: &[Winner]) -> Option<u32> {
        let oldest = &self.sources[self.oldest];
        let records = &oldest.headers.records;
        let fits = |(index, winner): (usize, &Winner)| {
            let source = &self.sources[winner.source];
            let length = source.record_bytes(winner.index);
            let encoded_bytes = if source.file.algorithm == self.algorithm {
                length
            } else if length == RAW_RECORD_BYTES || self.algorithm == CompressAlgorithm::None {
                RAW_RECORD_BYTES
            } else {
                return false;
            };
            source.headers.records[winner.index].block == records[index].block
                && encoded_bytes == oldest.record_bytes(index)
        };
        let in_place = winners.len() == records.len() && winners.iter().enumerate().all(fits);
        oldest.file.crc.filter(|_| in_place)
    }

    /// A newer record, verified, as the result stores it.
    fn newer(&mut self, winner: Winner) -> Result<Vec<u8>, PipelineError> {
        let source = &self.sources[winner.source];
        let record = source.headers.records[winner.index];
        let stored = source.read(winner.index)?;
        let algorithm = source.file.algorithm;
        let damaged = |detail: String| {
            let path = source.file.display_path();
            PipelineError::DamagedBackup {
                location: Location::block(path, self.segno, FileBlock(record.block)),
                detail,
            }
        };
        let payload = payload_of(&stored, &record).map_err(damaged)?;
        decode(&mut self.decompressor, algorithm, payload, &mut self.page).map_err(damaged)?;
        let block = self.segno.relation_block(FileBlock(record.block));
        let check = PageCheck {
            name: self.name,
            compressed: self.compressed,
            page_checksums: source.file.page_checksums,
        };
        check_page(&self.page, check, block, &record).map_err(damaged)?;
        if algorithm == self.algorithm || payload.len() == PAGE_SIZE {
            return Ok(stored);
        }
        let encoded = self.compressor.compress(&self.page, &mut self.encoded);
        let payload = match encoded {
            Some(length) => &self.encoded[..length],
            None => &self.page[..],
        };
        let length = u32::try_from(payload.len()).expect("a page is small");
        let mut bytes = Vec::with_capacity(RAW_RECORD_BYTES);
        bytes.extend_from_slice(&record.block.to_le_bytes());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(payload);
        Ok(bytes)
    }

    fn overwrite(&mut self, winners: &[Winner], crc: u32) -> Result<(), PipelineError> {
        let oldest = &self.sources[self.oldest];
        let size = u64::from(oldest.headers.file_bytes);
        if !self.target.share_blocks_of(&oldest.opened) {
            match self.target.copy_head_of(&oldest.opened, size) {
                Err(error) if error.source.kind() == std::io::ErrorKind::Unsupported => {
                    return self.stream(winners);
                }
                copied => copied?,
            }
        }
        // The CRC of the difference between the files, up to `at`.
        let (mut difference, mut at) = (0, 0);
        for (index, winner) in winners.iter().enumerate() {
            let oldest = &self.sources[self.oldest];
            let position = oldest.position(index);
            let source = &self.sources[winner.source];
            self.records.push(PageHeaderRecord {
                position,
                ..source.headers.records[winner.index]
            });
            if winner.source == self.oldest {
                continue;
            }
            self.check_cancelled()?;
            let old = oldest.read(index)?;
            let new = self.newer(*winner)?;
            assert_eq!(old.len(), new.len(), "looked at before");
            self.target.write_all_at(&new, u64::from(position))?;
            let end = usize::try_from(position).expect("32 bits fit") + new.len();
            let here = crc32c::crc32c(&old) ^ crc32c::crc32c(&new);
            difference = crc32c::crc32c_combine(difference, here, end - at);
            at = end;
        }
        let rest = usize::try_from(size).expect("32 bits fit") - at;
        self.crc = crc ^ crc32c::crc32c_combine(difference, 0, rest);
        self.written = size;
        Ok(())
    }

    fn stream(&mut self, winners: &[Winner]) -> Result<(), PipelineError> {
        let mut old = OldCopy { at: 0, crc: 0 };
        let mut rest = winners;
        while let Some((first, others)) = rest.split_first() {
            self.check_cancelled()?;
            if first.source != self.oldest {
                let bytes = self.newer(*first)?;
                self.push_record(*first);
                self.crc = crc32c::crc32c_append(self.crc, &bytes);
                self.pending.extend_from_slice(&bytes);
                rest = others;
            } else {
                let follows = |(ahead, winner): &(usize, &Winner)| {
                    winner.source == self.oldest && winner.index == first.index + ahead
                };
                let count = rest.iter().enumerate().take_while(follows).count();
                self.move_run(&mut old, first.index, count)?;
                rest = &rest[count..];
            }
            if self.pending.len() >= EXTENT_BYTES_MAX {
                self.flush()?;
            }
        }
        self.flush()?;
        let oldest = &self.sources[self.oldest];
        old.skip_to(oldest, oldest.headers.file_bytes)?;
        match oldest.file.crc {
            Some(expected) if expected != old.crc => {
                let detail = format!("Invalid CRC: {:X}. Expected {expected:X}", old.crc);
                Err(oldest.file.damaged(detail))
            }
            _ => Ok(()),
        }
    }

    /// Moves records of the oldest copy as they are.
    fn move_run(
        &mut self,
        old: &mut OldCopy,
        first: usize,
        count: usize,
    ) -> Result<(), PipelineError> {
        for index in first..first + count {
            let winner = Winner {
                source: self.oldest,
                index,
            };
            // Positions count from what is pending; the bytes come right behind.
            let oldest = &self.sources[self.oldest];
            let shift = oldest.position(index) - oldest.position(first);
            self.push_record_at(winner, shift);
        }
        let end = self.sources[self.oldest].position(first + count);
        let start = self.sources[self.oldest].position(first);
        old.skip_to(&self.sources[self.oldest], start)?;
        while old.at < end {
            let length = usize::try_from(end - old.at).expect("32 bits fit");
            let from = self.pending.len();
            self.pending.resize(from + length.min(EXTENT_BYTES_MAX), 0);
            old.read(&self.sources[self.oldest], &mut self.pending[from..])?;
            self.crc = crc32c::crc32c_append(self.crc, &self.pending[from..]);
            if self.pending.len() >= EXTENT_BYTES_MAX {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn push_record(&mut self, winner: Winner) {
        self.push_record_at(winner, 0);
    }

    fn push_record_at(&mut self, winner: Winner, shift: u32) {
        let pending = u64::try_from(self.pending.len()).expect("a buffer is small");
        let position = self.written + pending + u64::from(shift);
        self.records.push(PageHeaderRecord {
            position: u32::try_from(position).expect("a segment file's records are below 2 GiB"),
            ..self.sources[winner.source].headers.records[winner.index]
        });
    }

    fn flush(&mut self) -> Result<(), PipelineError> {
        self.target.write_all_at(&self.pending, self.written)?;
        self.written += u64::try_from(self.pending.len()).expect("a buffer is small");
        self.pending.clear();
        Ok(())
    }

    fn finish(self, sync: bool) -> Result<MergedFile, PipelineError> {
        if sync {
            self.target.sync()?;
        }
        let file_bytes = u32::try_from(self.written).expect("below 2 GiB");
        Ok(MergedFile {
            size: self.written,
            crc: self.crc,
            algorithm: self.algorithm,
            headers: Some(EncodedHeaders::new(&self.records, file_bytes)),
        })
    }
}

/// How far the oldest copy was read, and the CRC of that.
struct OldCopy {
    at: u32,
    crc: u32,
}

impl OldCopy {
    fn read(&mut self, source: &Source, bytes: &mut [u8]) -> Result<(), PipelineError> {
        source.opened.read_exact_at(bytes, u64::from(self.at))?;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.at += u32::try_from(bytes.len()).expect("an extent is small");
        Ok(())
    }

    /// Reads what lies before `position` for its CRC.
    fn skip_to(&mut self, source: &Source, position: u32) -> Result<(), PipelineError> {
        let mut buffer = Vec::new();
        while self.at < position {
            let length = usize::try_from(position - self.at).expect("32 bits fit");
            buffer.resize(length.min(EXTENT_BYTES_MAX), 0);
            self.read(source, &mut buffer)?;
        }
        Ok(())
    }
}
