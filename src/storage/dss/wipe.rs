//! Making volumes plain devices again, as the documented procedure does with `dd`, and more: the
//! redo ring, too, of any group that may have been there. Old batches in the ring of a new group
//! can have the lsn that is due, and be taken for what a crash left.
//!
//! Refused on any doubt, for all devices before a byte of the first is written: where a server runs
//! or another process has a device, where what is on one changes while it is looked at.
//!
//! The header goes first and durably. Killed at any instant, a device is a volume as before, or
//! none; the rest can be repeated.

use super::device::Device;
use super::reader::Reader;
use super::{DssError, GroupSpec, VolumeGroup, unused};
use crate::format::dss::{Structure, VolumeHeader};
use crate::io::{EngineChoice, File};
use crate::limits::{DSS_CLEARED_BYTES, EXTENT_BYTES_MAX};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What a device holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeviceContent {
    /// No volume.
    NoVolume,
    /// A volume of this group.
    Volume {
        /// The group.
        group: String,
    },
    /// A volume that cannot be read.
    DamagedVolume,
}

/// A device that may be wiped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceSurvey {
    /// The device.
    pub device: PathBuf,
    /// Bytes that it has.
    pub bytes: u64,
    /// What it holds.
    pub content: DeviceContent,
}

/// The devices of a group that may be wiped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupSurvey {
    /// Those that were named.
    pub devices: Vec<DeviceSurvey>,
    /// Others on which the group has volumes, where it can be read.
    pub unnamed: Vec<PathBuf>,
}

/// Looks at the devices of a group without changing them.
///
/// # Errors
/// Where one cannot be opened or read.
pub fn survey(spec: &GroupSpec, engine: EngineChoice) -> Result<GroupSurvey, DssError> {
    let mut reader = Reader::open(engine)?;
    let mut look = |path: &PathBuf| -> Result<DeviceSurvey, DssError> {
        let device = Device::open(path)?;
        let header = reader.read(&device, 0, Structure::VolumeHeader.bytes())?;
        let content = match VolumeHeader::parse(&header) {
            _ if !VolumeHeader::is_initialised(&header) => DeviceContent::NoVolume,
            Ok(header) => DeviceContent::Volume {
                group: header.group,
            },
            Err(_) => DeviceContent::DamagedVolume,
        };
        Ok(DeviceSurvey {
            device: path.clone(),
            bytes: device.bytes,
            content,
        })
    };
    let devices = spec.devices.iter().map(&mut look);
    let devices = devices.collect::<Result<Vec<_>, _>>()?;
    // A group that is damaged or incomplete is wiped all the same, as far as it was named.
    let summary = VolumeGroup::open(spec, engine).map(|group| group.summary());
    let volumes = summary.map(|summary| summary.volumes).unwrap_or_default();
    let paths = volumes.into_iter().map(|(_, device, _, _)| device);
    let unnamed = paths.filter(|path| !spec.devices.contains(path));
    Ok(GroupSurvey {
        unnamed: unnamed.collect(),
        devices,
    })
}

/// Writes zeros over the starts of devices, all or, where one is refused, none.
///
/// # Errors
/// Where a device is refused or cannot be written.
pub fn wipe(
    devices: &[PathBuf],
    dss_home: Option<&Path>,
    engine: EngineChoice,
) -> Result<(), DssError> {
    let unused = unused::take(devices, dss_home, engine)?;
    for (file, head) in &unused.devices {
        zero(file, head.len())?;
        let end = file.end().map_err(DssError::Io)?;
        clear(file, head.len() as u64..end.min(DSS_CLEARED_BYTES))?;
        file.sync().map_err(DssError::Io)?;
    }
    Ok(())
}

/// Makes bytes of a device zeros where they are not; an image keeps its holes. Not durable yet.
pub(super) fn clear(file: &File, range: Range<u64>) -> Result<(), DssError> {
    let mut piece = vec![0; EXTENT_BYTES_MAX];
    let zeros = vec![0; EXTENT_BYTES_MAX];
    for start in range.clone().step_by(EXTENT_BYTES_MAX) {
        let length = (range.end - start).min(EXTENT_BYTES_MAX as u64);
        let length = usize::try_from(length).expect("an extent");
        let (piece, zeros) = (&mut piece[..length], &zeros[..length]);
        file.read_exact_at(piece, start).map_err(DssError::Io)?;
        if piece != zeros {
            file.write_all_at(zeros, start).map_err(DssError::Io)?;
        }
    }
    Ok(())
}

fn zero(file: &File, length: usize) -> Result<(), DssError> {
    let header = Structure::VolumeHeader.bytes().min(length);
    let zeros = vec![0; length];
    let put = |from: usize, to: usize| {
        let written = file.write_all_at(&zeros[from..to], from as u64);
        written.and_then(|()| file.sync()).map_err(DssError::Io)
    };
    put(0, header)?;
    put(header, length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::dss::{CreateOptions, create};
    use rustix::fs::FlockOperation;
    use std::fs::File as StdFile;
    use std::os::unix::net::UnixListener;

    const ENGINE: EngineChoice = EngineChoice::Sync;

    const SIZE: usize = 136 << 20;

    /// A device with a group, and dirt behind its head.
    fn group(directory: &Path, name: &str) -> GroupSpec {
        let device = directory.join(name);
        let mut content = vec![0; 2_048_000];
        content.resize(SIZE, 0xa5);
        std::fs::write(&device, content).unwrap();
        let options = CreateOptions {
            name: name.to_owned(),
            device: device.clone(),
            au_bytes: 2 << 20,
            dss_home: None,
            time: (1, 2),
        };
        create(&options, ENGINE).unwrap();
        GroupSpec {
            name: name.to_owned(),
            devices: vec![device],
        }
    }

    #[test]
    fn wiped_volumes_are_none_and_can_become_groups_again() {
        let scratch = tempfile::tempdir().unwrap();
        let spec = group(scratch.path(), "data");
        let found = survey(&spec, ENGINE).unwrap();
        let group = "data".to_owned();
        assert_eq!(found.devices[0].content, DeviceContent::Volume { group });
        assert_eq!(found.devices[0].bytes, SIZE as u64);
        assert!(found.unnamed.is_empty());
        wipe(&spec.devices, None, ENGINE).unwrap();
        let found = survey(&spec, ENGINE).unwrap();
        assert_eq!(found.devices[0].content, DeviceContent::NoVolume);
        let bytes = std::fs::read(&spec.devices[0]).unwrap();
        let cleared = usize::try_from(DSS_CLEARED_BYTES).unwrap();
        assert!(bytes[..cleared].iter().all(|byte| *byte == 0));
        assert_eq!(bytes.len(), SIZE, "nothing was added or cut");
        assert!(bytes[SIZE - (4 << 20)..].iter().all(|byte| *byte == 0xa5));
        // Again, and a device that is smaller than what is wiped.
        std::fs::write(scratch.path().join("small"), [7; 1000]).unwrap();
        let devices = [spec.devices[0].clone(), scratch.path().join("small")];
        wipe(&devices, None, ENGINE).unwrap();
        assert_eq!(std::fs::read(&devices[1]).unwrap(), [0; 1000]);
    }

    #[test]
    fn a_damaged_volume_is_seen_as_one() {
        let scratch = tempfile::tempdir().unwrap();
        let spec = group(scratch.path(), "data");
        let mut bytes = std::fs::read(&spec.devices[0]).unwrap();
        // The core control, in both copies.
        bytes[600] ^= 1;
        bytes[(1 << 20) + 600] ^= 1;
        std::fs::write(&spec.devices[0], &bytes).unwrap();
        let found = survey(&spec, ENGINE).unwrap();
        assert_ne!(found.devices[0].content, DeviceContent::NoVolume);
    }

    #[test]
    fn nothing_is_wiped_where_one_device_is_in_use_or_a_server_runs() {
        let scratch = tempfile::tempdir().unwrap();
        let specs = ["data", "log"].map(|name| group(scratch.path(), name));
        let devices = specs.each_ref().map(|spec| spec.devices[0].clone());
        let before = devices
            .each_ref()
            .map(|device| std::fs::read(device).unwrap());
        let assert_untouched = || {
            for (device, before) in devices.iter().zip(&before) {
                assert!(std::fs::read(device).unwrap() == *before);
            }
        };
        let holder = StdFile::open(&devices[1]).unwrap();
        rustix::fs::flock(&holder, FlockOperation::LockExclusive).unwrap();
        let error = wipe(&devices, None, ENGINE).unwrap_err();
        assert!(
            error.to_string().contains("in use by another process"),
            "{error}"
        );
        assert_untouched();
        drop(holder);
        let home = scratch.path().join("home");
        std::fs::create_dir(&home).unwrap();
        let server = UnixListener::bind(home.join(".dss_unix_d_socket")).unwrap();
        let error = wipe(&devices, Some(&home), ENGINE).unwrap_err();
        assert!(matches!(error, DssError::ServerRuns { .. }), "{error}");
        assert_untouched();
        drop(server);
        wipe(&devices, Some(&home), ENGINE).unwrap();
    }
}
