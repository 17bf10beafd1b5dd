//! Pooled, aligned memory: the unit of back-pressure and the only memory that kernels write into
//! behind our back.
//!
//! Invariants:
//!
//! * A pool is one allocation of `count` cells of [`BUFFER_BYTES`] each, aligned for direct I/O,
//!   zeroed at the start: every byte is initialised at any time.
//! * A cell number is either in the free list or in exactly one [`Buffer`]; that is what makes the
//!   buffer's slices exclusive. Only this file makes [`Buffer`]s.
//! * The allocation lives as long as the pool or any of its buffers.
#![allow(
    unsafe_code,
    reason = "hands out disjoint cells of one aligned allocation"
)]

use crate::limits::{BUFFER_BYTES, DIRECT_IO_ALIGNMENT};
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::slice;
use std::sync::{Arc, Mutex, MutexGuard};

/// A fixed number of equal buffers. Clones share the same memory.
#[derive(Clone)]
pub struct BufferPool(Arc<Shared>);

struct Shared {
    memory: Memory,
    /// Cells that no buffer has; last in, first out, because what was used last is still in the
    /// CPU's caches.
    free: Mutex<Vec<usize>>,
}

/// The allocation. Aligned by hand inside a larger block, because the allocator hands out large
/// zeroed blocks lazily (untouched memory costs nothing) only while the alignment asked for is
/// small.
struct Memory {
    block: NonNull<u8>,
    layout: Layout,
    /// Start of the first cell, within `block`.
    cells: NonNull<u8>,
    count: usize,
}

// SAFETY: the pointers are owned, plain memory; nothing in it is bound to a thread.
unsafe impl Send for Memory {}
// SAFETY: a shared `Memory` only yields addresses; dereferencing them is guarded by the exclusivity
// of cells.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(count: usize) -> Memory {
        let bytes = count
            .checked_mul(BUFFER_BYTES)
            .and_then(|bytes| bytes.checked_add(DIRECT_IO_ALIGNMENT))
            .expect("the number of buffers is bounded by the budget");
        let layout = Layout::from_size_align(bytes, align_of::<u64>())
            .expect("the number of buffers is bounded by the budget");
        // SAFETY: the layout's size is not zero, it contains at least the alignment.
        let block = unsafe { alloc_zeroed(layout) };
        let Some(block) = NonNull::new(block) else {
            handle_alloc_error(layout)
        };
        let padding = block.as_ptr().align_offset(DIRECT_IO_ALIGNMENT);
        assert!(padding <= DIRECT_IO_ALIGNMENT);
        // SAFETY: the block is larger than all cells by the alignment, and the padding is at most
        // that.
        let cells = unsafe { block.add(padding) };
        Memory {
            block,
            layout,
            cells,
            count,
        }
    }

    fn cell(&self, index: usize) -> NonNull<u8> {
        assert!(index < self.count);
        // SAFETY: the allocation holds `count` cells from `cells` on, and `index` is below `count`.
        unsafe { self.cells.add(index * BUFFER_BYTES) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: `block` came from the same allocator with the same layout and is freed here only;
        // every buffer, and every engine that registered the memory, holds the pool alive.
        unsafe { dealloc(self.block.as_ptr(), self.layout) };
    }
}

impl BufferPool {
    /// A pool of `count` buffers.
    ///
    /// # Panics
    /// When `count` is 0 or the address space cannot hold them.
    #[must_use]
    pub fn new(count: usize) -> BufferPool {
        assert!(count > 0, "a pool without buffers blocks for ever");
        BufferPool(Arc::new(Shared {
            memory: Memory::new(count),
            free: Mutex::new((0..count).rev().collect()),
        }))
    }

    /// A buffer, if one is free. Its data are empty.
    #[must_use]
    pub fn try_take(&self) -> Option<Buffer> {
        let index = self.free().pop()?;
        Some(Buffer {
            shared: Arc::clone(&self.0),
            index,
            range: 0..0,
        })
    }

    /// Buffers that nobody has.
    #[must_use]
    pub fn available(&self) -> usize {
        self.free().len()
    }

    /// Buffers altogether.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.memory.count
    }

    /// Address and length of every buffer, in the order of [`Buffer::index`]; for registering them
    /// with a kernel.
    pub(super) fn cells(&self) -> impl Iterator<Item = (NonNull<u8>, usize)> {
        (0..self.count()).map(|index| (self.0.memory.cell(index), BUFFER_BYTES))
    }

    /// Whether `buffer` comes from this pool.
    pub(super) fn owns(&self, buffer: &Buffer) -> bool {
        Arc::ptr_eq(&self.0, &buffer.shared)
    }

    fn free(&self) -> MutexGuard<'_, Vec<usize>> {
        self.0.free()
    }
}

impl Shared {
    fn free(&self) -> MutexGuard<'_, Vec<usize>> {
        self.free
            .lock()
            .expect("no thread panics while it holds this lock")
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool")
            .field("count", &self.count())
            .field("available", &self.available())
            .finish()
    }
}

/// One buffer of a pool: [`BUFFER_BYTES`] aligned bytes of which a range holds data. Dropping it
/// gives it back.
pub struct Buffer {
    shared: Arc<Shared>,
    index: usize,
    range: Range<usize>,
}

impl Buffer {
    /// The data.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.whole()[self.range.clone()]
    }

    /// The data, to be changed.
    pub fn data_mut(&mut self) -> &mut [u8] {
        let range = self.range.clone();
        &mut self.whole_mut()[range]
    }

    /// Where in the buffer the data are.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Says where in the buffer the data are. Bytes outside keep their value.
    ///
    /// # Panics
    /// When the range is reversed or ends past [`Buffer::capacity`].
    pub fn set_range(&mut self, range: Range<usize>) {
        assert!(
            range.start <= range.end && range.end <= BUFFER_BYTES,
            "data at {range:?} do not fit a buffer of {BUFFER_BYTES} bytes"
        );
        self.range = range;
    }

    /// Bytes of the whole buffer.
    #[must_use]
    pub fn capacity(&self) -> usize {
        BUFFER_BYTES
    }

    /// All bytes, data or not. They are initialised, with whatever was there last.
    #[must_use]
    pub fn whole(&self) -> &[u8] {
        // SAFETY: the cell is BUFFER_BYTES long, initialised by the pool and alive with `shared`;
        // this buffer alone has it, so that nobody writes to it while `self` is borrowed. Engines
        // write only to buffers they own.
        unsafe { slice::from_raw_parts(self.address().as_ptr(), BUFFER_BYTES) }
    }

    /// All bytes, to be changed.
    pub fn whole_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `whole`, and `self` is borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(self.address().as_ptr(), BUFFER_BYTES) }
    }

    /// Where the buffer begins; it never moves.
    pub(super) fn address(&self) -> NonNull<u8> {
        self.shared.memory.cell(self.index)
    }

    /// The buffer's number in its pool.
    pub(super) fn index(&self) -> usize {
        self.index
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.shared.free().push(self.index);
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("index", &self.index)
            .field("range", &self.range)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_zeroed_and_apart() {
        let pool = BufferPool::new(3);
        let mut taken: Vec<Buffer> = (0..3).map(|_| pool.try_take().unwrap()).collect();
        for (fill, buffer) in (1u8..).zip(&mut taken) {
            assert_eq!(buffer.whole().as_ptr().align_offset(DIRECT_IO_ALIGNMENT), 0);
            assert_eq!(buffer.whole().len(), buffer.capacity());
            assert!(buffer.whole().iter().all(|&byte| byte == 0));
            buffer.whole_mut().fill(fill);
        }
        for (fill, buffer) in (1u8..).zip(&taken) {
            assert!(buffer.whole().iter().all(|&byte| byte == fill));
        }
    }

    #[test]
    fn an_empty_pool_gives_nothing_until_a_buffer_comes_back() {
        let pool = BufferPool::new(2);
        assert_eq!((pool.count(), pool.available()), (2, 2));
        let first = pool.try_take().unwrap();
        let second = pool.clone().try_take().unwrap();
        assert!(pool.try_take().is_none());
        drop(first);
        assert_eq!(pool.available(), 1);
        assert!(pool.try_take().is_some());
        drop(second);
        assert_eq!(pool.available(), 2);
    }

    #[test]
    fn a_buffer_outlives_its_pool() {
        let pool = BufferPool::new(1);
        let mut buffer = pool.try_take().unwrap();
        drop(pool);
        buffer.whole_mut().fill(7);
        assert_eq!(buffer.whole()[BUFFER_BYTES - 1], 7);
    }

    #[test]
    fn data_are_the_range_that_was_set_and_a_new_buffer_has_none() {
        let pool = BufferPool::new(1);
        let mut buffer = pool.try_take().unwrap();
        assert!(buffer.data().is_empty());
        buffer.set_range(10..13);
        buffer.data_mut().copy_from_slice(b"abc");
        assert_eq!(buffer.data(), b"abc");
        assert_eq!(&buffer.whole()[9..14], b"\0abc\0");
        drop(buffer);
        assert_eq!(pool.try_take().unwrap().range(), 0..0);
    }

    #[test]
    #[should_panic(expected = "do not fit")]
    fn a_range_past_the_end_is_refused() {
        let pool = BufferPool::new(1);
        pool.try_take().unwrap().set_range(1..BUFFER_BYTES + 1);
    }

    #[test]
    fn buffers_move_between_threads() {
        let pool = BufferPool::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        if let Some(mut buffer) = pool.try_take() {
                            buffer.whole_mut()[0] ^= 1;
                        }
                    }
                });
            }
        });
        assert_eq!(pool.available(), 4);
    }
}
