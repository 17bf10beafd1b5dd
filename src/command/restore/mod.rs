//! `restore`: any backup of a chain becomes a data directory.
//!
//! Steps of [`run`]:
//!
//! 1. choose the backup and its chain; lock them
//! 2. validate the chain, unless told not to
//! 3. check the targets: data directory, tablespaces and external directories must be empty
//! 4. plan: for each file of the newest member, where its bytes are in the chain
//! 5. create directories and tablespace links, restore the files, largest first, each made durable
//! 6. write recovery.conf if asked for; sync the directories; put `pg_control` in place last
//!
//! `pg_control` comes last so that an interrupted restore cannot be started by mistake.

mod choose;
mod mapping;
mod plan;
mod recovery_conf;

pub use mapping::{MappingKind, PathMapping};
pub use recovery_conf::RecoveryTarget;

use super::Error;
use super::validate::{CheckOptions, validate_chain};
use super::words::{count, pretty_size, pretty_time};
use crate::catalog::lock::{LockGuard, LockOptions, lock_shared};
use crate::catalog::{BackupEntry, Catalog};
use crate::format::catalog::{BackupStatus, format_timestamp};
use crate::monitor::{Monitor, Stage};
use crate::pipeline::{RebuildKind, RestoreItem, RestoreKind, Settings, transfer};
use crate::storage::{Posix, Storage};
use crate::types::BackupId;
use plan::Plan;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What `restore` is asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// The catalog.
    pub catalog: PathBuf,
    /// The instance's name.
    pub instance: String,
    /// Where to; by default the instance's data directory.
    pub data_directory: Option<PathBuf>,
    /// Which backup; by default the newest that fits the target.
    pub backup_id: Option<BackupId>,
    /// How far a server started on it is to recover.
    pub target: RecoveryTarget,
    /// Where tablespaces go.
    pub tablespace_mapping: Vec<PathMapping>,
    /// Where external directories go.
    pub external_mapping: Vec<PathMapping>,
    /// Whether external directories are left out.
    pub skip_external_dirs: bool,
    /// Whether the chain is validated before.
    pub validate: bool,
    /// Whether damage is a warning.
    pub force: bool,
    /// Whether files are made durable.
    pub sync: bool,
    /// Threads, engine, page checks.
    pub check: CheckOptions,
}

/// Fails if a directory exists and holds something.
///
/// # Errors
/// When it does, or cannot be read.
pub fn check_target_empty(path: &Path) -> Result<(), Error> {
    mapping::check_empty(path, |path| Error::TargetNotEmpty { path })
}

/// Restores a backup.
///
/// # Errors
/// When it could not be restored; the catalog is as it was.
///
/// # Panics
/// Never: a chain has a member.
pub fn run(options: &Options, monitor: &dyn Monitor) -> Result<(), Error> {
    let instance = Catalog::open(&options.catalog)?.instance(&options.instance)?;
    let conf = instance.conf()?;
    let data_directory = options
        .data_directory
        .clone()
        .or_else(|| conf.pgdata.clone().map(PathBuf::from))
        .ok_or(Error::MissingOption {
            option: "PGDATA (-D, --pgdata)",
        })?;
    tracing::debug!("Restore begin.");
    check_target_empty(&data_directory)?;
    let chain = choose::chain(&instance, options)?;
    let target = chain.last().expect("a chain has a member");
    let control = choose::control(target)?;
    check_target(options, target)?;
    if options.validate && !options.force {
        validate_chain(&chain, &options.check, monitor)?;
    } else {
        tracing::warn!("Backup {} is used without validation.", target.id);
    }
    let shown = format_timestamp(control.recovery_time.unwrap_or(control.start_time));
    tracing::info!("Restoring the database from backup at {shown}");
    let _locks = lock(&chain)?;
    check_statuses(&chain, options)?;
    let plan = Plan::new(&chain, options, &data_directory)?;
    let restore = Restore {
        options,
        plan: &plan,
        monitor,
    };
    restore.create_directories()?;
    restore.copy()?;
    recovery_conf::write(
        &*plan.data,
        &control,
        options,
        conf.get("restore-command").as_deref(),
    )?;
    restore.finish()?;
    tracing::info!("Restore of backup {} completed.", target.id);
    Ok(())
}

/// Refuses mappings that name nothing in the backup and targets that hold something, before any
/// long work.
fn check_target(options: &Options, target: &BackupEntry) -> Result<(), Error> {
    let dir = target.open();
    let tablespaces = plan::tablespaces(&dir)?;
    mapping::check_tablespaces(&tablespaces, &options.tablespace_mapping)?;
    if !options.skip_external_dirs {
        let control = choose::control(target)?;
        let external = plan::external_dirs(&control);
        mapping::check_external(&external, &options.external_mapping)?;
    }
    Ok(())
}

fn lock(chain: &[BackupEntry]) -> Result<Vec<LockGuard>, Error> {
    let locks = chain
        .iter()
        .map(|entry| Ok(lock_shared(&entry.dir, entry.id, &LockOptions::PATIENT)?));
    locks.collect()
}

/// Every member must be good, now that it is locked and validated.
fn check_statuses(chain: &[BackupEntry], options: &Options) -> Result<(), Error> {
    for entry in chain {
        // Read again: validation may just have changed what was read when the chain was chosen.
        let (control, _) = entry.open().read_control()?;
        if matches!(control.status, BackupStatus::Ok | BackupStatus::Done) {
            continue;
        }
        if !options.force {
            return Err(Error::NotRestorable {
                id: entry.id,
                status: control.status,
            });
        }
        tracing::warn!("Backup {} is not valid, restore is forced", entry.id);
    }
    Ok(())
}

struct Restore<'a> {
    options: &'a Options,
    plan: &'a Plan,
    monitor: &'a dyn Monitor,
}

impl Restore<'_> {
    fn create_directories(&self) -> Result<(), Error> {
        let root = self.plan.data.display_path(Path::new(""));
        tracing::debug!("Restore directories and symlinks... in {}", root.display());
        for directory in &self.plan.directories {
            directory
                .storage
                .create_dir(&directory.path, directory.mode)?;
        }
        for link in &self.plan.links {
            self.plan.data.symlink(&link.target, &link.path)?;
        }
        Ok(())
    }

    fn settings(&self) -> Settings {
        Settings {
            engine: self.options.check.engine,
            threads: self.options.check.threads,
            sync: self.options.sync,
            cancel: self.options.check.cancel.clone(),
        }
    }

    /// Restores all files but `pg_control`.
    fn copy(&self) -> Result<(), Error> {
        let items: Vec<RestoreItem> = self.plan.items();
        let bytes = self.plan.bytes;
        tracing::info!(
            "Start restoring backup files. DATA size: {}",
            pretty_size(bytes)
        );
        let began = Instant::now();
        let kind = RestoreKind::new(self.options.check.threads, self.options.force);
        self.monitor
            .begin(Stage::Restore, count(items.len()), bytes);
        let transferred = transfer(&kind, items, &self.settings(), self.monitor).and_then(|()| {
            transfer(
                &RebuildKind,
                self.plan.rebuilds(),
                &self.settings(),
                self.monitor,
            )
        });
        self.monitor.end();
        transferred?;
        tracing::info!(
            "Backup files are restored. Transfered bytes: {}, time elapsed: {}",
            pretty_size(kind.written_bytes()),
            pretty_time(began)
        );
        if kind.damaged() > 0 {
            tracing::warn!(
                "{} damaged pages or files were restored as they are",
                kind.damaged()
            );
        }
        Ok(())
    }

    /// Makes directory entries durable, then writes `pg_control`.
    fn finish(&self) -> Result<(), Error> {
        if !self.options.sync {
            tracing::warn!("Restored files are not synced to disk");
            return self.plan.write_control_file(false);
        }
        tracing::info!("Start Syncing restored files to disk");
        let began = Instant::now();
        for directory in self.plan.directories.iter().rev() {
            directory.storage.sync_dir(&directory.path)?;
        }
        for root in self.plan.roots() {
            root.sync_dir(Path::new(""))?;
            // The root itself is an entry of its parent.
            let path = root.display_path(Path::new(""));
            if let Some(parent) = path.parent() {
                Posix::open(parent)?.sync_dir(Path::new(""))?;
            }
        }
        self.plan.write_control_file(true)?;
        tracing::info!("Finish Syncing restored files.");
        tracing::info!(
            "Restored backup files are synced, time elapsed: {}",
            pretty_time(began)
        );
        Ok(())
    }
}
