//! Whatever a catalog says, nothing is written outside the targets, nothing outside the backup is
//! read, and the answer is one ERROR line.

use crate::cluster::{Cluster, INSTANCE};
use crate::support::{Output, gs_probackup};
use std::fs;
use std::path::Path;

/// Replaces the path of `PG_VERSION` in the content list and makes its CRC right again.
fn rename_in_list(backup: &Path, path: &str) {
    let list = backup.join("backup_content.control");
    let text = fs::read_to_string(&list).unwrap();
    let changed = text.replacen(
        "\"path\":\"PG_VERSION\"",
        &format!("\"path\":\"{path}\""),
        1,
    );
    assert_ne!(text, changed);
    fs::write(&list, &changed).unwrap();
    let control = backup.join("backup.control");
    let lines = fs::read_to_string(&control).unwrap();
    let crc = crc32c::crc32c(changed.as_bytes());
    let lines: String = lines
        .lines()
        .map(|line| match line.starts_with("content-crc") {
            true => format!("content-crc = {crc}\n"),
            false => format!("{line}\n"),
        })
        .collect();
    fs::write(&control, lines).unwrap();
    let _ = fs::remove_file(backup.join("backup.seal"));
}

fn assert_refused(output: &Output, what: &str) {
    assert_eq!(output.code, Some(1), "{what}: {output:?}");
    assert!(!output.stderr.contains("panicked"), "{what}: {output:?}");
    let errors = output
        .stderr
        .lines()
        .filter(|line| line.starts_with("ERROR: "));
    assert_eq!(errors.count(), 1, "{what}: {}", output.stderr);
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    let cluster = Cluster::create(1 << 20);
    let id = cluster.back_up(&[]);
    let backup = cluster.backup_path(&id);
    let names = ["backup.control", "backup_content.control", "backup.seal"];
    let saved: Vec<Vec<u8>> = names
        .iter()
        .map(|name| fs::read(backup.join(name)).unwrap())
        .collect();
    let outside = cluster.scratch.path().join("outside");
    for path in [
        "../outside".to_owned(),
        "base/../../outside".to_owned(),
        outside.display().to_string(),
        "./PG_VERSION".to_owned(),
        "base//PG_VERSION".to_owned(),
        "a\u{1}b".to_owned(),
        "x/".repeat(600),
    ] {
        rename_in_list(&backup, &path);
        let (target, tablespace) = cluster.targets("hostile");
        let output = cluster.try_restore(&id, &target, &tablespace, &["--no-validate"]);
        assert_refused(&output, &path);
        assert!(!outside.exists(), "{path} was written");
        let validated = gs_probackup(
            &["validate", "--instance", INSTANCE, "-i", &id],
            &cluster.catalog,
        );
        assert_refused(&validated, &path);
        for (name, bytes) in names.iter().zip(&saved) {
            fs::write(backup.join(name), bytes).unwrap();
        }
        for directory in [&target, &tablespace] {
            let _ = fs::remove_dir_all(directory);
        }
    }
}

#[test]
fn links_in_a_backup_are_not_followed() {
    let cluster = Cluster::create(1 << 20);
    let id = cluster.back_up(&[]);
    let secret = cluster.scratch.path().join("secret");
    let stored = cluster.backup_path(&id).join("database/PG_VERSION");
    fs::rename(&stored, &secret).unwrap();
    std::os::unix::fs::symlink(&secret, &stored).unwrap();
    let (target, tablespace) = cluster.targets("linked");
    let output = cluster.try_restore(&id, &target, &tablespace, &["--no-validate"]);
    assert_refused(&output, "restore through a link");
    assert!(!target.join("PG_VERSION").exists());
    let validated = gs_probackup(
        &["validate", "--instance", INSTANCE, "-i", &id],
        &cluster.catalog,
    );
    assert_refused(&validated, "validate through a link");
}

#[test]
fn control_files_cut_anywhere_are_told_and_harm_no_other_backup() {
    let cluster = Cluster::create(1 << 20);
    let good = cluster.back_up(&[]);
    let cut = cluster.back_up(&[]);
    let control = cluster.backup_path(&cut).join("backup.control");
    let bytes = fs::read(&control).unwrap();
    for length in (0..bytes.len()).step_by(23) {
        fs::write(&control, &bytes[..length]).unwrap();
        let show = gs_probackup(&["show", "--instance", INSTANCE], &cluster.catalog);
        assert_eq!(show.code, Some(0), "{length}: {show:?}");
        assert!(show.stdout.contains(&good), "{length}: {}", show.stdout);
        let validated = gs_probackup(&["validate", "--instance", INSTANCE], &cluster.catalog);
        assert_refused(&validated, &format!("cut at {length}"));
    }
    let one = gs_probackup(
        &["validate", "--instance", INSTANCE, "-i", &good],
        &cluster.catalog,
    );
    assert_eq!(one.code, Some(0), "{one:?}");
}
