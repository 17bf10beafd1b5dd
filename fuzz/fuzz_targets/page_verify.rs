//! Judging pages never panics, gives the same verdict on every path, and believes a valid page's
//! own header.

#![no_main]

use gs_probackup::format::page::{
    PAGE_SIZE, PageHeader, PageLayout, PageVerdict, is_zero_page, page_checksum,
    verify_compressed_page, verify_page, verify_pages,
};
use gs_probackup::types::BlockNumber;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u32, bool, &[u8])| {
    let (first, repair, data) = input;
    let count = data.len().div_ceil(PAGE_SIZE).clamp(1, 9);
    let mut pages = data.to_vec();
    pages.resize(count * PAGE_SIZE, 0);
    let block = |index: u32| BlockNumber(first.wrapping_add(index));
    if repair {
        for (page, index) in pages.chunks_exact_mut(PAGE_SIZE).zip(0..) {
            let checksum = page_checksum(page, block(index));
            page[8..10].copy_from_slice(&checksum.to_le_bytes());
        }
    }
    let mut verdicts = Vec::new();
    verify_pages(&pages, block(0), &mut verdicts);
    assert_eq!(verdicts.len(), count);
    for ((page, verdict), index) in pages.chunks_exact(PAGE_SIZE).zip(verdicts).zip(0..) {
        assert_eq!(verify_page(page, block(index)), verdict);
        let header = PageHeader::parse(page);
        match verdict {
            PageVerdict::Valid { lsn, checksum } => {
                assert_eq!((header.lsn, header.checksum), (lsn, checksum));
                assert_eq!(checksum, page_checksum(page, block(index)));
            }
            PageVerdict::Zero => assert!(is_zero_page(page)),
            PageVerdict::SegmentPca => assert!(page.ends_with(b"seg_comp")),
            PageVerdict::Bad(defect) => assert!(!defect.to_string().is_empty()),
        }
        if let PageVerdict::Bad(defect) = verify_compressed_page(page, block(index)) {
            assert!(!defect.to_string().is_empty());
        }
        let layout = PageLayout::of(page);
        assert_eq!(layout.version(), header.layout_version);
        let _ = (
            layout.xid_base(page),
            layout.multi_base(page),
            layout.transaction_slots(page),
        );
    }
});
