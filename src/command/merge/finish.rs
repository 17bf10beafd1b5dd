//! From the prepared result to the merged backup: steps that can each be repeated.
//!
//! 1. the commit: the FULL backup's record says MERGING, with destination and merge time; then the
//!    other members' say MERGING
//! 2. records that keep place and length are written over the old ones in the FULL backup's files;
//!    once that is durable, the journal is written without the list of these files
//! 3. what the result does not have is removed, staged files are renamed over those in place, then
//!    the page header map, the content list and the record
//! 4. the record says MERGED: now the directory holds the result by itself
//! 5. the increments are removed, the oldest first, each as `removal` tells
//! 6. the directory gets the name of the destination, then the seal of the result, and its record
//!    the destination's start time and the status OK; that there will be a seal is noted before the
//!    journal is removed, which knows it until then
//!
//! Directories are synced between the steps. The order is the original's, so that it can go on with
//! what is left: from step 1 by merging once more, from step 4 as we do. An overwritten record has
//! the header that it had, so the original finds its way through a file that is half overwritten,
//! and merges the increments' pages into it once more.

use super::super::Error;
use super::super::removal::Remover;
use super::super::{seal, status};
use super::journal::{Journal, Removal, finished};
use super::{Members, Options, relations, step};
use crate::catalog::{
    BackupDir, BackupEntry, DATABASE, DIRECTORY_MODE, DSSDATA, EXTERNAL_DIRECTORIES,
};
use crate::catalog::{CONTENT_LIST, HEADER_MAP, MERGE_STAGING};
use crate::format::catalog::{BackupControl, BackupStatus, Root, StorageType};
use crate::format::seal::Seal;
use crate::monitor::Monitor;
use crate::storage::{FileKind, Posix, Storage, sync_directory};
use crate::types::BackupId;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A merge on its way from the commit to the end.
pub(super) struct Finish<'a> {
    pub(super) options: &'a Options,
    pub(super) monitor: &'a dyn Monitor,
    pub(super) members: &'a mut Members,
    pub(super) destination: BackupId,
}

impl Finish<'_> {
    fn full(&self) -> BackupDir {
        self.members.full.clone()
    }

    /// Makes the prepared result the one that counts. `control` is the FULL backup's record.
    pub(super) fn commit(&self, control: &BackupControl, merge_time: i64) -> Result<(), Error> {
        let full = self.full();
        // The seal is of files that are about to change. Without it the backup is as good; with it
        // a merge that the original finishes would look damaged.
        seal::put_aside(&full)?;
        let merging = BackupControl {
            status: BackupStatus::Merging,
            merge_dest_id: Some(self.destination),
            merge_time: Some(merge_time),
            ..control.clone()
        };
        Ok(full.write_control(&merging)?)
    }

    /// Puts the prepared result in place, from any point on. `chain` are the members, FULL first.
    pub(super) fn roll_forward(
        &self,
        mut journal: Journal,
        chain: &[BackupEntry],
    ) -> Result<(), Error> {
        let full = self.full();
        for id in journal.increments() {
            self.mark(id, BackupStatus::Merging)?;
        }
        if !journal.overwrites.is_empty() {
            relations::overwrite(&journal, &full, chain, self.options, self.monitor)?;
            // From here on nothing is read from the increments any more.
            journal.overwrites.clear();
            journal.write(&full)?;
        }
        let root = Posix::open(full.path())?;
        self.remove(&root, &journal.removals)?;
        self.move_staged(&root)?;
        let staging = Path::new(MERGE_STAGING);
        if !journal.has_header_map {
            self.remove_file(&root, Path::new(HEADER_MAP))?;
        }
        for name in [HEADER_MAP, CONTENT_LIST] {
            let staged = staging.join(name);
            if root.metadata(&staged).is_ok() {
                root.rename(&staged, Path::new(name))?;
            }
        }
        root.sync_dir(Path::new(""))?;
        let (result, _) = full.staging().read_control()?;
        full.write_control(&BackupControl {
            status: BackupStatus::Merging,
            ..result
        })?;
        Ok(full.set_status(BackupStatus::Merged)?)
    }

    /// Removes what the result does not have. What is of another kind than it was is the result's.
    fn remove(&self, root: &Posix, removals: &[Removal]) -> Result<(), Error> {
        let mut touched = BTreeSet::new();
        for removal in removals {
            let path = tree_of(removal.root.root()).join(&removal.path);
            let Ok(metadata) = root.metadata(&path) else {
                continue;
            };
            if (metadata.kind == FileKind::Directory) != removal.is_directory {
                continue;
            }
            if removal.is_directory {
                // What no list names may be in it; then it stays.
                if let Err(error) = root.remove_dir(&path) {
                    tracing::warn!("{}", super::super::words::describe(&error));
                    continue;
                }
            } else {
                root.remove_file(&path)?;
            }
            touched.remove(&path);
            touched.insert(path.parent().unwrap_or(Path::new("")).to_owned());
        }
        self.sync(root, &touched)
    }

    fn remove_file(&self, root: &Posix, path: &Path) -> Result<(), Error> {
        if root.metadata(path).is_ok() {
            root.remove_file(path)?;
        }
        Ok(())
    }

    fn sync(&self, root: &Posix, directories: &BTreeSet<PathBuf>) -> Result<(), Error> {
        for directory in directories {
            root.sync_dir(directory)?;
        }
        Ok(())
    }

    /// Renames the staged files to where they belong.
    fn move_staged(&self, root: &Posix) -> Result<(), Error> {
        let staging = Path::new(MERGE_STAGING);
        let mut touched = BTreeSet::new();
        let mut pending: Vec<PathBuf> = [DATABASE, DSSDATA, EXTERNAL_DIRECTORIES]
            .into_iter()
            .map(PathBuf::from)
            .filter(|tree| root.metadata(&staging.join(tree)).is_ok())
            .collect();
        while let Some(directory) = pending.pop() {
            if root.metadata(&directory).is_err() {
                root.create_dir(&directory, DIRECTORY_MODE)?;
                touched.insert(directory.parent().unwrap_or(Path::new("")).to_owned());
            }
            for entry in root.list(&staging.join(&directory))? {
                let path = directory.join(&entry.name);
                if entry.metadata.kind == FileKind::Directory {
                    pending.push(path);
                    continue;
                }
                root.rename(&staging.join(&path), &path)?;
                touched.insert(directory.clone());
            }
        }
        self.sync(root, &touched)
    }

    /// Writes a status into the record of an increment that is still there.
    fn mark(&self, id: BackupId, to: BackupStatus) -> Result<(), Error> {
        let Some(dir) = self.members.increment(id) else {
            return Ok(());
        };
        // One that is being removed may have lost its record already.
        let Ok((mut control, _)) = dir.read_control() else {
            return Ok(());
        };
        if control.status != to {
            control.status = to;
            status::set(&dir, &control)?;
        }
        Ok(())
    }

    /// From the record that says MERGED to the end.
    pub(super) fn conclude(mut self) -> Result<(), Error> {
        let (control, _) = self.full().read_control()?;
        let journal = Journal::committed(&self.full(), &control);
        let result = finished(control.clone(), self.destination);
        // By its seal a backup of shared storage is known to be one whose pages are judged.
        let is_sealed = control.storage_type != StorageType::Dss
            || journal.as_ref().is_some_and(|journal| journal.knows_pages)
            || seal::is_promised(&self.full(), &result);
        let mut increments = journal.map_or_else(Vec::new, |journal| journal.increments());
        for id in self.members.increments() {
            if !increments.contains(&id) {
                increments.push(id);
            }
        }
        if !increments.contains(&self.destination) {
            increments.push(self.destination);
        }
        increments.sort_unstable();
        for id in increments {
            self.delete(id)?;
        }
        if is_sealed {
            // The journal goes, and a run that goes on from there must know.
            seal::promise(&self.full(), &result)?;
        }
        super::stage::clear(&self.full())?;
        self.rename()?;
        let full = self.full();
        // Before the record, so that it never lacks its seal; after it, because a seal that is
        // older than its record counts as stale.
        if is_sealed {
            self.seal(&full, &result)?;
        }
        full.write_control(&result)?;
        if is_sealed {
            self.seal(&full, &result)?;
        }
        seal::forget_aside(&full)
    }

    /// Removes an increment, as any backup is removed.
    fn delete(&mut self, id: BackupId) -> Result<(), Error> {
        let Some((dir, lock)) = self.members.take(id) else {
            return Ok(());
        };
        let check = &self.options.check;
        let remover = Remover {
            threads: check.threads,
            cancel: &check.cancel,
            monitor: self.monitor,
        };
        remover.remove(&dir, lock)
    }

    /// Gives the directory the name of the destination.
    fn rename(&mut self) -> Result<(), Error> {
        let full = self.full();
        let target = self.members.instance().join(self.destination.to_string());
        if full.path() == target {
            return Ok(());
        }
        tracing::debug!("Rename {} to {}", full.path().display(), target.display());
        step("rename", full.path(), || {
            std::fs::rename(full.path(), &target)
        })?;
        tracing::info!(
            "Rename merged full backup {} to {}",
            full.id(),
            self.destination
        );
        self.members.renamed(self.destination, &target);
        Ok(sync_directory(self.members.instance())?)
    }

    fn seal(&self, full: &BackupDir, control: &BackupControl) -> Result<(), Error> {
        let path = Path::new(control.storage_type.control_file());
        let root = full.root_of(control.storage_type.main_root());
        let bytes = Posix::open(&root)?.read(path, 65 * 8192).ok();
        seal::write(full, &Seal::new(&control.encode(), bytes.as_deref()))
    }
}

/// The directory of a tree in a backup.
fn tree_of(root: Root) -> PathBuf {
    match root {
        Root::Data => PathBuf::from(DATABASE),
        Root::Shared => PathBuf::from(DSSDATA),
        Root::External(number) => {
            Path::new(EXTERNAL_DIRECTORIES).join(format!("externaldir{number}"))
        }
    }
}
