//! Whatever step of a backup fails or is its last one: a clear error, what was there before is as
//! usable as before, the next backup succeeds and does not grow on what was left.

use crate::cluster::{Cluster, INSTANCE, start_and_stop_with_short_wal};
use crate::faults::{Met, Planned, faults_at, meet, steps_of};
use crate::support::{Output, assert_success, command, gs_probackup};
use crate::take_incremental_backup::changes::{Changer, Random, assert_same_tree, copy_tree};
use crate::take_incremental_backup::tracking::Tracker;
use std::process::Command;

/// A stopped cluster with a FULL backup, which changed since; what it is now is kept.
struct Scene {
    cluster: Cluster,
    full: String,
    mode: &'static str,
}

impl Scene {
    fn create(mode: &'static str) -> Scene {
        let mut cluster = Cluster::create_lean(512 << 10);
        let sample = &cluster.sample;
        let mut tracker = Tracker::begin(&sample.data_directory, sample.checkpoint);
        let full = cluster.back_up(&["--compress-algorithm=zlib"]);
        let mut random = Random::new(7);
        let sample = &mut cluster.sample;
        Changer::new(sample, &mut random, &mut tracker).change_some();
        start_and_stop_with_short_wal(sample);
        tracker.reach(sample.checkpoint);
        let source = sample.data_directory.parent().unwrap().to_owned();
        copy_tree(&source, &cluster.scratch.path().join("plain"));
        Scene {
            cluster,
            full,
            mode,
        }
    }

    fn backup(&self) -> Command {
        let words = [
            "backup",
            "--instance",
            INSTANCE,
            "-b",
            self.mode,
            "--offline",
            "--compress-algorithm=lz4",
            "-j1",
        ];
        command(&words, &self.cluster.catalog)
    }

    /// Ids and statuses of the backups behind the FULL one.
    fn others(&self) -> Vec<(String, String)> {
        let words = ["show", "--instance", INSTANCE, "--format=json"];
        let output = gs_probackup(&words, &self.cluster.catalog);
        assert_success(&output);
        let shown: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
        let backups = shown["backup_info"][0]["backups"].as_array().unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let pairs = backups
            .iter()
            .map(|backup| (text(&backup["id"]), text(&backup["status"])));
        pairs.filter(|(id, _)| *id != self.full).collect()
    }

    fn assert_valid(&self, id: &str) {
        let words = ["validate", "--instance", INSTANCE, "-i", id];
        assert_success(&gs_probackup(&words, &self.cluster.catalog));
    }

    fn assert_comes_back(&self, id: &str) {
        let (data, tablespace) = self.cluster.restore(id, "restored");
        let plain = self.cluster.scratch.path().join("plain");
        assert_same_tree(&plain.join("data"), &data);
        assert_same_tree(&plain.join("tablespace"), &tablespace);
        for path in [data, tablespace] {
            std::fs::remove_dir_all(path).unwrap();
        }
    }

    /// Removes all backups but the FULL one, and what is left of them.
    fn clean(&self) {
        let directory = self.cluster.backup_path("");
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let is_full = path.ends_with(&self.full);
            if path.is_dir() && !is_full {
                std::fs::remove_dir_all(path).unwrap();
            }
        }
    }

    /// Faults to try.
    fn faults(&self) -> Vec<Planned> {
        let steps = steps_of(&mut self.backup());
        self.clean();
        let faults = faults_at(&steps, self.cluster.scratch.path(), &["/database/"]);
        eprintln!(
            "{}: {} faults at {} steps",
            self.mode,
            faults.len(),
            steps.len()
        );
        assert!(faults.len() > 60, "{steps:#?}");
        faults
    }

    /// What a run with a fault came to; whether it succeeded nevertheless.
    fn assert_clear(&self, planned: &Planned, met: &Met) -> bool {
        let (fault, step, output) = (planned.fault, &met.step, &met.output);
        if fault.is_kill() {
            return false;
        }
        if output.code == Some(0) {
            // Nothing that the backup needs: the removal of a lock file.
            assert!(step.starts_with("remove "), "{fault:?} {step}: {output:#?}");
            return true;
        }
        assert_eq!(output.code, Some(1), "{fault:?} {step}: {output:#?}");
        let mut errors = output.stderr.lines();
        let error = errors.find(|line| line.starts_with("ERROR: "));
        let error = error.unwrap_or_else(|| panic!("{fault:?} {step}: {output:#?}"));
        let path = self.cluster.catalog.display().to_string();
        assert!(
            error.contains(fault.reason()) && error.contains(&path) && error.contains("cannot "),
            "{fault:?} {step}: {error}"
        );
        false
    }

    fn try_fault(&self, planned: &Planned, looks_on: bool) {
        let met = meet(planned, || {
            self.clean();
            self.backup()
        });
        let succeeded = self.assert_clear(planned, &met);
        let (fault, step) = (planned.fault, &met.step);
        for (id, status) in self.others() {
            if ["OK", "DONE"].contains(&&*status) {
                self.assert_valid(&id);
                self.assert_comes_back(&id);
                continue;
            }
            assert!(!succeeded, "{fault:?} {step}: {status}: {:#?}", met.output);
            // Killed before it had a control file, it is a directory of which nothing is known.
            let unknown = status == "UNKNOWN" && fault.is_kill();
            assert!(
                unknown || status == "ERROR",
                "{fault:?} {step}: {status}: {:#?}",
                met.output
            );
        }
        self.assert_valid(&self.full);
        if looks_on {
            let failed = self.others();
            let again = self.next_run();
            assert_success(&again);
            let id = crate::online::completed_id(&again);
            self.assert_parent_is_good(&id, &failed);
            self.assert_comes_back(&id);
        }
        self.clean();
    }

    /// The next backup. A lock file without content counts for some seconds as that of a run which
    /// is about to write it.
    fn next_run(&self) -> Output {
        for _ in 0..60 {
            let output = crate::support::run(&mut self.backup());
            if !output.stderr.contains("has just begun it") {
                return output;
            }
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
        panic!("the lock file of a run that is gone does not go stale");
    }

    fn assert_parent_is_good(&self, id: &str, failed: &[(String, String)]) {
        let path = self.cluster.backup_path(id).join("backup.control");
        let text = std::fs::read_to_string(path).unwrap();
        let parent = text
            .lines()
            .find(|line| line.starts_with("parent-backup-id"));
        assert_eq!(parent.is_some(), self.mode != "FULL");
        let Some(parent) = parent else {
            return;
        };
        let is_of = |id: &str| parent.contains(&format!("'{id}'"));
        let complete = |status: &str| ["OK", "DONE"].contains(&status);
        let mut others = failed.iter();
        let grown = others.any(|(id, status)| complete(status) && is_of(id));
        assert!(is_of(&self.full) || grown, "{parent} {failed:?}");
    }
}

fn every_kind_of_step_may_fail(mode: &'static str) {
    let scene = Scene::create(mode);
    for (turn, planned) in scene.faults().iter().enumerate() {
        scene.try_fault(planned, turn % 3 == 0);
    }
}

#[test]
fn full_backup_survives_a_fault_at_every_kind_of_step() {
    every_kind_of_step_may_fail("FULL");
}

#[test]
fn increment_by_pages_survives_a_fault_at_every_kind_of_step() {
    every_kind_of_step_may_fail("DELTA");
}

#[test]
fn increment_by_tracking_survives_a_fault_at_every_kind_of_step() {
    every_kind_of_step_may_fail("PTRACK");
}
