//! Increments after a hundredth of the blocks changed at random: what they cost, and how much they
//! read for that.
//!
//! The changes are made as a server makes them, a new position in WAL and a right checksum, and are
//! written down in a file of changed block maps. Three kinds of source: all files of ordinary
//! pages; all files of pages whatever they are, packed ones and those of segment-page storage too;
//! nothing at all, which is what an increment costs anyway.
//!
//! Bytes read are counted by the kernel for the engine `sync` (`rchar` of `/proc/<pid>/io`): all
//! files whatever they are, WAL, the catalog and the program included. WAL, of which a backup takes
//! a whole segment at least, is subtracted.

use super::{Bench, MIB, best, run as run_to_end};
use gs_probackup::format::cbm::PAGE_BLOCKS;
use gs_probackup::format::cbm::builder::PageBuilder;
use gs_probackup::format::page::{PAGE_SIZE, page_checksum};
use gs_probackup::format::relation_path::{FileKind, classify};
use gs_probackup::sample::Sample;
use gs_probackup::types::{BlockNumber, FileBlock};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// One block in so many changes.
const CHANGED_ONE_IN: u64 = 100;

/// Bytes of WAL that an offline backup takes: the segment of the shutdown checkpoint.
const WAL_BYTES: u64 = 16 << 20;

/// Which blocks change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kinds {
    Nothing,
    OrdinaryPages,
    AllPages,
}

/// Tablespace, database, number and bucket of a relation.
type Relation = (u32, u32, u32, i16);

/// Blocks that changed, by relation, in ascending order.
type Changed = Vec<(Relation, Vec<u32>)>;

/// A file of pages.
struct PageFile {
    path: PathBuf,
    /// Tablespace, database and number.
    relation: (u32, u32, u32),
    bucket: i16,
    /// Number of the first block in the relation.
    first: u32,
    blocks: u32,
    is_ordinary: bool,
}

pub(crate) fn run(bench: &Bench, mut sample: Sample) {
    println!(
        "{:<34} {:>8} {:>8} {:>12} {:>12} {:>8}",
        "increment", "wall s", "cpu s", "changed MiB", "read MiB", "ratio"
    );
    // Files as young as a backup are copied whatever is tracked.
    let settle = || std::thread::sleep(std::time::Duration::from_secs(3));
    settle();
    bench.tool(&full());
    for (name, kinds) in [
        ("PTRACK, nothing changed", Kinds::Nothing),
        ("PTRACK, 1 % of ordinary pages", Kinds::OrdinaryPages),
        ("PTRACK, 1 % of all pages", Kinds::AllPages),
    ] {
        measure(bench, &mut sample, name, kinds);
        settle();
        bench.tool(&full());
    }
}

fn full() -> [&'static str; 6] {
    [
        "backup",
        "--instance=b",
        "-b",
        "FULL",
        "--offline",
        "--no-validate",
    ]
}

fn measure(bench: &Bench, sample: &mut Sample, name: &str, kinds: Kinds) {
    let from = sample.checkpoint.0;
    let files = files(sample);
    let changed = change(&files, kinds, from + 8);
    sample.start_and_stop().expect("the sample can be written");
    let pages = track(&changed, from, sample.checkpoint.0);
    let cbm = sample.data_directory.join("pg_cbm");
    let path = cbm.join(format!("pg_xlog_1_{from:016X}_{:016X}.cbm", 0));
    fs::write(&path, pages).expect("the sample can be written");
    let threads = format!("-j{}", bench.threads);
    let words = |engine: &'static str| {
        let mut words = full().to_vec();
        words[3] = "PTRACK";
        words.push(engine);
        words
    };
    let mut timed = words("--io-engine=auto");
    timed.push(&threads);
    let fastest = best(|| {
        let cost = bench.tool(&timed);
        remove_newest(bench);
        cost
    });
    let mut counted = words("--io-engine=sync");
    counted.push(&threads);
    let counted = run_to_end(&mut bench.command(&counted));
    remove_newest(bench);
    let blocks: usize = changed.iter().map(|(_, blocks)| blocks.len()).sum();
    let changed_mib = mib((blocks * PAGE_SIZE) as u64);
    let read_mib = mib(counted.read.saturating_sub(WAL_BYTES));
    println!(
        "{name:<34} {:>8.2} {:>8.2} {changed_mib:>12.1} {read_mib:>12.1} {:>8.2}",
        fastest.wall.as_secs_f64(),
        fastest.cpu.as_secs_f64(),
        read_mib / changed_mib,
    );
    fs::remove_file(path).expect("it was just written");
    // The next measurement grows on a backup of now.
    super::remove_backups(&bench.catalog.join("backups/b"));
}

#[expect(clippy::cast_precision_loss, reason = "a table needs no exact byte")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}

/// Takes away the increment, so that the next one grows on the FULL backup again.
fn remove_newest(bench: &Bench) {
    let directory = bench.catalog.join("backups/b");
    let entries = fs::read_dir(directory).expect("the instance has a directory");
    let entries = entries.map(|entry| entry.expect("it can be listed").path());
    let newest = entries.filter(|path| path.is_dir()).max();
    fs::remove_dir_all(newest.expect("a backup was taken")).expect("it can be removed");
}

/// All files of pages of the cluster.
fn files(sample: &Sample) -> Vec<PageFile> {
    let mut found = Vec::new();
    for (root, prefix) in [
        (sample.data_directory.join("base"), "base".to_owned()),
        (sample.data_directory.join("global"), "global".to_owned()),
        (
            sample.data_directory.join("pg_tblspc/16385"),
            "pg_tblspc/16385".to_owned(),
        ),
    ] {
        let mut pending = vec![(root, prefix)];
        while let Some((directory, prefix)) = pending.pop() {
            for entry in fs::read_dir(directory).expect("it can be listed") {
                let entry = entry.expect("it can be listed");
                let name = format!("{prefix}/{}", entry.file_name().display());
                if entry.file_type().expect("it was just listed").is_dir() {
                    pending.push((entry.path(), name));
                } else {
                    found.extend(page_file(entry.path(), &name));
                }
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// `None` for files that are no main fork of pages.
fn page_file(path: PathBuf, name: &str) -> Option<PageFile> {
    let file = classify(name);
    let FileKind::Relation(relation) = file.kind else {
        return None;
    };
    let number = file.rel?;
    if file.fork.is_some() {
        return None;
    }
    let is_segment_space = number <= 5;
    let parts: Vec<&str> = name.split('/').collect();
    let database = |index: usize| parts.get(index).and_then(|text| text.parse().ok());
    let relation_numbers = match parts[0] {
        "global" => (1664, 0, number),
        "base" => (1663, database(1)?, number),
        _ => (16_385, database(3)?, number),
    };
    let length = fs::metadata(&path).expect("it was just listed").len();
    let blocks = u32::try_from(length / PAGE_SIZE as u64).expect("a segment file");
    let (first, blocks) = match relation.compressed {
        // An extent of 128 pages holds 127 blocks.
        true => (file.segno.0 * 130_048, blocks / 128 * 127),
        false => (file.segno.relation_block(FileBlock(0)).0, blocks),
    };
    Some(PageFile {
        path,
        relation: relation_numbers,
        bucket: if is_segment_space { 16_384 } else { -1 },
        first,
        blocks,
        is_ordinary: !relation.compressed && !is_segment_space,
    })
}

/// Changes blocks at random.
fn change(files: &[PageFile], kinds: Kinds, lsn: u64) -> Changed {
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random >> 11
    };
    let mut changed: BTreeMap<Relation, Vec<u32>> = BTreeMap::new();
    for file in files {
        let is_wanted = match kinds {
            Kinds::Nothing => false,
            Kinds::OrdinaryPages => file.is_ordinary,
            Kinds::AllPages => true,
        };
        let blocks = (0..file.blocks).filter(|_| is_wanted && next() % CHANGED_ONE_IN == 0);
        let blocks: Vec<u32> = blocks.collect();
        if blocks.is_empty() {
            continue;
        }
        if file.is_ordinary {
            write(file, &blocks, lsn);
        }
        let (tablespace, database, number) = file.relation;
        let key = (tablespace, database, number, file.bucket);
        let all = blocks.into_iter().map(|block| file.first + block);
        changed.entry(key).or_default().extend(all);
    }
    for blocks in changed.values_mut() {
        blocks.sort_unstable();
    }
    changed.into_iter().collect()
}

/// Writes the blocks of a file as the server would.
fn write(file: &PageFile, blocks: &[u32], lsn: u64) {
    let target = OpenOptions::new().read(true).write(true).open(&file.path);
    let target = target.expect("the sample can be written");
    let mut page = vec![0; PAGE_SIZE];
    for &block in blocks {
        let at = u64::from(block) * PAGE_SIZE as u64;
        target
            .read_exact_at(&mut page, at)
            .expect("the block is there");
        if page.iter().all(|byte| *byte == 0) {
            continue;
        }
        let halves = [lsn >> 32, lsn & 0xFFFF_FFFF];
        let [high, low] = halves.map(|half| u32::try_from(half).expect("a half"));
        page[..4].copy_from_slice(&high.to_le_bytes());
        page[4..8].copy_from_slice(&low.to_le_bytes());
        let checksum = page_checksum(&page, BlockNumber(file.first + block));
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
        target
            .write_all_at(&page, at)
            .expect("the sample can be written");
    }
}

/// The pages of one batch with all changes.
fn track(changed: &[(Relation, Vec<u32>)], from: u64, to: u64) -> Vec<u8> {
    let mut pages = Vec::new();
    for ((tablespace, database, relation, bucket), blocks) in changed {
        for blocks in blocks.chunk_by(|a, b| a / PAGE_BLOCKS == b / PAGE_BLOCKS) {
            pages.push(PageBuilder {
                is_last: false,
                batch: (from, to),
                relation: (*tablespace, *database, *relation),
                bucket: *bucket,
                blocks,
                ..PageBuilder::default()
            });
        }
    }
    match pages.last_mut() {
        Some(last) => last.is_last = true,
        None => return PageBuilder::empty((from, to)),
    }
    pages.into_iter().flat_map(PageBuilder::build).collect()
}
