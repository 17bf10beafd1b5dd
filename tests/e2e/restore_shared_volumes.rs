//! Backups of a cluster on shared storage are restored to volumes: new ones, such as were used
//! before, and again after an interruption.

use crate::chain::ChainOfBackups;
use crate::cluster::INSTANCE;
use crate::faults::{Fault, Planned, meet, steps_of};
use crate::shared_backup::{share, state_of_files, state_of_shared};
use crate::support::{Output, assert_success, bare, command, run};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) type State = BTreeMap<String, (u32, u64)>;

/// Bytes of a volume: every file has a unit of two mebibytes at least.
const VOLUME_BYTES: u64 = 1 << 30;

/// Where a cluster is restored to: a data directory and the images of two groups.
pub(crate) struct Volumes {
    pub(crate) data: PathBuf,
    pub(crate) images: [PathBuf; 2],
    /// Whether the first image is for data and logs.
    is_one: bool,
}

impl Volumes {
    /// New groups. What is on `dirty` devices is what somebody left there, but for the head that
    /// whoever makes a group anew has to zero.
    pub(crate) fn create(scratch: &Path, name: &str, dirty: bool, is_one: bool) -> Volumes {
        Volumes::create_of(scratch, name, [VOLUME_BYTES; 2], dirty, is_one)
    }

    /// As [`Volumes::create`], on volumes of so many bytes.
    pub(crate) fn create_of(
        scratch: &Path,
        name: &str,
        bytes: [u64; 2],
        dirty: bool,
        is_one: bool,
    ) -> Volumes {
        let images = [("data", bytes[0]), ("log", bytes[1])].map(|(group, bytes)| {
            let path = scratch.join(format!("{name}.{group}"));
            let file = fs::File::create(&path).unwrap();
            file.set_len(bytes).unwrap();
            if dirty {
                let mut state = 0x9E37_79B9_7F4A_7C15_u64;
                let mut part = vec![0; 1 << 20];
                for at in (0..VOLUME_BYTES / 2).step_by(part.len()) {
                    for word in part.chunks_exact_mut(8) {
                        state ^= state << 13;
                        state ^= state >> 7;
                        state ^= state << 17;
                        word.copy_from_slice(&state.to_le_bytes());
                    }
                    file.write_all_at(&part, at).unwrap();
                }
                file.write_all_at(&vec![0; 2_048_000], 0).unwrap();
            }
            create_group(group, &path);
            path
        });
        Volumes {
            data: scratch.join(format!("{name}.pgdata")),
            images,
            is_one,
        }
    }

    /// Others of that kind; nothing is made.
    pub(crate) fn at(&self, scratch: &Path, name: &str) -> Volumes {
        Volumes {
            data: scratch.join(format!("{name}.pgdata")),
            images: ["data", "log"].map(|group| scratch.join(format!("{name}.{group}"))),
            is_one: self.is_one,
        }
    }

    /// The options that name the groups.
    pub(crate) fn groups(&self) -> Vec<String> {
        let [data, log] = &self.images;
        let mut groups = vec![format!("--vg=data={}", data.display())];
        if !self.is_one {
            groups.push(format!("--vg=log={}", log.display()));
        }
        groups
    }

    pub(crate) fn command(&self, chain: &ChainOfBackups, id: &str, more: &[&str]) -> Command {
        let data = self.data.display().to_string();
        let words = ["restore", "--instance", INSTANCE, "-i", id, "-D", &data];
        let mut command = command(&words, &chain.cluster.catalog);
        command
            .args(self.groups())
            .args(more)
            .env_remove("DSS_HOME");
        if self.is_one {
            command.arg("--vgname=+data,+data");
        }
        command
    }

    pub(crate) fn restore(&self, chain: &ChainOfBackups, id: &str, more: &[&str]) -> Output {
        run(&mut self.command(chain, id, more))
    }

    pub(crate) fn dss(&self, words: &[&str]) -> Output {
        let mut command = bare(&["dss"]);
        command.args(words).args(self.groups());
        run(command.env_remove("DSS_HOME"))
    }

    /// What is in them, after a look that finds no damage.
    pub(crate) fn state(&self, scratch: &Path) -> State {
        assert_success(&self.dss(&["check"]));
        for image in self.images.iter().take(if self.is_one { 1 } else { 2 }) {
            check_independently(image);
        }
        let copies = tempfile::tempdir_in(scratch).unwrap();
        let mut trees = vec![self.data.clone()];
        for group in ["data", "log"]
            .into_iter()
            .take(if self.is_one { 1 } else { 2 })
        {
            let copy = copies.path().join(group);
            let target = copy.display().to_string();
            let words = [
                "cp",
                "--recursive",
                "--no-sync",
                &format!("+{group}"),
                &target,
            ];
            assert_success(&self.dss(&words));
            trees.push(copy);
        }
        state_of_shared(&trees.iter().map(PathBuf::as_path).collect::<Vec<_>>())
    }
}

pub(crate) fn create_group(name: &str, device: &Path) {
    let group = format!("--vg={name}={}", device.display());
    let mut create = bare(&["dss", "cv", "--au-size=2MB", &group]);
    assert_success(&run(create.env_remove("DSS_HOME")));
}

/// Lets the reader of the specification look at a volume, where `GS_PARSE_DSS` names it.
fn check_independently(image: &Path) {
    let Ok(reader) = std::env::var("GS_PARSE_DSS") else {
        assert!(std::env::var_os("CI").is_none(), "set GS_PARSE_DSS");
        eprintln!("SKIPPED: no independent reader; set GS_PARSE_DSS to its command");
        return;
    };
    let mut words = reader.split(' ');
    let output = Command::new(words.next().unwrap())
        .args(words)
        .arg("check")
        .arg(image)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

pub(crate) fn assert_same(expected: &State, found: &State, when: &str) {
    for (path, state) in expected {
        assert_eq!(found.get(path), Some(state), "{when}: {path}");
    }
    for path in found.keys() {
        assert!(expected.contains_key(path), "{when}: {path} is too much");
    }
}

/// A chain of a cluster on shared storage, and the state at each of its backups.
pub(crate) fn chain() -> (ChainOfBackups, Vec<State>) {
    let none: &[&str] = &["--no-validate"];
    let chain = ChainOfBackups::create_lean(&[none, none]);
    let state = |id: &String| {
        let (data, tablespace) = chain.cluster.restore(id, &format!("{id}.files"));
        state_of_files(&data, &tablespace)
    };
    let states = chain.ids.iter().map(state).collect();
    share(&chain);
    (chain, states)
}

#[test]
fn volumes_that_were_used_are_wiped_made_anew_and_restored_to() {
    let (chain, states) = chain();
    let scratch = tempfile::tempdir().unwrap();
    let volumes = Volumes::create(scratch.path(), "used", false, false);
    assert_success(&volumes.restore(&chain, &chain.ids[1], &[]));
    // Not over what is there.
    let refused = volumes.restore(&chain, &chain.ids[0], &[]);
    assert_eq!(refused.code, Some(1), "{refused:#?}");
    assert_success(&volumes.dss(&["wipe", "--yes"]));
    for (name, image) in ["data", "log"].into_iter().zip(&volumes.images) {
        create_group(name, image);
    }
    fs::remove_dir_all(&volumes.data).unwrap();
    assert_success(&volumes.restore(&chain, &chain.ids[0], &[]));
    assert_same(&states[0], &volumes.state(scratch.path()), "made anew");
}

#[test]
fn a_shared_cluster_comes_back_on_new_and_on_dirty_volumes() {
    let (chain, states) = chain();
    let scratch = tempfile::tempdir().unwrap();
    for (name, dirty, is_one) in [
        ("new", false, false),
        ("dirty", true, false),
        ("one", false, true),
    ] {
        let volumes = Volumes::create(scratch.path(), name, dirty, is_one);
        assert_success(&volumes.restore(&chain, &chain.ids[1], &[]));
        assert_same(&states[1], &volumes.state(scratch.path()), name);
        register(&chain, &volumes, name);
        // What is there is not overwritten without being asked to.
        let refused = volumes.restore(&chain, &chain.ids[0], &[]);
        assert_eq!(refused.code, Some(1));
        let said = "ERROR: Restore destination is not empty: \"+data\"";
        assert!(refused.stderr.contains(said), "{refused:#?}");
        assert_success(&volumes.restore(&chain, &chain.ids[0], &["-I", "checksum"]));
        assert_same(&states[0], &volumes.state(scratch.path()), name);
        for image in volumes.images {
            fs::remove_file(image).unwrap();
        }
    }
}

/// Registers the cluster that is on these volumes, which are read for that.
fn register(chain: &ChainOfBackups, volumes: &Volumes, name: &str) {
    let data = volumes.data.display().to_string();
    let groups = if volumes.is_one {
        "+data,+data"
    } else {
        "+data,+log"
    };
    let vgname = format!("--vgname={groups}");
    let words = ["add-instance", "--instance", name, "-D", &data, &vgname];
    let catalog = &chain.cluster.catalog;
    let mut add = command(&words, catalog);
    assert_success(&run(add.args(volumes.groups()).env_remove("DSS_HOME")));
    let conf = |name: &str| {
        let path = catalog.join("backups").join(name).join("pg_probackup.conf");
        fs::read_to_string(path).unwrap()
    };
    let (new, old) = (conf(name), conf(INSTANCE));
    let identifier = old
        .lines()
        .find(|line| line.starts_with("system-identifier"));
    let expected = format!(
        "# Backup instance information\npgdata = {data}\n{}\n# DSS connect parameters\nvgname = \
         {groups}\n",
        identifier.unwrap()
    );
    assert_eq!(new, expected);
}

#[test]
fn a_server_of_storage_whose_library_is_missing_is_not_passed_by() {
    let (chain, _) = chain();
    let scratch = tempfile::tempdir().unwrap();
    let volumes = Volumes::create(scratch.path(), "served", false, false);
    let home = scratch.path().join("dss");
    fs::create_dir_all(home.join("cfg")).unwrap();
    let [data, log] = &volumes.images;
    let conf = format!("data:{}\nlog:{}\n", data.display(), log.display());
    fs::write(home.join("cfg/dss_vg_conf.ini"), conf).unwrap();
    let words = ["restore", "--instance", INSTANCE, "-D", "/nosuch/data"];
    let restore = || {
        let mut command = command(&words, &chain.cluster.catalog);
        run(command.env("DSS_HOME", &home).env_remove("LD_LIBRARY_PATH"))
    };
    let server = UnixListener::bind(home.join(".dss_unix_d_socket")).unwrap();
    let output = restore();
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains("libdssapi.so"), "{output:#?}");
    // The devices are not to be written to beside it either.
    let mut named = command(&words, &chain.cluster.catalog);
    let output = run(named.env("DSS_HOME", &home).args(volumes.groups()));
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains("runs"), "{output:#?}");
    drop(server);
    let group = format!("--vg=data={}", data.display());
    let listed = run(bare(&["dss", "ls", &group]).env_remove("DSS_HOME"));
    assert_eq!(listed.stdout, "");
}

/// Steps at which a restore is killed, unless the environment names another number.
const KILLS: usize = 5;

#[test]
fn a_restore_to_volumes_that_was_killed_is_completed_by_another() {
    let (chain, states) = chain();
    let scratch = tempfile::tempdir().unwrap();
    let id = &chain.ids[1];
    let volumes = Volumes::create(scratch.path(), "counted", false, false);
    let steps = steps_of(&mut volumes.command(&chain, id, &["-j1"])).len();
    let kills = std::env::var("GS_SHARED_KILLS");
    let kills = kills.map_or(KILLS, |kills| kills.parse().unwrap());
    for number in 0..kills {
        let at = 1 + number * (steps - 1) / kills.max(2).saturating_sub(1).max(1);
        let name = format!("killed.{number}");
        let planned = Planned::among_all(Fault::Kill(at.min(steps)));
        let volumes = std::cell::RefCell::new(None);
        let met = meet(&planned, || {
            let new = Volumes::create(scratch.path(), &name, false, false);
            let _ = fs::remove_dir_all(&new.data);
            let command = new.command(&chain, id, &["-j1"]);
            volumes.replace(Some(new));
            command
        });
        let volumes = volumes.into_inner().unwrap();
        assert_success(&volumes.restore(&chain, id, &["-I", "checksum"]));
        let when = format!("killed before {}", met.step);
        assert_same(&states[1], &volumes.state(scratch.path()), &when);
        for image in volumes.images {
            fs::remove_file(image).unwrap();
        }
    }
}
