//! The servers that other tests rely on do what they are relied on for.

use super::{Ground, Load, PASSWORD, Server, Settings, Stop, load, succeed};
use crate::support::run;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

fn connection(server: &Server, user: &str, rest: &str) -> String {
    format!(
        "host=localhost port={} dbname=postgres user={user} password='{PASSWORD}' {rest}",
        server.port
    )
}

#[test]
fn nothing_of_a_server_is_left_in_a_panic_either() {
    let Some(ground) = Ground::create() else {
        return;
    };
    let path = ground.path().to_owned();
    let panicking = std::thread::spawn(move || {
        let server = Server::create(&ground, "main", Settings::default());
        let load = {
            Load::initialize(&server, 1);
            Load::start(&server, 1)
        };
        let pid = server.query("postgres", "select pg_backend_pid()");
        assert!(pid.is_empty(), "pid {pid} {load:?}");
    });
    assert!(panicking.join().is_err());
    assert!(!path.exists());
    let text = path.display().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let left: Vec<String> = processes
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok())
        .filter(|line| line.contains(&text))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn tls_is_verified_and_passwords_are_asked_for() {
    let Some(ground) = Ground::create() else {
        return;
    };
    let server = Server::create(&ground, "main", Settings::default());
    let authority = format!("sslrootcert={}", ground.certificates.authority.display());
    let wrong = format!(
        "sslrootcert={}",
        ground.certificates.wrong_authority.display()
    );
    let ask = |connection: &str| {
        let statement = "select ssl, usename from pg_stat_ssl join pg_stat_activity using (pid) \
                         where pid = pg_backend_pid()";
        run(server.psql().args(["-d", connection, "-c", statement]))
    };
    for user in ["backup", "only_tls", "weak", "old_md5"] {
        let verified = ask(&connection(
            &server,
            user,
            &format!("sslmode=verify-full {authority}"),
        ));
        assert_eq!(
            verified.stdout.trim_end(),
            format!("t|{user}"),
            "{verified:?}"
        );
    }
    let refused = ask(&connection(
        &server,
        "backup",
        &format!("sslmode=verify-full {wrong}"),
    ));
    assert!(
        refused.stderr.contains("certificate verify failed"),
        "{refused:?}"
    );
    let plain = ask(&connection(&server, "backup", "sslmode=disable"));
    assert_eq!(plain.stdout.trim_end(), "f|backup", "{plain:?}");
    let plain = ask(&connection(&server, "only_tls", "sslmode=disable"));
    assert!(plain.stderr.contains("pg_hba.conf"), "{plain:?}");
    let bad = ask(&connection(
        &server,
        "backup",
        "sslmode=prefer password=wrong",
    ));
    assert!(
        bad.stderr.contains("password authentication failed"),
        "{bad:?}"
    );
    let rights = "select has_function_privilege(r, 'pg_backup_start(text, boolean)', 'execute') \
                  from unnest(array['backup', 'weak']) r";
    assert_eq!(server.query("postgres", rights), "t\nf");
}

#[test]
fn standby_follows_and_a_crash_is_recovered_from() {
    let Some(ground) = Ground::create() else {
        return;
    };
    let mut primary = Server::create(&ground, "main", Settings::default());
    let standby = primary.create_standby("standby");
    assert!(standby.is_in_recovery() && !primary.is_in_recovery());
    primary.execute(
        "postgres",
        "create table t as select generate_series(1, 1000) as n",
    );
    primary.restart(Stop::Immediate);
    primary.execute("postgres", "insert into t values (1001)");
    standby.wait_for(&primary);
    assert_eq!(
        standby.query("postgres", "select count(*), max(n) from t"),
        "1001|1001"
    );
    assert_eq!(
        standby.digest_of_all_tables(),
        primary.digest_of_all_tables()
    );
    assert_eq!(standby.system_identifier(), primary.system_identifier());
    primary.assert_out_of_backup_mode();
    let other = Server::create(
        &ground,
        "other",
        Settings {
            fsync: true,
            configuration: "",
        },
    );
    assert_ne!(other.system_identifier(), primary.system_identifier());
    assert_eq!(other.query("postgres", "show fsync"), "on");
}

#[test]
fn copy_taken_under_load_starts_elsewhere_and_passes_every_check() {
    let Some(ground) = Ground::create() else {
        return;
    };
    let mut server = Server::create(&ground, "main", Settings::default());
    let location = ground.create_directory("ts");
    server.execute(
        "postgres",
        &format!(
            "create tablespace ts location '{}';\ncreate table moved tablespace ts as \
             select n, repeat('x', 100) from generate_series(1, 1000) n;",
            location.display()
        ),
    );
    Load::initialize(&server, 1);
    let mut load = Load::start(&server, 2);
    let before = load::history(&server);
    server.copy_to("copy", false);
    assert!(load.is_running());
    drop(load);
    let after = load::history(&server);
    let mut copy = Server::start_directory(&ground, "copy");
    let copied = load::history(&copy);
    assert!(before.is_subset(&copied) && copied.is_subset(&after));
    assert!(before.len() < after.len(), "transactions went on");
    load::assert_between_transactions(&copy);
    copy.assert_amcheck();
    let digest = |server: &Server| server.digest_of_all_tables()["postgres.public.moved"].clone();
    assert_eq!(digest(&copy), digest(&server));
    let moved = copy.tablespaces();
    assert_eq!(moved, [format!("{}.copy", location.display())]);
    copy.stop(Stop::Fast);
    copy.assert_checksums();
    server.stop(Stop::Fast);
    server.assert_checksums();
}

#[test]
fn program_under_test_runs_as_the_owner_of_the_data_directory() {
    let Some(ground) = Ground::create() else {
        return;
    };
    let server = Server::create(&ground, "main", Settings::default());
    let catalog = ground.path().join("catalog");
    assert_eq!(ground.gs_probackup(&["init"], &catalog).code, Some(0));
    let owner = |path: &Path| std::fs::metadata(path).unwrap().uid();
    assert_eq!(owner(&catalog), owner(&server.data));
    let id = succeed(ground.command("id").arg("-u"));
    assert_eq!(id.trim(), owner(&server.data).to_string());
    assert!(
        server.log().contains("database system is ready"),
        "{}",
        server.log()
    );
    assert!(ground.text("catalog").ends_with("/catalog"));
}
