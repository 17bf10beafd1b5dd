//! How far a server is to recover: the target that `restore` and `validate` are given.

use crate::format::catalog::{
    BackupControl, NoZone, format_timestamp, parse_timestamp, timestamp_has_offset,
};
use crate::types::Lsn;

/// How far a server started on the restored directory is to recover. At most one kind is set.
#[derive(Clone, Debug, Default)]
pub struct RecoveryTarget {
    /// A time.
    pub time: Option<TargetTime>,
    /// A transaction: as typed, and its number.
    pub xid: Option<(String, u64)>,
    /// A WAL position: as typed, and its value.
    pub lsn: Option<(String, Lsn)>,
    /// A named restore point.
    pub name: Option<String>,
    /// As soon as the server is consistent.
    pub immediate: bool,
    /// Whether the target itself is recovered; as typed.
    pub inclusive: Option<bool>,
}

/// A time to recover to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetTime {
    typed: String,
    /// In microseconds since 1970.
    pub micros: i64,
}

impl TargetTime {
    /// Reads what was typed; a time without an offset is one of the local zone.
    #[must_use]
    pub fn parse(typed: &str) -> Option<TargetTime> {
        let seconds = parse_timestamp(typed, NoZone::Local)?;
        let micros = seconds
            .checked_mul(1_000_000)?
            .checked_add(fraction(typed))?;
        Some(TargetTime {
            typed: typed.to_owned(),
            micros,
        })
    }

    /// In seconds since 1970, as a backup's recovery time is kept.
    #[must_use]
    pub fn seconds(&self) -> i64 {
        self.micros.div_euclid(1_000_000)
    }

    /// The time with its offset: the server's zone may be another than the one it was meant in.
    #[must_use]
    pub fn for_server(&self) -> String {
        if timestamp_has_offset(&self.typed) {
            return self.typed.clone();
        }
        const CLOCK_CHARACTERS: usize = "2025-08-01 10:00:00".len();
        let text = format_timestamp(self.seconds());
        let micros = self.micros.rem_euclid(1_000_000);
        match text.split_at_checked(CLOCK_CHARACTERS) {
            Some((clock, offset)) if micros > 0 => format!("{clock}.{micros:06}{offset}"),
            _ => text,
        }
    }
}

/// The microseconds behind the seconds.
fn fraction(typed: &str) -> i64 {
    let digits = typed.split_once('.').map_or("", |(_, digits)| digits);
    let digits = digits.bytes().take_while(u8::is_ascii_digit).take(6);
    let (value, missing) = digits.fold((0, 6), |(value, missing), digit| {
        (value * 10 + i64::from(digit - b'0'), missing - 1)
    });
    value * 10_i64.pow(missing)
}

impl RecoveryTarget {
    /// Whether there is a point to recover to.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.time.is_some()
            || self.xid.is_some()
            || self.lsn.is_some()
            || self.name.is_some()
            || self.immediate
    }

    /// Whether a backup does not already lie behind the target.
    #[must_use]
    pub fn is_satisfied_by(&self, control: &BackupControl) -> bool {
        if let Some((_, xid)) = &self.xid {
            return control.recovery_xid <= *xid;
        }
        if let Some(time) = &self.time {
            return control
                .recovery_time
                .is_some_and(|reached| reached <= time.seconds());
        }
        if let Some((_, lsn)) = &self.lsn {
            return control.stop_lsn <= *lsn;
        }
        if let Some(name) = &self.name {
            return control.recovery_name.is_empty() || control.recovery_name == *name;
        }
        true
    }

    /// Whether the backup alone does not reach the target.
    #[must_use]
    pub fn lies_behind(&self, control: &BackupControl) -> bool {
        self.time.as_ref().is_some_and(|time| {
            let reached = control
                .recovery_time
                .map(|time| time.saturating_mul(1_000_000));
            reached.is_none_or(|reached| reached < time.micros)
        }) || self
            .xid
            .as_ref()
            .is_some_and(|(_, xid)| control.recovery_xid < *xid)
            || self
                .lsn
                .as_ref()
                .is_some_and(|(_, lsn)| control.stop_lsn < *lsn)
            || self.name.is_some()
    }

    /// Whether the target is the name of the backup itself, which stands for its end: openGauss
    /// has no such restore point in its WAL, and PostgreSQL has it before the end.
    #[must_use]
    pub fn is_end_of(&self, control: &BackupControl) -> bool {
        self.name
            .as_ref()
            .is_some_and(|name| !name.is_empty() && *name == control.recovery_name)
    }

    /// Whether more WAL than that of the backup is needed.
    #[must_use]
    pub fn needs_wal(&self, control: &BackupControl) -> bool {
        self.lies_behind(control) && !self.is_end_of(control)
    }

    /// The target in the words of the original's error.
    pub(super) fn words(&self) -> String {
        if let Some((_, xid)) = &self.xid {
            return format!("xid {xid}");
        }
        if let Some(time) = &self.time {
            return format!("time {}", format_timestamp(time.seconds()));
        }
        if let Some((_, lsn)) = &self.lsn {
            return format!("lsn {lsn}");
        }
        match &self.name {
            Some(name) => format!("restore point \"{}\"", name.escape_debug()),
            None => "the end of the backup".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_keeps_its_fraction_and_tells_the_server_its_zone() {
        let time = |text: &str| TargetTime::parse(text).unwrap();
        let typed = time("2025-08-01 10:00:00.25+08");
        assert_eq!(typed.micros, 1_754_013_600_250_000);
        assert_eq!(typed.seconds(), 1_754_013_600);
        assert_eq!(typed.for_server(), "2025-08-01 10:00:00.25+08");
        let local = time("2025-08-01 10:00:00");
        assert_eq!(local.for_server(), format_timestamp(local.seconds()));
        let local = time("25-08-01 10:00:00.5");
        assert!(local.for_server().starts_with("2025-08-01 10:00:00.500000"));
        assert_eq!(
            TargetTime::parse(&local.for_server()).unwrap().micros,
            local.micros
        );
        for text in ["2025-08-01", "2025-08-01 10", "2025-08-01 10:00"] {
            let local = time(text);
            let told = local.for_server();
            assert_eq!(time(&told).micros, local.micros);
        }
        assert_eq!(TargetTime::parse("tomorrow"), None);
    }

    #[test]
    fn fractions_of_any_length_are_microseconds() {
        for (text, micros) in [
            ("", 0),
            ("10:00:00", 0),
            (".5", 500_000),
            (".000001", 1),
            (".1234567+08", 123_456),
            (".25-03:30", 250_000),
        ] {
            assert_eq!(fraction(text), micros, "{text}");
        }
    }
}
