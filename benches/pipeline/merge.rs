//! Merging an increment of one block in a hundred, anywhere, into its FULL backup.
//!
//! Each try merges in a copy of the catalog (`cp -a`, then `sync -f`), so its files are in the page
//! cache; `cold` rows have them dropped from it first. Files that keep their inode were overwritten
//! in place or not touched.

use super::{Bench, Cost, TRIES, remove_backups, run};
use gs_probackup::format::page::{PAGE_SIZE, page_checksum};
use gs_probackup::format::relation_path::{FileKind, classify};
use gs_probackup::sample::Sample;
use gs_probackup::types::FileBlock;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// One block in so many changes.
const SHARE: u64 = 100;

impl Bench {
    /// The rows for these compressions.
    pub(crate) fn merges(&self, sample: &mut Sample, copy: Cost) {
        for algorithm in ["none", "zlib"] {
            let ids = self.full_and_increment(sample, algorithm);
            for (name, arguments, cold) in [
                ("", &["--no-validate"][..], false),
                (" cold", &["--no-validate"][..], true),
                (" validated", &[][..], false),
            ] {
                self.merge(
                    &format!("merge {algorithm}{name}"),
                    &ids,
                    arguments,
                    cold,
                    copy,
                );
            }
        }
    }

    /// A FULL backup and an increment on it; their ids.
    fn full_and_increment(&self, sample: &mut Sample, algorithm: &str) -> Vec<String> {
        let backups = self.catalog.join("backups/b");
        remove_backups(&backups);
        let compression = format!("--compress-algorithm={algorithm}");
        for mode in ["FULL", "DELTA"] {
            if mode == "DELTA" {
                let changed = change(sample);
                println!("# {changed} blocks changed");
            }
            let arguments = [
                "backup",
                "--instance=b",
                "-b",
                mode,
                "--offline",
                "--no-validate",
                compression.as_str(),
                "-j",
                self.threads.as_str(),
            ];
            self.tool(&arguments);
            // One backup can begin every second.
            std::thread::sleep(std::time::Duration::from_millis(1100));
        }
        let mut ids = backups_in(&backups);
        ids.sort();
        assert_eq!(ids.len(), 2, "a FULL backup and an increment");
        ids
    }

    fn merge(&self, name: &str, ids: &[String], more: &[&str], cold: bool, copy: Cost) {
        let target = self.directory.join("merged");
        let mut best: Option<Cost> = None;
        let mut kept = 0;
        for _ in 0..TRIES {
            run(Command::new("cp").arg("-a").arg(&self.catalog).arg(&target));
            run(Command::new("sync").arg("-f").arg(&target));
            if cold {
                drop_caches(&target);
            }
            let instance = target.join("backups/b");
            let before = inodes(&instance.join(&ids[0]).join("database"));
            let mut command = Command::new(env!("CARGO_BIN_EXE_gs_probackup"));
            command.arg("merge").arg("-B").arg(&target);
            command.args(["--instance=b", "-i", &ids[1], "-j", &self.threads]);
            let cost = run(command.args(more));
            let after = inodes(&instance.join(&ids[1]).join("database"));
            let large = |(path, inode): &(&PathBuf, &(u64, u64))| {
                inode.1 > 1 << 20 && before.get(*path) == Some(*inode)
            };
            kept = after.iter().filter(large).count();
            if best.is_none_or(|best| cost.wall < best.wall) {
                best = Some(cost);
            }
            fs::remove_dir_all(&target).expect("the copy can be removed");
        }
        let best = best.expect("there is a try");
        self.print(name, best, copy, None);
        println!("# {kept} files above 1 MiB kept their inode");
    }
}

fn backups_in(instance: &Path) -> Vec<String> {
    let entries = fs::read_dir(instance).expect("the instance can be listed");
    let entries = entries.map(|entry| entry.expect("it can be listed"));
    let directories = entries.filter(|entry| entry.path().is_dir());
    directories
        .map(|entry| entry.file_name().into_string().expect("ids are ASCII"))
        .collect()
}

/// Inode and size of all files below a directory.
fn inodes(directory: &Path) -> HashMap<PathBuf, (u64, u64)> {
    let mut found = HashMap::new();
    for_files(directory, &mut |path, metadata| {
        let below = path.strip_prefix(directory).expect("it is below");
        found.insert(below.to_owned(), (metadata.ino(), metadata.len()));
    });
    found
}

fn drop_caches(directory: &Path) {
    for_files(directory, &mut |path, _| {
        let file = File::open(path).expect("it can be read");
        let advice = rustix::fs::Advice::DontNeed;
        rustix::fs::fadvise(&file, 0, None, advice).expect("a file takes advice");
    });
}

fn for_files(directory: &Path, see: &mut dyn FnMut(&Path, &fs::Metadata)) {
    for entry in fs::read_dir(directory).expect("it can be listed") {
        let entry = entry.expect("it can be listed");
        let metadata = entry.metadata().expect("it was just listed");
        if metadata.is_dir() {
            for_files(&entry.path(), see);
        } else if metadata.is_file() {
            see(&entry.path(), &metadata);
        }
    }
}

/// Starts the cluster, changes one block in [`SHARE`] of its relations, and stops it; as far as its
/// files tell.
fn change(sample: &mut Sample) -> u64 {
    let lsn = sample.checkpoint.0 + 4096;
    sample.start_and_stop().expect("the cluster can be written");
    let mut random = 1_u64;
    let mut changed = 0;
    let base = sample.data_directory.join("base");
    for_files(&base, &mut |path, metadata| {
        let below = path
            .strip_prefix(&sample.data_directory)
            .expect("it is below");
        let found = classify(&below.display().to_string());
        let is_packed = |kind: &FileKind| match kind {
            FileKind::Relation(relation) => relation.compressed || relation.is_segment_space(),
            _ => true,
        };
        if is_packed(&found.kind) {
            return;
        }
        let blocks = metadata.len() / PAGE_SIZE as u64;
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.expect("the cluster is ours");
        for _ in 0..blocks / SHARE {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let block = (random >> 33) % blocks;
            let mut page = vec![0; PAGE_SIZE];
            file.read_exact_at(&mut page, block * PAGE_SIZE as u64)
                .expect("the block is there");
            if page.iter().all(|byte| *byte == 0) {
                continue;
            }
            page[..4].copy_from_slice(&u32::try_from(lsn >> 32).expect("half").to_le_bytes());
            let low = u32::try_from(lsn & 0xFFFF_FFFF).expect("half");
            page[4..8].copy_from_slice(&low.to_le_bytes());
            page[PAGE_SIZE - 64] ^= 1;
            let in_file = FileBlock(u32::try_from(block).expect("a segment file"));
            let checksum = page_checksum(&page, found.segno.relation_block(in_file));
            page[8..10].copy_from_slice(&checksum.to_le_bytes());
            file.write_all_at(&page, block * PAGE_SIZE as u64)
                .expect("the cluster is ours");
            changed += 1;
        }
    });
    changed
}
