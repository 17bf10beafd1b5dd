//! What will be done, found out without changing anything.

use super::record::{Record, Stage};
use super::standby::Standby;
use super::{LOCAL_FILES, Options, dss_error};
use crate::command::cluster_control::ControlForm;
use crate::command::restore::{self, GroupNeeds, Rehearsal};
use crate::command::shared_storage::{SharedOptions, warn_without_home};
use crate::command::{Error, words};
use crate::format::catalog::{StorageType, printable};
use crate::format::dss::{NewGroup, head_bytes, other_volume_header};
use crate::format::pg_control::{ClusterState, ControlFile};
use crate::format::restore_mark::RESTORE_MARK;
use crate::format::shared_control::INSTANCE_PAGES;
use crate::storage::dss::{
    DeviceContent, DeviceSurvey, DssError, GroupSpec, VolumeGroup, check_unused, survey,
};
use crate::storage::{FileKind, Posix, Storage};
use crate::types::BackupId;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
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
    /// Whether they are validated before.
    pub is_validated: bool,
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
        record.check_usable(&data_directory, options.other_cluster, &devices_of(options))?;
    }
    let kept = match &record {
        Some(record) if stage >= Stage::Emptying => record.saved()?,
        _ if options.other_cluster => own_files(&data_directory)?,
        _ => Vec::new(),
    };
    if options.other_cluster && kept.is_empty() {
        tracing::warn!(
            "no certificates and no settings are in \"{}\" that could be kept",
            data_directory.display()
        );
    }
    let standbys = options.standbys.iter().map(|path| Standby::plan(path));
    let standbys = standbys.collect::<Result<Vec<_>, _>>()?;
    refuse_other_or_running(options, &rehearsal, stage)?;
    let units = |group: &str| record.as_ref().and_then(|record| record.au_bytes(group));
    let groups = plan_groups(options, &units, &rehearsal)?;
    let plan = Plan {
        backup: rehearsal.id,
        members: rehearsal.members,
        is_validated: options.restore.validate,
        data_directory,
        names,
        groups,
        kept,
        standbys,
        interrupted: record.as_ref().map(|record| record.stage().words()),
        rehearsal,
    };
    let (home, engine) = (options.shared.dss_home.as_deref(), options.shared.engine);
    warn_without_home(home);
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
        refuse_other_or_running(options, &self.rehearsal, stage)?;
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
        check_is_of_shared_storage(&data)?;
    }
    check_no_mount(&data, Path::new(""))?;
    check_no_mount_point(data_directory)?;
    Ok(entries.len())
}

/// Nothing but a data directory is emptied.
pub(super) fn check_is_data_directory(data: &Posix) -> Result<(), Error> {
    for name in ["PG_VERSION", RESTORE_MARK] {
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

/// A cluster on shared storage has its control file there: what has one is a cluster of its own.
fn check_is_of_shared_storage(data: &Posix) -> Result<(), Error> {
    let control = StorageType::File.control_file();
    match data.metadata(Path::new(control)) {
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Err(Error::Refused(format!(
            "\"{}\" is the data directory of a cluster on file systems: it has {control}",
            data.display_path(Path::new("")).display()
        ))),
    }
}

/// Nor can a directory that is mounted there, of the same file system or of another one.
fn check_no_mount_point(data_directory: &Path) -> Result<(), Error> {
    // Where the system does not tell, other file systems are seen all the same.
    let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let points = text.split(|byte| *byte == b'\n').filter_map(|line| {
        let field = line.split(|byte| *byte == b' ').nth(4)?;
        Some(PathBuf::from(OsString::from_vec(unescape(field))))
    });
    let mut inside = points.filter(|path| path.starts_with(data_directory));
    match inside.find(|path| path != data_directory) {
        None => Ok(()),
        Some(path) => Err(Error::Refused(format!(
            "something is mounted on \"{}\", which cannot be removed: unmount it",
            path.display()
        ))),
    }
}

/// A path of the list of mounts, which has blanks in three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = field;
    while let Some((first, behind)) = rest.split_first() {
        let digits = behind.get(..3).and_then(|it| std::str::from_utf8(it).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match byte.filter(|_| *first == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                rest = &behind[3..];
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    bytes
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
    if data.metadata(Path::new(RESTORE_MARK)).is_ok() {
        return Err(Error::Refused(format!(
            "\"{}\" was left by a restore that did not end, so that certificates and settings \
             in it may be those of the backup: save what is the cluster's own, empty the \
             directory, and leave --other-cluster away",
            data_directory.display()
        )));
    }
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
            // Also where a link in the directory leads out of it: that is removed as well.
            if real(path).starts_with(&inside) || path.starts_with(directory) {
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
/// another host may run it; and where it is not the cluster that was backed up, unless that is
/// known.
fn refuse_other_or_running(
    options: &Options,
    rehearsal: &Rehearsal,
    stage: Stage,
) -> Result<(), Error> {
    let Some(bytes) = control_now(&options.shared)? else {
        return Ok(());
    };
    let form = ControlForm::of_cluster(StorageType::Dss, []);
    let page = |bytes: &[u8], number| form.of_instance(number).parse(bytes).ok();
    let pages = (0..INSTANCE_PAGES).filter_map(|number| {
        let control = page(&bytes, number)?;
        Some((number, control.file))
    });
    let group = printable(&options.shared.data_group);
    let ours = rehearsal.system_identifier;
    // What an interrupted run restored is as the backup has it until a server starts on it.
    let backup = &rehearsal.needs.control_file;
    let is_down = |state: ClusterState| {
        matches!(
            state,
            ClusterState::ShutDown | ClusterState::ShutDownInRecovery
        )
    };
    for (number, found) in pages {
        let theirs = found.system_identifier;
        if theirs != ours && !options.other_cluster {
            return Err(Error::Refused(format!(
                "volume group {group} has the cluster with system identifier {theirs}, and the \
                 backup is of the one with {ours}: if that cluster is not needed any more, and \
                 this one is to have its certificates and settings, say --other-cluster"
            )));
        }
        let is_restored = || {
            let restored = page(backup, number).filter(|_| stage >= Stage::Restoring);
            restored.is_some_and(|restored| moment(&restored.file) == moment(&found))
        };
        if !is_down(found.state) && !is_restored() {
            return Err(Error::Refused(format!(
                "the cluster of volume group {group} was not shut down, its state is \"{}\": stop \
                 it. If it runs on no host, as after a crash, wipe its volumes with dss wipe, and \
                 give the command again with --au-size",
                found.state.words()
            )));
        }
    }
    Ok(())
}

/// What a server changes when it starts, and after.
fn moment(control: &ControlFile) -> (ClusterState, i64, crate::types::Lsn, i64) {
    let ControlFile {
        state,
        time,
        checkpoint,
        checkpoint_time,
        ..
    } = control;
    (*state, *time, *checkpoint, *checkpoint_time)
}

/// The control file of the cluster that is on the volumes; `None` where none is, or what is there
/// is damaged. Where it cannot be told there may be one.
fn control_now(shared: &SharedOptions) -> Result<Option<Vec<u8>>, Error> {
    let of_data = SharedOptions {
        log_group: shared.data_group.clone(),
        ..shared.clone()
    };
    let specs = of_data.specs()?;
    for spec in &specs {
        if open_group(spec, shared)?.is_none() {
            return Ok(None);
        }
    }
    match of_data.read_control() {
        Ok((_, _, bytes)) => Ok(Some(bytes)),
        Err(Error::Refused(_) | Error::BadControlFile { .. }) => Ok(None),
        Err(Error::Storage(error)) if error.is_not_found() => Ok(None),
        Err(error) => {
            tracing::warn!("{}", words::describe(&error));
            Err(Error::Refused(format!(
                "whether volume group {} has a cluster that runs cannot be told; if it is not \
                 needed any more, wipe its volumes with dss wipe, and give the command again with \
                 --au-size",
                printable(&shared.data_group)
            )))
        }
    }
}

/// A group that is to be wiped; `None` where there is none, or a damaged one. One that cannot be
/// read is not wiped: nobody knows what it is.
fn open_group(spec: &GroupSpec, shared: &SharedOptions) -> Result<Option<VolumeGroup>, Error> {
    match VolumeGroup::open(spec, shared.engine) {
        Ok(group) => Ok(Some(group)),
        Err(DssError::Structure { .. } | DssError::Damaged { .. }) => Ok(None),
        Err(error) => Err(dss_error(error)),
    }
}

/// The devices that are to be wiped, as text, in the order of their names.
pub(super) fn devices_of(options: &Options) -> Vec<String> {
    let devices = options.shared.groups.iter().flat_map(|spec| &spec.devices);
    let real = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
    let text = devices.map(|path| real(path).display().to_string());
    let mut devices: Vec<String> = text.map(|text| text.escape_debug().to_string()).collect();
    devices.sort_unstable();
    devices
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
    // One that cannot be read may have volumes that nobody named.
    open_group(spec, &options.shared)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_in_the_list_of_mounts_are_digits() {
        for (field, path) in [
            (&br"/gauss/dn"[..], &b"/gauss/dn"[..]),
            (br"/a\040b\134c", br"/a b\c"),
            (br"/a\04", br"/a\04"),
            (br"\999", br"\999"),
        ] {
            assert_eq!(unescape(field), path);
        }
    }
}
