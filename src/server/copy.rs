//! A connection that streams in both directions: WAL comes, words on what became of it go.

use super::connection::{Connection, State};
use super::stream::Wait;
use super::wire::BackendMessage;
use super::{CopyEvent, CopyStream, ServerError};
use crate::limits::CANCEL_GRACE_MS;
use bytes::{Bytes, BytesMut};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend::{self, CopyData};
use std::time::Duration;

/// The stream; the connection ends with it.
#[derive(Debug)]
pub struct CopyBoth {
    connection: Connection,
    command: String,
    current: Bytes,
    is_done: bool,
}

impl CopyBoth {
    pub(super) fn new(connection: Connection, command: &str) -> CopyBoth {
        CopyBoth {
            connection,
            command: command.to_owned(),
            current: Bytes::new(),
            is_done: false,
        }
    }

    /// The connection below, for its notices and settings.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Answers the end of the stream with one of our own, once.
    fn end(&mut self) {
        if self.is_done {
            return;
        }
        self.is_done = true;
        if self.connection.state == State::Broken {
            return;
        }
        let limit = Duration::from_millis(CANCEL_GRACE_MS);
        let wait = Wait::new(limit, None, "the end of a stream");
        let mut message = BytesMut::new();
        frontend::copy_done(&mut message);
        // The connection is closed next: what does not arrive is not missed.
        let _ = self.connection.link.send(&message, wait);
    }
}

impl CopyStream for CopyBoth {
    fn receive(&mut self, wait: Duration) -> Result<CopyEvent<'_>, ServerError> {
        if self.is_done {
            return Ok(CopyEvent::Done);
        }
        let cancel = self.connection.cancel.clone();
        let cancel = (!self.connection.cancel_is_ignored).then_some(&*cancel);
        let wait = Wait::new(wait, cancel, "the next message of a stream");
        loop {
            let message = self.connection.link.receive(wait);
            let message = message.map_err(|error| self.connection.note(error))?;
            let Some(message) = message else {
                return Ok(CopyEvent::Idle);
            };
            match self.connection.set_aside(message)? {
                Some(BackendMessage::Other(Message::CopyData(body))) => {
                    self.current = body.into_bytes();
                    return Ok(CopyEvent::Data(&self.current));
                }
                // A server that shuts down completes the command without ending the stream.
                Some(BackendMessage::Other(Message::CopyDone | Message::CommandComplete(_))) => {
                    self.end();
                    return Ok(CopyEvent::Done);
                }
                Some(BackendMessage::Other(Message::ErrorResponse(body))) => {
                    let command = self.command.clone();
                    let error = self.connection.statement_error(&command, &body);
                    self.connection.state = State::Broken;
                    return Err(error);
                }
                Some(other) => return Err(self.connection.broken(&other, "a stream")),
                None => {}
            }
        }
    }

    fn send(&mut self, payload: &[u8]) -> Result<(), ServerError> {
        let mut message = BytesMut::new();
        CopyData::new(payload)
            .map_err(|_| ServerError::Protocol {
                address: self.connection.address().clone(),
                what: "a message of more than 2 GiB cannot be sent".to_owned(),
            })?
            .write(&mut message);
        let cancel = self.connection.cancel.clone();
        let wait = self
            .connection
            .wait(&cancel, "the server to take a message");
        let sent = self.connection.link.send(&message, wait);
        // Half a message may have gone out, nothing can follow it.
        sent.inspect_err(|_| self.connection.state = State::Broken)
    }
}

impl Drop for CopyBoth {
    fn drop(&mut self) {
        // openGauss's own clients leave without a word; its server is not known to expect one.
        if self.connection.ends_copy_politely {
            self.end();
        }
    }
}
