//! The original's encoder, step by step: what our sizes are compared with in tests and benches.
//!
//! Byte for byte what the original writes with its strategy "always" (the tests compare with its
//! catalogs). Slow, and allocates: for tests and benches only.

use super::{MATCH_BYTES_MAX, MATCH_BYTES_MIN, SHORT_MATCH_BYTES_MAX};

/// Length at which the original stops to look for a better match, before it has looked at any.
const GOOD_MATCH: usize = 128;

/// Percentage by which that length falls with each candidate looked at.
const GOOD_DROP: usize = 6;

/// The first distance that is out of reach.
const DISTANCE_LIMIT: usize = 4095;

/// The stream that the original writes for `page`.
#[must_use]
pub fn compress(page: &[u8]) -> Vec<u8> {
    let mut history = History::new(page);
    let mut stream = Vec::new();
    let mut control_at = 0;
    let mut items = 0;
    let mut at = 0;
    while at < page.len() {
        if items % 8 == 0 {
            control_at = stream.len();
            stream.push(0);
        }
        let (length, distance) = history.find_match(at);
        let next = if length < MATCH_BYTES_MIN {
            stream.push(page[at]);
            at + 1
        } else {
            stream[control_at] |= 1 << (items % 8);
            push_match(&mut stream, length, distance);
            at + length
        };
        items += 1;
        while at < next {
            history.enter(at);
            at += 1;
        }
    }
    stream
}

fn push_match(stream: &mut Vec<u8>, length: usize, distance: usize) {
    let byte = |value: usize| u8::try_from(value).expect("a byte");
    let high = (distance >> 8) << 4;
    if length > SHORT_MATCH_BYTES_MAX {
        stream.push(byte(high | 15));
        stream.push(byte(distance & 0xFF));
        stream.push(byte(length - SHORT_MATCH_BYTES_MAX - 1));
    } else {
        stream.push(byte(high | (length - MATCH_BYTES_MIN)));
        stream.push(byte(distance & 0xFF));
    }
}

/// Chains of the positions that share a key, latest first.
struct History<'a> {
    page: &'a [u8],
    heads: Vec<Option<usize>>,
    previous: Vec<Option<usize>>,
}

impl History<'_> {
    fn new(page: &[u8]) -> History<'_> {
        let keys = match page.len() {
            0..128 => 512,
            128..256 => 1024,
            256..512 => 2048,
            512..1024 => 4096,
            _ => 8192,
        };
        History {
            page,
            heads: vec![None; keys],
            previous: vec![None; page.len()],
        }
    }

    /// The original's `pglz_hist_idx`, whose bytes are signed.
    fn key(&self, at: usize) -> usize {
        let signed = |byte: u8| i32::from(i8::from_le_bytes([byte]));
        let sum = match self.page[at..] {
            [a, b, c, d, ..] => signed(a) << 6 ^ signed(b) << 4 ^ signed(c) << 2 ^ signed(d),
            [a, ..] => signed(a),
            [] => 0,
        };
        let [low, high, ..] = sum.to_le_bytes();
        usize::from(u16::from_le_bytes([low, high])) & (self.heads.len() - 1)
    }

    fn enter(&mut self, at: usize) {
        let key = self.key(at);
        self.previous[at] = self.heads[key].replace(at);
    }

    /// Length and distance of the original's choice; length 0 without any.
    fn find_match(&self, at: usize) -> (usize, usize) {
        let mut best = (0, 0);
        let mut good = GOOD_MATCH;
        let mut candidate = self.heads[self.key(at)];
        while let Some(source) = candidate {
            if at - source >= DISTANCE_LIMIT {
                break;
            }
            let length = self.agreement(at, source);
            if length > best.0 {
                best = (length, at - source);
            }
            candidate = self.previous[source];
            if candidate.is_some() {
                if best.0 >= good {
                    break;
                }
                good -= good * GOOD_DROP / 100;
            }
        }
        best
    }

    fn agreement(&self, at: usize, source: usize) -> usize {
        self.page[at..]
            .iter()
            .zip(&self.page[source..])
            .take(MATCH_BYTES_MAX)
            .take_while(|(left, right)| left == right)
            .count()
    }
}
