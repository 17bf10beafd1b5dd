//! What a run notes beside the data directory, so that a later one knows how far it came and has
//! what it saved: the directory `<data directory>.dss-restore`.
//!
//! ```text
//! progress   the stage, whether files are kept, the size of units of each group, and the devices
//! saved      names of the files in `files`; written when all of them are there, durably
//! files/     copies of what was saved
//! ```
//!
//! Until the data directory is emptied each run saves anew. From then on what was saved is all that
//! there is. It is not used any more once a server was started from the directory: a start leaves
//! `postmaster.opts`, which is removed before anything else is.
//!
//! A run holds a lock on the directory, so that there is one at a time.

use crate::command::Error;
use crate::format::catalog::printable;
use crate::storage::{
    FileKind, Posix, Storage, StorageError, create_directory_durably, sync_directory,
};
use rustix::fs::FlockOperation;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Bytes of a file that is saved, at most: those of long settings.
const SAVED_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Bytes of the record's own files at most: a line a group.
const RECORD_BYTES_MAX: u64 = 64 * 1024;

const PROGRESS: &str = "progress";
const SAVED: &str = "saved";
const FILES: &str = "files";

/// What the start of a server leaves in its data directory.
const STARTED: &str = "postmaster.opts";

/// What a run is doing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Stage {
    Saving,
    Wiping,
    Emptying,
    Restoring,
    PuttingBack,
}

impl Stage {
    const ALL: [Stage; 5] = [
        Stage::Saving,
        Stage::Wiping,
        Stage::Emptying,
        Stage::Restoring,
        Stage::PuttingBack,
    ];

    /// As a person knows it.
    pub(super) fn words(self) -> &'static str {
        match self {
            Stage::Saving => "saving files of the data directory",
            Stage::Wiping => "making volume groups anew",
            Stage::Emptying => "emptying the data directory",
            Stage::Restoring => "restoring",
            Stage::PuttingBack => "putting back files of the data directory",
        }
    }
}

/// The record of a data directory.
#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
    tree: Posix,
    stage: Stage,
    other_cluster: bool,
    units: BTreeMap<String, u64>,
    devices: Vec<String>,
    /// Holds the lock, in a run.
    lock: Option<File>,
}

fn path_of(data_directory: &Path) -> Result<PathBuf, Error> {
    let Some(name) = data_directory.file_name() else {
        let path = data_directory.display();
        return Err(Error::Refused(format!("\"{path}\" is no data directory")));
    };
    let mut name = name.to_owned();
    name.push(".dss-restore");
    Ok(data_directory.with_file_name(name))
}

impl Record {
    /// What an earlier run left; `None` where there is nothing.
    pub(super) fn of(data_directory: &Path) -> Result<Option<Record>, Error> {
        let path = path_of(data_directory)?;
        let tree = match Posix::open(&path) {
            Ok(tree) => tree,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let text = match tree.read(Path::new(PROGRESS), RECORD_BYTES_MAX) {
            Ok(text) => text,
            // The run was killed before it began anything, or after it had ended.
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some((stage, other_cluster, units, devices)) = parse(&text) else {
            let path = path.join(PROGRESS);
            let path = path.display();
            return Err(Error::Refused(format!(
                "\"{path}\" is not a record of dss-restore"
            )));
        };
        Ok(Some(Record {
            path,
            tree,
            stage,
            other_cluster,
            units,
            devices,
            lock: None,
        }))
    }

    /// Begins a run, or goes on with the record of one that was interrupted.
    pub(super) fn begin(
        data_directory: &Path,
        other_cluster: bool,
        units: BTreeMap<String, u64>,
        devices: Vec<String>,
    ) -> Result<Record, Error> {
        let path = path_of(data_directory)?;
        create_directory_durably(&path, 0o700)?;
        let failed = |error: std::io::Error| StorageError::new("lock directory", &path, error);
        let lock = File::open(&path).map_err(failed)?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(Error::TargetInUse {
                path: data_directory.to_owned(),
            });
        }
        let earlier = Record::of(data_directory)?;
        let stage = earlier.map_or(Stage::Saving, |earlier| earlier.stage);
        // Of a directory that was removed meanwhile there is no name, and this fails.
        let mut record = Record {
            tree: Posix::open(&path)?,
            path,
            stage,
            other_cluster,
            units,
            devices,
            lock: Some(lock),
        };
        record.advance(stage)?;
        Ok(record)
    }

    /// What it is doing.
    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    /// Bytes of a unit that the earlier run had decided on.
    pub(super) fn au_bytes(&self, group: &str) -> Option<u64> {
        self.units.get(group).copied()
    }

    /// Refuses to go on with a run that was something else.
    pub(super) fn check_usable(
        &self,
        data_directory: &Path,
        other_cluster: bool,
        devices: &[String],
    ) -> Result<(), Error> {
        if self.stage < Stage::Emptying {
            return Ok(());
        }
        let path = self.path.display();
        if self.devices != devices {
            return Err(Error::Refused(format!(
                "\"{path}\" is of a run that was interrupted and that was for other devices: {}. \
                 Name these, or remove \"{path}\" if nothing in it is needed",
                self.devices.join(", ")
            )));
        }
        if data_directory.join(STARTED).symlink_metadata().is_ok() {
            return Err(Error::Refused(format!(
                "\"{path}\" is of a run that was interrupted, and the server of \"{}\" was started \
                 since: remove \"{path}\" if nothing in it is needed",
                data_directory.display()
            )));
        }
        if self.other_cluster == other_cluster {
            return Ok(());
        }
        let words = match self.other_cluster {
            true => "with --other-cluster was interrupted: give it again, or remove",
            false => "without --other-cluster emptied the data directory: leave it away, or remove",
        };
        Err(Error::Refused(format!("a run {words} \"{path}\"")))
    }

    /// Notes what is done next.
    pub(super) fn advance(&mut self, stage: Stage) -> Result<(), Error> {
        self.stage = stage;
        let number = Stage::ALL.iter().position(|known| *known == stage);
        let number = number.expect("all are there");
        let other = u8::from(self.other_cluster);
        let mut text = format!("stage {number}\nother-cluster {other}\n");
        for (group, bytes) in &self.units {
            text.push_str(&format!("unit {bytes} {group}\n"));
        }
        for device in &self.devices {
            text.push_str(&format!("device {device}\n"));
        }
        Ok(self
            .tree
            .write_durably(Path::new(PROGRESS), 0o600, text.as_bytes())?)
    }

    /// The files that were saved.
    pub(super) fn saved(&self) -> Result<Vec<String>, Error> {
        let text = self.tree.read(Path::new(SAVED), RECORD_BYTES_MAX)?;
        let text = String::from_utf8_lossy(&text);
        let names: Vec<String> = text.lines().map(str::to_owned).collect();
        let known = |name: &String| super::LOCAL_FILES.contains(&&**name);
        match names.iter().find(|name| !known(name)) {
            None => Ok(names),
            Some(name) => Err(Error::Refused(format!(
                "\"{}\" names \"{}\", which dss-restore does not save",
                self.path.join(SAVED).display(),
                printable(name)
            ))),
        }
    }

    /// Saves files of the data directory.
    pub(super) fn save(&self, data_directory: &Path, names: &[String]) -> Result<(), Error> {
        self.tree.create_dir(Path::new(FILES), 0o700)?;
        if !names.is_empty() {
            let data = Posix::open(data_directory)?;
            for name in names {
                let saved = Path::new(FILES).join(name);
                copy(&data, Path::new(name), &self.tree, &saved)?;
            }
        }
        self.tree.sync_dir(Path::new(FILES))?;
        let text: String = names.iter().map(|name| format!("{name}\n")).collect();
        Ok(self
            .tree
            .write_durably(Path::new(SAVED), 0o600, text.as_bytes())?)
    }

    /// Puts what was saved in the place of what was restored.
    pub(super) fn put_back(&self, data_directory: &Path) -> Result<(), Error> {
        let data = Posix::open(data_directory)?;
        for name in self.saved()? {
            let saved = Path::new(FILES).join(&name);
            copy(&self.tree, &saved, &data, Path::new(&name))?;
            tracing::info!("{name} is put back");
        }
        Ok(())
    }

    /// Removes the record: all is done, or nothing was begun.
    pub(super) fn remove(self) -> Result<(), Error> {
        // What says that there is one goes first.
        for name in [PROGRESS, SAVED] {
            match self.tree.remove_file(Path::new(name)) {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => self.tree.sync_dir(Path::new(""))?,
            }
        }
        let files = match self.tree.list(Path::new(FILES)) {
            Err(error) if error.is_not_found() => None,
            files => Some(files?),
        };
        for entry in files.iter().flatten() {
            if entry.metadata.kind == FileKind::File {
                self.tree.remove_file(&Path::new(FILES).join(&entry.name))?;
            }
        }
        if files.is_some() {
            self.tree.remove_dir(Path::new(FILES))?;
        }
        // What a killed run had begun to write.
        for entry in self.tree.list(Path::new(""))? {
            if entry.metadata.kind == FileKind::File {
                self.tree.remove_file(Path::new(&entry.name))?;
            }
        }
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        let name = self.path.file_name().expect("it has a name of its own");
        Posix::open(parent)?.remove_dir(Path::new(name))?;
        drop(self.lock);
        Ok(sync_directory(parent)?)
    }
}

/// Removes what tells that a server was started, so that it tells of a later one.
pub(super) fn forget_start(data_directory: &Path) -> Result<(), Error> {
    let data = match Posix::open(data_directory) {
        Ok(data) => data,
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    match data.remove_file(Path::new(STARTED)) {
        Err(error) if !error.is_not_found() => Err(error.into()),
        _ => Ok(data.sync_dir(Path::new(""))?),
    }
}

fn copy(from: &Posix, path: &Path, to: &Posix, target: &Path) -> Result<(), Error> {
    let mode = from.metadata(path)?.mode & 0o7777;
    let bytes = from.read(path, SAVED_BYTES_MAX)?;
    Ok(to.write_durably(target, mode, &bytes)?)
}

/// Stage, whether it is another cluster, units and devices.
type Progress = (Stage, bool, BTreeMap<String, u64>, Vec<String>);

fn parse(text: &[u8]) -> Option<Progress> {
    let text = std::str::from_utf8(text).ok()?;
    let (mut stage, mut other_cluster) = (None, None);
    let (mut units, mut devices) = (BTreeMap::new(), Vec::new());
    for line in text.lines() {
        let (word, rest) = line.split_once(' ')?;
        match word {
            "stage" => stage = Some(*Stage::ALL.get(rest.parse::<usize>().ok()?)?),
            "other-cluster" => other_cluster = Some(rest.parse::<u8>().ok()? != 0),
            "unit" => {
                let (bytes, group) = rest.split_once(' ')?;
                units.insert(group.to_owned(), bytes.parse().ok()?);
            }
            "device" => devices.push(rest.to_owned()),
            _ => return None,
        }
    }
    Some((stage?, other_cluster?, units, devices))
}
