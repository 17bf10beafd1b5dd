//! Column-store files `<rel>_C<column>.<n>`: compression units one after the other, each on its own
//! 8 KiB boundary.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | CRC-32C of the unit from offset 4 to its padded end |
//! | 4 | 4 | magic: the transaction that loaded the unit |
//! | 8 | 2 | mode: 0x1000 the checksum is a CRC-32C |
//! | 10 | 4 | bytes of the values |
//! | 14 | 4 | bytes of the values as stored |
//! | 18 | | values |
//!
//! Source: `src/include/storage/cu.h`.

use super::page::{XID_BASE, low_half, put_u16, put_u32};
use super::random::Random;
use super::text::TextPool;

/// What a column holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ColumnKind {
    /// Ascending integers.
    Integer,
    /// Dates of a few years.
    Date,
    /// Short texts.
    Text,
}

/// Bytes of one generated unit with its padding.
pub(super) const UNIT_BYTES: usize = 32 * 1024;

const HEADER_BYTES: usize = 18;
const MODE_CRC32C: u16 = 0x1000;

/// Fills a zeroed range of units; `first` is the number of the first.
pub(super) fn fill_units(
    units: &mut [u8],
    first: u32,
    kind: ColumnKind,
    random: &mut Random,
    texts: &TextPool,
) {
    for (unit, number) in units.chunks_exact_mut(UNIT_BYTES).zip(first..) {
        let values = &mut unit[HEADER_BYTES..];
        let used = match kind {
            ColumnKind::Integer => fill_integers(values, number),
            ColumnKind::Date => fill_dates(values, random),
            ColumnKind::Text => fill_texts(values, random, texts),
        };
        let used = u32::try_from(used).expect("less than a unit");
        put_u32(unit, 4, low_half(XID_BASE));
        put_u16(unit, 8, MODE_CRC32C);
        put_u32(unit, 10, used);
        put_u32(unit, 14, used);
        let crc = crc32c::crc32c(&unit[4..]);
        put_u32(unit, 0, crc);
    }
}

const INTEGERS_PER_UNIT: u32 = 8000;

fn fill_integers(values: &mut [u8], number: u32) -> usize {
    let first = number.wrapping_mul(INTEGERS_PER_UNIT);
    let mut used = 0;
    for (value, offset) in values.chunks_exact_mut(4).zip(0..INTEGERS_PER_UNIT) {
        value.copy_from_slice(&first.wrapping_add(offset).to_le_bytes());
        used += 4;
    }
    used
}

fn fill_dates(values: &mut [u8], random: &mut Random) -> usize {
    const DAYS_TO_2020: u32 = 7305;
    let mut used = 0;
    for value in values.chunks_exact_mut(4).take(8000) {
        value.copy_from_slice(&(DAYS_TO_2020 + random.below(2000)).to_le_bytes());
        used += 4;
    }
    used
}

fn fill_texts(values: &mut [u8], random: &mut Random, texts: &TextPool) -> usize {
    let mut used = 0;
    loop {
        let length = 8 + random.index(60);
        let text = texts.cut(random, length);
        let end = used + 1 + text.len();
        if end > values.len() {
            return used;
        }
        values[used] = u8::try_from((text.len() + 1) << 1 | 1).expect("a short value");
        values[used + 1..end].copy_from_slice(text);
        used = end;
    }
}
