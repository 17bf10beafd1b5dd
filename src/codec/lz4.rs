//! LZ4 blocks without frame and size prefix, as the original's `LZ4_compress_default` writes them.

use super::error::{DecodeError, verify_length};
use crate::types::CompressAlgorithm;

/// One page to `out`; `None` where it does not fit.
pub(super) fn compress(page: &[u8], out: &mut [u8]) -> Option<usize> {
    // The mode "default" is LZ4_compress_default itself; its 16 KiB of state live on the stack.
    lz4::block::compress_to_buffer(page, None, false, out).ok()
}

/// Fills `page` from one block.
pub(super) fn decompress(payload: &[u8], page: &mut [u8]) -> Result<(), DecodeError> {
    let damaged = DecodeError::Damaged {
        algorithm: CompressAlgorithm::Lz4,
        payload_bytes: payload.len(),
    };
    // The library takes lengths as i32 and does not check the payload's.
    let (Ok(_), Ok(page_bytes)) = (i32::try_from(payload.len()), i32::try_from(page.len())) else {
        return Err(damaged);
    };
    let expected_bytes = page.len();
    let found_bytes =
        lz4::block::decompress_to_buffer(payload, Some(page_bytes), page).map_err(|_| damaged)?;
    verify_length(CompressAlgorithm::Lz4, found_bytes, expected_bytes)
}
