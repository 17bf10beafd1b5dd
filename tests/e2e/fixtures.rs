//! Files made by the real systems: where they are, how they are unpacked, and what a directory tree
//! looks like in a manifest.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The folder of openGauss fixtures, or `None` after saying aloud that the test is skipped. In CI
/// their absence is a failure.
pub(crate) fn gauss() -> Option<PathBuf> {
    folder("gauss")
}

/// The folder of images of DSS volumes, in the same way.
pub(crate) fn dss() -> Option<PathBuf> {
    folder("dss")
}

/// Unpacks an image of a DSS volume as a sparse file.
pub(crate) fn unpack_volume(dss: &Path, name: &str, directory: &Path) -> PathBuf {
    let path = dss.join(format!("{name}.img.zst"));
    let file = File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut decoder = zstd::Decoder::new(file).unwrap();
    decoder.window_log_max(27).unwrap();
    let path = directory.join(format!("{name}.img"));
    let mut image = File::create(&path).unwrap();
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
    path
}

fn folder(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("GS_FIXTURES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures"),
        PathBuf::from,
    );
    let folder = root.join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "fixtures are mandatory in CI, but {} is missing",
        folder.display()
    );
    eprintln!(
        "SKIPPED: no fixtures at {}; set GS_FIXTURES to their folder",
        folder.display()
    );
    None
}

/// Unpacks `<name>.tar.zst` of the openGauss fixtures into `directory`.
pub(crate) fn unpack(gauss: &Path, name: &str, directory: &Path) {
    let path = gauss.join(format!("{name}.tar.zst"));
    let file = File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut decoder = zstd::Decoder::new(file).unwrap();
    decoder.window_log_max(27).unwrap();
    tar::Archive::new(decoder).unpack(directory).unwrap();
}

/// The first 8 KiB of a control file that some server wrote.
pub(crate) fn write_control_file(pgdata: &Path, gauss: &Path) {
    let file = File::open(gauss.join("pgdata.tar.zst")).unwrap();
    let mut decoder = zstd::Decoder::new(file).unwrap();
    decoder.window_log_max(27).unwrap();
    for entry in tar::Archive::new(decoder).entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path().unwrap().ends_with("dn1/global/pg_control") {
            fs::create_dir_all(pgdata.join("global")).unwrap();
            entry.unpack(pgdata.join("global/pg_control")).unwrap();
            return;
        }
    }
    panic!("no pg_control in the fixture");
}

/// One line of a manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ManifestLine {
    /// `f`, `d` or `l`.
    pub(crate) kind: String,
    /// Octal permission bits.
    pub(crate) mode: String,
    /// Bytes of a file.
    pub(crate) size: u64,
    /// SHA-256 of a file, target of a link.
    pub(crate) content: String,
}

/// The recorded manifest of a restore, by path.
pub(crate) fn recorded_manifest(gauss: &Path, name: &str) -> BTreeMap<String, ManifestLine> {
    let path = gauss.join("manifests").join(format!("{name}.manifest.tsv"));
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let lines = text.lines().map(|line| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [path, kind, mode, size, content] = fields[..] else {
            panic!("{line:?}")
        };
        let line = ManifestLine {
            kind: kind.to_owned(),
            mode: mode.to_owned(),
            size: if kind == "f" {
                size.parse().unwrap()
            } else {
                0
            },
            content: content.to_owned(),
        };
        (path.to_owned(), line)
    });
    lines.collect()
}

/// The manifest of a directory tree.
pub(crate) fn manifest(root: &Path) -> BTreeMap<String, ManifestLine> {
    let mut lines = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    lines.insert(".".to_owned(), line(root));
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let found = line(&path);
            if found.kind == "d" {
                pending.push(path.clone());
            }
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            lines.insert(name, found);
        }
    }
    lines
}

fn line(path: &Path) -> ManifestLine {
    let metadata = fs::symlink_metadata(path).unwrap();
    let mode = format!("0{:o}", metadata.permissions().mode() & 0o7777);
    let (kind, size, content) = if metadata.is_symlink() {
        ("l", 0, fs::read_link(path).unwrap().display().to_string())
    } else if metadata.is_dir() {
        ("d", 0, "-".to_owned())
    } else {
        ("f", metadata.size(), digest(path))
    };
    ManifestLine {
        kind: kind.to_owned(),
        mode,
        size,
        content,
    }
}

/// The SHA-256 of a file.
pub(crate) fn digest(path: &Path) -> String {
    let mut file = File::open(path).unwrap();
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// What differs between two manifests, a line each; empty when nothing does.
pub(crate) fn differences(
    expected: &BTreeMap<String, ManifestLine>,
    found: &BTreeMap<String, ManifestLine>,
) -> Vec<String> {
    let mut differences = Vec::new();
    for (path, line) in expected {
        match found.get(path) {
            None => differences.push(format!("{path} is missing")),
            Some(other) if other != line => {
                differences.push(format!("{path}: expected {line:?}, found {other:?}"));
            }
            Some(_) => {}
        }
    }
    let extra = found.keys().filter(|path| !expected.contains_key(*path));
    differences.extend(extra.map(|path| format!("{path} should not be there")));
    differences
}
