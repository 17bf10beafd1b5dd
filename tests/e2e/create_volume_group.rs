//! A new volume group on a device, with everything that may go wrong on the way.

use crate::faults::{Fault, run_with, steps_of, was_killed};
use crate::fixtures::{dss, unpack_volume};
use crate::support::{Output, assert_success, bare, run};
use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

const SIZE: u64 = 96 << 20;

fn cv(device: &Path, more: &[&str]) -> Command {
    let mut command = bare(&["dss", "cv"]);
    command
        .arg(format!("--vg=data={}", device.display()))
        .args(more)
        .env_remove("DSS_HOME");
    command
}

fn dss_on(action: &str, device: &Path) -> Output {
    let group = format!("--vg=data={}", device.display());
    run(bare(&["dss", action, &group]).env_remove("DSS_HOME"))
}

/// A device with this byte everywhere that matters, and its first two million bytes zeroed if so
/// is asked.
fn device(path: &Path, byte: u8, zeroed: bool) {
    let file = fs::File::create(path).unwrap();
    file.set_len(SIZE).unwrap();
    if byte != 0 {
        let dirt = vec![byte; 8 << 20];
        file.write_all_at(&dirt, 0).unwrap();
        file.write_all_at(&dirt, 68 << 20).unwrap();
    }
    if zeroed {
        file.write_all_at(&vec![0; 2_048_000], 0).unwrap();
    }
}

#[track_caller]
fn assert_empty_group(path: &Path, units: u32) {
    let checked = dss_on("check", path);
    assert_success(&checked);
    let expected = format!("volume group data: 1 nodes, {units} allocation units, no damage\n");
    assert_eq!(checked.stdout, expected);
    assert_eq!(dss_on("ls", path).stdout, "");
}

#[test]
fn blank_and_dirty_devices_become_groups() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("volume");
    for (size, units) in [("2MB", 35), ("4MB", 18), ("8192", 10), ("16MB", 6)] {
        for (byte, zeroed) in [(0, false), (0xa5, true)] {
            device(&path, byte, zeroed);
            assert_success(&run(&mut cv(&path, &[&format!("--au-size={size}")])));
            assert_empty_group(&path, units);
        }
    }
}

#[test]
fn an_old_batch_in_the_ring_is_not_taken_for_one_of_the_new_group() {
    let Some(dss) = dss() else { return };
    let scratch = tempfile::tempdir().unwrap();
    // Its pending batch has lsn 1, the first of any group, at the start of the ring.
    let path = unpack_volume(&dss, "crash-format-fs", scratch.path());
    let image = fs::File::options().write(true).open(&path).unwrap();
    image.write_all_at(&vec![0; 2_048_000], 0).unwrap();
    assert_success(&run(&mut cv(&path, &["--au-size=2MB"])));
    assert_empty_group(&path, 35);
}

#[test]
fn a_volume_a_running_server_and_impossible_sizes_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("volume");
    device(&path, 0, false);
    let refused = |command: &mut Command, error: &str| {
        let output = run(command);
        assert_eq!(output.code, Some(1), "{output:#?}");
        assert!(output.stderr.contains(error), "{output:#?}");
    };
    for size in ["1MB", "3000", "128MB", "x"] {
        refused(&mut cv(&path, &[&format!("--au-size={size}")]), "ERROR: ");
    }
    refused(&mut cv(&path, &["--au-size=64MB"]), "too small a device");
    assert_eq!(
        fs::read(&path).unwrap(),
        vec![0; usize::try_from(SIZE).unwrap()]
    );
    let home = scratch.path().join("home");
    fs::create_dir(&home).unwrap();
    let server = UnixListener::bind(home.join(".dss_unix_d_socket")).unwrap();
    let mut command = cv(&path, &[]);
    refused(command.env("DSS_HOME", &home), "runs\nHINT: stop it first");
    drop(server);
    // The socket stays behind and nobody listens.
    fs::write(home.join("dss.lck"), "").unwrap();
    assert_success(&run(cv(&path, &[]).env("DSS_HOME", &home)));
    let good = fs::read(&path).unwrap();
    let again = "is a volume of group data already\nHINT: if nothing on it is needed";
    refused(&mut cv(&path, &[]), again);
    assert!(
        fs::read(&path).unwrap() == good,
        "a refused device was written to"
    );
}

#[test]
fn killed_torn_or_failed_at_any_step_it_leaves_no_volume_or_a_good_one() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("volume");
    device(&path, 0, false);
    let steps = steps_of(&mut cv(&path, &[]));
    assert!(steps.len() >= 6, "{steps:?}");
    for step in 1..=steps.len() {
        for fault in [Fault::Tear(step), Fault::IoError(step)] {
            device(&path, 0, false);
            let output = run_with(fault, &mut cv(&path, &[]));
            let is_end = was_killed(&output) || output.code == Some(1);
            assert!(is_end, "{fault:?}: {output:#?}");
            // Only the first copy of the header makes a volume.
            if dss_on("ls", &path).code == Some(0) {
                assert_empty_group(&path, 10);
            } else {
                assert_success(&run(&mut cv(&path, &[])));
                assert_empty_group(&path, 10);
            }
        }
    }
}

#[test]
fn killed_torn_or_failed_at_any_step_a_volume_is_added_or_not() {
    let scratch = tempfile::tempdir().unwrap();
    let (first, second) = (scratch.path().join("data0"), scratch.path().join("data1"));
    let adv = || {
        let mut command = bare(&["dss", "adv"]);
        let devices = format!("--vg=data={},{}", first.display(), second.display());
        command.arg(devices).env_remove("DSS_HOME");
        command
    };
    let make = || {
        device(&first, 0, false);
        assert_success(&run(&mut cv(&first, &[])));
        device(&second, 0, false);
    };
    make();
    let steps = steps_of(&mut adv());
    assert!(steps.len() >= 10, "{steps:?}");
    // Each takes seconds: every other one.
    for step in (1..=steps.len()).step_by(2) {
        make();
        let output = run_with(Fault::Tear(step), &mut adv());
        assert!(was_killed(&output), "{step}: {output:#?}");
        assert_success(&dss_on("ls", &first));
        let again = run(&mut adv());
        let is_added = again.stderr.contains("volumes of it already");
        assert!(again.code == Some(0) || is_added, "{again:#?}");
        let checked = dss_on("check", &first);
        let expected = "volume group data: 1 nodes, 11 allocation units, no damage\n";
        assert_eq!(checked.stdout, expected, "{step}");
    }
}
