//! Page header arrays: reading never panics, and writing is its inverse but for the padding.
#![no_main]

use gs_probackup::format::catalog::{encode_header_records, parse_header_records};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u32, &[u8])| {
    let (any, bytes) = input;
    let fitting = u32::try_from(bytes.len() / 24)
        .unwrap_or(0)
        .saturating_sub(1);
    for count in [any, fitting] {
        if let Ok(headers) = parse_header_records(bytes, count) {
            let written = encode_header_records(&headers.records, headers.file_bytes);
            assert_eq!(written.len(), bytes.len());
            assert_eq!(parse_header_records(&written, count), Ok(headers));
        }
    }
});
