//! A directory that is restored in place: whose it is, whether its server runs, and the mark that
//! keeps it from being started until the restore is complete.
//!
//! Steps around the changes, each durable before the next:
//!
//! 1. [`RESTORE_MARK`] is written: whose cluster it is, and up to where its pages can be relied on.
//! 2. `global/pg_control` gets another name ([`SAVED_CONTROL`]): no server starts without it.
//! 3. The pid file is looked at once more. A server writes it before it reads `pg_control`, so one
//!    that was faster than step 2 shows here, and step 2 is taken back.
//! 4. Everything is restored and synced, the new `pg_control` last.
//! 5. The saved control file and the mark are removed.
//!
//! On shared storage the control file is on a volume, where names cannot be exchanged; the mark is
//! in the data directory all the same. The volumes are this program's alone, or their server's: a
//! cluster must not run on any host. The pid file is looked at before step 2, in which the control
//! file and its second copy are removed. One whose page is not whole was being written when the
//! restore was interrupted.
//!
//! So with a `pg_control` in place the directory is in one state, and a mark that is still there
//! says nothing; without one, the mark says that a restore was interrupted.

use super::super::Error;
use super::super::cluster_control::{CONTROL_FILE_BYTES_MAX, ControlForm};
use super::super::shared_storage::SharedStorage;
use super::plan::Plan;
use super::{IncrementalMode, Options};
use crate::format::catalog::StorageType;
use crate::format::pg_control::ControlFile;
use crate::format::restore_mark::{RESTORE_MARK, RESTORE_MARK_BYTES_MAX, RestoreMark};
use crate::storage::{DirEntry, FileKind, Storage, StorageError};
use std::path::Path;

/// The control file of a cluster on file systems.
const CONTROL_FILE: &str = "global/pg_control";

/// Where the control file is while the restore is under way.
pub(super) const SAVED_CONTROL: &str = "global/pg_control.gs_probackup";

/// The server's second copy of the control file on shared storage.
pub(super) const CONTROL_BACKUP: &str = "pg_control.backup";

/// Bytes of a pid file at most.
const PID_FILE_BYTES_MAX: u64 = 4096;

/// What a destination is before it is changed.
#[derive(Debug)]
pub(super) enum State {
    /// A cluster, whole as far as can be told.
    Cluster(Box<ControlFile>),
    /// What an interrupted restore left.
    Interrupted(RestoreMark),
}

/// What a restore writes, as far as the control file goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Destination<'a> {
    /// The data directory.
    data: &'a dyn Storage,
    /// The group for data of a cluster on shared storage.
    shared: Option<&'a dyn Storage>,
    /// How the control file is read, where the backup tells; else what is there has to.
    form: Option<ControlForm>,
}

impl Plan {
    /// What is written, as far as the control file goes.
    pub(super) fn destination(&self) -> Destination<'_> {
        Destination {
            form: Some(self.form),
            ..Destination::new(&*self.data, self.shared.as_ref())
        }
    }
}

impl<'a> Destination<'a> {
    pub(super) fn new(data: &'a dyn Storage, shared: Option<&'a SharedStorage>) -> Destination<'a> {
        Destination {
            data,
            shared: shared.map(|shared| &*shared.data),
            form: None,
        }
    }

    /// The tree of the control file, and how that is read.
    fn control(&self) -> (&'a dyn Storage, ControlForm) {
        let (tree, storage) = match self.shared {
            Some(tree) => (tree, StorageType::Dss),
            None => (self.data, StorageType::File),
        };
        let form = self.form;
        (
            tree,
            form.unwrap_or_else(|| ControlForm::of_tree(storage, tree)),
        )
    }

    /// Looks at a destination that is not empty.
    ///
    /// # Errors
    /// Unless it is certain that it belongs to the instance and that no server runs on it; warnings
    /// have said why.
    pub(super) fn examine(
        &self,
        options: &Options,
        system_identifier: u64,
    ) -> Result<State, Error> {
        let data = self.data;
        let state = self.identify(system_identifier);
        let mut possible = state.is_some();
        if let Some(reason) = postmaster(data)? {
            tracing::warn!("{reason}");
            possible = false;
        }
        if options.incremental_mode == IncrementalMode::Lsn
            && let Some(State::Cluster(control)) = &state
        {
            possible &= allows_lsn_mode(data, control)?;
        }
        match state {
            Some(state) if possible => Ok(state),
            _ => Err(Error::IncrementalImpossible {
                path: data.display_path(Path::new("")),
            }),
        }
    }

    /// Whose directory it is; `None`, after a warning, where it is not of this instance for sure.
    fn identify(&self, system_identifier: u64) -> Option<State> {
        let other = |found: u64| {
            tracing::warn!(
                "Backup catalog was initialized for system id {system_identifier}, but \
                 destination directory system id is {found}"
            );
            None
        };
        let (tree, form) = self.control();
        let path = tree.display_path(Path::new(form.path()));
        let bytes = match tree.read(Path::new(form.path()), CONTROL_FILE_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => {
                return match read_mark(self.data) {
                    Ok(mark) if mark.system_identifier == system_identifier => {
                        Some(State::Interrupted(mark))
                    }
                    Ok(mark) => other(mark.system_identifier),
                    Err(reason) => {
                        tracing::warn!(
                            "Destination directory has no \"{}\", and {reason}: its cluster \
                             cannot be told",
                            path.display()
                        );
                        None
                    }
                };
            }
            Err(error) => {
                tracing::warn!("{}", super::super::words::describe(&error));
                return None;
            }
        };
        match form.parse(&bytes) {
            Ok(control) if control.file.system_identifier == system_identifier => {
                Some(State::Cluster(Box::new(control.file)))
            }
            Ok(control) => other(control.file.system_identifier),
            Err(error) => {
                let mark = self.shared.and_then(|_| read_mark(self.data).ok());
                if let Some(mark) = mark.filter(|it| it.system_identifier == system_identifier) {
                    return Some(State::Interrupted(mark));
                }
                tracing::warn!(
                    "Destination directory has a damaged \"{}\", its cluster cannot be told: \
                     {error}",
                    path.display()
                );
                None
            }
        }
    }

    /// Marks a directory as being restored and takes `pg_control` away.
    ///
    /// # Errors
    /// When a step fails, or a server was started meanwhile; the directory is then as it was, but
    /// for the mark.
    pub(super) fn begin(&self, mark: &RestoreMark) -> Result<(), Error> {
        let data = self.data;
        data.write_durably(Path::new(RESTORE_MARK), 0o600, &mark.encode())?;
        if let Some(shared) = self.shared {
            return self.remove_shared_control(shared);
        }
        let (control, saved) = (Path::new(CONTROL_FILE), Path::new(SAVED_CONTROL));
        match data.rename(control, saved) {
            Ok(()) => {}
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        data.sync_dir(Path::new("global"))?;
        let Some(reason) = postmaster(data)? else {
            return Ok(());
        };
        tracing::warn!("{reason}");
        data.rename(saved, control)?;
        data.sync_dir(Path::new("global"))?;
        Err(Error::IncrementalImpossible {
            path: data.display_path(Path::new("")),
        })
    }

    fn remove_shared_control(&self, shared: &dyn Storage) -> Result<(), Error> {
        if let Some(reason) = postmaster(self.data)? {
            tracing::warn!("{reason}");
            return Err(Error::IncrementalImpossible {
                path: self.data.display_path(Path::new("")),
            });
        }
        // A server goes by the second one where the first is not good.
        for name in [CONTROL_BACKUP, StorageType::Dss.control_file()] {
            match shared.remove_file(Path::new(name)) {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
        }
        Ok(shared.sync_dir(Path::new(""))?)
    }

    /// Removes what [`Destination::begin`] left, after the new `pg_control` is in place.
    pub(super) fn end(&self, sync: bool) -> Result<(), Error> {
        let data = self.data;
        for (directory, name) in [("global", SAVED_CONTROL), ("", RESTORE_MARK)] {
            match data.remove_file(Path::new(name)) {
                Ok(()) if sync => data.sync_dir(Path::new(directory))?,
                Ok(()) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// The mark of an interrupted restore, or why there is none.
fn read_mark(data: &dyn Storage) -> Result<RestoreMark, String> {
    let path = data.display_path(Path::new(RESTORE_MARK));
    match data.read(Path::new(RESTORE_MARK), RESTORE_MARK_BYTES_MAX) {
        Ok(bytes) => RestoreMark::parse(&bytes)
            .map_err(|error| format!("\"{}\" cannot be used: {error}", path.display())),
        Err(error) if error.is_not_found() => {
            Err("no restore of gs_probackup was interrupted in it".to_owned())
        }
        Err(error) => Err(super::super::words::describe(&error)),
    }
}

/// Whether pages can be relied on by their position in WAL.
fn allows_lsn_mode(data: &dyn Storage, control: &ControlFile) -> Result<bool, Error> {
    let mut allows = true;
    if !control.data_checksums {
        tracing::warn!(
            "Incremental restore in 'lsn' mode require data_checksums to be enabled in destination \
             data directory"
        );
        allows = false;
    }
    match data.metadata(Path::new("backup_label")) {
        Ok(_) => {
            tracing::warn!(
                "Destination directory contains \"backup_control\" file. This does NOT mean that \
                 you should delete this file and retry, only that incremental restore in 'lsn' \
                 mode may produce incorrect result, when applied to cluster with pg_control not \
                 synchronized with cluster state.Consider to use incremental restore in \
                 'checksum' mode"
            );
            allows = false;
        }
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(allows)
}

/// Why a server runs on the directory, or may run.
pub(in crate::command) fn postmaster(data: &dyn Storage) -> Result<Option<String>, Error> {
    let name = Path::new("postmaster.pid");
    let path = data.display_path(name);
    let text = match data.read(name, PID_FILE_BYTES_MAX) {
        Ok(text) => text,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let Some(pid) = pid_of(&text) else {
        return Ok(Some(format!(
            "Pid file \"{}\" is mangled, cannot determine whether postmaster is running or not",
            path.display()
        )));
    };
    let directory = data.display_path(Path::new(""));
    let alive = rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH);
    if alive && pid != rustix::process::getpid() {
        return Ok(Some(format!(
            "Postmaster with pid {} is running in destination directory \"{}\"",
            pid.as_raw_nonzero(),
            directory.display()
        )));
    }
    if pid.is_init() {
        // In a container this program may be process 1, as the server is in its own.
        return Ok(Some(format!(
            "Pid file \"{}\" names process 1, as a postmaster in another container does. If none \
             is running, remove the file",
            path.display()
        )));
    }
    if let Some(kind) = shared_file_system(&directory)? {
        return Ok(Some(format!(
            "Pid file \"{}\" is on {kind}: a postmaster may be running on another host. If none \
             is, remove the file",
            path.display()
        )));
    }
    tracing::debug!("Pid file \"{}\" is stale", path.display());
    Ok(None)
}

/// The process that a pid file names; a server for one user alone is written with a minus.
fn pid_of(text: &[u8]) -> Option<rustix::process::Pid> {
    let text = std::str::from_utf8(text).ok()?;
    let pid: i32 = text.lines().next()?.trim().parse().ok()?;
    rustix::process::Pid::from_raw(pid.checked_abs()?)
}

/// What kind of file system a directory is on, if other hosts may have it mounted too.
fn shared_file_system(path: &Path) -> Result<Option<&'static str>, Error> {
    let statistics = rustix::fs::statfs(path)
        .map_err(|error| StorageError::new("examine the file system of", path, error))?;
    let kind = u32::try_from(statistics.f_type & 0xFFFF_FFFF).unwrap_or(0);
    Ok(shared_kind(kind))
}

/// Numbers of `linux/magic.h`, and of file systems that are not part of Linux.
fn shared_kind(kind: u32) -> Option<&'static str> {
    Some(match kind {
        0x6969 => "NFS",
        0x517B | 0xFE53_4D42 | 0xFF53_4D42 => "a share of SMB",
        0x6573_5546 => "a file system in user space",
        0x7461_636F => "OCFS2",
        0x0116_1970 => "GFS2",
        0x00C3_6400 => "CephFS",
        0x0BD0_0BD0 => "Lustre",
        0x5346_414F => "AFS",
        0x4750_4653 => "GPFS",
        0x0102_1997 => "9p",
        0x1983_0326 => "BeeGFS",
        _ => return None,
    })
}

/// Whether a restore into an empty directory was interrupted before it had its mark; clears that
/// away.
///
/// # Errors
/// When the directory cannot be read or the half mark not be removed.
pub(super) fn is_begun_only(data: &dyn Storage) -> Result<bool, Error> {
    let entries = data.list(Path::new(""))?;
    let is_half_mark = |entry: &DirEntry| {
        let name = entry
            .name
            .to_str()
            .and_then(|name| name.strip_prefix(RESTORE_MARK));
        entry.metadata.kind == FileKind::File
            && name.is_some_and(|rest| rest.starts_with('-') && rest.ends_with(".tmp"))
    };
    if !entries.iter().all(is_half_mark) {
        return Ok(false);
    }
    for entry in entries {
        data.remove_file(Path::new(&entry.name))?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Posix;

    #[test]
    fn the_first_line_of_a_pid_file_is_the_process() {
        let pid = |text: &str| pid_of(text.as_bytes()).map(|pid| pid.as_raw_nonzero().get());
        assert_eq!(pid("4711\n/data\n"), Some(4711));
        assert_eq!(pid("-4711\n"), Some(4711));
        for text in ["", "\n4711", "x", "0", "99999999999", "-2147483648", "1 2"] {
            assert_eq!(pid(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_dead_pid_counts_only_where_no_other_host_may_be_meant() {
        assert_eq!(shared_kind(0x6969), Some("NFS"));
        assert_eq!(shared_kind(0xEF53), None, "ext4");
        let scratch = tempfile::tempdir().unwrap();
        let data = Posix::open(scratch.path()).unwrap();
        let put = |text: &str| std::fs::write(scratch.path().join("postmaster.pid"), text).unwrap();
        assert!(postmaster(&data).unwrap().is_none());
        put("2147483647\n");
        assert!(postmaster(&data).unwrap().is_none());
        put(&format!("{}\n", std::process::id()));
        assert!(postmaster(&data).unwrap().is_none(), "its own number");
        put("1\n");
        let reason = postmaster(&data).unwrap().unwrap();
        assert!(
            reason.starts_with("Postmaster with pid 1 is running"),
            "{reason}"
        );
        put("garbage");
        let reason = postmaster(&data).unwrap().unwrap();
        assert!(reason.contains("is mangled"), "{reason}");
    }

    #[test]
    fn a_server_that_was_faster_gets_its_control_file_back() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        std::fs::create_dir(root.join("global")).unwrap();
        std::fs::write(root.join(CONTROL_FILE), b"control").unwrap();
        std::fs::write(root.join("postmaster.pid"), b"1\n").unwrap();
        let data = Posix::open(root).unwrap();
        let target = Destination::new(&data, None);
        let mark = RestoreMark {
            version: 1,
            system_identifier: 1,
            backup_id: "A".to_owned(),
            shift_lsn: None,
        };
        assert!(target.begin(&mark).is_err());
        assert_eq!(std::fs::read(root.join(CONTROL_FILE)).unwrap(), b"control");
        std::fs::remove_file(root.join("postmaster.pid")).unwrap();
        target.begin(&mark).unwrap();
        assert!(!root.join(CONTROL_FILE).exists());
        assert_eq!(read_mark(&data), Ok(mark.clone()));
        // Once more, as a repeated run does.
        target.begin(&mark).unwrap();
        assert_eq!(std::fs::read(root.join(SAVED_CONTROL)).unwrap(), b"control");
        target.end(true).unwrap();
        assert!(!root.join(SAVED_CONTROL).exists() && !root.join(RESTORE_MARK).exists());
    }
}
