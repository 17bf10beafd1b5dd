//! The two FNV-style checksums that generated pages need.

use crate::types::BlockNumber;

const PRIME: u32 = 16_777_619;
const LANES: usize = 32;
const ROW_BYTES: usize = LANES * 4;

#[rustfmt::skip]
const OFFSETS: [u32; LANES] = [
    0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
    0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
    0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
    0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
];

/// The checksum of a page at `block`: its own field counts as zero.
pub(super) fn page_checksum(page: &[u8], block: BlockNumber) -> u16 {
    let mut lanes = OFFSETS;
    let mut first = [0_u8; ROW_BYTES];
    first.copy_from_slice(&page[..ROW_BYTES]);
    first[8..10].fill(0);
    mix_row(&mut lanes, &first);
    for row in page[ROW_BYTES..].chunks_exact(ROW_BYTES) {
        mix_row(&mut lanes, row);
    }
    let folded = fold(lanes) ^ block.0;
    u16::try_from(folded % 65_535 + 1).expect("1 to 65535")
}

/// The checksum of a compressed page's data: the last row is filled up with zeros, no block number
/// goes in.
pub(super) fn data_checksum(data: &[u8]) -> u32 {
    let mut lanes = OFFSETS;
    let rows = data.chunks_exact(ROW_BYTES);
    let rest = rows.remainder();
    for row in rows {
        mix_row(&mut lanes, row);
    }
    if !rest.is_empty() {
        let mut last = [0_u8; ROW_BYTES];
        last[..rest.len()].copy_from_slice(rest);
        mix_row(&mut lanes, &last);
    }
    fold(lanes)
}

fn mix_row(lanes: &mut [u32; LANES], row: &[u8]) {
    for (lane, bytes) in lanes.iter_mut().zip(row.chunks_exact(4)) {
        let value = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        *lane = mix(*lane, value);
    }
}

fn mix(lane: u32, value: u32) -> u32 {
    let mixed = lane ^ value;
    mixed.wrapping_mul(PRIME) ^ (mixed >> 17)
}

fn fold(lanes: [u32; LANES]) -> u32 {
    lanes
        .into_iter()
        .fold(0, |folded, lane| folded ^ mix(mix(lane, 0), 0))
}
