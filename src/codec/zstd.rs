//! zstd frames that carry their content size, as the original's one-shot `ZSTD_compress` writes
//! them.

use super::error::{DecodeError, verify_length};
use crate::types::CompressAlgorithm;
use std::fmt;
use zstd_safe::{CCtx, DCtx};

/// A compression context and its level, made once a thread.
pub(super) struct Encoder {
    context: CCtx<'static>,
    level: i32,
}

impl Encoder {
    /// `level` is zstd's own, 0 meaning its default.
    pub(super) fn new(level: u32) -> Encoder {
        Encoder {
            context: CCtx::create(),
            level: i32::try_from(level).unwrap_or(i32::MAX),
        }
    }

    /// One frame to `out`; `None` where it does not fit.
    pub(super) fn compress(&mut self, page: &[u8], out: &mut [u8]) -> Option<usize> {
        self.context.compress(out, page, self.level).ok()
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("zstd::Encoder")
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}

/// A decompression context, made once a thread.
pub(super) struct Decoder(DCtx<'static>);

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder(DCtx::create())
    }
}

impl Decoder {
    /// Fills `page` from the frames of `payload`.
    pub(super) fn decompress(
        &mut self,
        payload: &[u8],
        page: &mut [u8],
    ) -> Result<(), DecodeError> {
        let algorithm = CompressAlgorithm::Zstd;
        let expected_bytes = page.len();
        let found_bytes = self
            .0
            .decompress(page, payload)
            .map_err(|_| DecodeError::Damaged {
                algorithm,
                payload_bytes: payload.len(),
            })?;
        verify_length(algorithm, found_bytes, expected_bytes)
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("zstd::Decoder")
    }
}
