//! What the options of a command line mean: typed arguments, one struct a command, with the checks
//! of the original in its order and words.
//!
//! Settings come from the command line, else from the instance's file, else from the environment.
//! An option that the program cannot honour yet is refused, never ignored.

use super::options::Options;
use crate::catalog::Catalog;
use crate::command::Error;
use crate::command::restore::{MappingKind, PathMapping};
use crate::format::catalog::{
    BackupMode, InstanceConf, LogLevel, NoZone, Unit, parse_bool, parse_i64, parse_timestamp,
    parse_u64,
};
use crate::limits::{NOTE_BYTES_MAX, THREADS_PER_CORE_MAX};
use crate::types::{BackupId, CompressAlgorithm, Lsn};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// The environment variables that matter.
#[derive(Clone, Default, Debug)]
pub(super) struct Environment {
    pub(super) backup_path: Option<OsString>,
    pub(super) pgdata: Option<OsString>,
}

impl Environment {
    pub(super) fn read() -> Environment {
        Environment {
            backup_path: std::env::var_os("BACKUP_PATH"),
            pgdata: std::env::var_os("PGDATA"),
        }
    }
}

/// An instance and its settings: file, environment and command line together.
#[derive(Clone, Debug)]
pub struct InstanceArgs {
    /// The catalog.
    pub catalog: PathBuf,
    /// Name of the instance.
    pub name: String,
    /// The settings in force.
    pub conf: InstanceConf,
}

/// A password: printed as stars.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How to reach a running server.
#[derive(Clone, Debug)]
pub struct ConnectionArgs {
    /// `-d`.
    pub database: Option<String>,
    /// `-h`.
    pub host: Option<String>,
    /// `-p`.
    pub port: Option<String>,
    /// `-U`.
    pub user: Option<String>,
    /// `-W`.
    pub password: Option<Secret>,
    /// `-w`: never ask for a password.
    pub no_password: bool,
    /// `-t`: seconds.
    pub rw_timeout_s: Option<u32>,
}

/// `--io-engine`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum EngineArg {
    /// io_uring, or pread/pwrite with a warning where the kernel refuses it.
    #[default]
    Auto,
    /// io_uring or an error.
    Ring,
    /// pread/pwrite on threads.
    Sync,
}

/// How much of the machine to use.
#[derive(Clone, Copy, Debug)]
pub struct RunArgs {
    /// `-j`: at least 1.
    pub threads: usize,
    /// `--progress`.
    pub progress: bool,
    /// `--io-engine`.
    pub engine: EngineArg,
}

/// `backup`.
#[derive(Clone, Debug)]
pub struct BackupArgs {
    /// Which instance.
    pub instance: InstanceArgs,
    /// Its data directory.
    pub pgdata: PathBuf,
    /// `-b`.
    pub mode: BackupMode,
    /// `--offline`: the data directory of a server that is shut down.
    pub offline: bool,
    /// Threads, progress, engine.
    pub run: RunArgs,
    /// `-C`.
    pub smooth_checkpoint: bool,
    /// `-S`.
    pub slot: Option<String>,
    /// `--backup-pg-log`.
    pub backup_pg_log: bool,
    /// `--no-validate`.
    pub no_validate: bool,
    /// `--skip-block-validation`.
    pub skip_block_validation: bool,
    /// `--no-sync`.
    pub no_sync: bool,
    /// `-E`, as given: the text that the record keeps; directories are joined by `:`.
    pub external_dirs: Option<String>,
    /// `--note`; `None` also for the word `none`.
    pub note: Option<String>,
    /// `--compress-algorithm`, `--compress`.
    pub compress_algorithm: CompressAlgorithm,
    /// `--compress-level`: 0 to 9.
    pub compress_level: u32,
    /// `--ttl`: seconds after the recovery time; 0 for not pinned.
    pub ttl_s: Option<u64>,
    /// `--expire-time`: seconds since 1970.
    pub expire_time: Option<i64>,
    /// How to reach the server.
    pub connection: ConnectionArgs,
}

/// Where recovery is to stop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecoveryTarget {
    /// `--recovery-target-time`.
    Time {
        /// As given.
        text: String,
        /// Seconds since 1970.
        seconds: i64,
    },
    /// `--recovery-target-xid`.
    Xid(u64),
    /// `--recovery-target-lsn`.
    Lsn(Lsn),
    /// `--recovery-target-name`.
    Name(String),
    /// `--immediate`.
    Immediate,
}

/// `restore`.
#[derive(Clone, Debug)]
pub struct RestoreArgs {
    /// Which instance.
    pub instance: InstanceArgs,
    /// Where to.
    pub pgdata: PathBuf,
    /// `-i`.
    pub backup_id: Option<BackupId>,
    /// Where recovery is to stop.
    pub target: Option<RecoveryTarget>,
    /// `--recovery-target-inclusive`.
    pub inclusive: Option<bool>,
    /// Threads, progress, engine.
    pub run: RunArgs,
    /// `--force`: also a backup whose status is not good; not validated.
    pub force: bool,
    /// `--no-sync`.
    pub no_sync: bool,
    /// `--no-validate`; implied by `--force`.
    pub no_validate: bool,
    /// `--skip-block-validation`.
    pub skip_block_validation: bool,
    /// `--skip-external-dirs`.
    pub skip_external_dirs: bool,
    /// `-T`, in the order given.
    pub tablespace_mapping: Vec<PathMapping>,
    /// `--external-mapping`, in the order given.
    pub external_mapping: Vec<PathMapping>,
}

/// `validate`.
#[derive(Clone, Debug)]
pub struct ValidateArgs {
    /// The catalog.
    pub catalog: PathBuf,
    /// One instance, or all.
    pub instance: Option<InstanceArgs>,
    /// `-i`.
    pub backup_id: Option<BackupId>,
    /// Where recovery would have to stop.
    pub target: Option<RecoveryTarget>,
    /// `--recovery-target-inclusive`.
    pub inclusive: Option<bool>,
    /// Threads, progress, engine.
    pub run: RunArgs,
    /// `--skip-block-validation`.
    pub skip_block_validation: bool,
}

/// `show`.
#[derive(Clone, Debug)]
pub struct ShowArgs {
    /// The catalog.
    pub catalog: PathBuf,
    /// One instance, or all.
    pub instance: Option<String>,
    /// One backup of it, or all.
    pub backup_id: Option<BackupId>,
    /// JSON instead of tables.
    pub json: bool,
}

/// `demo`.
#[derive(Clone, Debug)]
pub struct DemoArgs {
    /// `--size`: bytes of the generated cluster; a number without unit is megabytes.
    pub size_bytes: Option<u64>,
    /// `--dir`: where to work.
    pub dir: Option<PathBuf>,
    /// `--keep`: leave everything there.
    pub keep: bool,
    /// `--seed`.
    pub seed: Option<u64>,
    /// Threads, progress, engine.
    pub run: RunArgs,
}

/// Options that nothing here honours yet, and the commands of the original that would.
const NOT_YET: [(&str, &[&str]); 36] = [
    ("merge-expired", &["backup"]),
    ("delete-expired", &["backup"]),
    ("delete-wal", &["backup"]),
    ("dry-run", &["backup"]),
    ("retention-redundancy", &["backup"]),
    ("retention-window", &["backup"]),
    ("wal-depth", &["backup"]),
    ("backup-pg-replslot", &["backup"]),
    ("timeline", &["restore", "validate"]),
    ("archive", &["show"]),
    ("with-encryption", ANY),
    ("with-key", ANY),
    ("with-salt", ANY),
    ("with-device-params", ANY),
    ("gen-key", ANY),
    ("remote-host", ANY),
    ("remote-port", ANY),
    ("remote-path", ANY),
    ("remote-user", ANY),
    ("remote-libpath", ANY),
    ("ssh-options", ANY),
    ("ssh-config", ANY),
    ("enable-dss", ANY),
    ("vgname", ANY),
    ("socketpath", ANY),
    ("instance-id", ANY),
    ("access-id", ANY),
    ("access-key", ANY),
    ("access-bucket", ANY),
    ("endpoint", ANY),
    ("region", ANY),
    ("error-log-filename", RUNNING),
    ("log-filename", RUNNING),
    ("log-directory", RUNNING),
    ("log-rotation-size", RUNNING),
    ("log-rotation-age", RUNNING),
];

const ANY: &[&str] = &["add-instance", "backup", "restore", "show", "validate"];
// `add-instance` only stores them.
const RUNNING: &[&str] = &["backup", "restore", "validate"];

fn refused(message: impl Into<String>) -> Error {
    Error::Refused(message.into())
}

/// Options and environment of one run of a command.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) command: &'a str,
    pub(super) options: &'a Options,
    pub(super) environment: &'a Environment,
}

impl Request<'_> {
    /// The checks that come first for every command.
    fn check_common(&self) -> Result<PathBuf, Error> {
        let options = self.options;
        if options.is_given("password") && options.is_given("no-password") {
            return Err(refused(
                "You cannot specify --password and --no-password options together",
            ));
        }
        let path = match options.text("backup-path") {
            Some(path) => PathBuf::from(path),
            None => self.environment.backup_path.clone().map_or_else(
                || {
                    Err(refused(
                        "required parameter not specified: BACKUP_PATH (-B, --backup-path)",
                    ))
                },
                |path| Ok(PathBuf::from(path)),
            )?,
        };
        if !path.is_absolute() {
            return Err(refused("-B, --backup-path must be an absolute path"));
        }
        Ok(without_trailing_slashes(&path))
    }

    fn check_supported(&self) -> Result<(), Error> {
        let given = NOT_YET.iter().find(|(option, commands)| {
            commands.contains(&self.command) && self.options.is_given(option)
        });
        if let Some((option, _)) = given {
            return Err(refused(format!("--{option} is not supported yet")));
        }
        match self.options.text("media-type").map(str::to_ascii_lowercase) {
            None => {}
            Some(media) if "s3".starts_with(&media) => {
                return Err(refused("--media-type=s3 is not supported yet"));
            }
            Some(media) if "disk".starts_with(&media) => {}
            Some(media) => return Err(refused(format!("invalid media_type \"{media}\""))),
        }
        Ok(())
    }

    fn check_conf(&self, conf: &InstanceConf) -> Result<(), Error> {
        if !RUNNING.contains(&self.command) {
            return Ok(());
        }
        let proto = conf.get("remote-proto").unwrap_or_default();
        if conf.get("remote-host").is_some() && proto != "none" {
            return Err(refused("remote-host of the instance is not supported yet"));
        }
        if conf.enable_dss == Some(true) || conf.get("vgname").is_some() {
            return Err(refused("enable-dss of the instance is not supported yet"));
        }
        if conf
            .log_level_file
            .is_some_and(|level| level != LogLevel::Off)
        {
            return Err(refused("--log-level-file is not supported yet"));
        }
        Ok(())
    }

    fn instance_name(&self) -> Result<&str, Error> {
        self.options
            .text("instance")
            .ok_or_else(|| refused("required parameter not specified: --instance"))
    }

    /// An instance of the catalog with its settings in force.
    fn instance(&self, catalog: PathBuf, name: &str) -> Result<InstanceArgs, Error> {
        let instance = Catalog::open(&catalog)?.instance(name)?;
        let mut conf = instance.conf()?;
        self.apply(&mut conf)?;
        self.check_supported()?;
        self.check_conf(&conf)?;
        Ok(InstanceArgs {
            catalog,
            name: name.to_owned(),
            conf,
        })
    }

    // Environment where nothing is set, command line over everything.
    fn apply(&self, conf: &mut InstanceConf) -> Result<(), Error> {
        if conf.pgdata.is_none()
            && let Some(pgdata) = &self.environment.pgdata
        {
            conf.pgdata = pgdata.to_str().map(str::to_owned);
        }
        self.options
            .apply_settings(conf)
            .map_err(|error| refused(error.message))?;
        if let Some(pgdata) = &conf.pgdata {
            if !Path::new(pgdata).is_absolute() {
                return Err(refused("-D, --pgdata must be an absolute path"));
            }
            let path = without_trailing_slashes(Path::new(pgdata));
            conf.pgdata = path.to_str().map(str::to_owned);
        }
        Ok(())
    }

    fn pgdata(&self, conf: &InstanceConf) -> Result<PathBuf, Error> {
        conf.pgdata
            .as_ref()
            .map(PathBuf::from)
            .ok_or_else(|| refused("required parameter not specified: PGDATA (-D, --pgdata)"))
    }

    fn backup_id(&self) -> Result<Option<BackupId>, Error> {
        self.options
            .text("backup-id")
            .map(|text| text.parse().map_err(|error| refused(format!("{error}"))))
            .transpose()
    }

    fn refuse_backup_id(&self) -> Result<(), Error> {
        if self.options.is_given("backup-id") {
            return Err(refused(format!(
                "Cannot use -i (--backup-id) option together with the \"{}\" command",
                self.command
            )));
        }
        Ok(())
    }

    fn run_args(&self) -> Result<RunArgs, Error> {
        let cores = std::thread::available_parallelism()
            .map_err(|_| refused("Failed to get the number of available cores."))?
            .get();
        let asked = self.options.number("threads").unwrap_or(1);
        let threads = usize::try_from(asked).unwrap_or(usize::MAX).max(1);
        if threads > cores.saturating_mul(THREADS_PER_CORE_MAX) {
            return Err(refused(format!(
                "Invalid value for '-j' option: {asked}, the number of cores available is {cores}, \
                 more than {THREADS_PER_CORE_MAX} times is not allowed."
            )));
        }
        let engine = match self.options.text("io-engine") {
            None | Some("auto") => EngineArg::Auto,
            Some("ring") => EngineArg::Ring,
            Some("sync") => EngineArg::Sync,
            Some(other) => {
                return Err(refused(format!(
                    "Invalid value for '--io-engine' option: '{other}'"
                )));
            }
        };
        Ok(RunArgs {
            threads,
            progress: self.options.flag("progress"),
            engine,
        })
    }

    /// `init`.
    pub(super) fn init(&self) -> Result<PathBuf, Error> {
        let catalog = self.check_common()?;
        self.refuse_backup_id()?;
        Ok(catalog)
    }

    /// `add-instance`: its file is not there yet, so settings come from the command line and the
    /// environment.
    pub(super) fn add_instance(&self) -> Result<InstanceArgs, Error> {
        let catalog = self.check_common()?;
        let name = self.instance_name()?.to_owned();
        self.refuse_backup_id()?;
        self.check_supported()?;
        let mut conf = InstanceConf::default();
        self.apply(&mut conf)?;
        // Never stored, as by the original.
        conf.others.retain(|(key, _)| !key.starts_with("remote-"));
        self.compression(&conf)?;
        Ok(InstanceArgs {
            catalog,
            name,
            conf,
        })
    }

    /// `show`.
    pub(super) fn show(&self) -> Result<ShowArgs, Error> {
        let catalog = self.check_common()?;
        self.check_supported()?;
        let format = self.options.text("format").unwrap_or("plain");
        let lower = format.to_ascii_lowercase();
        let json = if "plain".starts_with(&lower) {
            false
        } else if "json".starts_with(&lower) {
            true
        } else {
            return Err(refused(format!("Invalid show format \"{format}\"")));
        };
        let instance = self.options.text("instance").map(str::to_owned);
        let backup_id = self.backup_id()?;
        if instance.is_none() && backup_id.is_some() {
            return Err(refused(
                "You must specify --instance to use (-i, --backup-id) option",
            ));
        }
        Ok(ShowArgs {
            catalog,
            instance,
            backup_id,
            json,
        })
    }

    /// `backup`.
    pub(super) fn backup(&self) -> Result<BackupArgs, Error> {
        let options = self.options;
        let catalog = self.check_common()?;
        let name = self.instance_name()?;
        let instance = self.instance(catalog, name)?;
        self.refuse_backup_id()?;
        let run = self.run_args()?;
        let (ttl_s, expire_time) = self.pin()?;
        let note = self.note()?;
        let (compress_algorithm, compress_level) = self.compression(&instance.conf)?;
        let mode = options.text("backup-mode").ok_or_else(|| {
            refused("required parameter not specified: BACKUP_MODE (-b, --backup-mode)")
        })?;
        let mode = BackupMode::from_prefix(mode)
            .ok_or_else(|| refused(format!("invalid backup-mode \"{mode}\"")))?;
        let text = |key: &str| instance.conf.get(key);
        Ok(BackupArgs {
            pgdata: self.pgdata(&instance.conf)?,
            mode,
            offline: options.flag("offline"),
            run,
            smooth_checkpoint: options.flag("smooth-checkpoint"),
            slot: options.text("slot").map(str::to_owned),
            backup_pg_log: options.flag("backup-pg-log"),
            no_validate: options.flag("no-validate"),
            skip_block_validation: options.flag("skip-block-validation"),
            no_sync: options.flag("no-sync"),
            external_dirs: external_dirs(&instance.conf)?,
            note,
            compress_algorithm,
            compress_level,
            ttl_s,
            expire_time,
            connection: ConnectionArgs {
                database: text("pgdatabase"),
                host: text("pghost"),
                port: text("pgport"),
                user: text("pguser"),
                password: options.text("password").map(|text| Secret(text.to_owned())),
                no_password: options.flag("no-password"),
                rw_timeout_s: options.number("rw-timeout"),
            },
            instance,
        })
    }

    /// `restore`.
    pub(super) fn restore(&self) -> Result<RestoreArgs, Error> {
        let options = self.options;
        let catalog = self.check_common()?;
        let name = self.instance_name()?;
        let instance = self.instance(catalog, name)?;
        let backup_id = self.backup_id()?;
        let (target, inclusive) = self.target()?;
        let run = self.run_args()?;
        match options.text("incremental-mode") {
            None => {}
            Some(mode) if mode.eq_ignore_ascii_case("none") => {}
            Some(mode) if ["checksum", "lsn"].contains(&&*mode.to_ascii_lowercase()) => {
                return Err(refused("--incremental-mode is not supported yet"));
            }
            Some(mode) => {
                return Err(refused(format!(
                    "Invalid value for '--incremental-mode' option: '{mode}'"
                )));
            }
        }
        let force = options.flag("force");
        Ok(RestoreArgs {
            pgdata: self.pgdata(&instance.conf)?,
            instance,
            backup_id,
            target,
            inclusive,
            run,
            force,
            no_sync: options.flag("no-sync"),
            no_validate: options.flag("no-validate") || force,
            skip_block_validation: options.flag("skip-block-validation"),
            skip_external_dirs: options.flag("skip-external-dirs"),
            tablespace_mapping: mappings(
                MappingKind::Tablespace,
                &options.texts("tablespace-mapping"),
            )?,
            external_mapping: mappings(MappingKind::External, &options.texts("external-mapping"))?,
        })
    }

    /// `validate`.
    pub(super) fn validate(&self) -> Result<ValidateArgs, Error> {
        let options = self.options;
        let catalog = self.check_common()?;
        let instance = match options.text("instance") {
            Some(name) => Some(self.instance(catalog.clone(), name)?),
            None => {
                self.check_supported()?;
                None
            }
        };
        let backup_id = self.backup_id()?;
        let (target, inclusive) = self.target()?;
        for (option, kind) in [("force", "flag"), ("no-validate", "option")] {
            if options.flag(option) {
                return Err(refused(format!(
                    "You cannot specify \"--{option}\" {kind} with the \"validate\" command"
                )));
            }
        }
        if instance.is_none() && (backup_id.is_some() || target.is_some()) {
            return Err(refused("required parameter not specified: --instance"));
        }
        let run = self.run_args()?;
        Ok(ValidateArgs {
            catalog,
            instance,
            backup_id,
            target,
            inclusive,
            run,
            skip_block_validation: options.flag("skip-block-validation"),
        })
    }

    /// `demo`.
    pub(super) fn demo(&self) -> Result<DemoArgs, Error> {
        let size_bytes = self.options.text("size").map(size_in_bytes).transpose()?;
        let seed = self.options.text("seed");
        Ok(DemoArgs {
            size_bytes,
            dir: self.options.text("dir").map(PathBuf::from),
            keep: self.options.flag("keep"),
            seed: seed.and_then(|text| parse_u64(text, Unit::None)),
            run: self.run_args()?,
        })
    }

    fn pin(&self) -> Result<(Option<u64>, Option<i64>), Error> {
        let ttl = self.options.text("ttl");
        let expire_time = self.options.text("expire-time");
        if ttl.is_some() && expire_time.is_some() {
            return Err(refused(
                "You cannot specify '--expire-time' and '--ttl' options together",
            ));
        }
        let ttl = ttl
            .map(|text| {
                parse_i64(text, Unit::Seconds)
                    .and_then(|seconds| u64::try_from(seconds).ok())
                    .ok_or_else(|| {
                        refused(format!(
                            "Option --ttl should be a 64bit unsigned integer: '{text}'"
                        ))
                    })
            })
            .transpose()?;
        let expire_time = expire_time
            .map(|text| {
                parse_timestamp(text, NoZone::Local)
                    .filter(|seconds| *seconds > 0)
                    .ok_or_else(|| {
                        refused(format!(
                            "Invalid value for '--expire-time' option: '{text}'"
                        ))
                    })
            })
            .transpose()?;
        Ok((ttl, expire_time))
    }

    fn note(&self) -> Result<Option<String>, Error> {
        let Some(note) = self.options.text("note") else {
            return Ok(None);
        };
        if note.len() > NOTE_BYTES_MAX {
            return Err(refused(format!(
                "Backup note cannot exceed {NOTE_BYTES_MAX} bytes"
            )));
        }
        // As for the original, only the first line is kept, and the word none means no note.
        let line = note.lines().next().unwrap_or_default();
        Ok(Some(line.to_owned())
            .filter(|line| !line.is_empty() && !line.eq_ignore_ascii_case("none")))
    }

    fn compression(&self, conf: &InstanceConf) -> Result<(CompressAlgorithm, u32), Error> {
        let algorithm = if self.options.flag("compress") {
            Some(CompressAlgorithm::Zlib)
        } else {
            conf.compress_algorithm
        };
        if conf.compress_level.is_some() && algorithm.is_none() {
            return Err(refused(
                "Cannot specify compress-level option alone without compress-algorithm option",
            ));
        }
        let algorithm = algorithm.unwrap_or_default();
        let level = conf.compress_level.unwrap_or(1);
        if level > 9 {
            return Err(refused(
                "--compress-level value must be in the range from 0 to 9",
            ));
        }
        if level == 0 && algorithm == CompressAlgorithm::Zlib {
            tracing::warn!("Compression level 0 will lead to data bloat!");
        }
        if level > 1 && algorithm == CompressAlgorithm::Lz4 {
            tracing::warn!(
                "Compression level will be set to 1 due to lz4 only supports level 0 and 1!"
            );
            return Ok((algorithm, 1));
        }
        Ok((algorithm, level))
    }

    fn target(&self) -> Result<(Option<RecoveryTarget>, Option<bool>), Error> {
        let options = self.options;
        let invalid =
            |option: &str, text: &str| refused(format!("Invalid value {option} option '{text}'"));
        let mut targets = Vec::new();
        if let Some(text) = options.text("recovery-target-time") {
            let seconds = parse_timestamp(text, NoZone::Local)
                .ok_or_else(|| invalid("for '--recovery-target-time'", text))?;
            let text = text.to_owned();
            targets.push(RecoveryTarget::Time { text, seconds });
        }
        if let Some(text) = options.text("recovery-target-xid") {
            let xid = parse_u64(text, Unit::None)
                .ok_or_else(|| invalid("for '--recovery-target-xid'", text))?;
            targets.push(RecoveryTarget::Xid(xid));
        }
        if let Some(text) = options.text("recovery-target-lsn") {
            let lsn = text
                .parse()
                .map_err(|_| invalid("of '--recovery-target-lsn'", text))?;
            targets.push(RecoveryTarget::Lsn(lsn));
        }
        if let Some(name) = options.text("recovery-target-name") {
            targets.push(RecoveryTarget::Name(name.to_owned()));
        }
        if options.flag("immediate") {
            targets.push(RecoveryTarget::Immediate);
        }
        if targets.len() > 1 {
            return Err(refused(
                "At most one of '--recovery-target', '--recovery-target-name', \
                 '--recovery-target-time', '--recovery-target-xid' or '--recovery-target-lsn' \
                 options can be specified",
            ));
        }
        let inclusive = match options.text("recovery-target-inclusive") {
            None => None,
            Some(text) => Some(
                parse_bool(text)
                    .ok_or_else(|| invalid("for '--recovery-target-inclusive'", text))?,
            ),
        };
        let target = targets.pop();
        let has_point = matches!(
            target,
            Some(RecoveryTarget::Time { .. } | RecoveryTarget::Xid(_) | RecoveryTarget::Lsn(_))
        );
        if inclusive.is_some() && !has_point {
            return Err(refused(
                "The '--recovery-target-inclusive' option can be applied only when either of \
                 '--recovery-target-time', '--recovery-target-xid' or '--recovery-target-lsn' \
                 options is specified",
            ));
        }
        Ok((target, inclusive))
    }
}

fn without_trailing_slashes(path: &Path) -> PathBuf {
    path.components().collect()
}

// The directories of `-E`, checked and without empty ones; `None` where there are none.
fn external_dirs(conf: &InstanceConf) -> Result<Option<String>, Error> {
    let Some(text) = &conf.external_dirs else {
        return Ok(None);
    };
    let mut dirs = Vec::new();
    for dir in text.split(':').filter(|dir| !dir.is_empty()) {
        let path = Path::new(dir);
        if !path.is_absolute() {
            return Err(refused(format!(
                "External directory \"{dir}\" is not an absolute path"
            )));
        }
        dirs.push(without_trailing_slashes(path).display().to_string());
    }
    Ok(Some(dirs.join(":")).filter(|dirs| !dirs.is_empty()))
}

fn mappings(kind: MappingKind, texts: &[&str]) -> Result<Vec<PathMapping>, Error> {
    let parse = |text: &&str| PathMapping::parse(kind, text).map_err(refused);
    texts.iter().map(parse).collect()
}

fn size_in_bytes(text: &str) -> Result<u64, Error> {
    let bare = text.bytes().all(|byte| byte.is_ascii_digit());
    let with_unit = if bare {
        format!("{text}MB")
    } else {
        text.to_owned()
    };
    parse_u64(&with_unit, Unit::Kilobytes)
        .and_then(|kilobytes| kilobytes.checked_mul(1024))
        .ok_or_else(|| {
            refused(format!(
                "Invalid value for '--size' option: '{text}'; examples: 64MB, 2GB"
            ))
        })
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
