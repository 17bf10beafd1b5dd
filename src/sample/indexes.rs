//! Pages of layout 5: B-trees of both kinds, free space and visibility maps, undo.
//!
//! A generated index is one level of leaves between a meta page and, as last page, a root that
//! points to as many leaves as it holds.
//!
//! Source: `nbtree.h`, `knl_ubtree.h` (page opaque data), `fsm_internals.h`, `knl_uundorecord.h`.

use super::page::{
    self, FLAG_CHECKSUM_FNV1A, HEADER_BYTES, Header, LAYOUT_COMMON, put_block_id, put_u16, put_u32,
    put_u64,
};
use super::random::Random;
use super::text::TextPool;
use crate::types::{BlockNumber, Lsn, PAGE_SIZE};

/// What the entries of an index are made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum IndexKey {
    /// A B-tree of row ids.
    Integer,
    /// A B-tree of the first bytes of a text.
    Text,
    /// A ustore B-tree of row ids; entries carry xmin and xmax.
    UstoreInteger,
}

const BTREE_MAGIC: u32 = 0x0005_3162;
const FLAG_LEAF: u16 = 1;
const FLAG_ROOT: u16 = 2;
const FLAG_META: u16 = 8;
const TEXT_KEY_BYTES: usize = 20;

impl IndexKey {
    /// Bytes at the end of a page: links to both neighbours, level, flags and, for ustore,
    /// counters.
    fn special_bytes(self) -> usize {
        match self {
            IndexKey::Integer | IndexKey::Text => 24,
            IndexKey::UstoreInteger => 48,
        }
    }

    fn version(self) -> u32 {
        match self {
            IndexKey::Integer | IndexKey::Text => 3,
            IndexKey::UstoreInteger => 2,
        }
    }

    fn entry_bytes(self) -> usize {
        match self {
            IndexKey::Integer => 16,
            IndexKey::Text => (8 + 1 + TEXT_KEY_BYTES).next_multiple_of(8),
            IndexKey::UstoreInteger => 24,
        }
    }
}

/// Fills a zeroed page of an index of `blocks` blocks.
pub(super) fn fill_index(
    page: &mut [u8],
    block: BlockNumber,
    blocks: u32,
    key: IndexKey,
    random: &mut Random,
    texts: &TextPool,
) {
    if block.0 == 0 {
        fill_index_meta(page, blocks, key, random);
        return;
    }
    let is_root = block.0 + 1 == blocks && blocks > 2;
    let special = PAGE_SIZE - key.special_bytes();
    let entry_bytes = key.entry_bytes();
    // Leaves are filled to 90 percent, as the server builds them.
    let room = (special - HEADER_BYTES) * 9 / 10;
    let mut entries = room / (entry_bytes + 4);
    if is_root {
        let leaves = usize::try_from(blocks - 2).expect("usize holds 32 bits");
        entries = entries.min(leaves);
    }
    let mut upper = special;
    for entry in 0..entries {
        upper -= entry_bytes;
        let number = u32::try_from(entry).expect("a page has few entries");
        let (target, slot) = if is_root {
            (number + 1, 1)
        } else {
            (block.0.wrapping_mul(4) + number / 64, number % 64 + 1)
        };
        put_entry(
            &mut page[upper..upper + entry_bytes],
            key,
            target,
            slot,
            random,
            texts,
        );
        let pointer = page::line_pointer(
            upper,
            if key == IndexKey::UstoreInteger {
                24
            } else {
                entry_bytes
            },
        );
        put_u32(page, HEADER_BYTES + entry * 4, pointer);
    }
    let lower = HEADER_BYTES + entries * 4;
    write_header(page, page::some_lsn(random), lower, upper, special);
    let last_leaf = if blocks > 2 { blocks - 2 } else { blocks - 1 };
    if is_root {
        put_u32(page, special + 8, 1);
        put_u16(page, special + 12, FLAG_ROOT);
    } else {
        put_u32(page, special, block.0 - 1);
        put_u32(
            page,
            special + 4,
            if block.0 < last_leaf { block.0 + 1 } else { 0 },
        );
        put_u16(
            page,
            special + 12,
            FLAG_LEAF | if blocks == 2 { FLAG_ROOT } else { 0 },
        );
    }
}

fn fill_index_meta(page: &mut [u8], blocks: u32, key: IndexKey, random: &mut Random) {
    let special = PAGE_SIZE - key.special_bytes();
    write_header(page, page::some_lsn(random), 56, special, special);
    let level = u32::from(blocks > 2);
    let root = blocks.saturating_sub(1);
    for (field, value) in [BTREE_MAGIC, key.version(), root, level, root, level]
        .into_iter()
        .enumerate()
    {
        put_u32(page, HEADER_BYTES + field * 4, value);
    }
    put_u16(page, special + 12, FLAG_META);
}

/// Row position, length, key: what an index entry is.
fn put_entry(
    entry: &mut [u8],
    key: IndexKey,
    target: u32,
    slot: u32,
    random: &mut Random,
    texts: &TextPool,
) {
    put_block_id(entry, 0, target);
    put_u16(
        entry,
        4,
        u16::try_from(slot).expect("slots of a page fit 16 bits"),
    );
    match key {
        IndexKey::Integer => {
            put_u16(entry, 6, 16);
            put_u32(entry, 8, target.wrapping_mul(64).wrapping_add(slot));
        }
        IndexKey::Text => {
            put_u16(entry, 6, 0x4000 | page::offset16(key.entry_bytes()));
            entry[8] = u8::try_from((TEXT_KEY_BYTES + 1) << 1 | 1).expect("a short value");
            entry[9..9 + TEXT_KEY_BYTES].copy_from_slice(texts.cut(random, TEXT_KEY_BYTES));
        }
        IndexKey::UstoreInteger => {
            put_u16(entry, 6, 16);
            put_u32(entry, 8, target.wrapping_mul(64).wrapping_add(slot));
            put_u32(entry, 16, 2);
        }
    }
}

/// Entries of the free space map's tree above its leaves.
const FSM_INNER_NODES: usize = PAGE_SIZE / 2 - 1;
const FSM_NODES_OFFSET: usize = HEADER_BYTES + 4;
/// Heap blocks that one page of the free space map speaks of.
pub(super) const FSM_LEAF_NODES: usize = PAGE_SIZE - FSM_NODES_OFFSET - FSM_INNER_NODES;

/// Fills a zeroed page of a free space map: a binary tree in an array, each node the greater of its
/// children.
///
/// The first two blocks are the upper levels; they name the first page below them only, as in a
/// small table.
pub(super) fn fill_fsm(page: &mut [u8], block: BlockNumber, random: &mut Random) {
    let nodes = &mut page[FSM_NODES_OFFSET..];
    if block.0 < 2 {
        nodes[FSM_INNER_NODES] = FSM_MOSTLY_FREE;
    } else {
        for leaf in &mut nodes[FSM_INNER_NODES..FSM_INNER_NODES + FSM_LEAF_NODES] {
            *leaf = [0, 0, 3, 5, 5, 5, 7, 12][random.index(8)];
        }
        nodes[FSM_INNER_NODES] = FSM_MOSTLY_FREE;
    }
    for node in (0..FSM_INNER_NODES).rev() {
        // The array ends inside the last level.
        let child = |child: usize| nodes.get(2 * node + child).copied().unwrap_or(0);
        nodes[node] = child(1).max(child(2));
    }
    write_header(page, Lsn::INVALID, HEADER_BYTES, PAGE_SIZE, PAGE_SIZE);
}

const FSM_MOSTLY_FREE: u8 = 0xF2;

/// Fills a zeroed page of a visibility map: one bit a heap block.
pub(super) fn fill_vm(page: &mut [u8], block: BlockNumber, random: &mut Random) {
    for byte in page[HEADER_BYTES..].iter_mut() {
        *byte = if random.below(8) == 0 { 0x7F } else { 0xFF };
    }
    write_header(page, Lsn::INVALID, HEADER_BYTES, PAGE_SIZE, PAGE_SIZE);
}

const UNDO_RECORD_BYTES: usize = 42;

/// Fills a zeroed page with undo records of inserts.
pub(super) fn fill_undo(page: &mut [u8], block: BlockNumber, random: &mut Random) {
    let xid = page::XID_BASE + 8;
    let page_start = u64::from(block.0) * (PAGE_SIZE as u64);
    let records = page[HEADER_BYTES + 8..].chunks_exact_mut(UNDO_RECORD_BYTES);
    for (record, number) in records.zip(0_u32..) {
        put_u64(record, 0, xid);
        put_u32(record, 12, 16_395);
        put_u32(record, 16, 16_395);
        put_u32(record, 20, 16_385);
        put_u64(record, 24, page_start + u64::from(number) * 42);
        put_u32(record, 34, block.0);
        put_u16(record, 38, page::offset16(random.index(150)));
        put_u16(record, 40, 42);
    }
    write_header(page, page::some_lsn(random), 0x42, PAGE_SIZE, PAGE_SIZE);
    put_u64(page, 24, xid);
}

/// Fills a zeroed page with an undo zone's transaction slots.
pub(super) fn fill_undo_slots(page: &mut [u8], block: BlockNumber, random: &mut Random) {
    for (slot, number) in page[32..].chunks_exact_mut(32).take(20).zip(0_u64..) {
        put_u64(slot, 0, 24 + number * 4200);
        put_u64(slot, 8, 24 + (number + 1) * 4200);
        put_u64(slot, 16, 0x4000_0000_0000);
        put_u64(slot, 24, page::XID_BASE + number);
    }
    write_header(
        page,
        page::some_lsn(random),
        HEADER_BYTES,
        PAGE_SIZE,
        PAGE_SIZE,
    );
    put_u64(page, 24, page::XID_BASE + 8);
}

fn write_header(page: &mut [u8], lsn: Lsn, lower: usize, upper: usize, special: usize) {
    Header {
        lsn,
        flags: FLAG_CHECKSUM_FNV1A,
        lower,
        upper,
        special,
        layout: LAYOUT_COMMON,
    }
    .write(page);
}
