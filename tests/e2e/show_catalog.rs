//! `show` prints what the original printed of the same catalogs, and changes nothing.

use crate::fixtures;
use crate::support::{assert_success, gs_probackup};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tempfile::TempDir;

/// Instances of the recorded `show` without arguments, in its order.
const INSTANCES: [&str; 6] = ["zstd", "lz4", "none", "pglz", "ext", "zlib"];

/// Only the control files and settings of a recorded catalog.
fn unpack_control_files(gauss: &Path, name: &str, catalog: &Path) {
    let path = gauss.join(format!("catalog_{name}.tar.zst"));
    let mut decoder = zstd::Decoder::new(File::open(path).unwrap()).unwrap();
    decoder.window_log_max(27).unwrap();
    for entry in tar::Archive::new(decoder).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let file = path.file_name().and_then(|name| name.to_str());
        if matches!(file, Some("backup.control" | "pg_probackup.conf")) {
            assert!(entry.unpack_in(catalog).unwrap());
        }
    }
    fs::create_dir_all(catalog.join("wal")).unwrap();
}

struct Recorded {
    scratch: TempDir,
    transcripts: PathBuf,
}

impl Recorded {
    fn open(names: &[&str]) -> Option<Recorded> {
        let gauss = fixtures::gauss()?;
        let scratch = tempfile::tempdir().unwrap();
        for name in names {
            unpack_control_files(&gauss, name, scratch.path());
        }
        Some(Recorded {
            scratch,
            transcripts: gauss.join("transcripts"),
        })
    }

    fn catalog(&self) -> &Path {
        self.scratch.path()
    }

    fn control(&self, instance: &str, id: &str) -> PathBuf {
        self.catalog()
            .join("backups")
            .join(instance)
            .join(id)
            .join("backup.control")
    }

    fn transcript(&self, name: &str) -> String {
        fs::read_to_string(self.transcripts.join(format!("{name}.stdout"))).unwrap()
    }

    #[track_caller]
    fn shows(&self, arguments: &[&str], expected: &str) -> String {
        let mut all = vec!["show"];
        all.extend(arguments);
        let output = gs_probackup(&all, self.catalog());
        assert_success(&output);
        assert_eq!(output.stdout, expected, "{arguments:?}");
        output.stderr
    }
}

#[test]
fn tables_records_and_json_are_byte_for_byte_those_of_the_original() {
    let Some(recorded) = Recorded::open(&INSTANCES) else {
        return;
    };
    for instance in INSTANCES {
        let option = format!("--instance={instance}");
        let table = recorded.transcript(&format!("show-instance-{instance}"));
        recorded.shows(&[&option], &table);
        let json = recorded.transcript(&format!("show-instance-json-{instance}"));
        recorded.shows(&[&option, "--format=json"], &json);
        let mut ids = fs::read_dir(recorded.catalog().join("backups").join(instance))
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.path().is_dir())
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect::<Vec<_>>();
        ids.sort();
        for (number, id) in ids.iter().enumerate() {
            let record = recorded.transcript(&format!("show-id-{instance}-{number}"));
            recorded.shows(&[&option, "-i", id], &record);
            if instance == "zlib" {
                let json = recorded.transcript(&format!("show-id-json-zlib-{number}"));
                recorded.shows(&[&option, "-i", id, "--format=JSON"], &json);
            }
        }
    }
}

#[test]
fn all_instances_are_shown_by_name() {
    let Some(recorded) = Recorded::open(&INSTANCES) else {
        return;
    };
    // The original lists instances in the order of the directory, which no copy of it keeps.
    let expected = recorded.transcript("show");
    let mut tables = expected
        .split("\nBACKUP INSTANCE ")
        .skip(1)
        .collect::<Vec<_>>();
    assert_eq!(tables.len(), INSTANCES.len());
    tables.sort_unstable();
    let expected = tables
        .iter()
        .map(|table| format!("\nBACKUP INSTANCE {table}"))
        .collect::<String>();
    // Between two tables there is one empty line; `split` took one line end from all but the last.
    let output = gs_probackup(&["show"], recorded.catalog());
    assert_success(&output);
    let squeeze = |text: &str| text.replace("\n\n", "\n");
    assert_eq!(
        squeeze(&output.stdout),
        squeeze(&expected.replace(" \nB", " \n\nB"))
    );
}

#[test]
fn merged_chains_are_shown_as_before_and_after() {
    for (name, transcript) in [
        ("merge_before", "show-merge-before"),
        ("merge_after", "show-merge-after"),
    ] {
        let Some(recorded) = Recorded::open(&[name]) else {
            return;
        };
        let table = recorded.transcript(transcript);
        recorded.shows(&["--instance=merge"], &table);
    }
}

#[test]
fn broken_records_are_shown_with_the_warnings_of_the_original() {
    let Some(recorded) = Recorded::open(&["zlib"]) else {
        return;
    };
    let control = recorded.control("zlib", "TOU8CR");
    let original = fs::read_to_string(&control).unwrap();
    let option = "--instance=zlib";

    fs::write(&control, original.replace("status = OK", "status = FOO")).unwrap();
    let said = recorded.shows(&[option], &recorded.transcript("show-bad-status"));
    assert_eq!(said, "WARNING: Invalid STATUS \"FOO\"\n");

    fs::write(&control, format!("{original}bogus-key = 1\n")).unwrap();
    let said = recorded.shows(&[option], &recorded.transcript("show-bogus-key"));
    let expected = format!(
        "WARNING: Invalid option \"bogus-key\" in file \"{}\"\n",
        control.display()
    );
    assert_eq!(said, expected);

    fs::remove_file(&control).unwrap();
    let said = recorded.shows(&[option], &recorded.transcript("show-no-control"));
    let expected = format!(
        "WARNING: Control file \"{}\" doesn't exist\n",
        control.display()
    );
    assert_eq!(said, expected);

    fs::write(&control, &original[..original.len() / 2]).unwrap();
    let said = recorded.shows(&[option], &recorded.transcript("show-no-control"));
    assert!(
        said.contains("is corrupted: Syntax error in \"end-time = '"),
        "{said}"
    );

    fs::remove_dir_all(control.parent().unwrap()).unwrap();
    recorded.shows(&[option], &recorded.transcript("show-orphan"));
}

#[test]
fn a_backup_that_does_not_exist_is_no_error_and_an_instance_is() {
    let Some(recorded) = Recorded::open(&["zlib"]) else {
        return;
    };
    let said = recorded.shows(&["--instance=zlib", "-i", "ZZZZZZ"], "");
    assert_eq!(said, "INFO: Requested backup \"ZZZZZZ\" is not found.\n");
    let output = gs_probackup(&["show", "--instance=nosuch"], recorded.catalog());
    assert_eq!(output.code, Some(1));
    let output = gs_probackup(&["show", "-i", "TOU8CR"], recorded.catalog());
    assert!(
        output
            .stderr
            .contains("You must specify --instance to use (-i, --backup-id) option")
    );
}

/// Every file below a directory with its content and time of change.
fn snapshot(directory: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let mut files = BTreeMap::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else {
                let modified = fs::metadata(&path).unwrap().modified().unwrap();
                files.insert(path.clone(), (fs::read(&path).unwrap(), modified));
            }
        }
    }
    files
}

#[test]
fn a_running_backup_is_shown_as_failed_once_its_process_is_gone_and_nothing_is_written() {
    let Some(recorded) = Recorded::open(&["zlib"]) else {
        return;
    };
    let control = recorded.control("zlib", "TOU8CR");
    let text = fs::read_to_string(&control).unwrap();
    fs::write(&control, text.replace("status = OK", "status = RUNNING")).unwrap();
    let lock = control.with_file_name("backup.pid");
    let status = |pid: Option<u32>| {
        match pid {
            Some(pid) => fs::write(&lock, format!("{pid}\n")).unwrap(),
            None => fs::remove_file(&lock).unwrap(),
        }
        let before = snapshot(recorded.catalog());
        let arguments = ["show", "--instance=zlib", "--format=json"];
        let output = gs_probackup(&arguments, recorded.catalog());
        assert_success(&output);
        assert_success(&gs_probackup(&["show"], recorded.catalog()));
        assert_eq!(snapshot(recorded.catalog()), before);
        let report: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
        report["backup_info"][0]["backups"][1]["status"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(status(Some(std::process::id())), "RUNNING");
    assert_eq!(status(Some(999_999_999)), "ERROR");
    assert_eq!(status(None), "ERROR");
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "the expected table and JSON stand in full"
)]
fn the_wal_archive_is_shown_by_timeline_with_its_gaps() {
    let Some(recorded) = Recorded::open(&["zlib", "none"]) else {
        return;
    };
    let wal = recorded.catalog().join("wal/zlib");
    fs::create_dir_all(&wal).unwrap();
    for (name, bytes) in [
        ("000000010000000000000004", 16 << 20),
        ("000000010000000000000005.gz", 1 << 20),
        ("000000010000000000000008", 16 << 20),
        ("000000020000000000000010", 16 << 20),
    ] {
        fs::File::create(wal.join(name))
            .unwrap()
            .set_len(bytes)
            .unwrap();
    }
    fs::write(
        wal.join("00000002.history"),
        "1\t0/10000500\tbefore the accident\n",
    )
    .unwrap();
    let ruler = "=".repeat(129);
    let rows = [
        [
            "TLI",
            "Parent TLI",
            "Switchpoint",
            "Min Segno",
            "Max Segno",
            "N segments",
            "Size",
            "Zratio",
            "N backups",
            "Status",
        ],
        [
            "2",
            "1",
            "0/10000500",
            "000000020000000000000010",
            "000000020000000000000010",
            "1",
            "16MB",
            "1.00",
            "0",
            "OK",
        ],
        [
            "1",
            "0",
            "0/0",
            "000000010000000000000004",
            "000000010000000000000008",
            "3",
            "33MB",
            "1.45",
            "3",
            "DEGRADED",
        ],
    ];
    let widths = [3, 10, 11, 24, 24, 10, 4, 6, 9, 8];
    let rows = rows.map(|row| {
        let cells = row.iter().zip(widths);
        cells
            .map(|(cell, width)| format!(" {cell:<width$} "))
            .collect::<String>()
    });
    let [header, newer, older] = rows;
    let table =
        format!("\nARCHIVE INSTANCE 'zlib'\n{ruler}\n{header}\n{ruler}\n{newer}\n{older}\n");
    recorded.shows(&["--instance=zlib", "--archive"], &table);
    let output = gs_probackup(&["show", "--archive", "--format=json"], recorded.catalog());
    assert_success(&output);
    let report: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    let instances = report["backup_info"].as_array().unwrap();
    assert_eq!(instances[0]["instance"], "none");
    assert_eq!(instances[0]["timelines"], serde_json::json!([]));
    let timelines = &instances[1]["timelines"];
    // The newest backup of the first timeline that ends before the second one begins.
    assert_eq!(timelines[0]["closest-backup-id"], "TOU8D9");
    assert_eq!(timelines[0]["status"], "OK");
    let gap = serde_json::json!([{
        "begin-segno": "000000010000000000000006",
        "end-segno": "000000010000000000000007",
    }]);
    assert_eq!(timelines[1]["lost-segments"], gap);
    assert_eq!(timelines[1]["zratio"], 1.45);
    assert_eq!(timelines[1]["closest-backup-id"], "");
    assert_eq!(timelines[1]["backups"].as_array().unwrap().len(), 3);
    assert_eq!(timelines[1]["backups"][0]["id"], "TOU8D9");
    let output = gs_probackup(
        &["show", "--archive", "--instance=zlib", "-i", "TOU8D9"],
        recorded.catalog(),
    );
    let expected = "ERROR: You cannot specify --archive and (-i, --backup-id) options together\n";
    assert_eq!((output.code, &*output.stderr), (Some(1), expected));
}
