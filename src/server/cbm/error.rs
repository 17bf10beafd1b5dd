//! Why changed blocks are not known.

use crate::format::cbm::CbmFault;
use crate::server::ServerError;
use crate::types::Lsn;
use std::error::Error;

/// Why it is not known which blocks changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CbmError {
    /// The server does not track changes.
    #[error(
        "cannot get cbm tracked lsn location, maybe enable_cbm_tracking is off: switch it on and \
         take a FULL backup"
    )]
    Off,
    /// The range is not one.
    #[error("cannot find changed blocks from {from} to {to}: the end is before the start")]
    Order {
        /// Start of the range.
        from: Lsn,
        /// End of the range.
        to: Lsn,
    },
    /// Tracking has not come far enough; it may later.
    #[error("changed blocks are tracked up to {tracked} only, {} bytes before {wanted}",
        wanted.0.saturating_sub(tracked.0))]
    Behind {
        /// How far.
        tracked: Lsn,
        /// How far is needed.
        wanted: Lsn,
    },
    /// Tracking did not come far enough in the time given.
    #[error(
        "changed blocks are tracked up to {tracked} only, {} bytes before {wanted}, and no further \
         for {seconds} seconds: check that enable_cbm_tracking is on and the CBM writer runs",
        wanted.0.saturating_sub(tracked.0)
    )]
    Stalled {
        /// How far.
        tracked: Lsn,
        /// How far is needed.
        wanted: Lsn,
        /// How long.
        seconds: u64,
    },
    /// Tracking began too late.
    #[error(
        "changed blocks are tracked from {tracked} on, not from {from}: a FULL backup is needed"
    )]
    TooEarly {
        /// Where tracking began.
        tracked: Lsn,
        /// Where it was needed from.
        from: Lsn,
    },
    /// Tracking was interrupted.
    #[error(
        "changed blocks from {end} to {start} were not tracked: enable_cbm_tracking was off, or \
         files are missing; a FULL backup is needed"
    )]
    Hole {
        /// Where tracking stopped.
        end: Lsn,
        /// Where it began again.
        start: Lsn,
    },
    /// A file is damaged.
    #[error("cannot read {name}: {fault}; a FULL backup is needed")]
    Damaged {
        /// Name of the file.
        name: String,
        /// Where and why.
        fault: CbmFault,
    },
    /// A file cannot be opened. If it is gone, the server has just renamed or removed it, and
    /// listing the directory again helps.
    #[error("cannot open {name}")]
    Open {
        /// Name of the file.
        name: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The conversation failed.
    #[error(transparent)]
    Server(Box<ServerError>),
    /// The server cannot say.
    #[error(
        "changed blocks since {from} are not all tracked, or their files are damaged, so a FULL \
         backup is needed"
    )]
    NotTracked {
        /// The server's words.
        source: Box<ServerError>,
        /// Start of the range.
        from: Lsn,
    },
    /// An answer that no server gives.
    #[error("invalid row of pg_cbm_get_changed_block: {column} {}", found.escape_debug())]
    Row {
        /// Which column.
        column: &'static str,
        /// What is there, or the start of it.
        found: String,
    },
}

impl From<ServerError> for CbmError {
    fn from(error: ServerError) -> CbmError {
        CbmError::Server(Box::new(error))
    }
}

impl CbmError {
    /// Whether the same question may have an answer a little later.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self, CbmError::Behind { .. })
    }
}
