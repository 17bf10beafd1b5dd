//! `show`: what is in a catalog. Reads control files and locks, and never writes.

use super::Error;
use crate::catalog::{BackupEntry, Catalog, Instance};
use crate::format::catalog::{BackupStatus, StorageType};
use crate::types::{BackupId, TimelineId};
use std::path::PathBuf;

/// What to show.
#[derive(Clone, Debug)]
pub struct Options {
    /// The catalog.
    pub catalog: PathBuf,
    /// One instance, or all.
    pub instance: Option<String>,
    /// One backup of that instance, or all.
    pub backup_id: Option<BackupId>,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Instances, by name.
    pub instances: Vec<InstanceReport>,
}

/// An instance and its backups.
#[derive(Clone, Debug)]
pub struct InstanceReport {
    /// Its name.
    pub name: String,
    /// Whether its cluster is on shared storage.
    pub is_dss: bool,
    /// Its backups, newest first.
    pub backups: Vec<BackupReport>,
}

/// A backup.
#[derive(Clone, Debug)]
pub struct BackupReport {
    /// The backup and its record.
    pub entry: BackupEntry,
    /// Its status; a running backup that nobody runs any more has failed.
    pub status: BackupStatus,
    /// WAL history of its parent among the backups shown; 0 without one.
    pub parent_timeline: TimelineId,
}

/// Looks at the catalog. What is odd goes to the log as warnings.
///
/// # Errors
/// Where the catalog or the instance cannot be read. A backup that does not exist is no error, as
/// for the original.
pub fn run(options: &Options) -> Result<Report, Error> {
    let catalog = Catalog::open(&options.catalog)?;
    let instances = match &options.instance {
        Some(name) => {
            let instance = catalog.instance(name)?;
            // The settings of the instance that a command is about have to be valid.
            instance.conf()?;
            vec![instance]
        }
        None => catalog.instances()?,
    };
    if instances.is_empty() {
        tracing::warn!(
            "This backup catalog contains no backup instances. \
             Backup instance can be added via 'add-instance' command."
        );
    }
    let instances = instances
        .iter()
        .map(|instance| report(instance, options.backup_id))
        .collect::<Result<Vec<_>, Error>>()?;
    if let Some(id) = options.backup_id
        && instances.iter().all(|instance| instance.backups.is_empty())
    {
        tracing::info!("Requested backup \"{id}\" is not found.");
    }
    Ok(Report { instances })
}

pub(super) fn report(instance: &Instance, only: Option<BackupId>) -> Result<InstanceReport, Error> {
    let is_dss = match instance.conf() {
        Ok(conf) => conf.storage_type() == StorageType::Dss,
        Err(error) => {
            tracing::warn!("{error}");
            false
        }
    };
    let mut entries = instance.backups()?;
    entries.retain(|entry| only.is_none_or(|id| entry.id == id));
    for entry in &entries {
        if let Err(reason) = &entry.control {
            tracing::warn!("{reason}");
        }
        for warning in &entry.warnings {
            tracing::warn!("{warning}");
        }
    }
    let backups = entries
        .iter()
        .map(|entry| BackupReport {
            entry: entry.clone(),
            status: entry.effective_status(),
            parent_timeline: parent_timeline(entry, &entries),
        })
        .collect();
    Ok(InstanceReport {
        name: instance.name().to_owned(),
        is_dss,
        backups,
    })
}

fn parent_timeline(entry: &BackupEntry, entries: &[BackupEntry]) -> TimelineId {
    entry
        .control
        .as_ref()
        .ok()
        .and_then(|control| control.parent_backup_id)
        .and_then(|parent| entries.iter().find(|entry| entry.id == parent))
        .and_then(|parent| parent.control.as_ref().ok())
        .map_or(TimelineId(0), |control| control.timeline)
}
