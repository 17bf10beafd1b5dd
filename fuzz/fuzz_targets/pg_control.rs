//! A control file of any content is parsed without a panic; setting the recovery point keeps a good
//! one good.
#![no_main]

use gs_probackup::format::pg_control::{ControlFile, PG_CONTROL_SIZE, set_min_recovery_point};
use gs_probackup::types::{Lsn, TimelineId};
use libfuzzer_sys::fuzz_target;

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg())
        })
    })
}

fuzz_target!(|data: &[u8]| {
    let _ = ControlFile::parse(data);
    let _ = ControlFile::internal_crc(data);
    let mut page = data.to_vec();
    page.resize(PG_CONTROL_SIZE, 0);
    // One of the known versions, with the CRC that belongs there.
    let (version, crc_at) =
        [(923_u32, 224), (1300, 288), (1700, 288), (1800, 292)][usize::from(page[0] & 3)];
    page[8..12].copy_from_slice(&version.to_le_bytes());
    let crc = crc32c(&page[..crc_at]);
    page[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(ControlFile::internal_crc(&page), Ok(crc));
    let before = ControlFile::parse(&page);
    let lsn = Lsn(0x1_2345_6789);
    let crc = set_min_recovery_point(&mut page, lsn, TimelineId(2)).expect("the CRC is right");
    if let Ok(mut before) = before {
        before.min_recovery_point = lsn;
        before.crc = crc;
        assert_eq!(ControlFile::parse(&page), Ok(before));
    }
});
