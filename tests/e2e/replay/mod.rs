//! A server that answers as openGauss did when the conversations of the fixtures were recorded.
//!
//! [`Replay::start`] takes a session of `gauss/wire` and listens on a unix socket or on TCP, on a
//! port for the main connection and on the next one for replication. It answers startup packets of
//! protocol 3.51, authentication (trust, sha256, md5, sm3) with the recorded challenge, statements
//! with the recorded replies byte for byte, and `START_REPLICATION` with the recorded messages, of
//! which those that came after the stop of the backup are sent only once a stop was asked for. A
//! proof is right if it is the recorded one. What a client said is kept for the test.
//!
//! Statements that the session does not have are looked for in the other recorded sessions;
//! failing that they get an error, and the test is told. Two parameters are taken as they come,
//! because they hold a time or an id: the label of a backup and the name of a restore point.
//!
//! Not recorded, and composed from `LIVE-FINDINGS` section 5 and from what the server sends
//! elsewhere:
//!
//! * `pg_start_backup($1, $2, false)` and `... FROM pg_catalog.pg_stop_backup(false)`: the LSNs are
//!   those of the session, label and map as seen; the notice about WAL archiving; the errors of a
//!   second start and of a stop without a start;
//! * `SET statement_timeout = 0;`, which the original does not send;
//! * `pg_cbm_get_changed_block` with all of its columns: the original asks for path, number and
//!   list only. These are the recorded ones, for the recorded range; to them come "not dropped, not
//!   created, not truncated", which the server says of relations that only changed;
//! * other answers about tracking, and the refusal of a range: those of [`Replay::set_tracking`];
//! * the logical slots that `--backup-pg-replslot` asks for: those of [`Replay::set_slots`];
//! * keepalives while a stream waits, every three seconds as in `pg_receivexlog`;
//! * the end of a stream after the client's `CopyDone`;
//! * replies to Describe of a statement, and to unknown statements;
//! * the name in the error about an unknown database;
//! * a right proof in protocol 3.0: nobody gave one.
//!
//! Not there at all: TLS (the server answered N), a standby, slots that exist, WAL that is gone.

mod connection;
mod message;
mod own_tests;
mod recording;
mod tracking;

pub(crate) use message::Startup;
pub(crate) use recording::Statement;
pub(crate) use tracking::{Tracking, recorded_changes};

use crate::postgres::free_port;
use message::Message;
use recording::Recording;
use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Sessions that answer statements which the chosen one does not have.
const OTHERS: [&str; 4] = [
    "trust_full_unix",
    "trust_ptrack_unix",
    "sha_gsql",
    "err_sql",
];

/// Where to listen.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    Tcp,
    /// A directory for the sockets.
    Unix(PathBuf),
}

/// What clients said and did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) startups: Vec<Startup>,
    /// Proofs, and whether they were right.
    pub(crate) proofs: Vec<(String, bool)>,
    pub(crate) statements: Vec<Statement>,
    pub(crate) replication_commands: Vec<String>,
    /// Statements that nothing answers; a test that expects none asserts that.
    pub(crate) unknown: Vec<String>,
    /// What came over the stream, without framing.
    pub(crate) stream: Vec<Vec<u8>>,
    pub(crate) tls_requests: u32,
    pub(crate) cancels: u32,
    /// Connections that ended with a Terminate message.
    pub(crate) terminations: u32,
    /// Sessions in backup mode.
    pub(crate) backups_in_progress: i32,
}

/// What connections share.
#[derive(Debug)]
struct Shared {
    recording: Recording,
    replies: BTreeMap<Statement, Vec<Message>>,
    /// How the server refuses a wrong proof, an unknown user, an unknown database.
    refusal: Message,
    unknown_user: Message,
    unknown_database: Message,
    /// The challenge for protocol 3.0.
    old_challenge: Message,
    tablespace_map: String,
    /// Names and restart positions of logical slots.
    slots: Mutex<Vec<(String, String)>>,
    tracking: Mutex<Tracking>,
    report: Mutex<Report>,
    /// Whether a stop of the backup was asked for.
    is_stopped: Mutex<bool>,
    stopped: Condvar,
    is_ended: AtomicBool,
}

impl Shared {
    fn note(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.report.lock().unwrap());
    }
}

/// A replaying server; it ends when dropped, with its connections.
#[derive(Debug)]
pub(crate) struct Replay {
    address: Address,
    port: u16,
    shared: Arc<Shared>,
    acceptors: Vec<JoinHandle<()>>,
}

impl Replay {
    /// Starts replaying a session; `tablespace` is the place that the composed map names.
    pub(crate) fn start(
        gauss: &Path,
        session: &str,
        address: Address,
        tablespace: &Path,
    ) -> Replay {
        let recording = Recording::read(gauss, session);
        let mut replies = BTreeMap::new();
        let others: Vec<Recording> = OTHERS
            .iter()
            .map(|other| Recording::read(gauss, other))
            .collect();
        for source in std::iter::once(&recording).chain(&others) {
            for (statement, reply) in &source.main.replies {
                let key = connection::key(statement.clone());
                replies.entry(key).or_insert_with(|| reply.clone());
            }
        }
        let first = |session: &str| Recording::read(gauss, session).main;
        let shared = Arc::new(Shared {
            recording,
            replies,
            refusal: first("sha_backup_badpw").refusal.expect("recorded"),
            unknown_user: first("err_nouser").challenge.expect("recorded"),
            unknown_database: first("err_nodb").refusal.expect("recorded"),
            old_challenge: old_challenge(gauss),
            tablespace_map: format!("16385 {}\n", tablespace.display()),
            slots: Mutex::default(),
            tracking: Mutex::default(),
            report: Mutex::default(),
            is_stopped: Mutex::new(false),
            stopped: Condvar::new(),
            is_ended: AtomicBool::new(false),
        });
        let port = free_port(1);
        let acceptors = [false, true].map(|is_replication| {
            listen(
                &shared,
                &address,
                port + u16::from(is_replication),
                is_replication,
            )
        });
        Replay {
            address,
            port,
            shared,
            acceptors: acceptors.into(),
        }
    }

    /// The port of the main connection; replication listens on the next one.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What a client gives as host.
    pub(crate) fn host(&self) -> String {
        match &self.address {
            Address::Tcp => "127.0.0.1".to_owned(),
            Address::Unix(directory) => directory.display().to_string(),
        }
    }

    /// The logical slots of subscriptions from now on: names and restart positions.
    pub(crate) fn set_slots(&self, slots: &[(&str, &str)]) {
        let slots = slots.iter();
        let slots = slots.map(|(name, lsn)| ((*name).to_owned(), (*lsn).to_owned()));
        *self.shared.slots.lock().unwrap() = slots.collect();
    }

    /// What the server says of changed blocks from now on.
    pub(crate) fn set_tracking(&self, tracking: Tracking) {
        *self.shared.tracking.lock().unwrap() = tracking;
    }

    /// What clients said so far.
    pub(crate) fn report(&self) -> Report {
        self.shared.report.lock().unwrap().clone()
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.shared.is_ended.store(true, Ordering::Relaxed);
        for acceptor in self.acceptors.drain(..) {
            let _ = acceptor.join();
        }
        if let Address::Unix(directory) = &self.address {
            for port in [self.port, self.port + 1] {
                let _ = std::fs::remove_file(directory.join(format!(".s.PGSQL.{port}")));
            }
        }
    }
}

/// The second connection of a session that failed: clients try again with protocol 3.0.
fn old_challenge(gauss: &Path) -> Message {
    let (chunks, _) = recording::chunks(gauss, "sha_backup_badpw");
    let second = chunks.iter().filter(|chunk| chunk.connection == 2);
    let mut bytes: Vec<u8> = second
        .filter(|chunk| chunk.sender == recording::Sender::Server)
        .flat_map(|chunk| chunk.bytes.clone())
        .skip_while(|byte| *byte == b'N')
        .collect();
    Message::take(&mut bytes).expect("recorded")
}

fn listen(
    shared: &Arc<Shared>,
    address: &Address,
    port: u16,
    is_replication: bool,
) -> JoinHandle<()> {
    match address {
        Address::Tcp => {
            let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
            listener.set_nonblocking(true).unwrap();
            accept_from(shared, is_replication, move || {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(connection::STEP))?;
                Ok(stream)
            })
        }
        Address::Unix(directory) => {
            let listener = UnixListener::bind(directory.join(format!(".s.PGSQL.{port}"))).unwrap();
            listener.set_nonblocking(true).unwrap();
            accept_from(shared, is_replication, move || {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(connection::STEP))?;
                Ok(stream)
            })
        }
    }
}

fn accept_from<S: io::Read + io::Write + Send + 'static>(
    shared: &Arc<Shared>,
    is_replication: bool,
    accept: impl Fn() -> io::Result<S> + Send + 'static,
) -> JoinHandle<()> {
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        let mut connections = Vec::new();
        while !shared.is_ended.load(Ordering::Relaxed) {
            let Ok(stream) = accept() else {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            let shared = Arc::clone(&shared);
            connections.push(std::thread::spawn(move || {
                connection::serve(&shared, stream, is_replication);
            }));
        }
        for connection in connections {
            let _ = connection.join();
        }
    })
}
