//! What differs between openGauss and PostgreSQL in the statements that a backup sends.
//!
//! Both are asked for a non-exclusive backup, on a primary too: it ends with its session and leaves
//! nothing in the data directory when we die (seen on openGauss 7.0.0-RC2; PostgreSQL has had no
//! other since 15).
//!
//! Sources: openGauss `pg_proc` oids 6203 and 6204 (`pg_start_backup_v2`, `pg_stop_backup_v2`);
//! PostgreSQL 15, "Backup Control Functions".

use crate::types::ServerFlavor;

/// Statements without an answer that come first: no time-out of the role or the database may end a
/// session that is idle for as long as copying takes.
pub(super) fn settings(flavor: ServerFlavor) -> &'static [&'static str] {
    match flavor {
        ServerFlavor::OpenGauss => &["SET session_timeout = 0;", "SET statement_timeout = 0;"],
        ServerFlavor::PostgreSql { .. } => &[
            "SET idle_session_timeout = 0;",
            "SET statement_timeout = 0;",
            "SET lock_timeout = 0;",
        ],
    }
}

/// Begins a backup; `$1` is its label, `$2` whether the checkpoint is to be fast.
pub(super) fn start_statement(flavor: ServerFlavor) -> &'static str {
    match flavor {
        ServerFlavor::OpenGauss => "SELECT pg_catalog.pg_start_backup($1, $2, false)",
        ServerFlavor::PostgreSql { .. } => "SELECT pg_catalog.pg_backup_start($1, $2)",
    }
}

/// Ends a backup: xmax of a snapshot, time, LSN, label and tablespace map. WAL is streamed, so
/// PostgreSQL need not wait for its archive; openGauss cannot be told.
pub(super) fn stop_statement(flavor: ServerFlavor) -> &'static str {
    match flavor {
        ServerFlavor::OpenGauss => {
            "SELECT \
             pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot()), \
             current_timestamp(0)::timestamptz, lsn, labelfile, spcmapfile \
             FROM pg_catalog.pg_stop_backup(false)"
        }
        ServerFlavor::PostgreSql { .. } => {
            "SELECT \
             pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot()), \
             current_timestamp(0)::timestamptz, lsn, labelfile, spcmapfile \
             FROM pg_catalog.pg_backup_stop(false)"
        }
    }
}

/// What lets a role take backups.
pub(super) fn privileges(flavor: ServerFlavor) -> &'static str {
    match flavor {
        ServerFlavor::OpenGauss => "the role needs SYSADMIN (or OPRADMIN) and REPLICATION",
        ServerFlavor::PostgreSql { .. } => {
            "the role needs REPLICATION and EXECUTE on pg_backup_start(text, boolean), \
             pg_backup_stop(boolean) and pg_create_restore_point(text)"
        }
    }
}
