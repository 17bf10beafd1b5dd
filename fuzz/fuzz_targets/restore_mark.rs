//! A mark of a restore of any content is read without a panic, and what was read is read back from
//! what it is written as.
//!
//! The bytes are also taken as the JSON of a mark, with the hash that belongs to it: otherwise
//! nothing would get past the hash.
#![no_main]

use gs_probackup::format::restore_mark::{RESTORE_MARK_VERSION, RestoreMark};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    check(data);
    let mut hashed = data.to_vec();
    hashed.push(b'\n');
    hashed.extend_from_slice(blake3::hash(data).to_string().as_bytes());
    hashed.push(b'\n');
    check(&hashed);
});

fn check(bytes: &[u8]) {
    match RestoreMark::parse(bytes) {
        Ok(mark) => {
            assert!(mark.version <= RESTORE_MARK_VERSION);
            assert_eq!(RestoreMark::parse(&mark.encode()), Ok(mark));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
