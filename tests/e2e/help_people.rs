//! What the program says of itself: man pages, completions, the list of what differs.

use crate::support::{Output, assert_success, bare, run};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn printed(words: &[&str]) -> String {
    let output = run(&mut bare(words));
    assert_success(&output);
    output.stdout
}

/// The commands that the help lists.
fn commands() -> Vec<String> {
    let text = printed(&["help"]);
    let (_, list) = text.split_once("\nCommands:\n").unwrap();
    let lines = list.lines().take_while(|line| line.starts_with("  "));
    lines
        .map(|line| line.split_ascii_whitespace().next().unwrap().to_owned())
        .collect()
}

/// Whether a program of this name can be started.
fn is_installed(name: &str) -> bool {
    let mut found = Command::new(name);
    found
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    found.status().is_ok()
}

#[test]
fn man_pages_are_those_of_this_program() {
    let mut expected = BTreeSet::from(["gs_probackup.1".to_owned()]);
    let check = |name: &str, words: &[&str]| {
        let path = project("docs/man").join(name);
        let kept = fs::read_to_string(&path).unwrap_or_default();
        let words = words.join(" ");
        assert!(
            kept == printed(&words.split(' ').collect::<Vec<_>>()),
            "docs/man/{name} is not current: gs_probackup {words} > docs/man/{name}"
        );
    };
    check("gs_probackup.1", &["man"]);
    for command in commands() {
        let name = format!("gs_probackup-{command}.1");
        check(&name, &["man", &command]);
        expected.insert(name);
    }
    let kept: BTreeSet<String> = fs::read_dir(project("docs/man"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(kept, expected);
}

#[test]
fn completions_of_the_package_are_those_of_this_program() {
    for (shell, name) in [
        ("bash", "gs_probackup.bash"),
        ("zsh", "_gs_probackup"),
        ("fish", "gs_probackup.fish"),
    ] {
        let kept = fs::read_to_string(project("packaging/completions").join(name));
        assert!(
            kept.unwrap_or_default() == printed(&["completions", shell]),
            "packaging/completions/{name} is not current: gs_probackup completions {shell}"
        );
    }
}

#[test]
fn man_pages_have_no_mistakes_that_groff_knows() {
    if !is_installed("groff") {
        return;
    }
    for command in commands() {
        let path = project("docs/man").join(format!("gs_probackup-{command}.1"));
        let output = Command::new("groff")
            .args(["-man", "-ww", "-Tascii", "-z"])
            .arg(path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.is_empty(),
            "{command}: {said}"
        );
    }
}

/// What bash completes after these words.
fn bash_completes(words: &[&str]) -> BTreeSet<String> {
    let script = printed(&["completions", "bash"]);
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let line = format!(
        "{script}\nCOMP_WORDS=({}); COMP_CWORD={}; _gs_probackup\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        quoted.join(" "),
        words.len() - 1
    );
    let output = Command::new("bash")
        .args(["--norc", "-uc", &line])
        .output()
        .unwrap();
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn bash_completes_commands_options_and_values() {
    if !is_installed("bash") {
        return;
    }
    let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    assert_eq!(bash_completes(&["gs_probackup", "va"]), set(&["validate"]));
    let options = bash_completes(&["gs_probackup", "backup", "--comp"]);
    assert_eq!(
        options,
        set(&["--compress", "--compress-algorithm", "--compress-level"])
    );
    let lists = |words: &[&str], expected: &[&str]| {
        assert_eq!(bash_completes(words), set(expected), "{words:?}");
    };
    lists(&["gs_probackup", "backup", "-b", "P"], &["PTRACK"]);
    lists(
        &["gs_probackup", "backup", "-b", ""],
        &["FULL", "PTRACK", "DELTA"],
    );
    lists(&["gs_probackup", "show", "--format", "j"], &["json"]);
    lists(
        &["gs_probackup", "show", "--format", "="],
        &["json", "plain"],
    );
    lists(&["gs_probackup", "show", "--format", "=", "p"], &["plain"]);
    lists(&["gs_probackup", "backup", "--note", ""], &[]);
    lists(&["gs_probackup", "completions", "f"], &["fish"]);
    let directories = bash_completes(&["gs_probackup", "show", "-B", "/us"]);
    assert!(directories.contains("/usr"), "{directories:?}");
}

#[test]
fn other_shells_read_their_completions() {
    for shell in ["zsh", "fish"] {
        let script = printed(&["completions", shell]);
        assert!(script.contains("validate"), "{shell}");
        if !is_installed(shell) {
            continue;
        }
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("completions");
        fs::write(&path, script).unwrap();
        let output = Command::new(shell).arg("-n").arg(&path).output().unwrap();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{shell}: {output:?}"
        );
    }
    let refused = |words: &[&str], message: &str| {
        let Output { code, stderr, .. } = run(&mut bare(words));
        assert_eq!((code, &*stderr), (Some(1), message));
    };
    refused(
        &["completions", "tcsh"],
        "ERROR: no completions for \"tcsh\": there are those for bash, zsh, fish\n",
    );
    refused(&["completions"], "ERROR: name the shell: bash, zsh, fish\n");
}

/// Every `--option` in the table of options in the documentation.
fn documented_options() -> BTreeSet<String> {
    let text = fs::read_to_string(project("docs/compatibility.md")).unwrap();
    let (_, table) = text
        .split_once("\n| option | compared with the original | how |\n")
        .unwrap();
    let rows = table
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with('|'));
    let words = rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`'));
    words
        .filter_map(|word| word.strip_prefix("--"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_option_of_the_original_and_of_ours_is_in_the_table_of_the_documentation() {
    let documented = documented_options();
    let original = crate::accept_options::names();
    let shown = commands().into_iter().flat_map(|command| {
        let text = printed(&["help", &command]);
        let words = text.split(|c: char| c.is_ascii_whitespace() || "[]='".contains(c));
        let options = words.filter_map(|word| word.strip_prefix("--"));
        options.map(str::to_owned).collect::<Vec<_>>()
    });
    for option in shown.chain(original.iter().map(|name| (*name).to_owned())) {
        let option = option.trim_end_matches([',', ')']).to_owned();
        assert!(
            documented.contains(&option),
            "docs/compatibility.md lacks --{option}"
        );
    }
    for option in &documented {
        let known = original.contains(&&**option)
            || run(&mut bare(&["show", &format!("--{option}"), "--help"])).code == Some(0)
            || run(&mut bare(&["show", &format!("--{option}=1"), "--help"])).code == Some(0);
        assert!(known, "there is no --{option}");
    }
}
