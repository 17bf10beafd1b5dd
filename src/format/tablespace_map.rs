//! `tablespace_map`: which tablespaces a backup has and where their links in `pg_tblspc` pointed.
//!
//! One line a tablespace: its oid, a blank, the target of the link. The target may contain blanks
//! (gs_probackup reads it only up to the first one). A tablespace of relative location is listed
//! with its absolute path below `pg_location` of the data directory, or of the volume group
//! (`+data/pg_location/ts1`).
//!
//! A restore makes links from these lines, so they are read strictly: absolute paths without `..`,
//! no control characters, no oid twice.

use crate::types::ServerFlavor;

/// The text is no tablespace map.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TablespaceMapError {
    /// The original's text for a line that is no oid and path; the path goes in front.
    #[error("invalid format found in line {line} of the tablespace map")]
    Line {
        /// Counted from 1.
        line: usize,
    },
    /// A path that no link is made to.
    #[error("tablespace {oid} has a location that is not a plain absolute path: {path:?}")]
    Path {
        /// The tablespace.
        oid: u32,
        /// The path found.
        path: String,
    },
    /// Two lines for one tablespace.
    #[error("tablespace {oid} is listed twice in the tablespace map")]
    Duplicate {
        /// The tablespace.
        oid: u32,
    },
}

/// Reads the tablespaces and their locations, in the file's order.
///
/// # Errors
/// [`TablespaceMapError`] for the first line that is wrong.
pub fn parse(bytes: &[u8]) -> Result<Vec<(u32, String)>, TablespaceMapError> {
    let mut entries = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if text.is_empty() {
        return Ok(entries);
    }
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let bad_line = || TablespaceMapError::Line { line: index + 1 };
        let line = std::str::from_utf8(line).map_err(|_| bad_line())?;
        let (oid, path) = line.split_once(' ').ok_or_else(bad_line)?;
        let oid = parse_oid(oid).ok_or_else(bad_line)?;
        check_path(oid, path)?;
        if !seen.insert(oid) {
            return Err(TablespaceMapError::Duplicate { oid });
        }
        entries.push((oid, path.to_owned()));
    }
    Ok(entries)
}

/// Reads the map that a running server gives with a backup, where it may be written otherwise than
/// in a catalog: PostgreSQL puts a backslash in front of each backslash of a path.
///
/// # Errors
/// As [`parse`]; a path with a line break is among them.
pub fn parse_from_server(
    text: &str,
    flavor: ServerFlavor,
) -> Result<Vec<(u32, String)>, TablespaceMapError> {
    let mut entries = parse(text.as_bytes())?;
    if flavor != ServerFlavor::OpenGauss {
        for (_, path) in &mut entries {
            *path = path.replace("\\\\", "\\");
        }
    }
    Ok(entries)
}

/// The text of the map.
///
/// # Errors
/// [`TablespaceMapError::Path`] for a location that [`parse`] would not read back.
pub fn encode(entries: &[(u32, String)]) -> Result<String, TablespaceMapError> {
    let mut text = String::new();
    for (oid, path) in entries {
        check_path(*oid, path)?;
        text.push_str(&format!("{oid} {path}\n"));
    }
    Ok(text)
}

/// An oid as the server prints it: no sign, no leading zero, not 0.
pub(super) fn parse_oid(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|digit| digit.is_ascii_digit());
    if !digits || text.starts_with('0') {
        return None;
    }
    text.parse().ok()
}

fn check_path(oid: u32, path: &str) -> Result<(), TablespaceMapError> {
    let group = path.strip_prefix('+').and_then(|path| path.split_once('/'));
    let is_in_group = group.is_some_and(|(group, rest)| {
        !group.is_empty()
            && rest
                .strip_prefix("pg_location/")
                .is_some_and(|it| !it.is_empty())
    });
    let plain = (path.starts_with('/') || is_in_group)
        && !path.chars().any(char::is_control)
        && path.split('/').all(|component| component != "..");
    if plain {
        Ok(())
    } else {
        Err(TablespaceMapError::Path {
            oid,
            path: path.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_read_and_written_back() {
        assert_eq!(parse(b"\n"), Ok(Vec::new()));
        for text in [
            "",
            "16385 /gauss/ts/ts1\n",
            "16385 /a path/with  blanks \n4294967295 /gauss/data/dn1/pg_location/x/y\n",
            "16385 +data/pg_location/ts1\n",
        ] {
            let entries = parse(text.as_bytes()).unwrap();
            assert_eq!(encode(&entries).unwrap(), text);
        }
        let entries = parse(b"16385 /a path/with  blanks ").unwrap();
        assert_eq!(entries, [(16385, "/a path/with  blanks ".to_owned())]);
    }

    #[test]
    fn a_map_of_postgresql_has_backslashes_in_front_of_backslashes() {
        let postgresql = ServerFlavor::PostgreSql { major: 15 };
        let text = "16385 /a\\\\b\n16386 /c d\\\\\\\\e\n";
        let entries = parse_from_server(text, postgresql).unwrap();
        let places: Vec<&str> = entries.iter().map(|(_, path)| path.as_str()).collect();
        assert_eq!(places, ["/a\\b", "/c d\\\\e"]);
        let entries = parse_from_server("16385 /a\\\\b\n", ServerFlavor::OpenGauss).unwrap();
        assert_eq!(entries[0].1, "/a\\\\b");
        assert!(parse_from_server("16385 /a\\\nb\n", postgresql).is_err());
    }

    #[test]
    fn a_link_out_of_the_ordinary_is_refused() {
        let path = |path: &str| parse(format!("16385 {path}\n").as_bytes());
        for bad in [
            "ts1",
            "",
            "../x",
            "/a/../b",
            "/..",
            "/a\0b",
            "/a\tb",
            "/a\r",
            "+data/ts1",
            "+/pg_location/a",
            "+data/pg_location/",
            "+data/pg_location/../a",
        ] {
            assert!(
                matches!(path(bad), Err(TablespaceMapError::Path { oid: 16385, .. })),
                "{bad:?}"
            );
            assert!(encode(&[(16385, bad.to_owned())]).is_err(), "{bad:?}");
        }
        assert!(path("/a..b/...").is_ok());
        assert!(encode(&[(16385, "/a\nb".to_owned())]).is_err());
    }

    #[test]
    fn a_line_that_is_no_oid_and_path_is_refused() {
        for (text, line) in [
            ("x /a", 1),
            ("16385", 1),
            ("16385/a", 1),
            (" /a", 1),
            ("0 /a", 1),
            ("016385 /a", 1),
            ("-1 /a", 1),
            ("4294967296 /a", 1),
            ("16385 /a\n\n16386 /b\n", 2),
        ] {
            let expected = Err(TablespaceMapError::Line { line });
            assert_eq!(parse(text.as_bytes()), expected, "{text:?}");
        }
        assert_eq!(
            parse(b"16385 /\xFF\n"),
            Err(TablespaceMapError::Line { line: 1 })
        );
        assert_eq!(
            parse(b"16385 /a\n16385 /b\n"),
            Err(TablespaceMapError::Duplicate { oid: 16385 })
        );
    }
}
