//! End to end, one module a user story; read in a row, the names of the tests are the
//! specification.
//!
//! What needs files of the real systems skips aloud where they are absent; in CI it fails instead.

mod cluster;
mod find_damage;
mod fixtures;
mod read_gs_probackup_catalog;
mod share_catalog;
mod support;
mod survive_kill;
mod take_full_backup;
