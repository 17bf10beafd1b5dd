//! Whatever happens to a cluster and its catalog, every backup comes back as the cluster was when
//! it was taken: random sequences of changes and commands, compared byte for byte with plain
//! copies.
//!
//! A failure prints its seed and all that was done. Environment:
//!
//! * `GS_ORACLE_SEED`: only the story of this seed
//! * `GS_ORACLE_RUNS`: this many stories

mod changes;
mod cluster;
mod destination;
mod pages;
mod random;
mod state;
mod story;
mod tool;
mod tracking;

use crate::take_full_backup::check_independently;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use story::{By, Told};

/// Stories told by the library alone.
const RUNS: u64 = 1000;

/// Stories told by the program.
const PROGRAM_RUNS: u64 = 6;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Tells stories on all cores; `None` where only one was wanted.
fn tell_all(runs: u64, by: By) -> Option<Told> {
    if let Some(seed) = number("GS_ORACLE_SEED") {
        story::tell(seed, by, check_independently);
        return None;
    }
    let began = std::time::Instant::now();
    let (next, all) = (AtomicU64::new(1), Mutex::new(Told::default()));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > runs {
                        return;
                    }
                    let is_sampled = by == By::Program || seed.is_multiple_of(500);
                    let told = story::tell(seed, by, |backup| {
                        if is_sampled {
                            check_independently(backup);
                        }
                    });
                    all.lock().unwrap().add(told);
                }
            });
        }
    });
    let all = all.into_inner().unwrap();
    eprintln!("{runs} sequences in {:.0?}: {all:?}", began.elapsed());
    Some(all)
}

#[test]
fn every_backup_of_any_sequence_comes_back_as_the_cluster_was() {
    let runs = number("GS_ORACLE_RUNS").unwrap_or(RUNS);
    let Some(told) = tell_all(runs, By::Library) else {
        return;
    };
    // Of everything there has to be enough to find something.
    for count in [told.delta, told.ptrack, told.merges] {
        assert!(count >= runs / 5, "{told:?}");
    }
    assert!(
        told.restores >= runs && told.in_place >= runs / 2,
        "{told:?}"
    );
    for count in [told.by_lsn, told.refused_in_place] {
        assert!(count >= runs / 10, "{told:?}");
    }
    for count in [told.refused, told.deletions, told.foreign] {
        assert!(count > 0, "{told:?}");
    }
}

#[test]
fn program_gives_back_what_the_library_does() {
    tell_all(PROGRAM_RUNS, By::Program);
}
