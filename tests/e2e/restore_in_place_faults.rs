//! A restore in place that is killed, or that meets a full or broken disk, at each of its steps:
//! the directory cannot be started, and repeating the command completes it.

use crate::chain::{ChainOfBackups, copy_tree};
use crate::faults::{Fault, run_with, steps_of, was_killed};
use crate::merge_chain::memory;
use crate::restore_in_place::{Trees, assert_same_trees, trees};
use crate::support::{self, assert_success};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A chain, a tree of its first backup with some dirt, and what its last backup is.
struct Story {
    chain: ChainOfBackups,
    scratch: tempfile::TempDir,
    expected: Trees,
}

impl Story {
    fn create() -> Story {
        let chain = ChainOfBackups::create(&[&[], &["--compress-algorithm=lz4"]]);
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

/// Does `work` for each number below `count`, on both cores.
fn on_both_cores(count: usize, work: impl Fn(usize, usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (next, work) = (&next, &work);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    work(worker, number);
                }
            });
        }
    });
}

#[test]
fn a_kill_at_any_step_leaves_what_cannot_be_started_and_can_be_repeated() {
    let story = Story::create();
    let place = story.dirty("recorded");
    let steps = steps_of(&mut story.in_place(&place));
    assert_same_trees(&story.expected, &trees(&place.0, &place.1));
    let at = |text: &str| {
        steps
            .iter()
            .position(|step| step.starts_with(text))
            .unwrap()
    };
    // The old control file goes first, the new one comes last.
    let away = at(&format!(
        "rename {}",
        place.0.join("global/pg_control").display()
    ));
    let back = steps.len() - 1 - {
        let renamed = |step: &String| step.starts_with("rename ") && step.contains("pg_control-");
        steps.iter().rev().position(renamed).unwrap()
    };
    let changes = steps
        .iter()
        .position(|step| step.contains(&place.0.display().to_string()));
    // Only the mark comes before, and what is left of the old state after.
    assert!(
        away < changes.unwrap() + 6 && back > steps.len() - 12,
        "{steps:#?}"
    );
    on_both_cores(steps.len(), |worker, number| {
        let place = story.dirty(&format!("killed-{worker}"));
        let step = number + 1;
        let fault = if step % 2 == 0 {
            Fault::Kill(step)
        } else {
            Fault::Tear(step)
        };
        let output = run_with(fault, &mut story.in_place(&place));
        assert!(was_killed(&output), "{}: {output:?}", steps[number]);
        // Files are opened ahead on a thread, so that steps between may come in another order.
        assert_eq!(
            has_control_file(&place.0),
            number <= away || number > back,
            "{}",
            steps[number]
        );
        story.completes(&place, &steps[number]);
    });
}

#[test]
fn an_error_at_any_step_is_told_and_the_command_can_be_repeated() {
    let story = Story::create();
    let place = story.dirty("recorded");
    let steps = steps_of(&mut story.in_place(&place));
    let seen = AtomicUsize::new(0);
    on_both_cores(2 * steps.len(), |worker, number| {
        let place = story.dirty(&format!("failed-{worker}"));
        let (step, full) = (number / 2 + 1, number % 2 == 0);
        let fault = if full {
            Fault::NoSpace(step)
        } else {
            Fault::IoError(step)
        };
        let output = run_with(fault, &mut story.in_place(&place));
        let name = &steps[step - 1];
        if output.code == Some(0) {
            // Nothing that takes space comes after it, or it is a lock that stays.
            let is_lock = name.starts_with("remove ") && name.ends_with(".pid");
            assert!(full || is_lock, "{name}: {output:#?}");
        } else {
            seen.fetch_add(1, Ordering::Relaxed);
            assert_eq!(output.code, Some(1), "{name}: {output:#?}");
            let error = output
                .stderr
                .lines()
                .find(|line| line.starts_with("ERROR: "));
            let error = error.unwrap_or_else(|| panic!("{name}: {output:#?}"));
            let reason = if full {
                "No space left on device"
            } else {
                "Input/output error"
            };
            assert!(error.contains(reason), "{name}: {error}");
            assert!(error.contains("cannot ") && error.contains('"'), "{error}");
        }
        story.completes(&place, name);
    });
    assert!(seen.into_inner() > steps.len());
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
    let steps = steps_of(&mut story.in_place(&empty("recorded")));
    // Files are alike: some of the many steps are enough, all of the first and of the last.
    let chosen: Vec<usize> = (0..steps.len())
        .filter(|number| *number < 24 || *number + 24 > steps.len() || number % 37 == 0)
        .collect();
    on_both_cores(chosen.len(), |worker, index| {
        let (number, place) = (chosen[index], empty(&format!("killed-{worker}")));
        let output = run_with(Fault::Kill(number + 1), &mut story.in_place(&place));
        assert!(was_killed(&output), "{}: {output:?}", steps[number]);
        story.completes(&place, &steps[number]);
    });
}
