//! Why WAL could not be streamed.

use crate::format::replication::ReplicationError;
use crate::server::ServerError;
use crate::types::{Lsn, ServerFlavor, TimelineId};
use std::time::Duration;

/// Why WAL could not be streamed. The texts that scripts know are the original's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalStreamError {
    /// A replication command failed.
    #[error("Cannot continue backup because stream connect has failed.")]
    Command {
        /// Which, and why.
        #[source]
        source: CommandError,
    },
    /// The answer to IDENTIFY_SYSTEM has another shape.
    #[error(
        "cannot identify the server: IDENTIFY_SYSTEM returned {rows} rows of {columns} columns"
    )]
    Shape {
        /// Rows of the answer.
        rows: usize,
        /// Columns of the answer.
        columns: usize,
    },
    /// The system identifier is no number.
    #[error("{found:?} is not system_identifier")]
    NoSystemIdentifier {
        /// The server's words.
        found: String,
    },
    /// The timeline is no number.
    #[error("cannot identify the server: {found:?} is not a timeline")]
    NoTimeline {
        /// The server's words.
        found: String,
    },
    /// Another cluster answers.
    #[error(
        "System identifier mismatch. Connected {} instance has system id: {found}. \
         Expected: {expected}.",
        product(*.flavor)
    )]
    SystemIdentifier {
        /// The server's kind.
        flavor: ServerFlavor,
        /// The connected one.
        found: u64,
        /// The instance's.
        expected: u64,
    },
    /// Another timeline than the one the backup started on.
    #[error(
        "Timeline identifier mismatch. Connected {} instance has timeline id: {:X}. \
         Expected: {:X}.",
        product(*.flavor), found.0, expected.0
    )]
    Timeline {
        /// The server's kind.
        flavor: ServerFlavor,
        /// The connected one.
        found: TimelineId,
        /// The backup's.
        expected: TimelineId,
    },
    /// A slot name that no server takes.
    #[error("cannot use replication slot {name:?}: {detail}")]
    SlotName {
        /// The name.
        name: String,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// What the server sent is no message.
    #[error("cannot stream WAL behind {at}: the server sent what is no replication message")]
    Message {
        /// End of the WAL received so far.
        at: Lsn,
        /// What is wrong with it.
        #[source]
        source: ReplicationError,
    },
    /// WAL is missing in the stream, or comes twice.
    #[error("cannot stream WAL behind {expected}: the server sent WAL of {found} instead")]
    Discontinuous {
        /// End of the WAL received so far.
        expected: Lsn,
        /// Where the message starts.
        found: Lsn,
    },
    /// The connection broke or the server reported an error.
    #[error("cannot stream WAL behind {at}")]
    Connection {
        /// End of the WAL received so far.
        at: Lsn,
        /// Why.
        #[source]
        source: Box<ServerError>,
    },
    /// The server no longer has the WAL.
    #[error("cannot stream WAL behind {at}: the server has removed it already")]
    Removed {
        /// End of the WAL received so far.
        at: Lsn,
        /// The server's words.
        #[source]
        source: Box<ServerError>,
    },
    /// The server was shut down or restarted.
    #[error("cannot stream WAL behind {at}: the server is shutting down or was restarted")]
    ServerStopped {
        /// End of the WAL received so far.
        at: Lsn,
        /// The server's words.
        #[source]
        source: Box<ServerError>,
    },
    /// The server ended the stream in order.
    #[error(
        "cannot stream WAL behind {at}: the server ended the stream, as at the end of timeline \
         {timeline} or when it shuts down"
    )]
    Ended {
        /// End of the WAL received so far.
        at: Lsn,
        /// The timeline that was streamed.
        timeline: TimelineId,
    },
    /// Nothing came from the server for too long.
    #[error(
        "cannot stream WAL behind {at}: nothing came from the server for {} seconds while waiting \
         for {awaited}",
        seconds(*.waited)
    )]
    Stalled {
        /// End of the WAL received so far.
        at: Lsn,
        /// How long.
        waited: Duration,
        /// What the stream waited for.
        awaited: Awaited,
    },
    /// The stop position was not reached in time.
    #[error("Target LSN {target} could not be streamed in {} seconds", seconds(*.within))]
    TargetNotReached {
        /// The stop position.
        target: Lsn,
        /// The time given.
        within: Duration,
        /// End of the WAL received so far.
        received: Lsn,
        /// End of the WAL that is durable.
        durable: Lsn,
    },
    /// The WAL could not be stored.
    #[error("cannot store the streamed WAL")]
    Sink {
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The backup failed elsewhere and told the stream to end.
    #[error("WAL streaming was abandoned because the backup failed")]
    Abandoned,
    /// The run was cancelled by a signal.
    #[error("Interrupted during WAL streaming")]
    Interrupted,
}

/// A replication command failed.
#[derive(Debug, thiserror::Error)]
#[error("Could not send replication command \"{command}\"")]
pub struct CommandError {
    /// The command.
    pub command: String,
    /// Why.
    pub source: Box<ServerError>,
}

/// What a stream waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Awaited {
    /// Any WAL or keepalive: the backup still runs.
    Anything,
    /// WAL up to the backup's stop position.
    Stop(Lsn),
}

impl std::fmt::Display for Awaited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Awaited::Anything => f.write_str("WAL or a keepalive"),
            Awaited::Stop(lsn) => write!(f, "WAL up to the stop position {lsn}"),
        }
    }
}

impl WalStreamError {
    /// What to do about it, where that is not plain from the message.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            WalStreamError::Removed { .. } => {
                "make the server keep WAL for the time of a backup: a replication slot (-S, or \
                 --temp-slot on PostgreSQL), wal_keep_size or wal_keep_segments"
            }
            WalStreamError::Ended { .. }
            | WalStreamError::Timeline { .. }
            | WalStreamError::ServerStopped { .. } => {
                "if the server was restarted, promoted or failed over, run the backup again when \
                 it is up"
            }
            WalStreamError::Stalled { .. } => {
                "look at the network between here and the server, and at pg_stat_replication there"
            }
            WalStreamError::TargetNotReached { .. } => {
                "on a standby: is it still receiving WAL? Else raise --archive-timeout"
            }
            WalStreamError::SystemIdentifier { .. } => {
                "host and port (-h, -p) must lead to the server whose data directory is backed up"
            }
            _ => return None,
        })
    }
}

fn product(flavor: ServerFlavor) -> &'static str {
    match flavor {
        ServerFlavor::OpenGauss => "openGauss",
        ServerFlavor::PostgreSql { .. } => "PostgreSQL",
    }
}

/// Seconds as the original prints them; less than one is still told apart from none.
fn seconds(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        return duration.as_secs_f32().to_string();
    }
    duration.as_secs().to_string()
}
