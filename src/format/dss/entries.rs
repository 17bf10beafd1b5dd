//! The entries that redo batches are made of, and the fields of controls that they come from.
//!
//! Every entry sets what it changes to a value, so that it can be applied again. Two of the
//! server's own are not used for that reason or another:
//!
//! * Type 7, a file's size, counts a truncation each time it is applied. Type 6 sets whole nodes,
//!   up to three of any kind; the server's recovery skips those whose id is none.
//! * Type 19, many entries of an FS block, leaves the number of used entries to the next change
//!   when the server recovers. So its last entry is set again by type 13, which sets the number.
//!
//! Source: `dss_redo.h`, the `dss_redo_*_t` structures.

use super::file_table::NODE_BYTES;
use super::replay::{CORE_AUX_ROOT, CORE_FS_ROOT, ROOT_TABLE, ROOT_TABLE_BYTES};
use super::volume::put_text;
use super::{BlockId, Controls, DssFormatError, FreeList, RedoEntry, VolumeAttributes};
use crate::format::little_endian::{put_u32, put_u64, u32_at, u64_at};

const RECYCLE_AT: usize = 96;
const TAKEN_AT: usize = 104;
const VOLUMES_AT: usize = 512;
const VOLUME_BYTES: usize = 32;

/// A node as it is stored.
type NodeBytes = [u8; NODE_BYTES];

/// What the root block says of nodes: the free ones, the next fid, the ends of the chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeTable {
    bytes: [u8; ROOT_TABLE_BYTES],
}

impl NodeTable {
    /// The free nodes.
    #[must_use]
    pub fn free(&self) -> FreeList {
        FreeList {
            count: u32_at(&self.bytes, 0).into(),
            first: BlockId(u64_at(&self.bytes, 8)),
            last: BlockId(u64_at(&self.bytes, 16)),
        }
    }

    /// Sets the free nodes.
    ///
    /// # Panics
    /// When there are more than 2^32.
    pub fn set_free(&mut self, list: FreeList) {
        let count = u32::try_from(list.count).expect("fewer than 2^32 nodes");
        put_u32(&mut self.bytes, 0, count);
        put_u64(&mut self.bytes, 8, list.first.0);
        put_u64(&mut self.bytes, 16, list.last.0);
    }

    /// The number of the next node, which is then another one.
    pub fn take_fid(&mut self) -> u64 {
        let fid = u64_at(&self.bytes, 48);
        put_u64(&mut self.bytes, 48, fid.wrapping_add(1));
        fid
    }

    /// The last block of the chain.
    #[must_use]
    pub fn last_block(&self) -> BlockId {
        BlockId(u64_at(&self.bytes, 64))
    }
}

impl Controls {
    /// What the root block says of nodes.
    ///
    /// # Panics
    /// When the slots have not the lengths of their structures; so do the others.
    #[must_use]
    pub fn node_table(&self) -> NodeTable {
        let bytes = &self.root[ROOT_TABLE..ROOT_TABLE + ROOT_TABLE_BYTES];
        NodeTable {
            bytes: bytes.try_into().expect("as many bytes"),
        }
    }

    /// The free FS blocks.
    #[must_use]
    pub fn free_fs_blocks(&self) -> FreeList {
        FreeList::at(&self.core, CORE_FS_ROOT + 8)
    }

    /// Sets the free FS blocks.
    pub fn set_free_fs_blocks(&mut self, list: FreeList) {
        put_list(&mut self.core, CORE_FS_ROOT + 8, list);
    }

    /// The free FS-aux blocks.
    #[must_use]
    pub fn free_aux_blocks(&self) -> FreeList {
        FreeList::at(&self.core, CORE_AUX_ROOT + 8)
    }

    /// The directory `.recycle`.
    #[must_use]
    pub fn recycle(&self) -> BlockId {
        BlockId(u64_at(&self.core, RECYCLE_AT))
    }

    /// How much of a volume is handed out.
    #[must_use]
    pub fn volume(&self, volume: u16) -> VolumeAttributes {
        let at = VOLUMES_AT + VOLUME_BYTES * usize::from(volume);
        VolumeAttributes {
            id: volume,
            size_bytes: u64_at(&self.core, at + 8),
            used_bytes: u64_at(&self.core, at + 16),
            free_bytes: u64_at(&self.core, at + 24),
        }
    }

    /// Hands out the next units of a volume, and returns the first.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn take_units(&mut self, volume: u16, count: u64, au_bytes: u64) -> BlockId {
        let attributes = self.volume(volume);
        let bytes = count * au_bytes;
        assert!(count > 0 && attributes.free_bytes >= bytes);
        let at = VOLUMES_AT + VOLUME_BYTES * usize::from(volume);
        put_u64(&mut self.core, at + 16, attributes.used_bytes + bytes);
        put_u64(&mut self.core, at + 24, attributes.free_bytes - bytes);
        let taken = u64_at(&self.core, TAKEN_AT);
        put_u64(&mut self.core, TAKEN_AT, taken + count);
        BlockId::new(volume, attributes.used_bytes / au_bytes, 0)
    }
}

fn put_list(bytes: &mut [u8], at: usize, list: FreeList) {
    put_u64(bytes, at, list.count);
    put_u64(bytes, at + 8, list.first.0);
    put_u64(bytes, at + 16, list.last.0);
}

fn ids(ids: &[BlockId]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.0.to_le_bytes()).collect()
}

fn numbers(numbers: &[u16]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

/// A node that an entry leaves alone.
fn no_node() -> NodeBytes {
    let mut node = [0; NODE_BYTES];
    put_u64(&mut node, 64, BlockId::NONE.0);
    node
}

#[expect(
    clippy::missing_panics_doc,
    reason = "said once above: slots have the lengths of their structures"
)]
impl RedoEntry {
    fn new(kind: u32, payload: Vec<u8>) -> RedoEntry {
        RedoEntry { kind, payload }
    }

    /// The core control is as it is, as far as volumes below `volumes` go.
    #[must_use]
    pub fn core(controls: &Controls, volumes: usize) -> RedoEntry {
        let length = VOLUMES_AT + VOLUME_BYTES * volumes;
        RedoEntry::new(0, controls.core[..length].to_vec())
    }

    /// A device becomes a volume of the group.
    ///
    /// # Errors
    /// Where its path does not fit.
    pub fn add_volume(
        controls: &Controls,
        attributes: VolumeAttributes,
        device: &str,
    ) -> Result<RedoEntry, DssFormatError> {
        /// Bytes of attributes and definition, each in a sector.
        const SECTOR: usize = 512;
        let volume = usize::from(attributes.id);
        let mut payload = vec![0; 2 * SECTOR + 24];
        put_u64(&mut payload, 0, u64::from(attributes.id) << 1);
        put_u64(&mut payload, 8, attributes.size_bytes);
        put_u64(&mut payload, 16, attributes.used_bytes);
        put_u64(&mut payload, 24, attributes.free_bytes);
        // State 1, occupied, behind 16 bits of id.
        put_u64(&mut payload, SECTOR, u64::from(attributes.id) | 1 << 16);
        let version = u64_at(&controls.volumes, SECTOR + 256 * volume + 8);
        put_u64(&mut payload, SECTOR + 8, version.wrapping_add(1));
        put_text(&mut payload, SECTOR + 16, device)?;
        put_u32(&mut payload, 2 * SECTOR, 1);
        let count = u32_at(&controls.core, 20);
        put_u32(&mut payload, 2 * SECTOR + 4, count.wrapping_add(1));
        let core = u64_at(&controls.core, 8);
        put_u64(&mut payload, 2 * SECTOR + 8, core.wrapping_add(1));
        let volumes = u64_at(&controls.volumes, 8);
        put_u64(&mut payload, 2 * SECTOR + 16, volumes.wrapping_add(1));
        Ok(RedoEntry::new(1, payload))
    }

    /// A unit becomes one of the file table, with so many blocks.
    #[must_use]
    pub fn format_table(controls: &Controls, au: BlockId, blocks: u64) -> RedoEntry {
        let table = controls.node_table();
        let mut payload = ids(&[au, BlockId(0), table.last_block()]);
        put_u32(&mut payload, 12, u32::try_from(blocks).unwrap_or(u32::MAX));
        payload.extend(&table.bytes[..24]);
        RedoEntry::new(3, payload)
    }

    /// A unit becomes one of FS blocks, so many of them.
    #[must_use]
    pub fn format_space(controls: &Controls, au: BlockId, blocks: u64) -> RedoEntry {
        let mut payload = ids(&[au, BlockId(0)]);
        put_u32(&mut payload, 12, u32::try_from(blocks).unwrap_or(u32::MAX));
        payload.extend(&controls.core[CORE_FS_ROOT + 8..CORE_FS_ROOT + 32]);
        RedoEntry::new(9, payload)
    }

    /// A free node comes to be used, behind its sibling and in its directory.
    #[must_use]
    pub fn allocate_node(
        table: &NodeTable,
        node: &NodeBytes,
        previous: Option<&NodeBytes>,
        parent: &NodeBytes,
    ) -> RedoEntry {
        let previous = previous.copied().unwrap_or_else(no_node);
        let payload = [&table.bytes[..], node, &previous, parent].concat();
        RedoEntry::new(4, payload)
    }

    /// A node becomes free, and what was beside and above it forgets it.
    #[must_use]
    pub fn free_node(
        table: &NodeTable,
        parent: &NodeBytes,
        siblings: [Option<&NodeBytes>; 2],
        node: &NodeBytes,
    ) -> RedoEntry {
        let [previous, next] = siblings.map(|node| node.copied().unwrap_or_else(no_node));
        let payload = [&table.bytes[..], parent, &previous, &next, node].concat();
        RedoEntry::new(5, payload)
    }

    /// Up to three nodes are as they are.
    #[must_use]
    pub fn set_nodes(nodes: &[NodeBytes]) -> RedoEntry {
        let mut payload = nodes.concat();
        for _ in nodes.len()..3 {
            payload.extend(no_node());
        }
        assert_eq!(payload.len(), 3 * NODE_BYTES);
        RedoEntry::new(6, payload)
    }

    /// The first free FS block comes to be used; `rest` are the free ones that are left.
    #[must_use]
    pub fn allocate_fs_block(
        controls: &Controls,
        id: BlockId,
        owner: BlockId,
        index: u16,
        rest: FreeList,
    ) -> RedoEntry {
        let mut payload = ids(&[id, owner]);
        payload.extend(&controls.core[CORE_FS_ROOT..CORE_FS_ROOT + 32]);
        put_list(&mut payload, 24, rest);
        payload.extend(numbers(&[index, 0, 0, 0]));
        RedoEntry::new(10, payload)
    }

    /// An FS block becomes free; the list that it is put in front of is not changed by this.
    #[must_use]
    pub fn free_fs_block(slot: &[u8], next: BlockId) -> RedoEntry {
        let mut payload = slot[..512].to_vec();
        put_u64(&mut payload, 32, next.0);
        RedoEntry::new(11, payload)
    }

    /// A second-level FS block is entered into the entry block.
    #[must_use]
    pub fn enter_fs_block(entry: BlockId, second: BlockId, index: u16) -> RedoEntry {
        let mut payload = ids(&[entry, second]);
        payload.extend(numbers(&[index, index + 1, 0, 0]));
        RedoEntry::new(12, payload)
    }

    /// An entry of an FS block is this, and so many are used.
    #[must_use]
    pub fn set_entry(block: BlockId, index: u16, value: BlockId, used: u16) -> RedoEntry {
        let mut payload = ids(&[block, value, BlockId::NONE]);
        payload.extend(numbers(&[index, used, used, 0]));
        RedoEntry::new(13, payload)
    }

    /// Entries of an FS block from `old` on are these.
    #[must_use]
    pub fn set_entries(block: BlockId, old: u16, values: &[BlockId]) -> RedoEntry {
        let mut payload = ids(&[block]);
        let count = u16::try_from(values.len()).expect("at most 2041");
        payload.extend(numbers(&[old + count, old, 0, 0]));
        payload.extend(ids(values));
        RedoEntry::new(19, payload)
    }

    /// The entries of an FS block behind `kept` become the only ones of another block.
    #[must_use]
    pub fn move_entries(
        source: BlockId,
        target: BlockId,
        kept: u16,
        values: &[BlockId],
    ) -> RedoEntry {
        let mut payload = ids(&[source, target]);
        let count = u16::try_from(values.len()).expect("at most 2041");
        payload.extend(numbers(&[kept, 0, kept + count, 0, count, 0, 0, 0]));
        payload.extend(ids(values));
        RedoEntry::new(21, payload)
    }

    /// An FS-aux block becomes free.
    #[must_use]
    pub fn free_aux_block(controls: &Controls, id: BlockId) -> RedoEntry {
        let list = controls.free_aux_blocks();
        let (next, last) = match list.count {
            0 => (BlockId::NONE, id),
            _ => (list.first, list.last),
        };
        let mut payload = ids(&[id, next]);
        payload.extend(&controls.core[CORE_AUX_ROOT..CORE_AUX_ROOT + 32]);
        let list = FreeList {
            count: list.count + 1,
            first: id,
            last,
        };
        put_list(&mut payload, 24, list);
        RedoEntry::new(17, payload)
    }
}
