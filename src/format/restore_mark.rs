//! `gs_probackup.restore`: what a restore leaves in a data directory while it is under way.
//!
//! The server's `pg_control` is away meanwhile, so that nobody starts a directory that is half one
//! state and half another. This file says whose cluster it is, so that the restore can be repeated,
//! and which pages of it can still be relied on.
//!
//! Layout: a line of JSON, then a line with the BLAKE3 hash of the first line without its newline.

use serde::{Deserialize, Serialize};

/// The name of the file, at the top of a data directory.
pub const RESTORE_MARK: &str = "gs_probackup.restore";

/// The mark's version; a mark of a later one is refused.
pub const RESTORE_MARK_VERSION: u32 = 1;

/// Bytes of such a file at most.
pub const RESTORE_MARK_BYTES_MAX: u64 = 64 * 1024;

/// A restore that is under way, or was interrupted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreMark {
    /// [`RESTORE_MARK_VERSION`].
    pub version: u32,
    /// The cluster's.
    pub system_identifier: u64,
    /// The backup that is restored.
    pub backup_id: String,
    /// The shift LSN, as a number, in lsn mode: pages that the restore has not reached and that
    /// were changed up to here are as in the chain.
    pub shift_lsn: Option<u64>,
}

/// Why a mark cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RestoreMarkError {
    /// The file is not two lines of text.
    #[error("it is not a line of JSON and a line of hash")]
    Shape,
    /// The hash is not that of the content.
    #[error("its content does not match its hash")]
    Hash,
    /// The JSON is no mark.
    #[error("its content is not a mark of a restore: {0}")]
    Json(String),
    /// A later version of the program wrote it.
    #[error("its version {0} is later than this program's")]
    Version(u32),
}

impl RestoreMark {
    /// The file's bytes.
    ///
    /// # Panics
    /// Never: text and numbers can always be written as JSON.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let json = serde_json::to_string(self).expect("text and numbers can be written as JSON");
        let hash = blake3::hash(json.as_bytes());
        format!("{json}\n{hash}\n").into_bytes()
    }

    /// The mark in a file's bytes.
    ///
    /// # Errors
    /// When the bytes are damaged or of a later version.
    pub fn parse(bytes: &[u8]) -> Result<RestoreMark, RestoreMarkError> {
        let text = std::str::from_utf8(bytes).map_err(|_| RestoreMarkError::Shape)?;
        let (json, hash) = text
            .strip_suffix('\n')
            .and_then(|text| text.split_once('\n'))
            .ok_or(RestoreMarkError::Shape)?;
        if blake3::hash(json.as_bytes()).to_string() != hash {
            return Err(RestoreMarkError::Hash);
        }
        let mark: RestoreMark = serde_json::from_str(json)
            .map_err(|error| RestoreMarkError::Json(error.to_string()))?;
        if mark.version > RESTORE_MARK_VERSION {
            return Err(RestoreMarkError::Version(mark.version));
        }
        Ok(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(shift_lsn: Option<u64>) -> RestoreMark {
        RestoreMark {
            version: RESTORE_MARK_VERSION,
            system_identifier: u64::MAX,
            backup_id: "TOU8BZ".to_owned(),
            shift_lsn,
        }
    }

    #[test]
    fn a_mark_is_read_back() {
        for mark in [mark(None), mark(Some(0x1234_5678_9ABC))] {
            assert_eq!(RestoreMark::parse(&mark.encode()), Ok(mark));
        }
        let later = RestoreMark {
            version: 2,
            ..mark(None)
        };
        let parsed = RestoreMark::parse(&later.encode());
        assert_eq!(parsed, Err(RestoreMarkError::Version(2)));
    }

    #[test]
    fn any_flipped_bit_of_a_mark_is_noticed() {
        let bytes = mark(Some(1)).encode();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(RestoreMark::parse(&damaged).is_err(), "byte {at} bit {bit}");
            }
            assert!(RestoreMark::parse(&bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
