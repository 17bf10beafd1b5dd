//! The page header map of a backup: one zlib stream a data file, appended while the backup runs,
//! read by range afterwards.
//!
//! The map is written in the order in which files are completed; each content entry says where its
//! stream is.

use super::PipelineError;
use crate::codec::{self, Decompressor};
use crate::format::catalog::{
    HeaderMapRef, HeaderRecords, PageHeaderRecord, encode_header_records, parse_header_records,
};
use crate::io::File;
use crate::limits::{HEADER_RECORD_BYTES, HEADER_STREAM_BYTES_MAX};
use crate::storage::Storage;
use crate::types::{Location, RELSEG_SIZE};
use std::path::Path;
use std::sync::Mutex;

/// A data file's headers, compressed and not yet in the map.
#[derive(Debug)]
pub struct EncodedHeaders {
    pub(super) stream: Vec<u8>,
    pub(super) count: u32,
    pub(super) crc: u32,
}

impl EncodedHeaders {
    /// Compresses the headers of a data file of `file_bytes` bytes. CPU work only.
    ///
    /// # Panics
    /// With more records than a segment file has blocks.
    #[must_use]
    pub fn new(records: &[PageHeaderRecord], file_bytes: u32) -> EncodedHeaders {
        let bytes = encode_header_records(records, file_bytes);
        EncodedHeaders {
            stream: codec::compress_stream(&bytes),
            count: u32::try_from(records.len()).expect("a segment file has 131072 blocks"),
            crc: crc32c::crc32c(&bytes),
        }
    }
}

/// A page header map that is being written.
#[derive(Debug)]
pub struct HeaderMapFile {
    file: File,
    end: Mutex<u64>,
}

impl HeaderMapFile {
    /// Writes to `file`, which is empty.
    #[must_use]
    pub fn new(file: File) -> HeaderMapFile {
        HeaderMapFile {
            file,
            end: Mutex::new(0),
        }
    }

    /// Appends a data file's headers and returns where they are.
    ///
    /// # Errors
    /// When the map cannot be written.
    ///
    /// # Panics
    /// When another thread panicked while it appended.
    pub fn append(&self, headers: &EncodedHeaders) -> Result<HeaderMapRef, PipelineError> {
        let mut end = self.end.lock().expect("appending does not panic");
        self.file.write_all_at(&headers.stream, *end)?;
        let size = headers.stream.len();
        let reference = HeaderMapRef {
            count: headers.count,
            crc: headers.crc,
            offset: *end,
            size: u32::try_from(size).expect("bounded by the records of a segment file"),
        };
        *end += u64::from(reference.size);
        Ok(reference)
    }

    /// Makes the map durable.
    ///
    /// # Errors
    /// When it cannot be synced.
    pub fn sync(&self) -> Result<(), PipelineError> {
        Ok(self.file.sync()?)
    }
}

/// A page header map that is being read.
#[derive(Debug)]
pub struct HeaderMapReader {
    file: File,
    path: String,
}

impl HeaderMapReader {
    /// Opens the map `path` of a backup.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(storage: &dyn Storage, path: &Path) -> Result<HeaderMapReader, PipelineError> {
        let file = storage.open_read(path, false)?;
        let path = storage.display_path(path).display().to_string();
        Ok(HeaderMapReader { file, path })
    }

    /// The headers of one data file as they are stored, unchecked.
    ///
    /// # Errors
    /// When the range is outside the map or larger than the headers of a segment file can be.
    pub fn read_stream(&self, reference: &HeaderMapRef) -> Result<Vec<u8>, PipelineError> {
        let mut stream = vec![0; self.stream_size(reference)?];
        self.file.read_exact_at(&mut stream, reference.offset)?;
        Ok(stream)
    }

    fn damaged(&self, reference: &HeaderMapRef, detail: &str) -> PipelineError {
        PipelineError::DamagedBackup {
            location: Location::file(self.path.clone()),
            detail: format!("at offset {}: {detail}", reference.offset),
        }
    }

    /// Bytes of a stream, bounded.
    fn stream_size(&self, reference: &HeaderMapRef) -> Result<usize, PipelineError> {
        if reference.count > RELSEG_SIZE || reference.size > HEADER_STREAM_BYTES_MAX {
            let detail = format!(
                "{} headers in {} bytes are more than a segment file can have",
                reference.count, reference.size
            );
            return Err(self.damaged(reference, &detail));
        }
        Ok(usize::try_from(reference.size).expect("bounded just above"))
    }

    /// The headers of one data file, checked against their CRC.
    ///
    /// # Errors
    /// When the range is outside the map or its content is not what `reference` says.
    ///
    /// # Panics
    /// Never: sizes are checked before they are used.
    pub fn read(&self, reference: &HeaderMapRef) -> Result<HeaderRecords, PipelineError> {
        let damaged = |detail: String| self.damaged(reference, &detail);
        let stream = self.read_stream(reference)?;
        let count = usize::try_from(reference.count).expect("bounded just above");
        let mut bytes = vec![0; (count + 1) * HEADER_RECORD_BYTES];
        Decompressor::new()
            .decompress_stream(&stream, &mut bytes)
            .map_err(|error| damaged(error.to_string()))?;
        let crc = crc32c::crc32c(&bytes);
        if crc != reference.crc {
            return Err(damaged(format!(
                "header map crc mismatch, current: {crc}, expected: {}",
                reference.crc
            )));
        }
        parse_header_records(&bytes, reference.count).map_err(|error| damaged(error.to_string()))
    }
}
