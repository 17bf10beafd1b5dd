//! The page header map of a merge's result: streams that stay as they are, and new ones.
//!
//! Shared by the threads of a merge; each stream gets its place when it is appended.

use super::header_map::EncodedHeaders;
use super::{HeaderMapReader, PipelineError};
use crate::format::catalog::HeaderMapRef;
use crate::io::File;
use crate::limits::EXTENT_BYTES_MAX;
use std::sync::Mutex;

/// A page header map that a merge writes.
#[derive(Debug)]
pub struct MergedHeaderMap {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    /// Bytes in the file.
    written: u64,
    /// What follows them.
    pending: Vec<u8>,
}

impl MergedHeaderMap {
    /// Writes to `file`, which is empty.
    #[must_use]
    pub fn new(file: File) -> MergedHeaderMap {
        MergedHeaderMap {
            state: Mutex::new(State {
                file,
                written: 0,
                pending: Vec::new(),
            }),
        }
    }

    /// Appends new headers.
    ///
    /// # Errors
    /// When the map cannot be written.
    ///
    /// # Panics
    /// When another thread panicked while it appended.
    pub fn append(&self, headers: &EncodedHeaders) -> Result<HeaderMapRef, PipelineError> {
        self.push(&headers.stream, headers.count, headers.crc)
    }

    /// Appends headers of another map as they are stored there; their CRC stays as well.
    ///
    /// # Errors
    /// When they cannot be read or the map cannot be written.
    ///
    /// # Panics
    /// When another thread panicked while it appended.
    pub fn copy(
        &self,
        map: &HeaderMapReader,
        reference: &HeaderMapRef,
    ) -> Result<HeaderMapRef, PipelineError> {
        self.push(&map.read_stream(reference)?, reference.count, reference.crc)
    }

    fn push(&self, stream: &[u8], count: u32, crc: u32) -> Result<HeaderMapRef, PipelineError> {
        let mut state = self.state.lock().expect("appending does not panic");
        let pending = u64::try_from(state.pending.len()).expect("a buffer is small");
        let reference = HeaderMapRef {
            count,
            crc,
            offset: state.written + pending,
            size: u32::try_from(stream.len()).expect("bounded by the records of a segment file"),
        };
        state.pending.extend_from_slice(stream);
        if state.pending.len() >= EXTENT_BYTES_MAX {
            state.flush()?;
        }
        Ok(reference)
    }

    /// Writes what is left and makes the map durable. Returns its size.
    ///
    /// # Errors
    /// When it cannot be written or synced.
    ///
    /// # Panics
    /// When a thread panicked while it appended.
    pub fn finish(self) -> Result<u64, PipelineError> {
        let mut state = self.state.into_inner().expect("appending does not panic");
        state.flush()?;
        state.file.sync()?;
        Ok(state.written)
    }
}

impl State {
    fn flush(&mut self) -> Result<(), PipelineError> {
        self.file.write_all_at(&self.pending, self.written)?;
        self.written += u64::try_from(self.pending.len()).expect("a buffer is small");
        self.pending.clear();
        Ok(())
    }
}
