//! What goes wrong during a backup of a running server ends in one clear line, exit code 1 and a
//! server that is out of backup mode, within a time. No earlier backup is harmed, and once the
//! fault is gone the next run succeeds.

use crate::online::{INSTANCE, Online, Running, SLOWLY, WITH_PASSWORD, completed_id, run_within};
use crate::postgres::{Load, PASSWORD, Server, Settings, Stop};
use crate::proxy::{Direction, Fault, Proxy};
use crate::support::{Output, assert_success};
use crate::survive_full_disk::SmallDisk;
use rustix::process::Signal;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// How long a silent server is waited for.
const PATIENCE_OF_RUN: [&str; 2] = ["-t", "3"];

/// One line must begin with `ERROR: ` and hold all of these words; the line behind it is a hint.
#[track_caller]
fn assert_fails(output: &Output, words: &[&str]) {
    assert_eq!(output.code, Some(1), "{output:#?}");
    let mut lines = output
        .stderr
        .lines()
        .skip_while(|line| !line.starts_with("ERROR: "));
    let error = lines.next().unwrap_or_default();
    let found = words.iter().all(|word| error.contains(word));
    assert!(found, "no line has {words:?}: {output:#?}");
    let hint = lines.next().unwrap_or_default();
    assert!(hint.starts_with("HINT: "), "no way out: {output:#?}");
    assert_eq!(lines.next(), None, "{output:#?}");
    assert!(!output.stderr.contains("panicked"), "{output:#?}");
    assert!(!output.stderr.contains(PASSWORD), "{output:#?}");
}

fn online(settings: Settings<'_>) -> Option<Online> {
    let online = Online::create(settings)?;
    Load::initialize(&online.server, 5);
    Some(online)
}

/// After a fault: no backup has begun that counts, the server is free, the next one succeeds.
fn assert_recovers(online: &Online, earlier: &str) {
    online.server.assert_out_of_backup_mode();
    assert_success(&online.validate(earlier));
    let show = online
        .ground
        .gs_probackup(&["show", "--instance", INSTANCE], &online.catalog);
    assert!(!show.stdout.contains(" RUNNING "), "{}", show.stdout);
    let next = online.back_up(&[]);
    assert_success(&online.validate(&next));
}

/// A way to call it that is refused before anything is copied.
struct Refused {
    name: &'static str,
    connection: Vec<String>,
    password: &'static [&'static str],
    /// What the error line holds.
    words: &'static [&'static str],
}

/// Who may not, or cannot show that they may.
fn cases_of_users(online: &Online) -> Vec<Refused> {
    let connection = |user: &str, rest: &str| online.tcp(user, online.server.port, rest);
    let case = |name, connection, password, words| Refused {
        name,
        connection,
        password,
        words,
    };
    let nobody = connection("backup", "");
    vec![
        case(
            "wrong password",
            nobody.clone(),
            &["-W", "wrong"],
            &["password authentication failed for user \"backup\""],
        ),
        case(
            "no password",
            nobody.clone(),
            &["-w"],
            &["no password supplied"],
        ),
        case(
            "no terminal",
            nobody,
            &[],
            &["there is no terminal to ask on"],
        ),
        case(
            "missing attribute",
            connection("weak", ""),
            &WITH_PASSWORD,
            &["must be superuser or replication role to start walsender"],
        ),
        case(
            "missing permission",
            connection("half", ""),
            &WITH_PASSWORD,
            &["permission denied for function pg_backup_start"],
        ),
        case(
            "unknown user",
            connection("stranger", ""),
            &WITH_PASSWORD,
            &["password authentication failed for user \"stranger\""],
        ),
        case(
            "unknown database",
            connection("backup", "dbname=nowhere"),
            &WITH_PASSWORD,
            &["database \"nowhere\" does not exist"],
        ),
        case(
            "only with TLS",
            connection("only_tls", "sslmode=disable"),
            &WITH_PASSWORD,
            &["pg_hba.conf rejects connection"],
        ),
    ]
}

/// Where no server is, or not the one that should be.
fn cases_of_places(online: &Online) -> Vec<Refused> {
    let port = online.server.port;
    let nobody = crate::postgres::free_port(0);
    let certificates = &online.ground.certificates;
    let verify = |path: String| format!("sslmode=verify-ca sslrootcert={path}");
    let wrong_authority = verify(certificates.wrong_authority.display().to_string());
    let missing_authority = verify(online.ground.text("nowhere.pem"));
    let other_name = format!(
        "hostaddr=127.0.0.1 host=elsewhere sslmode=verify-full sslrootcert={}",
        certificates.authority.display()
    );
    let (database, own_port) = (format!("dbname=postgres {other_name}"), port.to_string());
    let other_name = ["-d", &database, "-p", &own_port, "-U", "backup"].map(str::to_owned);
    let case = |name, port, rest: &str, words| Refused {
        name,
        connection: online.tcp("backup", port, rest),
        password: &WITH_PASSWORD,
        words,
    };
    vec![
        case(
            "wrong port",
            nobody,
            "",
            &["could not connect to database", "Connection refused"],
        ),
        case("wrong authority", port, &wrong_authority, &["certificate"]),
        case(
            "missing authority",
            port,
            &missing_authority,
            &["nowhere.pem"],
        ),
        Refused {
            name: "wrong name",
            connection: other_name.to_vec(),
            password: &WITH_PASSWORD,
            words: &["certificate"],
        },
    ]
}

#[test]
fn what_is_wrong_from_the_start_is_said_at_once() {
    let Some(online) = online(Settings::default()) else {
        return;
    };
    let earlier = online.back_up(&[]);
    let users = cases_of_users(&online);
    for case in users.iter().chain(&cases_of_places(&online)) {
        eprintln!("case: {}", case.name);
        let mut command = online.backup_command(&case.connection, case.password);
        let output = run_within(&mut command, PATIENCE);
        assert_fails(&output, case.words);
        assert!(
            !output.stderr.contains("Start backing up files"),
            "{output:#?}"
        );
        online.server.assert_out_of_backup_mode();
    }
    assert_recovers(&online, &earlier);
}

#[test]
fn socket_that_is_not_there_is_named() {
    let Some(online) = online(Settings::default()) else {
        return;
    };
    let directory = online.ground.text("empty");
    let connection = ["-d", "postgres", "-h", &directory, "-U", "postgres", "-w"];
    let connection = connection.map(str::to_owned);
    let output = run_within(&mut online.backup_command(&connection, &[]), PATIENCE);
    assert_fails(
        &output,
        &["could not connect to database postgres", &directory],
    );
}

#[test]
fn server_of_another_system_identifier_is_refused() {
    let Some(online) = online(Settings::default()) else {
        return;
    };
    let earlier = online.back_up(&[]);
    let other = Server::create(&online.ground, "other", Settings::default());
    // The connection leads to another cluster than the data directory.
    let output = online.try_back_up(&crate::online::socket(&other), &[]);
    assert_fails(
        &output,
        &[
            &other.system_identifier(),
            &online.server.system_identifier(),
        ],
    );
    other.assert_out_of_backup_mode();
    // The data directory is another than that of the instance.
    let data = other.data.display().to_string();
    let output = online.try_back_up(&crate::online::socket(&other), &["-D", &data]);
    let words = "Backup data directory was initialized for system id";
    assert_fails(&output, &[words, &other.system_identifier()]);
    other.assert_out_of_backup_mode();
    // A copy of the cluster has its identifier, and may have newer checkpoints.
    online.server.copy_to("copy", false);
    let copy = Server::start_directory(&online.ground, "copy");
    let output = online.try_back_up(&crate::online::socket(&copy), &[]);
    assert_fails(&output, &["the server that answers listens on port"]);
    copy.assert_out_of_backup_mode();
    assert_recovers(&online, &earlier);
}

/// The fault, and which words tell of it.
type Case<'a> = (&'a str, Stop, &'a [&'a str]);

#[test]
fn server_that_stops_in_mid_backup_is_noticed() {
    let Some(mut online) = online(Settings::default()) else {
        return;
    };
    let earlier = online.back_up(&[]);
    let cases: [Case<'_>; 2] = [
        ("fast", Stop::Fast, &["cannot stream WAL behind"]),
        ("immediate", Stop::Immediate, &["cannot stream WAL behind"]),
    ];
    for (name, how, words) in cases {
        eprintln!("case: {name}");
        let mut running = online.hold_in_the_middle(&online.socket(), &SLOWLY);
        running.release();
        online.server.stop(how);
        let output = running.finish(PATIENCE);
        online.server.start();
        assert_fails(&output, words);
    }
    // Up again before the run looks: it is another run of the server all the same.
    let mut running = online.hold_in_the_middle(&online.socket(), &SLOWLY);
    online.server.restart(Stop::Immediate);
    assert_fails(&running.finish(PATIENCE), &["cannot stream WAL behind"]);
    assert_recovers(&online, &earlier);
}

/// Starts a backup through a proxy and holds it in the middle.
fn through(online: &Online, proxy: &Proxy) -> Running {
    let connection = online.tcp("backup", proxy.port(), "sslmode=disable");
    let others = [&WITH_PASSWORD[..], &PATIENCE_OF_RUN, &SLOWLY].concat();
    online.hold_in_the_middle(&connection, &others)
}

#[test]
fn network_that_stalls_is_reset_or_is_cut_is_noticed_in_time() {
    let Some(online) = online(Settings::default()) else {
        return;
    };
    let earlier = online.back_up(&[]);
    let cases: [(Fault, &[&str]); 3] = [
        (
            Fault::Stall,
            &["nothing came from the server for 3 seconds"],
        ),
        (Fault::Reset, &["cannot stream WAL behind"]),
        (Fault::Close, &["cannot stream WAL behind"]),
    ];
    for (fault, words) in cases {
        eprintln!("case: {fault:?}");
        let proxy = Proxy::tcp(online.server.port);
        let mut running = through(&online, &proxy);
        proxy.set(fault);
        let output = running.finish(PATIENCE);
        assert_fails(&output, words);
        // With the connections the server's sessions end, at the latest now.
        drop(proxy);
        online.server.assert_out_of_backup_mode();
    }
    assert_recovers(&online, &earlier);
}

#[test]
fn network_cut_after_any_number_of_bytes_never_hangs_and_never_passes_for_a_backup() {
    let Some(online) = online(Settings::default()) else {
        return;
    };
    let earlier = online.back_up(&[]);
    let connection = |proxy: &Proxy| {
        let parameters = "sslmode=disable connect_timeout=3";
        online.tcp("backup", proxy.port(), parameters)
    };
    let others = [&WITH_PASSWORD[..], &PATIENCE_OF_RUN].concat();
    let proxy = Proxy::tcp(online.server.port);
    let whole = online.try_back_up(&connection(&proxy), &others);
    assert_success(&whole);
    let all = proxy.passed(Direction::ToClient);
    drop(proxy);
    for (turn, bytes) in [
        0,
        1,
        5,
        14,
        100,
        400,
        600,
        900,
        1500,
        4000,
        all / 2,
        all * 9 / 10,
    ]
    .into_iter()
    .enumerate()
    {
        let fault = [Fault::Close, Fault::Reset, Fault::Stall][turn % 3];
        let proxy = Proxy::tcp(online.server.port);
        proxy.set_after(Direction::ToClient, bytes, fault);
        let mut command = online.backup_command(&connection(&proxy), &others);
        let output = run_within(&mut command, PATIENCE);
        drop(proxy);
        let case = format!("{fault:?} after {bytes} of {all}");
        if output.code == Some(0) {
            // The last segment goes on behind the stop position; what the backup needs was there.
            assert!(bytes >= all / 2, "{case}: {output:#?}");
            assert_success(&online.validate(&completed_id(&output)));
        } else {
            assert_eq!(output.code, Some(1), "{case}: {output:#?}");
            assert!(output.stderr.contains("ERROR: "), "{case}: {output:#?}");
        }
        online.server.assert_out_of_backup_mode();
    }
    assert_recovers(&online, &earlier);
}

/// Starts a backup that waits for a checkpoint of some minutes.
fn waiting_for_a_checkpoint(online: &Online, connection: &[String], others: &[&str]) -> Running {
    let all = "update pgbench_accounts set abalance = abalance";
    online.server.execute("bench", all);
    let mut running = online.start_backup(connection, &[&["-C"], others].concat());
    let statement = "select count(*) from pg_stat_activity \
                     where query ~ 'pg_backup_start' and pid <> pg_backend_pid()";
    while online.server.query("postgres", statement) == "0" {
        assert!(running.is_running(), "{:#?}", running.finish(PATIENCE));
    }
    running
}

#[test]
fn long_checkpoint_is_waited_for_but_not_by_a_signal_nor_with_a_server_that_falls_silent() {
    let Some(online) = online(Settings::default()) else {
        return;
    };
    let earlier = online.back_up(&[]);
    let mut running = waiting_for_a_checkpoint(&online, &online.socket(), &[]);
    running.signal(Signal::TERM);
    assert_interrupted(&running.finish(Duration::from_secs(10)));
    online.server.assert_out_of_backup_mode();
    let proxy = Proxy::tcp(online.server.port);
    let connection = online.tcp("backup", proxy.port(), "sslmode=disable");
    let others = [&WITH_PASSWORD[..], &["-t", "2"]].concat();
    let mut running = waiting_for_a_checkpoint(&online, &connection, &others);
    std::thread::sleep(Duration::from_secs(4));
    assert!(running.is_running(), "a checkpoint may take longer than -t");
    proxy.set(Fault::Stall);
    let words = ["timeout after 2 seconds while waiting for the answer to a statement"];
    assert_fails(&running.finish(Duration::from_secs(20)), &words);
    drop(proxy);
    // The server looks at its client when the checkpoint is over.
    online.server.execute("postgres", "checkpoint");
    assert_recovers(&online, &earlier);
}

fn assert_interrupted(output: &Output) {
    assert_eq!(output.code, Some(1), "{output:#?}");
    let is_said = output.stderr.to_lowercase().contains("interrupted");
    assert!(is_said, "{output:#?}");
}

#[test]
fn slow_network_is_no_fault() {
    let Some(online) = online(Settings::default()) else {
        return;
    };
    let proxy = Proxy::tcp(online.server.port);
    proxy.set(Fault::Delay(Duration::from_millis(30)));
    let connection = online.tcp("backup", proxy.port(), "sslmode=disable");
    let others = [&WITH_PASSWORD[..], &PATIENCE_OF_RUN].concat();
    let output = online.try_back_up(&connection, &others);
    assert_success(&output);
    assert_success(&online.validate(&completed_id(&output)));
}

#[test]
fn slot_moves_on_and_one_that_is_missing_or_dropped_in_mid_backup_is_named() {
    let Some(online) = online(Settings::default()) else {
        return;
    };
    let earlier = online.back_up(&[]);
    let output = online.try_back_up(&online.socket(), &["-S", "nowhere"]);
    assert_fails(
        &output,
        &[
            "Cannot continue backup because stream connect has failed",
            "replication slot \"nowhere\" does not exist",
        ],
    );
    let create = "select pg_create_physical_replication_slot('kept', true)";
    online.server.query("postgres", create);
    let position = "select restart_lsn from pg_replication_slots where slot_name = 'kept'";
    let before = online.server.query("postgres", position);
    online.back_up(&["-S", "kept"]);
    let after = online.server.query("postgres", position);
    assert!(before < after, "the slot has moved on: {before}, {after}");
    let others = [&SLOWLY[..], &["-S", "kept"]].concat();
    let mut running = online.hold_in_the_middle(&online.socket(), &others);
    let drop_it = "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots;
                   select pg_drop_replication_slot('kept')";
    online.server.query("postgres", drop_it);
    assert_fails(&running.finish(PATIENCE), &["cannot stream WAL behind"]);
    assert_recovers(&online, &earlier);
}

#[test]
fn temporary_slot_is_gone_afterwards() {
    let Some(online) = online(Settings::default()) else {
        return;
    };
    let others = [&SLOWLY[..], &["--temp-slot"]].concat();
    let mut running = online.hold_in_the_middle(&online.socket(), &others);
    let count = "select count(*) from pg_replication_slots where temporary";
    assert_eq!(online.server.query("postgres", count), "1");
    assert_success(&running.finish(PATIENCE));
    assert_eq!(online.server.query("postgres", count), "0");
}

#[test]
fn wal_removed_before_it_was_streamed_is_said() {
    let settings = Settings {
        configuration: "max_wal_size = 32MB\nmin_wal_size = 32MB\nwal_keep_size = 0",
        ..Settings::default()
    };
    let Some(online) = online(settings) else {
        return;
    };
    let earlier = online.back_up(&[]);
    let mut running = online.hold_in_the_middle(&online.socket(), &SLOWLY);
    // The client stands still until what it has not received yet is gone.
    online.server.execute(
        "postgres",
        "create table w as select n, repeat('w', 500) from generate_series(1, 200000) n;
         select pg_switch_wal(); checkpoint; select pg_switch_wal(); checkpoint;",
    );
    let words = [
        "cannot stream WAL behind",
        "the server has removed it already",
    ];
    assert_fails(&running.finish(PATIENCE), &words);
    // Otherwise a busy machine may lose the next backup's WAL in the same way.
    let keep = "alter system set wal_keep_size = '1GB'";
    online.server.execute("postgres", keep);
    online.server.execute("postgres", "select pg_reload_conf()");
    assert_recovers(&online, &earlier);
}

#[test]
fn full_disk_of_the_catalog_is_said_and_the_server_is_free() {
    let Some(mut online) = online(Settings::default()) else {
        return;
    };
    let place = online.ground.path().join("small");
    let Some(disk) = SmallDisk::mount(&place, 320) else {
        return;
    };
    online.ground.own(disk.path(), 0o700);
    online.catalog = place.join("catalog");
    assert_success(&online.ground.gs_probackup(&["init"], &online.catalog));
    online.add_instance(INSTANCE, &online.server.data);
    let earlier = online.back_up(&SLOWLY);
    // It fills up in the middle.
    let mut running = online.hold_in_the_middle(&online.socket(), &SLOWLY);
    fill(&place.join("filler"));
    assert_fails(&running.finish(PATIENCE), &["No space left on device"]);
    online.server.assert_out_of_backup_mode();
    // It is full from the start, and then almost.
    let full = online.try_back_up(&online.socket(), &[]);
    assert_fails(&full, &["No space left on device"]);
    let filler = std::fs::File::options()
        .write(true)
        .open(place.join("filler"));
    let filler = filler.unwrap();
    filler
        .set_len(filler.metadata().unwrap().len() - (8 << 20))
        .unwrap();
    drop(filler);
    let words = ["There is not enough remaining disk space for backup"];
    assert_fails(&online.try_back_up(&online.socket(), &[]), &words);
    std::fs::remove_file(place.join("filler")).unwrap();
    assert_recovers(&online, &earlier);
}

/// Writes a file until no space is left.
fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).unwrap();
    let error = loop {
        if let Err(error) = file.write_all(&[7; 64 * 1024]) {
            break error;
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    // What is smaller than a piece.
    while file.write_all(&[7; 512]).is_ok() {}
}
