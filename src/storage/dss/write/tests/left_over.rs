//! Devices that had another group before: old batches in the ring may have the lsn that is due.

use super::*;
use crate::format::dss::{NewGroup, RedoControl};
use crate::storage::dss::VolumeGroup;

/// Files that are made in each of the two lives of a device, a batch each.
const FILES: u64 = 40;

const AU: u64 = 2 << 20;

/// A group that lived on a device, which was then made anew as a server's tool does it: the ring is
/// left as it was.
fn second_life(directory: &Path, created: u64) -> (PathBuf, GroupSpec) {
    let (path, spec) = new_group(directory, AU, FILES + 10);
    let mut writer = open(&spec).unwrap();
    make_files(&mut writer, |_| {});
    drop(writer);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&vec![0; 2_048_000], 0).unwrap();
    let group = NewGroup {
        name: "data".to_owned(),
        device: path.display().to_string(),
        au_bytes: AU,
        size_bytes: std::fs::metadata(&path).unwrap().len(),
        time: (created, 0),
    };
    for (at, bytes) in group.writes().unwrap() {
        file.write_all_at(&bytes, at).unwrap();
    }
    (path, spec)
}

fn make_files(writer: &mut GroupWriter, mut after: impl FnMut(&mut GroupWriter)) {
    for number in 0..FILES {
        let name = format!("file{number}");
        writer.make_file(BlockId::ROOT, &name).unwrap();
        writer.sync().unwrap();
        after(writer);
    }
}

/// The first sector of the ring becomes zeros, and with it the batch that is due.
fn clear_first(path: &Path) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&[0; RedoControl::SECTOR_BYTES], 4 << 20)
        .unwrap();
}

fn pending(spec: &GroupSpec) -> Option<u64> {
    let group = VolumeGroup::open(spec, EngineChoice::Sync).unwrap();
    group.summary().pending_lsn
}

#[test]
fn batches_of_an_earlier_group_do_not_follow_those_of_a_new_one() {
    let scratch = tempfile::tempdir().unwrap();
    let (path, spec) = second_life(scratch.path(), 1_700_000_000);
    clear_first(&path);
    let mut writer = open(&spec).unwrap();
    make_files(&mut writer, |_| assert_eq!(pending(&spec), None));
    drop(writer);
    assert_eq!(read(&spec).len() as u64, FILES);
    check_elsewhere("check", &[&path]);
}

#[test]
fn a_batch_that_is_older_than_the_group_is_not_applied() {
    let scratch = tempfile::tempdir().unwrap();
    // In the year 2100.
    let (path, spec) = second_life(scratch.path(), 4_102_444_800);
    assert_eq!(pending(&spec), Some(1), "as a server would see it");
    let before = std::fs::read(&path).unwrap();
    let error = open(&spec).unwrap_err().to_string();
    assert!(error.contains("is older than the group"), "{error}");
    assert!(
        std::fs::read(&path).unwrap() == before,
        "nothing is written"
    );
    clear_first(&path);
    open(&spec).unwrap();
}

#[test]
fn what_follows_a_batch_that_a_crash_left_is_cleared_before_it_is_applied() {
    let scratch = tempfile::tempdir().unwrap();
    let (path, spec) = second_life(scratch.path(), 1_700_000_000);
    // The first batch of the earlier group stands for one of the new group, as a server that
    // crashed leaves it: nothing behind it was cleared.
    assert_eq!(pending(&spec), Some(1));
    drop(open(&spec).unwrap());
    assert_eq!(pending(&spec), None);
    assert_eq!(read(&spec).len(), 1);
    check_elsewhere("check", &[&path]);
}

#[test]
fn a_new_group_has_an_empty_ring_whatever_was_there() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("data0");
    for au_bytes in [AU, 64 << 20] {
        let mut dirty = vec![0xa5_u8; 200 << 20];
        dirty[..2_048_000].fill(0);
        std::fs::write(&path, &dirty).unwrap();
        let options = CreateOptions {
            name: "data".to_owned(),
            device: path.clone(),
            au_bytes,
            dss_home: None,
            time: (1_700_000_000, 0),
        };
        create(&options, EngineChoice::Sync).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let ring = (4_usize << 20).next_multiple_of(usize::try_from(au_bytes).unwrap());
        let end = ring + (64 << 20);
        assert!(bytes[ring..end].iter().all(|byte| *byte == 0));
        assert_eq!(bytes[end + usize::try_from(au_bytes).unwrap()], 0xa5);
    }
}
