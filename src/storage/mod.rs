//! Files and directories: where bytes are. Judges no page and prints nothing.

mod durable;
mod error;

pub use durable::{create_directory_durably, sync_directory, write_file_durably};
pub use error::StorageError;
