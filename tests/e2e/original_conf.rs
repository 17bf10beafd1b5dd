//! How the original reads `pg_probackup.conf`, written from its rules and not from our parser:
//! lines of at most 1023 bytes, keys, quotes, comments (`configuration.cpp`).

/// Bytes that its `fgets` takes at a time.
const BUFFER: usize = 1023;

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0B | 0x0C | b'\r')
}

fn skip_space(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|byte| !is_space(*byte));
    &text[end.unwrap_or(text.len())..]
}

/// What the original takes for a line: up to its end, or as much as its buffer has place for.
fn lines(mut text: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    while !text.is_empty() {
        let line = text.iter().take(BUFFER).position(|byte| *byte == b'\n');
        let end = line.map_or(BUFFER.min(text.len()), |at| at + 1);
        lines.push(&text[..end]);
        text = &text[end..];
    }
    lines
}

fn value(text: &[u8]) -> (Vec<u8>, &[u8]) {
    let text = skip_space(text);
    let Some(quoted) = text.strip_prefix(b"'") else {
        let stop = |byte: &u8| matches!(byte, b'#' | b'\n' | b'\r' | b'\t' | 0x0B);
        let end = text.iter().position(stop).unwrap_or(text.len());
        return (text[..end].to_vec(), &text[end..]);
    };
    let mut value = Vec::new();
    let mut at = 0;
    while at < quoted.len() {
        if quoted[at] == b'\'' {
            at += 1;
            if quoted.get(at) != Some(&b'\'') {
                break;
            }
        }
        value.push(quoted[at]);
        at += 1;
    }
    (value, &quoted[at.min(quoted.len())..])
}

/// The pairs in the file, or the line that the original stumbles over.
pub(crate) fn read(text: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
    let mut pairs = Vec::new();
    for line in lines(text) {
        let syntax = || String::from_utf8_lossy(line).into_owned();
        let end = line.iter().rposition(|byte| !is_space(*byte));
        let line = skip_space(&line[..end.map_or(0, |end| end + 1)]);
        let is_end = |byte: &u8| matches!(byte, b'=' | b'#' | b' ' | b'\n' | b'\r' | b'\t' | 0x0B);
        let key = &line[..line.iter().position(is_end).unwrap_or(line.len())];
        if key.is_empty() {
            if line.first() == Some(&b'=') {
                return Err(syntax());
            }
            continue;
        }
        let rest = skip_space(&line[key.len()..]);
        let rest = rest.strip_prefix(b"=").ok_or_else(syntax)?;
        let (value, rest) = value(rest);
        let rest = skip_space(rest);
        if !rest.is_empty() && rest[0] != b'#' {
            return Err(syntax());
        }
        pairs.push((String::from_utf8(key.to_vec()).unwrap(), value));
    }
    Ok(pairs)
}

#[test]
fn the_reader_of_the_tests_knows_the_originals_rules() {
    let text = b"# Group\n  a_b = c d  # e\nq='it''s # x'\n\nlast =1";
    let pair = |key: &str, value: &str| (key.to_owned(), value.as_bytes().to_vec());
    // The blank before a comment belongs to a bare value.
    let expected = vec![
        pair("a_b", "c d  "),
        pair("q", "it's # x"),
        pair("last", "1"),
    ];
    assert_eq!(read(text), Ok(expected));
    for text in ["= x", "a", "a 'x'", "a = 'x' y", "a = x\ty"] {
        assert!(read(text.as_bytes()).is_err(), "{text}");
    }
    let long = format!("pgdata = {}\n", "/x".repeat(600));
    assert!(read(long.as_bytes()).is_err());
}
