//! Nodes of the file table: the lists that they are in, taking free ones, giving them back.

use super::GroupWriter;
use crate::format::dss::{
    BlockId, BlockState, FileTableBlock, FreeList, NODE_BYTES, Node, NodeKind, RedoEntry, Structure,
};
use crate::storage::dss::DssError;
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// Nodes that an operation changes, each as it will be in the end.
#[derive(Debug, Default)]
pub(super) struct Edits {
    nodes: BTreeMap<BlockId, Node>,
}

impl Edits {
    /// A node to be changed.
    pub(super) fn node(
        &mut self,
        writer: &GroupWriter,
        id: BlockId,
    ) -> Result<&mut Node, DssError> {
        let node = match self.nodes.remove(&id) {
            Some(node) => node,
            None => {
                let node = writer.nodes.get(&id).cloned();
                node.ok_or_else(|| writer.damaged(format!("there is no node {id}")))?
            }
        };
        Ok(self.nodes.entry(id).or_insert(node))
    }

    fn directory(
        &mut self,
        writer: &GroupWriter,
        id: BlockId,
    ) -> Result<(&mut u32, &mut BlockId, &mut BlockId), DssError> {
        match &mut self.node(writer, id)?.kind {
            NodeKind::Directory { count, first, last } => Ok((count, first, last)),
            _ => Err(writer.damaged(format!("{id} has children and is no directory"))),
        }
    }

    /// Takes a node out of its directory.
    pub(super) fn detach(&mut self, writer: &GroupWriter, id: BlockId) -> Result<(), DssError> {
        let node = self.node(writer, id)?;
        let (parent, previous, next) = (node.parent, node.previous, node.next);
        if previous != BlockId::NONE {
            self.node(writer, previous)?.next = next;
        }
        if next != BlockId::NONE {
            self.node(writer, next)?.previous = previous;
        }
        let (count, first, last) = self.directory(writer, parent)?;
        *count = count.saturating_sub(1);
        if *first == id {
            *first = next;
        }
        if *last == id {
            *last = previous;
        }
        Ok(())
    }

    /// Puts a node that is in no directory at the end of one.
    pub(super) fn append(
        &mut self,
        writer: &GroupWriter,
        id: BlockId,
        parent: BlockId,
    ) -> Result<(), DssError> {
        let (count, first, last) = self.directory(writer, parent)?;
        let previous = *last;
        *count += 1;
        *last = id;
        if *first == BlockId::NONE {
            *first = id;
        }
        if previous != BlockId::NONE {
            self.node(writer, previous)?.next = id;
        }
        let node = self.node(writer, id)?;
        node.parent = parent;
        node.previous = previous;
        node.next = BlockId::NONE;
        Ok(())
    }

    /// All that were changed.
    pub(super) fn finish(self) -> Vec<Node> {
        self.nodes.into_values().collect()
    }
}

impl GroupWriter {
    /// The node as it will be stored.
    fn stored(&self, node: &Node) -> Result<[u8; NODE_BYTES], DssError> {
        let mut bytes = self.node_bytes(node.id)?;
        node.put(&mut bytes);
        Ok(bytes)
    }

    /// Sets nodes that are in use.
    pub(super) fn set_nodes(&mut self, nodes: Vec<Node>) -> Result<(), DssError> {
        let mut nodes = nodes;
        // The order of a map is no reason for entries to be in it, but tests may compare.
        nodes.sort_by_key(|node| node.id);
        for nodes in nodes.chunks(3) {
            let stored = nodes.iter().map(|node| self.stored(node));
            let stored: Vec<_> = stored.collect::<Result<_, _>>()?;
            self.push(RedoEntry::set_nodes(&stored))?;
        }
        Ok(())
    }

    /// The node that comes to be used next; makes a unit one of the file table if none is free.
    pub(super) fn next_node(&mut self) -> Result<BlockId, DssError> {
        let free = self.controls.node_table().free();
        if free.first != BlockId::NONE {
            return Ok(free.first);
        }
        let unit = self.take_unit()?;
        if self.controls.node_table().free().first == BlockId::NONE {
            let blocks = Structure::FileTableBlock.per_au(self.au_bytes);
            self.push(RedoEntry::format_table(&self.controls, unit, blocks))?;
        } else {
            // The unit was the last one of a file in `.recycle`, whose node is free now. The server
            // forgets free nodes when it makes more.
            self.format_space(unit)?;
        }
        Ok(self.controls.node_table().free().first)
    }

    /// Uses the next free node, at the end of a directory.
    pub(super) fn allocate_node(
        &mut self,
        parent: BlockId,
        name: &str,
        kind: NodeKind,
        flags: u32,
        size_bytes: u64,
    ) -> Result<(), DssError> {
        let id = self.next_node()?;
        let slot = self.block(Structure::FileTableBlock, id)?;
        let parsed = FileTableBlock::parse(&slot, id);
        let block = parsed.map_err(|source| self.damaged(format!("node {id}: {source}")))?;
        if block.head.state != BlockState::Free || block.node_links() != (id, BlockId::FREE) {
            return Err(self.damaged(format!("{id} is in the list of free nodes and is not free")));
        }
        let mut table = self.controls.node_table();
        let free = table.free();
        let first = block.next_free();
        let last = match first {
            BlockId::NONE => BlockId::NONE,
            _ => free.last,
        };
        table.set_free(FreeList {
            count: free.count.saturating_sub(1),
            first,
            last,
        });
        let created = now();
        let node = Node {
            kind,
            created,
            updated: created,
            flags,
            size_bytes,
            id,
            next: BlockId::NONE,
            previous: BlockId::NONE,
            name: name.into(),
            fid: table.take_fid(),
            written_bytes: 0,
            parent,
            truncations: 0,
            initialised_bytes: 0,
        };
        let mut edits = Edits::default();
        edits.nodes.insert(id, node);
        edits.append(self, id, parent)?;
        let node = edits.nodes[&id].clone();
        let mut bytes = [0; NODE_BYTES];
        node.put(&mut bytes);
        let previous = match node.previous {
            BlockId::NONE => None,
            previous => Some(self.stored(&edits.nodes[&previous])?),
        };
        let parent = self.stored(&edits.nodes[&parent])?;
        let entry = RedoEntry::allocate_node(&table, &bytes, previous.as_ref(), &parent);
        self.push(entry)
    }

    /// Frees a node that holds nothing.
    pub(super) fn free_node(&mut self, id: BlockId) -> Result<(), DssError> {
        let node = self.node(id)?.clone();
        let mut edits = Edits::default();
        edits.detach(self, id)?;
        let mut table = self.controls.node_table();
        let free = table.free();
        let last = match free.first {
            BlockId::NONE => id,
            _ => free.last,
        };
        table.set_free(FreeList {
            count: free.count + 1,
            first: id,
            last,
        });
        let mut bytes = self.node_bytes(id)?;
        Node::put_free(&mut bytes, free.first, now());
        let sibling = |sibling: BlockId| match sibling {
            BlockId::NONE => Ok(None),
            sibling => self.stored(&edits.nodes[&sibling]).map(Some),
        };
        let siblings = [sibling(node.previous)?, sibling(node.next)?];
        let parent = self.stored(&edits.nodes[&node.parent])?;
        let siblings = siblings.each_ref().map(Option::as_ref);
        let entry = RedoEntry::free_node(&table, &parent, siblings, &bytes);
        self.push(entry)
    }
}
