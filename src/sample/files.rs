//! The directories and the files that are not relations.

use super::GeneratedFile;
use super::control::{self, CONTROL_BACKUP_BYTES, WalSegment};
use super::page::{XID_BASE, put_u32, put_u64};
use super::plan::{
    DATABASE_MAP, DATABASES, GLOBAL_MAP, TABLESPACE_OID, TABLESPACE_VERSION_DIRECTORY,
    USER_DATABASE,
};
use super::write::Roots;
use crate::storage::StorageError;
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Directories of every cluster, as initdb and a first start leave them; parents first.
const DIRECTORIES: [&str; 30] = [
    "base",
    "base/pgsql_tmp",
    "global",
    "global/pg_dw_ext_chunk",
    "pg_cbm",
    "pg_clog",
    "pg_csnlog",
    "pg_errorinfo",
    "pg_llog",
    "pg_llog/mappings",
    "pg_llog/snapshots",
    "pg_location",
    "pg_log",
    "pg_logical",
    "pg_multixact",
    "pg_multixact/members",
    "pg_multixact/offsets",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_tblspc",
    "pg_twophase",
    "pg_xlog",
    "pg_xlog/archive_status",
    "undo",
    "undo/permanent",
    "undo/temp",
    "undo/unlogged",
];

/// Bytes of a file of transaction states: 32 pages, the step in which a server extends it.
const TRANSACTION_LOG_BYTES: usize = 256 * 1024;
const CATALOG_VERSION: &[u8] = b"9.2\n";

/// Creates one directory and its parents; it may exist.
pub(super) fn create_directory(path: &Path) -> Result<(), StorageError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| StorageError::new("create directory", path, e))
}

/// Creates all directories and the link to the tablespace.
pub(super) fn create_directories(roots: Roots<'_>) -> Result<(), StorageError> {
    create_directory(roots.data_directory)?;
    for directory in DIRECTORIES {
        create_directory(&roots.data_directory.join(directory))?;
    }
    for database in DATABASES {
        create_directory(&roots.data_directory.join(format!("base/{database}")))?;
    }
    let version_directory = roots.tablespace.join(TABLESPACE_VERSION_DIRECTORY);
    create_directory(&version_directory.join(USER_DATABASE.to_string()))?;
    create_directory(&version_directory.join("pgsql_tmp"))?;
    let link = roots
        .data_directory
        .join(format!("pg_tblspc/{TABLESPACE_OID}"));
    std::os::unix::fs::symlink(roots.tablespace, &link)
        .map_err(|e| StorageError::new("link", &link, e))
}

/// Writes everything that is not a relation.
pub(super) fn write_small_files(
    roots: Roots<'_>,
    system_identifier: u64,
    segment: &WalSegment,
) -> Result<(), StorageError> {
    let write = |path: &str, bytes: &[u8], length: u64| {
        write_file(&roots.data_directory.join(path), bytes, length)
    };
    let write_whole = |path: &str, bytes: &[u8]| write(path, bytes, bytes.len() as u64);

    write_whole("PG_VERSION", CATALOG_VERSION)?;
    write_whole("postgresql.conf", CONFIGURATION.as_bytes())?;
    write_whole("postgresql.conf.lock", &[0; 1024])?;
    write_whole("pg_hba.conf", HOST_ACCESS.as_bytes())?;
    write_whole(
        "pg_ident.conf",
        b"# MAPNAME  SYSTEM-USERNAME  PG-USERNAME\n",
    )?;
    write_whole("pg_ctl.lock", b"")?;

    write_shutdown(roots.data_directory, system_identifier, segment)?;
    let map = control::filenode_map(&GLOBAL_MAP);
    write_whole("global/pg_filenode.map", &map)?;
    write_whole("global/pg_filenode.map.backup", &map)?;
    let map = control::filenode_map(&DATABASE_MAP);
    for database in DATABASES {
        write_whole(&format!("base/{database}/PG_VERSION"), CATALOG_VERSION)?;
        write_whole(&format!("base/{database}/pg_filenode.map"), &map)?;
        write_whole(&format!("base/{database}/pg_filenode.map.backup"), &map)?;
    }
    write_double_write(&write)?;
    write_transaction_logs(&write)?;
    write("undo/undometa", &undo_zones(), UNDO_META_BYTES as u64)
}

/// Writes what a clean shutdown writes last: its checkpoint in WAL, and `pg_control`.
pub(super) fn write_shutdown(
    data_directory: &Path,
    system_identifier: u64,
    segment: &WalSegment,
) -> Result<(), StorageError> {
    for file in shutdown_files(system_identifier, segment) {
        write_file(&data_directory.join(file.path), &file.bytes, file.length)?;
    }
    Ok(())
}

/// What [`write_shutdown`] writes.
pub(super) fn shutdown_files(system_identifier: u64, segment: &WalSegment) -> [GeneratedFile; 3] {
    let control = control::control_file(system_identifier, segment);
    let file = |path: &str, bytes: &[u8], length| GeneratedFile {
        path: path.to_owned(),
        bytes: bytes.to_owned(),
        length,
    };
    let whole = |path: &str, bytes: &[u8]| file(path, bytes, bytes.len() as u64);
    let wal = format!("pg_xlog/{}", segment.name);
    [
        whole("global/pg_control", &control),
        whole("global/pg_control.backup", &control[..CONTROL_BACKUP_BYTES]),
        file(&wal, &segment.first_page, segment.bytes),
    ]
}

/// The double-write area is empty after a clean shutdown; a server makes it anew where it does not
/// like it.
fn write_double_write(
    write: &impl Fn(&str, &[u8], u64) -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    const VERSION: u32 = 92_568;
    const FILE_MEGABYTES: u32 = 1;
    let mut meta = [0; 16];
    put_u32(&mut meta, 0, VERSION);
    put_u32(&mut meta, 4, FILE_MEGABYTES);
    put_u32(&mut meta, 8, 1);
    write("global/pg_dw_meta", &meta, 3 * 8192)?;
    write("global/pg_dw_0", b"", 1024 * 1024)?;
    write("global/pg_dw_single", b"", 1024 * 1024)
}

/// States and commit numbers of the transactions so far; all of them committed.
fn write_transaction_logs(
    write: &impl Fn(&str, &[u8], u64) -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    const ALL_COMMITTED: u8 = 0b0101_0101;
    const XIDS_PER_STATE_BYTE: usize = 4;
    let xids = usize::try_from(XID_BASE).expect("a small number");
    let states = vec![ALL_COMMITTED; xids / XIDS_PER_STATE_BYTE];
    write(
        "pg_clog/000000000000",
        &states,
        TRANSACTION_LOG_BYTES as u64,
    )?;
    let numbers: Vec<u8> = (0..XID_BASE)
        .flat_map(|xid| (xid / 8).to_le_bytes())
        .collect();
    write(
        "pg_csnlog/000000000000",
        &numbers,
        TRANSACTION_LOG_BYTES as u64,
    )?;
    write("pg_multixact/members/000000000000", b"", 8192)?;
    write("pg_multixact/offsets/000000000000", b"", 8192)?;
    write(
        "pg_logical/replorigin_checkpoint",
        &[0xDE, 0xDA, 0x57, 0x12, 0x36, 0xB2, 0, 0x6A],
        8,
    )
}

const UNDO_META_BYTES: usize = 64 * 1024;

/// Zones of undo: version, LSN, then pointers that are all at the start of an unused zone.
fn undo_zones() -> Vec<u8> {
    const ZONE_BYTES: usize = 64;
    const FIRST_RECORD: u64 = 24;
    let mut zones = vec![0; UNDO_META_BYTES];
    for zone in zones.chunks_exact_mut(ZONE_BYTES) {
        put_u64(zone, 0, 1);
        for field in 2..7 {
            put_u64(zone, field * 8, FIRST_RECORD);
        }
    }
    zones
}

fn write_file(path: &Path, bytes: &[u8], length: u64) -> Result<(), StorageError> {
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(bytes)?;
        file.set_len(length)
    };
    write().map_err(|e| StorageError::new("write", path, e))
}

const CONFIGURATION: &str = "\
listen_addresses = 'localhost'
port = 5432
max_connections = 250
max_prepared_transactions = 200
max_locks_per_transaction = 256
wal_level = hot_standby
full_page_writes = off
enable_cbm_tracking = on
enable_incremental_checkpoint = on
enable_double_write = on
checkpoint_timeout = 15min
archive_mode = off
pgxc_node_name = 'single'
";

const HOST_ACCESS: &str = "\
# TYPE  DATABASE  USER  ADDRESS       METHOD
local   all       all                 trust
host    all       all   127.0.0.1/32  sha256
host    all       all   ::1/128       sha256
";
