//! The record of a merge whose result is prepared, and how much of a merge counts.
//!
//! The journal lies in the staging directory. It counts from the moment when the FULL backup's
//! `backup.control` says MERGING with the same destination and the same merge time: that is the
//! commit. Before, the chain is as it was and the staging directory is rubbish; afterwards the
//! result is complete, in one of two states:
//!
//! 1. *being overwritten*: `overwrites` names files of the FULL backup over whose records newer
//!    ones are written. Any part of that may have been done. The increments are the redo log: all
//!    members are there, with their lists and header maps, so that such a file of the result is
//!    read as the chain has it, block by block. Every other file of the result is staged or in
//!    place.
//! 2. *moving*: `overwrites` is empty; the journal is written anew once all of that is durable.
//!    Only renames and removals are left to do, and every file of the result is staged or in place.
//!
//! It stops counting when the original takes over, which the files that it makes first tell. The
//! original can take over in either state: an overwritten record keeps its header, and what of the
//! page is new is written once more.
//!
//! Layout: a line of JSON, then a line with the BLAKE3 hash of the first line without its newline.

use super::super::Error;
use crate::catalog::{BackupDir, BackupEntry, UnfinishedMerge};
use crate::format::catalog::{BackupControl, BackupMode, BackupStatus, Root};
use crate::storage::write_file_durably;
use crate::types::BackupId;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// What is left to do once the result is prepared.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Journal {
    /// [`VERSION`].
    version: u32,
    /// The backup that the result will be.
    pub(super) destination: String,
    /// All members, the FULL backup first.
    pub(super) members: Vec<String>,
    /// When the merge began; tells this merge from any other.
    pub(super) merge_time: i64,
    /// Whether the result has a page header map.
    pub(super) has_header_map: bool,
    /// What the FULL backup has and the result has not, those below before those above.
    pub(super) removals: Vec<Removal>,
    /// Files of the FULL backup whose records are to be overwritten.
    #[serde(default)]
    pub(super) overwrites: Vec<Overwrite>,
    /// Whether the result's page header map says what its pages are, as those of all members do.
    #[serde(default)]
    pub(super) knows_pages: bool,
}

/// A tree, in the fields of what it is the tree of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct JournalRoot {
    /// 0 for the data directory, else the external directory's number.
    external_dir: u32,
    /// Whether it is the shared storage instead of the data directory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    shared: bool,
}

impl From<Root> for JournalRoot {
    fn from(root: Root) -> JournalRoot {
        JournalRoot {
            external_dir: root.external_dir(),
            shared: root == Root::Shared,
        }
    }
}

impl JournalRoot {
    pub(super) fn root(self) -> Root {
        match self {
            JournalRoot {
                external_dir: 0,
                shared: true,
            } => Root::Shared,
            JournalRoot { external_dir, .. } => Root::of_directory(external_dir),
        }
    }
}

/// A file of the FULL backup that becomes the result's by overwriting.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Overwrite {
    /// The tree.
    #[serde(flatten)]
    pub(super) root: JournalRoot,
    /// Path there.
    pub(super) path: String,
}

/// A file or directory of the FULL backup that the result does not have.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Removal {
    /// The tree.
    #[serde(flatten)]
    pub(super) root: JournalRoot,
    /// Path there.
    pub(super) path: String,
    /// Whether it is a directory.
    pub(super) is_directory: bool,
}

const VERSION: u32 = 2;

/// The journal's file in the staging directory.
const JOURNAL: &str = "merge.journal";

/// Bytes of a journal: a removal for every file of a cluster of millions.
const JOURNAL_BYTES_MAX: u64 = 1 << 30;

/// Made by the original before it replaces the first file.
const MAP_OF_THE_ORIGINAL: &str = "page_header_map_tmp";

fn path_of(full: &BackupDir) -> PathBuf {
    full.staging().path().join(JOURNAL)
}

impl Journal {
    pub(super) fn new(
        destination: BackupId,
        members: &[BackupId],
        merge_time: i64,
        has_header_map: bool,
        removals: Vec<Removal>,
        overwrites: Vec<Overwrite>,
        knows_pages: bool,
    ) -> Journal {
        Journal {
            version: VERSION,
            destination: destination.to_string(),
            members: members.iter().map(BackupId::to_string).collect(),
            merge_time,
            has_header_map,
            removals,
            overwrites,
            knows_pages,
        }
    }

    /// Writes the journal durably.
    pub(super) fn write(&self, full: &BackupDir) -> Result<(), Error> {
        let json = serde_json::to_string(self).expect("text and numbers can be written as JSON");
        let text = format!("{json}\n{}\n", blake3::hash(json.as_bytes()));
        Ok(write_file_durably(&path_of(full), 0o600, text.as_bytes())?)
    }

    /// The journal of the staging directory, if there is a whole one of this version.
    fn read(full: &BackupDir) -> Option<Journal> {
        let path = path_of(full);
        let size = std::fs::metadata(&path).ok()?.len();
        let text = std::fs::read(path)
            .ok()
            .filter(|_| size <= JOURNAL_BYTES_MAX)?;
        let text = String::from_utf8(text).ok()?;
        let (json, hash) = text.strip_suffix('\n')?.split_once('\n')?;
        if blake3::hash(json.as_bytes()).to_string() != hash {
            return None;
        }
        let journal: Journal = serde_json::from_str(json).ok()?;
        (1..=VERSION).contains(&journal.version).then_some(journal)
    }

    /// The journal, if it is of the merge that the FULL backup's record tells of.
    pub(super) fn committed(full: &BackupDir, control: &BackupControl) -> Option<Journal> {
        let journal = Journal::read(full)?;
        let counts = control.mode == BackupMode::Full
            && matches!(control.status, BackupStatus::Merging | BackupStatus::Merged)
            && control.merge_dest_id.map(|id| id.to_string()) == Some(journal.destination.clone())
            && control.merge_time == Some(journal.merge_time)
            && !full.path().join(MAP_OF_THE_ORIGINAL).exists();
        counts.then_some(journal)
    }

    /// The ids of the members but the FULL backup, oldest first.
    pub(super) fn increments(&self) -> Vec<BackupId> {
        let members = self.members.iter().skip(1);
        members.filter_map(|id| id.parse().ok()).collect()
    }
}

/// The result of the merge that a FULL backup's record tells of, if it is complete.
pub(in crate::command) fn unfinished_result(entry: &BackupEntry) -> Option<BackupEntry> {
    let control = entry.control.as_ref().ok()?;
    let destination = control.merge_dest_id?;
    if control.mode != BackupMode::Full {
        return None;
    }
    let dir = entry.open();
    let (control, state) = match control.status {
        BackupStatus::Merged => (control.clone(), UnfinishedMerge::InPlace),
        BackupStatus::Merging => {
            Journal::committed(&dir, control)?;
            let (staged, _) = dir.staging().read_control().ok()?;
            (staged, UnfinishedMerge::Staged)
        }
        _ => return None,
    };
    Some(BackupEntry {
        id: destination,
        dir: entry.dir.clone(),
        control: Ok(finished(control, destination)),
        warnings: Vec::new(),
        unfinished_merge: Some(state),
    })
}

/// Files by tree and path.
pub(in crate::command) type OverwrittenFiles = HashSet<(Root, String)>;

/// The files that are being overwritten for the result `entry` of an unfinished merge, by tree and
/// path, and the members of the merge, newest first.
pub(in crate::command) fn being_overwritten(
    entry: &BackupEntry,
) -> Option<(OverwrittenFiles, Vec<BackupEntry>)> {
    if entry.unfinished_merge != Some(UnfinishedMerge::Staged) {
        return None;
    }
    let journal = Journal::read(&entry.open())?;
    if journal.overwrites.is_empty() {
        return None;
    }
    let (full, increments) = journal.members.split_first()?;
    let instance = entry.dir.parent()?;
    let member = |id: &String, path: &Path| {
        let dir = BackupDir::at(id.parse().ok()?, path);
        let control = dir.read_control();
        Some(BackupEntry {
            id: dir.id(),
            dir: path.to_owned(),
            control: control
                .map(|(control, _)| control)
                .map_err(|error| super::super::words::describe(&error)),
            warnings: Vec::new(),
            unfinished_merge: None,
        })
    };
    let increments = increments.iter().rev();
    let increments = increments.map(|id| member(id, &instance.join(id)));
    let members = increments.chain([member(full, &entry.dir)]);
    let files = journal.overwrites.into_iter();
    let files = files.map(|file| (file.root.root(), file.path)).collect();
    Some((files, members.collect::<Option<_>>()?))
}

/// The record of a merged backup as it will be.
pub(super) fn finished(control: BackupControl, destination: BackupId) -> BackupControl {
    BackupControl {
        status: BackupStatus::Ok,
        start_time: destination.start_time(),
        merge_dest_id: None,
        ..control
    }
}
