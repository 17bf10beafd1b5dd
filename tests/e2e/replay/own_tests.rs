//! What was recorded is answered as it was recorded, byte for byte; the rest as the header says.

use super::message::{Message, Startup};
use super::recording::{Sender, chunks};
use super::{Address, Replay};
use crate::fixtures;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

trait Stream: Read + Write {}
impl Stream for TcpStream {}
impl Stream for UnixStream {}

fn connect(replay: &Replay, offset: u16) -> Box<dyn Stream> {
    let port = replay.port() + offset;
    if let Address::Unix(directory) = &replay.address {
        let stream = UnixStream::connect(directory.join(format!(".s.PGSQL.{port}"))).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        return Box::new(stream);
    }
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Box::new(stream)
}

/// Plays the client's part of a recorded backup; every byte of the server's part must come back.
fn assert_replays(session: &str) {
    let Some(gauss) = fixtures::gauss() else {
        return;
    };
    let scratch = tempfile::tempdir_in("/tmp").unwrap();
    let address = match session.ends_with("unix") {
        true => Address::Unix(scratch.path().to_owned()),
        false => Address::Tcp,
    };
    let replay = Replay::start(&gauss, session, address, Path::new("/ts"));
    let (chunks, is_replication) = chunks(&gauss, session);
    let mut streams: BTreeMap<u64, Box<dyn Stream>> = BTreeMap::new();
    let mut compared = 0;
    for (number, chunk) in chunks.iter().enumerate() {
        let offset = u16::from(is_replication[&chunk.connection]);
        let stream = streams
            .entry(chunk.connection)
            .or_insert_with(|| connect(&replay, offset));
        if chunk.sender == Sender::Client {
            stream.write_all(&chunk.bytes).unwrap();
            continue;
        }
        let mut bytes = vec![0; chunk.bytes.len()];
        stream
            .read_exact(&mut bytes)
            .unwrap_or_else(|error| panic!("{session}, chunk {number}: {error}"));
        assert!(bytes == chunk.bytes, "{session}, chunk {number} differs");
        compared += bytes.len();
    }
    drop(streams);
    assert!(compared > 16 << 20, "two segments' worth: {compared}");
    let report = replay.report();
    assert_eq!(report.unknown, Vec::<String>::new());
    assert_eq!(report.backups_in_progress, 0);
    assert!(report.proofs.iter().all(|(_, is_right)| *is_right));
    assert_eq!(report.stream.len(), 1, "one status message was recorded");
    assert!(report.replication_commands[1].starts_with("START_REPLICATION 0/"));
}

#[test]
fn full_backup_over_unix_sockets_replays_byte_for_byte() {
    assert_replays("trust_full_unix");
}

#[test]
fn incremental_backups_replay_byte_for_byte_with_each_authentication() {
    for session in [
        "trust_ptrack_unix",
        "sha_ptrack",
        "md5_ptrack",
        "sm3_ptrack",
    ] {
        assert_replays(session);
    }
    assert_replays("omm_tcp_password_ptrack");
}

/// A client that knows just enough.
struct Client {
    stream: Box<dyn Stream>,
    received: Vec<u8>,
}

impl Client {
    fn start(replay: &Replay, version: u32, user: &str, database: &str) -> Client {
        let mut stream = connect(replay, 0);
        let text = format!("user\0{user}\0database\0{database}\0\0");
        let size = u32::try_from(text.len() + 8).unwrap();
        stream.write_all(&size.to_be_bytes()).unwrap();
        stream.write_all(&version.to_be_bytes()).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        Client {
            stream,
            received: Vec::new(),
        }
    }

    fn send(&mut self, tag: u8, body: &[u8]) {
        let body = body.to_vec();
        self.stream
            .write_all(&Message { tag, body }.encode())
            .unwrap();
    }

    /// `None` at the end of the connection.
    fn receive(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = Message::take(&mut self.received) {
                return Some(message);
            }
            let mut buffer = [0; 4096];
            let count = self.stream.read(&mut buffer).unwrap();
            if count == 0 {
                return None;
            }
            self.received.extend(&buffer[..count]);
        }
    }

    fn receive_until_ready(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            let message = self.receive().expect("ready");
            if message.tag == b'Z' {
                return messages;
            }
            messages.push(message);
        }
    }

    fn query(&mut self, statement: &str) -> Vec<Message> {
        self.send(b'Q', format!("{statement}\0").as_bytes());
        self.receive_until_ready()
    }

    /// Parse, bind, describe, execute and sync with parameters in text form.
    fn query_with(&mut self, statement: &str, parameters: &[&str]) -> Vec<Message> {
        self.send(b'P', format!("\0{statement}\0\0\0").as_bytes());
        let mut bind = vec![0, 0, 0, 0];
        bind.extend(u16::try_from(parameters.len()).unwrap().to_be_bytes());
        for parameter in parameters {
            bind.extend(u32::try_from(parameter.len()).unwrap().to_be_bytes());
            bind.extend(parameter.as_bytes());
        }
        bind.extend([0, 0]);
        self.send(b'B', &bind);
        self.send(b'D', b"P\0");
        self.send(b'E', &[0; 5]);
        self.send(b'S', &[]);
        self.receive_until_ready()
    }
}

fn tags(messages: &[Message]) -> String {
    messages
        .iter()
        .map(|message| char::from(message.tag))
        .collect()
}

const CURRENT: u32 = 3 << 16 | 51;

fn unix_replay(gauss: &Path, directory: &Path) -> Replay {
    let address = Address::Unix(directory.to_owned());
    Replay::start(gauss, "trust_full_unix", address, Path::new("/ts"))
}

#[test]
fn non_exclusive_backup_returns_label_and_map() {
    let Some(gauss) = fixtures::gauss() else {
        return;
    };
    let scratch = tempfile::tempdir_in("/tmp").unwrap();
    let replay = unix_replay(&gauss, scratch.path());
    assert_eq!(replay.host(), scratch.path().display().to_string());
    let mut client = Client::start(&replay, CURRENT, "omm", "fix");
    client.receive_until_ready();
    let start = "SELECT pg_catalog.pg_start_backup($1, $2, false)";
    let stop = "SELECT pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot()), \
                current_timestamp(0)::timestamptz, lsn, labelfile, spcmapfile FROM \
                pg_catalog.pg_stop_backup(false)";
    let early = client.query(stop);
    assert_eq!(early[0].field(b'M').unwrap(), "a backup is not in progress");
    let reply = client.query_with(start, &["mine", "true"]);
    assert_eq!(tags(&reply), "12TDC");
    assert_eq!(reply[3].columns(), ["0/24000028"]);
    assert_eq!(replay.report().backups_in_progress, 1);
    let again = client.query_with(start, &["mine", "true"]);
    assert!(
        again[2]
            .field(b'M')
            .unwrap()
            .contains("already in progress in this session")
    );
    let reply = client.query(stop);
    assert_eq!(tags(&reply), "NTDC");
    let label = "START WAL LOCATION: 0/24000028 (file 000000010000000000000024)\n\
                 CHECKPOINT LOCATION: 0/240000A8\nBACKUP METHOD: streamed\nBACKUP FROM: master\n\
                 START TIME: 2026-11-21 06:05:20 UTC\nLABEL: mine\n";
    let expected = [
        "13762",
        "2026-11-21 06:05:20+00",
        "0/240001E8",
        label,
        "16385 /ts\n",
    ];
    assert_eq!(reply[2].columns(), expected);
    assert_eq!(replay.report().backups_in_progress, 0);
    client.query_with(start, &["left", "true"]);
    drop(client);
    while replay.report().backups_in_progress > 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(replay.report().unknown, Vec::<String>::new());
}

#[test]
fn unknown_statements_are_refused_and_told() {
    let Some(gauss) = fixtures::gauss() else {
        return;
    };
    let scratch = tempfile::tempdir_in("/tmp").unwrap();
    let replay = unix_replay(&gauss, scratch.path());
    let mut client = Client::start(&replay, CURRENT, "omm", "fix");
    client.receive_until_ready();
    assert_eq!(tags(&client.query("select 1")), "E");
    assert_eq!(tags(&client.query_with("select $1", &["x"])), "12E");
    assert_eq!(tags(&client.query("show checkpoint_timeout")), "TDC");
    let other = "SELECT pg_catalog.current_setting($1)";
    assert_eq!(tags(&client.query_with(other, &["block_size"])), "12TDC");
    client.send(b'X', &[]);
    assert_eq!(client.receive(), None);
    let report = replay.report();
    assert_eq!(report.unknown, ["select 1", "select $1"]);
    assert_eq!(report.statements.len(), 4);
    assert_eq!(report.terminations, 1);
    let last = report.statements.last().unwrap();
    assert_eq!(
        (last.text.as_str(), &last.parameters[..]),
        (other, &["block_size".to_owned()][..])
    );
}

#[test]
fn wrong_proofs_users_databases_and_protocols_are_refused() {
    let Some(gauss) = fixtures::gauss() else {
        return;
    };
    let replay = Replay::start(&gauss, "sha_ptrack", Address::Tcp, Path::new("/ts"));
    let denied = "Invalid username/password,login denied.";
    let older = 3 << 16;
    let cases = [
        (CURRENT, "bk_sha", 88),
        (CURRENT, "nosuch", 88),
        (older, "bk_sha", 148),
    ];
    for (version, user, size) in cases {
        let mut client = Client::start(&replay, version, user, "fix");
        let challenge = client.receive().unwrap();
        assert_eq!(
            (challenge.tag, challenge.body.len() + 4),
            (b'R', size),
            "{user}"
        );
        client.send(b'p', b"0000\0");
        assert_eq!(client.receive().unwrap().field(b'M').unwrap(), denied);
        assert_eq!(client.receive(), None);
    }
    let proofs = replay.report().proofs;
    assert_eq!(proofs, vec![("0000".to_owned(), false); 3]);
    let mut client = Client::start(&replay, 2 << 16, "bk_sha", "fix");
    let refusal = client.receive().unwrap().field(b'M').unwrap();
    assert!(
        refusal.contains("unsupported frontend protocol"),
        "{refusal}"
    );
    let scratch = tempfile::tempdir_in("/tmp").unwrap();
    let trusting = unix_replay(&gauss, scratch.path());
    let mut client = Client::start(&trusting, CURRENT, "omm", "elsewhere");
    assert_eq!(client.receive().unwrap().authentication(), Some(0));
    let refusal = client.receive().unwrap();
    assert_eq!(
        refusal.field(b'M').unwrap(),
        "database \"elsewhere\" does not exist"
    );
    assert_eq!(refusal.field(b'C').unwrap(), "3D000");
}

#[test]
fn requests_for_tls_and_cancels_are_counted() {
    let Some(gauss) = fixtures::gauss() else {
        return;
    };
    let replay = Replay::start(&gauss, "sha_ptrack", Address::Tcp, Path::new("/ts"));
    let mut stream = connect(&replay, 0);
    stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).unwrap();
    let mut answer = [0];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"N");
    let mut stream = connect(&replay, 0);
    let cancel = [0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 2];
    stream.write_all(&cancel).unwrap();
    assert_eq!(stream.read(&mut answer).unwrap(), 0);
    let report = replay.report();
    assert_eq!((report.tls_requests, report.cancels), (1, 1));
    assert_eq!(report.startups, Vec::<Startup>::new());
}
