//! Trees whose files are not held in memory: many files, long ones, links, on two dirty volumes.
//!
//! `GS_DSS_TREE_THINGS` and `GS_DSS_TREE_BYTES_MAX` make them larger than a quick run wants them,
//! with units of 2, 4, 8 and 64 MiB, or of `GS_DSS_TREE_AU_BYTES` alone.

use super::*;
use crate::storage::dss::add_volumes;
use sha2::{Digest, Sha256};

const PIECE: u64 = 1 << 20;

/// What a file holds: words that depend on its seed and on where they are.
#[derive(Clone, Copy, Debug)]
struct Content {
    seed: u64,
    length: u64,
}

impl Content {
    /// The bytes from `at` on, at most a piece of them.
    fn piece(self, at: u64) -> Vec<u8> {
        let length = usize::try_from((self.length - at).min(PIECE)).unwrap();
        let before = usize::try_from(at % 8).unwrap();
        let mut bytes = Vec::with_capacity(length + 16);
        for word in at / 8..(at + length as u64).div_ceil(8) {
            let value = self.seed ^ word.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        bytes.drain(..before);
        bytes.truncate(length);
        bytes
    }

    fn pieces(self) -> impl Iterator<Item = (u64, Vec<u8>)> {
        let starts = (0..self.length).step_by(usize::try_from(PIECE).unwrap());
        starts.map(move |at| (at, self.piece(at)))
    }

    /// As the independent reader shows it.
    fn digest(self) -> String {
        let mut digest = Sha256::new();
        self.pieces().for_each(|(_, bytes)| digest.update(bytes));
        let hex = |byte: u8| format!("{byte:02x}");
        digest.finalize().into_iter().map(hex).collect()
    }
}

/// The line of a thing in a manifest, but for its times, and what there is to compare.
enum Expected {
    Directory,
    File(Content),
    Link(String),
}

/// A volume with dirt at both ends of its units.
fn dirty_device(path: &Path, au_bytes: u64, units: u64) {
    let file = std::fs::File::create(path).unwrap();
    file.set_len((132 << 20) + units * au_bytes).unwrap();
    let dirt = vec![0xa5; 64 << 10];
    for unit in 0..(units + (132 << 20) / au_bytes).min(12_000) {
        if unit * au_bytes >= 4 << 20 {
            file.write_all_at(&dirt, unit * au_bytes).unwrap();
        }
        let end = (unit + 1) * au_bytes - dirt.len() as u64;
        file.write_all_at(&dirt, end).unwrap();
    }
    // The head is zeroed before a device becomes a volume.
    file.write_all_at(&vec![0; 2_048_000], 0).unwrap();
}

/// Lengths of files: none, a little, some units, and one that is long.
fn length(random: &mut Random, number: u64, au_bytes: u64, bytes_max: u64) -> u64 {
    match (number, random.below(100)) {
        (7, _) => bytes_max,
        (_, 0..=9) => 0,
        (_, 10) => au_bytes,
        (_, 11..=13) => random.below((3 * au_bytes).min(24 << 20)),
        _ => random.below(20_000),
    }
}

fn write_tree(
    writer: &mut GroupWriter,
    random: &mut Random,
    au_bytes: u64,
) -> BTreeMap<String, Expected> {
    let things = from_env("GS_DSS_TREE_THINGS", 120);
    let bytes_max = from_env("GS_DSS_TREE_BYTES_MAX", 3 * au_bytes / 2 + 12_345);
    let mut expected = BTreeMap::new();
    let mut directories = vec![("+data".to_owned(), BlockId::ROOT)];
    for number in 0..things {
        let at = usize::try_from(random.below(directories.len() as u64)).unwrap();
        let (directory, parent) = directories[at].clone();
        let name = format!("n{number}");
        let path = format!("{directory}/{name}");
        let thing = match random.below(20) {
            0 => {
                let id = writer.make_directory(parent, &name).unwrap();
                directories.push((path.clone(), id));
                Expected::Directory
            }
            1 => {
                let target = format!("+data/x{number}");
                writer.make_link(parent, &name, &target).unwrap();
                Expected::Link(target)
            }
            _ => {
                let id = writer.make_file(parent, &name).unwrap();
                let length = length(random, number, au_bytes, bytes_max);
                let seed = random.next();
                let content = Content { seed, length };
                for (at, bytes) in content.pieces() {
                    writer.write_at(id, at, &bytes).unwrap();
                    writer.take_steps();
                }
                Expected::File(content)
            }
        };
        expected.insert(path, thing);
    }
    writer.sync().unwrap();
    expected
}

/// Compares what this program reads, byte for byte and without holding it.
fn compare(spec: &GroupSpec, expected: &BTreeMap<String, Expected>) {
    let mut groups = VolumeGroups::open(std::slice::from_ref(spec), EngineChoice::Auto).unwrap();
    let report = check(groups.group(0)).unwrap();
    assert!(!report.is_damaged(), "{report:#?}");
    let mut seen = 0;
    let mut directories = vec![("+data".to_owned(), groups.groups()[0].root().clone())];
    while let Some((path, directory)) = directories.pop() {
        let children = groups.groups()[0].children(&directory).unwrap();
        for child in children.into_iter().cloned().collect::<Vec<Node>>() {
            let path = format!("{path}/{}", child.name);
            if path == "+data/.recycle" {
                continue;
            }
            seen += 1;
            match (&child.kind, &expected[&path]) {
                (NodeKind::Directory { .. }, Expected::Directory) => {
                    directories.push((path, child));
                }
                (NodeKind::Link { .. }, Expected::Link(target)) => {
                    assert_eq!(groups.group(0).read_link(&child).unwrap(), *target);
                }
                (NodeKind::File { .. }, Expected::File(content)) => {
                    let mut at = 0;
                    let mut sink = |mut part: &[u8]| {
                        while !part.is_empty() {
                            let wanted = content.piece(at);
                            let (now, behind) = part.split_at(part.len().min(wanted.len()));
                            assert!(wanted[..now.len()] == *now, "{path}: {at}");
                            at += now.len() as u64;
                            part = behind;
                        }
                        Ok(())
                    };
                    groups.group(0).read_file(&child, &mut sink).unwrap();
                    assert_eq!(at, content.length, "{path}");
                }
                _ => panic!("{path} is of another kind"),
            }
        }
    }
    assert_eq!(seen, expected.len());
}

/// Compares what the independent reader sees: kind, path, length, digest or target.
fn compare_elsewhere(devices: &[&Path], expected: &BTreeMap<String, Expected>) {
    let Some(manifest) = check_elsewhere("manifest", devices) else {
        return;
    };
    let mut seen = 0;
    for line in manifest.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        if fields[1].starts_with("+data/.recycle") {
            continue;
        }
        seen += 1;
        let (kind, written, last) = match &expected[fields[1]] {
            Expected::Directory => ("D", "0".to_owned(), "-".to_owned()),
            Expected::File(content) => ("F", content.length.to_string(), content.digest()),
            Expected::Link(target) => ("L", fields[3].to_owned(), target.clone()),
        };
        assert_eq!((fields[0], fields[3], fields[4]), (kind, &*written, &*last));
    }
    assert_eq!(seen, expected.len());
    check_elsewhere("check", devices);
}

#[test]
fn files_of_any_number_and_length_are_read_back_from_two_dirty_volumes() {
    let sizes = match from_env("GS_DSS_TREE_AU_BYTES", 0) {
        0 if std::env::var_os("GS_DSS_TREE_THINGS").is_none() => vec![2 << 20],
        0 => vec![2 << 20, 4 << 20, 8 << 20, 64 << 20],
        au_bytes => vec![au_bytes],
    };
    for au_bytes in sizes {
        let scratch = tempfile::tempdir().unwrap();
        let [first, second] = ["data0", "data1"].map(|name| scratch.path().join(name));
        let things = from_env("GS_DSS_TREE_THINGS", 120);
        let long = from_env("GS_DSS_TREE_BYTES_MAX", 0) / au_bytes;
        // The second is needed, and reached in the middle of the tree.
        dirty_device(&first, au_bytes, things / 4);
        dirty_device(&second, au_bytes, things + things / 4 + long + 40);
        let options = CreateOptions {
            name: "data".to_owned(),
            device: first.clone(),
            au_bytes,
            dss_home: None,
            time: (1_700_000_000, 0),
        };
        create(&options, EngineChoice::Sync).unwrap();
        let spec = spec(&[&first, &second]);
        let quick = WriteOptions {
            dss_home: None,
            quiet: Duration::ZERO,
        };
        add_volumes(&spec, &quick, (1_700_000_000, 0), EngineChoice::Sync).unwrap();
        let mut writer = open(&spec).unwrap();
        let expected = write_tree(&mut writer, &mut Random(77 + au_bytes), au_bytes);
        drop(writer);
        let group = crate::storage::dss::VolumeGroup::open(&spec, EngineChoice::Sync).unwrap();
        let (_, _, _, used) = group.summary().volumes[1];
        assert!(
            used > 8 * au_bytes,
            "the second volume was hardly needed: {used}"
        );
        compare(&spec, &expected);
        compare_elsewhere(&[&first, &second], &expected);
    }
}
