//! A volume group: opening it, its metadata in memory, and reading them again.

use super::control::{RawControls, Stamp, read_batch, read_controls};
use super::device::Device;
use super::overlay::{Blocks, Devices, Overlay, ReplayError, Replaying};
use super::reader::Reader;
use super::table::Table;
use super::{DssError, GroupSpec};
use crate::format::dss::{
    BlockId, CoreControl, Node, NodeKind, RedoControl, RootBlock, Structure, VolumeControl,
    VolumeHeader, VolumeSlot, VolumeState, head_bytes, replay,
};
use crate::io::EngineChoice;
use crate::limits::{DSS_READ_PAUSE_MS, DSS_READS_MAX};
use crate::storage::room::UnitRoom;
use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

/// A volume group.
#[derive(Debug)]
pub struct VolumeGroup {
    pub(super) spec: GroupSpec,
    pub(super) engine: EngineChoice,
    pub(super) devices: Devices,
    pub(super) reader: Reader,
    /// For the bytes of files; opened when the first one is read.
    pub(super) stream: Option<Reader>,
    pub(super) state: State,
}

/// The metadata as they were at one time.
#[derive(Debug)]
pub(super) struct State {
    pub(super) core: CoreControl,
    pub(super) volumes: VolumeControl,
    pub(super) root: RootBlock,
    pub(super) redo: RedoControl,
    /// Lsn of the batch that the overlay comes from.
    pub(super) pending: Option<u64>,
    pub(super) overlay: Overlay,
    pub(super) table: Table,
    pub(super) stamp: Stamp,
}

/// What a group holds, in numbers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupSummary {
    /// Its name.
    pub name: String,
    /// Bytes of an allocation unit.
    pub au_bytes: u64,
    /// Number, device, bytes and bytes handed out of each volume.
    pub volumes: Vec<(u16, PathBuf, u64, u64)>,
    /// Nodes in use: files, directories and links, also deleted ones.
    pub nodes: usize,
    /// Lsn of the last redo batch that was applied.
    pub redo_lsn: u64,
    /// Lsn of a batch that a server began to apply; it is taken into account.
    pub pending_lsn: Option<u64>,
}

impl VolumeGroup {
    /// Opens a group.
    ///
    /// # Errors
    /// Where a device cannot be read, is no volume of the group, or its metadata are damaged or
    /// change all the time.
    pub fn open(spec: &GroupSpec, engine: EngineChoice) -> Result<VolumeGroup, DssError> {
        let mut reader = Reader::open(engine)?;
        let mut devices = Devices {
            group: spec.name.clone(),
            ..Devices::default()
        };
        let first = spec.devices.first().ok_or_else(|| DssError::Spec {
            text: spec.name.clone(),
        })?;
        let entry = Device::open(first)?;
        let header = read_header(&mut reader, &entry)?;
        check_header(&entry, &header, &spec.name, None)?;
        if !header.is_entry || header.volume != 0 {
            let problem = format!(
                "is volume {} of its group, not the entry volume",
                header.volume
            );
            return Err(entry.other(problem));
        }
        devices.by_id.insert(0, entry);
        for path in &spec.devices[1..] {
            let device = Device::open(path)?;
            let header = read_header(&mut reader, &device)?;
            check_header(&device, &header, &spec.name, None)?;
            if devices.by_id.contains_key(&header.volume) {
                let problem = format!("is volume {} of its group, as another is", header.volume);
                return Err(device.other(problem));
            }
            devices.by_id.insert(header.volume, device);
        }
        let state = load(&mut devices, &mut reader)?;
        Ok(VolumeGroup {
            spec: spec.clone(),
            engine,
            devices,
            reader,
            stream: None,
            state,
        })
    }

    /// Reads the metadata again.
    ///
    /// # Errors
    /// As [`VolumeGroup::open`].
    pub fn refresh(&mut self) -> Result<(), DssError> {
        self.state = load(&mut self.devices, &mut self.reader)?;
        Ok(())
    }

    /// The group's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The group in numbers.
    #[must_use]
    pub fn summary(&self) -> GroupSummary {
        let volumes = self.devices.by_id.iter().map(|(id, device)| {
            let attributes = self.state.core.volumes[usize::from(*id)];
            let path = device.file.path().to_owned();
            (*id, path, attributes.size_bytes, attributes.used_bytes)
        });
        GroupSummary {
            name: self.spec.name.clone(),
            au_bytes: self.state.core.au_bytes,
            volumes: volumes.collect(),
            nodes: self.state.table.nodes.len(),
            redo_lsn: self.state.redo.lsn,
            pending_lsn: self.state.pending,
        }
    }

    /// What the group can give, to a server too: that one ends the removal of what is deleted.
    pub(super) fn room(&self) -> UnitRoom {
        let core = &self.state.core;
        let is_usable = |volume: &(usize, &VolumeSlot)| volume.1.state == VolumeState::Occupied;
        let volumes = self.state.volumes.slots.iter().enumerate();
        let free = volumes.filter(is_usable);
        let free = free.map(|(volume, _)| core.volumes[volume].free_bytes / core.au_bytes);
        let mut room = UnitRoom {
            group: self.name().to_owned(),
            unit_bytes: core.au_bytes,
            units: free.sum(),
            nodes: self.state.root.free_nodes.count,
            nodes_per_unit: Structure::FileTableBlock.per_au(core.au_bytes),
            blocks: core.free_fs_blocks.count,
            blocks_per_unit: Structure::FsBlock.per_au(core.au_bytes),
        };
        let nodes = self.state.table.nodes.values();
        for node in nodes.filter(|node| node.is_deleted() || node.parent == core.recycle) {
            match node.is_directory() {
                true => room.release_directory(),
                false => room.release_file(node.size_bytes),
            }
        }
        room
    }

    /// The root directory.
    #[must_use]
    pub fn root(&self) -> &Node {
        &self.state.root.node
    }

    /// The children of a directory, in its order, deleted ones included.
    ///
    /// # Errors
    /// Where their chain is broken.
    pub fn children(&self, directory: &Node) -> Result<Vec<&Node>, DssError> {
        let NodeKind::Directory { count, first, .. } = directory.kind else {
            return Ok(Vec::new());
        };
        let count = count as usize;
        let table = &self.state.table;
        if count > table.nodes.len() {
            let what = format!("directory {} has {count} children", directory.name);
            return Err(self.devices.damaged(what));
        }
        let mut children = Vec::with_capacity(count);
        let mut next = first;
        while children.len() < count {
            let child = table.nodes.get(&next).ok_or_else(|| self.no_node(next))?;
            if child.parent != directory.id {
                let what = format!("{next} is a child of {} and of another", directory.name);
                return Err(self.devices.damaged(what));
            }
            children.push(child);
            next = child.next;
        }
        let distinct: HashSet<BlockId> = children.iter().map(|child| child.id).collect();
        if distinct.len() < count {
            let what = format!(
                "the children of directory {} go in a circle",
                directory.name
            );
            return Err(self.devices.damaged(what));
        }
        Ok(children)
    }

    fn no_node(&self, id: BlockId) -> DssError {
        match self.state.table.damaged.get(&id) {
            Some(error) => {
                let what = format!("node {id}: {error}");
                self.devices.damaged(what)
            }
            None => self.devices.damaged(format!("there is no node {id}")),
        }
    }

    /// The blocks of the group, and all else of it that they need.
    pub(super) fn blocks(&mut self) -> Blocks<'_> {
        Blocks {
            devices: &self.devices,
            reader: &mut self.reader,
            overlay: &self.state.overlay,
            au_bytes: self.state.core.au_bytes,
        }
    }

    /// Whether a server did something since the metadata were read.
    pub(super) fn has_changed(&mut self) -> Result<bool, DssError> {
        let stamp = read_stamp(&self.devices, &mut self.reader)?;
        Ok(stamp != self.state.stamp)
    }
}

/// Waits before the metadata are read again.
pub(super) fn pause(tries: u32) {
    std::thread::sleep(Duration::from_millis(DSS_READ_PAUSE_MS * u64::from(tries)));
}

pub(super) fn read_header(reader: &mut Reader, device: &Device) -> Result<VolumeHeader, DssError> {
    let slot = reader.read(device, 0, Structure::VolumeHeader.bytes())?;
    VolumeHeader::parse(&slot).map_err(|source| device.structure(0, source))
}

fn check_header(
    device: &Device,
    header: &VolumeHeader,
    group: &str,
    volume: Option<u16>,
) -> Result<(), DssError> {
    if header.group != group {
        return Err(device.other(format!("is of volume group {}", header.group)));
    }
    match volume {
        Some(volume) if header.volume != volume => {
            Err(device.other(format!("is volume {} of its group", header.volume)))
        }
        _ => Ok(()),
    }
}

/// Reads the metadata until nobody changed them meanwhile.
fn load(devices: &mut Devices, reader: &mut Reader) -> Result<State, DssError> {
    /// A volume on which nothing changes stays damaged.
    const SAME_ERRORS_MAX: u32 = 3;
    let mut same_errors = 0;
    let mut last = None;
    for tries in 1..=DSS_READS_MAX {
        let result = load_once(devices, reader);
        let (error, stamp) = match (result, read_stamp(devices, reader)) {
            (Ok(state), Ok(stamp)) if state.stamp == stamp => return Ok(state),
            (Ok(_), Ok(stamp)) => (None, Some(stamp)),
            (Err(error), stamp) => (Some(error), stamp.ok()),
            (Ok(_), Err(error)) => (Some(error), None),
        };
        if let Some(error) = error {
            same_errors = if stamp == last { same_errors + 1 } else { 1 };
            if !error.may_pass() || same_errors >= SAME_ERRORS_MAX {
                return Err(error);
            }
        }
        last = stamp;
        pause(tries);
    }
    Err(DssError::Changing {
        group: devices.group.clone(),
        tries: DSS_READS_MAX,
    })
}

fn read_stamp(devices: &Devices, reader: &mut Reader) -> Result<Stamp, DssError> {
    let entry = devices.by_id[&0].clone();
    let raw = read_controls(reader, &entry)?;
    let (core, redo) = parse_sizes(&entry, &raw)?;
    let batch = read_batch(reader, devices, &redo, core.au_bytes)?;
    Ok(raw.stamp(batch.map(|batch| batch.lsn)))
}

pub(super) fn parse_sizes(
    entry: &Device,
    raw: &RawControls,
) -> Result<(CoreControl, RedoControl), DssError> {
    let core = CoreControl::parse(&raw.controls.core)
        .map_err(|source| entry.structure(Structure::CoreControl.offset(), source))?;
    let redo = RedoControl::parse(&raw.redo, core.au_bytes)
        .map_err(|source| entry.structure(Structure::RedoControl.offset(), source))?;
    Ok((core, redo))
}

fn load_once(devices: &mut Devices, reader: &mut Reader) -> Result<State, DssError> {
    let entry = devices.by_id[&0].clone();
    let mut raw = read_controls(reader, &entry)?;
    let (core, redo) = parse_sizes(&entry, &raw)?;
    let au_bytes = core.au_bytes;
    let volumes = VolumeControl::parse(&raw.controls.volumes);
    open_others(devices, reader, &volumes)?;
    let batch = read_batch(reader, devices, &redo, au_bytes)?;
    let pending = batch.as_ref().map(|batch| batch.lsn);
    let stamp = raw.stamp(pending);
    let mut overlay = Overlay::default();
    if let Some(batch) = batch {
        let mut replaying = Replaying {
            overlay,
            devices,
            reader,
            au_bytes,
        };
        replay(&batch, &mut raw.controls, au_bytes, &mut replaying).map_err(
            |error| match error {
                ReplayError::Format(source) => entry.structure(redo.offset, source),
                ReplayError::Storage(error) => error,
            },
        )?;
        overlay = replaying.overlay;
    }
    let core = CoreControl::parse(&raw.controls.core)
        .map_err(|source| entry.structure(Structure::CoreControl.offset(), source))?;
    let volumes = VolumeControl::parse(&raw.controls.volumes);
    let root = RootBlock::parse(&raw.controls.root)
        .map_err(|source| entry.structure(Structure::RootBlock.offset(), source))?;
    check_sizes(devices, &core, au_bytes)?;
    let mut blocks = Blocks {
        devices,
        reader,
        overlay: &overlay,
        au_bytes,
    };
    let table = Table::load(&mut blocks, &root)?;
    Ok(State {
        core,
        volumes,
        root,
        redo,
        pending,
        overlay,
        table,
        stamp,
    })
}

/// Opens volumes that the group has and nobody named.
fn open_others(
    devices: &mut Devices,
    reader: &mut Reader,
    volumes: &VolumeControl,
) -> Result<(), DssError> {
    for (volume, slot) in (0..).zip(&volumes.slots) {
        if slot.state == VolumeState::Free {
            continue;
        }
        if devices.by_id.contains_key(&volume) {
            continue;
        }
        let group = devices.group.clone();
        let opened = Device::open(slot.device.as_ref()).and_then(|device| {
            let header = read_header(reader, &device)?;
            check_header(&device, &header, &group, Some(volume))?;
            Ok(device)
        });
        match opened {
            Ok(device) => {
                devices.by_id.insert(volume, device);
            }
            Err(_) if !slot.state.may_hold_data() => {}
            Err(error) => {
                return Err(DssError::MissingVolume {
                    group,
                    volume,
                    source: Box::new(error),
                });
            }
        }
    }
    Ok(())
}

/// Whether no more is handed out than there is.
fn check_sizes(devices: &Devices, core: &CoreControl, au_bytes: u64) -> Result<(), DssError> {
    if core.au_bytes != au_bytes {
        let what = "a redo batch changes the size of its allocation units";
        return Err(devices.damaged(what.to_owned()));
    }
    for (volume, device) in &devices.by_id {
        let used = core.volumes[usize::from(*volume)].used_bytes;
        let fits = used <= device.bytes && used.is_multiple_of(au_bytes);
        if !fits || used < head_bytes(au_bytes) {
            let what = format!(
                "{used} bytes of volume {volume} are in use, \"{}\" has {} and units of {au_bytes}",
                device.file.path().display(),
                device.bytes
            );
            return Err(devices.damaged(what));
        }
    }
    Ok(())
}
