//! Files out of the archives of reference data, for tests.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

/// The folder of what openGauss and its tools made: below `GS_FIXTURES`, or beside the project.
fn directory() -> PathBuf {
    let root = std::env::var_os("GS_FIXTURES").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures"),
        PathBuf::from,
    );
    root.join("gauss")
}

/// Says that a test could not run; fails where tests must not be left out.
#[allow(clippy::print_stderr, reason = "a skipped test says so")]
pub(crate) fn skip(what: &str) {
    assert!(std::env::var_os("CI").is_none(), "{what}: set GS_FIXTURES");
    eprintln!("SKIPPED: {what}: set GS_FIXTURES");
}

/// A plain file of the folder.
pub(crate) fn file(name: &str) -> Option<Vec<u8>> {
    let bytes = std::fs::read(directory().join(name)).ok();
    if bytes.is_none() {
        skip(name);
    }
    bytes
}

/// The members of an archive that `wanted` picks by path, without the zeros at their ends.
pub(crate) fn members(
    archive: &str,
    wanted: impl Fn(&str) -> bool,
) -> Option<BTreeMap<String, Vec<u8>>> {
    let Ok(file) = std::fs::File::open(directory().join(archive)) else {
        skip(archive);
        return None;
    };
    let mut decoder = zstd::Decoder::new(file).unwrap();
    decoder.window_log_max(27).unwrap();
    let mut archive = tar::Archive::new(decoder);
    let mut found = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        let path = path.trim_start_matches("./").to_owned();
        if entry.header().entry_type().is_file() && wanted(&path) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            let used = bytes
                .iter()
                .rposition(|&byte| byte != 0)
                .map_or(0, |at| at + 1);
            bytes.truncate(used);
            bytes.shrink_to_fit();
            found.insert(path, bytes);
        }
    }
    Some(found)
}
