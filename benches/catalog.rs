//! A catalog of many files: `show`, and finding a parent's files as an increment does.
//!
//! `cargo bench --bench catalog` prints one table: wall time, CPU time and peak memory, each of a
//! process of its own, the fastest of three. Environment:
//!
//! * `GS_BENCH_DIR`: where to work, about 300 MB for each million files; default `target/bench`
//! * `GS_BENCH_FILES`: files of each backup; default 1 000 000

#![expect(clippy::print_stdout, reason = "the table is what the bench is for")]

use gs_probackup::catalog::Catalog;
use gs_probackup::format::catalog::Root;
use gs_probackup::testing::large_catalog::{self, INSTANCE};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const TRIES: usize = 3;

/// Says in the environment of a child which job it is to do; the catalog is its argument.
const JOB: &str = "GS_BENCH_CATALOG_JOB";

const INCREMENTS: usize = 3;

/// Files of a directory of that catalog.
const DIRECTORY: usize = 50_000;

fn main() {
    let setting = |name: &str| std::env::var(name).ok();
    if let Some(job) = setting(JOB) {
        let catalog = setting("GS_BENCH_CATALOG").expect("the parent names the catalog");
        let files = setting("GS_BENCH_FILES").expect("the parent says how many files there are");
        let files = files.parse().expect("a number");
        return child(&job, Path::new(&catalog), files);
    }
    let files: usize = setting("GS_BENCH_FILES").map_or(1_000_000, |text| {
        text.parse().expect("GS_BENCH_FILES is a number")
    });
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench").to_owned();
    let directory = PathBuf::from(setting("GS_BENCH_DIR").unwrap_or(default));
    let directory = directory.join(format!("catalog-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("GS_BENCH_DIR can be written");
    let catalog = directory.join("catalog");
    large_catalog::create(&catalog, Path::new("/data"), files, INCREMENTS)
        .expect("the catalog can be made");
    println!("{files} files, a FULL backup and {INCREMENTS} increments");
    println!(
        "{:<34} {:>8} {:>8} {:>9}",
        "job", "wall s", "cpu s", "peak MiB"
    );
    for job in ["nothing", "show", "parent"] {
        let runs = (0..TRIES).map(|_| measure(job, &catalog, files));
        let fastest = runs.min_by_key(|(wall, ..)| *wall).expect("there is a try");
        let (wall, cpu, peak) = fastest;
        println!(
            "{job:<34} {:>8.3} {:>8.3} {peak:>9}",
            wall.as_secs_f64(),
            cpu.as_secs_f64()
        );
    }
    fs::remove_dir_all(&directory).expect("the bench's own directory can be removed");
}

/// Runs a job in a process of its own: wall time and CPU time of the job, peak memory in MiB.
fn measure(job: &str, catalog: &Path, files: usize) -> (Duration, Duration, u64) {
    let output = Command::new(std::env::current_exe().expect("a running program has a file"))
        .env(JOB, job)
        .env("GS_BENCH_CATALOG", catalog)
        .env("GS_BENCH_FILES", files.to_string())
        .output()
        .expect("the bench can be started");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers: Vec<u64> = text
        .split_whitespace()
        .map(|number| number.parse().expect("the child prints numbers"))
        .collect();
    let micros = Duration::from_micros;
    (micros(numbers[0]), micros(numbers[1]), numbers[2])
}

/// Does a job and prints what it took.
fn child(job: &str, catalog: &Path, files: usize) {
    let cpu_before = cpu_time();
    let began = Instant::now();
    match job {
        "nothing" => {}
        "show" => {
            let options = gs_probackup::command::show::Options {
                catalog: catalog.to_owned(),
                instance: None,
                backup_id: None,
            };
            let report = gs_probackup::command::show::run(&options).expect("it can be shown");
            assert_eq!(report.instances[0].backups.len(), 1 + INCREMENTS);
        }
        "parent" => {
            let instance = Catalog::open(catalog)
                .and_then(|catalog| catalog.instance(INSTANCE))
                .expect("it was made");
            let newest = &instance.backups().expect("they were made")[0];
            let control = newest.control.as_ref().expect("it can be read");
            let list = newest.open().read_content_list(control.content_crc);
            let list = list.expect("it can be read");
            // As an increment asks: directory after directory, in each in any order.
            let step = 7_919;
            let any = |number: usize| number - number % DIRECTORY + number * step % DIRECTORY;
            for number in (0..files).map(any).filter(|number| *number < files) {
                let path = large_catalog::path(number);
                assert!(list.find(&path, Root::Data).is_some(), "{path}");
            }
        }
        other => panic!("no such job: {other}"),
    }
    let wall = began.elapsed();
    let cpu = cpu_time() - cpu_before;
    println!("{} {} {}", wall.as_micros(), cpu.as_micros(), peak_mib());
}

/// User and system time of this process, in the kernel's ticks of 10 ms.
fn cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").expect("there is /proc");
    let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
    let fields = fields.split(' ').skip(11).take(2);
    let ticks = fields.map(|field| field.parse::<u64>().expect("a number"));
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

fn peak_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("there is /proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.trim().parse::<u64>().ok())
        .expect("a peak")
        / 1024
}
