//! A restore in place touches nothing unless it is certain whose directory it is, that nobody uses
//! it, and that nothing else is in reach.

use crate::chain::ChainOfBackups;
use crate::cluster::Cluster;
use crate::fixtures;
use crate::merge_chain::memory;
use crate::read_gs_probackup_catalog::is_like_the_original;
use crate::restore_in_place::{assert_same_trees, trees};
use crate::support::{Output, assert_success, gs_probackup};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// A restored cluster in a directory of its own.
struct Place {
    cluster: Cluster,
    id: String,
    target: PathBuf,
    tablespace: PathBuf,
}

impl Place {
    fn create() -> Place {
        let cluster = Cluster::create(512 << 10);
        let id = cluster.back_up(&[]);
        let (target, tablespace) = cluster.restore(&id, "place");
        Place {
            cluster,
            id,
            target,
            tablespace,
        }
    }

    fn in_place(&self, mode: &str) -> Output {
        let (target, tablespace) = (&self.target, &self.tablespace);
        self.cluster
            .try_restore(&self.id, target, tablespace, &["-I", mode])
    }

    /// The restore is refused for a reason, and nothing has changed.
    #[track_caller]
    fn is_refused(&self, mode: &str, warning: &str) {
        let before = trees(&self.target, &self.tablespace);
        let output = self.in_place(mode);
        assert_eq!(output.code, Some(1), "{output:#?}");
        let text = &output.stderr;
        assert!(
            text.contains("ERROR: Incremental restore is impossible"),
            "{text}"
        );
        let warned = text
            .lines()
            .any(|line| line.starts_with("WARNING: ") && line.contains(warning));
        assert!(warned, "{warning}:\n{text}");
        assert_same_trees(&before, &trees(&self.target, &self.tablespace));
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.target.join(name), text).unwrap();
    }
}

#[test]
fn a_directory_whose_server_may_run_is_refused() {
    let place = Place::create();
    place.put("postmaster.pid", "1\n/somewhere\n");
    place.is_refused(
        "checksum",
        "Postmaster with pid 1 is running in destination directory \"",
    );
    place.put("postmaster.pid", "seven\n");
    place.is_refused(
        "checksum",
        "is mangled, cannot determine whether postmaster is running or not",
    );
    // A process that has ended.
    place.put("postmaster.pid", "2147483646\n");
    assert_success(&place.in_place("checksum"));
    assert!(!place.target.join("postmaster.pid").exists());
}

#[test]
fn a_directory_of_another_cluster_or_of_none_is_refused() {
    let place = Place::create();
    let control = place.target.join("global/pg_control");
    let own = fs::read(&control).unwrap();
    let mut other = own.clone();
    other[0] ^= 1;
    let crc = crc32c::crc32c(&other[..224]);
    other[224..228].copy_from_slice(&crc.to_le_bytes());
    fs::write(&control, &other).unwrap();
    place.is_refused("checksum", "Backup catalog was initialized for system id ");
    place.is_refused("lsn", ", but destination directory system id is ");
    other[9] ^= 1;
    fs::write(&control, &other).unwrap();
    place.is_refused("checksum", "has a damaged \"");
    fs::remove_file(&control).unwrap();
    place.is_refused("checksum", "its cluster cannot be told");
    place.put("gs_probackup.restore", "{}\n");
    place.is_refused("checksum", "gs_probackup.restore\" cannot be used: ");
    // A directory of something else altogether, named by mistake.
    let home = place.cluster.scratch.path().join("home");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("letters"), b"mine").unwrap();
    let (target, tablespace) = (&home, &place.tablespace);
    let output = place
        .cluster
        .try_restore(&place.id, target, tablespace, &["-I", "checksum"]);
    assert_eq!(output.code, Some(1), "{output:#?}");
    assert_eq!(fs::read(home.join("letters")).unwrap(), b"mine");
}

#[test]
fn lsn_mode_wants_a_redo_point_that_says_something() {
    let place = Place::create();
    let output = place.in_place("lsn");
    assert_eq!(output.code, Some(1), "{output:#?}");
    let line = format!(
        "ERROR: Cannot perform incremental restore of backup chain {} in 'lsn' mode, because \
         destination directory redo point ",
        place.id
    );
    assert!(output.stderr.contains(&line), "{}", output.stderr);
    assert!(output.stderr.contains("-I checksum"), "{}", output.stderr);
    place.put("backup_label", "START WAL LOCATION: 0/0\n");
    place.is_refused(
        "lsn",
        "Destination directory contains \"backup_control\" file. ",
    );
    assert_success(&place.in_place("checksum"));
    assert!(!place.target.join("backup_label").exists());
}

#[test]
fn a_tablespace_of_somebody_else_is_not_touched() {
    let place = Place::create();
    let other = place.cluster.scratch.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(other.join("file"), b"somebody's").unwrap();
    let output = place
        .cluster
        .try_restore(&place.id, &place.target, &other, &["-I", "checksum"]);
    assert_eq!(output.code, Some(1), "{output:#?}");
    let line = "ERROR: restore tablespace destination is not empty: \"";
    assert!(output.stderr.contains(line), "{}", output.stderr);
    fs::remove_file(other.join("file")).unwrap();
    // An empty one is taken, and the old one left as it is.
    let before = fixtures::manifest(&place.tablespace);
    let expected = trees(&place.target, &place.tablespace);
    let output = place
        .cluster
        .try_restore(&place.id, &place.target, &other, &["-I", "checksum"]);
    assert_success(&output);
    assert_same_trees(&expected, &trees(&place.target, &other));
    assert_eq!(before, fixtures::manifest(&place.tablespace));
    assert_eq!(
        fs::read_link(place.target.join("pg_tblspc/16385")).unwrap(),
        other
    );
}

#[test]
fn what_is_not_the_clusters_stays() {
    let place = Place::create();
    let expected = trees(&place.target, &place.tablespace);
    let other_node = place.tablespace.join("PG_9.2_201611171_other/16384");
    fs::create_dir_all(&other_node).unwrap();
    fs::write(other_node.join("16400"), b"another node's").unwrap();
    fs::create_dir_all(place.target.join("pg_log")).unwrap();
    place.put("pg_log/postgresql.log", "what happened");
    place.put(".hidden", "a person's");
    let dropped = place.cluster.scratch.path().join("dropped");
    fs::create_dir(&dropped).unwrap();
    fs::write(dropped.join("file"), b"of a dropped tablespace").unwrap();
    symlink(&dropped, place.target.join("pg_tblspc/70000")).unwrap();
    let wal = place.target.join("pg_xlog/0000000100000000000000FF");
    fs::write(&wal, b"of a later time").unwrap();
    for name in [
        "recovery.conf",
        "postmaster.opts",
        "standby.signal",
        "tablespace_map",
    ] {
        place.put(name, "stale");
    }
    let output = place.in_place("checksum");
    assert_success(&output);
    let line = "the backup has no tablespace \"pg_tblspc/70000\": its link is removed, ";
    assert!(output.stderr.contains(line), "{}", output.stderr);
    assert_eq!(
        fs::read(other_node.join("16400")).unwrap(),
        b"another node's"
    );
    assert_eq!(
        fs::read(dropped.join("file")).unwrap(),
        b"of a dropped tablespace"
    );
    assert_eq!(
        fs::read(place.target.join(".hidden")).unwrap(),
        b"a person's"
    );
    assert!(!wal.exists());
    fs::remove_dir_all(place.tablespace.join("PG_9.2_201611171_other")).unwrap();
    fs::remove_file(place.target.join("pg_log/postgresql.log")).unwrap();
    fs::remove_file(place.target.join(".hidden")).unwrap();
    assert_same_trees(&expected, &trees(&place.target, &place.tablespace));
}

#[test]
fn a_file_that_contains_its_own_checksum_is_compared_byte_for_byte() {
    let chain = ChainOfBackups::create(&[&[]]);
    let data = &chain.cluster.sample.data_directory;
    // As the server writes pg_filenode.map: content, CRC-32C of it, padding. The CRC of the whole
    // is the same whatever the content is.
    let map = |fill: u8| {
        let mut bytes = vec![fill; 504];
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes
    };
    assert_eq!(crc32c::crc32c(&map(1)), crc32c::crc32c(&map(2)));
    let name = "base/16384/pg_filenode.map";
    fs::write(data.join(name), map(1)).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let id = chain.cluster.back_up(&[]);
    let (target, tablespace) = chain.cluster.restore(&id, "place");
    fs::write(target.join(name), map(2)).unwrap();
    let more = ["-I", "checksum"];
    assert_success(&chain.cluster.try_restore(&id, &target, &tablespace, &more));
    assert_eq!(fs::read(target.join(name)).unwrap(), map(1));
}

/// A data directory of a real server, stopped some time after the last backup of a recorded chain.
#[test]
fn a_real_directory_goes_back_to_its_backups_in_lsn_mode() {
    let Some(gauss) = fixtures::gauss() else {
        return;
    };
    let scratch = memory();
    let root = scratch.path();
    fixtures::unpack(&gauss, "pgdata", root);
    let backup = root.join("backup");
    fs::create_dir(&backup).unwrap();
    fixtures::unpack(&gauss, "catalog_zlib", &backup);
    let (data, tablespace) = (root.join("gauss/data/dn1"), root.join("gauss/ts/ts1"));
    let link = data.join("pg_tblspc/16385");
    fs::remove_file(&link).unwrap();
    symlink(&tablespace, &link).unwrap();
    fs::remove_dir_all(data.join("pg_log")).ok();
    let version = fixtures::manifest(&tablespace);
    let restore = |id: &str| {
        let mapping = format!("/gauss/ts/ts1={}", tablespace.display());
        let data = data.display().to_string();
        let arguments = [
            "restore",
            "--instance=zlib",
            "-j2",
            "--no-validate",
            "--no-sync",
        ];
        let more = ["-I", "lsn", "-i", id, "-D", &data, "-T", &mapping];
        gs_probackup(&[&arguments[..], &more].concat(), &backup)
    };
    let output = restore("TOU8D9");
    assert_success(&output);
    for line in [
        "INFO: Backup TOU8D9 is chosen as shiftpoint, its Stop LSN will be used as shift LSN",
        "INFO: Destination directory redo point 0/14000148 on tli 1 is within reach of backup \
         TOU8D9 with Stop LSN ",
        "INFO: shift LSN: 0/",
    ] {
        assert!(output.stderr.contains(line), "{line}:\n{}", output.stderr);
    }
    lsn_restored(&gauss, "TOU8D9", &data, &tablespace);
    assert_eq!(version, fixtures::manifest(&tablespace));
    // What was restored has the label of its backup.
    let refused = restore("TOU8CR");
    assert_eq!(refused.code, Some(1), "{refused:#?}");
}

fn lsn_restored(gauss: &Path, id: &str, data: &Path, tablespace: &Path) {
    for name in ["pg_log", ".s.PGSQL.15400.lock"] {
        let path = data.join(name);
        if !path.is_dir() {
            fs::remove_file(path).ok();
        }
    }
    is_like_the_original(gauss, "zlib", id, data, tablespace);
}

#[test]
fn a_skipped_external_directory_within_the_data_directory_is_left_alone() {
    let cluster = Cluster::create(512 << 10);
    let data = &cluster.sample.data_directory;
    let own = data.join("pg_location/own");
    fs::create_dir_all(&own).unwrap();
    fs::write(own.join("file"), b"then").unwrap();
    let id = cluster.back_up(&[&format!("--external-dirs={}", own.display())]);
    fs::write(own.join("file"), b"now").unwrap();
    fs::write(own.join("other"), b"new").unwrap();
    let data = data.display().to_string();
    let restore = |more: &[&str]| {
        let mut words = vec!["restore", "--instance=main", "-i", &id, "-D", &data];
        words.extend(["-I", "checksum"]);
        words.extend(more);
        assert_success(&gs_probackup(&words, &cluster.catalog));
    };
    restore(&["--skip-external-dirs"]);
    assert_eq!(fs::read(own.join("file")).unwrap(), b"now");
    assert_eq!(fs::read(own.join("other")).unwrap(), b"new");
    restore(&[]);
    assert_eq!(fs::read(own.join("file")).unwrap(), b"then");
    assert!(!own.join("other").exists());
}
