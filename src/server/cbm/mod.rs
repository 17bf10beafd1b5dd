//! Which blocks changed between two points in WAL, as an openGauss server tracks it.
//!
//! There are two sources with the same result: the files that the server writes
//! ([`read_cbm_directory`]) and its function that reads them ([`changed_blocks_by_sql`]). Both go
//! by whole batches: what changed shortly before the one point and behind the other may be
//! included.
//!
//! Tracking runs behind WAL. [`wait_until_tracked`] waits for it, as long as it moves.

mod directory;
#[cfg(test)]
mod directory_tests;
mod error;
mod sql;
#[cfg(test)]
mod sql_tests;

pub use directory::read_cbm_directory;
pub use error::CbmError;
pub use sql::{CbmWait, ChangedBlockRows, changed_blocks_by_sql, wait_until_tracked};
