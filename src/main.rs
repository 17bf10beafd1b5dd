//! The binary: parse, run one command, exit.

use std::process::ExitCode;

fn main() -> ExitCode {
    gs_probackup::cli::run(std::env::args_os().skip(1)).into()
}
