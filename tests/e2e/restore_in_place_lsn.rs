//! A restore in place that relies on positions in WAL and is killed at any of its steps: repeating
//! the command goes on with what the first run knew of the directory, another backup does not.

use crate::chain::copy_tree;
use crate::cluster::{Cluster, INSTANCE, start_and_stop_with_short_wal};
use crate::faults::{Fault, Planned, is_every_fault_wanted, meet, on_both_cores, steps_of};
use crate::merge_chain::memory;
use crate::restore_in_place::{Trees, assert_same_trees, trees};
use crate::support::{self, Output, assert_success};
use crate::take_incremental_backup::changes::{Changer, Random};
use crate::take_incremental_backup::tracking::Tracker;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A cluster that went on after its two backups.
struct Story {
    cluster: Cluster,
    scratch: tempfile::TempDir,
    ids: [String; 2],
    expected: [Trees; 2],
}

impl Story {
    fn create() -> Story {
        let mut cluster = Cluster::create_lean(512 << 10);
        let sample = &cluster.sample;
        let mut tracker = Tracker::begin(&sample.data_directory, sample.checkpoint);
        let mut random = Random::new(5);
        let mut go_on = |cluster: &mut Cluster| {
            let sample = &mut cluster.sample;
            for _ in 0..3 {
                Changer::new(sample, &mut random, &mut tracker).change_some();
            }
            start_and_stop_with_short_wal(sample);
            tracker.reach(sample.checkpoint);
        };
        let full = cluster.back_up(&[]);
        go_on(&mut cluster);
        std::thread::sleep(std::time::Duration::from_millis(1100));
        let words = ["backup", "--instance", INSTANCE, "-b", "DELTA", "--offline"];
        let taken = support::gs_probackup(&words, &cluster.catalog);
        assert_success(&taken);
        let ids = [full, crate::online::completed_id(&taken)];
        go_on(&mut cluster);
        let expected = ids.each_ref().map(|id| {
            let (data, tablespace) = cluster.restore(id, id);
            trees(&data, &tablespace)
        });
        Story {
            cluster,
            scratch: memory(),
            ids,
            expected,
        }
    }

    fn place(&self, name: &str) -> (PathBuf, PathBuf) {
        let root = self.scratch.path();
        (root.join(name), root.join(format!("{name}.tablespace")))
    }

    /// The cluster as it went on, in a directory of its own.
    fn gone_on(&self, name: &str) -> (PathBuf, PathBuf) {
        let place = self.place(name);
        let sample = &self.cluster.sample;
        for (from, to) in [
            (&sample.data_directory, &place.0),
            (&sample.tablespace, &place.1),
        ] {
            fs::remove_dir_all(to).ok();
            copy_tree(from, to);
            fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
        }
        let link = place.0.join("pg_tblspc/16385");
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&place.1, link).unwrap();
        place
    }

    fn restore(&self, number: usize, place: &(PathBuf, PathBuf)) -> Command {
        let tablespace = self.cluster.sample.tablespace.display();
        let mapping = format!("{tablespace}={}", place.1.display());
        let data = place.0.display().to_string();
        let words = [
            "restore",
            "--instance",
            INSTANCE,
            "-i",
            &self.ids[number],
            "-D",
            &data,
            "-T",
            &mapping,
            "-I",
            "lsn",
            "--no-validate",
            "-j1",
        ];
        support::command(&words, &self.cluster.catalog)
    }

    fn completes(&self, number: usize, place: &(PathBuf, PathBuf), when: &str) -> Output {
        let output = support::run(&mut self.restore(number, place));
        assert_eq!(output.code, Some(0), "after {when}: {output:#?}");
        assert_same_trees(&self.expected[number], &trees(&place.0, &place.1));
        output
    }
}

const KEPT: &str = "shift LSN of the restore that was interrupted: ";
const LOST: &str = "an interrupted restore left no shift LSN for backup ";

#[test]
fn a_restore_by_lsn_that_was_killed_at_any_step_goes_on_with_its_shift_lsn() {
    let story = Story::create();
    let place = story.gone_on("worker-0");
    let whole = support::run(&mut story.restore(1, &place));
    assert_success(&whole);
    let chosen = format!("Backup {} is chosen as shiftpoint", story.ids[1]);
    assert!(whole.stderr.contains(&chosen), "{}", whole.stderr);
    let is_proven = !whole.stderr.contains("may be of another history");
    assert!(is_proven, "{}", whole.stderr);
    assert_same_trees(&story.expected[1], &trees(&place.0, &place.1));
    let steps = steps_of(&mut story.restore(1, &story.gone_on("worker-0")));
    eprintln!("{} steps of a restore by LSN", steps.len());
    let (kept, written) = (AtomicUsize::new(0), AtomicUsize::new(0));
    // In checksum mode every one is tried: here some of those in the middle will do.
    let is_chosen = |number: &usize| {
        let is_at_an_end = *number < 24 || *number + 24 > steps.len();
        is_at_an_end || number.is_multiple_of(3) || is_every_fault_wanted()
    };
    let chosen: Vec<usize> = (0..steps.len()).filter(is_chosen).collect();
    on_both_cores(chosen.len(), |worker, index| {
        let number = chosen[index];
        let name = format!("worker-{worker}");
        let place = story.place(&name);
        let kill = Planned::among_all(Fault::Kill(number + 1));
        let met = meet(&kill, || story.restore(1, &story.gone_on(&name)));
        let is_interrupted = !place.0.join("global/pg_control").exists();
        // With another backup the pages that stayed say nothing.
        let is_another = index % 4 == 3;
        let output = story.completes(usize::from(!is_another), &place, &met.step);
        if is_interrupted {
            let wanted = if is_another { LOST } else { KEPT };
            assert!(output.stderr.contains(wanted), "{}: {output:#?}", met.step);
            kept.fetch_add(usize::from(!is_another), Ordering::Relaxed);
        }
        let is_write = |step: &String| step.starts_with("write ") && step.contains("/base/");
        written.fetch_add(
            usize::from(met.before.iter().any(is_write)),
            Ordering::Relaxed,
        );
    });
    assert!(
        kept.into_inner() > 20 && written.into_inner() > 20,
        "{steps:#?}"
    );
}
