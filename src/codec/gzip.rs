//! Gzip files by libdeflate: WAL segments in an archive.

use libdeflater::{DecompressionError, Decompressor};

/// Why a gzip file does not give what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GunzipError {
    /// It breaks the rules of its format, or ends early.
    #[error("the compressed file is damaged or not complete")]
    Damaged,
    /// There is more in it than there may be.
    #[error("there are more than {size_max} bytes in the compressed file")]
    TooLong {
        /// The most that there may be.
        size_max: usize,
    },
}

/// The content of a gzip file, `size_max` bytes at most; that much memory is taken.
///
/// # Errors
/// [`GunzipError`], where it is not one or holds more.
pub fn gunzip(bytes: &[u8], size_max: usize) -> Result<Vec<u8>, GunzipError> {
    let mut out = vec![0; size_max];
    let length = Decompressor::new()
        .gzip_decompress(bytes, &mut out)
        .map_err(|error| match error {
            DecompressionError::BadData => GunzipError::Damaged,
            DecompressionError::InsufficientSpace => GunzipError::TooLong { size_max },
        })?;
    out.truncate(length);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use libdeflater::{CompressionLvl, Compressor};

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut compressor = Compressor::new(CompressionLvl::default());
        let mut out = vec![0; compressor.gzip_compress_bound(bytes.len())];
        let length = compressor.gzip_compress(bytes, &mut out).unwrap();
        out.truncate(length);
        out
    }

    #[test]
    fn what_was_compressed_comes_back_and_no_more_than_allowed() {
        let bytes = [1, 2, 3].repeat(1000);
        let stream = gzip(&bytes);
        assert_eq!(gunzip(&stream, 3000).unwrap(), bytes);
        assert_eq!(gunzip(&stream, 4000).unwrap(), bytes);
        assert_eq!(
            gunzip(&stream, 2999),
            Err(GunzipError::TooLong { size_max: 2999 })
        );
        for length in 0..stream.len() {
            // What is missing reads as something, which may be too long.
            assert!(gunzip(&stream[..length], 3000).is_err(), "{length}");
        }
    }
}
