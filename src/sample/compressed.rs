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
//! | 10 | 1 | algorithm: 1 pglz, 2 zstd; bit 7: chunks are in order |
//! | 144 | 127 × | addresses: u32 checksum, u8 chunks, u8 allocated, u16 of each chunk, from 1 |
//!
//! A compressed page is its header as it was, then u32 checksum of the data, u16 bytes of data, u16
//! algorithm in bits 2 to 5, then the data. A page that saves no chunk is stored as it is.
//!
//! Source: `src/include/storage/cfs/cfs.h`, `cfs_tools.cpp`.

use super::page::{self, HEAP_HEADER_BYTES, put_u16, put_u32};
use super::random::Random;
use super::rows::{self, RowShape};
use super::text::TextPool;
use crate::codec::Compressor;
use crate::format::page::compressed::build_extent;
use crate::format::page::data_checksum;
use crate::types::{BlockNumber, CompressAlgorithm, PAGE_SIZE};
use std::ops::Range;

/// Blocks of one extent in the file.
pub(super) const EXTENT_BLOCKS: u32 = 128;
/// Pages of one extent; the block left over holds their addresses.
pub(super) const EXTENT_PAGES: u32 = EXTENT_BLOCKS - 1;

const DATA_HEADER_BYTES: usize = 8;
const DATA_OFFSET: usize = HEAP_HEADER_BYTES + DATA_HEADER_BYTES;
const PGLZ_HEADER_BYTES: usize = 8;
const SHAPE: RowShape = RowShape {
    text_bytes_min: 60,
    text_bytes_span: 100,
    free_percent: 1,
};

/// How a relation is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Compression {
    pub(super) algorithm: ServerAlgorithm,
    /// 512, 1024, 2048 or 4096.
    pub(super) chunk_bytes: u32,
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

/// What a thread needs to make extents.
#[derive(Debug)]
pub(super) struct ExtentPacker {
    pglz: Compressor,
    zstd: Compressor,
    pages: Vec<u8>,
    data: Vec<u8>,
}

impl ExtentPacker {
    pub(super) fn new() -> ExtentPacker {
        ExtentPacker {
            pglz: Compressor::new(CompressAlgorithm::Pglz, 1),
            zstd: Compressor::new(CompressAlgorithm::Zstd, 1),
            pages: Vec::new(),
            data: vec![0; PAGE_SIZE],
        }
    }

    /// Makes an extent of `count` pages, the first of which is `first` of its relation; returns
    /// its holes, which are to stay unwritten.
    pub(super) fn fill_extent(
        &mut self,
        extent: &mut [u8],
        (first, count): (BlockNumber, u32),
        compression: Compression,
        random: &mut Random,
        texts: &TextPool,
    ) -> Vec<Range<usize>> {
        let mut pages = std::mem::take(&mut self.pages);
        pages.clear();
        pages.resize(count as usize * PAGE_SIZE, 0);
        for (page, block) in pages.chunks_exact_mut(PAGE_SIZE).zip(first.0..) {
            rows::fill_heap(page, BlockNumber(block), SHAPE, random, texts);
        }
        page::seal(&mut pages, first, &mut Vec::new());
        for page in pages.chunks_exact_mut(PAGE_SIZE) {
            self.compress(page, compression);
        }
        let algorithm = compression.algorithm.number();
        let holes = build_extent(&pages, compression.chunk_bytes, algorithm, extent);
        self.pages = pages;
        holes.expect("the plan has 1 to 127 pages an extent and the server's chunk sizes")
    }

    /// Brings a page into its compressed form, filled up with zeros, if that saves a chunk.
    fn compress(&mut self, page: &mut [u8], compression: Compression) {
        let body = &mut page[HEAP_HEADER_BYTES..];
        let data_bytes = match compression.algorithm {
            ServerAlgorithm::Zstd => self.zstd.compress(body, &mut self.data),
            ServerAlgorithm::Pglz => self.pglz.compress(body, &mut self.data).map(|bytes| {
                self.data.copy_within(..bytes, PGLZ_HEADER_BYTES);
                let total = u32::from(page::offset16(bytes + PGLZ_HEADER_BYTES));
                put_u32(&mut self.data, 0, total << 2 | 2);
                put_u32(&mut self.data, 4, u32::from(page::offset16(body.len())));
                bytes + PGLZ_HEADER_BYTES
            }),
        };
        let chunk_bytes = compression.chunk_bytes as usize;
        let saves_a_chunk = |bytes: &usize| DATA_OFFSET + bytes + chunk_bytes <= PAGE_SIZE;
        let Some(data_bytes) = data_bytes.filter(saves_a_chunk) else {
            return;
        };
        let data = &self.data[..data_bytes];
        body.fill(0);
        put_u32(body, 0, data_checksum(data));
        put_u16(body, 4, page::offset16(data_bytes));
        put_u16(body, 6, u16::from(compression.algorithm.number()) << 2);
        body[DATA_HEADER_BYTES..][..data_bytes].copy_from_slice(data);
    }
}
