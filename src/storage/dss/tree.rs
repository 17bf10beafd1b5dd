//! A directory of a volume group as a [`Storage`]: files on raw volumes for everybody who reads
//! directory trees.
//!
//! What is seen is what the volumes hold at that time, also beside a running server:
//!
//! 1. Names come from the file table in memory. It is read again before a tree's root is listed,
//!    and before other directories are where the server did something since.
//! 2. A file's node is read again when it is opened or examined: its length changes without a
//!    trace elsewhere.
//! 3. An open file keeps its map. Whether what was read by it was the file's is for whoever reads
//!    to ask in the end ([`File::is_as_read`]); [`Storage::read`] and [`Storage::read_range`] ask
//!    themselves.
//!
//! Deleted files and the server's `.recycle` are not there. Owners and permissions do not exist on
//! volumes: all belongs to the caller, and only to him. A link is not followed; what it leads to,
//! perhaps in another group, is a tree of its own ([`DssTree::behind`]).

use super::file_map::FileMap;
use super::group::pause;
use super::map::DeviceRange;
use super::{DssError, Found, GroupSpec, VolumeGroups};
use crate::format::dss::{BlockId, Node, NodeKind};
use crate::io::{EngineChoice, File, Mapping, Place};
use crate::limits::DSS_READS_MAX;
use crate::storage::room::UnitRoom;
use crate::storage::{DirEntry, FileKind, Metadata, Storage, StorageError, check_path};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Errors after which a volume on which nothing changes is damaged.
const STILL_ERRORS_MAX: u32 = 3;

/// Where the server keeps what it will use again.
pub(super) const RECYCLE: &str = ".recycle";

/// A directory tree on volumes.
#[derive(Clone, Debug)]
pub struct DssTree {
    shared: Arc<Mutex<Shared>>,
    /// Path of the root, with its group, without links.
    root: String,
}

/// The groups that trees and open files share.
#[derive(Debug)]
struct Shared {
    groups: VolumeGroups,
    /// The names in directories that were looked into, by group and directory.
    names: HashMap<(usize, BlockId), HashMap<Box<str>, BlockId>>,
}

impl DssTree {
    /// Opens the tree of a directory such as `+data`, with the groups that links may lead to.
    ///
    /// # Errors
    /// As [`VolumeGroups::open`], and where there is no such directory.
    pub fn open(specs: &[GroupSpec], root: &str) -> Result<DssTree, DssError> {
        // Trees are shared by threads; a ring belongs to one.
        let groups = VolumeGroups::open(specs, EngineChoice::Sync)?;
        let shared = Shared {
            groups,
            names: HashMap::new(),
        };
        DssTree::at(&Arc::new(Mutex::new(shared)), root)
    }

    fn at(shared: &Arc<Mutex<Shared>>, root: &str) -> Result<DssTree, DssError> {
        let found = lock(shared).groups.find(root, true)?;
        if !found.node.is_directory() {
            return Err(DssError::NotADirectory { path: found.path });
        }
        Ok(DssTree {
            shared: Arc::clone(shared),
            root: found.path,
        })
    }

    /// The tree of another directory of the same groups, such as `+log/pg_xlog`.
    ///
    /// # Errors
    /// Where there is no such directory.
    pub fn tree(&self, root: &str) -> Result<DssTree, StorageError> {
        DssTree::at(&self.shared, root)
            .map_err(|error| StorageError::new("open directory", Path::new(root), to_io(error)))
    }

    /// The directory that a link leads to, as a tree of its own.
    ///
    /// # Errors
    /// Where it is no link, or leads to no directory of the groups that were opened.
    pub fn behind(&self, link: &Path) -> Result<DssTree, StorageError> {
        let target = self.read_link(link)?;
        let tree = DssTree::at(&self.shared, &target.to_string_lossy());
        tree.map_err(|error| self.error("follow link", link, error))
    }

    /// The path of the root, with its group: `+data`.
    #[must_use]
    pub fn root(&self) -> &str {
        &self.root
    }

    fn error(&self, operation: &'static str, path: &Path, error: DssError) -> StorageError {
        StorageError::new(operation, &self.display_path(path), to_io(error))
    }

    fn refuse<T>(&self, operation: &'static str, path: &Path) -> Result<T, StorageError> {
        let why = "the volumes were opened to read";
        let why = io::Error::new(io::ErrorKind::PermissionDenied, why);
        Err(StorageError::new(operation, &self.display_path(path), why))
    }

    /// Does something that needs metadata, again and again while a server changes them. `None`
    /// says that what is known is old.
    fn steadily<T>(
        &self,
        operation: &'static str,
        path: &Path,
        mut act: impl FnMut(&mut Shared, &str) -> Result<Option<T>, DssError>,
    ) -> Result<T, StorageError> {
        check_path(path).map_err(|e| StorageError::new(operation, &self.display_path(path), e))?;
        let Some(name) = path.to_str() else {
            // Names on volumes are text.
            let not_found = DssError::NotFound {
                path: path.display().to_string(),
            };
            return Err(self.error(operation, path, not_found));
        };
        let full = format!("{}/{name}", self.root);
        let result = steadily(&mut lock(&self.shared), |shared| act(shared, &full));
        result.map_err(|error| self.error(operation, path, error))
    }

    /// What a path leads to, as it is now.
    fn look(&self, operation: &'static str, path: &Path) -> Result<Found, StorageError> {
        self.steadily(operation, path, |shared, full| {
            let found = shared.find(full)?;
            if found.node.is_directory() {
                return Ok(Some(found));
            }
            let node = shared.groups.group(found.group).node_same(&found.node)?;
            Ok(node.map(|node| Found { node, ..found }))
        })
    }

    fn open_file(&self, operation: &'static str, path: &Path) -> Result<File, StorageError> {
        let (group, map) = self.steadily(operation, path, |shared, full| {
            let found = shared.find(full)?;
            check_is_file(&found)?;
            let map = shared.groups.group(found.group).map(&found.node)?;
            Ok(map.map(|map| (found.group, map)))
        })?;
        let mapping = OpenFile {
            shared: Arc::clone(&self.shared),
            group,
            map: Mutex::new(map),
            has_moved: AtomicBool::new(false),
        };
        Ok(File::mapped(self.display_path(path), Box::new(mapping)))
    }

    /// Reads a file until nothing of it moved meanwhile.
    fn read_steadily(
        &self,
        path: &Path,
        read: impl Fn(&File) -> Result<Vec<u8>, StorageError>,
    ) -> Result<Vec<u8>, StorageError> {
        for tries in 1..=DSS_READS_MAX {
            let file = self.open_file("read", path)?;
            let bytes = read(&file);
            if file.is_as_read()? {
                return bytes;
            }
            pause(tries);
        }
        let (name, _) = self.root[1..]
            .split_once('/')
            .unwrap_or((&self.root[1..], ""));
        let changing = DssError::Changing {
            group: name.to_owned(),
            tries: DSS_READS_MAX,
        };
        Err(self.error("read", path, changing))
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared
        .lock()
        .expect("no thread panics while it holds this lock")
}

fn steadily<T>(
    shared: &mut Shared,
    mut act: impl FnMut(&mut Shared) -> Result<Option<T>, DssError>,
) -> Result<T, DssError> {
    let (mut tries, mut still) = (0, 0);
    loop {
        let error = match act(shared) {
            Ok(Some(done)) => return Ok(done),
            Ok(None) => DssError::Changing {
                group: shared.groups.groups()[0].name().to_owned(),
                tries: DSS_READS_MAX,
            },
            Err(error) => error,
        };
        // A name that is not known may be new.
        let may_be_new = matches!(
            error,
            DssError::NotFound { .. } | DssError::NotADirectory { .. }
        );
        if !may_be_new && !error.may_pass() {
            return Err(error);
        }
        let has_changed = shared.has_changed()?;
        if may_be_new && !has_changed {
            return Err(error);
        }
        tries += 1;
        still = if has_changed { 0 } else { still + 1 };
        if tries >= DSS_READS_MAX || still >= STILL_ERRORS_MAX {
            return Err(error);
        }
        if !may_be_new {
            pause(tries);
        }
        shared.refresh()?;
    }
}

impl Shared {
    fn has_changed(&mut self) -> Result<bool, DssError> {
        for place in 0..self.groups.groups().len() {
            if self.groups.group(place).has_changed()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn refresh(&mut self) -> Result<(), DssError> {
        self.names.clear();
        for place in 0..self.groups.groups().len() {
            self.groups.group(place).refresh()?;
        }
        Ok(())
    }

    /// The node of a path that leads through no link; one at its end is found itself.
    fn find(&mut self, path: &str) -> Result<Found, DssError> {
        let mut names = path
            .split('/')
            .filter(|name| !name.is_empty() && *name != ".");
        let root = names.next().unwrap_or_default();
        let mut at = self.groups.find(root, false)?;
        for name in names {
            match at.node.kind {
                NodeKind::Directory { .. } => {}
                NodeKind::Link { .. } => return Err(DssError::ThroughLink),
                NodeKind::File { .. } => return Err(DssError::NotADirectory { path: at.path }),
            }
            let node = self.child(&at, name)?;
            at = Found {
                group: at.group,
                path: format!("{}/{name}", at.path),
                node: node.ok_or_else(|| DssError::NotFound {
                    path: path.to_owned(),
                })?,
            };
        }
        Ok(at)
    }

    fn child(&mut self, at: &Found, name: &str) -> Result<Option<Node>, DssError> {
        let key = (at.group, at.node.id);
        if !self.names.contains_key(&key) {
            let children = self.children(at)?.into_iter();
            let names = children.map(|child| (child.name, child.id)).collect();
            self.names.insert(key, names);
        }
        let id = self.names[&key].get(name);
        let nodes = &self.groups.groups()[at.group].state.table.nodes;
        Ok(id.and_then(|id| nodes.get(id)).cloned())
    }

    /// What is in a directory and to be seen.
    fn children(&self, at: &Found) -> Result<Vec<Node>, DssError> {
        let group = &self.groups.groups()[at.group];
        let is_root = at.node.id == group.root().id;
        let children = group.children(&at.node)?.into_iter();
        let seen =
            children.filter(|child| !(child.is_deleted() || is_root && &*child.name == RECYCLE));
        Ok(seen.cloned().collect())
    }
}

fn check_is_file(found: &Found) -> Result<(), DssError> {
    match found.node.kind {
        NodeKind::File { .. } => Ok(()),
        NodeKind::Link { .. } => Err(DssError::ThroughLink),
        NodeKind::Directory { .. } => Err(DssError::NotAFile),
    }
}

/// An error with its causes, of the kind that callers of a storage ask for.
pub(super) fn to_io(error: DssError) -> io::Error {
    let kind = match &error {
        DssError::NotFound { .. } => io::ErrorKind::NotFound,
        DssError::NotADirectory { .. } => io::ErrorKind::NotADirectory,
        DssError::IsADirectory { .. } => io::ErrorKind::IsADirectory,
        DssError::Exists { .. } => io::ErrorKind::AlreadyExists,
        DssError::NotEmpty { .. } => io::ErrorKind::DirectoryNotEmpty,
        DssError::NoRoom { .. } => io::ErrorKind::StorageFull,
        DssError::BadName { .. } | DssError::BadTarget { .. } => io::ErrorKind::InvalidFilename,
        DssError::ThroughLink | DssError::NotAFile => io::ErrorKind::InvalidInput,
        _ => io::ErrorKind::Other,
    };
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    io::Error::new(kind, text)
}

pub(super) fn metadata(group: usize, node: &Node) -> Metadata {
    let (kind, mode) = match node.kind {
        NodeKind::Directory { .. } => (FileKind::Directory, 0o040_700),
        NodeKind::File { .. } => (FileKind::File, 0o100_600),
        NodeKind::Link { .. } => (FileKind::Symlink, 0o120_777),
    };
    Metadata {
        kind,
        mode,
        size: node.written_bytes,
        mtime: i64::try_from(node.updated).unwrap_or(i64::MAX),
        allocated_bytes: node.size_bytes,
        links: 1,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        device: group as u64,
        inode: node.fid,
    }
}

impl Storage for DssTree {
    fn display_path(&self, path: &Path) -> PathBuf {
        if path.as_os_str().is_empty() {
            PathBuf::from(&self.root)
        } else {
            Path::new(&self.root).join(path)
        }
    }

    fn open_read(&self, path: &Path, _direct: bool) -> Result<File, StorageError> {
        self.open_file("open", path)
    }

    fn create(&self, path: &Path, _mode: u32, _direct: bool) -> Result<File, StorageError> {
        self.refuse("create", path)
    }

    fn open_write(&self, path: &Path, _direct: bool) -> Result<File, StorageError> {
        self.refuse("open", path)
    }

    fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>, StorageError> {
        let whole = |file: &File| {
            let size = file.size()?;
            if size > limit {
                let too_large = io::ErrorKind::FileTooLarge;
                return Err(StorageError::new("read", file.path(), too_large));
            }
            read_part(file, 0, size)
        };
        self.read_steadily(path, whole)
    }

    fn read_range(&self, path: &Path, offset: u64, length: usize) -> Result<Vec<u8>, StorageError> {
        self.read_steadily(path, |file| {
            let there = file.size()?.saturating_sub(offset);
            read_part(file, offset, there.min(length as u64))
        })
    }

    fn write_durably(&self, path: &Path, _mode: u32, _bytes: &[u8]) -> Result<(), StorageError> {
        self.refuse("replace", path)
    }

    fn create_dir(&self, path: &Path, _mode: u32) -> Result<(), StorageError> {
        self.refuse("create directory", path)
    }

    fn set_dir_mode(&self, path: &Path, _mode: u32) -> Result<(), StorageError> {
        self.refuse("change the mode of directory", path)
    }

    fn metadata(&self, path: &Path) -> Result<Metadata, StorageError> {
        let found = self.look("examine", path)?;
        Ok(metadata(found.group, &found.node))
    }

    fn list(&self, path: &Path) -> Result<Vec<DirEntry>, StorageError> {
        let mut is_fresh = false;
        let is_root = path.components().next().is_none();
        let mut entries = self.steadily("list directory", path, |shared, full| {
            if !is_fresh && (is_root || shared.has_changed()?) {
                shared.refresh()?;
            }
            is_fresh = true;
            let found = shared.find(full)?;
            match found.node.kind {
                NodeKind::Directory { .. } => {}
                NodeKind::Link { .. } => return Err(DssError::ThroughLink),
                NodeKind::File { .. } => return Err(DssError::NotADirectory { path: found.path }),
            }
            let entries = shared.children(&found)?.into_iter().map(|child| DirEntry {
                metadata: metadata(found.group, &child),
                name: String::from(child.name).into(),
            });
            Ok(Some(entries.collect::<Vec<_>>()))
        })?;
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, StorageError> {
        let target = self.steadily("read link", path, |shared, full| {
            let found = shared.find(full)?;
            if !matches!(found.node.kind, NodeKind::Link { .. }) {
                return Err(DssError::NotALink);
            }
            let group = shared.groups.group(found.group);
            let target = group.read_link(&found.node)?;
            // Its unit may have gone to another file before it was read.
            let node = group.node_same(&found.node)?;
            let is_same = node.is_some_and(|node| node.entry() == found.node.entry());
            Ok(is_same.then_some(target))
        })?;
        Ok(PathBuf::from(target))
    }

    fn symlink(&self, _target: &Path, path: &Path) -> Result<(), StorageError> {
        self.refuse("create link", path)
    }

    fn remove_file(&self, path: &Path) -> Result<(), StorageError> {
        self.refuse("remove", path)
    }

    fn remove_dir(&self, path: &Path) -> Result<(), StorageError> {
        self.refuse("remove directory", path)
    }

    fn rename(&self, from: &Path, _to: &Path) -> Result<(), StorageError> {
        self.refuse("rename", from)
    }

    fn set_file_mode(&self, path: &Path, _mode: u32) -> Result<(), StorageError> {
        self.refuse("change the mode of", path)
    }

    fn sync_dir(&self, path: &Path) -> Result<(), StorageError> {
        self.refuse("fsync directory", path)
    }

    fn available_bytes(&self) -> Result<u64, StorageError> {
        self.refuse("examine the free space of", Path::new(""))
    }

    fn unit_room(&self) -> Result<Option<UnitRoom>, StorageError> {
        let room = self.steadily(
            "examine the free space of",
            Path::new(""),
            |shared, full| {
                let found = shared.find(full)?;
                shared.refresh()?;
                Ok(Some(shared.groups.groups()[found.group].room()))
            },
        );
        room.map(Some)
    }

    fn sync_filesystem(&self) -> Result<(), StorageError> {
        self.refuse("sync", Path::new(""))
    }
}

pub(super) fn read_part(file: &File, offset: u64, length: u64) -> Result<Vec<u8>, StorageError> {
    let length = usize::try_from(length)
        .map_err(|_| StorageError::new("read", file.path(), io::ErrorKind::FileTooLarge))?;
    let mut bytes = vec![0; length];
    let read = file.read_up_to_at(&mut bytes, offset)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// A file that is read.
#[derive(Debug)]
struct OpenFile {
    shared: Arc<Mutex<Shared>>,
    group: usize,
    map: Mutex<FileMap>,
    /// Whether the file was seen to be elsewhere than when it was opened.
    has_moved: AtomicBool,
}

impl OpenFile {
    fn map(&self) -> MutexGuard<'_, FileMap> {
        let map = self.map.lock();
        map.expect("no thread panics while it holds this lock")
    }

    fn moved(&self) {
        self.has_moved.store(true, Ordering::Relaxed);
    }

    /// The run that holds the byte at `offset`, from a part of the map that was not read yet;
    /// `None` where a server changes it.
    fn load_part(&self, map: &mut FileMap, offset: u64) -> io::Result<Option<DeviceRange>> {
        let mut shared = lock(&self.shared);
        let group = shared.groups.group(self.group);
        let mut still = 0;
        loop {
            let error = match group.load_part(map, offset) {
                Ok(()) => return Ok(Some(map.run(offset).expect("just read"))),
                Err(error) if error.may_pass() => error,
                Err(error) => return Err(to_io(error)),
            };
            if group.has_changed().map_err(to_io)? {
                return Ok(None);
            }
            still += 1;
            if still >= STILL_ERRORS_MAX {
                return Err(to_io(error));
            }
            pause(still);
        }
    }
}

impl Mapping for OpenFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.map().node.written_bytes)
    }

    fn place_to_read(&self, offset: u64, length: u64) -> io::Result<Option<Place>> {
        let mut map = self.map();
        let Some(left) = map
            .node
            .written_bytes
            .checked_sub(offset)
            .filter(|left| *left > 0)
        else {
            return Ok(None);
        };
        let length = length.min(left);
        let run = match map.run(offset) {
            Some(run) => run,
            None => match self.load_part(&mut map, offset)? {
                Some(run) => run,
                None => {
                    // What is read now is not used, because the file moved.
                    self.moved();
                    DeviceRange::Zeros { length }
                }
            },
        };
        Ok(Some(match run {
            DeviceRange::Zeros { length: run } => Place::Zeros {
                length: run.min(length),
            },
            DeviceRange::Data {
                file,
                offset,
                length: run,
            } => Place::Device {
                file,
                offset,
                length: run.min(length),
            },
        }))
    }

    fn look_again(&self) -> io::Result<()> {
        let mut map = self.map();
        let mut shared = lock(&self.shared);
        match shared.groups.group(self.group).map_like(&map) {
            Ok(Some(now)) if !map.has_moved(&now) => *map = now,
            Ok(_) => self.moved(),
            Err(error) if error.may_pass() => {}
            Err(error) => return Err(to_io(error)),
        }
        Ok(())
    }

    fn is_as_read(&self) -> io::Result<bool> {
        if self.has_moved.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let map = self.map();
        for tries in 1..=DSS_READS_MAX {
            let mut shared = lock(&self.shared);
            match shared.groups.group(self.group).is_mapped_so(&map) {
                Ok(is_so) => return Ok(is_so),
                Err(error) if error.may_pass() => {}
                Err(error) => return Err(to_io(error)),
            }
            drop(shared);
            pause(tries);
        }
        // Whatever became of it, it cannot be told to be what it was.
        Ok(false)
    }
}
