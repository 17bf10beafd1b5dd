//! The program from outside, by user story: the names of the modules are what it promises.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

mod cluster;
mod find_damage;
mod fixtures;
mod manage_catalog;
mod read_gs_probackup_catalog;
mod show_catalog;
mod support;
mod survive_kill;
mod take_full_backup;
