//! A cluster is restored through a server of storage that runs: its library is a stand-in, with a
//! directory of files for each group. The devices hold empty groups, which are looked at only.

use crate::chain::ChainOfBackups;
use crate::cluster::INSTANCE;
use crate::faults::{Fault, Planned, meet, steps_of};
use crate::restore_shared_volumes::{Volumes, assert_same, chain};
use crate::shared_backup::state_of_shared;
use crate::support::{assert_success, command, run};
use gs_probackup::testing::stand_in::StandIn;
use rustix::fs::FlockOperation;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

struct Served {
    stand_in: StandIn,
    data: PathBuf,
}

impl Served {
    fn create(scratch: &Path, name: &str, volumes: &Volumes) -> Served {
        let stand_in = StandIn::build(&[]);
        let home = stand_in.home();
        fs::create_dir(home.join("cfg")).unwrap();
        let [data, log] = &volumes.images;
        let conf = format!("data:{}\nlog:{}\n", data.display(), log.display());
        fs::write(home.join("cfg/dss_vg_conf.ini"), conf).unwrap();
        Served {
            stand_in,
            data: scratch.join(name),
        }
    }

    fn command(&self, chain: &ChainOfBackups, id: &str, more: &[&str]) -> Command {
        let data = self.data.display().to_string();
        let words = [
            "restore",
            "--instance",
            INSTANCE,
            "-i",
            id,
            "-D",
            &data,
            "-j1",
        ];
        let mut command = command(&words, &chain.cluster.catalog);
        let home = self.stand_in.home();
        command
            .args(more)
            .env("DSS_HOME", home)
            .env_remove("LD_LIBRARY_PATH");
        command
    }

    fn groups(&self) -> [PathBuf; 2] {
        ["data", "log"].map(|name| self.stand_in.group(name))
    }
}

#[test]
fn one_restore_at_a_time_goes_through_a_server_and_a_killed_one_is_repeated() {
    let (chain, states) = chain();
    let scratch = tempfile::tempdir().unwrap();
    let bytes = [400 << 20, 200 << 20];
    let volumes = Volumes::create_of(scratch.path(), "served", bytes, false, false);
    let digest = |volumes: &Volumes| {
        let images = volumes.images.each_ref();
        images.map(|image| crc32c::crc32c(&fs::read(image).unwrap()))
    };
    let before = digest(&volumes);
    let id = &chain.ids[1];
    let served = Served::create(scratch.path(), "counted", &volumes);
    // As another run does that goes through this server.
    let home = fs::File::open(served.stand_in.home()).unwrap();
    rustix::fs::flock(&home, FlockOperation::NonBlockingLockExclusive).unwrap();
    let refused = run(&mut served.command(&chain, id, &[]));
    assert_eq!(refused.code, Some(1), "{refused:#?}");
    let said = "another restore goes through the dssserver of";
    assert!(refused.stderr.contains(said), "{refused:#?}");
    for group in served.groups() {
        assert_eq!(fs::read_dir(group).unwrap().count(), 0);
    }
    drop(home);
    let steps = steps_of(&mut served.command(&chain, id, &[])).len();
    let state = |served: &Served| {
        let [data, log] = served.groups();
        state_of_shared(&[&served.data, &data, &log])
    };
    assert_same(&states[1], &state(&served), "through the server");

    let killed = std::cell::RefCell::new(None);
    let met = meet(&Planned::among_all(Fault::Kill(steps * 2 / 3)), || {
        let served = Served::create(scratch.path(), "killed", &volumes);
        let _ = fs::remove_dir_all(&served.data);
        let command = served.command(&chain, id, &[]);
        killed.replace(Some(served));
        command
    });
    let killed = killed.into_inner().unwrap();
    // The lock went with the process.
    assert_success(&run(&mut killed.command(&chain, id, &["-I", "checksum"])));
    assert_same(&states[1], &state(&killed), &format!("before {}", met.step));
    assert_eq!(digest(&volumes), before, "nothing goes past the server");
}
