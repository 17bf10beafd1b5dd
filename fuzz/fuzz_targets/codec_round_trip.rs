//! Any page through each algorithm and level and back, with contexts that serve several pages.

#![no_main]

use gs_probackup::codec::{Compressor, Decompressor, compress_stream};
use gs_probackup::types::{CompressAlgorithm, PAGE_SIZE};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (level, bytes) = input;
    let mut decompressor = Decompressor::new();
    for algorithm in CompressAlgorithm::ALL {
        let mut compressor = Compressor::new(algorithm, u32::from(level % 10));
        for page in bytes.chunks(PAGE_SIZE) {
            let mut out = [0; PAGE_SIZE];
            if let Some(payload_bytes) = compressor.compress(page, &mut out) {
                assert!(payload_bytes > 0 && payload_bytes < page.len());
                let mut back = vec![0; page.len()];
                decompressor
                    .decompress(algorithm, &out[..payload_bytes], &mut back)
                    .expect("our own payload");
                assert_eq!(back, page, "{algorithm}");
            }
        }
    }
    let stream = compress_stream(bytes);
    let mut back = vec![0; bytes.len()];
    decompressor
        .decompress_stream(&stream, &mut back)
        .expect("our own stream");
    assert_eq!(back, bytes);
});
