//! Tests of whole reads and writes: what the medium does short or not at all is carried on with.

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
                Step::Read { fd, .. } | Step::Write { fd, .. } => Some(fd.as_raw_fd()) == direct_fd,
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
        memory_offset: 0,
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
            memory_offset: 0,
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
