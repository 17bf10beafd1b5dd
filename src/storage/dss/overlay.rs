//! Blocks as they are once the pending redo batch is applied; the devices stay as they are.

use super::DssError;
use super::device::Device;
use super::reader::Reader;
use crate::format::dss::{
    BlockId, DssFormatError, FormattedAu, ReplayBlocks, Structure, formatted_block, head_bytes,
};
use std::collections::{BTreeMap, HashMap};

/// The volumes of a group.
#[derive(Debug, Default)]
pub(super) struct Devices {
    /// Name of the group.
    pub(super) group: String,
    pub(super) by_id: BTreeMap<u16, Device>,
}

impl Devices {
    /// The device that a block is on.
    pub(super) fn device(&self, id: BlockId) -> Result<&Device, DssError> {
        self.by_id
            .get(&id.volume())
            .ok_or_else(|| self.damaged(format!("{id} is on a volume that the group has not")))
    }

    /// The error that something does not fit.
    pub(super) fn damaged(&self, what: String) -> DssError {
        DssError::Damaged {
            group: self.group.clone(),
            what,
        }
    }

    /// Where a block is.
    pub(super) fn place(
        &self,
        structure: Structure,
        id: BlockId,
        au_bytes: u64,
    ) -> Result<(&Device, u64), DssError> {
        let name = structure.name();
        let device = self.device(id)?;
        let position = id.position(structure, au_bytes);
        let position = position
            .filter(|at| *at >= head_bytes(au_bytes))
            .filter(|at| at.saturating_add(structure.bytes() as u64) <= device.bytes)
            .ok_or_else(|| self.damaged(format!("there can be no {name} {id}")))?;
        Ok((device, position))
    }
}

/// What a batch changed.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    blocks: HashMap<(Structure, BlockId), Vec<u8>>,
    formatted: HashMap<BlockId, FormattedAu>,
}

impl Overlay {
    /// Whether nothing was changed.
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.formatted.is_empty()
    }

    /// A block, if it was changed.
    pub(super) fn get(&self, structure: Structure, id: BlockId, au_bytes: u64) -> Option<Vec<u8>> {
        if let Some(block) = self.blocks.get(&(structure, id)) {
            return Some(block.clone());
        }
        let formatted = *self.formatted.get(&id.whole_au())?;
        let exists = formatted.structure() == structure && id.block() < structure.per_au(au_bytes);
        exists.then(|| formatted_block(formatted, au_bytes, id))
    }

    /// Forgets all changes.
    pub(super) fn clear(&mut self) {
        self.blocks.clear();
        self.formatted.clear();
    }

    /// The blocks that were changed, and all of units that were formatted, in the order of their
    /// places; whether each has to be sealed.
    pub(super) fn changes(&self, au_bytes: u64) -> Vec<(Structure, BlockId, bool)> {
        let mut changes: Vec<(Structure, BlockId, bool)> = Vec::new();
        for (au, formatted) in &self.formatted {
            let structure = formatted.structure();
            let blocks = (0..structure.per_au(au_bytes)).map(|block| au.with_block(block));
            let unchanged = blocks.filter(|id| !self.blocks.contains_key(&(structure, *id)));
            changes.extend(unchanged.map(|id| (structure, id, false)));
        }
        changes.extend(
            self.blocks
                .keys()
                .map(|(structure, id)| (*structure, *id, true)),
        );
        changes.sort_unstable_by_key(|(structure, id, _)| {
            (id.volume(), id.au(), id.block(), *structure)
        });
        changes
    }

    /// The block, to be changed; `read` where it is not known yet.
    pub(super) fn edit<E>(
        &mut self,
        structure: Structure,
        id: BlockId,
        au_bytes: u64,
        read: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<&mut [u8], E> {
        let block = match self.get(structure, id, au_bytes) {
            Some(block) => block,
            None => read()?,
        };
        let entry = self.blocks.entry((structure, id));
        Ok(entry.insert_entry(block).into_mut())
    }

    /// A unit becomes one of formatted blocks.
    pub(super) fn format(&mut self, au: BlockId, formatted: FormattedAu) {
        self.blocks.retain(|(_, id), _| id.whole_au() != au);
        self.formatted.insert(au, formatted);
    }

    /// Whether the AU, or a block in it, was changed.
    pub(super) fn touches(&self, au: BlockId) -> bool {
        self.formatted.contains_key(&au) || self.blocks.keys().any(|(_, id)| id.whole_au() == au)
    }
}

/// Applies a batch to an overlay.
#[derive(Debug)]
pub(super) struct Replaying<'a> {
    pub(super) overlay: Overlay,
    pub(super) devices: &'a Devices,
    pub(super) reader: &'a mut Reader,
    pub(super) au_bytes: u64,
}

/// An error of the format or of the storage.
#[derive(Debug)]
pub(super) enum ReplayError {
    Format(DssFormatError),
    Storage(DssError),
}

impl From<DssFormatError> for ReplayError {
    fn from(error: DssFormatError) -> ReplayError {
        ReplayError::Format(error)
    }
}

impl ReplayBlocks for Replaying<'_> {
    type Error = ReplayError;

    fn block(&mut self, structure: Structure, id: BlockId) -> Result<&mut [u8], ReplayError> {
        let (devices, reader, au_bytes) = (self.devices, &mut *self.reader, self.au_bytes);
        self.overlay.edit(structure, id, au_bytes, || {
            let (device, at) = devices
                .place(structure, id, au_bytes)
                .map_err(ReplayError::Storage)?;
            let read = reader.read(device, at, structure.bytes());
            read.map_err(ReplayError::Storage)
        })
    }

    fn format_au(&mut self, au: BlockId, formatted: FormattedAu) {
        self.overlay.format(au, formatted);
    }
}

/// Blocks of a group, as the overlay or the devices have them.
#[derive(Debug)]
pub(super) struct Blocks<'a> {
    pub(super) devices: &'a Devices,
    pub(super) reader: &'a mut Reader,
    pub(super) overlay: &'a Overlay,
    pub(super) au_bytes: u64,
}

impl Blocks<'_> {
    /// A block whose checksum is right.
    pub(super) fn fetch(&mut self, structure: Structure, id: BlockId) -> Result<Vec<u8>, DssError> {
        if let Some(block) = self.overlay.get(structure, id, self.au_bytes) {
            return Ok(block);
        }
        let (device, at) = self.devices.place(structure, id, self.au_bytes)?;
        let block = self.reader.read(device, at, structure.bytes())?;
        let verified = structure.verify(&block);
        verified.map_err(|source| device.structure(at, source))?;
        Ok(block)
    }

    /// The error that a block is another one than it should be.
    pub(super) fn structure(
        &self,
        structure: Structure,
        id: BlockId,
        source: DssFormatError,
    ) -> DssError {
        match self.devices.place(structure, id, self.au_bytes) {
            Ok((device, at)) => device.structure(at, source),
            Err(error) => error,
        }
    }
}
