//! `backup.seal`: what `backup.control` and `global/pg_control` of a backup looked like when it was
//! finished.
//!
//! The catalog format of the original leaves two gaps: `backup.control` has no checksum, and of
//! `pg_control` only the first 224 bytes have one. This file of ours closes them for backups that
//! we write. The original ignores it; where it rewrites `backup.control` (`set-backup`), the seal
//! is stale and says nothing any more of what that command may change.
//!
//! While `backup.control` is changed the seal holds its text as it was and as it will be: after a
//! crash either is right.
//!
//! Layout: a line of JSON, then a line with the BLAKE3 hash of the first line without its newline.

use serde::{Deserialize, Serialize};

/// The seal's version; readers ignore seals of a later one.
pub const SEAL_VERSION: u32 = 1;

/// What a backup looked like when it was sealed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Seal {
    /// [`SEAL_VERSION`].
    pub version: u32,
    /// The text of `backup.control`.
    pub backup_control: String,
    /// The text that `backup.control` gets, while it is being changed: a crash may leave either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_control: Option<String>,
    /// BLAKE3 of `database/global/pg_control`, in hexadecimal.
    pub pg_control_blake3: Option<String>,
}

/// Why a seal cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SealError {
    /// The file is not two lines of text.
    #[error("it is not a line of JSON and a line of hash")]
    Shape,
    /// The hash is not that of the content.
    #[error("its content does not match its hash")]
    Hash,
    /// The JSON is not a seal.
    #[error("its content is not a seal: {0}")]
    Json(String),
}

impl Seal {
    /// The seal of a backup.
    #[must_use]
    pub fn new(backup_control: &str, pg_control: Option<&[u8]>) -> Seal {
        Seal {
            version: SEAL_VERSION,
            backup_control: backup_control.to_owned(),
            next_control: None,
            pg_control_blake3: pg_control.map(|bytes| blake3::hash(bytes).to_string()),
        }
    }

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

    /// The seal in a file's bytes; `None` if a later version wrote it.
    ///
    /// # Errors
    /// When the bytes are damaged.
    pub fn parse(bytes: &[u8]) -> Result<Option<Seal>, SealError> {
        let text = std::str::from_utf8(bytes).map_err(|_| SealError::Shape)?;
        let (json, hash) = text
            .strip_suffix('\n')
            .and_then(|text| text.split_once('\n'))
            .ok_or(SealError::Shape)?;
        if blake3::hash(json.as_bytes()).to_string() != hash {
            return Err(SealError::Hash);
        }
        let seal: Seal =
            serde_json::from_str(json).map_err(|error| SealError::Json(error.to_string()))?;
        Ok((seal.version <= SEAL_VERSION).then_some(seal))
    }

    /// Whether these are the bytes of `backup.control` that were sealed.
    #[must_use]
    pub fn matches_control(&self, bytes: &[u8]) -> bool {
        let sealed = std::iter::once(&self.backup_control).chain(&self.next_control);
        sealed.into_iter().any(|text| text.as_bytes() == bytes)
    }

    /// Whether these are the bytes of `pg_control` that were sealed; true where none were.
    #[must_use]
    pub fn matches_pg_control(&self, bytes: &[u8]) -> bool {
        let hash = blake3::hash(bytes).to_string();
        self.pg_control_blake3
            .as_ref()
            .is_none_or(|sealed| *sealed == hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_is_read_back() {
        let seal = Seal::new("status = OK\nnote = 'a \"b\"'\n", Some(b"control"));
        assert_eq!(Seal::parse(&seal.encode()), Ok(Some(seal.clone())));
        assert!(seal.matches_pg_control(b"control"));
        assert!(!seal.matches_pg_control(b"cOntrol"));
        assert!(Seal::new("", None).matches_pg_control(b"anything"));
    }

    #[test]
    fn a_seal_of_a_change_knows_both_texts_and_older_seals_one() {
        let mut seal = Seal::new("status = DONE\n", None);
        assert!(!String::from_utf8(seal.encode()).unwrap().contains("next"));
        assert!(seal.matches_control(b"status = DONE\n"));
        assert!(!seal.matches_control(b"status = OK\n"));
        seal.next_control = Some("status = OK\n".to_owned());
        let seal = Seal::parse(&seal.encode()).unwrap().unwrap();
        assert!(seal.matches_control(b"status = DONE\n"));
        assert!(seal.matches_control(b"status = OK\n"));
        assert!(!seal.matches_control(b"status = ERROR\n"));
    }

    #[test]
    fn any_flipped_bit_of_a_seal_is_noticed() {
        let bytes = Seal::new("status = OK\n", Some(b"control")).encode();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(Seal::parse(&damaged).is_err(), "byte {at} bit {bit}");
            }
            assert!(Seal::parse(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_later_version_is_not_judged() {
        let mut seal = Seal::new("", None);
        seal.version = SEAL_VERSION + 1;
        assert_eq!(Seal::parse(&seal.encode()), Ok(None));
    }
}
