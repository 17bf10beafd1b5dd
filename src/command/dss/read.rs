//! `dss cat` and `dss cp`: files of the volumes, read out.
//!
//! A copy appears under its name only when it is whole and durable: it is written under the name
//! with a `~` behind it, which no file on a volume can have, synced and renamed. Nothing that is
//! there is ever replaced. Links become links with the same text; nothing is written through one.

use super::list::{Entry, EntryKind, walk};
use super::{Error, Volumes, error};
use crate::format::dss::{NODE_SYSTEM, Node};
use crate::storage::dss::{DssError, Found, VolumeGroups};
use crate::storage::{Posix, Storage, StorageError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What to read out.
#[derive(Clone, Debug)]
pub struct CatOptions {
    /// Where.
    pub volumes: Volumes,
    /// Files; links are followed.
    pub paths: Vec<String>,
}

/// What to copy.
#[derive(Clone, Debug)]
pub struct CopyOptions {
    /// Where.
    pub volumes: Volumes,
    /// A file, or with `recursive` a directory; a link is followed.
    pub source: String,
    /// Where to: a name that is not taken, or a directory that gets the copy under its own name.
    pub target: PathBuf,
    /// Directories with all that is in them.
    pub recursive: bool,
    /// `.recycle` too.
    pub all: bool,
    /// Whether the copies are made durable.
    pub sync: bool,
}

/// What was copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Copied {
    /// Files.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// Writes the bytes of files to `output`.
///
/// # Errors
/// Where a volume or a file cannot be read, or `output` fails.
pub fn cat(options: &CatOptions, output: &mut dyn Write) -> Result<(), Error> {
    let mut groups = options.volumes.open()?;
    for path in &options.paths {
        let found = file(&mut groups, path).map_err(error)?;
        let group = groups.group(found.group);
        let read = group.read_file(&found.node, &mut |bytes| output.write_all(bytes));
        read.map_err(error)?;
    }
    let done = output.flush();
    done.map_err(|source| error(DssError::Sink { source }))
}

fn file(groups: &mut VolumeGroups, path: &str) -> Result<Found, DssError> {
    let found = groups.find(path, true)?;
    if found.node.is_directory() {
        return Err(DssError::IsADirectory { path: found.path });
    }
    Ok(found)
}

/// Copies a file or a directory out of the volumes.
///
/// # Errors
/// Where a volume or a file cannot be read, or the target is taken or cannot be written.
pub fn copy(options: &CopyOptions) -> Result<Copied, Error> {
    let mut groups = options.volumes.open()?;
    let found = groups.find(&options.source, true).map_err(error)?;
    if found.node.is_directory() && !options.recursive {
        return Err(error(DssError::IsADirectory { path: found.path }));
    }
    let target = match options.target.is_dir() {
        true => options.target.join(&*found.node.name),
        false => options.target.clone(),
    };
    let (Some(name), parent) = (target.file_name(), directory_of(&target)) else {
        let source = io::Error::from(io::ErrorKind::InvalidInput);
        return Err(Error::Storage(StorageError::new("write", &target, source)));
    };
    let tree = Posix::open(parent).map_err(Error::Storage)?;
    let mut copying = Copying {
        groups: &mut groups,
        tree: &tree,
        options,
        copied: Copied::default(),
    };
    copying.copy(&found, Path::new(name))?;
    if options.sync {
        tree.sync_dir(Path::new("")).map_err(Error::Storage)?;
    }
    Ok(copying.copied)
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

struct Copying<'a> {
    groups: &'a mut VolumeGroups,
    tree: &'a Posix,
    options: &'a CopyOptions,
    copied: Copied,
}

impl Copying<'_> {
    fn copy(&mut self, found: &Found, target: &Path) -> Result<(), Error> {
        self.refuse_taken(target)?;
        if !found.node.is_directory() {
            return self.copy_file(found.group, &found.node, target);
        }
        let all = self.options.all;
        let filter = move |node: &Node| all || node.flags & NODE_SYSTEM == 0;
        let mut entries: Vec<Entry> = Vec::new();
        walk(self.groups, found, true, &filter, &mut |entry| {
            entries.push(entry.clone());
            true
        })
        .map_err(error)?;
        let mut directories = vec![target.to_owned()];
        self.create_dir(target)?;
        for entry in entries {
            let inside = entry.path[found.path.len()..].trim_start_matches('/');
            let path = target.join(inside);
            match &entry.kind {
                EntryKind::Directory => {
                    self.create_dir(&path)?;
                    directories.push(path);
                }
                EntryKind::Link { target } => {
                    let made = self.tree.symlink(Path::new(target), &path);
                    made.map_err(Error::Storage)?;
                }
                EntryKind::File => self.copy_file(found.group, &entry.node, &path)?,
            }
        }
        if self.options.sync {
            for directory in directories.iter().rev() {
                self.tree.sync_dir(directory).map_err(Error::Storage)?;
            }
        }
        Ok(())
    }

    fn refuse_taken(&self, target: &Path) -> Result<(), Error> {
        match self.tree.metadata(target) {
            Ok(_) => {
                let path = self.tree.display_path(target);
                let source = io::Error::from(io::ErrorKind::AlreadyExists);
                Err(Error::Storage(StorageError::new("create", &path, source)))
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(Error::Storage(error)),
        }
    }

    fn create_dir(&self, path: &Path) -> Result<(), Error> {
        self.tree.create_dir(path, 0o700).map_err(Error::Storage)
    }

    fn copy_file(&mut self, group: usize, node: &Node, target: &Path) -> Result<(), Error> {
        let mut begun = target.as_os_str().to_owned();
        begun.push("~");
        let begun = Path::new(&begun);
        let file = self.tree.create(begun, 0o600, false);
        let file = file.map_err(Error::Storage)?;
        let mut written = 0;
        let mut write = |bytes: &[u8]| {
            file.write_all_at(bytes, written).map_err(|e| e.source)?;
            written += bytes.len() as u64;
            Ok(())
        };
        let read = self.groups.group(group).read_file(node, &mut write);
        let synced = read.map_err(error).and_then(|bytes| {
            self.copied.bytes += bytes;
            if self.options.sync {
                let path = self.tree.display_path(begun);
                let synced = file.sync();
                synced.map_err(|e| Error::Storage(StorageError::new("fsync", &path, e.source)))?;
            }
            Ok(())
        });
        if let Err(error) = synced {
            // Only this run wrote it, and it is not whole; the first error is the one to tell.
            let _ = self.tree.remove_file(begun);
            return Err(error);
        }
        self.copied.files += 1;
        self.tree.rename(begun, target).map_err(Error::Storage)
    }
}
