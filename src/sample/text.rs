//! Text for rows: digests in hexadecimal, each followed by the same stock sentence, drawn once into
//! a pool that rows then cut their text from.
//!
//! The goals for speed and size of compression were set on a table of a real server, of which only
//! the figures are known: its pages shrink to 0.449 by zlib level 1 and to 0.435 by libdeflate
//! level 1, and a backup of 2816 MiB with it shrinks by zlib level 1 to 0.496, zstd level 1 to
//! 0.463, lz4 to 0.702 and pglz to 0.708. Brought down to the table as zlib's two figures are,
//! these are 0.419, 0.635 and 0.641. Rows of words that come to zlib's ratio stay below that of lz4
//! (0.58): such a table has few repetitions, but few different letters, as digits are. The texts
//! here are chosen so that all of the ratios are near; a test holds them there. That the real table
//! looked like this is not known.
//!
//! Copying from a pool costs a hundredth of drawing every row's text. Compressors that work on one
//! page, as all of ours do, cannot tell the difference: two cuts of one page seldom overlap.

use super::random::Random;

/// Bytes of text in a pool: many pages' worth, so that cuts of one page seldom overlap.
const POOL_BYTES: usize = 1024 * 1024;

/// Bytes of one cut at most.
pub(super) const CUT_BYTES_MAX: usize = 1024;

/// What follows every digest. Its length sets how far pages shrink: longer is smaller.
const STOCK_SENTENCE: &str = "delivered to a customer as agreed,";

/// Text to cut from.
#[derive(Debug)]
pub(super) struct TextPool {
    bytes: Vec<u8>,
}

impl TextPool {
    /// The pool that belongs to `seed`.
    pub(super) fn new(seed: u64) -> TextPool {
        let mut random = Random::of_part(seed, 0x7465_7874);
        let mut bytes = Vec::with_capacity(POOL_BYTES + CUT_BYTES_MAX);
        while bytes.len() < POOL_BYTES {
            let digest = [(); 4].map(|()| format!("{:016x}", random.next()));
            let sentence = format!("{} {STOCK_SENTENCE} ", digest.concat());
            bytes.extend_from_slice(sentence.as_bytes());
        }
        bytes.truncate(POOL_BYTES);
        TextPool { bytes }
    }

    /// `length` bytes (at most [`CUT_BYTES_MAX`]) from anywhere in the pool.
    #[inline]
    pub(super) fn cut(&self, random: &mut Random, length: usize) -> &[u8] {
        debug_assert!(length <= CUT_BYTES_MAX);
        let start = random.index(POOL_BYTES - CUT_BYTES_MAX);
        &self.bytes[start..start + length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_printable_and_belongs_to_its_seed() {
        let pool = TextPool::new(5);
        assert_eq!(pool.bytes.len(), POOL_BYTES);
        assert!(pool.bytes.iter().all(|byte| (b' '..=b'~').contains(byte)));
        assert_eq!(pool.bytes, TextPool::new(5).bytes);
        assert_ne!(pool.bytes, TextPool::new(6).bytes);
        assert_eq!(
            pool.cut(&mut Random::of_part(0, 0), CUT_BYTES_MAX).len(),
            CUT_BYTES_MAX
        );
    }
}
