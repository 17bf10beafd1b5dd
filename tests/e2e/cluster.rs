//! A small generated cluster with a catalog, for tests that need no real server.

use crate::support::{Output, assert_success, gs_probackup};
use gs_probackup::sample::{self, Sample, SampleOptions};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub(crate) const INSTANCE: &str = "main";

/// A cleanly stopped cluster, registered as instance [`INSTANCE`] of a catalog.
pub(crate) struct Cluster {
    pub(crate) scratch: TempDir,
    pub(crate) sample: Sample,
    pub(crate) catalog: PathBuf,
}

impl Cluster {
    /// Generates about `bytes` of relations.
    pub(crate) fn create(bytes: u64) -> Cluster {
        let scratch = tempfile::tempdir().unwrap();
        let source = scratch.path().join("source");
        std::fs::create_dir(&source).unwrap();
        let sample = sample::create(&source, &SampleOptions { seed: 42, bytes }).unwrap();
        let catalog = scratch.path().join("catalog");
        assert_success(&gs_probackup(&["init"], &catalog));
        let data = sample.data_directory.display().to_string();
        assert_success(&gs_probackup(
            &["add-instance", "--instance", INSTANCE, "-D", &data],
            &catalog,
        ));
        Cluster {
            scratch,
            sample,
            catalog,
        }
    }

    /// Runs `backup --offline` and returns what it printed.
    pub(crate) fn try_back_up(&self, arguments: &[&str]) -> Output {
        let mut all = vec!["backup", "--instance", INSTANCE, "-b", "FULL", "--offline"];
        all.extend(arguments);
        gs_probackup(&all, &self.catalog)
    }

    /// Takes a backup and returns its id.
    pub(crate) fn back_up(&self, arguments: &[&str]) -> String {
        let output = self.try_back_up(arguments);
        assert_success(&output);
        let end = output.stderr.lines().find_map(|line| {
            line.strip_prefix("INFO: Backup ")?
                .strip_suffix(" completed")
                .map(str::to_owned)
        });
        end.unwrap_or_else(|| panic!("{}", output.stderr))
    }

    pub(crate) fn backup_path(&self, id: &str) -> PathBuf {
        self.catalog.join("backups").join(INSTANCE).join(id)
    }

    pub(crate) fn delete(&self, id: &str) {
        std::fs::remove_dir_all(self.backup_path(id)).unwrap();
    }

    /// Restores a backup to `<name>` and its tablespace to `<name>.tablespace`.
    pub(crate) fn restore(&self, id: &str, name: &str) -> (PathBuf, PathBuf) {
        let (target, tablespace) = self.targets(name);
        assert_success(&self.try_restore(id, &target, &tablespace, &[]));
        (target, tablespace)
    }

    pub(crate) fn targets(&self, name: &str) -> (PathBuf, PathBuf) {
        let target = self.scratch.path().join(name);
        (
            target,
            self.scratch.path().join(format!("{name}.tablespace")),
        )
    }

    pub(crate) fn try_restore(
        &self,
        id: &str,
        target: &Path,
        tablespace: &Path,
        arguments: &[&str],
    ) -> Output {
        let data = target.display().to_string();
        let mapping = format!(
            "{}={}",
            self.sample.tablespace.display(),
            tablespace.display()
        );
        let mut all = vec![
            "restore",
            "--instance",
            INSTANCE,
            "-i",
            id,
            "-D",
            &data,
            "-T",
            &mapping,
        ];
        all.extend(arguments);
        gs_probackup(&all, &self.catalog)
    }
}
