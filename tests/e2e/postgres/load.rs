//! `pgbench` on a server, and what its tables say about a moment.
//!
//! Every transaction adds one number to an account, a teller and a branch and writes it down in
//! `pgbench_history`. So in any state between two transactions each balance is the sum over the
//! history, and the history itself only grows.

use super::{Server, succeed};
use std::collections::BTreeSet;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Transactions going on until the value is dropped.
#[derive(Debug)]
pub(crate) struct Load(Child);

impl Load {
    /// Creates database `bench`.
    pub(crate) fn initialize(server: &Server, scale: u32) {
        server.execute("postgres", "create database bench");
        let scale = scale.to_string();
        succeed(
            server
                .client("pgbench")
                .args(["-i", "-q", "-s", &scale, "bench"]),
        );
    }

    /// Starts, and returns once transactions have come through.
    pub(crate) fn start(server: &Server, clients: u32) -> Load {
        let before = count(server);
        let clients = clients.to_string();
        let child = server
            .client("pgbench")
            .args(["-n", "-c", &clients, "-T", "3600", "bench"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let load = Load(child);
        let deadline = Instant::now() + Duration::from_secs(30);
        while count(server) == before {
            assert!(Instant::now() < deadline, "pgbench does nothing");
            std::thread::sleep(Duration::from_millis(20));
        }
        load
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn count(server: &Server) -> u64 {
    let count = server.query("bench", "select count(*) from pgbench_history");
    count.parse().unwrap()
}

/// The transactions that a server holds, each by what identifies it.
pub(crate) fn history(server: &Server) -> BTreeSet<String> {
    let statement = "select h.xmin, h.ctid, tid, bid, aid, delta, mtime from pgbench_history h";
    server
        .query("bench", statement)
        .lines()
        .map(str::to_owned)
        .collect()
}

/// Fails unless every balance is the sum over the history: the state is that between two
/// transactions.
#[track_caller]
pub(crate) fn assert_between_transactions(server: &Server) {
    for (table, key, balance) in [
        ("pgbench_accounts", "aid", "abalance"),
        ("pgbench_tellers", "tid", "tbalance"),
        ("pgbench_branches", "bid", "bbalance"),
    ] {
        let statement = format!(
            "select count(*) from {table} t full join \
             (select {key}, sum(delta) as total from pgbench_history group by {key}) h \
             using ({key}) \
             where t.{balance} is distinct from coalesce(h.total, 0)"
        );
        assert_eq!(server.query("bench", &statement), "0", "{table}");
    }
}
