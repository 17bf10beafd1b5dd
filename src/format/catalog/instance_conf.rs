//! `pg_probackup.conf`: the settings of one instance, and the same settings as flags.
//!
//! Written as the original does (`configure.cpp:310-386`): in the order of
//! [`InstanceConf::OPTIONS`], a comment line where the group changes, numbers in their largest
//! unit, quotes only around values with a blank. Unlike the original, values with quotes, `#` or
//! tabs are quoted too, so that they can be read back.

use super::backup_words::StorageType;
use super::key_value::{self, same_key};
use super::value::{
    Expected, LogLevel, Unit, ValueError, format_with_unit, parse_bool, parse_i32, parse_u32,
    parse_u64, printable,
};
use crate::limits::{CONF_LINE_BYTES_MAX, CONTROL_FILE_BYTES_MAX};
use crate::types::CompressAlgorithm;
use std::fmt::Write;

/// One setting: its key and what values it takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InstanceOption {
    /// Key in the file and long option on the command line.
    pub key: &'static str,
    /// Short option, if it has one.
    pub short: Option<char>,
    /// Title of its group in the file.
    pub group: &'static str,
}

/// Settings of an instance; `None` is what was not set.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct InstanceConf {
    /// Data directory.
    pub pgdata: Option<String>,
    /// The cluster's identity, from `pg_control`; 0 where it is not known.
    pub system_identifier: u64,
    /// External directories, joined by `:`.
    pub external_dirs: Option<String>,
    /// Seconds to wait for WAL.
    pub archive_timeout_s: Option<u32>,
    /// What goes to the console.
    pub log_level_console: Option<LogLevel>,
    /// What goes to the log file.
    pub log_level_file: Option<LogLevel>,
    /// Log file name, a pattern of strftime.
    pub log_filename: Option<String>,
    /// Name of a second log file for errors only.
    pub error_log_filename: Option<String>,
    /// Directory of the log files.
    pub log_directory: Option<String>,
    /// Size in KiB at which the log file begins anew; 0: never.
    pub log_rotation_size_kb: Option<u64>,
    /// Age in milliseconds at which the log file begins anew; 0: never.
    pub log_rotation_age_ms: Option<u64>,
    /// FULL backups to keep; 0: all.
    pub retention_redundancy: Option<u32>,
    /// Days for which recovery is to be possible; 0: all.
    pub retention_window: Option<u32>,
    /// Backups of a timeline that keep their WAL archive; 0: all.
    pub wal_depth: Option<u32>,
    /// Compression of new backups.
    pub compress_algorithm: Option<CompressAlgorithm>,
    /// Compression level of new backups.
    pub compress_level: Option<u32>,
    /// Whether the cluster is on shared storage.
    pub enable_dss: Option<bool>,
    /// Number of the instance on shared storage.
    pub instance_id: Option<i32>,
    /// Every other setting that was made, as key of [`InstanceConf::OPTIONS`] and text.
    pub others: Vec<(&'static str, String)>,
}

/// The bytes are no configuration.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfError {
    /// Larger than any configuration.
    #[error("it is larger than {CONTROL_FILE_BYTES_MAX} bytes")]
    TooLarge,
    /// A line that is no pair.
    #[error("Syntax error in \"{text}\"", text = printable(.0))]
    Syntax(String),
    /// Text that is not UTF-8.
    #[error("it is not UTF-8")]
    Encoding,
    /// A key that nobody knows. The name of the file is added where it is known.
    #[error("Invalid option \"{key}\"", key = printable(.0))]
    UnknownKey(String),
    /// A value that its key cannot have.
    #[error(transparent)]
    Value(ValueError),
    /// A setting that the original would read as two lines.
    #[error(
        "the value of {key} is too long: with quotes and key it needs {bytes} bytes in one line, \
         and {CONF_LINE_BYTES_MAX} are possible"
    )]
    LongLine {
        /// The setting.
        key: &'static str,
        /// Bytes of its line.
        bytes: usize,
    },
}

const INSTANCE: &str = "Backup instance information";
const CONNECTION: &str = "Connection parameters";
const ARCHIVE: &str = "Archive parameters";
const LOGGING: &str = "Logging parameters";
const RETENTION: &str = "Retention parameters";
const COMPRESSION: &str = "Compression parameters";
const REMOTE: &str = "Remote access parameters";
const DSS: &str = "DSS connect parameters";
const S3: &str = "S3 connect parameters";

const fn option(group: &'static str, key: &'static str, short: Option<char>) -> InstanceOption {
    InstanceOption { key, short, group }
}

impl InstanceConf {
    /// Every setting, in the order of the file.
    pub const OPTIONS: [InstanceOption; 41] = [
        option(INSTANCE, "pgdata", Some('D')),
        option(INSTANCE, "system-identifier", None),
        option(INSTANCE, "external-dirs", Some('E')),
        option(CONNECTION, "pgdatabase", Some('d')),
        option(CONNECTION, "pghost", Some('h')),
        option(CONNECTION, "pgport", Some('p')),
        option(CONNECTION, "pguser", Some('U')),
        option(ARCHIVE, "archive-timeout", None),
        option(ARCHIVE, "archive-host", None),
        option(ARCHIVE, "archive-port", None),
        option(ARCHIVE, "archive-user", None),
        option(ARCHIVE, "restore-command", None),
        option(LOGGING, "log-level-console", None),
        option(LOGGING, "log-level-file", None),
        option(LOGGING, "log-filename", None),
        option(LOGGING, "error-log-filename", None),
        option(LOGGING, "log-directory", None),
        option(LOGGING, "log-rotation-size", None),
        option(LOGGING, "log-rotation-age", None),
        option(RETENTION, "retention-redundancy", None),
        option(RETENTION, "retention-window", None),
        option(RETENTION, "wal-depth", None),
        option(COMPRESSION, "compress-algorithm", None),
        option(COMPRESSION, "compress-level", None),
        option(REMOTE, "remote-proto", None),
        option(REMOTE, "remote-host", None),
        option(REMOTE, "remote-port", None),
        option(REMOTE, "remote-path", None),
        option(REMOTE, "remote-user", None),
        option(REMOTE, "ssh-options", None),
        option(REMOTE, "ssh-config", None),
        option(REMOTE, "remote-libpath", None),
        option(DSS, "enable-dss", None),
        option(DSS, "vgname", None),
        option(DSS, "socketpath", None),
        option(DSS, "instance-id", None),
        option(S3, "access-id", None),
        option(S3, "access-key", None),
        option(S3, "endpoint", None),
        option(S3, "region", None),
        option(S3, "access-bucket", None),
    ];

    /// The settings in `bytes`.
    ///
    /// # Errors
    /// Where a line is no pair, its key unknown or its value not one of the key's.
    pub fn parse(bytes: &[u8]) -> Result<InstanceConf, ConfError> {
        if bytes.len() > CONTROL_FILE_BYTES_MAX {
            return Err(ConfError::TooLarge);
        }
        let mut conf = InstanceConf::default();
        for line in bytes.split(|byte| *byte == b'\n') {
            let pair = key_value::parse_line(line)
                .map_err(|_| ConfError::Syntax(String::from_utf8_lossy(line).into_owned()))?;
            let Some(pair) = pair else { continue };
            let option = Self::OPTIONS
                .iter()
                .find(|option| same_key(option.key.as_bytes(), pair.key))
                .ok_or_else(|| {
                    ConfError::UnknownKey(String::from_utf8_lossy(pair.key).into_owned())
                })?;
            let text = String::from_utf8(pair.value).map_err(|_| ConfError::Encoding)?;
            conf.set(option.key, &format!("--{}", option.key), &text)
                .map_err(ConfError::Value)?;
        }
        Ok(conf)
    }

    /// Sets one of [`InstanceConf::OPTIONS`] from text; `name` is the option as messages write it.
    ///
    /// # Errors
    /// Where the text is not a value of the key.
    ///
    /// # Panics
    /// When `key` is none of the options.
    pub fn set(&mut self, key: &str, name: &str, text: &str) -> Result<(), ValueError> {
        // A line end could not be read back.
        if text.is_empty() || text.contains('\n') {
            return Err(Expected::Text.error(name, text));
        }
        let number = |unit| parse_u32(text, unit).ok_or_else(|| Expected::U32.error(name, text));
        let long = |unit| parse_u64(text, unit).ok_or_else(|| Expected::U64.error(name, text));
        let level =
            || LogLevel::from_prefix(text).ok_or_else(|| ValueError::LogLevel(text.to_owned()));
        match key {
            "pgdata" => self.pgdata = Some(text.to_owned()),
            "system-identifier" => self.system_identifier = long(Unit::None)?,
            "external-dirs" => self.external_dirs = Some(text.to_owned()),
            "archive-timeout" => self.archive_timeout_s = Some(number(Unit::Seconds)?),
            "log-level-console" => self.log_level_console = Some(level()?),
            "log-level-file" => self.log_level_file = Some(level()?),
            "log-filename" => self.log_filename = Some(text.to_owned()),
            "error-log-filename" => self.error_log_filename = Some(text.to_owned()),
            "log-directory" => self.log_directory = Some(text.to_owned()),
            "log-rotation-size" => self.log_rotation_size_kb = Some(long(Unit::Kilobytes)?),
            "log-rotation-age" => self.log_rotation_age_ms = Some(long(Unit::Milliseconds)?),
            "retention-redundancy" => self.retention_redundancy = Some(number(Unit::None)?),
            "retention-window" => self.retention_window = Some(number(Unit::None)?),
            "wal-depth" => self.wal_depth = Some(number(Unit::None)?),
            "compress-algorithm" => {
                let algorithm = CompressAlgorithm::from_prefix(text)
                    .ok_or_else(|| ValueError::CompressAlgorithm(text.to_owned()))?;
                self.compress_algorithm = Some(algorithm);
            }
            "compress-level" => self.compress_level = Some(number(Unit::None)?),
            "enable-dss" => {
                let value = parse_bool(text).ok_or_else(|| Expected::Bool.error(name, text))?;
                self.enable_dss = Some(value);
            }
            "instance-id" => {
                let value = parse_i32(text, Unit::None);
                self.instance_id = Some(value.ok_or_else(|| Expected::I32.error(name, text))?);
            }
            _ => self.set_other(key, text),
        }
        Ok(())
    }

    fn set_other(&mut self, key: &str, text: &str) {
        let rank = |key: &str| Self::OPTIONS.iter().position(|option| option.key == key);
        let at = rank(key).expect("callers take keys from the table of options");
        match self.others.iter_mut().find(|(known, _)| *known == key) {
            Some((_, value)) => text.clone_into(value),
            None => {
                // In the order of the table, so that equal settings are equal values.
                let before = |(known, _): &(&str, String)| rank(known).is_some_and(|it| it < at);
                let place = self.others.partition_point(before);
                let key = Self::OPTIONS[at].key;
                self.others.insert(place, (key, text.to_owned()));
            }
        }
    }

    /// What the cluster is on. Naming volume groups is as good as saying so.
    #[must_use]
    pub fn storage_type(&self) -> StorageType {
        if self.enable_dss == Some(true) || self.get("vgname").is_some() {
            StorageType::Dss
        } else {
            StorageType::File
        }
    }

    /// A setting as text, in the form of the file; `None` where it is not set.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<String> {
        let unit = |value: Option<u64>, unit| value.map(|value| format_with_unit(value, unit));
        let plain = |value: Option<u32>| value.map(|value| value.to_string());
        match key {
            "pgdata" => self.pgdata.clone(),
            "system-identifier" => {
                (self.system_identifier != 0).then(|| self.system_identifier.to_string())
            }
            "external-dirs" => self.external_dirs.clone(),
            "archive-timeout" => unit(self.archive_timeout_s.map(u64::from), Unit::Seconds),
            "log-level-console" => self.log_level_console.map(|level| level.to_string()),
            "log-level-file" => self.log_level_file.map(|level| level.to_string()),
            "log-filename" => self.log_filename.clone(),
            "error-log-filename" => self.error_log_filename.clone(),
            "log-directory" => self.log_directory.clone(),
            "log-rotation-size" => unit(self.log_rotation_size_kb, Unit::Kilobytes),
            "log-rotation-age" => unit(self.log_rotation_age_ms, Unit::Milliseconds),
            "retention-redundancy" => plain(self.retention_redundancy),
            "retention-window" => plain(self.retention_window),
            "wal-depth" => plain(self.wal_depth),
            "compress-algorithm" => self.compress_algorithm.map(|it| it.to_string()),
            "compress-level" => plain(self.compress_level),
            "enable-dss" => self.enable_dss.map(|value| value.to_string()),
            "instance-id" => self.instance_id.map(|value| value.to_string()),
            _ => self
                .others
                .iter()
                .find(|(known, _)| *known == key)
                .map(|(_, value)| value.clone()),
        }
    }

    /// The file's text: what is set, in the order of [`InstanceConf::OPTIONS`].
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let mut group = "";
        for option in &Self::OPTIONS {
            let Some(value) = self.get(option.key) else {
                continue;
            };
            if option.group != group {
                group = option.group;
                writeln!(text, "# {group}").expect("a string takes everything");
            }
            writeln!(text, "{}", line(option.key, &value)).expect("a string takes everything");
        }
        text
    }

    /// Whether the original reads back each line of [`InstanceConf::encode`].
    ///
    /// # Errors
    /// [`ConfError::LongLine`] where it would not.
    pub fn check_lines(&self) -> Result<(), ConfError> {
        for option in &Self::OPTIONS {
            let value = self.get(option.key);
            let bytes = value.map_or(0, |value| line(option.key, &value).len());
            if bytes > CONF_LINE_BYTES_MAX {
                let key = option.key;
                return Err(ConfError::LongLine { key, bytes });
            }
        }
        Ok(())
    }
}

// A setting as a line of the file, in quotes where it would be read as something else without.
fn line(key: &str, value: &str) -> String {
    let bare = !value.contains(|c: char| c.is_control() || [' ', '\'', '#'].contains(&c));
    if bare {
        format!("{key} = {value}")
    } else {
        format!("{key} = '{}'", value.replace('\'', "''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGINAL: &str = "# Backup instance information
pgdata = /gauss/data/dn1
system-identifier = 215046882207013887
external-dirs = /gauss/ts/ts1
# Connection parameters
pgdatabase = fix
pghost = /tmp
pgport = 15400
pguser = omm
# Archive parameters
archive-timeout = 10min
# Logging parameters
log-level-console = INFO
log-level-file = LOG
log-filename = pb-%d.log
log-rotation-size = 10MB
log-rotation-age = 2d
# Retention parameters
retention-redundancy = 2
retention-window = 7
# Compression parameters
compress-algorithm = zlib
compress-level = 3
";

    #[test]
    fn a_file_of_the_original_comes_back_byte_for_byte() {
        let conf = InstanceConf::parse(ORIGINAL.as_bytes()).unwrap();
        assert_eq!(conf.pgdata.as_deref(), Some("/gauss/data/dn1"));
        assert_eq!(conf.system_identifier, 215_046_882_207_013_887);
        assert_eq!(conf.archive_timeout_s, Some(600));
        assert_eq!(conf.log_rotation_size_kb, Some(10_240));
        assert_eq!(conf.log_level_file, Some(LogLevel::Log));
        assert_eq!(conf.compress_algorithm, Some(CompressAlgorithm::Zlib));
        assert_eq!(conf.get("pguser").as_deref(), Some("omm"));
        assert_eq!(conf.encode(), ORIGINAL);
    }

    #[test]
    fn values_that_need_quotes_get_them_and_are_read_back() {
        let mut conf = InstanceConf::default();
        for (key, value) in [
            ("pgdata", "/a b"),
            ("log-directory", "/it's"),
            ("restore-command", "cp # x"),
        ] {
            conf.set(key, key, value).unwrap();
        }
        assert!(conf.encode().contains("pgdata = '/a b'\n"));
        assert_eq!(InstanceConf::parse(conf.encode().as_bytes()), Ok(conf));
    }

    #[test]
    fn settings_are_the_same_in_whatever_order_they_were_made() {
        let one = InstanceConf::parse(b"pguser = omm\npghost = /tmp\n").unwrap();
        let other = InstanceConf::parse(b"pghost = /tmp\npguser = omm\n").unwrap();
        assert_eq!(one, other);
        let mut conf = one;
        assert!(conf.set("pghost", "--pghost", "two\nlines").is_err());
    }

    #[test]
    fn what_is_no_setting_is_refused() {
        for (text, message) in [
            ("xlog-seg-size = 16", "Invalid option \"xlog-seg-size\""),
            ("media-type = s3", "Invalid option \"media-type\""),
            ("pgdata", "Syntax error in \"pgdata\""),
            (
                "compress-level = x",
                "Option --compress-level should be a 32bit unsigned integer: 'x'",
            ),
            (
                "compress-algorithm = brotli",
                "invalid compress algorithm value \"brotli\"",
            ),
            ("log-level-file = loud", "invalid log-level \"loud\""),
            (
                "pgdata = ''",
                "Option --pgdata should be a valid string: ''",
            ),
        ] {
            let error = InstanceConf::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn the_last_of_several_values_counts() {
        let conf = InstanceConf::parse(b"pgport=1\nPGPORT = 2\npgdata=a\npgdata=b\n").unwrap();
        assert_eq!(conf.get("pgport").as_deref(), Some("2"));
        assert_eq!(conf.pgdata.as_deref(), Some("b"));
    }
}
