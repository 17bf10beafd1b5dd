//! Any bytes are read as a file of changed block maps without a panic, and no more blocks come out
//! than bits went in. With repaired CRCs the rest of each page is reached.

#![no_main]

use gs_probackup::format::cbm::{CBM_PAGE_BYTES, CbmFileName, CbmMap, CbmPages, complete_bytes};
use gs_probackup::types::{FileChanges, Lsn};
use libfuzzer_sys::fuzz_target;

const MEMORY_BYTES_MAX: usize = 64 * 1024;

fuzz_target!(|data: &[u8]| {
    if let Some(name) = std::str::from_utf8(data).ok().and_then(CbmFileName::parse) {
        let printed = name.to_string();
        assert_eq!(CbmFileName::parse(&printed), Some(name));
    }
    read(data);
    let mut repaired = data.to_vec();
    for page in repaired.chunks_exact_mut(CBM_PAGE_BYTES) {
        let crc = crc32c::crc32c(&page[4..]);
        page[..4].copy_from_slice(&crc.to_le_bytes());
    }
    read(&repaired);
});

fn read(file: &[u8]) {
    let complete = complete_bytes(file).map_or(0, |(length, _)| length);
    assert!(complete <= file.len() && complete.is_multiple_of(CBM_PAGE_BYTES));
    let Some(start) = file.get(8..16) else {
        return;
    };
    let start = u64::from_le_bytes(start.try_into().expect("8 bytes"));
    let name = CbmFileName {
        sequence: 1,
        start: Lsn(start),
        end: None,
    };
    let mut map = CbmMap::new(MEMORY_BYTES_MAX);
    for page in CbmPages::new(name, &file[..complete]) {
        let Ok(page) = page else {
            break;
        };
        if let Some(change) = page.change {
            map.merge(&change);
        }
    }
    let bits: u64 = file.iter().map(|byte| u64::from(byte.count_ones())).sum();
    let blocks: u64 = map.rows().map(|row| row.changes.blocks.len()).sum();
    assert!(blocks <= bits);
    let paths: Vec<String> = map.rows().map(|row| row.fork.path("PG_x")).collect();
    let changed = map.into_changed_blocks();
    assert!(changed.memory_bytes() <= MEMORY_BYTES_MAX);
    for path in paths {
        if let FileChanges::Blocks(blocks) = changed.file(&path) {
            assert!(blocks.ranges(0).count() >= blocks.ranges(8).count());
        }
    }
}
