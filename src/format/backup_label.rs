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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{database_map, fixtures, tablespace_map};

    const OPENGAUSS: &str = "START WAL LOCATION: 0/3000028 (file 000000010000000000000003)\n\
        CHECKPOINT LOCATION: 0/30000A8\n\
        BACKUP METHOD: pg_start_backup\n\
        BACKUP FROM: master\n\
        START TIME: 2026-11-21 05:52:47 UTC\n\
        LABEL: 2026-11-21 05:52:47+00 with pg_probackup\n";

    #[test]
    fn the_labels_and_maps_of_the_original_are_read_and_written_back() {
        let wanted = |path: &str| {
            ["/backup_label", "/tablespace_map", "/database_map"]
                .iter()
                .any(|name| path.ends_with(name))
        };
        let Some(files) = fixtures::members("catalog_none.tar.zst", wanted) else {
            return;
        };
        assert_eq!(files.len(), 9);
        for (path, bytes) in files {
            let text = String::from_utf8(bytes.clone()).unwrap();
            let encoded = if path.ends_with("/backup_label") {
                let label = BackupLabel::parse(&bytes).unwrap();
                assert!(label.label.ends_with(" with pg_probackup"));
                label.encode()
            } else if path.ends_with("/tablespace_map") {
                let entries = tablespace_map::parse(&bytes).unwrap();
                assert_eq!(entries, [(16385, "/gauss/ts/ts1".to_owned())]);
                tablespace_map::encode(&entries).unwrap()
            } else {
                let databases = database_map::parse(&bytes).unwrap();
                assert!(databases.iter().any(|database| database.name == "fix"));
                database_map::encode(&databases).unwrap()
            };
            assert_eq!(encoded, text, "{path}");
        }
    }

    #[test]
    fn a_label_of_opengauss_is_read() {
        let label = BackupLabel::parse(OPENGAUSS.as_bytes()).unwrap();
        assert_eq!(label.start_wal, Lsn(0x300_0028));
        assert_eq!(label.start_segment, "000000010000000000000003");
        assert_eq!(label.checkpoint, Lsn(0x300_00A8));
        assert_eq!(label.method, BackupMethod::PgStartBackup);
        assert_eq!(label.source, BackupSource::Master);
        assert_eq!(label.start_time, "2026-11-21 05:52:47 UTC");
        assert_eq!(label.label, "2026-11-21 05:52:47+00 with pg_probackup");
        assert_eq!(label.start_timeline, None);
        assert_eq!(label.encode(), OPENGAUSS);
    }

    #[test]
    fn a_label_of_postgresql_is_read() {
        let text = OPENGAUSS
            .replace("pg_start_backup\n", "streamed\n")
            .replace("master", "standby")
            + "START TIMELINE: 3\n";
        let label = BackupLabel::parse(text.as_bytes()).unwrap();
        assert_eq!(label.method, BackupMethod::Streamed);
        assert_eq!(label.source, BackupSource::Standby);
        assert_eq!(label.start_timeline, Some(TimelineId(3)));
        assert_eq!(label.encode(), text);
        let primary = text.replace("standby", "primary");
        let label = BackupLabel::parse(primary.as_bytes()).unwrap();
        assert_eq!(label.source, BackupSource::Primary);
    }

    #[test]
    fn a_label_may_have_line_breaks() {
        for text in ["", "a\nb", "\n", "a\nSTART TIMELINE: x"] {
            for timeline in [None, Some(TimelineId(1))] {
                let mut label = BackupLabel::parse(OPENGAUSS.as_bytes()).unwrap();
                label.label = text.to_owned();
                label.start_timeline = timeline;
                assert_eq!(BackupLabel::parse(label.encode().as_bytes()), Ok(label));
            }
        }
    }

    #[test]
    fn each_wrong_line_is_named() {
        for (from, to, line) in [
            ("START WAL", "START", START_WAL),
            ("(file 0", "(file", START_WAL),
            ("3)\n", "3\n", START_WAL),
            ("0/3000028 ", "3000028 ", START_WAL),
            ("0/30000A8", "0/30000A8 ", CHECKPOINT),
            ("CHECKPOINT", "\nCHECKPOINT", CHECKPOINT),
            ("pg_start_backup\n", "other\n", METHOD),
            ("master", "Master", SOURCE),
            ("START TIME", "TIME", START_TIME),
            ("LABEL: ", "LABEL:", LABEL),
            ("with pg_probackup\n", "", LABEL),
        ] {
            let text = OPENGAUSS.replacen(from, to, 1);
            let result = BackupLabel::parse(text.as_bytes());
            assert_eq!(result, Err(BackupLabelError::Line { line }), "{to:?}");
        }
        for bytes in [&b"\xFF"[..], b"a\0b"] {
            assert_eq!(BackupLabel::parse(bytes), Err(BackupLabelError::NotText));
        }
        assert!(BackupLabel::parse(b"").is_err());
    }
}
