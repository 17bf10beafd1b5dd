//! What the original has and this program has not yet: said aloud instead of being ignored.

/// Options that nothing here honours yet, and the commands of the original that would.
pub(super) const NOT_YET: &[(&str, &[&str])] = &[
    ("s3-status", &["set-backup"]),
    ("timeline", &["dss-restore", "restore", "validate"]),
    ("with-encryption", ANY),
    ("with-key", ANY),
    ("with-salt", ANY),
    ("with-device-params", ANY),
    ("gen-key", ANY),
    ("remote-host", ANY),
    ("remote-port", ANY),
    ("remote-path", ANY),
    ("remote-user", ANY),
    ("remote-libpath", ANY),
    ("ssh-options", ANY),
    ("ssh-config", ANY),
    ("access-id", ANY),
    ("access-key", ANY),
    ("access-bucket", ANY),
    ("endpoint", ANY),
    ("region", ANY),
];

const ANY: &[&str] = &[
    "add-instance",
    "backup",
    "del-instance",
    "delete",
    "dss-restore",
    "merge",
    "restore",
    "set-backup",
    "set-config",
    "show",
    "validate",
];
/// The commands that work with backups. `add-instance` only stores what these cannot honour.
pub(super) const RUNNING: &[&str] = &["backup", "dss-restore", "merge", "restore", "validate"];
