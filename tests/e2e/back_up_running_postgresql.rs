//! A full backup of a PostgreSQL that is written to all the while comes back as the state between
//! two transactions of the run; the server is never left in backup mode.

use crate::fixtures;
use crate::online::{Online, SLOWLY, WITH_PASSWORD, completed_id, socket};
use crate::postgres::{Load, PASSWORD, Server, Settings, Stop, load};
use crate::support::assert_success;
use rustix::process::Signal;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

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
    let mut running = online.hold_in_the_middle(&connection, &others);
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
    // The init fork of the table is empty and therefore only listed; that of its index has a page.
    let content = std::fs::read_to_string(online.backup_path(&id).join("backup_content.control"));
    assert!(content.unwrap().contains(&format!("\"{file}_init\"")));
    let index = server.query("postgres", "select pg_relation_filepath('u_pkey')");
    assert!(!stored.join(&index).exists() && stored.join(format!("{index}_init")).exists());
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
    let mut running = online.hold_in_the_middle(&online.socket(), &SLOWLY);
    for (database, statements) in meanwhile {
        online.server.execute(database, statements);
    }
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
    let mut running = online.hold_in_the_middle(&online.socket(), &SLOWLY);
    online.server.execute("postgres", "drop database doomed");
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

#[test]
fn tablespace_created_in_mid_backup_is_told_and_comes_back() {
    let Some(online) = Online::create(Settings::default()) else {
        return;
    };
    let (server, ground) = (&online.server, &online.ground);
    Load::initialize(server, 5);
    let (old, new) = (
        ground.create_directory("old\\place"),
        ground.create_directory("new"),
    );
    server.execute(
        "postgres",
        &format!("create tablespace old location '{}'", old.display()),
    );
    server.execute("postgres", "create table a tablespace old as select 1 as n");
    let mut running = online.hold_in_the_middle(&online.socket(), &SLOWLY);
    server.execute(
        "postgres",
        &format!("create tablespace new location '{}'", new.display()),
    );
    let fill = "create table t tablespace new as select generate_series(1, 20000) as n";
    server.execute("postgres", fill);
    let output = running.finish(PATIENCE);
    assert_success(&output);
    let warning = format!("was created at \"{}\" while the backup ran", new.display());
    assert!(output.stderr.contains(&warning), "{output:#?}");
    let expected = server.digest_of_all_tables();
    let id = completed_id(&output);
    let map = online.backup_path(&id).join("database/tablespace_map");
    let map = std::fs::read_to_string(map).unwrap();
    assert_eq!(map.lines().count(), 2, "{map}");
    assert!(
        map.lines().next().unwrap().ends_with("/old\\place"),
        "{map}"
    );
    // Recovery makes the new one where it was; the old server is not to be there then.
    let Online {
        mut server,
        catalog,
        ground,
    } = online;
    server.stop(Stop::Fast);
    std::fs::rename(&new, ground.path().join("new.away")).unwrap();
    ground.create_directory("new");
    let mapping = format!("{0}={0}.moved", old.display());
    let target = ground.text("restored");
    let words = [
        "restore",
        "--instance=main",
        "-i",
        &id,
        "-D",
        &target,
        "-T",
        &mapping,
    ];
    assert_success(&ground.gs_probackup(&words, &catalog));
    let mut restored = Server::start_directory(&ground, "restored");
    assert_eq!(restored.digest_of_all_tables(), expected);
    let places = [
        format!("{}.moved", old.display()),
        new.display().to_string(),
    ];
    assert_eq!(restored.tablespaces(), places);
    restored.assert_amcheck();
    restored.stop(Stop::Fast);
    restored.assert_checksums();
}

/// Bytes of all files below a directory; of those that are there when it is looked at.
fn bytes_below(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Starts a slow backup and kills it once its directory holds so many bytes.
fn kill_at(online: &Online, bytes: u64) {
    let earlier = online.ids();
    let mut child = online
        .backup_command(&online.socket(), &SLOWLY)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    loop {
        let new = online.ids().into_iter().find(|id| !earlier.contains(id));
        if bytes == 0 || new.is_some_and(|id| bytes_below(&online.backup_path(&id)) >= bytes) {
            break;
        }
        assert_eq!(
            child.try_wait().unwrap(),
            None,
            "it ends before {bytes} bytes"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn killed_twenty_times_it_leaves_the_server_alone_and_every_backup_whole() {
    const ROUNDS: u64 = 20;
    let Some(online) = Online::create(Settings::default()) else {
        return;
    };
    Load::initialize(&online.server, 3);
    let mut load = Load::start(&online.server, 1);
    let first = online.back_up(&[]);
    let second = online.back_up(&SLOWLY);
    let all = bytes_below(&online.backup_path(&second));
    for round in 0..ROUNDS {
        // From before the first byte to when almost all is there.
        kill_at(&online, all * round / (ROUNDS + 1));
        online.server.assert_out_of_backup_mode();
        assert_success(&online.validate(&first));
    }
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
        if signal == Signal::HUP && crate::support::hangups_are_ignored() {
            eprintln!("SIGHUP is not tried: the tests run under nohup, which the program honours");
            continue;
        }
        let mut running = online.hold_in_the_middle(&online.socket(), &SLOWLY);
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
    let mut running = online.hold_in_the_middle(&online.socket(), &SLOWLY);
    let before = online.ids();
    let second = online.try_back_up(&online.socket(), &[]);
    assert_eq!(second.code, Some(1), "{second:#?}");
    let pid = running.pid();
    let error = format!("is running: process {pid} on host ");
    let hint = format!("HINT: wait until it ends, or look at it with: ps -fp {pid}");
    assert!(
        second.stderr.contains(&error) && second.stderr.contains(&hint),
        "{second:#?}"
    );
    assert_eq!(online.ids(), before, "it leaves nothing");
    assert_success(&running.finish(PATIENCE));
}

#[test]
fn what_a_dead_exclusive_backup_left_is_explained_and_stays_out_of_the_backup() {
    let Some(online) = Online::create(Settings::default()) else {
        return;
    };
    Load::initialize(&online.server, 1);
    let stale = "START WAL LOCATION: 0/28 (file 000000010000000000000000)\nLABEL: stale\n";
    for name in ["main/backup_label", "main/tablespace_map"] {
        online.ground.write(name, stale);
    }
    let output = online.try_back_up(&online.socket(), &[]);
    assert_success(&output);
    for name in ["backup_label", "tablespace_map"] {
        let path = online.server.data.join(name);
        let warning = format!(
            "WARNING: \"{}\" belongs to an exclusive backup",
            path.display()
        );
        assert!(output.stderr.contains(&warning), "{output:#?}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), stale, "left alone");
        std::fs::remove_file(&path).unwrap();
    }
    let id = completed_id(&output);
    let stored = online.backup_path(&id).join("database");
    let label = std::fs::read_to_string(stored.join("backup_label")).unwrap();
    assert!(label.contains("BACKUP METHOD: streamed"), "{label}");
    assert!(
        !stored.join("tablespace_map").exists(),
        "it has no tablespace"
    );
    online.server.assert_out_of_backup_mode();
    assert_sound(online.restore_and_start(&id, "restored"));
}

#[test]
fn checkpoint_is_immediate_by_default_and_spread_on_demand() {
    let settings = Settings {
        // A spread checkpoint that is soon over.
        configuration: "checkpoint_timeout = 30s\ncheckpoint_completion_target = 0.01",
        ..Settings::default()
    };
    let Some(online) = Online::create(settings) else {
        return;
    };
    for (others, words) in [
        (&[][..], "checkpoint starting: immediate force wait"),
        (&["-C"], "checkpoint starting: force wait"),
        (&["--smooth-checkpoint"], "checkpoint starting: force wait"),
    ] {
        let logged = online.server.log().len();
        online.back_up(others);
        let log = online.server.log()[logged..].to_owned();
        assert!(log.contains(words), "{others:?}: {log}");
    }
}

#[test]
fn password_is_asked_for_on_the_terminal_and_not_shown() {
    let Some(online) = Online::create(Settings::default()) else {
        return;
    };
    let connection = online.tcp("backup", online.server.port, "");
    let backup = online.backup_command(&connection, &[]);
    let words = std::iter::once(backup.get_program()).chain(backup.get_args());
    let line: String = words
        .map(|word| format!("'{}' ", word.to_str().unwrap()))
        .collect();
    // `script` gives its child a terminal, and passes on what it gets itself.
    let mut child = online
        .ground
        .command("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut shown = Vec::new();
    let mut terminal = child.stdout.take().unwrap();
    // What is typed before the question is thrown away.
    while !shown.ends_with(b": ") {
        let mut byte = [0];
        assert_eq!(terminal.read(&mut byte).unwrap(), 1, "no question");
        shown.extend(byte);
    }
    let mut keyboard = child.stdin.take().unwrap();
    keyboard
        .write_all(format!("{PASSWORD}\n").as_bytes())
        .unwrap();
    terminal.read_to_end(&mut shown).unwrap();
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert!(child.wait().unwrap().success(), "{shown}");
    assert!(shown.contains("Password for user backup"), "{shown}");
    assert!(
        shown.contains(" completed") && !shown.contains(PASSWORD),
        "{shown}"
    );
}
