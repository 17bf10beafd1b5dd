//! The WAL of a backup: every record from its start LSN to the one at its stop LSN is there and
//! intact.

use super::super::Error;
use super::super::wal_archive::WalArchive;
use crate::catalog::BackupDir;
use crate::catalog::lock::LockError;
use crate::format::catalog::BackupControl;
use crate::format::pg_control::ControlFile;
use crate::format::wal::{RangeRequest, WalDialect, check_range, is_record_offset};
use crate::limits::WAL_SEGMENT_BYTES;
use crate::storage::{Posix, Storage};
use crate::types::ServerFlavor;
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
    let database = Posix::open(&dir.database())?;
    let source = Source::of(&database);
    let directory = if control.stream {
        dir.database().join(source.directory)
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

/// Where a backup's WAL is and whose it is, by its control file.
pub(super) struct Source {
    pub(super) directory: &'static Path,
    pub(super) dialect: WalDialect,
    pub(super) segment_bytes: u64,
    pub(super) system_identifier: Option<u64>,
}

impl Source {
    pub(super) fn of(database: &Posix) -> Source {
        let bytes = database.read(Path::new("global/pg_control"), 65 * 8192);
        let control = bytes.ok().and_then(|bytes| ControlFile::parse(&bytes).ok());
        let Some(control) = control else {
            return Source {
                directory: Path::new("pg_xlog"),
                dialect: WalDialect::OpenGauss,
                segment_bytes: WAL_SEGMENT_BYTES,
                system_identifier: None,
            };
        };
        let directory = match control.flavor {
            ServerFlavor::OpenGauss => "pg_xlog",
            ServerFlavor::PostgreSql { .. } => "pg_wal",
        };
        Source {
            directory: Path::new(directory),
            dialect: control.flavor.into(),
            segment_bytes: u64::from(control.wal_segment_size),
            system_identifier: Some(control.system_identifier),
        }
    }
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
