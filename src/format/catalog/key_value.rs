//! The line grammar that `backup.control` and `pg_probackup.conf` share.
//!
//! `key = value # comment`, one a line. A value is bare, up to a tab, `#` or the end of the line,
//! or in single quotes with `''` for a quote. Source: `configuration.cpp:305-415` of the original.
//!
//! The original splits lines longer than its buffer into two and so misreads them; here a line has
//! only the limit of the file.

/// What a line holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pair<'a> {
    /// As written.
    pub(super) key: &'a [u8],
    /// Without quotes.
    pub(super) value: Vec<u8>,
}

/// The line is neither empty nor a comment nor a pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SyntaxError;

/// The pair of a line without its line end; `None` for empty lines and comments.
pub(super) fn parse_line(line: &[u8]) -> Result<Option<Pair<'_>>, SyntaxError> {
    let line = line.trim_ascii();
    if line.is_empty() || line[0] == b'#' {
        return Ok(None);
    }
    let key_end = line
        .iter()
        .position(|byte| matches!(byte, b'=' | b'#' | b' ' | b'\r' | b'\n' | b'\t' | 0x0B))
        .ok_or(SyntaxError)?;
    let (key, rest) = line.split_at(key_end);
    if key.is_empty() {
        return Err(SyntaxError);
    }
    let rest = rest
        .trim_ascii_start()
        .strip_prefix(b"=")
        .ok_or(SyntaxError)?
        .trim_ascii_start();
    let (value, rest) = if let Some(quoted) = rest.strip_prefix(b"'") {
        parse_quoted(quoted)?
    } else {
        let end = rest
            .iter()
            .position(|byte| matches!(byte, b'#' | b'\r' | b'\n' | b'\t' | 0x0B))
            .unwrap_or(rest.len());
        (rest[..end].trim_ascii_end().to_vec(), &rest[end..])
    };
    let rest = rest.trim_ascii_start();
    if rest.is_empty() || rest[0] == b'#' {
        Ok(Some(Pair { key, value }))
    } else {
        Err(SyntaxError)
    }
}

// The value up to the closing quote, and what comes after that quote.
fn parse_quoted(text: &[u8]) -> Result<(Vec<u8>, &[u8]), SyntaxError> {
    let mut value = Vec::with_capacity(text.len());
    let mut at = 0;
    loop {
        match (text.get(at), text.get(at + 1)) {
            (Some(b'\''), Some(b'\'')) => {
                value.push(b'\'');
                at += 2;
            }
            (Some(b'\''), _) => return Ok((value, &text[at + 1..])),
            (Some(byte), _) => {
                value.push(*byte);
                at += 1;
            }
            (None, _) => return Err(SyntaxError),
        }
    }
}

/// Whether two keys are the same: case does not matter, and `-`, `_` and a blank are one character.
#[must_use]
pub fn same_key(a: &[u8], b: &[u8]) -> bool {
    let fold = |byte: &u8| match byte {
        b'_' | b' ' => b'-',
        other => other.to_ascii_lowercase(),
    };
    a.len() == b.len() && a.iter().map(fold).eq(b.iter().map(fold))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(line: &str) -> Option<(String, String)> {
        parse_line(line.as_bytes()).unwrap().map(|pair| {
            (
                String::from_utf8(pair.key.to_vec()).unwrap(),
                String::from_utf8(pair.value).unwrap(),
            )
        })
    }

    #[test]
    fn lines_hold_a_pair_or_nothing() {
        for (line, expected) in [
            ("status = OK", Some(("status", "OK"))),
            (
                "  note = 'it''s # here'  # why",
                Some(("note", "it's # here")),
            ),
            ("pgdata=/a b/c # x", Some(("pgdata", "/a b/c"))),
            ("key =", Some(("key", ""))),
            ("#Configuration", None),
            ("", None),
            ("   ", None),
        ] {
            let expected = expected.map(|(k, v)| (k.to_owned(), v.to_owned()));
            assert_eq!(pair(line), expected, "{line}");
        }
    }

    #[test]
    fn other_lines_are_syntax_errors() {
        for line in [
            "status",
            "= x",
            "a b = c",
            "a = 'x",
            "a = 'x' y",
            "a = x\ty",
        ] {
            assert_eq!(parse_line(line.as_bytes()), Err(SyntaxError), "{line}");
        }
    }

    #[test]
    fn keys_are_compared_as_the_original_does() {
        assert!(same_key(b"Backup_Mode", b"backup-mode"));
        assert!(!same_key(b"backup-mod", b"backup-mode"));
    }
}
