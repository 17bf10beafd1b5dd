//! One file as a backup chain holds it, and which stored page records make up its newest state.
//!
//! Algorithm, for files of pages: members newest first; the first member that has a block provides
//! it; blocks at or behind the file's end in any later member are not part of it. Each wanted block
//! is read once, wanted records that lie close together in one request.

use super::{HeaderMapReader, PipelineError};
use crate::format::catalog::{HeaderMapRef, HeaderRecords, PageHeaderRecord};
use crate::io::File;
use crate::limits::{
    DIRECT_IO_BYTES_MIN, EXTENT_ENCODED_BYTES_MAX, EXTENT_PAGES_MAX, READ_GAP_BYTES_MAX,
};
use crate::storage::Storage;
use crate::types::{BlockSet, CompressAlgorithm, Location, Lsn, SegmentNumber};
use std::path::PathBuf;
use std::sync::Arc;

/// A backup's copy of a file.
#[derive(Clone, Debug)]
pub struct MemberFile {
    /// The backup's files.
    pub storage: Arc<dyn Storage>,
    /// Path there.
    pub path: PathBuf,
    /// Bytes by the content list; more than 0.
    pub size: u64,
    /// CRC-32C by the content list; `None` where the list holds something else (`pg_control`).
    pub crc: Option<u32>,
    /// How its pages are compressed.
    pub algorithm: CompressAlgorithm,
    /// Whether its pages carry checksums.
    pub page_checksums: bool,
    /// Whether pages are expected to be good, and to be what the page headers say. Of shared
    /// storage the original leaves both to chance.
    pub knows_pages: bool,
    /// Where its page headers are, for a file of pages.
    pub headers: Option<(Arc<HeaderMapReader>, HeaderMapRef)>,
}

impl MemberFile {
    /// The full path, for messages.
    #[must_use]
    pub fn display_path(&self) -> String {
        self.storage.display_path(&self.path).display().to_string()
    }

    pub(super) fn damaged(&self, detail: String) -> PipelineError {
        PipelineError::DamagedBackup {
            location: Location::file(self.display_path()),
            detail,
        }
    }

    /// Opens the stored file and checks its size.
    ///
    /// With `from_medium`, large files are read past the page cache, as a proof needs; otherwise
    /// what the cache holds is used.
    pub(super) fn open(&self, from_medium: bool) -> Result<Arc<File>, PipelineError> {
        let direct = from_medium && self.size >= DIRECT_IO_BYTES_MIN;
        let file = self.storage.open_read(&self.path, direct)?;
        let found = file.size()?;
        if found != self.size {
            return Err(self.damaged(format!(
                "it has {found} bytes, but the content list says {}",
                self.size
            )));
        }
        Ok(Arc::new(file))
    }

    /// Its page headers; they cover the whole file.
    pub(super) fn read_headers(&self) -> Result<HeaderRecords, PipelineError> {
        let Some((map, reference)) = &self.headers else {
            return Err(self.damaged("it has no page headers".to_owned()));
        };
        let headers = map.read(reference)?;
        if u64::from(headers.file_bytes) != self.size {
            return Err(self.damaged(format!(
                "its page headers span {} bytes of {}",
                headers.file_bytes, self.size
            )));
        }
        Ok(headers)
    }
}

/// A copy in a chain.
#[derive(Clone, Debug)]
pub struct ChainMember {
    /// The copy.
    pub file: MemberFile,
    /// Blocks of the file that every later backup still had; the copy's blocks behind are not used.
    pub block_limit: u32,
    /// Where its backup ended.
    pub stop_lsn: Lsn,
}

/// A file of a chain's newest backup with all its stored parts.
#[derive(Clone, Debug)]
pub enum ChainFile {
    /// A relation's segment file.
    Pages {
        /// Which segment of its relation.
        segno: SegmentNumber,
        /// Whether its pages are in the server's compressed form.
        compressed: bool,
        /// Blocks of the file in the newest backup.
        n_blocks: u32,
        /// Copies, newest first.
        members: Vec<ChainMember>,
    },
    /// Any other file: its newest copy, or `None` when it is empty.
    Plain(Option<MemberFile>),
}

/// Where the pages of a file come from.
#[derive(Debug)]
pub struct PageSource {
    pub(super) sources: Vec<SourceFile>,
    pub(super) extents: Vec<PlannedExtent>,
    /// Whether the extents are all bytes of one stored file in their order, so that its CRC can be
    /// checked.
    pub(super) is_whole_file: bool,
}

/// An opened member.
#[derive(Debug)]
pub(super) struct SourceFile {
    pub(super) file: Arc<File>,
    pub(super) records: Arc<[PageHeaderRecord]>,
    pub(super) file_bytes: u32,
    pub(super) algorithm: CompressAlgorithm,
    pub(super) page_checksums: bool,
    pub(super) knows_pages: bool,
}

/// Records to read in one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PlannedExtent {
    pub(super) source: usize,
    /// First record.
    pub(super) first: usize,
    /// Records, at most 128; those between wanted ones are read along.
    pub(super) count: usize,
    /// Bit i: record `first + i` is wanted.
    pub(super) wanted: u128,
}

impl SourceFile {
    /// Where record `index` begins in the stored file; the index behind the last gives its end.
    pub(super) fn position(&self, index: usize) -> u32 {
        self.records
            .get(index)
            .map_or(self.file_bytes, |record| record.position)
    }

    /// Bytes of `count` records from `first`.
    pub(super) fn span(&self, first: usize, count: usize) -> usize {
        let length = self.position(first + count) - self.position(first);
        usize::try_from(length).expect("32 bits fit")
    }
}

impl PageSource {
    /// Opens the members and decides which record of which provides each of the `n_blocks` blocks;
    /// with `needed`, of those only.
    ///
    /// # Errors
    /// When a member or its headers cannot be read or contradict the content list.
    ///
    /// # Panics
    /// Never: block numbers fit a usize.
    pub fn open(
        members: &[ChainMember],
        n_blocks: u32,
        needed: Option<&BlockSet>,
    ) -> Result<PageSource, PipelineError> {
        let mut source = PageSource {
            sources: Vec::new(),
            extents: Vec::new(),
            is_whole_file: false,
        };
        let mut taken = vec![needed.is_some(); usize::try_from(n_blocks).expect("32 bits fit")];
        for block in needed.into_iter().flat_map(BlockSet::iter) {
            let place = usize::try_from(block).expect("32 bits fit");
            if let Some(taken) = taken.get_mut(place) {
                *taken = false;
            }
        }
        for ChainMember {
            file: member,
            block_limit,
            ..
        } in members
        {
            let headers = member.read_headers()?;
            let opened = SourceFile {
                file: member.open(false)?,
                records: headers.records.into(),
                file_bytes: headers.file_bytes,
                algorithm: member.algorithm,
                page_checksums: member.page_checksums,
                knows_pages: member.knows_pages,
            };
            let limit = usize::try_from(*block_limit)
                .expect("32 bits fit")
                .min(taken.len());
            let taken = &mut taken[..limit];
            let wanted: Vec<bool> = opened
                .records
                .iter()
                .map(|record| take(taken, record.block))
                .collect();
            let index = source.sources.len();
            plan_member(&opened, index, &wanted, &mut source.extents);
            source.sources.push(opened);
        }
        source.is_whole_file = members.len() == 1
            && source
                .extents
                .iter()
                .map(|extent| extent.count)
                .sum::<usize>()
                == source.sources[0].records.len();
        Ok(source)
    }
}

impl PageSource {
    /// Memory that it takes, all but a constant.
    pub(super) fn held_bytes(&self) -> usize {
        let records: usize = self.sources.iter().map(|file| file.records.len()).sum();
        records * size_of::<PageHeaderRecord>() + self.extents.len() * size_of::<PlannedExtent>()
    }
}

/// Claims the block for the member that asks first.
pub(super) fn take(taken: &mut [bool], block: u32) -> bool {
    let place = usize::try_from(block)
        .ok()
        .and_then(|block| taken.get_mut(block));
    place.is_some_and(|place| !std::mem::replace(place, true))
}

/// Joins wanted records of one member into extents.
pub(super) fn plan_member(
    file: &SourceFile,
    source: usize,
    wanted: &[bool],
    extents: &mut Vec<PlannedExtent>,
) {
    let mut current: Option<PlannedExtent> = None;
    for index in (0..wanted.len()).filter(|index| wanted[*index]) {
        if let Some(extent) = current.as_mut() {
            let count = index + 1 - extent.first;
            let behind = extent.first + extent.count;
            let gap = file.span(behind, index - behind);
            if count <= EXTENT_PAGES_MAX
                && gap <= READ_GAP_BYTES_MAX
                && file.span(extent.first, count) <= EXTENT_ENCODED_BYTES_MAX
            {
                extent.count = count;
                extent.wanted |= 1 << (count - 1);
                continue;
            }
            extents.push(*extent);
        }
        current = Some(PlannedExtent {
            source,
            first: index,
            count: 1,
            wanted: 1,
        });
    }
    extents.extend(current);
}

const _: () = assert!(
    EXTENT_PAGES_MAX <= 128,
    "PlannedExtent::wanted has a bit a page"
);
