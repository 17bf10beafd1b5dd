//! A generated cluster as the readers of the program see it: every page valid, every file with the
//! name and the checksums that its format has.

use super::*;
use crate::codec::{Compressor, Decompressor};
use crate::format::page::compressed::{EXTENT_BYTES, ExtentHeader, assemble_page};
use crate::format::page::{PageVerdict, verify_page, verify_pages};
use crate::format::pg_control::{ClusterState, ControlFile};
use crate::format::relation_path::{FileKind, classify};
use crate::format::wal::{
    RangeRequest, WalDialect, WalReader, check_range, is_checkpoint_shutdown, segment_name,
};
use crate::limits::WAL_SEGMENT_BYTES;
use crate::types::{BlockNumber, CompressAlgorithm, FileBlock, SegmentNumber};
use plan::{Content, FilePlan, plan_files};
use std::collections::BTreeMap;
use std::io::Read;
use tempfile::TempDir;

const SMALL: SampleOptions = SampleOptions {
    seed: 7,
    bytes: 12 * 1024 * 1024,
};

/// A member of a recorded backup, or `None`, said aloud, where there are no recorded files.
#[allow(clippy::print_stderr, reason = "a skipped test says so")]
pub(super) fn recorded_file(path: &str) -> Option<Vec<u8>> {
    let root = std::env::var_os("GS_FIXTURES").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures"),
        PathBuf::from,
    );
    let Ok(file) = std::fs::File::open(root.join("gauss/catalog_none.tar.zst")) else {
        assert!(std::env::var_os("CI").is_none(), "set GS_FIXTURES");
        eprintln!("SKIPPED: no recorded files: set GS_FIXTURES");
        return None;
    };
    let wanted = format!("TOU8BZ/database/{path}");
    let mut decoder = zstd::Decoder::new(file).unwrap();
    decoder.window_log_max(27).unwrap();
    let mut archive = tar::Archive::new(decoder);
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path().unwrap().ends_with(&wanted) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            return Some(bytes);
        }
    }
    panic!("no {wanted} in the recorded catalog");
}

fn sample(options: &SampleOptions) -> (TempDir, Sample) {
    let scratch = tempfile::tempdir().unwrap();
    let sample = create(&scratch.path().join("sample"), options).unwrap();
    (scratch, sample)
}

/// The planned files and their bytes.
fn relation_files(sample: &Sample, options: &SampleOptions) -> Vec<(FilePlan, Vec<u8>)> {
    let read = |file: FilePlan| {
        let root = if file.in_tablespace {
            &sample.tablespace
        } else {
            &sample.data_directory
        };
        let bytes = std::fs::read(root.join(&file.path)).unwrap();
        assert_eq!(
            bytes.len(),
            file.blocks as usize * PAGE_SIZE,
            "{}",
            file.path
        );
        (file, bytes)
    };
    plan_files(options.bytes).into_iter().map(read).collect()
}

/// Every entry below a directory: what it is and what is in it, links not followed.
fn tree(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut entries = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.symlink_metadata().unwrap().file_type();
            let content = if kind.is_dir() {
                directories.push(path.clone());
                Vec::new()
            } else if kind.is_symlink() {
                b"link".to_vec()
            } else {
                std::fs::read(&path).unwrap()
            };
            entries.insert(path.strip_prefix(root).unwrap().to_owned(), content);
        }
    }
    entries
}

#[test]
fn equal_seeds_give_equal_clusters_and_others_do_not() {
    let (first_scratch, _) = sample(&SMALL);
    let (second_scratch, _) = sample(&SMALL);
    let first = tree(first_scratch.path());
    let second = tree(second_scratch.path());
    assert!(first.keys().eq(second.keys()));
    for (path, bytes) in &first {
        assert!(bytes == &second[path], "{} differs", path.display());
    }
    let (other_scratch, _) = sample(&SampleOptions { seed: 8, ..SMALL });
    let heap = Path::new("sample/data/base/16384/16386");
    assert!(tree(other_scratch.path())[heap] != first[heap]);
}

#[test]
fn every_page_is_valid_for_its_block() {
    let (_scratch, sample) = sample(&SMALL);
    let mut valid = 0;
    for (file, bytes) in relation_files(&sample, &SMALL) {
        if matches!(file.content, Content::Compressed(..) | Content::Column(_)) {
            continue;
        }
        let mut verdicts = Vec::new();
        verify_pages(&bytes, BlockNumber(file.first_block), &mut verdicts);
        for (verdict, block) in verdicts.iter().zip(0..) {
            match verdict {
                PageVerdict::Valid { lsn, .. } => {
                    assert!(*lsn < sample.checkpoint, "{} block {block}", file.path);
                    valid += 1;
                }
                PageVerdict::Zero => {}
                bad => panic!("{} block {block}: {bad:?}", file.path),
            }
        }
    }
    assert!(valid > 1000, "only {valid} pages");
}

#[test]
fn compressed_pages_are_found_and_give_valid_pages() {
    let (_scratch, sample) = sample(&SMALL);
    let mut algorithms = std::collections::BTreeSet::new();
    let mut decompressor = Decompressor::new();
    for (file, bytes) in relation_files(&sample, &SMALL) {
        let Content::Compressed(compression, pages) = file.content else {
            continue;
        };
        let mut block = file.first_block;
        for extent in bytes.chunks_exact(EXTENT_BYTES) {
            let header = ExtentHeader::parse(&extent[EXTENT_BYTES - PAGE_SIZE..]).unwrap();
            assert_eq!(header.chunk_size(), compression.chunk_bytes as usize);
            algorithms.insert(header.algorithm());
            for slot in 0..header.block_count() {
                let mut page = vec![0; PAGE_SIZE];
                assemble_page(extent, &header, slot, &mut page).unwrap();
                unpack(&mut page, header.algorithm(), &mut decompressor);
                let verdict = verify_page(&page, BlockNumber(block));
                assert!(
                    matches!(verdict, PageVerdict::Valid { .. }),
                    "{block}: {verdict:?}"
                );
                block += 1;
            }
        }
        assert_eq!(block, pages, "{}", file.path);
    }
    assert_eq!(algorithms.into_iter().collect::<Vec<_>>(), [1, 2]);
}

/// Brings a page back from the server's compressed form.
fn unpack(page: &mut [u8], algorithm: u8, decompressor: &mut Decompressor) {
    let length = usize::from(u16::from_le_bytes([page[44], page[45]]));
    let (algorithm, data) = match algorithm {
        1 => (CompressAlgorithm::Pglz, &page[56..48 + length]),
        _ => (CompressAlgorithm::Zstd, &page[48..48 + length]),
    };
    let data = data.to_vec();
    let body = &mut page[40..];
    decompressor.decompress(algorithm, &data, body).unwrap();
}

#[test]
fn column_units_carry_their_crc() {
    let (_scratch, sample) = sample(&SMALL);
    let mut units = 0;
    for (file, bytes) in relation_files(&sample, &SMALL) {
        if let Content::Column(_) = file.content {
            for unit in bytes.chunks_exact(columns::UNIT_BYTES) {
                assert_eq!(
                    unit[..4],
                    crc32c::crc32c(&unit[4..]).to_le_bytes(),
                    "{}",
                    file.path
                );
                units += 1;
            }
        }
    }
    assert!(units >= 3);
}

#[test]
fn pg_control_tells_of_a_clean_shutdown_at_the_checkpoint_in_wal() {
    let (_scratch, sample) = sample(&SMALL);
    let bytes = std::fs::read(sample.data_directory.join("global/pg_control")).unwrap();
    let control = ControlFile::parse(&bytes).unwrap();
    assert_eq!(control.state, ClusterState::ShutDown);
    assert_eq!(control.system_identifier, sample.system_identifier);
    assert_eq!(control.checkpoint, sample.checkpoint);
    assert_eq!(control.redo, sample.checkpoint);
    assert_eq!(control.timeline, sample.timeline);

    let directory = sample.data_directory.join("pg_xlog");
    let segments = |segno| -> std::io::Result<Option<Vec<u8>>> {
        let name = segment_name(sample.timeline, segno, WAL_SEGMENT_BYTES);
        match std::fs::read(directory.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    };
    let start = sample.checkpoint;
    let mut reader = WalReader::new(
        WalDialect::OpenGauss,
        sample.timeline,
        WAL_SEGMENT_BYTES,
        start,
        segments,
    )
    .with_system_identifier(sample.system_identifier);
    let record = reader.next_record().unwrap().unwrap();
    assert!(is_checkpoint_shutdown(&record), "{record:?}");
    assert_eq!(record.start, sample.checkpoint);
    assert_eq!(reader.next_record().unwrap(), None);

    // All four records, each pointing to the one before it.
    let request = RangeRequest {
        dialect: WalDialect::OpenGauss,
        timeline: sample.timeline,
        segment_bytes: WAL_SEGMENT_BYTES,
        system_identifier: Some(sample.system_identifier),
        start: Lsn(0x0300_0028),
        stop: record.end,
    };
    assert_eq!(check_range(&request, segments).unwrap().records, 4);
}

#[test]
fn names_tell_what_the_files_are() {
    let (_scratch, sample) = sample(&SMALL);
    let mut data_files = 0;
    for file in plan_files(SMALL.bytes) {
        let path = if file.in_tablespace {
            format!("pg_tblspc/{}/{}", plan::TABLESPACE_OID, file.path)
        } else {
            file.path.clone()
        };
        let is_fork = matches!(file.content, Content::FreeSpaceMap | Content::VisibilityMap);
        let is_other = is_fork
            || matches!(
                file.content,
                Content::Undo | Content::UndoSlots | Content::Column(_)
            );
        match classify(&path).kind {
            FileKind::Relation(relation) => {
                assert!(!is_other, "{path}");
                let is_compressed = matches!(file.content, Content::Compressed(..));
                assert_eq!(relation.compressed, is_compressed, "{path}");
                let is_segment = matches!(file.content, Content::Segment(_));
                assert_eq!(relation.is_segment_space(), is_segment, "{path}");
                data_files += 1;
            }
            FileKind::Other => assert!(is_other, "{path}"),
            kind => panic!("{path}: {kind:?}"),
        }
    }
    assert!(data_files > 100);
    // The original refuses data directories with fewer entries.
    assert!(tree(&sample.data_directory).len() >= 100);
}

#[test]
fn the_tablespace_is_linked_by_an_absolute_path() {
    let (_scratch, sample) = sample(&SMALL);
    let link = sample.data_directory.join("pg_tblspc/16385");
    assert!(sample.tablespace.is_absolute());
    assert_eq!(std::fs::read_link(link).unwrap(), sample.tablespace);
    assert!(
        sample
            .tablespace
            .join("PG_9.2_201611171_single/16384/16438")
            .is_file()
    );
}

#[test]
fn an_occupied_directory_is_left_alone() {
    let scratch = tempfile::tempdir().unwrap();
    std::fs::write(scratch.path().join("precious"), b"x").unwrap();
    let error = create(scratch.path(), &SMALL).unwrap_err();
    assert!(matches!(error, SampleError::Occupied(_)), "{error}");
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1);
}

#[test]
fn sizes_follow_the_wanted_size_and_large_relations_have_several_files() {
    const GIB: u64 = 1024 * 1024 * 1024;
    for gib in [1, 4, 16] {
        let plan = plan_files(gib * GIB);
        let planned: u64 = plan.iter().map(|file| u64::from(file.blocks)).sum();
        let planned = planned * PAGE_SIZE as u64;
        assert!(
            planned.abs_diff(gib * GIB) < gib * GIB / 20,
            "{gib} GiB: {planned}"
        );
    }
    let plan = plan_files(4 * GIB);
    let second = plan
        .iter()
        .find(|file| file.path.ends_with("16386.1"))
        .unwrap();
    let expected = SegmentNumber(1).relation_block(FileBlock(0));
    assert_eq!(BlockNumber(second.first_block), expected);
}

/// Bytes of all pages after compressing each by itself, in thousandths of what they were.
fn permille(pages: &[u8], mut compress: impl FnMut(&[u8]) -> usize) -> usize {
    let sizes = pages.chunks_exact(PAGE_SIZE).map(&mut compress);
    sizes.sum::<usize>() * 1000 / pages.len()
}

/// The goals for compression were set on such a table; the bands are narrow, so that its measures
/// stay comparable. Source of the figures: see the module `text`.
#[test]
fn pages_of_tables_shrink_as_those_that_the_original_was_measured_on() {
    let (_scratch, sample) = sample(&SMALL);
    let pages = ["base/16384/16386", "base/16384/16392"]
        .map(|path| std::fs::read(sample.data_directory.join(path)).unwrap())
        .concat();
    let zlib = permille(&pages, |page| {
        let mut encoder = flate2::read::ZlibEncoder::new(page, flate2::Compression::new(1));
        let mut out = Vec::new();
        encoder.read_to_end(&mut out).unwrap();
        out.len()
    });
    assert!((440..=460).contains(&zlib), "zlib: {zlib} of 1000");
    for (algorithm, band) in [
        (CompressAlgorithm::Zlib, 420..=440),
        (CompressAlgorithm::Zstd, 410..=430),
        (CompressAlgorithm::Lz4, 600..=640),
    ] {
        let mut compressor = Compressor::new(algorithm, 1);
        let mut out = vec![0; PAGE_SIZE];
        let found = permille(&pages, |page| compressor.compress(page, &mut out).unwrap());
        assert!(band.contains(&found), "{algorithm:?}: {found} of 1000");
    }
}
