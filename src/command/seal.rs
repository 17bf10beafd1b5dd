//! The seal of a backup on disk: when it is written, and when it has become stale.
//!
//! Whoever writes `backup.control` of a sealed backup with our tool writes the seal before it, with
//! the text that the control file has and the one that it gets, and gives the control file the time
//! of the seal. Then the seal is written once more, with the new text alone. So at any instant the
//! control file is as one of the texts in its seal, and not younger. One that is younger was
//! rewritten by another tool. A medium that flips a bit does not touch the time, so that case stays
//! apart.

use super::Error;
use crate::catalog::BackupDir;
use crate::format::catalog::{BackupControl, BackupStatus, S3Status, replace_status};
use crate::format::seal::Seal;
use crate::io::fault;
use crate::storage::{StorageError, sync_directory, write_file_durably};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Bytes of a seal: a control file and two hashes.
const SEAL_BYTES_MAX: u64 = 512 * 1024;

fn path_of(dir: &BackupDir) -> PathBuf {
    dir.path().join("backup.seal")
}

/// Where a seal is while it must not count: that of a FULL backup whose files a merge is about to
/// change, then that of the merge's result, until the result's record is there.
fn aside(dir: &BackupDir) -> PathBuf {
    dir.path().join("merge.seal")
}

/// Puts the seal aside, for files are about to change. It comes back with [`take_back`].
pub(super) fn put_aside(dir: &BackupDir) -> Result<(), Error> {
    let (seal, aside) = (path_of(dir), aside(dir));
    if seal.exists() {
        change("rename", &seal, || fs::rename(&seal, &aside))?;
        sync_directory(dir.path())?;
    }
    Ok(())
}

/// Takes back a seal that was put aside, if it is of the backup as it is and nothing has come of
/// the change.
pub(super) fn take_back(dir: &BackupDir) -> Result<(), Error> {
    let (seal, aside) = (path_of(dir), aside(dir));
    let is_of = |bytes: &[u8]| read_from(&aside).is_ok_and(|seal| is_some_of(seal, bytes));
    let is_there = !seal.exists() && fs::read(dir.control_path()).is_ok_and(|bytes| is_of(&bytes));
    if is_there {
        change("rename", &aside, || fs::rename(&aside, &seal))?;
        sync_directory(dir.path())?;
    }
    Ok(())
}

/// Notes durably that the backup gets a seal together with this record.
pub(super) fn promise(dir: &BackupDir, record: &BackupControl) -> Result<(), Error> {
    let seal = Seal::new(&record.encode(), None);
    Ok(write_file_durably(&aside(dir), 0o600, &seal.encode())?)
}

/// Whether a seal was promised for this record.
pub(super) fn is_promised(dir: &BackupDir, record: &BackupControl) -> bool {
    let record = record.encode();
    read_from(&aside(dir)).is_ok_and(|seal| is_some_of(seal, record.as_bytes()))
}

/// Removes what was put aside or promised.
pub(super) fn forget_aside(dir: &BackupDir) -> Result<(), Error> {
    let aside = aside(dir);
    if aside.symlink_metadata().is_ok() {
        change("remove", &aside, || fs::remove_file(&aside))?;
        sync_directory(dir.path())?;
    }
    Ok(())
}

fn is_some_of(seal: Option<Seal>, record: &[u8]) -> bool {
    seal.is_some_and(|seal| seal.matches_control(record))
}

/// Makes a change that no other layer announces to [`fault`].
fn change(
    operation: &'static str,
    path: &Path,
    make: impl FnOnce() -> std::io::Result<()>,
) -> Result<(), Error> {
    let made = fault::step(operation, path).and_then(|()| make());
    Ok(made.map_err(|error| StorageError::new(operation, path, error))?)
}

/// Writes the seal durably.
pub(super) fn write(dir: &BackupDir, seal: &Seal) -> Result<(), Error> {
    Ok(write_file_durably(&path_of(dir), 0o600, &seal.encode())?)
}

/// Reads the seal; `None` if the backup has none, or a later version wrote it. The text says what
/// is wrong with it.
pub(super) fn read(dir: &BackupDir) -> Result<Option<Seal>, String> {
    read_from(&path_of(dir))
}

fn read_from(path: &Path) -> Result<Option<Seal>, String> {
    let bytes = match fs::metadata(path) {
        Ok(metadata) if metadata.len() > SEAL_BYTES_MAX => Err("it is too large".to_owned()),
        Ok(_) => fs::read(path).map_err(|error| error.to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => Err(error.to_string()),
    };
    bytes
        .and_then(|bytes| Seal::parse(&bytes).map_err(|error| error.to_string()))
        .map_err(|detail| format!("seal \"{}\" is damaged: {detail}", path.display()))
}

/// Writes the seal and then the control file that it is of.
///
/// # Errors
/// When either cannot be written; the control file is then as it was.
pub(super) fn write_with_control(
    dir: &BackupDir,
    seal: &Seal,
    control: &BackupControl,
) -> Result<(), Error> {
    write(dir, seal)?;
    Ok(dir.write_control_as_of(control, written_at(dir))?)
}

/// A status change of a sealed backup between its two seals.
#[derive(Debug)]
pub(super) struct Change {
    /// What the seal will be.
    seal: Seal,
    /// The time that the changed control file is to have.
    pub(super) as_of: Option<SystemTime>,
}

/// As [`begin_change_to`], for another status.
pub(super) fn begin_change(dir: &BackupDir, status: BackupStatus) -> Result<Option<Change>, Error> {
    begin_change_to(dir, &|bytes| replace_status(bytes, status).ok())
}

/// Seals what the control file is and what it will be when it is changed as `change` does; `None`
/// where there is no seal that could say so.
///
/// A control file that disagrees with its seal goes on doing so. Where another tool rewrote it and
/// changed only what commands change, that is sealed.
pub(super) fn begin_change_to(
    dir: &BackupDir,
    change: &dyn Fn(&[u8]) -> Option<Vec<u8>>,
) -> Result<Option<Change>, Error> {
    let (Ok(Some(seal)), Ok(bytes)) = (read(dir), fs::read(dir.control_path())) else {
        return Ok(None);
    };
    let is_good = seal.matches_control(&bytes)
        || is_stale(dir)
            && BackupControl::parse(&bytes)
                .is_ok_and(|(control, _)| is_changed_by_commands_only(&seal, &control));
    let now = if is_good {
        bytes
    } else {
        seal.backup_control.into_bytes()
    };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).ok();
    let next = change(&now).and_then(text);
    let (Some(now), Some(next)) = (text(now), next) else {
        return Ok(None);
    };
    let mut seal = Seal {
        backup_control: now,
        next_control: Some(next),
        ..seal
    };
    write(dir, &seal)?;
    if let Some(next) = seal.next_control.take() {
        seal.backup_control = next;
    }
    let as_of = written_at(dir);
    Ok(Some(Change { seal, as_of }))
}

impl Change {
    /// Seals the control file as it has become.
    pub(super) fn finish(self, dir: &BackupDir) -> Result<(), Error> {
        write(dir, &self.seal)
    }
}

/// What is wrong with the control file, of which `control` was read, by its seal.
///
/// Where it was rewritten since, as its time of change tells, only what no command changes is
/// compared.
pub(super) fn disagreement(
    dir: &BackupDir,
    control: &BackupControl,
    seal: &Seal,
) -> Option<String> {
    // Bytes, not text: a flipped bit may leave no text.
    match fs::read(dir.control_path()) {
        Ok(bytes) if seal.matches_control(&bytes) => None,
        Err(error) => Some(format!("backup.control cannot be read: {error}")),
        Ok(_) if !is_stale(dir) => {
            Some("backup.control is not as it was when the backup was sealed".to_owned())
        }
        Ok(_) if BackupControl::parse(seal.backup_control.as_bytes()).is_err() => {
            Some("the sealed backup.control cannot be read".to_owned())
        }
        Ok(_) => (!is_changed_by_commands_only(seal, control)).then(|| {
            "backup.control differs from the sealed one where no command changes it".to_owned()
        }),
    }
}

fn is_changed_by_commands_only(seal: &Seal, control: &BackupControl) -> bool {
    BackupControl::parse(seal.backup_control.as_bytes())
        .is_ok_and(|(sealed, _)| unchangeable(&sealed) == unchangeable(control))
}

/// The control data without what `set-backup` and `validate` may change.
fn unchangeable(control: &BackupControl) -> BackupControl {
    let mut control = control.clone();
    control.status = BackupStatus::Ok;
    control.expire_time = None;
    control.note = None;
    control.s3_status = S3Status::Unknown;
    control
}

/// The seal's time of change: a control file of the same time does not look as if it had been
/// rewritten. Without it the control file gets its own, and counts as rewritten until the next
/// seal.
fn written_at(dir: &BackupDir) -> Option<SystemTime> {
    fs::metadata(path_of(dir))
        .and_then(|metadata| metadata.modified())
        .ok()
}

/// Whether the control file was rewritten after it was sealed.
fn is_stale(dir: &BackupDir) -> bool {
    let modified = |path: PathBuf| fs::metadata(path).and_then(|metadata| metadata.modified());
    match (
        modified(dir.path().join("backup.control")),
        modified(path_of(dir)),
    ) {
        (Ok(control), Ok(seal)) => control > seal,
        _ => false,
    }
}
