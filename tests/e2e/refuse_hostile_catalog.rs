//! Whatever a catalog says, nothing is written outside the targets, nothing outside the backup is
//! read, and the answer is one ERROR line.

use crate::cluster::{Cluster, INSTANCE};
use crate::support::{Output, gs_probackup};
use std::fs;
use std::path::{Path, PathBuf};

/// Replaces the path of `PG_VERSION` in the content list and makes its CRC right again.
fn rename_in_list(backup: &Path, path: &str) {
    let new = format!("\"path\":\"{path}\"");
    change_list(backup, |text| {
        text.replacen("\"path\":\"PG_VERSION\"", &new, 1)
    });
}

/// Sets a value in the line of `path` of the content list.
fn set_in_list(backup: &Path, path: &str, key: &str, value: &str) {
    change_list(backup, |text| {
        let is_meant = |line: &str| line.contains(&format!("\"path\":\"{path}\""));
        let key = format!("\"{key}\":\"");
        let lines = text.split_inclusive('\n').map(|line| {
            let Some((head, tail)) = line.split_once(&key).filter(|_| is_meant(line)) else {
                return line.to_owned();
            };
            let (_, tail) = tail.split_once('"').unwrap();
            format!("{head}{key}{value}\"{tail}")
        });
        lines.collect()
    });
}

/// Changes the content list and makes its CRC right again, as somebody would who is up to no good.
fn change_list(backup: &Path, change: impl FnOnce(&str) -> String) {
    let list = backup.join("backup_content.control");
    let text = fs::read_to_string(&list).unwrap();
    let changed = change(&text);
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

/// What the tests change, to be put back.
struct Saved(Vec<(PathBuf, Vec<u8>)>);

impl Saved {
    fn of(backup: &Path) -> Saved {
        let names = ["backup.control", "backup_content.control", "backup.seal"];
        let paths = names.iter().map(|name| backup.join(name));
        Saved(
            paths
                .map(|path| (path.clone(), fs::read(path).unwrap()))
                .collect(),
        )
    }

    fn restore(&self) {
        for (path, bytes) in &self.0 {
            fs::write(path, bytes).unwrap();
        }
    }
}

fn validate(cluster: &Cluster, id: &str) -> Output {
    gs_probackup(
        &["validate", "--instance", INSTANCE, "-i", id],
        &cluster.catalog,
    )
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
fn tablespaces_of_a_volume_group_are_none_of_a_cluster_on_file_systems() {
    let cluster = Cluster::create(1 << 20);
    let id = cluster.back_up(&[]);
    let map = cluster.backup_path(&id).join("database/tablespace_map");
    fs::write(&map, "16385 +data/pg_location/ts1\n").unwrap();
    let (target, _) = cluster.targets("shared");
    let data = target.display().to_string();
    let words = [
        "restore",
        "--instance",
        INSTANCE,
        "-i",
        &id,
        "-D",
        &data,
        "--no-validate",
    ];
    let output = gs_probackup(&words, &cluster.catalog);
    assert_refused(&output, "a tablespace of a group");
    let said = "not a plain absolute path: \"+data/pg_location/ts1\"";
    assert!(output.stderr.contains(said), "{output:?}");
    assert!(!target.join("pg_tblspc/16385").exists() && !target.join("pg_location").exists());
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

#[test]
fn numbers_that_no_content_list_can_have_are_refused() {
    let cluster = Cluster::create(1 << 20);
    let id = cluster.back_up(&[]);
    let backup = cluster.backup_path(&id);
    let saved = Saved::of(&backup);
    let heap = "base/16384/16386";
    for (path, key, value, restored, validated) in [
        (
            "PG_VERSION",
            "external_dir_num",
            "2147483647",
            "the content list names external directory 2147483647, which the backup does not have",
            "external directory 2147483647 is not found",
        ),
        (
            heap,
            "n_blocks",
            "2147483647",
            "has 2147483647 blocks, more than a segment file can have",
            "has 2147483647 blocks in the content list and",
        ),
        (
            heap,
            "n_blocks",
            "4294967296",
            "backup_content.control",
            "backup_content.control",
        ),
        (
            "PG_VERSION",
            "external_dir_num",
            "99999999999",
            "backup_content.control",
            "backup_content.control",
        ),
    ] {
        set_in_list(&backup, path, key, value);
        let (target, tablespace) = cluster.targets("hostile");
        let output = cluster.try_restore(&id, &target, &tablespace, &["--no-validate"]);
        assert_refused(&output, value);
        assert!(output.stderr.contains(restored), "{}", output.stderr);
        assert!(!target.join("global/pg_control").exists());
        let output = validate(&cluster, &id);
        assert_refused(&output, value);
        assert!(output.stderr.contains(validated), "{}", output.stderr);
        saved.restore();
        for directory in [&target, &tablespace] {
            let _ = fs::remove_dir_all(directory);
        }
    }
    assert_eq!(validate(&cluster, &id).code, Some(0));
}

#[test]
fn a_file_with_fewer_blocks_in_the_list_than_in_the_backup_is_noticed() {
    let cluster = Cluster::create(1 << 20);
    let id = cluster.back_up(&[]);
    let backup = cluster.backup_path(&id);
    // By this number a restore would leave out all pages but the first.
    set_in_list(&backup, "base/16384/16386", "n_blocks", "1");
    let output = validate(&cluster, &id);
    assert_refused(&output, "one block");
    let expected = "File \"base/16384/16386\" has 1 blocks in the content list and ";
    assert!(output.stderr.contains(expected), "{}", output.stderr);
}

#[test]
fn a_file_that_no_member_of_its_chain_holds_is_named() {
    let cluster = Cluster::create(1 << 20);
    let id = cluster.back_up(&[]);
    let backup = cluster.backup_path(&id);
    let saved = Saved::of(&backup);
    for path in ["PG_VERSION", "base/16384/16386"] {
        set_in_list(&backup, path, "size", "-1");
        let (target, tablespace) = cluster.targets("unchanged");
        let output = cluster.try_restore(&id, &target, &tablespace, &["--no-validate"]);
        assert_refused(&output, path);
        let expected = format!("Failed to locate nonedata file \"{path}\" in backup {id}");
        assert!(output.stderr.contains(&expected), "{}", output.stderr);
        assert!(!target.join("global/pg_control").exists());
        assert_refused(&validate(&cluster, &id), path);
        saved.restore();
        for directory in [&target, &tablespace] {
            let _ = fs::remove_dir_all(directory);
        }
    }
}

#[test]
fn a_backup_of_other_storage_does_not_end_the_validation_of_the_others() {
    let cluster = Cluster::create(1 << 20);
    let other = cluster.back_up(&[]);
    let damaged = cluster.back_up(&[]);
    let good = cluster.back_up(&[]);
    let control = cluster.backup_path(&other).join("backup.control");
    let text = fs::read_to_string(&control).unwrap();
    let changed = text.replace("storage-type = FILE", "storage-type = DSS");
    assert_ne!(text, changed);
    fs::write(&control, &changed).unwrap();
    fs::write(
        cluster.backup_path(&damaged).join("database/PG_VERSION"),
        "?",
    )
    .unwrap();
    let output = gs_probackup(&["validate", "--instance", INSTANCE], &cluster.catalog);
    assert_refused(&output, "other storage");
    for line in [
        format!(
            "WARNING: Backup {other} is not suit for instance {INSTANCE}, because they have \
             different storage type. Change it to CORRUPT and skip validation."
        ),
        format!("WARNING: Backup {damaged} data files are corrupted"),
        format!("INFO: Backup {good} data files are valid"),
    ] {
        assert!(output.stderr.contains(&line), "{line}\n{}", output.stderr);
    }
    let now = fs::read_to_string(&control).unwrap();
    assert!(now.contains("\nstatus = CORRUPT\n"), "{now}");
}
