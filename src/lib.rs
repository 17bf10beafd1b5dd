//! Backup engine for openGauss: reads data files, verifies every page, writes and reads the backup
//! catalog of gs_probackup.
//!
//! Layers, each seeing only those below it (`tests/tidy.rs` checks the arrows):
//!
//! ```text
//! L6  main, cli      words: arguments, log lines, tables, exit codes
//! L5  command        decisions: one file a verb
//! L4  catalog        the backup catalog
//!     pipeline       the transfer core
//!     sample         a generated cluster
//! L3  server         a live instance: connection, start and stop of a backup, WAL streaming
//!     storage        files and directories
//! L2  io             moving bytes: io_uring, pread; all unsafe code
//! L1  format, codec  bytes to types and back; page compression
//! L0  types, limits, monitor
//! ```

pub mod catalog;
pub mod cli;
pub mod codec;
pub mod command;
pub mod format;
pub mod io;
pub mod limits;
pub mod monitor;
pub mod pipeline;
pub mod sample;
pub mod server;
pub mod storage;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod types;
