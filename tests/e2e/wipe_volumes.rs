//! Volumes become plain devices again, and nothing else does.

use crate::faults::{Fault, run_with, steps_of, was_killed};
use crate::support::{Output, assert_success, bare, run};
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

/// `dss` with these words on one device a group.
fn dss(words: &[&str], groups: &[(&str, &Path)]) -> Command {
    let mut command = bare(&["dss"]);
    command.args(words).env_remove("DSS_HOME");
    for (name, device) in groups {
        command.arg(format!("--vg={name}={}", device.display()));
    }
    command
}

/// A device with a group, and dirt behind its head.
fn volume(directory: &Path, name: &str) -> PathBuf {
    let device = directory.join(name);
    let mut content = vec![0; 2_048_000];
    content.resize(80 << 20, 0xa5);
    fs::write(&device, content).unwrap();
    assert_success(&run(&mut dss(&["cv", "--au-size=2MB"], &[(name, &device)])));
    device
}

#[track_caller]
fn assert_refused(output: &Output, error: &str) {
    assert_eq!(output.code, Some(1), "{output:#?}");
    assert!(output.stderr.contains(error), "{output:#?}");
}

#[test]
fn volumes_are_wiped_when_that_was_confirmed() {
    let scratch = tempfile::tempdir().unwrap();
    let (data, log) = (
        volume(scratch.path(), "data"),
        volume(scratch.path(), "log"),
    );
    let groups = [("data", &*data), ("log", &*log)];
    let before = [&data, &log].map(|device| fs::read(device).unwrap());
    let plan = format!(
        "wipe {} for volume group data: 80MB, a volume of group data\n\
         wipe {} for volume group log: 80MB, a volume of group log\n",
        data.display(),
        log.display()
    );
    let planned = run(&mut dss(&["wipe", "--dry-run"], &groups));
    assert_success(&planned);
    assert_eq!(planned.stdout, plan);
    assert_refused(&run(&mut dss(&["wipe"], &groups)), "confirm with --yes");
    assert_refused(
        &run(&mut dss(&["wipe", "--yes"], &[])),
        "name what is to be wiped",
    );
    let other = run(&mut dss(&["wipe", "--yes"], &[("log", &data)]));
    assert_refused(&other, "is a volume of group data, not of log");
    let home = scratch.path().join("home");
    fs::create_dir(&home).unwrap();
    let server = UnixListener::bind(home.join(".dss_unix_d_socket")).unwrap();
    let mut command = dss(&["wipe", "--yes"], &groups);
    assert_refused(
        &run(command.env("DSS_HOME", &home)),
        "runs\nHINT: stop it first",
    );
    drop(server);
    for (device, before) in [&data, &log].into_iter().zip(&before) {
        assert!(fs::read(device).unwrap() == *before, "it was changed");
    }
    let wiped = run(&mut dss(&["wipe", "--yes"], &groups));
    assert_success(&wiped);
    assert_eq!(wiped.stdout, plan);
    for (name, device) in groups {
        let bytes = fs::read(device).unwrap();
        assert!(bytes[..2_048_000].iter().all(|byte| *byte == 0));
        assert_eq!(bytes.len(), 80 << 20);
        assert_success(&run(&mut dss(&["cv", "--au-size=2MB"], &[(name, device)])));
        assert_success(&run(&mut dss(&["check"], &[(name, device)])));
    }
}

#[test]
fn a_group_is_wiped_with_all_its_volumes() {
    let Some(fixtures) = crate::fixtures::dss() else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let images = ["pop-data0", "pop-data1"]
        .map(|name| crate::fixtures::unpack_volume(&fixtures, name, scratch.path()));
    let on = |words: &[&str], devices: &[&PathBuf]| {
        let devices: Vec<String> = devices
            .iter()
            .map(|device| device.display().to_string())
            .collect();
        let mut command = dss(words, &[]);
        run(command.arg(format!("--vg=data={}", devices.join(","))))
    };
    let [entry, second] = &images;
    assert_success(&on(&["wipe", "--yes"], &[entry, second]));
    for image in &images {
        let planned = on(&["wipe", "--dry-run"], &[image]);
        assert!(planned.stdout.ends_with("no volume\n"), "{planned:#?}");
    }
}

#[test]
fn killed_or_failed_at_any_step_it_leaves_volumes_or_none_and_can_be_repeated() {
    let scratch = tempfile::tempdir().unwrap();
    let (data, log) = (
        volume(scratch.path(), "data"),
        volume(scratch.path(), "log"),
    );
    let groups = [("data", &*data), ("log", &*log)];
    let kept = [&data, &log].map(|device| fs::read(device).unwrap());
    let wipe = || dss(&["wipe", "--yes"], &groups);
    let steps = steps_of(&mut wipe());
    assert!(steps.len() >= 2 * 5, "{steps:?}");
    // All that touch the controls of the first device, and some of the others.
    for step in (1..=steps.len()).filter(|step| *step <= 5 || step % 7 == 0) {
        for fault in [Fault::Tear(step), Fault::IoError(step)] {
            for (device, kept) in [&data, &log].into_iter().zip(&kept) {
                fs::write(device, kept).unwrap();
            }
            let output = run_with(fault, &mut wipe());
            assert!(was_killed(&output) || output.code == Some(1), "{output:#?}");
            for (name, device) in groups {
                let planned = run(&mut dss(&["wipe", "--dry-run"], &[(name, device)]));
                assert_success(&planned);
                let ends = [
                    format!("a volume of group {name}\n"),
                    "no volume\n".to_owned(),
                ];
                assert!(
                    ends.iter().any(|end| planned.stdout.ends_with(end)),
                    "{planned:#?}"
                );
                if planned.stdout.ends_with(&ends[0]) {
                    assert_success(&run(&mut dss(&["check"], &[(name, device)])));
                }
            }
            assert_success(&run(&mut wipe()));
        }
    }
}
