//! Whether a server that takes its time still lives: the start of a backup may last as long as a
//! checkpoint, minutes or an hour, in which its connection is silent.
//!
//! Meanwhile the second connection, which nobody uses yet, asks something small now and then. A
//! network that is cut, or a server that stands still, shows there after the usual time-out, and
//! not after the longest time that a checkpoint may take.

use super::super::Error;
use crate::limits::SERVER_POLL_MS;
use crate::server::{ServerError, Sql};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// What is asked: replication connections of all servers know it.
const QUESTION: &str = "IDENTIFY_SYSTEM";

/// Does `work` while `idle`, another connection to the same server, is asked for a sign of life
/// every half of `patience`. Sets `halt`, which has to end the work, once there is none, or once
/// `cancel` is set.
///
/// # Errors
/// Those of `work`; the reason why it was halted, if it was.
pub(super) fn work_while_alive<T>(
    idle: &mut (dyn Sql + Send),
    patience: Duration,
    cancel: &AtomicBool,
    halt: &AtomicBool,
    work: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let (working, ended) = sync_channel::<()>(0);
        let watcher = scope.spawn(move || watch(idle, patience, cancel, halt, &ended));
        let result = work();
        drop(working);
        let watched = watcher
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (result, watched) {
            (Err(_), Err(reason)) if halt.load(Ordering::Relaxed) => Err(reason.into()),
            (result, _) => result,
        }
    })
}

/// Watches until the other end of `ended` is gone.
fn watch(
    idle: &mut (dyn Sql + Send),
    patience: Duration,
    cancel: &AtomicBool,
    halt: &AtomicBool,
    ended: &Receiver<()>,
) -> Result<(), ServerError> {
    let mut asked = Instant::now();
    let pause = Duration::from_millis(SERVER_POLL_MS);
    while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        let alive = if cancel.load(Ordering::Relaxed) {
            Err(ServerError::Interrupted)
        } else if asked.elapsed() < patience / 2 {
            Ok(())
        } else {
            asked = Instant::now();
            idle.query(QUESTION).map(drop)
        };
        if alive.is_err() {
            halt.store(true, Ordering::Relaxed);
            return alive;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Rows;

    /// Answers so many questions, and then no more.
    struct Idle(u32);

    impl Sql for Idle {
        fn query(&mut self, statement: &str) -> Result<Rows, ServerError> {
            assert_eq!(statement, QUESTION);
            match self.0.checked_sub(1) {
                Some(left) => self.0 = left,
                None => {
                    return Err(ServerError::NoSuchHost {
                        host: "gone".to_owned(),
                        reason: "it was cut off".to_owned(),
                    });
                }
            }
            Ok(Rows::default())
        }

        fn query_with(&mut self, statement: &str, _: &[&str]) -> Result<Rows, ServerError> {
            self.query(statement)
        }
    }

    fn until_halted(halt: &AtomicBool) -> Result<(), Error> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !halt.load(Ordering::Relaxed) {
            assert!(Instant::now() < deadline, "nobody ends the work");
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(ServerError::Interrupted.into())
    }

    #[test]
    fn work_ends_with_the_reason_once_the_server_gives_no_sign_of_life() {
        let (cancel, halt) = (AtomicBool::new(false), AtomicBool::new(false));
        let mut idle = Idle(2);
        let work = || until_halted(&halt);
        let failed = work_while_alive(&mut idle, Duration::from_millis(1), &cancel, &halt, work);
        assert_eq!(idle.0, 0, "it was alive twice");
        let text = failed.unwrap_err().to_string();
        assert!(text.contains("it was cut off"), "{text}");
    }

    #[test]
    fn work_ends_when_the_run_is_cancelled() {
        let (cancel, halt) = (AtomicBool::new(true), AtomicBool::new(false));
        let work = || until_halted(&halt);
        let hour = Duration::from_secs(3600);
        let failed = work_while_alive(&mut Idle(0), hour, &cancel, &halt, work);
        assert_eq!(failed.unwrap_err().to_string(), "interrupted");
    }

    #[test]
    fn work_that_is_done_or_fails_for_itself_is_left_alone() {
        let (cancel, halt) = (AtomicBool::new(false), AtomicBool::new(false));
        let hour = Duration::from_secs(3600);
        let done = work_while_alive(&mut Idle(0), hour, &cancel, &halt, || Ok(7));
        assert_eq!(done.unwrap(), 7);
        let own = || Err::<(), _>(Error::Refused("own".to_owned()));
        let failed = work_while_alive(&mut Idle(0), hour, &cancel, &halt, own);
        assert_eq!(failed.unwrap_err().to_string(), "own");
        assert!(!halt.load(Ordering::Relaxed));
    }
}
