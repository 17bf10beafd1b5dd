//! Tests of `backup.control`; the recorded files of the original are read in `tests/e2e`.

use super::*;

const ORIGINAL: &str = "#Configuration
backup-mode = PTRACK
stream = true
compress-alg = zstd
compress-level = 3
from-replica = false

#Compatibility
block-size = 8192
xlog-block-size = 8192
checksum-version = 1
program-version = 2.4.2
server-version = 9.2

#Result backup info
timelineid = 1
start-lsn = 0/5000028
stop-lsn = 0/50003D0
start-time = '2025-08-01 10:00:00+08'
end-time = '2025-08-01 10:00:41+08'
recovery-xid = 15302
recovery-time = '2025-08-01 10:00:37+08'
recovery-name = 'backup T0AKZC'
data-bytes = 183402211
wal-bytes = 16777216
uncompressed-bytes = 520111023
pgdata-bytes = 731102332
status = OK
parent-backup-id = 'T0AJ2F'
external-dirs = '/a:/b c'
note = 'before the upgrade'
content-crc = 2187364412

#Database Storage type
storage-type = FILE

#S3 Storage status
s3-status = UNKNOWN
";

fn parse(text: &str) -> (BackupControl, Vec<ControlWarning>) {
    BackupControl::parse(text.as_bytes()).unwrap()
}

#[test]
fn a_record_has_what_the_file_says() {
    let (control, warnings) = parse(ORIGINAL);
    assert_eq!(warnings, []);
    assert_eq!(control.mode, BackupMode::Ptrack);
    assert_eq!(control.compress_algorithm, CompressAlgorithm::Zstd);
    assert_eq!(control.compress_level, 3);
    assert_eq!(control.start_lsn, Lsn(0x0500_0028));
    assert_eq!(control.start_time, 1_754_013_600);
    assert_eq!(control.end_time, Some(1_754_013_641));
    assert_eq!(control.merge_time, None);
    assert_eq!(control.recovery_xid, 15302);
    assert_eq!(control.recovery_name, "backup T0AKZC");
    assert_eq!(control.data_bytes, Some(183_402_211));
    assert_eq!(control.status, BackupStatus::Ok);
    assert_eq!(control.parent_backup_id, "T0AJ2F".parse().ok());
    assert_eq!(control.external_dirs.as_deref(), Some("/a:/b c"));
    assert_eq!(control.note.as_deref(), Some("before the upgrade"));
    assert_eq!(control.content_crc, Some(2_187_364_412));
}

#[test]
fn a_record_is_written_and_read_back() {
    let (control, _) = parse(ORIGINAL);
    assert_eq!(parse(&control.encode()).0, control);
    let mut control = BackupControl::new(BackupMode::Full, 1_754_013_600);
    assert_eq!(parse(&control.encode()).0, control);
    control.merge_time = Some(1_754_013_700);
    control.merge_dest_id = "TOU8BZ".parse().ok();
    control.expire_time = Some(1_754_013_800);
    assert_eq!(parse(&control.encode()).0, control);
}

#[test]
fn a_file_cut_anywhere_is_refused_or_says_so() {
    for end in 0..ORIGINAL.len() {
        let cut = &ORIGINAL[..end];
        let only_comments_lost = cut.ends_with('\n') && cut.contains("\nstatus = ");
        match BackupControl::parse(cut.as_bytes()) {
            Ok((_, warnings)) => {
                assert!(only_comments_lost, "{cut}");
                assert!(warnings.contains(&ControlWarning::Missing("s3-status")));
            }
            Err(_) => assert!(!only_comments_lost, "{cut}"),
        }
    }
}

#[test]
fn unknown_keys_and_statuses_are_warnings_and_other_values_errors() {
    let changed = |from: &str, to: &str| ORIGINAL.replacen(from, to, 1);
    let (control, warnings) = parse(&changed("status = OK", "status = FOO\nbogus-key = 1"));
    assert_eq!(control.status, BackupStatus::Unknown);
    let path = Path::new("/b/backup.control");
    let texts = warnings
        .iter()
        .map(|warning| warning.describe(path))
        .collect::<Vec<_>>();
    assert_eq!(
        texts,
        [
            "Invalid STATUS \"FOO\"",
            "Invalid option \"bogus-key\" in file \"/b/backup.control\"",
        ]
    );
    let (control, warnings) = parse(&changed("0/5000028", "5000028"));
    assert!(control.start_lsn.is_invalid());
    assert_eq!(warnings.len(), 1);
    for (from, to) in [
        ("backup-mode = PTRACK", "backup-mode = DELTA"),
        ("backup-mode = PTRACK", "backup-mode = "),
        ("stream = true", "stream = perhaps"),
        ("compress-alg = zstd", "compress-alg = brotli"),
        ("compress-level = 3", "compress-level = x"),
        ("timelineid = 1", "timelineid = -1"),
        (
            "start-time = '2025-08-01 10:00:00+08'",
            "start-time = '1960-01-01'",
        ),
        ("end-time = '2025-08-01 10:00:41+08'", "end-time = 'soon'"),
        ("parent-backup-id = 'T0AJ2F'", "parent-backup-id = '../x'"),
        ("note = 'before the upgrade'", "note = 'it's'"),
    ] {
        let text = changed(from, to);
        assert_ne!(text, ORIGINAL, "{from}");
        assert!(BackupControl::parse(text.as_bytes()).is_err(), "{to}");
    }
}

#[test]
fn a_status_is_replaced_and_nothing_else() {
    let text = format!("# kept\n{ORIGINAL}bogus-key = 1\n");
    let replaced = replace_status(text.as_bytes(), BackupStatus::Corrupt).unwrap();
    let expected = text.replace("status = OK", "status = CORRUPT");
    assert_eq!(String::from_utf8(replaced).unwrap(), expected);
    assert!(replace_status(b"stream = true\n", BackupStatus::Ok).is_err());
}

#[test]
fn what_could_not_be_read_back_is_not_stored() {
    let with_note = |note: &str| BackupControl {
        note: Some(note.to_owned()),
        ..BackupControl::new(BackupMode::Full, 1)
    };
    assert_eq!(with_note("fine, # really").check_storable(), Ok(()));
    for note in ["it's", "two\nlines", "", "\u{1b}[2J", &"x".repeat(1020)] {
        assert!(with_note(note).check_storable().is_err(), "{note:?}");
    }
    let (control, _) = parse(&with_note("fine, # really").encode());
    assert_eq!(control.note.as_deref(), Some("fine, # really"));
}
