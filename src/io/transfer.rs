//! How a request is carried out, whatever the engine: which system call comes next, and what its
//! result means.
//!
//! A [`Transfer`] is a state machine without I/O of its own. An engine asks for the next [`Step`],
//! performs it, and feeds the result to [`Transfer::advance`], until that says the request is done.
//! In here, and nowhere else:
//!
//! 1. Short reads and writes go on where they stopped. A read is at its end of file when a step
//!    brings nothing new.
//! 2. Interrupted calls are repeated.
//! 3. A read of a direct file is widened to [`DIRECT_IO_ALIGNMENT`], and the data narrowed to what
//!    was asked. A write goes past the page cache only while everything about it is aligned. A file
//!    system that refuses direct requests gets buffered ones.
//! 4. A read that fails for the medium's sake is cut in halves until the first failing page is
//!    known. Example: 1 MiB at 0 with page 5 unreadable: 512 KiB, 256, 128, 64, 32 fail; 16 KiB at
//!    0 succeed; 16 KiB at 16384 and 8 KiB fail; 4 KiB at 16384 succeed, 4 KiB at 20480 fail: the
//!    error names 20480.

use super::{Buffer, Completion, File, IoError, Request};
use crate::limits::{BUFFER_BYTES, DIRECT_IO_ALIGNMENT, EXTENT_ENCODED_BYTES_MAX, IO_REPEATS_MAX};
use rustix::io::Errno;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// One system call to make.
#[derive(Debug)]
pub(super) enum Step<'a> {
    /// Read into this part of the buffer.
    Read {
        fd: BorrowedFd<'a>,
        offset: u64,
        memory: Range<usize>,
    },
    /// Write this part of the buffer.
    Write {
        fd: BorrowedFd<'a>,
        offset: u64,
        memory: Range<usize>,
    },
    /// Start write-back of this range; a length of 0 means up to the end.
    Writeback {
        fd: BorrowedFd<'a>,
        offset: u64,
        length: u32,
    },
    /// Sync the file.
    Sync { fd: BorrowedFd<'a> },
}

/// What became of the request after a step.
#[derive(Debug)]
pub(super) enum Progress {
    /// Another step is to be made.
    Again,
    /// The request is done.
    Done(Result<(), IoError>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Read,
    Write,
    Writeback,
    Sync,
}

/// A request on its way.
#[derive(Debug)]
pub(super) struct Transfer {
    token: u64,
    kind: Kind,
    file: Arc<File>,
    buffer: Option<Buffer>,
    /// File position of the first byte to move.
    start: u64,
    /// Buffer position of the same byte.
    base: usize,
    /// Bytes moved in front of those that were asked for.
    head: usize,
    /// Bytes from `start` that must be moved for the request to be complete.
    need: usize,
    /// Bytes moved so far, from `start` on, without a gap.
    done: usize,
    /// Bytes of a step at most; smaller than the request only while the failing page is searched.
    step_bytes_max: usize,
    /// Whether steps go past the page cache.
    direct: bool,
    repeats: u32,
    /// Length of a write-back.
    length: u64,
}

impl Transfer {
    pub(super) fn new(token: u64, request: Request) -> Transfer {
        match request {
            Request::Read {
                file,
                offset,
                length,
                buffer,
                memory_offset,
            } => {
                let read = Transfer::read(token, file, offset, length, buffer);
                read.into_memory(memory_offset)
            }
            Request::Write {
                file,
                offset,
                buffer,
            } => Transfer::write(token, file, offset, buffer),
            Request::Writeback {
                file,
                offset,
                length,
            } => Transfer {
                start: offset,
                length,
                ..Transfer::bare(token, Kind::Writeback, file)
            },
            Request::Sync { file } => Transfer::bare(token, Kind::Sync, file),
        }
    }

    fn bare(token: u64, kind: Kind, file: Arc<File>) -> Transfer {
        Transfer {
            token,
            kind,
            file,
            buffer: None,
            start: 0,
            base: 0,
            head: 0,
            need: 0,
            done: 0,
            step_bytes_max: BUFFER_BYTES,
            direct: false,
            repeats: 0,
            length: 0,
        }
    }

    fn read(token: u64, file: Arc<File>, offset: u64, length: usize, buffer: Buffer) -> Transfer {
        assert!(
            length <= EXTENT_ENCODED_BYTES_MAX,
            "a read of {length} bytes is more than an extent"
        );
        let direct = file.is_direct();
        let head = if direct { misalignment(offset) } else { 0 };
        Transfer {
            buffer: Some(buffer),
            start: offset - head as u64,
            head,
            need: if length == 0 { 0 } else { head + length },
            direct,
            ..Transfer::bare(token, Kind::Read, file)
        }
    }

    fn into_memory(self, base: usize) -> Transfer {
        assert!(
            base.is_multiple_of(DIRECT_IO_ALIGNMENT),
            "a read to byte {base} of a buffer cannot go past the page cache"
        );
        Transfer { base, ..self }
    }

    fn write(token: u64, file: Arc<File>, offset: u64, buffer: Buffer) -> Transfer {
        let Range { start: base, end } = buffer.range();
        let aligned = misalignment(offset) == 0
            && base.is_multiple_of(DIRECT_IO_ALIGNMENT)
            && (end - base).is_multiple_of(DIRECT_IO_ALIGNMENT);
        Transfer {
            buffer: Some(buffer),
            start: offset,
            base,
            need: end - base,
            direct: aligned && file.is_direct(),
            ..Transfer::bare(token, Kind::Write, file)
        }
    }

    /// The step to be made next and the buffer for it; none when there is nothing to do.
    pub(super) fn step(&mut self) -> Option<(Step<'_>, Option<&mut Buffer>)> {
        match self.kind {
            Kind::Read | Kind::Write if self.need == 0 => None,
            Kind::Writeback if self.length == 0 => None,
            Kind::Read | Kind::Write => {
                let (from, to) = self.bounds();
                let memory = self.base + from..self.base + to;
                let offset = self.position(from);
                let direct_fd = self.file.direct_fd().filter(|_| self.direct);
                let fd = direct_fd.unwrap_or_else(|| self.file.buffered_fd());
                let step = if self.kind == Kind::Read {
                    Step::Read { fd, offset, memory }
                } else {
                    Step::Write { fd, offset, memory }
                };
                Some((step, self.buffer.as_mut()))
            }
            Kind::Writeback => {
                let step = Step::Writeback {
                    fd: self.file.buffered_fd(),
                    offset: self.start,
                    length: u32::try_from(self.length).unwrap_or(0),
                };
                Some((step, None))
            }
            Kind::Sync => {
                let fd = self.file.buffered_fd();
                Some((Step::Sync { fd }, None))
            }
        }
    }

    /// Takes the result of the step that [`Transfer::step`] named: bytes moved, or why not.
    pub(super) fn advance(&mut self, result: Result<usize, Errno>) -> Progress {
        match (self.kind, result) {
            (Kind::Read, Ok(moved)) => self.has_read(moved),
            (Kind::Write, Ok(moved)) => self.has_written(moved),
            (Kind::Writeback, _) | (Kind::Sync, Ok(_)) => Progress::Done(Ok(())),
            (_, Err(errno)) => self.has_failed(errno),
        }
    }

    /// The completion of the request; a read buffer's data become what was read.
    pub(super) fn complete(mut self, result: Result<(), IoError>) -> Completion {
        if self.kind == Kind::Read {
            let end = self.done.min(self.need).max(self.head);
            let data = self.base + self.head..self.base + end;
            if let Some(buffer) = &mut self.buffer {
                buffer.set_range(data);
            }
        }
        Completion {
            token: self.token,
            result,
            buffer: self.buffer,
        }
    }

    /// The next step's bytes, counted from `start`.
    fn bounds(&self) -> (usize, usize) {
        let from = self.done;
        let whole = if self.direct {
            self.need.next_multiple_of(DIRECT_IO_ALIGNMENT)
        } else {
            self.need
        };
        if self.step_bytes_max == BUFFER_BYTES {
            return (from, whole);
        }
        // Pieces end at page boundaries of the file, so that the smallest lies within one page.
        let to = from + self.step_bytes_max;
        (from, whole.min(to - misalignment(self.position(to))))
    }

    /// The file position of the byte `from` bytes after the first.
    fn position(&self, from: usize) -> u64 {
        // Positions that do not exist are for the kernel to refuse; but a ring takes the largest
        // number for "where the last request ended".
        self.start
            .saturating_add(from as u64)
            .min(i64::MAX.unsigned_abs())
    }

    fn has_read(&mut self, moved: usize) -> Progress {
        let at_end = moved == 0;
        self.go_on(moved, at_end)
    }

    fn has_written(&mut self, moved: usize) -> Progress {
        if moved == 0 {
            let source = std::io::Error::from(std::io::ErrorKind::WriteZero);
            return Progress::Done(Err(self.error(source)));
        }
        self.go_on(moved, false)
    }

    fn go_on(&mut self, moved: usize, at_end: bool) -> Progress {
        self.done += moved;
        if at_end || self.done >= self.need {
            return Progress::Done(Ok(()));
        }
        if !self.done.is_multiple_of(DIRECT_IO_ALIGNMENT) {
            // Where a direct read stops amid a page the file most likely ends; the page cache knows
            // for certain.
            self.direct = false;
        }
        Progress::Again
    }

    fn has_failed(&mut self, errno: Errno) -> Progress {
        if matches!(errno, Errno::INTR | Errno::AGAIN) && self.repeats < IO_REPEATS_MAX {
            self.repeats += 1;
            return Progress::Again;
        }
        if errno == Errno::INVAL && self.direct {
            self.file.refuse_direct();
            self.direct = false;
            return Progress::Again;
        }
        if self.kind == Kind::Read && is_medium_error(errno) {
            let (from, to) = self.bounds();
            if misalignment(self.position(from)) + (to - from) > DIRECT_IO_ALIGNMENT {
                let half = (to - from).div_ceil(2);
                self.step_bytes_max = half.next_multiple_of(DIRECT_IO_ALIGNMENT);
                return Progress::Again;
            }
        }
        Progress::Done(Err(self.error(errno.into())))
    }

    /// The error at the first byte of the step that failed, but not before what was asked for.
    fn error(&self, source: std::io::Error) -> IoError {
        let operation = match self.kind {
            Kind::Read => "read",
            Kind::Write => "write",
            Kind::Writeback => "write back",
            Kind::Sync => "fsync",
        };
        let (from, _) = match self.kind {
            Kind::Read | Kind::Write => self.bounds(),
            Kind::Writeback | Kind::Sync => (0, 0),
        };
        let offset = self.position(from.max(self.head));
        self.file.error(operation, offset, source)
    }
}

/// Bytes past the last aligned position.
fn misalignment(offset: u64) -> usize {
    usize::try_from(offset % DIRECT_IO_ALIGNMENT as u64).expect("a remainder is below its divisor")
}

/// Whether a part of the range may still be readable: what disks, and file systems with checksums,
/// report.
fn is_medium_error(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::IO | Errno::BADMSG | Errno::UCLEAN | Errno::ILSEQ | Errno::NODATA | Errno::REMOTEIO
    )
}

#[cfg(test)]
#[path = "transfer_tests.rs"]
mod tests;
