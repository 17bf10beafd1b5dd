//! `backup`: a data directory becomes a backup in the catalog.
//!
//! Steps of [`run`], in an order that keeps every earlier backup usable and makes the status true
//! at any instant:
//!
//! 1. look at the cluster; nothing is written if it cannot be backed up
//! 2. create the backup's directory, lock it, write RUNNING
//! 3. list, copy and sync the files; copy `pg_control` last
//! 4. write the content list, then DONE, then the seal
//! 5. validate: OK or CORRUPT
//!
//! A failure after step 2 leaves the status ERROR; a kill leaves RUNNING, which the next command
//! that looks treats as ERROR.

mod content;
mod control_file;
mod external;
mod list;
mod offline;

pub(super) use content::is_wal_entry;
pub use control_file::read_control_consistently;
pub use external::check_external_dirs;
pub use list::{GeneratedFile, ListOptions, SourceEntry, SourceTree, list};

use super::{Error, validate};
use crate::catalog::lock::LockGuard;
use crate::catalog::{BackupDir, Catalog, CatalogError, Instance};
use crate::format::catalog::{
    BackupControl, BackupMode, BackupStatus, ContentEntry, EntrySize, StorageType,
};
use crate::format::seal::Seal;
use crate::io::EngineChoice;
use crate::monitor::{Monitor, Stage};
use crate::pipeline::{
    BackedUpFile, BackupItem, BackupKind, Content, HeaderMapFile, Settings, transfer,
};
use crate::storage::{Posix, Storage, create_directory_durably};
use crate::types::{BackupId, CompressAlgorithm};
use content::ContentBuilder;
use offline::{CONTROL_FILE, StoppedCluster};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What `backup` is asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// The catalog.
    pub catalog: PathBuf,
    /// The instance's name.
    pub instance: String,
    /// The data directory; by default the instance's.
    pub data_directory: Option<PathBuf>,
    /// FULL or PTRACK.
    pub mode: BackupMode,
    /// Whether the cluster is stopped.
    pub offline: bool,
    /// CPU threads.
    pub threads: usize,
    /// Page compression; by default the instance's.
    pub compress_algorithm: Option<CompressAlgorithm>,
    /// Its level; by default the instance's.
    pub compress_level: Option<u32>,
    /// External directories, joined by colons; by default the instance's.
    pub external_dirs: Option<String>,
    /// A note.
    pub note: Option<String>,
    /// Whether the backup is validated when it is done.
    pub validate: bool,
    /// Whether that validation leaves pages alone.
    pub skip_block_validation: bool,
    /// Whether files are made durable.
    pub sync: bool,
    /// Whether the contents of `pg_log` are backed up.
    pub pg_log: bool,
    /// Whether the contents of `pg_replslot` are backed up.
    pub pg_replslot: bool,
    /// Which I/O engine to use.
    pub engine: EngineChoice,
    /// Set by a signal handler.
    pub cancel: Arc<AtomicBool>,
}

/// Takes a backup and returns its id.
///
/// # Errors
/// When it could not be taken; earlier backups are as they were.
pub fn run(options: &Options, monitor: &dyn Monitor) -> Result<BackupId, Error> {
    if !options.offline {
        return Err(Error::NotSupportedYet {
            what: "backup of a running server".to_owned(),
            instead: "stop the server and add --offline".to_owned(),
        });
    }
    if options.mode != BackupMode::Full {
        return Err(Error::NotSupportedYet {
            what: "a PTRACK backup of a stopped server".to_owned(),
            instead: "take a FULL backup: -b FULL".to_owned(),
        });
    }
    let instance = Catalog::open(&options.catalog)?.instance(&options.instance)?;
    let plan = Plan::new(options, &instance)?;
    let cluster = StoppedCluster::examine(&plan.data_directory)?;
    check_system_identifier(&cluster, &plan)?;
    let (dir, _lock, mut control) = create(&instance, &plan, &cluster)?;
    let id = control.id();
    let run = Run {
        options,
        plan: &plan,
        cluster: &cluster,
        dir: &dir,
        monitor,
    };
    if let Err(error) = run.fill(&mut control) {
        tracing::warn!("Backup {id} is running, setting its status to ERROR");
        control.status = BackupStatus::Error;
        control.end_time = Some(now());
        // The first failure is the one to report; without this write the status stays RUNNING,
        // which says the same.
        if let Err(second) = dir.write_control(&control) {
            tracing::warn!("cannot set the status of backup {id}: {second}");
        }
        return Err(error);
    }
    if options.validate {
        run.validate(&mut control)?;
    }
    tracing::info!("Backup {id} completed");
    Ok(id)
}

/// What the options and the instance's configuration come to.
struct Plan {
    data_directory: PathBuf,
    system_identifier: Option<u64>,
    algorithm: CompressAlgorithm,
    level: u32,
    external_dirs: Option<String>,
}

impl Plan {
    fn new(options: &Options, instance: &Instance) -> Result<Plan, Error> {
        let conf = instance.conf()?;
        let data_directory = options
            .data_directory
            .clone()
            .or_else(|| conf.pgdata.clone().map(PathBuf::from))
            .ok_or(Error::MissingOption {
                option: "PGDATA (-D, --pgdata)",
            })?;
        let external = options
            .external_dirs
            .clone()
            .or_else(|| conf.external_dirs.clone());
        Ok(Plan {
            data_directory,
            system_identifier: (conf.system_identifier > 0).then_some(conf.system_identifier),
            algorithm: options
                .compress_algorithm
                .or(conf.compress_algorithm)
                .unwrap_or_default(),
            level: options.compress_level.or(conf.compress_level).unwrap_or(1),
            external_dirs: external.filter(|dirs| !dirs.eq_ignore_ascii_case("none")),
        })
    }

    fn external_dirs(&self) -> Result<Vec<PathBuf>, Error> {
        let text = self.external_dirs.as_deref().unwrap_or("");
        let paths = text.split(':').filter(|path| !path.is_empty()).map(|path| {
            if path.starts_with('/') {
                return Ok(PathBuf::from(path));
            }
            Err(Error::ExternalDirNotAbsolute {
                path: path.to_owned(),
            })
        });
        paths.collect()
    }
}

fn check_system_identifier(cluster: &StoppedCluster, plan: &Plan) -> Result<(), Error> {
    let found = cluster.control.system_identifier;
    match plan.system_identifier {
        Some(expected) if expected != found => Err(Error::OtherCluster { expected, found }),
        _ => Ok(()),
    }
}

/// Creates the backup's directory under an id that is still free, locked.
fn create(
    instance: &Instance,
    plan: &Plan,
    cluster: &StoppedCluster,
) -> Result<(BackupDir, LockGuard, BackupControl), Error> {
    let mut attempts = 0;
    loop {
        let mut control = BackupControl::new(BackupMode::Full, now());
        control.stream = true;
        control.compress_algorithm = plan.algorithm;
        control.compress_level = plan.level;
        control.from_replica = cluster.is_standby();
        control.checksum_version = u32::from(cluster.control.data_checksums);
        control.timeline = cluster.control.timeline;
        control.external_dirs.clone_from(&plan.external_dirs);
        control.storage_type = StorageType::File;
        control.status = BackupStatus::Running;
        match instance.create_backup(&control) {
            Ok((dir, lock)) => return Ok((dir, lock, control)),
            // Ids are seconds: somebody else has this one.
            Err(CatalogError::BackupExists { .. } | CatalogError::Lock(_)) if attempts < 3 => {
                attempts += 1;
                std::thread::sleep(std::time::Duration::from_millis(1001));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// One backup being taken.
struct Run<'a> {
    options: &'a Options,
    plan: &'a Plan,
    cluster: &'a StoppedCluster,
    dir: &'a BackupDir,
    monitor: &'a dyn Monitor,
}

impl Run<'_> {
    /// Everything from the empty directory to the status DONE.
    fn fill(&self, control: &mut BackupControl) -> Result<(), Error> {
        self.announce(control);
        control.start_lsn = self.cluster.start_lsn;
        self.dir.write_control(control)?;
        let tree = self.list()?;
        control.pgdata_bytes = Some(signed(tree.estimated_bytes(false)));
        self.check_space(&tree)?;
        let targets = self.create_directories(&tree)?;
        let copied = self.copy(&tree, &targets)?;
        let mut content = ContentBuilder::new(&tree, &copied, self.options.sync);
        self.add_generated_files(&tree, &*targets.database, &mut content)?;
        if self.options.sync {
            targets.sync(&tree)?;
        } else {
            tracing::warn!("Backup files are not synced to disk");
        }
        self.cluster
            .check_still_stopped(&self.plan.data_directory)?;
        self.finish(control, &content)
    }

    fn announce(&self, control: &BackupControl) {
        tracing::info!(
            "Backup start, gs_probackup version: {}, instance: {}, backup ID: {}, backup mode: {}, \
             wal mode: STREAM, remote: false, compress-algorithm: {}, compress-level: {}",
            control.program_version,
            self.options.instance,
            control.id(),
            control.mode.name(),
            self.plan.algorithm,
            self.plan.level
        );
        tracing::info!(
            "Offline backup of \"{}\", stopped at {}",
            self.plan.data_directory.display(),
            self.cluster.stop_lsn
        );
        if !self.cluster.control.data_checksums {
            tracing::warn!(
                "This PostgreSQL instance was initialized without data block checksums. \
                 gs_probackup have no way to detect data block corruption without them. \
                 Reinitialize PGDATA with option '--data-checksums'."
            );
        }
    }

    fn list(&self) -> Result<SourceTree, Error> {
        let mut tree = list(
            &self.plan.data_directory,
            &ListOptions {
                flavor: self.cluster.control.flavor,
                online: false,
                replication_slots: None,
                pg_log: self.options.pg_log,
                pg_replslot: self.options.pg_replslot,
                external_dirs: self.plan.external_dirs()?,
            },
        )?;
        if tree.entries.len() < ENTRIES_MIN {
            return Err(Error::AlmostEmpty {
                path: self.plan.data_directory.clone(),
            });
        }
        self.add_wal(&mut tree)?;
        check_names(&tree)?;
        let size = super::words::pretty_size(tree.estimated_bytes(false));
        tracing::info!("PGDATA estimated size: {size}");
        Ok(tree)
    }

    /// Adds the WAL segments that a start needs; the walk leaves all of them out.
    fn add_wal(&self, tree: &mut SourceTree) -> Result<(), Error> {
        tree.roots.push(self.cluster.wal.clone());
        for segment in &self.cluster.wal_segments {
            let metadata = self.cluster.wal.metadata(Path::new(segment))?;
            tree.entries.push(SourceEntry {
                name: format!("{}/{segment}", self.cluster.wal_directory()).into(),
                root: tree.roots.len() - 1,
                path: Some(Path::new(segment).into()),
                mode: metadata.mode,
                size: metadata.size,
                content: Some(Content::Plain),
                db_oid: 0,
                external_dir: 0,
            });
        }
        Ok(())
    }

    /// Refuses a backup that cannot fit. A compressed one may, so it is left to try.
    fn check_space(&self, tree: &SourceTree) -> Result<(), Error> {
        let target = Posix::open(self.dir.path())?;
        let available = target.available_bytes()?;
        let required = tree.estimated_bytes(false) + tree.estimated_bytes(true);
        tracing::info!(
            "The remaining disk space is: {}; The required space for backup is: {};",
            super::words::pretty_size(available),
            super::words::pretty_size(required)
        );
        if self.plan.algorithm == CompressAlgorithm::None && required > available {
            return Err(Error::NoSpace {
                path: self.dir.path().to_owned(),
                required,
                available,
            });
        }
        Ok(())
    }

    fn create_directories(&self, tree: &SourceTree) -> Result<Targets, Error> {
        let database: Arc<dyn Storage> = Arc::new(Posix::open(&self.dir.database())?);
        let mut targets = Targets {
            database,
            external: Vec::new(),
        };
        for (index, _) in self.plan.external_dirs()?.iter().enumerate() {
            let number = u32::try_from(index + 1).expect("a command line has few directories");
            let path = self.dir.external(number);
            if let Some(parent) = path.parent() {
                create_directory_durably(parent, 0o700)?;
            }
            create_directory_durably(&path, 0o700)?;
            targets.external.push(Arc::new(Posix::open(&path)?));
        }
        for entry in tree.entries.iter().filter(|entry| entry.content.is_none()) {
            if !entry.name.is_empty() {
                targets
                    .of(entry.external_dir)
                    .create_dir(Path::new(&*entry.name), 0o700)?;
            }
        }
        Ok(targets)
    }

    /// Copies all files but `pg_control`.
    fn copy(&self, tree: &SourceTree, targets: &Targets) -> Result<Vec<BackedUpFile>, Error> {
        let backup: Arc<dyn Storage> = Arc::new(Posix::open(self.dir.path())?);
        let map = backup.create(Path::new("page_header_map"), 0o600, false)?;
        let kind = BackupKind::new(
            self.plan.algorithm,
            self.plan.level,
            self.options.threads,
            HeaderMapFile::new(map),
        )
        .with_page_checksums(self.cluster.control.data_checksums);
        let order = copy_order(tree);
        let bytes: u64 = order.iter().map(|index| tree.entries[*index].size).sum();
        let items = order.iter().map(|index| item(tree, targets, *index));
        let began = Instant::now();
        tracing::info!("Start backing up files");
        self.monitor
            .begin(Stage::Backup, super::words::count(items.len()), bytes);
        let transferred = transfer(&kind, items, &self.settings(), self.monitor);
        self.monitor.end();
        transferred?;
        let (copied, map) = kind.into_results();
        map.sync()?;
        if copied.iter().all(|file| file.headers.is_none()) {
            // The original has no map either when there is no page.
            backup.remove_file(Path::new("page_header_map"))?;
        }
        tracing::info!(
            "Data files are transferred, time elapsed: {}",
            super::words::pretty_time(began)
        );
        Ok(copied)
    }

    fn settings(&self) -> Settings {
        Settings {
            engine: self.options.engine,
            threads: self.options.threads,
            sync: self.options.sync,
            cancel: self.options.cancel.clone(),
        }
    }

    /// Writes what is not copied as it is: `pg_control` and the tablespace map.
    fn add_generated_files(
        &self,
        tree: &SourceTree,
        database: &dyn Storage,
        content: &mut ContentBuilder<'_>,
    ) -> Result<(), Error> {
        content.add_control_file(database, &self.cluster.control_bytes)?;
        if !tree.tablespaces.is_empty() {
            content.add_tablespace_map(database, &tree.tablespaces)?;
        }
        Ok(())
    }

    /// Writes the content list and DONE, then the seal.
    fn finish(
        &self,
        control: &mut BackupControl,
        content: &ContentBuilder<'_>,
    ) -> Result<(), Error> {
        let written = self.dir.write_content_list(content.entries())?;
        control.content_crc = Some(written.crc);
        control.data_bytes = Some(signed(written.data_bytes));
        control.wal_bytes = Some(signed(written.wal_bytes));
        control.uncompressed_bytes = Some(signed(written.uncompressed_bytes));
        control.stop_lsn = self.cluster.stop_lsn;
        control.recovery_xid = self.cluster.control.next_xid;
        control.recovery_time = Some(self.cluster.control.checkpoint_time);
        control.recovery_name = format!("backup {}", control.id());
        control.note.clone_from(&self.options.note);
        control.end_time = Some(now());
        control.status = BackupStatus::Done;
        self.dir.write_control(control)?;
        self.seal(control)
    }

    fn seal(&self, control: &BackupControl) -> Result<(), Error> {
        let seal = Seal::new(
            &control.encode(),
            Some(&content::padded(&self.cluster.control_bytes)),
        );
        super::seal::write(self.dir, &seal)
    }

    /// Reads the backup back and sets OK or CORRUPT.
    fn validate(&self, control: &mut BackupControl) -> Result<(), Error> {
        let id = control.id();
        let options = validate::CheckOptions {
            threads: self.options.threads,
            skip_block_validation: self.options.skip_block_validation,
            engine: self.options.engine,
            cancel: self.options.cancel.clone(),
        };
        let valid = validate::check_backup(self.dir, control, &options, self.monitor)?;
        if !valid {
            return Err(Error::BackupFailed { id });
        }
        Ok(())
    }
}

/// The files to copy, largest first, so that no thread ends the run alone on a big one.
fn copy_order(tree: &SourceTree) -> Vec<usize> {
    let is_copied = |entry: &SourceEntry| {
        entry.content.is_some() && !(entry.external_dir == 0 && &*entry.name == CONTROL_FILE)
    };
    let mut order: Vec<usize> = (0..tree.entries.len())
        .filter(|index| is_copied(&tree.entries[*index]))
        .collect();
    order.sort_unstable_by(|a, b| {
        let (a, b) = (&tree.entries[*a], &tree.entries[*b]);
        b.size.cmp(&a.size).then_with(|| a.name.cmp(&b.name))
    });
    order
}

/// What to do with the file of an entry.
fn item(tree: &SourceTree, targets: &Targets, index: usize) -> BackupItem {
    let entry = &tree.entries[index];
    let content = entry.content.expect("only files are copied");
    BackupItem {
        index,
        name: entry.name.to_string(),
        source: tree.roots[entry.root].clone(),
        source_path: entry.source_path().to_owned(),
        target: targets.of(entry.external_dir).clone(),
        target_path: PathBuf::from(&*entry.name),
        target_mode: match content {
            Content::Plain => entry.mode & 0o7777,
            _ => 0o600,
        },
        size: entry.size,
        content,
    }
}

/// Entries that any cluster has; fewer mean that the directory is being removed or cannot be read.
const ENTRIES_MIN: usize = 100;

/// Refuses names that a content list cannot hold, before anything is copied.
fn check_names(tree: &SourceTree) -> Result<(), Error> {
    let mut line = Vec::new();
    for entry in &tree.entries {
        line.clear();
        let content = ContentEntry::file(&*entry.name, 0, EntrySize::Bytes(0), 0);
        if !entry.name.is_empty() && content.encode_line(&mut line).is_err() {
            let path = tree.roots[entry.root].display_path(entry.source_path());
            return Err(Error::UnstorableName { path });
        }
    }
    Ok(())
}

/// Where files go.
struct Targets {
    database: Arc<dyn Storage>,
    external: Vec<Arc<dyn Storage>>,
}

impl Targets {
    fn of(&self, external_dir: u32) -> &Arc<dyn Storage> {
        let index = usize::try_from(external_dir).expect("32 bits fit");
        if index == 0 {
            &self.database
        } else {
            &self.external[index - 1]
        }
    }

    /// Makes all directory entries durable, those below before those above.
    fn sync(&self, tree: &SourceTree) -> Result<(), Error> {
        tracing::info!("Syncing backup files to disk");
        for entry in tree
            .entries
            .iter()
            .rev()
            .filter(|entry| entry.content.is_none())
        {
            self.of(entry.external_dir)
                .sync_dir(Path::new(&*entry.name))?;
        }
        for storage in std::iter::once(&self.database).chain(&self.external) {
            storage.sync_dir(Path::new(""))?;
        }
        tracing::info!("Finish Syncing backup files.");
        Ok(())
    }
}

fn now() -> i64 {
    let elapsed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX)
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
