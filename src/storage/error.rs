//! Errors of the storage layer: what was tried, on which path, why it failed.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// An operation on a file or directory failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} \"{path}\"", path = path.display())]
pub struct StorageError {
    /// What was tried: `open`, `rename`, …
    pub operation: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why it failed.
    pub source: std::io::Error,
}

impl StorageError {
    /// The error of `operation` on `path`.
    #[must_use]
    pub fn new(operation: &'static str, path: &Path, source: impl Into<std::io::Error>) -> Self {
        StorageError {
            operation,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// Whether the file or a directory above it does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == ErrorKind::NotFound
    }

    /// Whether the device is full or the user's quota is.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(
            self.source.kind(),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded
        )
    }
}
