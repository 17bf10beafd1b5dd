//! Running the program as a user does.

use std::path::Path;
use std::process::Command;

/// What a run printed and how it ended.
#[derive(Debug)]
pub(crate) struct Output {
    /// Exit code; `None` after a signal.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The program with its subcommand first, then the catalog; times in UTC, nothing from the
/// environment of the caller.
pub(crate) fn command(arguments: &[&str], catalog: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gs_probackup"));
    command
        .arg(arguments[0])
        .arg("-B")
        .arg(catalog)
        .args(&arguments[1..]);
    command
        .env("TZ", "UTC")
        .env_remove("BACKUP_PATH")
        .env_remove("PGDATA");
    command
}

/// Runs it to its end.
pub(crate) fn gs_probackup(arguments: &[&str], catalog: &Path) -> Output {
    let output = command(arguments, catalog).output().unwrap();
    Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub(crate) fn assert_success(output: &Output) {
    assert_eq!(output.code, Some(0), "{}\n{}", output.stdout, output.stderr);
}
