//! Names and modes of what is in a catalog, and reading of its small files.

use crate::limits::CONTROL_FILE_BYTES_MAX;
use crate::storage::StorageError;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Mode of every directory that a catalog makes.
pub const DIRECTORY_MODE: u32 = 0o700;
/// Mode of every file that a catalog makes.
pub const FILE_MODE: u32 = 0o600;

/// A backup's record.
pub const BACKUP_CONTROL: &str = "backup.control";
/// A backup's list of files.
pub const CONTENT_LIST: &str = "backup_content.control";
/// A backup's page headers.
pub const HEADER_MAP: &str = "page_header_map";
/// A backup's copy of the data directory.
pub const DATABASE: &str = "database";
/// A backup's copy of what the instances of a cluster share on DSS.
pub const DSSDATA: &str = "dssdata";
/// A backup's copies of external directories.
pub const EXTERNAL_DIRECTORIES: &str = "external_directories";

/// Where a merge prepares its result, in the directory of the FULL backup.
pub const MERGE_STAGING: &str = "merge_staging";

pub(super) const BACKUPS: &str = "backups";
pub(super) const WAL: &str = "wal";
pub(super) const INSTANCE_CONF: &str = "pg_probackup.conf";
/// The lock of the one that changes a backup.
pub const EXCLUSIVE_LOCK: &str = "backup.pid";
pub(super) const SHARED_LOCK: &str = "backup_ro.pid";
pub(super) const SHARED_LOCK_TEMPORARY: &str = "backup_ro.pidtmp";
/// Held for a moment where directories cannot be locked.
pub(super) const EXCLUSION: &str = "backup.pid.exclusion";

/// Whether a path still leads to an open file.
pub(super) fn is_same_file(path: &Path, file: &File) -> bool {
    match (std::fs::symlink_metadata(path), file.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// The content of a control file: one byte more than the limit at most, so that its parser refuses
/// a larger one.
pub(super) fn read_small_file(path: &Path) -> Result<Vec<u8>, StorageError> {
    let file = File::open(path).map_err(|e| StorageError::new("open", path, e))?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(CONTROL_FILE_BYTES_MAX).map_or(u64::MAX, |limit| limit + 1);
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(|e| StorageError::new("read", path, e))?;
    Ok(bytes)
}
