//! Runs of the program in which a step fails or is the last one (`io/fault`).

use crate::support::{self, Output, assert_success, gs_probackup};
use std::path::Path;
use std::process::Command;

/// What the program is told to do with one of its steps, by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// It is killed before the step.
    Kill(usize),
    /// It is killed in the middle of it, if it is a write, else before.
    Tear(usize),
    /// The step fails with EIO.
    IoError(usize),
    /// This step and all later ones that need space fail with ENOSPC.
    NoSpace(usize),
}

impl Fault {
    fn plan(self) -> String {
        match self {
            Fault::Kill(step) => format!("kill:{step}"),
            Fault::Tear(step) => format!("tear:{step}"),
            Fault::IoError(step) => format!("eio:{step}"),
            Fault::NoSpace(step) => format!("enospc:{step}"),
        }
    }
}

/// The steps of a run that succeeds, in their order: `<operation> <path>`; step 1 is the first.
#[track_caller]
pub(crate) fn steps_of(command: &mut Command) -> Vec<String> {
    let scratch = tempfile::tempdir().unwrap();
    let record = scratch.path().join("steps");
    let plan = format!("record:{}", record.display());
    assert_success(&support::run(command.env("GS_FAULT", plan)));
    let text = std::fs::read_to_string(record).unwrap_or_default();
    let mut steps: Vec<(usize, String)> = text
        .lines()
        .map(|line| {
            let (number, step) = line.split_once(' ').unwrap();
            (number.parse().unwrap(), step.to_owned())
        })
        .collect();
    steps.sort();
    steps.into_iter().map(|(_, step)| step).collect()
}

/// Runs a command to its end, whatever that is.
pub(crate) fn run_with(fault: Fault, command: &mut Command) -> Output {
    support::run(command.env("GS_FAULT", fault.plan()))
}

/// Whether it was killed, and not ended by itself.
pub(crate) fn was_killed(output: &Output) -> bool {
    output.code.is_none()
}

fn init(catalog: &Path) -> Command {
    support::command(&["init"], catalog)
}

#[test]
fn each_step_of_a_command_can_be_seen_failed_and_made_the_last() {
    let scratch = tempfile::tempdir().unwrap();
    let catalog = |name: &str| scratch.path().join(name);
    let steps = steps_of(&mut init(&catalog("recorded")));
    assert!(steps.iter().any(|step| step.starts_with("fsync ")));
    for step in 1..=steps.len() {
        let name = &steps[step - 1];
        let path = catalog(&format!("eio-{step}"));
        let output = run_with(Fault::IoError(step), &mut init(&path));
        assert_eq!(output.code, Some(1), "{name}: {output:?}");
        assert!(output.stderr.contains("Input/output error"), "{output:?}");
        for fault in [Fault::Kill(step), Fault::Tear(step)] {
            let path = catalog(&format!("{fault:?}"));
            let output = run_with(fault, &mut init(&path));
            assert!(was_killed(&output), "{name}: {output:?}");
        }
    }
    let behind = run_with(Fault::Kill(steps.len() + 1), &mut init(&catalog("whole")));
    assert_success(&behind);
    let full = run_with(Fault::NoSpace(1), &mut init(&catalog("full")));
    assert_eq!(full.code, Some(1), "{full:?}");
    assert!(full.stderr.contains("No space left on device"), "{full:?}");
    assert_success(&gs_probackup(&["init"], &catalog("full")));
}
