//! Streaming WAL while a backup runs.
//!
//! The steps, on a replication connection of their own:
//!
//! 1. [`identify()`]: the connected server must be the instance, on the backup's timeline.
//! 2. [`create_temporary_slot`], where one is wanted and the server has such.
//! 3. [`start_command`]: what to send; the connection turns into a [`CopyStream`].
//! 4. [`receive()`], on a thread: WAL from the start of the first segment goes into a [`WalSink`]
//!    until the [`StopTarget`] is durable.
//!
//! Dropping the stream afterwards ends the connection, and with it a temporary slot.
//!
//! Invariants:
//!
//! * The sink sees every byte of WAL once, in order, without a gap.
//! * The server is told that WAL is flushed only after the sink said that it is durable.
//! * No wait is longer than the request's time-outs, and cancelling is noticed within
//!   [`WAL_POLL_MS`](crate::limits::WAL_POLL_MS).
//! * Timelines are not followed: a backup lies on one.

mod error;
mod identify;
mod receive;
mod stop_target;

pub use error::{Awaited, CommandError, WalStreamError};
pub use identify::{SlotCreation, create_temporary_slot, identify, start_command};
pub use receive::{ReceivedWal, receive};
pub use stop_target::{StopTarget, WaitFor};

use super::{CopyEvent, CopyStream, ServerError, Sql};
use crate::limits::{WAL_STALL_MS, WAL_STATUS_INTERVAL_MS, WAL_STOP_GRACE_MS};
use crate::types::{Lsn, ServerFlavor, TimelineId};
use std::error::Error;
use std::time::Duration;

/// What to stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WalStreamRequest {
    /// The server's kind.
    pub flavor: ServerFlavor,
    /// The instance's system identifier.
    pub system_identifier: u64,
    /// The backup's timeline.
    pub timeline: TimelineId,
    /// The backup's start position; streaming starts at its segment.
    pub start: Lsn,
    /// Bytes of a segment: a power of two.
    pub segment_bytes: u64,
    /// The replication slot, if any.
    pub slot: Option<Slot>,
    /// Silence of the server after which the stream fails; at half of it the server is asked for a
    /// sign of life.
    pub stall_timeout: Duration,
    /// Time between two status messages.
    pub status_interval: Duration,
    /// How long to wait for the rest of the last segment once the stop position is durable, counted
    /// from the last WAL that came.
    pub grace: Duration,
}

/// A replication slot to stream from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Slot {
    /// A physical slot that exists (`-S`).
    Existing(String),
    /// A physical slot that goes with the connection (`--temp-slot`). openGauss has none: there the
    /// request is as if without a slot, which is what the original makes of the option.
    Temporary(String),
}

impl WalStreamRequest {
    /// A request without a slot, with the usual time-outs.
    #[must_use]
    pub fn new(
        flavor: ServerFlavor,
        system_identifier: u64,
        timeline: TimelineId,
        start: Lsn,
        segment_bytes: u64,
    ) -> WalStreamRequest {
        WalStreamRequest {
            flavor,
            system_identifier,
            timeline,
            start,
            segment_bytes,
            slot: None,
            stall_timeout: Duration::from_millis(WAL_STALL_MS),
            status_interval: Duration::from_millis(WAL_STATUS_INTERVAL_MS),
            grace: Duration::from_millis(WAL_STOP_GRACE_MS),
        }
    }

    /// Where streaming starts: the first byte of the segment that holds the start position.
    #[must_use]
    pub fn first_byte(&self) -> Lsn {
        Lsn(self.start.0 - self.start.0 % self.segment_bytes)
    }
}

/// What a [`WalSink`] fails with.
pub type SinkError = Box<dyn Error + Send + Sync>;

/// Where streamed WAL goes. No method waits for a device longer than an ordinary write does: while
/// one waits, the server gets no answers and gives the client up.
pub trait WalSink: Send {
    /// Stores `bytes`, which lie at `at`. Calls follow each other without gaps, the first at the
    /// start of a segment.
    ///
    /// # Errors
    /// Where they cannot be stored, or something written earlier could not be made durable.
    fn write(&mut self, at: Lsn, bytes: &[u8]) -> Result<(), SinkError>;

    /// Starts to make everything written so far durable, and returns.
    ///
    /// # Errors
    /// As [`WalSink::write`].
    fn start_sync(&mut self) -> Result<(), SinkError>;

    /// The end of the WAL that is durable now; [`Lsn::INVALID`] as long as none is.
    ///
    /// # Errors
    /// Where something could not be made durable.
    fn durable(&mut self) -> Result<Lsn, SinkError>;

    /// Whether a write would be taken at once. While it would not, nothing is received, but the
    /// server gets its answers.
    fn is_ready(&mut self) -> bool {
        true
    }
}
