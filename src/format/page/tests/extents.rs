//! Extents of the server, pages that gs_probackup took out of them, and files that its restore
//! made of these.

use super::{fixtures, visit_files};
use crate::format::page::compressed::{
    CfsError, EXTENT_BYTES, EXTENT_DATA_BLOCKS, ExtentHeader, assemble_page, build_extent,
};
use crate::format::page::{
    PAGE_SIZE, PageDefect, PageVerdict, page_checksum, verify_compressed_page, verify_page,
};
use crate::types::{BlockNumber, Lsn, RELSEG_SIZE};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

const PCA: usize = EXTENT_BYTES - PAGE_SIZE;

/// An ordinary page with its checksum for `block`.
pub(super) fn plain_page(block: BlockNumber) -> Vec<u8> {
    let mut page: Vec<u8> = (0..PAGE_SIZE)
        .map(|at| (at * 31 % 251).to_le_bytes()[0])
        .collect();
    page[..8].copy_from_slice(&[0, 0, 0, 0, 0x77, 0, 0, 0]);
    page[10..12].copy_from_slice(&0x40_u16.to_le_bytes());
    page[12..14].copy_from_slice(&40_u16.to_le_bytes());
    page[14..16].copy_from_slice(&8000_u16.to_le_bytes());
    page[16..18].copy_from_slice(&8192_u16.to_le_bytes());
    page[18..20].copy_from_slice(&[6, 0x20]);
    let checksum = page_checksum(&page, block);
    page[8..10].copy_from_slice(&checksum.to_le_bytes());
    page
}

/// Logical pages of one file by block, as a chain of backups stores them.
type Pages = BTreeMap<u32, Vec<u8>>;

/// One backup: its files by path below the backup.
type Backup = BTreeMap<String, Vec<u8>>;

/// What the content list says of a file.
struct Entry {
    path: String,
    chunk_size: u32,
    algorithm: u8,
    blocks: u32,
    compress_algorithm: String,
    headers: Option<std::ops::Range<usize>>,
}

/// The catalog `name` of the fixtures, all that matters here.
fn read_backups(fixtures: &Path, name: &str) -> BTreeMap<String, Backup> {
    let mut backups: BTreeMap<String, Backup> = BTreeMap::new();
    visit_files(
        &fixtures.join(format!("catalog_{name}.tar.zst")),
        u64::MAX,
        |path| {
            path.ends_with("_compress")
                || path.ends_with("/backup_content.control")
                || path.ends_with("/page_header_map")
        },
        |path, content| {
            let below = path.split_once(&format!("backups/{name}/")).unwrap().1;
            let (id, file) = below.split_once('/').unwrap();
            let backup = backups.entry(id.to_owned()).or_default();
            backup.insert(file.to_owned(), content.to_vec());
        },
    );
    backups
}

fn entries(backup: &Backup) -> Vec<Entry> {
    let list = std::str::from_utf8(&backup["backup_content.control"]).unwrap();
    let entry = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| line[key].as_str().unwrap().to_owned();
        let number = |key: &str| text(key).parse::<usize>().unwrap();
        line["path"]
            .as_str()
            .unwrap()
            .ends_with("_compress")
            .then(|| Entry {
                path: text("path"),
                chunk_size: number("compressedChunkSize").try_into().unwrap(),
                algorithm: number("compressedAlgorithm").try_into().unwrap(),
                blocks: number("n_blocks").try_into().unwrap(),
                compress_algorithm: text("compress_alg"),
                headers: line.get("hdr_off").map(|_| {
                    let start = number("hdr_off");
                    start..start + number("hdr_size")
                }),
            })
    };
    list.lines().filter_map(entry).collect()
}

/// The pages that `backup` stores of a file, with the checksums of its page header map.
fn stored_pages(backup: &Backup, entry: &Entry) -> Vec<(u32, Vec<u8>, Lsn, u16)> {
    let Some(headers) = &entry.headers else {
        return Vec::new();
    };
    let mut records = Vec::new();
    flate2::read::ZlibDecoder::new(&backup["page_header_map"][headers.clone()])
        .read_to_end(&mut records)
        .unwrap();
    let mut stored = &backup[&format!("database/{}", entry.path)][..];
    let mut pages = Vec::new();
    for record in records.chunks_exact(24) {
        let Some((header, rest)) = stored.split_first_chunk::<8>() else {
            break;
        };
        let block = u32::from_le_bytes(header[..4].try_into().unwrap());
        let length = u32::from_le_bytes(header[4..].try_into().unwrap());
        let (payload, rest) = rest.split_at(usize::try_from(length).unwrap());
        stored = rest;
        let page = match (&*entry.compress_algorithm, payload.len()) {
            (_, PAGE_SIZE) => payload.to_vec(),
            ("zlib", _) => {
                let mut page = Vec::new();
                flate2::read::ZlibDecoder::new(payload)
                    .read_to_end(&mut page)
                    .unwrap();
                page
            }
            ("pglz", _) => pglz(payload),
            (other, _) => panic!("no decoder for {other}"),
        };
        assert_eq!(page.len(), PAGE_SIZE);
        let lsn = Lsn(u64::from_le_bytes(record[..8].try_into().unwrap()));
        let checksum = u16::from_le_bytes(record[16..18].try_into().unwrap());
        pages.push((block, page, lsn, checksum));
    }
    assert!(stored.is_empty());
    pages
}

/// A decoder of pglz streams for good input.
fn pglz(input: &[u8]) -> Vec<u8> {
    let mut bytes = input.iter().copied();
    let mut page = Vec::new();
    while let Some(control) = bytes.next() {
        for bit in 0..8 {
            let Some(byte) = bytes.next() else {
                return page;
            };
            if control >> bit & 1 == 0 {
                page.push(byte);
                continue;
            }
            let low = bytes.next().unwrap();
            let distance = usize::from(byte & 0xF0) << 4 | usize::from(low);
            let mut length = usize::from(byte & 0x0F) + 3;
            if length == 18 {
                length += usize::from(bytes.next().unwrap());
            }
            for _ in 0..length {
                page.push(page[page.len() - distance]);
            }
        }
    }
    page
}

/// The `_compress` files of the data directory.
fn server_files(fixtures: &Path) -> Backup {
    let mut files = Backup::new();
    visit_files(
        &fixtures.join("pgdata.tar.zst"),
        u64::MAX,
        |path| path.ends_with("_compress"),
        |path, content| {
            let below = path.strip_prefix("gauss/data/dn1/").unwrap();
            files.insert(below.to_owned(), content.to_vec());
        },
    );
    assert_eq!(files.len(), 3);
    files
}

/// The logical pages of a `_compress` file.
fn logical_pages(file: &[u8]) -> Pages {
    let mut pages = Pages::new();
    for (extent, first) in file.chunks_exact(EXTENT_BYTES).zip((0..).step_by(127)) {
        let header = ExtentHeader::parse(&extent[PCA..]).unwrap();
        for slot in 0..header.block_count() {
            let mut page = vec![0xEE; PAGE_SIZE];
            assemble_page(extent, &header, slot, &mut page).unwrap();
            pages.insert(first + slot, page);
        }
    }
    pages
}

#[test]
fn every_page_of_the_servers_compressed_relations_is_valid() {
    let Some(fixtures) = fixtures() else { return };
    let mut sizes = Vec::new();
    for (path, file) in server_files(&fixtures) {
        let header = ExtentHeader::parse(&file[PCA..EXTENT_BYTES]).unwrap();
        sizes.push((
            header.block_count(),
            header.chunk_size(),
            header.algorithm(),
        ));
        let pages = logical_pages(&file);
        assert_eq!(pages.len(), usize::try_from(header.block_count()).unwrap());
        for (block, page) in pages {
            let block = BlockNumber(block);
            let verdict = verify_compressed_page(&page, block);
            assert!(
                matches!(verdict, PageVerdict::Valid { .. }),
                "{path} {block} {verdict:?}"
            );
            assert!(
                matches!(verify_page(&page, block), PageVerdict::Bad(_)),
                "{path} {block}"
            );
        }
    }
    assert_eq!(sizes, [(99, 4096, 2), (24, 4096, 2), (103, 1024, 1)]);
}

#[test]
fn stored_pages_are_valid_and_their_checksums_those_of_the_header_map() {
    let Some(fixtures) = fixtures() else { return };
    for name in ["none", "zlib"] {
        let mut pages = 0;
        for backup in read_backups(&fixtures, name).values() {
            for entry in entries(backup) {
                for (block, page, lsn, checksum) in stored_pages(backup, &entry) {
                    assert_eq!(page[13] & 0x80, 0x80, "stored pages carry the mark");
                    assert_eq!(
                        verify_compressed_page(&page, BlockNumber(block)),
                        PageVerdict::Valid { lsn, checksum },
                        "{} block {block}",
                        entry.path
                    );
                    pages += 1;
                }
            }
        }
        assert_eq!(pages, 250, "{name}");
    }
}

#[test]
fn assembled_pages_are_those_that_gs_probackup_stored() {
    let Some(fixtures) = fixtures() else { return };
    let server = server_files(&fixtures);
    for name in ["none", "zlib"] {
        let mut chain: BTreeMap<String, Pages> = BTreeMap::new();
        for backup in read_backups(&fixtures, name).values() {
            for entry in entries(backup) {
                let pages = chain.entry(entry.path.clone()).or_default();
                let stored = stored_pages(backup, &entry);
                pages.extend(stored.into_iter().map(|(block, page, ..)| (block, page)));
            }
        }
        for (path, mut pages) in chain {
            pages.values_mut().for_each(|page| page[13] &= 0x7F);
            assert!(pages == logical_pages(&server[&path]), "{name} {path}");
        }
    }
}

#[test]
fn rebuilt_extents_are_the_ones_that_the_original_restores() {
    let Some(fixtures) = fixtures() else { return };
    for name in ["none", "zlib"] {
        let mut chain: BTreeMap<String, Pages> = BTreeMap::new();
        let mut files = 0;
        for (id, backup) in read_backups(&fixtures, name) {
            let manifest = fixtures.join(format!("manifests/restore_{name}_{id}.manifest.tsv"));
            let manifest = std::fs::read_to_string(manifest).unwrap();
            for entry in entries(&backup) {
                let pages = chain.entry(entry.path.clone()).or_default();
                let stored = stored_pages(&backup, &entry);
                pages.extend(stored.into_iter().map(|(block, page, ..)| (block, page)));
                let flat: Vec<u8> = (0..entry.blocks)
                    .flat_map(|block| pages[&block].clone())
                    .collect();
                let mut extent = vec![0xEE; EXTENT_BYTES];
                let holes =
                    build_extent(&flat, entry.chunk_size, entry.algorithm, &mut extent).unwrap();
                assert_holes_are_zeros(&extent, &holes);
                let digest: String = Sha256::digest(&extent)
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                let line = format!("{}\tf\t0644\t{}\t{digest}", entry.path, extent.len());
                let same = manifest
                    .lines()
                    .any(|recorded| same_but_for_mode(recorded, &line));
                assert!(same, "{name} {id}: {line}");
                files += 1;
            }
        }
        assert_eq!(files, 9);
    }
}

fn same_but_for_mode(one: &str, other: &str) -> bool {
    let fields = |line: &str| -> Vec<String> {
        line.split('\t')
            .enumerate()
            .filter(|(at, _)| *at != 2)
            .map(|(_, f)| f.into())
            .collect()
    };
    fields(one) == fields(other)
}

fn assert_holes_are_zeros(extent: &[u8], holes: &[std::ops::Range<usize>]) {
    assert_eq!(holes.len(), 1);
    for hole in holes {
        assert_eq!((hole.start % 4096, hole.end), (0, PCA));
        assert!(extent[hole.clone()].iter().all(|byte| *byte == 0));
        assert!(
            extent[hole.start - 4096..hole.start]
                .iter()
                .any(|byte| *byte != 0)
        );
    }
}

#[test]
fn plain_and_zero_pages_survive_an_extent() {
    for chunk_size in [512, 1024, 2048, 4096] {
        let count = usize::try_from(EXTENT_DATA_BLOCKS).unwrap();
        let pages: Vec<u8> = (0..)
            .take(count)
            .flat_map(|block| match block % 3 {
                0 => vec![0; PAGE_SIZE],
                _ => plain_page(BlockNumber(block)),
            })
            .collect();
        let mut extent = vec![0xEE; EXTENT_BYTES];
        assert_eq!(
            build_extent(&pages, chunk_size, 1, &mut extent),
            Ok(Vec::new())
        );
        let header = ExtentHeader::parse(&extent[PCA..]).unwrap();
        assert_eq!(
            (header.block_count(), header.algorithm()),
            (EXTENT_DATA_BLOCKS, 1)
        );
        for (block, expected) in (0..).zip(pages.chunks_exact(PAGE_SIZE)) {
            let mut page = vec![0xEE; PAGE_SIZE];
            assemble_page(&extent, &header, block, &mut page).unwrap();
            assert!(page == expected);
            let verdict = verify_compressed_page(&page, BlockNumber(block));
            assert!(
                !matches!(verdict, PageVerdict::Bad(_)),
                "{block} {verdict:?}"
            );
        }
    }
}

#[test]
fn zero_page_of_a_compressed_relation_is_zero_with_and_without_mark() {
    let mut page = vec![0; PAGE_SIZE];
    assert_eq!(
        verify_compressed_page(&page, BlockNumber(1)),
        PageVerdict::Zero
    );
    page[13] = 0x80;
    assert_eq!(
        verify_compressed_page(&page, BlockNumber(1)),
        PageVerdict::Zero
    );
    page[13] = 0xC0;
    assert!(matches!(
        verify_compressed_page(&page, BlockNumber(1)),
        PageVerdict::Bad(_)
    ));
    page[13] = 0x80;
    page[8191] = 1;
    assert!(matches!(
        verify_compressed_page(&page, BlockNumber(1)),
        PageVerdict::Bad(_)
    ));
}

#[test]
fn plain_page_of_a_later_segment_is_valid_for_the_servers_number() {
    let block = BlockNumber(2 * RELSEG_SIZE + 5);
    let page = plain_page(BlockNumber(2 * 130_048 + 5));
    let checksum = page_checksum(&page, block);
    assert_eq!(
        verify_compressed_page(&page, block),
        PageVerdict::Valid {
            lsn: Lsn(0x77),
            checksum
        }
    );
    assert!(matches!(
        verify_compressed_page(&plain_page(block), block),
        PageVerdict::Bad(PageDefect::ChecksumMismatch { .. })
    ));
}

#[test]
fn damaged_addresses_are_refused() {
    let flat = [plain_page(BlockNumber(0)), plain_page(BlockNumber(1))].concat();
    let mut extent = vec![0; EXTENT_BYTES];
    build_extent(&flat, 4096, 2, &mut extent).unwrap();
    let intact = extent[PCA..].to_vec();
    assert!(ExtentHeader::parse(&intact).is_ok());
    let parse = |at: usize, bytes: &[u8]| {
        let mut page = intact.clone();
        page[at..at + bytes.len()].copy_from_slice(bytes);
        ExtentHeader::parse(&page)
    };
    assert_eq!(
        parse(8, &[0, 0]),
        Err(CfsError::ChunkSize { chunk_size: 0 })
    );
    assert_eq!(
        parse(8, &[1, 16]),
        Err(CfsError::ChunkSize { chunk_size: 4097 })
    );
    assert_eq!(parse(0, &[128]), Err(CfsError::BlockCount { blocks: 128 }));
    assert_eq!(
        parse(154 + 4, &[3, 2]),
        Err(CfsError::ChunkCount {
            slot: 1,
            used: 3,
            allocated: 2,
            possible: 2
        })
    );
    assert_eq!(
        parse(154 + 4, &[2, 255]),
        Err(CfsError::ChunkCount {
            slot: 1,
            used: 2,
            allocated: 255,
            possible: 2
        })
    );
    let wrong_sum = parse(154 + 6, &[9]);
    assert!(matches!(
        wrong_sum,
        Err(CfsError::AddressChecksum { slot: 1, .. })
    ));
    // Chunks 0 and 255 with the sum that goes with them.
    for (chunk, sum) in [(0_u16, [2, 2, 0, 0]), (255, [2, 2, 255, 0])] {
        let [low, high] = chunk.to_le_bytes();
        let address = [sum[0], sum[1], sum[2], sum[3], 2, 2, low, high, 0, 0];
        assert_eq!(
            parse(154, &address),
            Err(CfsError::ChunkNumber {
                slot: 1,
                chunk,
                chunks: 254
            })
        );
    }
}

#[test]
fn impossible_arguments_are_refused() {
    let mut extent = vec![0; EXTENT_BYTES];
    let page = plain_page(BlockNumber(0));
    for chunk_size in [0, 256, 4095, 8192, 65_536 + 4096] {
        assert_eq!(
            build_extent(&page, chunk_size, 1, &mut extent),
            Err(CfsError::ChunkSize { chunk_size })
        );
    }
    for length in [0, 1, 8191, 8193, 128 * 8192] {
        assert_eq!(
            build_extent(&vec![0; length], 1024, 1, &mut extent),
            Err(CfsError::PagesLength { length })
        );
    }
    build_extent(&page, 1024, 1, &mut extent).unwrap();
    let header = ExtentHeader::parse(&extent[PCA..]).unwrap();
    let mut page = vec![0; PAGE_SIZE];
    for slot in [1, 127, u32::MAX] {
        assert_eq!(
            assemble_page(&extent, &header, slot, &mut page),
            Err(CfsError::NoSuchPage { slot, blocks: 1 })
        );
    }
}
