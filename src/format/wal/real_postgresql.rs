//! Control file and WAL of a PostgreSQL cluster made on the spot, where its programs are installed.

use super::{
    EndOfWal, RangeRequest, Record, WalReader, check_range, is_checkpoint_shutdown, is_switch,
    record_time, restore_point_name, segment_name,
};
use crate::format::pg_control::{ClusterState, ControlFile};
use crate::types::{Lsn, ServerFlavor};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the server's programs are.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let initdb = std::env::split_paths(&path)
        .map(|directory| directory.join("initdb"))
        .find(|program| program.exists())?;
    Some(initdb.canonicalize().ok()?.parent()?.to_owned())
}

/// A program of the server; they refuse to run as root.
fn command(programs: &Path, name: &str) -> Command {
    let program = programs.join(name);
    if rustix::process::geteuid().is_root() {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(program);
        return command;
    }
    Command::new(program)
}

fn control(data: &Path) -> ControlFile {
    let bytes = std::fs::read(data.join("global/pg_control")).unwrap();
    ControlFile::parse(&bytes).unwrap()
}

/// What happens in the cluster.
const WORK: &str = "\
create table t as select i, repeat('x', 100) p from generate_series(1, 5000) i;
select pg_create_restore_point('first point');
select pg_switch_wal();
update t set i = i + 1;
begin;
insert into t values (0, 'prepared');
prepare transaction 'p';
commit prepared 'p';
select pg_create_restore_point('second point');
";

/// A cluster with some WAL, the position that its WAL started at before the work, and its programs.
fn cluster(directory: &Path) -> Option<(PathBuf, Lsn, PathBuf)> {
    let programs = programs()?;
    let data = directory.join("data");
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o777)).unwrap();
    let made = command(&programs, "initdb")
        .args([
            "-A",
            "trust",
            "-k",
            "-N",
            "--wal-segsize=1",
            "-U",
            "test",
            "-D",
        ])
        .arg(&data)
        .current_dir(directory)
        .output()
        .ok()?;
    if !made.status.success() {
        return None;
    }
    let start = control(&data).checkpoint;
    let mut server = command(&programs, "postgres")
        .args(["--single", "-F", "-c", "wal_keep_size=1GB"])
        .args(["-c", "max_prepared_transactions=5", "-D"])
        .arg(&data)
        .arg("postgres")
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = server.stdin.take().unwrap();
    input.write_all(WORK.as_bytes()).unwrap();
    drop(input);
    assert!(server.wait().unwrap().success());
    Some((data, start, programs))
}

#[test]
#[allow(clippy::print_stderr, reason = "a skipped test says so")]
fn control_file_and_wal_of_a_real_postgresql_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let Some((data, start, programs)) = cluster(directory.path()) else {
        eprintln!("SKIPPED: no initdb in PATH, or it cannot be run here");
        return;
    };
    let control = control(&data);
    compare_with_pg_controldata(&control, &programs, &data);
    let segment_bytes = u64::from(control.wal_segment_size);
    let source = |segno| -> std::io::Result<Option<Vec<u8>>> {
        let name = segment_name(control.timeline, segno, segment_bytes);
        match std::fs::read(data.join("pg_wal").join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    };
    let dialect = control.flavor.into();
    let mut reader = WalReader::new(dialect, control.timeline, segment_bytes, start, source)
        .with_system_identifier(control.system_identifier);
    let mut records: Vec<Record> = Vec::new();
    while let Some(record) = reader.next_record().unwrap() {
        records.push(record);
    }
    assert!(
        matches!(reader.end(), Some(EndOfWal::ZeroLength)),
        "{reader:?}"
    );
    let last = records.last().unwrap();
    assert_eq!(last.start, control.checkpoint);
    assert!(is_checkpoint_shutdown(last) && is_checkpoint_shutdown(&records[0]));
    assert_eq!(records.iter().filter(|record| is_switch(record)).count(), 1);
    let points: Vec<String> = records.iter().filter_map(restore_point_name).collect();
    assert_eq!(points, ["first point", "second point"]);
    let times: Vec<i64> = records.iter().filter_map(record_time).collect();
    let begin = (control.time - 600) * 1_000_000;
    let end = (control.time + 1) * 1_000_000;
    assert!(times.len() >= 5 && times.is_sorted(), "{times:?}");
    assert!(times.iter().all(|time| (begin..=end).contains(time)));
    let prepared = |record: &&Record| record.rmid == 1 && record.info & 0x70 == 0x30;
    let prepared = records.iter().find(prepared).unwrap();
    assert!(record_time(prepared).is_some());
    let request = RangeRequest {
        dialect,
        timeline: control.timeline,
        segment_bytes,
        system_identifier: Some(control.system_identifier),
        start,
        stop: last.start,
    };
    let range = check_range(&request, source).unwrap();
    assert_eq!(range.records, u64::try_from(records.len() - 1).unwrap());
    assert_eq!(range.last_time, times.last().copied());
}

/// Lines of `pg_controldata`, by how they begin.
fn printed(control: &ControlFile) -> [(&'static str, String); 19] {
    [
        ("pg_control version number", control.version.to_string()),
        (
            "Catalog version number",
            control.catalog_version.to_string(),
        ),
        (
            "Database system identifier",
            control.system_identifier.to_string(),
        ),
        ("Latest checkpoint location", control.checkpoint.to_string()),
        (
            "Latest checkpoint's REDO location",
            control.redo.to_string(),
        ),
        (
            "Latest checkpoint's TimeLineID",
            control.timeline.to_string(),
        ),
        (
            "Latest checkpoint's NextXID",
            format!("0:{}", control.next_xid),
        ),
        ("Latest checkpoint's NextOID", control.next_oid.to_string()),
        (
            "Minimum recovery ending location",
            control.min_recovery_point.to_string(),
        ),
        (
            "Backup start location",
            control.backup_start_point.to_string(),
        ),
        ("Backup end location", control.backup_end_point.to_string()),
        (
            "max_connections setting",
            control.max_connections.to_string(),
        ),
        (
            "max_prepared_xacts setting",
            control.max_prepared_xacts.to_string(),
        ),
        (
            "max_locks_per_xact setting",
            control.max_locks_per_xact.to_string(),
        ),
        ("Database block size", control.block_size.to_string()),
        (
            "Blocks per segment of large relation",
            control.relseg_size.to_string(),
        ),
        ("WAL block size", control.wal_block_size.to_string()),
        (
            "Bytes per WAL segment",
            control.wal_segment_size.to_string(),
        ),
        (
            "Data page checksum version",
            u32::from(control.data_checksums).to_string(),
        ),
    ]
}

fn compare_with_pg_controldata(control: &ControlFile, programs: &Path, data: &Path) {
    let output = command(programs, "pg_controldata")
        .arg(data)
        .env("LC_ALL", "C")
        .output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_once(':').unwrap().1.trim().to_owned()
    };
    for (name, found) in printed(control) {
        assert_eq!(found, value(name), "{name}");
    }
    assert!(matches!(control.flavor, ServerFlavor::PostgreSql { major } if major >= 15));
    assert_eq!(control.state, ClusterState::ShutDown);
    assert_eq!(value("Database cluster state"), "shut down");
    assert_eq!(value("wal_level setting"), "replica");
    assert_eq!(control.wal_level, 1);
    assert!(control.full_page_writes && control.data_checksums);
}
