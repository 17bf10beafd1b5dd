//! Values of flags and of configuration files: booleans, numbers with units, log levels.
//!
//! One grammar for the command line, `pg_probackup.conf` and `backup.control`, as in the original
//! (`configuration.cpp:739-970`). The texts of [`ValueError`] are the original's.

use std::fmt;

/// Text from a file or a flag for a message of one line: its control characters are escaped,
/// nothing else.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// What a value should have been; the phrase of the original's message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// `true`, `false`, `yes`, `no`, `on`, `off`, `1`, `0` or a prefix that only one of them has.
    Bool,
    /// A number of 32 bits with sign.
    I32,
    /// A number of 32 bits.
    U32,
    /// A number of 64 bits with sign.
    I64,
    /// A number of 64 bits.
    U64,
    /// Text that is not empty.
    Text,
    /// A date and time.
    Time,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Expected::Bool => "a boolean",
            Expected::I32 => "a 32bit signed integer",
            Expected::U32 => "a 32bit unsigned integer",
            Expected::I64 => "a 64bit signed integer",
            Expected::U64 => "a 64bit unsigned integer",
            Expected::Text => "a valid string",
            Expected::Time => "a time",
        })
    }
}

/// The value of an option is not what the option takes.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ValueError {
    /// Not of the expected kind.
    #[error("Option {option} should be {expected}: '{found}'", found = printable(found))]
    NotA {
        /// The option as written in messages: `--compress-level`, `-j, --threads`.
        option: String,
        /// The kind.
        expected: Expected,
        /// The text.
        found: String,
    },
    /// No known compression.
    #[error("invalid compress algorithm value \"{0}\"")]
    CompressAlgorithm(String),
    /// No known log level.
    #[error("invalid log-level \"{0}\"")]
    LogLevel(String),
}

impl Expected {
    /// The error of a value that should have been of this kind.
    #[must_use]
    pub fn error(self, option: impl Into<String>, found: &str) -> ValueError {
        ValueError::NotA {
            option: option.into(),
            expected: self,
            found: found.to_owned(),
        }
    }
}

/// How much is logged; a level includes all that come after it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LogLevel {
    /// Everything.
    Verbose,
    /// Steps that matter to somebody who looks for a cause.
    Log,
    /// What is being done.
    Info,
    /// As [`LogLevel::Info`]; nothing is written at this level.
    Notice,
    /// What was lost or is doubtful.
    Warning,
    /// Why the run failed.
    Error,
    /// Nothing.
    Off,
}

impl LogLevel {
    // The order in which the original compares prefixes.
    const ALL: [(LogLevel, &str); 7] = [
        (LogLevel::Off, "OFF"),
        (LogLevel::Verbose, "VERBOSE"),
        (LogLevel::Log, "LOG"),
        (LogLevel::Info, "INFO"),
        (LogLevel::Notice, "NOTICE"),
        (LogLevel::Warning, "WARNING"),
        (LogLevel::Error, "ERROR"),
    ];

    /// The name in configuration files and log lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL
            .into_iter()
            .find(|(level, _)| *level == self)
            .map_or("OFF", |(_, name)| name)
    }

    /// The level whose name begins with `text`, in any case.
    #[must_use]
    pub fn from_prefix(text: &str) -> Option<LogLevel> {
        let text = text.trim_ascii_start().to_ascii_uppercase();
        if text.is_empty() {
            return None;
        }
        Self::ALL
            .into_iter()
            .find(|(_, name)| name.starts_with(&text))
            .map(|(level, _)| level)
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The unit that a number without suffix has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// No suffix is allowed.
    None,
    /// 1024 bytes.
    Kilobytes,
    /// Milliseconds.
    Milliseconds,
    /// Seconds.
    Seconds,
}

impl Unit {
    // Suffixes and how many of the unit they are, largest first: the order in which values are
    // printed.
    fn suffixes(self) -> &'static [(&'static str, i128)] {
        match self {
            Unit::None => &[],
            Unit::Kilobytes => &[
                ("TB", 1 << 30),
                ("GB", 1 << 20),
                ("MB", 1 << 10),
                ("KB", 1),
                ("kB", 1),
            ],
            Unit::Milliseconds => &[
                ("d", 86_400_000),
                ("h", 3_600_000),
                ("min", 60_000),
                ("s", 1000),
                ("ms", 1),
            ],
            Unit::Seconds => &[("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)],
        }
    }
}

/// A boolean: a prefix, in any case, that only one of the words has.
#[must_use]
pub fn parse_bool(text: &str) -> Option<bool> {
    const WORDS: [(&str, bool); 6] = [
        ("true", true),
        ("false", false),
        ("yes", true),
        ("no", false),
        ("on", true),
        ("off", false),
    ];
    match text {
        "1" => return Some(true),
        "0" => return Some(false),
        // Both "on" and "off" begin with it.
        "" | "o" | "O" => return None,
        _ => {}
    }
    let text = text.to_ascii_lowercase();
    WORDS
        .into_iter()
        .find(|(word, _)| word.starts_with(&text))
        .map(|(_, value)| value)
}

/// A number of 32 bits, with a suffix of `unit` if there is one.
#[must_use]
pub fn parse_u32(text: &str, unit: Unit) -> Option<u32> {
    u32::try_from(parse_number(text, unit, i128::from(u32::MAX))?).ok()
}

/// A number of 64 bits, with a suffix of `unit` if there is one.
#[must_use]
pub fn parse_u64(text: &str, unit: Unit) -> Option<u64> {
    u64::try_from(parse_number(text, unit, i128::from(u64::MAX))?).ok()
}

/// A number of 32 bits with sign, with a suffix of `unit` if there is one.
#[must_use]
pub fn parse_i32(text: &str, unit: Unit) -> Option<i32> {
    i32::try_from(parse_number(text, unit, i128::from(i32::MAX))?).ok()
}

/// A number of 64 bits with sign, with a suffix of `unit` if there is one.
#[must_use]
pub fn parse_i64(text: &str, unit: Unit) -> Option<i64> {
    i64::try_from(parse_number(text, unit, i128::from(i64::MAX))?).ok()
}

// `infinite` is what the word INFINITE stands for. Numbers may be octal (0…) or hexadecimal (0x…)
// as for strtol.
fn parse_number(text: &str, unit: Unit, infinite: i128) -> Option<i128> {
    let text = text.trim_ascii();
    if text.eq_ignore_ascii_case("INFINITE") {
        return Some(infinite);
    }
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = if let Some(hex) = digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"))
    {
        (16, hex)
    } else if digits.len() > 1 && digits.starts_with('0') {
        (8, digits)
    } else {
        (10, digits)
    };
    let end = digits
        .find(|c: char| !c.is_digit(radix))
        .unwrap_or(digits.len());
    let value = i128::from(u64::from_str_radix(&digits[..end], radix).ok()?);
    let suffix = digits[end..].trim_ascii_start();
    let factor = if suffix.is_empty() {
        1
    } else {
        unit.suffixes()
            .iter()
            .find(|(name, _)| *name == suffix)
            .map(|(_, factor)| *factor)?
    };
    let value = value.checked_mul(factor)?;
    Some(if negative { -value } else { value })
}

/// The number in the largest unit that divides it, as the original prints it: `5min`, `0TB`.
#[must_use]
pub fn format_with_unit(value: u64, unit: Unit) -> String {
    for (suffix, factor) in unit.suffixes() {
        let value = i128::from(value);
        if value % factor == 0 {
            return format!("{}{suffix}", value / factor);
        }
    }
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_stay_on_one_line_and_steer_no_terminal() {
        assert_eq!(
            printable("it's \"a\"\n\u{1b}[2J"),
            "it's \"a\"\\n\\u{1b}[2J"
        );
    }

    #[test]
    fn booleans_are_prefixes_that_only_one_word_has() {
        for text in ["true", "T", "y", "YES", "on", "1"] {
            assert_eq!(parse_bool(text), Some(true), "{text}");
        }
        for text in ["false", "f", "n", "No", "of", "OFF", "0"] {
            assert_eq!(parse_bool(text), Some(false), "{text}");
        }
        for text in ["", "o", "truex", "2", " true"] {
            assert_eq!(parse_bool(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_take_the_prefixes_of_c_and_the_suffixes_of_their_unit() {
        assert_eq!(parse_u32("42", Unit::None), Some(42));
        assert_eq!(parse_u32("0x1F", Unit::None), Some(31));
        assert_eq!(parse_u32("010", Unit::None), Some(8));
        assert_eq!(parse_u32("0", Unit::None), Some(0));
        assert_eq!(parse_u32(" 7 ", Unit::None), Some(7));
        assert_eq!(parse_u32("infinite", Unit::None), Some(u32::MAX));
        assert_eq!(parse_u32("5min", Unit::Seconds), Some(300));
        assert_eq!(parse_u64("10 MB", Unit::Kilobytes), Some(10_240));
        assert_eq!(parse_u64("2d", Unit::Milliseconds), Some(172_800_000));
        assert_eq!(parse_i32("-1", Unit::None), Some(-1));
        for text in [
            "",
            "abc",
            "-1",
            "4294967296",
            "0x",
            "08",
            "1 2",
            "5min",
            "--1",
            "1.5",
        ] {
            assert_eq!(parse_u32(text, Unit::None), None, "{text:?}");
        }
        assert_eq!(parse_u64("5mb", Unit::Kilobytes), None);
        assert_eq!(parse_u64("18446744073709551615TB", Unit::Kilobytes), None);
        assert_eq!(parse_i64("10x", Unit::Seconds), None);
    }

    #[test]
    fn numbers_print_in_the_largest_unit_that_divides_them() {
        for (value, unit, text) in [
            (300, Unit::Seconds, "5min"),
            (301, Unit::Seconds, "301s"),
            (0, Unit::Kilobytes, "0TB"),
            (0, Unit::Milliseconds, "0d"),
            (10_240, Unit::Kilobytes, "10MB"),
            (3, Unit::Kilobytes, "3KB"),
            (7, Unit::None, "7"),
        ] {
            assert_eq!(format_with_unit(value, unit), text);
        }
    }

    #[test]
    fn log_levels_are_prefixes_in_any_case() {
        assert_eq!(LogLevel::from_prefix("w"), Some(LogLevel::Warning));
        assert_eq!(LogLevel::from_prefix("Log"), Some(LogLevel::Log));
        assert_eq!(LogLevel::from_prefix("o"), Some(LogLevel::Off));
        assert_eq!(LogLevel::from_prefix("debug"), None);
        assert_eq!(LogLevel::from_prefix(""), None);
    }

    #[test]
    fn a_wrong_value_is_reported_in_the_words_of_the_original() {
        assert_eq!(
            Expected::U32.error("-j, --threads", "abc").to_string(),
            "Option -j, --threads should be a 32bit unsigned integer: 'abc'"
        );
    }
}
