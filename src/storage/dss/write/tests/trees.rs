//! Groups that are written to, as directory trees like any other.

use super::*;
use crate::io::{self, BufferPool, Request};
use crate::storage::dss::{DssTree, DssWriteTree};
use crate::storage::room::UnitNeed;
use crate::storage::{FileKind, Storage};
use std::io::ErrorKind;
use std::sync::Arc;

fn tree(spec: &GroupSpec) -> DssWriteTree {
    let options = WriteOptions {
        dss_home: None,
        quiet: Duration::ZERO,
    };
    DssWriteTree::open(std::slice::from_ref(spec), &options, "+data").unwrap()
}

#[test]
fn a_tree_is_written_and_read_back_through_the_other_one() {
    let scratch = tempfile::tempdir().unwrap();
    let (path, spec) = new_group(scratch.path(), 2 << 20, 60);
    let tree = tree(&spec);
    let at = Path::new;
    tree.create_dir(at("base"), 0o700).unwrap();
    tree.create_dir(at("base"), 0o700).unwrap();
    tree.create_dir(at("base/1"), 0o700).unwrap();
    let file = tree.create(at("base/1/16384"), 0o600, true).unwrap();
    file.allocate(5 << 20);
    file.write_all_at(b"tail", 3_000_000).unwrap();
    file.write_all_at(b"head", 0).unwrap();
    file.set_len(3_000_010).unwrap();
    file.sync().unwrap();
    let mut expected = vec![0; 3_000_010];
    expected[..4].copy_from_slice(b"head");
    expected[3_000_000..3_000_004].copy_from_slice(b"tail");
    assert_eq!(tree.read(at("base/1/16384"), 4 << 20).unwrap(), expected);
    tree.write_durably(at("label"), 0o600, b"one").unwrap();
    tree.write_durably(at("label"), 0o600, b"the second")
        .unwrap();
    tree.symlink(at("+data/base"), at("link")).unwrap();
    let behind = tree.behind(at("link")).unwrap();
    assert_eq!(behind.root(), "+data/base");
    behind.create(at("shrunk"), 0o600, false).unwrap();
    let again = tree.create(at("base/1/16384"), 0o600, false).unwrap();
    assert_eq!(again.size().unwrap(), 0);
    again.write_all_at(&expected[..100], 0).unwrap();
    let names = |path: &str| -> Vec<String> {
        let entries = tree.list(at(path)).unwrap().into_iter();
        entries
            .map(|entry| entry.name.into_string().unwrap())
            .collect()
    };
    assert_eq!(names(""), ["base", "label", "link"]);
    tree.rename(at("base/shrunk"), at("base/1/moved")).unwrap();
    assert_eq!(names("base/1"), ["16384", "moved"]);
    tree.remove_file(at("link")).unwrap();
    let before = tree.available_bytes().unwrap();
    tree.remove_file(at("base/1/moved")).unwrap();
    assert!(tree.available_bytes().unwrap() >= before && before > 0);
    tree.sync_filesystem().unwrap();
    drop((tree, file, again, behind));
    let reader = DssTree::open(std::slice::from_ref(&spec), "+data").unwrap();
    assert_eq!(reader.read(at("label"), 100).unwrap(), b"the second");
    assert_eq!(
        reader.read(at("base/1/16384"), 1000).unwrap(),
        &expected[..100]
    );
    assert_eq!(
        reader.metadata(at("base")).unwrap().kind,
        FileKind::Directory
    );
    read(&spec);
    check_elsewhere("check", &[&path]);
}

#[test]
fn what_a_tree_refuses_has_the_kind_that_callers_ask_for() {
    let scratch = tempfile::tempdir().unwrap();
    let (_, spec) = new_group(scratch.path(), 2 << 20, 20);
    let tree = tree(&spec);
    let at = Path::new;
    tree.create_dir(at("base"), 0o700).unwrap();
    tree.symlink(at("+data/base"), at("link")).unwrap();
    let again = tree.create(at("base/16384"), 0o600, false).unwrap();
    let refused = |error: crate::storage::StorageError, kind| {
        assert_eq!(error.source.kind(), kind, "{error}: {}", error.source);
    };
    refused(
        tree.remove_dir(at("base")).unwrap_err(),
        ErrorKind::DirectoryNotEmpty,
    );
    refused(
        tree.open_write(at("no"), false).unwrap_err(),
        ErrorKind::NotFound,
    );
    refused(
        tree.create(at("link/x"), 0, false).unwrap_err(),
        ErrorKind::InvalidInput,
    );
    refused(
        tree.symlink(at("/etc"), at("x")).unwrap_err(),
        ErrorKind::InvalidFilename,
    );
    refused(
        tree.create(at("a b"), 0, false).unwrap_err(),
        ErrorKind::InvalidFilename,
    );
    refused(
        tree.symlink(at("+data/x"), at("link")).unwrap_err(),
        ErrorKind::AlreadyExists,
    );
    refused(
        tree.create(at(".recycle/x"), 0, false).unwrap_err(),
        ErrorKind::NotFound,
    );
    let too_long = again.set_len(1 << 40).unwrap_err();
    assert_eq!(too_long.source.kind(), ErrorKind::StorageFull);
}

#[test]
fn a_file_is_replaced_durably_and_at_once() {
    let scratch = tempfile::tempdir().unwrap();
    let (_, spec) = new_group(scratch.path(), 2 << 20, 30);
    let mut writer = open(&spec).unwrap();
    writer.replace_file(BlockId::ROOT, "file", b"old").unwrap();
    writer.take_steps();
    writer.replace_file(BlockId::ROOT, "file", b"new").unwrap();
    // One batch: what can be seen of it is all or nothing.
    let ring = 4 << 20..68 << 20;
    let steps = writer.take_steps();
    let batches = steps.iter().filter(|step| match step {
        Step::Write(0, at, _) => ring.contains(at),
        _ => false,
    });
    assert_eq!(batches.count(), 1, "{} steps", steps.len());
    drop(writer);
    let file = Thing::File(b"new".to_vec());
    assert_same(&read(&spec), &Tree::from([("/file".to_owned(), file)]));
}

#[test]
fn an_engine_writes_in_any_order_what_is_read_back() {
    let scratch = tempfile::tempdir().unwrap();
    let (_, spec) = new_group(scratch.path(), 2 << 20, 60);
    let tree = tree(&spec);
    let file = Arc::new(tree.create(Path::new("file"), 0o600, true).unwrap());
    let pool = BufferPool::new(8);
    let mut engine = io::open(EngineChoice::Sync, &pool, 8).unwrap();
    let mut random = Random(3);
    let piece = 512 * 1024;
    let expected = random.bytes(20 * piece + 777);
    let mut order: Vec<u64> = (0..21).collect();
    for at in (1..order.len()).rev() {
        order.swap(at, usize::try_from(random.below(at as u64 + 1)).unwrap());
    }
    let mut done = Vec::new();
    let mut waiting: usize = 0;
    for number in order {
        let buffer = loop {
            if let Some(buffer) = pool.try_take() {
                break buffer;
            }
            engine.wait(&mut done, None).unwrap();
            waiting -= done.len();
            done.drain(..).for_each(|done| done.result.unwrap());
        };
        let start = usize::try_from(number * piece).unwrap();
        let end = expected.len().min(start + usize::try_from(piece).unwrap());
        let mut buffer = buffer;
        buffer.whole_mut()[..end - start].copy_from_slice(&expected[start..end]);
        buffer.set_range(0..end - start);
        let request = Request::Write {
            file: Arc::clone(&file),
            offset: number * piece,
            buffer,
        };
        engine.submit(number, request);
        waiting += 1;
        // Beside them, another file's length becomes known, and with it all that are.
        tree.write_durably(Path::new("other"), 0o600, &[7; 9])
            .unwrap();
    }
    while waiting > 0 {
        engine.wait(&mut done, None).unwrap();
        waiting -= done.len();
        done.drain(..).for_each(|done| done.result.unwrap());
    }
    file.sync().unwrap();
    drop((file, tree));
    let mut found = read(&spec);
    assert_eq!(found.remove("/other"), Some(Thing::File(vec![7; 9])));
    let file = Thing::File(expected);
    assert_same(&found, &Tree::from([("/file".to_owned(), file)]));
}

#[test]
fn after_a_change_that_failed_the_first_cause_is_said_and_nothing_is_written() {
    let scratch = tempfile::tempdir().unwrap();
    let (path, spec) = new_group(scratch.path(), 2 << 20, 20);
    let mut writer = open(&spec).unwrap();
    writer.make_file(BlockId::ROOT, "before").unwrap();
    writer.sync().unwrap();
    // The free FS blocks are gone in the middle of it.
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    let free = writer.controls.free_fs_blocks().first;
    let at = free
        .position(crate::format::dss::Structure::FsBlock, 2 << 20)
        .unwrap();
    file.write_all_at(&[0xff; 600], at - 16384).unwrap();
    writer.take_steps();
    let error = writer.make_file(BlockId::ROOT, "file").unwrap_err();
    assert!(!matches!(error, DssError::Abandoned { .. }), "{error}");
    for _ in 0..2 {
        let error = writer.make_file(BlockId::ROOT, "file").unwrap_err();
        let DssError::Abandoned { cause, .. } = &error else {
            panic!("{error}");
        };
        assert!(cause.contains("checksum"), "{cause}");
        assert!(writer.sync().is_err());
    }
    assert!(writer.take_steps().is_empty());
}

#[test]
fn damage_of_a_map_on_a_volume_that_nobody_changes_is_told_as_damage() {
    let scratch = tempfile::tempdir().unwrap();
    let au = 2 << 20;
    let (path, spec) = new_group(scratch.path(), au, 2100);
    let mut writer = open(&spec).unwrap();
    let id = writer.make_file(BlockId::ROOT, "long").unwrap();
    writer.write_at(id, 2045 * au, b"end").unwrap();
    writer.sync().unwrap();
    let node = writer.node(id).unwrap().clone();
    drop(writer);
    let mut groups = VolumeGroups::open(std::slice::from_ref(&spec), EngineChoice::Sync).unwrap();
    let group = groups.group(0);
    let second = group.second_level(&node).unwrap()[1];
    let structure = crate::format::dss::Structure::FsBlock;
    let (_, at) = group.devices.place(structure, second, au).unwrap();
    let tree = DssTree::open(std::slice::from_ref(&spec), "+data").unwrap();
    let read = |offset| tree.read_range(Path::new("long"), offset, 3);
    assert_eq!(read(2045 * au).unwrap(), b"end");
    let image = std::fs::File::options().write(true).open(&path).unwrap();
    image.write_all_at(&[0x11; 8], at + 100).unwrap();
    assert_eq!(read(1).unwrap(), [0; 3]);
    let error = read(2045 * au).unwrap_err();
    let said = error.source.to_string();
    assert!(said.contains("fails its checksum"), "{said}");
    // One of the metadata changes in between may have been what it looks like.
    let structure = crate::format::dss::Structure::RedoControl;
    let mut slot = vec![0; structure.bytes()];
    let device = std::fs::File::open(&path).unwrap();
    device.read_exact_at(&mut slot, structure.offset()).unwrap();
    let file = tree.open_read(Path::new("long"), true).unwrap();
    let mut redo = crate::format::dss::RedoControl::parse(&slot, au).unwrap();
    redo.lsn += 1;
    redo.put(&mut slot);
    for copy in [0, 1 << 20] {
        image
            .write_all_at(&slot, copy + structure.offset())
            .unwrap();
    }
    let mut bytes = [7; 3];
    file.read_exact_at(&mut bytes, 2045 * au).unwrap();
    assert!(!file.is_as_read().unwrap());
}

/// An image of a group with a directory, as a crash leaves it in which a second one was begun.
fn begun(directory: &Path) -> (PathBuf, GroupSpec) {
    let (path, spec) = new_group(directory, 2 << 20, 60);
    let mut writer = open(&spec).unwrap();
    writer.make_directory(BlockId::ROOT, "first").unwrap();
    writer.sync().unwrap();
    let before = std::fs::read(&path).unwrap();
    writer.take_steps();
    writer.make_directory(BlockId::ROOT, "begun").unwrap();
    writer.sync().unwrap();
    // The batch is in the ring, and nothing that it says is done.
    let first = writer.take_steps().into_iter().next().unwrap();
    drop(writer);
    std::fs::write(&path, before).unwrap();
    let Step::Write(0, at, bytes) = first else {
        panic!("{first:?}");
    };
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&bytes, at).unwrap();
    (path, spec)
}

#[test]
fn who_changes_nothing_does_not_finish_what_a_crash_left() {
    let scratch = tempfile::tempdir().unwrap();
    let (path, spec) = begun(scratch.path());
    // A copy of a control is damaged, too.
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0x5a; 16], (1 << 20) + 512 + 64)
        .unwrap();
    let before = std::fs::read(&path).unwrap();
    let at = Path::new;
    let names = |tree: &DssWriteTree| -> Vec<String> {
        let entries = tree.list(at("")).unwrap().into_iter();
        entries
            .map(|entry| entry.name.into_string().unwrap())
            .collect()
    };
    let room = {
        let tree = tree(&spec);
        assert_eq!(names(&tree), ["begun", "first"]);
        tree.sync_dir(at("")).unwrap();
        tree.unit_room().unwrap().unwrap()
    };
    assert!(std::fs::read(&path).unwrap() == before);
    let seen = DssTree::open(std::slice::from_ref(&spec), "+data").unwrap();
    assert_eq!(seen.unit_room().unwrap().unwrap(), room);
    assert_eq!((room.units, room.nodes), (59, 4096 - 3));

    let tree = tree(&spec);
    tree.create(at("third"), 0o600, false).unwrap();
    tree.sync_filesystem().unwrap();
    assert_eq!(names(&tree), ["begun", "first", "third"]);
    drop(tree);
    // No copy is another one any more, and no batch waits.
    assert_eq!(read(&spec).len(), 3);
    check_elsewhere("check", &[&path]);
}

#[test]
fn the_room_of_a_group_is_what_can_be_made_in_it() {
    let scratch = tempfile::tempdir().unwrap();
    let (_, spec) = new_group(scratch.path(), 2 << 20, 12);
    let tree = tree(&spec);
    let at = Path::new;
    for name in ["gone", "gone.too"] {
        let file = tree.create(at(name), 0o600, false).unwrap();
        file.write_all_at(&vec![1; 5 << 20], 0).unwrap();
    }
    for name in ["gone", "gone.too"] {
        tree.remove_file(at(name)).unwrap();
    }
    let room = tree.unit_room().unwrap().unwrap();
    // One of nodes, one of blocks, and of the other ten six that wait.
    assert_eq!((room.units, room.blocks), (10, 128));
    let mut need = UnitNeed::default();
    for _ in 0..10 {
        need.add_file(1);
    }
    assert_eq!(room.required(&need), 10);
    for number in 0..10 {
        let file = tree
            .create(at(&format!("f{number}")), 0o600, false)
            .unwrap();
        file.write_all_at(b"x", 0).unwrap();
    }
    tree.sync_filesystem().unwrap();
    let room = tree.unit_room().unwrap().unwrap();
    assert_eq!(room.units, 0);
    let one = tree.create(at("empty"), 0o600, false).unwrap();
    assert!(one.write_all_at(b"x", 0).is_err());
}
