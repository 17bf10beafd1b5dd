//! Retention: backups that the policy no longer wants are merged away or deleted, after `delete
//! --delete-expired`, `--merge-expired`, and after a backup with these options.
//!
//! 0. with `--merge-expired`, end merges that were interrupted: nobody else may come by to do it
//! 1. plan, from the records and the clock ([`plan_retention`]); say what the policy says of each
//!    backup
//! 2. merge chains whose FULL backup is expired into their oldest wanted increment; before each,
//!    plan again
//! 3. lock what is to be deleted, plan again, delete newest first. What cannot be locked stays,
//!    with all that it grows on
//! 4. with `--delete-wal`, remove WAL that none of the backups needs that are left
//!    (`wal_purge`)

use super::Error;
use super::merge;
use super::removal::{self, Remover};
use super::validate::CheckOptions;
use super::wal_purge::WalPurge;
use super::words::now;
use crate::catalog::lock::{LockError, LockGuard};
use crate::catalog::{
    BackupDir, BackupEntry, Calendar, CatalogError, Instance, PlannedMerge, RetentionPlan,
    RetentionPolicy, Verdict, plan_retention,
};
use crate::format::catalog::{BackupMode, BackupStatus, format_timestamp};
use crate::monitor::Monitor;
use crate::types::BackupId;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// What retention is asked to do.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RetentionOptions {
    /// What is to be kept.
    pub policy: RetentionPolicy,
    /// Whether expired backups are deleted.
    pub delete_expired: bool,
    /// Whether expired backups are merged into wanted ones.
    pub merge_expired: bool,
    /// Whether WAL that no backup needs is removed from the archive.
    pub delete_wal: bool,
    /// How many backups of a timeline keep their WAL; 0: all.
    pub wal_depth: u32,
    /// Whether only to say what would be done.
    pub dry_run: bool,
}

impl RetentionOptions {
    /// Whether anything is asked for.
    #[must_use]
    pub fn is_asked_for(&self) -> bool {
        self.is_about_backups() || self.delete_wal
    }

    fn is_about_backups(&self) -> bool {
        self.delete_expired || self.merge_expired
    }
}

/// Where and how.
#[derive(Clone, Copy)]
pub(super) struct Retention<'a> {
    pub(super) catalog: &'a PathBuf,
    pub(super) instance: &'a Instance,
    pub(super) options: &'a RetentionOptions,
    pub(super) check: &'a CheckOptions,
    pub(super) monitor: &'a dyn Monitor,
}

impl Retention<'_> {
    /// Merges and deletes what is expired.
    ///
    /// # Errors
    /// When something could not be merged or deleted; what is wanted is as it was.
    pub(super) fn run(&self) -> Result<(), Error> {
        let policy = self.options.policy;
        let is_set = self.options.is_about_backups() && self.is_set();
        if !is_set && !self.options.delete_wal {
            return Ok(());
        }
        let calendar = Calendar::local(now());
        let (mut has_merged, mut has_deleted) = (false, false);
        let mut gone = BTreeSet::new();
        if is_set {
            if self.options.merge_expired {
                has_merged = self.end_merges()?;
            }
            let entries = self.instance.backups()?;
            if entries.is_empty() {
                tracing::warn!("Backup list is empty, retention purge and merge are problematic");
            } else {
                let plan = self.plan(&entries, &calendar, &BTreeSet::new());
                describe(&plan, policy, &entries);
                if self.options.dry_run {
                    (has_merged, has_deleted) = self.say_what_would_be_done(&plan);
                    gone = self.planned_to_go(&plan, &entries);
                } else {
                    if self.options.merge_expired {
                        has_merged |= self.merge(&plan, &calendar)?;
                    }
                    has_deleted = self.options.delete_expired && self.purge(&calendar)?;
                }
            }
        }
        let has_purged = self.options.delete_wal && self.wal().run(calendar.now(), &gone)?;
        if !has_merged {
            tracing::info!("There are no backups to merge by retention policy");
        }
        if has_deleted && !self.options.dry_run {
            tracing::info!("Purging finished");
        } else if !has_deleted {
            tracing::info!("There are no backups to delete by retention policy");
        }
        if !has_purged {
            tracing::info!("There is no WAL to purge by retention policy");
        }
        Ok(())
    }

    /// Whether the policy is, and says what.
    fn is_set(&self) -> bool {
        let policy = self.options.policy;
        if policy.redundancy > 0 {
            tracing::debug!("REDUNDANCY={}", policy.redundancy);
        }
        if policy.window > 0 {
            tracing::debug!("WINDOW={}", policy.window);
        }
        if !policy.is_set() {
            tracing::warn!("Retention policy is not set");
        }
        policy.is_set()
    }

    fn wal(&self) -> WalPurge<'_> {
        WalPurge {
            instance: self.instance,
            depth: self.options.wal_depth,
            dry_run: self.options.dry_run,
            cancel: &self.check.cancel,
        }
    }

    /// The backups that would not be there any more if this were no dry run.
    fn planned_to_go(&self, plan: &RetentionPlan, entries: &[BackupEntry]) -> BTreeSet<BackupId> {
        let mut gone = BTreeSet::new();
        if self.options.merge_expired {
            let merges = plan
                .merges
                .iter()
                .filter_map(|(_, merge)| merge.as_ref().ok());
            for merge in merges {
                let chain = BTreeSet::from([merge.destination]);
                gone.append(&mut with_ancestors(entries, chain));
                gone.remove(&merge.destination);
            }
        }
        if self.options.delete_expired {
            gone.extend(plan.purge.iter().copied());
        }
        gone
    }

    /// The plan; backups that this process has locked are not being made by somebody.
    fn plan(
        &self,
        entries: &[BackupEntry],
        calendar: &Calendar,
        own: &BTreeSet<BackupId>,
    ) -> RetentionPlan {
        let runs = |entry: &&BackupEntry| {
            entry.effective_status() == BackupStatus::Running && !own.contains(&entry.id)
        };
        let running = entries.iter().filter(runs).map(|entry| entry.id).collect();
        plan_retention(entries, self.options.policy, calendar, &running)
    }

    /// Whether anything would be merged, and whether anything deleted.
    fn say_what_would_be_done(&self, plan: &RetentionPlan) -> (bool, bool) {
        let mut has_merged = false;
        if self.options.merge_expired {
            for (id, merge) in &plan.merges {
                has_merged |= consider(*id, merge).is_some();
            }
        }
        let has_deleted = self.options.delete_expired && !plan.purge.is_empty();
        if has_deleted {
            let ids: Vec<String> = plan.purge.iter().map(BackupId::to_string).collect();
            tracing::info!("Backups that would be deleted: {}", ids.join(", "));
        }
        (has_merged, has_deleted)
    }

    /// Merges chain by chain; whether any was.
    fn merge(&self, plan: &RetentionPlan, calendar: &Calendar) -> Result<bool, Error> {
        let mut has_merged = false;
        for (id, merge) in &plan.merges {
            let Some(merge) = consider(*id, merge) else {
                continue;
            };
            // Somebody may have pinned one of the members meanwhile.
            let again = self.plan(&self.instance.backups()?, calendar, &BTreeSet::new());
            if !again.merges.contains(&(*id, Ok(merge))) {
                tracing::warn!("Skip backup {id} for merging, because its chain was changed");
                continue;
            }
            merge::run(&self.merge_options(merge.destination), self.monitor)?;
            has_merged = true;
        }
        if has_merged {
            tracing::info!("Retention merging finished");
        }
        Ok(has_merged)
    }

    /// Ends merges that were interrupted; whether there was one. One that somebody works on goes on
    /// without us.
    fn end_merges(&self) -> Result<bool, Error> {
        let mut has_merged = false;
        for (full, destination) in interrupted_merges(&self.instance.backups()?) {
            if self.options.dry_run {
                tracing::info!("Backup {full} has an unfinished merge, which would be ended");
                continue;
            }
            tracing::info!("Backup {full} has an unfinished merge with backup {destination}");
            match merge::run(&self.merge_options(destination), self.monitor) {
                Ok(_) => has_merged = true,
                Err(
                    error @ (Error::Lock(LockError::InUse { .. })
                    | Error::Catalog(CatalogError::Lock(LockError::InUse { .. }))),
                ) => {
                    tracing::warn!("{}", super::words::describe(&error));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(has_merged)
    }

    fn merge_options(&self, destination: BackupId) -> merge::Options {
        merge::Options {
            catalog: self.catalog.clone(),
            instance: self.instance.name().to_owned(),
            backup_id: destination,
            validate: true,
            sync: true,
            dry_run: false,
            check: self.check.clone(),
        }
    }

    /// Deletes; whether anything was.
    fn purge(&self, calendar: &Calendar) -> Result<bool, Error> {
        let entries = self.instance.backups()?;
        let plan = self.plan(&entries, calendar, &BTreeSet::new());
        for (id, guard) in &plan.retained {
            tracing::debug!(
                "Retain backup {id} because his descendant {guard} is guarded by retention"
            );
        }
        let mut locked = self.lock(&entries, &plan.purge)?;
        let own: BTreeSet<BackupId> = locked.keys().copied().collect();
        let entries = self.instance.backups()?;
        let plan = self.plan(&entries, calendar, &own);
        let doomed: BTreeSet<BackupId> = plan.purge.into_iter().collect();
        let stays: BTreeSet<BackupId> = entries
            .iter()
            .map(|entry| entry.id)
            .filter(|id| !doomed.contains(id) || !own.contains(id))
            .collect();
        let stays = with_ancestors(&entries, stays);
        let remover = Remover {
            threads: self.check.threads,
            cancel: &self.check.cancel,
            monitor: self.monitor,
        };
        warn_if_nothing_stays(&entries, &stays);
        let mut has_deleted = false;
        for id in doomed.iter().rev().filter(|id| !stays.contains(id)) {
            tracing::debug!("Consider backup {id} for purge");
            if let Some((dir, lock)) = locked.remove(id) {
                remover.remove(&dir, lock)?;
                has_deleted = true;
            }
        }
        Ok(has_deleted)
    }

    /// Locks those of the backups that nobody uses, oldest first.
    fn lock(
        &self,
        entries: &[BackupEntry],
        doomed: &[BackupId],
    ) -> Result<BTreeMap<BackupId, (BackupDir, LockGuard)>, Error> {
        let mut locked = BTreeMap::new();
        for id in doomed.iter().rev() {
            let Some(entry) = entries.iter().find(|entry| entry.id == *id) else {
                continue;
            };
            let dir = entry.open();
            match removal::lock(&dir, &removal::patience(&self.check.cancel)) {
                Ok(Some(lock)) => {
                    locked.insert(*id, (dir, lock));
                }
                Ok(None) => {}
                Err(LockError::Interrupted) => return Err(LockError::Interrupted.into()),
                Err(error) => {
                    tracing::warn!("{}", super::words::describe(&error));
                    tracing::warn!("Cannot lock backup {id} directory, skip purging");
                }
            }
        }
        Ok(locked)
    }
}

/// FULL backups whose merge is not at its end, and with what they are being merged.
fn interrupted_merges(entries: &[BackupEntry]) -> Vec<(BackupId, BackupId)> {
    let unfinished = |entry: &BackupEntry| {
        let control = entry.control.as_ref().ok()?;
        let is_unfinished = control.mode == BackupMode::Full
            && matches!(control.status, BackupStatus::Merging | BackupStatus::Merged);
        let destination = control.merge_dest_id.filter(|_| is_unfinished)?;
        Some((entry.id, destination))
    };
    entries.iter().filter_map(unfinished).collect()
}

/// The backups and all that they grow on.
fn with_ancestors(entries: &[BackupEntry], mut ids: BTreeSet<BackupId>) -> BTreeSet<BackupId> {
    // Newest first: a child comes before its parent.
    for entry in entries.iter().filter(|entry| entry.control.is_ok()) {
        let parent = entry.control.as_ref().ok();
        let parent = parent.and_then(|control| control.parent_backup_id);
        if let Some(parent) = parent.filter(|_| ids.contains(&entry.id)) {
            ids.insert(parent);
        }
    }
    ids
}

/// A window alone does not care whether any backup lies in it.
fn warn_if_nothing_stays(entries: &[BackupEntry], stays: &BTreeSet<BackupId>) {
    let is_good = |entry: &&BackupEntry| entry.status().is_usable();
    let mut good = entries.iter().filter(is_good).peekable();
    if good.peek().is_some() && good.all(|entry| !stays.contains(&entry.id)) {
        tracing::warn!(
            "No good backup is left: every one is outside of the window. With \
             --retention-redundancy=1 the newest is always kept"
        );
    }
}

/// Says what is done about an increment whose parent is expired.
fn consider(id: BackupId, merge: &Result<PlannedMerge, String>) -> Option<PlannedMerge> {
    tracing::info!("Consider backup {id} for merge");
    match merge {
        Ok(merge) => {
            let full = merge.full;
            tracing::info!("Merge incremental chain between full backup {full} and backup {id}");
            Some(*merge)
        }
        Err(reason) => {
            tracing::warn!("{reason}");
            None
        }
    }
}

/// Says what the policy says of each backup.
fn describe(plan: &RetentionPlan, policy: RetentionPolicy, entries: &[BackupEntry]) {
    tracing::info!("Evaluate backups by retention");
    for verdict in &plan.verdicts {
        if let Some(until) = verdict.pinned_until {
            let until = format_timestamp(until);
            tracing::debug!("Backup {} is pinned until '{until}', retain", verdict.id);
        }
    }
    for verdict in &plan.verdicts {
        tracing::info!("{}", verdict_line(verdict, policy));
    }
    for reason in entries
        .iter()
        .filter_map(|entry| entry.control.as_ref().err())
    {
        tracing::warn!("{reason}: retention leaves it alone");
    }
}

/// The original's line about a backup.
#[must_use]
pub fn verdict_line(verdict: &Verdict, policy: RetentionPolicy) -> String {
    format!(
        "Backup {}, mode: {}, status: {}. Redundancy: {}/{}, Time Window: {}d/{}d. {}",
        verdict.id,
        verdict.mode.map_or("", BackupMode::name),
        verdict.status,
        verdict.ordinal,
        policy.redundancy,
        verdict.age_days,
        verdict.kept_days,
        if verdict.is_expired {
            "Expired"
        } else {
            "Active"
        }
    )
}
