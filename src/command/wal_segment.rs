//! A WAL segment that is read page by page, of which a part at a time is in memory: those of
//! clusters on shared storage have 1 GiB.

use crate::format::wal::SegmentBytes;
use crate::io::File;
use crate::limits::{WAL_PAGE_BYTES, WAL_READ_BYTES};
use crate::storage::{Storage, StorageError};
use std::io::{Error, ErrorKind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// A segment.
#[derive(Debug)]
pub(super) struct Segment<'a> {
    source: Source,
    /// Bytes that it has or counts as having.
    size: u64,
    /// Ends reading once it is set.
    cancel: Option<&'a AtomicBool>,
    /// The part in memory, from `begin` on.
    part: Vec<u8>,
    begin: u64,
}

#[derive(Debug)]
enum Source {
    File(File),
    /// It was compressed.
    Memory(Vec<u8>),
}

impl<'a> Segment<'a> {
    /// The segment in a file.
    pub(super) fn of_file(file: File, cancel: Option<&'a AtomicBool>) -> Result<Self, Error> {
        let size = file.size().map_err(|error| error.source)?;
        Ok(Segment {
            size,
            ..Segment::new(Source::File(file), cancel)
        })
    }

    /// The segment in memory.
    pub(super) fn of_bytes(bytes: Vec<u8>) -> Segment<'a> {
        Segment {
            size: bytes.len() as u64,
            ..Segment::new(Source::Memory(bytes), None)
        }
    }

    fn new(source: Source, cancel: Option<&'a AtomicBool>) -> Segment<'a> {
        Segment {
            source,
            size: 0,
            cancel,
            part: Vec::new(),
            begin: 0,
        }
    }

    /// A shorter segment counts as having `size` bytes: what it lacks reads as zeros.
    pub(super) fn filled_up_to(self, size: u64) -> Segment<'a> {
        Segment {
            size: self.size.max(size),
            ..self
        }
    }

    /// The segment of this name; `None` where there is none.
    pub(super) fn find(
        storage: &dyn Storage,
        name: &Path,
    ) -> Result<Option<Segment<'a>>, StorageError> {
        let file = match storage.open_read(name, false) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let path = file.path().to_owned();
        let segment = Segment::of_file(file, None);
        let segment = segment.map_err(|error| StorageError::new("examine", &path, error))?;
        Ok(Some(segment))
    }

    /// Reads the part that begins at `begin`.
    fn read(&mut self, begin: u64) -> Result<(), Error> {
        if self.cancel.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
            return Err(Error::from(ErrorKind::Interrupted));
        }
        let length = (self.size - begin).min(WAL_READ_BYTES as u64);
        // Until it is read, nothing is.
        let mut part = std::mem::take(&mut self.part);
        part.clear();
        part.resize(usize::try_from(length).expect("it is bounded"), 0);
        match &self.source {
            Source::File(file) => {
                file.read_up_to_at(&mut part, begin)
                    .map_err(|error| error.source)?;
                // Another file's bytes may have come to its place.
                if !file.is_as_read().map_err(|error| error.source)? {
                    return Err(Error::other("it was moved or removed while it was read"));
                }
            }
            Source::Memory(bytes) => {
                let begin = usize::try_from(begin).unwrap_or(usize::MAX);
                let there = bytes.get(begin..).unwrap_or_default();
                let count = there.len().min(part.len());
                part[..count].copy_from_slice(&there[..count]);
            }
        }
        (self.part, self.begin) = (part, begin);
        Ok(())
    }
}

impl SegmentBytes for Segment<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn load(&mut self, offset: u64) -> Result<(), Error> {
        let begin = offset - offset % WAL_READ_BYTES as u64;
        if self.part.is_empty() || self.begin != begin {
            self.read(begin)?;
        }
        Ok(())
    }

    fn page(&self, offset: u64) -> &[u8] {
        let at = usize::try_from(offset - self.begin).expect("it is in memory");
        &self.part[at..at + WAL_PAGE_BYTES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Posix;
    use std::os::unix::fs::FileExt;

    #[test]
    fn of_a_large_segment_a_part_is_in_memory() {
        let scratch = tempfile::tempdir().unwrap();
        let size = crate::limits::DSS_WAL_SEGMENT_BYTES;
        let file = std::fs::File::create(scratch.path().join("segment")).unwrap();
        file.set_len(size).unwrap();
        let marks = [0, 8192, WAL_READ_BYTES as u64, size - 8192];
        for (mark, fill) in marks.into_iter().zip(1..) {
            file.write_all_at(&[fill; 8192], mark).unwrap();
        }
        let storage = Posix::open(scratch.path()).unwrap();
        assert!(
            Segment::find(&storage, Path::new("none"))
                .unwrap()
                .is_none()
        );
        let segment = Segment::find(&storage, Path::new("segment")).unwrap();
        let mut segment = segment.unwrap();
        assert_eq!(segment.size(), size);
        for (mark, fill) in marks.into_iter().zip(1..) {
            segment.load(mark).unwrap();
            assert_eq!(segment.page(mark), [fill; 8192]);
            assert!(segment.part.capacity() <= WAL_READ_BYTES);
        }
        segment.load(2 << 20).unwrap();
        assert_eq!(segment.page(2 << 20), [0; 8192]);
    }

    #[test]
    fn what_a_part_of_a_segment_lacks_is_zeros() {
        let size = 3 * WAL_READ_BYTES as u64;
        let mut segment = Segment::of_bytes(vec![7; 10_000]).filled_up_to(size);
        for offset in (0..size).step_by(8192) {
            segment.load(offset).unwrap();
            let here = 10_000_usize.saturating_sub(usize::try_from(offset).unwrap());
            let page = segment.page(offset);
            assert!(page[..here.min(8192)].iter().all(|byte| *byte == 7));
            assert!(page[here.min(8192)..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn a_run_that_is_cancelled_reads_no_further() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("segment"), vec![1; 2 << 20]).unwrap();
        let storage = Posix::open(scratch.path()).unwrap();
        let file = storage.open_read(Path::new("segment"), false).unwrap();
        let cancel = AtomicBool::new(false);
        let mut segment = Segment::of_file(file, Some(&cancel)).unwrap();
        segment.load(0).unwrap();
        cancel.store(true, Ordering::Relaxed);
        segment.load(8192).unwrap();
        let stopped = segment.load(1 << 20).unwrap_err();
        assert_eq!(stopped.kind(), ErrorKind::Interrupted);
    }
}
