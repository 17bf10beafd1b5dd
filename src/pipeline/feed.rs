//! Opening files ahead of the transfer loop, on a thread of its own: opening blocks, and the loop
//! must not.

use super::{Kind, PipelineError};
use crate::io::Waker;
use crate::limits::FILES_AHEAD_MAX;
use std::cell::{Cell, RefCell};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::thread::Scope;

/// Opened files in the order of the plan, at most [`FILES_AHEAD_MAX`] of them at a time.
pub(super) struct Feed<K: Kind> {
    opened: RefCell<Option<Receiver<Opened<K>>>>,
    exhausted: Cell<bool>,
}

/// A file as [`Kind::open`] gave it.
type Opened<K> = Result<Option<<K as Kind>::File>, PipelineError>;

impl<K: Kind> Feed<K> {
    /// Starts the thread. It ends when all items are opened, after the first failure, or once the
    /// feed is stopped.
    pub(super) fn start<'scope, 'env>(
        threads: &'scope Scope<'scope, 'env>,
        kind: &'env K,
        items: Vec<K::Item>,
        waker: Waker,
    ) -> Feed<K>
    where
        K::Item: 'env,
        K::File: 'env,
    {
        let (sender, opened) = sync_channel(FILES_AHEAD_MAX);
        threads.spawn(move || {
            for item in items {
                let file = kind.open(item);
                let failed = file.is_err();
                if sender.send(file).is_err() || failed {
                    break;
                }
                waker.wake();
            }
            drop(sender);
            waker.wake();
        });
        Feed {
            opened: RefCell::new(Some(opened)),
            exhausted: Cell::new(false),
        }
    }

    /// The next file, if one is ready.
    pub(super) fn next(&self) -> Option<Opened<K>> {
        let opened = self.opened.borrow();
        match opened.as_ref()?.try_recv() {
            Ok(file) => Some(file),
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
    }
}
