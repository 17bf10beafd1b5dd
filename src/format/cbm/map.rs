//! Puts the pages of changed block maps together, by the rules of the server.
//!
//! For each page in order:
//!
//! 1. dropped: what was known of the fork is forgotten; for the main fork that of forks 1 to 4 too,
//!    for a database all of its relations, for a tablespace all of its;
//! 2. truncated: of the main fork and the visibility map the blocks from the new end on are
//!    forgotten, of undo the blocks before its new beginning;
//! 3. what happened and the blocks are added.
//!
//! The result has the rows of the server's function `pg_cbm_get_changed_block`. Which blocks to
//! copy follows from it by the rules of [`ChangedBlocks`]; those may name more.

use super::page::{CbmChange, RelationNumbers};
use crate::format::relation_path::{DEFAULT_TABLESPACE_OID, GLOBAL_TABLESPACE_OID};
use crate::types::{BlockNumber, BlockSet, ChangedBlocks, ForkChanges};
use std::collections::BTreeMap;
use std::ops::Bound;

const MAIN_FORK: i32 = 0;
const FSM_FORK: i32 = 1;
const VM_FORK: i32 = 2;
/// The highest fork that is not a column.
const INIT_FORK: i32 = 4;

/// Database number of undo records.
const UNDO_RECORDS: u32 = 9;

/// Undo zones of each of the three kinds, on a machine with one NUMA node: 2^20 / 3. With more
/// nodes it may be a few less. The number of a zone alone names it, so nothing depends on the kind.
const UNDO_ZONES_PER_KIND: u32 = (1 << 20) / 3;

/// A fork of a relation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RelationFork {
    /// Which relation.
    pub relation: RelationNumbers,
    /// Which fork: 0 main, 1 fsm, 2 vm, 3 bcm, 4 init, above column n - 4.
    pub fork: i32,
}

/// Changes by relation fork.
#[derive(Clone, Debug)]
pub struct CbmMap {
    forks: BTreeMap<RelationFork, ForkChanges>,
    memory_bytes: usize,
    memory_bytes_max: usize,
}

/// A row as the server's function returns it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CbmRow<'a> {
    /// Which fork, or database, or tablespace.
    pub fork: RelationFork,
    /// Columns `rel_dropped`, `rel_created`, `truncate_blocknum` and the list of blocks.
    pub changes: &'a ForkChanges,
}

impl CbmMap {
    /// A map without changes. Sets of blocks take `memory_bytes_max` at most: the fork that would
    /// exceed this counts as changed everywhere instead, which no row of the server's says.
    #[must_use]
    pub fn new(memory_bytes_max: usize) -> CbmMap {
        CbmMap {
            forks: BTreeMap::new(),
            memory_bytes: 0,
            memory_bytes_max,
        }
    }

    /// Adds what a page says. Pages have to come in their order.
    pub fn merge(&mut self, change: &CbmChange<'_>) {
        let fork = RelationFork {
            relation: change.relation,
            fork: change.fork,
        };
        if change.dropped {
            self.forget(fork);
        }
        let entry = self.forks.entry(fork).or_default();
        self.memory_bytes -= entry.blocks.memory_bytes();
        if let Some(block) = change.truncated_at {
            if fork.relation.is_undo() {
                entry.blocks.remove_before(block);
            } else if matches!(fork.fork, MAIN_FORK | VM_FORK) && fork.relation.relation != 0 {
                entry.blocks.remove_from(block);
            }
            entry.truncated_at = Some(BlockNumber(block));
        }
        entry.dropped |= change.dropped;
        entry.created |= change.created;
        if !entry.all {
            for (word, bits) in change.words() {
                entry.blocks.insert_word(word, bits);
            }
        }
        if self.memory_bytes + entry.blocks.memory_bytes() > self.memory_bytes_max {
            entry.all = true;
            entry.blocks = BlockSet::default();
        }
        self.memory_bytes += entry.blocks.memory_bytes();
    }

    /// Forgets what dropping `dropped` makes void.
    fn forget(&mut self, dropped: RelationFork) {
        let RelationFork { relation, fork } = dropped;
        let is_void = |other: &RelationFork| {
            let same_database = other.relation.database == relation.database;
            if relation.relation != 0 || relation.is_undo() {
                let rest = fork == MAIN_FORK && (FSM_FORK..=INIT_FORK).contains(&other.fork);
                other.relation == relation && (other.fork == fork || rest)
            } else {
                relation.database == 0 || same_database
            }
        };
        let first = RelationFork {
            relation: RelationNumbers {
                bucket: i16::MIN,
                ..relation
            },
            fork: i32::MIN,
        };
        let of_tablespace = |found: &RelationFork| found.relation.tablespace == relation.tablespace;
        let behind = (Bound::Included(first), Bound::Unbounded);
        let void: Vec<RelationFork> = self
            .forks
            .range(behind)
            .map(|(found, _)| *found)
            .take_while(of_tablespace)
            .take_while(|found| {
                relation.relation == 0 || found.relation.relation == relation.relation
            })
            .filter(is_void)
            .collect();
        for found in void {
            if let Some(changes) = self.forks.remove(&found) {
                self.memory_bytes -= changes.blocks.memory_bytes();
            }
        }
    }

    /// The rows, in the order of their numbers.
    pub fn rows(&self) -> impl Iterator<Item = CbmRow<'_>> {
        self.forks
            .iter()
            .map(|(&fork, changes)| CbmRow { fork, changes })
    }

    /// The changes by path.
    ///
    /// # Panics
    /// Never: the path of every fork is one that [`ChangedBlocks::record`] takes.
    #[must_use]
    pub fn into_changed_blocks(self) -> ChangedBlocks {
        let mut changed = ChangedBlocks::new(self.memory_bytes_max);
        for (fork, changes) in self.forks {
            changed
                .record(&fork.path("PG_"), changes)
                .expect("every number makes a path");
        }
        changed
    }
}

impl RelationFork {
    /// The path as the server prints it: that of the fork without the number of a segment file, or
    /// that of a directory. `version` is the name of the directory in each tablespace.
    #[must_use]
    pub fn path(&self, version: &str) -> String {
        let RelationNumbers {
            tablespace,
            database,
            relation,
            bucket,
        } = self.relation;
        if self.relation.is_undo() {
            let kind = match relation / UNDO_ZONES_PER_KIND {
                0 => "permanent",
                1 => "unlogged",
                _ => "temp",
            };
            let suffix = if database == UNDO_RECORDS {
                ""
            } else {
                ".meta"
            };
            return format!("undo/{kind}/{relation:05X}{suffix}");
        }
        let directory = match (tablespace, database) {
            (GLOBAL_TABLESPACE_OID, _) => "global".to_owned(),
            (DEFAULT_TABLESPACE_OID, _) => format!("base/{database}"),
            (_, 0) => format!("pg_tblspc/{tablespace}/{version}"),
            _ => format!("pg_tblspc/{tablespace}/{version}/{database}"),
        };
        if relation == 0 {
            return directory;
        }
        let bucket = match bucket {
            0..16384 => format!("_b{bucket}"),
            _ => String::new(),
        };
        let fork = match self.fork {
            FSM_FORK => "_fsm".to_owned(),
            VM_FORK => "_vm".to_owned(),
            3 => "_bcm".to_owned(),
            INIT_FORK => "_init".to_owned(),
            column if column > INIT_FORK => format!("_C{}", column - INIT_FORK),
            _ => String::new(),
        };
        format!("{directory}/{relation}{bucket}{fork}")
    }
}
