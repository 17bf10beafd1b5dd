//! Whether a server goes on from where the parent of an increment was taken.
//!
//! A cluster that was put back to an older state and went on from there has another history since,
//! though its timeline may be the same: openGauss never begins a new one, and PostgreSQL does only
//! after archive recovery. Positions in WAL then mean nothing: once they are past those of the
//! parent, an increment by them would mix the two histories, and nothing would tell.
//!
//! Two witnesses, each as far as both sides still have it:
//!
//! 1. The WAL of the parent, from the beginning of its first segment to its stop, is in the WAL
//!    directory byte for byte.
//! 2. Files of changed block maps, which the server only appends to, begin with the complete
//!    batches that the parent has of them. Where these end depends on when the server wrote them,
//!    so that no two histories have the same.
//!
//! A witness that is gone proves nothing, and no increment is refused for it: servers remove WAL.

use super::super::Error;
use super::parent::{IncrementError, Parent};
use super::place::Place;
use crate::format::cbm::{CbmFileName, complete_bytes};
use crate::format::pg_control::ControlFile;
use crate::format::wal::segment_name;
use crate::limits::CBM_FILE_BYTES_MAX;
use crate::storage::{Posix, Storage, StorageError};
use crate::types::Lsn;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of WAL that are compared at a time.
const PART_BYTES: usize = 1024 * 1024;

const CBM_DIRECTORY: &str = "pg_cbm";

/// Refuses a server whose history is known not to be that of the parent; its WAL is written up to
/// `current`.
///
/// # Errors
/// [`IncrementError::OtherHistory`]; otherwise something that is there cannot be read.
pub(super) fn check(
    parent: &Parent,
    place: &Place,
    control: &ControlFile,
    current: Lsn,
) -> Result<(), Error> {
    let found = match other_wal(parent, place, control, current)? {
        Some(path) => Some(path),
        None => {
            let data = Posix::open(&place.data_directory)?;
            other_cbm_file(parent, &parent.database()?, &data)?
        }
    };
    match found {
        Some(path) => Err(IncrementError::OtherHistory {
            parent: parent.id(),
            path,
        }
        .into()),
        None => Ok(()),
    }
}

/// The first WAL segment of the parent that the server has with another content.
fn other_wal(
    parent: &Parent,
    place: &Place,
    control: &ControlFile,
    current: Lsn,
) -> Result<Option<PathBuf>, Error> {
    let segment_bytes = u64::from(control.wal_segment_size).max(1);
    let directory = place.form().wal_directory(control.flavor);
    let stored = parent.tree(place.form().root())?;
    // A link in the data directory is not followed: then it is not known.
    let (server, below): (Arc<dyn Storage>, _) = match &place.shared {
        Some(_) => (place.open_wal(control.flavor)?, Path::new("")),
        None => (place.main()?, &*directory),
    };
    let (start, stop) = (parent.control.start_lsn, parent.control.stop_lsn);
    let end = stop.min(current).0;
    for segno in start.0 / segment_bytes..end.div_ceil(segment_bytes) {
        let name = segment_name(control.timeline, segno, segment_bytes);
        let path = directory.join(&name);
        let server = (&*server, &*below.join(name));
        let length = (end - segno * segment_bytes).min(segment_bytes);
        match is_same((&stored, &path), server, length)? {
            Some(true) => {}
            Some(false) => return Ok(Some(path)),
            None => break,
        }
    }
    Ok(None)
}

/// Whether a file begins with the same bytes on both sides; `None` where one has fewer.
fn is_same(
    stored: (&dyn Storage, &Path),
    server: (&dyn Storage, &Path),
    length: u64,
) -> Result<Option<bool>, Error> {
    let mut offset = 0;
    while offset < length {
        let part = usize::try_from(length - offset)
            .unwrap_or(usize::MAX)
            .min(PART_BYTES);
        let read =
            |(tree, path): (&dyn Storage, &Path)| present(tree.read_range(path, offset, part));
        let (Some(backup), Some(server)) = (read(stored)?, read(server)?) else {
            return Ok(None);
        };
        if backup.len() < part || server.len() < part {
            return Ok(None);
        }
        if backup != server {
            return Ok(Some(false));
        }
        offset += u64::try_from(part).expect("a part is small");
    }
    Ok(Some(true))
}

/// The first file of changed block maps that does not begin as the parent has it.
fn other_cbm_file(
    parent: &Parent,
    stored: &dyn Storage,
    data: &dyn Storage,
) -> Result<Option<PathBuf>, Error> {
    let directory = Path::new(CBM_DIRECTORY);
    let names = match data.list(directory) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let names = names.into_iter().filter_map(|entry| {
        let name = entry.name.into_string().ok()?;
        Some((CbmFileName::parse(&name)?, name))
    });
    let server: Vec<(CbmFileName, String)> = names.collect();
    for (of_parent, path) in parent.cbm_files() {
        let same_file = |name: &CbmFileName| {
            (name.sequence, name.start) == (of_parent.sequence, of_parent.start)
        };
        let Some((_, name)) = server.iter().find(|(name, _)| same_file(name)) else {
            continue;
        };
        let before = present(stored.read(&path, CBM_FILE_BYTES_MAX))?;
        let now = present(data.read(&directory.join(name), CBM_FILE_BYTES_MAX))?;
        let (Some(before), Some(now)) = (before, now) else {
            continue;
        };
        let complete = complete_bytes(&before).map_or(0, |(length, _)| length);
        if !now.starts_with(&before[..complete]) {
            return Ok(Some(directory.join(name)));
        }
    }
    Ok(None)
}

/// `None` where there is no such file, something that is none, or one that is not ours to read: of
/// changed blocks the server can still be asked.
fn present(read: Result<Vec<u8>, StorageError>) -> Result<Option<Vec<u8>>, Error> {
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn is_absent(error: &StorageError) -> bool {
    use std::io::ErrorKind::{FileTooLarge, InvalidInput, NotADirectory, PermissionDenied};
    let kinds = [FileTooLarge, InvalidInput, NotADirectory, PermissionDenied];
    error.is_not_found() || kinds.contains(&error.source.kind())
}
