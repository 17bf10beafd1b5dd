//! What a file of a data directory is, by its path alone.
//!
//! ```text
//! global/<rel>...                           shared relations
//! base/<db>/<rel>...                        relations of a database
//! pg_tblspc/<oid>/<version>/<db>/<rel>...   relations in a tablespace
//! <rel>[_fork][.<n>]                        fork fsm, vm, bcm, init
//! <rel>[.<n>]_compress                      compressed relation
//! <rel>_C<column>[_bcm][.<n>]               column store
//! <rel>_b<bucket>[_fork][.<n>]              hash bucket
//! t<backend>_<rel>...                       relation of a session
//! 1 to 5[.<n>]                              space of segment-page relations, like any relation
//! ```
//!
//! where `<version>` is `PG_9.2_201611171_<node name>`, on PostgreSQL `PG_15_202209061`.
//!
//! Files classified as [`FileKind::Relation`] are stored as page streams, all others byte for byte.
//! That agrees with what the original does, so that either tool reads the other's backups, but for
//! the tablespaces below `pg_tblspc`, whose contents the original leaves out. Only names as the
//! server prints them count: no leading zeros, numbers in range. Anything else is copied as it is,
//! which is right for any file.
//!
//! Sources: openGauss `src/common/backend/catalog/catalog.cpp` `relpathbackend`,
//! `src/gausskernel/storage/cstore/custorage.cpp`; gs_probackup `dir.cpp`.

use super::wal::is_wal_name;
use crate::types::{BlockNumber, FileBlock, RELSEG_SIZE, SegmentNumber};

/// Tablespace of databases without another one: `pg_default`.
pub const DEFAULT_TABLESPACE_OID: u32 = 1663;

/// Tablespace of shared relations: `pg_global`.
pub const GLOBAL_TABLESPACE_OID: u32 = 1664;

/// How a file is stored in a backup.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FileKind {
    /// A page stream ("datafile"): main fork of a row-store relation or index, compressed relation,
    /// segment-page space.
    Relation(RelationFile),
    /// A WAL segment: bytes, counted apart.
    WalSegment,
    /// `global/pg_control`: bytes, with its own CRC.
    ControlFile,
    /// Bytes.
    Other,
}

/// A segment file of a main fork.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RelationFile {
    /// The database; 0 for shared relations.
    pub db_oid: u32,
    /// The relation's file number; 1 to 5 are segment-page spaces.
    pub rel: u32,
    /// Which segment file.
    pub segno: SegmentNumber,
    /// Whether the name ends in `_compress`.
    pub compressed: bool,
}

/// The block of segment-page storage where extents begin, modulo the blocks of an extent of 1 MiB.
///
/// The file begins with its head and 64 groups of maps in 67 blocks, 4090 blocks of inverse
/// pointers follow, so that the first extent is at block 4157. Segment files hold a multiple of
/// 128 blocks.
///
/// Source: `IPBLOCK_GROUP_SIZE` of `segment_internal.h`, `first_page` in map pages of real files.
pub const SEGMENT_EXTENTS_AT: usize = 4157 % 128;

impl RelationFile {
    /// Whether the file holds segment-page relations.
    #[must_use]
    pub fn is_segment_space(&self) -> bool {
        (1..=5).contains(&self.rel) && !self.compressed
    }

    /// Whether there may be extents of compressed pages in the file: in those of extents of 1 MiB
    /// and more.
    #[must_use]
    pub fn may_have_compressed_extents(&self) -> bool {
        (3..=5).contains(&self.rel) && !self.compressed
    }
}

/// Where the pages are in a file that is stored byte for byte: what their checksums are computed
/// with, and what a page means that is not right.
///
/// A server reads free space maps, visibility maps and block change maps so that a bad page counts
/// as empty. Of an init fork it makes an empty relation, and an index that does not work is made
/// anew. Undo that nobody needs any more cannot be told from undo that is needed. So a bad page of
/// these is to be told and kept; one of a main fork is lost data.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BytePages {
    /// Which segment file.
    pub segno: SegmentNumber,
    /// Blocks of a segment file before this one.
    pub segment_blocks: u32,
    /// Whether a page that is not right is kept as it is.
    pub keep_bad: bool,
}

impl BytePages {
    /// The number that the checksum of a page hashes.
    #[must_use]
    pub fn block(&self, block: FileBlock) -> BlockNumber {
        let before = self.segno.0.wrapping_mul(self.segment_blocks);
        BlockNumber(before.wrapping_add(block.0))
    }
}

/// Blocks of a file of undo records, and of one of transaction slots.
///
/// Source: openGauss `UNDOSEG_SIZE` and `UNDO_META_SEG_SIZE`; that block numbers count over all
/// files of a zone is in `knl_uundofile.cpp`.
const UNDO_BLOCKS: u32 = 128;
const UNDO_SLOT_BLOCKS: u32 = 4;

/// The pages of a file that [`classify`] does not call a relation and that has some all the same:
/// forks other than main, undo, and relations of tablespaces below `pg_location`, which the catalog
/// format has as bytes.
///
/// Left out are files that may be without checksums or that nobody needs: of sessions, of columns,
/// of hash buckets, compressed ones, undo that no restart outlives.
#[must_use]
pub fn byte_pages(path: &str) -> Option<BytePages> {
    if let Some(name) = path.strip_prefix("undo/permanent/") {
        return undo_pages(name);
    }
    let found = match path.strip_prefix("pg_location/") {
        Some(path) => classify(&below_default_tablespace(path)?),
        None => classify(path),
    };
    let keep_bad = match (found.kind, found.fork) {
        (FileKind::Relation(file), None)
            if !file.compressed && path.starts_with("pg_location/") =>
        {
            false
        }
        (FileKind::Other, Some(fork)) if fork.has_pages() => true,
        _ => return None,
    };
    (!found.temp && found.bucket.is_none()).then_some(BytePages {
        segno: found.segno,
        segment_blocks: RELSEG_SIZE,
        keep_bad,
    })
}

/// Which of the five files of a segment-page space a file is, or a fork of it: 1 to 5. Also in a
/// tablespace below `pg_location`.
#[must_use]
pub fn segment_space_number(path: &str) -> Option<u32> {
    let found = match path.strip_prefix("pg_location/") {
        Some(path) => classify(&below_default_tablespace(path)?),
        None => classify(path),
    };
    let is_space = match found.kind {
        FileKind::Relation(file) => !file.compressed,
        _ => matches!(found.fork, Some(Fork::Fsm | Fork::Vm)),
    };
    let is_shared = found.bucket.is_none() && !found.temp && found.db_oid > 0;
    (is_space && is_shared)
        .then_some(found.rel?)
        .filter(|rel| (1..=5).contains(rel))
}

/// The path that a file of a tablespace, `…/PG_…/<database>/<name>`, would have in the default one.
fn below_default_tablespace(path: &str) -> Option<String> {
    let mut parts = path.split('/');
    parts.find(|part| part.starts_with("PG_"))?;
    let (database, name) = (parts.next()?, parts.next()?);
    (parts.next().is_none()).then(|| format!("base/{database}/{name}"))
}

/// `<zone>.<file>` or `<zone>.meta.<file>`, in hexadecimal.
fn undo_pages(name: &str) -> Option<BytePages> {
    let (zone, rest) = name.split_once('.')?;
    let (number, segment_blocks) = match rest.strip_prefix("meta.") {
        Some(number) => (number, UNDO_SLOT_BLOCKS),
        None => (rest, UNDO_BLOCKS),
    };
    let is_hexadecimal = |text: &str| {
        text.bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'))
    };
    if zone.len() != 5 || number.len() != 7 || !is_hexadecimal(zone) || !is_hexadecimal(number) {
        return None;
    }
    let segno = u32::from_str_radix(number, 16).ok()?;
    segno.checked_mul(segment_blocks)?;
    Some(BytePages {
        segno: SegmentNumber(segno),
        segment_blocks,
        keep_bad: true,
    })
}

/// A fork other than main.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fork {
    /// Free space map.
    Fsm,
    /// Visibility map.
    Vm,
    /// Block change map of replication.
    Bcm,
    /// Empty image of an unlogged relation.
    Init,
    /// Compression units of a column.
    Column(u16),
    /// Block change map of a column.
    ColumnBcm(u16),
}

impl Fork {
    /// Whether the file consists of pages with a header and a checksum.
    #[must_use]
    pub fn has_pages(self) -> bool {
        !matches!(self, Fork::Column(_))
    }
}

/// What a path says about a file or directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Classified {
    /// How the file is stored. [`FileKind::Other`] for directories.
    pub kind: FileKind,
    /// The tablespace that the file is in; 0 outside relation directories.
    pub tablespace_oid: u32,
    /// The database that the file or directory belongs to; 0 for none.
    pub db_oid: u32,
    /// The relation whose file it is, of whatever fork.
    pub rel: Option<u32>,
    /// Which segment file of the fork.
    pub segno: SegmentNumber,
    /// The fork, where it is not main.
    pub fork: Option<Fork>,
    /// The hash bucket.
    pub bucket: Option<u16>,
    /// Whether the relation belongs to a session and is lost with it.
    pub temp: bool,
}

const UNKNOWN: Classified = Classified {
    kind: FileKind::Other,
    tablespace_oid: 0,
    db_oid: 0,
    rel: None,
    segno: SegmentNumber(0),
    fork: None,
    bucket: None,
    temp: false,
};

/// Classifies `path`, relative to the data directory, with `/` between components.
#[must_use]
pub fn classify(path: &str) -> Classified {
    if path == "global/pg_control" {
        return Classified {
            kind: FileKind::ControlFile,
            tablespace_oid: GLOBAL_TABLESPACE_OID,
            ..UNKNOWN
        };
    }
    if let Some(("pg_xlog" | "pg_wal", name)) = path.split_once('/') {
        let kind = if is_wal_name(name) {
            FileKind::WalSegment
        } else {
            FileKind::Other
        };
        return Classified { kind, ..UNKNOWN };
    }
    let Some(place) = Place::of(path) else {
        return UNKNOWN;
    };
    let unknown = Classified {
        tablespace_oid: place.tablespace_oid,
        db_oid: place.db_oid,
        ..UNKNOWN
    };
    place
        .name
        .and_then(parse_relation_name)
        .map_or(unknown, |name| name.classify(unknown))
}

/// A directory that holds relations, and a name in it.
struct Place<'a> {
    tablespace_oid: u32,
    db_oid: u32,
    /// `None` for the directory itself, or something deeper.
    name: Option<&'a str>,
}

impl Place<'_> {
    fn of(path: &str) -> Option<Place<'_>> {
        let (top, rest) = path.split_once('/')?;
        let (tablespace_oid, rest) = match top {
            "global" => {
                return Some(Place {
                    tablespace_oid: GLOBAL_TABLESPACE_OID,
                    db_oid: 0,
                    name: (!rest.contains('/')).then_some(rest),
                });
            }
            "base" => (DEFAULT_TABLESPACE_OID, rest),
            "pg_tblspc" => {
                let (oid, rest) = rest.split_once('/')?;
                let (version, rest) = rest.split_once('/')?;
                if !version.starts_with("PG_") {
                    return None;
                }
                (parse_number(oid)?, rest)
            }
            _ => return None,
        };
        let (database, name) = match rest.split_once('/') {
            Some((database, name)) => (database, (!name.contains('/')).then_some(name)),
            None => (rest, None),
        };
        Some(Place {
            tablespace_oid,
            db_oid: parse_number(database)?,
            name,
        })
    }
}

/// The parts of the name of a relation's file.
#[derive(Clone, Copy, Debug)]
struct RelationName {
    rel: u32,
    segno: SegmentNumber,
    fork: Option<Fork>,
    bucket: Option<u16>,
    compressed: bool,
    temp: bool,
}

impl RelationName {
    fn classify(self, place: Classified) -> Classified {
        let main = self.fork.is_none() && self.bucket.is_none() && !self.temp;
        let kind = if main {
            FileKind::Relation(RelationFile {
                db_oid: place.db_oid,
                rel: self.rel,
                segno: self.segno,
                compressed: self.compressed,
            })
        } else {
            FileKind::Other
        };
        Classified {
            kind,
            rel: Some(self.rel),
            segno: self.segno,
            fork: self.fork,
            bucket: self.bucket,
            temp: self.temp,
            ..place
        }
    }
}

fn parse_relation_name(name: &str) -> Option<RelationName> {
    let (session, name) = match name.strip_prefix('t') {
        Some(rest) => {
            let (backend, name) = rest.split_once('_')?;
            (Some(parse_number_or_zero(backend)?), name)
        }
        None => (None, name),
    };
    let (name, compressed) = match name.strip_suffix("_compress") {
        Some(name) => (name, true),
        None => (name, false),
    };
    let (name, segno) = match name.split_once('.') {
        Some((name, number)) => (name, Some(parse_segno(number)?)),
        None => (name, None),
    };
    let mut parts = name.split('_');
    let rel = parse_number(parts.next()?)?;
    let mut part = parts.next();
    let bucket = part
        .and_then(|text| text.strip_prefix('b'))
        .and_then(parse_number_or_zero)
        .and_then(|bucket| u16::try_from(bucket).ok());
    if bucket.is_some() {
        part = parts.next();
    }
    let column = part
        .and_then(|text| text.strip_prefix('C'))
        .and_then(parse_number_or_zero)
        .and_then(|column| u16::try_from(column).ok());
    let fork = match (column, part) {
        (Some(column), _) => match parts.next() {
            None => Some(Fork::Column(column)),
            Some("bcm") => Some(Fork::ColumnBcm(column)),
            Some(_) => return None,
        },
        (None, None) => None,
        (None, Some("fsm")) => Some(Fork::Fsm),
        (None, Some("vm")) => Some(Fork::Vm),
        (None, Some("bcm")) => Some(Fork::Bcm),
        (None, Some("init")) => Some(Fork::Init),
        (None, Some(_)) => return None,
    };
    // The first file of a fork has no number, but for column files, which always have one.
    let is_column_file = matches!(fork, Some(Fork::Column(_)));
    let numbered = segno.is_some_and(|segno| segno > 0 || is_column_file);
    if parts.next().is_some()
        || (segno.is_some() && !numbered)
        || (compressed && (fork.is_some() || bucket.is_some()))
    {
        return None;
    }
    Some(RelationName {
        rel,
        segno: SegmentNumber(segno.unwrap_or(0)),
        fork,
        bucket,
        compressed,
        temp: session.is_some(),
    })
}

/// A number as the server prints it.
fn parse_number_or_zero(text: &str) -> Option<u32> {
    if text == "0" {
        return Some(0);
    }
    parse_number(text)
}

/// A number above 0 as the server prints it: no sign, no leading zero.
fn parse_number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|digit| digit.is_ascii_digit());
    if digits && !text.starts_with('0') {
        text.parse().ok()
    } else {
        None
    }
}

/// The number of a segment file, as far as block numbers reach.
fn parse_segno(text: &str) -> Option<u32> {
    parse_number_or_zero(text).filter(|&segno| segno <= u32::MAX / RELSEG_SIZE)
}

/// Files that say something about a running server or a restore, not about the data.
const EXCLUDED_FILES: [&str; 10] = [
    "gs_probackup.restore",
    "global/pg_control.gs_probackup",
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    "recovery.conf",
    "postmaster.pid",
    "postmaster.opts",
    "probackup_recovery.conf",
    "recovery.signal",
    "standby.signal",
];

/// Whether a file, by its path relative to the data directory, does not belong into any backup:
/// state of a running server, caches that it rebuilds, relations of sessions.
///
/// The original misses the caches: openGauss adds its version to the name `pg_internal.init`.
#[must_use]
pub fn is_excluded_file(path: &str) -> bool {
    if EXCLUDED_FILES.contains(&path) {
        return true;
    }
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    if name == "ptrack_init" {
        return true;
    }
    let Some(place) = Place::of(path) else {
        return false;
    };
    place.name.is_some_and(|name| {
        name.starts_with("pg_internal.init")
            || name.starts_with("pgsql_tmp")
            || matches!(name, "ptrack.map" | "ptrack.map.mmap" | "ptrack.map.tmp")
            || parse_relation_name(name).is_some_and(|relation| relation.temp)
    })
}

/// Whether a file is left out of backups of PostgreSQL besides what
/// [`is_excluded_file`] says: a manifest belongs to the base backup that a directory was made from.
///
/// Source: PostgreSQL `src/backend/backup/basebackup.c`, `excludeFiles`.
#[must_use]
pub fn is_excluded_postgresql_file(path: &str) -> bool {
    path == "backup_manifest"
}

/// Whether a file or directory belongs to openGauss's double write: copies of the pages that the
/// server has in flight at the moment, and marks of how these files are laid out.
///
/// Source: openGauss `src/common/port/tool_common.cpp`.
#[must_use]
pub fn is_double_write(path: &str) -> bool {
    path.strip_prefix("global/").is_some_and(|name| {
        let number = name.strip_prefix("pg_dw_");
        number.is_some_and(|number| parse_number_or_zero(number).is_some())
            || matches!(
                name,
                "pg_dw"
                    | "pg_dw_single"
                    | "pg_dw_meta"
                    | "pg_dw_ext_chunk"
                    | "dw_upgrade"
                    | "dw_batch_upgrade_meta"
                    | "dw_batch_upgrade_files"
            )
            || path == DOUBLE_WRITE_REBUILD
    })
}

/// The file that makes a starting openGauss create its double-write files anew, whatever is there.
pub const DOUBLE_WRITE_REBUILD: &str = "global/pg_dw.build";

/// The relation whose init fork a file is: its number. A server that recovers empties that
/// relation, see [`is_reset_with`].
///
/// Init forks count only where servers look for them: in the directories of databases.
#[must_use]
pub fn unlogged_relation(found: &Classified) -> Option<u32> {
    (found.fork == Some(Fork::Init) && is_resettable(found))
        .then_some(found.rel)
        .flatten()
}

/// The relation that a file is emptied with if it has an init fork: every file of its main fork,
/// its free space map, visibility map and block change map. A server that recovers removes these
/// and makes the main fork from the init fork.
///
/// Not so compressed files, columns and hash buckets: servers leave them as they find them.
///
/// Source: `parse_filename_for_nontemp_relation` in `src/backend/storage/file/reinit.c`, in
/// openGauss `src/gausskernel/storage/file/reinit.cpp`.
#[must_use]
pub fn is_reset_with(found: &Classified) -> Option<u32> {
    let is_compressed = matches!(found.kind, FileKind::Relation(file) if file.compressed);
    let is_fork = matches!(found.fork, None | Some(Fork::Fsm | Fork::Vm | Fork::Bcm));
    (is_fork && !is_compressed && is_resettable(found))
        .then_some(found.rel)
        .flatten()
}

fn is_resettable(found: &Classified) -> bool {
    found.db_oid > 0 && found.bucket.is_none() && !found.temp
}

/// Whether a file belongs to an exclusive backup that is under way: part of that backup, but not of
/// any other.
#[must_use]
pub fn is_backup_state_file(path: &str) -> bool {
    matches!(path, "backup_label" | "tablespace_map")
}

/// Directories whose contents are left out unless asked for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct KeptDirectories {
    /// Copy `pg_log`.
    pub log: bool,
    /// Copy `pg_replslot`.
    pub replslot: bool,
}

/// Whether a directory goes into the backup empty: WAL, which is streamed, and what a starting
/// server clears.
///
/// PostgreSQL's `log` is not among them: it goes into a backup as it does with `pg_basebackup`.
/// `pg_log` is a default of openGauss, and the option that keeps it is named after that.
#[must_use]
pub fn is_content_excluded_dir(path: &str, kept: KeptDirectories) -> bool {
    match path {
        "pg_xlog" | "pg_wal" | "pg_stat_tmp" | "base/pgsql_tmp" | "pg_dynshmem" | "pg_notify"
        | "pg_serial" | "pg_snapshots" | "pg_subtrans" => true,
        "pg_log" => !kept.log,
        "pg_replslot" => !kept.replslot,
        _ => is_tablespace_temp_dir(path),
    }
}

/// `pg_tblspc/<oid>/<version>/pgsql_tmp`.
fn is_tablespace_temp_dir(path: &str) -> bool {
    let parts: Vec<&str> = path.splitn(5, '/').collect();
    matches!(parts[..], ["pg_tblspc", _, version, "pgsql_tmp"] if version.starts_with("PG_"))
}

#[cfg(test)]
#[path = "relation_path_tests.rs"]
mod tests;
