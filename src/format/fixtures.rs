//! Files out of the archives of reference data, for tests.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

/// The folder of all reference data: `GS_FIXTURES`, or beside the project.
pub(crate) fn root() -> PathBuf {
    std::env::var_os("GS_FIXTURES").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures"),
        PathBuf::from,
    )
}

/// The folder of what openGauss and its tools made.
fn directory() -> PathBuf {
    root().join("gauss")
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

/// Unpacks an image of a DSS volume as a sparse file.
pub(crate) fn unpack_volume(name: &str, directory: &std::path::Path) -> Option<PathBuf> {
    use std::io::{Seek, SeekFrom, Write};
    let Ok(file) = std::fs::File::open(root().join("dss").join(format!("{name}.img.zst"))) else {
        skip(name);
        return None;
    };
    let mut decoder = zstd::Decoder::new(file).unwrap();
    decoder.window_log_max(27).unwrap();
    let path = directory.join(format!("{name}.img"));
    let mut image = std::fs::File::create(&path).unwrap();
    let zeros = vec![0; 1 << 18];
    let mut piece = vec![0; zeros.len()];
    loop {
        let mut length = 0;
        while length < piece.len() {
            match decoder.read(&mut piece[length..]).unwrap() {
                0 => break,
                more => length += more,
            }
        }
        if length == 0 {
            break;
        }
        if piece[..length] == zeros[..length] {
            let hole = i64::try_from(length).unwrap();
            image.seek(SeekFrom::Current(hole)).unwrap();
        } else {
            image.write_all(&piece[..length]).unwrap();
        }
    }
    let end = image.stream_position().unwrap();
    image.set_len(end).unwrap();
    Some(path)
}

/// A text file beside the images of DSS volumes.
pub(crate) fn dss_text(name: &str) -> Option<String> {
    let text = std::fs::read_to_string(root().join("dss").join(name)).ok();
    if text.is_none() {
        skip(name);
    }
    text
}
