//! PostgreSQL's own LZ compression, the bare stream without length header (`pg_lzcompress.cpp`,
//! format since 9.5).
//!
//! A stream is groups of a control byte and up to eight items; bit i of the control byte, lowest
//! first, tells what item i is. The last group may have fewer items but never none.
//!
//! | bit | item | first byte, high 4 bits | low 4 bits | second byte | third byte |
//! |---|---|---|---|---|---|
//! | 0 | literal | the byte | | | |
//! | 1 | match, 3 to 17 bytes | distance / 256 | length - 3 | distance % 256 | |
//! | 1 | match, 18 to 273 bytes | distance / 256 | 15 | distance % 256 | length - 18 |
//!
//! A distance counts back from the position to be written, 1 to 4095; a match may overlap what it
//! writes.

mod decode;
mod encode;
#[cfg(any(test, feature = "testing"))]
pub mod reference;

pub(super) use decode::decompress;
pub(super) use encode::Encoder;

/// Bytes of the shortest match.
const MATCH_BYTES_MIN: usize = 3;

/// Bytes of the longest match whose length stands in its first byte.
const SHORT_MATCH_BYTES_MAX: usize = 17;

/// Bytes of the longest match.
const MATCH_BYTES_MAX: usize = 273;

/// The length nibble that says "the length is in the third byte".
const LONG_MATCH_NIBBLE: usize = 15;

/// Items that one control byte speaks of.
const GROUP_ITEMS: usize = 8;

const _: () = assert!(MATCH_BYTES_MIN + LONG_MATCH_NIBBLE == SHORT_MATCH_BYTES_MAX + 1);
const _: () = assert!(SHORT_MATCH_BYTES_MAX + 1 + 255 == MATCH_BYTES_MAX);
