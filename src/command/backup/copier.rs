//! From a list of files to their copies in a backup: what offline and online backups share.

use super::super::{Error, words};
use super::increment::Increment;
use super::list::{ListOptions, SourceEntry, SourceTree, list};
use super::{Options, Plan};
use crate::catalog::BackupDir;
use crate::command::cluster_control::ControlForm;
use crate::format::catalog::{ContentEntry, EntrySize, Root};
use crate::limits::MOVED_COPIES_MAX;
use crate::monitor::{Monitor, Stage};
use crate::pipeline::{
    BackedUpFile, BackupItem, BackupKind, Content, HeaderMapFile, KeptPages, PipelineError,
    Selection, Settings, SpaceMaps, transfer,
};
use crate::storage::{Posix, Storage, create_directory_durably};
use crate::types::{CompressAlgorithm, Lsn};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Copies the files of one backup.
pub(super) struct Copier<'a> {
    pub(super) options: &'a Options,
    pub(super) plan: &'a Plan,
    pub(super) dir: &'a BackupDir,
    /// Whether pages of the cluster have checksums.
    pub(super) page_checksums: bool,
    /// Where the backup started, if a server runs.
    pub(super) started: Option<Lsn>,
    /// Set when copying is to end early.
    pub(super) halt: Arc<AtomicBool>,
    pub(super) monitor: &'a dyn Monitor,
}

impl Copier<'_> {
    /// Lists what is to be copied and refuses what the catalog cannot hold.
    pub(super) fn list(&self, options: &ListOptions) -> Result<SourceTree, Error> {
        let tree = list(&self.plan.place.data_directory, options)?;
        if tree.entries.len() < ENTRIES_MIN {
            return Err(Error::AlmostEmpty {
                path: self.plan.place.data_directory.clone(),
            });
        }
        check_names(&tree)?;
        let size = |tree_of| words::pretty_size(tree.estimated_bytes(|root| root == tree_of));
        tracing::info!("PGDATA estimated size: {}", size(Root::Data));
        if options.shared.is_some() {
            tracing::info!("DSSDATA estimated size: {}", size(Root::Shared));
        }
        Ok(tree)
    }

    /// Refuses a backup that cannot fit. A compressed one may, so it is left to try.
    ///
    /// What an increment takes is known only in part before everything was read; what is not known
    /// is left to try as well.
    pub(super) fn check_space(
        &self,
        tree: &SourceTree,
        increment: Option<&Increment<'_>>,
    ) -> Result<(), Error> {
        let target = Posix::open(self.dir.path())?;
        let available = target.available_bytes()?;
        let required =
            increment.map_or_else(|| tree.estimated_bytes(|_| true), Increment::required_bytes);
        tracing::info!(
            "The remaining disk space is: {}; The required space for backup is: {};",
            words::pretty_size(available),
            words::pretty_size(required)
        );
        if self.plan.algorithm == CompressAlgorithm::None && required > available {
            return Err(Error::NoSpace {
                path: self.dir.path().to_owned(),
                required,
                available,
            });
        }
        Ok(())
    }

    /// Creates the directories of the backup.
    pub(super) fn create_directories(&self, tree: &SourceTree) -> Result<Targets, Error> {
        let database: Arc<dyn Storage> = Arc::new(Posix::open(&self.dir.database())?);
        let shared: Option<Arc<dyn Storage>> = match self.plan.place.shared {
            Some(_) => {
                create_directory_durably(&self.dir.shared(), 0o700)?;
                Some(Arc::new(Posix::open(&self.dir.shared())?))
            }
            None => None,
        };
        let mut targets = Targets {
            database,
            shared,
            external: Vec::new(),
        };
        for (index, _) in self.plan.external_dirs()?.iter().enumerate() {
            let number = u32::try_from(index + 1).expect("a command line has few directories");
            let path = self.dir.external(number);
            if let Some(parent) = path.parent() {
                create_directory_durably(parent, 0o700)?;
            }
            create_directory_durably(&path, 0o700)?;
            targets.external.push(Arc::new(Posix::open(&path)?));
        }
        for entry in tree.entries.iter().filter(|entry| entry.content.is_none()) {
            if !entry.name.is_empty() {
                targets
                    .of(entry.tree())
                    .create_dir(Path::new(&*entry.name), 0o700)?;
            }
        }
        Ok(targets)
    }

    /// Copies all files but `pg_control`, or what `increment` takes of them.
    pub(super) fn copy(
        &self,
        tree: &SourceTree,
        targets: &Targets,
        increment: Option<&Increment<'_>>,
    ) -> Result<Vec<BackedUpFile>, Error> {
        let backup: Arc<dyn Storage> = Arc::new(Posix::open(self.dir.path())?);
        let map = backup.create(Path::new("page_header_map"), 0o600, false)?;
        let kind = BackupKind::new(
            self.plan.algorithm,
            self.plan.level,
            self.options.threads,
            HeaderMapFile::new(map),
        )
        .with_page_checksums(self.page_checksums);
        let order = copy_order(tree, self.plan.place.form());
        let (order, unchanged) = match increment {
            Some(increment) => self.part(order, increment),
            None => (order, Vec::new()),
        };
        let read_bytes = |index: &usize| {
            let entry = &tree.entries[*index];
            increment.map_or(entry.size, |increment| increment.read_bytes(entry))
        };
        let bytes: u64 = order.iter().map(read_bytes).sum();
        let items = order.iter().map(|index| {
            let selection = increment.map_or(Selection::All, |increment| {
                increment.selection(&tree.entries[*index])
            });
            self.item(tree, targets, *index, selection)
        });
        let began = Instant::now();
        tracing::info!("Start backing up files");
        self.monitor
            .begin(Stage::Backup, words::count(items.len()), bytes);
        let transferred = transfer(&kind, items, &self.settings(), self.monitor)
            .and_then(|()| self.copy_again(&kind, tree, targets, increment));
        self.monitor.end();
        transferred?;
        tell_of_kept(kind.take_kept());
        let (mut copied, map) = kind.into_results();
        copied.extend(unchanged);
        if let Some(increment) = increment {
            increment.complete_attributes(&mut copied);
        }
        map.sync()?;
        if copied.iter().all(|file| file.headers.is_none()) {
            // The original has no map either when there is no page.
            backup.remove_file(Path::new("page_header_map"))?;
        }
        tracing::info!(
            "Data files are transferred, time elapsed: {}",
            words::pretty_time(began)
        );
        Ok(copied)
    }

    /// Copies files that turned out to differ from the parent's or to have moved meanwhile.
    fn copy_again(
        &self,
        kind: &BackupKind,
        tree: &SourceTree,
        targets: &Targets,
        increment: Option<&Increment<'_>>,
    ) -> Result<(), PipelineError> {
        let take = || (kind.take_differing(), kind.take_moved());
        let name = |index: usize| tree.entries[index].name.to_string();
        repeat(take, name, |differing, moved| {
            let whole = differing.iter().map(|index| (*index, Selection::All));
            let again = moved.iter().map(|index| {
                let selection = increment.map_or(Selection::All, |increment| {
                    increment.selection(&tree.entries[*index])
                });
                (*index, selection)
            });
            let items: Vec<(usize, Selection)> = whole.chain(again).collect();
            let items = items
                .into_iter()
                .map(|(index, selection)| self.item(tree, targets, index, selection));
            transfer(kind, items, &self.settings(), self.monitor)
        })
    }

    /// The files of `order` to look into, and the results for the others.
    fn part(
        &self,
        order: Vec<usize>,
        increment: &Increment<'_>,
    ) -> (Vec<usize>, Vec<BackedUpFile>) {
        let mut unchanged = Vec::new();
        let open = |index: &usize| match increment.unchanged(*index) {
            Some(file) => {
                unchanged.push(file);
                false
            }
            None => true,
        };
        let order = order.into_iter().filter(open).collect();
        tracing::debug!("{} files of pages did not change", unchanged.len());
        (order, unchanged)
    }

    /// What to do with the file of an entry.
    fn item(
        &self,
        tree: &SourceTree,
        targets: &Targets,
        index: usize,
        selection: Selection,
    ) -> BackupItem {
        let entry = &tree.entries[index];
        let content = entry.content.expect("only files are copied");
        let source: Arc<dyn Storage> = tree.roots[entry.root].clone();
        let (path, sums) = (entry.source_path(), self.page_checksums);
        // Only what grows on a volume holds what was there before.
        let maps = (entry.tree() == Root::Shared)
            .then(|| SpaceMaps::new(source.clone(), &entry.name, path, self.started, sums))
            .flatten();
        BackupItem {
            index,
            name: entry.name.to_string(),
            source,
            source_path: path.to_owned(),
            target: targets.of(entry.tree()).clone(),
            target_path: PathBuf::from(&*entry.name),
            target_mode: match content {
                Content::Plain | Content::BytePages(_) => entry.mode & 0o7777,
                Content::Pages(_) | Content::CompressedPages(_) => 0o600,
            },
            size: entry.size,
            content,
            selection,
            maps: maps.map(Arc::new),
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            engine: self.options.engine,
            threads: self.options.threads,
            sync: self.options.sync,
            cancel: Arc::clone(&self.halt),
        }
    }
}

/// Copies what `take` says, files that differ from the parent's though their times say otherwise
/// and such as moved while they were read, until there are none.
fn repeat(
    take: impl Fn() -> (Vec<usize>, Vec<usize>),
    name: impl Fn(usize) -> String,
    copy: impl Fn(&[usize], &[usize]) -> Result<(), PipelineError>,
) -> Result<(), PipelineError> {
    for tries in 1.. {
        let (differing, moved) = take();
        if differing.is_empty() && moved.is_empty() {
            break;
        }
        if let Some(index) = moved.first()
            && tries > MOVED_COPIES_MAX
        {
            let name = name(*index);
            return Err(PipelineError::Moving { name, tries });
        }
        copy(&differing, &moved)?;
    }
    Ok(())
}

/// Tells of pages that are stored as they are though they are not right.
fn tell_of_kept(mut kept: Vec<KeptPages>) {
    kept.sort_by(|a, b| a.name.cmp(&b.name));
    for KeptPages { name, count } in &kept {
        let name = name.escape_debug();
        if count.unused > 0 {
            tracing::debug!("File \"{name}\": {} pages are not in use", count.unused);
        }
        if let Some(first) = count.first_untold {
            tracing::warn!(
                "File \"{name}\": {} pages, the first of them block {}, are not right, and it \
                 cannot be told if they were ever written. They are backed up as they are.",
                count.untold,
                first.0
            );
        }
    }
    let unused: u64 = kept.iter().map(|kept| u64::from(kept.count.unused)).sum();
    if unused > 0 {
        tracing::info!(
            "{unused} pages of segment-page storage are not in use and are stored with whatever \
             their devices hold"
        );
    }
}

/// The files to copy, largest first, so that no thread ends the run alone on a big one.
fn copy_order(tree: &SourceTree, form: ControlForm) -> Vec<usize> {
    let is_copied = |entry: &SourceEntry| {
        let is_control = entry.tree() == form.root() && &*entry.name == form.path();
        entry.content.is_some() && !is_control
    };
    let mut order: Vec<usize> = (0..tree.entries.len())
        .filter(|index| is_copied(&tree.entries[*index]))
        .collect();
    order.sort_unstable_by(|a, b| {
        let (a, b) = (&tree.entries[*a], &tree.entries[*b]);
        b.size.cmp(&a.size).then_with(|| a.name.cmp(&b.name))
    });
    order
}

/// Entries that any cluster has; fewer mean that the directory is being removed or cannot be read.
const ENTRIES_MIN: usize = 100;

/// Refuses names that a content list cannot hold, before anything is copied.
fn check_names(tree: &SourceTree) -> Result<(), Error> {
    let mut line = Vec::new();
    for entry in &tree.entries {
        line.clear();
        let content = ContentEntry::file(&*entry.name, 0, EntrySize::Bytes(0), 0);
        if !entry.name.is_empty() && content.encode_line(&mut line).is_err() {
            let path = tree.roots[entry.root].display_path(entry.source_path());
            return Err(Error::UnstorableName { path });
        }
    }
    Ok(())
}

/// Where files go.
pub(super) struct Targets {
    pub(super) database: Arc<dyn Storage>,
    shared: Option<Arc<dyn Storage>>,
    external: Vec<Arc<dyn Storage>>,
}

impl Targets {
    /// Where files of a tree go.
    pub(super) fn of(&self, root: Root) -> &Arc<dyn Storage> {
        match root {
            Root::Data => &self.database,
            Root::Shared => {
                let shared = self.shared.as_ref();
                shared.expect("only what is shared has entries of that tree")
            }
            Root::External(number) => {
                let index = usize::try_from(number - 1).expect("32 bits fit");
                &self.external[index]
            }
        }
    }

    /// Makes all directory entries durable, those below before those above.
    pub(super) fn sync(&self, tree: &SourceTree) -> Result<(), Error> {
        tracing::info!("Syncing backup files to disk");
        for entry in tree
            .entries
            .iter()
            .rev()
            .filter(|entry| entry.content.is_none())
        {
            self.of(entry.tree()).sync_dir(Path::new(&*entry.name))?;
        }
        let trees = std::iter::once(&self.database).chain(&self.shared);
        for storage in trees.chain(&self.external) {
            storage.sync_dir(Path::new(""))?;
        }
        tracing::info!("Finish Syncing backup files.");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_file_that_moves_each_time_it_is_copied_ends_the_backup() {
        let copies = Cell::new(0);
        let run = |still: bool| {
            copies.set(0);
            let take = || {
                let moves = still || copies.get() < MOVED_COPIES_MAX;
                (Vec::new(), if moves { vec![3] } else { Vec::new() })
            };
            repeat(
                take,
                |index| format!("base/{index}"),
                |differing, moved| {
                    assert_eq!((differing, moved), (&[][..], &[3][..]));
                    copies.set(copies.get() + 1);
                    Ok(())
                },
            )
        };
        let error = run(true).unwrap_err();
        assert!(
            matches!(&error, PipelineError::Moving { name, tries }
                if name == "base/3" && *tries == MOVED_COPIES_MAX + 1),
            "{error}"
        );
        assert_eq!(copies.get(), MOVED_COPIES_MAX);
        run(false).unwrap();
        assert_eq!(copies.get(), MOVED_COPIES_MAX);
    }
}
