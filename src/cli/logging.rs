//! Log lines: `LEVEL: text` on the standard error output, and in log files with time and process.
//!
//! The library emits `tracing` events; this turns them into the original's lines: trace is VERBOSE,
//! debug is LOG. What the console shows by default is INFO and above, as the help of the original
//! promises (its code shows LOG too).
//!
//! The standard output carries only what was asked for, so that a script can read it. The original
//! draws a progress bar there.

use super::log_file::{LogFile, LogFileError};
use super::log_options::LogOptions;
use crate::format::catalog::LogLevel;
use indicatif::MultiProgress;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// The console and the log files: log lines and progress bars share them.
#[derive(Clone, Debug)]
pub(super) struct Console {
    bars: MultiProgress,
    level: Arc<AtomicU8>,
    // Lowest level that a log file takes.
    file_level: Arc<AtomicU8>,
    files: Arc<Mutex<Option<LogFiles>>>,
    is_colored: bool,
}

#[derive(Debug)]
struct LogFiles {
    level: LogLevel,
    log: LogFile,
    errors: Option<LogFile>,
    // Somebody was told that lines are missing.
    warned: bool,
}

impl Console {
    /// A console that shows this level and above.
    pub(super) fn new(level: LogLevel) -> Console {
        let console = Console {
            bars: MultiProgress::new(),
            level: Arc::new(AtomicU8::new(0)),
            file_level: Arc::new(AtomicU8::new(rank(LogLevel::Off))),
            files: Arc::default(),
            is_colored: takes_colors(std::io::stderr().is_terminal(), |name| {
                std::env::var(name).unwrap_or_default()
            }),
        };
        console.set_level(level);
        console
    }

    /// Sends the events of the whole process here, from now on.
    pub(super) fn install(&self) {
        let subscriber = tracing_subscriber::registry().with(self.clone());
        // Only a process that calls the command line twice gets here twice; the first console stays
        // then.
        let _ = tracing::subscriber::set_global_default(subscriber);
    }

    /// Writes to log files too from now on. The first line there, if its level is wanted, is
    /// `command`: what was asked for, without secrets.
    ///
    /// # Errors
    /// Where that line cannot be written. A log file that takes no INFO lines is opened with its
    /// first line; a failure is a warning then.
    pub(super) fn log_to_files(
        &self,
        options: LogOptions,
        command: &str,
    ) -> Result<(), LogFileError> {
        let mut files = LogFiles {
            level: options.level,
            log: LogFile::new(options.log),
            errors: options.errors.map(LogFile::new),
            warned: false,
        };
        let info = LogLevel::Info;
        if rank(files.level) <= rank(info)
            && let Some(warning) = files
                .log
                .write(info.name(), &format!("command: {command}"))?
        {
            self.log(LogLevel::Warning, &warning);
        }
        let lowest = if files.errors.is_some() {
            rank(files.level).min(rank(LogLevel::Error))
        } else {
            rank(files.level)
        };
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = Some(files);
        self.file_level.store(lowest, Ordering::Relaxed);
        Ok(())
    }

    /// Shows this level and above from now on.
    pub(super) fn set_level(&self, level: LogLevel) {
        self.level.store(rank(level), Ordering::Relaxed);
    }

    /// Whether lines of this level are shown.
    pub(super) fn shows(&self, level: LogLevel) -> bool {
        rank(level) >= self.level.load(Ordering::Relaxed)
    }

    fn files_want(&self, level: LogLevel) -> bool {
        rank(level) >= self.file_level.load(Ordering::Relaxed)
    }

    /// Where progress bars go.
    pub(super) fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// Writes a line as it is, to the console only.
    pub(super) fn line(&self, text: &str) {
        self.bars.suspend(|| {
            // A console that is gone is no reason to stop the run.
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        });
    }

    /// Writes a log line wherever its level is wanted.
    pub(super) fn log(&self, level: LogLevel, text: &str) {
        self.log_as(level, level.name(), text);
    }

    /// Writes what may help after an error, wherever errors are wanted.
    pub(super) fn hint(&self, text: &str) {
        self.log_as(LogLevel::Error, "HINT", text);
    }

    fn log_as(&self, level: LogLevel, word: &str, text: &str) {
        if self.shows(level) {
            let word = painted(word, self.is_colored);
            self.line(&format!("{word}: {}", escape(text)));
        }
        if self.files_want(level) {
            self.log_in_files(level, word, text);
        }
    }

    // What cannot be written is said once, on the console only: the run goes on.
    fn log_in_files(&self, level: LogLevel, word: &str, text: &str) {
        let mut messages = Vec::new();
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(files) = files.as_mut() {
            for result in files.write(level, word, text) {
                match result {
                    Ok(message) => messages.extend(message),
                    Err(_) if files.warned => {}
                    Err(error) => {
                        files.warned = true;
                        let error = super::chain(&error);
                        messages.push(format!("{error}; lines will be missing there"));
                    }
                }
            }
        }
        drop(files);
        for message in messages.iter().filter(|_| self.shows(LogLevel::Warning)) {
            self.line(&format!("{}: {}", LogLevel::Warning, escape(message)));
        }
    }
}

impl LogFiles {
    fn write(
        &mut self,
        level: LogLevel,
        word: &str,
        text: &str,
    ) -> Vec<Result<Option<String>, LogFileError>> {
        let mut results = Vec::new();
        if rank(level) >= rank(self.level) {
            results.push(self.log.write(word, text));
        }
        if let Some(errors) = &mut self.errors
            && rank(level) >= rank(LogLevel::Error)
        {
            results.push(errors.write(word, text));
        }
        results
    }
}

/// Whether the console is a terminal of somebody who did not ask for plain text.
fn takes_colors(is_terminal: bool, variable: impl Fn(&str) -> String) -> bool {
    is_terminal && variable("NO_COLOR").is_empty() && variable("TERM") != "dumb"
}

/// The first word of a line, in its colour.
fn painted(word: &str, is_colored: bool) -> String {
    let color = match word {
        _ if !is_colored => None,
        "ERROR" => Some("1;31"),
        "WARNING" => Some("33"),
        "HINT" => Some("36"),
        _ => None,
    };
    color.map_or_else(
        || word.to_owned(),
        |color| format!("\x1b[{color}m{word}\x1b[0m"),
    )
}

fn rank(level: LogLevel) -> u8 {
    match level {
        LogLevel::Verbose => 0,
        LogLevel::Log => 1,
        LogLevel::Info => 2,
        LogLevel::Notice => 3,
        LogLevel::Warning => 4,
        LogLevel::Error => 5,
        LogLevel::Off => 6,
    }
}

fn level_of(level: Level) -> LogLevel {
    match level {
        Level::ERROR => LogLevel::Error,
        Level::WARN => LogLevel::Warning,
        Level::INFO => LogLevel::Info,
        Level::DEBUG => LogLevel::Log,
        Level::TRACE => LogLevel::Verbose,
    }
}

// Names from disk are not to steer the terminal.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && character != '\n' {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    escaped
}

impl<S: Subscriber> Layer<S> for Console {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = level_of(*event.metadata().level());
        if !self.shows(level) && !self.files_want(level) {
            return;
        }
        let mut text = Text::default();
        event.record(&mut text);
        self.log(level, &format!("{}{}", text.message, text.fields));
    }
}

// The message, and other fields as ` name=value` behind it.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let written = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
        written.expect("a string takes everything");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_gets_colors_unless_plain_text_is_asked_for() {
        let environment = |set: &'static str| {
            move |name: &str| match set.split_once('=') {
                Some((key, value)) if key == name => value.to_owned(),
                _ => String::new(),
            }
        };
        assert!(takes_colors(true, environment("TERM=xterm")));
        assert!(!takes_colors(false, environment("TERM=xterm")));
        assert!(!takes_colors(true, environment("NO_COLOR=1")));
        assert!(!takes_colors(true, environment("TERM=dumb")));
        assert_eq!(painted("ERROR", true), "\x1b[1;31mERROR\x1b[0m");
        assert_eq!(painted("INFO", true), "INFO");
        assert_eq!(painted("ERROR", false), "ERROR");
    }

    #[test]
    fn a_level_shows_itself_and_all_above() {
        let console = Console::new(LogLevel::Info);
        assert!(!console.shows(LogLevel::Log));
        assert!(console.shows(LogLevel::Info));
        assert!(console.shows(LogLevel::Error));
        console.set_level(LogLevel::Off);
        assert!(!console.shows(LogLevel::Error));
        console.set_level(LogLevel::Verbose);
        assert!(console.shows(LogLevel::Verbose));
    }

    #[test]
    fn levels_of_console_and_files_are_apart() {
        let scratch = tempfile::tempdir().unwrap();
        let target = |name: &str| super::super::log_file::Target {
            directory: scratch.path().to_owned(),
            name: name.to_owned(),
            rotation_size_kb: 0,
            rotation_age_ms: 0,
        };
        let console = Console::new(LogLevel::Off);
        let options = LogOptions {
            level: LogLevel::Info,
            log: target("all"),
            errors: Some(target("errors")),
        };
        console.log_to_files(options, "backup -W ***").unwrap();
        assert!(!scratch.path().join("errors").exists());
        console.log(LogLevel::Log, "detail");
        console.log(LogLevel::Warning, "odd");
        console.log(LogLevel::Error, "wrong");
        console.hint("mend it");
        let read = |name: &str| {
            let text = std::fs::read_to_string(scratch.path().join(name)).unwrap();
            let lines = text
                .lines()
                .map(|line| line.split_once("]: ").unwrap().1.to_owned());
            lines.collect::<Vec<_>>()
        };
        let all = [
            "INFO: command: backup -W ***",
            "WARNING: odd",
            "ERROR: wrong",
            "HINT: mend it",
        ];
        assert_eq!(read("all"), all);
        assert_eq!(read("errors"), all[2..]);
    }

    #[test]
    fn control_characters_of_names_are_escaped() {
        assert_eq!(escape("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\nc");
    }
}
