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
            } => Transfer::read(token, file, offset, length, buffer),
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
mod tests {
    use super::*;
    use crate::io::BufferPool;
    use proptest::strategy::Strategy;
    use proptest::{prop_assert, prop_assert_eq, prop_assume, prop_oneof, proptest};
    use std::os::fd::{AsRawFd, OwnedFd};

    const PAGE: usize = DIRECT_IO_ALIGNMENT;

    /// A disk of one file on which everything goes wrong that a system call may do.
    #[derive(Debug, Default)]
    struct Disk {
        content: Vec<u8>,
        bad_pages: Vec<usize>,
        /// Most bytes that the n-th call moves; calls beyond the list move all.
        most: Vec<usize>,
        /// What the n-th call fails with, instead.
        errors: Vec<Option<Errno>>,
        refuses_direct: bool,
        calls: usize,
    }

    impl Disk {
        fn call(
            &mut self,
            step: &Step<'_>,
            buffer: Option<&mut Buffer>,
            direct: bool,
        ) -> Result<usize, Errno> {
            let number = self.calls;
            self.calls += 1;
            if let Some(Some(errno)) = self.errors.get(number) {
                return Err(*errno);
            }
            let most = self.most.get(number).copied().unwrap_or(usize::MAX).max(1);
            match step {
                Step::Read { offset, memory, .. } => {
                    self.check_alignment(direct, *offset, memory)?;
                    let from = usize::try_from(*offset).unwrap().min(self.content.len());
                    let to = (from + memory.len().min(most)).min(self.content.len());
                    let pages = from / PAGE..to.div_ceil(PAGE);
                    if from < to && self.bad_pages.iter().any(|page| pages.contains(page)) {
                        return Err(Errno::IO);
                    }
                    let target = &mut buffer.unwrap().whole_mut()[memory.start..][..to - from];
                    target.copy_from_slice(&self.content[from..to]);
                    Ok(to - from)
                }
                Step::Write { offset, memory, .. } => {
                    self.check_alignment(direct, *offset, memory)?;
                    let from = usize::try_from(*offset).unwrap();
                    let length = memory.len().min(most);
                    self.content
                        .resize(self.content.len().max(from + length), 0);
                    let source = &buffer.unwrap().whole()[memory.start..][..length];
                    self.content[from..from + length].copy_from_slice(source);
                    Ok(length)
                }
                Step::Writeback { .. } => Err(Errno::INVAL),
                Step::Sync { .. } => Ok(0),
            }
        }

        fn check_alignment(
            &self,
            direct: bool,
            offset: u64,
            memory: &Range<usize>,
        ) -> Result<(), Errno> {
            if !direct {
                return Ok(());
            }
            assert!(misalignment(offset) == 0 && memory.start.is_multiple_of(PAGE));
            assert!(memory.len().is_multiple_of(PAGE), "{memory:?}");
            if self.refuses_direct {
                Err(Errno::INVAL)
            } else {
                Ok(())
            }
        }

        fn run(&mut self, request: Request) -> Completion {
            let mut transfer = Transfer::new(7, request);
            loop {
                let direct_fd = transfer.file.direct_fd().map(|fd| fd.as_raw_fd());
                let Some((step, buffer)) = transfer.step() else {
                    return transfer.complete(Ok(()));
                };
                let direct = match &step {
                    Step::Read { fd, .. } | Step::Write { fd, .. } => {
                        Some(fd.as_raw_fd()) == direct_fd
                    }
                    Step::Writeback { .. } | Step::Sync { .. } => false,
                };
                let result = self.call(&step, buffer, direct);
                if let Progress::Done(result) = transfer.advance(result) {
                    return transfer.complete(result);
                }
                assert!(self.calls < 10_000, "no end in sight");
            }
        }
    }

    fn file(direct: bool) -> Arc<File> {
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        Arc::new(File::from_fds("disk".into(), null(), direct.then(null)))
    }

    fn read(disk: &mut Disk, direct: bool, offset: u64, length: usize) -> Completion {
        let buffer = BufferPool::new(1).try_take().unwrap();
        let file = file(direct);
        disk.run(Request::Read {
            file,
            offset,
            length,
            buffer,
        })
    }

    fn numbers(bytes: usize) -> Vec<u8> {
        let words = (0u32..).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes());
        words.take(bytes).collect()
    }

    fn disk(bytes: usize) -> Disk {
        Disk {
            content: numbers(bytes),
            ..Disk::default()
        }
    }

    fn data(completion: &Completion) -> &[u8] {
        completion.buffer.as_ref().unwrap().data()
    }

    #[test]
    fn the_longest_read_at_the_worst_offset_fits_a_buffer() {
        let mut disk = disk(2 * EXTENT_ENCODED_BYTES_MAX);
        let done = read(&mut disk, true, 4095, EXTENT_ENCODED_BYTES_MAX);
        assert_eq!(
            data(&done),
            &disk.content[4095..][..EXTENT_ENCODED_BYTES_MAX]
        );
        assert_eq!(disk.calls, 1);
    }

    #[test]
    #[should_panic(expected = "more than an extent")]
    fn a_read_longer_than_an_extent_is_a_programming_error() {
        read(&mut disk(1), false, 0, EXTENT_ENCODED_BYTES_MAX + 1);
    }

    #[test]
    fn a_read_that_brings_all_it_wants_asks_no_further() {
        let mut disk = disk(100);
        assert_eq!(data(&read(&mut disk, true, 0, 100)).len(), 100);
        assert_eq!(disk.calls, 1);
    }

    #[test]
    fn a_read_behind_the_end_has_no_data_and_one_across_it_has_those_before() {
        for direct in [false, true] {
            let mut disk = disk(5000);
            let done = read(&mut disk, direct, 5000, 10);
            assert!(done.result.is_ok() && data(&done).is_empty());
            assert!(data(&read(&mut disk, direct, 1 << 40, 10)).is_empty());
            assert_eq!(
                data(&read(&mut disk, direct, 4999, 10)),
                &disk.content[4999..]
            );
        }
    }

    #[test]
    fn nothing_is_called_for_nothing() {
        let mut disk = disk(10);
        assert!(read(&mut disk, true, 3, 0).result.is_ok());
        let file = file(true);
        let buffer = BufferPool::new(1).try_take().unwrap();
        assert!(
            disk.run(Request::Write {
                file,
                offset: 5,
                buffer
            })
            .result
            .is_ok()
        );
        let file = self::file(true);
        assert!(
            disk.run(Request::Writeback {
                file,
                offset: 0,
                length: 0
            })
            .result
            .is_ok()
        );
        assert_eq!(disk.calls, 0);
    }

    #[test]
    fn the_first_unreadable_page_is_named_and_what_is_before_it_comes_back() {
        let mut disk = disk(1 << 20);
        disk.bad_pages = vec![5, 6, 200];
        let done = read(&mut disk, true, 100, 1_000_000);
        let error = done.result.as_ref().unwrap_err();
        assert_eq!((error.operation, error.offset), ("read", 5 * 4096));
        assert_eq!(data(&done), &disk.content[100..5 * 4096]);
        assert!(disk.calls < 20, "{} calls", disk.calls);
    }

    #[test]
    fn an_unreadable_page_that_begins_before_the_request_is_named_at_the_request() {
        for direct in [false, true] {
            let mut disk = disk(1 << 20);
            disk.bad_pages = vec![1];
            let error = read(&mut disk, direct, 5000, 9000).result.unwrap_err();
            assert_eq!(error.offset, 5000);
        }
    }

    #[test]
    fn an_unreadable_page_behind_the_request_is_of_no_concern() {
        let mut disk = disk(1 << 20);
        disk.bad_pages = vec![2];
        assert!(read(&mut disk, true, 0, 8192).result.is_ok());
    }

    #[test]
    fn a_read_that_fails_once_is_done_in_pieces() {
        let mut disk = disk(100_000);
        disk.errors = vec![Some(Errno::IO)];
        let done = read(&mut disk, false, 0, 100_000);
        assert!(done.result.is_ok());
        assert_eq!(data(&done), disk.content);
    }

    #[test]
    fn other_errors_of_a_read_are_not_retried() {
        let mut disk = disk(100_000);
        disk.errors = vec![Some(Errno::ISDIR)];
        let error = read(&mut disk, false, 10, 100).result.unwrap_err();
        assert_eq!(
            error.source.raw_os_error(),
            Some(Errno::ISDIR.raw_os_error())
        );
        assert_eq!((error.offset, disk.calls), (10, 1));
    }

    #[test]
    fn interruptions_are_repeated_but_not_for_ever() {
        let mut disk = disk(10);
        disk.errors = vec![Some(Errno::INTR), Some(Errno::AGAIN)];
        assert!(read(&mut disk, false, 0, 10).result.is_ok());
        disk.errors = vec![Some(Errno::AGAIN); 9999];
        assert!(read(&mut disk, false, 0, 10).result.is_err());
    }

    #[test]
    fn a_file_that_refuses_direct_requests_is_read_through_the_cache_from_then_on() {
        let mut disk = disk(10_000);
        disk.refuses_direct = true;
        let file = file(true);
        for calls in [2, 3] {
            let buffer = BufferPool::new(1).try_take().unwrap();
            let file = Arc::clone(&file);
            let done = disk.run(Request::Read {
                file,
                offset: 4097,
                length: 5000,
                buffer,
            });
            assert_eq!(data(&done), &disk.content[4097..][..5000]);
            assert_eq!(disk.calls, calls);
        }
        assert!(!file.is_direct());
    }

    #[test]
    fn a_failed_write_names_where_it_stopped() {
        let mut disk = Disk {
            most: vec![4096, 100],
            ..Disk::default()
        };
        disk.errors = vec![None, None, Some(Errno::NOSPC)];
        let mut buffer = BufferPool::new(1).try_take().unwrap();
        buffer.set_range(0..8192);
        let done = disk.run(Request::Write {
            file: file(true),
            offset: 4096,
            buffer,
        });
        let error = done.result.unwrap_err();
        assert_eq!(
            (error.operation, error.offset),
            ("write", 4096 + 4096 + 100)
        );
        assert_eq!(done.buffer.unwrap().range(), 0..8192);
    }

    #[test]
    fn a_failed_sync_is_an_error_and_a_failed_writeback_is_not() {
        let mut disk = Disk {
            errors: vec![Some(Errno::IO)],
            ..Disk::default()
        };
        assert!(
            disk.run(Request::Sync { file: file(false) })
                .result
                .is_err()
        );
        assert_eq!(disk.calls, 1, "a second fsync would report success");
        let request = Request::Writeback {
            file: file(false),
            offset: 1,
            length: 1,
        };
        assert!(disk.run(request).result.is_ok());
    }

    proptest! {
        #[test]
        fn reads_bring_what_the_file_holds(
            size in 0usize..40_000, offset in 0u64..45_000, length in 0usize..45_000,
            direct: bool, refuses_direct: bool, bad in proptest::option::of(0usize..12),
            most in proptest::collection::vec(prop_oneof![1usize..10, 1usize..9000], 0..20),
        ) {
            let mut disk = disk(size);
            disk.bad_pages.extend(bad);
            disk.refuses_direct = refuses_direct;
            disk.most = most;
            let done = read(&mut disk, direct, offset, length);
            // Behind the end there is nothing to be unreadable, though a widened read may find it
            // so.
            prop_assume!(offset < size as u64 || bad.is_none());
            let from = usize::try_from(offset).unwrap().min(size);
            let to = (from + length).min(size);
            let bad = bad.filter(|&page| page * PAGE < to && (page + 1) * PAGE > from && to > from);
            match bad {
                None => {
                    prop_assert!(done.result.is_ok(), "{:?}", done.result);
                    prop_assert!(data(&done) == &disk.content[from..to]);
                }
                Some(page) => {
                    let first = (page * PAGE).max(from);
                    prop_assert_eq!(done.result.as_ref().unwrap_err().offset, first as u64);
                    prop_assert!(data(&done) == &disk.content[from..first]);
                }
            }
        }

        #[test]
        fn writes_leave_what_the_buffer_holds(
            offset in prop_oneof![0u64..20_000, (0u64..5).prop_map(|n| n * 4096)],
            base in prop_oneof![0usize..10_000, (0usize..5).prop_map(|n| n * PAGE)],
            length in prop_oneof![0usize..30_000, (0usize..5).prop_map(|n| n * PAGE)],
            direct: bool, refuses_direct: bool,
            most in proptest::collection::vec(
                prop_oneof![1usize..10, 1usize..9000, (1usize..4).prop_map(|n| n * PAGE)], 0..20),
        ) {
            let mut disk = Disk { refuses_direct, most, ..disk(15_000) };
            let before = disk.content.clone();
            let mut buffer = BufferPool::new(1).try_take().unwrap();
            buffer.set_range(base..base + length);
            buffer.data_mut().copy_from_slice(&numbers(length));
            let done = disk.run(Request::Write { file: file(direct), offset, buffer });
            prop_assert!(done.result.is_ok());
            prop_assert!(data(&done) == numbers(length));
            let from = usize::try_from(offset).unwrap();
            let mut wanted = before;
            if length > 0 {
                wanted.resize(wanted.len().max(from + length), 0);
                wanted[from..from + length].copy_from_slice(&numbers(length));
            }
            prop_assert!(disk.content == wanted);
        }
    }
}
