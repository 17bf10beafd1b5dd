//! What `GS_FAULT` asks for, and the count of the steps.

use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Operations that take space on the device.
const NEED_SPACE: [&str; 7] = [
    "create",
    "write",
    "create directory",
    "link",
    "create link",
    "copy to",
    "share blocks with",
];

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Record,
    Kill,
    Tear,
    IoError,
    NoSpace,
}

#[derive(Debug)]
struct Plan {
    kind: Kind,
    at: u64,
    record: Option<File>,
}

static COUNT: AtomicU64 = AtomicU64::new(0);
static PLAN: OnceLock<Option<Plan>> = OnceLock::new();

fn plan() -> Option<&'static Plan> {
    let read = || {
        let text = std::env::var("GS_FAULT").ok()?;
        let parsed = parse(&text);
        Some(parsed.unwrap_or_else(|| panic!("GS_FAULT={text} is not understood")))
    };
    PLAN.get_or_init(read).as_ref()
}

fn parse(text: &str) -> Option<Plan> {
    let (kind, rest) = text.split_once(':')?;
    if kind == "record" {
        let file = File::options().create(true).append(true).open(rest).ok()?;
        return Some(Plan {
            kind: Kind::Record,
            at: 0,
            record: Some(file),
        });
    }
    let kind = match kind {
        "kill" => Kind::Kill,
        "tear" => Kind::Tear,
        "eio" => Kind::IoError,
        "enospc" => Kind::NoSpace,
        _ => return None,
    };
    Some(Plan {
        kind,
        at: rest.parse().ok()?,
        record: None,
    })
}

pub(super) fn is_some() -> bool {
    plan().is_some()
}

pub(super) fn announce(
    operation: &'static str,
    path: &Path,
    write_half: impl FnOnce(),
) -> io::Result<()> {
    let Some(plan) = plan() else {
        return Ok(());
    };
    let number = COUNT.fetch_add(1, Ordering::SeqCst) + 1;
    if let Some(mut record) = plan.record.as_ref() {
        let line = format!("{number} {operation} {}\n", path.display());
        return record.write_all(line.as_bytes());
    }
    let reached = number == plan.at;
    match plan.kind {
        Kind::Kill if reached => die(),
        Kind::Tear if reached => {
            write_half();
            die()
        }
        Kind::IoError if reached => Err(Errno::IO.into()),
        Kind::NoSpace if number >= plan.at && NEED_SPACE.contains(&operation) => {
            Err(Errno::NOSPC.into())
        }
        _ => Ok(()),
    }
}

fn die() -> ! {
    kill_process(getpid(), Signal::KILL).expect("a process may kill itself");
    loop {
        std::thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_a_kind_and_a_number() {
        let plan = parse("enospc:17").unwrap();
        assert_eq!((plan.kind, plan.at), (Kind::NoSpace, 17));
        for text in ["", "kill", "kill:", "kill:x", "burn:1"] {
            assert!(parse(text).is_none(), "{text}");
        }
    }
}
