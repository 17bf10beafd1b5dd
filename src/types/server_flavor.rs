//! Which server a cluster belongs to: the one place where openGauss and PostgreSQL are told apart.

use std::fmt;

/// The kind of server that wrote a data directory, decided once from its `pg_control`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ServerFlavor {
    /// openGauss.
    OpenGauss,
    /// PostgreSQL of this major version.
    PostgreSql {
        /// 15 or later.
        major: u32,
    },
}

impl ServerFlavor {
    /// Its product's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ServerFlavor::OpenGauss => "openGauss",
            ServerFlavor::PostgreSql { .. } => "PostgreSQL",
        }
    }

    /// The directory of a data directory that WAL is in.
    #[must_use]
    pub fn wal_directory(self) -> &'static str {
        match self {
            ServerFlavor::OpenGauss => "pg_xlog",
            ServerFlavor::PostgreSql { .. } => "pg_wal",
        }
    }
}

impl fmt::Display for ServerFlavor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerFlavor::OpenGauss => f.write_str("openGauss"),
            ServerFlavor::PostgreSql { major } => write!(f, "PostgreSQL {major}"),
        }
    }
}
