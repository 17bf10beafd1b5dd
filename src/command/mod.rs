//! The commands: one file a verb. They decide; words and exit codes are the business of `cli`.

pub mod add_instance;
pub mod backup;
mod chain;
mod cluster_control;
mod copies;
pub mod del_instance;
pub mod delete;
pub mod demo;
pub mod dss;
pub mod dss_restore;
mod error;
mod hints;
pub mod init;
pub mod merge;
mod recovery_target;
mod removal;
pub mod restore;
pub mod retention;
mod seal;
pub mod set_backup;
pub mod set_config;
pub mod shared_storage;
pub mod show;
pub mod show_archive;
pub mod show_config;
mod status;
pub mod validate;
mod wal_archive;
mod wal_purge;
mod wal_segment;
pub mod words;

pub use error::Error;
pub use recovery_target::{RecoveryTarget, TargetTime};
