//! `global/pg_control`: what a server knows about its cluster before it reads anything else.
//!
//! The file has 8192 bytes, of which a structure at the start counts; its last field is a CRC-32C
//! over all before it. Bytes behind the structure mean nothing (a merge by gs_probackup leaves
//! garbage there). The layouts differ by `pg_control_version` at offset 8, which every version
//! keeps in place:
//!
//! ```text
//! field                 openGauss 923   PostgreSQL 15..17   PostgreSQL 18
//! system_identifier     0               0                   0
//! pg_control_version    8               8                   8
//! catalog_version_no    12              12                  12
//! state                 20              16                  16
//! time                  24              24                  24
//! checkPoint            32              32                  32
//! checkPointCopy        48 (88 bytes)   40 (88 bytes)       40 (88 bytes)
//! minRecoveryPoint      136             136, timeline 144   136, timeline 144
//! backupStartPoint      144             152                 152
//! backupEndPoint        152             160                 160
//! backupEndRequired     160             168                 168
//! wal_level             164             172                 172
//! MaxConnections        168             180                 180
//! max_prepared_xacts    172             192                 192
//! max_locks_per_xact    176             196                 196
//! blcksz                192             216                 216
//! relseg_size           196             220                 220
//! xlog_blcksz           200             224                 224
//! xlog_seg_size         204             228                 228
//! data checksums        always          252                 252
//! crc                   224             288                 292
//! structure             232             296                 296
//! ```
//!
//! Sources: `src/include/catalog/pg_control.h` of either server, structs `ControlFileData` and
//! `CheckPoint`.

use super::little_endian::{i32_at, i64_at, u32_at, u64_at};
use crate::limits::{WAL_PAGE_BYTES, WAL_SEGMENT_BYTES_MAX, WAL_SEGMENT_BYTES_MIN};
use crate::types::{Lsn, PAGE_SIZE, RELSEG_SIZE, ServerFlavor, TimelineId};

/// Bytes of the file. On shared storage one such page an instance; these functions take a single
/// page.
pub const PG_CONTROL_SIZE: usize = 8192;

/// `pg_control_version` of openGauss.
const OPENGAUSS_VERSION: u32 = 923;

/// Offsets that differ between versions.
struct Layout {
    state: usize,
    checkpoint_copy: usize,
    full_page_writes: usize,
    next_xid: usize,
    next_oid: usize,
    min_recovery_point: usize,
    min_recovery_timeline: Option<usize>,
    backup_start_point: usize,
    backup_end_point: usize,
    backup_end_required: usize,
    wal_level: usize,
    max_connections: usize,
    max_prepared_xacts: usize,
    max_locks_per_xact: usize,
    block_size: usize,
    relseg_size: usize,
    wal_block_size: usize,
    wal_segment_size: usize,
    data_checksum_version: Option<usize>,
    crc: usize,
    struct_bytes: usize,
}

const OPENGAUSS: Layout = Layout {
    state: 20,
    checkpoint_copy: 48,
    full_page_writes: 12,
    next_xid: 16,
    next_oid: 24,
    min_recovery_point: 136,
    min_recovery_timeline: None,
    backup_start_point: 144,
    backup_end_point: 152,
    backup_end_required: 160,
    wal_level: 164,
    max_connections: 168,
    max_prepared_xacts: 172,
    max_locks_per_xact: 176,
    block_size: 192,
    relseg_size: 196,
    wal_block_size: 200,
    wal_segment_size: 204,
    data_checksum_version: None,
    crc: 224,
    struct_bytes: 232,
};

const POSTGRESQL_15: Layout = Layout {
    state: 16,
    checkpoint_copy: 40,
    full_page_writes: 16,
    next_xid: 24,
    next_oid: 32,
    min_recovery_point: 136,
    min_recovery_timeline: Some(144),
    backup_start_point: 152,
    backup_end_point: 160,
    backup_end_required: 168,
    wal_level: 172,
    max_connections: 180,
    max_prepared_xacts: 192,
    max_locks_per_xact: 196,
    block_size: 216,
    relseg_size: 220,
    wal_block_size: 224,
    wal_segment_size: 228,
    data_checksum_version: Some(252),
    crc: 288,
    struct_bytes: 296,
};

/// One byte (signedness of char) went in front of the nonce, which moved the CRC.
const POSTGRESQL_18: Layout = Layout {
    crc: 292,
    ..POSTGRESQL_15
};

const _: () = assert!(OPENGAUSS.crc + 8 == OPENGAUSS.struct_bytes);
const _: () = assert!(POSTGRESQL_15.struct_bytes <= PG_CONTROL_SIZE);

impl Layout {
    fn of_version(version: u32) -> Result<&'static Layout, ControlFileError> {
        match version {
            OPENGAUSS_VERSION => Ok(&OPENGAUSS),
            1300 | 1700 => Ok(&POSTGRESQL_15),
            1800 => Ok(&POSTGRESQL_18),
            swapped if swapped.trailing_zeros() >= 16 && swapped != 0 => {
                Err(ControlFileError::ByteOrder)
            }
            found => Err(ControlFileError::Version { found }),
        }
    }
}

/// What the server was doing when it last wrote the file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ClusterState {
    /// Being set up.
    Startup,
    /// Stopped cleanly.
    ShutDown,
    /// Stopped cleanly as a standby.
    ShutDownInRecovery,
    /// Stopping.
    ShuttingDown,
    /// Replaying WAL after a crash.
    InCrashRecovery,
    /// Replaying WAL from an archive or as a standby.
    InArchiveRecovery,
    /// Running, or crashed while running.
    InProduction,
}

impl ClusterState {
    /// As the server's own tools say it.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            ClusterState::Startup => "starting up",
            ClusterState::ShutDown => "shut down",
            ClusterState::ShutDownInRecovery => "shut down in recovery",
            ClusterState::ShuttingDown => "shutting down",
            ClusterState::InCrashRecovery => "in crash recovery",
            ClusterState::InArchiveRecovery => "in archive recovery",
            ClusterState::InProduction => "in production",
        }
    }

    fn from_number(number: i32) -> Result<ClusterState, ControlFileError> {
        Ok(match number {
            0 => ClusterState::Startup,
            1 => ClusterState::ShutDown,
            2 => ClusterState::ShutDownInRecovery,
            3 => ClusterState::ShuttingDown,
            4 => ClusterState::InCrashRecovery,
            5 => ClusterState::InArchiveRecovery,
            6 => ClusterState::InProduction,
            found => return Err(ControlFileError::State { found }),
        })
    }
}

/// Why bytes are no usable `pg_control`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ControlFileError {
    /// Not [`PG_CONTROL_SIZE`] bytes. The original's text.
    #[error("unexpected control file size {found}, expected {expected}")]
    Length {
        /// Bytes handed over.
        found: usize,
        /// [`PG_CONTROL_SIZE`].
        expected: usize,
    },
    /// The structure's CRC is wrong. The original's text.
    #[error(
        "Calculated CRC checksum does not match value stored in file.\n\
         Either the file is corrupt, or it has a different layout than this program\n\
         is expecting. The results below are untrustworthy."
    )]
    Crc {
        /// The CRC in the file.
        stored: u32,
        /// The CRC of the bytes before it.
        computed: u32,
    },
    /// The reformer's record behind the control file pages of shared storage has a wrong CRC.
    #[error(
        "the record of the reformer has CRC {stored:X}, but it must be {computed:X}: it is damaged"
    )]
    Reformer {
        /// The CRC in the record.
        stored: u32,
        /// The CRC of the bytes before it.
        computed: u32,
    },
    /// The version looks like that of a big-endian machine. The original's text.
    #[error(
        "possible byte ordering mismatch\n\
         The byte ordering used to store the pg_control file might not match the one\n\
         used by this program. In that case the results below would be incorrect, and\n\
         the PostgreSQL installation would be incompatible with this data directory."
    )]
    ByteOrder,
    /// No server we know writes this `pg_control_version`.
    #[error("pg_control version {found} is not supported")]
    Version {
        /// The version.
        found: u32,
    },
    /// The control file is that of a PostgreSQL before 15 or of an unknown one.
    #[error("catalog version {found} of pg_control version {version} is not supported")]
    CatalogVersion {
        /// `pg_control_version`.
        version: u32,
        /// `catalog_version_no`.
        found: u32,
    },
    /// No such cluster state.
    #[error("unknown cluster state {found} in pg_control")]
    State {
        /// The number in the file.
        found: i32,
    },
    /// The server was built with another page, segment file or WAL page size than every layout here
    /// assumes.
    #[error("{field} {found} in pg_control is not supported, expected {expected}")]
    Geometry {
        /// The server's name of the number.
        field: &'static str,
        /// The number in the file.
        found: u32,
        /// What we can work with.
        expected: &'static str,
    },
}

/// The facts of `pg_control` that backup and restore need.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlFile {
    /// Which server wrote it.
    pub flavor: ServerFlavor,
    /// Made at initdb; equal in a primary and its standbys.
    pub system_identifier: u64,
    /// `pg_control_version`.
    pub version: u32,
    /// `catalog_version_no`.
    pub catalog_version: u32,
    /// What the server was doing.
    pub state: ClusterState,
    /// When the file was written, seconds since 1970.
    pub time: i64,
    /// Start of the last checkpoint record.
    pub checkpoint: Lsn,
    /// Where replay from that checkpoint starts.
    pub redo: Lsn,
    /// Timeline of the last checkpoint.
    pub timeline: TimelineId,
    /// Whether WAL had full page images at the last checkpoint.
    pub full_page_writes: bool,
    /// The next free transaction id at the last checkpoint; of PostgreSQL with its epoch.
    pub next_xid: u64,
    /// The next free object id at the last checkpoint.
    pub next_oid: u32,
    /// When the last checkpoint was made, seconds since 1970.
    pub checkpoint_time: i64,
    /// Replay must reach this before the cluster is consistent; invalid where it does not apply.
    pub min_recovery_point: Lsn,
    /// Redo position of the backup that replay started from; invalid where it does not apply.
    pub backup_start_point: Lsn,
    /// Where that backup ended, when it was taken from a standby.
    pub backup_end_point: Lsn,
    /// Whether replay must meet a backup-end record.
    pub backup_end_required: bool,
    /// The server's number of its `wal_level`.
    pub wal_level: i32,
    /// `max_connections`.
    pub max_connections: i32,
    /// `max_prepared_transactions`.
    pub max_prepared_xacts: i32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_xact: i32,
    /// Bytes of a page; always [`PAGE_SIZE`].
    pub block_size: u32,
    /// Blocks of a segment file; always [`RELSEG_SIZE`].
    pub relseg_size: u32,
    /// Bytes of a WAL page; always [`WAL_PAGE_BYTES`].
    pub wal_block_size: u32,
    /// Bytes of a WAL segment: a power of two from 1 MiB to 1 GiB.
    pub wal_segment_size: u32,
    /// Whether pages carry checksums; openGauss cannot switch them off.
    pub data_checksums: bool,
    /// The structure's own CRC, as the content list of a backup records it.
    pub crc: u32,
}

impl ControlFile {
    /// Reads one control file page.
    ///
    /// # Errors
    /// [`ControlFileError`], in this order: length, version, CRC, then what the fields say.
    pub fn parse(bytes: &[u8]) -> Result<ControlFile, ControlFileError> {
        let layout = verify(bytes)?;
        let version = u32_at(bytes, 8);
        let catalog_version = u32_at(bytes, 12);
        let lsn = |at| Lsn(u64_at(bytes, at));
        let copy = layout.checkpoint_copy;
        let control = ControlFile {
            flavor: flavor(version, catalog_version)?,
            system_identifier: u64_at(bytes, 0),
            version,
            catalog_version,
            state: ClusterState::from_number(i32_at(bytes, layout.state))?,
            time: i64_at(bytes, 24),
            checkpoint: lsn(32),
            redo: lsn(copy),
            timeline: TimelineId(u32_at(bytes, copy + 8)),
            full_page_writes: bytes[copy + layout.full_page_writes] != 0,
            next_xid: u64_at(bytes, copy + layout.next_xid),
            next_oid: u32_at(bytes, copy + layout.next_oid),
            checkpoint_time: i64_at(bytes, copy + 64),
            min_recovery_point: lsn(layout.min_recovery_point),
            backup_start_point: lsn(layout.backup_start_point),
            backup_end_point: lsn(layout.backup_end_point),
            backup_end_required: bytes[layout.backup_end_required] != 0,
            wal_level: i32_at(bytes, layout.wal_level),
            max_connections: i32_at(bytes, layout.max_connections),
            max_prepared_xacts: i32_at(bytes, layout.max_prepared_xacts),
            max_locks_per_xact: i32_at(bytes, layout.max_locks_per_xact),
            block_size: u32_at(bytes, layout.block_size),
            relseg_size: u32_at(bytes, layout.relseg_size),
            wal_block_size: u32_at(bytes, layout.wal_block_size),
            wal_segment_size: u32_at(bytes, layout.wal_segment_size),
            data_checksums: layout
                .data_checksum_version
                .is_none_or(|at| u32_at(bytes, at) != 0),
            crc: u32_at(bytes, layout.crc),
        };
        control.verify_geometry()?;
        Ok(control)
    }

    /// The CRC field as it stands, not compared with the bytes: what a content list holds in place
    /// of a file CRC, and all that the original compares when it validates. [`ControlFile::parse`]
    /// proves more.
    ///
    /// # Errors
    /// [`ControlFileError::Length`], [`ControlFileError::Version`],
    /// [`ControlFileError::ByteOrder`].
    pub fn internal_crc(bytes: &[u8]) -> Result<u32, ControlFileError> {
        Ok(u32_at(bytes, layout(bytes)?.crc))
    }

    /// Bytes at the start of the file that mean something.
    #[must_use]
    pub fn struct_bytes(flavor: ServerFlavor) -> usize {
        match flavor {
            ServerFlavor::OpenGauss => OPENGAUSS.struct_bytes,
            ServerFlavor::PostgreSql { .. } => POSTGRESQL_15.struct_bytes,
        }
    }

    /// Everything else here is laid out for one page size, one segment file size and one WAL page
    /// size.
    fn verify_geometry(&self) -> Result<(), ControlFileError> {
        let segment = u64::from(self.wal_segment_size);
        let segment_fits = self.wal_segment_size.is_power_of_two()
            && (WAL_SEGMENT_BYTES_MIN..=WAL_SEGMENT_BYTES_MAX).contains(&segment);
        let equals = |found: u32, wanted: usize| usize::try_from(found) == Ok(wanted);
        let (field, found, expected) = if !equals(self.block_size, PAGE_SIZE) {
            ("database block size", self.block_size, "8192")
        } else if self.relseg_size != RELSEG_SIZE {
            ("blocks per segment file", self.relseg_size, "131072")
        } else if !equals(self.wal_block_size, WAL_PAGE_BYTES) {
            ("WAL block size", self.wal_block_size, "8192")
        } else if !segment_fits {
            (
                "bytes per WAL segment",
                self.wal_segment_size,
                "a power of two from 1048576 to 1073741824",
            )
        } else {
            return Ok(());
        };
        Err(ControlFileError::Geometry {
            field,
            found,
            expected,
        })
    }
}

/// Sets the position that replay must reach, as a backup from a standby needs, and the CRC; returns
/// the new CRC.
///
/// openGauss has no field for the timeline: `timeline` is written for PostgreSQL only.
///
/// # Errors
/// [`ControlFileError::Length`], [`ControlFileError::Version`], [`ControlFileError::ByteOrder`], or
/// [`ControlFileError::Crc`] when the bytes were damaged already: a new CRC would hide that.
pub fn set_min_recovery_point(
    bytes: &mut [u8],
    lsn: Lsn,
    timeline: TimelineId,
) -> Result<u32, ControlFileError> {
    let layout = verify(bytes)?;
    put(bytes, layout.min_recovery_point, &lsn.0.to_le_bytes());
    if let Some(at) = layout.min_recovery_timeline {
        put(bytes, at, &timeline.0.to_le_bytes());
    }
    let crc = crc32c::crc32c(&bytes[..layout.crc]);
    put(bytes, layout.crc, &crc.to_le_bytes());
    Ok(crc)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// The layout of a page of the right length.
fn layout(bytes: &[u8]) -> Result<&'static Layout, ControlFileError> {
    if bytes.len() != PG_CONTROL_SIZE {
        return Err(ControlFileError::Length {
            found: bytes.len(),
            expected: PG_CONTROL_SIZE,
        });
    }
    Layout::of_version(u32_at(bytes, 8))
}

/// Where the CRC is in a page.
pub(super) fn crc_offset(bytes: &[u8]) -> Result<usize, ControlFileError> {
    Ok(layout(bytes)?.crc)
}

/// The layout of a page whose CRC is right.
fn verify(bytes: &[u8]) -> Result<&'static Layout, ControlFileError> {
    let layout = layout(bytes)?;
    let stored = u32_at(bytes, layout.crc);
    let computed = crc32c::crc32c(&bytes[..layout.crc]);
    if stored == computed {
        Ok(layout)
    } else {
        Err(ControlFileError::Crc { stored, computed })
    }
}

/// 15 and 16 share a control file version; the catalog version (a date) tells them apart.
fn flavor(version: u32, catalog_version: u32) -> Result<ServerFlavor, ControlFileError> {
    const LAST_OF_14: u32 = 202_107_181;
    const LAST_OF_15: u32 = 202_209_061;
    const LAST_OF_16: u32 = 202_307_071;
    let major = match version {
        OPENGAUSS_VERSION => return Ok(ServerFlavor::OpenGauss),
        1700 => 17,
        1800 => 18,
        _ if (LAST_OF_14 + 1..=LAST_OF_15).contains(&catalog_version) => 15,
        _ if (LAST_OF_15 + 1..=LAST_OF_16).contains(&catalog_version) => 16,
        _ => {
            return Err(ControlFileError::CatalogVersion {
                version,
                found: catalog_version,
            });
        }
    };
    Ok(ServerFlavor::PostgreSql { major })
}

#[cfg(test)]
#[path = "pg_control_tests.rs"]
mod tests;
