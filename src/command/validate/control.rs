//! `backup.control` has no checksum: what it says is compared with everything else that knows.
//!
//! Compared: the id with the directory's name, sums with the content list, LSNs and timeline with
//! `backup_label` and `pg_control`, times with one another, external directories with the list, the
//! page header map with the entries that point into it, and, where the backup has one, all of it
//! with the seal. `docs/compatibility.md` lists what no file can tell.

use super::super::Error;
use super::super::backup::is_wal_entry;
use super::super::cluster_control::{CONTROL_FILE_BYTES_MAX, ControlForm};
use crate::catalog::BackupDir;
use crate::format::backup_label::BackupLabel;
use crate::format::catalog::{
    BackupControl, BackupMode, ContentEntry, ContentList, EntrySize, Root,
};
use crate::pipeline::Finding;
use crate::storage::{Posix, Storage};
use crate::types::{PAGE_SIZE, ServerFlavor};
use std::path::Path;

/// What does not agree.
pub(super) fn disagreements(
    dir: &BackupDir,
    control: &BackupControl,
    list: &ContentList,
) -> Result<Vec<Finding>, Error> {
    let mut check = Check {
        control,
        findings: Vec::new(),
    };
    check.name(dir);
    check.fixed_values();
    check.times();
    check.sums(list);
    check.external_dirs(list);
    check.header_map(dir, list);
    let database = Posix::open(&dir.database())?;
    check.label(&database, list);
    check.control_file(dir, list);
    check.seal(dir);
    Ok(check.findings)
}

struct Check<'a> {
    control: &'a BackupControl,
    findings: Vec<Finding>,
}

impl Check<'_> {
    fn find(&mut self, text: String) {
        let id = self.control.id();
        let text = format!("Backup {id}: {text}");
        self.findings.push(Finding {
            name: "backup.control".to_owned(),
            text,
        });
    }

    fn expect<T: PartialEq + std::fmt::Display>(&mut self, key: &str, found: T, expected: T) {
        if found != expected {
            self.find(format!(
                "backup.control says {key} = {found}, but it must be {expected}"
            ));
        }
    }

    fn name(&mut self, dir: &BackupDir) {
        let name = dir
            .path()
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        self.expect("start-time of backup", self.control.id().to_string(), name);
    }

    fn fixed_values(&mut self) {
        let control = self.control;
        let page = u32::try_from(PAGE_SIZE).expect("a page is small");
        self.expect("block-size", control.block_size, page);
        self.expect("xlog-block-size", control.wal_block_size, page);
        let is_child = control.parent_backup_id.is_some();
        if is_child != (control.mode == BackupMode::Ptrack) {
            self.find(format!(
                "backup.control says backup-mode = {}, with{} a parent",
                control.mode.name(),
                if is_child { "" } else { "out" }
            ));
        }
        if control.start_lsn > control.stop_lsn {
            self.find(format!(
                "backup.control says start-lsn = {} behind stop-lsn = {}",
                control.start_lsn, control.stop_lsn
            ));
        }
        // A merge keeps the name that the FULL backup had.
        if control.merge_time.is_none() {
            let name = format!("backup {}", control.id());
            self.expect("recovery-name", control.recovery_name.clone(), name);
        }
        if control
            .parent_backup_id
            .is_some_and(|parent| parent >= control.id())
        {
            self.find("backup.control names a parent that is not older".to_owned());
        }
    }

    fn times(&mut self) {
        let control = self.control;
        match control.end_time {
            None => self.find("backup.control has no end-time".to_owned()),
            Some(end) if end < control.start_time && control.merge_time.is_none() => {
                self.find("backup.control has an end-time before its start-time".to_owned());
            }
            Some(end) if control.merge_time.is_some_and(|merge| end < merge) => {
                self.find("backup.control has an end-time before its merge-time".to_owned());
            }
            Some(_) => {}
        }
        if control.recovery_time.is_none() {
            self.find("backup.control has no recovery-time".to_owned());
        }
    }

    fn sums(&mut self, list: &ContentList) {
        let merged = self.control.merge_time.is_some();
        let mut sums = Sums {
            merged,
            ..Sums::default()
        };
        for entry in list.iter() {
            sums.add(&entry);
        }
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let control = self.control;
        let stream = control.stream;
        let pairs = [
            ("data-bytes", control.data_bytes, Some(signed(sums.data))),
            (
                "wal-bytes",
                control.wal_bytes,
                stream.then(|| signed(sums.wal)),
            ),
        ];
        for (key, found, expected) in pairs {
            if let (Some(found), Some(expected)) = (found, expected) {
                self.expect(key, found, expected);
            } else if expected.is_some() {
                self.find(format!("backup.control has no {key}"));
            }
        }
        if control
            .uncompressed_bytes
            .is_some_and(|bytes| bytes != signed(sums.uncompressed))
        {
            let found = control.uncompressed_bytes.unwrap_or_default();
            self.expect("uncompressed-bytes", found, signed(sums.uncompressed));
        }
    }

    fn external_dirs(&mut self, list: &ContentList) {
        let listed = list
            .iter()
            .map(|entry| entry.external_dir)
            .max()
            .unwrap_or(0);
        let text = self.control.external_dirs.as_deref().unwrap_or("");
        let named = text.split(':').filter(|path| !path.is_empty()).count();
        if usize::try_from(listed).is_ok_and(|listed| listed > named) {
            self.find(format!(
                "backup.control names {named} external directories, the content list has {listed}"
            ));
        }
        if text
            .split(':')
            .any(|path| !path.is_empty() && !path.starts_with('/'))
        {
            self.find("backup.control names an external directory that is not absolute".to_owned());
        }
    }

    /// The map holds the streams of all data files and nothing else.
    fn header_map(&mut self, dir: &BackupDir, list: &ContentList) {
        let expected: u64 = list
            .iter()
            .filter_map(|entry| entry.headers)
            .map(|map| u64::from(map.size))
            .sum();
        let size = Posix::open(dir.path())
            .and_then(|root| root.metadata(Path::new("page_header_map")))
            .map_or(0, |metadata| metadata.size);
        if size != expected {
            self.find(format!(
                "page_header_map has {size} bytes, the content list knows of {expected}"
            ));
        }
    }

    fn label(&mut self, database: &Posix, list: &ContentList) {
        if list.find("backup_label", Root::Data).is_none() {
            return;
        }
        // A missing or changed label is found with the other files.
        let Ok(bytes) = database.read(Path::new("backup_label"), 64 * 1024) else {
            return;
        };
        match BackupLabel::parse(&bytes) {
            Ok(label) => {
                // Replication slots in the backup may need WAL from before its own start.
                let has_slots = list
                    .iter()
                    .any(|entry| entry.path.starts_with("pg_replslot/"));
                if !(has_slots && self.control.start_lsn < label.start_wal) {
                    self.expect("start-lsn", self.control.start_lsn, label.start_wal);
                }
                if let Some(timeline) = label.start_timeline {
                    self.expect("timelineid", self.control.timeline, timeline);
                }
            }
            Err(error) => self.find(format!("backup_label cannot be read: {error}")),
        }
    }

    /// Where the control file is, and its bytes; none where it is missing, which is found with the
    /// other files.
    fn control_bytes(&self, dir: &BackupDir) -> (ControlForm, Option<Vec<u8>>) {
        let form = ControlForm::of_backup(self.control.storage_type, dir);
        let tree = Posix::open(&dir.root_of(form.root())).ok();
        let read = tree.and_then(|tree| {
            tree.read(Path::new(form.path()), CONTROL_FILE_BYTES_MAX)
                .ok()
        });
        (form, read)
    }

    fn control_file(&mut self, dir: &BackupDir, list: &ContentList) {
        let (form, bytes) = self.control_bytes(dir);
        let path = form.path();
        let Some(entry) = list.find(path, form.root()) else {
            self.find(format!("the content list has no {path}"));
            return;
        };
        let Some(bytes) = bytes else {
            return;
        };
        let found = match form.parse(&bytes) {
            Ok(found) => found,
            Err(error) => return self.find(format!("{path} is damaged: {error}")),
        };
        let file = found.file;
        let version = match file.flavor {
            // What every openGauss calls itself.
            ServerFlavor::OpenGauss => "9.2".to_owned(),
            ServerFlavor::PostgreSql { major } => major.to_string(),
        };
        self.expect(
            "server-version",
            self.control.server_version.clone(),
            version,
        );
        if found.listed_crc != entry.crc {
            self.find(format!(
                "{path} has CRC {:X}, the content list says {:X}",
                found.listed_crc, entry.crc
            ));
        }
        self.expect("timelineid", self.control.timeline, file.timeline);
        let checksum_version = u32::from(file.data_checksums);
        let key = "checksum-version";
        self.expect(key, self.control.checksum_version, checksum_version);
    }

    fn seal(&mut self, dir: &BackupDir) {
        let seal = match super::super::seal::read(dir) {
            Ok(Some(seal)) => seal,
            Ok(None) => return,
            Err(text) => return self.find(text),
        };
        if let (form, Some(bytes)) = self.control_bytes(dir)
            && !seal.matches_pg_control(&bytes)
        {
            let path = form.path();
            self.find(format!(
                "{path} is not as it was when the backup was sealed"
            ));
        }
        if let Some(text) = super::super::seal::disagreement(dir, self.control, &seal) {
            self.find(text);
        }
    }
}

/// Sums over a content list, counted as the original does when it writes one.
#[derive(Default)]
struct Sums {
    merged: bool,
    data: u64,
    wal: u64,
    uncompressed: u64,
}

impl Sums {
    fn add(&mut self, entry: &ContentEntry<'_>) {
        const DIRECTORY_BYTES: u64 = 4096;
        let size = match entry.size {
            _ if entry.is_directory() => {
                self.data += DIRECTORY_BYTES;
                self.uncompressed += DIRECTORY_BYTES;
                return;
            }
            EntrySize::Bytes(size) => size,
            EntrySize::Unchanged => return,
        };
        if is_wal_entry(entry) {
            self.wal += size;
            return;
        }
        self.data += size;
        // Files that the original adds to the list at the end of a backup are not in its sum; a
        // merge counts the list anew.
        if entry.path == "database_map" && !self.merged {
            return;
        }
        self.uncompressed += match entry.headers {
            Some(headers) => u64::from(headers.count) * u64::try_from(PAGE_SIZE).unwrap_or(0),
            None => size,
        };
    }
}
