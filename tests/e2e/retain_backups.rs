//! Which backups a retention policy keeps, merges and deletes, and pins that it respects.

use crate::chain::ChainOfBackups;
use crate::cluster::{Cluster, INSTANCE};
use crate::delete_backups::{assert_as_recorded, unpack_records};
use crate::faults::{Fault, run_with, steps_of, was_killed};
use crate::fixtures;
use crate::support::{Output, assert_success, command, gs_probackup, run};
use gs_probackup::catalog::BackupDir;
use gs_probackup::format::catalog::{
    BackupControl, BackupMode, BackupStatus, NoZone, parse_timestamp,
};
use gs_probackup::types::BackupId;
use std::fs;
use std::path::Path;

/// Adds a backup of which there is only the record.
fn add_record(instance: &Path, id: &str, parent: Option<&str>) {
    let id: BackupId = id.parse().unwrap();
    let mode = if parent.is_some() {
        BackupMode::Ptrack
    } else {
        BackupMode::Full
    };
    let mut control = BackupControl::new(mode, id.start_time());
    control.parent_backup_id = parent.map(|parent| parent.parse().unwrap());
    control.recovery_time = Some(id.start_time());
    control.status = BackupStatus::Ok;
    let path = instance.join(id.to_string());
    fs::create_dir(&path).unwrap();
    BackupDir::at(id, &path).write_control(&control).unwrap();
}

#[test]
fn recorded_retention_says_what_the_original_says() {
    let Some(gauss) = fixtures::gauss() else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let catalog = scratch.path();
    unpack_records(&gauss, "catalog_lz4", catalog);
    let instance = catalog.join("backups/lz4");
    add_record(&instance, "TOU8UB", None);
    add_record(&instance, "TOU8UG", Some("TOU8UB"));
    for name in [
        "retention-none",
        "retention-dry-merge",
        "retention-dry-window",
        "retention-dry-both",
    ] {
        assert_at_its_time(&gauss, name, catalog);
    }
    for name in ["retention-dry", "retention-dry-wal"] {
        let (said, recorded) = said_and_recorded(&gauss, name, catalog);
        let named = "INFO: Backups that would be deleted: TOU8DG, TOU8CY, TOU8CD";
        assert!(said.contains(&named.to_owned()), "{said:#?}");
        let is_about_deletion = |line: &String| line.starts_with("INFO: There are no backups to d");
        let without = |lines: Vec<String>, other: &str| -> Vec<String> {
            let lines = lines.into_iter();
            lines
                .filter(|line| !is_about_deletion(line) && line != other)
                .collect()
        };
        assert_eq!(without(said, named), without(recorded, named), "{name}");
    }
    assert_eq!(fs::read_dir(&instance).unwrap().count(), 6);
    assert_at_its_time(&gauss, "retention-wet", catalog);
    for gone in ["TOU8CD", "TOU8CY", "TOU8DG"] {
        assert!(!instance.join(gone).exists(), "{gone}");
    }
    assert!(instance.join("TOU8UG/backup.control").exists());
}

/// Runs a recorded command at the time of its recording and compares what is said; what is LOG is
/// ours.
#[track_caller]
pub(crate) fn assert_at_its_time(gauss: &Path, name: &str, catalog: &Path) {
    let (said, recorded) = said_and_recorded(gauss, name, catalog);
    assert_eq!(said, recorded, "{name}");
}

#[track_caller]
fn said_and_recorded(gauss: &Path, name: &str, catalog: &Path) -> (Vec<String>, Vec<String>) {
    // A minute after the last of the recorded backups.
    let last: BackupId = "TOU8UG".parse().unwrap();
    let transcript = gauss.join("transcripts").join(name);
    let text = fs::read_to_string(transcript.with_extension("cmd")).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("$ gs_probackup "));
    let words: Vec<&str> = line.unwrap().split_ascii_whitespace().collect();
    let arguments = [&words[..1], &words[3..]].concat();
    let mut command = command(&arguments, catalog);
    command.env("GS_NOW", (last.start_time() + 60).to_string());
    let output = run(&mut command);
    assert_success(&output);
    let recorded = fs::read_to_string(transcript.with_extension("stderr")).unwrap();
    let plain = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with("LOG: "));
        lines.map(str::to_owned).collect()
    };
    (plain(&output.stderr), plain(&recorded))
}

#[test]
fn recorded_pins_and_notes_come_out_as_the_original_makes_them() {
    let Some(gauss) = fixtures::gauss() else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let catalog = scratch.path();
    unpack_records(&gauss, "catalog_zlib", catalog);
    for name in ["err-id-setbackup", "err-setbackup-nothing"] {
        assert_as_recorded(&gauss, name, catalog, true);
    }
    let control = |id: &str| {
        let path = catalog.join(format!("backups/zlib/{id}/backup.control"));
        fs::read_to_string(path).unwrap()
    };
    let before = control("TOU8C4");
    let set = |id: &str, option: &str| {
        let arguments = ["set-backup", "--instance=zlib", "-i", id, option];
        gs_probackup(&arguments, catalog)
    };
    let pinned = "INFO: Backup TOU8C4 is pinned until '2026-12-01 05:52:53+00'\n";
    assert_eq!(set("TOU8C4", "--ttl=10d").stderr, pinned);
    let until = "INFO: Backup TOU8CR is pinned until '2030-01-01 00:00:00+00'\n";
    let output = set("TOU8CR", "--expire-time=2030-01-01 00:00:00+00");
    assert_eq!(output.stderr, until);
    let output = set("TOU8D9", "--note=my note");
    assert_eq!(
        output.stderr,
        "INFO: Adding note to backup TOU8D9: 'my note'\n"
    );
    assert!(control("TOU8D9").contains("\nnote = 'my note'\ncontent-crc = "));
    let output = set("TOU8D9", "--note=none");
    assert_eq!(output.stderr, "INFO: Removing note from backup TOU8D9\n");
    let output = set("TOU8D9", "--note=line1\nline2");
    assert_eq!(
        output.stderr,
        "INFO: Adding note to backup TOU8D9: 'line1'\n"
    );
    assert_eq!(
        set("TOU8C4", "--expire-time=foo").stderr,
        "ERROR: Invalid value for '--expire-time' option: 'foo'\n"
    );
    for (id, name) in [("TOU8CR", "ptrack1"), ("TOU8D9", "ptrack2")] {
        let name = format!("transcripts/after-set-backup.{name}.backup.control");
        let recorded = fs::read_to_string(gauss.join(name)).unwrap();
        assert_eq!(control(id), recorded, "{id}");
    }
    assert_eq!(
        set("TOU8C4", "--ttl=0").stderr,
        "INFO: Backup TOU8C4 is unpinned\n"
    );
    assert_eq!(control("TOU8C4"), before);
    let again = set("TOU8C4", "--ttl=0");
    let nothing = "WARNING: Backup TOU8C4 is not pinned, nothing to unpin\n";
    assert_eq!((again.code, again.stderr.as_str()), (Some(0), nothing));
    for (option, reason) in [
        ("--note=it's", "quote"),
        ("--note=a\tb", "control character"),
    ] {
        let output = set("TOU8C4", option);
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(output.stderr.contains(reason), "{output:?}");
    }
    assert_eq!(control("TOU8C4"), before);
}

fn validate(catalog: &Path, id: &str) -> Output {
    gs_probackup(&["validate", "--instance", INSTANCE, "-i", id], catalog)
}

#[test]
fn a_backup_is_pinned_when_it_is_made_and_outlives_the_policy() {
    let cluster = Cluster::create(1 << 20);
    // The generated cluster's data are as old as its last checkpoint.
    let first = cluster.back_up(&["--ttl=9999d", "--note=kept"]);
    let pinned = fs::read_to_string(cluster.backup_path(&first).join("backup.control")).unwrap();
    assert!(pinned.contains("\nexpire-time = '"), "{pinned}");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let second = cluster.back_up(&[]);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let third = cluster.back_up(&["--delete-expired", "--retention-redundancy=1"]);
    assert!(cluster.backup_path(&first).exists() && cluster.backup_path(&third).exists());
    assert!(!cluster.backup_path(&second).exists());
    let unpin = [
        "set-backup",
        "--instance",
        INSTANCE,
        "-i",
        &first,
        "--ttl=0",
    ];
    assert_success(&gs_probackup(&unpin, &cluster.catalog));
    assert_success(&validate(&cluster.catalog, &first));
    let purge = [
        "delete",
        "--instance",
        INSTANCE,
        "--expired",
        "--retention-redundancy=1",
    ];
    assert_success(&gs_probackup(&purge, &cluster.catalog));
    assert!(!cluster.backup_path(&first).exists());
    assert_success(&validate(&cluster.catalog, &third));
}

#[test]
fn expired_backups_are_merged_into_the_oldest_wanted_one() {
    let none: &[&str] = &["--no-validate"];
    let chain = ChainOfBackups::create(&[none, none, none]);
    let (cluster, ids) = (&chain.cluster, &chain.ids);
    // The FULL backup and the first increment are old.
    for (id, days) in ids.iter().zip([20, 20, 0]) {
        let dir = chain.directory(id);
        let (mut control, _) = dir.read_control().unwrap();
        control.recovery_time = Some(control.start_time - days * 86_400);
        fs::remove_file(dir.path().join("backup.seal")).ok();
        dir.write_control(&control).unwrap();
    }
    let arguments = |more: &'static str| {
        let merge = "--merge-expired";
        [
            "delete",
            "--instance",
            INSTANCE,
            merge,
            "--retention-window=7",
            more,
        ]
    };
    let planned = gs_probackup(&arguments("--dry-run"), &cluster.catalog);
    assert_success(&planned);
    let line = format!(
        "INFO: Merge incremental chain between full backup {} and backup {}\n",
        ids[0], ids[2]
    );
    assert!(planned.stderr.contains(&line), "{planned:?}");
    assert!(
        !planned.stderr.contains("no backups to merge"),
        "{planned:?}"
    );
    assert!(cluster.backup_path(&ids[0]).exists());
    let merged = gs_probackup(&arguments("--delete-expired"), &cluster.catalog);
    assert_success(&merged);
    assert!(merged.stderr.contains("Retention merging finished"));
    for id in &ids[..2] {
        assert!(!cluster.backup_path(id).exists());
    }
    assert_success(&validate(&cluster.catalog, &ids[2]));
}

#[test]
fn killed_or_failed_at_any_step_a_record_has_its_old_pin_or_the_new_one() {
    let cluster = Cluster::create(1 << 20);
    let id = cluster.back_up(&["--no-validate"]);
    let set = |ttl: &str| {
        let arguments = ["set-backup", "--instance", INSTANCE, "-i", &id, ttl];
        command(&arguments, &cluster.catalog)
    };
    let control = cluster.backup_path(&id).join("backup.control");
    let seconds = |key: &str| {
        let text = fs::read_to_string(&control).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .map(str::to_owned);
        line.map(|line| parse_timestamp(line.trim_matches('\''), NoZone::Utc).unwrap())
    };
    let pin = || seconds("expire-time = ");
    let recovery_time = seconds("recovery-time = ").unwrap();
    let steps = steps_of(&mut set("--ttl=1d"));
    let mut ttl: i64 = 2;
    for step in 1..=steps.len() {
        for fault in [
            Fault::Kill(step),
            Fault::Tear(step),
            Fault::IoError(step),
            Fault::NoSpace(step),
        ] {
            let before = pin();
            let option = format!("--ttl={ttl}d");
            ttl += 1;
            let output = run_with(fault, &mut set(&option));
            let name = &steps[step - 1];
            let is_lock = name.contains("backup.pid") || name.contains("backup_ro.pid");
            let has_failed = was_killed(&output) || output.code == Some(1);
            // A full disk leaves alone what needs no space.
            let has_space = matches!(fault, Fault::NoSpace(_)) && output.code == Some(0);
            assert!(has_failed || is_lock || has_space, "{name}: {output:?}");
            let wanted = Some(recovery_time + (ttl - 1) * 86_400);
            let after = pin();
            assert!(after == before || after == wanted, "{name}: {after:?}");
            if output.code == Some(0) {
                assert_eq!(after, wanted, "{name}");
            }
            assert_success(&validate(&cluster.catalog, &id));
        }
    }
    assert_success(&crate::support::run(&mut set("--ttl=0")));
    assert_eq!(pin(), None);
}
