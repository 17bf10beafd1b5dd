//! Any bytes as a pglz stream: no panic, and what is accepted is what a plain decoder makes of it.

#![no_main]

use gs_probackup::codec::Decompressor;
use gs_probackup::types::CompressAlgorithm;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, &[u8])| {
    let (page_bytes, payload) = input;
    let mut page = vec![0; usize::from(page_bytes) % 8193];
    if payload.len() == page.len() {
        return;
    }
    let result = Decompressor::new().decompress(CompressAlgorithm::Pglz, payload, &mut page);
    assert_eq!(
        result.is_ok().then_some(page),
        plain(payload, usize::from(page_bytes) % 8193)
    );
});

/// Item by item and byte by byte; `None` for what is no stream of exactly `page_bytes`.
fn plain(payload: &[u8], page_bytes: usize) -> Option<Vec<u8>> {
    let mut page = Vec::new();
    let mut input = payload.iter().copied().peekable();
    while let Some(control) = input.next() {
        input.peek()?;
        for bit in 0..8 {
            let Some(first) = input.next() else { break };
            if control >> bit & 1 == 0 {
                page.push(first);
            } else {
                let distance = usize::from(first >> 4) << 8 | usize::from(input.next()?);
                let mut length = usize::from(first & 15) + 3;
                if length == 18 {
                    length += usize::from(input.next()?);
                }
                for _ in 0..length {
                    let source = page.len().checked_sub(distance)?;
                    page.push(*page.get(source)?);
                }
            }
            if page.len() > page_bytes {
                return None;
            }
        }
    }
    (page.len() == page_bytes).then_some(page)
}
