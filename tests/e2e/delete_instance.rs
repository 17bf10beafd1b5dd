//! `del-instance`: all of an instance goes and nothing else, in order, and killed at any instant it
//! can be ended.

use crate::faults::{Fault, run_with, steps_of, was_killed};
use crate::support::{assert_success, command, gs_probackup};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const BACKUPS: [(&str, &str); 2] = [("TOU8BZ", "FULL"), ("TOU8CN", "PTRACK")];

/// Files of each backup, and of the WAL archive.
const FILES: [&str; 3] = [
    "backup_content.control",
    "database/PG_VERSION",
    "database/base/1/2",
];
const WAL: [&str; 2] = ["000000010000000000000003", "old/000000010000000000000002"];

struct Catalog {
    scratch: tempfile::TempDir,
}

fn write(path: PathBuf, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

impl Catalog {
    /// Two instances of two backups each.
    fn new() -> Catalog {
        let scratch = tempfile::tempdir().unwrap();
        let catalog = Catalog { scratch };
        for name in ["one", "other"] {
            let instance = catalog.instance(name);
            write(instance.join("pg_probackup.conf"), "pgdata = /data\n");
            for (at, (id, mode)) in BACKUPS.into_iter().enumerate() {
                let time = format!("2026-11-21 05:5{}:47+00", 2 + at);
                let parent = if at == 0 {
                    ""
                } else {
                    "parent-backup-id = 'TOU8BZ'\n"
                };
                let start = if at == 0 { "05:52:47" } else { "05:53:11" };
                let control = format!(
                    "backup-mode = {mode}\nstream = true\nprogram-version = 2.4.2\n\
                     server-version = 9.2\nblock-size = 8192\nxlog-block-size = 8192\n\
                     timelineid = 1\nstart-lsn = 0/3000028\nstop-lsn = 0/30001E8\n\
                     start-time = '2026-11-21 {start}+00'\nend-time = '{time}'\nstatus = OK\n\
                     {parent}"
                );
                write(instance.join(id).join("backup.control"), &control);
                for file in FILES {
                    write(instance.join(id).join(file), file);
                }
            }
            for file in WAL {
                write(
                    catalog.scratch.path().join("wal").join(name).join(file),
                    file,
                );
            }
        }
        catalog
    }

    fn path(&self) -> &Path {
        self.scratch.path()
    }

    fn instance(&self, name: &str) -> PathBuf {
        self.path().join("backups").join(name)
    }

    fn delete(&self) -> Command {
        command(&["del-instance", "--instance=one"], self.path())
    }

    /// Whether nothing is missing of a backup that does not say that it is being deleted.
    fn is_consistent(&self) -> bool {
        BACKUPS.iter().all(|(id, _)| {
            let backup = self.instance("one").join(id);
            let control = fs::read_to_string(backup.join("backup.control")).unwrap_or_default();
            let whole = FILES.iter().all(|file| backup.join(file).exists());
            whole || !control.contains("status = OK")
        })
    }

    #[track_caller]
    fn assert_other_is_whole(&self) {
        let instance = self.instance("other");
        for (id, _) in BACKUPS {
            for file in FILES.into_iter().chain(["backup.control"]) {
                assert!(instance.join(id).join(file).exists(), "{id} {file}");
            }
        }
        for file in WAL {
            assert!(self.path().join("wal/other").join(file).exists());
        }
        assert!(instance.join("pg_probackup.conf").exists());
    }

    #[track_caller]
    fn assert_gone(&self) {
        assert!(!self.instance("one").exists());
        assert!(!self.path().join("wal/one").exists());
        self.assert_other_is_whole();
    }
}

#[test]
fn an_instance_goes_with_its_backups_newest_first_its_wal_and_its_settings() {
    let catalog = Catalog::new();
    let output = crate::support::run(&mut catalog.delete());
    assert_success(&output);
    let lines: Vec<&str> = output.stderr.lines().collect();
    assert_eq!(lines.len(), 3, "{output:#?}");
    assert!(lines[0].starts_with("INFO: Delete: TOU8CN "));
    assert!(lines[1].starts_with("INFO: Delete: TOU8BZ "));
    assert_eq!(lines[2], "INFO: Instance 'one' successfully deleted");
    catalog.assert_gone();
    let output = crate::support::run(&mut catalog.delete());
    assert_eq!(output.code, Some(1));
    assert!(
        output
            .stderr
            .contains("Instance 'one' does not exist in this backup catalog")
    );
    assert_success(&gs_probackup(&["show"], catalog.path()));
}

#[test]
fn a_kill_or_a_failure_at_any_step_is_ended_by_the_next_run() {
    let steps = steps_of(&mut Catalog::new().delete());
    assert!(steps.len() > 20, "{steps:?}");
    for (at, step) in steps.iter().enumerate() {
        for fault in [
            Fault::Kill(at + 1),
            Fault::Tear(at + 1),
            Fault::IoError(at + 1),
        ] {
            let catalog = Catalog::new();
            let output = run_with(fault, &mut catalog.delete());
            let killed = !matches!(fault, Fault::IoError(_));
            assert_eq!(was_killed(&output), killed, "{fault:?} {step}: {output:#?}");
            assert!(catalog.is_consistent(), "{fault:?} {step}: {output:#?}");
            catalog.assert_other_is_whole();
            if catalog.instance("one").exists() {
                assert_success(&crate::support::run(&mut catalog.delete()));
            }
            catalog.assert_gone();
        }
    }
}

#[test]
fn a_full_disk_is_not_in_the_way() {
    let catalog = Catalog::new();
    assert_success(&run_with(Fault::NoSpace(1), &mut catalog.delete()));
    catalog.assert_gone();
}

#[test]
fn what_is_no_backup_ends_the_run_before_anything_is_removed() {
    for name in ["TOU8CN_enc", "notes", "lost+found/x"] {
        let catalog = Catalog::new();
        let stranger = catalog.instance("one").join(name);
        write(stranger.clone(), "somebody's");
        let output = crate::support::run(&mut catalog.delete());
        assert_eq!(output.code, Some(1), "{output:#?}");
        assert!(
            output.stderr.contains("ERROR: Can't remove \""),
            "{output:#?}"
        );
        for (id, _) in BACKUPS {
            assert!(
                catalog
                    .instance("one")
                    .join(id)
                    .join("database/PG_VERSION")
                    .exists()
            );
        }
        assert!(stranger.exists());
    }
}

#[test]
fn links_are_removed_and_not_followed() {
    let catalog = Catalog::new();
    let elsewhere = catalog.path().join("elsewhere");
    write(elsewhere.join("file"), "precious");
    let link = catalog.instance("one").join("TOU8BZ/database/pg_tblspc");
    std::os::unix::fs::symlink(&elsewhere, link).unwrap();
    assert_success(&crate::support::run(&mut catalog.delete()));
    catalog.assert_gone();
    assert!(elsewhere.join("file").exists());
    // A whole archive elsewhere is left to whoever put it there.
    let catalog = Catalog::new();
    let wal = catalog.path().join("wal/one");
    let elsewhere = catalog.path().join("elsewhere");
    fs::rename(&wal, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &wal).unwrap();
    let output = crate::support::run(&mut catalog.delete());
    assert_eq!(output.code, Some(1), "{output:#?}");
    assert!(elsewhere.join(WAL[0]).exists());
}

#[test]
fn a_backup_that_somebody_uses_is_waited_for() {
    let catalog = Catalog::new();
    let mut user = Command::new("sleep").arg("600").spawn().unwrap();
    let lock = catalog.instance("one").join("TOU8BZ/backup.pid");
    fs::write(lock, format!("{}\n", user.id())).unwrap();
    let mut running = catalog.delete().stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(running.stderr.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let expected = format!(
        "WARNING: Process {} is using backup TOU8BZ, and is still running",
        user.id()
    );
    assert_eq!(first, expected);
    for (id, _) in BACKUPS {
        assert!(
            catalog
                .instance("one")
                .join(id)
                .join("database/PG_VERSION")
                .exists()
        );
    }
    user.kill().unwrap();
    user.wait().unwrap();
    let last = lines.map(Result::unwrap).last().unwrap();
    assert_eq!(last, "INFO: Instance 'one' successfully deleted");
    assert!(running.wait().unwrap().success());
    catalog.assert_gone();
}
