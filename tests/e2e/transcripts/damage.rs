//! The catalogs of the recorded runs, and what was done to them before each.

use crate::fixtures;
use std::fs::{self, File};
use std::path::Path;

/// Unpacks a recorded catalog, or of it only what `show` reads.
pub(super) fn unpack(gauss: &Path, name: &str, target: &Path, records_only: bool) {
    let archive = format!("catalog_{name}");
    if !records_only {
        return fixtures::unpack(gauss, &archive, target);
    }
    let path = gauss.join(format!("{archive}.tar.zst"));
    let mut decoder = zstd::Decoder::new(File::open(path).unwrap()).unwrap();
    decoder.window_log_max(27).unwrap();
    for entry in tar::Archive::new(decoder).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let file = path.file_name().and_then(|name| name.to_str());
        if matches!(file, Some("backup.control" | "pg_probackup.conf")) {
            assert!(entry.unpack_in(target).unwrap());
        }
    }
}

/// Links all files of a tree into another one: a copy, as long as nobody writes in place.
pub(super) fn link_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            link_tree(&entry.path(), &target);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path()).unwrap(), target).unwrap();
        } else {
            fs::hard_link(entry.path(), target).unwrap();
        }
    }
}

/// Puts other bytes in place of a file, without changing the one that it is a link to.
pub(super) fn change(path: &Path, act: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    act(&mut bytes);
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Does what the comment of a recorded run says.
pub(super) fn apply(comment: &str, catalog: &Path) {
    let (_, what) = comment.split_once("original state, then ").unwrap();
    let words: Vec<&str> = what.split_ascii_whitespace().collect();
    let after = |word: &str| {
        let at = words.iter().position(|found| *found == word).unwrap();
        catalog.join(words[at + 1])
    };
    if what == "nothing changed" {
    } else if what.contains(" XORed ") {
        let offset = words[words.iter().position(|word| *word == "offset").unwrap() + 1];
        let offset: usize = offset.parse().unwrap();
        let path = words
            .iter()
            .find(|word| word.starts_with("backups/"))
            .unwrap();
        change(&catalog.join(path), |bytes| bytes[offset] ^= 1);
    } else if what.contains(" appended to ") {
        let line: &[u8] = if what.starts_with("two bytes") {
            b"x\n"
        } else {
            b"bogus-key = 1\n"
        };
        change(&after("to"), |bytes| bytes.extend(line));
    } else if what.contains(" cut off") {
        change(&after("of"), |bytes| bytes.truncate(bytes.len() - 100));
    } else if what.starts_with("status = FOO") {
        change(&after("in"), |bytes| {
            let text = String::from_utf8(std::mem::take(bytes)).unwrap();
            *bytes = text.replace("status = OK", "status = FOO").into_bytes();
        });
    } else if words.get(1) == Some(&"containing") {
        fs::write(catalog.join(words[0]), format!("{}\n", words[2])).unwrap();
    } else if words.get(1) == Some(&"removed") {
        let path = catalog.join(words[0]);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    } else {
        panic!("{comment}");
    }
}
