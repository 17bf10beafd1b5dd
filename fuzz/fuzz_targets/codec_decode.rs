//! Any bytes as a payload of each algorithm and as a header map's stream: an answer, never a panic.

#![no_main]

use gs_probackup::codec::Decompressor;
use gs_probackup::types::CompressAlgorithm;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, &[u8])| {
    let (page_bytes, payload) = input;
    let mut page = vec![0; usize::from(page_bytes) % 8193];
    let mut decompressor = Decompressor::new();
    for algorithm in CompressAlgorithm::ALL {
        let _ = decompressor.decompress(algorithm, payload, &mut page);
    }
    let mut map = vec![0; usize::from(page_bytes)];
    let _ = decompressor.decompress_stream(payload, &mut map);
});
