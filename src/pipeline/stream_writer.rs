//! Turns a file's ordered stream of arbitrarily long pieces into writes that direct I/O accepts.
//!
//! Every write starts at an aligned offset and, in direct mode, ends at one: what is left over,
//! less than one alignment, is carried in front of the next piece. The last carry is the file's
//! tail and goes through the page cache.

use super::{PipelineError, Write};
use crate::io::{Buffer, File};
use crate::limits::DIRECT_IO_ALIGNMENT;
use std::sync::Arc;

/// Gives a file for direct I/O its size before it is written; returns that size, 0 for others.
///
/// A write that makes a file longer holds the inode's lock alone, so parallel ones spend their time
/// waiting for it: half of the CPU of an uncompressed backup before this was done.
pub(crate) fn presize(file: &File, bytes: u64) -> Result<u64, PipelineError> {
    if !file.is_direct() {
        return Ok(0);
    }
    file.set_len(bytes)?;
    Ok(bytes)
}

/// Where a stream goes and how much of it is there.
#[derive(Debug)]
pub(crate) struct StreamWriter {
    file: Arc<File>,
    /// Bytes that the file was given when it was opened.
    presized: u64,
    /// Bytes of the stream so far, carried ones included.
    position: u64,
    carry: Vec<u8>,
}

impl StreamWriter {
    /// Writes to `file`, which is empty; the stream will have at most `bytes_max` bytes, or little
    /// more.
    pub(crate) fn new(file: Arc<File>, bytes_max: u64) -> Result<StreamWriter, PipelineError> {
        let presized = presize(&file, bytes_max)?;
        Ok(StreamWriter {
            file,
            presized,
            position: 0,
            carry: Vec::new(),
        })
    }

    /// As if so many bytes had been written.
    #[cfg(test)]
    pub(crate) fn at(mut self, position: u64) -> StreamWriter {
        self.position = position;
        self
    }

    /// Bytes of the stream so far.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Appends the buffer's data. Returns the write to do now, or `None` while too little has
    /// gathered.
    pub(crate) fn append(&mut self, mut buffer: Buffer) -> Option<Write> {
        let carried = self.carry.len();
        let length = buffer.range().len();
        if !self.file.is_direct() {
            let offset = self.position;
            self.position += bytes(length);
            let range = buffer.range();
            let runs = vec![(offset, range)];
            return (length > 0).then(|| Write {
                file: self.file.clone(),
                buffer,
                runs,
            });
        }
        let offset = self.position - bytes(carried);
        self.position += bytes(length);
        let start = self.make_room(&mut buffer);
        buffer.whole_mut()[start..start + carried].copy_from_slice(&self.carry);
        let total = carried + length;
        let aligned = total - total % DIRECT_IO_ALIGNMENT;
        self.carry.clear();
        self.carry
            .extend_from_slice(&buffer.whole()[start + aligned..start + total]);
        let runs = vec![(offset, start..start + aligned)];
        (aligned > 0).then(|| Write {
            file: self.file.clone(),
            buffer,
            runs,
        })
    }

    /// Makes the buffer's data begin just behind an aligned place plus the carry; returns that
    /// place.
    fn make_room(&self, buffer: &mut Buffer) -> usize {
        let carried = self.carry.len();
        let range = buffer.range();
        if range.start >= carried && (range.start - carried).is_multiple_of(DIRECT_IO_ALIGNMENT) {
            return range.start - carried;
        }
        buffer.whole_mut().copy_within(range, carried);
        0
    }

    /// Writes the tail; the stream's length is then the file's.
    pub(crate) fn finish(&mut self) -> Result<(), PipelineError> {
        if !self.carry.is_empty() {
            self.file
                .write_all_at(&self.carry, self.position - bytes(self.carry.len()))?;
            self.carry.clear();
        }
        if self.presized > 0 && self.presized != self.position {
            self.file.set_len(self.position)?;
        }
        Ok(())
    }

    pub(crate) fn file(&self) -> &Arc<File> {
        &self.file
    }
}

fn bytes(length: usize) -> u64 {
    u64::try_from(length).expect("a usize fits on every supported platform")
}
