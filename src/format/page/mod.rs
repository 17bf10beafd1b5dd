//! Data pages: header, layouts, checksum, verdict, and the compressed form of pages.
//!
//! Pure functions over byte slices. Pages come from disks and are hostile: nothing here panics on
//! what a page contains, only on slices of a wrong length.

mod changed;
mod checksum;
pub mod compressed;
mod compressed_page;
mod header;
mod layout;
#[cfg(test)]
mod tests;
mod verdict;

pub use crate::types::PAGE_SIZE;
pub use changed::page_changed_since;
pub use checksum::{data_checksum, page_checksum, page_checksums};
pub use header::{HeaderDefect, PageHeader};
pub use layout::PageLayout;
pub use verdict::{
    PageDefect, PageVerdict, is_segment_pca, is_zero_page, verify_compressed_page, verify_page,
    verify_pages,
};
