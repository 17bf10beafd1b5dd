//! Groups that are written to as a [`Storage`].
//!
//! Owners and permissions do not exist on volumes: what is asked of them is granted and forgotten.
//! Names, links and lengths are gathered, and durable after [`File::sync`], [`Storage::sync_dir`]
//! or [`Storage::sync_filesystem`], each of which makes all of them durable at once.
//!
//! Files can be written by many threads at once, in any order. A gap that a write leaves becomes
//! zeros before the write is made, except where another one was prepared already.

use super::{GroupWriter, WriteOptions};
use crate::format::dss::{BlockId, Node, NodeKind};
use crate::io::{EngineChoice, File, Mapping, Place};
use crate::limits::DSS_LINKS_MAX;
use crate::storage::dss::tree::{RECYCLE, metadata, read_part, to_io};
use crate::storage::dss::{DeviceRange, DssError, GroupSpec};
use crate::storage::room::UnitRoom;
use crate::storage::{DirEntry, Metadata, Storage, StorageError, check_path};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// A directory tree on volumes that no server uses, to read and write.
#[derive(Clone, Debug)]
pub struct DssWriteTree {
    groups: Arc<Mutex<Vec<GroupWriter>>>,
    root: NodePlace,
    /// Path of the root, with its group, without links.
    path: String,
}

/// A node of one of the groups.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct NodePlace {
    group: usize,
    id: BlockId,
}

impl DssWriteTree {
    /// Opens the tree of a directory such as `+data`, with the groups that links may lead to.
    /// Nothing is written before the first change, what a crash left to be finished included.
    ///
    /// # Errors
    /// As [`GroupWriter::open`], and where there is no such directory.
    pub fn open(
        specs: &[GroupSpec],
        options: &WriteOptions,
        root: &str,
    ) -> Result<DssWriteTree, DssError> {
        // The lock of the server's home can be taken once.
        let mut options = options.clone();
        let mut groups = Vec::new();
        for spec in specs {
            groups.push(GroupWriter::open_unchanged(
                spec,
                &options,
                EngineChoice::Sync,
            )?);
            options.dss_home = None;
        }
        DssWriteTree::at(&Arc::new(Mutex::new(groups)), root)
    }

    fn at(groups: &Arc<Mutex<Vec<GroupWriter>>>, root: &str) -> Result<DssWriteTree, DssError> {
        let (place, path) = resolve(&lock(groups), root)?;
        Ok(DssWriteTree {
            groups: Arc::clone(groups),
            root: place,
            path,
        })
    }

    /// The tree of another directory of the same groups, such as `+log/pg_xlog`.
    ///
    /// # Errors
    /// Where there is no such directory.
    pub fn tree(&self, root: &str) -> Result<DssWriteTree, StorageError> {
        DssWriteTree::at(&self.groups, root)
            .map_err(|error| StorageError::new("open directory", Path::new(root), to_io(error)))
    }

    /// The directory that a link leads to, as a tree of its own.
    ///
    /// # Errors
    /// Where it is no link, or leads to no directory of the groups that were opened.
    pub fn behind(&self, link: &Path) -> Result<DssWriteTree, StorageError> {
        let target = self.read_link(link)?;
        let tree = DssWriteTree::at(&self.groups, &target.to_string_lossy());
        tree.map_err(|error| self.error("follow link", link, error))
    }

    /// The path of the root, with its group: `+data`.
    #[must_use]
    pub fn root(&self) -> &str {
        &self.path
    }

    fn error(&self, operation: &'static str, path: &Path, error: DssError) -> StorageError {
        StorageError::new(operation, &self.display_path(path), to_io(error))
    }

    /// Does something with the group of the tree's root.
    fn with<T>(
        &self,
        operation: &'static str,
        path: &Path,
        act: impl FnOnce(&mut GroupWriter, &[&str]) -> Result<T, DssError>,
    ) -> Result<T, StorageError> {
        let names = self.names(operation, path)?;
        let mut groups = lock(&self.groups);
        let done = act(&mut groups[self.root.group], &names);
        done.map_err(|error| self.error(operation, path, error))
    }

    fn names<'a>(
        &self,
        operation: &'static str,
        path: &'a Path,
    ) -> Result<Vec<&'a str>, StorageError> {
        check_path(path).map_err(|e| StorageError::new(operation, &self.display_path(path), e))?;
        let names = path.components().map(|name| name.as_os_str().to_str());
        let names: Option<Vec<&str>> = names.filter(|name| *name != Some(".")).collect();
        names.ok_or_else(|| {
            // Names on volumes are text.
            let name = path.display().to_string();
            self.error(operation, path, DssError::BadName { name })
        })
    }

    /// The node of names below the root.
    fn node(&self, writer: &GroupWriter, names: &[&str]) -> Result<Node, DssError> {
        let mut at = writer.node(self.root.id)?;
        for name in names {
            match at.kind {
                NodeKind::Directory { .. } => {}
                NodeKind::Link { .. } => return Err(DssError::ThroughLink),
                NodeKind::File { .. } => {
                    let path = writer.path_of(at.id);
                    return Err(DssError::NotADirectory { path });
                }
            }
            let child = writer.child(at.id, name);
            let child = child.filter(|child| !is_recycle(child));
            at = child.ok_or_else(|| DssError::NotFound {
                path: format!("{}/{}", self.path, names.join("/")),
            })?;
        }
        Ok(at.clone())
    }

    /// The directory that a path's last name is in, and that name.
    fn parent<'a>(
        &self,
        writer: &GroupWriter,
        names: &[&'a str],
    ) -> Result<(BlockId, &'a str), DssError> {
        let Some((name, before)) = names.split_last() else {
            let path = self.path.clone();
            return Err(DssError::Exists { path });
        };
        let parent = self.node(writer, before)?;
        match parent.kind {
            NodeKind::Directory { .. } => Ok((parent.id, name)),
            NodeKind::Link { .. } => Err(DssError::ThroughLink),
            NodeKind::File { .. } => Err(DssError::NotADirectory {
                path: writer.path_of(parent.id),
            }),
        }
    }

    fn opened(&self, path: &Path, id: BlockId) -> File {
        let mapping = OpenFile {
            groups: Arc::clone(&self.groups),
            place: NodePlace {
                group: self.root.group,
                id,
            },
        };
        File::mapped(self.display_path(path), Box::new(mapping))
    }

    fn sync_all(&self, operation: &'static str, path: &Path) -> Result<(), StorageError> {
        for group in lock(&self.groups).iter_mut() {
            let synced = group.sync();
            synced.map_err(|error| self.error(operation, path, error))?;
        }
        Ok(())
    }
}

fn lock(groups: &Mutex<Vec<GroupWriter>>) -> MutexGuard<'_, Vec<GroupWriter>> {
    groups
        .lock()
        .expect("no thread panics while it holds this lock")
}

fn is_recycle(node: &Node) -> bool {
    node.parent.is_root() && &*node.name == RECYCLE
}

/// The directory of a path with its group, links followed, and its path without them.
fn resolve(groups: &[GroupWriter], path: &str) -> Result<(NodePlace, String), DssError> {
    let split = |path: &str| -> Result<(usize, VecDeque<String>), DssError> {
        let names = path.strip_prefix('+').ok_or_else(|| DssError::NotAPath {
            path: path.to_owned(),
        })?;
        let mut names = names.split('/');
        let name = names.next().unwrap_or_default();
        let group = groups.iter().position(|group| group.name() == name);
        let group = group.ok_or_else(|| DssError::UnknownGroup {
            path: path.to_owned(),
            group: name.escape_debug().to_string(),
        })?;
        let names = names.filter(|name| !name.is_empty()).map(str::to_owned);
        Ok((group, names.collect()))
    };
    let (mut group, mut names) = split(path)?;
    let (mut at, mut links) = (BlockId::ROOT, 0);
    while let Some(name) = names.pop_front() {
        let writer = &groups[group];
        let node = writer.child(at, &name).ok_or_else(|| DssError::NotFound {
            path: path.to_owned(),
        })?;
        if !matches!(node.kind, NodeKind::Link { .. }) {
            at = node.id;
            continue;
        }
        links += 1;
        if links > DSS_LINKS_MAX {
            return Err(DssError::TooManyLinks {
                path: path.to_owned(),
            });
        }
        let (target, mut behind) = split(&writer.link_target(node.id)?)?;
        behind.append(&mut names);
        (group, names, at) = (target, behind, BlockId::ROOT);
    }
    let writer = &groups[group];
    let found = match at.is_root() {
        true => format!("+{}", writer.name()),
        false => writer.path_of(at),
    };
    if !writer.node(at)?.is_directory() {
        return Err(DssError::NotADirectory { path: found });
    }
    Ok((NodePlace { group, id: at }, found))
}

/// The node, if it is a file.
fn file(node: &Node) -> Result<BlockId, DssError> {
    match node.kind {
        NodeKind::File { .. } => Ok(node.id),
        NodeKind::Link { .. } => Err(DssError::ThroughLink),
        NodeKind::Directory { .. } => Err(DssError::NotAFile),
    }
}

impl Storage for DssWriteTree {
    fn display_path(&self, path: &Path) -> PathBuf {
        if path.as_os_str().is_empty() {
            PathBuf::from(&self.path)
        } else {
            Path::new(&self.path).join(path)
        }
    }

    fn open_read(&self, path: &Path, _direct: bool) -> Result<File, StorageError> {
        self.open_write(path, false)
    }

    fn create(&self, path: &Path, _mode: u32, _direct: bool) -> Result<File, StorageError> {
        let id = self.with("create", path, |writer, names| {
            let (parent, name) = self.parent(writer, names)?;
            let Some(node) = writer.child(parent, name).cloned() else {
                return writer.make_file(parent, name);
            };
            let id = file(&node)?;
            writer.set_length(id, 0)?;
            Ok(id)
        })?;
        Ok(self.opened(path, id))
    }

    fn open_write(&self, path: &Path, _direct: bool) -> Result<File, StorageError> {
        let id = self.with("open", path, |writer, names| {
            file(&self.node(writer, names)?)
        })?;
        Ok(self.opened(path, id))
    }

    fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>, StorageError> {
        let file = self.open_read(path, false)?;
        let size = file.size()?;
        if size > limit {
            let too_large = io::ErrorKind::FileTooLarge;
            return Err(StorageError::new("read", file.path(), too_large));
        }
        read_part(&file, 0, size)
    }

    fn read_range(&self, path: &Path, offset: u64, length: usize) -> Result<Vec<u8>, StorageError> {
        let file = self.open_read(path, false)?;
        let there = file.size()?.saturating_sub(offset);
        read_part(&file, offset, there.min(length as u64))
    }

    fn write_durably(&self, path: &Path, _mode: u32, bytes: &[u8]) -> Result<(), StorageError> {
        self.with("replace", path, |writer, names| {
            let (parent, name) = self.parent(writer, names)?;
            if let Some(node) = writer.child(parent, name) {
                file(node)?;
            }
            writer.replace_file(parent, name, bytes)
        })
    }

    fn create_dir(&self, path: &Path, _mode: u32) -> Result<(), StorageError> {
        self.with("create directory", path, |writer, names| {
            if names.is_empty() {
                return Ok(());
            }
            let (parent, name) = self.parent(writer, names)?;
            match writer.child(parent, name) {
                Some(node) if node.is_directory() => Ok(()),
                _ => writer.make_directory(parent, name).map(drop),
            }
        })
    }

    fn set_dir_mode(&self, path: &Path, _mode: u32) -> Result<(), StorageError> {
        self.metadata(path).map(drop)
    }

    fn metadata(&self, path: &Path) -> Result<Metadata, StorageError> {
        self.with("examine", path, |writer, names| {
            let mut node = self.node(writer, names)?;
            node.written_bytes = writer.length(node.id)?;
            Ok(metadata(self.root.group, &node))
        })
    }

    fn list(&self, path: &Path) -> Result<Vec<DirEntry>, StorageError> {
        self.with("list directory", path, |writer, names| {
            let directory = self.node(writer, names)?;
            match directory.kind {
                NodeKind::Directory { .. } => {}
                NodeKind::Link { .. } => return Err(DssError::ThroughLink),
                NodeKind::File { .. } => {
                    let path = writer.path_of(directory.id);
                    return Err(DssError::NotADirectory { path });
                }
            }
            let children = writer.children(directory.id);
            let mut entries = Vec::new();
            for child in children.filter(|child| !is_recycle(child)) {
                let mut child = child.clone();
                child.written_bytes = writer.length(child.id)?;
                entries.push(DirEntry {
                    metadata: metadata(self.root.group, &child),
                    name: String::from(child.name).into(),
                });
            }
            entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            Ok(entries)
        })
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, StorageError> {
        self.with("read link", path, |writer, names| {
            let node = self.node(writer, names)?;
            writer.link_target(node.id).map(PathBuf::from)
        })
    }

    fn symlink(&self, target: &Path, path: &Path) -> Result<(), StorageError> {
        self.with("create link", path, |writer, names| {
            let (parent, name) = self.parent(writer, names)?;
            let target = target.to_str().ok_or_else(|| DssError::BadTarget {
                target: target.display().to_string(),
            })?;
            writer.make_link(parent, name, target).map(drop)
        })
    }

    fn remove_file(&self, path: &Path) -> Result<(), StorageError> {
        self.with("remove", path, |writer, names| {
            let id = self.node(writer, names)?.id;
            writer.remove_file(id)
        })
    }

    fn remove_dir(&self, path: &Path) -> Result<(), StorageError> {
        self.with("remove directory", path, |writer, names| {
            let id = self.node(writer, names)?.id;
            writer.remove_directory(id)
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        let to = self.names("rename", to)?;
        self.with("rename", from, |writer, names| {
            let id = self.node(writer, names)?.id;
            let (parent, name) = self.parent(writer, &to)?;
            writer.rename(id, parent, name)
        })
    }

    fn set_file_mode(&self, path: &Path, _mode: u32) -> Result<(), StorageError> {
        self.metadata(path).map(drop)
    }

    fn sync_dir(&self, path: &Path) -> Result<(), StorageError> {
        self.metadata(path)?;
        self.sync_all("fsync directory", path)
    }

    fn available_bytes(&self) -> Result<u64, StorageError> {
        let groups = lock(&self.groups);
        Ok(groups[self.root.group].available_bytes())
    }

    fn unit_room(&self) -> Result<Option<UnitRoom>, StorageError> {
        let groups = lock(&self.groups);
        Ok(Some(groups[self.root.group].room()))
    }

    fn sync_filesystem(&self) -> Result<(), StorageError> {
        self.sync_all("sync", Path::new(""))
    }
}

/// A file that is open.
#[derive(Debug)]
struct OpenFile {
    groups: Arc<Mutex<Vec<GroupWriter>>>,
    place: NodePlace,
}

impl OpenFile {
    fn with<T>(
        &self,
        act: impl FnOnce(&mut GroupWriter, BlockId) -> Result<T, DssError>,
    ) -> io::Result<T> {
        let mut groups = lock(&self.groups);
        act(&mut groups[self.place.group], self.place.id).map_err(to_io)
    }
}

fn first(ranges: Vec<DeviceRange>) -> Option<Place> {
    match ranges.into_iter().next()? {
        DeviceRange::Zeros { length } => Some(Place::Zeros { length }),
        DeviceRange::Data {
            file,
            offset,
            length,
        } => Some(Place::Device {
            file,
            offset,
            length,
        }),
    }
}

impl Mapping for OpenFile {
    fn size(&self) -> io::Result<u64> {
        self.with(|writer, id| writer.length(id))
    }

    fn place_to_read(&self, offset: u64, length: u64) -> io::Result<Option<Place>> {
        self.with(|writer, id| {
            let end = offset.saturating_add(length).min(writer.length(id)?);
            match offset < end {
                true => writer.ranges(id, offset..end).map(first),
                false => Ok(None),
            }
        })
    }

    fn place_to_write(&self, offset: u64, length: u64) -> io::Result<Place> {
        let place = self.with(|writer, id| {
            let end = offset.saturating_add(length);
            writer.prepare_write(id, offset..end).map(first)
        })?;
        place.ok_or_else(|| io::ErrorKind::WriteZero.into())
    }

    fn written(&self, offset: u64, length: u64) -> io::Result<()> {
        self.with(|writer, id| writer.written(id, offset..offset + length))
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.with(|writer, id| writer.set_length(id, length))
    }

    fn allocate(&self, length: u64) {
        // A hint: what there is no room for shows when it is written.
        let _ = self.with(|writer, id| writer.allocate(id, length));
    }

    fn sync(&self) -> io::Result<()> {
        self.with(GroupWriter::sync_file)
    }
}
