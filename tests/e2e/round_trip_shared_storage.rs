//! The whole way of a cluster on shared storage, with no server of storage: backed up from its
//! volumes whole and by what changed, restored to others, merged, restored again. An independent
//! tool writes the first volumes and looks at the last ones.

use crate::cluster::INSTANCE;
use crate::shared_cluster::{Seen, SharedCluster, Volumes};
use crate::support::{Output, assert_success, bare, command, run};
use crate::take_full_backup::check_independently;
use crate::take_incremental_backup::tracking::Tracker;
use crate::use_block_devices::Loop;
use gs_probackup::format::page::{PAGE_SIZE, page_checksum};
use gs_probackup::types::BlockNumber;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Paths of a group with what is there.
pub(crate) type Tree = BTreeMap<String, Seen>;

/// Bytes of an image.
const IMAGE_BYTES: u64 = 1 << 30;

/// Bytes that whoever makes a group on a used device zeroes first.
const HEAD_BYTES: usize = 2_048_000;

/// Changes blocks of the largest relation of a database and grows it by one; returns its path.
fn change(cluster: &SharedCluster, tracker: &mut Tracker) -> String {
    let directory = cluster.group("data").join("base/16384");
    let relations = fs::read_dir(directory).unwrap().filter_map(|entry| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let is_table = name.parse::<u32>().is_ok_and(|number| number >= 16_384);
        is_table.then(|| (entry.metadata().unwrap().len(), name))
    });
    let (_, name) = relations.max().expect("the sample has relations");
    let relation = format!("base/16384/{name}");
    let path = cluster.group("data").join(&relation);
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() / PAGE_SIZE;
    bytes.extend_from_within(0..PAGE_SIZE);
    let blocks = [0, 3, last].map(|block| u32::try_from(block).unwrap());
    for block in blocks {
        let page = &mut bytes[block as usize * PAGE_SIZE..][..PAGE_SIZE];
        page[PAGE_SIZE - 1] ^= 1;
        let checksum = page_checksum(page, BlockNumber(block));
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
    }
    fs::write(&path, &bytes).unwrap();
    tracker.changed(&relation, &blocks);
    relation
}

/// What both groups hold, but for what a restore makes anew.
pub(crate) fn trees(volumes: &Volumes) -> [Tree; 2] {
    ["data", "log"].map(|group| {
        let mut tree = volumes.seen(group);
        // No instance is in the cluster yet, and nothing waits for its archive.
        tree.retain(|path, _| path != "pg_control" && !path.ends_with("archive_status"));
        tree
    })
}

pub(crate) fn assert_same(expected: &[Tree; 2], found: &[Tree; 2], when: &str) {
    for (expected, found) in expected.iter().zip(found) {
        for (path, seen) in expected {
            assert_eq!(found.get(path), Some(seen), "{when}: {path}");
        }
        for path in found.keys() {
            assert!(expected.contains_key(path), "{when}: {path} is too much");
        }
    }
}

/// New groups, on devices with old bytes everywhere but in the head if they are `dirty`.
pub(crate) fn create_groups(directory: &Path, dirty: bool) -> Volumes {
    let volumes = Volumes::new(directory, None).expect("there is the tool");
    for name in ["data", "log"] {
        let image = volumes.image(name);
        let file = fs::File::create(&image).unwrap();
        file.set_len(IMAGE_BYTES).unwrap();
        if dirty {
            let mut old = vec![0; 1 << 20];
            blake3::Hasher::new().finalize_xof().fill(&mut old);
            for at in (0..IMAGE_BYTES / 2).step_by(old.len()) {
                file.write_all_at(&old, at).unwrap();
            }
            file.write_all_at(&vec![0; HEAD_BYTES], 0).unwrap();
        }
        create_group(name, &image);
    }
    volumes
}

fn create_group(name: &str, device: &Path) {
    let group = format!("--vg={name}={}", device.display());
    let mut cv = bare(&["dss", "cv", "--au-size=4MB", &group]);
    assert_success(&run(cv.env_remove("DSS_HOME")));
}

/// Restores to groups, and looks at them and at the files of the instance.
fn restore(cluster: &SharedCluster, id: &str, volumes: &Volumes, directory: &Path) -> [Tree; 2] {
    let data = directory.join("pgdata").display().to_string();
    restore_to(cluster, id, &volumes.options(), &data);
    for group in ["data", "log"] {
        volumes.tool("check", group, &[]);
    }
    let version = fs::read(directory.join("pgdata/base/1/PG_VERSION")).unwrap();
    assert_eq!(version, b"of the instance\n");
    trees(volumes)
}

fn restore_to(cluster: &SharedCluster, id: &str, groups: &[String], data: &str) {
    let words = ["restore", "--instance", INSTANCE, "-i", id, "-D", data];
    let mut restore = command(&words, &cluster.catalog);
    restore.arg("--no-sync").args(groups);
    let output = run(restore.env_remove("DSS_HOME"));
    assert_success(&output);
    assert_eq!(warnings_of_home(&output), 1, "{}", output.stderr);
}

/// How often it is said that no server could be asked.
fn warnings_of_home(output: &Output) -> usize {
    output.stderr.matches("DSS_HOME is not set").count()
}

#[test]
fn block_devices_are_backed_up_and_restored_to_as_images_are() {
    let Some(cluster) = SharedCluster::create(1 << 20) else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let volumes = create_groups(scratch.path(), true);
    let attach = |volumes: &Volumes| -> Option<[Loop; 2]> {
        let [data, log] = ["data", "log"].map(|group| Loop::attach(&volumes.image(group)));
        Some([data?, log?])
    };
    let (Some(sources), Some(targets)) = (attach(&cluster), attach(&volumes)) else {
        return;
    };
    let options = |devices: &[Loop; 2]| -> Vec<String> {
        let groups = ["data", "log"].iter().zip(devices);
        let option =
            |(group, device): (&&str, &Loop)| format!("--vg={group}={}", device.0.display());
        groups.map(option).collect()
    };
    let words = [
        "backup",
        "--offline",
        "-b",
        "FULL",
        "--no-sync",
        "--instance",
        INSTANCE,
    ];
    let mut backup = command(&words, &cluster.catalog);
    let output = run(backup.args(options(&sources)).env_remove("DSS_HOME"));
    assert_success(&output);
    let id = output.stderr.lines().find_map(|line| {
        line.strip_prefix("INFO: Backup ")?
            .strip_suffix(" completed")
    });
    let data = scratch.path().join("pgdata").display().to_string();
    let words = [
        "restore",
        "--instance",
        INSTANCE,
        "-i",
        id.unwrap(),
        "-D",
        &data,
    ];
    let mut restore = command(&words, &cluster.catalog);
    // A home of a server that never ran.
    let restored = run(restore
        .args(options(&targets))
        .env("DSS_HOME", scratch.path()));
    assert_success(&restored);
    assert_eq!(warnings_of_home(&restored), 0, "{}", restored.stderr);
    drop((sources, targets));
    let (expected, found) = (trees(&cluster), trees(&volumes));
    assert_same(&without_old_wal(&expected, &found), &found, "devices");
    for group in ["data", "log"] {
        volumes.tool("check", group, &[]);
    }
}

#[test]
fn a_cluster_comes_back_whole_and_changed_before_and_after_a_merge() {
    let Some(mut cluster) = SharedCluster::create(2 << 20) else {
        return;
    };
    fs::create_dir_all(cluster.data().join("pg_cbm")).unwrap();
    let mut tracker = Tracker::begin(cluster.data(), cluster.sample.checkpoint);
    let full = cluster.back_up("FULL", &["--compress-algorithm=lz4"]);
    let first = trees(&cluster);
    let relation = change(&cluster, &mut tracker);
    cluster.start_and_stop();
    tracker.reach(cluster.sample.checkpoint);
    let increment = cluster.back_up("PTRACK", &[]);
    let second = trees(&cluster);
    assert_ne!(first[0][&relation], second[0][&relation]);
    let scratch = tempfile::tempdir().unwrap();
    let place = |name: &str, dirty| {
        let directory = scratch.path().join(name);
        fs::create_dir(&directory).unwrap();
        (create_groups(&directory, dirty), directory)
    };
    let (volumes, directory) = place("first", false);
    let found = restore(&cluster, &full, &volumes, &directory);
    assert_same(&without_old_wal(&first, &found), &found, "the FULL backup");
    let (volumes, directory) = place("second", true);
    let found = restore(&cluster, &increment, &volumes, &directory);
    assert_same(&without_old_wal(&second, &found), &found, "the increment");
    assert_success(&cluster.run(&["merge", "-i", &increment], &[]));
    assert!(!cluster.backup_path(&full).exists());
    check_independently(&cluster.backup_path(&increment));
    let (volumes, directory) = place("merged", true);
    let found = restore(&cluster, &increment, &volumes, &directory);
    assert_same(&without_old_wal(&second, &found), &found, "merged");
    assert_success(&cluster.run(&["validate"], &[]));
}

/// WAL from before a backup is of no use to it; the segment that it needs must be there.
pub(crate) fn without_old_wal(expected: &[Tree; 2], found: &[Tree; 2]) -> [Tree; 2] {
    let mut expected = expected.clone();
    let is_wal = |path: &str| path.starts_with("pg_xlog/");
    expected[1].retain(|path, _| !is_wal(path) || found[1].contains_key(path));
    assert!(expected[1].keys().any(|path| is_wal(path)));
    expected
}
