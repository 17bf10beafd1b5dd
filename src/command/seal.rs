//! The seal of a backup on disk: when it is written, and when it has become stale.
//!
//! Whoever writes `backup.control` of a sealed backup with our tool writes the seal after it, so a
//! seal is never older than the control file it describes. A control file that is younger was
//! rewritten by another tool. A medium that flips a bit does not touch the time, so that case stays
//! apart.

use super::Error;
use crate::catalog::BackupDir;
use crate::format::catalog::BackupControl;
use crate::format::seal::Seal;
use crate::storage::write_file_durably;
use std::fs;
use std::path::PathBuf;

/// Bytes of a seal: a control file and two hashes.
const SEAL_BYTES_MAX: u64 = 512 * 1024;

fn path_of(dir: &BackupDir) -> PathBuf {
    dir.path().join("backup.seal")
}

/// Writes the seal durably.
pub(super) fn write(dir: &BackupDir, seal: &Seal) -> Result<(), Error> {
    Ok(write_file_durably(&path_of(dir), 0o600, &seal.encode())?)
}

/// Reads the seal; `None` if the backup has none, or a later version wrote it. The text says what
/// is wrong with it.
pub(super) fn read(dir: &BackupDir) -> Result<Option<Seal>, String> {
    let path = path_of(dir);
    let bytes = match fs::metadata(&path) {
        Ok(metadata) if metadata.len() > SEAL_BYTES_MAX => Err("it is too large".to_owned()),
        Ok(_) => fs::read(&path).map_err(|error| error.to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => Err(error.to_string()),
    };
    bytes
        .and_then(|bytes| Seal::parse(&bytes).map_err(|error| error.to_string()))
        .map_err(|detail| format!("seal \"{}\" is damaged: {detail}", path.display()))
}

/// Takes over the new status of a control file that was just rewritten.
///
/// Only the status: a control file that disagrees with its seal must go on doing so. Where the seal
/// was stale before, what other tools may change is taken over as well.
pub(super) fn renew(
    dir: &BackupDir,
    written: &BackupControl,
    was_stale: bool,
) -> Result<(), Error> {
    let Ok(Some(mut seal)) = read(dir) else {
        return Ok(());
    };
    let Ok((mut sealed, _)) = BackupControl::parse(seal.backup_control.as_bytes()) else {
        return Ok(());
    };
    sealed.status = written.status;
    if was_stale {
        sealed.expire_time = written.expire_time;
        sealed.note.clone_from(&written.note);
        sealed.s3_status = written.s3_status;
    }
    seal.backup_control = sealed.encode();
    write(dir, &seal)
}

/// Whether the control file was rewritten after it was sealed.
pub(super) fn is_stale(dir: &BackupDir) -> bool {
    let modified = |path: PathBuf| fs::metadata(path).and_then(|metadata| metadata.modified());
    match (
        modified(dir.path().join("backup.control")),
        modified(path_of(dir)),
    ) {
        (Ok(control), Ok(seal)) => control > seal,
        _ => false,
    }
}
