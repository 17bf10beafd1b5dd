//! Changed block maps: the files in which openGauss notes the blocks that its WAL changes.
//!
//! ```text
//! pg_cbm/pg_xlog_<sequence>_<start>_<end>.cbm    sequence decimal, positions 16 hexadecimal
//!                                                digits; end 0 while it is being written
//! ```
//!
//! A file is an array of pages ([`CbmPage`]). Consecutive pages with the same positions are a
//! batch: what WAL between these positions changed. The next batch begins where the last one ended,
//! and the next file where the last file ended. Only the last file may end with an incomplete
//! batch: the server writes batches page by page and cuts off an incomplete one when it starts.
//!
//! Source: openGauss `src/include/access/cbmparsexlog.h`,
//! `src/gausskernel/storage/access/transam/cbmparsexlog.cpp`; for the rows `cbmfuncs.cpp` there.

#[cfg(any(test, feature = "testing"))]
pub mod builder;
mod file;
mod map;
mod page;
#[cfg(test)]
mod tests;

pub use file::{CbmFileName, CbmPages, complete_bytes};
pub use map::{CbmMap, CbmRow, RelationFork};
pub use page::{CBM_PAGE_BYTES, CbmChange, CbmPage, CbmPageFault, PAGE_BLOCKS, RelationNumbers};

/// Why a file of changed block maps cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("page at offset {offset}: {fault}")]
pub struct CbmFault {
    /// Where the page begins in the file.
    pub offset: u64,
    /// What is wrong with it.
    pub fault: CbmPageFault,
}
