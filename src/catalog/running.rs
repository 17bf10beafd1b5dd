//! Whether a backup of an instance is being taken right now, so that a second one can be refused.
//!
//! Locks are of one backup each, and a new backup is a new directory, so they keep two runs of
//! `backup` from nothing. The original lets both go on until the server refuses the second; two
//! runs would also share the replication slot and the disk. Here a backup counts as running where
//!
//! * somebody alive holds its `backup.pid`, of whichever tool, and
//! * its status is RUNNING, or it has no record yet: the lock is there before the record.
//!
//! A backup that somebody merges or deletes is locked too, but has another status.

use super::layout::{BACKUP_CONTROL, EXCLUSIVE_LOCK};
use super::lock::{Owner, exclusive_owner};
use super::{BackupEntry, CatalogError, Instance};
use crate::format::catalog::{BackupStatus, format_timestamp, printable};
use crate::types::BackupId;
use std::fmt;
use std::path::Path;

/// A backup that another process is taking.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunningBackup {
    /// Its id.
    pub id: BackupId,
    /// The instance's name.
    pub instance: String,
    /// Process id of its owner; 0 where that has not written it yet.
    pub pid: i32,
    /// Since when, in seconds since 1970.
    pub since: i64,
    /// Name of its machine or container. Where that is not known only its lock says that it lives.
    pub host: Option<String>,
    /// Whether it is a process of this machine and container.
    pub is_here: bool,
}

impl fmt::Display for RunningBackup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, instance) = (self.id, printable(&self.instance));
        write!(f, "Backup {id} of instance '{instance}' is running: ")?;
        match &self.host {
            _ if self.pid == 0 => f.write_str("its process has just begun it")?,
            Some(host) => write!(f, "process {} on host {}", self.pid, printable(host))?,
            None => write!(f, "process {}, not of this host or container", self.pid)?,
        }
        // A lock file that went away in the meantime has no time.
        if self.since > 0 {
            write!(f, ", since {}", format_timestamp(self.since))?;
        }
        Ok(())
    }
}

/// The oldest backup of the instance that is being taken now, `own` not counted. Nothing is
/// written.
///
/// To be sure, a run looks twice: before it makes its directory, so that a refusal leaves nothing
/// behind, and with `own` after it has locked it. Of two runs that begin at the same moment at
/// least one then sees the other; perhaps both do and both end.
///
/// # Errors
/// Where the instance's directory cannot be read.
pub fn running_backup(
    instance: &Instance,
    own: Option<BackupId>,
) -> Result<Option<RunningBackup>, CatalogError> {
    let mut entries = instance.backups()?;
    entries.sort_by_key(|entry| entry.id);
    for entry in entries {
        if Some(entry.id) == own || !may_run(&entry) {
            continue;
        }
        let Some(owner) = exclusive_owner(&entry.dir) else {
            continue;
        };
        // Read again: it may have ended, and be deleted or merged now, since the list was made.
        let entry = BackupEntry::read(&entry.open());
        if may_run(&entry) && exclusive_owner(&entry.dir).is_some() {
            return Ok(Some(describe(instance, &entry, &owner)));
        }
    }
    Ok(None)
}

fn may_run(entry: &BackupEntry) -> bool {
    match &entry.control {
        Ok(control) => control.status == BackupStatus::Running,
        Err(_) => holds_only_its_lock(&entry.dir),
    }
}

// True of a backup that is about to get its record, but not of a broken one.
fn holds_only_its_lock(dir: &Path) -> bool {
    let lock = dir.join(EXCLUSIVE_LOCK);
    let has_record = dir.join(BACKUP_CONTROL).symlink_metadata().is_ok();
    !has_record
        && lock.symlink_metadata().is_ok()
        && std::fs::read_dir(dir).is_ok_and(|mut entries| {
            // The record is made under another name and renamed.
            entries.all(|entry| {
                entry.is_ok_and(|entry| {
                    let name = entry.file_name();
                    let name = name.to_string_lossy();
                    name.starts_with(EXCLUSIVE_LOCK) || name.starts_with(BACKUP_CONTROL)
                })
            })
        })
}

fn describe(instance: &Instance, entry: &BackupEntry, owner: &Owner) -> RunningBackup {
    RunningBackup {
        id: entry.id,
        instance: instance.name().to_owned(),
        pid: owner.pid,
        since: owner.since,
        host: owner.host.clone(),
        is_here: owner.is_here,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;
    use crate::catalog::lock::{LockOptions, lock_exclusive};
    use crate::format::catalog::{BackupControl, BackupMode, InstanceConf};
    use std::process::Command;

    const START: i64 = 1_795_240_367;

    fn instance() -> (tempfile::TempDir, Instance) {
        let scratch = tempfile::tempdir().unwrap();
        let catalog = Catalog::init(scratch.path().join("c")).unwrap();
        let instance = catalog
            .add_instance("one", &InstanceConf::default())
            .unwrap();
        (scratch, instance)
    }

    fn control(offset: i64) -> BackupControl {
        BackupControl::new(BackupMode::Full, START + offset)
    }

    #[test]
    fn a_backup_whose_owner_lives_runs_and_one_left_by_a_dead_owner_does_not() {
        let (_scratch, instance) = instance();
        assert_eq!(running_backup(&instance, None).unwrap(), None);
        let (first, guard) = instance.create_backup(&control(0)).unwrap();
        let found = running_backup(&instance, None).unwrap().unwrap();
        assert_eq!(found.id, first.id());
        assert_eq!(found.pid, i32::try_from(std::process::id()).unwrap());
        assert!(found.since > START - 1_000_000_000 && found.host.is_some());
        let text = found.to_string();
        let expected = format!(
            "Backup {} of instance 'one' is running: process {} on host ",
            first.id(),
            std::process::id()
        );
        assert!(text.starts_with(&expected), "{text}");
        let since = format!(", since {}", format_timestamp(found.since));
        assert!(text.ends_with(&since), "{text}");
        drop(guard);
        assert_eq!(running_backup(&instance, None).unwrap(), None);
        // As a killed run of the original leaves it.
        std::fs::write(first.path().join("backup.pid"), "2147483646\n").unwrap();
        assert_eq!(running_backup(&instance, None).unwrap(), None);
    }

    #[test]
    fn a_backup_that_the_original_takes_runs() {
        let (_scratch, instance) = instance();
        let (backup, guard) = instance.create_backup(&control(0)).unwrap();
        drop(guard);
        let mut owner = Command::new("sleep").arg("60").spawn().unwrap();
        let text = format!("{}\n", owner.id());
        std::fs::write(backup.path().join("backup.pid"), text).unwrap();
        let found = running_backup(&instance, None).unwrap().unwrap();
        assert_eq!(found.pid, i32::try_from(owner.id()).unwrap());
        assert!(found.host.is_some());
        owner.kill().unwrap();
        owner.wait().unwrap();
        assert_eq!(running_backup(&instance, None).unwrap(), None);
    }

    #[test]
    fn the_own_backup_does_not_count_and_the_oldest_other_is_named() {
        let (_scratch, instance) = instance();
        let (own, _own) = instance.create_backup(&control(0)).unwrap();
        assert_eq!(running_backup(&instance, Some(own.id())).unwrap(), None);
        let (second, _second) = instance.create_backup(&control(1)).unwrap();
        let (_, _third) = instance.create_backup(&control(2)).unwrap();
        let found = running_backup(&instance, Some(own.id())).unwrap().unwrap();
        assert_eq!(found.id, second.id());
    }

    #[test]
    fn a_backup_that_is_merged_or_deleted_or_broken_does_not_run() {
        let (_scratch, instance) = instance();
        let (backup, _guard) = instance.create_backup(&control(0)).unwrap();
        for status in [
            BackupStatus::Merging,
            BackupStatus::Deleting,
            BackupStatus::Ok,
        ] {
            backup.set_status(status).unwrap();
            assert_eq!(running_backup(&instance, None).unwrap(), None, "{status}");
        }
        std::fs::write(backup.control_path(), "status =").unwrap();
        assert_eq!(running_backup(&instance, None).unwrap(), None);
    }

    #[test]
    fn a_backup_that_has_its_lock_but_no_record_yet_runs() {
        let (_scratch, instance) = instance();
        let id = control(0).id();
        let dir = instance.dir().join(id.to_string());
        std::fs::create_dir(&dir).unwrap();
        assert_eq!(running_backup(&instance, None).unwrap(), None);
        let _guard = lock_exclusive(&dir, id, &LockOptions::FAIL_FAST).unwrap();
        assert_eq!(running_backup(&instance, None).unwrap().unwrap().id, id);
        // What a deletion has not removed yet.
        std::fs::create_dir(dir.join("database")).unwrap();
        assert_eq!(running_backup(&instance, None).unwrap(), None);
    }
}
