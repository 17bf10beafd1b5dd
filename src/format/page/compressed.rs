//! Extents of compressed relation files (`_compress`).
//!
//! A file is a sequence of extents of 128 blocks. Blocks 0–126 are room for chunks, block 127
//! says which chunks make up each of up to 127 logical pages:
//!
//! | offset | type | field |
//! |---|---|---|
//! | 0 | u32 | logical pages of the extent |
//! | 4 | u32 | chunks allocated |
//! | 8 | u16 | chunk size c: 512, 1024, 2048 or 4096 |
//! | 10 | u8 | bits 0–6 algorithm (1 pglz, 2 zstd), bit 7 chunks are packed in order |
//! | 11 | u8 | unused |
//! | 12 | u16 | chunks in gaps |
//! | 14 | 127 bytes | map of chunks in use, kept by the server's vacuum |
//! | 144 | 127 addresses | one for each logical page |
//!
//! An address has 6 + 2 · 8192 / c bytes:
//!
//! | offset | type | field |
//! |---|---|---|
//! | 0 | u32 | sum of the 32-bit words of what follows, over the chunks allocated |
//! | 4 | u8 | chunks used; 0 is a page of zeros, 8192 / c a page that is not compressed |
//! | 5 | u8 | chunks allocated |
//! | 6 | u16 each | chunk numbers, counted from 1 at the beginning of the extent |
//!
//! [`assemble_page`] gives a logical page as gs_probackup stores it; [`build_extent`] is the way
//! back.
//!
//! Source: `src/include/storage/cfs/cfs.h`, `cfs_converter.h`; `AddrChecksum32` in
//! `src/gausskernel/storage/smgr/cfs/cfs_tools.cpp`; `CompressionFilePCDPageReader` in
//! gs_probackup's `data.cpp`; `TranferIntoCompFile` in
//! `src/lib/page_compression/PageCompression.cpp`.

use super::compressed_page::CompressedPage;
use super::header::{COMPRESSED_MARK, PageHeader};
use crate::types::{BlockNumber, PAGE_SIZE, RELSEG_SIZE};
use std::ops::Range;

/// Blocks of an extent, the one of the addresses included.
pub const EXTENT_BLOCKS: u32 = 128;

/// Bytes of an extent.
pub const EXTENT_BYTES: usize = EXTENT_BLOCKS as usize * PAGE_SIZE;

/// Logical pages of an extent at most.
pub const EXTENT_DATA_BLOCKS: u32 = EXTENT_BLOCKS - 1;

/// Logical pages of a segment file at most, fewer than other relations have.
pub const FILE_DATA_BLOCKS: u32 = RELSEG_SIZE / EXTENT_BLOCKS * EXTENT_DATA_BLOCKS;

/// Bytes of an extent that hold chunks.
const DATA_BYTES: usize = EXTENT_BYTES - PAGE_SIZE;

/// Where the addresses begin.
const ADDRESSES_AT: usize = 144;

/// Bytes of an address before its chunk numbers.
const ADDRESS_HEADER_BYTES: usize = 6;

/// The chunk sizes there are.
const CHUNK_SIZES: [u16; 4] = [512, 1024, 2048, 4096];

/// Chunks of a page at most.
const PAGE_CHUNKS_MAX: usize = PAGE_SIZE / CHUNK_SIZES[0] as usize;

/// Set in a rebuilt extent: its chunks are in the order of its pages.
const PACKED_IN_ORDER: u8 = 0x80;

/// What a hole in a file is aligned to.
const HOLE_ALIGNMENT: usize = 4096;

const ADDRESS_BYTES_MAX: usize = ADDRESS_HEADER_BYTES + 2 * PAGE_CHUNKS_MAX;
const _: () = assert!(ADDRESSES_AT + EXTENT_DATA_BLOCKS as usize * ADDRESS_BYTES_MAX <= PAGE_SIZE);
const _: () = assert!(DATA_BYTES / (CHUNK_SIZES[0] as usize) <= u16::MAX as usize);
const _: () = assert!(FILE_DATA_BLOCKS == 130_048);

/// The number by which the server counts the block that gs_probackup counts as `block`: the latter
/// takes every segment file for a full one of [`RELSEG_SIZE`] blocks.
#[must_use]
pub(super) fn server_block(block: BlockNumber) -> BlockNumber {
    let segno = block.0 / RELSEG_SIZE;
    BlockNumber(segno * FILE_DATA_BLOCKS + block.0 % RELSEG_SIZE)
}

/// Why an extent cannot be right.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CfsError {
    /// Chunks have a size that the server does not use.
    #[error("compressed extent has a chunk size of {chunk_size} bytes")]
    ChunkSize {
        /// Bytes of a chunk.
        chunk_size: u32,
    },
    /// The extent claims more pages than fit.
    #[error("compressed extent has {blocks} pages, at most {EXTENT_DATA_BLOCKS} are possible")]
    BlockCount {
        /// Logical pages.
        blocks: u32,
    },
    /// The address of a page was damaged, or being written while it was read.
    #[error("address of page {slot} has checksum {stored:#010X}, calculated {computed:#010X}")]
    AddressChecksum {
        /// Page in the extent.
        slot: u32,
        /// What the address says.
        stored: u32,
        /// What it should say.
        computed: u32,
    },
    /// A page claims more chunks than it was given, or than a page has.
    #[error("page {slot} uses {used} of {allocated} chunks, at most {possible} are possible")]
    ChunkCount {
        /// Page in the extent.
        slot: u32,
        /// Chunks it uses.
        used: u8,
        /// Chunks it was given.
        allocated: u8,
        /// Chunks of a page.
        possible: usize,
    },
    /// A page claims a chunk that the extent does not have.
    #[error("page {slot} uses chunk {chunk}, the extent has {chunks}")]
    ChunkNumber {
        /// Page in the extent.
        slot: u32,
        /// The chunk.
        chunk: u16,
        /// Chunks of the extent.
        chunks: usize,
    },
    /// The extent has no such page.
    #[error("compressed extent has {blocks} pages, none at {slot}")]
    NoSuchPage {
        /// Page in the extent.
        slot: u32,
        /// Logical pages.
        blocks: u32,
    },
    /// Bytes that are not whole pages, none, or more than an extent holds.
    #[error("{length} bytes are not the pages of one compressed extent")]
    PagesLength {
        /// Bytes given.
        length: usize,
    },
}

/// What block 127 of an extent says, checked: every chunk it names exists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExtentHeader {
    chunk_size: ChunkSize,
    algorithm: u8,
    blocks: u32,
    addresses: Vec<Address>,
}

/// The chunks of one page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Address {
    used: usize,
    chunks: [u16; PAGE_CHUNKS_MAX],
}

/// One of [`CHUNK_SIZES`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct ChunkSize(u16);

impl ChunkSize {
    fn new(chunk_size: u32) -> Result<ChunkSize, CfsError> {
        match u16::try_from(chunk_size) {
            Ok(known) if CHUNK_SIZES.contains(&known) => Ok(ChunkSize(known)),
            _ => Err(CfsError::ChunkSize { chunk_size }),
        }
    }

    fn bytes(self) -> usize {
        usize::from(self.0)
    }

    fn chunks_of_page(self) -> usize {
        PAGE_SIZE / self.bytes()
    }

    fn chunks_of_extent(self) -> usize {
        DATA_BYTES / self.bytes()
    }

    fn address_range(self, slot: usize) -> Range<usize> {
        let length = ADDRESS_HEADER_BYTES + 2 * self.chunks_of_page();
        let start = ADDRESSES_AT + slot * length;
        start..start + length
    }
}

impl ExtentHeader {
    /// Reads block 127 of an extent.
    ///
    /// # Errors
    ///
    /// Any [`CfsError`] but those about arguments. A running server may be writing the page: read
    /// it again before calling it corrupt.
    ///
    /// # Panics
    ///
    /// Where `page` is not [`PAGE_SIZE`] long.
    pub fn parse(page: &[u8]) -> Result<ExtentHeader, CfsError> {
        assert_eq!(page.len(), PAGE_SIZE, "a page");
        let blocks = u32_at(page, 0);
        let chunk_size = ChunkSize::new(u32::from(u16_at(page, 8)))?;
        if blocks > EXTENT_DATA_BLOCKS {
            return Err(CfsError::BlockCount { blocks });
        }
        let addresses = (0..blocks)
            .zip(0..)
            .map(|(slot, index)| {
                Address::parse(&page[chunk_size.address_range(index)], slot, chunk_size)
            })
            .collect::<Result<_, _>>()?;
        Ok(ExtentHeader {
            chunk_size,
            algorithm: page[10] & !PACKED_IN_ORDER,
            blocks,
            addresses,
        })
    }

    /// Logical pages of the extent, at most [`EXTENT_DATA_BLOCKS`].
    #[must_use]
    pub fn block_count(&self) -> u32 {
        self.blocks
    }

    /// Where in the extent the chunks of page `slot` are, in the order of the page's bytes; none
    /// where the extent has no such page.
    pub fn chunks(&self, slot: u32) -> impl Iterator<Item = Range<usize>> + '_ {
        let address = usize::try_from(slot)
            .ok()
            .and_then(|slot| self.addresses.get(slot));
        let chunks = address.map_or(&[][..], |address| &address.chunks[..address.used]);
        let length = self.chunk_size();
        chunks.iter().map(move |chunk| {
            let start = (usize::from(*chunk) - 1) * length;
            start..start + length
        })
    }

    /// Bytes of a chunk.
    #[must_use]
    pub fn chunk_size(&self) -> usize {
        self.chunk_size.bytes()
    }

    /// The server's number of the compression: 1 pglz, 2 zstd.
    #[must_use]
    pub fn algorithm(&self) -> u8 {
        self.algorithm
    }
}

impl Address {
    fn parse(bytes: &[u8], slot: u32, chunk_size: ChunkSize) -> Result<Address, CfsError> {
        let (used, allocated) = (bytes[4], bytes[5]);
        let possible = chunk_size.chunks_of_page();
        if used > allocated || usize::from(allocated) > possible {
            return Err(CfsError::ChunkCount {
                slot,
                used,
                allocated,
                possible,
            });
        }
        let (stored, computed) = (u32_at(bytes, 0), address_sum(bytes, usize::from(allocated)));
        if stored != computed {
            return Err(CfsError::AddressChecksum {
                slot,
                stored,
                computed,
            });
        }
        let used = usize::from(used);
        let mut chunks = [0; PAGE_CHUNKS_MAX];
        for (index, chunk) in chunks[..used].iter_mut().enumerate() {
            *chunk = u16_at(bytes, ADDRESS_HEADER_BYTES + 2 * index);
            if !(1..=chunk_size.chunks_of_extent()).contains(&usize::from(*chunk)) {
                let chunks = chunk_size.chunks_of_extent();
                return Err(CfsError::ChunkNumber {
                    slot,
                    chunk: *chunk,
                    chunks,
                });
            }
        }
        Ok(Address { used, chunks })
    }
}

/// Puts logical page `slot` of `extent` into `page` as gs_probackup stores it: its chunks one after
/// the other, zeros behind. A page without chunks is all zeros.
///
/// The page is not judged: that is [`super::verify_compressed_page`].
///
/// # Errors
///
/// [`CfsError::NoSuchPage`] where the extent has fewer pages.
///
/// # Panics
///
/// Where `extent` is not [`EXTENT_BYTES`] or `page` not [`PAGE_SIZE`] long.
pub fn assemble_page(
    extent: &[u8],
    header: &ExtentHeader,
    slot: u32,
    page: &mut [u8],
) -> Result<(), CfsError> {
    assert_eq!(extent.len(), EXTENT_BYTES, "an extent");
    assert_eq!(page.len(), PAGE_SIZE, "a page");
    let address = usize::try_from(slot)
        .ok()
        .and_then(|slot| header.addresses.get(slot));
    let Some(address) = address else {
        return Err(CfsError::NoSuchPage {
            slot,
            blocks: header.block_count(),
        });
    };
    let chunk_bytes = header.chunk_size();
    let (chunks, filling) = page.split_at_mut(address.used * chunk_bytes);
    for (target, chunk) in chunks
        .chunks_exact_mut(chunk_bytes)
        .zip(header.chunks(slot))
    {
        target.copy_from_slice(&extent[chunk]);
    }
    filling.fill(0);
    Ok(())
}

/// Builds one extent of a `_compress` file from its logical pages as a backup stores them, byte for
/// byte as the original's restore does, into `extent`. Returns the ranges that the original leaves
/// as holes in the file: all zeros.
///
/// 1. Each page in turn takes the next free chunks: as many as its compressed form needs, or all
///    of a page where it is zeros or not compressed. What is behind the compressed bytes is zeros.
/// 2. gs_probackup's mark in `pd_lower` is taken away.
/// 3. Allocated equals used; the algorithm carries the bit "in order"; the map of chunks in use and
///    the number of chunks in gaps stay 0.
/// 4. Everything from the last chunk, rounded up to 4096 bytes, to the addresses is a hole.
///
/// The original takes every page for a compressed one and overruns its buffer where it is not;
/// here a page whose compressed bytes have no right checksum is kept whole.
///
/// # Errors
///
/// [`CfsError::ChunkSize`] for a chunk size the server does not know, [`CfsError::PagesLength`]
/// where `pages` is not 1 to 127 whole pages.
///
/// # Panics
///
/// Where `extent` is not [`EXTENT_BYTES`] long.
pub fn build_extent(
    pages: &[u8],
    chunk_size: u32,
    algorithm: u8,
    extent: &mut [u8],
) -> Result<Vec<Range<usize>>, CfsError> {
    assert_eq!(extent.len(), EXTENT_BYTES, "an extent");
    let chunk_size = ChunkSize::new(chunk_size)?;
    let whole = !pages.is_empty() && pages.len().is_multiple_of(PAGE_SIZE);
    if !whole || pages.len() > DATA_BYTES {
        return Err(CfsError::PagesLength {
            length: pages.len(),
        });
    }
    extent.fill(0);
    let (data, header) = extent.split_at_mut(DATA_BYTES);
    let [_, mark] = COMPRESSED_MARK.to_le_bytes();
    let mut chunks_used = 0;
    for (slot, page) in pages.chunks_exact(PAGE_SIZE).enumerate() {
        let length = stored_length(page);
        let start = chunks_used * chunk_size.bytes();
        let target = &mut data[start..start + length];
        target.copy_from_slice(&page[..length]);
        target[13] &= !mark;
        let count = length.div_ceil(chunk_size.bytes());
        encode_address(
            &mut header[chunk_size.address_range(slot)],
            chunks_used + 1,
            count,
        );
        chunks_used += count;
    }
    let blocks = u32::try_from(pages.len() / PAGE_SIZE).expect("at most 127");
    let allocated = u32::try_from(chunks_used).expect("chunks of an extent");
    header[..4].copy_from_slice(&blocks.to_le_bytes());
    header[4..8].copy_from_slice(&allocated.to_le_bytes());
    header[8..10].copy_from_slice(&chunk_size.0.to_le_bytes());
    header[10] = algorithm | PACKED_IN_ORDER;
    let hole = (chunks_used * chunk_size.bytes()).next_multiple_of(HOLE_ALIGNMENT)..DATA_BYTES;
    Ok(if hole.is_empty() {
        Vec::new()
    } else {
        Vec::from([hole])
    })
}

/// Bytes of a page that an extent must keep.
fn stored_length(page: &[u8]) -> usize {
    // A page never used has no free space; the server keeps it whole.
    if PageHeader::parse(page).upper == 0 {
        return PAGE_SIZE;
    }
    match CompressedPage::parse(page) {
        Some(compressed) if compressed.is_intact() => compressed.length(),
        _ => PAGE_SIZE,
    }
}

fn encode_address(address: &mut [u8], first_chunk: usize, count: usize) {
    let count_byte = u8::try_from(count).expect("at most 16 chunks a page");
    address[4] = count_byte;
    address[5] = count_byte;
    let (numbers, _) = address[ADDRESS_HEADER_BYTES..].as_chunks_mut::<2>();
    for (number, chunk) in numbers[..count].iter_mut().zip(first_chunk..) {
        *number = u16::try_from(chunk)
            .expect("chunks of an extent")
            .to_le_bytes();
    }
    let sum = address_sum(address, count);
    address[..4].copy_from_slice(&sum.to_le_bytes());
}

/// Sum of the 32-bit words of an address behind the sum, over `allocated` chunks, zeros behind.
fn address_sum(address: &[u8], allocated: usize) -> u32 {
    let (words, rest) = address[4..ADDRESS_HEADER_BYTES + 2 * allocated].as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    words.iter().chain([&last]).fold(0, |sum: u32, word| {
        sum.wrapping_add(u32::from_le_bytes(*word))
    })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
