//! An engine in front of the real one that announces writes and syncs to [`super::fault`] and
//! completes those that are to fail.

use super::{BlockIo, Completion, File, IoError, Request, Waker, fault};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The engine.
#[derive(Debug)]
pub(super) struct FaultyIo {
    inner: Box<dyn BlockIo>,
    /// What failed without reaching the real engine.
    failed: Vec<Completion>,
}

impl FaultyIo {
    pub(super) fn new(inner: Box<dyn BlockIo>) -> FaultyIo {
        FaultyIo {
            inner,
            failed: Vec::new(),
        }
    }
}

/// The error of a request that is to fail, with its file and offset.
fn announce(request: &Request) -> Result<(), IoError> {
    let failed = |file: &Arc<File>, operation, offset, source: io::Error| {
        Err(file.error(operation, offset, source))
    };
    match request {
        Request::Write {
            file,
            offset,
            buffer,
        } => {
            let half = || {
                let data = buffer.data();
                // The process dies next; nobody would hear of an error.
                let _ = file.write_unannounced(&data[..data.len() / 2], *offset);
            };
            fault::write_step(file.path(), half).or_else(|e| failed(file, "write", *offset, e))
        }
        Request::Sync { file } => {
            fault::step("fsync", file.path()).or_else(|e| failed(file, "fsync", 0, e))
        }
        Request::Read { .. } | Request::Writeback { .. } => Ok(()),
    }
}

impl BlockIo for FaultyIo {
    fn submit(&mut self, token: u64, request: Request) {
        let Err(error) = announce(&request) else {
            return self.inner.submit(token, request);
        };
        let buffer = match request {
            Request::Read { buffer, .. } | Request::Write { buffer, .. } => Some(buffer),
            Request::Writeback { .. } | Request::Sync { .. } => None,
        };
        self.failed.push(Completion {
            token,
            result: Err(error),
            buffer,
        });
    }

    fn wait(
        &mut self,
        completions: &mut Vec<Completion>,
        timeout: Option<Duration>,
    ) -> Result<(), IoError> {
        if self.failed.is_empty() {
            return self.inner.wait(completions, timeout);
        }
        completions.append(&mut self.failed);
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight() + self.failed.len()
    }

    fn waker(&self) -> Waker {
        self.inner.waker()
    }

    fn name(&self) -> &'static str {
        self.inner.name()
    }
}
