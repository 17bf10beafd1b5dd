//! Any page through pglz and back, and through the original's encoder and back.

#![no_main]

use gs_probackup::codec::pglz::reference;
use gs_probackup::codec::{Compressor, Decompressor};
use gs_probackup::types::{CompressAlgorithm, PAGE_SIZE};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|page: &[u8]| {
    let page = &page[..page.len().min(PAGE_SIZE)];
    let mut decompressor = Decompressor::new();
    let mut out = [0; PAGE_SIZE];
    let mut back = vec![0; page.len()];
    let mut compressor = Compressor::new(CompressAlgorithm::Pglz, 0);
    if let Some(bytes) = compressor.compress(page, &mut out) {
        assert!(bytes > 0 && bytes < page.len());
        decompressor
            .decompress(CompressAlgorithm::Pglz, &out[..bytes], &mut back)
            .expect("our own payload");
        assert_eq!(back, page);
    }
    let theirs = reference::compress(page);
    if theirs.len() != page.len() {
        back.fill(0);
        decompressor
            .decompress(CompressAlgorithm::Pglz, &theirs, &mut back)
            .expect("the original's payload");
        assert_eq!(back, page);
    }
});
