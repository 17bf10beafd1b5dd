//! Whatever is in a destination, a restore in place ends as one into an empty directory does.

use crate::chain::ChainOfBackups;
use crate::restore_in_place::{Trees, assert_same_trees, trees};
use crate::support::assert_success;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// A generator of equal numbers for equal seeds.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound).unwrap()).unwrap()
    }
}

/// Files, or directories, below a directory; links are not followed.
fn names(root: &Path, directories: bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        let mut paths: Vec<PathBuf> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        for path in paths {
            let is_directory = path.symlink_metadata().unwrap().is_dir();
            if is_directory == directories && path.ends_with("pg_control").eq(&false) {
                found.push(path.clone());
            }
            if is_directory {
                pending.push(path);
            }
        }
    }
    found
}

/// Does one thing to a tree that a person or a server may do.
fn make_dirty(root: &Path, outside: &Path, random: &mut Random) -> String {
    let files = names(root, false);
    let path = files[random.below(files.len())].clone();
    let found = path.symlink_metadata().unwrap();
    let kind = random.below(14);
    let size = usize::try_from(found.len()).unwrap();
    if !found.is_file() || found.nlink() > 1 {
        return "nothing: it is dirt already".to_owned();
    }
    let edit = |change: &mut dyn FnMut(&mut Vec<u8>)| {
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
    };
    match kind {
        0 | 1 if size > 0 => {
            let at = random.below(size);
            edit(&mut |bytes| bytes[at] ^= 1 << (at % 8));
        }
        2 => {
            let length = random.below(size + 1);
            edit(&mut |bytes| bytes.truncate(length));
        }
        3 => {
            let length = random.below(3 * 8192) + 1;
            edit(&mut |bytes| bytes.resize(bytes.len() + length, 0xA5));
        }
        4 => edit(&mut |bytes| bytes.fill(0)),
        5 => fs::remove_file(&path).unwrap(),
        6 => fs::write(path.with_file_name(format!("{}", 70_000 + size)), b"new").unwrap(),
        7 => {
            fs::remove_file(&path).unwrap();
            symlink(outside.join("file"), &path).unwrap();
        }
        8 => {
            fs::remove_file(&path).unwrap();
            fs::create_dir_all(path.join("a/b")).unwrap();
            fs::write(path.join("a/b/c"), b"deep").unwrap();
        }
        9 => {
            fs::remove_file(&path).unwrap();
            fs::hard_link(outside.join("file"), &path).unwrap();
        }
        10 => {
            let link = path.with_file_name("zz_link");
            symlink(outside, link).ok();
        }
        11 => {
            fs::remove_file(&path).unwrap();
            drop(UnixListener::bind(&path).unwrap());
        }
        12 => {
            let mode = fs::Permissions::from_mode(0o400);
            fs::set_permissions(&path, mode).unwrap();
        }
        13 => {
            let blocks = size / 8192;
            if blocks > 1 {
                // A page in another's place: right in itself, wrong here.
                edit(&mut |bytes| bytes.copy_within(0..8192, 8192));
            }
        }
        _ => {}
    }
    format!("{kind} {}", path.display())
}

fn outside_is_untouched(outside: &Path) {
    assert_eq!(fs::read(outside.join("file")).unwrap(), b"outside");
    assert_eq!(fs::read_dir(outside).unwrap().count(), 1);
}

/// A chain and what each backup is when it is restored.
struct Restored {
    chain: ChainOfBackups,
    expected: Vec<Trees>,
}

impl Restored {
    fn create() -> Restored {
        let chain = ChainOfBackups::create(&[&[], &["--compress-algorithm=zlib"], &[]]);
        let expected = chain
            .ids
            .iter()
            .map(|id| {
                let (target, tablespace) = chain.cluster.restore(id, &format!("fresh-{id}"));
                trees(&target, &tablespace)
            })
            .collect();
        Restored { chain, expected }
    }

    #[track_caller]
    fn is_restored_in_place(&self, member: usize, target: &Path, tablespace: &Path) {
        let id = &self.chain.ids[member];
        let arguments = ["-I", "checksum", "-j", "2", "--no-validate", "--no-sync"];
        let output = self
            .chain
            .cluster
            .try_restore(id, target, tablespace, &arguments);
        assert_success(&output);
        assert_same_trees(&self.expected[member], &trees(target, tablespace));
    }
}

#[test]
fn any_dirt_is_cleaned_and_nothing_outside_is_touched() {
    let seed = std::env::var("GS_SEED").map_or(20_261_128, |seed| seed.parse().unwrap());
    let mut random = Random(seed);
    let restored = Restored::create();
    let scratch = restored.chain.cluster.scratch.path().join("place");
    let outside = scratch.join("outside");
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("file"), b"outside").unwrap();
    let (target, tablespace) = restored
        .chain
        .cluster
        .restore(&restored.chain.ids[0], "dirty");
    for round in 0..24 {
        let version = tablespace.join("PG_9.2_201611171_single");
        let mut dirt = Vec::new();
        for _ in 0..=random.below(12) {
            dirt.push(make_dirty(&target, &outside, &mut random));
            dirt.push(make_dirty(&version, &outside, &mut random));
        }
        eprintln!("seed {seed} round {round}: {dirt:#?}");
        let member = random.below(restored.expected.len());
        restored.is_restored_in_place(member, &target, &tablespace);
        outside_is_untouched(&outside);
    }
}
