//! Tests of pages on files that the real server and the real gs_probackup wrote.

mod extents;
mod pages;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Window that the fixtures were compressed with, as a power of two.
const ZSTD_WINDOW_LOG: u32 = 27;

/// The directory of fixtures of the server, or `None`, said aloud, where there is none.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn fixtures() -> Option<PathBuf> {
    let root = std::env::var_os("GS_FIXTURES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures"),
        PathBuf::from,
    );
    let gauss = root.join("gauss");
    if gauss.is_dir() {
        return Some(gauss);
    }
    let missing = format!("no fixtures in {}: set GS_FIXTURES", root.display());
    assert!(std::env::var_os("CI").is_none(), "{missing}");
    eprintln!("SKIPPED: {missing}");
    None
}

/// Calls `visit` with the path and the content, cut at `bytes_max`, of every file of a fixture that
/// `wanted` names.
fn visit_files(
    archive: &Path,
    bytes_max: u64,
    wanted: impl Fn(&str) -> bool,
    mut visit: impl FnMut(&str, &[u8]),
) {
    let mut decoder = zstd::Decoder::new(File::open(archive).unwrap()).unwrap();
    decoder.window_log_max(ZSTD_WINDOW_LOG).unwrap();
    let mut content = Vec::new();
    for entry in tar::Archive::new(decoder).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        if entry.header().entry_type().is_file() && wanted(&path) {
            content.clear();
            entry
                .by_ref()
                .take(bytes_max)
                .read_to_end(&mut content)
                .unwrap();
            visit(&path, &content);
        }
    }
}
