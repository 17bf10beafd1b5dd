//! What of each file an increment takes.
//!
//! | file | in the increment |
//! |---|---|
//! | relations that are empty | nothing but their entry |
//! | not in the parent, or stored there in another form | all of it |
//! | pages, changes tracked | the blocks that changed, and those that the parent does not have |
//! | pages, not tracked (DELTA) | pages that say that they changed, and new ones |
//! | others on volumes, where no time tells when a file was last written | all of it |
//! | pages of an unlogged relation | all of it: its changes are neither tracked nor on its pages |
//! | others, not surely older than the parent's start | all of it |
//! | columns, older and of the parent's size, changes tracked and none known | nothing |
//! | others | nothing if its CRC is that of the parent, else all of it |
//! | WAL | all of it: every backup has its own |
//!
//! The file's end is always that of now: a file that became shorter with nothing else changed has
//! an entry with its number of blocks and nothing in the backup.

use super::list::{SourceEntry, SourceTree};
use super::parent::{Parent, external_dirs};
use crate::format::catalog::{CompressedAttributes, ContentEntry, EntrySize, FileType, Root};
use crate::format::page::compressed::{EXTENT_BYTES, EXTENT_DATA_BLOCKS, ExtentHeader};
use crate::format::relation_path::{self, Fork};
use crate::format::wal::is_wal_name;
use crate::pipeline::{BackedUpFile, Content, Selection};
use crate::types::{ChangedBlocks, CompressAlgorithm, FileChanges, Lsn, PAGE_SIZE};
use std::collections::HashSet;
use std::ops::Range;

/// How changed pages are told.
#[derive(Debug)]
pub(super) enum Changes {
    /// The server tracked them.
    Tracked(ChangedBlocks),
    /// By the position in WAL that each page names.
    PagesSince(Lsn),
}

/// What an increment takes of a tree.
#[derive(Debug)]
pub(super) struct Increment<'a> {
    parent: &'a Parent,
    changes: Changes,
    tree: &'a SourceTree,
    /// External directories of this backup.
    external: Vec<String>,
    /// Directory and number of relations with an init fork.
    unlogged: HashSet<(&'a str, u32)>,
    /// Database directories that may have been made since the parent.
    remade: HashSet<&'a str>,
    /// Whether the cluster is on volumes.
    has_shared: bool,
}

impl<'a> Increment<'a> {
    pub(super) fn new(
        parent: &'a Parent,
        changes: Changes,
        tree: &'a SourceTree,
        external: Option<&str>,
    ) -> Increment<'a> {
        let files = tree.entries.iter().filter(|entry| entry.content.is_some());
        let unlogged = files
            .filter(|entry| entry.external_dir == 0 && entry.name.contains("_init"))
            .filter_map(|entry| {
                let found = relation_path::classify(&entry.name);
                let rel = found.rel.filter(|_| found.fork == Some(Fork::Init))?;
                Some((directory(&entry.name), rel))
            });
        Increment {
            parent,
            changes,
            tree,
            external: external_dirs(external),
            unlogged: unlogged.collect(),
            remade: remade(parent, tree),
            has_shared: tree
                .entries
                .iter()
                .any(|entry| entry.tree() == Root::Shared),
        }
    }

    /// What is taken of a file.
    pub(super) fn selection(&self, entry: &SourceEntry) -> Selection {
        let Some(content) = entry.content.filter(|_| !is_wal(entry)) else {
            return Selection::All;
        };
        let found = self.parent.find(&entry.name, entry.tree(), &self.external);
        let Some(found) = found.filter(|found| found.is_regular()) else {
            return Selection::All;
        };
        match content {
            // Servers on volumes track what is there. What an instance has beside it is little.
            Content::Pages(_) | Content::CompressedPages(_) if !self.is_main(entry) => {
                Selection::All
            }
            Content::Pages(_) | Content::CompressedPages(_) => self.pages(entry, content, &found),
            _ => self.plain(entry, &found),
        }
    }

    fn pages(&self, entry: &SourceEntry, content: Content, found: &ContentEntry<'_>) -> Selection {
        let is_compressed = matches!(content, Content::CompressedPages(_));
        let Some(new_from) = found.n_blocks.filter(|_| {
            found.is_datafile
                && found.compressed.is_some() == is_compressed
                && !self.is_unlogged(entry)
        }) else {
            return Selection::All;
        };
        let changed = match &self.changes {
            // Times on volumes are of another clock.
            Changes::PagesSince(_)
                if entry.file_type == FileType::Dss
                    || self.remade.contains(directory(&entry.name)) =>
            {
                return Selection::All;
            }
            Changes::PagesSince(lsn) => {
                return Selection::Since {
                    lsn: *lsn,
                    new_from,
                };
            }
            Changes::Tracked(changed) => changed,
        };
        let mut wanted = match changed.file(&entry.name) {
            FileChanges::All => return Selection::All,
            FileChanges::None => Vec::new(),
            FileChanges::Blocks(blocks) => blocks
                .ranges(0)
                .map(|range| range.start.0..range.end.0)
                .collect(),
        };
        add_tail(&mut wanted, new_from);
        Selection::Blocks(wanted)
    }

    /// Whether the entry is in the tree that the cluster's relations are in.
    fn is_main(&self, entry: &SourceEntry) -> bool {
        entry.tree() != Root::Data || !self.has_shared
    }

    fn plain(&self, entry: &SourceEntry, found: &ContentEntry<'_>) -> Selection {
        let other_size = match found.size {
            EntrySize::Bytes(bytes) => bytes != entry.size,
            EntrySize::Unchanged => false,
        };
        // Time decides first: of files that end in their own CRC-32C, as `pg_control.backup`, the
        // CRC is always the same. Times of files are coarse, and lag by some milliseconds.
        let is_younger = entry.mtime.saturating_add(1) >= self.parent.control.start_time;
        let is_timeless = entry.file_type == FileType::Dss;
        let is_taken = found.is_datafile || has_constant_crc(&entry.name) || is_timeless;
        if is_taken || other_size || is_younger || entry.size == 0 {
            return Selection::All;
        }
        Selection::UnlessCrc(found.crc)
    }

    fn is_unlogged(&self, entry: &SourceEntry) -> bool {
        let rel = relation_path::classify(&entry.name).rel;
        rel.is_some_and(|rel| self.unlogged.contains(&(directory(&entry.name), rel)))
    }

    /// The result for a file of which it is known without reading pages that nothing changed, or
    /// that there is nothing in it.
    pub(super) fn unchanged(&self, index: usize) -> Option<BackedUpFile> {
        let entry = &self.tree.entries[index];
        if entry.size == 0 && matches!(entry.content, Some(Content::Pages(_))) {
            // Of an empty relation there is nothing to open. If it grew since, WAL has that.
            return Some(BackedUpFile {
                unchanged: false,
                ..unchanged(index, 0)
            });
        }
        let wanted = match self.selection(entry) {
            Selection::Blocks(wanted) => wanted,
            Selection::UnlessCrc(crc) if self.is_known_as_unchanged(entry) => {
                return Some(unchanged(index, crc));
            }
            _ => return None,
        };
        let (n_blocks, compressed) = match entry.content? {
            Content::CompressedPages(_) => self.compressed_blocks(entry)?,
            _ => (blocks(entry.size / bytes(PAGE_SIZE)), None),
        };
        let first = wanted.first().map_or(u32::MAX, |range| range.start);
        (n_blocks > 0 && first >= n_blocks).then_some(BackedUpFile {
            n_blocks,
            compressed,
            ..unchanged(index, 0)
        })
    }

    /// Gives compressed files of which no extent was read, because they became shorter meanwhile,
    /// the attributes that the parent has: without them a restore would take their pages for plain
    /// ones.
    pub(super) fn complete_attributes(&self, copied: &mut [BackedUpFile]) {
        for file in copied.iter_mut().filter(|file| file.compressed.is_none()) {
            let entry = &self.tree.entries[file.index];
            if matches!(entry.content, Some(Content::CompressedPages(_))) {
                let found = self.parent.find(&entry.name, entry.tree(), &self.external);
                file.compressed = found.and_then(|found| found.compressed);
            }
        }
    }

    /// Whether a file that is no page stream, and that by time and size is the parent's, need not
    /// be read: columns, which are as large as tables, and whose changes are tracked.
    fn is_known_as_unchanged(&self, entry: &SourceEntry) -> bool {
        let Changes::Tracked(changed) = &self.changes else {
            return false;
        };
        let fork = relation_path::classify(&entry.name).fork;
        entry.external_dir == 0
            && entry.file_type == FileType::File
            && matches!(fork, Some(Fork::Column(_)))
            && !self.is_unlogged(entry)
            && matches!(changed.file(&entry.name), FileChanges::None)
    }

    /// Blocks and attributes of a `_compress` file, by the header of its last extent; `None` where
    /// that is being written, or the file is gone.
    fn compressed_blocks(
        &self,
        entry: &SourceEntry,
    ) -> Option<(u32, Option<CompressedAttributes>)> {
        let extents = entry.size / bytes(EXTENT_BYTES);
        let at = extents
            .checked_mul(bytes(EXTENT_BYTES))?
            .checked_sub(bytes(PAGE_SIZE))?;
        let storage = &self.tree.roots[entry.root];
        let page = storage
            .read_range(entry.source_path(), at, PAGE_SIZE)
            .ok()?;
        let header = ExtentHeader::parse(page.get(..PAGE_SIZE)?).ok()?;
        let attributes = CompressedAttributes {
            chunk_size: u32::try_from(header.chunk_size()).ok()?,
            algorithm: u32::from(header.algorithm()),
        };
        let before = blocks((extents - 1) * u64::from(EXTENT_DATA_BLOCKS));
        Some((before + header.block_count(), Some(attributes)))
    }

    /// Bytes that are read of a file, about.
    pub(super) fn read_bytes(&self, entry: &SourceEntry) -> u64 {
        match self.selection(entry) {
            Selection::Blocks(wanted) => selected_bytes(entry, &wanted),
            _ => entry.size,
        }
    }

    /// Bytes that are certainly taken, before compression: what only reading tells is left out.
    pub(super) fn required_bytes(&self) -> u64 {
        let files = self
            .tree
            .entries
            .iter()
            .filter(|entry| entry.content.is_some());
        let taken = files.map(|entry| match self.selection(entry) {
            Selection::All => entry.size,
            Selection::Blocks(wanted) => selected_bytes(entry, &wanted),
            Selection::Since { new_from, .. } => {
                let old = u64::from(new_from) * bytes(PAGE_SIZE);
                entry.size.saturating_sub(old)
            }
            Selection::UnlessCrc(_) => 0,
        });
        taken.sum()
    }
}

/// The result for a file of which nothing goes into the backup.
fn unchanged(index: usize, crc: u32) -> BackedUpFile {
    BackedUpFile {
        index,
        vanished: false,
        unchanged: true,
        size: 0,
        crc,
        compress_algorithm: CompressAlgorithm::None,
        n_blocks: 0,
        headers: None,
        compressed: None,
    }
}

/// Bytes of the wanted blocks of a file.
fn selected_bytes(entry: &SourceEntry, wanted: &[Range<u32>]) -> u64 {
    let end = blocks(entry.size / bytes(PAGE_SIZE));
    let counts = wanted
        .iter()
        .map(|range| u64::from(range.end.min(end).saturating_sub(range.start)));
    counts.sum::<u64>() * bytes(PAGE_SIZE)
}

/// Adds everything from `new_from` on to ascending ranges.
fn add_tail(wanted: &mut Vec<Range<u32>>, new_from: u32) {
    wanted.retain(|range| range.start < new_from);
    match wanted.last_mut() {
        Some(last) if last.end >= new_from => last.end = u32::MAX,
        _ => wanted.push(new_from..u32::MAX),
    }
}

/// Whether the entry is WAL, or a file that belongs to it.
fn is_wal(entry: &SourceEntry) -> bool {
    let (directory, name) = entry.name.rsplit_once('/').unwrap_or(("", &entry.name));
    entry.external_dir == 0 && (is_wal_name(name) || matches!(directory, "pg_wal" | "pg_xlog"))
}

fn directory(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(directory, _)| directory)
}

fn blocks(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn bytes(length: usize) -> u64 {
    u64::try_from(length).expect("a usize fits on every supported platform")
}

/// Directories with a `PG_VERSION` that is not surely older than the parent. A database that was
/// made by copying files has pages as old as those of its template, under names that a dropped one
/// may have had: positions of pages say nothing there.
fn remade<'a>(parent: &Parent, tree: &'a SourceTree) -> HashSet<&'a str> {
    let start = parent.control.start_time;
    tree.entries
        .iter()
        .filter(|entry| entry.content.is_some() && entry.mtime.saturating_add(1) >= start)
        .filter(|entry| entry.name.ends_with("/PG_VERSION"))
        .map(|entry| directory(&entry.name))
        .collect()
}

/// Whether a file ends in the CRC-32C of what is before it, as PostgreSQL's relation maps and state
/// files of prepared transactions do: its own CRC then is the same whatever it holds, and only its
/// time would tell.
fn has_constant_crc(name: &str) -> bool {
    name.ends_with("pg_filenode.map")
        || name.starts_with("pg_twophase/")
        || name.starts_with("pg_logical/replorigin_checkpoint")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_the_parent_does_not_have_are_always_wanted() {
        type Ranges = &'static [(u32, u32)];
        const END: u32 = u32::MAX;
        let cases: [(Ranges, u32, Ranges); 6] = [
            (&[], 5, &[(5, END)]),
            (&[(1, 2)], 5, &[(1, 2), (5, END)]),
            (&[(1, 5)], 5, &[(1, END)]),
            (&[(1, 3), (4, 9), (12, 20)], 5, &[(1, 3), (4, END)]),
            (&[(7, 9)], 5, &[(5, END)]),
            (&[(7, 9)], 0, &[(0, END)]),
        ];
        for (before, new_from, after) in cases {
            let mut wanted: Vec<_> = before.iter().map(|(start, end)| *start..*end).collect();
            add_tail(&mut wanted, new_from);
            let found: Vec<_> = wanted
                .iter()
                .map(|range| (range.start, range.end))
                .collect();
            assert_eq!(found, after, "{before:?}");
        }
    }

    #[test]
    fn files_whose_crc_never_changes_are_always_taken() {
        for name in [
            "global/pg_filenode.map",
            "base/5/pg_filenode.map",
            "pg_twophase/0000A1",
            "pg_logical/replorigin_checkpoint",
        ] {
            assert!(has_constant_crc(name), "{name}");
        }
        for name in ["pg_xact/0000", "postgresql.conf", "base/5/PG_VERSION"] {
            assert!(!has_constant_crc(name), "{name}");
        }
        // Why: a CRC-32C over content and its CRC-32C is a constant.
        let with_crc = |content: &[u8]| {
            let crc = crc32c::crc32c(content).to_le_bytes();
            crc32c::crc32c(&[content, &crc, &[0; 4]].concat())
        };
        assert_eq!(with_crc(b"one map"), with_crc(b"another"));
    }
}
