//! One value for each thread of a rayon pool: codec contexts that are too dear to make for every
//! page.

use std::sync::{Mutex, MutexGuard};

/// A value a CPU thread. A lock that only its own thread takes costs a few nanoseconds an extent.
#[derive(Debug)]
pub(crate) struct PerThread<T>(Vec<Mutex<T>>);

impl<T> PerThread<T> {
    /// A value for each of `threads` threads, and one for callers outside the pool.
    pub(crate) fn new(threads: usize, mut make: impl FnMut() -> T) -> PerThread<T> {
        PerThread((0..=threads).map(|_| Mutex::new(make())).collect())
    }

    /// The calling thread's value.
    pub(crate) fn get(&self) -> MutexGuard<'_, T> {
        let outside = self.0.len() - 1;
        let index = rayon::current_thread_index().map_or(outside, |index| index.min(outside));
        // A thread that panicked while it held a context ends the run by its panic; the context
        // itself stays usable.
        self.0[index]
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
