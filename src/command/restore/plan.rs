//! What a restore will create: directories, links and, for each file, where its bytes are in the
//! chain.
//!
//! A path of the content list belongs to one of several kinds of target tree: the data directory, a
//! tablespace (everything below `pg_tblspc/<oid>` of a tablespace that is a link), an external
//! directory, the volume groups of shared storage (`shared.rs`). Each tree is opened by itself, so
//! that no name in a backup leads out of it.

use super::super::Error;
use super::super::cluster_control::{CONTROL_FILE_BYTES_MAX, ClusterControl, ControlForm};
use super::super::copies;
use super::super::merge::{self, OverwrittenFiles};
use super::super::shared_storage::SharedStorage;
use super::super::validate::{Stores, is_control_file};
use super::Options;
use super::destination::CONTROL_BACKUP;
use super::destination::SAVED_CONTROL;
use super::mapping::{apply, is_relative};
use super::shared::{write_control_backup, write_shared_control};
use crate::catalog::{BackupDir, BackupEntry};
use crate::format::catalog::{
    BackupControl, CompressedAttributes, ContentEntry, ContentList, EntrySize, Root, StorageType,
};
use crate::format::restore_mark::RESTORE_MARK;
use crate::format::tablespace_map::{self, TablespaceMapError};
use crate::pipeline::{ChainFile, ChainMember, Existing, MemberFile, RebuildItem, RestoreItem};
use crate::storage::{Posix, Storage, create_directory_durably};
use crate::types::{BackupId, Lsn, SegmentNumber, ServerFlavor, TimelineId};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Everything a restore will do.
#[derive(Debug)]
pub(super) struct Plan {
    /// The data directory.
    pub(super) data: Arc<dyn Storage>,
    /// The volume groups of a cluster on shared storage.
    pub(super) shared: Option<SharedStorage>,
    /// Where the control file is and how it is read.
    pub(super) form: ControlForm,
    /// Tablespaces in the group for data: oid and directory.
    pub(super) shared_tablespaces: Vec<(u32, PathBuf)>,
    pub(super) tablespaces: Vec<(u32, Arc<dyn Storage>)>,
    pub(super) external: Vec<Option<Arc<dyn Storage>>>,
    /// External directories that are skipped.
    pub(super) left_alone: Vec<PathBuf>,
    /// Links of tablespaces.
    pub(super) links: Vec<Link>,
    /// Directories, those above before those below.
    pub(super) directories: Vec<Directory>,
    /// The backups of the chain, newest first.
    members: Vec<Member>,
    /// The files to restore, largest first.
    pub(super) files: Vec<PlannedFile>,
    /// What is where they go, in their order; empty where there is nothing.
    pub(super) existing: Vec<Existing>,
    control_file: Option<(MemberFile, u32)>,
    /// The server's second copy of it on shared storage.
    control_backup: Option<MemberFile>,
    /// Bytes of all files.
    pub(super) bytes: u64,
}

/// One of the trees that a restore writes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Tree {
    /// The data directory.
    Data,
    /// The group for data of shared storage.
    Shared,
    /// The group for logs of shared storage, if it is another one.
    Log,
    /// A tablespace, by its oid.
    Tablespace(u32),
    /// An external directory, by its number.
    External(u32),
}

/// A link to a tablespace, or between volume groups.
#[derive(Debug)]
pub(super) struct Link {
    /// The tree that it is in.
    pub(super) tree: Tree,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) path: PathBuf,
    pub(super) target: PathBuf,
}

/// A directory to create.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) path: PathBuf,
    pub(super) mode: u32,
}

/// A file to restore; what else there is to know of it is worked out anew when its turn comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlannedFile {
    /// Its place in the newest content list.
    index: usize,
    /// Bytes that it will have, unpacked.
    pub(super) bytes: u64,
}

/// A tree and a path in it.
pub(super) type Place = (Tree, Arc<dyn Storage>, PathBuf);

/// The tablespaces of the last backup of a chain: oid and place. An increment may have its map as
/// unchanged; then it is the one of the newest parent that has one.
pub(super) fn tablespaces(chain: &[BackupEntry]) -> Result<Vec<(u32, String)>, Error> {
    let has_map = |entry: &BackupEntry| find_tablespace_map(&entry.open()).is_some();
    for (index, entry) in chain.iter().enumerate().rev() {
        let dir = entry.open();
        if let Some(root) = find_tablespace_map(&dir) {
            return read_tablespace_map(&root);
        }
        // The list is read only where its answer matters.
        if !chain[..index].iter().any(has_map) {
            break;
        }
        let list = dir.read_content_list(super::choose::control(entry)?.content_crc)?;
        let listed = list.find(TABLESPACE_MAP, Root::Data);
        if listed.is_none_or(|listed| listed.size != EntrySize::Unchanged) {
            break;
        }
    }
    Ok(Vec::new())
}

const TABLESPACE_MAP: &str = "tablespace_map";

/// The directory in which the backup's own tablespace map is.
fn find_tablespace_map(dir: &BackupDir) -> Option<PathBuf> {
    let staged = dir.staged().map(|staged| staged.database());
    let mut roots = staged.into_iter().chain([dir.database()]);
    roots.find(|root| root.join(TABLESPACE_MAP).symlink_metadata().is_ok())
}

fn read_tablespace_map(root: &Path) -> Result<Vec<(u32, String)>, Error> {
    let path = Path::new(TABLESPACE_MAP);
    let database = Posix::open(root)?;
    match database.read(path, 16 * 1024 * 1024) {
        Ok(bytes) => tablespace_map::parse(&bytes).map_err(|source| Error::BadTablespaceMap {
            path: database.display_path(path),
            source,
        }),
        Err(error) => Err(error.into()),
    }
}

/// The directory of a tablespace in the group for data, which no `other` has.
pub(super) fn shared_tablespace(place: &str, others: &[(u32, PathBuf)]) -> Result<PathBuf, Error> {
    let off_shared = || Error::TablespaceOffShared {
        path: place.to_owned(),
    };
    let at = place.find("/pg_location/").filter(|_| is_relative(place));
    let directory = PathBuf::from(&place[at.ok_or_else(off_shared)? + 1..]);
    let is_known = others.iter().any(|(_, known)| *known == directory);
    if directory.components().count() < 2 || is_known {
        return Err(off_shared());
    }
    Ok(directory)
}

/// The external directories of a backup, in the order of their numbers.
pub(super) fn external_dirs(control: &BackupControl) -> Vec<PathBuf> {
    let text = control.external_dirs.as_deref().unwrap_or("");
    text.split(':')
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .collect()
}

/// A backup of the chain, opened.
#[derive(Debug)]
pub(in crate::command) struct Member {
    pub(in crate::command) id: BackupId,
    pub(in crate::command) list: ContentList,
    pub(in crate::command) stores: Stores,
    external: Vec<PathBuf>,
    /// Its WAL history.
    pub(super) timeline: TimelineId,
    /// Where its WAL begins.
    pub(super) start_lsn: Lsn,
    /// Where it ended.
    pub(super) stop_lsn: Lsn,
    overwritten: Option<Overwritten>,
}

/// Files of a merge's result that are being written over those of the FULL backup.
#[derive(Debug)]
struct Overwritten {
    files: OverwrittenFiles,
    /// The members of the merge, newest first.
    chain: Vec<Member>,
}

impl Member {
    pub(in crate::command) fn open(entry: &BackupEntry) -> Result<Member, Error> {
        let control = super::choose::control(entry)?;
        let dir = entry.open();
        let list = dir.read_content_list(control.content_crc)?;
        let stores = Stores::open(&dir, &control, &list)?;
        let overwritten = match merge::being_overwritten(entry) {
            None => None,
            Some((files, chain)) => Some(Overwritten {
                files,
                chain: chain.iter().map(Member::open).collect::<Result<_, _>>()?,
            }),
        };
        Ok(Member {
            id: entry.id,
            list,
            stores,
            external: external_dirs(&control),
            timeline: control.timeline,
            start_lsn: control.start_lsn,
            stop_lsn: control.stop_lsn,
            overwritten,
        })
    }

    /// The members of a merge to take this file of its result from, newest first, while it is being
    /// overwritten in the FULL backup.
    pub(in crate::command) fn merged_from(&self, entry: &ContentEntry<'_>) -> Option<&[Member]> {
        let overwritten = self.overwritten.as_ref()?;
        let file = (entry.root(), entry.path.to_string());
        let is_affected = overwritten.files.contains(&file);
        is_affected.then_some(&overwritten.chain)
    }

    /// The entry of the same file in this member; external directories are told by path, not by
    /// number.
    pub(in crate::command) fn find(
        &self,
        entry: &ContentEntry<'_>,
        newest: &Member,
    ) -> Option<ContentEntry<'_>> {
        let root = match entry.root() {
            Root::External(number) => {
                let number = usize::try_from(number).ok()?;
                let path = newest.external.get(number.checked_sub(1)?)?;
                let place = self.external.iter().position(|other| other == path)?;
                Root::External(u32::try_from(place + 1).ok()?)
            }
            root => root,
        };
        self.list.find(&entry.path, root)
    }
}

impl Plan {
    /// Reads the content lists of `chain` (FULL first), opens the target trees and decides what
    /// goes where.
    pub(super) fn new(
        chain: &[BackupEntry],
        options: &Options,
        data_directory: &Path,
        shared: Option<SharedStorage>,
    ) -> Result<Plan, Error> {
        let members: Result<Vec<Member>, Error> = chain.iter().rev().map(Member::open).collect();
        let members = members?;
        let newest = members.first().expect("a chain has a member");
        let storage = match &shared {
            Some(_) => StorageType::Dss,
            None => StorageType::File,
        };
        let top = newest.list.iter();
        let top = top.filter(|entry| entry.root() == Root::Shared && entry.is_directory());
        let top: Vec<String> = top.map(|entry| entry.path.into_owned()).collect();
        let mut plan = Plan {
            data: open_root(data_directory)?,
            shared,
            form: ControlForm::of_cluster(storage, top.iter().map(String::as_str)),
            shared_tablespaces: Vec::new(),
            tablespaces: Vec::new(),
            external: Vec::new(),
            left_alone: Vec::new(),
            links: Vec::new(),
            directories: Vec::new(),
            members,
            files: Vec::new(),
            existing: Vec::new(),
            control_file: None,
            control_backup: None,
            bytes: 0,
        };
        plan.add_tablespaces(&tablespaces(chain)?, options, data_directory)?;
        for path in plan.newest().external.clone() {
            let target = apply(&path, &options.external_mapping);
            plan.external.push(if options.skip_external_dirs {
                plan.left_alone.push(target);
                None
            } else {
                Some(open_root(&target)?)
            });
        }
        plan.add_entries()?;
        plan.directories.sort_by(|a, b| a.path.cmp(&b.path));
        plan.files
            .sort_unstable_by_key(|file| (std::cmp::Reverse(file.bytes), file.index));
        Ok(plan)
    }

    pub(super) fn newest(&self) -> &Member {
        self.members.first().expect("a chain has a member")
    }

    /// The backups of the chain, newest first.
    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    fn add_tablespaces(
        &mut self,
        tablespaces: &[(u32, String)],
        options: &Options,
        data_directory: &Path,
    ) -> Result<(), Error> {
        for (oid, place) in tablespaces {
            let path = PathBuf::from(format!("pg_tblspc/{oid}"));
            if let Some(shared) = self.shared.clone() {
                let directory = shared_tablespace(place, &self.shared_tablespaces)?;
                let root = format!("+{}", shared.data_group);
                self.links.push(Link {
                    tree: Tree::Shared,
                    storage: shared.data,
                    path,
                    target: Path::new(&root).join(&directory),
                });
                self.shared_tablespaces.push((*oid, directory));
                continue;
            }
            if place.starts_with('+') {
                // A group is no place of a cluster on file systems.
                return Err(Error::BadTablespaceMap {
                    path: TABLESPACE_MAP.into(),
                    source: TablespaceMapError::Path {
                        oid: *oid,
                        path: place.clone(),
                    },
                });
            }
            let storage = self.data.clone();
            if let (true, Some(at)) = (is_relative(place), place.find("/pg_location/")) {
                let target = data_directory.join(&place[at + 1..]);
                self.links.push(Link {
                    tree: Tree::Data,
                    storage,
                    path,
                    target,
                });
                continue;
            }
            let target = apply(Path::new(place), &options.tablespace_mapping);
            if self.links.iter().any(|link| link.target == target) {
                return Err(Error::TablespaceNotEmpty { path: target });
            }
            self.tablespaces.push((*oid, open_root(&target)?));
            self.links.push(Link {
                tree: Tree::Data,
                storage,
                path,
                target,
            });
        }
        Ok(())
    }

    fn add_entries(&mut self) -> Result<(), Error> {
        let (mut directories, mut files) = (Vec::new(), Vec::new());
        let (mut control_file, mut control_backup, mut all_bytes) = (None, None, 0);
        for (index, entry) in self.newest().list.iter().enumerate() {
            if entry.root() == Root::Data && is_not_restored(&entry.path) {
                continue;
            }
            let Some((tree, storage, path)) = self.locate(&entry)? else {
                continue;
            };
            if self.is_listed_twice(&entry, &path) {
                continue;
            }
            let mode = mode_of(&entry);
            if entry.is_directory() {
                if !self.has_link_at(tree, &path) {
                    directories.push(Directory {
                        storage,
                        path,
                        mode,
                    });
                }
            } else if is_control_file(&entry) && self.is_control(&entry) {
                control_file = Some((control_member(&entry, &self.members)?, mode));
            } else if tree == Tree::Shared && entry.path == CONTROL_BACKUP {
                control_backup = match plain(&entry, &self.members)? {
                    ChainFile::Plain(member) => member,
                    ChainFile::Pages { .. } => None,
                };
            } else {
                let bytes = bytes_of(&chain_file(&entry, &self.members)?);
                all_bytes += bytes;
                files.push(PlannedFile { index, bytes });
            }
        }
        (self.directories, self.files) = (directories, files);
        (self.control_file, self.control_backup) = (control_file, control_backup);
        self.bytes = all_bytes;
        self.add_directories_of_tablespaces();
        self.add_links_to_logs();
        Ok(())
    }

    /// Whether an entry is the control file that the server reads.
    fn is_control(&self, entry: &ContentEntry<'_>) -> bool {
        entry.root() == self.form.root() && entry.path == self.form.path()
    }

    /// The tree an entry belongs to and its path there; `None` for an external directory that is
    /// left out.
    fn locate(&self, entry: &ContentEntry<'_>) -> Result<Option<Place>, Error> {
        let path = PathBuf::from(&*entry.path);
        if let Root::External(number) = entry.root() {
            let tree = usize::try_from(number)
                .ok()
                .and_then(|number| self.external.get(number - 1));
            return match tree {
                Some(tree) => Ok(tree
                    .clone()
                    .map(|tree| (Tree::External(number), tree, path))),
                None => Err(Error::UnknownExternalNumber { number }),
            };
        }
        let below = entry
            .path
            .strip_prefix("pg_tblspc/")
            .and_then(|rest| rest.split_once('/'));
        if entry.root() == Root::Shared {
            return self.locate_shared(path, below).map(Some);
        }
        if let Some((oid, rest)) = below {
            let tablespace = self
                .tablespaces
                .iter()
                .find(|(known, _)| known.to_string() == oid);
            if let Some((oid, tree)) = tablespace {
                let tree = (Tree::Tablespace(*oid), tree.clone());
                return Ok(Some((tree.0, tree.1, PathBuf::from(rest))));
            }
        }
        Ok(Some((Tree::Data, self.data.clone(), path)))
    }

    /// The files to restore in the first pass; those of compressed relations go to a flat file.
    pub(super) fn items(&self) -> impl ExactSizeIterator<Item = RestoreItem> + Send + '_ {
        let due: Vec<usize> = (0..self.files.len())
            .filter(|number| !matches!(self.existing(*number), Existing::Same { .. }))
            .collect();
        due.into_iter().map(|number| {
            let file = self.files[number];
            let (entry, storage, path) = self.place(file);
            let chain_file = chain_file(&entry, &self.members);
            let packed = packed(&entry, file.bytes).is_some();
            RestoreItem {
                name: entry.path.to_string(),
                file: chain_file.expect("worked out before when it was planned"),
                target: storage,
                target_path: if packed { flat_path(&path) } else { path },
                mode: mode_of(&entry),
                existing: if packed {
                    Existing::Nothing
                } else {
                    self.existing(number).clone()
                },
            }
        })
    }

    /// The files to pack in the second pass.
    pub(super) fn rebuilds(&self) -> Vec<RebuildItem> {
        let items = self.files.iter().enumerate().filter_map(|(number, file)| {
            let (entry, storage, path) = self.place(*file);
            let compressed = packed(&entry, file.bytes)?;
            let replaces = match self.existing(number) {
                Existing::Same { .. } => return None,
                Existing::Nothing => false,
                Existing::Other | Existing::Pages { .. } => true,
            };
            Some(RebuildItem {
                name: entry.path.to_string(),
                storage,
                flat_path: flat_path(&path),
                target_path: path,
                mode: mode_of(&entry),
                chunk_size: compressed.chunk_size,
                algorithm: u8::try_from(compressed.algorithm).unwrap_or(u8::MAX),
                replaces,
            })
        });
        items.collect()
    }

    /// A planned file's entry and where it goes.
    pub(super) fn place(&self, file: PlannedFile) -> (ContentEntry<'_>, Arc<dyn Storage>, PathBuf) {
        let entry = self.newest().list.get(file.index);
        let entry = entry.expect("planned from this list");
        let located = self.locate(&entry).ok().flatten();
        let (_, storage, path) = located.expect("located before when it was planned");
        (entry, storage, path)
    }

    /// Whether a file's pages are packed in a second pass.
    pub(super) fn is_packed(&self, file: PlannedFile) -> bool {
        let entry = self.newest().list.get(file.index);
        entry.is_some_and(|entry| packed(&entry, file.bytes).is_some())
    }

    /// Whether the backup has the server's second copy of the control file.
    pub(super) fn has_control_backup(&self) -> bool {
        self.control_backup.is_some()
    }

    /// The trees of file systems that files went to.
    pub(super) fn roots(&self) -> impl Iterator<Item = &Arc<dyn Storage>> {
        let tablespaces = self.tablespaces.iter().map(|(_, tree)| tree);
        std::iter::once(&self.data)
            .chain(tablespaces)
            .chain(self.external.iter().flatten())
    }

    /// The bytes of `pg_control`, its mode, and what it says.
    fn control_file(&self) -> Result<(Vec<u8>, u32, ClusterControl), Error> {
        let Some((member, mode)) = &self.control_file else {
            return Err(Error::BackupWithoutControlFile);
        };
        let bytes = member.storage.read(&member.path, CONTROL_FILE_BYTES_MAX)?;
        match self.form.parse(&bytes) {
            Ok(control) => Ok((bytes, *mode, control)),
            Err(source) => Err(Error::BadControlFile {
                path: member.storage.display_path(&member.path),
                source,
            }),
        }
    }

    /// Which server the restored directory is for.
    pub(super) fn flavor(&self) -> Result<ServerFlavor, Error> {
        Ok(self.control_file()?.2.file.flavor)
    }

    /// Puts `pg_control` in place, checked and at once.
    pub(super) fn write_control_file(&self, sync: bool) -> Result<(), Error> {
        let (bytes, mode, _) = self.control_file()?;
        let path = Path::new(self.form.path());
        if let Some(shared) = &self.shared {
            write_shared_control(&*shared.data, path, self.form.page_range(), &bytes)?;
            return match &self.control_backup {
                Some(member) => write_control_backup(&*shared.data, member),
                None => Ok(()),
            };
        }
        if sync {
            return Ok(self.data.write_durably(path, mode, &bytes)?);
        }
        let file = self.data.create(path, mode, false)?;
        file.write_all_at(&bytes, 0)?;
        Ok(())
    }
}

/// The mode that a file or directory gets. There are none on volumes, whatever the list says.
pub(super) fn mode_of(entry: &ContentEntry<'_>) -> u32 {
    match (entry.root(), entry.is_directory()) {
        (Root::Shared, true) => 0o700,
        (Root::Shared, false) => 0o600,
        _ => entry.mode & 0o7777,
    }
}

/// Whether a backup has a file that a restore does not write: maps that are for the restore, and
/// marks of restores before the backup.
pub(super) fn is_not_restored(path: &str) -> bool {
    [TABLESPACE_MAP, "database_map", RESTORE_MARK, SAVED_CONTROL].contains(&path)
}

/// Where the logical pages of a compressed file go before they are packed.
pub(super) fn flat_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pages.tmp");
    PathBuf::from(name)
}

/// Creates a directory with all that is missing above it, durably, and opens it.
pub(super) fn open_root(path: &Path) -> Result<Arc<dyn Storage>, Error> {
    let missing: Vec<&Path> = path.ancestors().take_while(|path| !path.exists()).collect();
    for directory in missing.into_iter().rev() {
        create_directory_durably(directory, 0o700)?;
    }
    Ok(Arc::new(Posix::open(path)?))
}

/// Where a file's bytes are in the chain.
pub(super) fn chain_file(entry: &ContentEntry<'_>, members: &[Member]) -> Result<ChainFile, Error> {
    if entry.is_datafile {
        pages(entry, members)
    } else {
        plain(entry, members)
    }
}

/// Bytes that a file will have; those of its pages if it is of pages.
pub(super) fn bytes_of(file: &ChainFile) -> u64 {
    match file {
        ChainFile::Pages { n_blocks, .. } => u64::from(*n_blocks) * 8192,
        ChainFile::Plain(member) => member.as_ref().map_or(0, |member| member.size),
    }
}

/// How a file's pages are packed into extents, if it has any that are.
pub(super) fn packed(entry: &ContentEntry<'_>, bytes: u64) -> Option<CompressedAttributes> {
    entry.compressed.filter(|_| bytes > 0)
}

/// A relation's segment file over all members.
fn pages(entry: &ContentEntry<'_>, members: &[Member]) -> Result<ChainFile, Error> {
    let copies = copies::of_pages(entry, members)?;
    let parts = copies.iter().map(|copy| {
        let file = open_member(copy.owner, &copy.entry, copy.size)?;
        Ok(ChainMember {
            file,
            block_limit: copy.block_limit,
            stop_lsn: copy.owner.stop_lsn,
        })
    });
    Ok(ChainFile::Pages {
        segno: SegmentNumber(entry.segno),
        compressed: entry.compressed.is_some(),
        n_blocks: entry.n_blocks.unwrap_or(0),
        members: parts.collect::<Result<_, Error>>()?,
    })
}

/// Any other file: its newest copy.
fn plain(entry: &ContentEntry<'_>, members: &[Member]) -> Result<ChainFile, Error> {
    let copy = copies::of_plain(entry, members)?;
    let file = copy.map(|(member, entry, size)| open_member(&members[member], &entry, size));
    Ok(ChainFile::Plain(file.transpose()?))
}

pub(super) fn control_member(
    entry: &ContentEntry<'_>,
    members: &[Member],
) -> Result<MemberFile, Error> {
    match plain(entry, members)? {
        ChainFile::Plain(Some(member)) => Ok(member),
        _ => Err(Error::BackupWithoutControlFile),
    }
}

fn open_member(member: &Member, entry: &ContentEntry<'_>, size: u64) -> Result<MemberFile, Error> {
    let opened = member.stores.member(entry, size);
    opened.map_err(|detail| Error::DamagedMember {
        id: member.id,
        detail,
    })
}
