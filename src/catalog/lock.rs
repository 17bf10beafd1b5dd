//! Locks of one backup: the files `backup.pid` and `backup_ro.pid`, understood by both tools.
//!
//! Format and meaning are the original's (`catalog.cpp:152-829`): `backup.pid` holds the process id
//! of the one that changes the backup, `backup_ro.pid` one id a line of those that read it. Whoever
//! locks takes `backup.pid` first; a reader gives it back at once, a writer keeps it and waits
//! until no reader is left.
//!
//! What is better here:
//!
//! * The owner also holds an `flock` on `backup.pid`. As long as that stands the owner lives,
//!   whatever became of its process id, even in another container. The original does not take it,
//!   so for its locks the id decides.
//! * A process id that now belongs to somebody else does not block for ever: a process that is no
//!   gs_probackup and is younger than the lock file did not write it.
//! * A process of another user (EPERM) is alive; the original fails with a message about signals.
//! * Files are examined, removed and rewritten under an `flock` on the backup's directory, so two
//!   processes that find the same stale file cannot remove each other's fresh one, and no reader is
//!   lost from the list.
//! * Behind its process id each owner writes its host, boot and start, which the original passes
//!   over (`lock_owner.rs`). A lock of another host is never taken over, because nobody here can
//!   know whether its owner lives; one of an earlier boot of this host is stale.
//!
//! Not better: the original knows no hosts. Where it works on a catalog, one host at a time may.

pub use super::lock_files::{Exclusion, Owner, exclude_others};

use super::instance::plain;
use super::layout::{EXCLUSIVE_LOCK, FILE_MODE, SHARED_LOCK, is_same_file};
use super::lock_files::{Found, Readers, examine, reader_flock, remove_readers};
use super::lock_owner::LockLine;
use crate::format::catalog::{format_timestamp, printable};
use crate::io::fault;
use crate::storage::StorageError;
use crate::types::BackupId;
use rustix::fs::FlockOperation;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long to wait for others.
#[derive(Clone, Copy, Debug)]
pub struct LockOptions<'a> {
    /// Time to wait for a live owner before giving up; zero: not at all.
    pub wait: Duration,
    /// Whether a full disk is an error. Without, the lock is then held in memory only: deleting
    /// must be possible.
    pub strict: bool,
    /// Ends the wait once it is set.
    pub cancel: Option<&'a AtomicBool>,
}

impl<'a> LockOptions<'a> {
    /// Gives up at once where the backup is in use.
    pub const FAIL_FAST: LockOptions<'static> = LockOptions {
        wait: Duration::ZERO,
        strict: true,
        cancel: None,
    };

    /// Waits as long as the original.
    pub const PATIENT: LockOptions<'static> = LockOptions {
        wait: Duration::from_secs(60),
        strict: true,
        cancel: None,
    };

    /// The same, but the wait ends once the flag is set.
    #[must_use]
    pub fn cancelled_by(self, cancel: &'a AtomicBool) -> LockOptions<'a> {
        LockOptions {
            cancel: Some(cancel),
            ..self
        }
    }
}

/// A backup could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else has it.
    #[error(
        "Cannot lock backup {id} directory: {who} has used it {how}since {since} {state}",
        who = who(owner),
        how = if *.shared { "in shared mode " } else { "" },
        since = format_timestamp(owner.since),
        state = if owner.is_elsewhere() {
            "and did not say that it ended"
        } else {
            "and is still running"
        }
    )]
    InUse {
        /// The backup.
        id: BackupId,
        /// Who.
        owner: Owner,
        /// The lock file that says so.
        path: PathBuf,
        /// Whether the owner only reads.
        shared: bool,
    },
    /// The catalog is on a medium that cannot be written.
    #[error(
        "Could not create lock file \"{path}\": the file system is read-only",
        path = path.display()
    )]
    ReadOnly {
        /// The lock file.
        path: PathBuf,
    },
    /// The run was cancelled while it waited.
    #[error("interrupted")]
    Interrupted,
    /// A lock file cannot be used.
    #[error("Cannot lock backup {id} directory")]
    File {
        /// The backup.
        id: BackupId,
        /// What failed.
        source: StorageError,
    },
}

/// A lock, released when dropped.
#[derive(Debug)]
pub struct LockGuard {
    dir: PathBuf,
    held: Held,
}

#[derive(Debug)]
enum Held {
    // The open file of `backup.pid`, with its flock.
    Exclusive(File),
    // With the flock that other containers see.
    Shared { _flock: Option<File> },
    // On a medium that cannot be written there is nothing to write and nobody to keep out.
    Nothing,
}

/// Pause between two looks at a lock.
const POLL: Duration = Duration::from_millis(200);
/// Between two messages while waiting.
const MESSAGE_EVERY: Duration = Duration::from_secs(10);
/// A lock file that is still empty after this was left by a process killed between creating and
/// writing it.
const EMPTY_AGE_MAX: Duration = Duration::from_secs(30);

/// Locks a backup to change it.
///
/// # Errors
/// [`LockError::InUse`] where somebody has it for longer than [`LockOptions::wait`],
/// [`LockError::Interrupted`] where the wait was cancelled.
pub fn lock_exclusive(
    dir: &Path,
    id: BackupId,
    options: &LockOptions<'_>,
) -> Result<LockGuard, LockError> {
    let waiting = Waiting::new(dir, id, *options);
    let held = match waiting.take_exclusive()? {
        Taken::File(file) => Held::Exclusive(file),
        Taken::NoSpace => Held::Nothing,
        Taken::ReadOnly => {
            let path = dir.join(EXCLUSIVE_LOCK);
            return Err(LockError::ReadOnly { path });
        }
    };
    let guard = LockGuard {
        dir: dir.to_owned(),
        held,
    };
    waiting.wait_for_readers()?;
    tracing::debug!(
        "Acquired exclusive lock for backup {id} after {}s",
        waiting.started.elapsed().as_secs()
    );
    Ok(guard)
}

/// Locks a backup to read it. On a medium that cannot be written no lock is needed and none is
/// made.
///
/// # Errors
/// [`LockError::InUse`] where somebody changes it for longer than [`LockOptions::wait`],
/// [`LockError::Interrupted`] where the wait was cancelled.
pub fn lock_shared(
    dir: &Path,
    id: BackupId,
    options: &LockOptions<'_>,
) -> Result<LockGuard, LockError> {
    let waiting = Waiting::new(dir, id, *options);
    let gate = match waiting.take_exclusive()? {
        Taken::File(file) => Held::Exclusive(file),
        Taken::NoSpace => Held::Nothing,
        Taken::ReadOnly => {
            return Ok(LockGuard {
                dir: dir.to_owned(),
                held: Held::Nothing,
            });
        }
    };
    let gate = LockGuard {
        dir: dir.to_owned(),
        held: gate,
    };
    let added = {
        let _exclusion = exclude_others(dir);
        Readers::read(dir).and_then(|mut readers| {
            readers.add_own();
            readers.write(dir)
        })
    };
    drop(gate);
    match added {
        Ok(()) => {}
        Err(error) if !options.strict && error.source.kind() == ErrorKind::StorageFull => {}
        Err(source) => return Err(LockError::File { id, source }),
    }
    tracing::debug!(
        "Acquired shared lock for backup {id} after {}s",
        waiting.started.elapsed().as_secs()
    );
    Ok(LockGuard {
        dir: dir.to_owned(),
        held: Held::Shared {
            _flock: reader_flock(dir),
        },
    })
}

/// Who changes a backup now, if anybody. Nothing is written.
#[must_use]
pub fn exclusive_owner(dir: &Path) -> Option<Owner> {
    let _exclusion = exclude_others(dir);
    match examine(dir) {
        Ok(Found::Owned(owner)) => Some(owner),
        // Being made, or not to be judged: rather in use than not.
        Ok(Found::Empty { age }) if age < EMPTY_AGE_MAX => Some(Owner::unknown(0)),
        _ => None,
    }
}

impl LockGuard {
    /// The locked directory was renamed to `dir`.
    pub fn moved_to(&mut self, dir: &Path) {
        dir.clone_into(&mut self.dir);
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        let released = match &self.held {
            Held::Nothing => Ok(()),
            Held::Exclusive(file) => release_exclusive(&self.dir, file),
            Held::Shared { .. } => release_shared(&self.dir),
        };
        if let Err(error) = released {
            // A lock file that stays is stale once this process has ended.
            tracing::warn!("{error}: {}", plain(&error.source));
        }
    }
}

fn release_exclusive(dir: &Path, file: &File) -> Result<(), StorageError> {
    let path = dir.join(EXCLUSIVE_LOCK);
    let _exclusion = exclude_others(dir);
    if is_same_file(&path, file) {
        fault::step("remove", &path)
            .and_then(|()| std::fs::remove_file(&path))
            .map_err(|e| StorageError::new("remove", &path, e))?;
    }
    Ok(())
}

fn release_shared(dir: &Path) -> Result<(), StorageError> {
    let _exclusion = exclude_others(dir);
    let mut readers = Readers::read(dir)?;
    readers.remove_own();
    readers.write(dir)
}

enum Taken {
    File(File),
    ReadOnly,
    NoSpace,
}

struct Waiting<'a> {
    dir: &'a Path,
    path: PathBuf,
    id: BackupId,
    options: LockOptions<'a>,
    started: Instant,
}

impl<'a> Waiting<'a> {
    fn new(dir: &'a Path, id: BackupId, options: LockOptions<'a>) -> Waiting<'a> {
        Waiting {
            dir,
            path: dir.join(EXCLUSIVE_LOCK),
            id,
            options,
            started: Instant::now(),
        }
    }

    fn failed(&self, source: StorageError) -> LockError {
        LockError::File {
            id: self.id,
            source,
        }
    }

    fn pause(&self) -> Result<(), LockError> {
        std::thread::sleep(POLL);
        match self.options.cancel {
            Some(cancel) if cancel.load(Ordering::Relaxed) => Err(LockError::Interrupted),
            _ => Ok(()),
        }
    }

    fn take_exclusive(&self) -> Result<Taken, LockError> {
        let mut next_message = Duration::ZERO;
        loop {
            if let Some(taken) = self.try_create()? {
                return Ok(taken);
            }
            let exclusion = exclude_others(self.dir);
            match examine(self.dir).map_err(|error| self.failed(error))? {
                Found::Absent => continue,
                Found::Stale { pid, text } => {
                    self.report_stale(pid, &text);
                    self.remove_stale()?;
                    continue;
                }
                Found::Empty { age } if age >= EMPTY_AGE_MAX => {
                    self.remove_stale()?;
                    continue;
                }
                Found::Empty { .. } => {
                    // No owner to name yet, so this waits whatever the options say; it is over in
                    // an instant unless the maker was killed.
                    if self.started.elapsed() >= EMPTY_AGE_MAX {
                        self.remove_stale()?;
                        continue;
                    }
                    if self.started.elapsed() >= next_message {
                        tracing::warn!("Lock file \"{}\" is empty", self.path.display());
                        next_message += MESSAGE_EVERY;
                    }
                }
                Found::Owned(owner) => self.report_owner(&owner, false, &mut next_message)?,
            }
            drop(exclusion);
            self.pause()?;
        }
    }

    // The lock file, if it was not there.
    fn try_create(&self) -> Result<Option<Taken>, LockError> {
        let create = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(FILE_MODE)
                .open(&self.path)
        };
        let created = fault::step("create", &self.path).and_then(|()| create());
        let mut file = match created {
            Ok(file) => file,
            Err(e) => {
                return match e.kind() {
                    ErrorKind::AlreadyExists => Ok(None),
                    ErrorKind::ReadOnlyFilesystem => {
                        tracing::warn!(
                            "Could not create lock file \"{}\": {}",
                            self.path.display(),
                            plain(&e)
                        );
                        Ok(Some(Taken::ReadOnly))
                    }
                    ErrorKind::StorageFull if !self.options.strict => Ok(Some(Taken::NoSpace)),
                    _ => Err(self.failed(StorageError::new("create lock file", &self.path, e))),
                };
            }
        };
        // Where the file system has no flock, process ids have to do, as for the original.
        let _ = rustix::fs::flock(&file, FlockOperation::LockExclusive);
        let text = format!("{}\n", LockLine::own());
        let written = fault::step("write", &self.path)
            .and_then(|()| file.write_all(text.as_bytes()))
            .and_then(|()| file.sync_all());
        match written {
            Ok(()) => Ok(Some(Taken::File(file))),
            Err(e) if e.kind() == ErrorKind::StorageFull && !self.options.strict => {
                Ok(Some(Taken::File(file)))
            }
            Err(e) => {
                let error = StorageError::new("write lock file", &self.path, e);
                // The failure to write is the one to report.
                let _ = release_exclusive(self.dir, &file);
                Err(self.failed(error))
            }
        }
    }

    fn remove_stale(&self) -> Result<(), LockError> {
        match std::fs::remove_file(&self.path) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) => {
                let error = StorageError::new("remove stale lock file", &self.path, e);
                Err(self.failed(error))
            }
        }
    }

    fn report_stale(&self, pid: Option<i32>, text: &str) {
        match pid {
            Some(pid) => tracing::warn!(
                "Process {pid} which used backup {} no longer exists",
                self.id
            ),
            None => tracing::warn!(
                "Bogus data in lock file \"{}\": \"{}\"",
                self.path.display(),
                printable(text)
            ),
        }
    }

    // Says who is waited for, now and then; fails when the time is up.
    fn report_owner(
        &self,
        owner: &Owner,
        shared: bool,
        next_message: &mut Duration,
    ) -> Result<(), LockError> {
        let elapsed = self.started.elapsed();
        if elapsed >= self.options.wait {
            return Err(LockError::InUse {
                id: self.id,
                owner: owner.clone(),
                path: self
                    .dir
                    .join(if shared { SHARED_LOCK } else { EXCLUSIVE_LOCK }),
                shared,
            });
        }
        if elapsed >= *next_message {
            let (who, id) = (who(owner), self.id);
            let who = who[..1].to_uppercase() + &who[1..];
            let left = (self.options.wait - elapsed).as_secs();
            let state = if owner.is_elsewhere() {
                "which cannot be asked from here"
            } else {
                "and is still running"
            };
            if shared {
                tracing::warn!("{who} is using backup {id} in shared mode, {state}");
                tracing::warn!("Waiting {left} seconds on lock for backup {id}");
            } else {
                tracing::warn!("{who} is using backup {id}, {state}");
                tracing::warn!("Waiting {left} seconds on exclusive lock for backup {id}");
            }
            *next_message += MESSAGE_EVERY;
        }
        Ok(())
    }

    // Until nobody else reads; then the list is removed.
    fn wait_for_readers(&self) -> Result<(), LockError> {
        let mut next_message = Duration::ZERO;
        loop {
            let exclusion = exclude_others(self.dir);
            let readers = Readers::read(self.dir).map_err(|error| self.failed(error))?;
            let Some(reader) = readers.other() else {
                return remove_readers(self.dir).map_err(|error| self.failed(error));
            };
            self.report_owner(&reader, true, &mut next_message)?;
            drop(exclusion);
            self.pause()?;
        }
    }
}

// The words for an owner.
fn who(owner: &Owner) -> String {
    match &owner.host {
        Some(host) if !owner.is_here => {
            format!("process {} on host {}", owner.pid, printable(host))
        }
        _ => format!("process {}", owner.pid),
    }
}

#[cfg(test)]
#[path = "lock_tests.rs"]
mod tests;
