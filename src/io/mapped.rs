//! An engine in front of the real one that carries out requests on mapped files, piece by piece,
//! and passes all others on as they are.
//!
//! 1. A request on a mapped file becomes one request after the other on the files that its bytes
//!    lie in, each with the same buffer. There is never more than one at a time.
//! 2. What lies nowhere or can only be asked for is dealt with at once, in the owner's thread.
//! 3. The bytes of a read are put where a direct read would put them: as far behind an aligned
//!    position as the offset is, so that pieces behind the first are aligned in memory as well.
//! 4. Pieces carry tokens with a bit set that no owner uses.

use super::mapping::{self, Place};
use super::{BlockIo, Buffer, Completion, File, IoError, Request, Waker};
use crate::limits::{DIRECT_IO_ALIGNMENT, EXTENT_BYTES_MAX};
use std::io::ErrorKind;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Set in the tokens of pieces.
const PIECE: u64 = 1 << 63;

/// The engine.
#[derive(Debug)]
pub(super) struct MappedIo {
    inner: Box<dyn BlockIo>,
    /// Requests of which a piece is with the real engine, by their place, which is its token.
    active: Vec<Option<Active>>,
    /// Places without one.
    free: Vec<usize>,
    /// What ended and was not told yet.
    ended: Vec<Completion>,
    /// Somebody used a waker. The real engine forgets that when it returns pieces, of which the
    /// owner is told nothing.
    woken: Arc<AtomicBool>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Direction {
    Read,
    Write,
}

/// A request on a mapped file.
#[derive(Debug)]
struct Active {
    token: u64,
    direction: Direction,
    file: Arc<File>,
    /// Position in the file of the next byte.
    at: u64,
    /// Position in the buffer of the next byte.
    memory: usize,
    /// The buffer's data once everything is done.
    data: Range<usize>,
    /// Bytes of the piece that is with the real engine.
    piece: usize,
}

impl MappedIo {
    pub(super) fn new(inner: Box<dyn BlockIo>) -> MappedIo {
        MappedIo {
            inner,
            active: Vec::new(),
            free: Vec::new(),
            ended: Vec::new(),
            woken: Arc::default(),
        }
    }

    /// Takes a request on a mapped file.
    fn begin(&mut self, token: u64, request: Request) {
        let (direction, file, at, data, buffer) = match request {
            Request::Read {
                file,
                offset,
                length,
                buffer,
                memory_offset,
            } => {
                let head = offset % DIRECT_IO_ALIGNMENT as u64;
                let start = memory_offset + usize::try_from(head).expect("below the alignment");
                let data = start..start + length;
                (Direction::Read, file, offset, data, buffer)
            }
            Request::Write {
                file,
                offset,
                buffer,
            } => (Direction::Write, file, offset, buffer.range(), buffer),
            Request::Sync { file } => return self.end(token, file.sync(), None),
            // Bytes of a device are on their way already.
            Request::Writeback { .. } => return self.end(token, Ok(()), None),
        };
        let active = Active {
            token,
            direction,
            file,
            at,
            memory: data.start,
            data,
            piece: 0,
        };
        self.go_on(active, buffer);
    }

    /// Carries a request on until a piece is with the real engine, or it is done.
    fn go_on(&mut self, mut active: Active, mut buffer: Buffer) {
        match active.advance(&mut buffer) {
            Ok(Some((device, offset, length))) => {
                active.piece = length;
                self.submit_piece(active, buffer, device, offset);
            }
            Ok(None) => self.finish(active, buffer, Ok(())),
            Err(error) => self.finish(active, buffer, Err(error)),
        }
    }

    fn submit_piece(&mut self, active: Active, mut buffer: Buffer, device: Arc<File>, offset: u64) {
        let request = match active.direction {
            Direction::Read => Request::Read {
                file: device,
                offset,
                length: active.piece,
                buffer,
                memory_offset: active.memory,
            },
            Direction::Write => {
                buffer.set_range(active.memory..active.memory + active.piece);
                Request::Write {
                    file: device,
                    offset,
                    buffer,
                }
            }
        };
        let place = self.free.pop().unwrap_or_else(|| {
            self.active.push(None);
            self.active.len() - 1
        });
        self.active[place] = Some(active);
        self.inner.submit(PIECE | place as u64, request);
    }

    /// Takes what the real engine says of a piece.
    fn piece_done(&mut self, completion: Completion) {
        let place = usize::try_from(completion.token & !PIECE).expect("made from a usize");
        let mut active = self.active[place].take().expect("its piece was submitted");
        self.free.push(place);
        let buffer = completion.buffer.expect("a piece has the buffer");
        let file = &active.file;
        let result = completion
            .result
            .map_err(|error| mapping::on_device(file, active.at, error))
            .and_then(|()| active.check(&buffer));
        if let Err(error) = result {
            return self.finish(active, buffer, Err(error));
        }
        active.at += active.piece as u64;
        active.memory += active.piece;
        self.go_on(active, buffer);
    }

    fn finish(&mut self, active: Active, mut buffer: Buffer, result: Result<(), IoError>) {
        let data = match active.direction {
            Direction::Read => active.data.start..active.memory,
            Direction::Write => active.data,
        };
        buffer.set_range(data);
        self.end(active.token, result, Some(buffer));
    }

    fn end(&mut self, token: u64, result: Result<(), IoError>, buffer: Option<Buffer>) {
        self.ended.push(Completion {
            token,
            result,
            buffer,
        });
    }

    /// Sorts the completions from `start` on: pieces stay here.
    fn sort(&mut self, completions: &mut Vec<Completion>, start: usize) {
        if self.free.len() == self.active.len() {
            return;
        }
        let mut index = start;
        while index < completions.len() {
            if completions[index].token & PIECE == 0 {
                index += 1;
                continue;
            }
            let piece = completions.swap_remove(index);
            self.piece_done(piece);
        }
    }
}

impl Active {
    /// Moves what needs no engine; says where the next piece is that does, and how long it is.
    /// `None` at the end.
    fn advance(&mut self, buffer: &mut Buffer) -> Result<Option<(Arc<File>, u64, usize)>, IoError> {
        let file = Arc::clone(&self.file);
        let mapping = file.mapping().expect("only mapped files are dealt with");
        while self.memory < self.data.end {
            let left = (self.data.end - self.memory).min(EXTENT_BYTES_MAX);
            let place = match self.direction {
                Direction::Read => {
                    let place = mapping::place_to_read(&file, mapping, self.at, left as u64)?;
                    let Some(place) = place else { return Ok(None) };
                    place
                }
                Direction::Write => mapping::place_to_write(&file, mapping, self.at, left as u64)?,
            };
            if let Place::Device {
                file: device,
                offset,
                length,
            } = &place
                && self.is_for_engine(*offset)
            {
                let length = usize::try_from(*length).expect("at most what was asked for");
                return Ok(Some((Arc::clone(device), *offset, length)));
            }
            let memory = self.memory..self.memory + left;
            let moved = match self.direction {
                Direction::Read => {
                    let bytes = &mut buffer.whole_mut()[memory];
                    mapping::read_place(&file, mapping, &place, bytes, self.at)?
                }
                Direction::Write => {
                    let bytes = &buffer.whole()[memory];
                    mapping::write_place(&file, mapping, &place, bytes, self.at)?
                }
            };
            self.at += moved as u64;
            self.memory += moved;
        }
        Ok(None)
    }

    /// Whether the next bytes, at this place of a device, can be moved by an engine without moving
    /// any in front of them.
    fn is_for_engine(&self, offset: u64) -> bool {
        let alignment = DIRECT_IO_ALIGNMENT as u64;
        self.direction == Direction::Write
            || (offset.is_multiple_of(alignment) && (self.memory as u64).is_multiple_of(alignment))
    }

    /// Whether a piece that succeeded is whole.
    fn check(&self, buffer: &Buffer) -> Result<(), IoError> {
        match self.direction {
            Direction::Read if buffer.data().len() < self.piece => {
                Err(self.file.error("read", self.at, ErrorKind::UnexpectedEof))
            }
            Direction::Read => Ok(()),
            Direction::Write => {
                let mapping = self
                    .file
                    .mapping()
                    .expect("only mapped files are dealt with");
                let told = mapping.written(self.at, self.piece as u64);
                told.map_err(|e| self.file.error("write", self.at, e))
            }
        }
    }
}

impl BlockIo for MappedIo {
    fn submit(&mut self, token: u64, request: Request) {
        assert_eq!(token & PIECE, 0, "the token of a piece");
        if request.file().mapping().is_none() {
            return self.inner.submit(token, request);
        }
        self.begin(token, request);
    }

    fn wait(
        &mut self,
        completions: &mut Vec<Completion>,
        timeout: Option<Duration>,
    ) -> Result<(), IoError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut timeout = timeout;
        loop {
            if !self.ended.is_empty() {
                completions.append(&mut self.ended);
                return Ok(());
            }
            let start = completions.len();
            self.inner.wait(completions, timeout)?;
            // Nothing came: somebody woke the owner, or time is up.
            let is_empty = completions.len() == start;
            self.sort(completions, start);
            let is_woken = self.woken.swap(false, Ordering::AcqRel);
            if is_empty || is_woken || completions.len() > start {
                completions.append(&mut self.ended);
                return Ok(());
            }
            timeout = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        }
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight() + self.ended.len()
    }

    fn waker(&self) -> Waker {
        let (woken, inner) = (Arc::clone(&self.woken), self.inner.waker());
        Waker(Arc::new(move || {
            woken.store(true, Ordering::Release);
            inner.wake();
        }))
    }

    fn name(&self) -> &'static str {
        self.inner.name()
    }
}
