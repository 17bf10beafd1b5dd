//! Connecting: which hosts, which addresses, with TLS or without, until one takes us.

use super::auth::{Handshake, protocol_name, refused};
use super::cancel::Canceller;
use super::connection::{Connection, State};
use super::link::Link;
use super::stream::{Stream, Wait, look_up};
use super::tls::{TlsMode, server_name};
use super::wire::BackendMessage;
use super::{ConnectContext, ConnectTarget, ServerAddress, ServerError, Sql};
use crate::limits::SERVER_STARTUP_MESSAGES_MAX;
use crate::types::ServerFlavor;
use bytes::{BufMut, BytesMut};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use std::collections::BTreeMap;

/// Version 3.51: from 3.51 on openGauss sends the iterations of its password hashes.
const VERSION_OPENGAUSS: i32 = 0x0003_0033;
const VERSION_POSTGRESQL: i32 = 0x0003_0000;

/// Why an attempt failed, and whether one with another kind of connection may do better.
struct Failure {
    error: Box<ServerError>,
    other_kind_may_do: bool,
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Failure {
        Failure {
            error: Box::new(error),
            other_kind_may_do: false,
        }
    }
}

impl Connection {
    /// Connects to the first address of `target` that answers, and authenticates.
    ///
    /// # Errors
    /// [`ServerError::Connect`] with the reason of the last address; [`ServerError::Interrupted`].
    pub fn open(
        target: &ConnectTarget,
        context: &ConnectContext<'_>,
    ) -> Result<Connection, ServerError> {
        let mut last = None;
        for (address, host) in &target.addresses {
            match open_at(target, context, address, host) {
                Ok(connection) => return Ok(connection),
                Err(ServerError::Interrupted) => return Err(ServerError::Interrupted),
                Err(error) if error.is_of_the_host() => keep_better(&mut last, error),
                Err(error) => return Err(failed(target, error)),
            }
        }
        let error = last.unwrap_or_else(|| ServerError::BadConnectionString {
            reason: "it names no host".to_owned(),
        });
        Err(failed(target, error))
    }
}

/// Keeps the error that tells more: that there is no socket file in one of two directories does
/// not.
fn keep_better(last: &mut Option<ServerError>, error: ServerError) {
    let is_absent = |error: &ServerError| {
        matches!(
            error,
            ServerError::Unreachable { address: ServerAddress::Unix { .. }, reason }
                if reason.kind() == std::io::ErrorKind::NotFound
        )
    };
    if last.is_none() || !is_absent(&error) {
        *last = Some(error);
    }
}

fn failed(target: &ConnectTarget, cause: ServerError) -> ServerError {
    ServerError::Connect {
        database: target.database.clone(),
        cause: Box::new(cause),
    }
}

fn open_at(
    target: &ConnectTarget,
    context: &ConnectContext<'_>,
    address: &ServerAddress,
    host: &str,
) -> Result<Connection, ServerError> {
    let attempts: &[bool] = match (address, target.tls.mode) {
        (ServerAddress::Unix { .. }, _) | (_, TlsMode::Disable) => &[false],
        (_, TlsMode::Allow) => &[false, true],
        (_, TlsMode::Prefer) => &[true, false],
        _ => &[true],
    };
    let mut first = None;
    for with_tls in attempts {
        match attempt(target, context, address, host, *with_tls) {
            Ok(connection) => return Ok(connection),
            Err(failure) if failure.other_kind_may_do => {
                first.get_or_insert(failure.error);
            }
            // When both kinds fail, the one that was preferred says why.
            Err(failure) => return Err(*first.unwrap_or(failure.error)),
        }
    }
    Err(*first.expect("there is an attempt"))
}

fn attempt(
    target: &ConnectTarget,
    context: &ConnectContext<'_>,
    address: &ServerAddress,
    host: &str,
    with_tls: bool,
) -> Result<Connection, Failure> {
    let mut wait = Wait::new(
        target.connect_timeout,
        Some(&context.cancel),
        "a connection",
    );
    let mut link = Link::new(connect(target, address, wait)?);
    wait.what = "the answer to a request for TLS";
    if with_tls {
        ask_for_tls(target, &mut link, wait).map_err(|error| Failure {
            other_kind_may_do: target.tls.mode == TlsMode::Prefer
                && matches!(
                    error,
                    ServerError::Tls { .. }
                        | ServerError::TlsErrorReply { .. }
                        | ServerError::Closed { .. }
                        | ServerError::Lost { .. }
                ),
            error: Box::new(error),
        })?;
    }
    wait.what = "authentication";
    let mut handshake = Handshake {
        target,
        context,
        host,
        began: false,
        notices: Vec::new(),
    };
    let message = startup_message(target)?;
    let is_encrypted = link.stream.tls().is_some();
    link.send(&message, wait)?;
    handshake
        .authenticate(&mut link, &mut wait)
        .map_err(|error| Failure {
            other_kind_may_do: !handshake.began
                && matches!(error, ServerError::Refused { .. })
                && match target.tls.mode {
                    TlsMode::Prefer => is_encrypted,
                    TlsMode::Allow => !with_tls,
                    _ => false,
                },
            error: Box::new(error),
        })?;
    wait.what = "the server to be ready";
    let notices = handshake.notices;
    let mut connection = start_session(target, context, link, wait)?;
    for notice in notices {
        connection.keep_notice(&notice);
    }
    Ok(connection)
}

fn connect(
    target: &ConnectTarget,
    address: &ServerAddress,
    wait: Wait<'_>,
) -> Result<Stream, ServerError> {
    let mut last = None;
    for endpoint in look_up(address, wait)? {
        match Stream::connect(&endpoint, address, target.keep_alive, wait) {
            Ok(stream) => return Ok(stream),
            Err(ServerError::Interrupted) => return Err(ServerError::Interrupted),
            Err(error) => last = Some(error),
        }
    }
    Err(last.expect("a name that is found has an address"))
}

fn ask_for_tls(target: &ConnectTarget, link: &mut Link, wait: Wait<'_>) -> Result<(), ServerError> {
    let config = target.tls.config()?;
    let name = server_name(link.address())?;
    let mut message = BytesMut::new();
    frontend::ssl_request(&mut message);
    link.send(&message, wait)?;
    // One byte and no more: what follows it in the clear is not of the session to come.
    let mut answer = [0];
    if link.stream.read_slice(&mut answer, wait)? == 0 {
        return Err(link.stream.closed(wait));
    }
    let address = || link.address().clone();
    match answer {
        [b'S'] => link.stream.start_tls(config, name, wait),
        [b'N'] if target.tls.mode == TlsMode::Prefer => Ok(()),
        [b'N'] => Err(ServerError::TlsNotOffered { address: address() }),
        // Nobody vouches for its text, so nobody gets to see it.
        [b'E'] => Err(ServerError::TlsErrorReply { address: address() }),
        [other] => Err(ServerError::Protocol {
            address: address(),
            what: format!(
                "byte '{}' in answer to a request for TLS",
                other.escape_ascii()
            ),
        }),
    }
}

fn startup_message(target: &ConnectTarget) -> Result<BytesMut, ServerError> {
    let is_gauss = target.flavor == ServerFlavor::OpenGauss;
    let mut parameters = vec![
        ("user", target.user.as_str()),
        ("database", target.database.as_str()),
    ];
    if target.replication {
        parameters.push(("replication", "true"));
    }
    if let Some(options) = &target.options {
        parameters.push(("options", options));
    }
    parameters.push(("application_name", &target.application_name));
    if !is_gauss {
        parameters.push(("client_encoding", "UTF8"));
    }
    let mut message = BytesMut::new();
    frontend::startup_message(parameters, &mut message).map_err(|_| {
        ServerError::BadConnectionString {
            reason: "a setting holds a zero byte".to_owned(),
        }
    })?;
    let version = if is_gauss {
        VERSION_OPENGAUSS
    } else {
        VERSION_POSTGRESQL
    };
    (&mut message[4..8]).put_i32(version);
    Ok(message)
}

/// Takes the server's settings until it is ready for statements.
fn start_session(
    target: &ConnectTarget,
    context: &ConnectContext<'_>,
    link: Link,
    wait: Wait<'_>,
) -> Result<Connection, ServerError> {
    let canceller = Canceller {
        address: link.address().clone(),
        endpoint: link.stream.endpoint().clone(),
        key: None,
        keep_alive: target.keep_alive,
    };
    let mut connection = Connection {
        link,
        cancel: context.cancel.clone(),
        cancel_is_ignored: false,
        read_timeout: target.rw_timeout,
        parameters: BTreeMap::new(),
        notices: Vec::new(),
        canceller,
        state: State::Broken,
        ends_copy_politely: target.flavor != ServerFlavor::OpenGauss,
    };
    for _ in 0..SERVER_STARTUP_MESSAGES_MAX {
        let message = connection.link.expect(wait)?;
        match connection.set_aside(message)? {
            None => {}
            Some(BackendMessage::Other(Message::BackendKeyData(key))) => {
                connection.canceller.key = Some((key.process_id(), key.secret_key()));
            }
            Some(BackendMessage::Other(Message::ReadyForQuery(_))) => {
                connection.state = State::Ready;
                speak_utf8(target, &mut connection)?;
                return Ok(connection);
            }
            Some(BackendMessage::Other(Message::ErrorResponse(body))) => {
                let protocol = protocol_name(target.flavor);
                return Err(refused(&connection.link, &target.user, protocol, &body));
            }
            Some(other) => return Err(connection.link.unexpected(&other, wait.what)),
        }
    }
    Err(ServerError::Protocol {
        address: connection.address().clone(),
        what: format!("not ready after {SERVER_STARTUP_MESSAGES_MAX} messages"),
    })
}

/// openGauss is not told the encoding at the start, where its own clients do not either: it is
/// changed where it is another.
fn speak_utf8(target: &ConnectTarget, connection: &mut Connection) -> Result<(), ServerError> {
    let needs_none = match connection.parameter("client_encoding") {
        None | Some("UTF8" | "SQL_ASCII") => true,
        Some(_) => target.replication,
    };
    if needs_none {
        return Ok(());
    }
    connection.query("SET client_encoding = 'UTF8'").map(drop)
}
