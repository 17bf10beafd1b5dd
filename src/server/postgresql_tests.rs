//! A real PostgreSQL: SCRAM bound to TLS, md5, readable passwords in TLS, cancelling, streaming.
//!
//! The server is made in a directory of its own and stopped at the end. Skips aloud where there is
//! none; `PG_BIN` names the folder of its programs.

use super::peer::{open, skip, target};
use super::{ConnectContext, ConnectTarget, Connection, CopyEvent, CopyStream, ServerError, Sql};
use crate::types::ServerFlavor;
use rcgen::{CertificateParams, KeyPair};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const HBA: &str = "local all all trust
local replication all trust
hostssl all readable 127.0.0.1/32 password
hostnossl all readable 127.0.0.1/32 password
host all old 127.0.0.1/32 md5
hostssl replication all 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 scram-sha-256
";

struct Postgres {
    programs: PathBuf,
    directory: tempfile::TempDir,
    port: u16,
}

impl Postgres {
    fn start() -> Option<Postgres> {
        let programs = std::env::var_os("PG_BIN").map_or_else(
            || PathBuf::from("/usr/lib/postgresql/15/bin"),
            PathBuf::from,
        );
        if !programs.join("initdb").exists() {
            skip("PostgreSQL 15 (PG_BIN)");
            return None;
        }
        let directory = tempfile::Builder::new()
            .prefix("conn")
            .tempdir_in("/tmp")
            .unwrap();
        let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = unused.local_addr().unwrap().port();
        drop(unused);
        let server = Postgres {
            programs,
            directory,
            port,
        };
        let data = server.path("data");
        give_away(server.directory.path());
        server.run(
            "initdb",
            &format!("-N -A trust -U postgres -D {}", data.display()),
        );
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        for (name, text) in [
            ("server.crt", certificate.as_str()),
            ("server.key", &key.serialize_pem()),
            ("pg_hba.conf", HBA),
        ] {
            let path = data.join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            give_away(&path);
        }
        std::fs::copy(data.join("server.crt"), server.path("root.crt")).unwrap();
        let options = format!(
            "-p {port} -k {} -c ssl=on -c listen_addresses=127.0.0.1 -c fsync=off",
            server.directory.path().display()
        );
        server.run(
            "pg_ctl",
            &format!(
                "-D {} -w -t 60 -l {}/log -o '{options}' start",
                data.display(),
                data.display()
            ),
        );
        Some(server)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run(&self, program: &str, arguments: &str) {
        let line = format!("{}/{program} {arguments}", self.programs.display());
        let mut command = if rustix::process::geteuid().is_root() {
            let mut command = Command::new("su");
            command.args(["postgres", "-s", "/bin/sh", "-c", &line]);
            command
        } else {
            let mut command = Command::new("sh");
            command.args(["-c", &line]);
            command
        };
        let output = command
            .current_dir("/tmp")
            .stdout(std::process::Stdio::null())
            .status();
        assert!(output.unwrap().success(), "{line}");
    }

    fn target(&self, settings: &str) -> ConnectTarget {
        let settings = format!("port={} {settings}", self.port);
        target(&settings, ServerFlavor::PostgreSql { major: 15 })
    }

    fn socket(&self) -> ConnectTarget {
        self.target(&format!(
            "dbname=postgres user=postgres host={}",
            self.directory.path().display()
        ))
    }

    fn tcp(&self, settings: &str) -> ConnectTarget {
        self.target(&format!(
            "dbname=postgres host=localhost hostaddr=127.0.0.1 sslrootcert={} {settings}",
            self.path("root.crt").display()
        ))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let data = self.path("data");
        self.run(
            "pg_ctl",
            &format!("-D {} -m immediate stop", data.display()),
        );
    }
}

/// Makes `path` the server's user's, when it is not run by the user of the tests.
fn give_away(path: &Path) {
    if rustix::process::geteuid().is_root() {
        let accounts = std::fs::read_to_string("/etc/passwd").unwrap();
        let line = accounts
            .lines()
            .find(|line| line.starts_with("postgres:"))
            .unwrap();
        let numbers: Vec<u32> = line
            .split(':')
            .skip(2)
            .take(2)
            .map(|number| number.parse().unwrap())
            .collect();
        chown(path, Some(numbers[0]), Some(numbers[1])).unwrap();
        assert_eq!(std::fs::metadata(path).unwrap().uid(), numbers[0]);
    }
}

fn refusal(target: &ConnectTarget) -> String {
    open(target).unwrap_err().to_string()
}

#[test]
fn real_postgresql_is_spoken_to_in_every_way_it_offers() {
    let Some(server) = Postgres::start() else {
        return;
    };
    let mut local = open(&server.socket()).unwrap();
    assert!(local.parameter("server_version").unwrap().starts_with("15"));
    for statement in [
        "CREATE ROLE bk SUPERUSER LOGIN PASSWORD 'Gauss@123'",
        "SET password_encryption = md5",
        "CREATE ROLE old LOGIN PASSWORD 'Gauss@123'",
        "CREATE ROLE readable LOGIN PASSWORD 'Gauss@123'",
    ] {
        local.query(statement).unwrap();
    }
    passwords_work(&server);
    statements_work(&mut local);
    cancelling_works(&server);
    streaming_works(&server);
}

fn passwords_work(server: &Postgres) {
    let cases = [
        ("user=bk sslmode=verify-full channel_binding=require", true),
        ("user=bk sslmode=require channel_binding=disable", true),
        (
            "user=bk sslmode=verify-ca ssl_max_protocol_version=TLSv1.2",
            true,
        ),
        ("user=bk sslmode=disable", false),
        ("user=bk", true),
        ("user=bk sslmode=allow", false),
        ("user=old sslmode=disable", false),
        ("user=old sslmode=require", true),
        ("user=readable sslmode=require", true),
    ];
    for (settings, encrypted) in cases {
        let mut connection = open(&server.tcp(&format!("{settings} password=Gauss@123")))
            .unwrap_or_else(|error| panic!("{settings}: {error}"));
        assert_eq!(connection.is_encrypted(), encrypted, "{settings}");
        let user = connection.query("SELECT current_user").unwrap();
        assert!(settings.contains(&format!("user={}", user.single().unwrap())));
        let error = refusal(&server.tcp(&format!("{settings} password=Wrong@123")));
        assert!(
            error.contains("FATAL:  password authentication failed for user"),
            "{error}"
        );
        let error = refusal(&server.tcp(settings));
        assert!(
            error.ends_with("fe_sendauth: no password supplied"),
            "{error}"
        );
    }
    let error = refusal(&server.tcp("user=readable sslmode=disable password=Gauss@123"));
    assert!(
        error.contains("in clear text over a connection without TLS"),
        "{error}"
    );
    let error = refusal(&server.tcp("user=old channel_binding=require password=Gauss@123"));
    assert!(error.contains("channel binding is required"), "{error}");
    let error = open(
        &server
            .tcp("user=bk sslmode=disable password=Gauss@123")
            .for_replication(),
    );
    let error = error.unwrap_err();
    assert!(error.to_string().contains("no encryption"), "{error}");
    assert!(error.hint().unwrap().contains("pg_hba.conf"));
}

fn statements_work(connection: &mut Connection) {
    let rows = connection
        .query_with("SELECT $1::text, NULL, $2::int + 1", &["a'b", "41"])
        .unwrap();
    assert_eq!(
        rows.rows,
        [[Some("a'b".to_owned()), None, Some("42".to_owned())]]
    );
    let error = connection
        .query_with("SELECT $1::int", &["x"])
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("query failed: ERROR:  invalid input syntax"),
        "{error}"
    );
    let rows = connection
        .query("SELECT repeat('x', 3000000) FROM generate_series(1, 3)")
        .unwrap();
    assert!(
        rows.rows
            .iter()
            .all(|row| row[0].as_ref().unwrap().len() == 3_000_000)
    );
    connection
        .query("DO $$ BEGIN RAISE NOTICE 'said'; END $$")
        .unwrap();
    assert_eq!(connection.take_notices(), ["NOTICE:  said"]);
}

fn cancelling_works(server: &Postgres) {
    let cancel = Arc::new(AtomicBool::new(false));
    let context = ConnectContext {
        cancel: cancel.clone(),
        ask_password: None,
    };
    let mut connection = Connection::open(&server.socket(), &context).unwrap();
    let signal = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        cancel.store(true, Ordering::Relaxed);
    });
    let begun = Instant::now();
    let error = connection.query("SELECT pg_sleep(100)").unwrap_err();
    assert!(matches!(error, ServerError::Interrupted), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    signal.join().unwrap();
    connection.ignore_cancel(true);
    assert_eq!(connection.query("SELECT 1").unwrap().single(), Some("1"));
    let canceller = connection.canceller();
    let other = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        canceller.cancel().unwrap();
    });
    let error = connection.query("SELECT pg_sleep(100)").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("canceling statement due to user request"),
        "{error}"
    );
    other.join().unwrap();
    assert_eq!(connection.query("SELECT 2").unwrap().single(), Some("2"));
}

fn streaming_works(server: &Postgres) {
    let target = server.tcp("user=bk password=Gauss@123 sslmode=verify-full");
    let mut connection = open(&target.for_replication()).unwrap();
    assert!(connection.is_encrypted());
    let rows = connection.query("IDENTIFY_SYSTEM").unwrap();
    let position = rows.rows[0][2].clone().unwrap();
    let (high, low) = position.split_once('/').unwrap();
    let low = u32::from_str_radix(low, 16).unwrap() & !0xff_ffff;
    let command = format!("START_REPLICATION {high}/{low:X}");
    let mut stream = connection.start_copy(&command).unwrap();
    let mut bytes = 0;
    loop {
        match stream.receive(Duration::from_millis(500)).unwrap() {
            CopyEvent::Data(data) if data[0] == b'w' => bytes += data.len(),
            CopyEvent::Data(_) => {}
            CopyEvent::Idle => break,
            CopyEvent::Done => panic!("the stream ended"),
        }
    }
    assert!(bytes > 100, "{bytes}");
}
