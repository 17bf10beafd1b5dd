//! zlib streams by libdeflate: any decoder reads them, and it reads any encoder's.

use super::error::{DecodeError, verify_length};
use crate::types::CompressAlgorithm;
use libdeflater::{CompressionLvl, Compressor, DecompressionError, Decompressor};
use std::fmt;

/// libdeflate's level for each of zlib's: the lowest from the same number on that is no larger than
/// zlib at its level on database pages (`benches/codec.rs` prints the table). At 9 it is 0.2 %
/// smaller on full pages and 0.03 % larger on nearly empty ones; the next level is smaller on both,
/// but slower than zlib.
const LEVELS: [i32; 10] = [0, 1, 2, 3, 5, 7, 8, 8, 9, 9];

/// Level of a page header map: what the original gives `compress2`.
const STREAM_LEVEL: u32 = 1;

/// A compressor's tables for one level, made once a thread.
pub(super) struct Encoder(Compressor);

impl Encoder {
    /// `level` counts as in zlib; above 9 is 9.
    pub(super) fn new(level: u32) -> Encoder {
        let level = usize::try_from(level).unwrap_or(usize::MAX);
        let level = LEVELS[level.min(LEVELS.len() - 1)];
        Encoder(Compressor::new(
            CompressionLvl::new(level).expect("libdeflate has levels 0 to 12"),
        ))
    }

    /// One stream to `out`; `None` where it does not fit.
    pub(super) fn compress(&mut self, page: &[u8], out: &mut [u8]) -> Option<usize> {
        self.0.zlib_compress(page, out).ok()
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("zlib::Encoder")
    }
}

/// A decompressor's tables, made once a thread.
#[derive(Default)]
pub(super) struct Decoder(Decompressor);

impl Decoder {
    /// Fills `out` from one stream; bytes after the stream are ignored, as zlib's `uncompress`
    /// does.
    pub(super) fn decompress(&mut self, payload: &[u8], out: &mut [u8]) -> Result<(), DecodeError> {
        let algorithm = CompressAlgorithm::Zlib;
        let expected_bytes = out.len();
        let found_bytes = self
            .0
            .zlib_decompress(payload, out)
            .map_err(|error| match error {
                DecompressionError::BadData => DecodeError::Damaged {
                    algorithm,
                    payload_bytes: payload.len(),
                },
                DecompressionError::InsufficientSpace => DecodeError::TooLong {
                    algorithm,
                    expected_bytes,
                },
            })?;
        verify_length(algorithm, found_bytes, expected_bytes)
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("zlib::Decoder")
    }
}

/// One zlib stream, level 1, of `bytes`, whatever their number: a page header map.
#[must_use]
#[expect(
    clippy::missing_panics_doc,
    reason = "the library's bound is enough for any input"
)]
pub fn compress_stream(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new(STREAM_LEVEL);
    let mut stream = vec![0; encoder.0.zlib_compress_bound(bytes.len())];
    let stream_bytes = encoder
        .compress(bytes, &mut stream)
        .expect("the bound is enough for any input");
    stream.truncate(stream_bytes);
    stream
}
