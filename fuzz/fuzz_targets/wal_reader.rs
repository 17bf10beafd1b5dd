//! WAL pages of any content are read without a panic, and a range that was found whole is not when
//! a byte of it changes.
//!
//! Half of the inputs get page headers and record CRCs put right first: otherwise nothing would get
//! past them.
#![no_main]

use gs_probackup::format::wal::{
    RangeRequest, WalDialect, WalReader, check_range, is_backup_end, parse_segment_name,
    record_time, restore_point_name,
};
use gs_probackup::types::{Lsn, TimelineId};
use libfuzzer_sys::fuzz_target;
use std::convert::Infallible;

const PAGE_BYTES: usize = 8192;
const SEGMENT_BYTES: usize = 2 * PAGE_BYTES;
const START: u64 = 3 * SEGMENT_BYTES as u64 + 40;

fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    !bytes.fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg())
        })
    })
}

/// Makes the headers of all pages right, and the CRCs of the records from the start of the first
/// page on.
fn repair(wal: &mut [u8], dialect: WalDialect) {
    let (magic, header_bytes) = match dialect {
        WalDialect::OpenGauss => (0xD074_u16, 32),
        WalDialect::PostgreSql { .. } => (0xD110, 24),
    };
    for (index, page) in wal.chunks_mut(PAGE_BYTES).enumerate() {
        let long = (index * PAGE_BYTES).is_multiple_of(SEGMENT_BYTES);
        let address = START - 40 + (index * PAGE_BYTES) as u64;
        page[..2].copy_from_slice(&magic.to_le_bytes());
        page[2] = page[2] & 1 | if long { 6 } else { 4 };
        page[3] = 0;
        page[4..8].copy_from_slice(&1_u32.to_le_bytes());
        page[8..16].copy_from_slice(&address.to_le_bytes());
        page[20..24].fill(0);
        if long {
            page[24..32].fill(0);
            page[32..36].copy_from_slice(&(SEGMENT_BYTES as u32).to_le_bytes());
            page[36..40].copy_from_slice(&(PAGE_BYTES as u32).to_le_bytes());
        }
    }
    let Some(page) = wal.get_mut(..PAGE_BYTES) else {
        return;
    };
    let (mut at, mut previous) = (40, None);
    while at + header_bytes <= page.len() {
        let length = u32::from_le_bytes([page[at], page[at + 1], 0, 0]) as usize;
        if length < header_bytes || at + length > page.len() {
            break;
        }
        page[at + 2..at + 4].fill(0);
        if let Some(previous) = previous {
            let prev_at = at + header_bytes - 16;
            page[prev_at..prev_at + 8].copy_from_slice(&u64::to_le_bytes(previous));
        }
        previous = Some(START - 40 + at as u64);
        let record = &page[at..at + length];
        let body = record[header_bytes..].iter();
        let crc = crc32c(body.chain(&record[..header_bytes - 4]).copied());
        page[at + header_bytes - 4..at + header_bytes].copy_from_slice(&crc.to_le_bytes());
        let end = (at + length).next_multiple_of(8);
        page[at + length..end].fill(0);
        at = end;
    }
}

fn segments(wal: &[u8]) -> impl FnMut(u64) -> Result<Option<Vec<u8>>, Infallible> + '_ {
    move |segno| {
        let first = START / SEGMENT_BYTES as u64;
        let index = segno
            .checked_sub(first)
            .and_then(|index| usize::try_from(index).ok());
        let at = index.and_then(|index| index.checked_mul(SEGMENT_BYTES));
        Ok(at
            .and_then(|at| wal.get(at..at + SEGMENT_BYTES))
            .map(<[u8]>::to_vec))
    }
}

fuzz_target!(|data: &[u8]| {
    let [kind, stop, flip, rest @ ..] = data else {
        return;
    };
    let dialect = if kind & 1 == 0 {
        WalDialect::OpenGauss
    } else {
        WalDialect::PostgreSql { major: 15 }
    };
    let mut wal = rest[..rest.len().min(4 * SEGMENT_BYTES)].to_vec();
    wal.resize(wal.len().next_multiple_of(SEGMENT_BYTES), 0);
    if kind & 2 == 0 {
        repair(&mut wal, dialect);
    }
    let mut reader = WalReader::new(
        dialect,
        TimelineId(1),
        SEGMENT_BYTES as u64,
        Lsn(START),
        segments(&wal),
    );
    while let Ok(Some(record)) = reader.next_record() {
        assert!(record.start < record.end);
        let _ = (
            record_time(&record),
            restore_point_name(&record),
            is_backup_end(&record),
        );
    }
    drop(reader);
    let request = RangeRequest {
        dialect,
        timeline: TimelineId(1),
        segment_bytes: SEGMENT_BYTES as u64,
        system_identifier: Some(0),
        start: Lsn(START),
        stop: Lsn(START + u64::from(*stop) * 8),
    };
    if check_range(&request, segments(&wal)).is_ok() && *flip < *stop {
        wal[40 + usize::from(*flip) * 8] ^= 1;
        assert!(check_range(&request, segments(&wal)).is_err());
    }
    if let Ok(name) = std::str::from_utf8(rest) {
        let _ = parse_segment_name(name, 1 << 24);
    }
});
