//! Page checksums over an extent that fits the cache, and over memory that does not.

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use gs_probackup::format::page::{PageVerdict, page_checksum, page_checksums, verify_pages};
use gs_probackup::types::{BlockNumber, PAGE_SIZE};

fn main() {
    divan::main();
}

const SIZES: [usize; 2] = [1 << 20, 256 << 20];

fn pages(bytes: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_le_bytes()[7]
    };
    (0..bytes).map(|_| next()).collect()
}

#[divan::bench(args = SIZES)]
fn one_page_at_a_time(bencher: Bencher, bytes: usize) {
    let pages = pages(bytes);
    bencher.counter(BytesCount::new(bytes)).bench_local(|| {
        for (page, block) in black_box(&pages).chunks_exact(PAGE_SIZE).zip(0..) {
            black_box(page_checksum(page, BlockNumber(block)));
        }
    });
}

#[divan::bench(args = SIZES)]
fn pages_side_by_side(bencher: Bencher, bytes: usize) {
    let pages = pages(bytes);
    let mut sums = vec![0; bytes / PAGE_SIZE];
    bencher
        .counter(BytesCount::new(bytes))
        .bench_local(|| page_checksums(black_box(&pages), BlockNumber(0), black_box(&mut sums)));
}

#[divan::bench(args = SIZES)]
fn verdicts(bencher: Bencher, bytes: usize) {
    let mut pages = pages(bytes);
    for (page, block) in pages.chunks_exact_mut(PAGE_SIZE).zip(0..) {
        page[10..20].copy_from_slice(&[0x40, 0, 40, 0, 0, 0x10, 0, 0x20, 6, 0x20]);
        let checksum = page_checksum(page, BlockNumber(block));
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
    }
    let mut verdicts = Vec::with_capacity(bytes / PAGE_SIZE);
    bencher.counter(BytesCount::new(bytes)).bench_local(|| {
        verdicts.clear();
        verify_pages(black_box(&pages), BlockNumber(0), &mut verdicts);
        black_box(&verdicts);
    });
    assert!(
        verdicts
            .iter()
            .all(|verdict| matches!(verdict, PageVerdict::Valid { .. }))
    );
}

#[divan::bench(args = SIZES)]
fn verdicts_on_zeros(bencher: Bencher, bytes: usize) {
    let pages = vec![0; bytes];
    let mut verdicts = Vec::with_capacity(bytes / PAGE_SIZE);
    bencher.counter(BytesCount::new(bytes)).bench_local(|| {
        verdicts.clear();
        verify_pages(black_box(&pages), BlockNumber(0), &mut verdicts);
        black_box(&verdicts);
    });
}
