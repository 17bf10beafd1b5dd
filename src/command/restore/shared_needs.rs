//! What a backup needs of the volume groups of a cluster, worked out from the content lists alone.
//!
//! It goes by what a restore does (`plan.rs`, `shared.rs`), and so every file is looked up in the
//! chain, as it is then.

use super::super::Error;
use super::super::cluster_control::{CONTROL_FILE_BYTES_MAX, ControlForm};
use super::plan::{self, Member, bytes_of, chain_file, packed};
use super::room::{Packing, UnfitError, packed_bytes, problem_of};
use crate::catalog::BackupEntry;
use crate::format::catalog::{ContentEntry, Root, StorageType};
use crate::format::dss::Structure;
use crate::storage::room::{UNITS_OF_FILE_MAX, UnitNeed, UnitRoom};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What a group has to have room for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(in crate::command) struct GroupNeeds {
    /// Links.
    links: u64,
    /// Bytes of each file.
    files: Vec<u64>,
    /// Bytes of those files that are packed when all are there.
    packed: Vec<u64>,
    /// What will be there, and whether it is a directory.
    names: HashMap<PathBuf, bool>,
}

/// What the groups of a cluster have to have room for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(in crate::command) struct SharedNeeds {
    /// The group for data.
    pub(in crate::command) data: GroupNeeds,
    /// The group for logs, if it is another one.
    pub(in crate::command) log: GroupNeeds,
    /// The control file, which was looked at.
    pub(in crate::command) control_file: Vec<u8>,
}

impl GroupNeeds {
    /// Units of a new group with units of so many bytes that they take, besides those that every
    /// new group takes.
    pub(in crate::command) fn units(&self, au_bytes: u64) -> u64 {
        let nodes_per_unit = Structure::FileTableBlock.per_au(au_bytes);
        let room = UnitRoom {
            group: String::new(),
            unit_bytes: au_bytes,
            units: 0,
            // One is that of `.recycle`.
            nodes: nodes_per_unit - 1,
            nodes_per_unit,
            blocks: 0,
            blocks_per_unit: Structure::FsBlock.per_au(au_bytes),
        };
        let mut need = UnitNeed::default();
        let mut units = 0_u64;
        for bytes in &self.files {
            let own = room.units_of(*bytes);
            units = units.saturating_add(own);
            if own > UNITS_OF_FILE_MAX || units > UNITS_OF_FILE_MAX * UNITS_OF_FILE_MAX {
                return u64::MAX;
            }
            need.add_file(own);
        }
        (0..self.links).for_each(|_| need.add_file(1));
        let directories = self.names.values().filter(|is_directory| **is_directory);
        directories.for_each(|_| need.add_directory());
        let mut packing = Packing::default();
        for bytes in &self.packed {
            packing.add(room.units_of(*bytes), room.units_of(packed_bytes(*bytes)));
        }
        packing.finish(&mut need);
        room.required(&need)
    }

    /// Something will be at a path.
    fn add(&mut self, group: &str, path: &Path, is_directory: bool) -> Result<(), Error> {
        let problem = match problem_of(group, path) {
            Some(problem) => problem,
            None if self.names.insert(path.to_owned(), is_directory).is_none() => return Ok(()),
            None => "it is there twice",
        };
        Err(unfit(group, path, problem))
    }

    fn check_parents(&self, group: &str) -> Result<(), Error> {
        for path in self.names.keys() {
            let parent = path.parent().unwrap_or(Path::new(""));
            let is_top = parent.as_os_str().is_empty();
            if !is_top && self.names.get(parent) != Some(&true) {
                return Err(unfit(group, path, "it is in no directory of the backup"));
            }
        }
        Ok(())
    }
}

fn unfit(group: &str, path: &Path, problem: &'static str) -> Error {
    let path = format!("+{group}/{}", path.display());
    Error::Unfit(Box::new(UnfitError::Path { path, problem }))
}

impl SharedNeeds {
    /// Of a chain, the FULL backup first. All of it is looked up, so that what is missing or not
    /// readable is known now.
    ///
    /// # Errors
    /// As of a restore of that chain.
    pub(super) fn of(
        chain: &[BackupEntry],
        data_group: &str,
        log_group: &str,
    ) -> Result<SharedNeeds, Error> {
        let members: Result<Vec<Member>, Error> = chain.iter().rev().map(Member::open).collect();
        let members = members?;
        let newest = members.first().expect("a chain has a member");
        let top = newest.list.iter();
        let top = top.filter(|entry| entry.root() == Root::Shared && entry.is_directory());
        let top: Vec<String> = top.map(|entry| entry.path.into_owned()).collect();
        let form = ControlForm::of_cluster(StorageType::Dss, top.iter().map(String::as_str));
        let control_file = read_control(form, newest, &members)?;
        let mut tablespaces = Vec::new();
        for (oid, place) in plan::tablespaces(chain)? {
            let directory = plan::shared_tablespace(&place, &tablespaces)?;
            tablespaces.push((oid, directory));
        }
        let last = chain.last().expect("a chain has a member");
        let external = plan::external_dirs(&super::choose::control(last)?).len();
        let mut counting = Counting {
            needs: SharedNeeds {
                control_file,
                ..SharedNeeds::default()
            },
            form,
            groups: [data_group, log_group],
            tablespaces,
        };
        for entry in newest.list.iter() {
            if let Root::External(number) = entry.root()
                && usize::try_from(number).is_ok_and(|number| number > external || number == 0)
            {
                return Err(Error::UnknownExternalNumber { number });
            }
            counting.add(&entry, newest, &members)?;
        }
        counting.finish()
    }
}

/// The backup's control file, which must be whole.
fn read_control(form: ControlForm, newest: &Member, members: &[Member]) -> Result<Vec<u8>, Error> {
    let entry = newest.list.find(form.path(), form.root());
    let entry = entry.ok_or(Error::BackupWithoutControlFile)?;
    let member = plan::control_member(&entry, members)?;
    let bytes = member.storage.read(&member.path, CONTROL_FILE_BYTES_MAX)?;
    match form.parse(&bytes) {
        Ok(_) => Ok(bytes),
        Err(source) => Err(Error::BadControlFile {
            path: member.storage.display_path(&member.path),
            source,
        }),
    }
}

struct Counting<'a> {
    needs: SharedNeeds,
    form: ControlForm,
    /// Names of the groups for data and for logs.
    groups: [&'a str; 2],
    /// Oid and directory.
    tablespaces: Vec<(u32, PathBuf)>,
}

impl Counting<'_> {
    fn add(
        &mut self,
        entry: &ContentEntry<'_>,
        newest: &Member,
        members: &[Member],
    ) -> Result<(), Error> {
        if entry.root() == Root::Data && plan::is_not_restored(&entry.path) {
            return Ok(());
        }
        let bytes = match entry.is_directory() {
            true => None,
            false => Some(bytes_of(&chain_file(entry, members)?)),
        };
        if entry.root() != Root::Shared {
            return Ok(());
        }
        let (path, is_link) = self.locate(&entry.path);
        let is_other = path != Path::new(&*entry.path);
        let is_twice = is_other
            && path
                .to_str()
                .is_some_and(|path| newest.list.find(path, Root::Shared).is_some());
        if is_link || is_twice {
            return Ok(());
        }
        let top = path.components().next();
        let top = top.and_then(|top| top.as_os_str().to_str());
        let [data, log] = self.groups;
        let is_log = data != log && top.is_some_and(|top| self.form.is_log_directory(top));
        let (needs, group) = match is_log {
            true => (&mut self.needs.log, log),
            false => (&mut self.needs.data, data),
        };
        needs.add(group, &path, bytes.is_none())?;
        let Some(bytes) = bytes else {
            if is_log && path.components().count() == 1 {
                self.needs.data.links += 1;
                self.needs.data.add(data, &path, false)?;
            }
            return Ok(());
        };
        needs.files.push(bytes);
        if packed(entry, bytes).is_some() {
            needs.packed.push(bytes);
        }
        Ok(())
    }

    /// Where a path of the list goes, and whether a link will be there.
    fn locate(&self, path: &str) -> (PathBuf, bool) {
        let below = path.strip_prefix("pg_tblspc/");
        let (oid, rest) = match below.map(|below| below.split_once('/').unwrap_or((below, ""))) {
            None => return (PathBuf::from(path), false),
            Some(parts) => parts,
        };
        let mut tablespaces = self.tablespaces.iter();
        match tablespaces.find(|(known, _)| known.to_string() == oid) {
            Some((_, directory)) => (directory.join(rest), rest.is_empty()),
            None => (PathBuf::from(path), false),
        }
    }

    /// With the links and directories of tablespaces.
    fn finish(mut self) -> Result<SharedNeeds, Error> {
        let [data, log] = self.groups;
        let needs = &mut self.needs.data;
        for (oid, directory) in &self.tablespaces {
            needs.links += 1;
            needs.add(data, &PathBuf::from(format!("pg_tblspc/{oid}")), false)?;
            let above = directory.ancestors();
            for path in above.filter(|path| !path.as_os_str().is_empty()) {
                // The list may know them only behind the link.
                if !needs.names.contains_key(path) {
                    needs.add(data, path, true)?;
                }
            }
        }
        needs.check_parents(data)?;
        self.needs.log.check_parents(log)?;
        Ok(self.needs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn units_are_whole_for_each_file_and_for_each_kind_of_metadata() {
        let mut needs = GroupNeeds {
            links: 1,
            files: vec![1; 10],
            ..GroupNeeds::default()
        };
        // Ten files and a target; a unit of FS blocks. The table has room.
        assert_eq!(needs.units(4 * MIB), 11 + 1);
        needs.files.push(0);
        assert_eq!(needs.units(4 * MIB), 11 + 1, "an empty file has no unit");
        // 128 FS blocks to a unit of two mebibytes, two a file: 64 files.
        let files = |count: usize| GroupNeeds {
            files: vec![0; count],
            ..GroupNeeds::default()
        };
        assert_eq!(files(64).units(2 * MIB), 1);
        assert_eq!(files(65).units(2 * MIB), 2);
        // 4096 nodes, one of which is `.recycle`.
        assert_eq!(files(4095).units(2 * MIB), 64);
        assert_eq!(files(4096).units(2 * MIB), 64 + 1);
        let large = |bytes| GroupNeeds {
            files: vec![bytes],
            ..GroupNeeds::default()
        };
        assert_eq!(large(2041 * 2 * MIB + 1).units(2 * MIB), 2042 + 1);
        assert_eq!(large(u64::MAX).units(2 * MIB), u64::MAX);
    }

    #[test]
    fn names_that_cannot_be_there_are_told() {
        let mut needs = GroupNeeds::default();
        needs.add("data", Path::new("base"), true).unwrap();
        needs.add("data", Path::new("base/1"), false).unwrap();
        needs.check_parents("data").unwrap();
        for (path, problem) in [
            ("base/1", "twice"),
            ("base/a b", "names have"),
            (".recycle/x", "server's own"),
        ] {
            let error = needs.add("data", Path::new(path), false).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(problem) && error.contains(path), "{error}");
        }
        needs.add("data", Path::new("base/1/x"), false).unwrap();
        let error = needs.check_parents("data").unwrap_err().to_string();
        assert!(error.contains("in no directory"), "{error}");
    }
}
