//! Runs of the program in which a step fails or is the last one (`io/fault`).

use crate::support::{self, Output, assert_success, gs_probackup};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

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
        let kind = match self {
            Fault::Kill(_) => "kill",
            Fault::Tear(_) => "tear",
            Fault::IoError(_) => "eio",
            Fault::NoSpace(_) => "enospc",
        };
        format!("{kind}:{}", self.step())
    }

    /// The number of its step.
    fn step(self) -> usize {
        match self {
            Fault::Kill(step) | Fault::Tear(step) | Fault::IoError(step) | Fault::NoSpace(step) => {
                step
            }
        }
    }

    /// The same a step earlier, if there is one.
    fn earlier(self) -> Option<Fault> {
        let step = self.step().checked_sub(1).filter(|step| *step > 0)?;
        Some(match self {
            Fault::Kill(_) => Fault::Kill(step),
            Fault::Tear(_) => Fault::Tear(step),
            Fault::IoError(_) => Fault::IoError(step),
            Fault::NoSpace(_) => Fault::NoSpace(step),
        })
    }

    /// Whether it kills.
    pub(crate) fn is_kill(self) -> bool {
        matches!(self, Fault::Kill(_) | Fault::Tear(_))
    }

    /// What the operating system says of it, if the program lives to tell.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Fault::NoSpace(_) => "No space left on device",
            _ => "Input/output error",
        }
    }
}

/// A fault and the pattern of the steps among which it is counted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Planned {
    pub(crate) fault: Fault,
    among: String,
}

impl Planned {
    /// Counted among all steps.
    pub(crate) fn among_all(fault: Fault) -> Planned {
        Planned {
            fault,
            among: "**".to_owned(),
        }
    }
}

/// What a run came to that a fault met.
#[derive(Debug)]
pub(crate) struct Met {
    pub(crate) output: Output,
    /// The step, the first one if there are several.
    pub(crate) step: String,
    /// All that came before it.
    pub(crate) before: Vec<String>,
}

/// Runs a command, which is made anew for each run, with a fault until the fault meets a step. A
/// run has some steps more or fewer than another: one that is over before the step must have
/// succeeded, and is followed by one with the fault a step earlier. So the last step of a run is
/// met, too.
#[track_caller]
pub(crate) fn meet(planned: &Planned, mut command: impl FnMut() -> Command) -> Met {
    let mut fault = planned.fault;
    let scratch = tempfile::tempdir().unwrap();
    for turn in 0..20 {
        let record = scratch.path().join(turn.to_string());
        let mut command = command();
        command.env("GS_FAULT", format!("{}:{}", fault.plan(), planned.among));
        let output = support::run(command.env("GS_FAULT_RECORD", &record));
        let mut before = recorded(&record);
        let met = before.iter().position(|(is_met, _, _)| *is_met);
        assert_eq!(
            was_killed(&output),
            fault.is_kill() && met.is_some(),
            "{planned:?}: {output:?}"
        );
        if let Some(index) = met {
            let step = before.swap_remove(index).2;
            before.truncate(index);
            return Met {
                output,
                step,
                before: before.into_iter().map(|(_, _, step)| step).collect(),
            };
        }
        assert_success(&output);
        fault = fault
            .earlier()
            .unwrap_or_else(|| panic!("{planned:?} meets nothing"));
    }
    panic!("{planned:?} meets nothing");
}

/// Recorded steps in their order: whether a fault met them, their numbers, and what they are.
fn recorded(path: &Path) -> Vec<(bool, usize, String)> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut steps: Vec<(bool, usize, String)> = text
        .lines()
        .map(|line| {
            let (number, step) = line.split_once(' ').unwrap();
            let is_met = number.starts_with('!');
            let number = number.trim_start_matches('!').parse().unwrap();
            (is_met, number, step.to_owned())
        })
        .collect();
    steps.sort_by_key(|(_, number, _)| *number);
    steps
}

/// The steps of a run that succeeds, in their order: `<operation> <path>`; step 1 is the first.
#[track_caller]
pub(crate) fn steps_of(command: &mut Command) -> Vec<String> {
    let scratch = tempfile::tempdir().unwrap();
    let record = scratch.path().join("steps");
    let plan = format!("record:{}", record.display());
    assert_success(&support::run(command.env("GS_FAULT", plan)));
    let steps = recorded(&record).into_iter();
    steps.map(|(_, _, step)| step).collect()
}

/// Whether every fault is wanted at every step, and not some of them at each kind of step.
pub(crate) fn is_every_fault_wanted() -> bool {
    std::env::var_os("GS_FAULT_EVERY").is_some_and(|value| value != "0")
}

/// The kind of a step as a pattern. Files below `alike` are of one kind; others go by their names,
/// but for what differs from run to run: numbers, ids, and the `root` of the test.
fn kind_of(step: &str, root: &Path, alike: &[&str]) -> String {
    let step = step.replace(&root.display().to_string(), "**");
    let cut = |directory: &&str| Some(step.find(directory)? + directory.len());
    let end = alike.iter().filter_map(cut).min();
    let mut pattern = String::new();
    for character in step[..end.unwrap_or(step.len())].chars() {
        let varies = character.is_ascii_digit() || character.is_ascii_uppercase();
        match varies {
            true if pattern.ends_with('*') => {}
            true => pattern.push('*'),
            false => pattern.push(character),
        }
    }
    if end.is_some() {
        pattern.push_str("**");
    }
    pattern
}

fn needs_space(step: &str) -> bool {
    ["create", "write ", "link", "copy to ", "share blocks "]
        .iter()
        .any(|word| step.starts_with(word))
}

/// The faults to try where a run has these steps: of each kind of step every fault that it can
/// have, each at another one if there are so many. ENOSPC is for steps that need space: at others
/// it is one at the next step that does. With `GS_FAULT_EVERY`, every fault at every step.
pub(crate) fn faults_at(steps: &[String], root: &Path, alike: &[&str]) -> Vec<Planned> {
    const KINDS: [fn(usize) -> Fault; 4] =
        [Fault::NoSpace, Fault::Kill, Fault::IoError, Fault::Tear];
    let is_possible = |fault: Fault, step: &str| match fault {
        Fault::NoSpace(_) => needs_space(step),
        Fault::Tear(_) => step.starts_with("write "),
        Fault::Kill(_) | Fault::IoError(_) => true,
    };
    if is_every_fault_wanted() {
        let faults = (1..=steps.len()).flat_map(|step| KINDS.map(|kind| kind(step)));
        let of = |fault: &Fault| &*steps[fault.step() - 1];
        let possible = faults.filter(|fault| is_possible(*fault, of(fault)));
        return possible.map(Planned::among_all).collect();
    }
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for step in steps {
        *kinds.entry(kind_of(step, root, alike)).or_default() += 1;
    }
    let of_kind = |(among, count): (&String, &usize)| {
        let last = count - 1;
        let each = KINDS.iter().enumerate().map(|(turn, kind)| Planned {
            fault: kind(last * turn / (KINDS.len() - 1) + 1),
            among: among.clone(),
        });
        each.filter(|planned| is_possible(planned.fault, &planned.among))
            .collect::<Vec<_>>()
    };
    kinds.iter().flat_map(of_kind).collect()
}

/// Runs a command to its end, whatever that is.
pub(crate) fn run_with(fault: Fault, command: &mut Command) -> Output {
    support::run(command.env("GS_FAULT", fault.plan()))
}

/// Whether it was killed, and not ended by itself.
pub(crate) fn was_killed(output: &Output) -> bool {
    output.code.is_none()
}

/// Does `work` for each number below `count`, on two threads; it is told the thread and the number.
pub(crate) fn on_both_cores(count: usize, work: impl Fn(usize, usize) + Sync) {
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
