//! What the options of clusters on shared storage mean: which volume groups, on which devices.

use super::args::{Request, refused};
use crate::command::Error;
use crate::command::shared_storage::SharedOptions;
use crate::format::catalog::{InstanceConf, StorageType, printable};
use crate::storage::dss::{DssError, GroupSpec};
use std::path::{Path, PathBuf};

/// What the original says if the groups are not named.
const NO_GROUPS: &str = "Vgname must be specified in dss mode.";

impl Request<'_> {
    /// Checks what is set of shared storage, in the order of the original. The names of the two
    /// groups; `None` where the cluster is not on shared storage.
    pub(super) fn shared_names(
        &self,
        conf: &InstanceConf,
    ) -> Result<Option<(String, String)>, Error> {
        if conf.storage_type() != StorageType::Dss {
            return Ok(None);
        }
        let names = conf.get("vgname");
        let names = names.map(|names| SharedOptions::parse_names(&names).map_err(refused));
        let names = names.transpose()?;
        if let (Some(given), Some(expected)) = (conf.get("socketpath"), self.socket_of_home())
            && given != expected
        {
            let given = printable(&given);
            return Err(refused(format!("The input socket:{given} is incorrect")));
        }
        let proto = conf.get("remote-proto").unwrap_or_default();
        if conf.get("remote-host").is_some() && proto != "none" {
            return Err(refused("Remote operations on dss mode are not supported"));
        }
        names.ok_or_else(|| refused(NO_GROUPS)).map(Some)
    }

    /// The groups of the instance with their devices; `None` where the cluster is not on shared
    /// storage.
    pub(super) fn shared(&self, conf: &InstanceConf) -> Result<Option<SharedOptions>, Error> {
        let Some((data_group, log_group)) = self.shared_names(conf)? else {
            let given = ["vg", "dss-conf"];
            let given = given.into_iter().find(|it| self.options.is_given(it));
            return match given {
                Some(option) => Err(refused(format!(
                    "--{option} is of no use: the cluster is not on shared storage"
                ))),
                None => Ok(None),
            };
        };
        Ok(Some(SharedOptions {
            data_group,
            log_group,
            socket: conf.get("socketpath").or_else(|| self.socket_of_home()),
            instance_id: conf.instance_id.and_then(|id| u32::try_from(id).ok()),
            groups: self.volume_groups()?,
            are_devices_named: ["vg", "dss-conf"]
                .iter()
                .any(|it| self.options.is_given(it)),
            dss_home: self.environment.dss_home.as_ref().map(PathBuf::from),
            engine: self.check_options()?.engine,
        }))
    }

    /// The socket of the server of storage, by its home.
    fn socket_of_home(&self) -> Option<String> {
        let home = self.environment.dss_home.as_ref()?.to_str()?;
        Some(format!("UDS:{home}/.dss_unix_d_socket"))
    }

    /// The groups that are named with their devices, or those of a configuration.
    pub(super) fn volume_groups(&self) -> Result<Vec<GroupSpec>, Error> {
        let options = self.options;
        let named = options.texts("vg");
        let dss = |error| Error::Dss(Box::new(error));
        let groups = if !named.is_empty() {
            if options.is_given("dss-conf") {
                return Err(refused(
                    "You cannot specify --vg and --dss-conf options together",
                ));
            }
            let groups: Result<Vec<GroupSpec>, DssError> =
                named.into_iter().map(GroupSpec::parse).collect();
            groups.map_err(dss)?
        } else {
            let conf = match (options.text("dss-conf"), &self.environment.dss_home) {
                (Some(path), _) => PathBuf::from(path),
                (None, Some(home)) => GroupSpec::conf_of_home(Path::new(home)),
                (None, None) => {
                    return Err(refused(
                        "name a volume group and its devices, as --vg data=/dev/gauss/data0, or a \
                         configuration with --dss-conf or environment variable DSS_HOME",
                    ));
                }
            };
            GroupSpec::read_conf(&conf).map_err(dss)?
        };
        let mut names: Vec<&str> = groups.iter().map(|group| &*group.name).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            let name = printable(twice[0]);
            return Err(refused(format!("volume group {name} is named twice")));
        }
        Ok(groups)
    }
}
