//! How the library reports on work that takes long, without printing.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a run is doing now; its words are for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Files go from a data directory into a backup.
    Backup,
    /// A backup's files are checked.
    Validate,
    /// Files of a data directory are compared with a chain.
    Compare,
    /// Files go from a chain into a data directory.
    Restore,
    /// Files of a chain become those of one backup.
    Merge,
    /// Files of a backup are removed; bytes are not counted.
    Delete,
}

/// Receives counts and warnings of a run. Implementations must be cheap: they are called once an
/// extent.
pub trait Monitor: Sync {
    /// A stage begins; its totals are known.
    fn begin(&self, stage: Stage, total_files: u64, total_bytes: u64);
    /// Bytes of the running stage were dealt with.
    fn add_bytes(&self, bytes: u64);
    /// A file of the running stage was dealt with.
    fn add_file(&self);
    /// The running stage is over.
    fn end(&self);
    /// The run waits for something that is not its own work, as `WAL up to 0/3000148`, until
    /// [`Monitor::waited`] or the next stage. Saying the same again is not shown again.
    fn waiting(&self, what: &str) {
        let _ = what;
    }
    /// What was waited for is there, or no longer waited for.
    fn waited(&self) {}
    /// Something a person should know that does not stop the run; a warning names what is lost.
    fn warn(&self, text: String);
}

/// Counts and keeps warnings; for tests and for callers that do not show progress.
#[derive(Debug, Default)]
pub struct CollectingMonitor {
    bytes: AtomicU64,
    files: AtomicU64,
    warnings: Mutex<Vec<String>>,
}

impl CollectingMonitor {
    /// Bytes counted over all stages.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Files counted over all stages.
    #[must_use]
    pub fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    /// The warnings so far, oldest first.
    ///
    /// # Panics
    /// When a thread panicked while it added a warning.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.warnings
            .lock()
            .expect("no thread panics while it holds this lock")
            .clone()
    }
}

impl Monitor for CollectingMonitor {
    fn begin(&self, _stage: Stage, _total_files: u64, _total_bytes: u64) {}

    fn add_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn add_file(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }

    fn end(&self) {}

    fn warn(&self, text: String) {
        self.warnings
            .lock()
            .expect("no thread panics while it holds this lock")
            .push(text);
    }
}
