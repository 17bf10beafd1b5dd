//! The structures of a volume: their sizes, places and checksums.
//!
//! Each begins with a CRC-32C of what follows, to the end of its slot. Structures other than the
//! volume header count their writes in 64 bits at offset 8.

use super::DssFormatError;
use crate::format::little_endian::{put_u32, put_u64, u32_at, u64_at};

/// Distance of the second copy of every control structure from the first.
pub const COPY_OFFSET: u64 = 1 << 20;

/// Bytes at the start of every volume that are never handed out, before rounding.
pub const HEAD_BYTES: u64 = 4 << 20;

/// Bytes of a volume that are never handed out.
#[must_use]
pub fn head_bytes(au_bytes: u64) -> u64 {
    HEAD_BYTES.next_multiple_of(au_bytes)
}

/// A kind of structure.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Structure {
    /// Of a volume.
    VolumeHeader,
    /// Of a group: sizes and free lists.
    CoreControl,
    /// Of a group: the volumes.
    VolumeControl,
    /// Of the file table.
    RootBlock,
    /// Of the redo ring.
    RedoControl,
    /// One file or directory.
    FileTableBlock,
    /// Where a file's bytes are.
    FsBlock,
    /// What of a unit is initialised.
    AuxBlock,
}

impl Structure {
    /// The control structures of the entry volume.
    pub const CONTROLS: [Structure; 5] = [
        Structure::VolumeHeader,
        Structure::CoreControl,
        Structure::VolumeControl,
        Structure::RootBlock,
        Structure::RedoControl,
    ];

    /// Bytes of its slot, checksum included.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Structure::VolumeHeader
            | Structure::RootBlock
            | Structure::RedoControl
            | Structure::FileTableBlock => 512,
            Structure::CoreControl | Structure::FsBlock => 16384,
            Structure::VolumeControl => 262_144,
            Structure::AuxBlock => 1536,
        }
    }

    /// Where the first copy of a control structure is; 0 for blocks of units.
    #[must_use]
    pub const fn offset(self) -> u64 {
        match self {
            Structure::CoreControl => 512,
            Structure::VolumeControl => 16896,
            Structure::RootBlock => 279_040,
            Structure::RedoControl => 287_232,
            _ => 0,
        }
    }

    /// Its name in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Structure::VolumeHeader => "volume header",
            Structure::CoreControl => "core control",
            Structure::VolumeControl => "volume control",
            Structure::RootBlock => "root block",
            Structure::RedoControl => "redo control",
            Structure::FileTableBlock => "file table block",
            Structure::FsBlock => "FS block",
            Structure::AuxBlock => "FS-aux block",
        }
    }

    /// Blocks of it in a unit.
    #[must_use]
    pub const fn per_au(self, au_bytes: u64) -> u64 {
        au_bytes / self.bytes() as u64
    }

    /// Checks the checksum of a slot.
    ///
    /// # Errors
    /// Where it is wrong.
    ///
    /// # Panics
    /// When `slot` has another length than the structure.
    pub fn verify(self, slot: &[u8]) -> Result<(), DssFormatError> {
        assert_eq!(slot.len(), self.bytes());
        let (stored, computed) = (u32_at(slot, 0), crc32c::crc32c(&slot[4..]));
        if stored == computed {
            return Ok(());
        }
        Err(DssFormatError::Checksum {
            what: self.name(),
            stored,
            computed,
        })
    }

    /// Sets the checksum of a slot that was changed, and counts the write.
    ///
    /// # Panics
    /// When `slot` has another length than the structure.
    pub fn seal(self, slot: &mut [u8]) {
        assert_eq!(slot.len(), self.bytes());
        if self != Structure::VolumeHeader {
            let version = u64_at(slot, 8).wrapping_add(1);
            put_u64(slot, 8, version);
        }
        let crc = crc32c::crc32c(&slot[4..]);
        put_u32(slot, 0, crc);
    }
}
