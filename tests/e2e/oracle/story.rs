//! A random sequence of changes and commands. What the cluster was at each backup is kept, and
//! every restore has to give it back.

use super::cluster::Cluster;
use super::destination::Destination;
use super::random::Random;
use super::state::{Place, State};
use super::tool::{BackupRequest, Library, Program, RestoreRequest, Tool};
use gs_probackup::command::backup::Mode;
use gs_probackup::command::restore::IncrementalMode;
use gs_probackup::io::EngineChoice;
use gs_probackup::types::{BackupId, CompressAlgorithm};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A good backup of the catalog.
pub(super) struct Backup {
    pub(super) id: BackupId,
    pub(super) parent: Option<BackupId>,
    /// What the cluster was.
    pub(super) state: State,
    /// Where in WAL it starts.
    pub(super) start: u64,
    pub(super) externals: &'static [u32],
}

/// Lists of external directories that a backup may be told.
const LISTS: [&[u32]; 5] = [&[], &[1], &[2], &[1, 2], &[2, 1]];

pub(super) struct Story {
    pub(super) root: PathBuf,
    pub(super) cluster: Cluster,
    pub(super) tool: Box<dyn Tool>,
    /// Oldest first.
    pub(super) backups: Vec<Backup>,
    /// External directories of the next backup.
    externals: &'static [u32],
    /// Directories that earlier restores left.
    pub(super) destinations: Vec<Destination>,
    pub(super) told: Told,
    /// Everything that was done, for whoever has to find out why it failed.
    log: Log,
}

/// How often what was done.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Told {
    pub(super) full: u64,
    pub(super) delta: u64,
    pub(super) ptrack: u64,
    pub(super) refused: u64,
    pub(super) merges: u64,
    pub(super) deletions: u64,
    pub(super) restores: u64,
    pub(super) in_place: u64,
    pub(super) by_lsn: u64,
    pub(super) refused_in_place: u64,
    /// Refused for an external directory that held nothing of the backup.
    pub(super) foreign: u64,
}

impl Told {
    pub(super) fn add(&mut self, other: Told) {
        self.full += other.full;
        self.delta += other.delta;
        self.ptrack += other.ptrack;
        self.refused += other.refused;
        self.merges += other.merges;
        self.deletions += other.deletions;
        self.restores += other.restores;
        self.in_place += other.in_place;
        self.by_lsn += other.by_lsn;
        self.refused_in_place += other.refused_in_place;
        self.foreign += other.foreign;
    }
}

/// Written out when the story ends in a panic.
struct Log {
    seed: u64,
    lines: Vec<String>,
}

impl Drop for Log {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines = self.lines.join("\n  ");
            eprintln!("GS_ORACLE_SEED={} fails after\n  {lines}", self.seed);
        }
    }
}

/// What runs the commands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Library,
    Program,
}

/// Where the stories take place: in memory, where there is such a place.
pub(super) fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    match tempfile::tempdir_in(memory) {
        Ok(scratch) => scratch,
        Err(_) => tempfile::tempdir().unwrap(),
    }
}

impl Story {
    fn new(seed: u64, root: &Path, by: By) -> Story {
        let cluster = Cluster::create(&root.join("cluster"), Random::new(seed));
        let catalog = root.join("catalog");
        let tool: Box<dyn Tool> = match by {
            By::Library => Box::new(Library::create(&catalog, &cluster.place.data)),
            By::Program => Box::new(Program::create(&catalog, &cluster.place.data)),
        };
        Story {
            root: root.to_owned(),
            cluster,
            tool,
            backups: Vec::new(),
            externals: &[],
            destinations: Vec::new(),
            told: Told::default(),
            log: Log {
                seed,
                lines: Vec::new(),
            },
        }
    }

    pub(super) fn say(&mut self, line: String) {
        self.log.lines.push(line);
    }

    pub(super) fn random(&mut self) -> &mut Random {
        &mut self.cluster.random
    }

    pub(super) fn engine(&mut self) -> EngineChoice {
        match self.random().one_in(64) {
            true => EngineChoice::Auto,
            false => EngineChoice::Sync,
        }
    }

    pub(super) fn threads(&mut self) -> usize {
        1 + usize::from(self.random().one_in(4))
    }

    fn change(&mut self) {
        for _ in 0..1 + self.random().below(7) {
            let said = self.cluster.change_something();
            self.say(said);
        }
    }

    /// The backup that an increment will grow on: the last one of the newest chain.
    fn parent(&self) -> Option<&Backup> {
        self.backups.last()
    }

    fn back_up(&mut self, mode: Mode) {
        if self.tool.follows_the_clock() {
            self.cluster.clock += 1 + i64::from(self.random().below32(3));
        } else {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            self.cluster.clock = i64::try_from(now.as_secs()).unwrap();
        }
        let start = self.cluster.shut_down();
        if self.random().one_in(4) {
            self.externals = *self.random().choose(&LISTS);
        }
        let externals = self.externals;
        let request = BackupRequest {
            mode,
            algorithm: *self.random().choose(&CompressAlgorithm::ALL),
            threads: self.threads(),
            engine: self.engine(),
            validate: self.random().one_in(3),
            externals: externals
                .iter()
                .map(|number| self.cluster.place.external(*number))
                .collect(),
            start_time: self.cluster.clock,
        };
        let parent = self.parent().filter(|_| mode != Mode::Full);
        let is_possible = match (mode, parent) {
            (Mode::Full, _) => true,
            (_, None) => false,
            (Mode::Delta, Some(_)) => true,
            (Mode::Ptrack, Some(parent)) => self.cluster.tracking.knows_since(parent.start),
        };
        let parent = parent.map(|parent| parent.id);
        let taken = self.tool.back_up(&request);
        self.say(format!(
            "back up {mode:?} {} on {parent:?} with {externals:?}: {taken:?}",
            request.algorithm
        ));
        if !is_possible {
            assert!(taken.is_err(), "{mode:?} was not refused");
            self.forget_failed();
            self.told.refused += 1;
            return;
        }
        *match mode {
            Mode::Full => &mut self.told.full,
            Mode::Delta => &mut self.told.delta,
            Mode::Ptrack => &mut self.told.ptrack,
        } += 1;
        let id = taken.unwrap();
        let state = self.cluster.state.clone();
        self.backups.push(Backup {
            id,
            parent,
            state,
            start,
            externals,
        });
    }

    /// Removes the directory of a backup that was refused.
    fn forget_failed(&self) {
        let instance = self.tool.backup_path(BackupId::from_start_time(1).unwrap());
        for entry in fs::read_dir(instance.parent().unwrap()).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let is_known = |backup: &Backup| backup.id.to_string() == name;
            if entry.path().is_dir() && !self.backups.iter().any(is_known) {
                fs::remove_dir_all(entry.path()).unwrap();
            }
        }
    }

    fn restore(&mut self, index: usize) {
        self.told.restores += 1;
        let name = format!("restored.{}", self.told.restores);
        let to = Place::below(&self.root.join(name));
        let backup = &self.backups[index];
        let (id, externals) = (backup.id, backup.externals);
        let expected = backup.state.backed_up(externals);
        let request = RestoreRequest {
            id,
            from: self.cluster.place.clone(),
            to: to.clone(),
            tablespaces: expected.tablespaces().collect(),
            externals,
            mode: IncrementalMode::None,
            threads: self.threads(),
            engine: self.engine(),
            validate: self.random().one_in(8),
        };
        let restored = self.tool.restore(&request);
        self.say(format!("restore {id}: {restored:?}"));
        restored.unwrap();
        let differences = expected.differences(&to.read(externals));
        assert!(differences.is_empty(), "{}", differences.join("\n"));
        fs::remove_dir_all(to.data.parent().unwrap()).unwrap();
    }

    fn merge(&mut self) {
        let is_increment = |index: &usize| self.backups[*index].parent.is_some();
        let increments: Vec<usize> = (0..self.backups.len()).filter(is_increment).collect();
        if increments.is_empty() {
            return;
        }
        let last = *self.random().choose(&increments);
        let id = self.backups[last].id;
        let merged = self.tool.merge(id);
        self.say(format!("merge {id}: {merged:?}"));
        merged.unwrap();
        self.told.merges += 1;
        let mut gone = self.backups[last].parent.take();
        while let Some(id) = gone {
            let index = self.backups.iter().position(|backup| backup.id == id);
            gone = self.backups.remove(index.unwrap()).parent;
        }
        self.validate();
    }

    /// Deletes a backup and all that grow on it, but never the last FULL one.
    fn delete(&mut self) {
        let count = self.backups.len() as u64;
        let chosen = usize::try_from(self.random().below(count)).unwrap();
        let mut doomed = vec![self.backups[chosen].id];
        for backup in &self.backups[chosen..] {
            if backup.parent.is_some_and(|parent| doomed.contains(&parent)) {
                doomed.push(backup.id);
            }
        }
        let mut left = self
            .backups
            .iter()
            .filter(|backup| !doomed.contains(&backup.id));
        if !left.any(|backup| backup.parent.is_none()) {
            return;
        }
        let deleted = self.tool.delete(doomed[0]);
        self.say(format!("delete {}: {deleted:?}", doomed[0]));
        deleted.unwrap();
        self.told.deletions += 1;
        for id in &doomed {
            let path = self.tool.backup_path(*id);
            assert!(!path.exists(), "{} is still there", path.display());
        }
        self.backups.retain(|backup| !doomed.contains(&backup.id));
        self.validate();
    }

    fn validate(&mut self) {
        let valid = self.tool.validate();
        self.say(format!("validate: {valid:?}"));
        valid.unwrap();
    }

    fn tell(&mut self) {
        self.change();
        self.back_up(Mode::Full);
        for _ in 0..2 + self.random().below(4) {
            match self.random().below(22) {
                0 => self.back_up(Mode::Full),
                1..=5 => {
                    self.change();
                    self.back_up(Mode::Delta);
                }
                6..=11 => {
                    self.change();
                    self.back_up(Mode::Ptrack);
                }
                12..=14 => self.merge(),
                15 | 16 => self.delete(),
                17..=20 => {
                    let count = self.backups.len() as u64;
                    let index = self.random().below(count);
                    self.restore_in_place(usize::try_from(index).unwrap());
                }
                _ => {
                    let count = self.backups.len() as u64;
                    let index = self.random().below(count);
                    self.restore(usize::try_from(index).unwrap());
                }
            }
        }
        for index in 0..self.backups.len() {
            self.restore(index);
        }
        let last = self.backups.len() - 1;
        self.restore_in_place(last);
    }
}

/// Tells the story of a seed and gives the path of its newest backup to `look_at`.
pub(super) fn tell(seed: u64, by: By, look_at: impl FnOnce(&Path)) -> Told {
    let scratch = scratch();
    let mut story = Story::new(seed, scratch.path(), by);
    story.tell();
    let last = story.backups.last().unwrap();
    look_at(&story.tool.backup_path(last.id));
    story.told
}
