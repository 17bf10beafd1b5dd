//! Reading `backup.control`: pairs into fields, and what is missing at the end.

use super::backup_control::{BackupControl, ControlError, ControlWarning};
use super::backup_words::{BackupMode, BackupStatus, S3Status, StorageType};
use super::key_value::{self, same_key};
use super::timestamp::{NoZone, parse_timestamp};
use super::value::{Expected, Unit, ValueError, parse_bool, parse_i64, parse_u32, parse_u64};
use crate::limits::CONTROL_FILE_BYTES_MAX;
use crate::types::{BackupId, CompressAlgorithm, TimelineId};

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

pub(super) fn parse(bytes: &[u8]) -> Result<(BackupControl, Vec<ControlWarning>), ControlError> {
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
