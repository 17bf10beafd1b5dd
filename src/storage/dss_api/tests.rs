//! The tree of a server, on the stand-in for its library: what every storage must do, and what is
//! particular to this one.

use super::*;
use crate::testing::stand_in::StandIn;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};
use proptest::{prop_assert, prop_assert_eq};
use std::io::ErrorKind;
use std::os::unix::fs::symlink;

const CALL: usize = crate::limits::DSS_CALL_BYTES_MAX;

const CALL_BYTES: u32 = 2 * 1024 * 1024;

const _: () = assert!(CALL_BYTES as usize == CALL);

struct Place {
    stand_in: StandIn,
    storage: DssApi,
}

impl Place {
    fn new() -> Place {
        let stand_in = StandIn::build(&[]);
        let library = Arc::new(stand_in.load().unwrap());
        let storage = DssApi::open(library, "+data").unwrap();
        Place { stand_in, storage }
    }

    fn real(&self, path: &str) -> PathBuf {
        self.stand_in.group("data").join(path)
    }

    fn get(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.real(path)).unwrap()
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        std::fs::write(self.real(path), bytes).unwrap();
    }

    fn names(&self, path: &str) -> Vec<OsString> {
        let entries = self.storage.list(Path::new(path)).unwrap();
        entries.into_iter().map(|entry| entry.name).collect()
    }
}

fn bytes(seed: u8, length: usize) -> Vec<u8> {
    // A period that is no part of a sector, so that bytes of another place are noticed.
    let steps = (0..=250_u8).cycle().map(|step| step.wrapping_add(seed));
    steps.take(length).collect()
}

/// Every way in, tried on one path.
fn attempts(storage: &dyn Storage, path: &Path) -> Vec<(&'static str, Result<(), StorageError>)> {
    vec![
        ("open_read", storage.open_read(path, false).map(drop)),
        ("open_write", storage.open_write(path, false).map(drop)),
        ("set_file_mode", storage.set_file_mode(path, 0o600)),
        ("create", storage.create(path, 0o600, false).map(drop)),
        ("read", storage.read(path, 1000).map(drop)),
        ("read_range", storage.read_range(path, 0, 10).map(drop)),
        ("write_durably", storage.write_durably(path, 0o600, b"evil")),
        ("create_dir", storage.create_dir(path, 0o700)),
        ("set_dir_mode", storage.set_dir_mode(path, 0o700)),
        ("metadata", storage.metadata(path).map(drop)),
        ("list", storage.list(path).map(drop)),
        ("read_link", storage.read_link(path).map(drop)),
        ("symlink", storage.symlink(Path::new("+data/x"), path)),
        ("rename to", storage.rename(Path::new("own"), path)),
        ("rename from", storage.rename(path, Path::new("elsewhere"))),
        ("remove_file", storage.remove_file(path)),
        ("remove_dir", storage.remove_dir(path)),
        ("sync_dir", storage.sync_dir(path)),
    ]
}

#[test]
fn no_path_leads_out_of_the_tree() {
    let place = Place::new();
    place.put("own", b"own");
    std::fs::create_dir(place.real("dir")).unwrap();
    place.put("dir/file", b"inside");
    let log = place.stand_in.group("log");
    std::fs::create_dir(log.join("pg_xlog")).unwrap();
    std::fs::write(log.join("pg_xlog/1"), b"secret").unwrap();
    symlink("+log/pg_xlog", place.real("pg_xlog")).unwrap();
    symlink("+data/dir", place.real("within")).unwrap();
    let paths = [
        "..",
        "../log/pg_xlog",
        "dir/../own",
        "/",
        "/etc/passwd",
        "pg_xlog/1",
        "pg_xlog/new",
        "within/file",
        "within/new",
        "own/file",
        "no\0zero",
        "blank name",
        "caf\u{e9}",
    ];
    for path in paths {
        for (what, result) in attempts(&place.storage, Path::new(path)) {
            let error = result.expect_err(&format!("{what} {path:?}"));
            assert!(
                error.path.starts_with("+data") || path.starts_with('/'),
                "{error}"
            );
        }
    }
    assert_eq!(place.names("dir"), ["file"]);
    assert_eq!(place.get("own"), b"own");
    assert_eq!(std::fs::read(log.join("pg_xlog/1")).unwrap(), b"secret");
    assert_eq!(std::fs::read_dir(log.join("pg_xlog")).unwrap().count(), 1);
}

#[test]
fn a_link_in_the_last_place_is_seen_but_not_followed() {
    let place = Place::new();
    std::fs::write(place.stand_in.group("log").join("file"), b"secret").unwrap();
    let (path, target) = (Path::new("link"), Path::new("+log/file"));
    place.storage.symlink(target, path).unwrap();
    assert_eq!(
        place.storage.metadata(path).unwrap().kind,
        FileKind::Symlink
    );
    assert_eq!(place.storage.read_link(path).unwrap(), target);
    let seen = ["metadata", "read_link", "remove_file"];
    for (what, result) in attempts(&place.storage, path) {
        // The link goes with `remove_file`, behind which nothing can succeed either.
        assert_eq!(result.is_ok(), seen.contains(&what), "{what}");
    }
    assert_eq!(
        std::fs::read(place.stand_in.group("log").join("file")).unwrap(),
        b"secret"
    );
}

#[test]
fn files_and_directories_come_and_go() {
    let place = Place::new();
    let storage = &place.storage;
    storage.create_dir(Path::new("base"), 0o700).unwrap();
    storage.create_dir(Path::new("base"), 0o700).unwrap();
    storage.create_dir(Path::new(""), 0o700).unwrap();
    let file = storage.create(Path::new("base/1"), 0o600, true).unwrap();
    assert_eq!(file.path(), Path::new("+data/base/1"));
    assert_eq!(file.size().unwrap(), 0);
    file.allocate(100_000);
    file.write_all_at(b"some bytes", 5000).unwrap();
    file.sync().unwrap();
    drop(file);
    let mut wanted = vec![0; 5000];
    wanted.extend_from_slice(b"some bytes");
    assert_eq!(
        place.get("base/1"),
        wanted,
        "what a file grows by are zeros"
    );
    assert_eq!(storage.read(Path::new("base/1"), 5010).unwrap(), wanted);
    let error = storage.read(Path::new("base/1"), 5009).unwrap_err();
    assert_eq!(error.source.kind(), ErrorKind::FileTooLarge);
    let range = storage.read_range(Path::new("base/1"), 5005, 100).unwrap();
    assert_eq!(range, b"bytes");
    assert!(
        storage
            .read_range(Path::new("base/1"), u64::MAX, 9)
            .unwrap()
            .is_empty()
    );
    let metadata = storage.metadata(Path::new("base/1")).unwrap();
    assert_eq!((metadata.kind, metadata.size), (FileKind::File, 5010));
    assert_eq!(metadata.allocated_bytes, 2 * 1024 * 1024);
    let file = storage.open_read(Path::new("base/1"), true).unwrap();
    assert!(file.write_all_at(b"x", 0).is_err());
    let mut five = [0; 5];
    file.read_exact_at(&mut five, 5005).unwrap();
    assert_eq!(&five, b"bytes");
    let error = file.read_exact_at(&mut five, 5006).unwrap_err();
    assert_eq!(error.source.kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn files_are_emptied_replaced_and_removed() {
    let place = Place::new();
    let storage = &place.storage;
    storage.create_dir(Path::new("base"), 0o700).unwrap();
    place.put("base/1", b"old");
    let file = storage.create(Path::new("base/1"), 0o600, false).unwrap();
    assert_eq!(file.size().unwrap(), 0, "a file that is there is emptied");
    storage.create(Path::new("base/2"), 0o600, false).unwrap();
    file.write_all_at(b"1", 0).unwrap();
    drop(file);
    storage
        .rename(Path::new("base/1"), Path::new("base/2"))
        .unwrap();
    assert_eq!(place.get("base/2"), b"1");
    storage
        .write_durably(Path::new("base/2"), 0o600, b"new")
        .unwrap();
    assert_eq!(place.get("base/2"), b"new");
    assert_eq!(place.names("base"), ["2"]);
    storage.sync_dir(Path::new("base")).unwrap();
    let error = storage
        .rename(Path::new("base/2"), Path::new("2"))
        .unwrap_err();
    assert!(
        error.source.to_string().contains("can not change path"),
        "{}",
        error.source
    );
    assert!(storage.remove_dir(Path::new("base")).is_err());
    storage.remove_file(Path::new("base/2")).unwrap();
    storage.remove_dir(Path::new("base")).unwrap();
    assert!(
        storage
            .metadata(Path::new("base"))
            .unwrap_err()
            .is_not_found()
    );
    assert_eq!(
        storage.available_bytes().unwrap_err().source.kind(),
        ErrorKind::Unsupported
    );
}

#[test]
fn lists_are_sorted_without_the_place_of_deleted_files() {
    let place = Place::new();
    for name in [".recycle", "b", "a", "B", ".hidden"] {
        std::fs::create_dir(place.real(name)).unwrap();
    }
    assert_eq!(place.names(""), [".hidden", "B", "a", "b"]);
    std::fs::create_dir(place.real("a/.recycle")).unwrap();
    assert_eq!(
        place.names("a"),
        [".recycle"],
        "elsewhere it is a name like others"
    );
    let entries = place.storage.list(Path::new("")).unwrap();
    let kinds = entries.iter().map(|entry| entry.metadata.kind);
    assert!(kinds.into_iter().all(|kind| kind == FileKind::Directory));
    let mut numbers: Vec<u64> = entries.iter().map(|entry| entry.metadata.inode).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), entries.len());
}

#[test]
fn only_whole_sectors_reach_the_library_but_for_the_end() {
    let place = Place::new();
    let _ = place.stand_in.calls();
    let file = place.storage.create(Path::new("f"), 0o600, true).unwrap();
    let content = bytes(1, 3 * CALL + 700);
    file.write_all_at(&content, 0).unwrap();
    file.write_all_at(&bytes(2, 1000), 300).unwrap();
    drop(file);
    let mut wanted = content;
    wanted[300..1300].copy_from_slice(&bytes(2, 1000));
    assert!(place.get("f") == wanted);
    let calls = place.stand_in.calls();
    let numbers = |line: &str| -> (u64, u64) {
        let mut words = line.split(' ').skip(2).map(|word| word.parse().unwrap());
        (words.next().unwrap(), words.next().unwrap())
    };
    let writes: Vec<(u64, u64)> = calls
        .iter()
        .filter(|line| line.starts_with("dss_pwrite "))
        .map(|line| numbers(line))
        .collect();
    assert!(writes.len() >= 5, "{calls:?}");
    let end = wanted.len() as u64;
    for (size, offset) in writes {
        assert_eq!(offset % 512, 0);
        assert!(
            size % 512 == 0 || offset + size == end,
            "{size} at {offset}"
        );
        assert!(size <= CALL as u64);
    }
}

#[test]
fn a_library_that_keeps_whole_sectors_is_told_the_length() {
    let place = Place::new();
    place.stand_in.mode("round");
    let file = place.storage.create(Path::new("f"), 0o600, false).unwrap();
    for length in [1, 511, 512, 513, 5000] {
        file.write_all_at(&bytes(3, length), 0).unwrap();
        assert_eq!(place.get("f"), bytes(3, length));
    }
    let _ = place.stand_in.calls();
    file.write_all_at(b"x", 5000).unwrap();
    file.sync().unwrap();
    assert_eq!(place.get("f").len(), 5001);
    let calls = place.stand_in.calls();
    assert!(
        calls.iter().any(|call| call.starts_with("dss_ftruncate")),
        "{calls:?}"
    );
}

#[test]
fn a_length_that_the_server_does_not_keep_is_an_error() {
    let place = Place::new();
    let file = place.storage.create(Path::new("f"), 0o600, false).unwrap();
    file.write_all_at(&bytes(4, 4096), 0).unwrap();
    let real = std::fs::File::options()
        .write(true)
        .open(place.real("f"))
        .unwrap();
    real.set_len(1000).unwrap();
    let error = file.sync().unwrap_err();
    let text = error.source.to_string();
    assert_eq!(text, "the server has 1000 bytes of the file, not 4096");
}

#[test]
fn what_another_handle_wrote_is_neither_cut_nor_filled() {
    let place = Place::new();
    let first = place.storage.create(Path::new("f"), 0o600, false).unwrap();
    let second = place.storage.open_write(Path::new("f"), false).unwrap();
    second.write_all_at(&bytes(6, 8192), 0).unwrap();
    let error = first.sync().unwrap_err();
    let text = error.source.to_string();
    assert_eq!(text, "the server has 8192 bytes of the file, not 0");
    assert_eq!(place.get("f"), bytes(6, 8192));
    first.write_all_at(b"end", 9000).unwrap();
    let mut expected = bytes(6, 8192);
    expected.resize(9000, 0);
    expected.extend(b"end");
    assert_eq!(place.get("f"), expected);
}

#[test]
fn failures_of_the_library_name_file_and_cause() {
    let place = Place::new();
    let file = place.storage.create(Path::new("f"), 0o600, false).unwrap();
    place
        .stand_in
        .fail("dss_pwrite 1 2401 DSS no space in the vg");
    let error = file.write_all_at(&bytes(5, 512), 0).unwrap_err();
    assert_eq!(
        (error.path.as_path(), error.operation),
        (Path::new("+data/f"), "write")
    );
    assert_eq!(error.source.kind(), ErrorKind::StorageFull);
    assert!(StorageError::from(error).is_no_space());
    file.write_all_at(&bytes(5, 512), 0).unwrap();
    place
        .stand_in
        .fail("dss_pread 1 2070 Read volume '/dev/x' failed, volume id 0, reason 5");
    let error = place.storage.read(Path::new("f"), 1000).unwrap_err();
    assert!(
        error
            .source
            .to_string()
            .contains("Read volume '/dev/x' failed"),
        "{error}"
    );
    place
        .stand_in
        .fail("dss_frename 1 2150 Rename failed, reason x");
    let error = place
        .storage
        .write_durably(Path::new("g"), 0o600, b"g")
        .unwrap_err();
    assert!(
        error.source.to_string().contains("Rename failed"),
        "{}",
        error.source
    );
    assert_eq!(place.names(""), ["f"], "the temporary file is gone");
}

#[test]
fn a_server_that_does_not_answer_is_not_waited_for() {
    let scratch = tempfile::tempdir().unwrap();
    let error = connect(scratch.path()).unwrap_err();
    assert!(error.to_string().contains(".dss_unix_d_socket"), "{error}");
    assert!(error.hint().contains("dssserver -M"), "{}", error.hint());
}

#[test]
fn the_library_is_found_in_the_servers_home() {
    let stand_in = StandIn::build(&[]);
    let absent = PathBuf::from("libdssapi-that-nobody-has.so");
    let places = [absent.clone(), stand_in.library().to_owned()];
    let library = connect_with(stand_in.home(), &places).unwrap();
    assert_eq!(library.path(), stand_in.library());
    let error = connect_with(stand_in.home(), &[absent]).unwrap_err();
    assert!(
        error.to_string().contains("libdssapi-that-nobody-has.so"),
        "{error}"
    );
    // A bare name is not one of the current directory, which has a file of this name.
    let places = [PathBuf::from("Cargo.toml"), stand_in.library().to_owned()];
    connect_with(stand_in.home(), &places).unwrap();
    // One that is there and is wrong is what is told.
    std::fs::write(stand_in.home().join("lib/other.so"), "no library at all").unwrap();
    let places = [
        PathBuf::from("nobody.so"),
        stand_in.home().join("lib/other.so"),
    ];
    let error = connect_with(stand_in.home(), &places).unwrap_err();
    assert!(error.to_string().contains("lib/other.so"), "{error}");
}

/// A step of a random story.
#[derive(Clone, Debug)]
enum Step {
    Write { at: u32, length: u32, seed: u8 },
    Truncate { to: u32 },
    Read { at: u32, length: u32 },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    // About sectors, where the cases are, and now and then about calls.
    let position = prop_oneof![
        4 => 0..5000_u32,
        2 => (0..9_u32, -2..3_i32).prop_map(|(n, d)| (n * 512).saturating_add_signed(d)),
        1 => (0..3_u32, -600..600_i32)
            .prop_map(|(n, d)| (n * CALL_BYTES).saturating_add_signed(d)),
    ];
    let length = prop_oneof![4 => 0..3000_u32, 1 => Just(512_u32), 1 => Just(4096_u32)];
    prop_oneof![
        5 => (position.clone(), length.clone(), any::<u8>())
            .prop_map(|(at, length, seed)| Step::Write { at, length, seed }),
        1 => position.clone().prop_map(|to| Step::Truncate { to }),
        3 => (position, length).prop_map(|(at, length)| Step::Read { at, length }),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        std::env::var("GS_DSS_ROUNDS").map_or(64, |rounds| rounds.parse().unwrap())
    ))]

    #[test]
    fn a_file_holds_what_was_written(
        steps in proptest::collection::vec(step(), 1..25),
        rounds in any::<bool>(),
    ) {
        let place = Place::new();
        place.stand_in.mode(if rounds { "round" } else { "" });
        let path = Path::new("f");
        let mut file = place.storage.create(path, 0o600, true).unwrap();
        let mut wanted: Vec<u8> = Vec::new();
        for step in steps {
            match step {
                Step::Write { at, length, seed } => {
                    let (at, content) = (at as usize, bytes(seed, length as usize));
                    file.write_all_at(&content, at as u64).unwrap();
                    if !content.is_empty() {
                        wanted.resize(wanted.len().max(at + content.len()), 0);
                        wanted[at..at + content.len()].copy_from_slice(&content);
                    }
                }
                Step::Truncate { to } => {
                    file.set_len(u64::from(to)).unwrap();
                    wanted.resize(to as usize, 0);
                }
                Step::Read { at, length } => {
                    let mut read = vec![0xee; length as usize];
                    let got = file.read_up_to_at(&mut read, u64::from(at)).unwrap();
                    let there = wanted.get(at as usize..).unwrap_or_default();
                    let there = &there[..there.len().min(length as usize)];
                    prop_assert!(&read[..got] == there);
                }
                Step::Reopen => file = place.storage.open_write(path, false).unwrap(),
            }
            prop_assert_eq!(file.size().unwrap(), wanted.len() as u64);
        }
        file.sync().unwrap();
        prop_assert!(place.get("f") == wanted);
    }
}

#[test]
fn one_run_at_a_time_goes_through_a_server() {
    let place = Place::new();
    let home = place.stand_in.home();
    let held = super::lock(home).unwrap();
    let tree = DssApi::open(Arc::new(place.stand_in.load().unwrap()), "+data").unwrap();
    let tree = tree.locked(held);
    let error = super::lock(home).unwrap_err();
    assert!(matches!(error, DssApiError::InUse { .. }), "{error}");
    drop(tree);
    drop(super::lock(home).unwrap());
    let error = super::lock(Path::new("/nosuch/home")).unwrap_err();
    assert!(matches!(error, DssApiError::Lock { .. }), "{error}");
}
