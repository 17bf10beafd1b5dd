//! Every byte layout we read or write: pure functions, no I/O.

pub mod catalog;
pub mod page;
pub mod wal;
