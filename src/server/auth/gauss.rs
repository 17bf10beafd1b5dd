//! openGauss's own password proofs, `sha256` and `sm3`: RFC 5802 in shape, with constants of their
//! own.
//!
//! ```text
//! k          = PBKDF2-HMAC-SHA1(password, salt, iterations), 32 bytes
//! client key = HMAC-SHA256(k, "Client Key")      stored key = SHA256(client key), or SM3 of it
//! server key = HMAC-SHA256(k, "Sever Key")       (so spelled for sha256; "Server Key" for sm3)
//! answer     = client key XOR HMAC-SHA256(stored key, token), in hexadecimal
//! proof      = HMAC-SHA256(server key, token), in hexadecimal
//! ```
//!
//! The request holds, after its number: method u32, salt 64 hex digits, token 8 hex digits, then by
//! version of the protocol nothing (3.50), iterations u32 (3.51), or the server's proof of 64 hex
//! digits (below 3.50). Source: openGauss `fe-connect.cpp`, `fe-auth.cpp`, `sha2.cpp`; the tests
//! compute answers that the real server accepted.

use crate::limits::AUTH_ITERATIONS_MAX;
use bytes::Buf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use sm3::Sm3;
use zeroize::Zeroizing;

/// The code of a request for `sha256`.
pub(super) const CODE_SHA256: u32 = 10;
/// The code of a request for `sm3`.
pub(super) const CODE_SM3: u32 = 13;

/// Iterations where the protocol does not carry their number.
const ITERATIONS_DEFAULT: u32 = 10_000;

const METHOD_MD5: u32 = 1;
const METHOD_SHA256: u32 = 2;
const METHOD_SM3: u32 = 3;

const SALT_BYTES: usize = 32;
const TOKEN_BYTES: usize = 4;
const KEY_BYTES: usize = 32;

/// A request for a proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// RFC 5802 as openGauss does it.
    Proof {
        /// The hash of the stored key.
        stored_hash: StoredHash,
        /// Of the password.
        salt: [u8; SALT_BYTES],
        /// Of this request.
        token: [u8; TOKEN_BYTES],
        /// Of the password hash.
        iterations: u32,
        /// That the server knows the password.
        server_proof: Option<[u8; KEY_BYTES]>,
    },
    /// The password is stored as MD5 though the method is `sha256`.
    Md5Stored {
        /// Of this request.
        salt: [u8; 4],
    },
}

/// How the server stores the client's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StoredHash {
    /// SHA-256.
    Sha256,
    /// SM3.
    Sm3,
}

/// Why a challenge is not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It cannot be read.
    Malformed(&'static str),
    /// Too much work.
    TooManyIterations(u32),
    /// The password is stored in a form that would have to be sent readable.
    Readable,
    /// The server does not know the password, or the one given is wrong.
    ServerProof,
}

/// Reads the body of request `code`, one of the two above.
pub(super) fn parse(code: u32, mut body: &[u8]) -> Result<Challenge, Refusal> {
    const TOO_SHORT: Refusal = Refusal::Malformed("the request is too short");
    let method = body.try_get_u32().map_err(|_| TOO_SHORT)?;
    let stored_hash = match (code, method) {
        (CODE_SHA256, METHOD_SHA256) => StoredHash::Sha256,
        (CODE_SM3, METHOD_SM3) => StoredHash::Sm3,
        (CODE_SHA256, METHOD_MD5) => {
            let salt = body.try_into().map_err(|_| TOO_SHORT)?;
            return Ok(Challenge::Md5Stored { salt });
        }
        _ => return Err(Refusal::Readable),
    };
    let salt = take_hex(&mut body).ok_or(Refusal::Malformed("its salt is not hexadecimal"))?;
    let token = take_hex(&mut body).ok_or(Refusal::Malformed("its token is not hexadecimal"))?;
    let (iterations, server_proof) = match body.len() {
        0 => (ITERATIONS_DEFAULT, None),
        4 => (body.get_u32(), None),
        _ => {
            let proof = take_hex(&mut body);
            let proof = proof.ok_or(Refusal::Malformed("the server's proof is not hexadecimal"))?;
            if !body.is_empty() {
                return Err(Refusal::Malformed("the request is too long"));
            }
            (ITERATIONS_DEFAULT, Some(proof))
        }
    };
    match iterations {
        0 => Err(Refusal::Malformed("it asks for no iteration")),
        1..=AUTH_ITERATIONS_MAX => Ok(Challenge::Proof {
            stored_hash,
            salt,
            token,
            iterations,
            server_proof,
        }),
        _ => Err(Refusal::TooManyIterations(iterations)),
    }
}

/// The answer to `challenge`.
pub(super) fn answer(
    challenge: &Challenge,
    user: &str,
    password: &str,
) -> Result<Zeroizing<String>, Refusal> {
    match challenge {
        Challenge::Md5Stored { salt } => Ok(answer_md5_stored(*salt, user, password)),
        Challenge::Proof {
            stored_hash,
            salt,
            token,
            iterations,
            server_proof,
        } => {
            let mut k = Zeroizing::new([0_u8; KEY_BYTES]);
            pbkdf2::pbkdf2_hmac::<sha1::Sha1>(password.as_bytes(), salt, *iterations, &mut *k);
            if let Some(proof) = server_proof {
                let label: &[u8] = match stored_hash {
                    StoredHash::Sha256 => b"Sever Key",
                    StoredHash::Sm3 => b"Server Key",
                };
                let server_key = hmac(&*k, label);
                hmac_state(&*server_key)
                    .chain_update(token)
                    .verify_slice(proof)
                    .map_err(|_| Refusal::ServerProof)?;
            }
            let client_key = hmac(&*k, b"Client Key");
            let stored_key: Zeroizing<[u8; KEY_BYTES]> = Zeroizing::new(match stored_hash {
                StoredHash::Sha256 => Sha256::digest(client_key.as_slice()).into(),
                StoredHash::Sm3 => Sm3::digest(client_key.as_slice()).into(),
            });
            let mut answer = hmac(&*stored_key, token);
            for (byte, key) in answer.iter_mut().zip(client_key.iter()) {
                *byte ^= key;
            }
            Ok(Zeroizing::new(hex(&*answer)))
        }
    }
}

/// `sha256` and the hash of the stored MD5 with the salt.
fn answer_md5_stored(salt: [u8; 4], user: &str, password: &str) -> Zeroizing<String> {
    use md5::Md5;
    let stored = Md5::new()
        .chain_update(password)
        .chain_update(user)
        .finalize();
    let stored = Zeroizing::new(hex(&stored));
    let digest = Sha256::new()
        .chain_update(stored.as_bytes())
        .chain_update(salt)
        .finalize();
    Zeroizing::new(format!("sha256{}", hex(&digest)))
}

fn hmac_state(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

fn hmac(key: &[u8], message: &[u8]) -> Zeroizing<[u8; KEY_BYTES]> {
    let code = hmac_state(key).chain_update(message).finalize();
    Zeroizing::new(code.into_bytes().into())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `N` bytes that `text` begins with in hexadecimal.
fn take_hex<const N: usize>(text: &mut &[u8]) -> Option<[u8; N]> {
    let digits = text.get(..2 * N)?;
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        if !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    text.advance(2 * N);
    Some(bytes)
}
