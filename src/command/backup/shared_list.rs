//! The part of the walk that is on volumes: what the instances of a cluster share.
//!
//! Rules beyond those of data directories:
//!
//! * Links are those that the servers make. `pg_tblspc/<oid>` leads to `pg_location`, which is
//!   walked for itself, or elsewhere; others lead to directories of the group for logs, and are
//!   directories in the backup. A restore makes the links again.
//! * Where each instance has WAL and double-write files of its own, those of the others stay out:
//!   `pg_xlog1`, `pg_doublewrite1`.
//! * Of a running server the double-write files stay out, as those of a data directory do, and
//!   `pg_dw.build` takes their place.

use super::super::Error;
use super::list::{Found, Walk, log_vanished};
use crate::command::cluster_control::ControlForm;
use crate::format::catalog::FileType;
use crate::format::relation_path::is_double_write;
use crate::storage::dss::DssTree;
use crate::storage::{self, Storage};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the instances of a cluster share.
#[derive(Clone, Debug)]
pub struct SharedTree {
    /// The group for data.
    pub(super) tree: DssTree,
    /// Where the cluster has what, and whose it is.
    pub(super) form: ControlForm,
}

/// Directories of which older clusters have one for each instance, and newer ones one for all.
const OF_INSTANCES: [&str; 2] = [WAL, DOUBLE_WRITE];
const WAL: &str = "pg_xlog";
const DOUBLE_WRITE: &str = "pg_doublewrite";

impl Walk<'_> {
    /// Walks the group for data.
    pub(super) fn shared(&mut self, shared: &SharedTree) -> Result<(), Error> {
        self.file_type = FileType::Dss;
        self.double_write = false;
        self.tree.roots.push(Arc::new(shared.tree.clone()));
        let root = self.tree.roots.len() - 1;
        self.directory(root, Path::new(""), "", 0)?;
        if self.double_write {
            let directory = shared.form.directory_of_instance(DOUBLE_WRITE);
            self.generate(format!("{directory}/pg_dw.build"));
        }
        self.file_type = FileType::File;
        Ok(())
    }

    /// Whether a path stays out of the backup because it is another instance's or would not fit the
    /// pages of the backup.
    pub(super) fn is_left_out_of_shared(&mut self, name: &str) -> bool {
        let form = self.shared_tree().form;
        let (top, below) = name.split_once('/').unwrap_or((name, ""));
        for directory in OF_INSTANCES {
            let number = top.strip_prefix(directory);
            let is_number = number.is_some_and(|number| {
                !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
            });
            if is_number && top != form.directory_of_instance(directory) {
                return true;
            }
        }
        // The files have the names that they have below a data directory.
        let is_double_write = top == form.directory_of_instance(DOUBLE_WRITE)
            && is_double_write(&format!("global/{below}"));
        if self.is_online() && is_double_write {
            self.double_write = true;
            return true;
        }
        false
    }

    /// Whether a directory is that of the WAL.
    pub(super) fn is_shared_wal(&self, name: &str) -> bool {
        name == self.shared_tree().form.directory_of_instance(WAL)
    }

    /// A link that a server made.
    pub(super) fn shared_link(
        &mut self,
        found: &Found,
    ) -> Result<Option<(usize, PathBuf, String)>, Error> {
        let Some((target, behind)) = self.behind(found)? else {
            return Ok(None);
        };
        let metadata = behind.metadata(Path::new(""))?;
        let oid = found.name.strip_prefix("pg_tblspc/");
        if let Some(oid) = oid.and_then(|oid| oid.parse::<u32>().ok()) {
            self.add(found, &metadata, None);
            self.tree.tablespaces.push((oid, target.clone()));
            let relative = format!("{}/pg_location/", self.shared_tree().tree.root());
            if !behind.root().starts_with(&relative) {
                self.shared_tablespace(found, &behind)?;
            }
            return Ok(None);
        }
        if !self.followed.insert(PathBuf::from(behind.root())) {
            tracing::warn!(
                "Skip '{}': its target \"{}\" was followed before",
                found.name.escape_debug(),
                target.escape_debug()
            );
            return Ok(None);
        }
        self.tree.roots.push(Arc::new(behind));
        let followed = Found {
            root: self.tree.roots.len() - 1,
            path: PathBuf::new(),
            ..found.clone()
        };
        self.entry(&followed, &metadata)
    }

    /// Where a link leads, in words and as a tree; `None` where it is gone.
    fn behind(&self, found: &Found) -> Result<Option<(String, DssTree)>, Error> {
        let path = Path::new(&found.name);
        let storage = self.tree.roots[found.root].clone();
        let target = match storage.read_link(&found.path) {
            Err(error) if error.is_not_found() => {
                log_vanished(&found.name);
                return Ok(None);
            }
            target => target?,
        };
        let Some(target) = target.to_str().map(str::to_owned) else {
            return Err(Error::UnstorableName { path: target });
        };
        match self.shared_tree().tree.tree(&target) {
            Ok(tree) => Ok(Some((target, tree))),
            // Gone since it was listed, with what it leads to.
            Err(error) if error.is_not_found() && is_gone(&*storage, &found.path) => {
                log_vanished(&path.display().to_string());
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Walks the version directories of a tablespace that is not walked otherwise.
    fn shared_tablespace(&mut self, found: &Found, behind: &DssTree) -> Result<(), Error> {
        self.tree.roots.push(Arc::new(behind.clone()));
        let root = self.tree.roots.len() - 1;
        for entry in behind.list(Path::new(""))? {
            let name = entry.name.to_str().filter(|name| name.starts_with("PG_"));
            let Some(name) = name.filter(|_| is_directory(&entry)) else {
                continue;
            };
            let version = Found {
                root,
                path: PathBuf::from(name),
                name: format!("{}/{name}", found.name),
                external_dir: 0,
            };
            self.add(&version, &entry.metadata, None);
            self.directory(root, &version.path, &version.name, 0)?;
        }
        Ok(())
    }
}

fn is_directory(entry: &storage::DirEntry) -> bool {
    entry.metadata.kind == storage::FileKind::Directory
}

fn is_gone(storage: &dyn Storage, path: &Path) -> bool {
    storage
        .metadata(path)
        .is_err_and(|error| error.is_not_found())
}
