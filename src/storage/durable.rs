//! Small files and directories that must survive a power cut: write-temp, fsync, rename, fsync of
//! the directory.

use super::StorageError;
use crate::io::fault;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Replaces the file `path` by `bytes`, durably and at once: a crash leaves the old content or the
/// new, never a mix.
///
/// The temporary name is `<path>-<pid>.tmp`, as the original's for control files; a leftover of it
/// is overwritten.
///
/// # Errors
/// Where a step fails; the former file is then untouched and the temporary one removed.
pub fn write_file_durably(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), StorageError> {
    write_file_durably_as_of(path, mode, bytes, None)
}

/// As [`write_file_durably`]; with `modified`, that is the file's time of change from the instant
/// on at which it has its name.
///
/// # Errors
/// As [`write_file_durably`].
pub fn write_file_durably_as_of(
    path: &Path,
    mode: u32,
    bytes: &[u8],
    modified: Option<SystemTime>,
) -> Result<(), StorageError> {
    let temporary = temporary_name(path);
    let written = write_and_sync(&temporary, mode, bytes, modified).and_then(|()| {
        fault::step("rename", &temporary)
            .and_then(|()| std::fs::rename(&temporary, path))
            .map_err(|e| StorageError::new("rename", &temporary, e))
    });
    if written.is_err() {
        // The first failure is the one to report; a leftover temporary file does no harm.
        let _ = std::fs::remove_file(&temporary);
        return written;
    }
    sync_directory(parent_of(path))
}

/// Makes the entries of a directory durable.
///
/// # Errors
/// Where the directory cannot be opened or synced.
pub fn sync_directory(path: &Path) -> Result<(), StorageError> {
    let directory = File::open(path).map_err(|e| StorageError::new("open directory", path, e))?;
    fault::step("fsync directory", path)
        .and_then(|()| directory.sync_all())
        .map_err(|e| StorageError::new("fsync directory", path, e))
}

/// Creates one directory and makes its entry durable. It may exist already.
///
/// # Errors
/// Where it cannot be created or its parent not be synced.
pub fn create_directory_durably(path: &Path, mode: u32) -> Result<(), StorageError> {
    let create = || DirBuilder::new().mode(mode).create(path);
    match fault::step("create directory", path).and_then(|()| create()) {
        Ok(()) => sync_directory(parent_of(path)),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(e) => Err(StorageError::new("create directory", path, e)),
    }
}

fn write_and_sync(
    path: &Path,
    mode: u32,
    bytes: &[u8],
    modified: Option<SystemTime>,
) -> Result<(), StorageError> {
    let create = || {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(path)
    };
    let mut file = fault::step("create", path)
        .and_then(|()| create())
        .map_err(|e| StorageError::new("create", path, e))?;
    let half = || {
        // The process dies next; nobody would hear of an error.
        let _ = (&file).write_all(&bytes[..bytes.len() / 2]);
    };
    fault::write_step(path, half)
        .and_then(|()| file.write_all(bytes))
        .map_err(|e| StorageError::new("write", path, e))?;
    if let Some(modified) = modified {
        file.set_modified(modified)
            .map_err(|e| StorageError::new("set the time of", path, e))?;
    }
    fault::step("fsync", path)
        .and_then(|()| file.sync_all())
        .map_err(|e| StorageError::new("fsync", path, e))
}

fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!("-{}.tmp", std::process::id()));
    PathBuf::from(name)
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_replaced_whole_and_no_temporary_one_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("backup.control");
        write_file_durably(&path, 0o600, b"old").unwrap();
        write_file_durably(&path, 0o600, b"new text").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new text");
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_can_be_as_old_as_another() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("f");
        let then = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        write_file_durably_as_of(&path, 0o600, b"x", Some(then)).unwrap();
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        assert_eq!(modified, then);
    }

    #[test]
    fn a_failure_names_the_file_and_leaves_the_old_one() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("occupied");
        std::fs::create_dir(&path).unwrap();
        let error = write_file_durably(&path, 0o600, b"x").unwrap_err();
        assert!(error.to_string().contains("occupied"), "{error}");
        assert!(path.is_dir());
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1);
    }

    #[test]
    fn creating_a_directory_twice_is_fine_but_not_over_a_file() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("d");
        create_directory_durably(&path, 0o700).unwrap();
        create_directory_durably(&path, 0o700).unwrap();
        let file = scratch.path().join("f");
        std::fs::write(&file, b"").unwrap();
        assert!(create_directory_durably(&file, 0o700).is_err());
    }
}
