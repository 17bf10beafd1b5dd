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
        Cluster::create_with(bytes, |_| {})
    }

    /// As [`Cluster::create`], with few of the hundreds of system catalogs and short WAL: for tests
    /// that do something at each step of a command.
    pub(crate) fn create_lean(bytes: u64) -> Cluster {
        Cluster::create_with(bytes, |sample| {
            remove_system_catalogs(&sample.data_directory);
            remove_wal(&sample.data_directory);
            start_and_stop_with_short_wal(sample);
        })
    }

    /// As [`Cluster::create`], of a sample that was prepared.
    pub(crate) fn create_with(bytes: u64, prepare: impl FnOnce(&mut Sample)) -> Cluster {
        let scratch = tempfile::tempdir().unwrap();
        let source = scratch.path().join("source");
        std::fs::create_dir(&source).unwrap();
        let mut sample = sample::create(&source, &SampleOptions { seed: 42, bytes }).unwrap();
        prepare(&mut sample);
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

/// Removes most of the system catalogs.
pub(crate) fn remove_system_catalogs(data: &Path) {
    for (directory, first) in [
        ("global", 14_404),
        ("base/1", 14_402),
        ("base/15032", 14_400),
        ("base/15037", 14_400),
        ("base/16384", 14_406),
    ] {
        for entry in std::fs::read_dir(data.join(directory)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let number = name.split(['_', '.']).next().unwrap().parse();
            if number.is_ok_and(|number| (first..16_384).contains(&number)) {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
    }
}

pub(crate) fn remove_wal(data: &Path) {
    for entry in std::fs::read_dir(data.join("pg_xlog")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().len() == 24 {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
}

/// As if the cluster had been started and stopped again, with the shortest WAL segments that a
/// server can have; there is one more afterwards.
pub(crate) fn start_and_stop_with_short_wal(sample: &mut Sample) {
    start_and_stop_with_wal(sample, 1 << 20);
}

/// As if a server with WAL segments of this size had been started and stopped.
pub(crate) fn start_and_stop_with_wal(sample: &mut Sample, segment_bytes: u64) {
    let number = sample.checkpoint.0 / segment_bytes + 1;
    let shutdown = sample::shutdown(sample.system_identifier, number, segment_bytes);
    for file in shutdown.files {
        let path = sample.data_directory.join(&file.path);
        std::fs::write(&path, &file.bytes).unwrap();
        let written = std::fs::File::options().write(true).open(&path).unwrap();
        written.set_len(file.length).unwrap();
    }
    sample.checkpoint = shutdown.checkpoint;
}
