//! End to end, one module a user story; read in a row, the names of the tests are the
//! specification.
//!
//! What needs files of the real systems skips aloud where they are absent; in CI it fails instead.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers fail a test as the tests themselves do, and what is skipped is said aloud"
)]

mod accept_options;
mod back_up_running_postgresql;
mod back_up_shared_storage;
mod back_up_stopped_postgresql;
mod back_up_through_recorded_server;
mod chain;
mod change_settings;
mod cluster;
mod create_volume_group;
mod delete_backups;
mod delete_instance;
mod fail_clearly;
mod faults;
mod find_damage;
mod fixtures;
mod help_people;
mod interrupt_merge;
mod keep_parent;
mod manage_catalog;
mod many_files;
mod mark_orphans;
mod merge_chain;
mod merge_recorded_chain;
mod online;
mod oracle;
mod original_conf;
mod postgres;
mod proxy;
mod purge_wal;
mod race_commands;
mod reach_recorded_target;
mod read_changed_files_only;
mod read_gs_probackup_catalog;
mod read_shared_storage;
mod refuse_full_volumes;
mod refuse_hostile_catalog;
mod register_shared_cluster;
mod replay;
mod restore_all_that_is_left;
mod restore_in_place;
mod restore_in_place_dirty;
mod restore_in_place_faults;
mod restore_in_place_lsn;
mod restore_in_place_postgresql;
mod restore_in_place_safety;
mod restore_in_place_special;
mod restore_shared_backup;
mod restore_shared_in_place;
mod restore_shared_volumes;
mod restore_through_server;
mod restore_to_target;
mod restore_whole_shared_cluster;
mod retain_backups;
mod round_trip_shared_storage;
mod share_catalog;
mod shared_backup;
mod shared_cluster;
mod show_catalog;
mod stream_wal;
mod support;
mod survive_faults_in_backup;
mod survive_full_disk;
mod survive_kill;
mod take_full_backup;
mod take_increment_of_postgresql;
mod take_incremental_backup;
mod take_tracked_increment;
mod tell_stories_of_postgresql;
mod transcripts;
mod use_block_devices;
mod wipe_volumes;
mod write_log_files;
