//! An increment by tracking costs what changed: other files are not even opened, and of those that
//! changed nothing is stored but the blocks that did.

use crate::cluster::Cluster;
use crate::take_incremental_backup::changes::{assert_same_tree, copy_tree, empty_page};
use crate::take_incremental_backup::stored_blocks;
use crate::take_incremental_backup::tracking::{Happened, Tracker};
use gs_probackup::format::page::{PAGE_SIZE, page_checksum};
use gs_probackup::format::relation_path::{FileKind, Fork, classify};
use gs_probackup::types::BlockNumber;
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A stopped cluster whose changes are tracked, with a FULL backup.
struct Scene {
    cluster: Cluster,
    tracker: Tracker,
    full: String,
}

impl Scene {
    fn create(prepare: impl FnOnce(&Path)) -> Scene {
        let cluster = Cluster::create(2 << 20);
        let sample = &cluster.sample;
        prepare(&sample.data_directory);
        // Files as young as a backup are copied whatever is tracked.
        let mut touch = Command::new("find");
        touch.arg(cluster.scratch.path().join("source"));
        touch.args([
            "-type",
            "f",
            "-exec",
            "touch",
            "-d",
            "2 days ago",
            "{}",
            "+",
        ]);
        assert!(touch.status().unwrap().success());
        Scene {
            tracker: Tracker::begin(&sample.data_directory, sample.checkpoint),
            full: cluster.back_up(&["-j2"]),
            cluster,
        }
    }

    fn data(&self) -> PathBuf {
        self.cluster.sample.data_directory.clone()
    }

    /// Writes a block as a server does, and tracks it.
    fn write(&mut self, name: &str, block: u32) {
        let path = self.data().join(name);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false);
        let file = file.open(path).unwrap();
        let mut page = empty_page();
        page[4..8].copy_from_slice(&0x0700_0000_u32.to_le_bytes());
        let first = classify(name).segno.0 * 131_072;
        let checksum = page_checksum(&page, BlockNumber(first + block));
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
        file.write_all_at(&page, u64::from(block) * PAGE_SIZE as u64)
            .unwrap();
        self.tracker.changed(name, &[block]);
    }

    /// Takes the increment and restores it; what it stores of pages.
    fn take(&mut self) -> BTreeMap<String, Vec<u32>> {
        let id = self.back_up();
        let plain = self.cluster.scratch.path().join("plain");
        copy_tree(&self.cluster.scratch.path().join("source"), &plain);
        let (data, tablespace) = self.cluster.restore(&id, "restored");
        assert_same_tree(&plain.join("data"), &data);
        assert_same_tree(&plain.join("tablespace"), &tablespace);
        stored_blocks(&self.cluster.backup_path(&id))
    }

    fn back_up(&mut self) -> String {
        self.cluster.sample.start_and_stop().unwrap();
        self.tracker.reach(self.cluster.sample.checkpoint);
        let id = self.cluster.back_up(&["-b", "PTRACK", "-j2"]);
        let control = self.cluster.backup_path(&id).join("backup.control");
        let text = fs::read_to_string(control).unwrap();
        assert!(text.contains(&format!("parent-backup-id = '{}'", self.full)));
        id
    }
}

/// Sees which files are opened.
struct Watch {
    inotify: OwnedFd,
    directories: BTreeMap<i32, String>,
}

impl Watch {
    fn begin(data: &Path) -> Watch {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        let mut directories = BTreeMap::new();
        let mut pending = vec![(data.to_owned(), String::new())];
        while let Some((path, name)) = pending.pop() {
            let watch = inotify::add_watch(&inotify, &path, WatchFlags::OPEN).unwrap();
            directories.insert(watch, name.clone());
            for entry in fs::read_dir(&path).unwrap() {
                let entry = entry.unwrap();
                // Links to tablespaces too.
                if entry.path().is_dir() {
                    let below = format!("{name}{}/", entry.file_name().display());
                    pending.push((entry.path(), below));
                }
            }
        }
        Watch {
            inotify,
            directories,
        }
    }

    fn opened(&self) -> BTreeSet<String> {
        let mut opened = BTreeSet::new();
        let mut buffer = vec![MaybeUninit::uninit(); 1 << 16];
        let mut events = Reader::new(&self.inotify, &mut buffer);
        while let Ok(event) = events.next() {
            let lost = event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW);
            assert!(!lost, "more events than the kernel keeps");
            if let (Some(directory), Some(name)) =
                (self.directories.get(&event.wd()), event.file_name())
            {
                opened.insert(format!("{directory}{}", name.to_str().unwrap()));
            }
        }
        opened
    }
}

#[test]
fn files_that_did_not_change_are_not_opened() {
    let mut scene = Scene::create(|_| ());
    let (changed, dropped) = ("base/16384/16386", "base/16384/16404");
    scene.write(changed, 3);
    fs::remove_file(scene.data().join(dropped)).unwrap();
    scene.tracker.happened(dropped, Happened::Dropped, 0);
    let watch = Watch::begin(&scene.data());
    let id = scene.back_up();
    let opened = watch.opened();
    let stored = stored_blocks(&scene.cluster.backup_path(&id));
    assert_eq!(stored, [(changed.to_owned(), vec![3])].into());
    let kind = |name: &str| classify(name).kind;
    let is_large = |name: &&String| match kind(name) {
        // Of a packed file the last header is read, for its length.
        FileKind::Relation(file) => !file.compressed,
        _ => matches!(classify(name).fork, Some(Fork::Column(_))),
    };
    let opened: Vec<&String> = opened.iter().filter(is_large).collect();
    assert_eq!(opened, [changed]);
    // Such files there are.
    let columns = ["16420_C1.0", "16420_C2.0", "16420_C3.0"];
    let base = scene.data().join("base/16384");
    assert!(
        columns
            .iter()
            .all(|name| base.join(name).metadata().unwrap().len() > 8192)
    );
}

#[test]
fn column_that_is_tracked_as_changed_is_compared_whatever_its_time() {
    let mut scene = Scene::create(|_| ());
    let name = "base/16384/16420_C1.0";
    let path = scene.data().join(name);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 100).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 100).unwrap();
    drop(file);
    let mut touch = Command::new("touch");
    assert!(
        touch
            .args(["-d", "2 days ago"])
            .arg(&path)
            .status()
            .unwrap()
            .success()
    );
    scene.tracker.column_changed(16_384, 16_420, 1);
    scene.take();
}

#[test]
fn blocks_beside_the_boundary_of_segment_files_are_found_in_the_right_file() {
    const SEGMENT_BYTES: u64 = 1 << 30;
    let (first, second) = ("base/16384/40000", "base/16384/40000.1");
    let mut scene = Scene::create(|data| {
        // A hole, which costs nothing.
        let file = File::create(data.join(first)).unwrap();
        file.set_len(SEGMENT_BYTES).unwrap();
        let file = File::create(data.join(second)).unwrap();
        file.set_len(3 * PAGE_SIZE as u64).unwrap();
    });
    scene.write(first, 131_071);
    scene.write(second, 0);
    scene.write(second, 2);
    let stored = scene.take();
    let expected = [
        (first.to_owned(), vec![131_071]),
        (second.to_owned(), vec![0, 2]),
    ];
    assert_eq!(stored, expected.into());
}

#[test]
fn blocks_of_packed_relations_are_found_in_their_extents() {
    let mut scene = Scene::create(|_| ());
    let name = "base/16384/16410_compress";
    // As if something had changed in it: what is stored is what counts.
    scene.tracker.changed(name, &[1, 5]);
    let stored = scene.take();
    assert_eq!(stored, [(name.to_owned(), vec![1, 5])].into());
}
