//! Progress of a run: a bar on a terminal, a line now and then elsewhere if it was asked for.
//!
//! Both go to the standard error output: the standard output carries only what was asked for. The
//! original draws its bar on the standard output, always, which spoils what a script reads there.

use super::logging::Console;
use crate::command::words::{pretty_seconds, pretty_size};
use crate::format::catalog::LogLevel;
use crate::monitor::{Monitor, Stage};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between two lines where there is no terminal, at most.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// A line is due earlier when this much of the whole was done since the last one,
const LINE_EVERY_PERCENT: u64 = 10;
/// but not sooner than after this: a short run is not worth many lines.
const LINE_PAUSE_MIN: Duration = Duration::from_secs(1);
/// Between two turns of the sign that the program waits and lives.
const SPIN_EVERY: Duration = Duration::from_millis(200);

/// Shows what a run has done so far.
#[derive(Debug)]
pub(super) struct Progress {
    console: Console,
    shown_as: ShownAs,
    files: AtomicU64,
    bytes: AtomicU64,
    running: Mutex<Option<Running>>,
    waiting: Mutex<Option<Waiting>>,
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
    began: Instant,
    bar: Option<ProgressBar>,
    last_line: Instant,
    last_percent: u64,
}

#[derive(Debug)]
struct Waiting {
    what: String,
    spinner: Option<ProgressBar>,
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
            waiting: Mutex::new(None),
        }
    }

    // A thread that panicked with one of these left what is good enough to show.
    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_waiting(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(spinner) = waiting.take().and_then(|waiting| waiting.spinner) {
            spinner.finish_and_clear();
        }
    }

    fn line(&self, running: &Running) {
        let done = Done {
            bytes: self.bytes.load(Ordering::Relaxed),
            files: self.files.load(Ordering::Relaxed),
            elapsed: running.began.elapsed(),
        };
        self.console.log(LogLevel::Info, &running.text(&done));
    }
}

struct Done {
    bytes: u64,
    files: u64,
    elapsed: Duration,
}

impl Running {
    fn text(&self, done: &Done) -> String {
        let rate = rate(done.bytes, done.elapsed);
        let left = self.total_bytes.saturating_sub(done.bytes);
        let end = match (left, rate) {
            (0, _) => format!("in {}", pretty_seconds(done.elapsed.as_secs())),
            (_, 0) => "time left unknown".to_owned(),
            (left, rate) => format!("{} left", pretty_seconds(left.div_ceil(rate))),
        };
        format!(
            "Progress: {} {}% ({} of {}, {} of {} files, {}/s, {end})",
            verb(self.stage),
            percent(done.bytes, self.total_bytes),
            pretty_size(done.bytes),
            pretty_size(self.total_bytes),
            done.files,
            self.total_files,
            pretty_size(rate),
        )
    }

    fn is_line_due(&self, bytes: u64, since_last: Duration) -> bool {
        let further = percent(bytes, self.total_bytes).saturating_sub(self.last_percent);
        since_last >= LINE_EVERY || (since_last >= LINE_PAUSE_MIN && further >= LINE_EVERY_PERCENT)
    }
}

// Bytes a second since the stage began.
fn rate(bytes: u64, elapsed: Duration) -> u64 {
    let milliseconds = elapsed.as_millis().max(1);
    u64::try_from(u128::from(bytes) * 1000 / milliseconds).unwrap_or(u64::MAX)
}

fn verb(stage: Stage) -> &'static str {
    match stage {
        Stage::Backup => "Backup",
        Stage::Validate => "Validate",
        Stage::Compare => "Compare",
        Stage::Restore => "Restore",
        Stage::Merge => "Merge",
        Stage::Delete => "Delete",
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

fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

impl Monitor for Progress {
    fn begin(&self, stage: Stage, total_files: u64, total_bytes: u64) {
        self.end_waiting();
        self.files.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
        let bar = (self.shown_as == ShownAs::Bar).then(|| {
            let bar = self.console.bars().add(ProgressBar::new(total_bytes));
            // As wide as the terminal: a line that is broken is not cleared as a whole.
            let template = "{prefix} [{wide_bar}] {percent:>3}% {bytes}/{total_bytes} \
                            {bytes_per_sec} {eta} {msg}";
            let bar = styled(bar, template);
            bar.set_prefix(verb(stage));
            bar.set_message(format!("0/{total_files} files"));
            bar
        });
        *self.running() = Some(Running {
            stage,
            total_files,
            total_bytes,
            began: Instant::now(),
            bar,
            last_line: Instant::now(),
            last_percent: 0,
        });
    }

    fn add_bytes(&self, bytes: u64) {
        let bytes_done = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.shown_as == ShownAs::Nothing {
            return;
        }
        if let Some(running) = self.running().as_mut() {
            if let Some(bar) = &running.bar {
                bar.inc(bytes);
            } else if running.is_line_due(bytes_done, running.last_line.elapsed()) {
                running.last_line = Instant::now();
                running.last_percent = percent(bytes_done, running.total_bytes);
                self.line(running);
            }
        }
    }

    fn add_file(&self) {
        let files = self.files.fetch_add(1, Ordering::Relaxed) + 1;
        if self.shown_as == ShownAs::Bar
            && let Some(running) = self.running().as_ref()
            && let Some(bar) = &running.bar
        {
            bar.set_message(format!("{files}/{} files", running.total_files));
        }
    }

    fn end(&self) {
        self.end_waiting();
        let ended = self.running().take();
        let Some(running) = ended else { return };
        if self.shown_as == ShownAs::Lines {
            self.line(&running);
        }
        if let Some(bar) = running.bar {
            bar.finish_and_clear();
        }
    }

    fn waiting(&self, what: &str) {
        if self.shown_as == ShownAs::Nothing {
            return;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.as_ref().is_some_and(|waiting| waiting.what == what) {
            return;
        }
        let spinner = waiting.take().and_then(|waiting| waiting.spinner);
        let spinner = spinner.or_else(|| {
            (self.shown_as == ShownAs::Bar).then(|| {
                let bar = self.console.bars().add(ProgressBar::new_spinner());
                bar.enable_steady_tick(SPIN_EVERY);
                styled(bar, "{spinner} waiting for {msg} ({elapsed})")
            })
        });
        match &spinner {
            Some(spinner) => spinner.set_message(what.to_owned()),
            None => {
                let text = format!("Progress: waiting for {what}");
                self.console.log(LogLevel::Info, &text);
            }
        }
        let what = what.to_owned();
        *waiting = Some(Waiting { what, spinner });
    }

    fn waited(&self) {
        self.end_waiting();
    }

    fn warn(&self, text: String) {
        self.console.log(LogLevel::Warning, &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(total_bytes: u64) -> Running {
        Running {
            stage: Stage::Backup,
            total_files: 20,
            total_bytes,
            began: Instant::now(),
            bar: None,
            last_line: Instant::now(),
            last_percent: 40,
        }
    }

    fn text(total_bytes: u64, bytes: u64, seconds: u64) -> String {
        running(total_bytes).text(&Done {
            bytes,
            files: 7,
            elapsed: Duration::from_secs(seconds),
        })
    }

    #[test]
    fn a_line_has_bytes_files_rate_and_the_time_left() {
        assert_eq!(
            text(1 << 30, 1 << 28, 2),
            "Progress: Backup 25% (256MB of 1024MB, 7 of 20 files, 128MB/s, 6s left)"
        );
        assert_eq!(
            text(1 << 30, 1 << 30, 200),
            "Progress: Backup 100% (1024MB of 1024MB, 7 of 20 files, 5243kB/s, in 3m:20s)"
        );
        assert_eq!(
            text(1 << 30, 0, 5),
            "Progress: Backup 0% (0 of 1024MB, 7 of 20 files, 0/s, time left unknown)"
        );
    }

    #[test]
    fn a_line_is_due_after_a_while_or_when_much_was_done() {
        let running = running(100);
        let due = |bytes, seconds| running.is_line_due(bytes, Duration::from_secs(seconds));
        assert!(due(40, 5));
        assert!(!due(49, 4));
        assert!(due(50, 1));
        assert!(!due(90, 0));
    }

    #[test]
    fn percent_stays_between_nothing_and_all() {
        assert_eq!(percent(0, 10), 0);
        assert_eq!(percent(5, 10), 50);
        assert_eq!(percent(11, 10), 100);
        assert_eq!(percent(0, 0), 100);
        assert_eq!(percent(u64::MAX, u64::MAX), 100);
    }

    #[test]
    fn waiting_is_said_once_where_there_is_no_terminal() {
        let scratch = tempfile::tempdir().unwrap();
        let console = Console::new(LogLevel::Info);
        let options = super::super::log_options::LogOptions {
            level: LogLevel::Info,
            log: super::super::log_file::Target {
                directory: scratch.path().to_owned(),
                name: "log".to_owned(),
                rotation_size_kb: 0,
                rotation_age_ms: 0,
            },
            errors: None,
        };
        console.log_to_files(options, "").unwrap();
        let mut progress = Progress::new(&console, true);
        progress.shown_as = ShownAs::Lines;
        for what in ["WAL up to 0/1", "WAL up to 0/1", "the checkpoint"] {
            progress.waiting(what);
        }
        progress.waited();
        progress.waiting("the checkpoint");
        progress.end();
        let text = std::fs::read_to_string(scratch.path().join("log")).unwrap();
        let lines = text
            .lines()
            .filter_map(|line| line.split_once("waiting for "))
            .map(|(_, what)| what)
            .collect::<Vec<_>>();
        assert_eq!(lines, ["WAL up to 0/1", "the checkpoint", "the checkpoint"]);
    }
}
