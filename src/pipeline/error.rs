//! Errors of the transfer core.

use crate::io::IoError;
use crate::storage::StorageError;
use crate::types::Location;

/// Why a transfer ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// Reading, writing or syncing failed.
    #[error(transparent)]
    Io(IoError),
    /// Opening or creating a file failed.
    #[error(transparent)]
    Storage(StorageError),
    /// A page of the source stays wrong however often it is read.
    #[error("Corruption detected in file \"{location}\": {detail}")]
    CorruptPage {
        /// The page.
        location: Location,
        /// What is wrong with it.
        detail: String,
    },
    /// A file of a backup does not hold what its list and page header map say.
    #[error("backup file \"{location}\" is damaged: {detail}")]
    DamagedBackup {
        /// The file or page.
        location: Location,
        /// What is wrong with it.
        detail: String,
    },
    /// The bytes of a file are moved whenever it is read.
    #[error("\"{name}\" was moved on its devices each of the {tries} times that it was copied")]
    Moving {
        /// The file.
        name: String,
        /// How often it was tried.
        tries: u32,
    },
    /// A signal asked the run to end.
    #[error("interrupted")]
    Interrupted,
}

impl From<StorageError> for PipelineError {
    fn from(error: StorageError) -> PipelineError {
        PipelineError::Storage(error)
    }
}

impl From<IoError> for PipelineError {
    fn from(error: IoError) -> PipelineError {
        PipelineError::Io(error)
    }
}
