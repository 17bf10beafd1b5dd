//! The backup that an increment grows on.
//!
//! As the original chooses it (`catalog.cpp:1101-1180`): the newest good FULL backup of the
//! timeline, and of its descendants the newest that is good with all of its ancestors. An older
//! chain is not used once a newer good FULL backup exists.

use super::super::validate::check_version;
use super::super::{Error, words};
use crate::catalog::lock::{LockGuard, LockOptions, lock_shared};
use crate::catalog::{BackupEntry, Instance};
use crate::format::catalog::{
    BackupControl, BackupMode, BackupStatus, ContentEntry, ContentList, Root,
};
use crate::format::cbm::CbmFileName;
use crate::server::cbm::CbmError;
use crate::storage::Posix;
use crate::types::{BackupId, Lsn, TimelineId};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

/// Why no increment can be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IncrementError {
    /// There is no backup to grow on.
    #[error("Create new full backup before an incremental one")]
    NoParent,
    /// The server is behind the parent.
    #[error(
        "Current START LSN {current} is lower than START LSN {start} of previous backup {parent}. \
         It may indicate that we are trying to backup openGauss instance from the past."
    )]
    StartsBeforeParent {
        /// Where this backup starts.
        current: Lsn,
        /// Where the parent started.
        start: Lsn,
        /// The parent.
        parent: BackupId,
    },
    /// The server is behind the end of the parent.
    #[error(
        "Current backup STOP LSN {current} is lower than STOP LSN {stop} of previous backup \
         {parent}. It may indicate that we are trying to backup openGauss instance from the past."
    )]
    EndsBeforeParent {
        /// Where this backup ends.
        current: Lsn,
        /// Where the parent ended.
        stop: Lsn,
        /// The parent.
        parent: BackupId,
    },
    /// The server went over to another timeline between the choice of the parent and the start.
    #[error("the server is on timeline {found} now, backup {parent} is of timeline {expected}")]
    OtherTimeline {
        /// The parent.
        parent: BackupId,
        /// Its timeline.
        expected: TimelineId,
        /// The server's.
        found: TimelineId,
    },
    /// The server was put back to a state before the parent and went on in another way.
    #[error(
        "{} is not what backup {parent} has of it: the server does not go on from there, it was \
         put back to an earlier state since: Create new full backup before an incremental one",
        path.display()
    )]
    OtherHistory {
        /// The parent.
        parent: BackupId,
        /// What tells it, below the data directory.
        path: PathBuf,
    },
    /// Pages got checksums since the parent, which is no change that a page tells of.
    #[error(
        "the cluster has page checksums, backup {parent} is from before they were switched on: \
         Create new full backup before an incremental one"
    )]
    ChecksumsSince {
        /// The parent.
        parent: BackupId,
    },
    /// The cluster went to shared storage, or came from it: the trees of both do not match.
    #[error(
        "backup {parent} has storage type {storage}, and the cluster has another: Create new full \
         backup before an incremental one"
    )]
    OtherStorage {
        /// The parent.
        parent: BackupId,
        /// Its storage type.
        storage: &'static str,
    },
    /// Ids are start times, and an increment has to be younger than its parent.
    #[error("the clock of this machine is behind the start of backup {parent}")]
    ClockBehind {
        /// The parent.
        parent: BackupId,
    },
    /// Only openGauss tracks changes.
    #[error("PostgreSQL does not track changed blocks as -b PTRACK needs it")]
    NotTracking,
    /// It is not known what changed.
    #[error(transparent)]
    Changes(CbmError),
}

impl IncrementError {
    /// What to do about it.
    pub(in super::super) fn hint(&self) -> Option<&'static str> {
        match self {
            IncrementError::NotTracking => {
                Some("take it with -b DELTA, which finds changed pages by reading them")
            }
            IncrementError::Changes(
                CbmError::Off
                | CbmError::Behind { .. }
                | CbmError::TooEarly { .. }
                | CbmError::Hole { .. }
                | CbmError::NotTracked { .. }
                | CbmError::Stalled { .. }
                | CbmError::Damaged { .. },
            ) => Some(
                "with enable_cbm_tracking = on, take a FULL backup; -b DELTA does without tracking",
            ),
            IncrementError::ClockBehind { .. } => Some("set the clock right"),
            _ => None,
        }
    }
}

/// What is looked at of a backup.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: BackupId,
    status: BackupStatus,
    mode: BackupMode,
    timeline: TimelineId,
    parent: Option<BackupId>,
}

impl Candidate {
    /// `None` where the backup's record cannot be read.
    fn of(entry: &BackupEntry) -> Option<Candidate> {
        let control = entry.control.as_ref().ok()?;
        Some(Candidate {
            id: entry.id,
            status: entry.effective_status(),
            mode: control.mode,
            timeline: control.timeline,
            parent: control.parent_backup_id,
        })
    }

    fn is_good(&self) -> bool {
        matches!(self.status, BackupStatus::Ok | BackupStatus::Done)
    }
}

/// How a chain ends.
enum Ancestry {
    /// All members are good, down to this FULL backup.
    Good(BackupId),
    /// A member is not; the oldest one.
    Invalid(BackupId),
    /// A parent is not there, or not older than its increment.
    Missing(Option<BackupId>),
}

fn ancestry(known: &HashMap<BackupId, Candidate>, from: &Candidate) -> Ancestry {
    let mut invalid = None;
    let mut member = from;
    loop {
        if !member.is_good() {
            invalid = Some(member.id);
        }
        if member.mode == BackupMode::Full {
            return invalid.map_or(Ancestry::Good(member.id), Ancestry::Invalid);
        }
        let parent = member.parent.filter(|parent| *parent < member.id);
        match parent.and_then(|parent| known.get(&parent)) {
            Some(parent) => member = parent,
            None => return Ancestry::Missing(member.parent),
        }
    }
}

/// The backup to grow on, if there is one; why others are not, goes to `warn`.
fn choose(
    backups: &[Candidate],
    timeline: TimelineId,
    mut warn: impl FnMut(String),
) -> Option<BackupId> {
    let mut backups = backups.to_vec();
    backups.sort_by_key(|backup| std::cmp::Reverse(backup.id));
    let known: HashMap<BackupId, Candidate> =
        backups.iter().map(|backup| (backup.id, *backup)).collect();
    let is_full = |backup: &&Candidate| {
        backup.mode == BackupMode::Full && backup.is_good() && backup.timeline == timeline
    };
    if let Some(full) = backups.iter().find(is_full) {
        tracing::debug!("Latest valid FULL backup: {}", full.id);
        for backup in &backups {
            let id = backup.id;
            if !backup.is_good() {
                let status = backup.status;
                warn(format!(
                    "Backup {id} has status: {status}. Cannot be a parent."
                ));
                continue;
            }
            match ancestry(&known, backup) {
                Ancestry::Good(root) if root == full.id && backup.timeline == timeline => {
                    return Some(id);
                }
                Ancestry::Good(_) => {}
                Ancestry::Invalid(parent) => warn(format!(
                    "Backup {id} has invalid parent: {parent}. Cannot be a parent"
                )),
                Ancestry::Missing(parent) => {
                    let parent = parent.map_or("0".to_owned(), |parent| parent.to_string());
                    warn(format!(
                        "Backup {id} has missing parent: {parent}. Cannot be a parent"
                    ));
                }
            }
        }
    }
    warn(format!(
        "Valid backup on current timeline {timeline} is not found, trying to look up on previous \
         timelines"
    ));
    // Which of them the current one grew out of, and where, only archived WAL would tell.
    warn("Cannot find valid backup on previous timelines, WAL archive is not available".to_owned());
    None
}

/// The backup that an increment grows on; nobody changes it while this stands.
#[derive(Debug)]
pub(super) struct Parent {
    /// Its record.
    pub(super) control: BackupControl,
    list: ContentList,
    external: Vec<String>,
    database: PathBuf,
    shared: PathBuf,
    _lock: LockGuard,
}

impl Parent {
    /// Chooses the parent among the backups of the instance, locks it and reads its content list.
    ///
    /// # Errors
    /// [`IncrementError`] where there is none; otherwise it cannot be locked or read.
    pub(super) fn choose(
        instance: &Instance,
        timeline: TimelineId,
        page_checksums: bool,
        cancel: &AtomicBool,
    ) -> Result<Parent, Error> {
        let entries = instance.backups()?;
        let candidates: Vec<Candidate> = entries.iter().filter_map(Candidate::of).collect();
        for entry in &entries {
            if let Err(reason) = &entry.control {
                tracing::warn!("{reason}");
            }
        }
        let chosen = choose(&candidates, timeline, |text| tracing::warn!("{text}"));
        let id = chosen.ok_or(IncrementError::NoParent)?;
        let dir = instance.backup(id)?;
        let patience = LockOptions::PATIENT.cancelled_by(cancel);
        let lock = lock_shared(dir.path(), id, &patience)?;
        // Until it was locked, somebody else may have changed it.
        let (control, _) = dir.read_control()?;
        if !matches!(control.status, BackupStatus::Ok | BackupStatus::Done) {
            let status = control.status;
            tracing::warn!("Backup {id} has status: {status}. Cannot be a parent.");
            return Err(IncrementError::NoParent.into());
        }
        check_version(&control)?;
        if page_checksums && control.checksum_version == 0 {
            return Err(IncrementError::ChecksumsSince { parent: id }.into());
        }
        let list = dir
            .read_content_list(control.content_crc)
            .inspect_err(|error| {
                tracing::warn!("{}", words::describe(error));
                tracing::warn!("Failed to get filelist for backup {id}");
            })?;
        tracing::info!("Parent backup: {id}");
        Ok(Parent {
            external: external_dirs(control.external_dirs.as_deref()),
            database: dir.database(),
            shared: dir.shared(),
            control,
            list,
            _lock: lock,
        })
    }

    /// What it has of the data directory.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn database(&self) -> Result<Posix, Error> {
        Ok(Posix::open(&self.database)?)
    }

    /// Its copy of the data directory, or of what the instances of the cluster share.
    pub(super) fn tree(&self, root: Root) -> Result<Posix, Error> {
        match root {
            Root::Shared => Ok(Posix::open(&self.shared)?),
            Root::Data | Root::External(_) => self.database(),
        }
    }

    /// The files of changed block maps that it has itself: name and path.
    pub(super) fn cbm_files(&self) -> impl Iterator<Item = (CbmFileName, PathBuf)> {
        self.list.iter().filter_map(|entry| {
            let name = entry.path.strip_prefix("pg_cbm/")?;
            let is_stored = entry.external_dir == 0 && entry.is_regular() && entry.size.bytes() > 0;
            let name = CbmFileName::parse(name).filter(|_| is_stored)?;
            Some((name, PathBuf::from(&*entry.path)))
        })
    }

    /// Its id.
    pub(super) fn id(&self) -> BackupId {
        self.control.id()
    }

    /// Its entry of a file. External directories are told by number and path: where these go apart,
    /// the two tools do not agree on what is the same file.
    pub(super) fn find(
        &self,
        path: &str,
        root: Root,
        external: &[String],
    ) -> Option<ContentEntry<'_>> {
        if let Root::External(number) = root {
            let index = usize::try_from(number - 1).ok()?;
            let (ours, theirs) = (external.get(index)?, self.external.get(index)?);
            if ours != theirs {
                return None;
            }
        }
        self.list.find(path, root)
    }

    /// Refuses a server that is behind the parent or on another timeline.
    pub(super) fn check_start(&self, start: Lsn, timeline: TimelineId) -> Result<(), Error> {
        let (parent, expected) = (self.id(), self.control.timeline);
        if timeline != expected {
            let found = timeline;
            let error = IncrementError::OtherTimeline {
                parent,
                expected,
                found,
            };
            return Err(error.into());
        }
        if start < self.control.start_lsn {
            let error = IncrementError::StartsBeforeParent {
                current: start,
                start: self.control.start_lsn,
                parent,
            };
            return Err(error.into());
        }
        Ok(())
    }

    /// Refuses an end before that of the parent.
    pub(super) fn check_stop(&self, stop: Lsn) -> Result<(), Error> {
        if stop >= self.control.stop_lsn {
            return Ok(());
        }
        let error = IncrementError::EndsBeforeParent {
            current: stop,
            stop: self.control.stop_lsn,
            parent: self.id(),
        };
        Err(error.into())
    }
}

/// The external directories of a record.
pub(super) fn external_dirs(text: Option<&str>) -> Vec<String> {
    text.unwrap_or("")
        .split(':')
        .filter(|path| !path.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
#[path = "parent_tests.rs"]
mod tests;
