//! What is written is what every reader sees, whatever happens on the way.

mod adding;
mod kill;
mod large_trees;
mod left_over;
mod model;
mod trees;
mod volumes;

use super::{GroupWriter, WriteOptions};
use crate::format::dss::{BlockId, Node, NodeKind};
use crate::io::EngineChoice;
use crate::storage::dss::{CreateOptions, DssError, GroupSpec, VolumeGroups, check, create};
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Something that was done to a volume, in order.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Write(u16, u64, Vec<u8>),
    Zero(u16, u64, u64),
    Sync(u16),
}

impl GroupWriter {
    /// What was done since this was asked the last time.
    fn take_steps(&mut self) -> Vec<Step> {
        std::mem::take(&mut self.steps)
    }
}

/// A thing of a tree.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Thing {
    Directory,
    File(Vec<u8>),
    Link(String),
}

/// Things by their paths.
type Tree = BTreeMap<String, Thing>;

/// Numbers from a seed (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        let length = usize::try_from(length).unwrap();
        let seed = self.next();
        let words =
            (0..length.div_ceil(8) as u64).flat_map(|n| (seed ^ (n * 0x9e37)).to_le_bytes());
        words.take(length).collect()
    }
}

/// A path to some thing of these kinds.
fn pick(tree: &Tree, random: &mut Random, wanted: impl Fn(&Thing) -> bool) -> Option<String> {
    let some: Vec<&String> = tree.keys().filter(|path| wanted(&tree[*path])).collect();
    let at = usize::try_from(random.below(some.len().max(1) as u64)).unwrap();
    some.get(at).map(|path| (*path).clone())
}

fn is_directory(thing: &Thing) -> bool {
    matches!(thing, Thing::Directory)
}

fn is_file(thing: &Thing) -> bool {
    matches!(thing, Thing::File(_))
}

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn spec(devices: &[&Path]) -> GroupSpec {
    GroupSpec {
        name: "data".to_owned(),
        devices: devices.iter().map(|path| (*path).to_owned()).collect(),
    }
}

fn open(spec: &GroupSpec) -> Result<GroupWriter, DssError> {
    let options = WriteOptions {
        dss_home: None,
        quiet: Duration::ZERO,
    };
    GroupWriter::open(spec, &options, EngineChoice::Sync)
}

/// A new group on an image of so many units behind head and redo ring, dirty where nothing is
/// written to it.
fn new_group(directory: &Path, au_bytes: u64, units: u64) -> (PathBuf, GroupSpec) {
    let path = directory.join("data0");
    let file = std::fs::File::create(&path).unwrap();
    let head = (4_u64 << 20).next_multiple_of(au_bytes) + (64_u64 << 20).max(au_bytes);
    file.set_len(head + units * au_bytes).unwrap();
    // Some of what a device held before; all of it would take long.
    let dirt = vec![0xa5; 1 << 20];
    for unit in 0..units.min(40) {
        file.write_all_at(&dirt, head + unit * au_bytes).unwrap();
        let end = head + (unit + 1) * au_bytes - dirt.len() as u64;
        file.write_all_at(&dirt, end).unwrap();
    }
    let options = CreateOptions {
        name: "data".to_owned(),
        device: path.clone(),
        au_bytes,
        dss_home: None,
        time: (1_700_000_000, 0),
    };
    create(&options, EngineChoice::Sync).unwrap();
    let spec = spec(&[&path]);
    (path, spec)
}

/// The node of a path.
fn find(writer: &GroupWriter, path: &str) -> BlockId {
    let mut at = BlockId::ROOT;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        at = writer
            .child(at, name)
            .unwrap_or_else(|| panic!("no {path}"))
            .id;
    }
    at
}

/// All that a group holds, as the reader sees it; checks the group too.
#[track_caller]
fn read(spec: &GroupSpec) -> Tree {
    read_with(spec, false)
}

/// As [`read`]; a crash may have left one of the copies of a control behind.
#[track_caller]
fn read_with(spec: &GroupSpec, crashed: bool) -> Tree {
    let mut groups = VolumeGroups::open(std::slice::from_ref(spec), EngineChoice::Sync).unwrap();
    let mut report = check(groups.group(0)).unwrap();
    if crashed {
        report
            .findings
            .retain(|finding| !finding.place.contains(" copy of "));
    }
    assert!(!report.is_damaged(), "{report:#?}");
    let root = groups.groups()[0].root().clone();
    let mut tree = Tree::new();
    walk(&mut groups, &root, "", &mut tree);
    tree
}

fn walk(groups: &mut VolumeGroups, directory: &Node, path: &str, tree: &mut Tree) {
    let children = groups.groups()[0].children(directory).unwrap();
    let seen = children.into_iter().filter(|child| !child.is_deleted());
    for child in seen.cloned().collect::<Vec<Node>>() {
        let path = format!("{path}/{}", child.name);
        if path == "/.recycle" {
            continue;
        }
        let thing = match child.kind {
            NodeKind::Directory { .. } => {
                walk(groups, &child, &path, tree);
                Thing::Directory
            }
            NodeKind::Link { .. } => Thing::Link(groups.group(0).read_link(&child).unwrap()),
            NodeKind::File { .. } => {
                let mut bytes = Vec::new();
                let mut sink = |part: &[u8]| {
                    bytes.extend(part);
                    Ok(())
                };
                groups.group(0).read_file(&child, &mut sink).unwrap();
                Thing::File(bytes)
            }
        };
        tree.insert(path, thing);
    }
}

#[track_caller]
fn assert_same(found: &Tree, expected: &Tree) {
    for (path, thing) in expected {
        let other = found
            .get(path)
            .unwrap_or_else(|| panic!("{path} is missing"));
        if let (Thing::File(one), Thing::File(two)) = (thing, other) {
            assert_eq!(one.len(), two.len(), "{path}");
            let differ = one.iter().zip(two).position(|(one, two)| one != two);
            assert_eq!(differ, None, "{path}");
        } else {
            assert_eq!(thing, other, "{path}");
        }
    }
    let more: Vec<_> = found
        .keys()
        .filter(|path| !expected.contains_key(*path))
        .collect();
    assert!(more.is_empty(), "{more:?}");
}

/// Checks the images with the independent reader, where there is one; returns what it says.
#[allow(clippy::print_stderr, reason = "a skipped check says so")]
fn check_elsewhere(action: &str, devices: &[&Path]) -> Option<String> {
    let Ok(reader) = std::env::var("GS_PARSE_DSS") else {
        assert!(std::env::var_os("CI").is_none(), "set GS_PARSE_DSS");
        eprintln!("SKIPPED: no independent reader; set GS_PARSE_DSS to its command");
        return None;
    };
    let mut words = reader.split(' ');
    let volumes: Vec<String> = devices
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .args([action, &volumes.join(",")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    if action == "check" {
        assert!(text.contains("ERRORS 0"), "{text}");
        assert!(text.contains(" lost 0 "), "{text}");
        assert!(!text.contains("False"), "{text}");
    }
    Some(text)
}
