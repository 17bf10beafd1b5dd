//! Which copies of a chain make up the newest state of a file: one rule for who restores it and who
//! merges it.
//!
//! The search goes from the newest backup to the oldest and ends at the first copy that is
//! complete. What older backups have under the same path does not matter then: it may have been
//! another kind of file.

use super::Error;
use super::restore::plan::Member;
use crate::format::catalog::{ContentEntry, EntrySize};
use crate::types::RELSEG_SIZE;

/// A copy of a relation file that provides blocks of its newest state.
#[derive(Clone, Debug)]
pub(super) struct PageCopy<'a> {
    /// Whose copy.
    pub(super) owner: &'a Member,
    /// Which one that is, counted from the newest backup.
    pub(super) member: usize,
    /// Its entry there.
    pub(super) entry: ContentEntry<'a>,
    /// Bytes of the copy.
    pub(super) size: u64,
    /// Blocks of the file that every later backup still had; those behind are not used.
    pub(super) block_limit: u32,
}

/// The copies of a relation file, newest first. `members` are the backups of the chain, newest
/// first, `entry` is of the newest one's list.
pub(super) fn of_pages<'a>(
    entry: &ContentEntry<'_>,
    members: &'a [Member],
) -> Result<Vec<PageCopy<'a>>, Error> {
    let members = with_what_is_overwritten(entry, members);
    let newest = members[0];
    let mut limit = entry.n_blocks.unwrap_or(0);
    if limit > RELSEG_SIZE {
        let path = &entry.path;
        return Err(Error::DamagedMember {
            id: newest.id,
            detail: format!("\"{path}\" has {limit} blocks, more than a segment file can have"),
        });
    }
    let mut copies = Vec::new();
    let mut is_unchanged = true;
    for (index, member) in members.iter().copied().enumerate() {
        let Some(found) = member.find(entry, newest) else {
            break;
        };
        if !found.is_datafile {
            return Err(kind_changed(entry, member));
        }
        is_unchanged = found.size == EntrySize::Unchanged;
        // Blocks that an older file had behind a later end were cut off in between.
        limit = limit.min(found.n_blocks.unwrap_or(0));
        let stored = found.headers.map_or(0, |headers| headers.count);
        let is_complete =
            !is_unchanged && found.n_blocks.is_some_and(|n_blocks| stored >= n_blocks);
        if let (EntrySize::Bytes(size @ 1..), 1..) = (found.size, limit) {
            copies.push(PageCopy {
                owner: member,
                member: index,
                entry: found,
                size,
                block_limit: limit,
            });
        }
        if is_complete {
            break;
        }
    }
    // As in a parent that does not have it.
    if is_unchanged {
        return Err(missing(entry, members[members.len() - 1]));
    }
    Ok(copies)
}

/// The copy of any other file: whose it is, its entry there and its size; `None` where the file is
/// empty.
pub(super) fn of_plain<'a>(
    entry: &ContentEntry<'_>,
    members: &'a [Member],
) -> Result<Option<(usize, ContentEntry<'a>, u64)>, Error> {
    let newest = &members[0];
    for (index, member) in members.iter().enumerate() {
        let found = member.find(entry, newest);
        let found = found.ok_or_else(|| Error::FileMissingInChain {
            name: entry.path.to_string(),
            id: member.id,
        })?;
        if found.is_datafile || found.is_directory() {
            return Err(kind_changed(entry, member));
        }
        match found.size {
            EntrySize::Bytes(0) => return Ok(None),
            EntrySize::Bytes(size) => return Ok(Some((index, found, size))),
            EntrySize::Unchanged => {}
        }
    }
    Err(missing(entry, &members[members.len() - 1]))
}

/// The members to look for a relation file in.
///
/// While a merge writes its result over records of the FULL backup's file, that file holds part of
/// the old pages and part of the new ones. The members of the merge are all there then, and have
/// the file as before but for what is overwritten, which the increments have as well.
fn with_what_is_overwritten<'a>(
    entry: &ContentEntry<'_>,
    members: &'a [Member],
) -> Vec<&'a Member> {
    let newest = &members[0];
    let mut all = Vec::with_capacity(members.len());
    for member in members {
        let found = member.find(entry, newest);
        match found.and_then(|found| member.merged_from(&found)) {
            Some(chain) => all.extend(chain),
            None => all.push(member),
        }
    }
    all
}

fn kind_changed(entry: &ContentEntry<'_>, member: &Member) -> Error {
    Error::KindChanged {
        name: entry.path.to_string(),
        id: member.id,
    }
}

fn missing(entry: &ContentEntry<'_>, oldest: &Member) -> Error {
    Error::FileMissingInChain {
        name: entry.path.to_string(),
        id: oldest.id,
    }
}
