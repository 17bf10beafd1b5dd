//! Random changes of a cluster, as a server makes them: a page that changes gets a position in WAL
//! and is tracked; growth is neither; files and databases come and go.
//!
//! Left out: hint bits, which change pages without WAL; either image is right then, and no backup
//! promises one of them.

use super::cluster::{Cluster, VERSION_DIRECTORY};
use super::pages;
use super::state::EXTERNALS;
use gs_probackup::format::cbm::RelationNumbers;
use gs_probackup::format::page::PAGE_SIZE;
use gs_probackup::format::relation_path::{FileKind, classify};

/// A vacuum that is disturbed gives up truncating at such a multiple.
const TRUNCATE_STEP: usize = 32;

/// Blocks of a relation at most, so that stories stay short.
const BLOCKS_MAX: usize = 400;

const BUCKET_OF_SEGMENT_SPACE: i16 = 16_384;

fn is_segment_space(name: &str) -> bool {
    classify(name).rel.is_some_and(|rel| rel <= 5)
}

fn numbers(name: &str) -> RelationNumbers {
    let found = classify(name);
    RelationNumbers {
        tablespace: found.tablespace_oid,
        database: found.db_oid,
        relation: found.rel.unwrap_or(0),
        bucket: match is_segment_space(name) {
            true => BUCKET_OF_SEGMENT_SPACE,
            false => -1,
        },
    }
}

fn directory_numbers(tablespace: u32, database: u32) -> RelationNumbers {
    RelationNumbers {
        tablespace,
        database,
        relation: 0,
        bucket: -1,
    }
}

fn block_number(block: usize) -> u32 {
    u32::try_from(block).unwrap()
}

impl Cluster {
    /// Changes something; says what.
    pub(super) fn change_something(&mut self) -> String {
        self.clock += i64::from(self.random.below32(3));
        let said = match self.random.below(29) {
            0..=4 => self.write_pages(),
            5..=7 => self.extend(),
            8 | 9 => self.truncate(),
            10 => self.drop_relation(),
            11 | 12 => self.create_relation(),
            13 => self.rewrite_relation(),
            14 => self.write_unlogged(),
            15 => self.write_map(),
            16 | 17 => self.change_plain_file(),
            18 => self.change_directories(),
            19 | 20 => self.change_databases(),
            21 => self.change_tablespaces(),
            22 | 23 => self.change_packed(),
            24 => self.write_segment_space(),
            25 => self.write_columns_or_undo(),
            26 => self.change_tracking(),
            _ => self.change_external(),
        };
        if self.random.one_in(3) {
            let lsn = self.lsn;
            self.tracking.cut(lsn, &mut self.random);
        }
        said
    }

    fn any_relation(&mut self) -> Option<String> {
        let is_logged = |name: &str| !is_segment_space(name);
        let mut relations = self.relations(is_logged);
        relations.retain(|name| !self.state.files.contains_key(&format!("{name}_init")));
        // Most faults need several changes of one relation.
        if self.random.one_in(3) && relations.contains(&self.favourite) {
            return Some(self.favourite.clone());
        }
        (!relations.is_empty()).then(|| self.random.choose(&relations).clone())
    }

    fn blocks(&self, name: &str) -> usize {
        self.state.files[name].bytes.len() / PAGE_SIZE
    }

    /// Changes a page as WAL says.
    fn write(&mut self, name: &str, block: usize) {
        self.lsn += 8 + self.random.below(300) * 8;
        let (lsn, at) = (self.lsn, block * PAGE_SIZE);
        let mut page = self.state.files[name].bytes[at..at + PAGE_SIZE].to_vec();
        if pages::is_zero(&page) {
            page = pages::new_page();
        }
        pages::change(&mut page, &mut self.random);
        pages::seal(&mut page, lsn, block_number(block));
        self.change(name)[at..at + PAGE_SIZE].copy_from_slice(&page);
        self.tracking.wrote(numbers(name), block_number(block));
    }

    fn write_some(&mut self, name: &str, count: u64, is_page: impl Fn(&[u8]) -> bool) -> usize {
        let blocks = self.blocks(name);
        if blocks == 0 {
            return 0;
        }
        let count = 1 + self.random.below(count);
        for _ in 0..count {
            let block = usize::try_from(self.random.below(blocks as u64)).unwrap();
            let at = block * PAGE_SIZE;
            if is_page(&self.state.files[name].bytes[at..at + PAGE_SIZE]) {
                self.write(name, block);
            }
        }
        blocks
    }

    fn write_pages(&mut self) -> String {
        let Some(name) = self.any_relation() else {
            return "no relation is left".to_owned();
        };
        let blocks = self.write_some(&name, 6, |_| true);
        format!("write into {name} of {blocks} blocks")
    }

    fn extend(&mut self) -> String {
        let Some(name) = self.any_relation() else {
            return "no relation is left".to_owned();
        };
        let (from, to) = self.grow(&name);
        format!("extend {name} from {from} to {to} blocks")
    }

    /// Adds blocks, some of which are used.
    fn grow(&mut self, name: &str) -> (usize, usize) {
        let from = self.blocks(name);
        let most = if self.random.one_in(8) { 150 } else { 12 };
        let to = (from + 1 + usize::try_from(self.random.below(most)).unwrap()).min(BLOCKS_MAX);
        let to = to.max(from);
        self.change(name).resize(to * PAGE_SIZE, 0);
        let unused = *self.random.choose(&[1, 1, 2, 3, 3, 1000]);
        for block in from..to {
            if !self.random.one_in(unused) {
                self.write(name, block);
            }
        }
        (from, to)
    }

    /// Truncates to an end that a vacuum leaves, not before `least` if there is one: behind a used
    /// page, or where it was disturbed.
    fn cut(&mut self, name: &str, least: usize) -> usize {
        let bytes = &self.state.files[name].bytes;
        let is_end = |end: &usize| {
            end.is_multiple_of(TRUNCATE_STEP)
                || !pages::is_zero(&bytes[(end - 1) * PAGE_SIZE..end * PAGE_SIZE])
        };
        let blocks = bytes.len() / PAGE_SIZE;
        let mut ends: Vec<usize> = (least.min(blocks)..=blocks).filter(is_end).collect();
        if ends.is_empty() {
            ends.push(0);
        }
        let end = *self.random.choose(&ends);
        self.lsn += 64;
        self.change(name).truncate(end * PAGE_SIZE);
        self.tracking.truncated(numbers(name), block_number(end));
        end
    }

    fn truncate(&mut self) -> String {
        let Some(name) = self.any_relation() else {
            return "no relation is left".to_owned();
        };
        let before = self.blocks(&name);
        let end = self.cut(&name, 0);
        let mut said = format!("truncate {name} of {before} blocks to {end}");
        if self.random.one_in(2) {
            said += &format!(", extend it to {}", self.grow(&name).1);
            if self.random.one_in(2) {
                said += &format!(", truncate it to {}", self.cut(&name, end + 1));
            }
        }
        said
    }

    fn remove_relation(&mut self, name: &str) {
        self.lsn += 64;
        self.tracking.dropped(numbers(name));
        for fork in ["", "_fsm", "_vm", "_init"] {
            self.state.files.remove(&format!("{name}{fork}"));
        }
    }

    fn drop_relation(&mut self) -> String {
        let Some(name) = self.any_relation() else {
            return "no relation is left".to_owned();
        };
        self.remove_relation(&name);
        if self.random.one_in(3) {
            // A number may come again.
            self.make_relation(&name);
            let to = self.grow(&name).1;
            return format!("drop {name} and make another of {to} blocks");
        }
        format!("drop {name}")
    }

    fn make_relation(&mut self, name: &str) {
        self.lsn += 64;
        self.tracking.created(numbers(name));
        self.put(name, Vec::new());
    }

    /// A name for a new relation, in any tablespace.
    fn new_name(&mut self) -> String {
        self.next_relation += 1;
        let tablespaces: Vec<u32> = self.state.tablespaces().collect();
        let number = self.next_relation;
        match self.random.below(3) {
            0 if !tablespaces.is_empty() => {
                let oid = self.random.choose(&tablespaces);
                format!("pg_tblspc/{oid}/{VERSION_DIRECTORY}/16384/{number}")
            }
            _ => format!("base/16384/{number}"),
        }
    }

    fn create_relation(&mut self) -> String {
        let name = self.new_name();
        self.make_relation(&name);
        if !self.random.one_in(4) {
            self.grow(&name);
        }
        format!("make {name} of {} blocks", self.blocks(&name))
    }

    /// As `vacuum full` or `alter table set tablespace`: all pages in another file.
    fn rewrite_relation(&mut self) -> String {
        let Some(old) = self.any_relation() else {
            return "no relation is left".to_owned();
        };
        let name = self.new_name();
        self.make_relation(&name);
        let bytes = self.state.files[&old].bytes.to_vec();
        let kept = match self.random.one_in(2) {
            true => bytes.len(),
            false => bytes.len() / PAGE_SIZE / 2 * PAGE_SIZE,
        };
        *self.change(&name) = bytes[..kept].to_vec();
        for block in 0..kept / PAGE_SIZE {
            self.write(&name, block);
        }
        self.remove_relation(&old);
        format!("rewrite {old} as {name}")
    }

    /// An unlogged relation: its pages change without a position and nobody tracks them.
    fn write_unlogged(&mut self) -> String {
        let unlogged = "base/16384/29999";
        let init = format!("{unlogged}_init");
        if !self.state.files.contains_key(&init) {
            self.make_relation(unlogged);
            let mut page = pages::new_page();
            pages::seal(&mut page, self.lsn, 0);
            self.put(&init, page);
        }
        let count = self.random.below(5);
        let mut bytes = Vec::new();
        for block in 0..count {
            let mut page = pages::new_page();
            pages::change(&mut page, &mut self.random);
            let lsn = *self.random.choose(&[0, 1, 0x200_0000]);
            pages::seal(&mut page, lsn, u32::try_from(block).unwrap());
            bytes.extend(page);
        }
        self.put(unlogged, bytes);
        format!("write {count} blocks of the unlogged {unlogged}")
    }

    /// Free space and visibility maps change without a new position.
    fn write_map(&mut self) -> String {
        let is_map = |name: &&String| name.ends_with("_fsm") || name.ends_with("_vm");
        let maps: Vec<String> = self.state.files.keys().filter(is_map).cloned().collect();
        if maps.is_empty() {
            return "no map is left".to_owned();
        }
        let name = self.random.choose(&maps).clone();
        let mut page = pages::new_page();
        pages::change(&mut page, &mut self.random);
        pages::seal(&mut page, 0x200_0000, 0);
        let bytes = self.change(&name);
        bytes.resize(bytes.len().max(PAGE_SIZE), 0);
        bytes[..PAGE_SIZE].copy_from_slice(&page);
        format!("write {name}")
    }

    /// Content with or without a new time, a new time alone, a file more or less.
    fn change_plain_file(&mut self) -> String {
        let is_plain = |name: &&String| {
            let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
            ["", "undo", "pg_clog", "pg_logical", "base/16384"].contains(&directory)
                && classify(name).rel.is_none()
                && !name.ends_with("PG_VERSION")
        };
        let names: Vec<String> = self.state.files.keys().filter(is_plain).cloned().collect();
        let name = self.random.choose(&names).clone();
        let before = self.state.files[&name].mtime;
        let at = self
            .random
            .below(self.state.files[&name].bytes.len().max(1) as u64);
        let [byte] = self.random.bytes(1)[..] else {
            unreachable!("one byte was asked for")
        };
        let write = |bytes: &mut Vec<u8>| {
            bytes.resize(bytes.len().max(1), 0);
            bytes[usize::try_from(at).unwrap()] = byte;
        };
        match self.random.below(6) {
            0 => {
                let name = format!("x{}", self.random.below(20));
                let length = usize::try_from(self.random.below(3)).unwrap() * 5000;
                let bytes = self.random.bytes(length);
                self.put(&name, bytes);
                return format!("put {name} of {length} bytes");
            }
            1 => {
                self.change(&name);
                return format!("touch {name}");
            }
            2 if name.starts_with('x') => {
                self.state.files.remove(&name);
                return format!("remove {name}");
            }
            3 => {
                let length = usize::try_from(self.random.below(20_000)).unwrap();
                self.change(&name).resize(length, byte);
                return format!("resize {name} to {length} bytes");
            }
            4 => {
                write(self.change(&name));
                self.state.files.get_mut(&name).unwrap().mtime = before;
                return format!("write {name} and keep its time");
            }
            _ => write(self.change(&name)),
        }
        format!("write {name}")
    }

    fn change_directories(&mut self) -> String {
        let name = format!("y{}", self.random.below(3));
        if self.state.directories.remove(&name) {
            let below = format!("{name}/");
            self.state.files.retain(|file, _| !file.starts_with(&below));
            if self.random.one_in(2) {
                self.put(&name, b"once a directory".to_vec());
                return format!("make a file of the directory {name}");
            }
            return format!("remove the directory {name}");
        }
        self.state.files.remove(&name);
        self.state.directories.insert(name.clone());
        let content = self.random.bytes(50);
        self.put(&format!("{name}/z"), content);
        format!("make the directory {name}")
    }

    /// Files of an external directory are no relations, whatever their names.
    fn change_external(&mut self) -> String {
        const NAMES: [&str; 5] = ["a", "16386", "base/16384/16386", "deep/er/1_fsm", "empty"];
        let number = *self.random.choose(&EXTERNALS);
        let name = *self.random.choose(&NAMES);
        let path = format!("@{number}/{name}");
        let Some(file) = self.state.files.get(&path) else {
            for (at, _) in name.match_indices('/') {
                let directory = format!("@{number}/{}", &name[..at]);
                self.state.directories.insert(directory);
            }
            let length = usize::try_from(self.random.below(4)).unwrap() * 4096;
            let bytes = self.random.bytes(length);
            self.put(&path, bytes);
            return format!("put {path} of {length} bytes");
        };
        let before = file.mtime;
        match self.random.below(4) {
            0 => {
                // Directories stay where they are empty now.
                self.state.files.remove(&path);
                format!("remove {path}")
            }
            1 => {
                self.change(&path);
                format!("touch {path}")
            }
            keeps_time => {
                let bytes = self.random.bytes(8);
                self.change(&path).splice(..0, bytes);
                if keeps_time == 2 {
                    self.state.files.get_mut(&path).unwrap().mtime = before;
                }
                format!("write {path}, keep its time: {}", keeps_time == 2)
            }
        }
    }

    /// A new database has the pages of its model, which are old, perhaps under the names that
    /// another had.
    fn change_databases(&mut self) -> String {
        const DEFAULT_TABLESPACE: u32 = 1663;
        let oid = 20_000 + self.random.below32(2);
        let directory = format!("base/{oid}");
        self.lsn += 64;
        let numbers = directory_numbers(DEFAULT_TABLESPACE, oid);
        if self.state.directories.remove(&directory) {
            let below = format!("{directory}/");
            self.state.files.retain(|file, _| !file.starts_with(&below));
            self.tracking.dropped(numbers);
            if self.random.one_in(2) {
                return format!("drop the database {oid}");
            }
        }
        self.tracking.created(numbers);
        self.state.directories.insert(directory);
        let model: Vec<String> = self.state.files.keys().cloned().collect();
        for name in model.iter().filter(|name| name.starts_with("base/1/")) {
            let bytes = self.state.files[name].bytes.to_vec();
            let copy = name.replacen("base/1/", &format!("base/{oid}/"), 1);
            self.put(&copy, bytes);
            let is_relation = matches!(classify(&copy).kind, FileKind::Relation(_));
            if is_relation && self.random.one_in(3) {
                self.write_some(&copy, 2, |_| true);
            }
        }
        format!("make the database {oid} anew")
    }

    fn change_tablespaces(&mut self) -> String {
        let oid = 16_390 + self.random.below32(2);
        let top = format!("pg_tblspc/{oid}");
        self.lsn += 64;
        let below = format!("{top}/");
        if self.state.directories.contains(&top) {
            let is_in = |name: &str| name.starts_with(&below);
            for name in self.relations(is_in) {
                self.remove_relation(&name);
            }
            self.state.files.retain(|name, _| !is_in(name));
            self.state
                .directories
                .retain(|name| !is_in(name) && *name != top);
            self.tracking.dropped(directory_numbers(oid, 0));
            return format!("drop the tablespace {oid}");
        }
        self.tracking.created(directory_numbers(oid, 0));
        let version = format!("{top}/{VERSION_DIRECTORY}");
        for name in [format!("{version}/16384"), version, top] {
            self.state.directories.insert(name);
        }
        format!("make the tablespace {oid}")
    }

    fn change_packed(&mut self) -> String {
        let names: Vec<String> = self.packed.keys().cloned().collect();
        if names.is_empty() {
            return self.write_pages();
        }
        let name = self.random.choose(&names).clone();
        let numbers = numbers(&name);
        let blocks = self.packed[&name].pages.len();
        let mut from = blocks;
        let said = match self.random.below(4) {
            0 if blocks > 1 => {
                let end = 1 + self.random.below32(block_number(blocks - 1));
                self.lsn += 64;
                self.packed
                    .get_mut(&name)
                    .unwrap()
                    .pages
                    .truncate(end as usize);
                self.tracking.truncated(numbers, end);
                from = end as usize;
                format!("truncate {name} of {blocks} blocks to {end}")
            }
            1 => {
                let to = blocks + 1 + self.random.below32(20) as usize;
                self.packed
                    .get_mut(&name)
                    .unwrap()
                    .pages
                    .resize(to, pages::new_page());
                format!("extend {name} from {blocks} to {to} blocks")
            }
            _ => {
                from = usize::try_from(self.random.below(blocks as u64)).unwrap();
                format!("write into {name} of {blocks} blocks from {from}")
            }
        };
        let to = self.packed[&name].pages.len().min(from + 20);
        for block in from..to {
            self.lsn += 8 + self.random.below(100) * 8;
            let page = &mut self.packed.get_mut(&name).unwrap().pages[block];
            pages::change(page, &mut self.random);
            pages::seal(page, self.lsn, block_number(block));
            self.tracking.wrote(numbers, block_number(block));
        }
        self.pack(&name);
        said
    }

    fn write_segment_space(&mut self) -> String {
        let spaces = self.relations(is_segment_space);
        if spaces.is_empty() {
            return self.write_pages();
        }
        let name = self.random.choose(&spaces).clone();
        // Addresses of chunks are no page.
        let is_page = |page: &[u8]| !pages::is_zero(page) && !page.ends_with(b"seg_comp");
        self.write_some(&name, 30, is_page);
        format!("write into {name}")
    }

    fn write_columns_or_undo(&mut self) -> String {
        let is_column = |name: &&String| name.contains("_C") || name.contains("undo/permanent");
        let names: Vec<String> = self.state.files.keys().filter(is_column).cloned().collect();
        let name = self.random.choose(&names).clone();
        if name.contains("_C") {
            let more = self.random.bytes(8192);
            self.change(&name).extend(more);
        } else {
            let mut page = pages::new_page();
            pages::change(&mut page, &mut self.random);
            pages::seal(&mut page, self.lsn, 1);
            self.change(&name)[PAGE_SIZE..2 * PAGE_SIZE].copy_from_slice(&page);
        }
        format!("write {name}")
    }

    fn change_tracking(&mut self) -> String {
        if !self.tracking.is_on() {
            self.tracking = super::tracking::Tracking::begin(self.lsn);
            return "switch tracking on".to_owned();
        }
        if self.random.one_in(8) {
            self.tracking.stop();
            return "switch tracking off".to_owned();
        }
        match self.tracking.recycle() {
            true => "recycle a file of tracking".to_owned(),
            false => "nothing".to_owned(),
        }
    }
}
