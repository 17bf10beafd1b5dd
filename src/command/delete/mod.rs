//! `delete`: backups are removed, by id or by status, with all that grow on them.
//!
//! Steps of [`run`]:
//!
//! 1. end what an interrupted deletion left
//! 2. plan: the backups that are meant and all that grow on them; say so
//! 3. lock all of them, oldest first, as a merge does, and look again whether the plan still holds
//! 4. remove them, newest first, each as `removal` tells
//! 5. with `--delete-wal`, remove WAL that none of the others needs (`wal_purge`)
//!
//! Killed at any instant, every backup that is not among those can be restored as before, and of
//! those each is either whole or says DELETING. A backup that somebody reads, changes or grows
//! another one on is waited for, and then left alone with all below it.

mod leftover;
mod plan;

pub use plan::{Plan, Planned};

use super::Error;
use super::removal::{self, Remover};
use super::retention::{Retention, RetentionOptions};
use super::validate::CheckOptions;
use super::wal_purge::WalPurge;
use super::words::{now, pretty_size};
use crate::catalog::lock::{LockError, LockGuard, LockOptions};
use crate::catalog::{BackupDir, BackupEntry, Catalog, EXCLUSIVE_LOCK, Instance};
use crate::format::catalog::BackupStatus;
use crate::limits::EMPTY_BACKUP_SECONDS_MIN;
use crate::monitor::Monitor;
use crate::types::BackupId;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

/// What `delete` is asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// The catalog.
    pub catalog: PathBuf,
    /// The instance's name.
    pub instance: String,
    /// Which backups.
    pub what: What,
    /// Whether only to say what would be done.
    pub dry_run: bool,
    /// Whether WAL that no backup needs is removed afterwards, and how many backups of a timeline
    /// keep theirs; 0: all. For [`What::Expired`] its own options count.
    pub delete_wal: Option<u32>,
    /// Threads, and the flag that ends the run.
    pub check: CheckOptions,
}

/// Which backups are deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// Those that a retention policy no longer wants.
    Expired(RetentionOptions),
    /// This one and all that grow on it.
    Backup(BackupId),
    /// All of this status, and all that grow on them.
    Status(BackupStatus),
}

/// Deletes.
///
/// # Errors
/// When something could not be deleted; what is not among the backups to delete is as it was.
pub fn run(options: &Options, monitor: &dyn Monitor) -> Result<(), Error> {
    let instance = Catalog::open(&options.catalog)?.instance(&options.instance)?;
    let remover = Remover {
        threads: options.check.threads,
        cancel: &options.check.cancel,
        monitor,
    };
    let deletion = Deletion {
        instance: &instance,
        remover,
        dry_run: options.dry_run,
        delete_wal: options.delete_wal,
    };
    match options.what {
        What::Backup(id) => deletion.of_backup(id),
        What::Status(status) => deletion.of_status(status),
        What::Expired(retention) => Retention {
            catalog: &options.catalog,
            instance: &instance,
            options: &retention,
            check: &options.check,
            monitor,
        }
        .run(),
    }
}

/// A run of `delete`.
struct Deletion<'a> {
    instance: &'a Instance,
    remover: Remover<'a>,
    dry_run: bool,
    delete_wal: Option<u32>,
}

impl Deletion<'_> {
    fn of_backup(&self, id: BackupId) -> Result<(), Error> {
        let wanted = BTreeSet::from([id]);
        let entries = self.instance.backups()?;
        if !entries.iter().any(|entry| entry.id == id) {
            return Err(Error::Refused(format!(
                "Failed to find backup {id}, cannot delete"
            )));
        }
        let plan = Plan::new(&entries, &wanted)?;
        let verb = self.verb();
        tracing::debug!("Backups based on {id} {verb} be deleted");
        for backup in &plan.backups {
            tracing::debug!("Backup {} {verb} be deleted", backup.id);
        }
        tracing::info!(
            "Resident data size to free by delete of backup {id} : {}",
            pretty_size(plan.bytes())
        );
        let doomed = plan.ids();
        if !self.dry_run {
            self.end_leftovers(&entries, &doomed)?;
            self.remove(&plan, |entries| Plan::new(entries, &wanted))?;
        }
        self.purge_wal(&doomed)
    }

    fn purge_wal(&self, gone: &BTreeSet<BackupId>) -> Result<(), Error> {
        if let Some(depth) = self.delete_wal {
            let purge = WalPurge {
                instance: self.instance,
                depth,
                dry_run: self.dry_run,
                cancel: self.remover.cancel,
            };
            purge.run(now(), gone)?;
        }
        Ok(())
    }

    fn of_status(&self, status: BackupStatus) -> Result<(), Error> {
        let name = self.instance.name();
        let entries = self.instance.backups()?;
        if entries.is_empty() {
            tracing::warn!("Instance '{name}' has no backups");
            return self.purge_wal(&BTreeSet::new());
        }
        let mode = if self.dry_run { " in dry run mode" } else { "" };
        tracing::info!("Deleting all backups with status '{status}'{mode}");
        let wanted = of_status(&entries, status);
        let plan = Plan::new(&entries, &wanted.keys().copied().collect())?;
        let verb = self.verb();
        tracing::debug!("Backups based on these target backups {verb} be deleted");
        for backup in &plan.backups {
            let (id, status) = (backup.id, backup.status);
            tracing::info!("Backup {id} with status {status} {verb} be deleted");
        }
        tracing::info!(
            "Resident data size to free by delete of {} backups: {}",
            plan.backups.len(),
            pretty_size(plan.bytes())
        );
        if plan.backups.is_empty() {
            tracing::warn!("Instance '{name}' has no backups with status '{status}'");
            return self.purge_wal(&BTreeSet::new());
        }
        if self.dry_run {
            return self.purge_wal(&plan.ids());
        }
        let count = self.remove(&plan, |entries| {
            // With our lock a failed backup looks like a running one.
            let is_same = |entry: &&BackupEntry| wanted.get(&entry.id) == Some(&entry.status());
            let wanted = entries.iter().filter(is_same).map(|entry| entry.id);
            Plan::new(entries, &wanted.collect())
        })?;
        let noun = if count == 1 { "backup" } else { "backups" };
        tracing::info!("Successfully deleted {count} {noun} from instance '{name}'");
        self.purge_wal(&BTreeSet::new())
    }

    fn verb(&self) -> &'static str {
        if self.dry_run { "can" } else { "will" }
    }

    /// Ends deletions that were interrupted. What is in use is somebody else's deletion.
    fn end_leftovers(
        &self,
        entries: &[BackupEntry],
        doomed: &BTreeSet<BackupId>,
    ) -> Result<(), Error> {
        let (half_deleted, warnings) = leftover::half_deleted(entries);
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let empty = entries.iter().filter(|entry| is_empty_leftover(entry));
        for entry in half_deleted.into_iter().chain(empty) {
            let dir = entry.open();
            let Ok(Some(lock)) = removal::lock(&dir, &self.at_once()) else {
                continue;
            };
            let is_left = match dir.read_control() {
                Ok((control, _)) => control.status == BackupStatus::Deleting,
                Err(_) => is_empty_leftover(entry),
            };
            if is_left && !doomed.contains(&entry.id) {
                tracing::info!("Finish the interrupted deletion of backup {}", entry.id);
                self.remover.remove(&dir, lock)?;
            }
        }
        Ok(())
    }

    fn at_once(&self) -> LockOptions<'_> {
        LockOptions {
            wait: Duration::ZERO,
            ..removal::patience(self.remover.cancel)
        }
    }

    /// Locks what is planned, plans again from what is there then, and removes it. Returns how many
    /// backups were removed.
    fn remove(
        &self,
        plan: &Plan,
        again: impl Fn(&[BackupEntry]) -> Result<Plan, Error>,
    ) -> Result<usize, Error> {
        let mut locked = lock_all(plan, &removal::patience(self.remover.cancel))?;
        let now = again(&self.instance.backups()?)?;
        if let Some(id) = now.ids().difference(&plan.ids()).next() {
            return Err(Error::Refused(format!(
                "backup {id} was begun or changed by another process meanwhile: run the deletion \
                 again"
            )));
        }
        let mut count = 0;
        for backup in &now.backups {
            let at = locked.iter().position(|(dir, _)| dir.id() == backup.id);
            if let Some((dir, lock)) = at.map(|at| locked.swap_remove(at)) {
                self.remover.remove(&dir, lock)?;
                count += 1;
            }
        }
        Ok(count)
    }
}

/// Locks the backups of the plan that are still there, oldest first.
fn lock_all(
    plan: &Plan,
    options: &LockOptions<'_>,
) -> Result<Vec<(BackupDir, LockGuard)>, LockError> {
    let mut locked = Vec::new();
    for backup in plan.backups.iter().rev() {
        let dir = BackupDir::at(backup.id, &backup.dir);
        match removal::lock(&dir, options)? {
            Some(lock) => locked.push((dir, lock)),
            None => tracing::warn!("Backup {} already deleted", backup.id),
        }
    }
    Ok(locked)
}

/// The backups of this status, and what their records say: one whose process was killed is shown as
/// failed and found as that, too. One that is running is left alone.
fn of_status(entries: &[BackupEntry], status: BackupStatus) -> BTreeMap<BackupId, BackupStatus> {
    let mut found = BTreeMap::new();
    for entry in entries {
        let (recorded, shown) = (entry.status(), entry.effective_status());
        if shown == BackupStatus::Running && status == BackupStatus::Running {
            tracing::warn!("Backup {} is running, skip it", entry.id);
        } else if recorded == status || shown == status {
            found.insert(entry.id, recorded);
        }
    }
    found
}

/// Whether nothing is left of a backup but its directory: its deletion, or its creation, was killed
/// at that instant. One that is being created is younger.
fn is_empty_leftover(entry: &BackupEntry) -> bool {
    let is_name_of_lock = |name: std::ffi::OsString| {
        name.to_str()
            .is_some_and(|name| name.starts_with(EXCLUSIVE_LOCK))
    };
    let age = now().saturating_sub(entry.id.start_time());
    entry.control.is_err()
        && age >= EMPTY_BACKUP_SECONDS_MIN
        && std::fs::read_dir(&entry.dir).is_ok_and(|mut names| {
            names.all(|name| name.is_ok_and(|name| is_name_of_lock(name.file_name())))
        })
}
