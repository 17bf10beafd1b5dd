//! Recovery targets on a real PostgreSQL: `validate` says whether WAL goes that far, and a server
//! started on what `restore` made is exactly at the target.

use crate::online::{INSTANCE, Online};
use crate::postgres::{Load, Server, Settings, Stop, load, succeed};
use crate::support::{Output, assert_success, run};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A name that shells and configuration files must quote.
const ARCHIVE: &str = "it's a $WAL archive";

/// A backup, an archive that goes on behind it, and points in it.
struct History {
    online: Online,
    archive: PathBuf,
    points: Points,
}

/// Marks 1 to 6 are committed one after the other; 3 as a prepared transaction.
struct Points {
    /// What the backup calls its own end.
    own: String,
    second: String,
    third: String,
    /// When the second was committed, to the microsecond.
    second_at: String,
    /// A moment between the third and the fourth, on the clock of a zone 8 hours east.
    between: String,
    /// Where the record behind the fifth commit starts.
    after_fifth: String,
}

impl History {
    fn create() -> Option<History> {
        let configuration = "archive_mode = on\nmax_prepared_transactions = 5\n\
                             track_commit_timestamp = on\nmin_wal_size = 32MB\n\
                             archive_command = 'cp \"%p\" \"$HOME/archived/%f\"'\n";
        let settings = Settings {
            configuration,
            ..Settings::default()
        };
        let online = Online::create(settings)?;
        online.ground.create_directory("archived");
        load::Load::initialize(&online.server, 1);
        let load = Load::start(&online.server, 2);
        let server = &online.server;
        server.execute("postgres", "create table marks (n int)");
        let id = online.back_up(&[]);
        let points = make_history(server, format!("backup {id}"));
        drop(load);
        archive_all(server);
        let archive = online.ground.path().join(ARCHIVE);
        std::fs::rename(online.ground.path().join("archived"), &archive).unwrap();
        // What the server archives from now on is not the history's.
        online.ground.create_directory("archived");
        Some(History {
            online,
            archive,
            points,
        })
    }

    fn archive_option(&self) -> String {
        format!("--archive-dir={}", self.archive.display())
    }

    fn run(&self, command: &str, zone: &str, others: &[&str]) -> Output {
        let mut words = vec![command, "--instance", INSTANCE];
        words.extend(others);
        let mut command = self.online.ground.program(&words, &self.online.catalog);
        run(command.env("TZ", zone))
    }

    fn validate(&self, others: &[&str]) -> Output {
        let archive = self.archive_option();
        let words = [&[archive.as_str()], others].concat();
        self.run("validate", "CST-8", &words)
    }

    /// Restores to `<name>`, starts a server there and returns the marks that it has.
    fn marks_at(&self, name: &str, others: &[&str]) -> String {
        let data = self.online.ground.text(name);
        let mut words = vec!["-D", &data];
        words.extend(others);
        let output = self.run("restore", "CST-8", &words);
        assert_success(&output);
        let restored = self.online.ground.path().join(name);
        let conf = restored.join("postgresql.conf");
        let text = std::fs::read_to_string(&conf).unwrap();
        std::fs::write(&conf, text + "\narchive_mode = off\n").unwrap();
        let mut server = Server::start_directory(&self.online.ground, name);
        let deadline = Instant::now() + Duration::from_secs(60);
        while server.is_in_recovery() {
            assert!(Instant::now() < deadline, "{}", server.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        load::assert_between_transactions(&server);
        let marks = "select string_agg(n::text, ' ' order by n) from marks";
        let marks = server.query("postgres", marks);
        server.stop(Stop::Immediate);
        std::fs::remove_dir_all(restored).unwrap();
        marks.trim().to_owned()
    }

    fn check(&self, name: &str, expected: &str, target: &[&str]) {
        let output = self.validate(target);
        assert_success(&output);
        let done = "INFO: Backup validation completed successfully on time ";
        assert!(output.stderr.contains(done), "{output:#?}");
        let archive = self.archive_option();
        let words = [&[archive.as_str(), "--no-sync"], target].concat();
        assert_eq!(self.marks_at(name, &words), expected, "{target:?}");
    }
}

fn make_history(server: &Server, own: String) -> Points {
    let ask = |sql: &str| server.query("postgres", sql).trim().to_owned();
    let mark = |n: u32| server.execute("postgres", &format!("insert into marks values ({n})"));
    mark(1);
    ask("select pg_create_restore_point('after one')");
    let second =
        ask("begin; insert into marks values (2); select txid_current() % 4294967296; commit");
    let third = ask(
        "begin; insert into marks values (3); select txid_current() % 4294967296; \
         create table of_third (n int); prepare transaction 'third'",
    );
    mark(7);
    server.execute("postgres", "delete from marks where n = 7");
    server.execute("postgres", "commit prepared 'third'");
    std::thread::sleep(Duration::from_millis(30));
    let between = ask(
        "select to_char(clock_timestamp() at time zone interval '8 hours', \
         'YYYY-MM-DD HH24:MI:SS.US')",
    );
    std::thread::sleep(Duration::from_millis(30));
    mark(4);
    mark(5);
    let after_fifth = ask("select pg_current_wal_insert_lsn()");
    mark(6);
    let second_at = ask(&format!(
        "select to_char(pg_xact_commit_timestamp('{second}'::xid) at time zone 'UTC', \
         'YYYY-MM-DD HH24:MI:SS.US') || '+00'"
    ));
    Points {
        own,
        second,
        third,
        second_at,
        between,
        after_fifth,
    }
}

fn archive_all(server: &Server) {
    let segment = server.query("postgres", "select pg_walfile_name(pg_switch_wal())");
    let deadline = Instant::now() + Duration::from_secs(60);
    let archived = format!(
        "select coalesce(last_archived_wal, '') >= '{}' from pg_stat_archiver",
        segment.trim()
    );
    while server.query("postgres", &archived).trim() != "t" {
        assert!(Instant::now() < deadline, "{}", server.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_server_is_exactly_at_each_kind_of_target() {
    let Some(history) = History::create() else {
        return;
    };
    let points = &history.points;
    let own = ["--recovery-target-name", points.own.as_str()];
    history.check("own-name", "", &own);
    let option = |name: &str, value: &str| format!("--recovery-target-{name}={value}");
    let second = option("xid", &points.second);
    let third = option("xid", &points.third);
    let at = option("time", &points.second_at);
    let exclusive = "--recovery-target-inclusive=false";
    history.check("named", "1", &["--recovery-target-name=after one"]);
    history.check("xid", "1 2", &[&second]);
    history.check("prepared", "1 2", &[&third, exclusive]);
    history.check("prepared-too", "1 2 3", &[&third]);
    history.check("time", "1 2", &[&at]);
    history.check("time-without", "1", &[&at, exclusive]);
    history.check("zone", "1 2 3", &[&option("time", &points.between)]);
    history.check("lsn", "1 2 3 4 5", &[&option("lsn", &points.after_fifth)]);
    // All that is there, compressed, from the catalog's own archive.
    let own = history.online.catalog.join("wal").join(INSTANCE);
    for entry in std::fs::read_dir(&history.archive).unwrap() {
        let path = entry.unwrap().path();
        let mut gzip = history.online.ground.command("gzip");
        succeed(gzip.arg(&path));
        let name = format!("{}.gz", path.file_name().unwrap().to_str().unwrap());
        std::fs::copy(history.archive.join(&name), own.join(&name)).unwrap();
        history.online.ground.own(&own.join(&name), 0o600);
    }
    let archive = history.archive_option();
    assert_eq!(history.marks_at("all", &[&archive]), "1 2 3 4 5 6");
    // What no backup needs is removed; what is left leads to the end.
    let count = || std::fs::read_dir(&own).unwrap().count();
    let before = count();
    let purged = history.run("delete", "UTC", &["--delete-wal"]);
    assert_success(&purged);
    assert!(count() < before, "{purged:#?}");
    assert_eq!(history.marks_at("own", &[&second]), "1 2");
}

#[test]
fn a_target_that_wal_does_not_reach_is_an_error_before_anything_is_written() {
    let Some(history) = History::create() else {
        return;
    };
    let data = history.online.ground.text("restored");
    let archive = history.archive_option();
    let far = "--recovery-target-time=2099-01-01 00:00:00+00";
    let refused = |output: &Output, message: &str| {
        assert_eq!(output.code, Some(1), "{output:#?}");
        let expected = format!("ERROR: Not enough WAL records to {message}");
        assert!(output.stderr.contains(&expected), "{output:#?}");
        let far = "WARNING: Recovery can be done up to time ";
        assert!(output.stderr.contains(far), "{output:#?}");
        assert!(output.stderr.contains("HINT: "), "{output:#?}");
    };
    refused(&history.validate(&[far]), "time 2099-01-01 08:00:00+08");
    refused(
        &history.validate(&["--recovery-target-xid=123456789"]),
        "xid 123456789",
    );
    refused(
        &history.validate(&["--recovery-target-lsn=FF/0"]),
        "lsn FF/0",
    );
    let absent = &["--recovery-target-name=no such"];
    refused(&history.validate(absent), "restore point \"no such\"");
    let restore = history.run("restore", "UTC", &["-D", &data, &archive, far]);
    refused(&restore, "time 2099-01-01 00:00:00+00");
    assert!(!history.online.ground.path().join("restored").exists());
    // Without any archive, too.
    let lsn = format!("--recovery-target-lsn={}", history.points.after_fifth);
    let alone = history.run("restore", "UTC", &["-D", &data, &lsn]);
    refused(&alone, "lsn ");
    // With a command of the user nobody knows, and it is said.
    let unknown = ["-D", &data, &lsn, "--restore-command=cp /nowhere/%f %p"];
    let output = history.run("restore", "UTC", &unknown);
    assert_success(&output);
    assert!(output.stderr.contains("is not known"), "{output:#?}");
    // A hole in the archive, then the segment again under another name.
    let server = &history.online.server;
    let name = format!("select pg_walfile_name('{}')", history.points.after_fifth);
    let last = history.archive.join(server.query("postgres", &name).trim());
    let moved = last.with_extension("partial");
    assert_success(&history.validate(&[&lsn]));
    std::fs::rename(&last, &moved).unwrap();
    assert_success(&history.validate(&[&lsn]));
    std::fs::remove_file(&moved).unwrap();
    let output = history.validate(&[&lsn]);
    refused(&output, "lsn ");
    assert!(output.stderr.contains("is absent"), "{output:#?}");
    let missing = ["--archive-dir=/nowhere", &lsn];
    let output = history.run("validate", "UTC", &missing);
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains("does not exist"), "{output:#?}");
}
