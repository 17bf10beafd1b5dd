//! Stopping a statement from outside: a connection of its own that says whose statement it is.
//!
//! The request goes in the clear, as libpq's does: it holds no secret that outlives the session.

use super::ServerAddress;
use super::ServerError;
use super::stream::{Endpoint, Stream, Wait};
use super::target::KeepAlive;
use crate::limits::CANCEL_GRACE_MS;
use bytes::BytesMut;
use postgres_protocol::message::frontend;
use std::time::Duration;

/// Stops the running statement of one connection; it may be used from any thread.
#[derive(Clone, Debug)]
pub struct Canceller {
    pub(super) address: ServerAddress,
    pub(super) endpoint: Endpoint,
    /// Process and key; servers give none to connections that stream.
    pub(super) key: Option<(i32, i32)>,
    pub(super) keep_alive: KeepAlive,
}

impl Canceller {
    /// Asks the server to give up what it is doing for the connection. That it was asked does not
    /// mean that it does.
    ///
    /// # Errors
    /// [`ServerError`]: it could not be asked within a fraction of a second.
    pub fn cancel(&self) -> Result<(), ServerError> {
        let Some((process, secret)) = self.key else {
            return Ok(());
        };
        let limit = Duration::from_millis(CANCEL_GRACE_MS);
        let wait = Wait::new(limit, None, "a request to cancel a statement");
        let mut stream = Stream::connect(&self.endpoint, &self.address, self.keep_alive, wait)?;
        let mut message = BytesMut::new();
        frontend::cancel_request(process, secret, &mut message);
        stream.write_all(&message, wait)?;
        // The server hangs up once the signal is sent; only then may the statement be over.
        let mut ignored = [0; 64];
        while stream.read_slice(&mut ignored, wait)? > 0 {}
        Ok(())
    }
}
