//! What a command adds to the transfer loop: where extents come from, what the CPU does to them,
//! where they go.

use super::PipelineError;
use crate::io::{Buffer, File, IoError};
use std::ops::Range;
use std::sync::Arc;

/// Bytes to read for one extent.
#[derive(Debug)]
pub struct ReadRange {
    /// Where from.
    pub source: Arc<File>,
    /// First byte.
    pub offset: u64,
    /// Bytes; at most an encoded extent.
    pub length: usize,
    /// What of these is read, in ascending order, each beginning at a multiple of
    /// [`DIRECT_IO_ALIGNMENT`](crate::limits::DIRECT_IO_ALIGNMENT); empty means everything. It lies
    /// in the buffer where it would with everything read; what is between has no meaning.
    pub parts: Vec<Range<usize>>,
    /// Whether the CPU stage needs a second buffer for what it makes.
    pub needs_output: bool,
}

/// What the CPU stage says of an extent.
#[derive(Debug)]
pub enum Processed<D> {
    /// It is done; `D` goes to [`Kind::collect`].
    Done(D),
    /// These ranges of the input, in ascending order, must be read again, after a pause, and the
    /// extent be processed again. If the file ends earlier by then, the input does, too.
    Reread(Vec<Range<usize>>),
    /// These ranges, at least one, are needed as well, like [`ReadRange::parts`]; then the extent
    /// is processed again. If the file ends in one of them, the input does, too, and the ranges
    /// behind are not read.
    Fetch(Vec<Range<usize>>),
}

/// Runs of one buffer to write, each to its own offset.
#[derive(Debug)]
pub struct Write {
    /// Where to.
    pub file: Arc<File>,
    /// Holds the bytes.
    pub buffer: Buffer,
    /// Offset in the file and range in the buffer, at least one.
    pub runs: Vec<(u64, Range<usize>)>,
}

/// One use of the transfer loop. Shared by all threads; per-file state lives in [`Kind::File`].
pub trait Kind: Sync {
    /// What the plan says of a file, before it is opened.
    type Item: Send;
    /// An opened file on its way.
    type File: Send;
    /// What the CPU stage must know of an extent.
    type Extent: Send;
    /// What the CPU stage found out.
    type Done: Send;

    /// Opens a file's ends; `None` when there is nothing to move. May block; runs on a thread of
    /// its own.
    fn open(&self, item: Self::Item) -> Result<Option<Self::File>, PipelineError>;

    /// Memory that an opened file holds until it is completed, in bytes, where that grows with the
    /// file: bounds how many are opened ahead.
    fn held_bytes(&self, _file: &Self::File) -> usize {
        0
    }

    /// The next extent of the file, in order; `None` after the last.
    fn next_extent(&self, file: &mut Self::File) -> Option<(ReadRange, Self::Extent)>;

    /// CPU work on one extent; `attempt` counts re-reads from 0. Must not block.
    fn process(
        &self,
        extent: &mut Self::Extent,
        attempt: u32,
        input: &mut Buffer,
        output: Option<&mut Buffer>,
    ) -> Result<Processed<Self::Done>, PipelineError>;

    /// Takes an extent's result, in the order of extents, and says what to write.
    fn collect(
        &self,
        file: &mut Self::File,
        done: Self::Done,
        input: Buffer,
        output: Option<Buffer>,
    ) -> Result<Option<Write>, PipelineError>;

    /// Decides about an extent that cannot be read: an error ends the run, otherwise the extent
    /// counts as done.
    fn read_failed(&self, _file: &mut Self::File, error: IoError) -> Result<(), PipelineError> {
        Err(PipelineError::Io(error))
    }

    /// CPU work after the last extent was collected, off the loop's thread.
    fn complete(&self, file: &mut Self::File) -> Result<(), PipelineError>;

    /// Last writes after all others are done, on the loop's thread; returns the file to make
    /// durable, if any.
    fn seal(&self, file: &mut Self::File) -> Result<Option<Arc<File>>, PipelineError>;

    /// The file is done and, if [`Kind::seal`] named one, durable.
    fn finish(&self, file: Self::File) -> Result<(), PipelineError>;
}
