//! What the entries of a redo batch change.
//!
//! A batch may have been applied wholly, partly or not at all, and a block that was being written
//! may be torn; so the effect of an entry is set, never added, and blocks are taken as they are,
//! whatever their checksums say. Applying a batch twice is the same as once.
//!
//! | type | effect |
//! |---|---|
//! | 0 | core control, from its start on |
//! | 1, 2 | a volume is added or removed; its header |
//! | 3, 9, 15 | an AU is formatted for the file table, for FS blocks, for FS-aux blocks |
//! | 4, 5, 6 | nodes are allocated, freed, recycled |
//! | 7, 8, 14 | a node's size, name, flags |
//! | 10, 11, 12 | an FS block is allocated, freed, entered into the entry block |
//! | 13, 19, 21 | entries of an FS block: one, many, moved to another block |
//! | 16, 17, 18, 20 | an FS-aux block is allocated, freed, initialised; many for entries |
//!
//! Source: `dss_redo.c`, the `rp_redo_*` functions. One deviation: for type 19 the server leaves
//! the number of used entries as it was, which only its own next change repairs.

use super::file_table::{NODE_AT, NODE_BYTES};
use super::space::{BITMAP_AT, ENTRIES_AT, bitmap_bytes};
use super::{BlockId, DssFormatError, FS_BLOCK_ENTRIES, RedoBatch, RedoEntry, Structure};
use crate::format::little_endian::{put_u16, put_u32, put_u64, u16_at, u32_at, u64_at};
use crate::limits::DSS_VOLUMES_MAX;

/// The control structures that a batch changes, as their slots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Controls {
    /// Core control.
    pub core: Vec<u8>,
    /// Volume control.
    pub volumes: Vec<u8>,
    /// Root block of the file table.
    pub root: Vec<u8>,
}

/// An AU whose blocks are all as formatting made them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FormattedAu {
    /// Of the file table.
    FileTable {
        /// Last free node before.
        previous_last: BlockId,
    },
    /// Of FS blocks.
    FileSpace {
        /// First free block before.
        previous_first: BlockId,
    },
    /// Of FS-aux blocks.
    Aux {
        /// First free block before.
        previous_first: BlockId,
    },
}

impl FormattedAu {
    /// What its blocks are.
    #[must_use]
    pub fn structure(self) -> Structure {
        match self {
            FormattedAu::FileTable { .. } => Structure::FileTableBlock,
            FormattedAu::FileSpace { .. } => Structure::FsBlock,
            FormattedAu::Aux { .. } => Structure::AuxBlock,
        }
    }
}

/// Where the blocks are that a batch changes.
pub trait ReplayBlocks {
    /// Why a block cannot be had.
    type Error: From<DssFormatError>;

    /// The slot of a block of a unit, to be changed; its checksum does not matter.
    ///
    /// # Errors
    /// Where there is no such block or it cannot be read.
    fn block(&mut self, structure: Structure, id: BlockId) -> Result<&mut [u8], Self::Error>;

    /// Every block of the AU is from now on as [`formatted_block`] makes it.
    fn format_au(&mut self, au: BlockId, formatted: FormattedAu);
}

/// Applies a batch. The controls' checksums are right afterwards.
///
/// # Errors
/// Where an entry does not fit its type, or a block cannot be had.
pub fn replay<B: ReplayBlocks>(
    batch: &RedoBatch,
    controls: &mut Controls,
    au_bytes: u64,
    blocks: &mut B,
) -> Result<(), B::Error> {
    for (number, entry) in batch.entries.iter().enumerate() {
        replay_entry(number, entry, controls, au_bytes, blocks)?;
    }
    Structure::CoreControl.seal(&mut controls.core);
    Structure::VolumeControl.seal(&mut controls.volumes);
    Structure::RootBlock.seal(&mut controls.root);
    Ok(())
}

/// Applies one entry of a batch, which errors call by this number. The controls' checksums are
/// left as they were.
///
/// # Errors
/// As [`replay`].
pub fn replay_entry<B: ReplayBlocks>(
    number: usize,
    entry: &RedoEntry,
    controls: &mut Controls,
    au_bytes: u64,
    blocks: &mut B,
) -> Result<(), B::Error> {
    let mut step = Step {
        number,
        kind: entry.kind,
        payload: &entry.payload,
        controls,
        au_bytes,
        blocks,
    };
    step.apply()
}

/// One entry.
struct Step<'a, B> {
    number: usize,
    kind: u32,
    payload: &'a [u8],
    controls: &'a mut Controls,
    au_bytes: u64,
    blocks: &'a mut B,
}

const USED: u8 = 2;
const FREE: u8 = 1;
/// Of core control: free FS blocks with the version before, and the same of FS-aux blocks.
pub(super) const CORE_FS_ROOT: usize = 24;
pub(super) const CORE_AUX_ROOT: usize = 152;
/// Of the root block: all about free and last nodes.
pub(super) const ROOT_TABLE: usize = 56;
pub(super) const ROOT_TABLE_BYTES: usize = 72;
const ROOT_LAST: usize = 120;

impl<B: ReplayBlocks> Step<'_, B> {
    fn apply(&mut self) -> Result<(), B::Error> {
        match self.kind {
            0 => self.core(),
            1 => self.volume(),
            // The header says nothing that the controls do not.
            2 => Ok(()),
            3 | 9 | 15 => self.format(),
            4 => self.nodes(3),
            5 => self.nodes(4),
            6 => self.recycle(),
            7 => self.size(),
            8 => self.name(),
            10 => self.allocate_fs_block(),
            11 => self.free_fs_block(),
            12 => self.entry(16, 8, 18),
            13 => self.entry(24, 8, 26),
            14 => self.flags(),
            16 => self.allocate_aux(),
            17 => self.free_aux(),
            18 => self.initialise_aux(),
            19 => self.entries(),
            20 => self.aux_entries(),
            21 => self.move_entries(),
            _ => Err(self.problem("is unknown")),
        }
    }

    fn problem(&self, problem: &'static str) -> B::Error {
        let (number, kind) = (self.number, self.kind);
        B::Error::from(DssFormatError::Redo {
            number,
            kind,
            problem,
        })
    }

    fn bytes(&self, at: usize, length: usize) -> Result<Vec<u8>, B::Error> {
        let bytes = at
            .checked_add(length)
            .and_then(|end| self.payload.get(at..end));
        let bytes = bytes.ok_or_else(|| self.problem("is too short"))?;
        Ok(bytes.to_vec())
    }

    fn u16(&self, at: usize) -> Result<u16, B::Error> {
        Ok(u16_at(&self.bytes(at, 2)?, 0))
    }

    fn u32(&self, at: usize) -> Result<u32, B::Error> {
        Ok(u32_at(&self.bytes(at, 4)?, 0))
    }

    fn id(&self, at: usize) -> Result<BlockId, B::Error> {
        Ok(BlockId(u64_at(&self.bytes(at, 8)?, 0)))
    }

    /// Where an entry is in an FS block, of several if they all fit.
    fn entry_at(&self, index: u16, count: usize) -> Result<usize, B::Error> {
        let index = usize::from(index);
        if index + count > FS_BLOCK_ENTRIES {
            return Err(self.problem("names an entry that no FS block has"));
        }
        Ok(ENTRIES_AT + 8 * index)
    }

    /// The slot that holds a node, which may be the root block.
    fn node_block(&mut self, id: BlockId) -> Result<&mut [u8], B::Error> {
        if id.is_nothing() || id.item() != 0 {
            return Err(self.problem("names a node that there cannot be"));
        }
        if id.is_root() {
            return Ok(&mut self.controls.root);
        }
        self.blocks.block(Structure::FileTableBlock, id)
    }

    fn set_node(&mut self, node: &[u8]) -> Result<Option<&mut [u8]>, B::Error> {
        let id = BlockId(u64_at(node, 64));
        if id == BlockId::NONE {
            return Ok(None);
        }
        let block = self.node_block(id)?;
        block[NODE_AT..NODE_AT + NODE_BYTES].copy_from_slice(node);
        Ok(Some(block).filter(|_| !id.is_root()))
    }

    fn core(&mut self) -> Result<(), B::Error> {
        let length = self.payload.len();
        if length > self.controls.core.len() {
            return Err(self.problem("is longer than the core control"));
        }
        self.controls.core[..length].copy_from_slice(self.payload);
        Ok(())
    }

    fn volume(&mut self) -> Result<(), B::Error> {
        let attributes = self.bytes(0, 32)?;
        let definition = self.bytes(512, 256)?;
        let count = self.u32(1028)?;
        let number = usize::from(u16_at(&definition, 0));
        if number >= DSS_VOLUMES_MAX {
            return Err(self.problem("names a volume that no group has"));
        }
        let core = &mut self.controls.core;
        core[512 + 32 * number..][..32].copy_from_slice(&attributes);
        put_u32(core, 20, count);
        let slot = 512 + 256 * number;
        self.controls.volumes[slot..slot + 256].copy_from_slice(&definition);
        Ok(())
    }

    fn format(&mut self) -> Result<(), B::Error> {
        let au = self.id(0)?;
        if au.is_nothing() || au.au() == 0 || au.whole_au() != au {
            return Err(self.problem("formats no AU"));
        }
        match self.kind {
            3 => {
                let (last, free) = (self.id(16)?, self.bytes(24, 24)?);
                let count = Structure::FileTableBlock.per_au(self.au_bytes);
                let new_last = au.with_block(count - 1);
                self.blocks.format_au(
                    au,
                    FormattedAu::FileTable {
                        previous_last: BlockId(u64_at(&free, 16)),
                    },
                );
                put_u64(self.node_block(last)?, 40, au.0);
                let root = &mut self.controls.root;
                put_u32(root, ROOT_TABLE, u32::try_from(count).unwrap_or(u32::MAX));
                put_u64(root, ROOT_TABLE + 8, au.0);
                put_u64(root, ROOT_TABLE + 16, new_last.0);
                put_u64(root, ROOT_LAST, new_last.0);
            }
            kind => {
                let free = self.bytes(16, 24)?;
                let previous_first = BlockId(u64_at(&free, 8));
                let (list, structure, formatted) = if kind == 9 {
                    let formatted = FormattedAu::FileSpace { previous_first };
                    (CORE_FS_ROOT + 8, Structure::FsBlock, formatted)
                } else {
                    let formatted = FormattedAu::Aux { previous_first };
                    (CORE_AUX_ROOT + 8, Structure::AuxBlock, formatted)
                };
                self.blocks.format_au(au, formatted);
                self.push_list(list, &free, au, structure.per_au(self.au_bytes));
            }
        }
        Ok(())
    }

    /// The free list as it is after all blocks of an AU were put in front of the old one.
    fn push_list(&mut self, at: usize, old: &[u8], au: BlockId, blocks: u64) {
        let core = &mut self.controls.core;
        let count = u64_at(old, 0);
        put_u64(core, at, count.saturating_add(blocks));
        put_u64(core, at + 8, au.with_block(blocks - 1).0);
        let last = if count == 0 { au.0 } else { u64_at(old, 16) };
        put_u64(core, at + 16, last);
    }

    /// Allocated: the node, its previous sibling, its parent. Freed: parent, both siblings, the
    /// node.
    fn nodes(&mut self, count: usize) -> Result<(), B::Error> {
        let table = self.bytes(0, ROOT_TABLE_BYTES)?;
        self.controls.root[ROOT_TABLE..ROOT_TABLE + ROOT_TABLE_BYTES].copy_from_slice(&table);
        let allocated = self.kind == 4;
        for number in 0..count {
            let node = self.bytes(ROOT_TABLE_BYTES + NODE_BYTES * number, NODE_BYTES)?;
            let is_empty = u64_at(&node, 32) == 0;
            let Some(block) = self.set_node(&node)? else {
                continue;
            };
            if allocated && number == 0 {
                block[24] = USED;
            } else if !allocated && number == 3 && is_empty {
                block[24] = FREE;
            }
        }
        Ok(())
    }

    fn recycle(&mut self) -> Result<(), B::Error> {
        for number in 0..3 {
            let node = self.bytes(NODE_BYTES * number, NODE_BYTES)?;
            self.set_node(&node)?;
        }
        Ok(())
    }

    fn size(&mut self) -> Result<(), B::Error> {
        let (size, old) = (self.id(8)?.0, self.id(16)?.0);
        let block = self.node_block(self.id(0)?)?;
        put_u64(block, NODE_AT + 32, size);
        for field in [160, 184] {
            let value = u64_at(block, NODE_AT + field).min(size);
            put_u64(block, NODE_AT + field, value);
        }
        if size < old {
            let truncations = u64_at(block, NODE_AT + 176).wrapping_add(1);
            put_u64(block, NODE_AT + 176, truncations);
        }
        Ok(())
    }

    fn name(&mut self) -> Result<(), B::Error> {
        let name = self.bytes(NODE_BYTES, 64)?;
        let block = self.node_block(self.id(64)?)?;
        block[NODE_AT + 88..NODE_AT + 152].copy_from_slice(&name);
        Ok(())
    }

    fn flags(&mut self) -> Result<(), B::Error> {
        let flags = self.u32(8)?;
        put_u32(self.node_block(self.id(0)?)?, NODE_AT + 28, flags);
        Ok(())
    }

    fn allocate_fs_block(&mut self) -> Result<(), B::Error> {
        let (id, owner, index) = (self.id(0)?, self.id(8)?, self.u16(48)?);
        let list = self.bytes(16, 32)?;
        let block = self.blocks.block(Structure::FsBlock, id)?;
        block[24] = USED;
        put_u64(block, 32, BlockId::NONE.0);
        put_u64(block, 40, owner.0);
        put_u16(block, 48, 0);
        put_u16(block, 52, index);
        put_u64(block, ENTRIES_AT, BlockId::NONE.0);
        self.controls.core[CORE_FS_ROOT..CORE_FS_ROOT + 32].copy_from_slice(&list);
        Ok(())
    }

    fn free_fs_block(&mut self) -> Result<(), B::Error> {
        let (id, next) = (self.id(16)?, self.id(32)?);
        let block = self.blocks.block(Structure::FsBlock, id)?;
        block[24] = FREE;
        put_u64(block, 32, next.0);
        put_u64(block, 40, BlockId::FREE.0);
        put_u16(block, 52, super::FREE_BLOCK_INDEX);
        Ok(())
    }

    /// One entry of an FS block: where the payload has its index, its value and the used entries.
    fn entry(&mut self, index: usize, value: usize, used: usize) -> Result<(), B::Error> {
        let (id, value) = (self.id(0)?, self.id(value)?);
        let at = self.entry_at(self.u16(index)?, 1)?;
        let used = self.u16(used)?;
        let block = self.blocks.block(Structure::FsBlock, id)?;
        put_u64(block, at, value.0);
        put_u16(block, 48, used);
        Ok(())
    }

    fn entries(&mut self) -> Result<(), B::Error> {
        let (id, used, old) = (self.id(0)?, self.u16(8)?, self.u16(10)?);
        let count = usize::from(used.saturating_sub(old));
        let at = self.entry_at(old, count)?;
        let values = self.bytes(16, 8 * count)?;
        let block = self.blocks.block(Structure::FsBlock, id)?;
        block[at..at + values.len()].copy_from_slice(&values);
        put_u16(block, 48, used);
        Ok(())
    }

    fn move_entries(&mut self) -> Result<(), B::Error> {
        let (source, target) = (self.id(0)?, self.id(8)?);
        let [source_begin, target_begin] = [self.u16(16)?, self.u16(18)?];
        let [source_used, target_used] = [self.u16(20)?, self.u16(22)?];
        let count = self.u16(24)?;
        let moved = self.bytes(32, 8 * usize::from(count))?;
        let from = self.entry_at(source_begin, usize::from(count))?;
        let to = self.entry_at(target_begin, usize::from(count))?;
        let block = self.blocks.block(Structure::FsBlock, target)?;
        block[to..to + moved.len()].copy_from_slice(&moved);
        put_u16(block, 48, target_used.saturating_add(count));
        let block = self.blocks.block(Structure::FsBlock, source)?;
        block[from..from + moved.len()].fill(0xff);
        put_u16(block, 48, source_used.saturating_sub(count));
        Ok(())
    }

    fn allocate_aux(&mut self) -> Result<(), B::Error> {
        let (id, owner, index) = (self.id(0)?, self.id(8)?, self.u16(16)?);
        let list = self.bytes(24, 32)?;
        let bitmap = self.bitmap_length();
        let block = self.blocks.block(Structure::AuxBlock, id)?;
        take_aux(block, owner, BlockId::NONE, index, bitmap);
        self.controls.core[CORE_AUX_ROOT..CORE_AUX_ROOT + 32].copy_from_slice(&list);
        Ok(())
    }

    fn free_aux(&mut self) -> Result<(), B::Error> {
        let (id, next) = (self.id(0)?, self.id(8)?);
        let list = self.bytes(16, 32)?;
        let block = self.blocks.block(Structure::AuxBlock, id)?;
        block[24] = FREE;
        put_u64(block, 32, next.0);
        put_u64(block, 40, BlockId::NONE.0);
        put_u16(block, 60, super::FREE_BLOCK_INDEX);
        self.controls.core[CORE_AUX_ROOT..CORE_AUX_ROOT + 32].copy_from_slice(&list);
        Ok(())
    }

    fn initialise_aux(&mut self) -> Result<(), B::Error> {
        let (id, data, owner) = (self.id(0)?, self.id(8)?, self.id(16)?);
        let block = self.blocks.block(Structure::AuxBlock, id)?;
        put_u64(block, 40, owner.0);
        put_u64(block, 48, data.0 | FLAG);
        Ok(())
    }

    fn aux_entries(&mut self) -> Result<(), B::Error> {
        let (fs_block, first, owner) = (self.id(0)?, self.id(8)?, self.id(16)?);
        let (old, count) = (self.u16(24)?, self.u16(26)?);
        let list = self.bytes(32, 24)?;
        let ids = self.bytes(56, 8 * usize::from(count))?;
        let at = self.entry_at(old, usize::from(count))?;
        let bitmap = self.bitmap_length();
        let last_au = first.au().saturating_add(u64::from(count));
        if first.is_nothing() || last_au >> 34 != 0 {
            return Err(self.problem("names AUs that no volume has"));
        }
        for (index, id) in (old..).zip(ids.chunks_exact(8)) {
            let id = BlockId(u64_at(id, 0)).without_item();
            let au = first.au() + u64::from(index - old);
            let data = BlockId(BlockId::new(first.volume(), au, 0).0 | FLAG);
            let block = self.blocks.block(Structure::AuxBlock, id)?;
            take_aux(block, owner, data, index, bitmap);
        }
        let block = self.blocks.block(Structure::FsBlock, fs_block)?;
        for (number, id) in ids.chunks_exact(8).enumerate() {
            put_u64(block, at + 8 * number, u64_at(id, 0) | FLAG);
        }
        put_u16(block, 48, old.saturating_add(count));
        self.controls.core[CORE_AUX_ROOT + 8..CORE_AUX_ROOT + 32].copy_from_slice(&list);
        Ok(())
    }

    fn bitmap_length(&self) -> usize {
        usize::try_from(bitmap_bytes(self.au_bytes)).expect("at most 1 KiB")
    }
}

/// The flag of an entry that leads to an FS-aux block, and of an AU that is not wholly initialised.
const FLAG: u64 = 1 << 61;

fn take_aux(block: &mut [u8], owner: BlockId, data: BlockId, index: u16, bitmap: usize) {
    block[24] = USED;
    put_u64(block, 32, BlockId::NONE.0);
    put_u64(block, 40, owner.0);
    put_u64(block, 48, data.0);
    put_u16(block, 60, index);
    block[BITMAP_AT..BITMAP_AT + bitmap].fill(0xff);
}

/// A block of an AU that was just formatted, its checksum included.
///
/// # Panics
/// When the AU has no such block.
#[must_use]
pub fn formatted_block(formatted: FormattedAu, au_bytes: u64, id: BlockId) -> Vec<u8> {
    let (au, number) = (id.whole_au(), id.block());
    let structure = formatted.structure();
    assert!(number < structure.per_au(au_bytes));
    let before = |first: BlockId| match number {
        0 => first.0,
        _ => au.with_block(number - 1).0,
    };
    let mut block = vec![0; structure.bytes()];
    match formatted {
        FormattedAu::FileTable { previous_last } => {
            let is_last = number + 1 == structure.per_au(au_bytes);
            let next = match is_last {
                true => BlockId::NONE.0,
                false => au.with_block(number + 1).0,
            };
            put_u32(&mut block, 32, 1);
            put_u64(&mut block, 40, next);
            put_u64(&mut block, NODE_AT + 64, id.0);
            put_u64(&mut block, NODE_AT + 72, next);
            put_u64(&mut block, NODE_AT + 80, before(previous_last));
            put_u64(&mut block, NODE_AT + 168, BlockId::FREE.0);
        }
        FormattedAu::FileSpace { previous_first } => {
            block.fill(0xff);
            put_u32(&mut block, 4, 1);
            put_u64(&mut block, 8, 0);
            put_u64(&mut block, 32, before(previous_first));
            put_u64(&mut block, 40, BlockId::FREE.0);
            put_u16(&mut block, 48, 0);
            let total = u16::try_from(FS_BLOCK_ENTRIES).expect("2041");
            put_u16(&mut block, 50, total);
            put_u16(&mut block, 52, super::FREE_BLOCK_INDEX);
        }
        FormattedAu::Aux { previous_first } => {
            let bitmap = usize::try_from(bitmap_bytes(au_bytes)).expect("at most 1 KiB");
            put_u32(&mut block, 4, 2);
            put_u64(&mut block, 32, before(previous_first));
            put_u64(&mut block, 40, BlockId::NONE.0);
            put_u64(&mut block, 48, BlockId::NONE.0);
            put_u32(
                &mut block,
                56,
                u32::try_from(bitmap).expect("at most 1 KiB"),
            );
            put_u16(&mut block, 60, super::FREE_BLOCK_INDEX);
            block[BITMAP_AT..BITMAP_AT + bitmap].fill(0xff);
        }
    }
    put_u64(&mut block, 16, id.0);
    block[24] = FREE;
    structure.seal(&mut block);
    block
}
