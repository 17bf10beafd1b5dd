//! Tests of `pg_control.rs`.

use super::*;
use crate::format::fixtures;

const PATH: &str = "gauss/data/dn1/global/pg_control";

/// The control file of the reference cluster.
fn real() -> Option<Vec<u8>> {
    let mut found = fixtures::members("pgdata.tar.zst", |path| path == PATH)?;
    let mut bytes = found.remove(PATH).unwrap();
    bytes.resize(PG_CONTROL_SIZE, 0);
    Some(bytes)
}

/// A control file of nothing but the given fields.
fn made(version: u32, catalog_version: u32) -> Vec<u8> {
    let mut bytes = vec![0; PG_CONTROL_SIZE];
    put(&mut bytes, 8, &version.to_le_bytes());
    put(&mut bytes, 12, &catalog_version.to_le_bytes());
    let layout = Layout::of_version(version).unwrap();
    for (at, value) in [
        (layout.block_size, 8192_u32),
        (layout.relseg_size, 131_072),
        (layout.wal_block_size, 8192),
        (layout.wal_segment_size, 1 << 24),
    ] {
        put(&mut bytes, at, &value.to_le_bytes());
    }
    seal(&mut bytes);
    bytes
}

fn seal(bytes: &mut [u8]) {
    let at = layout(bytes).unwrap().crc;
    let crc = crc32c::crc32c(&bytes[..at]);
    put(bytes, at, &crc.to_le_bytes());
}

/// Lines of `pg_controldata`, by how they begin.
fn printed(control: &ControlFile) -> [(&'static str, String); 20] {
    let time = |seconds| {
        let time = jiff::Timestamp::from_second(seconds).unwrap();
        time.strftime("%a %b %e %H:%M:%S %Y").to_string()
    };
    [
        ("pg_control version number", control.version.to_string()),
        (
            "Catalog version number",
            control.catalog_version.to_string(),
        ),
        (
            "Database system identifier",
            control.system_identifier.to_string(),
        ),
        ("pg_control last modified", time(control.time)),
        ("Latest checkpoint location", control.checkpoint.to_string()),
        ("Latest checkpoint's REDO", control.redo.to_string()),
        (
            "Latest checkpoint's TimeLineID",
            control.timeline.to_string(),
        ),
        ("Latest checkpoint's NextXID", control.next_xid.to_string()),
        ("Latest checkpoint's NextOID", control.next_oid.to_string()),
        ("Time of latest checkpoint", time(control.checkpoint_time)),
        (
            "Minimum recovery ending",
            control.min_recovery_point.to_string(),
        ),
        (
            "Backup start location",
            control.backup_start_point.to_string(),
        ),
        ("Backup end location", control.backup_end_point.to_string()),
        (
            "Current max_connections",
            control.max_connections.to_string(),
        ),
        (
            "Current max_prepared_xacts",
            control.max_prepared_xacts.to_string(),
        ),
        (
            "Current max_locks_per_xact",
            control.max_locks_per_xact.to_string(),
        ),
        ("Database block size", control.block_size.to_string()),
        ("Blocks per segment", control.relseg_size.to_string()),
        ("WAL block size", control.wal_block_size.to_string()),
        (
            "Bytes per WAL segment",
            control.wal_segment_size.to_string(),
        ),
    ]
}

#[test]
fn the_control_file_of_a_real_cluster_says_what_pg_controldata_says() {
    let (Some(bytes), Some(text)) = (real(), fixtures::file("pg_controldata.txt")) else {
        return;
    };
    let control = ControlFile::parse(&bytes).unwrap();
    let text = String::from_utf8(text).unwrap();
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_once(": ").unwrap().1.trim().to_owned()
    };
    for (name, found) in printed(&control) {
        assert_eq!(found, value(name), "{name}");
    }
    assert_eq!(value("Database cluster state"), "shut down");
    assert_eq!(control.state, ClusterState::ShutDown);
    assert_eq!(value("End-of-backup record required"), "no");
    assert!(!control.backup_end_required);
    assert_eq!(value("Latest checkpoint's full_page_writes"), "off");
    assert!(!control.full_page_writes);
    assert_eq!(value("Current wal_level setting"), "hot_standby");
    assert_eq!(control.wal_level, 2);
    assert_eq!(control.flavor, ServerFlavor::OpenGauss);
    assert!(control.data_checksums);
    assert_eq!(ControlFile::internal_crc(&bytes), Ok(control.crc));
}

#[test]
fn any_damage_of_the_structure_is_noticed_and_none_behind_it() {
    for (version, catalog_version) in [
        (923, 201_611_171),
        (1300, 202_209_061),
        (1700, 202_406_281),
        (1800, 202_506_291),
    ] {
        let mut bytes = made(version, catalog_version);
        let control = ControlFile::parse(&bytes).unwrap();
        let end = layout(&bytes).unwrap().crc + 4;
        for at in 0..end {
            bytes[at] ^= 0x10;
            assert!(ControlFile::parse(&bytes).is_err(), "{version} {at}");
            bytes[at] ^= 0x10;
        }
        // What a merge by gs_probackup leaves behind.
        bytes[ControlFile::struct_bytes(control.flavor)..].fill(0xEE);
        assert_eq!(ControlFile::parse(&bytes), Ok(control));
    }
}

#[test]
fn the_versions_tell_the_server() {
    let flavor = |version, catalog_version| {
        ControlFile::parse(&made(version, catalog_version)).map(|control| control.flavor)
    };
    let postgresql = |major| Ok(ServerFlavor::PostgreSql { major });
    assert_eq!(flavor(923, 201_611_171), Ok(ServerFlavor::OpenGauss));
    assert_eq!(flavor(1300, 202_209_061), postgresql(15));
    assert_eq!(flavor(1300, 202_307_071), postgresql(16));
    assert_eq!(flavor(1700, 202_406_281), postgresql(17));
    assert_eq!(flavor(1800, 202_506_291), postgresql(18));
    for found in [202_107_181, 202_307_072, 0] {
        let version = 1300;
        let error = ControlFileError::CatalogVersion { version, found };
        assert_eq!(flavor(version, found), Err(error));
    }
}

#[test]
fn each_wrong_file_has_its_own_error() {
    let good = made(923, 201_611_171);
    let parse = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        ControlFile::parse(&bytes).unwrap_err()
    };
    let text = |error: ControlFileError| error.to_string();
    assert_eq!(
        text(parse(&|bytes| bytes.truncate(232))),
        "unexpected control file size 232, expected 8192"
    );
    assert_eq!(
        text(parse(&|bytes| bytes.extend([0]))),
        "unexpected control file size 8193, expected 8192"
    );
    assert!(text(parse(&|bytes| bytes[0] = 1)).starts_with(
        "Calculated CRC checksum does not match value stored in file.\nEither the file"
    ));
    assert_eq!(
        parse(&|bytes| bytes[8..12].reverse()),
        ControlFileError::ByteOrder
    );
    assert_eq!(
        parse(&|bytes| bytes[8..12].fill(0)),
        ControlFileError::Version { found: 0 }
    );
    let state = |bytes: &mut Vec<u8>| {
        bytes[20] = 7;
        seal(bytes);
    };
    assert_eq!(parse(&state), ControlFileError::State { found: 7 });
    for (at, value) in [
        (192, 4096_u32),
        (196, 1),
        (200, 65_536),
        (204, 0),
        (204, 1 << 19),
        (204, (1 << 24) + 1),
        (204, 1 << 31),
    ] {
        let geometry = |bytes: &mut Vec<u8>| {
            put(bytes, at, &value.to_le_bytes());
            seal(bytes);
        };
        let error = parse(&geometry);
        assert!(
            matches!(error, ControlFileError::Geometry { found, .. } if found == value),
            "{error:?}"
        );
    }
}

#[test]
fn the_recovery_point_is_set_with_a_new_crc() {
    for (version, catalog_version) in [(923, 201_611_171), (1700, 202_406_281)] {
        let before = made(version, catalog_version);
        let mut bytes = before.clone();
        let lsn = Lsn(0x1_3000_0028);
        let crc = set_min_recovery_point(&mut bytes, lsn, TimelineId(7)).unwrap();
        let control = ControlFile::parse(&bytes).unwrap();
        assert_eq!((control.min_recovery_point, control.crc), (lsn, crc));
        let changed: Vec<usize> = (0..bytes.len())
            .filter(|&at| bytes[at] != before[at])
            .filter(|at| !(136..144).contains(at))
            .collect();
        let crc_at = layout(&bytes).unwrap().crc;
        let timeline = changed.contains(&144);
        assert_eq!(timeline, version == 1700);
        assert!(changed.iter().all(|&at| at >= crc_at || at == 144));
        // Damage must not be covered up.
        bytes[0] ^= 1;
        assert!(set_min_recovery_point(&mut bytes, lsn, TimelineId(7)).is_err());
    }
}
