//! Opening files ahead of the transfer loop, on a thread of its own: opening blocks, and the loop
//! must not.

use super::{Kind, PipelineError};
use crate::io::Waker;
use crate::limits::{FILES_AHEAD_MAX, HELD_AHEAD_BYTES_MAX};
use std::cell::{Cell, RefCell};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::Scope;

/// Opened files in the order of the plan: at most [`FILES_AHEAD_MAX`] of them at a time, and no
/// further one while they hold [`HELD_AHEAD_BYTES_MAX`].
pub(super) struct Feed<K: Kind> {
    opened: RefCell<Option<Receiver<Opened<K>>>>,
    exhausted: Cell<bool>,
    held: Arc<Held>,
}

/// A file as [`Kind::open`] gave it, and the memory that it holds.
type Opened<K> = (usize, Result<Option<<K as Kind>::File>, PipelineError>);

/// Memory that files opened ahead hold.
#[derive(Default)]
struct Held {
    state: Mutex<HeldState>,
    given_back: Condvar,
}

#[derive(Default)]
struct HeldState {
    bytes: usize,
    closed: bool,
}

impl Held {
    fn state(&self) -> MutexGuard<'_, HeldState> {
        self.state.lock().expect("adding up does not panic")
    }

    /// Waits until little enough is held and adds to it; false when nobody wants it any more.
    fn add(&self, bytes: usize) -> bool {
        let mut state = self.state();
        while state.bytes > HELD_AHEAD_BYTES_MAX && !state.closed {
            let waited = self.given_back.wait(state);
            state = waited.expect("adding up does not panic");
        }
        state.bytes += bytes;
        !state.closed
    }

    fn give_back(&self, bytes: usize) {
        self.state().bytes -= bytes;
        self.given_back.notify_one();
    }

    fn close(&self) {
        self.state().closed = true;
        self.given_back.notify_one();
    }
}

impl<K: Kind> Feed<K> {
    /// Starts the thread. It ends when all items are opened, after the first failure, or once the
    /// feed is stopped.
    pub(super) fn start<'scope, 'env>(
        threads: &'scope Scope<'scope, 'env>,
        kind: &'env K,
        items: impl Iterator<Item = K::Item> + Send + 'scope,
        waker: Waker,
    ) -> Feed<K>
    where
        K::Item: 'env,
        K::File: 'env,
    {
        let (sender, opened) = sync_channel(FILES_AHEAD_MAX);
        let held = Arc::<Held>::default();
        let feed = Feed {
            opened: RefCell::new(Some(opened)),
            exhausted: Cell::new(false),
            held: Arc::clone(&held),
        };
        threads.spawn(move || {
            for item in items {
                let file = kind.open(item);
                let failed = file.is_err();
                let bytes = match &file {
                    Ok(Some(file)) => kind.held_bytes(file),
                    _ => 0,
                };
                if !held.add(bytes) || sender.send((bytes, file)).is_err() || failed {
                    break;
                }
                waker.wake();
            }
            drop(sender);
            waker.wake();
        });
        feed
    }

    /// The next file, if one is ready.
    pub(super) fn next(&self) -> Option<Result<Option<K::File>, PipelineError>> {
        let opened = self.opened.borrow();
        match opened.as_ref()?.try_recv() {
            Ok((bytes, file)) => {
                self.held.give_back(bytes);
                Some(file)
            }
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                self.exhausted.set(true);
                None
            }
        }
    }

    /// Whether every file was taken.
    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted.get()
    }

    /// Lets the thread end at its next file.
    pub(super) fn stop(&self) {
        self.opened.borrow_mut().take();
        self.exhausted.set(true);
        self.held.close();
    }
}

impl<K: Kind> Drop for Feed<K> {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn files_that_hold_much_are_waited_for() {
        let held = Held::default();
        assert!(held.add(HELD_AHEAD_BYTES_MAX) && held.add(1));
        std::thread::scope(|threads| {
            let (sender, added) = channel();
            threads.spawn(|| {
                let sender = sender;
                while held.add(1) {
                    sender.send(()).unwrap();
                }
            });
            let early = added.recv_timeout(Duration::from_millis(20));
            assert!(early.is_err(), "added while too much was held");
            held.give_back(1);
            added.recv().unwrap();
            held.close();
        });
    }
}
