//! Directories, links and files by their names.

use super::GroupWriter;
use super::nodes::Edits;
use crate::format::dss::{
    BlockId, ENTRY_BLOCK_INDEX, NODE_DELETED, NODE_NORMAL, Node, NodeKind, is_name,
};
use crate::limits::DSS_PATH_BYTES_MAX;
use crate::storage::dss::DssError;

/// Bytes of the entries of an operation on names, units and all, at most.
const OPERATION_BYTES: usize = 24 * 1024;
/// Bytes of a link's target as it is stored.
const TARGET_BYTES: usize = DSS_PATH_BYTES_MAX;

impl GroupWriter {
    /// The node of an id that was given by this group.
    ///
    /// # Errors
    /// Where it was removed meanwhile.
    pub fn node(&self, id: BlockId) -> Result<&Node, DssError> {
        self.nodes.get(&id).ok_or_else(|| DssError::NotFound {
            path: format!("+{}/(node {id})", self.name()),
        })
    }

    /// The child of this name in a directory.
    #[must_use]
    pub fn child(&self, directory: BlockId, name: &str) -> Option<&Node> {
        let id = self.names.get(&directory)?.get(name)?;
        self.nodes.get(id)
    }

    /// The children of a directory that are not deleted, in no order.
    pub fn children(&self, directory: BlockId) -> impl Iterator<Item = &Node> {
        let names = self.names.get(&directory).into_iter();
        names.flat_map(|names| names.values().filter_map(|id| self.nodes.get(id)))
    }

    /// The path of a node, for messages.
    #[must_use]
    pub fn path_of(&self, id: BlockId) -> String {
        let mut names = Vec::new();
        let mut at = id;
        while let Some(node) = self.nodes.get(&at).filter(|node| !node.id.is_root()) {
            names.push(&*node.name);
            at = node.parent;
            if names.len() > self.nodes.len() {
                break;
            }
        }
        names.reverse();
        format!("+{}/{}", self.name(), names.join("/"))
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// Where there is something of that name, the name is none, or no room is left.
    pub fn make_directory(&mut self, parent: BlockId, name: &str) -> Result<BlockId, DssError> {
        self.check_new(parent, name)?;
        self.begin(OPERATION_BYTES, 1)?;
        self.require_units(0, 0, true)?;
        self.operate(|writer| {
            let kind = NodeKind::Directory {
                count: 0,
                first: BlockId::NONE,
                last: BlockId::NONE,
            };
            let id = writer.next_node()?;
            writer.add_node(parent, name, kind, 0)?;
            writer.names.insert(id, std::collections::HashMap::new());
            Ok(id)
        })
    }

    /// Makes an empty file.
    ///
    /// # Errors
    /// As [`GroupWriter::make_directory`].
    pub fn make_file(&mut self, parent: BlockId, name: &str) -> Result<BlockId, DssError> {
        self.check_new(parent, name)?;
        self.begin(OPERATION_BYTES, 3)?;
        self.require_units(0, 2, true)?;
        self.operate(|writer| {
            // Before the node: taking a unit can make another node the next free one.
            writer.reserve_fs_blocks(2)?;
            let id = writer.next_node()?;
            let (entry, _) = writer.add_map(id)?;
            writer.add_node(parent, name, NodeKind::File { entry }, 0)?;
            Ok(id)
        })
    }

    /// Makes a link to a path of this or another group.
    ///
    /// # Errors
    /// As [`GroupWriter::make_directory`], and where the target is no such path.
    pub fn make_link(
        &mut self,
        parent: BlockId,
        name: &str,
        target: &str,
    ) -> Result<BlockId, DssError> {
        self.check_new(parent, name)?;
        if !is_link_target(target) {
            return Err(DssError::BadTarget {
                target: target.to_owned(),
            });
        }
        self.begin(OPERATION_BYTES, 4)?;
        self.require_units(1, 2, true)?;
        self.operate(|writer| {
            let unit = writer.take_unit()?;
            writer.reserve_fs_blocks(2)?;
            let id = writer.next_node()?;
            let (entry, second) = writer.add_map(id)?;
            let mut bytes = vec![0; TARGET_BYTES];
            bytes[..target.len()].copy_from_slice(target.as_bytes());
            writer.write_unit(unit, &bytes)?;
            writer.shows_bytes = true;
            writer.set_only_entry(second, unit)?;
            writer.add_node(parent, name, NodeKind::Link { entry }, writer.au_bytes)?;
            Ok(id)
        })
    }

    /// Removes a file or link.
    ///
    /// # Errors
    /// Where it is a directory.
    pub fn remove_file(&mut self, id: BlockId) -> Result<(), DssError> {
        if self.node(id)?.is_directory() {
            return Err(DssError::IsADirectory {
                path: self.path_of(id),
            });
        }
        self.begin(OPERATION_BYTES, 0)?;
        self.operate(|writer| writer.discard(id))
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// Where it is none, or not empty.
    pub fn remove_directory(&mut self, id: BlockId) -> Result<(), DssError> {
        self.check_empty(id)?;
        self.clean(id)?;
        self.begin(OPERATION_BYTES, 0)?;
        self.operate(|writer| writer.discard(id))
    }

    /// Gives a node another name, perhaps in another directory. What has that name already is
    /// replaced: a file or link by a file or link, an empty directory by a directory.
    ///
    /// # Errors
    /// Where the name is none, or what has it cannot be replaced.
    pub fn rename(&mut self, id: BlockId, parent: BlockId, name: &str) -> Result<(), DssError> {
        let node = self.node(id)?.clone();
        if node.id.is_root() || node.id == self.controls.recycle() {
            return Err(self.unsuitable(id, "cannot get another name"));
        }
        let replaced = self.child(parent, name).cloned();
        if replaced.as_ref().is_some_and(|other| other.id == id) {
            return Ok(());
        }
        match &replaced {
            None => self.check_new(parent, name)?,
            Some(other) if other.is_directory() != node.is_directory() => {
                let path = self.path_of(other.id);
                return Err(match other.is_directory() {
                    true => DssError::IsADirectory { path },
                    false => DssError::NotADirectory { path },
                });
            }
            Some(other) if other.is_directory() => {
                self.check_empty(other.id)?;
                self.clean(other.id)?;
            }
            Some(_) => {}
        }
        if self.is_within(parent, id) {
            return Err(self.unsuitable(id, "cannot be moved into itself"));
        }
        self.begin(OPERATION_BYTES, 0)?;
        self.operate(|writer| {
            if let Some(other) = replaced {
                writer.discard(other.id)?;
            }
            writer.forget_name(id);
            let mut edits = Edits::default();
            if parent != node.parent {
                edits.detach(writer, id)?;
                edits.append(writer, id, parent)?;
            }
            edits.node(writer, id)?.name = name.into();
            writer.set_nodes(edits.finish())?;
            writer.remember_name(parent, name, id);
            Ok(())
        })
    }

    /// Whether something can be made of this name in a directory.
    fn check_new(&self, parent: BlockId, name: &str) -> Result<(), DssError> {
        let directory = self.node(parent)?;
        if !directory.is_directory() {
            return Err(DssError::NotADirectory {
                path: self.path_of(parent),
            });
        }
        if directory.id == self.controls.recycle() {
            return Err(self.unsuitable(parent, "is the server's own"));
        }
        if !is_name(name) {
            return Err(DssError::BadName {
                name: name.to_owned(),
            });
        }
        match self.child(parent, name) {
            Some(other) => Err(DssError::Exists {
                path: self.path_of(other.id),
            }),
            None => Ok(()),
        }
    }

    fn check_empty(&self, id: BlockId) -> Result<(), DssError> {
        let path = || self.path_of(id);
        if !self.node(id)?.is_directory() {
            return Err(DssError::NotADirectory { path: path() });
        }
        if id.is_root() || id == self.controls.recycle() {
            return Err(self.unsuitable(id, "cannot be removed"));
        }
        match self.children(id).next() {
            Some(_) => Err(DssError::NotEmpty { path: path() }),
            None => Ok(()),
        }
    }

    fn is_within(&self, mut directory: BlockId, id: BlockId) -> bool {
        let mut steps = 0;
        while let Some(node) = self.nodes.get(&directory) {
            if node.id == id {
                return true;
            }
            if node.id.is_root() || steps > self.nodes.len() {
                return false;
            }
            directory = node.parent;
            steps += 1;
        }
        false
    }

    pub(super) fn unsuitable(&self, id: BlockId, problem: &'static str) -> DssError {
        DssError::Unsuitable {
            path: self.path_of(id),
            problem,
        }
    }

    /// Ends the removal of what is deleted in a directory, as the server does in the background.
    fn clean(&mut self, directory: BlockId) -> Result<(), DssError> {
        loop {
            let NodeKind::Directory { count, first, .. } = self.node(directory)?.kind else {
                return Ok(());
            };
            if count == 0 {
                return Ok(());
            }
            let child = self.node(first)?;
            if !child.is_deleted() {
                let path = self.path_of(directory);
                return Err(DssError::NotEmpty { path });
            }
            if child.is_directory() {
                self.clean(first)?;
            }
            self.begin(OPERATION_BYTES, 0)?;
            self.operate(|writer| writer.discard(first))?;
        }
    }

    /// Removes a node from its directory: what holds units goes to `.recycle`, anything else is
    /// free then.
    fn discard(&mut self, id: BlockId) -> Result<(), DssError> {
        self.lengths.remove(&id);
        self.claims.remove(&id);
        self.forget_name(id);
        let node = self.node(id)?.clone();
        if node.size_bytes == 0 {
            if let Some(entry) = node.entry() {
                self.free_map(&node, entry)?;
            }
            self.names.remove(&id);
            return self.free_node(id);
        }
        let now = super::nodes::now();
        let recycle = self.controls.recycle();
        let mut edits = Edits::default();
        edits.detach(self, id)?;
        edits.append(self, id, recycle)?;
        let node = edits.node(self, id)?;
        node.flags |= NODE_DELETED;
        node.updated = now;
        self.gives_back = true;
        self.set_nodes(edits.finish())
    }

    fn forget_name(&mut self, id: BlockId) {
        let Some(node) = self.nodes.get(&id) else {
            return;
        };
        if let Some(names) = self.names.get_mut(&node.parent)
            && names.get(&node.name) == Some(&id)
        {
            names.remove(&node.name);
        }
    }

    fn remember_name(&mut self, parent: BlockId, name: &str, id: BlockId) {
        self.names
            .entry(parent)
            .or_default()
            .insert(name.into(), id);
    }

    /// Puts the next free node into a directory.
    fn add_node(
        &mut self,
        parent: BlockId,
        name: &str,
        kind: NodeKind,
        size_bytes: u64,
    ) -> Result<(), DssError> {
        let id = self.next_node()?;
        self.allocate_node(parent, name, kind, NODE_NORMAL, size_bytes)?;
        self.remember_name(parent, name, id);
        Ok(())
    }

    /// Entry block and second-level block of a new file.
    fn add_map(&mut self, owner: BlockId) -> Result<(BlockId, BlockId), DssError> {
        let entry = self.take_fs_block(owner, ENTRY_BLOCK_INDEX)?;
        let second = self.take_fs_block(owner, 0)?;
        self.enter_second(entry, second, 0)?;
        Ok((entry, second))
    }
}

/// Whether a link of DSS can lead there.
#[must_use]
pub fn is_link_target(target: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte);
    target.len() < TARGET_BYTES
        && !target.ends_with('/')
        && target
            .strip_prefix('+')
            .is_some_and(|path| !path.is_empty() && path.bytes().all(allowed))
}
