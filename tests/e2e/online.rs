//! Backups of a running PostgreSQL: the server, the catalog, and how they are called.

use crate::postgres::{Ground, PASSWORD, Server, Settings};
use crate::support::{Output, assert_success};
use crate::take_full_backup::independent_opinion;
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

pub(crate) const INSTANCE: &str = "main";

/// Nothing that these tests run takes so long; what does hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Makes a backup of some megabytes take seconds, so that it can be held in the middle.
pub(crate) const SLOWLY: [&str; 3] = ["-j1", "--compress-algorithm=zlib", "--compress-level=9"];

/// A running server that is instance [`INSTANCE`] of a catalog.
pub(crate) struct Online {
    pub(crate) server: Server,
    pub(crate) catalog: PathBuf,
    pub(crate) ground: Arc<Ground>,
}

impl Online {
    /// `None`, said aloud, where there is no PostgreSQL.
    pub(crate) fn create(settings: Settings<'_>) -> Option<Online> {
        let ground = Ground::create()?;
        let server = Server::create(&ground, "main", settings);
        let catalog = ground.path().join("catalog");
        assert_success(&ground.gs_probackup(&["init"], &catalog));
        let online = Online {
            server,
            catalog,
            ground,
        };
        online.add_instance(INSTANCE, &online.server.data);
        Some(online)
    }

    pub(crate) fn add_instance(&self, instance: &str, data: &Path) {
        let data = data.display().to_string();
        let add = ["add-instance", "--instance", instance, "-D", &data];
        assert_success(&self.ground.gs_probackup(&add, &self.catalog));
    }

    /// The connection of the administrator over the socket, which needs no password.
    pub(crate) fn socket(&self) -> Vec<String> {
        socket(&self.server)
    }

    /// The connection of `user` over TCP; `rest` are further connection parameters.
    pub(crate) fn tcp(&self, user: &str, port: u16, rest: &str) -> Vec<String> {
        let database = format!("dbname=postgres {rest}");
        let port = port.to_string();
        let words = ["-d", &database, "-h", "localhost", "-p", &port, "-U", user];
        words.map(str::to_owned).to_vec()
    }

    /// The command of a full backup.
    pub(crate) fn backup_command(&self, connection: &[String], others: &[&str]) -> Command {
        let mut words = vec!["backup", "--instance", INSTANCE, "-b", "FULL"];
        words.extend(connection.iter().map(String::as_str));
        words.extend(others);
        self.ground.program(&words, &self.catalog)
    }

    pub(crate) fn try_back_up(&self, connection: &[String], others: &[&str]) -> Output {
        run_within(&mut self.backup_command(connection, others), PATIENCE)
    }

    /// Takes a full backup over the socket and returns its id.
    pub(crate) fn back_up(&self, others: &[&str]) -> String {
        let output = self.try_back_up(&self.socket(), others);
        assert_success(&output);
        completed_id(&output)
    }

    /// Starts a full backup.
    pub(crate) fn start_backup(&self, connection: &[String], others: &[&str]) -> Running {
        Running(Some(spawn(&mut self.backup_command(connection, others))))
    }

    /// Starts a full backup and holds it in the middle: it streams WAL and copies, and stands
    /// still until [`Running::release`] or [`Running::finish`].
    pub(crate) fn hold_in_the_middle(&self, connection: &[String], others: &[&str]) -> Running {
        let earlier = self.ids();
        let mut running = self.start_backup(connection, others);
        let deadline = Instant::now() + PATIENCE;
        while !self.streams_wal(&earlier) {
            assert!(running.is_running(), "{:#?}", running.finish(PATIENCE));
            assert!(Instant::now() < deadline, "the backup does not begin");
            std::thread::sleep(Duration::from_millis(1));
        }
        running.signal(Signal::STOP);
        let ids = self.ids();
        let own = ids.iter().find(|id| !earlier.contains(id)).unwrap();
        let control = self.backup_path(own).join("database/global/pg_control");
        assert!(!control.exists(), "all is copied: the backup is too fast");
        running
    }

    /// Whether WAL has arrived in a backup that is not one of these.
    fn streams_wal(&self, earlier: &[String]) -> bool {
        let new = self.ids().into_iter().filter(|id| !earlier.contains(id));
        let mut directories = new.map(|id| self.backup_path(&id).join("database/pg_wal"));
        directories.any(|directory| {
            let mut entries = std::fs::read_dir(directory).into_iter().flatten();
            entries.next().is_some()
        })
    }

    pub(crate) fn backup_path(&self, id: &str) -> PathBuf {
        self.catalog.join("backups").join(INSTANCE).join(id)
    }

    /// Ids of all backups of the instance.
    pub(crate) fn ids(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.catalog.join("backups").join(INSTANCE)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !name.contains('.')).collect()
    }

    pub(crate) fn validate(&self, id: &str) -> Output {
        let words = ["validate", "--instance", INSTANCE, "-i", id, "-j2"];
        self.ground.gs_probackup(&words, &self.catalog)
    }

    /// Has a backup checked independently, validates it and restores it to `<name>`, directories
    /// outside it to `<place>.<name>`.
    pub(crate) fn restore(&self, id: &str, name: &str, external: &[&Path]) {
        check_independently(&self.backup_path(id));
        assert_success(&self.validate(id));
        let target = self.ground.text(name);
        let mut words = vec![
            "restore".to_owned(),
            format!("--instance={INSTANCE}"),
            format!("--backup-id={id}"),
            format!("--pgdata={target}"),
        ];
        for location in self.server.tablespaces() {
            words.push(format!("--tablespace-mapping={location}={location}.{name}"));
        }
        for directory in external {
            let place = directory.display();
            words.push(format!("--external-mapping={place}={place}.{name}"));
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        assert_success(&self.ground.gs_probackup(&words, &self.catalog));
    }

    /// [`Online::restore`], and a server on it.
    pub(crate) fn restore_and_start(&self, id: &str, name: &str) -> Server {
        self.restore(id, name, &[]);
        Server::start_directory(&self.ground, name)
    }
}

/// The connection of the administrator over a server's socket.
pub(crate) fn socket(server: &Server) -> Vec<String> {
    let directory = server.socket_directory().display().to_string();
    let port = server.port.to_string();
    let words = [
        "-d", "postgres", "-h", &directory, "-p", &port, "-U", "postgres", "-w",
    ];
    words.map(str::to_owned).to_vec()
}

/// `-W` with the password of all roles.
pub(crate) const WITH_PASSWORD: [&str; 2] = ["-W", PASSWORD];

pub(crate) fn completed_id(output: &Output) -> String {
    let id = output.stderr.lines().find_map(|line| {
        line.strip_prefix("INFO: Backup ")?
            .strip_suffix(" completed")
    });
    id.unwrap_or_else(|| panic!("{output:#?}")).to_owned()
}

/// Has a backup of PostgreSQL checked. The checker knows the control file of openGauss: where
/// PostgreSQL keeps the CRC of its own is looked at here.
#[track_caller]
pub(crate) fn check_independently(backup: &Path) {
    let Some((_, text)) = independent_opinion(backup) else {
        return;
    };
    let is_own = |line: &&str| !line.contains("crc must be the control file's own CRC field");
    let control = std::fs::read_to_string(backup.join("backup.control")).unwrap();
    let has_checksums = !control.lines().any(|line| line == "checksum-version = 0");
    let wrong: Vec<&str> = text
        .lines()
        .filter(is_own)
        .filter(|line| has_checksums || !is_stale_checksum(line))
        .collect();
    // The checker prints the first lines of many.
    match wrong[..] {
        [summary, last] => assert!(
            summary.contains(" checked") && (last == "1 wrong" || !has_checksums),
            "{text}"
        ),
        _ => panic!("{text}"),
    }
    let control = std::fs::read(backup.join("database/global/pg_control")).unwrap();
    let crc = u32::from_le_bytes(control[288..292].try_into().unwrap());
    assert_eq!(crc, crc32c::crc32c(&control[..288]));
    let content = std::fs::read_to_string(backup.join("backup_content.control")).unwrap();
    let entry = content
        .lines()
        .find(|line| line.contains("\"global/pg_control\""));
    let entry: serde_json::Value = serde_json::from_str(entry.unwrap()).unwrap();
    assert_eq!(entry["crc"], crc.to_string());
}

/// Whether the checker found a checksum that a page does not have, and nothing else: where the
/// cluster has checksums off, what was one is left in pages, and the map has the right one.
fn is_stale_checksum(line: &str) -> bool {
    let of_map = line.rsplit_once(" computed ").map(|(_, numbers)| numbers);
    let numbers = of_map.and_then(|numbers| numbers.split_once(", in the map "));
    line.contains(": page checksum ") && numbers.is_some_and(|(computed, map)| computed == map)
}

/// A run of the program; killed when dropped.
pub(crate) struct Running(Option<Child>);

impl Running {
    pub(crate) fn is_running(&mut self) -> bool {
        let child = self.0.as_mut().expect("not finished");
        child.try_wait().unwrap().is_none()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.0.as_ref().expect("not finished");
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.as_ref().expect("not finished").id()
    }

    /// Lets a run go on that is held.
    pub(crate) fn release(&self) {
        self.signal(Signal::CONT);
    }

    /// What it came to; fails if that takes longer. A run that is held goes on.
    #[track_caller]
    pub(crate) fn finish(&mut self, within: Duration) -> Output {
        if self.is_running() {
            self.release();
        }
        finish(self.0.take().expect("not finished"), within)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs a command to its end; fails if that takes longer.
#[track_caller]
pub(crate) fn run_within(command: &mut Command, within: Duration) -> Output {
    finish(spawn(command), within)
}

fn spawn(command: &mut Command) -> Child {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[track_caller]
fn finish(child: Child, within: Duration) -> Output {
    let pid = Pid::from_child(&child);
    let (sender, receiver) = channel();
    std::thread::spawn(move || sender.send(child.wait_with_output().unwrap()));
    let result = receiver.recv_timeout(within);
    let is_late = result.is_err();
    let output = result.unwrap_or_else(|_| {
        kill_process(pid, Signal::KILL).unwrap();
        receiver.recv().unwrap()
    });
    let output = Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    assert!(!is_late, "hangs: not over after {within:?}: {output:#?}");
    output
}
