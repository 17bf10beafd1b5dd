//! A chain becomes one FULL backup that restores as its last member did, whatever interrupts it.

use crate::chain::{ChainOfBackups, copy_tree};
use crate::cluster::INSTANCE;
use crate::fixtures::{self, ManifestLine};
use crate::support::{assert_success, gs_probackup};
use crate::survive_kill::kill_after;
use crate::take_full_backup::check_independently;
use gs_probackup::command::merge::{self, Steps};
use gs_probackup::command::validate::CheckOptions;
use gs_probackup::format::catalog::{BackupStatus, ContentEntry, ContentList, EntrySize};
use gs_probackup::io::EngineChoice;
use gs_probackup::monitor::CollectingMonitor;
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

type Manifest = BTreeMap<String, ManifestLine>;

fn options(catalog: &Path, instance: &str, id: &str, steps: Steps) -> merge::Options {
    merge::Options {
        catalog: catalog.to_owned(),
        instance: instance.to_owned(),
        backup_id: id.parse().unwrap(),
        validate: true,
        sync: true,
        dry_run: false,
        check: CheckOptions {
            threads: 1,
            skip_block_validation: false,
            engine: EngineChoice::Sync,
            cancel: Arc::default(),
        },
        steps,
    }
}

/// A directory in memory, where there is one: what is tested with it is the order of the steps, and
/// a disk would be asked hundreds of times to make something durable.
pub(crate) fn memory() -> tempfile::TempDir {
    let memory = tempfile::tempdir_in("/dev/shm");
    memory.unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// Restores a backup of a generated cluster and returns what came out.
fn restored(catalog: &Path, id: &str, chain: &ChainOfBackups) -> Result<Manifest, String> {
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
    let output = gs_probackup(&arguments, catalog);
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
fn assert_same(expected: &Manifest, found: &Manifest, when: &str) {
    let differences = fixtures::differences(expected, found);
    assert!(
        differences.is_empty(),
        "{when}:\n{}",
        differences.join("\n")
    );
}

fn small_chain() -> ChainOfBackups {
    let none: &[&str] = &["--no-validate"];
    let zlib: &[&str] = &["--no-validate", "--compress-algorithm=zlib"];
    ChainOfBackups::create(&[none, zlib, none])
}

fn copy_of(chain: &ChainOfBackups, scratch: &Path) -> PathBuf {
    let catalog = scratch.join("catalog");
    copy_tree(&chain.cluster.catalog, &catalog);
    catalog
}

#[test]
fn chain_of_a_generated_cluster_is_merged_at_each_member() {
    let none: &[&str] = &["--no-validate"];
    let zlib: &[&str] = &["--no-validate", "--compress-algorithm=zlib"];
    let lz4: &[&str] = &["--no-validate", "--compress-algorithm=lz4"];
    for arguments in [[none, zlib, lz4], [zlib, zlib, zlib], [lz4, none, zlib]] {
        let chain = ChainOfBackups::create(&arguments);
        let expected: Vec<Manifest> = chain
            .ids
            .iter()
            .map(|id| restored(&chain.cluster.catalog, id, &chain).unwrap())
            .collect();
        for merged in 1..chain.ids.len() {
            let scratch = memory();
            let catalog = copy_of(&chain, scratch.path());
            let id = &chain.ids[merged];
            let arguments = ["merge", "--instance", INSTANCE, "-i", id, "-j", "2"];
            assert_success(&gs_probackup(&arguments, &catalog));
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

#[test]
fn what_a_path_was_before_its_complete_copy_does_not_matter() {
    let none: &[&str] = &["--no-validate"];
    // A directory, then a relation file, then that file changed, then as it was.
    let chain = ChainOfBackups::create_with(&[none, none, none, none], |data, round| {
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

/// The steps of a merge, in their order.
fn steps_of(chain: &ChainOfBackups) -> Vec<String> {
    let scratch = tempfile::tempdir().unwrap();
    let catalog = copy_of(chain, scratch.path());
    let steps = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&steps);
    let watched = Steps::watched(move |operation, path| {
        let step = format!("{operation} {}", path.display());
        seen.lock().unwrap().push(step);
        Ok(())
    });
    let options = options(&catalog, INSTANCE, chain.last(), watched);
    merge::run(&options, &CollectingMonitor::default()).unwrap();
    let steps = steps.lock().unwrap();
    steps.clone()
}

fn stops_at(step: usize, kind: ErrorKind) -> Steps {
    let count = AtomicUsize::new(0);
    Steps::watched(move |_, _| {
        if count.fetch_add(1, Ordering::Relaxed) >= step {
            return Err(Error::from(kind));
        }
        Ok(())
    })
}

#[test]
fn interrupted_at_any_step_the_backup_restores_and_the_next_run_completes() {
    let chain = small_chain();
    let expected = restored(&chain.cluster.catalog, chain.last(), &chain).unwrap();
    let steps = steps_of(&chain);
    assert!(steps.len() > 30, "{steps:#?}");
    let next = AtomicUsize::new(0);
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                loop {
                    let step = next.fetch_add(1, Ordering::Relaxed);
                    let Some(name) = steps.get(step) else {
                        return;
                    };
                    survives(&chain, &expected, step, &format!("step {step}, {name}"));
                }
            });
        }
    });
}

/// Stops a merge at a step, restores, merges again and restores again.
fn survives(chain: &ChainOfBackups, expected: &Manifest, step: usize, when: &str) {
    let scratch = memory();
    let catalog = copy_of(chain, scratch.path());
    let kind = [ErrorKind::StorageFull, ErrorKind::Other][step % 2];
    let mut stopped = options(&catalog, INSTANCE, chain.last(), stops_at(step, kind));
    stopped.validate = false;
    let error = merge::run(&stopped, &CollectingMonitor::default()).unwrap_err();
    assert!(error.to_string().starts_with("cannot "), "{when}: {error}");
    let found = restored(&catalog, chain.last(), chain);
    let found = found.unwrap_or_else(|error| panic!("{when}: {error}"));
    assert_same(expected, &found, when);
    let again = options(&catalog, INSTANCE, chain.last(), Steps::default());
    let again = merge::run(&again, &CollectingMonitor::default());
    again.unwrap_or_else(|error| panic!("{when}: again: {error}"));
    let found = restored(&catalog, chain.last(), chain).unwrap();
    assert_same(expected, &found, &format!("{when}, merged"));
    let dir = chain.directory_in(&catalog, chain.last());
    let (control, warnings) = dir.read_control().unwrap();
    assert_eq!(control.status, BackupStatus::Ok, "{when}");
    assert!(warnings.is_empty(), "{when}: {warnings:?}");
    assert!(!dir.staging().path().exists(), "{when}");
    assert!(dir.path().join("backup.seal").exists(), "{when}");
    // Whichever step it was, the seal agrees with what it seals.
    let is_late = when.contains("backup.seal") || when.ends_with("backup.control");
    if is_late || step.is_multiple_of(16) {
        let validate = gs_probackup(&["validate", "--instance", INSTANCE], &catalog);
        assert_success(&validate);
    }
}

/// Kills of a merge that must hit.
const KILLS: u32 = 20;

#[test]
fn killed_at_any_instant_the_backup_restores_and_the_next_run_completes() {
    let chain = small_chain();
    let expected = restored(&chain.cluster.catalog, chain.last(), &chain).unwrap();
    let arguments = ["merge", "--instance", INSTANCE, "-i", chain.last()];
    let mut longest = {
        let scratch = memory();
        let catalog = copy_of(&chain, scratch.path());
        let began = Instant::now();
        assert_success(&gs_probackup(&arguments, &catalog));
        began.elapsed()
    };
    let (mut hits, mut turn) = (0, 0);
    while hits < KILLS {
        turn += 1;
        assert!(
            turn < 20 * KILLS,
            "only {hits} of the kills hit a running merge"
        );
        let scratch = memory();
        let catalog = copy_of(&chain, scratch.path());
        let delay = longest * (turn * 7 % KILLS) / KILLS;
        if kill_after(&arguments, &catalog, delay) {
            hits += 1;
        } else {
            longest = longest * 9 / 10;
        }
        let when = format!("killed after {delay:?}");
        let found = restored(&catalog, chain.last(), &chain);
        let found = found.unwrap_or_else(|error| panic!("{when}: {error}"));
        assert_same(&expected, &found, &when);
        assert_success(&gs_probackup(&arguments, &catalog));
        let found = restored(&catalog, chain.last(), &chain).unwrap();
        assert_same(&expected, &found, &format!("{when}, merged"));
        let validate = gs_probackup(&["validate", "--instance", INSTANCE], &catalog);
        assert_success(&validate);
    }
}

/// The chain in a new catalog, a merge at `id` stopped before the first step that `is_it`.
fn stopped_merge(
    chain: &ChainOfBackups,
    id: &str,
    scratch: &Path,
    is_it: impl Fn(&str, &Path) -> bool + Send + Sync + 'static,
) -> PathBuf {
    let catalog = copy_of(chain, scratch);
    let stopped = Steps::watched(move |operation, path| {
        if is_it(operation, path) {
            return Err(Error::from(ErrorKind::Other));
        }
        Ok(())
    });
    merge::run(
        &options(&catalog, INSTANCE, id, stopped),
        &CollectingMonitor::default(),
    )
    .unwrap_err();
    catalog
}

#[test]
fn unfinished_merge_is_reported_by_validation_and_spoils_no_status() {
    let chain = small_chain();
    let [full, middle, last] = [&chain.ids[0], &chain.ids[1], &chain.ids[2]];
    let is_first_move = |operation: &str, path: &Path| {
        operation == "rename" && path.components().any(|part| part.as_os_str() == "base")
    };
    let scratch = memory();
    let catalog = stopped_merge(&chain, middle, scratch.path(), is_first_move);
    let statuses = || -> Vec<BackupStatus> {
        let ids = chain.ids.iter();
        let control = ids.map(|id| chain.directory_in(&catalog, id).read_control().unwrap().0);
        control.map(|control| control.status).collect()
    };
    let before = statuses();
    let expected = [BackupStatus::Merging, BackupStatus::Merging];
    assert_eq!(before[..2], expected);
    let all = gs_probackup(&["validate", "--instance", INSTANCE], &catalog);
    assert_eq!(all.code, Some(1), "{all:?}");
    let text = format!("WARNING: Merge into backup {middle} is not finished");
    assert!(all.stderr.contains(&text), "{}", all.stderr);
    assert!(!all.stderr.contains("orphaned"), "{}", all.stderr);
    let validate =
        |id: &str| gs_probackup(&["validate", "--instance", INSTANCE, "-i", id], &catalog);
    for id in [middle, last] {
        assert_success(&validate(id));
    }
    let of_full = validate(full);
    assert_eq!(of_full.code, Some(1));
    let text = format!("Backup {full} has unfinished merge with backup {middle}");
    assert!(of_full.stderr.contains(&text), "{}", of_full.stderr);
    // The last one was DONE, which means that nobody had validated it.
    assert_eq!(statuses(), [before[0], before[1], BackupStatus::Ok]);
    // Damage to what a restore would read is found.
    let staged = chain.directory_in(&catalog, full).staging().header_map();
    let mut bytes = std::fs::read(&staged).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 4;
    std::fs::write(&staged, bytes).unwrap();
    assert_eq!(validate(middle).code, Some(1));
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
fn damaged_result_is_not_called_merged() {
    let chain = small_chain();
    let scratch = memory();
    let catalog = copy_of(&chain, scratch.path());
    // A file that no increment changed is damaged while the merge runs.
    let full = chain.directory_in(&catalog, &chain.ids[0]);
    let kept = full.database().join("PG_VERSION");
    let damage = Steps::watched(move |operation, path| {
        if operation == "write" && path.ends_with("merge.journal") {
            std::fs::write(&kept, b"9.9\n")?;
        }
        Ok(())
    });
    let options = options(&catalog, INSTANCE, chain.last(), damage);
    let error = merge::run(&options, &CollectingMonitor::default()).unwrap_err();
    let text = format!("Merging of backup {} failed", chain.last());
    assert_eq!(error.to_string(), text);
    let dir = chain.directory_in(&catalog, chain.last());
    let (control, _) = dir.read_control().unwrap();
    assert_eq!(control.status, BackupStatus::Corrupt);
}

#[test]
fn tablespace_map_that_an_increment_lists_as_unchanged_is_its_parents() {
    let chain = small_chain();
    let expected = restored(&chain.cluster.catalog, chain.last(), &chain).unwrap();
    let dir = chain.directory(chain.last());
    let (mut control, _) = dir.read_control().unwrap();
    let list = dir.read_content_list(control.content_crc).unwrap();
    assert!(list.find("tablespace_map", 0).is_some());
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
fn until_the_commit_every_member_of_the_chain_stays_as_it_was() {
    let chain = small_chain();
    let steps = steps_of(&chain);
    let control = chain.directory(&chain.ids[0]).control_path();
    let is_commit = |step: &String| {
        step.starts_with("write ") && step.ends_with(&format!("{}/backup.control", chain.ids[0]))
    };
    let commit = steps.iter().position(is_commit).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let catalog = copy_of(&chain, scratch.path());
    let stopped = options(
        &catalog,
        INSTANCE,
        chain.last(),
        stops_at(commit, ErrorKind::Other),
    );
    merge::run(&stopped, &CollectingMonitor::default()).unwrap_err();
    for id in &chain.ids {
        let expected = restored(&chain.cluster.catalog, id, &chain).unwrap();
        let found = restored(&catalog, id, &chain).unwrap();
        assert_same(&expected, &found, id);
    }
    assert!(control.exists());
}

#[test]
fn merge_that_the_original_left_half_done_is_completed() {
    let chain = small_chain();
    let expected = restored(&chain.cluster.catalog, chain.last(), &chain).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let catalog = copy_of(&chain, scratch.path());
    // The result, to take some of its files from.
    let merged = scratch.path().join("merged");
    copy_tree(&catalog, &merged);
    let options_merged = options(&merged, INSTANCE, chain.last(), Steps::default());
    merge::run(&options_merged, &CollectingMonitor::default()).unwrap();
    let full = chain.directory_in(&catalog, &chain.ids[0]);
    let result = chain.directory_in(&merged, chain.last());
    for id in &chain.ids {
        let dir = chain.directory_in(&catalog, id);
        dir.set_status(BackupStatus::Merging).unwrap();
    }
    let (mut control, _) = full.read_control().unwrap();
    control.merge_dest_id = Some(chain.last().parse().unwrap());
    full.write_control(&control).unwrap();
    std::fs::write(full.path().join("page_header_map_tmp"), b"begun").unwrap();
    let (result_control, _) = result.read_control().unwrap();
    let list = result
        .read_content_list(result_control.content_crc)
        .unwrap();
    let mut replaced = 0;
    for entry in list.iter().filter(|entry| entry.is_datafile) {
        let (from, to) = (
            result.database().join(&*entry.path),
            full.database().join(&*entry.path),
        );
        if replaced < 3 && from.exists() && std::fs::read(&from).ok() != std::fs::read(&to).ok() {
            std::fs::copy(from, to).unwrap();
            replaced += 1;
        }
    }
    assert_eq!(replaced, 3);
    let arguments = ["merge", "--instance", INSTANCE, "-i", chain.last()];
    let output = gs_probackup(&arguments, &catalog);
    assert_success(&output);
    assert!(
        output.stderr.contains("Retry failed merge"),
        "{}",
        output.stderr
    );
    let found = restored(&catalog, chain.last(), &chain).unwrap();
    assert_same(&expected, &found, "after the retry");
    let validate = gs_probackup(&["validate", "--instance", INSTANCE], &catalog);
    assert_success(&validate);
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
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
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
                let found = list.find(&entry.path, 0);
                found.is_some_and(|found| found.n_blocks == entry.n_blocks)
            };
            let found = middle_list.find(&entry.path, 0);
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
