//! One server: a data directory and the process that runs on it.

use super::{Ground, PASSWORD, free_port, succeed};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long starting, stopping and following may take; recovery and a busy machine included.
const PATIENCE: Duration = Duration::from_secs(120);

/// Who may come in, how. Clients on the socket are trusted as `postgres` only.
const HBA: &str = "\
local     all,replication postgres                                 trust
local     all,replication all                                      scram-sha-256
hostssl   all,replication only_tls       localhost                 scram-sha-256
hostnossl all,replication only_tls       localhost                 reject
host      all,replication old_md5        localhost                 md5
host      all,replication all            localhost                 scram-sha-256
";

/// Roles: `backup` has the rights that a backup needs and no more, `weak` may log in and no more.
const ROLES: &str = "\
create role backup login replication password 'PASSWORD';
create role only_tls login replication password 'PASSWORD';
create role weak login password 'PASSWORD';
set password_encryption = 'md5';
create role old_md5 login replication password 'PASSWORD';
grant execute on function pg_backup_start(text, boolean), pg_backup_stop(boolean),
    pg_create_restore_point(text), pg_switch_wal() to backup, only_tls, old_md5;
";

/// What can be chosen of a new server.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Settings<'a> {
    /// Off unless a test is about durability or time.
    pub(crate) fsync: bool,
    /// Further lines of `postgresql.conf`.
    pub(crate) configuration: &'a str,
}

/// How a server is stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// With a checkpoint; sessions are ended.
    Fast,
    /// As in a crash; the next start recovers.
    Immediate,
}

/// A server; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) ground: Arc<Ground>,
    name: String,
    pub(crate) data: PathBuf,
    pub(crate) port: u16,
    process: Option<Child>,
}

impl Server {
    /// Makes a cluster with page checksums in `<name>` and starts it.
    pub(crate) fn create(ground: &Arc<Ground>, name: &str, settings: Settings<'_>) -> Server {
        let data = ground.path().join(name);
        let password = ground.write(&format!("{name}.password"), PASSWORD);
        let mut initdb = ground.tool("initdb");
        initdb
            .args(["--data-checksums", "--no-sync", "--username=postgres"])
            .args(["--no-locale", "--encoding=UTF8", "--auth=scram-sha-256"])
            .arg("--pwfile")
            .arg(&password)
            .arg("-D")
            .arg(&data);
        succeed(&mut initdb);
        let certificates = &ground.certificates;
        let configuration = format!(
            "wal_level = replica\nmax_wal_senders = 10\nmax_replication_slots = 10\n\
             shared_buffers = 32MB\nssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'\n\
             fsync = {}\nlog_line_prefix = '%m [%p] %q%a '\nlog_replication_commands = on\n{}\n",
            certificates.server.display(),
            certificates.server_key.display(),
            if settings.fsync { "on" } else { "off" },
            settings.configuration,
        );
        let file = data.join("postgresql.conf");
        let defaults = fs::read_to_string(&file).unwrap();
        fs::write(file, defaults + &configuration).unwrap();
        fs::write(data.join("pg_hba.conf"), HBA).unwrap();
        let server = Server::start_directory(ground, name);
        server.execute("postgres", &ROLES.replace("PASSWORD", PASSWORD));
        server
    }

    /// Starts the data directory `<name>`, a restored one perhaps, on a socket and port of its own.
    pub(crate) fn start_directory(ground: &Arc<Ground>, name: &str) -> Server {
        let mut server = Server::stopped(ground, name);
        server.start();
        server
    }

    /// As [`Server::start_directory`], not started yet.
    pub(crate) fn stopped(ground: &Arc<Ground>, name: &str) -> Server {
        let server = Server {
            ground: Arc::clone(ground),
            name: name.to_owned(),
            data: ground.path().join(name),
            port: free_port(0),
            process: None,
        };
        fs::create_dir_all(server.socket_directory()).unwrap();
        ground.own(&server.socket_directory(), 0o700);
        server
    }

    /// Copies this server with `pg_basebackup` into `<name>`, as it is or as a standby. User
    /// tablespaces go to `<tablespace>.<name>`.
    pub(crate) fn copy_to(&self, name: &str, is_standby: bool) {
        let target = self.ground.path().join(name);
        let mut copy = self.client("pg_basebackup");
        copy.args([
            "--checkpoint=fast",
            "--wal-method=stream",
            "--no-sync",
            "-D",
        ]);
        copy.arg(target);
        for location in self.tablespaces() {
            copy.arg("-T").arg(format!("{location}={location}.{name}"));
        }
        if is_standby {
            copy.arg("--write-recovery-conf");
        }
        succeed(&mut copy);
    }

    /// Where the user tablespaces lie.
    pub(crate) fn tablespaces(&self) -> Vec<String> {
        let statement = "select pg_tablespace_location(oid) from pg_tablespace order by oid";
        let rows = self.query("postgres", statement);
        let locations = rows.lines().filter(|location| !location.is_empty());
        locations.map(str::to_owned).collect()
    }

    /// A standby in `<name>` that follows this server.
    pub(crate) fn create_standby(&self, name: &str) -> Server {
        self.copy_to(name, true);
        Server::start_directory(&self.ground, name)
    }

    /// Starts the process and waits until it takes connections, recovery included.
    pub(crate) fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        let child = self
            .ground
            .tool("postgres")
            .arg("-D")
            .arg(&self.data)
            .args(["-c", "listen_addresses=localhost", "-p"])
            .arg(self.port.to_string())
            .arg("-c")
            .arg(format!(
                "unix_socket_directories={}",
                self.socket_directory().display()
            ))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while !self.is_ready() {
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "{} does not start: {ended:?}\n{}",
                self.name,
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether the server says so in its pid file; the last line is its state.
    fn is_ready(&self) -> bool {
        let text = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        let own = self.process.as_ref().map(|child| child.id().to_string());
        text.lines().next() == own.as_deref()
            && text
                .lines()
                .nth(7)
                .is_some_and(|state| matches!(state.trim(), "ready" | "standby"))
    }

    /// Stops the server and waits for its end.
    pub(crate) fn stop(&mut self, how: Stop) {
        self.signal(match how {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
        });
        let mut child = self.process.take().expect("a running server");
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().unwrap().is_none() {
            if Instant::now() >= deadline {
                let _ = child.kill();
                let _ = child.wait();
                panic!("{} does not stop\n{}", self.name, self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn restart(&mut self, how: Stop) {
        self.stop(how);
        self.start();
    }

    fn signal(&self, signal: Signal) {
        let child = self.process.as_ref().expect("a running server");
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    pub(crate) fn socket_directory(&self) -> PathBuf {
        self.ground.path().join(format!("{}.sock", self.name))
    }

    fn log_path(&self) -> PathBuf {
        self.ground.path().join(format!("{}.log", self.name))
    }

    /// What the server has written.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// A client program of PostgreSQL that connects to this server as its administrator.
    pub(crate) fn client(&self, name: &str) -> Command {
        let mut command = self.ground.tool(name);
        command
            .env("PGHOST", self.socket_directory())
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres");
        command
    }

    /// `psql` that prints rows only, with fields separated by `|`, and stops at an error.
    pub(crate) fn psql(&self) -> Command {
        let mut psql = self.client("psql");
        psql.args(["-X", "-A", "-t", "-q", "-w", "-v", "ON_ERROR_STOP=1"]);
        psql
    }

    /// The rows of a statement, run as the administrator.
    #[track_caller]
    pub(crate) fn query(&self, database: &str, statement: &str) -> String {
        let output = succeed(self.psql().args(["-d", database, "-c", statement]));
        output.trim_end().to_owned()
    }

    /// Runs statements one by one, as the administrator.
    #[track_caller]
    pub(crate) fn execute(&self, database: &str, statements: &str) {
        let script = self.ground.write(&format!("{}.sql", self.name), statements);
        succeed(self.psql().args(["-d", database, "-f"]).arg(script));
    }

    /// The names of the databases that can be connected to.
    pub(crate) fn databases(&self) -> Vec<String> {
        let statement = "select datname from pg_database where datallowconn order by 1";
        let rows = self.query("postgres", statement);
        rows.lines().map(str::to_owned).collect()
    }

    /// Row count and digest of every user table and sequence, by `database.schema.table`.
    pub(crate) fn digest_of_all_tables(&self) -> BTreeMap<String, String> {
        let build = "select string_agg(format('select %L, count(*), \
             md5(coalesce(string_agg(md5(x::text), '''' order by md5(x::text)), '''')) \
             from %I.%I x', nspname || '.' || relname, nspname, relname), ' union all ') \
             from pg_class c join pg_namespace n on n.oid = relnamespace \
             where relkind in ('r', 'm', 'S') and nspname !~ '^pg_' \
             and nspname <> 'information_schema'";
        let mut digests = BTreeMap::new();
        for database in self.databases() {
            let statement = self.query(&database, build);
            if statement.is_empty() {
                continue;
            }
            for row in self.query(&database, &statement).lines() {
                let (table, digest) = row.split_once('|').unwrap();
                digests.insert(format!("{database}.{table}"), digest.to_owned());
            }
        }
        digests
    }

    /// Fails unless `pg_amcheck` is content with every relation of every database.
    #[track_caller]
    pub(crate) fn assert_amcheck(&self) {
        let mut check = self.client("pg_amcheck");
        succeed(check.args(["--all", "--install-missing", "--heapallindexed"]));
    }

    /// Fails unless every page of the stopped server carries its checksum.
    #[track_caller]
    pub(crate) fn assert_checksums(&self) {
        assert!(self.process.is_none(), "{} runs", self.name);
        let mut check = self.ground.tool("pg_checksums");
        succeed(check.arg("--check").arg("-D").arg(&self.data));
    }

    /// Fails unless the server is out of backup mode within some seconds: no session of the
    /// program is left, which since PostgreSQL 15 is the only thing that can hold it, and no file
    /// of a backup lies in the data directory.
    #[track_caller]
    pub(crate) fn assert_out_of_backup_mode(&self) {
        let statement = "select coalesce(string_agg(pid || ' ' || query, '; '), '') \
             from pg_stat_activity where application_name like '%gs_probackup%' \
             or pid <> pg_backend_pid() and query ~ 'pg_backup_start'";
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let sessions = self.query("postgres", statement);
            if sessions.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "sessions left: {sessions}");
            std::thread::sleep(Duration::from_millis(100));
        }
        for name in ["backup_label", "tablespace_map"] {
            assert!(!self.data.join(name).exists(), "{name} is left");
        }
    }

    pub(crate) fn is_in_recovery(&self) -> bool {
        self.query("postgres", "select pg_is_in_recovery()") == "t"
    }

    /// Waits until this standby has replayed all that the primary has written.
    pub(crate) fn wait_for(&self, primary: &Server) {
        let target = primary.query("postgres", "select pg_current_wal_flush_lsn()");
        let statement = format!("select pg_last_wal_replay_lsn() >= '{target}'");
        let deadline = Instant::now() + PATIENCE;
        while self.query("postgres", &statement) != "t" {
            assert!(
                Instant::now() < deadline,
                "{} lags\n{}",
                self.name,
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The system identifier in the control file.
    pub(crate) fn system_identifier(&self) -> String {
        system_identifier(&self.ground, &self.data)
    }
}

fn system_identifier(ground: &Ground, data: &Path) -> String {
    let text = succeed(ground.tool("pg_controldata").arg("-D").arg(data));
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Database system identifier:"));
    line.expect("pg_controldata names it").trim().to_owned()
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(mut child) = self.process.take() else {
            return;
        };
        let _ = kill_process(Pid::from_child(&child), Signal::QUIT);
        let deadline = Instant::now() + Duration::from_secs(10);
        while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
        if std::thread::panicking() {
            eprintln!("log of {}:\n{}", self.name, self.log());
        }
    }
}
