//! Random copies of a file, merged, beside what is put together of them block by block.

use super::*;
use crate::codec::{Compressor, Decompressor};
use crate::format::catalog::HeaderRecords;
use crate::io::EngineChoice;
use crate::monitor::CollectingMonitor;
use crate::pipeline::chain_file::MemberFile;
use crate::pipeline::merge_overwrite::{OverwriteItem, OverwriteKind};
use crate::pipeline::merge_sources::MergePart;
use crate::pipeline::{Settings, transfer};
use crate::storage::Posix;
use crate::types::{Lsn, PAGE_SIZE, SegmentNumber};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

/// Pages of segment-page storage may be anything.
const NAME: &str = "base/16384/4";

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    fn number(&mut self, end: u32) -> u32 {
        u32::try_from(self.below(u64::from(end))).unwrap()
    }

    fn page(&mut self) -> Vec<u8> {
        let mut page = vec![0; PAGE_SIZE];
        // From well to badly compressible.
        let filled = usize::try_from(self.below(PAGE_SIZE as u64)).unwrap();
        for byte in &mut page[..filled] {
            *byte = u8::try_from(self.below(256)).unwrap();
        }
        page[PAGE_SIZE - 1] = 1;
        page
    }
}

struct Copy {
    algorithm: CompressAlgorithm,
    n_blocks: u32,
    pages: BTreeMap<u32, Vec<u8>>,
}

/// Copies of a file, newest first.
fn copies(random: &mut Random, is_alike: bool) -> Vec<Copy> {
    let count = 2 + random.below(3);
    let blocks = 200 + random.number(400);
    let made = (0..count).map(|index| {
        let is_oldest = index + 1 == count;
        let algorithms = [
            CompressAlgorithm::None,
            CompressAlgorithm::Zlib,
            CompressAlgorithm::Lz4,
        ];
        let algorithm = algorithms[usize::try_from(random.below(3)).unwrap()];
        let n_blocks = match is_alike {
            true => blocks,
            false => 1 + random.number(600),
        };
        let share = if is_alike { 20 } else { 1 + random.below(8) };
        let mut pages = BTreeMap::new();
        for block in 0..n_blocks {
            if is_oldest || random.below(share) == 0 {
                pages.insert(block, random.page());
            }
        }
        Copy {
            algorithm: match is_alike && is_oldest {
                true => CompressAlgorithm::None,
                false => algorithm,
            },
            n_blocks,
            pages,
        }
    });
    made.filter(|copy| !copy.pages.is_empty()).collect()
}

fn store(storage: &Arc<Posix>, index: usize, copy: &Copy, block_limit: u32) -> MergePart {
    let mut bytes = Vec::new();
    let mut records = Vec::new();
    let mut compressor = Compressor::new(copy.algorithm, 1);
    let mut encoded = vec![0; PAGE_SIZE];
    for (block, page) in &copy.pages {
        let payload = match compressor.compress(page, &mut encoded) {
            Some(length) => &encoded[..length],
            None => page,
        };
        records.push(PageHeaderRecord {
            lsn: Lsn::INVALID,
            block: *block,
            position: u32::try_from(bytes.len()).unwrap(),
            checksum: 0,
        });
        bytes.extend_from_slice(&record_header(*block, payload));
        bytes.extend_from_slice(payload);
    }
    let path = PathBuf::from(format!("copy{index}"));
    let file = storage.create(&path, FILE_MODE, false).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    MergePart {
        file: MemberFile {
            storage: storage.clone(),
            path,
            size: u64::try_from(bytes.len()).unwrap(),
            crc: Some(crc32c::crc32c(&bytes)),
            algorithm: copy.algorithm,
            page_checksums: true,
            knows_pages: true,
            headers: None,
        },
        block_limit,
        headers: Some(HeaderRecords {
            records,
            file_bytes: u32::try_from(bytes.len()).unwrap(),
        }),
    }
}

fn store_all(storage: &Arc<Posix>, copies: &[Copy]) -> MergeCopies {
    let mut limit = copies[0].n_blocks;
    let mut parts = Vec::new();
    for (index, copy) in copies.iter().enumerate() {
        limit = limit.min(copy.n_blocks);
        parts.push(store(storage, index, copy, limit));
    }
    MergeCopies {
        name: NAME.to_owned(),
        segno: SegmentNumber(0),
        compressed: false,
        n_blocks: copies[0].n_blocks,
        parts,
    }
}

fn expected(copies: &[Copy]) -> BTreeMap<u32, Vec<u8>> {
    let mut limit = copies[0].n_blocks;
    let mut pages = BTreeMap::new();
    for copy in copies {
        limit = limit.min(copy.n_blocks);
        for (block, page) in copy.pages.range(..limit) {
            pages.entry(*block).or_insert_with(|| page.clone());
        }
    }
    pages
}

fn settings() -> Settings {
    Settings {
        engine: EngineChoice::Sync,
        threads: 2,
        sync: false,
        cancel: Arc::default(),
    }
}

fn run(item: MergeItem) -> Result<MergedFile, PipelineError> {
    let merged = Mutex::new(None);
    let kind = MergeKind::new(2, 1, |_, file| {
        *merged.lock().unwrap() = Some(file);
        Ok(())
    });
    let monitor = CollectingMonitor::default();
    transfer(&kind, std::iter::once(Ok(item)), &settings(), &monitor)?;
    Ok(merged.into_inner().unwrap().unwrap())
}

fn overwrite(storage: &Arc<Posix>, copies: MergeCopies) {
    let path = copies.parts.last().unwrap().file.path.clone();
    let item = Ok(OverwriteItem {
        copies,
        target: storage.open_update(&path).unwrap(),
    });
    let monitor = CollectingMonitor::default();
    let kind = OverwriteKind::new(2);
    transfer(&kind, std::iter::once(item), &settings(), &monitor).unwrap();
}

fn pages_of(bytes: &[u8], algorithm: CompressAlgorithm) -> BTreeMap<u32, Vec<u8>> {
    let mut pages = BTreeMap::new();
    let mut rest = bytes;
    let mut decompressor = Decompressor::new();
    while !rest.is_empty() {
        let word = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
        let (block, length) = (word(0), usize::try_from(word(4)).unwrap());
        let mut page = vec![0; PAGE_SIZE];
        decompressor
            .decompress(algorithm, &rest[8..8 + length], &mut page)
            .unwrap();
        pages.insert(block, page);
        rest = &rest[8 + length..];
    }
    pages
}

#[test]
fn merged_file_has_the_newest_page_of_each_block_and_the_crc_that_was_foretold() {
    let (mut in_place, mut streamed) = (0, 0);
    for seed in 1..=40 {
        let mut random = Random(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed));
        let copies = copies(&mut random, seed % 3 == 0);
        let scratch = tempfile::tempdir().unwrap();
        let storage = Arc::new(Posix::open(scratch.path()).unwrap());
        let item = |target: bool, may_overwrite| MergeItem {
            id: 0,
            copies: store_all(&storage, &copies),
            target: target.then(|| (storage.clone() as Arc<dyn Storage>, "result".into())),
            may_overwrite,
        };
        let expected = expected(&copies);
        let foretold = run(item(false, false)).unwrap();
        let merged = run(item(true, true)).unwrap();
        let mut path = Path::new("result");
        let oldest = PathBuf::from(format!("copy{}", copies.len() - 1));
        if merged.in_place {
            in_place += 1;
            path = &oldest;
            let [once, again] = [(); 2].map(|()| store_all(&storage, &copies));
            let before = storage.read(path, 1 << 30).unwrap();
            overwrite(&storage, once);
            // Once more, as after a crash, onto what is new already.
            overwrite(&storage, again);
            let stays = copies.last().is_some_and(|oldest| oldest.pages == expected);
            let is_same = storage.read(path, 1 << 30).unwrap() == before;
            assert_eq!(is_same, stays, "seed {seed}");
        } else if !expected.is_empty() {
            streamed += 1;
        }
        if expected.is_empty() {
            assert_eq!(merged.size, 0, "seed {seed}");
            continue;
        }
        let bytes = storage.read(path, 1 << 30).unwrap();
        let size = u64::try_from(bytes.len()).unwrap();
        assert_eq!(
            (merged.size, merged.crc),
            (size, crc32c::crc32c(&bytes)),
            "seed {seed}"
        );
        assert_eq!(
            (foretold.size, foretold.crc),
            (merged.size, merged.crc),
            "seed {seed}"
        );
        assert!(
            pages_of(&bytes, merged.algorithm) == expected,
            "seed {seed}"
        );
        let count = merged.headers.unwrap().count;
        assert_eq!(
            usize::try_from(count).unwrap(),
            expected.len(),
            "seed {seed}"
        );
    }
    assert!(in_place > 5 && streamed > 15, "{in_place} {streamed}");
}

#[test]
fn damage_anywhere_in_the_oldest_copy_is_found_while_it_is_moved() {
    let mut random = Random(77);
    let copies = copies(&mut random, false);
    let oldest = format!("copy{}", copies.len() - 1);
    for place in [3, 5000, 1 << 20] {
        let scratch = tempfile::tempdir().unwrap();
        let storage = Arc::new(Posix::open(scratch.path()).unwrap());
        let stored = store_all(&storage, &copies);
        let path = scratch.path().join(&oldest);
        let mut bytes = std::fs::read(&path).unwrap();
        let at = place.min(bytes.len() - 1);
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let item = MergeItem {
            id: 0,
            copies: stored,
            target: Some((storage.clone() as Arc<dyn Storage>, "result".into())),
            may_overwrite: false,
        };
        let error = run(item).unwrap_err().to_string();
        assert!(error.contains("Invalid CRC"), "{place}: {error}");
    }
}
