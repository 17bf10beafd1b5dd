//! How the original words sizes, times and errors in its messages.

use std::error::Error;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A size as the original prints it: `0`, `9999B`, `784MB`; a unit changes at ten thousand of the
/// smaller one.
#[must_use]
pub fn pretty_size(bytes: u64) -> String {
    const LIMIT: u64 = 10 * 1024;
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    if bytes == 0 {
        return "0".to_owned();
    }
    if bytes < LIMIT {
        return format!("{bytes}B");
    }
    // As pg_size_pretty: one bit more than the unit needs is kept, to round half up at the end.
    let mut doubled = bytes >> 9;
    let mut unit = 1;
    while unit + 1 < UNITS.len() && doubled >= LIMIT * 2 - 1 {
        doubled >>= 10;
        unit += 1;
    }
    format!("{}{}", doubled.div_ceil(2), UNITS[unit])
}

/// The time since `began` as the original prints it: `0`, `12s`, `3m:20s`.
#[must_use]
pub fn pretty_time(began: Instant) -> String {
    pretty_seconds(began.elapsed().as_secs())
}

/// A number of seconds as the original prints it.
#[must_use]
pub fn pretty_seconds(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) if rest == 0 => "0".to_owned(),
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m:{rest}s"),
        (0, _, _) => format!("{hours}h:{minutes}m"),
        _ => format!("{days}d:{hours}h"),
    }
}

/// The time, in seconds since 1970. A program that tests build takes it from `GS_NOW`, if that is
/// set: what retention says depends on the day.
pub(super) fn now() -> i64 {
    #[cfg(feature = "testing")]
    if let Some(now) = std::env::var("GS_NOW")
        .ok()
        .and_then(|text| text.parse().ok())
    {
        return now;
    }
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    elapsed
        .ok()
        .and_then(|elapsed| i64::try_from(elapsed.as_secs()).ok())
        .unwrap_or(0)
}

/// A count of things in memory.
pub(super) fn count(length: usize) -> u64 {
    u64::try_from(length).expect("a usize fits on every supported platform")
}

/// An error and its causes in one line.
#[must_use]
pub fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // The number of a system error, which Rust appends, says nothing that its text does not.
        let end = cause_text.find(" (os error ");
        text.push_str(": ");
        text.push_str(&cause_text[..end.unwrap_or(cause_text.len())]);
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_the_originals() {
        for (bytes, text) in [
            (0, "0"),
            (1, "1B"),
            (10_239, "10239B"),
            (10_240, "10kB"),
            (16_777_216, "16MB"),
            (821_756_650, "784MB"),
            (518_129_243, "494MB"),
            (85_435_202, "81MB"),
            (514_597_050, "491MB"),
            (34_883_675, "33MB"),
            (1 << 62, "4194304TB"),
        ] {
            assert_eq!(pretty_size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn times_are_the_originals() {
        for (seconds, text) in [
            (0, "0"),
            (59, "59s"),
            (61, "1m:1s"),
            (3660, "1h:1m"),
            (90_000, "1d:1h"),
        ] {
            assert_eq!(pretty_seconds(seconds), text);
        }
    }
}
