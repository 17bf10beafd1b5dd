//! A restore into a directory that holds another state of the same cluster ends as one into an
//! empty directory does, and leaves alone what is right already.

use crate::chain::ChainOfBackups;
use crate::fixtures::{self, ManifestLine};
use crate::merge_chain::memory;
use crate::read_gs_probackup_catalog::is_like_the_original;
use crate::support::{Output, assert_success, gs_probackup};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A directory and its tablespace that backups of a recorded catalog are restored to.
struct Place<'a> {
    backup: &'a Path,
    instance: &'a str,
    target: PathBuf,
    tablespace: PathBuf,
}

impl Place<'_> {
    fn try_restore(&self, id: &str, more: &[&str]) -> Output {
        let data = self.target.display().to_string();
        let mapping = format!("/gauss/ts/ts1={}", self.tablespace.display());
        let external = format!("--external-mapping={mapping}");
        let mut arguments = vec!["restore", "-j", "2", "--no-validate", "--no-sync"];
        arguments.extend(["--instance", self.instance, "-i", id, "-D", &data]);
        arguments.extend(["-T", &mapping]);
        if self.instance == "ext" {
            arguments.push(&external);
        }
        arguments.extend(more);
        gs_probackup(&arguments, self.backup)
    }

    fn restore(&self, id: &str, more: &[&str]) -> Output {
        let output = self.try_restore(id, more);
        assert_success(&output);
        output
    }
}

/// Bytes that a run wrote, by its last but one line about that.
fn ratio(output: &Output) -> u64 {
    let line = output
        .stderr
        .lines()
        .find_map(|line| line.strip_prefix("INFO: Restore incremental ratio (less is better): "));
    let line = line.unwrap_or_else(|| panic!("{}", output.stderr));
    line.split_once('%').unwrap().0.parse().unwrap()
}

/// Each backup of a chain is restored over the one before, and an earlier one over the last.
fn one_is_restored_over_another(catalog: &str, instance: &str, ids: &[&str]) {
    let Some(gauss) = fixtures::gauss() else {
        return;
    };
    let scratch = memory();
    let backup = scratch.path().join("backup");
    fs::create_dir(&backup).unwrap();
    fixtures::unpack(&gauss, &format!("catalog_{catalog}"), &backup);
    let place = Place {
        backup: &backup,
        instance,
        target: scratch.path().join("restored"),
        tablespace: scratch.path().join("restored.ts1"),
    };
    place.restore(ids[0], &[]);
    let back = ids.len().saturating_sub(2);
    for id in ids[1..].iter().chain([&ids[back]]) {
        let output = place.restore(id, &["-I", "checksum"]);
        is_like_the_original(&gauss, catalog, id, &place.target, &place.tablespace);
        assert!(ratio(&output) < 50, "{}", output.stderr);
    }
    let again = place.restore(ids[back], &["-I", "checksum"]);
    let nothing = "INFO: Restore incremental ratio (less is better): 0% (0/";
    assert!(again.stderr.contains(nothing), "{}", again.stderr);
}

#[test]
fn recorded_uncompressed_chain_is_restored_in_place() {
    one_is_restored_over_another("none", "none", &["TOU8BZ", "TOU8CN", "TOU8D5"]);
}

#[test]
fn recorded_zlib_chain_is_restored_in_place() {
    one_is_restored_over_another("zlib", "zlib", &["TOU8C4", "TOU8CR", "TOU8D9"]);
}

#[test]
fn recorded_pglz_chain_is_restored_in_place() {
    one_is_restored_over_another("pglz", "pglz", &["TOU8C9", "TOU8CU", "TOU8DC"]);
}

#[test]
fn recorded_lz4_chain_is_restored_in_place() {
    one_is_restored_over_another("lz4", "lz4", &["TOU8CD", "TOU8CY", "TOU8DG"]);
}

#[test]
fn recorded_zstd_chain_is_restored_in_place() {
    one_is_restored_over_another("zstd", "zstd", &["TOU8CH", "TOU8D1", "TOU8DK"]);
}

#[test]
fn recorded_chain_with_external_directory_is_restored_in_place() {
    one_is_restored_over_another("ext", "ext", &["TOU8DQ", "TOU8DV"]);
}

#[test]
fn recorded_chain_of_mixed_compression_is_restored_in_place() {
    one_is_restored_over_another("merge_before", "merge", &["TOU8LS", "TOU8LY", "TOU8M2"]);
}

/// Inode, time of change and size of every file.
fn stamps(root: &Path) -> BTreeMap<PathBuf, (u64, i64, i64, u64)> {
    let mut stamps = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let found = fs::symlink_metadata(&path).unwrap();
            if found.is_dir() {
                pending.push(path);
            } else {
                let stamp = (found.ino(), found.mtime(), found.mtime_nsec(), found.size());
                stamps.insert(path.strip_prefix(root).unwrap().to_owned(), stamp);
            }
        }
    }
    stamps
}

#[test]
fn a_tree_that_is_right_already_is_not_written() {
    let chain = ChainOfBackups::create(&[&[], &["--compress-algorithm=lz4"]]);
    let (target, tablespace) = chain.cluster.restore(chain.last(), "restored");
    let before = (stamps(&target), stamps(&tablespace));
    let output = chain
        .cluster
        .try_restore(chain.last(), &target, &tablespace, &["-I", "checksum"]);
    assert_success(&output);
    let mut after = (stamps(&target), stamps(&tablespace));
    let control = PathBuf::from("global/pg_control");
    assert_ne!(before.0[&control].0, after.0[&control].0);
    after.0.insert(control.clone(), before.0[&control]);
    assert_eq!(before, after);
    for line in [
        "INFO: Running incremental restore into nonempty directory: \"",
        "INFO: Extracting the content of destination directory for incremental restore",
        "INFO: Destination directory content extracted, time elapsed: ",
        "INFO: Removing redundant files in destination directory",
        "INFO: Redundant files are removed, time elapsed: ",
        "INFO: Restore incremental ratio (less is better): 0% (0/",
    ] {
        assert!(output.stderr.contains(line), "{line}:\n{}", output.stderr);
    }
}

#[test]
fn an_empty_destination_is_restored_as_ever() {
    let chain = ChainOfBackups::create(&[&[]]);
    let (target, tablespace) = chain.cluster.targets("restored");
    let id = chain.last();
    let output = chain
        .cluster
        .try_restore(id, &target, &tablespace, &["-I", "lsn"]);
    assert_success(&output);
    let line = "INFO: Destination directory and tablespace directories are empty, disable \
                incremental restore";
    assert!(output.stderr.contains(line), "{}", output.stderr);
    assert!(!target.join("gs_probackup.restore").exists());
    let refused = chain
        .cluster
        .try_restore(id, &target, &tablespace, &["-I", "none"]);
    assert_eq!(refused.code, Some(1));
    let line = "ERROR: Restore destination is not empty: \"";
    assert!(refused.stderr.contains(line), "{}", refused.stderr);
}

/// Manifests of a data directory and its tablespace, without the place of the latter.
pub(crate) type Trees = (
    BTreeMap<String, ManifestLine>,
    BTreeMap<String, ManifestLine>,
);

/// What a restore made.
pub(crate) fn trees(target: &Path, tablespace: &Path) -> Trees {
    let mut data = fixtures::manifest(target);
    for (path, line) in &mut data {
        if path.starts_with("pg_tblspc/") {
            line.content.clear();
        }
    }
    (data, fixtures::manifest(tablespace))
}

/// Fails, with what differs, unless the trees are equal.
#[track_caller]
pub(crate) fn assert_same_trees(expected: &Trees, found: &Trees) {
    let mut differences = fixtures::differences(&expected.0, &found.0);
    differences.extend(fixtures::differences(&expected.1, &found.1));
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
