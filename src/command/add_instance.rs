//! `add-instance`: registers a cluster in a catalog.

use super::Error;
use crate::catalog::Catalog;
use crate::format::catalog::InstanceConf;
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
    conf.system_identifier = read_system_identifier(Path::new(pgdata))?;
    let instance = catalog.add_instance(&options.instance, &conf)?;
    tracing::info!("Instance '{}' successfully inited", instance.name());
    Ok(())
}

/// Bytes of `pg_control` that every supported server writes at least.
const CONTROL_FILE_BYTES: usize = 8192;

fn read_system_identifier(pgdata: &Path) -> Result<u64, Error> {
    let path = pgdata.join("global/pg_control");
    let mut bytes = Vec::new();
    let read = std::fs::File::open(&path).and_then(|file| {
        let limit = u64::try_from(CONTROL_FILE_BYTES).unwrap_or(u64::MAX);
        file.take(limit).read_to_end(&mut bytes)
    });
    if let Err(source) = read {
        return Err(Error::OpenControlFile { path, source });
    }
    let refuse = |reason: &str| {
        Err(Error::NotAControlFile {
            path: path.clone(),
            reason: reason.to_owned(),
        })
    };
    let Ok(bytes) = <[u8; CONTROL_FILE_BYTES]>::try_from(bytes) else {
        return refuse("it is too short");
    };
    let version = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    // openGauss; PostgreSQL 15 and 16; 17.
    if !matches!(version, 923 | 1300 | 1700) {
        return refuse(&format!("its version is {version}"));
    }
    let identifier = u64::from_le_bytes([
        bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7],
    ]);
    Ok(identifier)
}
