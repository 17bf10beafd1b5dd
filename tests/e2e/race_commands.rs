//! Two processes at once on one catalog, every pair of commands: nothing is damaged, nobody waits
//! for ever, and who loses says who has the backup.
//!
//! `GS_PROBACKUP_RACE_ROUNDS` sets the number of rounds; by default they end after half a minute.

use crate::cluster::{Cluster, INSTANCE};
use crate::support::{Output, assert_success, bare, command, gs_probackup, run};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: &str = "GS_PROBACKUP_RACE_ROUNDS";
/// How long the rounds take where their number is not given.
const DURATION: Duration = Duration::from_secs(30);
/// A run that takes longer hangs: waits for locks end after a minute.
const RUN_MAX: Duration = Duration::from_secs(120);

/// A catalog with a FULL backup and an increment, and copies of it.
struct Arena {
    cluster: Cluster,
    full: String,
    increment: String,
}

impl Arena {
    fn create() -> Arena {
        let cluster = Cluster::create(1 << 20);
        let full = cluster.back_up(&[]);
        let increment = cluster.back_up(&["-b", "DELTA"]);
        Arena {
            cluster,
            full,
            increment,
        }
    }

    /// A fresh copy of the catalog, and a directory for what is restored.
    fn round(&self) -> (tempfile::TempDir, PathBuf) {
        let scratch = tempfile::tempdir().unwrap();
        let catalog = scratch.path().join("catalog");
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(&self.cluster.catalog).arg(&catalog);
        assert_success(&run(&mut copy));
        (scratch, catalog)
    }

    /// The commands that this program has, for the process that is number `place`.
    fn commands(&self, scratch: &Path, place: usize) -> Vec<Vec<String>> {
        let target = scratch.join(format!("restored-{place}"));
        let mapping = |name: &str| {
            format!(
                "{}={}",
                self.cluster.sample.tablespace.display(),
                scratch.join(format!("{name}-{place}")).display()
            )
        };
        let data = target.display().to_string();
        let (full, increment) = (self.full.as_str(), self.increment.as_str());
        let help = run(&mut bare(&["help"])).stdout;
        let all: [&[&str]; 14] = [
            &["backup", "-b", "FULL", "--offline"],
            &["backup", "-b", "DELTA", "--offline"],
            &["validate"],
            &["validate", "-i", increment],
            &[
                "restore",
                "-i",
                increment,
                "-D",
                &data,
                "-T",
                &mapping("ts"),
            ],
            &["merge", "-i", increment],
            &["show"],
            &["delete", "-i", increment],
            &["set-backup", "-i", full, "--note=raced"],
            &[
                "delete",
                "--delete-expired",
                "--delete-wal",
                "--retention-redundancy=1",
            ],
            &["delete", "--merge-expired", "--retention-window=1"],
            &["set-config", "--archive-timeout=7s"],
            &["show-config"],
            &["del-instance"],
        ];
        let known = all.into_iter().filter(|arguments| {
            help.lines()
                .any(|line| line.split_whitespace().any(|word| word == arguments[0]))
        });
        known
            .map(|arguments| {
                let (subcommand, others) = arguments.split_first().unwrap();
                let mut all = vec![(*subcommand).to_owned(), format!("--instance={INSTANCE}")];
                all.extend(others.iter().map(|text| (*text).to_owned()));
                all
            })
            .collect()
    }
}

fn start(arguments: &[String], catalog: &Path) -> Child {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    command(&arguments, catalog)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits for its end; what it says fits into the pipes.
pub(crate) fn finish(mut child: Child, context: &str) -> Output {
    let deadline = Instant::now() + RUN_MAX;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            panic!("{context}: does not end\n{said}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().unwrap();
    Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A run either does its work, or says who has the backup or what became of it.
pub(crate) fn assert_won_or_explained(output: &Output, context: &str) {
    if output.code == Some(0) {
        return;
    }
    assert_eq!(output.code, Some(1), "{context}: {output:#?}");
    let explained = [
        "process ",
        "its process has just begun it",
        "is not found",
        "was not found",
        "Failed to find backup",
        "does not exist in this backup catalog",
        "doesn't exist",
        "is missing",
        "was changed by another process",
        "backup destination is not empty",
        "Cannot lock backup",
        "has status: ",
        "has status ",
        "its status is ",
        "unfinished merge",
        "No such file or directory",
        "Some backups are not valid",
    ];
    assert!(
        explained.iter().any(|words| output.stderr.contains(words)),
        "{context}: {output:#?}"
    );
    assert!(output.stderr.contains("ERROR: "), "{context}: {output:#?}");
}

/// What is left is whole: no lock, no half-made backup, and everything valid can be restored.
fn assert_intact(arena: &Arena, scratch: &Path, catalog: &Path, context: &str) {
    let backups = catalog.join("backups").join(INSTANCE);
    if !backups.exists() {
        // Somebody deleted the instance: then there is nothing of it.
        assert!(context.contains("del-instance"), "{context}");
        assert!(!catalog.join("wal").join(INSTANCE).exists(), "{context}");
        return;
    }
    for entry in std::fs::read_dir(&backups).unwrap() {
        let path = entry.unwrap().path();
        for lock in ["backup.pid", "backup_ro.pid", "backup_ro.pidtmp"] {
            assert!(!path.join(lock).exists(), "{context}: {lock} in {path:?}");
        }
    }
    let mut names = std::fs::read_dir(&backups).unwrap();
    if !names.any(|name| name.unwrap().path().is_dir()) {
        // All that there was had been merged into the backup that was then deleted.
        let is_both = ["\"merge\"", "\"delete\", \"--instance=main\", \"-i\""];
        assert!(
            is_both.iter().all(|words| context.contains(words)),
            "{context}"
        );
        return;
    }
    let validated = gs_probackup(&["validate", "--instance", INSTANCE], catalog);
    // Of two backups that begin in one instant the loser may have left its record, as an ERROR.
    for line in validated
        .stderr
        .lines()
        .filter(|line| line.starts_with("WARNING: "))
    {
        let harmless = [
            "has status ERROR. Skip validation.",
            "Some backups are not valid",
        ];
        let is_harmless = harmless.iter().any(|words| line.ends_with(words));
        assert!(is_harmless, "{context}: {validated:#?}");
    }
    let (data, tablespace) = (scratch.join("last"), scratch.join("last-ts"));
    let mapping = format!(
        "{}={}",
        arena.cluster.sample.tablespace.display(),
        tablespace.display()
    );
    let data = data.display().to_string();
    let arguments = [
        "restore",
        "--instance",
        INSTANCE,
        "-D",
        &data,
        "-T",
        &mapping,
    ];
    assert_success_in(&gs_probackup(&arguments, catalog), context);
}

#[track_caller]
fn assert_success_in(output: &Output, context: &str) {
    assert_eq!(output.code, Some(0), "{context}: {output:#?}");
}

/// A number that follows from the round, so that a failed one can be repeated.
fn spread(round: usize) -> u64 {
    let mixed = (round as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed >> 40
}

#[test]
fn every_pair_of_commands_at_once_leaves_a_whole_catalog() {
    let arena = Arena::create();
    let rounds: Option<usize> = std::env::var(ROUNDS)
        .ok()
        .map(|text| text.parse().expect("a number of rounds"));
    let began = Instant::now();
    let mut round = 0;
    let goes_on = |round| match rounds {
        Some(rounds) => round < rounds,
        None => began.elapsed() < DURATION,
    };
    while goes_on(round) {
        let (scratch, catalog) = arena.round();
        let first = arena.commands(scratch.path(), 1);
        let second = arena.commands(scratch.path(), 2);
        // Every pair comes once before any comes again, and neighbours differ in both.
        let pairs = first.len() * second.len();
        let pair = round * 11 % pairs;
        let (one, two) = (&first[pair / second.len()], &second[pair % second.len()]);
        let delay = Duration::from_micros(spread(round) % 120_000);
        let context = format!("round {round}: {one:?} and {delay:?} later {two:?}");
        let running = start(one, &catalog);
        std::thread::sleep(delay);
        let other = start(two, &catalog);
        let outputs = [finish(running, &context), finish(other, &context)];
        for output in &outputs {
            assert_won_or_explained(output, &context);
        }
        assert!(
            outputs.iter().any(|output| output.code == Some(0)),
            "{context}: both lost: {outputs:#?}"
        );
        assert_intact(&arena, scratch.path(), &catalog, &context);
        round += 1;
    }
    eprintln!("{round} rounds");
}
