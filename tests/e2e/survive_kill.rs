//! Killed at any instant, a backup or restore leaves every finished backup usable, and the next run
//! succeeds.

use crate::cluster::{Cluster, INSTANCE};
use crate::fixtures;
use crate::support::{assert_success, command, gs_probackup};
use std::process::Stdio;
use std::time::Duration;

/// Kills per command.
const KILLS: u32 = 100;

/// Runs the command and kills it after a time that grows from kill to kill up to `longest`.
fn kill_after(arguments: &[&str], catalog: &std::path::Path, delay: Duration) -> bool {
    let mut child = command(arguments, catalog)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(delay);
    let finished = child.try_wait().unwrap().is_some();
    child.kill().unwrap();
    child.wait().unwrap();
    !finished
}

/// Spreads the kills over the whole run, each at another instant.
fn delay(turn: u32, longest: Duration) -> Duration {
    let step = u64::from(turn * 37 % KILLS);
    let micros = u64::try_from(longest.as_micros()).unwrap();
    Duration::from_micros(micros * step / u64::from(KILLS))
}

#[test]
fn a_killed_backup_harms_no_other_and_the_next_succeeds() {
    let cluster = Cluster::create(64 << 20);
    let first = cluster.back_up(&["--compress-algorithm=lz4"]);
    let began = std::time::Instant::now();
    let arguments = [
        "backup",
        "--instance",
        INSTANCE,
        "-b",
        "FULL",
        "--offline",
        "--compress-algorithm=zlib",
    ];
    let timed = cluster.back_up(&["--compress-algorithm=zlib"]);
    let longest = began.elapsed();
    cluster.delete(&timed);
    let mut killed = 0;
    for turn in 0..KILLS {
        let ids = |cluster: &Cluster| -> Vec<String> {
            let entries =
                std::fs::read_dir(cluster.catalog.join("backups").join(INSTANCE)).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.filter(|name| !name.contains('.')).collect()
        };
        killed += u32::from(kill_after(
            &arguments,
            &cluster.catalog,
            delay(turn, longest),
        ));
        for id in ids(&cluster).iter().filter(|id| **id != first) {
            let output = gs_probackup(
                &["validate", "--instance", INSTANCE, "-i", id],
                &cluster.catalog,
            );
            let control = std::fs::read_to_string(cluster.backup_path(id).join("backup.control"));
            let status = control.unwrap_or_default();
            // Either it had finished, or it is told to be unusable; never anything in between.
            let usable = status.contains("status = OK") || status.contains("status = DONE");
            assert_eq!(
                output.code == Some(0),
                usable,
                "turn {turn}: {status}\n{}",
                output.stderr
            );
            cluster.delete(id);
        }
    }
    assert!(
        killed > KILLS / 2,
        "only {killed} of {KILLS} kills hit a running backup"
    );
    assert_success(&gs_probackup(
        &["validate", "--instance", INSTANCE],
        &cluster.catalog,
    ));
    let last = cluster.back_up(&[]);
    for id in [&first, &last] {
        let (target, _) = cluster.restore(id, &format!("after-{id}"));
        assert!(target.join("global/pg_control").exists());
    }
}

#[test]
fn a_killed_restore_harms_no_backup_and_cannot_be_started() {
    let cluster = Cluster::create(64 << 20);
    let id = cluster.back_up(&["--compress-algorithm=zlib"]);
    let began = std::time::Instant::now();
    let (whole, _) = cluster.restore(&id, "whole");
    let longest = began.elapsed();
    let expected = fixtures::manifest(&whole);
    let mut killed = 0;
    for turn in 0..KILLS {
        let (target, tablespace) = cluster.targets("killed");
        let data = target.display().to_string();
        let mapping = format!(
            "{}={}",
            cluster.sample.tablespace.display(),
            tablespace.display()
        );
        let arguments = [
            "restore",
            "--instance",
            INSTANCE,
            "-i",
            &id,
            "-D",
            &data,
            "-T",
            &mapping,
        ];
        let hit = kill_after(&arguments, &cluster.catalog, delay(turn, longest));
        killed += u32::from(hit);
        if target.join("global/pg_control").exists() {
            // The control file comes last: where it is, everything is.
            let mut found = fixtures::manifest(&target);
            if let (Some(link), Some(other)) = (
                found.get_mut("pg_tblspc/16385"),
                expected.get("pg_tblspc/16385"),
            ) {
                link.content.clone_from(&other.content);
            }
            let differences = fixtures::differences(&expected, &found);
            assert!(
                differences.is_empty(),
                "turn {turn}:\n{}",
                differences.join("\n")
            );
        }
        for directory in [&target, &tablespace] {
            if directory.exists() {
                std::fs::remove_dir_all(directory).unwrap();
            }
        }
    }
    assert!(
        killed > KILLS / 2,
        "only {killed} of {KILLS} kills hit a running restore"
    );
    assert_success(&gs_probackup(
        &["validate", "--instance", INSTANCE],
        &cluster.catalog,
    ));
    cluster.restore(&id, "after");
}
