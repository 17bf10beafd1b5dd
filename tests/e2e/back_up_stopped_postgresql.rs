//! A stopped PostgreSQL 15 is backed up, validated and restored elsewhere; the server starts from
//! the restored directory, its own tools find no damage, and every table has the rows it had.
//!
//! With page checksums and without, with WAL segments of other sizes, with a tablespace that moves,
//! indexes of every kind, and an unlogged table, which a clean stop leaves valid.

use crate::support::{assert_success, gs_probackup};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const BINARIES: &str = "/usr/lib/postgresql/15/bin";

const TABLES: [&str; 6] = [
    "pgbench_accounts",
    "pgbench_branches",
    "in_space",
    "unlogged",
    "unlogged_in_space",
    "points",
];

const SETUP: &str = "
create table in_space(a int, b text) tablespace t1;
insert into in_space select g, md5(g::text) from generate_series(1, 20000) g;
create index on in_space using btree(a) tablespace t1;
create index on in_space using hash(a);
create index on in_space using gin(to_tsvector('simple', b));
create index on in_space using brin(a);
create index on in_space using spgist(b);
create unlogged table unlogged(a int primary key);
insert into unlogged select generate_series(1, 5000);
create unlogged table unlogged_in_space(a int primary key) tablespace t1;
insert into unlogged_in_space select generate_series(1, 5000);
create table points(p point);
insert into points select point(g, -g) from generate_series(1, 5000) g;
create index on points using gist(p);
create sequence numbers;
select nextval('numbers');
vacuum analyze;
";

/// Whether there is a PostgreSQL 15; says aloud if not.
fn is_installed() -> bool {
    let is_there = Path::new(BINARIES).join("postgres").exists();
    if !is_there {
        assert!(
            std::env::var_os("CI").is_none(),
            "PostgreSQL 15 is mandatory in CI, but {BINARIES} has none"
        );
        eprintln!("SKIPPED: no PostgreSQL 15 in {BINARIES}");
    }
    is_there
}

/// A directory with a cluster that listens on a socket in it and nowhere else.
struct Cluster {
    root: TempDir,
    data: PathBuf,
}

impl Cluster {
    fn create(initdb: &[&str]) -> Cluster {
        let root = tempfile::tempdir_in("/tmp").unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let data = root.path().join("data");
        let cluster = Cluster { root, data };
        let data = cluster.data.display().to_string();
        let mut arguments = vec!["-D", &data, "-A", "trust", "-U", "postgres", "--no-sync"];
        arguments.extend(initdb);
        cluster.tool("initdb", &arguments);
        let conf = cluster.data.join("postgresql.conf");
        let text = fs::read_to_string(&conf).unwrap();
        let socket = cluster.root.path().display();
        let settings =
            format!("listen_addresses = ''\nunix_socket_directories = '{socket}'\nfsync = off\n");
        fs::write(&conf, text + &settings).unwrap();
        cluster
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A program of the server, as a user that the server accepts; what it printed.
    #[track_caller]
    fn tool(&self, name: &str, arguments: &[&str]) -> String {
        let program = Path::new(BINARIES).join(name);
        let mut command = if rustix::process::getuid().is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        let output = command
            .args(arguments)
            .current_dir(self.root.path())
            .env("PGHOST", self.root.path())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres")
            .output()
            .unwrap();
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        assert!(output.status.success(), "{name}: {output:?}\n{log}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn start<'a>(&'a self, data: &'a Path) -> Running<'a> {
        let log = self.path("log").display().to_string();
        // The server keeps what it inherits; its output must not be ours.
        let place = data.display().to_string();
        self.tool("pg_ctl", &["-D", &place, "-w", "-s", "-l", &log, "start"]);
        Running {
            cluster: self,
            data,
        }
    }

    fn sql(&self, text: &str) -> String {
        self.tool("psql", &["-qAtX", "-v", "ON_ERROR_STOP=1", "-c", text])
    }

    /// A digest of every table, whatever the order of its rows.
    fn digests(&self) -> Vec<String> {
        let digest = |table: &&str| {
            let rows = "md5(string_agg(t::text, '|' order by t::text)), count(*)";
            self.sql(&format!("select '{table}', {rows} from {table} t"))
        };
        TABLES.iter().map(digest).collect()
    }
}

/// A server that is stopped at the end.
struct Running<'a> {
    cluster: &'a Cluster,
    data: &'a Path,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let data = self.data.display().to_string();
        let arguments = ["-D", &data, "-w", "-s", "-m", "fast", "stop"];
        self.cluster.tool("pg_ctl", &arguments);
    }
}

/// Gives a directory that this process restored to the server's user.
fn hand_over(path: &Path) {
    if rustix::process::getuid().is_root() {
        let mut chown = Command::new("chown");
        let status = chown.args(["-R", "postgres"]).arg(path).status();
        assert!(status.unwrap().success());
    }
}

/// Fills the cluster and stops it; returns the digests of its tables.
fn fill(cluster: &Cluster, tablespace: &Path) -> Vec<String> {
    let _running = cluster.start(&cluster.data);
    cluster.tool("pgbench", &["-i", "-q", "-s", "1"]);
    cluster.sql(&format!(
        "create tablespace t1 location '{}'",
        tablespace.display()
    ));
    for statement in SETUP.split(';').filter(|text| !text.trim().is_empty()) {
        cluster.sql(statement);
    }
    cluster.digests()
}

fn comes_back(initdb: &[&str], has_checksums: bool) {
    if !is_installed() {
        return;
    }
    let cluster = Cluster::create(initdb);
    let tablespace = cluster.path("space");
    fs::create_dir(&tablespace).unwrap();
    hand_over(&tablespace);
    let digests = fill(&cluster, &tablespace);
    let catalog = cluster.path("catalog");
    let data = cluster.data.display().to_string();
    assert_success(&gs_probackup(&["init"], &catalog));
    let arguments = ["add-instance", "--instance=pg", "-D", &data];
    assert_success(&gs_probackup(&arguments, &catalog));
    let backup = gs_probackup(
        &[
            "backup",
            "--instance=pg",
            "-b",
            "FULL",
            "--offline",
            "-j2",
            "--compress",
        ],
        &catalog,
    );
    assert_success(&backup);
    let warned = backup.stderr.contains("without data block checksums");
    assert_eq!(warned, !has_checksums, "{}", backup.stderr);
    let damage = backup.stderr.contains("Corruption");
    assert!(!damage, "of maps and init forks too: {}", backup.stderr);
    assert_success(&gs_probackup(&["validate", "--instance=pg"], &catalog));
    let (target, moved) = (cluster.path("restored"), cluster.path("moved"));
    let to = target.display().to_string();
    let mapping = format!("{}={}", tablespace.display(), moved.display());
    let arguments = ["restore", "--instance=pg", "-D", &to, "-T", &mapping];
    assert_success(&gs_probackup(&arguments, &catalog));
    // Nothing of the source may be of use to the restored server.
    fs::remove_dir_all(&cluster.data).unwrap();
    fs::remove_dir_all(&tablespace).unwrap();
    hand_over(&target);
    hand_over(&moved);
    for name in ["recovery.signal", "backup_label", "postmaster.pid"] {
        assert!(!target.join(name).exists(), "{name}");
    }
    if has_checksums {
        let report = cluster.tool("pg_checksums", &["--check", "-D", &to]);
        assert!(report.contains("Bad checksums:  0"), "{report}");
    }
    let _running = cluster.start(&target);
    assert_eq!(cluster.digests(), digests);
    cluster.tool("pg_amcheck", &["--all", "--install-missing"]);
}

#[test]
fn a_cluster_with_checksums_comes_back() {
    comes_back(&["--data-checksums"], true);
}

#[test]
fn a_cluster_without_checksums_and_with_large_wal_segments_comes_back() {
    comes_back(&["--wal-segsize=64"], false);
}

#[test]
fn a_cluster_with_small_wal_segments_comes_back() {
    comes_back(&["--data-checksums", "--wal-segsize=1"], true);
}

#[test]
fn a_damaged_page_of_a_visibility_map_is_told_and_kept() {
    if !is_installed() {
        return;
    }
    let cluster = Cluster::create(&["--data-checksums"]);
    let catalog = cluster.path("catalog");
    let data = cluster.data.display().to_string();
    let running = cluster.start(&cluster.data);
    cluster.sql("create table t as select 1 a");
    cluster.sql("vacuum t");
    let map = format!(
        "{}_vm",
        cluster.sql("select pg_relation_filepath('t')").trim()
    );
    drop(running);
    let mut bytes = fs::read(cluster.data.join(&map)).unwrap();
    bytes[5000] ^= 1;
    fs::write(cluster.data.join(&map), &bytes).unwrap();
    assert_success(&gs_probackup(&["init"], &catalog));
    let arguments = ["add-instance", "--instance=pg", "-D", &data];
    assert_success(&gs_probackup(&arguments, &catalog));
    let arguments = ["backup", "--instance=pg", "-b", "FULL", "--offline"];
    let backup = gs_probackup(&arguments, &catalog);
    assert_success(&backup);
    let told = format!("WARNING: Corruption detected in file \"{map}\", block 0: ");
    assert!(backup.stderr.contains(&told), "{}", backup.stderr);
    let to = cluster.path("restored").display().to_string();
    let arguments = ["restore", "--instance=pg", "-D", &to];
    assert_success(&gs_probackup(&arguments, &catalog));
    assert_eq!(fs::read(cluster.path("restored").join(map)).unwrap(), bytes);
}

#[test]
fn a_recovery_target_becomes_settings_that_postgresql_reads() {
    if !is_installed() {
        return;
    }
    let cluster = Cluster::create(&["--data-checksums"]);
    let catalog = cluster.path("catalog");
    let data = cluster.data.display().to_string();
    drop(cluster.start(&cluster.data));
    assert_success(&gs_probackup(&["init"], &catalog));
    let arguments = ["add-instance", "--instance=pg", "-D", &data];
    assert_success(&gs_probackup(&arguments, &catalog));
    let arguments = ["backup", "--instance=pg", "-b", "FULL", "--offline"];
    assert_success(&gs_probackup(&arguments, &catalog));
    let target = cluster.path("restored");
    let to = target.display().to_string();
    let arguments = [
        "restore",
        "--instance=pg",
        "-D",
        &to,
        "--recovery-target-lsn=FF/0",
        "--restore-command=cp '/no where/%f' %p",
    ];
    assert_success(&gs_probackup(&arguments, &catalog));
    hand_over(&target);
    assert!(!target.join("recovery.conf").exists());
    assert_eq!(fs::read(target.join("recovery.signal")).unwrap(), b"");
    let text = fs::read_to_string(target.join("postgresql.auto.conf")).unwrap();
    assert!(
        text.starts_with("# Do not edit this file manually!"),
        "{text}"
    );
    let setting = |name: &str| cluster.tool("postgres", &["-D", &to, "-C", name]);
    assert_eq!(setting("recovery_target_lsn").trim(), "FF/0");
    assert_eq!(setting("recovery_target_action").trim(), "promote");
    let command = setting("restore_command");
    assert_eq!(command.trim(), "cp '/no where/%f' %p");
}
