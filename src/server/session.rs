//! Puts a server into backup mode and takes it out again.
//!
//! A session is examined, started and stopped, in this order. The backup is non-exclusive: if the
//! session ends without a stop, the server forgets it and the data directory is as before.

use super::{Rows, ServerError, Sql, flavor};
use crate::format::catalog::{NoZone, parse_timestamp};
use crate::types::{Lsn, PAGE_SIZE, ServerFlavor};

/// Why a server cannot be backed up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The conversation failed.
    #[error(transparent)]
    Server(Box<ServerError>),
    /// The server's blocks are of a size that the catalog format does not have.
    #[error("{name}({found}) is not compatible({expected} expected)", found = found.escape_debug())]
    BlockSize {
        /// The setting.
        name: &'static str,
        /// Its value.
        found: String,
        /// The only value possible.
        expected: usize,
    },
    /// An answer that no such server gives.
    #[error(
        "the server's answer to \"{statement}\" is invalid: {found}",
        found = found.escape_debug()
    )]
    Answer {
        /// What was asked.
        statement: String,
        /// What came.
        found: String,
    },
    /// The server lacks what a backup needs.
    #[error("{source}")]
    NotPermitted {
        /// The server's words.
        source: Box<ServerError>,
        /// What it was asked for, and by whom that may be asked.
        needed: &'static str,
    },
    /// The server is another than the control file says.
    #[error("the server is of version {found}, its data directory of {expected}")]
    OtherVersion {
        /// Major version of the control file.
        expected: u32,
        /// What the server says.
        found: String,
    },
}

impl From<ServerError> for SessionError {
    fn from(error: ServerError) -> SessionError {
        SessionError::Server(Box::new(error))
    }
}

/// What the server says when a backup ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoppedBackup {
    /// End of the last WAL record that the backup needs, as the server gives it: it may lie on a
    /// page boundary.
    pub stop_lsn: Lsn,
    /// Contents of `backup_label`.
    pub label: String,
    /// Contents of `tablespace_map`; empty without tablespaces.
    pub tablespace_map: String,
    /// First transaction that was not assigned yet.
    pub xmax: u64,
    /// The server's time, in seconds since 1970.
    pub time: i64,
}

/// A logical replication slot that is backed up with `--backup-pg-replslot`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogicalSlot {
    /// Its name, which is that of its directory.
    pub name: String,
    /// The oldest WAL that it needs.
    pub restart_lsn: Option<Lsn>,
}

/// A server in one session, from the first question to the end of the backup.
#[derive(Debug)]
pub struct BackupSession<S> {
    sql: S,
    flavor: ServerFlavor,
    in_recovery: bool,
    started: bool,
}

impl<S: Sql> BackupSession<S> {
    /// Checks that the server can be backed up and that the session will last.
    ///
    /// # Errors
    /// [`SessionError`].
    pub fn examine(sql: S, flavor: ServerFlavor) -> Result<BackupSession<S>, SessionError> {
        let mut session = BackupSession {
            sql,
            flavor,
            in_recovery: false,
            started: false,
        };
        session.check_version()?;
        for name in ["block_size", "wal_block_size"] {
            let found = session.setting(name)?;
            if found != PAGE_SIZE.to_string() {
                return Err(SessionError::BlockSize {
                    name,
                    found,
                    expected: PAGE_SIZE,
                });
            }
        }
        session.in_recovery = match session
            .value("SELECT pg_catalog.pg_is_in_recovery()")?
            .as_str()
        {
            "t" => true,
            "f" => false,
            other => {
                return Err(SessionError::Answer {
                    statement: "SELECT pg_catalog.pg_is_in_recovery()".to_owned(),
                    found: other.to_owned(),
                });
            }
        };
        for statement in flavor::settings(flavor) {
            session.sql.query(statement)?;
        }
        Ok(session)
    }

    /// Whether the server is a standby.
    #[must_use]
    pub fn is_standby(&self) -> bool {
        self.in_recovery
    }

    /// The connection, for what a session does not do itself.
    pub fn sql(&mut self) -> &mut S {
        &mut self.sql
    }

    /// Begins the backup; returns where recovery from it will start.
    ///
    /// # Errors
    /// [`SessionError`].
    pub fn start(&mut self, label: &str, fast: bool) -> Result<Lsn, SessionError> {
        let statement = flavor::start_statement(self.flavor);
        let fast = if fast { "true" } else { "false" };
        let rows = self
            .sql
            .query_with(statement, &[label, fast])
            .map_err(|error| self.explain(error))?;
        // From here on the server counts a backup, whatever becomes of the answer.
        self.started = true;
        lsn(statement, rows.single())
    }

    /// Leaves a named point in WAL: recovery can stop there, and its time is the backup's. Only a
    /// primary can.
    ///
    /// # Errors
    /// [`SessionError`].
    pub fn create_restore_point(&mut self, name: &str) -> Result<(), SessionError> {
        let statement = "SELECT pg_catalog.pg_create_restore_point($1)";
        self.sql
            .query_with(statement, &[name])
            .map_err(|error| self.explain(error))?;
        Ok(())
    }

    /// Makes times readable and notices silent; before [`BackupSession::stop`].
    ///
    /// # Errors
    /// [`SessionError`].
    pub fn prepare_stop(&mut self) -> Result<(), SessionError> {
        self.sql.query("SET client_min_messages = warning;")?;
        self.sql.query("SET datestyle = 'ISO, DMY';")?;
        Ok(())
    }

    /// Ends the backup.
    ///
    /// # Errors
    /// [`SessionError`].
    pub fn stop(&mut self) -> Result<StoppedBackup, SessionError> {
        let statement = flavor::stop_statement(self.flavor);
        let rows = self
            .sql
            .query(statement)
            .map_err(|error| self.explain(error))?;
        self.started = false;
        let [row] = rows.rows.as_slice() else {
            return Err(invalid(statement, &format!("{} rows", rows.rows.len())));
        };
        let column = |index: usize| row.get(index).and_then(Option::as_deref);
        let text = |index: usize| column(index).unwrap_or_default();
        let xmax = text(0)
            .parse()
            .map_err(|_| invalid(statement, &format!("transaction {}", text(0))))?;
        let time = parse_timestamp(text(1), NoZone::Utc)
            .ok_or_else(|| invalid(statement, &format!("time {}", text(1))))?;
        let label = column(3)
            .filter(|label| !label.is_empty())
            .ok_or_else(|| invalid(statement, "no backup label"))?;
        Ok(StoppedBackup {
            stop_lsn: lsn(statement, column(2))?,
            label: label.to_owned(),
            tablespace_map: text(4).to_owned(),
            xmax,
            time,
        })
    }

    /// Takes the server out of backup mode if it is still in it; for a backup that failed.
    ///
    /// # Errors
    /// [`SessionError`]: the end of the session then does it.
    pub fn abort(&mut self) -> Result<(), SessionError> {
        if !self.started {
            return Ok(());
        }
        self.sql.query(flavor::stop_statement(self.flavor))?;
        self.started = false;
        Ok(())
    }

    /// Whether a backup was started and not stopped.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.started
    }

    /// The databases but the templates: oid and name.
    ///
    /// # Errors
    /// [`SessionError`].
    pub fn databases(&mut self) -> Result<Vec<(u32, String)>, SessionError> {
        let statement = "SELECT oid, datname FROM pg_catalog.pg_database \
                         WHERE datname NOT IN ('template1', 'template0')";
        let rows = self.sql.query(statement)?;
        rows.rows
            .iter()
            .map(|row| match row.as_slice() {
                [Some(oid), Some(name)] => oid
                    .parse()
                    .map(|oid| (oid, name.clone()))
                    .map_err(|_| invalid(statement, oid)),
                _ => Err(invalid(statement, "a row of another shape")),
            })
            .collect()
    }

    /// Where the tablespaces are.
    ///
    /// # Errors
    /// [`SessionError`].
    pub fn tablespace_locations(&mut self) -> Result<Vec<String>, SessionError> {
        let statement =
            "SELECT pg_catalog.pg_tablespace_location(oid) FROM pg_catalog.pg_tablespace;";
        let rows = self.sql.query(statement)?;
        let locations = rows.rows.into_iter().flatten().flatten();
        Ok(locations.filter(|location| !location.is_empty()).collect())
    }

    /// The logical slots of subscriptions.
    ///
    /// # Errors
    /// [`SessionError`].
    pub fn logical_slots(&mut self) -> Result<Vec<LogicalSlot>, SessionError> {
        // Without a blank before WHERE in the original, which the server does not mind either.
        let statement = "SELECT slot_name, restart_lsn FROM \
                         pg_catalog.pg_get_replication_slots()WHERE slot_type = 'logical' AND \
                         plugin = 'pgoutput'";
        let rows = self.sql.query(statement)?;
        rows.rows
            .iter()
            .map(|row| match row.as_slice() {
                [Some(name), restart] => Ok(LogicalSlot {
                    name: name.clone(),
                    restart_lsn: match restart {
                        Some(text) => Some(lsn(statement, Some(text))?),
                        None => None,
                    },
                }),
                _ => Err(invalid(statement, "a row of another shape")),
            })
            .collect()
    }

    // openGauss of every version says 9.2.4; its control file is told from PostgreSQL's by layout.
    fn check_version(&mut self) -> Result<(), SessionError> {
        let ServerFlavor::PostgreSql { major } = self.flavor else {
            return Ok(());
        };
        let found = self.setting("server_version_num")?;
        let number: u32 = found.parse().unwrap_or_default();
        if number / 10_000 != major {
            return Err(SessionError::OtherVersion {
                expected: major,
                found,
            });
        }
        Ok(())
    }

    fn setting(&mut self, name: &str) -> Result<String, SessionError> {
        let statement = "SELECT pg_catalog.current_setting($1)";
        let rows = self.sql.query_with(statement, &[name])?;
        single(statement, &rows)
    }

    fn value(&mut self, statement: &str) -> Result<String, SessionError> {
        let rows = self.sql.query(statement)?;
        single(statement, &rows)
    }

    fn explain(&self, error: ServerError) -> SessionError {
        match &error {
            ServerError::Statement { code, .. } if code == INSUFFICIENT_PRIVILEGE => {
                SessionError::NotPermitted {
                    source: Box::new(error),
                    needed: flavor::privileges(self.flavor),
                }
            }
            _ => error.into(),
        }
    }
}

/// SQLSTATE of a missing permission.
const INSUFFICIENT_PRIVILEGE: &str = "42501";

fn single(statement: &str, rows: &Rows) -> Result<String, SessionError> {
    match rows.single() {
        Some(value) => Ok(value.to_owned()),
        None => Err(invalid(
            statement,
            &format!("{} rows of {} columns", rows.rows.len(), rows.columns.len()),
        )),
    }
}

fn lsn(statement: &str, text: Option<&str>) -> Result<Lsn, SessionError> {
    let text = text.unwrap_or_default();
    text.parse().map_err(|_| invalid(statement, text))
}

fn invalid(statement: &str, found: &str) -> SessionError {
    SessionError::Answer {
        statement: statement.to_owned(),
        found: found.to_owned(),
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
