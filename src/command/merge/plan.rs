//! What becomes of every file of the destination, decided from the content lists alone.
//!
//! Most files of a cluster do not change between two backups: the FULL backup's copy stays where it
//! is. A file that one increment holds as a whole is taken over from there by a further name; only
//! relation files of which several members hold parts are written anew.

use super::super::Error;
use super::super::copies::{self, PageCopy};
use super::super::restore::plan::Member;
use super::journal::Removal;
use crate::catalog::BackupEntry;
use crate::format::catalog::ContentEntry;

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
        let copies = self.copies(entry)?;
        let [copy] = &copies[..] else {
            return Ok(match copies.len() {
                0 => Action::Empty,
                _ => Action::Rewrite {
                    bytes: copies.iter().map(|copy| copy.size).sum(),
                },
            });
        };
        let blocks = copy.entry.n_blocks;
        if blocks.is_none_or(|blocks| blocks > copy.block_limit) {
            return Ok(Action::Rewrite { bytes: copy.size });
        }
        Ok(self.whole(entry, copy.member))
    }

    /// One copy is all of the file.
    fn whole(&self, entry: &ContentEntry<'_>, member: usize) -> Action {
        let found = self.find(entry, member);
        let same_place = found.is_some_and(|found| found.root() == entry.root());
        if member + 1 == self.members.len() && same_place {
            Action::Keep
        } else {
            Action::TakeOver { member }
        }
    }

    /// The copies of a relation file that still provide blocks, newest first.
    pub(super) fn copies(&self, entry: &ContentEntry<'_>) -> Result<Vec<PageCopy<'_>>, Error> {
        copies::of_pages(entry, &self.members)
    }

    fn decide_plain(&self, entry: &ContentEntry<'_>) -> Result<Action, Error> {
        Ok(match copies::of_plain(entry, &self.members)? {
            None => Action::Empty,
            Some((member, ..)) => self.whole(entry, member),
        })
    }

    fn find_removals(&self) -> Vec<Removal> {
        let newest = &self.newest().list;
        let is_gone = |entry: &ContentEntry<'_>| {
            let Some(index) = newest.position(&entry.path, entry.root()) else {
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
                root: entry.root().into(),
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
