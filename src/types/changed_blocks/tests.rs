//! Tests of the set of changed blocks.

use super::*;
use proptest::prelude::{
    ProptestConfig, Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest,
};

fn changed() -> ChangedBlocks {
    ChangedBlocks::new(usize::MAX)
}

/// All blocks of a file, joined over `gap`; `None` for all.
fn ranges(changed: &ChangedBlocks, path: &str, gap: u32) -> Option<Vec<(u32, u32)>> {
    match changed.file(path) {
        FileChanges::None => Some(Vec::new()),
        FileChanges::All => None,
        FileChanges::Blocks(blocks) => {
            let pair = |range: Range<FileBlock>| (range.start.0, range.end.0);
            Some(blocks.ranges(gap).map(pair).collect())
        }
    }
}

fn fork(blocks: &[u32]) -> ForkChanges {
    ForkChanges {
        blocks: blocks.iter().copied().collect(),
        ..ForkChanges::default()
    }
}

#[test]
fn blocks_are_found_in_their_segment_files() {
    let mut changed = changed();
    for block in [0, 1, 131_071, 131_072, 262_143, u32::MAX - 1] {
        changed.insert("base/5/7", BlockNumber(block)).unwrap();
    }
    let found = |path| ranges(&changed, path, 0);
    assert_eq!(found("base/5/7"), Some(vec![(0, 2), (131_071, 131_072)]));
    assert_eq!(found("base/5/7.1"), Some(vec![(0, 1), (131_071, 131_072)]));
    assert_eq!(found("base/5/7.2"), Some(vec![]));
    assert_eq!(found("base/5/7.32767"), Some(vec![(131_070, 131_071)]));
    assert_eq!(found("base/5/8"), Some(vec![]));
    assert_eq!(found("base/6/7"), Some(vec![]));
    assert_eq!(found("base/5/7_vm"), Some(vec![]));
}

#[test]
fn segment_files_of_compressed_relations_are_shorter() {
    let mut changed = changed();
    for block in [130_047, 130_048, 131_072] {
        changed.insert("base/5/7", BlockNumber(block)).unwrap();
    }
    let found = |path| ranges(&changed, path, 0);
    assert_eq!(found("base/5/7_compress"), Some(vec![(130_047, 130_048)]));
    assert_eq!(
        found("base/5/7.1_compress"),
        Some(vec![(0, 1), (1024, 1025)])
    );
}

#[test]
fn tablespaces_undo_and_columns_are_found_by_their_files() {
    let mut changed = changed();
    for (path, block) in [
        ("pg_tblspc/77/PG_9.2_201611171_single/5/7", 3),
        ("undo/permanent/0000A", 130),
        ("undo/permanent/0000A.meta", 5),
        ("base/5/9_C2", 1),
        ("base/5/2", 4165),
        ("global/1234_vm", 0),
        ("base/5/7_b3", 4),
    ] {
        changed.insert(path, BlockNumber(block)).unwrap();
    }
    for (path, expected) in [
        (
            "pg_tblspc/77/PG_9.2_201611171_other/5/7",
            Some(vec![(3, 4)]),
        ),
        ("pg_tblspc/78/PG_9.2_201611171_single/5/7", Some(vec![])),
        ("undo/permanent/0000A.0000001", Some(vec![(2, 3)])),
        ("undo/permanent/0000A.0000000", Some(vec![])),
        ("undo/permanent/0000A.meta.0000001", Some(vec![(1, 2)])),
        ("base/5/9_C2.0", None),
        ("base/5/9_C2.17", None),
        ("base/5/9_C1.0", Some(vec![])),
        ("base/5/2", Some(vec![(4165, 4166)])),
        ("global/1234_vm", Some(vec![(0, 1)])),
        ("base/5/7_b3", Some(vec![(4, 5)])),
    ] {
        assert_eq!(ranges(&changed, path, 0), expected, "{path}");
    }
}

#[test]
fn files_that_nobody_tracks_may_have_changed_anywhere() {
    let changed = changed();
    for path in [
        "base/5/7_fsm",
        "base/5/7_bcm",
        "base/5/9_C1_bcm.1",
        "base/5/t3_7",
        "base/5/pg_filenode.map",
        "base/5/7.x",
        "base/5/7.99999999",
        "base/5/7.40000",
        "global/pg_control",
        "undo/undometa",
        "undo/permanent/00000.1",
        "undo/permanent/00000.FFFFFFFF",
        "pg_clog/0000",
        "postgresql.conf",
        "../base/5/7",
        "",
    ] {
        assert_eq!(ranges(&changed, path, 0), None, "{path}");
    }
}

#[test]
fn dropped_and_created_relations_count_everywhere() {
    for changes in [
        ForkChanges {
            dropped: true,
            ..fork(&[])
        },
        ForkChanges {
            created: true,
            ..fork(&[9])
        },
        ForkChanges {
            all: true,
            ..fork(&[])
        },
    ] {
        let mut changed = changed();
        changed.record("base/5/7", changes).unwrap();
        assert_eq!(ranges(&changed, "base/5/7.3", 0), None);
        assert_eq!(ranges(&changed, "base/5/7_compress", 0), None);
        assert_eq!(ranges(&changed, "base/5/7_vm", 0), Some(vec![]));
    }
}

#[test]
fn created_and_dropped_directories_count_with_all_their_files() {
    let created = || ForkChanges {
        created: true,
        ..fork(&[])
    };
    for (directory, inside, outside) in [
        ("base/5", "base/5/7", "base/55/7"),
        (
            "pg_tblspc/9/PG_x",
            "pg_tblspc/9/PG_x/5/7",
            "pg_tblspc/8/PG_x/5/7",
        ),
        (
            "pg_tblspc/9/PG_x/5",
            "pg_tblspc/9/PG_x/5/7.1",
            "pg_tblspc/9/PG_x/6/7",
        ),
        ("global", "global/7", "base/5/7"),
    ] {
        let mut changed = changed();
        changed.record(directory, fork(&[])).unwrap();
        assert!(changed.is_empty(), "{directory}");
        changed.record(directory, created()).unwrap();
        assert_eq!(ranges(&changed, inside, 0), None, "{directory}");
        assert_eq!(ranges(&changed, outside, 0), Some(vec![]), "{directory}");
    }
}

#[test]
fn behind_the_end_of_a_truncated_relation_everything_counts() {
    let at = |end, blocks: &[u32]| {
        let mut changed = changed();
        let changes = ForkChanges {
            truncated_at: Some(BlockNumber(end)),
            ..fork(blocks)
        };
        changed.record("base/5/7", changes.clone()).unwrap();
        changed.record("undo/permanent/00000", changes).unwrap();
        changed
    };
    let full = 131_072;
    let some = at(10, &[2, 12]);
    assert_eq!(ranges(&some, "base/5/7", 0), Some(vec![(2, 3), (10, full)]));
    assert_eq!(ranges(&some, "base/5/7.1", 0), None);
    let FileChanges::Blocks(blocks) = some.file("base/5/7") else {
        panic!("some blocks");
    };
    assert_eq!(
        (blocks.count(14), blocks.count(9), blocks.count(2)),
        (5, 1, 0)
    );
    let undo = ranges(&some, "undo/permanent/00000.0000000", 0);
    assert_eq!(undo, Some(vec![(2, 3), (12, 13)]));
    // It may have been shorter before: its last page changed, or vacuum was disturbed.
    assert_eq!(ranges(&at(10, &[9]), "base/5/7", 0), None);
    assert_eq!(ranges(&at(64, &[]), "base/5/7", 0), None);
    assert_eq!(ranges(&at(0, &[]), "base/5/7", 0), None);
    let next = at(full + 5, &[1]);
    assert_eq!(ranges(&next, "base/5/7", 0), Some(vec![(1, 2)]));
    assert_eq!(ranges(&next, "base/5/7.1", 0), Some(vec![(5, full)]));
    // Of two ends, neither is known to be the lower one all the time.
    let mut both = at(10, &[]);
    both.union(at(11, &[]));
    assert_eq!(ranges(&both, "base/5/7", 0), None);
}

#[test]
fn rows_of_one_relation_are_united() {
    let mut changed = changed();
    changed.record("base/5/7", fork(&[1, 2])).unwrap();
    changed.record("base/5/7", fork(&[2, 3, 200_000])).unwrap();
    assert_eq!(ranges(&changed, "base/5/7", 0), Some(vec![(1, 4)]));
    assert_eq!(
        ranges(&changed, "base/5/7.1", 0),
        Some(vec![(68_928, 68_929)])
    );
    let names: Vec<&str> = changed.forks().map(|(path, _)| path).collect();
    assert_eq!(names, ["base/5/7"]);
}

#[test]
fn hostile_paths_are_refused() {
    for path in [
        "",
        "/",
        "base",
        "base/5/",
        "base/5/../7",
        "base/x/7",
        "base/5/7/8",
        "/base/5/7",
        "base//7",
        "base/5/a\u{1b}[2J",
        "base/5/é",
        "pg_tblspc/9/7",
        "pg_tblspc/9/PG_x/../7",
        "undo/other/00000",
        "undo/permanent/../x",
        "pg_clog/0000",
    ] {
        let error = changed().insert(path, BlockNumber(0)).unwrap_err();
        assert_eq!(error, UnknownPath(path.to_owned()));
    }
    let text = UnknownPath("\u{1b}x".to_owned()).to_string();
    assert_eq!(text, "not the path of a relation: \"\\u{1b}x\"");
}

#[test]
fn memory_follows_changes_and_stays_below_its_limit() {
    let mut changed = ChangedBlocks::new(10_000);
    for block in 0..4096 * 18 {
        changed.insert("base/5/7", BlockNumber(block)).unwrap();
    }
    assert_eq!(ranges(&changed, "base/5/7", 0), None);
    assert_eq!(changed.memory_bytes(), 0);
    for block in 0..4096 * 2 {
        changed.insert("base/5/8", BlockNumber(block)).unwrap();
    }
    assert_eq!(ranges(&changed, "base/5/8", 0), Some(vec![(0, 8192)]));
    assert!(changed.memory_bytes() < 1200, "{}", changed.memory_bytes());
}

/// Blocks in runs and alone, near the borders of chunks and files.
fn blocks() -> impl Strategy<Value = Vec<u32>> {
    let run = (0_u32..300_000, 1_u32..300).prop_map(|(from, n)| (from..from + n).collect());
    let borders = [
        0, 63, 4095, 4096, 130_047, 130_048, 131_071, 131_072, 262_144,
    ];
    let alone = proptest::sample::select(borders.to_vec()).prop_map(|block| vec![block]);
    let high = (4_294_900_000..u32::MAX).prop_map(|block| vec![block]);
    let any = prop_oneof![4 => run, 2 => alone, 1 => high];
    proptest::collection::vec(any, 0..12).prop_map(|parts| parts.concat())
}

/// The same from plain numbers.
fn expected(oracle: &BTreeSet<u32>, first: u32, blocks: u32, gap: u32) -> Vec<(u32, u32)> {
    let end = u64::from(first) + u64::from(blocks);
    let mut joined: Vec<(u32, u32)> = Vec::new();
    for &block in oracle
        .range(first..)
        .take_while(|&&block| u64::from(block) < end)
    {
        let block = block - first;
        match joined.last_mut() {
            Some((_, end)) if block <= *end + gap => *end = block + 1,
            _ => joined.push((block, block + 1)),
        }
    }
    joined
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn files_have_the_blocks_that_were_put_in(
        ours in blocks(), theirs in blocks(), gap in 0_u32..50, segno in 0_u32..4,
    ) {
        let mut changed = changed();
        for &block in &ours {
            changed.insert("base/5/7", BlockNumber(block)).unwrap();
        }
        let mut other = ChangedBlocks::new(usize::MAX);
        other.record("base/5/7", fork(&theirs)).unwrap();
        changed.union(other);
        let oracle: BTreeSet<u32> = ours.iter().chain(&theirs).copied().collect();
        for (suffix, blocks) in [("", 131_072), ("_compress", 130_048)] {
            let number = if segno == 0 { String::new() } else { format!(".{segno}") };
            let path = format!("base/5/7{number}{suffix}");
            let wanted = expected(&oracle, segno * blocks, blocks, gap);
            prop_assert_eq!(ranges(&changed, &path, gap), Some(wanted));
        }
    }

    #[test]
    fn block_sets_behave_as_sets_of_numbers(
        ours in blocks(), cut in 0_u32..300_000, start in 0_u32..300_000,
    ) {
        let set: BlockSet = ours.iter().copied().collect();
        let oracle: BTreeSet<u32> = ours.iter().copied().collect();
        prop_assert_eq!(set.len(), oracle.len() as u64);
        prop_assert!(set.iter_from(start).eq(oracle.range(start..).copied()));
        prop_assert_eq!(set.contains(start), oracle.contains(&start));
        let mut low = set.clone();
        low.remove_from(cut);
        prop_assert!(low.iter().eq(oracle.range(..cut).copied()));
        let mut high = set.clone();
        high.remove_before(cut);
        prop_assert!(high.iter().eq(oracle.range(cut..).copied()));
        prop_assert_eq!(low.is_empty(), oracle.range(..cut).next().is_none());
        low.union(&high);
        prop_assert_eq!(low.memory_bytes(), set.memory_bytes());
        prop_assert_eq!(low, set);
    }
}
