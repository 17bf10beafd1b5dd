//! `init`: makes an empty catalog.

use super::Error;
use crate::catalog::Catalog;
use std::path::PathBuf;

/// What to make.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where; absent or empty.
    pub catalog: PathBuf,
}

/// Makes the catalog.
///
/// # Errors
/// Where something is there already or cannot be written.
pub fn run(options: &Options) -> Result<(), Error> {
    let catalog = Catalog::init(&options.catalog)?;
    tracing::info!(
        "Backup catalog '{}' successfully inited",
        catalog.path().display()
    );
    Ok(())
}
