//! What a data directory holds and how each of it is backed up: a walk that reads directories only.
//!
//! Rules, in order: hidden names and things that are neither file nor directory are left out with a
//! warning; files that belong to a run (`postmaster.pid`, …) and contents of scratch directories
//! are left out; `pg_tblspc/<oid>` is followed to the tablespace, whose version directories are
//! walked like `base`; other links are followed as the server does.

use super::super::Error;
use crate::format::relation_path::{self, FileKind, KeptDirectories};
use crate::pipeline::Content;
use crate::storage::{self, Posix, Storage};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What to leave out beyond the fixed rules.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Whether the contents of `pg_log` are backed up.
    pub pg_log: bool,
    /// Whether the contents of `pg_replslot` are backed up.
    pub pg_replslot: bool,
    /// External directories; a tablespace that is one of them is not walked a second time.
    pub external_dirs: Vec<PathBuf>,
}

/// A file or directory to back up.
#[derive(Debug)]
pub struct SourceEntry {
    /// Path as the content list has it.
    pub name: Box<str>,
    /// Index into [`SourceTree::roots`].
    pub root: usize,
    /// Path below that root.
    pub path: PathBuf,
    /// Full mode, type bits included.
    pub mode: u32,
    /// Bytes; 0 for a directory.
    pub size: u64,
    /// `None` for a directory.
    pub content: Option<Content>,
    /// Database, or 0.
    pub db_oid: u32,
    /// 0 for the data directory, n for the n-th external directory.
    pub external_dir: u32,
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
}

impl SourceTree {
    /// Sum of file sizes, and 4096 for each directory, as the original estimates: of the data
    /// directory alone, or of the external directories alone.
    #[must_use]
    pub fn estimated_bytes(&self, external: bool) -> u64 {
        let of_kind = self
            .entries
            .iter()
            .filter(|entry| (entry.external_dir > 0) == external);
        of_kind
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
    };
    walk.directory(0, Path::new(""), "", 0)?;
    for (index, directory) in options.external_dirs.iter().enumerate() {
        let number = u32::try_from(index + 1).expect("a command line has few directories");
        walk.tree.roots.push(Arc::new(Posix::open(directory)?));
        walk.directory(walk.tree.roots.len() - 1, Path::new(""), "", number)?;
    }
    Ok(walk.tree)
}

struct Walk<'a> {
    tree: SourceTree,
    options: &'a ListOptions,
    data_directory: PathBuf,
    /// Link targets already walked: a link to a directory above itself must not be followed for
    /// ever.
    followed: HashSet<PathBuf>,
}

impl Walk<'_> {
    /// Walks `path` of a root; its entries are called `name/…`.
    fn directory(
        &mut self,
        root: usize,
        path: &Path,
        name: &str,
        external_dir: u32,
    ) -> Result<(), Error> {
        let mut pending = vec![(root, path.to_owned(), name.to_owned())];
        while let Some((root, path, name)) = pending.pop() {
            let storage = self.tree.roots[root].clone();
            for entry in storage.list(&path)? {
                let Some(file_name) = entry.name.to_str() else {
                    let full = storage.display_path(&path.join(&entry.name));
                    return Err(Error::UnstorableName { path: full });
                };
                let child = if name.is_empty() {
                    file_name.to_owned()
                } else {
                    format!("{name}/{file_name}")
                };
                if file_name.starts_with('.') {
                    tracing::warn!("Skip hidden file: '{}'", child.escape_debug());
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

    /// Adds one entry; returns the directory to walk next, if it is one.
    fn entry(
        &mut self,
        found: &Found,
        metadata: &storage::Metadata,
    ) -> Result<Option<(usize, PathBuf, String)>, Error> {
        match metadata.kind {
            storage::FileKind::Directory => {
                self.add(found, metadata, None);
                Ok(self.is_walked(found).then(|| found.place()))
            }
            storage::FileKind::File => {
                if found.external_dir == 0 && relation_path::is_excluded_file(&found.name) {
                    return Ok(None);
                }
                self.add(found, metadata, Some(metadata.size));
                Ok(None)
            }
            storage::FileKind::Symlink => self.link(found),
            storage::FileKind::Other => {
                tracing::warn!(
                    "Skip '{}': unexpected file format",
                    found.name.escape_debug()
                );
                Ok(None)
            }
        }
    }

    fn is_walked(&self, found: &Found) -> bool {
        if found.external_dir > 0 {
            return true;
        }
        let kept = KeptDirectories {
            log: self.options.pg_log,
            replslot: self.options.pg_replslot,
        };
        !relation_path::is_content_excluded_dir(&found.name, kept)
    }

    fn add(&mut self, found: &Found, metadata: &storage::Metadata, size: Option<u64>) {
        let mut db_oid = 0;
        let mut content = None;
        if let Some(size) = size {
            content = Some(Content::Plain);
            if found.external_dir == 0 {
                let class = relation_path::classify(&found.name);
                db_oid = class.db_oid;
                if let FileKind::Relation(relation) = class.kind {
                    content = Some(match relation.compressed {
                        true if size > 0 => Content::CompressedPages(relation.segno),
                        _ => Content::Pages(relation.segno),
                    });
                }
            }
        }
        self.tree.entries.push(SourceEntry {
            name: found.name.as_str().into(),
            root: found.root,
            path: found.path.clone(),
            mode: metadata.mode,
            size: size.unwrap_or(0),
            content,
            db_oid,
            external_dir: found.external_dir,
        });
    }

    /// A link: a tablespace, or something the administrator moved elsewhere.
    fn link(&mut self, found: &Found) -> Result<Option<(usize, PathBuf, String)>, Error> {
        let storage = self.tree.roots[found.root].clone();
        let full = storage.display_path(&found.path);
        let target = std::fs::canonicalize(&full)
            .map_err(|error| storage::StorageError::new("follow link", &full, error))?;
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
        self.add(found, &metadata, None);
        let link = self.tree.roots[found.root].read_link(&found.path)?;
        let Some(path) = link.to_str() else {
            return Err(Error::UnstorableName { path: link });
        };
        self.tree.tablespaces.push((oid, path.to_owned()));
        // A relative tablespace lies in pg_location and is walked there; one that is an external
        // directory is backed up as such.
        let data_directory = std::fs::canonicalize(&self.data_directory)
            .unwrap_or_else(|_| self.data_directory.clone());
        let is_external = self
            .options
            .external_dirs
            .iter()
            .any(|dir| std::fs::canonicalize(dir).is_ok_and(|dir| dir == target));
        if target.starts_with(data_directory) || is_external {
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

/// Where the walk is.
#[derive(Clone)]
struct Found {
    root: usize,
    path: PathBuf,
    name: String,
    external_dir: u32,
}

impl Found {
    fn place(&self) -> (usize, PathBuf, String) {
        (self.root, self.path.clone(), self.name.clone())
    }
}
