//! The directories that a restore fills: each must be its own, and only one run may fill it.
//!
//! Where each file goes is decided for each directory alone, so two that overlap would overwrite
//! one another's files without a word: relations of different tablespaces often have equal numbers.

use super::super::Error;
use super::plan::open_root;
use crate::storage::StorageError;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Directories of a restore.
#[derive(Debug)]
pub(super) struct Targets<'a> {
    /// The catalog that is read.
    pub(super) catalog: &'a Path,
    /// The data directory.
    pub(super) data: &'a Path,
    /// Tablespaces outside the data directory.
    pub(super) tablespaces: Vec<PathBuf>,
    /// External directories.
    pub(super) external: Vec<PathBuf>,
}

impl Targets<'_> {
    /// Refuses two tablespaces or two external directories in one place, a tablespace in or around
    /// the data directory, and anything among the backups.
    ///
    /// An external directory may be in the data directory, as it may for the original, or be a
    /// tablespace.
    pub(super) fn check_apart(&self) -> Result<(), Error> {
        let data = real_path(self.data);
        let tablespaces: Vec<PathBuf> = self.tablespaces.iter().map(|p| real_path(p)).collect();
        let external: Vec<PathBuf> = self.external.iter().map(|p| real_path(p)).collect();
        let overlap = |path: &Path, other: &Path| Error::TargetsOverlap {
            path: path.to_owned(),
            other: other.to_owned(),
        };
        for path in &tablespaces {
            if path.starts_with(&data) || data.starts_with(path) {
                return Err(overlap(path, &data));
            }
        }
        for paths in [&tablespaces, &external] {
            for (index, path) in paths.iter().enumerate() {
                if paths[..index].contains(path) {
                    return Err(overlap(path, path));
                }
            }
        }
        for name in ["backups", "wal"] {
            let catalog = real_path(&self.catalog.join(name));
            for path in tablespaces.iter().chain(&external).chain([&data]) {
                if path.starts_with(&catalog) || catalog.starts_with(path) {
                    return Err(overlap(path, &catalog));
                }
            }
        }
        Ok(())
    }
}

/// The path without links, as far as it exists.
pub(super) fn real_path(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (ancestor.canonicalize(), path.strip_prefix(ancestor)) {
            // An empty rest would add a slash.
            return real.join(rest).components().collect();
        }
    }
    path.to_owned()
}

/// Makes the data directory if need be and keeps other restores out of it until dropped. It must be
/// empty unless the restore is `in_place`.
pub(super) fn occupy(data_directory: &Path, in_place: bool) -> Result<File, Error> {
    open_root(data_directory)?;
    let directory = File::open(data_directory)
        .map_err(|error| StorageError::new("open directory", data_directory, error))?;
    let locked = rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive);
    if locked == Err(Errno::WOULDBLOCK) {
        let path = data_directory.to_owned();
        return Err(Error::TargetInUse { path });
    }
    // Where the file system has no locks, two restores at once are seen by their files only.
    if !in_place {
        super::check_target_empty(data_directory)?;
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_targets_are_refused_also_behind_links() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        for name in ["data", "ts", "catalog/backups"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::os::unix::fs::symlink(root.join("ts"), root.join("link")).unwrap();
        std::os::unix::fs::symlink(root.join("data"), root.join("to_data")).unwrap();
        let check = |tablespaces: &[&str], external: &[&str]| {
            let paths = |names: &[&str]| names.iter().map(|name| root.join(name)).collect();
            let targets = Targets {
                catalog: &root.join("catalog"),
                data: &root.join("data"),
                tablespaces: paths(tablespaces),
                external: paths(external),
            };
            targets.check_apart().is_ok()
        };
        assert!(check(
            &["ts", "new/ts"],
            &["ts", "data/pg_log", "catalog/x"]
        ));
        for tablespaces in [
            &["ts", "link"][..],
            &["ts", "ts/"],
            &["new/a", "new/a"],
            &["data"],
            &["data/base"],
            &["to_data/base"],
            &[""],
            &["catalog/backups/main/x"],
            &["catalog"],
        ] {
            assert!(!check(tablespaces, &[]), "{tablespaces:?}");
        }
        for external in [&["ts", "link"][..], &["catalog/wal/x"]] {
            assert!(!check(&[], external), "{external:?}");
        }
    }

    #[test]
    fn a_data_directory_is_filled_by_one_run_at_a_time() {
        let scratch = tempfile::tempdir().unwrap();
        let data = scratch.path().join("a/b");
        let first = occupy(&data, false).unwrap();
        assert!(matches!(
            occupy(&data, false),
            Err(Error::TargetInUse { .. })
        ));
        drop(first);
        drop(occupy(&data, false).unwrap());
        std::fs::write(data.join("x"), b"").unwrap();
        assert!(matches!(
            occupy(&data, false),
            Err(Error::TargetNotEmpty { .. })
        ));
    }
}
