//! Tests of locks: owners alive, dead, of other users, of reused ids, and many at once.

use super::super::process::own_pid;
use super::*;
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

struct Fixture {
    scratch: tempfile::TempDir,
    id: BackupId,
}

impl Fixture {
    fn new() -> Fixture {
        Fixture {
            scratch: tempfile::tempdir().unwrap(),
            id: BackupId::from_start_time(1_795_240_367).unwrap(),
        }
    }

    fn dir(&self) -> &Path {
        self.scratch.path()
    }

    fn exclusive(&self) -> Result<LockGuard, LockError> {
        lock_exclusive(self.dir(), self.id, &LockOptions::FAIL_FAST)
    }

    fn shared(&self) -> Result<LockGuard, LockError> {
        lock_shared(self.dir(), self.id, &LockOptions::FAIL_FAST)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir().join(name), text).unwrap();
    }

    fn age(&self, name: &str, seconds: u64) {
        let file = File::options()
            .write(true)
            .open(self.dir().join(name))
            .unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds))
            .unwrap();
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.dir()).unwrap().count()
    }
}

fn sleeper() -> Child {
    Command::new("sleep")
        .arg("60")
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn refused(result: Result<LockGuard, LockError>) -> (i32, bool) {
    match result.unwrap_err() {
        LockError::InUse { owner, shared, .. } => (owner.pid, shared),
        other => panic!("{other}"),
    }
}

#[test]
fn a_lock_holds_the_id_of_its_owner_and_is_gone_when_dropped() {
    let fixture = Fixture::new();
    let guard = fixture.exclusive().unwrap();
    let text = std::fs::read_to_string(fixture.dir().join("backup.pid")).unwrap();
    let own = std::process::id();
    assert!(text.starts_with(&format!("{own} host=")), "{text}");
    assert_eq!(text.lines().count(), 1);
    assert_eq!(exclusive_owner(fixture.dir()).unwrap().pid, own_pid());
    assert_eq!(refused(fixture.exclusive()), (own_pid(), false));
    assert_eq!(refused(fixture.shared()), (own_pid(), false));
    drop(guard);
    assert_eq!(exclusive_owner(fixture.dir()), None);
    assert_eq!(fixture.files(), 0);
}

#[test]
fn readers_share_and_the_last_one_removes_the_list() {
    let fixture = Fixture::new();
    let first = fixture.shared().unwrap();
    let second = fixture.shared().unwrap();
    let list = || {
        let text = std::fs::read_to_string(fixture.dir().join("backup_ro.pid")).unwrap();
        let ids = text.lines().map(|line| line.split(' ').next().unwrap());
        ids.map(|id| id.parse().unwrap()).collect::<Vec<u32>>()
    };
    let own = std::process::id();
    assert_eq!(list(), [own, own]);
    drop(second);
    assert_eq!(list(), [own]);
    assert!(!fixture.dir().join("backup.pid").exists());
    drop(first);
    assert_eq!(fixture.files(), 0);
}

#[test]
fn a_live_reader_keeps_writers_out_and_other_readers_not() {
    let fixture = Fixture::new();
    let reader = sleeper();
    fixture.write("backup_ro.pid", &format!("999999999\n{}\n", reader.id()));
    let pid = i32::try_from(reader.id()).unwrap();
    assert_eq!(refused(fixture.exclusive()), (pid, true));
    assert!(!fixture.dir().join("backup.pid").exists());
    let shared = fixture.shared().unwrap();
    drop(shared);
    let list = std::fs::read_to_string(fixture.dir().join("backup_ro.pid")).unwrap();
    assert_eq!(list, format!("{pid}\n"));
    end(reader);
    drop(fixture.exclusive().unwrap());
    assert_eq!(fixture.files(), 0);
}

#[test]
fn a_live_owner_of_the_original_is_named_and_a_dead_one_removed() {
    let fixture = Fixture::new();
    let owner = sleeper();
    fixture.write("backup.pid", &format!("{}\n", owner.id()));
    let error = fixture.exclusive().unwrap_err().to_string();
    let expected = format!(
        "Cannot lock backup TOU8BZ directory: process {} has used it since ",
        owner.id()
    );
    assert!(error.starts_with(&expected), "{error}");
    end(owner);
    drop(fixture.exclusive().unwrap());
    assert_eq!(fixture.files(), 0);
}

#[test]
fn a_process_that_ended_without_being_reaped_is_dead() {
    let fixture = Fixture::new();
    let mut zombie = sleeper();
    fixture.write("backup.pid", &format!("{}\n", zombie.id()));
    zombie.kill().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while fixture.exclusive().is_err() {
        assert!(Instant::now() < deadline);
    }
    zombie.wait().unwrap();
}

#[test]
fn an_id_that_now_belongs_to_a_younger_process_does_not_block() {
    let fixture = Fixture::new();
    let stranger = sleeper();
    fixture.write("backup.pid", &format!("{}\n", stranger.id()));
    fixture.age("backup.pid", 3600);
    fixture.write("backup_ro.pid", &format!("{}\n", stranger.id()));
    fixture.age("backup_ro.pid", 3600);
    drop(fixture.exclusive().unwrap());
    end(stranger);
    assert_eq!(fixture.files(), 0);
}

#[test]
fn process_one_counts_as_alive_whoever_owns_it() {
    let fixture = Fixture::new();
    fixture.write("backup.pid", "1\n");
    assert_eq!(refused(fixture.exclusive()), (1, false));
    assert_eq!(refused(fixture.shared()), (1, false));
}

/// A line of this process with other fields.
fn line_with(changes: &[(&str, &str)]) -> String {
    let line = LockLine::own().to_string();
    let fields = line.split(' ').map(|field| {
        let key = field.split('=').next().unwrap();
        let changed = changes.iter().find(|(name, _)| *name == key);
        changed.map_or(field.to_owned(), |(name, value)| format!("{name}={value}"))
    });
    fields.collect::<Vec<_>>().join(" ") + "\n"
}

const OTHER_BOOT: (&str, &str) = ("boot", "00000000-0000-0000-0000-000000000000");

#[test]
fn a_lock_of_another_host_is_never_taken_over_and_its_host_is_named() {
    let fixture = Fixture::new();
    let line = line_with(&[("host", "db2"), OTHER_BOOT, ("since", "1795240367")]);
    for (name, shared) in [("backup.pid", false), ("backup_ro.pid", true)] {
        fixture.write(name, &line);
        fixture.age(name, 1_000_000);
        let error = fixture.exclusive().unwrap_err();
        let text = error.to_string();
        let expected = format!(
            "Cannot lock backup TOU8BZ directory: process {} on host db2 has used it {}since {} \
             and did not say that it ended",
            std::process::id(),
            if shared { "in shared mode " } else { "" },
            format_timestamp(1_795_240_367)
        );
        assert_eq!(text, expected);
        let left = std::fs::read_to_string(fixture.dir().join(name)).unwrap();
        assert_eq!(left, line);
        if shared {
            let reader = fixture.shared().unwrap();
            drop(reader);
            let left = std::fs::read_to_string(fixture.dir().join(name)).unwrap();
            assert_eq!(left, line, "others stay on the list");
        } else {
            assert!(fixture.shared().is_err());
            let owner = exclusive_owner(fixture.dir()).unwrap();
            assert_eq!((owner.host.as_deref(), owner.is_here), (Some("db2"), false));
        }
        std::fs::remove_file(fixture.dir().join(name)).unwrap();
    }
}

#[test]
fn a_lock_of_an_earlier_boot_or_process_of_this_host_is_stale() {
    let fixture = Fixture::new();
    let machine = ("machine", "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a");
    let mut stale = vec![line_with(&[("start", "1")])];
    if !LockLine::own().to_string().contains("machine=-") {
        stale.push(line_with(&[OTHER_BOOT]));
    }
    for line in stale {
        for name in ["backup.pid", "backup_ro.pid"] {
            fixture.write(name, &line);
            drop(fixture.exclusive().unwrap());
            assert_eq!(fixture.files(), 0);
        }
    }
    fixture.write("backup.pid", &line_with(&[OTHER_BOOT, machine]));
    assert!(fixture.exclusive().is_err(), "two hosts of one name");
}

#[test]
fn of_other_containers_on_this_machine_the_file_locks_tell() {
    let fixture = Fixture::new();
    let line = line_with(&[("host", "box"), ("ns", "1")]);
    fixture.write("backup.pid", &line);
    drop(fixture.exclusive().unwrap());
    fixture.write("backup.pid", &line);
    let file = File::open(fixture.dir().join("backup.pid")).unwrap();
    rustix::fs::flock(&file, FlockOperation::LockExclusive).unwrap();
    let text = fixture.exclusive().unwrap_err().to_string();
    assert!(text.contains(" on host box has used it since "), "{text}");
    drop(file);
    drop(fixture.exclusive().unwrap());
    std::fs::create_dir(fixture.dir().join("database")).unwrap();
    fixture.write("backup_ro.pid", &line);
    let reader = reader_flock(fixture.dir()).unwrap();
    assert!(fixture.exclusive().is_err());
    drop(reader);
    drop(fixture.exclusive().unwrap());
    assert_eq!(fixture.files(), 1);
}

#[test]
fn a_lock_file_with_the_own_id_that_nobody_holds_is_stale() {
    let fixture = Fixture::new();
    fixture.write("backup.pid", &format!("{}\n", std::process::id()));
    assert!(fixture.exclusive().is_ok());
}

#[test]
fn bogus_and_old_empty_lock_files_are_replaced() {
    let fixture = Fixture::new();
    for text in ["x", "-5\n", "0", "99999999999\n", "\0"] {
        fixture.write("backup.pid", text);
        assert!(fixture.exclusive().is_ok(), "{text:?}");
    }
    fixture.write("backup.pid", "");
    assert!(exclusive_owner(fixture.dir()).is_some());
    fixture.age("backup.pid", 31);
    assert_eq!(exclusive_owner(fixture.dir()), None);
    assert!(fixture.exclusive().is_ok());
}

#[test]
fn waiting_ends_when_the_owner_lets_go() {
    let fixture = Fixture::new();
    let guard = fixture.exclusive().unwrap();
    std::thread::scope(|scope| {
        let waiter =
            scope.spawn(|| lock_exclusive(fixture.dir(), fixture.id, &LockOptions::PATIENT));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiter.is_finished());
        drop(guard);
        assert!(waiter.join().unwrap().is_ok());
    });
}

#[test]
fn a_cancelled_run_waits_no_longer() {
    let fixture = Fixture::new();
    let id = fixture.id;
    let cancel = AtomicBool::new(false);
    let options = LockOptions::PATIENT.cancelled_by(&cancel);
    for shared in [false, true] {
        cancel.store(false, Ordering::Relaxed);
        let owner = fixture.exclusive().unwrap();
        let began = Instant::now();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| match shared {
                true => lock_shared(fixture.dir(), id, &options).err(),
                false => lock_exclusive(fixture.dir(), id, &options).err(),
            });
            std::thread::sleep(Duration::from_millis(50));
            cancel.store(true, Ordering::Relaxed);
            let error = waiting.join().unwrap();
            assert!(matches!(error, Some(LockError::Interrupted)), "{error:?}");
        });
        assert!(began.elapsed() < Duration::from_secs(5));
        drop(owner);
        assert_eq!(fixture.files(), 0);
    }
}

#[test]
fn of_many_that_find_one_stale_lock_only_one_has_it_at_a_time() {
    let fixture = Fixture::new();
    let inside = std::sync::atomic::AtomicUsize::new(0);
    let entered = std::sync::atomic::AtomicUsize::new(0);
    let order = std::sync::atomic::Ordering::SeqCst;
    for _ in 0..50 {
        fixture.write("backup.pid", "999999999\n");
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    if let Ok(guard) = fixture.exclusive() {
                        assert_eq!(inside.fetch_add(1, order), 0, "two owners");
                        std::thread::yield_now();
                        inside.fetch_sub(1, order);
                        entered.fetch_add(1, order);
                        drop(guard);
                    }
                });
            }
        });
        assert_eq!(fixture.files(), 0);
    }
    assert!(entered.load(order) >= 50);
}

#[test]
fn a_directory_that_is_gone_is_an_error_and_its_locks_are_released_quietly() {
    let fixture = Fixture::new();
    let guard = fixture.exclusive().unwrap();
    std::fs::remove_dir_all(fixture.dir()).unwrap();
    drop(guard);
    let error = fixture.exclusive().unwrap_err();
    assert!(matches!(error, LockError::File { .. }), "{error}");
}
