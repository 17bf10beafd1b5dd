//! The library's functions on the stand-in, and libraries that are none.

use super::*;
use crate::testing::stand_in::StandIn;
use std::sync::Arc;

fn message(error: &dyn std::error::Error) -> String {
    error.to_string()
}

#[test]
fn a_library_that_is_not_there_or_no_library_is_told() {
    let scratch = tempfile::tempdir().unwrap();
    let load = |path: &Path| DssLibrary::load(path, "UDS:/x/y").unwrap_err();
    let absent = load(&scratch.path().join("libdssapi.so"));
    assert!(message(&absent).contains("No such file"), "{absent}");
    assert!(absent.hint().contains("LD_LIBRARY_PATH"));
    assert!(absent.hint().contains("--vg"));
    let error = load(Path::new("libdssapi-that-nobody-has.so"));
    assert!(message(&error).starts_with("cannot load"), "{error}");

    let text = scratch.path().join("text.so");
    std::fs::write(&text, "this is no library at all\n".repeat(9)).unwrap();
    let error = load(&text);
    assert!(message(&error).contains("ELF"), "{error}");
    assert!(error.hint().contains("another machine"), "{error}");
}

#[test]
fn a_library_of_another_machine_is_told() {
    // The class in byte 4, the machine in byte 18: no machine has such a number.
    for (at, value, wanted) in [(4, 1_u8, "of 32 bits"), (19, 0x1e, "for machine")] {
        let stand_in = StandIn::build(&[]);
        let mut bytes = std::fs::read(stand_in.library()).unwrap();
        bytes[at] = value;
        std::fs::write(stand_in.library(), bytes).unwrap();
        let error = stand_in.load().unwrap_err();
        assert!(message(&error).contains(wanted), "{error}");
        assert!(error.hint().contains("another machine"), "{error}");
    }
}

#[test]
fn another_version_and_a_missing_function_are_named() {
    let stand_in = StandIn::build(&["-DVERSION=1002006"]);
    let error = stand_in.load().unwrap_err();
    let text = message(&error);
    assert!(text.contains("version 1.2.6"), "{text}");
    assert!(text.contains("version 0.0.5"), "{text}");
    assert!(error.hint().contains("--vg"));

    let stand_in = StandIn::build(&["-DWITHOUT_FRENAME"]);
    let error = stand_in.load().unwrap_err();
    assert!(message(&error).contains("dss_frename"), "{error}");
}

#[test]
fn a_server_that_the_library_refuses_is_named() {
    let stand_in = StandIn::build(&[]);
    let error = DssLibrary::load(stand_in.library(), "TCP:/x/y").unwrap_err();
    assert!(message(&error).contains("TCP:/x/y"), "{error}");
    let source = std::error::Error::source(&error).unwrap();
    assert!(message(source).contains("2411"), "{source}");
}

#[test]
fn calls_do_what_they_say() {
    let stand_in = StandIn::build(&[]);
    let library = stand_in.load().unwrap();
    library.make_dir("+data/base").unwrap();
    library.create("+data/base/1").unwrap();
    let handle = library.open("+data/base/1", true).unwrap();
    let mut memory = vec![7_u8; 3 * 512];
    let start = memory.as_ptr().align_offset(512);
    library
        .write(handle, &memory[start..start + 700], 0)
        .unwrap();
    assert_eq!(library.fstat(handle).unwrap().written_bytes, 700);
    let read = library.read(handle, &mut memory[start..start + 1024], 0);
    assert_eq!(read.unwrap(), 1024, "whole sectors are counted");
    library.truncate(handle, 600).unwrap();
    library.close(handle).unwrap();
    let item = library.lstat("+data/base/1").unwrap();
    assert_eq!((item.kind, item.written_bytes), (DssItemKind::File, 600));
    assert_eq!(item.allocated_bytes, 2 * 1024 * 1024);
    library.symlink("+data/base", "+data/link").unwrap();
    assert_eq!(library.read_link("+data/link").unwrap(), "+data/base");
    assert_eq!(library.lstat("+data/link").unwrap().kind, DssItemKind::Link);
    assert_eq!(
        library.stat("+data/link").unwrap().kind,
        DssItemKind::Directory
    );
    library.rename("+data/base/1", "+data/base/2").unwrap();
    assert_eq!(library.list("+data/base", 9).unwrap(), ["2"]);
    library.unlink("+data/link").unwrap();
    library.remove_file("+data/base/2").unwrap();
    library.remove_dir("+data/base").unwrap();
    assert_eq!(library.list("+data", 9).unwrap(), [""; 0]);
}

#[test]
fn errors_have_the_librarys_words_and_the_systems_kind() {
    let stand_in = StandIn::build(&[]);
    let library = stand_in.load().unwrap();
    let error = library.lstat("+data/gone").unwrap_err();
    assert_eq!(error.code, 2190);
    let text = "The file +data/gone of dss does not exist (DSS error 2190 of dss_lstat)";
    assert_eq!(error.to_string(), text);
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    library.make_dir("+data/a").unwrap();
    let kind = |result: Result<(), DssCallError>| result.unwrap_err().kind();
    assert_eq!(
        kind(library.make_dir("+data/a")),
        io::ErrorKind::AlreadyExists
    );
    assert_eq!(
        kind(library.make_dir("+data/a b")),
        io::ErrorKind::InvalidInput
    );
    assert_eq!(kind(library.make_dir("+data/a\0b")), io::ErrorKind::Other);
    stand_in.fail("dss_fcreate 1 2401 DSS no space in the vg");
    assert_eq!(kind(library.create("+data/f")), io::ErrorKind::StorageFull);
    let text = "Failed to process remote, errcode: 2190, errmsg: x";
    stand_in.fail(&format!("dss_fcreate 2 2417 {text}"));
    assert_eq!(kind(library.create("+data/f")), io::ErrorKind::NotFound);
    // A code outside the range comes as -1; control characters do not reach a terminal.
    stand_in.fail("dss_fcreate 3 17 \x1b[31mred");
    let error = library.create("+data/f").unwrap_err();
    assert_eq!((error.code, &*error.message), (-1, "\\u{1b}[31mred"));
    stand_in.mode("silent");
    stand_in.fail("dss_fcreate 4 2401 x");
    let error = library.create("+data/f").unwrap_err();
    assert_eq!(&*error.message, "the library gives no reason");
}

#[test]
fn an_error_belongs_to_the_thread_that_met_it() {
    let stand_in = StandIn::build(&[]);
    let library = Arc::new(stand_in.load().unwrap());
    let threads: Vec<_> = (0..8)
        .map(|number| {
            let library = Arc::clone(&library);
            std::thread::spawn(move || {
                for round in 0..200 {
                    let path = format!("+data/gone-{number}-{round}");
                    let error = library.lstat(&path).unwrap_err();
                    assert!(error.message.contains(&path), "{path}: {error}");
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn what_cannot_be_true_is_refused() {
    let stand_in = StandIn::build(&[]);
    let library = stand_in.load().unwrap();
    library.create("+data/f").unwrap();
    let handle = library.open("+data/f", true).unwrap();
    let memory = vec![0_u8; 1024];
    let start = memory.as_ptr().align_offset(512);
    library
        .write(handle, &memory[start..start + 512], 0)
        .unwrap();
    let refused = |mode: &str, wanted: &str, result: Result<(), DssCallError>| {
        let error = result.expect_err(mode);
        assert!(error.message.contains(wanted), "{mode}: {error}");
    };
    stand_in.mode("count");
    let mut memory = vec![0_u8; 1024];
    let start = memory.as_ptr().align_offset(512);
    let read = library.read(handle, &mut memory[start..start + 512], 0);
    refused("count", "read 1024 of 512 bytes", read.map(drop));
    stand_in.mode("kind");
    refused("kind", "kind 77", library.lstat("+data/f").map(drop));
    refused("kind", "kind 77", library.fstat(handle).map(drop));
    stand_in.mode("name");
    refused("name", "no name", library.list("+data", 9).map(drop));
    stand_in.mode("path");
    refused("path", "no name", library.list("+data", 9).map(drop));
    stand_in.mode("handle");
    refused(
        "handle",
        "no handle",
        library.open("+data/f", false).map(drop),
    );
    stand_in.mode("");
    library.create("+data/g").unwrap();
    let too_many = library.list("+data", 1);
    refused("names", "more than 1 names", too_many.map(drop));
    refused(
        "offset",
        "no such place",
        library.truncate(handle, u64::MAX),
    );
}

#[test]
fn a_directory_that_fails_is_not_one_that_ends() {
    let stand_in = StandIn::build(&[]);
    let library = stand_in.load().unwrap();
    for name in ["a", "b", "c"] {
        library.create(&format!("+data/{name}")).unwrap();
    }
    stand_in.fail("dss_dread 2 2418 Failed to connect dss server");
    let error = library.list("+data", 9).unwrap_err();
    assert_eq!(error.code, 2418);
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    let mut names = library.list("+data", 9).unwrap();
    names.sort();
    assert_eq!(names, ["a", "b", "c"]);
}
