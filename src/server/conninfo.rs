//! Connection strings as libpq reads them: `host=db port=5432` and
//! `postgresql://user@db:5432/name`.
//!
//! Errors never quote the string: it may hold a password.

use super::ServerError;
use crate::limits::CONNECT_HOSTS_MAX;

/// Keywords and values in the order they came.
pub(super) type Keywords = Vec<(String, String)>;

const URI_PREFIXES: [&str; 2] = ["postgresql://", "postgres://"];

/// Whether libpq would take a database name for a connection string.
pub(super) fn is_connection_string(text: &str) -> bool {
    text.contains('=') || URI_PREFIXES.iter().any(|prefix| text.starts_with(prefix))
}

/// Takes a connection string or URI apart.
///
/// # Errors
/// [`ServerError::BadConnectionString`].
pub(super) fn parse(text: &str) -> Result<Keywords, ServerError> {
    match URI_PREFIXES
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix))
    {
        Some(rest) => parse_uri(rest),
        None => parse_keywords(text),
    }
}

fn bad(reason: impl Into<String>) -> ServerError {
    ServerError::BadConnectionString {
        reason: reason.into(),
    }
}

fn parse_keywords(text: &str) -> Result<Keywords, ServerError> {
    let mut keywords = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_ascii_whitespace());
        let (name, after) = rest.split_at(end.unwrap_or(rest.len()));
        let value = after
            .trim_start()
            .strip_prefix('=')
            .ok_or_else(|| bad("missing \"=\" after a keyword"))?;
        if name.is_empty() {
            return Err(bad("\"=\" without a keyword"));
        }
        let (value, after) = take_value(value.trim_start())?;
        keywords.push((name.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(keywords)
}

/// The value at the start of `text` and what follows it.
fn take_value(text: &str) -> Result<(String, &str), ServerError> {
    let (quoted, text) = match text.strip_prefix('\'') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            '\'' if quoted => return Ok((value, &text[at + 1..])),
            c if !quoted && c.is_ascii_whitespace() => return Ok((value, &text[at..])),
            c => value.push(c),
        }
    }
    if quoted {
        return Err(bad("unterminated quoted string"));
    }
    Ok((value, ""))
}

fn parse_uri(text: &str) -> Result<Keywords, ServerError> {
    let mut keywords = Vec::new();
    let (before_query, query) = match text.split_once('?') {
        Some((before, query)) => (before, Some(query)),
        None => (text, None),
    };
    let (authority, database) = match before_query.split_once('/') {
        Some((authority, database)) => (authority, database),
        None => (before_query, ""),
    };
    let hosts = match authority.rsplit_once('@') {
        Some((user, hosts)) => {
            let (user, password) = match user.split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (user, None),
            };
            push(&mut keywords, "user", user)?;
            push(&mut keywords, "password", password.unwrap_or(""))?;
            hosts
        }
        None => authority,
    };
    parse_hosts(hosts, &mut keywords)?;
    push(&mut keywords, "dbname", database)?;
    for pair in query.into_iter().flat_map(|query| query.split('&')) {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| bad("missing \"=\" in the query of the URI"))?;
        let name = decode_percent(name)?;
        let value = decode_percent(value)?;
        match (name.as_str(), value.as_str()) {
            ("ssl", "true") => keywords.push(("sslmode".to_owned(), "require".to_owned())),
            _ => keywords.push((name, value)),
        }
    }
    Ok(keywords)
}

fn push(keywords: &mut Keywords, name: &str, value: &str) -> Result<(), ServerError> {
    if !value.is_empty() {
        keywords.push((name.to_owned(), decode_percent(value)?));
    }
    Ok(())
}

/// `db1:5432,[::1]:5433,db3`.
fn parse_hosts(text: &str, keywords: &mut Keywords) -> Result<(), ServerError> {
    if text.is_empty() {
        return Ok(());
    }
    let mut hosts = Vec::new();
    let mut ports = Vec::new();
    for part in text.split(',') {
        let (host, port) = if let Some(rest) = part.strip_prefix('[') {
            let (host, rest) = rest
                .split_once(']')
                .ok_or_else(|| bad("missing \"]\" after an IPv6 address in the URI"))?;
            let port = match rest {
                "" => "",
                _ => rest
                    .strip_prefix(':')
                    .ok_or_else(|| bad("unexpected characters after an IPv6 address in the URI"))?,
            };
            (host, port)
        } else {
            part.split_once(':').unwrap_or((part, ""))
        };
        hosts.push(decode_percent(host)?);
        ports.push(decode_percent(port)?);
        if hosts.len() > CONNECT_HOSTS_MAX {
            return Err(bad(format!("more than {CONNECT_HOSTS_MAX} hosts")));
        }
    }
    if hosts.iter().any(|host| !host.is_empty()) {
        keywords.push(("host".to_owned(), hosts.join(",")));
    }
    if ports.iter().any(|port| !port.is_empty()) {
        keywords.push(("port".to_owned(), ports.join(",")));
    }
    Ok(())
}

fn decode_percent(text: &str) -> Result<String, ServerError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || {
            let digit = rest.next().map(char::from)?;
            u8::try_from(digit.to_digit(16)?).ok()
        };
        match (digit(), digit()) {
            (Some(0), Some(0)) => return Err(bad("forbidden value %00 in the URI")),
            (Some(high), Some(low)) => bytes.push(high * 16 + low),
            _ => return Err(bad("invalid percent-encoding in the URI")),
        }
    }
    String::from_utf8(bytes).map_err(|_| bad("the URI is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> String {
        match parse(text) {
            Ok(keywords) => keywords
                .iter()
                .map(|(name, value)| format!("{name}=<{value}>"))
                .collect::<Vec<_>>()
                .join(" "),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn connection_strings_are_read_as_libpq_reads_them() {
        let cases = [
            ("host=db port = 5432", "host=<db> port=<5432>"),
            ("  dbname='a b' user=x\\ y ", "dbname=<a b> user=<x y>"),
            (r"password='it\'s \\' user=u", r"password=<it's \> user=<u>"),
            ("host= dbname=x", "host=<dbname=x>"),
            ("options='-c a=b'", "options=<-c a=b>"),
            ("postgresql://", ""),
            (
                "postgres://u:p%40x@db:1/n?sslmode=require",
                "user=<u> password=<p@x> host=<db> port=<1> dbname=<n> sslmode=<require>",
            ),
            (
                "postgresql://[::1]:5433,db/n",
                "host=<::1,db> port=<5433,> dbname=<n>",
            ),
            ("postgresql://%2Ftmp%2Fx/n", "host=</tmp/x> dbname=<n>"),
            (
                "postgresql:///n?host=/tmp&port=1",
                "dbname=<n> host=</tmp> port=<1>",
            ),
            (
                "postgresql://u@/n?ssl=true",
                "user=<u> dbname=<n> sslmode=<require>",
            ),
            ("postgresql://u:a:b@h", "user=<u> password=<a:b> host=<h>"),
        ];
        for (text, expected) in cases {
            assert_eq!(parsed(text), expected, "{text}");
        }
    }

    #[test]
    fn broken_connection_strings_are_refused_without_quoting_them() {
        let cases = [
            ("host=db secret", "missing \"=\" after a keyword"),
            ("=secret", "\"=\" without a keyword"),
            ("password='secret", "unterminated quoted string"),
            (
                "postgresql://[secret/x",
                "missing \"]\" after an IPv6 address in the URI",
            ),
            (
                "postgresql://[::1]secret/x",
                "unexpected characters after an IPv6 address in the URI",
            ),
            (
                "postgresql://u:secret%zz@h/x",
                "invalid percent-encoding in the URI",
            ),
            (
                "postgresql://u:secret%00@h/x",
                "forbidden value %00 in the URI",
            ),
            ("postgresql://u:secret%ff@h/x", "the URI is not UTF-8"),
            (
                "postgresql://h/x?secret",
                "missing \"=\" in the query of the URI",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(
                parsed(text),
                format!("cannot read connection string: {expected}")
            );
        }
    }

    #[test]
    fn database_names_are_not_connection_strings() {
        assert!(!is_connection_string("postgres"));
        assert!(is_connection_string("dbname=x"));
        assert!(is_connection_string("postgresql://"));
    }
}
