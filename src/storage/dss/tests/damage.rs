//! A check finds nothing on good groups, and every damage to what it is about.
//!
//! Two kinds of damage, each to a single field of a random structure:
//!
//! * Its bytes change and the checksum stays: a bad device. Always found, whatever the field.
//! * Its bytes change and the checksum is made right: a bad program. Found where the field is tied
//!   to another one; the table says which are not, and the test proves that reading never uses
//!   them: all that is listed is as before.

use super::*;
use crate::format::dss::Structure;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// Bits that a byte is changed by.
    fn change(&mut self) -> u8 {
        u8::try_from(1 + self.below(255)).unwrap()
    }
}

/// Rounds of a test, more by hand: `GS_DSS_ROUNDS=1000`.
fn rounds() -> u64 {
    let text = std::env::var("GS_DSS_ROUNDS").ok();
    text.map_or(40, |text| text.parse().unwrap())
}

fn report(name: &str, devices: &[PathBuf]) -> Result<CheckReport, DssError> {
    let spec = GroupSpec {
        name: name.to_owned(),
        devices: devices.to_vec(),
    };
    check(&mut VolumeGroup::open(&spec, EngineChoice::Sync)?)
}

#[test]
fn good_groups_have_no_findings() {
    let scratch = tempfile::tempdir().unwrap();
    for (name, images) in [
        ("data", &["empty-data0"][..]),
        ("p0", &["empty-p0"]),
        ("p1", &["empty-p1"]),
        ("data", &["pop-data0", "pop-data1"]),
        ("p1", &["pop-p1"]),
        ("data", &["full-data0"]),
    ] {
        let devices = images
            .iter()
            .map(|image| unpack_volume(image, scratch.path()));
        let Some(devices) = devices.collect::<Option<Vec<_>>>() else {
            return;
        };
        let report = report(name, &devices).unwrap();
        assert_eq!(report.findings, [], "{images:?}");
        assert!(report.units >= 4 && report.nodes > 0, "{images:?}");
    }
}

#[test]
fn groups_of_killed_servers_have_their_batch_as_the_only_finding() {
    let scratch = tempfile::tempdir().unwrap();
    for image in ["crash-create", "crash-extend-batch", "crash-format-fs"] {
        let Some(device) = unpack_volume(image, scratch.path()) else {
            return;
        };
        let report = report("data", &[device]).unwrap();
        let notes: Vec<&str> = report
            .findings
            .iter()
            .filter(|finding| finding.severity == Severity::Note)
            .map(|finding| &*finding.place)
            .collect();
        assert_eq!(notes, ["redo ring"], "{image}: {:#?}", report.findings);
        assert!(!report.is_damaged(), "{image}: {:#?}", report.findings);
    }
}

/// A field: first byte and length within its structure, and whether something else tells its value.
type Field = (&'static str, usize, usize, bool);

const HEAD_FIELDS: [Field; 4] = [
    ("type", 4, 4, true),
    ("version", 8, 8, false),
    ("id", 16, 8, true),
    ("state", 24, 1, true),
];

const NODE_FIELDS: [Field; 14] = [
    ("node type", 256, 4, true),
    ("created", 264, 8, false),
    ("updated", 272, 8, false),
    ("software version", 280, 4, false),
    ("node flags", 284, 4, true),
    ("size", 288, 8, true),
    ("entry or count", 296, 8, true),
    ("node id", 320, 8, true),
    ("next", 328, 8, true),
    ("previous", 336, 8, true),
    ("fid", 408, 8, false),
    ("written", 416, 8, false),
    ("parent", 424, 8, true),
    ("truncations", 432, 8, false),
];

const FS_FIELDS: [Field; 6] = [
    ("next", 32, 8, true),
    ("owner", 40, 8, true),
    ("used", 48, 2, true),
    ("total", 50, 2, true),
    ("index", 52, 2, true),
    ("first entry", 56, 8, true),
];

const AUX_FIELDS: [Field; 5] = [
    ("next", 32, 8, true),
    ("owner", 40, 8, true),
    ("data", 48, 8, true),
    ("bitmap bytes", 56, 4, true),
    ("index", 60, 2, true),
];

const HEADER_FIELDS: [Field; 7] = [
    ("type", 4, 4, true),
    ("volume id", 8, 4, true),
    ("device", 12, 8, true),
    ("group", 76, 4, true),
    ("valid", 140, 4, true),
    ("software version", 144, 4, true),
    ("created", 152, 8, false),
];

const VOLUME_FIELDS: [Field; 3] = [
    ("version", 8, 8, false),
    ("volume id", 512, 2, true),
    ("device", 528, 8, true),
];

const REDO_FIELDS: [Field; 7] = [
    ("segment", 4, 4, true),
    ("version", 8, 8, false),
    ("offset", 16, 8, true),
    ("lsn", 24, 8, false),
    ("first unit", 32, 8, true),
    ("bytes", 96, 4, true),
    ("segments", 128, 4, true),
];

const CORE_FIELDS: [Field; 14] = [
    ("au_size", 16, 4, true),
    ("volume count", 20, 4, true),
    ("free FS blocks", 32, 8, true),
    ("first free FS block", 40, 8, true),
    ("last free FS block", 48, 8, true),
    (".recycle", 96, 8, true),
    ("units taken", 104, 8, true),
    ("free aux blocks", 160, 8, true),
    ("first free aux block", 168, 8, true),
    ("last free aux block", 176, 8, true),
    ("volume id", 512, 8, false),
    ("size", 520, 8, true),
    ("used", 528, 8, true),
    ("free", 536, 8, true),
];

const ROOT_FIELDS: [Field; 6] = [
    ("first block", 40, 8, true),
    ("free nodes", 56, 4, true),
    ("first free node", 64, 8, true),
    ("last free node", 72, 8, true),
    ("next fid", 104, 8, false),
    ("last block", 120, 8, true),
];

/// A place of an image at which a structure in use is.
type Place = (Structure, u64);

/// All that a listing of the group says, without bytes of files.
fn listing(device: &Path) -> Vec<String> {
    let spec = GroupSpec {
        name: "p1".to_owned(),
        devices: vec![device.to_owned()],
    };
    let mut groups = VolumeGroups::open(&[spec], EngineChoice::Sync).unwrap();
    let root = groups.groups()[0].root().clone();
    let mut lines = Vec::new();
    walk(&mut groups, &root, "+p1", &mut lines);
    lines
}

/// The populated private group, its device, and the structures on it.
fn subject(scratch: &Path) -> Option<(PathBuf, File, Vec<Place>)> {
    let device = unpack_volume("pop-p1", scratch)?;
    let image = File::options()
        .read(true)
        .write(true)
        .open(&device)
        .unwrap();
    let au = 4 << 20;
    let mut places: Vec<Place> = Structure::CONTROLS
        .into_iter()
        .map(|structure| (structure, structure.offset()))
        .collect();
    // Units by what they are: 17 the file table, others by the heads of their blocks.
    let mut slot = vec![0; 16384];
    for unit in 17..25_u64 {
        for (structure, kind) in [
            (Structure::FileTableBlock, 0),
            (Structure::FsBlock, 1),
            (Structure::AuxBlock, 2),
        ] {
            for block in 0..structure.per_au(au) {
                let at = unit * au + block * structure.bytes() as u64;
                let slot = &mut slot[..structure.bytes()];
                image.read_exact_at(slot, at).unwrap();
                let number = u32::from_le_bytes(slot[4..8].try_into().unwrap());
                let is_used = slot[24] == 2 || block % 97 == 0;
                let has_id = slot[16..24] != [0; 8];
                if number == kind && is_used && has_id && structure.verify(slot).is_ok() {
                    places.push((structure, at));
                }
            }
        }
    }
    Some((device, image, places))
}

fn fields(structure: Structure) -> Vec<Field> {
    match structure {
        Structure::CoreControl => CORE_FIELDS.to_vec(),
        Structure::RootBlock => ROOT_FIELDS.to_vec(),
        Structure::FileTableBlock => {
            [&HEAD_FIELDS[..], &[("next", 40, 8, true)], &NODE_FIELDS[..]].concat()
        }
        Structure::FsBlock => [&HEAD_FIELDS[..], &FS_FIELDS[..]].concat(),
        Structure::AuxBlock => [&HEAD_FIELDS[..], &AUX_FIELDS[..]].concat(),
        Structure::VolumeHeader => HEADER_FIELDS.to_vec(),
        Structure::VolumeControl => VOLUME_FIELDS.to_vec(),
        Structure::RedoControl => REDO_FIELDS.to_vec(),
    }
}

#[test]
fn every_changed_field_of_a_bad_device_is_found() {
    let scratch = tempfile::tempdir().unwrap();
    let Some((device, image, places)) = subject(scratch.path()) else {
        return;
    };
    let mut random = Random(41);
    let mut met = BTreeMap::new();
    for round in 0..rounds() {
        let which = usize::try_from(random.below(places.len() as u64)).unwrap();
        // Controls are few and blocks are many.
        let (structure, at) = places[if round % 3 == 0 { which % 5 } else { which }];
        let width = 1 << random.below(4);
        let field = random.below(structure.bytes() as u64 / width) * width;
        let mut before = vec![0; usize::try_from(width).unwrap()];
        image.read_exact_at(&mut before, at + field).unwrap();
        let after: Vec<u8> = before.iter().map(|byte| byte ^ random.change()).collect();
        image.write_all_at(&after, at + field).unwrap();
        let found = report("p1", std::slice::from_ref(&device));
        image.write_all_at(&before, at + field).unwrap();
        let is_found = found
            .as_ref()
            .map_or(true, |report| !report.findings.is_empty());
        assert!(
            is_found,
            "round {round}: {structure:?} at {at}, {width} bytes at {field}"
        );
        *met.entry(structure).or_insert(0) += 1;
    }
    assert!(met.len() >= 7, "{met:?}");
    assert_eq!(report("p1", &[device]).unwrap().findings, []);
}

#[test]
fn every_changed_field_that_others_contradict_is_found_and_no_other_is_used_to_read() {
    let scratch = tempfile::tempdir().unwrap();
    let Some((device, image, places)) = subject(scratch.path()) else {
        return;
    };
    let good = listing(&device);
    let mut random = Random(43);
    for round in 0..rounds() {
        let which = usize::try_from(random.below(places.len() as u64)).unwrap();
        let (structure, at) = places[if round % 3 == 0 { which % 5 } else { which }];
        let fields = fields(structure);
        let (name, field, width, is_tied) =
            fields[usize::try_from(random.below(fields.len() as u64)).unwrap()];
        let mut before = vec![0; structure.bytes()];
        image.read_exact_at(&mut before, at).unwrap();
        let is_control = Structure::CONTROLS.contains(&structure);
        let is_free = !is_control && before[24] == 1;
        let mut after = before.clone();
        for byte in &mut after[field..field + width] {
            *byte ^= random.change();
        }
        let crc = crc32c::crc32c(&after[4..]);
        after[..4].copy_from_slice(&crc.to_le_bytes());
        // Both copies, or the other one would tell.
        let copies = if is_control { &[0, 1 << 20][..] } else { &[0] };
        for copy in copies {
            image.write_all_at(&after, at + copy).unwrap();
        }
        let found = report("p1", std::slice::from_ref(&device));
        let is_found = found
            .as_ref()
            .map_or(true, |report| !report.findings.is_empty());
        if !is_found {
            let place = format!("round {round}: {name} of {structure:?} at {at}");
            let is_unused = listing(&device)
                .iter()
                .zip(&good)
                .all(|(now, then)| without_payload(now) == without_payload(then));
            // The map of an empty file has a block without entries.
            let is_empty = structure == Structure::FsBlock && before[48..50] == [0, 0];
            let may_be_missed = !is_tied || is_free || (is_empty && name == "first entry");
            assert!(may_be_missed && is_unused, "{place}");
        }
        for copy in copies {
            image.write_all_at(&before, at + copy).unwrap();
        }
    }
    assert_eq!(report("p1", &[device]).unwrap().findings, []);
}

/// A line without length, content and time: the payload of a node, which only its checksum keeps.
fn without_payload(line: &str) -> Vec<&str> {
    let fields: Vec<&str> = line.split('\t').collect();
    vec![fields[0], fields[1], fields[2]]
}
