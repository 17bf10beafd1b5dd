//! A seal of any content is read without a panic, and what was read or made is read back from what
//! it is written as.
//!
//! The bytes are also taken as the JSON of a seal, with the hash that belongs to it: otherwise
//! nothing would get past the hash.
#![no_main]

use gs_probackup::format::seal::{SEAL_VERSION, Seal, SealError};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    check(data);
    let mut hashed = data.to_vec();
    hashed.push(b'\n');
    hashed.extend_from_slice(blake3::hash(data).to_string().as_bytes());
    hashed.push(b'\n');
    check(&hashed);
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (control, pg_control) = text.split_at(text.floor_char_boundary(text.len() / 2));
    let seal = Seal::new(control, Some(pg_control.as_bytes()));
    assert!(seal.matches_pg_control(pg_control.as_bytes()));
    let bytes = seal.encode();
    assert_eq!(Seal::parse(&bytes), Ok(Some(seal)));
    // One changed bit.
    let at = data.iter().map(|byte| usize::from(*byte)).sum::<usize>() % (8 * bytes.len());
    let mut damaged = bytes;
    damaged[at / 8] ^= 1 << (at % 8);
    assert!(Seal::parse(&damaged).is_err());
});

fn check(bytes: &[u8]) {
    match Seal::parse(bytes) {
        Ok(Some(seal)) => {
            assert!(seal.version <= SEAL_VERSION);
            assert_eq!(Seal::parse(&seal.encode()), Ok(Some(seal)));
        }
        Ok(None) => {}
        Err(error @ (SealError::Shape | SealError::Hash | SealError::Json(_))) => {
            assert!(!error.to_string().is_empty());
        }
    }
}
