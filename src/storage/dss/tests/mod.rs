//! Groups that a real server wrote are read as its own client library reads them.

mod busy;
mod damage;
mod hostile;
mod trees;

use super::*;
use crate::format::dss::{Node, NodeKind};
use crate::format::fixtures::{dss_text, unpack_volume};
use crate::io::EngineChoice;
use sha2::{Digest, Sha256};
use std::path::Path;

/// The group on these images, the entry volume first.
fn open(
    name: &str,
    images: &[&str],
    scratch: &Path,
    engine: EngineChoice,
) -> Option<Result<VolumeGroups, DssError>> {
    let devices = images.iter().map(|image| unpack_volume(image, scratch));
    let spec = GroupSpec {
        name: name.to_owned(),
        devices: devices.collect::<Option<_>>()?,
    };
    Some(VolumeGroups::open(&[spec], engine))
}

fn walk(groups: &mut VolumeGroups, directory: &Node, path: &str, lines: &mut Vec<String>) {
    let group = groups.group(0);
    let children: Vec<Node> = group
        .children(directory)
        .unwrap()
        .into_iter()
        .filter(|child| !child.is_deleted())
        .cloned()
        .collect();
    for child in children {
        let path = format!("{path}/{}", child.name);
        let (size, written, created) = (child.size_bytes, child.written_bytes, child.created);
        match child.kind {
            NodeKind::Directory { .. } => {
                lines.push(format!("D\t{path}\t0\t0\t-\t{created}"));
                walk(groups, &child, &path, lines);
            }
            NodeKind::Link { .. } => {
                let target = groups.group(0).read_link(&child).unwrap();
                lines.push(format!("L\t{path}\t{size}\t{written}\t{target}\t{created}"));
            }
            NodeKind::File { .. } => {
                let mut hash = Sha256::new();
                let read = groups.group(0).read_file(&child, &mut |bytes| {
                    hash.update(bytes);
                    Ok(())
                });
                assert_eq!(read.unwrap(), written, "{path}");
                let hash: String = hash
                    .finalize()
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                lines.push(format!("F\t{path}\t{size}\t{written}\t{hash}\t{created}"));
            }
        }
    }
}

/// Compares all that a group holds with its manifest.
fn verify(name: &str, images: &[&str], manifest: &str, engine: EngineChoice) {
    let scratch = tempfile::tempdir().unwrap();
    let Some(groups) = open(name, images, scratch.path(), engine) else {
        return;
    };
    let Some(expected) = dss_text(manifest) else {
        return;
    };
    let mut groups = groups.unwrap();
    let root = groups.groups()[0].root().clone();
    let mut lines = Vec::new();
    walk(&mut groups, &root, &format!("+{name}"), &mut lines);
    let expected: Vec<&str> = expected.lines().collect();
    for (found, expected) in lines.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(lines.len(), expected.len());
}

#[test]
fn a_populated_group_of_two_volumes_is_read_as_its_manifest_says() {
    let images = ["pop-data0", "pop-data1"];
    verify("data", &images, "pop-data.manifest.tsv", EngineChoice::Auto);
}

#[test]
fn a_full_group_is_read_as_its_manifest_says() {
    verify(
        "data",
        &["full-data0"],
        "full-data.manifest.tsv",
        EngineChoice::Auto,
    );
}

#[test]
fn groups_are_read_with_either_engine() {
    for engine in [EngineChoice::Auto, EngineChoice::Sync] {
        verify("p1", &["pop-p1"], "pop-p1.manifest.tsv", engine);
    }
}

#[test]
fn groups_of_killed_servers_are_read_as_after_their_recovery() {
    for name in ["crash-create", "crash-extend-batch", "crash-format-fs"] {
        let manifest = format!("{name}.after-recovery.manifest.tsv");
        verify("data", &[name], &manifest, EngineChoice::Auto);
    }
}

#[test]
fn empty_groups_of_every_unit_size_are_read() {
    let scratch = tempfile::tempdir().unwrap();
    for (name, image, au_bytes) in [
        ("data", "empty-data0", 2 << 20),
        ("p0", "empty-p0", 8 << 20),
        ("p1", "empty-p1", 4 << 20),
    ] {
        let Some(groups) = open(name, &[image], scratch.path(), EngineChoice::Sync) else {
            return;
        };
        let groups = groups.unwrap();
        let group = &groups.groups()[0];
        assert_eq!(group.summary().au_bytes, au_bytes);
        let children = group.children(group.root()).unwrap();
        assert_eq!(children.len(), 1);
        assert_eq!(&*children[0].name, ".recycle");
    }
}

#[test]
fn other_devices_than_those_of_the_group_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(p1) = unpack_volume("pop-p1", scratch.path()) else {
        return;
    };
    let Some(second) = unpack_volume("pop-data1", scratch.path()) else {
        return;
    };
    let blank = scratch.path().join("blank");
    std::fs::write(&blank, vec![0; 1 << 20]).unwrap();
    let refused = |name: &str, devices: &[&Path]| {
        let spec = GroupSpec {
            name: name.to_owned(),
            devices: devices.iter().map(|device| (*device).to_owned()).collect(),
        };
        let error = VolumeGroup::open(&spec, EngineChoice::Sync).unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string);
        format!("{error}: {}", source.unwrap_or_default())
    };
    let says = |text: String, part: &str| assert!(text.contains(part), "{text}");
    says(refused("data", &[&p1]), "is of volume group p1");
    says(refused("data", &[&second]), "is volume 1 of its group");
    says(refused("p1", &[&p1, &p1]), "as another is");
    says(refused("p1", &[&blank]), "is not initialised");
    says(
        refused("p1", &[scratch.path()]),
        "neither a block device nor",
    );
    says(refused("p1", &[&scratch.path().join("no")]), "No such file");
}

#[test]
fn a_volume_that_is_not_at_hand_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let images = ["pop-data0"];
    let Some(groups) = open("data", &images, scratch.path(), EngineChoice::Sync) else {
        return;
    };
    let error = groups.unwrap_err();
    assert!(
        matches!(error, DssError::MissingVolume { volume: 1, .. }),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("--vg"));
}

#[test]
fn paths_lead_through_links_and_not_to_what_is_deleted() {
    let scratch = tempfile::tempdir().unwrap();
    let images = ["pop-data0", "pop-data1"];
    let Some(data) = open("data", &images, scratch.path(), EngineChoice::Sync) else {
        return;
    };
    let mut data = data.unwrap();
    let Some(manifest) = dss_text("pop-data.manifest.tsv") else {
        return;
    };
    let links: Vec<Vec<&str>> = manifest
        .lines()
        .map(|line| line.split('\t').collect())
        .filter(|fields: &Vec<&str>| fields[0] == "L")
        .collect();
    assert!(!links.is_empty());
    for link in links {
        let (path, target) = (link[1], link[4]);
        let found = data.find(path, false).unwrap();
        assert_eq!(found.path, path);
        assert!(matches!(found.node.kind, NodeKind::Link { .. }));
        let followed = data.find(path, true);
        match target.strip_prefix("+data") {
            Some(_) => assert_eq!(followed.unwrap().path, target),
            None => assert!(matches!(followed, Err(DssError::UnknownGroup { .. }))),
        }
    }
    let error = |path: &str| data.find(path, true).unwrap_err().to_string();
    let mut error = error;
    assert!(error("+data/no/file").contains("there is no"));
    assert!(error("data/base").contains("is not a path"));
    assert!(error("+data/../x").contains("is not a path"));
    assert!(error("+other/x").contains("volume group other"));
    assert_eq!(data.find("+data/", true).unwrap().path, "+data");
}
