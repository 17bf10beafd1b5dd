//! Conversations of the real openGauss server and its client, replayed byte for byte.

use super::peer::{Peer, Step, open, open_asking, recorded, target};
use super::{ConnectTarget, ConnectionOptions, CopyEvent, CopyStream, Password, Sql};
use crate::types::ServerFlavor;
use std::time::Duration;

fn gauss(port: u16, user: &str, password: Option<&str>, application: &str) -> ConnectTarget {
    let options = ConnectionOptions {
        database: Some("fix".to_owned()),
        host: Some("127.0.0.1".to_owned()),
        port: Some(port.to_string()),
        user: Some(user.to_owned()),
        password: password.map(|text| Password::new(text.to_owned())),
        ..ConnectionOptions::default()
    };
    let env = |name: &str| match name {
        "PGAPPNAME" => Some(application.to_owned()),
        "HOME" => Some("/nonexistent".to_owned()),
        _ => None,
    };
    ConnectTarget::resolve(&options, &env, ServerFlavor::OpenGauss).unwrap()
}

#[test]
fn right_passwords_open_a_session() {
    for method in ["sha", "md5", "sm3"] {
        let Some(script) = recorded(&format!("{method}_gsql"), 1) else {
            return;
        };
        let peer = Peer::tcp(vec![script]);
        let user = format!("bk_{method}");
        let target = gauss(peer.port, &user, Some("Gauss@123"), "gsql");
        let mut connection = open(&target).unwrap();
        assert_eq!(connection.parameter("server_version"), Some("9.2.4"));
        let rows = connection.query("select current_user, 42").unwrap();
        assert_eq!(rows.columns, ["current_user", "?column?"]);
        assert_eq!(rows.rows, [[Some(user), Some("42".to_owned())]]);
        connection.close();
        peer.finish();
    }
}

#[test]
fn password_is_asked_for_once_and_serves_both_connections() {
    let (Some(first), Some(second)) = (recorded("sha_gsql", 1), recorded("sha_gsql", 1)) else {
        return;
    };
    let peer = Peer::tcp(vec![first[..6].to_vec(), second[..6].to_vec()]);
    let target = gauss(peer.port, "bk_sha", None, "gsql");
    assert!(target.needs_password());
    open_asking(&target, "Gauss@123").unwrap();
    assert!(!target.needs_password());
    assert!(!target.for_replication().needs_password());
    open(&target).unwrap();
    peer.finish();
}

#[test]
fn wrong_passwords_end_in_the_words_of_the_server() {
    for (session, user, application) in [
        ("sha_gsql_badpw", "bk_sha", "gsql"),
        ("md5_gsql_badpw", "bk_md5", "gsql"),
        ("sm3_gsql_badpw", "bk_sm3", "gsql"),
        ("sha_backup_badpw", "bk_sha", "gs_probackup"),
    ] {
        let Some(script) = recorded(session, 1) else {
            return;
        };
        let peer = Peer::tcp(vec![script]);
        let error = open(&gauss(peer.port, user, Some("Wrong@123"), application)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "could not connect to database fix: (connect to V5 server) FATAL:  Invalid \
             username/password,login denied."
        );
        let hint = error.hint().unwrap();
        assert!(
            hint.contains(user) && hint.contains(&peer.port.to_string()),
            "{hint}"
        );
        assert!(!format!("{error:?} {hint}").contains("Wrong@123"));
        peer.finish();
    }
}

#[test]
fn missing_passwords_are_named_as_such() {
    for (session, user) in [
        ("sha_backup_nopw", "bk_sha"),
        ("tcp_no_password_trust_hba", "bk_trust"),
    ] {
        let Some(script) = recorded(session, 1) else {
            return;
        };
        let peer = Peer::tcp(vec![script.clone(), script]);
        let target = gauss(peer.port, user, None, "gs_probackup");
        let error = open(&target).unwrap_err();
        assert_eq!(
            error.to_string(),
            "could not connect to database fix: fe_sendauth: no password supplied"
        );
        assert!(error.hint().unwrap().contains(user));
        let error = open_asking(&target, "").unwrap_err();
        assert!(
            error.to_string().ends_with(": no password supplied"),
            "{error}"
        );
        peer.finish();
    }
}

#[test]
fn unknown_users_and_databases_end_in_the_words_of_the_server() {
    let Some(script) = recorded("err_nouser", 1) else {
        return;
    };
    let peer = Peer::tcp(vec![script]);
    let error = open(&gauss(peer.port, "nosuch", Some("Gauss@123"), "gsql")).unwrap_err();
    assert!(error.to_string().contains("login denied"), "{error}");
    peer.finish();

    let Some(script) = recorded("err_nodb", 1) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let peer = Peer::unix(directory.path(), 15600, script);
    let host = directory.path().display();
    let settings = format!("dbname=nosuchdb host={host} port=15600 user=omm");
    let error = open(&target(&settings, ServerFlavor::OpenGauss)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "could not connect to database nosuchdb: (connect to V5 server) FATAL:  database \
         \"nosuchdb\" does not exist"
    );
    assert!(error.hint().unwrap().contains("--pgdatabase"));
    peer.finish();
}

#[test]
fn statements_of_a_backup_are_those_of_the_original() {
    let Some(mut script) = recorded("trust_ptrack_unix", 1) else {
        return;
    };
    // Startup, welcome, and the first statements with their answers.
    script.truncate(2 + 2 * 4);
    let directory = tempfile::tempdir().unwrap();
    let peer = Peer::unix(directory.path(), 15600, script);
    let settings = format!("host={} port=15600 user=omm", directory.path().display());
    let mut connection = open(&target(&settings, ServerFlavor::OpenGauss)).unwrap();
    let setting = "SELECT pg_catalog.current_setting($1)";
    for name in ["block_size", "wal_block_size"] {
        let rows = connection.query_with(setting, &[name]).unwrap();
        assert_eq!(rows.single(), Some("8192"), "{name}");
    }
    let rows = connection.query("SELECT proname FROM pg_proc WHERE proname='pgpro_edition'");
    assert!(rows.unwrap().rows.is_empty());
    let rows = connection
        .query("SELECT pg_catalog.pg_is_in_recovery()")
        .unwrap();
    assert_eq!(rows.single(), Some("f"));
    connection.close();
    peer.finish();
}

#[test]
fn error_of_a_statement_leaves_the_connection_usable() {
    let Some(mut script) = recorded("err_sql", 1) else {
        return;
    };
    let goodbye = script.pop().unwrap();
    let (question, answers) = script.split_at(2);
    let twice = [question, answers, answers, &[goodbye]].concat();
    let directory = tempfile::tempdir().unwrap();
    let peer = Peer::unix(directory.path(), 15600, twice);
    let host = directory.path().display();
    let settings = format!("host={host} port=15600 user=omm application_name=gsql");
    let mut connection = open(&target(&settings, ServerFlavor::OpenGauss)).unwrap();
    for _ in 0..2 {
        let error = connection.query("select * from nosuchtable").unwrap_err();
        assert_eq!(
            error.to_string(),
            "query failed: ERROR:  relation \"nosuchtable\" does not exist on single query was: \
             select * from nosuchtable"
        );
    }
    connection.close();
    peer.finish();
}

/// How many complete messages bytes begin with, and how long these are.
fn complete_messages(bytes: &[u8]) -> (usize, usize) {
    let (mut count, mut end) = (0, 0);
    while let Some(header) = bytes[end..].first_chunk::<5>() {
        let length = u32::from_be_bytes(header[1..].try_into().unwrap());
        let next = end + 1 + usize::try_from(length).unwrap();
        if next > bytes.len() {
            break;
        }
        (count, end) = (count + 1, next);
    }
    (count, end)
}

#[test]
fn stream_of_the_real_server_is_received_and_answered() {
    let Some(script) = recorded("trust_ptrack_unix", 2) else {
        return;
    };
    let mut script = script;
    let is_reply = |step: &Step| matches!(step, Step::Expect(bytes) if bytes.starts_with(b"d"));
    let at = script.iter().position(is_reply).unwrap();
    let Step::Expect(reply) = &script[at] else {
        unreachable!("it was found as that");
    };
    let reply = reply[5..].to_vec();
    // The recording ends within a message. Whoever leaves while one is on its way breaks the pipe
    // of the server.
    let behind = script[at..].iter().map(|step| match step {
        Step::Send(bytes) => &bytes[..],
        _ => &[],
    });
    let mut behind = behind.collect::<Vec<_>>().concat();
    let (left, end) = complete_messages(&behind);
    behind.truncate(end);
    script.truncate(at + 1);
    script.push(Step::Send(behind));
    script.push(Step::Expect(b"X\0\0\0\x04".to_vec()));
    let directory = tempfile::tempdir().unwrap();
    let peer = Peer::unix(directory.path(), 15601, script);
    let settings = format!("host={} port=15600 user=omm", directory.path().display());
    let target = target(&settings, ServerFlavor::OpenGauss).for_replication();
    let mut connection = open(&target).unwrap();
    let rows = connection.query("IDENTIFY_SYSTEM").unwrap();
    assert_eq!(rows.columns[0], "systemid");
    let mut stream = connection
        .start_copy("START_REPLICATION 0/2C000000")
        .unwrap();
    let kinds = |stream: &mut dyn CopyStream, count: usize| {
        let mut kinds = Vec::new();
        while kinds.len() < count {
            match stream.receive(Duration::from_secs(5)).unwrap() {
                CopyEvent::Data(bytes) => kinds.push(bytes[0]),
                other => panic!("{other:?} after {kinds:?}"),
            }
        }
        kinds
    };
    assert_eq!(kinds(&mut stream, 3), b"kwk");
    assert_eq!(
        stream.receive(Duration::from_millis(10)).unwrap(),
        CopyEvent::Idle
    );
    stream.send(&reply).unwrap();
    assert_eq!(kinds(&mut stream, left)[0], b'w');
    drop(stream);
    peer.finish();
}
