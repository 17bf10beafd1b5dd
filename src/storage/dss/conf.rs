//! Which volume groups there are, and on which devices.

use super::DssError;
use crate::format::dss::parse_vg_conf;
use crate::limits::DSS_CONF_BYTES_MAX;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// A volume group to open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupSpec {
    /// Its name.
    pub name: String,
    /// Its devices, the entry volume first. Others may be missing: the group says where they are.
    pub devices: Vec<PathBuf>,
}

impl GroupSpec {
    /// The group of `name=device[,device…]`.
    ///
    /// # Errors
    /// Where the text is something else.
    pub fn parse(text: &str) -> Result<GroupSpec, DssError> {
        let error = || DssError::Spec {
            text: text.to_owned(),
        };
        let (name, devices) = text.split_once('=').ok_or_else(error)?;
        let devices: Vec<PathBuf> = devices.split(',').map(PathBuf::from).collect();
        let name = name.strip_prefix('+').unwrap_or(name);
        if name.is_empty() || devices.iter().any(|device| device.as_os_str().is_empty()) {
            return Err(error());
        }
        Ok(GroupSpec {
            name: name.to_owned(),
            devices,
        })
    }

    /// The groups of a `dss_vg_conf.ini`.
    ///
    /// # Errors
    /// Where it cannot be read or is not one.
    pub fn read_conf(path: &Path) -> Result<Vec<GroupSpec>, DssError> {
        let error = |source| DssError::Conf {
            path: path.to_owned(),
            source,
        };
        let file = std::fs::File::open(path).map_err(error)?;
        let mut text = String::new();
        let limit = DSS_CONF_BYTES_MAX + 1;
        file.take(limit).read_to_string(&mut text).map_err(error)?;
        if text.len() as u64 == limit {
            return Err(error(io::ErrorKind::FileTooLarge.into()));
        }
        let groups = parse_vg_conf(&text).map_err(|source| DssError::ConfLine {
            path: path.to_owned(),
            source,
        })?;
        let spec = |(name, device)| GroupSpec {
            name,
            devices: vec![PathBuf::from(device)],
        };
        Ok(groups.into_iter().map(spec).collect())
    }

    /// The configuration of a server's home.
    #[must_use]
    pub fn conf_of_home(home: &Path) -> PathBuf {
        home.join("cfg/dss_vg_conf.ini")
    }
}
