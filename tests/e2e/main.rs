//! End to end, one module a user story; read in a row, the names of the tests are the
//! specification.
//!
//! What needs files of the real systems skips aloud where they are absent; in CI it fails instead.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers fail a test as the tests themselves do, and what is skipped is said aloud"
)]

mod chain;
mod cluster;
mod find_damage;
mod fixtures;
mod manage_catalog;
mod merge_chain;
mod read_gs_probackup_catalog;
mod refuse_hostile_catalog;
mod share_catalog;
mod show_catalog;
mod support;
mod survive_full_disk;
mod survive_kill;
mod take_full_backup;
