//! WAL that no backup needs is removed from the archive, and no other.

use crate::cluster::INSTANCE;
use crate::delete_backups::unpack_records;
use crate::faults::{Fault, run_with, steps_of, was_killed};
use crate::fixtures;
use crate::retain_backups::assert_at_its_time;
use crate::support::{Output, assert_success, command, gs_probackup};
use gs_probackup::catalog::lock::{LockOptions, lock_exclusive};
use gs_probackup::catalog::{BackupDir, Catalog, Instance};
use gs_probackup::format::catalog::{BackupControl, BackupMode, BackupStatus, InstanceConf};
use gs_probackup::types::{BackupId, Lsn, TimelineId};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const SEGMENT: u64 = 16 << 20;
/// The ids of the backups, the oldest first.
const IDS: [&str; 4] = ["TOU801", "TOU802", "TOU803", "TOU804"];

/// A catalog of records, and an archive of segments without content.
struct Archive {
    scratch: TempDir,
    instance: Instance,
}

impl Archive {
    /// Backups that begin in segments 5, 8 and 11 of timeline 1; the archive has 3 to 14 of it, and
    /// 20 to 21 of timeline 2, which left it in segment 2.
    fn create() -> Archive {
        let scratch = tempfile::tempdir().unwrap();
        let catalog = Catalog::init(scratch.path().join("catalog")).unwrap();
        let instance = catalog
            .add_instance(INSTANCE, &InstanceConf::default())
            .unwrap();
        let archive = Archive { scratch, instance };
        for (id, segno) in IDS.iter().zip([5, 8, 11]) {
            archive.add_backup(id, segno, |_| {});
        }
        archive.fill();
        archive
    }

    fn add_backup(&self, id: &str, segno: u64, change: impl FnOnce(&mut BackupControl)) {
        let id: BackupId = id.parse().unwrap();
        let mut control = BackupControl::new(BackupMode::Full, id.start_time());
        control.recovery_time = Some(id.start_time());
        control.status = BackupStatus::Ok;
        control.stream = true;
        control.timeline = TimelineId(1);
        control.start_lsn = Lsn(segno * SEGMENT + 0x28);
        control.stop_lsn = Lsn(segno * SEGMENT + 0x1000);
        change(&mut control);
        let path = self.backup(&id.to_string());
        fs::create_dir_all(&path).unwrap();
        BackupDir::at(id, &path).write_control(&control).unwrap();
    }

    fn backup(&self, id: &str) -> PathBuf {
        self.instance.dir().join(id)
    }

    fn catalog(&self) -> PathBuf {
        self.scratch.path().join("catalog")
    }

    fn put(&self, name: &str, bytes: u64) {
        let file = fs::File::create(self.instance.wal_dir().join(name)).unwrap();
        file.set_len(bytes).unwrap();
    }

    fn fill(&self) {
        for segno in 3..=14 {
            self.put(&segment(1, segno), SEGMENT);
        }
        // One of them is compressed.
        fs::remove_file(self.instance.wal_dir().join(segment(1, 4))).unwrap();
        self.put(&format!("{}.gz", segment(1, 4)), 5000);
        self.put(&format!("{}.00000028.backup", segment(1, 5)), 300);
        self.put(&format!("{}.00000028.backup", segment(1, 3)), 300);
        self.put(&format!("{}.partial", segment(1, 2)), 500);
        self.put(&format!("{}.partial", segment(1, 15)), 500);
        self.put("README", 1);
        for segno in 20..=21 {
            self.put(&segment(2, segno), SEGMENT);
        }
        let history = self.instance.wal_dir().join("00000002.history");
        fs::write(history, "1\t0/2000100\tno reason\n").unwrap();
    }

    fn names(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.instance.wal_dir()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    /// Numbers of the whole segments of timeline 1 that are there.
    fn segments(&self) -> Vec<u64> {
        let names = self.names();
        let is_there = |segno: &u64| {
            let name = segment(1, *segno);
            names.contains(&name) || names.contains(&format!("{name}.gz"))
        };
        (1..=16).filter(is_there).collect()
    }

    fn delete(&self, words: &[&str]) -> Output {
        let all = [&["delete", "--instance", INSTANCE], words].concat();
        gs_probackup(&all, &self.catalog())
    }
}

fn segment(tli: u32, segno: u64) -> String {
    format!("{tli:08X}00000000{segno:08X}")
}

fn range(from: u64, to: u64) -> Vec<u64> {
    (from..=to).collect()
}

#[test]
fn recorded_runs_say_what_the_original_says() {
    let Some(gauss) = fixtures::gauss() else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let catalog = scratch.path();
    unpack_records(&gauss, "catalog_zlib", catalog);
    assert_at_its_time(&gauss, "delete-wal", catalog);
    assert_eq!(
        fs::read_dir(catalog.join("backups/zlib")).unwrap().count(),
        4
    );
}

#[test]
fn what_is_older_than_all_backups_goes_after_it_was_said() {
    let archive = Archive::create();
    let before = archive.names();
    let lines = |verb: &str| {
        format!(
            "WARNING: unexpected WAL file name \"README\"\n\
             INFO: On timeline 1 WAL segments between 000000010000000000000003 and \
             000000010000000000000005 {verb} be removed\n\
             INFO: Logical WAL size to remove on timeline 1 : 32MB\n\
             INFO: Resident WAL size to free on timeline 1 : 16MB\n\
             INFO: On timeline 2 all files {verb} be removed\n\
             INFO: On timeline 2 WAL segments between 000000020000000000000014 and \
             000000020000000000000015 {verb} be removed\n\
             INFO: Logical WAL size to remove on timeline 2 : 32MB\n\
             INFO: Resident WAL size to free on timeline 2 : 32MB\n\
             INFO: There are no backups to merge by retention policy\n\
             INFO: There are no backups to delete by retention policy\n"
        )
    };
    let nothing = "INFO: There is no WAL to purge by retention policy\n";
    let planned = archive.delete(&["--delete-wal", "--dry-run"]);
    assert_success(&planned);
    assert_eq!(planned.stderr, lines("can") + nothing);
    assert_eq!(archive.names(), before);
    let output = archive.delete(&["--delete-wal"]);
    assert_success(&output);
    assert_eq!(output.stderr, lines("will"));
    let mut expected: BTreeSet<String> = (5..=14).map(|segno| segment(1, segno)).collect();
    expected.insert(format!("{}.partial", segment(1, 15)));
    expected.insert(format!("{}.00000028.backup", segment(1, 5)));
    expected.extend(["README".to_owned(), "00000002.history".to_owned()]);
    assert_eq!(archive.names(), expected);
    let again = archive.delete(&["--wal"]);
    assert!(
        again
            .stderr
            .contains("INFO: Nothing to remove on timeline 1\n"),
        "{again:?}"
    );
    assert!(again.stderr.ends_with(nothing), "{again:?}");
}

#[test]
fn a_deleted_backup_needs_its_wal_no_more_and_a_depth_comes_from_both_places() {
    let archive = Archive::create();
    // A dry run tells what would be there afterwards.
    let planned = archive.delete(&["-i", IDS[0], "--delete-wal", "--dry-run"]);
    assert_success(&planned);
    let line = "between 000000010000000000000003 and 000000010000000000000008 can be removed\n";
    assert!(planned.stderr.contains(line), "{planned:?}");
    assert_eq!(archive.segments(), range(3, 14));
    assert_success(&archive.delete(&["-i", IDS[0], "--delete-wal"]));
    assert_eq!(archive.segments(), range(8, 14));
    // The newest backup keeps its WAL, and the one without WAL of its own what it needs.
    archive.add_backup(IDS[1], 8, |control| control.stream = false);
    let set = ["set-config", "--instance", INSTANCE, "--wal-depth=1"];
    assert_success(&gs_probackup(&set, &archive.catalog()));
    let two = archive.delete(&["--delete-wal", "--wal-depth=2"]);
    assert!(
        two.stderr.contains("Nothing to remove on timeline 1\n"),
        "{two:?}"
    );
    let one = archive.delete(&["--delete-wal", "--log-level-console=log"]);
    assert_success(&one);
    let said = format!(
        "LOG: Archive backup {} to stay consistent protect from purge WAL interval between \
         000000010000000000000008 and 000000010000000000000009\n",
        IDS[1]
    );
    assert!(one.stderr.contains(&said), "{one:?}");
    assert_eq!(archive.segments(), [&[8, 9][..], &range(11, 14)].concat());
    let failed = archive.delete(&["--status=ok", "--delete-wal"]);
    assert_success(&failed);
    assert_eq!(archive.segments(), [] as [u64; 0]);
}

#[test]
fn retention_purges_what_is_left_over_after_it() {
    let archive = Archive::create();
    let words = ["--expired", "--delete-wal", "--retention-redundancy=1"];
    let dry = archive.delete(&[&words[..], &["--dry-run"]].concat());
    let line = "between 000000010000000000000003 and 00000001000000000000000B can be removed\n";
    assert!(dry.stderr.contains(line), "{dry:?}");
    assert_eq!(archive.segments(), range(3, 14));
    assert_success(&archive.delete(&words));
    assert!(!archive.backup(IDS[1]).exists());
    assert_eq!(archive.segments(), range(11, 14));
}

#[test]
fn where_something_is_not_known_all_wal_stays() {
    let archive = Archive::create();
    let before = archive.names();
    let stays = |reason: &str| {
        let output = archive.delete(&["--delete-wal"]);
        assert_success(&output);
        assert!(output.stderr.contains(reason), "{reason}: {output:?}");
        assert_eq!(archive.names(), before);
    };
    let id: BackupId = IDS[3].parse().unwrap();
    archive.add_backup(IDS[3], 0, |control| {
        control.start_lsn = Lsn(0);
        control.status = BackupStatus::Running;
    });
    let lock = lock_exclusive(&archive.backup(IDS[3]), id, &LockOptions::PATIENT).unwrap();
    stays("is just beginning, skip purging of WAL");
    drop(lock);
    // Nobody makes it any more: it never needs any.
    let control = archive.backup(IDS[3]).join("backup.control");
    fs::write(&control, "status = ").unwrap();
    stays("nobody knows which WAL backup TOU804 needs, skip purging of WAL");
    fs::remove_dir_all(archive.backup(IDS[3])).unwrap();
    // A backup may lead to timeline 2, for all that is known.
    fs::write(archive.instance.wal_dir().join("00000002.history"), "?").unwrap();
    let output = archive.delete(&["--delete-wal"]);
    assert_success(&output);
    let reason = "no readable history of timeline 2";
    assert!(output.stderr.contains(reason), "{output:?}");
    assert_eq!(archive.segments(), range(5, 14));
    assert!(archive.names().contains(&segment(2, 20)));
}

/// Everything that the kept backups need is there, and of what is not, the newer part.
#[track_caller]
fn assert_suffix(segments: &[u64], when: &str) {
    let first = segments[0];
    assert!(first <= 5, "{when}: {segments:?}");
    assert_eq!(segments, range(first, 14), "{when}");
}

#[test]
fn killed_or_failed_at_any_step_no_wal_that_is_needed_is_gone() {
    let purge = |archive: &Archive| {
        let words = ["delete", "--instance", INSTANCE, "--delete-wal"];
        command(&words, &archive.catalog())
    };
    let archive = Archive::create();
    let steps = steps_of(&mut purge(&archive));
    assert!(
        steps
            .iter()
            .filter(|step| step.starts_with("remove "))
            .count()
            >= 6
    );
    for step in 1..=steps.len() {
        for fault in [Fault::Kill(step), Fault::IoError(step)] {
            archive.fill();
            let output = run_with(fault, &mut purge(&archive));
            let when = format!("{fault:?} at {}", steps[step - 1]);
            if !was_killed(&output) {
                assert_eq!(output.code, Some(1), "{when}: {output:?}");
                assert!(output.stderr.contains("Input/output error"), "{output:?}");
                assert!(
                    output.stderr.contains(path_of(&steps[step - 1])),
                    "{output:?}"
                );
            }
            assert_suffix(&archive.segments(), &when);
            assert_success(&crate::support::run(&mut purge(&archive)));
            assert_eq!(archive.segments(), range(5, 14), "{when}");
        }
    }
}

fn path_of(step: &str) -> &str {
    let path = Path::new(step.split_once(' ').unwrap().1);
    path.file_name().unwrap().to_str().unwrap()
}
