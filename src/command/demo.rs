//! `demo`: the main job on a generated cluster, with every compression, in a directory of its own.
//!
//! For each compression: back up, validate, restore, compare the restored trees with the source
//! byte for byte. Then one bit of a backup is flipped to show that validation notices.

use super::RecoveryTarget;
use super::backup;
use super::restore::{self, PathMapping};
use super::retention::RetentionOptions;
use super::validate::{self, CheckOptions};
use super::{Error, add_instance, init};
use crate::format::catalog::InstanceConf;
use crate::io::EngineChoice;
use crate::monitor::Monitor;
use crate::sample::{self, Sample, SampleOptions};
use crate::storage::StorageError;
use crate::types::{BackupId, CompressAlgorithm};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// What `demo` is asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to work; must not exist or be empty.
    pub directory: PathBuf,
    /// Bytes of relation data to generate.
    pub size_bytes: u64,
    /// What the cluster is generated from.
    pub seed: u64,
    /// CPU threads.
    pub threads: usize,
    /// Whether the directory stays when the demo is over.
    pub keep: bool,
    /// Set by a signal handler.
    pub cancel: Arc<AtomicBool>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// Bytes of the generated cluster.
    pub cluster_bytes: u64,
    /// Files of it.
    pub cluster_files: u64,
    /// A row for each compression.
    pub rows: Vec<Row>,
    /// What validation said of a flipped bit.
    pub damage: String,
    /// Where everything is, if it was kept.
    pub kept: Option<PathBuf>,
}

/// One compression.
#[derive(Clone, Debug)]
pub struct Row {
    /// Which.
    pub algorithm: CompressAlgorithm,
    /// The backup.
    pub id: BackupId,
    /// Bytes it takes.
    pub backup_bytes: u64,
    /// Time to take it.
    pub backup_time: Duration,
    /// Time to validate it.
    pub validate_time: Duration,
    /// Time to restore it, without validation.
    pub restore_time: Duration,
}

/// Runs the demo.
///
/// # Errors
/// When a step fails or the restored trees differ from the source.
pub fn run(options: &Options, monitor: &dyn Monitor) -> Result<Report, Error> {
    restore::check_target_empty(&options.directory)?;
    let existed = options.directory.exists();
    fs::create_dir_all(&options.directory)
        .map_err(|e| StorageError::new("create directory", &options.directory, e))?;
    let outcome = Demo::new(options, monitor)?.run();
    if options.keep {
        return outcome;
    }
    let removed = remove(&options.directory, existed)
        .map_err(|e| Error::from(StorageError::new("remove", &options.directory, e)));
    let report = outcome?;
    removed?;
    Ok(report)
}

/// Removes what the demo made: the directory, or what is in it if it was there before.
fn remove(directory: &Path, existed: bool) -> std::io::Result<()> {
    if !existed {
        return fs::remove_dir_all(directory);
    }
    for entry in fs::read_dir(directory)? {
        fs::remove_dir_all(entry?.path())?;
    }
    Ok(())
}

struct Demo<'a> {
    options: &'a Options,
    monitor: &'a dyn Monitor,
    catalog: PathBuf,
    sample: Sample,
    source: Tree,
}

const INSTANCE: &str = "demo";

impl<'a> Demo<'a> {
    fn new(options: &'a Options, monitor: &'a dyn Monitor) -> Result<Demo<'a>, Error> {
        let cluster = options.directory.join("cluster");
        fs::create_dir_all(&cluster)
            .map_err(|e| StorageError::new("create directory", &cluster, e))?;
        let sample = sample::create(
            &cluster,
            &SampleOptions {
                seed: options.seed,
                bytes: options.size_bytes,
            },
        )?;
        let catalog = options.directory.join("catalog");
        init::run(&init::Options {
            catalog: catalog.clone(),
        })?;
        let conf = InstanceConf {
            pgdata: Some(sample.data_directory.display().to_string()),
            ..InstanceConf::default()
        };
        let instance = INSTANCE.to_owned();
        add_instance::run(&add_instance::Options {
            catalog: catalog.clone(),
            instance,
            conf,
            shared: None,
        })?;
        let source = Tree::list(&[&sample.data_directory, &sample.tablespace])?;
        Ok(Demo {
            options,
            monitor,
            catalog,
            sample,
            source,
        })
    }

    fn run(&self) -> Result<Report, Error> {
        let mut rows = Vec::new();
        for algorithm in CompressAlgorithm::ALL {
            rows.push(self.round(algorithm)?);
        }
        let first = rows.first().expect("there is a compression").id;
        Ok(Report {
            cluster_bytes: self.source.bytes(),
            cluster_files: super::words::count(self.source.files.len()),
            damage: self.damage(first)?,
            rows,
            kept: self.options.keep.then(|| self.options.directory.clone()),
        })
    }

    fn round(&self, algorithm: CompressAlgorithm) -> Result<Row, Error> {
        let began = Instant::now();
        let id = backup::run(&self.backup_options(algorithm), self.monitor)?;
        let backup_time = began.elapsed();
        let began = Instant::now();
        validate::run(&self.validate_options(id), self.monitor)?;
        let validate_time = began.elapsed();
        let target = self.options.directory.join(format!("restored-{algorithm}"));
        let tablespace = self
            .options
            .directory
            .join(format!("tablespace-{algorithm}"));
        let began = Instant::now();
        restore::run(
            &self.restore_options(id, &target, &tablespace),
            self.monitor,
        )?;
        let restore_time = began.elapsed();
        let restored = Tree::list(&[&target, &tablespace])?;
        self.source.compare(&restored)?;
        for directory in [&target, &tablespace] {
            if !self.options.keep {
                fs::remove_dir_all(directory)
                    .map_err(|e| StorageError::new("remove", directory, e))?;
            }
        }
        let backup = self
            .catalog
            .join("backups")
            .join(INSTANCE)
            .join(id.to_string());
        let backup_bytes = Tree::list(&[&backup])?.bytes();
        Ok(Row {
            algorithm,
            id,
            backup_bytes,
            backup_time,
            validate_time,
            restore_time,
        })
    }

    fn check_options(&self) -> CheckOptions {
        CheckOptions {
            threads: self.options.threads,
            skip_block_validation: false,
            engine: EngineChoice::Auto,
            cancel: self.options.cancel.clone(),
            storage: None,
        }
    }

    fn backup_options(&self, algorithm: CompressAlgorithm) -> backup::Options {
        backup::Options {
            shared: None,
            catalog: self.catalog.clone(),
            instance: INSTANCE.to_owned(),
            data_directory: None,
            mode: backup::Mode::Full,
            server: None,
            threads: self.options.threads,
            compress_algorithm: Some(algorithm),
            compress_level: Some(1),
            external_dirs: None,
            note: None,
            pin: None,
            retention: RetentionOptions::default(),
            validate: false,
            skip_block_validation: false,
            sync: true,
            pg_log: true,
            pg_replslot: false,
            engine: EngineChoice::Auto,
            start_time: None,
            cancel: self.options.cancel.clone(),
        }
    }

    fn validate_options(&self, id: BackupId) -> validate::Options {
        validate::Options {
            catalog: self.catalog.clone(),
            instance: Some(INSTANCE.to_owned()),
            backup_id: Some(id),
            target: RecoveryTarget::default(),
            archive_dir: None,
            check: self.check_options(),
        }
    }

    fn restore_options(&self, id: BackupId, target: &Path, tablespace: &Path) -> restore::Options {
        restore::Options {
            catalog: self.catalog.clone(),
            instance: INSTANCE.to_owned(),
            data_directory: Some(target.to_owned()),
            backup_id: Some(id),
            target: RecoveryTarget::default(),
            archive_dir: None,
            restore_command: None,
            tablespace_mapping: vec![PathMapping {
                old: self.sample.tablespace.clone(),
                new: tablespace.to_owned(),
            }],
            external_mapping: Vec::new(),
            skip_external_dirs: false,
            shared: None,
            incremental_mode: restore::IncrementalMode::None,
            validate: false,
            force: false,
            sync: true,
            check: self.check_options(),
        }
    }

    /// Flips one bit of the largest stored file, validates, and flips it back.
    fn damage(&self, id: BackupId) -> Result<String, Error> {
        let database = self
            .catalog
            .join("backups")
            .join(INSTANCE)
            .join(id.to_string())
            .join("database");
        let tree = Tree::list(&[&database])?;
        let largest = tree.files.iter().max_by_key(|file| file.bytes);
        let largest = largest.expect("a backup has files");
        let at = largest.bytes / 2;
        flip(&largest.path, at)?;
        let verdict = validate::run(&self.validate_options(id), self.monitor);
        flip(&largest.path, at)?;
        // Undamaged again, it is good again.
        validate::run(&self.validate_options(id), self.monitor)?;
        let name = largest.name.display();
        match verdict {
            Err(error) => Ok(format!("one bit of {name} flipped at byte {at}: {error}")),
            Ok(()) => Err(Error::DamageUnnoticed {
                path: largest.path.clone(),
                offset: at,
            }),
        }
    }
}

/// The files below some directories.
struct Tree {
    files: Vec<TreeFile>,
}

struct TreeFile {
    /// Which directory it is below.
    root: usize,
    /// Path below it.
    name: PathBuf,
    path: PathBuf,
    bytes: u64,
}

impl Tree {
    /// Lists regular files, sorted. Links are not followed.
    fn list(roots: &[&Path]) -> Result<Tree, Error> {
        let mut files = Vec::new();
        for (root, directory) in roots.iter().enumerate() {
            let mut pending = vec![directory.to_path_buf()];
            while let Some(path) = pending.pop() {
                let error = |e| StorageError::new("list", &path, e);
                for entry in fs::read_dir(&path).map_err(error)? {
                    let entry = entry.map_err(error)?;
                    let metadata = entry.metadata().map_err(error)?;
                    let path = entry.path();
                    if metadata.is_dir() {
                        pending.push(path);
                    } else if metadata.is_file() {
                        let name = path
                            .strip_prefix(directory)
                            .expect("it is below")
                            .to_owned();
                        files.push(TreeFile {
                            root,
                            name,
                            path,
                            bytes: metadata.len(),
                        });
                    }
                }
            }
        }
        files.sort_by(|a, b| (a.root, &a.name).cmp(&(b.root, &b.name)));
        Ok(Tree { files })
    }

    fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Every file must be in both trees with the same bytes.
    fn compare(&self, restored: &Tree) -> Result<(), Error> {
        if let Some((source, other)) = self
            .files
            .iter()
            .zip(&restored.files)
            .find(|(source, other)| (source.root, &source.name) != (other.root, &other.name))
        {
            let path = source.path.clone().min(other.path.clone());
            return Err(Error::TreesDiffer { path });
        }
        if self.files.len() != restored.files.len() {
            let longer = if self.files.len() > restored.files.len() {
                self
            } else {
                restored
            };
            let common = self.files.len().min(restored.files.len());
            return Err(Error::TreesDiffer {
                path: longer.files[common].path.clone(),
            });
        }
        for (source, other) in self.files.iter().zip(&restored.files) {
            if !same_bytes(&source.path, &other.path)? {
                return Err(Error::TreesDiffer {
                    path: other.path.clone(),
                });
            }
        }
        Ok(())
    }
}

fn same_bytes(left: &Path, right: &Path) -> Result<bool, Error> {
    let open = |path: &Path| File::open(path).map_err(|e| StorageError::new("open", path, e));
    let (mut one, mut other) = (open(left)?, open(right)?);
    let (mut first, mut second) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let count = fill(&mut one, &mut first).map_err(|e| StorageError::new("read", left, e))?;
        let same =
            fill(&mut other, &mut second).map_err(|e| StorageError::new("read", right, e))?;
        if count != same || first[..count] != second[..same] {
            return Ok(false);
        }
        if count == 0 {
            return Ok(true);
        }
    }
}

fn fill(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match file.read(&mut buffer[count..])? {
            0 => break,
            read => count += read,
        }
    }
    Ok(count)
}

fn flip(path: &Path, at: u64) -> Result<(), Error> {
    let flip = || -> std::io::Result<()> {
        let mut file = File::options().read(true).write(true).open(path)?;
        let mut byte = [0];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut byte)?;
        byte[0] ^= 1;
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&byte)
    };
    flip().map_err(|e| StorageError::new("change", path, e).into())
}
