//! Names of allocation units and of blocks in them.
//!
//! ```text
//! bits 0-9    volume
//! bits 10-43  allocation unit (AU) on it; unit 0 starts at byte 0
//! bits 44-60  block in the unit, in blocks of its structure
//! bits 61-63  item; bit 61 is a flag where a file refers to its space
//! ```
//!
//! Source: `dss_ctrl_def.h`, `dss_block_id_t`, `ftid_t`, `auid_t`.

use super::Structure;
use std::fmt;

const VOLUME_BITS: u32 = 10;
const AU_BITS: u32 = 34;
const BLOCK_BITS: u32 = 17;
const AU_SHIFT: u32 = VOLUME_BITS;
const BLOCK_SHIFT: u32 = AU_SHIFT + AU_BITS;
const ITEM_SHIFT: u32 = BLOCK_SHIFT + BLOCK_BITS;

const _: () = assert!(ITEM_SHIFT == 61);

/// An allocation unit, or a block in one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u64);

impl BlockId {
    /// No block.
    pub const NONE: BlockId = BlockId(u64::MAX);
    /// Owner or parent of what is free.
    pub const FREE: BlockId = BlockId(u64::MAX - 1);
    /// The root block of the file table; any block of unit 0 stands for it.
    pub const ROOT: BlockId = BlockId(0);

    /// A block of a unit.
    ///
    /// # Panics
    /// When a number does not fit its bits.
    #[must_use]
    pub fn new(volume: u16, au: u64, block: u64) -> BlockId {
        assert!(u32::from(volume) < 1 << VOLUME_BITS && au >> AU_BITS == 0);
        assert!(block >> BLOCK_BITS == 0);
        BlockId(u64::from(volume) | au << AU_SHIFT | block << BLOCK_SHIFT)
    }

    /// The volume.
    #[must_use]
    pub fn volume(self) -> u16 {
        let [low, high, ..] = (self.0 & ((1 << VOLUME_BITS) - 1)).to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    /// The unit on that volume.
    #[must_use]
    pub fn au(self) -> u64 {
        self.0 >> AU_SHIFT & ((1 << AU_BITS) - 1)
    }

    /// The block in that unit.
    #[must_use]
    pub fn block(self) -> u64 {
        self.0 >> BLOCK_SHIFT & ((1 << BLOCK_BITS) - 1)
    }

    /// The item, or the flag.
    #[must_use]
    pub fn item(self) -> u64 {
        self.0 >> ITEM_SHIFT
    }

    /// Bit 61: in an entry of an FS block, that it leads to an FS-aux block; in an FS-aux block,
    /// that its unit is not wholly initialised.
    #[must_use]
    pub fn has_flag(self) -> bool {
        self.0 >> ITEM_SHIFT & 1 == 1
    }

    /// The same block without item and flag.
    #[must_use]
    pub fn without_item(self) -> BlockId {
        BlockId(self.0 & ((1 << ITEM_SHIFT) - 1))
    }

    /// The unit that the block is in, as an id with block 0.
    #[must_use]
    pub fn whole_au(self) -> BlockId {
        BlockId(self.0 & ((1 << BLOCK_SHIFT) - 1))
    }

    /// Another block of the same unit.
    #[must_use]
    pub fn with_block(self, block: u64) -> BlockId {
        BlockId::new(self.volume(), self.au(), block)
    }

    /// Whether it is one of the two ids that name nothing.
    #[must_use]
    pub fn is_nothing(self) -> bool {
        self == BlockId::NONE || self == BlockId::FREE
    }

    /// Whether it stands for the root block of the file table.
    #[must_use]
    pub fn is_root(self) -> bool {
        !self.is_nothing() && self.au() == 0
    }

    /// First byte on its volume, if the unit has such a block.
    #[must_use]
    pub fn position(self, structure: Structure, au_bytes: u64) -> Option<u64> {
        let unit = structure.bytes() as u64;
        let inside = self.block().checked_mul(unit)?;
        if self.is_nothing() || inside.checked_add(unit)? > au_bytes {
            return None;
        }
        self.au().checked_mul(au_bytes)?.checked_add(inside)
    }

    /// First byte of its unit on its volume.
    #[must_use]
    pub fn au_position(self, au_bytes: u64) -> Option<u64> {
        if self.is_nothing() {
            return None;
        }
        self.au().checked_mul(au_bytes)
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            BlockId::NONE => f.write_str("none"),
            BlockId::FREE => f.write_str("free"),
            id if id.item() == 0 => write!(f, "{}:{}.{}", id.volume(), id.au(), id.block()),
            id => {
                let (volume, au, block) = (id.volume(), id.au(), id.block());
                write!(f, "{volume}:{au}.{block}/{}", id.item())
            }
        }
    }
}

impl fmt::Debug for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
