//! Whether a server started on a backup can recover to a target: the WAL behind the backup is read,
//! from the archives and from the backup itself, until a record shows the target.
//!
//! What shows it follows where a server stops:
//!
//! | target | record |
//! |---|---|
//! | time | the first with that time or a later one |
//! | transaction | its commit or abort, prepared ones too |
//! | position | one that starts there or behind |
//! | name | the restore point |
//!
//! PostgreSQL, told to include a time, stops only at a later one. It refuses to start where WAL
//! ends before the target, so "not enough" is an error and not a shorter recovery.

use super::super::Error;
use super::super::recovery_target::RecoveryTarget;
use super::super::wal_archive::WalArchive;
use super::wal::source_of;
use crate::catalog::BackupDir;
use crate::catalog::lock::LockError;
use crate::format::catalog::{BackupControl, format_timestamp};
use crate::format::wal::{
    Record, WalDialect, WalError, WalReader, ended_transaction, record_time, restore_point_name,
};
use crate::types::Lsn;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// How far recovery gets.
#[derive(Clone, Copy, Debug)]
struct Position {
    /// Of the last record with a time, in microseconds since 1970.
    time: Option<i64>,
    xid: u64,
    lsn: Lsn,
}

impl Position {
    fn words(&self) -> String {
        let time = self.time.map(|micros| micros.div_euclid(1_000_000));
        format!(
            "time {}, xid {} and LSN {}",
            format_timestamp(time.unwrap_or(0)),
            self.xid,
            self.lsn
        )
    }
}

/// Checks that the target can be reached from the backup.
///
/// # Errors
/// [`Error::NotEnoughWal`] where it cannot.
pub(in super::super) fn check_target(
    dir: &BackupDir,
    control: &BackupControl,
    target: &RecoveryTarget,
    archives: &[PathBuf],
    cancel: &AtomicBool,
) -> Result<(), Error> {
    if target.immediate || !target.is_set() {
        return Ok(());
    }
    let (at, is_reached) = search(dir, control, target, archives, None, cancel)?;
    if cancel.load(Ordering::Relaxed) {
        return Err(LockError::Interrupted.into());
    }
    if is_reached {
        tracing::info!("Backup validation completed successfully on {}", at.words());
        return Ok(());
    }
    tracing::warn!("Recovery can be done up to {}", at.words());
    Err(Error::NotEnoughWal {
        target: target.words(),
        archive: archives.first().cloned(),
    })
}

/// Whether the restore point of the target lies behind the backup and before `until`.
pub(in super::super) fn holds_restore_point(
    dir: &BackupDir,
    control: &BackupControl,
    target: &RecoveryTarget,
    archives: &[PathBuf],
    until: Option<Lsn>,
    cancel: &AtomicBool,
) -> Result<bool, Error> {
    let (at, is_there) = search(dir, control, target, archives, until, cancel)?;
    if cancel.load(Ordering::Relaxed) {
        return Err(LockError::Interrupted.into());
    }
    if !is_there && until.is_none() {
        tracing::warn!("Recovery can be done up to {}", at.words());
    }
    Ok(is_there)
}

fn search(
    dir: &BackupDir,
    control: &BackupControl,
    target: &RecoveryTarget,
    archives: &[PathBuf],
    until: Option<Lsn>,
    cancel: &AtomicBool,
) -> Result<(Position, bool), Error> {
    let (source, root) = source_of(dir, control)?;
    let mut directories = archives.to_vec();
    directories.push(root.join(source.directory));
    let archive = WalArchive {
        directories,
        timeline: control.timeline,
        segment_bytes: source.segment_bytes,
        cancel: Some(cancel),
    };
    let search = Search {
        target,
        dialect: source.dialect,
        until,
        at: Position {
            time: control
                .recovery_time
                .map(|time| time.saturating_mul(1_000_000)),
            xid: control.recovery_xid,
            lsn: control.stop_lsn,
        },
    };
    search.run(control, &archive, source.system_identifier)
}

struct Search<'a> {
    target: &'a RecoveryTarget,
    dialect: WalDialect,
    /// Where to stop looking.
    until: Option<Lsn>,
    at: Position,
}

impl Search<'_> {
    /// How far WAL goes, and whether the target is there.
    fn run(
        mut self,
        control: &BackupControl,
        archive: &WalArchive<'_>,
        system_identifier: Option<u64>,
    ) -> Result<(Position, bool), Error> {
        if self.is_at_end_of_backup(control) {
            return Ok((self.at, true));
        }
        let mut reader = WalReader::new(
            self.dialect,
            archive.timeline,
            archive.segment_bytes,
            control.stop_lsn,
            |segno| archive.read(segno),
        );
        if let Some(system_identifier) = system_identifier {
            reader = reader.with_system_identifier(system_identifier);
        }
        loop {
            match reader.next_record() {
                Ok(Some(record)) if self.until.is_some_and(|until| record.start >= until) => {
                    return Ok((self.at, false));
                }
                Ok(Some(record)) => {
                    self.advance(&record);
                    if self.shows_target(&record) {
                        return Ok((self.at, true));
                    }
                }
                Ok(None) => {
                    if let Some(end) = reader.end() {
                        tracing::warn!("WAL ends at {}: {end}", reader.position());
                    }
                    return Ok((self.at, false));
                }
                Err(WalError::UnknownDialect { major }) => {
                    return Err(Error::NotSupportedYet {
                        what: format!("WAL of PostgreSQL {major}"),
                        instead: "restore with --no-validate does not look at it".to_owned(),
                    });
                }
                Err(error) => {
                    tracing::warn!("{}", super::super::words::describe(&error));
                    return Ok((self.at, false));
                }
            }
        }
    }

    /// Whether the backup ends at the target, so that no more WAL is needed.
    fn is_at_end_of_backup(&self, control: &BackupControl) -> bool {
        let target = self.target;
        target.is_end_of(control)
            || target
                .xid
                .as_ref()
                .is_some_and(|(_, xid)| *xid == control.recovery_xid)
            || target
                .lsn
                .as_ref()
                .is_some_and(|(_, lsn)| *lsn <= control.stop_lsn)
            || target.time.as_ref().is_some_and(|time| {
                control
                    .recovery_time
                    .is_some_and(|reached| reached.saturating_mul(1_000_000) >= time.micros)
            })
    }

    fn advance(&mut self, record: &Record) {
        self.at.lsn = self.at.lsn.max(record.start);
        if let Some(time) = record_time(record) {
            self.at.time = Some(time);
        }
        if record.xid != 0 {
            self.at.xid = record.xid;
        }
    }

    fn shows_target(&self, record: &Record) -> bool {
        let target = self.target;
        let is_postgresql = matches!(self.dialect, WalDialect::PostgreSql { .. });
        if let Some((_, xid)) = &target.xid {
            // PostgreSQL's numbers in WAL have 32 bits.
            let sought = if is_postgresql {
                *xid & u64::from(u32::MAX)
            } else {
                *xid
            };
            return ended_transaction(record) == Some(sought);
        }
        if let Some(time) = &target.time {
            let Some(found) = record_time(record) else {
                return false;
            };
            // PostgreSQL does not stop by time at restore points.
            if is_postgresql && ended_transaction(record).is_none() {
                return false;
            }
            let goes_past = is_postgresql && target.inclusive != Some(false);
            return found > time.micros || (found == time.micros && !goes_past);
        }
        if let Some((_, lsn)) = &target.lsn {
            return record.start >= *lsn;
        }
        target.name.is_some() && restore_point_name(record) == target.name
    }
}
