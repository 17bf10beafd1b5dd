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
//!
//! Not better: ids of other hosts say nothing here. A catalog on a network file system needs one
//! host at a time.

use super::instance::plain;
use super::layout::{EXCLUSIVE_LOCK, FILE_MODE, SHARED_LOCK, SHARED_LOCK_TEMPORARY};
use super::process::{is_alive, own_pid};
use crate::format::catalog::{format_timestamp, printable};
use crate::io::fault;
use crate::storage::StorageError;
use crate::types::BackupId;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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
        "Cannot lock backup {id} directory: process {pid} has used it {how}since {since} \
         and is still running",
        how = if *.shared { "in shared mode " } else { "" }
    )]
    InUse {
        /// The backup.
        id: BackupId,
        /// Process id of the owner.
        pid: i32,
        /// Since when, as text.
        since: String,
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
    Shared,
    // On a medium that cannot be written there is nothing to write and nobody to keep out.
    Nothing,
}

/// Who has a backup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Owner {
    /// Its process id.
    pub pid: i32,
    /// Since when, in seconds since 1970.
    pub since: i64,
}

/// Pause between two looks at a lock.
const POLL: Duration = Duration::from_millis(200);
/// Between two messages while waiting.
const MESSAGE_EVERY: Duration = Duration::from_secs(10);
/// A lock file that is still empty after this was left by a process killed between creating and
/// writing it.
const EMPTY_AGE_MAX: Duration = Duration::from_secs(30);
/// Bytes of a list of readers that are looked at.
const LOCK_FILE_BYTES_MAX: u64 = 64 * 1024;

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
        let mut readers = live_readers(dir);
        readers.push(own_pid());
        write_readers(dir, &readers)
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
        held: Held::Shared,
    })
}

/// Who changes a backup now, if anybody. Nothing is written.
#[must_use]
pub fn exclusive_owner(dir: &Path) -> Option<Owner> {
    let _exclusion = exclude_others(dir);
    match examine(&dir.join(EXCLUSIVE_LOCK)) {
        Ok(Found::Alive(owner)) => Some(owner),
        // Being made, or not to be judged: rather in use than not.
        Ok(Found::Empty { age }) if age < EMPTY_AGE_MAX => Some(Owner { pid: 0, since: 0 }),
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
            Held::Shared => release_shared(&self.dir),
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
    let mut readers = live_readers(dir);
    // One entry for each guard: this process may hold several.
    if let Some(at) = readers.iter().position(|pid| *pid == own_pid()) {
        readers.remove(at);
    }
    write_readers(dir, &readers)
}

// The directory was perhaps deleted while the lock was held: then nothing is there to remove.
fn is_same_file(path: &Path, file: &File) -> bool {
    match (std::fs::symlink_metadata(path), file.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

enum Taken {
    File(File),
    ReadOnly,
    NoSpace,
}

// What `backup.pid` says.
enum Found {
    Absent,
    Empty { age: Duration },
    Alive(Owner),
    Stale { pid: Option<i32>, text: String },
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
            match examine(&self.path).map_err(|error| self.failed(error))? {
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
                Found::Alive(owner) => self.report_owner(&owner, false, &mut next_message)?,
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
        let text = format!("{}\n", own_pid());
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
                pid: owner.pid,
                since: format_timestamp(owner.since),
                shared,
            });
        }
        if elapsed >= *next_message {
            let (pid, id) = (owner.pid, self.id);
            let left = (self.options.wait - elapsed).as_secs();
            if shared {
                tracing::warn!(
                    "Process {pid} is using backup {id} in shared mode, and is still running"
                );
                tracing::warn!("Waiting {left} seconds on lock for backup {id}");
            } else {
                tracing::warn!("Process {pid} is using backup {id}, and is still running");
                tracing::warn!("Waiting {left} seconds on exclusive lock for backup {id}");
            }
            *next_message += MESSAGE_EVERY;
        }
        Ok(())
    }

    // Until nobody else reads; then the list is removed.
    fn wait_for_readers(&self) -> Result<(), LockError> {
        let path = self.dir.join(SHARED_LOCK);
        let mut next_message = Duration::ZERO;
        loop {
            let exclusion = exclude_others(self.dir);
            let reader = live_readers(self.dir)
                .into_iter()
                .find(|pid| *pid != own_pid());
            let Some(pid) = reader else {
                return match std::fs::remove_file(&path) {
                    Err(e) if e.kind() != ErrorKind::NotFound => {
                        Err(self.failed(StorageError::new("remove", &path, e)))
                    }
                    _ => Ok(()),
                };
            };
            let since = modified_at(&path);
            self.report_owner(&Owner { pid, since }, true, &mut next_message)?;
            drop(exclusion);
            self.pause()?;
        }
    }
}

/// Keeps other processes of ours from examining or changing the lock files of this backup for a
/// moment, and from changing its record under a shared lock, as long as what is returned lives.
/// Where the file system has no flock, the small races of the original remain.
pub fn exclude_others(dir: &Path) -> Option<File> {
    let directory = File::open(dir).ok()?;
    rustix::fs::flock(&directory, FlockOperation::LockExclusive).ok()?;
    Some(directory)
}

fn examine(path: &Path) -> Result<Found, StorageError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Found::Absent),
        Err(e) => return Err(StorageError::new("open lock file", path, e)),
    };
    let text = read_lock_file(&file).map_err(|e| StorageError::new("read lock file", path, e))?;
    let pid = text.trim().parse::<i32>().ok().filter(|pid| *pid > 0);
    let since = modified_at(path);
    let held = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        == Err(Errno::WOULDBLOCK);
    if held {
        let pid = pid.unwrap_or(0);
        return Ok(Found::Alive(Owner { pid, since }));
    }
    if text.is_empty() {
        let age = SystemTime::now()
            .duration_since(UNIX_EPOCH + Duration::from_secs(u64::try_from(since).unwrap_or(0)));
        return Ok(Found::Empty {
            age: age.unwrap_or(Duration::ZERO),
        });
    }
    match pid {
        // This process has no lock on it, so an earlier one of the same id wrote it.
        Some(pid) if pid != own_pid() && is_alive(pid, since) => {
            Ok(Found::Alive(Owner { pid, since }))
        }
        pid => Ok(Found::Stale { pid, text }),
    }
}

fn read_lock_file(file: &File) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    file.take(LOCK_FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

// Seconds since 1970; the epoch where it is not known, so that no process counts as older.
fn modified_at(path: &Path) -> i64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.mtime())
}

// Those of the list that live, this process included.
fn live_readers(dir: &Path) -> Vec<i32> {
    let path = dir.join(SHARED_LOCK);
    let Ok(text) = File::open(&path).and_then(|file| read_lock_file(&file)) else {
        return Vec::new();
    };
    let since = modified_at(&path);
    text.lines()
        .filter_map(|line| line.trim().parse().ok())
        .filter(|pid| *pid > 0 && is_alive(*pid, since))
        .collect()
}

fn write_readers(dir: &Path, readers: &[i32]) -> Result<(), StorageError> {
    let path = dir.join(SHARED_LOCK);
    if readers.is_empty() {
        return match std::fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(StorageError::new("remove", &path, e)),
            _ => Ok(()),
        };
    }
    let temporary = dir.join(SHARED_LOCK_TEMPORARY);
    let text = readers
        .iter()
        .map(|pid| format!("{pid}\n"))
        .collect::<String>();
    // Not synced: after a power cut nobody on the list lives.
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(FILE_MODE)
        .open(&temporary)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|e| StorageError::new("write", &temporary, e))?;
    std::fs::rename(&temporary, &path).map_err(|e| StorageError::new("rename", &temporary, e))
}

#[cfg(test)]
#[path = "lock_tests.rs"]
mod tests;
