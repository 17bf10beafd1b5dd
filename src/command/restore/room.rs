//! Whether the volumes of shared storage can hold a backup: asked before anything is written to
//! them.
//!
//! * Every path must be one that DSS can have, and be there once, in a directory.
//! * Everything that is made must fit into what is free and what waits to be used again. What goes
//!   in a restore in place goes before anything is made, so that the sum counts.
//!
//! A server of storage that runs gives room out by the same rules; it cannot be asked how much
//! there is, so the volumes are looked at beside it.

use super::super::Error;
use super::super::shared_storage::SharedStorage;
use super::super::words::pretty_size;
use super::destination::CONTROL_BACKUP;
use super::plan::Plan;
use super::redundant::Survey;
use crate::format::dss::is_name;
use crate::format::page::PAGE_SIZE;
use crate::format::page::compressed::{EXTENT_BYTES, EXTENT_DATA_BLOCKS};
use crate::format::shared_control::SHARED_CONTROL_BYTES;
use crate::limits::DSS_PATH_BYTES_MAX;
use crate::pipeline::Existing;
use crate::storage::dss::is_link_target;
use crate::storage::room::{UNITS_OF_FILE_MAX, UnitNeed, UnitRoom};
use crate::storage::{FileKind, Storage, StorageError};
use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why volumes cannot hold a backup.
#[derive(Debug, thiserror::Error)]
pub enum UnfitError {
    /// A path of it.
    #[error(
        "the backup has \"{path}\", which cannot be on shared storage: {problem}",
        path = path.escape_debug()
    )]
    Path {
        /// The path, with its group.
        path: String,
        /// Why not.
        problem: &'static str,
    },
    /// Its size.
    #[error(
        "no room in volume group {group}: {needed} units of {unit} are needed ({needed_bytes}), \
         {available} are free ({available_bytes})",
        unit = pretty_size(*unit_bytes),
        needed_bytes = pretty_size(needed.saturating_mul(*unit_bytes)),
        available_bytes = pretty_size(available.saturating_mul(*unit_bytes))
    )]
    NoRoom {
        /// The group.
        group: String,
        /// Bytes of a unit.
        unit_bytes: u64,
        /// Units that are needed.
        needed: u64,
        /// Units that there are.
        available: u64,
    },
}

impl UnfitError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            UnfitError::Path { .. } => {
                "nothing was written; restore another backup, or remove the file from the cluster \
                 and take a new one"
                    .to_owned()
            }
            UnfitError::NoRoom {
                group,
                unit_bytes,
                needed,
                available,
            } => format!(
                "nothing was written; {} more are needed: add a volume with gs_probackup dss adv \
                 --vg {group}=DEVICES,NEW, or make the group anew on larger devices. Every file \
                 takes whole units: smaller ones (--au-size of dss cv) hold more small files",
                pretty_size((needed - available).saturating_mul(*unit_bytes))
            ),
        }
    }
}

/// What the groups can give, those for data and for logs, as far as it can be told.
///
/// # Errors
/// Where they cannot be read.
pub(super) fn rooms(shared: Option<&SharedStorage>) -> Result<Vec<Option<UnitRoom>>, Error> {
    let groups = shared.map(|shared| std::iter::once(&shared.data).chain(&shared.log));
    let rooms = groups.into_iter().flatten().map(|group| group.unit_room());
    Ok(rooms.collect::<Result<_, _>>()?)
}

/// Checks that the groups can hold what a restore will make. Changes nothing. Where the groups
/// themselves cannot tell their room, it is what was `seen`.
///
/// # Errors
/// [`Error::Unfit`] where they cannot; others where they cannot be read.
pub(super) fn check(
    plan: &Plan,
    survey: Option<&Survey>,
    seen: Vec<Option<UnitRoom>>,
) -> Result<(), Error> {
    let Some(shared) = &plan.shared else {
        return Ok(());
    };
    let mut trees = vec![Group::new(&shared.data, &shared.data_group)];
    trees.extend(
        shared
            .log
            .as_ref()
            .map(|log| Group::new(log, &shared.log_group)),
    );
    let mut groups = Groups(trees);
    groups.add_names(plan)?;
    let now = rooms(Some(shared))?;
    let seen = seen.into_iter().chain(std::iter::repeat_with(|| None));
    for ((group, now), seen) in groups.0.iter_mut().zip(now).zip(seen) {
        group.room = now.or(seen);
    }
    groups.check_room(plan, survey)
}

/// A group that is restored to.
struct Group<'a> {
    storage: &'a Arc<dyn Storage>,
    name: &'a str,
    /// What will be there, and whether it is a directory.
    names: HashMap<PathBuf, bool>,
    /// `None` where nobody can tell.
    room: Option<UnitRoom>,
}

struct Groups<'a>(Vec<Group<'a>>);

impl<'a> Group<'a> {
    fn new(storage: &'a Arc<dyn Storage>, name: &'a str) -> Group<'a> {
        Group {
            storage,
            name,
            names: HashMap::new(),
            room: None,
        }
    }

    fn unfit(&self, path: &Path, problem: &'static str) -> Error {
        let path = format!("+{}/{}", self.name, path.display());
        Error::Unfit(Box::new(UnfitError::Path { path, problem }))
    }

    fn add(&mut self, path: &Path, is_directory: bool) -> Result<(), Error> {
        if let Some(problem) = problem_of(self.name, path) {
            return Err(self.unfit(path, problem));
        }
        match self.names.insert(path.to_owned(), is_directory) {
            None => Ok(()),
            Some(_) => Err(self.unfit(path, "it is there twice")),
        }
    }

    fn check_parents(&self) -> Result<(), Error> {
        for path in self.names.keys() {
            let parent = path.parent().unwrap_or(Path::new(""));
            let is_in_directory = parent.as_os_str().is_empty()
                || self
                    .names
                    .get(parent)
                    .is_some_and(|is_directory| *is_directory);
            if !is_in_directory {
                return Err(self.unfit(path, "it is in no directory of the backup"));
            }
        }
        Ok(())
    }
}

/// Why a path cannot be in a group, by its names.
pub(super) fn problem_of(group: &str, path: &Path) -> Option<&'static str> {
    /// Of the group's name, between a plus and a slash.
    const SIGNS: usize = 2;
    let mut names = path.components().map(|name| name.as_os_str().to_str());
    if !names.all(|name| name.is_some_and(is_name)) {
        return Some("names have 1 to 63 letters, digits, \"_\", \"-\" and \".\"");
    }
    if path.starts_with(".recycle") {
        return Some("the name is the server's own");
    }
    let is_long = group.len() + SIGNS + path.as_os_str().len() > DSS_PATH_BYTES_MAX;
    is_long.then_some("a path has 1024 bytes at most")
}

impl Groups<'_> {
    /// The group of a tree, unless that is a directory of a file system.
    fn of(&self, storage: &Arc<dyn Storage>) -> Option<usize> {
        let mut groups = self.0.iter();
        groups.position(|group| Arc::ptr_eq(group.storage, storage))
    }

    fn add_names(&mut self, plan: &Plan) -> Result<(), Error> {
        for directory in &plan.directories {
            if let Some(group) = self.of(&directory.storage) {
                self.0[group].add(&directory.path, true)?;
            }
        }
        for link in &plan.links {
            let Some(group) = self.of(&link.storage) else {
                continue;
            };
            self.0[group].add(&link.path, false)?;
            if !link.target.to_str().is_some_and(is_link_target) {
                let problem = "it leads to no path that can be there";
                return Err(self.0[group].unfit(&link.path, problem));
            }
        }
        for file in &plan.files {
            let (_, storage, path) = plan.place(*file);
            let Some(group) = self.of(&storage) else {
                continue;
            };
            self.0[group].add(&path, false)?;
            if plan.is_packed(*file) {
                // Its pages are there by another name for a while.
                let other = super::plan::flat_path(&path);
                self.0[group].add(&other, false)?;
                self.0[group].names.remove(&other);
            }
        }
        for path in plan.control_paths() {
            self.0[0].add(path, false)?;
        }
        self.0.iter().try_for_each(Group::check_parents)
    }

    fn check_room(&mut self, plan: &Plan, survey: Option<&Survey>) -> Result<(), Error> {
        for (storage, directory, bytes) in survey.into_iter().flat_map(Survey::released) {
            let group = self
                .of(storage)
                .and_then(|group| self.0[group].room.as_mut());
            match group {
                None => {}
                Some(room) if directory => room.release_directory(),
                Some(room) => room.release_file(bytes),
            }
        }
        let is_in_place = survey.is_some();
        for place in 0..self.0.len() {
            let Some(mut room) = self.0[place].room.take() else {
                continue;
            };
            let need = self.need(place, plan, is_in_place, &mut room)?;
            let needed = room.required(&need);
            tracing::debug!(
                "volume group {}: {needed} units are needed, {} are free",
                room.group,
                room.units
            );
            if needed > room.units {
                return Err(Error::Unfit(Box::new(UnfitError::NoRoom {
                    group: room.group,
                    unit_bytes: room.unit_bytes,
                    needed,
                    available: room.units,
                })));
            }
        }
        Ok(())
    }

    /// What will be made in a group; what it replaces is added to the room.
    fn need(
        &self,
        place: usize,
        plan: &Plan,
        is_in_place: bool,
        room: &mut UnitRoom,
    ) -> Result<UnitNeed, Error> {
        let storage = self.0[place].storage;
        let mut need = UnitNeed::default();
        let there = |path: &Path| match storage.metadata(path) {
            _ if !is_in_place => Ok(None),
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(Error::from(error)),
        };
        for directory in plan.directories.iter() {
            if Arc::ptr_eq(&directory.storage, storage) {
                match there(&directory.path)? {
                    Some(found) if found.kind == FileKind::Directory => {}
                    _ => need.add_directory(),
                }
            }
        }
        for link in &plan.links {
            if !Arc::ptr_eq(&link.storage, storage) {
                continue;
            }
            let found = there(&link.path)?.filter(|found| found.kind == FileKind::Symlink);
            if let Some(found) = found {
                if storage.read_link(&link.path)? == link.target {
                    continue;
                }
                room.release_file(found.allocated_bytes);
            }
            need.add_file(1);
        }
        let mut packing = Packing::default();
        for (number, file) in plan.files.iter().enumerate() {
            let (_, tree, path) = plan.place(*file);
            if !Arc::ptr_eq(&tree, storage) {
                continue;
            }
            let units = room.units_of(file.bytes);
            if units > UNITS_OF_FILE_MAX {
                return Err(self.0[place].unfit(&path, "it has more units than a file can have"));
            }
            match plan.existing(number) {
                Existing::Same { .. } => {}
                Existing::Pages { .. } => {
                    let bytes = there(&path)?.map_or(0, |found| found.allocated_bytes);
                    let from = room.units_of(bytes);
                    need.grow_file(from, units);
                    room.units += from.saturating_sub(units);
                }
                existing => {
                    if let (Existing::Other, Some(found)) = (existing, there(&path)?) {
                        room.release_file(found.allocated_bytes);
                    }
                    need.add_file(units);
                    if plan.is_packed(*file) {
                        packing.add(units, room.units_of(packed_bytes(file.bytes)));
                    }
                }
            }
        }
        packing.finish(&mut need);
        if place == 0 {
            for _ in plan.control_paths() {
                need.add_file(room.units_of(SHARED_CONTROL_BYTES as u64));
            }
            for path in [plan.form.path(), CONTROL_BACKUP] {
                if let Some(found) = there(Path::new(path))? {
                    room.release_file(found.allocated_bytes);
                }
            }
        }
        Ok(need)
    }
}

/// Files whose pages are packed, one by one, when all are there: each is there twice then, with its
/// pages as they are and packed.
#[derive(Debug, Default)]
pub(super) struct Packing {
    /// Units more than before the first one.
    now: i64,
    /// At most.
    most: i64,
}

impl Packing {
    pub(super) fn add(&mut self, flat: u64, packed: u64) {
        let signed = |units: u64| i64::try_from(units).unwrap_or(i64::MAX);
        self.most = self.most.max(self.now.saturating_add(signed(packed)));
        self.now = self.now.saturating_add(signed(packed) - signed(flat));
    }

    pub(super) fn finish(self, need: &mut UnitNeed) {
        if self.most > 0 {
            need.add_file(self.most.unsigned_abs());
        }
    }
}

/// Bytes of a file whose pages, so many bytes of them, are packed.
pub(super) fn packed_bytes(bytes: u64) -> u64 {
    let flat = u64::from(EXTENT_DATA_BLOCKS) * PAGE_SIZE as u64;
    bytes.div_ceil(flat) * EXTENT_BYTES as u64
}

/// Whether there is nothing at a path, or something else on the way to it.
fn is_absent(error: &StorageError) -> bool {
    let kinds = [
        ErrorKind::NotFound,
        ErrorKind::NotADirectory,
        ErrorKind::InvalidInput,
    ];
    kinds.contains(&error.source.kind())
}

impl Plan {
    /// Where the control file and its second copy go.
    fn control_paths(&self) -> impl Iterator<Item = &Path> {
        let backup = self
            .has_control_backup()
            .then_some(Path::new(CONTROL_BACKUP));
        std::iter::once(Path::new(self.form.path())).chain(backup)
    }

    /// On volumes, removes and cuts what is going to be replaced: only then is there certainly room
    /// for what is made.
    pub(super) fn clear_volumes(&mut self) -> Result<(), Error> {
        let Some(shared) = self.shared.clone() else {
            return Ok(());
        };
        for number in 0..self.existing.len() {
            if matches!(
                self.existing[number],
                Existing::Nothing | Existing::Same { .. }
            ) {
                continue;
            }
            let (_, tree, path) = self.place(self.files[number]);
            let mut groups = std::iter::once(&shared.data).chain(&shared.log);
            if !groups.any(|group| Arc::ptr_eq(group, &tree)) {
                continue;
            }
            match &self.existing[number] {
                Existing::Pages { bytes, .. } => {
                    let file = tree.open_write(&path, false)?;
                    if file.size()? > *bytes {
                        file.set_len(*bytes)?;
                    }
                }
                _ => {
                    tree.remove_file(&path)?;
                    self.existing[number] = Existing::Nothing;
                }
            }
        }
        Ok(())
    }
}
