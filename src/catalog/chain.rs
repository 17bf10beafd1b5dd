//! Backup chains: one FULL backup and the increments up to the one that is wanted.
//!
//! Only links are judged here; which status is good enough is up to the command.

use super::BackupEntry;
use crate::format::catalog::{BackupControl, BackupMode, BackupStatus};
use crate::types::BackupId;

/// A backup of a chain and its record.
#[derive(Clone, Copy, Debug)]
pub struct ChainMember<'a> {
    /// The backup.
    pub entry: &'a BackupEntry,
    /// Its record.
    pub control: &'a BackupControl,
}

/// The backups that a restore needs: the FULL first, the wanted one last.
#[derive(Clone, Debug)]
pub struct Chain<'a> {
    members: Vec<ChainMember<'a>>,
}

/// A backup has no chain down to a FULL backup.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChainError {
    /// The wanted backup does not exist.
    #[error("Requested backup {id} is not found.")]
    NotFound {
        /// Its id.
        id: BackupId,
    },
    /// A record in the chain cannot be read.
    #[error("Backup {id} cannot be used: {reason}")]
    Unreadable {
        /// Whose.
        id: BackupId,
        /// Why not.
        reason: String,
    },
    /// An increment does not say of what.
    #[error("Backup {id} has missing parent 0")]
    NoParent {
        /// The increment.
        id: BackupId,
    },
    /// A parent is not in the catalog.
    #[error("Backup {id} is orphaned because his parent {parent} is missing")]
    ParentMissing {
        /// The increment.
        id: BackupId,
        /// Its parent.
        parent: BackupId,
        /// The increment's status.
        status: BackupStatus,
    },
    /// A parent began after its increment, as in a loop of parents.
    #[error("Backup {id} names the parent {parent}, which is not older")]
    ParentNotOlder {
        /// The increment.
        id: BackupId,
        /// Its parent.
        parent: BackupId,
    },
}

impl<'a> Chain<'a> {
    /// The chain of backup `id` among the backups of its instance.
    ///
    /// # Errors
    /// Where a link is missing or leads forward in time, or a record in the chain cannot be read.
    pub fn for_backup(backups: &'a [BackupEntry], id: BackupId) -> Result<Chain<'a>, ChainError> {
        let find = |id| backups.iter().find(|entry| entry.id == id);
        let mut entry = find(id).ok_or(ChainError::NotFound { id })?;
        let mut members = Vec::new();
        loop {
            let control = entry
                .control
                .as_ref()
                .map_err(|reason| ChainError::Unreadable {
                    id: entry.id,
                    reason: reason.clone(),
                })?;
            members.push(ChainMember { entry, control });
            if control.mode == BackupMode::Full {
                members.reverse();
                return Ok(Chain { members });
            }
            let id = entry.id;
            let parent = control
                .parent_backup_id
                .ok_or(ChainError::NoParent { id })?;
            // Ids are start times: a chain that always goes back ends.
            if parent >= id {
                return Err(ChainError::ParentNotOlder { id, parent });
            }
            entry = find(parent).ok_or(ChainError::ParentMissing {
                id,
                parent,
                status: control.status,
            })?;
        }
    }

    /// The backups, FULL first.
    #[must_use]
    pub fn members(&self) -> &[ChainMember<'a>] {
        &self.members
    }

    /// The FULL backup.
    ///
    /// # Panics
    /// Never: a chain has a FULL backup.
    #[must_use]
    pub fn full(&self) -> ChainMember<'a> {
        *self
            .members
            .first()
            .expect("a chain begins with a FULL backup")
    }

    /// The wanted backup; the same as [`Chain::full`] in a chain of one.
    ///
    /// # Panics
    /// Never: a chain has a backup.
    #[must_use]
    pub fn target(&self) -> ChainMember<'a> {
        *self
            .members
            .last()
            .expect("a chain ends with the wanted backup")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn id(start_time: i64) -> BackupId {
        BackupId::from_start_time(start_time).unwrap()
    }

    fn entry(start_time: i64, parent: Option<i64>) -> BackupEntry {
        let mode = match parent {
            None => BackupMode::Full,
            Some(_) => BackupMode::Ptrack,
        };
        let mut control = BackupControl::new(mode, start_time);
        control.parent_backup_id = parent.filter(|parent| *parent > 0).map(id);
        BackupEntry {
            id: id(start_time),
            dir: PathBuf::new(),
            control: Ok(control),
            warnings: Vec::new(),
            unfinished_merge: None,
        }
    }

    #[test]
    fn a_chain_goes_from_the_full_backup_to_the_wanted_one() {
        let backups = [
            entry(50, Some(40)),
            entry(40, None),
            entry(30, Some(20)),
            entry(20, Some(10)),
            entry(10, None),
        ];
        let chain = Chain::for_backup(&backups, id(30)).unwrap();
        let times = chain
            .members()
            .iter()
            .map(|member| member.control.start_time)
            .collect::<Vec<_>>();
        assert_eq!(times, [10, 20, 30]);
        assert_eq!(chain.full().entry.id, id(10));
        assert_eq!(chain.target().entry.id, id(30));
        let alone = Chain::for_backup(&backups, id(40)).unwrap();
        assert_eq!(alone.members().len(), 1);
    }

    #[test]
    fn a_chain_that_does_not_reach_a_full_backup_is_refused() {
        let mut broken = entry(10, None);
        broken.control = Err("gone".to_owned());
        let backups = [
            entry(60, Some(0)),
            entry(50, Some(50)),
            entry(40, Some(45)),
            entry(30, Some(25)),
            entry(20, Some(10)),
            broken,
        ];
        let refused = |start_time| Chain::for_backup(&backups, id(start_time)).unwrap_err();
        assert_eq!(refused(70), ChainError::NotFound { id: id(70) });
        assert_eq!(refused(60), ChainError::NoParent { id: id(60) });
        for (child, parent) in [(50, 50), (40, 45)] {
            let (id, parent) = (id(child), id(parent));
            assert_eq!(refused(child), ChainError::ParentNotOlder { id, parent });
        }
        assert!(matches!(refused(30), ChainError::ParentMissing { .. }));
        assert!(matches!(refused(20), ChainError::Unreadable { .. }));
    }
}
