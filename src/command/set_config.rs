//! `set-config`: changes settings of an instance, and says nothing if that worked.

use super::Error;
use crate::catalog::Catalog;
use crate::format::catalog::InstanceConf;
use std::path::PathBuf;

/// What to change.
#[derive(Clone, Debug)]
pub struct Options {
    /// The catalog.
    pub catalog: PathBuf,
    /// Name of the instance.
    pub instance: String,
    /// The new values; what is not set here keeps the one it has.
    pub changes: InstanceConf,
}

/// Stores the settings durably. Settings that another process changes meanwhile are kept.
///
/// # Errors
/// Where the instance's file cannot be read or replaced; it is then as before.
pub fn run(options: &Options) -> Result<(), Error> {
    let instance = Catalog::open(&options.catalog)?.instance(&options.instance)?;
    instance.change_conf(|conf| {
        for option in &InstanceConf::OPTIONS {
            if let Some(value) = options.changes.get(option.key) {
                conf.set(option.key, &format!("--{}", option.key), &value)
                    .map_err(|error| Error::Refused(error.to_string()))?;
            }
        }
        Ok(())
    })
}
