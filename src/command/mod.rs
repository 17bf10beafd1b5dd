//! The commands: one file a verb. They decide; words and exit codes are the business of `cli`.

pub mod add_instance;
pub mod backup;
mod chain;
mod copies;
pub mod delete;
pub mod demo;
mod error;
pub mod init;
pub mod merge;
mod removal;
pub mod restore;
pub mod retention;
mod seal;
pub mod set_backup;
pub mod show;
mod status;
pub mod validate;
pub mod words;

pub use error::Error;
