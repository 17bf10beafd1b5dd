//! The files that describe the cluster: `pg_control`, `pg_filenode.map`, and the WAL segment with
//! the checkpoint that a clean shutdown wrote.
//!
//! The segment ends as a server's does: a bare list of running transactions, a full one, an online
//! checkpoint, the shutdown checkpoint; then zeros. `pg_control` points to the last one, which is
//! its own redo point.
//!
//! Source: `src/include/catalog/pg_control.h`, `src/include/access/xlog_basic.h`, `relmapper.cpp`.

use super::page::{XID_BASE, put_u16, put_u32, put_u64};
use crate::format::wal::segment_name;
use crate::limits::WAL_PAGE_BYTES;
use crate::types::{Lsn, PAGE_SIZE, RELSEG_SIZE, TimelineId};

/// Bytes of `pg_control`; its backup is the first 512.
pub(super) const CONTROL_BYTES: usize = 8192;
pub(super) const CONTROL_BACKUP_BYTES: usize = 512;

pub(super) const TIMELINE: TimelineId = TimelineId(1);

/// Number of the WAL segment of a new cluster.
pub(super) const FIRST_SEGMENT: u64 = 3;
const NEXT_XID: u64 = XID_BASE + 52;
const NEXT_OID: u32 = 16_490;
const NEXT_CSN: u64 = 1669;
/// Seconds since 1970 of the shutdown. Fixed: the same seed gives the same bytes on any day.
const SHUTDOWN_TIME: u64 = 1_760_000_000;
const NEXT_OID_ONLINE: u32 = 24_576;

const RMGR_XLOG: u8 = 0;
const RMGR_STANDBY: u8 = 8;
const XLOG_CHECKPOINT_SHUTDOWN: u8 = 0x00;
const XLOG_CHECKPOINT_ONLINE: u8 = 0x10;
const XLOG_RUNNING_XACTS: u8 = 0x10;
const XLOG_STANDBY_XID: u8 = 0x30;

const PAGE_LONG_HEADER_BYTES: usize = 40;
const RECORD_HEADER_BYTES: usize = 32;
const CHECKPOINT_BYTES: usize = 88;
const CHECKPOINT_UNDO_BYTES: usize = 120;

/// The head of the WAL segment (the rest of it is zero) and where its records are.
#[derive(Debug)]
pub(super) struct WalSegment {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) first_page: Vec<u8>,
    pub(super) first_record: Lsn,
    pub(super) previous_checkpoint: Lsn,
    pub(super) checkpoint: Lsn,
}

/// The only WAL segment that a start of the cluster needs, of this number and length, which begins
/// with so many records of a server that did nothing.
pub(super) fn wal_segment(
    system_identifier: u64,
    number: u64,
    bytes: u64,
    idle_records: u32,
) -> WalSegment {
    let start = number * bytes;
    let mut writer = RecordWriter::new(start, bytes, system_identifier);
    for _ in 0..idle_records {
        writer.append(RMGR_STANDBY, XLOG_RUNNING_XACTS, &running_transactions());
    }
    let redo = writer.position();
    writer.append(RMGR_STANDBY, XLOG_STANDBY_XID, &NEXT_XID.to_le_bytes());
    writer.append(RMGR_STANDBY, XLOG_RUNNING_XACTS, &running_transactions());
    let previous_checkpoint = writer.position();
    let online = Checkpoint {
        redo,
        next_oid: NEXT_OID_ONLINE,
        time: SHUTDOWN_TIME - 1,
        oldest_active: NEXT_XID,
    };
    writer.append(
        RMGR_XLOG,
        XLOG_CHECKPOINT_ONLINE,
        &online.record_data(bytes),
    );
    let checkpoint = writer.position();
    writer.append(
        RMGR_XLOG,
        XLOG_CHECKPOINT_SHUTDOWN,
        &shutdown_checkpoint(checkpoint).record_data(bytes),
    );
    WalSegment {
        name: segment_name(TIMELINE, number, bytes),
        bytes,
        first_page: writer.page,
        first_record: redo,
        previous_checkpoint,
        checkpoint,
    }
}

/// `pg_control` of a cluster that was shut down after `segment`.
pub(super) fn control_file(system_identifier: u64, segment: &WalSegment) -> Vec<u8> {
    let mut control = vec![0; CONTROL_BYTES];
    put_u64(&mut control, 0, system_identifier);
    put_u32(&mut control, 8, 923);
    put_u32(&mut control, 12, 201_611_171);
    put_u32(&mut control, 16, TIMELINE.0);
    put_u32(&mut control, 20, 1);
    put_u64(&mut control, 24, SHUTDOWN_TIME);
    put_u64(&mut control, 32, segment.checkpoint.0);
    put_u64(&mut control, 40, segment.previous_checkpoint.0);
    shutdown_checkpoint(segment.checkpoint)
        .write(&mut control[48..48 + CHECKPOINT_BYTES], segment.bytes);
    // wal_level hot_standby, then the settings that a standby has to match.
    for (field, value) in [2, 250, 200, 256, 8].into_iter().enumerate() {
        put_u32(&mut control, 164 + field * 4, value);
    }
    control[184..192].copy_from_slice(&1_234_567.0_f64.to_le_bytes());
    let page_bytes = u32::try_from(PAGE_SIZE).expect("a page");
    put_u32(&mut control, 192, page_bytes);
    put_u32(&mut control, 196, RELSEG_SIZE);
    put_u32(
        &mut control,
        200,
        u32::try_from(WAL_PAGE_BYTES).expect("a page"),
    );
    put_u32(
        &mut control,
        204,
        u32::try_from(segment.bytes).expect("a segment"),
    );
    // Name length, index columns, TOAST chunk; then integer timestamps and by-value floats.
    for (field, value) in [64, 32, 1996].into_iter().enumerate() {
        put_u32(&mut control, 208 + field * 4, value);
    }
    control[220..223].fill(1);
    let crc = crc32c::crc32c(&control[..224]);
    put_u32(&mut control, 224, crc);
    control
}

/// `pg_filenode.map` of these pairs of system catalog and file.
pub(super) fn filenode_map(pairs: &[(u32, u32)]) -> Vec<u8> {
    const BYTES: usize = 4096;
    const MAGIC: u32 = 0x0059_2718;
    let mut map = vec![0; BYTES];
    put_u32(&mut map, 0, MAGIC);
    put_u32(
        &mut map,
        4,
        u32::try_from(pairs.len()).expect("few mapped catalogs"),
    );
    for (slot, (catalog, file)) in pairs.iter().enumerate() {
        put_u32(&mut map, 8 + slot * 8, *catalog);
        put_u32(&mut map, 12 + slot * 8, *file);
    }
    let crc = historic_crc32(&map[..BYTES - 8]);
    put_u32(&mut map, BYTES - 8, crc);
    map
}

/// The CRC of old PostgreSQL: the usual table, walked in the other direction. Nothing else computes
/// it.
fn historic_crc32(bytes: &[u8]) -> u32 {
    let table_entry = |index: u8| {
        (0..8).fold(u32::from(index), |crc, _| {
            if crc & 1 == 1 {
                crc >> 1 ^ 0xEDB8_8320
            } else {
                crc >> 1
            }
        })
    };
    let crc = bytes.iter().fold(u32::MAX, |crc, byte| {
        let [high, ..] = crc.to_be_bytes();
        table_entry(high ^ byte) ^ crc << 8
    });
    !crc
}

/// The fields of a checkpoint that differ here.
#[derive(Debug)]
struct Checkpoint {
    redo: Lsn,
    next_oid: u32,
    time: u64,
    oldest_active: u64,
}

fn shutdown_checkpoint(at: Lsn) -> Checkpoint {
    Checkpoint {
        redo: at,
        next_oid: NEXT_OID,
        time: SHUTDOWN_TIME,
        oldest_active: 0,
    }
}

impl Checkpoint {
    fn write(&self, out: &mut [u8], segment_bytes: u64) {
        put_u64(out, 0, self.redo.0);
        put_u32(out, 8, TIMELINE.0);
        put_u64(out, 16, NEXT_XID);
        put_u32(out, 24, self.next_oid);
        put_u64(out, 32, 2);
        put_u64(out, 48, 3);
        put_u32(out, 56, 1);
        put_u64(out, 64, self.time);
        put_u64(out, 72, self.redo.0 / segment_bytes);
        put_u64(out, 80, self.oldest_active);
    }

    /// In WAL the next commit number, the length of all this, and two xids of undo follow.
    fn record_data(&self, segment_bytes: u64) -> [u8; CHECKPOINT_UNDO_BYTES] {
        let mut data = [0; CHECKPOINT_UNDO_BYTES];
        self.write(&mut data, segment_bytes);
        put_u64(&mut data, 88, NEXT_CSN);
        put_u64(&mut data, 96, 120);
        put_u64(&mut data, 104, XID_BASE);
        put_u64(&mut data, 112, XID_BASE);
        data
    }
}

fn running_transactions() -> [u8; 40] {
    let mut data = [0; 40];
    put_u64(&mut data, 16, NEXT_XID);
    put_u64(&mut data, 24, NEXT_XID);
    put_u64(&mut data, 32, NEXT_XID - 1);
    data
}

/// Appends records to the first page of a segment.
#[derive(Debug)]
struct RecordWriter {
    start: u64,
    page: Vec<u8>,
    used: usize,
    previous: u64,
}

impl RecordWriter {
    fn new(start: u64, segment_bytes: u64, system_identifier: u64) -> RecordWriter {
        const MAGIC: u16 = 0xD074;
        const LONG_HEADER_AND_REMOVABLE: u16 = 6;
        let mut page = vec![0; WAL_PAGE_BYTES];
        put_u16(&mut page, 0, MAGIC);
        put_u16(&mut page, 2, LONG_HEADER_AND_REMOVABLE);
        put_u32(&mut page, 4, TIMELINE.0);
        put_u64(&mut page, 8, start);
        put_u64(&mut page, 24, system_identifier);
        put_u32(
            &mut page,
            32,
            u32::try_from(segment_bytes).expect("a segment"),
        );
        put_u32(
            &mut page,
            36,
            u32::try_from(WAL_PAGE_BYTES).expect("a page"),
        );
        // Before it came a switch to this segment.
        let previous = start - segment_bytes + 0x1E8;
        RecordWriter {
            start,
            page,
            used: PAGE_LONG_HEADER_BYTES,
            previous,
        }
    }

    fn position(&self) -> Lsn {
        Lsn(self.start + self.used as u64)
    }

    fn append(&mut self, resource_manager: u8, info: u8, data: &[u8]) {
        const SHORT_DATA: u8 = 255;
        const TERM: u32 = 1;
        let length = RECORD_HEADER_BYTES + 2 + data.len();
        let position = self.position();
        let record = &mut self.page[self.used..self.used + length];
        put_u32(
            record,
            0,
            u32::try_from(length).expect("a record of one page"),
        );
        put_u32(record, 4, TERM);
        put_u64(record, 16, self.previous);
        record[24] = info;
        record[25] = resource_manager;
        record[RECORD_HEADER_BYTES] = SHORT_DATA;
        record[RECORD_HEADER_BYTES + 1] = u8::try_from(data.len()).expect("short data");
        record[RECORD_HEADER_BYTES + 2..].copy_from_slice(data);
        let crc = crc32c::crc32c(&record[RECORD_HEADER_BYTES..]);
        let crc = crc32c::crc32c_append(crc, &record[..28]);
        put_u32(record, 28, crc);
        self.previous = position.0;
        self.used = (self.used + length).next_multiple_of(8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::WAL_SEGMENT_BYTES;
    use crate::sample::tests::recorded_file;

    #[test]
    fn a_recorded_filenode_map_has_the_crc_that_ours_would_have() {
        let Some(recorded) = recorded_file("global/pg_filenode.map") else {
            return;
        };
        let word = |at: usize| u32::from_le_bytes(recorded[at..at + 4].try_into().unwrap());
        let pairs: Vec<_> = (0..word(4) as usize)
            .map(|slot| (word(8 + slot * 8), word(12 + slot * 8)))
            .collect();
        assert!(filenode_map(&pairs) == recorded, "the maps differ");
    }

    #[test]
    fn a_recorded_control_file_has_the_same_constants() {
        let Some(recorded) = recorded_file("global/pg_control") else {
            return;
        };
        let ours = control_file(1, &wal_segment(1, FIRST_SEGMENT, WAL_SEGMENT_BYTES, 0));
        assert_eq!(ours.len(), recorded.len());
        // Versions and timeline; settings, geometry and formats.
        assert_eq!(ours[8..20], recorded[8..20]);
        assert_eq!(ours[164..224], recorded[164..224]);
        assert_eq!(ours[228..512], recorded[228..512]);
    }
}
