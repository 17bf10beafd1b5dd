//! Chains that the original wrote are merged, and restore as the original restored them.

use crate::chain::copy_tree;
use crate::fixtures;
use crate::merge_chain::memory;
use crate::support::{assert_success, gs_probackup};
use crate::take_full_backup::check_independently;
use std::path::PathBuf;

/// A recorded catalog, unpacked once; tests merge in copies of it.
struct Recorded {
    gauss: PathBuf,
    catalog: &'static str,
    instance: &'static str,
    ids: &'static [&'static str],
    scratch: tempfile::TempDir,
}

impl Recorded {
    fn unpack(
        catalog: &'static str,
        instance: &'static str,
        ids: &'static [&'static str],
    ) -> Option<Recorded> {
        let gauss = fixtures::gauss()?;
        let scratch = memory();
        let backup = scratch.path().join("backup");
        std::fs::create_dir(&backup).unwrap();
        fixtures::unpack(&gauss, &format!("catalog_{catalog}"), &backup);
        Some(Recorded {
            gauss,
            catalog,
            instance,
            ids,
            scratch,
        })
    }

    /// Merges at some members, one after the other, each time restoring from there on as was
    /// recorded.
    fn is_merged_at(&self, members: &[usize]) {
        let copy = memory();
        let backup = copy.path().join("backup");
        copy_tree(&self.scratch.path().join("backup"), &backup);
        let instance = self.instance;
        for &merged in members {
            let id = self.ids[merged];
            // The files were checked when the chain was restored before it was merged, elsewhere.
            let arguments = ["merge", "-j", "2", "--instance", instance, "-i", id];
            let more = ["--no-sync", "--no-validate"];
            assert_success(&gs_probackup(&[&arguments[..], &more].concat(), &backup));
            check_independently(&backup.join("backups").join(instance).join(id));
            for id in &self.ids[merged..] {
                crate::read_gs_probackup_catalog::restores_like_the_original(
                    &self.gauss,
                    self.catalog,
                    instance,
                    id,
                    &backup,
                    copy.path(),
                );
            }
        }
    }
}

#[test]
fn recorded_chain_of_mixed_compression_is_merged() {
    let ids = &["TOU8LS", "TOU8LY", "TOU8M2"];
    if let Some(recorded) = Recorded::unpack("merge_before", "merge", ids) {
        recorded.is_merged_at(&[1, 2]);
        recorded.is_merged_at(&[2]);
    }
}

#[test]
fn recorded_chains_with_compressed_relations_are_merged() {
    let at_once: &[&str] = &["none", "zlib"];
    for (instance, ids) in [
        ("none", &["TOU8BZ", "TOU8CN", "TOU8D5"]),
        ("zlib", &["TOU8C4", "TOU8CR", "TOU8D9"]),
        ("pglz", &["TOU8C9", "TOU8CU", "TOU8DC"]),
        ("lz4", &["TOU8CD", "TOU8CY", "TOU8DG"]),
        ("zstd", &["TOU8CH", "TOU8D1", "TOU8DK"]),
    ] {
        let Some(recorded) = Recorded::unpack(instance, instance, ids) else {
            return;
        };
        recorded.is_merged_at(&[1, 2]);
        if at_once.contains(&instance) {
            recorded.is_merged_at(&[2]);
        }
    }
}

#[test]
fn recorded_chain_with_an_external_directory_is_merged() {
    if let Some(recorded) = Recorded::unpack("ext", "ext", &["TOU8DQ", "TOU8DV"]) {
        recorded.is_merged_at(&[1]);
    }
}
