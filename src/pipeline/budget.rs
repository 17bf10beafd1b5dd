//! How much memory and how many requests a run may have in flight: products of named limits.

use crate::limits::{BUFFER_BYTES, BUFFERS_BASE, BUFFERS_PER_THREAD};

/// The bounds of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Buffers in the pool.
    pub buffers: usize,
}

impl Budget {
    /// The budget of a run on `threads` CPU threads.
    #[must_use]
    pub fn for_threads(threads: usize) -> Budget {
        Budget {
            buffers: BUFFERS_BASE + threads.saturating_mul(BUFFERS_PER_THREAD),
        }
    }

    /// Bytes of the buffer pool.
    #[must_use]
    pub fn bytes(self) -> usize {
        self.buffers * BUFFER_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_threads_stay_far_below_256_mib() {
        assert!(Budget::for_threads(2).bytes() < 128 * 1024 * 1024);
    }
}
