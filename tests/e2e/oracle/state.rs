//! What a cluster is at one moment, in memory: the plain copy that everything is compared with.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, FileTimes, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// A file; two states share what did not change.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct StateFile {
    pub(super) bytes: Arc<Vec<u8>>,
    /// Seconds since 1970.
    pub(super) mtime: i64,
}

/// Files and directories by their names as a content list has them. `pg_tblspc/<oid>` is the link
/// to a tablespace, and `@<number>/` what is in an external directory.
#[derive(Clone, Default)]
pub(super) struct State {
    pub(super) files: BTreeMap<String, StateFile>,
    pub(super) directories: BTreeSet<String>,
}

/// Where a cluster is: its data directory, and the directories in which its tablespaces and its
/// external directories are by their numbers.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) data: PathBuf,
    pub(super) tablespaces: PathBuf,
    pub(super) externals: PathBuf,
}

/// All external directories.
pub(super) const EXTERNALS: [u32; 2] = [1, 2];

/// The number of an external directory, and the name in it.
fn in_external(name: &str) -> Option<(u32, &str)> {
    let (number, below) = name.strip_prefix('@')?.split_once('/')?;
    Some((number.parse().ok()?, below))
}

/// The number of a tablespace, and the name in it, which is empty for the tablespace itself.
fn in_tablespace(name: &str) -> Option<(u32, &str)> {
    let rest = name.strip_prefix("pg_tblspc/")?;
    let (oid, below) = rest.split_once('/').unwrap_or((rest, ""));
    Some((oid.parse().ok()?, below))
}

impl Place {
    pub(super) fn below(root: &Path) -> Place {
        Place {
            data: root.join("data"),
            tablespaces: root.join("ts"),
            externals: root.join("ext"),
        }
    }

    pub(super) fn tablespace(&self, oid: u32) -> PathBuf {
        self.tablespaces.join(oid.to_string())
    }

    pub(super) fn external(&self, number: u32) -> PathBuf {
        self.externals.join(number.to_string())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        if let Some((number, below)) = in_external(name) {
            return self.external(number).join(below);
        }
        match in_tablespace(name) {
            Some((oid, below)) => self.tablespace(oid).join(below),
            None => self.data.join(name),
        }
    }

    fn make_directory(&self, name: &str) {
        let make = |path: &Path| {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o700).create(path).unwrap();
        };
        make(&self.path(name));
        if let Some((oid, "")) = in_tablespace(name) {
            symlink(self.tablespace(oid), self.data.join(name)).unwrap();
        }
    }

    fn remove_directory(&self, name: &str) {
        fs::remove_dir(self.path(name)).unwrap();
        if let Some((_, "")) = in_tablespace(name) {
            fs::remove_file(self.data.join(name)).unwrap();
        }
    }

    /// What is there, of external directories in these.
    pub(super) fn read(&self, externals: &[u32]) -> State {
        let mut state = State::default();
        let mut pending = vec![(self.data.clone(), String::new())];
        let external = |number: &u32| (self.external(*number), format!("@{number}/"));
        pending.extend(externals.iter().map(external));
        pending.retain(|(path, _)| path.exists());
        while let Some((path, prefix)) = pending.pop() {
            for entry in fs::read_dir(path).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                let name = format!("{prefix}{name}");
                let kind = entry.file_type().unwrap();
                if kind.is_file() {
                    let bytes = Arc::new(fs::read(entry.path()).unwrap());
                    state.files.insert(name, StateFile { bytes, mtime: 0 });
                    continue;
                }
                let mut path = entry.path();
                if kind.is_symlink() {
                    let (oid, _) = in_tablespace(&name).unwrap();
                    path = self.tablespace(oid);
                    assert_eq!(fs::read_link(entry.path()).unwrap(), path);
                }
                pending.push((path, format!("{name}/")));
                state.directories.insert(name);
            }
        }
        state
    }
}

impl State {
    pub(super) fn tablespaces(&self) -> impl Iterator<Item = u32> {
        let found = self
            .directories
            .iter()
            .filter_map(|name| in_tablespace(name));
        found
            .filter(|(_, below)| below.is_empty())
            .map(|(oid, _)| oid)
    }

    /// Makes what is at `place` from `before` into `self`.
    pub(super) fn write(&self, before: &State, place: &Place) {
        for name in before.files.keys() {
            if !self.files.contains_key(name) {
                fs::remove_file(place.path(name)).unwrap();
            }
        }
        let gone: Vec<&String> = before.directories.difference(&self.directories).collect();
        for name in gone.into_iter().rev() {
            place.remove_directory(name);
        }
        for name in self.directories.difference(&before.directories) {
            place.make_directory(name);
        }
        for (name, file) in &self.files {
            let old = before.files.get(name);
            let is_same =
                |old: &StateFile| old.mtime == file.mtime && Arc::ptr_eq(&old.bytes, &file.bytes);
            if !old.is_some_and(is_same) {
                write_file(&place.path(name), file);
            }
        }
    }

    /// What a backup with these external directories has of it: not the contents of scratch
    /// directories, and only the WAL segment that a start needs.
    pub(super) fn backed_up(&self, externals: &[u32]) -> State {
        let mut state = self.clone();
        let is_in =
            |name: &String| in_external(name).is_none_or(|(number, _)| externals.contains(&number));
        state.files.retain(|name, _| is_in(name));
        state.directories.retain(is_in);
        let wal: Vec<&String> = self.files.keys().filter(|name| is_wal(name)).collect();
        let last = wal.last().map(|name| (*name).clone());
        state
            .files
            .retain(|name, _| !is_scratch(name) || Some(name) == last.as_ref());
        state.directories.retain(|name| !is_scratch(name));
        state
    }

    /// The differences to what a restore made, as text.
    pub(super) fn differences(&self, restored: &State) -> Vec<String> {
        let mut found = Vec::new();
        for name in self.directories.symmetric_difference(&restored.directories) {
            found.push(format!("directory {name} is in one only"));
        }
        for (name, file) in &self.files {
            match restored.files.get(name) {
                None => found.push(format!("{name} is missing")),
                Some(other) if other.bytes != file.bytes => {
                    found.push(format!("{name}: {}", describe(&file.bytes, &other.bytes)));
                }
                Some(_) => {}
            }
        }
        let is_new = |name: &&String| !self.files.contains_key(*name);
        for name in restored.files.keys().filter(is_new) {
            // The restore of a backup with tablespaces leaves the map that it went by.
            if name != "tablespace_map" {
                found.push(format!("{name} is not in the cluster"));
            }
        }
        found
    }
}

/// What a restore leaves as it is.
pub(super) fn is_left_alone(name: &str) -> bool {
    name.starts_with("pg_log/")
}

fn is_wal(name: &str) -> bool {
    name.starts_with("pg_xlog/") && name.len() == "pg_xlog/".len() + 24
}

fn is_scratch(name: &str) -> bool {
    let scratch = [
        "pg_log/",
        "pg_notify/",
        "pg_stat_tmp/",
        "pg_xlog/",
        "pg_serial/",
        "pg_snapshots/",
        "pg_replslot/",
    ];
    scratch.iter().any(|directory| name.starts_with(directory))
}

fn write_file(path: &Path, file: &StateFile) {
    let mut open = OpenOptions::new();
    open.write(true).create(true).truncate(true).mode(0o600);
    let mut opened = open.open(path).unwrap();
    opened.write_all(&file.bytes).unwrap();
    let mtime = UNIX_EPOCH + Duration::from_secs(u64::try_from(file.mtime).unwrap());
    opened
        .set_times(FileTimes::new().set_modified(mtime))
        .unwrap();
}

fn describe(expected: &[u8], found: &[u8]) -> String {
    if expected.len() != found.len() {
        return format!("{} bytes instead of {}", found.len(), expected.len());
    }
    let blocks = expected.chunks(8192).zip(found.chunks(8192));
    let differing: Vec<usize> = blocks
        .enumerate()
        .filter(|(_, (expected, found))| expected != found)
        .map(|(block, _)| block)
        .collect();
    let first = differing[0] * 8192;
    let at = (first..).find(|at| expected[*at] != found[*at]);
    format!("blocks {differing:?} differ, first at byte {}", at.unwrap())
}
