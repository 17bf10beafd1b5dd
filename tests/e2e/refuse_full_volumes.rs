//! Volumes that cannot hold a backup are left as they are, to the last byte: too small ones, and
//! where the backup has names that DSS cannot have.

use crate::chain::ChainOfBackups;
use crate::faults::{Fault, Planned, meet, steps_of};
use crate::restore_shared_volumes::{Volumes, assert_same, chain};
use crate::support::{Output, assert_success};
use gs_probackup::format::catalog::{ContentEntry, EntrySize, FileType};
use std::fs;
use std::path::Path;

const UNIT: u64 = 2 << 20;

/// Units of a new group that are its own: head, redo ring, and nodes.
const OWN_UNITS: u64 = 2 + 32 + 1;

/// Units that are more than enough.
const MANY: u64 = 500;

/// New groups with so many free units.
fn groups_of(scratch: &Path, name: &str, units: [u64; 2]) -> Volumes {
    let bytes = units.map(|units| (OWN_UNITS + units) * UNIT);
    let volumes = Volumes::create_of(scratch, name, bytes, false, false);
    let _ = fs::remove_dir_all(&volumes.data);
    volumes
}

fn digests(volumes: &Volumes) -> [u32; 2] {
    let images = volumes.images.each_ref();
    images.map(|image| crc32c::crc32c(&fs::read(image).unwrap()))
}

/// Restores with one thread, so that no two files are packed at a time.
fn restore(volumes: &Volumes, chain: &ChainOfBackups, id: &str, more: &[&str]) -> Output {
    let mut all = vec!["-j1", "--no-validate"];
    all.extend(more);
    volumes.restore(chain, id, &all)
}

/// The units that are said to be needed and to be free, of a group.
fn told(output: &Output, group: &str) -> (u64, u64) {
    assert_eq!(output.code, Some(1), "{output:#?}");
    let begin = format!("ERROR: no room in volume group {group}: ");
    let mut lines = output.stderr.lines();
    let line = lines.find_map(|line| line.strip_prefix(&begin));
    let line = line.unwrap_or_else(|| panic!("{output:#?}"));
    let mut numbers = line.split(' ').filter_map(|word| word.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// The units of a group that a restore needs, by what it says where there are few.
fn needed(chain: &ChainOfBackups, id: &str, scratch: &Path, group: &str) -> u64 {
    let units = match group {
        "data" => [7, MANY],
        _ => [MANY, 1],
    };
    let volumes = groups_of(scratch, "small", units);
    let (needed, has) = told(&restore(&volumes, chain, id, &[]), group);
    assert!(units.contains(&has));
    needed
}

#[test]
fn the_smallest_groups_that_a_restore_fits_into_are_known_before() {
    let (chain, states) = chain();
    let scratch = tempfile::tempdir().unwrap();
    let scratch = scratch.path();
    let id = &chain.ids[1];
    let units = ["data", "log"].map(|group| needed(&chain, id, scratch, group));
    for (number, group) in ["data", "log"].into_iter().enumerate() {
        let mut less = units;
        less[number] -= 1;
        let volumes = groups_of(scratch, "less", less);
        let before = digests(&volumes);
        let refused = restore(&volumes, &chain, id, &[]);
        assert_eq!(told(&refused, group), (units[number], less[number]));
        let hint = format!(
            "HINT: nothing was written; 2048kB more are needed: add a volume with gs_probackup \
             dss adv --vg {group}="
        );
        assert!(refused.stderr.contains(&hint), "{refused:#?}");
        assert_eq!(digests(&volumes), before);
    }
    let volumes = groups_of(scratch, "exact", units);
    assert_success(&restore(&volumes, &chain, id, &[]));
    assert_same(&states[1], &volumes.state(scratch), "exact");
    // What is there already needs no room, and what goes makes some.
    assert_success(&restore(
        &volumes,
        &chain,
        &chain.ids[0],
        &["-I", "checksum"],
    ));
    assert_same(&states[0], &volumes.state(scratch), "in place");

    // Where a crash left a batch to be applied, and the other backup does not fit.
    let first = needed(&chain, &chain.ids[0], scratch, "data");
    let first = [first, units[1] + 8];
    assert!(first[0] < units[0]);
    let volumes = half_restored(&chain, scratch, first);
    let before = digests(&volumes);
    let refused = restore(&volumes, &chain, id, &["-I", "checksum"]);
    told(&refused, "data");
    assert_eq!(digests(&volumes), before);
    assert_success(&restore(
        &volumes,
        &chain,
        &chain.ids[0],
        &["-I", "checksum"],
    ));
    assert_same(&states[0], &volumes.state(scratch), "after a refusal");
}

/// Groups that a restore was killed on, in the middle of a transaction.
fn half_restored(chain: &ChainOfBackups, scratch: &Path, units: [u64; 2]) -> Volumes {
    let id = &chain.ids[0];
    let words = ["-j1", "--no-validate"];
    let volumes = groups_of(scratch, "killed", units);
    let steps = steps_of(&mut volumes.command(chain, id, &words)).len();
    for step in steps / 2..steps {
        let volumes = std::cell::RefCell::new(None);
        meet(&Planned::among_all(Fault::Kill(step)), || {
            let new = groups_of(scratch, "killed", units);
            let command = new.command(chain, id, &words);
            volumes.replace(Some(new));
            command
        });
        let volumes = volumes.into_inner().unwrap();
        if volumes.dss(&["stat"]).stdout.contains("is begun") {
            return volumes;
        }
    }
    panic!("no step is in the middle of a transaction");
}

#[test]
fn names_that_shared_storage_cannot_have_are_told_before_anything_is_written() {
    let (chain, _) = chain();
    let id = &chain.ids[1];
    let scratch = tempfile::tempdir().unwrap();
    let volumes = groups_of(scratch.path(), "names", [8, 8]);
    let before = digests(&volumes);
    let dir = chain.directory(id);
    let (mut control, _) = dir.read_control().unwrap();
    let list = dir.read_content_list(control.content_crc).unwrap();
    let long = "x".repeat(64);
    let deep = format!("base/{}", ["deep"; 203].join("/"));
    for (path, problem) in [
        ("base/1/a b", "names have 1 to 63"),
        ("base/1/\u{e4}", "names have 1 to 63"),
        (&long, "names have 1 to 63"),
        (&deep, "a path has 1024 bytes at most"),
        (".recycle/x", "the name is the server's own"),
        ("nosuch/x", "it is in no directory of the backup"),
        ("pg_replication/pg_ss_ctl_info/x", "it is in no directory"),
        ("pg_tblspc/16385", "it is there twice"),
    ] {
        let entry = ContentEntry {
            file_type: FileType::Dss,
            ..ContentEntry::file(path, 0o600, EntrySize::Bytes(0), 0)
        };
        // A file where the backup has a directory stands for that.
        let others = list
            .iter()
            .filter(|other| other.path != path || other.file_type != FileType::Dss);
        let entries: Vec<ContentEntry<'_>> = others.chain([entry]).collect();
        let totals = dir.write_content_list(entries).unwrap();
        control.content_crc = Some(totals.crc);
        dir.write_control(&control).unwrap();
        let refused = restore(&volumes, &chain, id, &[]);
        assert_eq!(refused.code, Some(1), "{path}: {refused:#?}");
        let said = format!("which cannot be on shared storage: {problem}");
        assert!(refused.stderr.contains(&said), "{path}: {refused:#?}");
        assert_eq!(digests(&volumes), before, "{path}");
    }
}
