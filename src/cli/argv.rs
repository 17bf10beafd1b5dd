//! Secrets in the words of a command line: where they are, and the line without them.
//!
//! The words are read as getopt reads them, by the same table as the options themselves, so that
//! `--note -W x` has no password in it and `-wWx` has one.

use super::options;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// What stands where a secret was.
pub(super) const MASK: &str = "***";

/// Options whose values nobody is to read in a log file.
const SECRETS: [&str; 4] = ["password", "access-key", "with-key", "with-salt"];

/// The value of an option: a word, and the byte at which the value begins in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    word: usize,
    start: usize,
}

impl Place {
    /// The value.
    pub(super) fn value(self, words: &[OsString]) -> &OsStr {
        OsStr::from_bytes(&words[self.word].as_bytes()[self.start..])
    }

    /// Puts another value there.
    pub(super) fn replace(self, words: &mut [OsString], value: &OsStr) {
        let mut bytes = words[self.word].as_bytes()[..self.start].to_vec();
        bytes.extend_from_slice(value.as_bytes());
        words[self.word] = OsString::from_vec(bytes);
    }
}

/// The values given to the option of this name, without empty ones.
pub(super) fn values(words: &[OsString], wanted: &str) -> Vec<Place> {
    let mut found = Vec::new();
    each_value(words, |option, place| {
        if option == wanted && !place.value(words).is_empty() {
            found.push(place);
        }
    });
    found
}

/// The words in one line, for a log file, with [`MASK`] in place of every secret.
pub(super) fn printable_line(words: &[OsString]) -> String {
    let mut secrets = Vec::new();
    each_value(words, |option, place| {
        let value = place.value(words).to_string_lossy();
        // A database may be given as a connection string with all that belongs to it.
        let connection = option == "pgdatabase" && (value.contains('=') || value.contains("://"));
        if SECRETS.contains(&option) || connection {
            secrets.push(place);
        }
    });
    let mut words = words.to_vec();
    for place in secrets {
        place.replace(&mut words, OsStr::new(MASK));
    }
    let words = words.iter().map(|word| word.to_string_lossy());
    words.collect::<Vec<_>>().join(" ")
}

// Calls with each option that takes a value, and where that is.
fn each_value(words: &[OsString], mut act: impl FnMut(&'static str, Place)) {
    let mut next = 0;
    while let Some(word) = words.get(next) {
        let at = next;
        next += 1;
        let bytes = word.as_bytes();
        if bytes == b"--" {
            return;
        }
        let found = match (bytes.strip_prefix(b"--"), bytes.strip_prefix(b"-")) {
            (Some(long), _) => long_value(long).map(|(option, start)| (option, start + 2)),
            (None, Some(shorts)) => short_value(shorts).map(|(option, start)| (option, start + 1)),
            (None, None) => None,
        };
        let Some((option, start)) = found else {
            continue;
        };
        if start <= bytes.len() {
            act(option, Place { word: at, start });
        } else if next < words.len() {
            act(
                option,
                Place {
                    word: next,
                    start: 0,
                },
            );
            next += 1;
        }
    }
}

// The option of `name=value` or `name`, and where its value begins: beyond the end if that is the
// next word.
fn long_value(word: &[u8]) -> Option<(&'static str, usize)> {
    let equals = word.iter().position(|byte| *byte == b'=');
    let name = std::str::from_utf8(&word[..equals.unwrap_or(word.len())]).ok()?;
    let (option, takes_value) = options::long_option(name)?;
    let start = equals.map_or(word.len() + 1, |equals| equals + 1);
    takes_value.then_some((option, start))
}

// As above, of several short options in one word.
fn short_value(word: &[u8]) -> Option<(&'static str, usize)> {
    for (at, byte) in word.iter().enumerate() {
        let (option, takes_value) = options::short_option(char::from(*byte))?;
        if takes_value {
            // `-W=x` is `-W x` for the parser of options.
            let rest = &word[at + 1..];
            let start = match rest {
                [] => at + 2,
                [b'=', ..] => at + 2,
                _ => at + 1,
            };
            return Some((option, start));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::options::Options;
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_ascii_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn the_password_is_found_where_the_parser_of_options_finds_it() {
        for line in [
            "backup -W secret -B /b",
            "backup -Wsecret",
            "backup -W=secret",
            "backup -wWsecret",
            "backup --password secret",
            "backup --password=secret",
            "backup --passw=secret",
            "backup -B /b extra --note -W -W secret",
            "backup --note=--password=x -W secret",
            "backup -j4 --progress -W --note=secret",
        ] {
            let mut words = words(line);
            let places = values(&words, "password");
            assert_eq!(places.len(), 1, "{line}");
            let options = Options::parse(&words[1..]).unwrap();
            let value = places[0].value(&words);
            assert_eq!(options.text("password"), value.to_str(), "{line}");
            places[0].replace(&mut words, OsStr::new("other"));
            let options = Options::parse(&words[1..]).unwrap();
            assert_eq!(options.text("password"), Some("other"), "{line}");
        }
    }

    #[test]
    fn what_only_looks_like_a_password_is_none() {
        for line in [
            "backup --note -W x",
            "backup -B -Wx",
            "backup --note --password=x",
            "backup -- -W x",
            "backup -w",
            "backup --no-password",
            "backup --password=",
            "backup -W",
            "backup --unknown -Q x",
        ] {
            assert_eq!(values(&words(line), "password"), [], "{line}");
        }
    }

    #[test]
    fn a_line_for_the_log_has_no_secrets() {
        let line = "backup -B /b -W a --access-key=b --with-key c -d postgres://u:d@h/x -U omm";
        let expected = "backup -B /b -W *** --access-key=*** --with-key *** -d *** -U omm";
        assert_eq!(printable_line(&words(line)), expected);
        assert_eq!(printable_line(&words("show -d db")), "show -d db");
    }
}
