//! The changed block maps that the server of a cluster would have written: every change is told to
//! [`Tracking`], which gathers them into batches and the batches into files of `pg_cbm`.
//!
//! Within a batch the server keeps one entry a fork: dropping forgets what came before, truncating
//! forgets the blocks behind the new end and keeps the last end only.

use super::random::Random;
use gs_probackup::format::cbm::builder::PageBuilder;
use gs_probackup::format::cbm::{CbmFileName, PAGE_BLOCKS, RelationNumbers};
use gs_probackup::types::Lsn;
use std::collections::{BTreeMap, BTreeSet};

const TRUNCATED: u8 = 1;
const CREATED: u8 = 2;
const DROPPED: u8 = 4;

/// What an open batch says of the main fork of a relation, or of a database or tablespace.
#[derive(Clone, Default)]
struct Changes {
    kind: u8,
    truncated_at: Option<u32>,
    blocks: BTreeSet<u32>,
}

#[derive(Clone)]
struct File {
    start: u64,
    end: u64,
    /// Whether the server goes on with it.
    is_open: bool,
    pages: Vec<u8>,
}

/// All that is tracked of a cluster.
#[derive(Clone)]
pub(super) struct Tracking {
    is_on: bool,
    /// Number of the first file.
    sequence: u64,
    files: Vec<File>,
    batch: BTreeMap<RelationNumbers, Changes>,
    batch_start: u64,
}

impl Tracking {
    pub(super) fn begin(lsn: u64) -> Tracking {
        Tracking {
            is_on: true,
            sequence: 1,
            files: Vec::new(),
            batch: BTreeMap::new(),
            batch_start: lsn,
        }
    }

    /// Tracks nothing any more, and the files go.
    pub(super) fn stop(&mut self) {
        self.is_on = false;
        self.files.clear();
        self.batch.clear();
    }

    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Whether everything since is known.
    pub(super) fn knows_since(&self, lsn: u64) -> bool {
        self.is_on && self.files.first().is_some_and(|file| file.start <= lsn)
    }

    fn entry(&mut self, relation: RelationNumbers) -> &mut Changes {
        self.batch.entry(relation).or_default()
    }

    pub(super) fn wrote(&mut self, relation: RelationNumbers, block: u32) {
        self.entry(relation).blocks.insert(block);
    }

    pub(super) fn truncated(&mut self, relation: RelationNumbers, blocks: u32) {
        let entry = self.entry(relation);
        entry.kind |= TRUNCATED;
        entry.truncated_at = Some(blocks);
        entry.blocks.retain(|block| *block < blocks);
    }

    pub(super) fn created(&mut self, relation: RelationNumbers) {
        self.entry(relation).kind |= CREATED;
    }

    /// A relation; or, without relation, a database; or, without database, a tablespace.
    pub(super) fn dropped(&mut self, dropped: RelationNumbers) {
        self.batch.retain(|other, _| {
            let is_in = other.tablespace == dropped.tablespace
                && (dropped.database == 0 && dropped.relation == 0
                    || other.database == dropped.database);
            !(is_in && (dropped.relation == 0 || other.relation == dropped.relation))
        });
        self.entry(dropped).kind |= DROPPED;
    }

    /// Ends a batch at this position, and perhaps its file.
    pub(super) fn cut(&mut self, lsn: u64, random: &mut Random) {
        if !self.is_on || lsn <= self.batch_start {
            return;
        }
        let batch = (self.batch_start, lsn);
        let mut pages = Vec::new();
        let backwards = random.one_in(2);
        let entries: Vec<_> = std::mem::take(&mut self.batch).into_iter().collect();
        let mut order: Vec<usize> = (0..entries.len()).collect();
        if backwards {
            order.reverse();
        }
        let mut page_count = entries.iter().map(|(_, changes)| page_count(changes)).sum();
        for index in order {
            let (relation, changes) = &entries[index];
            add_pages(&mut pages, batch, *relation, changes, &mut page_count);
        }
        if pages.is_empty() {
            pages = PageBuilder::empty(batch);
        }
        match self.files.last_mut().filter(|file| file.is_open) {
            Some(file) => {
                file.pages.extend(pages);
                file.end = lsn;
            }
            None => self.files.push(File {
                start: batch.0,
                end: lsn,
                is_open: true,
                pages,
            }),
        }
        self.batch_start = lsn;
        if let Some(file) = self.files.last_mut() {
            file.is_open = !random.one_in(4);
        }
    }

    /// Removes the oldest file, as the server does with what it takes for no longer needed.
    pub(super) fn recycle(&mut self) -> bool {
        let is_possible = self.files.len() > 1;
        if is_possible {
            self.files.remove(0);
            self.sequence += 1;
        }
        is_possible
    }

    /// The files of `pg_cbm`.
    pub(super) fn files(&self) -> impl Iterator<Item = (String, &[u8])> {
        (self.sequence..).zip(&self.files).map(|(sequence, file)| {
            let name = CbmFileName {
                sequence,
                start: Lsn(file.start),
                end: (!file.is_open).then_some(Lsn(file.end)),
            };
            (format!("pg_cbm/{name}"), file.pages.as_slice())
        })
    }
}

fn bitmaps(changes: &Changes) -> Vec<Vec<u32>> {
    let mut bitmaps: Vec<Vec<u32>> = Vec::new();
    for block in &changes.blocks {
        match bitmaps.last_mut() {
            Some(last) if last[0] / PAGE_BLOCKS == block / PAGE_BLOCKS => last.push(*block),
            _ => bitmaps.push(vec![*block]),
        }
    }
    bitmaps
}

fn page_count(changes: &Changes) -> usize {
    usize::from(changes.kind != 0) + bitmaps(changes).len()
}

/// Adds the pages of an entry; `left` counts those of the batch that are still to come.
fn add_pages(
    pages: &mut Vec<u8>,
    batch: (u64, u64),
    relation: RelationNumbers,
    changes: &Changes,
    left: &mut usize,
) {
    let mut add = |page: PageBuilder<'_>| {
        *left -= 1;
        let page = PageBuilder {
            is_last: *left == 0,
            batch,
            relation: (relation.tablespace, relation.database, relation.relation),
            bucket: relation.bucket,
            ..page
        };
        pages.extend(page.build());
    };
    if changes.kind != 0 {
        add(PageBuilder {
            kind: changes.kind,
            truncated_at: changes.truncated_at.unwrap_or(u32::MAX),
            ..PageBuilder::default()
        });
    }
    for blocks in bitmaps(changes) {
        add(PageBuilder {
            blocks: &blocks,
            ..PageBuilder::default()
        });
    }
}
