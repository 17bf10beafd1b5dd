//! Progress of a run: a bar on a terminal, a line now and then elsewhere if it was asked for.

use super::logging::Console;
use crate::command::words::pretty_size;
use crate::format::catalog::LogLevel;
use crate::monitor::{Monitor, Stage};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows what a run has done so far.
#[derive(Debug)]
pub(super) struct Progress {
    console: Console,
    shown_as: ShownAs,
    files: AtomicU64,
    bytes: AtomicU64,
    running: Mutex<Option<Running>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ShownAs {
    Bar,
    Lines,
    Nothing,
}

#[derive(Debug)]
struct Running {
    stage: Stage,
    total_files: u64,
    total_bytes: u64,
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Progress {
    /// Progress on this console; `asked_for` is the option `--progress`.
    pub(super) fn new(console: &Console, asked_for: bool) -> Progress {
        let shown_as = if !console.shows(LogLevel::Info) {
            ShownAs::Nothing
        } else if std::io::stderr().is_terminal() {
            ShownAs::Bar
        } else if asked_for {
            ShownAs::Lines
        } else {
            ShownAs::Nothing
        };
        Progress {
            console: console.clone(),
            shown_as,
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            running: Mutex::new(None),
        }
    }

    fn with_running(&self, act: impl FnOnce(&mut Running)) {
        // A thread that panicked here left counts that are good enough to show.
        let mut running = match self.running.lock() {
            Ok(running) => running,
            Err(poisoned) => poisoned.into_inner(),
        };
        if let Some(running) = running.as_mut() {
            act(running);
        }
    }

    fn line(&self, running: &Running) {
        let bytes = self.bytes.load(Ordering::Relaxed);
        let text = format!(
            "Progress: {} {}% ({} of {}, {} of {} files)",
            verb(running.stage),
            percent(bytes, running.total_bytes),
            pretty_size(bytes),
            pretty_size(running.total_bytes),
            self.files.load(Ordering::Relaxed),
            running.total_files
        );
        self.console.log(LogLevel::Info, &text);
    }
}

fn verb(stage: Stage) -> &'static str {
    match stage {
        Stage::Backup => "Backup",
        Stage::Validate => "Validate",
        Stage::Restore => "Restore",
        Stage::Merge => "Merge",
    }
}

fn percent(part: u64, total: u64) -> u64 {
    let percent = u128::from(part) * 100 / u128::from(total.max(1));
    if total == 0 {
        100
    } else {
        u64::try_from(percent).unwrap_or(100).min(100)
    }
}

impl Monitor for Progress {
    fn begin(&self, stage: Stage, total_files: u64, total_bytes: u64) {
        self.files.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
        let bar = (self.shown_as == ShownAs::Bar).then(|| {
            let bar = self.console.bars().add(ProgressBar::new(total_bytes));
            let template = "{prefix} [{bar:40}] {percent:>3}% {bytes}/{total_bytes} \
                            {bytes_per_sec} {eta}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(verb(stage));
            bar
        });
        let running = Running {
            stage,
            total_files,
            total_bytes,
            bar,
            last_line: Instant::now(),
        };
        match self.running.lock() {
            Ok(mut current) => *current = Some(running),
            Err(poisoned) => *poisoned.into_inner() = Some(running),
        }
    }

    fn add_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if self.shown_as == ShownAs::Nothing {
            return;
        }
        self.with_running(|running| {
            if let Some(bar) = &running.bar {
                bar.inc(bytes);
            } else if running.last_line.elapsed() >= LINE_EVERY {
                running.last_line = Instant::now();
                self.line(running);
            }
        });
    }

    fn add_file(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }

    fn end(&self) {
        if self.shown_as == ShownAs::Lines {
            self.with_running(|running| self.line(running));
        }
        let ended = match self.running.lock() {
            Ok(mut running) => running.take(),
            Err(poisoned) => poisoned.into_inner().take(),
        };
        if let Some(bar) = ended.and_then(|running| running.bar) {
            bar.finish_and_clear();
        }
    }

    fn warn(&self, text: String) {
        self.console.log(LogLevel::Warning, &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_stays_between_nothing_and_all() {
        assert_eq!(percent(0, 10), 0);
        assert_eq!(percent(5, 10), 50);
        assert_eq!(percent(11, 10), 100);
        assert_eq!(percent(0, 0), 100);
        assert_eq!(percent(u64::MAX, u64::MAX), 100);
    }
}
