//! The map of one open file, and whether it still is what it was.

use super::DssError;
use super::group::VolumeGroup;
use super::map::{DeviceRange, Part};
use crate::format::dss::{BlockId, Node};
use std::collections::BTreeMap;
use std::ops::Range;

/// What is known of where a file's bytes are.
#[derive(Debug)]
pub(super) struct FileMap {
    pub(super) node: Node,
    second_level: Vec<BlockId>,
    /// Bytes that a part stands for.
    part_bytes: u64,
    /// The parts that were asked for, by number.
    parts: BTreeMap<u64, MappedPart>,
}

#[derive(Debug)]
struct MappedPart {
    part: Part,
    /// First byte of each run in the file, in ascending order.
    runs: Vec<(u64, DeviceRange)>,
}

impl FileMap {
    /// The run that holds the byte at `offset`, from there on; `None` where its part was not read.
    ///
    /// # Panics
    /// When there is no such byte.
    pub(super) fn run(&self, offset: u64) -> Option<DeviceRange> {
        let part = self.parts.get(&(offset / self.part_bytes))?;
        let behind = part.runs.partition_point(|(start, _)| *start <= offset);
        let (start, run) = &part.runs[behind - 1];
        Some(run.from(offset - start))
    }

    /// Whether the other one, of the same file, does not have all that this one knows in the same
    /// places.
    pub(super) fn has_moved(&self, other: &FileMap) -> bool {
        let is_other = self.node.fid != other.node.fid
            || self.node.truncations != other.node.truncations
            || self.node.entry() != other.node.entry();
        is_other
            || self.parts.iter().any(|(number, part)| {
                let Some(other) = other.parts.get(number) else {
                    return true;
                };
                let (units, others) = (&part.part.units, &other.part.units);
                let mut pairs = units.iter().zip(others);
                others.len() < units.len() || pairs.any(|(unit, other)| unit.au != other.au)
            })
    }
}

impl DeviceRange {
    /// Its bytes behind the first `count`.
    fn from(&self, count: u64) -> DeviceRange {
        match self {
            DeviceRange::Zeros { length } => DeviceRange::Zeros {
                length: length - count,
            },
            DeviceRange::Data {
                file,
                offset,
                length,
            } => DeviceRange::Data {
                file: file.clone(),
                offset: offset + count,
                length: length - count,
            },
        }
    }

    fn length(&self) -> u64 {
        match self {
            DeviceRange::Zeros { length } | DeviceRange::Data { length, .. } => *length,
        }
    }
}

impl VolumeGroup {
    /// The map of a file as its node is on the device now; `None` where the file is no more what
    /// is known of it.
    pub(super) fn map(&mut self, known: &Node) -> Result<Option<FileMap>, DssError> {
        let Some(node) = self.node_same(known)? else {
            return Ok(None);
        };
        let second_level = self.second_level(&node)?;
        let mut map = FileMap {
            second_level,
            part_bytes: self.part_bytes(),
            parts: BTreeMap::new(),
            node,
        };
        if map.node.written_bytes > 0 {
            self.load_part(&mut map, 0)?;
        }
        Ok(Some(map))
    }

    /// The same file's map as it is now, as much of it as the other knows.
    pub(super) fn map_like(&mut self, other: &FileMap) -> Result<Option<FileMap>, DssError> {
        let Some(mut map) = self.map(&other.node)? else {
            return Ok(None);
        };
        for number in other.parts.keys() {
            let start = number * map.part_bytes;
            if start < map.node.written_bytes {
                self.load_part(&mut map, start)?;
            }
        }
        Ok(Some(map))
    }

    /// The node as it is on the device now, if it still is the same name of the same file.
    pub(super) fn node_same(&mut self, known: &Node) -> Result<Option<Node>, DssError> {
        // What the overlay holds came from the devices before.
        if !self.state.overlay.is_empty() && self.has_changed()? {
            return Ok(None);
        }
        let is_same =
            |now: &Node| now.parent == known.parent && now.name == known.name && !now.is_deleted();
        Ok(self.node_now(known)?.filter(is_same))
    }

    /// Reads the part of a map that a byte is in.
    pub(super) fn load_part(&mut self, map: &mut FileMap, offset: u64) -> Result<(), DssError> {
        let number = offset / map.part_bytes;
        let part = self.part(&map.node, &map.second_level, number, 0..usize::MAX)?;
        let end = map.node.written_bytes.min(part.start + map.part_bytes);
        let mut start = part.start;
        let mut runs = Vec::new();
        for range in self.part_ranges(&map.node, &part, part.start..end)? {
            let length = range.length();
            runs.push((start, range));
            start += length;
        }
        map.parts.insert(number, MappedPart { part, runs });
        Ok(())
    }

    /// Whether the bytes of a file are still where its map says, as far as that was read.
    pub(super) fn is_mapped_so(&mut self, map: &FileMap) -> Result<bool, DssError> {
        if !self.is_node_still(&map.node, &map.second_level)? {
            return Ok(false);
        }
        for (number, part) in &map.parts {
            let wanted = 0..part.part.units.len();
            if !self.are_units_still(&map.node, &map.second_level, *number, &part.part, wanted)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a file has lost nothing, and its second-level blocks are these.
    pub(super) fn is_node_still(
        &mut self,
        node: &Node,
        second_level: &[BlockId],
    ) -> Result<bool, DssError> {
        // What the overlay holds came from the devices before they were read.
        if !self.state.overlay.is_empty() && self.has_changed()? {
            return Ok(false);
        }
        let Some(now) = self.node_now(node)? else {
            return Ok(false);
        };
        if now.truncations != node.truncations
            || now.entry() != node.entry()
            || now.size_bytes < node.size_bytes
        {
            return Ok(false);
        }
        Ok(self.second_level(node)? == second_level)
    }

    /// Whether units of a part are still the same.
    pub(super) fn are_units_still(
        &mut self,
        node: &Node,
        second_level: &[BlockId],
        number: u64,
        part: &Part,
        wanted: Range<usize>,
    ) -> Result<bool, DssError> {
        let now = self.part(node, second_level, number, wanted.clone())?;
        let before = part.units[wanted].iter().map(|unit| unit.au);
        Ok(now.units.iter().map(|unit| unit.au).eq(before))
    }
}
