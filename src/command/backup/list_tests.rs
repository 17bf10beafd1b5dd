//! Tests of `list.rs`.

use super::*;
use crate::types::SegmentNumber;

#[test]
fn a_file_larger_than_a_segment_file_is_copied_as_bytes() {
    let content = |name: &str, size| {
        let FileKind::Relation(relation) = relation_path::classify(name).kind else {
            panic!("{name} is a relation file");
        };
        content_of(name, relation, size)
    };
    let one = SegmentNumber(1);
    for (name, size, expected) in [
        ("base/1/16384.1", 1 << 30, Content::Pages(one)),
        ("base/1/16384.1", (1 << 30) + 8191, Content::Pages(one)),
        ("base/1/16384.1", (1 << 30) + 8192, Content::Plain),
        ("base/1/16384.1", 1 << 50, Content::Plain),
        (
            "base/1/16384.1_compress",
            1 << 30,
            Content::CompressedPages(one),
        ),
        ("base/1/16384.1_compress", 0, Content::Pages(one)),
        ("base/1/16384.1_compress", 2 << 30, Content::Plain),
    ] {
        assert_eq!(content(name, size), expected, "{name} {size}");
    }
}

/// A data directory of these files; names that end in a slash are directories, and
/// `link -> target` is a link.
fn tree(names: &[&str]) -> tempfile::TempDir {
    let scratch = tempfile::tempdir().unwrap();
    std::fs::create_dir(scratch.path().join("data")).unwrap();
    for name in names {
        let (name, target) = match name.split_once(" -> ") {
            Some((name, target)) => (name, Some(target)),
            None => (*name, None),
        };
        let path = scratch.path().join("data").join(name);
        if name.ends_with('/') {
            std::fs::create_dir_all(path).unwrap();
            continue;
        }
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        match target {
            Some(target) => {
                std::os::unix::fs::symlink(scratch.path().join(target), path).unwrap();
            }
            None => std::fs::write(path, b"x").unwrap(),
        }
    }
    scratch
}

const POSTGRESQL: ServerFlavor = ServerFlavor::PostgreSql { major: 15 };

fn options(flavor: ServerFlavor, online: bool) -> ListOptions {
    ListOptions {
        flavor,
        online,
        pg_log: false,
        pg_replslot: false,
        replication_slots: None,
        external_dirs: Vec::new(),
        shared: None,
    }
}

fn listed(scratch: &tempfile::TempDir, options: &ListOptions) -> Vec<String> {
    let tree = list(&scratch.path().join("data"), options).unwrap();
    for entry in &tree.entries {
        let root = &tree.roots[entry.root];
        assert!(root.metadata(entry.source_path()).is_ok(), "{entry:?}");
    }
    let mut names: Vec<String> = tree.entries.iter().map(|e| e.name.to_string()).collect();
    names.sort();
    names
}

#[test]
fn of_a_running_postgresql_its_rules_leave_the_rest() {
    let kept = [
        "PG_VERSION",
        "backup_label.old",
        "base",
        "base/5",
        "base/5/16384",
        "base/5/16384_fsm",
        "base/5/16390_init",
        "base/pgsql_tmp",
        "global",
        "global/pg_control",
        "log",
        "log/x.log",
        "pg_stat_tmp",
        "pg_wal",
        "postgresql.auto.conf",
    ];
    let mut names = vec![
        "base/5/pg_internal.init",
        "base/5/pg_internal.init.77",
        "base/5/t3_16400",
        "base/5/t3_16400_vm",
        "base/5/16390",
        "base/5/16390.1",
        "base/5/16390_fsm",
        "base/5/16390_vm",
        "base/pgsql_tmp/pgsql_tmp1.0",
        "backup_label",
        "backup_manifest",
        "current_logfiles.tmp",
        "pg_stat_tmp/global.stat",
        "pg_wal/000000010000000000000001",
        "postgresql.auto.conf.tmp",
        "postmaster.opts",
        "postmaster.pid",
        "recovery.signal",
        "standby.signal",
        "tablespace_map",
    ];
    let is_directory = |name: &&str| kept.iter().any(|k| k.starts_with(&format!("{name}/")));
    names.extend(kept.iter().filter(|name| {
        !is_directory(name) && !matches!(**name, "base/pgsql_tmp" | "pg_stat_tmp" | "pg_wal")
    }));
    let scratch = tree(&names);
    assert_eq!(listed(&scratch, &options(POSTGRESQL, true)), kept);
}

#[test]
fn unlogged_relations_are_left_out_of_online_backups_alone() {
    let version = "PG_15_202209061";
    let files = ["16385", "16385.1", "16385_vm", "16385_init", "16386"];
    let mut names = vec!["pg_tblspc/16384 -> ts".to_owned()];
    for directory in ["base/5".to_owned(), format!("../ts/{version}/5")] {
        names.extend(files.iter().map(|file| format!("{directory}/{file}")));
        names.push(format!("{directory}/16385_compress"));
    }
    // The init fork in one directory says nothing of another.
    names.push("base/6/16385".to_owned());
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let scratch = tree(&names);
    let offline = listed(&scratch, &options(POSTGRESQL, false));
    let online = listed(&scratch, &options(POSTGRESQL, true));
    let left_out: Vec<&String> = offline.iter().filter(|n| !online.contains(n)).collect();
    let place = format!("pg_tblspc/16384/{version}/5");
    let expected: Vec<String> = ["base/5", &place]
        .iter()
        .flat_map(|directory| files[..3].iter().map(move |f| format!("{directory}/{f}")))
        .collect();
    assert_eq!(left_out, expected.iter().collect::<Vec<_>>());
    assert!(online.contains(&"base/6/16385".to_owned()));
    assert!(online.contains(&format!("{place}/16385_init")));
    assert_eq!(
        listed(&scratch, &options(ServerFlavor::OpenGauss, true)),
        online
    );
}

#[test]
fn double_write_files_of_a_running_opengauss_are_replaced_by_the_mark_to_rebuild_them() {
    let names = [
        "global/dw_upgrade",
        "global/pg_control",
        "global/pg_dw_0",
        "global/pg_dw_ext_chunk/x",
        "global/pg_dw_meta",
        "global/pg_dw_single",
    ];
    let scratch = tree(&names);
    let data = scratch.path().join("data");
    let online = options(ServerFlavor::OpenGauss, true);
    assert_eq!(listed(&scratch, &online), ["global", "global/pg_control"]);
    let mark = GeneratedFile {
        name: "global/pg_dw.build".to_owned(),
        file_type: FileType::File,
        mode: 0o100_600,
        bytes: Vec::new(),
    };
    assert_eq!(list(&data, &online).unwrap().generated, [mark]);
    for kept in [
        options(ServerFlavor::OpenGauss, false),
        options(POSTGRESQL, true),
    ] {
        let found = listed(&scratch, &kept);
        assert!(names.iter().all(|name| found.iter().any(|f| f == name)));
        assert_eq!(list(&data, &kept).unwrap().generated, []);
    }
    for name in &names[2..] {
        let path = data.join(name);
        std::fs::remove_file(path).unwrap();
    }
    std::fs::remove_file(data.join(names[0])).unwrap();
    std::fs::remove_dir(data.join("global/pg_dw_ext_chunk")).unwrap();
    assert_eq!(list(&data, &online).unwrap().generated, []);
}

#[test]
fn of_replication_slots_those_asked_for_are_kept() {
    let scratch = tree(&[
        "pg_replslot/a/state",
        "pg_replslot/b/state",
        "pg_replslot/b/snap/x",
    ]);
    let mut options = options(ServerFlavor::OpenGauss, true);
    assert_eq!(listed(&scratch, &options), ["pg_replslot"]);
    options.pg_replslot = true;
    assert_eq!(listed(&scratch, &options).len(), 7);
    options.replication_slots = Some(BTreeSet::from(["b".to_owned()]));
    assert_eq!(
        listed(&scratch, &options),
        [
            "pg_replslot",
            "pg_replslot/b",
            "pg_replslot/b/snap",
            "pg_replslot/b/snap/x",
            "pg_replslot/b/state"
        ]
    );
}

#[test]
fn a_tablespace_in_the_data_directory_that_is_external_is_listed_once() {
    let scratch = tree(&["pg_location/a/x", "pg_location/b/x"]);
    let mut options = options(ServerFlavor::OpenGauss, true);
    options.external_dirs = vec![scratch.path().join("data/pg_location/a/")];
    let tree = list(&scratch.path().join("data"), &options).unwrap();
    let found: Vec<(u32, &str)> = tree
        .entries
        .iter()
        .filter(|entry| entry.content.is_some())
        .map(|entry| (entry.external_dir, &*entry.name))
        .collect();
    assert_eq!(found, [(0, "pg_location/b/x"), (1, "x")]);
}

#[test]
fn an_entry_keeps_its_path_only_where_that_is_not_its_name() {
    let scratch = tree(&["base/1/2", "conf/"]);
    std::fs::write(scratch.path().join("elsewhere"), b"x").unwrap();
    let link = scratch.path().join("data/conf/linked");
    std::os::unix::fs::symlink(scratch.path().join("elsewhere"), link).unwrap();
    let tree = list(&scratch.path().join("data"), &options(POSTGRESQL, true)).unwrap();
    for entry in tree.entries {
        let is_linked = &*entry.name == "conf/linked";
        assert_eq!(entry.path.is_some(), is_linked, "{}", entry.name);
        if is_linked {
            assert_eq!(entry.source_path(), Path::new("elsewhere"));
        }
    }
}

fn walk<'a>(data: &Path, options: &'a ListOptions) -> Walk<'a> {
    Walk {
        tree: SourceTree {
            roots: vec![Arc::new(Posix::open(data).unwrap())],
            ..SourceTree::default()
        },
        options,
        data_directory: data.to_owned(),
        followed: HashSet::new(),
        double_write: false,
        file_type: FileType::File,
    }
}

#[test]
fn what_vanishes_is_passed_over_and_what_cannot_be_read_is_an_error() {
    let scratch = tree(&["base/5/1", "pg_tblspc/"]);
    let data = scratch.path().join("data");
    let options = options(POSTGRESQL, true);
    let mut walk = walk(&data, &options);
    walk.directory(0, Path::new("base/6"), "base/6", 0).unwrap();
    let found = |name: &str| Found {
        root: 0,
        path: name.into(),
        name: name.to_owned(),
        external_dir: 0,
    };
    assert!(walk.link(&found("pg_tblspc/7")).unwrap().is_none());
    assert!(walk.link(&found("base/6/linked")).unwrap().is_none());
    assert!(walk.tree.entries.is_empty() && walk.tree.tablespaces.is_empty());
    std::os::unix::fs::symlink("/nowhere/at/all", data.join("pg_tblspc/7")).unwrap();
    assert!(walk.link(&found("pg_tblspc/7")).is_err());
    let file = Path::new("base/5/1");
    assert!(walk.directory(0, file, "base/5/1", 0).is_err());
    assert!(list(&data.join("base/6"), &options).is_err());
}

#[test]
fn databases_that_come_and_go_do_not_disturb_the_walk() {
    let scratch = tree(&["base/1/1", "base/1/2"]);
    let data = scratch.path().join("data");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for database in 2..30 {
                    let directory = data.join(format!("base/{database}"));
                    std::fs::create_dir(&directory).unwrap();
                    std::fs::write(directory.join("16384"), b"x").unwrap();
                }
                for database in 2..30 {
                    std::fs::remove_dir_all(data.join(format!("base/{database}"))).unwrap();
                }
            }
        });
        let runs: Vec<_> = (0..200)
            .map(|_| list(&data, &options(POSTGRESQL, true)).map(|tree| tree.entries.len()))
            .collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for run in runs {
            assert!(run.unwrap() >= 4);
        }
    });
}

/// What instances share, with nothing in it that matters.
fn shared(scratch: &Path, names: &[&str]) -> crate::command::backup::SharedTree {
    use crate::command::cluster_control::ControlForm;
    use crate::format::catalog::StorageType;
    use crate::storage::dss::{DssTree, GroupSpec};
    use crate::testing::dss_image::Image;
    let image = Image::create(&scratch.join("image")).unwrap();
    let spec = GroupSpec {
        name: "data".to_owned(),
        devices: vec![image.path().to_owned()],
    };
    crate::command::backup::SharedTree {
        tree: DssTree::open(&[spec], "+data").unwrap(),
        form: ControlForm::of_cluster(StorageType::Dss, names.iter().copied()),
    }
}

#[test]
fn of_what_is_shared_other_instances_and_a_running_servers_double_writes_are_left_out() {
    let scratch = tempfile::tempdir().unwrap();
    std::fs::create_dir(scratch.path().join("data")).unwrap();
    let one = ["pg_xlog", "pg_doublewrite"];
    let own = ["pg_xlog2", "pg_doublewrite2", "pg_xlog3"];
    for (names, online, left_out, kept) in [
        (
            &one[..],
            true,
            &[
                "pg_doublewrite/pg_dw_0",
                "pg_doublewrite/pg_dw_single",
                "pg_doublewrite/pg_dw_meta",
                "pg_doublewrite/pg_dw.build",
                "pg_xlog1",
                "pg_doublewrite1/pg_dw_0",
            ][..],
            &["pg_doublewrite", "pg_xlog", "base/1/2", "pg_xlogs"][..],
        ),
        (
            &one,
            false,
            &["pg_xlog1", "pg_doublewrite1"],
            &["pg_doublewrite/pg_dw_0", "pg_doublewrite/pg_dw_meta"],
        ),
        (
            &own,
            true,
            &["pg_doublewrite2/pg_dw_0", "pg_xlog3", "pg_doublewrite3"],
            &["pg_doublewrite2", "pg_xlog2"],
        ),
    ] {
        let mut options = options(ServerFlavor::OpenGauss, online);
        options.shared = Some(shared(scratch.path(), names));
        let mut walk = walk(&scratch.path().join("data"), &options);
        for name in left_out {
            assert!(walk.is_left_out_of_shared(name), "{name}");
        }
        assert_eq!(walk.double_write, online);
        for name in kept {
            assert!(!walk.is_left_out_of_shared(name), "{name}");
        }
        let wal = options
            .shared
            .as_ref()
            .unwrap()
            .form
            .directory_of_instance("pg_xlog");
        assert!(walk.is_shared_wal(&wal) && !walk.is_shared_wal("base"));
    }
}

#[test]
fn what_is_shared_is_a_tree_beside_the_data_directory() {
    let scratch = tree(&["base/1/1", "plain"]);
    let mut options = options(ServerFlavor::OpenGauss, true);
    options.shared = Some(shared(scratch.path(), &["pg_xlog"]));
    // Its only link leads to a file, which no server makes.
    let error = list(&scratch.path().join("data"), &options).unwrap_err();
    assert!(
        crate::command::words::describe(&error).contains("is not a directory"),
        "{error}"
    );
}
