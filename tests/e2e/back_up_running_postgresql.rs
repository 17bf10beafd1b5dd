//! A full backup of a PostgreSQL that is written to all the while comes back as the state between
//! two transactions of the run; the server is never left in backup mode.

use crate::fixtures;
use crate::online::{Online, SLOWLY, WITH_PASSWORD, completed_id, socket};
use crate::postgres::{Load, Server, Settings, Stop, load};
use crate::support::assert_success;
use rustix::process::Signal;
use std::path::Path;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);

/// Every check of a restored server that has pgbench's tables, then a clean stop.
fn assert_sound(mut restored: Server) {
    load::assert_between_transactions(&restored);
    restored.assert_amcheck();
    restored.stop(Stop::Fast);
    restored.assert_checksums();
}

/// Backs up under load over a connection and checks what comes back.
fn assert_comes_back_from_load(connection: impl Fn(&Online) -> Vec<String>, others: &[&str]) {
    let Some(online) = Online::create(Settings::default()) else {
        return;
    };
    let server = &online.server;
    Load::initialize(server, 3);
    server.execute(
        "bench",
        "create table still as select generate_series(1, 5000) as n",
    );
    let mut load = Load::start(server, 2);
    let before = load::history(server);
    let output = online.try_back_up(&connection(&online), others);
    assert_success(&output);
    assert!(load.is_running());
    drop(load);
    let after = load::history(server);
    assert!(before.len() < after.len(), "transactions went on");
    server.assert_out_of_backup_mode();
    let restored = online.restore_and_start(&completed_id(&output), "restored");
    let found = load::history(&restored);
    assert!(
        before.is_subset(&found),
        "what was committed before is there"
    );
    assert!(found.is_subset(&after), "what never was is not");
    let still = |server: &Server| server.digest_of_all_tables()["bench.public.still"].clone();
    assert_eq!(still(&restored), still(server));
    assert_sound(restored);
}

#[test]
fn backup_over_the_socket_comes_back_from_load() {
    assert_comes_back_from_load(Online::socket, &["-j2"]);
}

#[test]
fn backup_over_tls_with_scram_comes_back_from_load() {
    let connection = |online: &Online| {
        let authority = online.ground.certificates.authority.display();
        let tls = format!("sslmode=verify-full sslrootcert={authority}");
        online.tcp("only_tls", online.server.port, &tls)
    };
    let others = [&WITH_PASSWORD[..], &["--compress-algorithm=zstd"]].concat();
    assert_comes_back_from_load(connection, &others);
}

#[test]
fn backup_over_tcp_with_an_old_md5_password_comes_back_from_load() {
    let connection = |online: &Online| online.tcp("old_md5", online.server.port, "sslmode=disable");
    assert_comes_back_from_load(connection, &WITH_PASSWORD);
}

#[test]
fn password_never_shows_in_output_process_title_or_catalog() {
    let Some(online) = Online::create(Settings::default()) else {
        return;
    };
    Load::initialize(&online.server, 5);
    let connection = online.tcp("backup", online.server.port, "");
    let others = [
        &WITH_PASSWORD[..],
        &SLOWLY,
        &["--log-level-console=verbose"],
    ]
    .concat();
    let mut running = online.start_backing_up(&connection, &others);
    let secret = WITH_PASSWORD[1];
    let ours = online.ground.text("gs_probackup");
    let titles: Vec<String> = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok())
        .filter(|title| title.contains(&ours))
        .collect();
    assert!(running.is_running() && !titles.is_empty());
    assert!(
        titles.iter().all(|title| !title.contains(secret)),
        "{titles:?}"
    );
    let output = running.finish(PATIENCE);
    assert_success(&output);
    assert!(!output.stdout.contains(secret) && !output.stderr.contains(secret));
    let written = online
        .ground
        .command("grep")
        .args(["-rlF", secret, "catalog"])
        .output();
    let written = String::from_utf8(written.unwrap().stdout).unwrap();
    assert!(written.is_empty(), "{written}");
}

#[test]
fn tablespaces_and_external_directories_come_along_and_unlogged_tables_come_back_empty() {
    let Some(online) = Online::create(Settings::default()) else {
        return;
    };
    let (server, ground) = (&online.server, &online.ground);
    let (first, second) = (
        ground.create_directory("ts1"),
        ground.create_directory("ts2"),
    );
    let external = ground.create_directory("external");
    ground.write("external/kept.txt", "kept");
    server.execute(
        "postgres",
        &format!(
            "create tablespace ts1 location '{}'; create tablespace ts2 location '{}';",
            first.display(),
            second.display()
        ),
    );
    server.execute(
        "postgres",
        "create table a tablespace ts1 as select n, md5(n::text) from generate_series(1, 9000) n;
         create index on a (md5) tablespace ts2;
         create table b (t text) tablespace ts2; insert into b select repeat('b', 5000);
         create unlogged table u (n int primary key); insert into u select generate_series(1, 9000);
         create temporary table t as select 1;",
    );
    let file = server.query("postgres", "select pg_relation_filepath('u')");
    let mut expected = server.digest_of_all_tables();
    let unlogged = expected.get_mut("postgres.public.u").unwrap();
    *unlogged = "0|d41d8cd98f00b204e9800998ecf8427e".to_owned();
    let id = online.back_up(&["-E", &external.display().to_string()]);
    let stored = online.backup_path(&id).join("database");
    assert!(
        !stored.join(&file).exists(),
        "the main fork is remade from the init fork"
    );
    assert!(stored.join(format!("{file}_init")).exists());
    online.restore(&id, "restored", &[&external]);
    let mut restored = Server::start_directory(ground, "restored");
    assert_eq!(restored.digest_of_all_tables(), expected);
    let places = [&first, &second].map(|place| format!("{}.restored", place.display()));
    assert_eq!(restored.tablespaces(), places);
    restored.execute("postgres", "insert into u values (1)");
    restored.assert_amcheck();
    let kept = format!("{}.restored", external.display());
    let differences = fixtures::differences(
        &fixtures::manifest(&external),
        &fixtures::manifest(Path::new(&kept)),
    );
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    restored.stop(Stop::Fast);
    restored.assert_checksums();
}

/// Runs statements in the middle of a backup and restores it; the end state must be there.
fn assert_survives_meanwhile(
    prepare: &str,
    meanwhile: &[(&str, &str)],
) -> Option<(Online, Server)> {
    let online = Online::create(Settings::default())?;
    Load::initialize(&online.server, 5);
    online.server.execute("bench", prepare);
    let load = Load::start(&online.server, 1);
    let mut running = online.start_backing_up(&online.socket(), &SLOWLY);
    for (database, statements) in meanwhile {
        online.server.execute(database, statements);
    }
    assert!(running.is_running(), "it happened in the middle");
    let output = running.finish(PATIENCE);
    assert_success(&output);
    drop(load);
    online.server.assert_out_of_backup_mode();
    let restored = online.restore_and_start(&completed_id(&output), "restored");
    load::assert_between_transactions(&restored);
    restored.assert_amcheck();
    Some((online, restored))
}

#[test]
fn database_dropped_in_mid_backup_is_gone_and_nothing_else() {
    let prepare = "create table t as select n, repeat('x', 500) from generate_series(1, 40000) n;";
    let Some(online) = Online::create(Settings::default()) else {
        return;
    };
    Load::initialize(&online.server, 5);
    for database in ["doomed", "spared"] {
        online
            .server
            .execute("postgres", &format!("create database {database}"));
        online.server.execute(database, prepare);
    }
    let mut running = online.start_backing_up(&online.socket(), &SLOWLY);
    online.server.execute("postgres", "drop database doomed");
    assert!(running.is_running(), "it happened in the middle");
    let output = running.finish(PATIENCE);
    assert_success(&output);
    let restored = online.restore_and_start(&completed_id(&output), "restored");
    assert_eq!(
        restored.databases(),
        ["bench", "postgres", "spared", "template1"]
    );
    assert_eq!(
        restored.digest_of_all_tables(),
        online.server.digest_of_all_tables()
    );
    assert_sound(restored);
}

#[test]
fn tables_truncated_dropped_and_grown_in_mid_backup_are_as_they_ended() {
    let prepare = "create table cut as select n, repeat('x', 500) from generate_series(1, 40000) n;
                   create table gone as select * from cut; create table grown as select 1 as n;
                   create table short as select * from cut;
                   alter table short set (autovacuum_enabled = off);";
    let meanwhile = [
        ("bench", "truncate cut; drop table gone;"),
        (
            "bench",
            "insert into grown select generate_series(1, 200000); create table new as table grown;",
        ),
        ("bench", "delete from short where n > 10;"),
        // Gives the empty end of the file back.
        ("bench", "vacuum short; checkpoint;"),
    ];
    let Some((online, mut restored)) = assert_survives_meanwhile(prepare, &meanwhile) else {
        return;
    };
    let of_the_test = |server: &Server| {
        let mut digests = server.digest_of_all_tables();
        digests.retain(|table, _| !table.contains("pgbench"));
        digests
    };
    assert_eq!(of_the_test(&restored), of_the_test(&online.server));
    assert!(!of_the_test(&restored).contains_key("bench.public.gone"));
    restored.stop(Stop::Fast);
    restored.assert_checksums();
}

#[test]
fn standby_is_backed_up_while_it_follows() {
    let Some(online) = Online::create(Settings::default()) else {
        return;
    };
    let primary = &online.server;
    Load::initialize(primary, 3);
    let standby = primary.create_standby("standby");
    let load = Load::start(primary, 2);
    let before = load::history(primary);
    standby.wait_for(primary);
    let data = standby.data.display().to_string();
    let output = online.try_back_up(&socket(&standby), &["-D", &data]);
    assert_success(&output);
    assert!(
        output.stderr.contains("is going to be taken from standby"),
        "{output:#?}"
    );
    drop(load);
    let after = load::history(primary);
    standby.assert_out_of_backup_mode();
    assert!(standby.is_in_recovery(), "it still follows");
    online.restore(&completed_id(&output), "restored", &[]);
    // Restored for itself, not as one more standby.
    let _ = std::fs::remove_file(online.ground.path().join("restored/standby.signal"));
    let restored = Server::start_directory(&online.ground, "restored");
    let found = load::history(&restored);
    assert!(before.is_subset(&found) && found.is_subset(&after));
    assert_sound(restored);
}

/// How long a slow backup takes, to spread kills over it.
fn measure(online: &Online) -> Duration {
    let began = Instant::now();
    online.back_up(&SLOWLY);
    began.elapsed()
}

#[test]
fn killed_twenty_times_it_leaves_the_server_alone_and_every_backup_whole() {
    const ROUNDS: u32 = 20;
    let Some(online) = Online::create(Settings::default()) else {
        return;
    };
    Load::initialize(&online.server, 3);
    let mut load = Load::start(&online.server, 1);
    let first = online.back_up(&[]);
    let longest = measure(&online);
    let mut hits = 0;
    for round in 0..ROUNDS {
        let delay = longest * (round * 7 % ROUNDS) / ROUNDS;
        let mut command = online.backup_command(&online.socket(), &SLOWLY);
        let mut child = command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(delay);
        hits += u32::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        online.server.assert_out_of_backup_mode();
        assert_success(&online.validate(&first));
    }
    assert!(hits >= ROUNDS / 2, "{hits} kills hit a running backup");
    assert!(load.is_running());
    let last = online.back_up(&[]);
    drop(load);
    for id in online.ids() {
        let control = std::fs::read_to_string(online.backup_path(&id).join("backup.control"));
        let control = control.unwrap_or_default();
        let is_usable = control.contains("status = OK") || control.contains("status = DONE");
        assert_eq!(
            online.validate(&id).code == Some(0),
            is_usable,
            "{id}: {control}"
        );
    }
    for (id, name) in [(first, "first"), (last, "last")] {
        assert_sound(online.restore_and_start(&id, name));
    }
}

#[test]
fn signals_end_it_within_seconds_with_the_server_out_of_backup_mode() {
    let Some(online) = Online::create(Settings::default()) else {
        return;
    };
    Load::initialize(&online.server, 5);
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut running = online.start_backing_up(&online.socket(), &SLOWLY);
        running.signal(signal);
        let output = running.finish(Duration::from_secs(10));
        assert_eq!(output.code, Some(1), "{signal:?}: {output:#?}");
        assert!(
            output.stderr.to_lowercase().contains("interrupted"),
            "{output:#?}"
        );
        online.server.assert_out_of_backup_mode();
    }
    assert_success(&online.validate(&online.back_up(&[])));
}

#[test]
fn run_beside_another_is_refused_at_once_and_names_it() {
    let Some(online) = Online::create(Settings::default()) else {
        return;
    };
    Load::initialize(&online.server, 5);
    let mut running = online.start_backing_up(&online.socket(), &SLOWLY);
    let began = Instant::now();
    let second = online.try_back_up(&online.socket(), &[]);
    assert!(running.is_running() && began.elapsed() < Duration::from_secs(5));
    assert_eq!(second.code, Some(1), "{second:#?}");
    assert!(
        second.stderr.contains("ERROR:") && second.stderr.contains("pid"),
        "{second:#?}"
    );
    assert_success(&running.finish(PATIENCE));
}
