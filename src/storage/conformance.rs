//! What every storage must do, above all with names and links that want to lead out of it. Runs on
//! posix trees, with openat2 and without.

use super::{FileKind, Metadata, Posix, Storage, StorageError};
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// A tree `tree` beside a file `secret` and a directory `outside` that must stay out of reach.
struct Place {
    storage: Box<dyn Storage>,
    scratch: tempfile::TempDir,
}

fn on_each(test: impl Fn(&Place)) {
    for openat2 in [true, false] {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("tree");
        std::fs::create_dir(&root).unwrap();
        std::fs::create_dir(scratch.path().join("outside")).unwrap();
        std::fs::write(scratch.path().join("secret"), b"secret").unwrap();
        std::fs::write(scratch.path().join("outside/file"), b"secret").unwrap();
        let storage = Posix::open(&root).unwrap();
        let storage = if openat2 {
            storage
        } else {
            storage.without_openat2()
        };
        let place = Place {
            storage: Box::new(storage),
            scratch,
        };
        test(&place);
        assert_eq!(place.outside(), ["outside", "secret", "tree"]);
        assert_eq!(
            std::fs::read(place.scratch.path().join("secret")).unwrap(),
            b"secret"
        );
        let file = place.scratch.path().join("outside/file");
        assert_eq!(std::fs::read(file).unwrap(), b"secret");
    }
}

impl Place {
    fn root(&self) -> PathBuf {
        self.scratch.path().join("tree")
    }

    fn outside(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.scratch.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    fn put(&self, path: &str, content: &[u8]) {
        std::fs::write(self.root().join(path), content).unwrap();
    }

    fn get(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.root().join(path)).unwrap()
    }

    fn metadata(&self, path: &str) -> Metadata {
        self.storage.metadata(Path::new(path)).unwrap()
    }

    fn names(&self, path: &str) -> Vec<Vec<u8>> {
        let entries = self.storage.list(Path::new(path)).unwrap();
        let names = entries
            .into_iter()
            .map(|entry| entry.name.as_bytes().to_vec());
        names.collect()
    }
}

/// Every way in, tried on one path.
fn attempts(storage: &dyn Storage, path: &Path) -> Vec<(&'static str, Result<(), StorageError>)> {
    let elsewhere = Path::new("elsewhere");
    vec![
        ("open_read", storage.open_read(path, false).map(drop)),
        ("open_read direct", storage.open_read(path, true).map(drop)),
        ("open_write", storage.open_write(path, false).map(drop)),
        ("set_file_mode", storage.set_file_mode(path, 0o777)),
        ("create", storage.create(path, 0o600, false).map(drop)),
        ("create direct", storage.create(path, 0o600, true).map(drop)),
        ("read", storage.read(path, 1000).map(drop)),
        ("read_range", storage.read_range(path, 0, 10).map(drop)),
        ("write_durably", storage.write_durably(path, 0o600, b"evil")),
        ("create_dir", storage.create_dir(path, 0o777)),
        ("set_dir_mode", storage.set_dir_mode(path, 0o777)),
        ("metadata", storage.metadata(path).map(drop)),
        ("list", storage.list(path).map(drop)),
        ("read_link", storage.read_link(path).map(drop)),
        ("symlink", storage.symlink(Path::new("target"), path)),
        ("rename to", storage.rename(Path::new("own"), path)),
        ("rename from", storage.rename(path, elsewhere)),
        ("remove_file", storage.remove_file(path)),
        ("remove_dir", storage.remove_dir(path)),
        ("sync_dir", storage.sync_dir(path)),
    ]
}

#[test]
fn no_path_leads_out_of_the_tree() {
    on_each(|place| {
        place.put("own", b"own");
        std::fs::create_dir(place.root().join("dir")).unwrap();
        symlink(place.scratch.path(), place.root().join("absolute")).unwrap();
        symlink("..", place.root().join("relative")).unwrap();
        symlink("dir", place.root().join("within")).unwrap();
        symlink("../..", place.root().join("dir/up")).unwrap();
        place.put("dir/file", b"inside");
        let secret = place.scratch.path().join("secret");
        let mut paths: Vec<PathBuf> = [
            "..",
            "../secret",
            "../outside",
            "../new",
            "dir/../../secret",
            "dir/../own",
            "dir/..",
            "/",
            "/etc/passwd",
            "absolute/secret",
            "absolute/new",
            "absolute/outside",
            "absolute/outside/file",
            "relative/secret",
            "relative/outside",
            "relative/tree/own",
            "dir/up/secret",
            "dir/up/outside/file",
            "within/file",
            "within/new",
            "own/file",
            "no\0zero",
        ]
        .iter()
        .map(PathBuf::from)
        .collect();
        paths.push(secret);
        for path in paths {
            for (what, result) in attempts(place.storage.as_ref(), &path) {
                let error = result.expect_err(&format!("{what} {}", path.display()));
                assert!(
                    error.path.starts_with(place.root()) || path.is_absolute(),
                    "{error}"
                );
            }
        }
        assert_eq!(place.names("dir"), [b"file".to_vec(), b"up".to_vec()]);
        assert_eq!(place.get("own"), b"own");
        assert_eq!(place.get("dir/file"), b"inside");
    });
}

#[test]
fn a_link_in_the_last_place_is_seen_but_not_followed() {
    on_each(|place| {
        let links = [
            ("file", "../secret"),
            ("dir", "../outside"),
            ("loop", "loop"),
            ("gone", "x"),
        ];
        for (name, target) in links {
            symlink(target, place.root().join(name)).unwrap();
            let path = Path::new(name);
            assert_eq!(place.metadata(name).kind, FileKind::Symlink);
            assert_eq!(place.storage.read_link(path).unwrap(), Path::new(target));
            let storage = &place.storage;
            let error = storage.open_read(path, true).unwrap_err();
            assert_eq!(
                error.source.to_string(),
                "the path goes through a symbolic link"
            );
            assert!(storage.create(path, 0o600, false).is_err());
            assert!(storage.create(path, 0o600, true).is_err());
            assert!(storage.open_write(path, false).is_err());
            assert!(storage.open_write(path, true).is_err());
            assert!(storage.set_file_mode(path, 0o777).is_err());
            assert!(storage.read(path, 1000).is_err());
            assert!(storage.read_range(path, 0, 10).is_err());
            assert!(storage.create_dir(path, 0o777).is_err());
            assert!(storage.set_dir_mode(path, 0o777).is_err());
            assert!(storage.list(path).is_err());
            assert!(storage.sync_dir(path).is_err());
            assert!(storage.remove_dir(path).is_err());
        }
        let listed = place.storage.list(Path::new("")).unwrap();
        assert!(
            listed
                .iter()
                .all(|entry| entry.metadata.kind == FileKind::Symlink)
        );
        // Replacing and removing concern the link itself.
        place
            .storage
            .write_durably(Path::new("file"), 0o600, b"new")
            .unwrap();
        assert_eq!(place.get("file"), b"new");
        place.storage.remove_file(Path::new("dir")).unwrap();
        let mode = place
            .scratch
            .path()
            .join("outside")
            .metadata()
            .unwrap()
            .permissions()
            .mode();
        assert_ne!(mode & 0o777, 0o777);
    });
}

#[test]
fn what_is_no_regular_file_is_refused_without_waiting() {
    on_each(|place| {
        let fifo = place.root().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        let _socket = UnixListener::bind(place.root().join("socket")).unwrap();
        std::fs::create_dir(place.root().join("dir")).unwrap();
        for name in ["fifo", "socket", "dir", ""] {
            let path = Path::new(name);
            for direct in [false, true] {
                assert!(place.storage.open_read(path, direct).is_err(), "{name}");
                assert!(place.storage.open_write(path, direct).is_err(), "{name}");
                assert!(place.storage.create(path, 0o600, direct).is_err(), "{name}");
            }
            assert!(place.storage.read(path, 10).is_err(), "{name}");
        }
        assert_eq!(place.metadata("fifo").kind, FileKind::Other);
        assert_eq!(place.metadata("socket").kind, FileKind::Other);
        assert_eq!(place.metadata("dir").kind, FileKind::Directory);
    });
}

#[test]
fn a_file_is_created_with_its_exact_mode_and_read_back() {
    on_each(|place| {
        for direct in [false, true] {
            for mode in [0o600, 0o666, 0o755, 0o400] {
                let path = Path::new("file");
                let file = place.storage.create(path, mode, direct).unwrap();
                assert_eq!(file.size().unwrap(), 0);
                assert_eq!(file.path(), place.root().join("file"));
                file.allocate(100_000);
                file.write_all_at(b"some bytes", 5000).unwrap();
                file.sync().unwrap();
                file.drop_cache();
                let metadata = place.metadata("file");
                assert_eq!(metadata.mode & 0o7777, mode);
                assert_eq!((metadata.kind, metadata.size), (FileKind::File, 5010));
                let file = place.storage.open_read(path, direct).unwrap();
                let mut bytes = [0; 5];
                file.read_exact_at(&mut bytes, 5005).unwrap();
                assert_eq!(&bytes, b"bytes");
                let error = file.read_exact_at(&mut bytes, 5006).unwrap_err();
                assert_eq!(error.source.kind(), ErrorKind::UnexpectedEof);
                place.storage.remove_file(path).unwrap();
            }
        }
    });
}

#[test]
fn creating_a_file_that_is_there_empties_it() {
    on_each(|place| {
        place.put("file", b"old content");
        let file = place
            .storage
            .create(Path::new("file"), 0o640, true)
            .unwrap();
        assert_eq!(file.size().unwrap(), 0);
        file.set_len(10).unwrap();
        assert_eq!(place.get("file"), [0; 10]);
        assert_eq!(place.metadata("file").mode & 0o7777, 0o640);
    });
}

#[test]
fn a_file_is_changed_where_it_is() {
    on_each(|place| {
        place.put("file", b"old content");
        let path = Path::new("file");
        std::fs::hard_link(place.root().join("file"), place.root().join("other")).unwrap();
        assert_eq!(place.metadata("file").links, 2);
        place.storage.set_file_mode(path, 0o640).unwrap();
        for direct in [false, true] {
            let file = place.storage.open_write(path, direct).unwrap();
            file.write_all_at(b"new", 0).unwrap();
        }
        assert_eq!(place.get("other"), b"new content");
        assert_eq!(place.metadata("file").mode & 0o7777, 0o640);
        let gone = place.storage.open_write(Path::new("gone"), false);
        assert!(gone.unwrap_err().is_not_found());
    });
}

#[test]
fn reading_a_file_keeps_to_the_limit() {
    on_each(|place| {
        place.put("file", b"0123456789");
        let path = Path::new("file");
        assert_eq!(place.storage.read(path, 10).unwrap(), b"0123456789");
        let error = place.storage.read(path, 9).unwrap_err();
        assert_eq!(error.source.kind(), ErrorKind::FileTooLarge);
        assert_eq!(place.storage.read(path, u64::MAX).unwrap().len(), 10);
        for (offset, length, wanted) in [
            (0, 3, "012"),
            (8, 5, "89"),
            (10, 5, ""),
            (u64::MAX, usize::MAX, ""),
            (3, usize::MAX, "3456789"),
        ] {
            let read = place.storage.read_range(path, offset, length).unwrap();
            assert_eq!(read, wanted.as_bytes());
        }
    });
}

#[test]
fn a_durable_write_replaces_a_file_and_leaves_no_other() {
    on_each(|place| {
        place.put("file", b"old");
        place
            .storage
            .write_durably(Path::new("file"), 0o640, b"new")
            .unwrap();
        assert_eq!(place.get("file"), b"new");
        assert_eq!(place.metadata("file").mode & 0o7777, 0o640);
        std::fs::create_dir_all(place.root().join("dir/occupied/x")).unwrap();
        place
            .storage
            .write_durably(Path::new("dir/f"), 0o600, b"f")
            .unwrap();
        let error = place
            .storage
            .write_durably(Path::new("dir/occupied"), 0o600, b"f");
        assert!(error.unwrap_err().path.starts_with(place.root()));
        assert_eq!(place.names("dir"), [b"f".to_vec(), b"occupied".to_vec()]);
        assert_eq!(place.names(""), [b"dir".to_vec(), b"file".to_vec()]);
    });
}

#[test]
fn directories_get_their_exact_mode_also_when_they_exist() {
    on_each(|place| {
        for mode in [0o777, 0o700, 0o750] {
            place.storage.create_dir(Path::new("dir"), mode).unwrap();
            assert_eq!(place.metadata("dir").mode & 0o7777, mode);
        }
        place.storage.set_dir_mode(Path::new("dir"), 0o711).unwrap();
        assert_eq!(place.metadata("dir").mode & 0o7777, 0o711);
        place
            .storage
            .create_dir(Path::new("dir/deeper"), 0o700)
            .unwrap();
        place.storage.create_dir(Path::new(""), 0o755).unwrap();
        place.put("file", b"");
        assert!(place.storage.create_dir(Path::new("file"), 0o700).is_err());
        assert!(
            place
                .storage
                .create_dir(Path::new("no/such"), 0o700)
                .unwrap_err()
                .is_not_found()
        );
        assert!(
            place
                .storage
                .set_dir_mode(Path::new("file"), 0o777)
                .is_err()
        );
        assert!(place.storage.remove_dir(Path::new("dir")).is_err());
        place.storage.remove_dir(Path::new("dir/deeper")).unwrap();
        place.storage.remove_dir(Path::new("dir")).unwrap();
        assert_eq!(place.names(""), [b"file".to_vec()]);
    });
}

#[test]
fn lists_are_sorted_and_hold_any_name() {
    on_each(|place| {
        assert!(place.names("").is_empty());
        let names: [&[u8]; 6] = [b"\n", b" ", b"..a", b"B", b"a", b"\xff\xfe"];
        for name in names {
            let path = Path::new(OsStr::from_bytes(name));
            place.storage.create(path, 0o600, false).unwrap();
        }
        assert_eq!(place.names(""), names.map(<[u8]>::to_vec));
        assert_eq!(place.names("."), names.map(<[u8]>::to_vec));
        assert!(
            place
                .storage
                .list(Path::new("gone"))
                .unwrap_err()
                .is_not_found()
        );
        assert!(place.storage.list(Path::new("a")).is_err());
    });
}

#[test]
fn links_are_made_read_and_removed() {
    on_each(|place| {
        let path = Path::new("link");
        for target in ["/absolute/target", "../up", "x"] {
            place.storage.symlink(Path::new(target), path).unwrap();
            assert_eq!(place.storage.read_link(path).unwrap(), Path::new(target));
            assert!(place.storage.symlink(Path::new(target), path).is_err());
            place.storage.remove_file(path).unwrap();
        }
        place.put("file", b"");
        assert!(place.storage.read_link(Path::new("file")).is_err());
    });
}

#[test]
fn renaming_replaces_and_names_what_failed() {
    on_each(|place| {
        place.put("a", b"a");
        place.put("b", b"b");
        place.storage.create_dir(Path::new("dir"), 0o700).unwrap();
        place
            .storage
            .rename(Path::new("a"), Path::new("dir/b"))
            .unwrap();
        place
            .storage
            .rename(Path::new("b"), Path::new("dir/b"))
            .unwrap();
        assert_eq!(place.get("dir/b"), b"b");
        place.storage.sync_dir(Path::new("dir")).unwrap();
        place.storage.sync_dir(Path::new("")).unwrap();
        let error = place
            .storage
            .rename(Path::new("a"), Path::new("c"))
            .unwrap_err();
        assert!(error.is_not_found());
        assert_eq!(error.path, place.root().join("a"));
    });
}

#[test]
fn metadata_tell_size_time_and_room() {
    on_each(|place| {
        place.put("file", &[1; 5000]);
        let metadata = place.metadata("file");
        let real = std::fs::metadata(place.root().join("file")).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_eq!(metadata.size, 5000);
        assert_eq!(metadata.mode, real.mode());
        assert_eq!(metadata.mtime, real.mtime());
        assert_eq!((metadata.device, metadata.inode), (real.dev(), real.ino()));
        assert_eq!((metadata.uid, metadata.gid), (real.uid(), real.gid()));
        assert_eq!(metadata.allocated_bytes, real.blocks() * 512);
        assert_eq!(place.metadata("").kind, FileKind::Directory);
        assert_eq!(place.metadata(".").inode, place.metadata("").inode);
        let error = place.storage.metadata(Path::new("gone")).unwrap_err();
        assert!(error.is_not_found() && !error.is_no_space());
        assert!(error.to_string().contains("tree/gone"), "{error}");
        assert!(place.storage.available_bytes().unwrap() > 0);
    });
}

#[test]
fn a_tree_stays_open_when_it_is_moved_and_its_root_may_be_a_link() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    std::fs::create_dir(at("tree")).unwrap();
    std::fs::write(at("tree/file"), b"f").unwrap();
    symlink(at("tree"), at("link")).unwrap();
    let storage = Posix::open(&at("link")).unwrap();
    assert_eq!(storage.display_path(Path::new("file")), at("link/file"));
    assert_eq!(storage.display_path(Path::new("")), at("link"));
    std::fs::rename(at("tree"), at("moved")).unwrap();
    assert_eq!(storage.read(Path::new("file"), 10).unwrap(), b"f");
    assert!(Posix::open(&at("moved/file")).is_err());
    assert!(Posix::open(&at("tree")).unwrap_err().is_not_found());
}

#[test]
fn a_whole_file_system_is_synced() {
    // One in memory where there is one: the others may hold much that is not ours.
    let directory = Path::new("/dev/shm");
    let directory = if directory.is_dir() {
        directory
    } else {
        Path::new("/tmp")
    };
    Posix::open(directory).unwrap().sync_filesystem().unwrap();
}

#[test]
fn a_full_disk_is_told_from_other_errors() {
    let error = |errno: rustix::io::Errno| StorageError::new("write", Path::new("f"), errno);
    assert!(error(rustix::io::Errno::NOSPC).is_no_space());
    assert!(error(rustix::io::Errno::DQUOT).is_no_space());
    assert!(!error(rustix::io::Errno::IO).is_no_space());
    assert!(!error(rustix::io::Errno::IO).is_not_found());
}
