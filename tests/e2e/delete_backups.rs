//! Backups are deleted with all that grow on them; what is left can be restored, whatever
//! interrupts the deletion.

use crate::chain::{ChainOfBackups, copy_tree};
use crate::cluster::{Cluster, INSTANCE};
use crate::faults::{Fault, run_with, steps_of, was_killed};
use crate::fixtures;
use crate::merge_chain::memory;
use crate::support::{Output, assert_success, bare, command, gs_probackup, run};
use gs_probackup::catalog::lock::{LockOptions, lock_exclusive, lock_shared};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Unpacks the records and settings of a recorded catalog, not its backups' files.
pub(crate) fn unpack_records(gauss: &Path, name: &str, directory: &Path) {
    let file = fs::File::open(gauss.join(format!("{name}.tar.zst"))).unwrap();
    let mut decoder = zstd::Decoder::new(file).unwrap();
    decoder.window_log_max(27).unwrap();
    for entry in tar::Archive::new(decoder).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let is_directory = entry.header().entry_type().is_dir();
        let is_near = path.components().count() <= 4;
        let is_wanted = path.ends_with("backup.control") || path.ends_with("pg_probackup.conf");
        if is_directory && is_near || is_wanted {
            entry.unpack_in(directory).unwrap();
        }
    }
}

/// The command of a transcript, in this catalog and with the level at which the original speaks.
fn recorded_command(transcript: &Path, catalog: &Path) -> Command {
    let text = fs::read_to_string(transcript.with_extension("cmd")).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("$ gs_probackup "))
        .unwrap();
    let here = catalog.display().to_string();
    let words: Vec<String> = line
        .split_ascii_whitespace()
        .map(|word| word.replace("/gauss/backup", &here))
        .collect();
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    words.push("--log-level-console=log");
    bare(&words)
}

fn recorded_code(transcript: &Path) -> i32 {
    let text = fs::read_to_string(transcript.with_extension("cmd")).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("# exit code "))
        .unwrap();
    line.parse().unwrap()
}

/// Runs a recorded command and compares what is said; hints are ours, and the order of lines
/// matters only with `in_order`.
#[track_caller]
pub(crate) fn assert_as_recorded(gauss: &Path, name: &str, catalog: &Path, in_order: bool) {
    let transcript = gauss.join("transcripts").join(name);
    let output = run(&mut recorded_command(&transcript, catalog));
    assert_eq!(output.code, Some(recorded_code(&transcript)), "{output:#?}");
    let here = catalog.display().to_string();
    let recorded = fs::read_to_string(transcript.with_extension("stderr")).unwrap();
    let recorded = recorded.replace("/gauss/backup", &here);
    let mut expected: Vec<&str> = recorded.lines().collect();
    let is_ours = |line: &&str| line.starts_with("HINT: ");
    let mut found: Vec<&str> = output.stderr.lines().filter(|l| !is_ours(l)).collect();
    if !in_order {
        expected.sort_unstable();
        found.sort_unstable();
    }
    assert_eq!(found, expected, "{name}");
    assert_eq!(output.stdout, "", "{name}");
}

fn ids_in(catalog: &Path, instance: &str) -> Vec<String> {
    let mut ids: Vec<String> = fs::read_dir(catalog.join("backups").join(instance))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    ids.sort();
    ids
}

#[test]
fn recorded_deletions_say_what_the_original_says() {
    let Some(gauss) = fixtures::gauss() else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let catalog = scratch.path();
    unpack_records(&gauss, "catalog_zlib", catalog);
    for name in [
        "err-delete-noid",
        "err-id-delete",
        "err-unknown-instance-delete",
        "delete-dry-run-id",
        "delete-status-bad",
        "delete-status-error",
        "delete-status-ok-dry",
    ] {
        assert_as_recorded(&gauss, name, catalog, true);
        assert_eq!(
            ids_in(catalog, "zlib"),
            ["TOU8C4", "TOU8CR", "TOU8D9"],
            "{name}"
        );
    }
    assert_as_recorded(&gauss, "delete-ptrack2", catalog, true);
    assert_eq!(ids_in(catalog, "zlib"), ["TOU8C4", "TOU8CR"]);
    // The original removes the FULL backup first.
    assert_as_recorded(&gauss, "delete-full-with-children", catalog, false);
    assert_eq!(ids_in(catalog, "zlib"), [] as [&str; 0]);
    let tree = fs::read_dir(catalog.join("backups/zlib")).unwrap();
    let names: Vec<_> = tree.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["pg_probackup.conf"]);
}

#[test]
fn an_id_excludes_the_other_ways_to_choose() {
    let scratch = tempfile::tempdir().unwrap();
    let catalog = scratch.path().join("backup");
    assert_success(&gs_probackup(&["init"], &catalog));
    for directory in ["backups/one", "wal/one"] {
        fs::create_dir(catalog.join(directory)).unwrap();
    }
    fs::write(
        catalog.join("backups/one/pg_probackup.conf"),
        "pgdata = /d\n",
    )
    .unwrap();
    for other in ["status=OK", "status=DONE"] {
        let option = format!("--{other}");
        let arguments = ["delete", "--instance=one", "-i", "TOU8C4", &option];
        let output = gs_probackup(&arguments, &catalog);
        let name = other.split('=').next().unwrap();
        let expected =
            format!("ERROR: You cannot specify --{name} and (-i, --backup-id) options together\n");
        assert_eq!((output.code, output.stderr), (Some(1), expected));
    }
    let nothing = gs_probackup(&["delete", "--instance=one", "--status=ok"], &catalog);
    assert_success(&nothing);
    assert_eq!(nothing.stderr, "WARNING: Instance 'one' has no backups\n");
}

fn deletion(id: &str, catalog: &Path) -> Command {
    command(&["delete", "--instance", INSTANCE, "-i", id], catalog)
}

fn status_of(directory: &Path) -> Option<String> {
    let text = fs::read_to_string(directory.join("backup.control")).ok()?;
    let status = text.lines().find_map(|line| line.strip_prefix("status = "));
    status.map(str::to_owned)
}

fn validate(catalog: &Path, id: &str) -> Output {
    gs_probackup(&["validate", "--instance", INSTANCE, "-i", id], catalog)
}

fn small_chain() -> ChainOfBackups {
    let none: &[&str] = &["--no-validate"];
    let chain = ChainOfBackups::create(&[none, none, none]);
    // What is left of a backup that began in this instant might be one that begins.
    std::thread::sleep(Duration::from_secs(5));
    chain
}

#[test]
fn killed_at_any_step_the_rest_is_good_and_the_next_deletion_ends_it() {
    let chain = small_chain();
    let copied = |scratch: &Path| {
        let catalog = scratch.join("catalog");
        copy_tree(&chain.cluster.catalog, &catalog);
        catalog
    };
    let steps = {
        let scratch = memory();
        steps_of(&mut deletion(&chain.ids[1], &copied(scratch.path())))
    };
    // Files are many and alike; everything else is looked at.
    let chosen: Vec<usize> = (1..=steps.len())
        .filter(|step| {
            let name = &steps[step - 1];
            !name.contains("/database/") || step % 48 == 0
        })
        .collect();
    assert!(chosen.len() > 30, "{steps:#?}");
    let next = AtomicUsize::new(0);
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                while let Some(step) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let fault = if step % 2 == 0 {
                        Fault::Kill(*step)
                    } else {
                        Fault::Tear(*step)
                    };
                    let scratch = memory();
                    let catalog = copied(scratch.path());
                    let when = format!("{fault:?} {}", steps[step - 1]);
                    let output = run_with(fault, &mut deletion(&chain.ids[1], &catalog));
                    assert!(was_killed(&output), "{when}: {output:?}");
                    survives(&chain, &catalog, &when);
                }
            });
        }
    });
}

/// After a deletion of the second backup that stopped somewhere: what is left is told truly, and
/// the next deletion ends it.
fn survives(chain: &ChainOfBackups, catalog: &Path, when: &str) {
    let path = |id: &str| catalog.join("backups").join(INSTANCE).join(id);
    let valid = validate(catalog, &chain.ids[0]);
    assert_eq!(valid.code, Some(0), "{when}: {valid:#?}");
    let mut whole_above = None;
    for id in &chain.ids[1..] {
        if status_of(&path(id)).as_deref() == Some("DONE") {
            let valid = validate(catalog, id);
            // What it grows on is removed later.
            assert_eq!(valid.code, Some(0), "{when}: {id} {valid:#?}");
            whole_above = Some(id.clone());
        } else if path(id).exists() {
            let status = status_of(&path(id));
            let is_true = matches!(status.as_deref(), None | Some("DELETING"));
            assert!(is_true, "{when}: {id} {status:?}");
        }
    }
    let left = ids_in(catalog, INSTANCE);
    // Whatever is left of it: the same command, or, where nothing is left to name, none.
    if left.contains(&chain.ids[1]) {
        assert_success(&crate::support::run(&mut deletion(&chain.ids[1], catalog)));
    } else {
        assert_eq!(whole_above, None, "{when}");
    }
    assert_eq!(ids_in(catalog, INSTANCE), [chain.ids[0].clone()], "{when}");
    let valid = validate(catalog, &chain.ids[0]);
    assert_eq!(valid.code, Some(0), "{when}: {valid:#?}");
}

#[test]
fn a_deletion_that_fails_says_why_and_the_next_one_ends_it() {
    let chain = small_chain();
    let copied = |scratch: &Path| {
        let catalog = scratch.join("catalog");
        copy_tree(&chain.cluster.catalog, &catalog);
        catalog
    };
    let steps = {
        let scratch = memory();
        steps_of(&mut deletion(&chain.ids[1], &copied(scratch.path())))
    };
    for step in 1..=steps.len() {
        let name = &steps[step - 1];
        if name.contains("/database/") && step % 96 != 0 {
            continue;
        }
        let scratch = memory();
        let catalog = copied(scratch.path());
        let output = run_with(Fault::IoError(step), &mut deletion(&chain.ids[1], &catalog));
        if name.contains("backup.pid") && name.starts_with("remove ") {
            // A lock file that stays is stale.
            continue;
        }
        assert_eq!(output.code, Some(1), "{name}: {output:?}");
        assert!(output.stderr.contains("Input/output error"), "{output:?}");
        survives(&chain, &catalog, &format!("EIO, {name}"));
    }
    // A full disk is no reason not to delete, at whatever step it fills.
    for step in 1..=steps.len() {
        let name = &steps[step - 1];
        if name.contains("/database/") && step % 96 != 0 {
            continue;
        }
        let scratch = memory();
        let catalog = copied(scratch.path());
        let output = run_with(Fault::NoSpace(step), &mut deletion(&chain.ids[1], &catalog));
        assert_eq!(output.code, Some(0), "{name}: {output:?}");
        assert_eq!(ids_in(&catalog, INSTANCE), [chain.ids[0].clone()], "{name}");
        assert_success(&validate(&catalog, &chain.ids[0]));
    }
}

#[test]
fn a_backup_that_is_read_is_waited_for_and_deleted_then() {
    let chain = small_chain();
    let (cluster, ids) = (&chain.cluster, &chain.ids);
    let last = cluster.backup_path(&ids[2]);
    let lock = lock_shared(&last, ids[2].parse().unwrap(), &LockOptions::FAIL_FAST).unwrap();
    let child = deletion(&ids[0], &cluster.catalog)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(status_of(&last).as_deref(), Some("DONE"));
    assert_eq!(ids_in(&cluster.catalog, INSTANCE).len(), 3);
    drop(lock);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let waited = format!("backup {} in shared mode, and is still running", ids[2]);
    assert!(said.contains(&waited), "{said}");
    assert_eq!(ids_in(&cluster.catalog, INSTANCE), [] as [&str; 0]);
}

#[test]
fn backups_of_a_status_go_with_what_grows_on_them_and_live_ones_stay() {
    let chain = small_chain();
    let (cluster, ids) = (&chain.cluster, &chain.ids);
    let control = cluster.backup_path(&ids[1]).join("backup.control");
    let text = fs::read_to_string(&control).unwrap();
    fs::write(&control, text.replace("status = DONE", "status = RUNNING")).unwrap();
    let lock = lock_exclusive(
        control.parent().unwrap(),
        ids[1].parse().unwrap(),
        &LockOptions::FAIL_FAST,
    );
    let by_status = |status: &str| {
        let status = format!("--status={status}");
        let arguments = ["delete", "--instance", INSTANCE, &status];
        gs_probackup(&arguments, &cluster.catalog)
    };
    for status in ["RUNNING", "error"] {
        let output = by_status(status);
        assert_success(&output);
        let nothing = format!("has no backups with status '{}'", status.to_uppercase());
        assert!(output.stderr.contains(&nothing), "{output:?}");
    }
    drop(lock);
    // Nobody runs it any more: it is shown as failed, and found as that.
    let output = by_status("error");
    assert_success(&output);
    let expected = format!("Successfully deleted 2 backups from instance '{INSTANCE}'");
    assert!(output.stderr.contains(&expected), "{output:?}");
    assert_eq!(ids_in(&cluster.catalog, INSTANCE), [ids[0].clone()]);
    assert_success(&validate(&cluster.catalog, &ids[0]));
}

#[test]
fn what_an_interrupted_deletion_left_goes_with_the_next_one() {
    let chain = small_chain();
    let (cluster, ids) = (&chain.cluster, &chain.ids);
    let fault = {
        let scratch = memory();
        let catalog = scratch.path().join("catalog");
        copy_tree(&cluster.catalog, &catalog);
        let steps = steps_of(&mut deletion(&ids[2], &catalog));
        Fault::Kill(steps.len() / 2)
    };
    let output = run_with(fault, &mut deletion(&ids[2], &cluster.catalog));
    assert!(was_killed(&output));
    assert_eq!(
        status_of(&cluster.backup_path(&ids[2])).as_deref(),
        Some("DELETING")
    );
    let output = cluster.back_up(&["--no-validate"]);
    assert_success(&run(&mut deletion(&output, &cluster.catalog)));
    assert_eq!(ids_in(&cluster.catalog, INSTANCE), ids[..2]);
}

#[test]
fn links_are_not_followed() {
    let cluster = Cluster::create(1 << 20);
    let id = cluster.back_up(&["--no-validate"]);
    let outside = cluster.scratch.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "x").unwrap();
    let path = cluster.backup_path(&id);
    std::os::unix::fs::symlink(&outside, path.join("database/link")).unwrap();
    std::os::unix::fs::symlink(&outside, path.join("link")).unwrap();
    // A directory that its owner may not write.
    let closed = path.join("database/closed");
    fs::create_dir(&closed).unwrap();
    fs::write(closed.join("file"), "x").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o500);
    fs::set_permissions(&closed, mode).unwrap();
    let moved = cluster.scratch.path().join("moved");
    fs::rename(&path, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &path).unwrap();
    let output = run(&mut deletion(&id, &cluster.catalog));
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("symbolic link"), "{output:?}");
    assert!(moved.join("backup.control").exists());
    fs::remove_file(&path).unwrap();
    fs::rename(&moved, &path).unwrap();
    let arguments = ["delete", "--instance", INSTANCE, "-i", &id, "-j", "4"];
    assert_success(&gs_probackup(&arguments, &cluster.catalog));
    assert!(!path.exists());
    assert_eq!(fs::read(outside.join("precious")).unwrap(), b"x");
}

#[test]
fn a_backup_without_a_usable_record_can_be_deleted() {
    let cluster = Cluster::create(1 << 20);
    let id = cluster.back_up(&["--no-validate"]);
    for damage in [&b"rubbish"[..], b""] {
        let copy: PathBuf = cluster.scratch.path().join("copy");
        copy_tree(&cluster.backup_path(&id), &copy);
        fs::write(cluster.backup_path(&id).join("backup.control"), damage).unwrap();
        assert_success(&run(&mut deletion(&id, &cluster.catalog)));
        assert!(!cluster.backup_path(&id).exists());
        fs::rename(&copy, cluster.backup_path(&id)).unwrap();
    }
    fs::remove_file(cluster.backup_path(&id).join("backup.control")).unwrap();
    assert_success(&run(&mut deletion(&id, &cluster.catalog)));
    assert!(!cluster.backup_path(&id).exists());
}

#[test]
fn two_deletions_at_once_end_well() {
    let chain = small_chain();
    for round in 0..20 {
        let scratch = memory();
        let catalog = scratch.path().join("catalog");
        copy_tree(&chain.cluster.catalog, &catalog);
        let spawn = |id: &str| {
            let mut command = deletion(id, &catalog);
            command.stderr(Stdio::piped()).spawn().unwrap()
        };
        let first = spawn(&chain.ids[1]);
        let second = spawn(&chain.ids[round % 3]);
        for child in [first, second] {
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            let is_told = said.contains("Failed to find backup") || said.contains("run the");
            assert!(output.status.success() || is_told, "{round}: {said}");
        }
        let left = ids_in(&catalog, INSTANCE);
        let expected = if round % 3 == 0 { 0 } else { 1 };
        assert_eq!(left.len(), expected, "{round}: {left:?}");
    }
}

#[test]
fn a_running_backup_is_not_deleted() {
    let cluster = Cluster::create(1 << 20);
    let id = cluster.back_up(&["--no-validate"]);
    let path = cluster.backup_path(&id);
    let _lock = lock_exclusive(&path, id.parse().unwrap(), &LockOptions::FAIL_FAST).unwrap();
    let mut child = deletion(&id, &cluster.catalog).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    assert!(child.try_wait().unwrap().is_none(), "it waits");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(status_of(&path).as_deref(), Some("DONE"));
}
