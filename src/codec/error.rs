//! Why a payload does not give the page it should.

use crate::types::CompressAlgorithm;

/// A payload that its algorithm cannot turn into exactly the bytes expected.
///
/// Knows neither file nor block: the caller adds its [`Location`](crate::types::Location).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The payload breaks the rules of its format, or ends in the middle of an item.
    #[error("{algorithm} payload of {payload_bytes} bytes is damaged")]
    Damaged {
        /// What the payload should be.
        algorithm: CompressAlgorithm,
        /// Length of the payload.
        payload_bytes: usize,
    },
    /// The payload ends before the page is full.
    #[error("{algorithm} payload gives {found_bytes} bytes instead of {expected_bytes}")]
    TooShort {
        /// What the payload should be.
        algorithm: CompressAlgorithm,
        /// Bytes that the payload gives.
        found_bytes: usize,
        /// Bytes that it should give.
        expected_bytes: usize,
    },
    /// The payload goes on after the page is full.
    #[error("{algorithm} payload gives more than {expected_bytes} bytes")]
    TooLong {
        /// What the payload should be.
        algorithm: CompressAlgorithm,
        /// Bytes that it should give.
        expected_bytes: usize,
    },
}

/// The error of a payload that gives `found_bytes` instead of `expected_bytes`.
pub(super) fn wrong_length(
    algorithm: CompressAlgorithm,
    found_bytes: usize,
    expected_bytes: usize,
) -> DecodeError {
    if found_bytes < expected_bytes {
        DecodeError::TooShort {
            algorithm,
            found_bytes,
            expected_bytes,
        }
    } else {
        DecodeError::TooLong {
            algorithm,
            expected_bytes,
        }
    }
}

/// Compares what a library's decoder says it wrote with what was asked for.
pub(super) fn verify_length(
    algorithm: CompressAlgorithm,
    found_bytes: usize,
    expected_bytes: usize,
) -> Result<(), DecodeError> {
    if found_bytes == expected_bytes {
        Ok(())
    } else {
        Err(wrong_length(algorithm, found_bytes, expected_bytes))
    }
}
