//! Page records as a backup file holds them: a header and a payload for each page, strung together.

use crate::codec::Compressor;
use crate::format::catalog::{CompressedAttributes, PageHeaderRecord};
use crate::format::page::PageVerdict;
use crate::io::Buffer;
use crate::limits::{DIRECT_IO_ALIGNMENT, EXTENT_BYTES_MAX, PAGE_RECORD_HEADER_BYTES};
use crate::types::{FileBlock, Lsn, PAGE_SIZE};
use std::ops::Range;

/// What the CPU stage made of an extent.
#[derive(Debug)]
pub struct BackupDone {
    pub(super) crc: u32,
    pub(super) range: Range<usize>,
    pub(super) records: Vec<PageHeaderRecord>,
    /// Where the extent's blocks end, stored or not: the block behind the last one.
    pub(super) end: u32,
    pub(super) short: bool,
    pub(super) compressed: Option<CompressedAttributes>,
    /// Pages that are not right and were stored as they are.
    pub(super) kept: KeptCount,
}

/// How many pages are not right and were stored as they are.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct KeptCount {
    /// That nobody needs.
    pub unused: u32,
    /// Of which cannot be told whether they were ever written.
    pub untold: u32,
    /// The first of the latter.
    pub first_untold: Option<FileBlock>,
}

impl KeptCount {
    /// Counts those of `other` as well, which lie behind.
    pub(super) fn add(&mut self, other: KeptCount) {
        self.unused += other.unused;
        self.untold += other.untold;
        self.first_untold = self.first_untold.or(other.first_untold);
    }
}

/// Strings page records together in an output buffer.
pub(super) struct Encoder<'a> {
    output: &'a mut Buffer,
    start: usize,
    end: usize,
    records: Vec<PageHeaderRecord>,
}

impl<'a> Encoder<'a> {
    /// Starts behind room for a carry of up to one alignment, `lead` bytes past an aligned place.
    pub(super) fn new(output: &'a mut Buffer, lead: usize) -> Encoder<'a> {
        let start = DIRECT_IO_ALIGNMENT + lead;
        let records = Vec::with_capacity(EXTENT_BYTES_MAX / PAGE_SIZE);
        Encoder {
            output,
            start,
            end: start,
            records,
        }
    }

    pub(super) fn push(
        &mut self,
        block: u32,
        page: &[u8],
        verdict: &PageVerdict,
        compressor: &mut Compressor,
    ) {
        let at = self.end;
        let record = &mut self.output.whole_mut()[at..];
        let (header, payload) = record.split_at_mut(PAGE_RECORD_HEADER_BYTES);
        let length = compressor.compress(page, payload).unwrap_or_else(|| {
            payload[..PAGE_SIZE].copy_from_slice(page);
            PAGE_SIZE
        });
        header[..4].copy_from_slice(&block.to_le_bytes());
        header[4..].copy_from_slice(&number(length).to_le_bytes());
        self.end += PAGE_RECORD_HEADER_BYTES + length;
        let (lsn, checksum) = match verdict {
            PageVerdict::Valid { lsn, checksum } => (*lsn, *checksum),
            _ => (Lsn::INVALID, 0),
        };
        self.records.push(PageHeaderRecord {
            lsn,
            block,
            position: number(at - self.start),
            checksum,
        });
    }

    pub(super) fn finish(
        self,
        end: u32,
        short: bool,
        compressed: Option<CompressedAttributes>,
    ) -> BackupDone {
        let range = self.start..self.end;
        self.output.set_range(range.clone());
        BackupDone {
            crc: crc32c::crc32c(self.output.data()),
            range,
            end,
            records: self.records,
            short,
            compressed,
            kept: KeptCount::default(),
        }
    }
}

fn number(value: usize) -> u32 {
    u32::try_from(value).expect("bounded by an extent")
}
