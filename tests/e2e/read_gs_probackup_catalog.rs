//! A catalog that the original wrote is shown, validated and restored as the original does it.

use crate::fixtures::{self, ManifestLine};
use crate::support::{assert_success, gs_probackup};
use std::collections::BTreeMap;
use std::path::Path;

/// The one place where the original is wrong: it leaves rebuilt compressed files with the mode of a
/// temporary file.
fn correct_modes(manifest: &mut BTreeMap<String, ManifestLine>) {
    for (path, line) in manifest {
        if path.ends_with("_compress") && line.mode == "0644" {
            line.mode = "0600".to_owned();
        }
    }
}

fn every_backup_is_valid_and_restores(catalog: &str, instance: &str, ids: &[&str]) {
    let Some(gauss) = fixtures::gauss() else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let backup = scratch.path().join("backup");
    std::fs::create_dir(&backup).unwrap();
    fixtures::unpack(&gauss, &format!("catalog_{catalog}"), &backup);
    let output = gs_probackup(&["validate", "-j", "2", "--instance", instance], &backup);
    assert_success(&output);
    assert!(
        output.stderr.contains("INFO: All backups are valid"),
        "{}",
        output.stderr
    );
    for id in ids {
        restores_like_the_original(&gauss, catalog, instance, id, &backup, scratch.path());
    }
}

pub(crate) fn restores_like_the_original(
    gauss: &Path,
    catalog: &str,
    instance: &str,
    id: &str,
    backup: &Path,
    scratch: &Path,
) {
    let target = scratch.join("restored");
    let tablespace = scratch.join("restored.ts1");
    let tablespace_mapping = format!("/gauss/ts/ts1={}", tablespace.display());
    let mut arguments = vec![
        "restore",
        "-j",
        "2",
        "--no-validate",
        "--no-sync",
        "--instance",
        instance,
    ];
    let data = target.display().to_string();
    arguments.extend(["-i", id, "-D", &data, "-T", &tablespace_mapping]);
    let external_mapping = format!("--external-mapping={tablespace_mapping}");
    if instance == "ext" {
        arguments.push(&external_mapping);
    }
    assert_success(&gs_probackup(&arguments, backup));
    is_like_the_original(gauss, catalog, id, &target, &tablespace);
    std::fs::remove_dir_all(&target).unwrap();
    std::fs::remove_dir_all(&tablespace).unwrap();
}

/// Whether a data directory and its tablespace are what the original restored.
#[track_caller]
pub(crate) fn is_like_the_original(
    gauss: &Path,
    catalog: &str,
    id: &str,
    target: &Path,
    tablespace: &Path,
) {
    let name = format!("restore_{catalog}_{id}");
    let mut expected = fixtures::recorded_manifest(gauss, &name);
    correct_modes(&mut expected);
    if let Some(link) = expected.get_mut("pg_tblspc/16385") {
        link.content = tablespace.display().to_string();
    }
    let found = fixtures::manifest(target);
    let differences = fixtures::differences(&expected, &found);
    assert!(
        differences.is_empty(),
        "{name}:\n{}",
        differences.join("\n")
    );
    if catalog == "ext" {
        let expected = fixtures::recorded_manifest(gauss, &format!("{name}.ts1"));
        let differences = fixtures::differences(&expected, &fixtures::manifest(tablespace));
        assert!(
            differences.is_empty(),
            "{name}.ts1:\n{}",
            differences.join("\n")
        );
    }
}

#[test]
fn uncompressed_chain_restores_like_the_original() {
    every_backup_is_valid_and_restores("none", "none", &["TOU8BZ", "TOU8CN", "TOU8D5"]);
}

#[test]
fn zlib_chain_restores_like_the_original() {
    every_backup_is_valid_and_restores("zlib", "zlib", &["TOU8C4", "TOU8CR", "TOU8D9"]);
}

#[test]
fn pglz_chain_restores_like_the_original() {
    every_backup_is_valid_and_restores("pglz", "pglz", &["TOU8C9", "TOU8CU", "TOU8DC"]);
}

#[test]
fn lz4_chain_restores_like_the_original() {
    every_backup_is_valid_and_restores("lz4", "lz4", &["TOU8CD", "TOU8CY", "TOU8DG"]);
}

#[test]
fn zstd_chain_restores_like_the_original() {
    every_backup_is_valid_and_restores("zstd", "zstd", &["TOU8CH", "TOU8D1", "TOU8DK"]);
}

#[test]
fn chain_with_external_directory_restores_like_the_original() {
    every_backup_is_valid_and_restores("ext", "ext", &["TOU8DQ", "TOU8DV"]);
}

#[test]
fn chain_of_mixed_compression_restores_like_the_original() {
    let ids = ["TOU8LS", "TOU8LY", "TOU8M2"];
    every_backup_is_valid_and_restores("merge_before", "merge", &ids);
}

#[test]
fn merged_backup_restores_like_the_original() {
    every_backup_is_valid_and_restores("merge_after", "merge", &["TOU8M2"]);
}
