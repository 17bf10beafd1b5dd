//! A restore in place among things that are neither file nor directory, and among mounted file
//! systems: they are replaced, removed or refused; nothing waits for the other end of a pipe.

use crate::cluster::{Cluster, INSTANCE};
use crate::online::run_within;
use crate::restore_in_place::{Trees, assert_same_trees, trees};
use crate::support::{Output, command};
use crate::survive_full_disk::SmallDisk;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

struct Place {
    cluster: Cluster,
    id: String,
    target: PathBuf,
    tablespace: PathBuf,
    expected: Trees,
}

impl Place {
    fn create() -> Place {
        let cluster = Cluster::create_lean(256 << 10);
        let id = cluster.back_up(&[]);
        let (target, tablespace) = cluster.restore(&id, "place");
        let expected = trees(&target, &tablespace);
        Place {
            cluster,
            id,
            target,
            tablespace,
            expected,
        }
    }

    fn in_place(&self, mode: &str) -> Output {
        let old = self.cluster.sample.tablespace.display();
        let mapping = format!("{old}={}", self.tablespace.display());
        let data = self.target.display().to_string();
        let words = [
            "restore",
            "--instance",
            INSTANCE,
            "-i",
            &self.id,
            "-D",
            &data,
        ];
        let more = ["-T", &mapping, "-I", mode, "-j2"];
        let mut command = command(&[&words[..], &more].concat(), &self.cluster.catalog);
        run_within(&mut command, Duration::from_secs(60))
    }

    #[track_caller]
    fn is_restored(&self, mode: &str) {
        let output = self.in_place(mode);
        assert_eq!(output.code, Some(0), "{output:#?}");
        assert_same_trees(&self.expected, &trees(&self.target, &self.tablespace));
    }

    /// The restore ends with an error that has these words, and has not begun.
    #[track_caller]
    fn is_refused(&self, mode: &str, words: &str) {
        let output = self.in_place(mode);
        assert_eq!(output.code, Some(1), "{output:#?}");
        assert!(output.stderr.contains("ERROR: "), "{output:#?}");
        assert!(output.stderr.contains(words), "{output:#?}");
        assert!(!self.target.join("gs_probackup.restore").exists());
    }
}

fn make_pipe(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success(), "{}", path.display());
}

/// `/dev/zero` under another name; said aloud where that is not allowed.
fn make_device(path: &Path) {
    let words = ["c", "1", "5"];
    let made = Command::new("mknod").arg(path).args(words).output();
    if !made.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: a device cannot be made; run the tests as root");
    }
}

#[test]
fn pipes_sockets_and_devices_give_way_and_are_not_waited_for() {
    let place = Place::create();
    let base = place.target.join("base/16384");
    for (kind, make) in [
        ("pipe", make_pipe as fn(&Path)),
        ("socket", |path| drop(UnixListener::bind(path).unwrap())),
        ("device", make_device),
    ] {
        // Beside the files, in the place of one of pages, of another one, and of a directory.
        make(&base.join(kind));
        make(&place.target.join(kind));
        for name in ["base/16384/16386", "PG_VERSION"] {
            fs::remove_file(place.target.join(name)).unwrap();
            make(&place.target.join(name));
        }
        fs::remove_dir(place.target.join("pg_twophase")).unwrap();
        make(&place.target.join("pg_twophase"));
        place.is_restored("checksum");
    }
}

#[test]
fn what_a_restore_looks_at_first_is_refused_if_it_is_a_pipe_or_device() {
    let place = Place::create();
    let control = place.target.join("global/pg_control");
    let pid_file = place.target.join("postmaster.pid");
    for make in [make_pipe as fn(&Path), make_device] {
        make(&pid_file);
        if pid_file.exists() {
            place.is_refused("checksum", "postmaster.pid\"");
            fs::remove_file(&pid_file).unwrap();
        }
        fs::rename(&control, control.with_extension("kept")).unwrap();
        make(&control);
        if control.exists() {
            for mode in ["checksum", "lsn"] {
                place.is_refused(mode, "Incremental restore is impossible");
            }
            fs::remove_file(&control).unwrap();
        }
        // Then the mark of an interrupted restore is looked for.
        let mark = place.target.join("gs_probackup.restore");
        make(&mark);
        if mark.exists() {
            let output = place.in_place("checksum");
            assert_eq!(output.code, Some(1), "{output:#?}");
            let words = "Incremental restore is impossible";
            assert!(output.stderr.contains(words), "{output:#?}");
            fs::remove_file(&mark).unwrap();
        }
        fs::rename(control.with_extension("kept"), &control).unwrap();
    }
    place.is_restored("checksum");
}

#[test]
fn a_mounted_file_system_stays_or_is_refused() {
    let place = Place::create();
    let redundant = place.target.join("base/77777");
    fs::create_dir(&redundant).unwrap();
    let Some(disk) = SmallDisk::mount(&redundant.join("disk"), 8) else {
        return;
    };
    fs::write(disk.path().join("file"), b"somebody's").unwrap();
    place.is_refused("checksum", "another file system is mounted there");
    assert_eq!(fs::read(disk.path().join("file")).unwrap(), b"somebody's");
    assert!(place.target.join("global/pg_control").exists());
    drop(disk);
    place.is_restored("checksum");
    // One where the backup has a directory is part of the cluster, and what is in it, too.
    let wanted = place.target.join("pg_clog");
    fs::remove_dir_all(&wanted).unwrap();
    let disk = SmallDisk::mount(&wanted, 8).expect("the first one was mounted");
    fs::write(disk.path().join("redundant"), b"").unwrap();
    let output = place.in_place("checksum");
    assert_eq!(output.code, Some(0), "{output:#?}");
    let found = trees(&place.target, &place.tablespace);
    assert_same_trees(&place.expected, &found);
}
