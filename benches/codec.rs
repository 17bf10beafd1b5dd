//! Size and speed of every page compression, beside the libraries and the original they replace.
//!
//! `cargo bench --bench codec` prints one table a set of pages:
//!
//! * `table`: heap pages of the generated cluster that the demo and the other benches use, as
//!   compressible as the table on which the original was measured;
//! * `rows`: heap pages of rows of words and random numbers, less compressible, the hard case;
//! * `fixtures`: the distinct pages of a real instance, as the original's pglz catalog holds them
//!   (`GS_FIXTURES`, else `../shared/fixtures`; left out aloud where absent).
//!
//! Speeds are of one thread, in bytes of pages a second, each short run of pages counted with the
//! fastest of several tries. Sizes are payload bytes over page bytes, pages that do not shrink
//! counted whole. A word after `--` chooses the lines that contain it: `-- pglz`.

#![expect(clippy::print_stdout, reason = "the table is what the bench is for")]

use flate2::{FlushCompress, FlushDecompress};
use gs_probackup::codec::pglz::reference;
use gs_probackup::codec::{Compressor, Decompressor};
use gs_probackup::sample::{self, SampleOptions};
use gs_probackup::types::{CompressAlgorithm, PAGE_SIZE};
use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Bytes of the cluster whose tables are measured.
const SAMPLE_BYTES: u64 = 32 * 1024 * 1024;

/// Pages of the generated set.
const ROW_PAGES: usize = 1024;

/// Pages of the other set at most.
const FIXTURE_PAGES: usize = 4096;

/// Pages between two looks at the clock: about a millisecond of work.
const RUN_ITEMS: usize = 32;

/// How often each run is measured.
const TRIES: usize = 7;

/// A page to a payload, whose length is returned unless it is no shorter.
type Compress<'a> = dyn FnMut(&[u8], &mut [u8]) -> Option<usize> + 'a;

/// A payload to a page.
type Decompress<'a> = dyn FnMut(&[u8], &mut [u8]) + 'a;

fn main() {
    let mut sets = vec![table(), rows()];
    sets.extend(fixtures());
    for set in &sets {
        println!(
            "\n{}: {} pages, {:.1} MB",
            set.name,
            set.pages.len() / PAGE_SIZE,
            megabytes(set.pages.len())
        );
        println!(
            "{:<26} {:>8} {:>14} {:>16}",
            "codec", "size", "compress MB/s", "decompress MB/s"
        );
        print_pglz(set);
        print_zlib(set);
        print_ours(set, "lz4 (liblz4)", CompressAlgorithm::Lz4, 0);
        for level in [1, 3] {
            print_ours(
                set,
                &format!("zstd-{level} (libzstd)"),
                CompressAlgorithm::Zstd,
                level,
            );
        }
    }
}

fn print_pglz(set: &PageSet) {
    let mut ours = Decompressor::new();
    print_row(
        "pglz, the original's",
        set,
        &mut |page, out| {
            let stream = reference::compress(page);
            (stream.len() < page.len()).then(|| {
                out[..stream.len()].copy_from_slice(&stream);
                stream.len()
            })
        },
        &mut |payload, page| {
            ours.decompress(CompressAlgorithm::Pglz, payload, page)
                .expect("own payload");
        },
    );
    print_ours(set, "pglz, ours", CompressAlgorithm::Pglz, 0);
}

fn print_zlib(set: &PageSet) {
    for level in 1..=9 {
        let mut deflate = flate2::Compress::new(flate2::Compression::new(level), true);
        let mut inflate = flate2::Decompress::new(true);
        print_row(
            &format!("zlib-{level} (zlib)"),
            set,
            &mut |page, out| {
                deflate.reset();
                let room = page.len() - 1;
                deflate
                    .compress(page, &mut out[..room], FlushCompress::Finish)
                    .ok()
                    .filter(|status| *status == flate2::Status::StreamEnd)
                    .map(|_| usize::try_from(deflate.total_out()).expect("a page"))
            },
            &mut |payload, page| {
                inflate.reset(true);
                inflate
                    .decompress(payload, page, FlushDecompress::Finish)
                    .expect("own payload");
            },
        );
        print_ours(
            set,
            &format!("zlib-{level} (libdeflate)"),
            CompressAlgorithm::Zlib,
            level,
        );
    }
}

fn print_ours(set: &PageSet, name: &str, algorithm: CompressAlgorithm, level: u32) {
    let mut compressor = Compressor::new(algorithm, level);
    let mut decompressor = Decompressor::new();
    print_row(
        name,
        set,
        &mut |page, out| compressor.compress(page, out),
        &mut |payload, page| {
            decompressor
                .decompress(algorithm, payload, page)
                .expect("own payload");
        },
    );
}

/// Measures one codec over one set and prints its line.
fn print_row(
    name: &str,
    set: &PageSet,
    compress: &mut Compress<'_>,
    decompress: &mut Decompress<'_>,
) {
    // Cargo adds `--bench`; what does not begin with a dash chooses the lines that contain it.
    if std::env::args()
        .skip(1)
        .any(|argument| !argument.starts_with('-') && !name.contains(&argument))
    {
        return;
    }
    let mut out = vec![0; PAGE_SIZE];
    let pages: Vec<&[u8]> = set.pages.chunks_exact(PAGE_SIZE).collect();
    let payloads: Vec<Vec<u8>> = pages
        .iter()
        .filter_map(|page| compress(page, &mut out).map(|bytes| out[..bytes].to_vec()))
        .collect();
    let payload_bytes =
        payloads.iter().map(Vec::len).sum::<usize>() + (pages.len() - payloads.len()) * PAGE_SIZE;
    let compress_seconds = best_seconds(&pages, |page| {
        std::hint::black_box(compress(page, &mut out));
    });
    let decompress_seconds = best_seconds(&payloads, |payload| {
        decompress(payload, std::hint::black_box(&mut out));
    });
    let ratio = megabytes(payload_bytes) / megabytes(set.pages.len());
    println!(
        "{name:<26} {ratio:>8.5} {:>14.0} {:>16.0}",
        megabytes(set.pages.len()) / compress_seconds,
        megabytes(payloads.len() * PAGE_SIZE) / decompress_seconds,
    );
}

/// Seconds that `step` takes for all of `items`: the sum over short runs of items, of each run the
/// fastest of several tries, so that other work on the machine counts as little as possible.
fn best_seconds<T>(items: &[T], mut step: impl FnMut(&T)) -> f64 {
    items
        .chunks(RUN_ITEMS)
        .map(|run| {
            (0..TRIES)
                .map(|_| {
                    let begin = Instant::now();
                    run.iter().for_each(&mut step);
                    begin.elapsed().as_secs_f64()
                })
                .fold(f64::INFINITY, f64::min)
        })
        .sum()
}

fn megabytes(bytes: usize) -> f64 {
    f64::from(u32::try_from(bytes).expect("a set of pages is below 4 GiB")) / 1e6
}

/// Pages, one after another.
struct PageSet {
    name: &'static str,
    pages: Vec<u8>,
}

/// The two large heap tables of the generated cluster: short rows and long ones.
fn table() -> PageSet {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let options = SampleOptions {
        seed: 1,
        bytes: SAMPLE_BYTES,
    };
    let sample = sample::create(&scratch.path().join("sample"), &options).expect("a cluster");
    let pages = ["base/16384/16386", "base/16384/16392"]
        .map(|path| std::fs::read(sample.data_directory.join(path)).expect("a table"))
        .concat();
    PageSet {
        name: "table",
        pages,
    }
}

/// Heap pages of rows such as an application logs: ids, times, keys, words of a skewed vocabulary,
/// amounts.
fn rows() -> PageSet {
    let mut random = Random(0x5EED);
    let words: Vec<String> = (0..1000)
        .map(|_| {
            let letters = 3 + random.below(8);
            (0..letters)
                .map(|_| char::from(b"etaoinshrdlucmfwypvbgkqjxz"[random.skewed(26)]))
                .collect()
        })
        .collect();
    let mut pages = Vec::with_capacity(ROW_PAGES * PAGE_SIZE);
    let mut row_number = 0;
    for _ in 0..ROW_PAGES {
        pages.extend_from_slice(&rows_page(&mut random, &words, &mut row_number));
    }
    PageSet {
        name: "rows",
        pages,
    }
}

fn rows_page(random: &mut Random, words: &[String], row_number: &mut u32) -> [u8; PAGE_SIZE] {
    let mut page = [0; PAGE_SIZE];
    page[..8].copy_from_slice(&random.next().to_le_bytes());
    let mut lower = 40;
    let mut upper = PAGE_SIZE;
    loop {
        *row_number += 1;
        let row = row(random, words, *row_number);
        if lower + 4 + row.len() > upper {
            return page;
        }
        upper -= row.len();
        page[upper..][..row.len()].copy_from_slice(&row);
        let pointer = upper | 1 << 15 | row.len() << 17;
        let pointer = u32::try_from(pointer).expect("a line pointer has 32 bits");
        page[lower..lower + 4].copy_from_slice(&pointer.to_le_bytes());
        lower += 4;
    }
}

/// A tuple header, an id, a random key, a time, a text.
fn row(random: &mut Random, words: &[String], number: u32) -> Vec<u8> {
    let mut row = vec![0; 24];
    row[..4].copy_from_slice(&(1000 + number / 100).to_le_bytes());
    row[12..16].copy_from_slice(&(number / 60).to_le_bytes());
    row[18] = 4;
    row[22] = 24;
    row.extend_from_slice(&u64::from(number).to_le_bytes());
    row.extend_from_slice(&random.next().to_le_bytes()[..4]);
    let time = 700_000_000_000_000 + u64::from(number) * 1_234_567;
    row.extend_from_slice(&time.to_le_bytes());
    let digits = format!("{:020} ", random.next());
    row.extend_from_slice(digits.as_bytes());
    for _ in 0..4 + random.below(8) {
        row.extend_from_slice(words[random.skewed(words.len())].as_bytes());
        row.push(b' ');
    }
    let amount = format!("{}.{:02}", random.below(10_000), random.below(100));
    row.extend_from_slice(amount.as_bytes());
    row.resize(row.len().next_multiple_of(8), 0);
    row
}

/// xorshift64: the same pages in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).expect("a limit fits");
        usize::try_from(self.next() % limit).expect("below a usize")
    }

    /// Below `limit`, small numbers more often.
    fn skewed(&mut self, limit: usize) -> usize {
        self.below(limit) * self.below(limit) / limit
    }
}

/// The distinct pages of the original's pglz catalog.
fn fixtures() -> Option<PageSet> {
    let path = fixtures_directory().join("gauss/catalog_pglz.tar.zst");
    if !path.exists() {
        println!("SKIPPED: no {}: set GS_FIXTURES", path.display());
        return None;
    }
    let mut decompressor = Decompressor::new();
    let mut seen = HashSet::new();
    let mut pages = Vec::new();
    let mut page = [0; PAGE_SIZE];
    for_each_data_file(&path, &mut |bytes| {
        for payload in records(bytes) {
            decompressor
                .decompress(CompressAlgorithm::Pglz, payload, &mut page)
                .expect("the original's payload");
            if seen.insert(blake3::hash(&page)) {
                pages.extend_from_slice(&page);
            }
        }
    });
    // Evenly chosen, so that every kind of relation is among them.
    let stride = (pages.len() / PAGE_SIZE).div_ceil(FIXTURE_PAGES);
    let pages = pages
        .chunks_exact(PAGE_SIZE)
        .step_by(stride)
        .flatten()
        .copied()
        .collect();
    Some(PageSet {
        name: "fixtures",
        pages,
    })
}

fn fixtures_directory() -> PathBuf {
    std::env::var_os("GS_FIXTURES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures"),
        PathBuf::from,
    )
}

/// Calls `visit` with each file below `base/` that is nothing but page records.
fn for_each_data_file(path: &Path, visit: &mut dyn FnMut(&[u8])) {
    let file = std::fs::File::open(path).expect("the catalog opens");
    let mut decoder = zstd::Decoder::new(file).expect("the catalog is zstd");
    decoder.window_log_max(27).expect("a window of 128 MiB");
    let mut archive = tar::Archive::new(decoder);
    for entry in archive.entries().expect("the catalog is a tar") {
        let mut entry = entry.expect("an entry");
        let name = entry.path().expect("a name").to_string_lossy().into_owned();
        if !name.contains("/database/base/") || !entry.header().entry_type().is_file() {
            continue;
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("the entry's bytes");
        if records(&bytes)
            .map(|payload| payload.len() + 8)
            .sum::<usize>()
            == bytes.len()
        {
            visit(&bytes);
        }
    }
}

/// Payloads of a backup's data file, up to the first thing that is no record.
fn records(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    let mut next_block = 0;
    std::iter::from_fn(move || {
        let (header, tail) = rest.split_first_chunk::<8>()?;
        let [block, payload_bytes] = [&header[..4], &header[4..]]
            .map(|half| u32::from_le_bytes(half.try_into().expect("four bytes")));
        let payload_bytes = usize::try_from(payload_bytes).ok()?;
        if block < next_block || !(1..=PAGE_SIZE).contains(&payload_bytes) {
            return None;
        }
        next_block = block + 1;
        let (payload, tail) = tail.split_at_checked(payload_bytes)?;
        rest = tail;
        Some(payload)
    })
}
