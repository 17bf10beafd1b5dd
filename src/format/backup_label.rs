//! `backup_label`: tells a starting server that its files are a backup, and where replay begins.
//!
//! ```text
//! START WAL LOCATION: 0/3000028 (file 000000010000000000000003)
//! CHECKPOINT LOCATION: 0/30000A8
//! BACKUP METHOD: pg_start_backup
//! BACKUP FROM: master
//! START TIME: 2026-11-21 05:52:47 UTC
//! LABEL: 2026-11-21 05:52:47+00 with pg_probackup
//! ```
//!
//! PostgreSQL adds `START TIMELINE: 1`, says `primary` for `master`, and knows no method but
//! `streamed`. The server insists on the first two lines. The label is free text, kept as it is
//! even with line breaks.
//!
//! Source: openGauss `src/gausskernel/storage/access/transam/xlog.cpp`, `do_pg_start_backup`,
//! `read_backup_label`.

use super::wal::is_wal_name;
use crate::types::{Lsn, TimelineId};

/// How the backup was started.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BackupMethod {
    /// By `pg_start_backup`, with the label in the data directory.
    PgStartBackup,
    /// With the label handed to the client: replay must meet the record of the backup's end.
    Streamed,
}

/// Which kind of server the backup was taken from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BackupSource {
    /// A primary, in openGauss's word.
    Master,
    /// A primary, in PostgreSQL's word.
    Primary,
    /// A standby.
    Standby,
}

/// The contents of a backup label.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackupLabel {
    /// Where replay begins.
    pub start_wal: Lsn,
    /// File name of the segment that holds that position.
    pub start_segment: String,
    /// Start of the checkpoint record.
    pub checkpoint: Lsn,
    /// How the backup was started.
    pub method: BackupMethod,
    /// What it was taken from.
    pub source: BackupSource,
    /// When, in the server's log time zone, as text.
    pub start_time: String,
    /// The text handed to the start function.
    pub label: String,
    /// PostgreSQL only.
    pub start_timeline: Option<TimelineId>,
}

/// The text is no backup label.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BackupLabelError {
    /// Not UTF-8, or with a NUL.
    #[error("backup label is not text")]
    NotText,
    /// A line is absent or says something else.
    #[error("backup label has no valid line \"{line}\"")]
    Line {
        /// What the line should begin with.
        line: &'static str,
    },
}

const START_WAL: &str = "START WAL LOCATION: ";
const CHECKPOINT: &str = "CHECKPOINT LOCATION: ";
const METHOD: &str = "BACKUP METHOD: ";
const SOURCE: &str = "BACKUP FROM: ";
const START_TIME: &str = "START TIME: ";
const LABEL: &str = "LABEL: ";
const START_TIMELINE: &str = "START TIMELINE: ";

impl BackupLabel {
    /// Reads a label.
    ///
    /// # Errors
    /// [`BackupLabelError`] names the first line that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<BackupLabel, BackupLabelError> {
        let mut rest = match std::str::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => text,
            _ => return Err(BackupLabelError::NotText),
        };
        let (start_wal, start_segment) = take(&mut rest, START_WAL, |value| {
            let (lsn, file) = value.strip_suffix(')')?.split_once(" (file ")?;
            is_wal_name(file).then_some((lsn.parse().ok()?, file.to_owned()))
        })?;
        let checkpoint = take(&mut rest, CHECKPOINT, |value| value.parse().ok())?;
        let method = take(&mut rest, METHOD, |value| match value {
            "pg_start_backup" => Some(BackupMethod::PgStartBackup),
            "streamed" => Some(BackupMethod::Streamed),
            _ => None,
        })?;
        let source = take(&mut rest, SOURCE, |value| match value {
            "master" => Some(BackupSource::Master),
            "primary" => Some(BackupSource::Primary),
            "standby" => Some(BackupSource::Standby),
            _ => None,
        })?;
        let start_time = take(&mut rest, START_TIME, |value| Some(value.to_owned()))?;
        let (label, start_timeline) = parse_end(rest)?;
        Ok(BackupLabel {
            start_wal,
            start_segment,
            checkpoint,
            method,
            source,
            start_time,
            label,
            start_timeline,
        })
    }

    /// The text of the label.
    #[must_use]
    pub fn encode(&self) -> String {
        let method = match self.method {
            BackupMethod::PgStartBackup => "pg_start_backup",
            BackupMethod::Streamed => "streamed",
        };
        let source = match self.source {
            BackupSource::Master => "master",
            BackupSource::Primary => "primary",
            BackupSource::Standby => "standby",
        };
        let mut text = format!(
            "{START_WAL}{} (file {})\n{CHECKPOINT}{}\n{METHOD}{method}\n{SOURCE}{source}\n\
             {START_TIME}{}\n{LABEL}{}\n",
            self.start_wal, self.start_segment, self.checkpoint, self.start_time, self.label
        );
        if let Some(timeline) = self.start_timeline {
            text.push_str(&format!("{START_TIMELINE}{timeline}\n"));
        }
        text
    }
}

/// Takes a line off `rest` and reads what follows `name` in it.
fn take<T>(
    rest: &mut &str,
    name: &'static str,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<T, BackupLabelError> {
    let (line, after) = rest
        .split_once('\n')
        .ok_or(BackupLabelError::Line { line: name })?;
    *rest = after;
    line.strip_prefix(name)
        .and_then(read)
        .ok_or(BackupLabelError::Line { line: name })
}

/// Reads the label, which may have line breaks, and the timeline that may follow it.
fn parse_end(rest: &str) -> Result<(String, Option<TimelineId>), BackupLabelError> {
    let value = rest
        .strip_prefix(LABEL)
        .and_then(|value| value.strip_suffix('\n'))
        .ok_or(BackupLabelError::Line { line: LABEL })?;
    let Some((label, last)) = value.rsplit_once('\n') else {
        return Ok((value.to_owned(), None));
    };
    let timeline = last
        .strip_prefix(START_TIMELINE)
        .and_then(|number| number.parse().ok());
    Ok(match timeline {
        Some(timeline) => (label.to_owned(), Some(TimelineId(timeline))),
        None => (value.to_owned(), None),
    })
}
