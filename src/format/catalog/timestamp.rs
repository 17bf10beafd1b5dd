//! Points in time as the original prints and reads them.
//!
//! Printed: local wall clock, sign and hours of the UTC offset, and its minutes only where they are
//! not zero: `2025-08-01 10:00:00+08`. Read: any offset. Source: `configuration.cpp:1170-1290,
//! 1517-1546`.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::{Offset, TimeZone};

/// What a time without an offset means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoZone {
    /// UTC: in the files of a catalog.
    Utc,
    /// The local zone: on the command line.
    Local,
}

/// Seconds since 1970 as text in the local zone.
#[must_use]
pub fn format_timestamp(seconds: i64) -> String {
    format_in_zone(seconds, &TimeZone::system())
}

fn format_in_zone(seconds: i64, zone: &TimeZone) -> String {
    // Only times that were read or taken from the clock get here; anything beyond the year 9999 is
    // shown as its end.
    let limit = if seconds < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    };
    let zoned = Timestamp::from_second(seconds)
        .unwrap_or(limit)
        .to_zoned(zone.clone());
    let offset = zoned.offset().seconds();
    let sign = if offset < 0 { '-' } else { '+' };
    let (hours, minutes) = (offset.abs() / 3600, offset.abs() / 60 % 60);
    let clock = zoned.strftime("%Y-%m-%d %H:%M:%S");
    if minutes == 0 {
        format!("{clock}{sign}{hours:02}")
    } else {
        format!("{clock}{sign}{hours:02}:{minutes:02}")
    }
}

/// Seconds since 1970 of `YYYY-MM-DD[ HH[:MM[:SS]]][±hh[:mm[:ss]]]`, or `None` where the text is no
/// such time.
///
/// A fraction of a second is dropped and a year of two digits is after 2000, as for the original.
#[must_use]
pub fn parse_timestamp(text: &str, no_zone: NoZone) -> Option<i64> {
    let text = text.trim_ascii();
    let (clock, offset) = split_offset(text)?;
    let mut fields = clock.splitn(2, [' ', 'T']);
    let date = numbers(fields.next()?, '-')?;
    let &[year, month, day] = date.as_slice() else {
        return None;
    };
    let time = match fields.next().map(str::trim_ascii) {
        None | Some("") => Vec::new(),
        Some(time) => numbers(time.split('.').next()?, ':')?,
    };
    if time.len() > 3 {
        return None;
    }
    let field = |at: usize| i8::try_from(time.get(at).copied().unwrap_or(0)).ok();
    let year = if year < 100 { year + 2000 } else { year };
    let civil = Date::new(
        i16::try_from(year).ok()?,
        i8::try_from(month).ok()?,
        i8::try_from(day).ok()?,
    )
    .ok()?
    .to_datetime(jiff::civil::Time::new(field(0)?, field(1)?, field(2)?, 0).ok()?);
    let timestamp = match (offset, no_zone) {
        (Some(offset), _) => offset.to_timestamp(civil).ok()?,
        (None, NoZone::Utc) => Offset::UTC.to_timestamp(civil).ok()?,
        (None, NoZone::Local) => TimeZone::system().to_timestamp(civil).ok()?,
    };
    Some(timestamp.as_second())
}

/// Whether a time says its offset, and so needs no zone to be understood.
#[must_use]
pub fn timestamp_has_offset(text: &str) -> bool {
    split_offset(text.trim_ascii()).is_some_and(|(_, offset)| offset.is_some())
}

// The clock part and the offset, if there is one: a sign after the time of day, or a plus after the
// date.
fn split_offset(text: &str) -> Option<(&str, Option<Offset>)> {
    let clock_at = text.find(' ').or_else(|| text.find('T')).unwrap_or(0);
    let sign_at = text[clock_at..]
        .find(|c| c == '+' || (c == '-' && clock_at > 0))
        .map(|at| at + clock_at);
    let Some(sign_at) = sign_at else {
        return Some((text, None));
    };
    let parts = numbers(&text[sign_at + 1..], ':')?;
    if parts.len() > 3 || parts.iter().skip(1).any(|part| *part > 59) {
        return None;
    }
    let part = |at: usize| parts.get(at).copied().unwrap_or(0);
    let seconds = i32::try_from(part(0) * 3600 + part(1) * 60 + part(2)).ok()?;
    let seconds = if text.as_bytes()[sign_at] == b'-' {
        -seconds
    } else {
        seconds
    };
    let offset = Offset::from_seconds(seconds).ok()?;
    Some((text[..sign_at].trim_ascii_end(), Some(offset)))
}

fn numbers(text: &str, separator: char) -> Option<Vec<u32>> {
    text.split(separator)
        .map(|digits| {
            let valid =
                (1..=4).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
            if valid { digits.parse().ok() } else { None }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_print_with_the_hours_of_their_offset_and_minutes_only_where_needed() {
        let zone = |text: &str| TimeZone::posix(text).unwrap();
        let seconds = 1_754_013_600;
        for (tz, text) in [
            ("UTC0", "2025-08-01 02:00:00+00"),
            ("CST-8", "2025-08-01 10:00:00+08"),
            ("IST-5:30", "2025-08-01 07:30:00+05:30"),
            ("NST3:30", "2025-07-31 22:30:00-03:30"),
        ] {
            assert_eq!(format_in_zone(seconds, &zone(tz)), text);
            assert_eq!(parse_timestamp(text, NoZone::Utc), Some(seconds));
        }
    }

    #[test]
    fn times_are_read_in_every_form_the_original_takes() {
        for (text, seconds) in [
            ("2025-08-01", 1_754_006_400),
            ("25-08-01", 1_754_006_400),
            ("2025-08-01 02", 1_754_013_600),
            ("2025-08-01 02:00", 1_754_013_600),
            ("2025-08-01T02:00:00.75", 1_754_013_600),
            ("2025-08-01 10:00:00 +08", 1_754_013_600),
            ("2025-08-01 10:00:00+08:00:00", 1_754_013_600),
        ] {
            assert_eq!(parse_timestamp(text, NoZone::Utc), Some(seconds), "{text}");
        }
    }

    #[test]
    fn an_offset_is_seen_behind_the_clock_only() {
        for (text, has_offset) in [
            ("2025-08-01", false),
            ("2025-08-01 02:00:00.5", false),
            ("2025-08-01 02:00:00-03", true),
            ("2025-08-01 02:00 +05:30", true),
        ] {
            assert_eq!(timestamp_has_offset(text), has_offset, "{text}");
        }
    }

    #[test]
    fn anything_else_is_no_time() {
        for text in [
            "",
            "yesterday",
            "2025",
            "2025-13-01",
            "2025-02-30 00:00:00",
            "2025-08-01 25:00:00",
            "2025-08-01 10:00:00+99",
            "2025-08-01 10:00:00+",
            "2025-08-01 1:2:3:4",
            "99999-01-01",
            "2025-08-01 10:00:00Z",
        ] {
            assert_eq!(parse_timestamp(text, NoZone::Utc), None, "{text:?}");
        }
    }
}
