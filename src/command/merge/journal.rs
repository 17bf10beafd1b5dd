//! The record of a merge whose result is prepared, and how much of a merge counts.
//!
//! The journal lies in the staging directory. It counts from the moment when the FULL backup's
//! `backup.control` says MERGING with the same destination and the same merge time: that is the
//! commit. Before, the chain is as it was and the staging directory is rubbish; afterwards only
//! renames and removals are left to do, and every file of the result is either staged or in place.
//!
//! It stops counting when the original takes over, which the files that it makes first tell.
//!
//! Layout: a line of JSON, then a line with the BLAKE3 hash of the first line without its newline.

use super::super::Error;
use crate::catalog::{BackupDir, BackupEntry, UnfinishedMerge};
use crate::format::catalog::{BackupControl, BackupMode, BackupStatus};
use crate::storage::write_file_durably;
use crate::types::BackupId;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

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
}

/// A file or directory of the FULL backup that the result does not have.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Removal {
    /// 0 for the data directory, else the external directory's number.
    pub(super) external_dir: u32,
    /// Path there.
    pub(super) path: String,
    /// Whether it is a directory.
    pub(super) is_directory: bool,
}

const VERSION: u32 = 1;

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
    ) -> Journal {
        Journal {
            version: VERSION,
            destination: destination.to_string(),
            members: members.iter().map(BackupId::to_string).collect(),
            merge_time,
            has_header_map,
            removals,
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
        (journal.version == VERSION).then_some(journal)
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

/// The record of a merged backup as it will be.
pub(super) fn finished(control: BackupControl, destination: BackupId) -> BackupControl {
    BackupControl {
        status: BackupStatus::Ok,
        start_time: destination.start_time(),
        merge_dest_id: None,
        ..control
    }
}
