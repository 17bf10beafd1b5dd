//! Tests of `backup.rs`: pages that are torn, files that change while they are read.

use super::*;
use crate::format::page::{page_checksum, verify_page};
use crate::io::{BufferPool, EngineChoice};
use crate::limits::{EXTENT_PAGES_MAX, PAGE_REREADS_MAX};
use crate::monitor::CollectingMonitor;
use crate::pipeline::{Settings, transfer};
use crate::storage::Posix;
use crate::types::BlockNumber;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

#[test]
fn a_plain_file_may_be_larger_than_a_segment_file() {
    let scratch = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(Posix::open(scratch.path()).unwrap());
    let create = |name: &str| storage.create(Path::new(name), 0o600, false).unwrap();
    create("core");
    let map = HeaderMapFile::new(create("map"));
    let kind = BackupKind::new(CompressAlgorithm::None, 1, 1, map);
    let item = BackupItem {
        index: 0,
        name: "core".to_owned(),
        source: storage.clone(),
        source_path: "core".into(),
        target: storage.clone(),
        target_path: "copy".into(),
        target_mode: 0o600,
        size: 1 << 40,
        content: Content::Plain,
        selection: Selection::All,
        maps: None,
    };
    let mut file = kind.open(item).unwrap().unwrap();
    file.writer = file.writer.map(|writer| writer.at(1 << 35));
    let done = BackupDone {
        crc: 0,
        range: 0..4096,
        records: Vec::new(),
        end: 0,
        short: false,
        compressed: None,
        kept: KeptCount::default(),
    };
    let buffer = BufferPool::new(1).try_take().unwrap();
    let write = kind.collect(&mut file, done, buffer, None).unwrap();
    assert_eq!(write.unwrap().runs[0].0, 1 << 35);
    kind.complete(&mut file).unwrap();
}

/// A backup of one file, with something done to the file as the CPU stage gets its extents.
struct Disturbed<D> {
    kind: BackupKind,
    /// Called with an extent's first block and its attempt, after that was read.
    disturb: D,
    /// Bytes that were asked for.
    read: AtomicUsize,
}

impl<D> Disturbed<D> {
    fn add(&self, parts: &[Range<usize>]) {
        let bytes = parts.iter().map(ExactSizeIterator::len).sum();
        self.read.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl<D: Fn(u32, u32) + Sync> Kind for Disturbed<D> {
    type Item = BackupItem;
    type File = BackupFile;
    type Extent = BackupExtent;
    type Done = BackupDone;

    fn open(&self, item: BackupItem) -> Result<Option<BackupFile>, PipelineError> {
        self.kind.open(item)
    }

    fn next_extent(&self, file: &mut BackupFile) -> Option<(ReadRange, BackupExtent)> {
        let (range, extent) = self.kind.next_extent(file)?;
        match &range.parts[..] {
            [] => self.add(std::slice::from_ref(&(0..range.length))),
            parts => self.add(parts),
        }
        Some((range, extent))
    }

    fn process(
        &self,
        extent: &mut BackupExtent,
        attempt: u32,
        input: &mut Buffer,
        output: Option<&mut Buffer>,
    ) -> Result<Processed<BackupDone>, PipelineError> {
        (self.disturb)(extent.first.0, attempt);
        let processed = self.kind.process(extent, attempt, input, output)?;
        if let Processed::Fetch(parts) = &processed {
            self.add(parts);
        }
        Ok(processed)
    }

    fn collect(
        &self,
        file: &mut BackupFile,
        done: BackupDone,
        input: Buffer,
        output: Option<Buffer>,
    ) -> Result<Option<Write>, PipelineError> {
        self.kind.collect(file, done, input, output)
    }

    fn complete(&self, file: &mut BackupFile) -> Result<(), PipelineError> {
        self.kind.complete(file)
    }

    fn seal(&self, file: &mut BackupFile) -> Result<Option<Arc<File>>, PipelineError> {
        self.kind.seal(file)
    }

    fn finish(&self, file: BackupFile) -> Result<(), PipelineError> {
        self.kind.finish(file)
    }
}

/// A valid page of `block`; no two are equal.
fn page(block: u32, lsn: u32) -> Vec<u8> {
    let mut page = vec![0; PAGE_SIZE];
    page[4..8].copy_from_slice(&lsn.to_le_bytes());
    page[12..20].copy_from_slice(&[28, 0, 0, 32, 0, 32, 4, 32]);
    page[24..28].copy_from_slice(&block.to_le_bytes());
    page[8000] = 7;
    let checksum = page_checksum(&page, BlockNumber(block));
    page[8..10].copy_from_slice(&checksum.to_le_bytes());
    page
}

fn pages(count: u32) -> Vec<u8> {
    (0..count).flat_map(|block| page(block, 1)).collect()
}

/// The first half of a page as it will be, the second half as it was.
fn torn(block: u32) -> Vec<u8> {
    let mut torn = page(block, 2);
    torn[4096..].fill(1);
    torn
}

/// A directory with the source `f`, its copy `copy`.
struct Scratch {
    directory: tempfile::TempDir,
}

impl Scratch {
    fn with(bytes: &[u8]) -> Scratch {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("f"), bytes).unwrap();
        Scratch { directory }
    }

    fn put(&self, block: u32, bytes: &[u8]) {
        let file = std::fs::File::options()
            .write(true)
            .open(self.directory.path().join("f"))
            .unwrap();
        let offset = u64::from(block) * bytes_of(PAGE_SIZE);
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, offset).unwrap();
    }

    fn truncate(&self, size: u64) {
        let file = std::fs::File::options()
            .write(true)
            .open(self.directory.path().join("f"))
            .unwrap();
        file.set_len(size).unwrap();
    }

    fn copy(&self) -> Option<Vec<u8>> {
        std::fs::read(self.directory.path().join("copy")).ok()
    }

    /// Backs up the file as if it had been listed with `size` bytes.
    fn back_up(
        &self,
        content: Content,
        size: usize,
        disturb: impl Fn(u32, u32) + Sync,
    ) -> Result<BackedUpFile, PipelineError> {
        self.back_up_with(true, content, size, disturb)
    }

    /// Backs up these blocks of a file that is called `name`.
    fn back_up_blocks(
        &self,
        name: &str,
        content: Content,
        wanted: Vec<Range<u32>>,
        disturb: impl Fn(u32, u32) + Sync,
    ) -> Result<(BackedUpFile, usize), PipelineError> {
        let size = std::fs::metadata(self.directory.path().join("f")).unwrap();
        let item = BackupItem {
            name: name.to_owned(),
            size: size.len(),
            content,
            selection: Selection::Blocks(wanted),
            ..self.item()
        };
        self.run(true, item, disturb)
    }

    fn item(&self) -> BackupItem {
        let storage: Arc<dyn Storage> = Arc::new(Posix::open(self.directory.path()).unwrap());
        BackupItem {
            index: 3,
            name: "base/1/16384".to_owned(),
            source: storage.clone(),
            source_path: "f".into(),
            target: storage,
            target_path: "copy".into(),
            target_mode: 0o600,
            size: 0,
            content: MAIN,
            selection: Selection::All,
            maps: None,
        }
    }

    fn back_up_with(
        &self,
        page_checksums: bool,
        content: Content,
        size: usize,
        disturb: impl Fn(u32, u32) + Sync,
    ) -> Result<BackedUpFile, PipelineError> {
        let item = BackupItem {
            size: bytes_of(size),
            content,
            ..self.item()
        };
        Ok(self.run(page_checksums, item, disturb)?.0)
    }

    /// Backs up a file; with the bytes that were asked for, those of second reads left out.
    fn run(
        &self,
        page_checksums: bool,
        item: BackupItem,
        disturb: impl Fn(u32, u32) + Sync,
    ) -> Result<(BackedUpFile, usize), PipelineError> {
        let map = item.target.create(Path::new("map"), 0o600, false).unwrap();
        let kind = BackupKind::new(CompressAlgorithm::None, 1, 2, HeaderMapFile::new(map));
        let disturbed = Disturbed {
            kind: kind.with_page_checksums(page_checksums),
            disturb,
            read: AtomicUsize::new(0),
        };
        let settings = Settings {
            engine: EngineChoice::Sync,
            threads: 2,
            sync: false,
            cancel: Arc::default(),
        };
        let monitor = CollectingMonitor::default();
        transfer(&disturbed, vec![item].into_iter(), &settings, &monitor)?;
        let (mut files, _) = disturbed.kind.into_results();
        assert_eq!(files.len(), 1);
        Ok((files.remove(0), disturbed.read.into_inner()))
    }

    /// Block and payload of each record of the copy.
    fn records(&self) -> Vec<(u32, Vec<u8>)> {
        let copy = self.copy().unwrap_or_default();
        let mut rest = &copy[..];
        let mut records = Vec::new();
        while let Some((header, payload)) = rest.split_at_checked(PAGE_RECORD_HEADER_BYTES) {
            let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
            let (payload, behind) = payload.split_at(number(4).try_into().unwrap());
            records.push((number(0), payload.to_vec()));
            rest = behind;
        }
        records
    }

    /// The blocks of the copy, which must be those of a whole file of pages, each of them valid.
    fn copied_blocks(&self, file: &BackedUpFile) -> Vec<u32> {
        let copy = self.copy().unwrap_or_default();
        assert_eq!(file.size, bytes_of(copy.len()));
        assert_eq!(file.crc, crc32c::crc32c(&copy));
        let records = copy.chunks_exact(PAGE_RECORD_HEADER_BYTES + PAGE_SIZE);
        assert!(records.remainder().is_empty());
        let blocks: Vec<u32> = records
            .map(|record| {
                let block = u32::from_le_bytes(record[..4].try_into().unwrap());
                let page = &record[PAGE_RECORD_HEADER_BYTES..];
                let verdict = verify_page(page, BlockNumber(block));
                assert!(!matches!(verdict, PageVerdict::Bad(_)), "block {block}");
                block
            })
            .collect();
        assert_eq!(file.n_blocks, number(blocks.len()));
        blocks
    }
}

fn bytes_of(length: usize) -> u64 {
    u64::try_from(length).unwrap()
}

const MAIN: Content = Content::Pages(SegmentNumber(0));

#[test]
fn a_torn_page_is_read_again_until_it_is_whole() {
    let whole = pages(300);
    let scratch = Scratch::with(&whole);
    scratch.put(130, &torn(130));
    let file = scratch.back_up(MAIN, whole.len(), |first, attempt| {
        if first == 128 && attempt == 2 {
            scratch.put(130, &page(130, 2));
        }
        assert!(
            first == 128 || attempt == 0,
            "only the torn extent is read again"
        );
        assert!(attempt <= 3);
    });
    let file = file.unwrap();
    assert_eq!(scratch.copied_blocks(&file), (0..300).collect::<Vec<_>>());
    let copy = scratch.copy().unwrap();
    let at = 130 * (PAGE_RECORD_HEADER_BYTES + PAGE_SIZE) + PAGE_RECORD_HEADER_BYTES;
    assert_eq!(copy[at..at + PAGE_SIZE], page(130, 2));
}

#[test]
fn a_page_that_stays_torn_ends_the_run_and_is_named() {
    let whole = pages(10);
    let scratch = Scratch::with(&whole);
    scratch.put(7, &torn(7));
    let attempts = std::sync::atomic::AtomicU32::new(0);
    let failed = scratch.back_up(MAIN, whole.len(), |_, attempt| {
        attempts.fetch_max(attempt, Ordering::Relaxed);
    });
    let error = failed.unwrap_err().to_string();
    let start = "Corruption detected in file \"base/1/16384 block 7\": page verification failed, ";
    assert!(error.starts_with(start), "{error}");
    assert_eq!(attempts.into_inner(), PAGE_REREADS_MAX);
}

#[test]
fn a_page_that_is_torn_anew_each_time_is_not_stored() {
    let whole = pages(2);
    let scratch = Scratch::with(&whole);
    scratch.put(0, &torn(0));
    let file = scratch.back_up(MAIN, whole.len(), |_, attempt| match attempt {
        0..5 if attempt % 2 == 0 => {
            scratch.put(0, &page(0, 2));
            scratch.put(1, &torn(1));
        }
        _ => scratch.put(1, &page(1, 3)),
    });
    assert_eq!(scratch.copied_blocks(&file.unwrap()), [0, 1]);
}

#[test]
fn a_file_truncated_before_it_is_read_is_kept_up_to_its_end() {
    for (left, blocks) in [
        (129 * 8192, 129),
        (128 * 8192, 128),
        (100, 0),
        (8192 + 5, 1),
    ] {
        let whole = pages(300);
        let scratch = Scratch::with(&whole);
        scratch.truncate(left);
        let file = scratch.back_up(MAIN, whole.len(), |_, _| {}).unwrap();
        assert!(!file.vanished);
        assert_eq!(
            scratch.copied_blocks(&file),
            (0..blocks).collect::<Vec<_>>()
        );
        assert_eq!(
            scratch.copy().is_some(),
            blocks > 0,
            "an empty file has no copy"
        );
        assert_eq!(file.headers.map_or(0, |map| map.count), blocks);
    }
}

#[test]
fn a_file_truncated_while_a_torn_page_is_waited_for_ends_there() {
    for (left, blocks) in [(3 * 8192, 3), (5 * 8192, 5), (5 * 8192 + 4096, 5), (0, 0)] {
        let whole = pages(10);
        let scratch = Scratch::with(&whole);
        for block in [4, 5, 8] {
            scratch.put(block, &torn(block));
        }
        let file = scratch.back_up(MAIN, whole.len(), |_, attempt| {
            if attempt == 0 {
                scratch.put(4, &page(4, 2));
                scratch.truncate(left);
            }
        });
        let found = scratch.copied_blocks(&file.unwrap());
        // Blocks read whole before are kept up to the first that was to be read again and is gone.
        let expected = if blocks <= 4 { 4 } else { 5 };
        assert_eq!(found, (0..expected).collect::<Vec<_>>());
    }
}

#[test]
fn a_file_that_grows_again_after_it_was_cut_ends_where_it_was_cut() {
    let whole = pages(400);
    let scratch = Scratch::with(&whole);
    scratch.truncate(130 * 8192);
    let file = scratch.back_up(MAIN, whole.len(), |first, _| {
        if first == 0 {
            scratch.put(0, &whole);
        }
    });
    let found = scratch.copied_blocks(&file.unwrap());
    // Which extents were read before the file had grown again is chance; the blocks are without a
    // gap all the same.
    assert!(
        [130, 256, 384, 400].contains(&found.len()),
        "{}",
        found.len()
    );
    assert!(found.iter().zip(0..).all(|(block, index)| *block == index));
}

#[test]
fn a_file_that_grows_is_read_up_to_its_listed_size() {
    let whole = pages(10);
    let scratch = Scratch::with(&whole);
    let file = scratch.back_up(MAIN, 4 * PAGE_SIZE, |_, _| {}).unwrap();
    assert_eq!(scratch.copied_blocks(&file), [0, 1, 2, 3]);
    let file = scratch.back_up(Content::Plain, 1000, |_, _| {}).unwrap();
    assert_eq!(scratch.copy().unwrap(), whole[..1000]);
    assert_eq!(file.size, 1000);
}

#[test]
fn new_pages_of_zeros_are_kept() {
    let mut whole = pages(3);
    whole.resize(5 * PAGE_SIZE, 0);
    let scratch = Scratch::with(&whole);
    let file = scratch.back_up(MAIN, whole.len(), |_, _| {}).unwrap();
    assert_eq!(scratch.copied_blocks(&file), [0, 1, 2, 3, 4]);
}

#[test]
fn a_new_page_that_is_half_written_is_read_again() {
    let mut whole = pages(3);
    whole.resize(4 * PAGE_SIZE, 0);
    let scratch = Scratch::with(&whole);
    let half = page(3, 5);
    scratch.put(3, &half[..4096]);
    let file = scratch.back_up(MAIN, whole.len(), |_, attempt| {
        if attempt == 1 {
            scratch.put(3, &half);
        }
    });
    assert_eq!(scratch.copied_blocks(&file.unwrap()), [0, 1, 2, 3]);
    let copy = scratch.copy().unwrap();
    assert!(copy.ends_with(&half));
}

#[test]
fn a_file_that_is_gone_is_reported_and_leaves_nothing() {
    for content in [
        MAIN,
        Content::Plain,
        Content::CompressedPages(SegmentNumber(0)),
    ] {
        let scratch = Scratch::with(b"");
        std::fs::remove_file(scratch.directory.path().join("f")).unwrap();
        let file = scratch.back_up(content, 1 << 20, |_, _| {}).unwrap();
        assert!(file.vanished);
        assert_eq!((file.index, file.size, file.n_blocks), (3, 0, 0));
        assert_eq!(scratch.copy(), None);
    }
}

#[test]
fn a_file_removed_while_it_is_read_is_read_on() {
    let whole = pages(300);
    let scratch = Scratch::with(&whole);
    scratch.put(7, &torn(7));
    let file = scratch.back_up(MAIN, whole.len(), |_, attempt| {
        if attempt == 1 {
            scratch.put(7, &page(7, 2));
            std::fs::remove_file(scratch.directory.path().join("f")).unwrap();
        }
    });
    assert_eq!(scratch.copied_blocks(&file.unwrap()).len(), 300);
}

#[test]
fn a_plain_file_that_changes_has_the_crc_of_what_was_written() {
    let scratch = Scratch::with(&vec![1; 3 << 20]);
    let file = scratch.back_up(Content::Plain, 3 << 20, |_, _| {
        scratch.put(0, &vec![2; 3 << 20]);
    });
    let file = file.unwrap();
    let copy = scratch.copy().unwrap();
    assert_eq!(copy.len(), 3 << 20);
    assert_eq!(file.crc, crc32c::crc32c(&copy));
    assert_eq!(file.size, 3 << 20);
}

#[test]
fn a_plain_file_that_becomes_shorter_ends_there() {
    let scratch = Scratch::with(&vec![1; 3 << 20]);
    scratch.truncate((1 << 20) + 10);
    let file = scratch.back_up(Content::Plain, 3 << 20, |_, _| {}).unwrap();
    let copy = scratch.copy().unwrap();
    assert_eq!(copy, vec![1; (1 << 20) + 10]);
    assert_eq!(
        (file.size, file.crc),
        (bytes_of(copy.len()), crc32c::crc32c(&copy))
    );
}

#[test]
fn a_compressed_file_cut_at_an_extent_ends_there() {
    let scratch = Scratch::with(b"");
    let content = Content::CompressedPages(SegmentNumber(0));
    let file = scratch.back_up(content, 1 << 20, |_, _| {}).unwrap();
    assert_eq!((file.vanished, file.size, file.n_blocks), (false, 0, 0));
    assert_eq!(scratch.copy(), None);
    let scratch = Scratch::with(&[0; 5000]);
    let failed = scratch.back_up(content, 1 << 20, |_, _| {}).unwrap_err();
    assert!(
        failed.to_string().contains("ends after 5000 bytes"),
        "{failed}"
    );
    let scratch = Scratch::with(&[0; 5000]);
    let file = scratch.back_up(content, 1 << 20, |_, _| scratch.truncate(0));
    assert_eq!(file.unwrap().size, 0);
}

#[test]
fn pages_of_a_cluster_without_checksums_have_only_their_headers_checked() {
    let mut whole = pages(3);
    whole[PAGE_SIZE + 8..][..2].fill(0);
    let scratch = Scratch::with(&whole);
    let size = whole.len();
    let file = scratch.back_up_with(false, MAIN, size, |_, _| {}).unwrap();
    assert_eq!(file.n_blocks, 3);
    assert!(scratch.back_up(MAIN, size, |_, _| {}).is_err());
    let insane = 2 * PAGE_SIZE + 12;
    whole[insane..][..2].fill(0xFF);
    let scratch = Scratch::with(&whole);
    let failed = scratch.back_up_with(false, MAIN, size, |_, _| {});
    assert!(
        failed
            .unwrap_err()
            .to_string()
            .contains("page header invalid")
    );
}

/// Segment file 1 of a fork, with pages of its own that are stored as bytes.
fn byte_pages(keep_bad: bool) -> Content {
    Content::BytePages(BytePages {
        segno: SegmentNumber(1),
        segment_blocks: 1000,
        keep_bad,
    })
}

#[test]
fn pages_stored_as_bytes_are_kept_byte_for_byte_with_what_is_behind_them() {
    let mut whole: Vec<u8> = (1000..1300).flat_map(|block| page(block, 1)).collect();
    whole[PAGE_SIZE..][..PAGE_SIZE].fill(0);
    whole.extend([9; 100]);
    let scratch = Scratch::with(&whole);
    let file = scratch.back_up(byte_pages(false), whole.len(), |_, attempt| {
        assert_eq!(attempt, 0, "all are right");
    });
    let file = file.unwrap();
    assert_eq!(scratch.copy().unwrap(), whole);
    assert_eq!(
        (file.size, file.crc),
        (bytes_of(whole.len()), crc32c::crc32c(&whole))
    );
    assert_eq!((file.n_blocks, file.headers), (0, None));
    assert_eq!(file.compress_algorithm, CompressAlgorithm::None);
}

#[test]
fn a_torn_page_stored_as_bytes_is_read_again_until_it_is_whole() {
    for keep_bad in [false, true] {
        let mut whole: Vec<u8> = (1000..1300).flat_map(|block| page(block, 1)).collect();
        let scratch = Scratch::with(&whole);
        scratch.put(130, &torn(1130));
        let file = scratch.back_up(byte_pages(keep_bad), whole.len(), |first, attempt| {
            if first == 128 && attempt == 2 {
                scratch.put(130, &page(1130, 2));
            }
            assert!(attempt <= if first == 128 { 3 } else { 0 });
        });
        let file = file.unwrap();
        whole[130 * PAGE_SIZE..][..PAGE_SIZE].copy_from_slice(&page(1130, 2));
        assert_eq!(scratch.copy().unwrap(), whole);
        assert_eq!(file.crc, crc32c::crc32c(&whole));
    }
}

#[test]
fn a_page_stored_as_bytes_that_stays_torn_is_kept_where_the_server_can_do_without_it() {
    let mut whole: Vec<u8> = (1000..1010).flat_map(|block| page(block, 1)).collect();
    whole[7 * PAGE_SIZE..][..PAGE_SIZE].copy_from_slice(&torn(1007));
    let attempts = std::sync::atomic::AtomicU32::new(0);
    let count = |_, attempt| {
        attempts.fetch_max(attempt, std::sync::atomic::Ordering::Relaxed);
    };
    let scratch = Scratch::with(&whole);
    let file = scratch.back_up(byte_pages(true), whole.len(), count);
    assert_eq!(file.unwrap().crc, crc32c::crc32c(&whole));
    assert_eq!(scratch.copy().unwrap(), whole);
    assert_eq!(attempts.into_inner(), PAGE_REREADS_MAX);
    let failed = scratch.back_up(byte_pages(false), whole.len(), |_, _| {});
    let error = failed.unwrap_err().to_string();
    assert!(error.contains("base/1/16384 block 7"), "{error}");
}

#[test]
fn pages_stored_as_bytes_are_not_judged_without_page_checksums() {
    let whole = [torn(0), torn(1)].concat();
    let scratch = Scratch::with(&whole);
    let file = scratch.back_up_with(false, byte_pages(false), whole.len(), |_, attempt| {
        assert_eq!(attempt, 0);
    });
    assert_eq!(file.unwrap().size, bytes_of(whole.len()));
    assert_eq!(scratch.copy().unwrap(), whole);
}

#[test]
fn a_file_of_pages_stored_as_bytes_that_becomes_shorter_ends_there() {
    let whole: Vec<u8> = (1000..1300).flat_map(|block| page(block, 1)).collect();
    let scratch = Scratch::with(&whole);
    scratch.truncate(bytes_of(200 * PAGE_SIZE + 10));
    let file = scratch.back_up(byte_pages(false), whole.len(), |_, _| {});
    assert_eq!(file.unwrap().size, bytes_of(200 * PAGE_SIZE + 10));
    assert_eq!(scratch.copy().unwrap(), whole[..200 * PAGE_SIZE + 10]);
}

#[path = "backup_part_tests.rs"]
mod part;
