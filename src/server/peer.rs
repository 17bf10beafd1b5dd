//! The other end of a connection in tests: it follows a script, or a recording of the real server.

use super::{ConnectContext, ConnectTarget, Connection, ConnectionOptions, Password, ServerError};
use crate::types::ServerFlavor;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::Duration;

/// What the peer does next.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Receives exactly this.
    Expect(Vec<u8>),
    /// Receives one message without a kind: a startup packet or a request for TLS.
    Startup,
    /// Receives one message.
    Message,
    Send(Vec<u8>),
    Pause(Duration),
    /// Says nothing until the client leaves.
    Stall,
}

/// A listening peer; each connection follows the next script.
pub(super) struct Peer {
    pub(super) port: u16,
    thread: JoinHandle<Result<(), String>>,
}

impl Peer {
    /// Listens on a port of this machine.
    pub(super) fn tcp(scripts: Vec<Vec<Step>>) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = std::thread::spawn(move || {
            let mut threads = Vec::new();
            for script in scripts {
                let (stream, _) = listener.accept().map_err(|error| error.to_string())?;
                stream
                    .set_read_timeout(Some(Duration::from_secs(10)))
                    .unwrap();
                threads.push(std::thread::spawn(move || follow(stream, &script)));
            }
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap())
        });
        Peer { port, thread }
    }

    /// Listens on a socket file in `directory`.
    pub(super) fn unix(directory: &Path, port: u16, script: Vec<Step>) -> Peer {
        let path = directory.join(format!(".s.PGSQL.{port}"));
        let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        let thread = std::thread::spawn(move || {
            let (stream, _) = listener.accept().map_err(|error| error.to_string())?;
            stream
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            follow(stream, &script)
        });
        Peer { port, thread }
    }

    /// Fails when a script was not followed to its end.
    pub(super) fn finish(self) {
        self.thread.join().unwrap().unwrap();
    }
}

pub(super) fn follow(mut stream: impl Read + Write, script: &[Step]) -> Result<(), String> {
    let receive = |stream: &mut dyn Read, bytes: usize| {
        let mut buffer = vec![0; bytes];
        let received = stream.read_exact(&mut buffer);
        received.map(|()| buffer).map_err(|error| error.to_string())
    };
    for (at, step) in script.iter().enumerate() {
        match step {
            Step::Expect(expected) => {
                let found = receive(&mut stream, expected.len())
                    .map_err(|error| format!("step {at} {}: {error}", expected.escape_ascii()))?;
                if found != *expected {
                    let found = found.escape_ascii();
                    return Err(format!(
                        "step {at}: {found} is not {}",
                        expected.escape_ascii()
                    ));
                }
            }
            Step::Startup | Step::Message => {
                if matches!(step, Step::Message) {
                    receive(&mut stream, 1)?;
                }
                let length = receive(&mut stream, 4)?;
                let length = u32::from_be_bytes(length.try_into().unwrap());
                receive(&mut stream, usize::try_from(length).unwrap() - 4)?;
            }
            Step::Send(bytes) => {
                stream.write_all(bytes).map_err(|error| error.to_string())?;
                stream.flush().map_err(|error| error.to_string())?;
            }
            Step::Pause(time) => std::thread::sleep(*time),
            Step::Stall => {
                let mut rest = Vec::new();
                // However it ends.
                let _ = stream.read_to_end(&mut rest);
            }
        }
    }
    Ok(())
}

/// A message of the server.
pub(super) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind], &length.to_be_bytes()[..], body].concat()
}

/// Authentication is done, and the server is ready.
pub(super) fn welcome() -> Vec<u8> {
    [
        message(b'R', &[0; 4]),
        message(b'K', &[0, 0, 0, 7, 0, 0, 0, 9]),
        message(b'Z', b"I"),
    ]
    .concat()
}

/// An error of the server.
pub(super) fn error_message(severity: &str, code: &str, text: &str) -> Vec<u8> {
    message(
        b'E',
        format!("S{severity}\0C{code}\0M{text}\0\0").as_bytes(),
    )
}

/// A target on this machine that is reached with these connection settings.
pub(super) fn target(settings: &str, flavor: ServerFlavor) -> ConnectTarget {
    let options = ConnectionOptions {
        database: Some(format!("dbname=fix {settings}")),
        ..ConnectionOptions::default()
    };
    let home = |name: &str| (name == "HOME").then(|| "/nonexistent".to_owned());
    ConnectTarget::resolve(&options, &home, flavor).unwrap()
}

/// A target of PostgreSQL on `peer` without TLS.
pub(super) fn plain(peer: &Peer) -> ConnectTarget {
    let settings = format!("host=127.0.0.1 port={} user=u sslmode=disable", peer.port);
    target(&settings, ServerFlavor::PostgreSql { major: 15 })
}

/// Opens without a person to ask.
pub(super) fn open(target: &ConnectTarget) -> Result<Connection, ServerError> {
    let context = ConnectContext {
        cancel: Arc::new(AtomicBool::new(false)),
        ask_password: None,
    };
    Connection::open(target, &context)
}

/// Opens with a person who answers `answer`.
pub(super) fn open_asking(target: &ConnectTarget, answer: &str) -> Result<Connection, ServerError> {
    let ask = |prompt: &str| {
        assert_eq!(prompt, format!("Password for user {}: ", target.user()));
        Ok(Password::new(answer.to_owned()))
    };
    let context = ConnectContext {
        cancel: Arc::new(AtomicBool::new(false)),
        ask_password: Some(&ask),
    };
    Connection::open(target, &context)
}

/// What the real server and its client said on one connection of a recorded session, without what
/// openGauss's own client asks first; `None` after saying aloud that there are no recordings.
pub(super) fn recorded(session: &str, connection: u64) -> Option<Vec<Step>> {
    let root = std::env::var_os("GS_FIXTURES").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures"),
        PathBuf::from,
    );
    let Ok(text) = std::fs::read_to_string(root.join(format!("gauss/wire/{session}.jsonl"))) else {
        skip(session);
        return None;
    };
    let mut steps = Vec::new();
    let mut of_the_client = false;
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        if line["conn"] != connection {
            continue;
        }
        let Some(hex) = line["hex"].as_str() else {
            continue;
        };
        if line.get("cut").is_some() {
            break;
        }
        let bytes: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect();
        if line["dir"] == "c2s" {
            let asks = |text: &str| {
                bytes
                    .windows(text.len())
                    .any(|part| part == text.as_bytes())
            };
            of_the_client =
                asks("sql_compatibility") || asks("connection_info") || asks("VERSION()");
            if !of_the_client {
                steps.push(Step::Expect(bytes));
            }
        } else if !of_the_client {
            steps.push(Step::Send(bytes));
        }
    }
    assert!(
        !steps.is_empty(),
        "{session} has no connection {connection}"
    );
    Some(steps)
}

#[allow(clippy::print_stderr, reason = "a skipped test says so")]
pub(super) fn skip(what: &str) {
    assert!(std::env::var_os("CI").is_none(), "{what} is missing");
    eprintln!("SKIPPED: {what} is missing");
}
