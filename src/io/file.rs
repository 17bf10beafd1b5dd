//! An open regular file: a descriptor that goes through the page cache, and perhaps a second one
//! that does not; or a [`Mapping`] that says in which of these the file's bytes lie.
//!
//! The second descriptor is for bulk data only; sizes, modes, syncs and small pieces use the first.
//! Whether the file system really takes direct requests shows at the first one: an engine that sees
//! it refused calls [`File::refuse_direct`], and from then on the file is an ordinary one.

use super::mapping::{self, Mapping};
use super::{IoError, fault};
use rustix::fs::{Advice, FallocateFlags, Mode};
use std::fs;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the kernel says that it cannot copy between these files at all.
fn is_no_copy(errno: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    matches!(
        errno,
        Errno::NOSYS | Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::PERM
    )
}

/// An open file with the path that errors name.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    bytes: Bytes,
    /// Whether its bytes were ever seen to be elsewhere than when they were read.
    has_moved: AtomicBool,
}

/// Where a file's bytes are.
#[derive(Debug)]
enum Bytes {
    Own(Descriptors),
    Mapped(Box<dyn Mapping>),
}

#[derive(Debug)]
struct Descriptors {
    buffered: fs::File,
    direct: Option<OwnedFd>,
    direct_refused: AtomicBool,
}

impl File {
    /// Wraps descriptors that somebody opened. `direct`, if given, is the same file opened with
    /// `O_DIRECT` and the same access mode.
    #[must_use]
    pub fn from_fds(path: PathBuf, buffered: OwnedFd, direct: Option<OwnedFd>) -> File {
        File {
            path,
            bytes: Bytes::Own(Descriptors {
                buffered: buffered.into(),
                direct,
                direct_refused: AtomicBool::new(false),
            }),
            has_moved: AtomicBool::new(false),
        }
    }

    /// A file whose bytes lie in others.
    #[must_use]
    pub fn mapped(path: PathBuf, mapping: Box<dyn Mapping>) -> File {
        File {
            path,
            bytes: Bytes::Mapped(mapping),
            has_moved: AtomicBool::new(false),
        }
    }

    /// What says where the bytes are, if they are not its own.
    pub(super) fn mapping(&self) -> Option<&dyn Mapping> {
        match &self.bytes {
            Bytes::Own(_) => None,
            Bytes::Mapped(mapping) => Some(&**mapping),
        }
    }

    /// The descriptors of a file whose bytes are its own.
    fn own(&self) -> &Descriptors {
        match &self.bytes {
            Bytes::Own(descriptors) => descriptors,
            Bytes::Mapped(_) => unreachable!("mapped files are dealt with before"),
        }
    }

    /// The name that errors use.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file now.
    ///
    /// # Errors
    /// Where the file cannot be examined.
    pub fn size(&self) -> Result<u64, IoError> {
        if let Some(mapping) = self.mapping() {
            return mapping.size().map_err(|e| self.error("examine", 0, e));
        }
        let metadata = self.own().buffered.metadata();
        Ok(metadata.map_err(|e| self.error("examine", 0, e))?.len())
    }

    /// Bytes up to the end of the file or, unlike [`File::size`], of the block device that it is.
    ///
    /// # Errors
    /// Where the file has no end that can be looked for.
    pub fn end(&self) -> Result<u64, IoError> {
        if self.mapping().is_some() {
            return self.size();
        }
        // Reads and writes say where they go, so that nobody minds the position.
        let end = rustix::fs::seek(&self.own().buffered, rustix::fs::SeekFrom::End(0));
        end.map_err(|e| self.error("examine", 0, e))
    }

    /// Names that the file has.
    ///
    /// # Errors
    /// Where the file cannot be examined.
    pub fn links(&self) -> Result<u64, IoError> {
        if self.mapping().is_some() {
            return Ok(1);
        }
        let metadata = self.own().buffered.metadata();
        Ok(metadata.map_err(|e| self.error("examine", 0, e))?.nlink())
    }

    /// Cuts the file, or extends it by a hole.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn set_len(&self, length: u64) -> Result<(), IoError> {
        let done = fault::step("truncate", &self.path).and_then(|()| match &self.bytes {
            Bytes::Own(own) => own.buffered.set_len(length),
            Bytes::Mapped(mapping) => mapping.set_len(length),
        });
        done.map_err(|e| self.error("truncate", length, e))
    }

    /// Sets the permission bits, whatever the umask. A mapped file has none.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn set_mode(&self, mode: u32) -> Result<(), IoError> {
        let Bytes::Own(own) = &self.bytes else {
            return Ok(());
        };
        let mode = Mode::from_raw_mode(mode & 0o7777);
        rustix::fs::fchmod(&own.buffered, mode).map_err(|e| self.error("change the mode of", 0, e))
    }

    /// Whether large aligned requests go past the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.direct_fd().is_some()
    }

    /// Writes all of `bytes` at `offset` through the page cache, in the calling thread; for tails
    /// and small files.
    ///
    /// # Errors
    /// Where a write fails; what was written before stays.
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<(), IoError> {
        if let Some(mapping) = self.mapping() {
            // The writes to the files that the bytes lie in are the ones to announce.
            return mapping::write_all(self, mapping, bytes, offset);
        }
        let half = || {
            // The process dies next; nobody would hear of an error.
            let _ = self.write_unannounced(&bytes[..bytes.len() / 2], offset);
        };
        fault::write_step(&self.path, half).map_err(|e| self.error("write", offset, e))?;
        self.write_unannounced(bytes, offset)
    }

    /// As [`File::write_all_at`], for a write that was announced already.
    pub(super) fn write_unannounced(&self, bytes: &[u8], offset: u64) -> Result<(), IoError> {
        let done = self.own().buffered.write_all_at(bytes, offset);
        done.map_err(|e| self.error("write", offset, e))
    }

    /// Fills `bytes` from `offset` through the page cache, in the calling thread.
    ///
    /// # Errors
    /// Where a read fails or the file ends too early ([`io::ErrorKind::UnexpectedEof`]).
    pub fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> Result<(), IoError> {
        if let Some(mapping) = self.mapping() {
            let read = mapping::read_up_to(self, mapping, bytes, offset)?;
            if read < bytes.len() {
                let end = offset.saturating_add(read as u64);
                return Err(self.error("read", end, io::ErrorKind::UnexpectedEof));
            }
            return Ok(());
        }
        let done = self.own().buffered.read_exact_at(bytes, offset);
        done.map_err(|e| self.error("read", offset, e))
    }

    /// Copies the first `length` bytes of `source` to the same place here, within the kernel.
    ///
    /// # Errors
    /// Where it fails, or `source` ends too early ([`io::ErrorKind::UnexpectedEof`]). File systems
    /// that have no such call fail with [`io::ErrorKind::Unsupported`] before anything is copied.
    pub fn copy_head_of(&self, source: &File, length: u64) -> Result<(), IoError> {
        const CALL_BYTES_MAX: u64 = 64 * 1024 * 1024;
        let (Bytes::Own(input), Bytes::Own(output)) = (&source.bytes, &self.bytes) else {
            return Err(self.error("copy to", 0, io::ErrorKind::Unsupported));
        };
        let (input, output) = (&input.buffered, &output.buffered);
        let (mut from, mut to) = (0, 0);
        while from < length {
            let part = usize::try_from((length - from).min(CALL_BYTES_MAX)).unwrap_or(usize::MAX);
            fault::step("copy to", &self.path).map_err(|e| self.error("write", to, e))?;
            match rustix::fs::copy_file_range(input, Some(&mut from), output, Some(&mut to), part) {
                Ok(0) => {
                    let kind = io::ErrorKind::UnexpectedEof;
                    return Err(source.error("read", from, kind));
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) if from == 0 && is_no_copy(errno) => {
                    let kind = io::ErrorKind::Unsupported;
                    return Err(self.error("copy to", 0, kind));
                }
                Err(errno) => return Err(self.error("write", to, errno)),
            }
        }
        Ok(())
    }

    /// Reads into `bytes` from `offset` through the page cache, in the calling thread; returns how
    /// many there were before the file ended.
    ///
    /// # Errors
    /// Where a read fails.
    pub fn read_up_to_at(&self, bytes: &mut [u8], offset: u64) -> Result<usize, IoError> {
        if let Some(mapping) = self.mapping() {
            return mapping::read_up_to(self, mapping, bytes, offset);
        }
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            match self.own().buffered.read_at(&mut bytes[done..], at) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.error("read", at, error)),
            }
        }
        Ok(done)
    }

    /// Makes content and size durable (fsync). An error must not be answered by another try: the
    /// kernel reports lost writes only once.
    ///
    /// # Errors
    /// Where earlier writes could not be brought to the device.
    pub fn sync(&self) -> Result<(), IoError> {
        fault::step("fsync", &self.path)
            .and_then(|()| match &self.bytes {
                Bytes::Own(own) => own.buffered.sync_all(),
                Bytes::Mapped(mapping) => mapping.sync(),
            })
            .map_err(|e| self.error("fsync", 0, e))
    }

    /// Reserves room for the first `length` bytes without changing the size. A hint: file systems
    /// that cannot do it ignore it, a full disk shows when writing.
    pub fn allocate(&self, length: u64) {
        if let Some(mapping) = self.mapping() {
            mapping.allocate(length);
        } else if length > 0 {
            // Best effort by contract.
            let _ =
                rustix::fs::fallocate(&self.own().buffered, FallocateFlags::KEEP_SIZE, 0, length);
        }
    }

    /// Makes bytes zeros: a hole where the file system or the device can make one, which costs
    /// little, else by writing them. The size stays, unless they are behind it and written.
    ///
    /// # Errors
    /// Where a write fails.
    pub fn zero(&self, offset: u64, length: u64) -> Result<(), IoError> {
        static ZEROS: [u8; 128 * 1024] = [0; 128 * 1024];
        if length == 0 {
            return Ok(());
        }
        fault::step("write", &self.path).map_err(|e| self.error("write", offset, e))?;
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if let Bytes::Own(own) = &self.bytes
            && rustix::fs::fallocate(&own.buffered, hole, offset, length).is_ok()
        {
            return Ok(());
        }
        let end = offset + length;
        let mut at = offset;
        while at < end {
            let left = usize::try_from(end - at).unwrap_or(usize::MAX);
            let part = &ZEROS[..left.min(ZEROS.len())];
            match &self.bytes {
                Bytes::Own(_) => self.write_unannounced(part, at)?,
                Bytes::Mapped(_) => self.write_all_at(part, at)?,
            }
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Tells the kernel that all of the file will be read soon. A hint.
    pub fn will_need(&self) {
        if let Bytes::Own(own) = &self.bytes {
            // Best effort by contract; no length means to the end.
            let _ = rustix::fs::fadvise(&own.buffered, 0, None, Advice::WillNeed);
        }
    }

    /// Tells the kernel that the file's clean pages in the page cache are of no more use. A hint.
    pub fn drop_cache(&self) {
        if let Bytes::Own(own) = &self.bytes {
            // Best effort by contract; no length means to the end.
            let _ = rustix::fs::fadvise(&own.buffered, 0, None, Advice::DontNeed);
        }
    }

    /// As [`File::drop_cache`], of some bytes only.
    pub fn drop_cache_of(&self, offset: u64, length: u64) {
        if let (Bytes::Own(own), Some(length)) = (&self.bytes, NonZeroU64::new(length)) {
            // Best effort by contract.
            let _ = rustix::fs::fadvise(&own.buffered, offset, Some(length), Advice::DontNeed);
        }
    }

    /// What was read is perhaps not what the file holds: finds out anew where its bytes are, if
    /// they can move.
    ///
    /// # Errors
    /// Where that cannot be found out.
    pub fn look_again(&self) -> Result<(), IoError> {
        let Some(mapping) = self.mapping() else {
            return Ok(());
        };
        mapping.look_again().map_err(|e| self.error("read", 0, e))
    }

    /// Whether everything that was read is what the file held at that time. False where its bytes
    /// were moved meanwhile, and others have taken their place perhaps: none of it is to be used,
    /// and the answer stays the same from then on.
    ///
    /// # Errors
    /// Where that cannot be found out.
    pub fn is_as_read(&self) -> Result<bool, IoError> {
        let Some(mapping) = self.mapping() else {
            return Ok(true);
        };
        if self.has_moved.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let is_so = mapping.is_as_read();
        let is_so = is_so.map_err(|e| self.error("read", 0, e))?;
        if !is_so {
            // Who was told so left something out and must not be told otherwise later.
            self.has_moved.store(true, Ordering::Relaxed);
        }
        Ok(is_so)
    }

    /// The descriptor that goes through the page cache.
    pub(super) fn buffered_fd(&self) -> BorrowedFd<'_> {
        self.own().buffered.as_fd()
    }

    /// The descriptor that goes past it, while it is of use.
    pub(super) fn direct_fd(&self) -> Option<BorrowedFd<'_>> {
        let Bytes::Own(own) = &self.bytes else {
            return None;
        };
        if own.direct_refused.load(Ordering::Relaxed) {
            return None;
        }
        own.direct.as_ref().map(AsFd::as_fd)
    }

    /// The file system took the open flag but not a request.
    pub(super) fn refuse_direct(&self) {
        self.own().direct_refused.store(true, Ordering::Relaxed);
    }

    pub(super) fn error(
        &self,
        operation: &'static str,
        offset: u64,
        source: impl Into<io::Error>,
    ) -> IoError {
        IoError {
            operation,
            path: self.path.clone(),
            offset,
            source: source.into(),
        }
    }
}
