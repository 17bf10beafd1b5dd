//! Files on shared storage, seen through `dss` on images that a real server wrote.

use crate::fixtures::{digest, dss, unpack_volume};
use crate::support::{Output, assert_success, bare, run};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A group, its images, and its manifest.
type Subject = (&'static str, &'static [&'static str], &'static str);

const SUBJECTS: [Subject; 6] = [
    ("data", &["pop-data0", "pop-data1"], "pop-data.manifest.tsv"),
    ("data", &["full-data0"], "full-data.manifest.tsv"),
    ("p1", &["pop-p1"], "pop-p1.manifest.tsv"),
    (
        "data",
        &["crash-create"],
        "crash-create.after-recovery.manifest.tsv",
    ),
    (
        "data",
        &["crash-extend-batch"],
        "crash-extend-batch.after-recovery.manifest.tsv",
    ),
    (
        "data",
        &["crash-format-fs"],
        "crash-format-fs.after-recovery.manifest.tsv",
    ),
];

/// `dss` with these words on a group.
fn command(words: &[&str], group: &str, devices: &[PathBuf]) -> Command {
    let devices: Vec<String> = devices
        .iter()
        .map(|device| device.display().to_string())
        .collect();
    let mut command = bare(&["dss"]);
    command
        .args(words)
        .arg(format!("--vg={group}={}", devices.join(",")))
        .env_remove("DSS_HOME");
    command
}

fn dss_on(words: &[&str], group: &str, devices: &[PathBuf]) -> Output {
    run(&mut command(words, group, devices))
}

/// The lines of a manifest as a listing and a copied tree give them.
fn lines(listing: &str, copy: &Path, group: &str) -> Vec<String> {
    let entries: Vec<serde_json::Value> = serde_json::from_str(listing).unwrap();
    let line = |entry: &serde_json::Value| {
        let text = |key: &str| entry[key].as_str().unwrap().to_owned();
        let path = text("path");
        let copied = copy.join(path.strip_prefix(&format!("+{group}/")).unwrap());
        let (letter, content) = match &*text("type") {
            "directory" => {
                assert!(copied.is_dir(), "{path}");
                ("D", "-".to_owned())
            }
            "link" => {
                let target = fs::read_link(&copied).unwrap();
                assert_eq!(target.to_str(), entry["target"].as_str());
                ("L", text("target"))
            }
            _ => {
                assert_eq!(fs::metadata(&copied).unwrap().size(), entry["size"]);
                ("F", digest(&copied))
            }
        };
        let (allocated, size, created) = (&entry["allocated"], &entry["size"], &entry["created"]);
        format!("{letter}\t{path}\t{allocated}\t{size}\t{content}\t{created}")
    };
    entries.iter().map(line).collect()
}

/// Lists a group and copies it out.
fn seen(group: &str, devices: &[PathBuf], scratch: &Path) -> Vec<String> {
    let listed = dss_on(
        &["ls", "--recursive", "--all", "--format=json"],
        group,
        devices,
    );
    assert_success(&listed);
    let copy = scratch.join("copy");
    let words = [
        "cp",
        "--recursive",
        "--all",
        "--no-sync",
        &format!("+{group}"),
    ];
    let target = copy.to_str().unwrap();
    assert_success(&dss_on(&[&words[..], &[target]].concat(), group, devices));
    lines(&listed.stdout, &copy, group)
}

#[test]
fn groups_are_listed_and_copied_out_as_their_manifests_say() {
    let Some(dss) = dss() else { return };
    for (group, images, manifest) in SUBJECTS {
        let scratch = tempfile::tempdir().unwrap();
        let devices: Vec<PathBuf> = images
            .iter()
            .map(|image| unpack_volume(&dss, image, scratch.path()))
            .collect();
        let expected = fs::read_to_string(dss.join(manifest)).unwrap();
        let found = seen(group, &devices, scratch.path());
        for (found, expected) in found.iter().zip(expected.lines()) {
            assert_eq!(found, expected, "{images:?}");
        }
        assert_eq!(found.len(), expected.lines().count(), "{images:?}");
    }
}

#[test]
fn an_independent_reader_sees_the_same_once_it_has_recovered_the_volume() {
    let Some(dss) = dss() else { return };
    let Ok(reader) = std::env::var("GS_PARSE_DSS") else {
        assert!(std::env::var_os("CI").is_none(), "set GS_PARSE_DSS");
        eprintln!("SKIPPED: no independent reader; set GS_PARSE_DSS to its command");
        return;
    };
    let reads = |action: &str, device: &Path| {
        let mut words = reader.split(' ');
        let output = Command::new(words.next().unwrap())
            .args(words)
            .arg(action)
            .arg(device)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for (group, image) in [
        ("data", "crash-create"),
        ("data", "crash-format-fs"),
        ("p1", "pop-p1"),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let device = unpack_volume(&dss, image, scratch.path());
        let found = seen(group, std::slice::from_ref(&device), scratch.path());
        reads("replay", &device);
        let expected = reads("manifest", &device);
        assert_eq!(found, expected.lines().collect::<Vec<_>>(), "{image}");
    }
}

#[test]
fn a_group_is_looked_at_without_writing_to_it() {
    let Some(dss) = dss() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let device = unpack_volume(&dss, "crash-create", scratch.path());
    let devices = std::slice::from_ref(&device);
    let hash = digest(&device);
    // Not even who may write does.
    fs::set_permissions(&device, std::os::unix::fs::PermissionsExt::from_mode(0o444)).unwrap();
    let on = |words: &[&str]| {
        let output = dss_on(words, "data", devices);
        assert_success(&output);
        output.stdout
    };
    assert_eq!(on(&["ls"]), "+data/d\n");
    assert_eq!(on(&["ls", "+data/d/a"]), "+data/d/a\n");
    let long = on(&["ls", "--long", "--all"]);
    let line = long.lines().next().unwrap();
    assert!(
        line.starts_with("d ") && line.ends_with(" +data/.recycle"),
        "{long}"
    );
    let stat = on(&["stat", "+data/d/a"]);
    assert!(
        stat.starts_with("+data/d/a\n  file\n  3145728 bytes, 4194304 allocated\n"),
        "{stat}"
    );
    let groups = on(&["stat"]);
    assert!(
        groups.contains("redo batch 19 is begun and taken as applied"),
        "{groups}"
    );
    let checked = on(&["check"]);
    assert!(checked.contains("note: redo ring: "), "{checked}");
    assert!(checked.ends_with(", no damage\n"), "{checked}");
    assert_eq!(digest(&device), hash);
}

#[test]
fn files_go_to_the_standard_output_and_copies_never_replace_anything() {
    let Some(dss) = dss() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let device = unpack_volume(&dss, "pop-p1", scratch.path());
    let devices = std::slice::from_ref(&device);
    let expected = "2c7b87acaf574dcd85a4d5846ceeb8b8f368e3f96b2f1423b64ee97345efd414";
    let path = "+p1/pg_xlog1/seg";
    let output = command(&["cat", path], "p1", devices).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let written = scratch.path().join("written");
    fs::write(&written, output.stdout).unwrap();
    assert_eq!(digest(&written), expected);
    // A reader that has seen enough is no failure.
    let mut child = command(&["cat", path], "p1", devices)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
    let target = scratch.path().to_str().unwrap();
    assert_success(&dss_on(&["cp", path, target], "p1", devices));
    assert_eq!(digest(&scratch.path().join("seg")), expected);
    let again = dss_on(&["cp", path, target], "p1", devices);
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.contains("ERROR: cannot create"), "{again:#?}");
    let names = fs::read_dir(scratch.path()).unwrap();
    let left = names.filter(|name| {
        name.as_ref()
            .unwrap()
            .path()
            .to_string_lossy()
            .ends_with('~')
    });
    assert_eq!(left.count(), 0);
    for (words, error) in [
        (
            &["cat", "+p1/pg_xlog1"][..],
            "ERROR: \"+p1/pg_xlog1\" is a directory",
        ),
        (
            &["cp", "+p1/pg_xlog1", "/tmp"],
            "ERROR: \"+p1/pg_xlog1\" is a directory",
        ),
        (&["cat", "+p1/no"], "ERROR: there is no \"+p1/no\""),
        (
            &["cat", "/etc/passwd"],
            "ERROR: \"/etc/passwd\" is not a path of a volume group",
        ),
        (
            &["ls", "+data/x"],
            "is in volume group data, which was not named\nHINT: name it too",
        ),
        (
            &["frob"],
            "ERROR: dss cannot \"frob\"; it can ls, stat, cat, cp, check, cv",
        ),
        (&[], "ERROR: say what to do: dss ls|stat|cat|cp|check|cv"),
        (&["cat"], "ERROR: name a file, as dss cat"),
        (&["cp", "+p1/x"], "ERROR: name a file and where to"),
        (
            &["ls", "--vg=p1=/x"],
            "ERROR: volume group p1 is named twice",
        ),
        (
            &["ls", "--vg=x"],
            "ERROR: \"x\" is not a volume group and its devices\nHINT: write",
        ),
    ] {
        let output = dss_on(words, "p1", devices);
        assert_eq!(output.code, Some(1), "{words:?}: {output:#?}");
        assert!(output.stderr.contains(error), "{words:?}: {output:#?}");
    }
}

#[test]
fn groups_come_from_a_configuration_too() {
    let Some(dss) = dss() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let device = unpack_volume(&dss, "pop-p1", scratch.path());
    let home = scratch.path().join("home");
    fs::create_dir_all(home.join("cfg")).unwrap();
    let conf = home.join("cfg/dss_vg_conf.ini");
    fs::write(&conf, format!("p1:{}\n", device.display())).unwrap();
    let expected = "+p1/pg_xlog1\n";
    let from_home = run(bare(&["dss", "ls"]).env("DSS_HOME", &home));
    assert_eq!(from_home.stdout, expected, "{from_home:#?}");
    let named = format!("--dss-conf={}", conf.display());
    let from_conf = run(bare(&["dss", "ls", &named]).env_remove("DSS_HOME"));
    assert_eq!(from_conf.stdout, expected, "{from_conf:#?}");
    fs::write(&conf, "p1\n").unwrap();
    let refused = run(bare(&["dss", "ls"]).env("DSS_HOME", &home));
    assert!(
        refused.stderr.contains("line 1 is not a volume group"),
        "{refused:#?}"
    );
    let nowhere = run(bare(&["dss", "ls"]).env_remove("DSS_HOME"));
    assert!(
        nowhere.stderr.contains("ERROR: name a volume group"),
        "{nowhere:#?}"
    );
}

#[test]
fn damaged_old_and_wiped_volumes_are_told_apart() {
    let Some(dss) = dss() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let device = unpack_volume(&dss, "crash-create", scratch.path());
    let devices = std::slice::from_ref(&device);
    let image = fs::File::options()
        .read(true)
        .write(true)
        .open(&device)
        .unwrap();
    let refused = |words: &[&str], error: &str, hint: &str| {
        let output = dss_on(words, "data", devices);
        assert_eq!(output.code, Some(1), "{output:#?}");
        assert!(output.stderr.contains(error), "{output:#?}");
        assert!(output.stderr.contains(hint), "{output:#?}");
        output.stdout
    };
    let mut head = vec![0; 512];
    image.read_exact_at(&mut head, 0).unwrap();
    // A first copy that is damaged gives way to the second, and the check tells.
    image.write_all_at(b"damage", 600).unwrap();
    assert_eq!(dss_on(&["ls"], "data", devices).stdout, "+data/d\n");
    let said = refused(&["check"], "ERROR: volume groups are damaged: data", "");
    assert!(
        said.contains("damage: first copy of the core control: "),
        "{said}"
    );
    image.write_all_at(b"damage", (1 << 20) + 600).unwrap();
    refused(
        &["ls"],
        "the core control fails its checksum",
        "HINT: gs_probackup dss check",
    );
    // As the server before 6.0.0 wrote it.
    let mut old = head.clone();
    old[144] = 0;
    let crc = crc32c::crc32c(&old[4..]);
    old[..4].copy_from_slice(&crc.to_le_bytes());
    image.write_all_at(&old, 0).unwrap();
    refused(&["ls"], "its software version is 0; only version 2", "");
    image.write_all_at(&[0; 512], 0).unwrap();
    refused(
        &["ls"],
        "no volume group is on it",
        "HINT: the device was wiped",
    );
    let mut cut = fs::File::create(&device).unwrap();
    cut.write_all(&head).unwrap();
    refused(&["ls"], "ERROR: cannot read", "");
}
