//! The command line as text: every option of the original in one table, and getopt's messages.
//!
//! Every option is accepted by every subcommand, as for the original; what an option means is
//! decided in `args.rs`. Long options may be shortened as long as only one is meant. Other words
//! are ignored.

use crate::format::catalog::{
    Expected, InstanceConf, Unit, ValueError, parse_i32, parse_i64, parse_u32, parse_u64, printable,
};
use clap::builder::OsStringValueParser;
use clap::error::{ContextKind, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::ffi::OsString;

/// Name of the program in messages.
pub(super) const PROGRAM: &str = "gs_probackup";

/// What an option takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Takes {
    /// Nothing.
    Flag,
    /// A text that is not empty, once.
    Text,
    /// A text that is not empty; the last of several counts.
    LastText,
    /// A text that is not empty, as often as wanted.
    Texts,
    /// A number of the kind, once.
    Number(Expected, Unit),
}

const U32: Takes = Takes::Number(Expected::U32, Unit::None);

struct Spec {
    long: &'static str,
    short: Option<char>,
    takes: Takes,
    alias: Option<&'static str>,
}

const fn spec(long: &'static str, short: Option<char>, takes: Takes) -> Spec {
    Spec {
        long,
        short,
        takes,
        alias: None,
    }
}

const fn aliased(long: &'static str, alias: &'static str, takes: Takes) -> Spec {
    Spec {
        long,
        short: None,
        takes,
        alias: Some(alias),
    }
}

/// Options of the command line only; those of [`InstanceConf::OPTIONS`] come on top.
const SPECS: [Spec; 63] = [
    spec("help", Some('?'), Takes::Flag),
    spec("backup-path", Some('B'), Takes::Text),
    spec("threads", Some('j'), U32),
    spec("stream", None, Takes::Flag),
    spec("progress", None, Takes::Flag),
    spec("backup-id", Some('i'), Takes::Text),
    spec("no-sync", None, Takes::Flag),
    spec("backup-pg-log", None, Takes::Flag),
    spec("backup-mode", Some('b'), Takes::LastText),
    spec("smooth-checkpoint", Some('C'), Takes::Flag),
    spec("slot", Some('S'), Takes::Text),
    spec("temp-slot", None, Takes::Flag),
    aliased("delete-wal", "wal", Takes::Flag),
    aliased("delete-expired", "expired", Takes::Flag),
    spec("merge-expired", None, Takes::Flag),
    spec("dry-run", None, Takes::Flag),
    spec("note", None, Takes::Text),
    aliased("recovery-target-time", "time", Takes::Text),
    aliased("recovery-target-xid", "xid", Takes::Text),
    aliased("recovery-target-lsn", "lsn", Takes::Text),
    aliased("recovery-target-inclusive", "inclusive", Takes::Text),
    spec("recovery-target-name", None, Takes::Text),
    spec("timeline", None, U32),
    spec("immediate", None, Takes::Flag),
    spec("tablespace-mapping", Some('T'), Takes::Texts),
    spec("external-mapping", None, Takes::Texts),
    spec("no-validate", None, Takes::Flag),
    spec("skip-block-validation", None, Takes::Flag),
    spec("skip-external-dirs", None, Takes::Flag),
    spec("incremental-mode", Some('I'), Takes::LastText),
    spec("with-encryption", None, Takes::Text),
    spec("with-key", None, Takes::Text),
    spec("with-salt", None, Takes::Text),
    spec("with-device-params", None, Takes::Text),
    spec("gen-key", None, Takes::Flag),
    spec("status", None, Takes::Text),
    spec("backup-pg-replslot", None, Takes::Flag),
    spec("force", None, Takes::Flag),
    spec("compress", None, Takes::Flag),
    spec("no-password", Some('w'), Takes::Flag),
    spec("password", Some('W'), Takes::Text),
    spec("rw-timeout", Some('t'), U32),
    spec("instance", None, Takes::Text),
    spec("format", None, Takes::LastText),
    spec("archive", None, Takes::Flag),
    spec("ttl", None, Takes::Number(Expected::I64, Unit::Seconds)),
    spec("expire-time", None, Takes::Text),
    spec("media-type", Some('M'), Takes::LastText),
    spec("s3-status", None, Takes::Text),
    // Leftovers of another product: accepted, without effect.
    spec("wal-file-path", None, Takes::Text),
    spec("wal-file-name", None, Takes::Text),
    spec("overwrite", None, Takes::Flag),
    spec("no-ready-rename", None, Takes::Flag),
    spec("no-validate-wal", None, Takes::Flag),
    spec("batch-size", None, Takes::Number(Expected::I32, Unit::None)),
    spec("prefetch-dir", None, Takes::Text),
    // Ours.
    spec("offline", None, Takes::Flag),
    spec("size", None, Takes::Text),
    spec("dir", None, Takes::Text),
    spec("keep", None, Takes::Flag),
    spec("seed", None, Takes::Number(Expected::U64, Unit::None)),
    spec("io-engine", None, Takes::Text),
    spec("archive-dir", None, Takes::Text),
];

/// Settings of an instance that may be given more than once: the last counts.
const REPEATABLE_SETTINGS: [&str; 3] =
    ["log-level-console", "log-level-file", "compress-algorithm"];

/// The one setting of an instance that takes no value on the command line.
const FLAG_SETTING: &str = "enable-dss";

/// Why a command line is not one, as the lines that say so; the last one is the error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct UsageError {
    /// What getopt says first, if it is getopt that complains.
    pub(super) preface: Option<String>,
    /// The error.
    pub(super) message: String,
}

impl From<String> for UsageError {
    fn from(message: String) -> UsageError {
        UsageError {
            preface: None,
            message,
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

    fn check_values(&self) -> Result<(), UsageError> {
        for spec in &SPECS {
            if spec.takes == Takes::Flag {
                continue;
            }
            for text in self.texts(spec.long) {
                let name = || display_name(spec.short, spec.long);
                if text.is_empty() {
                    return Err(Expected::Text.error(name(), text).into());
                }
                if let Takes::Number(expected, unit) = spec.takes
                    && !is_number(text, expected, unit)
                {
                    return Err(expected.error(name(), text).into());
                }
            }
        }
        if self.text("system-identifier").is_some() {
            let message = "Option system-identifier cannot be specified in command line";
            return Err(message.to_owned().into());
        }
        self.apply_settings(&mut InstanceConf::default())
    }
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
    let own = SPECS.iter().map(|spec| {
        let arg = argument(spec.long, spec.short, spec.takes);
        match spec.alias {
            Some(alias) => arg.alias(alias),
            None => arg,
        }
    });
    let settings = InstanceConf::OPTIONS.iter().map(|option| {
        let takes = if option.key == FLAG_SETTING {
            Takes::Flag
        } else if REPEATABLE_SETTINGS.contains(&option.key) {
            Takes::LastText
        } else {
            Takes::Text
        };
        argument(option.key, option.short, takes)
    });
    Command::new(PROGRAM)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .infer_long_args(true)
        .args(own)
        .args(settings)
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
        let long = option.trim_start_matches('-');
        let value = last_value(words, long);
        return format!(
            "Option {} should be specified only once: '{value}'",
            display_name(short_of(long), long)
        )
        .into();
    }
    let preface = match error.kind() {
        ErrorKind::InvalidUtf8 => "an argument is not UTF-8".to_owned(),
        ErrorKind::UnknownArgument if option.starts_with("--") => unknown_long(option, words),
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
    SPECS
        .iter()
        .flat_map(|spec| std::iter::once(spec.long).chain(spec.alias))
        .chain(InstanceConf::OPTIONS.iter().map(|option| option.key))
}

/// The long option that getopt takes this for, and whether it has a value: exactly this one, or the
/// only one that begins so.
pub(super) fn long_option(prefix: &str) -> Option<(&'static str, bool)> {
    let mut meant = all_longs().filter(|long| long.starts_with(prefix) && !prefix.is_empty());
    let name = match all_longs().find(|long| *long == prefix) {
        Some(name) => name,
        None => meant.next().filter(|_| meant.next().is_none())?,
    };
    let own = SPECS
        .iter()
        .find(|spec| spec.long == name || spec.alias == Some(name));
    match own {
        Some(spec) => Some((spec.long, spec.takes != Takes::Flag)),
        None => Some((name, name != FLAG_SETTING)),
    }
}

/// The option of this letter, and whether it has a value.
pub(super) fn short_option(short: char) -> Option<(&'static str, bool)> {
    let own = SPECS.iter().find(|spec| spec.short == Some(short));
    let setting = || {
        let mut settings = InstanceConf::OPTIONS.iter();
        settings.find(|option| option.short == Some(short))
    };
    own.map(|spec| (spec.long, spec.takes != Takes::Flag))
        .or_else(|| setting().map(|option| (option.key, option.key != FLAG_SETTING)))
}

fn short_of(long: &str) -> Option<char> {
    let own = SPECS.iter().find(|spec| spec.long == long);
    let setting = InstanceConf::OPTIONS
        .iter()
        .find(|option| option.key == long);
    own.and_then(|spec| spec.short)
        .or_else(|| setting.and_then(|option| option.short))
}

// The last value given for an option, for the message that it was given twice. A password is not
// repeated.
fn last_value(words: &[OsString], long: &str) -> String {
    if long == "password" {
        return "***".to_owned();
    }
    let long_form = format!("--{long}");
    let short_form = short_of(long).map(|short| format!("-{short}"));
    let mut value = String::new();
    for (at, word) in words.iter().enumerate() {
        let word = word.to_string_lossy();
        let is_short = short_form.as_deref() == Some(&*word);
        let attached = word
            .strip_prefix(&long_form)
            .and_then(|rest| rest.strip_prefix('='));
        if let Some(text) = attached {
            text.clone_into(&mut value);
        } else if (is_short || word == long_form)
            && let Some(next) = words.get(at + 1)
        {
            value = next.to_string_lossy().into_owned();
        }
    }
    value
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
