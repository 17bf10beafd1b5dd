//! Tests of `identify.rs`.

use super::*;
use crate::server::Rows;
use crate::server::wal_stream::Sql;
use crate::types::Lsn;

const GAUSS: ServerFlavor = ServerFlavor::OpenGauss;
const POSTGRESQL: ServerFlavor = ServerFlavor::PostgreSql { major: 15 };

/// Answers every statement alike and keeps what it was asked.
#[derive(Default)]
struct Server {
    answer: Option<Vec<Vec<Option<String>>>>,
    asked: Vec<String>,
}

impl Sql for Server {
    fn query(&mut self, statement: &str) -> Result<Rows, ServerError> {
        self.asked.push(statement.to_owned());
        match &self.answer {
            Some(rows) => Ok(Rows {
                columns: vec![String::new(); 4],
                rows: rows.clone(),
            }),
            None => Err(ServerError::Statement {
                statement: statement.to_owned(),
                severity: "FATAL".to_owned(),
                code: "42501".to_owned(),
                message: "no".to_owned(),
                hint: None,
            }),
        }
    }

    fn query_with(&mut self, _: &str, _: &[&str]) -> Result<Rows, ServerError> {
        panic!("replication connections take no parameters");
    }
}

fn request(flavor: ServerFlavor, slot: Option<Slot>) -> WalStreamRequest {
    let mut request = WalStreamRequest::new(
        flavor,
        215_046_882_207_013_887,
        TimelineId(26),
        Lsn(0x1_2400_0028),
        1 << 24,
    );
    request.slot = slot;
    request
}

fn answer(values: &[Option<&str>]) -> Server {
    let row = values.iter().map(|value| value.map(str::to_owned));
    Server {
        answer: Some(vec![row.collect()]),
        ..Server::default()
    }
}

#[test]
fn the_right_server_on_the_right_timeline_is_accepted() {
    let end = Some("1/24000148");
    let mut server = answer(&[Some("215046882207013887"), Some("26"), end, None]);
    identify(&mut server, &request(GAUSS, None)).unwrap();
    assert_eq!(server.asked, ["IDENTIFY_SYSTEM"]);
}

#[test]
fn another_server_is_refused_in_the_words_of_the_original() {
    let id = Some("215046882207013887");
    for (flavor, values, text) in [
        (
            GAUSS,
            vec![Some("1"), Some("26")],
            "System identifier mismatch. Connected openGauss instance has system id: 1. \
             Expected: 215046882207013887.",
        ),
        (
            POSTGRESQL,
            vec![id, Some("27")],
            "Timeline identifier mismatch. Connected PostgreSQL instance has timeline id: 1B. \
             Expected: 1A.",
        ),
        (
            GAUSS,
            vec![Some("+1"), Some("26")],
            "\"+1\" is not system_identifier",
        ),
        (
            GAUSS,
            vec![id, Some("4294967296")],
            "cannot identify the server: \"4294967296\" is not a timeline",
        ),
        (
            GAUSS,
            vec![id, None],
            "cannot identify the server: IDENTIFY_SYSTEM returned 1 rows of 4 columns",
        ),
        (
            GAUSS,
            vec![id],
            "cannot identify the server: IDENTIFY_SYSTEM returned 1 rows of 4 columns",
        ),
    ] {
        let error = identify(&mut answer(&values), &request(flavor, None)).unwrap_err();
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn a_refused_command_is_named() {
    let error = identify(&mut Server::default(), &request(GAUSS, None)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Cannot continue backup because stream connect has failed."
    );
    let cause = std::error::Error::source(&error).unwrap();
    assert_eq!(
        cause.to_string(),
        "Could not send replication command \"IDENTIFY_SYSTEM\""
    );
}

#[test]
fn the_stream_starts_at_its_segment_in_the_words_of_each_server() {
    let named = |name: &str| Some(Slot::Existing(name.to_owned()));
    let temporary = Some(Slot::Temporary("t".to_owned()));
    for (flavor, slot, command) in [
        (GAUSS, None, "START_REPLICATION 1/24000000"),
        (
            GAUSS,
            named("s1"),
            "START_REPLICATION SLOT \"s1\" 1/24000000",
        ),
        (GAUSS, temporary.clone(), "START_REPLICATION 1/24000000"),
        (
            POSTGRESQL,
            None,
            "START_REPLICATION PHYSICAL 1/24000000 TIMELINE 26",
        ),
        (
            POSTGRESQL,
            named("a\" 0/0; DROP"),
            "START_REPLICATION SLOT \"a\"\" 0/0; DROP\" PHYSICAL 1/24000000 TIMELINE 26",
        ),
        (
            POSTGRESQL,
            temporary,
            "START_REPLICATION SLOT \"t\" PHYSICAL 1/24000000 TIMELINE 26",
        ),
    ] {
        assert_eq!(start_command(&request(flavor, slot)).unwrap(), command);
    }
    for name in ["", "a\nb", "a\0", &"a".repeat(64)] {
        let error = start_command(&request(POSTGRESQL, named(name))).unwrap_err();
        assert!(matches!(error, WalStreamError::SlotName { .. }), "{error}");
    }
}

#[test]
fn a_temporary_slot_is_made_where_there_is_such_a_thing() {
    let temporary = Some(Slot::Temporary("pg_probackup_slot".to_owned()));
    let existing = Some(Slot::Existing("s".to_owned()));
    let create = "CREATE_REPLICATION_SLOT \"pg_probackup_slot\" TEMPORARY PHYSICAL RESERVE_WAL";
    for (flavor, slot, outcome, asked) in [
        (POSTGRESQL, None, SlotCreation::NotWanted, vec![]),
        (POSTGRESQL, existing, SlotCreation::NotWanted, vec![]),
        (GAUSS, temporary.clone(), SlotCreation::Unsupported, vec![]),
        (
            POSTGRESQL,
            temporary.clone(),
            SlotCreation::Created,
            vec![create],
        ),
    ] {
        let mut server = answer(&[]);
        let created = create_temporary_slot(&mut server, &request(flavor, slot)).unwrap();
        assert_eq!(
            (created, server.asked),
            (outcome, asked.iter().map(ToString::to_string).collect())
        );
    }
    let request = request(POSTGRESQL, temporary);
    let error = create_temporary_slot(&mut Server::default(), &request).unwrap_err();
    assert!(matches!(error, WalStreamError::Command { .. }), "{error}");
}
