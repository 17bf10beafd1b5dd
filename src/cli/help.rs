//! Help and version texts. What the program does not do yet is said, not left out.

use super::options::PROGRAM;
use crate::format::catalog::printable;
use std::fmt::Write;

/// A subcommand's page.
struct Page {
    command: &'static str,
    /// In one line, for the list of commands.
    summary: &'static str,
    synopsis: &'static str,
    /// Groups of options, each with its title; the first has none.
    groups: &'static [&'static str],
}

const PAGES: [Page; 10] = [
    Page {
        command: "init",
        summary: "make an empty backup catalog",
        synopsis: "init -B backup-path",
        groups: &[CATALOG],
    },
    Page {
        command: "add-instance",
        summary: "register a cluster in the catalog",
        synopsis: "add-instance -B backup-path -D pgdata-path --instance=instance_name
                 [-E external-directories-paths]
                 [--compress-algorithm=compress-algorithm] [--compress-level=compress-level]",
        groups: &[CATALOG, INSTANCE, PGDATA, EXTERNAL, STORED, COMPRESSION],
    },
    Page {
        command: "show",
        summary: "list instances and backups",
        synopsis: "show -B backup-path
                 [--instance=instance_name [-i backup-id]]
                 [--format=plain|json]",
        groups: &[CATALOG, SHOW],
    },
    Page {
        command: "backup",
        summary: "back up a cluster",
        synopsis: "backup -B backup-path --instance=instance_name -b backup-mode
                 [-D pgdata-path] [-j threads_num] [--progress] [--offline]
                 [-d dbname] [-h host] [-p port] [-U username] [-w | -W password]
                 [-t rw-timeout] [-C] [-S slot-name] [--temp-slot]
                 [--archive-timeout=timeout]
                 [--backup-pg-log] [--backup-pg-replslot]
                 [--no-validate] [--skip-block-validation]
                 [-E external-directories-paths] [--no-sync] [--note=text]
                 [--compress-algorithm=compress-algorithm]
                 [--compress-level=compress-level] [--compress]
                 [--delete-expired] [--merge-expired] [--dry-run]
                 [--retention-redundancy=retention-redundancy]
                 [--retention-window=retention-window]
                 [--ttl=interval | --expire-time=time]",
        groups: &[
            CATALOG,
            INSTANCE,
            BACKUP,
            PGDATA,
            EXTERNAL,
            RUN,
            CONNECTION,
            COMPRESSION,
            RETENTION,
            PINNING,
            LOGGING,
        ],
    },
    Page {
        command: "restore",
        summary: "write a backup into a data directory",
        synopsis: "restore -B backup-path --instance=instance_name
                 [-D pgdata-path] [-i backup-id] [-j threads_num] [--progress]
                 [--force] [--no-sync] [--no-validate] [--skip-block-validation]
                 [-T OLDDIR=NEWDIR] [--external-mapping=OLDDIR=NEWDIR]
                 [--skip-external-dirs] [-I none|checksum|lsn]
                 [--recovery-target-time=time | --recovery-target-xid=xid
                  | --recovery-target-lsn=lsn | --recovery-target-name=target-name]
                 [--recovery-target-inclusive=boolean] [--archive-dir=directory]",
        groups: &[CATALOG, INSTANCE, PGDATA, RESTORE, RUN, RECOVERY, LOGGING],
    },
    Page {
        command: "validate",
        summary: "check backups against their checksums",
        synopsis: "validate -B backup-path
                 [--instance=instance_name [-i backup-id]]
                 [-j threads_num] [--progress] [--skip-block-validation]
                 [--recovery-target-time=time | --recovery-target-xid=xid
                  | --recovery-target-lsn=lsn | --recovery-target-name=target-name]
                 [--recovery-target-inclusive=boolean] [--archive-dir=directory]",
        groups: &[CATALOG, VALIDATE, RUN, RECOVERY, LOGGING],
    },
    Page {
        command: "merge",
        summary: "make one FULL backup of a chain",
        synopsis: "merge -B backup-path --instance=instance_name -i backup-id
                 [-j threads_num] [--progress]
                 [--dry-run] [--no-validate] [--no-sync]",
        groups: &[CATALOG, INSTANCE, MERGE, RUN, LOGGING],
    },
    Page {
        command: "delete",
        summary: "delete backups",
        synopsis: "delete -B backup-path --instance=instance_name
                 (-i backup-id | --delete-expired | --merge-expired
                  | --status=backup_status)
                 [-j threads_num] [--progress] [--dry-run]
                 [--retention-redundancy=retention-redundancy]
                 [--retention-window=retention-window]",
        groups: &[CATALOG, INSTANCE, DELETE, RUN, RETENTION, LOGGING],
    },
    Page {
        command: "set-backup",
        summary: "pin a backup, or note something about it",
        synopsis: "set-backup -B backup-path --instance=instance_name -i backup-id
                 [--note=text] [--ttl=interval | --expire-time=time]",
        groups: &[CATALOG, INSTANCE, SET_BACKUP, PINNING],
    },
    Page {
        command: "demo",
        summary: "back up, damage, validate and restore a generated cluster",
        synopsis: "demo [--size=size] [--dir=directory] [--keep] [-j threads_num]",
        groups: &[DEMO, RUN],
    },
];

const CATALOG: &str = "
  -B, --backup-path=backup-path    location of the backup storage area
                                   (default: environment variable BACKUP_PATH)
";
const INSTANCE: &str = "      --instance=instance_name     name of the instance
";
const PGDATA: &str = "  -D, --pgdata=pgdata-path         location of the database storage area
                                   (default: of the instance, or environment variable PGDATA)
";
const EXTERNAL: &str = "  -E, --external-dirs=external-directories-paths
                                   back up directories outside of the data directory too
                                   (example: --external-dirs=/tmp/dir1:/tmp/dir2)
";
const CONNECTION: &str = "
  Connection options:
  -d, --pgdatabase=dbname          database to connect to, or a connection string
                                   (default: PGDATABASE, then the user name)
  -h, --pghost=hostname            host, or directory of the socket
                                   (default: PGHOST, then the local socket)
  -p, --pgport=port                port (default: PGPORT, then 5432)
  -U, --pguser=username            user name (default: PGUSER, then the system's user)
  -w, --no-password                never ask for a password
  -W, --password=password          the password (better: ~/.pgpass)
  -t, --rw-timeout=rw-timeout      seconds that an answer of the server may take
                                   (default: 120)
";
const STORED: &str = "
  Every option below, and those for connections, logging and retention, is stored as a
  setting of the instance.
";
const SHOW: &str = "      --instance=instance_name     show the backups of one instance
  -i, --backup-id=backup-id        show the record of one backup
      --format=format              plain or json (default: plain)
";
const MERGE: &str = "  -i, --backup-id=backup-id        backup to merge, with all that it grows on
      --dry-run                    only say what would be done
      --no-validate                do not validate the chain before
      --no-sync                    do not make the files durable before they count
";
const DELETE: &str = "  -i, --backup-id=backup-id        backup to delete, with all that grow on it
      --status=backup_status       delete all backups of this status
";
const SET_BACKUP: &str = "  -i, --backup-id=backup-id        the backup
      --note=text                  a note, or 'none' to remove it
                                   (example: --note='before the upgrade')
";
const PINNING: &str = "
  Pinning options:
      --ttl=interval               keep the backup so long, whatever retention says; 0: no longer
                                   available units: 'ms', 's', 'min', 'h', 'd' (default: s)
      --expire-time=time           keep the backup until then
                                   (example: --expire-time='2030-01-01 00:00:00+03')
";
const RETENTION: &str = "
  Retention options:
      --delete-expired             delete backups that the retention policy no longer wants
      --merge-expired              merge them into those that it wants
      --retention-redundancy=retention-redundancy
                                   FULL backups to keep; 0: no rule (default: of the instance)
      --retention-window=retention-window
                                   days to keep; 0: no rule (default: of the instance)
      --dry-run                    only say what would be done
";
const BACKUP: &str =
    "  -b, --backup-mode=backup-mode    FULL, PTRACK (what changed since the last backup, as
                                   openGauss tracks it) or DELTA (the same by reading all pages)
      --offline                    back up the data directory of a server that is shut down
  -C, --smooth-checkpoint          spread the checkpoint at the start, to spare the server
  -S, --slot=slot-name             physical replication slot that keeps WAL for the backup
      --temp-slot                  make a slot for this backup only (PostgreSQL)
      --archive-timeout=timeout    how long the end of the backup may take (default: 5min)
      --backup-pg-log              include the content of directory 'pg_log'
      --backup-pg-replslot         include the content of directory 'pg_replslot'
      --no-validate                do not validate the backup after it was made
      --skip-block-validation      check files only, not the pages in them
      --no-sync                    do not make the files durable before the end
      --note=text                  a note for the backup
                                   (example: --note='before the upgrade')
";
const RESTORE: &str =
    "  -i, --backup-id=backup-id        backup to restore (default: the newest that fits)
      --force                      restore a backup whose status is not OK or DONE
      --no-sync                    do not make the files durable before the end
      --no-validate                do not validate the backup first
      --skip-block-validation      check files only, not the pages in them
  -T, --tablespace-mapping=OLDDIR=NEWDIR
                                   restore a tablespace into another directory; may be repeated
      --external-mapping=OLDDIR=NEWDIR
                                   restore an external directory into another one; may be repeated
      --skip-external-dirs         do not restore external directories
  -I, --incremental-mode=none|checksum|lsn
                                   restore into a directory that holds another state of the
                                   cluster and write only what differs: by LSN and checksum of
                                   each page, or also by what changed since a backup
                                   (default: none, the directory must be empty)
";
const VALIDATE: &str = "      --instance=instance_name     validate the backups of one instance
  -i, --backup-id=backup-id        validate one backup and those it is based on
      --skip-block-validation      check files only, not the pages in them
";
const DEMO: &str = "
      --size=size                  size of the generated cluster
                                   available units: 'kB', 'MB', 'GB', 'TB' (default: MB)
      --dir=directory              where to work (default: a temporary directory)
      --keep                       leave everything there
      --seed=number                generate another cluster
";
const RUN: &str = "  -j, --threads=threads_num        number of parallel threads (default: 1)
      --progress                   show progress also where there is no terminal
      --io-engine=engine           auto, ring (io_uring) or sync (default: auto)
";
const COMPRESSION: &str = "
  Compression options:
      --compress-algorithm=compress-algorithm
                                   'zlib', 'lz4', 'zstd', 'pglz', 'none' (default: none)
      --compress-level=compress-level
                                   level of compression [0-9] (default: 1)
      --compress                   the same as --compress-algorithm=zlib
";
const RECOVERY: &str = "
  Recovery options:
      --recovery-target-time=time  time up to which recovery will proceed
      --recovery-target-xid=xid    transaction ID up to which recovery will proceed
      --recovery-target-lsn=lsn    WAL position up to which recovery will proceed
      --recovery-target-name=target-name
                                   restore point up to which recovery will proceed
      --recovery-target-inclusive=boolean
                                   whether the target itself is recovered too
      --archive-dir=directory      where the server archives its WAL; validate and restore
                                   look there for the way to the target, and restore
                                   makes a restore_command of it
                                   (default: backup-path/wal/instance_name)
";
const LOGGING: &str = "
  Logging options:
      --log-level-console=log-level-console
                                   'off', 'error', 'warning', 'info', 'log', 'verbose'
                                   (default: info)
      --log-level-file=log-level-file
                                   the same for the log file (default: off)
      --log-filename=log-filename  name of the log file; may be a pattern of strftime
                                   (default: pg_probackup.log)
      --error-log-filename=error-log-filename
                                   name of a second log file, for errors only
      --log-directory=log-directory
                                   where the log files are (default: backup-path/log)
      --log-rotation-size=log-rotation-size
                                   begin the log file anew if it is larger; 0: never
                                   available units: 'kB', 'MB', 'GB', 'TB' (default: kB)
      --log-rotation-age=log-rotation-age
                                   begin the log file anew if it is older; 0: never
                                   available units: 'ms', 's', 'min', 'h', 'd' (default: ms)
";

const CLOSING: &str = "
Every option of the original gs_probackup is accepted. One that cannot be honoured yet (remote
hosts, shared storage, object stores, encryption) ends the run with an error.
";

/// Whether there is a command of this name.
pub(super) fn has_page(command: &str) -> bool {
    PAGES.iter().any(|page| page.command == command)
}

/// The help of a subcommand, or of the program.
pub(super) fn page(topic: Option<&str>) -> String {
    let Some(topic) = topic else {
        return program();
    };
    if let Some(page) = PAGES.iter().find(|page| page.command == topic) {
        let options = page.groups.concat();
        return format!("\n{PROGRAM} {}\n{options}\n", page.synopsis);
    }
    if matches!(topic, "help" | "version") {
        return format!("No help page for \"{topic}\" command. Try {PROGRAM} help\n");
    }
    let topic = printable(topic);
    format!("Unknown command \"{topic}\". Try {PROGRAM} help\n")
}

fn program() -> String {
    let mut text = format!(
        "\n{PROGRAM} - utility to manage backup/recovery of openGauss database.\n\n  \
         {PROGRAM} help [COMMAND]\n\n  {PROGRAM} version\n"
    );
    for page in &PAGES {
        write!(
            text,
            "\n  {PROGRAM} {}\n                 [--help]\n",
            page.synopsis
        )
        .expect("a string takes everything");
    }
    text.push_str("\nCommands:\n");
    for page in &PAGES {
        writeln!(text, "  {:<14}{}", page.command, page.summary)
            .expect("a string takes everything");
    }
    text + CLOSING
}

/// The program and its version.
pub(super) fn version() -> String {
    format!("{PROGRAM} {}\n", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::options::Options;
    use std::ffi::OsString;

    // Every `--option` of a text, with a value where one is shown.
    fn options_in(text: &str) -> Vec<String> {
        text.split_ascii_whitespace()
            .filter_map(|word| word.trim_start_matches('[').strip_prefix("--"))
            .map(|word| word.trim_end_matches([']', '.', ',']).to_owned())
            .collect()
    }

    #[test]
    fn every_option_in_a_help_text_is_accepted() {
        let texts = PAGES.iter().map(|page| page.groups.concat());
        let mut seen = 0;
        for option in texts.flat_map(|text| options_in(&text)) {
            let name = option.split('=').next().unwrap();
            let word = if option.contains('=') && name != "threads" && name != "seed" {
                let value = match name {
                    "compress-algorithm" => "none",
                    "log-level-console" | "log-level-file" => "info",
                    "retention-redundancy" | "retention-window" => "1",
                    "compress-level" | "ttl" | "log-rotation-size" | "log-rotation-age"
                    | "archive-timeout" | "rw-timeout" => "1",
                    _ => "x",
                };
                format!("--{name}={value}")
            } else if option.contains('=') {
                format!("--{name}=1")
            } else {
                format!("--{name}")
            };
            Options::parse(&[OsString::from(&word)]).unwrap();
            seen += 1;
        }
        assert!(seen > 40, "{seen}");
    }

    #[test]
    fn help_fits_a_terminal_and_names_every_command() {
        let text = page(None);
        for command in PAGES.iter().map(|page| page.command) {
            assert!(
                text.contains(&format!("  {PROGRAM} {command} ")),
                "{command}"
            );
            assert!(has_page(command));
            for line in page(Some(command)).lines() {
                assert!(line.len() <= 100, "{line}");
            }
        }
        assert_eq!(
            page(Some("version")),
            "No help page for \"version\" command. Try gs_probackup help\n"
        );
        assert_eq!(
            page(Some("archive-push")),
            "Unknown command \"archive-push\". Try gs_probackup help\n"
        );
    }
}
