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
    Stop,
    Kill,
    Tear,
    IoError,
    NoSpace,
}

#[derive(Debug)]
struct Plan {
    kind: Kind,
    /// Which of the steps that are `among`.
    at: u64,
    /// A pattern of `<operation> <path>`; without, all steps are.
    among: Option<String>,
    record: Option<File>,
}

/// Steps so far.
static COUNT: AtomicU64 = AtomicU64::new(0);
/// Those of them that the plan counts.
static COUNT_AMONG: AtomicU64 = AtomicU64::new(0);
static PLAN: OnceLock<Option<Plan>> = OnceLock::new();

fn plan() -> Option<&'static Plan> {
    let read = || {
        let text = std::env::var("GS_FAULT").ok()?;
        let mut plan = parse(&text).unwrap_or_else(|| panic!("GS_FAULT={text} is not understood"));
        if let Ok(path) = std::env::var("GS_FAULT_RECORD") {
            plan.record = open_record(&path);
        }
        Some(plan)
    };
    PLAN.get_or_init(read).as_ref()
}

fn open_record(path: &str) -> Option<File> {
    File::options().create(true).append(true).open(path).ok()
}

fn parse(text: &str) -> Option<Plan> {
    let (kind, rest) = text.split_once(':')?;
    if kind == "record" {
        return Some(Plan {
            kind: Kind::Record,
            at: 0,
            among: None,
            record: Some(open_record(rest)?),
        });
    }
    let kind = match kind {
        "stop" => Kind::Stop,
        "kill" => Kind::Kill,
        "tear" => Kind::Tear,
        "eio" => Kind::IoError,
        "enospc" => Kind::NoSpace,
        _ => return None,
    };
    let (at, among) = match rest.split_once(':') {
        Some((at, pattern)) => (at, Some(pattern.to_owned())),
        None => (rest, None),
    };
    Some(Plan {
        kind,
        at: at.parse().ok()?,
        among,
        record: None,
    })
}

/// Whether a text is as the pattern: `*` stands for anything within a name, `**` for anything.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', b'*', rest @ ..] => (0..=text.len()).any(|end| matches(rest, &text[end..])),
        [b'*', rest @ ..] => {
            let name = text.iter().take_while(|byte| **byte != b'/').count();
            (0..=name).any(|end| matches(rest, &text[end..]))
        }
        [byte, rest @ ..] => text.first() == Some(byte) && matches(rest, &text[1..]),
    }
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
    let step = format!("{operation} {}", path.display());
    let is_among = |pattern: &String| matches(pattern.as_bytes(), step.as_bytes());
    // The number of this step if it is counted, and how many have been.
    let (mine, so_far) = if plan.among.as_ref().is_none_or(is_among) {
        let mine = COUNT_AMONG.fetch_add(1, Ordering::SeqCst) + 1;
        (mine, mine)
    } else {
        (0, COUNT_AMONG.load(Ordering::SeqCst))
    };
    let is_met = match plan.kind {
        Kind::Record => false,
        Kind::Stop | Kind::Kill | Kind::Tear | Kind::IoError => mine == plan.at,
        Kind::NoSpace => so_far >= plan.at && NEED_SPACE.contains(&operation),
    };
    if let Some(mut record) = plan.record.as_ref() {
        let mark = if is_met { "!" } else { "" };
        record.write_all(format!("{mark}{number} {step}\n").as_bytes())?;
    }
    if !is_met {
        return Ok(());
    }
    match plan.kind {
        Kind::Record => Ok(()),
        Kind::Stop => {
            let stopped = kill_process(getpid(), Signal::STOP);
            stopped.expect("a process may stop itself");
            Ok(())
        }
        Kind::Kill => die(),
        Kind::Tear => {
            write_half();
            die()
        }
        Kind::IoError => Err(Errno::IO.into()),
        Kind::NoSpace => Err(Errno::NOSPC.into()),
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
        assert_eq!((plan.kind, plan.at, plan.among), (Kind::NoSpace, 17, None));
        let plan = parse("kill:2:write */a:b").unwrap();
        assert_eq!((plan.at, plan.among.as_deref()), (2, Some("write */a:b")));
        for text in ["", "kill", "kill:", "kill:x", "burn:1"] {
            assert!(parse(text).is_none(), "{text}");
        }
    }
    #[test]
    fn one_star_stays_within_a_name() {
        let is = |pattern: &str, text: &str| matches(pattern.as_bytes(), text.as_bytes());
        assert!(is("write **/a*/b**", "write /x/y/a1/b/c"));
        assert!(is("**", "") && is("a*", "a") && is("**", "a/b"));
        assert!(!is("write /x*", "write /x/y") && !is("write *", "create a"));
        assert!(!is("a*b", "a") && !is("", "a") && !is("a", ""));
    }
}
