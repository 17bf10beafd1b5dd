//! A live instance: connections, starting and stopping a backup, receiving WAL.
//!
//! What asks a server questions takes a [`Sql`], what streams takes a [`CopyStream`]: tests answer
//! from recordings.

mod address;
mod auth;
mod cancel;
pub mod cbm;
mod certificate;
mod connection;
#[cfg(test)]
mod connection_tests;
mod conninfo;
mod copy;
mod error;
mod flavor;
mod keywords;
mod link;
mod open;
mod password;
#[cfg(test)]
mod peer;
mod pgpass;
#[cfg(test)]
mod postgresql_tests;
#[cfg(test)]
mod replay_tests;
mod rows;
mod session;
mod stream;
mod target;
#[cfg(test)]
mod target_tests;
mod tls;
#[cfg(test)]
mod tls_tests;
pub mod wal_stream;
pub mod wire;

pub use address::ServerAddress;
pub use cancel::Canceller;
pub use connection::{AskPassword, ConnectContext, Connection};
pub use copy::CopyBoth;
pub use error::ServerError;
pub use password::Password;
pub use rows::Rows;
pub use session::{BackupSession, LogicalSlot, SessionError, StoppedBackup};
pub use target::{ConnectTarget, ConnectionOptions, SERVER_TIMEOUT_DEFAULT, os_user_name};
pub use wire::ServerReport;

use std::time::Duration;

/// Something that answers SQL and replication commands.
pub trait Sql {
    /// Sends one statement by the simple protocol and waits for its rows.
    ///
    /// # Errors
    /// [`ServerError`]: the server refused it, or the connection is lost, timed out or was
    /// cancelled.
    fn query(&mut self, statement: &str) -> Result<Rows, ServerError>;

    /// Sends one statement with parameters in text form, `$1` first.
    ///
    /// # Errors
    /// As [`Sql::query`].
    fn query_with(&mut self, statement: &str, parameters: &[&str]) -> Result<Rows, ServerError>;

    /// As [`Sql::query_with`], but a row is given to `take` as soon as it is there: a connection
    /// keeps none, so that the answer may be longer than memory. It ends with the first row that
    /// `take` refuses.
    ///
    /// # Errors
    /// As [`Sql::query`]; a connection has [`ServerError::Protocol`] with what `take` says.
    fn each_row(
        &mut self,
        statement: &str,
        parameters: &[&str],
        take: TakeRow<'_>,
    ) -> Result<(), ServerError> {
        let answer = self.query_with(statement, parameters)?;
        let _ = answer.rows.iter().try_for_each(|row| take(row));
        Ok(())
    }
}

/// Takes a row of an answer, or says why the answer cannot be right.
pub type TakeRow<'a> = &'a mut dyn FnMut(&[Option<String>]) -> Result<(), String>;

/// A connection in the state "copy both": replication messages go both ways.
pub trait CopyStream: Send {
    /// Waits up to `wait` for the next message.
    ///
    /// # Errors
    /// [`ServerError`]: the server reported one, or the connection is lost or was cancelled.
    fn receive(&mut self, wait: Duration) -> Result<CopyEvent<'_>, ServerError>;

    /// Sends one message.
    ///
    /// # Errors
    /// As [`CopyStream::receive`].
    fn send(&mut self, payload: &[u8]) -> Result<(), ServerError>;
}

/// What came in on a [`CopyStream`].
#[derive(Debug, PartialEq, Eq)]
pub enum CopyEvent<'a> {
    /// The payload of one CopyData message.
    Data(&'a [u8]),
    /// Nothing within the time given.
    Idle,
    /// The server ended the stream in order.
    Done,
}
