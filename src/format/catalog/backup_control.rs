//! `backup.control`: what is known about one backup.
//!
//! Written in the order and with the quotes of the original (`catalog.cpp:2320-2421`), so that a
//! file it wrote comes back byte for byte. Read leniently where the original is lenient, with one
//! [`ControlWarning`] each, but never half: the file has no checksum, so a file without a key that
//! is always written, or without its last line end, is refused as cut short.

use super::backup_words::{BackupMode, BackupStatus, S3Status, StorageType};
use super::control_reader;
use super::key_value::{self, same_key};
use super::timestamp::format_timestamp;
use super::value::{ValueError, printable};
use crate::limits::{CONTROL_FILE_BYTES_MAX, CONTROL_LINE_BYTES_MAX, NOTE_BYTES_MAX};
use crate::types::{BackupId, CompressAlgorithm, Lsn, PAGE_SIZE, TimelineId};
use std::fmt::{self, Write};
use std::path::Path;

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
                let key = printable(key);
                format!("Invalid option \"{key}\" in file \"{path}\"")
            }
            ControlWarning::InvalidStatus(text) => {
                format!("Invalid STATUS \"{}\"", printable(text))
            }
            ControlWarning::InvalidLsn(key, text) => {
                format!("Invalid {key} \"{}\"", printable(text))
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
    #[error("Syntax error in \"{text}\"", text = printable(.0))]
    Syntax(String),
    /// Text that is not UTF-8 where only names and numbers can be.
    #[error("{0} is not UTF-8")]
    Encoding(&'static str),
    /// A value that its key cannot have.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// No mode.
    #[error("invalid backup-mode \"{text}\"", text = printable(.0))]
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
        control_reader::parse(bytes)
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

/// The control file `bytes` with another pin and note, where the original has them, and nothing
/// else changed.
///
/// # Errors
/// Where a line is no pair, or none has the status.
pub fn replace_pin_and_note(
    bytes: &[u8],
    expire_time: Option<i64>,
    note: Option<&str>,
) -> Result<Vec<u8>, ControlError> {
    const BEHIND_PIN: [&[u8]; 7] = [
        b"recovery-name",
        b"merge-dest-id",
        b"data-bytes",
        b"wal-bytes",
        b"uncompressed-bytes",
        b"pgdata-bytes",
        b"status",
    ];
    let mut pin = expire_time.map(|time| format!("expire-time = '{}'\n", format_timestamp(time)));
    let mut note = note.map(|note| format!("note = '{note}'\n"));
    let mut replaced = Vec::with_capacity(bytes.len() + NOTE_BYTES_MAX);
    let mut has_status = false;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let pair = key_value::parse_line(line)
            .map_err(|_| ControlError::Syntax(String::from_utf8_lossy(line).into_owned()))?;
        let key = pair.as_ref().map_or(&b""[..], |pair| pair.key);
        let is = |name: &[u8]| same_key(key, name);
        if is(b"expire-time") || is(b"note") {
            continue;
        }
        if BEHIND_PIN.into_iter().any(is) {
            replaced.extend_from_slice(pin.take().unwrap_or_default().as_bytes());
        }
        let is_behind_note = is(b"content-crc") || pair.is_none() && has_status;
        if is_behind_note {
            replaced.extend_from_slice(note.take().unwrap_or_default().as_bytes());
        }
        has_status |= is(b"status");
        replaced.extend_from_slice(line);
    }
    replaced.extend_from_slice(note.take().unwrap_or_default().as_bytes());
    if has_status {
        Ok(replaced)
    } else {
        Err(ControlError::Missing("status"))
    }
}

#[cfg(test)]
#[path = "backup_control_tests.rs"]
mod tests;
