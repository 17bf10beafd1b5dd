//! Messages of streaming replication: what travels inside CopyData while WAL is streamed.
//!
//! Each payload opens with a type byte; the numbers behind it differ between the servers.
//! PostgreSQL writes them big endian and without gaps:
//!
//! ```text
//! 'w'  WAL        start u64 · server's end u64 · time i64 · WAL bytes
//! 'k'  keepalive  server's end u64 · time i64 · reply requested u8
//! 'r'  status     written u64 · flushed u64 · applied u64 · time i64 · reply requested u8
//! ```
//!
//! openGauss sends its structs as they lie in memory, little endian and with padding:
//!
//! ```text
//! 'w' +64 bytes   start u64@0 · server's end u64@8 · time i64@16 · sent u64@24 · written u64@32 ·
//!                 flushed u64@40 · replayed u64@48 · catching up u8@56, then WAL bytes
//! 'k' +32 bytes   server's end u64@0 · role i32@8 · state i32@12 · time i64@16 ·
//!                 reply requested u8@24
//! 'm' +any        a configuration file for standbys; of no interest to a backup
//! 'r' +64 bytes   received u64@0 · written u64@8 · flushed u64@16 · applied u64@24 ·
//!                 apply read u64@32 · role i32@40 · state i32@44 · time i64@48 ·
//!                 reply requested u8@56 · flags u32@60
//! ```
//!
//! Times are microseconds since 2000-01-01. Padding and the fields that gs_probackup leaves
//! undefined ("apply read", "flags") are zero in what we send and not looked at in what we read.
//!
//! Sources: PostgreSQL "Streaming Replication Protocol"; openGauss
//! `src/include/replication/walprotocol.h`, `src/bin/pg_basebackup/receivelog.cpp`.

use super::little_endian::{i64_at, u64_at};
use crate::types::{Lsn, ServerFlavor};

/// Bytes before the WAL of an openGauss message, its type included.
const GAUSS_WAL_HEADER_BYTES: usize = 1 + 64;
/// Bytes of an openGauss keepalive, its type included.
const GAUSS_KEEPALIVE_BYTES: usize = 1 + 32;
/// Bytes of an openGauss status, its type included.
const GAUSS_STATUS_BYTES: usize = 1 + 64;
/// Bytes before the WAL of a PostgreSQL message, its type included.
const POSTGRESQL_WAL_HEADER_BYTES: usize = 1 + 24;
/// Bytes of a PostgreSQL keepalive, its type included.
const POSTGRESQL_KEEPALIVE_BYTES: usize = 1 + 17;
/// Bytes of a PostgreSQL status, its type included.
const POSTGRESQL_STATUS_BYTES: usize = 1 + 33;

/// Role that gs_probackup claims to openGauss: a standby.
const ROLE_STANDBY: i32 = 3;
/// State that gs_probackup claims to openGauss: being built.
const STATE_BUILDING: i32 = 7;

/// Microseconds from 1970-01-01 to 2000-01-01.
const EPOCH_2000_MICROSECONDS: i64 = 946_684_800 * 1_000_000;

/// A message of the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServerMessage<'a> {
    /// WAL.
    Wal(WalMessage<'a>),
    /// A sign of life.
    Keepalive(Keepalive),
    /// A configuration file that openGauss offers its standbys.
    ConfigFile,
}

/// A stretch of WAL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalMessage<'a> {
    /// Position of the first byte.
    pub start: Lsn,
    /// The end of WAL on the server.
    pub server_end: Lsn,
    /// When it was sent, in microseconds since 2000-01-01.
    pub time: i64,
    /// The bytes; may be none. Their end is a valid position.
    pub bytes: &'a [u8],
}

/// A sign of life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keepalive {
    /// The end of WAL on the server.
    pub server_end: Lsn,
    /// When it was sent, in microseconds since 2000-01-01.
    pub time: i64,
    /// The server wants a status at once, or it will give the client up.
    pub reply_requested: bool,
}

/// What the client tells the server about itself. Positions may be [`Lsn::INVALID`]: no promise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Status {
    /// End of the WAL that was handed to the operating system; openGauss is told none.
    pub written: Lsn,
    /// End of the WAL that is durable. A server drops WAL before it from a replication slot, and
    /// may tell its own clients that their commits are safe.
    pub flushed: Lsn,
    /// When it was sent, in microseconds since 2000-01-01.
    pub time: i64,
    /// The server is to answer with a keepalive.
    pub reply_requested: bool,
}

/// A payload is no replication message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplicationError {
    /// The payload has no byte.
    #[error("the replication message is empty")]
    Empty,
    /// The type is not known.
    #[error("unknown replication message type {found:#04x}")]
    Type {
        /// The first byte.
        found: u8,
    },
    /// The length does not fit the type.
    #[error("replication message '{kind}' has {found} bytes, {expected} expected")]
    Length {
        /// The type.
        kind: char,
        /// Bytes of the message.
        found: usize,
        /// Bytes that it has, or has at least if it holds WAL.
        expected: usize,
    },
    /// WAL that lies at no position.
    #[error("replication message holds {length} bytes of WAL at {start}, which is no WAL position")]
    Position {
        /// Where it claims to start.
        start: Lsn,
        /// Bytes of WAL.
        length: usize,
    },
}

/// Microseconds since 2000-01-01 as messages hold them, from those since 1970-01-01.
#[must_use]
pub fn replication_time(unix_microseconds: i64) -> i64 {
    unix_microseconds.saturating_sub(EPOCH_2000_MICROSECONDS)
}

/// Reads the payload of a CopyData message that came from a server. Nothing is copied.
///
/// # Errors
/// [`ReplicationError`]: type, length or position are none that such a server sends.
pub fn parse_server_message(
    flavor: ServerFlavor,
    payload: &[u8],
) -> Result<ServerMessage<'_>, ReplicationError> {
    let gauss = flavor == ServerFlavor::OpenGauss;
    match payload.first() {
        None => Err(ReplicationError::Empty),
        Some(b'w') if gauss => {
            let bytes = tail(payload, 'w', GAUSS_WAL_HEADER_BYTES)?;
            wal(
                u64_at(payload, 1),
                u64_at(payload, 9),
                i64_at(payload, 17),
                bytes,
            )
        }
        Some(b'w') => {
            let bytes = tail(payload, 'w', POSTGRESQL_WAL_HEADER_BYTES)?;
            let [start, end, time] = [1, 9, 17].map(|at| big_endian(payload, at));
            wal(start, end, time.cast_signed(), bytes)
        }
        Some(b'k') if gauss => {
            check_length(payload, 'k', GAUSS_KEEPALIVE_BYTES)?;
            Ok(ServerMessage::Keepalive(Keepalive {
                server_end: Lsn(u64_at(payload, 1)),
                time: i64_at(payload, 17),
                reply_requested: payload[25] != 0,
            }))
        }
        Some(b'k') => {
            check_length(payload, 'k', POSTGRESQL_KEEPALIVE_BYTES)?;
            Ok(ServerMessage::Keepalive(Keepalive {
                server_end: Lsn(big_endian(payload, 1)),
                time: big_endian(payload, 9).cast_signed(),
                reply_requested: payload[17] != 0,
            }))
        }
        Some(b'm') if gauss => Ok(ServerMessage::ConfigFile),
        Some(&found) => Err(ReplicationError::Type { found }),
    }
}

/// The payload of a status message.
#[must_use]
pub fn encode_status(flavor: ServerFlavor, status: &Status) -> Vec<u8> {
    let requested = u8::from(status.reply_requested);
    if flavor == ServerFlavor::OpenGauss {
        let mut payload = vec![0; GAUSS_STATUS_BYTES];
        let mut put = |at: usize, bytes: &[u8]| {
            payload[1 + at..1 + at + bytes.len()].copy_from_slice(bytes);
        };
        // As gs_probackup: received, written and applied stay zero.
        put(16, &status.flushed.0.to_le_bytes());
        put(40, &ROLE_STANDBY.to_le_bytes());
        put(44, &STATE_BUILDING.to_le_bytes());
        put(48, &status.time.to_le_bytes());
        put(56, &[requested]);
        payload[0] = b'r';
        return payload;
    }
    let mut payload = Vec::with_capacity(POSTGRESQL_STATUS_BYTES);
    payload.push(b'r');
    for position in [status.written, status.flushed, Lsn::INVALID] {
        payload.extend_from_slice(&position.0.to_be_bytes());
    }
    payload.extend_from_slice(&status.time.to_be_bytes());
    payload.push(requested);
    payload
}

fn wal(
    start: u64,
    server_end: u64,
    time: i64,
    bytes: &[u8],
) -> Result<ServerMessage<'_>, ReplicationError> {
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if start == 0 || start.checked_add(length).is_none() {
        return Err(ReplicationError::Position {
            start: Lsn(start),
            length: bytes.len(),
        });
    }
    Ok(ServerMessage::Wal(WalMessage {
        start: Lsn(start),
        server_end: Lsn(server_end),
        time,
        bytes,
    }))
}

/// What follows a header.
fn tail(payload: &[u8], kind: char, header: usize) -> Result<&[u8], ReplicationError> {
    payload.get(header..).ok_or(ReplicationError::Length {
        kind,
        found: payload.len(),
        expected: header,
    })
}

fn check_length(payload: &[u8], kind: char, expected: usize) -> Result<(), ReplicationError> {
    if payload.len() == expected {
        return Ok(());
    }
    Err(ReplicationError::Length {
        kind,
        found: payload.len(),
        expected,
    })
}

/// The big-endian number at `at`; the caller checked the length.
fn big_endian(payload: &[u8], at: usize) -> u64 {
    let bytes = payload[at..at + 8].try_into();
    u64::from_be_bytes(bytes.expect("a slice of 8 bytes is an array of 8 bytes"))
}

#[cfg(test)]
#[path = "replication_tests.rs"]
mod tests;
