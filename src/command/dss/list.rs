//! `dss ls` and `dss stat`: what is on the volumes.
//!
//! Deleted files are never shown. `.recycle`, where a server keeps what it will use again, is shown
//! when it is asked for.

use super::{Error, Volumes, error};
use crate::format::dss::{NODE_INNER_INITED, NODE_SYSTEM, Node, NodeKind};
use crate::storage::dss::{DssError, Found, GroupSummary, VolumeGroups};

/// What to list.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where.
    pub volumes: Volumes,
    /// Files and directories; all groups if there are none.
    pub paths: Vec<String>,
    /// Directories in directories too.
    pub recursive: bool,
    /// `.recycle` too.
    pub all: bool,
}

/// What a name stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A file.
    File,
    /// A link.
    Link {
        /// Where it leads.
        target: String,
    },
}

/// A file, directory or link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its path, with the group.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Its node.
    pub node: Node,
}

impl Entry {
    /// Whether a file keeps which of its pages were written.
    #[must_use]
    pub fn is_inner_inited(&self) -> bool {
        self.node.flags & NODE_INNER_INITED != 0
    }
}

/// Takes entries as they are found; returns whether more are wanted.
pub type Act<'a> = dyn FnMut(&Entry) -> bool + 'a;

/// Calls `act` with every entry, those of a directory in its order, and what is in a directory
/// behind it.
///
/// # Errors
/// Where a volume or a path cannot be used.
pub fn run(options: &Options, act: &mut Act<'_>) -> Result<(), Error> {
    let mut groups = options.volumes.open()?;
    let mut paths = options.paths.clone();
    if paths.is_empty() {
        let names = groups.groups().iter().map(|group| group.name());
        paths = names.map(|name| format!("+{name}")).collect();
    }
    for path in paths {
        let found = groups.find(&path, path.ends_with('/')).map_err(error)?;
        let go_on = if found.node.is_directory() {
            let filter = |node: &Node| options.all || node.flags & NODE_SYSTEM == 0;
            walk(&mut groups, &found, options.recursive, &filter, act).map_err(error)?
        } else {
            act(&entry(&mut groups, found.group, found.path, found.node).map_err(error)?)
        };
        if !go_on {
            break;
        }
    }
    Ok(())
}

/// What the paths stand for, and the groups in numbers. Links are not followed.
///
/// # Errors
/// Where a volume or a path cannot be used.
pub fn stat(options: &Options) -> Result<(Vec<GroupSummary>, Vec<Entry>), Error> {
    let mut groups = options.volumes.open()?;
    let summaries = groups
        .groups()
        .iter()
        .map(|group| group.summary())
        .collect();
    let mut entries = Vec::new();
    for path in &options.paths {
        let found = groups.find(path, path.ends_with('/')).map_err(error)?;
        entries.push(entry(&mut groups, found.group, found.path, found.node).map_err(error)?);
    }
    Ok((summaries, entries))
}

/// Calls `act` with all that is in a directory.
pub(super) fn walk(
    groups: &mut VolumeGroups,
    directory: &Found,
    recursive: bool,
    filter: &dyn Fn(&Node) -> bool,
    act: &mut Act<'_>,
) -> Result<bool, DssError> {
    let group = directory.group;
    // What is still to be looked at, the next one last.
    let mut pending = children(groups, group, &directory.path, &directory.node)?;
    while let Some((path, node)) = pending.pop() {
        if !filter(&node) {
            continue;
        }
        if recursive && node.is_directory() {
            pending.extend(children(groups, group, &path, &node)?);
        }
        if !act(&entry(groups, group, path, node)?) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What is in a directory and not deleted, in reverse order.
fn children(
    groups: &VolumeGroups,
    group: usize,
    path: &str,
    directory: &Node,
) -> Result<Vec<(String, Node)>, DssError> {
    let children = groups.groups()[group].children(directory)?;
    let seen = children
        .into_iter()
        .rev()
        .filter(|child| !child.is_deleted());
    Ok(seen
        .map(|child| (format!("{path}/{}", child.name), child.clone()))
        .collect())
}

fn entry(
    groups: &mut VolumeGroups,
    group: usize,
    path: String,
    node: Node,
) -> Result<Entry, DssError> {
    let kind = match node.kind {
        NodeKind::Directory { .. } => EntryKind::Directory,
        NodeKind::File { .. } => EntryKind::File,
        NodeKind::Link { .. } => EntryKind::Link {
            target: groups.group(group).read_link(&node)?,
        },
    };
    Ok(Entry { path, kind, node })
}
