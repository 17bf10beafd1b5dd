//! Running the program and looking at what it said.

use std::path::Path;
use std::process::Command;

/// What a run of the program came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Output {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The program with these arguments, the subcommand first, and `-B` between it and the others.
/// Times are UTC, and the environment names no catalog and no data directory.
pub(crate) fn command(arguments: &[&str], catalog: &Path) -> Command {
    let (subcommand, others) = arguments.split_first().expect("a subcommand");
    let mut command = bare(&[subcommand]);
    command.arg("-B").arg(catalog).args(others);
    command
}

/// The program with these arguments and no others.
pub(crate) fn bare(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gs_probackup"));
    command
        .args(arguments)
        .env("TZ", "UTC")
        .env_remove("BACKUP_PATH")
        .env_remove("PGDATA");
    command
}

/// Runs [`command`] to its end.
pub(crate) fn gs_probackup(arguments: &[&str], catalog: &Path) -> Output {
    run(&mut command(arguments, catalog))
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Fails, with what was said, unless the exit code is 0 and no error line was written.
#[track_caller]
pub(crate) fn assert_success(output: &Output) {
    assert_eq!(output.code, Some(0), "{output:#?}");
    assert!(!output.stderr.contains("ERROR:"), "{output:#?}");
}

/// Whether this process, and so the program that it starts, was told to ignore SIGHUP.
pub(crate) fn hangups_are_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    u64::from_str_radix(mask.unwrap().trim(), 16).unwrap() & 1 != 0
}
