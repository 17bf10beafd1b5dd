//! Changing the status of a backup: only that, durably, and the seal after it.

use super::{Error, seal};
use crate::catalog::BackupDir;
use crate::format::catalog::BackupControl;

/// Writes the status of `control` into the backup's control file; all else there stays as it is.
pub(super) fn set(dir: &BackupDir, control: &BackupControl) -> Result<(), Error> {
    let was_stale = seal::is_stale(dir);
    dir.set_status(control.status)?;
    seal::renew(dir, control, was_stale)
}
