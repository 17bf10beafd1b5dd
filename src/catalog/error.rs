//! Errors of the catalog.

use super::RunningBackup;
use super::lock::LockError;
use crate::format::catalog::{ConfError, ContentListError, ControlError, printable};
use crate::storage::StorageError;
use crate::types::BackupId;
use std::path::PathBuf;

/// Something in the catalog is not as it has to be. Texts that scripts know are the original's.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// A file or directory cannot be used.
    #[error(transparent)]
    Storage(StorageError),
    /// The catalog's path is not absolute.
    #[error("-B, --backup-path must be an absolute path")]
    NotAbsolute,
    /// A directory of the catalog cannot be listed.
    #[error("Cannot open directory \"{path}\"", path = path.display())]
    OpenDirectory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A new catalog would go into a directory that is in use.
    #[error("backup catalog already exist and it's not empty")]
    CatalogExists,
    /// The catalog was not initialised.
    #[error("Directory does not exist: '{path}'", path = path.display())]
    NoDirectory {
        /// The missing directory.
        path: PathBuf,
    },
    /// The instance was not added.
    #[error("Instance '{name}' does not exist in this backup catalog", name = printable(name))]
    NoInstance {
        /// Its name.
        name: String,
    },
    /// A file is where an instance's directory should be.
    #[error("-B, --backup-path must be a path to directory")]
    InstanceIsFile,
    /// The name cannot be one of a directory of its own.
    #[error(
        "Instance name '{name}' is not valid: it must not be empty, begin with a dot, \
         or have slashes or control characters",
        name = printable(name)
    )]
    InstanceName {
        /// The name.
        name: String,
    },
    /// The instance is there already.
    #[error("Instance '{name}' {what} directory already exists: '{path}'", path = path.display())]
    InstanceExists {
        /// Its name.
        name: String,
        /// `backup` or `WAL archive`.
        what: &'static str,
        /// The directory.
        path: PathBuf,
    },
    /// An instance's settings are not valid.
    #[error("{reason} in file \"{path}\"", path = path.display())]
    Conf {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: ConfError,
    },
    /// An instance's settings cannot be written so that they are read back.
    #[error("cannot write \"{path}\": {reason}", path = path.display())]
    WriteConf {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: ConfError,
    },
    /// Another process changes the instance's settings, and does not come to an end.
    #[error("the settings of instance '{name}' are being changed by another process")]
    ConfInUse {
        /// The instance.
        name: String,
    },
    /// Another backup has the id.
    #[error("backup destination is not empty \"{path}\"", path = path.display())]
    BackupExists {
        /// The backup's directory.
        path: PathBuf,
    },
    /// No backup has the id.
    #[error("Requested backup {id} is not found.")]
    NoBackup {
        /// The id.
        id: BackupId,
    },
    /// A backup has no record.
    #[error("Control file \"{path}\" doesn't exist", path = path.display())]
    NoControl {
        /// The file.
        path: PathBuf,
    },
    /// A backup's record cannot be used.
    #[error("Control file \"{path}\" is corrupted: {reason}", path = path.display())]
    Control {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: ControlError,
    },
    /// A backup's content list cannot be used.
    #[error("Content list \"{path}\" is corrupted", path = path.display())]
    ContentList {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ContentListError,
    },
    /// A backup's content list cannot be written.
    #[error("cannot write content list \"{path}\"", path = path.display())]
    WriteContentList {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ContentListError,
    },
    /// A backup of the instance is being taken by another process.
    #[error("{0}")]
    Running(RunningBackup),
    /// A backup is in use.
    #[error(transparent)]
    Lock(LockError),
}
