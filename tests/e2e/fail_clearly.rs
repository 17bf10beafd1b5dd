//! What goes wrong during a backup of a running server ends in one clear line, exit code 1 and a
//! server that is out of backup mode, within a time. No earlier backup is harmed, and once the
//! fault is gone the next run succeeds.

use crate::online::{INSTANCE, Online, Running, SLOWLY, WITH_PASSWORD, completed_id, run_within};
use crate::postgres::{Load, PASSWORD, Server, Settings, Stop};
use crate::proxy::{Direction, Fault, Proxy};
use crate::support::{Output, assert_success};
use crate::survive_full_disk::SmallDisk;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// Of `-t`, in seconds: how long a silent server is waited for.
const PATIENCE_OF_RUN: [&str; 2] = ["-t", "5"];

/// One line must begin with `ERROR: ` and hold all of these words.
#[track_caller]
fn assert_fails(output: &Output, words: &[&str]) {
    assert_eq!(output.code, Some(1), "{output:#?}");
    let mut errors = output
        .stderr
        .lines()
        .filter(|line| line.starts_with("ERROR: "));
    let found = errors.any(|line| words.iter().all(|word| line.contains(word)));
    assert!(found, "no line has {words:?}: {output:#?}");
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
        case("no terminal", nobody, &[], &["no password supplied"]),
        case(
            "missing permission",
            connection("weak", ""),
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
        case("wrong name", port, &other_name, &["certificate"]),
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
        let mut running = online.start_backing_up(&online.socket(), &SLOWLY);
        online.server.stop(how);
        let output = running.finish(PATIENCE);
        online.server.start();
        assert_fails(&output, words);
    }
    // Up again before the run looks: it is another server run all the same.
    let mut running = online.start_backing_up(&online.socket(), &SLOWLY);
    online.server.restart(Stop::Immediate);
    assert_fails(&running.finish(PATIENCE), &["cannot stream WAL behind"]);
    assert_recovers(&online, &earlier);
}

/// Starts a backup through a proxy, and does something to the network once it copies.
fn through(online: &Online, proxy: &Proxy, others: &[&str]) -> Running {
    let connection = online.tcp("backup", proxy.port(), "sslmode=disable");
    let others = [&WITH_PASSWORD[..], &PATIENCE_OF_RUN, &SLOWLY, others].concat();
    online.start_backing_up(&connection, &others)
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
            &["nothing came from the server for 5 seconds"],
        ),
        (Fault::Reset, &["cannot stream WAL behind"]),
        (Fault::Close, &["cannot stream WAL behind"]),
    ];
    for (fault, words) in cases {
        eprintln!("case: {fault:?}");
        let proxy = Proxy::tcp(online.server.port);
        let mut running = through(&online, &proxy, &[]);
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
    let connection = |proxy: &Proxy| online.tcp("backup", proxy.port(), "sslmode=disable");
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
        assert_eq!(
            output.code,
            Some(1),
            "{fault:?} after {bytes} of {all}: {output:#?}"
        );
        assert!(output.stderr.contains("ERROR: "), "{output:#?}");
        drop(proxy);
        online.server.assert_out_of_backup_mode();
    }
    assert_recovers(&online, &earlier);
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
fn slot_that_is_missing_or_dropped_in_mid_backup_is_named() {
    let Some(online) = online(Settings::default()) else {
        return;
    };
    let earlier = online.back_up(&[]);
    let output = online.try_back_up(&online.socket(), &["-S", "nowhere"]);
    assert_fails(
        &output,
        &["Cannot continue backup because stream connect has failed."],
    );
    assert!(
        output
            .stderr
            .contains("replication slot \"nowhere\" does not exist"),
        "{output:#?}"
    );
    let create = "select pg_create_physical_replication_slot('kept', true)";
    online.server.query("postgres", create);
    let others = [&SLOWLY[..], &["-S", "kept"]].concat();
    let mut running = online.start_backing_up(&online.socket(), &others);
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
    let mut running = online.start_backing_up(&online.socket(), &others);
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
    let proxy = Proxy::tcp(online.server.port);
    let mut running = through(&online, &proxy, &["-t", "120"]);
    // The stream stands still until what it needs is gone, and is then cut: the server says so to
    // the one who comes again.
    proxy.set(Fault::Stall);
    online.server.execute(
        "postgres",
        "create table w as select n, repeat('w', 500) from generate_series(1, 200000) n;
         select pg_switch_wal(); checkpoint; select pg_switch_wal(); checkpoint;",
    );
    let cut = "select pg_terminate_backend(pid) from pg_stat_replication";
    online.server.query("postgres", cut);
    proxy.set(Fault::None);
    assert_fails(&running.finish(PATIENCE), &["cannot stream WAL behind"]);
    drop(proxy);
    assert_recovers(&online, &earlier);
}

#[test]
fn full_disk_of_the_catalog_is_said_and_the_server_is_free() {
    let Some(online) = online(Settings::default()) else {
        return;
    };
    let Some(disk) = SmallDisk::mount(&online.ground.path().join("small"), 24) else {
        return;
    };
    online
        .ground
        .own(&online.ground.path().join("small"), 0o700);
    let catalog = online.ground.path().join("small/catalog");
    let data = online.server.data.display().to_string();
    assert_success(&online.ground.gs_probackup(&["init"], &catalog));
    let add = ["add-instance", "--instance", INSTANCE, "-D", &data];
    assert_success(&online.ground.gs_probackup(&add, &catalog));
    let mut words = vec!["backup", "--instance", INSTANCE, "-b", "FULL"];
    let connection = online.socket();
    words.extend(connection.iter().map(String::as_str));
    let output = run_within(&mut online.ground.program(&words, &catalog), PATIENCE);
    assert_eq!(output.code, Some(1), "{output:#?}");
    let is_told = output.stderr.contains("No space left on device")
        || output
            .stderr
            .contains("There is not enough remaining disk space for backup");
    assert!(is_told, "{output:#?}");
    online.server.assert_out_of_backup_mode();
    let show = online
        .ground
        .gs_probackup(&["show", "--instance", INSTANCE], &catalog);
    assert!(show.stdout.contains(" ERROR "), "{}", show.stdout);
    drop(disk);
    online.back_up(&[]);
}
