//! Every option of the command line, once: how it is written, what it takes, and what it is for.
//!
//! Parsing, help pages, man pages, completions and the tests of them all read this table. Options
//! that are stored as settings of an instance are those of [`InstanceConf::OPTIONS`], in the same
//! order.
//!
//! [`InstanceConf::OPTIONS`]: crate::format::catalog::InstanceConf::OPTIONS

use crate::format::catalog::{Expected, Unit};

/// What an option takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Takes {
    /// Nothing.
    Flag,
    /// A text that is not empty, once.
    Text,
    /// A text that is not empty; the last of several counts.
    LastText,
    /// A text that is not empty, as often as wanted.
    Texts,
    /// A number of the kind, once.
    Number(Expected, Unit),
}

/// Where an option stands on help pages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Group {
    /// Before the titled groups.
    General,
    /// How to reach a server.
    Connection,
    /// How backups are stored.
    Compression,
    /// Up to where to recover.
    Recovery,
    /// What to keep.
    Retention,
    /// What to keep longer.
    Pinning,
    /// What is told, and where.
    Logging,
    /// A cluster on another host.
    Remote,
    /// A cluster on shared storage.
    Dss,
    /// Backups in an object store.
    S3,
    /// Backups that are encrypted.
    Encryption,
    /// Accepted, as the original does, and without effect there and here.
    NoEffect,
}

impl Group {
    /// The title on help pages; `None` for the first group.
    pub(super) fn title(self) -> Option<&'static str> {
        Some(match self {
            Group::General => return None,
            Group::Connection => "Connection options",
            Group::Compression => "Compression options",
            Group::Recovery => "Recovery options",
            Group::Retention => "Retention options",
            Group::Pinning => "Pinning options",
            Group::Logging => "Logging options",
            Group::Remote => "Remote options",
            Group::Dss => "DSS options",
            Group::S3 => "S3 options",
            Group::Encryption => "Encryption options",
            Group::NoEffect => "Options without effect",
        })
    }
}

/// An option.
#[derive(Clone, Copy, Debug)]
pub(super) struct OptionSpec {
    /// Its name after `--`.
    pub(super) long: &'static str,
    /// Its letter after `-`.
    pub(super) short: Option<char>,
    /// Another name of it.
    pub(super) alias: Option<&'static str>,
    /// What it takes.
    pub(super) takes: Takes,
    /// Where it stands on help pages.
    pub(super) group: Group,
    /// What help pages write for its value.
    pub(super) value: &'static str,
    /// What it is for.
    pub(super) help: &'static str,
}

const U32: Takes = Takes::Number(Expected::U32, Unit::None);
const TTL: Takes = Takes::Number(Expected::I64, Unit::Seconds);
const I32: Takes = Takes::Number(Expected::I32, Unit::None);
const U64: Takes = Takes::Number(Expected::U64, Unit::None);

const fn flag(long: &'static str, group: Group, help: &'static str) -> OptionSpec {
    text(long, group, "", help).taking(Takes::Flag)
}

const fn text(
    long: &'static str,
    group: Group,
    value: &'static str,
    help: &'static str,
) -> OptionSpec {
    OptionSpec {
        long,
        short: None,
        alias: None,
        takes: Takes::Text,
        group,
        value,
        help,
    }
}

impl OptionSpec {
    const fn taking(self, takes: Takes) -> OptionSpec {
        OptionSpec { takes, ..self }
    }

    const fn short(self, short: char) -> OptionSpec {
        OptionSpec {
            short: Some(short),
            ..self
        }
    }

    const fn alias(self, alias: &'static str) -> OptionSpec {
        OptionSpec {
            alias: Some(alias),
            ..self
        }
    }
}

use Group::{
    Compression, Connection, Dss, Encryption, General, Logging, NoEffect, Pinning, Recovery,
    Remote, Retention, S3,
};

/// Options of the command line only.
#[rustfmt::skip]
pub(super) const OWN: [OptionSpec; 72] = [
    flag("help", General, "show this page, and do nothing else").short('?'),
    text("backup-path", General, "backup-path",
        "directory of the backup catalog (default: environment variable BACKUP_PATH)").short('B'),
    text("threads", General, "threads_num", "number of parallel threads (default: 1)")
        .short('j').taking(U32),
    flag("stream", General, "stream WAL during the backup; always so"),
    flag("progress", General, "show progress also where there is no terminal"),
    text("backup-id", General, "backup-id", "the backup, as show lists it").short('i'),
    flag("no-sync", General, "do not make the files durable before the end"),
    flag("backup-pg-log", General, "include the content of directory 'pg_log'"),
    text("backup-mode", General, "backup-mode",
        "FULL, PTRACK (what changed since the last backup, as openGauss tracks it) or DELTA \
         (the same by reading all pages)").short('b').taking(Takes::LastText),
    flag("smooth-checkpoint", General,
        "spread the checkpoint at the start, to spare the server").short('C'),
    text("slot", General, "slot-name", "physical replication slot that keeps WAL for the backup")
        .short('S'),
    flag("temp-slot", General, "make a slot for this backup only (PostgreSQL)"),
    flag("delete-wal", Retention, "remove WAL from the archive that no backup needs")
        .alias("wal"),
    flag("delete-expired", Retention, "delete backups that the retention policy does not keep")
        .alias("expired"),
    flag("merge-expired", Retention,
        "merge expired backups into the oldest one that is kept"),
    flag("dry-run", General, "only say what would be done"),
    text("note", General, "text", "a note for the backup; 'none' removes it"),
    text("recovery-target-time", Recovery, "time", "time up to which recovery will proceed")
        .alias("time"),
    text("recovery-target-xid", Recovery, "xid",
        "transaction ID up to which recovery will proceed").alias("xid"),
    text("recovery-target-lsn", Recovery, "lsn",
        "WAL position up to which recovery will proceed").alias("lsn"),
    text("recovery-target-inclusive", Recovery, "boolean",
        "whether the target itself is recovered too").alias("inclusive"),
    text("recovery-target-name", Recovery, "target-name",
        "restore point up to which recovery will proceed"),
    text("timeline", Recovery, "timeline", "timeline to recover along").taking(U32),
    flag("immediate", Recovery, "end recovery as soon as the cluster is consistent"),
    text("tablespace-mapping", General, "OLDDIR=NEWDIR",
        "restore a tablespace into another directory; may be repeated")
        .short('T').taking(Takes::Texts),
    text("external-mapping", General, "OLDDIR=NEWDIR",
        "restore an external directory into another one; may be repeated")
        .taking(Takes::Texts),
    flag("no-validate", General, "do not validate the backup"),
    flag("skip-block-validation", General, "check files only, not the pages in them"),
    flag("skip-external-dirs", General, "do not restore external directories"),
    text("incremental-mode", General, "none|checksum|lsn",
        "restore into a directory that holds another state of the cluster, and write only what \
         differs: by LSN and checksum of each page, or also by what changed since a backup \
         (default: none, the directory must be empty)")
        .short('I').taking(Takes::LastText),
    text("with-encryption", Encryption, "algorithm", "encrypt the backup"),
    text("with-key", Encryption, "key", "key of the encryption"),
    text("with-salt", Encryption, "salt", "salt of the encryption"),
    text("with-device-params", Encryption, "parameters", "device that encrypts"),
    flag("gen-key", Encryption, "make a key"),
    text("status", General, "backup_status", "all backups of this status"),
    flag("backup-pg-replslot", General, "include the content of directory 'pg_replslot'"),
    flag("force", General, "restore a backup whose status is not OK or DONE"),
    flag("compress", Compression, "the same as --compress-algorithm=zlib"),
    flag("no-password", Connection, "never ask for a password").short('w'),
    text("password", Connection, "password", "the password (better: ~/.pgpass)").short('W'),
    text("rw-timeout", Connection, "rw-timeout",
        "seconds that an answer of the server may take (default: 120)").short('t').taking(U32),
    text("instance", General, "instance_name", "name of the instance"),
    text("format", General, "format", "plain or json (default: plain)").taking(Takes::LastText),
    flag("archive", General, "show the WAL archive instead of backups"),
    text("ttl", Pinning, "interval",
        "keep the backup for this long after its recovery time; 0: no longer; available units: \
         'ms', 's', 'min', 'h', 'd' (default: s)").taking(TTL),
    text("expire-time", Pinning, "time",
        "keep the backup until this time, as '2030-01-01 00:00:00+03'"),
    text("media-type", S3, "disk|s3", "where backups are (default: disk)")
        .short('M').taking(Takes::LastText),
    text("s3-status", S3, "local|s3", "where the backup is"),
    text("wal-file-path", NoEffect, "path", "ignored"),
    text("wal-file-name", NoEffect, "name", "ignored"),
    flag("overwrite", NoEffect, "ignored"),
    flag("no-ready-rename", NoEffect, "ignored"),
    flag("no-validate-wal", NoEffect, "ignored"),
    text("batch-size", NoEffect, "number", "ignored").taking(I32),
    text("prefetch-dir", NoEffect, "path", "ignored"),
    // Ours.
    text("archive-dir", Recovery, "directory",
        "directory of archived WAL (default: that of the instance in the catalog)"),
    flag("offline", General, "back up the data directory of a server that is shut down"),
    text("size", General, "size",
        "size of the generated cluster; available units: 'kB', 'MB', 'GB', 'TB' (default: MB)"),
    text("dir", General, "directory", "where to work (default: a temporary directory)"),
    flag("keep", General, "leave everything there"),
    text("seed", General, "number", "generate another cluster").taking(U64),
    text("io-engine", General, "engine", "auto, ring (io_uring) or sync (default: auto)"),
    text("vg", Dss, "name=device[,device...]",
        "a volume group and its devices or images, the entry volume first; may be repeated")
        .taking(Takes::Texts),
    text("dss-conf", Dss, "path",
        "dss_vg_conf.ini with the volume groups (default: $DSS_HOME/cfg/dss_vg_conf.ini)"),
    text("au-size", Dss, "size",
        "allocation unit of a new group, 2MB to 64MB; available units: 'kB', 'MB' (default: 8MB)"),
    flag("recursive", General, "with all that is in directories"),
    flag("yes", Dss, "do not ask before volumes are wiped"),
    flag("other-cluster", Dss,
        "the cluster is another one than was backed up: its certificates and settings stay"),
    text("set-aside", Dss, "path",
        "data directory of a standby on this machine, to be set aside; may be repeated")
        .taking(Takes::Texts),
    flag("long", General, "sizes, times and targets of links too"),
    flag("all", General, "what waits in .recycle to be used again, too"),
];

/// Options that set what an instance's file sets. Numbers among them are checked where they are
/// set.
#[rustfmt::skip]
pub(super) const SETTINGS: [OptionSpec; 41] = [
    text("pgdata", General, "pgdata-path",
        "data directory of the cluster (default: that of the instance, or environment variable \
         PGDATA)").short('D'),
    text("system-identifier", NoEffect, "number", "refused: it comes from the cluster"),
    text("external-dirs", General, "external-directories-paths",
        "back up directories outside of the data directory too; several are separated by ':'")
        .short('E'),
    text("pgdatabase", Connection, "dbname",
        "database to connect to, or a connection string (default: PGDATABASE, then the user \
         name)").short('d'),
    text("pghost", Connection, "hostname",
        "host, or directory of the socket (default: PGHOST, then the local socket)").short('h'),
    text("pgport", Connection, "port", "port (default: PGPORT, then 5432)").short('p'),
    text("pguser", Connection, "username",
        "user name (default: PGUSER, then the system's user)").short('U'),
    text("archive-timeout", General, "timeout",
        "how long the end of the backup may take; available units: 'ms', 's', 'min', 'h', 'd' \
         (default: 300s)"),
    text("archive-host", General, "destination", "host of the WAL archive; only stored"),
    text("archive-port", General, "port", "port of the WAL archive; only stored"),
    text("archive-user", General, "username", "user of the WAL archive; only stored"),
    text("restore-command", General, "cmdline",
        "how a restored server gets WAL: restore writes it into its configuration"),
    text("log-level-console", Logging, "log-level-console",
        "'off', 'error', 'warning', 'info', 'log', 'verbose' (default: info)")
        .taking(Takes::LastText),
    text("log-level-file", Logging, "log-level-file", "the same for the log file (default: off)")
        .taking(Takes::LastText),
    text("log-filename", Logging, "log-filename",
        "name of the log file; may be a pattern of strftime (default: pg_probackup.log)"),
    text("error-log-filename", Logging, "error-log-filename",
        "name of a second log file, for errors only"),
    text("log-directory", Logging, "log-directory",
        "where the log files are (default: backup-path/log)"),
    text("log-rotation-size", Logging, "log-rotation-size",
        "begin the log file anew if it is larger; 0: never; available units: 'kB', 'MB', 'GB', \
         'TB' (default: kB)"),
    text("log-rotation-age", Logging, "log-rotation-age",
        "begin the log file anew if it is older; 0: never; available units: 'ms', 's', 'min', \
         'h', 'd' (default: ms)"),
    text("retention-redundancy", Retention, "retention-redundancy",
        "FULL backups to keep; 0: all (default: 0)"),
    text("retention-window", Retention, "retention-window",
        "days for which recovery is to be possible; 0: all (default: 0)"),
    text("wal-depth", Retention, "wal-depth",
        "backups of a timeline that keep their WAL in the archive; 0: all (default: 0)"),
    text("compress-algorithm", Compression, "compress-algorithm",
        "'zlib', 'lz4', 'zstd', 'pglz', 'none' (default: none)").taking(Takes::LastText),
    text("compress-level", Compression, "compress-level",
        "level of compression [0-9] (default: 1)"),
    text("remote-proto", Remote, "protocol", "ssh, or none (default: ssh)"),
    text("remote-host", Remote, "destination", "host of the cluster"),
    text("remote-port", Remote, "port", "port of ssh there"),
    text("remote-path", Remote, "path", "directory of the program there"),
    text("remote-user", Remote, "username", "user of ssh there"),
    text("ssh-options", Remote, "ssh_options", "further options of ssh"),
    text("ssh-config", Remote, "path", "configuration of ssh"),
    text("remote-libpath", Remote, "libpath", "directory of the libraries there"),
    flag("enable-dss", Dss, "the cluster is on shared storage"),
    text("vgname", Dss, "+data,+log", "its volume groups, for data and for logs"),
    text("socketpath", Dss, "socketpath",
        "socket of its server of storage (default: UDS:$DSS_HOME/.dss_unix_d_socket)"),
    text("instance-id", Dss, "number", "number of the instance, where each has its own logs"),
    text("access-id", S3, "id", "name of the account of the object store"),
    text("access-key", S3, "key", "key of that account"),
    text("endpoint", S3, "address", "address of the object store"),
    text("region", S3, "region", "region of the object store"),
    text("access-bucket", S3, "bucket", "bucket of the object store"),
];

/// All options.
pub(super) fn all() -> impl Iterator<Item = &'static OptionSpec> {
    OWN.iter().chain(&SETTINGS)
}

/// The option of this long name, which is not an abbreviation.
pub(super) fn named(long: &str) -> Option<&'static OptionSpec> {
    all().find(|spec| spec.long == long || spec.alias == Some(long))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::catalog::InstanceConf;

    #[test]
    fn settings_are_those_of_the_instances_file() {
        let ours: Vec<_> = SETTINGS
            .iter()
            .map(|spec| (spec.long, spec.short))
            .collect();
        let file: Vec<_> = InstanceConf::OPTIONS
            .iter()
            .map(|option| (option.key, option.short))
            .collect();
        assert_eq!(ours, file);
    }

    #[test]
    fn no_name_or_letter_means_two_options() {
        let mut names: Vec<_> = all()
            .flat_map(|spec| std::iter::once(spec.long).chain(spec.alias))
            .collect();
        let mut letters: Vec<_> = all().filter_map(|spec| spec.short).collect();
        let (name_count, letter_count) = (names.len(), letters.len());
        names.sort_unstable();
        names.dedup();
        letters.sort_unstable();
        letters.dedup();
        assert_eq!((names.len(), letters.len()), (name_count, letter_count));
    }

    #[test]
    fn every_option_says_what_it_is_for() {
        for spec in all() {
            assert!(
                !spec.help.is_empty() && !spec.help.ends_with('.'),
                "{}",
                spec.long
            );
            assert_eq!(
                spec.value.is_empty(),
                spec.takes == Takes::Flag,
                "{}",
                spec.long
            );
        }
    }
}
