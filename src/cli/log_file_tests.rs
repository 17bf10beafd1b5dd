//! Tests of log files and their rotation.

use super::*;
use std::os::unix::fs::PermissionsExt;

struct Fixture {
    scratch: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Fixture {
        Fixture {
            scratch: tempfile::tempdir().unwrap(),
        }
    }

    fn target(&self, rotation_size_kb: u64, rotation_age_ms: u64) -> Target {
        Target {
            directory: self.scratch.path().join("log"),
            name: "a.log".to_owned(),
            rotation_size_kb,
            rotation_age_ms,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join("log").join(name)
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    // One run that writes this text.
    fn run(&self, target: &Target, text: &str) -> Result<Option<String>, LogFileError> {
        LogFile::new(target.clone()).write("INFO", text)
    }

    fn stamp(&self) -> i64 {
        self.text("a.log.rotation").parse().unwrap()
    }

    fn set_age(&self, seconds: i64) {
        let stamp = now() - seconds;
        std::fs::write(self.path("a.log.rotation"), stamp.to_string()).unwrap();
    }
}

fn now() -> i64 {
    Zoned::now().timestamp().as_second()
}

#[test]
fn a_line_has_time_zone_process_and_level_and_files_are_private() {
    let fixture = Fixture::new();
    fixture.run(&fixture.target(0, 0), "one").unwrap();
    fixture.run(&fixture.target(0, 0), "two").unwrap();
    let text = fixture.text("a.log");
    let lines = text.lines().collect::<Vec<_>>();
    assert_eq!(lines.len(), 2, "{text}");
    let pid = std::process::id();
    assert!(
        lines[1].ends_with(&format!(" [{pid}]: INFO: two")),
        "{text}"
    );
    let moment = Zoned::now().strftime("%Y-%m-%d %H:").to_string();
    assert!(lines[0].starts_with(&moment), "{text}");
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(fixture.path("")), 0o700);
    assert_eq!(mode(fixture.path("a.log")), 0o600);
    assert_eq!(mode(fixture.path("a.log.rotation")), 0o600);
    assert!((now() - fixture.stamp()).abs() < 60);
}

#[test]
fn a_name_from_disk_cannot_forge_a_line() {
    let fixture = Fixture::new();
    let text = "cannot open \"a\n2026-01-01 00:00:00 UTC [1]: INFO: all is well\u{1b}[2J\"";
    fixture.run(&fixture.target(0, 0), text).unwrap();
    let text = fixture.text("a.log");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("a\\n2026-01-01"), "{text}");
    assert!(text.contains("\\u{1b}[2J"), "{text}");
}

#[test]
fn a_name_is_a_pattern_of_strftime() {
    let fixture = Fixture::new();
    let mut target = fixture.target(0, 0);
    target.name = "pb-%Y-%j.log".to_owned();
    fixture.run(&target, "x").unwrap();
    let name = Zoned::now().strftime("pb-%Y-%j.log").to_string();
    assert!(fixture.path(&name).exists());
    target.name = "pb-%".to_owned();
    let error = fixture.run(&target, "x").unwrap_err();
    assert_eq!(error.to_string(), "strftime(pb-%) failed");
}

#[test]
fn a_file_that_is_too_large_begins_anew_at_the_next_run() {
    let fixture = Fixture::new();
    let target = fixture.target(1, 0);
    fixture.run(&target, &"x".repeat(900)).unwrap();
    fixture.run(&target, "still below").unwrap();
    assert_eq!(fixture.text("a.log").lines().count(), 2);
    fixture.run(&target, &"y".repeat(200)).unwrap();
    fixture.set_age(1000);
    fixture.run(&target, "after").unwrap();
    let text = fixture.text("a.log");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.ends_with("INFO: after\n"));
    assert!(now() - fixture.stamp() < 60, "the new file has its own age");
}

#[test]
fn a_file_that_is_too_old_begins_anew_at_the_next_run() {
    let fixture = Fixture::new();
    let target = fixture.target(0, 3_600_000);
    fixture.run(&target, "first").unwrap();
    fixture.set_age(3500);
    let stamp = fixture.stamp();
    fixture.run(&target, "second").unwrap();
    assert_eq!(fixture.text("a.log").lines().count(), 2);
    assert_eq!(
        fixture.stamp(),
        stamp,
        "a start does not make the file younger"
    );
    fixture.set_age(3700);
    fixture.run(&target, "third").unwrap();
    let text = fixture.text("a.log");
    assert!(
        text.ends_with("INFO: third\n") && text.lines().count() == 1,
        "{text}"
    );
    assert!(now() - fixture.stamp() < 60);
    let control = fixture.text("a.log.rotation");
    assert!(
        control.bytes().all(|byte| byte.is_ascii_digit()),
        "{control:?}"
    );
}

#[test]
fn a_missing_rotation_file_is_said_and_made() {
    let fixture = Fixture::new();
    let target = fixture.target(0, 3_600_000);
    fixture.run(&target, "first").unwrap();
    std::fs::remove_file(fixture.path("a.log.rotation")).unwrap();
    let warning = fixture.run(&target, "second").unwrap().unwrap();
    let path = fixture.path("a.log.rotation");
    assert_eq!(
        warning,
        format!("missing rotation file: \"{}\"", path.display())
    );
    assert!(fixture.run(&target, "third").unwrap().is_none());
    assert_eq!(fixture.text("a.log").lines().count(), 3);
}

#[test]
fn a_time_to_come_is_replaced_by_now() {
    let fixture = Fixture::new();
    let target = fixture.target(0, 3_600_000);
    fixture.run(&target, "first").unwrap();
    fixture.set_age(-1_000_000);
    fixture.run(&target, "second").unwrap();
    assert_eq!(fixture.text("a.log").lines().count(), 2);
    assert!((now() - fixture.stamp()).abs() < 60);
}

#[test]
fn a_bad_rotation_file_is_an_error_with_its_content() {
    let fixture = Fixture::new();
    let target = fixture.target(0, 1000);
    fixture.run(&target, "first").unwrap();
    let path = fixture.path("a.log.rotation");
    for text in ["yesterday\u{7}", "-5", "99999999999999999999"] {
        std::fs::write(&path, text).unwrap();
        let error = fixture.run(&target, "second").unwrap_err();
        let expected = format!(
            "rotation file \"{}\" has wrong creation timestamp \"{}\"",
            path.display(),
            printable(text)
        );
        assert_eq!(error.to_string(), expected);
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let error = fixture.run(&target, "second").unwrap_err();
    let expected = format!("cannot open rotation file \"{}\"", path.display());
    assert_eq!(error.to_string(), expected);
    assert_eq!(fixture.text("a.log").lines().count(), 1);
}

#[test]
fn a_file_that_another_run_writes_to_is_not_truncated() {
    let fixture = Fixture::new();
    let target = fixture.target(0, 1000);
    let mut other = LogFile::new(target.clone());
    other.write("INFO", "begins").unwrap();
    fixture.set_age(100);
    fixture.run(&target, "in between").unwrap();
    other.write("INFO", "ends").unwrap();
    assert_eq!(fixture.text("a.log").lines().count(), 3);
    drop(other);
    fixture.run(&target, "alone").unwrap();
    assert_eq!(fixture.text("a.log").lines().count(), 1);
}

#[test]
fn lines_of_many_writers_stay_whole() {
    let fixture = Fixture::new();
    let target = fixture.target(0, 0);
    let (writers, lines) = (8, 200);
    std::thread::scope(|scope| {
        for writer in 0..writers {
            let mut log = LogFile::new(target.clone());
            scope.spawn(move || {
                for _ in 0..lines {
                    log.write("INFO", &format!("{writer}").repeat(300)).unwrap();
                }
            });
        }
    });
    let text = fixture.text("a.log");
    assert_eq!(text.lines().count(), writers * lines);
    for line in text.lines() {
        let (_, text) = line.rsplit_once(' ').unwrap();
        assert_eq!(text.len(), 300, "{line}");
        assert!(
            text.bytes().all(|byte| byte == text.as_bytes()[0]),
            "{line}"
        );
    }
}

#[test]
fn of_many_runs_that_start_at_once_only_the_first_truncates() {
    let fixture = Fixture::new();
    let target = fixture.target(0, 60_000);
    fixture.run(&target, "old").unwrap();
    fixture.set_age(100);
    std::thread::scope(|scope| {
        for run in 0..8 {
            let (fixture, target) = (&fixture, &target);
            scope.spawn(move || fixture.run(target, &format!("new {run}")).unwrap());
        }
    });
    let text = fixture.text("a.log");
    assert!(!text.contains("old"), "{text}");
    assert_eq!(text.lines().count(), 8, "{text}");
}

#[test]
fn what_cannot_be_a_log_file_is_an_error_and_no_hang() {
    let fixture = Fixture::new();
    let target = fixture.target(0, 0);
    std::fs::create_dir_all(fixture.path("a.log")).unwrap();
    let error = fixture.run(&target, "x").unwrap_err();
    let expected = format!(
        "could not open log file \"{}\"",
        fixture.path("a.log").display()
    );
    assert_eq!(error.to_string(), expected);
    std::fs::remove_dir(fixture.path("a.log")).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(fixture.path("a.log"))
        .status();
    assert!(made.unwrap().success());
    assert!(fixture.run(&target, "x").is_err());
    let mut nowhere = target;
    nowhere.directory = fixture.path("not/there");
    let error = fixture.run(&nowhere, "x").unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("could not create log directory"),
        "{error}"
    );
}
