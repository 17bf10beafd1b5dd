//! Servers that hang up, stall, lie or end a statement slowly: each ends in its error, in time.

use super::peer::{Peer, Step, error_message, message, open, plain, target, welcome};
use super::{ConnectContext, Connection, CopyEvent, CopyStream, ServerError, Sql};
use crate::types::ServerFlavor;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Far below any time limit that is not meant to be reached.
const SOON: Duration = Duration::from_secs(2);
const SHORT: Duration = Duration::from_millis(60);

fn answer(rows: &[&[u8]]) -> Vec<u8> {
    let columns = rows.first().map_or(0, |_| 1_u16);
    let mut description = columns.to_be_bytes().to_vec();
    if columns > 0 {
        description.extend_from_slice(b"c\0");
        description.extend_from_slice(&[0; 18]);
    }
    let mut bytes = message(b'T', &description);
    for row in rows {
        let length = u32::try_from(row.len()).unwrap().to_be_bytes();
        bytes.extend(message(b'D', &[&[0, 1], &length[..], row].concat()));
    }
    bytes.extend(message(b'C', b"SELECT\0"));
    bytes.extend(message(b'Z', b"I"));
    bytes
}

fn after_query(bytes: Vec<u8>) -> ServerError {
    let peer = Peer::tcp(vec![vec![
        Step::Startup,
        Step::Send(welcome()),
        Step::Message,
        Step::Send(bytes),
    ]]);
    let mut connection = open(&plain(&peer)).unwrap();
    let error = connection.query("SELECT 1").unwrap_err();
    peer.finish();
    error
}

#[test]
fn bytes_that_are_no_answer_are_protocol_violations() {
    let row = |body: &[u8]| [answer(&[b"x"])[..27].to_vec(), message(b'D', body)].concat();
    let cases: [(Vec<u8>, &str); 16] = [
        (
            b"D\x7f\xff\xff\xff".to_vec(),
            "message 'D' of 2147483647 bytes, 268435456 at most",
        ),
        (b"D\xff\xff\xff\xff".to_vec(), "header length < 4"),
        (b"Z\0\0\0\x03".to_vec(), "header length < 4"),
        (
            b"S\x00\x20\x00\x00".to_vec(),
            "message 'S' of 2097152 bytes",
        ),
        (b"HTTP/1.1 400 Bad Request\r\n".to_vec(), "message 'H' of"),
        (message(b'?', b""), "message '?': unknown message tag"),
        (message(b'Z', b""), "message 'Z'"),
        (message(b'Z', b"II"), "message 'Z'"),
        (
            message(b'R', b"\0\0"),
            "authentication request without a code",
        ),
        (message(b'R', &[0; 4]), "unexpected authentication request"),
        (message(b'W', &[0; 3]), "unexpected copy both"),
        (message(b'G', &[0; 3]), "unexpected copy in"),
        (message(b'E', b"Mtext without an end"), "error report"),
        (
            message(b'D', &[0, 1, 0, 0, 0, 1, b'x']),
            "row of more than 0 values",
        ),
        (row(&[0, 1, 0, 0, 0, 9, b'x']), "row"),
        (row(&[0, 1, 0, 0, 0, 1, 0xff]), "value that is not UTF-8"),
    ];
    for (bytes, expected) in cases {
        let error = after_query(bytes.clone());
        assert!(
            matches!(error, ServerError::Protocol { .. }),
            "{error}: {}",
            bytes.escape_ascii()
        );
        let text = error.to_string();
        assert!(
            text.contains(expected) && text.contains("127.0.0.1"),
            "{text}, not {expected}"
        );
    }
}

#[test]
fn server_that_leaves_in_mid_message_is_named() {
    let error = after_query(b"D\0\0\0\x20half".to_vec());
    assert!(matches!(error, ServerError::Closed { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("closed the connection unexpectedly"),
        "{error}"
    );
}

#[test]
fn lost_connection_is_not_used_again() {
    let peer = Peer::tcp(vec![vec![
        Step::Startup,
        Step::Send(welcome()),
        Step::Message,
        Step::Send(error_message("FATAL", "57P01", "terminating connection")),
    ]]);
    let mut connection = open(&plain(&peer)).unwrap();
    let error = connection.query("SELECT 1").unwrap_err();
    assert!(
        error.to_string().contains("FATAL:  terminating connection"),
        "{error}"
    );
    let error = connection.query("SELECT 1").unwrap_err();
    assert_eq!(error.to_string(), "not connected");
    peer.finish();
}

#[test]
fn stalls_end_at_their_time_limits() {
    let md5 = message(b'R', b"\0\0\0\x05salt");
    let scripts = [
        (vec![Step::Stall], "authentication"),
        (vec![Step::Startup, Step::Stall], "authentication"),
        (
            vec![Step::Startup, Step::Send(md5), Step::Message, Step::Stall],
            "authentication",
        ),
        (
            vec![
                Step::Startup,
                Step::Send(message(b'R', &[0; 4])),
                Step::Stall,
            ],
            "the server to be ready",
        ),
        (
            vec![
                Step::Startup,
                Step::Send(b"R\0\0\0\x08\0".to_vec()),
                Step::Stall,
            ],
            "authentication",
        ),
    ];
    for (script, expected) in scripts {
        let peer = Peer::tcp(vec![script]);
        let settings = format!(
            "host=127.0.0.1 port={} user=u password=p sslmode=disable",
            peer.port
        );
        let mut target = target(&settings, ServerFlavor::PostgreSql { major: 15 });
        target.connect_timeout = SHORT;
        let begun = Instant::now();
        let error = open(&target).unwrap_err().to_string();
        assert!(begun.elapsed() < SOON);
        assert!(
            error.contains("timeout after 0.06 seconds while waiting for")
                && error.contains(expected),
            "{error}"
        );
        peer.finish();
    }
}

#[test]
fn answer_to_the_request_for_tls_is_waited_for_no_longer_than_the_rest() {
    let peer = Peer::tcp(vec![vec![Step::Startup, Step::Stall]]);
    let settings = format!("host=127.0.0.1 port={} user=u", peer.port);
    let mut target = target(&settings, ServerFlavor::PostgreSql { major: 15 });
    target.connect_timeout = SHORT;
    let error = open(&target).unwrap_err().to_string();
    assert!(error.contains("the answer to a request for TLS"), "{error}");
    peer.finish();
}

#[test]
fn rows_are_given_on_before_the_answer_is_complete() {
    let mut bytes = answer(&[b"one", b"two", b"three"]);
    bytes.truncate(bytes.len() - message(b'Z', b"I").len());
    let peer = Peer::tcp(vec![vec![
        Step::Startup,
        Step::Send(welcome()),
        Step::Message,
        Step::Send(bytes),
        Step::Stall,
    ]]);
    let mut connection = open(&plain(&peer)).unwrap();
    let mut rows = Vec::new();
    let refused = connection.each_row("SELECT $1", &["x"], &mut |row| {
        rows.push(row[0].clone().unwrap());
        if rows.len() == 2 {
            return Err("two are enough".to_owned());
        }
        Ok(())
    });
    let error = refused.unwrap_err();
    assert!(
        matches!(&error, ServerError::Protocol { what, .. } if what == "two are enough"),
        "{error}"
    );
    assert_eq!(rows, ["one", "two"]);
}

#[test]
fn statement_that_stalls_times_out_and_the_next_one_waits_for_its_end() {
    let cancel = [
        &16_u32.to_be_bytes()[..],
        &80_877_102_u32.to_be_bytes(),
        &[0, 0, 0, 7, 0, 0, 0, 9],
    ]
    .concat();
    let peer = Peer::tcp(vec![
        vec![
            Step::Startup,
            Step::Send(welcome()),
            Step::Message,
            Step::Pause(Duration::from_millis(300)),
            Step::Send(answer(&[b"late"])),
            Step::Message,
            Step::Send(answer(&[b"second"])),
        ],
        vec![Step::Expect(cancel)],
    ]);
    let mut connection = open(&plain(&peer)).unwrap();
    connection.set_read_timeout(SHORT);
    let error = connection.query("SELECT 1").unwrap_err();
    assert!(matches!(error, ServerError::TimedOut { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--rw-timeout"));
    connection.set_read_timeout(Duration::from_secs(5));
    assert_eq!(
        connection.query("SELECT 2").unwrap().single(),
        Some("second")
    );
    drop(connection);
    peer.finish();
}

#[test]
fn interrupt_cancels_the_statement_and_cleaning_up_still_works() {
    let peer = Peer::tcp(vec![
        vec![
            Step::Startup,
            Step::Send(welcome()),
            Step::Message,
            Step::Pause(Duration::from_millis(250)),
            Step::Send(error_message(
                "ERROR",
                "57014",
                "canceling statement due to user request",
            )),
            Step::Send(message(b'Z', b"I")),
            Step::Message,
            Step::Send(answer(&[b"stopped"])),
            Step::Expect(b"X\0\0\0\x04".to_vec()),
        ],
        vec![Step::Startup],
    ]);
    let cancel = Arc::new(AtomicBool::new(false));
    let context = ConnectContext {
        cancel: cancel.clone(),
        ask_password: None,
    };
    let mut connection = Connection::open(&plain(&peer), &context).unwrap();
    let flag = cancel.clone();
    let signal = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        flag.store(true, Ordering::Relaxed);
    });
    let begun = Instant::now();
    let error = connection.query("SELECT pg_sleep(1000)").unwrap_err();
    assert!(matches!(error, ServerError::Interrupted), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(1));
    signal.join().unwrap();
    connection.ignore_cancel(true);
    let rows = connection.query("SELECT pg_stop_backup()").unwrap();
    assert_eq!(rows.single(), Some("stopped"));
    connection.close();
    peer.finish();
}

#[test]
fn interrupt_ends_connecting() {
    let peer = Peer::tcp(vec![vec![Step::Startup, Step::Stall]]);
    let context = ConnectContext {
        cancel: Arc::new(AtomicBool::new(true)),
        ask_password: None,
    };
    let error = Connection::open(&plain(&peer), &context).unwrap_err();
    assert!(matches!(error, ServerError::Interrupted), "{error}");
}

#[test]
fn requests_for_authentication_that_are_not_answered_say_what_to_do() {
    let cases: [(Vec<u8>, &str, &str); 7] = [
        (
            vec![0, 0, 0, 3],
            "clear text over a connection without TLS",
            "sslmode=require",
        ),
        (
            vec![0, 0, 0, 7],
            "asks for GSSAPI authentication",
            "method scram-sha-256 in pg_hba.conf",
        ),
        (
            vec![0, 0, 0, 9],
            "asks for SSPI authentication",
            "pg_hba.conf",
        ),
        (
            vec![0, 0, 0, 99],
            "asks for unknown (99) authentication",
            "pg_hba.conf",
        ),
        (
            b"\0\0\0\x0aOTHER\0\0".to_vec(),
            "asks for SASL (OTHER\\x00\\x00)",
            "pg_hba.conf",
        ),
        (
            b"\0\0\0\x0a\0\0\0\x02349508".to_vec(),
            "is not PostgreSQL 15",
            "--pgdata",
        ),
        (vec![0, 0, 0, 5, 1], "md5 request without a salt", ""),
    ];
    for (request, expected, hint) in cases {
        let script = vec![
            Step::Startup,
            Step::Send(message(b'R', &request)),
            Step::Stall,
        ];
        let peer = Peer::tcp(vec![script]);
        let settings = format!(
            "host=127.0.0.1 port={} user=u password=secret sslmode=disable",
            peer.port
        );
        let error = open(&target(&settings, ServerFlavor::PostgreSql { major: 15 })).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.hint().unwrap_or_default().contains(hint), "{error}");
        assert!(!format!("{error:?}").contains("secret"));
        peer.finish();
    }
}

#[test]
fn next_host_is_tried_when_one_does_not_take_part() {
    let starting = error_message("FATAL", "57P03", "the database system is starting up");
    let first = Peer::tcp(vec![vec![Step::Startup, Step::Send(starting)]]);
    let second = Peer::tcp(vec![vec![
        Step::Startup,
        Step::Send(welcome()),
        Step::Message,
    ]]);
    let settings = format!(
        "host=127.0.0.1,localhost port={},{} user=u sslmode=disable",
        first.port, second.port
    );
    let connection = open(&target(&settings, ServerFlavor::PostgreSql { major: 15 })).unwrap();
    assert_eq!(connection.address().port(), Some(second.port));
    drop(connection);
    first.finish();
    second.finish();
}

#[test]
fn absent_servers_are_named_with_where_they_were_sought() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let settings = format!("host=127.0.0.1 port={port} user=u");
    let error = open(&target(&settings, ServerFlavor::OpenGauss)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "could not connect to database fix: connection to server at \"127.0.0.1\", port \
             {port} failed: Connection refused (os error 111)"
        )
    );
    assert!(error.hint().unwrap().contains("listen_addresses"));
    let directory = tempfile::tempdir().unwrap();
    let settings = format!("host={} port=1 user=u", directory.path().display());
    let error = open(&target(&settings, ServerFlavor::OpenGauss)).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("/.s.PGSQL.1\" failed: No such file"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("unix_socket_directories"));
}

#[test]
fn notices_are_kept_and_bounded() {
    let notice = message(b'N', b"SNOTICE\0MWAL archiving is not enabled\0\0");
    let mut bytes = notice.repeat(500);
    bytes.extend(message(b'S', b"TimeZone\0UCT\0"));
    bytes.extend(answer(&[b"x"]));
    let peer = Peer::tcp(vec![vec![
        Step::Startup,
        Step::Send(welcome()),
        Step::Message,
        Step::Send(bytes),
        Step::Message,
    ]]);
    let mut connection = open(&plain(&peer)).unwrap();
    assert_eq!(connection.query("SELECT 1").unwrap().single(), Some("x"));
    let notices = connection.take_notices();
    assert_eq!(notices.len(), crate::limits::SERVER_NOTICES_MAX);
    assert_eq!(notices[0], "NOTICE:  WAL archiving is not enabled");
    assert_eq!(connection.parameter("TimeZone"), Some("UCT"));
    drop(connection);
    peer.finish();
}

#[test]
fn error_in_mid_stream_and_its_end_surface() {
    let begun = |then: Vec<u8>| {
        let peer = Peer::tcp(vec![vec![
            Step::Startup,
            Step::Send(welcome()),
            Step::Message,
            Step::Send([message(b'W', &[0; 3]), message(b'd', b"w1"), then].concat()),
            Step::Stall,
        ]]);
        let target = plain(&peer).for_replication();
        let stream = open(&target)
            .unwrap()
            .start_copy("START_REPLICATION 0/1000000")
            .unwrap();
        (peer, stream)
    };
    let gone = "requested WAL segment 000000010000000000000001 has already been removed";
    let (peer, mut stream) = begun(error_message("ERROR", "58P01", gone));
    assert_eq!(stream.receive(SOON).unwrap(), CopyEvent::Data(b"w1"));
    let error = stream.receive(SOON).unwrap_err();
    assert!(error.to_string().contains(gone), "{error}");
    drop(stream);
    peer.finish();

    let (peer, mut stream) = begun(message(b'c', b""));
    assert_eq!(stream.receive(SOON).unwrap(), CopyEvent::Data(b"w1"));
    assert_eq!(stream.receive(SOON).unwrap(), CopyEvent::Done);
    assert_eq!(stream.receive(SOON).unwrap(), CopyEvent::Done);
    drop(stream);
    peer.finish();

    let (peer, mut stream) = begun(Vec::new());
    assert_eq!(stream.receive(SOON).unwrap(), CopyEvent::Data(b"w1"));
    assert_eq!(stream.receive(SHORT).unwrap(), CopyEvent::Idle);
    stream.connection().cancel.store(true, Ordering::Relaxed);
    assert!(matches!(
        stream.receive(SOON),
        Err(ServerError::Interrupted)
    ));
    drop(stream);
    peer.finish();
}
