//! Volumes whose metadata say anything are read or refused: no panic, no loop, no growth.

use super::*;
use crate::testing::dss_image::Image;

#[test]
fn a_generated_group_has_no_findings_and_is_read() {
    let scratch = tempfile::tempdir().unwrap();
    let image = Image::create(&scratch.path().join("image")).unwrap();
    assert_eq!(image.check().unwrap().findings, []);
    assert_eq!(image.look().unwrap(), 5);
    let spec = GroupSpec {
        name: "data".to_owned(),
        devices: vec![image.path().to_owned()],
    };
    let mut groups = VolumeGroups::open(&[spec], EngineChoice::Auto).unwrap();
    let found = groups.find("+data/link", true).unwrap();
    assert_eq!(found.path, "+data/plain");
    // The generator wrote no page, but says so of every second page only.
    let inner = groups.find("+data/inner", true).unwrap();
    let ranges = groups.group(0).ranges(&inner.node, 0..u64::MAX).unwrap();
    let zeros = |range: &&DeviceRange| matches!(range, DeviceRange::Zeros { .. });
    assert_eq!(ranges.len(), 13);
    assert_eq!(ranges.iter().filter(zeros).count(), 7);
}

#[test]
fn a_directory_in_itself_and_a_free_list_in_a_circle_end() {
    let scratch = tempfile::tempdir().unwrap();
    let mut image = Image::create(&scratch.path().join("image")).unwrap();
    let change = |structure: u8, block: u8, at: u16, value: u64| {
        let mut bytes = vec![structure, block];
        bytes.extend(at.to_le_bytes());
        bytes.push(7);
        bytes.extend(value.to_le_bytes());
        bytes
    };
    let block = |unit: u64, block: u64| crate::format::dss::BlockId::new(0, unit, block).0;
    for (what, changes) in [
        // The directory is its own child.
        ("first child", change(5, 1, 256 + 48, block(34, 1))),
        ("sibling", change(5, 2, 256 + 72, block(34, 2))),
        ("chain", change(5, 255, 40, block(34, 0))),
        ("free node", change(5, 6, 256 + 72, block(34, 5))),
        ("free FS block", change(6, 121, 32, block(35, 121))),
        ("free aux block", change(7, 0, 32, block(36, 0))),
        ("map", change(6, 255, 56, block(35, 127))),
    ] {
        image.change(&changes).unwrap();
        let _ = image.look();
        let found = image.check().map_or(true, |report| report.is_damaged());
        assert!(found || what == "free aux block", "{what}");
        image.revert().unwrap();
    }
    assert_eq!(image.check().unwrap().findings, []);
}

#[test]
fn any_changes_are_survived() {
    let scratch = tempfile::tempdir().unwrap();
    let mut image = Image::create(&scratch.path().join("image")).unwrap();
    let rounds = std::env::var("GS_DSS_ROUNDS").ok();
    let rounds: u64 = rounds.map_or(60, |text| text.parse().unwrap());
    let mut seed = 99_u64;
    let mut opened = 0;
    for _ in 0..rounds {
        let mut input = Vec::new();
        for _ in 0..13 * (1 + seed % 6) {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            input.push(seed.to_le_bytes()[2]);
        }
        image.change(&input).unwrap();
        opened += u64::from(image.look().is_ok());
        let _ = image.check();
        image.revert().unwrap();
    }
    assert!(opened > 0 && opened < rounds, "{opened} of {rounds}");
    assert_eq!(image.check().unwrap().findings, []);
}
