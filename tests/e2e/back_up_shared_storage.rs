//! A cluster on shared storage is backed up from its volumes, without a server of storage: every
//! file as an independent reader sees it, pages verified, whole and by what was tracked.

use crate::back_up_through_recorded_server::{Recorded, TRUST};
use crate::shared_cluster::{Seen, SharedCluster, Volumes};
use crate::support::{Output, assert_success, gs_probackup};
use crate::take_full_backup::check_independently;
use crate::take_incremental_backup::tracking::Tracker;
use crate::take_incremental_backup::{content_list, stored_blocks};
use gs_probackup::format::catalog::FileType;
use gs_probackup::format::page::{PAGE_SIZE, page_checksum};
use gs_probackup::types::BlockNumber;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A relation of the sample.
fn a_relation(cluster: &SharedCluster) -> String {
    let mut relations: Vec<(u64, String)> = fs::read_dir(cluster.group("data").join("base/16384"))
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let number = name.parse::<u32>().is_ok_and(|number| number >= 16_384);
            let size = entry.metadata().unwrap().len();
            (number && size >= 8 * PAGE_SIZE as u64).then_some((size, name))
        })
        .collect();
    relations.sort();
    format!(
        "base/16384/{}",
        relations.first().expect("the sample has relations").1
    )
}

/// Bytes of a stored file that was not compressed.
fn decoded(stored: &[u8], is_datafile: bool, size: usize) -> Vec<u8> {
    if !is_datafile {
        return stored.to_vec();
    }
    let mut bytes = vec![0; size];
    for record in stored.chunks(PAGE_SIZE + 8) {
        let block = u32::from_le_bytes(record[..4].try_into().unwrap()) as usize;
        bytes[block * PAGE_SIZE..][..PAGE_SIZE].copy_from_slice(&record[8..]);
    }
    bytes
}

/// What stands for a file whose pages are stored in another form than the server's.
fn compressed() -> Seen {
    Seen {
        kind: "F".to_owned(),
        size: 0,
        content: "compressed".to_owned(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a FULL backup without compression holds of what is shared, as the reader would say it.
fn stored(backup: &Path) -> BTreeMap<String, Seen> {
    let list = content_list(backup);
    let shared = list.iter().filter(|entry| entry.file_type == FileType::Dss);
    let entries = shared.map(|entry| {
        let path = backup.join("dssdata").join(&*entry.path);
        if entry.is_directory() {
            assert!(path.is_dir(), "{}", entry.path);
            let seen = Seen {
                kind: "D".to_owned(),
                size: 0,
                content: "-".to_owned(),
            };
            return (entry.path.into_owned(), seen);
        }
        if entry.compressed.is_some() {
            return (entry.path.into_owned(), compressed());
        }
        let size = match (entry.is_datafile, entry.n_blocks) {
            (true, blocks) => blocks.unwrap_or(0) as usize * PAGE_SIZE,
            (false, _) => usize::try_from(entry.size.bytes()).unwrap(),
        };
        let bytes = fs::read(&path).unwrap_or_default();
        let bytes = decoded(&bytes, entry.is_datafile, size);
        let seen = Seen {
            kind: "F".to_owned(),
            size: bytes.len() as u64,
            content: hex(&Sha256::digest(&bytes)),
        };
        (entry.path.into_owned(), seen)
    });
    entries.collect()
}

/// What the backup should hold.
fn expected(cluster: &SharedCluster, backup: &Path) -> BTreeMap<String, Seen> {
    let mut expected = cluster.seen("data");
    let log = cluster.seen("log");
    let directory = |seen: &mut Seen| {
        *seen = Seen {
            kind: "D".to_owned(),
            size: 0,
            content: "-".to_owned(),
        };
    };
    let wal = cluster.wal_directory();
    expected.retain(|path, _| !path.ends_with("63"));
    for link in [&*wal, "pg_replication", "pg_tblspc/16385"] {
        directory(expected.get_mut(link).unwrap());
    }
    let of_relations = |path: &str| path.contains("_compress");
    for (_, seen) in expected.iter_mut().filter(|(path, _)| of_relations(path)) {
        *seen = compressed();
    }
    for (path, seen) in log {
        let is_stored_wal =
            path.starts_with(&format!("{wal}/")) && backup.join("dssdata").join(&path).exists();
        if is_stored_wal || path.starts_with("pg_replication/") {
            expected.insert(path, seen);
        }
    }
    expected
}

#[test]
fn every_shared_file_is_in_a_backup_as_an_independent_reader_sees_it() {
    for own_wal in [None, Some(2)] {
        let Some(cluster) = SharedCluster::create_as(2 << 20, own_wal) else {
            return;
        };
        let output = cluster.try_back_up("FULL", &["-j2", "--compress-algorithm=none"]);
        assert_success(&output);
        for line in [
            "INFO: PGDATA estimated size: ",
            "INFO: DSSDATA estimated size: ",
        ] {
            assert!(output.stderr.contains(line), "{}", output.stderr);
        }
        let id = completed_id(&output);
        let backup = cluster.backup_path(&id);
        check_independently(&backup);
        let (mut found, mut expected) = (stored(&backup), expected(&cluster, &backup));
        // The backup is of a cluster that no instance runs of.
        let control = fs::read(backup.join("dssdata/pg_control")).unwrap();
        let source = fs::read(cluster.group("data").join("pg_control")).unwrap();
        let reformer = 64 * PAGE_SIZE;
        assert_eq!(control.len(), 65 * PAGE_SIZE);
        assert_eq!(control[..reformer], source[..reformer]);
        assert_eq!((source[reformer + 8], control[reformer + 8]), (0b101, 0));
        for side in [&mut found, &mut expected] {
            side.remove("pg_control").unwrap();
        }
        for (path, seen) in &expected {
            assert_eq!(found.get(path), Some(seen), "{path}");
        }
        assert_eq!(found.len(), expected.len());
        let wal = cluster.wal_directory();
        let segments = found
            .keys()
            .filter(|path| path.starts_with(&format!("{wal}/")));
        assert_eq!(segments.count(), 1);
        // The same path is there twice, each with its own content.
        let version = |tree: &str| fs::read(backup.join(tree).join("base/1/PG_VERSION")).unwrap();
        assert_eq!(version("database"), b"of the instance\n");
        assert_ne!(version("dssdata"), version("database"));
        let map = fs::read_to_string(backup.join("database/tablespace_map")).unwrap();
        assert_eq!(map, "16385 +data/pg_location/ts1\n");
        let control = fs::read_to_string(backup.join("backup.control")).unwrap();
        assert!(control.contains("storage-type = DSS\n"), "{control}");
        assert_success(&cluster.run(&["validate"], &[]));
    }
}

fn completed_id(output: &Output) -> String {
    let id = output.stderr.lines().find_map(|line| {
        line.strip_prefix("INFO: Backup ")?
            .strip_suffix(" completed")
    });
    id.unwrap_or_else(|| panic!("{}", output.stderr)).to_owned()
}

#[test]
fn damage_of_a_page_on_shared_storage_is_found() {
    let Some(cluster) = SharedCluster::create(1 << 20) else {
        return;
    };
    let relation = a_relation(&cluster);
    let path = cluster.group("data").join(&relation);
    let good = fs::read(&path).unwrap();
    let mut bytes = good.clone();
    bytes[3 * PAGE_SIZE + 5000] ^= 1;
    fs::write(&path, &bytes).unwrap();
    cluster.publish();
    let output = cluster.try_back_up("FULL", &[]);
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains(&relation), "{}", output.stderr);
    assert!(output.stderr.contains("block 3"), "{}", output.stderr);
    fs::write(&path, &good).unwrap();

    // In the instance's own directory nothing wrong is kept, whatever it is called.
    let own = cluster.data().join("base/1/2");
    fs::write(&own, [0xA5; 8 * PAGE_SIZE]).unwrap();
    let output = cluster.try_back_up("FULL", &[]);
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains("\"base/1/2"), "{}", output.stderr);
}

/// Puts `bytes` over blocks of a file.
fn put(bytes: &mut [u8], blocks: std::ops::Range<usize>, fill: u8) {
    bytes[blocks.start * PAGE_SIZE..blocks.end * PAGE_SIZE].fill(fill);
}

#[test]
fn what_the_maps_of_a_space_call_unused_is_kept_and_what_they_call_used_is_not() {
    let Some(cluster) = SharedCluster::create(4 << 20) else {
        return;
    };
    let space = "base/16384/2";
    let path = cluster.group("data").join(space);
    let mut bytes = fs::read(&path).unwrap();
    let blocks = bytes.len() / PAGE_SIZE;
    let last_used = (0..blocks)
        .rfind(|block| bytes[block * PAGE_SIZE..][..PAGE_SIZE] != [0; PAGE_SIZE])
        .unwrap();
    assert!(last_used > 80 && last_used + 10 < blocks, "{last_used}");
    // Where files grow without being cleared.
    put(&mut bytes, 0..2, 0xA5);
    put(&mut bytes, last_used + 1..blocks, 0x5A);
    fs::write(&path, &bytes).unwrap();
    cluster.publish();
    let began = std::time::Instant::now();
    let output = cluster.try_back_up("FULL", &["--compress-algorithm=none"]);
    eprintln!("backed up within {:?}", began.elapsed());
    assert_success(&output);
    let count = 2 + blocks - last_used - 1;
    let told = format!("INFO: {count} pages of segment-page storage are not in use");
    assert!(output.stderr.contains(&told), "{}", output.stderr);
    assert!(
        !output.stderr.contains("WARNING: File"),
        "{}",
        output.stderr
    );
    let backup = cluster.backup_path(&completed_id(&output));
    let found = stored(&backup);
    assert_eq!(found[space].content, hex(&Sha256::digest(&bytes)));
    check_independently(&backup);
    let id = completed_id(&output);
    assert_success(&cluster.run(&["validate", "-i", &id], &[]));

    let map_head = 2;
    for block in [last_used, map_head, map_head + 1] {
        let mut damaged = bytes.clone();
        damaged[block * PAGE_SIZE + 5000] ^= 1;
        fs::write(&path, &damaged).unwrap();
        cluster.publish();
        let output = cluster.try_back_up("FULL", &[]);
        assert_eq!(output.code, Some(1), "{block}");
        let told = format!("\"{space} block {block}\"");
        assert!(output.stderr.contains(&told), "{}", output.stderr);
    }
}

#[test]
fn an_increment_takes_the_blocks_that_were_tracked_and_all_of_what_no_time_tells() {
    let Some(mut cluster) = SharedCluster::create(2 << 20) else {
        return;
    };
    fs::create_dir_all(cluster.data().join("pg_cbm")).unwrap();
    let mut tracker = Tracker::begin(cluster.data(), cluster.sample.checkpoint);
    let full = cluster.back_up("FULL", &[]);
    let relation = a_relation(&cluster);
    let path = cluster.group("data").join(&relation);
    let mut bytes = fs::read(&path).unwrap();
    for block in [2_u32, 5] {
        let page = &mut bytes[block as usize * PAGE_SIZE..][..PAGE_SIZE];
        page[PAGE_SIZE - 1] ^= 1;
        let checksum = page_checksum(page, BlockNumber(block));
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
    }
    fs::write(&path, &bytes).unwrap();
    tracker.changed(&relation, &[2, 5]);
    cluster.start_and_stop();
    tracker.reach(cluster.sample.checkpoint);
    let id = cluster.back_up("PTRACK", &["--compress-algorithm=none"]);
    let backup = cluster.backup_path(&id);
    check_independently(&backup);
    let blocks = stored_blocks(&backup);
    assert_eq!(blocks.keys().collect::<Vec<_>>(), [&relation]);
    assert_eq!(blocks[&relation], [2, 5]);
    let list = content_list(&backup);
    let plain = list.iter().filter(|entry| {
        entry.file_type == FileType::Dss && entry.is_regular() && !entry.is_datafile
    });
    let mut count = 0;
    for entry in plain {
        let size = fs::metadata(backup.join("dssdata").join(&*entry.path));
        let size = size.map_or(0, |metadata| metadata.len());
        assert_eq!(entry.size.bytes(), size, "{}", entry.path);
        count += 1;
    }
    assert!(count > 5);
    let control = fs::read_to_string(backup.join("backup.control")).unwrap();
    assert!(
        control.contains(&format!("parent-backup-id = '{full}'")),
        "{control}"
    );
    assert_success(&cluster.run(&["validate"], &[]));
}

#[test]
fn what_cannot_be_backed_up_from_shared_storage_is_refused() {
    let Some(cluster) = SharedCluster::create(1 << 20) else {
        return;
    };
    let refused = |more: &[&str], why: &str| {
        let output = cluster.try_back_up("FULL", more);
        assert_eq!(output.code, Some(1));
        assert!(output.stderr.contains(why), "{}", output.stderr);
    };
    refused(
        &["-E", "+data/pg_location"],
        "contains dss path, which is not allow now",
    );
    // An increment on the files of another kind of cluster.
    let control = cluster.backup_path(&cluster.back_up("FULL", &["--no-validate"]));
    let control = control.join("backup.control");
    let text = fs::read_to_string(&control).unwrap();
    let other = text.replace("storage-type = DSS", "storage-type = FILE");
    assert_ne!(text, other);
    fs::write(&control, other).unwrap();
    let output = cluster.try_back_up("PTRACK", &[]);
    assert_eq!(output.code, Some(1));
    assert!(
        output.stderr.contains("has storage type FILE"),
        "{}",
        output.stderr
    );
    // The other group's links lead nowhere.
    fs::remove_file(cluster.image("log")).unwrap();
    refused(&[], "cannot open volume");
    // The control file has all its pages.
    let control = cluster.group("data").join("pg_control");
    let bytes = fs::read(&control).unwrap();
    fs::write(&control, &bytes[..8192]).unwrap();
    cluster.publish();
    refused(
        &[],
        "Invalid size of file \"+data/pg_control\", file_size: 8192",
    );
}

/// Changes the control file of a cluster, and makes the groups anew.
fn change_control(cluster: &SharedCluster, change: impl Fn(&mut [u8])) {
    let path = cluster.group("data").join("pg_control");
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
    cluster.publish();
}

#[test]
fn another_instance_that_runs_and_one_that_is_not_the_primary_are_refused() {
    const NUMBER: usize = 2;
    let Some(cluster) = SharedCluster::create_as(512 << 10, Some(NUMBER)) else {
        return;
    };
    // Instance 63 has logs of its own, and a page that says that it runs.
    change_control(&cluster, |bytes| {
        let own = NUMBER * PAGE_SIZE;
        bytes.copy_within(own..own + PAGE_SIZE, 63 * PAGE_SIZE);
        let page = &mut bytes[63 * PAGE_SIZE..64 * PAGE_SIZE];
        page[20..24].copy_from_slice(&6_u32.to_le_bytes());
        let crc = crc32c::crc32c(&page[..224]);
        page[224..228].copy_from_slice(&crc.to_le_bytes());
    });
    let output = cluster.try_back_up("FULL", &[]);
    assert_eq!(output.code, Some(1));
    let said = "is not that of a cleanly stopped server: its state is \"in production\"";
    assert!(output.stderr.contains(said), "{}", output.stderr);
    // The reformer made another one the primary.
    change_control(&cluster, |bytes| {
        let record = &mut bytes[64 * PAGE_SIZE..];
        record[16] = 63;
        let crc = crc32c::crc32c(&record[..32]);
        record[32..36].copy_from_slice(&crc.to_le_bytes());
    });
    let said = "ERROR: backup only support on primary in dss mode, primary instance id: 63, backup \
                instance id: 2";
    let output = cluster.try_back_up("FULL", &[]);
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains(said), "{}", output.stderr);
    let data = cluster.data().display().to_string();
    let words = ["add-instance", "-D", &data, "--vgname=+data,+log"];
    let output = cluster.run(&words, &["--instance-id=2"]);
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains(said), "{}", output.stderr);
}

/// Removes system catalogs and WAL, which the recorded conversation does not need.
fn make_lean(data: &Path) {
    let directories = fs::read_dir(data.join("base")).unwrap();
    let mut directories: Vec<_> = directories.map(|entry| entry.unwrap().path()).collect();
    directories.push(data.join("global"));
    for entry in directories
        .iter()
        .flat_map(|directory| fs::read_dir(directory).unwrap())
    {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let number = name.split(['_', '.']).next().unwrap().parse::<u32>();
        if number.is_ok_and(|number| (6..16_384).contains(&number)) {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    for entry in fs::read_dir(data.join("pg_xlog")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::remove_file(path).unwrap();
        }
    }
}

#[test]
fn a_running_cluster_is_backed_up_with_its_wal_in_what_is_shared() {
    let Some(mut recorded) = Recorded::create() else {
        return;
    };
    let root = recorded.scratch.path().to_owned();
    let Some(volumes) = Volumes::new(&root, None) else {
        return;
    };
    let data = root.join("gauss/data/dn1");
    make_lean(&data);
    recorded.set_checkpoint(TRUST.segment);
    volumes.split(&data, &recorded.tablespace);
    // Of this space the server wrote blocks 2 to 4157, 4165 to 4207 and more; what else there is
    // may hold anything.
    let space = volumes.group("data").join("base/16384/2");
    let mut bytes = fs::read(&space).unwrap();
    for unused in [0..2, 4158..4165, 4208..4213, 4245..4300] {
        put(&mut bytes, unused, 0xA5);
    }
    bytes[4170 * PAGE_SIZE + 5000] ^= 1;
    fs::write(&space, &bytes).unwrap();
    volumes.publish();
    recorded.catalog = root.join("shared-catalog");
    assert_success(&gs_probackup(&["init"], &recorded.catalog));
    let (pgdata, groups) = (data.display().to_string(), volumes.options());
    let mut words = vec!["add-instance", "--instance=dn1", "-D", &pgdata];
    words.extend(["--vgname=+data,+log", &groups[0], &groups[1]]);
    assert_success(&gs_probackup(&words, &recorded.catalog));
    let more = [&*groups[0], &groups[1], "--no-sync", "-w"];
    let (output, _) = recorded.back_up_with(TRUST, &more, |_| ());
    assert_eq!(output.code, Some(1), "{output:#?}");
    let damage = "Corruption detected in file \"base/16384/2 block 4170\"";
    assert!(output.stderr.contains(damage), "{}", output.stderr);
    bytes[4170 * PAGE_SIZE + 5000] ^= 1;
    fs::write(&space, &bytes).unwrap();
    volumes.publish();
    let (output, report) = recorded.back_up_with(TRUST, &more, |_| ());
    assert_success(&output);
    assert_eq!(report.unknown, Vec::<String>::new(), "{output:#?}");
    let told = "INFO: 69 pages of segment-page storage are not in use";
    assert!(output.stderr.contains(told), "{}", output.stderr);
    let backup = recorded
        .catalog
        .join("backups/dn1")
        .join(completed_id(&output));
    check_independently(&backup);
    let list = content_list(&backup);
    let types = |path: &str| -> Vec<FileType> {
        let found = list.iter().filter(|entry| entry.path == path);
        found.map(|entry| entry.file_type).collect()
    };
    let segments: Vec<String> = list
        .iter()
        .filter(|entry| entry.path.starts_with("pg_xlog/") && entry.is_regular())
        .map(|entry| entry.path.into_owned())
        .collect();
    assert!(!segments.is_empty());
    for segment in &segments {
        assert_eq!(types(segment), [FileType::Dss], "{segment}");
        assert!(backup.join("dssdata").join(segment).exists());
    }
    assert_eq!(types("backup_label"), [FileType::File]);
    assert_eq!(types("pg_control"), [FileType::Dss]);
    assert_eq!(types("pg_xlog"), [FileType::File, FileType::Dss]);
    assert_eq!(types("pg_replication/pg_ss_ctl_info"), [FileType::Dss]);
    // The server makes its double-write files anew.
    assert_eq!(types("pg_doublewrite/pg_dw.build"), [FileType::Dss]);
    assert!(types("pg_doublewrite/pg_dw_meta").is_empty());
    let id = completed_id(&output);
    let validate = ["validate", "--instance=dn1", "-i", &id];
    assert_success(&gs_probackup(&validate, &recorded.catalog));
}
