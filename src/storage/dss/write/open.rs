//! Opening a group to write, refused on any doubt.
//!
//! 1. The lock of the server's home is taken, and its socket must not answer.
//! 2. Every device is opened for this process alone, and locked.
//! 3. The metadata are read, and again after a pause: nothing may have changed.
//! 4. All volumes must be in ordinary use, and every node in exactly one directory.
//! 5. A batch that is only begun is applied in memory, unless it is older than the group.
//! 6. Before the first change, and only then, it is applied to the devices, and a control whose
//!    copies differ gets the good one twice: who is refused has changed nothing.

use super::GroupWriter;
use crate::format::dss::{
    BlockId, COPY_OFFSET, CoreControl, FS_BLOCK_ENTRIES, Node, RedoBatch, Structure, VolumeState,
};
use crate::io::EngineChoice;
use crate::limits::DSS_QUIET_MS;
use crate::storage::dss::control::{RawControls, read_area, read_batch, read_controls, slot};
use crate::storage::dss::device::Device;
use crate::storage::dss::group::read_header;
use crate::storage::dss::lock::{in_use, lock_server, open_exclusive};
use crate::storage::dss::overlay::{Devices, Overlay};
use crate::storage::dss::{DssError, GroupSpec, VolumeGroup};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const SECONDS_OF_A_DAY: u64 = 24 * 60 * 60;

/// How a group is opened to write.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// Home of the server that must not run.
    pub dss_home: Option<PathBuf>,
    /// How long nothing may change before it is written to.
    pub quiet: Duration,
}

impl Default for WriteOptions {
    fn default() -> WriteOptions {
        WriteOptions {
            dss_home: None,
            quiet: Duration::from_millis(DSS_QUIET_MS),
        }
    }
}

impl GroupWriter {
    /// Opens a group, and finishes what a crash interrupted.
    ///
    /// # Errors
    /// Where it is refused, or a device cannot be read or written.
    pub fn open(
        spec: &GroupSpec,
        options: &WriteOptions,
        engine: EngineChoice,
    ) -> Result<GroupWriter, DssError> {
        let mut writer = GroupWriter::open_unchanged(spec, options, engine)?;
        writer.settle()?;
        Ok(writer)
    }

    /// Opens a group. Nothing is written before its first change: a batch that is only begun is
    /// applied in memory.
    pub(super) fn open_unchanged(
        spec: &GroupSpec,
        options: &WriteOptions,
        engine: EngineChoice,
    ) -> Result<GroupWriter, DssError> {
        let server = lock_server(options.dss_home.as_deref())?;
        let (mut group, locked) = open_locked(spec, engine)?;
        std::thread::sleep(options.quiet);
        if group.has_changed()? {
            return Err(in_use(&spec.devices[0], "is being written to"));
        }
        let volumes = usable_volumes(&group)?;
        let entry = group.devices.by_id[&0].clone();
        let raw = read_controls(&mut group.reader, &entry)?;
        let batch = read_pending(&mut group)?;
        let by_id = group.devices.by_id.iter().map(|(id, device)| {
            // All were locked.
            let device = locked.get(device.file.path()).unwrap_or(device);
            (*id, device.clone())
        });
        let mut writer = GroupWriter {
            devices: Devices {
                group: spec.name.clone(),
                by_id: by_id.collect(),
            },
            au_bytes: group.state.core.au_bytes,
            volumes,
            controls: raw.controls.clone(),
            overlay: Overlay::default(),
            nodes: HashMap::new(),
            names: HashMap::new(),
            redo: group.state.redo.clone(),
            redo_slot: raw.redo.clone(),
            batch: Vec::new(),
            batch_bytes: 0,
            is_core_changed: false,
            gives_back: false,
            shortens: false,
            shows_bytes: false,
            unsynced: BTreeSet::new(),
            lengths: BTreeMap::new(),
            claims: HashMap::new(),
            failure: None,
            unsettled: None,
            _server: server,
            #[cfg(test)]
            steps: Vec::new(),
        };
        // What other hosts wrote since it was read the last time; blocks are read through it now.
        for device in writer.devices.by_id.values() {
            device.file.drop_cache();
        }
        let copies = other_copies(&mut group, &raw)?;
        if let Some(batch) = &batch {
            writer.apply_entries(batch)?;
            writer.check_state(&group)?;
        }
        if batch.is_some() || !copies.is_empty() {
            writer.unsettled = Some(Box::new(Unsettled { copies, batch }));
        }
        writer.index(&group)?;
        Ok(writer)
    }

    /// Finishes what a crash interrupted.
    ///
    /// # Errors
    /// Where it cannot be written; the group is to be opened again then.
    pub(super) fn settle(&mut self) -> Result<(), DssError> {
        let Some(unsettled) = self.unsettled.take() else {
            return Ok(());
        };
        self.guarded(|writer| {
            for (at, bytes) in &unsettled.copies {
                writer.write(0, *at, bytes)?;
            }
            if !unsettled.copies.is_empty() {
                writer.sync_volumes(&BTreeSet::from([0]))?;
            }
            match &unsettled.batch {
                Some(batch) => writer.finish_batch(batch),
                None => Ok(()),
            }
        })
    }

    /// Whether a batch that is applied in memory makes of the group what every reader sees.
    fn check_state(&self, group: &VolumeGroup) -> Result<(), DssError> {
        // Whoever reads the group has counted the write.
        let mut core = self.controls.core.clone();
        Structure::CoreControl.seal(&mut core);
        let core = CoreControl::parse(&core)
            .map_err(|source| self.devices.by_id[&0].structure(0, source))?;
        match core == group.state.core && group.state.pending == Some(self.redo.lsn + 1) {
            true => Ok(()),
            false => Err(self.damaged("the batch that was begun cannot be applied".to_owned())),
        }
    }

    /// Whether a node has sizes that there can be, so that its map can be walked.
    fn check_sizes(&self, node: &Node) -> Result<(), DssError> {
        let used = |volume: &u16| self.controls.volume(*volume).used_bytes;
        let handed_out: u64 = self.volumes.iter().map(used).sum();
        let (size, written) = (node.size_bytes, node.written_bytes);
        let most = (FS_BLOCK_ENTRIES as u64).pow(2);
        let fits = size.is_multiple_of(self.au_bytes) && size / self.au_bytes <= most;
        if fits && size <= handed_out && written <= size {
            return Ok(());
        }
        let (name, id) = (&node.name, node.id);
        Err(self.damaged(format!("{name} ({id}) has {written} of {size} bytes")))
    }

    /// Takes nodes and their names over.
    fn index(&mut self, group: &VolumeGroup) -> Result<(), DssError> {
        if let Some((id, error)) = group.state.table.damaged.iter().next() {
            return Err(self.damaged(format!("node {id}: {error}")));
        }
        let mut found = 0;
        let mut pending = vec![group.root().clone()];
        while let Some(directory) = pending.pop() {
            let mut names = HashMap::new();
            let mut previous = BlockId::NONE;
            for child in group.children(&directory)? {
                found += 1;
                if found > group.state.table.nodes.len() || child.previous != previous {
                    let what = format!("directory {} is not in order", directory.name);
                    return Err(self.damaged(what));
                }
                previous = child.id;
                self.check_sizes(child)?;
                if !child.is_deleted() {
                    names.insert(child.name.clone(), child.id);
                }
                if child.is_directory() {
                    pending.push(child.clone());
                }
            }
            self.names.insert(directory.id, names);
        }
        if found != group.state.table.nodes.len() {
            let what = "a node is in use and in no directory".to_owned();
            return Err(self.damaged(what));
        }
        self.nodes.clone_from(&group.state.table.nodes);
        let root: Node = group.root().clone();
        self.nodes.insert(BlockId::ROOT, root);
        match self.nodes.get(&self.controls.recycle()) {
            Some(node) if node.is_directory() => Ok(()),
            _ => Err(self.damaged("there is no directory .recycle".to_owned())),
        }
    }
}

/// What is to be written before the first change.
#[derive(Debug)]
pub(super) struct Unsettled {
    /// Copies of controls that are not those that count: where they are, and what they will be.
    copies: Vec<(u64, Vec<u8>)>,
    /// A batch that was begun; it is applied in memory.
    batch: Option<RedoBatch>,
}

/// The copies of controls that are no longer those that count.
fn other_copies(
    group: &mut VolumeGroup,
    raw: &RawControls,
) -> Result<Vec<(u64, Vec<u8>)>, DssError> {
    let entry = group.devices.by_id[&0].clone();
    let areas = [
        read_area(&mut group.reader, &entry, false)?,
        read_area(&mut group.reader, &entry, true)?,
    ];
    let mut others = Vec::new();
    for (structure, good) in [
        (Structure::CoreControl, &raw.controls.core),
        (Structure::VolumeControl, &raw.controls.volumes),
        (Structure::RootBlock, &raw.controls.root),
        (Structure::RedoControl, &raw.redo),
    ] {
        for (area, copy) in areas.iter().zip([0, COPY_OFFSET]) {
            if slot(area, structure) != good {
                others.push((copy + structure.offset(), good.clone()));
            }
        }
    }
    Ok(others)
}

/// Opens a group whose devices, those included that nobody named, are this process's alone.
fn open_locked(
    spec: &GroupSpec,
    engine: EngineChoice,
) -> Result<(VolumeGroup, BTreeMap<PathBuf, Device>), DssError> {
    let mut locked = BTreeMap::new();
    for path in &spec.devices {
        lock(&mut locked, path)?;
    }
    let group = VolumeGroup::open(spec, engine)?;
    for device in group.devices.by_id.values() {
        lock(&mut locked, device.file.path())?;
    }
    Ok((group, locked))
}

fn lock(locked: &mut BTreeMap<PathBuf, Device>, path: &std::path::Path) -> Result<(), DssError> {
    if locked.contains_key(path) {
        return Ok(());
    }
    let file = open_exclusive(path)?;
    let device = Device {
        bytes: file.end().map_err(DssError::Io)?,
        file: Arc::new(file),
    };
    locked.insert(path.to_owned(), device);
    Ok(())
}

/// The batch that was begun and is to be applied. One that is older than the group was left by
/// another one on the same device, and is refused. Its time is that of some time zone.
fn read_pending(group: &mut VolumeGroup) -> Result<Option<RedoBatch>, DssError> {
    let (redo, au_bytes) = (&group.state.redo, group.state.core.au_bytes);
    let Some(batch) = read_batch(&mut group.reader, &group.devices, redo, au_bytes)? else {
        return Ok(None);
    };
    let entry = group.devices.by_id[&0].clone();
    let header = read_header(&mut group.reader, &entry)?;
    let written = RedoBatch::EPOCH_SECONDS.saturating_add(batch.time_us / 1_000_000);
    if written.saturating_add(SECONDS_OF_A_DAY) >= header.created {
        return Ok(Some(batch));
    }
    Err(DssError::NotWritable {
        group: group.name().to_owned(),
        problem: format!(
            "the redo batch with lsn {} in its ring is older than the group, by their clocks: if \
             the group is new, an earlier one left it there, and \"dss wipe\" and \"dss cv\" make \
             it anew; if it is not, start its dssserver once, which applies the batch",
            batch.lsn
        ),
    })
}

/// The volumes, if all are in ordinary use.
fn usable_volumes(group: &VolumeGroup) -> Result<Vec<u16>, DssError> {
    let refused = |problem: String| DssError::NotWritable {
        group: group.name().to_owned(),
        problem,
    };
    let mut volumes = Vec::new();
    for (volume, slot) in (0..).zip(&group.state.volumes.slots) {
        match slot.state {
            VolumeState::Free => continue,
            VolumeState::Occupied => {}
            state => {
                let name = state.name();
                return Err(refused(format!("the state of volume {volume} is {name}")));
            }
        }
        let attributes = group.state.core.volumes[usize::from(volume)];
        let (size, used) = (attributes.size_bytes, attributes.used_bytes);
        let bytes = group.devices.by_id[&volume].bytes;
        if used.checked_add(attributes.free_bytes) != Some(size) || size > bytes {
            let problem = format!("the sizes of volume {volume} do not fit its device");
            return Err(refused(problem));
        }
        volumes.push(volume);
    }
    Ok(volumes)
}
