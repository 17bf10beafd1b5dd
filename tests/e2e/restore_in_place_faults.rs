//! A restore in place that is killed, or that meets a full or broken disk, at each of its steps:
//! the directory cannot be started, and repeating the command completes it.

use crate::chain::{ChainOfBackups, copy_tree};
use crate::faults::{Fault, Planned, faults_at, meet, on_both_cores, steps_of};
use crate::merge_chain::memory;
use crate::restore_in_place::{Trees, assert_same_trees, trees};
use crate::support::{self, assert_success};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A chain, a tree of its first backup with some dirt, and what its last backup is.
struct Story {
    chain: ChainOfBackups,
    scratch: tempfile::TempDir,
    expected: Trees,
}

impl Story {
    fn create() -> Story {
        let chain = ChainOfBackups::create_lean(&[&[], &["--compress-algorithm=lz4"]]);
        let scratch = memory();
        let (target, tablespace) = chain.cluster.restore(chain.last(), "fresh");
        let expected = trees(&target, &tablespace);
        let story = Story {
            chain,
            scratch,
            expected,
        };
        let start = story.place("start");
        assert_success(&support::run(&mut story.command(0, &start, &[])));
        // Every kind of change, few of each: each file takes steps.
        let base = start.0.join("base/16384");
        fs::create_dir_all(start.0.join("base/77777/deeper")).unwrap();
        fs::write(start.0.join("base/77777/deeper/1"), b"redundant").unwrap();
        fs::write(base.join("88888"), b"redundant").unwrap();
        fs::write(start.0.join("recovery.conf"), b"standby_mode = 'on'").unwrap();
        fs::remove_file(start.0.join("PG_VERSION")).unwrap();
        fs::create_dir(start.0.join("PG_VERSION")).unwrap();
        let old = start.0.join("pg_xlog/000000010000000000000001");
        fs::write(old, b"another history").unwrap();
        story
    }

    fn place(&self, name: &str) -> (PathBuf, PathBuf) {
        let root = self.scratch.path();
        (root.join(name), root.join(format!("{name}.tablespace")))
    }

    /// The dirty tree once more; its link leads to its own tablespace.
    fn dirty(&self, name: &str) -> (PathBuf, PathBuf) {
        let (start, place) = (self.place("start"), self.place(name));
        for (from, to) in [(&start.0, &place.0), (&start.1, &place.1)] {
            fs::remove_dir_all(to).ok();
            copy_tree(from, to);
            fs::set_permissions(to, fs::Permissions::from_mode(0o700)).unwrap();
        }
        let link = place.0.join("pg_tblspc/16385");
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&place.1, link).unwrap();
        place
    }

    fn command(&self, member: usize, place: &(PathBuf, PathBuf), more: &[&str]) -> Command {
        let cluster = &self.chain.cluster;
        let mapping = format!(
            "{}={}",
            cluster.sample.tablespace.display(),
            place.1.display()
        );
        let data = place.0.display().to_string();
        let mut arguments = vec!["restore", "--instance", "main", "--no-validate"];
        arguments.extend(["-i", &self.chain.ids[member], "-D", &data, "-T", &mapping]);
        arguments.extend(more);
        support::command(&arguments, &cluster.catalog)
    }

    fn in_place(&self, place: &(PathBuf, PathBuf)) -> Command {
        self.command(self.chain.ids.len() - 1, place, &["-I", "checksum"])
    }

    /// Repeats the command and looks at what came out.
    fn completes(&self, place: &(PathBuf, PathBuf), step: &str) {
        let output = support::run(&mut self.in_place(place));
        assert!(output.code == Some(0), "after {step}: {output:#?}");
        assert_same_trees(&self.expected, &trees(&place.0, &place.1));
    }
}

/// Whether a server would start: only what is whole has the file it reads first.
fn has_control_file(data: &Path) -> bool {
    data.join("global/pg_control").exists()
}

#[test]
fn a_kill_at_any_step_leaves_what_cannot_be_started_and_can_be_repeated() {
    let story = Story::create();
    let place = story.dirty("worker-0");
    let steps = steps_of(&mut story.in_place(&place));
    assert_same_trees(&story.expected, &trees(&place.0, &place.1));
    eprintln!("{} steps of a restore in place", steps.len());
    // The old control file goes first, the new one comes last.
    let is_back = |step: &&String| step.starts_with("rename ") && step.contains("pg_control-");
    let away = |data: &Path| format!("rename {}", data.join("global/pg_control").display());
    let first_away = steps
        .iter()
        .position(|step| *step == away(&place.0))
        .unwrap();
    let last_back = steps.iter().rposition(|step| is_back(&step)).unwrap();
    let changes = steps
        .iter()
        .position(|step| step.contains(&place.0.display().to_string()));
    // Only the mark comes before, and what is left of the old state after.
    assert!(
        first_away < changes.unwrap() + 6 && last_back > steps.len() - 12,
        "{steps:#?}"
    );
    let all_back = steps.iter().filter(is_back).count();
    on_both_cores(steps.len(), |worker, number| {
        let name = format!("worker-{worker}");
        let place = story.place(&name);
        let met = meet(&Planned::among_all(Fault::Kill(number + 1)), || {
            story.in_place(&story.dirty(&name))
        });
        let is_untouched = !met.before.contains(&away(&place.0));
        let is_whole = met.before.iter().filter(is_back).count() == all_back;
        assert_eq!(
            has_control_file(&place.0),
            is_untouched || is_whole,
            "{}",
            met.step
        );
        story.completes(&place, &met.step);
    });
}

#[test]
fn an_error_at_any_kind_of_step_is_told_and_the_command_can_be_repeated() {
    let story = Story::create();
    let steps = steps_of(&mut story.in_place(&story.dirty("worker-0")));
    let alike = ["/base/", "/pg_xlog/", ".tablespace/"];
    let mut faults = faults_at(&steps, story.scratch.path(), &alike);
    faults.retain(|planned| !matches!(planned.fault, Fault::Kill(_)));
    eprintln!("{} errors in a restore in place", faults.len());
    assert!(faults.len() > 60, "{faults:#?}");
    on_both_cores(faults.len(), |worker, number| {
        let name = format!("worker-{worker}");
        let place = story.place(&name);
        let fault = faults[number].fault;
        let met = meet(&faults[number], || story.in_place(&story.dirty(&name)));
        let (step, output) = (&met.step, &met.output);
        if output.code == Some(0) {
            // A lock that stays.
            let is_lock = step.starts_with("remove ") && step.ends_with(".pid");
            assert!(is_lock, "{fault:?} {step}: {output:#?}");
        } else if !fault.is_kill() {
            assert_eq!(output.code, Some(1), "{fault:?} {step}: {output:#?}");
            let mut lines = output.stderr.lines();
            let error = lines.find(|line| line.starts_with("ERROR: "));
            let error = error.unwrap_or_else(|| panic!("{fault:?} {step}: {output:#?}"));
            assert!(error.contains(fault.reason()), "{step}: {error}");
            assert!(error.contains("cannot ") && error.contains('"'), "{error}");
        }
        story.completes(&place, step);
    });
}

#[test]
fn a_restore_into_an_empty_directory_that_was_killed_is_gone_on_with() {
    let story = Story::create();
    let empty = |name: &str| {
        let place = story.place(name);
        fs::remove_dir_all(&place.0).ok();
        fs::remove_dir_all(&place.1).ok();
        place
    };
    let steps = steps_of(&mut story.in_place(&empty("worker-0")));
    // Files are alike: some of the many steps are enough, all of the first and of the last.
    let chosen: Vec<usize> = (0..steps.len())
        .filter(|number| *number < 24 || *number + 24 > steps.len() || number % 37 == 0)
        .collect();
    on_both_cores(chosen.len(), |worker, index| {
        let name = format!("worker-{worker}");
        let kill = Planned::among_all(Fault::Kill(chosen[index] + 1));
        let met = meet(&kill, || story.in_place(&empty(&name)));
        story.completes(&story.place(&name), &met.step);
    });
}
