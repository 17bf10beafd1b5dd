//! The file table and the tree of directories in it.

use super::super::table::each_block;
use super::super::{DssError, VolumeGroup};
use super::CheckReport;
use super::owners::{Owner, Owners};
use crate::format::dss::{
    BlockId, BlockState, FileTableBlock, NODE_INNER_INITED, NODE_SYSTEM, Node, NodeKind, Structure,
};
use std::collections::{HashMap, HashSet};

const NODE_NORMAL: u32 = 4;
const NODE_MAP_INVALID: u32 = 8;
const NODE_FLAGS: u32 = NODE_SYSTEM | 2 | NODE_NORMAL | NODE_MAP_INVALID | NODE_INNER_INITED;

/// A file or link with its path.
pub(super) type File = (String, Node);

/// Free blocks and the ones behind them in their list.
type FreeBlocks = HashMap<BlockId, BlockId>;

pub(super) fn check(
    group: &mut VolumeGroup,
    owners: &mut Owners,
    report: &mut CheckReport,
) -> Result<Vec<File>, DssError> {
    let free = check_table(group, owners, report)?;
    check_free(group, free, report);
    let mut tree = Tree {
        group,
        report,
        seen: HashSet::new(),
        fids: HashMap::new(),
        files: Vec::new(),
        pending: Vec::new(),
    };
    tree.check();
    Ok(tree.files)
}

/// Every block of the table, and that they are one chain.
fn check_table(
    group: &mut VolumeGroup,
    owners: &mut Owners,
    report: &mut CheckReport,
) -> Result<FreeBlocks, DssError> {
    let structure = Structure::FileTableBlock;
    let units = group.state.table.aus.clone();
    let mut free = FreeBlocks::new();
    let mut last = BlockId::ROOT;
    for (number, unit) in units.iter().enumerate() {
        owners.own(*unit, Owner::FileTable, report);
        let next_unit = units.get(number + 1).copied().unwrap_or(BlockId::NONE);
        let end = structure.per_au(group.state.core.au_bytes);
        last = unit.with_block(end - 1);
        each_block(&mut group.blocks(), *unit, |id, slot| {
            let place = format!("file table block {id}");
            let parsed = structure
                .verify(slot)
                .and_then(|()| FileTableBlock::parse(slot, id));
            let block = match parsed {
                Ok(block) => block,
                Err(error) => return report.damage(&place, error.to_string()),
            };
            let next = match id.block() + 1 {
                number if number == end => next_unit,
                number => unit.with_block(number),
            };
            if block.next != next {
                let problem = format!("is followed by {}, not by {next}", block.next);
                report.damage(&place, problem);
            }
            let (own, parent) = block.node_links();
            if own != id {
                report.damage(&place, format!("its node says that it is {own}"));
            }
            match block.head.state {
                BlockState::Used => {}
                BlockState::Free => {
                    if parent != BlockId::FREE {
                        report.damage(&place, format!("is free and has parent {parent}"));
                    }
                    free.insert(id, block.next_free());
                }
                BlockState::Unknown(state) => {
                    report.damage(&place, format!("its state is {state}"));
                }
            }
        })?;
    }
    for (id, error) in &group.state.table.damaged {
        // Those that each_block did not find wrong: the node is.
        report.damage(&format!("node {id}"), error.to_string());
    }
    if group.state.root.last != last {
        let problem = format!(
            "names {} as the last block, it is {last}",
            group.state.root.last
        );
        report.damage("root block", problem);
    }
    Ok(free)
}

/// The list of free nodes has all free blocks, once.
fn check_free(group: &VolumeGroup, mut free: FreeBlocks, report: &mut CheckReport) {
    let list = group.state.root.free_nodes;
    let place = "list of free nodes";
    if free.len() as u64 != list.count {
        let (free, count) = (free.len(), list.count);
        report.damage(place, format!("counts {count} nodes, there are {free}"));
    }
    let (mut next, mut last) = (list.first, BlockId::NONE);
    let mut walked = 0;
    while walked < list.count {
        let Some(behind) = free.remove(&next) else {
            report.damage(place, format!("leads to {next} behind {last}"));
            return;
        };
        (last, next) = (next, behind);
        walked += 1;
    }
    if next != BlockId::NONE {
        report.damage(place, format!("goes on behind its end, to {next}"));
    }
    if last != list.last {
        report.damage(place, format!("ends with {last}, not with {}", list.last));
    }
}

/// The walk through the directories.
struct Tree<'a> {
    group: &'a VolumeGroup,
    report: &'a mut CheckReport,
    seen: HashSet<BlockId>,
    fids: HashMap<u64, BlockId>,
    files: Vec<File>,
    pending: Vec<File>,
}

impl Tree<'_> {
    fn check(&mut self) {
        let root = self.group.root().clone();
        let name = self.group.name().to_owned();
        if *root.name != *name {
            let problem = format!("is called {}, the group {name}", root.name);
            self.report.damage("root directory", problem);
        }
        for (what, id) in [("next", root.next), ("previous", root.previous)] {
            if id != BlockId::NONE {
                let problem = format!("has {id} as {what} sibling");
                self.report.damage("root directory", problem);
            }
        }
        if !root.parent.is_root() || root.flags != 0 {
            self.report
                .damage("root directory", "has a parent or flags");
        }
        self.pending.push((format!("+{name}"), root));
        while let Some((path, directory)) = self.pending.pop() {
            self.check_directory(&path, &directory);
        }
        let table = &self.group.state.table;
        self.report.nodes = self.seen.len() as u64;
        for (id, node) in &table.nodes {
            if !self.seen.contains(id) {
                let place = format!("node {id}");
                let problem = format!("{} is in use and in no directory", node.name);
                self.report.damage(&place, problem);
            }
        }
    }

    fn check_directory(&mut self, path: &str, directory: &Node) {
        let NodeKind::Directory { count, first, last } = directory.kind else {
            return;
        };
        if directory.size_bytes != 0 || directory.written_bytes != 0 {
            self.report.damage(path, "is a directory and has bytes");
        }
        let mut names = HashSet::new();
        let (mut next, mut previous) = (first, BlockId::NONE);
        for number in 0..count {
            let Some(child) = self.group.state.table.nodes.get(&next) else {
                let problem = format!("has {count} children, but child {number} is {next}");
                return self.report.damage(path, problem);
            };
            let child_path = format!("{path}/{}", child.name);
            if !self.seen.insert(child.id) {
                return self.report.damage(&child_path, "is met a second time");
            }
            if child.parent != directory.id {
                let problem = format!("has parent {}, not {}", child.parent, directory.id);
                self.report.damage(&child_path, problem);
            }
            if child.previous != previous {
                let problem = format!("follows {previous}, not {}", child.previous);
                self.report.damage(&child_path, problem);
            }
            if !child.is_deleted() && !names.insert(&child.name) {
                self.report.damage(&child_path, "has the name of another");
            }
            self.check_node(&child_path, child);
            let list = match child.is_directory() {
                true => &mut self.pending,
                false => &mut self.files,
            };
            list.push((child_path, child.clone()));
            (previous, next) = (child.id, child.next);
        }
        if next != BlockId::NONE && count > 0 {
            let problem = format!("has {count} children, and {next} follows the last");
            self.report.damage(path, problem);
        }
        if previous != last || (count == 0 && first != BlockId::NONE) {
            let problem = format!("has {last} as its last child, but that is {previous}");
            self.report.damage(path, problem);
        }
    }

    fn check_node(&mut self, path: &str, node: &Node) {
        let state = &self.group.state;
        if node.fid >= state.root.next_fid {
            let next = state.root.next_fid;
            let problem = format!("has fid {}, but the next one is {next}", node.fid);
            self.report.damage(path, problem);
        }
        if let Some(other) = self.fids.insert(node.fid, node.id) {
            let problem = format!("has fid {}, as node {other}", node.fid);
            self.report.damage(path, problem);
        }
        let is_recycle = node.id == state.core.recycle;
        let is_system = node.flags & NODE_SYSTEM != 0;
        let is_normal = node.flags & NODE_NORMAL != 0;
        if node.flags & !NODE_FLAGS != 0 || is_system != is_recycle || is_normal == is_recycle {
            self.report
                .damage(path, format!("has flags {:#x}", node.flags));
        }
        if node.flags & NODE_MAP_INVALID != 0 {
            self.report.warning(path, "is being truncated");
        }
        if node.is_directory() {
            return;
        }
        let (size, written) = (node.size_bytes, node.written_bytes);
        if !size.is_multiple_of(state.core.au_bytes) {
            self.report
                .damage(path, format!("occupies {size} bytes, no whole units"));
        }
        if written > size {
            self.report
                .damage(path, format!("has {written} bytes and occupies {size}"));
        }
        if node.initialised_bytes > size {
            let initialised = node.initialised_bytes;
            let problem = format!("has {initialised} bytes written and occupies {size}");
            self.report.damage(path, problem);
        }
        if matches!(node.kind, NodeKind::Link { .. })
            && (size != state.core.au_bytes || written != 0)
        {
            self.report
                .damage(path, format!("is a link of {size} and {written} bytes"));
        }
    }
}
