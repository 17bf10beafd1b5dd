//! The cost of a catalog with very many files stays in proportion: a twentieth of what
//! `benches/catalog.rs` measures, with bounds that only an explosion exceeds. So does that of WAL
//! in large segments.

use crate::cluster::{self, Cluster, remove_system_catalogs, remove_wal, start_and_stop_with_wal};
use crate::support::{command, gs_probackup};
use gs_probackup::testing::large_catalog::{self, INSTANCE};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const FILES: usize = 100_000;

/// Runs a command: how long it took, the most memory it had in MiB, and what it said.
fn run_measured(command: &mut Command) -> (Duration, u64, String) {
    let began = Instant::now();
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        peak = peak.max(kib.map_or(0, |kib| kib.trim().parse::<u64>().unwrap()));
        std::thread::sleep(Duration::from_millis(1));
    }
    let wall = began.elapsed();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    (wall, peak / 1024, said)
}

/// As [`run_measured`], of the whole program.
fn measured(arguments: &[&str], catalog: &Path) -> (Duration, u64, String) {
    run_measured(&mut command(arguments, catalog))
}

#[test]
fn increment_of_a_parent_with_many_files_takes_little_time_and_memory() {
    let cluster = Cluster::create(512 << 10);
    let small = cluster.back_up(&[]);
    let catalog = cluster.scratch.path().join("large");
    let data = &cluster.sample.data_directory;
    let ids = large_catalog::create(&catalog, data, FILES, 2).unwrap();
    let show = gs_probackup(&["show"], &catalog);
    assert!(
        ids.iter().all(|id| show.stdout.contains(&id.to_string())),
        "{}",
        show.stdout
    );
    let (shown_in, ..) = measured(&["show"], &catalog);
    assert!(shown_in < Duration::from_secs(2), "{shown_in:?}");

    let take = |catalog: &Path, instance: &str| {
        let instance = format!("--instance={instance}");
        let words = [
            "backup",
            &instance,
            "-b",
            "DELTA",
            "--offline",
            "--no-validate",
        ];
        measured(&words, catalog)
    };
    let (_, usual, said) = take(&cluster.catalog, crate::cluster::INSTANCE);
    assert!(said.contains(&format!("Parent backup: {small}")), "{said}");
    let (wall, peak, said) = take(&catalog, INSTANCE);
    let parent = ids.last().unwrap();
    assert!(said.contains(&format!("Parent backup: {parent}")), "{said}");
    eprintln!("{FILES} files: {wall:?}, {peak} MiB instead of {usual}");
    assert!(wall < Duration::from_secs(20), "{wall:?}");
    // 300 MiB for a million files are 30 for these.
    assert!(peak < usual + 40, "{peak} MiB instead of {usual}");
}

/// Memory in MiB that is far more than commands take, and far less than a WAL segment of shared
/// storage.
const PEAK_MAX: u64 = 300;

#[test]
fn wal_in_segments_of_a_gibibyte_takes_little_memory() {
    let cluster = Cluster::create_with(512 << 10, |sample| {
        remove_system_catalogs(&sample.data_directory);
        remove_wal(&sample.data_directory);
        start_and_stop_with_wal(sample, 1 << 30);
    });
    let instance = format!("--instance={}", cluster::INSTANCE);
    let words = [
        "backup",
        &instance,
        "-b",
        "FULL",
        "--offline",
        "--no-validate",
        "--no-sync",
    ];
    let (_, peak, _) = measured(&words, &cluster.catalog);
    assert!(peak < PEAK_MAX, "{peak} MiB");
    let (_, peak, said) = measured(&["validate", &instance], &cluster.catalog);
    assert!(said.contains("WAL segments are valid"), "{said}");
    assert!(peak < PEAK_MAX, "{peak} MiB");
}
