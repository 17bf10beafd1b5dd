//! What a restore does on shared storage.
//!
//! Directories of WAL and replication are in the group for logs, if that is another one, and links
//! to them in the group for data. Tablespaces are directories below `pg_location` of the group for
//! data, with links in `pg_tblspc`; the original lists their files by both names.

use super::super::Error;
use super::super::cluster_control::CONTROL_FILE_BYTES_MAX;
use super::super::shared_storage::SharedStorage;
use super::destination::CONTROL_BACKUP;
use super::plan::{Directory, Link, Place, Plan, Tree};
use crate::format::catalog::{ContentEntry, Root};
use crate::pipeline::{MemberFile, PipelineError};
use crate::storage::Storage;
use crate::types::Location;
use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl Plan {
    /// Directories of tablespaces on shared storage that the list knows only behind their links.
    pub(super) fn add_directories_of_tablespaces(&mut self) {
        let Some(shared) = &self.shared else {
            return;
        };
        let known = self.directories.iter();
        let known = known.filter(|directory| Arc::ptr_eq(&directory.storage, &shared.data));
        let known: HashSet<PathBuf> = known.map(|directory| directory.path.clone()).collect();
        let mut missing = Vec::new();
        for (_, directory) in &self.shared_tablespaces {
            for path in directory.ancestors() {
                let path = path.to_owned();
                let is_root = path.as_os_str().is_empty();
                if !is_root && !known.contains(&path) && !missing.contains(&path) {
                    missing.push(path);
                }
            }
        }
        let storage = &shared.data;
        let missing = missing.into_iter().map(|path| Directory {
            storage: storage.clone(),
            path,
            mode: 0o700,
        });
        self.directories.extend(missing);
    }

    /// In the group for data, links to the directories that are in the one for logs.
    pub(super) fn add_links_to_logs(&mut self) {
        let Some((shared, log)) = self.log() else {
            return;
        };
        let (storage, group) = (shared.data.clone(), format!("+{}", shared.log_group));
        let is_top = |directory: &&Directory| {
            Arc::ptr_eq(&directory.storage, log) && directory.path.components().count() == 1
        };
        let top = self.directories.iter().filter(is_top);
        let links: Vec<Link> = top
            .map(|directory| Link {
                tree: Tree::Shared,
                storage: storage.clone(),
                path: directory.path.clone(),
                target: Path::new(&group).join(&directory.path),
            })
            .collect();
        self.links.extend(links);
    }

    /// The groups, and the one for logs, where that is another one.
    pub(super) fn log(&self) -> Option<(&SharedStorage, &Arc<dyn Storage>)> {
        let shared = self.shared.as_ref()?;
        Some((shared, shared.log.as_ref()?))
    }

    /// Whether the control file belongs at a path of a tree.
    pub(super) fn is_control_at(&self, tree: Tree, path: &str) -> bool {
        let root = match tree {
            Tree::Data => Root::Data,
            Tree::Shared => Root::Shared,
            _ => return false,
        };
        let is_second = tree == Tree::Shared && path == CONTROL_BACKUP;
        root == self.form.root() && (path == self.form.path() || is_second)
    }

    /// Whether an entry below a link of a tablespace on shared storage is there once more where the
    /// link leads to: the original lists both.
    pub(super) fn is_listed_twice(&self, entry: &ContentEntry<'_>, path: &Path) -> bool {
        entry.root() == Root::Shared
            && Path::new(&*entry.path) != path
            && path
                .to_str()
                .is_some_and(|path| self.newest().list.find(path, Root::Shared).is_some())
    }

    /// Whether a directory of the group for data leads to that of a tablespace, or is it.
    pub(super) fn leads_to_tablespace(&self, path: &Path) -> bool {
        let mut directories = self.shared_tablespaces.iter();
        directories.any(|(_, directory)| directory.starts_with(path))
    }

    /// What the backup has at a path of the group for data.
    pub(super) fn find_shared(&self, path: &str) -> Option<ContentEntry<'_>> {
        let list = &self.newest().list;
        list.find(path, Root::Shared).or_else(|| {
            self.shared_tablespaces.iter().find_map(|(oid, directory)| {
                let rest = Path::new(path).strip_prefix(directory).ok()?.to_str()?;
                list.find(&format!("pg_tblspc/{oid}/{rest}"), Root::Shared)
            })
        })
    }

    /// Whether a path of the group for data belongs into the one for logs.
    pub(super) fn is_in_log(&self, path: &str) -> bool {
        let top = path.split('/').next().unwrap_or_default();
        self.shared.is_some() && self.form.is_log_directory(top)
    }

    /// Where a path of shared storage goes; `below` is what it is below a tablespace's link.
    pub(super) fn locate_shared(
        &self,
        path: PathBuf,
        below: Option<(&str, &str)>,
    ) -> Result<Place, Error> {
        let Some(shared) = &self.shared else {
            return Err(Error::OtherStorage {
                id: self.newest().id,
            });
        };
        if let Some((oid, rest)) = below {
            let mut tablespaces = self.shared_tablespaces.iter();
            if let Some((_, to)) = tablespaces.find(|(known, _)| known.to_string() == oid) {
                return Ok((Tree::Shared, shared.data.clone(), to.join(rest)));
            }
        }
        Ok(match &shared.log {
            Some(log) if path.to_str().is_some_and(|path| self.is_in_log(path)) => {
                (Tree::Log, log.clone(), path)
            }
            _ => (Tree::Shared, shared.data.clone(), path),
        })
    }

    /// The groups that files went to.
    pub(super) fn shared_roots(&self) -> impl Iterator<Item = &Arc<dyn Storage>> {
        let shared = self.shared.iter();
        shared.flat_map(|shared| std::iter::once(&shared.data).chain(&shared.log))
    }

    /// The tree that has the cluster's WAL.
    pub(super) fn wal_tree(&self) -> &Arc<dyn Storage> {
        match (&self.shared, self.log()) {
            (_, Some((_, log))) => log,
            (Some(shared), None) => &shared.data,
            (None, None) => &self.data,
        }
    }
}

/// Writes the control file of shared storage so that none is there before all of it is: names
/// cannot be exchanged on a volume, and what a new file holds may be an older control file. The
/// page that counts is zeros until everything else is durable, and no server takes such a page.
pub(super) fn write_shared_control(
    tree: &dyn Storage,
    path: &Path,
    page: Range<usize>,
    bytes: &[u8],
) -> Result<(), Error> {
    let counts = bytes.get(page.clone()).unwrap_or_default();
    let mut without = bytes.to_vec();
    without[page.start..page.start + counts.len()].fill(0);
    let file = tree.create(path, 0o600, false)?;
    file.write_all_at(&without, 0)?;
    file.sync()?;
    file.write_all_at(counts, page.start as u64)?;
    file.sync()?;
    Ok(tree.sync_dir(Path::new(""))?)
}

/// Writes the server's second copy of the control file, which may only be there after the first.
pub(super) fn write_control_backup(tree: &dyn Storage, member: &MemberFile) -> Result<(), Error> {
    let bytes = member.storage.read(&member.path, CONTROL_FILE_BYTES_MAX)?;
    let found = crc32c::crc32c(&bytes);
    if member.crc.is_some_and(|expected| expected != found) {
        return Err(Error::Pipeline(PipelineError::DamagedBackup {
            location: Location::file(member.display_path()),
            detail: format!("Invalid CRC: {found:X}"),
        }));
    }
    let file = tree.create(Path::new(CONTROL_BACKUP), 0o600, false)?;
    file.write_all_at(&bytes, 0)?;
    file.sync()?;
    Ok(tree.sync_dir(Path::new(""))?)
}
