//! The password file `.pgpass`, read by libpq's rules.
//!
//! Lines are `host:port:database:user:password`; `*` alone matches everything, `\` takes the next
//! character as it is. The first line that matches counts. A file that others may read is not used.

use super::Password;
use crate::limits::CREDENTIAL_FILE_BYTES_MAX;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use zeroize::Zeroizing;

/// What a line has to match.
#[derive(Clone, Copy, Debug)]
pub(super) struct PasswordQuery<'a> {
    /// The host as given; `localhost` for a socket in a default directory.
    pub(super) host: &'a str,
    /// The port.
    pub(super) port: u16,
    /// The database.
    pub(super) database: &'a str,
    /// The user.
    pub(super) user: &'a str,
}

/// The password that the file at `path` has for `query`, or why the file is not used.
///
/// # Errors
/// A warning in libpq's words; a file that is not there is no reason for one.
pub(super) fn find_in_file(
    path: &Path,
    query: PasswordQuery<'_>,
) -> Result<Option<Password>, String> {
    // A pipe must not block here.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let Ok(file) = rustix::fs::open(path, flags, Mode::empty()) else {
        return Ok(None);
    };
    let file = File::from(file);
    let shown = path.display().to_string();
    let shown = shown.escape_debug();
    let metadata = file
        .metadata()
        .map_err(|error| format!("cannot read password file \"{shown}\": {error}"))?;
    if !metadata.is_file() {
        return Err(format!("password file \"{shown}\" is not a plain file"));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(format!(
            "password file \"{shown}\" has group or world access; permissions should be u=rw \
             (0600) or less"
        ));
    }
    if metadata.len() > CREDENTIAL_FILE_BYTES_MAX {
        return Err(format!(
            "password file \"{shown}\" has more than {CREDENTIAL_FILE_BYTES_MAX} bytes"
        ));
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(CREDENTIAL_FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("cannot read password file \"{shown}\": {error}"))?;
    Ok(find(&bytes, query))
}

/// The password that the text of a password file has for `query`.
pub(super) fn find(text: &[u8], query: PasswordQuery<'_>) -> Option<Password> {
    let port = query.port.to_string();
    let wanted = [query.host, &port, query.database, query.user];
    for line in text.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.starts_with(b"#") {
            continue;
        }
        let mut rest = Some(line);
        for field in wanted {
            rest = rest.and_then(|rest| match_field(rest, field.as_bytes()));
        }
        if let Some(rest) = rest {
            let password = unescape_password(rest);
            // A password that is not text could not be typed into any prompt either.
            return String::from_utf8(password).ok().map(Password::new);
        }
    }
    None
}

/// What follows the field at the start of `line` when it matches `wanted`.
fn match_field<'a>(line: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    if let Some(rest) = line.strip_prefix(b"*:") {
        return Some(rest);
    }
    let mut line = line;
    for byte in wanted {
        let text = match line {
            [b'\\', rest @ ..] if !rest.is_empty() => rest,
            [b':', ..] => return None,
            _ => line,
        };
        line = text.strip_prefix(&[*byte])?;
    }
    line.strip_prefix(b":")
}

fn unescape_password(text: &[u8]) -> Vec<u8> {
    let mut password = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b':' => break,
            b'\\' => password.push(bytes.next().unwrap_or(b'\\')),
            _ => password.push(byte),
        }
    }
    password
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const QUERY: PasswordQuery<'_> = PasswordQuery {
        host: "db",
        port: 5432,
        database: "post:gres",
        user: "bk",
    };

    fn found(text: &str) -> Option<String> {
        find(text.as_bytes(), QUERY).map(|password| password.expose().to_owned())
    }

    #[test]
    fn lines_match_as_in_libpq() {
        let cases = [
            ("db:5432:post\\:gres:bk:secret", Some("secret")),
            ("*:*:*:*:secret", Some("secret")),
            ("db:5432:*:bk:se\\:cr\\\\et", Some("se:cr\\et")),
            ("db:5432:*:bk:secret:rest", Some("secret")),
            ("db:5432:*:bk:", Some("")),
            ("db:5432:*:bk:secret\r", Some("secret")),
            ("#*:*:*:*:no\n*:*:*:bk:yes", Some("yes")),
            (
                "db:5432:other:bk:no\ndb:5432:*:bk:first\n*:*:*:*:second",
                Some("first"),
            ),
            ("db:5432:post:gres:bk:no", None),
            ("db:5433:*:bk:no", None),
            ("d*:*:*:*:no", None),
            ("db:5432:*:bk", None),
            ("dbx:*:*:*:no", None),
            ("", None),
            ("\\d\\b:5432:*:bk:escaped", Some("escaped")),
        ];
        for (text, expected) in cases {
            assert_eq!(found(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn file_that_others_may_read_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".pgpass");
        assert_eq!(find_in_file(&path, QUERY), Ok(None));
        std::fs::write(&path, "*:*:*:*:secret\n").unwrap();
        for (mode, usable) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let found = find_in_file(&path, QUERY);
            assert_eq!(matches!(found, Ok(Some(_))), usable, "{mode:o}");
            if let Err(warning) = found {
                assert!(warning.contains("has group or world access"), "{warning}");
                assert!(!warning.contains("secret"));
            }
        }
        let error = find_in_file(directory.path(), QUERY).unwrap_err();
        assert!(error.ends_with("is not a plain file"), "{error}");
    }
}
