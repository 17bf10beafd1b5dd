//! The one error that callers see: what went wrong in a command, and what to do about it.
//!
//! Texts that scripts know from the original are verbatim.

use super::backup::IncrementError;
use super::hints::{catalog_hint, lock_hint, wal_hint};
use crate::catalog::lock::LockError;
use crate::catalog::{CatalogError, ChainError};
use crate::format::catalog::BackupStatus;
use crate::format::pg_control::ControlFileError;
use crate::format::tablespace_map::TablespaceMapError;
use crate::format::wal::WalError;
use crate::pipeline::{PipelineError, WalSegmentsError};
use crate::sample::SampleError;
use crate::server::wal_stream::WalStreamError;
use crate::server::{ServerError, SessionError};
use crate::storage::StorageError;
use crate::storage::dss::DssError;
use crate::storage::dss_api::DssApiError;
use crate::types::{BackupId, Lsn};
use std::path::PathBuf;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something in the catalog is not as it has to be.
    #[error(transparent)]
    Catalog(CatalogError),
    /// A file or directory cannot be used.
    #[error(transparent)]
    Storage(StorageError),
    /// A volume of shared storage cannot be used.
    #[error(transparent)]
    Dss(Box<DssError>),
    /// Volumes of shared storage cannot hold a backup.
    #[error(transparent)]
    Unfit(Box<super::restore::UnfitError>),
    /// The server of storage cannot be talked to.
    #[error(transparent)]
    DssApi(Box<DssApiError>),
    /// Volumes of shared storage were checked and are not good.
    #[error("volume groups are damaged: {groups}")]
    VolumesDamaged {
        /// Their names.
        groups: String,
    },
    /// Moving data failed.
    #[error(transparent)]
    Pipeline(PipelineError),
    /// A backup is in use.
    #[error(transparent)]
    Lock(LockError),
    /// WAL ends before a recovery target.
    #[error("Not enough WAL records to {target}")]
    NotEnoughWal {
        /// The target, in the original's words.
        target: String,
        /// Where WAL was looked for first.
        archive: Option<PathBuf>,
    },
    /// A directory that should hold WAL cannot be used.
    #[error("WAL archive directory \"{path}\" {problem}", path = path.display())]
    WalArchiveDirectory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The demo's cluster cannot be generated.
    #[error("cannot generate a cluster")]
    Sample {
        /// Why.
        source: SampleError,
    },
    /// An option that the command cannot do without.
    #[error("required parameter not specified: {option}")]
    MissingOption {
        /// Its name.
        option: &'static str,
    },
    /// Something that a later version will do.
    #[error("{what} is not supported yet")]
    NotSupportedYet {
        /// What.
        what: String,
        /// What to do now.
        instead: String,
    },
    /// An external directory must be absolute.
    #[error("External directory \"{path}\" is not an absolute path", path = path.escape_debug())]
    ExternalDirNotAbsolute {
        /// The path.
        path: String,
    },
    /// A data directory has no control file.
    #[error(
        "Could not open file \"{path}\" for reading: No such file or directory",
        path = path.display()
    )]
    NoControlFile {
        /// The file.
        path: PathBuf,
    },
    /// The file that identifies a cluster cannot be read.
    #[error("Could not open file \"{path}\" for reading", path = path.display())]
    OpenControlFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A control file is damaged or of an unknown server.
    #[error("cannot use control file \"{path}\"", path = path.display())]
    BadControlFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ControlFileError,
    },
    /// The cluster was not shut down, or not cleanly.
    #[error(
        "data directory \"{path}\" is not that of a cleanly stopped server: its state is \
         \"{state}\"",
        path = path.display()
    )]
    NotCleanlyStopped {
        /// The data directory.
        path: PathBuf,
        /// Its state.
        state: &'static str,
    },
    /// A postmaster lives.
    #[error("the server runs: process {pid} of \"{path}\" is alive", path = path.display())]
    ServerRuns {
        /// Its pid file.
        path: PathBuf,
        /// Its process.
        pid: i32,
    },
    /// A pid file does not say who runs.
    #[error("\"{path}\" holds no process id, the server may be starting", path = path.display())]
    UnclearPidFile {
        /// The pid file.
        path: PathBuf,
    },
    /// A label in the data directory makes a server start from it look for other WAL.
    #[error("\"{path}\" was left by a backup that did not end", path = path.display())]
    LeftoverLabel {
        /// The file.
        path: PathBuf,
    },
    /// The server was started while its files were copied.
    #[error("the server of \"{path}\" was started during the backup", path = path.display())]
    StartedMeanwhile {
        /// The data directory.
        path: PathBuf,
    },
    /// WAL that a start needs is not there.
    #[error("WAL from {start} to {stop} in \"{path}\" is not whole", path = path.display())]
    WalMissing {
        /// The WAL directory.
        path: PathBuf,
        /// First record needed.
        start: Lsn,
        /// End of the last.
        stop: Lsn,
        /// What is wrong.
        source: WalError,
    },
    /// The data directory is of another cluster than the instance.
    #[error(
        "Backup data directory was initialized for system id {expected}, but target backup \
         directory system id is {found}"
    )]
    OtherCluster {
        /// The instance's.
        expected: u64,
        /// The data directory's.
        found: u64,
    },
    /// The server cannot be talked to.
    #[error(transparent)]
    Server(Box<ServerError>),
    /// The server cannot be backed up.
    #[error(transparent)]
    Session(SessionError),
    /// WAL cannot be received.
    #[error(transparent)]
    WalStream(WalStreamError),
    /// Received WAL cannot be stored.
    #[error(transparent)]
    WalSegments(WalSegmentsError),
    /// The server runs on another data directory.
    #[error(
        "the server that answers does not run on \"{path}\": its backup starts at {start}, the \
         last checkpoint there is at {found}",
        path = path.display()
    )]
    OtherDataDirectory {
        /// The data directory.
        path: PathBuf,
        /// Where the server starts the backup.
        start: Lsn,
        /// Redo position of the control file.
        found: Lsn,
    },
    /// The server listens on another port than the one of the data directory.
    #[error(
        "the server that answers listens on port {found}, that of \"{path}\" on port {listed}",
        path = path.display()
    )]
    OtherPort {
        /// The pid file.
        path: PathBuf,
        /// Its port.
        listed: String,
        /// What the server says of itself.
        found: String,
    },
    /// The control file does not describe the server that answers.
    #[error(
        "the server that answers is a {role}, but the state of \"{path}\" is \"{state}\"",
        role = if *is_standby { "standby" } else { "primary" },
        path = path.display()
    )]
    OtherRole {
        /// The data directory.
        path: PathBuf,
        /// Its state.
        state: &'static str,
        /// What the server says of itself.
        is_standby: bool,
    },
    /// A file name that the catalog format cannot hold.
    #[error(
        "the name of \"{path}\" cannot be kept in a content list",
        path = .path.display().to_string().escape_debug()
    )]
    UnstorableName {
        /// The file.
        path: PathBuf,
    },
    /// Too few files for a cluster.
    #[error(
        "PGDATA is almost empty. Either it was concurrently deleted or gs_probackup do not possess \
         sufficient permissions to list PGDATA content"
    )]
    AlmostEmpty {
        /// The data directory.
        path: PathBuf,
    },
    /// The backup cannot fit.
    #[error(
        "There is not enough remaining disk space for backup, please clean it up and try again"
    )]
    NoSpace {
        /// Where to.
        path: PathBuf,
        /// Bytes needed.
        required: u64,
        /// Bytes free.
        available: u64,
    },
    /// The backup was taken, but reading it back found damage.
    #[error("Backup {id} failed")]
    BackupFailed {
        /// The backup.
        id: BackupId,
    },
    /// No such backup.
    #[error("Requested backup {id} is not found.")]
    BackupNotFound {
        /// Its id.
        id: BackupId,
    },
    /// A backup's control data cannot be read.
    #[error("Backup {id} cannot be used: its control file cannot be read")]
    UnreadableControl {
        /// Its id.
        id: BackupId,
    },
    /// A backup is not good.
    #[error("Backup {id} is {}.", status.name().to_lowercase())]
    InvalidBackup {
        /// Its id.
        id: BackupId,
        /// What it is.
        status: BackupStatus,
    },
    /// Validation of many found bad ones.
    #[error("{count} of the backups are not valid")]
    SomeInvalid {
        /// How many.
        count: usize,
    },
    /// A backup was written by a later version.
    #[error(
        "gs_probackup binary version is 2.4.2, but backup {id} version is {version}. gs_probackup \
         do not guarantee to be forward compatible. Please upgrade gs_probackup binary."
    )]
    NewerBackup {
        /// The backup.
        id: BackupId,
        /// Its version.
        version: String,
    },
    /// An increment cannot be taken.
    #[error(transparent)]
    Increment(Box<IncrementError>),
    /// A backup has no chain down to a FULL backup.
    #[error(transparent)]
    Chain(ChainError),
    /// A backup belongs to a merge that was interrupted.
    #[error("backup {id} is part of the unfinished merge of backup {full} into {destination}")]
    UnfinishedMerge {
        /// The backup.
        id: BackupId,
        /// The FULL backup.
        full: BackupId,
        /// What the result will be.
        destination: BackupId,
    },
    /// What was asked for cannot be done; the text is the whole message.
    #[error("{0}")]
    Refused(String),
    /// A backup's status does not allow to restore it.
    #[error(
        "Backup {id} cannot be restored because it is not valid: its status is {}",
        status.name()
    )]
    NotRestorable {
        /// The backup.
        id: BackupId,
        /// Its status.
        status: BackupStatus,
    },
    /// The named backup lies behind the recovery target.
    #[error("Requested backup {id} does not satisfy restore options")]
    TargetNotSatisfied {
        /// The backup.
        id: BackupId,
    },
    /// No good backup lies before the recovery target.
    #[error("Backup satisfying target options is not found.")]
    NoBackupForTarget,
    /// A backup is of a cluster on another kind of storage.
    #[error(
        "Backup {id} cannot be restored: it is of a cluster on another kind of storage than that \
         of the instance"
    )]
    OtherStorage {
        /// The backup.
        id: BackupId,
    },
    /// A tablespace of a cluster on shared storage that is not on it.
    #[error("tablespace \"{path}\" is not on shared storage", path = path.escape_debug())]
    TablespaceOffShared {
        /// Where it is.
        path: String,
    },
    /// The data directory is in use.
    #[error("Restore destination is not empty: \"{path}\"", path = path.display())]
    TargetNotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// A directory cannot be restored in place; warnings have said why.
    #[error("Incremental restore is impossible")]
    IncrementalImpossible {
        /// The directory.
        path: PathBuf,
    },
    /// No backup of the chain ended before the destination's redo point.
    #[error(
        "Cannot perform incremental restore of backup chain {id} in 'lsn' mode, because \
         destination directory redo point {redo} on tli {timeline} is out of reach"
    )]
    RedoOutOfReach {
        /// The backup to restore.
        id: BackupId,
        /// The redo point.
        redo: Lsn,
        /// Its timeline.
        timeline: u32,
    },
    /// A tablespace's directory is in use.
    #[error("restore tablespace destination is not empty: \"{path}\"", path = path.display())]
    TablespaceNotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// An external directory is in use.
    #[error("External directory is not empty: \"{path}\"", path = path.display())]
    ExternalNotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// Two directories of a restore are one, or one lies in the other.
    #[error(
        "restore destination \"{path}\" overlaps with \"{other}\"",
        path = path.display(),
        other = other.display()
    )]
    TargetsOverlap {
        /// One directory.
        path: PathBuf,
        /// The other.
        other: PathBuf,
    },
    /// Another run restores into the data directory.
    #[error("another process restores into \"{path}\"", path = path.display())]
    TargetInUse {
        /// The directory.
        path: PathBuf,
    },
    /// -T names no tablespace of the backup.
    #[error(
        "--tablespace-mapping option's old directory doesn't have an entry in tablespace_map file: \
         \"{path}\"",
        path = path.display()
    )]
    UnknownTablespace {
        /// The old directory.
        path: PathBuf,
    },
    /// --external-mapping names no external directory of the backup.
    #[error(
        "--external-mapping option's old directory doesn't have an entry in list of external \
         directories of current backup: \"{path}\"",
        path = path.display()
    )]
    UnknownExternalDir {
        /// The old directory.
        path: PathBuf,
    },
    /// The content list names an external directory that the control file does not know.
    #[error("the content list names external directory {number}, which the backup does not have")]
    UnknownExternalNumber {
        /// Its number.
        number: u32,
    },
    /// The tablespace map is damaged.
    #[error("cannot use tablespace map \"{path}\"", path = path.display())]
    BadTablespaceMap {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: TablespaceMapError,
    },
    /// A file is of pages in one backup and not in another.
    #[error("file \"{name}\" changes between relation file and other file after backup {id}")]
    KindChanged {
        /// The file.
        name: String,
        /// The backup.
        id: BackupId,
    },
    /// A chain has no copy of a file.
    #[error("Failed to locate nonedata file \"{name}\" in backup {id}")]
    FileMissingInChain {
        /// The file.
        name: String,
        /// The backup that should have it.
        id: BackupId,
    },
    /// A file of a chain's member cannot be used.
    #[error("backup {id} is damaged: {detail}")]
    DamagedMember {
        /// The backup.
        id: BackupId,
        /// What is wrong.
        detail: String,
    },
    /// A backup has no control file.
    #[error("the backup has no global/pg_control")]
    BackupWithoutControlFile,
    /// The demo's restored tree is not the source.
    #[error("restored file \"{path}\" differs from its source", path = path.display())]
    TreesDiffer {
        /// The file.
        path: PathBuf,
    },
    /// The demo's damage was not noticed.
    #[error("a flipped bit of \"{path}\" at byte {offset} was not noticed", path = path.display())]
    DamageUnnoticed {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
    },
}

impl Error {
    /// What the user can do about it, where that is not plain from the text.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        self.hint_from_below()
            .or_else(|| self.source_hint())
            .or_else(|| wal_hint(self))
            .or_else(|| self.own_hint())
    }

    /// The hint of the error that this one passes on.
    fn hint_from_below(&self) -> Option<String> {
        match self {
            Error::Catalog(CatalogError::Lock(error)) | Error::Lock(error) => lock_hint(error),
            Error::Catalog(error) => catalog_hint(error),
            Error::Server(error) | Error::Session(SessionError::Server(error)) => error.hint(),
            Error::Session(SessionError::NotPermitted { needed, .. }) => Some((*needed).to_owned()),
            Error::WalStream(error) => error.hint().map(str::to_owned),
            Error::Increment(error) => error.hint().map(str::to_owned),
            Error::Dss(error) => error.hint().map(str::to_owned),
            Error::DssApi(error) => Some(error.hint().to_owned()),
            _ => None,
        }
    }

    /// What to do about a source that cannot be backed up.
    fn source_hint(&self) -> Option<String> {
        Some(match self {
            Error::NotCleanlyStopped { .. } => {
                "start the server and stop it with a fast or smart shutdown".to_owned()
            }
            Error::ServerRuns { path, .. } => format!(
                "stop it, or, if that process is not the server, remove \"{}\"",
                path.display()
            ),
            Error::UnclearPidFile { .. } => "wait until it has started and stop it".to_owned(),
            Error::LeftoverLabel { path } => format!(
                "a server started from a copy would recover from that backup: remove \"{}\"",
                path.display()
            ),
            Error::WalMissing { .. } => {
                "take the backup again; if it stays so, look at the log of \
                                         the server and at its disk"
                    .to_owned()
            }
            Error::StartedMeanwhile { .. } => "stop it and take the backup again".to_owned(),
            Error::OtherDataDirectory { .. }
            | Error::OtherPort { .. }
            | Error::OtherRole { .. } => {
                "-D has to name the data directory of the server that -h and -p lead to".to_owned()
            }
            Error::OtherCluster { .. } => {
                "-D has to name the data directory of this instance; add-instance makes an \
                 instance for another cluster"
                    .to_owned()
            }
            _ => return None,
        })
    }

    fn own_hint(&self) -> Option<String> {
        Some(match self {
            Error::Chain(ChainError::ParentMissing { .. } | ChainError::Unreadable { .. }) => {
                "an older or newer FULL backup and its increments may still be complete: show \
                 lists them"
                    .to_owned()
            }
            Error::UnfinishedMerge {
                full, destination, ..
            } => format!(
                "finish the merge with: merge -i {destination}; or delete the whole of it with: \
                 delete -i {full}"
            ),
            Error::NoControlFile { .. } | Error::OpenControlFile { .. } => {
                "-D has to name the data directory of a cluster".to_owned()
            }
            Error::NotSupportedYet { instead, .. } => instead.clone(),
            Error::Unfit(error) => error.hint(),
            Error::UnstorableName { .. } => {
                "commas, quotes, backslashes and control characters are not possible: rename or \
                 remove the file"
                    .to_owned()
            }
            Error::TargetNotEmpty { .. }
            | Error::TablespaceNotEmpty { .. }
            | Error::ExternalNotEmpty { .. }
            | Error::TargetsOverlap { .. }
            | Error::TargetInUse { .. } => {
                "empty the directory, or choose another with -D, -T or --external-mapping"
                    .to_owned()
            }
            Error::IncrementalImpossible { .. } => {
                "nothing was changed; see the warnings above. A restore into an empty directory is \
                 always possible"
                    .to_owned()
            }
            Error::RedoOutOfReach { .. } => "use -I checksum, which needs no redo point".to_owned(),
            Error::InvalidBackup { .. } | Error::NotRestorable { .. } => {
                "restore an earlier backup: show lists them; --force restores what is left of \
                 this one"
                    .to_owned()
            }
            Error::Pipeline(PipelineError::CorruptPage { .. }) => {
                "the page is damaged on disk: restore the relation from an earlier backup, or drop \
                 it"
                .to_owned()
            }
            Error::Pipeline(PipelineError::Io(error))
                if error.source.kind() == std::io::ErrorKind::StorageFull =>
            {
                "free space on the target and run the command again".to_owned()
            }
            Error::NoSpace {
                required,
                available,
                ..
            } => format!(
                "{} are needed, {} are free",
                super::words::pretty_size(*required),
                super::words::pretty_size(*available)
            ),
            Error::Pipeline(PipelineError::DamagedBackup { .. }) | Error::DamagedMember { .. } => {
                "run validate to see all that is damaged; restore an earlier backup".to_owned()
            }
            _ => return None,
        })
    }
}

macro_rules! from {
    ($($source:ty => $variant:ident),*) => {
        $(impl From<$source> for Error {
            fn from(error: $source) -> Error {
                Error::$variant(error)
            }
        })*
    };
}

from!(
    CatalogError => Catalog,
    ChainError => Chain,
    StorageError => Storage,
    PipelineError => Pipeline,
    LockError => Lock,
    SessionError => Session,
    WalStreamError => WalStream,
    WalSegmentsError => WalSegments
);

impl From<IncrementError> for Error {
    fn from(error: IncrementError) -> Error {
        Error::Increment(Box::new(error))
    }
}

impl From<ServerError> for Error {
    fn from(error: ServerError) -> Error {
        Error::Server(Box::new(error))
    }
}

impl From<crate::io::IoError> for Error {
    fn from(error: crate::io::IoError) -> Error {
        Error::Pipeline(PipelineError::Io(error))
    }
}

impl From<SampleError> for Error {
    fn from(source: SampleError) -> Error {
        Error::Sample { source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::RunningBackup;

    #[test]
    fn who_meets_a_running_backup_learns_how_to_look_at_its_process() {
        let mut running = RunningBackup {
            id: "TOU8BZ".parse().expect("an id"),
            instance: "one".to_owned(),
            pid: 4711,
            since: 0,
            host: None,
            is_here: false,
        };
        let hint =
            |running: &RunningBackup| Error::from(CatalogError::Running(running.clone())).hint();
        assert!(hint(&running).is_some_and(|hint| hint.ends_with("ps -fp 4711")));
        running.pid = 0;
        assert_eq!(hint(&running), None);
    }
}
