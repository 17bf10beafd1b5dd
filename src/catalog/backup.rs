//! One backup of an instance: its directory, its record and its content list.

use super::layout::{
    BACKUP_CONTROL, CONTENT_LIST, DATABASE, DSSDATA, EXTERNAL_DIRECTORIES, FILE_MODE, HEADER_MAP,
    MERGE_STAGING, read_small_file,
};
use super::{CatalogError, lock};
use crate::format::catalog::{
    BackupControl, BackupStatus, ContentEntry, ContentList, ContentListError, ContentListWriter,
    ControlError, Root, replace_pin_and_note, replace_status,
};
use crate::io::fault;
use crate::storage::{StorageError, sync_directory, write_file_durably_as_of};
use crate::types::{BackupId, PAGE_SIZE};
use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Bytes that a directory counts for in the sizes of a record.
const DIRECTORY_BYTES: u64 = 4096;

/// Bytes that are collected before a content list is written or parsed.
const LIST_BUFFER_BYTES: usize = 256 * 1024;

/// A backup's directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackupDir {
    id: BackupId,
    path: PathBuf,
    /// Whether a merge has staged files that replace those of the directory.
    is_staged: bool,
}

/// A backup as found when listing an instance.
#[derive(Clone, Debug)]
pub struct BackupEntry {
    /// Its id, from the name of its directory.
    pub id: BackupId,
    /// Its directory.
    pub dir: PathBuf,
    /// Its record, or why that cannot be read.
    pub control: Result<BackupControl, String>,
    /// What is odd about its record, as messages.
    pub warnings: Vec<String>,
    /// Set where this is the result of a merge that was not finished, kept in the directory of the
    /// FULL backup.
    pub unfinished_merge: Option<UnfinishedMerge>,
}

/// How far a merge came whose result is complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnfinishedMerge {
    /// Some of its files are still in the staging directory.
    Staged,
    /// All of them are where they belong.
    InPlace,
}

/// What a content list adds up to, as `backup.control` counts it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ContentTotals {
    /// CRC-32C of the list.
    pub crc: u32,
    /// Entries in the list.
    pub entries: u64,
    /// Bytes of all files but WAL segments, as stored.
    pub data_bytes: u64,
    /// Bytes of WAL segments.
    pub wal_bytes: u64,
    /// Bytes of all files but WAL segments, as they are in the cluster.
    pub uncompressed_bytes: u64,
}

impl ContentTotals {
    fn add(&mut self, entry: &ContentEntry<'_>) {
        self.entries += 1;
        if entry.is_directory() {
            self.data_bytes += DIRECTORY_BYTES;
            self.uncompressed_bytes += DIRECTORY_BYTES;
            return;
        }
        let stored = entry.size.bytes();
        if !entry.is_regular() || stored == 0 {
            return;
        }
        if entry.external_dir == 0 && is_wal_segment_name(&entry.path) {
            self.wal_bytes += stored;
            return;
        }
        self.data_bytes += stored;
        let pages = entry.headers.map(|headers| u64::from(headers.count));
        self.uncompressed_bytes += match pages {
            Some(pages) if entry.is_datafile => pages * PAGE_SIZE as u64,
            _ => stored,
        };
    }
}

fn is_wal_segment_name(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.len() == 24
        && name
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte))
}

impl BackupEntry {
    pub(super) fn read(dir: &BackupDir) -> BackupEntry {
        let (control, mut warnings) = match dir.read_control() {
            Ok((control, warnings)) => (Ok(control), warnings),
            Err(error) => (Err(text_of(&error)), Vec::new()),
        };
        if let Ok(control) = &control
            && control.id() != dir.id
        {
            warnings.push(format!(
                "backup ID in control file \"{}\" doesn't match name of the backup folder \"{}\"",
                control.id(),
                dir.path.display()
            ));
        }
        BackupEntry {
            id: dir.id,
            dir: dir.path.clone(),
            control,
            warnings,
            unfinished_merge: None,
        }
    }

    /// The backup's directory, to read more of it or change it.
    #[must_use]
    pub fn open(&self) -> BackupDir {
        BackupDir {
            id: self.id,
            path: self.dir.clone(),
            is_staged: self.unfinished_merge == Some(UnfinishedMerge::Staged),
        }
    }

    /// Its status as it was read; unknown where it has no readable record.
    #[must_use]
    pub fn status(&self) -> BackupStatus {
        self.control
            .as_ref()
            .map_or(BackupStatus::Unknown, |control| control.status)
    }

    /// Its status, where a running backup that nobody runs any more counts as failed. Nothing is
    /// written.
    #[must_use]
    pub fn effective_status(&self) -> BackupStatus {
        match self.status() {
            BackupStatus::Running if lock::exclusive_owner(&self.dir).is_none() => {
                BackupStatus::Error
            }
            status => status,
        }
    }
}

// An error and its causes in one line.
fn text_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl BackupDir {
    pub(super) fn new(id: BackupId, path: PathBuf) -> BackupDir {
        BackupDir {
            id,
            path,
            is_staged: false,
        }
    }

    /// The directory of a backup that was just given this id and place.
    #[must_use]
    pub fn at(id: BackupId, path: &Path) -> BackupDir {
        BackupDir::new(id, path.to_owned())
    }

    /// Where a merge prepares the files that will replace some of this backup's, laid out as a
    /// backup's directory.
    #[must_use]
    pub fn staging(&self) -> BackupDir {
        BackupDir::new(self.id, self.path.join(MERGE_STAGING))
    }

    /// The staging directory, if its files count as this backup's.
    #[must_use]
    pub fn staged(&self) -> Option<BackupDir> {
        self.is_staged.then(|| self.staging())
    }

    // The staged file of this name, if it counts, else that of the backup.
    fn current(&self, name: &str) -> PathBuf {
        let staged = self.path.join(MERGE_STAGING).join(name);
        if self.is_staged && staged.exists() {
            staged
        } else {
            self.path.join(name)
        }
    }

    /// The backup's id.
    #[must_use]
    pub fn id(&self) -> BackupId {
        self.id
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The copy of the data directory.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// The copy of the external directory of this number, from 1.
    #[must_use]
    pub fn external(&self, number: u32) -> PathBuf {
        self.path
            .join(EXTERNAL_DIRECTORIES)
            .join(format!("externaldir{number}"))
    }

    /// The copy of what the instances of a cluster share; there is none where they share nothing.
    #[must_use]
    pub fn shared(&self) -> PathBuf {
        self.path.join(DSSDATA)
    }

    /// The copy of a tree, which paths of the content list are relative to.
    #[must_use]
    pub fn root_of(&self, root: Root) -> PathBuf {
        match root {
            Root::Data => self.database(),
            Root::Shared => self.shared(),
            Root::External(number) => self.external(number),
        }
    }

    /// The file of page headers.
    #[must_use]
    pub fn header_map(&self) -> PathBuf {
        self.current(HEADER_MAP)
    }

    /// The record.
    #[must_use]
    pub fn control_path(&self) -> PathBuf {
        self.path.join(BACKUP_CONTROL)
    }

    /// The list of files.
    #[must_use]
    pub fn content_list_path(&self) -> PathBuf {
        self.current(CONTENT_LIST)
    }

    /// Reads the record, and what is odd about it as messages.
    ///
    /// # Errors
    /// Where the record is missing, unreadable or cut short.
    pub fn read_control(&self) -> Result<(BackupControl, Vec<String>), CatalogError> {
        let path = self.control_path();
        let bytes = read_control_file(&path)?;
        let (control, warnings) = BackupControl::parse(&bytes).map_err(|reason| {
            let path = path.clone();
            CatalogError::Control { path, reason }
        })?;
        let warnings = warnings
            .iter()
            .map(|warning| warning.describe(&path))
            .collect();
        Ok((control, warnings))
    }

    /// Replaces the record, durably.
    ///
    /// # Errors
    /// Where the record could not be read back, or writing fails; the former record then stays.
    pub fn write_control(&self, control: &BackupControl) -> Result<(), CatalogError> {
        self.write_control_as_of(control, None)
    }

    /// As [`BackupDir::write_control`], with this time of change.
    ///
    /// # Errors
    /// As [`BackupDir::write_control`].
    pub fn write_control_as_of(
        &self,
        control: &BackupControl,
        modified: Option<SystemTime>,
    ) -> Result<(), CatalogError> {
        control.check_storable().map_err(|reason| {
            let path = self.control_path();
            CatalogError::Control { path, reason }
        })?;
        self.write_control_bytes(control.encode().as_bytes(), modified)
    }

    /// Changes the status in the record, durably, and nothing else: what others wrote meanwhile
    /// stays.
    ///
    /// # Errors
    /// Where the record cannot be read or written.
    pub fn set_status(&self, status: BackupStatus) -> Result<(), CatalogError> {
        self.set_status_as_of(status, None)
    }

    /// As [`BackupDir::set_status`], with this time of change.
    ///
    /// # Errors
    /// As [`BackupDir::set_status`].
    pub fn set_status_as_of(
        &self,
        status: BackupStatus,
        modified: Option<SystemTime>,
    ) -> Result<(), CatalogError> {
        let path = self.control_path();
        let bytes = read_control_file(&path)?;
        let failed = |reason: ControlError| {
            let path = path.clone();
            CatalogError::Control { path, reason }
        };
        // A record that cannot be read is not to look better for a new status.
        let (control, _) = BackupControl::parse(&bytes).map_err(failed)?;
        if control.status == status {
            return Ok(());
        }
        let bytes = replace_status(&bytes, status).map_err(failed)?;
        self.write_control_bytes(&bytes, modified)
    }

    /// Changes pin and note in the record, durably, and nothing else, with this time of change.
    ///
    /// # Errors
    /// Where the record cannot be read or written.
    pub fn set_pin_and_note_as_of(
        &self,
        expire_time: Option<i64>,
        note: Option<&str>,
        modified: Option<SystemTime>,
    ) -> Result<(), CatalogError> {
        let path = self.control_path();
        let bytes = read_control_file(&path)?;
        let bytes = replace_pin_and_note(&bytes, expire_time, note)
            .map_err(|reason| CatalogError::Control { path, reason })?;
        self.write_control_bytes(&bytes, modified)
    }

    fn write_control_bytes(
        &self,
        bytes: &[u8],
        modified: Option<SystemTime>,
    ) -> Result<(), CatalogError> {
        write_file_durably_as_of(&self.control_path(), FILE_MODE, bytes, modified)
            .map_err(CatalogError::Storage)
    }

    /// Reads the list of files; `expected_crc` is that of the record, if it has one.
    ///
    /// # Errors
    /// Where the list is missing, not valid, or has another CRC.
    pub fn read_content_list(
        &self,
        expected_crc: Option<u32>,
    ) -> Result<ContentList, CatalogError> {
        let path = self.content_list_path();
        let file = File::open(&path)
            .map_err(|e| CatalogError::Storage(StorageError::new("open", &path, e)))?;
        let source = BufReader::with_capacity(LIST_BUFFER_BYTES, file);
        let failed = |source| {
            let path = path.clone();
            CatalogError::ContentList { path, source }
        };
        let (list, found) = ContentList::parse(source).map_err(failed)?;
        match expected_crc {
            Some(expected) if expected != found => {
                Err(failed(ContentListError::Crc { found, expected }))
            }
            _ => Ok(list),
        }
    }

    /// Replaces the list of files, durably and without holding it in memory.
    ///
    /// # Errors
    /// Where an entry cannot be stored or writing fails; the former list then stays.
    pub fn write_content_list<'a>(
        &self,
        entries: impl IntoIterator<Item = ContentEntry<'a>>,
    ) -> Result<ContentTotals, CatalogError> {
        let path = self.content_list_path();
        let temporary = self
            .path
            .join(format!("{CONTENT_LIST}-{}.tmp", std::process::id()));
        let written = write_list(&temporary, entries).and_then(|totals| {
            fault::step("rename", &temporary)
                .and_then(|()| std::fs::rename(&temporary, &path))
                .map(|()| totals)
                .map_err(|source| ContentListError::Io { source })
        });
        match written {
            Ok(totals) => {
                sync_directory(&self.path).map_err(CatalogError::Storage)?;
                Ok(totals)
            }
            Err(source) => {
                // The first failure is the one to report.
                let _ = std::fs::remove_file(&temporary);
                Err(CatalogError::WriteContentList { path, source })
            }
        }
    }
}

fn read_control_file(path: &Path) -> Result<Vec<u8>, CatalogError> {
    read_small_file(path).map_err(|error| match error.source.kind() {
        ErrorKind::NotFound => CatalogError::NoControl {
            path: path.to_owned(),
        },
        _ => CatalogError::Storage(error),
    })
}

fn write_list<'a>(
    path: &Path,
    entries: impl IntoIterator<Item = ContentEntry<'a>>,
) -> Result<ContentTotals, ContentListError> {
    let failed = |source| ContentListError::Io { source };
    let create = || {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(path)
    };
    let file = fault::step("create", path)
        .and_then(|()| create())
        .map_err(failed)?;
    let mut totals = ContentTotals::default();
    let mut writer = ContentListWriter::new(BufWriter::with_capacity(LIST_BUFFER_BYTES, file));
    for entry in entries {
        writer.write(&entry)?;
        totals.add(&entry);
    }
    let (mut target, crc) = writer.finish();
    totals.crc = crc;
    fault::step("write", path)
        .and_then(|()| target.flush())
        .map_err(failed)?;
    fault::step("fsync", path)
        .and_then(|()| target.get_ref().sync_all())
        .map_err(failed)?;
    Ok(totals)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::catalog::{BackupMode, EntrySize};

    fn backup() -> (tempfile::TempDir, BackupDir) {
        let scratch = tempfile::tempdir().unwrap();
        let id = BackupId::from_start_time(1_795_240_367).unwrap();
        let backup = BackupDir::new(id, scratch.path().to_owned());
        (scratch, backup)
    }

    #[test]
    fn a_status_changes_and_what_others_wrote_stays() {
        let (_scratch, backup) = backup();
        let mut control = BackupControl::new(BackupMode::Full, 1_795_240_367);
        backup.write_control(&control).unwrap();
        let text = format!("{}future-key = 1\n", control.encode());
        std::fs::write(backup.control_path(), &text).unwrap();
        backup.set_status(BackupStatus::Done).unwrap();
        let changed = std::fs::read_to_string(backup.control_path()).unwrap();
        assert_eq!(changed, text.replace("status = RUNNING", "status = DONE"));
        control.status = BackupStatus::Done;
        let (read, warnings) = backup.read_control().unwrap();
        assert_eq!((read, warnings.len()), (control, 1));
    }

    #[test]
    fn a_record_that_could_not_be_read_back_is_not_written() {
        let (_scratch, backup) = backup();
        let mut control = BackupControl::new(BackupMode::Full, 1_795_240_367);
        backup.write_control(&control).unwrap();
        control.note = Some("it's".to_owned());
        assert!(backup.write_control(&control).is_err());
        assert_eq!(backup.read_control().unwrap().0.note, None);
        std::fs::write(backup.control_path(), b"status = OK").unwrap();
        assert!(backup.set_status(BackupStatus::Error).is_err());
    }

    #[test]
    fn a_content_list_is_replaced_whole_with_its_totals() {
        let (_scratch, backup) = backup();
        let wal = "pg_xlog/000000010000000000000003";
        let entries = vec![
            ContentEntry::directory("pg_xlog", 0o700),
            ContentEntry::file(wal, 0o600, EntrySize::Bytes(16), 1),
            ContentEntry::file("x", 0o600, EntrySize::Bytes(5), 1),
            ContentEntry::file("y", 0o600, EntrySize::Unchanged, 1),
        ];
        let totals = backup.write_content_list(entries.clone()).unwrap();
        let sizes = (
            totals.entries,
            totals.data_bytes,
            totals.wal_bytes,
            totals.uncompressed_bytes,
        );
        assert_eq!(sizes, (4, 4101, 16, 4101));
        let list = backup.read_content_list(Some(totals.crc)).unwrap();
        assert_eq!(list.iter().collect::<Vec<_>>(), entries);
        let wrong = backup.read_content_list(Some(totals.crc ^ 1)).unwrap_err();
        assert!(matches!(wrong, CatalogError::ContentList { .. }));
        let bad = ContentEntry::file("a,b", 0o600, EntrySize::Bytes(0), 0);
        assert!(backup.write_content_list([bad]).is_err());
        assert_eq!(backup.read_content_list(None).unwrap().len(), 4);
        assert_eq!(std::fs::read_dir(backup.path()).unwrap().count(), 1);
    }
}
