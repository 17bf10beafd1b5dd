//! Units and FS blocks: taking them, giving them back, and the maps of files.
//!
//! Units come from the volumes, the first one with room first, in one run where there is one. When
//! no volume has any left, and for single units when much waits there, they come from `.recycle`:
//! the last unit of its first file, whose blocks and node become free with the last one. Units that
//! a file gives back become a file of their own there.

use super::GroupWriter;
use super::nodes::now;
use crate::format::dss::{
    AuxBlock, BlockId, BlockState, ENTRY_BLOCK_INDEX, FS_BLOCK_ENTRIES, FreeList, FsBlock,
    NODE_INNER_INITED, NODE_NORMAL, Node, NodeKind, RedoEntry, Structure,
};
use crate::limits::DSS_NAME_BYTES;
use crate::storage::dss::DssError;
use crate::storage::room::UnitRoom;

/// Entries of `.recycle` from which on single units are taken there first.
const RECYCLE_MANY: u32 = 32;
/// Units that one step takes from `.recycle`: their entries in the batch are large.
const RECYCLED_UNITS_MAX: usize = 5;
/// Bytes of the entries of a step that grows or cuts a file at most.
const STEP_BYTES: usize = 24 * 1024;
/// Entries of an FS block.
const ENTRIES: u64 = FS_BLOCK_ENTRIES as u64;

impl GroupWriter {
    /// Bytes that volumes have left.
    #[cfg(test)]
    pub(super) fn fresh_bytes(&self) -> u64 {
        self.fresh_units() * self.au_bytes
    }

    /// Units that volumes have left.
    fn fresh_units(&self) -> u64 {
        let free = |volume: &u16| self.controls.volume(*volume).free_bytes / self.au_bytes;
        self.volumes.iter().map(free).sum()
    }

    fn recycle_list(&self) -> (u32, BlockId) {
        match self
            .nodes
            .get(&self.controls.recycle())
            .map(|node| node.kind)
        {
            Some(NodeKind::Directory { count, first, .. }) => (count, first),
            _ => (0, BlockId::NONE),
        }
    }

    /// Units that can still be taken.
    pub(super) fn available_units(&self) -> u64 {
        let (count, mut next) = self.recycle_list();
        let mut units = self.fresh_units();
        for _ in 0..count {
            let Some(node) = self.nodes.get(&next) else {
                break;
            };
            units += node.size_bytes / self.au_bytes;
            next = node.next;
        }
        units
    }

    /// What the group can give.
    pub(super) fn room(&self) -> UnitRoom {
        let mut room = UnitRoom {
            group: self.name().to_owned(),
            unit_bytes: self.au_bytes,
            units: self.fresh_units(),
            nodes: self.controls.node_table().free().count,
            nodes_per_unit: Structure::FileTableBlock.per_au(self.au_bytes),
            blocks: self.controls.free_fs_blocks().count,
            blocks_per_unit: Structure::FsBlock.per_au(self.au_bytes),
        };
        let recycle = self.controls.recycle();
        // What is deleted and still in a directory goes with the directory.
        let waits =
            |node: &&Node| node.parent == recycle || node.is_deleted() && !node.parent.is_root();
        for node in self.nodes.values().filter(waits) {
            match node.is_directory() {
                true => room.release_directory(),
                false => room.release_file(node.size_bytes),
            }
        }
        room
    }

    /// Whether taking so many units may take some from `.recycle`.
    pub(super) fn will_recycle(&self, units: u64) -> bool {
        self.recycle_list().0 >= RECYCLE_MANY || self.fresh_units() < units
    }

    /// Whether there is room for units, FS blocks, and perhaps a node.
    pub(super) fn require_units(
        &self,
        units: u64,
        fs_blocks: u64,
        node: bool,
    ) -> Result<(), DssError> {
        let more_blocks = fs_blocks.saturating_sub(self.controls.free_fs_blocks().count);
        let more_blocks = more_blocks.div_ceil(Structure::FsBlock.per_au(self.au_bytes));
        let more_nodes = node && self.controls.node_table().free().first == BlockId::NONE;
        let needed = units + more_blocks + u64::from(more_nodes);
        if needed <= self.fresh_units() || needed == 0 {
            return Ok(());
        }
        let missing = needed.saturating_sub(self.available_units());
        match missing {
            0 => Ok(()),
            missing => Err(DssError::NoRoom {
                group: self.name().to_owned(),
                missing: missing * self.au_bytes,
            }),
        }
    }

    fn no_room(&self) -> DssError {
        DssError::NoRoom {
            group: self.name().to_owned(),
            missing: self.au_bytes,
        }
    }

    /// Takes one unit.
    pub(super) fn take_unit(&mut self) -> Result<BlockId, DssError> {
        let units = self.take_units(1)?;
        units.first().copied().ok_or_else(|| self.no_room())
    }

    /// Takes units, as many as can be had in one step and at least one.
    fn take_units(&mut self, want: u64) -> Result<Vec<BlockId>, DssError> {
        let mut units = Vec::new();
        if want == 1
            && self.recycle_list().0 >= RECYCLE_MANY
            && let Some(unit) = self.take_recycled()?
        {
            return Ok(vec![unit]);
        }
        let au_bytes = self.au_bytes;
        let free =
            |writer: &GroupWriter, volume| writer.controls.volume(volume).free_bytes / au_bytes;
        let whole = self
            .volumes
            .iter()
            .find(|volume| free(self, **volume) >= want);
        let order: Vec<u16> = match whole {
            Some(volume) => vec![*volume],
            None => self.volumes.clone(),
        };
        for volume in order {
            let count = (want - units.len() as u64).min(free(self, volume));
            if count > 0 {
                let first = self.controls.take_units(volume, count, au_bytes);
                self.is_core_changed = true;
                let run = (0..count).map(|more| BlockId::new(volume, first.au() + more, 0));
                units.extend(run);
            }
        }
        while units.is_empty() || (units.len() as u64) < want.min(RECYCLED_UNITS_MAX as u64) {
            match self.take_recycled()? {
                Some(unit) => units.push(unit),
                None => break,
            }
        }
        match units.is_empty() {
            true => Err(self.no_room()),
            false => Ok(units),
        }
    }

    /// Takes the last unit of the first file of `.recycle` that has one.
    fn take_recycled(&mut self) -> Result<Option<BlockId>, DssError> {
        let (count, mut id) = self.recycle_list();
        let mut found = None;
        for _ in 0..count {
            let node = self.node(id)?;
            if node.size_bytes >= self.au_bytes && !node.is_directory() {
                found = Some(node.clone());
                break;
            }
            id = node.next;
        }
        let Some(mut node) = found else {
            return Ok(None);
        };
        let Some(entry) = node.entry() else {
            return Err(self.damaged(format!("{} has bytes and no map", node.name)));
        };
        // By the size: the number of used entries may lag behind after a crash.
        let last = node.size_bytes / self.au_bytes - 1;
        let (part, place) = (index(last / ENTRIES), index(last % ENTRIES));
        let second = self.second(&node, entry, part)?;
        let unit = self.release_entry(&node, second, place)?;
        node.size_bytes -= self.au_bytes;
        node.written_bytes = node.written_bytes.min(node.size_bytes);
        node.initialised_bytes = node.initialised_bytes.min(node.size_bytes);
        node.truncations = node.truncations.wrapping_add(1);
        if node.size_bytes == 0 {
            self.set_nodes(vec![node.clone()])?;
            self.free_map(&node, entry)?;
            self.names
                .entry(self.controls.recycle())
                .or_default()
                .remove(&node.name);
            self.free_node(id)?;
        } else {
            if place == 0 {
                self.push(RedoEntry::set_entry(entry, part, BlockId::NONE, part))?;
                self.free_fs_block(second)?;
            }
            self.set_nodes(vec![node])?;
        }
        Ok(Some(unit))
    }

    /// Empties the last entry of a second-level block, and returns the unit that it led to.
    fn release_entry(
        &mut self,
        node: &Node,
        second: BlockId,
        place: u16,
    ) -> Result<BlockId, DssError> {
        let slot = self.block(Structure::FsBlock, second)?;
        let block = self.fs_block(&slot, second)?;
        let entry = block.entry(place.into());
        let mut unit = entry;
        if node.flags & NODE_INNER_INITED != 0 && entry.has_flag() && !entry.is_nothing() {
            let id = entry.without_item();
            let slot = self.block(Structure::AuxBlock, id)?;
            let parsed = AuxBlock::parse(&slot, id, self.au_bytes);
            let aux = parsed.map_err(|source| self.damaged(format!("{id}: {source}")))?;
            unit = match aux.data.is_nothing() {
                true => aux.data,
                false => aux.data.without_item(),
            };
            self.push(RedoEntry::free_aux_block(&self.controls, id))?;
        }
        self.check_unit(unit)?;
        self.push(RedoEntry::set_entry(second, place, BlockId::NONE, place))?;
        Ok(unit)
    }

    /// Whether an entry leads to a unit.
    pub(super) fn check_unit(&self, unit: BlockId) -> Result<(), DssError> {
        let is_unit = unit == unit.whole_au() && !unit.is_nothing();
        let used = || self.controls.volume(unit.volume()).used_bytes;
        let start = unit.au_position(self.au_bytes).unwrap_or(u64::MAX);
        let head = crate::format::dss::head_bytes(self.au_bytes);
        if is_unit && self.volumes.contains(&unit.volume()) && start >= head && start < used() {
            return Ok(());
        }
        Err(self.damaged(format!(
            "the map of a file leads to {unit}, which is no unit"
        )))
    }

    /// First byte of a unit that was checked, on its volume.
    pub(super) fn start_of(&self, unit: BlockId) -> u64 {
        let start = unit.au_position(self.au_bytes);
        start.expect("it was checked that it is a unit")
    }

    pub(super) fn fs_block<'a>(
        &self,
        slot: &'a [u8],
        id: BlockId,
    ) -> Result<FsBlock<'a>, DssError> {
        FsBlock::parse(slot, id).map_err(|source| self.damaged(format!("{id}: {source}")))
    }

    /// A second-level block of a file.
    pub(super) fn second(
        &self,
        node: &Node,
        entry: BlockId,
        part: u16,
    ) -> Result<BlockId, DssError> {
        let slot = self.block(Structure::FsBlock, entry)?;
        let block = self.fs_block(&slot, entry)?;
        if block.owner != node.id || block.index != ENTRY_BLOCK_INDEX {
            let what = format!("the map of file {} is not its own", node.name);
            return Err(self.damaged(what));
        }
        Ok(block.entry(part.into()))
    }

    /// Makes a unit one of FS blocks if fewer are free.
    pub(super) fn reserve_fs_blocks(&mut self, count: u64) -> Result<(), DssError> {
        if self.controls.free_fs_blocks().count < count {
            let unit = self.take_unit()?;
            self.format_space(unit)?;
        }
        Ok(())
    }

    pub(super) fn format_space(&mut self, unit: BlockId) -> Result<(), DssError> {
        let blocks = Structure::FsBlock.per_au(self.au_bytes);
        self.push(RedoEntry::format_space(&self.controls, unit, blocks))
    }

    /// Uses the next free FS block; makes a unit one of FS blocks if none is free.
    pub(super) fn take_fs_block(
        &mut self,
        owner: BlockId,
        index: u16,
    ) -> Result<BlockId, DssError> {
        self.reserve_fs_blocks(1)?;
        let list = self.controls.free_fs_blocks();
        let id = list.first;
        let slot = self.block(Structure::FsBlock, id)?;
        let block = self.fs_block(&slot, id)?;
        if block.head.state != BlockState::Free || !block.owner.is_nothing() {
            let what = format!("FS block {id} is in the list of free ones and is not free");
            return Err(self.damaged(what));
        }
        let last = match block.next {
            BlockId::NONE => BlockId::NONE,
            _ => list.last,
        };
        let rest = FreeList {
            count: list.count - 1,
            first: block.next,
            last,
        };
        let controls = &self.controls;
        let entry = RedoEntry::allocate_fs_block(controls, id, owner, index, rest);
        self.push(entry)?;
        Ok(id)
    }

    /// Puts an FS block in front of the free ones.
    fn free_fs_block(&mut self, id: BlockId) -> Result<(), DssError> {
        let slot = self.block(Structure::FsBlock, id)?;
        let list = self.controls.free_fs_blocks();
        let (next, last) = match list.count {
            0 => (BlockId::NONE, id),
            _ => (list.first, list.last),
        };
        self.push(RedoEntry::free_fs_block(&slot, next))?;
        // The entry does not say so; that of the core control does.
        self.is_core_changed = true;
        self.controls.set_free_fs_blocks(FreeList {
            count: list.count + 1,
            first: id,
            last,
        });
        Ok(())
    }

    /// Frees the FS blocks of a file without units.
    pub(super) fn free_map(&mut self, node: &Node, entry: BlockId) -> Result<(), DssError> {
        let slot = self.block(Structure::FsBlock, entry)?;
        let block = self.fs_block(&slot, entry)?;
        if block.owner != node.id || block.head.state != BlockState::Used {
            return Err(self.damaged(format!("the map of file {} is not its own", node.name)));
        }
        if block.used > 1 {
            let what = format!("file {} has no units and a map of some", node.name);
            return Err(self.damaged(what));
        }
        if block.used == 1 {
            self.free_fs_block(block.entry(0))?;
        }
        self.free_fs_block(entry)
    }

    /// Enters a second-level block into the entry block.
    pub(super) fn enter_second(
        &mut self,
        entry: BlockId,
        second: BlockId,
        part: u16,
    ) -> Result<(), DssError> {
        self.push(RedoEntry::enter_fs_block(entry, second, part))
    }

    /// Makes a unit the only one of a new file.
    pub(super) fn set_only_entry(
        &mut self,
        second: BlockId,
        unit: BlockId,
    ) -> Result<(), DssError> {
        self.push(RedoEntry::set_entry(second, 0, unit, 1))
    }

    /// Allocates units until a file has so many.
    pub(super) fn grow(&mut self, id: BlockId, units: u64) -> Result<(), DssError> {
        let have = |writer: &GroupWriter| -> Result<u64, DssError> {
            Ok(writer.node(id)?.size_bytes / writer.au_bytes)
        };
        let now = have(self)?;
        if units <= now {
            return Ok(());
        }
        if units > ENTRIES * ENTRIES {
            return Err(self.unsuitable(id, "cannot become so large"));
        }
        let parts = units.div_ceil(ENTRIES) - now.div_ceil(ENTRIES).max(1);
        self.require_units(units - now, parts, false)?;
        while have(self)? < units {
            let want = units - have(self)?;
            self.begin(STEP_BYTES, want + 1)?;
            self.operate(|writer| writer.grow_step(id, want))?;
        }
        Ok(())
    }

    fn grow_step(&mut self, id: BlockId, want: u64) -> Result<(), DssError> {
        let mut node = self.node(id)?.clone();
        let Some(entry) = node.entry() else {
            return Err(self.damaged(format!("file {} has no map", node.name)));
        };
        let have = node.size_bytes / self.au_bytes;
        let (part, place) = (index(have / ENTRIES), index(have % ENTRIES));
        // Before the units, as taking it may need one.
        let second = if place == 0 && part > 0 {
            let second = self.take_fs_block(id, part)?;
            self.enter_second(entry, second, part)?;
            second
        } else {
            self.second(&node, entry, part)?
        };
        let units = self.take_units(want.min(ENTRIES - u64::from(place)))?;
        let count = index(units.len() as u64);
        if units.len() > 1 {
            self.push(RedoEntry::set_entries(second, place, &units))?;
        }
        // Sets the number of used entries too, which the one before does not in the server.
        let last = place + count - 1;
        let unit = units[usize::from(count) - 1];
        self.push(RedoEntry::set_entry(second, last, unit, last + 1))?;
        node.size_bytes += u64::from(count) * self.au_bytes;
        self.set_nodes(vec![node])
    }

    /// Cuts a file to so many units, and to a length that may be anything up to that.
    pub(super) fn cut(&mut self, id: BlockId, units: u64, length: u64) -> Result<(), DssError> {
        loop {
            let node = self.node(id)?;
            let have = node.size_bytes / self.au_bytes;
            let is_plain = node.flags & NODE_INNER_INITED == 0 || units > 0;
            if have <= units && node.written_bytes <= length && is_plain {
                return Ok(());
            }
            if have > units {
                self.begin(STEP_BYTES, 3)?;
                self.require_units(0, 2, true)?;
            } else {
                self.begin(STEP_BYTES, 0)?;
            }
            self.operate(|writer| writer.cut_step(id, units, length))?;
        }
    }

    fn cut_step(&mut self, id: BlockId, keep: u64, length: u64) -> Result<(), DssError> {
        let mut node = self.node(id)?.clone();
        let have = node.size_bytes / self.au_bytes;
        if have > keep {
            let part = (have - 1) / ENTRIES;
            let kept = keep.saturating_sub(part * ENTRIES);
            let moved = have - part * ENTRIES - kept;
            self.split_off(&node, index(part), index(kept), index(moved))?;
            node = self.node(id)?.clone();
            node.size_bytes -= moved * self.au_bytes;
            node.truncations = node.truncations.wrapping_add(1);
            self.gives_back = true;
        }
        // With the first step, so that no crash leaves a length between the two.
        node.written_bytes = node.written_bytes.min(length);
        node.initialised_bytes = node.initialised_bytes.min(length);
        if node.size_bytes == 0 {
            node.flags &= !NODE_INNER_INITED;
        }
        self.shortens |= !length.is_multiple_of(self.au_bytes);
        self.set_nodes(vec![node])
    }

    /// Moves the last units of a second-level block to a new file in `.recycle`.
    fn split_off(&mut self, node: &Node, part: u16, kept: u16, count: u16) -> Result<(), DssError> {
        let Some(entry) = node.entry() else {
            return Err(self.damaged(format!("file {} has no map", node.name)));
        };
        let second = self.second(node, entry, part)?;
        let slot = self.block(Structure::FsBlock, second)?;
        let block = self.fs_block(&slot, second)?;
        let entries = (kept..kept + count).map(|place| block.entry(place.into()));
        let values: Vec<BlockId> = entries.collect();
        // Before the node: taking a unit can make another node the next free one.
        self.reserve_fs_blocks(2)?;
        let owner = self.next_node()?;
        let target_entry = self.take_fs_block(owner, ENTRY_BLOCK_INDEX)?;
        let target = self.take_fs_block(owner, 0)?;
        self.enter_second(target_entry, target, 0)?;
        self.push(RedoEntry::move_entries(second, target, kept, &values))?;
        let bytes = u64::from(count) * self.au_bytes;
        let kind = NodeKind::File {
            entry: target_entry,
        };
        let flags = NODE_NORMAL | (node.flags & NODE_INNER_INITED);
        let recycle = self.controls.recycle();
        let name = self.split_name(&node.name, bytes);
        self.allocate_node(recycle, &name, kind, flags, bytes)?;
        let names = self.names.entry(recycle).or_default();
        names.insert(name.into(), owner);
        if kept == 0 && part > 0 {
            self.push(RedoEntry::set_entry(entry, part, BlockId::NONE, part))?;
            self.free_fs_block(second)?;
        }
        Ok(())
    }

    /// The name of what was cut off, as the server makes them: the file's, bytes, time of day.
    fn split_name(&self, name: &str, bytes: u64) -> String {
        let names = self.names.get(&self.controls.recycle());
        let seconds = now() % 86400;
        let (hour, minute) = (seconds / 3600, seconds / 60 % 60);
        let mut millis = 0;
        loop {
            let (second, milli) = ((seconds % 60 + millis / 1000) % 60, millis % 1000);
            let behind = format!("_sz{bytes}_{hour:02}{minute:02}{second:02}{milli:03}");
            let room = DSS_NAME_BYTES - 1 - behind.len();
            let new = format!("{}{behind}", &name[..name.len().min(room)]);
            if millis >= 60_000 || names.is_none_or(|names| !names.contains_key(&*new)) {
                return new;
            }
            millis += 1;
        }
    }
}

/// A number of an entry, or of entries of one block.
fn index(number: u64) -> u16 {
    u16::try_from(number).expect("at most 2041")
}
