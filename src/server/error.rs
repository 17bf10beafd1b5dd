//! Why a server cannot be talked to, with the address it was sought at and a way out.
//!
//! Texts never hold a password. Reasons are part of the text: these errors have no further source.

use super::{ServerAddress, ServerReport};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a conversation with a server failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The server refused a statement.
    #[error("query failed: {severity}:  {message} query was: {statement}")]
    Statement {
        /// What was asked.
        statement: String,
        /// ERROR, FATAL or PANIC.
        severity: String,
        /// SQLSTATE.
        code: String,
        /// The server's words, its detail in parentheses behind them.
        message: String,
        /// Its hint, if any.
        hint: Option<String>,
    },
    /// The run was cancelled by a signal.
    #[error("interrupted")]
    Interrupted,
    /// No connection came about.
    #[error("could not connect to database {}: {cause}", database.escape_debug())]
    Connect {
        /// The database asked for.
        database: String,
        /// Why.
        cause: Box<ServerError>,
    },
    /// A connection option that libpq does not know either.
    #[error("invalid connection option \"{}\"", name.escape_debug())]
    UnknownOption {
        /// Its name.
        name: String,
    },
    /// A connection option has no such value.
    #[error("invalid {name} value \"{}\": {expected}", value.escape_debug())]
    BadOption {
        /// Its name.
        name: &'static str,
        /// What was given; never a password.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A connection string or URI cannot be taken apart.
    #[error("cannot read connection string: {reason}")]
    BadConnectionString {
        /// What is wrong, without the string itself: it may hold a password.
        reason: String,
    },
    /// A connection option of libpq that this program does not have.
    #[error("connection option \"{name}\" is not supported: {instead}")]
    UnsupportedOption {
        /// Its name.
        name: String,
        /// What to do.
        instead: &'static str,
    },
    /// Nobody is named to connect as.
    #[error("cannot find out the name of the operating system user")]
    NoUserName,
    /// A host name means nothing.
    #[error("could not translate host name \"{}\" to address: {reason}", host.escape_debug())]
    NoSuchHost {
        /// The name.
        host: String,
        /// The resolver's words.
        reason: String,
    },
    /// Nobody answers there.
    #[error("connection to {address} failed: {reason}")]
    Unreachable {
        /// Where.
        address: ServerAddress,
        /// The system's words.
        reason: io::Error,
    },
    /// The server did not answer in time.
    #[error(
        "timeout after {} seconds while waiting for {what} from {address}",
        limit.as_secs_f32()
    )]
    TimedOut {
        /// Who.
        address: ServerAddress,
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
    },
    /// The server hung up.
    #[error("{address} closed the connection unexpectedly while waiting for {what}")]
    Closed {
        /// Who.
        address: ServerAddress,
        /// What was waited for.
        what: String,
    },
    /// The connection broke.
    #[error("connection to {address} lost while waiting for {what}: {reason}")]
    Lost {
        /// Who.
        address: ServerAddress,
        /// What was waited for.
        what: String,
        /// The system's words.
        reason: io::Error,
    },
    /// The connection was lost earlier.
    #[error("not connected")]
    NotConnected {
        /// Where to.
        address: ServerAddress,
    },
    /// What came is not what the protocol allows.
    #[error("{address} violates the protocol: {what}")]
    Protocol {
        /// Who.
        address: ServerAddress,
        /// What is wrong.
        what: String,
    },
    /// The server at the other end is of another kind than the data directory says.
    #[error("{address} is not {expected}: {found}")]
    WrongServer {
        /// Who.
        address: ServerAddress,
        /// What it should be.
        expected: String,
        /// How it shows.
        found: &'static str,
    },
    /// The server refused the connection.
    #[error("{protocol}{report}")]
    Refused {
        /// Who.
        address: ServerAddress,
        /// The user it was refused to.
        user: String,
        /// The name of the protocol, as openGauss's clients print it, or nothing.
        protocol: &'static str,
        /// Its words.
        report: Box<ServerReport>,
    },
    /// The server ended the session between statements.
    #[error("{address} ended the session: {report}")]
    SessionEnded {
        /// Who.
        address: ServerAddress,
        /// Its words.
        report: Box<ServerReport>,
    },
    /// A password is needed and there is none.
    #[error("fe_sendauth: no password supplied")]
    NoPassword {
        /// Who asks.
        address: ServerAddress,
        /// For whom.
        user: String,
    },
    /// The person asked gave no password.
    #[error("no password supplied")]
    EmptyPassword {
        /// Who asks.
        address: ServerAddress,
        /// For whom.
        user: String,
    },
    /// Nobody could be asked.
    #[error("cannot ask for the password: {reason}")]
    AskPassword {
        /// Who asks.
        address: ServerAddress,
        /// The system's words.
        reason: io::Error,
    },
    /// A way to authenticate that this program does not have.
    #[error("{address} asks for {method} authentication, which is not supported")]
    UnsupportedAuthentication {
        /// Who.
        address: ServerAddress,
        /// The method.
        method: String,
        /// What to put into `pg_hba.conf` instead.
        instead: &'static str,
    },
    /// A password must not travel readable.
    #[error("{address} asks for the password in clear text over a connection without TLS")]
    CleartextPassword {
        /// Who.
        address: ServerAddress,
    },
    /// The server does not know the password either: it is an impostor, or it is broken.
    #[error("{address} could not prove that it knows the password: {reason}")]
    ServerProof {
        /// Who.
        address: ServerAddress,
        /// What is wrong.
        reason: String,
    },
    /// The server asks for more work than any honest one.
    #[error("{address} asks for {iterations} iterations of the password hash, {limit} at most")]
    TooManyIterations {
        /// Who.
        address: ServerAddress,
        /// What it asks for.
        iterations: u64,
        /// The most that is done.
        limit: u32,
    },
    /// The authentication messages do not belong together.
    #[error("cannot authenticate to {address}: {reason}")]
    Authentication {
        /// Who.
        address: ServerAddress,
        /// What is wrong.
        reason: String,
    },
    /// TLS is demanded and not offered.
    #[error("{address} does not support SSL, but SSL was required")]
    TlsNotOffered {
        /// Who.
        address: ServerAddress,
    },
    /// The server answered the request for TLS with an error, which nobody vouches for.
    #[error("{address} sent an error response during SSL exchange")]
    TlsErrorReply {
        /// Who.
        address: ServerAddress,
    },
    /// The handshake, or TLS later on, failed.
    #[error("SSL error with {address}: {reason}")]
    Tls {
        /// Who.
        address: ServerAddress,
        /// What is wrong.
        reason: rustls::Error,
    },
    /// A certificate or key file cannot be used.
    #[error("cannot use {what} file \"{}\": {reason}", path.display().to_string().escape_debug())]
    TlsFile {
        /// `root certificate`, `certificate` or `private key`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// TLS to a name that is none.
    #[error("cannot verify a certificate for host \"{}\": it is no host name", host.escape_debug())]
    TlsHostName {
        /// The name.
        host: String,
    },
}

impl ServerError {
    /// What to do about it, where there is something better than trying again.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            ServerError::Statement { hint, .. } => hint.clone(),
            ServerError::Connect { cause, .. } => cause.hint(),
            ServerError::NoSuchHost { .. } => Some("check -h, --pghost".to_owned()),
            ServerError::Unreachable { address, reason } => Some(unreachable_hint(address, reason)),
            ServerError::TimedOut { .. } => Some(
                "check the network and the load of the server; -t, --rw-timeout allows more time"
                    .to_owned(),
            ),
            ServerError::WrongServer { .. } => {
                Some("-D, --pgdata and -h, -p must name the same server".to_owned())
            }
            ServerError::Refused {
                address,
                user,
                report,
                ..
            } => report
                .hint
                .clone()
                .or_else(|| refused_hint(address, user, report)),
            ServerError::SessionEnded { report, .. } => report.hint.clone(),
            ServerError::NoPassword { user, .. } | ServerError::EmptyPassword { user, .. } => {
                Some(format!(
                    "give the password of \"{}\" in ~/.pgpass (mode 0600), PGPASSWORD or -W",
                    user.escape_debug()
                ))
            }
            ServerError::AskPassword { .. } => {
                Some("without a terminal, use ~/.pgpass (mode 0600), PGPASSWORD or -W".to_owned())
            }
            ServerError::UnsupportedAuthentication { instead, .. } => Some(format!(
                "give this user a line with method {instead} in pg_hba.conf of the server"
            )),
            ServerError::CleartextPassword { .. } => Some(
                "use sslmode=require, or method scram-sha-256 in pg_hba.conf of the server"
                    .to_owned(),
            ),
            ServerError::ServerProof { .. } => {
                Some("do not send it a password: check who listens at this address".to_owned())
            }
            ServerError::TlsNotOffered { .. } => {
                Some("set ssl = on in the server, or use another sslmode".to_owned())
            }
            ServerError::Tls { reason, .. } => tls_hint(reason),
            ServerError::TlsFile { what, .. } if *what == "root certificate" => {
                Some("give the file with sslrootcert, or do not verify: sslmode=require".to_owned())
            }
            ServerError::TlsFile { what, .. } if *what == "private key" => Some(
                "it must be an unencrypted PEM file of its user with mode 0600, or of root with \
                 mode 0640"
                    .to_owned(),
            ),
            _ => None,
        }
    }

    /// Whether another host of the list may do better: nothing is known about the server itself.
    pub(super) fn is_of_the_host(&self) -> bool {
        const CANNOT_CONNECT_NOW: &str = "57P03";
        match self {
            ServerError::NoSuchHost { .. }
            | ServerError::Unreachable { .. }
            | ServerError::TimedOut { .. }
            | ServerError::Closed { .. }
            | ServerError::Lost { .. } => true,
            ServerError::Refused { report, .. } => report.code == CANNOT_CONNECT_NOW,
            _ => false,
        }
    }
}

fn unreachable_hint(address: &ServerAddress, reason: &io::Error) -> String {
    match address {
        ServerAddress::Unix { .. } if reason.kind() == io::ErrorKind::NotFound => {
            "is the server running, with this port and unix_socket_directories? -h names another \
             directory or a host"
                .to_owned()
        }
        ServerAddress::Unix { .. } => {
            "is the server running, and is this user allowed into the directory of the socket?"
                .to_owned()
        }
        ServerAddress::Tcp { port, .. } => format!(
            "is the server running, with this address in listen_addresses and port {port}? does a \
             firewall lie between?"
        ),
    }
}

fn refused_hint(address: &ServerAddress, user: &str, report: &ServerReport) -> Option<String> {
    match report.code.as_str() {
        "28P01" => Some(format!(
            "check user \"{}\" and its password for {address}",
            user.escape_debug()
        )),
        "28000" => Some(
            "pg_hba.conf of the server must have a line for this user, database, address and SSL \
             state; a replication connection needs one of its own"
                .to_owned(),
        ),
        "3D000" => Some("check -d, --pgdatabase".to_owned()),
        "53300" => Some("raise max_connections or max_wal_senders of the server".to_owned()),
        _ => None,
    }
}

fn tls_hint(reason: &rustls::Error) -> Option<String> {
    use rustls::CertificateError;
    let rustls::Error::InvalidCertificate(certificate) = reason else {
        return None;
    };
    let text = match certificate {
        // An authority that was made anew under its old name gives a bad signature.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "sslrootcert must hold the certificate of the authority that signed the server's"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the certificate must list this host in subjectAltName; sslmode=verify-ca does not \
             look at names"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "renew the certificate of the server"
        }
        _ => return None,
    };
    Some(text.to_owned())
}
