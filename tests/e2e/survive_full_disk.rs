//! A full disk ends a backup and a restore with one ERROR line that says where and what to do; the
//! status tells the truth, and with more room the next run succeeds.

use crate::cluster::{Cluster, INSTANCE};
use crate::support::{assert_success, gs_probackup};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system, unmounted when dropped.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, said aloud, where mounting is not allowed.
    pub(crate) fn mount(path: &Path, mebibytes: u32) -> Option<SmallDisk> {
        std::fs::create_dir(path).unwrap();
        let size = format!("size={mebibytes}M");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(path)
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("SKIPPED: a small file system cannot be mounted; run the tests as root");
            return None;
        }
        Some(SmallDisk(path.to_owned()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    fn grow(&self) {
        let grown = Command::new("mount")
            .args(["-o", "remount,size=512M"])
            .arg(&self.0)
            .status();
        assert!(grown.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn full_disk_fails_a_backup_and_the_next_one_succeeds() {
    let cluster = Cluster::create(8 << 20);
    let Some(disk) = SmallDisk::mount(&cluster.scratch.path().join("small"), 24) else {
        return;
    };
    let catalog = disk.0.join("catalog");
    let data = cluster.sample.data_directory.display().to_string();
    assert_success(&gs_probackup(&["init"], &catalog));
    let add = ["add-instance", "--instance", INSTANCE, "-D", &data];
    assert_success(&gs_probackup(&add, &catalog));
    let backup = [
        "backup",
        "--instance",
        INSTANCE,
        "-b",
        "FULL",
        "--offline",
        "--compress-algorithm=zlib",
    ];
    let output = gs_probackup(&backup, &catalog);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(
        output.stderr.contains("No space left on device"),
        "{output:?}"
    );
    assert!(output.stderr.contains("HINT: free space"), "{output:?}");
    let show = gs_probackup(&["show", "--instance", INSTANCE], &catalog);
    assert!(show.stdout.contains(" ERROR "), "{}", show.stdout);
    disk.grow();
    assert_success(&gs_probackup(&backup, &catalog));
    let show = gs_probackup(&["show", "--instance", INSTANCE], &catalog);
    assert!(show.stdout.contains(" OK "), "{}", show.stdout);
}

#[test]
fn full_disk_fails_a_restore_which_cannot_be_started_then() {
    let cluster = Cluster::create(8 << 20);
    let id = cluster.back_up(&[]);
    let Some(disk) = SmallDisk::mount(&cluster.scratch.path().join("small"), 24) else {
        return;
    };
    let (target, tablespace) = (disk.0.join("data"), disk.0.join("tablespace"));
    let output = cluster.try_restore(&id, &target, &tablespace, &[]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(
        output.stderr.contains("No space left on device"),
        "{output:?}"
    );
    assert!(!target.join("global/pg_control").exists());
    for directory in [&target, &tablespace] {
        std::fs::remove_dir_all(directory).unwrap();
    }
    disk.grow();
    assert_success(&cluster.try_restore(&id, &target, &tablespace, &[]));
    assert!(target.join("global/pg_control").exists());
}
