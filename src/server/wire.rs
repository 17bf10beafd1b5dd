//! Messages of the server: found in the stream of bytes, bounded, and taken apart.
//!
//! A length is believed only within the bound of its kind of message, and memory is taken for bytes
//! that came, never for those announced. openGauss numbers its authentication requests on its own
//! (10 is not SASL there), and "copy both" is not in the crate that knows the rest: those two are
//! handed out raw.

use super::Rows;
use crate::limits::{
    SERVER_COLUMNS_MAX, SERVER_MESSAGE_BYTES_MAX, SERVER_ROW_BYTES_MAX, SERVER_STREAM_BYTES_MAX,
};
use bytes::{Buf, Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{
    AUTHENTICATION_TAG, COPY_DATA_TAG, DATA_ROW_TAG, DataRowBody, ErrorFields, Header,
    RowDescriptionBody,
};
use std::fmt;

pub use postgres_protocol::message::backend::Message;

/// Bytes before the body of a message: its kind and its length.
const HEADER_BYTES: usize = 5;

const COPY_BOTH_TAG: u8 = b'W';
const NEGOTIATE_VERSION_TAG: u8 = b'v';

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WireError(String);

/// One message of the server.
pub enum BackendMessage {
    /// A request for authentication, or word that none is needed.
    Authentication {
        /// Its number; openGauss and PostgreSQL disagree on the meaning from 10 on.
        code: u32,
        /// What follows.
        body: Bytes,
    },
    /// Both sides may send data now.
    CopyBoth,
    /// The server knows only older versions of the protocol.
    NegotiateVersion,
    /// Everything else.
    Other(Message),
}

/// Bytes as they came, and the messages in them.
#[derive(Debug, Default)]
pub struct Incoming {
    bytes: BytesMut,
}

impl Incoming {
    /// Adds what came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether nothing waits to be taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next message, or `None` when it is not all there.
    ///
    /// # Errors
    /// [`WireError`]: a length out of bounds, an unknown kind, or a body that contradicts itself.
    pub fn next_message(&mut self) -> Result<Option<BackendMessage>, WireError> {
        let header = Header::parse(&self.bytes).map_err(|error| WireError(error.to_string()))?;
        let Some(header) = header else {
            return Ok(None);
        };
        let length = usize::try_from(header.len()).unwrap_or(usize::MAX);
        let length_max = length_max(header.tag());
        if length > length_max {
            return Err(WireError(format!(
                "message {} of {length} bytes, {length_max} at most",
                kind(header.tag())
            )));
        }
        if self.bytes.len() < length + 1 {
            return Ok(None);
        }
        match header.tag() {
            AUTHENTICATION_TAG => {
                let mut body = self.take_body(length);
                if body.len() < 4 {
                    return Err(WireError(
                        "authentication request without a code".to_owned(),
                    ));
                }
                let code = body.get_u32();
                Ok(Some(BackendMessage::Authentication { code, body }))
            }
            COPY_BOTH_TAG => {
                let _formats = self.take_body(length);
                Ok(Some(BackendMessage::CopyBoth))
            }
            NEGOTIATE_VERSION_TAG => {
                let _versions = self.take_body(length);
                Ok(Some(BackendMessage::NegotiateVersion))
            }
            tag => match Message::parse(&mut self.bytes) {
                Ok(Some(message)) => Ok(Some(BackendMessage::Other(message))),
                Ok(None) => Err(WireError("a whole message counts as a part".to_owned())),
                Err(error) => Err(WireError(format!("message {}: {error}", kind(tag)))),
            },
        }
    }

    fn take_body(&mut self, length: usize) -> Bytes {
        let mut message = self.bytes.split_to(length + 1).freeze();
        message.advance(HEADER_BYTES);
        message
    }
}

fn length_max(tag: u8) -> usize {
    match tag {
        DATA_ROW_TAG => SERVER_ROW_BYTES_MAX,
        COPY_DATA_TAG => SERVER_STREAM_BYTES_MAX,
        _ => SERVER_MESSAGE_BYTES_MAX,
    }
}

fn kind(tag: u8) -> String {
    format!("'{}'", tag.escape_ascii())
}

impl fmt::Debug for BackendMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl BackendMessage {
    /// What it is, for errors.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            BackendMessage::Authentication { .. } => "authentication request",
            BackendMessage::CopyBoth => "copy both",
            BackendMessage::NegotiateVersion => "negotiation of the protocol version",
            BackendMessage::Other(message) => match message {
                Message::BackendKeyData(_) => "key data",
                Message::BindComplete => "bind complete",
                Message::CloseComplete => "close complete",
                Message::CommandComplete(_) => "command complete",
                Message::CopyData(_) => "copy data",
                Message::CopyDone => "copy done",
                Message::CopyInResponse(_) => "copy in",
                Message::CopyOutResponse(_) => "copy out",
                Message::DataRow(_) => "row",
                Message::EmptyQueryResponse => "empty statement",
                Message::ErrorResponse(_) => "error",
                Message::NoData => "no data",
                Message::NoticeResponse(_) => "notice",
                Message::NotificationResponse(_) => "notification",
                Message::ParameterDescription(_) => "parameter description",
                Message::ParameterStatus(_) => "parameter status",
                Message::ParseComplete => "parse complete",
                Message::PortalSuspended => "portal suspended",
                Message::ReadyForQuery(_) => "ready for query",
                Message::RowDescription(_) => "row description",
                _ => "another message",
            },
        }
    }
}

/// What a server says in an error or a notice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerReport {
    /// ERROR, FATAL, WARNING, NOTICE...
    pub severity: String,
    /// SQLSTATE.
    pub code: String,
    /// The main sentence.
    pub message: String,
    /// More of it.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl ServerReport {
    /// Reads the fields of an error or notice; unknown ones are left out.
    ///
    /// # Errors
    /// [`WireError`] when the fields are cut short.
    pub fn parse(mut fields: ErrorFields<'_>) -> Result<ServerReport, WireError> {
        let mut report = ServerReport::default();
        loop {
            let field = fields
                .next()
                .map_err(|error| WireError(format!("error report: {error}")))?;
            let Some(field) = field else {
                return Ok(report);
            };
            let value = || String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'S' => report.severity = value(),
                b'C' => report.code = value(),
                b'M' => report.message = value(),
                b'D' => report.detail = Some(value()),
                b'H' => report.hint = Some(value()),
                _ => {}
            }
        }
    }

    /// The message with its detail behind it.
    #[must_use]
    pub fn message_and_detail(&self) -> String {
        match &self.detail {
            Some(detail) => format!("{} ({detail})", self.message),
            None => self.message.clone(),
        }
    }
}

impl fmt::Display for ServerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:  {}", self.severity, self.message_and_detail())
    }
}

/// The names of the columns of an answer.
///
/// # Errors
/// [`WireError`]: the description is cut short or has too many columns.
pub fn column_names(description: &RowDescriptionBody) -> Result<Vec<String>, WireError> {
    let mut names = Vec::new();
    let mut fields = description.fields();
    loop {
        let field = fields
            .next()
            .map_err(|error| WireError(format!("row description: {error}")))?;
        match field {
            Some(_) if names.len() == SERVER_COLUMNS_MAX => {
                return Err(WireError(format!(
                    "row description of more than {SERVER_COLUMNS_MAX} columns"
                )));
            }
            Some(field) => names.push(field.name().to_owned()),
            None => return Ok(names),
        }
    }
}

/// The values of a row that belongs to `columns` columns.
///
/// # Errors
/// [`WireError`]: another number of values, lengths beyond the row, or text that is not UTF-8.
pub fn row_values(row: &DataRowBody, columns: usize) -> Result<Vec<Option<String>>, WireError> {
    let mut values = Vec::with_capacity(columns);
    let mut ranges = row.ranges();
    loop {
        let range = ranges
            .next()
            .map_err(|error| WireError(format!("row: {error}")))?;
        let Some(range) = range else {
            break;
        };
        if values.len() == columns {
            return Err(WireError(format!("row of more than {columns} values")));
        }
        values.push(match range {
            Some(range) => {
                let bytes = row
                    .buffer()
                    .get(range)
                    .ok_or_else(|| WireError("value beyond its row".to_owned()))?;
                let text = std::str::from_utf8(bytes)
                    .map_err(|_| WireError("value that is not UTF-8".to_owned()))?;
                Some(text.to_owned())
            }
            None => None,
        });
    }
    if values.len() != columns {
        return Err(WireError(format!(
            "row of {} values instead of {columns}",
            values.len()
        )));
    }
    Ok(values)
}

impl Rows {
    /// Bytes that `row` takes in memory, for bounding an answer.
    pub(super) fn row_bytes(row: &[Option<String>]) -> usize {
        let texts: usize = row.iter().flatten().map(String::len).sum();
        texts + std::mem::size_of_val(row) + std::mem::size_of::<Vec<Option<String>>>()
    }
}
