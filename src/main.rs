//! The binary: parse, run one command, exit.

fn main() {}
