//! One command does what the documented procedure does on the primary of a cluster on shared
//! storage: it wipes the volumes, makes the groups, empties the data directory and restores. It
//! does so only where nothing speaks against it, and again after it was killed.

use crate::chain::ChainOfBackups;
use crate::cluster::INSTANCE;
use crate::faults::{Fault, Planned, meet, on_both_cores, steps_of};
use crate::restore_shared_volumes::{State, Volumes, assert_same, chain};
use crate::shared_cluster::SharedCluster;
use crate::support::{Output, assert_success, bare, command, run};
use rustix::fs::FlockOperation;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes of a unit of the groups that tests make.
const AU_BYTES: u64 = 2 << 20;

/// The command on these volumes, with more words.
fn dss_restore(chain: &ChainOfBackups, volumes: &Volumes, more: &[&str]) -> Command {
    dss_restore_to(chain, &volumes.data, &volumes.groups(), more)
}

fn dss_restore_to(
    chain: &ChainOfBackups,
    data: &Path,
    groups: &[String],
    more: &[&str],
) -> Command {
    let data = data.display().to_string();
    let words = ["dss-restore", "--instance", INSTANCE, "-D", &data];
    let mut command = command(&words, &chain.cluster.catalog);
    command.args(groups).args(more).env_remove("DSS_HOME");
    command
}

/// A cluster as it is before: the increment of the chain, with certificates of its own.
fn used(chain: &ChainOfBackups, scratch: &Path, name: &str) -> Volumes {
    let volumes = Volumes::create(scratch, name, false, false);
    assert_success(&volumes.restore(chain, &chain.ids[1], &["--no-sync"]));
    let own = |name: &str, text: &str| fs::write(volumes.data.join(name), text).unwrap();
    own("server.key", "own key");
    own("postgresql.conf", "own settings");
    own("postmaster.opts", "gaussdb");
    let mode = fs::Permissions::from_mode(0o400);
    fs::set_permissions(volumes.data.join("server.key"), mode).unwrap();
    volumes
}

/// The data directory of a standby.
fn standby(scratch: &Path, name: &str) -> PathBuf {
    let directory = scratch.join(name);
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("PG_VERSION"), "9.2\n").unwrap();
    fs::write(directory.join("server.crt"), "of the standby").unwrap();
    directory
}

/// Digests of the images and of the data directory's files.
fn digests(volumes: &Volumes) -> BTreeMap<PathBuf, String> {
    fn below(path: &Path, found: &mut BTreeMap<PathBuf, String>) {
        if path.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                below(&entry.unwrap().path(), found);
            }
            return;
        }
        let mut hasher = blake3::Hasher::new();
        let mut file = fs::File::open(path).unwrap();
        std::io::copy(&mut file, &mut hasher).unwrap();
        found.insert(path.to_owned(), hasher.finalize().to_string());
    }
    let mut found = BTreeMap::new();
    for path in volumes.images.iter().chain([&volumes.data]) {
        below(path, &mut found);
    }
    found
}

#[track_caller]
fn assert_refused(output: &Output, error: &str) {
    assert_eq!(output.code, Some(1), "{output:#?}");
    assert!(output.stderr.contains(error), "{error}: {output:#?}");
}

/// The state of a backup, without the files that another cluster keeps.
fn without_own(mut state: State) -> State {
    state.remove("server.key");
    state.remove("postgresql.conf");
    state
}

#[test]
fn a_used_cluster_is_wiped_and_restored_with_one_command() {
    let (chain, states) = chain();
    let scratch = tempfile::tempdir().unwrap();
    let volumes = used(&chain, scratch.path(), "used");
    let standby = standby(scratch.path(), "standby");
    let before = digests(&volumes);
    let (id, set_aside) = (&chain.ids[0], format!("--set-aside={}", standby.display()));
    let words = ["-i", id, "--other-cluster", &set_aside, "-j2"];
    let with = |more: &[&str]| {
        let words: Vec<&str> = words.iter().chain(more).copied().collect();
        run(&mut dss_restore(&chain, &volumes, &words))
    };
    let planned = with(&["--dry-run"]);
    check_plan(&planned, &with(&["--dry-run", "--format=json"]), id);
    assert_refused(&with(&[]), "confirm with --yes");
    assert!(digests(&volumes) == before, "it was changed");
    assert!(!scratch.path().join("standby.kept").exists());

    let restored = with(&["--yes"]);
    assert_success(&restored);
    assert!(
        restored.stdout.starts_with(&planned.stdout),
        "{restored:#?}"
    );
    assert!(
        restored.stdout.contains("     cm_ctl start\n"),
        "{restored:#?}"
    );
    assert!(
        !restored.stderr.contains("without validation"),
        "{restored:#?}"
    );
    let found = volumes.state(scratch.path());
    assert_same(
        &without_own(states[0].clone()),
        &without_own(found),
        "another cluster",
    );
    let own = |name: &str| fs::read_to_string(volumes.data.join(name)).unwrap();
    assert_eq!(
        (&*own("server.key"), &*own("postgresql.conf")),
        ("own key", "own settings")
    );
    let mode = fs::metadata(volumes.data.join("server.key")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o7777, 0o400);
    assert_eq!(fs::read_dir(&standby).unwrap().count(), 0);
    let kept = fs::read_to_string(scratch.path().join("standby.kept/server.crt"));
    assert_eq!(kept.unwrap(), "of the standby");
    assert!(!scratch.path().join("used.pgdata.dss-restore").exists());

    restore_again(&chain, &states, &volumes, scratch.path());
}

/// The plan of a run that keeps three files and sets a directory aside.
fn check_plan(planned: &Output, json: &Output, id: &str) {
    assert_success(planned);
    let text = &planned.stdout;
    let steps = text.lines().map(|line| line.split("  ").next().unwrap());
    let mut expected = vec!["validate"];
    expected.extend(["save"; 3]);
    expected.extend([
        "set aside",
        "wipe",
        "wipe",
        "make",
        "make",
        "empty",
        "restore",
    ]);
    expected.extend(["put back"; 3]);
    assert_eq!(steps.collect::<Vec<_>>(), expected, "{text}");
    let column = |line: &str| line.rfind("  ").map(|at| at + 2);
    let columns: Vec<_> = text.lines().map(column).collect();
    assert!(columns.windows(2).all(|pair| pair[0] == pair[1]), "{text}");
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["backup"], *id);
    assert_eq!(json["steps"].as_array().unwrap().len(), expected.len());
}

/// The same cluster: all is as in the backup. The units stay as they were, or become others.
fn restore_again(chain: &ChainOfBackups, states: &[State], volumes: &Volumes, scratch: &Path) {
    let more = ["-i", &chain.ids[1], "--yes", "--format=json"];
    let restored = run(&mut dss_restore(chain, volumes, &more));
    assert_success(&restored);
    let rest: serde_json::Value = serde_json::from_str(&restored.stdout).unwrap();
    let last = rest.as_array().unwrap().last().unwrap();
    assert_eq!(last["commands"], serde_json::json!(["cm_ctl start"]));
    assert_same(&states[1], &volumes.state(scratch), "the same cluster");
    let unit = |bytes: u64| format!("units of {bytes} bytes");
    assert!(volumes.dss(&["stat"]).stdout.contains(&unit(AU_BYTES)));
    let more = ["-i", &chain.ids[0], "--yes", "--au-size=4MB"];
    assert_success(&run(&mut dss_restore(chain, volumes, &more)));
    assert_same(&states[0], &volumes.state(scratch), "other units");
    assert!(volumes.dss(&["stat"]).stdout.contains(&unit(2 * AU_BYTES)));
}

/// An image that looks like a damaged volume.
fn image(directory: &Path, name: &str, bytes: u64) -> PathBuf {
    let path = directory.join(name);
    let file = fs::File::create(&path).unwrap();
    file.set_len(bytes).unwrap();
    file.write_all_at(&[0xa5; 100_000], 0).unwrap();
    path
}

/// Names two volumes of `data`, or one, and one of `log` and `p1`.
fn named(data: &[&PathBuf], log: &Path, other: &Path) -> Vec<String> {
    let data: Vec<String> = data.iter().map(|path| path.display().to_string()).collect();
    vec![
        format!("--vg=data={}", data.join(",")),
        format!("--vg=log={}", log.display()),
        format!("--vg=p1={}", other.display()),
    ]
}

/// Units that each group takes, by the plan.
fn needed_units(chain: &ChainOfBackups, data: &Path, scratch: &Path) -> Vec<u64> {
    let [of_data, log, other] = ["data", "log", "p1"].map(|name| image(scratch, name, 1 << 30));
    let groups = named(&[&of_data], &log, &other);
    let more = ["--au-size=2MB", "--dry-run", "-i", &chain.ids[1]];
    let planned = run(&mut dss_restore_to(chain, data, &groups, &more));
    assert_success(&planned);
    let lines = planned.stdout.lines();
    let units = lines.filter_map(|line| line.split("the backup takes ").nth(1));
    units.map(|units| units.parse().unwrap()).collect()
}

#[test]
fn whole_groups_of_several_volumes_are_made_as_large_as_is_needed_and_no_larger() {
    let (chain, states) = chain();
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("pgdata");
    let [of_data, of_log, 0] = needed_units(&chain, &data, scratch.path())[..] else {
        panic!("the third group is for nothing");
    };
    // Head, ring and the first unit of the table; another volume has a head.
    let (first, other) = (2 + 32 + 1, 2);
    let split = of_data / 3;
    let create = |missing: u64| {
        let units = [
            ("first", first + split),
            ("second", other + of_data - split - missing),
            ("log", first + of_log),
            ("p1", first),
        ];
        units.map(|(name, units)| image(scratch.path(), name, units * AU_BYTES))
    };
    let more = ["--au-size=2MB", "--yes", "-i", &chain.ids[1]];
    let [first, second, log, other] = create(1);
    let groups = named(&[&first, &second], &log, &other);
    let refused = run(&mut dss_restore_to(&chain, &data, &groups, &more));
    assert_refused(&refused, "the backup does not fit into volume group data");
    for path in [&first, &second, &log, &other] {
        let mut head = [0; 100_000];
        let file = fs::File::open(path).unwrap();
        file.read_exact_at(&mut head, 0).unwrap();
        assert_eq!(head, [0xa5; 100_000]);
    }
    create(0);
    assert_success(&run(&mut dss_restore_to(&chain, &data, &groups, &more)));
    let dss = |words: &[&str]| {
        let mut command = bare(&["dss"]);
        command.args(words).args(&groups).env_remove("DSS_HOME");
        assert_success(&run(&mut command));
    };
    dss(&["check"]);
    let mut trees = vec![data.clone()];
    for group in ["data", "log"] {
        let copy = scratch.path().join(format!("copy of {group}"));
        let (group, target) = (format!("+{group}"), copy.display().to_string());
        dss(&["cp", "--recursive", "--no-sync", &group, &target]);
        trees.push(copy);
    }
    let trees: Vec<&Path> = trees.iter().map(PathBuf::as_path).collect();
    let found = crate::shared_backup::state_of_shared(&trees);
    assert_same(&states[1], &found, "exactly as much as is needed");
}

/// Where the CRC of a server's control file page is, if it is one.
fn crc_at(page: &[u8]) -> Option<usize> {
    let is_crc = |end: &usize| {
        let stored: [u8; 4] = page[*end..*end + 4].try_into().unwrap();
        crc32c::crc32c(&page[..*end]) == u32::from_le_bytes(stored)
    };
    (64..512).step_by(4).find(is_crc)
}

const STATE: std::ops::Range<usize> = 20..24;

/// Says of the cluster on these volumes that it runs.
fn set_in_production(volumes: &Volumes) {
    change_control(volumes, |page| {
        page[STATE].copy_from_slice(&6_u32.to_le_bytes());
    });
}

/// Changes the pages of the control file on these volumes.
fn change_control(volumes: &Volumes, change: impl Fn(&mut [u8])) {
    let image = fs::File::options();
    let image = image
        .clone()
        .read(true)
        .write(true)
        .open(&volumes.images[0]);
    let image = image.unwrap();
    let mut page = [0; 8192];
    let mut found = 0;
    // A file begins with a unit.
    for at in (0..1 << 9).map(|unit| unit * AU_BYTES) {
        image.read_exact_at(&mut page, at).unwrap();
        let is_down = page[STATE] == 1_u32.to_le_bytes();
        let Some(end) = crc_at(&page).filter(|_| is_down) else {
            continue;
        };
        change(&mut page);
        let crc = crc32c::crc32c(&page[..end]);
        page[end..end + 4].copy_from_slice(&crc.to_le_bytes());
        image.write_all_at(&page, at).unwrap();
        found += 1;
    }
    assert!(found > 0, "no control file was found");
}

/// A cluster to be replaced, and a home of a server of storage.
struct Ground<'a> {
    chain: &'a ChainOfBackups,
    scratch: &'a Path,
    volumes: &'a Volumes,
    home: PathBuf,
}

impl Ground<'_> {
    fn run(&self, more: &[&str]) -> Output {
        run(&mut dss_restore(self.chain, self.volumes, more))
    }

    fn refuse_words(&self) {
        let volumes = self.volumes;
        for (more, error) in [
            (&["data"][..], "takes options only, not \"data\""),
            (&["--force"], "--force is of no use"),
            (&["-I", "checksum"], "--incremental-mode is of no use"),
            (&["--au-size=3MB"], "allocation unit"),
            (&["--au-size=64MB"], "does not fit into volume group data"),
            (&["--set-aside=/nosuch/dn"], "/nosuch"),
            (&["-i", "AAAAAA"], "AAAAAA"),
        ] {
            let more: Vec<&str> = ["--yes"].iter().chain(more).copied().collect();
            assert_refused(&self.run(&more), error);
        }
        let silent = self.run(&["--format=json"]);
        assert_refused(&silent, "with --format=json nothing is asked");
        let overlap = format!("--set-aside={}", volumes.data.display());
        assert_refused(&self.run(&["--yes", &overlap]), "overlaps");
    }

    /// The devices are the named ones, and those of the groups; nobody else has them.
    fn refuse_devices(&self) {
        let [data, log] = &self.volumes.images;
        let with = |groups: &[String]| {
            let mut command = dss_restore_to(self.chain, &self.volumes.data, groups, &["--yes"]);
            run(command.env("DSS_HOME", &self.home))
        };
        assert_refused(&with(&[]), "name the volumes that are to be wiped");
        let swapped = [
            format!("--vg=data={}", log.display()),
            format!("--vg=log={}", data.display()),
        ];
        assert_refused(&with(&swapped), "is of volume group log");
        let one = &self.volumes.groups()[..1];
        assert_refused(&with(one), "vglog: \"+log\"");
        let held = fs::File::open(log).unwrap();
        rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
        for more in ["--yes", "--dry-run"] {
            assert_refused(&self.run(&[more]), "in use by another process");
        }
    }

    /// Only a data directory is emptied, and none that holds what is needed.
    fn refuse_directories(&self) {
        let other = self.scratch.join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("file"), "x").unwrap();
        let with = |data: &Path| {
            let groups = self.volumes.groups();
            run(&mut dss_restore_to(self.chain, data, &groups, &["--yes"]))
        };
        assert_refused(&with(&other), "no data directory");
        fs::create_dir(other.join("global")).unwrap();
        fs::write(other.join("PG_VERSION"), "9.2\n").unwrap();
        fs::write(other.join("global/pg_control"), "x").unwrap();
        assert_refused(&with(&other), "of a cluster on file systems");
        assert_refused(&with(self.scratch), "overlaps");
    }

    fn refuse_servers(&self) {
        let with = |more: &str| {
            let mut command = dss_restore(self.chain, self.volumes, &[more]);
            run(command.env("DSS_HOME", &self.home))
        };
        let server = UnixListener::bind(self.home.join(".dss_unix_d_socket")).unwrap();
        assert_refused(&with("--yes"), "runs\nHINT: stop it first");
        drop(server);
        let warned = with("--dry-run");
        assert_success(&warned);
        let warning = "volume group p1 of the server's configuration was not named";
        assert!(warned.stderr.contains(warning), "{warned:#?}");
        let pid = self.volumes.data.join("postmaster.pid");
        fs::write(&pid, format!("{}\n", std::process::id())).unwrap();
        assert_refused(&self.run(&["--yes"]), "Postmaster with pid");
        fs::remove_file(&pid).unwrap();
    }

    fn refuse_backups(&self) {
        let id = &self.chain.ids[0];
        let directory = self.chain.cluster.backup_path(id);
        let record = directory.join("backup.control");
        let text = fs::read_to_string(&record).unwrap();
        fs::write(&record, text.replace("status = OK", "status = CORRUPT")).unwrap();
        for more in [&["--yes"][..], &["--dry-run", "-i", id]] {
            assert_refused(&self.run(more), "CORRUPT");
        }
        fs::write(&record, text).unwrap();
        // What only validation finds.
        let stored = directory.join("dssdata/pg_replication/pg_ss_ctl_info");
        let good = fs::read(&stored).unwrap();
        fs::write(&stored, b"damage").unwrap();
        assert_success(&self.run(&["--dry-run", "-i", id]));
        assert_refused(&self.run(&["--yes", "-i", id]), id);
        fs::write(&stored, good).unwrap();
        let words = ["validate", "--instance", INSTANCE];
        let catalog = &self.chain.cluster.catalog;
        assert_success(&run(&mut command(&words, catalog)));
    }
}

#[test]
fn nothing_is_wiped_where_anything_speaks_against_it() {
    let (chain, _) = chain();
    let scratch = tempfile::tempdir().unwrap();
    let volumes = used(&chain, scratch.path(), "used");
    let home = scratch.path().join("dss");
    fs::create_dir_all(home.join("cfg")).unwrap();
    let [data, log] = volumes.images.each_ref().map(|image| image.display());
    let conf = format!("data:{data}\nlog:{log}\np1:/dev/x\n");
    fs::write(home.join("cfg/dss_vg_conf.ini"), conf).unwrap();
    let ground = Ground {
        chain: &chain,
        scratch: scratch.path(),
        volumes: &volumes,
        home,
    };
    let before = digests(&volumes);
    ground.refuse_words();
    ground.refuse_devices();
    ground.refuse_directories();
    ground.refuse_servers();
    ground.refuse_backups();
    assert!(digests(&volumes) == before, "it was changed");
    assert!(!scratch.path().join("used.pgdata.dss-restore").exists());
    // Another cluster is lost only to who knows that it is another one.
    change_control(&volumes, |page| page[0] ^= 1);
    assert_refused(&ground.run(&["--yes"]), "say --other-cluster");
    change_control(&volumes, |page| page[0] ^= 1);
    // Whatever else it is, a cluster that was not shut down may run on another host.
    set_in_production(&volumes);
    let before = digests(&volumes);
    assert_refused(&ground.run(&["--yes"]), "its state is \"in production\"");
    assert!(digests(&volumes) == before, "it was changed");
    // Nor what an interrupted run restored once a server ran on it, from another host perhaps.
    let record = scratch.path().join("used.pgdata.dss-restore");
    fs::create_dir(&record).unwrap();
    let mut devices = volumes.images.each_ref().map(|image| image.display());
    devices.sort_by_key(ToString::to_string);
    let [first, second] = devices;
    let progress = format!("stage 3\nother-cluster 0\ndevice {first}\ndevice {second}\n");
    fs::write(record.join("progress"), progress).unwrap();
    fs::write(record.join("saved"), "").unwrap();
    fs::remove_file(volumes.data.join("postmaster.opts")).unwrap();
    assert_refused(&ground.run(&["--yes"]), "its state is \"in production\"");
    fs::remove_dir_all(&record).unwrap();
    assert_success(&volumes.dss(&["wipe", "--yes"]));
    assert_success(&ground.run(&["--yes", "--au-size=2MB"]));
}

#[test]
fn it_asks_on_a_terminal() {
    let (chain, _) = chain();
    let scratch = tempfile::tempdir().unwrap();
    let volumes = used(&chain, scratch.path(), "used");
    let before = digests(&volumes);
    let asked = dss_restore(&chain, &volumes, &["-i", &chain.ids[0]]);
    let words = std::iter::once(asked.get_program()).chain(asked.get_args());
    let line: String = words
        .map(|word| format!("'{}' ", word.to_str().unwrap()))
        .collect();
    let answer = |text: &str| {
        // `script` gives its child a terminal, and passes on what it gets itself.
        let typed = scratch.path().join("typed");
        fs::write(&typed, format!("{text}\n")).unwrap();
        let output = Command::new("script")
            .args(["--quiet", "--return", "--command", &line, "/dev/null"])
            .env_remove("DSS_HOME")
            .stdin(fs::File::open(typed).unwrap())
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let (code, said) = answer("no");
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("data directory will be lost. Type yes: "),
        "{said}"
    );
    assert!(
        said.contains("not confirmed; nothing was changed"),
        "{said}"
    );
    assert!(digests(&volumes) == before, "it was changed");
    let (code, said) = answer("yes");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("The primary is restored."), "{said}");
}

#[test]
fn a_cluster_whose_instances_have_logs_of_their_own_comes_back() {
    let Some(cluster) = SharedCluster::create_as(1 << 20, Some(3)) else {
        return;
    };
    let id = cluster.back_up("FULL", &[]);
    let trees = || {
        ["data", "log"].map(|group| {
            let mut tree = cluster.seen(group);
            // Of the backup's own making, of another instance, or elsewhere in such clusters.
            tree.retain(|path, _| {
                let is_wal = path.contains('/') && path.starts_with("pg_xlog");
                let is_elsewhere = path.contains("63") || path.starts_with("pg_replication");
                path != "pg_control" && !is_elsewhere && !is_wal
            });
            tree
        })
    };
    let before = trees();
    let data = cluster.data().display().to_string();
    let words = [
        "dss-restore",
        "-i",
        &id,
        "-D",
        &data,
        "--yes",
        "--instance-id=3",
    ];
    assert_success(&cluster.run(&words, &["--no-sync"]));
    let after = trees();
    for (before, after) in before.iter().zip(&after) {
        assert!(before.contains_key("pg_xlog3"), "{before:?}");
        for (path, seen) in before {
            assert_eq!(after.get(path), Some(seen), "{path}");
        }
        assert_eq!(before.len(), after.len());
    }
    for group in ["data", "log"] {
        cluster.tool("check", group, &[]);
    }
}

/// Steps at which it is stopped, unless the environment says `all` or names a number: of those that
/// a restore has not, and as many of a restore.
const KILLS: usize = 6;

/// Steps to be killed before: numbers, counted from 1.
fn kills(steps: &[String], data: &Path) -> Vec<usize> {
    // Where the restore begins and ends, by the mark in the data directory.
    let mark = |step: &String| step.contains("gs_probackup.restore");
    let begin = steps.iter().position(mark).unwrap();
    let end = steps.iter().rposition(mark).unwrap();
    assert!(steps[end].contains(&data.display().to_string()));
    let own: Vec<usize> = (0..begin).chain(end + 1..steps.len()).collect();
    let wanted = std::env::var("GS_DSS_RESTORE_KILLS").unwrap_or_else(|_| KILLS.to_string());
    let spread = |of: &[usize], count: usize| -> Vec<usize> {
        let place = |number: usize| number * (of.len() - 1) / (count.max(2) - 1);
        (0..count).map(|number| 1 + of[place(number)]).collect()
    };
    let restore: Vec<usize> = (begin..=end).collect();
    let mut kills = match &*wanted {
        "all" => {
            let mut all: Vec<usize> = own.iter().map(|step| step + 1).collect();
            all.extend(spread(&restore, 40));
            all
        }
        number => {
            let count: usize = number.parse().unwrap();
            let mut some = spread(&own, count - count / 3);
            some.extend(spread(&restore, count / 3));
            some
        }
    };
    kills.sort_unstable();
    kills.dedup();
    kills
}

#[test]
fn killed_or_failed_at_any_step_it_is_completed_by_the_same_command() {
    let (chain, states) = chain();
    let scratch = tempfile::tempdir().unwrap();
    let words = |standby: &Path| {
        let words = [
            "-i",
            &chain.ids[0],
            "--other-cluster",
            "--yes",
            "-j1",
            "--no-sync",
        ];
        let mut words: Vec<String> = words.map(str::to_owned).to_vec();
        words.push(format!("--set-aside={}", standby.display()));
        words
    };
    let kept = |scratch: &Path| (scratch.join("standby"), scratch.join("standby.kept"));
    let counted = used(&chain, scratch.path(), "counted");
    let directory = standby(scratch.path(), "standby");
    let all = words(&directory);
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let steps = steps_of(&mut dss_restore(&chain, &counted, &all));
    let kills = kills(&steps, &counted.data);
    for image in &counted.images {
        fs::remove_file(image).unwrap();
    }
    let expected = without_own(states[0].clone());
    on_both_cores(kills.len(), |worker, number| {
        let scratch = scratch.path().join(format!("worker{worker}.{number}"));
        fs::create_dir(&scratch).unwrap();
        let volumes = used(&chain, &scratch, "killed");
        let directory = standby(&scratch, "standby");
        let all = words(&directory);
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let fault = [Fault::Kill, Fault::IoError][number % 2];
        let planned = Planned::among_all(fault(kills[number]));
        let met = meet(&planned, || dss_restore(&chain, &volumes, &all));
        assert_success(&run(&mut dss_restore(&chain, &volumes, &all)));
        let when = format!("stopped before {}", met.step);
        let found = volumes.state(&scratch);
        assert_same(&expected, &without_own(found), &when);
        let own = fs::read_to_string(volumes.data.join("server.key")).unwrap();
        assert_eq!(own, "own key", "{when}");
        let own = fs::read_to_string(volumes.data.join("postgresql.conf")).unwrap();
        assert_eq!(own, "own settings", "{when}");
        let (empty, kept) = kept(&scratch);
        assert_eq!(fs::read_dir(empty).unwrap().count(), 0, "{when}");
        assert_eq!(fs::read_dir(kept).unwrap().count(), 2, "{when}");
        let names = fs::read_dir(&scratch).unwrap().count();
        assert_eq!(names, 5, "{when}: the record stayed");
        fs::remove_dir_all(&scratch).unwrap();
    });
}
