//! The words of `backup.control`: modes, statuses, storage.

use std::fmt;

/// How much of a cluster a backup holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BackupMode {
    /// Everything.
    Full,
    /// What changed since its parent.
    Ptrack,
}

impl BackupMode {
    /// The name on disk and in flags.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            BackupMode::Full => "FULL",
            BackupMode::Ptrack => "PTRACK",
        }
    }

    /// The mode whose name begins with `text`, in any case.
    #[must_use]
    pub fn from_prefix(text: &str) -> Option<BackupMode> {
        let text = text.trim_ascii_start().to_ascii_uppercase();
        if text.is_empty() {
            return None;
        }
        [BackupMode::Full, BackupMode::Ptrack]
            .into_iter()
            .find(|mode| mode.name().starts_with(&text))
    }
}

impl fmt::Display for BackupMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Where a backup is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BackupStatus {
    /// Complete and validated.
    Ok,
    /// Failed or was killed.
    Error,
    /// Is being made.
    Running,
    /// Its chain is being merged.
    Merging,
    /// Merged; what it was merged from is still there.
    Merged,
    /// Is being deleted.
    Deleting,
    /// Deleted; never on disk.
    Deleted,
    /// Complete, not validated.
    Done,
    /// Complete, but something below it in its chain is not.
    Orphan,
    /// Damaged.
    Corrupt,
    /// Not known: the control file is missing, unreadable or names another status.
    Unknown,
}

impl BackupStatus {
    const ALL: [(BackupStatus, &str); 11] = [
        (BackupStatus::Unknown, "UNKNOWN"),
        (BackupStatus::Ok, "OK"),
        (BackupStatus::Error, "ERROR"),
        (BackupStatus::Running, "RUNNING"),
        (BackupStatus::Merging, "MERGING"),
        (BackupStatus::Merged, "MERGED"),
        (BackupStatus::Deleting, "DELETING"),
        (BackupStatus::Deleted, "DELETED"),
        (BackupStatus::Done, "DONE"),
        (BackupStatus::Orphan, "ORPHAN"),
        (BackupStatus::Corrupt, "CORRUPT"),
    ];

    /// The name on disk.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL
            .into_iter()
            .find(|(status, _)| *status == self)
            .map_or("UNKNOWN", |(_, name)| name)
    }

    /// The status of exactly this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<BackupStatus> {
        Self::ALL
            .into_iter()
            .find(|(_, known)| *known == name)
            .map(|(status, _)| status)
    }

    /// Whether a backup of this status can be restored and can have children: `OK` or `DONE`.
    #[must_use]
    pub fn is_usable(self) -> bool {
        matches!(self, BackupStatus::Ok | BackupStatus::Done)
    }
}

impl fmt::Display for BackupStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What the cluster's files were on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum StorageType {
    /// File systems.
    #[default]
    File,
    /// A DSS volume group beside file systems.
    Dss,
    /// Neither word.
    Unknown,
}

impl StorageType {
    /// The name on disk.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            StorageType::File => "FILE",
            StorageType::Dss => "DSS",
            StorageType::Unknown => "UNKNOWN",
        }
    }
}

/// Whether a copy of the backup is in an object store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum S3Status {
    /// Only here.
    Local,
    /// Uploaded.
    S3,
    /// Never asked for.
    #[default]
    Unknown,
}

impl S3Status {
    /// The name on disk.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            S3Status::Local => "LOCAL",
            S3Status::S3 => "S3",
            S3Status::Unknown => "UNKNOWN",
        }
    }
}
