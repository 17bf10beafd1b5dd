//! Authentication: what the server may ask for, and what is done only where it is safe.
//!
//! A password is never sent readable but over TLS or a socket of this machine. Work that a server
//! asks for is bounded.

mod gauss;
#[cfg(test)]
mod gauss_tests;
mod scram;

use super::link::Link;
use super::pgpass::{self, PasswordQuery};
use super::stream::Wait;
use super::tls::ChannelBindingMode;
use super::wire::{BackendMessage, ServerReport};
use super::{ConnectContext, ConnectTarget, Password, ServerAddress, ServerError};
use crate::types::ServerFlavor;
use bytes::BytesMut;
use gauss::Refusal;
use postgres_protocol::message::backend::{ErrorResponseBody, Message};
use postgres_protocol::message::frontend;
use scram::Bound;
use std::time::Instant;
use zeroize::Zeroize;

const CODE_OK: u32 = 0;
const CODE_CLEARTEXT: u32 = 3;
const CODE_MD5: u32 = 5;
const CODE_SASL: u32 = 10;
const CODE_SASL_CONTINUE: u32 = 11;
const CODE_SASL_FINAL: u32 = 12;

/// What authentication needs to know, and what it learns.
pub(super) struct Handshake<'a> {
    pub(super) target: &'a ConnectTarget,
    pub(super) context: &'a ConnectContext<'a>,
    /// The name of the host in password files.
    pub(super) host: &'a str,
    /// Whether the server asked for anything yet: then it was not the kind of connection that it
    /// refused.
    pub(super) began: bool,
    /// What the person should know.
    pub(super) notices: Vec<String>,
}

impl Handshake<'_> {
    /// Does what the server asks until it is content. Time that a person needs does not count.
    pub(super) fn authenticate(
        &mut self,
        link: &mut Link,
        wait: &mut Wait<'_>,
    ) -> Result<(), ServerError> {
        let mut bound = Bound(false);
        loop {
            match link.expect(*wait)? {
                BackendMessage::Authentication { code: CODE_OK, .. } => {
                    return self.check_bound(link, bound);
                }
                BackendMessage::Authentication { code, body } => {
                    self.began = true;
                    bound = self.respond(link, code, &body, wait)?;
                }
                BackendMessage::Other(Message::ErrorResponse(body)) => {
                    let protocol = protocol_name(self.target.flavor);
                    return Err(refused(link, &self.target.user, protocol, &body));
                }
                BackendMessage::Other(Message::NoticeResponse(body)) => {
                    let report = ServerReport::parse(body.fields());
                    self.notices
                        .push(report.map_err(|error| link.violation(&error))?.to_string());
                }
                BackendMessage::NegotiateVersion => {
                    return Err(ServerError::WrongServer {
                        address: link.address().clone(),
                        expected: self.target.flavor.to_string(),
                        found: "it does not know this version of the protocol",
                    });
                }
                other => return Err(link.unexpected(&other, "authentication")),
            }
        }
    }

    fn check_bound(&self, link: &Link, bound: Bound) -> Result<(), ServerError> {
        if self.target.tls.channel_binding == ChannelBindingMode::Require && !bound.0 {
            return Err(ServerError::Authentication {
                address: link.address().clone(),
                reason: "channel binding is required, but the server did without".to_owned(),
            });
        }
        Ok(())
    }

    fn respond(
        &mut self,
        link: &mut Link,
        code: u32,
        body: &[u8],
        wait: &mut Wait<'_>,
    ) -> Result<Bound, ServerError> {
        let is_gauss = self.target.flavor == ServerFlavor::OpenGauss;
        if code != CODE_SASL || is_gauss {
            // Before a password is risked.
            self.check_bound(link, Bound(false))?;
        }
        match code {
            CODE_MD5 => {
                let salt = body.try_into().map_err(|_| ServerError::Protocol {
                    address: link.address().clone(),
                    what: "md5 request without a salt of 4 bytes".to_owned(),
                })?;
                let password = self.password(link, wait)?;
                let user = self.target.user.as_bytes();
                let mut hash = postgres_protocol::authentication::md5_hash(
                    user,
                    password.expose().as_bytes(),
                    salt,
                );
                send_password(link, hash.as_bytes(), *wait)?;
                hash.zeroize();
                Ok(Bound(false))
            }
            CODE_CLEARTEXT => {
                let is_local = matches!(link.address(), ServerAddress::Unix { .. });
                if !is_local && link.stream.tls().is_none() {
                    return Err(ServerError::CleartextPassword {
                        address: link.address().clone(),
                    });
                }
                let password = self.password(link, wait)?;
                send_password(link, password.expose().as_bytes(), *wait)?;
                Ok(Bound(false))
            }
            gauss::CODE_SHA256 | gauss::CODE_SM3 if is_gauss => {
                self.respond_gauss(link, code, body, wait)?;
                Ok(Bound(false))
            }
            CODE_SASL if !is_gauss => {
                if body.first() == Some(&0) && body.len() > 4 {
                    return Err(ServerError::WrongServer {
                        address: link.address().clone(),
                        expected: self.target.flavor.to_string(),
                        found: "it asks for a password as openGauss does",
                    });
                }
                let password = self.password(link, wait)?;
                let mode = self.target.tls.channel_binding;
                scram::exchange(link, body, &password, mode, &self.target.user, *wait)
            }
            _ => Err(ServerError::UnsupportedAuthentication {
                address: link.address().clone(),
                method: method_name(code, is_gauss),
                instead: if is_gauss { "sha256" } else { "scram-sha-256" },
            }),
        }
    }

    fn respond_gauss(
        &mut self,
        link: &mut Link,
        code: u32,
        body: &[u8],
        wait: &mut Wait<'_>,
    ) -> Result<(), ServerError> {
        let address = link.address().clone();
        let explain = |refusal: Refusal| match refusal {
            Refusal::Malformed(reason) => ServerError::Protocol {
                address: address.clone(),
                what: format!("request for a password proof: {reason}"),
            },
            Refusal::TooManyIterations(iterations) => ServerError::TooManyIterations {
                address: address.clone(),
                iterations: u64::from(iterations),
                limit: crate::limits::AUTH_ITERATIONS_MAX,
            },
            Refusal::Readable => ServerError::UnsupportedAuthentication {
                address: address.clone(),
                method: "clear text password".to_owned(),
                instead: "sha256 (and set the password again, with password_encryption_type 2)",
            },
            Refusal::ServerProof => ServerError::ServerProof {
                address: address.clone(),
                reason: "its signature does not match, or the password is wrong".to_owned(),
            },
        };
        let challenge = gauss::parse(code, body).map_err(explain)?;
        let password = self.password(link, wait)?;
        let answer =
            gauss::answer(&challenge, &self.target.user, password.expose()).map_err(explain)?;
        send_password(link, answer.as_bytes(), *wait)
    }

    /// The password: as given, from the password file, or from the person at the terminal.
    fn password(&mut self, link: &Link, wait: &mut Wait<'_>) -> Result<Password, ServerError> {
        if let Some(password) = self.target.known_password() {
            return Ok(password);
        }
        let address = link.address();
        if let Some(path) = &self.target.password_file {
            let query = PasswordQuery {
                host: self.host,
                port: address.port().unwrap_or(0),
                database: &self.target.database,
                user: &self.target.user,
            };
            match pgpass::find_in_file(path, query) {
                Ok(Some(password)) => return Ok(password),
                Ok(None) => {}
                Err(warning) => self.notices.push(format!("WARNING:  {warning}")),
            }
        }
        let user = self.target.user.clone();
        let Some(ask) = self.context.ask_password else {
            return Err(ServerError::NoPassword {
                address: address.clone(),
                user,
            });
        };
        let asked_at = Instant::now();
        let answer = ask(&format!("Password for user {user}: "));
        wait.deadline += asked_at.elapsed();
        match answer {
            Ok(password) if password.expose().is_empty() => Err(ServerError::EmptyPassword {
                address: address.clone(),
                user,
            }),
            Ok(password) => {
                self.target.keep_password(password.clone());
                Ok(password)
            }
            Err(reason) => Err(ServerError::AskPassword {
                address: address.clone(),
                reason,
            }),
        }
    }
}

fn send_password(link: &mut Link, text: &[u8], wait: Wait<'_>) -> Result<(), ServerError> {
    let mut message = BytesMut::new();
    if frontend::password_message(text, &mut message).is_err() {
        return Err(ServerError::Authentication {
            address: link.address().clone(),
            reason: "a password cannot hold a zero byte".to_owned(),
        });
    }
    let sent = link.send(&message, wait);
    message.as_mut().zeroize();
    sent
}

/// What openGauss's clients put before the words of a server that refused them.
pub(super) fn protocol_name(flavor: ServerFlavor) -> &'static str {
    match flavor {
        ServerFlavor::OpenGauss => "(connect to V5 server) ",
        ServerFlavor::PostgreSql { .. } => "",
    }
}

/// The error of a server that refused the connection.
pub(super) fn refused(
    link: &Link,
    user: &str,
    protocol: &'static str,
    body: &ErrorResponseBody,
) -> ServerError {
    match ServerReport::parse(body.fields()) {
        Ok(report) => ServerError::Refused {
            address: link.address().clone(),
            user: user.to_owned(),
            protocol,
            report: Box::new(report),
        },
        Err(error) => link.violation(&error),
    }
}

fn method_name(code: u32, is_gauss: bool) -> String {
    let name = match code {
        1 => "Kerberos 4",
        2 => "Kerberos 5",
        4 => "crypt",
        6 => "SCM credential",
        7 | 8 => "GSSAPI",
        9 => "SSPI",
        11 if is_gauss => "md5 over sha256",
        12 if is_gauss => "sha256 (RFC 5802)",
        14 if is_gauss => "IAM token",
        _ => return format!("unknown ({code})"),
    };
    name.to_owned()
}
