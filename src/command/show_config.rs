//! `show-config`: the settings that a command would work with, those that were not made too.

use crate::format::catalog::{InstanceConf, InstanceOption, LogLevel};
use crate::types::CompressAlgorithm;

/// What to show.
#[derive(Clone, Debug)]
pub struct Options {
    /// The instance's settings.
    pub settings: InstanceConf,
    /// What else is in force, for lack of a setting.
    pub defaults: InstanceConf,
}

/// Every setting that has a value, in the order of the file.
#[must_use]
pub fn run(options: &Options) -> Vec<(InstanceOption, String)> {
    let fixed = fixed_defaults();
    let value = |key| {
        let sources = [&options.settings, &options.defaults, &fixed];
        sources.into_iter().find_map(|conf| conf.get(key))
    };
    InstanceConf::OPTIONS
        .iter()
        .filter_map(|option| Some((*option, value(option.key)?)))
        .collect()
}

// The values that the original has and shows where nothing is set.
fn fixed_defaults() -> InstanceConf {
    InstanceConf {
        archive_timeout_s: Some(300),
        log_level_console: Some(LogLevel::Info),
        log_level_file: Some(LogLevel::Off),
        log_filename: Some("pg_probackup.log".to_owned()),
        log_rotation_size_kb: Some(0),
        log_rotation_age_ms: Some(0),
        retention_redundancy: Some(0),
        retention_window: Some(0),
        wal_depth: Some(0),
        compress_algorithm: Some(CompressAlgorithm::None),
        compress_level: Some(1),
        enable_dss: Some(false),
        instance_id: Some(-1),
        others: vec![("remote-proto", "ssh".to_owned())],
        ..InstanceConf::default()
    }
}
