//! FS blocks and FS-aux blocks: where the bytes of a file are, and which of them were written.
//!
//! A file's entry block lists its second-level blocks; entry `j` of second-level block `k` stands
//! for the AU of file bytes from `(k * 2041 + j) * AU` on.
//!
//! ```text
//! FS block, 16384 bytes                        FS-aux block, 1536 bytes
//! 0   head as of the file table                0   head as of the file table
//! 32  id    next free one                      32  id    next free one
//! 40  id    owner                              40  id    owner
//! 48  u16   used entries                       48  id    AU; flag: not wholly initialised
//! 50  u16   entries (2041)                     56  u32   bytes of the bitmap
//! 52  u16   index: number of the block,        60  u16   index of the entry
//!           FFFD entry block, FFFE free        64  bitmap, lowest bit first, a bit for 8 KiB;
//! 56  2041 ids; flag: of an FS-aux block           1: not initialised, reads as zeros
//! ```
//!
//! Source: `dss_file_def.h`, `dss_fs_block_t`; `dss_fs_aux.h`, `dss_fs_aux_t`.

use super::file_table::BlockHead;
use super::{BlockId, DssFormatError, Structure};
use crate::format::little_endian::{u16_at, u32_at, u64_at};
use crate::types::PAGE_SIZE;

/// Entries of an FS block.
pub const FS_BLOCK_ENTRIES: usize = 2041;
/// Index of an entry block.
pub const ENTRY_BLOCK_INDEX: u16 = 0xfffd;
/// Index of a free block.
pub const FREE_BLOCK_INDEX: u16 = 0xfffe;

pub(super) const ENTRIES_AT: usize = 56;
pub(super) const BITMAP_AT: usize = 64;

const _: () = assert!(ENTRIES_AT + FS_BLOCK_ENTRIES * 8 == Structure::FsBlock.bytes());

/// An FS block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FsBlock<'a> {
    /// Its head.
    pub head: BlockHead,
    /// The next free block, if it is free.
    pub next: BlockId,
    /// The file.
    pub owner: BlockId,
    /// Entries that are used; may lag behind after a crash.
    pub used: u16,
    /// Which of the file's blocks it is.
    pub index: u16,
    entries: &'a [u8],
}

impl<'a> FsBlock<'a> {
    /// Reads a slot whose checksum was verified and that should be the block of this id.
    ///
    /// # Errors
    /// Where it is another block or its counts are impossible.
    ///
    /// # Panics
    /// When `slot` has not the length of the structure.
    pub fn parse(slot: &'a [u8], id: BlockId) -> Result<FsBlock<'a>, DssFormatError> {
        let structure = Structure::FsBlock;
        let what = structure.name();
        assert_eq!(slot.len(), structure.bytes());
        let head = BlockHead::parse(slot);
        head.expect(structure, 1, id)?;
        let (used, total) = (u16_at(slot, 48), u16_at(slot, 50));
        if usize::from(total) != FS_BLOCK_ENTRIES {
            let field = "a number of entries:";
            return Err(DssFormatError::field(what, field, total.into()));
        }
        if used > total {
            let field = "more entries than it can:";
            return Err(DssFormatError::field(what, field, used.into()));
        }
        Ok(FsBlock {
            head,
            next: BlockId(u64_at(slot, 32)),
            owner: BlockId(u64_at(slot, 40)),
            used,
            index: u16_at(slot, 52),
            entries: &slot[ENTRIES_AT..],
        })
    }

    /// An entry.
    ///
    /// # Panics
    /// When there are not so many.
    #[must_use]
    pub fn entry(&self, index: usize) -> BlockId {
        BlockId(u64_at(self.entries, index * 8))
    }
}

/// An FS-aux block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AuxBlock<'a> {
    /// Its head.
    pub head: BlockHead,
    /// The next free block, if it is free.
    pub next: BlockId,
    /// The file.
    pub owner: BlockId,
    /// The AU, with the flag that it is not wholly initialised.
    pub data: BlockId,
    /// The entry that leads here; old in files that were split off.
    pub index: u16,
    /// A bit for each 8 KiB of the AU, 1 where it was never written.
    pub bitmap: &'a [u8],
}

impl<'a> AuxBlock<'a> {
    /// Reads a slot whose checksum was verified and that should be the block of this id.
    ///
    /// # Errors
    /// Where it is another block or its bitmap is not that of an AU.
    ///
    /// # Panics
    /// When `slot` has not the length of the structure.
    pub fn parse(
        slot: &'a [u8],
        id: BlockId,
        au_bytes: u64,
    ) -> Result<AuxBlock<'a>, DssFormatError> {
        let structure = Structure::AuxBlock;
        assert_eq!(slot.len(), structure.bytes());
        let head = BlockHead::parse(slot);
        head.expect(structure, 2, id)?;
        let length = u32_at(slot, 56);
        if u64::from(length) != bitmap_bytes(au_bytes) {
            let field = "bytes of bitmap:";
            return Err(DssFormatError::field(
                structure.name(),
                field,
                length.into(),
            ));
        }
        Ok(AuxBlock {
            head,
            next: BlockId(u64_at(slot, 32)),
            owner: BlockId(u64_at(slot, 40)),
            data: BlockId(u64_at(slot, 48)),
            index: u16_at(slot, 60),
            bitmap: &slot[BITMAP_AT..BITMAP_AT + length as usize],
        })
    }
}

/// Bytes of the bitmap of an AU.
pub(super) fn bitmap_bytes(au_bytes: u64) -> u64 {
    au_bytes / PAGE_SIZE as u64 / 8
}
