//! A new volume group of one volume: what its server's tool writes, and nothing more.
//!
//! 1. Head: both copies of all controls. The bytes between them are zeros.
//! 2. The redo ring behind the head, which has to be zeros: an old batch in there could have the
//!    lsn that is due.
//! 3. The first unit of the file table, with the directory `.recycle` in its first block.
//!
//! Byte for byte what `dsscmd cv` makes of a zeroed device, times apart.
//!
//! Source: DSS `dss_vg_create`, `dss_init_vol_ctrl`, `dss_alloc_ft_au`.

use super::file_table::NODE_AT;
use super::volume::{INITIALISED, SOFTWARE_VERSION, TYPE_ENTRY, is_name};
use super::{
    BlockId, COPY_OFFSET, DssFormatError, FormattedAu, NODE_SYSTEM, Structure, formatted_block,
    head_bytes,
};
use crate::format::little_endian::{put_u32, put_u64};
use crate::limits::{DSS_AU_BYTES_MAX, DSS_AU_BYTES_MIN};
use std::ops::Range;

/// Protocol version of the servers that this is byte for byte the same as.
const PROTOCOL_VERSION: u32 = 4;
/// Bytes of the redo ring, unless a unit is larger.
const REDO_BYTES: u64 = 64 << 20;
/// Bytes of a name and of a device path, their terminators included.
const TEXT_BYTES: usize = 64;

/// The group to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewGroup {
    /// Its name.
    pub name: String,
    /// The device path that it says that it is on.
    pub device: String,
    /// Bytes of an allocation unit: a power of two from 2 to 64 MiB.
    pub au_bytes: u64,
    /// Bytes of the device.
    pub size_bytes: u64,
    /// Seconds since 1970, and microseconds.
    pub time: (u64, u64),
}

/// Bytes to be written, and where.
pub type Write = (u64, Vec<u8>);

impl NewGroup {
    /// What to write, in this order: the file table, the second copies, the first copies, and last
    /// the header, which makes the device a volume.
    ///
    /// # Errors
    /// Where there can be no such group.
    pub fn writes(&self) -> Result<Vec<Write>, DssFormatError> {
        let au = self.table()?;
        let formatted = FormattedAu::FileTable {
            previous_last: BlockId::NONE,
        };
        let blocks = Structure::FileTableBlock.per_au(self.au_bytes);
        let mut table: Vec<u8> = (0..blocks)
            .flat_map(|block| formatted_block(formatted, self.au_bytes, au.with_block(block)))
            .collect();
        self.use_first_block(&mut table[..Structure::FileTableBlock.bytes()], au);
        let start = au.au() * self.au_bytes;
        let mut writes = vec![(start, table)];
        let controls = [
            (Structure::CoreControl, self.core(au)),
            (Structure::VolumeControl, self.volumes()),
            (Structure::RootBlock, self.root(au, blocks)),
            (Structure::RedoControl, self.redo()),
            (Structure::VolumeHeader, self.header()),
        ];
        for copy in [COPY_OFFSET, 0] {
            for (structure, slot) in &controls {
                writes.push((copy + structure.offset(), slot.clone()));
            }
        }
        Ok(writes)
    }

    /// Bytes of the device that no file can have, if there can be such a group.
    ///
    /// # Errors
    /// Where there can be none.
    pub fn check(&self) -> Result<u64, DssFormatError> {
        self.table()?;
        Ok(self.used_bytes())
    }

    /// The unit of the file table.
    fn table(&self) -> Result<BlockId, DssFormatError> {
        let error = |field, value| DssFormatError::field("new group", field, value);
        let possible = DSS_AU_BYTES_MIN..=DSS_AU_BYTES_MAX;
        if !self.au_bytes.is_power_of_two() || !possible.contains(&self.au_bytes) {
            let field = "an allocation unit that is no power of two from 2 to 64 MiB: bytes";
            return Err(error(field, self.au_bytes));
        }
        if !is_name(&self.name) || self.name.len() >= TEXT_BYTES {
            return Err(error(
                "a name that is none, of bytes",
                self.name.len() as u64,
            ));
        }
        if self.device.is_empty() || self.device.len() >= TEXT_BYTES {
            let field = "a device path that does not fit, of bytes";
            return Err(error(field, self.device.len() as u64));
        }
        if self.size_bytes < self.used_bytes() {
            return Err(error("too small a device, of bytes", self.size_bytes));
        }
        let before = head_bytes(self.au_bytes) + self.redo_bytes();
        Ok(BlockId::new(0, before / self.au_bytes, 0))
    }

    /// The bytes of the device that are its redo ring.
    #[must_use]
    pub fn ring(&self) -> Range<u64> {
        let start = head_bytes(self.au_bytes);
        start..start + self.redo_bytes()
    }

    fn redo_bytes(&self) -> u64 {
        REDO_BYTES.max(self.au_bytes)
    }

    fn used_bytes(&self) -> u64 {
        head_bytes(self.au_bytes) + self.redo_bytes() + self.au_bytes
    }

    fn header(&self) -> Vec<u8> {
        let mut slot = vec![0; Structure::VolumeHeader.bytes()];
        put_u32(&mut slot, 4, TYPE_ENTRY);
        put_text(&mut slot, 12, &self.device);
        put_text(&mut slot, 76, &self.name);
        put_u32(&mut slot, 140, INITIALISED);
        put_u32(&mut slot, 144, SOFTWARE_VERSION);
        put_u64(&mut slot, 152, self.time.0);
        put_u64(&mut slot, 160, self.time.1);
        put_u32(&mut slot, 184, PROTOCOL_VERSION);
        Structure::VolumeHeader.seal(&mut slot);
        slot
    }

    fn core(&self, table: BlockId) -> Vec<u8> {
        let mut slot = vec![0; Structure::CoreControl.bytes()];
        // Written when it is made, and again when the first unit is taken.
        put_u64(&mut slot, 8, 1);
        let au_bytes = u32::try_from(self.au_bytes).expect("at most 64 MiB");
        put_u32(&mut slot, 16, au_bytes);
        put_u32(&mut slot, 20, 1);
        put_u64(&mut slot, 40, BlockId::NONE.0);
        put_u64(&mut slot, 48, BlockId::NONE.0);
        put_u64(&mut slot, 96, table.0);
        put_u64(&mut slot, 104, 1);
        put_u64(&mut slot, 520, self.size_bytes);
        put_u64(&mut slot, 528, self.used_bytes());
        put_u64(&mut slot, 536, self.size_bytes - self.used_bytes());
        Structure::CoreControl.seal(&mut slot);
        slot
    }

    fn volumes(&self) -> Vec<u8> {
        let mut slot = vec![0; Structure::VolumeControl.bytes()];
        // State 1, occupied, behind 16 bits of id.
        put_u64(&mut slot, 512, 1 << 16);
        put_text(&mut slot, 528, &self.device);
        let crc = crc32c::crc32c(&slot[4..]);
        put_u32(&mut slot, 0, crc);
        slot
    }

    fn root(&self, table: BlockId, blocks: u64) -> Vec<u8> {
        let mut slot = vec![0; Structure::RootBlock.bytes()];
        put_u64(&mut slot, 8, 1);
        put_u32(&mut slot, 32, 1);
        put_u64(&mut slot, 40, table.0);
        let last = table.with_block(blocks - 1).0;
        put_u32(
            &mut slot,
            56,
            u32::try_from(blocks - 1).expect("at most 2^17"),
        );
        put_u64(&mut slot, 64, table.with_block(1).0);
        put_u64(&mut slot, 72, last);
        put_u32(&mut slot, 80, 1);
        put_u64(&mut slot, 104, 1);
        put_u64(&mut slot, 120, last);
        let node = &mut slot[NODE_AT..];
        put_u64(node, 8, self.time.0);
        // One child, first and last.
        put_u32(node, 40, 1);
        put_u64(node, 48, table.0);
        put_u64(node, 56, table.0);
        put_u64(node, 72, BlockId::NONE.0);
        put_u64(node, 80, BlockId::NONE.0);
        put_text(node, 88, &self.name);
        Structure::RootBlock.seal(&mut slot);
        slot
    }

    fn redo(&self) -> Vec<u8> {
        let mut slot = vec![0; Structure::RedoControl.bytes()];
        let start = head_bytes(self.au_bytes) / self.au_bytes;
        put_u64(&mut slot, 32, BlockId::new(0, start, 0).0);
        let bytes = u32::try_from(self.redo_bytes()).expect("64 MiB");
        put_u32(&mut slot, 96, bytes);
        put_u32(&mut slot, 128, 1);
        Structure::RedoControl.seal(&mut slot);
        slot
    }

    /// Makes `.recycle` of a free block.
    fn use_first_block(&self, slot: &mut [u8], table: BlockId) {
        slot[24] = 2;
        let node = &mut slot[NODE_AT..];
        node.fill(0);
        put_u64(node, 8, self.time.0);
        put_u64(node, 16, self.time.0);
        put_u32(node, 28, NODE_SYSTEM);
        put_u64(node, 48, BlockId::NONE.0);
        put_u64(node, 56, BlockId::NONE.0);
        put_u64(node, 64, table.0);
        put_u64(node, 72, BlockId::NONE.0);
        put_u64(node, 80, BlockId::NONE.0);
        put_text(node, 88, ".recycle");
        Structure::FileTableBlock.seal(slot);
    }
}

fn put_text(slot: &mut [u8], at: usize, text: &str) {
    slot[at..at + text.len()].copy_from_slice(text.as_bytes());
}
