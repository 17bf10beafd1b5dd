//! Increments take what changed and nothing else. That every member of any chain comes back as the
//! cluster was when it was taken, `oracle` shows.

pub(crate) mod changes;
pub(crate) mod tracking;

use crate::cluster::{Cluster, INSTANCE};
use crate::fixtures;
use crate::online::{Online, completed_id};
use crate::postgres::{Load, Settings, Stop, load};
use crate::support::{Output, assert_success, gs_probackup};
use crate::take_full_backup::check_independently;
use changes::{assert_same_tree, copy_tree};
use gs_probackup::format::catalog::{ContentList, EntrySize, Root};
use std::collections::BTreeMap;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) fn content_list(backup: &Path) -> ContentList {
    let file = std::fs::File::open(backup.join("backup_content.control")).unwrap();
    ContentList::parse(BufReader::new(file)).unwrap().0
}

/// Paths of files that the backup says are as in its parent, and of those that it has some of.
pub(crate) fn unchanged_and_stored(backup: &Path) -> (Vec<String>, Vec<String>) {
    let list = content_list(backup);
    let paths = |wanted: fn(EntrySize) -> bool| {
        let entries = list
            .iter()
            .filter(|entry| entry.is_regular() && wanted(entry.size));
        entries.map(|entry| entry.path.into_owned()).collect()
    };
    (
        paths(|size| size == EntrySize::Unchanged),
        paths(|size| matches!(size, EntrySize::Bytes(1..))),
    )
}

/// Makes the files below `directory` that `find` finds by `which` older than any backup.
fn touch(directory: &Path, which: &[&str]) {
    let mut find = Command::new("find");
    find.arg(directory).args(["-type", "f"]).args(which);
    find.args(["-exec", "touch", "-d", "2020-01-01", "{}", "+"]);
    assert!(find.status().unwrap().success());
}

#[test]
fn nothing_changed_makes_an_increment_of_wal_and_control_file() {
    let cluster = Cluster::create(2 << 20);
    // Whatever is as young as the parent is copied.
    touch(&cluster.sample.data_directory, &[]);
    cluster.back_up(&[]);
    let id = cluster.back_up(&["-b", "DELTA"]);
    let (unchanged, mut stored) = unchanged_and_stored(&cluster.backup_path(&id));
    stored.retain(|path| !is_always_stored(path));
    // Pages without a position in WAL are those that are not known to be unchanged.
    stored.retain(|path| !path.starts_with("base/") && !path.starts_with("pg_tblspc/"));
    stored.retain(|path| !path.starts_with("undo/") && !path.starts_with("global/"));
    assert!(stored.is_empty(), "{stored:?}");
    assert!(unchanged.len() > 100, "{}", unchanged.len());
    let plain = |path: &str| unchanged.iter().any(|found| found == path);
    assert!(
        plain("postgresql.conf") && plain("undo/undometa"),
        "{unchanged:?}"
    );
}

fn is_always_stored(path: &str) -> bool {
    // The last one ends in its own CRC, so that its CRC is always the same.
    let always = [
        "global/pg_control",
        "tablespace_map",
        "pg_logical/replorigin_checkpoint",
    ];
    path.starts_with("pg_xlog/") || always.contains(&path)
}

#[test]
fn file_that_was_swapped_for_one_of_another_kind_comes_back() {
    let cluster = Cluster::create(512 << 10);
    let data = &cluster.sample.data_directory;
    let plain = data.join("swapped");
    std::fs::write(&plain, [1; 9000]).unwrap();
    cluster.back_up(&[]);
    std::fs::remove_file(&plain).unwrap();
    // Now a directory of that name.
    std::fs::create_dir(&plain).unwrap();
    std::fs::write(plain.join("y"), [2; 10]).unwrap();
    let id = cluster.back_up(&["-b", "DELTA"]);
    let (restored, _) = cluster.restore(&id, "restored");
    assert_same_tree(data, &restored);
}

#[test]
fn increment_without_a_full_backup_is_refused_and_leaves_nothing() {
    let cluster = Cluster::create(512 << 10);
    let output = cluster.try_back_up(&["-b", "DELTA"]);
    assert_eq!(output.code, Some(1), "{output:#?}");
    assert!(
        output
            .stderr
            .contains("ERROR: Create new full backup before an incremental one"),
        "{output:#?}"
    );
    assert!(
        output
            .stderr
            .contains("WARNING: Valid backup on current timeline 1 is not found"),
        "{output:#?}"
    );
    let backups = cluster.catalog.join("backups").join(INSTANCE);
    let left = std::fs::read_dir(backups).unwrap();
    let left: Vec<_> = left
        .filter(|entry| entry.as_ref().unwrap().path().is_dir())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn damaged_content_list_of_the_parent_is_noticed() {
    let cluster = Cluster::create(512 << 10);
    let id = cluster.back_up(&[]);
    let list = cluster.backup_path(&id).join("backup_content.control");
    let text = std::fs::read_to_string(&list).unwrap();
    std::fs::write(
        &list,
        text.replacen("\"mode\":\"33152\"", "\"mode\":\"33153\"", 1),
    )
    .unwrap();
    let output = cluster.try_back_up(&["-b", "DELTA"]);
    assert_eq!(output.code, Some(1), "{output:#?}");
    let said = format!("Failed to get filelist for backup {id}");
    assert!(output.stderr.contains(&said), "{output:#?}");
}

#[test]
fn cluster_from_the_past_is_refused() {
    let mut cluster = Cluster::create(512 << 10);
    let past = cluster.scratch.path().join("past");
    copy_tree(&cluster.sample.data_directory, &past);
    cluster.sample.start_and_stop().unwrap();
    cluster.back_up(&[]);
    let past = past.display().to_string();
    let output = cluster.try_back_up(&["-b", "DELTA", "-D", &past]);
    assert_eq!(output.code, Some(1), "{output:#?}");
    assert!(
        output.stderr.contains("is lower than START LSN"),
        "{output:#?}"
    );
}

#[test]
fn stopped_cluster_without_tracking_is_told_what_to_do() {
    let mut cluster = Cluster::create(512 << 10);
    cluster.back_up(&[]);
    cluster.sample.start_and_stop().unwrap();
    let output = cluster.try_back_up(&["-b", "PTRACK"]);
    assert_eq!(output.code, Some(1), "{output:#?}");
    assert!(
        output.stderr.contains("maybe enable_cbm_tracking is off"),
        "{output:#?}"
    );
    assert!(
        output
            .stderr
            .contains("HINT: with enable_cbm_tracking = on"),
        "{output:#?}"
    );
}

/// The stopped cluster of the fixtures and the catalog in which the original took a FULL and one
/// PTRACK backup of it; the cluster is as a second one, here removed, found it.
struct Gauss {
    scratch: tempfile::TempDir,
    gauss: PathBuf,
}

impl Gauss {
    fn unpack() -> Option<Gauss> {
        let gauss = fixtures::gauss()?;
        let scratch = tempfile::tempdir().unwrap();
        fixtures::unpack(&gauss, "pgdata", scratch.path());
        let found = Gauss { scratch, gauss };
        std::fs::create_dir(found.catalog()).unwrap();
        fixtures::unpack(&found.gauss, "catalog_zlib", &found.catalog());
        let theirs = found.catalog().join("backups/zlib/TOU8D9");
        std::fs::rename(theirs, found.theirs()).unwrap();
        let link = found.data().join("pg_tblspc/16385");
        std::fs::remove_file(&link).unwrap();
        let tablespace = found.scratch.path().join("gauss/ts/ts1");
        std::os::unix::fs::symlink(tablespace, &link).unwrap();
        Some(found)
    }

    fn catalog(&self) -> PathBuf {
        self.scratch.path().join("catalog")
    }

    fn data(&self) -> PathBuf {
        self.scratch.path().join("gauss/data/dn1")
    }

    /// The original's second increment.
    fn theirs(&self) -> PathBuf {
        self.scratch.path().join("theirs")
    }

    fn try_back_up(&self, mode: &str, others: &[&str]) -> Output {
        let data = self.data().display().to_string();
        let mut words = vec![
            "backup",
            "--instance=zlib",
            "-D",
            &data,
            "-b",
            mode,
            "--offline",
        ];
        words.extend(others);
        gs_probackup(&words, &self.catalog())
    }

    fn back_up(&self, mode: &str) -> String {
        let output = self.try_back_up(mode, &["--compress-algorithm=lz4", "-j2"]);
        assert_success(&output);
        assert!(
            output.stderr.contains("INFO: Parent backup: TOU8CR"),
            "{output:#?}"
        );
        completed_id(&output)
    }

    fn path(&self, id: &str) -> PathBuf {
        self.catalog().join("backups/zlib").join(id)
    }

    fn restore(&self, id: &str, name: &str) -> PathBuf {
        let target = self.scratch.path().join(name);
        let (to, from) = (target.display().to_string(), self.scratch.path().display());
        let mapping = format!("{from}/gauss/ts/ts1={from}/{name}.ts1");
        let words = [
            "restore",
            "--instance=zlib",
            "-i",
            id,
            "-D",
            &to,
            "-T",
            &mapping,
        ];
        assert_success(&gs_probackup(&words, &self.catalog()));
        target
    }
}

/// Blocks that a backup stores of each file of pages.
pub(crate) fn stored_blocks(backup: &Path) -> BTreeMap<String, Vec<u32>> {
    let list = content_list(backup);
    let files = list
        .iter()
        .filter(|entry| entry.is_datafile && entry.size.bytes() > 0);
    let blocks = files.map(|entry| {
        let reference = entry.headers.unwrap();
        let map = std::fs::read(backup.join("page_header_map")).unwrap();
        let start = usize::try_from(reference.offset).unwrap();
        let mut bytes = Vec::new();
        let stored = &map[start..start + usize::try_from(reference.size).unwrap()];
        std::io::Read::read_to_end(&mut flate2::read::ZlibDecoder::new(stored), &mut bytes)
            .unwrap();
        let records = bytes
            .chunks_exact(24)
            .take(usize::try_from(reference.count).unwrap());
        let block = |record: &[u8]| u32::from_le_bytes(record[8..12].try_into().unwrap());
        (entry.path.into_owned(), records.map(block).collect())
    });
    blocks.collect()
}

/// Makes pages of `theirs` like those of `ours` that differ in hint bits only: these change
/// without WAL, and the parent's image of the page is as right.
fn adopt_hints(ours: &Path, theirs: &Path) {
    let (ours, mut bytes) = (std::fs::read(ours).unwrap(), std::fs::read(theirs).unwrap());
    assert_eq!(ours.len(), bytes.len(), "{}", theirs.display());
    let pages = ours.chunks_exact(8192).zip(bytes.chunks_exact_mut(8192));
    let mut adopted = false;
    for (ours, theirs) in pages.filter(|(ours, theirs)| ours != theirs) {
        let is_hint = |at: usize| (8..10).contains(&at) || (ours[at] ^ theirs[at]) & 0xF0 == 0;
        if ours[..8] == theirs[..8] && (8..8192).all(is_hint) {
            theirs.copy_from_slice(ours);
            adopted = true;
        }
    }
    if adopted {
        std::fs::write(theirs, bytes).unwrap();
    }
}

/// What was read of it comes back as it is in the stopped directory; packed relations by their
/// pages.
fn assert_like_the_stopped(gauss: &Gauss, id: &str) {
    check_independently(&gauss.path(id));
    let restored = gauss.restore(id, &format!("restored.{id}"));
    let list = content_list(&gauss.path(id));
    for entry in list
        .iter()
        .filter(|entry| entry.is_datafile && entry.compressed.is_none())
    {
        let (ours, theirs) = (restored.join(&*entry.path), gauss.data().join(&*entry.path));
        if theirs.exists() {
            adopt_hints(&ours, &theirs);
        }
    }
    crate::take_full_backup::compare(
        &gauss.data(),
        &restored,
        &gauss.scratch.path().join(format!("restored.{id}.ts1")),
    );
}

#[test]
fn tracked_changes_of_a_stopped_server_are_those_that_the_original_stored_and_more() {
    let Some(gauss) = Gauss::unpack() else {
        return;
    };
    let id = gauss.back_up("PTRACK");
    let (ours, theirs) = (
        stored_blocks(&gauss.path(&id)),
        stored_blocks(&gauss.theirs()),
    );
    assert!(theirs.len() > 20, "{}", theirs.len());
    let present = content_list(&gauss.path(&id));
    for (path, blocks) in &theirs {
        let entry = present.find(path, Root::Data).unwrap();
        let n_blocks = entry.n_blocks.unwrap_or(0);
        for block in blocks.iter().filter(|block| **block < n_blocks) {
            let has = ours.get(path).is_some_and(|ours| ours.contains(block));
            assert!(has, "{path} block {block}");
        }
    }
    let count = |stored: &BTreeMap<String, Vec<u32>>| stored.values().map(Vec::len).sum::<usize>();
    let (ours, theirs) = (count(&ours), count(&theirs));
    eprintln!("pages: the original {theirs}, ours {ours}");
    assert!(
        ours < 3 * theirs,
        "the original stored {theirs} pages, we {ours}"
    );
    assert_like_the_stopped(&gauss, &id);
}

#[test]
fn pages_tell_the_changes_of_a_stopped_opengauss() {
    let Some(gauss) = Gauss::unpack() else {
        return;
    };
    let id = gauss.back_up("DELTA");
    assert_like_the_stopped(&gauss, &id);
}

#[test]
fn unchanged_pages_are_not_even_read() {
    let Some(gauss) = Gauss::unpack() else {
        return;
    };
    // Whoever reads them notices.
    let list = content_list(&gauss.theirs());
    let mut ruined = 0;
    // Relations with an init fork are taken as a whole.
    let is_unlogged = |path: &str| gauss.data().join(format!("{path}_init")).exists();
    for entry in list.iter().filter(|entry| entry.is_datafile) {
        if entry.size == EntrySize::Unchanged
            && entry.compressed.is_none()
            && !is_unlogged(&entry.path)
        {
            let path = gauss.data().join(&*entry.path);
            let length = std::fs::metadata(&path).unwrap().len();
            std::fs::write(&path, vec![0xA5; usize::try_from(length).unwrap()]).unwrap();
            ruined += 1;
        }
    }
    assert!(ruined > 500, "{ruined}");
    gauss.back_up("PTRACK");
    let output = gauss.try_back_up("DELTA", &[]);
    assert!(output.stderr.contains("Corruption detected"), "{output:#?}");
}

#[test]
fn database_that_takes_the_place_of_another_is_copied_whole() {
    let Some(online) = Online::create(Settings::default()) else {
        return;
    };
    let server = &online.server;
    server.execute("postgres", "create database model");
    server.execute(
        "model",
        "create table t as select generate_series(1, 5000) as n",
    );
    // Copies of files have the pages of the model, older than any backup, under the same names.
    let make = |name: &str| {
        let words = format!("create database {name} oid 20000 template model strategy file_copy");
        server.execute("postgres", &words);
    };
    make("first");
    server.execute(
        "first",
        "update t set n = -n; create table u as select 1 as n",
    );
    online.back_up(&[]);
    server.execute("postgres", "drop database first");
    make("second");
    let id = online.back_up(&["-b", "DELTA"]);
    let expected = server.digest_of_all_tables();
    let mut restored = online.restore_and_start(&id, "restored");
    assert_eq!(restored.digest_of_all_tables(), expected);
    restored.assert_amcheck();
    restored.stop(Stop::Fast);
    restored.assert_checksums();
}

#[test]
fn chain_of_a_postgresql_under_load_comes_back_from_its_last_member() {
    let Some(online) = Online::create(Settings::default()) else {
        return;
    };
    let server = &online.server;
    Load::initialize(server, 3);
    server.execute(
        "bench",
        // What autovacuum does to a table are changes.
        "create table still with (autovacuum_enabled = off) as
             select generate_series(1, 50000) as n;
         create table gone as select 1; create table cut as select generate_series(1, 50000) as n;",
    );
    // A database as young as the parent may have taken the place of another, and is copied whole.
    touch(&server.data.join("base"), &["-name", "PG_VERSION"]);
    let full = online.back_up(&["--compress-algorithm=zlib"]);
    let load = Load::start(server, 2);
    let first = online.back_up(&["-b", "DELTA"]);
    server.execute(
        "bench",
        "drop table gone; delete from cut where n > 100; vacuum cut;
         create table made as select generate_series(1, 1000) as n;",
    );
    let before = load::history(server);
    let second = online.back_up(&["-b", "DELTA", "--compress-algorithm=zstd", "-j2"]);
    drop(load);
    let stored = |id: &str| {
        let (_, stored) = unchanged_and_stored(&online.backup_path(id));
        stored
    };
    let still = server.query("bench", "select pg_relation_filepath('still')");
    assert!(stored(&full).contains(&still) && !stored(&second).contains(&still));
    let expected = server.digest_of_all_tables();
    server.assert_out_of_backup_mode();
    for id in [&first, &second] {
        let mut restored = online.restore_and_start(id, &format!("restored.{id}"));
        load::assert_between_transactions(&restored);
        restored.assert_amcheck();
        let found = restored.digest_of_all_tables();
        assert_eq!(found["bench.public.still"], expected["bench.public.still"]);
        if *id == second {
            assert!(before.is_subset(&load::history(&restored)));
            assert_eq!(found["bench.public.made"], expected["bench.public.made"]);
            assert_eq!(found["bench.public.cut"], expected["bench.public.cut"]);
            assert!(!found.contains_key("bench.public.gone"));
        }
        restored.stop(Stop::Fast);
        restored.assert_checksums();
    }
    crate::online::check_independently(&online.backup_path(&second));
    let output = online.try_back_up(&online.socket(), &["-b", "PTRACK"]);
    assert_eq!(output.code, Some(1), "{output:#?}");
    assert!(
        output.stderr.contains("HINT: take it with -b DELTA"),
        "{output:#?}"
    );
}
