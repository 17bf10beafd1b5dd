//! Tests of `backup_judge.rs`: pages that are not right and are not refused.

use super::judge::WrongPages;
use super::*;
use crate::io::BufferPool;
use crate::limits::{PAGE_REREADS_MAX, UNTOLD_REREADS_MAX, UNTOLD_REREADS_MIN};
use crate::pipeline::records::{PageCheck, check_page};
use crate::pipeline::space_maps::tests::{BEFORE, BLOCKS, FIRST, LATER, SETTLED, Space};
use crate::storage::Posix;
use crate::types::{BlockNumber, Lsn};
use std::path::Path;
use std::sync::atomic::Ordering;

#[test]
fn a_compressed_extent_of_segment_storage_is_kept_as_it_is() {
    let scratch = tempfile::tempdir().unwrap();
    let storage = Posix::open(scratch.path()).unwrap();
    let map = HeaderMapFile::new(storage.create(Path::new("map"), 0o600, false).unwrap());
    let kind = BackupKind::new(CompressAlgorithm::None, 1, 1, map);
    let pool = BufferPool::new(2);
    let (mut input, mut output) = (pool.try_take().unwrap(), pool.try_take().unwrap());
    input.set_range(0..EXTENT_BYTES_MAX);
    input.data_mut().fill(0xA5);
    input.data_mut()[EXTENT_BYTES_MAX - 8..].copy_from_slice(b"seg_comp");
    let mut process = |name: &str, attempt| {
        let mut extent = BackupExtent {
            name: name.into(),
            source: Arc::new(storage.create(Path::new("f"), 0o600, false).unwrap()),
            content: Content::Pages(SegmentNumber(0)),
            first: FileBlock(0),
            wanted: EXTENT_BYTES_MAX,
            present: Present::All,
            header: None,
            is_last: true,
            filter: PageFilter::ALL,
            is_tracked: false,
            maps: None,
            lead: 0,
        };
        kind.process(&mut extent, attempt, &mut input, Some(&mut output))
    };
    assert!(matches!(
        process("base/16384/16397", PAGE_REREADS_MAX),
        Err(PipelineError::CorruptPage { .. })
    ));
    let name = "base/16384/4.1";
    let Ok(Processed::Done(done)) = process(name, 0) else {
        panic!("it is not judged");
    };
    assert_eq!((done.end, done.records.len()), (128, 128));
    let page = &output.data()[PAGE_RECORD_HEADER_BYTES..][..PAGE_SIZE];
    let block = SegmentNumber(1).relation_block(FileBlock(0));
    let record = &done.records[0];
    let named = |name| PageCheck {
        name,
        compressed: false,
        page_checksums: true,
        knows_pages: true,
    };
    assert!(check_page(page, named(name), block, record).is_ok());
    let checked = PageHeaderRecord {
        checksum: 1,
        ..*record
    };
    assert!(check_page(page, named(name), block, &checked).is_err());
    assert!(check_page(page, named("base/16384/16397"), block, record).is_err());
}

/// A backup of file `2` of a space.
struct Judged {
    space: Space,
    kind: BackupKind,
    attempt: u32,
}

impl Judged {
    /// All that is in use is right.
    fn new() -> Judged {
        let space = Space::new();
        for block in FIRST..FIRST + 11 {
            space.put_page("2", block, BEFORE);
        }
        let storage = Posix::open(space.path()).unwrap();
        let map = HeaderMapFile::new(storage.create(Path::new("map"), 0o600, false).unwrap());
        Judged {
            space,
            kind: BackupKind::new(CompressAlgorithm::None, 1, 1, map),
            attempt: 0,
        }
    }

    /// What becomes of its pages.
    fn process(
        &self,
        settled: Option<Lsn>,
        is_tracked: bool,
    ) -> Result<Processed<BackupDone>, PipelineError> {
        let storage = Posix::open(self.space.path()).unwrap();
        let pool = BufferPool::new(2);
        let (mut input, mut output) = (pool.try_take().unwrap(), pool.try_take().unwrap());
        input.set_range(0..BLOCKS * PAGE_SIZE);
        let source = Arc::new(storage.open_read(Path::new("2"), false).unwrap());
        source.read_exact_at(input.data_mut(), 0).unwrap();
        let mut extent = BackupExtent {
            name: "base/16384/2".into(),
            source,
            content: Content::Pages(SegmentNumber(0)),
            first: FileBlock(0),
            wanted: BLOCKS * PAGE_SIZE,
            present: Present::All,
            header: None,
            is_last: true,
            filter: PageFilter::ALL,
            is_tracked,
            maps: Some(Arc::new(self.space.maps("2", settled))),
            lead: 0,
        };
        self.kind
            .process(&mut extent, self.attempt, &mut input, Some(&mut output))
    }

    fn kept(&self, settled: Option<Lsn>, is_tracked: bool) -> Option<KeptCount> {
        match self.process(settled, is_tracked) {
            Ok(Processed::Done(done)) => Some(done.kept),
            Ok(Processed::Reread(ranges)) => {
                let damaged = usize::try_from(DAMAGED).unwrap() * PAGE_SIZE;
                let [range] = &ranges[..] else {
                    panic!("{ranges:?}");
                };
                assert_eq!(*range, damaged..damaged + PAGE_SIZE);
                None
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A block of the segment.
const DAMAGED: u32 = FIRST + 9;
/// Blocks that are reserved, and behind the segment.
const UNUSED: KeptCount = KeptCount {
    unused: 2 + 64 - FIRST - 11,
    untold: 0,
    first_untold: None,
};

#[test]
fn pages_that_nobody_needs_are_stored_without_being_read_again() {
    let judged = Judged::new();
    for settled in [None, Some(SETTLED)] {
        for is_tracked in [false, true] {
            assert_eq!(judged.kept(settled, is_tracked), Some(UNUSED));
        }
    }
}

#[test]
fn a_damaged_page_of_a_segment_is_read_again_and_refused() {
    let mut judged = Judged::new();
    judged.space.write("2", DAMAGED, b"damage");
    for settled in [None, Some(SETTLED)] {
        judged.attempt = PAGE_REREADS_MAX - 1;
        assert_eq!(judged.kept(settled, false), None);
        judged.attempt += 1;
        let refused = judged.process(settled, false).map(|_| ()).unwrap_err();
        let place = format!("\"base/16384/2 block {DAMAGED}\"");
        assert!(refused.to_string().contains(&place), "{refused}");
    }
    // Without maps nothing wrong is kept.
    let extent = BackupExtent {
        name: "base/16384/2".into(),
        source: Arc::new(File::from_fds("f".into(), judged.space.open("2"), None)),
        content: Content::Pages(SegmentNumber(0)),
        first: FileBlock(0),
        wanted: 0,
        present: Present::All,
        header: None,
        is_last: true,
        filter: PageFilter::ALL,
        is_tracked: false,
        maps: None,
        lead: 0,
    };
    let zero = [0; PAGE_SIZE];
    let mut verdicts = vec![crate::format::page::verify_page(
        &[1; PAGE_SIZE],
        BlockNumber(0),
    )];
    verdicts.push(crate::format::page::verify_page(&zero, BlockNumber(1)));
    verdicts.push(verdicts[0]);
    let judge = |attempt| {
        let segno = SegmentNumber(0);
        let wrong = judged.kind.judge_wrong(&extent, segno, attempt, &verdicts);
        wrong.unwrap()
    };
    assert_eq!(judge(0), WrongPages::Reread(vec![0, 2]));
    let damaged = WrongPages::Damaged { index: 0, more: 1 };
    assert_eq!(judge(PAGE_REREADS_MAX), damaged);
}

#[test]
fn what_cannot_be_told_is_read_again_for_a_bounded_time_and_kept() {
    let mut judged = Judged::new();
    judged.space.put_segment(LATER, 11);
    for block in FIRST..FIRST + 11 {
        judged.space.put_page("2", block, LATER);
    }
    judged.space.write("2", DAMAGED, b"damage");
    let untold = KeptCount {
        untold: 1,
        first_untold: Some(FileBlock(DAMAGED)),
        ..UNUSED
    };
    let online = Some(SETTLED);
    for attempt in [0, PAGE_REREADS_MAX - 1] {
        judged.attempt = attempt;
        assert_eq!(judged.kept(online, false), None);
    }
    judged.attempt = PAGE_REREADS_MAX;
    assert_eq!(judged.kept(online, false), Some(untold));
    // The tracking of changes says that it was written.
    let refused = judged.process(online, true);
    assert!(matches!(refused, Err(PipelineError::CorruptPage { .. })));
    // All extents together are read again so often and no more.
    let rereads = &judged.kind.untold_rereads;
    assert_eq!(rereads.load(Ordering::Relaxed), 2);
    rereads.store(UNTOLD_REREADS_MAX, Ordering::Relaxed);
    judged.attempt = UNTOLD_REREADS_MIN - 1;
    assert_eq!(judged.kept(online, false), None);
    judged.attempt += 1;
    assert_eq!(judged.kept(online, false), Some(untold));
}
