//! Random changes of a generated cluster, as a server makes them: a page that changes gets a
//! position in WAL behind the last checkpoint, growth comes as zeros or as such pages, files come
//! and go. And plain copies to compare with.

use super::tracking::{Happened, Tracker};
use gs_probackup::format::page::{PAGE_SIZE, page_checksum};
use gs_probackup::format::relation_path::{FileKind, classify};
use gs_probackup::sample::Sample;
use gs_probackup::types::{BlockNumber, FileBlock};
use std::collections::BTreeSet;
use std::fs::{self, File, FileTimes, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Numbers from a seed (xorshift).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }

    pub(crate) fn choose<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let index = self.below(from.len() as u64);
        &from[usize::try_from(index).unwrap()]
    }
}

/// Changes the files of a stopped cluster.
pub(crate) struct Changer<'a> {
    sample: &'a Sample,
    random: &'a mut Random,
    tracker: &'a mut Tracker,
    /// Position in WAL of the last change.
    lsn: u64,
}

/// A relation's file: its path, and what a content list calls it.
struct Relation {
    path: PathBuf,
    name: String,
}

impl<'a> Changer<'a> {
    pub(crate) fn new(
        sample: &'a Sample,
        random: &'a mut Random,
        tracker: &'a mut Tracker,
    ) -> Changer<'a> {
        let lsn = sample.checkpoint.0 + 200;
        Changer {
            sample,
            random,
            tracker,
            lsn,
        }
    }

    pub(crate) fn change_some(&mut self) {
        for _ in 0..2 + self.random.below(10) {
            let relations = self.relations();
            let relation = self.random.choose(&relations);
            match self.random.below(12) {
                0..=3 => self.write_pages(relation),
                4 | 5 => self.extend(relation),
                6 | 7 => self.truncate(relation),
                8 => self.drop(relation),
                9 => self.create(&relations),
                10 => self.truncate_and_extend(relation),
                _ => self.change_plain_file(),
            }
        }
    }

    /// All files of pages that are not packed, by path.
    fn relations(&self) -> Vec<Relation> {
        let roots = [
            (self.sample.data_directory.join("base/16384"), "base/16384"),
            (
                self.sample.tablespace.join("PG_9.2_201611171_single/16384"),
                "pg_tblspc/16385/PG_9.2_201611171_single/16384",
            ),
        ];
        let mut relations = Vec::new();
        for (directory, prefix) in roots {
            for entry in fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                let name = format!("{prefix}/{}", entry.file_name().display());
                match classify(&name).kind {
                    FileKind::Relation(found) if !found.compressed => relations.push(Relation {
                        path: entry.path(),
                        name,
                    }),
                    _ => {}
                }
            }
        }
        relations.sort_by(|a, b| a.name.cmp(&b.name));
        relations
    }

    fn blocks(relation: &Relation) -> u64 {
        fs::metadata(&relation.path).unwrap().len() / PAGE_SIZE as u64
    }

    /// Writes a page as the server would: a new position, a right checksum.
    fn write(&mut self, relation: &Relation, block: u64, mut page: Vec<u8>) {
        self.lsn += 8 + self.random.below(500) * 8;
        let [high, low] = [self.lsn >> 32, self.lsn & 0xFFFF_FFFF].map(u32::try_from);
        page[..4].copy_from_slice(&high.unwrap().to_le_bytes());
        page[4..8].copy_from_slice(&low.unwrap().to_le_bytes());
        let at = PAGE_SIZE - 8 - usize::try_from(self.random.below(2000)).unwrap();
        page[at] = page[at].wrapping_add(1);
        let segno = classify(&relation.name).segno;
        let number = segno.relation_block(FileBlock(u32::try_from(block).unwrap()));
        let checksum = page_checksum(&page, BlockNumber(number.0));
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
        let file = OpenOptions::new().write(true).open(&relation.path).unwrap();
        file.write_all_at(&page, block * PAGE_SIZE as u64).unwrap();
        let block = u32::try_from(block).unwrap();
        self.tracker.changed(&relation.name, &[block]);
    }

    fn drop(&mut self, relation: &Relation) {
        fs::remove_file(&relation.path).unwrap();
        self.tracker.happened(&relation.name, Happened::Dropped, 0);
    }

    fn read(relation: &Relation, block: u64) -> Vec<u8> {
        let mut page = vec![0; PAGE_SIZE];
        let file = File::open(&relation.path).unwrap();
        file.read_exact_at(&mut page, block * PAGE_SIZE as u64)
            .unwrap();
        page
    }

    fn write_pages(&mut self, relation: &Relation) {
        let blocks = Self::blocks(relation);
        if blocks == 0 {
            return;
        }
        for _ in 0..1 + self.random.below(6) {
            let block = self.random.below(blocks);
            let page = Self::read(relation, block);
            let is_new = page.iter().all(|byte| *byte == 0);
            // Addresses of chunks are no page.
            if !is_new && !page.ends_with(b"seg_comp") {
                self.write(relation, block, page);
            }
        }
    }

    fn extend(&mut self, relation: &Relation) {
        let blocks = Self::blocks(relation);
        let count = 1 + self.random.below(150);
        let file = OpenOptions::new().write(true).open(&relation.path).unwrap();
        file.set_len((blocks + count) * PAGE_SIZE as u64).unwrap();
        for block in blocks..blocks + count {
            if self.random.below(3) > 0 {
                self.write(relation, block, empty_page());
            }
        }
    }

    fn truncate(&mut self, relation: &Relation) {
        let blocks = self.random.below(Self::blocks(relation) + 1);
        let file = OpenOptions::new().write(true).open(&relation.path).unwrap();
        file.set_len(blocks * PAGE_SIZE as u64).unwrap();
        let left = u32::try_from(blocks).unwrap();
        let what = Happened::Truncated;
        self.tracker.happened(&relation.name, what, left);
    }

    fn truncate_and_extend(&mut self, relation: &Relation) {
        self.truncate(relation);
        self.extend(relation);
    }

    /// A new relation, or a copy of another as a new database has them: with old positions.
    fn create(&mut self, relations: &[Relation]) {
        let number = 30_000 + self.random.below(1000);
        let name = format!("base/16384/{number}");
        let path = self.sample.data_directory.join(&name);
        if path.exists() {
            return;
        }
        self.tracker.happened(&name, Happened::Created, 0);
        if self.random.below(2) == 0 {
            let segment_file = |relation: &&Relation| relation.name.contains('.');
            let copied = relations.iter().find(|found| !segment_file(found));
            fs::copy(&copied.unwrap().path, &path).unwrap();
        } else {
            File::create(&path).unwrap();
            self.extend(&Relation { path, name });
        }
    }

    /// Content with or without a new time, a new time alone, or a file more.
    fn change_plain_file(&mut self) {
        let names = ["postgresql.conf", "undo/undometa", "pg_ident.conf"];
        let path = self.sample.data_directory.join(self.random.choose(&names));
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        match self.random.below(4) {
            0 => {
                let other = self.random.below(1000);
                fs::write(self.sample.data_directory.join(format!("x{other}")), b"x").unwrap();
            }
            1 => touch(&path, std::time::SystemTime::now()),
            kind => {
                let file = OpenOptions::new().write(true).open(&path).unwrap();
                let length = fs::metadata(&path).unwrap().len();
                let byte = u8::try_from(self.random.below(256)).unwrap();
                file.write_all_at(&[byte], self.random.below(length))
                    .unwrap();
                if kind == 2 {
                    touch(&path, before);
                }
            }
        }
    }
}

/// A page with a header and nothing else.
pub(crate) fn empty_page() -> Vec<u8> {
    let mut page = vec![0; PAGE_SIZE];
    page[12..14].copy_from_slice(&24_u16.to_le_bytes());
    page[14..16].copy_from_slice(&8192_u16.to_le_bytes());
    page[16..18].copy_from_slice(&8192_u16.to_le_bytes());
    page[18..20].copy_from_slice(&(8192_u16 | 4).to_le_bytes());
    page
}

fn touch(path: &Path, time: std::time::SystemTime) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_times(FileTimes::new().set_modified(time)).unwrap();
}

/// Copies a directory with all that is in it.
pub(crate) fn copy_tree(from: &Path, to: &Path) {
    let mut copy = Command::new("cp");
    copy.args(["-a", "--sparse=always"]).arg(from).arg(to);
    assert!(copy.status().unwrap().success());
}

/// What a backup has of a tree: not the contents of scratch directories, and only the WAL that a
/// start needs.
pub(crate) fn is_backed_up(name: &str) -> bool {
    let scratch = [
        "pg_log/",
        "pg_notify/",
        "pg_stat_tmp/",
        "pg_xlog/",
        "pg_replslot/",
    ];
    !scratch.iter().any(|directory| name.starts_with(directory))
        && !["postmaster.opts", "postmaster.pid", "tablespace_map"].contains(&name)
        && !name.ends_with("pgsql_tmp")
}

fn names(root: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                pending.push(entry.path());
            }
            let name = entry
                .path()
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            if is_backed_up(&name) {
                names.insert(name);
            }
        }
    }
    names
}

/// Fails unless the restored tree is the other one, byte for byte.
#[track_caller]
pub(crate) fn assert_same_tree(expected: &Path, restored: &Path) {
    let (ours, theirs) = (names(expected), names(restored));
    let differing: Vec<&String> = ours.symmetric_difference(&theirs).collect();
    assert!(differing.is_empty(), "{differing:?}");
    for name in &ours {
        let (one, other) = (expected.join(name), restored.join(name));
        let metadata = fs::symlink_metadata(&one).unwrap();
        if !metadata.is_file() {
            continue;
        }
        assert_eq!(
            metadata.len(),
            fs::metadata(&other).unwrap().len(),
            "length of {name}"
        );
        let same = fs::read(&one).unwrap() == fs::read(&other).unwrap();
        assert!(same, "{} is not {}", other.display(), one.display());
    }
}
