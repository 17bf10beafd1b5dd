//! What a destination has that the backup does not: found by a walk that changes nothing, removed
//! later, deepest first.
//!
//! A restore in place has to end as one into an empty directory does: a relation that was created
//! since, a WAL segment or a `recovery.conf` that stays would be read by the server. The walk
//! follows no link and stays in the trees of the restore. Left alone are
//!
//! * the contents of `pg_log`, hidden names and the restore's own files: no server reads them
//! * in a tablespace what is not this cluster's: directories of other nodes and versions
//! * in the group for logs of shared storage what no instance of this cluster has there
//! * on shared storage what is of other instances, where each has its own
//! * the roots of other trees, wherever they are
//! * what a link of a tablespace that the backup does not have points to
//!
//! A mounted file system that would have to be removed is an error.

use super::super::Error;
use super::destination::SAVED_CONTROL;
use super::plan::{Plan, Tree};
use crate::format::catalog::ContentEntry;
use crate::format::restore_mark::RESTORE_MARK;
use crate::storage::{DirEntry, FileKind, Metadata, Storage, StorageError};
use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a walk found.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Names to remove, those above before those below.
    redundant: Vec<Redundant>,
    /// Links of `pg_tblspc` to remove, after those of the backup are in place.
    links: Vec<PathBuf>,
    /// Directories that keep something, by their tree.
    kept: HashSet<(Tree, PathBuf)>,
    /// Bytes of files that may stay.
    pub(super) present_bytes: u64,
}

#[derive(Debug)]
struct Redundant {
    tree: Tree,
    storage: Arc<dyn Storage>,
    path: PathBuf,
    /// Mode of a directory.
    directory: Option<u32>,
    /// Bytes that it occupies.
    allocated_bytes: u64,
}

/// Whether a name stays.
#[derive(PartialEq, Eq)]
enum Verdict {
    /// It is in the backup.
    Wanted,
    /// It is not the restore's business.
    LeftAlone,
    Redundant,
}

struct Walk<'a> {
    plan: &'a Plan,
    survey: Survey,
    /// Device and inode of the root of each tree.
    roots: HashMap<(u64, u64), Tree>,
    /// Of directories that the restore was told to skip.
    left_alone: HashSet<(u64, u64)>,
}

/// A directory that is being walked.
struct Place {
    tree: Tree,
    storage: Arc<dyn Storage>,
    path: PathBuf,
    /// Whether all that is in it goes.
    redundant: bool,
    device: u64,
}

/// Walks all trees of a restore.
///
/// # Errors
/// When a directory cannot be read.
pub(super) fn survey(plan: &Plan) -> Result<Survey, Error> {
    let mut walk = Walk {
        plan,
        survey: Survey::default(),
        roots: HashMap::new(),
        left_alone: HashSet::new(),
    };
    let mut places = Vec::new();
    for (tree, storage) in plan.trees() {
        let metadata = storage.metadata(Path::new(""))?;
        let identity = (metadata.device, metadata.inode);
        // A tablespace may be an external directory too: the content list has it as that.
        walk.roots.insert(identity, tree);
        places.push(Place {
            tree,
            storage,
            path: PathBuf::new(),
            redundant: false,
            device: metadata.device,
        });
    }
    for path in &plan.left_alone {
        // It may lie in another tree, as a tablespace in the data directory does.
        if let Ok(metadata) = std::fs::metadata(path) {
            walk.left_alone.insert((metadata.dev(), metadata.ino()));
        }
    }
    while let Some(place) = places.pop() {
        let entries = place.storage.list(&place.path)?;
        if matches!(place.tree, Tree::External(_)) && place.path.as_os_str().is_empty() {
            walk.check_external(&place, &entries)?;
        }
        for entry in entries {
            let path = place.path.join(&entry.name);
            if let Some(deeper) = walk.entry(&place, path, &entry.metadata)? {
                places.push(deeper);
            }
        }
    }
    Ok(walk.survey)
}

impl Walk<'_> {
    /// Judges one name; returns the directory to walk next, if it is one.
    fn entry(
        &mut self,
        place: &Place,
        path: PathBuf,
        metadata: &Metadata,
    ) -> Result<Option<Place>, Error> {
        let identity = (metadata.device, metadata.inode);
        let is_root = metadata.kind == FileKind::Directory
            && (self.roots.contains_key(&identity) || self.left_alone.contains(&identity));
        let verdict = if is_root {
            Verdict::LeftAlone
        } else if place.redundant {
            Verdict::Redundant
        } else {
            self.judge(place.tree, &path, metadata)
        };
        match verdict {
            Verdict::LeftAlone => {
                if place.redundant {
                    self.keep_above(place);
                }
                return Ok(None);
            }
            Verdict::Wanted if metadata.kind == FileKind::File => {
                self.survey.present_bytes += metadata.size;
            }
            Verdict::Wanted => {}
            Verdict::Redundant => self.redundant(place, &path, metadata)?,
        }
        if metadata.kind != FileKind::Directory {
            return Ok(None);
        }
        Ok(Some(Place {
            tree: place.tree,
            storage: place.storage.clone(),
            path,
            redundant: verdict == Verdict::Redundant,
            device: metadata.device,
        }))
    }

    /// Refuses an external directory with nothing of the backup in it: it is some other directory,
    /// whose files nobody meant to be removed.
    fn check_external(&self, place: &Place, entries: &[DirEntry]) -> Result<(), Error> {
        let of_backup = |entry: &DirEntry| {
            let name = entry.name.to_str();
            name.is_some_and(|name| self.plan.find_in(place.tree, name).is_some())
        };
        let is_foreign = |entry: &DirEntry| {
            !entry.name.as_encoded_bytes().starts_with(b".") && !of_backup(entry)
        };
        if entries.iter().any(of_backup) || !entries.iter().any(is_foreign) {
            return Ok(());
        }
        let source = std::io::Error::other(
            "it holds files, and none of them is in the backup; empty it, or name another one with \
             --external-mapping",
        );
        let path = place.storage.display_path(Path::new(""));
        Err(StorageError::new("restore to external directory", &path, source).into())
    }

    fn redundant(&mut self, place: &Place, path: &Path, metadata: &Metadata) -> Result<(), Error> {
        let is_directory = metadata.kind == FileKind::Directory;
        if is_directory && metadata.device != place.device {
            let source = std::io::Error::other(
                "another file system is mounted there, which the backup does not have; unmount it",
            );
            let path = place.storage.display_path(path);
            return Err(StorageError::new("remove directory", &path, source).into());
        }
        if place.tree == Tree::Data
            && metadata.kind == FileKind::Symlink
            && path.parent() == Some(Path::new("pg_tblspc"))
        {
            let target = place.storage.read_link(path)?;
            tracing::warn!(
                "the backup has no tablespace \"{}\": its link is removed, \"{}\" is left as it is",
                path.display(),
                target.display()
            );
            self.survey.links.push(path.to_owned());
            return Ok(());
        }
        if metadata.kind == FileKind::Symlink
            && path
                .to_str()
                .is_some_and(|name| self.plan.find_in(place.tree, name).is_some())
        {
            tracing::warn!(
                "\"{}\" is a link where the backup has a file or directory: it is replaced, what \
                 it points to is left as it is",
                place.storage.display_path(path).display()
            );
        }
        self.survey.redundant.push(Redundant {
            tree: place.tree,
            storage: place.storage.clone(),
            path: path.to_owned(),
            directory: is_directory.then_some(metadata.mode),
            allocated_bytes: metadata.allocated_bytes,
        });
        Ok(())
    }

    /// Keeps the directories above something that is left alone.
    fn keep_above(&mut self, place: &Place) {
        for path in place.path.ancestors() {
            self.survey.kept.insert((place.tree, path.to_owned()));
        }
    }

    fn judge(&self, tree: Tree, path: &Path, metadata: &Metadata) -> Verdict {
        // A name that no content list can hold is in none.
        let Some(name) = path.to_str() else {
            return Verdict::Redundant;
        };
        let file_name = name
            .rsplit_once('/')
            .map_or(name, |(_, file_name)| file_name);
        let is_mark = tree == Tree::Data && [RESTORE_MARK, SAVED_CONTROL].contains(&name);
        let is_control = self.plan.is_control_at(tree, name);
        let top = name.split('/').next().unwrap_or_default();
        let is_foreign = tree == Tree::Log && !self.plan.is_in_log(name)
            || tree == Tree::Shared && self.plan.form.is_of_other_instance(top);
        if is_mark || is_control || is_foreign {
            return Verdict::LeftAlone;
        }
        if self.plan.has_link_at(tree, path) {
            // A link to elsewhere is replaced at once, without a moment in which there is none.
            return match metadata.kind {
                FileKind::Symlink => Verdict::LeftAlone,
                _ => Verdict::Redundant,
            };
        }
        if tree == Tree::Shared
            && metadata.kind == FileKind::Directory
            && self.plan.leads_to_tablespace(path)
        {
            return Verdict::Wanted;
        }
        match self.plan.find_in(tree, name) {
            Some(entry) if has_kind(&entry, metadata.kind) => Verdict::Wanted,
            Some(_) => Verdict::Redundant,
            None if file_name.starts_with('.') => Verdict::LeftAlone,
            None if tree == Tree::Data && is_in_log_directory(name) => Verdict::LeftAlone,
            None if is_other_version(tree, name, metadata) => Verdict::LeftAlone,
            None => Verdict::Redundant,
        }
    }
}

fn has_kind(entry: &ContentEntry<'_>, kind: FileKind) -> bool {
    match kind {
        FileKind::Directory => entry.is_directory(),
        FileKind::File => !entry.is_directory(),
        FileKind::Symlink | FileKind::Other => false,
    }
}

fn is_in_log_directory(name: &str) -> bool {
    name == "pg_log" || name.starts_with("pg_log/")
}

/// At the top of a tablespace: whatever the backup does not have may be another node's or another
/// version's. An external directory may be a tablespace.
fn is_other_version(tree: Tree, name: &str, metadata: &Metadata) -> bool {
    let is_top = !name.contains('/');
    match tree {
        Tree::Data | Tree::Shared | Tree::Log => false,
        Tree::Tablespace(_) => is_top,
        Tree::External(_) => {
            is_top && metadata.kind == FileKind::Directory && name.starts_with("PG_")
        }
    }
}

impl Survey {
    /// What will be removed: its tree, whether it is a directory, and the bytes that it occupies.
    pub(super) fn released(&self) -> impl Iterator<Item = (&Arc<dyn Storage>, bool, u64)> {
        let kept = |found: &&Redundant| self.kept.contains(&(found.tree, found.path.clone()));
        let removed = self.redundant.iter().filter(move |found| !kept(found));
        removed.map(|found| {
            let is_directory = found.directory.is_some();
            (&found.storage, is_directory, found.allocated_bytes)
        })
    }

    /// Removes all but links of tablespaces.
    pub(super) fn remove(&self) -> Result<(), Error> {
        let is_external = |found: &&Redundant| matches!(found.tree, Tree::External(_));
        let external = self.redundant.iter().filter(is_external).count();
        if external > 0 {
            tracing::warn!(
                "{external} files and directories that the backup does not have are removed from \
                 external directories"
            );
        }
        // A directory must let its entries go.
        for found in &self.redundant {
            let closed = found.directory.filter(|mode| mode & 0o700 != 0o700);
            if closed.is_some() {
                found.storage.set_dir_mode(&found.path, 0o700)?;
            }
        }
        for found in self.redundant.iter().rev() {
            if self.kept.contains(&(found.tree, found.path.clone())) {
                continue;
            }
            match found.directory {
                Some(_) => found.storage.remove_dir(&found.path)?,
                None => found.storage.remove_file(&found.path)?,
            }
        }
        Ok(())
    }

    /// Removes links to tablespaces that the backup does not have.
    pub(super) fn remove_links(&self, data: &dyn Storage) -> Result<(), Error> {
        for path in &self.links {
            match data.remove_file(path) {
                // A link that was half made, and made again.
                Err(error) if error.is_not_found() => {}
                removed => removed?,
            }
        }
        Ok(())
    }
}
