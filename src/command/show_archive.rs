//! `show --archive`: what is in the WAL archives, and which backups can use it.

use super::Error;
use super::show::{self, BackupReport};
use crate::catalog::{ArchivedTimeline, Catalog, Instance};
use crate::format::catalog::BackupStatus;
use crate::types::{BackupId, Lsn, TimelineId};
use std::path::PathBuf;

/// What to show.
#[derive(Clone, Debug)]
pub struct Options {
    /// The catalog.
    pub catalog: PathBuf,
    /// One instance, or all.
    pub instance: Option<String>,
}

/// The archive of an instance.
#[derive(Clone, Debug)]
pub struct ArchiveReport {
    /// The instance's name.
    pub name: String,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Timelines, the newest first.
    pub timelines: Vec<TimelineReport>,
}

/// A timeline and its backups.
#[derive(Clone, Debug)]
pub struct TimelineReport {
    /// What is in the archive.
    pub archived: ArchivedTimeline,
    /// The newest good backup of an older timeline that can be recovered along this one.
    pub closest_backup: Option<BackupId>,
    /// Backups that were taken on this timeline, newest first.
    pub backups: Vec<BackupReport>,
}

/// Looks at the archives; by name of the instance.
///
/// # Errors
/// Where the catalog, the instance or its archive cannot be read.
pub fn run(options: &Options) -> Result<Vec<ArchiveReport>, Error> {
    let catalog = Catalog::open(&options.catalog)?;
    let instances = match &options.instance {
        Some(name) => vec![catalog.instance(name)?],
        None => catalog.instances()?,
    };
    instances.iter().map(report).collect()
}

fn report(instance: &Instance) -> Result<ArchiveReport, Error> {
    let archive = instance.wal_archive()?;
    let backups = show::report(instance, None)?.backups;
    let timelines = archive.timelines.iter().rev().map(|archived| {
        let of_timeline =
            |backup: &&BackupReport| place(backup).is_some_and(|(tli, _)| tli == archived.tli);
        TimelineReport {
            archived: archived.clone(),
            closest_backup: closest(archived, &backups),
            backups: backups.iter().filter(of_timeline).cloned().collect(),
        }
    });
    Ok(ArchiveReport {
        name: instance.name().to_owned(),
        segment_bytes: archive.segment_bytes,
        timelines: timelines.collect(),
    })
}

/// Timeline and stop position of a backup.
fn place(backup: &BackupReport) -> Option<(TimelineId, Lsn)> {
    let control = backup.entry.control.as_ref().ok()?;
    Some((control.timeline, control.stop_lsn))
}

/// The good backup that ends nearest to where the history of the timeline left the backup's own.
fn closest(timeline: &ArchivedTimeline, backups: &[BackupReport]) -> Option<BackupId> {
    let mut ancestors = timeline.history.ancestors();
    ancestors.find_map(|(ancestor, switchpoint)| {
        let good = backups
            .iter()
            .filter(|backup| matches!(backup.status, BackupStatus::Ok | BackupStatus::Done));
        let before = good.filter_map(|backup| {
            let (tli, stop) = place(backup)?;
            (tli == ancestor && stop <= switchpoint).then_some((stop, backup.entry.id))
        });
        before.max().map(|(_, id)| id)
    })
}
