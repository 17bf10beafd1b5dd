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
pub(crate) fn kill_after(arguments: &[&str], catalog: &std::path::Path, delay: Duration) -> bool {
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

/// Kills spread over a whole run, each at another instant, until enough of them hit.
struct Kills {
    longest: Duration,
    turn: u32,
    hit: u32,
}

impl Kills {
    fn spread_over(longest: Duration) -> Kills {
        Kills {
            longest,
            turn: 0,
            hit: 0,
        }
    }

    /// When the next kill comes; `None` after enough hits or too many tries.
    fn next_delay(&mut self) -> Option<Duration> {
        if self.hit == KILLS || self.turn == 5 * KILLS {
            return None;
        }
        self.turn += 1;
        let step = self.turn * 37 % KILLS;
        Some(self.longest * step / KILLS)
    }

    /// A run that was over before its kill shows that runs have become shorter.
    fn note(&mut self, hit: bool) {
        if hit {
            self.hit += 1;
        } else {
            self.longest = self.longest * 9 / 10;
        }
    }
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
    let mut kills = Kills::spread_over(began.elapsed());
    cluster.delete(&timed);
    while let Some(delay) = kills.next_delay() {
        let turn = kills.turn;
        let ids = |cluster: &Cluster| -> Vec<String> {
            let entries =
                std::fs::read_dir(cluster.catalog.join("backups").join(INSTANCE)).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.filter(|name| !name.contains('.')).collect()
        };
        kills.note(kill_after(&arguments, &cluster.catalog, delay));
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
    assert_eq!(kills.hit, KILLS, "kills that hit a running backup");
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
    let mut kills = Kills::spread_over(began.elapsed());
    let expected = fixtures::manifest(&whole);
    while let Some(delay) = kills.next_delay() {
        let turn = kills.turn;
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
        kills.note(kill_after(&arguments, &cluster.catalog, delay));
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
    assert_eq!(kills.hit, KILLS, "kills that hit a running restore");
    assert_success(&gs_probackup(
        &["validate", "--instance", INSTANCE],
        &cluster.catalog,
    ));
    cluster.restore(&id, "after");
}
