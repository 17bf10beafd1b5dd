//! SCRAM-SHA-256 of PostgreSQL, bound to the TLS channel where the server offers that.

use super::super::certificate;
use super::super::link::Link;
use super::super::stream::Wait;
use super::super::tls::ChannelBindingMode;
use super::super::wire::BackendMessage;
use super::super::{Password, ServerError};
use super::{CODE_SASL_CONTINUE, CODE_SASL_FINAL, refused};
use crate::limits::AUTH_ITERATIONS_MAX;
use bytes::BytesMut;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

/// Whether the exchange was bound to the TLS channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bound(pub(super) bool);

/// Proves the password and checks the server's proof.
pub(super) fn exchange(
    link: &mut Link,
    offered: &[u8],
    password: &Password,
    mode: ChannelBindingMode,
    user: &str,
    wait: Wait<'_>,
) -> Result<Bound, ServerError> {
    let (mechanism, binding) = choose(link, offered, mode)?;
    let bound = Bound(mechanism == SCRAM_SHA_256_PLUS);
    let mut scram = ScramSha256::new(password.expose().as_bytes(), binding);
    let mut message = BytesMut::new();
    frontend::sasl_initial_response(mechanism, scram.message(), &mut message)
        .expect("a nonce is short");
    link.send(&message, wait)?;

    let first = body_of(link, CODE_SASL_CONTINUE, user, wait)?;
    check_iterations(link, &first)?;
    scram
        .update(&first)
        .map_err(|error| proof_error(link, &error))?;
    message.clear();
    frontend::sasl_response(scram.message(), &mut message).expect("a proof is short");
    link.send(&message, wait)?;

    let last = body_of(link, CODE_SASL_FINAL, user, wait)?;
    scram
        .finish(&last)
        .map_err(|error| proof_error(link, &error))?;
    Ok(bound)
}

/// The mechanism to use of those `offered`, and what it is bound to.
fn choose(
    link: &Link,
    offered: &[u8],
    mode: ChannelBindingMode,
) -> Result<(&'static str, ChannelBinding), ServerError> {
    let mut names = offered
        .split(|byte| *byte == 0)
        .take_while(|name| !name.is_empty());
    let (mut plain, mut plus) = (false, false);
    for name in names.by_ref() {
        plain |= name == SCRAM_SHA_256.as_bytes();
        plus |= name == SCRAM_SHA_256_PLUS.as_bytes();
    }
    let hash = link
        .stream
        .tls()
        .and_then(|tls| tls.peer_certificates())
        .and_then(|chain| chain.first())
        .and_then(certificate::end_point_hash);
    let wanted = mode != ChannelBindingMode::Disable;
    let binding = match hash {
        Some(hash) if plus && wanted => {
            return Ok((
                SCRAM_SHA_256_PLUS,
                ChannelBinding::tls_server_end_point(hash),
            ));
        }
        // "I could, but you did not offer": a server that did offer notices the man in between.
        Some(_) if wanted => ChannelBinding::unrequested(),
        _ => ChannelBinding::unsupported(),
    };
    if mode == ChannelBindingMode::Require {
        return Err(ServerError::Authentication {
            address: link.address().clone(),
            reason: "channel binding is required, but cannot be had from this server".to_owned(),
        });
    }
    if !plain {
        return Err(ServerError::UnsupportedAuthentication {
            address: link.address().clone(),
            method: format!("SASL ({})", offered.escape_ascii()),
            instead: "scram-sha-256",
        });
    }
    Ok((SCRAM_SHA_256, binding))
}

fn body_of(
    link: &mut Link,
    expected: u32,
    user: &str,
    wait: Wait<'_>,
) -> Result<bytes::Bytes, ServerError> {
    loop {
        match link.expect(wait)? {
            BackendMessage::Authentication { code, body } if code == expected => return Ok(body),
            BackendMessage::Other(Message::ErrorResponse(body)) => {
                return Err(refused(link, user, "", &body));
            }
            BackendMessage::Other(Message::NoticeResponse(_)) => {}
            BackendMessage::Authentication { code: 0, .. } => {
                return Err(ServerError::ServerProof {
                    address: link.address().clone(),
                    reason: "it skipped its part of the exchange".to_owned(),
                });
            }
            other => return Err(link.unexpected(&other, "the exchange of proofs")),
        }
    }
}

/// Bounds the work before it is begun: `i=` of the server's first message.
fn check_iterations(link: &Link, first: &[u8]) -> Result<(), ServerError> {
    let text = String::from_utf8_lossy(first);
    let iterations = text
        .split(',')
        .find_map(|field| field.strip_prefix("i="))
        .and_then(|digits| digits.parse::<u64>().ok());
    match iterations {
        Some(iterations) if iterations > u64::from(AUTH_ITERATIONS_MAX) => {
            Err(ServerError::TooManyIterations {
                address: link.address().clone(),
                iterations,
                limit: AUTH_ITERATIONS_MAX,
            })
        }
        _ => Ok(()),
    }
}

fn proof_error(link: &Link, error: &std::io::Error) -> ServerError {
    ServerError::ServerProof {
        address: link.address().clone(),
        reason: error.to_string(),
    }
}
