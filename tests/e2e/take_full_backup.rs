//! A full backup of a real data directory, with every compression, comes back as it was; the
//! independent checker agrees.

use crate::cluster::{Cluster, INSTANCE};
use crate::fixtures;
use crate::support::{assert_success, gs_probackup};
use gs_probackup::format::page::PAGE_SIZE;
use gs_probackup::format::page::compressed::{EXTENT_BYTES, ExtentHeader, assemble_page};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a backup leaves out by rule: files of a run, scratch contents, WAL that a start does not
/// need.
fn is_left_out(path: &str, wal: &[String]) -> bool {
    let is_other_wal = path
        .strip_prefix("pg_xlog/")
        .is_some_and(|name| !wal.iter().any(|segment| segment == name));
    is_other_wal
        || path == "postmaster.opts"
        || path == "postmaster.pid"
        || path.starts_with("pg_log/")
        || path.starts_with("pg_notify/")
        || path.starts_with("pg_stat_tmp/")
}

/// Runs the checker of the specification over a backup, where `GS_CHECK_CATALOG` names it.
pub(crate) fn check_independently(backup: &Path) {
    if let Some((success, text)) = independent_opinion(backup) {
        assert!(success && text.trim_end().ends_with("ok"), "{text}");
    }
}

/// Whether the independent checker is content with a backup, and its words; `None`, said aloud,
/// where there is none.
pub(crate) fn independent_opinion(backup: &Path) -> Option<(bool, String)> {
    let Ok(checker) = std::env::var("GS_CHECK_CATALOG") else {
        assert!(
            std::env::var_os("CI").is_none(),
            "GS_CHECK_CATALOG is mandatory in CI"
        );
        eprintln!(
            "SKIPPED: the independent checker; set GS_CHECK_CATALOG to \
             \"python3 ../shared/tools/check_catalog.py\""
        );
        return None;
    };
    let mut words = checker.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .arg(backup)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let text = errors.into_owned() + &String::from_utf8_lossy(&output.stdout);
    Some((output.status.success(), text))
}

fn completed_id(stderr: &str) -> String {
    let id = stderr.lines().find_map(|line| {
        line.strip_prefix("INFO: Backup ")?
            .strip_suffix(" completed")
    });
    id.unwrap_or_else(|| panic!("{stderr}")).to_owned()
}

fn real_directory_comes_back(algorithm: &str) {
    let Some(gauss) = fixtures::gauss() else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path();
    fixtures::unpack(&gauss, "pgdata", root);
    let data = root.join("gauss/data/dn1");
    let tablespace = root.join("gauss/ts/ts1");
    relink(&data, &tablespace);
    let catalog = root.join("catalog");
    assert_success(&gs_probackup(&["init"], &catalog));
    let pgdata = data.display().to_string();
    assert_success(&gs_probackup(
        &["add-instance", "--instance=dn1", "-D", &pgdata],
        &catalog,
    ));
    let compress = format!("--compress-algorithm={algorithm}");
    let arguments = [
        "backup",
        "--instance=dn1",
        "-b",
        "FULL",
        "--offline",
        "-j2",
        &compress,
    ];
    let output = gs_probackup(&arguments, &catalog);
    assert_success(&output);
    let id = completed_id(&output.stderr);
    let backup = catalog.join("backups/dn1").join(&id);
    check_independently(&backup);
    assert_success(&gs_probackup(
        &["validate", "--instance=dn1", "-j2"],
        &catalog,
    ));
    let (target, moved) = (root.join("restored"), root.join("moved"));
    let mapping = format!("{}={}", tablespace.display(), moved.display());
    let to = target.display().to_string();
    let arguments = [
        "restore",
        "--instance=dn1",
        "-D",
        &to,
        "-T",
        &mapping,
        "-j2",
    ];
    assert_success(&gs_probackup(&arguments, &catalog));
    compare(&data, &target, &moved);
    let differences = fixtures::differences(
        &fixtures::manifest(&tablespace),
        &fixtures::manifest(&moved),
    );
    assert!(
        differences.is_empty(),
        "tablespace:\n{}",
        differences.join("\n")
    );
}

/// Points the cluster's tablespace at its unpacked place.
fn relink(data: &Path, tablespace: &Path) {
    let link = data.join("pg_tblspc/16385");
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(tablespace, &link).unwrap();
}

/// All that a backup takes must come back equal, and nothing else.
///
/// Compressed relations come back with the same pages, packed as the original's restore packs them.
pub(crate) fn compare(data: &Path, target: &Path, moved: &Path) {
    let mut expected = fixtures::manifest(data);
    let mut found = fixtures::manifest(target);
    let wal: Vec<String> = found
        .keys()
        .filter_map(|path| path.strip_prefix("pg_xlog/").map(str::to_owned))
        .collect();
    assert_eq!(
        wal.len(),
        1,
        "the shutdown checkpoint lies in one segment: {wal:?}"
    );
    expected.retain(|path, _| !is_left_out(path, &wal));
    expected.get_mut("pg_tblspc/16385").unwrap().content = moved.display().to_string();
    let packed: Vec<String> = expected
        .keys()
        .filter(|path| path.ends_with("_compress"))
        .cloned()
        .collect();
    assert_eq!(packed.len(), 3, "{packed:?}");
    for path in &packed {
        let pages = logical_pages(&data.join(path));
        assert!(pages == logical_pages(&target.join(path)), "{path}");
        assert_eq!(
            expected.remove(path).map(|line| line.mode),
            found.remove(path).map(|line| line.mode)
        );
    }
    let differences = fixtures::differences(&expected, &found);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// The pages of a compressed relation, one behind the other.
pub(crate) fn logical_pages(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap();
    let mut pages = Vec::new();
    for extent in bytes.chunks_exact(EXTENT_BYTES) {
        let header = ExtentHeader::parse(&extent[EXTENT_BYTES - PAGE_SIZE..]).unwrap();
        for slot in 0..header.block_count() {
            let start = pages.len();
            pages.resize(start + PAGE_SIZE, 0);
            assemble_page(extent, &header, slot, &mut pages[start..]).unwrap();
        }
    }
    assert!(!pages.is_empty(), "{} holds pages", path.display());
    pages
}

#[test]
fn real_directory_comes_back_uncompressed() {
    real_directory_comes_back("none");
}

#[test]
fn real_directory_comes_back_from_zlib() {
    real_directory_comes_back("zlib");
}

#[test]
fn real_directory_comes_back_from_pglz() {
    real_directory_comes_back("pglz");
}

#[test]
fn real_directory_comes_back_from_lz4() {
    real_directory_comes_back("lz4");
}

#[test]
fn real_directory_comes_back_from_zstd() {
    real_directory_comes_back("zstd");
}

#[test]
fn equal_input_gives_equal_bytes_on_any_number_of_threads() {
    let cluster = Cluster::create(16 << 20);
    let one = cluster.back_up(&["-j1", "--compress-algorithm=zlib"]);
    let two = cluster.back_up(&["-j4", "--compress-algorithm=zlib"]);
    let tree = |id: &str| fixtures::manifest(&cluster.backup_path(id).join("database"));
    let differences = fixtures::differences(&tree(&one), &tree(&two));
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    check_independently(&cluster.backup_path(&one));
}

#[test]
fn tablespace_is_backed_up_without_naming_it() {
    let cluster = Cluster::create(4 << 20);
    let id = cluster.back_up(&[]);
    let stored = cluster.backup_path(&id).join("database/pg_tblspc/16385");
    assert!(stored.is_dir(), "{}", stored.display());
    let (_, tablespace) = cluster.restore(&id, "restored");
    let expected = fixtures::manifest(&cluster.sample.tablespace);
    let differences = fixtures::differences(&expected, &fixtures::manifest(&tablespace));
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(
        expected.len() > 3,
        "the sample's tablespace holds relations"
    );
}

#[test]
fn running_cluster_is_refused() {
    let cluster = Cluster::create(1 << 20);
    let pid_file = cluster.sample.data_directory.join("postmaster.pid");
    std::fs::write(&pid_file, format!("{}\n/data\n", std::process::id())).unwrap();
    let output = cluster.try_back_up(&[]);
    assert_eq!(output.code, Some(1), "{output:?}");
    let pid = std::process::id().to_string();
    assert!(
        output.stderr.contains("ERROR: ") && output.stderr.contains(&pid),
        "{output:?}"
    );
    let backups = cluster.catalog.join("backups").join(INSTANCE);
    let directories: Vec<PathBuf> = std::fs::read_dir(backups)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    assert!(
        directories.is_empty(),
        "nothing is written for a refused backup: {directories:?}"
    );
}

#[test]
fn name_that_no_list_can_hold_is_refused_before_anything_is_copied() {
    let cluster = Cluster::create(1 << 20);
    std::fs::write(cluster.sample.data_directory.join("a,b"), b"x").unwrap();
    let output = cluster.try_back_up(&[]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("a,b"), "{output:?}");
    assert!(
        !output.stderr.contains("Start backing up files"),
        "{output:?}"
    );
}

#[test]
fn corrupt_page_fails_the_backup_and_is_named() {
    let cluster = Cluster::create(4 << 20);
    let relation = largest_relation(&cluster.sample.data_directory.join("base"));
    let mut bytes = std::fs::read(&relation).unwrap();
    bytes[8192 + 5000] ^= 1;
    std::fs::write(&relation, bytes).unwrap();
    let output = cluster.try_back_up(&[]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(
        output.stderr.contains("ERROR: Corruption detected in file"),
        "{output:?}"
    );
    assert!(output.stderr.contains("block 1"), "{output:?}");
    let show = gs_probackup(&["show", "--instance", INSTANCE], &cluster.catalog);
    assert!(show.stdout.contains(" ERROR "), "{}", show.stdout);
}

fn largest_relation(directory: &Path) -> PathBuf {
    let mut files = Vec::new();
    for database in std::fs::read_dir(directory).unwrap() {
        for file in std::fs::read_dir(database.unwrap().path()).unwrap() {
            let file = file.unwrap();
            let name = file.file_name().into_string().unwrap();
            if name.len() >= 5 && name.bytes().all(|byte| byte.is_ascii_digit()) {
                files.push((file.metadata().unwrap().len(), file.path()));
            }
        }
    }
    files.into_iter().max().unwrap().1
}
