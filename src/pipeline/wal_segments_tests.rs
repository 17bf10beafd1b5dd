//! Tests of `wal_segments.rs`.

use super::*;
use crate::storage::Posix;
use std::fs;
use std::time::{Duration, Instant};

const SEGMENT: u64 = 1 << 20;
const BASE: u64 = 3 * SEGMENT;
const TIMELINE: TimelineId = TimelineId(2);

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Scratch {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("pg_wal")).unwrap();
        Scratch(scratch)
    }

    fn segments(&self, sync: bool) -> WalSegments {
        let storage = Arc::new(Posix::open(self.0.path()).unwrap());
        WalSegments::new(storage, Path::new("pg_wal"), TIMELINE, SEGMENT, sync).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("pg_wal").join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path().join("pg_wal")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}

fn name(number: u64) -> String {
    segment_name(TIMELINE, number, SEGMENT)
}

/// Bytes that differ from place to place, those of WAL from [`BASE`] on.
fn wal(bytes: u64) -> Vec<u8> {
    (0..bytes)
        .map(|at| (at * 7 + at / 4096).to_le_bytes()[0])
        .collect()
}

fn write_in_pieces(segments: &mut WalSegments, wal: &[u8], piece: usize) {
    let mut at = BASE;
    for piece in wal.chunks(piece) {
        segments.write(Lsn(at), piece).unwrap();
        at += piece.len() as u64;
    }
}

fn wait_until_durable(segments: &mut WalSegments, lsn: Lsn) {
    let began = Instant::now();
    while segments.durable().unwrap() < lsn {
        assert!(began.elapsed() < Duration::from_secs(60), "not durable");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn segments_hold_the_stream_and_zeros_behind_it() {
    let stop = Lsn(BASE + 2 * SEGMENT + 0x1E8);
    let streamed = wal(2 * SEGMENT + 0x200);
    let mut expected = streamed.clone();
    expected.resize(length(3 * SEGMENT), 0);
    for sync in [true, false] {
        for piece in [1 << 13, 100_001, length(SEGMENT), streamed.len()] {
            let scratch = Scratch::new();
            let mut segments = scratch.segments(sync);
            assert_eq!(segments.durable().unwrap(), Lsn::INVALID);
            write_in_pieces(&mut segments, &streamed, piece);
            wait_until_durable(&mut segments, Lsn(BASE + 2 * SEGMENT));
            assert!(segments.is_ready());
            let names = [name(3), name(4), format!("{}.partial", name(5))];
            assert_eq!(scratch.names(), names);
            let partial = fs::metadata(scratch.path(&names[2])).unwrap();
            assert_eq!(partial.len(), SEGMENT);
            let found = segments.finish(stop).unwrap();
            assert_eq!(scratch.names(), [name(3), name(4), name(5)]);
            for (index, segment) in found.iter().enumerate() {
                let at = index * length(SEGMENT);
                let content = &expected[at..at + length(SEGMENT)];
                assert_eq!(segment.name, name(3 + index as u64));
                assert_eq!(segment.size_bytes, SEGMENT);
                assert!(fs::read(scratch.path(&segment.name)).unwrap() == content);
                assert_eq!(segment.crc, crc32c::crc32c(content));
            }
            assert_eq!(found.len(), 3);
        }
    }
}

#[test]
fn an_open_segment_becomes_durable_when_told_to() {
    let scratch = Scratch::new();
    let mut segments = scratch.segments(true);
    write_in_pieces(&mut segments, &wal(0x300), 0x100);
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(segments.durable().unwrap(), Lsn::INVALID);
    segments.start_sync().unwrap();
    wait_until_durable(&mut segments, Lsn(BASE + 0x300));
    assert_eq!(segments.durable().unwrap(), Lsn(BASE + 0x300));
}

#[test]
fn segments_behind_the_stop_position_are_dropped() {
    for (streamed, stop, kept) in [
        // The record at the stop position is in segment 3.
        (3 * SEGMENT + 8, 0x1E8, 1),
        (SEGMENT + 8, SEGMENT - 8, 1),
        // A stop position on the boundary: the record behind it is in segment 4, if it is there.
        (SEGMENT, SEGMENT, 1),
        (SEGMENT + 72, SEGMENT, 2),
        (2 * SEGMENT + 72, SEGMENT, 2),
        (SEGMENT + 72, SEGMENT + 40, 2),
        (0x2000, 0x2000, 1),
    ] {
        let scratch = Scratch::new();
        let mut segments = scratch.segments(true);
        write_in_pieces(&mut segments, &wal(streamed), 1 << 19);
        let found = segments.finish(Lsn(BASE + stop)).unwrap();
        let found: Vec<String> = found.into_iter().map(|segment| segment.name).collect();
        let expected: Vec<String> = (3..3 + kept).map(name).collect();
        assert_eq!(found, expected, "{streamed} {stop}");
        assert_eq!(scratch.names(), expected, "{streamed} {stop}");
    }
}

#[test]
fn wal_that_ends_before_the_stop_position_is_not_finished() {
    let scratch = Scratch::new();
    let mut segments = scratch.segments(true);
    write_in_pieces(&mut segments, &wal(0x100), 0x100);
    let error = segments.finish(Lsn(BASE + 0x101)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot finish the WAL of the backup: it ends at 0/300100, before 0/300101"
    );
    // Nothing looks like a whole segment.
    assert_eq!(scratch.names(), [format!("{}.partial", name(3))]);
    let error = Scratch::new().segments(true).finish(Lsn(8)).unwrap_err();
    assert!(matches!(error, WalSegmentsError::EndsEarly { .. }));
}

#[test]
fn wal_that_does_not_follow_is_refused() {
    for (first, second) in [
        (BASE + 8, None),
        (BASE, Some(BASE + 9)),
        (BASE, Some(BASE + 7)),
    ] {
        let scratch = Scratch::new();
        let mut segments = scratch.segments(true);
        let result = segments.write(Lsn(first), &[1; 8]);
        let error = match second {
            None => result.unwrap_err(),
            Some(second) => segments.write(Lsn(second), &[1; 8]).unwrap_err(),
        };
        assert!(
            error.to_string().starts_with("cannot write WAL of "),
            "{error}"
        );
        // And so is all that comes after.
        assert!(segments.write(Lsn(BASE + 8), &[1; 8]).is_err());
    }
}

#[test]
fn a_segment_that_cannot_be_created_is_named() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path(&format!("{}.partial", name(3)))).unwrap();
    let error = scratch.segments(true).write(Lsn(BASE), &[1]).unwrap_err();
    assert!(error.to_string().contains(&name(3)), "{error}");
}

#[test]
fn a_segment_that_cannot_be_completed_is_reported_and_never_called_durable() {
    for sync in [true, false] {
        let scratch = Scratch::new();
        fs::create_dir_all(scratch.path(&name(4)).join("occupied")).unwrap();
        let mut segments = scratch.segments(sync);
        let mut durable = Lsn::INVALID;
        let mut at = Lsn(BASE);
        let error = loop {
            assert!(at.0 < BASE + 20 * SEGMENT, "nothing failed");
            if let Err(error) = segments.write(at, &wal(SEGMENT)) {
                break error;
            }
            at.0 += SEGMENT;
            match segments.durable() {
                Ok(lsn) => durable = lsn,
                Err(error) => break error,
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        assert!(error.to_string().contains(&name(4)), "{error}");
        assert!(durable <= Lsn(BASE + SEGMENT));
        assert!(segments.finish(Lsn(BASE)).is_err());
        assert!(scratch.path(&name(3)).is_file());
        assert!(!scratch.path(&name(5)).exists());
    }
}

#[test]
fn a_run_that_dies_leaves_partial_and_complete_segments_only() {
    let scratch = Scratch::new();
    let mut segments = scratch.segments(true);
    write_in_pieces(&mut segments, &wal(SEGMENT + 0x100), 1 << 19);
    wait_until_durable(&mut segments, Lsn(BASE + SEGMENT));
    drop(segments);
    assert_eq!(scratch.names(), [name(3), format!("{}.partial", name(4))]);
    // What it left is in nobody's way.
    let mut segments = scratch.segments(true);
    segments.write(Lsn(BASE + SEGMENT), &[9; 8]).unwrap();
    let found = segments.finish(Lsn(BASE + SEGMENT + 8)).unwrap();
    let content = fs::read(scratch.path(&name(4))).unwrap();
    assert_eq!(content[..9], [9, 9, 9, 9, 9, 9, 9, 9, 0]);
    assert_eq!(found[0].crc, crc32c::crc32c(&content));
}

#[test]
fn the_sum_of_zeros_needs_no_zeros() {
    for count in [0, 1, 2, 7, 8191, 8192, 1 << 20, (1 << 20) + 333] {
        assert_eq!(crc_of_zeros(count), crc32c::crc32c(&vec![0; length(count)]));
    }
}
