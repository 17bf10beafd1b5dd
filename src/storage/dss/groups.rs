//! Several volume groups as one tree of names: `+data/base/1`.
//!
//! A link holds a path with its group, so that it may lead into another one.

use super::{DssError, GroupSpec, VolumeGroup};
use crate::format::dss::{Node, NodeKind};
use crate::io::EngineChoice;
use crate::limits::{DSS_LINKS_MAX, DSS_PATH_BYTES_MAX};
use std::collections::VecDeque;

/// The groups that were opened.
#[derive(Debug)]
pub struct VolumeGroups {
    groups: Vec<VolumeGroup>,
}

/// What a path led to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The group, by its place.
    pub group: usize,
    /// The file, directory or link.
    pub node: Node,
    /// Its path, without links.
    pub path: String,
}

impl VolumeGroups {
    /// Opens groups.
    ///
    /// # Errors
    /// As [`VolumeGroup::open`].
    pub fn open(specs: &[GroupSpec], engine: EngineChoice) -> Result<VolumeGroups, DssError> {
        let groups = specs.iter().map(|spec| VolumeGroup::open(spec, engine));
        Ok(VolumeGroups {
            groups: groups.collect::<Result<_, _>>()?,
        })
    }

    /// The groups, in the order in which they were named.
    #[must_use]
    pub fn groups(&self) -> &[VolumeGroup] {
        &self.groups
    }

    /// A group.
    ///
    /// # Panics
    /// When there is no such place.
    pub fn group(&mut self, place: usize) -> &mut VolumeGroup {
        &mut self.groups[place]
    }

    /// The node of a path. Links on the way are followed, one at its end if `follow` is set.
    ///
    /// # Errors
    /// Where it leads nowhere, or out of the groups that were opened.
    pub fn find(&mut self, path: &str, follow: bool) -> Result<Found, DssError> {
        let whole = || path.to_owned();
        let (mut group, mut names) = self.split(path)?;
        let mut at = self.at_root(group);
        let mut links = 0;
        while let Some(name) = names.pop_front() {
            if !at.node.is_directory() {
                return Err(DssError::NotADirectory { path: at.path });
            }
            let children = self.groups[group].children(&at.node)?;
            let mut seen = children.into_iter().filter(|child| !child.is_deleted());
            let Some(child) = seen.find(|child| *child.name == *name) else {
                return Err(DssError::NotFound { path: whole() });
            };
            let is_link = matches!(child.kind, NodeKind::Link { .. });
            let node = child.clone();
            if !is_link || (names.is_empty() && !follow) {
                at = Found {
                    group,
                    path: format!("{}/{name}", at.path),
                    node,
                };
                continue;
            }
            links += 1;
            if links > DSS_LINKS_MAX {
                return Err(DssError::TooManyLinks { path: whole() });
            }
            let target = self.groups[group].read_link(&node)?;
            let (target_group, mut target_names) = self.split(&target)?;
            target_names.append(&mut names);
            (group, names) = (target_group, target_names);
            at = self.at_root(group);
        }
        Ok(at)
    }

    fn at_root(&self, group: usize) -> Found {
        Found {
            group,
            node: self.groups[group].root().clone(),
            path: format!("+{}", self.groups[group].name()),
        }
    }

    /// Group and names of a path.
    fn split(&self, path: &str) -> Result<(usize, VecDeque<String>), DssError> {
        let not_a_path = || DssError::NotAPath {
            path: path.to_owned(),
        };
        if path.len() > DSS_PATH_BYTES_MAX {
            return Err(not_a_path());
        }
        let names = path.strip_prefix('+').ok_or_else(not_a_path)?;
        let mut names = names.split('/');
        let name = names.next().unwrap_or_default();
        let group = self
            .groups
            .iter()
            .position(|group| group.name() == name)
            .ok_or_else(|| DssError::UnknownGroup {
                path: path.to_owned(),
                group: name.escape_debug().to_string(),
            })?;
        let names: VecDeque<String> = names
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        if names.iter().any(|name| name == "." || name == "..") {
            return Err(not_a_path());
        }
        Ok((group, names))
    }
}
