//! The whole program on a generated cluster, beside `cp` of the same tree.
//!
//! `cargo bench --bench pipeline` prints one table: wall time, CPU time and rates of backup,
//! validate, restore and merge, and their ratio to `cp -a` followed by `sync -f`, measured in the
//! same run. Environment:
//!
//! * `GS_BENCH_DIR`: where to work, about four times the cluster's size; default `target/bench`
//! * `GS_BENCH_MIB`: relation data to generate; default 1024
//! * `GS_BENCH_THREADS`: `-j`; default 2
//! * `GS_BENCH_ONLY`: measure only these, of `none,zlib,pglz,lz4,zstd` (compressions), `chain` and
//!   `merge`; default all; `ptrack` measures increments instead, see `pipeline/ptrack.rs`
//!
//! The source stays in the page cache (it was just written and read), fsync is on, nothing is
//! validated unless it says so.

#![expect(clippy::print_stdout, reason = "the table is what the bench is for")]

#[path = "pipeline/chain.rs"]
mod chain;
#[path = "pipeline/merge.rs"]
mod merge;
#[path = "pipeline/ptrack.rs"]
mod ptrack;

use gs_probackup::sample::{self, Sample, SampleOptions};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Repetitions of each measurement; the fastest counts, because everything else only adds time.
const TRIES: usize = 3;

const MIB: f64 = 1024.0 * 1024.0;

/// What a run of a program took.
#[derive(Clone, Copy)]
struct Cost {
    wall: Duration,
    cpu: Duration,
    /// Bytes read, but for those that io_uring read.
    read: u64,
}

struct Bench {
    directory: PathBuf,
    data: PathBuf,
    tablespace: PathBuf,
    catalog: PathBuf,
    threads: String,
    bytes: f64,
}

fn main() {
    let setting =
        |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let mib: u64 = setting("GS_BENCH_MIB", "1024")
        .parse()
        .expect("GS_BENCH_MIB is a number");
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench");
    let directory = PathBuf::from(setting("GS_BENCH_DIR", default));
    let directory = directory.join(format!("pipeline-{}", std::process::id()));
    let (bench, mut sample) = Bench::new(directory, mib, setting("GS_BENCH_THREADS", "2"));
    match std::env::var("GS_BENCH_ONLY").as_deref() {
        Ok("ptrack") => ptrack::run(&bench, sample),
        _ => bench.run(&mut sample),
    }
    fs::remove_dir_all(&bench.directory).expect("the bench's own directory can be removed");
}

impl Bench {
    fn new(directory: PathBuf, mib: u64, threads: String) -> (Bench, Sample) {
        let source = directory.join("source");
        fs::create_dir_all(&source).expect("GS_BENCH_DIR can be written");
        let options = SampleOptions {
            seed: 1,
            bytes: mib << 20,
        };
        let sample = sample::create(&source, &options).expect("a cluster can be generated");
        run(Command::new("sync").arg("-f").arg(&source));
        let bench = Bench {
            catalog: directory.join("catalog"),
            data: sample.data_directory.clone(),
            tablespace: sample.tablespace.clone(),
            threads,
            bytes: tree_bytes(&source),
            directory,
        };
        bench.tool(&["init"]);
        let data = bench.data.display().to_string();
        bench.tool(&["add-instance", "--instance=b", "-D", &data]);
        (bench, sample)
    }

    fn run(&self, sample: &mut Sample) {
        println!("cluster: {:.0} MiB, -j {}", self.bytes / MIB, self.threads);
        println!(
            "{:<22} {:>8} {:>8} {:>10} {:>14} {:>8} {:>10}",
            "job", "wall s", "cpu s", "MB/s", "MB/s per core", "to cp", "size MiB"
        );
        let copy = self.copy();
        self.print("cp -a; sync -f", copy, copy, None);
        let only = std::env::var("GS_BENCH_ONLY").ok();
        let is_wanted = |algorithm: &str| match &only {
            Some(only) => only.split(',').any(|wanted| wanted == algorithm),
            None => true,
        };
        for (name, algorithm, level) in [
            ("none", "none", "1"),
            ("zlib 1", "zlib", "1"),
            ("pglz", "pglz", "1"),
            ("lz4", "lz4", "1"),
            ("zstd 1", "zstd", "1"),
        ] {
            if is_wanted(algorithm) {
                self.compression(name, algorithm, level, copy);
            }
        }
        // These change the cluster.
        if is_wanted("chain") {
            self.chain(sample, copy);
        }
        if is_wanted("merge") {
            self.merges(sample, copy);
        }
    }

    /// Copies the source's tree as an administrator would.
    fn copy(&self) -> Cost {
        let target = self.directory.join("copy");
        let source = self.directory.join("source");
        best(|| {
            let cost = run(Command::new("sh").arg("-c").arg(format!(
                "cp -a '{}' '{}' && sync -f '{}'",
                source.display(),
                target.display(),
                target.display()
            )));
            fs::remove_dir_all(&target).expect("the copy can be removed");
            cost
        })
    }

    fn compression(&self, name: &str, algorithm: &str, level: &str, copy: Cost) {
        let flags = [
            format!("--compress-algorithm={algorithm}"),
            format!("--compress-level={level}"),
            format!("-j{}", self.threads),
        ];
        let [algorithm, level, threads] = flags.each_ref().map(String::as_str);
        let backups = self.catalog.join("backups/b");
        let backup = best(|| {
            remove_backups(&backups);
            self.tool(&[
                "backup",
                "--instance=b",
                "-b",
                "FULL",
                "--offline",
                "--no-validate",
                algorithm,
                level,
                threads,
            ])
        });
        self.print(
            &format!("backup {name}"),
            backup,
            copy,
            Some(tree_bytes(&backups)),
        );
        let validate = best(|| self.tool(&["validate", "--instance=b", threads]));
        self.print(&format!("validate {name}"), validate, copy, None);
        let target = self.directory.join("restored");
        let tablespace = self.directory.join("restored.tablespace");
        let mapping = format!("{}={}", self.tablespace.display(), tablespace.display());
        let data = target.display().to_string();
        let restore = best(|| {
            let cost = self.tool(&[
                "restore",
                "--instance=b",
                "-D",
                &data,
                "-T",
                &mapping,
                "--no-validate",
                threads,
            ]);
            for directory in [&target, &tablespace] {
                fs::remove_dir_all(directory).expect("what was restored can be removed");
            }
            cost
        });
        self.print(&format!("restore {name}"), restore, copy, None);
    }

    /// Runs the program; a failure ends the bench with what it printed.
    fn tool(&self, arguments: &[&str]) -> Cost {
        run(&mut self.command(arguments))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gs_probackup"));
        command
            .arg(arguments[0])
            .arg("-B")
            .arg(&self.catalog)
            .args(&arguments[1..]);
        command
    }

    fn print(&self, job: &str, cost: Cost, copy: Cost, size: Option<f64>) {
        let wall = cost.wall.as_secs_f64();
        let cpu = cost.cpu.as_secs_f64();
        let size = size.map_or_else(String::new, |bytes| format!("{:.0}", bytes / MIB));
        println!(
            "{job:<22} {wall:>8.2} {cpu:>8.2} {:>10.0} {:>14.0} {:>8.2} {size:>10}",
            self.bytes / wall / 1e6,
            self.bytes / cpu.max(0.01) / 1e6,
            wall / copy.wall.as_secs_f64(),
        );
    }
}

fn best(mut measure: impl FnMut() -> Cost) -> Cost {
    (0..TRIES)
        .map(|_| measure())
        .min_by_key(|cost| cost.wall)
        .expect("there is a try")
}

/// Runs a command to its end.
fn run(command: &mut Command) -> Cost {
    let began = Instant::now();
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be started");
    let mut errors = child.stderr.take().expect("stderr is piped");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut errors, &mut text).expect("stderr is text");
    // Not reaped yet: the times of a dead process stay readable until then.
    let pid = rustix::process::Pid::from_child(&child);
    waitid(
        WaitId::Pid(pid),
        WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
    )
    .expect("it is ours");
    let wall = began.elapsed();
    let cpu = cpu_time(child.id());
    let read = read_bytes(child.id());
    let status = child.wait().expect("it has ended");
    assert!(status.success(), "{command:?}: {status}\n{text}");
    Cost { wall, cpu, read }
}

/// User and system time of a process and of what it waited for, in the kernel's ticks of 10 ms.
fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is not reaped");
    let (_, fields) = stat
        .rsplit_once(") ")
        .expect("the name ends with a parenthesis");
    let ticks = fields
        .split(' ')
        .skip(11)
        .take(4)
        .map(|field| field.parse::<u64>().unwrap_or(0));
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

/// Bytes that a process read, from the page cache too.
fn read_bytes(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).expect("the process is not reaped");
    let value = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    value
        .and_then(|text| text.parse().ok())
        .expect("the kernel counts")
}

fn remove_backups(directory: &Path) {
    for entry in fs::read_dir(directory).expect("the instance has a directory") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            fs::remove_dir_all(path).expect("a backup can be removed");
        }
    }
}

/// Bytes of all files below a directory.
fn tree_bytes(directory: &Path) -> f64 {
    let mut bytes = 0;
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).expect("it can be listed") {
            let entry = entry.expect("it can be listed");
            let metadata = entry.metadata().expect("it was just listed");
            if metadata.is_dir() {
                pending.push(entry.path());
            } else if metadata.is_file() {
                bytes += metadata.len();
            }
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no exact byte")]
    let bytes = bytes as f64;
    bytes
}
