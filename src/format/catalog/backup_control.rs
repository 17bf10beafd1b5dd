//! `backup.control`: what is known about one backup.
//!
//! Written in the order and with the quotes of the original (`catalog.cpp:2320-2421`), so that a
//! file it wrote comes back byte for byte. Read leniently where the original is lenient, with one
//! [`ControlWarning`] each, but never half: the file has no checksum, so a file without a key that
//! is always written, or without its last line end, is refused as cut short.

use super::key_value::{self, same_key};
use super::timestamp::{NoZone, format_timestamp, parse_timestamp};
use super::value::{Expected, Unit, ValueError, parse_bool, parse_i64, parse_u32, parse_u64};
use crate::limits::{CONTROL_FILE_BYTES_MAX, CONTROL_LINE_BYTES_MAX, NOTE_BYTES_MAX};
use crate::types::{BackupId, CompressAlgorithm, Lsn, PAGE_SIZE, TimelineId};
use std::fmt::{self, Write};
use std::path::Path;

/// How much of a cluster a backup holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BackupMode {
    /// Everything.
    Full,
    /// What changed since its parent.
    Ptrack,
}

impl BackupMode {
    /// The name on disk and in flags.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            BackupMode::Full => "FULL",
            BackupMode::Ptrack => "PTRACK",
        }
    }

    /// The mode whose name begins with `text`, in any case.
    #[must_use]
    pub fn from_prefix(text: &str) -> Option<BackupMode> {
        let text = text.trim_ascii_start().to_ascii_uppercase();
        if text.is_empty() {
            return None;
        }
        [BackupMode::Full, BackupMode::Ptrack]
            .into_iter()
            .find(|mode| mode.name().starts_with(&text))
    }
}

impl fmt::Display for BackupMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Where a backup is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BackupStatus {
    /// Complete and validated.
    Ok,
    /// Failed or was killed.
    Error,
    /// Is being made.
    Running,
    /// Its chain is being merged.
    Merging,
    /// Merged; what it was merged from is still there.
    Merged,
    /// Is being deleted.
    Deleting,
    /// Deleted; never on disk.
    Deleted,
    /// Complete, not validated.
    Done,
    /// Complete, but something below it in its chain is not.
    Orphan,
    /// Damaged.
    Corrupt,
    /// Not known: the control file is missing, unreadable or names another status.
    Unknown,
}

impl BackupStatus {
    const ALL: [(BackupStatus, &str); 11] = [
        (BackupStatus::Unknown, "UNKNOWN"),
        (BackupStatus::Ok, "OK"),
        (BackupStatus::Error, "ERROR"),
        (BackupStatus::Running, "RUNNING"),
        (BackupStatus::Merging, "MERGING"),
        (BackupStatus::Merged, "MERGED"),
        (BackupStatus::Deleting, "DELETING"),
        (BackupStatus::Deleted, "DELETED"),
        (BackupStatus::Done, "DONE"),
        (BackupStatus::Orphan, "ORPHAN"),
        (BackupStatus::Corrupt, "CORRUPT"),
    ];

    /// The name on disk.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL
            .into_iter()
            .find(|(status, _)| *status == self)
            .map_or("UNKNOWN", |(_, name)| name)
    }

    /// The status of exactly this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<BackupStatus> {
        Self::ALL
            .into_iter()
            .find(|(_, known)| *known == name)
            .map(|(status, _)| status)
    }

    /// Whether a backup of this status can be restored and can have children: `OK` or `DONE`.
    #[must_use]
    pub fn is_usable(self) -> bool {
        matches!(self, BackupStatus::Ok | BackupStatus::Done)
    }
}

impl fmt::Display for BackupStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What the cluster's files were on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum StorageType {
    /// File systems.
    #[default]
    File,
    /// A DSS volume group beside file systems.
    Dss,
    /// Neither word.
    Unknown,
}

impl StorageType {
    /// The name on disk.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            StorageType::File => "FILE",
            StorageType::Dss => "DSS",
            StorageType::Unknown => "UNKNOWN",
        }
    }
}

/// Whether a copy of the backup is in an object store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum S3Status {
    /// Only here.
    Local,
    /// Uploaded.
    S3,
    /// Never asked for.
    #[default]
    Unknown,
}

impl S3Status {
    /// The name on disk.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            S3Status::Local => "LOCAL",
            S3Status::S3 => "S3",
            S3Status::Unknown => "UNKNOWN",
        }
    }
}

/// A backup's record. Times are seconds since 1970, sizes bytes; `None` is what the file leaves
/// out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackupControl {
    /// How much it holds.
    pub mode: BackupMode,
    /// Whether the WAL that makes it consistent is in the backup.
    pub stream: bool,
    /// The compression asked for; every file has its own in the content list.
    pub compress_algorithm: CompressAlgorithm,
    /// The level asked for.
    pub compress_level: u32,
    /// Whether it was taken from a standby.
    pub from_replica: bool,
    /// Bytes of a page.
    pub block_size: u32,
    /// Bytes of a WAL page.
    pub wal_block_size: u32,
    /// 1: pages have checksums.
    pub checksum_version: u32,
    /// Version of the catalog format, in the form of a gs_probackup version.
    pub program_version: String,
    /// `9.2` for every openGauss.
    pub server_version: String,
    /// WAL history.
    pub timeline: TimelineId,
    /// Where recovery begins.
    pub start_lsn: Lsn,
    /// Where recovery may end.
    pub stop_lsn: Lsn,
    /// When it began; its id.
    pub start_time: i64,
    /// When a merge into it began.
    pub merge_time: Option<i64>,
    /// When it was complete or failed.
    pub end_time: Option<i64>,
    /// The first transaction that the backup does not hold.
    pub recovery_xid: u64,
    /// Time of the data in it.
    pub recovery_time: Option<i64>,
    /// Pinned until then.
    pub expire_time: Option<i64>,
    /// Name of its restore point; may be empty.
    pub recovery_name: String,
    /// The backup into which a chain is being merged.
    pub merge_dest_id: Option<BackupId>,
    /// Size of its files without WAL.
    pub data_bytes: Option<i64>,
    /// Size of its WAL.
    pub wal_bytes: Option<i64>,
    /// Size of its files without compression.
    pub uncompressed_bytes: Option<i64>,
    /// Size of the data directory it was taken from.
    pub pgdata_bytes: Option<i64>,
    /// Where it is in its life.
    pub status: BackupStatus,
    /// The backup it is an increment of.
    pub parent_backup_id: Option<BackupId>,
    /// External directories, joined by `:`.
    pub external_dirs: Option<String>,
    /// What a person wrote about it.
    pub note: Option<String>,
    /// CRC-32C of the content list; `None` where it is not known.
    pub content_crc: Option<u32>,
    /// What the cluster was on.
    pub storage_type: StorageType,
    /// Whether it was uploaded.
    pub s3_status: S3Status,
}

/// Something in a control file that reading gets over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ControlWarning {
    /// A key that nobody knows.
    UnknownKey(String),
    /// A status that nobody knows; it counts as [`BackupStatus::Unknown`].
    InvalidStatus(String),
    /// A position that is none; it counts as 0/0. The key in capitals and its value.
    InvalidLsn(&'static str, String),
    /// A key that only old versions leave out.
    Missing(&'static str),
    /// A note that is not UTF-8; what is not is replaced.
    NoteEncoding,
}

impl ControlWarning {
    /// The message about the file `path`; the original's where it has one.
    #[must_use]
    pub fn describe(&self, path: &Path) -> String {
        let path = path.display();
        match self {
            ControlWarning::UnknownKey(key) => {
                let key = key.escape_debug();
                format!("Invalid option \"{key}\" in file \"{path}\"")
            }
            ControlWarning::InvalidStatus(text) => {
                format!("Invalid STATUS \"{}\"", text.escape_debug())
            }
            ControlWarning::InvalidLsn(key, text) => {
                format!("Invalid {key} \"{}\"", text.escape_debug())
            }
            ControlWarning::Missing(key) => {
                format!("Control file \"{path}\" has no {key}: old, or cut short")
            }
            ControlWarning::NoteEncoding => {
                format!("The note in control file \"{path}\" is not UTF-8")
            }
        }
    }
}

/// The bytes are no control file.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ControlError {
    /// Nothing in it.
    #[error("it is empty")]
    Empty,
    /// Larger than any control file.
    #[error("it is larger than {CONTROL_FILE_BYTES_MAX} bytes")]
    TooLarge,
    /// A line that is no pair.
    #[error("Syntax error in \"{text}\"", text = .0.escape_debug())]
    Syntax(String),
    /// Text that is not UTF-8 where only names and numbers can be.
    #[error("{0} is not UTF-8")]
    Encoding(&'static str),
    /// A value that its key cannot have.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// No mode.
    #[error("invalid backup-mode \"{text}\"", text = .0.escape_debug())]
    Mode(String),
    /// The start time is missing or not after 1970.
    #[error("Invalid ID/start-time")]
    StartTime,
    /// A key that is always written is not there.
    #[error("it is cut short: {0} is missing")]
    Missing(&'static str),
    /// Its last line has no end.
    #[error("it is cut short: the last line has no end")]
    LastLine,
    /// A value that would make a file nobody can read back.
    #[error("{key} cannot be stored: {reason}")]
    Unstorable {
        /// The key.
        key: &'static str,
        /// Why not.
        reason: &'static str,
    },
}

const PAGE_BYTES: u32 = 8192;
const _: () = assert!(PAGE_BYTES as usize == PAGE_SIZE);

// Keys in the order of writing, and whether every version of the original writes them always.
const KEYS: [(&str, bool); 32] = [
    ("backup-mode", true),
    ("stream", true),
    ("compress-alg", true),
    ("compress-level", true),
    ("from-replica", true),
    ("block-size", true),
    ("xlog-block-size", true),
    ("checksum-version", true),
    ("program-version", false),
    ("server-version", false),
    ("timelineid", true),
    ("start-lsn", true),
    ("stop-lsn", true),
    ("start-time", true),
    ("merge-time", false),
    ("end-time", false),
    ("recovery-xid", true),
    ("recovery-time", false),
    ("expire-time", false),
    ("recovery-name", false),
    ("merge-dest-id", false),
    ("data-bytes", false),
    ("wal-bytes", false),
    ("uncompressed-bytes", false),
    ("pgdata-bytes", false),
    ("status", true),
    ("parent-backup-id", false),
    ("external-dirs", false),
    ("note", false),
    ("content-crc", false),
    ("storage-type", false),
    ("s3-status", false),
];

impl BackupControl {
    /// The record of a backup that begins now: running, nothing known yet.
    #[must_use]
    pub fn new(mode: BackupMode, start_time: i64) -> BackupControl {
        BackupControl {
            mode,
            stream: true,
            compress_algorithm: CompressAlgorithm::None,
            compress_level: 1,
            from_replica: false,
            block_size: PAGE_BYTES,
            wal_block_size: PAGE_BYTES,
            checksum_version: 1,
            program_version: "2.4.2".to_owned(),
            server_version: "9.2".to_owned(),
            timeline: TimelineId(0),
            start_lsn: Lsn::INVALID,
            stop_lsn: Lsn::INVALID,
            start_time,
            merge_time: None,
            end_time: None,
            recovery_xid: 0,
            recovery_time: None,
            expire_time: None,
            recovery_name: String::new(),
            merge_dest_id: None,
            data_bytes: None,
            wal_bytes: None,
            uncompressed_bytes: None,
            pgdata_bytes: None,
            status: BackupStatus::Running,
            parent_backup_id: None,
            external_dirs: None,
            note: None,
            content_crc: None,
            storage_type: StorageType::File,
            s3_status: S3Status::Unknown,
        }
    }

    /// The backup's id.
    ///
    /// # Panics
    /// When [`BackupControl::start_time`] is not after 1970; reading refuses such a file.
    #[must_use]
    pub fn id(&self) -> BackupId {
        BackupId::from_start_time(self.start_time).expect("a backup starts after 1970")
    }

    /// The record in `bytes`, and what is odd about them.
    ///
    /// # Errors
    /// Where the bytes are no control file or only a part of one.
    pub fn parse(bytes: &[u8]) -> Result<(BackupControl, Vec<ControlWarning>), ControlError> {
        if bytes.len() > CONTROL_FILE_BYTES_MAX {
            return Err(ControlError::TooLarge);
        }
        let mut reader = Reader {
            control: BackupControl::new(BackupMode::Full, 0),
            seen: [false; KEYS.len()],
            warnings: Vec::new(),
        };
        for line in bytes.split(|byte| *byte == b'\n') {
            let pair = key_value::parse_line(line)
                .map_err(|_| ControlError::Syntax(String::from_utf8_lossy(line).into_owned()))?;
            if let Some(pair) = pair {
                reader.set(pair.key, &pair.value)?;
            }
        }
        if bytes.trim_ascii().is_empty() {
            return Err(ControlError::Empty);
        }
        if !bytes.ends_with(b"\n") {
            return Err(ControlError::LastLine);
        }
        reader.finish()
    }

    /// Whether [`BackupControl::encode`] makes a file that both tools can read back.
    ///
    /// # Errors
    /// Where the note or the external directories hold quotes, line ends or other control
    /// characters, are empty, or make a line that is longer than the original reads; where the
    /// start time is not after 1970.
    pub fn check_storable(&self) -> Result<(), ControlError> {
        BackupId::from_start_time(self.start_time).ok_or(ControlError::StartTime)?;
        let texts = [
            ("recovery-name", Some(&self.recovery_name)),
            ("external-dirs", self.external_dirs.as_ref()),
            ("note", self.note.as_ref()),
        ];
        for (key, text) in texts {
            let Some(text) = text else { continue };
            let reason = if text.contains('\'') {
                "it has a quote"
            } else if text.chars().any(char::is_control) {
                "it has a line end or another control character"
            } else if key != "recovery-name" && text.is_empty() {
                "it is empty"
            } else if text.len() > NOTE_BYTES_MAX
                || key.len() + text.len() + " = ''\n".len() > CONTROL_LINE_BYTES_MAX
            {
                "it is too long"
            } else {
                continue;
            };
            return Err(ControlError::Unstorable { key, reason });
        }
        Ok(())
    }

    /// The file's text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(1024);
        self.write_configuration(&mut text);
        self.write_result(&mut text);
        text.push_str("\n#Database Storage type\n");
        pair(&mut text, "storage-type", self.storage_type.name());
        text.push_str("\n#S3 Storage status\n");
        pair(&mut text, "s3-status", self.s3_status.name());
        text
    }

    fn write_configuration(&self, text: &mut String) {
        text.push_str("#Configuration\n");
        pair(text, "backup-mode", self.mode);
        pair(text, "stream", self.stream);
        pair(text, "compress-alg", self.compress_algorithm);
        pair(text, "compress-level", self.compress_level);
        pair(text, "from-replica", self.from_replica);
        text.push_str("\n#Compatibility\n");
        pair(text, "block-size", self.block_size);
        pair(text, "xlog-block-size", self.wal_block_size);
        pair(text, "checksum-version", self.checksum_version);
        if !self.program_version.is_empty() {
            pair(text, "program-version", &self.program_version);
        }
        if !self.server_version.is_empty() {
            pair(text, "server-version", &self.server_version);
        }
    }

    fn write_result(&self, text: &mut String) {
        text.push_str("\n#Result backup info\n");
        pair(text, "timelineid", self.timeline);
        pair(text, "start-lsn", self.start_lsn);
        pair(text, "stop-lsn", self.stop_lsn);
        let time = |seconds: i64| format_timestamp(seconds);
        quoted(text, "start-time", Some(time(self.start_time)));
        quoted(text, "merge-time", self.merge_time.map(time));
        quoted(text, "end-time", self.end_time.map(time));
        pair(text, "recovery-xid", self.recovery_xid);
        quoted(text, "recovery-time", self.recovery_time.map(time));
        quoted(text, "expire-time", self.expire_time.map(time));
        let name = Some(&self.recovery_name).filter(|name| !name.is_empty());
        quoted(text, "recovery-name", name);
        quoted(text, "merge-dest-id", self.merge_dest_id);
        for (key, bytes) in [
            ("data-bytes", self.data_bytes),
            ("wal-bytes", self.wal_bytes),
            ("uncompressed-bytes", self.uncompressed_bytes),
            ("pgdata-bytes", self.pgdata_bytes),
        ] {
            if let Some(bytes) = bytes.filter(|bytes| *bytes >= 0) {
                pair(text, key, bytes);
            }
        }
        pair(text, "status", self.status);
        quoted(text, "parent-backup-id", self.parent_backup_id);
        quoted(text, "external-dirs", self.external_dirs.as_ref());
        quoted(text, "note", self.note.as_ref());
        if let Some(crc) = self.content_crc.filter(|crc| *crc != 0) {
            pair(text, "content-crc", crc);
        }
    }
}

fn pair(text: &mut String, key: &str, value: impl fmt::Display) {
    writeln!(text, "{key} = {value}").expect("a string takes everything");
}

fn quoted(text: &mut String, key: &str, value: Option<impl fmt::Display>) {
    if let Some(value) = value {
        writeln!(text, "{key} = '{value}'").expect("a string takes everything");
    }
}

/// The control file `bytes` with another status and nothing else changed: unknown keys, order and
/// comments stay.
///
/// # Errors
/// Where a line is no pair or none has the status.
pub fn replace_status(bytes: &[u8], status: BackupStatus) -> Result<Vec<u8>, ControlError> {
    let mut replaced = Vec::with_capacity(bytes.len() + 16);
    let mut found = false;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let pair = key_value::parse_line(line)
            .map_err(|_| ControlError::Syntax(String::from_utf8_lossy(line).into_owned()))?;
        if pair.is_some_and(|pair| same_key(pair.key, b"status")) {
            found = true;
            replaced.extend_from_slice(format!("status = {status}\n").as_bytes());
        } else {
            replaced.extend_from_slice(line);
        }
    }
    if found {
        Ok(replaced)
    } else {
        Err(ControlError::Missing("status"))
    }
}

struct Reader {
    control: BackupControl,
    seen: [bool; KEYS.len()],
    warnings: Vec<ControlWarning>,
}

impl Reader {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), ControlError> {
        let Some(at) = KEYS
            .iter()
            .position(|(known, _)| same_key(known.as_bytes(), key))
        else {
            let key = String::from_utf8_lossy(key).into_owned();
            self.warnings.push(ControlWarning::UnknownKey(key));
            return Ok(());
        };
        self.seen[at] = true;
        let key = KEYS[at].0;
        let text = match std::str::from_utf8(value) {
            Ok(text) => text.to_owned(),
            Err(_) if key == "note" => {
                self.warnings.push(ControlWarning::NoteEncoding);
                String::from_utf8_lossy(value).into_owned()
            }
            Err(_) => return Err(ControlError::Encoding(key)),
        };
        if text.is_empty() {
            let option = format!("--{key}");
            return Err(Expected::Text.error(option, "").into());
        }
        if at < 10 {
            self.set_configuration(key, text)
        } else if at < 20 {
            self.set_time(key, text)
        } else {
            self.set_result(key, text)
        }
    }

    fn set_configuration(&mut self, key: &'static str, text: String) -> Result<(), ControlError> {
        let control = &mut self.control;
        match key {
            "backup-mode" => {
                control.mode = BackupMode::from_prefix(&text).ok_or(ControlError::Mode(text))?;
            }
            "stream" => control.stream = boolean(key, &text)?,
            "compress-alg" => {
                control.compress_algorithm = CompressAlgorithm::from_prefix(&text)
                    .ok_or(ValueError::CompressAlgorithm(text))?;
            }
            "compress-level" => control.compress_level = number(key, &text)?,
            "from-replica" => control.from_replica = boolean(key, &text)?,
            "block-size" => control.block_size = number(key, &text)?,
            "xlog-block-size" => control.wal_block_size = number(key, &text)?,
            "checksum-version" => control.checksum_version = number(key, &text)?,
            "program-version" => control.program_version = text,
            _ => control.server_version = text,
        }
        Ok(())
    }

    fn set_time(&mut self, key: &'static str, text: String) -> Result<(), ControlError> {
        let control = &mut self.control;
        match key {
            "timelineid" => control.timeline = TimelineId(number(key, &text)?),
            "start-lsn" => match text.parse() {
                Ok(lsn) => control.start_lsn = lsn,
                Err(_) => {
                    let warning = ControlWarning::InvalidLsn("START_LSN", text);
                    self.warnings.push(warning);
                }
            },
            "stop-lsn" => match text.parse() {
                Ok(lsn) => control.stop_lsn = lsn,
                Err(_) => {
                    let warning = ControlWarning::InvalidLsn("STOP_LSN", text);
                    self.warnings.push(warning);
                }
            },
            "start-time" => control.start_time = time(key, &text)?,
            "merge-time" => control.merge_time = Some(time(key, &text)?).filter(|t| *t > 0),
            "end-time" => control.end_time = Some(time(key, &text)?).filter(|t| *t > 0),
            "recovery-xid" => {
                control.recovery_xid = parse_u64(&text, Unit::None)
                    .ok_or_else(|| Expected::U64.error(format!("--{key}"), &text))?;
            }
            "recovery-time" => control.recovery_time = Some(time(key, &text)?).filter(|t| *t > 0),
            "expire-time" => control.expire_time = Some(time(key, &text)?).filter(|t| *t > 0),
            _ => control.recovery_name = text,
        }
        Ok(())
    }

    fn set_result(&mut self, key: &'static str, text: String) -> Result<(), ControlError> {
        let control = &mut self.control;
        match key {
            "merge-dest-id" => control.merge_dest_id = Some(backup_id(key, &text)?),
            "data-bytes" => control.data_bytes = size(key, &text)?,
            "wal-bytes" => control.wal_bytes = size(key, &text)?,
            "uncompressed-bytes" => control.uncompressed_bytes = size(key, &text)?,
            "pgdata-bytes" => control.pgdata_bytes = size(key, &text)?,
            "status" => {
                control.status = BackupStatus::from_name(&text).unwrap_or_else(|| {
                    self.warnings.push(ControlWarning::InvalidStatus(text));
                    BackupStatus::Unknown
                });
            }
            "parent-backup-id" => control.parent_backup_id = Some(backup_id(key, &text)?),
            "external-dirs" => control.external_dirs = Some(text),
            "note" => control.note = Some(text),
            "content-crc" => {
                control.content_crc = Some(number(key, &text)?).filter(|crc| *crc != 0);
            }
            "storage-type" => {
                control.storage_type = match text.as_str() {
                    "FILE" => StorageType::File,
                    "DSS" => StorageType::Dss,
                    _ => StorageType::Unknown,
                };
            }
            _ => {
                control.s3_status = match text.as_str() {
                    "LOCAL" => S3Status::Local,
                    "S3" => S3Status::S3,
                    _ => S3Status::Unknown,
                };
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(BackupControl, Vec<ControlWarning>), ControlError> {
        for ((key, always), seen) in KEYS.into_iter().zip(self.seen) {
            if always && !seen {
                return Err(match key {
                    "start-time" => ControlError::StartTime,
                    key => ControlError::Missing(key),
                });
            }
            if !seen && matches!(key, "storage-type" | "s3-status") {
                self.warnings.push(ControlWarning::Missing(key));
            }
        }
        BackupId::from_start_time(self.control.start_time).ok_or(ControlError::StartTime)?;
        // `BackupControl::new` fills these in for what we write; what was not read is not known.
        for (key, field) in [
            ("program-version", &mut self.control.program_version),
            ("server-version", &mut self.control.server_version),
        ] {
            let at = KEYS.iter().position(|(known, _)| *known == key);
            if at.is_some_and(|at| !self.seen[at]) {
                field.clear();
            }
        }
        Ok((self.control, self.warnings))
    }
}

fn boolean(key: &str, text: &str) -> Result<bool, ValueError> {
    parse_bool(text).ok_or_else(|| Expected::Bool.error(format!("--{key}"), text))
}

fn number(key: &str, text: &str) -> Result<u32, ValueError> {
    parse_u32(text, Unit::None).ok_or_else(|| Expected::U32.error(format!("--{key}"), text))
}

// Anything negative means "not known".
fn size(key: &str, text: &str) -> Result<Option<i64>, ValueError> {
    parse_i64(text, Unit::None)
        .map(|bytes| Some(bytes).filter(|bytes| *bytes >= 0))
        .ok_or_else(|| Expected::I64.error(format!("--{key}"), text))
}

fn time(key: &str, text: &str) -> Result<i64, ValueError> {
    parse_timestamp(text, NoZone::Utc).ok_or_else(|| Expected::Time.error(format!("--{key}"), text))
}

fn backup_id(key: &str, text: &str) -> Result<BackupId, ValueError> {
    text.parse()
        .map_err(|_| Expected::Text.error(format!("--{key}"), text))
}

#[cfg(test)]
#[path = "backup_control_tests.rs"]
mod tests;
