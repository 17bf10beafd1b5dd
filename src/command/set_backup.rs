//! `set-backup`: pins a backup, so that retention leaves it alone, and notes something about it.
//!
//! Only the two keys of the record change, durably and at once, and its seal is renewed. The backup
//! is locked as for reading: who restores or validates it is not in the way, who merges, deletes or
//! makes it is waited for.

use super::Error;
use super::{status, words};
use crate::catalog::lock::{LockOptions, lock_shared};
use crate::catalog::{BackupDir, Catalog, CatalogError};
use crate::format::catalog::{BackupControl, ControlError, format_timestamp};
use crate::types::BackupId;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What `set-backup` is asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// The catalog.
    pub catalog: PathBuf,
    /// The instance's name.
    pub instance: String,
    /// The backup.
    pub backup_id: BackupId,
    /// Until when it is to be kept.
    pub pin: Option<Pin>,
    /// Its note.
    pub note: Option<NoteChange>,
    /// Ends the wait for a lock.
    pub cancel: Arc<AtomicBool>,
}

/// Until when a backup is to be kept, whatever retention says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pin {
    /// So many seconds after the time of its data; 0 unpins it.
    For(i64),
    /// Until this time, in seconds since 1970.
    Until(i64),
}

/// What becomes of a note.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NoteChange {
    /// It goes.
    Remove,
    /// It is this.
    Set(String),
}

impl Pin {
    /// Pins or unpins a backup in its record, and says so once that is written: the returned line.
    pub(super) fn apply(self, control: &mut BackupControl) -> Result<Option<String>, Error> {
        let id = control.id();
        let Some(recovery_time) = control.recovery_time.filter(|time| *time > 0) else {
            return Err(Error::Refused(format!(
                "Failed to set 'expire-time' for backup {id}: invalid 'recovery-time'"
            )));
        };
        let until = match self {
            Pin::For(0) if control.expire_time.is_none() => {
                tracing::warn!("Backup {id} is not pinned, nothing to unpin");
                return Ok(None);
            }
            Pin::For(0) => {
                control.expire_time = None;
                return Ok(Some(format!("Backup {id} is unpinned")));
            }
            Pin::For(seconds) => recovery_time.checked_add(seconds),
            Pin::Until(time) => Some(time),
        };
        let until = until.filter(|until| *until <= LAST_SECOND).ok_or_else(|| {
            Error::Refused(format!("backup {id} cannot be pinned beyond the year 9999"))
        })?;
        control.expire_time = Some(until);
        let until = format_timestamp(until);
        Ok(Some(format!("Backup {id} is pinned until '{until}'")))
    }
}

/// The end of the year 9998: what has a four-digit year in every zone.
const LAST_SECOND: i64 = 253_370_764_799;

/// Sets.
///
/// # Errors
/// When the backup is not there or in use, or its record cannot be read or written; it is then as
/// it was.
pub fn run(options: &Options) -> Result<(), Error> {
    let id = options.backup_id;
    if options.pin.is_none() && options.note.is_none() {
        return Err(Error::Refused(
            "Nothing to set by 'set-backup' command".to_owned(),
        ));
    }
    let instance = Catalog::open(&options.catalog)?.instance(&options.instance)?;
    let Ok(dir) = instance.backup(id) else {
        return Err(Error::Refused(format!("Failed to find backup {id}")));
    };
    let patience = LockOptions::PATIENT.cancelled_by(&options.cancel);
    let _lock = lock_shared(dir.path(), id, &patience)?;
    for line in set(&dir, options)? {
        tracing::info!("{line}");
    }
    Ok(())
}

/// Changes the record; the lines say what was done.
fn set(dir: &BackupDir, options: &Options) -> Result<Vec<String>, Error> {
    let _alone = status::alone(dir);
    let id = options.backup_id;
    let (mut control, _) = dir.read_control().map_err(|error| {
        tracing::warn!("{}", words::describe(&error));
        Error::UnreadableControl { id }
    })?;
    let before = control.clone();
    let mut lines = Vec::new();
    if let Some(pin) = options.pin {
        lines.extend(pin.apply(&mut control)?);
    }
    match &options.note {
        Some(NoteChange::Remove) => {
            control.note = None;
            lines.push(format!("Removing note from backup {id}"));
        }
        Some(NoteChange::Set(note)) => {
            control.note = Some(note.clone());
            lines.push(format!("Adding note to backup {id}: '{note}'"));
        }
        None => {}
    }
    check_storable(&control)?;
    if control != before {
        status::set_pin_and_note(dir, control.expire_time, control.note.as_deref())?;
    }
    Ok(lines)
}

fn check_storable(control: &BackupControl) -> Result<(), Error> {
    match control.check_storable() {
        Err(ControlError::Unstorable {
            key: "note",
            reason,
        }) => Err(Error::Refused(format!("the note cannot be kept: {reason}"))),
        Err(reason) => Err(CatalogError::Control {
            path: PathBuf::from("backup.control"),
            reason,
        }
        .into()),
        Ok(()) => Ok(()),
    }
}
