//! The WAL of a backup: every record from its start LSN to the one at its stop LSN is there and
//! intact.

use super::super::Error;
use super::super::cluster_control::{ControlForm, WalSource};
use super::super::wal_archive::WalArchive;
use crate::catalog::BackupDir;
use crate::catalog::lock::LockError;
use crate::format::catalog::BackupControl;
use crate::format::wal::{RangeRequest, check_range, is_record_offset};
use crate::storage::Posix;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Checks the WAL; says what is wrong with it.
pub(super) fn is_complete(
    dir: &BackupDir,
    control: &BackupControl,
    cancel: &AtomicBool,
) -> Result<bool, Error> {
    let id = control.id();
    for (what, lsn) in [
        ("start_lsn", control.start_lsn),
        ("stop_lsn", control.stop_lsn),
    ] {
        if !is_record_offset(lsn) {
            tracing::warn!("Invalid {what} value {lsn} of backup {id}");
            tracing::warn!("Backup {id} WAL segments are corrupted");
            return Ok(false);
        }
    }
    let (source, root) = source_of(dir, control)?;
    let directory = if control.stream {
        root.join(source.directory)
    } else {
        archive_of(dir)
    };
    let archive = WalArchive {
        directories: vec![directory],
        timeline: control.timeline,
        segment_bytes: source.segment_bytes,
        cancel: Some(cancel),
    };
    let (start, stop) = (control.start_lsn, control.stop_lsn);
    let request = RangeRequest {
        dialect: source.dialect,
        timeline: control.timeline,
        segment_bytes: source.segment_bytes,
        system_identifier: source.system_identifier,
        start,
        stop,
    };
    match check_range(&request, |segno| archive.read(segno)) {
        Ok(_) => {
            tracing::info!("Backup {id} WAL segments are valid");
            Ok(true)
        }
        Err(_) if cancel.load(Ordering::Relaxed) => Err(LockError::Interrupted.into()),
        Err(error) => {
            tracing::warn!("{}", super::super::words::describe(&error));
            tracing::warn!(
                "There are not enough WAL records to consistenly restore backup {id} from START \
                 LSN: {start} to STOP LSN: {stop}"
            );
            tracing::warn!("Backup {id} WAL segments are corrupted");
            Ok(false)
        }
    }
}

/// The archive of the instance that the backup is of.
fn archive_of(dir: &BackupDir) -> PathBuf {
    // <catalog>/backups/<instance>/<id>
    let mut levels = dir.path().ancestors();
    let instance = levels.nth(1).and_then(Path::file_name).unwrap_or_default();
    let catalog = levels.nth(1).unwrap_or(Path::new("/"));
    catalog.join("wal").join(instance)
}

/// Where a backup's WAL is and whose it is, and the directory that this is below.
pub(super) fn source_of(
    dir: &BackupDir,
    control: &BackupControl,
) -> Result<(WalSource, PathBuf), Error> {
    let form = ControlForm::of_backup(control.storage_type, dir);
    let root = dir.root_of(form.root());
    Ok((WalSource::of(form, &Posix::open(&root)?), root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_of_a_backup_is_that_of_its_instance() {
        let dir = BackupDir::at(
            "TOU8BZ".parse().unwrap(),
            Path::new("/a/backups/one/TOU8BZ"),
        );
        assert_eq!(archive_of(&dir), Path::new("/a/wal/one"));
    }
}
