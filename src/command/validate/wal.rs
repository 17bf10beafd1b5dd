//! The WAL of a backup: every record from its start LSN to the one at its stop LSN is there and
//! intact.

use super::super::Error;
use crate::catalog::BackupDir;
use crate::format::catalog::BackupControl;
use crate::format::pg_control::ControlFile;
use crate::format::wal::{RangeRequest, WalDialect, check_range, is_record_offset, segment_name};
use crate::limits::WAL_SEGMENT_BYTES;
use crate::storage::{Posix, Storage};
use crate::types::ServerFlavor;
use std::path::Path;

/// Checks the WAL; says what is wrong with it.
pub(super) fn is_complete(dir: &BackupDir, control: &BackupControl) -> Result<bool, Error> {
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
    if !control.stream {
        return Err(Error::NotSupportedYet {
            what: format!("backup {id} with WAL in an archive"),
            instead: "validate it with the original tool".to_owned(),
        });
    }
    let database = Posix::open(&dir.database())?;
    let source = Source::of(&database);
    let (directory, segment_bytes) = (source.directory, source.segment_bytes);
    let read = |segno: u64| {
        let name = segment_name(control.timeline, segno, segment_bytes);
        match database.read(&directory.join(&name), segment_bytes) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_not_found() => {
                let path = database.display_path(&directory.join(&name));
                tracing::warn!("WAL segment \"{}\" is absent", path.display());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    };
    let (start, stop) = (control.start_lsn, control.stop_lsn);
    let request = RangeRequest {
        dialect: source.dialect,
        timeline: control.timeline,
        segment_bytes,
        system_identifier: source.system_identifier,
        start,
        stop,
    };
    match check_range(&request, read) {
        Ok(_) => {
            tracing::info!("Backup {id} WAL segments are valid");
            Ok(true)
        }
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

/// Where a backup's WAL is and whose it is, by its control file.
struct Source {
    directory: &'static Path,
    dialect: WalDialect,
    segment_bytes: u64,
    system_identifier: Option<u64>,
}

impl Source {
    fn of(database: &Posix) -> Source {
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
