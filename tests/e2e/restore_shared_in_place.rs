//! Clusters on volumes are brought to another state in place: by WAL positions, over whatever is
//! there instead of the backup's files, and again after the run was killed. Clusters of the older
//! layout come back, too, and what is of other instances stays.

use crate::chain::copy_tree;
use crate::cluster::INSTANCE;
use crate::faults::{Fault, Planned, meet, steps_of};
use crate::restore_shared_volumes::{Volumes, assert_same, chain};
use crate::round_trip_shared_storage::{self as round_trip, without_old_wal};
use crate::shared_cluster::SharedCluster;
use crate::support::{assert_success, command, run};
use gs_probackup::format::page::{PAGE_SIZE, page_checksum};
use gs_probackup::format::shared_control::parse_shared;
use gs_probackup::storage::Storage;
use gs_probackup::storage::dss::{DssWriteTree, GroupSpec, WriteOptions};
use gs_probackup::types::BlockNumber;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Opens a group to change it, as whoever uses it did.
fn open(name: &str, image: &Path) -> DssWriteTree {
    let spec = GroupSpec {
        name: name.to_owned(),
        devices: vec![image.to_owned()],
    };
    let options = WriteOptions {
        dss_home: None,
        quiet: Duration::ZERO,
    };
    DssWriteTree::open(&[spec], &options, &format!("+{name}")).unwrap()
}

fn put(tree: &DssWriteTree, path: &str, bytes: &[u8]) {
    let file = tree.create(Path::new(path), 0o600, false).unwrap();
    file.write_all_at(bytes, 0).unwrap();
}

/// Changes pages of a relation as a server does that goes on after this position.
fn change_pages(path: &Path, position: u64) {
    let mut bytes = fs::read(path).unwrap();
    for block in [0_u32, 3] {
        let page = &mut bytes[block as usize * PAGE_SIZE..][..PAGE_SIZE];
        let half = |bits: u64| u32::try_from(bits & 0xFFFF_FFFF).unwrap().to_le_bytes();
        page[..4].copy_from_slice(&half(position >> 32));
        page[4..8].copy_from_slice(&half(position));
        page[PAGE_SIZE - 1] ^= 1;
        let checksum = page_checksum(page, BlockNumber(block));
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_cluster_on_volumes_goes_back_by_positions_in_wal() {
    let Some(mut cluster) = SharedCluster::create(1 << 20) else {
        return;
    };
    let id = cluster.back_up("FULL", &[]);
    let first = round_trip::trees(&cluster);
    let directory = cluster.group("data").join("base/16384");
    let relations = fs::read_dir(&directory).unwrap().filter_map(|entry| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let is_table = name.parse::<u32>().is_ok_and(|number| number >= 16_384);
        is_table.then(|| (entry.metadata().unwrap().len(), entry.path()))
    });
    let (_, relation) = relations.max().unwrap();
    change_pages(&relation, cluster.sample.checkpoint.0 + 0x400);
    fs::write(directory.join("99999"), [0; PAGE_SIZE]).unwrap();
    cluster.start_and_stop();
    assert_ne!(first[0], round_trip::trees(&cluster)[0]);
    let words = ["restore", "-i", &id, "-I", "lsn"];
    let output = cluster.run(&words, &[]);
    assert_success(&output);
    let chosen = format!("Backup {id} is chosen as shiftpoint");
    assert!(output.stderr.contains(&chosen), "{}", output.stderr);
    let is_proven = !output.stderr.contains("may be of another history");
    assert!(is_proven, "{}", output.stderr);
    let found = round_trip::trees(&cluster);
    round_trip::assert_same(&without_old_wal(&first, &found), &found, "by position");
    for group in ["data", "log"] {
        cluster.tool("check", group, &[]);
    }
}

#[test]
fn whatever_is_there_instead_of_the_files_of_a_backup_goes() {
    let (chain, states) = chain();
    let scratch = tempfile::tempdir().unwrap();
    let volumes = Volumes::create(scratch.path(), "other", false, false);
    let id = &chain.ids[1];
    assert_success(&volumes.restore(&chain, id, &[]));
    let at = Path::new;
    let data = open("data", &volumes.images[0]);
    let base = data.list(at("base/16384")).unwrap();
    let files: Vec<PathBuf> = base
        .iter()
        .map(|file| at("base/16384").join(&file.name))
        .collect();
    // A directory in place of a file, and a link, and nothing.
    data.remove_file(&files[0]).unwrap();
    data.create_dir(&files[0], 0o700).unwrap();
    put(&data, &format!("{}/inner", files[0].display()), b"inner");
    data.remove_file(&files[1]).unwrap();
    data.symlink(at("+data/base"), &files[1]).unwrap();
    data.remove_file(&files[2]).unwrap();
    // A file in place of a directory.
    for file in data.list(at("pg_clog")).unwrap() {
        data.remove_file(&at("pg_clog").join(&file.name)).unwrap();
    }
    data.remove_dir(at("pg_clog")).unwrap();
    put(&data, "pg_clog", &vec![7; 5 << 20]);
    // What the backup does not have.
    for directory in ["extra", "extra/deep"] {
        data.create_dir(at(directory), 0o700).unwrap();
    }
    put(&data, "extra/deep/file", &vec![7; 5 << 20]);
    data.symlink(at("+data/extra"), at("base/1/link")).unwrap();
    // Links: a directory in place of one, and one that leads elsewhere.
    data.remove_file(at("pg_xlog")).unwrap();
    data.create_dir(at("pg_xlog"), 0o700).unwrap();
    put(&data, "pg_xlog/000000010000000000000001", b"wal");
    let tablespace = at("pg_tblspc").join(&data.list(at("pg_tblspc")).unwrap()[0].name);
    let led_to = data.read_link(&tablespace).unwrap();
    data.remove_file(&tablespace).unwrap();
    data.symlink(at("+data/base"), &tablespace).unwrap();
    data.sync_filesystem().unwrap();
    drop(data);
    let log = open("log", &volumes.images[1]);
    put(&log, "pg_xlog/000000010000000F00000001", b"wal");
    log.create_dir(at("pg_xlog/of_nobody"), 0o700).unwrap();
    log.sync_filesystem().unwrap();
    drop(log);
    assert_success(&volumes.restore(&chain, id, &["-I", "checksum"]));
    assert_same(&states[1], &volumes.state(scratch.path()), "in place");
    let data = open("data", &volumes.images[0]);
    assert_eq!(data.read_link(&tablespace).unwrap(), led_to);
    assert_eq!(data.read_link(at("pg_xlog")).unwrap(), at("+log/pg_xlog"));
}

/// Steps at which a restore is killed, unless the environment names another number.
const KILLS: usize = 4;

#[test]
fn a_restore_in_place_on_volumes_that_was_killed_is_completed_by_another() {
    let (chain, states) = chain();
    let scratch = tempfile::tempdir().unwrap();
    // As small as can be, for they are copied.
    let bytes = [400 << 20, 200 << 20];
    let before = Volumes::create_of(scratch.path(), "before", bytes, false, false);
    assert_success(&before.restore(&chain, &chain.ids[1], &["--no-validate"]));
    let words = ["-I", "checksum", "-j1", "--no-validate"];
    let copy = |name: &str| {
        let volumes = before.at(scratch.path(), name);
        for (from, to) in before.images.iter().zip(&volumes.images) {
            let copied = Command::new("cp")
                .arg("--sparse=always")
                .args([from, to])
                .status();
            assert!(copied.unwrap().success());
        }
        let _ = fs::remove_dir_all(&volumes.data);
        copy_tree(&before.data, &volumes.data);
        let mode = fs::metadata(&before.data).unwrap().permissions();
        fs::set_permissions(&volumes.data, mode).unwrap();
        volumes
    };
    let id = &chain.ids[0];
    let steps = steps_of(&mut copy("counted").command(&chain, id, &words)).len();
    let kills = std::env::var("GS_SHARED_KILLS");
    let kills = kills.map_or(KILLS, |kills| kills.parse().unwrap());
    for number in 0..kills {
        let at = 1 + number * (steps - 1) / (kills - 1).max(1);
        let met = meet(&Planned::among_all(Fault::Kill(at)), || {
            copy("killed").command(&chain, id, &words)
        });
        let volumes = before.at(scratch.path(), "killed");
        // Another backup is as good.
        let other = number % chain.ids.len();
        assert_success(&volumes.restore(&chain, &chain.ids[other], &words));
        let when = format!("killed before {}", met.step);
        assert_same(&states[other], &volumes.state(scratch.path()), &when);
    }
}

#[test]
fn a_cluster_whose_instances_have_logs_of_their_own_comes_back() {
    const NUMBER: usize = 2;
    let Some(cluster) = SharedCluster::create_as(1 << 20, Some(NUMBER)) else {
        return;
    };
    let id = cluster.back_up("FULL", &[]);
    let [mut data, mut log] = round_trip::trees(&cluster);
    // What is of another instance is not in the backup, and replication has no place of its own.
    for tree in [&mut data, &mut log] {
        let is_of_other = |path: &String| path.split('/').next().unwrap().ends_with("63");
        tree.retain(|path, _| !is_of_other(path));
    }
    data.insert(
        "pg_replication".to_owned(),
        log.remove("pg_replication").unwrap(),
    );
    let info = "pg_replication/pg_ss_ctl_info".to_owned();
    data.insert(info.clone(), log.remove(&info).unwrap());
    let expected = [data, log];
    let scratch = tempfile::tempdir().unwrap();
    let volumes = round_trip::create_groups(scratch.path(), false);
    let target = scratch.path().join("pgdata").display().to_string();
    let restore = |more: &[&str]| {
        let words = ["restore", "--instance", INSTANCE, "-i", &id, "-D", &target];
        let mut restore = command(&words, &cluster.catalog);
        restore.args(volumes.options()).args(more);
        assert_success(&run(restore.env_remove("DSS_HOME")));
    };
    let wal = format!("pg_xlog{NUMBER}");
    let check = |when: &str| {
        let found = round_trip::trees(&volumes);
        let mut expected = expected.clone();
        expected[1]
            .retain(|path, _| !path.starts_with(&format!("{wal}/")) || found[1].contains_key(path));
        round_trip::assert_same(&expected, &found, when);
        assert_eq!(found[0][&wal].content, format!("+log/{wal}"));
        assert!(
            found[1]
                .keys()
                .any(|path| path.starts_with(&format!("{wal}/0")))
        );
        let tree = open("data", &volumes.image("data"));
        let control = tree.read(Path::new("pg_control"), 1 << 20).unwrap();
        let control = parse_shared(&control, NUMBER).unwrap();
        assert_eq!(control.reformer.list_stable, 0);
    };
    restore(&[]);
    check("new");
    // In place, what is of other instances stays where it is.
    let image = |name: &str| volumes.image(name);
    add_others(image);
    restore(&["-I", "checksum"]);
    remove_others(image);
    check("in place");
}

/// In the group for data, what is of another instance.
const OF_DATA: [&str; 2] = ["pg_xlog63", "pg_doublewrite63"];
/// In the group for logs, what is of another instance, or of nobody.
const OF_LOG: [&str; 2] = ["pg_xlog63", "kept"];

fn add_others(image: impl Fn(&str) -> PathBuf) {
    let tree = open("log", &image("log"));
    for name in OF_LOG {
        tree.create_dir(Path::new(name), 0o700).unwrap();
    }
    tree.sync_filesystem().unwrap();
    drop(tree);
    let tree = open("data", &image("data"));
    tree.symlink(Path::new("+log/pg_xlog63"), Path::new(OF_DATA[0]))
        .unwrap();
    tree.create_dir(Path::new(OF_DATA[1]), 0o700).unwrap();
    put(&tree, "base/4711", b"too much");
    tree.sync_filesystem().unwrap();
    drop(tree);
}

/// What was added is still there; it goes.
fn remove_others(image: impl Fn(&str) -> PathBuf) {
    for (name, of) in [("data", OF_DATA), ("log", OF_LOG)] {
        let tree = open(name, &image(name));
        for path in of {
            tree.metadata(Path::new(path)).unwrap();
        }
        for path in of {
            match tree.remove_dir(Path::new(path)) {
                Ok(()) => {}
                Err(_) => tree.remove_file(Path::new(path)).unwrap(),
            }
        }
        tree.sync_filesystem().unwrap();
    }
}
