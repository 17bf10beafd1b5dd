//! Clusters on shared storage are registered and their settings changed, with the original's checks
//! and words.

use crate::support::{Output, assert_success, command, run};
use std::path::Path;

/// An empty catalog.
fn catalog(scratch: &Path) -> std::path::PathBuf {
    let catalog = scratch.join("catalog");
    assert_success(&run(&mut command(&["init"], &catalog)));
    catalog
}

/// The command with a home of the server of storage, or without one.
fn run_at_home(words: &[&str], catalog: &Path, home: Option<&Path>) -> Output {
    let mut command = command(words, catalog);
    match home {
        Some(home) => command.env("DSS_HOME", home),
        None => command.env_remove("DSS_HOME"),
    };
    run(&mut command)
}

const NO_VGNAME: &str = "ERROR: Vgname must be specified in dss mode.\n";

#[test]
fn what_does_not_name_two_groups_is_refused_in_the_words_of_the_original() {
    let scratch = tempfile::tempdir().unwrap();
    let catalog = catalog(scratch.path());
    let home = scratch.path().join("dss");
    let socket = format!("--socketpath=UDS:{}/.dss_unix_d_socket", home.display());
    let few = "insufficient vgname args, check the number of args, example: \
               --vgname=\"+data,+log\"";
    let missing = format!(
        "Could not connect dssserver, vglog: \"+log\", socketpath: \
         \"UDS:{}/.dss_unix_d_socket\", check and retry later.",
        home.display()
    );
    for (words, message) in [
        (
            &["--enable-dss"][..],
            "Vgname must be specified in dss mode.",
        ),
        (&["--vgname=+data/x,+log"], "invalid token \"/\" in vgname"),
        (&["--vgname=+data,"], few),
        (
            &["--vgname=+a,+b,+c"],
            "invalid vgname args, should be two volume group names, example: \"+data,+log\"",
        ),
        (
            &["--vgname=+data,+log", "--socketpath=UDS:/elsewhere"],
            "The input socket:UDS:/elsewhere is incorrect",
        ),
        (
            &["--vgname=+data,+log", &socket, "--vg=data=/nosuch"],
            &missing,
        ),
    ] {
        let mut all = vec!["add-instance", "--instance=one", "-D/nosuch"];
        all.extend(words);
        let output = run_at_home(&all, &catalog, Some(&home));
        assert_eq!(output.code, Some(1), "{words:?}: {output:#?}");
        let said = format!("ERROR: {message}\n");
        assert!(output.stderr.contains(&said), "{words:?}: {output:#?}");
    }
    // Nothing of it is left.
    assert!(!catalog.join("backups/one").exists());
}

#[test]
fn settings_of_shared_storage_are_stored_and_shown() {
    let scratch = tempfile::tempdir().unwrap();
    let catalog = catalog(scratch.path());
    let instance = catalog.join("backups/one");
    std::fs::create_dir_all(&instance).unwrap();
    let conf = instance.join("pg_probackup.conf");
    std::fs::write(&conf, "pgdata = /data\nsystem-identifier = 7\n").unwrap();
    let set = |words: &[&str]| {
        let mut all = vec!["set-config", "--instance=one"];
        all.extend(words);
        run_at_home(&all, &catalog, None)
    };
    let before = std::fs::read(&conf).unwrap();
    let refused = set(&["--enable-dss"]);
    assert_eq!((refused.code, &*refused.stderr), (Some(1), NO_VGNAME));
    assert_eq!(std::fs::read(&conf).unwrap(), before);
    assert_success(&set(&[
        "--enable-dss",
        "--vgname=+data,+log",
        "--socketpath=UDS:/dss/.dss_unix_d_socket",
        "--instance-id=1",
    ]));
    let text = std::fs::read_to_string(&conf).unwrap();
    let lines = "# DSS connect parameters\nenable-dss = true\nvgname = +data,+log\n\
                 socketpath = UDS:/dss/.dss_unix_d_socket\ninstance-id = 1\n";
    assert!(text.ends_with(lines), "{text}");
    let plain = run_at_home(&["show-config", "--instance=one"], &catalog, None);
    assert!(plain.stdout.contains(lines), "{plain:#?}");
    let json = ["show-config", "--instance=one", "--format=json"];
    let json = run_at_home(&json, &catalog, None);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["vgname"], "+data,+log");
    assert_eq!(json["enable-dss"], "true");
}

#[test]
fn devices_are_of_no_use_to_a_cluster_on_file_systems() {
    let scratch = tempfile::tempdir().unwrap();
    let catalog = catalog(scratch.path());
    let words = [
        "add-instance",
        "--instance=one",
        "-D/nosuch",
        "--vg=data=/x",
    ];
    let output = run_at_home(&words, &catalog, None);
    assert_eq!(
        (output.code, &*output.stderr),
        (
            Some(1),
            "ERROR: --vg is of no use: the cluster is not on shared storage\n"
        )
    );
}
