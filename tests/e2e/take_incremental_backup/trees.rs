//! Plain copies of directory trees, and comparing with them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Copies a directory with all that is in it.
pub(super) fn copy_tree(from: &Path, to: &Path) {
    let mut copy = Command::new("cp");
    copy.args(["-a", "--sparse=always"]).arg(from).arg(to);
    assert!(copy.status().unwrap().success());
}

/// What a backup has of a tree: not the contents of scratch directories, and only the WAL that a
/// start needs.
fn is_backed_up(name: &str) -> bool {
    let scratch = [
        "pg_log/",
        "pg_notify/",
        "pg_stat_tmp/",
        "pg_xlog/",
        "pg_replslot/",
    ];
    !scratch.iter().any(|directory| name.starts_with(directory))
        && !["postmaster.opts", "postmaster.pid", "tablespace_map"].contains(&name)
        && !name.ends_with("pgsql_tmp")
}

fn names(root: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                pending.push(entry.path());
            }
            let name = entry
                .path()
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            if is_backed_up(&name) {
                names.insert(name);
            }
        }
    }
    names
}

/// Fails unless the restored tree is the other one, byte for byte.
#[track_caller]
pub(super) fn assert_same_tree(expected: &Path, restored: &Path) {
    let (ours, theirs) = (names(expected), names(restored));
    let differing: Vec<&String> = ours.symmetric_difference(&theirs).collect();
    assert!(differing.is_empty(), "{differing:?}");
    for name in &ours {
        let (one, other) = (expected.join(name), restored.join(name));
        let metadata = fs::symlink_metadata(&one).unwrap();
        if !metadata.is_file() {
            continue;
        }
        assert_eq!(
            metadata.len(),
            fs::metadata(&other).unwrap().len(),
            "length of {name}"
        );
        let same = fs::read(&one).unwrap() == fs::read(&other).unwrap();
        assert!(same, "{} is not {}", other.display(), one.display());
    }
}
