//! Taking an extent apart never panics or leaves it; pages survive being packed into one and taken
//! out again.

#![no_main]

use gs_probackup::format::page::compressed::{
    EXTENT_BYTES, EXTENT_DATA_BLOCKS, ExtentHeader, assemble_page, build_extent,
};
use gs_probackup::format::page::{PAGE_SIZE, PageVerdict, verify_compressed_page};
use gs_probackup::types::BlockNumber;
use libfuzzer_sys::fuzz_target;

const PCA: usize = EXTENT_BYTES - PAGE_SIZE;

/// To compare with: a loop over single bytes is slow once instrumented.
static ZEROS: [u8; EXTENT_BYTES] = [0; EXTENT_BYTES];

fuzz_target!(|input: (u32, u8, &[u8])| {
    let (chunk_size, algorithm, data) = input;
    take_apart(data);
    pack(chunk_size, algorithm, data);
});

/// `data` as chunk addresses, with their sums repaired so that the rest is reached.
fn take_apart(data: &[u8]) {
    let mut extent = vec![0xA5; EXTENT_BYTES];
    let taken = data.len().min(PAGE_SIZE);
    extent[PCA..][..taken].copy_from_slice(&data[..taken]);
    read(&extent);
    repair_sums(&mut extent[PCA..]);
    read(&extent);
}

fn read(extent: &[u8]) {
    let Ok(header) = ExtentHeader::parse(&extent[PCA..]) else {
        return;
    };
    assert!(header.block_count() <= EXTENT_DATA_BLOCKS);
    let mut page = vec![0; PAGE_SIZE];
    for slot in 0..header.block_count() {
        assemble_page(extent, &header, slot, &mut page).expect("the extent has this page");
        let _ = verify_compressed_page(&page, BlockNumber(slot));
    }
    assert!(assemble_page(extent, &header, header.block_count(), &mut page).is_err());
}

fn repair_sums(pca: &mut [u8]) {
    let chunk_size = usize::from(u16::from_le_bytes([pca[8], pca[9]]));
    if !(512..=4096).contains(&chunk_size) {
        return;
    }
    let length = 6 + 2 * PAGE_SIZE / chunk_size;
    for address in pca[144..].chunks_exact_mut(length).take(127) {
        let end = (6 + 2 * usize::from(address[5])).min(length);
        let sum = address[4..end].chunks(4).fold(0_u32, |sum, word| {
            let mut bytes = [0; 4];
            bytes[..word.len()].copy_from_slice(word);
            sum.wrapping_add(u32::from_le_bytes(bytes))
        });
        address[..4].copy_from_slice(&sum.to_le_bytes());
    }
}

/// `data` as logical pages.
fn pack(chunk_size: u32, algorithm: u8, data: &[u8]) {
    let chunk_size = match chunk_size % 5 {
        4 => chunk_size,
        power => 512 << power,
    };
    let mut pages = data.to_vec();
    pages.resize(data.len().next_multiple_of(PAGE_SIZE), 0);
    let mut extent = vec![0xA5; EXTENT_BYTES];
    let Ok(holes) = build_extent(&pages, chunk_size, algorithm, &mut extent) else {
        return;
    };
    for hole in holes {
        assert!(extent[hole.clone()] == ZEROS[hole]);
    }
    let header = ExtentHeader::parse(&extent[PCA..]).expect("an extent of ours");
    assert_eq!(header.algorithm(), algorithm & 0x7F);
    let mut page = vec![0; PAGE_SIZE];
    for (stored, slot) in pages.chunks_exact(PAGE_SIZE).zip(0..) {
        assemble_page(&extent, &header, slot, &mut page).expect("a page of ours");
        let mut marked = page.clone();
        marked[13] |= 0x80;
        let mut expected = stored.to_vec();
        expected[13] |= 0x80;
        // Behind compressed bytes nothing is kept.
        let kept = marked
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1);
        assert_eq!(marked[..kept], expected[..kept]);
        let bad = |page: &[u8]| {
            matches!(
                verify_compressed_page(page, BlockNumber(slot)),
                PageVerdict::Bad(_)
            )
        };
        if !bad(stored) {
            assert!(!bad(&page));
        }
    }
}
