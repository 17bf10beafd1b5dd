//! FS blocks and FS-aux blocks: whose they are, and what they say.

use super::super::{DssError, VolumeGroup};
use super::CheckReport;
use super::nodes::File;
use super::owners::{Owner, Owners};
use crate::format::dss::{
    AuxBlock, BlockId, BlockState, ENTRY_BLOCK_INDEX, FREE_BLOCK_INDEX, FS_BLOCK_ENTRIES, FreeList,
    FsBlock, NODE_INNER_INITED, Node, NodeKind, Structure,
};
use std::collections::HashSet;

/// Part of the name of what a truncation cut off, before its size.
const SPLIT_OFF: &str = "_sz";

pub(super) fn check(
    group: &mut VolumeGroup,
    files: &[File],
    owners: &mut Owners,
    report: &mut CheckReport,
) -> Result<(), DssError> {
    let mut space = Space {
        group,
        owners,
        report,
        fs_blocks: HashSet::new(),
        aux_blocks: HashSet::new(),
    };
    for (path, node) in files {
        space.check_file(path, node)?;
    }
    space.check_free_fs_blocks()?;
    space.check_free_aux_blocks()?;
    space.check_counts();
    Ok(())
}

struct Space<'a> {
    group: &'a mut VolumeGroup,
    owners: &'a mut Owners,
    report: &'a mut CheckReport,
    fs_blocks: HashSet<BlockId>,
    aux_blocks: HashSet<BlockId>,
}

/// Whether reading went on: a block that cannot be used is a finding, a device that cannot is not.
fn usable<T>(
    result: Result<T, DssError>,
    place: &str,
    report: &mut CheckReport,
) -> Result<Option<T>, DssError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.may_pass() => {
            report.unusable(place, &error);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl Space<'_> {
    /// A block of these, with its slot.
    fn fetch(
        &mut self,
        structure: Structure,
        id: BlockId,
        place: &str,
    ) -> Result<Option<Vec<u8>>, DssError> {
        let au_bytes = self.group.state.core.au_bytes;
        let mut blocks = self.group.blocks();
        let result = blocks.fetch(structure, id).and_then(|slot| {
            let parsed = match structure {
                Structure::AuxBlock => AuxBlock::parse(&slot, id, au_bytes).map(|_| ()),
                _ => FsBlock::parse(&slot, id).map(|_| ()),
            };
            parsed.map_err(|source| blocks.structure(structure, id, source))?;
            Ok(slot)
        });
        usable(result, place, self.report)
    }

    /// Notes that a block is somebody's, and whether it was nobody's before.
    fn claim(&mut self, structure: Structure, id: BlockId, place: &str) -> bool {
        let au = id.whole_au();
        let (set, owner) = match structure {
            Structure::AuxBlock => (&mut self.aux_blocks, Owner::AuxBlocks),
            _ => (&mut self.fs_blocks, Owner::FsBlocks),
        };
        if !set.insert(id) {
            let problem = format!("uses {} {id}, which is in use already", structure.name());
            self.report.damage(place, problem);
            return false;
        }
        if id
            .position(structure, self.group.state.core.au_bytes)
            .is_some()
            && id.item() == 0
        {
            self.owners.share(au, owner, self.report);
        }
        true
    }

    fn check_file(&mut self, path: &str, node: &Node) -> Result<(), DssError> {
        let au_bytes = self.group.state.core.au_bytes;
        let units = usize::try_from(node.size_bytes / au_bytes).unwrap_or(usize::MAX);
        let Some(entry) = node.entry() else {
            if units > 0 {
                self.report.damage(path, "has bytes and no map");
            }
            return Ok(());
        };
        if !self.claim(Structure::FsBlock, entry, path) {
            return Ok(());
        }
        let Some(slot) = self.fetch(Structure::FsBlock, entry, path)? else {
            return Ok(());
        };
        let block = FsBlock::parse(&slot, entry).expect("it was parsed when it was fetched");
        self.check_used_fs_block(path, node, entry, &block, ENTRY_BLOCK_INDEX);
        let needed = units.div_ceil(FS_BLOCK_ENTRIES);
        let listed = usize::from(block.used);
        if listed < needed || listed > needed.max(1) {
            let problem = format!("its map has {listed} blocks and needs {needed}");
            self.report.damage(path, problem);
        }
        for number in 0..listed.max(needed).min(FS_BLOCK_ENTRIES) {
            let id = block.entry(number);
            let here = units.saturating_sub(number * FS_BLOCK_ENTRIES);
            self.check_part(path, node, id, number, here.min(FS_BLOCK_ENTRIES))?;
        }
        if matches!(node.kind, NodeKind::Link { .. }) {
            self.check_link(path, node)?;
        }
        Ok(())
    }

    fn check_used_fs_block(
        &mut self,
        path: &str,
        node: &Node,
        id: BlockId,
        block: &FsBlock<'_>,
        index: u16,
    ) {
        if block.head.state != BlockState::Used
            || block.owner != node.id
            || block.index != index
            || block.next != BlockId::NONE
        {
            let (owner, found) = (block.owner, block.index);
            let problem = format!(
                "FS block {id} of its map is {:?}, of node {owner}, number {found:x}, before {}",
                block.head.state, block.next
            );
            self.report.damage(path, problem);
        }
    }

    fn check_part(
        &mut self,
        path: &str,
        node: &Node,
        id: BlockId,
        number: usize,
        units: usize,
    ) -> Result<(), DssError> {
        if !self.claim(Structure::FsBlock, id, path) {
            return Ok(());
        }
        let Some(slot) = self.fetch(Structure::FsBlock, id, path)? else {
            return Ok(());
        };
        let block = FsBlock::parse(&slot, id).expect("it was parsed when it was fetched");
        let index = u16::try_from(number).expect("at most 2041");
        self.check_used_fs_block(path, node, id, &block, index);
        let used = usize::from(block.used);
        if used != units {
            // The server's own recovery leaves it so, and reads by the size.
            let problem = format!("FS block {id} counts {used} units, the size needs {units}");
            self.report.warning(path, problem);
        }
        for position in 0..units {
            self.check_entry(path, node, block.entry(position), position)?;
        }
        Ok(())
    }

    fn check_entry(
        &mut self,
        path: &str,
        node: &Node,
        entry: BlockId,
        position: usize,
    ) -> Result<(), DssError> {
        let mut unit = entry;
        if node.flags & NODE_INNER_INITED != 0 && entry.has_flag() && !entry.is_nothing() {
            let id = entry.without_item();
            if entry.item() != 1 {
                self.report
                    .damage(path, format!("entry {position} is {entry}"));
            }
            if !self.claim(Structure::AuxBlock, id, path) {
                return Ok(());
            }
            let Some(slot) = self.fetch(Structure::AuxBlock, id, path)? else {
                return Ok(());
            };
            let au_bytes = self.group.state.core.au_bytes;
            let block =
                AuxBlock::parse(&slot, id, au_bytes).expect("it was parsed when it was fetched");
            // What a truncation split off keeps the file and the number that it was of.
            let is_own = block.owner == node.id && usize::from(block.index) == position;
            if block.head.state != BlockState::Used
                || block.next != BlockId::NONE
                || !(is_own || node.name.contains(SPLIT_OFF))
            {
                let (owner, index) = (block.owner, block.index);
                let problem = format!(
                    "FS-aux block {id} is {:?}, of node {owner}, number {index:x}, followed by {}",
                    block.head.state, block.next
                );
                self.report.damage(path, problem);
            }
            unit = match block.data.has_flag() && !block.data.is_nothing() {
                true => block.data.without_item(),
                false => block.data,
            };
        }
        if unit != unit.whole_au() || unit.is_nothing() {
            let problem = format!("entry {position} leads to {unit}, which is no unit");
            self.report.damage(path, problem);
            return Ok(());
        }
        self.owners.own(unit, Owner::Data(node.id), self.report);
        Ok(())
    }

    fn check_link(&mut self, path: &str, node: &Node) -> Result<(), DssError> {
        let target = self.group.read_link(node);
        let Some(target) = usable(target, path, self.report)? else {
            return Ok(());
        };
        if !target.starts_with('+') || target.chars().any(char::is_control) {
            let target = target.escape_debug();
            self.report
                .damage(path, format!("leads to \"{target}\", no path of a group"));
        }
        Ok(())
    }

    fn check_free_fs_blocks(&mut self) -> Result<(), DssError> {
        let list = self.group.state.core.free_fs_blocks;
        let place = "list of free FS blocks";
        let next = self.walk_free(list, Structure::FsBlock, place)?;
        if next.is_some_and(|next| next != BlockId::NONE) {
            self.report.damage(place, "goes on behind its end");
        }
        Ok(())
    }

    fn check_free_aux_blocks(&mut self) -> Result<(), DssError> {
        let list = self.group.state.core.free_aux_blocks;
        // What the end is followed by differs: 0 after the first unit, none later.
        let place = "list of free FS-aux blocks";
        let next = self.walk_free(list, Structure::AuxBlock, place)?;
        if next.is_some_and(|next| next != BlockId::NONE && next != BlockId(0)) {
            self.report.damage(place, "goes on behind its end");
        }
        Ok(())
    }

    /// Walks a list of free blocks; returns what the last one is followed by.
    fn walk_free(
        &mut self,
        list: FreeList,
        structure: Structure,
        place: &str,
    ) -> Result<Option<BlockId>, DssError> {
        let au_bytes = self.group.state.core.au_bytes;
        let (mut next, mut last) = (list.first, BlockId::NONE);
        for _ in 0..list.count {
            let id = next;
            if !self.claim(structure, id, place) {
                return Ok(None);
            }
            let Some(slot) = self.fetch(structure, id, place)? else {
                return Ok(None);
            };
            let (head, owner, index);
            if structure == Structure::AuxBlock {
                let block = AuxBlock::parse(&slot, id, au_bytes).expect("parsed when fetched");
                (head, owner, index, next) = (block.head, block.owner, block.index, block.next);
            } else {
                let block = FsBlock::parse(&slot, id).expect("parsed when fetched");
                (head, owner, index, next) = (block.head, block.owner, block.index, block.next);
            }
            if head.state != BlockState::Free
                || !owner.is_nothing()
                || ![FREE_BLOCK_INDEX, u16::MAX].contains(&index)
            {
                let state = head.state;
                let problem = format!("{id} is {state:?}, of node {owner}, number {index:x}");
                self.report.damage(place, problem);
            }
            last = id;
        }
        if list.count == 0 {
            return Ok(None);
        }
        if last != list.last {
            self.report
                .damage(place, format!("ends with {last}, not with {}", list.last));
        }
        Ok(Some(next))
    }

    /// All blocks of a unit are used or free.
    fn check_counts(&mut self) {
        let au_bytes = self.group.state.core.au_bytes;
        for (structure, owner, found) in [
            (Structure::FsBlock, Owner::FsBlocks, self.fs_blocks.len()),
            (Structure::AuxBlock, Owner::AuxBlocks, self.aux_blocks.len()),
        ] {
            let expected = self.owners.count(owner) * structure.per_au(au_bytes);
            if expected != found as u64 {
                let name = structure.name();
                let problem = format!("{found} are used or free, there are {expected}");
                self.report.damage(&format!("{name}s"), problem);
            }
        }
    }
}
