//! The encoder: a greedy parse over two tables that each remember one position.
//!
//! 1. At each position look up the last place with the same three bytes and the last with the same
//!    six. Where the first is no match, the byte is a literal.
//! 2. Of the two take the one that agrees longer, the six-byte one on a tie.
//! 3. A match is written as far as it reaches, up to the format's limit; of the positions inside
//!    it only the last two enter the tables.
//!
//! The original keeps chains of all positions by four bytes, enters every position, and looks
//! through the chains until a match is "good". It never sees matches of three bytes, which save 10
//! of 27 bits: finding those with one probe outweighs what its chains find. Chains, lazy parsing
//! and entering every position were measured: they gain at most another 5 % of size for two to five
//! times the time. Wrong guesses of the processor are what the time goes to, hence the branch-free
//! turns below.

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
        let mut at = ORIGIN;
        while at < matches_end {
            let word = load(window, at);
            let short = swap(&mut self.short_keys, short_key(word), at);
            let long = swap(&mut self.long_keys, long_key(word), at);
            let differ = load(window, short) ^ word;
            // One value to test: two branches here, each guessed wrong at times, cost a third of
            // the speed.
            let out_of_reach = u64::from(at - short >= DISTANCE_LIMIT);
            if differ << (64 - 8 * MATCH_BYTES_MIN) | out_of_reach != 0 {
                writer.push_literal(word);
                at += 1;
                continue;
            }
            let short_bits = differ.trailing_zeros();
            let long_bits = agreement(window, word, at, long);
            let (source, bits) = if long_bits >= short_bits {
                (long, long_bits)
            } else {
                (short, short_bits)
            };
            let length_max = MATCH_BYTES_MAX.min(end - at);
            let length = match_length(window, at, source, bits).min(length_max);
            writer.push_match(length, at - source);
            at += length;
            for entered in [at - 2, at - 1] {
                let word = load(window, entered);
                swap(&mut self.short_keys, short_key(word), entered);
                swap(&mut self.long_keys, long_key(word), entered);
            }
        }
        for at in at..end {
            writer.push_literal(load(window, at));
        }
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

#[inline(always)]
fn short_key(word: u64) -> usize {
    key::<3>(word)
}

#[inline(always)]
fn long_key(word: u64) -> usize {
    key::<6>(word)
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

/// Bytes that agree when `bits` of the first word do; counts on past the longest match by less than
/// a word.
#[inline(always)]
fn match_length(window: &Window, at: usize, source: usize, bits: u32) -> usize {
    let whole_bytes = |bits: u32| usize::try_from(bits / 8).expect("at most a word");
    if bits < u64::BITS {
        return whole_bytes(bits);
    }
    let mut length = WORD;
    while length < MATCH_BYTES_MAX {
        let differ = load(window, at + length) ^ load(window, source + length);
        if differ != 0 {
            return length + whole_bytes(differ.trailing_zeros());
        }
        length += WORD;
    }
    length
}

/// Items into groups. A match is stored as a whole word: what is too much is overwritten by the
/// next item or cut off at the end.
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

    /// The first byte of `word`.
    #[inline(always)]
    fn push_literal(&mut self, word: u64) {
        let [literal, ..] = word.to_le_bytes();
        self.stream[self.at & (SPAN - 1)] = literal;
        self.end_item(1);
    }

    #[inline(always)]
    fn push_match(&mut self, length: usize, distance: usize) {
        let is_long = length > SHORT_MATCH_BYTES_MAX;
        // Both forms are computed: a branch here would be guessed wrong too often.
        let long = LONG_MATCH_NIBBLE | length.wrapping_sub(SHORT_MATCH_BYTES_MAX + 1) << 16;
        let short = length.wrapping_sub(MATCH_BYTES_MIN);
        let item =
            (distance & 0xF00) >> 4 | (distance & 0xFF) << 8 | if is_long { long } else { short };
        let at = self.at & (SPAN - 1);
        self.stream[at..at + WORD].copy_from_slice(&item.to_le_bytes());
        self.control |= 1 << self.items;
        self.end_item(2 + usize::from(is_long));
    }

    /// Counts an item of `bytes` that has been stored, and begins a group where this one is full.
    #[inline(always)]
    fn end_item(&mut self, bytes: usize) {
        self.at += bytes;
        self.items += 1;
        if self.items == GROUP_ITEMS {
            self.write_control();
            self.control_at = self.at;
            self.control = 0;
            self.items = 0;
            self.at += 1;
        }
    }

    #[inline(always)]
    fn write_control(&mut self) {
        let [bits, ..] = self.control.to_le_bytes();
        self.stream[self.control_at & (SPAN - 1)] = bits;
    }

    /// Length of the stream. A group that has begun but is empty does not belong to it.
    fn finish(mut self) -> usize {
        if self.items == 0 {
            return self.at - 1;
        }
        self.write_control();
        self.at
    }
}
