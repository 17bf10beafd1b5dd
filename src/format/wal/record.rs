//! WAL records: their header, and the few kinds that a backup tool understands.
//!
//! ```text
//! openGauss                          PostgreSQL
//! 0   u32  bytes with this header    0   u32  bytes with this header
//! 4   u32  term                      4   u32  transaction id
//! 8   u64  transaction id            8   u64  start of the previous record
//! 16  u64  start of the previous     16  u8   info
//! 24  u8   info                      17  u8   resource manager
//! 25  u8   resource manager          18  u16  zero
//! 26  u16  bucket                    20  u32  CRC-32C
//! 28  u32  CRC-32C                   24       body
//! 32       body
//! ```
//!
//! The CRC covers the body, then the header before the CRC field, so every byte of a record counts.
//! The body is a list of block references, then a length and the record's own data. Records read
//! here have no block references.
//!
//! Times are microseconds since 2000-01-01 UTC in the record.

use super::WalDialect;
use super::error::RecordFault;
use crate::format::little_endian::{i64_at, u32_at, u64_at};
use crate::types::Lsn;

/// Resource manager of checkpoints, switches, restore points.
const RM_XLOG: u8 = 0;
/// Resource manager of transactions.
const RM_XACT: u8 = 1;
/// Snapshots and locks for standbys.
const RM_STANDBY: u8 = 8;

/// Bytes of a record's own data that are kept: a checkpoint, the longest that is looked at, has 88.
const MAIN_DATA_BYTES_MAX: usize = 128;

/// Bytes kept of the end of a prepared transaction, whose number may follow all its relations.
const PREPARED_BYTES_MAX: usize = 1024 * 1024;

/// Microseconds from 1970 to 2000.
const EPOCH_OFFSET_MICROS: i64 = 946_684_800_000_000;

/// A record whose CRC is right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Which server wrote it.
    pub dialect: WalDialect,
    /// Position of its first byte.
    pub start: Lsn,
    /// Where the next record starts, unless that is a page boundary: then the next record follows
    /// the page header. This is what servers report as the end of a record. Of a switch record the
    /// start of the next segment.
    pub end: Lsn,
    /// The transaction that wrote it; 0 for none.
    pub xid: u64,
    /// Start of the record before it.
    pub prev: Lsn,
    /// Its resource manager.
    pub rmid: u8,
    /// Its kind, in the upper four bits, and flags.
    pub info: u8,
    /// The first bytes of the data of records of the resource managers 0 and 1 without block
    /// references; of ends of prepared transactions more; else empty.
    pub main_data: Vec<u8>,
}

/// The record that `bytes` are: header and body, as long as the header says.
pub(super) fn parse_record(
    dialect: WalDialect,
    start: Lsn,
    end: Lsn,
    bytes: &[u8],
) -> Result<Record, RecordFault> {
    let header_bytes = dialect.record_header_bytes();
    let (header, body) = bytes.split_at(header_bytes);
    let crc_at = header_bytes - size_of::<u32>();
    let stored = u32_at(header, crc_at);
    let computed = crc32c::crc32c_append(crc32c::crc32c(body), &header[..crc_at]);
    if stored != computed {
        return Err(RecordFault::Crc { stored, computed });
    }
    let (xid, prev, info, rmid) = match dialect {
        WalDialect::OpenGauss => (
            u64_at(header, 8),
            u64_at(header, 16),
            header[24],
            header[25],
        ),
        WalDialect::PostgreSql { .. } => (
            u64::from(u32_at(header, 4)),
            u64_at(header, 8),
            header[16],
            header[17],
        ),
    };
    let main_data = if rmid == RM_XLOG || rmid == RM_XACT {
        main_data(dialect, body)
    } else {
        &[]
    };
    let is_prepared = rmid == RM_XACT && matches!(info & 0x70, 0x30 | 0x40);
    let kept = if is_prepared {
        PREPARED_BYTES_MAX
    } else {
        MAIN_DATA_BYTES_MAX
    };
    Ok(Record {
        dialect,
        start,
        end,
        xid,
        prev: Lsn(prev),
        rmid,
        info,
        main_data: main_data[..main_data.len().min(kept)].to_vec(),
    })
}

/// The record's own data, or nothing where block references come first.
fn main_data(dialect: WalDialect, body: &[u8]) -> &[u8] {
    const SHORT: u8 = 255;
    const LONG: u8 = 254;
    const ORIGIN: u8 = 253;
    const TOPLEVEL_XID: u8 = 252;
    let mut rest = body;
    loop {
        let skipped = match (rest.first(), dialect) {
            (Some(&SHORT), _) => 2,
            (Some(&LONG), _) => 5,
            (Some(&ORIGIN), _) => 3,
            (Some(&TOPLEVEL_XID), WalDialect::PostgreSql { .. }) => 5,
            _ => return &[],
        };
        let Some((head, tail)) = rest.split_at_checked(skipped) else {
            return &[];
        };
        let length = match head[0] {
            SHORT => usize::from(head[1]),
            LONG => usize::try_from(u32_at(head, 1)).unwrap_or(usize::MAX),
            _ => {
                rest = tail;
                continue;
            }
        };
        return if length == tail.len() { tail } else { &[] };
    }
}

fn is_xlog(record: &Record, kind: u8) -> bool {
    record.rmid == RM_XLOG && record.info & 0xF0 == kind
}

/// Whether the record is the checkpoint of a clean stop.
#[must_use]
pub fn is_checkpoint_shutdown(record: &Record) -> bool {
    is_xlog(record, 0x00)
}

/// Whether the record is a checkpoint, of a clean stop or not.
#[must_use]
pub fn is_checkpoint(record: &Record) -> bool {
    is_xlog(record, 0x00) || is_xlog(record, 0x10)
}

/// Whether the rest of the segment behind the record is void.
#[must_use]
pub fn is_switch(record: &Record) -> bool {
    is_xlog(record, 0x40)
}

/// Whether the record surely changes no block of a relation and creates or drops none: a
/// checkpoint, what goes with one, a setting, a restore point.
#[must_use]
pub fn changes_no_block(record: &Record) -> bool {
    const LAST_HARMLESS: u8 = 0x80;
    match record.rmid {
        RM_XLOG => record.info & 0xF0 <= LAST_HARMLESS,
        RM_STANDBY => true,
        _ => false,
    }
}

/// The start position of the backup that the record ended, if it is such a record.
#[must_use]
pub fn is_backup_end(record: &Record) -> Option<Lsn> {
    (is_xlog(record, 0x50) && record.main_data.len() >= 8)
        .then(|| Lsn(u64_at(&record.main_data, 0)))
}

/// The name of the restore point that the record is; what follows the name in the record is
/// undefined.
#[must_use]
pub fn restore_point_name(record: &Record) -> Option<String> {
    const NAME_AT: usize = 8;
    const NAME_BYTES: usize = 64;
    if !is_xlog(record, 0x70) {
        return None;
    }
    let field = record.main_data.get(NAME_AT..NAME_AT + NAME_BYTES)?;
    let name = field.split(|&byte| byte == 0).next()?;
    Some(String::from_utf8_lossy(name).into_owned())
}

/// When the record was made, in microseconds since 1970, if it carries a time: restore points, and
/// ends of transactions.
///
/// gs_probackup takes the time of prepared transactions from the wrong place and does not know
/// compact commits; this does not repeat either.
#[must_use]
pub fn record_time(record: &Record) -> Option<i64> {
    let at = time_offset(record)?;
    if record.main_data.len() < at + 8 {
        return None;
    }
    i64_at(&record.main_data, at).checked_add(EPOCH_OFFSET_MICROS)
}

/// The transaction that the record ends, by commit or abort: where recovery to a transaction stops.
#[must_use]
pub fn ended_transaction(record: &Record) -> Option<u64> {
    if record.rmid != RM_XACT {
        return None;
    }
    record_time(record)?;
    if !matches!(record.info & 0x70, 0x30 | 0x40) {
        return Some(record.xid);
    }
    match record.dialect {
        WalDialect::OpenGauss => Some(u64_at(&record.main_data, 0)),
        WalDialect::PostgreSql { major } => prepared_transaction(record, major).map(u64::from),
    }
}

/// The number of a prepared transaction of PostgreSQL: behind lists that may be there, each a count
/// and so many items.
fn prepared_transaction(record: &Record, major: u32) -> Option<u32> {
    const HAS_INFO: u8 = 0x80;
    const DATABASE: u32 = 1;
    const SUBTRANSACTIONS: u32 = 1 << 1;
    const RELATIONS: u32 = 1 << 2;
    const INVALIDATIONS: u32 = 1 << 3;
    const TWO_PHASE: u32 = 1 << 4;
    const DROPPED_STATISTICS: u32 = 1 << 8;
    if record.info & HAS_INFO == 0 {
        return None;
    }
    let number = |at: usize| {
        let bytes = record.main_data.get(at..at.checked_add(4)?)?;
        Some(u32_at(bytes, 0))
    };
    let has = number(8)?;
    let mut at: usize = 12;
    if has & DATABASE != 0 {
        at += 8;
    }
    let statistic_bytes = if major >= 18 { 16 } else { 12 };
    for (list, item_bytes) in [
        (SUBTRANSACTIONS, 4),
        (RELATIONS, 12),
        (DROPPED_STATISTICS, statistic_bytes),
        (INVALIDATIONS, 16),
    ] {
        if has & list != 0 {
            let items = usize::try_from(number(at)?).ok()?;
            at = at
                .checked_add(4)?
                .checked_add(items.checked_mul(item_bytes)?)?;
        }
    }
    if has & TWO_PHASE == 0 {
        return None;
    }
    number(at)
}

/// Where the time is in the record's data.
fn time_offset(record: &Record) -> Option<usize> {
    if is_xlog(record, 0x70) {
        return Some(0);
    }
    if record.rmid != RM_XACT {
        return None;
    }
    match (record.info & 0x70, record.dialect) {
        // Commit and abort.
        (0x00 | 0x20, _) => Some(0),
        // Commit and abort of a prepared transaction: openGauss puts its number first.
        (0x30 | 0x40, WalDialect::OpenGauss) => Some(8),
        (0x30 | 0x40, WalDialect::PostgreSql { .. }) => Some(0),
        // Compact commit, abort with number; PostgreSQL uses these for invalidations and nothing.
        (0x60 | 0x70, WalDialect::OpenGauss) => Some(0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::builder::{COMMIT_TIME, DIALECTS, WalBuilder};
    use super::*;

    const UNIX_TIME: i64 = 1_795_240_369_000_000;

    /// A record with this data, through its bytes.
    fn record(dialect: WalDialect, rmid: u8, info: u8, data: &[u8]) -> Record {
        let bytes = WalBuilder::new(dialect).record_bytes(rmid, info, data);
        parse_record(dialect, Lsn(0x100), Lsn(0x200), &bytes).unwrap()
    }

    #[test]
    fn a_record_states_its_transaction_and_the_record_before() {
        for dialect in DIALECTS {
            let record = record(dialect, 1, 0x64, &COMMIT_TIME.to_le_bytes());
            assert_eq!((record.xid, record.prev), (77, Lsn(0x28)));
            assert_eq!((record.rmid, record.info), (1, 0x64));
            assert_eq!((record.start, record.end), (Lsn(0x100), Lsn(0x200)));
            assert_eq!(record.main_data, COMMIT_TIME.to_le_bytes());
        }
    }

    #[test]
    fn only_checkpoints_and_the_like_are_known_to_change_no_block() {
        for (rmid, info, harmless) in [
            (0, 0x00, true),
            (0, 0x10, true),
            (0, 0x40, true),
            (0, 0x80, true),
            // End of recovery, images of pages.
            (0, 0x90, false),
            (0, 0xA0, false),
            (0, 0xB0, false),
            (8, 0x10, true),
            (1, 0x00, false),
            (2, 0x10, false),
            (10, 0x00, false),
        ] {
            for dialect in DIALECTS {
                let record = record(dialect, rmid, info, b"data");
                assert_eq!(changes_no_block(&record), harmless, "{rmid} {info:x}");
            }
        }
    }

    #[test]
    fn the_end_of_a_transaction_carries_a_time() {
        let first = COMMIT_TIME.to_le_bytes();
        let second = [5_u64.to_le_bytes(), first].concat();
        let [opengauss, postgresql] = DIALECTS;
        for (dialect, info, data, expected) in [
            (opengauss, 0x00, &first[..], true),
            (opengauss, 0x04, &first, true),
            (opengauss, 0x20, &first, true),
            (opengauss, 0x30, &second, true),
            (opengauss, 0x40, &second, true),
            (opengauss, 0x60, &first, true),
            (opengauss, 0x70, &first, true),
            (opengauss, 0x10, &second, false),
            (opengauss, 0x50, &second, false),
            (opengauss, 0x30, &first, false),
            (postgresql, 0x80, &first, true),
            (postgresql, 0x20, &first, true),
            (postgresql, 0x30, &first, true),
            (postgresql, 0x40, &first, true),
            (postgresql, 0x10, &first, false),
            (postgresql, 0x50, &first, false),
            (postgresql, 0x60, &first, false),
        ] {
            let time = record_time(&record(dialect, 1, info, data));
            assert_eq!(time, expected.then_some(UNIX_TIME), "{dialect:?} {info:x}");
        }
        let heap = record(opengauss, 10, 0, &first);
        assert_eq!((record_time(&heap), heap.main_data), (None, Vec::new()));
        let short = record(opengauss, 1, 0, &first[..7]);
        assert_eq!(record_time(&short), None);
        let never = record(opengauss, 1, 0, &i64::MAX.to_le_bytes());
        assert_eq!(record_time(&never), None);
    }

    #[test]
    fn the_end_of_a_transaction_names_it_also_where_it_was_prepared() {
        let [opengauss, postgresql] = DIALECTS;
        let time = COMMIT_TIME.to_le_bytes();
        let ended = |dialect, rmid, info, data: &[u8]| {
            ended_transaction(&record(dialect, rmid, info, data))
        };
        let prepared = [&5_u64.to_le_bytes()[..], &time].concat();
        for info in [0x00, 0x20, 0x60, 0x70] {
            assert_eq!(ended(opengauss, 1, info, &time), Some(77));
        }
        assert_eq!(ended(opengauss, 1, 0x30, &prepared), Some(5));
        assert_eq!(ended(opengauss, 1, 0x10, &prepared), None);
        assert_eq!(ended(opengauss, 0, 0x70, &prepared), None);
        assert_eq!(ended(postgresql, 1, 0x20, &time), Some(77));
        let word = |number: u32| number.to_le_bytes().to_vec();
        let lists = [
            time.to_vec(),
            word(0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x80 | 0x100),
            vec![1; 8],
            word(40),
            vec![2; 160],
            word(1),
            vec![3; 12],
            word(1),
            vec![4; 12],
            word(2),
            vec![5; 32],
            word(901),
            b"gid\0".to_vec(),
        ]
        .concat();
        assert_eq!(ended(postgresql, 1, 0xB0, &lists), Some(901));
        assert_eq!(ended(postgresql, 1, 0x30, &lists), None);
        for length in 8..lists.len() - 4 {
            assert_eq!(ended(postgresql, 1, 0xB0, &lists[..length]), None);
        }
        let short = [time.to_vec(), word(0x12), word(1), word(3), word(902)].concat();
        assert_eq!(ended(postgresql, 1, 0xC0, &short), Some(902));
        let hostile = [time.to_vec(), word(0x1A), word(u32::MAX)].concat();
        assert_eq!(ended(postgresql, 1, 0xC0, &hostile), None);
    }

    #[test]
    fn a_restore_point_has_a_time_and_a_name() {
        for dialect in DIALECTS {
            let mut data = COMMIT_TIME.to_le_bytes().to_vec();
            data.extend(b"a name\0garbage");
            data.resize(72, 0xEE);
            let point = record(dialect, 0, 0x70, &data);
            assert_eq!(restore_point_name(&point).unwrap(), "a name");
            assert_eq!(record_time(&point), Some(UNIX_TIME));
            let full = record(dialect, 0, 0x70, &[b'x'; 72]);
            assert_eq!(restore_point_name(&full).unwrap(), "x".repeat(64));
            let short = record(dialect, 0, 0x70, &data[..71]);
            assert_eq!(restore_point_name(&short), None);
            let other = record(dialect, 0, 0x30, &data);
            assert_eq!(restore_point_name(&other), None);
        }
    }

    #[test]
    fn long_data_is_kept_in_part_and_block_references_hide_it() {
        for dialect in DIALECTS {
            let data: Vec<u8> = (0..=255).cycle().take(5000).collect();
            assert_eq!(record(dialect, 1, 0, &data).main_data, data[..128]);
            let body = |body: &[u8]| main_data(dialect, body).to_vec();
            assert_eq!(body(&[253, 1, 0, 255, 2, 8, 9]), [8, 9]);
            let subtransaction = body(&[252, 1, 0, 0, 0, 255, 1, 8]);
            let postgresql = dialect == DIALECTS[1];
            assert_eq!(
                subtransaction,
                if postgresql { vec![8] } else { Vec::new() }
            );
            for none in [
                &[][..],
                &[0, 0, 0, 0],
                &[255],
                &[255, 2, 8],
                &[255, 1, 8, 9],
                &[254, 1, 0, 0],
                &[254, 255, 255, 255, 255, 1],
                &[253, 1],
            ] {
                assert!(body(none).is_empty(), "{none:?}");
            }
        }
    }
}
