//! The I/O engines against a plain loop of the standard library: one big file, read and written in
//! extents, and read page by page at random.
//!
//! ```text
//! cargo bench --bench read_engine                 # all rows
//! cargo bench --bench read_engine -- direct       # rows whose name contains a word
//! ```
//!
//! `GS_BENCH_DIR` names a directory on the device to measure (default: cargo's scratch directory),
//! `GS_BENCH_MIB` the file's size (1024), `GS_BENCH_ROUNDS` how often each row is measured (5).
//! Rows of one group take turns, so that a neighbour's noise hits all of them; the table shows the
//! median, the best, the ratio of the medians to the first row of the group, and the CPU time of a
//! round (in steps of 10 ms, averaged).
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench prints, and stops at any failure"
)]

use gs_probackup::io::{BlockIo, BufferPool, EngineChoice, File, Request, open};
use gs_probackup::limits::{BUFFER_BYTES, EXTENT_BYTES_MAX};
use gs_probackup::storage::{Posix, Storage};
use gs_probackup::types::PAGE_SIZE;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Page reads of one round.
const PAGE_READS: u64 = 20_000;

struct Place {
    tree: Posix,
    path: PathBuf,
    bytes: u64,
    rounds: usize,
    filter: Vec<String>,
}

/// What one row does.
#[derive(Clone, Copy)]
enum Action {
    Read,
    ReadPages,
    Write,
}

struct Row {
    name: String,
    run: Box<dyn Fn(&Place) -> Duration>,
    times: Vec<Duration>,
    /// Of all rounds together, with what it takes to prepare them.
    cpu: Duration,
}

fn main() {
    let directory = std::env::var_os("GS_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let scratch = tempfile::tempdir_in(directory).unwrap();
    let place = Place {
        tree: Posix::open(scratch.path()).unwrap(),
        path: scratch.path().to_owned(),
        bytes: number("GS_BENCH_MIB", 1024) * 1024 * 1024,
        rounds: usize::try_from(number("GS_BENCH_ROUNDS", 5)).unwrap(),
        filter: std::env::args()
            .skip(1)
            .filter(|word| !word.starts_with('-'))
            .collect(),
    };
    plain_write(&place, "data");
    let mib = place.bytes >> 20;
    println!("{mib} MiB in {}", place.path.display());

    group(&place, "read, in the page cache", read_rows(false, false));
    group(
        &place,
        "read, not in the page cache",
        read_rows(true, false),
    );
    group(&place, "read, O_DIRECT", read_rows(true, true));
    group(&place, "read 8 KiB pages at random, O_DIRECT", page_rows());
    group(&place, "write a new file and fsync", write_rows(false));
    group(
        &place,
        "write a new file and fsync, O_DIRECT",
        write_rows(true),
    );
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |value| value.parse().unwrap())
}

fn group(place: &Place, name: &str, mut rows: Vec<Row>) {
    let wanted = |row: &Row| {
        let full = format!("{name} {}", row.name);
        place.filter.iter().all(|word| full.contains(word.as_str()))
    };
    rows.retain(wanted);
    if rows.is_empty() {
        return;
    }
    for _ in 0..place.rounds {
        for row in &mut rows {
            let before = cpu_time();
            let time = (row.run)(place);
            row.times.push(time);
            row.cpu += cpu_time() - before;
        }
    }
    println!(
        "\n{name}\n{:42} {:>9} {:>9} {:>7}",
        "", "median", "best", "ratio"
    );
    let mut first = None;
    for row in &mut rows {
        row.times.sort();
        let median = row.times[row.times.len() / 2];
        let first = *first.get_or_insert(median);
        println!(
            "{:42} {:>7.0}ms {:>7.0}ms {:>7.2} {:>7.0}ms",
            row.name,
            median.as_secs_f64() * 1e3,
            row.times[0].as_secs_f64() * 1e3,
            first.as_secs_f64() / median.as_secs_f64(),
            row.cpu.as_secs_f64() * 1e3 / row.times.len() as f64,
        );
    }
}

/// User and system time of this process and all its threads, the kernel's workers included.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(ticks * 10)
}

fn row(name: impl Into<String>, run: impl Fn(&Place) -> Duration + 'static) -> Row {
    Row {
        name: name.into(),
        run: Box::new(run),
        times: Vec::new(),
        cpu: Duration::ZERO,
    }
}

fn read_rows(cold: bool, direct: bool) -> Vec<Row> {
    let mut rows = vec![row("std read loop, buffered", move |place| {
        plain_read(place, cold)
    })];
    rows.extend(engine_rows(Action::Read, cold, direct));
    rows
}

fn page_rows() -> Vec<Row> {
    engine_rows(Action::ReadPages, true, true)
}

fn write_rows(direct: bool) -> Vec<Row> {
    let mut rows = vec![row("std write loop, buffered", |place| {
        plain_write(place, "new")
    })];
    rows.extend(engine_rows(Action::Write, false, direct));
    rows
}

fn engine_rows(action: Action, cold: bool, direct: bool) -> Vec<Row> {
    let engines = [
        ("pread/pwrite", EngineChoice::Sync, true),
        ("io_uring", EngineChoice::Ring, true),
        ("io_uring, unregistered", EngineChoice::Ring, false),
    ];
    let mut rows = Vec::new();
    for depth in [1u32, 8, 32] {
        for (name, choice, registered) in engines {
            let job = Job {
                action,
                choice,
                depth,
                registered,
                cold,
                direct,
            };
            rows.push(row(format!("{name}, depth {depth}"), move |place| {
                job.run(place)
            }));
        }
    }
    rows
}

fn plain_read(place: &Place, cold: bool) -> Duration {
    prepare(place, cold);
    let mut file = std::fs::File::open(place.path.join("data")).unwrap();
    let mut buffer = vec![0; EXTENT_BYTES_MAX];
    let start = Instant::now();
    while file.read(&mut buffer).unwrap() > 0 {}
    start.elapsed()
}

fn plain_write(place: &Place, name: &str) -> Duration {
    let path = place.path.join(name);
    let _ = std::fs::remove_file(&path);
    let start = Instant::now();
    let mut file = std::fs::File::create(path).unwrap();
    let buffer: Vec<u8> = (0..=u8::MAX).cycle().take(EXTENT_BYTES_MAX).collect();
    while file.stream_position().unwrap() < place.bytes {
        file.write_all(&buffer).unwrap();
    }
    file.sync_all().unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    start.elapsed()
}

/// Brings the data file into the page cache, or out of it.
fn prepare(place: &Place, cold: bool) {
    if cold {
        place
            .tree
            .open_read(Path::new("data"), false)
            .unwrap()
            .drop_cache();
    } else {
        std::io::copy(
            &mut std::fs::File::open(place.path.join("data")).unwrap(),
            &mut std::io::sink(),
        )
        .unwrap();
    }
}

/// One row of an engine.
#[derive(Clone, Copy)]
struct Job {
    action: Action,
    choice: EngineChoice,
    depth: u32,
    registered: bool,
    cold: bool,
    direct: bool,
}

impl Job {
    fn run(self, place: &Place) -> Duration {
        let buffers = BufferPool::new(usize::try_from(self.depth).unwrap());
        let other = BufferPool::new(1);
        let registered = if self.registered { &buffers } else { &other };
        let mut engine = open(self.choice, registered, self.depth).unwrap();
        // The first touch of memory is the pool's cost, not the engine's.
        let taken: Vec<_> = std::iter::from_fn(|| buffers.try_take()).collect();
        for mut buffer in taken {
            buffer.whole_mut().fill(1);
        }

        let file = match self.action {
            Action::Read | Action::ReadPages => {
                prepare(place, self.cold);
                place
                    .tree
                    .open_read(Path::new("data"), self.direct)
                    .unwrap()
            }
            Action::Write => {
                let _ = place.tree.remove_file(Path::new("new"));
                place
                    .tree
                    .create(Path::new("new"), 0o600, self.direct)
                    .unwrap()
            }
        };
        let file = Arc::new(file);
        let start = Instant::now();
        self.transfer(engine.as_mut(), &buffers, &file, place.bytes);
        if matches!(self.action, Action::Write) {
            file.sync().unwrap();
        }
        start.elapsed()
    }

    fn transfer(self, engine: &mut dyn BlockIo, pool: &BufferPool, file: &Arc<File>, bytes: u64) {
        let extents = bytes / EXTENT_BYTES_MAX as u64;
        let requests = match self.action {
            Action::Read | Action::Write => extents,
            Action::ReadPages => PAGE_READS,
        };
        let mut done = Vec::new();
        let mut next = 0;
        let mut finished = 0;
        while finished < requests {
            while next < requests {
                let Some(mut buffer) = pool.try_take() else {
                    break;
                };
                let file = Arc::clone(file);
                let offset = next * EXTENT_BYTES_MAX as u64;
                let request = match self.action {
                    Action::Read => Request::Read {
                        memory_offset: 0,
                        file,
                        offset,
                        length: EXTENT_BYTES_MAX,
                        buffer,
                    },
                    Action::ReadPages => {
                        let page = next.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
                        let offset = page % (bytes / PAGE_SIZE as u64) * PAGE_SIZE as u64;
                        Request::Read {
                            memory_offset: 0,
                            file,
                            offset,
                            length: PAGE_SIZE,
                            buffer,
                        }
                    }
                    Action::Write => {
                        buffer.set_range(0..EXTENT_BYTES_MAX.min(BUFFER_BYTES));
                        Request::Write {
                            file,
                            offset,
                            buffer,
                        }
                    }
                };
                engine.submit(next, request);
                next += 1;
            }
            engine.wait(&mut done, None).unwrap();
            finished += done.len() as u64;
            for completion in done.drain(..) {
                completion.result.unwrap();
            }
        }
    }
}
