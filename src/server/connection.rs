//! A connection to a server: statements one at a time, each with a time limit, each cancelled when
//! the run is.
//!
//! A statement that was given up keeps the connection busy until the server is done with it: the
//! next statement first waits for that. So a run that was interrupted can still take the server out
//! of backup mode, after [`Connection::ignore_cancel`].

use super::cancel::Canceller;
use super::copy::CopyBoth;
use super::link::Link;
use super::stream::Wait;
use super::wire::{BackendMessage, ServerReport, column_names, row_values};
use super::{Password, Rows, ServerAddress, ServerError, Sql, TakeRow};
use crate::limits::{
    CANCEL_GRACE_MS, SERVER_ANSWER_BYTES_MAX, SERVER_NOTICE_BYTES_MAX, SERVER_NOTICES_MAX,
    SERVER_PARAMETERS_MAX,
};
use bytes::BytesMut;
use postgres_protocol::IsNull;
use postgres_protocol::message::backend::{ErrorResponseBody, Message};
use postgres_protocol::message::frontend;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Shows a person the prompt it is given and returns what they type.
pub type AskPassword<'a> = dyn Fn(&str) -> std::io::Result<Password> + 'a;

/// What connecting needs from its caller.
pub struct ConnectContext<'a> {
    /// Set when the run shall end.
    pub cancel: Arc<AtomicBool>,
    /// Asks a person for a password; `None` where nobody may be asked.
    pub ask_password: Option<&'a AskPassword<'a>>,
}

impl fmt::Debug for ConnectContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectContext")
            .field("cancel", &self.cancel)
            .field("may_ask", &self.ask_password.is_some())
            .finish()
    }
}

/// An open connection.
#[derive(Debug)]
pub struct Connection {
    pub(super) link: Link,
    pub(super) cancel: Arc<AtomicBool>,
    pub(super) cancel_is_ignored: bool,
    pub(super) read_timeout: Duration,
    pub(super) parameters: BTreeMap<String, String>,
    pub(super) notices: Vec<String>,
    pub(super) canceller: Canceller,
    pub(super) state: State,
    /// Whether the server minds being left without a word in the middle of a stream.
    pub(super) ends_copy_politely: bool,
}

/// What the server is doing with us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// It waits for a statement.
    Ready,
    /// It has not finished one.
    Busy,
    /// It is gone, or talks nonsense.
    Broken,
}

impl Sql for Connection {
    fn query(&mut self, statement: &str) -> Result<Rows, ServerError> {
        let mut request = BytesMut::new();
        if frontend::query(statement, &mut request).is_err() {
            return Err(self.zero_byte());
        }
        self.run(statement, &request)
    }

    fn query_with(&mut self, statement: &str, parameters: &[&str]) -> Result<Rows, ServerError> {
        let request = extended_request(statement, parameters).map_err(|_| self.zero_byte())?;
        self.run(statement, &request)
    }

    fn each_row(
        &mut self,
        statement: &str,
        parameters: &[&str],
        take: TakeRow<'_>,
    ) -> Result<(), ServerError> {
        let request = extended_request(statement, parameters).map_err(|_| self.zero_byte())?;
        self.run_to(statement, &request, &mut |part| match part {
            Part::Columns(_) => Ok(()),
            Part::Row(row) => take(&row),
        })
    }
}

/// What comes in as the answer to a statement.
enum Part {
    Columns(Vec<String>),
    Row(Vec<Option<String>>),
}

impl Connection {
    /// A setting that the server reported, as `server_version`.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Where the server was found.
    #[must_use]
    pub fn address(&self) -> &ServerAddress {
        self.link.address()
    }

    /// Whether what is sent is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.link.stream.tls().is_some()
    }

    /// How long the server may be silent in the middle of a statement, from now on.
    pub fn set_read_timeout(&mut self, timeout: Duration) {
        self.read_timeout = timeout;
    }

    /// How long the server may be silent in the middle of a statement.
    #[must_use]
    pub fn read_timeout(&self) -> Duration {
        self.read_timeout
    }

    /// From now on this flag ends what the connection waits for, instead of the one it was opened
    /// with.
    pub fn cancel_by(&mut self, cancel: Arc<AtomicBool>) {
        self.cancel = cancel;
    }

    /// From now on statements run though the run is cancelled, or no longer do: for what has to be
    /// cleaned up on the server.
    pub fn ignore_cancel(&mut self, ignore: bool) {
        self.cancel_is_ignored = ignore;
    }

    /// What the server said beside its answers, oldest first: `NOTICE:  text`.
    pub fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    /// Stops statements of this connection, from any thread.
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// Sends a replication command whose answer is a stream in both directions.
    ///
    /// # Errors
    /// As [`Sql::query`]; [`ServerError::Protocol`] when the answer is something else.
    pub fn start_copy(mut self, command: &str) -> Result<CopyBoth, ServerError> {
        let mut request = BytesMut::new();
        if frontend::query(command, &mut request).is_err() {
            return Err(self.zero_byte());
        }
        self.begin(&request)?;
        match self.next("the start of a stream")? {
            BackendMessage::CopyBoth => Ok(CopyBoth::new(self, command)),
            BackendMessage::Other(Message::ErrorResponse(body)) => {
                Err(self.statement_error(command, &body))
            }
            other => Err(self.broken(&other, "the start of a stream")),
        }
    }

    /// Says goodbye.
    pub fn close(self) {
        drop(self);
    }

    fn run(&mut self, statement: &str, request: &[u8]) -> Result<Rows, ServerError> {
        let mut rows = Rows::default();
        let mut bytes = 0;
        self.run_to(statement, request, &mut |part| {
            match part {
                Part::Columns(columns) => {
                    rows = Rows {
                        columns,
                        rows: Vec::new(),
                    };
                    bytes = 0;
                }
                Part::Row(row) => {
                    bytes += Rows::row_bytes(&row);
                    if bytes > SERVER_ANSWER_BYTES_MAX {
                        return Err(format!(
                            "answer of more than {SERVER_ANSWER_BYTES_MAX} bytes"
                        ));
                    }
                    rows.rows.push(row);
                }
            }
            Ok(())
        })?;
        Ok(rows)
    }

    /// Sends a request and gives what is answered to `take`, which may say what is wrong with it.
    fn run_to(
        &mut self,
        statement: &str,
        request: &[u8],
        take: &mut dyn FnMut(Part) -> Result<(), String>,
    ) -> Result<(), ServerError> {
        self.begin(request)?;
        let answer = self.collect(statement, take);
        if let Err(ServerError::Interrupted) = &answer {
            self.cancel_running();
        }
        answer
    }

    /// Sends a request once the server is ready for one.
    fn begin(&mut self, request: &[u8]) -> Result<(), ServerError> {
        self.settle()?;
        let cancel = self.cancel.clone();
        let wait = self.wait(&cancel, "the server to take a statement");
        self.state = State::Busy;
        let sent = self.link.send(request, wait);
        sent.map_err(|error| {
            self.state = State::Broken;
            self.last_words().unwrap_or(error)
        })
    }

    fn collect(
        &mut self,
        statement: &str,
        take: &mut dyn FnMut(Part) -> Result<(), String>,
    ) -> Result<(), ServerError> {
        let mut columns = 0;
        let mut failure = None;
        loop {
            let message = match self.next("the answer to a statement")? {
                BackendMessage::Other(message) => message,
                other => return Err(self.broken(&other, "the answer to a statement")),
            };
            let taken = match message {
                Message::RowDescription(description) => {
                    let names = column_names(&description);
                    let names = names.map_err(|error| self.violation(&error))?;
                    columns = names.len();
                    take(Part::Columns(names))
                }
                Message::DataRow(row) => {
                    let row = row_values(&row, columns);
                    take(Part::Row(row.map_err(|error| self.violation(&error))?))
                }
                Message::ErrorResponse(body) => {
                    let error = self.statement_error(statement, &body);
                    if self.state == State::Broken {
                        return Err(error);
                    }
                    failure = Some(error);
                    Ok(())
                }
                Message::ReadyForQuery(_) => {
                    self.state = State::Ready;
                    return failure.map_or(Ok(()), Err);
                }
                Message::CommandComplete(_)
                | Message::EmptyQueryResponse
                | Message::ParseComplete
                | Message::BindComplete
                | Message::NoData => Ok(()),
                other => {
                    let other = BackendMessage::Other(other);
                    return Err(self.broken(&other, "the answer to a statement"));
                }
            };
            if let Err(what) = taken {
                self.state = State::Broken;
                return Err(ServerError::Protocol {
                    address: self.address().clone(),
                    what,
                });
            }
        }
    }

    /// The next message that is not about the session as a whole.
    pub(super) fn next(&mut self, what: &str) -> Result<BackendMessage, ServerError> {
        loop {
            let cancel = self.cancel.clone();
            let wait = self.wait(&cancel, what);
            let message = self.link.expect(wait).map_err(|error| self.note(error))?;
            if let Some(message) = self.set_aside(message)? {
                return Ok(message);
            }
        }
    }

    /// Keeps notices and settings; any other message comes back.
    pub(super) fn set_aside(
        &mut self,
        message: BackendMessage,
    ) -> Result<Option<BackendMessage>, ServerError> {
        match message {
            BackendMessage::Other(Message::NoticeResponse(body)) => {
                let report = ServerReport::parse(body.fields());
                let report = report.map_err(|error| self.violation(&error))?;
                self.keep_notice(&report.to_string());
            }
            BackendMessage::Other(Message::ParameterStatus(body)) => {
                let text = |text: std::io::Result<&str>| text.unwrap_or_default().to_owned();
                let (name, value) = (text(body.name()), text(body.value()));
                if self.parameters.len() < SERVER_PARAMETERS_MAX
                    || self.parameters.contains_key(&name)
                {
                    self.parameters.insert(name, value);
                }
            }
            BackendMessage::Other(Message::NotificationResponse(_)) => {}
            other => return Ok(Some(other)),
        }
        Ok(None)
    }

    /// Keeps what the server said for [`Connection::take_notices`], as long as there is room.
    pub(super) fn keep_notice(&mut self, text: &str) {
        if self.notices.len() < SERVER_NOTICES_MAX {
            let mut end = text.len().min(SERVER_NOTICE_BYTES_MAX);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            self.notices.push(text[..end].to_owned());
        }
    }

    pub(super) fn wait<'a>(&self, cancel: &'a AtomicBool, what: &'a str) -> Wait<'a> {
        let cancel = (!self.cancel_is_ignored).then_some(cancel);
        Wait::new(self.read_timeout, cancel, what)
    }

    /// Waits for the end of a statement that was given up.
    fn settle(&mut self) -> Result<(), ServerError> {
        match self.state {
            State::Ready => Ok(()),
            State::Broken => Err(ServerError::NotConnected {
                address: self.address().clone(),
            }),
            State::Busy => {
                // It may be that the first request to cancel came too early.
                let _ = self.canceller.cancel();
                self.drain(self.read_timeout)
            }
        }
    }

    /// Asks the server to give up the running statement, and gives it a moment to do so.
    fn cancel_running(&mut self) {
        if self.state != State::Busy {
            return;
        }
        // The answer is not needed: when it did not work, the next statement finds out.
        let _ = self.canceller.cancel();
        let _ = self.drain(Duration::from_millis(CANCEL_GRACE_MS));
    }

    /// Throws away what comes until the server is ready.
    fn drain(&mut self, limit: Duration) -> Result<(), ServerError> {
        let wait = Wait::new(limit, None, "the end of the statement before");
        loop {
            let message = self.link.expect(wait).map_err(|error| self.note(error))?;
            if let Some(BackendMessage::Other(Message::ReadyForQuery(_))) =
                self.set_aside(message)?
            {
                self.state = State::Ready;
                return Ok(());
            }
        }
    }

    /// Takes note that a connection is of no more use after `error`, if so.
    pub(super) fn note(&mut self, error: ServerError) -> ServerError {
        if !matches!(
            error,
            ServerError::Interrupted | ServerError::TimedOut { .. }
        ) {
            self.state = State::Broken;
        }
        error
    }

    pub(super) fn violation(&mut self, error: &super::wire::WireError) -> ServerError {
        self.state = State::Broken;
        self.link.violation(error)
    }

    pub(super) fn broken(&mut self, message: &BackendMessage, while_: &str) -> ServerError {
        self.state = State::Broken;
        self.link.unexpected(message, while_)
    }

    pub(super) fn statement_error(
        &mut self,
        statement: &str,
        body: &ErrorResponseBody,
    ) -> ServerError {
        let report = match ServerReport::parse(body.fields()) {
            Ok(report) => report,
            Err(error) => return self.violation(&error),
        };
        if report.severity == "FATAL" || report.severity == "PANIC" {
            self.state = State::Broken;
        }
        ServerError::Statement {
            statement: statement.to_owned(),
            message: report.message_and_detail(),
            severity: report.severity,
            code: report.code,
            hint: report.hint,
        }
    }

    /// What the server said before it hung up, when sending to it failed.
    fn last_words(&mut self) -> Option<ServerError> {
        let wait = Wait::new(
            Duration::from_millis(CANCEL_GRACE_MS),
            None,
            "its last words",
        );
        loop {
            let message = self.link.expect(wait).ok()?;
            if let BackendMessage::Other(Message::ErrorResponse(body)) = message {
                let report = ServerReport::parse(body.fields()).ok()?;
                return Some(ServerError::SessionEnded {
                    address: self.address().clone(),
                    report: Box::new(report),
                });
            }
        }
    }

    fn zero_byte(&self) -> ServerError {
        ServerError::Protocol {
            address: self.address().clone(),
            what: "a statement cannot hold a zero byte".to_owned(),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.state == State::Broken {
            return;
        }
        // Nobody waits for a server that does not listen any more.
        let wait = Wait::new(Duration::from_millis(CANCEL_GRACE_MS), None, "goodbye");
        let mut message = BytesMut::new();
        frontend::terminate(&mut message);
        let _ = self.link.send(&message, wait);
        self.link.stream.close();
    }
}

/// The messages that libpq's `PQexecParams` sends.
fn extended_request(statement: &str, parameters: &[&str]) -> Result<BytesMut, std::io::Error> {
    let mut request = BytesMut::new();
    frontend::parse("", statement, std::iter::empty(), &mut request)?;
    frontend::bind(
        "",
        "",
        std::iter::empty(),
        parameters,
        |value, buffer| {
            buffer.extend_from_slice(value.as_bytes());
            Ok(IsNull::No)
        },
        std::iter::once(0),
        &mut request,
    )
    .map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidInput))?;
    frontend::describe(b'P', "", &mut request)?;
    frontend::execute("", 0, &mut request)?;
    frontend::sync(&mut request);
    Ok(request)
}
