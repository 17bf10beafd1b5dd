//! One stream of messages: what connection, authentication and streaming have in common.

use super::stream::{Stream, Wait};
use super::wire::{BackendMessage, Incoming, WireError};
use super::{ServerAddress, ServerError};

/// A stream and what came on it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) stream: Stream,
    incoming: Incoming,
    /// Bytes as read, before they count as received.
    buffer: Vec<u8>,
}

impl Link {
    /// Takes over a stream on which nothing has been received yet.
    pub(super) fn new(stream: Stream) -> Link {
        Link {
            stream,
            incoming: Incoming::default(),
            buffer: Vec::new(),
        }
    }

    /// The server.
    pub(super) fn address(&self) -> &ServerAddress {
        self.stream.address()
    }

    /// Sends whole messages.
    pub(super) fn send(&mut self, bytes: &[u8], wait: Wait<'_>) -> Result<(), ServerError> {
        self.stream.write_all(bytes, wait)
    }

    /// The next message; `None` when the deadline came first.
    pub(super) fn receive(
        &mut self,
        wait: Wait<'_>,
    ) -> Result<Option<BackendMessage>, ServerError> {
        loop {
            let message = self.incoming.next_message();
            if let Some(message) = message.map_err(|error| self.violation(&error))? {
                return Ok(Some(message));
            }
            self.buffer.clear();
            match self.stream.read(&mut self.buffer, wait)? {
                None => return Ok(None),
                Some(0) => return Err(self.stream.closed(wait)),
                Some(_) => self.incoming.push(&self.buffer),
            }
        }
    }

    /// The next message.
    pub(super) fn expect(&mut self, wait: Wait<'_>) -> Result<BackendMessage, ServerError> {
        let message = self.receive(wait)?;
        message.ok_or_else(|| ServerError::TimedOut {
            address: self.address().clone(),
            what: wait.what.to_owned(),
            limit: wait.limit,
        })
    }

    /// The error of bytes that are no message.
    pub(super) fn violation(&self, error: &WireError) -> ServerError {
        ServerError::Protocol {
            address: self.address().clone(),
            what: error.to_string(),
        }
    }

    /// The error of a message that does not belong where it came.
    pub(super) fn unexpected(&self, message: &BackendMessage, while_: &str) -> ServerError {
        ServerError::Protocol {
            address: self.address().clone(),
            what: format!("unexpected {} while waiting for {while_}", message.name()),
        }
    }
}
