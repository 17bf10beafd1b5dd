//! Every recorded run of the original is repeated here: same exit code, same lines, but for the
//! differences of a list, each of which `docs/compatibility.md` explains.
//!
//! A difference that a run no longer shows fails the test, as does a recorded run that the table
//! neither repeats nor gives a reason for.

mod damage;
mod table;

use crate::fixtures;
use crate::support::{Output, bare, run};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use table::{Difference, SESSIONS, SKIPPED, Session};

/// A recorded run.
struct Transcript {
    /// What was done to the catalog before, as the first comment says.
    preparation: String,
    words: Vec<String>,
    code: i32,
    stdout: String,
    stderr: String,
}

impl Transcript {
    fn read(gauss: &Path, name: &str) -> Transcript {
        let path = gauss.join("transcripts").join(name);
        let text = |extension: &str| {
            let mut path = path.clone().into_os_string();
            path.push(extension);
            fs::read_to_string(path).unwrap_or_default()
        };
        let command = text(".cmd");
        let start = command.find("$ gs_probackup").unwrap();
        let (line, code) = command[start..].rsplit_once("\n# exit code ").unwrap();
        Transcript {
            preparation: command[..start].trim_end().to_owned(),
            words: words(line.strip_prefix("$ gs_probackup").unwrap()),
            code: code.trim().parse().unwrap(),
            stdout: text(".stdout"),
            stderr: text(".stderr"),
        }
    }
}

/// The words of a line as a shell splits it, which here means at blanks outside of single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = None;
    let mut quoted = false;
    for character in line.chars() {
        match character {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_with(String::new);
            }
            ' ' if !quoted => words.extend(word.take()),
            other => word.get_or_insert_with(String::new).push(other),
        }
    }
    words.extend(word);
    words
}

/// Where the recorded paths are here.
struct Place<'a> {
    root: &'a Path,
}

impl Place<'_> {
    /// The tablespace stays where it was: no run writes there.
    fn here(&self, text: &str) -> String {
        let root = self.root.display();
        ["backup", "restore", "data", "sql", "nosuch"]
            .iter()
            .fold(text.to_owned(), |text, name| {
                text.replace(&format!("/gauss/{name}"), &format!("{root}/{name}"))
            })
    }
}

/// Lines that say something. What a terminal shows on one line comes in pieces.
fn lines(text: &str) -> Vec<String> {
    let text = text.replace('\r', "\n");
    let lines = text.lines().map(str::trim_end);
    lines
        .filter(|line| !line.is_empty())
        .map(without_time)
        .collect()
}

// How long something took is another time in each run.
fn without_time(line: &str) -> String {
    match line.split_once("time elapsed: ") {
        Some((before, _)) => format!("{before}time elapsed: …"),
        None => line.to_owned(),
    }
}

/// Takes out what the differences are about, and notes which of them were seen.
fn compare(
    theirs: &[String],
    ours: &[String],
    differences: &[&'static Difference],
    seen: &mut BTreeSet<&'static str>,
) -> (Vec<String>, Vec<String>) {
    let mut without =
        |lines: &[String], patterns: fn(&'static Difference) -> &'static [&'static str]| {
            let mut kept = Vec::new();
            for line in lines {
                let known = differences.iter().find(|difference| {
                    patterns(difference)
                        .iter()
                        .any(|pattern| line.contains(pattern))
                });
                match known {
                    Some(difference) => drop(seen.insert(difference.name)),
                    None => kept.push(line.clone()),
                }
            }
            kept
        };
    let mut theirs = without(theirs, |difference| difference.theirs);
    let mut ours = without(ours, |difference| difference.ours);
    if let Some(order) = differences.iter().find(|difference| difference.is_order)
        && theirs != ours
    {
        seen.insert(order.name);
        theirs.sort();
        ours.sort();
    }
    (theirs, ours)
}

/// What is wrong with a run, as text for whoever reads the failed test.
fn check(theirs: &Transcript, ours: &Output, step: &table::Step, place: &Place<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    let expected = step.code.unwrap_or(theirs.code);
    if ours.code != Some(expected) || step.code == Some(theirs.code) {
        wrong.push(format!(
            "exit code {:?}, recorded {}",
            ours.code, theirs.code
        ));
    }
    let mut seen = BTreeSet::new();
    let mut differences: Vec<&'static Difference> = step.differences.to_vec();
    differences.extend(table::ALWAYS);
    for (theirs, ours) in [
        (&theirs.stdout, &ours.stdout),
        (&theirs.stderr, &ours.stderr),
    ] {
        let (theirs, ours) = (lines(&place.here(theirs)), lines(ours));
        let (theirs, ours) = compare(&theirs, &ours, &differences, &mut seen);
        if theirs != ours {
            wrong.push(format!("ours: {ours:#?}\nrecorded: {theirs:#?}"));
        }
    }
    for difference in step.differences {
        if !seen.contains(difference.name) {
            wrong.push(format!("{} is no difference", difference.name));
        }
    }
    let is_json = |text: &str| serde_json::from_str::<serde_json::Value>(text).is_ok();
    if is_json(&ours.stdout) != is_json(&theirs.stdout) {
        wrong.push("one is JSON and the other is not".to_owned());
    }
    wrong
}

/// A catalog of a session, in which no file is shared with another one once it is changed.
fn prepare(session: &Session, unpacked: &Path, place: &Place<'_>, gauss: &Path) {
    let catalog = place.root.join("backup");
    for name in ["backup", "restore"] {
        let _ = fs::remove_dir_all(place.root.join(name));
        fs::create_dir_all(place.root.join(name)).unwrap();
    }
    fs::create_dir_all(place.root.join("restore/nonempty")).unwrap();
    fs::write(place.root.join("restore/nonempty/x"), "x").unwrap();
    for name in session.catalogs {
        damage::link_tree(&unpacked.join(name), &catalog);
    }
    for name in ["backups", "wal"] {
        fs::create_dir_all(catalog.join(name)).unwrap();
    }
    for instance in fs::read_dir(catalog.join("backups")).unwrap() {
        let conf = instance.unwrap().path().join("pg_probackup.conf");
        damage::change(&conf, |bytes| {
            *bytes = place.here(std::str::from_utf8(bytes).unwrap()).into_bytes();
        });
    }
    if let Some(like) = session.prepared_like {
        damage::apply(&Transcript::read(gauss, like).preparation, &catalog);
    }
}

/// Runs the sessions of one kind; the catalogs are unpacked once.
fn run_sessions(kind: table::Kind) {
    let Some(gauss) = fixtures::gauss() else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let unpacked = scratch.path().join("unpacked");
    let root = scratch.path().join("here");
    let place = Place { root: &root };
    // The server's data directory: not empty, and enough of a cluster to be registered.
    fixtures::write_control_file(&root.join("data/dn1"), &gauss);
    let sessions = SESSIONS.iter().filter(|session| session.kind == kind);
    let mut count = 0;
    let mut failures = Vec::new();
    for session in sessions {
        for name in session.catalogs {
            let target = unpacked.join(name);
            if !target.exists() {
                fs::create_dir_all(&target).unwrap();
                damage::unpack(&gauss, name, &target, kind == table::Kind::Records);
            }
        }
        prepare(session, &unpacked, &place, &gauss);
        for step in session.steps {
            let name = step.name;
            let transcript = Transcript::read(&gauss, name);
            let words: Vec<String> = transcript
                .words
                .iter()
                .map(|word| place.here(word))
                .collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let mut command = bare(&words);
            // The account of the recorded runs; the server of the program's surroundings is none.
            let output = run(command.env("PGDATABASE", "omm").env_remove("PGPORT"));
            let wrong = check(&transcript, &output, step, &place);
            failures.extend(wrong.iter().map(|wrong| format!("{name}: {wrong}")));
            count += 1;
        }
    }
    assert!(count > 0);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn runs_that_need_the_records_only_are_as_recorded() {
    run_sessions(table::Kind::Records);
}

#[test]
fn validating_is_as_recorded() {
    run_sessions(table::Kind::Validate);
}

#[test]
fn restoring_is_as_recorded() {
    run_sessions(table::Kind::Restore);
}

/// All recorded runs.
fn recorded(gauss: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(gauss.join("transcripts"))
        .unwrap()
        .filter_map(|entry| {
            let path: PathBuf = entry.unwrap().path();
            let name = path.file_name()?.to_str()?.strip_suffix(".cmd")?.to_owned();
            Some(name)
        })
        .collect();
    names.sort();
    names
}

#[test]
fn every_recorded_run_is_repeated_or_left_out_for_a_reason() {
    let Some(gauss) = fixtures::gauss() else {
        return;
    };
    let steps = SESSIONS.iter().flat_map(|session| session.steps);
    let repeated: BTreeSet<&str> = steps.map(|step| step.name).collect();
    let names = recorded(&gauss);
    let mut skips = BTreeSet::new();
    for name in &names {
        let skipped = SKIPPED
            .iter()
            .find(|skip| match skip.name.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => name == skip.name,
            });
        let is_repeated = repeated.contains(&**name);
        assert!(
            is_repeated || skipped.is_some(),
            "nothing is known about {name}"
        );
        if let (false, Some(skip)) = (is_repeated, skipped) {
            skips.insert(skip.name);
        }
    }
    for name in &repeated {
        assert!(
            names.iter().any(|known| known == name),
            "{name} is not recorded"
        );
    }
    for skip in SKIPPED {
        assert!(
            skips.contains(skip.name),
            "{} leaves nothing out",
            skip.name
        );
        assert!(skip.reason.len() > 20, "{}", skip.name);
    }
}

#[test]
fn every_difference_is_explained_in_the_documentation() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/compatibility.md");
    let text = fs::read_to_string(path).unwrap();
    let steps = SESSIONS.iter().flat_map(|session| session.steps);
    let differences = steps
        .flat_map(|step| step.differences)
        .chain(&table::ALWAYS);
    for difference in differences {
        let row = format!("| {} | ", difference.name);
        assert!(text.contains(&row), "{row}");
    }
}
