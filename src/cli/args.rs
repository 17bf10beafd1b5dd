//! What the options of a command line mean: typed arguments, one struct a command, with the checks
//! of the original in its order and words.
//!
//! Settings come from the command line, else from the instance's file, else from the environment.
//! An option that the program cannot honour yet is refused, never ignored.

use super::not_yet::{NOT_YET, RUNNING};
use super::options::Options;
use crate::catalog::Catalog;
use crate::command::restore::{MappingKind, PathMapping};
use crate::command::validate::CheckOptions;
use crate::command::{Error, add_instance, backup, demo, init, merge, restore, show, validate};
use crate::format::catalog::{InstanceConf, LogLevel, StorageType, Unit, parse_u64};
use crate::io::EngineChoice;
use crate::limits::{NOTE_BYTES_MAX, THREADS_PER_CORE_MAX};
use crate::server::{ConnectionOptions, Password, os_user_name};
use crate::types::{BackupId, CompressAlgorithm};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// The environment variables that matter.
#[derive(Clone, Default, Debug)]
pub(super) struct Environment {
    pub(super) backup_path: Option<OsString>,
    pub(super) pgdata: Option<OsString>,
    /// Home of the server of shared storage.
    pub(super) dss_home: Option<OsString>,
    /// The database that a connection would be made to.
    pub(super) database: Option<String>,
}

impl Environment {
    pub(super) fn read() -> Environment {
        Environment {
            backup_path: std::env::var_os("BACKUP_PATH"),
            pgdata: std::env::var_os("PGDATA"),
            dss_home: std::env::var_os("DSS_HOME"),
            database: ["PGDATABASE", "PGUSER"]
                .into_iter()
                .find_map(|name| std::env::var(name).ok().filter(|text| !text.is_empty()))
                .or_else(os_user_name),
        }
    }
}

/// A command that is ready to run, and what the console has to know.
#[derive(Debug)]
pub(super) struct Prepared<T> {
    /// What the command is to do.
    pub(super) options: T,
    /// `--progress`.
    pub(super) progress: bool,
    /// What the instance's file says about the console.
    pub(super) log_level: Option<LogLevel>,
}

/// An instance and its settings: file, environment and command line together.
#[derive(Debug)]
pub(super) struct InstanceArgs {
    pub(super) catalog: PathBuf,
    pub(super) name: String,
    pub(super) conf: InstanceConf,
    /// From the file alone.
    pub(super) log_level: Option<LogLevel>,
}

impl InstanceArgs {
    fn restore_command(&self) -> Option<String> {
        let command = self.conf.get("restore-command");
        command.filter(|command| !command.is_empty() && !command.eq_ignore_ascii_case("none"))
    }

    fn pgdata(&self) -> Option<PathBuf> {
        self.conf.pgdata.as_ref().map(PathBuf::from)
    }
}

/// Size of the demo's cluster in bytes, where none is asked for: a few seconds of work.
const DEMO_BYTES: u64 = 256 << 20;

/// What the demo's cluster is generated from, where nothing else is asked for.
const DEMO_SEED: u64 = 42;

/// Seconds that the server may take for an answer, where nothing else is set.
const RW_TIMEOUT_SECONDS: u64 = 120;

/// Seconds that stopping a backup may take, where nothing else is set.
const ARCHIVE_TIMEOUT_SECONDS: u64 = 300;

pub(super) fn refused(message: impl Into<String>) -> Error {
    Error::Refused(message.into())
}

/// Options and environment of one run of a command.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) command: &'a str,
    pub(super) options: &'a Options,
    pub(super) environment: &'a Environment,
    /// Set by a signal.
    pub(super) cancel: &'a Arc<AtomicBool>,
}

impl Request<'_> {
    /// The checks that come first for every command.
    pub(super) fn check_common(&self) -> Result<PathBuf, Error> {
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

    pub(super) fn check_supported(&self) -> Result<(), Error> {
        let given = NOT_YET.iter().find(|(option, commands)| {
            commands.contains(&self.command) && self.options.is_given(option)
        });
        if let Some((option, _)) = given {
            return Err(refused(format!("--{option} is not supported yet")));
        }
        let media = self.options.text("media-type");
        if media.is_some_and(|media| "s3".starts_with(&media.to_ascii_lowercase())) {
            return Err(refused("--media-type=s3 is not supported yet"));
        }
        Ok(())
    }

    fn check_conf(&self, conf: &InstanceConf) -> Result<(), Error> {
        if !RUNNING.contains(&self.command) {
            return Ok(());
        }
        let proto = conf.get("remote-proto").unwrap_or_default();
        let is_shared = conf.storage_type() == StorageType::Dss;
        if conf.get("remote-host").is_some() && proto != "none" && !is_shared {
            return Err(refused("remote-host of the instance is not supported yet"));
        }
        Ok(())
    }

    pub(super) fn instance_name(&self) -> Result<&str, Error> {
        self.options
            .text("instance")
            .ok_or_else(|| refused("required parameter not specified: --instance"))
    }

    /// An instance of the catalog with its settings in force.
    pub(super) fn instance(&self, catalog: PathBuf, name: &str) -> Result<InstanceArgs, Error> {
        let instance = Catalog::open(&catalog)?.instance(name)?;
        let mut conf = instance.conf()?;
        let log_level = conf.log_level_console;
        self.apply(&mut conf)?;
        self.check_supported()?;
        self.check_conf(&conf)?;
        Ok(InstanceArgs {
            catalog,
            name: name.to_owned(),
            conf,
            log_level,
        })
    }

    // Environment where nothing is set, command line over everything.
    pub(super) fn apply(&self, conf: &mut InstanceConf) -> Result<(), Error> {
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

    pub(super) fn backup_id(&self) -> Result<Option<BackupId>, Error> {
        self.options
            .text("backup-id")
            .map(|text| text.parse().map_err(|error| refused(format!("{error}"))))
            .transpose()
    }

    pub(super) fn refuse_backup_id(&self) -> Result<(), Error> {
        if self.options.is_given("backup-id") {
            return Err(refused(format!(
                "Cannot use -i (--backup-id) option together with the \"{}\" command",
                self.command
            )));
        }
        Ok(())
    }

    /// `-j`, which every command checks, whether it has threads or not.
    pub(super) fn threads(&self) -> Result<usize, Error> {
        let cores = std::thread::available_parallelism()
            .map_err(|_| refused("Failed to get the number of available cores."))?
            .get();
        let asked = self.options.number("threads").unwrap_or(1);
        // The original takes what does not fit into 31 bits for a negative number, and so for 1.
        let threads = i32::try_from(asked).unwrap_or(1).max(1);
        let threads = usize::try_from(threads).expect("a positive number");
        if threads > cores.saturating_mul(THREADS_PER_CORE_MAX) {
            return Err(refused(format!(
                "Invalid value for '-j' option: {asked}, the number of cores available is {cores}, \
                 more than {THREADS_PER_CORE_MAX} times is not allowed."
            )));
        }
        Ok(threads)
    }

    /// `-j`, and how a run reads.
    pub(super) fn check_options(&self) -> Result<CheckOptions, Error> {
        let threads = self.threads()?;
        let engine = match self.options.text("io-engine") {
            None | Some("auto") => EngineChoice::Auto,
            Some("ring") => EngineChoice::Ring,
            Some("sync") => EngineChoice::Sync,
            Some(other) => {
                return Err(refused(format!(
                    "Invalid value for '--io-engine' option: '{other}'"
                )));
            }
        };
        Ok(CheckOptions {
            threads,
            skip_block_validation: self.options.flag("skip-block-validation"),
            engine,
            cancel: Arc::clone(self.cancel),
            storage: self.storage_given(),
        })
    }

    /// Whether the instance is said to be on shared storage, whatever its settings say.
    fn storage_given(&self) -> Option<StorageType> {
        let is_shared = self.options.flag("enable-dss") || self.options.is_given("vgname");
        is_shared.then_some(StorageType::Dss)
    }

    pub(super) fn prepared<T>(&self, options: T, log_level: Option<LogLevel>) -> Prepared<T> {
        Prepared {
            options,
            progress: self.options.flag("progress"),
            log_level,
        }
    }

    /// `init`.
    pub(super) fn init(&self) -> Result<init::Options, Error> {
        let catalog = self.check_common()?;
        self.refuse_backup_id()?;
        self.threads()?;
        Ok(init::Options { catalog })
    }

    /// `add-instance`: its file is not there yet, so settings come from the command line and the
    /// environment.
    pub(super) fn add_instance(&self) -> Result<add_instance::Options, Error> {
        let catalog = self.check_common()?;
        let instance = self.instance_name()?.to_owned();
        self.refuse_backup_id()?;
        self.threads()?;
        self.check_supported()?;
        let mut conf = InstanceConf::default();
        self.apply(&mut conf)?;
        // Never stored, as by the original.
        conf.others.retain(|(key, _)| !key.starts_with("remote-"));
        self.compression(&conf)?;
        Ok(add_instance::Options {
            catalog,
            instance,
            shared: self.shared(&conf)?,
            conf,
        })
    }

    /// `show`, and whether as JSON.
    pub(super) fn show(&self) -> Result<(show::Options, bool), Error> {
        let catalog = self.check_common()?;
        self.check_supported()?;
        let json = self.is_json();
        let instance = self.options.text("instance").map(str::to_owned);
        let backup_id = self.backup_id()?;
        self.threads()?;
        if instance.is_none() && backup_id.is_some() {
            return Err(refused(
                "You must specify --instance to use (-i, --backup-id) option",
            ));
        }
        if backup_id.is_some() && self.options.flag("archive") {
            return Err(refused(
                "You cannot specify --archive and (-i, --backup-id) options together",
            ));
        }
        let options = show::Options {
            catalog,
            instance,
            backup_id,
        };
        Ok((options, json))
    }

    /// `backup`.
    pub(super) fn backup(&self) -> Result<Prepared<backup::Options>, Error> {
        let options = self.options;
        let catalog = self.check_common()?;
        let instance = self.instance(catalog, self.instance_name()?)?;
        self.refuse_backup_id()?;
        let check = self.check_options()?;
        let pin = self.pin()?;
        let note = self.note()?;
        let (compress_algorithm, compress_level) = self.compression(&instance.conf)?;
        let mode = options.text("backup-mode").ok_or_else(|| {
            refused("required parameter not specified: BACKUP_MODE (-b, --backup-mode)")
        })?;
        let mode = backup::Mode::from_prefix(mode).expect("a mode is checked when it is read");
        let shared = self.shared(&instance.conf)?;
        let prepared = backup::Options {
            data_directory: instance.pgdata(),
            shared,
            external_dirs: external_dirs(&instance.conf)?,
            catalog: instance.catalog,
            instance: instance.name,
            mode,
            server: self.server(&instance.conf)?,
            threads: check.threads,
            compress_algorithm: Some(compress_algorithm),
            compress_level: Some(compress_level),
            note,
            pin,
            retention: self.retention(&instance.conf),
            validate: !options.flag("no-validate"),
            skip_block_validation: check.skip_block_validation,
            sync: !options.flag("no-sync"),
            pg_log: options.flag("backup-pg-log"),
            pg_replslot: options.flag("backup-pg-replslot"),
            engine: check.engine,
            start_time: None,
            cancel: check.cancel,
        };
        Ok(self.prepared(prepared, instance.log_level))
    }

    /// How a password is asked for, unless nobody is to be asked.
    fn password_prompt(&self) -> Option<backup::PasswordPrompt> {
        if self.options.flag("no-password") {
            return None;
        }
        let cancel = Arc::clone(self.cancel);
        Some(backup::PasswordPrompt::new(move |words| {
            super::password::ask_password(words, &cancel)
                .map(|text| Password::new(text.to_string()))
        }))
    }

    /// How a running server is reached; `None` with `--offline`.
    fn server(&self, conf: &InstanceConf) -> Result<Option<backup::ServerOptions>, Error> {
        let options = self.options;
        if options.flag("offline") {
            let given = ["smooth-checkpoint", "slot", "temp-slot"]
                .into_iter()
                .find(|option| options.is_given(option));
            return match given {
                Some(option) => Err(refused(format!(
                    "--{option} is of no use with --offline: no server runs"
                ))),
                None => Ok(None),
            };
        }
        let text = |key: &str| conf.get(key);
        let seconds = |option: Option<u64>, default: u64| {
            Duration::from_secs(option.filter(|seconds| *seconds > 0).unwrap_or(default))
        };
        let connection = ConnectionOptions {
            database: text("pgdatabase"),
            host: text("pghost"),
            port: text("pgport"),
            user: text("pguser"),
            password: options
                .text("password")
                .map(|text| Password::new(text.to_owned())),
            rw_timeout: seconds(
                options.number("rw-timeout").map(u64::from),
                RW_TIMEOUT_SECONDS,
            ),
        };
        Ok(Some(backup::ServerOptions {
            connection,
            ask_password: self.password_prompt(),
            fast_checkpoint: !options.flag("smooth-checkpoint"),
            slot: options.text("slot").map(str::to_owned),
            temporary_slot: options.flag("temp-slot"),
            archive_timeout: seconds(
                conf.archive_timeout_s.map(u64::from),
                ARCHIVE_TIMEOUT_SECONDS,
            ),
        }))
    }

    /// `restore`.
    pub(super) fn restore(&self) -> Result<Prepared<restore::Options>, Error> {
        let options = self.options;
        let catalog = self.check_common()?;
        let instance = self.instance(catalog, self.instance_name()?)?;
        let backup_id = self.backup_id()?;
        let target = self.target()?;
        let check = self.check_options()?;
        let incremental_mode = self.incremental_mode();
        let mappings = |kind, option| {
            options
                .texts(option)
                .into_iter()
                .map(|text| PathMapping::parse(kind, text).map_err(refused))
                .collect::<Result<Vec<_>, Error>>()
        };
        let force = options.flag("force");
        let restore_command = instance.restore_command();
        let prepared = restore::Options {
            shared: self.shared(&instance.conf)?,
            data_directory: instance.pgdata(),
            catalog: instance.catalog,
            instance: instance.name,
            backup_id,
            target,
            archive_dir: self.archive_dir()?,
            restore_command,
            tablespace_mapping: mappings(MappingKind::Tablespace, "tablespace-mapping")?,
            external_mapping: mappings(MappingKind::External, "external-mapping")?,
            skip_external_dirs: options.flag("skip-external-dirs"),
            incremental_mode,
            validate: !options.flag("no-validate") && !force,
            force,
            sync: !options.flag("no-sync"),
            check,
        };
        Ok(self.prepared(prepared, instance.log_level))
    }

    // Its value was checked when it was read.
    fn incremental_mode(&self) -> restore::IncrementalMode {
        let mode = self.options.text("incremental-mode").unwrap_or_default();
        match mode.to_ascii_lowercase().as_str() {
            "checksum" => restore::IncrementalMode::Checksum,
            "lsn" => restore::IncrementalMode::Lsn,
            _ => restore::IncrementalMode::None,
        }
    }

    /// `validate`.
    pub(super) fn validate(&self) -> Result<Prepared<validate::Options>, Error> {
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
        let target = self.target()?;
        let cannot = |option: &str, kind: &str| {
            refused(format!(
                "You cannot specify \"--{option}\" {kind} with the \"validate\" command"
            ))
        };
        if options.flag("force") {
            return Err(cannot("force", "flag"));
        }
        let check = self.check_options()?;
        if options.flag("no-validate") {
            return Err(cannot("no-validate", "option"));
        }
        if instance.is_none() && backup_id.is_some() {
            return Err(refused("required parameter not specified: --instance"));
        }
        if instance.is_none() && target.is_set() {
            return Err(refused("required parameter not specified: --instance"));
        }
        if let Some(instance) = &instance {
            self.shared_names(&instance.conf)?;
        }
        let log_level = instance.as_ref().and_then(|instance| instance.log_level);
        let prepared = validate::Options {
            catalog,
            instance: instance.map(|instance| instance.name),
            backup_id,
            target,
            archive_dir: self.archive_dir()?,
            check,
        };
        Ok(self.prepared(prepared, log_level))
    }

    /// `merge`.
    pub(super) fn merge(&self) -> Result<Prepared<merge::Options>, Error> {
        let options = self.options;
        let catalog = self.check_common()?;
        let instance = self.instance(catalog, self.instance_name()?)?;
        let backup_id = self.backup_id()?;
        let check = self.check_options()?;
        let backup_id =
            backup_id.ok_or_else(|| refused("required parameter is not specified: --backup-id"))?;
        let prepared = merge::Options {
            catalog: instance.catalog,
            instance: instance.name,
            backup_id,
            validate: !options.flag("no-validate"),
            sync: !options.flag("no-sync"),
            dry_run: options.flag("dry-run"),
            check,
        };
        Ok(self.prepared(prepared, instance.log_level))
    }

    /// `demo`.
    pub(super) fn demo(&self) -> Result<Prepared<demo::Options>, Error> {
        let options = self.options;
        let size_bytes = options.text("size").map(size_in_bytes).transpose()?;
        let seed = options
            .text("seed")
            .and_then(|text| parse_u64(text, Unit::None));
        let temporary = || {
            let name = format!("gs_probackup-demo-{}", std::process::id());
            std::env::temp_dir().join(name)
        };
        let check = self.check_options()?;
        let prepared = demo::Options {
            directory: options.text("dir").map_or_else(temporary, PathBuf::from),
            size_bytes: size_bytes.unwrap_or(DEMO_BYTES),
            seed: seed.unwrap_or(DEMO_SEED),
            threads: check.threads,
            keep: options.flag("keep"),
            cancel: check.cancel,
        };
        Ok(self.prepared(prepared, None))
    }

    pub(super) fn note(&self) -> Result<Option<String>, Error> {
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

    pub(super) fn compression(
        &self,
        conf: &InstanceConf,
    ) -> Result<(CompressAlgorithm, u32), Error> {
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
}

pub(super) fn without_trailing_slashes(path: &Path) -> PathBuf {
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
        // A path on shared storage is absolute, too, and refused for what it is.
        if !path.is_absolute() && !dir.starts_with('+') {
            return Err(refused(format!(
                "External directory \"{dir}\" is not an absolute path"
            )));
        }
        dirs.push(without_trailing_slashes(path).display().to_string());
    }
    Ok(Some(dirs.join(":")).filter(|dirs| !dirs.is_empty()))
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
