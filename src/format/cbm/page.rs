//! One page of a changed block map.
//!
//! ```text
//! 0    u32  CRC-32C of the bytes behind it
//! 4    u8   1: the last page of its batch
//! 5    u8   what happened: 0x01 truncated, 0x02 created, 0x04 dropped; 0 only blocks changed
//! 6         2 bytes of padding
//! 8    u64  start of the batch
//! 16   u64  end of the batch
//! 24   u32  tablespace
//! 28   u32  database
//! 32   u32  relation
//! 36   i16  bucket; -1 none, 16384 a file of segment-page storage
//! 38   u16  kind of compression of the relation
//! 40   i32  fork; above 4 column n - 4 of a column-store relation
//! 44   u32  first block of the bitmap, a multiple of 3648; FFFFFFFF for a page that only says
//!           what happened
//! 48   u32  where the fork was truncated; FFFFFFFF when it was not
//! 52        4 bytes of padding
//! 56        bitmap of 456 bytes, lowest bit first
//! ```
//!
//! A batch without changes is one page with relation 0/0/0, bucket -1, fork -1.

use crate::format::little_endian::{i32_at, u16_at, u32_at, u64_at};
use crate::format::relation_path::GLOBAL_TABLESPACE_OID;
use crate::types::Lsn;

/// Bytes of a page.
pub const CBM_PAGE_BYTES: usize = 512;

const HEADER_BYTES: usize = 56;
const CRC_BYTES: usize = 4;

/// Blocks that the bitmap of a page stands for.
pub const PAGE_BLOCKS: u32 = 3648;

const _: () = assert!(PAGE_BLOCKS.is_multiple_of(WORD_BLOCKS));
const _: () = assert!((CBM_PAGE_BYTES - HEADER_BYTES) * 8 == PAGE_BLOCKS as usize);

/// Means "no block" in a page.
const NO_BLOCK: u32 = u32::MAX;

const TRUNCATED: u8 = 0x01;
const CREATED: u8 = 0x02;
const DROPPED: u8 = 0x04;

/// Blocks in a word of a bitmap.
const WORD_BLOCKS: u32 = 64;

/// Database numbers of undo records and of undo transaction slots.
const UNDO_DATABASES: [u32; 2] = [9, 10];

/// Relation number of the last file of segment-page storage.
const SEGMENT_SPACE_LAST: u32 = 5;

/// The numbers that a relation's files are found by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RelationNumbers {
    /// Tablespace.
    pub tablespace: u32,
    /// Database; 0 for shared relations. 9 and 10 are undo records and transaction slots.
    pub database: u32,
    /// Relation; 0 for the whole database, or tablespace. Of undo the zone.
    pub relation: u32,
    /// Hash bucket; -1 for none, 16384 for a file of segment-page storage.
    pub bucket: i16,
}

impl RelationNumbers {
    /// Whether these are undo records or transaction slots of one zone.
    #[must_use]
    pub fn is_undo(self) -> bool {
        UNDO_DATABASES.contains(&self.database)
    }

    /// Whether these are the files of segment-page storage.
    fn is_segment_space(self) -> bool {
        self.bucket >= 0 && self.relation <= SEGMENT_SPACE_LAST
    }

    fn is_none(self) -> bool {
        (self.tablespace, self.database, self.relation, self.bucket) == (0, 0, 0, -1)
    }
}

/// A page whose CRC is right and whose fields fit each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CbmPage<'a> {
    /// Whether its batch ends with it.
    pub is_last: bool,
    /// Start of its batch.
    pub start: Lsn,
    /// End of its batch.
    pub end: Lsn,
    /// What changed; `None` for a batch without changes.
    pub change: Option<CbmChange<'a>>,
}

/// What a page says about a fork of a relation, or about a database or tablespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CbmChange<'a> {
    /// Which relation.
    pub relation: RelationNumbers,
    /// Which fork.
    pub fork: i32,
    /// It was dropped.
    pub dropped: bool,
    /// It was created.
    pub created: bool,
    /// It was truncated to this number of blocks; undo was, up to this block. 0 of a database
    /// without relation: its map of relations changed.
    pub truncated_at: Option<u32>,
    /// First block of `bitmap`, and the bitmap; `None` for a page about what happened to the whole.
    pub blocks: Option<(u32, &'a [u8])>,
}

/// What is wrong with a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CbmPageFault {
    /// Bytes are missing.
    #[error("{found} bytes instead of {CBM_PAGE_BYTES}")]
    Length {
        /// How many there are.
        found: usize,
    },
    /// Damaged.
    #[error("CRC {stored:08X}, computed {computed:08X}")]
    Crc {
        /// In the page.
        stored: u32,
        /// Of its bytes.
        computed: u32,
    },
    /// A field has a value that the server never writes.
    #[error("invalid {field}: {found}")]
    Field {
        /// Which field.
        field: &'static str,
        /// Its value.
        found: i64,
    },
    /// The page is of a batch that does not follow the page before.
    #[error("batch {start} to {end} instead of one from {expected}")]
    Batch {
        /// Start of the page's batch.
        start: Lsn,
        /// End of the page's batch.
        end: Lsn,
        /// Where it had to start.
        expected: Lsn,
    },
    /// The last batch of a file is not the one that the name of the file ends with.
    #[error("the file ends at {found} instead of {expected}")]
    End {
        /// End of the last batch.
        found: Lsn,
        /// As the name of the file says.
        expected: Lsn,
    },
}

impl<'a> CbmPage<'a> {
    /// Reads a page.
    ///
    /// # Errors
    /// [`CbmPageFault`] but for the last two, which are about several pages.
    pub fn parse(bytes: &'a [u8]) -> Result<CbmPage<'a>, CbmPageFault> {
        if bytes.len() != CBM_PAGE_BYTES {
            return Err(CbmPageFault::Length { found: bytes.len() });
        }
        let stored = u32_at(bytes, 0);
        let computed = crc32c::crc32c(&bytes[CRC_BYTES..]);
        if stored != computed {
            return Err(CbmPageFault::Crc { stored, computed });
        }
        let is_last = match bytes[4] {
            0 => false,
            1 => true,
            other => return Err(field("mark of the last page", other)),
        };
        let (start, end) = (Lsn(u64_at(bytes, 8)), Lsn(u64_at(bytes, 16)));
        if end <= start {
            return Err(CbmPageFault::Batch {
                start,
                end,
                expected: start,
            });
        }
        let page = CbmPage {
            is_last,
            start,
            end,
            change: CbmChange::parse(bytes)?,
        };
        if page.change.is_none() && !is_last {
            return Err(field("mark of the last page", 0));
        }
        Ok(page)
    }
}

impl<'a> CbmChange<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Option<CbmChange<'a>>, CbmPageFault> {
        let [low, high] = u16_at(bytes, 36).to_le_bytes();
        let relation = RelationNumbers {
            tablespace: u32_at(bytes, 24),
            database: u32_at(bytes, 28),
            relation: u32_at(bytes, 32),
            bucket: i16::from_le_bytes([low, high]),
        };
        let (kind, fork) = (bytes[5], i32_at(bytes, 40));
        let (first, truncated) = (u32_at(bytes, 44), u32_at(bytes, 48));
        if relation.is_none() {
            return match (kind, fork, first, truncated) {
                (0, -1, NO_BLOCK, NO_BLOCK) => Ok(None),
                _ => Err(field("relation", 0_u32)),
            };
        }
        if kind & !(TRUNCATED | CREATED | DROPPED) != 0 {
            return Err(field("kind", kind));
        }
        if relation.tablespace == 0 {
            return Err(field("tablespace", 0_u32));
        }
        let without_database = relation.database == 0 && relation.relation != 0;
        if without_database && relation.tablespace != GLOBAL_TABLESPACE_OID {
            return Err(field("database", 0_u32));
        }
        if fork < 0 {
            return Err(field("fork", fork));
        }
        if (kind & TRUNCATED != 0) != (truncated != NO_BLOCK) {
            return Err(field("block of truncation", truncated));
        }
        let blocks = if first == NO_BLOCK {
            // Changing block 0 of segment-page storage also marks "the block before" it.
            if kind == 0 && !relation.is_segment_space() {
                return Err(field("kind", kind));
            }
            None
        } else {
            Some((first, bitmap(bytes, kind, first)?))
        };
        Ok(Some(CbmChange {
            relation,
            fork,
            dropped: kind & DROPPED != 0,
            created: kind & CREATED != 0,
            truncated_at: (truncated != NO_BLOCK).then_some(truncated),
            blocks,
        }))
    }

    /// The bitmap in words of 64 blocks: the number of the word, counted from block 0, and its
    /// bits.
    pub fn words(&self) -> impl Iterator<Item = (u32, u64)> + 'a {
        let (first, bitmap) = self.blocks.unwrap_or((0, &[]));
        (first / WORD_BLOCKS..).zip(bitmap.chunks_exact(8).map(|word| u64_at(word, 0)))
    }
}

/// The bitmap, whose blocks must all have a number.
fn bitmap(bytes: &[u8], kind: u8, first: u32) -> Result<&[u8], CbmPageFault> {
    if kind != 0 {
        return Err(field("kind", kind));
    }
    if !first.is_multiple_of(PAGE_BLOCKS) {
        return Err(field("first block", first));
    }
    let bitmap = &bytes[HEADER_BYTES..];
    let last = bitmap.iter().rposition(|&byte| byte != 0);
    if let Some(at) = last {
        let bit = u64::from(first) + 8 * at as u64 + u64::from(bitmap[at].ilog2());
        if bit >= u64::from(NO_BLOCK) {
            return Err(field("first block", first));
        }
    }
    Ok(bitmap)
}

fn field(field: &'static str, found: impl Into<i64>) -> CbmPageFault {
    CbmPageFault::Field {
        field,
        found: found.into(),
    }
}
