//! The reader on WAL that openGauss wrote, from the reference data.

use super::{
    EndOfWal, RangeRequest, Record, WalDialect, WalError, WalReader, check_range, is_backup_end,
    is_checkpoint, is_checkpoint_shutdown, is_record_offset, is_switch, parse_segment_name,
    record_time, restore_point_name,
};
use crate::format::fixtures;
use crate::format::pg_control::ControlFile;
use crate::limits::WAL_SEGMENT_BYTES;
use crate::types::{Lsn, TimelineId};
use std::collections::BTreeMap;
use std::convert::Infallible;

const SYSTEM_IDENTIFIER: u64 = 215_046_882_207_013_887;

/// Segments by number, without the zeros at their ends.
type Segments = BTreeMap<u64, Vec<u8>>;

fn source(segments: &Segments) -> impl FnMut(u64) -> Result<Option<Vec<u8>>, Infallible> + '_ {
    |segno| {
        Ok(segments.get(&segno).map(|used| {
            let mut segment = used.clone();
            segment.resize(usize::try_from(WAL_SEGMENT_BYTES).unwrap(), 0);
            segment
        }))
    }
}

fn by_number(files: BTreeMap<String, Vec<u8>>) -> Segments {
    files
        .into_iter()
        .filter_map(|(path, bytes)| {
            let name = path.rsplit_once('/')?.1;
            Some((parse_segment_name(name, WAL_SEGMENT_BYTES)?.1, bytes))
        })
        .collect()
}

fn key(control: &[u8], name: &str) -> String {
    let text = std::str::from_utf8(control).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    let value = line.split_once(" = ").unwrap().1;
    value.trim_matches('\'').to_owned()
}

/// A backup of an original catalog: its control file and its WAL.
fn backups(archive: &str, instance: &str, ids: &[&str]) -> Option<Vec<(Vec<u8>, Segments)>> {
    let prefix = format!("backups/{instance}/");
    let wanted = |path: &str| {
        path.starts_with(&prefix)
            && (path.contains("/pg_xlog/") || path.ends_with("/backup.control"))
    };
    let mut files = fixtures::members(archive, wanted)?;
    let found = ids.iter().map(|id| {
        let below = format!("{prefix}{id}/");
        let control = files.remove(&format!("{below}backup.control")).unwrap();
        let wal = files.clone().into_iter();
        (
            control,
            by_number(wal.filter(|(path, _)| path.starts_with(&below)).collect()),
        )
    });
    Some(found.collect())
}

fn request(start: Lsn, stop: Lsn) -> RangeRequest {
    RangeRequest {
        dialect: WalDialect::OpenGauss,
        timeline: TimelineId(1),
        segment_bytes: WAL_SEGMENT_BYTES,
        system_identifier: Some(SYSTEM_IDENTIFIER),
        start,
        stop,
    }
}

#[test]
fn the_stop_position_of_the_original_is_the_end_of_the_backup_end_record() {
    let ids = ["TOU8BZ", "TOU8CN", "TOU8D5"];
    let Some(backups) = backups("catalog_none.tar.zst", "none", &ids) else {
        return;
    };
    for ((control, segments), id) in backups.iter().zip(ids) {
        let start: Lsn = key(control, "start-lsn").parse().unwrap();
        let stop: Lsn = key(control, "stop-lsn").parse().unwrap();
        assert!(is_record_offset(start) && is_record_offset(stop));
        let range = check_range(&request(start, stop), source(segments)).unwrap();
        assert_eq!(range.last.end, stop);
        assert_eq!(is_backup_end(&range.last), Some(start));
        // The time of the range is that of the restore point, and so is the recovery time.
        let seconds = range.last_time.unwrap() / 1_000_000;
        let time: jiff::Timestamp = key(control, "recovery-time").parse().unwrap();
        assert_eq!(seconds, time.as_second());
        let mut reader = WalReader::new(
            WalDialect::OpenGauss,
            TimelineId(1),
            WAL_SEGMENT_BYTES,
            start,
            source(segments),
        );
        let mut records: Vec<Record> = Vec::new();
        while let Some(record) = reader.next_record().unwrap() {
            records.push(record);
        }
        // Behind the stop position the server switched to the next segment, which is not here.
        assert_eq!(records.last().map(|last| last.start), Some(stop));
        assert!(records.last().is_some_and(is_switch));
        assert!(matches!(reader.end(), Some(EndOfWal::SegmentAbsent { .. })));
        let checkpoint = &records[records.len() - 4];
        assert!(is_checkpoint(checkpoint) && !is_checkpoint_shutdown(checkpoint));
        let restore_point = &records[records.len() - 3];
        assert_eq!(
            restore_point_name(restore_point).unwrap(),
            format!("pg_probackup, backup_id {id}")
        );
        assert_eq!(record_time(restore_point), range.last_time);
    }
}

#[test]
fn any_flipped_byte_of_a_real_backup_from_start_to_stop_is_noticed() {
    let Some(backups) = backups("catalog_none.tar.zst", "none", &["TOU8BZ"]) else {
        return;
    };
    let (control, mut segments) = backups.into_iter().next().unwrap();
    let start: Lsn = key(&control, "start-lsn").parse().unwrap();
    let stop: Lsn = key(&control, "stop-lsn").parse().unwrap();
    let mut segment = segments.remove(&3).unwrap();
    segment.resize(usize::try_from(WAL_SEGMENT_BYTES).unwrap(), 0);
    // A segment is copied each time: every byte would take seconds.
    for at in (start.0..stop.0).step_by(3) {
        let in_segment = usize::try_from(at % WAL_SEGMENT_BYTES).unwrap();
        segment[in_segment] ^= 1 << (at % 8);
        let copy = |_| Ok::<_, Infallible>(Some(segment.clone()));
        let result = check_range(&request(start, stop), copy);
        assert!(result.is_err(), "{}", Lsn(at));
        segment[in_segment] ^= 1 << (at % 8);
    }
}

fn reader<F: FnMut(u64) -> Result<Option<Vec<u8>>, Infallible>>(
    control: &ControlFile,
    start: Lsn,
    segments: F,
) -> WalReader<F, Vec<u8>> {
    WalReader::new(
        control.flavor.into(),
        control.timeline,
        u64::from(control.wal_segment_size),
        start,
        segments,
    )
    .with_system_identifier(control.system_identifier)
}

#[test]
fn all_wal_of_a_real_cluster_is_read_up_to_its_last_checkpoint() {
    let wanted =
        |path: &str| path.contains("/dn1/pg_xlog/0") || path.ends_with("/dn1/global/pg_control");
    let Some(mut files) = fixtures::members("pgdata.tar.zst", wanted) else {
        return;
    };
    let mut control = files.remove("gauss/data/dn1/global/pg_control").unwrap();
    control.resize(8192, 0);
    let control = ControlFile::parse(&control).unwrap();
    let mut segments = by_number(files);
    // The server recycled its first segments but did not use them yet: their WAL is still there.
    let recycled = [(0x19, 1), (0x24, 2)];
    for (name, number) in recycled {
        let start = Lsn(name * WAL_SEGMENT_BYTES + 40);
        let error = reader(&control, start, source(&segments)).next_record();
        assert!(matches!(error, Err(WalError::Page { .. })), "{error:?}");
        let bytes = segments.remove(&name).unwrap();
        segments.insert(number, bytes);
    }
    let mut reader = reader(&control, Lsn(0x100_0028), source(&segments));
    let mut records: Vec<Record> = Vec::new();
    while let Some(record) = reader.next_record().unwrap() {
        records.push(record);
    }
    assert_eq!(reader.end(), Some(&EndOfWal::ZeroLength));
    let last = records.last().unwrap();
    assert_eq!(last.start, control.checkpoint);
    assert!(is_checkpoint_shutdown(last));
    // Fifteen backups in a row: each sets a restore point and ends.
    let count = |is: fn(&Record) -> bool| records.iter().filter(|record| is(record)).count();
    assert!(records.len() > 100_000);
    // Each backup switches the segment when it starts and when it ends, if that is still due.
    assert_eq!(count(is_switch), 18);
    assert_eq!(count(|record| restore_point_name(record).is_some()), 15);
    assert_eq!(count(|record| is_backup_end(record).is_some()), 15);
    // Every time lies between the set-up of the cluster and its stop.
    let times: Vec<i64> = records.iter().filter_map(record_time).collect();
    assert!(times.len() > 1000);
    let compact_commit = |record: &Record| record.rmid == 1 && record.info & 0x70 == 0x60;
    assert!(count(compact_commit) > 100);
    let start = "2026-11-21T05:51:00Z".parse::<jiff::Timestamp>().unwrap();
    let span = start.as_microsecond()..(control.time + 1) * 1_000_000;
    assert!(times.iter().all(|time| span.contains(time)));
    assert!(times.is_sorted());
}
