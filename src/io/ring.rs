//! The io_uring engine.
//!
//! How a request travels:
//!
//! 1. [`BlockIo::submit`] gives it a slot and pushes its first step to the submission queue;
//!    without a free slot it waits in the backlog. No system call is made.
//! 2. [`BlockIo::wait`] hands all pushed steps to the kernel and sleeps until something completes:
//!    one call of io_uring_enter for both.
//! 3. A completion names its slot. The transfer in it decides whether another step follows or the
//!    request is done.
//!
//! Invariants:
//!
//! * `user_data` is a slot number, or one of two constants for the engine's own requests; never a
//!   pointer.
//! * A slot has at most one step with the kernel, so a submission queue with an entry for every
//!   slot, and some for the engine's own requests, is never full, and the completion queue, twice
//!   as long, never overflows.
//! * A buffer in an occupied slot belongs to the kernel. Slots are emptied by their completion
//!   only; dropping the engine cancels what can be cancelled and waits for the rest.
//!
//! The engine is bound to the thread that made it (`Box<dyn BlockIo>` is not `Send`), which is what
//! lets the kernel skip locks and interrupts ([deferred task work]). Kernels from 5.10 on will do;
//! where features of later ones are missing, the engine goes the longer way.
//!
//! Memory is registered with the kernel where the limit of locked memory allows: that saves a tenth
//! of the CPU time of cached reads, a fifth of that of direct ones. Registered files were tried and
//! left out: 20 000 random page reads at depth 32 took 80–104 ms of CPU without and 90–97 ms with
//! them (`benches/read_engine.rs`), and a registered file stays open after its last owner has
//! dropped it.
//!
//! [deferred task work]: https://man7.org/linux/man-pages/man2/io_uring_setup.2.html
#![allow(
    unsafe_code,
    reason = "the kernel reads and writes memory that its queue entries point to"
)]

use super::transfer::{Progress, Step, Transfer};
use super::{BlockIo, Buffer, BufferPool, Completion, IoError, Request, Waker};
use crate::limits::{IO_REPEATS_MAX, QUEUE_DEPTH_MAX};
use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// `user_data` of the poll on the waker's descriptor.
const WAKE: u64 = u64::MAX;
/// `user_data` of cancellations.
const CANCEL: u64 = u64::MAX - 1;
/// Entries of the submission queue beyond one a slot: the poll on the waker.
const OWN_ENTRIES: u32 = 1;
/// Start write-back, do not wait: SYNC_FILE_RANGE_WRITE of linux/fs.h.
const SYNC_FILE_RANGE_WRITE: u32 = 2;
/// Buffers that a ring can register: IORING_MAX_REG_BUFFERS of the kernel.
const REGISTERED_BUFFERS_MAX: usize = 1 << 14;
/// Pause before the kernel is asked again after it had no memory for requests.
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// The engine.
pub(super) struct RingIo {
    ring: IoUring,
    /// Transfers of which the kernel has a step.
    slots: Vec<Option<Transfer>>,
    /// Numbers of the empty slots.
    free: Vec<usize>,
    /// Requests that wait for a slot, oldest first.
    backlog: VecDeque<Transfer>,
    /// Requests that are done and not yet handed out.
    ready: Vec<Completion>,
    /// Submitted and not yet handed out.
    in_flight: usize,
    signal: Arc<Signal>,
    /// Whether the kernel polls the waker's descriptor for us.
    signal_polled: bool,
    /// The pool whose memory is registered; also keeps that memory alive.
    registered: Option<BufferPool>,
    /// Whether io_uring_enter takes a timeout; since 5.11.
    enter_has_timeout: bool,
    closing: bool,
}

/// What other threads wake the engine with.
struct Signal {
    descriptor: OwnedFd,
    /// Set with the first wake; spares the later ones the system call.
    woken: AtomicBool,
}

impl Signal {
    fn wake(&self) {
        if !self.woken.swap(true, Ordering::SeqCst) {
            // A counter that cannot take another 1 is set anyway.
            let _ = rustix::io::write(&self.descriptor, &1u64.to_ne_bytes());
        }
    }

    /// Whether somebody woke the engine since the last call.
    fn take(&self) -> bool {
        let woken = self.woken.swap(false, Ordering::SeqCst);
        if woken {
            // An empty counter means that the waking thread has not come to writing; it will wake
            // us once more.
            let _ = rustix::io::read(&self.descriptor, &mut [0u8; 8]);
        }
        woken
    }
}

impl RingIo {
    /// Sets up a ring of `depth` requests and registers the pool's memory, if the kernel lets us.
    pub(super) fn new(pool: &BufferPool, depth: u32) -> io::Result<RingIo> {
        let depth = depth.clamp(1, QUEUE_DEPTH_MAX);
        let ring = build(depth)?;
        let signal = Signal {
            descriptor: rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            woken: AtomicBool::new(false),
        };
        let registered = match register(&ring, pool) {
            Ok(()) => Some(pool.clone()),
            Err(error) => {
                tracing::debug!(%error, "buffers are not registered with io_uring");
                None
            }
        };
        let slots = usize::try_from(depth).expect("the depth is bounded");
        Ok(RingIo {
            enter_has_timeout: ring.params().is_feature_ext_arg(),
            ring,
            slots: (0..slots).map(|_| None).collect(),
            free: (0..slots).rev().collect(),
            backlog: VecDeque::new(),
            ready: Vec::new(),
            in_flight: 0,
            signal: Arc::new(signal),
            signal_polled: false,
            registered,
            closing: false,
        })
    }

    /// A ring with no more than kernel 5.10 offers, without registered memory; the longer ways need
    /// tests too.
    #[cfg(test)]
    pub(super) fn as_on_an_old_kernel(depth: u32) -> io::Result<RingIo> {
        let mut engine = RingIo::new(&BufferPool::new(1), depth)?;
        engine.ring = IoUring::new(depth.next_power_of_two())?;
        engine.enter_has_timeout = false;
        engine.registered = None;
        Ok(engine)
    }

    /// Moves requests from the backlog to free slots.
    fn start_backlog(&mut self) {
        while !self.backlog.is_empty() {
            let Some(slot) = self.free.pop() else { return };
            self.slots[slot] = self.backlog.pop_front();
            self.start(slot);
        }
    }

    /// Pushes the next step of the transfer in `slot`.
    fn start(&mut self, slot: usize) {
        let transfer = self.slots[slot].as_mut();
        let transfer = transfer.expect("only occupied slots are started");
        let entry = entry(transfer, self.registered.as_ref());
        let Some(entry) = entry else {
            self.finish(slot, Ok(()));
            return;
        };
        let pushed = self.push(&entry.user_data(slot as u64));
        assert!(pushed, "the queue has an entry for every slot");
    }

    fn finish(&mut self, slot: usize, result: Result<(), IoError>) {
        let transfer = self.slots[slot].take();
        let transfer = transfer.expect("only occupied slots complete");
        self.free.push(slot);
        self.ready.push(transfer.complete(result));
    }

    /// Puts an entry into the submission queue, if it has room.
    fn push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: descriptors and memory that the entry names stay valid until its completion:
        // those of requests are owned by the transfer in its slot, the signal's descriptor by
        // `self`, whose drop waits for all slots.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    /// Deals with all completions that the kernel has posted.
    fn reap(&mut self) {
        loop {
            let Some(posted) = self.ring.completion().next() else {
                return;
            };
            match posted.user_data() {
                WAKE => self.signal_polled = false,
                CANCEL => {}
                slot => {
                    let slot = usize::try_from(slot).expect("slots are numbered by usize");
                    self.reap_step(slot, posted.result());
                }
            }
        }
    }

    fn reap_step(&mut self, slot: usize, result: i32) {
        let transfer = self.slots[slot].as_mut();
        let transfer = transfer.expect("only occupied slots complete");
        let result = usize::try_from(result).map_err(|_| Errno::from_raw_os_error(-result));
        match transfer.advance(result) {
            Progress::Done(result) => self.finish(slot, result),
            Progress::Again if self.closing => self.finish(slot, Ok(())),
            Progress::Again => self.start(slot),
        }
    }

    /// Hands pushed entries to the kernel, then waits until `deadline` for something to be posted.
    /// Also without time left the kernel must be asked for completions: it posts them only then.
    fn block(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if !self.enter_has_timeout {
            return self.block_by_poll(left);
        }
        if !self.signal_polled {
            let poll = opcode::PollAdd::new(
                Fd(self.signal.descriptor.as_raw_fd()),
                u32::from(PollFlags::IN.bits()),
            );
            self.signal_polled = self.push(&poll.build().user_data(WAKE));
            assert!(self.signal_polled, "the queue has an entry for the poll");
        }
        let entered = match left {
            None => self.ring.submit_and_wait(1),
            Some(left) => {
                let timespec = Timespec::from(left);
                let arguments = SubmitArgs::new().timespec(&timespec);
                self.ring.submitter().submit_with_args(1, &arguments)
            }
        };
        tolerate(entered)
    }

    /// As `block`, for kernels whose io_uring_enter knows no timeout.
    fn block_by_poll(&mut self, left: Option<Duration>) -> io::Result<()> {
        self.flush()?;
        // SAFETY: the ring's descriptor is open as long as `self`, and the borrow ends within this
        // function.
        let ring = unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) };
        let mut descriptors = [
            PollFd::from_borrowed_fd(ring, PollFlags::IN),
            PollFd::from_borrowed_fd(self.signal.descriptor.as_fd(), PollFlags::IN),
        ];
        let timeout = left.and_then(|left| rustix::event::Timespec::try_from(left).ok());
        let polled = rustix::event::poll(&mut descriptors, timeout.as_ref());
        tolerate(polled.map_err(io::Error::from))
    }

    /// Hands pushed entries to the kernel without waiting.
    fn flush(&mut self) -> io::Result<()> {
        let mut repeats = 0;
        while !self.ring.submission().is_empty() && repeats < IO_REPEATS_MAX {
            tolerate(self.ring.submit())?;
            repeats += 1;
        }
        Ok(())
    }

    fn occupied(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Cancels what the kernel has and waits until it has nothing more.
    fn drain(&mut self) -> io::Result<()> {
        self.closing = true;
        self.backlog.clear();
        for slot in 0..self.slots.len() {
            if self.slots[slot].is_some() {
                let cancel = opcode::AsyncCancel::new(slot as u64)
                    .build()
                    .user_data(CANCEL);
                if !self.push(&cancel) {
                    self.flush()?;
                    self.push(&cancel);
                }
            }
        }
        loop {
            self.reap();
            if self.occupied() == 0 {
                return Ok(());
            }
            tolerate(self.ring.submit_and_wait(1))?;
        }
    }
}

impl BlockIo for RingIo {
    fn submit(&mut self, token: u64, request: Request) {
        self.in_flight += 1;
        self.backlog.push_back(Transfer::new(token, request));
        self.start_backlog();
    }

    fn wait(
        &mut self,
        completions: &mut Vec<Completion>,
        timeout: Option<Duration>,
    ) -> Result<(), IoError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let woken = self.signal.take();
            if !woken && self.ready.is_empty() && self.ring.completion().is_empty() {
                self.block(deadline).map_err(broken)?;
            }
            self.reap();
            self.start_backlog();
            let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if woken || late || !self.ready.is_empty() {
                self.flush().map_err(broken)?;
                self.in_flight -= self.ready.len();
                completions.append(&mut self.ready);
                return Ok(());
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn waker(&self) -> Waker {
        let signal = Arc::clone(&self.signal);
        Waker(Arc::new(move || signal.wake()))
    }

    fn name(&self) -> &'static str {
        "io_uring"
    }
}

impl Drop for RingIo {
    fn drop(&mut self) {
        if let Err(error) = self.drain() {
            // The kernel may still write to these buffers: nobody else may ever have them, nor
            // their memory be freed.
            tracing::error!(%error, "cannot wait for io_uring; its buffers are lost");
            std::mem::forget(std::mem::take(&mut self.slots));
            std::mem::forget(self.registered.take());
        }
    }
}

impl fmt::Debug for RingIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingIo")
            .field("depth", &self.slots.len())
            .field("in_flight", &self.in_flight)
            .field("backlog", &self.backlog.len())
            .field("registered", &self.registered)
            .finish_non_exhaustive()
    }
}

/// The ring, with what the kernel offers to make it cheaper.
fn build(depth: u32) -> io::Result<IoUring> {
    let entries = (depth + OWN_ENTRIES).next_power_of_two();
    let modern = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_submit_all()
        .build(entries);
    match modern {
        // The kernel is older than one of the flags.
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            IoUring::new(entries)
        }
        built => built,
    }
}

/// Registers the pool's buffers in the order of their numbers.
fn register(ring: &IoUring, pool: &BufferPool) -> io::Result<()> {
    /// The layout of `struct iovec`.
    #[repr(C)]
    struct Vector {
        address: *mut u8,
        length: usize,
    }
    if pool.count() > REGISTERED_BUFFERS_MAX {
        return Err(Errno::TOOBIG.into());
    }
    let cells = pool.cells().map(|(address, length)| Vector {
        address: address.as_ptr(),
        length,
    });
    let vectors: Vec<Vector> = cells.collect();
    // SAFETY: `Vector` has the layout of `iovec`, and the slice ends before `vectors` does.
    let vectors = unsafe { slice::from_raw_parts(vectors.as_ptr().cast(), vectors.len()) };
    // SAFETY: the memory stays allocated as long as the ring: the engine keeps a clone of the pool.
    unsafe { ring.submitter().register_buffers(vectors) }
}

/// The queue entry of a transfer's next step, if there is one.
fn entry(transfer: &mut Transfer, registered: Option<&BufferPool>) -> Option<squeue::Entry> {
    let own = |buffer: &Buffer| registered.is_some_and(|pool| pool.owns(buffer));
    let (step, buffer) = transfer.step()?;
    let target = |range: Range<usize>| {
        let buffer = buffer.as_deref().expect("reads and writes have a buffer");
        assert!(range.end <= buffer.capacity());
        let address = buffer.address().as_ptr().wrapping_add(range.start);
        let length = u32::try_from(range.len()).expect("a buffer is far below 4 GiB");
        let index = u16::try_from(buffer.index()).ok();
        (address, length, index.filter(|_| own(buffer)))
    };
    Some(match step {
        Step::Read { fd, offset, memory } => {
            let fd = Fd(fd.as_raw_fd());
            let (address, length, index) = target(memory);
            match index {
                Some(index) => {
                    let read = opcode::ReadFixed::new(fd, address, length, index);
                    read.offset(offset).build()
                }
                None => opcode::Read::new(fd, address, length)
                    .offset(offset)
                    .build(),
            }
        }
        Step::Write { fd, offset, memory } => {
            let fd = Fd(fd.as_raw_fd());
            let (address, length, index) = target(memory);
            match index {
                Some(index) => {
                    let write = opcode::WriteFixed::new(fd, address, length, index);
                    write.offset(offset).build()
                }
                None => opcode::Write::new(fd, address, length)
                    .offset(offset)
                    .build(),
            }
        }
        Step::Writeback { fd, offset, length } => {
            let sync = opcode::SyncFileRange::new(Fd(fd.as_raw_fd()), length);
            sync.offset(offset).flags(SYNC_FILE_RANGE_WRITE).build()
        }
        Step::Sync { fd } => {
            let sync = opcode::Fsync::new(Fd(fd.as_raw_fd()));
            sync.flags(FsyncFlags::empty()).build()
        }
    })
}

/// Passes over what is no failure of the ring: a time that is over, a signal, and a kernel that is
/// short of memory for requests or wants completions reaped first; the caller tries again.
fn tolerate(entered: io::Result<usize>) -> io::Result<()> {
    let Err(error) = entered else { return Ok(()) };
    match Errno::from_io_error(&error) {
        Some(Errno::TIME | Errno::INTR) => Ok(()),
        Some(Errno::AGAIN | Errno::BUSY | Errno::NOMEM) => {
            std::thread::sleep(BUSY_PAUSE);
            Ok(())
        }
        _ => Err(error),
    }
}

fn broken(source: io::Error) -> IoError {
    IoError {
        operation: "wait for",
        path: PathBuf::from("io_uring"),
        offset: 0,
        source,
    }
}
