//! The volume groups of a cluster on shared storage: which they are, and what a command asks them
//! before it begins.
//!
//! A cluster has two: one for data, one for the logs of all instances; they may be the same. They
//! are opened on their devices, so that no server of storage is needed. Only a restore goes through
//! one that runs, unless the devices were named.

use super::cluster_control::{CONTROL_FILE_BYTES_MAX, ClusterControl, ControlForm};
use super::{Error, words};
use crate::format::catalog::{StorageType, printable};
use crate::format::shared_control::{SHARED_CONTROL_BYTES, parse_reformer};
use crate::io::{DssLibrary, EngineChoice};
use crate::limits::{CONTROL_FILE_PAUSE_MS, CONTROL_FILE_READS_MAX};
use crate::storage::dss::{DssTree, DssWriteTree, GroupSpec, WriteOptions};
use crate::storage::dss_api::{self, DssApi, DssApiError};
use crate::storage::{FileKind, Storage};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The groups of a cluster, as options and settings name them.
#[derive(Clone, Debug)]
pub struct SharedOptions {
    /// Name of the group for data, without a plus.
    pub data_group: String,
    /// Name of the group for logs, without a plus; may be the same.
    pub log_group: String,
    /// The socket of the server of storage, as messages name it.
    pub socket: Option<String>,
    /// Number of the instance, if it was set; of no use where instances share their logs.
    pub instance_id: Option<u32>,
    /// Groups and their devices: these two and maybe others.
    pub groups: Vec<GroupSpec>,
    /// Whether these were named for this run, and not taken from the home of the server.
    pub are_devices_named: bool,
    /// Home of the server of storage.
    pub dss_home: Option<PathBuf>,
    /// How devices are read.
    pub engine: EngineChoice,
}

/// The opened groups of a cluster.
#[derive(Clone, Debug)]
pub struct SharedStorage {
    /// The group for data.
    pub data: Arc<dyn Storage>,
    /// The group for logs; `None` where it is the one for data.
    pub log: Option<Arc<dyn Storage>>,
    /// Name of the group for data, without a plus.
    pub data_group: String,
    /// Name of the group for logs, without a plus.
    pub log_group: String,
    /// Number of the instance, if it was set.
    pub instance_id: Option<u32>,
}

impl SharedStorage {
    /// Opens the groups to look at them, beside whoever uses them.
    ///
    /// # Errors
    /// Where one cannot be read.
    pub(super) fn open_to_read(options: &SharedOptions) -> Result<SharedStorage, Error> {
        let root = |name: &str| format!("+{name}");
        let data = DssTree::open(&options.specs()?, &root(&options.data_group));
        let data = data.map_err(|error| Error::Dss(Box::new(error)))?;
        let log = match options.log_group == options.data_group {
            true => None,
            false => Some(data.tree(&root(&options.log_group))?),
        };
        let log = log.map(|log| Arc::new(log) as Arc<dyn Storage>);
        Ok(SharedStorage::of(options, Arc::new(data), log))
    }

    /// Opens the groups to write to them: through the server of storage if it runs and no devices
    /// were named, else on their devices, and then nobody else can until this is dropped.
    ///
    /// # Errors
    /// Where one cannot be opened, or is perhaps in use.
    pub(super) fn open_to_write(options: &SharedOptions) -> Result<SharedStorage, Error> {
        let home = options.dss_home.as_ref();
        if let Some(home) = home.filter(|_| !options.are_devices_named) {
            match dss_api::connect(home) {
                Ok(library) => return SharedStorage::open_by_server(options, home, &library),
                Err(DssApiError::NoServer { .. }) => {}
                Err(error) => return Err(Error::DssApi(Box::new(error))),
            }
        }
        warn_without_home(options.dss_home.as_deref());
        let write = WriteOptions {
            dss_home: options.dss_home.clone(),
            ..WriteOptions::default()
        };
        let root = |name: &str| format!("+{name}");
        let data = DssWriteTree::open(&options.specs()?, &write, &root(&options.data_group));
        let data = data.map_err(|error| Error::Dss(Box::new(error)))?;
        let log = match options.log_group == options.data_group {
            true => None,
            false => Some(data.tree(&root(&options.log_group))?),
        };
        let log = log.map(|log| Arc::new(log) as Arc<dyn Storage>);
        Ok(SharedStorage::of(options, Arc::new(data), log))
    }

    fn of(
        options: &SharedOptions,
        data: Arc<dyn Storage>,
        log: Option<Arc<dyn Storage>>,
    ) -> SharedStorage {
        SharedStorage {
            data,
            log,
            data_group: options.data_group.clone(),
            log_group: options.log_group.clone(),
            instance_id: options.instance_id,
        }
    }

    fn open_by_server(
        options: &SharedOptions,
        home: &Path,
        library: &Arc<DssLibrary>,
    ) -> Result<SharedStorage, Error> {
        let lock = dss_api::lock(home).map_err(|error| Error::DssApi(Box::new(error)))?;
        tracing::info!("The server of storage runs: volume groups are written to through it");
        let open = |name: &str| -> Result<Arc<dyn Storage>, Error> {
            let root = format!("+{name}");
            let tree = DssApi::open(Arc::clone(library), &root)?;
            Ok(Arc::new(tree.locked(Arc::clone(&lock))))
        };
        let has_two = options.log_group != options.data_group;
        let log = has_two.then(|| open(&options.log_group)).transpose()?;
        Ok(SharedStorage::of(options, open(&options.data_group)?, log))
    }

    /// Refuses groups that hold something. What waits to be used again is nothing.
    ///
    /// # Errors
    /// Where one holds something, or cannot be read.
    pub(super) fn check_empty(&self) -> Result<(), Error> {
        for tree in std::iter::once(&self.data).chain(&self.log) {
            let entries = tree.list(Path::new(""))?;
            if entries.iter().any(|entry| entry.name != ".recycle") {
                let path = tree.display_path(Path::new(""));
                return Err(Error::TargetNotEmpty { path });
            }
        }
        Ok(())
    }
}

/// Refuses an instance that is not the primary, where each has WAL and a page of the control file
/// of its own. A cluster that never had a reform does not say which one is.
///
/// # Errors
/// In the words of the original.
pub(super) fn check_primary(control: &[u8], instance: usize) -> Result<(), Error> {
    let primary = match parse_reformer(control) {
        Some(reformer) if reformer.version > 0 => reformer.primary,
        _ => return Ok(()),
    };
    if usize::try_from(primary) == Ok(instance) {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "backup only support on primary in dss mode, primary instance id: {primary}, backup \
         instance id: {instance}"
    )))
}

/// Says that nobody could be asked whether volumes that are about to be written to are in use.
pub(super) fn warn_without_home(home: Option<&Path>) {
    if home.is_none() {
        tracing::warn!(
            "DSS_HOME is not set: no server of storage could be asked whether it uses the volume \
             groups"
        );
    }
}

impl SharedOptions {
    /// The two names of `--vgname`, without a plus.
    ///
    /// # Errors
    /// The original's text where there are not two.
    pub fn parse_names(text: &str) -> Result<(String, String), String> {
        const INSUFFICIENT: &str = "insufficient vgname args, check the number of args, example: \
                                    --vgname=\"+data,+log\"";
        if text.contains('/') {
            return Err("invalid token \"/\" in vgname".to_owned());
        }
        let Some((data, log)) = text.split_once(',') else {
            return Err(format!(
                "invalid vgname args, there is at least one \",\" in vgname\n{INSUFFICIENT}"
            ));
        };
        if log.contains(',') {
            return Err(
                "invalid vgname args, should be two volume group names, example: \"+data,+log\""
                    .to_owned(),
            );
        }
        let bare = |name: &str| name.strip_prefix('+').unwrap_or(name).to_owned();
        let (data, log) = (bare(data), bare(log));
        if data.is_empty() || log.is_empty() {
            return Err(INSUFFICIENT.to_owned());
        }
        Ok((data, log))
    }

    /// The groups of the cluster, with their devices: one where both are the same.
    ///
    /// # Errors
    /// Where no devices are known of one.
    pub fn specs(&self) -> Result<Vec<GroupSpec>, Error> {
        let mut specs = Vec::new();
        for (what, name) in [("vgdata", &self.data_group), ("vglog", &self.log_group)] {
            let spec = self.groups.iter().find(|spec| spec.name == *name);
            let spec = spec.ok_or_else(|| {
                let socket = printable(self.socket.as_deref().unwrap_or_default());
                let name = printable(name);
                tracing::warn!(
                    "volume group {name} is not among those that are configured: name its devices \
                     with --vg {name}=/dev/…, or their configuration with --dss-conf"
                );
                Error::Refused(format!(
                    "Could not connect dssserver, {what}: \"+{name}\", socketpath: \"{socket}\", \
                     check and retry later."
                ))
            })?;
            if !specs.contains(spec) {
                specs.push(spec.clone());
            }
        }
        Ok(specs)
    }

    /// The control file of the cluster, read until it is whole: where it is and its bytes.
    ///
    /// # Errors
    /// Where the groups cannot be read, or it is not one.
    pub(super) fn read_control(&self) -> Result<(ControlForm, ClusterControl, Vec<u8>), Error> {
        let root = format!("+{}", self.data_group);
        let tree = DssTree::open(&self.specs()?, &root);
        let tree = tree.map_err(|error| Error::Dss(Box::new(error)))?;
        let entries = tree.list(Path::new(""))?;
        let names = entries.iter().filter_map(|entry| entry.name.to_str());
        let form = ControlForm::of_cluster(StorageType::Dss, names);
        let (name, path) = (Path::new(form.path()), format!("{root}/{}", form.path()));
        let found = tree.metadata(name)?;
        let size = found.size;
        if found.kind != FileKind::File || size != SHARED_CONTROL_BYTES as u64 {
            return Err(Error::Refused(format!(
                "Invalid size of file \"{path}\", file_size: {size}"
            )));
        }
        let mut reads = 1;
        loop {
            let bytes = tree.read(name, CONTROL_FILE_BYTES_MAX)?;
            match form.parse(&bytes) {
                Ok(control) => return Ok((form, control, bytes)),
                // It may be being written.
                Err(error) if reads < CONTROL_FILE_READS_MAX => {
                    tracing::debug!("{}", words::describe(&error));
                    reads += 1;
                    std::thread::sleep(Duration::from_millis(CONTROL_FILE_PAUSE_MS));
                }
                Err(source) => {
                    let path = PathBuf::from(path);
                    return Err(Error::BadControlFile { path, source });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_groups_are_named_in_the_words_of_the_original() {
        let parse = SharedOptions::parse_names;
        let pair = |data: &str, log: &str| Ok((data.to_owned(), log.to_owned()));
        assert_eq!(parse("+data,+log"), pair("data", "log"));
        assert_eq!(parse("data,data"), pair("data", "data"));
        let few = "insufficient vgname args, check the number of args, example: \
                   --vgname=\"+data,+log\"";
        for (text, message) in [
            ("+data/x,+log", "invalid token \"/\" in vgname".to_owned()),
            (
                "+data",
                format!("invalid vgname args, there is at least one \",\" in vgname\n{few}"),
            ),
            ("+data,", few.to_owned()),
            ("+,+log", few.to_owned()),
            (
                "+data,+log,+more",
                "invalid vgname args, should be two volume group names, example: \"+data,+log\""
                    .to_owned(),
            ),
        ] {
            assert_eq!(parse(text), Err(message), "{text}");
        }
    }

    #[test]
    fn only_the_primary_of_the_reformer_counts_where_there_was_a_reform() {
        let mut control = vec![0; SHARED_CONTROL_BYTES];
        check_primary(&control, 3).unwrap();
        control[64 * 8192] = 1;
        control[64 * 8192 + 16] = 3;
        check_primary(&control, 3).unwrap();
        let error = check_primary(&control, 1).unwrap_err().to_string();
        assert!(error.ends_with("primary instance id: 3, backup instance id: 1"));
    }

    #[test]
    fn a_group_without_devices_is_told_and_one_for_both_is_opened_once() {
        let spec = |name: &str| GroupSpec::parse(&format!("{name}=/dev/{name}")).unwrap();
        let mut options = SharedOptions {
            data_group: "data".to_owned(),
            log_group: "log".to_owned(),
            socket: Some("UDS:/dss/.dss_unix_d_socket".to_owned()),
            instance_id: None,
            groups: vec![spec("other"), spec("data")],
            are_devices_named: true,
            dss_home: None,
            engine: EngineChoice::Auto,
        };
        assert_eq!(
            options.specs().unwrap_err().to_string(),
            "Could not connect dssserver, vglog: \"+log\", socketpath: \
             \"UDS:/dss/.dss_unix_d_socket\", check and retry later."
        );
        options.groups.push(spec("log"));
        assert_eq!(options.specs().unwrap(), [spec("data"), spec("log")]);
        options.log_group = "data".to_owned();
        assert_eq!(options.specs().unwrap(), [spec("data")]);
    }
}
