//! Trees of every kind on volumes of every kind.

use super::*;
use crate::format::fixtures::unpack_volume;

/// A random tree, written.
fn write_tree(writer: &mut GroupWriter, random: &mut Random, things: u64, bytes_max: u64) -> Tree {
    let mut tree = Tree::new();
    let mut directories = vec![(String::new(), BlockId::ROOT)];
    for number in 0..things {
        let at = usize::try_from(random.below(directories.len() as u64)).unwrap();
        let (directory, parent) = directories[at].clone();
        let name = format!("n{number}.-_x");
        let path = format!("{directory}/{name}");
        let thing = match random.below(8) {
            0 => {
                let id = writer.make_directory(parent, &name).unwrap();
                directories.push((path.clone(), id));
                Thing::Directory
            }
            1 => {
                let target = format!("+data/x{number}");
                writer.make_link(parent, &name, &target).unwrap();
                Thing::Link(target)
            }
            kind => {
                let id = writer.make_file(parent, &name).unwrap();
                let limit = if kind == 2 { bytes_max } else { 20_000 };
                let length = random.below(limit);
                let bytes = random.bytes(length);
                // In pieces, the first of which may begin behind the start.
                let piece = 1 + usize::try_from(random.below(limit)).unwrap();
                for (number, part) in bytes.chunks(piece).enumerate() {
                    writer.write_at(id, (number * piece) as u64, part).unwrap();
                }
                Thing::File(bytes)
            }
        };
        tree.insert(path, thing);
    }
    tree
}

#[test]
fn random_trees_on_dirty_devices_with_units_of_every_size_are_read_back() {
    for (number, au_bytes) in [2_u64 << 20, 4 << 20, 8 << 20, 64 << 20]
        .into_iter()
        .enumerate()
    {
        let scratch = tempfile::tempdir().unwrap();
        let (path, spec) = new_group(scratch.path(), au_bytes, 300);
        let mut writer = open(&spec).unwrap();
        let mut random = Random(77 + number as u64);
        let expected = write_tree(&mut writer, &mut random, 100, 9_000_000);
        writer.sync().unwrap();
        drop(writer);
        assert_same(&read(&spec), &expected);
        check_elsewhere("check", &[&path]);
    }
}

#[test]
fn many_small_files_take_little_time_and_few_syncs() {
    let files = from_env("GS_DSS_FILES", 5000);
    let scratch = tempfile::tempdir().unwrap();
    let (path, spec) = new_group(scratch.path(), 2 << 20, files + files / 50 + 20);
    let mut writer = open(&spec).unwrap();
    let directory = writer.make_directory(BlockId::ROOT, "base").unwrap();
    let mut expected = Tree::from([("/base".to_owned(), Thing::Directory)]);
    let start = std::time::Instant::now();
    for number in 0..files {
        let name = format!("{number}");
        let id = writer.make_file(directory, &name).unwrap();
        let bytes = name.repeat(500).into_bytes();
        writer.write_at(id, 0, &bytes).unwrap();
        expected.insert(format!("/base/{name}"), Thing::File(bytes));
    }
    writer.sync().unwrap();
    let elapsed = start.elapsed();
    let steps = writer.take_steps();
    let syncs = steps
        .iter()
        .filter(|step| matches!(step, Step::Sync(_)))
        .count();
    let seconds_max = from_env("GS_DSS_SECONDS_MAX", u64::MAX);
    let is_fast = (syncs as u64) < files / 4 && elapsed.as_secs() < seconds_max;
    assert!(is_fast, "{syncs} syncs in {elapsed:?}");
    drop(writer);
    assert_same(&read(&spec), &expected);
    if files <= 5000 {
        check_elsewhere("check", &[&path]);
    }
}

#[test]
fn a_file_has_more_units_than_one_block_lists_and_is_cut_again() {
    let scratch = tempfile::tempdir().unwrap();
    let au = 2 << 20;
    let (path, spec) = new_group(scratch.path(), au, 4200);
    let mut writer = open(&spec).unwrap();
    let id = writer.make_file(BlockId::ROOT, "large").unwrap();
    writer.write_at(id, 4090 * au + 5, b"end").unwrap();
    writer.sync().unwrap();
    check_elsewhere("check", &[&path]);
    for units in [4082, 4000, 2041, 2040, 0] {
        let before = writer.available_bytes();
        writer.set_length(id, units * au).unwrap();
        assert_eq!(writer.node(id).unwrap().size_bytes, units * au);
        assert!(writer.available_bytes() > before);
        writer.sync().unwrap();
        let mut groups = VolumeGroups::open(std::slice::from_ref(&spec), EngineChoice::Sync);
        let report = check(groups.as_mut().unwrap().group(0)).unwrap();
        assert!(!report.is_damaged(), "{report:#?}");
    }
    check_elsewhere("check", &[&path]);
    drop(writer);
    let file = Thing::File(Vec::new());
    assert_same(&read(&spec), &Tree::from([("/large".to_owned(), file)]));
}

#[test]
fn a_group_of_a_real_server_is_gone_on_with() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(first) = unpack_volume("pop-data0", scratch.path()) else {
        return;
    };
    let second = unpack_volume("pop-data1", scratch.path()).unwrap();
    let spec = spec(&[&first, &second]);
    let mut expected = read(&spec);
    let mut writer = open(&spec).unwrap();
    let mut random = Random(5);
    let parent = writer.make_directory(BlockId::ROOT, "ours").unwrap();
    expected.insert("/ours".to_owned(), Thing::Directory);
    let more = write_tree(&mut writer, &mut random, 60, 5_000_000);
    for (path, thing) in more {
        expected.insert(path, thing);
    }
    // The server's own files, moved, cut and removed.
    let files: Vec<String> = expected.keys().cloned().collect();
    for (number, path) in files.iter().enumerate() {
        if !matches!(expected[path], Thing::File(_)) || number % 3 != 0 {
            continue;
        }
        let id = find(&writer, path);
        let Some(Thing::File(mut bytes)) = expected.remove(path) else {
            unreachable!("it is a file");
        };
        match number % 4 {
            0 => writer.remove_file(id).unwrap(),
            1 => {
                let name = format!("m{number}");
                writer.rename(id, parent, &name).unwrap();
                expected.insert(format!("/ours/{name}"), Thing::File(bytes));
            }
            2 => {
                bytes.truncate(bytes.len() / 3);
                writer.set_length(id, bytes.len() as u64).unwrap();
                expected.insert(path.clone(), Thing::File(bytes));
            }
            _ => {
                writer.set_length(id, 0).unwrap();
                writer.write_at(id, 7, b"new").unwrap();
                let bytes = b"\0\0\0\0\0\0\0new".to_vec();
                expected.insert(path.clone(), Thing::File(bytes));
            }
        }
    }
    writer.sync().unwrap();
    drop(writer);
    assert_same(&read(&spec), &expected);
    check_elsewhere("check", &[&first, &second]);
}

#[test]
fn a_full_group_takes_units_from_recycle_and_then_says_what_is_missing() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(path) = unpack_volume("full-data0", scratch.path()) else {
        return;
    };
    let spec = spec(&[&path]);
    let mut expected = read(&spec);
    let mut writer = open(&spec).unwrap();
    assert_eq!(writer.available_bytes(), 0);
    let files = expected.iter().filter(|(_, thing)| is_file(thing));
    let files: Vec<String> = files.map(|(path, _)| path.clone()).collect();
    for path in files.iter().step_by(9).take(40) {
        let id = find(&writer, path);
        writer.remove_file(id).unwrap();
        expected.remove(path);
    }
    let available = writer.available_bytes();
    assert!(available > 0 && writer.fresh_bytes() == 0, "{available}");
    let mut written = 0;
    let error = loop {
        let name = format!("ours{written}");
        let made = writer.make_file(BlockId::ROOT, &name);
        let bytes = vec![7; 3_000_000];
        let result = made.and_then(|id| {
            expected.insert(format!("/{name}"), Thing::File(Vec::new()));
            writer.write_at(id, 0, &bytes)
        });
        match result {
            Ok(()) => expected.insert(format!("/{name}"), Thing::File(bytes)),
            Err(error) => break error,
        };
        written += 1;
        if written % 5 == 0 {
            writer.sync().unwrap();
        }
    };
    assert!(
        matches!(error, DssError::NoRoom { missing, .. } if missing > 0),
        "{error}"
    );
    assert!(written > 3, "{written} files in {available} bytes");
    writer.sync().unwrap();
    drop(writer);
    assert_same(&read(&spec), &expected);
    check_elsewhere("check", &[&path]);
}

#[test]
fn begun_batches_are_applied_before_anything_else() {
    for name in ["crash-create", "crash-extend-batch", "crash-format-fs"] {
        let scratch = tempfile::tempdir().unwrap();
        let Some(path) = unpack_volume(name, scratch.path()) else {
            return;
        };
        let spec = spec(&[&path]);
        let mut expected = read(&spec);
        let mut writer = open(&spec).unwrap();
        let text = check_elsewhere("check", &[&path]);
        assert!(text.is_none_or(|text| text.contains("pending redo: None")));
        let id = writer.make_file(BlockId::ROOT, "after").unwrap();
        writer.write_at(id, 0, b"crash").unwrap();
        writer.sync().unwrap();
        drop(writer);
        expected.insert("/after".to_owned(), Thing::File(b"crash".to_vec()));
        assert_same(&read(&spec), &expected);
        check_elsewhere("check", &[&path]);
    }
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let (_, spec) = new_group(scratch.path(), 2 << 20, 20);
    let mut writer = open(&spec).unwrap();
    let root = BlockId::ROOT;
    let a = writer.make_directory(root, "a").unwrap();
    let b = writer.make_directory(a, "b").unwrap();
    let file = writer.make_file(b, "file").unwrap();
    let refused = |result: Result<(), DssError>, words: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    for name in ["", ".", "..", "a/b", "ä", "x y", &"n".repeat(64)] {
        refused(writer.make_file(root, name).map(drop), "cannot be a name");
    }
    writer.make_file(root, &"n".repeat(63)).unwrap();
    refused(
        writer.make_file(root, "a").map(drop),
        "there is a \"+data/a\" already",
    );
    refused(writer.make_file(file, "x").map(drop), "is not a directory");
    refused(
        writer.make_link(root, "l", "/etc").map(drop),
        "cannot be the target",
    );
    refused(writer.remove_directory(a), "\"+data/a\" is not empty");
    refused(writer.remove_directory(root), "cannot be removed");
    refused(writer.remove_file(a), "is a directory");
    refused(writer.rename(a, b, "a"), "into itself");
    refused(writer.rename(file, root, "a"), "is a directory");
    let recycle = find(&writer, ".recycle");
    refused(writer.make_file(recycle, "x").map(drop), "the server's own");
    refused(writer.remove_directory(recycle), "cannot be removed");
    refused(writer.write_at(a, 0, b"x"), "is no file");
    refused(
        writer.set_length(file, 1 << 40),
        "no room in volume group data",
    );
    refused(open(&spec).map(drop), "in use by another process");
    writer.sync().unwrap();
    drop(writer);
    let tree = read(&spec);
    let paths: Vec<&str> = tree.keys().map(String::as_str).collect();
    let long = format!("/{}", "n".repeat(63));
    assert_eq!(paths, ["/a", "/a/b", "/a/b/file", &long]);
}

#[test]
fn nodes_of_impossible_sizes_are_refused_when_a_group_is_opened() {
    use crate::format::dss::Structure;
    let scratch = tempfile::tempdir().unwrap();
    let (path, spec) = new_group(scratch.path(), 2 << 20, 20);
    let mut writer = open(&spec).unwrap();
    let id = writer.make_file(BlockId::ROOT, "file").unwrap();
    writer.sync().unwrap();
    drop(writer);
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let at = id.position(Structure::FileTableBlock, 2 << 20).unwrap();
    for (size, written) in [
        (1_u64 << 62, 0_u64),
        (5, 0),
        (2 << 20, 3 << 20),
        (1 << 36, 0),
    ] {
        let mut slot = vec![0; Structure::FileTableBlock.bytes()];
        file.read_exact_at(&mut slot, at).unwrap();
        slot[256 + 32..256 + 40].copy_from_slice(&size.to_le_bytes());
        slot[256 + 160..256 + 168].copy_from_slice(&written.to_le_bytes());
        Structure::FileTableBlock.seal(&mut slot);
        file.write_all_at(&slot, at).unwrap();
        let error = open(&spec).unwrap_err();
        assert!(matches!(error, DssError::Damaged { .. }), "{error}");
    }
}

#[test]
fn a_group_that_a_server_uses_is_not_written_to() {
    let scratch = tempfile::tempdir().unwrap();
    let (path, spec) = new_group(scratch.path(), 2 << 20, 20);
    let home = scratch.path().join("home");
    std::fs::create_dir(&home).unwrap();
    let options = WriteOptions {
        dss_home: Some(home.clone()),
        quiet: Duration::from_millis(300),
    };
    let socket = home.join(".dss_unix_d_socket");
    let server = std::os::unix::net::UnixListener::bind(socket).unwrap();
    let error = GroupWriter::open(&spec, &options, EngineChoice::Sync).unwrap_err();
    assert!(matches!(error, DssError::ServerRuns { .. }), "{error}");
    drop(server);
    // Somebody writes: the version of the core control goes on.
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use crate::format::dss::Structure;
            let file = std::fs::File::options()
                .read(true)
                .write(true)
                .open(&path)
                .unwrap();
            let mut slot = vec![0; Structure::RedoControl.bytes()];
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                file.read_exact_at(&mut slot, Structure::RedoControl.offset())
                    .unwrap();
                Structure::RedoControl.seal(&mut slot);
                file.write_all_at(&slot, Structure::RedoControl.offset())
                    .unwrap();
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let result = GroupWriter::open(&spec, &options, EngineChoice::Sync);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let error = result.unwrap_err();
        let is_busy = error.to_string().contains("is being written to");
        assert!(
            is_busy || matches!(error, DssError::Changing { .. }),
            "{error}"
        );
    });
    GroupWriter::open(&spec, &options, EngineChoice::Sync).unwrap();
}
