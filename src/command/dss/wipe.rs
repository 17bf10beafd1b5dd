//! `dss wipe`: volumes become plain devices again.

use super::super::shared_storage::warn_without_home;
use super::{Error, Volumes, error};
use crate::format::catalog::printable;
use crate::storage::dss::{self, DeviceContent, GroupSurvey};
use std::path::PathBuf;

/// What to wipe.
#[derive(Clone, Debug)]
pub struct Options {
    /// The groups with their devices, all of which are wiped.
    pub volumes: Volumes,
    /// Home of the server that must not run.
    pub dss_home: Option<PathBuf>,
}

/// What is on the devices, by group; nothing is changed.
///
/// # Errors
/// Where a device cannot be read, belongs to another group, or where a group has volumes that were
/// not named.
pub fn plan(options: &Options) -> Result<Vec<GroupSurvey>, Error> {
    let mut plan = Vec::new();
    for spec in &options.volumes.groups {
        let survey = dss::survey(spec, options.volumes.engine).map_err(error)?;
        for found in &survey.devices {
            let device = found.device.display();
            if let DeviceContent::Volume { group } = &found.content
                && *group != spec.name
            {
                let (group, name) = (printable(group), printable(&spec.name));
                return Err(Error::Refused(format!(
                    "\"{device}\" is a volume of group {group}, not of {name}"
                )));
            }
        }
        if let Some(device) = survey.unnamed.first() {
            return Err(Error::Refused(format!(
                "volume group {} has a volume on \"{}\", too: name all its devices with --vg",
                printable(&spec.name),
                device.display()
            )));
        }
        plan.push(survey);
    }
    Ok(plan)
}

/// Wipes all devices, or none where one is refused.
///
/// # Errors
/// Where a server or another process has one, or one cannot be written.
pub fn run(options: &Options) -> Result<(), Error> {
    warn_without_home(options.dss_home.as_deref());
    let groups = options.volumes.groups.iter();
    let devices: Vec<PathBuf> = groups.flat_map(|spec| spec.devices.clone()).collect();
    dss::wipe(
        &devices,
        options.dss_home.as_deref(),
        options.volumes.engine,
    )
    .map_err(error)
}
