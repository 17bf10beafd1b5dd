//! Where the bytes of a file are.

use super::DssError;
use super::group::VolumeGroup;
use crate::format::dss::{
    AuxBlock, BlockId, BlockState, ENTRY_BLOCK_INDEX, FS_BLOCK_ENTRIES, FileTableBlock, FsBlock,
    NODE_INNER_INITED, Node, Structure, head_bytes,
};
use crate::io::File;
use crate::types::PAGE_SIZE;
use std::ops::Range;
use std::sync::Arc;

/// A run of bytes of a file.
#[derive(Clone, Debug)]
pub enum DeviceRange {
    /// They are on a device.
    Data {
        /// The device.
        file: Arc<File>,
        /// The first one there.
        offset: u64,
        /// How many.
        length: u64,
    },
    /// They were never written and are zeros, whatever the device holds.
    Zeros {
        /// How many.
        length: u64,
    },
}

/// An allocation unit of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Unit {
    pub(super) au: BlockId,
    /// A bit for each page of the unit, 1 where it was never written; `None` where all were.
    bitmap: Option<Box<[u8]>>,
}

/// A part of a file's map: the units of one second-level block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Part {
    /// First byte of the file that it is about.
    pub(super) start: u64,
    pub(super) units: Vec<Unit>,
}

impl VolumeGroup {
    /// Where bytes of a file are; those behind its length are left out.
    ///
    /// # Errors
    /// Where the file's map is damaged.
    pub fn ranges(&mut self, node: &Node, range: Range<u64>) -> Result<Vec<DeviceRange>, DssError> {
        let range = range.start..range.end.min(node.written_bytes);
        let mut ranges = Vec::new();
        let second_level = self.second_level(node)?;
        let part_bytes = self.part_bytes();
        let mut start = range.start;
        while start < range.end {
            let part = self.part(node, &second_level, start / part_bytes, 0..usize::MAX)?;
            let end = range.end.min(part.start + part_bytes);
            ranges.extend(self.part_ranges(node, &part, start..end)?);
            start = end;
        }
        Ok(ranges)
    }

    /// Bytes of a file that one second-level block stands for.
    pub(super) fn part_bytes(&self) -> u64 {
        FS_BLOCK_ENTRIES as u64 * self.state.core.au_bytes
    }

    /// The second-level blocks of a file, as many as its size needs.
    pub(super) fn second_level(&mut self, node: &Node) -> Result<Vec<BlockId>, DssError> {
        let au_bytes = self.state.core.au_bytes;
        let handed_out: u64 = self
            .devices
            .by_id
            .keys()
            .map(|volume| self.state.core.volumes[usize::from(*volume)].used_bytes)
            .sum();
        let size = node.size_bytes;
        if !size.is_multiple_of(au_bytes) || size > handed_out || node.written_bytes > size {
            let name = &node.name;
            let written = node.written_bytes;
            let what = format!("file {name} ({}) has {written} of {size} bytes", node.id);
            return Err(self.devices.damaged(what));
        }
        if size == 0 {
            return Ok(Vec::new());
        }
        let Some(entry) = node.entry() else {
            let what = format!("file {} ({}) has bytes and no map", node.name, node.id);
            return Err(self.devices.damaged(what));
        };
        let parts = size.div_ceil(self.part_bytes());
        let parts = usize::try_from(parts).unwrap_or(usize::MAX);
        if parts > FS_BLOCK_ENTRIES {
            let what = format!("file {} ({}) has {size} bytes", node.name, node.id);
            return Err(self.devices.damaged(what));
        }
        let slot = self.fs_block(node, entry, ENTRY_BLOCK_INDEX)?;
        let block = FsBlock::parse(&slot, entry).expect("it was parsed when it was read");
        Ok((0..parts).map(|number| block.entry(number)).collect())
    }

    /// An FS block of a file.
    fn fs_block(&mut self, node: &Node, id: BlockId, index: u16) -> Result<Vec<u8>, DssError> {
        let mut blocks = self.blocks();
        let slot = blocks.fetch(Structure::FsBlock, id)?;
        let block = FsBlock::parse(&slot, id)
            .map_err(|source| blocks.structure(Structure::FsBlock, id, source))?;
        let is_used = block.head.state != BlockState::Free;
        if !is_used || block.owner != node.id || block.index != index {
            let (name, owner) = (&node.name, block.owner);
            let what = format!(
                "file {name} ({}) is mapped by FS block {id}, which is number {:x} of {owner}",
                node.id, block.index
            );
            return Err(self.devices.damaged(what));
        }
        Ok(slot)
    }

    /// Units of one second-level block, as many as the file's size needs at most.
    pub(super) fn part(
        &mut self,
        node: &Node,
        second_level: &[BlockId],
        number: u64,
        wanted: Range<usize>,
    ) -> Result<Part, DssError> {
        let au_bytes = self.state.core.au_bytes;
        let start = number * self.part_bytes();
        let units = (node.size_bytes - start).div_ceil(au_bytes);
        let units = units.min(FS_BLOCK_ENTRIES as u64);
        let index = u16::try_from(number).expect("less than there are entries");
        let id = second_level[usize::from(index)];
        let slot = self.fs_block(node, id, index)?;
        let block = FsBlock::parse(&slot, id).expect("it was parsed when it was read");
        let units = usize::try_from(units).expect("at most 2041");
        let units = (wanted.start..wanted.end.min(units))
            .map(|entry| self.unit(node, block.entry(entry)))
            .collect::<Result<Vec<Unit>, DssError>>()?;
        Ok(Part { start, units })
    }

    /// The unit that an entry leads to.
    fn unit(&mut self, node: &Node, entry: BlockId) -> Result<Unit, DssError> {
        let au_bytes = self.state.core.au_bytes;
        let mut unit = Unit {
            au: entry,
            bitmap: None,
        };
        let leads_on = node.flags & NODE_INNER_INITED != 0 && entry.has_flag();
        if leads_on && !entry.is_nothing() {
            let id = entry.without_item();
            let mut blocks = self.blocks();
            let slot = blocks.fetch(Structure::AuxBlock, id)?;
            let block = AuxBlock::parse(&slot, id, au_bytes)
                .map_err(|source| blocks.structure(Structure::AuxBlock, id, source))?;
            if block.owner != node.id || block.head.state == BlockState::Free {
                let (name, owner) = (&node.name, block.owner);
                let what = format!(
                    "file {name} ({}) uses FS-aux block {id} of {owner}",
                    node.id
                );
                return Err(self.devices.damaged(what));
            }
            unit.au = block.data;
            if block.data.has_flag() && !block.data.is_nothing() {
                unit.au = block.data.without_item();
                unit.bitmap = Some(block.bitmap.into());
            }
        }
        self.check_unit(node, unit.au)?;
        Ok(unit)
    }

    /// Whether a file can have this unit.
    fn check_unit(&self, node: &Node, au: BlockId) -> Result<(), DssError> {
        let au_bytes = self.state.core.au_bytes;
        let is_data = au == au.whole_au() && self.devices.by_id.contains_key(&au.volume());
        let place = au.au_position(au_bytes).filter(|_| is_data);
        let fits = place.is_some_and(|at| {
            let used = self.state.core.volumes[usize::from(au.volume())].used_bytes;
            at >= head_bytes(au_bytes) && at < used
        });
        if fits {
            return Ok(());
        }
        let what = format!(
            "file {} ({}) has unit {au}, which is none",
            node.name, node.id
        );
        Err(self.devices.damaged(what))
    }

    /// Where bytes of a part are.
    pub(super) fn part_ranges(
        &self,
        node: &Node,
        part: &Part,
        range: Range<u64>,
    ) -> Result<Vec<DeviceRange>, DssError> {
        let au_bytes = self.state.core.au_bytes;
        let mut ranges: Vec<DeviceRange> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let number = usize::try_from((at - part.start) / au_bytes).expect("at most 2041");
            let unit = &part.units[number];
            let unit_start = part.start + number as u64 * au_bytes;
            let unit_end = range.end.min(unit_start + au_bytes);
            let end = match &unit.bitmap {
                None => unit_end,
                Some(_) => unit_end.min((at / PAGE_SIZE as u64 + 1) * PAGE_SIZE as u64),
            };
            let page = usize::try_from((at - unit_start) / PAGE_SIZE as u64).expect("in a unit");
            let is_unwritten = unit.bitmap.as_ref().is_some_and(|bitmap| {
                bitmap[page / 8] >> (page % 8) & 1 == 1 && node.initialised_bytes < end
            });
            if is_unwritten {
                push_zeros(&mut ranges, end - at);
            } else {
                let device = self.devices.device(unit.au)?;
                let start = unit.au.au_position(au_bytes).expect("checked with the map");
                push_data(&mut ranges, &device.file, start + at - unit_start, end - at);
            }
            at = end;
        }
        Ok(ranges)
    }

    /// The node as it is on the device now; `None` where it is gone.
    pub(super) fn node_now(&mut self, node: &Node) -> Result<Option<Node>, DssError> {
        let mut blocks = self.blocks();
        let slot = blocks.fetch(Structure::FileTableBlock, node.id)?;
        let now = FileTableBlock::parse(&slot, node.id).and_then(|block| match block.head.state {
            BlockState::Free => Ok(None),
            _ => Node::parse(block.node).map(Some),
        });
        let now =
            now.map_err(|source| blocks.structure(Structure::FileTableBlock, node.id, source))?;
        Ok(now.filter(|now| now.fid == node.fid && !now.is_directory()))
    }
}

fn push_zeros(ranges: &mut Vec<DeviceRange>, more: u64) {
    match ranges.last_mut() {
        Some(DeviceRange::Zeros { length }) => *length += more,
        _ => ranges.push(DeviceRange::Zeros { length: more }),
    }
}

fn push_data(ranges: &mut Vec<DeviceRange>, file: &Arc<File>, at: u64, more: u64) {
    match ranges.last_mut() {
        Some(DeviceRange::Data {
            file: last,
            offset,
            length,
        }) if Arc::ptr_eq(last, file) && *offset + *length == at => *length += more,
        _ => ranges.push(DeviceRange::Data {
            file: Arc::clone(file),
            offset: at,
            length: more,
        }),
    }
}
