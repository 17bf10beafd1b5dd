//! Where an increment learns what the server tracked: from its files if they can be read, else from
//! its function.

use super::super::{Error, words};
use super::increment::Changes;
use super::parent::IncrementError;
use crate::limits::{
    CBM_FILE_BYTES_MAX, CBM_FILES_AT_ONCE_MAX, CBM_LISTINGS_MAX, CBM_POLL_MS,
    CBM_STALL_SECONDS_MAX, SERVER_POLL_MS,
};
use crate::server::Sql;
use crate::server::cbm::{
    CbmError, CbmWait, changed_blocks_by_sql, read_cbm_directory, wait_until_tracked,
};
use crate::storage::{Posix, Storage, StorageError};
use crate::types::{ChangedBlocks, Lsn};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const CBM_DIRECTORY: &str = "pg_cbm";

/// The words around the search for changed blocks.
pub(super) struct Extraction(Instant);

impl Extraction {
    pub(super) fn begin() -> Extraction {
        tracing::info!("Extracting pagemap of changed blocks");
        Extraction(Instant::now())
    }

    pub(super) fn end(self, changed: ChangedBlocks) -> Changes {
        tracing::info!(
            "Pagemap successfully extracted, time elapsed: {} sec",
            self.0.elapsed().as_secs()
        );
        Changes::Tracked(changed)
    }
}

/// A running server that tracks changes.
pub(super) struct TrackingServer<'a> {
    pub(super) sql: &'a mut dyn Sql,
    pub(super) data: &'a Posix,
    pub(super) threads: usize,
    /// How long the tracking may stand still.
    pub(super) patience: Duration,
    pub(super) cancel: &'a AtomicBool,
}

impl TrackingServer<'_> {
    /// What changed in the range of WAL.
    ///
    /// # Errors
    /// [`IncrementError::Changes`] when that is not known.
    pub(super) fn changed_blocks(self, range: Range<Lsn>) -> Result<ChangedBlocks, Error> {
        let wait = CbmWait {
            stall_timeout: self
                .patience
                .min(Duration::from_secs(CBM_STALL_SECONDS_MAX)),
            poll: Duration::from_millis(CBM_POLL_MS),
            pause: &|pause| go_on_after(pause, self.cancel),
        };
        tracing::info!("change bitmap start lsn location is {}", range.start);
        let tracked = wait_until_tracked(self.sql, range.end, &wait).map_err(failed)?;
        tracing::info!("change bitmap end lsn location is {tracked}");
        match read_cbm(self.data, range.clone(), self.threads) {
            Ok(changed) => Ok(changed),
            Err(Error::Increment(error)) if is_final(&error) => Err(Error::Increment(error)),
            Err(error) => {
                // Perhaps they are not ours to read. The server may do better.
                tracing::debug!("cannot read changed blocks: {}", words::describe(&error));
                changed_blocks_by_sql(self.sql, range.start, range.end, &wait).map_err(failed)
            }
        }
    }
}

/// Whether asking the server instead cannot help: it would read the same files.
fn is_final(error: &IncrementError) -> bool {
    matches!(
        error,
        IncrementError::Changes(
            CbmError::TooEarly { .. } | CbmError::Hole { .. } | CbmError::Order { .. }
        )
    )
}

/// Pauses; false when the run is to end.
fn go_on_after(pause: Duration, cancel: &AtomicBool) -> bool {
    let until = Instant::now() + pause;
    loop {
        if cancel.load(Ordering::Relaxed) {
            return false;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(Duration::from_millis(SERVER_POLL_MS)));
    }
}

/// What changed in the range of WAL by the files of the data directory `data`.
///
/// # Errors
/// [`IncrementError::Changes`].
pub(super) fn read_cbm(
    data: &Posix,
    range: Range<Lsn>,
    threads: usize,
) -> Result<ChangedBlocks, Error> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.clamp(1, CBM_FILES_AT_ONCE_MAX))
        .build()
        .map_err(|error| {
            let error = std::io::Error::other(error);
            StorageError::new("start threads for", Path::new(CBM_DIRECTORY), error)
        })?;
    let mut listings = 0;
    loop {
        listings += 1;
        let names = cbm_names(data)?;
        let open = |name: &str| data.read(&Path::new(CBM_DIRECTORY).join(name), CBM_FILE_BYTES_MAX);
        let found = pool.install(|| read_cbm_directory(&names, open, range.start, range.end));
        match found {
            // The server renames a file when it is full.
            Err(CbmError::Open { .. }) if listings < CBM_LISTINGS_MAX => {}
            found => return found.map_err(failed),
        }
    }
}

fn cbm_names(data: &Posix) -> Result<Vec<String>, Error> {
    match data.list(Path::new(CBM_DIRECTORY)) {
        Ok(entries) => {
            let names = entries.into_iter().map(|entry| entry.name.into_string());
            Ok(names.flatten().collect())
        }
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

fn failed(error: CbmError) -> Error {
    match error {
        CbmError::Server(error) => Error::Server(error),
        error => IncrementError::Changes(error).into(),
    }
}
