//! `dss check`: whether the metadata of volume groups fit together.

use super::{Error, Volumes, error};
use crate::storage::dss::{self, CheckReport, VolumeGroup};

/// What to check.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which groups.
    pub volumes: Volumes,
}

/// Checks every group and returns what was found, by group.
///
/// # Errors
/// Where a group cannot be opened or read.
pub fn run(options: &Options) -> Result<Vec<(String, CheckReport)>, Error> {
    let mut reports = Vec::new();
    for spec in &options.volumes.groups {
        let mut group = VolumeGroup::open(spec, options.volumes.engine).map_err(error)?;
        let report = dss::check(&mut group).map_err(error)?;
        reports.push((spec.name.clone(), report));
    }
    Ok(reports)
}

/// The error of a run whose reports say that groups are damaged.
///
/// # Errors
/// Where one is.
pub fn verdict(reports: &[(String, CheckReport)]) -> Result<(), Error> {
    let damaged: Vec<&str> = reports
        .iter()
        .filter(|(_, report)| report.is_damaged())
        .map(|(name, _)| &**name)
        .collect();
    if damaged.is_empty() {
        return Ok(());
    }
    Err(Error::VolumesDamaged {
        groups: damaged.join(", "),
    })
}
