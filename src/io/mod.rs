//! Moving bytes between files and pooled buffers: one trait, an io_uring engine and a pread/pwrite
//! engine.
//!
//! Invariants:
//!
//! * A buffer belongs to the engine from [`BlockIo::submit`] until its [`Completion`]; in between
//!   nobody else can touch it, because the request took it by value.
//! * A completed read holds all requested bytes, or fewer only where the file ends. Short reads and
//!   writes, interrupted and refused calls are dealt with in here.
//! * The bytes of a [`File`] may lie in others ([`Mapping`]); nobody else need know.
//! * Dropping an engine waits for what is in flight.
//! * All `unsafe` code of the program is in `ring.rs`, `buffer.rs` and `dss_library.rs` of this
//!   folder.

mod buffer;
#[cfg(test)]
mod conformance;
mod dss_error;
mod dss_library;
mod error;
pub mod fault;
mod faulty;
mod file;
mod mapped;
#[cfg(test)]
mod mapped_tests;
mod mapping;
mod ring;
mod sync;
mod transfer;

pub use buffer::{Buffer, BufferPool};
pub use dss_error::{DssCallError, DssLibraryError};
pub use dss_library::{DssHandle, DssItem, DssItemKind, DssLibrary};
pub use error::IoError;
pub use file::File;
pub use mapping::{Mapping, Place};

use rustix::io::Errno;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Once};
use std::time::Duration;

/// What an engine can be asked to do.
#[derive(Debug)]
pub enum Request {
    /// Reads up to `length` bytes at `offset`. The completed buffer's data are those bytes; fewer
    /// at the end of the file. `length` is at most [`crate::limits::EXTENT_ENCODED_BYTES_MAX`]. Any
    /// offset and length are allowed: for a file opened for direct I/O the engine widens the range
    /// to the alignment and narrows the buffer's data again.
    Read {
        /// Where from.
        file: Arc<File>,
        /// First byte of the file to read.
        offset: u64,
        /// Bytes wanted.
        length: usize,
        /// Where to; its former data are lost.
        buffer: Buffer,
        /// Where in the buffer the bytes go, a multiple of
        /// [`crate::limits::DIRECT_IO_ALIGNMENT`]. Bytes in front keep their value.
        memory_offset: usize,
    },
    /// Writes the buffer's data at `offset`. Goes past the page cache only where the file was
    /// opened for direct I/O and offset, length and address are all aligned; otherwise through the
    /// page cache of the same file.
    Write {
        /// Where to.
        file: Arc<File>,
        /// First byte of the file to write.
        offset: u64,
        /// The bytes; comes back unchanged.
        buffer: Buffer,
    },
    /// Starts writing a range of the page cache to the device without waiting for it; a hint whose
    /// failure is ignored.
    Writeback {
        /// The file.
        file: Arc<File>,
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// Makes the file's content and size durable (fsync).
    Sync {
        /// The file.
        file: Arc<File>,
    },
}

impl Request {
    fn file(&self) -> &File {
        match self {
            Request::Read { file, .. }
            | Request::Write { file, .. }
            | Request::Writeback { file, .. }
            | Request::Sync { file } => file,
        }
    }
}

/// A request that is done.
#[derive(Debug)]
pub struct Completion {
    /// The number given at [`BlockIo::submit`].
    pub token: u64,
    /// How it went; the error names file and offset.
    pub result: Result<(), IoError>,
    /// The request's buffer, if it had one, also after a failure.
    pub buffer: Option<Buffer>,
}

/// An engine that carries out requests, in any order.
pub trait BlockIo: fmt::Debug + Send {
    /// Hands a request over. Never fails: failures are completions; blocks at most for what says
    /// where a mapped file's bytes are. `token`, below 2^63, comes back with it.
    fn submit(&mut self, token: u64, request: Request);

    /// Appends what is done to `completions`; blocks until that is at least one, a [`Waker`] was
    /// used, or `timeout` has passed.
    ///
    /// # Errors
    /// When the engine itself is broken; single requests fail in their completion.
    fn wait(
        &mut self,
        completions: &mut Vec<Completion>,
        timeout: Option<Duration>,
    ) -> Result<(), IoError>;

    /// Requests submitted and not yet returned by [`BlockIo::wait`].
    fn in_flight(&self) -> usize;

    /// A handle with which other threads end a [`BlockIo::wait`].
    fn waker(&self) -> Waker;

    /// For the log: `io_uring` or `pread/pwrite`.
    fn name(&self) -> &'static str;
}

/// Ends the [`BlockIo::wait`] that is going on, or the next one at once.
#[derive(Clone)]
pub struct Waker(Arc<dyn Fn() + Send + Sync>);

impl Waker {
    /// Wakes the engine's owner.
    pub fn wake(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}

/// Which engine to use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EngineChoice {
    /// io_uring, or pread/pwrite with a warning where the kernel refuses it.
    #[default]
    Auto,
    /// io_uring or an error.
    Ring,
    /// pread/pwrite on threads.
    Sync,
}

/// Makes an engine for the calling thread that has up to `depth` requests with the kernel at a
/// time; more wait their turn. Buffers of `pool` are registered with it; others work too.
///
/// # Errors
/// With [`EngineChoice::Ring`] where the kernel refuses io_uring; otherwise where no thread can be
/// started.
pub fn open(
    choice: EngineChoice,
    pool: &BufferPool,
    depth: u32,
) -> Result<Box<dyn BlockIo>, IoError> {
    let engine: Box<dyn BlockIo> = match choice {
        EngineChoice::Sync => Box::new(sync::SyncIo::new(depth)?),
        EngineChoice::Auto => auto(ring::RingIo::new(pool, depth), depth)?,
        EngineChoice::Ring => match ring::RingIo::new(pool, depth) {
            Ok(engine) => Box::new(engine),
            Err(error) => return Err(refusal(&error)),
        },
    };
    // What is announced are the requests that reach a file.
    let engine = if fault::is_planned() {
        Box::new(faulty::FaultyIo::new(engine))
    } else {
        engine
    };
    Ok(Box::new(mapped::MappedIo::new(engine)))
}

/// The ring, or the other engine and one warning.
fn auto(ring: io::Result<ring::RingIo>, depth: u32) -> Result<Box<dyn BlockIo>, IoError> {
    /// One warning is enough, however many threads open an engine.
    static WARNED: Once = Once::new();
    match ring {
        Ok(engine) => Ok(Box::new(engine)),
        Err(error) => {
            let cause = cause_of_refusal(&error);
            WARNED.call_once(|| {
                tracing::warn!(
                    "cannot use io_uring: {error} ({cause}); reading and writing are slower"
                );
            });
            Ok(Box::new(sync::SyncIo::new(depth)?))
        }
    }
}

fn refusal(error: &io::Error) -> IoError {
    let text = format!("{error} ({})", cause_of_refusal(error));
    IoError {
        operation: "set up",
        path: PathBuf::from("io_uring"),
        offset: 0,
        source: io::Error::new(error.kind(), text),
    }
}

/// What most likely made the kernel refuse io_uring.
fn cause_of_refusal(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::NOSYS) => {
            "the kernel is older than 5.1, or a container's seccomp filter hides io_uring"
        }
        Some(Errno::PERM | Errno::ACCESS) => {
            "sysctl kernel.io_uring_disabled or a container's seccomp filter forbids it"
        }
        Some(Errno::NOMEM) => "the limit of locked memory is too low, see ulimit -l",
        Some(Errno::MFILE | Errno::NFILE) => "too many files are open, see ulimit -n",
        _ => "the kernel refused it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_ring_is_replaced_or_reported_with_the_likely_cause() {
        for (errno, cause) in [
            (Errno::NOSYS, "seccomp"),
            (Errno::PERM, "sysctl kernel.io_uring_disabled"),
            (Errno::NOMEM, "ulimit -l"),
            (Errno::MFILE, "ulimit -n"),
            (Errno::INVAL, "the kernel refused it"),
        ] {
            let engine = auto(Err(errno.into()), 2).unwrap();
            assert_eq!(engine.name(), "pread/pwrite");
            let error = refusal(&errno.into());
            assert!(error.source.to_string().contains(cause), "{}", error.source);
        }
    }
}
