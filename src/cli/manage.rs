//! What the options of the commands that manage backups mean: typed arguments, as `args` has them
//! for the others.

use super::args::{Prepared, Request, refused};
use crate::command::{Error, delete};
use crate::format::catalog::BackupStatus;

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
        let what = match (backup_id, status) {
            (Some(id), _) => delete::What::Backup(id),
            (None, Some(status)) => delete::What::Status(status),
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
            check,
        };
        Ok(self.prepared(prepared, instance.log_level))
    }
}

fn parse_status(text: &str) -> Result<BackupStatus, Error> {
    BackupStatus::from_name(&text.to_ascii_uppercase())
        .ok_or_else(|| refused(format!("Unknown value for '--status' option: '{text}'")))
}
