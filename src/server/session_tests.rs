//! The session against scripted answers; the answers of openGauss are those of the recordings and
//! of a server that was asked for a non-exclusive backup.

use super::*;

/// Answers each statement by the first line of its script that matches; remembers what was asked.
#[derive(Debug, Default)]
struct Script {
    answers: Vec<(&'static str, Result<Rows, &'static str>)>,
    asked: Vec<String>,
}

impl Script {
    fn with(mut self, statement: &'static str, row: &[&str]) -> Script {
        let row = row.iter().map(|value| Some((*value).to_owned())).collect();
        self.answers.insert(0, (statement, Ok(rows(vec![row]))));
        self
    }

    fn refusing(mut self, statement: &'static str, code: &'static str) -> Script {
        self.answers.insert(0, (statement, Err(code)));
        self
    }

    fn answer(&mut self, asked: String) -> Result<Rows, ServerError> {
        let found = self
            .answers
            .iter()
            .find(|(statement, _)| asked.contains(statement));
        let answer = match found {
            Some((_, Ok(rows))) => Ok(rows.clone()),
            Some((_, Err(code))) => Err(ServerError::Statement {
                statement: asked.clone(),
                severity: "ERROR".to_owned(),
                code: (*code).to_owned(),
                message: "no".to_owned(),
                hint: None,
            }),
            None => Ok(Rows::default()),
        };
        self.asked.push(asked);
        answer
    }
}

impl Sql for Script {
    fn query(&mut self, statement: &str) -> Result<Rows, ServerError> {
        self.answer(statement.to_owned())
    }

    fn query_with(&mut self, statement: &str, parameters: &[&str]) -> Result<Rows, ServerError> {
        self.answer(format!("{statement} {parameters:?}"))
    }
}

fn rows(rows: Vec<Vec<Option<String>>>) -> Rows {
    let columns = rows.first().map_or(0, Vec::len);
    Rows {
        columns: vec!["column".to_owned(); columns],
        rows,
    }
}

const LABEL: &str = "START WAL LOCATION: 0/35000028 (file 000000010000000000000035)\n\
                     CHECKPOINT LOCATION: 0/350000A8\n\
                     BACKUP METHOD: streamed\n\
                     BACKUP FROM: master\n\
                     START TIME: 2026-11-21 06:13:54 UTC\n\
                     LABEL: lbl3\n";

fn primary() -> Script {
    Script::default()
        .with("current_setting", &["8192"])
        .with("pg_is_in_recovery", &["f"])
        .with("pg_start_backup", &["0/35000028"])
        .with(
            "pg_stop_backup",
            &[
                "13762",
                "2026-11-21 06:05:20+00",
                "0/35000178",
                LABEL,
                "16385 /gauss/ts/ts1\n",
            ],
        )
}

fn examine(script: Script) -> Result<BackupSession<Script>, SessionError> {
    BackupSession::examine(script, ServerFlavor::OpenGauss)
}

#[test]
fn a_backup_is_started_and_stopped_without_a_file_in_the_data_directory() {
    let mut session = examine(primary()).unwrap();
    assert!(!session.is_standby() && !session.is_started());
    assert_eq!(session.start("a label", true).unwrap(), Lsn(0x3500_0028));
    assert!(session.is_started());
    let stopped = session.stop().unwrap();
    assert!(!session.is_started());
    assert_eq!(
        stopped,
        StoppedBackup {
            stop_lsn: Lsn(0x3500_0178),
            label: LABEL.to_owned(),
            tablespace_map: "16385 /gauss/ts/ts1\n".to_owned(),
            xmax: 13762,
            time: 1_795_241_120,
        }
    );
    let asked = &session.sql().asked;
    let start = "SELECT pg_catalog.pg_start_backup($1, $2, false) [\"a label\", \"true\"]";
    assert!(
        asked.iter().any(|statement| statement == start),
        "{asked:?}"
    );
    assert!(
        asked
            .last()
            .unwrap()
            .ends_with("FROM pg_catalog.pg_stop_backup(false)")
    );
}

#[test]
fn a_spread_checkpoint_is_asked_for() {
    let mut session = examine(primary()).unwrap();
    session.start("l", false).unwrap();
    assert!(
        session
            .sql()
            .asked
            .last()
            .unwrap()
            .ends_with("[\"l\", \"false\"]")
    );
}

#[test]
fn sessions_do_not_time_out_while_files_are_copied() {
    let mut session = examine(primary()).unwrap();
    assert!(
        session
            .sql()
            .asked
            .contains(&"SET session_timeout = 0;".to_owned())
    );
}

#[test]
fn only_a_started_backup_is_aborted() {
    let mut session = examine(primary()).unwrap();
    session.abort().unwrap();
    assert!(
        !session
            .sql()
            .asked
            .iter()
            .any(|asked| asked.contains("stop_backup"))
    );
    session.start("l", true).unwrap();
    session.abort().unwrap();
    assert!(
        session
            .sql()
            .asked
            .last()
            .unwrap()
            .contains("pg_stop_backup(false)")
    );
    assert!(!session.is_started());
}

#[test]
fn servers_that_cannot_be_backed_up_are_refused() {
    let text = |script: Script| examine(script).unwrap_err().to_string();
    assert_eq!(
        text(primary().with("[\"wal_block_size\"]", &["16384"])),
        "wal_block_size(16384) is not compatible(8192 expected)"
    );
    assert!(text(primary().with("pg_is_in_recovery", &["maybe"])).ends_with("is invalid: maybe"));
    assert!(
        text(primary().with("pg_is_in_recovery", &["t", "f"]))
            .ends_with("is invalid: 1 rows of 2 columns")
    );
}

#[test]
fn the_servers_version_must_be_that_of_the_data_directory() {
    let flavor = ServerFlavor::PostgreSql { major: 15 };
    let script = |version: &str| primary().with("[\"server_version_num\"]", &[version]);
    assert!(BackupSession::examine(script("150018"), flavor).is_ok());
    let error = BackupSession::examine(script("160004"), flavor).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the server is of version 160004, its data directory of 15"
    );
}

#[test]
fn a_missing_permission_is_told_with_what_is_needed() {
    let mut session = examine(primary().refusing("pg_start_backup", "42501")).unwrap();
    let error = session.start("l", true).unwrap_err();
    assert!(
        matches!(&error, SessionError::NotPermitted { needed, .. } if needed.contains("SYSADMIN")),
        "{error:?}"
    );
    assert!(!session.is_started());
}

#[test]
fn answers_of_another_shape_are_errors() {
    let stop = |row: &[&str]| {
        let mut session = examine(primary().with("pg_stop_backup", row)).unwrap();
        session.start("l", true).unwrap();
        session.stop().unwrap_err().to_string()
    };
    let time = "2026-11-21 06:05:20+00";
    assert!(stop(&["x", time, "0/1", LABEL, ""]).ends_with("transaction x"));
    assert!(stop(&["1", "today", "0/1", LABEL, ""]).ends_with("time today"));
    assert!(stop(&["1", time, "zero", LABEL, ""]).ends_with("is invalid: zero"));
    assert!(stop(&["1", time, "0/1", "", ""]).ends_with("no backup label"));
    assert!(stop(&[]).ends_with("transaction "));
}

#[test]
fn databases_slots_and_tablespaces_are_listed() {
    let mut session = examine(
        primary()
            .with("pg_database", &["16384", "fix"])
            .with("pg_tablespace_location", &["/gauss/ts/ts1"])
            .with("pg_get_replication_slots()WHERE", &["sub", "0/1A2B"]),
    )
    .unwrap();
    assert_eq!(session.databases().unwrap(), [(16384, "fix".to_owned())]);
    assert_eq!(session.tablespace_locations().unwrap(), ["/gauss/ts/ts1"]);
    let slot = LogicalSlot {
        name: "sub".to_owned(),
        restart_lsn: Some(Lsn(0x1A2B)),
    };
    assert_eq!(session.logical_slots().unwrap(), [slot]);
}
