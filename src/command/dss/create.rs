//! `dss cv`: a new volume group on a device; `dss adv`: more volumes of a group.

use super::super::shared_storage::warn_without_home;
use super::{Error, error};
use crate::io::EngineChoice;
use crate::storage::dss::{self, CreateOptions, DssError, GroupSpec, GroupSummary, WriteOptions};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// The group to make.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name and its one device.
    pub group: GroupSpec,
    /// Bytes of an allocation unit.
    pub au_bytes: u64,
    /// Home of the server that must not run.
    pub dss_home: Option<PathBuf>,
    /// How the device is read.
    pub engine: EngineChoice,
}

/// Makes the group.
///
/// # Errors
/// Where the device is a volume already, is in use, or cannot be written.
pub fn run(options: &Options) -> Result<GroupSummary, Error> {
    let [device] = &options.group.devices[..] else {
        let text = format!("{}=…", options.group.name);
        return Err(error(DssError::Spec { text }));
    };
    warn_without_home(options.dss_home.as_deref());
    let create = CreateOptions {
        name: options.group.name.clone(),
        device: device.clone(),
        au_bytes: options.au_bytes,
        dss_home: options.dss_home.clone(),
        time: now(),
    };
    dss::create(&create, options.engine).map_err(error)
}

/// The group to add to.
#[derive(Clone, Debug)]
pub struct AddOptions {
    /// The group and all its devices, those that are to be added among them.
    pub group: GroupSpec,
    /// Home of the server that must not run.
    pub dss_home: Option<PathBuf>,
    /// How devices are read.
    pub engine: EngineChoice,
}

/// Adds the devices that are no volumes yet.
///
/// # Errors
/// Where all are, the group is in use, or a device cannot be written.
pub fn add(options: &AddOptions) -> Result<GroupSummary, Error> {
    warn_without_home(options.dss_home.as_deref());
    let write = WriteOptions {
        dss_home: options.dss_home.clone(),
        ..WriteOptions::default()
    };
    dss::add_volumes(&options.group, &write, now(), options.engine).map_err(error)
}

/// Seconds since 1970, and microseconds.
fn now() -> (u64, u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default();
    (now.as_secs(), u64::from(now.subsec_micros()))
}
