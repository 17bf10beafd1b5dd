//! Whether the process that left its id in a file is still there.

use rustix::io::Errno;
use rustix::process::Pid;

/// Clocks of processes and files may differ by this.
const CLOCK_SLACK_S: i64 = 2;

/// The id of this process.
pub(super) fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_pid()
}

/// Whether the process that wrote its id into a file at `written_at` is still there.
pub(super) fn is_alive(pid: i32, written_at: i64) -> bool {
    let Some(process) = Pid::from_raw(pid) else {
        return false;
    };
    if rustix::process::test_kill_process(process) == Err(Errno::SRCH) {
        return false;
    }
    let Some(process) = Process::read(pid) else {
        return true;
    };
    // A clock that was set forward makes old processes look young, so the name has to say so too.
    let somebody_else = !process.name.starts_with("gs_probackup")
        && process.started_at > written_at.saturating_add(CLOCK_SLACK_S)
        && pid != own_pid();
    !process.is_dead && !somebody_else
}

/// When the process began, in ticks since boot; ids are given again, but not with the same start.
pub(super) fn start_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

// What /proc says about a process.
struct Process {
    name: String,
    is_dead: bool,
    started_at: i64,
}

impl Process {
    fn read(pid: i32) -> Option<Process> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let boot = std::fs::read_to_string("/proc/stat").ok()?;
        Process::parse(&stat, &boot)
    }

    // `pid (name) state ppid …`, the 22nd field being the start in hundredths of a second since
    // boot.
    fn parse(stat: &str, boot: &str) -> Option<Process> {
        let (head, fields) = stat.rsplit_once(')')?;
        let name = head.split_once('(')?.1.to_owned();
        let fields = fields.split_ascii_whitespace().collect::<Vec<_>>();
        let ticks = fields.get(19)?.parse::<i64>().ok()?;
        let booted_at = boot
            .lines()
            .find_map(|line| line.strip_prefix("btime "))?
            .trim()
            .parse::<i64>()
            .ok()?;
        Some(Process {
            name,
            is_dead: matches!(*fields.first()?, "Z" | "X"),
            started_at: booted_at + ticks / 100,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_processes_may_hold_anything() {
        let stat = "12 (a) b (c)) Z 1 12 12 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 12345 0";
        let process = Process::parse(stat, "cpu 1\nbtime 1000\n").unwrap();
        assert_eq!(process.name, "a) b (c)");
        assert!(process.is_dead);
        assert_eq!(process.started_at, 1123);
        assert!(Process::parse("12 sh S", "btime 1\n").is_none());
    }

    #[test]
    fn this_process_is_alive_and_no_process_has_an_id_beyond_the_kernels_limit() {
        assert!(is_alive(own_pid(), 0));
        assert!(!is_alive(i32::MAX, 0));
    }
}
