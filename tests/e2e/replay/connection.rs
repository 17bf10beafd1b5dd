//! One connection of the replaying server.

use super::Shared;
use super::message::{
    Message, Startup, command_complete, data_row, report, row_description, u32_at,
};
use super::recording::{Conversation, Statement};
use super::tracking;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How soon a connection notices that something else has happened.
pub(super) const STEP: Duration = Duration::from_millis(10);

/// As recorded in `pg_receivexlog`.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(3);

const VERSION: u32 = 3 << 16 | 51;
const OLD_VERSION: u32 = 3 << 16;

/// Object ids of types.
const TEXT: u32 = 25;
const INT8: u32 = 20;
const TIMESTAMPTZ: u32 = 1184;

const START: &str = "SELECT pg_catalog.pg_start_backup($1, $2)";
const STOP: &str = "SELECT pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot()), \
                    current_timestamp(0)::timestamptz, pg_catalog.pg_stop_backup() as lsn";
/// A statement of ours that the original does not send.
const UNLIMITED: &str = "SET statement_timeout = 0;";
const NOTICE: &str = "WAL archiving is not enabled; you must ensure that all required WAL segments \
                      are copied through other means to complete the backup";

/// A statement as replies are looked up: without parameters that differ from run to run.
pub(super) fn key(mut statement: Statement) -> Statement {
    let changing = ["pg_start_backup", "pg_create_restore_point"];
    if changing.iter().any(|name| statement.text.contains(name))
        && let Some(first) = statement.parameters.first_mut()
    {
        first.clear();
    }
    statement
}

/// Answers until the client or the server ends.
pub(super) fn serve<S: Read + Write>(shared: &Shared, stream: S, is_replication: bool) {
    let conversation = match is_replication {
        true => &shared.recording.replication,
        false => &shared.recording.main,
    };
    let mut connection = Connection {
        shared,
        stream,
        conversation,
        is_replication,
        received: Vec::new(),
        backup: None,
        is_quiet: false,
    };
    // An error is the client's end, which tests see in the report.
    let _ = connection.run();
    if connection.backup.is_some() {
        shared.note(|report| report.backups_in_progress -= 1);
    }
}

/// How a backup was started on the connection.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Backup {
    Exclusive,
    NonExclusive { label: String },
}

struct Connection<'a, S> {
    shared: &'a Shared,
    stream: S,
    conversation: &'a Conversation,
    is_replication: bool,
    received: Vec<u8>,
    backup: Option<Backup>,
    /// Notices are not wanted.
    is_quiet: bool,
}

impl<S: Read + Write> Connection<'_, S> {
    fn run(&mut self) -> io::Result<()> {
        let Some(startup) = self.start()? else {
            return Ok(());
        };
        if !self.authenticate(&startup)? {
            return Ok(());
        }
        self.send(&self.conversation.greeting)?;
        loop {
            let message = self.receive()?;
            match message.tag {
                b'Q' if self.is_replication => self.run_command(&message.statement())?,
                b'Q' => {
                    let statement = Statement {
                        text: message.statement(),
                        parameters: Vec::new(),
                    };
                    let reply = self.reply(statement);
                    self.send(&reply)?;
                    self.send(&[ready()])?;
                }
                b'P' => self.run_extended(&message)?,
                b'X' => {
                    self.shared.note(|report| report.terminations += 1);
                    return Ok(());
                }
                b'S' => self.send(&[ready()])?,
                tag => return Err(self.not_expected(tag)),
            }
        }
    }

    /// The startup message, past requests for encryption; `None` after a cancel.
    fn start(&mut self) -> io::Result<Option<Startup>> {
        loop {
            if let Some(startup) = Startup::take(&mut self.received) {
                if startup.is_tls_request() {
                    self.shared.note(|report| report.tls_requests += 1);
                    self.stream.write_all(b"N")?;
                    continue;
                }
                if startup.is_cancel() {
                    self.shared.note(|report| report.cancels += 1);
                    return Ok(None);
                }
                let copy = startup.clone();
                self.shared.note(|report| report.startups.push(copy));
                return Ok(Some(startup));
            }
            self.fill()?;
        }
    }

    /// Whether the client is let in.
    fn authenticate(&mut self, startup: &Startup) -> io::Result<bool> {
        let recorded = &self.conversation.startup;
        let is_known = startup.parameter("user") == recorded.parameter("user");
        let challenge = match (is_known, startup.version) {
            (true, VERSION) => self.conversation.challenge.clone(),
            (true, OLD_VERSION) if self.conversation.challenge.is_some() => {
                Some(self.shared.old_challenge.clone())
            }
            (false, VERSION | OLD_VERSION) => Some(self.shared.unknown_user.clone()),
            (_, version) => {
                let text = format!("unsupported frontend protocol {version:#x}");
                self.send(&[report(b'E', "FATAL", "0A000", &text)])?;
                return Ok(false);
            }
        };
        if let Some(challenge) = challenge {
            self.send(std::slice::from_ref(&challenge))?;
            let proof = self.receive()?;
            let recorded = self.conversation.proof.as_ref();
            let is_right = is_known
                && startup.version == VERSION
                && self.conversation.refusal.is_none()
                && recorded == Some(&proof.body);
            let text = String::from_utf8_lossy(&proof.body);
            let text = text.trim_end_matches('\0').to_owned();
            self.shared
                .note(|report| report.proofs.push((text, is_right)));
            if !is_right {
                self.send(std::slice::from_ref(&self.shared.refusal))?;
                return Ok(false);
            }
        }
        let database = startup.parameter("database");
        if database != recorded.parameter("database") {
            let text = format!("database \"{database}\" does not exist");
            let recorded = &self.shared.unknown_database;
            let sqlstate = recorded.field(b'C').expect("recorded");
            self.send(&self.conversation.greeting[..1])?;
            self.send(&[report(b'E', "FATAL", &sqlstate, &text)])?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Parse and what follows it, up to Sync.
    fn run_extended(&mut self, parse: &Message) -> io::Result<()> {
        let mut statement = Statement {
            text: parse.statement(),
            parameters: Vec::new(),
        };
        let mut answers = vec![complete(b'1')];
        let mut reply = None;
        loop {
            let message = self.receive()?;
            match message.tag {
                b'B' => {
                    statement.parameters = message.parameters();
                    answers.push(complete(b'2'));
                    reply = Some(self.reply(statement.clone()));
                }
                b'D' => {
                    let reply = reply.iter().flatten();
                    let described = reply.clone().find(|message| message.tag == b'T').cloned();
                    let is_error = reply.clone().any(|message| message.tag == b'E');
                    if !is_error {
                        answers.push(described.unwrap_or(complete(b'n')));
                    }
                }
                b'E' => {
                    let reply = reply.take().unwrap_or_default();
                    answers.extend(reply.into_iter().filter(|message| message.tag != b'T'));
                }
                b'S' => {
                    answers.push(ready());
                    return self.send(&answers);
                }
                b'H' => {}
                tag => return Err(self.not_expected(tag)),
            }
        }
    }

    /// The reply to a statement: recorded, composed, or that there is none.
    fn reply(&mut self, statement: Statement) -> Vec<Message> {
        let copy = statement.clone();
        self.shared.note(|report| report.statements.push(copy));
        if statement.text.contains("client_min_messages") {
            self.is_quiet = true;
        }
        if statement.text.contains("pg_start_backup") {
            return self.start_backup(statement);
        }
        if statement.text.contains("pg_stop_backup") {
            return self.stop_backup(statement);
        }
        if statement.text == UNLIMITED {
            return vec![command_complete("SET")];
        }
        if statement.text.contains("pg_get_replication_slots()") {
            return self.slots();
        }
        if statement.text.starts_with(tracking::LOCATION) {
            return self.tracked_location(statement);
        }
        if statement.text.contains(tracking::CHANGED) {
            return self.changed_blocks(&statement);
        }
        self.recorded(statement)
    }

    /// How far changes are tracked, as we ask it.
    fn tracked_location(&mut self, mut statement: Statement) -> Vec<Message> {
        let next = self.shared.tracking.lock().unwrap().next_position();
        if let Some(position) = next {
            return tracking::location(position.as_deref());
        }
        statement.text = tracking::RECORDED_LOCATION.to_owned();
        self.recorded(statement)
    }

    /// Which blocks changed, as we ask it.
    fn changed_blocks(&mut self, statement: &Statement) -> Vec<Message> {
        if let Some(words) = &self.shared.tracking.lock().unwrap().refusal {
            return vec![report(b'E', "ERROR", "XX000", words)];
        }
        tracking::changed_blocks(statement, &self.conversation.replies).unwrap_or_else(|| {
            let text = format!("{} {:?}", statement.text, statement.parameters);
            self.shared.note(|report| report.unknown.push(text.clone()));
            vec![report(b'E', "ERROR", "0A000", &text)]
        })
    }

    fn slots(&self) -> Vec<Message> {
        let columns = [("slot_name", TEXT), ("restart_lsn", TEXT)];
        let mut reply = vec![row_description(&columns)];
        let slots = self.shared.slots.lock().unwrap();
        reply.extend(slots.iter().map(|(name, lsn)| data_row(&[name, lsn])));
        reply.push(command_complete(&format!("SELECT {}", slots.len())));
        reply
    }

    fn recorded(&mut self, statement: Statement) -> Vec<Message> {
        let text = statement.text.clone();
        let reply = self.shared.replies.get(&key(statement)).cloned();
        reply.unwrap_or_else(|| {
            let error = format!("this statement was not recorded: {text}");
            self.shared.note(|report| report.unknown.push(text));
            vec![report(b'E', "ERROR", "0A000", &error)]
        })
    }

    fn start_backup(&mut self, mut statement: Statement) -> Vec<Message> {
        if self.backup.is_some() {
            let text = "a non-exclusive backup is already in progress in this session";
            return vec![report(b'E', "ERROR", "55000", text)];
        }
        let started = match statement.text.strip_suffix("($1, $2, false)") {
            Some(function) => {
                statement.text = format!("{function}($1, $2)");
                Backup::NonExclusive {
                    label: statement.parameters.first().cloned().unwrap_or_default(),
                }
            }
            None => Backup::Exclusive,
        };
        let reply = self.recorded(statement);
        if reply.iter().all(|message| message.tag != b'E') {
            self.backup = Some(started);
            self.shared.note(|report| report.backups_in_progress += 1);
        }
        reply
    }

    fn stop_backup(&mut self, statement: Statement) -> Vec<Message> {
        let Some(backup) = self.backup.clone() else {
            return vec![report(
                b'E',
                "ERROR",
                "55000",
                "a backup is not in progress",
            )];
        };
        let is_non_exclusive = statement.text.trim_end().ends_with("pg_stop_backup(false)");
        let mut reply = match (&backup, is_non_exclusive) {
            (Backup::Exclusive, false) => self.recorded(statement),
            (Backup::NonExclusive { label }, true) => self.stopped_non_exclusive(&statement, label),
            _ => {
                let text = "a non-exclusive backup is already in progress in this session";
                return vec![report(b'E', "ERROR", "55000", text)];
            }
        };
        if reply.iter().any(|message| message.tag == b'E') {
            return reply;
        }
        if !self.is_quiet {
            reply.insert(0, report(b'N', "NOTICE", "00000", NOTICE));
        }
        self.backup = None;
        self.shared.note(|report| report.backups_in_progress -= 1);
        *self.shared.is_stopped.lock().unwrap() = true;
        self.shared.stopped.notify_all();
        reply
    }

    /// The row of `pg_stop_backup(false)`, with xmax and time before it if they are asked for.
    fn stopped_non_exclusive(&self, statement: &Statement, label: &str) -> Vec<Message> {
        let value = |text: &str| -> Vec<String> {
            let mut replies = self.shared.replies.iter();
            let (_, reply) = replies.find(|(key, _)| key.text == text).expect("recorded");
            let row = reply.iter().find(|message| message.tag == b'D');
            row.expect("recorded").columns()
        };
        let (start, stop) = (value(START), value(STOP));
        let (xmax, time, lsn) = (&stop[0], &stop[1], &stop[2]);
        let segment = u32::from_str_radix(&start[0][2..], 16).expect("an LSN") >> 24;
        let checkpoint = start[0].replace("000028", "0000A8");
        let label = format!(
            "START WAL LOCATION: {} (file {:08X}{:08X}{segment:08X})\nCHECKPOINT LOCATION: \
             {checkpoint}\nBACKUP METHOD: streamed\nBACKUP FROM: master\nSTART TIME: {}\nLABEL: \
             {label}\n",
            start[0],
            1,
            0,
            time.replace("+00", " UTC"),
        );
        let mut columns = vec![("lsn", TEXT), ("labelfile", TEXT), ("spcmapfile", TEXT)];
        let mut row: Vec<&str> = vec![lsn, &label, &self.shared.tablespace_map];
        if statement.text.contains("txid_snapshot_xmax") {
            columns.splice(
                0..0,
                [("txid_snapshot_xmax", INT8), ("timestamptz", TIMESTAMPTZ)],
            );
            row.splice(0..0, [xmax.as_str(), time.as_str()]);
        }
        vec![
            row_description(&columns),
            data_row(&row),
            command_complete("SELECT 1"),
        ]
    }

    /// A command on the replication connection.
    fn run_command(&mut self, command: &str) -> io::Result<()> {
        let copy = command.to_owned();
        self.shared
            .note(|report| report.replication_commands.push(copy));
        let mut replies = self.conversation.replies.iter();
        let Some((_, reply)) = replies.find(|(statement, _)| statement.text == command) else {
            let copy = command.to_owned();
            self.shared.note(|report| report.unknown.push(copy));
            let text = format!("this command was not recorded: {command}");
            self.send(&[report(b'E', "ERROR", "0A000", &text)])?;
            return self.send(&[ready()]);
        };
        self.send(reply)?;
        if reply.iter().any(|message| message.tag == b'W') {
            return self.stream();
        }
        self.send(&[ready()])
    }

    /// Streams: what came before the stop at once, the rest after it.
    fn stream(&mut self) -> io::Result<()> {
        let stopped_at = self.shared.recording.stopped_at;
        let stream = &self.conversation.stream;
        let first_after = stream.partition_point(|(order, _)| *order < stopped_at);
        let (before, mut after) = stream.split_at(first_after);
        for (_, message) in before {
            self.send(std::slice::from_ref(message))?;
        }
        let keepalive = before
            .iter()
            .rev()
            .find(|(_, message)| message.body[0] == b'k');
        let mut sent = Instant::now();
        loop {
            if !after.is_empty() && *self.shared.is_stopped.lock().unwrap() {
                for (_, message) in after {
                    self.send(std::slice::from_ref(message))?;
                }
                after = &[];
            }
            if let (Some((_, keepalive)), true) = (keepalive, sent.elapsed() >= KEEPALIVE_EVERY) {
                self.send(std::slice::from_ref(keepalive))?;
                sent = Instant::now();
            }
            let Some(message) = self.try_receive()? else {
                continue;
            };
            match message.tag {
                b'd' => self.shared.note(|report| report.stream.push(message.body)),
                b'c' => {
                    let end = [complete(b'c'), command_complete("COPY 0"), ready()];
                    return self.send(&end);
                }
                b'X' => {
                    self.shared.note(|report| report.terminations += 1);
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                tag => return Err(self.not_expected(tag)),
            }
        }
    }

    /// Tells the test, and ends the connection.
    fn not_expected(&self, tag: u8) -> io::Error {
        let text = format!("message {:?}", char::from(tag));
        self.shared.note(|report| report.unknown.push(text));
        ErrorKind::InvalidData.into()
    }

    fn send(&mut self, messages: &[Message]) -> io::Result<()> {
        let bytes: Vec<u8> = messages.iter().flat_map(Message::encode).collect();
        self.stream.write_all(&bytes)
    }

    fn receive(&mut self) -> io::Result<Message> {
        loop {
            if let Some(message) = self.try_receive()? {
                return Ok(message);
            }
        }
    }

    /// A message that is there, or comes within a step.
    fn try_receive(&mut self) -> io::Result<Option<Message>> {
        if let Some(message) = self.take() {
            return Ok(Some(message));
        }
        self.fill()?;
        Ok(self.take())
    }

    fn take(&mut self) -> Option<Message> {
        u32_at(&self.received, 1)?;
        Message::take(&mut self.received)
    }

    /// Waits a step for bytes.
    fn fill(&mut self) -> io::Result<()> {
        let mut buffer = [0; 8192];
        match self.stream.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.received.extend(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
        if self.shared.is_ended.load(Ordering::Relaxed) {
            return Err(ErrorKind::Interrupted.into());
        }
        Ok(())
    }
}

fn complete(tag: u8) -> Message {
    Message {
        tag,
        body: Vec::new(),
    }
}

fn ready() -> Message {
    Message {
        tag: b'Z',
        body: b"I".to_vec(),
    }
}
