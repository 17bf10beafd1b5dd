//! More volumes of a group.

use super::*;
use crate::format::dss::Structure;
use crate::format::fixtures::unpack_volume;
use crate::storage::dss::add_volumes;

const TIME: (u64, u64) = (1_800_000_000, 7);

fn quick() -> WriteOptions {
    WriteOptions {
        dss_home: None,
        quiet: Duration::ZERO,
    }
}

/// A dirty device whose start was zeroed.
fn device(directory: &Path, name: &str, bytes: u64) -> PathBuf {
    let path = directory.join(name);
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(bytes).unwrap();
    file.write_all_at(&vec![0x5a; 3 << 20], 4 << 20).unwrap();
    path
}

#[test]
fn files_go_on_in_a_second_volume() {
    let scratch = tempfile::tempdir().unwrap();
    let (first, alone) = new_group(scratch.path(), 2 << 20, 6);
    let second = device(scratch.path(), "data1", 40 << 20);
    let both = spec(&[&first, &second]);
    let summary = add_volumes(&both, &quick(), TIME, EngineChoice::Sync).unwrap();
    assert_eq!(summary.volumes.len(), 2);
    let again = add_volumes(&both, &quick(), TIME, EngineChoice::Sync).unwrap_err();
    assert!(again.to_string().contains("already"), "{again}");
    let mut writer = open(&both).unwrap();
    let id = writer.make_file(BlockId::ROOT, "file").unwrap();
    let bytes = Random(9).bytes(25 << 20);
    writer.write_at(id, 0, &bytes).unwrap();
    writer.sync().unwrap();
    drop(writer);
    let file = Thing::File(bytes);
    assert_same(&read(&both), &Tree::from([("/file".to_owned(), file)]));
    check_elsewhere("check", &[&first, &second]);
    // The second one is found where the group says that it is.
    assert_eq!(read(&alone).len(), 1);
}

#[test]
fn the_second_volume_of_a_real_server_has_the_same_header() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(theirs) = unpack_volume("pop-data1", scratch.path()) else {
        return;
    };
    let theirs = std::fs::File::open(theirs).unwrap();
    let bytes = Structure::VolumeHeader.bytes();
    let mut expected = vec![0; bytes];
    theirs.read_exact_at(&mut expected, 0).unwrap();
    let number = |at: usize| u64::from_le_bytes(expected[at..at + 8].try_into().unwrap());
    let time = (number(152), number(160));
    let device = "/dev/gauss/data1";
    let ours = crate::format::dss::other_volume_header(1, device, "data", time).unwrap();
    assert_eq!(ours, expected);
}

#[test]
fn what_an_interrupted_command_left_is_added_by_the_next() {
    let scratch = tempfile::tempdir().unwrap();
    let (first, _) = new_group(scratch.path(), 2 << 20, 6);
    let second = device(scratch.path(), "data1", 40 << 20);
    let both = spec(&[&first, &second]);
    // The header is there, the batch is not.
    let path = second.to_str().unwrap();
    let header = crate::format::dss::other_volume_header(1, path, "data", TIME).unwrap();
    let file = std::fs::File::options().write(true).open(&second).unwrap();
    file.write_all_at(&header, 0).unwrap();
    add_volumes(&both, &quick(), TIME, EngineChoice::Sync).unwrap();
    assert_eq!(read(&both), Tree::new());
    // A volume of another group is none.
    let (other, _) = {
        let directory = scratch.path().join("other");
        std::fs::create_dir(&directory).unwrap();
        new_group(&directory, 2 << 20, 6)
    };
    let error = add_volumes(&spec(&[&first, &other]), &quick(), TIME, EngineChoice::Sync);
    assert!(error.is_err());
    let small = scratch.path().join("small");
    std::fs::write(&small, vec![0; 5 << 20]).unwrap();
    let more = spec(&[&first, &second, &small]);
    let error = add_volumes(&more, &quick(), TIME, EngineChoice::Sync).unwrap_err();
    assert!(error.to_string().contains("no room for a unit"), "{error}");
    assert_eq!(read(&both), Tree::new());
}
