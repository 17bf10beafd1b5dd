//! A chain becomes one FULL backup that restores as its last member did, whatever interrupts it.

use crate::chain::{ChainOfBackups, copy_tree};
use crate::cluster::INSTANCE;
use crate::fixtures::{self, ManifestLine};
use crate::support::{assert_success, gs_probackup};
use crate::take_full_backup::check_independently;
use gs_probackup::format::catalog::{BackupStatus, ContentEntry, ContentList, EntrySize, Root};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(crate) type Manifest = BTreeMap<String, ManifestLine>;

/// A directory in memory, where there is one: what is tested with it is the order of the steps, and
/// a disk would be asked hundreds of times to make something durable.
pub(crate) fn memory() -> tempfile::TempDir {
    let memory = tempfile::tempdir_in("/dev/shm");
    memory.unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// Restores a backup of a generated cluster and returns what came out.
pub(crate) fn restored(
    catalog: &Path,
    id: &str,
    chain: &ChainOfBackups,
) -> Result<Manifest, String> {
    restored_with(&[], catalog, id, chain)
}

/// As [`restored`], with further arguments.
fn restored_with(
    more: &[&str],
    catalog: &Path,
    id: &str,
    chain: &ChainOfBackups,
) -> Result<Manifest, String> {
    let scratch = memory();
    let (target, tablespace) = (scratch.path().join("data"), scratch.path().join("ts"));
    let mapping = format!(
        "{}={}",
        chain.cluster.sample.tablespace.display(),
        tablespace.display()
    );
    let data = target.display().to_string();
    let arguments = [
        "restore",
        "--instance",
        INSTANCE,
        "-i",
        id,
        "-D",
        &data,
        "-T",
        &mapping,
        "--no-sync",
    ];
    let output = gs_probackup(&[&arguments[..], more].concat(), catalog);
    if output.code != Some(0) {
        return Err(output.stderr);
    }
    let mut manifest = fixtures::manifest(&target);
    // The links to the tablespace name this run's directory.
    manifest.retain(|_, line| line.kind != "l");
    let tablespace = fixtures::manifest(&tablespace).into_iter();
    manifest.extend(tablespace.map(|(path, line)| (format!("tablespace/{path}"), line)));
    Ok(manifest)
}

#[track_caller]
pub(crate) fn assert_same(expected: &Manifest, found: &Manifest, when: &str) {
    let differences = fixtures::differences(expected, found);
    assert!(
        differences.is_empty(),
        "{when}:\n{}",
        differences.join("\n")
    );
}

pub(crate) fn small_chain() -> ChainOfBackups {
    let none: &[&str] = &["--no-validate"];
    let zlib: &[&str] = &["--no-validate", "--compress-algorithm=zlib"];
    ChainOfBackups::create(&[none, zlib, none])
}

pub(crate) fn copy_of(chain: &ChainOfBackups, scratch: &Path) -> PathBuf {
    let catalog = scratch.join("catalog");
    copy_tree(&chain.cluster.catalog, &catalog);
    catalog
}

#[test]
fn chain_of_a_generated_cluster_is_merged_at_each_member() {
    let none: &[&str] = &["--no-validate"];
    let zlib: &[&str] = &["--no-validate", "--compress-algorithm=zlib"];
    let lz4: &[&str] = &["--no-validate", "--compress-algorithm=lz4"];
    let ways = [["-j1", "--io-engine=sync"], ["-j2", "--io-engine=auto"]];
    for (number, arguments) in [
        [none, zlib, lz4, none],
        [zlib, zlib, none, zlib],
        [lz4, none, zlib, lz4],
    ]
    .iter()
    .enumerate()
    {
        let chain = ChainOfBackups::create(arguments);
        let expected: Vec<Manifest> = chain
            .ids
            .iter()
            .map(|id| restored(&chain.cluster.catalog, id, &chain).unwrap())
            .collect();
        for merged in 1..chain.ids.len() {
            let scratch = memory();
            let catalog = copy_of(&chain, scratch.path());
            let id = &chain.ids[merged];
            let arguments = ["merge", "--instance", INSTANCE, "-i", id];
            let way = ways[(merged + number) % 2];
            assert_success(&gs_probackup(&[&arguments[..], &way].concat(), &catalog));
            for (id, expected) in chain.ids.iter().zip(&expected).skip(merged) {
                let found = restored(&catalog, id, &chain).unwrap();
                assert_same(expected, &found, &format!("{id} after merging {merged}"));
            }
            check_independently(chain.directory_in(&catalog, id).path());
            let validate = gs_probackup(&["validate", "--instance", INSTANCE], &catalog);
            assert_success(&validate);
            let instance = catalog.join("backups").join(INSTANCE);
            let left = std::fs::read_dir(instance).unwrap().count();
            assert_eq!(
                left,
                chain.ids.len() - merged + 1,
                "the others and the settings"
            );
        }
    }
}

/// Spoils the checksum within a stored page, as a cluster without page checksums may have it, and
/// says in the record whether it is one.
fn spoil_a_checksum(chain: &ChainOfBackups, id: &str, page_checksums: bool) {
    let dir = chain.directory(id);
    let (mut control, _) = dir.read_control().unwrap();
    let list = dir.read_content_list(control.content_crc).unwrap();
    // Of a file that its parent has too, so that pages of both come together.
    let full = chain.directory(&chain.ids[0]);
    let (full_control, _) = full.read_control().unwrap();
    let full_list = full.read_content_list(full_control.content_crc).unwrap();
    let is_stored = |entry: &ContentEntry<'_>| {
        let in_full = full_list.find(&entry.path, Root::Data);
        entry.is_datafile
            && entry.size.bytes() > 0
            && in_full.is_some_and(|found| found.size.bytes() > entry.size.bytes())
    };
    let spoiled = list.iter().filter(is_stored);
    let spoiled = spoiled.max_by_key(|entry| entry.size.bytes()).unwrap();
    let path = dir.database().join(&*spoiled.path);
    let mut bytes = std::fs::read(&path).unwrap();
    // Behind the record's header and the page's position in WAL.
    bytes[8 + 8] ^= 0x55;
    std::fs::write(&path, bytes).unwrap();
    let database = gs_probackup::storage::Posix::open(&dir.database()).unwrap();
    let stored = Path::new(&*spoiled.path);
    let (_, crc) = gs_probackup::pipeline::file_crc(&database, stored).unwrap();
    let entries = list.iter().map(|entry| match entry.path == spoiled.path {
        true => ContentEntry { crc, ..entry },
        false => entry,
    });
    let totals = dir.write_content_list(entries).unwrap();
    control.content_crc = Some(totals.crc);
    control.checksum_version = u32::from(page_checksums);
    dir.write_control(&control).unwrap();
}

#[test]
fn chain_whose_checksums_were_switched_off_is_merged() {
    let none: &[&str] = &["--no-validate"];
    for page_checksums in [true, false] {
        let chain = ChainOfBackups::create(&[none, none]);
        let catalog = &chain.cluster.catalog;
        spoil_a_checksum(&chain, chain.last(), page_checksums);
        // Validation would say that `pg_control` knows better: openGauss always has checksums.
        let restore = || restored_with(&["--no-validate"], catalog, chain.last(), &chain);
        let expected = (!page_checksums).then(|| restore().unwrap());
        let arguments = ["merge", "--instance", INSTANCE, "-i", chain.last()];
        let arguments = [&arguments[..], &["--no-validate"]].concat();
        let output = gs_probackup(&arguments, catalog);
        let Some(expected) = expected else {
            assert_eq!(output.code, Some(1), "{output:?}");
            assert!(output.stderr.contains("checksum"), "{output:?}");
            assert!(restore().is_err());
            continue;
        };
        assert_success(&output);
        let (control, _) = chain.directory(chain.last()).read_control().unwrap();
        assert_eq!(control.checksum_version, 0);
        assert_same(&expected, &restore().unwrap(), "merged");
    }
}

#[test]
fn increment_that_was_being_deleted_is_not_merged_and_keeps_nothing_from_it() {
    let chain = small_chain();
    let catalog = &chain.cluster.catalog;
    let [full, middle, last] = [&chain.ids[0], &chain.ids[1], &chain.ids[2]];
    let merge = |id: &str| gs_probackup(&["merge", "--instance", INSTANCE, "-i", id], catalog);
    let set = |id: &str, status| chain.directory(id).set_status(status).unwrap();
    set(middle, BackupStatus::Deleting);
    for id in [middle, last] {
        let output = merge(id);
        assert_eq!(output.code, Some(1));
        let text = format!("ERROR: Backup {middle} has status: DELETING");
        assert!(output.stderr.contains(&text), "{}", output.stderr);
    }
    assert_success(&gs_probackup(
        &["validate", "--instance", INSTANCE, "-i", full],
        catalog,
    ));
    set(middle, BackupStatus::Ok);
    assert_success(&merge(middle));
    set(last, BackupStatus::Deleting);
    let output = merge(middle);
    assert_success(&output);
    let text = format!("WARNING: Backup {middle} is merged already: nothing is left to do");
    assert!(output.stderr.contains(&text), "{}", output.stderr);
}

#[test]
fn what_a_path_was_before_its_complete_copy_does_not_matter() {
    let none: &[&str] = &["--no-validate"];
    // A directory, then a relation file, then that file changed, then as it was.
    let chain = ChainOfBackups::create_with(&[none, none, none, none], 4, |data, round| {
        let mut databases: Vec<PathBuf> = std::fs::read_dir(data.join("base"))
            .unwrap()
            .map(|database| database.unwrap().path())
            .collect();
        databases.sort();
        let path = databases[0].join("950000");
        let blocks = 2;
        match round {
            0 => {
                std::fs::create_dir(&path).unwrap();
                std::fs::write(path.join("1234"), b"").unwrap();
            }
            1 => {
                std::fs::remove_dir_all(&path).unwrap();
                std::fs::write(&path, pages_of_zeros(blocks)).unwrap();
            }
            2 => std::fs::write(&path, pages_of_zeros(blocks + 1)).unwrap(),
            _ => {}
        }
    });
    let expected = restored(&chain.cluster.catalog, chain.last(), &chain).unwrap();
    let arguments = ["merge", "--instance", INSTANCE, "-i", chain.last()];
    assert_success(&gs_probackup(&arguments, &chain.cluster.catalog));
    let found = restored(&chain.cluster.catalog, chain.last(), &chain).unwrap();
    assert_same(&expected, &found, "merged");
    check_independently(chain.directory(chain.last()).path());
}

fn pages_of_zeros(blocks: usize) -> Vec<u8> {
    vec![0; blocks * 8192]
}

#[test]
fn merge_of_a_merged_backup_says_that_nothing_is_left_to_do() {
    let chain = small_chain();
    let scratch = memory();
    let catalog = copy_of(&chain, scratch.path());
    let merge = |id: &str| gs_probackup(&["merge", "--instance", INSTANCE, "-i", id], &catalog);
    assert_success(&merge(chain.last()));
    let before = fixtures::manifest(&catalog);
    let again = merge(chain.last());
    assert_success(&again);
    let text = format!(
        "WARNING: Backup {} is merged already: nothing is left to do",
        chain.last()
    );
    assert!(again.stderr.contains(&text), "{}", again.stderr);
    assert_same(&before, &fixtures::manifest(&catalog), "merged twice");
    let full = merge(&chain.ids[0]);
    assert_eq!(full.code, Some(1));
    let text = format!(
        "WARNING: Backup {} was merged: it is part of backup {}",
        chain.ids[0],
        chain.last()
    );
    assert!(full.stderr.contains(&text), "{}", full.stderr);
}

#[test]
fn tablespace_map_that_an_increment_lists_as_unchanged_is_its_parents() {
    let chain = small_chain();
    let expected = restored(&chain.cluster.catalog, chain.last(), &chain).unwrap();
    let dir = chain.directory(chain.last());
    let (mut control, _) = dir.read_control().unwrap();
    let list = dir.read_content_list(control.content_crc).unwrap();
    assert!(list.find("tablespace_map", Root::Data).is_some());
    let entries: Vec<ContentEntry<'_>> = list
        .iter()
        .map(|entry| match &*entry.path {
            "tablespace_map" => ContentEntry {
                size: EntrySize::Unchanged,
                crc: 0,
                ..entry
            },
            _ => entry,
        })
        .collect();
    let totals = dir.write_content_list(entries).unwrap();
    control.content_crc = Some(totals.crc);
    control.data_bytes = Some(i64::try_from(totals.data_bytes).unwrap());
    dir.write_control(&control).unwrap();
    std::fs::remove_file(dir.database().join("tablespace_map")).unwrap();
    let found = restored(&chain.cluster.catalog, chain.last(), &chain).unwrap();
    assert_same(&expected, &found, "the map is its parent's");
    let arguments = ["merge", "--instance", INSTANCE, "-i", chain.last()];
    assert_success(&gs_probackup(&arguments, &chain.cluster.catalog));
    let found = restored(&chain.cluster.catalog, chain.last(), &chain).unwrap();
    assert_same(&expected, &found, "merged");
}

#[test]
fn damage_in_any_member_stops_the_merge_and_nothing_is_lost() {
    let chain = small_chain();
    for (member, id) in chain.ids.iter().enumerate() {
        let dir = chain.directory(id);
        let (control, _) = dir.read_control().unwrap();
        let list = dir.read_content_list(control.content_crc).unwrap();
        let entry = list
            .iter()
            .filter(|entry| entry.is_datafile && entry.path.starts_with("base/"))
            .max_by_key(|entry| entry.size.bytes())
            .unwrap();
        for place in [dir.database().join(&*entry.path), dir.header_map()] {
            let scratch = tempfile::tempdir().unwrap();
            let catalog = copy_of(&chain, scratch.path());
            let place = catalog.join(place.strip_prefix(&chain.cluster.catalog).unwrap());
            let mut bytes = std::fs::read(&place).unwrap();
            // More than a bit: of a compressed stream another bit may stand for the same bytes.
            let middle = bytes.len() / 2;
            bytes[middle..]
                .iter_mut()
                .take(64)
                .for_each(|byte| *byte ^= 0xFF);
            std::fs::write(&place, &bytes).unwrap();
            let before = fixtures::manifest(&chain.directory_in(&catalog, id).database());
            let arguments = ["merge", "--instance", INSTANCE, "-i", chain.last()];
            let output = gs_probackup(&arguments, &catalog);
            assert_eq!(output.code, Some(1), "member {member}: {output:?}");
            let after = fixtures::manifest(&chain.directory_in(&catalog, id).database());
            assert_same(&before, &after, &format!("member {member}"));
            assert!(
                chain
                    .ids
                    .iter()
                    .all(|id| { chain.directory_in(&catalog, id).control_path().exists() })
            );
        }
    }
}

#[test]
fn dry_run_says_what_would_be_done_and_does_nothing() {
    let chain = small_chain();
    let before = fixtures::manifest(&chain.cluster.catalog);
    let arguments = [
        "merge",
        "--instance",
        INSTANCE,
        "-i",
        chain.last(),
        "--dry-run",
    ];
    let output = gs_probackup(&arguments, &chain.cluster.catalog);
    assert_success(&output);
    assert!(
        output.stderr.contains("Files that stay: "),
        "{}",
        output.stderr
    );
    assert_same(
        &before,
        &fixtures::manifest(&chain.cluster.catalog),
        "dry run",
    );
}

#[test]
fn files_that_no_increment_changed_are_not_touched() {
    use std::os::unix::fs::MetadataExt;
    let chain = small_chain();
    let catalog = &chain.cluster.catalog;
    let full = chain.directory(&chain.ids[0]).database();
    let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
    let (control, _) = chain.directory(chain.last()).read_control().unwrap();
    let list = chain
        .directory(chain.last())
        .read_content_list(control.content_crc)
        .unwrap();
    let middle = chain.directory(&chain.ids[1]);
    let (middle_control, _) = middle.read_control().unwrap();
    let middle_list = middle
        .read_content_list(middle_control.content_crc)
        .unwrap();
    let (full_control, _) = chain.directory(&chain.ids[0]).read_control().unwrap();
    let full_list = chain
        .directory(&chain.ids[0])
        .read_content_list(full_control.content_crc)
        .unwrap();
    let unchanged: Vec<(String, u64)> = list
        .iter()
        .filter(|entry| entry.size.bytes() == 0 && entry.is_regular())
        .filter(|entry| {
            let same = |list: &ContentList| {
                let found = list.find(&entry.path, Root::Data);
                found.is_some_and(|found| found.n_blocks == entry.n_blocks)
            };
            let found = middle_list.find(&entry.path, Root::Data);
            found.is_some_and(|found| found.size == entry.size)
                && same(&middle_list)
                && same(&full_list)
        })
        .filter(|entry| full.join(&*entry.path).is_file())
        .map(|entry| (entry.path.to_string(), inode(&full.join(&*entry.path))))
        .collect();
    assert!(unchanged.len() > 5, "{unchanged:?}");
    let arguments = ["merge", "--instance", INSTANCE, "-i", chain.last()];
    assert_success(&gs_probackup(&arguments, catalog));
    let result = chain.directory(chain.last()).database();
    for (path, before) in unchanged {
        assert_eq!(inode(&result.join(&path)), before, "{path}");
    }
}

#[test]
fn what_cannot_be_merged_is_refused_in_the_originals_words() {
    let chain = small_chain();
    let catalog = &chain.cluster.catalog;
    let merge = |id: &str| gs_probackup(&["merge", "--instance", INSTANCE, "-i", id], catalog);
    let says = |output: crate::support::Output, text: &str| {
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(output.stderr.contains(text), "{}", output.stderr);
    };
    says(merge("ZZZZZZ"), "ERROR: Target backup ZZZZZZ was not found");
    let no_id = gs_probackup(&["merge", "--instance", INSTANCE], catalog);
    says(
        no_id,
        "ERROR: required parameter is not specified: --backup-id",
    );
    let middle = chain.directory(&chain.ids[1]);
    middle.set_status(BackupStatus::Corrupt).unwrap();
    let text = format!("ERROR: Backup {} has status: CORRUPT", chain.ids[1]);
    says(merge(chain.last()), &text);
    middle.set_status(BackupStatus::Ok).unwrap();
    let full = chain.directory(&chain.ids[0]);
    let (mut control, _) = full.read_control().unwrap();
    let good = control.clone();
    control.status = BackupStatus::Merging;
    control.merge_dest_id = Some(chain.ids[1].parse().unwrap());
    full.write_control(&control).unwrap();
    let text = format!(
        "ERROR: Full backup {} has unfinished merge with backup {}",
        chain.ids[0], chain.ids[1]
    );
    says(merge(chain.last()), &text);
    full.write_control(&good).unwrap();
    std::fs::rename(middle.path(), catalog.join("elsewhere")).unwrap();
    says(
        merge(chain.last()),
        "ERROR: Incremental chain is broken, merge is impossible to finish",
    );
    let text = format!(
        "ERROR: Failed to find merge candidate, backup {} has no valid children",
        chain.ids[0]
    );
    says(merge(&chain.ids[0]), &text);
}
