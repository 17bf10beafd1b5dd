//! What the options of the commands that manage backups mean: typed arguments, as `args` has them
//! for the others.

use super::args::{Prepared, Request, refused};
use crate::catalog::RetentionPolicy;
use crate::command::retention::RetentionOptions;
use crate::command::set_backup::{self, NoteChange, Pin};
use crate::command::{Error, delete};
use crate::format::catalog::{
    BackupStatus, InstanceConf, NoZone, Unit, parse_i64, parse_timestamp,
};

impl Request<'_> {
    /// `delete`.
    pub(super) fn delete(&self) -> Result<Prepared<delete::Options>, Error> {
        let options = self.options;
        let catalog = self.check_common()?;
        let instance = self.instance(catalog, self.instance_name()?)?;
        let backup_id = self.backup_id()?;
        let check = self.check_options()?;
        if backup_id.is_some() {
            let others = ["delete-expired", "merge-expired", "status"];
            if let Some(other) = others.into_iter().find(|other| options.is_given(other)) {
                return Err(refused(format!(
                    "You cannot specify --{other} and (-i, --backup-id) options together"
                )));
            }
        }
        let status = options.text("status").map(parse_status).transpose()?;
        let retention = self.retention(&instance.conf);
        let what = match (backup_id, status) {
            (Some(id), _) => delete::What::Backup(id),
            (None, Some(status)) => delete::What::Status(status),
            (None, None) if retention.is_asked_for() => delete::What::Expired(retention),
            (None, None) => {
                return Err(refused(
                    "You must specify at least one of the delete options: --delete-expired \
                     |--delete-wal |--merge-expired |--status |(-i, --backup-id)",
                ));
            }
        };
        let prepared = delete::Options {
            catalog: instance.catalog,
            instance: instance.name,
            what,
            dry_run: options.flag("dry-run"),
            delete_wal: retention.delete_wal.then_some(retention.wal_depth),
            check,
        };
        Ok(self.prepared(prepared, instance.log_level))
    }

    /// `set-backup`.
    pub(super) fn set_backup(&self) -> Result<set_backup::Options, Error> {
        let catalog = self.check_common()?;
        let instance = self.instance(catalog, self.instance_name()?)?;
        let backup_id = self.backup_id()?;
        self.threads()?;
        let pin = self.pin()?;
        let note = self.options.text("note").map(|_| self.note()).transpose()?;
        let backup_id = backup_id.ok_or_else(|| {
            refused("You must specify parameter (-i, --backup-id) for 'set-backup' command")
        })?;
        Ok(set_backup::Options {
            catalog: instance.catalog,
            instance: instance.name,
            backup_id,
            pin,
            note: note.map(|note| note.map_or(NoteChange::Remove, NoteChange::Set)),
            cancel: std::sync::Arc::clone(self.cancel),
        })
    }

    /// `--ttl` and `--expire-time`.
    pub(super) fn pin(&self) -> Result<Option<Pin>, Error> {
        let (ttl, until) = (self.options.text("ttl"), self.options.text("expire-time"));
        match (ttl, until) {
            (Some(_), Some(_)) => Err(refused(
                "You cannot specify '--expire-time' and '--ttl' options together",
            )),
            (Some(text), None) => parse_i64(text, Unit::Seconds)
                .filter(|seconds| *seconds >= 0)
                .map(|seconds| Some(Pin::For(seconds)))
                .ok_or_else(|| {
                    let phrase = "should be a 64bit unsigned integer";
                    refused(format!("Option --ttl {phrase}: '{text}'"))
                }),
            (None, Some(text)) => parse_timestamp(text, NoZone::Local)
                .filter(|time| *time > 0)
                .map(|time| Some(Pin::Until(time)))
                .ok_or_else(|| {
                    refused(format!(
                        "Invalid value for '--expire-time' option: '{text}'"
                    ))
                }),
            (None, None) => Ok(None),
        }
    }

    /// The options about retention, from the command line and the instance's settings.
    pub(super) fn retention(&self, conf: &InstanceConf) -> RetentionOptions {
        RetentionOptions {
            policy: RetentionPolicy {
                redundancy: conf.retention_redundancy.unwrap_or(0),
                window: conf.retention_window.unwrap_or(0),
            },
            delete_expired: self.options.flag("delete-expired"),
            merge_expired: self.options.flag("merge-expired"),
            delete_wal: self.options.flag("delete-wal"),
            wal_depth: conf.wal_depth.unwrap_or(0),
            dry_run: self.options.flag("dry-run"),
        }
    }
}

fn parse_status(text: &str) -> Result<BackupStatus, Error> {
    BackupStatus::from_name(&text.to_ascii_uppercase())
        .ok_or_else(|| refused(format!("Unknown value for '--status' option: '{text}'")))
}
