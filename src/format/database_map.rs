//! `database_map`: the names of the databases in a backup.
//!
//! One line a database, names unquoted as they are: `{"dbOid":"16384", "datname":"fix"}`. Nothing
//! reads it back but people and tools; a name with a line break cannot be written.
//!
//! Source: openGauss `src/bin/pg_probackup/dir.cpp`, `write_database_map`.

use super::tablespace_map::parse_oid;

/// A database of the backed-up cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Database {
    /// Its oid: the name of its directory.
    pub oid: u32,
    /// Its name.
    pub name: String,
}

/// The text is no database map, or cannot be one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DatabaseMapError {
    /// A line is not of the form written.
    #[error("invalid format found in line {line} of the database map")]
    Line {
        /// Counted from 1.
        line: usize,
    },
    /// A name that breaks the line format.
    #[error("database {oid} has a name that does not fit into the database map: {name:?}")]
    Name {
        /// The database.
        oid: u32,
        /// Its name.
        name: String,
    },
}

const BEFORE_OID: &str = "{\"dbOid\":\"";
const BEFORE_NAME: &str = "\", \"datname\":\"";
const AFTER_NAME: &str = "\"}";

/// Reads the databases, in the file's order.
///
/// # Errors
/// [`DatabaseMapError::Line`] for the first line that is wrong.
pub fn parse(bytes: &[u8]) -> Result<Vec<Database>, DatabaseMapError> {
    let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.split(|&byte| byte == b'\n')
        .enumerate()
        .map(|(index, line)| {
            std::str::from_utf8(line)
                .ok()
                .and_then(parse_line)
                .ok_or(DatabaseMapError::Line { line: index + 1 })
        })
        .collect()
}

fn parse_line(line: &str) -> Option<Database> {
    let rest = line.strip_prefix(BEFORE_OID)?;
    let (oid, rest) = rest.split_once(BEFORE_NAME)?;
    let name = rest.strip_suffix(AFTER_NAME)?;
    Some(Database {
        oid: parse_oid(oid)?,
        name: name.to_owned(),
    })
}

/// The text of the map.
///
/// # Errors
/// [`DatabaseMapError::Name`] for a name with a line break.
pub fn encode(databases: &[Database]) -> Result<String, DatabaseMapError> {
    let mut text = String::new();
    for Database { oid, name } in databases {
        if name.contains('\n') {
            return Err(DatabaseMapError::Name {
                oid: *oid,
                name: name.clone(),
            });
        }
        text.push_str(&format!(
            "{BEFORE_OID}{oid}{BEFORE_NAME}{name}{AFTER_NAME}\n"
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_read_and_written_back() {
        let text = "{\"dbOid\":\"16384\", \"datname\":\"fix\"}\n\
                    {\"dbOid\":\"15037\", \"datname\":\"a\"}, \"datname\":\"b\\\"}\n";
        let databases = parse(text.as_bytes()).unwrap();
        assert_eq!(databases[0].oid, 16384);
        assert_eq!(databases[0].name, "fix");
        assert_eq!(databases[1].name, "a\"}, \"datname\":\"b\\");
        assert_eq!(encode(&databases).unwrap(), text);
        assert_eq!(parse(b""), Ok(Vec::new()));
    }

    #[test]
    fn another_line_is_refused() {
        for text in [
            "{\"dbOid\":\"0\", \"datname\":\"fix\"}",
            "{\"dbOid\":\"1\",\"datname\":\"fix\"}",
            "{\"dbOid\":\"1\", \"datname\":\"fix\"",
            "{\"dbOid\":\"1\", \"datname\":\"fix\"}\n\n",
            "x",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text:?}");
        }
        let name = "a\nb".to_owned();
        assert!(encode(&[Database { oid: 1, name }]).is_err());
    }
}
