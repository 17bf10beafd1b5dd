//! Who a line of a lock file speaks of, and whether that process is still there.
//!
//! The original writes a process id and reads a line as far as its digits go. Behind the id there
//! is room for what makes it unique among hosts and boots, which the original passes over:
//!
//! ```text
//! 4711 host=db1 machine=0f…9c boot=6b2e…-…-…d1 ns=4026531836 start=81234 since=1795240369
//! ```
//!
//! `machine` is `/etc/machine-id`, `boot` changes with every start of the kernel, `ns` is the
//! namespace that the id counts in (containers have their own), `start` is when the process began,
//! in ticks since boot: an id that was given away again has another. A field that is not known is
//! `-`. Lines stay below the 256 bytes that the original reads at a time.

use super::process::{is_alive, own_pid, start_ticks};
use std::fmt;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// What stands for a field that is not known.
const UNKNOWN: &str = "-";
/// Characters of a name that are kept.
const NAME_BYTES_MAX: usize = 64;

/// Where a process runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) host: String,
    machine: String,
    boot: String,
    namespace: u64,
}

impl Place {
    /// Where this process runs.
    pub(super) fn own() -> &'static Place {
        static OWN: OnceLock<Place> = OnceLock::new();
        OWN.get_or_init(|| {
            let file = |path| std::fs::read_to_string(path).unwrap_or_default();
            let name = rustix::system::uname();
            Place {
                host: word(&name.nodename().to_string_lossy()),
                machine: word(file("/etc/machine-id").trim()),
                boot: word(file("/proc/sys/kernel/random/boot_id").trim()),
                namespace: std::fs::read_link("/proc/self/ns/pid")
                    .ok()
                    .and_then(|link| namespace_number(&link.to_string_lossy()))
                    .unwrap_or(0),
            }
        })
    }

    fn is_same_host(&self, other: &Place) -> bool {
        self.host == other.host && self.machine == other.machine
    }

    fn has_same_kernel(&self, other: &Place) -> bool {
        self.boot == other.boot && (self.boot != UNKNOWN || self.is_same_host(other))
    }
}

// `pid:[4026531836]`
fn namespace_number(link: &str) -> Option<u64> {
    link.split_once('[')?.1.strip_suffix(']')?.parse().ok()
}

// A value that is one word of a line.
fn word(text: &str) -> String {
    let kept = text.chars().take(NAME_BYTES_MAX).map(|character| {
        let is_plain = character.is_ascii_alphanumeric() || "._-".contains(character);
        if is_plain { character } else { '_' }
    });
    let word: String = kept.collect();
    if word.is_empty() {
        UNKNOWN.to_owned()
    } else {
        word
    }
}

/// Whether a process that is named in a lock file is still there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Alive,
    Dead,
    /// It counts in another container of this machine: only a file lock that it holds can tell.
    OtherContainer,
    /// It is one of another machine, which cannot be asked.
    OtherHost,
}

/// A line of a lock file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct LockLine {
    pub(super) pid: i32,
    /// Absent in lines of the original.
    pub(super) place: Option<Place>,
    start: Option<u64>,
    since: Option<i64>,
}

impl LockLine {
    /// That of this process, from now on.
    pub(super) fn own() -> LockLine {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        LockLine {
            pid: own_pid(),
            place: Some(Place::own().clone()),
            start: start_ticks(own_pid()),
            since: now.ok().and_then(|now| i64::try_from(now.as_secs()).ok()),
        }
    }

    /// Reads a line; `None` where it does not begin with a process id.
    pub(super) fn parse(line: &str) -> Option<LockLine> {
        let mut words = line.split_ascii_whitespace();
        let pid = words.next()?.parse::<i32>().ok().filter(|pid| *pid > 0)?;
        let (mut host, mut machine, mut boot) = (None, None, None);
        let (mut namespace, mut start, mut since) = (None, None, None);
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "host" => host = Some(word(value)),
                "machine" => machine = Some(word(value)),
                "boot" => boot = Some(word(value)),
                "ns" => namespace = value.parse().ok(),
                "start" => start = value.parse().ok(),
                "since" => since = value.parse().ok(),
                _ => {}
            }
        }
        let place = match (host, boot) {
            (Some(host), Some(boot)) => Some(Place {
                host,
                machine: machine.unwrap_or_else(|| UNKNOWN.to_owned()),
                boot,
                namespace: namespace.unwrap_or(0),
            }),
            _ => None,
        };
        Some(LockLine {
            pid,
            place,
            start,
            since,
        })
    }

    /// Since when it is there; `written_at` is the time of its file.
    pub(super) fn since(&self, written_at: i64) -> i64 {
        self.since.unwrap_or(written_at)
    }

    /// Whether this process is meant. The original's lines say no more than the id.
    pub(super) fn is_own(&self) -> bool {
        let same_start = self.start.is_none() || self.start == start_ticks(own_pid());
        let same_place = self
            .place
            .as_ref()
            .is_none_or(|place| place == Place::own());
        self.pid == own_pid() && same_place && same_start
    }

    /// Whether the process is one of this machine and container.
    pub(super) fn is_here(&self, written_at: i64) -> bool {
        match &self.place {
            Some(place) => {
                place.has_same_kernel(Place::own()) && place.namespace == Place::own().namespace
            }
            None => is_alive(self.pid, written_at),
        }
    }

    /// The name of its host, as far as it is known.
    pub(super) fn host(&self, written_at: i64) -> Option<String> {
        match &self.place {
            Some(place) => Some(place.host.clone()),
            None => is_alive(self.pid, written_at).then(|| Place::own().host.clone()),
        }
    }

    /// Judges by what can be seen from here.
    pub(super) fn verdict(&self, written_at: i64) -> Verdict {
        let alive = |is_alive| {
            if is_alive {
                Verdict::Alive
            } else {
                Verdict::Dead
            }
        };
        let own = Place::own();
        match &self.place {
            None => alive(is_alive(self.pid, written_at)),
            Some(place) if place.has_same_kernel(own) => {
                if place.namespace != own.namespace {
                    return Verdict::OtherContainer;
                }
                let same = match (self.start, start_ticks(self.pid)) {
                    (Some(then), Some(now)) => then == now,
                    _ => true,
                };
                alive(same && is_alive(self.pid, i64::MAX))
            }
            // The kernel that it ran on is gone.
            Some(place) if place.is_same_host(own) && place.machine != UNKNOWN => Verdict::Dead,
            Some(_) => Verdict::OtherHost,
        }
    }
}

impl fmt::Display for LockLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.pid)?;
        if let Some(place) = &self.place {
            let (host, machine, boot) = (&place.host, &place.machine, &place.boot);
            write!(f, " host={host} machine={machine} boot={boot}")?;
            write!(f, " ns={}", place.namespace)?;
        }
        if let Some(start) = self.start {
            write!(f, " start={start}")?;
        }
        if let Some(since) = self.since {
            write!(f, " since={since}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_this_process_reads_back_and_the_original_finds_the_id_in_it() {
        let own = LockLine::own();
        let text = own.to_string();
        assert_eq!(LockLine::parse(&text), Some(own.clone()));
        assert!(own.is_own() && own.is_here(0));
        assert_eq!(own.verdict(0), Verdict::Alive);
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        assert_eq!(digits, std::process::id().to_string());
        let longest = LockLine {
            pid: i32::MAX,
            place: Some(Place {
                host: word(&"h".repeat(300)),
                machine: "a".repeat(32),
                boot: "b".repeat(36),
                namespace: u64::from(u32::MAX),
            }),
            start: Some(u64::MAX),
            since: Some(9_999_999_999),
        };
        assert!(longest.to_string().len() < 255);
    }

    #[test]
    fn lines_of_the_original_and_broken_ones_are_read_as_far_as_they_go() {
        let bare = LockLine::parse("17").unwrap();
        assert_eq!((bare.pid, bare.place), (17, None));
        let strange = LockLine::parse(" 17 host=a\u{1b}b boot=x what=ever start=?\n").unwrap();
        assert_eq!(strange.place.unwrap().host, "a_b");
        for text in ["", " ", "x", "-5", "0", "17x", "99999999999", "\0"] {
            assert_eq!(LockLine::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn host_boot_container_and_start_decide_what_can_be_known() {
        let own = LockLine::own();
        let with = |change: &dyn Fn(&mut LockLine)| {
            let mut line = own.clone();
            change(&mut line);
            line.verdict(0)
        };
        let place = |change: fn(&mut Place)| {
            with(&|line| change(line.place.as_mut().expect("own lines have one")))
        };
        assert_eq!(with(&|line| line.start = Some(1)), Verdict::Dead);
        assert_eq!(with(&|line| line.pid = i32::MAX), Verdict::Dead);
        assert_eq!(place(|p| p.namespace += 1), Verdict::OtherContainer);
        assert_eq!(
            place(|p| {
                p.boot = "other".to_owned();
                p.host = "other".to_owned();
            }),
            Verdict::OtherHost
        );
        let rebooted = place(|p| p.boot = "other".to_owned());
        let expected = if Place::own().machine == UNKNOWN {
            Verdict::OtherHost
        } else {
            Verdict::Dead
        };
        assert_eq!(rebooted, expected);
        assert_eq!(
            place(|p| {
                p.boot = "other".to_owned();
                p.machine = "other".to_owned();
            }),
            Verdict::OtherHost
        );
    }
}
