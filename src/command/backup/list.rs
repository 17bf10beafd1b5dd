//! What a data directory holds and how each of it is backed up: a walk that reads directories only.
//!
//! Rules, in order: hidden names and things that are neither file nor directory are left out with a
//! warning; files that belong to a run (`postmaster.pid`, …) and contents of scratch directories
//! are left out; `pg_tblspc/<oid>` is followed to the tablespace, whose version directories are
//! walked like `base`; other links are followed as the server does.
//!
//! While a server runs, names vanish between one look and the next: a dropped relation, database
//! or tablespace is no error, WAL from the start of the backup repeats the drop. What exists and
//! cannot be read is one.
//!
//! What the instances of a cluster share on volumes is walked by the same rules, as a tree beside
//! the data directory (`shared_list`): both may have the same paths.
//!
//! Of a running server are left out besides:
//!
//! * the label of an exclusive backup, since this one's own label is the server's answer
//! * what a recovering server makes from init forks. After a clean stop it does not recover, so an
//!   offline backup needs these relations.
//! * openGauss's double-write files. A copy of them is of another moment than the pages it was made
//!   of, and torn heads or metadata keep the server from starting. `global/pg_dw.build` takes their
//!   place, at which the server makes them anew; every page of the backup was verified, so that
//!   recovery needs none of theirs. A stopped server's files are whole and are kept.

use super::super::Error;
use super::shared_list::SharedTree;
use crate::format::catalog::{FileType, Root};
use crate::format::page::compressed::{EXTENT_BYTES, EXTENT_DATA_BLOCKS};
use crate::format::relation_path::{
    self, BytePages, DOUBLE_WRITE_REBUILD, FileKind, KeptDirectories, RelationFile,
};
use crate::pipeline::Content;
use crate::storage::{self, Posix, Storage, StorageError};
use crate::types::{PAGE_SIZE, RELSEG_SIZE, ServerFlavor};
use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What to leave out beyond the fixed rules.
#[derive(Clone, Debug)]
pub struct ListOptions {
    /// Whose data directory it is.
    pub flavor: ServerFlavor,
    /// Whether the server runs and recovery from the backup begins at a label.
    pub online: bool,
    /// Whether the contents of `pg_log` are backed up.
    pub pg_log: bool,
    /// Whether the contents of `pg_replslot` are backed up.
    pub pg_replslot: bool,
    /// If given, the replication slots to back up; all of them otherwise. Counts only with
    /// `pg_replslot`.
    pub replication_slots: Option<BTreeSet<String>>,
    /// External directories; a tablespace that is one of them is not walked a second time.
    pub external_dirs: Vec<PathBuf>,
    /// What the instances of the cluster share, if it is on volumes.
    pub shared: Option<SharedTree>,
}

/// A file or directory to back up.
#[derive(Debug)]
pub struct SourceEntry {
    /// Path as the content list has it.
    pub name: Box<str>,
    /// Index into [`SourceTree::roots`].
    pub root: usize,
    /// Path below that root where it is not the name: most of a million entries need none.
    pub path: Option<Box<Path>>,
    /// Full mode, type bits included.
    pub mode: u32,
    /// Bytes; 0 for a directory.
    pub size: u64,
    /// Time of the last change of content, in seconds since 1970.
    pub mtime: i64,
    /// `None` for a directory.
    pub content: Option<Content>,
    /// Database, or 0.
    pub db_oid: u32,
    /// 0 for the data directory, n for the n-th external directory.
    pub external_dir: u32,
    /// What it is on.
    pub file_type: FileType,
}

impl SourceEntry {
    /// The tree that its name is of.
    #[must_use]
    pub fn tree(&self) -> Root {
        match self.file_type {
            FileType::File => Root::of_directory(self.external_dir),
            FileType::Dss => Root::Shared,
        }
    }

    /// Path below the entry's root.
    #[must_use]
    pub fn source_path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(&*self.name))
    }
}

/// A file that is in the backup though not in the data directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GeneratedFile {
    /// Path as the content list has it.
    pub name: String,
    /// What it stands for a file on.
    pub file_type: FileType,
    /// Full mode, type bits included.
    pub mode: u32,
    /// Its content. The list has an entry of an empty file, the backup has no file for it.
    pub bytes: Vec<u8>,
}

/// All that is to be backed up.
#[derive(Debug, Default)]
pub struct SourceTree {
    /// Directory trees that entries are in: the data directory first.
    pub roots: Vec<Arc<dyn Storage>>,
    /// Entries, directories before what is in them.
    pub entries: Vec<SourceEntry>,
    /// Tablespaces that are links: oid and where the link points.
    pub tablespaces: Vec<(u32, String)>,
    /// Files that take the place of some that are left out.
    pub generated: Vec<GeneratedFile>,
}

impl SourceTree {
    /// Sum of file sizes, and 4096 for each directory, as the original estimates, of some trees.
    #[must_use]
    pub fn estimated_bytes(&self, is_wanted: impl Fn(Root) -> bool) -> u64 {
        let entries = self.entries.iter();
        entries
            .filter(|entry| is_wanted(entry.tree()))
            .map(|entry| {
                if entry.content.is_some() {
                    entry.size
                } else {
                    4096
                }
            })
            .sum()
    }
}

/// Lists the data directory and the external directories.
///
/// # Errors
/// When a directory cannot be read or a name cannot be kept in a content list.
///
/// # Panics
/// Never: a command line holds fewer external directories than 2^32.
pub fn list(data_directory: &Path, options: &ListOptions) -> Result<SourceTree, Error> {
    let data: Arc<dyn Storage> = Arc::new(Posix::open(data_directory)?);
    let mut walk = Walk {
        tree: SourceTree {
            roots: vec![data],
            ..SourceTree::default()
        },
        options,
        data_directory: data_directory.to_owned(),
        followed: HashSet::new(),
        double_write: false,
        file_type: FileType::File,
    };
    walk.directory(0, Path::new(""), "", 0)?;
    if walk.double_write {
        walk.generate(DOUBLE_WRITE_REBUILD.to_owned());
    }
    if let Some(shared) = &options.shared {
        walk.shared(shared)?;
    }
    for (index, directory) in options.external_dirs.iter().enumerate() {
        let number = u32::try_from(index + 1).expect("a command line has few directories");
        walk.tree.roots.push(Arc::new(Posix::open(directory)?));
        walk.directory(walk.tree.roots.len() - 1, Path::new(""), "", number)?;
    }
    Ok(walk.tree)
}

pub(super) struct Walk<'a> {
    pub(super) tree: SourceTree,
    options: &'a ListOptions,
    data_directory: PathBuf,
    /// Link targets already walked: a link to a directory above itself must not be followed for
    /// ever.
    pub(super) followed: HashSet<PathBuf>,
    /// Whether double-write files were left out.
    pub(super) double_write: bool,
    /// What is walked at the moment.
    pub(super) file_type: FileType,
}

impl Walk<'_> {
    /// Adds an empty file that takes the place of some that were left out.
    pub(super) fn generate(&mut self, name: String) {
        self.tree.generated.push(GeneratedFile {
            name,
            file_type: self.file_type,
            mode: 0o100_600,
            bytes: Vec::new(),
        });
    }

    /// Walks `path` of a root; its entries are called `name/…`.
    pub(super) fn directory(
        &mut self,
        root: usize,
        path: &Path,
        name: &str,
        external_dir: u32,
    ) -> Result<(), Error> {
        let mut pending = vec![(root, path.to_owned(), name.to_owned())];
        while let Some((root, path, name)) = pending.pop() {
            let storage = self.tree.roots[root].clone();
            let entries = match storage.list(&path) {
                Err(error) if error.is_not_found() && !name.is_empty() => {
                    log_vanished(&name);
                    continue;
                }
                listed => listed?,
            };
            let unlogged = if external_dir == 0 {
                self.unlogged_relations(&name, &entries)
            } else {
                HashSet::new()
            };
            for entry in entries {
                let Some(file_name) = entry.name.to_str() else {
                    let full = storage.display_path(&path.join(&entry.name));
                    return Err(Error::UnstorableName { path: full });
                };
                let child = below(&name, file_name);
                if file_name.starts_with('.') {
                    tracing::warn!("Skip hidden file: '{}'", child.escape_debug());
                    continue;
                }
                if !unlogged.is_empty()
                    && relation_path::is_reset_with(&relation_path::classify(&child))
                        .is_some_and(|relation| unlogged.contains(&relation))
                {
                    continue;
                }
                let found = Found {
                    root,
                    path: path.join(&entry.name),
                    name: child,
                    external_dir,
                };
                if let Some(deeper) = self.entry(&found, &entry.metadata)? {
                    pending.push(deeper);
                }
            }
        }
        Ok(())
    }

    /// The relations of a directory that a recovering server empties.
    fn unlogged_relations(&self, name: &str, entries: &[storage::DirEntry]) -> HashSet<u32> {
        if !self.options.online {
            return HashSet::new();
        }
        let names = entries.iter().filter_map(|entry| entry.name.to_str());
        names
            .filter(|file_name| file_name.contains("_init"))
            .filter_map(|file_name| {
                let found = relation_path::classify(&below(name, file_name));
                relation_path::unlogged_relation(&found)
            })
            .collect()
    }

    /// Whether a file or directory of the data directory stays out of the backup, itself included.
    fn is_left_out(&mut self, name: &str, is_directory: bool) -> bool {
        let options = self.options;
        if let Some(slot) = name.strip_prefix("pg_replslot/")
            && is_directory
            && let Some(slots) = &options.replication_slots
        {
            return !slot.contains('/') && !slots.contains(slot);
        }
        let is_opengauss = options.flavor == ServerFlavor::OpenGauss;
        if self.file_type == FileType::Dss && self.is_left_out_of_shared(name) {
            return true;
        }
        if options.online && is_opengauss && relation_path::is_double_write(name) {
            self.double_write = true;
            return true;
        }
        if is_directory {
            return false;
        }
        relation_path::is_excluded_file(name)
            || (!is_opengauss && relation_path::is_excluded_postgresql_file(name))
            || (options.online && relation_path::is_backup_state_file(name))
    }

    /// Adds one entry; returns the directory to walk next, if it is one.
    pub(super) fn entry(
        &mut self,
        found: &Found,
        metadata: &storage::Metadata,
    ) -> Result<Option<(usize, PathBuf, String)>, Error> {
        let is_directory = metadata.kind == storage::FileKind::Directory;
        if found.external_dir == 0 && self.is_left_out(&found.name, is_directory) {
            return Ok(None);
        }
        match metadata.kind {
            storage::FileKind::Directory => {
                self.add(found, metadata, None);
                Ok(self.is_walked(found).then(|| found.place()))
            }
            storage::FileKind::File => {
                self.add(found, metadata, Some(metadata.size));
                Ok(None)
            }
            storage::FileKind::Symlink => match self.file_type {
                FileType::File => self.link(found),
                FileType::Dss => self.shared_link(found),
            },
            storage::FileKind::Other => {
                tracing::warn!(
                    "Skip '{}': unexpected file format",
                    found.name.escape_debug()
                );
                Ok(None)
            }
        }
    }

    /// Whether the server runs that the files are of.
    pub(super) fn is_online(&self) -> bool {
        self.options.online
    }

    /// What is shared.
    pub(super) fn shared_tree(&self) -> &SharedTree {
        let shared = self.options.shared.as_ref();
        shared.expect("it is walked only where there is one")
    }

    fn is_walked(&self, found: &Found) -> bool {
        if found.external_dir > 0 {
            return true;
        }
        let kept = KeptDirectories {
            log: self.options.pg_log,
            replslot: self.options.pg_replslot,
        };
        if self.file_type == FileType::Dss && self.is_shared_wal(&found.name) {
            return false;
        }
        // A tablespace in the data directory that is an external directory goes into the backup
        // once, as that.
        if self.file_type == FileType::File
            && found.name.starts_with("pg_location/")
            && self.is_external(&self.data_directory.join(&found.name))
        {
            return false;
        }
        !relation_path::is_content_excluded_dir(&found.name, kept)
    }

    fn is_external(&self, path: &Path) -> bool {
        let real = |path: &Path| std::fs::canonicalize(path).ok();
        let mut dirs = self.options.external_dirs.iter();
        dirs.any(|dir| real(dir).is_some_and(|dir| Some(dir) == real(path)))
    }

    pub(super) fn add(&mut self, found: &Found, metadata: &storage::Metadata, size: Option<u64>) {
        let mut db_oid = 0;
        let mut content = None;
        if let Some(size) = size {
            content = Some(Content::Plain);
            if found.external_dir == 0 {
                let class = relation_path::classify(&found.name);
                db_oid = class.db_oid;
                if let FileKind::Relation(relation) = class.kind {
                    content = Some(content_of(&found.name, relation, size));
                } else if let Some(pages) = byte_pages(&found.name, size) {
                    content = Some(Content::BytePages(pages));
                }
            }
        }
        self.tree.entries.push(SourceEntry {
            name: found.name.as_str().into(),
            root: found.root,
            path: (found.path.as_path() != Path::new(&found.name))
                .then(|| found.path.as_path().into()),
            mode: metadata.mode,
            size: size.unwrap_or(0),
            mtime: metadata.mtime,
            content,
            db_oid,
            external_dir: found.external_dir,
            file_type: self.file_type,
        });
    }

    /// A link: a tablespace, or something the administrator moved elsewhere.
    fn link(&mut self, found: &Found) -> Result<Option<(usize, PathBuf, String)>, Error> {
        let storage = self.tree.roots[found.root].clone();
        let full = storage.display_path(&found.path);
        let target = match std::fs::canonicalize(&full) {
            Ok(target) => target,
            Err(_) if is_gone(&*storage, &found.path) => {
                log_vanished(&found.name);
                return Ok(None);
            }
            Err(error) => return Err(StorageError::new("follow link", &full, error).into()),
        };
        let is_directory = target.is_dir();
        let oid = found
            .name
            .strip_prefix("pg_tblspc/")
            .and_then(|oid| oid.parse::<u32>().ok());
        if let (Some(oid), true, 0) = (oid, is_directory, found.external_dir) {
            return self.tablespace(found, oid, &target);
        }
        let (base, path) = if is_directory {
            (target.clone(), PathBuf::new())
        } else {
            let name = target.file_name().map(PathBuf::from).unwrap_or_default();
            (target.parent().unwrap_or(Path::new("/")).to_owned(), name)
        };
        let behind: Arc<dyn Storage> = Arc::new(Posix::open(&base)?);
        let metadata = behind.metadata(&path)?;
        self.tree.roots.push(behind);
        let followed = Found {
            root: self.tree.roots.len() - 1,
            path,
            ..found.clone()
        };
        if is_directory && !self.followed.insert(target.clone()) {
            tracing::warn!(
                "Skip '{}': its target \"{}\" was followed before",
                found.name.escape_debug(),
                target.display()
            );
            return Ok(None);
        }
        self.entry(&followed, &metadata)
    }

    fn tablespace(
        &mut self,
        found: &Found,
        oid: u32,
        target: &Path,
    ) -> Result<Option<(usize, PathBuf, String)>, Error> {
        let behind: Arc<dyn Storage> = Arc::new(Posix::open(target)?);
        let metadata = behind.metadata(Path::new(""))?;
        let link = match self.tree.roots[found.root].read_link(&found.path) {
            Err(error) if error.is_not_found() => {
                log_vanished(&found.name);
                return Ok(None);
            }
            link => link?,
        };
        let Some(path) = link.to_str() else {
            return Err(Error::UnstorableName { path: link });
        };
        self.add(found, &metadata, None);
        self.tree.tablespaces.push((oid, path.to_owned()));
        // A relative tablespace lies in pg_location and is walked there; one that is an external
        // directory is backed up as such. One elsewhere in the data directory is walked twice: its
        // link leads to an absolute place, where a restore has to find its files.
        let relative = self.data_directory.join("pg_location");
        let relative = std::fs::canonicalize(&relative).unwrap_or(relative);
        if target.starts_with(relative) || self.is_external(target) {
            return Ok(None);
        }
        self.tree.roots.push(behind.clone());
        let root = self.tree.roots.len() - 1;
        for entry in behind.list(Path::new(""))? {
            let is_version = entry.metadata.kind == storage::FileKind::Directory
                && entry
                    .name
                    .to_str()
                    .is_some_and(|name| name.starts_with("PG_"));
            if is_version {
                let name = format!("{}/{}", found.name, entry.name.display());
                let path = PathBuf::from(&entry.name);
                let version = Found {
                    root,
                    path,
                    name,
                    external_dir: 0,
                };
                self.add(&version, &entry.metadata, None);
                self.directory(root, &version.path, &version.name, 0)?;
            }
        }
        Ok(None)
    }
}

fn below(directory: &str, name: &str) -> String {
    if directory.is_empty() {
        name.to_owned()
    } else {
        format!("{directory}/{name}")
    }
}

pub(super) fn log_vanished(name: &str) {
    tracing::debug!("\"{}\" vanished while it was listed", name.escape_debug());
}

/// Whether the name itself, not only what it points to, is no longer there.
fn is_gone(storage: &dyn Storage, path: &Path) -> bool {
    storage
        .metadata(path)
        .is_err_and(|error| error.is_not_found())
}

/// How a file is treated that has the name of a relation's.
///
/// No server makes a segment file larger than its limit, and the catalog format has no room for the
/// positions of more pages: such a file is copied as bytes.
fn content_of(name: &str, relation: RelationFile, size: u64) -> Content {
    let unit = if relation.compressed {
        EXTENT_BYTES
    } else {
        PAGE_SIZE
    };
    let unit = u64::try_from(unit).expect("an extent is small");
    let blocks_per_unit = if relation.compressed {
        u64::from(EXTENT_DATA_BLOCKS)
    } else {
        1
    };
    if size / unit * blocks_per_unit > u64::from(RELSEG_SIZE) {
        tracing::warn!(
            "File: \"{}\" of {size} bytes is larger than a segment file: its pages are not checked",
            name.escape_debug()
        );
        return Content::Plain;
    }
    if !size.is_multiple_of(unit) {
        // Also the server does not look at what is behind the last whole page.
        tracing::warn!(
            "File: \"{}\", invalid file size {size}: what is behind its last page is left out",
            name.escape_debug()
        );
    }
    match relation.compressed {
        true if size > 0 => Content::CompressedPages(relation.segno),
        _ => Content::Pages(relation.segno),
    }
}

/// The pages of a file that is stored as bytes; none where it is larger than such a file can be,
/// since nothing is known of it then.
fn byte_pages(name: &str, size: u64) -> Option<BytePages> {
    let pages = relation_path::byte_pages(name)?;
    let page = u64::try_from(PAGE_SIZE).expect("a page is small");
    (size / page <= u64::from(pages.segment_blocks)).then_some(pages)
}

/// Where the walk is.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) root: usize,
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) external_dir: u32,
}

impl Found {
    fn place(&self) -> (usize, PathBuf, String) {
        (self.root, self.path.clone(), self.name.clone())
    }
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
