//! Backup ids: the start time of a backup in base 36.

use std::fmt;
use std::str::FromStr;

/// A backup's start time in seconds since 1970, printed in upper-case base 36: `TOU8BZ`.
///
/// The name of the backup's directory; at most one backup a second and instance. Always positive.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BackupId(i64);

impl BackupId {
    /// The id of the backup that started at `start_time`, or `None` where that is not after 1970.
    #[must_use]
    pub fn from_start_time(start_time: i64) -> Option<BackupId> {
        (start_time > 0).then_some(BackupId(start_time))
    }

    /// Seconds since 1970.
    #[must_use]
    pub fn start_time(self) -> i64 {
        self.0
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // 13 digits hold any positive i64.
        let mut digits = [0_u8; 13];
        let mut at = digits.len();
        let mut rest = self.0.unsigned_abs();
        while rest > 0 {
            at -= 1;
            digits[at] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                [usize::try_from(rest % 36).expect("a remainder of 36 fits")];
            rest /= 36;
        }
        f.pad(std::str::from_utf8(&digits[at..]).expect("base 36 digits are ASCII"))
    }
}

/// The text is not a positive number in base 36.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Invalid backup-id \"{0}\"")]
pub struct ParseBackupIdError(String);

impl FromStr for BackupId {
    type Err = ParseBackupIdError;

    fn from_str(text: &str) -> Result<BackupId, ParseBackupIdError> {
        let digits = text.bytes().all(|digit| digit.is_ascii_alphanumeric());
        let value = if digits {
            i64::from_str_radix(text, 36).ok()
        } else {
            None
        };
        value
            .and_then(BackupId::from_start_time)
            .ok_or_else(|| ParseBackupIdError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backup_id_is_the_start_time_in_base_36() {
        let id = BackupId::from_start_time(1_795_240_367).unwrap();
        assert_eq!(id.to_string(), "TOU8BZ");
        assert_eq!("tou8bz".parse(), Ok(id));
        let last = BackupId::from_start_time(i64::MAX).unwrap();
        assert_eq!(last.to_string().parse(), Ok(last));
    }

    #[test]
    fn backup_id_refuses_text_that_is_no_name_of_a_directory() {
        for text in [
            "",
            "0",
            "000",
            "../x",
            "TOU8BZ ",
            "-5",
            "+5",
            "ZZZZZZZZZZZZZZ",
            "TOU8BZ/..",
        ] {
            assert!(text.parse::<BackupId>().is_err(), "{text:?}");
        }
    }
}
