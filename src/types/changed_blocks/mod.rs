//! Which blocks of which files may have changed since a point in WAL.
//!
//! Changes are kept by relation fork and block of the fork, as the server counts them. Only a
//! question about a file maps them to that file, because only its name tells how many blocks a
//! segment file has: that of a compressed relation has fewer.
//!
//! What is answered is never less than what changed:
//!
//! * a fork that was created or dropped counts as changed everywhere, and so does every file of a
//!   directory that was;
//! * files whose changes nobody tracks count as changed everywhere;
//! * behind the end of a truncated relation everything counts as changed, see
//!   [`ForkChanges::truncated_at`].

mod block_set;
mod place;
#[cfg(test)]
mod tests;

pub use block_set::BlockSet;
pub use place::COMPRESSED_SEGMENT_BLOCKS;

use super::{BlockNumber, FileBlock};
use place::{Subject, file_place, subject};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A vacuum that is disturbed gives up truncating at a multiple of this many blocks.
const TRUNCATE_STEP_BLOCKS: u32 = 32;

/// The changed blocks of a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChangedBlocks {
    forks: BTreeMap<String, ForkChanges>,
    directories: BTreeSet<String>,
    memory_bytes: usize,
    memory_bytes_max: usize,
}

/// What happened to one relation fork.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ForkChanges {
    /// Its files were removed, perhaps to come again.
    pub dropped: bool,
    /// Its files were made.
    pub created: bool,
    /// Everything counts as changed for another reason: the set would have taken too much memory.
    pub all: bool,
    /// Where the relation ended after it was truncated last; of undo, where it began.
    ///
    /// Blocks behind come from later growth, and growth itself is not tracked: a block that was
    /// added but not used yet is all zeros in the file and absent from the set, while the parent
    /// backup may have rows there that were deleted long ago. So everything behind counts as
    /// changed. An earlier truncation to less, of which nothing is known any more, may have left
    /// such blocks before this end too. Truncating is done by vacuum, which leaves a used page last
    /// unless it is disturbed, at a multiple of 32 blocks. Had the relation been shorter before, it
    /// would have grown to that page, and that is tracked. So if the last page has not changed, and
    /// the end is no such multiple, nothing was hidden; else the whole relation counts as changed.
    pub truncated_at: Option<BlockNumber>,
    /// Blocks that were written.
    pub blocks: BlockSet,
}

/// A path that names neither a relation fork nor a directory of relations.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not the path of a relation: \"{}\"", .0.escape_debug())]
pub struct UnknownPath(pub String);

/// What may have changed in one file.
#[derive(Clone, Debug)]
pub enum FileChanges<'a> {
    /// Nothing.
    None,
    /// Any block, or how far changes go is not known.
    All,
    /// These blocks.
    Blocks(FileBlocks<'a>),
}

/// The changed blocks of one file; there is at least one.
#[derive(Clone, Debug)]
pub struct FileBlocks<'a> {
    set: &'a BlockSet,
    /// First block of the fork in the file.
    first: u32,
    /// First block of the fork behind the file.
    end: u64,
    /// From here on every block counts; at most the end of the file.
    tail: u64,
}

impl ChangedBlocks {
    /// A set without changes. Sets of blocks take `memory_bytes_max` at most: the fork that would
    /// exceed this counts as changed everywhere instead.
    #[must_use]
    pub fn new(memory_bytes_max: usize) -> ChangedBlocks {
        ChangedBlocks {
            forks: BTreeMap::new(),
            directories: BTreeSet::new(),
            memory_bytes: 0,
            memory_bytes_max,
        }
    }

    /// Adds a block of a fork. `path` is that of the fork without the number of a segment file:
    /// `base/16384/16397`, `base/16384/16397_vm`.
    ///
    /// # Errors
    /// [`UnknownPath`].
    pub fn insert(&mut self, path: &str, block: BlockNumber) -> Result<(), UnknownPath> {
        let mut changes = ForkChanges::default();
        changes.blocks.insert(block.0);
        self.record(path, changes)
    }

    /// Adds what happened to a fork, or to a directory of relations: `base/16384`. Of a directory,
    /// only creating and dropping count; another change is that of its map of relations.
    ///
    /// # Errors
    /// [`UnknownPath`].
    pub fn record(&mut self, path: &str, changes: ForkChanges) -> Result<(), UnknownPath> {
        match subject(path).ok_or_else(|| UnknownPath(path.to_owned()))? {
            Subject::Fork(key) => self.add(key, changes),
            Subject::Directory(key) => {
                if changes.dropped || changes.created || changes.all {
                    self.directories.insert(key);
                }
            }
        }
        Ok(())
    }

    /// Adds all changes of another set.
    pub fn union(&mut self, other: ChangedBlocks) {
        self.directories.extend(other.directories);
        for (key, changes) in other.forks {
            self.add(key, changes);
        }
    }

    fn add(&mut self, key: String, changes: ForkChanges) {
        let fork = self.forks.entry(key).or_default();
        self.memory_bytes -= fork.blocks.memory_bytes();
        fork.union(changes);
        if self.memory_bytes + fork.blocks.memory_bytes() > self.memory_bytes_max {
            fork.all = true;
            fork.blocks = BlockSet::default();
        }
        self.memory_bytes += fork.blocks.memory_bytes();
    }

    /// What may have changed in the file at `path`, relative to the data directory:
    /// `base/16384/16397.1`, `base/16384/16431.1_compress`.
    #[must_use]
    pub fn file(&self, path: &str) -> FileChanges<'_> {
        let Some(place) = file_place(path) else {
            return FileChanges::All;
        };
        if place
            .directories
            .iter()
            .any(|directory| self.directories.contains(directory))
        {
            return FileChanges::All;
        }
        let Some(fork) = self.forks.get(&place.key) else {
            return FileChanges::None;
        };
        let start = u64::from(place.first);
        let end = start + u64::from(place.blocks);
        let tail = fork.all_from(&place.key).unwrap_or(end).clamp(start, end);
        if place.whole || tail == start {
            return FileChanges::All;
        }
        let blocks = FileBlocks {
            set: &fork.blocks,
            first: place.first,
            end,
            tail,
        };
        match blocks.ranges(0).next() {
            Some(_) => FileChanges::Blocks(blocks),
            None => FileChanges::None,
        }
    }

    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.forks.is_empty() && self.directories.is_empty()
    }

    /// The forks with changes, in the order of their paths; these lack the version directory of
    /// tablespaces and the kind of undo zones.
    pub fn forks(&self) -> impl Iterator<Item = (&str, &ForkChanges)> {
        self.forks
            .iter()
            .map(|(key, changes)| (key.as_str(), changes))
    }

    /// The directories that were created or dropped, in order; as [`ChangedBlocks::forks`] spells
    /// them.
    pub fn directories(&self) -> impl Iterator<Item = &str> {
        self.directories.iter().map(String::as_str)
    }

    /// Bytes that the sets of blocks take.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }
}

impl ForkChanges {
    fn union(&mut self, other: ForkChanges) {
        self.dropped |= other.dropped;
        self.created |= other.created;
        self.all |= other.all;
        match (self.truncated_at, other.truncated_at) {
            // Which of the two came last is not known, nor what the relation was in between.
            (Some(ours), Some(theirs)) if ours != theirs => self.all = true,
            (None, theirs) => self.truncated_at = theirs,
            _ => {}
        }
        if self.blocks.is_empty() {
            self.blocks = other.blocks;
        } else {
            self.blocks.union(&other.blocks);
        }
        if self.all {
            self.blocks = BlockSet::default();
        }
    }

    /// The block of the fork from which on everything counts as changed, if there is one.
    fn all_from(&self, key: &str) -> Option<u64> {
        if self.all || self.dropped || self.created {
            return Some(0);
        }
        let end = self.truncated_at?.0;
        if key.starts_with("undo/") {
            // Files of undo before the new beginning are gone, and their names do not come again.
            return None;
        }
        let is_main = !key
            .rsplit_once('/')
            .is_some_and(|(_, name)| name.contains('_'));
        let last_page_is_old = end
            .checked_sub(1)
            .is_some_and(|last| !self.blocks.contains(last));
        if is_main && last_page_is_old && !end.is_multiple_of(TRUNCATE_STEP_BLOCKS) {
            Some(u64::from(end))
        } else {
            Some(0)
        }
    }
}

impl<'a> FileBlocks<'a> {
    /// The blocks as ranges in ascending order, apart and not empty; two ranges with at most `gap`
    /// blocks between them are one. The last may reach behind the end of the file, to where a full
    /// segment file ends.
    pub fn ranges(&self, gap: u32) -> impl Iterator<Item = Range<FileBlock>> + 'a {
        let (start, end, tail) = (u64::from(self.first), self.end, self.tail);
        let listed = self
            .set
            .ranges_from(self.first, 0)
            .take_while(move |range| range.start < tail)
            .map(move |range| range.start..range.end.min(tail));
        let behind = (tail < end).then_some(tail..end);
        block_set::join_ranges(listed.chain(behind), gap).map(move |range| {
            let block = |at: u64| FileBlock(u32::try_from(at - start).unwrap_or(u32::MAX));
            block(range.start)..block(range.end)
        })
    }

    /// How many blocks of a file of `blocks` blocks these are.
    #[must_use]
    pub fn count(&self, blocks: u32) -> u64 {
        self.ranges(0)
            .map(|range| range.start.0.min(blocks)..range.end.0.min(blocks))
            .map(|range| u64::from(range.end - range.start))
            .sum()
    }
}
