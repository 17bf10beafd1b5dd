//! The file table: one block of 512 bytes for each file, directory and link, all in one chain.
//!
//! ```text
//! block                                       node, at 256
//! 0   u32  checksum                           0    u32      0 directory, 1 file, 2 link
//! 4   u32  0 file table, 1 FS, 2 FS-aux       8    u64      created, in seconds since 1970
//! 8   u64  version                            16   u64      created or deleted
//! 16  id   own                                28   u32      flags
//! 24  u8   1 free, 2 used                     32   u64      bytes allocated
//! 32  u32  nodes (1)                          40   id       file, link: entry FS block
//! 40  id   next block of the chain            40   u32      directory: children
//!                                             48   id, id   directory: first and last child
//! root block, besides:                        64   id       own
//! 56  u32, id, id  free nodes                 72   id, id   next and previous sibling
//! 104 u64  fid of the next node               88   char 64  name
//! 120 id   last block of the chain            152  u64      fid
//!                                             160  u64      bytes written: the length of a file
//!                                             168  id       parent
//!                                             176  u64      shrinking truncations
//!                                             184  u64      bytes written without gaps
//! ```
//!
//! Source: `dss_file_def.h`, `gft_node_t`, `dss_ft_block_t`, `dss_root_ft_block_t`.

use super::{BlockId, DssFormatError, FreeList, Structure, volume};
use crate::format::little_endian::{put_u32, put_u64, u32_at, u64_at};

/// The node is `.recycle`.
pub const NODE_SYSTEM: u32 = 1;
/// The node is an ordinary one.
pub const NODE_NORMAL: u32 = 4;
/// The node is deleted: nobody sees it any more.
pub const NODE_DELETED: u32 = 2;
/// The file knows which of its pages were written.
pub const NODE_INNER_INITED: u32 = 0x8000_0000;

/// Where the node of a block is.
pub const NODE_AT: usize = 256;
/// Bytes of a node.
pub const NODE_BYTES: usize = 256;

/// Whether a block is in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockState {
    /// It is in a free list.
    Free,
    /// It is used.
    Used,
    /// Neither is said.
    Unknown(u8),
}

/// What all blocks of units begin with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockHead {
    /// What the block says it is: 0 file table, 1 FS, 2 FS-aux.
    pub kind: u32,
    /// Writes of the block.
    pub version: u64,
    /// What the block says its id is.
    pub id: BlockId,
    /// Whether it is in use.
    pub state: BlockState,
}

impl BlockHead {
    pub(super) fn parse(slot: &[u8]) -> BlockHead {
        BlockHead {
            kind: u32_at(slot, 4),
            version: u64_at(slot, 8),
            id: BlockId(u64_at(slot, 16)),
            state: match slot[24] {
                1 => BlockState::Free,
                2 => BlockState::Used,
                other => BlockState::Unknown(other),
            },
        }
    }

    /// Checks that the block is the one that was looked for.
    pub(super) fn expect(
        &self,
        structure: Structure,
        kind: u32,
        id: BlockId,
    ) -> Result<(), DssFormatError> {
        let what = structure.name();
        if self.kind != kind {
            return Err(DssFormatError::field(what, "type", self.kind.into()));
        }
        if self.id != id.without_item() {
            return Err(DssFormatError::field(what, "id", self.id.0));
        }
        Ok(())
    }
}

/// What a node is, and what only nodes of that kind have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeKind {
    /// A directory.
    Directory {
        /// Children, deleted ones included.
        count: u32,
        /// The first.
        first: BlockId,
        /// The last.
        last: BlockId,
    },
    /// A file.
    File {
        /// Its entry FS block.
        entry: BlockId,
    },
    /// A symbolic link.
    Link {
        /// Its entry FS block.
        entry: BlockId,
    },
}

/// A file, directory or link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// What it is.
    pub kind: NodeKind,
    /// Seconds since 1970.
    pub created: u64,
    /// Seconds since 1970; set when it is created and deleted only.
    pub updated: u64,
    /// The `NODE_` constants, and others.
    pub flags: u32,
    /// Bytes that it occupies.
    pub size_bytes: u64,
    /// Its id.
    pub id: BlockId,
    /// The next sibling.
    pub next: BlockId,
    /// The previous sibling.
    pub previous: BlockId,
    /// Its name; of the root, that of the group.
    pub name: Box<str>,
    /// Its number, never used again.
    pub fid: u64,
    /// Bytes of a file: its length.
    pub written_bytes: u64,
    /// Its directory.
    pub parent: BlockId,
    /// How often it was cut shorter.
    pub truncations: u64,
    /// Bytes from the start that were all written, of files that know which pages were.
    pub initialised_bytes: u64,
}

impl Node {
    /// Reads a node of a block that is in use.
    ///
    /// # Errors
    /// Where its kind or name is impossible.
    ///
    /// # Panics
    /// When `bytes` are fewer than a node.
    pub fn parse(bytes: &[u8]) -> Result<Node, DssFormatError> {
        let id_at = |at| BlockId(u64_at(bytes, at));
        let id = id_at(64);
        let kind = match u32_at(bytes, 0) {
            0 => NodeKind::Directory {
                count: u32_at(bytes, 40),
                first: id_at(48),
                last: id_at(56),
            },
            1 => NodeKind::File { entry: id_at(40) },
            2 => NodeKind::Link { entry: id_at(40) },
            other => return Err(DssFormatError::field("node", "type", other.into())),
        };
        let name = volume::text(&bytes[88..152]);
        if !volume::is_name(&name) {
            let name = name.escape_debug().to_string();
            return Err(DssFormatError::Name { id, name });
        }
        Ok(Node {
            kind,
            created: u64_at(bytes, 8),
            updated: u64_at(bytes, 16),
            flags: u32_at(bytes, 28),
            size_bytes: u64_at(bytes, 32),
            id,
            next: id_at(72),
            previous: id_at(80),
            name: name.into_boxed_str(),
            fid: u64_at(bytes, 152),
            written_bytes: u64_at(bytes, 160),
            parent: id_at(168),
            truncations: u64_at(bytes, 176),
            initialised_bytes: u64_at(bytes, 184),
        })
    }

    /// Puts all that is known of the node where it is stored; what is not known stays.
    ///
    /// # Panics
    /// When `bytes` are fewer than a node, or the name is none.
    pub fn put(&self, bytes: &mut [u8]) {
        assert!(volume::is_name(&self.name), "{} is a name", self.name);
        let kind = match self.kind {
            NodeKind::Directory { count, first, last } => {
                put_u64(bytes, 40, count.into());
                put_u64(bytes, 48, first.0);
                put_u64(bytes, 56, last.0);
                0
            }
            NodeKind::File { entry } => {
                put_u64(bytes, 40, entry.0);
                1
            }
            NodeKind::Link { entry } => {
                put_u64(bytes, 40, entry.0);
                2
            }
        };
        put_u32(bytes, 0, kind);
        put_u64(bytes, 8, self.created);
        put_u64(bytes, 16, self.updated);
        put_u32(bytes, 28, self.flags);
        put_u64(bytes, 32, self.size_bytes);
        put_u64(bytes, 64, self.id.0);
        put_u64(bytes, 72, self.next.0);
        put_u64(bytes, 80, self.previous.0);
        bytes[88..152].fill(0);
        bytes[88..88 + self.name.len()].copy_from_slice(self.name.as_bytes());
        put_u64(bytes, 152, self.fid);
        put_u64(bytes, 160, self.written_bytes);
        put_u64(bytes, 168, self.parent.0);
        put_u64(bytes, 176, self.truncations);
        put_u64(bytes, 184, self.initialised_bytes);
    }

    /// Makes the stored node a free one, before the next free one.
    ///
    /// # Panics
    /// When `bytes` are fewer than a node.
    pub fn put_free(bytes: &mut [u8], next: BlockId, updated: u64) {
        put_u64(bytes, 16, updated);
        put_u64(bytes, 32, 0);
        put_u64(bytes, 40, BlockId::NONE.0);
        put_u64(bytes, 72, next.0);
        put_u64(bytes, 80, BlockId::NONE.0);
        put_u64(bytes, 168, BlockId::FREE.0);
    }

    /// Whether nobody may see it any more.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.flags & NODE_DELETED != 0
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        matches!(self.kind, NodeKind::Directory { .. })
    }

    /// The entry FS block of a file or link that has one.
    #[must_use]
    pub fn entry(&self) -> Option<BlockId> {
        match self.kind {
            NodeKind::File { entry } | NodeKind::Link { entry } => {
                Some(entry).filter(|id| *id != BlockId::NONE)
            }
            NodeKind::Directory { .. } => None,
        }
    }
}

/// A block of the file table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileTableBlock<'a> {
    /// Its head.
    pub head: BlockHead,
    /// The next block of the chain.
    pub next: BlockId,
    /// Its node, which may be a free one.
    pub node: &'a [u8],
}

impl<'a> FileTableBlock<'a> {
    /// Reads a slot whose checksum was verified and that should be the block of this id.
    ///
    /// # Errors
    /// Where it is another block.
    ///
    /// # Panics
    /// When `slot` has not the length of the structure.
    pub fn parse(slot: &'a [u8], id: BlockId) -> Result<FileTableBlock<'a>, DssFormatError> {
        let structure = Structure::FileTableBlock;
        assert_eq!(slot.len(), structure.bytes());
        let head = BlockHead::parse(slot);
        head.expect(structure, 0, id)?;
        let nodes = u32_at(slot, 32);
        if nodes != 1 {
            let what = structure.name();
            return Err(DssFormatError::field(
                what,
                "a number of nodes:",
                nodes.into(),
            ));
        }
        Ok(FileTableBlock {
            head,
            next: BlockId(u64_at(slot, 40)),
            node: &slot[NODE_AT..NODE_AT + NODE_BYTES],
        })
    }

    /// The next free node, if this one is free.
    #[must_use]
    pub fn next_free(&self) -> BlockId {
        BlockId(u64_at(self.node, 72))
    }

    /// Own id and parent that the node has, free or not.
    #[must_use]
    pub fn node_links(&self) -> (BlockId, BlockId) {
        let id_at = |at| BlockId(u64_at(self.node, at));
        (id_at(64), id_at(168))
    }
}

/// The root block of the file table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RootBlock {
    /// Writes of the block.
    pub version: u64,
    /// First block of the chain behind it.
    pub first: BlockId,
    /// Last block of the chain.
    pub last: BlockId,
    /// Free nodes.
    pub free_nodes: FreeList,
    /// Fid of the next node that is made.
    pub next_fid: u64,
    /// The root directory.
    pub node: Node,
}

impl RootBlock {
    /// Reads a slot whose checksum was verified.
    ///
    /// # Errors
    /// Where it is no root block or its node is no directory.
    ///
    /// # Panics
    /// When `slot` has not the length of the structure.
    pub fn parse(slot: &[u8]) -> Result<RootBlock, DssFormatError> {
        let structure = Structure::RootBlock;
        assert_eq!(slot.len(), structure.bytes());
        let head = BlockHead::parse(slot);
        head.expect(structure, 0, BlockId::ROOT)?;
        let node = Node::parse(&slot[NODE_AT..NODE_AT + NODE_BYTES])?;
        if !node.is_directory() || !node.id.is_root() || node.is_deleted() {
            let what = "root directory";
            return Err(DssFormatError::field(what, "flags", node.flags.into()));
        }
        Ok(RootBlock {
            version: head.version,
            first: BlockId(u64_at(slot, 40)),
            last: BlockId(u64_at(slot, 120)),
            free_nodes: FreeList {
                count: u32_at(slot, 56).into(),
                first: BlockId(u64_at(slot, 64)),
                last: BlockId(u64_at(slot, 72)),
            },
            next_fid: u64_at(slot, 104),
            node,
        })
    }
}
