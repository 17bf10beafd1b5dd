//! Gathering redo entries, and making them durable.

use super::GroupWriter;
use crate::format::dss::NODE_AT;
use crate::format::dss::{
    BlockId, COPY_OFFSET, DssFormatError, FormattedAu, NODE_BYTES, Node, RedoBatch, RedoControl,
    RedoEntry, ReplayBlocks, RingPiece, Structure, replay_entry,
};
use crate::limits::EXTENT_BYTES_MAX;
use crate::storage::dss::DssError;
use crate::storage::dss::overlay::{Devices, Overlay, ReplayError};
use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of the node table and of the nodes before the one that a batch frees.
const FREED_AT: usize = 72 + 3 * NODE_BYTES;

/// Blocks as they will be, read through the page cache where they are not changed yet.
struct Applying<'a> {
    overlay: &'a mut Overlay,
    devices: &'a Devices,
    au_bytes: u64,
}

impl ReplayBlocks for Applying<'_> {
    type Error = ReplayError;

    fn block(&mut self, structure: Structure, id: BlockId) -> Result<&mut [u8], ReplayError> {
        let (devices, au_bytes) = (self.devices, self.au_bytes);
        self.overlay.edit(structure, id, au_bytes, || {
            let placed = devices.place(structure, id, au_bytes);
            let (device, at) = placed.map_err(ReplayError::Storage)?;
            let mut block = vec![0; structure.bytes()];
            let read = device.file.read_exact_at(&mut block, at);
            read.map_err(|error| ReplayError::Storage(DssError::Io(error)))?;
            Ok(block)
        })
    }

    fn format_au(&mut self, au: BlockId, formatted: FormattedAu) {
        self.overlay.format(au, formatted);
    }
}

impl GroupWriter {
    /// Makes room in the batch for an operation of so many bytes of entries that takes so many
    /// units.
    pub(super) fn begin(&mut self, bytes: usize, units: u64) -> Result<(), DssError> {
        self.settle()?;
        // The entry of the core control comes last.
        let needed = self.batch_bytes + bytes + self.core_bytes();
        let is_full = needed > RedoBatch::ENTRIES_BYTES_MAX;
        if is_full || (units > 0 && self.gives_back && self.will_recycle(units)) {
            self.guarded(GroupWriter::commit)?;
        }
        assert!(bytes + self.core_bytes() <= RedoBatch::ENTRIES_BYTES_MAX);
        Ok(())
    }

    /// Carries out an operation. One that fails before its first entry changes nothing; one that
    /// fails behind it leaves the group to be opened again.
    pub(super) fn operate<T>(
        &mut self,
        act: impl FnOnce(&mut GroupWriter) -> Result<T, DssError>,
    ) -> Result<T, DssError> {
        self.check_usable()?;
        let before = (self.redo.lsn, self.batch.len(), self.is_core_changed);
        let result = act(self);
        let after = (self.redo.lsn, self.batch.len(), self.is_core_changed);
        match &result {
            Err(error) if before != after => self.abandon(error),
            _ => {}
        }
        result
    }

    fn core_bytes(&self) -> usize {
        RedoEntry::core(&self.controls, self.volume_slots()).encoded_bytes()
    }

    /// One more than the largest number of a volume.
    fn volume_slots(&self) -> usize {
        self.volumes.last().map_or(1, |last| usize::from(*last) + 1)
    }

    /// Applies an entry in memory, and puts it into the batch.
    pub(super) fn push(&mut self, entry: RedoEntry) -> Result<(), DssError> {
        self.apply(&entry)?;
        self.note_nodes(&entry)?;
        self.batch_bytes += entry.encoded_bytes();
        assert!(
            self.batch_bytes <= RedoBatch::ENTRIES_BYTES_MAX,
            "room was made for the whole operation"
        );
        self.batch.push(entry);
        Ok(())
    }

    fn apply(&mut self, entry: &RedoEntry) -> Result<(), DssError> {
        let mut applying = Applying {
            overlay: &mut self.overlay,
            devices: &self.devices,
            au_bytes: self.au_bytes,
        };
        let number = self.batch.len();
        let controls = &mut self.controls;
        let applied = replay_entry(number, entry, controls, self.au_bytes, &mut applying);
        applied.map_err(|error| match error {
            ReplayError::Format(source) => self.devices.by_id[&0].structure(0, source),
            ReplayError::Storage(error) => error,
        })
    }

    /// Keeps the nodes in memory as entries say that they are.
    fn note_nodes(&mut self, entry: &RedoEntry) -> Result<(), DssError> {
        let payload = match entry.kind {
            4 | 5 => &entry.payload[FREED_AT - 3 * NODE_BYTES..],
            6 => &entry.payload[..],
            _ => return Ok(()),
        };
        for (number, bytes) in payload.chunks_exact(NODE_BYTES).enumerate() {
            let id = BlockId(u64::from_le_bytes(
                bytes[64..72].try_into().expect("eight bytes"),
            ));
            if id == BlockId::NONE {
                continue;
            }
            if entry.kind == 5 && number == 3 {
                self.nodes.remove(&id);
                continue;
            }
            let parsed = Node::parse(bytes);
            let node = parsed.map_err(|source| self.damaged(source.to_string()))?;
            self.nodes.insert(id, node);
        }
        Ok(())
    }

    /// Makes the batch durable.
    pub(super) fn commit(&mut self) -> Result<(), DssError> {
        if self.shows_bytes {
            let volumes = std::mem::take(&mut self.unsynced);
            self.sync_volumes(&volumes)?;
        }
        if self.is_core_changed {
            let entry = RedoEntry::core(&self.controls, self.volume_slots());
            self.batch_bytes += entry.encoded_bytes();
            self.batch.push(entry);
        }
        self.shows_bytes = false;
        self.gives_back = false;
        self.shortens = false;
        self.is_core_changed = false;
        self.batch_bytes = 0;
        if self.batch.is_empty() {
            return Ok(());
        }
        let time = SystemTime::now().duration_since(UNIX_EPOCH);
        let time = time.unwrap_or_default().as_micros();
        let micros = time.saturating_sub(u128::from(RedoBatch::EPOCH_SECONDS) * 1_000_000);
        let batch = RedoBatch {
            lsn: self.redo.lsn + 1,
            time_us: u64::try_from(micros).unwrap_or(0),
            entries: std::mem::take(&mut self.batch),
        };
        let bytes = batch.encode();
        let runs = self.ring_runs(&bytes);
        self.write_ring(&runs)?;
        self.write_changes(&batch, bytes.len())
    }

    /// Applies the batch that another one began in memory.
    pub(super) fn apply_entries(&mut self, batch: &RedoBatch) -> Result<(), DssError> {
        batch.entries.iter().try_for_each(|entry| self.apply(entry))
    }

    /// Ends the batch that another one began, and that is applied in memory.
    pub(super) fn finish_batch(&mut self, batch: &RedoBatch) -> Result<(), DssError> {
        let length = batch.encode().len();
        let next = self.redo.after(length, batch.lsn).next_sector();
        self.write_ring(&[(next, vec![0; RedoControl::SECTOR_BYTES])])?;
        self.write_changes(batch, length)?;
        let all = self.devices.by_id.keys().copied().collect();
        self.sync_volumes(&all)
    }

    /// The runs of the ring that a batch takes, and the first sector of the next one as zeros: what
    /// was there when the device had another group could have the lsn that is due then.
    fn ring_runs(&self, bytes: &[u8]) -> Vec<(RingPiece, Vec<u8>)> {
        let mut runs = Vec::new();
        let mut done = 0;
        for piece in self.redo.pieces(bytes.len()) {
            let length = usize::try_from(piece.length).expect("no more than a batch");
            runs.push((piece, bytes[done..done + length].to_vec()));
            done += length;
        }
        let next = self.redo.after(bytes.len(), 0).next_sector();
        match runs.last_mut() {
            Some((last, run))
                if (last.start, last.offset + last.length) == (next.start, next.offset) =>
            {
                last.length += next.length;
                run.resize(run.len() + RedoControl::SECTOR_BYTES, 0);
            }
            _ => runs.push((next, vec![0; RedoControl::SECTOR_BYTES])),
        }
        runs
    }

    fn write_ring(&mut self, runs: &[(RingPiece, Vec<u8>)]) -> Result<(), DssError> {
        let mut volumes = BTreeSet::from([0]);
        for (piece, bytes) in runs {
            let start = piece.start.au_position(self.au_bytes).unwrap_or(u64::MAX);
            let end = start.saturating_add(piece.offset + piece.length);
            let volume = piece.start.volume();
            let fits = |device: &crate::storage::dss::device::Device| end <= device.bytes;
            if !self.devices.by_id.get(&volume).is_some_and(fits) {
                return Err(self.damaged("its redo ring ends behind its volume".to_owned()));
            }
            self.write(volume, start + piece.offset, bytes)?;
            volumes.insert(volume);
        }
        // The control of the batch before is on the entry volume, and becomes durable with it.
        self.sync_volumes(&volumes)
    }

    /// Writes what a durable batch changed in its place, and then that it was.
    fn write_changes(&mut self, batch: &RedoBatch, length: usize) -> Result<(), DssError> {
        let mut volumes = self.write_blocks()?;
        volumes.insert(0);
        let has = |kinds: &[u32]| {
            batch
                .entries
                .iter()
                .any(|entry| kinds.contains(&entry.kind))
        };
        let controls = &mut self.controls;
        let mut changed = Vec::new();
        if has(&[0, 1, 9, 10, 15, 16, 17, 20]) {
            Structure::CoreControl.seal(&mut controls.core);
            changed.push((Structure::CoreControl, controls.core.clone()));
        }
        if has(&[1]) {
            Structure::VolumeControl.seal(&mut controls.volumes);
            changed.push((Structure::VolumeControl, controls.volumes.clone()));
        }
        if has(&[3, 4, 5, 6, 7, 8, 14]) {
            Structure::RootBlock.seal(&mut controls.root);
            changed.push((Structure::RootBlock, controls.root.clone()));
        }
        for (structure, bytes) in &changed {
            self.write(0, structure.offset(), bytes)?;
        }
        // Before the second copies: a power cut may tear whatever is not synced, but not both.
        self.sync_volumes(&volumes)?;
        for (structure, bytes) in &changed {
            self.write(0, COPY_OFFSET + structure.offset(), bytes)?;
        }
        self.redo = self.redo.after(length, batch.lsn);
        self.redo.put(&mut self.redo_slot);
        for copy in [0, COPY_OFFSET] {
            let at = copy + Structure::RedoControl.offset();
            self.write(0, at, &self.redo_slot.clone())?;
        }
        Ok(())
    }

    /// Writes changed blocks in place, in runs; returns the volumes that they are on.
    fn write_blocks(&mut self) -> Result<BTreeSet<u16>, DssError> {
        let mut volumes = BTreeSet::new();
        let mut run = Vec::new();
        let mut start = (0, 0);
        for (structure, id, is_changed) in self.overlay.changes(self.au_bytes) {
            let block = self.overlay.get(structure, id, self.au_bytes);
            let mut block = block.expect("it is one of the changes");
            if is_changed {
                structure.seal(&mut block);
            }
            let (_, at) = self.devices.place(structure, id, self.au_bytes)?;
            let place = (id.volume(), at);
            volumes.insert(id.volume());
            let follows = place == (start.0, start.1 + run.len() as u64);
            if !follows || run.len() + block.len() > EXTENT_BYTES_MAX {
                if !run.is_empty() {
                    self.write(start.0, start.1, &run)?;
                }
                run.clear();
                start = place;
            }
            run.extend(block);
        }
        if !run.is_empty() {
            self.write(start.0, start.1, &run)?;
        }
        self.overlay.clear();
        Ok(volumes)
    }

    /// Writes to a volume, through the page cache.
    pub(super) fn write(&mut self, volume: u16, at: u64, bytes: &[u8]) -> Result<(), DssError> {
        #[cfg(test)]
        self.steps
            .push(super::tests::Step::Write(volume, at, bytes.to_vec()));
        let device = self.devices.device(BlockId::new(volume, 0, 0))?;
        device.file.write_all_at(bytes, at).map_err(DssError::Io)
    }

    /// Makes volumes durable.
    pub(super) fn sync_volumes(&mut self, volumes: &BTreeSet<u16>) -> Result<(), DssError> {
        for volume in volumes {
            #[cfg(test)]
            self.steps.push(super::tests::Step::Sync(*volume));
            let device = self.devices.device(BlockId::new(*volume, 0, 0))?;
            device.file.sync().map_err(DssError::Io)?;
        }
        Ok(())
    }

    /// The slot's node of a block of the file table, the root included, to be changed.
    pub(super) fn node_bytes(&self, id: BlockId) -> Result<[u8; NODE_BYTES], DssError> {
        let slot = match id.is_root() {
            true => self.controls.root.clone(),
            false => self.block(Structure::FileTableBlock, id)?,
        };
        let bytes = slot.get(NODE_AT..NODE_AT + NODE_BYTES);
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.ok_or_else(|| self.damaged(DssFormatError::NotInitialised.to_string()))
    }
}
