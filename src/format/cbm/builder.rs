//! Makes pages of changed block maps, for tests.

use super::page::{CBM_PAGE_BYTES, PAGE_BLOCKS};

/// A page; what a test does not set changes nothing of the main fork of a relation.
#[derive(Clone, Copy, Debug)]
pub struct PageBuilder<'a> {
    /// Whether the batch ends with it.
    pub is_last: bool,
    /// What happened: 1 truncated, 2 created, 4 dropped.
    pub kind: u8,
    /// Start and end of the batch.
    pub batch: (u64, u64),
    /// Tablespace, database, relation.
    pub relation: (u32, u32, u32),
    /// Hash bucket; -1 none.
    pub bucket: i16,
    /// Fork; 0 main.
    pub fork: i32,
    /// The new end of what was truncated, else the highest number.
    pub truncated_at: u32,
    /// All on one page.
    pub blocks: &'a [u32],
}

impl Default for PageBuilder<'_> {
    fn default() -> Self {
        PageBuilder {
            is_last: true,
            kind: 0,
            batch: (100, 200),
            relation: (1663, 5, 7),
            bucket: -1,
            fork: 0,
            truncated_at: u32::MAX,
            blocks: &[],
        }
    }
}

impl PageBuilder<'_> {
    /// The page of a batch without changes.
    #[must_use]
    pub fn empty(batch: (u64, u64)) -> Vec<u8> {
        let page = PageBuilder {
            batch,
            relation: (0, 0, 0),
            fork: -1,
            ..PageBuilder::default()
        };
        page.build()
    }

    /// The bytes.
    ///
    /// # Panics
    /// When the blocks do not fit on one page, or are not ascending.
    #[must_use]
    pub fn build(self) -> Vec<u8> {
        let mut page = vec![0; CBM_PAGE_BYTES];
        page[4] = u8::from(self.is_last);
        page[5] = self.kind;
        page[8..16].copy_from_slice(&self.batch.0.to_le_bytes());
        page[16..24].copy_from_slice(&self.batch.1.to_le_bytes());
        let (tablespace, database, relation) = self.relation;
        let first = self
            .blocks
            .first()
            .map_or(u32::MAX, |block| block - block % PAGE_BLOCKS);
        for (at, value) in [
            (24, tablespace),
            (28, database),
            (32, relation),
            (44, first),
            (48, self.truncated_at),
        ] {
            page[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        page[36..38].copy_from_slice(&self.bucket.to_le_bytes());
        page[40..44].copy_from_slice(&self.fork.to_le_bytes());
        for block in self.blocks {
            let bit = usize::try_from(block - first).expect("blocks of one page");
            page[56 + bit / 8] |= 1 << (bit % 8);
        }
        seal(&mut page);
        page
    }
}

/// Repairs the CRC of a page.
pub fn seal(page: &mut [u8]) {
    let crc = crc32c::crc32c(&page[4..]);
    page[..4].copy_from_slice(&crc.to_le_bytes());
}
