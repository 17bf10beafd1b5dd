//! `backup`: a data directory becomes a backup in the catalog.
//!
//! Steps of [`run`], in an order that keeps every earlier backup usable and makes the status true
//! at any instant:
//!
//! 1. look at the cluster, running (`online`) or stopped (`offline`); nothing is written if it
//!    cannot be backed up
//! 2. create the backup's directory, lock it, write RUNNING
//! 3. list, copy and sync the files; copy `pg_control` last
//! 4. write the content list, the seal, then DONE
//! 5. validate: OK or CORRUPT
//!
//! A failure after step 2 leaves the status ERROR; a kill leaves RUNNING, which the next command
//! that looks treats as ERROR.

mod changes;
mod content;
mod control_file;
mod copier;
mod external;
mod history;
mod increment;
mod list;
mod liveness;
mod mode;
mod offline;
mod online;
mod parent;
mod place;
mod shared_list;

pub(super) use content::is_wal_entry;
pub use control_file::read_control_consistently;
pub use external::check_external_dirs;
pub use list::{GeneratedFile, ListOptions, SourceEntry, SourceTree, list};
pub use mode::Mode;
pub use parent::IncrementError;
pub use shared_list::SharedTree;

use super::retention::{Retention, RetentionOptions};
use super::set_backup::Pin;
use super::shared_storage::SharedOptions;
use super::{Error, validate};
use crate::catalog::lock::{LockError, LockGuard};
use crate::catalog::{BackupDir, Catalog, CatalogError, Instance, running_backup};
use crate::format::catalog::{BackupControl, BackupMode, BackupStatus, StorageType};
use crate::format::pg_control::ControlFile;
use crate::format::seal::Seal;
use crate::io::EngineChoice;
use crate::monitor::Monitor;
use crate::server::{ConnectionOptions, Password};
use crate::types::{BackupId, CompressAlgorithm, Lsn, ServerFlavor, TimelineId};
use content::ContentBuilder;
use copier::{Copier, Targets};
use increment::{Changes, Increment};
use offline::StoppedCluster;
use online::RunningServer;
use parent::Parent;
use place::Place;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What `backup` is asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// The catalog.
    pub catalog: PathBuf,
    /// The instance's name.
    pub instance: String,
    /// The data directory; by default the instance's.
    pub data_directory: Option<PathBuf>,
    /// Its volume groups, where it is on shared storage.
    pub shared: Option<SharedOptions>,
    /// How much of it.
    pub mode: Mode,
    /// How the running server is reached; `None` for one that is stopped.
    pub server: Option<ServerOptions>,
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
    /// Until when it is to be kept, whatever retention says.
    pub pin: Option<Pin>,
    /// What becomes of older backups once this one is complete.
    pub retention: RetentionOptions,
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
    /// When the backup begins, in seconds since 1970, which gives it its id. Now by default; tests
    /// of long histories have no time to wait for a second that is still free.
    pub start_time: Option<i64>,
    /// Set by a signal handler.
    pub cancel: Arc<AtomicBool>,
}

/// How a running server is backed up.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Where it is and who we are there.
    pub connection: ConnectionOptions,
    /// How a person is asked for a password.
    pub ask_password: Option<PasswordPrompt>,
    /// Whether the checkpoint at the start is to be as fast as possible.
    pub fast_checkpoint: bool,
    /// The replication slot that keeps WAL while it is received.
    pub slot: Option<String>,
    /// Whether that slot is made for this backup only.
    pub temporary_slot: bool,
    /// How long stopping the backup and receiving its last WAL may take.
    pub archive_timeout: Duration,
}

/// Asks a person for a password.
#[derive(Clone)]
pub struct PasswordPrompt(Arc<PromptFunction>);

type PromptFunction = dyn Fn(&str) -> std::io::Result<Password> + Send + Sync;

impl PasswordPrompt {
    /// Asks by `ask`, which is given the words to show.
    pub fn new(
        ask: impl Fn(&str) -> std::io::Result<Password> + Send + Sync + 'static,
    ) -> PasswordPrompt {
        PasswordPrompt(Arc::new(ask))
    }

    fn ask(&self, words: &str) -> std::io::Result<Password> {
        (self.0)(words)
    }
}

impl std::fmt::Debug for PasswordPrompt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordPrompt")
    }
}

/// Takes a backup and returns its id.
///
/// # Errors
/// When it could not be taken; earlier backups are as they were.
pub fn run(options: &Options, monitor: &dyn Monitor) -> Result<BackupId, Error> {
    let id = take(options, monitor)?;
    if options.retention.is_asked_for() {
        let instance = Catalog::open(&options.catalog)?.instance(&options.instance)?;
        let retention = Retention {
            catalog: &options.catalog,
            instance: &instance,
            options: &options.retention,
            check: &check_options(options),
            monitor,
        };
        retention.run()?;
    }
    Ok(id)
}

fn check_options(options: &Options) -> validate::CheckOptions {
    validate::CheckOptions {
        threads: options.threads,
        skip_block_validation: options.skip_block_validation,
        engine: options.engine,
        cancel: options.cancel.clone(),
        storage: options.shared.is_some().then_some(StorageType::Dss),
    }
}

fn take(options: &Options, monitor: &dyn Monitor) -> Result<BackupId, Error> {
    let instance = Catalog::open(&options.catalog)?.instance(&options.instance)?;
    let plan = Plan::new(options, &instance)?;
    refuse_second_run(&instance, None)?;
    let mut source = Source::examine(options, &plan)?;
    let parent = choose_parent(options, &instance, &source.facts())?;
    let clock = || options.start_time.unwrap_or_else(now);
    let (dir, _lock, mut control) =
        create(&instance, &plan, &source.facts(), parent.as_ref(), clock)?;
    let id = control.id();
    let run = Run {
        options,
        plan: &plan,
        dir: &dir,
        parent: parent.as_ref(),
        monitor,
    };
    run.announce(&control, source.facts().flavor.name());
    let filled = refuse_second_run(&instance, Some(id)).and_then(|()| match &mut source {
        Source::Stopped(cluster) => cluster.back_up(&run, &mut control),
        Source::Running(server) => server.back_up(&run, &mut control),
    });
    if let Err(error) = filled {
        run.fail(&mut control);
        return Err(error);
    }
    // The server is not needed any more; validation may take long.
    drop(source);
    if options.validate {
        run.validate(&mut control)?;
    }
    tracing::info!("Backup {id} completed");
    Ok(id)
}

/// Refuses to run beside another backup of the instance: two that read the same files help nobody,
/// and a cron line that overtakes itself should say so at once. `own` is this run's backup.
fn refuse_second_run(instance: &Instance, own: Option<BackupId>) -> Result<(), Error> {
    match running_backup(instance, own)? {
        Some(running) => Err(CatalogError::Running(running).into()),
        None => Ok(()),
    }
}

/// Where a backup comes from.
enum Source {
    Stopped(Box<StoppedCluster>),
    Running(Box<RunningServer>),
}

/// What a backup's first record says of its source.
struct SourceFacts {
    flavor: ServerFlavor,
    timeline: TimelineId,
    is_standby: bool,
    data_checksums: bool,
}

impl Source {
    fn examine(options: &Options, plan: &Plan) -> Result<Source, Error> {
        let Some(server) = &options.server else {
            let cluster = StoppedCluster::examine(&plan.place)?;
            check_system_identifier(plan, cluster.control.system_identifier)?;
            return Ok(Source::Stopped(Box::new(cluster)));
        };
        let server = RunningServer::connect(server, plan, &options.cancel)?;
        Ok(Source::Running(Box::new(server)))
    }

    fn facts(&self) -> SourceFacts {
        let (control, is_standby) = match self {
            Source::Stopped(cluster) => (&cluster.control, cluster.is_standby()),
            Source::Running(server) => (&server.control, server.is_standby()),
        };
        SourceFacts {
            flavor: control.flavor,
            timeline: control.timeline,
            is_standby,
            data_checksums: control.data_checksums,
        }
    }
}

/// What the options and the instance's configuration come to.
struct Plan {
    place: Place,
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
        let plan = Plan {
            place: Place::open(data_directory, options.shared.as_ref())?,
            system_identifier: (conf.system_identifier > 0).then_some(conf.system_identifier),
            algorithm: options
                .compress_algorithm
                .or(conf.compress_algorithm)
                .unwrap_or_default(),
            level: options.compress_level.or(conf.compress_level).unwrap_or(1),
            external_dirs: external.filter(|dirs| !dirs.eq_ignore_ascii_case("none")),
        };
        plan.external_dirs()?;
        Ok(plan)
    }

    fn external_dirs(&self) -> Result<Vec<PathBuf>, Error> {
        let text = self.external_dirs.as_deref().unwrap_or("");
        let paths = text.split(':').filter(|path| !path.is_empty()).map(|path| {
            if path.starts_with('/') {
                return Ok(PathBuf::from(path));
            }
            if path.starts_with('+') {
                return Err(external::on_shared_storage(path.as_ref()));
            }
            Err(Error::ExternalDirNotAbsolute {
                path: path.to_owned(),
            })
        });
        paths.collect()
    }
}

/// Refuses the data directory of another cluster than the instance's.
fn check_system_identifier(plan: &Plan, found: u64) -> Result<(), Error> {
    match plan.system_identifier {
        Some(expected) if expected != found => Err(Error::OtherCluster { expected, found }),
        _ => Ok(()),
    }
}

/// The backup that the new one grows on, if it is an increment.
fn choose_parent(
    options: &Options,
    instance: &Instance,
    source: &SourceFacts,
) -> Result<Option<Parent>, Error> {
    match options.mode {
        Mode::Full => return Ok(None),
        Mode::Ptrack if source.flavor != ServerFlavor::OpenGauss => {
            return Err(IncrementError::NotTracking.into());
        }
        Mode::Ptrack | Mode::Delta => {}
    }
    let cancel = &options.cancel;
    let parent = Parent::choose(instance, source.timeline, source.data_checksums, cancel)?;
    let storage = parent.control.storage_type;
    if (storage == StorageType::Dss) != options.shared.is_some() {
        return Err(IncrementError::OtherStorage {
            parent: parent.control.id(),
            storage: storage.name(),
        }
        .into());
    }
    Ok(Some(parent))
}

/// Creates the backup's directory under an id that is still free, locked.
fn create(
    instance: &Instance,
    plan: &Plan,
    source: &SourceFacts,
    parent: Option<&Parent>,
    clock: impl Fn() -> i64,
) -> Result<(BackupDir, LockGuard, BackupControl), Error> {
    let mut attempts = 0;
    loop {
        let mut control = match parent {
            Some(_) => BackupControl::new(BackupMode::Ptrack, clock()),
            None => BackupControl::new(BackupMode::Full, clock()),
        };
        control.parent_backup_id = parent.map(Parent::id);
        if let Some(parent) = control
            .parent_backup_id
            .filter(|parent| *parent > control.id())
        {
            return Err(IncrementError::ClockBehind { parent }.into());
        }
        control.stream = true;
        control.compress_algorithm = plan.algorithm;
        control.compress_level = plan.level;
        control.from_replica = source.is_standby;
        control.timeline = source.timeline;
        control.checksum_version = u32::from(source.data_checksums);
        if let ServerFlavor::PostgreSql { major } = source.flavor {
            control.server_version = major.to_string();
        }
        control.external_dirs.clone_from(&plan.external_dirs);
        control.storage_type = plan.place.storage_type();
        control.status = BackupStatus::Running;
        match instance.create_backup(&control) {
            Ok((dir, lock)) => return Ok((dir, lock, control)),
            // Ids are seconds: somebody else has this one.
            Err(
                CatalogError::BackupExists { .. } | CatalogError::Lock(LockError::InUse { .. }),
            ) if attempts < 3 => {
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
    dir: &'a BackupDir,
    /// What an increment grows on.
    parent: Option<&'a Parent>,
    monitor: &'a dyn Monitor,
}

/// What a backup says of itself when all files are there.
struct Ending {
    stop_lsn: Lsn,
    recovery_xid: u64,
    recovery_time: i64,
    /// The control file as the backup has it.
    control_bytes: Vec<u8>,
}

impl Run<'_> {
    fn announce(&self, control: &BackupControl, server: &str) {
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
        if control.checksum_version == 0 {
            tracing::warn!(
                "This {server} instance was initialized without data block checksums. \
                 gs_probackup have no way to detect data block corruption without them. \
                 Reinitialize PGDATA with option '--data-checksums'."
            );
        }
    }

    /// What copies files, until `halt` is set. `started` is where the backup started, if a server
    /// runs.
    fn copier(
        &self,
        cluster: &ControlFile,
        started: Option<Lsn>,
        halt: Arc<AtomicBool>,
    ) -> Copier<'_> {
        Copier {
            page_checksums: cluster.data_checksums,
            started,
            options: self.options,
            plan: self.plan,
            dir: self.dir,
            halt,
            monitor: self.monitor,
        }
    }

    /// What an increment takes of `tree`.
    fn increment<'t>(
        &'t self,
        parent: &'t Parent,
        changes: Changes,
        tree: &'t SourceTree,
    ) -> Increment<'t> {
        Increment::new(parent, changes, tree, self.plan.external_dirs.as_deref())
    }

    /// Makes directory entries durable, unless that is not wanted.
    fn sync(&self, targets: &Targets, tree: &SourceTree) -> Result<(), Error> {
        if self.options.sync {
            return targets.sync(tree);
        }
        tracing::warn!("Backup files are not synced to disk");
        Ok(())
    }

    /// Writes the content list, the seal, and DONE.
    fn finish(
        &self,
        control: &mut BackupControl,
        content: &ContentBuilder<'_>,
        ending: &Ending,
    ) -> Result<(), Error> {
        if let Some(parent) = self.parent {
            parent.check_stop(ending.stop_lsn)?;
        }
        let written = self.dir.write_content_list(content.entries())?;
        let uncompressed = written.uncompressed_bytes - content.uncounted_bytes();
        control.content_crc = Some(written.crc);
        control.data_bytes = Some(signed(written.data_bytes));
        control.wal_bytes = Some(signed(written.wal_bytes));
        control.uncompressed_bytes = Some(signed(uncompressed));
        control.stop_lsn = ending.stop_lsn;
        control.recovery_xid = ending.recovery_xid;
        control.recovery_time = Some(ending.recovery_time);
        control.recovery_name = format!("backup {}", control.id());
        control.note.clone_from(&self.options.note);
        let pinned = match self.options.pin {
            Some(pin) => pin.apply(control)?,
            None => None,
        };
        control.end_time = Some(now());
        control.status = BackupStatus::Done;
        let seal = Seal::new(
            &control.encode(),
            Some(&content::padded(&ending.control_bytes)),
        );
        super::seal::write_with_control(self.dir, &seal, control)?;
        if let Some(line) = pinned {
            tracing::info!("{line}");
        }
        Ok(())
    }

    /// Marks a backup that could not be completed.
    fn fail(&self, control: &mut BackupControl) {
        let id = control.id();
        tracing::warn!("Backup {id} is running, setting its status to ERROR");
        control.status = BackupStatus::Error;
        control.end_time = Some(now());
        // The first failure is the one to report; without this write the status stays RUNNING,
        // which says the same.
        if let Err(second) = self.dir.write_control(control) {
            tracing::warn!("cannot set the status of backup {id}: {second}");
        }
    }

    /// Reads the backup back and sets OK or CORRUPT.
    fn validate(&self, control: &mut BackupControl) -> Result<(), Error> {
        let id = control.id();
        let options = check_options(self.options);
        let valid = validate::check_backup(self.dir, control, &options, self.monitor)?;
        if !valid {
            return Err(Error::BackupFailed { id });
        }
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
