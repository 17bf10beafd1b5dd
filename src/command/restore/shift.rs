//! The shift LSN of lsn mode: up to where the pages of a destination are those of the chain.
//!
//! 1. Everything before the destination's redo point is in its files. So the newest backup of the
//!    chain that ended before that point, on the same timeline, is the shift point.
//! 2. A cluster that was restored once and went on from there may have another history since,
//!    without another timeline: openGauss never begins a new one. Positions then mean nothing. So
//!    the WAL that the shift point's backup holds must be in the destination, byte for byte;
//!    otherwise pages stay only where they are equal, as in checksum mode.

use super::super::Error;
use super::plan::{Member, Plan};
use crate::format::pg_control::ControlFile;
use crate::format::wal::segment_name;
use crate::storage::StorageError;
use crate::types::{BackupId, Lsn};
use std::path::{Path, PathBuf};

/// Bytes of WAL that are compared at a time.
const PART_BYTES: usize = 1024 * 1024;

/// Bytes of WAL below which equal ones prove nothing: a page that begins a segment is the same in
/// every history.
const PROOF_BYTES_MIN: u64 = 1024;

/// Everything up to here is in the files of a cluster.
pub(super) fn redo_point(control: &ControlFile) -> Lsn {
    let others = [control.min_recovery_point, control.backup_start_point];
    let others = others.into_iter().filter(|lsn| !lsn.is_invalid());
    others.fold(control.redo, Lsn::min)
}

/// The shift LSN; `None` where the destination's history is not proven to be the chain's.
///
/// # Errors
/// When no backup of the chain ended before the destination's redo point.
pub(super) fn find(plan: &Plan, control: &ControlFile) -> Result<Option<Lsn>, Error> {
    let redo = redo_point(control);
    let id = plan.newest().id;
    let mut chosen = None;
    for member in plan.members() {
        if member.timeline != control.timeline {
            tracing::info!(
                "Backup {} cannot be a shiftpoint, because its tli {} is not in history of redo \
                 timeline {}",
                member.id,
                member.timeline.0,
                control.timeline.0
            );
        } else if member.stop_lsn < redo {
            tracing::info!(
                "Backup {} is chosen as shiftpoint, its Stop LSN will be used as shift LSN",
                member.id
            );
            chosen = Some(member);
            break;
        }
    }
    let timeline = control.timeline.0;
    let Some(member) = chosen else {
        return Err(Error::RedoOutOfReach { id, redo, timeline });
    };
    tracing::info!(
        "Destination directory redo point {redo} on tli {timeline} is within reach of backup {} \
         with Stop LSN {} on tli {}",
        member.id,
        member.stop_lsn,
        member.timeline.0
    );
    tracing::info!("shift LSN: {}", member.stop_lsn);
    let proven = has_wal_of(plan, member, control)?;
    if !proven {
        tell_unproven(member.id);
    }
    Ok(proven.then_some(member.stop_lsn))
}

fn tell_unproven(id: BackupId) {
    tracing::info!(
        "Destination directory does not have the WAL of backup {id}, so that its pages may be of \
         another history: they stay only where they are equal to those of the backup"
    );
}

/// Whether the destination has the backup's WAL from its start to its stop.
fn has_wal_of(plan: &Plan, member: &Member, control: &ControlFile) -> Result<bool, Error> {
    let segment_bytes = u64::from(control.wal_segment_size);
    let directory = plan.form.wal_directory(control.flavor);
    let directory = directory.display();
    let (first, stop) = (member.start_lsn.0 / segment_bytes, member.stop_lsn.0);
    if member.start_lsn > member.stop_lsn || stop - first * segment_bytes < PROOF_BYTES_MIN {
        return Ok(false);
    }
    for segno in first..stop.div_ceil(segment_bytes) {
        let name = segment_name(control.timeline, segno, segment_bytes);
        let path = format!("{directory}/{name}");
        let length = (stop - segno * segment_bytes).min(segment_bytes);
        if !is_same_segment(plan, member, &path, length)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the first `length` bytes of a segment are in the backup and in the destination.
fn is_same_segment(plan: &Plan, member: &Member, path: &str, length: u64) -> Result<bool, Error> {
    let Some(entry) = member
        .list
        .find(path, plan.form.root())
        .filter(|entry| entry.size.bytes() > 0)
    else {
        return Ok(false);
    };
    let stored = match member.stores.member(&entry, entry.size.bytes()) {
        Ok(stored) => stored,
        Err(_) => return Ok(false),
    };
    let target = PathBuf::from(path);
    let mut offset = 0;
    while offset < length {
        let part = usize::try_from(length - offset)
            .unwrap_or(usize::MAX)
            .min(PART_BYTES);
        let backup = read_part(stored.storage.read_range(&stored.path, offset, part))?;
        let found = read_part(plan.wal_tree().read_range(Path::new(&target), offset, part))?;
        if backup.as_ref().is_none_or(|bytes| bytes.len() < part) || backup != found {
            return Ok(false);
        }
        offset += u64::try_from(part).expect("a part is small");
    }
    Ok(true)
}

/// `None` where there is no such file, or something that is none.
fn read_part(read: Result<Vec<u8>, StorageError>) -> Result<Option<Vec<u8>>, Error> {
    use std::io::ErrorKind::{InvalidInput, NotADirectory};
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) if [InvalidInput, NotADirectory].contains(&error.source.kind()) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
