//! Which relation files a cluster of a given size has: a plain value, made before anything is
//! written.
//!
//! Sizes are shares of the wanted size. A few hundred small files, as system catalogs are, come on
//! top.

use super::columns::{ColumnKind, UNIT_BYTES};
use super::compressed::{Compression, EXTENT_BLOCKS, EXTENT_PAGES, ServerAlgorithm};
use super::indexes::{FSM_LEAF_NODES, IndexKey};
use super::page::HEADER_BYTES;
use super::rows::RowShape;
use super::segments::SegmentFile;
use crate::format::segment_space::extent_blocks;
use crate::types::{PAGE_SIZE, RELSEG_SIZE};

/// The user database.
pub(super) const USER_DATABASE: u32 = 16_384;
/// Every database: template1, template0, postgres and the user's.
pub(super) const DATABASES: [u32; 4] = [1, 15_032, 15_037, USER_DATABASE];
/// The user tablespace.
pub(super) const TABLESPACE_OID: u32 = 16_385;
/// The server's own directory in a tablespace: catalog version and node name.
pub(super) const TABLESPACE_VERSION_DIRECTORY: &str = "PG_9.2_201611171_single";

/// Mapped system catalogs of a database, pg_class and its like, and of the cluster: catalog and
/// file.
pub(super) const DATABASE_MAP: [(u32, u32); 4] = [
    (1259, 14_400),
    (1249, 14_404),
    (1255, 14_408),
    (1247, 14_412),
];
pub(super) const GLOBAL_MAP: [(u32, u32); 3] = [(1260, 14_400), (1262, 14_404), (1213, 14_408)];

/// What the pages of a file are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content {
    Heap(RowShape),
    Uheap(RowShape),
    Index(IndexKey),
    FreeSpaceMap,
    VisibilityMap,
    Undo,
    UndoSlots,
    Segment(SegmentFile),
    /// Extents of compressed pages; how many pages are in this file.
    Compressed(Compression, u32),
    Column(ColumnKind),
}

/// One file of a relation.
#[derive(Clone, Debug)]
pub(super) struct FilePlan {
    /// Below the tablespace instead of the data directory.
    pub(super) in_tablespace: bool,
    pub(super) path: String,
    pub(super) content: Content,
    /// Blocks of this file.
    pub(super) blocks: u32,
    /// Relation block of the first one; for compressed files the first page.
    pub(super) first_block: u32,
    /// Blocks of the whole relation fork.
    pub(super) relation_blocks: u32,
    /// Tells the random numbers of this fork from all others'.
    pub(super) stream: u64,
}

/// Collects the files of a cluster.
#[derive(Debug, Default)]
struct Planner {
    files: Vec<FilePlan>,
    streams: u64,
}

const ACCOUNTS: RowShape = RowShape {
    text_bytes_min: 20,
    text_bytes_span: 90,
    free_percent: 2,
};
const DOCUMENTS: RowShape = RowShape {
    text_bytes_min: 100,
    text_bytes_span: 600,
    free_percent: 10,
};
const USTORE: RowShape = RowShape {
    text_bytes_min: 20,
    text_bytes_span: 80,
    free_percent: 1,
};
const CATALOG: RowShape = RowShape {
    text_bytes_min: 20,
    text_bytes_span: 40,
    free_percent: 20,
};

/// The files of a cluster with about `bytes` of relation data.
pub(super) fn plan_files(bytes: u64) -> Vec<FilePlan> {
    let mut planner = Planner::default();
    for database in DATABASES {
        planner.system_catalogs(&format!("base/{database}"), 36);
    }
    planner.system_catalogs("global", 10);

    planner.user_database(bytes);
    planner.undo();
    planner.in_tablespace(|planner| {
        let directory = format!("{TABLESPACE_VERSION_DIRECTORY}/{USER_DATABASE}");
        planner.table(
            &format!("{directory}/16438"),
            Content::Heap(ACCOUNTS),
            share(bytes, 60),
        );
        planner.fork(
            &format!("{directory}/16444"),
            Content::Index(IndexKey::Integer),
            share(bytes, 10),
        );
    });
    planner.files
}

impl Planner {
    /// Tables and indexes of every kind; sizes are shares of `bytes`.
    fn user_database(&mut self, bytes: u64) {
        let share = |permille| share(bytes, permille);
        let user = format!("base/{USER_DATABASE}");
        self.table(
            &format!("{user}/16386"),
            Content::Heap(ACCOUNTS),
            share(330),
        );
        self.table(
            &format!("{user}/16392"),
            Content::Heap(DOCUMENTS),
            share(150),
        );
        self.fork(
            &format!("{user}/16395"),
            Content::Index(IndexKey::Integer),
            share(90),
        );
        self.fork(
            &format!("{user}/16398"),
            Content::Index(IndexKey::Text),
            share(80),
        );
        self.table(&format!("{user}/16401"), Content::Uheap(USTORE), share(90));
        self.fork(
            &format!("{user}/16404"),
            Content::Index(IndexKey::UstoreInteger),
            share(30),
        );
        self.compressed(
            &format!("{user}/16410"),
            ServerAlgorithm::Zstd,
            4096,
            share(40),
        );
        self.compressed(
            &format!("{user}/16413"),
            ServerAlgorithm::Zstd,
            2048,
            share(15),
        );
        self.compressed(
            &format!("{user}/16416"),
            ServerAlgorithm::Pglz,
            1024,
            share(15),
        );
        self.fork(&format!("{user}/16420"), Content::Heap(CATALOG), 0);
        self.column(
            &format!("{user}/16420_C1.0"),
            ColumnKind::Integer,
            share(10),
        );
        self.column(&format!("{user}/16420_C2.0"), ColumnKind::Text, share(30));
        self.column(&format!("{user}/16420_C3.0"), ColumnKind::Date, share(10));
        self.segment_space(&user, share(40));
    }

    /// A relation fork of any length, in files of 1 GiB.
    fn fork(&mut self, path: &str, content: Content, blocks: u32) {
        self.streams += 1;
        let mut first_block = 0;
        let mut segno = 0;
        loop {
            let file_blocks = (blocks - first_block).min(RELSEG_SIZE);
            let path = if segno == 0 {
                path.to_owned()
            } else {
                format!("{path}.{segno}")
            };
            self.file(path, content, file_blocks, first_block, blocks);
            first_block += file_blocks;
            segno += 1;
            if first_block >= blocks {
                return;
            }
        }
    }

    /// A table and its maps.
    fn table(&mut self, path: &str, content: Content, blocks: u32) {
        self.fork(path, content, blocks);
        let nodes = u32::try_from(FSM_LEAF_NODES).expect("a page");
        self.fork(
            &format!("{path}_fsm"),
            Content::FreeSpaceMap,
            2 + blocks.div_ceil(nodes),
        );
        if matches!(content, Content::Heap(_)) {
            let bits = u32::try_from((PAGE_SIZE - HEADER_BYTES) * 8).expect("a page");
            self.fork(
                &format!("{path}_vm"),
                Content::VisibilityMap,
                blocks.div_ceil(bits),
            );
        }
    }

    /// Small tables with an index each; every fourth has maps, every sixth is empty.
    fn system_catalogs(&mut self, directory: &str, count: u32) {
        for number in 0..count {
            let table = format!("{directory}/{}", 14_400 + number * 4);
            let blocks = if number % 6 == 5 { 0 } else { 1 + number % 5 };
            if number % 4 == 0 {
                self.table(&table, Content::Heap(CATALOG), blocks);
            } else {
                self.fork(&table, Content::Heap(CATALOG), blocks);
            }
            let index = format!("{directory}/{}", 14_402 + number * 4);
            self.fork(
                &index,
                Content::Index(IndexKey::Text),
                if blocks == 0 { 1 } else { 2 },
            );
        }
    }

    fn compressed(&mut self, path: &str, algorithm: ServerAlgorithm, chunk_bytes: u32, pages: u32) {
        const EXTENTS_PER_FILE: u32 = RELSEG_SIZE / EXTENT_BLOCKS;
        const PAGES_PER_FILE: u32 = EXTENTS_PER_FILE * EXTENT_PAGES;
        self.streams += 1;
        let compression = Compression {
            algorithm,
            chunk_bytes,
        };
        let mut first_page = 0;
        let mut segno = 0;
        while first_page < pages {
            let file_pages = (pages - first_page).min(PAGES_PER_FILE);
            let blocks = file_pages.div_ceil(EXTENT_PAGES) * EXTENT_BLOCKS;
            let name = if segno == 0 {
                format!("{path}_compress")
            } else {
                format!("{path}.{segno}_compress")
            };
            self.file(
                name,
                Content::Compressed(compression, file_pages),
                blocks,
                first_page,
                pages,
            );
            first_page += file_pages;
            segno += 1;
        }
    }

    fn column(&mut self, path: &str, kind: ColumnKind, blocks: u32) {
        self.streams += 1;
        let unit_blocks = u32::try_from(UNIT_BYTES / PAGE_SIZE).expect("a few blocks");
        let blocks = blocks.next_multiple_of(unit_blocks).min(RELSEG_SIZE);
        self.file(path.to_owned(), Content::Column(kind), blocks, 0, blocks);
    }

    /// The five files of segment-page storage: heads in the first, rows in extents of 8 blocks and
    /// then, as in a server, of 128; the two largest sizes only where there is enough data for
    /// them.
    fn segment_space(&mut self, directory: &str, blocks: u32) {
        let mut rest = blocks;
        let mut in_use = [0; 5];
        let most = [4, 16, 127, 112, 1000];
        for ((number, extents), most) in (1..).zip(&mut in_use).zip(most) {
            let size = extent_blocks(number);
            *extents = (rest / size).min(most);
            rest -= *extents * size;
        }
        for number in 1..=5 {
            let file = SegmentFile { number, in_use };
            // A server extends these files in large steps: the tail is zero.
            let length = file.used_blocks().next_multiple_of(128);
            self.fork(
                &format!("{directory}/{number}"),
                Content::Segment(file),
                length,
            );
        }
    }

    fn undo(&mut self) {
        self.fork("undo/permanent/00000.0000000", Content::Undo, 128);
        self.fork("undo/permanent/00000.meta.0000000", Content::UndoSlots, 4);
    }

    fn in_tablespace(&mut self, plan: impl FnOnce(&mut Planner)) {
        let first = self.files.len();
        plan(self);
        for file in &mut self.files[first..] {
            file.in_tablespace = true;
        }
    }

    fn file(&mut self, path: String, content: Content, blocks: u32, first: u32, relation: u32) {
        self.files.push(FilePlan {
            in_tablespace: false,
            path,
            content,
            blocks,
            first_block: first,
            relation_blocks: relation,
            stream: self.streams,
        });
    }
}

/// Blocks of so many thousandths of the data; every relation has some.
fn share(bytes: u64, permille: u64) -> u32 {
    let blocks = (bytes / 1000 * permille).div_ceil(PAGE_SIZE as u64).max(3);
    // A server's relations have fewer than 2^32 blocks, too.
    u32::try_from(blocks).unwrap_or(u32::MAX - 1)
}
