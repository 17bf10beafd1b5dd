//! A PostgreSQL server that works all the while: a chain of random changes, increments and merges,
//! of which every member comes back, into an empty directory and over what an earlier restore left
//! and a server went on with.
//!
//! What comes back is checked in three ways: it starts and `pg_amcheck` and `pg_checksums` are
//! content; it holds all that was committed before the backup and nothing that never was; and both
//! ways to restore it give the same rows. `GS_POSTGRES_SEED` tells another story,
//! `GS_POSTGRES_ROUNDS` a longer one.

use crate::online::{INSTANCE, Online};
use crate::postgres::{Load, Server, Settings, Stop, load};
use crate::support::assert_success;
use crate::take_incremental_backup::changes::Random;
use std::collections::BTreeSet;

/// Increments of a story.
const ROUNDS: usize = 4;

/// What may happen to tables between two backups, each statement again and again.
const CHANGES: [&str; 9] = [
    "drop table if exists newer; create table newer as select generate_series(1, 9000) as n",
    "create table if not exists grown (n int, t text); \
     insert into grown select n, repeat('x', 90) from generate_series(1, 20000) n",
    "create table if not exists grown (n int, t text); delete from grown where n > 100; \
     vacuum (truncate) grown",
    "create table if not exists grown (n int, t text); truncate grown; \
     insert into grown select -n, repeat('y', 70) from generate_series(1, 5000) n",
    "vacuum full pgbench_branches",
    "vacuum freeze pgbench_accounts",
    "reindex table pgbench_tellers",
    "cluster pgbench_tellers using pgbench_tellers_pkey",
    "update pgbench_accounts set filler = 'z' where aid % 50 = 0",
];

struct Story {
    online: Online,
    random: Random,
    /// Good backups, and what was committed when each began and when it had ended.
    backups: Vec<(String, BTreeSet<String>, BTreeSet<String>)>,
}

impl Story {
    fn choose(&mut self, from: &[&'static str]) -> &'static str {
        self.random.choose::<&'static str>(from)
    }

    /// A number below `end`.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.random.below(end as u64)).unwrap()
    }

    fn back_up(&mut self, mode: &str) {
        let compress = self.choose(&["none", "zlib", "lz4", "zstd", "pglz"]);
        let compress = format!("--compress-algorithm={compress}");
        let threads = self.choose(&["-j1", "-j2"]);
        let before = load::history(&self.online.server);
        let id = self.online.back_up(&["-b", mode, &compress, threads]);
        let after = load::history(&self.online.server);
        eprintln!("{mode} {id} {compress}");
        self.backups.push((id, before, after));
    }

    /// Merges the FULL backup and some of its increments into one.
    fn merge(&mut self) {
        let last = 1 + self.below(self.backups.len() - 1);
        let id = self.backups[last].0.clone();
        eprintln!("merge {id}");
        let words = ["merge", "--instance", INSTANCE, "-i", &id, "-j2"];
        let merged = self
            .online
            .ground
            .gs_probackup(&words, &self.online.catalog);
        assert_success(&merged);
        self.backups.drain(..last);
    }

    /// The server holds what a backup has to, and is sound.
    fn assert_is(&self, number: usize, server: &Server) {
        let (id, before, after) = &self.backups[number];
        let found = load::history(server);
        assert!(found.is_superset(before), "{id} lacks transactions");
        assert!(found.is_subset(after), "{id} has others");
        load::assert_between_transactions(server);
        server.assert_amcheck();
    }

    /// A restored cluster that a server went on with after it was restored and was stopped.
    fn dirty(&mut self, number: usize) -> Server {
        let mut server = self
            .online
            .restore_and_start(&self.backups[number].0, "dirty");
        self.assert_is(number, &server);
        let going = Load::start(&server, 2);
        for _ in 0..3 {
            let change = self.choose(&CHANGES);
            server.execute("bench", change);
        }
        drop(going);
        server.stop(match self.below(2) {
            0 => Stop::Fast,
            _ => Stop::Immediate,
        });
        server
    }

    /// Restores a backup over what is in the directory of a stopped server, and starts that.
    fn restore_over(&mut self, number: usize, server: &mut Server) {
        let id = self.backups[number].0.clone();
        let data = server.data.display().to_string();
        let words = [
            "restore",
            "--instance",
            INSTANCE,
            "-i",
            &id,
            "-D",
            &data,
            "-j2",
        ];
        let words = [&words[..], &["-I", "lsn"]].concat();
        let run = |story: &Story, words: &[&str]| {
            let online = &story.online;
            online.ground.gs_probackup(words, &online.catalog)
        };
        let mut output = run(self, &words);
        let is_out_of_reach = output.stderr.contains("out of reach");
        if is_out_of_reach || self.below(2) == 0 {
            let words = [&words[..words.len() - 1], &["checksum"]].concat();
            output = run(self, &words);
        }
        assert_success(&output);
        eprintln!("restored {id} in place, lsn out of reach: {is_out_of_reach}");
        server.start();
        self.assert_is(number, server);
    }
}

#[test]
fn every_member_of_a_chain_under_load_comes_back_also_over_a_dirty_directory() {
    let number = |name: &str| -> Option<usize> { std::env::var(name).ok()?.parse().ok() };
    let rounds = number("GS_POSTGRES_ROUNDS").unwrap_or(ROUNDS);
    let seed = number("GS_POSTGRES_SEED").unwrap_or(20_261_128);
    eprintln!("GS_POSTGRES_SEED={seed}");
    let Some(online) = Online::create(Settings::default()) else {
        return;
    };
    Load::initialize(&online.server, 2);
    let going = Load::start(&online.server, 2);
    let mut story = Story {
        online,
        random: Random::new(u64::try_from(seed).unwrap()),
        backups: Vec::new(),
    };
    story.back_up("FULL");
    let merge_after = 1 + story.below(rounds - 1);
    for round in 1..=rounds {
        for _ in 0..1 + story.below(3) {
            let change = story.choose(&CHANGES);
            story.online.server.execute("bench", change);
        }
        story.back_up("DELTA");
        if round == merge_after {
            story.merge();
        }
    }
    drop(going);
    let mut dirty = story.dirty(0);
    let last = story.backups.len() - 1;
    let another = story.below(last + 1);
    for (turn, number) in [last, another].into_iter().enumerate() {
        story.restore_over(number, &mut dirty);
        let found = dirty.digest_of_all_tables();
        let mut fresh = story
            .online
            .restore_and_start(&story.backups[number].0, &format!("fresh.{turn}"));
        assert_eq!(found, fresh.digest_of_all_tables());
        fresh.stop(Stop::Immediate);
        dirty.stop(Stop::Fast);
        dirty.assert_checksums();
    }
}
