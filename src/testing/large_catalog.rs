//! A catalog with as many files as wanted: records and content lists without the files themselves,
//! which is all that `show` and the search for a parent look at.

use crate::catalog::{Catalog, CatalogError};
use crate::format::catalog::{
    BackupControl, BackupMode, BackupStatus, ContentEntry, EntrySize, HeaderMapRef, InstanceConf,
};
use crate::types::{BackupId, CompressAlgorithm, Lsn, TimelineId};
use std::path::Path;

/// The instance's name.
pub const INSTANCE: &str = "large";

/// When the FULL backup began.
const START: i64 = 1_700_000_000;

/// Files of a database.
const DATABASE_FILES: usize = 50_000;

/// The path of a file.
#[must_use]
pub fn path(number: usize) -> String {
    let database = 16_384 + number / DATABASE_FILES;
    format!("base/{database}/{}", 20_000 + number % DATABASE_FILES)
}

fn entry(number: usize, path: &str, size: EntrySize) -> ContentEntry<'_> {
    let narrow = |number: usize| u32::try_from(number % 100_000).expect("a small number");
    let mut entry = ContentEntry::file(path, 0o100_600, size, narrow(number * 7919));
    entry.is_datafile = true;
    entry.n_blocks = Some(1 + narrow(number) % 1000);
    entry.db_oid = 16_384 + narrow(number / DATABASE_FILES);
    if size != EntrySize::Unchanged {
        entry.compress_algorithm = CompressAlgorithm::Zlib;
        entry.headers = Some(HeaderMapRef {
            count: 1,
            crc: narrow(number * 31),
            offset: 60 * number as u64,
            size: 60,
        });
    }
    entry
}

/// Makes a catalog whose instance of the cluster in `data` has a FULL backup of `files` files and
/// as many increments as wanted, in which one file of a hundred changed. Returns the ids, that of
/// the FULL backup first.
///
/// # Errors
/// Where something cannot be written.
///
/// # Panics
/// Never: there are no backups before 1970.
pub fn create(
    catalog: &Path,
    data: &Path,
    files: usize,
    increments: usize,
) -> Result<Vec<BackupId>, CatalogError> {
    let conf = InstanceConf {
        pgdata: Some(data.display().to_string()),
        ..InstanceConf::default()
    };
    let instance = Catalog::init(catalog)?.add_instance(INSTANCE, &conf)?;
    let mut ids: Vec<BackupId> = Vec::new();
    for (number, start_time) in (START..).step_by(3600).take(1 + increments).enumerate() {
        let mode = match number {
            0 => BackupMode::Full,
            _ => BackupMode::Ptrack,
        };
        let mut control = BackupControl::new(mode, start_time);
        control.parent_backup_id = ids.last().copied();
        control.timeline = TimelineId(1);
        control.checksum_version = 1;
        control.stream = true;
        control.start_lsn = Lsn(0x200_0028);
        control.stop_lsn = Lsn(0x200_0100);
        let (dir, _lock) = instance.create_backup(&control)?;
        let paths: Vec<String> = (0..files).map(path).collect();
        let entries = paths.iter().enumerate().map(|(file, path)| {
            let is_stored = number == 0 || file % 100 == number;
            let size = match is_stored {
                true => EntrySize::Bytes(4200),
                false => EntrySize::Unchanged,
            };
            entry(file, path, size)
        });
        let totals = dir.write_content_list(entries)?;
        control.content_crc = Some(totals.crc);
        control.status = BackupStatus::Ok;
        control.end_time = Some(start_time + 60);
        control.recovery_time = Some(start_time + 60);
        dir.write_control(&control)?;
        ids.push(control.id());
    }
    Ok(ids)
}
