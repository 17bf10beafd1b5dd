//! Whatever stops a merge, at whichever of its steps: the backup restores, validation tells the
//! truth, and the next run completes.

use crate::chain::{ChainOfBackups, copy_tree};
use crate::cluster::INSTANCE;
use crate::faults::{
    Fault, Planned, faults_at, meet, on_both_cores, run_with, steps_of, was_killed,
};
use crate::fixtures;
use crate::merge_chain::{Manifest, assert_same, copy_of, memory, restored, small_chain};
use crate::support::{assert_success, command, gs_probackup};
use crate::survive_kill::kill_after;
use gs_probackup::format::catalog::BackupStatus;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

fn merge(catalog: &Path, id: &str) -> Command {
    let arguments = [
        "merge",
        "--instance",
        INSTANCE,
        "-i",
        id,
        "--no-validate",
        "-j1",
    ];
    command(&arguments, catalog)
}

fn validate(catalog: &Path) -> crate::support::Output {
    gs_probackup(&["validate", "--instance", INSTANCE], catalog)
}

/// The steps of a merge at `id`, in their order, with paths from `/catalog` on.
fn steps(chain: &ChainOfBackups, id: &str) -> Vec<String> {
    let scratch = memory();
    let catalog = copy_of(chain, scratch.path());
    let steps = steps_of(&mut merge(&catalog, id));
    let root = scratch.path().display().to_string();
    steps.iter().map(|step| step.replace(&root, "")).collect()
}

/// Statuses of the members, as far as they are there.
fn statuses(chain: &ChainOfBackups, catalog: &Path) -> Vec<Option<BackupStatus>> {
    let instance = catalog.join("backups").join(INSTANCE);
    let ids = chain.ids.iter();
    ids.map(|id| {
        let dir = gs_probackup::catalog::BackupDir::at(id.parse().unwrap(), &instance.join(id));
        Some(dir.read_control().ok()?.0.status)
    })
    .collect()
}

/// Interrupts a merge by a fault, looks at what is left, merges again.
fn survives(chain: &ChainOfBackups, expected: &Manifest, planned: &Planned) {
    let fault = planned.fault;
    let scratch = memory();
    let catalog = scratch.path().join("catalog");
    let met = meet(planned, || {
        std::fs::remove_dir_all(&catalog).ok();
        merge(&copy_of(chain, scratch.path()), chain.last())
    });
    let (when, output) = (format!("{fault:?}, {}", met.step), met.output);
    if !fault.is_kill() {
        // What is only tidied up may fail without harm.
        let says_why = output.stderr.contains("ERROR: ") && output.code == Some(1);
        let is_told = says_why && output.stderr.contains(fault.reason());
        assert!(is_told || output.code == Some(0), "{when}: {output:?}");
    }
    let found = restored(&catalog, chain.last(), chain);
    let found = found.unwrap_or_else(|error| panic!("{when}: {error}"));
    assert_same(expected, &found, &when);
    let first = statuses(chain, &catalog)[0];
    let is_unfinished = matches!(first, Some(BackupStatus::Merging | BackupStatus::Merged));
    let found = validate(&catalog);
    assert!(!found.stderr.contains("corrupted"), "{when}: {found:?}");
    assert!(!found.stderr.contains("orphaned"), "{when}: {found:?}");
    let says_so = found.stderr.contains("is not finished");
    assert!(says_so || !is_unfinished, "{when}: {found:?}");
    let arguments = ["merge", "--instance", INSTANCE, "-i", chain.last(), "-j2"];
    let again = gs_probackup(&[&arguments[..], &["--no-validate"]].concat(), &catalog);
    assert_eq!(again.code, Some(0), "{when}: {again:?}");
    let found = restored(&catalog, chain.last(), chain).unwrap();
    assert_same(expected, &found, &format!("{when}, merged"));
    let dir = chain.directory_in(&catalog, chain.last());
    let (control, warnings) = dir.read_control().unwrap();
    assert_eq!(control.status, BackupStatus::Ok, "{when}");
    assert!(warnings.is_empty(), "{when}: {warnings:?}");
    assert!(!dir.staging().path().exists(), "{when}");
    assert!(dir.path().join("backup.seal").exists(), "{when}");
    // The seal agrees with what it seals.
    assert_success(&validate(&catalog));
}

/// A chain of which some files are overwritten in place and others written anew.
fn chain_of_both_ways() -> ChainOfBackups {
    let none: &[&str] = &["--no-validate"];
    let zlib: &[&str] = &["--no-validate", "--compress-algorithm=zlib"];
    // Few files, because each is several steps.
    let chain = ChainOfBackups::create_lean(&[none, zlib, none]);
    let steps = steps(&chain, chain.last());
    let (staged, in_place): (Vec<&String>, Vec<&String>) = steps
        .iter()
        .filter(|step| step.starts_with("write ") && step.contains("/database/base/"))
        .partition(|step| step.contains("/merge_staging/"));
    assert!(!staged.is_empty() && !in_place.is_empty(), "{steps:#?}");
    chain
}

/// Interrupts merges by faults that are chosen by the steps of one.
fn survives_all(choose: impl Fn(&[String]) -> Vec<Planned>) {
    let chain = chain_of_both_ways();
    let expected = restored(&chain.cluster.catalog, chain.last(), &chain).unwrap();
    let steps = steps(&chain, chain.last());
    assert!(steps.len() > 60, "{steps:#?}");
    let faults = choose(&steps);
    eprintln!(
        "{} faults at {} steps of a merge",
        faults.len(),
        steps.len()
    );
    on_both_cores(faults.len(), |_, number| {
        survives(&chain, &expected, &faults[number]);
    });
}

#[test]
fn killed_before_any_step_the_backup_restores_and_the_next_run_completes() {
    survives_all(|steps| {
        let each = 1..=steps.len();
        each.map(|step| Planned::among_all(Fault::Kill(step)))
            .collect()
    });
}

#[test]
fn failing_or_torn_at_any_kind_of_step_the_backup_restores_and_the_next_run_completes() {
    survives_all(|steps| {
        let mut faults = faults_at(steps, Path::new("/catalog"), &["/database/"]);
        faults.retain(|planned| !matches!(planned.fault, Fault::Kill(_)));
        assert!(faults.len() > 40, "{faults:#?}");
        faults
    });
}

/// By default every so manieth step of a retention that merges fails; `GS_PROBACKUP_FAULT_STRIDE`
/// sets another distance. Those of the merge itself have their own tests.
const STRIDE: usize = 12;

#[test]
fn retention_that_merges_can_be_interrupted_and_loses_no_wanted_backup() {
    let stride = std::env::var("GS_PROBACKUP_FAULT_STRIDE");
    let stride = stride.map_or(STRIDE, |text| text.parse().expect("a distance"));
    let chain = chain_of_both_ways();
    let expected = restored(&chain.cluster.catalog, chain.last(), &chain).unwrap();
    // The FULL backup and the first increment are expired.
    for (id, days) in chain.ids.iter().zip([20, 20, 0]) {
        let dir = chain.directory(id);
        let (mut control, _) = dir.read_control().unwrap();
        control.recovery_time = Some(control.start_time - days * 86_400);
        std::fs::remove_file(dir.path().join("backup.seal")).ok();
        dir.write_control(&control).unwrap();
    }
    let retain = |catalog: &Path| {
        let arguments = [
            "delete",
            "--instance",
            INSTANCE,
            "--merge-expired",
            "--delete-expired",
            "--retention-window=7",
            "-j1",
        ];
        command(&arguments, catalog)
    };
    let scratch = memory();
    let steps = steps_of(&mut retain(&copy_of(&chain, scratch.path())));
    assert!(steps.len() > 60, "{steps:#?}");
    for step in (1..=steps.len()).step_by(stride) {
        let fault = match step / stride % 3 {
            0 => Fault::Kill(step),
            1 => Fault::IoError(step),
            _ => Fault::NoSpace(step),
        };
        let when = format!("{fault:?}, {}", steps[step - 1]);
        let scratch = memory();
        let catalog = copy_of(&chain, scratch.path());
        let output = run_with(fault, &mut retain(&catalog));
        let ended = was_killed(&output) || output.code == Some(1) || output.code == Some(0);
        assert!(ended, "{when}: {output:?}");
        let found = restored(&catalog, chain.last(), &chain);
        let found = found.unwrap_or_else(|error| panic!("{when}: {error}"));
        assert_same(&expected, &found, &when);
        // The next run ends what this one left unfinished.
        assert_success(&crate::support::run(&mut retain(&catalog)));
        assert_eq!(statuses(&chain, &catalog)[..2], [None, None], "{when}");
        let found = restored(&catalog, chain.last(), &chain).unwrap();
        assert_same(&expected, &found, &format!("{when}, ended"));
        assert_success(&validate(&catalog));
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
        assert_success(&validate(&catalog));
    }
}

/// The chain in a new catalog, a merge at `id` killed before the first step that `is_it`.
fn killed_merge(
    chain: &ChainOfBackups,
    id: &str,
    scratch: &Path,
    is_it: impl Fn(&str) -> bool,
) -> PathBuf {
    let steps = steps(chain, id);
    let step = steps.iter().position(|step| is_it(step));
    let step = step.unwrap_or_else(|| panic!("{steps:#?}"));
    let catalog = copy_of(chain, scratch);
    let output = run_with(Fault::Kill(step + 1), &mut merge(&catalog, id));
    assert!(was_killed(&output), "{output:?}");
    catalog
}

fn is_move(step: &str) -> bool {
    step.starts_with("rename ") && step.contains("/merge_staging/database/")
}

fn is_overwrite(step: &str) -> bool {
    step.starts_with("write ") && !step.contains("/merge_staging/") && step.contains("/database/")
}

#[test]
fn unfinished_merge_is_reported_by_validation_and_spoils_no_status() {
    let chain = chain_of_both_ways();
    let [full, middle, last] = [&chain.ids[0], &chain.ids[1], &chain.ids[2]];
    for is_it in [is_overwrite as fn(&str) -> bool, is_move] {
        let scratch = memory();
        let catalog = killed_merge(&chain, middle, scratch.path(), is_it);
        let before = statuses(&chain, &catalog);
        assert_eq!(before[..2], [Some(BackupStatus::Merging); 2]);
        let all = validate(&catalog);
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
        let expected = [before[0], before[1], Some(BackupStatus::Ok)];
        assert_eq!(statuses(&chain, &catalog), expected);
        for id in [middle, last] {
            let found = restored(&catalog, id, &chain).unwrap();
            let expected = restored(&chain.cluster.catalog, id, &chain).unwrap();
            assert_same(&expected, &found, id);
        }
        // Damage to what a restore would read is found.
        let staged = chain.directory_in(&catalog, full).staging().header_map();
        flip(&staged, |length| length / 2);
        assert_eq!(validate(middle).code, Some(1));
    }
}

fn flip(path: &Path, place: impl Fn(usize) -> usize) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = place(bytes.len());
    bytes[at] ^= 4;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn damage_in_a_file_that_is_being_overwritten_is_found() {
    let chain = chain_of_both_ways();
    let scratch = memory();
    let name = std::cell::RefCell::new(String::new());
    let catalog = killed_merge(&chain, chain.last(), scratch.path(), |step| {
        let found = is_overwrite(step);
        if found {
            *name.borrow_mut() = step.to_owned();
        }
        found
    });
    assert!(validate(&catalog).stderr.contains("data files are valid"));
    let path = name.borrow();
    let path = path.strip_prefix("write /").unwrap();
    let path = scratch.path().join(path);
    // The last record is none of those that change in a file of four pages and more.
    flip(&path, |length| length - 100);
    let found = validate(&catalog);
    assert!(
        found.stderr.contains("Invalid CRC of backup file"),
        "{found:?}"
    );
    assert!(
        found.stderr.contains("data files are corrupted"),
        "{found:?}"
    );
}

#[test]
fn damaged_result_is_not_called_merged() {
    let chain = small_chain();
    let scratch = memory();
    let catalog = killed_merge(&chain, chain.last(), scratch.path(), is_move);
    // A file that no increment changed is damaged while the merge is unfinished.
    let full = chain.directory_in(&catalog, &chain.ids[0]);
    std::fs::write(full.database().join("PG_VERSION"), b"9.9\n").unwrap();
    let output = gs_probackup(
        &["merge", "--instance", INSTANCE, "-i", chain.last()],
        &catalog,
    );
    assert_eq!(output.code, Some(1));
    let text = format!("ERROR: Merging of backup {} failed", chain.last());
    assert!(output.stderr.contains(&text), "{}", output.stderr);
    let last = statuses(&chain, &catalog)[2];
    assert_eq!(last, Some(BackupStatus::Corrupt));
}

#[test]
fn until_the_commit_every_member_of_the_chain_stays_as_it_was() {
    let chain = small_chain();
    let commit = format!("/{}/backup.control", chain.ids[0]);
    let scratch = memory();
    let is_commit = |step: &str| step.starts_with("rename ") && step.contains(&commit);
    let catalog = killed_merge(&chain, chain.last(), scratch.path(), is_commit);
    for id in &chain.ids {
        let expected = restored(&chain.cluster.catalog, id, &chain).unwrap();
        let found = restored(&catalog, id, &chain).unwrap();
        assert_same(&expected, &found, id);
    }
    assert!(statuses(&chain, &catalog).iter().all(Option::is_some));
}

/// Leaves a catalog as the original does that was interrupted while it merged: some files are
/// replaced, nothing tells which.
fn begin_as_the_original(chain: &ChainOfBackups, catalog: &Path, scratch: &Path, files: usize) {
    // The result, to take some of its files from.
    let merged = scratch.join("merged");
    copy_tree(&chain.cluster.catalog, &merged);
    assert_success(&crate::support::run(&mut merge(&merged, chain.last())));
    let full = chain.directory_in(catalog, &chain.ids[0]);
    let result = chain.directory_in(&merged, chain.last());
    for id in &chain.ids {
        let dir = chain.directory_in(catalog, id);
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
        if replaced < files && from.exists() && std::fs::read(&from).ok() != std::fs::read(&to).ok()
        {
            std::fs::copy(from, to).unwrap();
            replaced += 1;
        }
    }
    assert_eq!(replaced, files);
}

fn completes_the_originals(chain: &ChainOfBackups, catalog: &Path) {
    let expected = restored(&chain.cluster.catalog, chain.last(), chain).unwrap();
    let arguments = ["merge", "--instance", INSTANCE, "-i", chain.last()];
    let output = gs_probackup(&arguments, catalog);
    assert_success(&output);
    let retried = output.stderr.contains("Retry failed merge");
    assert!(retried, "{}", output.stderr);
    let found = restored(catalog, chain.last(), chain).unwrap();
    assert_same(&expected, &found, "after the retry");
    assert_success(&validate(catalog));
}

#[test]
fn merge_that_the_original_left_half_done_is_completed() {
    let chain = small_chain();
    let scratch = memory();
    let catalog = copy_of(&chain, scratch.path());
    begin_as_the_original(&chain, &catalog, scratch.path(), 3);
    completes_the_originals(&chain, &catalog);
}

#[test]
fn original_that_went_on_after_a_torn_write_and_was_stopped_too_is_completed() {
    let chain = chain_of_both_ways();
    let scratch = memory();
    let steps = steps(&chain, chain.last());
    let step = steps.iter().position(|step| is_overwrite(step)).unwrap();
    let catalog = copy_of(&chain, scratch.path());
    let output = run_with(Fault::Tear(step + 1), &mut merge(&catalog, chain.last()));
    assert!(was_killed(&output), "{output:?}");
    begin_as_the_original(&chain, &catalog, scratch.path(), 0);
    completes_the_originals(&chain, &catalog);
}

#[test]
fn file_with_another_name_is_not_overwritten() {
    let chain = chain_of_both_ways();
    let scratch = memory();
    let catalog = copy_of(&chain, scratch.path());
    let full = chain.directory_in(&catalog, &chain.ids[0]).database();
    // As who keeps copies of a catalog by hard links.
    let other = scratch.path().join("other");
    link_tree(&full, &other);
    let before = fixtures::manifest(&other);
    let expected = restored(&chain.cluster.catalog, chain.last(), &chain).unwrap();
    assert_success(&crate::support::run(&mut merge(&catalog, chain.last())));
    assert_same(&before, &fixtures::manifest(&other), "the other name");
    let found = restored(&catalog, chain.last(), &chain).unwrap();
    assert_same(&expected, &found, "merged");
}

fn link_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            link_tree(&entry.path(), &target);
        } else if entry.file_type().unwrap().is_file() {
            std::fs::hard_link(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn of_two_merges_at_once_one_does_it_and_the_other_one_harms_nothing() {
    let chain = small_chain();
    let scratch = memory();
    let catalog = copy_of(&chain, scratch.path());
    let expected = restored(&catalog, chain.last(), &chain).unwrap();
    let runs: Vec<_> = (0..2)
        .map(|_| {
            merge(&catalog, chain.last())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    // A restore meanwhile waits for the locks, or says that the backup is in use or gone.
    match restored(&catalog, chain.last(), &chain) {
        Ok(found) => assert_same(&expected, &found, "restored meanwhile"),
        Err(text) => assert!(text.contains("ERROR: "), "{text}"),
    }
    let mut merged = 0;
    for run in runs {
        let output = run.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(0) => merged += 1,
            Some(1) => assert!(text.contains("ERROR: "), "{text}"),
            other => panic!("{other:?}: {text}"),
        }
    }
    assert!(merged >= 1);
    let found = restored(&catalog, chain.last(), &chain).unwrap();
    assert_same(&expected, &found, "merged twice at once");
    assert_success(&validate(&catalog));
}
