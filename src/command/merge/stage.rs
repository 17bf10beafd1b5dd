//! Prepares the result of a merge beside the FULL backup's files, and changes none of them.
//!
//! The staging directory gets: every file of the result that the FULL backup does not hold already
//! and that will not be overwritten there, the page header map, the content list and the record,
//! each durable before the next; the journal comes last.

use super::super::Error;
use super::super::validate::{PROGRAM_VERSION, has_page_records, is_control_file, roots_of};
use super::journal::{Journal, Overwrite, Removal};
use super::plan::{Action, Plan};
use super::{Options, recover, relations, step};
use crate::catalog::{BackupDir, BackupEntry, ContentTotals, DIRECTORY_MODE, FILE_MODE};
use crate::format::catalog::{
    BackupControl, BackupStatus, CompressedAttributes, ContentEntry, EntrySize, HeaderMapRef, Root,
};
use crate::monitor::{Monitor, Stage};
use crate::pipeline::{HeaderMapReader, MergedHeaderMap, PipelineError, file_crc};
use crate::storage::{FileKind, Posix, Storage, create_directory_durably, sync_directory};
use crate::types::{BackupId, CompressAlgorithm, Location};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What a merge needs to prepare its result.
pub(super) struct Staging<'a> {
    pub(super) options: &'a Options,
    pub(super) plan: &'a Plan,
    /// The members, FULL first.
    pub(super) members: &'a [BackupEntry],
    /// Whether the FULL backup's files may be other than its list says, as after an interrupted
    /// merge of the original.
    pub(super) recovers: bool,
    pub(super) merge_time: i64,
    pub(super) monitor: &'a dyn Monitor,
}

/// A file of the result.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResultFile {
    pub(super) size: u64,
    pub(super) crc: u32,
    pub(super) algorithm: CompressAlgorithm,
    pub(super) headers: Option<HeaderMapRef>,
    pub(super) compressed: Option<CompressedAttributes>,
    /// Whether it comes to be by overwriting records of the FULL backup's file.
    pub(super) in_place: bool,
}

/// Trees by what they are of.
type Trees = BTreeMap<Root, Arc<Posix>>;

/// Everything that the threads share.
pub(super) struct Shared<'a> {
    pub(super) staging: &'a Staging<'a>,
    /// Whether the header maps of all members say what their pages are.
    pub(super) knows_pages: bool,
    /// The members' trees, newest first.
    sources: Vec<Trees>,
    targets: Trees,
    pub(super) map: MergedHeaderMap,
    results: Mutex<BTreeMap<usize, ResultFile>>,
}

/// Removes what a merge left that did not come to its commit.
pub(super) fn clear(full: &BackupDir) -> Result<(), Error> {
    let path = full.staging().path().to_owned();
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    step("remove", &path, || std::fs::remove_dir_all(&path))?;
    Ok(sync_directory(full.path())?)
}

impl Staging<'_> {
    fn full(&self) -> &BackupEntry {
        &self.members[0]
    }

    /// Prepares the result; returns its record as it is to be once its files are in place.
    pub(super) fn run(&self) -> Result<BackupControl, Error> {
        let full = self.full().open();
        clear(&full)?;
        let staging = full.staging();
        create_directory_durably(staging.path(), DIRECTORY_MODE)?;
        let root = Posix::open(staging.path())?;
        let map = root.create(Path::new("page_header_map"), FILE_MODE, false)?;
        let knows_pages = self.members.iter().all(|member| {
            let control = member.control.as_ref();
            control.is_ok_and(|control| has_page_records(&member.open(), control))
        });
        let shared = Shared {
            knows_pages,
            staging: self,
            sources: self.open_sources()?,
            targets: self.create_directories(&staging)?,
            map: MergedHeaderMap::new(map),
            results: Mutex::default(),
        };
        self.work(&shared)?;
        let results = shared.results.into_inner().expect("adding does not panic");
        let entries = self.entries(&shared.map, &results)?;
        let has_header_map = shared.map.finish()? > 0;
        if !has_header_map {
            root.remove_file(Path::new("page_header_map"))?;
        }
        self.sync_directories(&shared.targets)?;
        let totals = staging.write_content_list(entries)?;
        let control = self.control(&totals);
        staging.write_control(&control)?;
        let ids: Vec<BackupId> = self.members.iter().map(|entry| entry.id).collect();
        let destination = *ids.last().expect("a chain has a member");
        let removals = self.removals(&results);
        let overwrites = self.overwrites(&results);
        let time = self.merge_time;
        Journal::new(
            destination,
            &ids,
            time,
            has_header_map,
            removals,
            overwrites,
            knows_pages,
        )
        .write(&full)?;
        Ok(control)
    }

    fn open_sources(&self) -> Result<Vec<Trees>, Error> {
        let mut sources = Vec::new();
        for (entry, member) in self.members.iter().rev().zip(&self.plan.members) {
            let dir = entry.open();
            let mut trees = Trees::new();
            trees.insert(Root::Data, Arc::new(Posix::open(&dir.database())?));
            for root in roots_of(&member.list) {
                // Where it is missing, its files are.
                if let (Entry::Vacant(place), Ok(tree)) =
                    (trees.entry(root), Posix::open(&dir.root_of(root)))
                {
                    place.insert(Arc::new(tree));
                }
            }
            sources.push(trees);
        }
        Ok(sources)
    }

    /// The directories of the files that will be staged.
    fn create_directories(&self, staging: &BackupDir) -> Result<Trees, Error> {
        let mut trees = Trees::new();
        let mut made = BTreeSet::new();
        for (entry, action) in self.plan.newest().list.iter().zip(&self.plan.actions) {
            // What stays needs no directory.
            if !matches!(action, Action::TakeOver { .. } | Action::Rewrite { .. }) {
                continue;
            }
            let root = entry.root();
            let tree = match trees.entry(root) {
                Entry::Occupied(tree) => tree.into_mut(),
                Entry::Vacant(place) => {
                    let path = staging.root_of(root);
                    let is_external = matches!(root, Root::External(_));
                    if let Some(parent) = path.parent().filter(|_| is_external) {
                        create_directory_durably(parent, DIRECTORY_MODE)?;
                    }
                    create_directory_durably(&path, DIRECTORY_MODE)?;
                    place.insert(Arc::new(Posix::open(&path)?))
                }
            };
            let path = Path::new(&*entry.path);
            let mut missing: Vec<&Path> = path
                .ancestors()
                .skip(1)
                .filter(|path| !path.as_os_str().is_empty())
                .take_while(|path| !made.contains(&(root, path.to_path_buf())))
                .collect();
            while let Some(directory) = missing.pop() {
                tree.create_dir(directory, DIRECTORY_MODE)?;
                made.insert((root, directory.to_path_buf()));
            }
        }
        Ok(trees)
    }

    fn sync_directories(&self, trees: &Trees) -> Result<(), Error> {
        for tree in trees.values() {
            let mut pending = vec![PathBuf::new()];
            while let Some(directory) = pending.pop() {
                for entry in tree.list(&directory)? {
                    if entry.metadata.kind == FileKind::Directory {
                        pending.push(directory.join(entry.name));
                    }
                }
                tree.sync_dir(&directory)?;
            }
        }
        Ok(())
    }

    /// Does the files: those of which a copy is taken as it is, then the others, largest first.
    fn work(&self, shared: &Shared<'_>) -> Result<(), Error> {
        let (mut whole, mut merged): (Vec<usize>, Vec<(u64, usize)>) = Default::default();
        for (index, action) in self.plan.actions.iter().enumerate() {
            match *action {
                Action::TakeOver { .. } => whole.push(index),
                Action::Rewrite { bytes } => merged.push((bytes, index)),
                Action::Keep if self.recovers => whole.push(index),
                _ => {}
            }
        }
        merged.sort_unstable_by_key(|(bytes, index)| (std::cmp::Reverse(*bytes), *index));
        let bytes = merged.iter().map(|(bytes, _)| bytes).sum();
        let files = super::super::words::count(whole.len() + merged.len());
        self.monitor.begin(Stage::Merge, files, bytes);
        let done = self
            .take_whole(shared, &whole)
            .and_then(|()| relations::merge(shared, &merged));
        self.monitor.end();
        done
    }

    /// Does files of which a copy is taken as it is, on all threads.
    fn take_whole(&self, shared: &Shared<'_>, order: &[usize]) -> Result<(), Error> {
        let newest = &self.plan.newest().list;
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let work = || -> Result<(), Error> {
            while let Some(index) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                if self.options.check.cancel.load(Ordering::Relaxed) {
                    return Err(PipelineError::Interrupted.into());
                }
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let entry = newest.get(*index).expect("the order is of this list");
                let done = shared.stage(&entry, *index);
                stop.fetch_or(done.is_err(), Ordering::Relaxed);
                done?;
                self.monitor.add_file();
            }
            Ok(())
        };
        std::thread::scope(|threads| {
            let others = 1..self.options.check.threads.min(order.len());
            let others: Vec<_> = others.map(|_| threads.spawn(work)).collect();
            let mut done = work();
            for other in others {
                done = done.and(other.join().expect("a worker does not panic"));
            }
            done
        })
    }

    /// The entries of the result, by path.
    fn entries(
        &self,
        map: &MergedHeaderMap,
        results: &BTreeMap<usize, ResultFile>,
    ) -> Result<Vec<ContentEntry<'_>>, Error> {
        let full = self.plan.members.len() - 1;
        let reader = self.plan.full().stores.header_map();
        let newest = &self.plan.newest().list;
        let mut entries = Vec::with_capacity(newest.len());
        for entry in newest.iter_sorted() {
            let index = newest.position(&entry.path, entry.root());
            let index = index.expect("an entry of this list");
            let result = match (self.plan.actions[index], results.get(&index)) {
                (Action::Directory, _) => {
                    entries.push(entry);
                    continue;
                }
                (_, Some(result)) => *result,
                (Action::Empty, None) => ResultFile {
                    size: 0,
                    crc: 0,
                    algorithm: CompressAlgorithm::None,
                    headers: None,
                    compressed: entry.compressed,
                    in_place: false,
                },
                (_, None) => {
                    let found = self.plan.find(&entry, full).expect("found when planned");
                    result_of(&found, reader, map)?
                }
            };
            entries.push(with_result(entry, &result));
        }
        Ok(entries)
    }

    /// What the result does not have; files of which nothing is left after they were merged too.
    fn removals(&self, results: &BTreeMap<usize, ResultFile>) -> Vec<Removal> {
        let newest = &self.plan.newest().list;
        let emptied = results.iter().filter(|(_, result)| result.size == 0);
        let emptied = emptied.filter_map(|(index, _)| {
            let entry = newest.get(*index)?;
            Some(Removal {
                root: entry.root().into(),
                path: entry.path.into_owned(),
                is_directory: false,
            })
        });
        emptied.chain(self.plan.removals.iter().cloned()).collect()
    }

    /// Files that are left to be overwritten.
    fn overwrites(&self, results: &BTreeMap<usize, ResultFile>) -> Vec<Overwrite> {
        let newest = &self.plan.newest().list;
        let in_place = results.iter().filter(|(_, result)| result.in_place);
        let files = in_place.filter_map(|(index, _)| {
            let entry = newest.get(*index)?;
            Some(Overwrite {
                root: entry.root().into(),
                path: entry.path.into_owned(),
            })
        });
        files.collect()
    }

    /// The result's record: the FULL backup's with what the destination says of the data.
    fn control(&self, totals: &ContentTotals) -> BackupControl {
        let control = |entry: &BackupEntry| {
            let control = entry.control.clone();
            control.expect("members have records, as was checked when they were chosen")
        };
        let full = control(self.full());
        let newest = control(self.members.last().expect("a chain has a member"));
        let signed = |bytes: u64| Some(i64::try_from(bytes).unwrap_or(i64::MAX));
        BackupControl {
            status: BackupStatus::Merged,
            merge_dest_id: Some(self.members.last().expect("a chain has a member").id),
            merge_time: Some(self.merge_time),
            end_time: Some(super::now().max(self.merge_time)),
            program_version: PROGRAM_VERSION.to_owned(),
            parent_backup_id: None,
            // Checksums may have been switched off since the FULL backup; its pages are then no
            // longer expected to have right ones either.
            checksum_version: newest.checksum_version.min(full.checksum_version),
            data_bytes: signed(totals.data_bytes),
            wal_bytes: if newest.stream {
                signed(totals.wal_bytes)
            } else {
                newest.wal_bytes
            },
            uncompressed_bytes: signed(totals.uncompressed_bytes),
            content_crc: Some(totals.crc),
            stream: newest.stream,
            compress_algorithm: newest.compress_algorithm,
            compress_level: newest.compress_level,
            from_replica: newest.from_replica,
            timeline: newest.timeline,
            start_lsn: newest.start_lsn,
            stop_lsn: newest.stop_lsn,
            recovery_xid: newest.recovery_xid,
            recovery_time: newest.recovery_time,
            expire_time: newest.expire_time,
            external_dirs: newest.external_dirs,
            note: newest.note,
            ..full
        }
    }
}

/// A member's copy as a file of the result, its page headers taken over.
fn result_of(
    found: &ContentEntry<'_>,
    reader: Option<&HeaderMapReader>,
    map: &MergedHeaderMap,
) -> Result<ResultFile, Error> {
    let headers = match (found.headers, reader) {
        (Some(reference), Some(reader)) => Some(map.copy(reader, &reference)?),
        (Some(_), None) => {
            return Err(Error::Pipeline(PipelineError::DamagedBackup {
                location: Location::file(found.path.to_string()),
                detail: "the backup has no page header map".to_owned(),
            }));
        }
        (None, _) => None,
    };
    Ok(ResultFile {
        size: found.size.bytes(),
        crc: found.crc,
        algorithm: found.compress_algorithm,
        headers,
        compressed: found.compressed,
        in_place: false,
    })
}

fn with_result<'a>(entry: ContentEntry<'a>, result: &ResultFile) -> ContentEntry<'a> {
    ContentEntry {
        size: EntrySize::Bytes(result.size),
        crc: result.crc,
        compress_algorithm: result.algorithm,
        headers: result.headers,
        compressed: entry.compressed.or(result.compressed),
        ..entry
    }
}

impl Shared<'_> {
    fn stage(&self, entry: &ContentEntry<'_>, index: usize) -> Result<(), Error> {
        tracing::trace!("Merging file \"{}\"", entry.path);
        let result = match self.staging.plan.actions[index] {
            Action::TakeOver { member } => self.take_over(entry, member)?,
            Action::Keep => recover::kept(self, entry)?,
            _ => return Ok(()),
        };
        self.add(index, result);
        Ok(())
    }

    /// The result of the file at this place in the newest content list.
    pub(super) fn add(&self, index: usize, result: ResultFile) {
        let mut results = self.results.lock().expect("adding does not panic");
        results.insert(index, result);
    }

    /// The tree in the staging directory.
    pub(super) fn target(&self, root: Root) -> Arc<Posix> {
        Arc::clone(&self.targets[&root])
    }

    /// The tree and path of a member's copy.
    pub(super) fn source(
        &self,
        found: &ContentEntry<'_>,
        member: usize,
    ) -> Result<(Arc<Posix>, PathBuf), Error> {
        let tree = self.sources[member].get(&found.root());
        let tree = tree.ok_or_else(|| Error::DamagedMember {
            id: self.staging.plan.members[member].id,
            detail: format!("{} is not found in the backup", found.root()),
        })?;
        Ok((Arc::clone(tree), PathBuf::from(&*found.path)))
    }

    fn take_over(&self, entry: &ContentEntry<'_>, member: usize) -> Result<ResultFile, Error> {
        let plan = self.staging.plan;
        let found = plan.find(entry, member).expect("found when planned");
        let (source, path) = self.source(&found, member)?;
        let metadata = source.metadata(&path)?;
        let damaged = |detail: String| {
            let path = source.display_path(&path).display().to_string();
            Error::Pipeline(PipelineError::DamagedBackup {
                location: Location::file(path),
                detail,
            })
        };
        if metadata.kind != FileKind::File || metadata.size != found.size.bytes() {
            return Err(damaged(format!(
                "it has {} bytes, but the content list says {}",
                metadata.size,
                found.size.bytes()
            )));
        }
        if !self.staging.options.validate && !is_control_file(&found) {
            let (_, crc) = file_crc(&*source, &path)?;
            if crc != found.crc {
                return Err(damaged(format!(
                    "Invalid CRC: {crc:X}. Expected {:X}",
                    found.crc
                )));
            }
        }
        self.give_name(entry, &source, &path)?;
        let reader = plan.members[member].stores.header_map();
        result_of(&found, reader, &self.map)
    }

    /// Gives a member's file a name in the staging directory; a copy where the file system has no
    /// further names.
    fn give_name(
        &self,
        entry: &ContentEntry<'_>,
        source: &Posix,
        path: &Path,
    ) -> Result<(), Error> {
        let sync = self.staging.options.sync;
        let target = &self.targets[&entry.root()];
        let target_path = Path::new(&*entry.path);
        let file = source.open_read(path, false)?;
        if sync {
            // The increment may have been taken without making it durable.
            file.sync()?;
        }
        if target.hard_link(source, path, target_path).is_ok() {
            return Ok(());
        }
        let copy = target.create(target_path, FILE_MODE, false)?;
        let size = file.size()?;
        match copy.copy_head_of(&file, size) {
            Err(error) if error.source.kind() == std::io::ErrorKind::Unsupported => {
                let mut buffer = vec![0; crate::limits::EXTENT_BYTES_MAX];
                let mut at = 0;
                while at < size {
                    let left = usize::try_from(size - at).unwrap_or(usize::MAX);
                    let length = left.min(buffer.len());
                    file.read_exact_at(&mut buffer[..length], at)?;
                    copy.write_all_at(&buffer[..length], at)?;
                    at += u64::try_from(length).expect("a buffer is small");
                }
            }
            copied => copied?,
        }
        if sync {
            copy.sync()?;
        }
        Ok(())
    }
}
