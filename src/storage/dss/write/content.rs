//! The bytes of files.

use super::GroupWriter;
use crate::format::dss::{BlockId, FS_BLOCK_ENTRIES, NODE_INNER_INITED, Node, NodeKind, Structure};
use crate::limits::{DSS_NAME_BYTES, DSS_PATH_BYTES_MAX};
use crate::storage::dss::{DeviceRange, DssError};
use std::ops::Range;
use std::sync::Arc;

/// Bytes of entries that record lengths: three nodes each.
const LENGTHS_BYTES: usize = 1024;

impl GroupWriter {
    /// Bytes of a file, those included that are not recorded yet.
    ///
    /// # Errors
    /// Where it was removed meanwhile.
    pub fn length(&self, id: BlockId) -> Result<u64, DssError> {
        let recorded = self.node(id)?.written_bytes;
        Ok(self.lengths.get(&id).copied().unwrap_or(recorded))
    }

    /// Writes bytes of a file, which grows as far as they need it; a gap before them is zeros.
    ///
    /// # Errors
    /// Where there is no room, or they cannot be written.
    pub fn write_at(&mut self, id: BlockId, offset: u64, bytes: &[u8]) -> Result<(), DssError> {
        let end = self.end_of(id, offset, bytes.len() as u64)?;
        self.prepare(id, offset..end)?;
        let places = self.places(id, offset..end)?;
        self.guarded(|writer| {
            let mut rest = bytes;
            for (unit, start, length) in places {
                let (now, behind) = rest.split_at(length);
                rest = behind;
                let at = writer.start_of(unit);
                writer.unsynced.insert(unit.volume());
                writer.write(unit.volume(), at + start, now)?;
            }
            Ok(())
        })?;
        self.note_length(id, end)
    }

    /// Makes room for bytes of a file that are going to be written, and says where they go. A gap
    /// before them becomes zeros. [`GroupWriter::written`] tells that they are there.
    ///
    /// # Errors
    /// Where there is no room, or zeros cannot be written.
    pub fn prepare_write(
        &mut self,
        id: BlockId,
        range: Range<u64>,
    ) -> Result<Vec<DeviceRange>, DssError> {
        self.prepare(id, range.clone())?;
        self.ranges(id, range)
    }

    /// Bytes of a file were written where [`GroupWriter::prepare_write`] said.
    ///
    /// # Errors
    /// Where the file is gone.
    pub fn written(&mut self, id: BlockId, range: Range<u64>) -> Result<(), DssError> {
        for (unit, _, _) in self.places(id, range.clone())? {
            self.unsynced.insert(unit.volume());
        }
        self.note_length(id, range.end)
    }

    /// Where bytes are that a file has allocated.
    ///
    /// # Errors
    /// Where it has not so many, or its map is damaged.
    pub fn ranges(&self, id: BlockId, range: Range<u64>) -> Result<Vec<DeviceRange>, DssError> {
        self.plain_file(id)?;
        let mut ranges: Vec<DeviceRange> = Vec::new();
        for (unit, start, length) in self.places(id, range)? {
            let device = self.devices.device(unit)?;
            let at = self.start_of(unit) + start;
            match ranges.last_mut() {
                Some(DeviceRange::Data {
                    file,
                    offset,
                    length: last,
                }) if Arc::ptr_eq(file, &device.file) && *offset + *last == at => {
                    *last += length as u64;
                }
                _ => ranges.push(DeviceRange::Data {
                    file: Arc::clone(&device.file),
                    offset: at,
                    length: length as u64,
                }),
            }
        }
        Ok(ranges)
    }

    /// The target of a link.
    ///
    /// # Errors
    /// Where it is no link, or its target cannot be read.
    pub fn link_target(&self, id: BlockId) -> Result<String, DssError> {
        let node = self.node(id)?;
        if !matches!(node.kind, NodeKind::Link { .. }) {
            return Err(DssError::NotALink);
        }
        let mut bytes = Vec::new();
        for (unit, _, length) in self.places(id, 0..DSS_PATH_BYTES_MAX as u64)? {
            let at = self.start_of(unit);
            bytes.resize(length, 0);
            let device = self.devices.device(unit)?;
            device
                .file
                .read_exact_at(&mut bytes, at)
                .map_err(DssError::Io)?;
        }
        let end = bytes.iter().position(|byte| *byte == 0);
        bytes.truncate(end.unwrap_or(bytes.len()));
        String::from_utf8(bytes)
            .map_err(|_| self.damaged(format!("the target of link {} is no text", node.name)))
    }

    /// Makes a file of this name and content, durably and at once, in place of one that has the
    /// name.
    ///
    /// # Errors
    /// As [`GroupWriter::make_file`] and [`GroupWriter::write_at`].
    pub fn replace_file(
        &mut self,
        parent: BlockId,
        name: &str,
        bytes: &[u8],
    ) -> Result<(), DssError> {
        /// Behind the name of a file that is being written. A crash leaves it only where the file
        /// has more units than one batch can tell of.
        const BEGUN: &str = ".tmp";
        // What follows is then one batch.
        self.sync()?;
        let start = name.len().min(DSS_NAME_BYTES - 1 - BEGUN.len());
        let begun = format!("{}{BEGUN}", name.get(..start).unwrap_or_default());
        if let Some(id) = self.child(parent, &begun).map(|node| node.id) {
            self.remove_file(id)?;
        }
        let id = self.make_file(parent, &begun)?;
        self.write_at(id, 0, bytes)?;
        self.guarded(GroupWriter::record_lengths)?;
        self.rename(id, parent, name)?;
        self.sync()
    }

    /// Allocates so many bytes for a file without changing its length, in one run if there is one.
    ///
    /// # Errors
    /// Where there is no room.
    pub fn allocate(&mut self, id: BlockId, bytes: u64) -> Result<(), DssError> {
        self.plain_file(id)?;
        self.grow(id, bytes.div_ceil(self.au_bytes))
    }

    /// Cuts a file, or extends it by zeros.
    ///
    /// # Errors
    /// Where there is no room, or zeros cannot be written.
    pub fn set_length(&mut self, id: BlockId, length: u64) -> Result<(), DssError> {
        let now = self.length(id)?;
        if length > now {
            self.prepare(id, length..length)?;
            return self.note_length(id, length);
        }
        if !matches!(self.node(id)?.kind, NodeKind::File { .. }) {
            return Err(self.unsuitable(id, "is no file"));
        }
        self.claims.remove(&id);
        self.cut(id, length.div_ceil(self.au_bytes), length)?;
        self.lengths.remove(&id);
        if length > self.node(id)?.written_bytes {
            self.lengths.insert(id, length);
        }
        Ok(())
    }

    /// Makes a file's bytes and its length durable, and all changes before.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub fn sync_file(&mut self, id: BlockId) -> Result<(), DssError> {
        self.node(id)?;
        self.sync()
    }

    /// Writes the start of a unit that belongs to nobody yet; the rest of it becomes zeros.
    pub(super) fn write_unit(&mut self, unit: BlockId, bytes: &[u8]) -> Result<(), DssError> {
        let volume = unit.volume();
        let at = self.start_of(unit);
        self.unsynced.insert(volume);
        self.write(volume, at, bytes)?;
        let written = bytes.len() as u64;
        self.zero_unit(unit, written, self.au_bytes - written)
    }

    fn zero_unit(&mut self, unit: BlockId, start: u64, length: u64) -> Result<(), DssError> {
        let at = self.start_of(unit) + start;
        self.unsynced.insert(unit.volume());
        #[cfg(test)]
        self.steps
            .push(super::tests::Step::Zero(unit.volume(), at, length));
        let device = self.devices.device(unit)?;
        device.file.zero(at, length).map_err(DssError::Io)
    }

    /// Makes bytes of a file zeros that it has allocated.
    fn zero(&mut self, id: BlockId, range: Range<u64>) -> Result<(), DssError> {
        let places = self.places(id, range)?;
        self.guarded(|writer| {
            for (unit, start, length) in places {
                writer.zero_unit(unit, start, length as u64)?;
            }
            Ok(())
        })
    }

    fn end_of(&self, id: BlockId, offset: u64, length: u64) -> Result<u64, DssError> {
        let end = offset.checked_add(length);
        end.ok_or_else(|| self.unsuitable(id, "cannot become so large"))
    }

    fn plain_file(&self, id: BlockId) -> Result<&Node, DssError> {
        let node = self.node(id)?;
        if !matches!(node.kind, NodeKind::File { .. }) {
            return Err(self.unsuitable(id, "is no file"));
        }
        if node.flags & NODE_INNER_INITED != 0 {
            let problem = "knows which of its pages were written; only plain files can be";
            return Err(self.unsuitable(id, problem));
        }
        Ok(node)
    }

    /// Allocates what a write needs, and makes a gap before it zeros.
    fn prepare(&mut self, id: BlockId, range: Range<u64>) -> Result<(), DssError> {
        self.check_usable()?;
        self.plain_file(id)?;
        self.settle()?;
        let length = self.length(id)?;
        self.grow(id, range.end.div_ceil(self.au_bytes))?;
        if self.shortens {
            // What is behind the new length must be as it was until that one is durable.
            self.guarded(GroupWriter::commit)?;
        }
        // What others are about to write is no gap.
        let known = length.max(self.claims.get(&id).copied().unwrap_or(0));
        if range.start > known {
            self.zero(id, known..range.start)?;
        }
        self.claims.insert(id, known.max(range.end));
        Ok(())
    }

    fn note_length(&mut self, id: BlockId, end: u64) -> Result<(), DssError> {
        if end > self.length(id)? {
            self.lengths.insert(id, end);
        }
        Ok(())
    }

    /// Units and places in them of bytes that a file has allocated.
    fn places(
        &self,
        id: BlockId,
        range: Range<u64>,
    ) -> Result<Vec<(BlockId, u64, usize)>, DssError> {
        let node = self.node(id)?;
        let au_bytes = self.au_bytes;
        if range.end > node.size_bytes {
            return Err(self.unsuitable(id, "has not so many bytes"));
        }
        let mut places = Vec::new();
        let mut second: Option<(u64, BlockId, Vec<u8>)> = None;
        let mut at = range.start;
        while at < range.end {
            let number = at / au_bytes;
            let (part, place) = (
                number / FS_BLOCK_ENTRIES as u64,
                number % FS_BLOCK_ENTRIES as u64,
            );
            if second.as_ref().is_none_or(|(known, _, _)| *known != part) {
                let entry = node.entry().unwrap_or(BlockId::NONE);
                let index = u16::try_from(part).expect("at most 2041");
                let block = self.second(node, entry, index)?;
                second = Some((part, block, self.block(Structure::FsBlock, block)?));
            }
            let (_, block, slot) = second.as_ref().expect("just read");
            let block = self.fs_block(slot, *block)?;
            if block.owner != node.id {
                let what = format!("the map of file {} is not its own", node.name);
                return Err(self.damaged(what));
            }
            let unit = block.entry(usize::try_from(place).expect("at most 2041"));
            self.check_unit(unit)?;
            let end = range.end.min((number + 1) * au_bytes);
            let length = usize::try_from(end - at).expect("at most a unit");
            places.push((unit, at % au_bytes, length));
            at = end;
        }
        Ok(places)
    }

    /// Makes bytes durable, and puts the lengths that they have into the batch.
    pub(super) fn record_lengths(&mut self) -> Result<(), DssError> {
        if self.lengths.is_empty() {
            return Ok(());
        }
        if self.shortens {
            self.commit()?;
        }
        let lengths: Vec<(BlockId, u64)> = std::mem::take(&mut self.lengths).into_iter().collect();
        for (id, length) in &lengths {
            let end = length.next_multiple_of(self.au_bytes);
            let start = (*length).max(self.claims.get(id).copied().unwrap_or(0));
            if start < end {
                self.zero(*id, start..end)?;
            }
        }
        let volumes = std::mem::take(&mut self.unsynced);
        self.sync_volumes(&volumes)?;
        for lengths in lengths.chunks(3) {
            self.begin(LENGTHS_BYTES, 0)?;
            let nodes = lengths.iter().map(|(id, length)| {
                let mut node = self.node(*id)?.clone();
                node.written_bytes = *length;
                Ok(node)
            });
            let nodes = nodes.collect::<Result<Vec<Node>, DssError>>()?;
            self.set_nodes(nodes)?;
        }
        Ok(())
    }
}
