//! Every byte layout we read or write: pure functions, no I/O.

pub mod backup_label;
pub mod catalog;
pub mod cbm;
pub mod database_map;
pub mod dss;
#[cfg(test)]
pub(crate) mod fixtures;
mod little_endian;
pub mod page;
pub mod pg_control;
pub mod relation_path;
pub mod replication;
pub mod restore_mark;
pub mod seal;
pub mod segment_space;
pub mod shared_control;
pub mod tablespace_map;
pub mod wal;
