//! Increments of a running PostgreSQL across what happens to a cluster between two backups, and
//! what may not lie between two backups of a chain.

use crate::faults::{Fault, run_with, was_killed};
use crate::online::{Online, completed_id, socket};
use crate::postgres::{Load, Server, Settings, Stop, load};
use crate::support::{Output, assert_success};
use std::path::Path;

const DELTA: [&str; 2] = ["-b", "DELTA"];

/// Tables before the FULL backup, in tablespaces and not.
const TABLES: &str = "create table in_gone tablespace gone as select generate_series(1, 9000) as n;
         create table in_stays tablespace stays as select generate_series(1, 9000) as n;
         create table cut as select n, repeat('x', 100) as t from generate_series(1, 90000) n;
         create table again as select n, 'old' as t from generate_series(1, 20000) n;
         create index on again (n);";

/// Cut to nothing and grown again: other rows in the same blocks; dropped and made again.
const CHANGES: &str =
    "create table in_late tablespace late as select generate_series(1, 9000) as n;
         delete from cut where n > 10; vacuum (truncate) cut;
         insert into cut select -n, repeat('y', 90) from generate_series(1, 70000) n;
         drop table again;
         create table again as select n, 'new' as t from generate_series(1, 15000) n;
         create index on again (n);
         update in_stays set n = -n where n % 100 = 0;";

/// Truncated, rewritten, moved.
const MORE_CHANGES: &str = "truncate in_late; insert into in_late values (1);
         vacuum full cut; reindex table again; alter table in_stays set tablespace late;";

fn assert_sound(mut restored: Server) {
    restored.assert_amcheck();
    restored.stop(Stop::Fast);
    restored.assert_checksums();
}

#[track_caller]
fn assert_refused(output: &Output, words: &str) {
    assert_eq!(output.code, Some(1), "{output:#?}");
    let mut lines = output.stderr.lines();
    let error = lines.find(|line| line.starts_with("ERROR: "));
    assert!(
        error.is_some_and(|line| line.contains(words)),
        "{output:#?}"
    );
}

#[test]
fn tablespaces_relations_and_external_files_may_come_and_go_between_increments() {
    let Some(online) = Online::create(Settings::default()) else {
        return;
    };
    let (server, ground) = (&online.server, &online.ground);
    let [gone, stays, late] = ["gone", "stays", "late"].map(|name| ground.create_directory(name));
    let external = ground.create_directory("external");
    let with = |mode: &'static str, compress: &'static str| {
        let external = external.display().to_string();
        ["-b", mode, "-E", &external, compress].map(str::to_owned)
    };
    let back_up = |mode, compress| {
        let words = with(mode, compress);
        online.back_up(&words.each_ref().map(String::as_str))
    };
    ground.write("external/kept", "kept");
    ground.write("external/gone", "gone");
    ground.write("external/changed", "before");
    for place in [&gone, &stays] {
        let name = place.file_name().unwrap().display();
        let words = format!("create tablespace {name} location '{}'", place.display());
        server.execute("postgres", &words);
    }
    server.execute("postgres", TABLES);
    back_up("FULL", "--compress-algorithm=zlib");
    server.execute("postgres", "drop table in_gone");
    server.execute("postgres", "drop tablespace gone");
    server.execute(
        "postgres",
        &format!("create tablespace late location '{}'", late.display()),
    );
    server.execute("postgres", CHANGES);
    std::fs::remove_file(external.join("gone")).unwrap();
    ground.write("external/changed", "behind");
    ground.write("external/made", "made");
    let first = (
        back_up("DELTA", "--compress-algorithm=lz4"),
        server.digest_of_all_tables(),
    );
    server.execute("postgres", MORE_CHANGES);
    let second = (
        back_up("DELTA", "--compress-algorithm=none"),
        server.digest_of_all_tables(),
    );
    for (id, expected) in [first, second] {
        let name = format!("restored.{id}");
        online.restore(&id, &name, &[&external]);
        let restored = Server::start_directory(ground, &name);
        assert_eq!(restored.digest_of_all_tables(), expected);
        assert_sound(restored);
        let text = |file: &str| {
            let place = format!("{}.{name}/{file}", external.display());
            std::fs::read_to_string(place).ok()
        };
        let found = ["kept", "gone", "changed", "made"].map(text);
        let expected = [Some("kept"), None, Some("behind"), Some("made")];
        assert_eq!(found, expected.map(|text| text.map(str::to_owned)));
        for place in [&stays, &late] {
            let _ = std::fs::remove_dir_all(format!("{}.{name}", place.display()));
        }
    }
}

#[test]
fn standby_gives_a_chain_until_it_is_promoted() {
    let Some(online) = Online::create(Settings::default()) else {
        return;
    };
    let primary = &online.server;
    Load::initialize(primary, 3);
    let mut standby = primary.create_standby("standby");
    standby.wait_for(primary);
    let data = standby.data.display().to_string();
    let back_up = |mode: &'static str, standby: &Server| {
        online.try_back_up(&socket(standby), &["-D", &data, "-b", mode])
    };
    assert_success(&back_up("FULL", &standby));
    let load = Load::start(primary, 2);
    let before = load::history(primary);
    standby.wait_for(primary);
    let output = back_up("DELTA", &standby);
    assert_success(&output);
    drop(load);
    let after = load::history(primary);
    online.restore(&completed_id(&output), "restored", &[]);
    let _ = std::fs::remove_file(online.ground.path().join("restored/standby.signal"));
    let restored = Server::start_directory(&online.ground, "restored");
    let found = load::history(&restored);
    assert!(before.is_subset(&found) && found.is_subset(&after));
    load::assert_between_transactions(&restored);
    assert_sound(restored);
    // Another timeline: not a member of this chain any more.
    standby.execute("postgres", "select pg_promote()");
    standby.execute("bench", "checkpoint");
    let output = back_up("DELTA", &standby);
    assert_refused(&output, "Create new full backup before an incremental one");
    let said = "WARNING: Valid backup on current timeline 2 is not found";
    assert!(output.stderr.contains(said), "{output:#?}");
    let own = back_up("FULL", &standby);
    assert_success(&own);
    let output = back_up("DELTA", &standby);
    assert_success(&output);
    let said = format!("INFO: Parent backup: {}", completed_id(&own));
    assert!(output.stderr.contains(&said), "{output:#?}");
    standby.stop(Stop::Fast);
}

#[test]
fn checksums_may_be_switched_off_in_a_chain_and_not_on() {
    let Some(mut online) = Online::create(Settings::default()) else {
        return;
    };
    online.server.execute(
        "postgres",
        "create table t as select generate_series(1, 30000) as n",
    );
    online.back_up(&[]);
    let switch = |online: &mut Online, to: &str| {
        online.server.stop(Stop::Fast);
        let mut tool = online.ground.tool("pg_checksums");
        crate::postgres::succeed(tool.arg(to).arg("-D").arg(&online.server.data));
        online.server.start();
    };
    switch(&mut online, "--disable");
    online
        .server
        .execute("postgres", "update t set n = -n where n % 50 = 0");
    let output = online.try_back_up(&online.socket(), &DELTA);
    assert_success(&output);
    assert!(
        output.stderr.contains("without data block checksums"),
        "{output:#?}"
    );
    let id = completed_id(&output);
    let expected = online.server.digest_of_all_tables();
    let mut restored = online.restore_and_start(&id, "restored");
    assert_eq!(restored.digest_of_all_tables(), expected);
    restored.assert_amcheck();
    restored.stop(Stop::Fast);
    switch(&mut online, "--enable");
    let output = online.try_back_up(&online.socket(), &DELTA);
    let words = format!(
        "the cluster has page checksums, backup {id} is from before they were switched on: Create \
         new full backup"
    );
    assert_refused(&output, &words);
}

#[test]
fn server_that_was_put_back_is_told_from_its_future() {
    let Some(mut online) = Online::create(Settings::default()) else {
        return;
    };
    online
        .server
        .execute("postgres", "create table t as select 1 as n");
    online.server.stop(Stop::Fast);
    let (data, past) = (
        online.server.data.clone(),
        online.ground.path().join("past"),
    );
    copy(&data, &past);
    online.server.start();
    online.server.execute(
        "postgres",
        "select pg_switch_wal(); insert into t values (2); select pg_switch_wal(); checkpoint;",
    );
    let full = online.back_up(&[]);
    online.server.stop(Stop::Fast);
    std::fs::rename(&data, online.ground.path().join("future")).unwrap();
    std::fs::rename(&past, &data).unwrap();
    online.server.start();
    let output = online.try_back_up(&online.socket(), &DELTA);
    assert_refused(
        &output,
        &format!("of previous backup {full}. It may indicate that we"),
    );
    assert!(
        output.stderr.contains("is lower than START LSN"),
        "{output:#?}"
    );
    // It goes on in another way, past the position of the parent, on the same timeline.
    for n in 0..6 {
        let text = format!("insert into t values ({n}); select pg_switch_wal();");
        online.server.execute("postgres", &text);
    }
    let output = online.try_back_up(&online.socket(), &DELTA);
    assert_refused(
        &output,
        &format!("is not what backup {full} has of it: the server does not go on from there"),
    );
    online.server.assert_out_of_backup_mode();
    // A FULL backup begins the chain of this history.
    online.back_up(&[]);
    let output = online.try_back_up(&online.socket(), &DELTA);
    assert_success(&output);
}

#[test]
fn increment_under_load_survives_faults_anywhere() {
    const PLACES: usize = 12;
    let Some(online) = Online::create(Settings::default()) else {
        return;
    };
    let server = &online.server;
    Load::initialize(server, 2);
    let full = online.back_up(&[]);
    let load = Load::start(server, 2);
    let backup = || online.backup_command(&online.socket(), &DELTA);
    // All grow on the FULL backup, so that they have about the same steps.
    let remove = |output: &Output| {
        std::fs::remove_dir_all(online.backup_path(&completed_id(output))).unwrap();
    };
    let record = online.ground.path().join("steps");
    let plan = format!("record:{}", record.display());
    let output = crate::support::run(backup().env("GS_FAULT", plan));
    assert_success(&output);
    remove(&output);
    let steps = std::fs::read_to_string(record).unwrap().lines().count();
    let kinds = [Fault::NoSpace, Fault::Kill, Fault::IoError, Fault::Tear];
    let mut missed = 0;
    for place in 0..PLACES {
        let fault = kinds[place % kinds.len()](1 + place * steps / (PLACES + 3));
        let output = run_with(fault, &mut backup());
        server.assert_out_of_backup_mode();
        if output.code == Some(0) {
            // No two runs under load have equally many steps; this one had fewer.
            missed += 1;
            remove(&output);
        } else if !was_killed(&output) {
            let said = match fault {
                Fault::NoSpace(_) => "No space left on device",
                _ => "Input/output error",
            };
            assert_refused(&output, said);
        }
    }
    drop(load);
    assert!(missed < PLACES / 2, "{missed} faults came too late");
    assert_success(&online.validate(&full));
    let expected = server.digest_of_all_tables();
    let output = online.try_back_up(&online.socket(), &DELTA);
    assert_success(&output);
    let said = format!("INFO: Parent backup: {full}\n");
    assert!(output.stderr.contains(&said), "{output:#?}");
    let restored = online.restore_and_start(&completed_id(&output), "restored");
    assert_eq!(restored.digest_of_all_tables(), expected);
    assert_sound(restored);
}

fn copy(from: &Path, to: &Path) {
    let mut copy = std::process::Command::new("cp");
    assert!(copy.arg("-a").arg(from).arg(to).status().unwrap().success());
}
