//! Every command, once: what it is for, which options have an effect, and examples.
//!
//! All commands accept all options, as the original's do. Those listed here are the ones that help
//! pages, man pages and completions offer.

/// A command.
#[derive(Clone, Copy, Debug)]
pub(super) struct CommandSpec {
    /// Its name.
    pub(super) name: &'static str,
    /// In one line, for the list of commands.
    pub(super) summary: &'static str,
    /// What it does, for its page.
    pub(super) about: &'static str,
    /// Options that it does not work without, by long name.
    pub(super) required: &'static [&'static str],
    /// Options that have an effect, in the order of the synopsis.
    pub(super) options: &'static [&'static str],
    /// Command lines, each with what it is for.
    pub(super) examples: &'static [(&'static str, &'static str)],
}

/// Options of every run on an instance that takes long.
macro_rules! with_run {
    ($($option:literal),* $(,)?) => {
        &[
            $($option,)*
            "threads",
            "progress",
            "io-engine",
            "log-level-console",
            "log-level-file",
            "log-filename",
            "error-log-filename",
            "log-directory",
            "log-rotation-size",
            "log-rotation-age",
        ]
    };
}

/// The commands, in the order of the list.
pub(super) const COMMANDS: &[CommandSpec] = &[
    CommandSpec {
        name: "init",
        summary: "make an empty backup catalog",
        about: "Makes the directory of a backup catalog, which must not exist or be empty.",
        required: &["backup-path"],
        options: &[],
        examples: &[("a catalog on a disk of its own", "init -B /backup")],
    },
    CommandSpec {
        name: "add-instance",
        summary: "register a cluster in the catalog",
        about: "Registers a cluster under a name. Options for connections, compression, logging \
                and retention that are given, too, become settings of the instance.",
        required: &["backup-path", "pgdata", "instance"],
        options: &[
            "external-dirs",
            "compress-algorithm",
            "compress-level",
            "enable-dss",
            "vgname",
            "socketpath",
            "instance-id",
            "vg",
            "dss-conf",
        ],
        examples: &[
            (
                "the cluster in /gauss/data, compressed by default",
                "add-instance -B /backup -D /gauss/data --instance=main --compress-algorithm=zstd",
            ),
            (
                "a cluster on shared storage, with the groups of $DSS_HOME",
                "add-instance -B /backup -D /gauss/data --instance=main --enable-dss \
                 --vgname=+data,+log",
            ),
        ],
    },
    CommandSpec {
        name: "set-config",
        summary: "store settings of an instance",
        about: "Stores options as settings of an instance, so that they need not be given each \
                time. What is not given keeps its value.",
        required: &["backup-path", "instance"],
        options: &[
            "pgdata",
            "external-dirs",
            "archive-timeout",
            "restore-command",
            "pgdatabase",
            "pghost",
            "pgport",
            "pguser",
            "retention-redundancy",
            "retention-window",
            "wal-depth",
            "compress-algorithm",
            "compress-level",
            "compress",
            "log-level-console",
            "log-level-file",
            "log-filename",
            "error-log-filename",
            "log-directory",
            "log-rotation-size",
            "log-rotation-age",
            "enable-dss",
            "vgname",
            "socketpath",
            "instance-id",
        ],
        examples: &[
            (
                "how the server is reached",
                "set-config -B /backup --instance=main -d postgres -p 15400",
            ),
            (
                "a log file of at most 10 MB",
                "set-config -B /backup --instance=main --log-level-file=info \
                 --log-rotation-size=10MB",
            ),
        ],
    },
    CommandSpec {
        name: "show-config",
        summary: "show the settings of an instance",
        about: "Shows the settings that commands work with, those that were never set included.",
        required: &["backup-path", "instance"],
        options: &["format"],
        examples: &[(
            "for a script",
            "show-config -B /backup --instance=main --format=json",
        )],
    },
    CommandSpec {
        name: "show",
        summary: "list instances and backups",
        about: "Lists the backups of all instances or of one, the newest first, or shows the \
                record of one backup. Nothing is written.",
        required: &["backup-path"],
        options: &["instance", "backup-id", "archive", "format"],
        examples: &[
            ("all backups of all instances", "show -B /backup"),
            (
                "the record of one backup",
                "show -B /backup --instance=main -i TOU8CR",
            ),
        ],
    },
    CommandSpec {
        name: "backup",
        summary: "back up a cluster",
        about: "Backs up a running cluster, or with --offline one that is shut down. Every page is \
                verified before it is stored, and the backup is validated in the end.",
        required: &["backup-path", "instance", "backup-mode"],
        options: with_run![
            "pgdata",
            "offline",
            "smooth-checkpoint",
            "slot",
            "temp-slot",
            "archive-timeout",
            "rw-timeout",
            "backup-pg-log",
            "backup-pg-replslot",
            "no-validate",
            "skip-block-validation",
            "external-dirs",
            "no-sync",
            "note",
            "pgdatabase",
            "pghost",
            "pgport",
            "pguser",
            "no-password",
            "password",
            "compress-algorithm",
            "compress-level",
            "compress",
            "delete-expired",
            "merge-expired",
            "delete-wal",
            "retention-redundancy",
            "retention-window",
            "wal-depth",
            "dry-run",
            "ttl",
            "expire-time",
            "enable-dss",
            "vgname",
            "socketpath",
            "instance-id",
            "vg",
            "dss-conf",
        ],
        examples: &[
            (
                "a full backup with four threads",
                "backup -B /backup --instance=main -b FULL -d postgres -p 15400 -j 4",
            ),
            (
                "what changed since",
                "backup -B /backup --instance=main -b PTRACK -j 4",
            ),
            (
                "seven FULL backups are kept, older ones deleted",
                "backup -B /backup --instance=main -b FULL --delete-expired \
                 --retention-redundancy=7",
            ),
        ],
    },
    CommandSpec {
        name: "restore",
        summary: "write a backup into a data directory",
        about: "Restores a backup, with all that it grows on, into a data directory. Without -i \
                the newest backup that fits is taken. The server must not run.",
        required: &["backup-path", "instance"],
        options: with_run![
            "pgdata",
            "backup-id",
            "force",
            "no-sync",
            "no-validate",
            "skip-block-validation",
            "tablespace-mapping",
            "external-mapping",
            "skip-external-dirs",
            "incremental-mode",
            "restore-command",
            "recovery-target-time",
            "recovery-target-xid",
            "recovery-target-lsn",
            "recovery-target-name",
            "recovery-target-inclusive",
            "immediate",
            "archive-dir",
            "enable-dss",
            "vgname",
            "socketpath",
            "instance-id",
            "vg",
            "dss-conf",
        ],
        examples: &[
            (
                "the newest backup",
                "restore -B /backup --instance=main -D /gauss/data -j 4",
            ),
            (
                "a tablespace goes elsewhere",
                "restore -B /backup --instance=main -D /data2 -T /ts/ts1=/data2.ts1",
            ),
        ],
    },
    CommandSpec {
        name: "validate",
        summary: "check backups against their checksums",
        about: "Reads backups and checks every page, file and record of them. A backup that is \
                damaged becomes CORRUPT, those that grow on it ORPHAN; the exit code is 1 then.",
        required: &["backup-path"],
        options: with_run![
            "instance",
            "backup-id",
            "skip-block-validation",
            "recovery-target-time",
            "recovery-target-xid",
            "recovery-target-lsn",
            "recovery-target-name",
            "recovery-target-inclusive",
            "immediate",
            "archive-dir",
        ],
        examples: &[
            ("all that is there", "validate -B /backup -j 4"),
            (
                "one backup, and those that it grows on",
                "validate -B /backup --instance=main -i TOU8CR",
            ),
        ],
    },
    CommandSpec {
        name: "merge",
        summary: "make one FULL backup of a chain",
        about: "Merges an increment and all that it grows on into one FULL backup.",
        required: &["backup-path", "instance", "backup-id"],
        options: with_run!["dry-run", "no-validate", "no-sync"],
        examples: &[(
            "what would be done",
            "merge -B /backup --instance=main -i TOU8CR --dry-run",
        )],
    },
    CommandSpec {
        name: "delete",
        summary: "delete backups",
        about: "Deletes a backup with all that grow on it, all backups of a status, or those that \
                the retention policy no longer wants; and WAL that no backup needs.",
        required: &["backup-path", "instance"],
        options: with_run![
            "backup-id",
            "status",
            "delete-expired",
            "merge-expired",
            "delete-wal",
            "retention-redundancy",
            "retention-window",
            "wal-depth",
            "dry-run",
        ],
        examples: &[
            (
                "what would be deleted",
                "delete -B /backup --instance=main -i TOU8CR --dry-run",
            ),
            (
                "failed backups",
                "delete -B /backup --instance=main --status=ERROR",
            ),
            (
                "WAL in the archive that no backup needs",
                "delete -B /backup --instance=main --delete-wal",
            ),
        ],
    },
    CommandSpec {
        name: "set-backup",
        summary: "pin a backup, or note something about it",
        about: "Keeps a backup for a while, whatever retention says, or writes a note into its \
                record.",
        required: &["backup-path", "instance", "backup-id"],
        options: &["note", "ttl", "expire-time"],
        examples: &[
            (
                "a month more",
                "set-backup -B /backup --instance=main -i TOU8CR --ttl=30d",
            ),
            (
                "why it is there",
                "set-backup -B /backup --instance=main -i TOU8CR --note='before the upgrade'",
            ),
        ],
    },
    CommandSpec {
        name: "del-instance",
        summary: "delete an instance with all its backups",
        about: "Deletes an instance from the catalog: its backups, its WAL archive and its \
                settings. The cluster itself is not touched.",
        required: &["backup-path", "instance"],
        options: with_run![],
        examples: &[(
            "a cluster that is no more",
            "del-instance -B /backup --instance=old",
        )],
    },
    CommandSpec {
        name: "dss",
        summary: "look at files on shared storage",
        about: "Reads volume groups of DSS on devices or image files, without its server: ls lists \
                files, stat shows a file or the groups, cat writes files to the standard output, \
                cp copies a file or a tree out, check finds damage. None of them writes to a \
                volume. cv makes a volume of a device that is none, as dsscmd cv does; adv adds \
                volumes to a group that no server uses; wipe makes volumes plain devices again, \
                whatever is on them.",
        required: &[],
        options: &[
            "recursive",
            "long",
            "all",
            "format",
            "no-sync",
            "io-engine",
            "vg",
            "dss-conf",
            "au-size",
            "dry-run",
            "yes",
        ],
        examples: &[
            (
                "all files of two groups",
                "dss ls --recursive --vg data=/dev/gauss/data0 --vg log=/dev/gauss/log0",
            ),
            (
                "a file of an image",
                "dss cat --vg data=data0.img +data/pg_control",
            ),
            (
                "is anything damaged",
                "dss check --vg data=/dev/gauss/data0",
            ),
            (
                "a new group",
                "dss cv --vg data=/dev/gauss/data0 --au-size=4MB",
            ),
            (
                "a second volume",
                "dss adv --vg data=/dev/gauss/data0,/dev/gauss/data1",
            ),
            (
                "erase two volumes of a group that is not needed any more",
                "dss wipe --vg data=/dev/gauss/data0,/dev/gauss/data1",
            ),
        ],
    },
    CommandSpec {
        name: "dss-restore",
        summary: "make volume groups anew and restore a cluster on shared storage",
        about: "Does what the documented procedure does on the primary of a stopped cluster: wipes \
                the volumes, makes the groups, empties the data directory, and restores. First it \
                shows what will be done, and asks. Nothing is wiped before the backup was \
                validated and found to fit, and no server, no other process and no other group has \
                the devices. In the end it says what remains to be done by hand. If it is \
                interrupted, give the same command again: it does everything anew, with what it \
                had saved.",
        required: &["backup-path", "instance"],
        options: with_run![
            "pgdata",
            "backup-id",
            "dry-run",
            "format",
            "no-sync",
            "no-validate",
            "skip-block-validation",
            "external-mapping",
            "skip-external-dirs",
            "restore-command",
            "recovery-target-time",
            "recovery-target-xid",
            "recovery-target-lsn",
            "recovery-target-name",
            "recovery-target-inclusive",
            "immediate",
            "archive-dir",
            "vgname",
            "socketpath",
            "instance-id",
            "vg",
            "dss-conf",
            "au-size",
            "other-cluster",
            "set-aside",
            "yes",
        ],
        examples: &[
            (
                "what would be done",
                "dss-restore -B /backup --instance=main --dry-run \
                 --dss-conf=$DSS_HOME/cfg/dss_vg_conf.ini",
            ),
            (
                "a backup on two volumes, without a question",
                "dss-restore -B /backup --instance=main -i TOU8CR -j 4 --yes \
                 --vg data=/dev/gauss/data0 --vg log=/dev/gauss/log0",
            ),
            (
                "into another cluster, a standby of which is on this machine",
                "dss-restore -B /backup --instance=main --other-cluster \
                 --set-aside=/gauss/dn2 --dss-conf=/gauss/dss/cfg/dss_vg_conf.ini",
            ),
        ],
    },
    CommandSpec {
        name: "demo",
        summary: "back up, damage, validate and restore a generated cluster",
        about: "Shows the whole way on a generated cluster, without a server.",
        required: &[],
        options: &[
            "size",
            "dir",
            "keep",
            "seed",
            "threads",
            "progress",
            "io-engine",
        ],
        examples: &[("one gigabyte", "demo --size=1GB -j 2")],
    },
    CommandSpec {
        name: "completions",
        summary: "print completions for a shell",
        about: "Prints what a shell needs to complete commands, options and their values: bash, \
                zsh or fish.",
        required: &[],
        options: &[],
        examples: &[("in ~/.bashrc", "completions bash > ~/.gs_probackup.bash")],
    },
];

/// The command of this name.
pub(super) fn named(name: &str) -> Option<&'static CommandSpec> {
    COMMANDS.iter().find(|command| command.name == name)
}

#[cfg(test)]
mod tests {
    use super::super::option_table::{self, Group};
    use super::*;

    #[test]
    fn commands_offer_options_that_there_are_and_that_have_an_effect() {
        for command in COMMANDS {
            let mut seen = Vec::new();
            for option in command.required.iter().chain(command.options) {
                let spec = option_table::named(option).unwrap();
                assert_eq!(spec.long, *option);
                assert!(
                    spec.group < Group::Remote || spec.group == Group::Dss,
                    "{} {option}",
                    command.name
                );
                assert!(!seen.contains(option), "{} {option}", command.name);
                seen.push(option);
            }
            assert!(!command.examples.is_empty(), "{}", command.name);
        }
    }
}
