//! `restore`: any backup of a chain becomes a data directory.
//!
//! Steps of [`run`]:
//!
//! 1. choose the backup and its chain; lock them
//! 2. validate the chain, unless told not to
//! 3. check the targets: data directory, tablespaces and external directories must be empty and
//!    apart; keep other restores out
//! 4. plan: for each file of the newest member, where its bytes are in the chain
//! 5. create directories and tablespace links, restore the files, largest first, each made durable
//! 6. write recovery settings if asked for; sync the directories; put `pg_control` in place last
//!
//! `pg_control` comes last so that an interrupted restore cannot be started by mistake.

mod choose;
mod mapping;
pub(super) mod plan;
mod recovery_conf;
mod target;

pub use mapping::{MappingKind, PathMapping};
pub use recovery_conf::RecoveryTarget;

use super::Error;
use super::validate::{CheckOptions, validate_chain};
use super::words::{count, pretty_size, pretty_time};
use crate::catalog::lock::{LockGuard, LockOptions, lock_shared};
use crate::catalog::{BackupEntry, Catalog};
use crate::format::catalog::{BackupStatus, format_timestamp};
use crate::monitor::{Monitor, Stage};
use crate::pipeline::{RebuildKind, RestoreKind, Settings, transfer};
use crate::storage::{Posix, Storage};
use crate::types::BackupId;
use plan::{Directory, Plan};
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
    let mut chain = choose::chain(&instance, options)?;
    let id = chain.last().expect("a chain has a member").id;
    check_target(options, &data_directory, &chain)?;
    if options.validate && !options.force {
        validate_chain(&chain, &options.check, monitor)?;
    } else {
        tracing::warn!("Backup {id} is used without validation.");
    }
    let _locks = lock(&chain, options)?;
    check_statuses(&mut chain, options)?;
    let control = choose::control(chain.last().expect("a chain has a member"))?;
    let shown = format_timestamp(control.recovery_time.unwrap_or(control.start_time));
    tracing::info!("Restoring the database from backup at {shown}");
    let _occupied = target::occupy(&data_directory)?;
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
        plan.flavor()?,
        &control,
        options,
        conf.get("restore-command").as_deref(),
    )?;
    restore.finish()?;
    tracing::info!("Restore of backup {id} completed.");
    Ok(())
}

/// Refuses mappings that name nothing in the backup and targets that hold something, before any
/// long work.
fn check_target(
    options: &Options,
    data_directory: &Path,
    chain: &[BackupEntry],
) -> Result<(), Error> {
    let backup = chain.last().expect("a chain has a member");
    let tablespaces = plan::tablespaces(chain)?;
    mapping::check_tablespaces(&tablespaces, &options.tablespace_mapping)?;
    let mut external = Vec::new();
    if !options.skip_external_dirs {
        external = plan::external_dirs(&choose::control(backup)?);
        mapping::check_external(&external, &options.external_mapping)?;
    }
    let absolute = tablespaces
        .iter()
        .filter(|(_, path)| !mapping::is_relative(path));
    let targets = target::Targets {
        catalog: &options.catalog,
        data: data_directory,
        tablespaces: absolute
            .map(|(_, path)| mapping::apply(Path::new(path), &options.tablespace_mapping))
            .collect(),
        external: external
            .iter()
            .map(|path| mapping::apply(path, &options.external_mapping))
            .collect(),
    };
    targets.check_apart()
}

fn lock(chain: &[BackupEntry], options: &Options) -> Result<Vec<LockGuard>, Error> {
    let patience = LockOptions::PATIENT.cancelled_by(&options.check.cancel);
    let locks = chain
        .iter()
        .map(|entry| Ok(lock_shared(&entry.dir, entry.id, &patience)?));
    locks.collect()
}

/// Every member must be good, now that it is locked and validated.
fn check_statuses(chain: &mut [BackupEntry], options: &Options) -> Result<(), Error> {
    for entry in chain {
        if entry.unfinished_merge.is_some() {
            continue;
        }
        // Read again: validation may just have changed what was read when the chain was chosen.
        let (control, _) = entry.open().read_control()?;
        let status = control.status;
        entry.control = Ok(control);
        if matches!(status, BackupStatus::Ok | BackupStatus::Done) {
            continue;
        }
        if !options.force {
            return Err(Error::NotRestorable {
                id: entry.id,
                status,
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
            // Files must get in, whatever the mode that it gets in the end.
            directory
                .storage
                .create_dir(&directory.path, directory.mode | 0o700)?;
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
        let items = self.plan.items();
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
                self.plan.rebuilds().into_iter(),
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

    /// Gives directories that their owner may not write to their real mode, those below first.
    fn close_directories(&self) -> Result<(), Error> {
        let is_closed = |directory: &&Directory| directory.mode & 0o700 != 0o700;
        for directory in self.plan.directories.iter().rev().filter(is_closed) {
            directory
                .storage
                .set_dir_mode(&directory.path, directory.mode)?;
        }
        Ok(())
    }

    /// Makes directory entries durable, then writes `pg_control`.
    fn finish(&self) -> Result<(), Error> {
        if !self.options.sync {
            tracing::warn!("Restored files are not synced to disk");
            self.close_directories()?;
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
        self.close_directories()?;
        self.plan.write_control_file(true)?;
        tracing::info!("Finish Syncing restored files.");
        tracing::info!(
            "Restored backup files are synced, time elapsed: {}",
            pretty_time(began)
        );
        Ok(())
    }
}
