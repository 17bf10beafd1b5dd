//! Tests of `receive.rs`: a scripted server, a sink in memory, time-outs of milliseconds.

use super::*;
use crate::server::wal_stream::SinkError;
use crate::types::TimelineId;
use std::collections::VecDeque;

const GAUSS: ServerFlavor = ServerFlavor::OpenGauss;
const POSTGRESQL: ServerFlavor = ServerFlavor::PostgreSql { major: 15 };
const SEGMENT: u64 = 1 << 20;
/// Start of the segment that streams begin at.
const BASE: u64 = 3 * SEGMENT;
/// A stop position in the middle of its first page.
const STOP: Lsn = Lsn(BASE + 0x1E8);
const SOON: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(60);

/// One thing that the server does.
enum Step {
    Send(Vec<u8>),
    /// Says nothing for so long.
    Silence(Duration),
    Done,
    Fail(&'static str, &'static str),
    /// The signal handler sets the flag.
    Cancel,
    Set(Lsn, WaitFor, Duration),
    Abandon,
}

/// Plays steps, then is silent for ever.
struct Server<'a> {
    steps: VecDeque<Step>,
    current: Vec<u8>,
    silent_until: Option<Instant>,
    sent: Vec<Vec<u8>>,
    stop: &'a StopTarget,
    cancel: &'a AtomicBool,
}

impl CopyStream for Server<'_> {
    fn receive(&mut self, wait: Duration) -> Result<CopyEvent<'_>, ServerError> {
        assert!(
            wait <= Duration::from_millis(100),
            "cancelling takes too long"
        );
        if let Some(until) = self.silent_until {
            if Instant::now() < until {
                std::thread::sleep(wait.min(until - Instant::now()));
                return Ok(CopyEvent::Idle);
            }
            self.silent_until = None;
        }
        match self.steps.pop_front() {
            Some(Step::Send(payload)) => {
                self.current = payload;
                return Ok(CopyEvent::Data(&self.current));
            }
            Some(Step::Silence(time)) => self.silent_until = Some(Instant::now() + time),
            Some(Step::Done) => return Ok(CopyEvent::Done),
            Some(Step::Fail(code, message)) => {
                return Err(ServerError::Statement {
                    statement: String::new(),
                    severity: "FATAL".to_owned(),
                    code: code.to_owned(),
                    message: message.to_owned(),
                    hint: None,
                });
            }
            Some(Step::Cancel) => self.cancel.store(true, Ordering::Relaxed),
            Some(Step::Set(lsn, wait_for, within)) => self.stop.set(lsn, wait_for, within),
            Some(Step::Abandon) => self.stop.abandon(),
            None => std::thread::sleep(wait.min(Duration::from_millis(1))),
        }
        Ok(CopyEvent::Idle)
    }

    fn send(&mut self, payload: &[u8]) -> Result<(), ServerError> {
        self.sent.push(payload.to_vec());
        Ok(())
    }
}

/// Keeps what it is given; it is durable once a sync was asked for.
#[derive(Default)]
struct Memory {
    bytes: Vec<u8>,
    synced: Lsn,
    syncs: usize,
    fails: bool,
    /// Syncs do not come to an end.
    stuck: bool,
    /// Not ready for so many questions.
    busy: usize,
}

impl WalSink for Memory {
    fn write(&mut self, at: Lsn, bytes: &[u8]) -> Result<(), SinkError> {
        assert_eq!(at.0, BASE + self.bytes.len() as u64);
        assert_eq!(self.busy, 0, "written to while busy");
        if self.fails {
            return Err("disk full".into());
        }
        self.bytes.extend_from_slice(bytes);
        let end = BASE + self.bytes.len() as u64;
        // As files do: what is complete is made durable without being asked.
        self.synced = self.synced.max(Lsn(end - end % SEGMENT));
        Ok(())
    }

    fn start_sync(&mut self) -> Result<(), SinkError> {
        self.syncs += 1;
        if !self.stuck {
            self.synced = Lsn(BASE + self.bytes.len() as u64);
        }
        Ok(())
    }

    fn durable(&mut self) -> Result<Lsn, SinkError> {
        Ok(self.synced)
    }

    fn is_ready(&mut self) -> bool {
        let ready = self.busy == 0;
        self.busy = self.busy.saturating_sub(1);
        ready
    }
}

/// What came of a stream.
struct Outcome {
    result: Result<ReceivedWal, WalStreamError>,
    sink: Memory,
    sent: Vec<Vec<u8>>,
    took: Duration,
    stop: StopTarget,
}

impl Outcome {
    fn error(&self) -> &WalStreamError {
        self.result.as_ref().unwrap_err()
    }

    /// Flush positions that the server was told.
    fn flushed(&self) -> Vec<u64> {
        let flushed = self.sent.iter().map(|status| match status.len() {
            65 => u64::from_le_bytes(status[17..25].try_into().unwrap()),
            _ => u64::from_be_bytes(status[9..17].try_into().unwrap()),
        });
        flushed.collect()
    }
}

fn request(flavor: ServerFlavor) -> WalStreamRequest {
    let mut request = WalStreamRequest::new(flavor, 1, TimelineId(1), Lsn(BASE + 40), SEGMENT);
    request.grace = SOON;
    request
}

fn stream_into(request: &WalStreamRequest, mut sink: Memory, steps: Vec<Step>) -> Outcome {
    let (stop, cancel) = (StopTarget::new(), AtomicBool::new(false));
    let began = Instant::now();
    let mut server = Server {
        steps: steps.into(),
        current: Vec::new(),
        silent_until: None,
        sent: Vec::new(),
        stop: &stop,
        cancel: &cancel,
    };
    let result = receive(&mut server, request, &mut sink, &stop, &cancel);
    let sent = server.sent;
    Outcome {
        result,
        sink,
        sent,
        took: began.elapsed(),
        stop,
    }
}

fn stream(flavor: ServerFlavor, steps: Vec<Step>) -> Outcome {
    stream_into(&request(flavor), Memory::default(), steps)
}

/// WAL from `start` to `end`, counted from [`BASE`].
fn wal(flavor: ServerFlavor, start: u64, end: u64) -> Step {
    let (start, end) = (BASE + start, BASE + end);
    let mut payload = vec![b'w'];
    for number in [start, end, 0] {
        match flavor {
            ServerFlavor::OpenGauss => payload.extend_from_slice(&number.to_le_bytes()),
            ServerFlavor::PostgreSql { .. } => payload.extend_from_slice(&number.to_be_bytes()),
        }
    }
    if flavor == GAUSS {
        payload.resize(65, 0);
    }
    payload.extend((start..end).map(|at| at.to_le_bytes()[1]));
    Step::Send(payload)
}

fn keepalive(flavor: ServerFlavor, reply_requested: bool) -> Step {
    let (size, at) = if flavor == GAUSS { (33, 25) } else { (18, 17) };
    let mut payload = vec![0; size];
    payload[0] = b'k';
    payload[at] = u8::from(reply_requested);
    Step::Send(payload)
}

fn set(lsn: Lsn, wait_for: WaitFor) -> Step {
    Step::Set(lsn, wait_for, LONG)
}

#[test]
fn a_primary_is_streamed_to_the_end_of_the_segment_with_the_stop_position() {
    for flavor in [GAUSS, POSTGRESQL] {
        let mut patient = request(flavor);
        patient.grace = LONG;
        let steps = vec![
            wal(flavor, 0, 0x1E8),
            set(STOP, WaitFor::SegmentEnd),
            wal(flavor, 0x1E8, 0x4000),
            wal(flavor, 0x4000, SEGMENT + 0x100),
        ];
        let outcome = stream_into(&patient, Memory::default(), steps);
        let received = outcome.result.as_ref().unwrap();
        assert_eq!(received.stop, STOP);
        assert_eq!(received.received, Lsn(BASE + SEGMENT + 0x100));
        assert_eq!(received.durable, Lsn(BASE + SEGMENT));
        assert_eq!(received.record_behind, Some(STOP));
        let expected: Vec<u8> = (BASE..BASE + SEGMENT + 0x100)
            .map(|at| at.to_le_bytes()[1])
            .collect();
        assert!(outcome.sink.bytes == expected);
        assert_eq!(outcome.stop.durable(), received.durable);
        assert_eq!(outcome.stop.received(), received.received);
    }
}

#[test]
fn a_primary_that_does_not_switch_is_not_waited_for_longer_than_the_grace() {
    let outcome = stream(
        POSTGRESQL,
        vec![set(STOP, WaitFor::SegmentEnd), wal(POSTGRESQL, 0, 0x1E8)],
    );
    let received = outcome.result.unwrap();
    assert_eq!((received.durable, received.record_behind), (STOP, None));
    assert!(outcome.took >= SOON && outcome.took < LONG / 10);
}

#[test]
fn the_grace_counts_from_the_last_wal() {
    let mut slow = vec![set(STOP, WaitFor::SegmentEnd)];
    let mut at = 0;
    for end in (1..=8).map(|eighth| eighth * SEGMENT / 8) {
        slow.push(wal(POSTGRESQL, at, end));
        slow.push(Step::Silence(Duration::from_millis(60)));
        at = end;
    }
    let mut request = request(POSTGRESQL);
    request.grace = Duration::from_millis(400);
    let outcome = stream_into(&request, Memory::default(), slow);
    assert_eq!(outcome.result.unwrap().durable, Lsn(BASE + SEGMENT));
}

#[test]
fn a_standby_is_streamed_to_the_stop_position_and_no_further() {
    let mut patient = request(GAUSS);
    patient.grace = LONG;
    let steps = vec![wal(GAUSS, 0, 0x200), set(STOP, WaitFor::Lsn)];
    let outcome = stream_into(&patient, Memory::default(), steps);
    let received = outcome.result.unwrap();
    assert_eq!(received.durable, Lsn(BASE + 0x200));
    assert_eq!(received.record_behind, Some(STOP));
    assert!(outcome.took < LONG / 10, "{:?}", outcome.took);
}

#[test]
fn a_stop_position_on_a_boundary_waits_for_the_record_behind_its_header() {
    use WaitFor::{Lsn as Reached, SegmentEnd};
    let page = Lsn(BASE + 0x2000);
    let segment = Lsn(BASE + SEGMENT);
    for (stop, wait_for, end, record_behind) in [
        (page, Reached, 0x2000, None),
        (page, Reached, 0x2018, None),
        (page, Reached, 0x2040, Some(Lsn(page.0 + 24))),
        (page, SegmentEnd, SEGMENT, Some(Lsn(page.0 + 24))),
        (segment, Reached, SEGMENT, None),
        (segment, SegmentEnd, SEGMENT, None),
        (segment, SegmentEnd, SEGMENT + 40, None),
        (segment, SegmentEnd, SEGMENT + 72, Some(Lsn(segment.0 + 40))),
        (segment, Reached, SEGMENT + 72, Some(Lsn(segment.0 + 40))),
    ] {
        let outcome = stream(GAUSS, vec![set(stop, wait_for), wal(GAUSS, 0, end)]);
        let received = outcome.result.unwrap();
        assert!(received.durable >= stop, "{stop} {wait_for:?}");
        assert_eq!(received.received, Lsn(BASE + end), "{stop} {wait_for:?}");
        assert_eq!(received.record_behind, record_behind, "{stop} {wait_for:?}");
    }
}

#[test]
fn a_server_that_asks_is_told_what_is_durable() {
    for flavor in [GAUSS, POSTGRESQL] {
        let mut request = request(flavor);
        request.slot = Some(Slot::Existing("s".to_owned()));
        let steps = vec![
            keepalive(flavor, false),
            wal(flavor, 0, 0x100),
            keepalive(flavor, true),
            Step::Silence(SOON),
            Step::Abandon,
        ];
        let outcome = stream_into(&request, Memory::default(), steps);
        assert!(matches!(outcome.error(), WalStreamError::Abandoned));
        assert_eq!(outcome.flushed(), [BASE + 0x100]);
    }
}

#[test]
fn wal_that_is_not_durable_is_not_said_to_be() {
    let sink = Memory {
        stuck: true,
        ..Memory::default()
    };
    let steps = vec![
        wal(GAUSS, 0, 0x100),
        keepalive(GAUSS, true),
        Step::Silence(Duration::from_millis(2 * WAL_REPLY_DELAY_MS)),
        Step::Abandon,
    ];
    let outcome = stream_into(&request(GAUSS), sink, steps);
    // It is answered nevertheless.
    assert_eq!(outcome.flushed(), [BASE]);
    assert_eq!(outcome.sink.syncs, 1);
}

#[test]
fn postgresql_without_slot_is_promised_nothing() {
    let steps = vec![
        wal(POSTGRESQL, 0, 0x100),
        keepalive(POSTGRESQL, true),
        Step::Silence(SOON),
        Step::Abandon,
    ];
    let outcome = stream(POSTGRESQL, steps);
    assert_eq!(outcome.flushed(), [0]);
    // What was received is told.
    assert_eq!(outcome.sent[0][1..9], (BASE + 0x100).to_be_bytes());
}

#[test]
fn a_status_is_sent_every_interval_and_when_a_segment_is_durable() {
    let mut request = request(GAUSS);
    request.status_interval = SOON;
    let steps = vec![
        wal(GAUSS, 0, SEGMENT),
        Step::Silence(SOON * 8),
        Step::Abandon,
    ];
    let outcome = stream_into(&request, Memory::default(), steps);
    let flushed = outcome.flushed();
    assert!((3..=10).contains(&flushed.len()), "{flushed:?}");
    assert!(flushed.iter().all(|&lsn| lsn == BASE + SEGMENT));
}

#[test]
fn a_busy_sink_is_waited_for_while_the_server_gets_its_answers() {
    let mut request = request(GAUSS);
    request.status_interval = SOON;
    request.stall_timeout = SOON * 5;
    let sink = Memory {
        busy: 100,
        ..Memory::default()
    };
    let steps = vec![wal(GAUSS, 0, 0x100), Step::Abandon];
    let outcome = stream_into(&request, sink, steps);
    assert!(matches!(outcome.error(), WalStreamError::Abandoned));
    assert_eq!(outcome.sink.bytes.len(), 0x100);
    assert!(!outcome.sent.is_empty());
}

/// Faults: what the server does, and the error.
#[test]
fn every_fault_ends_in_its_own_error() {
    let behind = "cannot stream WAL behind";
    let (at, stop) = (Lsn(BASE + 0x100), set(STOP, WaitFor::Lsn));
    let first = || wal(GAUSS, 0, 0x100);
    for (steps, text) in [
        (
            vec![first(), wal(GAUSS, 0x108, 0x200)],
            format!("{behind} {at}: the server sent WAL of 0/300108 instead"),
        ),
        (
            vec![first(), wal(GAUSS, 0xF8, 0x200)],
            format!("{behind} {at}: the server sent WAL of 0/3000F8 instead"),
        ),
        (
            vec![first(), wal(GAUSS, 0, 0x100)],
            format!("{behind} {at}: the server sent WAL of 0/300000 instead"),
        ),
        (
            vec![wal(GAUSS, 0x28, 0x100)],
            format!("{behind} 0/300000: the server sent WAL of 0/300028 instead"),
        ),
        (
            vec![first(), stop, Step::Done],
            format!(
                "{behind} {at}: the server ended the stream, as at the end of timeline 1 or when \
                 it shuts down"
            ),
        ),
        (
            vec![Step::Fail(
                "58P01",
                "angefordertes WAL-Segment wurde entfernt",
            )],
            format!("{behind} 0/300000: the server has removed it already"),
        ),
        (
            vec![Step::Fail(
                "XX000",
                "requested WAL segment 000000010000000000000003 has already been removed",
            )],
            format!("{behind} 0/300000: the server has removed it already"),
        ),
        (
            vec![first(), Step::Fail("57P01", "terminating connection")],
            format!("{behind} {at}: the server is shutting down or was restarted"),
        ),
        (
            vec![first(), Step::Fail("08006", "connection lost")],
            format!("{behind} {at}"),
        ),
        (
            vec![first(), Step::Send(b"x".to_vec())],
            format!("{behind} {at}: the server sent what is no replication message"),
        ),
        (
            vec![first(), Step::Set(STOP, WaitFor::Lsn, SOON)],
            "Target LSN 0/3001E8 could not be streamed in 0.02 seconds".to_owned(),
        ),
    ] {
        let outcome = stream(GAUSS, steps);
        assert_eq!(outcome.error().to_string(), text);
        assert!(outcome.took < Duration::from_secs(5), "{text}");
        let hint = outcome.error().hint().unwrap_or("");
        assert_eq!(hint.contains("replication slot"), text.contains("removed"));
    }
}

#[test]
fn a_signal_and_a_failed_backup_end_the_stream() {
    for (step, text) in [
        (Step::Cancel, "Interrupted during WAL streaming"),
        (
            Step::Abandon,
            "WAL streaming was abandoned because the backup failed",
        ),
    ] {
        let outcome = stream(GAUSS, vec![wal(GAUSS, 0, 0x100), step]);
        assert_eq!(outcome.error().to_string(), text);
    }
}

#[test]
fn a_silent_server_is_asked_for_a_sign_of_life_and_then_given_up() {
    let mut request = request(GAUSS);
    request.stall_timeout = SOON * 10;
    let steps = vec![wal(GAUSS, 0, 0x100), set(STOP, WaitFor::Lsn)];
    let outcome = stream_into(&request, Memory::default(), steps);
    assert_eq!(
        outcome.error().to_string().split(" for 0.").next().unwrap(),
        "cannot stream WAL behind 0/300100: nothing came from the server"
    );
    let text = outcome.error().to_string();
    assert!(
        text.ends_with("waiting for WAL up to the stop position 0/3001E8"),
        "{text}"
    );
    // One question, at half of the time.
    assert_eq!(outcome.sent.len(), 1);
    assert_eq!(outcome.sent[0][57], 1);
    // A server that answers is not given up.
    let mut steps = Vec::new();
    for _ in 0..4 {
        steps.extend([Step::Silence(SOON * 6), keepalive(GAUSS, false)]);
    }
    steps.push(Step::Abandon);
    let outcome = stream_into(&request, Memory::default(), steps);
    assert!(matches!(outcome.error(), WalStreamError::Abandoned));
    assert_eq!(outcome.sent.len(), 4);
}

#[test]
fn a_server_that_goes_after_the_stop_position_does_no_harm() {
    for end in [Step::Done, Step::Fail("57P01", "terminating connection")] {
        let mut patient = request(POSTGRESQL);
        patient.grace = LONG;
        let steps = vec![
            set(STOP, WaitFor::SegmentEnd),
            wal(POSTGRESQL, 0, 0x300),
            end,
        ];
        let outcome = stream_into(&patient, Memory::default(), steps);
        assert_eq!(outcome.result.unwrap().durable, Lsn(BASE + 0x300));
        assert!(outcome.took < LONG / 10);
    }
}

#[test]
fn a_stop_position_that_does_not_become_durable_fails_in_time() {
    let sink = Memory {
        stuck: true,
        ..Memory::default()
    };
    let steps = vec![
        Step::Set(STOP, WaitFor::SegmentEnd, SOON * 5),
        wal(GAUSS, 0, 0x200),
    ];
    let outcome = stream_into(&request(GAUSS), sink, steps);
    let WalStreamError::TargetNotReached {
        received, durable, ..
    } = outcome.error()
    else {
        panic!("{}", outcome.error());
    };
    assert_eq!((*received, *durable), (Lsn(BASE + 0x200), Lsn(BASE)));
}

#[test]
fn a_disk_that_fails_ends_the_stream() {
    let sink = Memory {
        fails: true,
        ..Memory::default()
    };
    let outcome = stream_into(&request(GAUSS), sink, vec![wal(GAUSS, 0, 8)]);
    let text = outcome.error().to_string();
    assert_eq!(text, "cannot store the streamed WAL");
    let cause = std::error::Error::source(outcome.error()).unwrap();
    assert_eq!(cause.to_string(), "disk full");
}

#[test]
fn messages_without_wal_and_offered_files_are_passed_over() {
    let steps = vec![
        wal(GAUSS, 0, 0),
        Step::Send(b"mport = 1".to_vec()),
        wal(GAUSS, 0, 0x200),
        set(STOP, WaitFor::Lsn),
    ];
    assert_eq!(stream(GAUSS, steps).result.unwrap().stop, STOP);
}
