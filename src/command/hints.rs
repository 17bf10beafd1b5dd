//! What to do about locks that others hold, WAL that is missing, and catalogs that are not as they
//! have to be.

use super::Error;
use crate::catalog::CatalogError;
use crate::catalog::lock::LockError;

pub(super) fn lock_hint(error: &LockError) -> Option<String> {
    match error {
        LockError::InUse {
            owner,
            path,
            shared,
            ..
        } if owner.is_elsewhere() => {
            let host = owner.host.as_deref().unwrap_or_default();
            let what = if *shared { "its line from" } else { "" };
            Some(format!(
                "wait until it ends, or look at it on host {host} with: ps -fp {pid}; only if it \
                 has ended there, remove {what}{space}\"{path}\"",
                pid = owner.pid,
                space = if *shared { " " } else { "" },
                path = path.display()
            ))
        }
        LockError::InUse { owner, .. } => Some(format!(
            "wait until process {pid} ends, or look at it with: ps -fp {pid}",
            pid = owner.pid
        )),
        _ => None,
    }
}

pub(super) fn catalog_hint(error: &CatalogError) -> Option<String> {
    let hint = match error {
        CatalogError::Running(running) if running.pid != 0 => {
            let (pid, host) = (running.pid, running.host.as_deref());
            let on_host = match host {
                Some(host) if !running.is_here => format!(" on host {host}"),
                _ => String::new(),
            };
            return Some(format!(
                "wait until it ends, or look at it{on_host} with: ps -fp {pid}"
            ));
        }
        CatalogError::NoDirectory { .. } => "make the catalog first with the command init",
        CatalogError::NoInstance { .. } => {
            "the command show lists the instances; add-instance adds one"
        }
        CatalogError::BackupExists { .. } => "one backup can begin every second: try again",
        CatalogError::CatalogExists => "name a directory that is empty or does not exist",
        _ => return None,
    };
    Some(hint.to_owned())
}

pub(super) fn wal_hint(error: &Error) -> Option<String> {
    match error {
        Error::NotEnoughWal { archive, .. } => {
            let archive = archive.as_deref().map_or_else(
                || "the archive".to_owned(),
                |path| format!("\"{}\"", path.display()),
            );
            Some(format!(
                "choose an earlier target, put the missing segments into {archive}, or name the \
                 directory that has them with --archive-dir"
            ))
        }
        Error::WalArchiveDirectory { .. } => Some(
            "--archive-dir names the directory that the server's archive_command fills".to_owned(),
        ),
        _ => None,
    }
}
