//! The stored copies of one relation file in a chain, opened, and which record of which copy
//! provides each block of the result.

use super::PipelineError;
use super::chain_file::{MemberFile, PlannedExtent, SourceFile, plan_member};
use super::records::{PageCheck, check_page, decode, payload_of};
use crate::codec::{Compressor, Decompressor};
use crate::format::catalog::{HeaderRecords, PageHeaderRecord};
use crate::io::File;
use crate::limits::{OVERWRITE_SHARE_MAX, PAGE_RECORD_HEADER_BYTES};
use crate::types::{CompressAlgorithm, FileBlock, Location, PAGE_SIZE, SegmentNumber};
use std::sync::Arc;

/// Bytes of a record whose page is not compressed.
pub(super) const RAW_RECORD_BYTES: usize = PAGE_RECORD_HEADER_BYTES + PAGE_SIZE;

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

/// A relation file and its copies.
#[derive(Debug)]
pub struct MergeCopies {
    /// For messages: path as the content list has it.
    pub name: String,
    /// Which segment of its relation.
    pub segno: SegmentNumber,
    /// Whether its pages are in the server's compressed form.
    pub compressed: bool,
    /// Blocks of the file in the newest backup.
    pub n_blocks: u32,
    /// Copies, newest first; at least one.
    pub parts: Vec<MergePart>,
}

/// An opened copy.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) member: MemberFile,
    pub(super) file: SourceFile,
    block_limit: u32,
}

/// The record that provides a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Winner {
    source: u32,
    index: u32,
}

impl Winner {
    pub(super) fn source(self) -> usize {
        usize::try_from(self.source).expect("32 bits fit")
    }

    pub(super) fn index(self) -> usize {
        usize::try_from(self.index).expect("32 bits fit")
    }
}

/// The opened copies of a file and what each provides.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) name: Arc<str>,
    segno: SegmentNumber,
    compressed: bool,
    /// Newest first.
    pub(super) sources: Vec<Source>,
    /// The record of each block that has one, by block: that of the newest copy.
    pub(super) winners: Vec<Winner>,
}

/// What a thread needs to take records apart.
#[derive(Debug)]
pub(super) struct Tools {
    level: u32,
    decompressor: Decompressor,
    compressors: Vec<(CompressAlgorithm, Compressor)>,
    page: Vec<u8>,
    encoded: Vec<u8>,
}

impl Tools {
    /// `level` is that of records that are encoded anew.
    pub(super) fn new(level: u32) -> Tools {
        Tools {
            level,
            decompressor: Decompressor::new(),
            compressors: Vec::new(),
            page: vec![0; PAGE_SIZE],
            encoded: vec![0; PAGE_SIZE],
        }
    }

    /// The page that was decoded last, as a file of this algorithm stores it.
    fn encode(&mut self, algorithm: CompressAlgorithm) -> &[u8] {
        let known = |(made, _): &(CompressAlgorithm, Compressor)| *made == algorithm;
        let place = self.compressors.iter().position(known).unwrap_or_else(|| {
            let made = Compressor::new(algorithm, self.level);
            self.compressors.push((algorithm, made));
            self.compressors.len() - 1
        });
        let compressor = &mut self.compressors[place].1;
        match compressor.compress(&self.page, &mut self.encoded) {
            Some(length) => &self.encoded[..length],
            None => &self.page,
        }
    }
}

impl Source {
    fn open(part: MergePart) -> Result<Source, PipelineError> {
        let headers = match part.headers {
            Some(headers) => headers,
            None => part.file.read_headers()?,
        };
        let member = part.file;
        Ok(Source {
            file: SourceFile {
                file: member.open(false)?,
                records: headers.records.into(),
                file_bytes: headers.file_bytes,
                algorithm: member.algorithm,
                page_checksums: member.page_checksums,
                knows_pages: member.knows_pages,
            },
            member,
            block_limit: part.block_limit,
        })
    }
}

impl Sources {
    /// Opens the copies and decides.
    pub(super) fn open(copies: MergeCopies) -> Result<Sources, PipelineError> {
        let sources = copies.parts.into_iter().map(Source::open);
        let sources = sources.collect::<Result<Vec<_>, _>>()?;
        Ok(Sources {
            name: copies.name.into(),
            segno: copies.segno,
            compressed: copies.compressed,
            winners: choose(&sources, copies.n_blocks),
            sources,
        })
    }

    /// Which one is the oldest copy. Its algorithm is the result's.
    pub(super) fn oldest(&self) -> usize {
        self.sources.len() - 1
    }

    pub(super) fn algorithm(&self) -> CompressAlgorithm {
        self.sources[self.oldest()].file.algorithm
    }

    /// Reads the oldest copy past the page cache from now on.
    pub(super) fn read_oldest_from_medium(&mut self) -> Result<(), PipelineError> {
        let oldest = self.oldest();
        let source = &mut self.sources[oldest];
        source.file.file = source.member.open(true)?;
        Ok(())
    }

    pub(super) fn record(&self, winner: Winner) -> &PageHeaderRecord {
        &self.sources[winner.source()].file.records[winner.index()]
    }

    /// Bytes of a record as it is stored.
    pub(super) fn stored_bytes(&self, winner: Winner) -> usize {
        self.sources[winner.source()].file.span(winner.index(), 1)
    }

    /// Whether the record goes into the result as it is stored.
    pub(super) fn stays_as_stored(&self, winner: Winner) -> bool {
        self.sources[winner.source()].file.algorithm == self.algorithm()
            || self.stored_bytes(winner) == RAW_RECORD_BYTES
    }

    /// Bytes of the result at most.
    pub(super) fn bytes_max(&self) -> u64 {
        let length = |winner: &Winner| {
            if self.stays_as_stored(*winner) {
                self.stored_bytes(*winner)
            } else {
                RAW_RECORD_BYTES
            }
        };
        let bytes: usize = self.winners.iter().map(length).sum();
        u64::try_from(bytes).expect("a usize fits on every supported platform")
    }

    /// Memory that they take, all but a constant.
    pub(super) fn held_bytes(&self) -> usize {
        let records: usize = self
            .sources
            .iter()
            .map(|from| from.file.records.len())
            .sum();
        // The result's records come to the winners.
        records * size_of::<PageHeaderRecord>()
            + self.winners.len() * (size_of::<Winner>() + size_of::<PageHeaderRecord>())
    }

    /// Which records of the oldest copy are replaced, if all keep their place and length and those
    /// that are replaced are not compressed.
    ///
    /// The header of such a record stays the same, so that the file can be read record by record
    /// whatever part of the new page is in it.
    pub(super) fn replaced_in_place(&self) -> Option<Vec<bool>> {
        let oldest = &self.sources[self.oldest()].file;
        if self.winners.len() != oldest.records.len() {
            return None;
        }
        let mut replaced = vec![false; oldest.records.len()];
        for (index, winner) in self.winners.iter().enumerate() {
            if self.record(*winner).block != oldest.records[index].block {
                return None;
            }
            if winner.source() == self.oldest() {
                continue;
            }
            let becomes_raw = oldest.algorithm == CompressAlgorithm::None
                || self.stored_bytes(*winner) == RAW_RECORD_BYTES;
            if !becomes_raw || oldest.span(index, 1) != RAW_RECORD_BYTES {
                return None;
            }
            replaced[index] = true;
        }
        Some(replaced)
    }

    /// Whether writing the replaced records where they are costs less than writing the file anew,
    /// and nobody sees the file under another name.
    pub(super) fn is_worth_overwriting(&self, replaced: &[bool]) -> Result<bool, PipelineError> {
        let oldest = &self.sources[self.oldest()].file;
        let count = replaced.iter().filter(|replaced| **replaced).count();
        let bytes = u64::try_from(count * RAW_RECORD_BYTES).expect("a file is below 2 GiB");
        let is_small_part = bytes * OVERWRITE_SHARE_MAX <= u64::from(oldest.file_bytes);
        Ok(is_small_part && oldest.file.links()? == 1)
    }

    /// The reads that give the records of the newer copies that are in the result.
    pub(super) fn newer_extents(&self) -> Vec<PlannedExtent> {
        let mut extents = Vec::new();
        for (index, source) in self.sources[..self.oldest()].iter().enumerate() {
            let mut wanted = vec![false; source.file.records.len()];
            let of_source = self.winners.iter().filter(|from| from.source() == index);
            for winner in of_source {
                wanted[winner.index()] = true;
            }
            plan_member(&source.file, index, &wanted, &mut extents);
        }
        extents
    }

    /// The reads that give the records of the oldest copy that are replaced.
    pub(super) fn replaced_extents(&self, replaced: &[bool]) -> Vec<PlannedExtent> {
        let mut extents = Vec::new();
        let oldest = self.oldest();
        plan_member(&self.sources[oldest].file, oldest, replaced, &mut extents);
        extents
    }

    /// Where the oldest copy has the record of this block.
    pub(super) fn place_of(&self, block: u32) -> Option<u32> {
        let records = &self.sources[self.oldest()].file.records;
        let found = records.binary_search_by_key(&block, |record| record.block);
        found.ok().map(|index| records[index].position)
    }

    /// The payload of a record, verified, as the result stores it.
    pub(super) fn payload<'a>(
        &self,
        (source, index): (usize, usize),
        stored: &'a [u8],
        tools: &'a mut Tools,
    ) -> Result<&'a [u8], PipelineError> {
        let source = &self.sources[source];
        let record = source.file.records[index];
        let damaged = |detail: String| PipelineError::DamagedBackup {
            location: Location::block(
                source.member.display_path(),
                self.segno,
                FileBlock(record.block),
            ),
            detail,
        };
        let payload = payload_of(stored, &record).map_err(damaged)?;
        let algorithm = source.file.algorithm;
        let page = &mut tools.page[..];
        decode(&mut tools.decompressor, algorithm, payload, page).map_err(damaged)?;
        let block = self.segno.relation_block(FileBlock(record.block));
        let check = PageCheck {
            name: &self.name,
            compressed: self.compressed,
            page_checksums: source.file.page_checksums,
            knows_pages: source.file.knows_pages,
        };
        check_page(page, check, block, &record).map_err(damaged)?;
        if algorithm == self.algorithm() || payload.len() == PAGE_SIZE {
            return Ok(payload);
        }
        Ok(tools.encode(self.algorithm()))
    }
}

/// The header of a record.
pub(super) fn record_header(block: u32, payload: &[u8]) -> [u8; PAGE_RECORD_HEADER_BYTES] {
    let length = u32::try_from(payload.len()).expect("a payload is at most a page");
    let mut header = [0; PAGE_RECORD_HEADER_BYTES];
    header[..4].copy_from_slice(&block.to_le_bytes());
    header[4..].copy_from_slice(&length.to_le_bytes());
    header
}

/// What the file of a source is, for reads.
pub(super) fn read_file(sources: &Sources, source: usize) -> Arc<File> {
    sources.sources[source].file.file.clone()
}

fn choose(sources: &[Source], n_blocks: u32) -> Vec<Winner> {
    let mut blocks = vec![None; usize::try_from(n_blocks).expect("32 bits fit")];
    for (source, copy) in (0..).zip(sources) {
        for (index, record) in (0..).zip(copy.file.records.iter()) {
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
