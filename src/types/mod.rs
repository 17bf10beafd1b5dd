//! The nouns every layer shares. No I/O, no byte layouts.

mod backup_id;
mod block;
mod changed_blocks;
mod compress_algorithm;
mod location;
mod lsn;
mod server_flavor;
mod timeline;

pub use backup_id::BackupId;
pub use block::{BlockNumber, FileBlock, PAGE_SIZE, RELSEG_SIZE, SegmentNumber};
pub use changed_blocks::{
    BlockSet, COMPRESSED_SEGMENT_BLOCKS, ChangedBlocks, FileBlocks, FileChanges, ForkChanges,
    UnknownPath,
};
pub use compress_algorithm::CompressAlgorithm;
pub use location::Location;
pub use lsn::Lsn;
pub use server_flavor::ServerFlavor;
pub use timeline::TimelineId;
