//! What several processes do in one catalog at a time, and what the machine grants each.

use crate::cluster::{Cluster, INSTANCE};
use crate::support::{assert_success, command, gs_probackup};
use gs_probackup::catalog::lock::{LockOptions, lock_exclusive};
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn a_backup_that_ends_while_validate_waits_for_it_is_good() {
    let cluster = Cluster::create(1 << 20);
    let id = cluster.back_up(&[]);
    let path = cluster.backup_path(&id);
    let control = path.join("backup.control");
    let text = std::fs::read_to_string(&control).unwrap();
    let lock = lock_exclusive(&path, id.parse().unwrap(), &LockOptions::FAIL_FAST).unwrap();
    std::fs::write(&control, text.replace("status = OK", "status = RUNNING")).unwrap();
    let validate = command(&["validate", "--instance", INSTANCE], &cluster.catalog)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Long enough for it to have read the record and to wait.
    std::thread::sleep(Duration::from_secs(1));
    std::fs::write(&control, &text).unwrap();
    drop(lock);
    let output = validate.wait_with_output().unwrap();
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{messages}");
    let show = gs_probackup(&["show", "--instance", INSTANCE], &cluster.catalog);
    assert!(show.stdout.contains(" OK "), "{}", show.stdout);
}

#[test]
fn a_low_limit_of_open_files_is_raised() {
    let cluster = Cluster::create(4 << 20);
    let id = cluster.back_up(&[]);
    let (target, tablespace) = cluster.targets("restored");
    let script = "ulimit -Sn 24 && exec \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_gs_probackup")])
        .args(["restore", "--instance", INSTANCE, "-i", &id, "-T"])
        .arg(format!(
            "{}={}",
            cluster.sample.tablespace.display(),
            tablespace.display()
        ))
        .arg("-B")
        .arg(&cluster.catalog)
        .arg("-D")
        .arg(&target)
        .output()
        .unwrap();
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{messages}");
}

#[test]
fn a_restore_into_the_catalog_or_another_target_is_refused() {
    let cluster = Cluster::create(1 << 20);
    let id = cluster.back_up(&[]);
    let (target, _) = cluster.targets("restored");
    for tablespace in [target.join("base"), cluster.catalog.join("backups/x")] {
        let output = cluster.try_restore(&id, &target, &tablespace, &[]);
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(output.stderr.contains("overlaps"), "{output:?}");
        assert!(!target.exists(), "nothing is written for a refused restore");
    }
    assert_success(&gs_probackup(&["validate"], &cluster.catalog));
}

#[test]
fn a_tablespace_in_the_data_directory_comes_back_where_its_link_leads() {
    let cluster = Cluster::create(1 << 20);
    let data = &cluster.sample.data_directory;
    let inside = data.join("elsewhere");
    std::fs::rename(&cluster.sample.tablespace, &inside).unwrap();
    let link = data.join("pg_tblspc/16385");
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&inside, &link).unwrap();
    let id = cluster.back_up(&[]);
    let (target, tablespace) = cluster.targets("restored");
    let mapping = format!("{}={}", inside.display(), tablespace.display());
    let data = target.display().to_string();
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
    assert_success(&gs_probackup(&arguments, &cluster.catalog));
    let expected = crate::fixtures::manifest(&inside);
    let found = crate::fixtures::manifest(&tablespace);
    let differences = crate::fixtures::differences(&expected, &found);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
