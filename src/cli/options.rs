//! The command line as text: options are read as getopt reads them, with its messages.
//!
//! Every option is accepted by every subcommand, as for the original; what an option means is
//! decided in `args.rs`. Long options may be shortened as long as only one is meant. Other words
//! are ignored.

use super::argv;
use super::option_table::{self, OptionSpec, Takes};
use super::suggest;
use crate::command::backup::Mode;
use crate::format::catalog::{
    Expected, InstanceConf, Unit, ValueError, parse_i32, parse_i64, parse_u32, parse_u64, printable,
};
use clap::builder::OsStringValueParser;
use clap::error::{ContextKind, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::ffi::OsString;

/// Name of the program in messages.
pub(super) const PROGRAM: &str = "gs_probackup";

/// The one setting of an instance that takes no value on the command line.
const FLAG_SETTING: &str = "enable-dss";

/// Why a command line is not one, as the lines that say so; the last one is the error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct UsageError {
    /// What getopt says first, if it is getopt that complains.
    pub(super) preface: Option<String>,
    /// The error.
    pub(super) message: String,
    /// What may have been meant.
    pub(super) hint: Option<String>,
}

impl From<String> for UsageError {
    fn from(message: String) -> UsageError {
        UsageError {
            preface: None,
            message,
            hint: None,
        }
    }
}

impl From<ValueError> for UsageError {
    fn from(error: ValueError) -> UsageError {
        error.to_string().into()
    }
}

/// What was given.
#[derive(Debug)]
pub(super) struct Options {
    matches: ArgMatches,
}

impl Options {
    /// Reads the words after the subcommand.
    pub(super) fn parse(words: &[OsString]) -> Result<Options, UsageError> {
        let program = std::iter::once(OsString::from(PROGRAM));
        let matches = command()
            .try_get_matches_from(program.chain(words.iter().cloned()))
            .map_err(|error| usage_error(&error, words))?;
        let options = Options { matches };
        options.check_values()?;
        Ok(options)
    }

    /// Whether a flag was given.
    pub(super) fn flag(&self, long: &str) -> bool {
        self.matches.get_flag(long)
    }

    /// The value of an option.
    pub(super) fn text(&self, long: &str) -> Option<&str> {
        self.matches.get_one::<String>(long).map(String::as_str)
    }

    /// All values of an option that may be repeated.
    pub(super) fn texts(&self, long: &str) -> Vec<&str> {
        self.matches
            .get_many::<String>(long)
            .map_or_else(Vec::new, |values| values.map(String::as_str).collect())
    }

    /// Words that are no options, in order.
    pub(super) fn words(&self) -> Vec<String> {
        self.matches
            .get_many::<OsString>("ignored")
            .map_or_else(Vec::new, |words| {
                words
                    .map(|word| word.to_string_lossy().into_owned())
                    .collect()
            })
    }

    /// The value of an option that takes a number of 32 bits.
    pub(super) fn number(&self, long: &str) -> Option<u32> {
        // `check_values` has refused what is no number.
        self.text(long).and_then(|text| parse_u32(text, Unit::None))
    }

    /// Whether an option or flag was given at all.
    pub(super) fn is_given(&self, long: &str) -> bool {
        self.matches.value_source(long) == Some(clap::parser::ValueSource::CommandLine)
    }

    /// Applies the settings of an instance that were given.
    pub(super) fn apply_settings(&self, conf: &mut InstanceConf) -> Result<(), UsageError> {
        for option in &InstanceConf::OPTIONS {
            if option.key == FLAG_SETTING {
                if self.flag(option.key) {
                    conf.enable_dss = Some(true);
                }
            } else if let Some(text) = self.text(option.key) {
                conf.set(option.key, &display_name(option.short, option.key), text)?;
            }
        }
        Ok(())
    }

    // The original checks each value when it meets it, so of several wrong ones the first counts.
    fn check_values(&self) -> Result<(), UsageError> {
        let mut first: Option<(usize, UsageError)> = None;
        for spec in option_table::all().filter(|spec| spec.takes != Takes::Flag) {
            let places = self.matches.indices_of(spec.long).into_iter().flatten();
            for (place, text) in places.zip(self.texts(spec.long)) {
                let is_first = first.as_ref().is_none_or(|(known, _)| place < *known);
                if is_first && let Err(error) = check_value(spec, text) {
                    first = Some((place, error));
                }
            }
        }
        first.map_or(Ok(()), |(_, error)| Err(error))
    }
}

fn check_value(spec: &OptionSpec, text: &str) -> Result<(), UsageError> {
    let name = || display_name(spec.short, spec.long);
    if text.is_empty() {
        return Err(Expected::Text.error(name(), text).into());
    }
    if let Takes::Number(expected, unit) = spec.takes {
        if !is_number(text, expected, unit) {
            return Err(expected.error(name(), text).into());
        }
        // The original's words for this one are those of a type that it is not.
        if spec.long == "ttl" && parse_i64(text, unit).is_some_and(i64::is_negative) {
            return Err(Expected::U64.error(name(), text).into());
        }
    }
    let lower = text.to_ascii_lowercase();
    let begins = |words: &[&str]| words.iter().any(|word| word.starts_with(&lower));
    let message = match spec.long {
        "system-identifier" => {
            "Option system-identifier cannot be specified in command line".to_owned()
        }
        "format" if !begins(&["plain", "json"]) => format!("Invalid show format \"{text}\""),
        "backup-mode" if Mode::from_prefix(text).is_none() => {
            format!("invalid backup-mode \"{text}\"")
        }
        "media-type" if !begins(&["s3", "disk"]) => format!("invalid media_type \"{text}\""),
        "incremental-mode" if !["none", "checksum", "lsn"].contains(&&*lower) => {
            format!("Invalid value for '--incremental-mode' option: '{text}'")
        }
        key if InstanceConf::OPTIONS.iter().any(|option| option.key == key) => {
            InstanceConf::default().set(key, &name(), text)?;
            return Ok(());
        }
        _ => return Ok(()),
    };
    Err(message.into())
}

fn is_number(text: &str, expected: Expected, unit: Unit) -> bool {
    match expected {
        Expected::U32 => parse_u32(text, unit).is_some(),
        Expected::U64 => parse_u64(text, unit).is_some(),
        Expected::I32 => parse_i32(text, unit).is_some(),
        Expected::I64 => parse_i64(text, unit).is_some(),
        Expected::Bool | Expected::Text | Expected::Time => true,
    }
}

/// An option as messages write it: `-j, --threads`.
fn display_name(short: Option<char>, long: &str) -> String {
    match short {
        Some(short) => format!("-{short}, --{long}"),
        None => format!("--{long}"),
    }
}

fn command() -> Command {
    let arguments = option_table::all().map(|spec| {
        let arg = argument(spec.long, spec.short, spec.takes);
        match spec.alias {
            Some(alias) => arg.alias(alias),
            None => arg,
        }
    });
    Command::new(PROGRAM)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .infer_long_args(true)
        .args(arguments)
        .arg(
            Arg::new("ignored")
                .num_args(0..)
                .value_parser(OsStringValueParser::new()),
        )
}

fn argument(long: &'static str, short: Option<char>, takes: Takes) -> Arg {
    let arg = Arg::new(long).long(long).allow_hyphen_values(true);
    let arg = match short {
        Some(short) => arg.short(short),
        None => arg,
    };
    match takes {
        Takes::Flag => arg.action(ArgAction::SetTrue).allow_hyphen_values(false),
        Takes::Text | Takes::Number(..) => arg.action(ArgAction::Set),
        Takes::LastText => arg.action(ArgAction::Set).overrides_with(long),
        Takes::Texts => arg.action(ArgAction::Append),
    }
}

// clap's complaint in the words of getopt and the original.
fn usage_error(error: &clap::Error, words: &[OsString]) -> UsageError {
    let context = |kind| error.get(kind).map(ToString::to_string);
    let argument = context(ContextKind::InvalidArg).unwrap_or_default();
    // clap writes an option as `--backup-path <backup-path>`.
    let option = argument.split([' ', '=']).next().unwrap_or_default();
    if error.kind() == ErrorKind::ArgumentConflict {
        return given_twice(option.trim_start_matches('-'), words).into();
    }
    let mut hint = None;
    let preface = match error.kind() {
        ErrorKind::InvalidUtf8 => "an argument is not UTF-8".to_owned(),
        ErrorKind::UnknownArgument if option.starts_with("--") => {
            hint = suggest::hint("--", option.trim_start_matches('-'), all_longs());
            unknown_long(option, words)
        }
        ErrorKind::UnknownArgument => {
            format!("invalid option -- '{}'", option.trim_start_matches('-'))
        }
        ErrorKind::TooManyValues => format!("option '{option}' doesn't allow an argument"),
        _ => match words.last().and_then(|word| word.to_str()) {
            Some(word) if word.starts_with('-') && !word.starts_with("--") => {
                let short = word.chars().last().unwrap_or('?');
                format!("option requires an argument -- '{short}'")
            }
            _ => format!("option '{option}' requires an argument"),
        },
    };
    UsageError {
        preface: Some(format!("{PROGRAM}: {preface}")),
        message: format!("Option is not found. Try \"{PROGRAM} --help\" for more information."),
        hint,
    }
}

fn unknown_long(option: &str, words: &[OsString]) -> String {
    let prefix = option.trim_start_matches('-');
    let meant = all_longs()
        .filter(|long| !prefix.is_empty() && long.starts_with(prefix))
        .map(|long| format!("'--{long}'"))
        .collect::<Vec<_>>();
    // With its value, as it was typed.
    let typed = words
        .iter()
        .filter_map(|word| word.to_str())
        .find(|word| word.starts_with(option))
        .unwrap_or(option);
    let typed = printable(typed);
    if meant.len() > 1 {
        let meant = meant.join(" ");
        format!("option '{typed}' is ambiguous; possibilities: {meant}")
    } else {
        format!("unrecognized option '{typed}'")
    }
}

fn all_longs() -> impl Iterator<Item = &'static str> {
    option_table::all().flat_map(|spec| std::iter::once(spec.long).chain(spec.alias))
}

/// The long option that getopt takes this for, and whether it has a value: exactly this one, or the
/// only one that begins so.
pub(super) fn long_option(prefix: &str) -> Option<(&'static str, bool)> {
    let mut meant = all_longs().filter(|long| long.starts_with(prefix) && !prefix.is_empty());
    let name = match all_longs().find(|long| *long == prefix) {
        Some(name) => name,
        None => meant.next().filter(|_| meant.next().is_none())?,
    };
    option_table::named(name).map(|spec| (spec.long, spec.takes != Takes::Flag))
}

/// The option of this letter, and whether it has a value.
pub(super) fn short_option(short: char) -> Option<(&'static str, bool)> {
    let spec = option_table::all().find(|spec| spec.short == Some(short))?;
    Some((spec.long, spec.takes != Takes::Flag))
}

fn short_of(long: &str) -> Option<char> {
    option_table::named(long).and_then(|spec| spec.short)
}

// The message that an option was given twice, with its last value. A password is not repeated.
fn given_twice(long: &str, words: &[OsString]) -> String {
    let name = display_name(short_of(long), long);
    let message = format!("Option {name} should be specified only once");
    match argv::values(words, long).last() {
        Some(_) if long == "password" => format!("{message}: '{}'", argv::MASK),
        Some(place) => {
            let value = place.value(words).to_string_lossy();
            format!("{message}: '{}'", printable(&value))
        }
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Options, UsageError> {
        let words = words
            .split_ascii_whitespace()
            .map(OsString::from)
            .collect::<Vec<_>>();
        Options::parse(&words)
    }

    fn refused(words: &str) -> (String, String) {
        let error = parse(words).unwrap_err();
        (error.preface.unwrap_or_default(), error.message)
    }

    const NOT_FOUND: &str =
        "Option is not found. Try \"gs_probackup --help\" for more information.";

    #[test]
    fn options_are_taken_in_all_forms_of_getopt() {
        let options = parse(
            "-B /b -j4 --instance=one -i !!bad extra --prog --note -x -T a=b -T c=d \
             --compress-level=3",
        )
        .unwrap();
        assert_eq!(options.text("backup-path"), Some("/b"));
        assert_eq!(options.number("threads"), Some(4));
        assert_eq!(options.text("instance"), Some("one"));
        assert_eq!(options.text("backup-id"), Some("!!bad"));
        assert_eq!(options.text("note"), Some("-x"));
        assert_eq!(options.texts("tablespace-mapping"), ["a=b", "c=d"]);
        assert!(options.flag("progress"));
        assert!(!options.flag("no-sync"));
        assert!(options.is_given("note") && !options.is_given("keep"));
        let mut conf = InstanceConf::default();
        options.apply_settings(&mut conf).unwrap();
        assert_eq!(conf.compress_level, Some(3));
        assert_eq!(
            parse("--time=x").unwrap().text("recovery-target-time"),
            Some("x")
        );
        assert_eq!(
            parse("--instance=--instance=ext").unwrap().text("instance"),
            Some("--instance=ext")
        );
    }

    #[test]
    fn unknown_options_are_reported_as_getopt_does() {
        for (words, preface) in [
            ("--frobnicate", "unrecognized option '--frobnicate'"),
            ("-Z", "invalid option -- 'Z'"),
            ("-B", "option requires an argument -- 'B'"),
            ("--instance", "option '--instance' requires an argument"),
            (
                "--progress=1",
                "option '--progress' doesn't allow an argument",
            ),
            (
                "--recovery-target=foo",
                "option '--recovery-target=foo' is ambiguous; possibilities: \
                 '--recovery-target-time' '--recovery-target-xid' '--recovery-target-lsn' \
                 '--recovery-target-inclusive' '--recovery-target-name'",
            ),
        ] {
            let expected = (format!("gs_probackup: {preface}"), NOT_FOUND.to_owned());
            assert_eq!(refused(words), expected, "{words}");
        }
    }

    #[test]
    fn wrong_values_are_reported_in_the_words_of_the_original() {
        for (words, message) in [
            (
                "-j abc",
                "Option -j, --threads should be a 32bit unsigned integer: 'abc'",
            ),
            (
                "--compress-level=-1",
                "Option --compress-level should be a 32bit unsigned integer: '-1'",
            ),
            (
                "--ttl=-1",
                "Option --ttl should be a 64bit unsigned integer: '-1'",
            ),
            (
                "-j x --format=xml",
                "Option -j, --threads should be a 32bit unsigned integer: 'x'",
            ),
            ("--format=xml -j x", "Invalid show format \"xml\""),
            ("-b xyz --ttl=x", "invalid backup-mode \"xyz\""),
            (
                "--ttl=10x",
                "Option --ttl should be a 64bit signed integer: '10x'",
            ),
            (
                "--compress-algorithm=brotli",
                "invalid compress algorithm value \"brotli\"",
            ),
            (
                "--instance=",
                "Option --instance should be a valid string: ''",
            ),
            (
                "--system-identifier=5",
                "Option system-identifier cannot be specified in command line",
            ),
            (
                "-i A --backup-id B",
                "Option -i, --backup-id should be specified only once: 'B'",
            ),
            (
                "--no-sync --no-sync",
                "Option --no-sync should be specified only once",
            ),
            (
                "--xid=1 --recovery-target-xid=2",
                "Option --recovery-target-xid should be specified only once: '2'",
            ),
            (
                "-W a -W b",
                "Option -W, --password should be specified only once: '***'",
            ),
        ] {
            assert_eq!(
                refused(words),
                (String::new(), message.to_owned()),
                "{words}"
            );
        }
        assert_eq!(
            parse("-b full -b ptrack").unwrap().text("backup-mode"),
            Some("ptrack")
        );
    }
}
