//! WAL streaming against what openGauss really sent: recorded backups are replayed message by
//! message.
//!
//! Every client message must be the recorded one, but for
//!
//! * the time in a status, and the fields that the original leaves undefined (bytes 33..41 and
//!   58..65: "apply read", padding, flags), which are zero in ours;
//! * the number of statuses: ours sends one more when the stop position is durable and one when a
//!   segment is, where the original is silent until its next interval;
//! * Terminate, which is not this layer's.
//!
//! Not in the recordings: a stop position on a page boundary, a backup of a standby, slots, more
//! than one segment, an interval that passes, errors in the stream. The unit tests of
//! `server/wal_stream` have those.

use crate::fixtures;
use crate::survive_full_disk::SmallDisk;
use gs_probackup::format::wal::{RangeRequest, WalDialect, check_range, segment_number};
use gs_probackup::pipeline::{WalSegment, WalSegments};
use gs_probackup::server::wal_stream::{
    ReceivedWal, StopTarget, WaitFor, WalStreamError, WalStreamRequest, identify, receive,
    start_command,
};
use gs_probackup::server::{CopyEvent, CopyStream, Rows, ServerError, Sql};
use gs_probackup::storage::Posix;
use gs_probackup::types::{Lsn, ServerFlavor, TimelineId};
use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

const SESSIONS: [&str; 6] = [
    "trust_full_unix",
    "trust_ptrack_unix",
    "sha_ptrack",
    "md5_ptrack",
    "sm3_ptrack",
    "omm_tcp_password_ptrack",
];
const SYSTEM_IDENTIFIER: u64 = 215_046_882_207_013_887;
const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;

/// What happened on the connections of a backup since the stream started.
enum Event {
    /// The server sent this payload.
    Server(Vec<u8>),
    /// The client sent this payload.
    Client(Vec<u8>),
    /// pg_stop_backup returned this position on the other connection.
    Stopped(Lsn),
}

struct Recording {
    /// Statements on the replication connection.
    statements: Vec<String>,
    /// The row that answered IDENTIFY_SYSTEM.
    identity: Vec<Option<String>>,
    start: Lsn,
    stop: Lsn,
    events: VecDeque<Event>,
}

/// Messages of one direction of one connection, out of pieces.
#[derive(Default)]
struct Messages {
    bytes: Vec<u8>,
    /// The start-up messages of a client, which have no type, or the server's answer to the wish
    /// for TLS are over.
    started: bool,
}

impl Messages {
    fn push(&mut self, from_client: bool, piece: &[u8]) -> Vec<(u8, Vec<u8>)> {
        self.bytes.extend_from_slice(piece);
        let mut found = Vec::new();
        let mut at = 0;
        loop {
            let rest = &self.bytes[at..];
            if !self.started && !from_client {
                self.started = true;
                at += usize::from(rest.first() == Some(&b'N'));
                continue;
            }
            let typed = usize::from(self.started);
            let Some(length) = rest.get(typed..typed + 4) else {
                break;
            };
            let length = u32::from_be_bytes(length.try_into().unwrap());
            let end = typed + usize::try_from(length).unwrap();
            let Some(body) = rest.get(typed + 4..end) else {
                break;
            };
            if self.started {
                found.push((rest[0], body.to_vec()));
            }
            // The wish for TLS has 8 bytes and is followed by the real start-up message.
            self.started |= end != 8;
            at += end;
        }
        self.bytes.drain(..at);
        found
    }
}

/// The columns of a DataRow.
fn columns(mut body: &[u8]) -> Vec<Option<String>> {
    let mut take = |count: usize| {
        let (taken, rest) = body.split_at(count);
        body = rest;
        taken.to_vec()
    };
    let count = u16::from_be_bytes(take(2).try_into().unwrap());
    let mut found = Vec::new();
    for _ in 0..count {
        let length = i32::from_be_bytes(take(4).try_into().unwrap());
        let value = usize::try_from(length).ok().map(&mut take);
        found.push(value.map(|value| String::from_utf8(value).unwrap()));
    }
    found
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap();
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::try_from(digit(pair[0]) * 16 + digit(pair[1])).unwrap())
        .collect()
}

fn read_recording(path: &Path) -> Recording {
    let mut decoder = zstd::Decoder::new(std::fs::File::open(path).unwrap()).unwrap();
    decoder.window_log_max(27).unwrap();
    let text = std::io::read_to_string(decoder).unwrap();
    let mut streams: HashMap<(u64, bool), Messages> = HashMap::new();
    let mut recording = Recording {
        statements: Vec::new(),
        identity: Vec::new(),
        start: Lsn::INVALID,
        stop: Lsn::INVALID,
        events: VecDeque::new(),
    };
    let mut streaming = false;
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let Some(piece) = line["hex"].as_str() else {
            continue;
        };
        let (connection, from_client) = (line["conn"].as_u64().unwrap(), line["dir"] == "c2s");
        let messages = streams.entry((connection, from_client)).or_default();
        for (kind, body) in messages.push(from_client, &hex(piece)) {
            match (connection, from_client, kind) {
                (1, false, b'D') => take_row(&mut recording, &columns(&body)),
                (2, true, b'Q') => {
                    let text = std::ffi::CStr::from_bytes_with_nul(&body).unwrap();
                    recording.statements.push(text.to_str().unwrap().to_owned());
                }
                (2, false, b'D') => recording.identity = columns(&body),
                (2, false, b'W') => streaming = true,
                (2, true, b'd') => recording.events.push_back(Event::Client(body)),
                (2, false, b'd') => recording.events.push_back(Event::Server(body)),
                _ => {}
            }
        }
    }
    assert!(streaming, "{}", path.display());
    recording
}

/// A row on the connection for statements: start and stop position are in some.
fn take_row(recording: &mut Recording, row: &[Option<String>]) {
    let position = |column: &Option<String>| column.as_ref()?.parse().ok();
    match row {
        [start] if recording.start.is_invalid() => {
            recording.start = position(start).unwrap_or(Lsn::INVALID);
        }
        [_, _, stop] if recording.stop.is_invalid() => {
            if let Some(stop) = position(stop) {
                recording.stop = stop;
                recording.events.push_back(Event::Stopped(stop));
            }
        }
        _ => {}
    }
}

/// Answers IDENTIFY_SYSTEM as recorded.
struct Identity<'a>(&'a Recording);

impl Sql for Identity<'_> {
    fn query(&mut self, statement: &str) -> Result<Rows, ServerError> {
        assert_eq!(statement, self.0.statements[0]);
        Ok(Rows {
            columns: vec![String::new(); self.0.identity.len()],
            rows: vec![self.0.identity.clone()],
        })
    }

    fn query_with(&mut self, _: &str, _: &[&str]) -> Result<Rows, ServerError> {
        panic!("nothing of the kind was recorded");
    }
}

/// Sends what was recorded, and waits where the recorded client said something until ours did.
struct Replay<'a> {
    events: VecDeque<Event>,
    current: Vec<u8>,
    stop: &'a StopTarget,
    sent: Vec<Vec<u8>>,
    /// Messages of the recorded client so far.
    answered: Vec<Vec<u8>>,
}

impl CopyStream for Replay<'_> {
    fn receive(&mut self, wait: Duration) -> Result<CopyEvent<'_>, ServerError> {
        if self.sent.len() >= self.answered.len() {
            match self.events.pop_front() {
                Some(Event::Server(payload)) => {
                    self.current = payload;
                    return Ok(CopyEvent::Data(&self.current));
                }
                Some(Event::Client(payload)) => self.answered.push(payload),
                Some(Event::Stopped(stop)) => {
                    let within = Duration::from_secs(60);
                    self.stop.set(stop, WaitFor::SegmentEnd, within);
                }
                None => {}
            }
        }
        std::thread::sleep(wait.min(Duration::from_millis(1)));
        Ok(CopyEvent::Idle)
    }

    fn send(&mut self, payload: &[u8]) -> Result<(), ServerError> {
        self.sent.push(payload.to_vec());
        Ok(())
    }
}

/// A status without what may differ.
fn masked(status: &[u8]) -> Vec<u8> {
    let mut status = status.to_vec();
    for free in [33..41, 49..57, 58..65] {
        status[free].fill(0);
    }
    status
}

fn request(recording: &Recording) -> WalStreamRequest {
    WalStreamRequest::new(
        ServerFlavor::OpenGauss,
        SYSTEM_IDENTIFIER,
        TimelineId(1),
        recording.start,
        SEGMENT_BYTES,
    )
}

fn sink(directory: &Path) -> WalSegments {
    let storage = Arc::new(Posix::open(directory).unwrap());
    WalSegments::new(storage, Path::new(""), TimelineId(1), SEGMENT_BYTES, true).unwrap()
}

type Replayed = (
    Result<ReceivedWal, WalStreamError>,
    Vec<Vec<u8>>,
    Vec<Vec<u8>>,
);

/// Streams the recording into `sink`: the result, what our client said, what the recorded did.
fn replay(recording: &mut Recording, sink: &mut WalSegments) -> Replayed {
    let request = request(recording);
    let stop = StopTarget::new();
    let mut stream = Replay {
        events: std::mem::take(&mut recording.events),
        current: Vec::new(),
        stop: &stop,
        sent: Vec::new(),
        answered: Vec::new(),
    };
    let result = receive(&mut stream, &request, sink, &stop, &AtomicBool::new(false));
    (result, stream.sent, stream.answered)
}

/// The WAL bytes that the recorded server sent, one message after the other.
fn recorded_wal(recording: &Recording) -> Vec<u8> {
    let messages = recording.events.iter().filter_map(|event| match event {
        Event::Server(payload) if payload[0] == b'w' => Some(&payload[65..]),
        _ => None,
    });
    messages.flatten().copied().collect()
}

#[test]
fn recorded_streams_of_opengauss_become_the_wal_of_their_backups() {
    let Some(gauss) = fixtures::gauss() else {
        return;
    };
    for session in SESSIONS {
        let path = gauss.join(format!("wire/full/{session}.jsonl.zst"));
        let mut recording = read_recording(&path);
        let request = request(&recording);
        identify(&mut Identity(&recording), &request).unwrap();
        let commands = [
            "IDENTIFY_SYSTEM".to_owned(),
            start_command(&request).unwrap(),
        ];
        assert_eq!(recording.statements, commands, "{session}");
        let wal = recorded_wal(&recording);
        assert_eq!(wal.len(), 16 << 20, "{session}");

        let scratch = tempfile::tempdir().unwrap();
        let mut sink = sink(scratch.path());
        let (result, sent, recorded) = replay(&mut recording, &mut sink);
        let received = result.unwrap_or_else(|error| panic!("{session}: {error}"));
        let end = Lsn(request.first_byte().0 + SEGMENT_BYTES);
        assert_eq!((received.stop, received.durable), (recording.stop, end));
        assert_eq!(received.record_behind, Some(recording.stop));
        assert!(!recorded.is_empty(), "{session}");
        for (ours, recorded) in sent.iter().zip(&recorded) {
            assert_eq!(masked(ours), masked(recorded), "{session}");
        }
        // The last one tells that all is durable.
        let last = sent.last().unwrap();
        assert_eq!(last[17..25], end.0.to_le_bytes(), "{session}");

        let segments = sink.finish(recording.stop).unwrap();
        let [
            WalSegment {
                name,
                size_bytes,
                crc,
            },
        ] = segments.as_slice()
        else {
            panic!("{session}: {segments:?}");
        };
        let stored = std::fs::read(scratch.path().join(name)).unwrap();
        assert!(stored == wal, "{session}");
        assert_eq!((*size_bytes, *crc), (SEGMENT_BYTES, crc32c::crc32c(&wal)));
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1);
        let range = RangeRequest {
            dialect: WalDialect::OpenGauss,
            timeline: TimelineId(1),
            segment_bytes: SEGMENT_BYTES,
            system_identifier: Some(SYSTEM_IDENTIFIER),
            start: recording.start,
            stop: recording.stop,
        };
        let number = segment_number(recording.start, SEGMENT_BYTES);
        let whole = check_range(&range, |segno| {
            Ok::<_, std::io::Error>((segno == number).then(|| stored.clone()))
        });
        assert_eq!(whole.unwrap().last.end, recording.stop, "{session}");
    }
}

#[test]
fn a_full_disk_ends_a_stream_with_the_name_of_the_file() {
    let Some(gauss) = fixtures::gauss() else {
        return;
    };
    let mut recording = read_recording(&gauss.join("wire/full/trust_full_unix.jsonl.zst"));
    let scratch = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&scratch.path().join("small"), 8) else {
        return;
    };
    let mut sink = sink(disk.path());
    let error = replay(&mut recording, &mut sink).0.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    let reason = std::error::Error::source(&error).unwrap().source().unwrap();
    assert!(
        cause.contains("000000010000000000000024.partial"),
        "{cause}"
    );
    assert!(reason.to_string().contains("No space left"), "{reason}");
    assert!(sink.finish(recording.stop).is_err());
    let names = std::fs::read_dir(disk.path()).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["000000010000000000000024.partial"]);
}
