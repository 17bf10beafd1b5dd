//! One backup, checked for itself: its files, its pages, its WAL, and whether its control data
//! agree with them.

use super::super::Error;
use super::super::merge::{self, OverwrittenFiles};
use super::{control, extra, wal};
use crate::catalog::{BackupDir, BackupEntry};
use crate::format::catalog::{
    BackupControl, BackupMode, BackupStatus, ContentEntry, ContentList, EntrySize, Root,
    StorageType,
};
use crate::io::EngineChoice;
use crate::monitor::{Monitor, Stage};
use crate::pipeline::{
    Finding, HeaderMapReader, MemberFile, Settings, ValidateItem, ValidateKind, transfer,
};
use crate::storage::{Posix, Storage};
use crate::types::SegmentNumber;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// How a backup is checked.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// CPU threads.
    pub threads: usize,
    /// Whether pages are left alone and only file CRCs are checked.
    pub skip_block_validation: bool,
    /// Which I/O engine to use.
    pub engine: EngineChoice,
    /// Set by a signal handler.
    pub cancel: Arc<AtomicBool>,
    /// On what kind of storage the instance is, where that was said; else its settings tell.
    pub storage: Option<StorageType>,
}

/// Warnings printed for one backup; the rest is counted.
const FINDINGS_SHOWN_MAX: usize = 100;

/// The program version that wrote what we understand, as the original compares it.
pub(in crate::command) const PROGRAM_VERSION: &str = "2.4.2";

/// Checks one backup, sets its status accordingly and returns whether it is valid.
///
/// The caller holds a lock on the backup. Its parents are not looked at.
///
/// # Errors
/// When the check itself cannot be carried out; a damaged backup is `Ok(false)`.
pub fn check_backup(
    dir: &BackupDir,
    control: &mut BackupControl,
    options: &CheckOptions,
    monitor: &dyn Monitor,
) -> Result<bool, Error> {
    if !is_checkable(dir, control, options)? {
        return Ok(false);
    }
    let id = control.id();
    match control.status {
        BackupStatus::Ok | BackupStatus::Done | BackupStatus::Merging => {
            tracing::info!("Validating backup {id}");
        }
        _ => tracing::info!("Revalidating backup {id}"),
    }
    let list = match dir.read_content_list(control.content_crc) {
        Ok(list) => list,
        Err(error) => {
            tracing::warn!("{}", super::super::words::describe(&error));
            tracing::warn!("Backup {id} file list is corrupted");
            return conclude(dir, control, false);
        }
    };
    let mut findings = control::disagreements(dir, control, &list)?;
    findings.extend(extra::unlisted_files(dir, control, &list)?);
    let none = OverwrittenFiles::new();
    findings.extend(check_files(dir, control, &list, &none, options, monitor)?);
    report(&findings);
    if !findings.is_empty() {
        tracing::warn!("Backup {id} data files are corrupted");
        return conclude(dir, control, false);
    }
    tracing::info!("Backup {id} data files are valid");
    let intact = wal::is_complete(dir, control, &options.cancel)?;
    conclude(dir, control, intact)
}

fn report(findings: &[Finding]) {
    for finding in findings.iter().take(FINDINGS_SHOWN_MAX) {
        tracing::warn!("{}", finding.text);
    }
    if findings.len() > FINDINGS_SHOWN_MAX {
        tracing::warn!("… and {} more", findings.len() - FINDINGS_SHOWN_MAX);
    }
}

/// Checks the result of a merge that was not finished: the files that a restore would read, whether
/// they are in place or staged. No status is written, because there is no backup yet to have one.
///
/// # Errors
/// When the check cannot be carried out.
pub(super) fn check_unfinished(
    entry: &BackupEntry,
    options: &CheckOptions,
    monitor: &dyn Monitor,
) -> Result<bool, Error> {
    let id = entry.id;
    tracing::warn!(
        "Merge into backup {id} is not finished; it can be restored, merge -i {id} finishes it"
    );
    let dir = entry.open();
    let Ok(control) = &entry.control else {
        return Err(Error::UnreadableControl { id });
    };
    tracing::info!("Validating the result of the merge into backup {id}");
    let list = match dir.read_content_list(control.content_crc) {
        Ok(list) => list,
        Err(error) => {
            tracing::warn!("{}", super::super::words::describe(&error));
            tracing::warn!("Backup {id} file list is corrupted");
            return Ok(false);
        }
    };
    let overwritten = merge::being_overwritten(entry);
    let overwritten = overwritten.map_or_else(OverwrittenFiles::new, |(files, _)| files);
    let mut findings = check_files(&dir, control, &list, &overwritten, options, monitor)?;
    findings.extend(merge::check_overwritten(entry, options, monitor)?);
    report(&findings);
    if findings.is_empty() {
        tracing::info!("Backup {id} data files are valid");
    } else {
        tracing::warn!("Backup {id} data files are corrupted");
    }
    Ok(findings.is_empty())
}

/// Whether the backup is one that can be checked; says why where it is not.
fn is_checkable(
    dir: &BackupDir,
    control: &mut BackupControl,
    options: &CheckOptions,
) -> Result<bool, Error> {
    let id = control.id();
    check_version(control)?;
    if is_of_other_storage(dir, control, options.storage) {
        return conclude(dir, control, false);
    }
    match control.status {
        BackupStatus::Running => {
            tracing::warn!(
                "Backup {id} has status RUNNING, change it to ERROR and skip validation"
            );
            control.status = BackupStatus::Error;
            super::super::status::set(dir, control)?;
            Ok(false)
        }
        BackupStatus::Merging if control.mode == BackupMode::Full => {
            tracing::warn!("Full backup {id} has status MERGING, skip validation");
            Ok(false)
        }
        BackupStatus::Ok
        | BackupStatus::Done
        | BackupStatus::Orphan
        | BackupStatus::Merging
        | BackupStatus::Corrupt
            if control.storage_type != StorageType::Unknown =>
        {
            Ok(true)
        }
        status => {
            tracing::warn!("Backup {id} has status {status}. Skip validation.");
            Ok(false)
        }
    }
}

/// Whether the backup is of a cluster on another kind of storage than that of the instance; says
/// so. Only what would be checked is judged.
fn is_of_other_storage(
    dir: &BackupDir,
    control: &BackupControl,
    said: Option<StorageType>,
) -> bool {
    let is_judged = match control.status {
        BackupStatus::Ok | BackupStatus::Done | BackupStatus::Orphan | BackupStatus::Corrupt => {
            true
        }
        BackupStatus::Merging => control.mode != BackupMode::Full,
        _ => false,
    };
    if !is_judged || control.storage_type == StorageType::Unknown {
        return false;
    }
    // Without settings there is nothing to compare with.
    let conf = super::instance_of(dir.path()).and_then(|instance| Ok((instance.conf()?, instance)));
    let Ok((conf, instance)) = conf else {
        return false;
    };
    if said.unwrap_or_else(|| conf.storage_type()) == control.storage_type {
        return false;
    }
    tracing::warn!(
        "Backup {} is not suit for instance {}, because they have different storage type. Change \
         it to CORRUPT and skip validation.",
        control.id(),
        instance.name()
    );
    true
}

/// Refuses a backup that a later version wrote.
pub(in super::super) fn check_version(control: &BackupControl) -> Result<(), Error> {
    if version_number(&control.program_version) > version_number(PROGRAM_VERSION) {
        return Err(Error::NewerBackup {
            id: control.id(),
            version: control.program_version.clone(),
        });
    }
    Ok(())
}

/// Versions as the original compares them.
pub(in crate::command) fn version_number(version: &str) -> u64 {
    let mut parts = version
        .split('.')
        .map(|part| part.parse::<u64>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0).min(9999);
    next() * 10_000 + next() * 100 + next()
}

/// Writes the status that the check led to.
fn conclude(dir: &BackupDir, control: &mut BackupControl, valid: bool) -> Result<bool, Error> {
    let status = if valid {
        BackupStatus::Ok
    } else {
        BackupStatus::Corrupt
    };
    if control.status != status {
        control.status = status;
        super::super::status::set(dir, control)?;
    }
    Ok(valid)
}

/// Whether the header map says what the pages of the backup are. In its backups of shared storage
/// the original leaves that to chance, and stores pages as they are, also those that no server ever
/// wrote; its backups have no seal.
pub(in crate::command) fn has_page_records(dir: &BackupDir, control: &BackupControl) -> bool {
    control.storage_type != StorageType::Dss || !matches!(super::super::seal::read(dir), Ok(None))
}

/// Reads every stored file back but those `overwritten`, which are checked by themselves.
fn check_files(
    dir: &BackupDir,
    control: &BackupControl,
    list: &ContentList,
    overwritten: &OverwrittenFiles,
    options: &CheckOptions,
    monitor: &dyn Monitor,
) -> Result<Vec<Finding>, Error> {
    let kind = ValidateKind::new(options.threads);
    let stores = Stores::open(dir, control, list)?;
    let (mut order, mut findings) = read_order(&stores, control, list);
    if !overwritten.is_empty() {
        order.retain(|(index, _)| {
            let entry = list.get(*index).expect("the order is of this list");
            !overwritten.contains(&(entry.root(), entry.path.into_owned()))
        });
    }
    let bytes: u64 = order.iter().map(|(_, size)| size).sum();
    let judges_pages = !options.skip_block_validation && has_page_records(dir, control);
    let items = order.iter().map(|(index, size)| {
        let entry = list.get(*index).expect("the order is of this list");
        let member = stores.member(&entry, *size);
        ValidateItem {
            name: entry.path.to_string(),
            member: member.expect("looked at when the order was made"),
            pages: (entry.is_datafile && judges_pages)
                .then(|| (SegmentNumber(entry.segno), entry.compressed.is_some())),
        }
    });
    tracing::info!("Begin validate file");
    monitor.begin(
        Stage::Validate,
        super::super::words::count(order.len()),
        bytes,
    );
    let settings = Settings {
        engine: options.engine,
        threads: options.threads,
        sync: false,
        cancel: options.cancel.clone(),
    };
    let transferred = transfer(&kind, items, &settings, monitor);
    monitor.end();
    transferred?;
    tracing::info!("Finish validate file. ");
    findings.extend(kind.into_findings());
    Ok(findings)
}

/// The files to read, largest first: index in the list and size.
fn read_order(
    stores: &Stores,
    control: &BackupControl,
    list: &ContentList,
) -> (Vec<(usize, u64)>, Vec<Finding>) {
    let mut order = Vec::new();
    let mut findings = Vec::new();
    let is_full = control.mode == BackupMode::Full;
    for (index, entry) in list.iter().enumerate() {
        if entry.is_directory() {
            continue;
        }
        let found = match entry.size {
            EntrySize::Bytes(0) => continue,
            EntrySize::Bytes(size) => stores.member(&entry, size).map(|_| size),
            EntrySize::Unchanged if is_full => Err(format!(
                "Backup file \"{}\" has invalid size. Possible metadata corruption.",
                entry.path
            )),
            EntrySize::Unchanged => continue,
        };
        let mut find = |text| {
            findings.push(Finding {
                name: entry.path.to_string(),
                text,
            });
        };
        match found {
            Ok(size) => order.push((index, size)),
            Err(text) => find(text),
        }
        if is_full && let Some(text) = wrong_blocks(&entry, control.merge_time.is_some()) {
            find(text);
        }
    }
    order.sort_unstable_by_key(|(index, size)| (std::cmp::Reverse(*size), *index));
    (order, findings)
}

/// What is wrong with the number of blocks of a file in a FULL backup, which holds every one.
///
/// A restore goes by the content list and would leave out the blocks behind that number. In a
/// result of a merge there may be blocks that no member has: of a relation that was extended at
/// once the server tracks only pages that were written since, and what is between is a hole.
fn wrong_blocks(entry: &ContentEntry<'_>, is_merged: bool) -> Option<String> {
    let stored = entry.headers.filter(|_| entry.is_datafile)?.count;
    let listed = entry.n_blocks.unwrap_or(0);
    let is_right = listed == stored || is_merged && listed > stored;
    (!is_right).then(|| {
        format!(
            "File \"{}\" has {listed} blocks in the content list and {stored} in its page headers",
            entry.path
        )
    })
}

/// The directory trees of a backup and its page header map.
#[derive(Debug)]
pub(in crate::command) struct Stores {
    /// Those that the list names and that are there.
    trees: BTreeMap<Root, Arc<dyn Storage>>,
    /// What a merge prepared; its files count before the others.
    staged: BTreeMap<Root, Arc<dyn Storage>>,
    header_map: Option<Arc<HeaderMapReader>>,
    page_checksums: bool,
    knows_pages: bool,
}

impl Stores {
    /// Opens what is there.
    pub(in crate::command) fn open(
        dir: &BackupDir,
        control: &BackupControl,
        list: &ContentList,
    ) -> Result<Stores, Error> {
        let open = |dir: &BackupDir, root| -> Option<(Root, Arc<dyn Storage>)> {
            let tree = Posix::open(&dir.root_of(root)).ok()?;
            Some((root, Arc::new(tree)))
        };
        // Without this one it is no backup.
        Posix::open(&dir.database())?;
        let root = Posix::open(dir.path())?;
        let map = dir.header_map();
        let map = map.strip_prefix(dir.path()).unwrap_or(&map);
        let header_map = HeaderMapReader::open(&root, map);
        let roots = roots_of(list);
        let staged = dir.staged();
        if let Err(error) = &header_map
            && list.iter().any(|entry| entry.headers.is_some())
        {
            tracing::warn!("{}", super::super::words::describe(error));
        }
        Ok(Stores {
            staged: roots
                .iter()
                .filter_map(|root| open(staged.as_ref()?, *root))
                .collect(),
            trees: roots
                .into_iter()
                .filter_map(|root| open(dir, root))
                .collect(),
            header_map: header_map.ok().map(Arc::new),
            page_checksums: control.checksum_version > 0,
            knows_pages: has_page_records(dir, control),
        })
    }

    /// The page header map, if there is one.
    pub(in crate::command) fn header_map(&self) -> Option<&HeaderMapReader> {
        self.header_map.as_deref()
    }

    /// The stored file of an entry; the text says what is missing.
    pub(in crate::command) fn member(
        &self,
        entry: &ContentEntry<'_>,
        size: u64,
    ) -> Result<MemberFile, String> {
        let root = entry.root();
        let storage = match self.staged.get(&root) {
            Some(tree) if tree.metadata(Path::new(&*entry.path)).is_ok() => Some(tree),
            _ => self.trees.get(&root),
        };
        let Some(storage) = storage else {
            return Err(format!("{root} is not found in the backup"));
        };
        let headers = match (entry.headers, &self.header_map) {
            (None, _) => None,
            (Some(reference), Some(map)) => Some((map.clone(), reference)),
            (Some(_), None) => {
                return Err(format!(
                    "Cannot get page headers for file \"{}\"",
                    entry.path
                ));
            }
        };
        Ok(MemberFile {
            storage: storage.clone(),
            path: PathBuf::from(&*entry.path),
            size,
            crc: (!is_control_file(entry)).then_some(entry.crc),
            algorithm: entry.compress_algorithm,
            page_checksums: self.page_checksums,
            knows_pages: self.knows_pages,
            headers,
        })
    }
}

/// The trees that a list names; the data directory is always one. Numbers of external directories
/// need not be without gaps: a list can say anything.
pub(in crate::command) fn roots_of(list: &ContentList) -> BTreeSet<Root> {
    let roots = list.iter().map(|entry| entry.root());
    roots.chain([Root::Data]).collect()
}

/// Whether the entry's CRC is the control file's own, not that of the file.
pub(in crate::command) fn is_control_file(entry: &ContentEntry<'_>) -> bool {
    let name = entry.path.rsplit('/').next().unwrap_or_default();
    entry.external_dir == 0 && name == "pg_control"
}
