//! Reading pieces of devices through an engine, many at a time.

use super::DssError;
use super::device::Device;
use crate::io::{
    self, BlockIo, Buffer, BufferPool, Completion, EngineChoice, File, IoError, Request,
};
use crate::limits::{DSS_READ_DEPTH, EXTENT_BYTES_MAX};
use std::sync::Arc;

/// A run of bytes of a device, at most an extent.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) file: Arc<File>,
    pub(super) offset: u64,
    pub(super) length: usize,
}

/// An engine with its buffers.
#[derive(Debug)]
pub(super) struct Reader {
    engine: Box<dyn BlockIo>,
    pool: BufferPool,
    completions: Vec<Completion>,
}

/// What was read, or why not, with the number that it was asked for under.
pub(super) type Done = (u64, Buffer, Result<(), IoError>);

impl Reader {
    /// With room for twice what is in flight, so that the device is busy while results wait.
    pub(super) fn open(choice: EngineChoice) -> Result<Reader, DssError> {
        let pool = BufferPool::new(2 * DSS_READ_DEPTH as usize);
        Ok(Reader {
            engine: io::open(choice, &pool, DSS_READ_DEPTH).map_err(DssError::Io)?,
            pool,
            completions: Vec::new(),
        })
    }

    /// Asks for a piece; `false` where no buffer is free.
    pub(super) fn submit(&mut self, token: u64, piece: &Piece) -> bool {
        assert!(piece.length <= EXTENT_BYTES_MAX);
        let Some(buffer) = self.pool.try_take() else {
            return false;
        };
        let request = Request::Read {
            file: Arc::clone(&piece.file),
            offset: piece.offset,
            length: piece.length,
            buffer,
            memory_offset: 0,
        };
        self.engine.submit(token, request);
        true
    }

    /// What is done by now; waits until that is at least one.
    pub(super) fn wait(&mut self) -> Result<Vec<Done>, DssError> {
        let mut completions = std::mem::take(&mut self.completions);
        self.engine
            .wait(&mut completions, None)
            .map_err(DssError::Io)?;
        let done = completions
            .drain(..)
            .filter_map(|done| Some((done.token, done.buffer?, done.result)))
            .collect();
        self.completions = completions;
        Ok(done)
    }

    /// Requests that are not done.
    pub(super) fn in_flight(&self) -> usize {
        self.engine.in_flight()
    }

    /// Reads all pieces and calls `act` with each, in any order. A device that ends too early is an
    /// error.
    pub(super) fn read_all(
        &mut self,
        pieces: &[Piece],
        mut act: impl FnMut(usize, &[u8]) -> Result<(), DssError>,
    ) -> Result<(), DssError> {
        let mut next = 0;
        let mut failed = None;
        loop {
            while failed.is_none()
                && next < pieces.len()
                && self.in_flight() < DSS_READ_DEPTH as usize
                && self.submit(next as u64, &pieces[next])
            {
                next += 1;
            }
            if self.in_flight() == 0 {
                return failed.map_or(Ok(()), Err);
            }
            for (token, buffer, result) in self.wait()? {
                let number = usize::try_from(token).expect("a number of a piece");
                let result = check(&pieces[number], &buffer, result)
                    .and_then(|()| act(number, buffer.data()));
                if let Err(error) = result {
                    failed.get_or_insert(error);
                }
            }
        }
    }

    /// Reads one run of bytes, of any length that memory is to be spent on.
    pub(super) fn read(
        &mut self,
        device: &Device,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>, DssError> {
        let mut bytes = vec![0; length];
        let pieces: Vec<Piece> = (0..length)
            .step_by(EXTENT_BYTES_MAX)
            .map(|start| Piece {
                file: Arc::clone(&device.file),
                offset: offset + start as u64,
                length: EXTENT_BYTES_MAX.min(length - start),
            })
            .collect();
        self.read_all(&pieces, |number, data| {
            let start = number * EXTENT_BYTES_MAX;
            bytes[start..start + data.len()].copy_from_slice(data);
            Ok(())
        })?;
        Ok(bytes)
    }
}

/// Whether a piece was read, and to its end.
pub(super) fn check(
    piece: &Piece,
    buffer: &Buffer,
    result: Result<(), IoError>,
) -> Result<(), DssError> {
    result.map_err(DssError::Io)?;
    if buffer.data().len() < piece.length {
        return Err(DssError::Io(IoError {
            operation: "read",
            path: piece.file.path().to_owned(),
            offset: piece.offset,
            source: std::io::ErrorKind::UnexpectedEof.into(),
        }));
    }
    Ok(())
}
