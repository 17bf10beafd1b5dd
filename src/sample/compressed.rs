//! Compressed relations: files `<rel>_compress` of extents of 1 MiB, each 127 pages and one page of
//! addresses.
//!
//! Address page, the last block of its extent:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | pages in the extent |
//! | 4 | 4 | chunks in use |
//! | 8 | 2 | bytes of a chunk |
//! | 10 | 1 | algorithm: 1 pglz, 2 zstd |
//! | 144 | 127 × | addresses: u32 checksum, u8 chunks, u8 allocated, u16 of each chunk, from 1 |
//!
//! A compressed page is its header as it was, then u32 checksum of the data, u16 bytes of data, u16
//! algorithm in bits 2 to 5, then the data. A page that saves no chunk is stored as it is.
//!
//! Source: `src/include/storage/cfs/cfs.h`, `cfs_tools.cpp`.

use super::checksum::data_checksum;
use super::page::{HEAP_HEADER_BYTES, put_u16, put_u32};
use super::random::Random;
use super::rows::{self, RowShape};
use super::text::TextPool;
use crate::codec::Compressor;
use crate::types::{BlockNumber, CompressAlgorithm, PAGE_SIZE};

/// Blocks of one extent in the file.
pub(super) const EXTENT_BLOCKS: u32 = 128;
/// Pages of one extent; the block left over holds their addresses.
pub(super) const EXTENT_PAGES: u32 = EXTENT_BLOCKS - 1;

const ADDRESSES_OFFSET: usize = 144;
const DATA_HEADER_BYTES: usize = 8;
const DATA_OFFSET: usize = HEAP_HEADER_BYTES + DATA_HEADER_BYTES;
const PGLZ_HEADER_BYTES: usize = 8;

/// How a relation is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Compression {
    pub(super) algorithm: ServerAlgorithm,
    /// 512, 1024, 2048 or 4096.
    pub(super) chunk_bytes: usize,
}

/// The algorithms that the server numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ServerAlgorithm {
    Pglz,
    Zstd,
}

impl ServerAlgorithm {
    fn number(self) -> u8 {
        match self {
            ServerAlgorithm::Pglz => 1,
            ServerAlgorithm::Zstd => 2,
        }
    }
}

/// What a thread needs to compress pages.
#[derive(Debug)]
pub(super) struct ExtentPacker {
    pglz: Compressor,
    zstd: Compressor,
    page: Vec<u8>,
    data: Vec<u8>,
}

impl ExtentPacker {
    pub(super) fn new() -> ExtentPacker {
        ExtentPacker {
            pglz: Compressor::new(CompressAlgorithm::Pglz, 1),
            zstd: Compressor::new(CompressAlgorithm::Zstd, 1),
            page: vec![0; PAGE_SIZE],
            data: vec![0; PAGE_SIZE],
        }
    }

    /// Fills a zeroed extent with `pages` pages, the first of which is `first` of its relation;
    /// returns the bytes of its chunks in use.
    pub(super) fn fill_extent(
        &mut self,
        extent: &mut [u8],
        first: BlockNumber,
        pages: u32,
        compression: Compression,
        random: &mut Random,
        texts: &TextPool,
    ) -> usize {
        let shape = RowShape {
            text_bytes_min: 60,
            text_bytes_span: 100,
            free_percent: 1,
        };
        let chunk_bytes = compression.chunk_bytes;
        let chunks_per_page = PAGE_SIZE / chunk_bytes;
        let address_bytes = 6 + 2 * chunks_per_page;
        let (chunks, addresses) = extent.split_at_mut(PAGE_SIZE * (EXTENT_BLOCKS as usize - 1));
        let mut used = 0;
        for page in 0..pages {
            self.page.fill(0);
            rows::fill_heap(
                &mut self.page,
                BlockNumber(first.0 + page),
                shape,
                random,
                texts,
            );
            let at = used * chunk_bytes;
            let count = self.put_page(&mut chunks[at..at + PAGE_SIZE], compression);
            let slot = usize::try_from(page).expect("usize holds 32 bits");
            let address =
                &mut addresses[ADDRESSES_OFFSET + slot * address_bytes..][..address_bytes];
            put_address(address, used + 1, count);
            used += count;
        }
        put_u32(addresses, 0, pages);
        put_u32(
            addresses,
            4,
            u32::try_from(used).expect("an extent has at most 2032 chunks"),
        );
        put_u16(
            addresses,
            8,
            u16::try_from(chunk_bytes).expect("chunks are smaller than pages"),
        );
        addresses[10] = compression.algorithm.number();
        used * chunk_bytes
    }

    /// Stores the page at the head of `out`, the rest of which stays zero; returns the chunks it
    /// takes.
    fn put_page(&mut self, out: &mut [u8], compression: Compression) -> usize {
        let chunks_per_page = PAGE_SIZE / compression.chunk_bytes;
        let body = &self.page[HEAP_HEADER_BYTES..];
        let data_bytes = match compression.algorithm {
            ServerAlgorithm::Zstd => self.zstd.compress(body, &mut self.data),
            ServerAlgorithm::Pglz => self.pglz.compress(body, &mut self.data).map(|bytes| {
                self.data.copy_within(..bytes, PGLZ_HEADER_BYTES);
                let total = u32::try_from(bytes + PGLZ_HEADER_BYTES).expect("less than a page");
                put_u32(&mut self.data, 0, total << 2 | 2);
                put_u32(
                    &mut self.data,
                    4,
                    u32::try_from(body.len()).expect("less than a page"),
                );
                bytes + PGLZ_HEADER_BYTES
            }),
        };
        let chunks =
            data_bytes.map(|bytes| (DATA_OFFSET + bytes).div_ceil(compression.chunk_bytes));
        match (data_bytes, chunks) {
            (Some(data_bytes), Some(chunks)) if chunks < chunks_per_page => {
                let data = &self.data[..data_bytes];
                out[..HEAP_HEADER_BYTES].copy_from_slice(&self.page[..HEAP_HEADER_BYTES]);
                put_u32(out, HEAP_HEADER_BYTES, data_checksum(data));
                let length = u16::try_from(data_bytes).expect("less than a page");
                put_u16(out, HEAP_HEADER_BYTES + 4, length);
                put_u16(
                    out,
                    HEAP_HEADER_BYTES + 6,
                    u16::from(compression.algorithm.number()) << 2,
                );
                out[DATA_OFFSET..DATA_OFFSET + data_bytes].copy_from_slice(data);
                chunks
            }
            _ => {
                out.copy_from_slice(&self.page);
                chunks_per_page
            }
        }
    }
}

/// Writes the address of a page in `count` chunks from `first` on; its checksum is the sum of its
/// other words.
fn put_address(address: &mut [u8], first: usize, count: usize) {
    let count8 = u8::try_from(count).expect("a page has at most 16 chunks");
    address[4] = count8;
    address[5] = count8;
    for chunk in 0..count {
        let number = u16::try_from(first + chunk).expect("an extent has at most 2032 chunks");
        put_u16(address, 6 + chunk * 2, number);
    }
    let mut sum = 0_u32;
    for word in address[4..].chunks(4) {
        let mut padded = [0; 4];
        padded[..word.len()].copy_from_slice(word);
        sum = sum.wrapping_add(u32::from_le_bytes(padded));
    }
    put_u32(address, 0, sum);
}
