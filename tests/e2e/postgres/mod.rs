//! Real PostgreSQL servers for tests: private, unprivileged, gone afterwards.
//!
//! A [`Ground`] is a directory under `/tmp` that belongs to the account the servers run as: user
//! `postgres` when the tests run as root, otherwise the tests' own. Everything that touches a data
//! directory, the program under test included, runs as that account. Servers are children of the
//! tests, listen on a private socket and a free port, and end with the value that stands for them,
//! in a panic too. The ground goes with the last value that lies on it.

mod certificates;
pub(crate) mod load;
mod own_tests;
mod server;

pub(crate) use certificates::Certificates;
pub(crate) use load::Load;
pub(crate) use server::{Server, Settings, Stop};

use crate::support::{Output, run};
use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use tempfile::TempDir;

/// Password of every role that has one.
pub(crate) const PASSWORD: &str = "back up, Wagner";

/// Variables that would make a client go elsewhere.
const CLIENT_VARIABLES: [&str; 14] = [
    "PGDATA",
    "PGDATABASE",
    "PGHOST",
    "PGHOSTADDR",
    "PGOPTIONS",
    "PGPASSFILE",
    "PGPASSWORD",
    "PGPORT",
    "PGSERVICE",
    "PGSSLMODE",
    "PGSSLROOTCERT",
    "PGUSER",
    "BACKUP_PATH",
    "XDG_CONFIG_HOME",
];

/// A user of the operating system.
#[derive(Clone, Copy, Debug)]
struct Account {
    uid: u32,
    gid: u32,
}

/// A directory with the account, the binaries and the certificates of the servers in it.
#[derive(Debug)]
pub(crate) struct Ground {
    directory: TempDir,
    /// `None`: the tests' own.
    account: Option<Account>,
    binaries: PathBuf,
    program: PathBuf,
    pub(crate) certificates: Certificates,
}

impl Ground {
    /// `None`, said aloud, where PostgreSQL is not installed; in CI that is a failure.
    pub(crate) fn create() -> Option<Arc<Ground>> {
        let (Some(binaries), Ok(account)) = (binaries(), account()) else {
            assert!(
                std::env::var_os("CI").is_none(),
                "PostgreSQL and, for root, its user `postgres` are mandatory in CI"
            );
            eprintln!(
                "SKIPPED: no PostgreSQL (initdb, postgres, pgbench, pg_amcheck) in \
                 /usr/lib/postgresql/*/bin or PATH, or no user `postgres` to run it as"
            );
            return None;
        };
        let directory = tempfile::Builder::new()
            .prefix("gs-pg-")
            .tempdir_in("/tmp")
            .unwrap();
        let path = directory.path().to_owned();
        if let Some(account) = account {
            chown(&path, Some(account.uid), Some(account.gid)).unwrap();
        }
        let program = path.join("gs_probackup");
        let built = Path::new(env!("CARGO_BIN_EXE_gs_probackup"));
        // The account need not see the build's directory.
        if fs::hard_link(built, &program).is_err() {
            fs::copy(built, &program).unwrap();
        }
        let mut ground = Ground {
            directory,
            account,
            binaries,
            program,
            certificates: Certificates::default(),
        };
        ground.certificates = Certificates::create(&ground);
        Some(Arc::new(ground))
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A path on the ground, as text for an argument.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path().join(name).display().to_string()
    }

    /// A command that runs as the account, in the ground's directory, with an environment that
    /// names no server.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.path())
            .env("HOME", self.path())
            .env("LC_ALL", "C.UTF-8")
            .env("TZ", "UTC");
        for variable in CLIENT_VARIABLES {
            command.env_remove(variable);
        }
        if let Some(account) = self.account {
            command.uid(account.uid).gid(account.gid);
        }
        command
    }

    /// A command of PostgreSQL.
    pub(crate) fn tool(&self, name: &str) -> Command {
        self.command(self.binaries.join(name))
    }

    /// The program under test, run as the servers' account: the subcommand, `-B`, the others.
    pub(crate) fn program(&self, arguments: &[&str], catalog: &Path) -> Command {
        let (subcommand, others) = arguments.split_first().expect("a subcommand");
        let mut command = self.command(&self.program);
        command.arg(subcommand).arg("-B").arg(catalog).args(others);
        command
    }

    /// Runs [`Ground::program`] to its end.
    pub(crate) fn gs_probackup(&self, arguments: &[&str], catalog: &Path) -> Output {
        run(&mut self.program(arguments, catalog))
    }

    /// Makes a directory of the account, readable by nobody else.
    pub(crate) fn create_directory(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir(&path).unwrap();
        self.own(&path, 0o700);
        path
    }

    /// Writes a file of the account, readable by nobody else.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, text).unwrap();
        self.own(&path, 0o600);
        path
    }

    /// Gives a path to the account.
    pub(crate) fn own(&self, path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        if let Some(account) = self.account {
            chown(path, Some(account.uid), Some(account.gid)).unwrap();
        }
    }
}

/// Fails, with what was said, unless the command ends well; returns its standard output.
#[track_caller]
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = run(command);
    assert_eq!(output.code, Some(0), "{command:?}\n{output:#?}");
    output.stdout
}

/// The directory that holds every binary needed, the newest version first.
fn binaries() -> Option<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = versions.into_iter().rev().map(|(_, bin)| bin);
    let mut directories = installed.chain(std::env::split_paths(&path));
    let needed = ["initdb", "postgres", "psql", "pgbench", "pg_amcheck"];
    directories.find(|bin| needed.iter().all(|name| bin.join(name).is_file()))
}

/// Whom servers run as: nobody in particular unless the tests run as root, which PostgreSQL
/// refuses. `Err`: root, and no user `postgres`.
fn account() -> Result<Option<Account>, ()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let postgres = users.lines().find_map(|line| {
        let mut fields = line.strip_prefix("postgres:")?.split(':').skip(1);
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Account { uid, gid })
    });
    postgres.map(Some).ok_or(())
}

/// A port that nobody listens on, nor on `following` behind it. Below the range that the kernel
/// gives to clients, so that none takes it before the server does.
pub(crate) fn free_port(following: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Runs at the same time begin in different places.
    let offset = u16::try_from(std::process::id() % 500).expect("below 500") * 20;
    for _ in 0..1000 {
        let step = NEXT.fetch_add(following + 1, Ordering::Relaxed) % 10_000;
        let port = 20_000 + (offset + step) % 10_000;
        let is_free = |port| {
            TcpListener::bind(("127.0.0.1", port)).is_ok()
                && !Path::new(&format!("/tmp/.s.PGSQL.{port}")).exists()
        };
        if (port..=port + following).all(is_free) {
            return port;
        }
    }
    panic!("no free port");
}
