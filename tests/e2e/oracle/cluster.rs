//! A cluster in memory that is written to disk when somebody looks: a cleanly stopped openGauss
//! server, small, with every kind of file.

use super::pages;
use super::random::Random;
use super::state::{EXTERNALS, Place, State, StateFile};
use super::tracking::Tracking;
use gs_probackup::format::relation_path::{FileKind, classify};
use gs_probackup::sample::{self, SampleOptions};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// The smallest WAL segments that a server can have: every backup copies one.
const SEGMENT_BYTES: u64 = 1 << 20;

/// Files of other times.
const OLD: i64 = 1_500_000_000;
/// When the stories begin.
const START: i64 = 1_700_000_000;

pub(super) const VERSION_DIRECTORY: &str = "PG_9.2_201611171_single";

/// A `_compress` file by its pages.
pub(super) struct Packed {
    pub(super) pages: Vec<Vec<u8>>,
    chunk_bytes: u32,
}

pub(super) struct Cluster {
    pub(super) place: Place,
    pub(super) state: State,
    on_disk: State,
    pub(super) packed: BTreeMap<String, Packed>,
    pub(super) tracking: Tracking,
    pub(super) random: Random,
    /// Seconds since 1970.
    pub(super) clock: i64,
    /// End of the last WAL record.
    pub(super) lsn: u64,
    system_identifier: u64,
    /// A relation that is changed more often than others.
    pub(super) favourite: String,
    /// The number of the next new relation.
    pub(super) next_relation: u32,
    /// The checkpoint of the state that is on disk.
    pub(super) checkpoint: u64,
}

/// What all clusters begin with.
struct Template {
    state: State,
    system_identifier: u64,
    lsn: u64,
}

fn template() -> &'static Template {
    static TEMPLATE: OnceLock<Template> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let scratch = tempfile::tempdir().unwrap();
        let options = SampleOptions {
            seed: 42,
            bytes: 64 << 10,
        };
        let sample = sample::create(&scratch.path().join("x"), &options).unwrap();
        let place = Place::below(&scratch.path().join("x"));
        std::fs::create_dir(&place.tablespaces).unwrap();
        std::fs::rename(&sample.tablespace, place.tablespace(16_385)).unwrap();
        let link = place.data.join("pg_tblspc/16385");
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(place.tablespace(16_385), link).unwrap();
        let mut state = place.read(&[]);
        state.files.retain(|name, _| is_kept(name));
        for (name, file) in &mut state.files {
            file.mtime = OLD;
            let length = match name.as_str() {
                "global/pg_dw_0" | "global/pg_dw_single" => 16 << 10,
                _ if name.starts_with("pg_clog/") || name.starts_with("pg_csnlog/") => 16 << 10,
                _ if name.starts_with("undo/") => 4 * 8192,
                _ => continue,
            };
            Arc::make_mut(&mut file.bytes).truncate(length);
        }
        // No backup is taken of what is almost empty.
        for number in 0..40 {
            let name = format!("pg_llog/snapshots/{number}");
            state.directories.insert(name);
        }
        Template {
            state,
            system_identifier: sample.system_identifier,
            lsn: sample.checkpoint.0 + 200,
        }
    })
}

/// Of hundreds of system catalogs a few will do.
fn is_kept(name: &str) -> bool {
    let Some((directory, file)) = name.rsplit_once('/') else {
        return true;
    };
    let number = classify(name).rel;
    match directory {
        "pg_xlog" => false,
        "global" => number.is_none_or(|number| number < 14_406),
        "base/1" | "base/16384" => {
            number.is_none_or(|number| !(14_408..16_384).contains(&number))
                && !file.ends_with("_compress")
        }
        "base/15032" | "base/15037" => number.is_none(),
        _ => true,
    }
}

impl Cluster {
    pub(super) fn create(root: &Path, mut random: Random) -> Cluster {
        let template = template();
        let mut state = template.state.clone();
        if !random.one_in(6) {
            // Storage of segment-page relations: a mebibyte each.
            let is_space = |name: &str| matches!(name, "base/16384/1" | "base/16384/2");
            state.files.retain(|name, _| !is_space(name));
        }
        let mut cluster = Cluster {
            place: Place::below(root),
            state,
            on_disk: State::default(),
            packed: BTreeMap::new(),
            tracking: Tracking::begin(template.lsn),
            random,
            clock: START,
            lsn: template.lsn,
            system_identifier: template.system_identifier,
            favourite: String::new(),
            next_relation: 30_000,
            checkpoint: 0,
        };
        let relations = cluster.relations(|name| name.contains("/16384/"));
        cluster.favourite = cluster.random.choose(&relations).clone();
        std::fs::create_dir_all(&cluster.place.data).unwrap();
        for number in EXTERNALS {
            std::fs::create_dir_all(cluster.place.external(number)).unwrap();
        }
        for (number, one_in) in [(16_410, 3), (16_413, 6)] {
            if cluster.random.one_in(one_in) {
                cluster.add_packed(&format!("base/16384/{number}_compress"));
            }
        }
        if cluster.random.one_in(10) {
            cluster.tracking.stop();
        }
        cluster.shut_down();
        cluster
    }

    fn add_packed(&mut self, name: &str) {
        let count = 1 + self.random.below32(140);
        let pages = (0..count).map(|block| {
            let mut page = pages::new_page();
            pages::change(&mut page, &mut self.random);
            self.lsn += 64;
            pages::seal(&mut page, self.lsn, block);
            page
        });
        let packed = Packed {
            pages: pages.collect(),
            chunk_bytes: *self.random.choose(&[512, 1024, 2048, 4096]),
        };
        self.packed.insert(name.to_owned(), packed);
        self.pack(name);
    }

    /// Makes the file of a packed relation from its pages.
    pub(super) fn pack(&mut self, name: &str) {
        let packed = &self.packed[name];
        let bytes = pages::pack(&packed.pages, packed.chunk_bytes);
        self.put(name, bytes);
    }

    /// Writes a file now.
    pub(super) fn put(&mut self, name: &str, bytes: Vec<u8>) {
        let file = StateFile {
            bytes: Arc::new(bytes),
            mtime: self.clock,
        };
        self.state.files.insert(name.to_owned(), file);
    }

    /// The bytes of a file, to be changed now.
    pub(super) fn change(&mut self, name: &str) -> &mut Vec<u8> {
        let file = self.state.files.get_mut(name).unwrap();
        file.mtime = self.clock;
        Arc::make_mut(&mut file.bytes)
    }

    /// All files of main forks of pages that are not packed and that `is_wanted`.
    pub(super) fn relations(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let is_relation = |name: &&String| match classify(name).kind {
            FileKind::Relation(file) => !file.compressed,
            _ => false,
        };
        let names = self.state.files.keys().filter(is_relation);
        names.filter(|name| is_wanted(name)).cloned().collect()
    }

    /// Stops the server cleanly and brings the files to disk; returns its last checkpoint.
    pub(super) fn shut_down(&mut self) -> u64 {
        let number = self.lsn / SEGMENT_BYTES + 1;
        let shutdown = sample::shutdown(self.system_identifier, number, SEGMENT_BYTES);
        for file in shutdown.files {
            let mut bytes = file.bytes;
            bytes.resize(usize::try_from(file.length).unwrap(), 0);
            self.put(&file.path, bytes);
        }
        let mut wal: Vec<String> = self.state.files.keys().cloned().collect();
        wal.retain(|name| name.starts_with("pg_xlog/"));
        for name in wal.iter().rev().skip(2) {
            self.state.files.remove(name);
        }
        let checkpoint = shutdown.checkpoint.0;
        self.lsn = checkpoint + 200;
        let tracked_to = match self.random.below(3) {
            0 => checkpoint,
            1 => checkpoint + 160,
            // The records of the shutdown itself come too late to be tracked.
            _ => shutdown.first_record.0,
        };
        self.tracking.cut(tracked_to, &mut self.random);
        self.write_tracking();
        self.state.write(&self.on_disk, &self.place);
        self.on_disk = self.state.clone();
        self.checkpoint = checkpoint;
        checkpoint
    }

    /// What is on disk.
    pub(super) fn on_disk(&self) -> &State {
        &self.on_disk
    }

    fn write_tracking(&mut self) {
        let files: BTreeMap<String, Vec<u8>> = self
            .tracking
            .files()
            .map(|(name, bytes)| (name, bytes.to_vec()))
            .collect();
        let is_gone = |name: &String| name.starts_with("pg_cbm/") && !files.contains_key(name);
        self.state.files.retain(|name, _| !is_gone(name));
        for (name, bytes) in files {
            let old = self.state.files.get(&name);
            if old.is_none_or(|old| *old.bytes != bytes) {
                self.put(&name, bytes);
            }
        }
    }
}
