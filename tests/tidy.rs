//! Rules about the source text that no compiler and no lint checks: layers, imports, file headers,
//! where unsafe code is, line and file lengths, words that must not stay, and the list of fuzz
//! targets.
//!
//! Each rule is a plain function from a file to complaints; every complaint says what to do. The
//! tests below them show each rule a text that breaks it, so that a rule cannot rot into one that
//! is always content.

#[path = "tidy/messages.rs"]
mod messages;
#[path = "tidy/source.rs"]
mod source;

use source::{Source, contains_word, strip, words};
use source::{longest_super_chain, modules_used, use_statements};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Folders and files of `src` by layer, lowest first. A file uses its own folder and the layers
/// before its own.
const LAYERS: [&[&str]; 8] = [
    &["types"],
    &["limits", "monitor"],
    &["format", "codec"],
    &["io"],
    &["storage", "server"],
    &["catalog", "pipeline", "sample"],
    &["command"],
    &["cli", "main"],
];

/// Builders and faulty storage: only tests, benches and fuzz targets see it, and it sees
/// everything.
const TESTING: &str = "testing";

/// The files that may contain unsafe code; adding one is a decision to be argued in its commit.
const UNSAFE_FILES: [&str; 3] = [
    "src/io/buffer.rs",
    "src/io/dss_library.rs",
    "src/io/ring.rs",
];

const COLUMNS_MAX: usize = 100;
const FILE_LINES_MAX: usize = 700;

/// Files that are longer, with the length they must not exceed. Entries only shrink and go.
const LONG_FILES: [(&str, usize); 0] = [];

#[test]
fn source_follows_the_layers() {
    assert_tidy(check_layers);
}

#[test]
fn imports_name_what_they_import() {
    assert_tidy(check_globs);
}

#[test]
fn every_file_opens_with_its_purpose() {
    assert_tidy(check_header);
}

#[test]
fn unsafe_code_is_where_it_is_expected() {
    assert_tidy(check_unsafe);
}

#[test]
fn lines_and_files_are_short() {
    assert_tidy(check_lengths);
}

#[test]
fn nothing_is_left_for_later_without_a_number() {
    assert_tidy(check_words);
}

#[test]
fn the_list_of_long_files_only_shrinks() {
    for (path, lines_max) in LONG_FILES {
        let text = std::fs::read_to_string(root().join(path)).unwrap_or_default();
        let lines = text.lines().count();
        assert!(
            lines > FILE_LINES_MAX,
            "{path} has {lines} lines: take it out of LONG_FILES in tests/tidy.rs"
        );
        assert!(
            lines_max > FILE_LINES_MAX,
            "{path} needs no entry in LONG_FILES"
        );
    }
}

#[test]
fn fuzz_targets_and_their_manifest_agree() {
    let manifest =
        std::fs::read_to_string(root().join("fuzz/Cargo.toml")).expect("fuzz/Cargo.toml");
    let listed = listed_targets(&manifest);
    let present: BTreeSet<String> = files_below("fuzz/fuzz_targets")
        .iter()
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    let missing: Vec<_> = present.difference(&listed).collect();
    assert!(
        missing.is_empty(),
        "add a [[bin]] to fuzz/Cargo.toml for each of {missing:?}"
    );
    let stale: Vec<_> = listed.difference(&present).collect();
    assert!(
        stale.is_empty(),
        "fuzz/Cargo.toml lists {stale:?}: write fuzz/fuzz_targets/<name>.rs"
    );
}

fn assert_tidy(rule: fn(&Source) -> Vec<String>) {
    let complaints: Vec<String> = sources().iter().flat_map(rule).collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

fn check_layers(source: &Source) -> Vec<String> {
    let Some(own) = source.top_module() else {
        return Vec::new();
    };
    if own == "lib" || own == TESTING {
        return Vec::new();
    }
    let path = &source.path;
    let layer_of = |module: &str| LAYERS.iter().position(|layer| layer.contains(&module));
    let Some(own_layer) = layer_of(own) else {
        return vec![format!(
            "{path}: `{own}` is in no layer: add it to LAYERS in tests/tidy.rs"
        )];
    };
    let mut complaints = Vec::new();
    for used in modules_used(&source.code) {
        if used == own {
            continue;
        }
        let complaint = match layer_of(&used) {
            _ if used == TESTING => {
                "only tests, benches and fuzz targets may use it: move the helper \
                to where it is needed, or the user into a unit test"
                    .to_owned()
            }
            None => {
                "it is in no layer: name modules of the crate by `crate::<folder>::`".to_owned()
            }
            Some(layer) if layer > own_layer => {
                "it is above: pass what is needed as an argument, or move the shared part down"
                    .to_owned()
            }
            Some(layer) if layer == own_layer => {
                "folders of one layer do not see each other: move the shared part down, or let the \
                 caller join the two"
                    .to_owned()
            }
            Some(_) => continue,
        };
        complaints.push(format!("{path}: uses `crate::{used}`, but {complaint}"));
    }
    if longest_super_chain(&source.code) >= source.module_depth() {
        complaints.push(format!(
            "{path}: reaches the crate by `super::`: write `crate::` instead"
        ));
    }
    complaints
}

fn check_globs(source: &Source) -> Vec<String> {
    // Unit tests of `src` are not in `code`, and `use super::*` is all that they may.
    let in_code = use_statements(&source.code).filter(|used| {
        used.contains('*') && (source.path.starts_with("src/") || used.as_str() != "super::*")
    });
    let all = strip(&source.text);
    let in_tests = use_statements(&all).filter(|used| used.contains('*') && used != "super::*");
    let found: BTreeSet<String> = in_code.chain(in_tests).collect();
    found
        .iter()
        .map(|used| format!("{}: `use {used}`: name what is imported", source.path))
        .collect()
}

fn check_header(source: &Source) -> Vec<String> {
    if source.text.starts_with("//! ") {
        return Vec::new();
    }
    vec![format!(
        "{}: open the file with `//!`: what it is for and what it is not",
        source.path
    )]
}

fn check_unsafe(source: &Source) -> Vec<String> {
    let allowed = UNSAFE_FILES.contains(&source.path.as_str());
    let all = strip(&source.text);
    let found = words(&all).any(|word| word == "unsafe")
        || all.contains(concat!("allow(", "unsafe_code")) && !allowed;
    if !found || allowed {
        return Vec::new();
    }
    vec![format!(
        "{}: contains unsafe code: use what {UNSAFE_FILES:?} offer, or argue for a third",
        source.path
    )]
}

fn check_lengths(source: &Source) -> Vec<String> {
    let path = &source.path;
    let mut complaints: Vec<String> = source
        .text
        .lines()
        .zip(1..)
        .filter(|(line, _)| line.chars().count() > COLUMNS_MAX)
        // A line of data that a test takes as it is on disk cannot be broken.
        .filter(|(line, _)| !line.trim_start().starts_with("r#\""))
        .map(|(_, number)| format!("{path}:{number}: longer than {COLUMNS_MAX} columns: break it"))
        .collect();
    let lines = source.text.lines().count();
    let known = LONG_FILES
        .iter()
        .find(|(long, _)| *long == path)
        .map(|(_, lines)| *lines);
    let lines_max = known.unwrap_or(FILE_LINES_MAX);
    if lines > lines_max {
        complaints.push(format!(
            "{path}: {lines} lines, {lines_max} allowed: split it by topic"
        ));
    }
    complaints
}

fn check_words(source: &Source) -> Vec<String> {
    // Written apart, or this file would break the rule.
    let forbidden = [
        (concat!("FIX", "ME"), "do it now or open an issue"),
        (concat!("X", "XX"), "say what is meant"),
        (concat!("to", "do!"), "return an error or write it"),
        (
            concat!("#[ig", "nore"),
            "a test runs or goes; what is optional skips aloud",
        ),
    ];
    let mut complaints = Vec::new();
    for (line, number) in source.text.lines().zip(1..) {
        for (word, remedy) in forbidden {
            if contains_word(line, word) {
                complaints.push(format!("{}:{number}: `{word}`: {remedy}", source.path));
            }
        }
        let later = concat!("TO", "DO");
        if contains_word(line, later) && !line.contains(&format!("{later}(#")) {
            complaints.push(format!(
                "{}:{number}: name the issue: `{later}(#n)`",
                source.path
            ));
        }
    }
    complaints
}

fn listed_targets(manifest: &str) -> BTreeSet<String> {
    let sections = manifest.split("[[bin]]").skip(1);
    sections
        .filter_map(|section| {
            let line = section
                .lines()
                .find(|line| line.trim_start().starts_with("name"))?;
            Some(line.split('"').nth(1)?.to_owned())
        })
        .collect()
}

fn sources() -> Vec<Source> {
    let folders = ["src", "tests", "benches", "fuzz/fuzz_targets"];
    let mut sources: Vec<Source> = folders
        .into_iter()
        .flat_map(files_below)
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("sources are UTF-8");
            let relative = path.strip_prefix(root()).expect("below the root");
            Source::new(&relative.to_string_lossy(), &text)
        })
        .collect();
    assert!(
        sources.len() > 20,
        "only {} source files found",
        sources.len()
    );
    let declared = |is_test: bool| move |source: &Source| source.test_modules(is_test);
    let mut test_modules: Vec<String> = sources.iter().flat_map(declared(false)).collect();
    // Modules of tests may have modules, which need not say again that they are for tests.
    let of_tests = sources
        .iter()
        .filter(|source| source.is_part_of(&test_modules));
    let nested: Vec<String> = of_tests.flat_map(declared(true)).collect();
    test_modules.extend(nested);
    for source in &mut sources {
        if source.is_part_of(&test_modules) {
            source.code.clear();
        }
    }
    sources
}

/// All `.rs` files of a folder and the folders in it; none where there is no such folder.
fn files_below(folder: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.expect("a readable directory").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

mod rules_notice_what_they_are_for {
    use super::*;

    fn complaints(rule: fn(&Source) -> Vec<String>, path: &str, text: &str) -> usize {
        rule(&Source::new(path, text)).len()
    }

    #[test]
    fn upward_and_sideways_arrows_are_refused() {
        let layers = |path, text| complaints(check_layers, path, text);
        assert_eq!(
            layers("src/format/wal/page.rs", "use crate::types::Lsn;"),
            0
        );
        assert_eq!(
            layers("src/format/wal/page.rs", "use crate::format::page::Page;"),
            0
        );
        assert_eq!(
            layers("src/format/wal/page.rs", "use crate::storage::Storage;"),
            1
        );
        assert_eq!(
            layers("src/format/wal/page.rs", "fn f() { crate::codec::f() }"),
            1
        );
        assert_eq!(
            layers(
                "src/catalog/mod.rs",
                "use crate::{pipeline::{a, b}, types, cli};"
            ),
            2
        );
        assert_eq!(
            layers("src/catalog/mod.rs", "use crate::{\n    types::{A, B},\n};"),
            0
        );
        assert_eq!(
            layers("src/pipeline/read.rs", "use crate::testing::Page;"),
            1
        );
        assert_eq!(layers("src/unknown/mod.rs", ""), 1);
        assert_eq!(layers("src/io/ring.rs", "use super::super::cli::main;"), 1);
        assert_eq!(layers("src/limits.rs", "use super::cli::main;"), 1);
        assert_eq!(layers("src/format/page/mod.rs", "use super::wal::Lsn;"), 0);
    }

    #[test]
    fn unit_tests_and_comments_may_look_up() {
        let layers = |text| complaints(check_layers, "src/format/page.rs", text);
        assert_eq!(layers("//! Used by [`crate::command`].\nfn f() {}"), 0);
        assert_eq!(layers("fn f() { g(\"crate::command\") }"), 0);
        assert_eq!(
            layers("#[cfg(test)]\nmod tests {\n    use crate::testing::Page;\n}"),
            0
        );
    }

    #[test]
    fn files_for_tests_only_are_known_by_their_declaration() {
        let text = "#[cfg(test)]\nmod a;\nmod b;\n#[cfg(test)]\n#[path = \"d.rs\"]\nmod c;\n";
        let modules = Source::new("src/io/ring.rs", text).test_modules(false);
        assert_eq!(modules, ["src/io/ring/a", "src/io/d"]);
        let nested = Source::new("src/io/ring.rs", text).test_modules(true);
        assert_eq!(nested, ["src/io/ring/a", "src/io/ring/b", "src/io/d"]);
        assert_eq!(
            Source::new("src/io/mod.rs", text).test_modules(false)[0],
            "src/io/a"
        );
        let is_part = |path| Source::new(path, "").is_part_of(&modules);
        assert!(is_part("src/io/ring/a.rs") && is_part("src/io/ring/a/x.rs"));
        assert!(!is_part("src/io/ring/ab.rs"));
    }

    #[test]
    fn glob_imports_are_refused() {
        let globs = |text| complaints(check_globs, "src/io/mod.rs", text);
        assert_eq!(globs("use std::io::*;"), 1);
        assert_eq!(globs("pub use self::{\n    ring::*,\n    sync::A,\n};"), 1);
        assert_eq!(globs("use super::*;"), 1);
        assert_eq!(globs("#[cfg(test)]\nmod tests {\n    use super::*;\n}"), 0);
        assert_eq!(
            globs("#[cfg(test)]\nmod tests {\n    use std::io::*;\n}"),
            1
        );
        assert_eq!(globs("use a::B;\nconst C: usize = 2 * 3;"), 0);
    }

    #[test]
    fn unsafe_code_is_refused_outside_two_files() {
        let found = |path, text| complaints(check_unsafe, path, text);
        assert_eq!(found("src/io/ring.rs", "fn f() { unsafe { g() } }"), 0);
        assert_eq!(found("src/io/sync.rs", "fn f() { unsafe { g() } }"), 1);
        assert_eq!(
            found("src/io/sync.rs", concat!("#![allow(", "unsafe_code)]")),
            1
        );
        assert_eq!(
            found(
                "src/io/sync.rs",
                "// no unsafe code here\nlet unsafe_code = \"unsafe\";"
            ),
            0
        );
    }

    #[test]
    fn long_lines_long_files_and_missing_headers_are_refused() {
        let lengths = |text: &str| complaints(check_lengths, "src/a.rs", text);
        assert_eq!(lengths(&"x".repeat(COLUMNS_MAX)), 0);
        assert_eq!(lengths(&"x".repeat(COLUMNS_MAX + 1)), 1);
        assert_eq!(lengths(&"\u{e4}".repeat(COLUMNS_MAX)), 0);
        assert_eq!(lengths(&"x\n".repeat(FILE_LINES_MAX)), 0);
        assert_eq!(lengths(&"x\n".repeat(FILE_LINES_MAX + 1)), 1);
        assert_eq!(
            complaints(check_header, "src/a.rs", "//! What it is for.\n"),
            0
        );
        assert_eq!(
            complaints(check_header, "src/a.rs", "// What it is for.\n"),
            1
        );
        assert_eq!(
            complaints(check_header, "src/a.rs", "use a::B;\n//! Late.\n"),
            1
        );
    }

    #[test]
    fn leftovers_are_refused() {
        let found = |text: &str| complaints(check_words, "src/a.rs", text);
        assert_eq!(found(concat!("// FIX", "ME: later")), 1);
        assert_eq!(found(concat!("fn f() { to", "do!() }")), 1);
        assert_eq!(found(concat!("    #[ig", "nore = \"slow\"]")), 1);
        assert_eq!(found(concat!("// TO", "DO: later")), 1);
        assert_eq!(found(concat!("// TO", "DO(#7): later")), 0);
        assert_eq!(found("let name = \"backupXXXXXX\";"), 0);
    }

    #[test]
    fn stripping_keeps_code_and_lines() {
        let text = "a /* b\n */ c // d\n\"e \\\" // f\" g 'h' '\\'' 'i r#\"j\"k\"# br\"l\"";
        assert_eq!(strip(text), "a \n c \n g   'i  b");
    }

    #[test]
    fn fuzz_targets_are_read_from_the_manifest() {
        let package = "[package]\nname = \"p\"\n";
        let targets = "[[bin]]\nname = \"a\"\npath = \"x\"\n\n[[bin]]\nname = \"b\"\n";
        assert_eq!(
            listed_targets(&format!("{package}{targets}")),
            BTreeSet::from(["a".to_owned(), "b".to_owned()])
        );
    }
}
