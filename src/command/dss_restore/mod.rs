//! `dss-restore`: the documented procedure of restoring a cluster on shared storage, as far as it
//! is done on the primary, in one command.
//!
//! 1. [`prepare`] makes a [`Plan`]: the backup is chosen, its chain locked and every file of it
//!    looked up; the cluster is stopped, the devices are those of the groups and nobody's; the
//!    backup fits. Nothing is changed.
//! 2. The caller shows the plan and asks.
//! 3. [`run`] validates the chain, and sees that nothing changed since the plan was made.
//! 4. Files of the data directory that stay are saved; data directories of standbys are set aside.
//! 5. The starts of all devices are wiped, the groups are made anew, the data directory is emptied.
//! 6. The backup is restored, as `restore` does it.
//! 7. What was saved is put back. [`by_hand()`] says what remains to be done.
//!
//! Killed at any instant, the command can be given again and does everything anew. The record
//! beside the data directory (`record.rs`) says how far a run came, and holds what it saved.

mod by_hand;
mod plan;
mod record;
mod standby;
#[cfg(test)]
mod tests;

pub use by_hand::{ByHand, by_hand};
pub use plan::{Plan, PlannedGroup, prepare};
pub use standby::Standby;

use super::shared_storage::SharedOptions;
use super::{Error, restore};
use crate::monitor::Monitor;
use crate::pipeline::PipelineError;
use crate::storage::dss::{
    self, CreateOptions, DssError, GroupSpec, WriteOptions, add_volumes, create,
};
use record::{Record, Stage};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

/// Files of a data directory that belong to a cluster and not to what is in it: those of the
/// documented procedure, and settings, which hold addresses.
pub const LOCAL_FILES: [&str; 7] = [
    "cacert.pem",
    "server.crt",
    "server.key",
    "server.key.cipher",
    "server.key.rand",
    "postgresql.conf",
    "pg_hba.conf",
];

/// What `dss-restore` is asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is restored, and where to; damage is not accepted, nor anything that is there.
    pub restore: restore::Options,
    /// The groups of the cluster. All that have devices are made anew.
    pub shared: SharedOptions,
    /// Bytes of an allocation unit of new groups; by default what they are now.
    pub au_bytes: Option<u64>,
    /// Bytes of an allocation unit where a group cannot be read.
    pub au_bytes_default: u64,
    /// Whether the cluster is another one than was backed up, so that [`LOCAL_FILES`] stay.
    pub other_cluster: bool,
    /// Data directories of standbys that are on this machine.
    pub standbys: Vec<PathBuf>,
}

fn dss_error(error: DssError) -> Error {
    Error::Dss(Box::new(error))
}

/// Does what was planned.
///
/// # Errors
/// Where something fails; the command can be given again.
pub fn run(options: &Options, mut plan: Plan, monitor: &dyn Monitor) -> Result<Plan, Error> {
    plan.rehearsal.validate(&options.restore, monitor)?;
    let devices = plan::devices_of(options);
    let (data, units) = (&plan.data_directory, plan.units());
    let record = Record::begin(data, options.other_cluster, units, devices)?;
    let checked = plan.check_unchanged(options);
    if let Err(error) = checked.and_then(|()| check_cancelled(options)) {
        if plan.interrupted.is_none() {
            record.remove()?;
        }
        return Err(error);
    }
    match replace(options, &plan, record, monitor) {
        Ok(()) => Ok(plan),
        Err(error) => {
            tracing::warn!("The cluster is not restored: give the same command again");
            Err(error)
        }
    }
}

fn check_cancelled(options: &Options) -> Result<(), Error> {
    match options.restore.check.cancel.load(Ordering::Relaxed) {
        true => Err(PipelineError::Interrupted.into()),
        false => Ok(()),
    }
}

/// Replaces what is there by the backup.
fn replace(
    options: &Options,
    plan: &Plan,
    mut record: Record,
    monitor: &dyn Monitor,
) -> Result<(), Error> {
    let is_whole = record.stage() < Stage::Emptying;
    if is_whole {
        record.advance(Stage::Saving)?;
        record.save(&plan.data_directory, &plan.kept)?;
    }
    for standby in &plan.standbys {
        standby.set_aside()?;
    }
    if is_whole {
        record.advance(Stage::Wiping)?;
    }
    make_groups(options, plan)?;
    if is_whole {
        record::forget_start(&plan.data_directory)?;
    }
    record.advance(Stage::Emptying)?;
    restore::empty(&plan.data_directory)?;
    tracing::info!("Data directory is emptied");
    record.advance(Stage::Restoring)?;
    let mut restore = options.restore.clone();
    restore.backup_id = Some(plan.backup);
    restore.data_directory = Some(plan.data_directory.clone());
    restore::run_validated(&restore, monitor)?;
    record.advance(Stage::PuttingBack)?;
    record.put_back(&plan.data_directory)?;
    record.remove()
}

/// Wipes the devices and makes the groups.
fn make_groups(options: &Options, plan: &Plan) -> Result<(), Error> {
    let (home, engine) = (options.shared.dss_home.as_deref(), options.shared.engine);
    dss::wipe(&plan.devices(), home, engine).map_err(dss_error)?;
    tracing::info!("Volumes are wiped");
    for group in &plan.groups {
        make_group(&group.spec, group.au_bytes, home, options)?;
        tracing::info!("Volume group {} is made", group.spec.name);
    }
    Ok(())
}

fn make_group(
    spec: &GroupSpec,
    au_bytes: u64,
    home: Option<&Path>,
    options: &Options,
) -> Result<(), Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default();
    let time = (now.as_secs(), u64::from(now.subsec_micros()));
    let group = CreateOptions {
        name: spec.name.clone(),
        device: spec.devices[0].clone(),
        au_bytes,
        dss_home: home.map(Path::to_owned),
        time,
    };
    create(&group, options.shared.engine).map_err(dss_error)?;
    if spec.devices.len() > 1 {
        let write = WriteOptions {
            dss_home: home.map(Path::to_owned),
            ..WriteOptions::default()
        };
        add_volumes(spec, &write, time, options.shared.engine).map_err(dss_error)?;
    }
    Ok(())
}
