//! The two ways to the commands: as functions of the library, and as the program.

use super::state::Place;
use crate::support::{Output, gs_probackup};
use gs_probackup::command::restore::{IncrementalMode, PathMapping, RecoveryTarget};
use gs_probackup::command::retention::RetentionOptions;
use gs_probackup::command::validate::CheckOptions;
use gs_probackup::command::{Error, add_instance, backup, delete, init, merge, restore, validate};
use gs_probackup::format::catalog::InstanceConf;
use gs_probackup::io::EngineChoice;
use gs_probackup::monitor::CollectingMonitor;
use gs_probackup::types::{BackupId, CompressAlgorithm};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(super) const INSTANCE: &str = "main";

/// What a backup is asked for.
pub(super) struct BackupRequest {
    pub(super) mode: backup::Mode,
    pub(super) algorithm: CompressAlgorithm,
    pub(super) threads: usize,
    pub(super) engine: EngineChoice,
    pub(super) validate: bool,
    /// External directories.
    pub(super) externals: Vec<PathBuf>,
    /// The second in which it begins.
    pub(super) start_time: i64,
}

/// What a restore is asked for.
pub(super) struct RestoreRequest {
    pub(super) id: BackupId,
    /// Where the cluster was, and is to go.
    pub(super) from: Place,
    pub(super) to: Place,
    pub(super) tablespaces: Vec<u32>,
    pub(super) externals: &'static [u32],
    pub(super) mode: IncrementalMode,
    pub(super) threads: usize,
    pub(super) engine: EngineChoice,
    pub(super) validate: bool,
}

/// A catalog with an instance, and what is done to it. Errors are what was said.
pub(super) trait Tool {
    /// Whether backups begin in the second that they are told to; otherwise it is now.
    fn follows_the_clock(&self) -> bool;
    fn back_up(&self, request: &BackupRequest) -> Result<BackupId, String>;
    fn restore(&self, request: &RestoreRequest) -> Result<(), String>;
    fn merge(&self, id: BackupId) -> Result<(), String>;
    fn delete(&self, id: BackupId) -> Result<(), String>;
    fn validate(&self) -> Result<(), String>;
    fn backup_path(&self, id: BackupId) -> PathBuf;
}

fn backup_path(catalog: &Path, id: BackupId) -> PathBuf {
    catalog.join("backups").join(INSTANCE).join(id.to_string())
}

pub(super) struct Library {
    catalog: PathBuf,
    monitor: CollectingMonitor,
}

impl Library {
    pub(super) fn create(catalog: &Path, data: &Path) -> Library {
        init::run(&init::Options {
            catalog: catalog.to_owned(),
        })
        .unwrap();
        let conf = InstanceConf {
            pgdata: Some(data.display().to_string()),
            ..InstanceConf::default()
        };
        add_instance::run(&add_instance::Options {
            catalog: catalog.to_owned(),
            instance: INSTANCE.to_owned(),
            conf,
            shared: None,
        })
        .unwrap();
        Library {
            catalog: catalog.to_owned(),
            monitor: CollectingMonitor::default(),
        }
    }

    /// The result of a command that has nothing to warn of.
    fn said<T>(&self, result: Result<T, Error>) -> Result<T, String> {
        result.map_err(|error| {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(error) = source {
                text = format!("{text}: {error}");
                source = error.source();
            }
            text
        })
    }
}

fn check(threads: usize, engine: EngineChoice) -> CheckOptions {
    CheckOptions {
        threads,
        skip_block_validation: false,
        engine,
        cancel: Arc::new(AtomicBool::new(false)),
        storage: None,
    }
}

/// Text for `-E`.
fn list(directories: &[PathBuf]) -> Option<String> {
    let paths = directories.iter().map(|path| path.display().to_string());
    let paths: Vec<String> = paths.collect();
    (!paths.is_empty()).then(|| paths.join(":"))
}

fn external_mappings(request: &RestoreRequest) -> Vec<PathMapping> {
    let mapping = |number: &u32| PathMapping {
        old: request.from.external(*number),
        new: request.to.external(*number),
    };
    request.externals.iter().map(mapping).collect()
}

fn mappings(request: &RestoreRequest) -> Vec<PathMapping> {
    let mapping = |oid: &u32| PathMapping {
        old: request.from.tablespace(*oid),
        new: request.to.tablespace(*oid),
    };
    request.tablespaces.iter().map(mapping).collect()
}

impl Tool for Library {
    fn follows_the_clock(&self) -> bool {
        true
    }

    fn back_up(&self, request: &BackupRequest) -> Result<BackupId, String> {
        let options = backup::Options {
            shared: None,
            catalog: self.catalog.clone(),
            instance: INSTANCE.to_owned(),
            data_directory: None,
            mode: request.mode,
            server: None,
            threads: request.threads,
            compress_algorithm: Some(request.algorithm),
            compress_level: Some(1),
            external_dirs: list(&request.externals),
            note: None,
            pin: None,
            retention: RetentionOptions::default(),
            validate: request.validate,
            skip_block_validation: false,
            sync: true,
            pg_log: false,
            pg_replslot: false,
            engine: request.engine,
            start_time: Some(request.start_time),
            cancel: Arc::new(AtomicBool::new(false)),
        };
        self.said(backup::run(&options, &self.monitor))
    }

    fn restore(&self, request: &RestoreRequest) -> Result<(), String> {
        let options = restore::Options {
            catalog: self.catalog.clone(),
            instance: INSTANCE.to_owned(),
            data_directory: Some(request.to.data.clone()),
            backup_id: Some(request.id),
            target: RecoveryTarget::default(),
            archive_dir: None,
            restore_command: None,
            tablespace_mapping: mappings(request),
            external_mapping: external_mappings(request),
            skip_external_dirs: false,
            shared: None,
            incremental_mode: request.mode,
            validate: request.validate,
            force: false,
            sync: true,
            check: check(request.threads, request.engine),
        };
        self.said(restore::run(&options, &self.monitor))
    }

    fn merge(&self, id: BackupId) -> Result<(), String> {
        let options = merge::Options {
            catalog: self.catalog.clone(),
            instance: INSTANCE.to_owned(),
            backup_id: id,
            validate: true,
            sync: true,
            dry_run: false,
            check: check(1, EngineChoice::Sync),
        };
        self.said(merge::run(&options, &self.monitor))
    }

    fn delete(&self, id: BackupId) -> Result<(), String> {
        let options = delete::Options {
            catalog: self.catalog.clone(),
            instance: INSTANCE.to_owned(),
            what: delete::What::Backup(id),
            dry_run: false,
            delete_wal: None,
            check: check(1, EngineChoice::Sync),
        };
        self.said(delete::run(&options, &self.monitor))
    }

    fn validate(&self) -> Result<(), String> {
        let options = validate::Options {
            catalog: self.catalog.clone(),
            instance: None,
            backup_id: None,
            target: RecoveryTarget::default(),
            archive_dir: None,
            check: check(1, EngineChoice::Sync),
        };
        self.said(validate::run(&options, &self.monitor))
    }

    fn backup_path(&self, id: BackupId) -> PathBuf {
        backup_path(&self.catalog, id)
    }
}

pub(super) struct Program {
    catalog: PathBuf,
}

impl Program {
    pub(super) fn create(catalog: &Path, data: &Path) -> Program {
        let program = Program {
            catalog: catalog.to_owned(),
        };
        program.run(&["init"]).unwrap();
        let data = data.display().to_string();
        program
            .run(&["add-instance", "--instance", INSTANCE, "-D", &data])
            .unwrap();
        program
    }

    fn run(&self, arguments: &[&str]) -> Result<Output, String> {
        let output = gs_probackup(arguments, &self.catalog);
        match output.code {
            Some(0) => Ok(output),
            _ => Err(format!("{output:#?}")),
        }
    }
}

impl Tool for Program {
    fn follows_the_clock(&self) -> bool {
        false
    }

    fn back_up(&self, request: &BackupRequest) -> Result<BackupId, String> {
        let mode = match request.mode {
            backup::Mode::Full => "FULL",
            backup::Mode::Ptrack => "PTRACK",
            backup::Mode::Delta => "DELTA",
        };
        let algorithm = format!("--compress-algorithm={}", request.algorithm);
        let threads = format!("-j{}", request.threads);
        let mut words = vec!["backup", "--instance", INSTANCE, "--offline", "-b", mode];
        words.extend([algorithm.as_str(), &threads]);
        let externals = list(&request.externals);
        words.extend(externals.iter().flat_map(|list| ["-E", list]));
        if !request.validate {
            words.push("--no-validate");
        }
        let second = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap().as_secs();
        let began = second(SystemTime::now());
        let output = self.run(&words)?;
        // The next one has to wait for the next second, and changes must not seem to be older.
        while second(SystemTime::now()) == began {
            std::thread::sleep(Duration::from_millis(10));
        }
        let id = output.stderr.lines().find_map(|line| {
            let line = line.strip_prefix("INFO: Backup ")?;
            line.strip_suffix(" completed")?.parse().ok()
        });
        id.ok_or(output.stderr)
    }

    fn restore(&self, request: &RestoreRequest) -> Result<(), String> {
        let id = request.id.to_string();
        let to = request.to.data.display().to_string();
        let threads = format!("-j{}", request.threads);
        let mut words = vec!["restore", "--instance", INSTANCE, "-i", &id, "-D", &to];
        words.push(&threads);
        words.extend(match request.mode {
            IncrementalMode::None => ["-I", "none"],
            IncrementalMode::Checksum => ["-I", "checksum"],
            IncrementalMode::Lsn => ["-I", "lsn"],
        });
        if !request.validate {
            words.push("--no-validate");
        }
        let text = |option: &str, mapping: &PathMapping| {
            format!(
                "{option}{}={}",
                mapping.old.display(),
                mapping.new.display()
            )
        };
        let tablespaces = mappings(request);
        let tablespaces = tablespaces.iter().map(|mapping| text("-T", mapping));
        let externals = external_mappings(request);
        let externals = externals
            .iter()
            .map(|mapping| text("--external-mapping=", mapping));
        let mappings: Vec<String> = tablespaces.chain(externals).collect();
        words.extend(mappings.iter().map(String::as_str));
        self.run(&words).map(|_| ())
    }

    fn merge(&self, id: BackupId) -> Result<(), String> {
        let id = id.to_string();
        self.run(&["merge", "--instance", INSTANCE, "-i", &id])
            .map(|_| ())
    }

    fn delete(&self, id: BackupId) -> Result<(), String> {
        let id = id.to_string();
        self.run(&["delete", "--instance", INSTANCE, "-i", &id])
            .map(|_| ())
    }

    fn validate(&self) -> Result<(), String> {
        self.run(&["validate"]).map(|_| ())
    }

    fn backup_path(&self, id: BackupId) -> PathBuf {
        backup_path(&self.catalog, id)
    }
}
