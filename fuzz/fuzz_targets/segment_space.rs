//! Pages of any content are read as the maps and heads of a space without a panic; what they name
//! stays within what there can be.
#![no_main]

use gs_probackup::format::segment_space::{
    ExtentPlace, MAP_PAGE_EXTENTS, MORE_EXTENTS_MAGIC, POINTER_PAGE_EXTENTS, SEGMENT_HEAD_MAGIC,
    SegmentHead, blocks_before, extent_blocks, inverse_pointer, is_allocated, map_first,
    map_groups, more_extents,
};
use gs_probackup::types::PAGE_SIZE;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((choice, data)) = data.split_first() else {
        return;
    };
    let mut page = data.to_vec();
    page.resize(PAGE_SIZE, 0);
    match choice % 3 {
        0 => page[24..32].copy_from_slice(&SEGMENT_HEAD_MAGIC.to_le_bytes()),
        1 => page[24..32].copy_from_slice(&MORE_EXTENTS_MAGIC.to_le_bytes()),
        _ => {}
    }
    let number = u32::from_le_bytes(page[40..44].try_into().expect("four bytes"));
    for blocks in (1..=5).map(extent_blocks) {
        let groups = map_groups(&page, blocks).unwrap_or_default();
        for pair in groups.windows(2) {
            assert!(pair[0].first_map < pair[1].first_map);
        }
    }
    let _ = map_first(&page);
    let _ = is_allocated(&page, number % MAP_PAGE_EXTENTS);
    let pointer = inverse_pointer(&page, number % POINTER_PAGE_EXTENTS);
    assert!(blocks_before(pointer.extent) <= blocks_before(pointer.extent + 1));
    if let Some(head) = SegmentHead::parse(&page) {
        let _ = head.blocks();
        for extent in [0, 1254, 1255, number, u32::MAX] {
            if let Some(ExtentPlace::More(_, place)) = head.extent(extent) {
                let _ = more_extents(&page, place);
            }
        }
    }
});
