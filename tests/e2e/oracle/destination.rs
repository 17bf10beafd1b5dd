//! Restores in place: onto another state of the cluster, or what an earlier restore left, to which
//! all kinds of things have happened.

use super::random::Random;
use super::state::{EXTERNALS, Place, State, is_left_alone};
use super::story::{Backup, Story};
use super::tool::RestoreRequest;
use gs_probackup::command::restore::IncrementalMode;
use gs_probackup::format::page::{PAGE_SIZE, page_checksum};
use gs_probackup::format::relation_path::{FileKind, classify};
use gs_probackup::types::BlockNumber;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A directory that is restored to.
pub(super) struct Destination {
    place: Place,
    /// The checkpoint in its control file.
    redo: u64,
}

impl Destination {
    /// Empties external directories that hold nothing of a backup, as a person does who was told.
    fn empty_foreign(&self, expected: &State, externals: &[u32]) {
        for number in externals {
            let prefix = format!("@{number}/");
            let names = expected.files.keys().chain(&expected.directories);
            let names = names.filter_map(|name| name.strip_prefix(&prefix));
            let wanted: BTreeSet<&str> = names.filter_map(|name| name.split('/').next()).collect();
            let entries = fs::read_dir(self.place.external(*number)).unwrap();
            let paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
            let is_wanted = |path: &PathBuf| {
                let name = path.file_name().unwrap().to_str().unwrap();
                wanted.contains(name)
            };
            if paths.iter().any(is_wanted) {
                continue;
            }
            for path in paths {
                match path.is_dir() {
                    true => fs::remove_dir_all(path).unwrap(),
                    false => fs::remove_file(path).unwrap(),
                }
            }
        }
    }

    /// Tablespaces that are no longer linked to stay where they are, to be removed by a person.
    fn tidy(&self) {
        let Ok(entries) = fs::read_dir(&self.place.tablespaces) else {
            return;
        };
        let links = self.place.data.join("pg_tblspc");
        for entry in entries {
            let entry = entry.unwrap();
            if !links.join(entry.file_name()).exists() {
                fs::remove_dir_all(entry.path()).unwrap();
            }
        }
    }
}

impl Story {
    /// The backups that one grows on, and itself.
    fn chain(&self, index: usize) -> Vec<&Backup> {
        let mut chain = vec![&self.backups[index]];
        while let Some(id) = chain.last().unwrap().parent {
            let parent = self.backups.iter().find(|backup| backup.id == id);
            chain.push(parent.unwrap());
        }
        chain
    }

    /// An earlier or later state of the cluster in a directory of its own.
    fn copy_of_a_state(&mut self) -> Destination {
        let number = self.told.in_place + self.told.refused_in_place;
        let place = Place::below(&self.root.join(format!("in_place.{number}")));
        let count = self.backups.len() as u64;
        let chosen = usize::try_from(self.random().below(count + 1)).unwrap();
        let (mut state, redo) = match self.backups.get(chosen) {
            Some(backup) => (backup.state.clone(), backup.start),
            None => (self.cluster.on_disk().clone(), self.cluster.checkpoint),
        };
        state.files.retain(|name, _| !is_left_alone(name));
        state.directories.retain(|name| !is_left_alone(name));
        fs::create_dir_all(&place.data).unwrap();
        for number in EXTERNALS {
            fs::create_dir_all(place.external(number)).unwrap();
        }
        state.write(&State::default(), &place);
        self.say(format!("copy the state {chosen} with checkpoint {redo:X}"));
        Destination { place, redo }
    }

    pub(super) fn restore_in_place(&mut self, index: usize) {
        let modes = [
            IncrementalMode::Checksum,
            IncrementalMode::Checksum,
            IncrementalMode::Lsn,
            IncrementalMode::Lsn,
            IncrementalMode::None,
        ];
        let mode = *self.random().choose(&modes);
        let is_used = !self.destinations.is_empty() && self.random().one_in(2);
        let mut destination = match is_used {
            true => self.destinations.remove(0),
            false => self.copy_of_a_state(),
        };
        self.soil(&destination.place, mode);
        let backup = &self.backups[index];
        let (id, externals, start) = (backup.id, backup.externals, backup.start);
        let expected = backup.state.backed_up(externals);
        let is_possible = match mode {
            IncrementalMode::None => false,
            IncrementalMode::Checksum => true,
            IncrementalMode::Lsn => {
                let mut chain = self.chain(index).into_iter();
                chain.any(|member| member.start < destination.redo)
            }
        };
        let mut before = destination.place.read(&EXTERNALS);
        let request = RestoreRequest {
            id,
            from: self.cluster.place.clone(),
            to: destination.place.clone(),
            tablespaces: expected.tablespaces().collect(),
            externals,
            mode,
            threads: self.threads(),
            engine: self.engine(),
            validate: self.random().one_in(8),
        };
        let mut restored = self.tool.restore(&request);
        self.say(format!("restore {id} in place, {mode:?}: {restored:?}"));
        if matches!(&restored, Err(said) if said.contains("none of them is in the backup")) {
            let differences = before.differences(&destination.place.read(&EXTERNALS));
            assert!(differences.is_empty(), "{}", differences.join("\n"));
            self.told.foreign += 1;
            destination.empty_foreign(&expected, externals);
            before = destination.place.read(&EXTERNALS);
            restored = self.tool.restore(&request);
            self.say(format!("restore {id} again: {restored:?}"));
        }
        let differences = if !is_possible {
            let said = restored.unwrap_err();
            let is_clear = said.contains("out of reach") || said.contains("is not empty");
            assert!(is_clear, "{said}");
            self.told.refused_in_place += 1;
            before.differences(&destination.place.read(&EXTERNALS))
        } else {
            restored.unwrap();
            destination.redo = start;
            self.told.in_place += 1;
            self.told.by_lsn += u64::from(mode == IncrementalMode::Lsn);
            expected.differences(&destination.place.read(externals))
        };
        assert!(differences.is_empty(), "{}", differences.join("\n"));
        destination.tidy();
        self.destinations.push(destination);
        if self.destinations.len() > 2 {
            let gone = self.destinations.remove(0);
            fs::remove_dir_all(gone.place.data.parent().unwrap()).unwrap();
        }
    }

    /// Does to a directory what may happen to one. For a restore by LSN only what a page shows: it
    /// relies on pages that were changed up to a backup to be those of that time.
    fn soil(&mut self, place: &Place, mode: IncrementalMode) {
        let state = place.read(&EXTERNALS);
        let is_touched = |name: &&String| *name != "global/pg_control";
        let names: Vec<&String> = state.files.keys().filter(is_touched).collect();
        for _ in 0..self.random().below(8) {
            let name = *self.random().choose(&names);
            let path = place.path(name);
            if !path.is_file() {
                continue;
            }
            let other = match mode {
                IncrementalMode::Checksum => self.another_version(name),
                IncrementalMode::Lsn | IncrementalMode::None => None,
            };
            let said = spoil(name, &path, other, self.random());
            self.say(format!("{said} {name}"));
        }
    }

    /// The bytes of a file in any of the states.
    fn another_version(&mut self, name: &str) -> Option<Vec<u8>> {
        let states = self.backups.iter().map(|backup| &backup.state);
        let versions = states.filter_map(|state| state.files.get(name));
        let versions: Vec<_> = versions.map(|file| file.bytes.clone()).collect();
        (!versions.is_empty()).then(|| self.random().choose(&versions).to_vec())
    }
}

/// Does something to a file; says what.
fn spoil(name: &str, path: &Path, other: Option<Vec<u8>>, random: &mut Random) -> &'static str {
    let mut bytes = fs::read(path).unwrap();
    let below =
        |random: &mut Random, end: usize| usize::try_from(random.below(end as u64)).unwrap();
    let said = match random.below(11) {
        0 | 1 if !bytes.is_empty() => {
            flip(name, &mut bytes, random);
            "flip bits in"
        }
        2 => {
            bytes.truncate(below(random, bytes.len() + 1));
            "truncate"
        }
        3 => {
            let more = 1 + below(random, 3 * PAGE_SIZE);
            bytes.resize(bytes.len() + more, 0xA5);
            "extend"
        }
        4 => {
            bytes.fill(0);
            "clear"
        }
        5 => {
            fs::remove_file(path).unwrap();
            return "remove";
        }
        6 => {
            let added = path.with_file_name(format!("{}", 70_000 + below(random, 100)));
            fs::write(added, b"redundant").unwrap();
            return "add a file beside";
        }
        7 => {
            fs::remove_file(path).unwrap();
            fs::create_dir_all(path.join("a/b")).unwrap();
            fs::write(path.join("a/b/c"), b"deep").unwrap();
            return "put a directory in the place of";
        }
        8 => {
            let added = path.with_file_name("zz");
            fs::create_dir_all(added.join("empty")).unwrap();
            return "add a directory beside";
        }
        9 if bytes.len() >= 2 * PAGE_SIZE => {
            bytes.copy_within(..PAGE_SIZE, PAGE_SIZE);
            "put a page in the place of another in"
        }
        _ => match other {
            Some(other) => {
                bytes = other;
                "put another version in the place of"
            }
            None => return "leave alone",
        },
    };
    fs::write(path, bytes).unwrap();
    said
}

/// Changes a byte, in such a way that a page shows it.
fn flip(name: &str, bytes: &mut [u8], random: &mut Random) {
    let at = usize::try_from(random.below(bytes.len() as u64)).unwrap();
    let start = at / PAGE_SIZE * PAGE_SIZE;
    let block = u32::try_from(at / PAGE_SIZE).unwrap();
    let is_relation = matches!(classify(name).kind, FileKind::Relation(file) if !file.compressed);
    loop {
        bytes[at] ^= 1 + u8::try_from(random.below(255)).unwrap();
        let Some(page) = bytes.get(start..start + PAGE_SIZE) else {
            return;
        };
        let stated = u16::from_le_bytes([page[8], page[9]]);
        if !is_relation || page_checksum(page, BlockNumber(block)) != stated {
            return;
        }
    }
}
