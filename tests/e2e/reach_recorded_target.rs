//! Recovery targets of openGauss: the recorded backups, and the WAL that the recorded server wrote
//! behind them, as an archive.

use crate::fixtures;
use crate::support::{Output, assert_success, gs_probackup};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The FULL backup of instance `zlib`, the first increment on it, and the last.
const FULL: &str = "TOU8C4";
const FIRST: &str = "TOU8CR";
const LAST: &str = "TOU8D9";

struct Recorded {
    scratch: tempfile::TempDir,
    archive: PathBuf,
}

impl Recorded {
    fn open() -> Option<Recorded> {
        let gauss = fixtures::gauss()?;
        let scratch = tempfile::tempdir().unwrap();
        fixtures::unpack(&gauss, "catalog_zlib", scratch.path());
        let archive = scratch.path().join("archive");
        std::fs::create_dir(&archive).unwrap();
        unpack_wal(&gauss, &archive);
        Some(Recorded { scratch, archive })
    }

    fn validate(&self, others: &[&str]) -> Output {
        let archive = format!("--archive-dir={}", self.archive.display());
        let words = [&["validate", "--instance=zlib", &archive], others].concat();
        gs_probackup(&words, self.scratch.path())
    }

    #[track_caller]
    fn assert_reached(&self, others: &[&str], at: &str) {
        let output = self.validate(others);
        assert_success(&output);
        let line = format!("INFO: Backup validation completed successfully on {at}");
        assert!(output.stderr.contains(&line), "{line}\n{output:#?}");
    }

    #[track_caller]
    fn assert_short(&self, others: &[&str], target: &str) {
        let output = self.validate(others);
        assert_eq!(output.code, Some(1), "{output:#?}");
        let line = format!("ERROR: Not enough WAL records to {target}\n");
        assert!(output.stderr.contains(&line), "{line}\n{output:#?}");
        assert!(
            output
                .stderr
                .contains("WARNING: Recovery can be done up to time 2026-11-21 ")
        );
    }
}

/// The segments of the recorded data directory.
fn unpack_wal(gauss: &Path, archive: &Path) {
    let file = std::fs::File::open(gauss.join("pgdata.tar.zst")).unwrap();
    let mut decoder = zstd::Decoder::new(file).unwrap();
    decoder.window_log_max(27).unwrap();
    let mut tar = tar::Archive::new(decoder);
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let is_wal = path
            .parent()
            .is_some_and(|parent| parent.ends_with("pg_xlog"));
        if is_wal && entry.header().entry_type().is_file() {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            std::fs::write(archive.join(path.file_name().unwrap()), bytes).unwrap();
        }
    }
}

#[test]
fn the_wal_of_a_server_leads_from_a_backup_to_later_targets() {
    let Some(recorded) = Recorded::open() else {
        return;
    };
    let full = ["-i", FULL];
    let with = |target| [&full[..], &[target]].concat();
    recorded.assert_reached(
        &with("--recovery-target-time=2026-11-21 05:53:33+00"),
        "time 2026-11-21 05:53:3",
    );
    // The end of the increment, from the FULL backup.
    recorded.assert_reached(
        &with("--recovery-target-lsn=0/100001E8"),
        "time 2026-11-21 ",
    );
    // What the backup itself reaches needs no archive.
    for (id, lsn) in [(FULL, "0/40001E8"), (LAST, "0/100001E8")] {
        let words = ["-i", id, "--recovery-target-lsn", lsn];
        recorded.assert_reached(&words, "time 2026-11-21 ");
    }
    recorded.assert_reached(
        &["-i", FIRST, "--recovery-target-xid=13372"],
        "time 2026-11-21 05:53:15+00, xid 13372 and LSN 0/A0001E8",
    );
    recorded.assert_reached(
        &["--recovery-target-name=backup TOU8CR"],
        "time 2026-11-21 ",
    );
    recorded.assert_short(
        &with("--recovery-target-time=2027-01-01 00:00:00+00"),
        "time 2027-01-01 00:00:00+00",
    );
    recorded.assert_short(&with("--recovery-target-xid=99999999"), "xid 99999999");
    recorded.assert_short(&with("--recovery-target-lsn=F/0"), "lsn F/0");
}

#[test]
fn the_newest_backup_before_the_target_is_chosen_and_gaps_are_seen() {
    let Some(recorded) = Recorded::open() else {
        return;
    };
    for (time, chosen) in [
        ("2026-11-21 05:53:00+00", FULL),
        ("2026-11-21 13:53:20+08", FIRST),
        ("2026-11-21 05:53:34", LAST),
    ] {
        let output = recorded.validate(&["--recovery-target-time", time]);
        let line = format!("INFO: Backup {chosen} is the newest that lies before");
        assert!(output.stderr.contains(&line), "{line}\n{output:#?}");
    }
    let early = recorded.validate(&["--recovery-target-time=2026-11-21 05:00:00+00"]);
    assert_eq!(early.code, Some(1), "{early:#?}");
    let none = "ERROR: Backup satisfying target options is not found.";
    assert!(early.stderr.contains(none), "{early:#?}");
    let named = recorded.validate(&["-i", LAST, "--recovery-target-xid=1"]);
    let refused = format!("ERROR: Requested backup {LAST} does not satisfy restore options");
    assert!(named.stderr.contains(&refused), "{named:#?}");
    let later = ["-i", FULL, "--recovery-target-lsn=0/A0001E8"];
    recorded.assert_reached(&later, "time ");
    let segment = recorded.archive.join("000000010000000000000007");
    let bytes = std::fs::read(&segment).unwrap();
    std::fs::remove_file(&segment).unwrap();
    recorded.assert_short(&later, "lsn 0/A0001E8");
    // Damage on the way is no better than a hole.
    let mut bad = bytes.clone();
    bad[0x30] ^= 1;
    std::fs::write(&segment, bad).unwrap();
    recorded.assert_short(&later, "lsn 0/A0001E8");
    std::fs::write(&segment, bytes).unwrap();
    recorded.assert_reached(&later, "time ");
}

#[test]
fn a_backup_without_its_wal_is_validated_with_the_archive_of_the_instance() {
    let Some(recorded) = Recorded::open() else {
        return;
    };
    let backup = recorded.scratch.path().join("backups/zlib").join(FULL);
    let control = backup.join("backup.control");
    let text = std::fs::read_to_string(&control).unwrap();
    std::fs::write(&control, text.replace("stream = true", "stream = false")).unwrap();
    let own = recorded.scratch.path().join("wal/zlib");
    std::fs::create_dir_all(&own).unwrap();
    let segment = "000000010000000000000004";
    let validate = || {
        let words = ["validate", "--instance=zlib", "-i", FULL];
        gs_probackup(&words, recorded.scratch.path())
    };
    let output = validate();
    assert_eq!(output.code, Some(1), "{output:#?}");
    let absent = format!("wal/zlib/{segment}\" is absent");
    assert!(output.stderr.contains(&absent), "{output:#?}");
    std::fs::copy(recorded.archive.join(segment), own.join(segment)).unwrap();
    assert_success(&validate());
}
