//! Tests of changed block maps.

use super::builder::{PageBuilder, seal};
use super::*;
use crate::types::{BlockSet, FileChanges, Lsn};

const UNBOUNDED: usize = usize::MAX;

const TRUNCATED: u8 = 1;
const CREATED: u8 = 2;
const DROPPED: u8 = 4;

fn name(start: u64, end: Option<u64>) -> CbmFileName {
    CbmFileName {
        sequence: 3,
        start: Lsn(start),
        end: end.map(Lsn),
    }
}

/// What the pages of a file come to.
fn merged(pages: &[PageBuilder<'_>]) -> CbmMap {
    let mut map = CbmMap::new(UNBOUNDED);
    for page in pages {
        let bytes = page.build();
        map.merge(&CbmPage::parse(&bytes).unwrap().change.unwrap());
    }
    map
}

/// The rows by path: kinds, end after truncating, blocks.
fn rows(map: &CbmMap) -> Vec<(String, u8, Option<u32>, Vec<u32>)> {
    map.rows()
        .map(|row| {
            let changes = row.changes;
            let kind = u8::from(changes.truncated_at.is_some()) * TRUNCATED
                + u8::from(changes.created) * CREATED
                + u8::from(changes.dropped) * DROPPED;
            let truncated = changes.truncated_at.map(|block| block.0);
            let blocks = changes.blocks.iter().collect();
            (row.fork.path("PG_x"), kind, truncated, blocks)
        })
        .collect()
}

#[test]
fn names_of_files_are_read_and_printed() {
    let text = "pg_xlog_1_0000000002619030_0000000000000000.cbm";
    let parsed = CbmFileName::parse(text).unwrap();
    assert_eq!(parsed.to_string(), text);
    assert_eq!((parsed.start, parsed.end), (Lsn(0x261_9030), None));
    let text = "pg_xlog_12_0000000A02619030_0000000B00000000.cbm";
    let parsed = CbmFileName::parse(text).unwrap();
    assert_eq!(parsed.to_string(), text);
    assert_eq!(
        (parsed.sequence, parsed.end),
        (12, Some(Lsn(0xB_0000_0000)))
    );
}

#[test]
fn other_names_are_no_files_of_maps() {
    for text in [
        "",
        "pg_xlog_.cbm",
        "pg_xlog_1_0000000002619030_0000000000000000",
        "pg_xlog_1_2619030_0000000000000000.cbm",
        "pg_xlog_+1_0000000002619030_0000000000000000.cbm",
        "pg_xlog_99999999999999999999_0000000002619030_0000000000000000.cbm",
        "pg_xlog_1_+000000002619030_0000000000000000.cbm",
        "pg_xlog_1_0000000000000000_0000000000000001.cbm",
        "pg_xlog_1_0000000000000002_0000000000000001.cbm",
        "pg_xlog_1_0000000002619030_0000000000000000.cbm.bak",
        "pg_merged_xlog_0000000004000028_000000000A000028_1795240831-640512.cbm",
    ] {
        assert_eq!(CbmFileName::parse(text), None, "{text}");
    }
}

#[test]
fn a_page_says_what_changed() {
    let builder = PageBuilder {
        blocks: &[3648, 3650, 7295],
        ..PageBuilder::default()
    };
    let bytes = builder.build();
    let page = CbmPage::parse(&bytes).unwrap();
    assert_eq!((page.start, page.end), (Lsn(100), Lsn(200)));
    let change = page.change.unwrap();
    let mut blocks = BlockSet::default();
    for (word, bits) in change.words() {
        blocks.insert_word(word, bits);
    }
    assert_eq!(blocks.iter().collect::<Vec<_>>(), [3648, 3650, 7295]);
    let empty = PageBuilder::empty((1, 2));
    assert_eq!(CbmPage::parse(&empty).unwrap().change, None);
}

#[test]
fn a_flipped_bit_anywhere_in_a_page_is_found() {
    let mut page = PageBuilder {
        blocks: &[1, 2],
        ..PageBuilder::default()
    }
    .build();
    for bit in 0..page.len() * 8 {
        page[bit / 8] ^= 1 << (bit % 8);
        let parsed = CbmPage::parse(&page);
        assert!(matches!(parsed, Err(CbmPageFault::Crc { .. })), "{bit}");
        page[bit / 8] ^= 1 << (bit % 8);
    }
    let short = CbmPage::parse(&page[..511]);
    assert_eq!(short, Err(CbmPageFault::Length { found: 511 }));
}

#[test]
fn values_that_no_server_writes_are_refused() {
    let good = PageBuilder::default();
    let blocks = PageBuilder {
        blocks: &[1],
        ..good
    };
    for (what, page) in [
        ("nothing", good),
        ("kind", PageBuilder { kind: 8, ..good }),
        ("kind with blocks", PageBuilder { kind: 2, ..blocks }),
        (
            "batch",
            PageBuilder {
                batch: (5, 5),
                ..blocks
            },
        ),
        ("fork", PageBuilder { fork: -2, ..blocks }),
        (
            "tablespace",
            PageBuilder {
                relation: (0, 1, 1),
                ..blocks
            },
        ),
        (
            "database",
            PageBuilder {
                relation: (7, 0, 1),
                ..blocks
            },
        ),
        (
            "truncation",
            PageBuilder {
                kind: TRUNCATED,
                ..good
            },
        ),
        (
            "no truncation",
            PageBuilder {
                kind: 2,
                truncated_at: 1,
                ..good
            },
        ),
        (
            "empty batch",
            PageBuilder {
                relation: (0, 0, 0),
                ..good
            },
        ),
    ] {
        assert!(CbmPage::parse(&page.build()).is_err(), "{what}");
    }
}

#[test]
fn marks_and_positions_that_no_server_writes_are_refused() {
    let blocks = PageBuilder {
        blocks: &[1],
        ..PageBuilder::default()
    };
    for (at, value) in [(4, 2_u8), (44, 1), (36, 5)] {
        let mut page = PageBuilder {
            relation: if at == 36 { (0, 0, 0) } else { (1663, 5, 7) },
            ..blocks
        }
        .build();
        page[at] = value;
        seal(&mut page);
        assert!(CbmPage::parse(&page).is_err(), "{at}");
    }
    let mut unfinished = PageBuilder::empty((1, 2));
    unfinished[4] = 0;
    seal(&mut unfinished);
    assert!(CbmPage::parse(&unfinished).is_err());
    // The last bitmap has bits for blocks that no number reaches.
    let last = u32::MAX / PAGE_BLOCKS * PAGE_BLOCKS;
    for (block, good) in [(u32::MAX - 1, true), (u32::MAX, false)] {
        let page = PageBuilder {
            blocks: &[last, block],
            ..blocks
        };
        assert_eq!(CbmPage::parse(&page.build()).is_ok(), good, "{block}");
    }
}

#[test]
fn block_zero_of_segment_page_storage_marks_a_block_before_it() {
    let page = PageBuilder {
        relation: (1663, 5, 2),
        bucket: 16384,
        ..PageBuilder::default()
    };
    assert_eq!(
        rows(&merged(&[page])),
        [("base/5/2".to_owned(), 0, None, vec![])]
    );
}

#[test]
fn batches_follow_each_other_without_a_gap() {
    let page = |batch, is_last| {
        PageBuilder {
            batch,
            is_last,
            blocks: &[1],
            ..PageBuilder::default()
        }
        .build()
    };
    let good = [
        page((10, 20), false),
        page((10, 20), true),
        PageBuilder::empty((20, 30)),
    ]
    .concat();
    let mut pages = CbmPages::new(name(10, Some(30)), &good);
    assert_eq!(pages.by_ref().filter(Result::is_ok).count(), 3);
    assert_eq!(pages.tracked(), Lsn(30));
    for (what, name, bytes) in [
        ("start", name(11, None), good.clone()),
        ("end", name(10, Some(31)), good.clone()),
        ("torn page", name(10, None), good[..good.len() - 1].to_vec()),
        ("unfinished", name(10, None), page((10, 20), false)),
        (
            "gap",
            name(10, None),
            [page((10, 20), true), page((21, 30), true)].concat(),
        ),
        (
            "mixed",
            name(10, None),
            [page((10, 20), false), page((10, 21), true)].concat(),
        ),
        ("nothing", name(10, Some(20)), Vec::new()),
    ] {
        let results: Vec<_> = CbmPages::new(name, &bytes).collect();
        assert!(results.last().unwrap().is_err(), "{what}");
        assert_eq!(
            results.iter().filter(|page| page.is_err()).count(),
            1,
            "{what}"
        );
    }
}

#[test]
fn a_file_being_written_counts_up_to_its_last_complete_batch() {
    let page = |batch, is_last| {
        PageBuilder {
            batch,
            is_last,
            blocks: &[1],
            ..PageBuilder::default()
        }
        .build()
    };
    let whole = [
        page((10, 20), true),
        page((20, 30), false),
        page((20, 30), true),
        page((30, 40), false),
    ]
    .concat();
    for length in 0..=whole.len() {
        let expected = match length / CBM_PAGE_BYTES {
            0 => None,
            1 | 2 => Some((CBM_PAGE_BYTES, Lsn(20))),
            _ => Some((3 * CBM_PAGE_BYTES, Lsn(30))),
        };
        assert_eq!(complete_bytes(&whole[..length]), expected, "{length}");
    }
    let mut torn = whole;
    torn[3 * CBM_PAGE_BYTES - 1] ^= 1;
    assert_eq!(complete_bytes(&torn), Some((CBM_PAGE_BYTES, Lsn(20))));
}

#[test]
fn dropping_a_relation_forgets_its_other_forks_but_not_its_columns() {
    let block = PageBuilder {
        blocks: &[4],
        ..PageBuilder::default()
    };
    let other = PageBuilder {
        relation: (1663, 5, 8),
        ..block
    };
    let mut pages = vec![other];
    pages.extend([0, 1, 2, 3, 4, 5].map(|fork| PageBuilder { fork, ..block }));
    pages.push(PageBuilder {
        kind: CREATED,
        blocks: &[],
        ..block
    });
    pages.push(PageBuilder {
        kind: DROPPED,
        blocks: &[],
        ..block
    });
    let expected = [
        ("base/5/7".to_owned(), DROPPED, None, vec![]),
        ("base/5/7_C1".to_owned(), 0, None, vec![4]),
        ("base/5/8".to_owned(), 0, None, vec![4]),
    ];
    assert_eq!(rows(&merged(&pages)), expected);
    // A fork by itself takes nothing along; what comes later counts again.
    pages.truncate(7);
    pages.push(PageBuilder {
        kind: DROPPED | CREATED,
        fork: 1,
        blocks: &[],
        ..block
    });
    pages.push(PageBuilder {
        fork: 1,
        blocks: &[9],
        ..block
    });
    let found = rows(&merged(&pages));
    assert_eq!(found.len(), 7);
    assert_eq!(found[0], ("base/5/7".to_owned(), 0, None, vec![4]));
    assert_eq!(
        found[1],
        ("base/5/7_fsm".to_owned(), DROPPED | CREATED, None, vec![9])
    );
}

#[test]
fn dropping_a_database_or_a_tablespace_forgets_what_is_in_it() {
    let at = |relation, kind| PageBuilder {
        relation,
        kind,
        blocks: if kind == 0 { &[4] } else { &[] },
        ..PageBuilder::default()
    };
    let mut pages = vec![
        at((1663, 5, 7), 0),
        at((1663, 6, 7), 0),
        at((9, 5, 7), 0),
        at((9, 6, 7), 0),
        at((9, 0, 0), CREATED),
        at((9, 5, 0), CREATED),
        at((9, 5, 0), DROPPED),
    ];
    let expected = [
        ("pg_tblspc/9/PG_x".to_owned(), CREATED, None, vec![]),
        ("pg_tblspc/9/PG_x/5".to_owned(), DROPPED, None, vec![]),
        ("pg_tblspc/9/PG_x/6/7".to_owned(), 0, None, vec![4]),
        ("base/5/7".to_owned(), 0, None, vec![4]),
        ("base/6/7".to_owned(), 0, None, vec![4]),
    ];
    assert_eq!(rows(&merged(&pages)), expected);
    pages.push(at((9, 0, 0), DROPPED));
    let map = merged(&pages);
    let found = rows(&map);
    assert_eq!(found.len(), 3);
    assert_eq!(
        found[0],
        ("pg_tblspc/9/PG_x".to_owned(), DROPPED, None, vec![])
    );
    let changed = map.into_changed_blocks();
    let file = changed.file("pg_tblspc/9/PG_9.2_201611171_node/6/7");
    assert!(matches!(file, FileChanges::All));
    let file = changed.file("base/6/8");
    assert!(matches!(file, FileChanges::None));
}

#[test]
fn truncating_forgets_blocks_behind_the_end_and_of_undo_before_the_beginning() {
    let block = PageBuilder {
        blocks: &[2, 3, 3000],
        ..PageBuilder::default()
    };
    let far = PageBuilder {
        blocks: &[3648],
        ..block
    };
    let cut = PageBuilder {
        kind: TRUNCATED,
        truncated_at: 3,
        blocks: &[],
        ..block
    };
    let again = PageBuilder {
        blocks: &[5],
        ..block
    };
    for (fork, kept) in [
        (0, vec![2, 5]),
        (2, vec![2, 5]),
        (1, vec![2, 3, 5, 3000, 3648]),
    ] {
        let pages = [block, far, cut, again].map(|page| PageBuilder { fork, ..page });
        assert_eq!(rows(&merged(&pages))[0].3, kept, "{fork}");
        assert_eq!(rows(&merged(&pages))[0].2, Some(3), "{fork}");
    }
    let undo = [block, far, cut, again].map(|page| PageBuilder {
        relation: (1663, 9, 0x1F),
        ..page
    });
    let expected = (
        "undo/permanent/0001F".to_owned(),
        1,
        Some(3),
        vec![3, 5, 3000, 3648],
    );
    assert_eq!(rows(&merged(&undo)), [expected]);
    // The map of relations of a database: no blocks, and nothing to copy.
    let map = merged(&[PageBuilder {
        relation: (1663, 5, 0),
        truncated_at: 0,
        ..cut
    }]);
    assert_eq!(
        rows(&map),
        [("base/5".to_owned(), TRUNCATED, Some(0), vec![])]
    );
    assert!(map.into_changed_blocks().is_empty());
}

#[test]
fn what_takes_too_much_memory_counts_as_changed_everywhere() {
    let mut map = CbmMap::new(1000);
    for relation in [7, 8, 9] {
        for block in [0, 4096, 8192] {
            let blocks = [block];
            let bytes = PageBuilder {
                relation: (1663, 5, relation),
                blocks: &blocks,
                ..PageBuilder::default()
            }
            .build();
            map.merge(&CbmPage::parse(&bytes).unwrap().change.unwrap());
        }
    }
    let changed = map.into_changed_blocks();
    assert!(changed.memory_bytes() <= 1000);
    assert!(matches!(changed.file("base/5/7"), FileChanges::Blocks(_)));
    assert!(matches!(changed.file("base/5/8"), FileChanges::All));
    assert!(matches!(changed.file("base/5/9"), FileChanges::All));
}

#[test]
fn paths_are_those_of_the_server() {
    let path = |relation, bucket, fork| {
        let (tablespace, database, relation) = relation;
        let relation = RelationNumbers {
            tablespace,
            database,
            relation,
            bucket,
        };
        RelationFork { relation, fork }.path("PG_x")
    };
    for (relation, bucket, fork, expected) in [
        ((1664, 0, 7), -1, 2, "global/7_vm"),
        ((1664, 0, 0), -1, 0, "global"),
        ((1663, 5, 7), 12, 3, "base/5/7_b12_bcm"),
        ((1663, 5, 2), 16384, 1, "base/5/2_fsm"),
        ((1663, 5, 7), -1, 4, "base/5/7_init"),
        ((77, 5, 7), -1, 1606, "pg_tblspc/77/PG_x/5/7_C1602"),
        ((1663, 9, 349_525), -1, 0, "undo/unlogged/55555"),
        ((1663, 10, 0xF_0000), -1, 0, "undo/temp/F0000.meta"),
    ] {
        assert_eq!(path(relation, bucket, fork), expected);
    }
}
