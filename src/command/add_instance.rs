//! `add-instance`: registers a cluster in a catalog.

use super::Error;
use super::shared_storage::{SharedOptions, check_primary};
use crate::catalog::Catalog;
use crate::format::catalog::InstanceConf;
use crate::format::pg_control::ControlFile;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What to register.
#[derive(Clone, Debug)]
pub struct Options {
    /// The catalog.
    pub catalog: PathBuf,
    /// Name of the instance.
    pub instance: String,
    /// Its settings; [`InstanceConf::pgdata`] names the cluster's data directory.
    pub conf: InstanceConf,
    /// Its volume groups, where it is on shared storage.
    pub shared: Option<SharedOptions>,
}

/// Registers the instance.
///
/// # Errors
/// Where the data directory is none, or the instance cannot be added.
pub fn run(options: &Options) -> Result<(), Error> {
    let Some(pgdata) = &options.conf.pgdata else {
        let message = "Required parameter not specified: PGDATA (-D, --pgdata)";
        return Err(Error::Refused(message.to_owned()));
    };
    let catalog = Catalog::open(&options.catalog)?;
    let mut conf = options.conf.clone();
    conf.system_identifier = match &options.shared {
        Some(shared) => read_shared(shared)?,
        None => read_system_identifier(Path::new(pgdata))?,
    };
    let instance = catalog.add_instance(&options.instance, &conf)?;
    tracing::info!("Instance '{}' successfully inited", instance.name());
    Ok(())
}

/// The identifier of a cluster on shared storage. Where each instance has WAL of its own, the one
/// that is named must be the primary.
fn read_shared(shared: &SharedOptions) -> Result<u64, Error> {
    let (form, control, bytes) = shared.read_control()?;
    let named = shared.instance_id.filter(|_| form.instance().is_some());
    if let Some(number) = named.and_then(|number| usize::try_from(number).ok()) {
        check_primary(&bytes, number)?;
    }
    Ok(control.file.system_identifier)
}

/// Bytes of `pg_control` that are looked at.
const CONTROL_FILE_BYTES: u64 = 8192;

fn read_system_identifier(pgdata: &Path) -> Result<u64, Error> {
    let path = pgdata.join("global/pg_control");
    let mut bytes = Vec::new();
    let read = std::fs::File::open(&path)
        .and_then(|file| file.take(CONTROL_FILE_BYTES).read_to_end(&mut bytes));
    if let Err(source) = read {
        return Err(Error::OpenControlFile { path, source });
    }
    let control =
        ControlFile::parse(&bytes).map_err(|source| Error::BadControlFile { path, source })?;
    Ok(control.system_identifier)
}
