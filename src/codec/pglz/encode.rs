//! The encoder: a greedy parse over two tables that each remember one position.
//!
//! 1. At each position look up the last place with the same three bytes and the last with the same
//!    five.
//! 2. Take the one that agrees longer, the five-byte one on a tie; less than three bytes is no
//!    match.
//! 3. A match is written as far as it reaches, up to the format's limit; then only the last
//!    positions inside it enter the tables.
//!
//! The original keeps chains of all positions by four bytes, looks through them until a match is
//! "good" and enters every position. It never sees matches of three bytes, which save 10 of 27
//! bits: finding those with one probe outweighs everything its chains find. Chains, lazy parsing
//! and entering every position were measured and gain 1 to 4 % of size for two to five times the
//! time.

use super::{
    GROUP_ITEMS, LONG_MATCH_NIBBLE, MATCH_BYTES_MAX, MATCH_BYTES_MIN, SHORT_MATCH_BYTES_MAX,
};
use crate::types::PAGE_SIZE;

/// Where the page begins in the window: an empty table entry, position zero, is then out of every
/// match's reach.
const ORIGIN: usize = DISTANCE_LIMIT;

/// The first distance that the original's encoder never uses. Its decoder would take it; nothing is
/// lost by keeping to what it has always been given.
const DISTANCE_LIMIT: usize = 4095;

/// Positions of the window and of the output: the power of two above both, so that a mask proves
/// the bounds.
const SPAN: usize = 16384;

/// Bytes that one load or store covers.
const WORD: usize = 8;

/// Bits of a table index.
const TABLE_BITS: u32 = 12;

/// Bytes that must agree in the second table.
const LONG_KEY_BYTES: u32 = 5;

/// Positions at the end of a match that enter the tables.
const ENTERED_AFTER_MATCH: usize = 2;

type Window = [u8; SPAN + WORD];
type Table = [u16; 1 << TABLE_BITS];

const _: () = assert!(ORIGIN + PAGE_SIZE + WORD <= SPAN);
const _: () = assert!(PAGE_SIZE + PAGE_SIZE / GROUP_ITEMS + WORD <= SPAN);
const _: () = assert!(SPAN <= 1 << u16::BITS);

/// The tables, made once a thread; nothing of one page is seen by the next.
#[derive(Debug)]
pub(in crate::codec) struct Encoder {
    window: Box<Window>,
    short_keys: Box<Table>,
    long_keys: Box<Table>,
    stream: Box<Window>,
}

impl Encoder {
    pub(in crate::codec) fn new() -> Encoder {
        Encoder {
            window: Box::new([0; SPAN + WORD]),
            short_keys: Box::new([0; 1 << TABLE_BITS]),
            long_keys: Box::new([0; 1 << TABLE_BITS]),
            stream: Box::new([0; SPAN + WORD]),
        }
    }

    /// The stream of `page`, of at most [`PAGE_SIZE`] bytes, to `out`; `None` where it does not
    /// fit.
    pub(in crate::codec) fn compress(&mut self, page: &[u8], out: &mut [u8]) -> Option<usize> {
        let stream = self.encode(page);
        out.get_mut(..stream.len())?.copy_from_slice(stream);
        Some(stream.len())
    }

    /// The stream of `page`, which may be longer than the page.
    fn encode(&mut self, page: &[u8]) -> &[u8] {
        let end = ORIGIN + page.len();
        let window = &mut *self.window;
        window[ORIGIN..end].copy_from_slice(page);
        // Keys of the last positions reach past the end: they must not see an earlier page.
        window[end..end + WORD].fill(0);
        self.short_keys.fill(0);
        self.long_keys.fill(0);
        let mut writer = Writer::new(&mut self.stream);
        let matches_end = (end + 1).saturating_sub(MATCH_BYTES_MIN);
        let mut literals = ORIGIN;
        let mut at = ORIGIN;
        while at < matches_end {
            let word = load(window, at);
            let short = swap(&mut self.short_keys, key::<3>(word), at);
            let long = swap(&mut self.long_keys, key::<LONG_KEY_BYTES>(word), at);
            let short_bits = agreement(window, word, at, short);
            let long_bits = agreement(window, word, at, long);
            let bits = short_bits.max(long_bits);
            if bits < 24 {
                at += 1;
                continue;
            }
            let source = if long_bits >= short_bits { long } else { short };
            let length_max = MATCH_BYTES_MAX.min(end - at);
            let length = match_length(window, at, source, bits, length_max);
            writer.push_literals(window, literals, at);
            writer.push_match(length, at - source);
            let next = at + length;
            for entered in (next - ENTERED_AFTER_MATCH).max(at + 1)..next.min(matches_end) {
                let word = load(window, entered);
                swap(&mut self.short_keys, key::<3>(word), entered);
                swap(&mut self.long_keys, key::<LONG_KEY_BYTES>(word), entered);
            }
            at = next;
            literals = next;
        }
        writer.push_literals(window, literals, end);
        let stream_bytes = writer.finish();
        &self.stream[..stream_bytes]
    }
}

/// Puts `at` into the table; what stood there before.
#[inline(always)]
fn swap(table: &mut Table, key: usize, at: usize) -> usize {
    let [low, high, ..] = at.to_le_bytes();
    usize::from(std::mem::replace(
        &mut table[key & ((1 << TABLE_BITS) - 1)],
        u16::from_le_bytes([low, high]),
    ))
}

/// Table index of the first `BYTES` bytes of `word`: the high bits of a product with 2^64 divided
/// by the golden ratio.
#[inline(always)]
fn key<const BYTES: u32>(word: u64) -> usize {
    let product = (word << (64 - 8 * BYTES)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    usize::try_from(product >> (64 - TABLE_BITS)).expect("a table index fits")
}

#[inline(always)]
fn load(window: &Window, at: usize) -> u64 {
    let at = at & (SPAN - 1);
    u64::from_le_bytes(window[at..at + WORD].try_into().expect("a word long"))
}

/// Bits, up to a word, that agree between `at`, where `word` stands, and `source`; 0 where that is
/// out of reach.
#[inline(always)]
fn agreement(window: &Window, word: u64, at: usize, source: usize) -> u32 {
    let bits = (load(window, source) ^ word).trailing_zeros();
    if at - source < DISTANCE_LIMIT {
        bits
    } else {
        0
    }
}

/// Bytes that agree, up to `length_max`, when `bits` of the first word do.
#[inline(always)]
fn match_length(window: &Window, at: usize, source: usize, bits: u32, length_max: usize) -> usize {
    let mut bits = bits;
    let mut length = 0;
    while bits == u64::BITS && length + WORD < length_max {
        length += WORD;
        bits = (load(window, at + length) ^ load(window, source + length)).trailing_zeros();
    }
    let agreeing = usize::try_from(bits / 8).expect("at most a word");
    (length + agreeing).min(length_max)
}

/// Items into groups. Every store is a whole word: what is too much is overwritten by the next or
/// cut off at the end.
struct Writer<'a> {
    stream: &'a mut Window,
    at: usize,
    control_at: usize,
    control: u32,
    items: usize,
}

impl Writer<'_> {
    fn new(stream: &mut Window) -> Writer<'_> {
        Writer {
            stream,
            at: 1,
            control_at: 0,
            control: 0,
            items: 0,
        }
    }

    /// Begins a group where the last one is full: before an item, so that no group is empty.
    #[inline(always)]
    fn make_room(&mut self) {
        if self.items == GROUP_ITEMS {
            self.write_control();
            self.control_at = self.at;
            self.at += 1;
            self.control = 0;
            self.items = 0;
        }
    }

    /// Literals from `from` up to `to`.
    #[inline(always)]
    fn push_literals(&mut self, window: &Window, from: usize, to: usize) {
        let mut from = from;
        while from < to {
            self.make_room();
            let count = (GROUP_ITEMS - self.items).min(to - from);
            self.store(load(window, from));
            self.at += count;
            self.items += count;
            from += count;
        }
    }

    #[inline(always)]
    fn push_match(&mut self, length: usize, distance: usize) {
        self.make_room();
        self.control |= 1 << self.items;
        self.items += 1;
        let is_long = length > SHORT_MATCH_BYTES_MAX;
        // Both forms are computed: a branch here would be guessed wrong too often.
        let long = LONG_MATCH_NIBBLE | length.wrapping_sub(SHORT_MATCH_BYTES_MAX + 1) << 16;
        let short = length.wrapping_sub(MATCH_BYTES_MIN);
        let item =
            (distance & 0xF00) >> 4 | (distance & 0xFF) << 8 | if is_long { long } else { short };
        self.store(u64::try_from(item).expect("three bytes"));
        self.at += 2 + usize::from(is_long);
    }

    #[inline(always)]
    fn store(&mut self, word: u64) {
        let at = self.at & (SPAN - 1);
        self.stream[at..at + WORD].copy_from_slice(&word.to_le_bytes());
    }

    #[inline(always)]
    fn write_control(&mut self) {
        let [bits, ..] = self.control.to_le_bytes();
        self.stream[self.control_at & (SPAN - 1)] = bits;
    }

    /// Length of the stream.
    fn finish(mut self) -> usize {
        self.write_control();
        if self.items == 0 { 0 } else { self.at }
    }
}
