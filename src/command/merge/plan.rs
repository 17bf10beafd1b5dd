//! What becomes of every file of the destination, decided from the content lists alone.
//!
//! Most files of a cluster do not change between two backups: the FULL backup's copy stays where it
//! is. A file that one increment holds as a whole is taken over from there by a further name; only
//! relation files of which several members hold parts are written anew.

use super::super::Error;
use super::super::restore::plan::Member;
use super::journal::Removal;
use crate::catalog::BackupEntry;
use crate::format::catalog::{ContentEntry, EntrySize};
use crate::types::RELSEG_SIZE;

/// What is done with a file of the destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    /// A directory.
    Directory,
    /// There is nothing to store of it.
    Empty,
    /// The FULL backup's copy stays.
    Keep,
    /// This member's copy is taken over.
    TakeOver {
        /// Which one, newest first.
        member: usize,
    },
    /// Its copies are merged.
    Rewrite {
        /// Bytes of the copies.
        bytes: u64,
    },
}

/// A member's part of a relation file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Part {
    /// Which one, newest first.
    pub(super) member: usize,
    /// Bytes of its copy.
    pub(super) size: u64,
    /// Its blocks from here on were cut off later.
    pub(super) block_limit: u32,
}

/// All decisions.
#[derive(Debug)]
pub(super) struct Plan {
    /// The members, newest first.
    pub(super) members: Vec<Member>,
    /// One an entry of the newest content list, in its order.
    pub(super) actions: Vec<Action>,
    /// What the FULL backup has and the result has not, those below before those above.
    pub(super) removals: Vec<Removal>,
}

/// What a plan comes to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Totals {
    pub(super) kept_files: u64,
    pub(super) kept_bytes: u64,
    pub(super) taken_files: u64,
    pub(super) taken_bytes: u64,
    pub(super) rewritten_files: u64,
    pub(super) rewritten_bytes: u64,
}

impl Plan {
    /// Reads the content lists of `chain`, FULL first, and decides.
    pub(super) fn new(chain: &[BackupEntry]) -> Result<Plan, Error> {
        let members: Result<Vec<Member>, Error> = chain.iter().rev().map(Member::open).collect();
        let mut plan = Plan {
            members: members?,
            actions: Vec::new(),
            removals: Vec::new(),
        };
        let actions: Result<Vec<Action>, Error> = plan
            .newest()
            .list
            .iter()
            .map(|entry| plan.decide(&entry))
            .collect();
        plan.actions = actions?;
        plan.removals = plan.find_removals();
        Ok(plan)
    }

    pub(super) fn newest(&self) -> &Member {
        self.members.first().expect("a chain has a member")
    }

    pub(super) fn full(&self) -> &Member {
        self.members.last().expect("a chain has a member")
    }

    /// The entry of a member for the same file as this entry of the newest list.
    pub(super) fn find(&self, entry: &ContentEntry<'_>, member: usize) -> Option<ContentEntry<'_>> {
        self.members[member].find(entry, self.newest())
    }

    fn decide(&self, entry: &ContentEntry<'_>) -> Result<Action, Error> {
        if entry.is_directory() {
            return Ok(Action::Directory);
        }
        if !entry.is_datafile {
            return self.decide_plain(entry);
        }
        let parts = self.parts(entry)?;
        let [part] = parts[..] else {
            return Ok(match parts.len() {
                0 => Action::Empty,
                _ => Action::Rewrite {
                    bytes: parts.iter().map(|part| part.size).sum(),
                },
            });
        };
        let found = self.find(entry, part.member);
        let blocks = found.and_then(|found| found.n_blocks);
        if blocks.is_none_or(|blocks| blocks > part.block_limit) {
            return Ok(Action::Rewrite { bytes: part.size });
        }
        Ok(self.whole(entry, part.member))
    }

    /// One copy is all of the file.
    fn whole(&self, entry: &ContentEntry<'_>, member: usize) -> Action {
        let found = self.find(entry, member);
        let same_place = found.is_some_and(|found| found.external_dir == entry.external_dir);
        if member + 1 == self.members.len() && same_place {
            Action::Keep
        } else {
            Action::TakeOver { member }
        }
    }

    /// The copies of a relation file that still provide blocks, newest first.
    pub(super) fn parts(&self, entry: &ContentEntry<'_>) -> Result<Vec<Part>, Error> {
        let n_blocks = entry.n_blocks.unwrap_or(0);
        if n_blocks > RELSEG_SIZE {
            return Err(Error::DamagedMember {
                id: self.newest().id,
                detail: format!(
                    "\"{}\" has {n_blocks} blocks, more than a segment file can have",
                    entry.path
                ),
            });
        }
        let mut limit = n_blocks;
        let mut parts = Vec::new();
        let mut is_unchanged = true;
        for (index, member) in self.members.iter().enumerate() {
            let Some(found) = self.find(entry, index) else {
                break;
            };
            is_unchanged = found.size == EntrySize::Unchanged;
            if !found.is_datafile {
                return Err(Error::KindChanged {
                    name: entry.path.to_string(),
                    id: member.id,
                });
            }
            limit = limit.min(found.n_blocks.unwrap_or(0));
            if let (EntrySize::Bytes(size @ 1..), 1..) = (found.size, limit) {
                parts.push(Part {
                    member: index,
                    size,
                    block_limit: limit,
                });
            }
        }
        // As in a parent that does not have it.
        if is_unchanged {
            return Err(self.missing(entry));
        }
        Ok(parts)
    }

    fn decide_plain(&self, entry: &ContentEntry<'_>) -> Result<Action, Error> {
        for (index, member) in self.members.iter().enumerate() {
            let found = self.find(entry, index);
            let found = found.ok_or_else(|| Error::FileMissingInChain {
                name: entry.path.to_string(),
                id: member.id,
            })?;
            if found.is_datafile {
                return Err(Error::KindChanged {
                    name: entry.path.to_string(),
                    id: member.id,
                });
            }
            match found.size {
                EntrySize::Bytes(0) => return Ok(Action::Empty),
                EntrySize::Bytes(_) => return Ok(self.whole(entry, index)),
                EntrySize::Unchanged => {}
            }
        }
        Err(self.missing(entry))
    }

    fn missing(&self, entry: &ContentEntry<'_>) -> Error {
        Error::FileMissingInChain {
            name: entry.path.to_string(),
            id: self.full().id,
        }
    }

    fn find_removals(&self) -> Vec<Removal> {
        let newest = &self.newest().list;
        let is_gone = |entry: &ContentEntry<'_>| {
            let Some(index) = newest.position(&entry.path, entry.external_dir) else {
                return true;
            };
            let is_empty = self.actions[index] == Action::Empty;
            let was_directory = entry.is_directory();
            let is_directory = self.actions[index] == Action::Directory;
            (is_empty && entry.size.bytes() > 0) || was_directory != is_directory
        };
        let gone = self.full().list.iter_sorted().filter(is_gone);
        let mut removals: Vec<Removal> = gone
            .map(|entry| Removal {
                external_dir: entry.external_dir,
                is_directory: entry.is_directory(),
                path: entry.path.into_owned(),
            })
            .collect();
        removals.reverse();
        removals
    }

    /// What it comes to.
    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for (entry, action) in self.newest().list.iter().zip(&self.actions) {
            let stored = |member| {
                self.find(&entry, member)
                    .map_or(0, |found| found.size.bytes())
            };
            match *action {
                Action::Directory | Action::Empty => {}
                Action::Keep => {
                    totals.kept_files += 1;
                    totals.kept_bytes += stored(self.members.len() - 1);
                }
                Action::TakeOver { member } => {
                    totals.taken_files += 1;
                    totals.taken_bytes += stored(member);
                }
                Action::Rewrite { bytes } => {
                    totals.rewritten_files += 1;
                    totals.rewritten_bytes += bytes;
                }
            }
        }
        totals
    }
}
