//! Restores of a chain of a FULL backup and an increment of one block in a hundred, beside one of
//! the FULL backup alone: into an empty directory, and over what the FULL backup was restored to.

use super::{Bench, Cost, TRIES, remove_backups, run, tree_bytes};
use gs_probackup::format::page::{PAGE_SIZE, page_checksum};
use gs_probackup::format::relation_path::{FileKind, classify};
use gs_probackup::sample::Sample;
use gs_probackup::types::FileBlock;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One block in so many changes.
const STRIDE: u64 = 100;

/// Where backups are restored to.
struct Target {
    data: PathBuf,
    tablespace: PathBuf,
}

impl Target {
    fn clear(&self) {
        for directory in [&self.data, &self.tablespace] {
            match fs::remove_dir_all(directory) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
                _ => {}
            }
        }
    }
}

impl Bench {
    /// Prints the rows of the chain.
    pub(super) fn chain(&self, sample: &mut Sample, copy: Cost) {
        let backups = self.catalog.join("backups/b");
        remove_backups(&backups);
        let full = self.back_up(&backups, "FULL");
        let changed = change(&sample.data_directory, sample.checkpoint.0);
        sample.start_and_stop().expect("the cluster can be written");
        let delta = self.back_up(&backups, "DELTA");
        let increment = tree_bytes(&backups.join(&delta));
        println!("increment: {changed} blocks changed");
        let target = Target {
            data: self.directory.join("chain"),
            tablespace: self.directory.join("chain.tablespace"),
        };
        let mut best: [Option<Cost>; 4] = [None; 4];
        for _ in 0..TRIES {
            // In turn, so that a busy moment of the machine meets all.
            target.clear();
            keep_best(&mut best[0], self.restore(&target, &full, "none"));
            keep_best(&mut best[1], self.restore(&target, &delta, "checksum"));
            keep_best(&mut best[2], self.restore(&target, &delta, "checksum"));
            target.clear();
            keep_best(&mut best[3], self.restore(&target, &delta, "none"));
        }
        target.clear();
        let best = best.map(|cost| cost.expect("there is a try"));
        self.print("restore FULL", best[0], copy, None);
        self.print("restore FULL + 1 %", best[3], copy, Some(increment));
        self.print("over FULL, -I checksum", best[1], copy, None);
        self.print("over itself, -I", best[2], copy, None);
        let share = |cost: Cost| cost.wall.as_secs_f64() / best[0].wall.as_secs_f64();
        println!(
            "to the FULL backup alone: chain {:.2}, in place {:.2}, in place without changes {:.2}",
            share(best[3]),
            share(best[1]),
            share(best[2])
        );
    }

    fn back_up(&self, backups: &Path, mode: &str) -> String {
        let before = names(backups);
        // One backup can begin every second.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        let threads = format!("-j{}", self.threads);
        self.tool(&[
            "backup",
            "--instance=b",
            "-b",
            mode,
            "--offline",
            "--no-validate",
            &threads,
        ]);
        let mut after = names(backups);
        after.retain(|name| !before.contains(name));
        after.pop().expect("a backup was added")
    }

    fn restore(&self, target: &Target, id: &str, mode: &str) -> Cost {
        let mapping = format!(
            "{}={}",
            self.tablespace.display(),
            target.tablespace.display()
        );
        let (threads, data) = (
            format!("-j{}", self.threads),
            target.data.display().to_string(),
        );
        let arguments = [
            "restore",
            "--instance=b",
            "--no-validate",
            &threads,
            "-i",
            id,
        ];
        let more = ["-D", &data, "-T", &mapping, "-I", mode];
        self.tool(&[&arguments[..], &more].concat())
    }
}

fn keep_best(best: &mut Option<Cost>, cost: Cost) {
    if best.is_none_or(|best| cost.wall < best.wall) {
        *best = Some(cost);
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("the instance has a directory");
    let paths = entries.map(|entry| entry.expect("it can be listed").path());
    let names = paths.filter(|path| path.is_dir()).map(|path| {
        let name = path.file_name().expect("listed by its name");
        name.to_str().expect("an id").to_owned()
    });
    names.collect()
}

/// Changes one block in [`STRIDE`] at random, as a server would; returns how many.
fn change(data: &Path, checkpoint: u64) -> u64 {
    let mut random: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut changed = 0;
    let directory = data.join("base/16384");
    for entry in fs::read_dir(&directory).expect("the cluster has a database") {
        let path = entry.expect("it can be listed").path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .expect("text");
        let found = classify(&format!("base/16384/{name}"));
        let FileKind::Relation(relation) = found.kind else {
            continue;
        };
        if relation.compressed || relation.is_segment_space() {
            continue;
        }
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.expect("it can be changed");
        let page_bytes = u64::try_from(PAGE_SIZE).expect("a page is small");
        let blocks = file.metadata().expect("it is open").len() / page_bytes;
        for block in 0..blocks {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            if !(random >> 11).is_multiple_of(STRIDE) {
                continue;
            }
            let mut page = vec![0; PAGE_SIZE];
            file.read_exact_at(&mut page, block * page_bytes)
                .expect("it is there");
            let lsn = checkpoint + 200 + 8 * changed;
            let half = |bits: u64| u32::try_from(bits & 0xFFFF_FFFF).expect("masked");
            page[..4].copy_from_slice(&half(lsn >> 32).to_le_bytes());
            page[4..8].copy_from_slice(&half(lsn).to_le_bytes());
            page[PAGE_SIZE - 100] = page[PAGE_SIZE - 100].wrapping_add(1);
            let number = FileBlock(u32::try_from(block).expect("blocks of a file"));
            let checksum = page_checksum(&page, found.segno.relation_block(number));
            page[8..10].copy_from_slice(&checksum.to_le_bytes());
            file.write_all_at(&page, block * page_bytes)
                .expect("it can be written");
            changed += 1;
        }
    }
    run(Command::new("sync").arg("-f").arg(data));
    changed
}
