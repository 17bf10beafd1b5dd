//! `del-instance`: an instance leaves the catalog, with all its backups and its WAL archive.
//!
//! 1. all backups are locked, the oldest first; one that is in use ends the run, and so does what
//!    is neither a backup nor the settings: nothing is removed then
//! 2. the backups are removed, the newest first, each as `removal` tells
//! 3. the WAL archive goes, then the settings, then the directory
//!
//! Killed at any instant, each backup is either whole or says DELETING, and the same command once
//! more ends what was begun, even when the settings are gone already.

use super::Error;
use super::removal::{self, Remover};
use super::validate::CheckOptions;
use crate::catalog::lock::{LockGuard, LockOptions};
use crate::catalog::{BackupDir, BackupEntry, Catalog, Instance};
use crate::format::catalog::printable;
use crate::io::fault;
use crate::monitor::Monitor;
use crate::storage::{StorageError, sync_directory};
use crate::types::BackupId;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Which instance.
#[derive(Clone, Debug)]
pub struct Options {
    /// The catalog.
    pub catalog: PathBuf,
    /// The instance's name.
    pub instance: String,
    /// Threads, and the flag that ends the run.
    pub check: CheckOptions,
}

/// Deletes the instance.
///
/// # Errors
/// Where a backup is in use, something is in the way, or cannot be removed. What is left of the
/// instance then can be deleted by the same command.
pub fn run(options: &Options, monitor: &dyn Monitor) -> Result<(), Error> {
    let instance = Catalog::open(&options.catalog)?.instance(&options.instance)?;
    refuse_strangers(&instance)?;
    let cancel = &options.check.cancel;
    let locked = lock_all(&instance, &removal::patience(cancel))?;
    let remover = Remover {
        threads: options.check.threads,
        cancel,
        monitor,
    };
    for (dir, lock) in locked.into_iter().rev() {
        remover.remove(&dir, lock)?;
    }
    remover.remove_tree(instance.wal_dir())?;
    remove_directory(&instance)?;
    tracing::info!("Instance '{}' successfully deleted", instance.name());
    Ok(())
}

/// Locks all backups, oldest first, and looks again: one that began meanwhile is not locked.
fn lock_all(
    instance: &Instance,
    options: &LockOptions<'_>,
) -> Result<Vec<(BackupDir, LockGuard)>, Error> {
    let mut entries = instance.backups()?;
    entries.reverse();
    let ids = |entries: &[BackupEntry]| -> BTreeSet<BackupId> {
        entries.iter().map(|entry| entry.id).collect()
    };
    let known = ids(&entries);
    let mut locked = Vec::new();
    for entry in &entries {
        let dir = BackupDir::at(entry.id, &entry.dir);
        if let Some(lock) = removal::lock(&dir, options)? {
            locked.push((dir, lock));
        }
    }
    if let Some(id) = ids(&instance.backups()?).difference(&known).next() {
        return Err(Error::Refused(format!(
            "backup {id} was begun by another process meanwhile: run the deletion again"
        )));
    }
    Ok(locked)
}

/// What is neither a backup nor a file of settings is somebody's, who is to say what becomes of it.
fn refuse_strangers(instance: &Instance) -> Result<(), Error> {
    let backups: BTreeSet<PathBuf> = instance
        .backups()?
        .into_iter()
        .map(|entry| entry.dir)
        .collect();
    for path in entries_of(instance.dir())? {
        if !backups.contains(&path) && !is_of_settings(instance, &path) {
            return Err(Error::Refused(format!(
                "Can't remove \"{}\": it is no backup. Move it away first",
                printable(&path.to_string_lossy())
            )));
        }
    }
    Ok(())
}

/// The file of the settings, or what a killed change of it left.
fn is_of_settings(instance: &Instance, path: &Path) -> bool {
    let conf = instance.conf_path();
    let (Some(conf), Some(name)) = (conf.file_name(), path.file_name()) else {
        return false;
    };
    let (conf, name) = (conf.to_string_lossy(), name.to_string_lossy());
    name == conf || (name.starts_with(&*conf) && name.ends_with(".tmp"))
}

/// Removes the settings and the directory. Where a backup began at this instant both stay.
fn remove_directory(instance: &Instance) -> Result<(), Error> {
    let directory = instance.dir();
    let conf = instance.conf_path();
    let settings = std::fs::read(&conf).ok();
    // The file itself last, so that the name of the instance means something until then.
    let mut files: Vec<PathBuf> = entries_of(directory)?;
    files.retain(|path| is_of_settings(instance, path));
    files.sort_by_key(|path| *path == conf);
    for path in files {
        let removed = fault::step("remove", &path).and_then(|()| std::fs::remove_file(&path));
        removed.map_err(|error| StorageError::new("remove", &path, error))?;
    }
    let removed = fault::step("remove", directory).and_then(|()| std::fs::remove_dir(directory));
    match removed {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {
            if let Some(settings) = settings {
                instance.restore_conf(&settings)?;
            }
            return Err(StorageError::new("remove directory", directory, error).into());
        }
        Err(error) => return Err(StorageError::new("remove directory", directory, error).into()),
    }
    Ok(sync_directory(directory.parent().unwrap_or(directory))?)
}

fn entries_of(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |error| StorageError::new("list directory", directory, error);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        paths.push(entry.map_err(failed)?.path());
    }
    Ok(paths)
}
