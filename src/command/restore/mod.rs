//! `restore`: any backup of a chain becomes a data directory.
//!
//! Steps of [`run`]:
//!
//! 1. choose the backup and its chain; lock them
//! 2. validate the chain, unless told not to
//! 3. check the targets: data directory, tablespaces and external directories must be empty and
//!    apart, unless they are those of this cluster and are restored in place; keep other restores
//!    out
//! 4. plan: for each file of the newest member, where its bytes are in the chain
//! 5. in place: find what can stay and what has to go; on volumes, check that all names and all
//!    bytes can be there; nothing is changed so far
//! 6. mark the directory and take `pg_control` away (`destination.rs`)
//! 7. remove what the backup does not have, create directories and tablespace links, restore the
//!    files, largest first, each made durable
//! 8. write recovery settings if asked for; sync the directories; put `pg_control` in place last;
//!    remove the mark
//!
//! `pg_control` comes last so that an interrupted restore cannot be started by mistake. What an
//! interrupted one left is a destination for a restore in place.

mod archive;
mod choose;
mod destination;
mod in_place;
mod mapping;
pub(super) mod plan;
mod recovery_conf;
mod redundant;
mod rehearsal;
mod room;
mod shared;
mod shared_needs;
mod shift;
mod target;

pub use super::recovery_target::RecoveryTarget;
pub(super) use archive::archives;
pub(super) use choose::{Wanted, chain as choose_chain};
pub(super) use destination::postmaster;
pub use mapping::{MappingKind, PathMapping};
pub(super) use rehearsal::{Rehearsal, empty};
pub use room::UnfitError;
pub(super) use shared_needs::GroupNeeds;

use super::Error;
use super::shared_storage::{SharedOptions, SharedStorage};
use super::validate::{CheckOptions, validate_chain};
use super::words::{count, pretty_size, pretty_time};
use crate::catalog::lock::{LockGuard, LockOptions, lock_shared};
use crate::catalog::{BackupEntry, Catalog, Instance};
use crate::format::catalog::{BackupStatus, StorageType, format_timestamp};
use crate::monitor::{Monitor, Stage};
use crate::pipeline::{RebuildKind, RestoreKind, Settings, transfer};
use crate::storage::{FileKind, Posix, Storage};
use crate::types::BackupId;
use destination::Destination;
use plan::{Directory, Link, Plan, Tree};
use redundant::Survey;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// What of a destination that is not empty may stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IncrementalMode {
    /// The destination must be empty.
    #[default]
    None,
    /// Pages whose LSN and checksum are those of the backup.
    Checksum,
    /// Also pages that were not changed since a backup of the chain.
    Lsn,
}

/// What `restore` is asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// The catalog.
    pub catalog: PathBuf,
    /// The instance's name.
    pub instance: String,
    /// Where to; by default the instance's data directory.
    pub data_directory: Option<PathBuf>,
    /// The volume groups, where the cluster is on shared storage.
    pub shared: Option<SharedOptions>,
    /// Which backup; by default the newest that fits the target.
    pub backup_id: Option<BackupId>,
    /// How far a server started on it is to recover.
    pub target: RecoveryTarget,
    /// A directory with WAL besides the archive of the instance; the server is told to take WAL
    /// from it.
    pub archive_dir: Option<PathBuf>,
    /// The command by which the server gets WAL.
    pub restore_command: Option<String>,
    /// Where tablespaces go.
    pub tablespace_mapping: Vec<PathMapping>,
    /// Where external directories go.
    pub external_mapping: Vec<PathMapping>,
    /// Whether external directories are left out.
    pub skip_external_dirs: bool,
    /// What may stay of what is there.
    pub incremental_mode: IncrementalMode,
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
    let shared = options.shared.as_ref();
    // Nothing of the volumes is changed before it is certain that it may be.
    let look = shared.map(SharedStorage::open_to_read).transpose()?;
    let open = || shared.map(SharedStorage::open_to_write).transpose();
    restore(options, false, look, open, monitor)
}

/// As [`run`], of a chain that was validated a moment ago.
pub(super) fn run_validated(options: &Options, monitor: &dyn Monitor) -> Result<(), Error> {
    let shared = options.shared.as_ref();
    let look = shared.map(SharedStorage::open_to_read).transpose()?;
    let open = || shared.map(SharedStorage::open_to_write).transpose();
    restore(options, true, look, open, monitor)
}

/// Restores a backup; the volume groups of a cluster on shared storage are these.
///
/// # Errors
/// When it could not be restored; the catalog is as it was.
///
/// # Panics
/// Never: a chain has a member.
pub fn run_on(
    options: &Options,
    shared: Option<SharedStorage>,
    monitor: &dyn Monitor,
) -> Result<(), Error> {
    restore(options, false, shared.clone(), || Ok(shared), monitor)
}

fn restore(
    options: &Options,
    is_validated: bool,
    look: Option<SharedStorage>,
    open: impl FnOnce() -> Result<Option<SharedStorage>, Error>,
    monitor: &dyn Monitor,
) -> Result<(), Error> {
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
    let in_place = is_in_place(
        options,
        &data_directory,
        look.as_ref(),
        conf.system_identifier,
    )?;
    let archives = archives(options.archive_dir.as_deref(), &instance)?;
    let mut chain = choose_for(options, &instance, &archives)?;
    let id = chain.last().expect("a chain has a member").id;
    check_storage(&chain, &instance, look.is_some())?;
    check_target(options, &data_directory, &chain, in_place)?;
    if !in_place && options.incremental_mode != IncrementalMode::None {
        tell_of_empty_destination();
    }
    if is_validated {
        tracing::debug!("Backup {id} was validated.");
    } else {
        validate(&chain, options, &archives, monitor)?;
    }
    let _locks = lock(&chain, options)?;
    check_statuses(&mut chain, options)?;
    let control = choose::control(chain.last().expect("a chain has a member"))?;
    let shown = format_timestamp(control.start_time);
    tracing::info!("Restoring the database from backup at {shown}");
    let restore_command = archive::restore_command(&control, options, &archives)?;
    let rooms = room::rooms(look.as_ref())?;
    drop(look);
    let shared = open()?;
    if let Some(shared) = shared.as_ref().filter(|_| !in_place) {
        shared.check_empty()?;
    }
    let _occupied = target::occupy(&data_directory, in_place)?;
    let mut plan = Plan::new(&chain, options, &data_directory, shared)?;
    let (survey, mark) = if in_place {
        let settings = settings(options);
        let identifier = conf.system_identifier;
        let found = in_place::prepare(&mut plan, options, &settings, identifier, monitor)?;
        (Some(found.survey), found.mark)
    } else {
        (None, in_place::mark(conf.system_identifier, id, None))
    };
    room::check(&plan, survey.as_ref(), rooms)?;
    // A backup without a right control file is refused while the target still is what it was.
    plan.flavor()?;
    plan.destination().begin(&mark)?;
    plan.clear_volumes()?;
    let restore = Restore {
        options,
        plan: &plan,
        survey,
        monitor,
    };
    restore.make_room()?;
    restore.copy()?;
    let (flavor, command) = (plan.flavor()?, restore_command.as_deref());
    recovery_conf::write(&*plan.data, flavor, &control, options, command)?;
    restore.finish()?;
    tracing::info!("Restore of backup {id} completed.");
    Ok(())
}

fn tell_of_empty_destination() {
    tracing::info!(
        "Destination directory and tablespace directories are empty, disable incremental restore"
    );
}

/// Validates a chain, and that WAL goes as far as the target, unless the options say otherwise.
fn validate(
    chain: &[BackupEntry],
    options: &Options,
    archives: &[PathBuf],
    monitor: &dyn Monitor,
) -> Result<(), Error> {
    if options.validate && !options.force {
        validate_chain(chain, &options.check, monitor)?;
        return archive::check_reach(chain, options, archives);
    }
    let id = chain.last().expect("a chain has a member").id;
    tracing::warn!("Backup {id} is used without validation.");
    Ok(())
}

/// The chain of the backup that the options ask for.
fn choose_for(
    options: &Options,
    instance: &Instance,
    archives: &[PathBuf],
) -> Result<Vec<BackupEntry>, Error> {
    let wanted = Wanted {
        backup_id: options.backup_id,
        target: &options.target,
        is_tolerant: options.validate || options.force,
        archives,
        cancel: &options.check.cancel,
    };
    choose::chain(instance, &wanted)
}

/// Whether there is something in the data directory that may stay.
fn is_in_place(
    options: &Options,
    data_directory: &Path,
    shared: Option<&SharedStorage>,
    system_identifier: u64,
) -> Result<bool, Error> {
    let groups = shared.map_or(Ok(()), SharedStorage::check_empty);
    let checked = groups.and_then(|()| check_target_empty(data_directory));
    let is_occupied = matches!(checked, Err(Error::TargetNotEmpty { .. }));
    if options.incremental_mode == IncrementalMode::None || !is_occupied {
        return checked.map(|()| false);
    }
    if shared.is_some() && check_target_empty(data_directory).is_ok() {
        // No mark of a restore and no pid file: the cluster may be running on another host.
        tracing::warn!(
            "volume groups are not empty, and nothing in the data directory \"{}\" tells whose \
             they are",
            data_directory.display()
        );
        return Err(Error::IncrementalImpossible {
            path: data_directory.to_owned(),
        });
    }
    let data = plan::open_root(data_directory)?;
    if destination::is_begun_only(&*data)? && shared.is_none_or(|it| it.check_empty().is_ok()) {
        return Ok(false);
    }
    tracing::info!(
        "Running incremental restore into nonempty directory: \"{}\"",
        data_directory.display()
    );
    let destination = Destination::new(&*data, shared);
    destination.examine(options, system_identifier)?;
    Ok(true)
}

fn settings(options: &Options) -> Settings {
    Settings {
        engine: options.check.engine,
        threads: options.check.threads,
        sync: options.sync,
        cancel: options.check.cancel.clone(),
    }
}

/// Refuses a backup of a cluster on another kind of storage than that of the instance.
fn check_storage(chain: &[BackupEntry], instance: &Instance, is_shared: bool) -> Result<(), Error> {
    let expected = match is_shared {
        true => StorageType::Dss,
        false => StorageType::File,
    };
    for entry in chain {
        let found = choose::control(entry)?.storage_type;
        // Records of old versions do not say; they are of file systems.
        let is_told = is_shared || found != StorageType::Unknown;
        if is_told && found != expected {
            let (id, name) = (entry.id, instance.name());
            tracing::warn!(
                "Backup {id} is not suit for instance {name}, because they have different storage \
                 type."
            );
            return Err(Error::OtherStorage { id });
        }
    }
    Ok(())
}

/// Refuses mappings that name nothing in the backup and targets that hold something, before any
/// long work.
fn check_target(
    options: &Options,
    data_directory: &Path,
    chain: &[BackupEntry],
    in_place: bool,
) -> Result<(), Error> {
    let backup = chain.last().expect("a chain has a member");
    let tablespaces = plan::tablespaces(chain)?;
    let own = if in_place {
        mapping::own_tablespaces(data_directory)?
    } else {
        Vec::new()
    };
    mapping::check_tablespaces(&tablespaces, &options.tablespace_mapping, &own)?;
    let mut external = Vec::new();
    if !options.skip_external_dirs {
        external = plan::external_dirs(&choose::control(backup)?);
        mapping::check_external(&external, &options.external_mapping, in_place)?;
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
    /// What has to go, of a restore in place.
    survey: Option<Survey>,
    monitor: &'a dyn Monitor,
}

impl Restore<'_> {
    /// Removes what is in the way and creates directories and links.
    fn make_room(&self) -> Result<(), Error> {
        let Some(survey) = &self.survey else {
            return self.create_directories();
        };
        tracing::info!("Removing redundant files in destination directory");
        let began = Instant::now();
        survey.remove()?;
        self.create_directories()?;
        survey.remove_links(&*self.plan.data)?;
        tracing::info!(
            "Redundant files are removed, time elapsed: {}",
            pretty_time(began)
        );
        self.plan.set_modes()
    }

    /// Creates directories, and between those of the data directory and others the links.
    ///
    /// The links are durable before anything is written behind them: by them a repeated run knows
    /// that what is there is this cluster's.
    fn create_directories(&self) -> Result<(), Error> {
        let root = self.plan.data.display_path(Path::new(""));
        tracing::debug!("Restore directories and symlinks... in {}", root.display());
        let shared = self.plan.shared.as_ref().map(|shared| &shared.data);
        let has_links = |directory: &&Directory| {
            let mut trees = std::iter::once(&self.plan.data).chain(shared);
            trees.any(|tree| Arc::ptr_eq(&directory.storage, tree))
        };
        let (own, others): (Vec<_>, Vec<_>) = self.plan.directories.iter().partition(has_links);
        self.create(&own)?;
        for link in &self.plan.links {
            self.put_link(link)?;
        }
        for link in self.plan.links.iter().filter(|_| self.options.sync) {
            let directory = link.path.parent().unwrap_or(Path::new(""));
            link.storage.sync_dir(directory)?;
        }
        self.create(&others)
    }

    fn create(&self, directories: &[&Directory]) -> Result<(), Error> {
        for directory in directories {
            // Files must get in, whatever the mode that it gets in the end.
            let mode = directory.mode | 0o700;
            if self.survey.is_none() || !is_directory_of(directory, mode)? {
                directory.storage.create_dir(&directory.path, mode)?;
            }
        }
        Ok(())
    }

    /// Creates a link, or replaces one at once.
    fn put_link(&self, link: &Link) -> Result<(), Error> {
        let data = &link.storage;
        match data.metadata(&link.path) {
            Ok(metadata) if metadata.kind == FileKind::Symlink => {
                if data.read_link(&link.path)? == link.target {
                    return Ok(());
                }
                if link.tree != Tree::Data {
                    // Names cannot be exchanged on a volume; the mark tells what is under way.
                    data.remove_file(&link.path)?;
                    return Ok(data.symlink(&link.target, &link.path)?);
                }
                let mut name = link.path.as_os_str().to_owned();
                name.push(".tmp");
                let temporary = PathBuf::from(name);
                match data.remove_file(&temporary) {
                    Err(error) if !error.is_not_found() => return Err(error.into()),
                    _ => {}
                }
                data.symlink(&link.target, &temporary)?;
                Ok(data.rename(&temporary, &link.path)?)
            }
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(data.symlink(&link.target, &link.path)?),
        }
    }

    /// Restores all files but `pg_control`.
    fn copy(&self) -> Result<(), Error> {
        let items = self.plan.items();
        let bytes = self.plan.due_bytes();
        tracing::info!(
            "Start restoring backup files. DATA size: {}",
            pretty_size(self.plan.bytes)
        );
        let began = Instant::now();
        let kind = RestoreKind::new(self.options.check.threads, self.options.force);
        self.monitor
            .begin(Stage::Restore, count(items.len()), bytes);
        let settings = settings(self.options);
        let transferred = transfer(&kind, items, &settings, self.monitor).and_then(|()| {
            let rebuilds = self.plan.rebuilds();
            if self.plan.shared.is_none() {
                return transfer(&RebuildKind, rebuilds.into_iter(), &settings, self.monitor);
            }
            // One by one: there is room for one file to be there twice.
            rebuilds.into_iter().try_for_each(|item| {
                let items = std::iter::once(item);
                transfer(&RebuildKind, items, &settings, self.monitor)
            })
        });
        self.monitor.end();
        transferred?;
        tracing::info!(
            "Backup files are restored. Transfered bytes: {}, time elapsed: {}",
            pretty_size(kind.written_bytes()),
            pretty_time(began)
        );
        if self.survey.is_some() {
            let (written, all) = (kind.written_bytes(), self.plan.bytes);
            tracing::info!(
                "Restore incremental ratio (less is better): {}% ({}/{})",
                percent(written, all),
                pretty_size(written),
                pretty_size(all)
            );
        }
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

    /// Makes durable what stays: it may have been written a moment ago, by a run that was
    /// interrupted.
    fn sync_filesystems(&self) -> Result<(), Error> {
        let mut synced = HashSet::new();
        for root in self.plan.roots().chain(self.plan.shared_roots()) {
            if synced.insert(root.metadata(Path::new(""))?.device) {
                root.sync_filesystem()?;
            }
        }
        // Others may be mounted in the trees, as for WAL.
        for directory in &self.plan.directories {
            let (storage, path) = (&directory.storage, &directory.path);
            if synced.insert(storage.metadata(path)?.device) {
                Posix::open(&storage.display_path(path))?.sync_filesystem()?;
            }
        }
        Ok(())
    }

    /// Makes directory entries durable, then writes `pg_control`.
    fn finish(&self) -> Result<(), Error> {
        if !self.options.sync {
            tracing::warn!("Restored files are not synced to disk");
            self.close_directories()?;
            self.plan.write_control_file(false)?;
            return self.plan.destination().end(false);
        }
        tracing::info!("Start Syncing restored files to disk");
        let began = Instant::now();
        for directory in self.plan.directories.iter().rev() {
            directory.storage.sync_dir(&directory.path)?;
        }
        for root in self.plan.shared_roots() {
            root.sync_dir(Path::new(""))?;
        }
        for root in self.plan.roots() {
            root.sync_dir(Path::new(""))?;
            // The root itself is an entry of its parent.
            let path = root.display_path(Path::new(""));
            if let Some(parent) = path.parent() {
                Posix::open(parent)?.sync_dir(Path::new(""))?;
            }
        }
        if self.survey.is_some() {
            self.sync_filesystems()?;
        }
        self.close_directories()?;
        self.plan.write_control_file(true)?;
        self.plan.destination().end(true)?;
        tracing::info!("Finish Syncing restored files.");
        tracing::info!(
            "Restored backup files are synced, time elapsed: {}",
            pretty_time(began)
        );
        Ok(())
    }
}

/// Whether a directory is there already with this mode.
fn is_directory_of(directory: &Directory, mode: u32) -> Result<bool, Error> {
    match directory.storage.metadata(&directory.path) {
        Ok(metadata) => Ok(metadata.kind == FileKind::Directory && metadata.mode & 0o7777 == mode),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A share as the original prints it: rounded to a whole number.
fn percent(part: u64, all: u64) -> u64 {
    let hundredfold = u128::from(part) * 100 + u128::from(all) / 2;
    u64::try_from(hundredfold / u128::from(all.max(1))).unwrap_or(u64::MAX)
}
