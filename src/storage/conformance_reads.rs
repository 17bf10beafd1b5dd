//! What every storage must do for those who only read. Runs on posix trees, with openat2 and
//! without, and on volumes.

use super::dss::{DssTree, GroupSpec};
use super::{FileKind, Posix, Storage};
use crate::io::{self, BufferPool, EngineChoice, Request};
use crate::limits::EXTENT_BYTES_MAX;
use crate::testing::dss_image::Image;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// What a path of a tree is expected to be.
#[derive(Debug)]
enum Thing {
    Directory,
    File(Vec<u8>),
    Link(String),
}

type Things = BTreeMap<&'static str, Thing>;

fn on_each(test: impl Fn(&dyn Storage, &Things)) {
    let scratch = tempfile::tempdir().unwrap();
    let image = Image::create(&scratch.path().join("image")).unwrap();
    image.extend_plain(7).unwrap();
    image.write_inner().unwrap();
    let spec = GroupSpec {
        name: "data".to_owned(),
        devices: vec![image.path().to_owned()],
    };
    let tree = DssTree::open(&[spec], "+data").unwrap();
    let mut things: Things = [
        ("dir", Thing::Directory),
        ("link", Thing::Link("+data/plain".to_owned())),
    ]
    .into_iter()
    .collect();
    // What `VolumeGroup::read_file` gives, which other tests compare with what a server wrote.
    for (name, bytes) in [("inner", 100_000), ("plain", 1_900_000)] {
        let content = image.content(name).unwrap();
        assert_eq!(content.len(), bytes);
        things.insert(name, Thing::File(content));
    }
    let distinct = |name| match &things[name] {
        Thing::File(bytes) => bytes.iter().any(|byte| *byte != bytes[0]),
        _ => false,
    };
    assert!(distinct("inner"), "a file of one byte tells nothing");
    test(&tree, &things);
    let root = scratch.path().join("posix");
    std::fs::create_dir(&root).unwrap();
    for (path, thing) in &things {
        let path = root.join(path);
        match thing {
            Thing::Directory => std::fs::create_dir(path).unwrap(),
            Thing::File(bytes) => std::fs::write(path, bytes).unwrap(),
            Thing::Link(target) => std::os::unix::fs::symlink(target, path).unwrap(),
        }
    }
    test(&Posix::open(&root).unwrap(), &things);
    test(&Posix::open(&root).unwrap().without_openat2(), &things);
}

#[test]
fn names_kinds_and_sizes_are_seen() {
    on_each(|storage, things| {
        for root in ["", "."] {
            let listed = storage.list(Path::new(root)).unwrap();
            let names: Vec<&[u8]> = listed.iter().map(|entry| entry.name.as_bytes()).collect();
            let expected: Vec<&[u8]> = things.keys().map(|name| name.as_bytes()).collect();
            assert_eq!(names, expected);
            for entry in listed {
                let path = Path::new(&entry.name);
                assert_eq!(storage.metadata(path).unwrap(), entry.metadata);
                let (kind, bits) = match &things[entry.name.to_str().unwrap()] {
                    Thing::Directory => (FileKind::Directory, 0o040_000),
                    Thing::Link(_) => (FileKind::Symlink, 0o120_000),
                    Thing::File(bytes) => {
                        assert_eq!(entry.metadata.size, bytes.len() as u64);
                        (FileKind::File, 0o100_000)
                    }
                };
                assert_eq!(entry.metadata.kind, kind);
                assert_eq!(entry.metadata.mode & 0o170_000, bits);
                assert_eq!(entry.metadata.mode & 0o600, 0o600);
                let uid = rustix::process::geteuid().as_raw();
                assert_eq!(entry.metadata.uid, uid);
            }
            let kind = storage.metadata(Path::new(root)).unwrap().kind;
            assert_eq!(kind, FileKind::Directory);
        }
        assert!(storage.list(Path::new("dir")).unwrap().is_empty());
        let inodes = ["dir", "inner", "plain", "link"].map(|name| {
            let metadata = storage.metadata(Path::new(name)).unwrap();
            (metadata.device, metadata.inode)
        });
        let distinct: std::collections::HashSet<_> = inodes.into_iter().collect();
        assert_eq!(distinct.len(), inodes.len());
    });
}

#[test]
fn files_are_read_whole_and_in_part_within_limits() {
    on_each(|storage, things| {
        for (path, thing) in things {
            let Thing::File(bytes) = thing else { continue };
            let path = Path::new(path);
            let size = bytes.len() as u64;
            assert!(storage.read(path, size).unwrap() == *bytes);
            assert!(storage.read(path, u64::MAX).unwrap() == *bytes);
            let error = storage.read(path, size - 1).unwrap_err();
            assert_eq!(error.source.kind(), ErrorKind::FileTooLarge);
            for (offset, length) in [
                (0, 3),
                (4095, 8194),
                (size - 2, 5),
                (size, 5),
                (u64::MAX, usize::MAX),
                (3, usize::MAX),
            ] {
                let start = usize::try_from(offset.min(size)).unwrap();
                let end = start.saturating_add(length).min(bytes.len());
                let read = storage.read_range(path, offset, length).unwrap();
                assert!(read == bytes[start..end], "{length} at {offset}");
            }
        }
    });
}

#[test]
fn opened_files_are_read_by_hand_and_by_every_engine() {
    on_each(|storage, things| {
        for (path, thing) in things {
            let Thing::File(bytes) = thing else { continue };
            for direct in [false, true] {
                let file = storage.open_read(Path::new(path), direct).unwrap();
                assert_eq!(file.path(), storage.display_path(Path::new(path)));
                assert_eq!(file.size().unwrap(), bytes.len() as u64);
                let mut part = vec![0; 10_000];
                file.read_exact_at(&mut part, 5).unwrap();
                assert!(part == bytes[5..10_005]);
                let end = bytes.len() as u64 - 7;
                assert_eq!(file.read_up_to_at(&mut part, end).unwrap(), 7);
                let error = file.read_exact_at(&mut part, end).unwrap_err();
                assert_eq!(error.source.kind(), ErrorKind::UnexpectedEof);
                let file = Arc::new(file);
                for engine in [EngineChoice::Sync, EngineChoice::Auto] {
                    assert!(by_engine(engine, &file) == *bytes, "{path}");
                }
                file.look_again().unwrap();
                assert!(file.is_as_read().unwrap());
                assert!(file.write_all_at(b"x", 0).is_err());
            }
        }
    });
}

/// A file's bytes, in pieces that begin and end anywhere.
fn by_engine(choice: EngineChoice, file: &Arc<io::File>) -> Vec<u8> {
    let pool = BufferPool::new(1);
    let mut engine = io::open(choice, &pool, 4).unwrap();
    let mut bytes = Vec::new();
    loop {
        let request = Request::Read {
            file: Arc::clone(file),
            offset: bytes.len() as u64,
            length: EXTENT_BYTES_MAX - 1000,
            buffer: pool.try_take().unwrap(),
            memory_offset: 0,
        };
        engine.submit(1, request);
        let mut done = Vec::new();
        engine.wait(&mut done, None).unwrap();
        let done = done.remove(0);
        done.result.unwrap();
        let buffer = done.buffer.unwrap();
        if buffer.data().is_empty() {
            return bytes;
        }
        bytes.extend(buffer.data());
    }
}

#[test]
fn links_are_read_and_never_followed() {
    on_each(|storage, things| {
        let link = Path::new("link");
        let Thing::Link(target) = &things["link"] else {
            panic!("it is a link");
        };
        assert_eq!(storage.read_link(link).unwrap(), Path::new(target));
        for name in ["dir", "plain", "inner"] {
            assert!(storage.read_link(Path::new(name)).is_err(), "{name}");
        }
        let says = |error: super::StorageError| {
            let text = error.source.to_string();
            assert_eq!(text, "the path goes through a symbolic link");
        };
        for direct in [false, true] {
            says(storage.open_read(link, direct).unwrap_err());
        }
        says(storage.read(link, 10).unwrap_err());
        says(storage.read_range(link, 0, 10).unwrap_err());
        assert!(storage.list(link).is_err());
        assert!(storage.metadata(Path::new("link/x")).is_err());
        assert!(storage.list(Path::new("link/x")).is_err());
        assert!(storage.open_read(Path::new("link/x"), false).is_err());
    });
}

#[test]
fn what_is_not_there_or_not_a_path_is_refused() {
    on_each(|storage, _| {
        for path in ["gone", "dir/gone", "gone/too"] {
            let path = Path::new(path);
            let errors = [
                storage.metadata(path).map(drop).unwrap_err(),
                storage.list(path).map(drop).unwrap_err(),
                storage.open_read(path, true).map(drop).unwrap_err(),
                storage.read(path, 1).map(drop).unwrap_err(),
                storage.read_range(path, 0, 1).map(drop).unwrap_err(),
                storage.read_link(path).map(drop).unwrap_err(),
            ];
            for error in errors {
                assert!(error.is_not_found(), "{}: {error}", path.display());
                assert_eq!(error.path, storage.display_path(path));
            }
        }
        for path in ["plain/x", "..", "dir/../plain", "dir/../../x", "no\0zero"] {
            let path = Path::new(path);
            assert!(storage.metadata(path).is_err(), "{}", path.display());
            assert!(storage.list(path).is_err());
            assert!(storage.open_read(path, false).is_err());
            assert!(storage.read(path, 1).is_err());
            assert!(storage.read_link(path).is_err());
        }
        for absolute in ["/", "/etc/passwd", "/data/plain"] {
            let absolute = Path::new(absolute);
            assert!(storage.read(absolute, u64::MAX).is_err());
            assert!(storage.metadata(absolute).is_err());
        }
        for directory in ["", "dir"] {
            let directory = Path::new(directory);
            let error = storage.open_read(directory, false).unwrap_err();
            assert_eq!(error.source.to_string(), "it is not a regular file");
            assert!(storage.read(directory, 10).is_err());
        }
        for file in ["plain", "inner"] {
            let error = storage.list(Path::new(file)).unwrap_err();
            assert_eq!(error.source.kind(), ErrorKind::NotADirectory);
        }
    });
}
