//! The file table in memory: every node that is in use, by its id.
//!
//! Each unit of the table is read in whole extents. The blocks of a unit follow each other in the
//! chain, and the last one names the first of the next unit.

use super::DssError;
use super::overlay::Blocks;
use super::reader::Piece;
use crate::format::dss::{
    BlockId, BlockState, DssFormatError, FileTableBlock, Node, RootBlock, Structure,
};
use crate::limits::EXTENT_BYTES_MAX;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

const BLOCK: usize = Structure::FileTableBlock.bytes();

/// What is known of the file table.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) nodes: HashMap<BlockId, Node>,
    /// Blocks that cannot be used, and why.
    pub(super) damaged: HashMap<BlockId, DssFormatError>,
    /// The units of the table, in the order of the chain.
    pub(super) aus: Vec<BlockId>,
}

impl Table {
    /// Reads the table.
    pub(super) fn load(blocks: &mut Blocks<'_>, root: &RootBlock) -> Result<Table, DssError> {
        let mut table = Table::default();
        let mut seen = HashSet::new();
        let mut au = root.first;
        while au != BlockId::NONE {
            if au != au.whole_au() || !seen.insert(au) {
                let what = format!("the chain of the file table leads to {au}");
                return Err(blocks.devices.damaged(what));
            }
            table.aus.push(au);
            let last = au.with_block(Structure::FileTableBlock.per_au(blocks.au_bytes) - 1);
            let mut next = None;
            each_block(blocks, au, |id, slot| match use_block(id, slot) {
                Ok((behind, node)) => {
                    table.nodes.extend(node.map(|node| (id, node)));
                    if id == last {
                        next = Some(behind);
                    }
                }
                Err(error) => {
                    table.damaged.insert(id, error);
                }
            })?;
            au = match next {
                Some(next) => next,
                // Nothing behind it is lost.
                None if root.last == last => BlockId::NONE,
                None => {
                    let error = table.damaged.get(&last).cloned();
                    let error = error.unwrap_or(DssFormatError::NotInitialised);
                    return Err(blocks.structure(Structure::FileTableBlock, last, error));
                }
            };
        }
        Ok(table)
    }
}

/// The block behind this one, and its node if it is in use.
fn use_block(id: BlockId, slot: &[u8]) -> Result<(BlockId, Option<Node>), DssFormatError> {
    Structure::FileTableBlock.verify(slot)?;
    let block = FileTableBlock::parse(slot, id)?;
    if block.head.state == BlockState::Free {
        return Ok((block.next, None));
    }
    let node = Node::parse(block.node)?;
    if node.id != id {
        return Err(DssFormatError::Field {
            what: "node",
            field: "id",
            value: node.id.0,
        });
    }
    Ok((block.next, Some(node)))
}

/// Calls `act` with every block of a unit of the table, in any order.
pub(super) fn each_block(
    blocks: &mut Blocks<'_>,
    au: BlockId,
    mut act: impl FnMut(BlockId, &[u8]),
) -> Result<(), DssError> {
    let structure = Structure::FileTableBlock;
    let count = structure.per_au(blocks.au_bytes);
    let (overlay, au_bytes) = (blocks.overlay, blocks.au_bytes);
    let (_, start) = blocks.devices.place(structure, au, au_bytes)?;
    let (device, _) = blocks
        .devices
        .place(structure, au.with_block(count - 1), au_bytes)?;
    let extent = EXTENT_BYTES_MAX as u64;
    let pieces: Vec<Piece> = (0..au_bytes / extent)
        .map(|number| Piece {
            file: Arc::clone(&device.file),
            offset: start + number * extent,
            length: EXTENT_BYTES_MAX,
        })
        .collect();
    let is_changed = overlay.touches(au);
    blocks.reader.read_all(&pieces, |piece, bytes| {
        let first = (piece * (EXTENT_BYTES_MAX / BLOCK)) as u64;
        for (number, slot) in (first..).zip(bytes.chunks_exact(BLOCK)) {
            let id = au.with_block(number);
            let changed = is_changed.then(|| overlay.get(structure, id, au_bytes));
            match changed.flatten() {
                Some(mut block) => {
                    structure.seal(&mut block);
                    act(id, &block);
                }
                None => act(id, slot),
            }
        }
        Ok(())
    })
}
