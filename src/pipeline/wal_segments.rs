//! Streamed WAL on disk.
//!
//! A segment is created as `<name>.partial` with its full size, filled in place, and gets its name
//! when it is complete: fsync, rename, fsync of the directory. The renames are in the order of the
//! segments, so that what has a name is a gapless stretch of durable WAL, and a run that dies
//! leaves nothing else but `.partial` files in its own backup's directory.
//!
//! Syncing is done by a thread of its own: while a segment is being made durable the next one is
//! received, and the server gets its answers. At most [`WAL_UNSYNCED_SEGMENTS_MAX`] segments wait
//! for it. Bytes go to the page cache as they come; no more than one message is ever in memory.
//!
//! The CRC-32C of each segment is computed while it is written; the zeros behind the last byte are
//! neither written nor hashed one by one.

use crate::format::wal::{record_position, segment_name, segment_number};
use crate::io::{File, IoError};
use crate::limits::WAL_UNSYNCED_SEGMENTS_MAX;
use crate::server::wal_stream::{SinkError, WalSink};
use crate::storage::{Storage, StorageError};
use crate::types::{Lsn, TimelineId};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// Permission bits of WAL files, as the server's.
const MODE: u32 = 0o600;

/// A complete segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WalSegment {
    /// The file name, without directory.
    pub name: String,
    /// Bytes of the file.
    pub size_bytes: u64,
    /// CRC-32C of the file.
    pub crc: u32,
}

/// Why WAL could not be stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalSegmentsError {
    /// Writing or syncing failed.
    #[error(transparent)]
    Io(#[from] IoError),
    /// Creating, renaming or removing failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// WAL does not begin where a segment does, or does not follow what is there.
    #[error("cannot write WAL of {found} behind {expected}")]
    Position {
        /// Where the next byte lies; for the first, the start of its segment.
        expected: Lsn,
        /// Where it was said to lie.
        found: Lsn,
    },
    /// The WAL that the backup needs is not all there.
    #[error("cannot finish the WAL of the backup: it ends at {end}, before {stop}")]
    EndsEarly {
        /// End of the WAL written.
        end: Lsn,
        /// The backup's stop position.
        stop: Lsn,
    },
    /// Something failed before, and was reported then.
    #[error("cannot store more WAL after a failure")]
    Failed,
    /// The thread that syncs could not be started.
    #[error("cannot start a thread to sync WAL")]
    Thread(#[source] std::io::Error),
}

/// A [`WalSink`] that writes segment files into one directory.
#[derive(Debug)]
pub struct WalSegments {
    place: Arc<Place>,
    sync: bool,
    /// Where the next byte lies, once there was one.
    position: Option<Lsn>,
    open: Option<OpenSegment>,
    /// Those handed over to be completed, by number.
    completed: Vec<(u64, WalSegment)>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Where segments are and how they are named.
#[derive(Debug)]
struct Place {
    storage: Arc<dyn Storage>,
    directory: PathBuf,
    timeline: TimelineId,
    segment_bytes: u64,
}

/// The segment that is being filled.
#[derive(Debug)]
struct OpenSegment {
    number: u64,
    file: Arc<File>,
    /// Bytes written; always from its start.
    written: u64,
    /// CRC-32C of those.
    crc: u32,
}

/// Work of the syncing thread.
#[derive(Debug)]
enum Job {
    /// Make a segment that is being filled durable through `end`.
    Sync { file: Arc<File>, end: Lsn },
    /// Make a full segment durable and give it its name.
    Complete { file: Arc<File>, number: u64 },
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Signalled when a job was added or was done, or no more will come.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    /// A job is being done.
    busy: bool,
    closing: bool,
    durable: Lsn,
    /// Something failed; `error` says what until it was reported.
    failed: bool,
    error: Option<WalSegmentsError>,
}

impl WalSegments {
    /// Stores WAL in `directory`, which exists, of `storage`. Without `sync` nothing is made
    /// durable: then "durable" means written.
    ///
    /// # Errors
    /// [`WalSegmentsError::Thread`].
    pub fn new(
        storage: Arc<dyn Storage>,
        directory: &Path,
        timeline: TimelineId,
        segment_bytes: u64,
        sync: bool,
    ) -> Result<WalSegments, WalSegmentsError> {
        let place = Arc::new(Place {
            storage,
            directory: directory.to_owned(),
            timeline,
            segment_bytes,
        });
        let shared = Arc::new(Shared::default());
        let (for_thread, place_of_thread) = (Arc::clone(&shared), Arc::clone(&place));
        let thread = std::thread::Builder::new()
            .name("wal-sync".to_owned())
            .spawn(move || for_thread.work(&place_of_thread, sync))
            .map_err(WalSegmentsError::Thread)?;
        Ok(WalSegments {
            place,
            sync,
            position: None,
            open: None,
            completed: Vec::new(),
            shared,
            thread: Some(thread),
        })
    }

    /// Completes the last segment with zeros, makes all durable, and removes segments that lie
    /// wholly behind the record that starts at `stop`. Returns those that stay, in order.
    ///
    /// # Errors
    /// [`WalSegmentsError`]: a step failed now or earlier, or WAL ends before `stop`.
    pub fn finish(mut self, stop: Lsn) -> Result<Vec<WalSegment>, WalSegmentsError> {
        let end = self.position.unwrap_or(Lsn::INVALID);
        if end < stop {
            return Err(WalSegmentsError::EndsEarly { end, stop });
        }
        let segment_bytes = self.place.segment_bytes;
        let record = record_position(stop, segment_bytes);
        let last = segment_number(record, segment_bytes);
        let mut removed = Vec::new();
        if let Some(open) = self.open.take() {
            if open.number <= last {
                let zeros = segment_bytes - open.written;
                self.complete(OpenSegment {
                    crc: crc32c::crc32c_combine(open.crc, crc_of_zeros(zeros), length(zeros)),
                    written: segment_bytes,
                    ..open
                })?;
            } else {
                removed.push(self.place.partial(open.number));
            }
        }
        self.wait_for_jobs(0)?;
        for (number, segment) in &self.completed {
            if *number > last {
                removed.push(self.place.directory.join(&segment.name));
            }
        }
        for path in &removed {
            self.place.storage.remove_file(path)?;
        }
        if self.sync {
            self.place.storage.sync_dir(&self.place.directory)?;
        }
        let kept = std::mem::take(&mut self.completed).into_iter();
        Ok(kept
            .filter(|(number, _)| *number <= last)
            .map(|(_, segment)| segment)
            .collect())
    }

    fn append(&mut self, at: Lsn, mut bytes: &[u8]) -> Result<(), WalSegmentsError> {
        let segment_bytes = self.place.segment_bytes;
        let segment_start = Lsn(at.0 - at.0 % segment_bytes);
        let expected = self.position.unwrap_or(segment_start);
        if at != expected {
            return Err(WalSegmentsError::Position {
                expected,
                found: at,
            });
        }
        let mut position = at;
        while !bytes.is_empty() {
            let mut open = match self.open.take() {
                Some(open) => open,
                None => self.place.create(segment_number(position, segment_bytes))?,
            };
            let room = length(segment_bytes - open.written);
            let (here, rest) = bytes.split_at(bytes.len().min(room));
            open.file.write_all_at(here, open.written)?;
            open.crc = crc32c::crc32c_append(open.crc, here);
            let count = u64::try_from(here.len()).expect("a usize fits on every platform");
            open.written += count;
            position.0 += count;
            self.position = Some(position);
            bytes = rest;
            if open.written == segment_bytes {
                self.complete(open)?;
            } else {
                self.open = Some(open);
            }
        }
        Ok(())
    }

    /// Hands a full segment over.
    fn complete(&mut self, segment: OpenSegment) -> Result<(), WalSegmentsError> {
        // Normally no wait: the receiver asks whether there is room before it takes a message.
        self.wait_for_jobs(WAL_UNSYNCED_SEGMENTS_MAX)?;
        let number = segment.number;
        self.completed.push((
            number,
            WalSegment {
                name: self.place.name(number),
                size_bytes: segment.written,
                crc: segment.crc,
            },
        ));
        self.shared.add(Job::Complete {
            file: segment.file,
            number,
        });
        Ok(())
    }

    /// Waits until no more than so many jobs are left.
    fn wait_for_jobs(&self, left: usize) -> Result<(), WalSegmentsError> {
        let mut state = self.shared.lock();
        while !state.failed && state.jobs.len() + usize::from(state.busy) > left {
            state = wait(&self.shared.changed, state);
        }
        state.check()
    }
}

impl WalSink for WalSegments {
    fn write(&mut self, at: Lsn, bytes: &[u8]) -> Result<(), SinkError> {
        self.shared.lock().check()?;
        let appended = self.append(at, bytes);
        if appended.is_err() {
            self.shared.lock().failed = true;
        }
        Ok(appended?)
    }

    fn start_sync(&mut self) -> Result<(), SinkError> {
        if let (Some(open), Some(end)) = (&self.open, self.position) {
            let file = Arc::clone(&open.file);
            self.shared.add(Job::Sync { file, end });
        }
        Ok(self.shared.lock().check()?)
    }

    fn durable(&mut self) -> Result<Lsn, SinkError> {
        let mut state = self.shared.lock();
        state.check()?;
        Ok(state.durable)
    }

    fn is_ready(&mut self) -> bool {
        let state = self.shared.lock();
        state.failed || state.jobs.len() < WAL_UNSYNCED_SEGMENTS_MAX
    }
}

impl Drop for WalSegments {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.closing = true;
            // Left over only where the run failed.
            state.jobs.clear();
        }
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so already; panicking again while dropping would
            // abort.
            let _ = thread.join();
        }
    }
}

impl Place {
    fn name(&self, number: u64) -> String {
        segment_name(self.timeline, number, self.segment_bytes)
    }

    fn partial(&self, number: u64) -> PathBuf {
        let mut name = self.name(number);
        name.push_str(".partial");
        self.directory.join(name)
    }

    /// Creates a segment of zeros.
    fn create(&self, number: u64) -> Result<OpenSegment, WalSegmentsError> {
        let file = self.storage.create(&self.partial(number), MODE, false)?;
        // In one piece if possible; syncing then changes nothing but data.
        file.allocate(self.segment_bytes);
        file.set_len(self.segment_bytes)?;
        Ok(OpenSegment {
            number,
            file: Arc::new(file),
            written: 0,
            crc: 0,
        })
    }

    /// Does a job; returns what is durable then.
    fn carry_out(&self, job: &Job, sync: bool) -> Result<Lsn, WalSegmentsError> {
        match job {
            Job::Sync { file, end } => {
                if sync {
                    file.sync()?;
                }
                Ok(*end)
            }
            Job::Complete { file, number } => {
                if sync {
                    file.sync()?;
                    // Nobody reads it soon, and who validates it shall read the device.
                    file.drop_cache();
                }
                let path = self.directory.join(self.name(*number));
                self.storage.rename(&self.partial(*number), &path)?;
                if sync {
                    self.storage.sync_dir(&self.directory)?;
                }
                Ok(Lsn((number + 1).saturating_mul(self.segment_bytes)))
            }
        }
    }
}

impl Shared {
    /// The life of the thread.
    fn work(&self, place: &Place, sync: bool) {
        let mut state = self.lock();
        loop {
            if state.failed {
                // What comes behind a failure must not look durable.
                state.jobs.clear();
            }
            let Some(job) = state.jobs.pop_front() else {
                if state.closing {
                    return;
                }
                state = wait(&self.changed, state);
                continue;
            };
            state.busy = true;
            drop(state);
            let done = place.carry_out(&job, sync);
            drop(job);
            state = self.lock();
            state.busy = false;
            match done {
                Ok(durable) => state.durable = state.durable.max(durable),
                Err(error) => {
                    state.failed = true;
                    state.error = Some(error);
                }
            }
            self.changed.notify_all();
        }
    }

    fn add(&self, job: Job) {
        self.lock().jobs.push_back(job);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let state = self.state.lock();
        state.expect("no thread panics while it holds this lock")
    }
}

impl State {
    /// Reports a failure: what it was the first time, that there was one ever after.
    fn check(&mut self) -> Result<(), WalSegmentsError> {
        match self.error.take() {
            Some(error) => Err(error),
            None if self.failed => Err(WalSegmentsError::Failed),
            None => Ok(()),
        }
    }
}

fn wait<'a>(changed: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    let waited = changed.wait(state);
    waited.expect("no thread panics while it holds this lock")
}

/// The CRC-32C of so many zeros, by doubling.
fn crc_of_zeros(count: u64) -> u32 {
    let mut crc = 0;
    let (mut power, mut power_length) = (crc32c::crc32c(&[0]), 1);
    let mut left = count;
    while left > 0 {
        if left % 2 == 1 {
            crc = crc32c::crc32c_combine(crc, power, power_length);
        }
        left /= 2;
        if left > 0 {
            power = crc32c::crc32c_combine(power, power, power_length);
            power_length *= 2;
        }
    }
    crc
}

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).expect("segments fit in memory")
}

#[cfg(test)]
#[path = "wal_segments_tests.rs"]
mod tests;
