//! Changing the status of a backup: only that, durably, and the seal after it.

use super::{Error, seal};
use crate::catalog::BackupDir;
use crate::format::catalog::BackupControl;
use std::path::Path;

/// Writes the status of `control` into the backup's control file; all else there stays as it is.
pub(super) fn set(path: &Path, control: &BackupControl) -> Result<(), Error> {
    let dir = BackupDir::at(path);
    let was_stale = seal::is_stale(&dir);
    let written = dir.set_status(control.status)?;
    seal::renew(&dir, &written, was_stale)
}
