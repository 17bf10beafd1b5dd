//! Volumes of DSS, openGauss's shared storage: volume groups of raw devices on which files lie
//! without a file system of the kernel.
//!
//! ```text
//! entry volume (id 0)                                    other volumes
//! 0        volume header       512                       volume header, nothing else used
//! 512      core control        16384
//! 16896    volume control      262144
//! 279040   root block          512 of 8192
//! 287232   redo control        512
//! 1 MiB    second copy of the first MiB
//! 4 MiB    rounded up to a unit: redo ring (entry volume), then units handed out in order
//! ```
//!
//! The rest of a volume is allocation units (AU) of 2 to 64 MiB. What is in one is written nowhere:
//! it is a unit of the file table, of FS blocks, of FS-aux blocks or of data by who refers to it.
//!
//! * [`BlockId`] names an AU, or a block in one.
//! * [`Structure`] has sizes and checksums; every structure begins with a CRC-32C of the rest.
//! * [`RootBlock`], [`FileTableBlock`] and [`Node`]: names, one chain of blocks with a node each.
//! * [`FsBlock`] and [`AuxBlock`]: where the bytes of a file are.
//! * [`RedoControl`], [`RedoBatch`] and [`replay()`]: the one transaction that may be half applied.
//!
//! Pure functions. Which copy of a control structure counts is decided by who reads them: the first
//! if its checksum is right, else the second; the server compares no versions either.
//!
//! Source: DSS `src/common/persist` (`dss_ctrl_def.h`, `dss_file_def.h`, `dss_redo.h`,
//! `dss_fs_aux.h`), software version 2.

mod control;
mod create;
mod entries;
mod error;
mod file_table;
mod id;
mod redo;
mod replay;
mod space;
mod structure;
#[cfg(test)]
mod tests;
mod vg_conf;
mod volume;

pub use control::{
    CoreControl, FreeList, VolumeAttributes, VolumeControl, VolumeSlot, VolumeState,
};
pub use create::{NewGroup, Write};
pub use entries::NodeTable;
pub use error::DssFormatError;
pub use file_table::{
    BlockHead, BlockState, FileTableBlock, NODE_AT, NODE_BYTES, NODE_DELETED, NODE_INNER_INITED,
    NODE_NORMAL, NODE_SYSTEM, Node, NodeKind, RootBlock,
};
pub use id::BlockId;
pub use redo::{RedoBatch, RedoControl, RedoEntry, RingPiece, batch_bytes};
pub use replay::{Controls, FormattedAu, ReplayBlocks, formatted_block, replay, replay_entry};
pub use space::{AuxBlock, ENTRY_BLOCK_INDEX, FREE_BLOCK_INDEX, FS_BLOCK_ENTRIES, FsBlock};
pub use structure::{COPY_OFFSET, HEAD_BYTES, Structure, head_bytes};
pub use vg_conf::{ConfLineError, parse_vg_conf};
pub use volume::{VolumeHeader, is_name, other_volume_header};
