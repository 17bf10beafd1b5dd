//! Restore into a directory that holds an older or newer state of the same cluster: what can stay
//! is found before anything is changed.

use super::super::Error;
use super::super::words::{count, pretty_time};
use super::destination::State;
use super::plan::{Plan, Tree, chain_file, is_not_restored, mode_of, packed};
use super::redundant::{self, Survey};
use super::{IncrementalMode, Options, shift};
use crate::format::catalog::{ContentEntry, Root};
use crate::format::relation_path;
use crate::format::restore_mark::{RESTORE_MARK_VERSION, RestoreMark};
use crate::monitor::{Monitor, Stage};
use crate::pipeline::{CompareItem, CompareKind, Existing, Settings, transfer};
use crate::storage::Storage;
use crate::types::{BackupId, Lsn};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// What is known of a destination before it is changed.
#[derive(Debug)]
pub(super) struct Prepared {
    /// What has to go.
    pub(super) survey: Survey,
    /// What is left in the directory while it is changed.
    pub(super) mark: RestoreMark,
}

/// The mark of a restore.
pub(super) fn mark(system_identifier: u64, id: BackupId, shift: Option<Lsn>) -> RestoreMark {
    RestoreMark {
        version: RESTORE_MARK_VERSION,
        system_identifier,
        backup_id: id.to_string(),
        shift_lsn: shift.map(|lsn| lsn.0),
    }
}

/// Finds out what of the destination can stay. Nothing is changed.
///
/// # Errors
/// When the destination is not the instance's, is in use, or cannot be read.
pub(super) fn prepare(
    plan: &mut Plan,
    options: &Options,
    settings: &Settings,
    system_identifier: u64,
    monitor: &dyn Monitor,
) -> Result<Prepared, Error> {
    // Once more, now that no other restore can change it.
    let state = plan.destination().examine(options, system_identifier)?;
    let id = plan.newest().id;
    let shift = shift_lsn(plan, options, &state)?;
    tracing::info!("Extracting the content of destination directory for incremental restore");
    let began = Instant::now();
    let survey = redundant::survey(plan)?;
    let items = plan.compare_items(shift.is_some());
    let length = items.len();
    let kind = CompareKind::new(settings.threads, length, shift);
    monitor.begin(Stage::Compare, count(length), survey.present_bytes);
    let compared = transfer(&kind, items, settings, monitor);
    monitor.end();
    compared?;
    plan.existing = kind.into_results();
    tracing::info!(
        "Destination directory content extracted, time elapsed: {}",
        pretty_time(began)
    );
    Ok(Prepared {
        survey,
        mark: mark(system_identifier, id, shift),
    })
}

impl Plan {
    /// The trees that are written, with what each is.
    pub(super) fn trees(&self) -> Vec<(Tree, Arc<dyn Storage>)> {
        let mut trees = vec![(Tree::Data, self.data.clone())];
        if let Some(shared) = &self.shared {
            trees.push((Tree::Shared, shared.data.clone()));
            trees.extend(shared.log.clone().map(|log| (Tree::Log, log)));
        }
        let tablespaces = self.tablespaces.iter();
        trees.extend(tablespaces.map(|(oid, tree)| (Tree::Tablespace(*oid), tree.clone())));
        for (number, tree) in (1..).zip(&self.external) {
            trees.extend(tree.clone().map(|tree| (Tree::External(number), tree)));
        }
        trees
    }

    /// What the backup has at a path of a tree.
    pub(super) fn find_in(&self, tree: Tree, path: &str) -> Option<ContentEntry<'_>> {
        let list = &self.newest().list;
        match tree {
            Tree::Data if is_not_restored(path) => None,
            Tree::Data => list.find(path, Root::Data),
            Tree::Shared => self.find_shared(path),
            Tree::Log if self.is_in_log(path) => list.find(path, Root::Shared),
            Tree::Log => None,
            Tree::Tablespace(oid) => list.find(&format!("pg_tblspc/{oid}/{path}"), Root::Data),
            Tree::External(number) => list.find(path, Root::External(number)),
        }
    }

    /// Whether a link belongs at a path of a tree.
    pub(super) fn has_link_at(&self, tree: Tree, path: &Path) -> bool {
        let mut links = self.links.iter();
        links.any(|link| link.tree == tree && link.path == path)
    }

    /// What is where a file goes, by its place in the plan.
    pub(super) fn existing(&self, number: usize) -> &Existing {
        self.existing.get(number).unwrap_or(&Existing::Nothing)
    }

    /// All files, to be compared with what is there. With `by_lsn`, relations whose changes are not
    /// in WAL are told.
    fn compare_items(
        &self,
        by_lsn: bool,
    ) -> impl ExactSizeIterator<Item = CompareItem> + Send + '_ {
        let unlogged = if by_lsn {
            self.unlogged_relations()
        } else {
            HashSet::new()
        };
        (0..self.files.len()).map(move |index| {
            let file = self.files[index];
            let (entry, target, target_path) = self.place(file);
            let chain_file = chain_file(&entry, self.members());
            let packed = packed(&entry, file.bytes);
            let relation = relation_path::is_reset_with(&relation_path::classify(&entry.path));
            CompareItem {
                index,
                name: entry.path.to_string(),
                file: chain_file.expect("worked out before when it was planned"),
                target,
                target_path,
                mode: mode_of(&entry),
                packed: packed.map(|compressed| {
                    let algorithm = u8::try_from(compressed.algorithm).unwrap_or(u8::MAX);
                    (compressed.chunk_size, algorithm)
                }),
                unlogged: relation.is_some_and(|relation| {
                    unlogged.contains(&(directory_of(&entry.path).to_owned(), relation))
                }),
            }
        })
    }

    /// Relations that have an init fork: directory and number.
    fn unlogged_relations(&self) -> HashSet<(String, u32)> {
        let entries = self.newest().list.iter();
        let entries = entries.filter(|entry| entry.path.contains("_init"));
        entries
            .filter_map(|entry| {
                let found = relation_path::classify(&entry.path);
                let relation = relation_path::unlogged_relation(&found)?;
                Some((directory_of(&entry.path).to_owned(), relation))
            })
            .collect()
    }

    /// Gives files that are as they have to be the mode that they have to have.
    pub(super) fn set_modes(&self) -> Result<(), Error> {
        for (number, existing) in self.existing.iter().enumerate() {
            if let Existing::Same { other_mode: true } = existing {
                let (entry, storage, path) = self.place(self.files[number]);
                storage.set_file_mode(&path, mode_of(&entry))?;
            }
        }
        Ok(())
    }

    /// Bytes that have to be read and written: those of files that are not there as they have to
    /// be.
    pub(super) fn due_bytes(&self) -> u64 {
        let files = self.files.iter().enumerate();
        files
            .map(|(number, file)| match self.existing(number) {
                Existing::Same { .. } => 0,
                Existing::Pages { needed, .. } => needed.len() * 8192,
                Existing::Nothing | Existing::Other => file.bytes,
            })
            .sum()
    }
}

fn directory_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

/// The shift LSN of lsn mode.
///
/// After an interruption the destination has no redo point any more, and pages of the backup have
/// been written. Those are right in any case; of the others the first run's shift LSN still holds.
/// That run must have been one of the same backup: pages of another may be of another history.
fn shift_lsn(plan: &Plan, options: &Options, state: &State) -> Result<Option<Lsn>, Error> {
    if options.incremental_mode != IncrementalMode::Lsn {
        return Ok(None);
    }
    match state {
        State::Cluster(control) => shift::find(plan, control),
        State::Interrupted(mark) => {
            let id = plan.newest().id;
            let shift = mark.shift_lsn.filter(|_| mark.backup_id == id.to_string());
            match shift {
                Some(lsn) => tracing::info!(
                    "shift LSN of the restore that was interrupted: {}",
                    Lsn(lsn)
                ),
                None => tracing::warn!(
                    "an interrupted restore left no shift LSN for backup {id}: pages stay only \
                     where they are equal to those of the backup, as in 'checksum' mode"
                ),
            }
            Ok(shift.map(Lsn))
        }
    }
}
