//! A backup that grows on another one while that is deleted or merged, held at each moment of which
//! it depends: its parent waits for it, or it says that the parent is gone; whatever is left in the
//! end is whole.

use crate::cluster::{Cluster, INSTANCE, start_and_stop_with_short_wal};
use crate::merge_chain::memory;
use crate::race_commands::{assert_won_or_explained, finish};
use crate::restore_in_place::{Trees, assert_same_trees, trees};
use crate::support::{assert_success, command, gs_probackup};
use crate::take_incremental_backup::changes::{Changer, Random};
use crate::take_incremental_backup::tracking::Tracker;
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// A FULL backup and an increment of a cluster that went on after each.
struct Scene {
    cluster: Cluster,
    ids: [String; 2],
    /// What each of the two is, and what the cluster is now.
    expected: [Trees; 3],
}

impl Scene {
    fn create() -> Scene {
        let mut cluster = Cluster::create_lean(256 << 10);
        let sample = &cluster.sample;
        let mut tracker = Tracker::begin(&sample.data_directory, sample.checkpoint);
        let mut random = Random::new(11);
        let mut go_on = |cluster: &mut Cluster| {
            let sample = &mut cluster.sample;
            Changer::new(sample, &mut random, &mut tracker).change_some();
            start_and_stop_with_short_wal(sample);
            tracker.reach(sample.checkpoint);
            std::thread::sleep(Duration::from_millis(1100));
        };
        let full = cluster.back_up(&[]);
        go_on(&mut cluster);
        let increment = cluster.back_up(&["-b", "DELTA"]);
        go_on(&mut cluster);
        // What the cluster is now, as a backup has it.
        let now = cluster.back_up(&["-b", "DELTA"]);
        let restored = |id: &String| {
            let (data, tablespace) = cluster.restore(id, id);
            trees(&data, &tablespace)
        };
        let expected = [&full, &increment, &now].map(restored);
        cluster.delete(&now);
        Scene {
            cluster,
            ids: [full, increment],
            expected,
        }
    }

    /// Every good backup is what it has to be, and nothing else is there but what has failed.
    fn assert_whole(&self, catalog: &Path, when: &str) {
        let words = ["show", "--instance", INSTANCE, "--format=json"];
        let output = gs_probackup(&words, catalog);
        assert_success(&output);
        let shown: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
        for backup in shown[0]["backups"].as_array().unwrap_or(&Vec::new()) {
            let [id, status] = ["id", "status"].map(|key| backup[key].as_str().unwrap());
            if status == "ERROR" {
                continue;
            }
            assert!(["OK", "DONE"].contains(&status), "{when}: {shown:#}");
            let validated = gs_probackup(&["validate", "--instance", INSTANCE, "-i", id], catalog);
            assert_eq!(validated.code, Some(0), "{when}: {validated:#?}");
            let place = self.ids.iter().position(|known| known == id);
            let scratch = memory();
            let path = |name: &str| scratch.path().join(name);
            let found = restore(catalog, id, &self.cluster, &path("data"), &path("ts"));
            assert_same_trees(&self.expected[place.unwrap_or(2)], &found);
        }
    }
}

fn restore(catalog: &Path, id: &str, cluster: &Cluster, data: &Path, tablespace: &Path) -> Trees {
    let old = cluster.sample.tablespace.display();
    let mapping = format!("{old}={}", tablespace.display());
    let to = data.display().to_string();
    let words = ["restore", "--instance", INSTANCE, "-i", id, "-D", &to, "-T"];
    let output = gs_probackup(&[&words[..], &[&mapping]].concat(), catalog);
    assert_success(&output);
    trees(data, tablespace)
}

/// Waits until a process has stopped itself.
fn wait_until_stopped(child: &mut Child, when: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let path = PathBuf::from(format!("/proc/{}/stat", child.id()));
    loop {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let state = text.rsplit_once(") ").map(|(_, rest)| &rest[..1]);
        if state == Some("T") {
            return;
        }
        assert!(child.try_wait().unwrap().is_none(), "{when}: it ended");
        assert!(Instant::now() < deadline, "{when}: it does not stop");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn spawn(words: &[&str], catalog: &Path, fault: Option<&str>) -> Child {
    let mut command = command(words, catalog);
    if let Some(fault) = fault {
        command.env("GS_FAULT", fault);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[test]
fn a_parent_that_is_deleted_or_merged_meanwhile_waits_or_its_child_says_so() {
    let scene = Scene::create();
    let [full, increment] = &scene.ids;
    let moments = [
        (false, format!("**/{increment}/backup*.pid*")),
        (true, format!("create directory **/{INSTANCE}/*")),
        (true, "write **/database/**".to_owned()),
        (true, "* **/backup_content.control*".to_owned()),
    ];
    let others = [
        ["delete", "--instance", INSTANCE, "-i", full],
        ["delete", "--instance", INSTANCE, "-i", increment],
        ["merge", "--instance", INSTANCE, "-i", increment],
    ];
    for (is_locked, moment) in &moments {
        for other in &others {
            let when = format!("{other:?} at \"{moment}\"");
            let scratch = memory();
            let catalog = scratch.path().join("catalog");
            crate::chain::copy_tree(&scene.cluster.catalog, &catalog);
            let words = ["backup", "--instance", INSTANCE, "-b", "DELTA", "--offline"];
            let stop = format!("stop:1:{moment}");
            let mut backup = spawn(&words, &catalog, Some(&stop));
            wait_until_stopped(&mut backup, &when);
            let mut running = spawn(other, &catalog, None);
            let deadline = Instant::now() + Duration::from_millis(1500);
            while running.try_wait().unwrap().is_none() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            kill_process(Pid::from_child(&backup), Signal::CONT).unwrap();
            let backup = finish(backup, &when);
            let other = finish(running, &when);
            for output in [&backup, &other] {
                assert_won_or_explained(output, &when);
            }
            // With the parent locked nobody takes it away.
            let is_good = backup.code == Some(0);
            assert!(is_good || !is_locked, "{when}: {backup:#?}\n{other:#?}");
            scene.assert_whole(&catalog, &when);
        }
    }
}
