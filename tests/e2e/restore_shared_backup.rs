//! Backups of a cluster on shared storage are listed, validated, merged and restored. Directories
//! stand for the volume groups here; that they may be volumes is told elsewhere.

use crate::chain::ChainOfBackups;
use crate::cluster::INSTANCE;
use crate::faults::{Fault, Planned, meet, steps_of};
use crate::merge_chain::copy_of;
use crate::shared_backup::{TABLESPACE, set_shared, share, state_of_files, state_of_shared};
use crate::support::{assert_success, command, gs_probackup};
use crate::take_full_backup::check_independently;
use gs_probackup::command::restore::{self, IncrementalMode};
use gs_probackup::command::shared_storage::SharedStorage;
use gs_probackup::command::validate::CheckOptions;
use gs_probackup::command::{Error, RecoveryTarget};
use gs_probackup::format::restore_mark::{RESTORE_MARK, RESTORE_MARK_VERSION, RestoreMark};
use gs_probackup::format::seal::Seal;
use gs_probackup::format::shared_control::parse_shared;
use gs_probackup::io::EngineChoice;
use gs_probackup::monitor::CollectingMonitor;
use gs_probackup::storage::Posix;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

type State = BTreeMap<String, (u32, u64)>;

/// Where a cluster is restored to.
struct Target {
    data: PathBuf,
    groups: Vec<PathBuf>,
}

impl Target {
    /// Empty places; with one group, it is for data and logs.
    fn create(scratch: &Path, name: &str, groups: &[&str]) -> Target {
        let place = |part: &str| {
            let path = scratch.join(format!("{name}.{part}"));
            fs::create_dir(&path).unwrap();
            path
        };
        Target {
            data: place("pgdata"),
            groups: groups.iter().map(|group| place(group)).collect(),
        }
    }

    fn shared(&self) -> SharedStorage {
        let open = |path: &PathBuf| Arc::new(Posix::open(path).unwrap());
        SharedStorage {
            data: open(&self.groups[0]),
            log: self.groups.get(1).map(|path| open(path) as _),
            data_group: "data".to_owned(),
            log_group: self.groups.get(1).map_or("data", |_| "log").to_owned(),
            instance_id: None,
        }
    }

    fn restore(&self, catalog: &Path, id: &str, mode: IncrementalMode) -> Result<(), Error> {
        let options = restore::Options {
            catalog: catalog.to_owned(),
            instance: INSTANCE.to_owned(),
            data_directory: Some(self.data.clone()),
            shared: None,
            backup_id: Some(id.parse().unwrap()),
            target: RecoveryTarget::default(),
            archive_dir: None,
            restore_command: None,
            tablespace_mapping: Vec::new(),
            external_mapping: Vec::new(),
            skip_external_dirs: false,
            incremental_mode: mode,
            validate: true,
            force: false,
            sync: true,
            check: CheckOptions {
                threads: 2,
                skip_block_validation: false,
                engine: EngineChoice::Auto,
                cancel: Arc::new(AtomicBool::new(false)),
                storage: None,
            },
        };
        let monitor = CollectingMonitor::default();
        restore::run_on(&options, Some(self.shared()), &monitor)
    }

    fn state(&self) -> State {
        let mut trees = vec![&*self.data];
        trees.extend(self.groups.iter().map(PathBuf::as_path));
        state_of_shared(&trees)
    }
}

fn assert_same(expected: &State, found: &State, when: &str) {
    for (path, state) in expected {
        assert_eq!(found.get(path), Some(state), "{when}: {path}");
    }
    for path in found.keys() {
        assert!(expected.contains_key(path), "{when}: {path} is too much");
    }
}

/// A chain of a cluster on shared storage, and the state at each of its backups.
fn chain() -> (ChainOfBackups, Vec<State>) {
    let none: &[&str] = &["--no-validate"];
    let zlib: &[&str] = &["--no-validate", "--compress-algorithm=zlib"];
    let chain = ChainOfBackups::create_lean(&[none, zlib, none]);
    let state = |id: &String| {
        let (data, tablespace) = chain.cluster.restore(id, &format!("{id}.files"));
        state_of_files(&data, &tablespace)
    };
    let states = chain.ids.iter().map(state).collect();
    share(&chain);
    (chain, states)
}

fn run(chain: &ChainOfBackups, words: &[&str]) -> crate::support::Output {
    let mut all = words.to_vec();
    all.extend(["--instance", INSTANCE]);
    gs_probackup(&all, &chain.cluster.catalog)
}

#[test]
fn a_chain_of_a_shared_cluster_comes_back_at_each_member_and_merged() {
    let (chain, states) = chain();
    assert_success(&run(&chain, &["validate"]));
    for id in &chain.ids {
        check_independently(&chain.cluster.backup_path(id));
    }
    let shown = run(&chain, &["show"]);
    assert_eq!(shown.stdout.matches(" DSS ").count(), 3, "{}", shown.stdout);
    let scratch = tempfile::tempdir().unwrap();
    let two = Target::create(scratch.path(), "two", &["data", "log"]);
    two.restore(&chain.cluster.catalog, &chain.ids[2], IncrementalMode::None)
        .unwrap();
    assert_same(&states[2], &two.state(), "two groups");
    let link = |name: &str| fs::read_link(two.groups[0].join(name)).unwrap();
    assert_eq!(link("pg_xlog"), Path::new("+log/pg_xlog"));
    assert_eq!(link("pg_replication"), Path::new("+log/pg_replication"));
    let tablespaces = fs::read_dir(two.groups[0].join("pg_tblspc")).unwrap();
    let tablespaces: Vec<PathBuf> = tablespaces
        .map(|entry| fs::read_link(entry.unwrap().path()).unwrap())
        .collect();
    assert_eq!(tablespaces, [Path::new("+data").join(TABLESPACE)]);
    let control = fs::read(two.groups[0].join("pg_control")).unwrap();
    assert_eq!(parse_shared(&control, 0).unwrap().reformer.list_stable, 0);

    let one = Target::create(scratch.path(), "one", &["data"]);
    one.restore(&chain.cluster.catalog, &chain.ids[1], IncrementalMode::None)
        .unwrap();
    assert_same(&states[1], &one.state(), "one group");
    assert!(
        one.groups[0]
            .join("pg_xlog")
            .symlink_metadata()
            .unwrap()
            .is_dir()
    );

    // Back to an older state, in place.
    let foreign = two.groups[1].join("of another");
    fs::write(&foreign, b"kept").unwrap();
    fs::write(two.groups[0].join("base/4711"), b"too much").unwrap();
    // A server would take this one for the control file.
    fs::write(two.groups[0].join("pg_control.backup"), b"older").unwrap();
    two.restore(
        &chain.cluster.catalog,
        &chain.ids[0],
        IncrementalMode::Checksum,
    )
    .unwrap();
    fs::remove_file(foreign).unwrap();
    assert_same(&states[0], &two.state(), "in place");

    assert_success(&run(&chain, &["merge", "-i", chain.last()]));
    assert_success(&run(&chain, &["validate"]));
    check_independently(&chain.cluster.backup_path(chain.last()));
    let merged = Target::create(scratch.path(), "merged", &["data", "log"]);
    merged
        .restore(&chain.cluster.catalog, chain.last(), IncrementalMode::None)
        .unwrap();
    assert_same(&states[2], &merged.state(), "merged");
    assert_success(&run(&chain, &["delete", "-i", chain.last()]));
    assert!(!chain.cluster.backup_path(chain.last()).exists());
}

#[test]
fn a_shared_backup_goes_only_where_nothing_is_or_what_an_interrupted_restore_left() {
    let (chain, states) = chain();
    let scratch = tempfile::tempdir().unwrap();
    let id = &chain.ids[0];
    for tree in ["data", "log", "pgdata"] {
        let target = Target::create(scratch.path(), tree, &["data", "log"]);
        let path = scratch.path().join(format!("{tree}.{tree}"));
        fs::write(path.join("x"), b"").unwrap();
        let error = target.restore(&chain.cluster.catalog, id, IncrementalMode::None);
        let expected = format!("Restore destination is not empty: \"{}\"", path.display());
        assert_eq!(error.unwrap_err().to_string(), expected);
        // Whose it is cannot be told.
        let error = target.restore(&chain.cluster.catalog, id, IncrementalMode::Checksum);
        assert!(matches!(error, Err(Error::IncrementalImpossible { .. })));
        fs::remove_file(path.join("x")).unwrap();
        fs::create_dir(target.groups[0].join(".recycle")).unwrap();
        target
            .restore(&chain.cluster.catalog, id, IncrementalMode::None)
            .unwrap();
    }
    // Interrupted while files were written, and while the control file was.
    let target = Target::create(scratch.path(), "again", &["data", "log"]);
    target
        .restore(&chain.cluster.catalog, id, IncrementalMode::None)
        .unwrap();
    let control = target.groups[0].join("pg_control");
    let whole = fs::read(&control).unwrap();
    let mark = RestoreMark {
        version: RESTORE_MARK_VERSION,
        system_identifier: parse_shared(&whole, 0).unwrap().control.system_identifier,
        backup_id: id.clone(),
        shift_lsn: None,
    };
    for left in [0, 8192, whole.len()] {
        fs::remove_file(target.data.join("postgresql.conf")).unwrap();
        fs::write(target.groups[0].join("base/1/half.tmp"), b"half").unwrap();
        fs::write(target.data.join(RESTORE_MARK), mark.encode()).unwrap();
        match left {
            0 => fs::remove_file(&control).unwrap(),
            left => {
                let mut bytes = whole[..left].to_vec();
                bytes[..8192].fill(0);
                fs::write(&control, bytes).unwrap();
            }
        }
        target
            .restore(&chain.cluster.catalog, id, IncrementalMode::Checksum)
            .unwrap();
        assert_same(&states[0], &target.state(), "repeated");
        assert_eq!(fs::read(&control).unwrap(), whole);
    }
}

#[test]
fn damage_of_shared_files_is_found_and_storage_of_another_kind_told() {
    let (chain, _) = chain();
    let id = &chain.ids[0];
    let backup = chain.cluster.backup_path(id);
    let is_found = |path: &str, at: u64| {
        let path = backup.join("dssdata").join(path);
        let before = fs::read(&path).unwrap();
        let mut bytes = before.clone();
        let at = usize::try_from(at).unwrap();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        let output = run(&chain, &["validate", "-i", id]);
        assert_eq!(output.code, Some(1), "{}: {output:#?}", path.display());
        fs::write(&path, before).unwrap();
        assert_success(&run(&chain, &["validate", "-i", id]));
    };
    is_found("pg_control", 40);
    is_found("pg_control", 64 * 8192 + 16);
    is_found("pg_replication/pg_ss_ctl_info", 0);
    let segment = fs::read_dir(backup.join("dssdata/pg_xlog")).unwrap();
    let segments = segment.map(|entry| entry.unwrap().file_name());
    let segment = segments
        .map(|name| name.into_string().unwrap())
        .find(|name| name.len() == 24)
        .unwrap();
    is_found(&format!("pg_xlog/{segment}"), 30);
    // A file that is in the wrong tree is one too much and one too few.
    let (shared, local) = (
        backup.join("dssdata/pg_control"),
        backup.join("database/pg_control"),
    );
    fs::rename(&shared, &local).unwrap();
    let output = run(&chain, &["validate", "-i", id]);
    assert_eq!(output.code, Some(1), "{output:#?}");
    fs::rename(local, shared).unwrap();
    assert_success(&run(&chain, &["validate"]));

    let conf = backup.parent().unwrap().join("pg_probackup.conf");
    set_shared(&conf, false);
    let output = run(&chain, &["validate"]);
    let told = format!(
        "WARNING: Backup {id} is not suit for instance {INSTANCE}, because they have different \
         storage type. Change it to CORRUPT and skip validation."
    );
    assert!(output.stderr.contains(&told), "{output:#?}");
    assert_eq!(output.code, Some(1));
    // What is said now counts more than the settings.
    for said in ["--vgname=+data,+log", "--enable-dss --vgname=+data,+log"] {
        let words: Vec<&str> = ["validate"].into_iter().chain(said.split(' ')).collect();
        let output = run(&chain, &words);
        assert_success(&output);
        assert!(!output.stderr.contains("is not suit"), "{output:#?}");
    }
    assert_eq!(run(&chain, &["validate"]).code, Some(1));
    let data = chain.cluster.scratch.path().join("new");
    let data = data.display().to_string();
    let words = ["restore", "-D", &data, "-i", id, "--force"];
    let output = run(&chain, &words);
    assert_eq!(output.code, Some(1));
    assert!(
        output.stderr.contains("another kind of storage"),
        "{output:#?}"
    );
    assert!(!Path::new(&data).exists());
    set_shared(&conf, true);
    assert_success(&run(&chain, &["validate"]));
}

/// Steps at which a merge is killed, unless the environment names another number.
const KILLS: usize = 8;

/// Steps at the end of a merge at which it is killed: at every fourth, unless the environment names
/// a number of kills.
const LAST_STEPS: usize = 32;

/// Seals a backup as it is.
fn seal(backup: &Path) {
    let Ok(control) = fs::read_to_string(backup.join("backup.control")) else {
        return;
    };
    let pg_control = fs::read(backup.join("dssdata/pg_control")).unwrap();
    let seal = Seal::new(&control, Some(&pg_control));
    fs::write(backup.join("backup.seal"), seal.encode()).unwrap();
}

/// Checks that the result of a merge says that its pages are judged.
fn assert_sealed(catalog: &Path, id: &str, when: &str) {
    let backup = catalog.join("backups").join(INSTANCE).join(id);
    let bytes = fs::read(backup.join("backup.seal")).unwrap_or_else(|e| panic!("{when}: {e}"));
    let seal = Seal::parse(&bytes).unwrap().unwrap();
    let control = fs::read(backup.join("backup.control")).unwrap();
    assert!(seal.matches_control(&control), "{when}");
    assert!(!backup.join("merge.seal").exists(), "{when}");
}

#[test]
fn a_merge_of_shared_backups_that_was_killed_loses_nothing_and_is_finished() {
    let (chain, states) = chain();
    let scratch = tempfile::tempdir().unwrap();
    let words = ["merge", "--instance", INSTANCE, "-i", chain.last(), "-j1"];
    let place = |name: &str| {
        let place = scratch.path().join(name);
        fs::create_dir(&place).unwrap();
        let catalog = copy_of(&chain, &place);
        for backup in fs::read_dir(catalog.join("backups").join(INSTANCE)).unwrap() {
            seal(&backup.unwrap().path());
        }
        catalog
    };
    let counted = place("counted");
    let steps = steps_of(&mut command(&words, &counted)).len();
    assert_sealed(&counted, chain.last(), "unharmed");
    // At the end hardly anything is left to do but to say what the result is.
    let kills = std::env::var("GS_SHARED_KILLS").ok();
    let stride = if kills.is_some() { 1 } else { 4 };
    for left in (0..LAST_STEPS).step_by(stride) {
        let fault = Planned::among_all(Fault::Kill(steps - left));
        let turns = std::cell::Cell::new(0);
        let catalog = std::cell::RefCell::new(PathBuf::new());
        let met = meet(&fault, || {
            turns.set(turns.get() + 1);
            catalog.replace(place(&format!("end.{left}.{}", turns.get())));
            command(&words, &catalog.borrow())
        });
        let catalog = catalog.into_inner();
        assert_success(&gs_probackup(&words, &catalog));
        assert_sealed(&catalog, chain.last(), &format!("before {}", met.step));
    }
    let kills = kills.map_or(KILLS, |kills| kills.parse().unwrap());
    for number in 0..kills {
        let at = 1 + number * (steps - 1) / (kills - 1).max(1);
        let turns = std::cell::Cell::new(0);
        let catalog = std::cell::RefCell::new(PathBuf::new());
        let met = meet(&Planned::among_all(Fault::Kill(at)), || {
            turns.set(turns.get() + 1);
            catalog.replace(place(&format!("{number}.{}", turns.get())));
            command(&words, &catalog.borrow())
        });
        let (catalog, when) = (catalog.into_inner(), format!("before {}", met.step));
        let target = Target::create(scratch.path(), &format!("{number}.left"), &["data", "log"]);
        target
            .restore(&catalog, chain.last(), IncrementalMode::None)
            .unwrap();
        assert_same(&states[2], &target.state(), &when);
        assert_success(&gs_probackup(&words, &catalog));
        assert_sealed(&catalog, chain.last(), &when);
        let target = Target::create(scratch.path(), &format!("{number}.done"), &["data", "log"]);
        target
            .restore(&catalog, chain.last(), IncrementalMode::None)
            .unwrap();
        assert_same(&states[2], &target.state(), &when);
    }
}
