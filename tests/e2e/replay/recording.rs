//! Recorded conversations, taken apart into messages, and put together as a script.

use super::message::{Message, Startup};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

/// Who sent it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Sender {
    Client,
    Server,
}

/// Bytes as they went over the wire, in the order of the recording.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) connection: u64,
    pub(super) sender: Sender,
    pub(super) bytes: Vec<u8>,
}

/// A statement and its parameters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Statement {
    pub(crate) text: String,
    pub(crate) parameters: Vec<String>,
}

/// One connection of a recording.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    pub(super) startup: Startup,
    /// The request for a proof and the proof that was given.
    pub(super) challenge: Option<Message>,
    pub(super) proof: Option<Vec<u8>>,
    /// From "authentication ok" to the first "ready".
    pub(super) greeting: Vec<Message>,
    /// What ended it before that.
    pub(super) refusal: Option<Message>,
    /// Without what only says how the question was asked: parse and bind complete, ready.
    pub(super) replies: Vec<(Statement, Vec<Message>)>,
    /// Streamed messages, and where in the recording.
    pub(super) stream: Vec<(usize, Message)>,
}

/// A recorded session: one main connection, and for a backup a replication connection.
#[derive(Debug, Default)]
pub(super) struct Recording {
    pub(super) main: Conversation,
    pub(super) replication: Conversation,
    /// Where in the recording the backup was stopped.
    pub(super) stopped_at: usize,
}

/// Reads a session, uncut where there is such a version.
pub(super) fn chunks(gauss: &Path, session: &str) -> (Vec<Chunk>, BTreeMap<u64, bool>) {
    let wire = gauss.join("wire");
    let whole = wire.join("full").join(format!("{session}.jsonl.zst"));
    let mut text = String::new();
    if let Ok(file) = fs::File::open(&whole) {
        let mut decoder = zstd::Decoder::new(file).unwrap();
        decoder.window_log_max(27).unwrap();
        decoder.read_to_string(&mut text).unwrap();
    } else {
        let path = wire.join(format!("{session}.jsonl"));
        text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
    let mut chunks = Vec::new();
    let mut is_replication = BTreeMap::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let connection = line["conn"].as_u64().unwrap();
        if let Some(place) = line["open"].as_str() {
            is_replication.insert(connection, place.ends_with("15601"));
        }
        let Some(hex) = line["hex"].as_str() else {
            continue;
        };
        assert!(
            line["cut"].is_null(),
            "{session}: an uncut recording is needed"
        );
        chunks.push(Chunk {
            connection,
            sender: match line["dir"].as_str() {
                Some("c2s") => Sender::Client,
                _ => Sender::Server,
            },
            bytes: unhex(hex),
        });
    }
    (chunks, is_replication)
}

fn unhex(hex: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        _ => panic!("not a hexadecimal digit: {byte}"),
    };
    hex.as_bytes()
        .chunks_exact(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

impl Recording {
    /// Takes a session apart. Of several main connections the first counts: the others are
    /// repetitions with an older protocol.
    pub(super) fn read(gauss: &Path, session: &str) -> Recording {
        let (chunks, is_replication) = chunks(gauss, session);
        let mut readers: BTreeMap<u64, Reader> = BTreeMap::new();
        let mut recording = Recording::default();
        for (order, chunk) in chunks.into_iter().enumerate() {
            let reader = readers.entry(chunk.connection).or_default();
            let stops = reader.take(order, &chunk);
            if stops && !is_replication[&chunk.connection] {
                recording.stopped_at = order;
            }
        }
        // Last first, so that the first stays.
        for (connection, reader) in readers.into_iter().rev() {
            if is_replication[&connection] {
                recording.replication = reader.conversation;
            } else {
                recording.main = reader.conversation;
            }
        }
        recording
    }
}

/// Puts the chunks of one connection together.
#[derive(Default)]
struct Reader {
    conversation: Conversation,
    client: Vec<u8>,
    server: Vec<u8>,
    has_started: bool,
    is_greeted: bool,
    statement: Option<Statement>,
    reply: Vec<Message>,
}

impl Reader {
    /// Whether the backup was stopped by it.
    fn take(&mut self, order: usize, chunk: &Chunk) -> bool {
        match chunk.sender {
            Sender::Client => {
                self.client.extend(&chunk.bytes);
                self.take_client()
            }
            Sender::Server => {
                self.server.extend(&chunk.bytes);
                // The answer to a request for TLS.
                if !self.has_started && self.server == b"N" {
                    self.server.clear();
                }
                while let Some(message) = Message::take(&mut self.server) {
                    self.take_server(order, message);
                }
                false
            }
        }
    }

    fn take_client(&mut self) -> bool {
        while !self.has_started {
            let Some(startup) = Startup::take(&mut self.client) else {
                return false;
            };
            self.has_started = !startup.is_tls_request();
            self.conversation.startup = startup;
        }
        let mut stops = false;
        while let Some(message) = Message::take(&mut self.client) {
            match message.tag {
                b'p' => self.conversation.proof = Some(message.body),
                b'Q' | b'P' => {
                    let statement = Statement {
                        text: message.statement(),
                        parameters: Vec::new(),
                    };
                    stops |= statement.text.contains("pg_stop_backup");
                    self.statement = Some(statement);
                }
                b'B' => {
                    let statement = self.statement.as_mut().expect("parsed before bound");
                    statement.parameters = message.parameters();
                }
                _ => {}
            }
        }
        stops
    }

    fn take_server(&mut self, order: usize, message: Message) {
        let conversation = &mut self.conversation;
        if !self.is_greeted {
            match message.tag {
                b'R' if message.authentication() != Some(0) => {
                    conversation.challenge = Some(message);
                }
                b'E' => conversation.refusal = Some(message),
                tag => {
                    conversation.greeting.push(message);
                    self.is_greeted = tag == b'Z';
                }
            }
            return;
        }
        match message.tag {
            b'd' => conversation.stream.push((order, message)),
            b'1' | b'2' => {}
            b'Z' | b'W' => {
                if message.tag == b'W' {
                    self.reply.push(message);
                }
                let statement = self.statement.take().expect("a reply has a question");
                let reply = std::mem::take(&mut self.reply);
                conversation.replies.push((statement, reply));
            }
            _ => self.reply.push(message),
        }
    }
}
