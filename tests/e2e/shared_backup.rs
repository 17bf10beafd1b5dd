//! Backups of a cluster on shared storage, made from those of a generated cluster on file systems:
//! what the instances share is moved to `dssdata/`, and lists and records say so.

use crate::chain::ChainOfBackups;
use crate::cluster::INSTANCE;
use gs_probackup::catalog::BackupDir;
use gs_probackup::format::catalog::{ContentEntry, EntrySize, FileType, StorageType};
use gs_probackup::format::pg_control::PG_CONTROL_SIZE;
use gs_probackup::format::shared_control::{SHARED_CONTROL_BYTES, forget_stable_instances};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Where the tablespace is.
pub(crate) const TABLESPACE: &str = "pg_location/ts1";

/// What the instances have in common.
const SHARED: [&str; 9] = [
    "base",
    "global",
    "pg_clog",
    "pg_csnlog",
    "pg_multixact",
    "pg_serial",
    "pg_tblspc",
    "pg_twophase",
    "pg_xlog",
];

/// A file that only the group for logs has, and what is in it.
const REPLICATION: (&str, &[u8]) = ("pg_replication/pg_ss_ctl_info", b"dorado");

fn is_shared(path: &str) -> bool {
    SHARED.contains(&path.split('/').next().unwrap())
}

/// The control file of a cluster on shared storage whose page 0 is this one.
pub(crate) fn shared_control(page: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; SHARED_CONTROL_BYTES];
    bytes[..PG_CONTROL_SIZE].copy_from_slice(page);
    // Version 1 of the reformer's record, with instances 0 and 1 up.
    let record = &mut bytes[64 * PG_CONTROL_SIZE..];
    record[0] = 1;
    record[8] = 3;
    let crc = crc32c::crc32c(&record[..32]);
    record[32..36].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Makes the chain one of a cluster on shared storage.
pub(crate) fn share(chain: &ChainOfBackups) {
    for id in &chain.ids {
        share_backup(&chain.directory(id));
    }
    let conf = chain.cluster.catalog.join("backups").join(INSTANCE);
    set_shared(&conf.join("pg_probackup.conf"), true);
}

/// Says in the settings of an instance whether it is on shared storage.
pub(crate) fn set_shared(conf: &Path, shared: bool) {
    let text = fs::read_to_string(conf).unwrap();
    let own = text.split("# DSS").next().unwrap();
    let more = "# DSS connect parameters\nenable-dss = true\nvgname = +data,+log\n";
    fs::write(conf, format!("{own}{}", if shared { more } else { "" })).unwrap();
}

fn share_backup(dir: &BackupDir) {
    let (mut control, _) = dir.read_control().unwrap();
    let list = dir.read_content_list(control.content_crc).unwrap();
    let mut entries = Vec::new();
    for entry in list.iter() {
        let mut entry = entry.into_owned();
        if is_shared(&entry.path) {
            if entry.is_directory() && !entry.path.contains('/') {
                // The instance keeps an empty directory of that name.
                entries.push(entry.clone());
            }
            entry = moved(dir, entry);
        } else if entry.path == "tablespace_map" && entry.size.bytes() > 0 {
            entry = with_other_tablespace(dir, entry);
        }
        entries.push(entry);
    }
    entries.extend(replication(dir));
    // Those above before those below; what an instance keeps stays.
    let moved = list
        .iter_sorted()
        .filter(|entry| entry.is_directory() && is_shared(&entry.path));
    let moved: Vec<_> = moved.filter(|entry| entry.path.contains('/')).collect();
    for entry in moved.iter().rev() {
        fs::remove_dir(dir.database().join(&*entry.path)).unwrap();
    }
    let totals = dir.write_content_list(entries).unwrap();
    control.storage_type = StorageType::Dss;
    control.content_crc = Some(totals.crc);
    control.data_bytes = Some(i64::try_from(totals.data_bytes).unwrap());
    control.uncompressed_bytes = None;
    let _ = fs::remove_file(dir.path().join("backup.seal"));
    dir.write_control(&control).unwrap();
}

fn moved(dir: &BackupDir, mut entry: ContentEntry<'static>) -> ContentEntry<'static> {
    let from = dir.database().join(&*entry.path);
    entry.file_type = FileType::Dss;
    if entry.path == "global/pg_control" {
        entry.path = "pg_control".into();
        let mut bytes = shared_control(&fs::read(&from).unwrap());
        entry.crc = forget_stable_instances(&mut bytes, 0).unwrap();
        entry.size = EntrySize::Bytes(bytes.len() as u64);
        fs::write(&from, bytes).unwrap();
    }
    let to = dir.shared().join(&*entry.path);
    if entry.is_directory() {
        fs::create_dir_all(to).unwrap();
    } else if entry.size.bytes() > 0 {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::rename(from, to).unwrap();
    }
    entry
}

fn with_other_tablespace(
    dir: &BackupDir,
    mut entry: ContentEntry<'static>,
) -> ContentEntry<'static> {
    let path = dir.database().join("tablespace_map");
    let text = fs::read_to_string(&path).unwrap();
    let (oid, _) = text.split_once(' ').unwrap();
    let text = format!("{oid} +data/{TABLESPACE}\n");
    entry.size = EntrySize::Bytes(text.len() as u64);
    entry.crc = crc32c::crc32c(text.as_bytes());
    fs::write(path, text).unwrap();
    entry
}

fn replication(dir: &BackupDir) -> [ContentEntry<'static>; 2] {
    let (path, bytes) = REPLICATION;
    fs::create_dir_all(dir.shared().join("pg_replication")).unwrap();
    fs::write(dir.shared().join(path), bytes).unwrap();
    let size = EntrySize::Bytes(bytes.len() as u64);
    let entries = [
        ContentEntry::directory("pg_replication", 0o700),
        ContentEntry::file(path, 0o600, size, crc32c::crc32c(bytes)),
    ];
    entries.map(|entry| ContentEntry {
        file_type: FileType::Dss,
        ..entry
    })
}

/// Files by path, as CRC and length, below a directory; links are not followed.
fn files(root: &Path, prefix: &str, found: &mut BTreeMap<String, (u32, u64)>) {
    for entry in fs::read_dir(root).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files(&entry.path(), &format!("{path}/"), found);
        } else if kind.is_file() {
            let bytes = fs::read(entry.path()).unwrap();
            found.insert(path, (crc32c::crc32c(&bytes), bytes.len() as u64));
        }
    }
}

/// What a restored cluster on file systems has, by where a cluster on shared storage has it.
pub(crate) fn state_of_files(data: &Path, tablespace: &Path) -> BTreeMap<String, (u32, u64)> {
    let mut found = BTreeMap::new();
    files(data, "", &mut found);
    files(tablespace, &format!("{TABLESPACE}/"), &mut found);
    found.remove("global/pg_control").unwrap();
    let (path, bytes) = REPLICATION;
    found.insert(path.to_owned(), (crc32c::crc32c(bytes), bytes.len() as u64));
    found
}

/// What a restored cluster on shared storage has but its control file: `trees` are the data
/// directory and the groups.
pub(crate) fn state_of_shared(trees: &[&Path]) -> BTreeMap<String, (u32, u64)> {
    let mut found = BTreeMap::new();
    for tree in trees {
        let mut part = BTreeMap::new();
        files(tree, "", &mut part);
        for (path, state) in part {
            let other = found.insert(path.clone(), state);
            assert!(other.is_none(), "{path} is in two trees");
        }
    }
    let control = found.remove("pg_control").unwrap();
    assert_eq!(control.1, SHARED_CONTROL_BYTES as u64);
    found
}
