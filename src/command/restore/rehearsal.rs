//! What can be found out about a restore to shared storage before anything is changed, for who
//! makes room for it by erasing what is there.

use super::super::Error;
use super::super::shared_storage::SharedOptions;
use super::shared_needs::SharedNeeds;
use super::{Options, Wanted, archive, archives, choose, target};
use crate::catalog::lock::LockGuard;
use crate::catalog::{BackupEntry, Catalog};
use crate::monitor::Monitor;
use crate::storage::{FileKind, Posix, Storage};
use crate::types::BackupId;
use std::path::{Path, PathBuf};

/// A restore that is going to be.
#[derive(Debug)]
pub(in crate::command) struct Rehearsal {
    /// The backup.
    pub(in crate::command) id: BackupId,
    /// Backups of its chain.
    pub(in crate::command) members: usize,
    /// The data directory.
    pub(in crate::command) data_directory: PathBuf,
    /// Of the cluster that was backed up.
    pub(in crate::command) system_identifier: u64,
    /// What the volume groups have to have room for.
    pub(in crate::command) needs: SharedNeeds,
    chain: Vec<BackupEntry>,
    archives: Vec<PathBuf>,
    /// Nobody changes the backups meanwhile.
    _locks: Vec<LockGuard>,
}

impl Rehearsal {
    /// Chooses the backup, which must be good by its record, locks its chain, reads all content
    /// lists, finds every file in the chain, and looks at targets other than the data directory.
    ///
    /// # Errors
    /// Where a restore would fail. Nothing was changed.
    ///
    /// # Panics
    /// Never: a chain has a member.
    pub(in crate::command) fn begin(
        options: &Options,
        shared: &SharedOptions,
    ) -> Result<Rehearsal, Error> {
        let instance = Catalog::open(&options.catalog)?.instance(&options.instance)?;
        let conf = instance.conf()?;
        let pgdata = conf.pgdata.map(PathBuf::from);
        let data_directory = options.data_directory.clone().or(pgdata);
        let data_directory = data_directory.ok_or(Error::MissingOption {
            option: "PGDATA (-D, --pgdata)",
        })?;
        let archives = archives(options.archive_dir.as_deref(), &instance)?;
        let wanted = Wanted {
            backup_id: options.backup_id,
            target: &options.target,
            is_tolerant: false,
            archives: &archives,
            cancel: &options.check.cancel,
        };
        let mut chain = choose::chain(&instance, &wanted)?;
        super::check_storage(&chain, &instance, true)?;
        let locks = super::lock(&chain, options)?;
        super::check_statuses(&mut chain, options)?;
        super::check_target(options, &data_directory, &chain, false)?;
        let newest = chain.last().expect("a chain has a member");
        archive::restore_command(&choose::control(newest)?, options, &archives)?;
        Ok(Rehearsal {
            id: newest.id,
            members: chain.len(),
            data_directory: target::real_path(&data_directory),
            system_identifier: conf.system_identifier,
            needs: SharedNeeds::of(&chain, &shared.data_group, &shared.log_group)?,
            chain,
            archives,
            _locks: locks,
        })
    }

    /// Validates the chain as a restore does.
    ///
    /// # Errors
    /// Where it is not valid, or WAL does not go as far as the target.
    pub(in crate::command) fn validate(
        &mut self,
        options: &Options,
        monitor: &dyn Monitor,
    ) -> Result<(), Error> {
        super::validate(&self.chain, options, &self.archives, monitor)?;
        super::check_statuses(&mut self.chain, options)
    }
}

/// Empties a data directory, which no other restore may fill meanwhile. Links are removed, not
/// followed.
pub(in crate::command) fn empty(data_directory: &Path) -> Result<(), Error> {
    let _occupied = target::occupy(data_directory, true)?;
    let tree = Posix::open(data_directory)?;
    remove_below(&tree, Path::new(""))?;
    Ok(tree.sync_dir(Path::new(""))?)
}

fn remove_below(tree: &Posix, path: &Path) -> Result<(), Error> {
    for entry in tree.list(path)? {
        let path = path.join(&entry.name);
        if entry.metadata.kind == FileKind::Directory {
            remove_below(tree, &path)?;
            tree.remove_dir(&path)?;
        } else {
            tree.remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_directory_is_emptied_without_following_links() {
        let scratch = tempfile::tempdir().unwrap();
        let (data, other) = (scratch.path().join("data"), scratch.path().join("other"));
        fs::create_dir_all(data.join("base/1")).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(other.join("file"), "x").unwrap();
        fs::write(data.join("base/1/2"), "x").unwrap();
        std::os::unix::fs::symlink(&other, data.join("pg_xlog")).unwrap();
        empty(&data).unwrap();
        assert_eq!(fs::read_dir(&data).unwrap().count(), 0);
        assert_eq!(fs::read(other.join("file")).unwrap(), b"x");
        let held = target::occupy(&data, true).unwrap();
        assert!(matches!(empty(&data), Err(Error::TargetInUse { .. })));
        drop(held);
        empty(&scratch.path().join("new")).unwrap();
    }
}
