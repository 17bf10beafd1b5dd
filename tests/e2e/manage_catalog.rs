//! Making a catalog, registering clusters in it, and the messages of the original about arguments.

use crate::fixtures;
use crate::support::{Output, assert_success, bare, gs_probackup, run};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn last_error(output: &Output) -> &str {
    assert_eq!(output.code, Some(1), "{output:#?}");
    let mut errors = output
        .stderr
        .lines()
        .filter(|line| line.starts_with("ERROR: "));
    errors.next_back().unwrap_or_else(|| panic!("{output:#?}"))
}

#[test]
fn a_catalog_and_an_instance_are_made_as_the_original_makes_them() {
    let Some(gauss) = fixtures::gauss() else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let catalog = scratch.path().join("backup");
    let pgdata = scratch.path().join("data");
    fixtures::write_control_file(&pgdata, &gauss);
    let output = gs_probackup(&["init"], &catalog);
    assert_success(&output);
    assert_eq!(
        output.stderr,
        format!(
            "INFO: Backup catalog '{}' successfully inited\n",
            catalog.display()
        )
    );
    let pgdata = pgdata.display().to_string();
    let arguments = ["add-instance", "--instance=none", "-D", &pgdata];
    let output = gs_probackup(&arguments, &catalog);
    assert_success(&output);
    assert_eq!(output.stderr, "INFO: Instance 'none' successfully inited\n");
    let conf = catalog.join("backups/none/pg_probackup.conf");
    assert_eq!(
        fs::read_to_string(conf).unwrap(),
        format!(
            "# Backup instance information\npgdata = {pgdata}\n\
             system-identifier = 215046882207013887\n"
        )
    );
    for name in ["", "backups", "wal", "backups/none", "wal/none"] {
        let metadata = fs::metadata(catalog.join(name)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o700, "{name}");
    }
    assert_eq!(
        last_error(&gs_probackup(&arguments, &catalog)),
        format!(
            "ERROR: Instance 'none' backup directory already exists: '{}'",
            catalog.join("backups/none").display()
        )
    );
    assert_eq!(
        last_error(&gs_probackup(&["init"], &catalog)),
        "ERROR: backup catalog already exist and it's not empty"
    );
}

#[test]
fn what_is_no_cluster_or_no_name_is_not_registered() {
    let scratch = tempfile::tempdir().unwrap();
    let catalog = scratch.path().join("backup");
    assert_success(&gs_probackup(&["init"], &catalog));
    let add = |name: &str, pgdata: &Path| {
        let name = format!("--instance={name}");
        let pgdata = pgdata.display().to_string();
        gs_probackup(&["add-instance", &name, "-D", &pgdata], &catalog)
    };
    let missing = scratch.path().join("nosuch");
    assert_eq!(
        last_error(&add("new", &missing)),
        format!(
            "ERROR: Could not open file \"{}\" for reading: No such file or directory",
            missing.join("global/pg_control").display()
        )
    );
    let damaged = scratch.path().join("damaged");
    fs::create_dir_all(damaged.join("global")).unwrap();
    for bytes in [&b""[..], &[7; 100], &[7; 8192]] {
        fs::write(damaged.join("global/pg_control"), bytes).unwrap();
        assert!(last_error(&add("new", &damaged)).contains("pg_control"));
    }
    assert_eq!(
        last_error(&gs_probackup(&["add-instance", "--instance=new"], &catalog)),
        "ERROR: Required parameter not specified: PGDATA (-D, --pgdata)"
    );
    // The original makes a directory `a` of the instance `a/b`; here that is no name.
    let Some(gauss) = fixtures::gauss() else {
        return;
    };
    let pgdata = scratch.path().join("data");
    fixtures::write_control_file(&pgdata, &gauss);
    assert!(
        last_error(&add("a/b", &pgdata)).starts_with("ERROR: Instance name 'a/b' is not valid")
    );
    assert_eq!(fs::read_dir(catalog.join("backups")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(catalog.join("wal")).unwrap().count(), 0);
}

/// The words of a recorded command line, after the program's name.
fn recorded_words(text: &str) -> Option<Vec<String>> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("$ gs_probackup "))?;
    Some(
        line.split_ascii_whitespace()
            .map(|word| word.replace('\'', ""))
            .collect(),
    )
}

/// Every `--option` in a text.
fn options_in(text: &str) -> Vec<String> {
    let words = text.split(|c: char| c.is_ascii_whitespace() || "[]|(),'".contains(c));
    let mut options = words
        .filter_map(|word| word.strip_prefix("--"))
        .map(|word| word.split('=').next().unwrap().to_owned())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>();
    options.sort();
    options.dedup();
    options
}

#[test]
fn every_option_in_the_help_of_the_original_is_known() {
    let Some(gauss) = fixtures::gauss() else {
        return;
    };
    let mut seen = 0;
    for entry in fs::read_dir(gauss.join("transcripts")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !name.starts_with("help") || !name.ends_with(".stdout") {
            continue;
        }
        for option in options_in(&fs::read_to_string(&path).unwrap()) {
            let option = format!("--{option}");
            // Whether it takes a value is not said everywhere: one of the two forms has to do.
            let alone = run(&mut bare(&["show", &option, "--help"]));
            let valued = run(&mut bare(&["show", &format!("{option}=1"), "--help"]));
            let known = [&alone, &valued]
                .into_iter()
                .any(|output| !output.stderr.contains("Option is not found"));
            assert!(known, "{name}: {option}: {}", valued.stderr);
            seen += 1;
        }
    }
    assert!(seen > 200, "{seen}");
}

#[test]
fn help_and_version_go_to_the_standard_output() {
    for words in [&["help"][..], &["--help"], &["-?"]] {
        let output = run(&mut bare(words));
        assert_success(&output);
        assert!(output.stdout.contains("gs_probackup backup -B backup-path"));
    }
    for words in [&["version"][..], &["--version"], &["-V"]] {
        let output = run(&mut bare(words));
        assert_success(&output);
        assert!(output.stdout.starts_with("gs_probackup "));
        assert_eq!(output.stdout.lines().count(), 1);
    }
    let by_topic = run(&mut bare(&["help", "show"]));
    let by_option = run(&mut bare(&["show", "--help"]));
    assert_eq!(by_topic, by_option);
    assert!(
        by_topic
            .stdout
            .starts_with("\ngs_probackup show -B backup-path [")
    );
    let Some(gauss) = fixtures::gauss() else {
        return;
    };
    for name in ["help-version", "help-help", "help-archive-push"] {
        let transcript = gauss.join("transcripts").join(name);
        let recorded = fs::read_to_string(transcript.with_extension("cmd")).unwrap();
        let words = recorded_words(&recorded).unwrap();
        let words = words.iter().map(String::as_str).collect::<Vec<_>>();
        let expected = fs::read_to_string(transcript.with_extension("stdout")).unwrap();
        assert_eq!(run(&mut bare(&words)).stdout, expected, "{name}");
    }
    let nothing = run(&mut bare(&[]));
    assert_eq!(last_error(&nothing), "ERROR: No subcommand specified");
}

#[test]
fn the_environment_names_a_catalog_and_the_command_line_another() {
    let scratch = tempfile::tempdir().unwrap();
    let catalog = scratch.path().join("backup");
    let output = run(bare(&["init"]).env("BACKUP_PATH", &catalog));
    assert_success(&output);
    let other = scratch.path().join("other");
    let words = ["init", "-B", other.to_str().unwrap()];
    assert_success(&run(bare(&words).env("BACKUP_PATH", &catalog)));
    assert!(other.join("backups").is_dir());
    let quiet = run(&mut bare(&[
        "show",
        "-B",
        words[2],
        "--log-level-console=error",
    ]));
    assert_eq!((quiet.stderr.as_str(), quiet.code), ("", Some(0)));
}
