//! Chains made from a generated cluster: a cluster that changes, and increments of it.
//!
//! An increment is a FULL backup from which everything is taken out that its parent holds already,
//! so that tests of chains need no server that tracks changed blocks.

use crate::cluster::{Cluster, INSTANCE};
use gs_probackup::catalog::{BackupDir, Catalog};
use gs_probackup::codec::Decompressor;
use gs_probackup::format::catalog::{BackupMode, ContentEntry, ContentList, EntrySize};
use gs_probackup::format::page::{PAGE_SIZE, page_checksum};
use gs_probackup::pipeline::{MergedHeaderMap, PagesOfFile, scan_file};
use gs_probackup::storage::{Posix, Storage};
use gs_probackup::types::{BackupId, BlockNumber, CompressAlgorithm, SegmentNumber};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A cluster with a chain of backups; the state of the cluster at each is kept.
pub(crate) struct ChainOfBackups {
    pub(crate) cluster: Cluster,
    /// The backups, FULL first.
    pub(crate) ids: Vec<String>,
    /// Relation files that change at most, the largest first.
    changed_files_max: usize,
}

/// Pages of a stored file by block, decoded.
type Pages = BTreeMap<u32, Vec<u8>>;

impl ChainOfBackups {
    /// A FULL backup and an increment for each further list of arguments, the cluster changed
    /// before each.
    pub(crate) fn create(arguments: &[&[&str]]) -> ChainOfBackups {
        ChainOfBackups::create_with(arguments, usize::MAX, |_, _| {})
    }

    /// A chain of a cluster of few files of which few change: each file takes steps.
    pub(crate) fn create_lean(arguments: &[&[&str]]) -> ChainOfBackups {
        ChainOfBackups::create_of(Cluster::create_lean(1 << 20), arguments, 5, |_, _| {})
    }

    /// As [`ChainOfBackups::create`]; before each backup `prepare` changes the data directory
    /// further, told the number of the round.
    pub(crate) fn create_with(
        arguments: &[&[&str]],
        changed_files_max: usize,
        prepare: impl Fn(&Path, usize),
    ) -> ChainOfBackups {
        let cluster = Cluster::create(1 << 20);
        ChainOfBackups::create_of(cluster, arguments, changed_files_max, prepare)
    }

    fn create_of(
        cluster: Cluster,
        arguments: &[&[&str]],
        changed_files_max: usize,
        prepare: impl Fn(&Path, usize),
    ) -> ChainOfBackups {
        let mut chain = ChainOfBackups {
            cluster,
            ids: Vec::new(),
            changed_files_max,
        };
        for (round, arguments) in arguments.iter().enumerate() {
            if round > 0 {
                chain.change(round);
                // One backup can begin every second.
                std::thread::sleep(Duration::from_millis(1100));
            }
            prepare(&chain.cluster.sample.data_directory, round);
            let id = chain.cluster.back_up(arguments);
            copy_tree(&chain.cluster.backup_path(&id), &chain.whole(&id));
            if let Some(parent) = chain.ids.last() {
                chain.reduce(&id, parent);
            }
            chain.ids.push(id);
        }
        chain
    }

    /// The backup as it was before what its parent holds was taken out.
    fn whole(&self, id: &str) -> PathBuf {
        self.cluster.scratch.path().join("whole").join(id)
    }

    pub(crate) fn last(&self) -> &str {
        self.ids.last().unwrap()
    }

    pub(crate) fn directory(&self, id: &str) -> BackupDir {
        self.directory_in(&self.cluster.catalog, id)
    }

    pub(crate) fn directory_in(&self, catalog: &Path, id: &str) -> BackupDir {
        let instance = Catalog::open(catalog).unwrap().instance(INSTANCE).unwrap();
        instance.backup(id.parse().unwrap()).unwrap()
    }

    /// Main forks of the cluster, the largest first.
    fn relations(&self) -> Vec<PathBuf> {
        let base = self.cluster.sample.data_directory.join("base");
        let mut found = Vec::new();
        for database in fs::read_dir(base).unwrap() {
            for file in fs::read_dir(database.unwrap().path()).unwrap() {
                let file = file.unwrap();
                let name = file.file_name().into_string().unwrap();
                let size = file.metadata().unwrap().len();
                let is_page_file = name.bytes().all(|byte| byte.is_ascii_digit());
                if is_page_file && name.len() > 1 && size >= 4 * 8192 {
                    found.push((std::cmp::Reverse(size), file.path()));
                }
            }
        }
        found.sort();
        found.into_iter().map(|(_, path)| path).collect()
    }

    /// Changes blocks, lets files grow, shrink, appear and vanish, and changes a plain file.
    fn change(&self, round: usize) {
        let mut files = self.relations();
        files.truncate(self.changed_files_max);
        assert!(files.len() >= 4, "the cluster has too few relations");
        for (index, path) in files.iter().enumerate() {
            let mut bytes = fs::read(path).unwrap();
            let blocks = bytes.len() / PAGE_SIZE;
            match index % 4 {
                0 => touch(&mut bytes, round % blocks, round),
                1 => {
                    touch(&mut bytes, blocks / 2, round);
                    let page = bytes[..PAGE_SIZE].to_vec();
                    bytes.extend_from_slice(&page);
                    touch(&mut bytes, blocks, round);
                }
                2 if blocks > 2 => bytes.truncate((blocks - 1) * PAGE_SIZE),
                _ => continue,
            }
            fs::write(path, bytes).unwrap();
        }
        let model = files.last().unwrap();
        let added = |round: usize| model.with_file_name(format!("{}", 900_000 + round));
        fs::copy(model, added(round)).unwrap();
        if round > 1 {
            fs::remove_file(added(round - 1)).unwrap();
        }
        let conf = self.cluster.sample.data_directory.join("postgresql.conf");
        fs::write(conf, format!("# round {round}\n")).unwrap();
    }

    /// Makes the backup `id` an increment on `parent`.
    fn reduce(&self, id: &str, parent: &str) {
        let dir = self.directory(id);
        let (mut control, _) = dir.read_control().unwrap();
        let list = dir.read_content_list(control.content_crc).unwrap();
        let before = BackupDir::at(parent.parse().unwrap(), &self.whole(parent));
        let (old_control, _) = before.read_control().unwrap();
        let old_list = before.read_content_list(old_control.content_crc).unwrap();
        let database = Posix::open(&dir.database()).unwrap();
        let map = Posix::open(dir.path()).unwrap();
        let map = MergedHeaderMap::new(
            map.create(Path::new("page_header_map"), 0o600, false)
                .unwrap(),
        );
        let entries: Vec<ContentEntry<'_>> = list
            .iter()
            .map(|entry| {
                let path = dir.database().join(&*entry.path);
                match (entry.is_datafile, old_entry(&old_list, &entry)) {
                    (true, old) => reduce_pages(entry, old, &path, &before, &database, &map),
                    (false, Some(old)) if is_same(&entry, &old) => {
                        fs::remove_file(&path).ok();
                        ContentEntry {
                            size: EntrySize::Unchanged,
                            crc: 0,
                            ..entry
                        }
                    }
                    _ => entry,
                }
            })
            .collect();
        map.finish().unwrap();
        let totals = dir.write_content_list(entries).unwrap();
        control.mode = BackupMode::Ptrack;
        control.parent_backup_id = Some(parent.parse::<BackupId>().unwrap());
        control.content_crc = Some(totals.crc);
        control.data_bytes = Some(i64::try_from(totals.data_bytes).unwrap());
        control.uncompressed_bytes = None;
        fs::remove_file(dir.path().join("backup.seal")).unwrap();
        dir.write_control(&control).unwrap();
    }
}

fn old_entry<'a>(list: &'a ContentList, entry: &ContentEntry<'_>) -> Option<ContentEntry<'a>> {
    list.find(&entry.path, entry.root())
}

fn is_same(entry: &ContentEntry<'_>, old: &ContentEntry<'_>) -> bool {
    let is_stored = entry.is_regular() && entry.size.bytes() > 0;
    // A backup makes these anew each time.
    let is_own = [
        "pg_control",
        "tablespace_map",
        "database_map",
        "backup_label",
    ]
    .iter()
    .any(|name| entry.path.ends_with(name));
    let is_own = is_own || entry.path.starts_with("pg_xlog");
    is_stored && !is_own && (entry.size, entry.crc) == (old.size, old.crc)
}

/// Takes the pages out of a stored file that the parent has as they are.
fn reduce_pages<'a>(
    entry: ContentEntry<'a>,
    old: Option<ContentEntry<'_>>,
    path: &Path,
    before: &BackupDir,
    database: &Posix,
    map: &MergedHeaderMap,
) -> ContentEntry<'a> {
    let scan = |database: &Posix, algorithm| {
        let pages = PagesOfFile {
            segno: SegmentNumber(entry.segno),
            compressed: entry.compressed.is_some(),
            page_checksums: true,
            judged: true,
        };
        let relative = Path::new(&*entry.path);
        scan_file(database, relative, &entry.path, pages, &[algorithm], &[]).unwrap()
    };
    if entry.size == EntrySize::Bytes(0) {
        return entry;
    }
    let Some(old) = old.filter(|old| old.size.bytes() > 0) else {
        let scanned = scan(database, entry.compress_algorithm);
        let headers = Some(map.append(&scanned.encoded_headers()).unwrap());
        return ContentEntry { headers, ..entry };
    };
    let old_pages = pages(
        &before.database().join(&*entry.path),
        old.compress_algorithm,
    );
    let bytes = fs::read(path).unwrap();
    let mut kept = Vec::new();
    for (record, page) in records(&bytes, entry.compress_algorithm) {
        let block = u32::from_le_bytes(record[..4].try_into().unwrap());
        if old_pages.get(&block) != Some(&page) {
            kept.extend_from_slice(record);
        }
    }
    if kept.is_empty() {
        fs::remove_file(path).unwrap();
        return ContentEntry {
            size: EntrySize::Unchanged,
            crc: 0,
            compress_algorithm: CompressAlgorithm::None,
            headers: None,
            ..entry
        };
    }
    fs::write(path, &kept).unwrap();
    let scanned = scan(database, entry.compress_algorithm);
    ContentEntry {
        size: EntrySize::Bytes(kept.len() as u64),
        crc: scanned.crc,
        headers: Some(map.append(&scanned.encoded_headers()).unwrap()),
        ..entry
    }
}

/// The records of a stored file with their pages.
fn records(bytes: &[u8], algorithm: CompressAlgorithm) -> Vec<(&[u8], Vec<u8>)> {
    let mut decompressor = Decompressor::new();
    let mut rest = bytes;
    let mut records = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest[4..8].try_into().unwrap());
        let (record, behind) = rest.split_at(8 + usize::try_from(length).unwrap());
        let mut page = vec![0; PAGE_SIZE];
        decompressor
            .decompress(algorithm, &record[8..], &mut page)
            .unwrap();
        records.push((record, page));
        rest = behind;
    }
    records
}

fn pages(path: &Path, algorithm: CompressAlgorithm) -> Pages {
    let bytes = fs::read(path).unwrap();
    let pages = records(&bytes, algorithm)
        .into_iter()
        .map(|(record, page)| {
            let block = u32::from_le_bytes(record[..4].try_into().unwrap());
            (block, page)
        });
    pages.collect()
}

/// Changes a page as a server would: content and checksum.
fn touch(bytes: &mut [u8], block: usize, round: usize) {
    let page = &mut bytes[block * PAGE_SIZE..(block + 1) * PAGE_SIZE];
    page[PAGE_SIZE - 64] = page[PAGE_SIZE - 64].wrapping_add(1);
    page[PAGE_SIZE - 63] = u8::try_from(round).unwrap();
    let number = BlockNumber(u32::try_from(block).unwrap());
    let checksum = page_checksum(page, number);
    page[8..10].copy_from_slice(&checksum.to_le_bytes());
}

/// Copies a tree of files and directories.
pub(crate) fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else if entry.file_type().unwrap().is_symlink() {
            let link = fs::read_link(entry.path()).unwrap();
            std::os::unix::fs::symlink(link, target).unwrap();
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
