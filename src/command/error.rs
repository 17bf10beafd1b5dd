//! The public error: the union of what the commands can fail with.

use crate::catalog::lock::LockError;
use crate::catalog::{CatalogError, ChainError};
use crate::storage::StorageError;
use std::path::PathBuf;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The catalog is not as it has to be.
    #[error(transparent)]
    Catalog(CatalogError),
    /// A backup has no chain down to a FULL backup.
    #[error(transparent)]
    Chain(ChainError),
    /// A backup could not be locked.
    #[error(transparent)]
    Lock(LockError),
    /// A file or directory outside of the catalog cannot be used.
    #[error(transparent)]
    Storage(StorageError),
    /// The file that identifies a cluster cannot be read.
    #[error("Could not open file \"{path}\" for reading", path = path.display())]
    OpenControlFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file that identifies a cluster is damaged or of another kind of server.
    #[error("\"{path}\" is not the pg_control of a supported server: {reason}", path = path.display())]
    NotAControlFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// What was asked for cannot be done; the text is the whole message.
    #[error("{0}")]
    Refused(String),
}

impl Error {
    /// What a person can do about it, where that is not obvious.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Catalog(CatalogError::Lock(error)) | Error::Lock(error) => lock_hint(error),
            Error::Catalog(error) => catalog_hint(error),
            Error::Chain(ChainError::ParentMissing { .. } | ChainError::Unreadable { .. }) => Some(
                "an older or newer FULL backup and its increments may still be complete; \
                      see the command show"
                    .to_owned(),
            ),
            Error::OpenControlFile { .. } => {
                Some("-D has to name the data directory of a cluster".to_owned())
            }
            _ => None,
        }
    }
}

fn lock_hint(error: &LockError) -> Option<String> {
    match error {
        LockError::InUse { pid, .. } => Some(format!(
            "wait until process {pid} ends, or look at it with: ps -fp {pid}"
        )),
        _ => None,
    }
}

fn catalog_hint(error: &CatalogError) -> Option<String> {
    let hint = match error {
        CatalogError::NoDirectory { .. } => "make the catalog first with the command init",
        CatalogError::NoInstance { .. } => {
            "the command show lists the instances; add-instance adds one"
        }
        CatalogError::BackupExists { .. } => "one backup can begin every second: try again",
        CatalogError::CatalogExists => "name a directory that is empty or does not exist",
        _ => return None,
    };
    Some(hint.to_owned())
}

impl From<CatalogError> for Error {
    fn from(error: CatalogError) -> Error {
        Error::Catalog(error)
    }
}

impl From<ChainError> for Error {
    fn from(error: ChainError) -> Error {
        Error::Chain(error)
    }
}

impl From<LockError> for Error {
    fn from(error: LockError) -> Error {
        Error::Lock(error)
    }
}

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Error {
        Error::Storage(error)
    }
}
