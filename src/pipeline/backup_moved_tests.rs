//! Tests of `backup.rs`: files whose bytes go to other files while they are read.

use super::*;
use crate::io::{BufferPool, EngineChoice};
use crate::limits::PAGE_REREADS_MAX;
use crate::monitor::CollectingMonitor;
use crate::pipeline::{Settings, transfer};
use crate::storage::Posix;
use crate::storage::dss::{DssTree, GroupSpec};
use crate::testing::dss_image::Image;
use crate::types::Lsn;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const OWN: u8 = 0x50;
const OTHERS: u8 = 0x51;
const BYTES: u64 = 1_900_000;

/// A volume with one file that a server works on, and where its copy goes.
struct Place {
    scratch: tempfile::TempDir,
    image: Image,
    source: Arc<dyn Storage>,
    target: Arc<dyn Storage>,
}

impl Place {
    fn new() -> Place {
        let scratch = tempfile::tempdir().unwrap();
        let image = Image::create(&scratch.path().join("image")).unwrap();
        image.extend_plain(OWN).unwrap();
        let spec = GroupSpec {
            name: "data".to_owned(),
            devices: vec![image.path().to_owned()],
        };
        Place {
            source: Arc::new(DssTree::open(&[spec], "+data").unwrap()),
            target: Arc::new(Posix::open(scratch.path()).unwrap()),
            scratch,
            image,
        }
    }

    fn kind(&self) -> BackupKind {
        let map = self.target.create(Path::new("map"), 0o600, false).unwrap();
        BackupKind::new(CompressAlgorithm::None, 1, 1, HeaderMapFile::new(map))
    }

    fn item(&self, content: Content, selection: Selection) -> BackupItem {
        BackupItem {
            index: 5,
            name: "base/1/1".to_owned(),
            source: self.source.clone(),
            source_path: "plain".into(),
            target: self.target.clone(),
            target_path: "copy".into(),
            target_mode: 0o600,
            size: BYTES,
            content,
            selection,
            maps: None,
        }
    }

    fn copy(&self) -> Option<Vec<u8>> {
        std::fs::read(self.scratch.path().join("copy")).ok()
    }
}

/// Takes a file through all stages by hand; `disturb` is called before each read.
fn by_hand(kind: &BackupKind, item: BackupItem, disturb: impl Fn(u64)) {
    let pool = BufferPool::new(2);
    let mut file = kind.open(item).unwrap().unwrap();
    while let Some((range, mut extent)) = kind.next_extent(&mut file) {
        let mut input = pool.try_take().unwrap();
        let mut output = range.needs_output.then(|| pool.try_take().unwrap());
        input.set_range(0..range.length);
        for attempt in 0.. {
            disturb(range.offset);
            let source = &range.source;
            let read = source
                .read_up_to_at(input.data_mut(), range.offset)
                .unwrap();
            input.set_range(0..read);
            let processed = kind.process(&mut extent, attempt, &mut input, output.as_mut());
            match processed.unwrap() {
                Processed::Done(done) => {
                    let write = kind.collect(&mut file, done, input, output).unwrap();
                    if let Some(Write { file, buffer, runs }) = write {
                        for (offset, range) in runs {
                            file.write_all_at(&buffer.whole()[range], offset).unwrap();
                        }
                    }
                    break;
                }
                Processed::Reread(_) => range.source.look_again().unwrap(),
                Processed::Fetch(_) => panic!("all of it was read"),
            }
            assert!(attempt <= PAGE_REREADS_MAX);
        }
    }
    kind.complete(&mut file).unwrap();
    kind.seal(&mut file).unwrap();
    kind.finish(file).unwrap();
}

#[test]
fn a_file_that_was_moved_while_it_was_read_is_to_be_copied_again() {
    for content in [Content::Plain, Content::Pages(SegmentNumber(0))] {
        let place = Place::new();
        let kind = place.kind();
        let item = |selection| place.item(content, selection);
        // Its unit goes to another file, whose bytes are no pages, before anything is read.
        for selection in [Selection::All, Selection::UnlessCrc(1)] {
            place.image.extend_plain(OWN).unwrap();
            by_hand(&kind, item(selection), |offset| {
                if offset == 0 {
                    place.image.truncate_plain(OTHERS).unwrap();
                }
            });
            assert_eq!(kind.take_moved(), [5], "{content:?}");
            assert!(kind.take_moved().is_empty());
            assert!(kind.take_differing().is_empty());
            assert_eq!(place.copy(), None);
        }
        // The next time it is as short as it is.
        by_hand(&kind, item(Selection::All), |_| {});
        assert!(kind.take_moved().is_empty());
        let (results, _) = kind.into_results();
        assert_eq!(results.len(), 1);
        let result = &results[0];
        assert_eq!((result.index, result.size, result.vanished), (5, 0, false));
        assert_eq!(place.copy(), None);
    }
}

#[test]
fn pages_that_were_kept_are_counted_once_however_often_a_file_is_copied() {
    let place = Place::new();
    let kind = place.kind();
    // Its pages are not right, and neither are those that tell of them.
    let behind_map_head = Selection::Blocks(std::iter::once(3..u32::MAX).collect());
    let item = || {
        let maps = SpaceMaps::new(
            place.source.clone(),
            "base/1/2",
            Path::new("plain"),
            Some(Lsn(1)),
            true,
        );
        BackupItem {
            maps: maps.map(Arc::new),
            ..place.item(Content::Pages(SegmentNumber(0)), behind_map_head.clone())
        }
    };
    let is_there = std::cell::Cell::new(true);
    by_hand(&kind, item(), |offset| {
        if offset > BYTES / 2 && is_there.replace(false) {
            place.image.truncate_plain(OTHERS).unwrap();
        }
    });
    assert!(!is_there.get());
    assert_eq!(kind.take_moved(), [5]);
    assert_eq!(kind.take_kept(), []);
    place.image.extend_plain(OWN).unwrap();
    by_hand(&kind, item(), |_| {});
    assert!(kind.take_moved().is_empty());
    let kept = kind.take_kept();
    assert_eq!(kept.len(), 1);
    let pages = u32::try_from(BYTES / PAGE_SIZE as u64).unwrap();
    assert_eq!(kept[0].count.untold, pages - 3);
    assert_eq!(kept[0].count.first_untold, Some(FileBlock(3)));
}

#[test]
fn a_file_that_got_its_unit_back_before_the_end_was_moved_all_the_same() {
    let place = Place::new();
    let kind = place.kind();
    by_hand(
        &kind,
        place.item(Content::Plain, Selection::All),
        |offset| {
            if offset == 0 {
                place.image.truncate_plain(OTHERS).unwrap();
            } else {
                place.image.extend_plain(OWN).unwrap();
            }
        },
    );
    assert_eq!(kind.take_moved(), [5]);
    assert!(kind.into_results().0.is_empty());
    assert_eq!(place.copy(), None);
}

#[test]
fn beside_a_busy_server_nothing_of_another_file_is_ever_stored() {
    let rounds = std::env::var("GS_DSS_ROUNDS").ok();
    let rounds: u64 = rounds.map_or(15, |text| text.parse().unwrap());
    let place = Place::new();
    let settings = Settings {
        engine: EngineChoice::Auto,
        threads: 1,
        sync: false,
        cancel: Arc::default(),
    };
    let (done, patience) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut whole = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut rest = 0;
            while !done.load(Ordering::Relaxed) {
                place.image.truncate_plain(OTHERS).unwrap();
                place.image.extend_plain(OWN).unwrap();
                rest = (rest + 5) % 8;
                let patience = patience.load(Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_millis(rest + patience));
            }
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0.. {
                if round >= rounds {
                    if whole > 0 {
                        break;
                    }
                    patience.fetch_add(5, Ordering::Relaxed);
                }
                let kind = place.kind();
                let item = place.item(Content::Plain, Selection::All);
                let items = std::iter::once(item);
                let moved = transfer(&kind, items, &settings, &CollectingMonitor::default());
                // Metadata that change whenever they are read are a failure, never a wrong byte.
                if moved.is_err() {
                    continue;
                }
                let moved = kind.take_moved();
                let (results, _) = kind.into_results();
                assert_eq!(moved.len() + results.len(), 1);
                let Some(result) = results.first() else {
                    assert_eq!(place.copy(), None);
                    continue;
                };
                let copy = place.copy().unwrap_or_default();
                assert_eq!(copy.len() as u64, result.size);
                whole += u64::from(!copy.is_empty());
                assert_eq!(copy.iter().find(|byte| **byte != OWN), None);
                let _ = std::fs::remove_file(place.scratch.path().join("copy"));
            }
        }));
        done.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    assert!(whole > 0);
}
