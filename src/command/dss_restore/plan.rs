//! What will be done, found out without changing anything.

use super::record::{Record, Stage};
use super::standby::Standby;
use super::{LOCAL_FILES, Options, dss_error};
use crate::command::cluster_control::ControlForm;
use crate::command::restore::{self, GroupNeeds, Rehearsal};
use crate::command::shared_storage::SharedOptions;
use crate::command::{Error, words};
use crate::format::catalog::{StorageType, printable};
use crate::format::dss::{NewGroup, head_bytes, other_volume_header};
use crate::format::pg_control::ClusterState;
use crate::format::shared_control::INSTANCE_PAGES;
use crate::storage::dss::{
    DeviceContent, DeviceSurvey, DssError, GroupSpec, VolumeGroup, check_unused, survey,
};
use crate::storage::{FileKind, Posix, Storage};
use crate::types::BackupId;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A group to be made anew.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlannedGroup {
    /// Its name and its devices.
    pub spec: GroupSpec,
    /// What is on them now.
    pub devices: Vec<DeviceSurvey>,
    /// Bytes of a unit.
    pub au_bytes: u64,
    /// Units that the backup takes at most.
    pub needed_units: u64,
    /// Units that there will be.
    pub units: u64,
}

/// What will be done.
#[derive(Debug)]
pub struct Plan {
    /// The backup.
    pub backup: BackupId,
    /// Backups of its chain.
    pub members: usize,
    /// The data directory, which will be emptied.
    pub data_directory: PathBuf,
    /// Names in it.
    pub names: usize,
    /// Groups to make anew.
    pub groups: Vec<PlannedGroup>,
    /// Files of the data directory that stay.
    pub kept: Vec<String>,
    /// Data directories of standbys, to be set aside.
    pub standbys: Vec<Standby>,
    /// What an earlier run was doing when it was interrupted.
    pub interrupted: Option<&'static str>,
    pub(super) rehearsal: Rehearsal,
}

/// Finds out what is to be done, and whether it can be.
///
/// # Errors
/// Where it cannot; nothing was changed.
pub fn prepare(options: &Options) -> Result<Plan, Error> {
    // Both names have to have devices.
    options.shared.specs()?;
    let rehearsal = Rehearsal::begin(&options.restore, &options.shared)?;
    let data_directory = rehearsal.data_directory.clone();
    let record = Record::of(&data_directory)?;
    let stage = record.as_ref().map_or(Stage::Saving, Record::stage);
    check_apart(options, &data_directory)?;
    let names = look_at(&data_directory, stage)?;
    if let Some(record) = &record {
        record.check_usable(&data_directory, options.other_cluster)?;
    }
    let kept = match &record {
        Some(record) if stage >= Stage::Emptying => record.saved()?,
        _ if options.other_cluster => own_files(&data_directory)?,
        _ => Vec::new(),
    };
    let standbys = options.standbys.iter().map(|path| Standby::plan(path));
    let standbys = standbys.collect::<Result<Vec<_>, _>>()?;
    if stage < Stage::Restoring {
        refuse_running_cluster(&options.shared)?;
    }
    let units = |group: &str| record.as_ref().and_then(|record| record.au_bytes(group));
    let groups = plan_groups(options, &units, &rehearsal)?;
    let plan = Plan {
        backup: rehearsal.id,
        members: rehearsal.members,
        data_directory,
        names,
        groups,
        kept,
        standbys,
        interrupted: record.as_ref().map(|record| record.stage().words()),
        rehearsal,
    };
    let (home, engine) = (options.shared.dss_home.as_deref(), options.shared.engine);
    check_unused(&plan.devices(), home, engine).map_err(dss_error)?;
    warn_of_others(options);
    Ok(plan)
}

impl Plan {
    /// All devices that are wiped.
    pub(super) fn devices(&self) -> Vec<PathBuf> {
        let groups = self.groups.iter();
        groups
            .flat_map(|group| group.spec.devices.clone())
            .collect()
    }

    /// Bytes of a unit of each group.
    pub(super) fn units(&self) -> BTreeMap<String, u64> {
        let groups = self.groups.iter();
        let units = groups.map(|group| (group.spec.name.clone(), group.au_bytes));
        units.collect()
    }

    /// Fails where what the plan is for is no longer as it was: it was shown a while ago.
    pub(super) fn check_unchanged(&self, options: &Options) -> Result<(), Error> {
        let changed = |what: &str| {
            Err(Error::Refused(format!(
                "{what} changed since the plan was made; nothing was wiped"
            )))
        };
        let record = Record::of(&self.data_directory)?;
        let stage = record.as_ref().map_or(Stage::Saving, Record::stage);
        if look_at(&self.data_directory, stage)? != self.names {
            return changed("the data directory");
        }
        if stage < Stage::Restoring {
            refuse_running_cluster(&options.shared)?;
        }
        for standby in &self.standbys {
            if Standby::plan(&standby.directory)? != *standby {
                return changed("the data directory of a standby");
            }
        }
        let units = self.units();
        let groups = plan_groups(options, &|group| units.get(group).copied(), &self.rehearsal)?;
        if groups != self.groups {
            return changed("what is on the devices");
        }
        Ok(())
    }
}

/// How many names are in the data directory, on which no server may run, and which must be one.
fn look_at(data_directory: &Path, stage: Stage) -> Result<usize, Error> {
    let data = match Posix::open(data_directory) {
        Ok(data) => data,
        Err(error) if error.is_not_found() => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    if let Some(reason) = restore::postmaster(&data)? {
        return Err(Error::Refused(reason));
    }
    let entries = data.list(Path::new(""))?;
    if !entries.is_empty() && stage < Stage::Emptying {
        check_is_data_directory(&data)?;
    }
    check_no_mount(&data, Path::new(""))?;
    Ok(entries.len())
}

/// Nothing but a data directory is emptied.
pub(super) fn check_is_data_directory(data: &Posix) -> Result<(), Error> {
    for name in ["PG_VERSION", crate::format::restore_mark::RESTORE_MARK] {
        match data.metadata(Path::new(name)) {
            Ok(_) => return Ok(()),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Refused(format!(
        "\"{}\" is not empty and no data directory: it has no file PG_VERSION",
        data.display_path(Path::new("")).display()
    )))
}

/// A file system that is mounted in a directory cannot be removed with it.
fn check_no_mount(data: &Posix, path: &Path) -> Result<(), Error> {
    let own = data.metadata(path)?.device;
    for entry in data.list(path)? {
        if entry.metadata.kind != FileKind::Directory {
            continue;
        }
        let path = path.join(&entry.name);
        if entry.metadata.device != own {
            return Err(Error::Refused(format!(
                "\"{}\" is a file system of its own, which cannot be removed: unmount it",
                data.display_path(&path).display()
            )));
        }
        check_no_mount(data, &path)?;
    }
    Ok(())
}

/// The files of the data directory that belong to its cluster.
fn own_files(data_directory: &Path) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    let data = match Posix::open(data_directory) {
        Ok(data) => data,
        Err(error) if error.is_not_found() => return Ok(found),
        Err(error) => return Err(error.into()),
    };
    for name in LOCAL_FILES {
        match data.metadata(Path::new(name)) {
            Ok(metadata) if metadata.kind == FileKind::File => found.push(name.to_owned()),
            Ok(_) => {
                return Err(Error::Refused(format!(
                    "\"{}\" is no file, and only files can be kept",
                    data.display_path(Path::new(name)).display()
                )));
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// Nothing that is needed later may be in a directory that is emptied.
fn check_apart(options: &Options, data_directory: &Path) -> Result<(), Error> {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let (restore, shared) = (&options.restore, &options.shared);
    let devices = shared.groups.iter().flat_map(|spec| &spec.devices);
    let others = [Some(&restore.catalog), restore.archive_dir.as_ref()];
    let home = shared.dss_home.as_ref();
    let needed: Vec<&PathBuf> = devices
        .chain(others.into_iter().flatten())
        .chain(home)
        .collect();
    let standbys: Vec<&PathBuf> = options.standbys.iter().collect();
    let data = data_directory.to_owned();
    let emptied = std::iter::once(&data).chain(standbys.iter().copied());
    for (index, directory) in emptied.enumerate() {
        let inside = real(directory);
        let standbys = standbys.iter().enumerate();
        let other_standbys = standbys.filter(|(number, _)| number + 1 != index);
        let all = needed.iter().chain(other_standbys.map(|(_, path)| path));
        for path in all.copied().chain((index > 0).then_some(&data)) {
            if real(path).starts_with(&inside) {
                return Err(Error::TargetsOverlap {
                    path: directory.clone(),
                    other: path.clone(),
                });
            }
        }
    }
    Ok(())
}

/// Fails where the control file of the cluster can be read and says that it was not shut down:
/// another host may run it.
fn refuse_running_cluster(shared: &SharedOptions) -> Result<(), Error> {
    let of_data = SharedOptions {
        log_group: shared.data_group.clone(),
        ..shared.clone()
    };
    let Ok((_, _, bytes)) = of_data.read_control() else {
        // Wiped, damaged, or never one.
        return Ok(());
    };
    let form = ControlForm::of_cluster(StorageType::Dss, []);
    let pages = (0..INSTANCE_PAGES).filter_map(|page| form.of_instance(page).parse(&bytes).ok());
    let mut states = pages.map(|control| control.file.state);
    let is_down = |state: &ClusterState| {
        matches!(
            state,
            ClusterState::ShutDown | ClusterState::ShutDownInRecovery
        )
    };
    match states.find(|state| !is_down(state)) {
        None => Ok(()),
        Some(state) => Err(Error::Refused(format!(
            "the cluster of volume group {} was not shut down, its state is \"{}\": stop it. If it \
             runs on no host, as after a crash, wipe its volumes with dss wipe, and give the \
             command again with --au-size",
            printable(&shared.data_group),
            state.words()
        ))),
    }
}

/// The devices of all groups, and whether what goes there fits.
fn plan_groups(
    options: &Options,
    recorded: &dyn Fn(&str) -> Option<u64>,
    rehearsal: &Rehearsal,
) -> Result<Vec<PlannedGroup>, Error> {
    let mut planned = Vec::new();
    for spec in &options.shared.groups {
        let devices = look_at_devices(spec, options)?;
        let au_bytes = options
            .au_bytes
            .or_else(|| au_bytes_now(spec, &devices, options))
            .or_else(|| recorded(&spec.name))
            .unwrap_or(options.au_bytes_default);
        let needs = match &spec.name {
            name if *name == options.shared.data_group => rehearsal.needs.data.clone(),
            name if *name == options.shared.log_group => rehearsal.needs.log.clone(),
            _ => GroupNeeds::default(),
        };
        let group = PlannedGroup {
            needed_units: needs.units(au_bytes),
            units: units_of(spec, &devices, au_bytes)?,
            spec: spec.clone(),
            devices,
            au_bytes,
        };
        if group.needed_units > group.units {
            return Err(Error::Refused(format!(
                "the backup does not fit into volume group {}: it takes {} allocation units of \
                 {}, and there would be {}",
                printable(&spec.name),
                group.needed_units,
                words::pretty_size(au_bytes),
                group.units
            )));
        }
        planned.push(group);
    }
    Ok(planned)
}

fn look_at_devices(spec: &GroupSpec, options: &Options) -> Result<Vec<DeviceSurvey>, Error> {
    let found = survey(spec, options.shared.engine).map_err(dss_error)?;
    for device in &found.devices {
        if let DeviceContent::Volume { group } = &device.content
            && *group != spec.name
        {
            return Err(Error::Refused(format!(
                "\"{}\" is a volume of group {}, not of {}",
                device.device.display(),
                printable(group),
                printable(&spec.name)
            )));
        }
    }
    match found.unnamed.first() {
        None => Ok(found.devices),
        Some(device) => Err(Error::Refused(format!(
            "volume group {} has a volume on \"{}\", too: name all its devices with --vg",
            printable(&spec.name),
            device.display()
        ))),
    }
}

/// Bytes of a unit of a group that can be read.
fn au_bytes_now(spec: &GroupSpec, devices: &[DeviceSurvey], options: &Options) -> Option<u64> {
    let first = devices.first()?;
    if !matches!(first.content, DeviceContent::Volume { .. }) {
        return None;
    }
    let group = VolumeGroup::open(spec, options.shared.engine).ok()?;
    Some(group.summary().au_bytes)
}

/// Units that the files of a new group can have.
fn units_of(spec: &GroupSpec, devices: &[DeviceSurvey], au_bytes: u64) -> Result<u64, Error> {
    let mut units = 0;
    for (number, device) in (0_u16..).zip(devices) {
        let error = |source| {
            dss_error(DssError::Structure {
                device: device.device.clone(),
                offset: 0,
                source,
            })
        };
        let path = device.device.display().to_string();
        let taken = if number == 0 {
            let group = NewGroup {
                name: spec.name.clone(),
                device: path.clone(),
                au_bytes,
                size_bytes: device.bytes,
                time: (0, 0),
            };
            group.check().map_err(error)?
        } else {
            other_volume_header(number, &path, &spec.name, (0, 0)).map_err(error)?;
            head_bytes(au_bytes)
        };
        let more = device.bytes.saturating_sub(taken) / au_bytes;
        if more == 0 && number > 0 {
            return Err(Error::Refused(format!(
                "\"{path}\" has no room for an allocation unit"
            )));
        }
        units += more;
    }
    Ok(units)
}

/// Says which groups of the server's configuration stay as they are.
fn warn_of_others(options: &Options) {
    let home = options.shared.dss_home.as_deref();
    let conf = home.map(GroupSpec::conf_of_home);
    let groups = conf.and_then(|conf| GroupSpec::read_conf(&conf).ok());
    for other in groups.unwrap_or_default() {
        let mut named = options.shared.groups.iter();
        if !named.any(|group| group.name == other.name) {
            tracing::warn!(
                "volume group {} of the server's configuration was not named and stays as it is",
                printable(&other.name)
            );
        }
    }
}
