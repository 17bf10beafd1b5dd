//! The transfer core: extents go through read, CPU work and write, joined by a bounded buffer pool.
//!
//! One loop ([`transfer()`]) moves the bytes; what happens to them is a `Kind`: backup, validate
//! and restore differ only in that. I/O runs on the calling thread, which owns the engine; CPU work
//! runs on a rayon pool and never waits for I/O.
//!
//! Invariants:
//!
//! * Peak memory is [`Budget::bytes`] plus compact per-file records, whatever the size of the
//!   cluster.
//! * Extents of a file are read in order and collected in order, so equal input gives equal output
//!   on any number of threads.
//! * After the first failure nothing new is started, what is in flight is waited for, and the
//!   failure is returned.

mod backup;
mod budget;
mod chain_file;
mod compare;
mod crc_parts;
mod crc_shift;
mod error;
mod feed;
mod header_map;
mod kind;
mod merge_file;
mod merge_map;
mod merge_overwrite;
mod merge_piece;
mod merge_scan;
mod merge_sources;
mod page_encoder;
mod per_thread;
mod present;
mod rebuild;
mod records;
mod restore;
mod selection;
mod slab;
mod space_maps;
mod stream_writer;
mod transfer;
mod validate;
mod wal_segments;
mod wanted_pages;

pub use backup::{BackedUpFile, BackupItem, BackupKind, Content, KeptPages};
pub use budget::Budget;
pub use chain_file::{ChainFile, ChainMember, MemberFile, PageSource};
pub use compare::{CompareItem, CompareKind, Existing};
pub use error::PipelineError;
pub use header_map::{EncodedHeaders, HeaderMapFile, HeaderMapReader};
pub use merge_file::{MergeItem, MergeKind, MergedFile};
pub use merge_map::MergedHeaderMap;
pub use merge_overwrite::{OverwriteItem, OverwriteKind};
pub use merge_scan::{PagesOfFile, ScannedFile, file_crc, scan_file};
pub use merge_sources::{MergeCopies, MergePart};
pub use page_encoder::KeptCount;
pub use rebuild::{RebuildItem, RebuildKind};
pub use restore::{RestoreItem, RestoreKind};
pub use selection::Selection;
pub use space_maps::{PageUse, SpaceMaps};
pub use transfer::{Settings, transfer};
pub use validate::{Finding, ValidateItem, ValidateKind};
pub use wal_segments::{WalSegment, WalSegments, WalSegmentsError};

use kind::{Kind, Processed, ReadRange, Write};
