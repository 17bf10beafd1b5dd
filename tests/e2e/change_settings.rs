//! `set-config` stores what the original reads back, or refuses; `show-config` shows it.

use crate::faults::{Fault, run_with, steps_of, was_killed};
use crate::support::{Output, assert_success, command, gs_probackup};
use crate::{fixtures, original_conf};
use gs_probackup::format::catalog::InstanceConf;
use proptest::prelude::{
    ProptestConfig, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest,
};
use std::fs;
use std::path::{Path, PathBuf};

/// The settings that the original's `add-instance` had made.
const CONF: &str = "# Backup instance information\npgdata = /gauss/data/dn1\n\
                    system-identifier = 215046882207013887\n";

/// A catalog with one instance.
struct Catalog {
    scratch: tempfile::TempDir,
}

impl Catalog {
    fn new(conf: &str) -> Catalog {
        let scratch = tempfile::tempdir().unwrap();
        for name in ["backups/zlib", "wal/zlib"] {
            fs::create_dir_all(scratch.path().join(name)).unwrap();
        }
        let catalog = Catalog { scratch };
        fs::write(catalog.conf(), conf).unwrap();
        catalog
    }

    fn path(&self) -> &Path {
        self.scratch.path()
    }

    fn conf(&self) -> PathBuf {
        self.path().join("backups/zlib/pg_probackup.conf")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.conf()).unwrap()
    }

    fn set(&self, options: &[&str]) -> Output {
        let mut words = vec!["set-config", "--instance=zlib"];
        words.extend(options);
        gs_probackup(&words, self.path())
    }

    fn show(&self, options: &[&str]) -> String {
        let mut words = vec!["show-config", "--instance=zlib"];
        words.extend(options);
        let output = gs_probackup(&words, self.path());
        assert_success(&output);
        output.stdout
    }
}

/// What the original recorded of its own defaults that is not ours, and why not.
fn with_our_defaults(recorded: &str, catalog: &Path) -> String {
    // Ours is what the help of both promises; the original's code says LOG.
    recorded
        .replace("log-level-console = LOG", "log-level-console = INFO")
        .replace(
            "\"log-level-console\": \"LOG\"",
            "\"log-level-console\": \"INFO\"",
        )
        .replace("/gauss/backup", catalog.to_str().unwrap())
}

const RECORDED: [&str; 16] = [
    "--retention-redundancy=2",
    "--retention-window=7",
    "--compress-algorithm=zlib",
    "--compress-level=3",
    "--archive-timeout=10min",
    "--log-level-console=info",
    "--log-rotation-size=10MB",
    "--log-rotation-age=2d",
    "--log-filename=pb-%d.log",
    "--log-level-file=log",
    "-dfix",
    "-h/tmp",
    "-p15400",
    "-Uomm",
    "--external-dirs=/gauss/ts/ts1",
    "--log-directory=/gauss/backup/log",
];

#[test]
fn settings_are_stored_and_shown_as_by_the_original() {
    let Some(gauss) = fixtures::gauss() else {
        return;
    };
    let recorded = |name: &str| fs::read_to_string(gauss.join("transcripts").join(name)).unwrap();
    let catalog = Catalog::new(CONF);
    let expected = |name: &str| with_our_defaults(&recorded(name), catalog.path());
    let shown = |options: &[&str]| {
        let mut command = command(&["show-config", "--instance=zlib"], catalog.path());
        let output = crate::support::run(
            command
                .args(options)
                .env("PGDATABASE", "omm")
                .env("PGDATA", "/not/in/force"),
        );
        assert_success(&output);
        output.stdout
    };
    assert_eq!(shown(&[]), expected("show-config-zlib.stdout"));
    assert_eq!(
        shown(&["--format=JSON"]),
        expected("show-config-json-zlib.stdout")
    );
    // All but the last, which is the default that show-config adds.
    let output = catalog.set(&RECORDED[..RECORDED.len() - 1]);
    assert_success(&output);
    assert_eq!((&*output.stdout, &*output.stderr), ("", ""));
    assert_eq!(
        catalog.text(),
        recorded("after-set-config.pg_probackup.conf")
    );
    assert_eq!(shown(&[]), expected("show-config-after-set.stdout"));
    assert_eq!(
        shown(&["--format=js"]),
        expected("show-config-json-after-set.stdout")
    );
    // A value on the command line is in force, so it is shown.
    assert!(shown(&["--pgport=1"]).contains("\npgport = 1\n"));
}

#[test]
fn what_is_refused_changes_nothing_and_nothing_to_set_is_no_error() {
    let catalog = Catalog::new(CONF);
    for (options, message) in [
        (
            &["--compress-algorithm=foo"][..],
            "invalid compress algorithm value \"foo\"",
        ),
        (
            &["--compress-level=77"],
            "--compress-level value must be in the range from 0 to 9",
        ),
        (&["--log-level-console=foo"], "invalid log-level \"foo\""),
        (&["-D", "relative"], "-D, --pgdata must be an absolute path"),
        (
            &["-i", "TOU8C4"],
            "Cannot use -i (--backup-id) option together with the \"set-config\" command",
        ),
        (
            &["--system-identifier=1"],
            "Option system-identifier cannot be specified in command line",
        ),
        (&["--remote-host=h"], "--remote-host is not supported yet"),
        (&["--enable-dss"], "Vgname must be specified in dss mode."),
        (
            &["--pguser=two\nlines"],
            "Option -U, --pguser should be a valid string: 'two\\nlines'",
        ),
    ] {
        let output = catalog.set(options);
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(
            output.stderr.starts_with(&format!("ERROR: {message}\n")),
            "{output:?}"
        );
        assert_eq!(catalog.text(), CONF);
    }
    assert_success(&catalog.set(&[]));
    assert_eq!(catalog.text(), CONF);
}

#[test]
fn settings_of_what_is_not_supported_yet_are_kept() {
    let conf = format!("{CONF}# Remote access parameters\nremote-host = far\n");
    let catalog = Catalog::new(&conf);
    assert_success(&catalog.set(&["--pgdata=/a b/c/"]));
    assert_eq!(catalog.text(), conf.replace("/gauss/data/dn1", "'/a b/c'"));
    // The level of lz4 is stored as it is used; a level alone may be stored.
    assert_success(&catalog.set(&["--compress-level=7"]));
    let output = catalog.set(&["--compress-algorithm=lz4", "--compress-level=9"]);
    assert!(
        output
            .stderr
            .starts_with("WARNING: Compression level will be set to 1")
    );
    assert!(
        catalog
            .text()
            .contains("compress-algorithm = lz4\ncompress-level = 1\n")
    );
    assert_success(&catalog.set(&["--compress", "--remote-proto=none"]));
    assert!(catalog.text().contains("compress-algorithm = zlib\n"));
    assert!(
        catalog
            .text()
            .contains("remote-proto = none\nremote-host = far\n")
    );
}

/// Characters that some readers take for blanks or for the end of a line.
const SPACES: &str = "\n\r\u{b}\u{c}\u{7f}\u{85}\u{a0}\u{feff}";

/// Text as somebody, or an attacker, might give it: what the grammar is about is frequent.
fn texts() -> impl Strategy<Value = String> {
    let character = prop_oneof![
        4 => prop::sample::select("'\"#=\\ \t-/%${}".chars().collect::<Vec<_>>()),
        4 => prop::char::range(' ', '~'),
        1 => prop::char::range('\u{1}', '\u{1f}'),
        1 => prop::sample::select(SPACES.chars().collect::<Vec<_>>()),
        2 => any::<char>().prop_filter("no argument has a zero byte", |c| *c != '\0'),
    ];
    let length = prop_oneof![4 => 0..40_usize, 1 => 900..1100_usize];
    length.prop_flat_map(move |length| {
        prop::collection::vec(character.clone(), length).prop_map(|text| text.into_iter().collect())
    })
}

/// Whether a value can be stored: the original has no way to write a line end, and one line of it
/// has 1022 bytes.
fn is_storable(key: &str, value: &str) -> bool {
    let quoted = key.len() + " = ''".len() + value.replace('\'', "''").len();
    !value.is_empty() && !value.contains('\n') && quoted <= 1022
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn any_value_is_kept_or_refused(value in texts()) {
        let mut conf = InstanceConf::parse(CONF.as_bytes()).unwrap();
        let set = conf.set("restore-command", "--restore-command", &value);
        let stored = set.is_ok() && conf.check_lines().is_ok();
        if is_storable("restore-command", &value) {
            prop_assert!(stored);
        }
        if stored {
            let text = conf.encode();
            let pairs = original_conf::read(text.as_bytes());
            let expected = vec![
                ("pgdata".to_owned(), b"/gauss/data/dn1".to_vec()),
                ("system-identifier".to_owned(), b"215046882207013887".to_vec()),
                ("restore-command".to_owned(), value.clone().into_bytes()),
            ];
            prop_assert_eq!(pairs, Ok(expected));
            prop_assert_eq!(InstanceConf::parse(text.as_bytes()), Ok(conf));
        }
    }
}

proptest! {
    // Each case starts the program twice.
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_value_on_the_command_line_is_kept_or_refused(value in texts()) {
        let catalog = Catalog::new(CONF);
        let before = catalog.text();
        let option = format!("--log-filename={value}");
        let output = catalog.set(&[&option]);
        let pairs = original_conf::read(catalog.text().as_bytes()).unwrap();
        if output.code == Some(0) {
            let stored = pairs.iter().find(|(key, _)| key == "log-filename").unwrap();
            prop_assert_eq!(&stored.1, value.as_bytes());
            let json: serde_json::Value =
                serde_json::from_str(&catalog.show(&["--format=json"])).unwrap();
            prop_assert_eq!(&json["log-filename"], &serde_json::Value::from(&*value));
        } else {
            prop_assert!(!is_storable("log-filename", &value), "{:?}", output);
            prop_assert!(output.stderr.starts_with("ERROR: "), "{:?}", output);
            prop_assert_eq!(catalog.text(), before);
        }
    }
}

#[test]
fn a_failure_or_a_kill_at_any_step_leaves_the_old_settings_or_the_new() {
    let words = [
        "set-config",
        "--instance=zlib",
        "--pguser=omm",
        "--pgport=5432",
    ];
    let new = format!("{CONF}# Connection parameters\npgport = 5432\npguser = omm\n");
    let recorded = Catalog::new(CONF);
    let steps = steps_of(&mut command(&words, recorded.path()));
    assert_eq!(recorded.text(), new);
    assert!(steps.len() >= 4, "{steps:?}");
    let renamed = steps
        .iter()
        .position(|step| step.starts_with("rename "))
        .unwrap();
    for (at, step) in steps.iter().enumerate() {
        let number = at + 1;
        for fault in [
            Fault::Kill(number),
            Fault::Tear(number),
            Fault::IoError(number),
            Fault::NoSpace(number),
        ] {
            let catalog = Catalog::new(CONF);
            let output = run_with(fault, &mut command(&words, catalog.path()));
            let killed = matches!(fault, Fault::Kill(_) | Fault::Tear(_));
            assert_eq!(was_killed(&output), killed, "{fault:?} {step}: {output:?}");
            let expected = if at > renamed || output.code == Some(0) {
                &new
            } else {
                CONF
            };
            assert_eq!(catalog.text(), expected, "{fault:?} {step}: {output:?}");
            if !killed {
                // A failure cleans up after itself; a kill leaves a file that nobody looks at.
                let count = fs::read_dir(catalog.conf().parent().unwrap())
                    .unwrap()
                    .count();
                assert_eq!(count, 1, "{fault:?} {step}");
            }
            assert_success(&catalog.set(&["--pguser=omm", "--pgport=5432"]));
            assert_eq!(catalog.text(), new);
        }
    }
}

#[test]
fn the_command_line_overrides_the_file_and_the_file_the_environment() {
    let shown = |catalog: &Catalog, options: &[&str]| {
        let mut command = command(&["show-config", "--instance=zlib"], catalog.path());
        let command = command.args(options).env("PGDATA", "/environment");
        let output = crate::support::run(command.env("PGDATABASE", "environment"));
        assert_success(&output);
        let value = |key: &str| {
            let mut lines = output.stdout.lines();
            let line = lines.find_map(|line| line.strip_prefix(key));
            line.unwrap().trim_start_matches("= ").to_owned()
        };
        (value("pgdata "), value("pgdatabase "))
    };
    let pair = |pgdata: &str, database: &str| (pgdata.to_owned(), database.to_owned());
    let catalog = Catalog::new("system-identifier = 7\n");
    assert_eq!(shown(&catalog, &[]), pair("/environment", "environment"));
    // What comes from the environment is in force, and is not stored.
    let mut set = command(
        &["set-config", "--instance=zlib", "-dstored"],
        catalog.path(),
    );
    assert_success(&crate::support::run(set.env("PGDATA", "/environment")));
    assert!(!catalog.text().contains("pgdata ="));
    assert_eq!(shown(&catalog, &[]), pair("/environment", "stored"));
    assert_success(&catalog.set(&["-D", "/stored"]));
    assert_eq!(shown(&catalog, &[]), pair("/stored", "stored"));
    assert_eq!(
        shown(&catalog, &["-D/line", "-d", "line"]),
        pair("/line", "line")
    );
}
