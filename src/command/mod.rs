//! The commands: one file a verb. They decide; words and exit codes are the business of `cli`.

pub mod add_instance;
mod error;
pub mod init;
pub mod show;

pub use error::Error;
