//! What a run leaves in log files, shows while it works, and does on a signal; and that a password
//! given on the command line is in none of the places where others look.

use crate::cluster::{Cluster, INSTANCE};
use crate::support::{assert_success, command, gs_probackup, run};
use gs_probackup::catalog::lock::{LockGuard, LockOptions, lock_exclusive};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

/// A run that was asked to end is given this long.
const END_WITHIN: Duration = Duration::from_secs(10);

const SECRET: &str = "correct-horse-battery";

fn log_of(cluster: &Cluster, name: &str) -> String {
    std::fs::read_to_string(cluster.catalog.join("log").join(name)).unwrap()
}

/// The part of each line behind time and process, which are checked.
fn texts(log: &str) -> Vec<&str> {
    log.lines()
        .map(|line| {
            let (head, text) = line.split_once("]: ").unwrap_or_else(|| panic!("{log}"));
            let fields = head.split(' ').collect::<Vec<_>>();
            let [date, time, zone, pid] = fields[..] else {
                panic!("{line}");
            };
            assert_eq!((date.len(), time.len(), zone), (10, 8, "UTC"), "{line}");
            assert!(
                pid.strip_prefix('[').unwrap().parse::<u32>().is_ok(),
                "{line}"
            );
            text
        })
        .collect()
}

fn set_conf(cluster: &Cluster, lines: &str) {
    let path = cluster
        .catalog
        .join("backups")
        .join(INSTANCE)
        .join("pg_probackup.conf");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}{lines}")).unwrap();
}

#[test]
fn a_log_file_has_the_command_and_all_lines_of_its_level() {
    let cluster = Cluster::create(1 << 20);
    let id = cluster.back_up(&["--log-level-file=info", "--log-level-console=info"]);
    let log = log_of(&cluster, "pg_probackup.log");
    let texts = texts(&log);
    assert!(
        texts[0].starts_with("INFO: command: gs_probackup backup -B "),
        "{log}"
    );
    let completed = format!("INFO: Backup {id} completed");
    assert!(texts.contains(&completed.as_str()), "{log}");
    assert!(!log.contains(": LOG: "), "{log}");
    let rotation = log_of(&cluster, "pg_probackup.log.rotation");
    assert!(rotation.parse::<u64>().is_ok(), "{rotation:?}");
    assert_success(&gs_probackup(&["show"], &cluster.catalog));
    assert_eq!(
        log_of(&cluster, "pg_probackup.log"),
        log,
        "show writes no log"
    );
}

#[test]
fn settings_of_the_instance_count_unless_the_command_line_has_others() {
    let cluster = Cluster::create(1 << 20);
    set_conf(
        &cluster,
        "log-level-file = VERBOSE\nlog-filename = all-%Y.log\n",
    );
    cluster.back_up(&[]);
    let year = "all-2";
    let name = std::fs::read_dir(cluster.catalog.join("log"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .find(|name| name.starts_with(year) && name.ends_with(".log"))
        .unwrap();
    let first = log_of(&cluster, &name);
    assert!(
        texts(&first).iter().any(|text| text.starts_with("LOG: ")),
        "{first}"
    );
    let elsewhere = cluster.scratch.path().join("elsewhere");
    let directory = format!("--log-directory={}", elsewhere.display());
    let validate = [
        "validate",
        "--instance",
        INSTANCE,
        "--log-filename=mine",
        &directory,
    ];
    assert_success(&gs_probackup(&validate, &cluster.catalog));
    assert!(elsewhere.join("mine").exists());
    assert_eq!(log_of(&cluster, &name), first);
}

#[test]
fn the_error_log_has_errors_only_and_is_made_by_the_first() {
    let cluster = Cluster::create(1 << 20);
    let arguments = ["--error-log-filename=errors", "--log-level-file=log"];
    cluster.back_up(&arguments);
    assert!(!cluster.catalog.join("log/errors").exists());
    let mut failing = vec!["backup", "--instance", INSTANCE];
    failing.extend(arguments);
    let output = gs_probackup(&failing, &cluster.catalog);
    assert_eq!(output.code, Some(1), "{output:?}");
    let line = "ERROR: required parameter not specified: BACKUP_MODE (-b, --backup-mode)";
    assert!(output.stderr.contains(line), "{output:?}");
    assert_eq!(texts(&log_of(&cluster, "errors")), [line]);
    assert!(log_of(&cluster, "pg_probackup.log").contains(line));
}

#[test]
fn a_log_file_begins_anew_when_it_is_too_old_or_too_large() {
    let cluster = Cluster::create(1 << 20);
    let validate = |option: &str| {
        let all = [
            "validate",
            "--instance",
            INSTANCE,
            "--log-level-file=info",
            option,
        ];
        assert_success(&gs_probackup(&all, &cluster.catalog));
        let log = log_of(&cluster, "pg_probackup.log");
        texts(&log)
            .iter()
            .filter(|text| text.starts_with("INFO: command: "))
            .count()
    };
    assert_eq!(validate("--log-rotation-age=1h"), 1);
    assert_eq!(validate("--log-rotation-age=1h"), 2);
    let rotation = cluster.catalog.join("log/pg_probackup.log.rotation");
    let began = log_of(&cluster, "pg_probackup.log.rotation");
    let began = began.parse::<u64>().unwrap();
    std::fs::write(&rotation, (began - 3601).to_string()).unwrap();
    assert_eq!(validate("--log-rotation-age=1h"), 1);
    assert_eq!(validate("--log-rotation-size=1MB"), 2);
    let log = cluster.catalog.join("log/pg_probackup.log");
    let file = std::fs::OpenOptions::new().append(true).open(log).unwrap();
    file.set_len(1 << 20).unwrap();
    assert_eq!(validate("--log-rotation-size=1MB"), 1);
}

#[test]
fn a_log_file_that_cannot_be_opened_ends_the_run_before_it_began() {
    let cluster = Cluster::create(1 << 20);
    let output = cluster.try_back_up(&["--log-level-file=log", "--log-directory=/dev/null/x"]);
    assert_eq!(output.code, Some(1), "{output:?}");
    let line = "ERROR: could not create log directory \"/dev/null/x\": Not a directory\nHINT: ";
    assert!(output.stderr.starts_with(line), "{output:?}");
    let output = cluster.try_back_up(&["--log-level-file=log", "--log-directory=x"]);
    let line = "ERROR: --log-directory must be an absolute path\n";
    assert_eq!(output.stderr, line);
    let instance = cluster.catalog.join("backups").join(INSTANCE);
    let entries = std::fs::read_dir(instance).unwrap();
    assert_eq!(entries.count(), 1, "no backup was begun");
}

#[test]
fn a_full_disk_of_the_log_is_said_once_and_the_backup_is_good() {
    let cluster = Cluster::create(1 << 20);
    let output = cluster.try_back_up(&[
        "--log-level-file=warning",
        "--log-directory=/dev",
        "--log-filename=full",
        "--error-log-filename=full",
        // A warning to be logged.
        "--compress-algorithm=zlib",
        "--compress-level=0",
        "--no-sync",
    ]);
    assert_success(&output);
    let line = "WARNING: could not write log file \"/dev/full\": No space left on device; lines \
                will be missing there\n";
    assert_eq!(output.stderr.matches(line).count(), 1, "{output:?}");
}

#[test]
fn runs_side_by_side_leave_whole_lines() {
    let cluster = Cluster::create(1 << 20);
    cluster.back_up(&[]);
    let validate = [
        "validate",
        "--instance",
        INSTANCE,
        "--log-level-file=verbose",
    ];
    let runs = (0..6)
        .map(|_| {
            let mut run = command(&validate, &cluster.catalog);
            run.stderr(Stdio::null()).spawn().unwrap()
        })
        .collect::<Vec<_>>();
    let count = runs.len();
    for mut run in runs {
        assert!(run.wait().unwrap().success());
    }
    let log = log_of(&cluster, "pg_probackup.log");
    let commands = texts(&log)
        .iter()
        .filter(|text| text.starts_with("INFO: command: "))
        .count();
    assert_eq!(commands, count, "{log}");
}

#[test]
fn progress_without_a_terminal_is_lines_with_bytes_files_rate_and_time() {
    let cluster = Cluster::create(4 << 20);
    let output = cluster.try_back_up(&["--progress"]);
    assert_success(&output);
    assert_eq!(output.stdout, "");
    let last = output
        .stderr
        .lines()
        .rfind(|line| line.starts_with("INFO: Progress: Backup 100% ("))
        .unwrap_or_else(|| panic!("{output:?}"));
    assert!(
        last.contains(" files, ") && last.contains("/s, in "),
        "{last}"
    );
    let output = cluster.try_back_up(&[]);
    assert!(!output.stderr.contains("Progress:"), "{output:?}");
}

#[test]
fn progress_on_a_terminal_is_a_bar_and_the_standard_output_stays_clean() {
    let cluster = Cluster::create(32 << 20);
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let screen = openpt(flags).unwrap();
    grantpt(&screen).unwrap();
    unlockpt(&screen).unwrap();
    let terminal = ioctl_tiocgptpeer(&screen, flags).unwrap();
    tcsetwinsize(
        &terminal,
        Winsize {
            ws_row: 24,
            ws_col: 120,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )
    .unwrap();
    let words = [
        "backup",
        "--instance",
        INSTANCE,
        "-b",
        "FULL",
        "--offline",
        "--progress",
    ];
    let mut backup = command(&words, &cluster.catalog);
    backup
        .env("TERM", "xterm")
        .stderr(Stdio::from(terminal))
        .stdout(Stdio::piped());
    let running = backup.spawn().unwrap();
    // It has the terminal open too.
    drop(backup);
    let reader = std::thread::spawn(move || {
        let mut seen = Vec::new();
        // Ends with an error once nobody has the terminal open any more.
        let _ = std::fs::File::from(screen).read_to_end(&mut seen);
        String::from_utf8_lossy(&seen).into_owned()
    });
    let output = running.wait_with_output().unwrap();
    let seen = reader.join().unwrap();
    assert_eq!(output.status.code(), Some(0), "{seen}");
    assert_eq!(output.stdout, b"");
    assert!(
        seen.contains("Backup [") && seen.contains(" files"),
        "{seen}"
    );
    assert!(
        seen.contains("INFO: Backup ") && !seen.contains("Progress:"),
        "{seen}"
    );
}

#[test]
fn a_console_that_is_gone_does_not_end_a_backup() {
    let cluster = Cluster::create(1 << 20);
    let words = [
        "backup",
        "--instance",
        INSTANCE,
        "-b",
        "FULL",
        "--offline",
        "--progress",
    ];
    let mut backup = command(&words, &cluster.catalog)
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(backup.stderr.take());
    drop(backup.stdout.take());
    assert_eq!(backup.wait().unwrap().code(), Some(0));
}

/// A restore that waits for the lock of its backup.
struct Waiting {
    restore: Child,
    stderr: BufReader<ChildStderr>,
    _lock: LockGuard,
}

impl Waiting {
    fn start(cluster: &Cluster, id: &str, wrapper: &[&str], arguments: &[&str]) -> Waiting {
        let lock = lock_exclusive(
            &cluster.backup_path(id),
            id.parse().unwrap(),
            &LockOptions::FAIL_FAST,
        )
        .unwrap();
        let (target, _) = cluster.targets("restored");
        let mut words = vec!["restore", "--instance", INSTANCE, "-i", id, "-D"];
        let target = target.display().to_string();
        let mapping = cluster.sample.tablespace.display().to_string();
        let mapping = format!("{mapping}={target}.tablespace");
        words.extend([target.as_str(), "-T", &mapping]);
        words.extend(arguments);
        let plain = command(&words, &cluster.catalog);
        let mut wrapped = Command::new(wrapper.first().copied().unwrap_or("env"));
        wrapped
            .args(wrapper.iter().skip(1))
            .arg(plain.get_program())
            .args(plain.get_args())
            .env("TZ", "UTC")
            .env_remove("BACKUP_PATH")
            .env_remove("PGDATA")
            .stderr(Stdio::piped());
        let mut restore = wrapped.spawn().unwrap();
        let mut stderr = BufReader::new(restore.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("Waiting") {
            line.clear();
            assert_ne!(
                stderr.read_line(&mut line).unwrap(),
                0,
                "it waits for the lock"
            );
        }
        Waiting {
            restore,
            stderr,
            _lock: lock,
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.restore.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    fn proc(&self, name: &str) -> String {
        let path = Path::new("/proc")
            .join(self.restore.id().to_string())
            .join(name);
        String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()
    }

    /// The exit code and the rest of what was said.
    fn end(mut self) -> (Option<i32>, String) {
        let began = Instant::now();
        while self.restore.try_wait().unwrap().is_none() {
            if began.elapsed() > END_WITHIN {
                self.restore.kill().unwrap();
                panic!("it goes on after the signal");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        (self.restore.wait().unwrap().code(), said)
    }
}

#[test]
fn a_signal_ends_the_wait_for_a_lock() {
    let cluster = Cluster::create(1 << 20);
    let id = cluster.back_up(&[]);
    for signal in ["INT", "TERM", "QUIT", "HUP"] {
        if signal == "HUP" && crate::support::hangups_are_ignored() {
            eprintln!("SIGHUP is not tried: the tests run under nohup, which the program honours");
            continue;
        }
        let waiting = Waiting::start(&cluster, &id, &[], &[]);
        waiting.signal(signal);
        let (code, said) = waiting.end();
        assert_eq!(code, Some(1), "{signal}: {said}");
        assert_eq!(said, "ERROR: interrupted\n", "{signal}");
    }
    assert_success(&gs_probackup(&["validate"], &cluster.catalog));
}

#[test]
fn a_run_under_nohup_goes_on_when_its_terminal_is_gone() {
    let cluster = Cluster::create(1 << 20);
    let id = cluster.back_up(&[]);
    let wrapper = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"];
    let waiting = Waiting::start(&cluster, &id, &wrapper, &[]);
    waiting.signal("HUP");
    std::thread::sleep(Duration::from_millis(500));
    assert!(waiting.proc("status").contains("gs_probackup"));
    waiting.signal("TERM");
    assert_eq!(waiting.end().0, Some(1));
}

#[test]
fn a_password_of_the_command_line_is_visible_nowhere() {
    let cluster = Cluster::create(1 << 20);
    let id = cluster.back_up(&[]);
    let attached = format!("-wW{SECRET}");
    let long = format!("--passw={SECRET}");
    let forms: [&[&str]; 3] = [&["-W", SECRET], &[&long], &["-j1", "-W", SECRET]];
    for form in forms {
        let mut arguments = vec!["--log-level-file=verbose"];
        arguments.extend(form);
        let waiting = Waiting::start(&cluster, &id, &[], &arguments);
        let words = waiting.proc("cmdline");
        assert!(words.contains("***") && !words.contains(SECRET), "{words}");
        assert!(words.contains("restore\0-B\0"), "{words}");
        let environment = waiting.proc("environ");
        assert!(!environment.contains(SECRET), "{environment}");
        assert_eq!(waiting.proc("comm"), "gs_probackup\n");
        let limits = waiting.proc("limits");
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        let soft = core.unwrap().split_ascii_whitespace().nth(4);
        assert_eq!(soft, Some("0"), "{limits}");
        for pipe in open_files(&waiting) {
            // What is left of the pipe is empty: nothing can be read from it by others.
            let mut text = vec![0; 4096];
            let length = pipe
                .as_ref()
                .map_or(0, |mut file| file.read(&mut text).unwrap_or(0));
            assert!(!String::from_utf8_lossy(&text[..length]).contains(SECRET));
        }
        waiting.signal("TERM");
        let (code, said) = waiting.end();
        assert_eq!((code, said.as_str()), (Some(1), "ERROR: interrupted\n"));
    }
    let log = log_of(&cluster, "pg_probackup.log");
    assert!(log.contains(" -W ***") && !log.contains(SECRET), "{log}");
    let output = cluster.try_back_up(&[&attached]);
    let refused = "ERROR: You cannot specify --password and --no-password options together\n";
    assert_eq!(output.stderr, refused);
}

// The pipes that a process has open for reading.
fn open_files(waiting: &Waiting) -> Vec<Option<std::fs::File>> {
    let directory = PathBuf::from(format!("/proc/{}/fd", waiting.restore.id()));
    std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let number = path
                .file_name()
                .and_then(|name| name.to_str()?.parse::<u32>().ok());
            let link = std::fs::read_link(path).unwrap_or_default();
            number.is_some_and(|number| number > 2) && link.to_string_lossy().starts_with("pipe:")
        })
        .map(|path| {
            use std::os::unix::fs::OpenOptionsExt;
            let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap();
            std::fs::OpenOptions::new()
                .read(true)
                .custom_flags(nonblocking)
                .open(path)
                .ok()
        })
        .collect()
}

#[test]
fn a_password_changes_neither_output_nor_exit_codes() {
    let cluster = Cluster::create(1 << 20);
    let id = cluster.back_up(&[]);
    let with = ["show", "--instance", INSTANCE, "-i", &id, "-W", SECRET];
    let plain = gs_probackup(&with[..5], &cluster.catalog);
    assert_success(&plain);
    assert_eq!(gs_probackup(&with, &cluster.catalog), plain);
    // What a surrounding run of the program left in the environment is not for this one.
    let mut inside = command(&with, &cluster.catalog);
    inside.env("GS_PROBACKUP_PASSWORD_FROM", "1:0");
    assert_eq!(run(&mut inside), plain);
    let twice = gs_probackup(&["show", "-W", SECRET, "-W", "x"], &cluster.catalog);
    assert_eq!(twice.code, Some(1));
    let line = "ERROR: Option -W, --password should be specified only once: '***'\n";
    assert_eq!(twice.stderr, line);
    let empty = gs_probackup(&["show", "-W", ""], &cluster.catalog);
    let line = "ERROR: Option -W, --password should be a valid string: ''\n";
    assert_eq!(empty.stderr, line);
    // Too long for the pipe: said, and the run goes on.
    let long = gs_probackup(&["show", "-W", &"x".repeat(5000)], &cluster.catalog);
    let line = "WARNING: the password stays visible in the list of processes: it is too long\n";
    assert_eq!((long.code, long.stderr.as_str()), (Some(0), line));
}
