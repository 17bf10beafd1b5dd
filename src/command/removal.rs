//! Removing one backup, so that at any instant the catalog tells the truth about it.
//!
//! 1. its record says DELETING, durably: from here on nobody takes it for a backup
//! 2. all its files but the record and the lock go, then all directories; the top one is synced
//! 3. the lock goes, then the record, then the directory, and the directory above is synced
//!
//! The record goes last, so that what is left of a removal that was killed is known for what it is,
//! and deleting it once more ends it. Where the record cannot be changed, because it is damaged or
//! the disk is full, it goes first instead: a directory without a record is no backup either, and a
//! full disk has to be emptied somehow.
//!
//! Links are removed, never followed. Whoever removes a chain removes its newest backup first.

use super::Error;
use super::{status, words};
use crate::catalog::lock::{LockError, LockGuard, LockOptions, lock_exclusive};
use crate::catalog::{BACKUP_CONTROL, BackupDir, CatalogError, DIRECTORY_MODE, EXCLUSIVE_LOCK};
use crate::format::catalog::{BackupStatus, format_timestamp};
use crate::io::fault;
use crate::limits::LOCKS_MET_WHILE_REMOVING_MAX;
use crate::monitor::{Monitor, Stage};
use crate::storage::{FileKind, Posix, Storage, StorageError, sync_directory};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// How backups are removed.
#[derive(Clone, Copy)]
pub(super) struct Remover<'a> {
    /// Threads that remove files.
    pub(super) threads: usize,
    /// Ends the removal between two files.
    pub(super) cancel: &'a AtomicBool,
    /// Who hears of the files.
    pub(super) monitor: &'a dyn Monitor,
}

/// The record and the lock, which go last.
const KEPT: [&str; 2] = [BACKUP_CONTROL, EXCLUSIVE_LOCK];

/// What is below a backup's directory, as paths from there.
#[derive(Default)]
struct Tree {
    files: Vec<PathBuf>,
    /// Those above before those below.
    directories: Vec<PathBuf>,
}

impl Remover<'_> {
    /// Removes the backup, which `lock` is of.
    ///
    /// # Errors
    /// Where something cannot be removed or the run is cancelled; the next removal goes on.
    pub(super) fn remove(&self, dir: &BackupDir, lock: LockGuard) -> Result<(), Error> {
        let (path, id) = (dir.path(), dir.id());
        refuse_link(path)?;
        let control = dir.read_control().map(|(control, _)| control);
        let time = control.as_ref().map_or(id.start_time(), |control| {
            control.recovery_time.unwrap_or(control.start_time)
        });
        tracing::info!("Delete: {id} {}", format_timestamp(time));
        let is_marked = match control {
            Ok(control) if control.status == BackupStatus::Deleting => true,
            Ok(mut control) => {
                control.status = BackupStatus::Deleting;
                mark(dir, status::set(dir, &control))?
            }
            Err(_) => false,
        };
        if !is_marked {
            remove_if_there(&dir.control_path())?;
            sync_directory(path)?;
        }
        self.remove_contents(path, &KEPT)?;
        drop(lock);
        remove_if_there(&dir.control_path())?;
        self.remove_directory(dir)?;
        Ok(sync_directory(path.parent().unwrap_or(path))?)
    }

    /// Removes a directory that is no backup, with all that is in it, if it is there.
    ///
    /// # Errors
    /// Where something cannot be removed or the run is cancelled.
    pub(super) fn remove_tree(&self, path: &Path) -> Result<(), Error> {
        refuse_link(path)?;
        if path.symlink_metadata().is_err() {
            return Ok(());
        }
        self.remove_contents(path, &[])?;
        let removed = fault::step("remove", path).and_then(|()| std::fs::remove_dir(path));
        removed.map_err(|e| StorageError::new("remove directory", path, e))?;
        Ok(sync_directory(path.parent().unwrap_or(path))?)
    }

    /// Removes everything but what has one of these names at the top.
    fn remove_contents(&self, path: &Path, kept: &[&str]) -> Result<(), Error> {
        let root = Posix::open(path)?;
        let tree = self.look(&root, kept)?;
        let total = words::count(tree.files.len());
        self.monitor.begin(Stage::Delete, total, 0);
        let removed = self.remove_files(&root, &tree.files);
        self.monitor.end();
        removed?;
        for directory in tree.directories.iter().rev() {
            self.check_cancelled()?;
            tolerate_absence(root.remove_dir(directory))?;
        }
        Ok(root.sync_dir(Path::new(""))?)
    }

    fn look(&self, root: &Posix, kept: &[&str]) -> Result<Tree, Error> {
        let mut tree = Tree::default();
        let mut pending = vec![PathBuf::new()];
        while let Some(directory) = pending.pop() {
            self.check_cancelled()?;
            let is_top = directory.as_os_str().is_empty();
            for entry in root.list(&directory)? {
                if is_top && kept.iter().any(|name| entry.name == *name) {
                    continue;
                }
                let path = directory.join(&entry.name);
                if entry.metadata.kind != FileKind::Directory {
                    tree.files.push(path);
                    continue;
                }
                // Directories have the modes of the cluster's.
                if entry.metadata.mode & DIRECTORY_MODE != DIRECTORY_MODE {
                    root.set_dir_mode(&path, DIRECTORY_MODE)?;
                }
                pending.push(path);
            }
            if !is_top {
                tree.directories.push(directory);
            }
        }
        Ok(tree)
    }

    fn remove_files(&self, root: &Posix, files: &[PathBuf]) -> Result<(), Error> {
        let share = files.len().div_ceil(self.threads.max(1)).max(1);
        let mut outcome = Ok(());
        std::thread::scope(|threads| {
            let running: Vec<_> = files
                .chunks(share)
                .map(|files| threads.spawn(|| self.remove_each(root, files)))
                .collect();
            for thread in running {
                let removed = thread.join().unwrap_or_else(|_| {
                    Err(Error::Refused(
                        "a thread that removes files failed".to_owned(),
                    ))
                });
                // The first failure is the one to report.
                if outcome.is_ok() {
                    outcome = removed;
                }
            }
        });
        outcome
    }

    fn remove_each(&self, root: &Posix, files: &[PathBuf]) -> Result<(), Error> {
        for file in files {
            self.check_cancelled()?;
            tolerate_absence(root.remove_file(file))?;
            self.monitor.add_file();
        }
        Ok(())
    }

    fn check_cancelled(&self) -> Result<(), Error> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(Error::Refused(
                "interrupted during delete backup".to_owned(),
            ));
        }
        Ok(())
    }

    /// Removes the empty directory. Somebody who looks at the backup at this instant has a lock in
    /// it, and is waited for.
    fn remove_directory(&self, dir: &BackupDir) -> Result<(), Error> {
        let path = dir.path();
        for _ in 0..LOCKS_MET_WHILE_REMOVING_MAX {
            match fault::step("remove directory", path).and_then(|()| std::fs::remove_dir(path)) {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
                Err(e) if e.kind() == ErrorKind::DirectoryNotEmpty => {}
                Err(e) => return Err(StorageError::new("remove directory", path, e).into()),
            }
            match lock_exclusive(path, dir.id(), &patience(self.cancel)) {
                // A new backup took the empty directory over.
                Ok(_) if dir.control_path().exists() => return Ok(()),
                Ok(lock) => {
                    self.remove_contents(path, &KEPT)?;
                    drop(lock);
                }
                // The other one was removing it, too.
                Err(_) if !path.exists() => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        let error = std::io::Error::from(ErrorKind::DirectoryNotEmpty);
        Err(StorageError::new("remove directory", path, error).into())
    }
}

/// How a backup that is to be deleted is locked: a full disk must not be in the way.
pub(super) fn patience(cancel: &AtomicBool) -> LockOptions<'_> {
    LockOptions {
        strict: false,
        ..LockOptions::PATIENT.cancelled_by(cancel)
    }
}

/// Locks a backup to delete it; `None` where it is gone.
pub(super) fn lock(
    dir: &BackupDir,
    options: &LockOptions<'_>,
) -> Result<Option<LockGuard>, LockError> {
    match lock_exclusive(dir.path(), dir.id(), options) {
        Ok(lock) => Ok(Some(lock)),
        Err(_) if dir.path().symlink_metadata().is_err() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the record says DELETING now; not on a full disk.
fn mark(dir: &BackupDir, written: Result<(), Error>) -> Result<bool, Error> {
    let error = match written {
        Ok(()) => return Ok(true),
        Err(Error::Storage(error) | Error::Catalog(CatalogError::Storage(error))) => error,
        Err(error) => return Err(error),
    };
    if !error.is_no_space() {
        return Err(error.into());
    }
    tracing::warn!(
        "cannot write the status of backup {}: {}. Its control file is removed first",
        dir.id(),
        words::describe(&error)
    );
    Ok(false)
}

/// What the directory is a link to is not the catalog's.
fn refuse_link(path: &Path) -> Result<(), Error> {
    if path
        .symlink_metadata()
        .is_ok_and(|found| found.is_symlink())
    {
        return Err(Error::Refused(format!(
            "backup directory \"{}\" is a symbolic link: remove what it leads to by hand",
            path.display()
        )));
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<(), Error> {
    let removed = fault::step("remove", path)
        .and_then(|()| std::fs::remove_file(path))
        .map_err(|e| StorageError::new("remove", path, e));
    tolerate_absence(removed)
}

fn tolerate_absence(removed: Result<(), StorageError>) -> Result<(), Error> {
    match removed {
        Err(error) if !error.is_not_found() => Err(error.into()),
        _ => Ok(()),
    }
}
