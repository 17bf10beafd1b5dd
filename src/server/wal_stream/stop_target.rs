//! What the thread that streams WAL and the one that runs the backup tell each other.

use crate::types::Lsn;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When a stream has enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitFor {
    /// The segment with the record that starts at the stop position is complete: for a primary,
    /// which switches the segment right after it. The original's validation reads that record.
    SegmentEnd,
    /// WAL through the stop position is durable: for a standby, which cannot switch.
    Lsn,
}

/// Shared by the streaming thread and the one that runs the backup.
///
/// The backup's side: start the stream on a scoped thread; while the backup goes on, look from
/// time to time whether that thread `is_finished()`, because a stream that ended before
/// [`StopTarget::set`] has failed and so has the backup; then `set` the stop position and join.
/// When the backup fails, [`StopTarget::abandon`] and join.
#[derive(Debug, Default)]
pub struct StopTarget {
    state: Mutex<State>,
    durable: AtomicU64,
    received: AtomicU64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) enum State {
    /// The backup runs.
    #[default]
    Open,
    Set(Target),
    Abandoned,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Target {
    pub(super) lsn: Lsn,
    pub(super) wait_for: WaitFor,
    pub(super) within: Duration,
    pub(super) deadline: Option<Instant>,
}

impl StopTarget {
    /// A target that is not known yet.
    #[must_use]
    pub fn new() -> StopTarget {
        StopTarget::default()
    }

    /// The backup stopped at `lsn`: the stream ends once it has that, or fails when it does not
    /// have it `within` that time.
    ///
    /// # Panics
    /// When another thread panicked inside of this type.
    pub fn set(&self, lsn: Lsn, wait_for: WaitFor, within: Duration) {
        *self.lock() = State::Set(Target {
            lsn,
            wait_for,
            within,
            deadline: Instant::now().checked_add(within),
        });
    }

    /// The backup failed: the stream ends soon, with
    /// [`WalStreamError::Abandoned`](super::WalStreamError::Abandoned).
    ///
    /// # Panics
    /// As [`StopTarget::set`].
    pub fn abandon(&self) {
        *self.lock() = State::Abandoned;
    }

    /// WAL before this position is stored durably; [`Lsn::INVALID`] before the stream began.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        Lsn(self.durable.load(Ordering::Acquire))
    }

    /// WAL before this position has been received; [`Lsn::INVALID`] before the stream began.
    #[must_use]
    pub fn received(&self) -> Lsn {
        Lsn(self.received.load(Ordering::Acquire))
    }

    pub(super) fn state(&self) -> State {
        *self.lock()
    }

    pub(super) fn publish(&self, received: Lsn, durable: Lsn) {
        self.received.store(received.0, Ordering::Release);
        self.durable.store(durable.0, Ordering::Release);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        let state = self.state.lock();
        state.expect("no thread panics while it holds this lock")
    }
}
