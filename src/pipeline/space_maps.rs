//! Whether a block of segment-page storage on volumes was ever written, by the space's own maps.
//!
//! What a file on a volume grows by holds what the device held before. The server writes a block
//! when a segment grows over it, and not before: whatever else is there was never written by
//! anybody, or belongs to nobody any more.
//!
//! | block | was written |
//! |---|---|
//! | 0, 1 | never |
//! | map head | always |
//! | map pages, inverse pointers | if the map head knows their group |
//! | extents of file `1` | if the map says that they belong to a segment |
//! | other extents | if a segment has them, and more blocks than lie in front |
//!
//! A segment has an extent if the map says that it is taken, the inverse pointer names the segment,
//! and the head of the segment names the extent.
//!
//! **Beside a running server** only the state at one moment is certain, that of the checkpoint that
//! the backup started with: what was changed before it has been written. What was changed later
//! need not have been, and WAL brings it. So a page of the maps proves that a block was written
//! only if its own LSN is not past that moment. That a block is *not* in use it proves in any case:
//! such a block was not in use then, or has been given up since. Read at any time, these proofs
//! hold for good.
//!
//! Where the maps changed since, other things may prove that a block was written at that moment: a
//! later block of the same extent that was, because segments grow block by block; that the tracking
//! of changes names it. What is left is [`PageUse::Unknown`].

use super::PipelineError;
use super::records::without_checksum;
use crate::format::page::{PageVerdict, verify_page};
use crate::format::relation_path::segment_space_number;
use crate::format::segment_space::{
    self as space, ExtentPlace, MapGroup, POINTER_PAGE_EXTENTS, RESERVED_BLOCKS, SegmentHead,
    USAGE_DATA,
};
use crate::io::File;
use crate::limits::{LATER_BLOCKS_MAX, SPACE_MAP_FILES_MAX, SPACE_MAP_PAGES_MAX};
use crate::storage::Storage;
use crate::types::{BlockNumber, Lsn, PAGE_SIZE, RELSEG_SIZE};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Whether a block was ever written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageUse {
    /// It was: if it is not right, it is damaged or being written.
    Used,
    /// Nobody needs what is there.
    Unused,
    /// That cannot be told: the maps were changed meanwhile, or contradict each other.
    Unknown,
}

/// The maps of one file of a space, all its segment files together.
#[derive(Debug)]
pub struct SpaceMaps {
    source: Arc<dyn Storage>,
    /// The file.
    path: PathBuf,
    /// File `1`, with the heads of segments.
    heads: PathBuf,
    extent_blocks: u32,
    is_heads: bool,
    /// What was changed up to here has been written; `None` where no server runs.
    settled: Option<Lsn>,
    page_checksums: bool,
    known: Mutex<Known>,
}

/// What was read of the maps.
#[derive(Debug, Default)]
struct Known {
    files: HashMap<(Tree, u32), Arc<File>>,
    pages: HashMap<(Tree, u32), Arc<MapPage>>,
}

/// Which file a block is of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Tree {
    Own,
    Heads,
}

/// A page that is right.
#[derive(Debug)]
struct MapPage {
    lsn: Lsn,
    bytes: Box<[u8]>,
}

impl SpaceMaps {
    /// The maps of the file of this `name` in the content list, which is at `path` of `source`;
    /// `None` where it is none of a space.
    ///
    /// `settled` is where the backup started, if a server runs.
    #[must_use]
    pub fn new(
        source: Arc<dyn Storage>,
        name: &str,
        path: &Path,
        settled: Option<Lsn>,
        page_checksums: bool,
    ) -> Option<SpaceMaps> {
        let number = segment_space_number(name)?;
        let file_name = path.file_name()?.to_str()?;
        let first = file_name.split('.').next()?;
        Some(SpaceMaps {
            source,
            path: path.with_file_name(first),
            heads: path.with_file_name("1"),
            extent_blocks: space::extent_blocks(number),
            is_heads: number == 1,
            settled,
            page_checksums,
            known: Mutex::default(),
        })
    }

    /// Whether no server runs: what is on the volumes stays as it is.
    #[must_use]
    pub fn are_final(&self) -> bool {
        self.settled.is_none()
    }

    /// Whether a block, counted over all segment files, was ever written. `is_tracked` says that
    /// the tracking of changes names it. Reads the maps where that is needed, in this thread.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn judge(&self, block: BlockNumber, is_tracked: bool) -> Result<PageUse, PipelineError> {
        // The last block that a file grew by is named without having been written.
        let is_end = (block.0.wrapping_add(1)).is_multiple_of(space::GROWTH_BLOCKS);
        self.judge_by_maps(block.0, is_tracked && !is_end)
    }

    fn judge_by_maps(&self, block: u32, is_tracked: bool) -> Result<PageUse, PipelineError> {
        if block < RESERVED_BLOCKS {
            return Ok(PageUse::Unused);
        }
        if block == space::MAP_HEAD_BLOCK {
            return Ok(PageUse::Used);
        }
        let Some(head) = self.page(Tree::Own, space::MAP_HEAD_BLOCK)? else {
            return Ok(self.without_page());
        };
        let Some(groups) = space::map_groups(&head.bytes, self.extent_blocks) else {
            return Ok(self.without_page());
        };
        let Some(group) = groups
            .into_iter()
            .rev()
            .find(|group| group.first_map <= block)
        else {
            // Groups are only ever added.
            return Ok(PageUse::Unused);
        };
        let last_map = group.first_map + group.map_pages - 1;
        if block <= last_map {
            let made = self.is_settled(&head) || self.is_page_settled(last_map)?;
            return Ok(self.used_if(made));
        }
        let Some(first_map) = self.page(Tree::Own, group.first_map)? else {
            return Ok(self.without_page());
        };
        let first = space::map_first(&first_map.bytes);
        if block < first {
            let made = self.is_settled(&head) || self.is_page_settled(first - 1)?;
            return Ok(self.used_if(made));
        }
        self.judge_extent(group, first, block, is_tracked)
    }

    /// Judges a block of an extent; the first one of the group begins at block `first`.
    fn judge_extent(
        &self,
        group: MapGroup,
        first: u32,
        block: u32,
        is_tracked: bool,
    ) -> Result<PageUse, PipelineError> {
        let number = (block - first) / self.extent_blocks;
        let (map, place) = (
            number / space::MAP_PAGE_EXTENTS,
            number % space::MAP_PAGE_EXTENTS,
        );
        if map >= group.map_pages {
            // Room for a group that is still to come.
            return Ok(PageUse::Unused);
        }
        let Some(map) = self.page(Tree::Own, group.first_map + map)? else {
            return Ok(self.without_page());
        };
        if !space::is_allocated(&map.bytes, place) {
            return Ok(PageUse::Unused);
        }
        let pointers = (group.first_map + group.map_pages)
            .checked_add(number / POINTER_PAGE_EXTENTS)
            .filter(|pointers| *pointers < first);
        let Some(pointers) = pointers else {
            return Ok(PageUse::Unknown);
        };
        let Some(pointers) = self.page(Tree::Own, pointers)? else {
            return Ok(self.without_page());
        };
        let pointer = space::inverse_pointer(&pointers.bytes, number % POINTER_PAGE_EXTENTS);
        if self.is_heads {
            // Such an extent is written with the change that hands it out.
            let made = self.is_settled(&map) || (self.is_settled(&pointers) && pointer.usage > 0);
            return Ok(self.used_if(made));
        }
        if pointer.usage != USAGE_DATA {
            return Ok(PageUse::Unknown);
        }
        let offset = (block - first) % self.extent_blocks;
        let found = self.judge_by_segment(pointer.head, pointer.extent, block, offset)?;
        // An extent that has changed hands may have been named for a table that was dropped before
        // its pages were written.
        let is_kept = self.is_settled(&map) && self.is_settled(&pointers);
        Ok(match found {
            PageUse::Unknown if is_tracked && is_kept => PageUse::Used,
            found => found,
        })
    }

    /// Judges the block `offset` of an extent that is said to be the segment's of this number.
    fn judge_by_segment(
        &self,
        head: u32,
        extent: u32,
        block: u32,
        offset: u32,
    ) -> Result<PageUse, PipelineError> {
        let Some(page) = self.page(Tree::Heads, head)? else {
            return Ok(self.without_page());
        };
        let Some(head) = SegmentHead::parse(&page.bytes) else {
            return Ok(PageUse::Unknown);
        };
        let named = match head.extent(extent) {
            None => None,
            Some(ExtentPlace::First(first)) => Some(first),
            Some(ExtentPlace::More(more, place)) => match self.page(Tree::Heads, more)? {
                Some(page) => space::more_extents(&page.bytes, place),
                None => return Ok(self.without_page()),
            },
        };
        if named != Some(block - offset) {
            return Ok(PageUse::Unknown);
        }
        if space::blocks_before(extent) + u64::from(offset) >= u64::from(head.blocks()) {
            return Ok(PageUse::Unused);
        }
        if self.is_settled(&page) {
            return Ok(PageUse::Used);
        }
        // The segment has grown since the backup started, perhaps over this block.
        let later = (self.extent_blocks - offset - 1).min(LATER_BLOCKS_MAX);
        for later in 1..=later {
            if self.is_page_settled(block.saturating_add(later))? {
                return Ok(PageUse::Used);
            }
        }
        Ok(PageUse::Unknown)
    }

    /// What a block is whose maps are not right themselves. Where nobody writes them they are
    /// damaged, so that nothing is known of the block in its favour.
    fn without_page(&self) -> PageUse {
        self.used_if(self.are_final())
    }

    fn used_if(&self, is_proven: bool) -> PageUse {
        if is_proven {
            PageUse::Used
        } else {
            PageUse::Unknown
        }
    }

    /// Whether a page is as it was when the backup started.
    fn is_settled(&self, page: &MapPage) -> bool {
        self.settled.is_none_or(|settled| page.lsn <= settled)
    }

    /// Whether a block of the file holds a page that was written before the backup started.
    fn is_page_settled(&self, block: u32) -> Result<bool, PipelineError> {
        let page = self.read(Tree::Own, block)?;
        Ok(page.is_some_and(|page| page.lsn > Lsn::INVALID && self.is_settled(&page)))
    }

    /// A page of the maps; `None` where it is not right.
    fn page(&self, tree: Tree, block: u32) -> Result<Option<Arc<MapPage>>, PipelineError> {
        let key = (tree, block);
        let known = |known: &Known| known.pages.get(&key).cloned();
        if let Some(page) = known(&self.known.lock().expect("nothing panics there")) {
            return Ok(Some(page));
        }
        let Some(page) = self.read(tree, block)? else {
            return Ok(None);
        };
        let page = Arc::new(page);
        let mut known = self.known.lock().expect("nothing panics there");
        if known.pages.len() >= SPACE_MAP_PAGES_MAX {
            known.pages.clear();
        }
        known.pages.insert(key, page.clone());
        Ok(Some(page))
    }

    /// Reads a page; `None` where there is none that is right.
    fn read(&self, tree: Tree, block: u32) -> Result<Option<MapPage>, PipelineError> {
        let segno = block / RELSEG_SIZE;
        let Some(file) = self.file(tree, segno)? else {
            return Ok(None);
        };
        let mut bytes = vec![0; PAGE_SIZE].into_boxed_slice();
        let offset = u64::from(block % RELSEG_SIZE) * PAGE_SIZE as u64;
        let read = file.read_up_to_at(&mut bytes, offset)?;
        if read < PAGE_SIZE || !file.is_as_read()? {
            // It has grown or moved since it was opened, perhaps.
            let mut known = self.known.lock().expect("nothing panics there");
            known.files.remove(&(tree, segno));
            return Ok(None);
        }
        let mut verdict = verify_page(&bytes, BlockNumber(block));
        if !self.page_checksums {
            verdict = without_checksum(&bytes, verdict);
        }
        Ok(match verdict {
            PageVerdict::Valid { lsn, .. } => Some(MapPage { lsn, bytes }),
            _ => None,
        })
    }

    fn file(&self, tree: Tree, segno: u32) -> Result<Option<Arc<File>>, PipelineError> {
        let mut known = self.known.lock().expect("nothing panics there");
        if let Some(file) = known.files.get(&(tree, segno)) {
            return Ok(Some(file.clone()));
        }
        let mut path = match tree {
            Tree::Own => &self.path,
            Tree::Heads => &self.heads,
        }
        .clone()
        .into_os_string();
        if segno > 0 {
            path.push(format!(".{segno}"));
        }
        match self.source.open_read(Path::new(&path), false) {
            Ok(file) => {
                let file = Arc::new(file);
                if known.files.len() >= SPACE_MAP_FILES_MAX {
                    known.files.clear();
                }
                known.files.insert((tree, segno), file.clone());
                Ok(Some(file))
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
#[path = "space_maps_tests.rs"]
pub(super) mod tests;
