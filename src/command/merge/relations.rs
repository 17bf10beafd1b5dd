//! Relation files of which several members hold parts, on their way through the transfer loop: when
//! the result is prepared, when records are overwritten, and when that is to be validated.

use super::super::Error;
use super::super::copies::{self, PageCopy};
use super::super::restore::plan::Member;
use super::super::validate::CheckOptions;
use super::journal::Journal;
use super::stage::{ResultFile, Shared};
use super::{Options, recover};
use crate::catalog::{BackupDir, BackupEntry};
use crate::format::catalog::{ContentEntry, Root};
use crate::monitor::{Monitor, Stage};
use crate::pipeline::{
    Finding, MergeCopies, MergeItem, MergeKind, MergePart, MergedFile, OverwriteItem,
    OverwriteKind, PipelineError, Settings, transfer,
};
use crate::storage::{Posix, Storage};
use crate::types::SegmentNumber;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// An error of the command that ends a transfer, which knows only its own.
#[derive(Debug, Default)]
struct Stash(Mutex<Option<Error>>);

impl Stash {
    fn keep<T>(&self, result: Result<T, Error>) -> Result<T, PipelineError> {
        result.map_err(|error| match error {
            Error::Pipeline(error) => error,
            other => {
                let mut kept = self.0.lock().expect("nobody panics while it is kept");
                kept.get_or_insert(other);
                PipelineError::Interrupted
            }
        })
    }

    /// The result of the transfer with the error that ended it.
    fn resolve(&self, transferred: Result<(), PipelineError>) -> Result<(), Error> {
        let mut kept = self.0.lock().expect("nobody panics while it is kept");
        let kept = kept.take();
        match (transferred, kept) {
            (Err(_), Some(error)) => Err(error),
            (transferred, _) => Ok(transferred?),
        }
    }
}

pub(super) fn settings(check: &CheckOptions, sync: bool) -> Settings {
    Settings {
        engine: check.engine,
        threads: check.threads,
        sync,
        cancel: check.cancel.clone(),
    }
}

fn part(copy: &PageCopy<'_>) -> Result<MergePart, Error> {
    let file = copy.owner.stores.member(&copy.entry, copy.size);
    Ok(MergePart {
        file: file.map_err(|detail| Error::DamagedMember {
            id: copy.owner.id,
            detail,
        })?,
        block_limit: copy.block_limit,
        headers: None,
    })
}

/// Whether the file's pages are in the server's compressed form, as any member says.
fn is_compressed(entry: &ContentEntry<'_>, copies: &[PageCopy<'_>]) -> bool {
    let mut copies = copies.iter();
    entry.compressed.is_some() || copies.any(|copy| copy.entry.compressed.is_some())
}

fn merge_copies(entry: &ContentEntry<'_>, compressed: bool, parts: Vec<MergePart>) -> MergeCopies {
    MergeCopies {
        name: entry.path.to_string(),
        segno: SegmentNumber(entry.segno),
        compressed,
        n_blocks: entry.n_blocks.unwrap_or(0),
        parts,
    }
}

/// The copies of a file that only the chain's members provide.
fn copies_of(entry: &ContentEntry<'_>, members: &[Member]) -> Result<MergeCopies, Error> {
    let copies = copies::of_pages(entry, members)?;
    let parts = copies.iter().map(part).collect::<Result<Vec<_>, _>>()?;
    Ok(merge_copies(entry, is_compressed(entry, &copies), parts))
}

/// Merges the files of these places in the newest content list.
pub(super) fn merge(shared: &Shared<'_>, order: &[(u64, usize)]) -> Result<(), Error> {
    let staging = shared.staging;
    let newest = &staging.plan.newest().list;
    let entry = |index| newest.get(index).expect("the order is of this list");
    let stash = Stash::default();
    let items = order.iter().map(|(_, index)| {
        let entry = entry(*index);
        tracing::trace!("Merging file \"{}\"", entry.path);
        stash.keep(item(shared, &entry, *index))
    });
    let take = |index: usize, merged: MergedFile| -> Result<(), PipelineError> {
        let entry = entry(index);
        let copies = staging.plan.copies(&entry);
        let copies = copies.expect("looked at when the file was planned");
        let mut compressed = copies.iter().filter_map(|copy| copy.entry.compressed);
        let headers = merged.headers.as_ref();
        let result = ResultFile {
            size: merged.size,
            crc: merged.crc,
            algorithm: merged.algorithm,
            headers: headers
                .map(|headers| shared.map.append(headers))
                .transpose()?,
            compressed: entry.compressed.or_else(|| compressed.next()),
            in_place: merged.in_place,
        };
        shared.add(index, result);
        Ok(())
    };
    let check = &staging.options.check;
    let kind = MergeKind::new(check.threads, level(staging.members), take);
    let settings = settings(check, staging.options.sync);
    stash.resolve(transfer(&kind, items, &settings, staging.monitor))
}

fn item(shared: &Shared<'_>, entry: &ContentEntry<'_>, id: usize) -> Result<MergeItem, Error> {
    let staging = shared.staging;
    let copies = staging.plan.copies(entry)?;
    let compressed = is_compressed(entry, &copies);
    let full = staging.plan.members.len() - 1;
    let mut parts = Vec::new();
    for copy in &copies {
        let found = if copy.member == full && staging.recovers {
            recover::part(shared, entry, &copy.entry, copy.block_limit, &parts)?
        } else {
            part(copy)?
        };
        parts.push(found);
    }
    // Records of the FULL backup's own file only, and only if it stays where it is.
    let is_in_full = copies
        .last()
        .is_some_and(|copy| copy.member == full && copy.entry.root() == entry.root());
    // A file that cannot be written must show before the commit.
    let may_overwrite = is_in_full && !staging.recovers && {
        let (tree, path) = shared.source(entry, full)?;
        tree.open_update(&path).is_ok()
    };
    let target: Arc<dyn Storage> = shared.target(entry.root());
    Ok(MergeItem {
        id,
        copies: merge_copies(entry, compressed, parts),
        target: Some((target, PathBuf::from(&*entry.path))),
        may_overwrite,
    })
}

/// The level for records that are encoded anew.
fn level(members: &[BackupEntry]) -> u32 {
    let newest = members.last().expect("a chain has a member");
    let control = newest.control.as_ref();
    control.map_or(1, |control| control.compress_level)
}

/// Writes the increments' records over those of the FULL backup, durably; `chain` are the members,
/// FULL first.
pub(super) fn overwrite(
    journal: &Journal,
    full: &BackupDir,
    chain: &[BackupEntry],
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<(), Error> {
    let members: Result<Vec<Member>, Error> = chain.iter().rev().map(Member::open).collect();
    let members = members?;
    let mut trees = BTreeMap::new();
    for file in &journal.overwrites {
        if let Entry::Vacant(place) = trees.entry(file.root.root()) {
            place.insert(Posix::open(&full.root_of(file.root.root()))?);
        }
    }
    let stash = Stash::default();
    let item = |root: Root, path: &str| -> Result<OverwriteItem, Error> {
        let newest = &members[0];
        let entry = newest.list.find(path, root);
        let entry = entry.ok_or_else(|| Error::DamagedMember {
            id: newest.id,
            detail: format!("\"{path}\" is not in its content list"),
        })?;
        Ok(OverwriteItem {
            copies: copies_of(&entry, &members)?,
            target: trees[&root].open_update(Path::new(path))?,
        })
    };
    let files = journal.overwrites.iter();
    let items = files.map(|file| stash.keep(item(file.root.root(), &file.path)));
    let count = super::super::words::count(journal.overwrites.len());
    monitor.begin(Stage::Merge, count, 0);
    let kind = OverwriteKind::new(options.check.threads);
    let settings = settings(&options.check, options.sync);
    let transferred = transfer(&kind, items, &settings, monitor);
    monitor.end();
    stash.resolve(transferred)
}

/// Checks the files of an unfinished merge's result that are being overwritten: they are what the
/// members make of them together, and that has the CRC of the content list.
pub(in crate::command) fn check_overwritten(
    entry: &BackupEntry,
    check: &CheckOptions,
    monitor: &dyn Monitor,
) -> Result<Vec<Finding>, Error> {
    let Some((files, _)) = super::being_overwritten(entry) else {
        return Ok(Vec::new());
    };
    let members = [Member::open(entry)?];
    let mut findings = Vec::new();
    for (root, path) in files {
        let mut find = |text: String| {
            let name = path.clone();
            findings.push(Finding { name, text });
        };
        let Some(listed) = members[0].list.find(&path, root) else {
            find(format!("\"{path}\" is not in the content list"));
            continue;
        };
        match merged(&listed, &members, check, monitor) {
            Ok((size, crc)) if (size, crc) == (listed.size.bytes(), listed.crc) => {}
            Ok((_, crc)) => find(format!(
                "Invalid CRC of backup file \"{path}\" : {crc:X}. Expected {:X}",
                listed.crc
            )),
            Err(error @ Error::Pipeline(PipelineError::Interrupted)) => return Err(error),
            Err(error) => find(super::super::words::describe(&error)),
        }
    }
    findings.sort();
    Ok(findings)
}

/// Size and CRC of the file that the members make together.
fn merged(
    entry: &ContentEntry<'_>,
    members: &[Member],
    check: &CheckOptions,
    monitor: &dyn Monitor,
) -> Result<(u64, u32), Error> {
    if let (Some(map), Some(headers)) = (members[0].stores.header_map(), &entry.headers) {
        map.read(headers)?;
    }
    let mut copies = copies_of(entry, members)?;
    if let Some(oldest) = copies.parts.last_mut() {
        // It is neither what it was nor what it will be.
        oldest.file.crc = None;
    }
    let found = Mutex::new((0, 0));
    let take = |_, merged: MergedFile| {
        let mut found = found.lock().expect("nobody panics while it is set");
        *found = (merged.size, merged.crc);
        Ok(())
    };
    let kind = MergeKind::new(check.threads, 1, take);
    let item = Ok(MergeItem {
        id: 0,
        copies,
        target: None,
        may_overwrite: false,
    });
    let items = std::iter::once(item);
    transfer(&kind, items, &settings(check, false), monitor)?;
    Ok(found.into_inner().expect("nobody panics while it is set"))
}
