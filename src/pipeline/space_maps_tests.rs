//! Tests of `space_maps.rs`.

use super::*;
use crate::format::page::page_checksum;
use crate::format::segment_space::{MORE_EXTENTS_MAGIC, SEGMENT_HEAD_MAGIC};
use crate::storage::Posix;

/// What no server wrote.
const OLD: u8 = 0xA5;
pub(in crate::pipeline) const SETTLED: Lsn = Lsn(100);
pub(in crate::pipeline) const BEFORE: Lsn = Lsn(50);
pub(in crate::pipeline) const LATER: Lsn = Lsn(200);
/// Blocks of each file.
pub(in crate::pipeline) const BLOCKS: usize = 64;
/// Where extents begin: behind one map page and one page of pointers.
pub(in crate::pipeline) const FIRST: u32 = 5;
/// The head of the segment.
const HEAD: u32 = FIRST;

/// A space in a directory: a segment of 11 blocks has the first two extents of file `2`.
pub(in crate::pipeline) struct Space {
    directory: tempfile::TempDir,
}

/// An empty page with a header.
fn page(lsn: Lsn) -> Vec<u8> {
    let mut page = vec![0; PAGE_SIZE];
    page[4..8].copy_from_slice(&u32::try_from(lsn.0).unwrap().to_le_bytes());
    for (at, value) in [
        (10, 0x40_u16),
        (12, 24),
        (14, 8192),
        (16, 8192),
        (18, 0x2008),
    ] {
        page[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    page
}

fn put(page: &mut [u8], at: usize, value: u32) {
    page[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn map_head(lsn: Lsn, size: u16, groups: u16) -> Vec<u8> {
    let mut page = page(lsn);
    page[24..26].copy_from_slice(&size.to_le_bytes());
    page[26..28].copy_from_slice(&groups.to_le_bytes());
    put(&mut page, 44, 3);
    page[52] = 1;
    page
}

fn map(lsn: Lsn, extents: &[usize]) -> Vec<u8> {
    let mut page = page(lsn);
    put(&mut page, 24, FIRST);
    for extent in extents {
        page[36 + extent / 8] |= 1 << (extent % 8);
    }
    page
}

fn pointers(lsn: Lsn, usages: &[u32]) -> Vec<u8> {
    let mut page = page(lsn);
    for (number, usage) in (0..).zip(usages) {
        put(
            &mut page,
            24 + 8 * number,
            usage << 28 | u32::try_from(number).unwrap(),
        );
        put(&mut page, 28 + 8 * number, HEAD);
    }
    page
}

fn segment(lsn: Lsn, extents: &[u32], blocks: u32) -> Vec<u8> {
    let mut page = page(lsn);
    page[24..32].copy_from_slice(&SEGMENT_HEAD_MAGIC.to_le_bytes());
    put(&mut page, 40, blocks);
    put(&mut page, 44, u32::try_from(extents.len()).unwrap());
    for (number, extent) in extents.iter().enumerate() {
        put(&mut page, 64 + 4 * number, *extent);
    }
    page
}

impl Space {
    pub(in crate::pipeline) fn new() -> Space {
        let space = Space {
            directory: tempfile::tempdir().unwrap(),
        };
        for name in ["1", "2", "2_fsm"] {
            let path = space.directory.path().join(name);
            std::fs::write(path, vec![OLD; BLOCKS * PAGE_SIZE]).unwrap();
        }
        space.put("1", 2, map_head(BEFORE, 1, 1));
        space.put("1", 3, map(BEFORE, &[0]));
        space.put("1", 4, pointers(BEFORE, &[1]));
        space.put("1", HEAD, segment(BEFORE, &[FIRST, FIRST + 8], 11));
        space.put("2", 2, map_head(BEFORE, 8, 1));
        space.put("2", 3, map(BEFORE, &[0, 1]));
        space.put("2", 4, pointers(BEFORE, &[6, 6]));
        space.put("2_fsm", 2, map_head(BEFORE, 8, 0));
        space
    }

    pub(in crate::pipeline) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(in crate::pipeline) fn open(&self, name: &str) -> std::os::fd::OwnedFd {
        std::fs::File::open(self.path().join(name)).unwrap().into()
    }

    /// An empty page that is right.
    pub(in crate::pipeline) fn put_page(&self, name: &str, block: u32, lsn: Lsn) {
        self.put(name, block, page(lsn));
    }

    /// The segment's head, as it is with so many blocks.
    pub(in crate::pipeline) fn put_segment(&self, lsn: Lsn, blocks: u32) {
        self.put("1", HEAD, segment(lsn, &[FIRST, FIRST + 8], blocks));
    }

    fn put(&self, name: &str, block: u32, mut page: Vec<u8>) {
        let checksum = page_checksum(&page, BlockNumber(block));
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
        self.write(name, block, &page);
    }

    pub(in crate::pipeline) fn write(&self, name: &str, block: u32, bytes: &[u8]) {
        let options = std::fs::File::options().write(true).clone();
        let file = options.open(self.directory.path().join(name)).unwrap();
        let offset = u64::from(block) * PAGE_SIZE as u64;
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, offset).unwrap();
    }

    pub(in crate::pipeline) fn maps(&self, name: &str, settled: Option<Lsn>) -> SpaceMaps {
        let storage = Arc::new(Posix::open(self.directory.path()).unwrap());
        let listed = format!("base/16384/{name}");
        SpaceMaps::new(storage, &listed, Path::new(name), settled, true).unwrap()
    }

    /// The blocks up to `end` that count as this, of file `name`.
    fn blocks(&self, name: &str, settled: Option<Lsn>, wanted: PageUse) -> Vec<u32> {
        let maps = self.maps(name, settled);
        let is_wanted = |block: &u32| maps.judge(BlockNumber(*block), false).unwrap() == wanted;
        (0..24).filter(is_wanted).collect()
    }
}

use PageUse::{Unknown, Unused, Used};

#[test]
fn blocks_of_maps_and_of_segments_are_in_use() {
    let space = Space::new();
    for settled in [None, Some(SETTLED)] {
        let used: Vec<u32> = (2..FIRST + 11).collect();
        assert_eq!(space.blocks("2", settled, Used), used, "{settled:?}");
        assert_eq!(space.blocks("2", settled, Unknown), [0; 0]);
        assert_eq!(space.blocks("1", settled, Used), [2, 3, 4, 5]);
        assert_eq!(space.blocks("1", settled, Unknown), [0; 0]);
        // A fork that was made and has no maps yet.
        assert_eq!(space.blocks("2_fsm", settled, Used), [2]);
        assert_eq!(space.blocks("2_fsm", settled, Unknown), [0; 0]);
    }
}

#[test]
fn only_files_of_spaces_have_maps() {
    let storage: Arc<dyn Storage> = Arc::new(Posix::open(Path::new("/")).unwrap());
    for (name, has_some) in [
        ("base/16384/5.3", true),
        ("base/16384/2_vm", true),
        ("base/16384/6", false),
        ("base/16384/2_bcm", false),
        ("global/2", false),
        ("pg_location/ts/PG_9.2_201611171/16384/3", true),
        ("pg_location/ts/3", false),
    ] {
        let maps = SpaceMaps::new(storage.clone(), name, Path::new(name), None, true);
        assert_eq!(maps.is_some(), has_some, "{name}");
    }
    let name = "base/1/5_fsm.3";
    let maps = SpaceMaps::new(storage, name, Path::new(name), None, true).unwrap();
    assert_eq!(maps.path, Path::new("base/1/5_fsm"));
    assert_eq!(maps.heads, Path::new("base/1/1"));
}

#[test]
fn a_segment_that_grew_since_leaves_open_what_no_later_block_proves() {
    let space = Space::new();
    space.put("1", HEAD, segment(LATER, &[FIRST, FIRST + 8], 11));
    space.put("2", FIRST + 3, page(BEFORE));
    space.put("2", FIRST + 9, page(LATER));
    let online = Some(SETTLED);
    assert_eq!(space.blocks("2", online, Used), [2, 3, 4, 5, 6, 7]);
    let unknown: Vec<u32> = (FIRST + 3..FIRST + 11).collect();
    assert_eq!(space.blocks("2", online, Unknown), unknown);
    assert_eq!(space.blocks("2", None, Unknown), [0; 0]);
    // What the server tracked before it was written before.
    let maps = space.maps("2", online);
    let judge = |block| maps.judge(BlockNumber(block), true).unwrap();
    assert_eq!(judge(FIRST + 8), Used);
    // It may belong to a segment that is gone and was never written.
    assert_eq!(judge(FIRST + 11), Unused);
    assert_eq!(judge(40), Unused);
}

#[test]
fn the_block_that_a_file_grew_by_last_is_tracked_without_being_written() {
    let space = Space::new();
    // The last extent before the file grew again, of a segment that has changed since; its pointer
    // is on the third of four pages.
    let (first, extent) = (8, 2046);
    let mut bits = map(BEFORE, &[extent]);
    put(&mut bits, 24, first);
    space.put("2", 3, bits);
    let pointer = |lsn| {
        let mut pointers = page(lsn);
        put(
            &mut pointers,
            24 + 8 * (extent - 2 * 1021),
            USAGE_DATA << 28,
        );
        put(&mut pointers, 28 + 8 * (extent - 2 * 1021), HEAD);
        pointers
    };
    space.put("2", 6, pointer(BEFORE));
    let end = space::GROWTH_BLOCKS;
    space.put("1", HEAD, segment(LATER, &[end - 8], 8));
    let judge = |block| {
        let maps = space.maps("2", Some(SETTLED));
        maps.judge(BlockNumber(block), true).unwrap()
    };
    assert_eq!(judge(end - 1), Unknown);
    assert_eq!(judge(end - 2), Used);
    // An extent that was given away since may have been named for who had it before.
    space.put("2", 6, pointer(LATER));
    assert_eq!(judge(end - 2), Unknown);
}

#[test]
fn maps_that_were_changed_since_prove_less() {
    let space = Space::new();
    let online = Some(SETTLED);
    // A head is written with the change that hands its extent out, which was before.
    space.put("1", 3, map(LATER, &[0, 1]));
    space.put("1", 4, pointers(BEFORE, &[1]));
    assert_eq!(space.blocks("1", online, Used), [2, 3, 4, 5]);
    assert_eq!(space.blocks("1", online, Unknown), [6]);
    space.put("1", 4, pointers(LATER, &[1, 1]));
    assert_eq!(space.blocks("1", online, Used), [2, 3, 4]);
    // The segment was as long before, whatever the map says now.
    space.put("2", 3, map(LATER, &[0, 1]));
    space.put("2", 4, pointers(LATER, &[6, 6]));
    let used: Vec<u32> = (2..FIRST + 11).collect();
    assert_eq!(space.blocks("2", online, Used), used);
    // But what the map gives to nobody now is of no use any more.
    space.put("2", 3, map(LATER, &[1]));
    assert_eq!(space.blocks("2", online, Used)[..4], [2, 3, 4, FIRST + 8]);
    // Maps that are perhaps new themselves.
    space.put("2", 2, map_head(LATER, 8, 1));
    assert_eq!(space.blocks("2", online, Unknown), [3, 4]);
    space.put("2", 3, map(BEFORE, &[1]));
    assert_eq!(space.blocks("2", online, Unknown), [4]);
}

#[test]
fn damage_of_the_maps_speaks_for_no_block() {
    for (name, block, open) in [
        ("2", 2, 3..24),
        ("2", 3, 4..24),
        ("2", 4, FIRST..FIRST + 16),
        ("1", HEAD, FIRST..FIRST + 16),
    ] {
        let space = Space::new();
        space.write(name, block, &[OLD; 100]);
        let open: Vec<u32> = open.collect();
        let known = space.blocks("2", Some(SETTLED), Unknown);
        let own = |at: &u32| name != "2" || *at != block;
        assert!(
            known.iter().copied().filter(own).eq(open.iter().copied()),
            "{name} {block}: {known:?}"
        );
        assert_eq!(space.blocks("2", None, Unknown), [0; 0], "{name} {block}");
        let used = space.blocks("2", None, Used);
        assert!(open.iter().all(|at| used.contains(at)), "{name} {block}");
    }
}

#[test]
fn maps_that_contradict_each_other_leave_a_block_open() {
    let space = Space::new();
    // The extent is not the one that the segment has.
    space.put("1", HEAD, segment(BEFORE, &[FIRST, FIRST + 16], 11));
    let second: Vec<u32> = (FIRST + 8..FIRST + 16).collect();
    assert_eq!(space.blocks("2", None, Unknown), second);
    // It is no head.
    space.put("1", HEAD, page(BEFORE));
    assert_eq!(space.blocks("2", None, Unknown).len(), 16);
    // The extent holds no data.
    let space = Space::new();
    space.put("2", 4, pointers(BEFORE, &[6, 0]));
    assert_eq!(space.blocks("2", None, Unknown), second);
}

#[test]
fn extents_of_large_segments_are_found_in_pages_of_their_own() {
    let space = Space::new();
    let mut pointer = pointers(BEFORE, &[6]);
    put(&mut pointer, 24, 6 << 28 | 1256);
    space.put("2", 4, pointer);
    let mut head = segment(BEFORE, &[], u32::MAX);
    put(&mut head, 44, 1257);
    put(&mut head, 5084, FIRST + 1);
    space.put("1", HEAD, head);
    let mut more = page(BEFORE);
    more[24..32].copy_from_slice(&MORE_EXTENTS_MAGIC.to_le_bytes());
    put(&mut more, 32 + 4, FIRST);
    space.put("1", FIRST + 1, more);
    let used = space.blocks("2", None, Used);
    assert_eq!(used[3..], (FIRST..FIRST + 8).collect::<Vec<_>>());
}
