//! What damage of one backup means for those that grow on it, and that it ends with the damage.

use crate::cluster::{Cluster, INSTANCE};
use crate::support::{Output, assert_success, gs_probackup};
use std::path::PathBuf;

struct Grown {
    cluster: Cluster,
    /// A FULL backup, an increment on it, and one on that.
    ids: [String; 3],
}

impl Grown {
    fn create() -> Grown {
        let cluster = Cluster::create(1 << 20);
        let full = cluster.back_up(&[]);
        let first = cluster.back_up(&["-b", "DELTA"]);
        let second = cluster.back_up(&["-b", "DELTA"]);
        Grown {
            cluster,
            ids: [full, first, second],
        }
    }

    fn list(&self, member: usize) -> PathBuf {
        let path = self.cluster.backup_path(&self.ids[member]);
        path.join("backup_content.control")
    }

    /// Changes the content list of a member; returns what it was.
    fn damage(&self, member: usize) -> Vec<u8> {
        let good = std::fs::read(self.list(member)).unwrap();
        let mut bad = good.clone();
        bad[20] ^= 1;
        std::fs::write(self.list(member), bad).unwrap();
        good
    }

    fn repair(&self, member: usize, good: &[u8]) {
        std::fs::write(self.list(member), good).unwrap();
    }

    fn validate(&self, member: Option<usize>) -> Output {
        let mut words = vec!["validate", "--instance", INSTANCE];
        if let Some(member) = member {
            words.extend(["-i", &self.ids[member]]);
        }
        gs_probackup(&words, &self.cluster.catalog)
    }

    fn statuses(&self) -> [String; 3] {
        let words = ["show", "--instance", INSTANCE, "--format=json"];
        let show = gs_probackup(&words, &self.cluster.catalog);
        assert_success(&show);
        let report: serde_json::Value = serde_json::from_str(&show.stdout).unwrap();
        let backups = report["backup_info"][0]["backups"].as_array().unwrap();
        self.ids.clone().map(|id| {
            let found = backups.iter().find(|backup| backup["id"] == id.as_str());
            found.unwrap()["status"].as_str().unwrap().to_owned()
        })
    }

    fn says_orphaned(&self, output: &Output, member: usize, because: usize) {
        let (id, parent) = (&self.ids[member], &self.ids[because]);
        let line = format!(
            "WARNING: Backup {id} is orphaned because his parent {parent} has status: CORRUPT"
        );
        assert!(output.stderr.contains(&line), "{line}\n{output:#?}");
    }
}

#[test]
fn all_that_grows_on_a_damaged_backup_is_orphaned_and_good_again_with_it() {
    let grown = Grown::create();
    let good = grown.damage(0);
    let output = grown.validate(None);
    assert_eq!(output.code, Some(1), "{output:#?}");
    grown.says_orphaned(&output, 1, 0);
    grown.says_orphaned(&output, 2, 0);
    assert_eq!(grown.statuses(), ["CORRUPT", "ORPHAN", "ORPHAN"]);
    let again = grown.validate(None);
    assert_eq!(again.code, Some(1), "{again:#?}");
    let [full, first, second] = &grown.ids;
    for id in [first, second] {
        let line = format!("WARNING: Backup {id} has parent {full} with status: CORRUPT");
        assert!(again.stderr.contains(&line), "{again:#?}");
    }
    grown.repair(0, &good);
    assert_success(&grown.validate(None));
    assert_eq!(grown.statuses(), ["OK", "OK", "OK"]);
}

#[test]
fn validating_one_backup_marks_what_grows_on_it_and_nothing_below() {
    let grown = Grown::create();
    let good = grown.damage(1);
    let output = grown.validate(Some(1));
    assert_eq!(output.code, Some(1), "{output:#?}");
    grown.says_orphaned(&output, 2, 1);
    assert_eq!(grown.statuses(), ["OK", "CORRUPT", "ORPHAN"]);
    grown.repair(1, &good);
    // The parents of an orphan are validated again, and it with them.
    assert_success(&grown.validate(Some(2)));
    assert_eq!(grown.statuses(), ["OK", "OK", "OK"]);
}

#[test]
fn a_missing_parent_is_named_once_it_is_gone() {
    let grown = Grown::create();
    grown.cluster.delete(&grown.ids[1]);
    let output = grown.validate(None);
    assert_eq!(output.code, Some(1), "{output:#?}");
    let (second, first) = (&grown.ids[2], &grown.ids[1]);
    let line =
        format!("WARNING: Backup {second} is orphaned because his parent {first} is missing");
    assert!(output.stderr.contains(&line), "{output:#?}");
    let again = grown.validate(None);
    let line = format!("WARNING: Backup {second} has missing parent {first}");
    assert!(again.stderr.contains(&line), "{again:#?}");
}
