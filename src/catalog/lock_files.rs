//! The lock files of a backup as files: who stands in them, whether an `flock` is on them, and the
//! list of readers.
//!
//! A reader also holds a shared `flock` on the backup's `database` directory, so that of readers in
//! other containers of this machine it can be known that none is left.

use super::layout::{DATABASE, EXCLUSION, EXCLUSIVE_LOCK, FILE_MODE, SHARED_LOCK};
use super::layout::{SHARED_LOCK_TEMPORARY, is_same_file};
use super::lock_owner::{LockLine, Verdict};
use crate::io::fault;
use crate::storage::StorageError;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes of a lock file that are looked at: several thousand readers.
const LOCK_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Who has a backup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Owner {
    /// Its process id; 0 where that has not been written yet.
    pub pid: i32,
    /// Since when, in seconds since 1970.
    pub since: i64,
    /// The name of its host, where that is known.
    pub host: Option<String>,
    /// Whether it is a process of this host and container, so that its id means something here.
    pub is_here: bool,
}

impl Owner {
    /// One that has not written its id yet.
    pub(super) fn unknown(since: i64) -> Owner {
        Owner {
            pid: 0,
            since,
            host: None,
            is_here: false,
        }
    }

    /// Whether it is of another host or container, so that nothing here shows whether it lives.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        self.host.is_some() && !self.is_here
    }

    fn new(line: &LockLine, written_at: i64) -> Owner {
        Owner {
            pid: line.pid,
            since: line.since(written_at),
            host: line.host(written_at),
            is_here: line.is_here(written_at),
        }
    }
}

/// What `backup.pid` says.
pub(super) enum Found {
    Absent,
    Empty { age: Duration },
    Owned(Owner),
    Stale { pid: Option<i32>, text: String },
}

/// Whether somebody holds an `flock`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flock {
    Held,
    Free,
    /// The file system has none.
    Unknown,
}

fn probe(file: &File) -> Flock {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Flock::Free,
        Err(Errno::WOULDBLOCK) => Flock::Held,
        Err(_) => Flock::Unknown,
    }
}

/// Keeps other processes of ours from examining or changing the lock files of this backup for a
/// moment, and from changing its record under a shared lock, as long as what is returned lives.
///
/// Network file systems lock only what is open for writing, which a directory never is: there an
/// extra file is made for the moment. Where neither works, the small races of the original remain.
#[must_use]
pub fn exclude_others(dir: &Path) -> Option<Exclusion> {
    let directory = File::open(dir).ok()?;
    if lock_and_wait(&directory) {
        return Some(Exclusion {
            _lock: directory,
            made: None,
        });
    }
    exclude_by_file(dir)
}

fn lock_and_wait(file: &File) -> bool {
    rustix::io::retry_on_intr(|| rustix::fs::flock(file, FlockOperation::LockExclusive)).is_ok()
}

fn exclude_by_file(dir: &Path) -> Option<Exclusion> {
    let path = dir.join(EXCLUSION);
    loop {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(&path)
            .ok()?;
        if !lock_and_wait(&file) {
            let _ = std::fs::remove_file(&path);
            return None;
        }
        // Whoever had it before removed it when done.
        if is_same_file(&path, &file) {
            return Some(Exclusion {
                _lock: file,
                made: Some(path),
            });
        }
    }
}

/// Others are kept out until this is dropped.
#[derive(Debug)]
pub struct Exclusion {
    _lock: File,
    made: Option<PathBuf>,
}

impl Drop for Exclusion {
    fn drop(&mut self) {
        // Before the lock goes with the file: whoever waits for it then makes another.
        if let Some(path) = &self.made {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// What the exclusive lock says.
pub(super) fn examine(dir: &Path) -> Result<Found, StorageError> {
    let path = &dir.join(EXCLUSIVE_LOCK);
    // For writing, because network file systems lock only that.
    let opened = match OpenOptions::new().read(true).write(true).open(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => File::open(path),
        opened => opened,
    };
    let file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Found::Absent),
        Err(e) => return Err(StorageError::new("open lock file", path, e)),
    };
    let text = read_lock_file(&file).map_err(|e| StorageError::new("read lock file", path, e))?;
    let line = LockLine::parse(text.lines().next().unwrap_or_default());
    let written_at = modified_at(path);
    let flock = probe(&file);
    if flock == Flock::Held {
        let owner = line.map_or_else(
            || Owner::unknown(written_at),
            |line| Owner::new(&line, written_at),
        );
        return Ok(Found::Owned(owner));
    }
    if text.is_empty() {
        let written_at = Duration::from_secs(u64::try_from(written_at).unwrap_or(0));
        let age = SystemTime::now().duration_since(UNIX_EPOCH + written_at);
        let age = age.unwrap_or(Duration::ZERO);
        return Ok(Found::Empty { age });
    }
    let Some(line) = line else {
        return Ok(Found::Stale { pid: None, text });
    };
    let is_stale = match line.verdict(written_at) {
        Verdict::Dead => true,
        // This process has no lock on it, so an earlier one of the same id wrote it, unless flock
        // says nothing.
        Verdict::Alive => line.is_own() && (flock == Flock::Free || line.place.is_none()),
        Verdict::OtherContainer => flock == Flock::Free,
        Verdict::OtherHost => false,
    };
    Ok(if is_stale {
        let pid = Some(line.pid);
        Found::Stale { pid, text }
    } else {
        Found::Owned(Owner::new(&line, written_at))
    })
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

/// Those that read a backup.
pub(super) struct Readers {
    lines: Vec<LockLine>,
    written_at: i64,
}

impl Readers {
    /// Those of the list that live, or may live, this process included.
    pub(super) fn read(dir: &Path) -> Result<Readers, StorageError> {
        let path = dir.join(SHARED_LOCK);
        let mut readers = Readers {
            lines: Vec::new(),
            written_at: modified_at(&path),
        };
        let text = match File::open(&path).and_then(|file| read_lock_file(&file)) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(readers),
            Err(e) => return Err(StorageError::new("read lock file", &path, e)),
        };
        let mut containers = None;
        for line in text.lines().filter_map(LockLine::parse) {
            let is_there = match line.verdict(readers.written_at) {
                Verdict::Alive | Verdict::OtherHost => true,
                Verdict::Dead => false,
                Verdict::OtherContainer => *containers.get_or_insert_with(|| may_be_read(dir)),
            };
            if is_there {
                readers.lines.push(line);
            }
        }
        Ok(readers)
    }

    pub(super) fn add_own(&mut self) {
        self.lines.push(LockLine::own());
    }

    /// Takes out one entry of this process, which may have several: one for each guard.
    pub(super) fn remove_own(&mut self) {
        if let Some(at) = self.lines.iter().position(LockLine::is_own) {
            self.lines.remove(at);
        }
    }

    /// One that is not this process.
    pub(super) fn other(&self) -> Option<Owner> {
        let line = self.lines.iter().find(|line| !line.is_own())?;
        Some(Owner::new(line, self.written_at))
    }

    /// Replaces the list; an empty one is removed.
    pub(super) fn write(&self, dir: &Path) -> Result<(), StorageError> {
        let path = dir.join(SHARED_LOCK);
        if self.lines.is_empty() {
            return remove_readers(dir);
        }
        let temporary = dir.join(SHARED_LOCK_TEMPORARY);
        let text: String = self.lines.iter().map(|line| format!("{line}\n")).collect();
        // Not synced: after a power cut nobody on the list lives.
        fault::step("write", &temporary)
            .and_then(|()| {
                OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(FILE_MODE)
                    .open(&temporary)
            })
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|e| StorageError::new("write", &temporary, e))?;
        std::fs::rename(&temporary, &path).map_err(|e| StorageError::new("rename", &temporary, e))
    }
}

/// Removes the list of readers.
pub(super) fn remove_readers(dir: &Path) -> Result<(), StorageError> {
    let path = dir.join(SHARED_LOCK);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(StorageError::new("remove", &path, e)),
        _ => Ok(()),
    }
}

/// The `flock` of a reader, which other containers of this machine see.
pub(super) fn reader_flock(dir: &Path) -> Option<File> {
    let database = File::open(dir.join(DATABASE)).ok()?;
    rustix::fs::flock(&database, FlockOperation::NonBlockingLockShared).ok()?;
    Some(database)
}

fn may_be_read(dir: &Path) -> bool {
    File::open(dir.join(DATABASE)).map_or(true, |database| probe(&database) != Flock::Free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_directories_cannot_be_locked_a_file_excludes_others_and_is_gone_afterwards() {
        let scratch = tempfile::tempdir().unwrap();
        let inside = std::sync::atomic::AtomicUsize::new(0);
        let order = std::sync::atomic::Ordering::SeqCst;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let exclusion = exclude_by_file(scratch.path()).unwrap();
                        assert_eq!(inside.fetch_add(1, order), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, order);
                        drop(exclusion);
                    }
                });
            }
        });
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_list_of_readers_that_cannot_be_read_is_an_error_and_not_an_empty_one() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir(scratch.path().join(SHARED_LOCK)).unwrap();
        assert!(Readers::read(scratch.path()).is_err());
    }
}
