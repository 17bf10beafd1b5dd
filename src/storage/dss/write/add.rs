//! Adding volumes to a group.
//!
//! 1. The group is opened to write, and the device for this process alone. It must be no volume,
//!    and nothing on it may change.
//! 2. Its header is written and synced. The group does not know it yet.
//! 3. One redo batch makes it a volume in ordinary use.
//!
//! A crash after step 2 leaves a header of the group with a number that the group does not use.
//! Such a device is taken for a new one: the command can be repeated.

use super::{GroupWriter, WriteOptions};
use crate::format::dss::{
    RedoEntry, Structure, VolumeAttributes, VolumeControl, VolumeHeader, VolumeState, head_bytes,
    other_volume_header,
};
use crate::io::EngineChoice;
use crate::storage::dss::control::{read_batch, read_controls};
use crate::storage::dss::create::refuse_volume;
use crate::storage::dss::device::Device;
use crate::storage::dss::group::{GroupSummary, parse_sizes};
use crate::storage::dss::lock::open_exclusive;
use crate::storage::dss::overlay::Devices;
use crate::storage::dss::reader::Reader;
use crate::storage::dss::{DssError, GroupSpec, VolumeGroup, check};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A device that is to be a volume.
struct New {
    path: PathBuf,
    /// It has a header that an interrupted command left.
    is_begun: bool,
}

/// Adds those devices of a group to it that are none of its volumes yet, at a time in seconds since
/// 1970 and microseconds.
///
/// # Errors
/// Where it is refused, or a device cannot be read or written. Devices before the one that an error
/// is about were added.
pub fn add_volumes(
    spec: &GroupSpec,
    options: &WriteOptions,
    time: (u64, u64),
    engine: EngineChoice,
) -> Result<GroupSummary, DssError> {
    let (known, new) = sort(spec, engine)?;
    // Ends what an interrupted command began, also where nothing is left to do.
    let mut writer = GroupWriter::open(&known, options, engine)?;
    if new.is_empty() {
        return Err(DssError::NotWritable {
            group: spec.name.clone(),
            problem: "all devices that were named are volumes of it already".to_owned(),
        });
    }
    for device in &new {
        writer.add_volume(device, time, engine)?;
    }
    drop(writer);
    let mut group = VolumeGroup::open(spec, engine)?;
    let report = check(&mut group)?;
    let damage = report.findings.iter().find(|_| report.is_damaged());
    match damage {
        None => Ok(group.summary()),
        Some(finding) => Err(DssError::Damaged {
            group: spec.name.clone(),
            what: format!("read back, {} {}", finding.place, finding.problem),
        }),
    }
}

/// The volumes of the group among the devices, and the others.
fn sort(spec: &GroupSpec, engine: EngineChoice) -> Result<(GroupSpec, Vec<New>), DssError> {
    let first = spec.devices.first().ok_or_else(|| DssError::Spec {
        text: spec.name.clone(),
    })?;
    let mut reader = Reader::open(engine)?;
    let entry = Device::open(first)?;
    let header = reader.read(&entry, 0, Structure::VolumeHeader.bytes())?;
    VolumeHeader::parse(&header).map_err(|source| entry.structure(0, source))?;
    let raw = read_controls(&mut reader, &entry)?;
    let (core, redo) = parse_sizes(&entry, &raw)?;
    let slots = VolumeControl::parse(&raw.controls.volumes).slots;
    let devices = Devices {
        group: spec.name.clone(),
        by_id: BTreeMap::from([(0, entry)]),
    };
    // A batch that was begun may be the one that adds a volume.
    let is_pending = read_batch(&mut reader, &devices, &redo, core.au_bytes)?.is_some();
    let mut known = GroupSpec {
        name: spec.name.clone(),
        devices: vec![first.clone()],
    };
    let mut new = Vec::new();
    for path in &spec.devices[1..] {
        let device = Device::open(path)?;
        let header = reader.read(&device, 0, Structure::VolumeHeader.bytes())?;
        if !VolumeHeader::is_initialised(&header) {
            new.push(New {
                path: path.clone(),
                is_begun: false,
            });
            continue;
        }
        let header = VolumeHeader::parse(&header).map_err(|source| device.structure(0, source))?;
        if header.group != spec.name {
            return Err(device.other(format!("is of volume group {}", header.group)));
        }
        let is_free = slots[usize::from(header.volume)].state == VolumeState::Free;
        if is_free && !is_pending {
            new.push(New {
                path: path.clone(),
                is_begun: true,
            });
        } else {
            known.devices.push(path.clone());
        }
    }
    Ok((known, new))
}

impl GroupWriter {
    fn add_volume(
        &mut self,
        new: &New,
        time: (u64, u64),
        engine: EngineChoice,
    ) -> Result<(), DssError> {
        let file = open_exclusive(&new.path)?;
        if new.is_begun {
            let blank = vec![0; Structure::VolumeHeader.bytes()];
            file.write_all_at(&blank, 0).map_err(DssError::Io)?;
            file.sync().map_err(DssError::Io)?;
        }
        refuse_volume(&new.path, engine)?;
        let device = Device {
            bytes: file.end().map_err(DssError::Io)?,
            file: Arc::new(file),
        };
        let slots = VolumeControl::parse(&self.controls.volumes).slots;
        let free = (0_u16..)
            .zip(&slots)
            .find(|(_, slot)| slot.state == VolumeState::Free);
        let refused = |problem: &str| DssError::NotWritable {
            group: self.name().to_owned(),
            problem: problem.to_owned(),
        };
        let (volume, _) = free.ok_or_else(|| refused("it has as many volumes as can be"))?;
        let used_bytes = head_bytes(self.au_bytes);
        if device.bytes < used_bytes + self.au_bytes {
            return Err(refused("a device has no room for a unit behind its head"));
        }
        let attributes = VolumeAttributes {
            id: volume,
            size_bytes: device.bytes,
            used_bytes,
            free_bytes: device.bytes - used_bytes,
        };
        let path = path_text(&new.path)?;
        let error = |source| device.structure(0, source);
        let header = other_volume_header(volume, path, self.name(), time).map_err(error)?;
        let entry = RedoEntry::add_volume(&self.controls, attributes, path).map_err(error)?;
        device.file.write_all_at(&header, 0).map_err(DssError::Io)?;
        device.file.sync().map_err(DssError::Io)?;
        self.devices.by_id.insert(volume, device);
        self.guarded(|writer| {
            writer.push(entry)?;
            writer.commit()
        })?;
        self.volumes.push(volume);
        self.volumes.sort_unstable();
        self.sync()
    }
}

fn path_text(path: &Path) -> Result<&str, DssError> {
    path.to_str().ok_or_else(|| DssError::Spec {
        text: path.display().to_string(),
    })
}
