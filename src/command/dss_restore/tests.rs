//! What is noted beside a restore and said after it; the whole is told end to end.

use super::by_hand::steps;
use super::record::{Record, Stage};
use super::*;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn units() -> BTreeMap<String, u64> {
    BTreeMap::from([("data".to_owned(), 4 << 20), ("log".to_owned(), 8 << 20)])
}

fn devices() -> Vec<String> {
    ["/dev/gauss/data0", "/dev/gauss/log 0"]
        .map(str::to_owned)
        .to_vec()
}

#[test]
fn a_record_keeps_what_was_saved_and_says_how_far_a_run_came() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("server.key"), "own key").unwrap();
    fs::set_permissions(data.join("server.key"), fs::Permissions::from_mode(0o400)).unwrap();
    fs::write(data.join("pg_hba.conf"), "own rules").unwrap();
    fs::write(data.join("postmaster.opts"), "gaussdb").unwrap();
    assert!(Record::of(&data).unwrap().is_none());
    let names = ["server.key", "pg_hba.conf"].map(str::to_owned);
    let mut record = Record::begin(&data, true, units(), devices()).unwrap();
    let error = Record::begin(&data, true, units(), devices()).unwrap_err();
    assert!(matches!(error, Error::TargetInUse { .. }), "{error}");
    record.save(&data, &names).unwrap();
    record::forget_start(&data).unwrap();
    record.advance(Stage::Restoring).unwrap();
    drop(record);

    // The restore put the backup's files there and was killed.
    fs::remove_file(data.join("server.key")).unwrap();
    fs::write(data.join("server.key"), "key of the backup").unwrap();
    fs::write(data.join("pg_hba.conf"), "rules of the backup").unwrap();
    let found = Record::of(&data).unwrap().unwrap();
    assert_eq!(found.stage(), Stage::Restoring);
    assert_eq!(found.au_bytes("log"), Some(8 << 20));
    assert_eq!(found.au_bytes("p1"), None);
    assert_eq!(found.saved().unwrap(), names);
    found.check_usable(&data, true, &devices()).unwrap();
    let error = found.check_usable(&data, false, &devices()).unwrap_err();
    assert!(error.to_string().contains("give it again"), "{error}");
    let error = found
        .check_usable(&data, true, &devices()[..1])
        .unwrap_err();
    assert!(error.to_string().contains("/dev/gauss/log 0"), "{error}");
    fs::write(data.join("postmaster.opts"), "gaussdb").unwrap();
    let error = found.check_usable(&data, true, &devices()).unwrap_err();
    assert!(error.to_string().contains("was started since"), "{error}");
    let again = Record::begin(&data, true, units(), devices()).unwrap();
    assert_eq!(again.stage(), Stage::Restoring);
    again.put_back(&data).unwrap();
    assert_eq!(fs::read(data.join("server.key")).unwrap(), b"own key");
    let mode = fs::metadata(data.join("server.key")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o7777, 0o400);
    assert_eq!(fs::read(data.join("pg_hba.conf")).unwrap(), b"own rules");
    again.remove().unwrap();
    assert!(Record::of(&data).unwrap().is_none());
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
}

#[test]
fn a_record_that_is_none_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    let beside = scratch.path().join("data.dss-restore");
    fs::create_dir(&beside).unwrap();
    // A run that was killed before it noted anything.
    assert!(Record::of(&data).unwrap().is_none());
    for text in [
        "",
        "stage 1\n",
        "stage 9\nother-cluster 0\n",
        "stage\n",
        "stage 1\nother-cluster 0\nunit x data\n",
        "other 1\n",
        "\u{0}\n",
    ] {
        fs::write(beside.join("progress"), text).unwrap();
        let error = Record::of(&data).unwrap_err().to_string();
        assert!(error.contains("is not a record of dss-restore"), "{error}");
    }
    fs::write(beside.join("progress"), "stage 2\nother-cluster 1\n").unwrap();
    fs::write(beside.join("saved"), "server.key\n../../etc/passwd\n").unwrap();
    let error = Record::of(&data).unwrap().unwrap().saved().unwrap_err();
    assert!(error.to_string().contains("does not save"), "{error}");
}

#[test]
fn a_standby_is_set_aside_once() {
    let scratch = tempfile::tempdir().unwrap();
    let (standby, kept) = (
        scratch.path().join("standby"),
        scratch.path().join("standby.kept"),
    );
    let plan = || Standby::plan(&standby);
    let refused = |part: &str| {
        let error = plan().unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused("there is none");
    fs::create_dir(&standby).unwrap();
    refused("it is empty");
    fs::write(standby.join("file"), "x").unwrap();
    refused("no data directory");
    fs::write(standby.join("PG_VERSION"), "9.2\n").unwrap();
    fs::write(standby.join("postmaster.pid"), "1\n").unwrap();
    refused("pid 1");
    fs::remove_file(standby.join("postmaster.pid")).unwrap();
    fs::set_permissions(&standby, fs::Permissions::from_mode(0o700)).unwrap();
    plan().unwrap().set_aside().unwrap();
    let check = || {
        assert_eq!(fs::read_dir(&standby).unwrap().count(), 0);
        assert_eq!(fs::read_dir(&kept).unwrap().count(), 2);
        let mode = fs::metadata(&standby).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);
    };
    check();
    // Again, also where a run was killed between the two steps.
    plan().unwrap().set_aside().unwrap();
    check();
    fs::remove_dir(&standby).unwrap();
    plan().unwrap().set_aside().unwrap();
    check();
    fs::write(standby.join("PG_VERSION"), "9.2\n").unwrap();
    refused("is there already");
    fs::remove_dir_all(&standby).unwrap();
    std::os::unix::fs::symlink(&kept, &standby).unwrap();
    refused("name where it leads");
    let relative = Standby::plan(Path::new("standby")).unwrap_err();
    assert!(relative.to_string().contains("whole path"), "{relative}");
}

fn shared() -> SharedOptions {
    SharedOptions {
        data_group: "data".to_owned(),
        log_group: "log".to_owned(),
        socket: None,
        instance_id: None,
        groups: Vec::new(),
        are_devices_named: true,
        dss_home: Some(PathBuf::from("/gauss/dss")),
        engine: crate::io::EngineChoice::Sync,
    }
}

#[test]
fn commands_by_hand_can_be_copied() {
    let commands = |set_aside: &[&Path]| -> Vec<String> {
        let steps = steps(&shared(), "'/gauss/it'\\''s data'", set_aside);
        steps.into_iter().flat_map(|step| step.commands).collect()
    };
    let remote = commands(&[]);
    assert!(
        remote[0].starts_with("mv '/gauss/it'\\''s data' "),
        "{remote:?}"
    );
    assert_eq!(remote[1], "dssserver -D /gauss/dss &");
    assert!(remote[2].contains("--vgname=\"+data,+log\""), "{remote:?}");
    assert_eq!(remote.last().unwrap(), "cm_ctl start");
    let here = commands(&[Path::new("/gauss/my standby")]);
    assert!(here.iter().all(|line| !line.starts_with("mv ")), "{here:?}");
    let put_back = "cp -a '/gauss/my standby'.kept/. '/gauss/my standby'/";
    assert!(here.iter().any(|line| line == put_back), "{here:?}");
}
