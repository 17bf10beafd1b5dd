//! Log lines on the console: `LEVEL: text` on the standard error output.
//!
//! The library emits `tracing` events; this turns them into the original's lines: trace is VERBOSE,
//! debug is LOG. What is shown by default is INFO and above, as the help of the original promises
//! (its code shows LOG too).

use crate::format::catalog::LogLevel;
use indicatif::MultiProgress;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// The console: log lines and progress bars share it.
#[derive(Clone, Debug)]
pub(super) struct Console {
    bars: MultiProgress,
    level: Arc<AtomicU8>,
}

impl Console {
    /// A console that shows this level and above.
    pub(super) fn new(level: LogLevel) -> Console {
        let console = Console {
            bars: MultiProgress::new(),
            level: Arc::new(AtomicU8::new(0)),
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

    /// Shows this level and above from now on.
    pub(super) fn set_level(&self, level: LogLevel) {
        self.level.store(rank(level), Ordering::Relaxed);
    }

    /// Whether lines of this level are shown.
    pub(super) fn shows(&self, level: LogLevel) -> bool {
        rank(level) >= self.level.load(Ordering::Relaxed)
    }

    /// Where progress bars go.
    pub(super) fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// Writes a line as it is.
    pub(super) fn line(&self, text: &str) {
        self.bars.suspend(|| {
            // A console that is gone is no reason to stop the run.
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        });
    }

    /// Writes a log line, if its level is shown.
    pub(super) fn log(&self, level: LogLevel, text: &str) {
        if self.shows(level) {
            self.line(&format!("{level}: {}", escape(text)));
        }
    }
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
        if !self.shows(level) {
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
    fn control_characters_of_names_are_escaped() {
        assert_eq!(escape("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\nc");
    }
}
