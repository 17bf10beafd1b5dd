//! Page compression: one page in, one payload out, and back.
//!
//! A [`Compressor`] and a [`Decompressor`] hold the tables of the algorithms; make one of each a
//! thread. Neither allocates per page, and nothing of one page is seen by the next: equal pages
//! give equal payloads.

mod error;
mod gzip;
mod lz4;
pub mod pglz;
#[cfg(test)]
mod tests;
mod zlib;
mod zstd;

pub use error::DecodeError;
pub use gzip::{GunzipError, gunzip};
pub use zlib::compress_stream;

use crate::types::{CompressAlgorithm, PAGE_SIZE};

/// Turns pages into payloads of one algorithm.
#[derive(Debug)]
pub struct Compressor(Encoder);

#[derive(Debug)]
enum Encoder {
    None,
    Pglz(pglz::Encoder),
    Zlib(zlib::Encoder),
    Lz4,
    Zstd(zstd::Encoder),
}

impl Compressor {
    /// A compressor for `level` 0 to 9, which counts as in zlib and in zstd (where 0 is its
    /// default); pglz and lz4 have no levels.
    #[must_use]
    pub fn new(algorithm: CompressAlgorithm, level: u32) -> Compressor {
        Compressor(match algorithm {
            CompressAlgorithm::None => Encoder::None,
            CompressAlgorithm::Pglz => Encoder::Pglz(pglz::Encoder::new()),
            CompressAlgorithm::Zlib => Encoder::Zlib(zlib::Encoder::new(level)),
            CompressAlgorithm::Lz4 => Encoder::Lz4,
            CompressAlgorithm::Zstd => Encoder::Zstd(zstd::Encoder::new(level)),
        })
    }

    /// Writes the payload of `page` to the head of `out` and returns its length, at least 1 and
    /// less than the page's.
    ///
    /// `None` where the page does not shrink: it is stored as it is, and `out` holds nothing of
    /// use.
    ///
    /// # Panics
    ///
    /// Where `page` is longer than [`PAGE_SIZE`] or than `out`.
    pub fn compress(&mut self, page: &[u8], out: &mut [u8]) -> Option<usize> {
        assert!(page.len() <= PAGE_SIZE && page.len() <= out.len());
        let out = &mut out[..page.len().saturating_sub(1)];
        let payload_bytes = match &mut self.0 {
            Encoder::None => None,
            Encoder::Pglz(encoder) => encoder.compress(page, out),
            Encoder::Zlib(encoder) => encoder.compress(page, out),
            Encoder::Lz4 => lz4::compress(page, out),
            Encoder::Zstd(encoder) => encoder.compress(page, out),
        };
        payload_bytes.filter(|&payload_bytes| payload_bytes > 0)
    }
}

/// Turns payloads of every algorithm back into pages.
#[derive(Debug, Default)]
pub struct Decompressor {
    zlib: zlib::Decoder,
    zstd: zstd::Decoder,
}

impl Decompressor {
    /// A decompressor for all algorithms.
    #[must_use]
    pub fn new() -> Decompressor {
        Decompressor::default()
    }

    /// Fills `page` from `payload`; a payload as long as the page is the page itself, whatever the
    /// algorithm.
    ///
    /// The payload may be anything: it is untrusted. After an error `page` holds garbage.
    ///
    /// # Errors
    ///
    /// Where the payload is no payload of `algorithm`, or does not give exactly as many bytes as
    /// `page` has.
    pub fn decompress(
        &mut self,
        algorithm: CompressAlgorithm,
        payload: &[u8],
        page: &mut [u8],
    ) -> Result<(), DecodeError> {
        if payload.len() == page.len() {
            page.copy_from_slice(payload);
            return Ok(());
        }
        match algorithm {
            CompressAlgorithm::None => {
                Err(error::wrong_length(algorithm, payload.len(), page.len()))
            }
            CompressAlgorithm::Pglz => pglz::decompress(payload, page),
            CompressAlgorithm::Zlib => self.zlib.decompress(payload, page),
            CompressAlgorithm::Lz4 => lz4::decompress(payload, page),
            CompressAlgorithm::Zstd => self.zstd.decompress(payload, page),
        }
    }

    /// Fills `out` from one zlib stream: a page header map, whose size the caller knows.
    ///
    /// # Errors
    ///
    /// Where the payload is no zlib stream, or does not give exactly as many bytes as `out` has.
    pub fn decompress_stream(&mut self, payload: &[u8], out: &mut [u8]) -> Result<(), DecodeError> {
        self.zlib.decompress(payload, out)
    }
}
