//! A full backup through the recorded conversations of openGauss, with the data directory of the
//! fixtures, for every way to authenticate: right, wrong and missing passwords.
//!
//! What the recordings do not cover is listed in `replay/mod.rs`. The data directory was copied
//! before the conversations took place: its control file is given the state and the checkpoint that
//! a server at the time of the conversation has.

use crate::fixtures;
use crate::replay::{Address, Replay, Report};
use crate::support::{Output, assert_success, command, gs_probackup};
use crate::take_full_backup::check_independently;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

pub(crate) const PASSWORD: &str = "Gauss@123";
const PATIENCE: Duration = Duration::from_secs(120);

/// A way to authenticate that was recorded.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    pub(crate) session: &'static str,
    user: &'static str,
    database: &'static str,
    /// Byte 3 of the segment that the recorded backup starts in.
    pub(crate) segment: u8,
}

pub(crate) const TRUST: Way = Way {
    session: "trust_full_unix",
    user: "omm",
    database: "fix",
    segment: 0x24,
};
pub(crate) const SHA: Way = Way {
    session: "sha_ptrack",
    user: "bk_sha",
    database: "fix",
    segment: 0x26,
};

pub(crate) fn way(session: &'static str, user: &'static str, gauss: &Path) -> Way {
    let statement = "START_REPLICATION 0/";
    let path = gauss.join("wire").join(format!("{session}.jsonl"));
    let text = std::fs::read_to_string(path).unwrap();
    let hex: String = statement
        .bytes()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let at = text.find(&hex).expect("it streams") + hex.len();
    // Two digits in ASCII, which are four digits in hexadecimal.
    let digits: String = [at, at + 2]
        .map(|at| char::from(u8::from_str_radix(&text[at..at + 2], 16).unwrap()))
        .iter()
        .collect();
    Way {
        session,
        user,
        database: "fix",
        segment: u8::from_str_radix(&digits, 16).unwrap(),
    }
}

pub(crate) struct Recorded {
    pub(crate) scratch: TempDir,
    pub(crate) gauss: PathBuf,
    pub(crate) catalog: PathBuf,
    pub(crate) tablespace: PathBuf,
}

impl Recorded {
    pub(crate) fn create() -> Option<Recorded> {
        let gauss = fixtures::gauss()?;
        let scratch = tempfile::tempdir_in("/tmp").unwrap();
        let root = scratch.path().to_owned();
        fixtures::unpack(&gauss, "pgdata", &root);
        let (data, tablespace) = (root.join("gauss/data/dn1"), root.join("gauss/ts/ts1"));
        let link = data.join("pg_tblspc/16385");
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&tablespace, &link).unwrap();
        let catalog = root.join("catalog");
        assert_success(&gs_probackup(&["init"], &catalog));
        let pgdata = data.display().to_string();
        let add = ["add-instance", "--instance=dn1", "-D", &pgdata];
        assert_success(&gs_probackup(&add, &catalog));
        Some(Recorded {
            scratch,
            gauss,
            catalog,
            tablespace,
        })
    }

    /// Makes the control file that of a running server whose last checkpoint the backup made.
    pub(crate) fn set_checkpoint(&self, segment: u8) {
        let path = self.scratch.path().join("gauss/data/dn1/global/pg_control");
        let mut bytes = std::fs::read(&path).unwrap();
        let lsn = |offset: u64| (u64::from(segment) << 24 | offset).to_le_bytes();
        // State "in production", the checkpoint record, and in its copy where redo starts.
        bytes[20..24].copy_from_slice(&6u32.to_le_bytes());
        bytes[32..40].copy_from_slice(&lsn(0xa8));
        bytes[48..56].copy_from_slice(&lsn(0x28));
        let crc = crc32c::crc32c(&bytes[..224]);
        bytes[224..228].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(path, bytes).unwrap();
    }

    fn back_up(&self, way: Way, others: &[&str]) -> (Output, Report) {
        self.back_up_with(way, others, |_| ())
    }

    /// Backs up a server that is set to answer otherwise than recorded.
    pub(crate) fn back_up_with(
        &self,
        way: Way,
        others: &[&str],
        set: impl FnOnce(&Replay),
    ) -> (Output, Report) {
        let address = match way.session.ends_with("unix") {
            true => Address::Unix(self.scratch.path().to_owned()),
            false => Address::Tcp,
        };
        let replay = Replay::start(&self.gauss, way.session, address, &self.tablespace);
        set(&replay);
        let (host, port) = (replay.host(), replay.port().to_string());
        let mut words = vec![
            "backup",
            "--instance=dn1",
            "-b",
            "FULL",
            "-d",
            way.database,
            "-j2",
        ];
        words.extend(["-h", &host, "-p", &port, "-U", way.user]);
        words.extend(others);
        let output = crate::online::run_within(&mut command(&words, &self.catalog), PATIENCE);
        (output, replay.report())
    }
}

fn assert_backs_up(recorded: &Recorded, way: Way, password: &[&str]) {
    recorded.set_checkpoint(way.segment);
    let (output, report) = recorded.back_up(way, password);
    assert_success(&output);
    assert_eq!(report.unknown, Vec::<String>::new(), "{output:#?}");
    assert_eq!(report.backups_in_progress, 0);
    assert!(report.proofs.iter().all(|(_, is_right)| *is_right));
    assert_eq!(report.proofs.is_empty(), password == ["-w"]);
    let asked: Vec<&str> = report
        .replication_commands
        .iter()
        .map(String::as_str)
        .collect();
    let start = format!("START_REPLICATION 0/{:X}000000", way.segment);
    assert_eq!(asked, ["IDENTIFY_SYSTEM", &start]);
    let versions: Vec<u32> = report
        .startups
        .iter()
        .map(|startup| startup.version)
        .collect();
    assert_eq!(versions, [3 << 16 | 51; 2]);
    assert_eq!(report.terminations, 2, "both connections end in order");
    // Positions reported: never behind what was sent, and the last one is the end of the segment.
    let flushed: Vec<u64> = report.stream.iter().map(|body| u64_at(body, 17)).collect();
    assert!(flushed.is_sorted(), "{flushed:x?}");
    let id = crate::online::completed_id(&output);
    let backup = recorded.catalog.join("backups/dn1").join(&id);
    check_independently(&backup);
    let validate = ["validate", "--instance=dn1", "-i", &id, "-j2"];
    assert_success(&gs_probackup(&validate, &recorded.catalog));
    let label = std::fs::read_to_string(backup.join("database/backup_label")).unwrap();
    let position = format!("START WAL LOCATION: 0/{:X}000028", way.segment);
    assert!(label.starts_with(&position), "{label}");
    let segment = format!("database/pg_xlog/0000000100000000000000{:02X}", way.segment);
    assert_eq!(
        std::fs::metadata(backup.join(segment)).unwrap().len(),
        16 << 20
    );
    let control = std::fs::read_to_string(backup.join("backup.control")).unwrap();
    let stop = format!("stop-lsn = 0/{:X}0001E8", way.segment);
    assert!(control.contains(&stop), "{control}");
    std::fs::remove_dir_all(backup).unwrap();
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

#[test]
fn full_backup_runs_with_trust_over_a_unix_socket() {
    let Some(recorded) = Recorded::create() else {
        return;
    };
    assert_backs_up(&recorded, TRUST, &["-w"]);
}

#[test]
fn full_backup_runs_with_sha256_md5_and_sm3_passwords() {
    let Some(recorded) = Recorded::create() else {
        return;
    };
    assert_backs_up(&recorded, SHA, &["-W", PASSWORD]);
    for (session, user) in [("md5_ptrack", "bk_md5"), ("sm3_ptrack", "bk_sm3")] {
        assert_backs_up(
            &recorded,
            way(session, user, &recorded.gauss),
            &["-W", PASSWORD],
        );
    }
}

#[test]
fn wrong_password_gives_the_recorded_proof_and_the_servers_words() {
    let Some(recorded) = Recorded::create() else {
        return;
    };
    recorded.set_checkpoint(SHA.segment);
    let wrong = "Wrong@123";
    for (session, user) in [
        ("sha_gsql_badpw", "bk_sha"),
        ("md5_gsql_badpw", "bk_md5"),
        ("sm3_gsql_badpw", "bk_sm3"),
        ("sha_backup_badpw", "bk_sha"),
    ] {
        let way = Way {
            session,
            user,
            database: "fix",
            segment: 0,
        };
        let (output, report) = recorded.back_up(way, &["-W", wrong]);
        assert_eq!(output.code, Some(1), "{session}: {output:#?}");
        let words = "Invalid username/password,login denied.";
        assert!(
            output
                .stderr
                .contains("ERROR: could not connect to database fix"),
            "{output:#?}"
        );
        assert!(output.stderr.contains(words), "{output:#?}");
        assert!(!output.stderr.contains(wrong), "{output:#?}");
        let (proof, is_right) = &report.proofs[0];
        assert!(
            !is_right && recorded_proof(&recorded.gauss, session, proof),
            "{session}: {proof}"
        );
        assert_eq!(report.replication_commands, Vec::<String>::new());
    }
}

/// Whether the original's client sent this proof.
fn recorded_proof(gauss: &Path, session: &str, proof: &str) -> bool {
    let path = gauss.join("wire").join(format!("{session}.jsonl"));
    let text = std::fs::read_to_string(path).unwrap();
    let hex: String = proof.bytes().map(|byte| format!("{byte:02x}")).collect();
    !proof.is_empty() && text.contains(&hex)
}

#[test]
fn missing_password_is_said_and_nothing_is_asked() {
    let Some(recorded) = Recorded::create() else {
        return;
    };
    recorded.set_checkpoint(SHA.segment);
    for (session, user) in [
        ("sha_ptrack", "bk_sha"),
        ("md5_ptrack", "bk_md5"),
        ("sm3_ptrack", "bk_sm3"),
    ] {
        let way = Way {
            session,
            user,
            database: "fix",
            segment: 0,
        };
        for (arguments, words) in [
            (&["-w"][..], "no password supplied"),
            (&[], "there is no terminal to ask on"),
        ] {
            let (output, report) = recorded.back_up(way, arguments);
            assert_eq!(output.code, Some(1), "{session}: {output:#?}");
            assert!(output.stderr.contains(words), "{output:#?}");
            assert_eq!(report.proofs, Vec::<(String, bool)>::new());
        }
    }
}

#[test]
fn unknown_database_and_user_give_the_servers_words() {
    let Some(recorded) = Recorded::create() else {
        return;
    };
    recorded.set_checkpoint(SHA.segment);
    let stranger = Way {
        user: "nosuch",
        ..SHA
    };
    let (output, _) = recorded.back_up(stranger, &["-W", PASSWORD]);
    assert_eq!(output.code, Some(1), "{output:#?}");
    assert!(
        output
            .stderr
            .contains("Invalid username/password,login denied."),
        "{output:#?}"
    );
    let elsewhere = Way {
        database: "nosuchdb",
        ..TRUST
    };
    let (output, _) = recorded.back_up(elsewhere, &["-w"]);
    assert_eq!(output.code, Some(1), "{output:#?}");
    assert!(
        output
            .stderr
            .contains("database \"nosuchdb\" does not exist"),
        "{output:#?}"
    );
}

#[test]
fn logical_slots_of_subscriptions_come_along_on_demand_and_other_slots_never() {
    let Some(recorded) = Recorded::create() else {
        return;
    };
    recorded.set_checkpoint(TRUST.segment);
    let data = recorded.scratch.path().join("gauss/data/dn1");
    for slot in ["sub1", "physical"] {
        let directory = data.join("pg_replslot").join(slot);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("state"), slot).unwrap();
    }
    // What the slot needs begins with the first record that was recorded.
    let position = format!("0/{:X}000028", TRUST.segment);
    let slots = [("sub1", position.as_str())];
    let mut stored = Vec::new();
    for others in [&["-w", "--backup-pg-replslot"][..], &["-w"]] {
        let (output, report) =
            recorded.back_up_with(TRUST, others, |replay| replay.set_slots(&slots));
        assert_success(&output);
        assert_eq!(report.unknown, Vec::<String>::new());
        let id = crate::online::completed_id(&output);
        let backup = recorded.catalog.join("backups/dn1").join(&id);
        check_independently(&backup);
        let slots = backup.join("database/pg_replslot");
        let state = std::fs::read_to_string(slots.join("sub1/state")).ok();
        assert!(!slots.join("physical/state").exists());
        stored.push((state, output.stderr.contains("logical replication slots")));
        std::fs::remove_dir_all(backup).unwrap();
    }
    assert_eq!(stored, [(Some("sub1".to_owned()), true), (None, false)]);
}
