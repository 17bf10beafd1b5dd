//! A set of block numbers whose memory follows what is in it.
//!
//! Blocks are held in chunks of [`CHUNK_BLOCKS`]: few of them as a sorted list, many as a bitmap.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// Blocks of one chunk: 32 MiB of a relation.
const CHUNK_BLOCKS: u32 = 4096;

/// Bits of one word of a bitmap.
const WORD_BLOCKS: u32 = 64;

/// Words of the bitmap of a chunk.
const CHUNK_WORDS: usize = 64;

const _: () = assert!(CHUNK_WORDS * WORD_BLOCKS as usize == CHUNK_BLOCKS as usize);

/// Blocks up to which a chunk is a list: half the memory of a bitmap.
const LIST_BLOCKS_MAX: usize = 128;

/// Bytes of a chunk's place in the tree.
const CHUNK_OVERHEAD_BYTES: usize = 48;

/// Bytes of a chunk that is a list, at most.
const LIST_BYTES: usize = CHUNK_OVERHEAD_BYTES + LIST_BLOCKS_MAX * size_of::<u16>();

/// Bytes of a chunk that is a bitmap.
const BITMAP_BYTES: usize = CHUNK_OVERHEAD_BYTES + CHUNK_WORDS * size_of::<u64>();

/// Blocks of one relation fork, by their number in it.
#[derive(Clone, Default)]
pub struct BlockSet {
    chunks: BTreeMap<u32, Chunk>,
    bitmaps: usize,
}

#[derive(Clone)]
enum Chunk {
    /// Sorted, without repetition.
    List(Vec<u16>),
    Bitmap(Box<[u64; CHUNK_WORDS]>),
}

impl BlockSet {
    /// Adds a block.
    pub fn insert(&mut self, block: u32) {
        self.insert_word(block / WORD_BLOCKS, 1 << (block % WORD_BLOCKS));
    }

    /// Adds the blocks `64 * word + n` for every bit `n` of `bits`.
    pub fn insert_word(&mut self, word: u32, bits: u64) {
        if bits == 0 {
            return;
        }
        let words = CHUNK_BLOCKS / WORD_BLOCKS;
        let chunk = self
            .chunks
            .entry(word / words)
            .or_insert_with(|| Chunk::List(Vec::new()));
        let was_bitmap = matches!(chunk, Chunk::Bitmap(_));
        chunk.insert_word(word % words, bits);
        if !was_bitmap && matches!(chunk, Chunk::Bitmap(_)) {
            self.bitmaps += 1;
        }
    }

    /// Adds all blocks of another set.
    pub fn union(&mut self, other: &BlockSet) {
        for (&number, chunk) in &other.chunks {
            for (word, bits) in chunk.words() {
                self.insert_word(number * (CHUNK_BLOCKS / WORD_BLOCKS) + word, bits);
            }
        }
    }

    /// Whether the block is in the set.
    #[must_use]
    pub fn contains(&self, block: u32) -> bool {
        self.iter_from(block).next() == Some(block)
    }

    /// Whether there is no block in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// How many blocks are in the set.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.chunks.values().map(Chunk::len).sum()
    }

    /// Bytes of memory, rounded up.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        (self.chunks.len() - self.bitmaps) * LIST_BYTES + self.bitmaps * BITMAP_BYTES
    }

    /// Removes `first` and the blocks behind it.
    pub fn remove_from(&mut self, first: u32) {
        let dropped = self.chunks.split_off(&(first / CHUNK_BLOCKS));
        self.bitmaps -= bitmaps(&dropped);
        self.keep(dropped, |block| block < first);
    }

    /// Removes the blocks before `end`.
    pub fn remove_before(&mut self, end: u32) {
        let kept = self.chunks.split_off(&(end / CHUNK_BLOCKS));
        let mut dropped = std::mem::replace(&mut self.chunks, kept);
        dropped.clear();
        self.bitmaps = bitmaps(&self.chunks);
        let number = end / CHUNK_BLOCKS;
        if let Some(chunk) = self.chunks.remove(&number) {
            self.bitmaps -= usize::from(matches!(chunk, Chunk::Bitmap(_)));
            self.keep(BTreeMap::from([(number, chunk)]), |block| block >= end);
        }
    }

    /// Puts back what is worth keeping of the first of some removed chunks: only that one can be
    /// cut in the middle.
    fn keep(&mut self, removed: BTreeMap<u32, Chunk>, wanted: impl Fn(u32) -> bool) {
        let Some((number, chunk)) = removed.into_iter().next() else {
            return;
        };
        for block in chunk.blocks_from(0) {
            let block = number * CHUNK_BLOCKS + u32::from(block);
            if wanted(block) {
                self.insert(block);
            }
        }
    }

    /// The blocks in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.iter_from(0)
    }

    /// The blocks from `first` on in ascending order.
    pub fn iter_from(&self, first: u32) -> impl Iterator<Item = u32> + '_ {
        let start = first / CHUNK_BLOCKS;
        self.chunks
            .range(start..)
            .flat_map(move |(&number, chunk)| {
                let skipped = if number == start {
                    first % CHUNK_BLOCKS
                } else {
                    0
                };
                chunk
                    .blocks_from(skipped)
                    .map(move |block| number * CHUNK_BLOCKS + u32::from(block))
            })
    }

    /// The blocks from `first` on as ranges in ascending order; two ranges with at most `gap`
    /// blocks between them are one. The ends may be one more than a block number can be.
    pub fn ranges_from(&self, first: u32, gap: u32) -> impl Iterator<Item = Range<u64>> + '_ {
        join_ranges(
            self.iter_from(first)
                .map(|block| u64::from(block)..u64::from(block) + 1),
            gap,
        )
    }
}

/// Joins ascending ranges that at most `gap` numbers separate.
pub(super) fn join_ranges(
    ranges: impl Iterator<Item = Range<u64>>,
    gap: u32,
) -> impl Iterator<Item = Range<u64>> {
    let mut ranges = ranges.peekable();
    std::iter::from_fn(move || {
        let mut joined = ranges.next()?;
        while let Some(next) = ranges.next_if(|next| next.start <= joined.end + u64::from(gap)) {
            joined.end = joined.end.max(next.end);
        }
        Some(joined)
    })
}

fn bitmaps(chunks: &BTreeMap<u32, Chunk>) -> usize {
    chunks
        .values()
        .filter(|chunk| matches!(chunk, Chunk::Bitmap(_)))
        .count()
}

impl Chunk {
    fn len(&self) -> u64 {
        match self {
            Chunk::List(blocks) => blocks.len() as u64,
            Chunk::Bitmap(words) => words.iter().map(|word| u64::from(word.count_ones())).sum(),
        }
    }

    fn insert_word(&mut self, word: u32, bits: u64) {
        match self {
            Chunk::Bitmap(words) => words[word as usize] |= bits,
            Chunk::List(blocks) => {
                for block in bits_of(word, bits) {
                    if let Err(at) = blocks.binary_search(&block) {
                        blocks.insert(at, block);
                    }
                }
                if blocks.len() > LIST_BLOCKS_MAX {
                    let mut words = Box::new([0; CHUNK_WORDS]);
                    for &block in blocks.iter() {
                        let (word, bit) = (
                            u32::from(block) / WORD_BLOCKS,
                            u32::from(block) % WORD_BLOCKS,
                        );
                        words[word as usize] |= 1 << bit;
                    }
                    *self = Chunk::Bitmap(words);
                }
            }
        }
    }

    /// The words that have bits.
    fn words(&self) -> Box<dyn Iterator<Item = (u32, u64)> + '_> {
        match self {
            Chunk::List(blocks) => Box::new(blocks.iter().map(|&block| {
                let block = u32::from(block);
                (block / WORD_BLOCKS, 1 << (block % WORD_BLOCKS))
            })),
            Chunk::Bitmap(words) => Box::new((0..).zip(words.iter().copied())),
        }
    }

    /// The blocks of the chunk from `first` on.
    fn blocks_from(&self, first: u32) -> Box<dyn Iterator<Item = u16> + '_> {
        match self {
            Chunk::List(blocks) => {
                let at = blocks.partition_point(|&block| u32::from(block) < first);
                Box::new(blocks[at..].iter().copied())
            }
            Chunk::Bitmap(words) => {
                let start = first / WORD_BLOCKS;
                let mask = u64::MAX << (first % WORD_BLOCKS);
                let words = (start..).zip(&words[start as usize..]);
                Box::new(words.flat_map(move |(word, &bits)| {
                    bits_of(word, if word == start { bits & mask } else { bits })
                }))
            }
        }
    }
}

/// The blocks of a chunk that the bits of one word stand for.
fn bits_of(word: u32, mut bits: u64) -> impl Iterator<Item = u16> {
    std::iter::from_fn(move || {
        if bits == 0 {
            return None;
        }
        let bit = bits.trailing_zeros();
        bits &= bits - 1;
        Some(u16::try_from(word * WORD_BLOCKS + bit).expect("a chunk has 4096 blocks"))
    })
}

impl PartialEq for BlockSet {
    fn eq(&self, other: &BlockSet) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for BlockSet {}

impl fmt::Debug for BlockSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.ranges_from(0, 0)).finish()
    }
}

impl FromIterator<u32> for BlockSet {
    fn from_iter<I: IntoIterator<Item = u32>>(blocks: I) -> BlockSet {
        let mut set = BlockSet::default();
        for block in blocks {
            set.insert(block);
        }
        set
    }
}
