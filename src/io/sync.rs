//! The engine for where io_uring is refused: a few threads that call pread and pwrite.
//!
//! Jobs wait in one queue in front of all threads. A thread carries a request out from its first
//! step to its last, then puts the completion where [`BlockIo::wait`] finds it. Dropping the engine
//! forgets jobs that nobody began and waits for the others.

use super::transfer::{Progress, Step, Transfer};
use super::{BlockIo, Completion, IoError, Request, Waker};
use crate::limits::SYNC_ENGINE_THREADS_MAX;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The engine.
#[derive(Debug)]
pub(super) struct SyncIo {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    in_flight: usize,
}

#[derive(Debug, Default)]
struct Shared {
    jobs: Mutex<Jobs>,
    /// Signalled when a job was added or the engine closes.
    job_added: Condvar,
    results: Mutex<Results>,
    /// Signalled when a completion was added or somebody wakes the owner.
    result_added: Condvar,
}

#[derive(Debug, Default)]
struct Jobs {
    queue: VecDeque<Transfer>,
    closing: bool,
}

#[derive(Debug, Default)]
struct Results {
    completions: Vec<Completion>,
    woken: bool,
}

impl SyncIo {
    /// Starts `depth` threads, within [`SYNC_ENGINE_THREADS_MAX`].
    pub(super) fn new(depth: u32) -> Result<SyncIo, IoError> {
        let mut engine = SyncIo {
            shared: Arc::default(),
            threads: Vec::new(),
            in_flight: 0,
        };
        for number in 0..depth.clamp(1, SYNC_ENGINE_THREADS_MAX) {
            let shared = Arc::clone(&engine.shared);
            let started = std::thread::Builder::new()
                .name(format!("io-{number}"))
                .spawn(move || shared.work());
            match started {
                Ok(thread) => engine.threads.push(thread),
                // Fewer threads are slower, none is an error.
                Err(_) if number > 0 => break,
                Err(source) => {
                    return Err(IoError {
                        operation: "start an I/O thread for",
                        path: PathBuf::from("pread/pwrite"),
                        offset: 0,
                        source,
                    });
                }
            }
        }
        Ok(engine)
    }
}

impl BlockIo for SyncIo {
    fn submit(&mut self, token: u64, request: Request) {
        self.in_flight += 1;
        self.shared
            .jobs()
            .queue
            .push_back(Transfer::new(token, request));
        self.shared.job_added.notify_one();
    }

    fn wait(
        &mut self,
        completions: &mut Vec<Completion>,
        timeout: Option<Duration>,
    ) -> Result<(), IoError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut results = self.shared.results();
        loop {
            if !results.completions.is_empty() || results.woken {
                results.woken = false;
                self.in_flight -= results.completions.len();
                completions.append(&mut results.completions);
                return Ok(());
            }
            let Some(deadline) = deadline else {
                let waited = self.shared.result_added.wait(results);
                results = waited.expect("no thread panics while it holds this lock");
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let waited = self.shared.result_added.wait_timeout(results, left);
            results = waited.expect("no thread panics while it holds this lock").0;
        }
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn waker(&self) -> Waker {
        let shared = Arc::clone(&self.shared);
        Waker(Arc::new(move || {
            shared.results().woken = true;
            shared.result_added.notify_one();
        }))
    }

    fn name(&self) -> &'static str {
        "pread/pwrite"
    }
}

impl Drop for SyncIo {
    fn drop(&mut self) {
        {
            let mut jobs = self.shared.jobs();
            jobs.closing = true;
            jobs.queue.clear();
        }
        self.shared.job_added.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so already; panicking again while dropping would
            // abort.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// The life of a thread.
    fn work(&self) {
        while let Some(transfer) = self.next_job() {
            let completion = carry_out(transfer);
            self.results().completions.push(completion);
            self.result_added.notify_one();
        }
    }

    fn next_job(&self) -> Option<Transfer> {
        let mut jobs = self.jobs();
        loop {
            if let Some(transfer) = jobs.queue.pop_front() {
                return Some(transfer);
            }
            if jobs.closing {
                return None;
            }
            let waited = self.job_added.wait(jobs);
            jobs = waited.expect("no thread panics while it holds this lock");
        }
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        let jobs = self.jobs.lock();
        jobs.expect("no thread panics while it holds this lock")
    }

    fn results(&self) -> MutexGuard<'_, Results> {
        let results = self.results.lock();
        results.expect("no thread panics while it holds this lock")
    }
}

/// Makes all steps of a request in the calling thread.
fn carry_out(mut transfer: Transfer) -> Completion {
    loop {
        let Some((step, buffer)) = transfer.step() else {
            return transfer.complete(Ok(()));
        };
        let result = match (step, buffer) {
            (Step::Read { fd, offset, memory }, Some(buffer)) => {
                rustix::io::pread(fd, &mut buffer.whole_mut()[memory], offset)
            }
            (Step::Write { fd, offset, memory }, Some(buffer)) => {
                rustix::io::pwrite(fd, &buffer.whole()[memory], offset)
            }
            (Step::Sync { fd }, _) => rustix::fs::fsync(fd).map(|()| 0),
            // There is no safe wrapper of sync_file_range; without the hint the kernel writes back
            // when it likes.
            (Step::Writeback { .. }, _) => Ok(0),
            (Step::Read { .. } | Step::Write { .. }, None) => {
                unreachable!("reads and writes have a buffer")
            }
        };
        if let Progress::Done(result) = transfer.advance(result) {
            return transfer.complete(result);
        }
    }
}
