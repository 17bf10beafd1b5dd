//! What a server that tracks changes would have noted of those that tests make.

use gs_probackup::format::cbm::PAGE_BLOCKS;
use gs_probackup::format::cbm::builder::PageBuilder;
use gs_probackup::format::relation_path::{FileKind, classify};
use gs_probackup::types::{FileBlock, Lsn};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What happened to a relation beside changes of blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Happened {
    Truncated,
    Created,
    Dropped,
}

/// Notes changes in a file of changed block maps that is being written, a batch each.
#[derive(Debug)]
pub(crate) struct Tracker {
    path: PathBuf,
    /// Where the next batch begins.
    position: u64,
}

impl Tracker {
    /// Tracks the cluster in `data`, whose last checkpoint is `from`.
    pub(crate) fn begin(data: &Path, from: Lsn) -> Tracker {
        let name = format!("pg_cbm/pg_xlog_1_{:016X}_{:016X}.cbm", from.0, 0);
        Tracker {
            path: data.join(name),
            position: from.0,
        }
    }

    /// Notes that blocks of a file changed.
    pub(crate) fn changed(&mut self, name: &str, blocks: &[u32]) {
        let first = classify(name).segno.relation_block(FileBlock(0)).0;
        let blocks: Vec<u32> = blocks.iter().map(|block| first + block).collect();
        let batch = self.next_batch();
        let mut pages: Vec<PageBuilder<'_>> = blocks
            .chunk_by(|a, b| a / PAGE_BLOCKS == b / PAGE_BLOCKS)
            .map(|blocks| PageBuilder {
                is_last: false,
                batch,
                blocks,
                ..about(name)
            })
            .collect();
        if let Some(last) = pages.last_mut() {
            last.is_last = true;
            self.append(&pages);
        } else {
            self.position -= 1;
        }
    }

    /// Notes that something changed in a column of a column-store table.
    pub(crate) fn column_changed(&mut self, database: u32, relation: u32, column: i32) {
        let batch = self.next_batch();
        self.append(&[PageBuilder {
            batch,
            relation: (1663, database, relation),
            fork: column + 4,
            blocks: &[0],
            ..PageBuilder::default()
        }]);
    }

    /// Notes what happened to a file; of one that was truncated, the blocks that it has left.
    pub(crate) fn happened(&mut self, name: &str, what: Happened, blocks: u32) {
        let batch = self.next_batch();
        let first = classify(name).segno.relation_block(FileBlock(0)).0;
        let (kind, truncated_at) = match what {
            Happened::Truncated => (1, first + blocks),
            Happened::Created => (2, u32::MAX),
            Happened::Dropped => (4, u32::MAX),
        };
        self.append(&[PageBuilder {
            batch,
            kind,
            truncated_at,
            ..about(name)
        }]);
    }

    /// Notes that nothing else happened up to `to`.
    pub(crate) fn reach(&mut self, to: Lsn) {
        assert!(self.position < to.0, "WAL is longer than what is tracked");
        let batch = (self.position, to.0);
        self.position = to.0;
        self.write(&PageBuilder::empty(batch));
    }

    fn next_batch(&mut self) -> (u64, u64) {
        self.position += 1;
        (self.position - 1, self.position)
    }

    fn append(&self, pages: &[PageBuilder<'_>]) {
        let bytes: Vec<u8> = pages.iter().flat_map(|page| page.build()).collect();
        self.write(&bytes);
    }

    fn write(&self, bytes: &[u8]) {
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).open(&self.path);
        file.unwrap().write_all(bytes).unwrap();
    }
}

/// A page about the relation of a file.
fn about(name: &str) -> PageBuilder<'static> {
    let FileKind::Relation(file) = classify(name).kind else {
        panic!("{name} is no relation");
    };
    let tablespace = match name.split('/').collect::<Vec<_>>()[..] {
        ["pg_tblspc", oid, ..] => oid.parse().unwrap(),
        ["global", ..] => 1664,
        _ => 1663,
    };
    PageBuilder {
        relation: (tablespace, file.db_oid, file.rel),
        bucket: if file.is_segment_space() { 16_384 } else { -1 },
        ..PageBuilder::default()
    }
}
