//! A source file as the rules of `tests/tidy.rs` look at it, and the little parsing that they need.
//!
//! Not a parser of Rust: it knows comments, literals, paths and `use`, which is all that the rules
//! ask about.

use std::collections::BTreeSet;

/// A file with its path from the root of the project and its text.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
    /// The text without comments, string contents and, in `src`, unit tests.
    pub(crate) code: String,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Source {
        let mut code = strip(text);
        if path.starts_with("src/") {
            code.truncate(without_unit_tests(&code).len());
        }
        Source {
            path: path.to_owned(),
            text: text.to_owned(),
            code,
        }
    }

    /// The modules in files of their own that are compiled for tests only, as paths without `.rs`;
    /// all of them, if this file `is_test` itself.
    pub(crate) fn test_modules(&self, is_test: bool) -> Vec<String> {
        let (folder, name) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        let below = match name.trim_end_matches(".rs") {
            "mod" | "lib" | "main" => folder.to_owned(),
            stem => format!("{folder}/{stem}"),
        };
        let mut modules = Vec::new();
        let mut for_tests = false;
        let mut explicit_path = None;
        for line in self.text.lines().map(str::trim) {
            if line == "#[cfg(test)]" || line == "#[cfg(any(test, feature = \"testing\"))]" {
                for_tests = true;
            } else if let Some(path) = line.strip_prefix("#[path = \"") {
                explicit_path = path.strip_suffix(".rs\"]");
            } else if !line.starts_with("#[") && !line.starts_with("//") {
                let declared = line
                    .strip_suffix(';')
                    .and_then(|line| line.split_once("mod "));
                if let Some((_, module)) = declared.filter(|_| for_tests || is_test) {
                    modules.push(match explicit_path {
                        Some(path) => format!("{folder}/{path}"),
                        None => format!("{below}/{module}"),
                    });
                }
                for_tests = false;
                explicit_path = None;
            }
        }
        modules
    }

    /// Whether the file belongs to one of these modules.
    pub(crate) fn is_part_of(&self, modules: &[String]) -> bool {
        modules.iter().any(|module| {
            self.path
                .strip_prefix(module.as_str())
                .is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        })
    }

    /// `format`, `limits`, `main`: the folder or file directly below `src`.
    pub(crate) fn top_module(&self) -> Option<&str> {
        let below = self.path.strip_prefix("src/")?;
        Some(below.split('/').next()?.trim_end_matches(".rs"))
    }

    /// How many modules enclose the file's items; 1 for `src/io/mod.rs`, 2 for `src/io/ring.rs`.
    pub(crate) fn module_depth(&self) -> usize {
        self.path.matches('/').count() - usize::from(self.path.ends_with("/mod.rs"))
    }
}

/// The text without comments and without the contents of strings and characters; lines stay lines.
pub(crate) fn strip(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(bytes) = raw_string_length(rest, out.chars().last()) {
            bytes
        } else if first == '"' {
            string_length(rest)
        } else if first == '\'' {
            character_length(rest)
        } else {
            0
        };
        if skipped > 0 {
            out.extend(
                rest[..skipped]
                    .chars()
                    .filter(|character| *character == '\n'),
            );
            rest = &rest[skipped..];
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a raw string that begins here; `r` inside a word begins none.
fn raw_string_length(text: &str, before: Option<char>) -> Option<usize> {
    if before.is_some_and(|character| character.is_alphanumeric() && character != 'b') {
        return None;
    }
    let hashes = text
        .strip_prefix('r')?
        .chars()
        .take_while(|character| *character == '#')
        .count();
    if text[1 + hashes..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let body = 1 + hashes + 1;
        Some(
            text[body..]
                .find(&end)
                .map_or(text.len(), |at| body + at + end.len()),
        )
    } else {
        None
    }
}

/// The length of a character literal, or 0 for a lifetime.
fn character_length(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    match characters.next() {
        Some((_, '\\')) => text[2..].find('\'').map_or(0, |at| {
            // `'\''` has its quote behind the backslash.
            if at == 0 { 4 } else { at + 3 }
        }),
        Some(_) => match characters.next() {
            Some((at, '\'')) => at + 1,
            _ => 0,
        },
        None => 0,
    }
}

/// The code before the unit tests, which end a file.
fn without_unit_tests(code: &str) -> &str {
    let marker = "#[cfg(test)]\nmod tests";
    code.find(marker).map_or(code, |at| &code[..at])
}

/// The modules below `crate::` that the code names, in paths and in `use` lists.
pub(crate) fn modules_used(code: &str) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    for (at, start) in code.match_indices("crate::") {
        // `$crate::` in a macro names the same modules; `my_crate::` does not.
        if code[..at].ends_with(|character: char| character.is_alphanumeric() || character == '_') {
            continue;
        }
        let rest = code[at + start.len()..].trim_start();
        match rest.strip_prefix('{') {
            Some(list) => modules.extend(top_names(list)),
            None => modules.extend(name_at(rest)),
        }
    }
    // What is at the root itself is not a module.
    modules.retain(|module| module.starts_with(|first: char| first.is_lowercase()));
    modules
}

/// The first name of each entry of a `use` list, up to its closing brace.
fn top_names(list: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut depth = 0;
    let mut entry_starts = true;
    for (at, character) in list.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => entry_starts = true,
            _ if entry_starts && !character.is_whitespace() => {
                names.extend(name_at(&list[at..]));
                entry_starts = false;
            }
            _ => {}
        }
    }
    names
}

fn name_at(text: &str) -> Option<String> {
    let name: String = text
        .chars()
        .take_while(|character| character.is_alphanumeric() || *character == '_')
        .collect();
    (!name.is_empty()).then_some(name)
}

/// How many `super::` follow each other at most.
pub(crate) fn longest_super_chain(code: &str) -> usize {
    let chain = |from: &str| {
        let mut count = 0;
        let mut rest = from;
        while let Some(next) = rest.strip_prefix("super::") {
            count += 1;
            rest = next;
        }
        count
    };
    code.match_indices("super::")
        .map(|(at, _)| chain(&code[at..]))
        .max()
        .unwrap_or(0)
}

/// What follows `use` in each import, without white space.
pub(crate) fn use_statements(code: &str) -> impl Iterator<Item = String> {
    code.match_indices("use ")
        .filter(|(at, _)| {
            let before = code[..*at].chars().last();
            before.is_none_or(|character| !character.is_alphanumeric() && character != '_')
        })
        .filter_map(|(at, start)| {
            let rest = &code[at + start.len()..];
            let end = rest.find(';')?;
            Some(
                rest[..end]
                    .chars()
                    .filter(|character| !character.is_whitespace())
                    .collect(),
            )
        })
}

pub(crate) fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|character: char| !character.is_alphanumeric() && character != '_')
}

pub(crate) fn contains_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let is_letter = |character: char| character.is_alphanumeric() || character == '_';
        let before = line[..at].ends_with(is_letter);
        let after = line[at + word.len()..].starts_with(is_letter);
        !before && (!after || !word.ends_with(is_letter))
    })
}
