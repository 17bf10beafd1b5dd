//! Core control and volume control: the sizes of a group, its free lists, its volumes.
//!
//! ```text
//! core control                                  volume control
//! 0    u32  checksum                            0    u32  checksum
//! 8    u64  version                             8    u64  version
//! 16   u32  bytes of an AU                      512  256 slots of 256 bytes:
//! 20   u32  volumes                                  0   u64      bits 0-15 id, 16-18 state
//! 32   u64, id, id  free FS blocks                   8   u64      version
//! 96   id   directory .recycle                       16  char 64  device path
//! 104  u64  AUs ever taken from the volumes
//! 160  u64, id, id  free FS-aux blocks
//! 512  256 times 32 bytes:
//!      0   u64  bits 1-16 id
//!      8   u64  bytes of the device
//!      16  u64  bytes handed out, head included
//!      24  u64  bytes that are left
//! ```
//!
//! Source: `dss_ctrl_def.h`, `dss_core_ctrl_t`, `dss_volume_ctrl_t`.

use super::{BlockId, DssFormatError, Structure, volume};
use crate::format::little_endian::{u32_at, u64_at};
use crate::limits::{DSS_AU_BYTES_MAX, DSS_AU_BYTES_MIN, DSS_VOLUMES_MAX};

/// The lowest 16 bits.
fn low_bits(word: u64) -> u16 {
    let [low, high, ..] = word.to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// A list of free blocks, linked in the blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FreeList {
    /// How many there are; where it is 0 the ids may be anything.
    pub count: u64,
    /// The next one to be taken.
    pub first: BlockId,
    /// The last one.
    pub last: BlockId,
}

impl FreeList {
    pub(super) fn at(bytes: &[u8], offset: usize) -> FreeList {
        FreeList {
            count: u64_at(bytes, offset),
            first: BlockId(u64_at(bytes, offset + 8)),
            last: BlockId(u64_at(bytes, offset + 16)),
        }
    }
}

/// How much of a volume is handed out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VolumeAttributes {
    /// The volume's number.
    pub id: u16,
    /// Bytes of the device when the volume was added.
    pub size_bytes: u64,
    /// Bytes handed out, from the start on.
    pub used_bytes: u64,
    /// Bytes that are left.
    pub free_bytes: u64,
}

/// The core control of a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CoreControl {
    /// Writes of the structure.
    pub version: u64,
    /// Bytes of an AU.
    pub au_bytes: u64,
    /// Volumes of the group.
    pub volume_count: u32,
    /// Free FS blocks.
    pub free_fs_blocks: FreeList,
    /// Free FS-aux blocks.
    pub free_aux_blocks: FreeList,
    /// The directory of what waits to be used again.
    pub recycle: BlockId,
    /// AUs ever taken from the volumes; head and redo ring are not counted.
    pub taken_aus: u64,
    /// One a possible volume id.
    pub volumes: Vec<VolumeAttributes>,
}

impl CoreControl {
    /// Reads a slot whose checksum was verified.
    ///
    /// # Errors
    /// Where sizes are impossible.
    ///
    /// # Panics
    /// When `slot` has not the length of the structure.
    pub fn parse(slot: &[u8]) -> Result<CoreControl, DssFormatError> {
        assert_eq!(slot.len(), Structure::CoreControl.bytes());
        let what = Structure::CoreControl.name();
        let au_bytes = u64::from(u32_at(slot, 16));
        let possible = DSS_AU_BYTES_MIN..=DSS_AU_BYTES_MAX;
        if !au_bytes.is_power_of_two() || !possible.contains(&au_bytes) {
            let field = "an allocation unit that is no power of two from 2 to 64 MiB: bytes";
            return Err(DssFormatError::field(what, field, au_bytes));
        }
        let volume_count = u32_at(slot, 20);
        if !(1..=DSS_VOLUMES_MAX).contains(&(volume_count as usize)) {
            let field = "an impossible number of volumes:";
            return Err(DssFormatError::field(what, field, volume_count.into()));
        }
        let attributes = (0..DSS_VOLUMES_MAX).map(|slot_number| {
            let at = 512 + 32 * slot_number;
            VolumeAttributes {
                id: low_bits(u64_at(slot, at) >> 1),
                size_bytes: u64_at(slot, at + 8),
                used_bytes: u64_at(slot, at + 16),
                free_bytes: u64_at(slot, at + 24),
            }
        });
        Ok(CoreControl {
            version: u64_at(slot, 8),
            au_bytes,
            volume_count,
            free_fs_blocks: FreeList::at(slot, 32),
            free_aux_blocks: FreeList::at(slot, 160),
            recycle: BlockId(u64_at(slot, 96)),
            taken_aus: u64_at(slot, 104),
            volumes: attributes.collect(),
        })
    }
}

/// What a slot of the volume control is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VolumeState {
    /// Nothing.
    Free,
    /// A volume.
    Occupied,
    /// A volume that was added and not yet registered; it holds no data.
    Prepare,
    /// Adding it offline was interrupted.
    Add,
    /// Removing it offline was interrupted.
    Remove,
    /// Replacing it offline was interrupted.
    Replace,
    /// A number without a meaning.
    Unknown(u16),
}

impl VolumeState {
    fn from_number(number: u16) -> VolumeState {
        match number {
            0 => VolumeState::Free,
            1 => VolumeState::Occupied,
            2 => VolumeState::Prepare,
            3 => VolumeState::Add,
            4 => VolumeState::Remove,
            5 => VolumeState::Replace,
            _ => VolumeState::Unknown(number),
        }
    }

    /// Its name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            VolumeState::Free => "free",
            VolumeState::Occupied => "occupied",
            VolumeState::Prepare => "prepare",
            VolumeState::Add => "add",
            VolumeState::Remove => "remove",
            VolumeState::Replace => "replace",
            VolumeState::Unknown(_) => "unknown",
        }
    }

    /// Whether files can have data there.
    #[must_use]
    pub fn may_hold_data(self) -> bool {
        !matches!(
            self,
            VolumeState::Free | VolumeState::Prepare | VolumeState::Add
        )
    }
}

/// A slot of the volume control.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeSlot {
    /// The volume's number.
    pub id: u16,
    /// What the slot is used for.
    pub state: VolumeState,
    /// Device path as the server's hosts see it.
    pub device: String,
}

/// The volume control of a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeControl {
    /// Writes of the structure.
    pub version: u64,
    /// One a possible volume id.
    pub slots: Vec<VolumeSlot>,
}

impl VolumeControl {
    /// Reads a slot whose checksum was verified.
    ///
    /// # Panics
    /// When `slot` has not the length of the structure.
    #[must_use]
    pub fn parse(slot: &[u8]) -> VolumeControl {
        assert_eq!(slot.len(), Structure::VolumeControl.bytes());
        let slots = (0..DSS_VOLUMES_MAX).map(|number| {
            let at = 512 + 256 * number;
            let word = u64_at(slot, at);
            VolumeSlot {
                id: low_bits(word),
                state: VolumeState::from_number(low_bits(word >> 16) & 7),
                device: volume::text(&slot[at + 16..at + 80]),
            }
        });
        VolumeControl {
            version: u64_at(slot, 8),
            slots: slots.collect(),
        }
    }
}
