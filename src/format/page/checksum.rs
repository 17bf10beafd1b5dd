//! The checksum of a page, and the one of compressed data, which is the same sum without a block
//! number.
//!
//! 32 lanes of 32 bits run down the page, 128 bytes a row: `t = lane ^ word; lane = t * 16777619 ^
//! t >> 17`. Two rows of zeros follow, the lanes are folded by exclusive or, and for a page the
//! block number is mixed in before the sum is reduced to 1..=65535.
//!
//! A lane cannot start a row before it has finished the one above, and a 32-bit vector
//! multiplication takes ten cycles: one page leaves most of a core idle. [`page_checksums`]
//! therefore runs several pages down side by side. Whether the machine has AVX2 is found out at
//! run time; both paths give the same sums. AVX-512 was tried: a fifth more on data in cache,
//! which does not pay for a third path.
//!
//! Source: `src/include/storage/checksum_impl.h` and `pg_checksum_page` of gs_probackup's
//! `data.cpp`, which alone masks the top bit of `pd_lower`.

use crate::types::{BlockNumber, PAGE_SIZE};
use multiversion::multiversion;

/// Bytes of a row: one word for each lane.
const ROW_BYTES: usize = LANES * 4;

/// Rows of a page.
const PAGE_ROWS: usize = PAGE_SIZE / ROW_BYTES;

/// Lanes of the sum.
const LANES: usize = 32;

/// Pages that run side by side.
const PAGES_ABREAST: usize = 4;

/// What a lane is multiplied by.
const PRIME: u32 = 16_777_619;

/// What the lanes start with.
const SEEDS: Row = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// Lanes, or the words of one row.
type Row = [u32; LANES];

/// A page as rows of bytes.
type PageRows = [[u8; ROW_BYTES]; PAGE_ROWS];

/// The checksum of `page` at `block`, as `pd_checksum` should hold it: never 0.
///
/// `pd_checksum` itself counts as 0, and so does the top bit of `pd_lower`, by which gs_probackup
/// marks pages of compressed relations.
///
/// # Panics
///
/// Where `page` is not [`PAGE_SIZE`] long.
#[must_use]
pub fn page_checksum(page: &[u8], block: BlockNumber) -> u16 {
    let [sum] = page_sums_1([rows(page)]);
    reduce(sum, block)
}

/// The checksums of the adjacent pages `pages`, the first of them at `first`, into `out`; the same
/// as [`page_checksum`] of each, several times as fast.
///
/// # Panics
///
/// Where `pages` is not as many pages as `out` has room for.
pub fn page_checksums(pages: &[u8], first: BlockNumber, out: &mut [u16]) {
    assert_eq!(pages.len(), out.len() * PAGE_SIZE, "one checksum a page");
    let (groups, rest) = pages.as_chunks::<{ PAGES_ABREAST * PAGE_SIZE }>();
    let (group_out, rest_out) = out.as_chunks_mut::<PAGES_ABREAST>();
    let mut block = first.0;
    let mut next_block = || {
        let this = BlockNumber(block);
        block = block.wrapping_add(1);
        this
    };
    for (group, out) in groups.iter().zip(group_out) {
        let page = |index: usize| rows(&group[index * PAGE_SIZE..][..PAGE_SIZE]);
        let sums = page_sums_4(std::array::from_fn(page));
        for (sum, out) in sums.into_iter().zip(out) {
            *out = reduce(sum, next_block());
        }
    }
    for (page, out) in rest.chunks_exact(PAGE_SIZE).zip(rest_out) {
        *out = page_checksum(page, next_block());
    }
}

/// The full 32-bit sum of `data`, its last row filled up with zeros: what a compressed page holds
/// of its compressed bytes.
#[must_use]
pub fn data_checksum(data: &[u8]) -> u32 {
    data_sum(data)
}

fn rows(page: &[u8]) -> &PageRows {
    let (rows, rest) = page.as_chunks::<ROW_BYTES>();
    assert!(rest.is_empty(), "a page has {PAGE_SIZE} bytes");
    rows.try_into().expect("a page has 8192 bytes")
}

fn reduce(sum: u32, block: BlockNumber) -> u16 {
    let reduced = (sum ^ block.0) % u32::from(u16::MAX) + 1;
    u16::try_from(reduced).expect("at most 65535")
}

#[multiversion(targets("x86_64+avx2"))]
fn page_sums_1(pages: [&PageRows; 1]) -> [u32; 1] {
    page_sums(pages)
}

#[multiversion(targets("x86_64+avx2"))]
fn page_sums_4(pages: [&PageRows; PAGES_ABREAST]) -> [u32; PAGES_ABREAST] {
    page_sums(pages)
}

#[multiversion(targets("x86_64+avx2"))]
fn data_sum(data: &[u8]) -> u32 {
    let (rows, rest) = data.as_chunks::<ROW_BYTES>();
    let mut lanes = SEEDS;
    for row in rows {
        mix(&mut lanes, &words(row));
    }
    // Of no data at all the server still takes one row.
    if !rest.is_empty() || rows.is_empty() {
        let mut last = [0; ROW_BYTES];
        last[..rest.len()].copy_from_slice(rest);
        mix(&mut lanes, &words(&last));
    }
    fold(lanes)
}

#[inline(always)]
fn page_sums<const N: usize>(pages: [&PageRows; N]) -> [u32; N] {
    let mut lanes = [SEEDS; N];
    for (lanes, page) in lanes.iter_mut().zip(pages) {
        let mut row = words(&page[0]);
        row[2] &= 0xFFFF_0000;
        row[3] &= 0xFFFF_7FFF;
        mix(lanes, &row);
    }
    for at in 1..PAGE_ROWS {
        for (lanes, page) in lanes.iter_mut().zip(pages) {
            mix(lanes, &words(&page[at]));
        }
    }
    lanes.map(fold)
}

#[inline(always)]
fn words(row: &[u8; ROW_BYTES]) -> Row {
    let (words, _) = row.as_chunks::<4>();
    std::array::from_fn(|lane| u32::from_le_bytes(words[lane]))
}

#[inline(always)]
fn mix(lanes: &mut Row, words: &Row) {
    for (lane, word) in lanes.iter_mut().zip(words) {
        let mixed = *lane ^ word;
        *lane = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    }
}

#[inline(always)]
fn fold(mut lanes: Row) -> u32 {
    mix(&mut lanes, &[0; LANES]);
    mix(&mut lanes, &[0; LANES]);
    lanes.into_iter().fold(0, |sum, lane| sum ^ lane)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages of noise.
    fn noise(count: usize) -> Vec<u8> {
        let mut state = 42_u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state.to_le_bytes()[7]
        };
        (0..count * PAGE_SIZE).map(|_| next()).collect()
    }

    /// The sum as its definition has it: one lane after the other, no vectors.
    fn plain_sum(data: &[u8]) -> u32 {
        let rows = data.len().div_ceil(ROW_BYTES).max(1);
        let mut padded = data.to_vec();
        padded.resize(rows * ROW_BYTES, 0);
        let mut sum = 0;
        for (lane, seed) in SEEDS.into_iter().enumerate() {
            let column = (0..rows).map(|row| {
                let at = row * ROW_BYTES + lane * 4;
                u32::from_le_bytes(padded[at..at + 4].try_into().unwrap())
            });
            sum ^= column.chain([0, 0]).fold(seed, |state, word| {
                let mixed = state ^ word;
                mixed.wrapping_mul(PRIME) ^ (mixed >> 17)
            });
        }
        sum
    }

    fn plain_checksum(page: &[u8], block: u32) -> u16 {
        let mut page = page.to_vec();
        page[8..10].fill(0);
        page[13] &= 0x7F;
        u16::try_from((plain_sum(&page) ^ block) % 65_535 + 1).unwrap()
    }

    #[test]
    fn every_path_gives_the_sum_of_the_definition() {
        let pages = noise(11);
        let expected: Vec<u16> = (u32::MAX - 3..=u32::MAX)
            .chain(0..)
            .zip(pages.chunks_exact(PAGE_SIZE))
            .map(|(block, page)| plain_checksum(page, block))
            .collect();
        for count in 0..=11 {
            let mut sums = vec![0; count];
            page_checksums(
                &pages[..count * PAGE_SIZE],
                BlockNumber(u32::MAX - 3),
                &mut sums,
            );
            assert_eq!(sums, expected[..count]);
        }
        for (index, page) in pages.chunks_exact(PAGE_SIZE).enumerate() {
            let block = (u32::MAX - 3).wrapping_add(u32::try_from(index).unwrap());
            assert_eq!(page_checksum(page, BlockNumber(block)), expected[index]);
        }
        let four: [&PageRows; PAGES_ABREAST] =
            std::array::from_fn(|index| rows(&pages[index * PAGE_SIZE..][..PAGE_SIZE]));
        // Inlined here it is compiled for the machine that every build must run on.
        let baseline = page_sums(four);
        assert_eq!(page_sums_4(four), baseline);
        assert_eq!(page_sums([four[2]]), [baseline[2]]);
    }

    #[test]
    fn checksum_field_and_the_mark_of_compressed_pages_do_not_count() {
        let mut page = noise(1);
        let checksum = page_checksum(&page, BlockNumber(7));
        page[8] ^= 0xFF;
        page[9] ^= 0xFF;
        page[13] ^= 0x80;
        assert_eq!(page_checksum(&page, BlockNumber(7)), checksum);
        for at in (0..8).chain(10..PAGE_SIZE) {
            page[at] ^= 0x40;
            assert_ne!(page_checksum(&page, BlockNumber(7)), checksum, "byte {at}");
            page[at] ^= 0x40;
        }
        assert_ne!(page_checksum(&page, BlockNumber(8)), checksum);
    }

    #[test]
    fn sum_of_data_fills_the_last_row_with_zeros() {
        let data = noise(1);
        for length in (0..400).chain([PAGE_SIZE - 1, PAGE_SIZE]) {
            assert_eq!(
                data_checksum(&data[..length]),
                plain_sum(&data[..length]),
                "{length}"
            );
        }
    }

    #[test]
    #[should_panic(expected = "8192 bytes")]
    fn part_of_a_page_has_no_checksum() {
        let _ = page_checksum(&[0; 8064], BlockNumber(0));
    }
}
