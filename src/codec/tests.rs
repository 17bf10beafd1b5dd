//! What the codecs promise together; on pages of a real instance where the fixtures are at hand.

use super::{Compressor, DecodeError, Decompressor, compress_stream, pglz};
use crate::types::{CompressAlgorithm, PAGE_SIZE};
use proptest::prelude::{Just, Strategy, any};
use proptest::{prop_assert, prop_assert_eq, prop_oneof, proptest};
use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Pages that a fixture test looks at, at most: seconds, not minutes.
const SAMPLE_PAGES: usize = 3000;

/// Bytes with repeats near and far: slices of what is already there, between fresh ones.
fn pages() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        (any::<u8>(), 1_usize..600).prop_map(Piece::Run),
        proptest::collection::vec(any::<u8>(), 1..40).prop_map(Piece::Fresh),
        proptest::collection::vec(0_u8..4, 1..200).prop_map(Piece::Fresh),
        (1_usize..5000, 1_usize..400).prop_map(Piece::Repeat),
    ];
    (
        proptest::collection::vec(piece, 1..120),
        prop_oneof![Just(PAGE_SIZE), 1..=PAGE_SIZE],
    )
        .prop_map(|(pieces, limit)| {
            let mut page = Vec::new();
            for piece in pieces {
                piece.append_to(&mut page);
            }
            page.truncate(limit);
            page
        })
}

#[derive(Debug, Clone)]
enum Piece {
    Run((u8, usize)),
    Fresh(Vec<u8>),
    Repeat((usize, usize)),
}

impl Piece {
    fn append_to(self, page: &mut Vec<u8>) {
        match self {
            Piece::Run((byte, length)) => page.resize(page.len() + length, byte),
            Piece::Fresh(bytes) => page.extend(bytes),
            Piece::Repeat((distance, length)) => {
                for _ in 0..length {
                    let byte = page.len().checked_sub(distance).map_or(7, |at| page[at]);
                    page.push(byte);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn what_is_compressed_comes_back(
        page in pages(),
        number in 0..CompressAlgorithm::ALL.len(),
        level in 0_u32..=9,
    ) {
        let algorithm = CompressAlgorithm::ALL[number];
        let mut out = [0xEE; PAGE_SIZE];
        if let Some(bytes) = Compressor::new(algorithm, level).compress(&page, &mut out) {
            prop_assert!((1..page.len()).contains(&bytes));
            let mut back = vec![0x55; page.len()];
            let result = Decompressor::new().decompress(algorithm, &out[..bytes], &mut back);
            prop_assert_eq!(result, Ok(()));
            prop_assert_eq!(back, page);
        }
    }

    #[test]
    fn a_cut_or_damaged_payload_never_passes_for_another_length(
        page in pages(),
        number in 0..CompressAlgorithm::ALL.len(),
        cut in any::<proptest::sample::Index>(),
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), 1_u8..), 0..4),
    ) {
        let algorithm = CompressAlgorithm::ALL[number];
        let mut out = [0; PAGE_SIZE];
        if let Some(bytes) = Compressor::new(algorithm, 1).compress(&page, &mut out) {
            let mut decompressor = Decompressor::new();
            let mut back = vec![0; page.len()];
            let cut = &out[..cut.index(bytes)];
            prop_assert!(decompressor.decompress(algorithm, cut, &mut back).is_err());
            let mut shorter = vec![0; page.len() - 1];
            if bytes != shorter.len() {
                let result = decompressor.decompress(algorithm, &out[..bytes], &mut shorter);
                prop_assert!(result.is_err());
            }
            let mut longer = vec![0; page.len() + 1];
            let result = decompressor.decompress(algorithm, &out[..bytes], &mut longer);
            prop_assert!(result.is_err());
            for (at, mask) in flips {
                out[at.index(bytes)] ^= mask;
            }
            // Whatever comes out: no panic, and the context serves the next page.
            let _ = decompressor.decompress(algorithm, &out[..bytes], &mut back);
            let bytes = Compressor::new(algorithm, 1).compress(&page, &mut out).unwrap();
            prop_assert_eq!(decompressor.decompress(algorithm, &out[..bytes], &mut back), Ok(()));
            prop_assert_eq!(back, page);
        }
    }

    #[test]
    fn garbage_is_no_payload(
        payload in proptest::collection::vec(any::<u8>(), 0..300),
        number in 0..CompressAlgorithm::ALL.len(),
    ) {
        // 300 bytes of pglz may well unfold to 8192, hence only "no panic" for it.
        let algorithm = CompressAlgorithm::ALL[number];
        let mut page = [0; PAGE_SIZE];
        let result = Decompressor::new().decompress(algorithm, &payload, &mut page);
        if algorithm != CompressAlgorithm::Pglz {
            prop_assert!(result.is_err());
        }
    }

    #[test]
    fn a_stream_of_any_length_comes_back(
        bytes in proptest::collection::vec(0_u8..16, 0..200_000),
    ) {
        let stream = compress_stream(&bytes);
        let mut back = vec![1; bytes.len()];
        prop_assert_eq!(Decompressor::new().decompress_stream(&stream, &mut back), Ok(()));
        prop_assert_eq!(back, bytes);
    }
}

#[test]
fn a_page_that_does_not_shrink_gives_nothing() {
    let mut state = 1_u64;
    let noise: Vec<u8> = (0..PAGE_SIZE)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state.to_le_bytes()[7]
        })
        .collect();
    let mut out = [0; PAGE_SIZE];
    for algorithm in CompressAlgorithm::ALL {
        let mut compressor = Compressor::new(algorithm, 6);
        assert_eq!(compressor.compress(&noise, &mut out), None, "{algorithm}");
        assert_eq!(compressor.compress(b"x", &mut out), None, "{algorithm}");
        assert_eq!(compressor.compress(b"", &mut out), None, "{algorithm}");
    }
    let zeros = [0; PAGE_SIZE];
    let mut store = Compressor::new(CompressAlgorithm::None, 0);
    assert_eq!(store.compress(&zeros, &mut out), None);
    let mut level_0 = Compressor::new(CompressAlgorithm::Zlib, 0);
    assert_eq!(level_0.compress(&zeros, &mut out), None);
}

#[test]
fn a_payload_as_long_as_the_page_is_the_page() {
    let payload = [0x1F; PAGE_SIZE];
    for algorithm in CompressAlgorithm::ALL {
        let mut page = [0; PAGE_SIZE];
        let result = Decompressor::new().decompress(algorithm, &payload, &mut page);
        assert_eq!((result, page), (Ok(()), payload), "{algorithm}");
    }
}

#[test]
fn an_error_tells_what_was_wrong() {
    let mut decompressor = Decompressor::new();
    let mut page = [0; PAGE_SIZE];
    let mut text = |algorithm, payload: &[u8]| {
        let result = decompressor.decompress(algorithm, payload, &mut page);
        result.unwrap_err().to_string()
    };
    assert_eq!(
        text(CompressAlgorithm::None, b"abc"),
        "none payload gives 3 bytes instead of 8192"
    );
    assert_eq!(
        text(CompressAlgorithm::Zlib, b"abc"),
        "zlib payload of 3 bytes is damaged"
    );
    assert_eq!(
        text(CompressAlgorithm::Zlib, &compress_stream(&[0; 9000])),
        "zlib payload gives more than 8192 bytes"
    );
    assert_eq!(
        text(CompressAlgorithm::Lz4, &[0x10, 7]),
        "lz4 payload gives 1 bytes instead of 8192"
    );
}

#[test]
fn equal_pages_give_equal_payloads_whatever_came_before() {
    let mut state = 9_u64;
    let mut page = |length: usize| -> Vec<u8> {
        (0..length)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                b'a' + state.to_le_bytes()[7] % 6
            })
            .collect()
    };
    for algorithm in CompressAlgorithm::ALL {
        let mut used = Compressor::new(algorithm, 1);
        for length in [PAGE_SIZE, 100, 5000, 4096, 7, PAGE_SIZE, 4095] {
            let page = page(length);
            let mut from_used = [0; PAGE_SIZE];
            let mut from_fresh = [0; PAGE_SIZE];
            let used_bytes = used.compress(&page, &mut from_used);
            let fresh_bytes = Compressor::new(algorithm, 1).compress(&page, &mut from_fresh);
            assert_eq!(used_bytes, fresh_bytes, "{algorithm} {length}");
            let bytes = used_bytes.unwrap_or(0);
            assert_eq!(
                from_used[..bytes],
                from_fresh[..bytes],
                "{algorithm} {length}"
            );
        }
    }
}

#[test]
fn zlib_streams_are_read_by_zlib_and_no_larger_than_its_own() {
    let Some(sample) = sample("pglz") else { return };
    for level in 1..=9 {
        let mut compressor = Compressor::new(CompressAlgorithm::Zlib, level);
        let mut theirs = flate2::Compress::new(flate2::Compression::new(level), true);
        let mut inflate = flate2::Decompress::new(true);
        let mut out = [0; PAGE_SIZE];
        let (mut our_bytes, mut their_bytes) = (0, 0);
        for (page, _) in sample.iter().step_by(8) {
            let bytes = compressor.compress(page, &mut out);
            our_bytes += bytes.unwrap_or(PAGE_SIZE);
            if let Some(bytes) = bytes {
                let mut back = [0; PAGE_SIZE];
                inflate.reset(true);
                let status = inflate
                    .decompress(&out[..bytes], &mut back, flate2::FlushDecompress::Finish)
                    .unwrap();
                assert_eq!(status, flate2::Status::StreamEnd);
                assert_eq!(&back[..], page);
            }
            let mut room = [0; 2 * PAGE_SIZE];
            theirs.reset();
            theirs
                .compress(page, &mut room, flate2::FlushCompress::Finish)
                .unwrap();
            their_bytes += usize::try_from(theirs.total_out()).unwrap().min(PAGE_SIZE);
        }
        assert!(
            our_bytes <= their_bytes,
            "level {level}: {our_bytes} > {their_bytes}"
        );
    }
}

#[test]
fn zstd_frames_carry_their_content_size() {
    let page = [3; PAGE_SIZE];
    let mut out = [0; PAGE_SIZE];
    for level in 0..=9 {
        let mut compressor = Compressor::new(CompressAlgorithm::Zstd, level);
        let bytes = compressor.compress(&page, &mut out).unwrap();
        let size = zstd_safe::get_frame_content_size(&out[..bytes]).unwrap();
        assert_eq!(size, Some(8192), "level {level}");
    }
}

#[test]
fn what_the_original_wrote_is_read_and_written_again() {
    for algorithm in ["pglz", "zlib", "lz4", "zstd"] {
        let Some(sample) = sample(algorithm) else {
            continue;
        };
        let algorithm = CompressAlgorithm::from_name(algorithm).unwrap();
        assert!(sample.len() > 500, "{algorithm}: {} pages", sample.len());
        let mut compressor = Compressor::new(algorithm, 1);
        let mut decompressor = Decompressor::new();
        let mut out = [0; PAGE_SIZE];
        let mut back = [0; PAGE_SIZE];
        let (mut same, mut headers) = (0, 0);
        for (page, payload) in &sample {
            // openGauss pages say their size, 8192, and a version of 4 to 8 at offset 18.
            headers += usize::from(page[19] == 0x20 && (4..=8).contains(&page[18]));
            if let Some(bytes) = compressor.compress(page, &mut out) {
                decompressor
                    .decompress(algorithm, &out[..bytes], &mut back)
                    .unwrap();
                assert_eq!(&back[..], page);
                same += usize::from(out[..bytes] == **payload);
            }
        }
        assert!(
            headers * 10 > sample.len() * 9,
            "{algorithm}: {headers} page headers"
        );
        // The same library with the same parameters: this is how we know them.
        if matches!(algorithm, CompressAlgorithm::Lz4 | CompressAlgorithm::Zstd) {
            assert_eq!(same, sample.len(), "{algorithm}");
        }
    }
}

#[test]
fn pglz_is_within_3_percent_of_the_original_and_the_reference_equals_it() {
    let Some(sample) = sample("pglz") else { return };
    let mut compressor = Compressor::new(CompressAlgorithm::Pglz, 0);
    let mut out = [0; PAGE_SIZE];
    let (mut our_bytes, mut their_bytes) = (0, 0);
    for (page, payload) in &sample {
        our_bytes += compressor.compress(page, &mut out).unwrap_or(PAGE_SIZE);
        their_bytes += payload.len();
        if payload.len() < PAGE_SIZE {
            assert!(
                pglz::reference::compress(page) == *payload,
                "not what the original writes"
            );
        }
    }
    assert!(
        our_bytes * 100 <= their_bytes * 103,
        "{our_bytes} > {their_bytes} + 3 %"
    );
}

#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
/// Distinct pages of the original's catalog of that algorithm, with the payloads it wrote for them.
fn sample(algorithm: &str) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let path = fixtures().join(format!("gauss/catalog_{algorithm}.tar.zst"));
    if !path.exists() {
        assert!(
            std::env::var_os("CI").is_none(),
            "CI needs {}",
            path.display()
        );
        eprintln!("SKIPPED: no {}: set GS_FIXTURES", path.display());
        return None;
    }
    let algorithm = CompressAlgorithm::from_name(algorithm).unwrap();
    let mut decompressor = Decompressor::new();
    let mut seen = HashSet::new();
    let mut sample = Vec::new();
    let mut decoder = zstd::Decoder::new(std::fs::File::open(path).unwrap()).unwrap();
    decoder.window_log_max(27).unwrap();
    for entry in tar::Archive::new(decoder).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_string_lossy().into_owned();
        if !name.contains("/database/base/16384/") || !entry.header().entry_type().is_file() {
            continue;
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        for payload in records(&bytes).unwrap_or_default() {
            if payload.len() == PAGE_SIZE || !seen.insert(payload.to_vec()) {
                continue;
            }
            let mut page = vec![0; PAGE_SIZE];
            decompressor
                .decompress(algorithm, payload, &mut page)
                .unwrap();
            sample.push((page, payload.to_vec()));
            if sample.len() == SAMPLE_PAGES {
                return Some(sample);
            }
        }
    }
    Some(sample)
}

fn fixtures() -> PathBuf {
    std::env::var_os("GS_FIXTURES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures"),
        PathBuf::from,
    )
}

/// Payloads of a backup's data file; `None` for any other file.
fn records(bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut payloads = Vec::new();
    let mut rest = bytes;
    let mut next_block = 0;
    while let Some((header, tail)) = rest.split_first_chunk::<8>() {
        let block = u32::from_le_bytes(header[..4].try_into().unwrap());
        let payload_bytes = u32::from_le_bytes(header[4..].try_into().unwrap());
        let payload_bytes = usize::try_from(payload_bytes).unwrap();
        if block < next_block || !(1..=PAGE_SIZE).contains(&payload_bytes) {
            return None;
        }
        next_block = block + 1;
        let (payload, tail) = tail.split_at_checked(payload_bytes)?;
        payloads.push(payload);
        rest = tail;
    }
    rest.is_empty().then_some(payloads)
}

/// The errors are small and comparable, so that callers can keep and match them.
const _: () = assert!(size_of::<DecodeError>() <= 32);
