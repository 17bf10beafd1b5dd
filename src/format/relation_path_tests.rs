//! Tests of `relation_path.rs`.

use super::*;
use crate::format::fixtures;

/// The value of a key in a line of a content list.
fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(&format!("\"{key}\":\""))?;
    rest.split_once('"').map(|(value, _)| value)
}

#[test]
fn files_are_classified_as_the_original_lists_them() {
    let wanted = |path: &str| path.ends_with("/backup_content.control");
    for archive in ["catalog_none.tar.zst", "catalog_merge_after.tar.zst"] {
        let Some(lists) = fixtures::members(archive, wanted) else {
            return;
        };
        let mut relations = 0;
        for (list, bytes) in lists {
            for line in std::str::from_utf8(&bytes).unwrap().lines() {
                let path = value(line, "path").unwrap();
                let found = classify(path);
                let segno = value(line, "segno").map(str::to_owned);
                let compressed = value(line, "compressedFile").is_some();
                let db_oid: u32 = value(line, "dbOid").unwrap().parse().unwrap();
                assert_eq!(found.db_oid, db_oid, "{list} {path}");
                let is_datafile = value(line, "is_datafile") == Some("1");
                match found.kind {
                    FileKind::Relation(file) => {
                        assert!(is_datafile, "{list} {path}");
                        assert_eq!(Some(file.segno.to_string()), segno, "{list} {path}");
                        assert_eq!(file.compressed, compressed, "{list} {path}");
                        assert_eq!(file.db_oid, db_oid, "{list} {path}");
                        relations += 1;
                    }
                    FileKind::WalSegment => assert!(path.starts_with("pg_xlog/")),
                    FileKind::ControlFile => assert_eq!(path, "global/pg_control"),
                    FileKind::Other => assert!(!is_datafile, "{list} {path}"),
                }
                assert!(!is_excluded_file(path), "{list} {path}");
                let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
                let kept = KeptDirectories::default();
                // WAL is streamed into the directory that is otherwise left empty.
                let left_out = parent != "pg_xlog" && is_content_excluded_dir(parent, kept);
                assert!(!left_out, "{list} {path}");
            }
        }
        assert!(relations > 1600, "{relations}");
    }
}

#[test]
fn what_the_original_leaves_out_of_a_data_directory_is_excluded() {
    let Some(lists) = fixtures::members("catalog_none.tar.zst", |path| {
        path.ends_with("TOU8D5/backup_content.control")
    }) else {
        return;
    };
    let list = lists.into_values().next().unwrap();
    let list = String::from_utf8(list).unwrap();
    let listed: std::collections::HashSet<&str> = list
        .lines()
        .filter_map(|line| value(line, "path"))
        .collect();
    let top = "gauss/data/dn1/";
    let paths = std::cell::RefCell::new(Vec::new());
    // No member is wanted; the paths are.
    fixtures::members("pgdata.tar.zst", |path| {
        paths
            .borrow_mut()
            .extend(path.strip_prefix(top).map(str::to_owned));
        false
    });
    let mut missing = 0;
    for path in paths.into_inner() {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let ours = !is_excluded_file(&path)
            && !is_content_excluded_dir(parent, KeptDirectories::default());
        // Written when the server stopped, after the backup.
        let later = path == "global/pgstat.stat";
        // The WAL of the backup, and of nothing else.
        let streamed = path.starts_with("pg_xlog/") && listed.contains(path.as_str());
        assert_eq!(
            listed.contains(path.as_str()),
            (ours && !later) || streamed,
            "{path}"
        );
        missing += u32::from(!ours);
    }
    assert!(missing > 30, "{missing}");
}

fn relation(path: &str) -> Option<(u32, u32, u32, u32, bool)> {
    let found = classify(path);
    match found.kind {
        FileKind::Relation(file) => {
            assert_eq!((Some(file.rel), file.segno), (found.rel, found.segno));
            assert_eq!(found.fork, None);
            let RelationFile {
                db_oid,
                rel,
                segno,
                compressed,
            } = file;
            Some((found.tablespace_oid, db_oid, rel, segno.0, compressed))
        }
        _ => None,
    }
}

#[test]
fn main_forks_are_relations_wherever_they_are() {
    for (path, expected) in [
        ("base/16384/16397", (1663, 16384, 16397, 0, false)),
        ("base/16384/16397.1", (1663, 16384, 16397, 1, false)),
        (
            "base/1/4294967295.32767",
            (1663, 1, 4_294_967_295, 32_767, false),
        ),
        ("global/14648", (1664, 0, 14648, 0, false)),
        ("base/16384/16425_compress", (1663, 16384, 16425, 0, true)),
        ("base/16384/16425.2_compress", (1663, 16384, 16425, 2, true)),
        ("base/16384/1", (1663, 16384, 1, 0, false)),
        ("base/16384/5.3", (1663, 16384, 5, 3, false)),
        (
            "pg_tblspc/16385/PG_9.2_201611171_single/16384/16438",
            (16385, 16384, 16438, 0, false),
        ),
        (
            "pg_tblspc/16385/PG_9.2_201611171_dn_6001/16384/16438.7",
            (16385, 16384, 16438, 7, false),
        ),
        (
            "pg_tblspc/16385/PG_15_202209061/5/16438",
            (16385, 5, 16438, 0, false),
        ),
    ] {
        assert_eq!(relation(path), Some(expected), "{path}");
    }
    assert!(
        matches!(classify("base/1/5.3").kind, FileKind::Relation(file)
        if file.is_segment_space())
    );
    assert!(matches!(classify("base/1/6").kind, FileKind::Relation(file)
        if !file.is_segment_space()));
}

#[test]
fn other_forks_are_no_page_streams_but_known() {
    for (path, fork, segno, bucket, temp) in [
        ("base/1/14650_fsm", Some(Fork::Fsm), 0, None, false),
        ("base/1/14650_vm.1", Some(Fork::Vm), 1, None, false),
        ("base/1/14650_bcm", Some(Fork::Bcm), 0, None, false),
        ("base/1/14650_init", Some(Fork::Init), 0, None, false),
        ("base/1/14650_C1.0", Some(Fork::Column(1)), 0, None, false),
        ("base/1/14650_C12.3", Some(Fork::Column(12)), 3, None, false),
        (
            "base/1/14650_C2_bcm",
            Some(Fork::ColumnBcm(2)),
            0,
            None,
            false,
        ),
        (
            "base/1/14650_C2_bcm.1",
            Some(Fork::ColumnBcm(2)),
            1,
            None,
            false,
        ),
        ("base/1/14650_b0", None, 0, Some(0), false),
        (
            "base/1/14650_b16383_fsm.1",
            Some(Fork::Fsm),
            1,
            Some(16383),
            false,
        ),
        ("base/1/t3_14650", None, 0, None, true),
        ("base/1/t0_14650_vm", Some(Fork::Vm), 0, None, true),
    ] {
        let found = classify(path);
        assert_eq!(found.kind, FileKind::Other, "{path}");
        assert_eq!(found.rel, Some(14650), "{path}");
        assert_eq!(found.db_oid, 1, "{path}");
        let parts = (found.fork, found.segno.0, found.bucket, found.temp);
        assert_eq!(parts, (fork, segno, bucket, temp), "{path}");
        assert_eq!(is_excluded_file(path), temp, "{path}");
    }
    assert!(Fork::Fsm.has_pages() && !Fork::Column(1).has_pages());
}

#[test]
fn names_that_the_server_does_not_print_are_plain_files() {
    for name in [
        "0",
        "016397",
        "16397.0",
        "16397.01",
        "16397.",
        "16397.32768",
        "4294967296",
        "+1",
        "16397_",
        "16397_fsm_vm",
        "16397_FSM",
        "16397_compress.1",
        "16397_fsm_compress",
        "16397.1.2",
        "16397_x",
        "16397_C1_x",
        "16397_Cx.0",
        "16397_b1_b2",
        "16397_C1.0.1",
        "16397 ",
        "16397\n",
        "t_16397",
        "tx_16397",
        "_compress",
        "PG_VERSION",
        "",
        "16397.1_fsm.1",
        "16397_b70000",
    ] {
        let path = format!("base/1/{name}");
        let found = classify(&path);
        assert_eq!((found.kind, found.rel), (FileKind::Other, None), "{path}");
        assert_eq!(found.db_oid, 1, "{path}");
        assert!(!is_excluded_file(&path), "{path}");
    }
    for path in [
        "",
        "/",
        "base",
        "16397",
        "base/x/16397",
        "base//16397",
        "base/1/2/16397",
        "/base/1/16397",
        "./base/1/16397",
        "base/01/16397",
        "other/1/16397",
        "global/1/16397",
        "pg_tblspc/16385",
        "pg_tblspc/16385/16384/16397",
        "pg_tblspc/x/PG_9.2_201611171_n/1/16397",
        "pg_tblspc/1/PG_9.2_201611171_n/16397",
        "pg_location/x/PG_9.2_201611171_n/1/16397",
        "undo/permanent/00001.0000001",
    ] {
        assert_eq!(relation(path), None, "{path}");
    }
}

#[test]
fn directories_have_the_oid_of_their_database() {
    for (path, expected) in [
        ("base", 0),
        ("base/16384", 16384),
        ("base/pgsql_tmp", 0),
        ("pg_tblspc/16385/PG_9.2_201611171_n/16384", 16384),
        ("global", 0),
    ] {
        let found = classify(path);
        assert_eq!(
            (found.kind, found.db_oid),
            (FileKind::Other, expected),
            "{path}"
        );
    }
}

#[test]
fn wal_and_control_file_are_told_apart() {
    let wal = "000000010000000000000003";
    assert_eq!(
        classify(&format!("pg_xlog/{wal}")).kind,
        FileKind::WalSegment
    );
    assert_eq!(
        classify(&format!("pg_wal/{wal}")).kind,
        FileKind::WalSegment
    );
    for path in [
        wal.to_owned(),
        format!("pg_xlog/{wal}.partial"),
        format!("pg_xlog/archive_status/{wal}"),
        "global/pg_control.backup".to_owned(),
        "pg_control".to_owned(),
    ] {
        assert_eq!(classify(&path).kind, FileKind::Other, "{path}");
    }
    assert_eq!(classify("global/pg_control").kind, FileKind::ControlFile);
}

#[test]
fn state_of_a_running_server_is_excluded() {
    for (path, excluded) in [
        ("postmaster.pid", true),
        ("postmaster.opts", true),
        ("recovery.conf", true),
        ("postmaster.pid.lock", false),
        ("base/1/postmaster.pid", false),
        ("pg_xlog/recovery.conf", false),
        ("base/1/pg_internal.init", true),
        ("base/1/pg_internal.init.92912", true),
        ("global/pg_internal.init.92912", true),
        ("pg_tblspc/2/PG_9.2_201611171_n/1/pg_internal.init.1", true),
        ("pg_internal.init", false),
        ("global/ptrack.map", true),
        ("base/1/ptrack_init", true),
        ("backup_label", false),
        ("base/1/pgsql_tmp123.4", true),
        ("global/pgsql_tmp123.4", true),
        ("pgsql_tmp_of_mine", false),
    ] {
        assert_eq!(is_excluded_file(path), excluded, "{path}");
    }
    assert!(is_excluded_postgresql_file("backup_manifest"));
    assert!(!is_excluded_postgresql_file("base/1/backup_manifest"));
    assert!(is_backup_state_file("backup_label"));
    assert!(is_backup_state_file("tablespace_map"));
    assert!(!is_backup_state_file("backup_label.old"));
}

#[test]
fn directories_that_a_server_clears_go_empty_into_a_backup() {
    let none = KeptDirectories::default();
    let all = KeptDirectories {
        log: true,
        replslot: true,
    };
    for (path, by_default, always) in [
        ("pg_xlog", true, true),
        ("pg_wal", true, true),
        ("pg_notify", true, true),
        ("base/pgsql_tmp", true, true),
        ("pg_tblspc/16385/PG_9.2_201611171_n/pgsql_tmp", true, true),
        ("pg_log", true, false),
        ("pg_replslot", true, false),
        ("pg_clog", false, false),
        ("base/1", false, false),
        ("base/1/pgsql_tmp", false, false),
        ("pg_tblspc/16385/x/pgsql_tmp", false, false),
        ("a/pg_xlog", false, false),
    ] {
        assert_eq!(is_content_excluded_dir(path, none), by_default, "{path}");
        assert_eq!(is_content_excluded_dir(path, all), always, "{path}");
    }
}

#[test]
fn double_write_files_are_those_in_global() {
    for name in [
        "pg_dw",
        "pg_dw_0",
        "pg_dw_12",
        "pg_dw_single",
        "pg_dw_meta",
        "pg_dw_ext_chunk",
        "pg_dw.build",
        "dw_upgrade",
        "dw_batch_upgrade_meta",
        "dw_batch_upgrade_files",
    ] {
        assert!(is_double_write(&format!("global/{name}")), "{name}");
        assert!(!is_double_write(name), "{name}");
        assert!(!is_double_write(&format!("base/1/{name}")), "{name}");
    }
    for name in [
        "pg_dw_x",
        "pg_dw_",
        "pg_dw_01",
        "pg_dwx",
        "global/pg_control",
    ] {
        assert!(!is_double_write(&format!("global/{name}")), "{name}");
    }
}

#[test]
fn a_server_that_recovers_empties_what_has_an_init_fork() {
    for (path, unlogged, reset) in [
        ("base/5/16385_init", Some(16385), None),
        ("base/5/16385_init.1", Some(16385), None),
        (
            "pg_tblspc/16400/PG_15_202209061/5/16385_init",
            Some(16385),
            None,
        ),
        ("base/5/16385", None, Some(16385)),
        ("base/5/16385.7", None, Some(16385)),
        ("base/5/16385_fsm", None, Some(16385)),
        ("base/5/16385_vm.1", None, Some(16385)),
        ("base/5/16385_bcm", None, Some(16385)),
        ("pg_tblspc/1/PG_9.2_201611171_n/5/16385", None, Some(16385)),
        ("base/5/16385_compress", None, None),
        ("base/5/16385_C1.0", None, None),
        ("base/5/16385_b3", None, None),
        ("base/5/16385_b3_init", None, None),
        ("base/5/t3_16385", None, None),
        ("base/5/PG_VERSION", None, None),
        ("global/16385", None, None),
        ("global/16385_init", None, None),
    ] {
        let found = classify(path);
        assert_eq!(unlogged_relation(&found), unlogged, "{path}");
        assert_eq!(is_reset_with(&found), reset, "{path}");
    }
}
