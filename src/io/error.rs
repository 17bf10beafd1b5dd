//! Errors of the I/O engines: what was tried, on which file, at which offset, why it failed.

use std::path::PathBuf;

/// A read, write or sync failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} \"{path}\" at offset {offset}", path = path.display())]
pub struct IoError {
    /// What was tried: `read`, `write`, `fsync`, …
    pub operation: &'static str,
    /// On what.
    pub path: PathBuf,
    /// First byte of the request.
    pub offset: u64,
    /// Why it failed.
    pub source: std::io::Error,
}
