//! The receive loop.
//!
//! One turn: look at the flags, at what became durable, at the stop position; send a status if one
//! is due; wait for one message, briefly; store it. Making WAL durable is the sink's business and
//! goes on beside this loop, because a server that gets no answer for some seconds gives the client
//! up (openGauss: six), and an fsync on a busy disk may take that long.
//!
//! The stop position `stop` is the end of the backup's last record. What a stream waits for:
//!
//! ```text
//!                       needed       then, for the grace at most
//! primary               stop         the end of the segment with the record at stop: the switch
//! standby               stop
//! stop ends a page      stop         the header of the next page, which the stored position skips
//! stop ends a segment   stop         the first record of the next segment
//! ```

use super::stop_target::{State, Target};
use super::{Awaited, CopyEvent, CopyStream, ServerError, StopTarget, WaitFor, WalSink};
use super::{Slot, WalStreamError, WalStreamRequest};
use crate::format::replication::{
    ServerMessage, Status, WalMessage, encode_status, parse_server_message, replication_time,
};
use crate::format::wal::record_position;
use crate::limits::{WAL_POLL_MS, WAL_REPLY_DELAY_MS, WAL_SYNC_POLL_MS};
use crate::types::{Lsn, ServerFlavor};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What a stream has stored, all of it durable through `durable`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReceivedWal {
    /// The stop position that was set.
    pub stop: Lsn,
    /// End of the WAL received.
    pub received: Lsn,
    /// End of the WAL that is durable; not before `stop`.
    pub durable: Lsn,
    /// Where the record behind `stop` starts, if WAL of it came. `None`: the server wrote nothing
    /// behind `stop` in the time given, so no record can be read there. The original wants one at
    /// the stop position that the catalog states; the start of the record that ends at `stop` is
    /// such a position too.
    pub record_behind: Option<Lsn>,
}

/// Receives WAL from the start of the request's segment until `stop` is set and durable.
///
/// `stream` has just answered [`start_command`](super::start_command). The flush position that the
/// server is told is what `sink` called durable, never more. On openGauss it is always told, as the
/// original does. On PostgreSQL it is told where a slot is used, which needs it to move on;
/// otherwise the server is told none, as pg_basebackup does: then it never counts the backup as a
/// synchronous standby, even if `synchronous_standby_names` is `*`. Where it does count it, a
/// commit that it waved through is in the backup, but no standby need have it.
///
/// # Errors
/// [`WalStreamError`]: see its variants; what the sink has is not complete then.
pub fn receive(
    stream: &mut dyn CopyStream,
    request: &WalStreamRequest,
    sink: &mut dyn WalSink,
    stop: &StopTarget,
    cancel: &AtomicBool,
) -> Result<ReceivedWal, WalStreamError> {
    let now = Instant::now();
    let first = request.first_byte();
    let receiver = Receiver {
        request,
        sink,
        stop,
        cancel,
        received: first,
        durable: first,
        reported: first,
        sync_started: first,
        last_message: now,
        last_wal: now,
        last_status: now,
        status_due: None,
        asked: false,
        ended: None,
    };
    stop.publish(first, first);
    receiver.run(stream)
}

struct Receiver<'a> {
    request: &'a WalStreamRequest,
    sink: &'a mut dyn WalSink,
    stop: &'a StopTarget,
    cancel: &'a AtomicBool,
    /// End of the WAL received and handed to the sink.
    received: Lsn,
    /// End of the WAL that the sink called durable.
    durable: Lsn,
    /// The last durable end that a status was sent with.
    reported: Lsn,
    /// End of the WAL that the sink was last told to make durable.
    sync_started: Lsn,
    last_message: Instant,
    last_wal: Instant,
    last_status: Instant,
    /// A status must be sent by then.
    status_due: Option<Instant>,
    /// The server was asked for a sign of life since its last message.
    asked: bool,
    /// Why nothing more comes.
    ended: Option<WalStreamError>,
}

impl Receiver<'_> {
    fn run(mut self, stream: &mut dyn CopyStream) -> Result<ReceivedWal, WalStreamError> {
        loop {
            let target = self.look_at_flags()?;
            self.update_durable()?;
            if let Some(target) = target
                && self.is_complete(&target)?
            {
                // A slot should not keep what is safe here; a server that is gone does not mind.
                let _ = self.send_status(stream, false);
                return Ok(self.result(&target));
            }
            if let Some(error) = self.ended.take() {
                // What the backup needs is here: it does not matter how the stream ended.
                if target.is_none_or(|target| self.received < target.lsn) {
                    return Err(error);
                }
                self.ended = Some(error);
                self.wait_for_sink();
                continue;
            }
            if let Err(source) = self.talk(stream) {
                self.ended = Some(self.connection_error(source));
                continue;
            }
            self.check_interval()?;
            if self.sink.is_ready() {
                self.listen(stream, target)?;
            } else {
                self.wait_for_sink();
                // It is not the server that is slow.
                self.last_message = Instant::now();
            }
        }
    }

    /// The stop position, if it is known.
    fn look_at_flags(&self) -> Result<Option<Target>, WalStreamError> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(WalStreamError::Interrupted);
        }
        match self.stop.state() {
            State::Open => Ok(None),
            State::Set(target) => Ok(Some(target)),
            State::Abandoned => Err(WalStreamError::Abandoned),
        }
    }

    fn update_durable(&mut self) -> Result<(), WalStreamError> {
        let durable = self.sink.durable().map_err(sink_error)?;
        // A sink that has nothing yet says so with an invalid position.
        self.durable = self.durable.max(durable.min(self.received));
        self.stop.publish(self.received, self.durable);
        Ok(())
    }

    /// Whether the stream has what it waits for. Sees to it that what it needs becomes durable.
    fn is_complete(&mut self, target: &Target) -> Result<bool, WalStreamError> {
        let wished = self.wished(target);
        if self.durable >= target.lsn {
            let last_wal = self.last_wal.elapsed();
            let enough = self.durable >= wished
                || self.ended.is_some() && self.durable == self.received
                || last_wal >= self.request.grace
                || target
                    .deadline
                    .is_some_and(|deadline| Instant::now() >= deadline);
            if enough {
                return Ok(true);
            }
        } else if target
            .deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
        {
            return Err(WalStreamError::TargetNotReached {
                target: target.lsn,
                within: target.within,
                received: self.received,
                durable: self.durable,
            });
        }
        let milestone = if self.received >= wished || self.ended.is_some() {
            wished.min(self.received)
        } else {
            target.lsn
        };
        // One at a time: the rest of a segment comes in many small messages.
        let idle = self.sync_started <= self.durable;
        if self.durable < milestone && self.received >= milestone && idle {
            self.start_sync()?;
        }
        Ok(false)
    }

    /// The position up to which WAL is worth waiting for.
    fn wished(&self, target: &Target) -> Lsn {
        let segment_bytes = self.request.segment_bytes;
        let record = record_position(target.lsn, segment_bytes);
        if target.lsn.0.is_multiple_of(segment_bytes) {
            // Nothing was left to switch: the next segment begins when the next record comes.
            return Lsn(record.0.saturating_add(1));
        }
        match target.wait_for {
            WaitFor::SegmentEnd => {
                let start = target.lsn.0 - target.lsn.0 % segment_bytes;
                Lsn(start.saturating_add(segment_bytes))
            }
            WaitFor::Lsn => record,
        }
    }

    fn result(&self, target: &Target) -> ReceivedWal {
        let record = record_position(target.lsn, self.request.segment_bytes);
        ReceivedWal {
            stop: target.lsn,
            received: self.received,
            durable: self.durable,
            record_behind: (self.durable > record).then_some(record),
        }
    }

    /// Sends what is due.
    fn talk(&mut self, stream: &mut dyn CopyStream) -> Result<(), ServerError> {
        let now = Instant::now();
        let silence = now - self.last_message;
        if !self.asked && silence >= self.request.stall_timeout / 2 {
            self.asked = true;
            return self.send_status(stream, true);
        }
        let current = self.durable == self.received;
        let due = self.status_due.is_some_and(|due| current || now >= due);
        if due || self.durable > self.reported {
            return self.send_status(stream, false);
        }
        Ok(())
    }

    fn send_status(
        &mut self,
        stream: &mut dyn CopyStream,
        reply_requested: bool,
    ) -> Result<(), ServerError> {
        let flavor = self.request.flavor;
        let promises = flavor == ServerFlavor::OpenGauss || self.has_slot();
        let status = Status {
            written: self.received,
            flushed: if promises { self.durable } else { Lsn::INVALID },
            time: now_for_server(),
            reply_requested,
        };
        stream.send(&encode_status(flavor, &status))?;
        self.reported = self.durable;
        self.last_status = Instant::now();
        self.status_due = None;
        Ok(())
    }

    fn has_slot(&self) -> bool {
        matches!(
            self.request.slot,
            Some(Slot::Existing(_) | Slot::Temporary(_))
        )
    }

    /// Gives the server up that said nothing for too long. Called after looking for a message: this
    /// program may have been stopped itself meanwhile.
    fn check_silence(&self, target: Option<Target>) -> Result<(), WalStreamError> {
        let waited = self.last_message.elapsed();
        if waited < self.request.stall_timeout {
            return Ok(());
        }
        Err(WalStreamError::Stalled {
            at: self.received,
            waited,
            awaited: target.map_or(Awaited::Anything, |target| Awaited::Stop(target.lsn)),
        })
    }

    fn check_interval(&mut self) -> Result<(), WalStreamError> {
        if self.status_due.is_none() && self.last_status.elapsed() >= self.request.status_interval {
            self.promise_status()?;
        }
        Ok(())
    }

    /// A status will be sent soon: at once if all WAL is durable, otherwise when it is or after a
    /// moment, whichever comes first.
    fn promise_status(&mut self) -> Result<(), WalStreamError> {
        if self.status_due.is_none() {
            let delay = Duration::from_millis(WAL_REPLY_DELAY_MS).min(self.request.status_interval);
            self.status_due = Instant::now().checked_add(delay);
        }
        // One at a time: however often a server asks, no more than one is under way.
        if self.sync_started <= self.durable && self.durable < self.received {
            self.start_sync()?;
        }
        Ok(())
    }

    fn start_sync(&mut self) -> Result<(), WalStreamError> {
        self.sink.start_sync().map_err(sink_error)?;
        self.sync_started = self.received;
        Ok(())
    }

    /// Waits for one message, briefly, and stores it.
    fn listen(
        &mut self,
        stream: &mut dyn CopyStream,
        target: Option<Target>,
    ) -> Result<(), WalStreamError> {
        let wait = if self.sync_started > self.durable {
            WAL_SYNC_POLL_MS
        } else {
            WAL_POLL_MS
        };
        let event = stream.receive(Duration::from_millis(wait));
        match event {
            Ok(CopyEvent::Idle) => return self.check_silence(target),
            Ok(CopyEvent::Done) => {
                self.ended = Some(WalStreamError::Ended {
                    at: self.received,
                    timeline: self.request.timeline,
                });
                return Ok(());
            }
            Err(source) => {
                self.ended = Some(self.connection_error(source));
                return Ok(());
            }
            Ok(CopyEvent::Data(payload)) => self.take_message(payload)?,
        }
        self.last_message = Instant::now();
        self.asked = false;
        Ok(())
    }

    fn take_message(&mut self, payload: &[u8]) -> Result<(), WalStreamError> {
        let message = parse_server_message(self.request.flavor, payload);
        let at = self.received;
        match message.map_err(|source| WalStreamError::Message { at, source })? {
            ServerMessage::Wal(wal) => self.take_wal(&wal),
            ServerMessage::Keepalive(keepalive) if keepalive.reply_requested => {
                self.promise_status()
            }
            ServerMessage::Keepalive(_) => Ok(()),
            ServerMessage::ConfigFile => {
                tracing::warn!("skip gaussdb config file while receiving xlog.");
                Ok(())
            }
        }
    }

    fn take_wal(&mut self, wal: &WalMessage<'_>) -> Result<(), WalStreamError> {
        if wal.bytes.is_empty() {
            tracing::warn!(lsn = %wal.start, "the server sent a WAL message without WAL");
            return Ok(());
        }
        if wal.start != self.received {
            return Err(WalStreamError::Discontinuous {
                expected: self.received,
                found: wal.start,
            });
        }
        self.sink.write(wal.start, wal.bytes).map_err(sink_error)?;
        let length = u64::try_from(wal.bytes.len()).expect("a usize fits on every platform");
        self.received.0 += length;
        self.last_wal = Instant::now();
        Ok(())
    }

    fn wait_for_sink(&self) {
        std::thread::sleep(Duration::from_millis(WAL_SYNC_POLL_MS));
    }

    fn connection_error(&self, source: ServerError) -> WalStreamError {
        let at = self.received;
        let source = Box::new(source);
        match &*source {
            ServerError::Interrupted => WalStreamError::Interrupted,
            _ if is_removed(&source) => WalStreamError::Removed { at, source },
            _ if is_shutdown(&source) => WalStreamError::ServerStopped { at, source },
            _ => WalStreamError::Connection { at, source },
        }
    }
}

/// Whether the server says that WAL is gone. Its words are translated, its code is that of a file
/// that does not exist.
fn is_removed(error: &ServerError) -> bool {
    matches!(error, ServerError::Statement { code, .. } if code == "58P01")
        || error.to_string().contains("has already been removed")
}

/// Whether the server says that it stops: codes admin_shutdown, crash_shutdown, cannot_connect_now.
fn is_shutdown(error: &ServerError) -> bool {
    matches!(error, ServerError::Statement { code, .. }
        if matches!(code.as_str(), "57P01" | "57P02" | "57P03"))
}

fn sink_error(source: super::SinkError) -> WalStreamError {
    WalStreamError::Sink { source }
}

/// The time as messages hold it; 0 where the clock is before 1970.
fn now_for_server() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| i64::try_from(now.as_micros()).unwrap_or(i64::MAX));
    replication_time(now)
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;
