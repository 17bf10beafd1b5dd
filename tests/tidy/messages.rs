//! The messages that `docs/compatibility.md` calls the same as the original's are in the source.
//!
//! `messages.txt` has the original's texts by the rows of that table; every row that says "same"
//! has some. A text counts as said where one file of `src` has all the words between its holes.

const TEXTS: &str = include_str!("messages.txt");

/// The texts by class.
fn classes() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut classes: Vec<(&str, Vec<&str>)> = Vec::new();
    let lines = TEXTS.lines();
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            Some(class) => classes.push((class, Vec::new())),
            None => classes.last_mut().expect("a class first").1.push(line),
        }
    }
    classes
}

/// What is between the holes of a text; what is too short says nothing.
fn fragments(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        found.push(before);
        let is_flag = |c: char| c.is_ascii_digit() || "-+.zl".contains(c);
        let conversion = after.trim_start_matches(is_flag);
        rest = conversion.get(1..).unwrap_or_default();
    }
    found.push(rest);
    let trimmed = found.into_iter().map(str::trim);
    trimmed.filter(|part| part.len() >= 4).collect()
}

/// A file's text as its strings read: continued lines joined, comments left out.
fn strings(text: &str) -> String {
    let mut lines = String::new();
    let mut continues = false;
    for line in text.lines() {
        let trimmed = line.trim_start();
        if !continues && trimmed.starts_with("//") {
            continue;
        }
        let line = if continues { trimmed } else { line };
        match line.strip_suffix('\\') {
            Some(begin) => lines.push_str(begin),
            None => {
                lines.push_str(line);
                lines.push('\n');
            }
        }
        continues = line.ends_with('\\');
    }
    lines.replace("\\\"", "\"")
}

fn is_said(text: &str, sources: &[String]) -> bool {
    let parts = fragments(text);
    sources
        .iter()
        .any(|source| parts.iter().all(|part| source.contains(part)))
}

/// The rows of the table of messages: what they are about, and how they compare.
fn rows(document: &str) -> Vec<(&str, &str)> {
    let section = document.split("\n## Messages\n").nth(1).expect("the table");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        Some((cells.next()?, cells.next()?))
    });
    rows.filter(|(about, _)| *about != "messages about")
        .collect()
}

#[test]
fn messages_that_are_called_the_same_are_said() {
    let document = std::fs::read_to_string(super::root().join("docs/compatibility.md"));
    let document = document.expect("docs/compatibility.md");
    let rows = rows(&document);
    assert!(rows.len() > 20, "{rows:?}");
    let classes = classes();
    for (about, compared) in &rows {
        let class = classes.iter().find(|(class, _)| about.starts_with(class));
        assert!(
            class.is_some_and(|(_, texts)| !texts.is_empty()) || !compared.starts_with("same"),
            "docs/compatibility.md calls the messages about {about} the same: add them to \
             tests/tidy/messages.txt"
        );
    }
    let files = super::files_below("src").into_iter();
    let texts = files.map(|path| std::fs::read_to_string(path).expect("sources are UTF-8"));
    let sources: Vec<String> = texts.map(|text| strings(&text)).collect();
    for (class, texts) in &classes {
        let is_row = |(about, compared): &(&str, &str)| {
            about.starts_with(class) && compared.starts_with("same")
        };
        assert!(
            rows.iter().any(is_row),
            "no row of the table calls {class} the same"
        );
        for text in texts {
            assert!(
                is_said(text, &sources),
                "{class}: nothing in src says {text:?}"
            );
        }
    }
}

#[test]
fn a_text_is_said_where_one_file_has_its_words() {
    assert_eq!(fragments("Delete: %s %zd of %s here"), ["Delete:", "here"]);
    assert_eq!(fragments("no holes"), ["no holes"]);
    let file =
        strings("    info!(\n        \"Backup {id} is \\\n         \\\"good\\\"\"\n    // bad\n");
    let sources = [file];
    let file = &sources[0];
    assert!(is_said("Backup %s is \"good\"", &sources), "{file}");
    assert!(!is_said("Backup %s is bad", &sources), "{file}");
    assert!(!is_said("Backup %s was \"good\"", &sources));
    assert_eq!(
        rows("\n## Messages\n\n| a | same | |\n|---|---|\n\n## B\n| b | same | |\n"),
        [("a", "same")]
    );
}
