//! Purging the WAL archive of an instance: files that no backup needs, after `delete --delete-wal`
//! and after a backup with it.
//!
//! 1. list the backups, the archive, and the backups again, until both lists agree: a merge that
//!    renames a backup at this instant must not make it look gone
//! 2. plan ([`plan_wal_purge`]); say what becomes of each timeline
//! 3. remove, timeline by timeline, the oldest file first, so that what an interrupted run leaves
//!    of a timeline is its newer part
//!
//! Histories of timelines stay. Backups that begin meanwhile begin behind all that is removed.
//! Nothing is removed where something is not known: a record that cannot be read, a backup that is
//! being made and has no start yet, the size of a segment.

use super::Error;
use super::words::{count, pretty_size};
use crate::catalog::{
    BackupEntry, Instance, KeptFor, KeptSegments, KeptWal, TimelinePurge, WalBackup, WalFileKind,
    WalFiles, WalNeeds, plan_wal_purge,
};
use crate::format::catalog::BackupStatus;
use crate::format::wal::{segment_name, segment_number};
use crate::io::fault;
use crate::limits::LISTINGS_OF_BACKUPS_MAX;
use crate::storage::{StorageError, sync_directory};
use crate::types::{BackupId, Lsn};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where and how.
#[derive(Clone, Copy)]
pub(super) struct WalPurge<'a> {
    pub(super) instance: &'a Instance,
    /// How many backups of a timeline keep their WAL; 0: all.
    pub(super) depth: u32,
    /// Whether only to say what would be done.
    pub(super) dry_run: bool,
    /// Ends the run between two files.
    pub(super) cancel: &'a AtomicBool,
}

impl WalPurge<'_> {
    /// Removes what no backup needs, those left out that are `gone` after what is planned besides;
    /// whether anything was removed.
    ///
    /// # Errors
    /// When something cannot be listed or removed; what a backup needs is as it was.
    pub(super) fn run(&self, now: i64, gone: &BTreeSet<BackupId>) -> Result<bool, Error> {
        let Some((backups, archive)) = self.look(now, gone)? else {
            return Ok(false);
        };
        if archive
            .timelines
            .values()
            .all(|found| found.files.is_empty())
        {
            return Ok(false);
        }
        let Some(segment_bytes) = archive.segment_bytes else {
            tracing::warn!(
                "Cannot tell how large the WAL segments in \"{}\" are, skip purging of WAL",
                self.instance.wal_dir().display()
            );
            return Ok(false);
        };
        for backup in backups.iter().filter(|b| b.is_pinned && self.depth > 0) {
            let id = backup.id;
            tracing::debug!("Pinned backup {id} is ignored for the purpose of WAL retention");
        }
        let plan = plan_wal_purge(&WalNeeds {
            archive: &archive,
            segment_bytes,
            backups: &backups,
            depth: self.depth,
        });
        for timeline in &plan {
            self.describe(timeline, segment_bytes);
        }
        if self.dry_run {
            return Ok(false);
        }
        let mut has_removed = false;
        for timeline in plan.iter().filter(|timeline| !timeline.remove.is_empty()) {
            self.remove(timeline)?;
            has_removed = true;
        }
        if has_removed {
            sync_directory(self.instance.wal_dir())?;
        }
        Ok(has_removed)
    }

    /// Backups and archive at one instant; `None` where a backup does not say what it needs.
    fn look(
        &self,
        now: i64,
        gone: &BTreeSet<BackupId>,
    ) -> Result<Option<(Vec<WalBackup>, WalFiles)>, Error> {
        let mut before = self.instance.backups()?;
        for _ in 0..LISTINGS_OF_BACKUPS_MAX {
            let archive = self.instance.wal_files()?;
            let entries = self.instance.backups()?;
            if needs_of(&before, now) == needs_of(&entries, now) {
                let stays = entries.iter().filter(|entry| !gone.contains(&entry.id));
                let stays: Vec<&BackupEntry> = stays.collect();
                if let Some(reason) = stays.iter().find_map(|entry| unknown_need(entry)) {
                    tracing::warn!("{reason}, skip purging of WAL");
                    return Ok(None);
                }
                let backups = stays.iter().filter_map(|entry| WalBackup::of(entry, now));
                return Ok(Some((backups.collect(), archive)));
            }
            before = entries;
        }
        Err(Error::Refused(
            "other processes change the backups all the time: purge WAL later".to_owned(),
        ))
    }

    /// Says what becomes of a timeline, in the original's words.
    fn describe(&self, timeline: &TimelinePurge, segment_bytes: u64) {
        let tli = timeline.tli;
        let name = |segno| segment_name(tli, segno, segment_bytes);
        for kept in &timeline.kept_segments {
            tracing::debug!("{}", describe_kept(kept, timeline, &name));
        }
        match timeline.kept {
            KeptWal::Reachable(backup) => {
                let id = backup.id;
                tracing::debug!("Backup {id} can be recovered along timeline {tli}, retain it");
                return;
            }
            KeptWal::UnknownHistory if timeline.has_files => {
                tracing::warn!(
                    "The archive has no readable history of timeline {tli} ({:08X}.history), so a \
                     backup of an older timeline may need it: skip purging of its WAL",
                    tli.0
                );
                return;
            }
            KeptWal::UnknownHistory => return,
            KeptWal::From(lsn) if self.depth > 0 => {
                tracing::debug!("On timeline {tli} WAL is protected from purge at {lsn}");
            }
            KeptWal::From(_) | KeptWal::Nothing => {}
        }
        if !timeline.has_files {
            return;
        }
        if timeline.remove.is_empty() {
            tracing::info!("Nothing to remove on timeline {tli}");
            return;
        }
        let verb = if self.dry_run { "can" } else { "will" };
        if timeline.kept == KeptWal::Nothing && timeline.kept_segments.is_empty() {
            tracing::info!("On timeline {tli} all files {verb} be removed");
        }
        let last = timeline
            .segments
            .as_ref()
            .map(|segments| match timeline.kept {
                KeptWal::From(lsn) => segment_number(lsn, segment_bytes),
                _ => *segments.end(),
            });
        let first = timeline.segments.as_ref().map(|segments| *segments.start());
        if let Some((first, last)) = first.zip(last).filter(|(first, last)| first < last) {
            tracing::info!(
                "On timeline {tli} WAL segments between {} and {} {verb} be removed",
                name(first),
                name(last)
            );
        }
        describe_sizes(timeline, segment_bytes);
    }

    fn remove(&self, timeline: &TimelinePurge) -> Result<(), Error> {
        for file in &timeline.remove {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(Error::Refused(
                    "interrupted during WAL archive purge".to_owned(),
                ));
            }
            let path = self.instance.wal_dir().join(&file.name);
            let removed = fault::step("remove", &path).and_then(|()| std::fs::remove_file(&path));
            match removed {
                Ok(()) => tracing::trace!("Removed {} \"{}\"", kind(file.kind), path.display()),
                // Somebody else purges, too.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(StorageError::new("remove", &path, error).into()),
            }
        }
        Ok(())
    }
}

/// Says how much WAL goes, and how many bytes.
fn describe_sizes(timeline: &TimelinePurge, segment_bytes: u64) {
    let (tli, removed) = (timeline.tli, timeline.remove.iter());
    let whole = removed
        .clone()
        .filter(|file| file.kind == WalFileKind::Segment);
    let numbers: BTreeSet<u64> = whole.map(|file| file.segno).collect();
    let logical = count(numbers.len()).saturating_mul(segment_bytes);
    let resident = removed.map(|file| file.size_bytes);
    let resident = resident.fold(0, u64::saturating_add);
    if logical > 0 {
        let size = pretty_size(logical);
        tracing::info!("Logical WAL size to remove on timeline {tli} : {size}");
    }
    if resident > 0 {
        let size = pretty_size(resident);
        tracing::info!("Resident WAL size to free on timeline {tli} : {size}");
    }
}

/// What decides about WAL, of each backup.
fn needs_of(entries: &[BackupEntry], now: i64) -> Vec<(BackupId, Option<WalBackup>)> {
    let entries = entries.iter();
    entries
        .map(|entry| (entry.id, WalBackup::of(entry, now)))
        .collect()
}

/// Why a backup does not tell what it needs.
fn unknown_need(entry: &BackupEntry) -> Option<String> {
    let id = entry.id;
    match &entry.control {
        // A directory without a record is no backup: its creation or deletion was interrupted.
        Err(_) if !entry.open().control_path().exists() => None,
        Err(reason) => Some(format!(
            "{reason}: nobody knows which WAL backup {id} needs"
        )),
        Ok(control) => {
            let has_begun = control.start_lsn > Lsn(0);
            let runs = entry.effective_status() == BackupStatus::Running;
            (runs && !has_begun).then(|| format!("Backup {id} is just beginning"))
        }
    }
}

fn describe_kept(
    kept: &KeptSegments,
    timeline: &TimelinePurge,
    name: &dyn Fn(u64) -> String,
) -> String {
    let who = match kept.of {
        KeptFor::Backup(id) => format!("Archive backup {id} to stay consistent"),
        KeptFor::Timeline(younger) => {
            let tli = timeline.tli;
            format!("Timeline {tli} to stay reachable from timeline {younger}")
        }
    };
    let (first, last) = (name(*kept.segments.start()), name(*kept.segments.end()));
    format!("{who} protect from purge WAL interval between {first} and {last}")
}

fn kind(kind: WalFileKind) -> &'static str {
    match kind {
        WalFileKind::Segment => "WAL segment",
        WalFileKind::Partial => "partial WAL segment",
        WalFileKind::Temporary => "temp WAL segment",
        WalFileKind::Label => "backup history file",
    }
}
