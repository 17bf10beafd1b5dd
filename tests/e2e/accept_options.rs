//! Every option of the original, in every form that its parser takes, is accepted or refused as by
//! the original.
//!
//! The table is written from the specification of the original and not from ours, so that what is
//! missing there is missed here.

use crate::support::{Output, bare, gs_probackup, run};

/// What an option takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Nothing.
    Flag,
    /// A text, once.
    Text,
    /// One of these texts or a prefix, perhaps several times; otherwise this message.
    Word(&'static str, &'static str),
    /// A mapping, as often as wanted.
    Mapping,
    /// A number, once: a value with the largest unit, and what the message says that it should be.
    Number(&'static str, &'static str),
    /// Never on a command line.
    FileOnly,
}

use Kind::{FileOnly, Flag, Mapping, Number, Text, Word};

const U32: &str = "a 32bit unsigned integer";
const U64: &str = "a 64bit unsigned integer";
const INCREMENTAL: Kind = Word(
    "CheckSum",
    "Invalid value for '--incremental-mode' option: '?'",
);
const LEVEL: Kind = Word("verb", "invalid log-level \"?\"");

/// Long and short form, and what it takes.
#[rustfmt::skip]
const OPTIONS: [(&str, Option<char>, Kind); 103] = [
    ("help", None, Flag),
    ("backup-path", Some('B'), Text),
    ("threads", Some('j'), Number("0x2", U32)),
    ("stream", None, Flag),
    ("progress", None, Flag),
    ("backup-id", Some('i'), Text),
    ("no-sync", None, Flag),
    ("backup-pg-log", None, Flag),
    ("backup-mode", Some('b'), Word("Pt", "invalid backup-mode \"?\"")),
    ("smooth-checkpoint", Some('C'), Flag),
    ("slot", Some('S'), Text),
    ("temp-slot", None, Flag),
    ("delete-wal", None, Flag),
    ("wal", None, Flag),
    ("delete-expired", None, Flag),
    ("expired", None, Flag),
    ("merge-expired", None, Flag),
    ("dry-run", None, Flag),
    ("note", None, Text),
    ("recovery-target-time", None, Text),
    ("time", None, Text),
    ("recovery-target-xid", None, Text),
    ("xid", None, Text),
    ("recovery-target-lsn", None, Text),
    ("lsn", None, Text),
    ("recovery-target-inclusive", None, Text),
    ("inclusive", None, Text),
    ("recovery-target-name", None, Text),
    ("timeline", None, Number("3", U32)),
    ("immediate", None, Flag),
    ("tablespace-mapping", Some('T'), Mapping),
    ("external-mapping", None, Mapping),
    ("no-validate", None, Flag),
    ("skip-block-validation", None, Flag),
    ("skip-external-dirs", None, Flag),
    ("incremental-mode", Some('I'), INCREMENTAL),
    ("with-encryption", None, Text),
    ("with-key", None, Text),
    ("with-salt", None, Text),
    ("with-device-params", None, Text),
    ("gen-key", None, Flag),
    ("status", None, Text),
    ("backup-pg-replslot", None, Flag),
    ("force", None, Flag),
    ("compress", None, Flag),
    ("no-password", Some('w'), Flag),
    ("password", Some('W'), Text),
    ("rw-timeout", Some('t'), Number("30", U32)),
    ("instance", None, Text),
    ("format", None, Word("J", "Invalid show format \"?\"")),
    ("archive", None, Flag),
    ("ttl", None, Number("3d", "a 64bit signed integer")),
    ("expire-time", None, Text),
    ("media-type", Some('M'), Word("D", "invalid media_type \"?\"")),
    ("s3-status", None, Text),
    ("wal-file-path", None, Text),
    ("wal-file-name", None, Text),
    ("overwrite", None, Flag),
    ("no-ready-rename", None, Flag),
    ("no-validate-wal", None, Flag),
    ("batch-size", None, Number("-5", "a 32bit signed integer")),
    ("prefetch-dir", None, Text),
    ("pgdata", Some('D'), Text),
    ("system-identifier", None, FileOnly),
    ("external-dirs", Some('E'), Text),
    ("pgdatabase", Some('d'), Text),
    ("pghost", Some('h'), Text),
    ("pgport", Some('p'), Text),
    ("pguser", Some('U'), Text),
    ("archive-timeout", None, Number("2d", U32)),
    ("archive-host", None, Text),
    ("archive-port", None, Text),
    ("archive-user", None, Text),
    ("restore-command", None, Text),
    ("log-level-console", None, LEVEL),
    ("log-level-file", None, LEVEL),
    ("log-filename", None, Text),
    ("error-log-filename", None, Text),
    ("log-directory", None, Text),
    ("log-rotation-size", None, Number("5TB", U64)),
    ("log-rotation-age", None, Number("90d", U64)),
    ("retention-redundancy", None, Number("07", U32)),
    ("retention-window", None, Number("INFINITE", U32)),
    ("wal-depth", None, Number(" 3 ", U32)),
    ("compress-algorithm", None, Word("LZ", "invalid compress algorithm value \"?\"")),
    ("compress-level", None, Number("3", U32)),
    ("remote-proto", None, Text),
    ("remote-host", None, Text),
    ("remote-port", None, Text),
    ("remote-path", None, Text),
    ("remote-user", None, Text),
    ("ssh-options", None, Text),
    ("ssh-config", None, Text),
    ("remote-libpath", None, Text),
    ("enable-dss", None, Flag),
    ("vgname", None, Text),
    ("socketpath", None, Text),
    ("instance-id", None, Number("-1", "a 32bit signed integer")),
    ("access-id", None, Text),
    ("access-key", None, Text),
    ("endpoint", None, Text),
    ("region", None, Text),
    ("access-bucket", None, Text),
];

/// The long forms.
pub(crate) fn names() -> Vec<&'static str> {
    OPTIONS.iter().map(|(long, ..)| *long).collect()
}

/// Words of ours that are no options of the original, and so may make a prefix ambiguous.
const OURS: [&str; 15] = [
    "other-cluster",
    "set-aside",
    "archive-dir",
    "offline",
    "size",
    "dir",
    "keep",
    "seed",
    "io-engine",
    "vg",
    "dss-conf",
    "au-size",
    "recursive",
    "long",
    "all",
];

/// Options are read before help is shown, so a line that is accepted is answered by the help.
fn parsed(words: &[&str]) -> Output {
    let mut all = vec!["show"];
    all.extend(words);
    all.push("--help");
    run(&mut bare(&all))
}

fn is_accepted(words: &[&str]) -> bool {
    let output = parsed(words);
    let accepted = output.code == Some(0);
    assert_eq!(
        accepted,
        output.stdout.starts_with("\ngs_probackup show"),
        "{output:#?}"
    );
    assert_eq!(accepted, output.stderr.is_empty(), "{output:#?}");
    accepted
}

/// The error of a command line, after what getopt says.
fn error_of(words: &[&str]) -> String {
    let output = run(&mut bare(&[&["show"], words].concat()));
    assert_eq!(output.code, Some(1), "{words:?}: {output:#?}");
    let mut lines = output
        .stderr
        .lines()
        .filter(|line| !line.starts_with("HINT: "));
    lines.next_back().unwrap_or_default().to_owned()
}

fn value_of(kind: Kind) -> &'static str {
    match kind {
        Text => "x",
        Mapping => "/a=/b",
        Word(word, _) => word,
        Number(number, _) => number,
        Flag | FileOnly => "1",
    }
}

/// The shortest text that means this option and no other.
fn abbreviation(long: &str) -> &str {
    let others = || OPTIONS.iter().map(|(other, ..)| *other).chain(OURS);
    (1..long.len())
        .map(|length| &long[..length])
        .find(|prefix| !others().any(|other| other != long && other.starts_with(prefix)))
        .unwrap_or(long)
}

#[test]
fn every_option_is_accepted_in_all_its_forms() {
    // Of `--help` there is one at the end of each line already.
    for (long, short, kind) in OPTIONS.into_iter().filter(|(long, ..)| *long != "help") {
        let value = value_of(kind);
        let mut forms: Vec<Vec<String>> = Vec::new();
        if kind == Flag {
            forms.push(vec![format!("--{long}")]);
            forms.push(vec![format!("--{}", abbreviation(long))]);
            forms.extend(short.map(|short| vec![format!("-{short}")]));
        } else if kind != FileOnly {
            for name in [long, abbreviation(long)] {
                forms.push(vec![format!("--{name}={value}")]);
                forms.push(vec![format!("--{name}"), value.to_owned()]);
            }
            if let Some(short) = short {
                forms.push(vec![format!("-{short}{value}")]);
                forms.push(vec![format!("-{short}"), value.to_owned()]);
            }
        }
        for form in forms {
            let words: Vec<&str> = form.iter().map(String::as_str).collect();
            assert!(is_accepted(&words), "{words:?}: {:#?}", parsed(&words));
        }
    }
}

fn name_in_messages(long: &str, short: Option<char>) -> String {
    short.map_or_else(
        || format!("--{long}"),
        |short| format!("-{short}, --{long}"),
    )
}

/// The table's own name of an alias: messages about its value have that.
fn own_name(long: &str) -> &str {
    match long {
        "time" => "recovery-target-time",
        "xid" => "recovery-target-xid",
        "lsn" => "recovery-target-lsn",
        "inclusive" => "recovery-target-inclusive",
        other => other,
    }
}

#[test]
fn wrong_values_are_refused_in_the_words_of_the_original() {
    for (long, short, kind) in OPTIONS {
        let with = |value: &str| error_of(&[&format!("--{long}={value}")]);
        let should = |what: &str, value: &str| {
            let name = name_in_messages(own_name(long), short);
            format!("ERROR: Option {name} should be {what}: '{value}'")
        };
        match kind {
            Flag => {
                let output = run(&mut bare(&["show", &format!("--{long}=1")]));
                let complaint = format!("option '--{long}' doesn't allow an argument");
                let is_own = ["wal", "expired"].contains(&long);
                assert!(is_own || output.stderr.contains(&complaint), "{output:#?}");
                assert_eq!(output.code, Some(1));
                continue;
            }
            FileOnly => {
                let expected = format!("ERROR: Option {long} cannot be specified in command line");
                assert_eq!(with("1"), expected);
                continue;
            }
            Number(_, what) => {
                for value in ["abc", "1x", "99999999999999999999999"] {
                    assert_eq!(with(value), should(what, value), "{long}");
                }
                if !what.contains("unsigned") && long != "ttl" {
                    assert!(is_accepted(&[&format!("--{long}=-3")]));
                }
            }
            Word(_, message) => {
                for value in ["brotli", "x"] {
                    assert_eq!(
                        with(value),
                        format!("ERROR: {}", message.replace('?', value))
                    );
                }
            }
            Text | Mapping => {}
        }
        if !matches!(kind, Word(..)) {
            assert_eq!(with(""), should("a valid string", ""), "{long}");
        }
        let output = run(&mut bare(&["show", &format!("--{long}")]));
        let complaint = "requires an argument\nERROR: Option is not found. Try";
        assert!(output.stderr.contains(complaint), "{output:#?}");
    }
    assert_eq!(
        error_of(&["--ttl=-1"]),
        "ERROR: Option --ttl should be a 64bit unsigned integer: '-1'"
    );
}

#[test]
fn threads_are_checked_by_every_command() {
    let scratch = tempfile::tempdir().unwrap();
    let (catalog, data) = (scratch.path().join("c"), scratch.path().join("d"));
    let conf = "pgdata = /data\nsystem-identifier = 1\n";
    for directory in ["backups/one", "wal/one"] {
        std::fs::create_dir_all(catalog.join(directory)).unwrap();
    }
    std::fs::write(catalog.join("backups/one/pg_probackup.conf"), conf).unwrap();
    let data = data.display().to_string();
    let one = "--instance=one";
    for words in [
        &["init"][..],
        &["add-instance", "--instance=two", "-D", &data],
        &["del-instance", one],
        &["set-config", one],
        &["set-backup", one, "-i", "TOU8BZ", "--note=x"],
        &["show-config", one],
        &["show"],
        &["backup", one, "-b", "FULL", "--offline"],
        &["restore", one],
        &["merge", one, "-i", "TOU8BZ"],
        &["delete", one, "-i", "TOU8BZ"],
        &["validate"],
    ] {
        let said = |threads: &str| {
            let words = [words, &["-j", threads]].concat();
            gs_probackup(&words, &catalog).stderr
        };
        for (threads, expected) in [
            (
                "100000",
                "ERROR: Invalid value for '-j' option: 100000, the number of cores",
            ),
            (
                "abc",
                "ERROR: Option -j, --threads should be a 32bit unsigned integer: 'abc'",
            ),
            (
                "-1",
                "ERROR: Option -j, --threads should be a 32bit unsigned integer: '-1'",
            ),
        ] {
            let stderr = said(threads);
            assert!(
                stderr.starts_with(expected),
                "{words:?} -j {threads}: {stderr}"
            );
        }
        // Fewer than one are one, and so is what the original takes for a negative number.
        for threads in ["0", "1", "4294967295"] {
            let stderr = said(threads);
            assert!(!stderr.contains("-j"), "{words:?} -j {threads}: {stderr}");
        }
        if words[0] == "del-instance" {
            std::fs::create_dir_all(catalog.join("backups/one")).unwrap();
            std::fs::create_dir_all(catalog.join("wal/one")).unwrap();
            std::fs::write(catalog.join("backups/one/pg_probackup.conf"), conf).unwrap();
        }
    }
}

#[test]
fn an_option_is_given_once_unless_the_original_takes_it_again() {
    for (long, short, kind) in OPTIONS {
        let value = value_of(kind);
        let word = format!("--{long}={value}");
        match kind {
            Text | Number(..) => {
                let name = name_in_messages(own_name(long), short);
                let shown = if long == "password" { "***" } else { value };
                let expected =
                    format!("ERROR: Option {name} should be specified only once: '{shown}'");
                assert_eq!(error_of(&[&word, &word]), expected);
            }
            Word(..) | Mapping => assert!(is_accepted(&[&word, &word]), "{long}"),
            Flag if long != "help" => {
                let word = format!("--{long}");
                let error = error_of(&[&word, &word]);
                assert!(error.ends_with(" should be specified only once"), "{error}");
            }
            Flag | FileOnly => {}
        }
    }
}

#[test]
fn an_abbreviation_that_means_two_options_is_refused_with_both() {
    for prefix in ["retention", "log-level", "no-", "remote-p"] {
        let output = run(&mut bare(&["show", &format!("--{prefix}")]));
        let meant = OPTIONS.iter().filter(|(long, ..)| long.starts_with(prefix));
        let mut possibilities = output.stderr.lines().next().unwrap().to_owned();
        for (long, ..) in meant {
            let quoted = format!(" '--{long}'");
            assert!(possibilities.contains(&quoted), "{output:#?}");
            possibilities = possibilities.replacen(&quoted, "", 1);
        }
        let expected = format!("gs_probackup: option '--{prefix}' is ambiguous; possibilities:");
        assert_eq!(possibilities, expected);
    }
}

#[test]
fn the_first_wrong_value_is_the_one_that_is_named() {
    for (words, message) in [
        (
            &["-j", "x", "--format=xml"][..],
            "Option -j, --threads should be",
        ),
        (&["--format=xml", "-j", "x"], "Invalid show format"),
        (&["-b", "x", "-M", "x"], "invalid backup-mode"),
        (&["-M", "x", "-b", "x"], "invalid media_type"),
        (
            &["--compress-algorithm=x", "-B", ""],
            "invalid compress algorithm",
        ),
    ] {
        let error = error_of(words);
        assert!(
            error.starts_with(&format!("ERROR: {message}")),
            "{words:?}: {error}"
        );
    }
}

#[test]
fn what_is_close_to_a_command_or_an_option_is_suggested() {
    let hint = |words: &[&str]| {
        let output = run(&mut bare(words));
        assert_eq!(output.code, Some(1), "{output:#?}");
        output.stderr.lines().last().unwrap().to_owned()
    };
    assert_eq!(hint(&["bakcup"]), "HINT: did you mean backup?");
    assert_eq!(
        hint(&["show", "--instnace=x"]),
        "HINT: did you mean --instance?"
    );
    assert!(hint(&["frobnicate"]).starts_with("ERROR: "));
}

/// Options of what the program does not do yet.
const LATER: [&str; 20] = [
    "with-encryption",
    "with-key",
    "with-salt",
    "with-device-params",
    "gen-key",
    "remote-host",
    "remote-port",
    "remote-path",
    "remote-user",
    "remote-libpath",
    "ssh-options",
    "ssh-config",
    "access-id",
    "access-key",
    "access-bucket",
    "endpoint",
    "region",
    "media-type",
    "s3-status",
    "timeline",
];

#[test]
fn what_comes_later_is_answered_with_one_line() {
    let scratch = tempfile::tempdir().unwrap();
    let instance = scratch.path().join("backups/one");
    std::fs::create_dir_all(&instance).unwrap();
    std::fs::write(instance.join("pg_probackup.conf"), "pgdata = /nosuch\n").unwrap();
    let catalog = format!("-B{}", scratch.path().display());
    let accepts = |command: &str, option: &str| match option {
        "timeline" => ["restore", "validate"].contains(&command),
        "s3-status" => command == "set-backup",
        _ => true,
    };
    for command in [
        "add-instance",
        "set-config",
        "backup",
        "restore",
        "validate",
        "merge",
    ] {
        for option in LATER {
            if !accepts(command, option) {
                continue;
            }
            let kind = OPTIONS.iter().find(|(long, ..)| *long == option).unwrap().2;
            let word = match (option, kind) {
                ("media-type", _) => "--media-type=s3".to_owned(),
                (_, Flag) => format!("--{option}"),
                (_, kind) => format!("--{option}={}", value_of(kind)),
            };
            let output = run(&mut bare(&[command, &catalog, "--instance=one", &word]));
            let shown = if option == "media-type" {
                "media-type=s3"
            } else {
                option
            };
            let expected = format!("ERROR: --{shown} is not supported yet\n");
            assert_eq!(
                (output.code, &*output.stderr),
                (Some(1), &*expected),
                "{command} {word}"
            );
        }
    }
}
