//! Pages as a server writes them: with a position in WAL and a right checksum, plain or in the
//! compressed form.

use super::random::Random;
use gs_probackup::codec::Compressor;
use gs_probackup::format::page::compressed::{EXTENT_BYTES, EXTENT_DATA_BLOCKS, build_extent};
use gs_probackup::format::page::{PAGE_SIZE, data_checksum, page_checksum};
use gs_probackup::types::{BlockNumber, CompressAlgorithm};

/// Bytes of a page's header in the layout that [`new_page`] has.
const HEADER_BYTES: usize = 40;
const ZSTD: u8 = 2;

/// A page that was just set up.
pub(super) fn new_page() -> Vec<u8> {
    let mut page = vec![0; PAGE_SIZE];
    page[12..14].copy_from_slice(&48_u16.to_le_bytes());
    page[14..16].copy_from_slice(&8192_u16.to_le_bytes());
    page[16..18].copy_from_slice(&8192_u16.to_le_bytes());
    page[18..20].copy_from_slice(&(8192_u16 | 6).to_le_bytes());
    page
}

pub(super) fn is_zero(page: &[u8]) -> bool {
    page.iter().all(|byte| *byte == 0)
}

/// Changes what is on a page.
pub(super) fn change(page: &mut [u8], random: &mut Random) {
    let count = 1 + usize::try_from(random.below(200)).unwrap();
    let at = 3000 + usize::try_from(random.below(4000)).unwrap();
    page[at..at + count].copy_from_slice(&random.bytes(count));
}

/// Gives a page the position of its last change and its checksum as that block.
pub(super) fn seal(page: &mut [u8], lsn: u64, block: u32) {
    let [high, low] = [lsn >> 32, lsn & 0xFFFF_FFFF].map(|half| u32::try_from(half).unwrap());
    page[..4].copy_from_slice(&high.to_le_bytes());
    page[4..8].copy_from_slice(&low.to_le_bytes());
    let checksum = page_checksum(page, BlockNumber(block));
    page[8..10].copy_from_slice(&checksum.to_le_bytes());
}

/// A `_compress` file of these pages. Those that shrink too little stay as they are, and one of
/// zeros does.
pub(super) fn pack(pages: &[Vec<u8>], chunk_bytes: u32) -> Vec<u8> {
    let mut zstd = Compressor::new(CompressAlgorithm::Zstd, 1);
    let extents = pages.chunks(EXTENT_DATA_BLOCKS as usize).map(|pages| {
        let mut extent = vec![0; EXTENT_BYTES];
        let packed: Vec<u8> = pages
            .iter()
            .flat_map(|page| compress(page, chunk_bytes, &mut zstd))
            .collect();
        build_extent(&packed, chunk_bytes, ZSTD, &mut extent).unwrap();
        extent
    });
    extents.collect::<Vec<_>>().concat()
}

fn compress(page: &[u8], chunk_bytes: u32, zstd: &mut Compressor) -> Vec<u8> {
    let mut data = vec![0; PAGE_SIZE];
    let length = zstd.compress(&page[HEADER_BYTES..], &mut data);
    let at = HEADER_BYTES + 8;
    let saves_a_chunk = |length: &usize| at + length + chunk_bytes as usize <= PAGE_SIZE;
    let Some(length) = length.filter(saves_a_chunk).filter(|_| !is_zero(page)) else {
        return page.to_vec();
    };
    let data = &data[..length];
    let mut packed = page[..HEADER_BYTES].to_vec();
    packed.extend(data_checksum(data).to_le_bytes());
    packed.extend(u16::try_from(length).unwrap().to_le_bytes());
    packed.extend((u16::from(ZSTD) << 2).to_le_bytes());
    packed.extend(data);
    packed.resize(PAGE_SIZE, 0);
    packed
}
