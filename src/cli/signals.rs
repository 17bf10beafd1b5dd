//! What signals do: the first one asks the run to end in order, the second ends the process.
//!
//! SIGPIPE needs nothing here: the runtime ignores it, and what cannot be written to the console is
//! dropped.

use super::ExitCode;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A flag that the first SIGINT, SIGTERM, SIGQUIT or SIGHUP sets, so that the run can end in order;
/// the second ends the process.
///
/// A SIGHUP that is ignored from the start stays so: that is what nohup is for.
pub(super) fn cancel_on_signals() -> Arc<AtomicBool> {
    let cancel = Arc::new(AtomicBool::new(false));
    let hangup = (!is_ignored(SIGHUP)).then_some(SIGHUP);
    for signal in [SIGINT, SIGTERM, SIGQUIT].into_iter().chain(hangup) {
        let code = i32::from(ExitCode::Failure.number());
        let registered =
            signal_hook::flag::register_conditional_shutdown(signal, code, Arc::clone(&cancel))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&cancel)));
        if let Err(error) = registered {
            // The signal then ends the process at once, which the catalog survives too.
            tracing::debug!("cannot handle signal {signal}: {error}");
        }
    }
    cancel
}

fn is_ignored(signal: i32) -> bool {
    std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| ignores(&status, signal).unwrap_or(false))
}

// `SigIgn:` and a mask in hexadecimal; signal 1 is its lowest bit.
fn ignores(status: &str, signal: i32) -> Option<bool> {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))?;
    let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
    let bit = u32::try_from(signal).ok()?.checked_sub(1)?;
    Some(mask.checked_shr(bit)? & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_status_of_the_process() {
        let status = "Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\n";
        assert_eq!(ignores(status, SIGHUP), Some(true));
        assert_eq!(ignores(status, SIGTERM), Some(false));
        assert_eq!(ignores(status, 13), Some(true));
        assert_eq!(ignores("Name:\tx\n", SIGHUP), None);
        assert!(
            std::fs::read_to_string("/proc/self/status")
                .unwrap()
                .contains("\nSigIgn:")
        );
    }
}
