//! Reads the files of the directory `pg_cbm`.
//!
//! 1. Of the names, files that the range touches, in order; without a hole between them.
//! 2. How far the last of them goes: its last complete batch, if it is being written.
//! 3. Each file: its pages are checked, files in parallel, and put together in order.

use super::CbmError;
use crate::format::cbm::{CbmFault, CbmFileName, CbmMap, CbmPages, complete_bytes};
use crate::limits::CHANGED_BLOCKS_BYTES_MAX;
use crate::types::{ChangedBlocks, Lsn};
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use std::collections::BTreeMap;
use std::error::Error;

/// A file to be read.
#[derive(Clone, Copy)]
struct Listed<'a> {
    text: &'a str,
    name: CbmFileName,
}

/// Finds the blocks that changed between `from` and `to`, from the `names` in the directory
/// `pg_cbm`; names of other files are passed over. `open` gives the bytes of a file; several are
/// asked for at once, as many as rayon has threads.
///
/// # Errors
/// [`CbmError`]. [`CbmError::Behind`] says that the server has not tracked as far as `to` yet.
pub fn read_cbm_directory<B, E>(
    names: &[impl AsRef<str>],
    open: impl Fn(&str) -> Result<B, E> + Sync,
    from: Lsn,
    to: Lsn,
) -> Result<ChangedBlocks, CbmError>
where
    B: AsRef<[u8]> + Send,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    read_map(names, open, from, to).map(CbmMap::into_changed_blocks)
}

/// As [`read_cbm_directory`], but by the numbers of relations.
pub(super) fn read_map<B, E>(
    names: &[impl AsRef<str>],
    open: impl Fn(&str) -> Result<B, E> + Sync,
    from: Lsn,
    to: Lsn,
) -> Result<CbmMap, CbmError>
where
    B: AsRef<[u8]> + Send,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let mut map = CbmMap::new(CHANGED_BLOCKS_BYTES_MAX);
    if to < from {
        return Err(CbmError::Order { from, to });
    }
    if to == from {
        return Ok(map);
    }
    let files = choose_files(names, from, to)?;
    let open = |file: &Listed<'_>| {
        open(file.text).map_err(|source| CbmError::Open {
            name: file.text.to_owned(),
            source: source.into(),
        })
    };
    let last = files.last().expect("some file begins before the range");
    check_end(last, open(last)?.as_ref(), to)?;
    let mut next = files[0].name.start;
    for group in files.chunks(rayon::current_num_threads().max(1)) {
        let opened: Vec<B> = group
            .par_iter()
            .map(|file| {
                let bytes = open(file)?;
                check(file, bytes.as_ref())?;
                Ok(bytes)
            })
            .collect::<Result<_, CbmError>>()?;
        for (file, bytes) in group.iter().zip(&opened) {
            // A file without an end in its name is followed by none, or shows its end now.
            if next != file.name.start {
                let start = file.name.start;
                return Err(CbmError::Hole { end: next, start });
            }
            next = merge(&mut map, file, bytes.as_ref(), from, to)?;
        }
    }
    Ok(map)
}

/// The files that the range touches, in order.
fn choose_files<'a>(
    names: &'a [impl AsRef<str>],
    from: Lsn,
    to: Lsn,
) -> Result<Vec<Listed<'a>>, CbmError> {
    let mut files: BTreeMap<u64, Listed<'a>> = BTreeMap::new();
    for text in names.iter().map(AsRef::as_ref) {
        let Some(name) = CbmFileName::parse(text) else {
            continue;
        };
        // A file renamed while the directory was listed may be there under both names.
        let listed = files.entry(name.sequence).or_insert(Listed { text, name });
        if listed.name.end.is_none() {
            *listed = Listed { text, name };
        }
    }
    let files: Vec<Listed<'a>> = files.into_values().collect();
    let first = files.first().ok_or(CbmError::Off)?;
    // Sequence and position rise together.
    let begun = files
        .iter()
        .rposition(|file| file.name.start <= from)
        .ok_or(CbmError::TooEarly {
            tracked: first.name.start,
            from,
        })?;
    let mut chosen = vec![files[begun]];
    for file in &files[begun + 1..] {
        let before = chosen[chosen.len() - 1].name;
        if before.end.is_some_and(|end| end >= to) {
            break;
        }
        let start = file.name.start;
        match before.end {
            Some(end) if end != start => return Err(CbmError::Hole { end, start }),
            _ if start >= to => break,
            _ => chosen.push(*file),
        }
    }
    Ok(chosen)
}

/// The part of a file that holds complete batches.
fn complete<'a>(file: &Listed<'_>, bytes: &'a [u8]) -> &'a [u8] {
    match file.name.end {
        Some(_) => bytes,
        None => &bytes[..complete_bytes(bytes).map_or(0, |(length, _)| length)],
    }
}

/// Whether the last file goes as far as `to`.
fn check_end(file: &Listed<'_>, bytes: &[u8], to: Lsn) -> Result<(), CbmError> {
    let tracked = file
        .name
        .end
        .or_else(|| complete_bytes(bytes).map(|(_, end)| end))
        .unwrap_or(file.name.start);
    if tracked < to {
        return Err(CbmError::Behind {
            tracked,
            wanted: to,
        });
    }
    Ok(())
}

/// Checks all pages of a file.
fn check(file: &Listed<'_>, bytes: &[u8]) -> Result<(), CbmError> {
    for page in CbmPages::new(file.name, complete(file, bytes)) {
        page.map_err(|fault| damaged(file, fault))?;
    }
    Ok(())
}

/// Adds what a file says about the range, and returns where the file ends.
fn merge(
    map: &mut CbmMap,
    file: &Listed<'_>,
    bytes: &[u8],
    from: Lsn,
    to: Lsn,
) -> Result<Lsn, CbmError> {
    let mut pages = CbmPages::new(file.name, complete(file, bytes));
    for page in pages.by_ref() {
        let page = page.map_err(|fault| damaged(file, fault))?;
        let wanted = from < page.end && page.start < to;
        if let (true, Some(change)) = (wanted, page.change) {
            map.merge(&change);
        }
    }
    Ok(pages.tracked())
}

fn damaged(file: &Listed<'_>, fault: CbmFault) -> CbmError {
    CbmError::Damaged {
        name: file.text.to_owned(),
        fault,
    }
}
