//! Positions in the write-ahead log.

use std::fmt;
use std::str::FromStr;

/// A byte position in WAL, printed `0/3A012F8`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The position that means "none".
    pub const INVALID: Lsn = Lsn(0);

    /// Whether the position means "none".
    #[must_use]
    pub fn is_invalid(self) -> bool {
        self.0 == 0
    }

    /// The position from its two halves, as page headers store it.
    #[must_use]
    pub fn from_halves(high: u32, low: u32) -> Lsn {
        Lsn(u64::from(high) << 32 | u64::from(low))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// The text is not two hexadecimal numbers of at most 32 bits joined by a slash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a WAL position: {0:?}")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Lsn, ParseLsnError> {
        let half = |digits: &str| {
            let hex = (1..=8).contains(&digits.len())
                && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            if hex {
                u32::from_str_radix(digits, 16).ok()
            } else {
                None
            }
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Lsn::from_halves(half(high)?, half(low)?)))
            .ok_or_else(|| ParseLsnError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_prints_as_the_server_does_and_parses_back() {
        for (text, value) in [
            ("0/0", 0),
            ("0/3A012F8", 0x3A0_12F8),
            ("1F/FFFFFFFF", 0x1F_FFFF_FFFF),
        ] {
            assert_eq!(text.parse(), Ok(Lsn(value)));
            assert_eq!(Lsn(value).to_string(), text);
        }
        assert_eq!("00000000/0F000028".parse(), Ok(Lsn(0x0F00_0028)));
    }

    #[test]
    fn lsn_refuses_anything_else() {
        for text in [
            "",
            "/",
            "0",
            "0/",
            "/0",
            "0/123456789",
            "+1/0",
            "0/0 ",
            "g/0",
            "0/0/0",
        ] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }
}
