//! The binary: parse, run one command, exit.

use std::process::ExitCode;

fn main() -> ExitCode {
    gs_probackup::cli::main().into()
}
