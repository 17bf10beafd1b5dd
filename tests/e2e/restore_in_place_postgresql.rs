//! A PostgreSQL cluster that went on after its backups goes back to each of them where it is, also
//! after it has taken another course than the backups saw.

use crate::online::{INSTANCE, Online};
use crate::postgres::{Load, Settings, Stop, load};
use crate::support::{Output, assert_success};
use std::collections::BTreeMap;

type Digests = BTreeMap<String, String>;

struct Story {
    online: Online,
    full: (String, Digests),
    delta: (String, Digests),
}

impl Story {
    fn create() -> Option<Story> {
        let online = Online::create(Settings::default())?;
        Load::initialize(&online.server, 3);
        let going = Load::start(&online.server, 2);
        let full = online.back_up(&["-j2"]);
        online.server.execute(
            "bench",
            "create table later as select generate_series(1, 20000) as n",
        );
        let delta = online.back_up(&["-b", "DELTA", "-j2", "--compress-algorithm=lz4"]);
        drop(going);
        let digests = |id: &str, name: &str| {
            let mut server = online.restore_and_start(id, name);
            let digests = server.digest_of_all_tables();
            server.stop(Stop::Immediate);
            digests
        };
        let of_full = digests(&full, "fresh.full");
        let of_delta = digests(&delta, "fresh.delta");
        assert_ne!(of_full, of_delta);
        Some(Story {
            full: (full, of_full),
            delta: (delta, of_delta),
            online,
        })
    }

    /// The server goes on for a while and is stopped.
    fn goes_on(&mut self, how: Stop) {
        let server = &mut self.online.server;
        let going = Load::start(server, 2);
        server.execute(
            "bench",
            "drop table if exists newer; \
             create table newer as select generate_series(1, 9999) as n",
        );
        server.execute("bench", "vacuum full pgbench_branches");
        server.execute("bench", "vacuum freeze pgbench_accounts");
        drop(going);
        server.execute("bench", "checkpoint");
        server.stop(how);
    }

    fn in_place(&self, id: &str, mode: &str) -> Output {
        let data = self.online.server.data.display().to_string();
        let words = [
            "restore",
            "--instance",
            INSTANCE,
            "-i",
            id,
            "-D",
            &data,
            "-j2",
        ];
        let words = [&words[..], &["-I", mode]].concat();
        self.online
            .ground
            .gs_probackup(&words, &self.online.catalog)
    }

    /// The cluster is restored in place and is what a fresh restore is.
    fn is_restored(&mut self, backup: &(String, Digests), mode: &str) -> String {
        let output = self.in_place(&backup.0, mode);
        assert_success(&output);
        let server = &mut self.online.server;
        server.start();
        assert_eq!(server.digest_of_all_tables(), backup.1, "{mode}");
        server.assert_amcheck();
        load::assert_between_transactions(server);
        server.stop(Stop::Fast);
        server.assert_checksums();
        server.start();
        output.stderr
    }
}

const UNPROVEN: &str = "so that its pages may be of another history";

#[test]
fn a_cluster_goes_back_in_place_in_either_mode() {
    let Some(mut story) = Story::create() else {
        return;
    };
    let running = story.in_place(&story.full.0, "checksum");
    assert_eq!(running.code, Some(1), "{running:#?}");
    assert!(
        running.stderr.contains("Postmaster with pid "),
        "{running:#?}"
    );
    let (full, delta) = (story.full.clone(), story.delta.clone());
    story.goes_on(Stop::Fast);
    let said = story.is_restored(&delta, "lsn");
    let line = format!("INFO: Backup {} is chosen as shiftpoint", delta.0);
    assert!(said.contains(&line) && !said.contains(UNPROVEN), "{said}");
    story.goes_on(Stop::Immediate);
    story.is_restored(&full, "checksum");
    // Another course from here: the cluster gets behind the increment's end without its changes.
    let behind = format!(
        "select pg_current_wal_lsn() > '{}'",
        stop_lsn(&story.online, &delta.0)
    );
    while story.online.server.query("postgres", &behind) != "t" {
        let statement =
            "insert into pgbench_history select 1, 1, 1, 0 from generate_series(1, 5000)";
        story.online.server.execute("bench", statement);
    }
    story
        .online
        .server
        .execute("bench", "truncate pgbench_history");
    story.goes_on(Stop::Fast);
    let said = story.is_restored(&delta, "lsn");
    assert!(said.contains(&line) && said.contains(UNPROVEN), "{said}");
    story.goes_on(Stop::Fast);
    story.is_restored(&full, "lsn");
}

fn stop_lsn(online: &Online, id: &str) -> String {
    let control = online.backup_path(id).join("backup.control");
    let text = std::fs::read_to_string(control).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("stop-lsn = "));
    line.unwrap().to_owned()
}
