//! From typed arguments to the options of the commands that move data, and the signals that end them.

use super::args::{
    BackupArgs, DemoArgs, EngineArg, RecoveryTarget as Target, RestoreArgs, RunArgs, ValidateArgs,
};
use crate::command::Error;
use crate::command::backup;
use crate::command::demo;
use crate::command::restore::{self, RecoveryTarget};
use crate::command::validate::{self, CheckOptions};
use crate::io::EngineChoice;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Bytes of relations that `demo` generates by default.
const DEMO_BYTES: u64 = 64 << 20;

pub(super) fn backup(args: BackupArgs) -> backup::Options {
    backup::Options {
        catalog: args.instance.catalog,
        instance: args.instance.name,
        data_directory: Some(args.pgdata),
        mode: args.mode,
        offline: args.offline,
        threads: args.run.threads,
        compress_algorithm: Some(args.compress_algorithm),
        compress_level: Some(args.compress_level),
        external_dirs: args.external_dirs,
        note: args.note,
        ttl_s: args.ttl_s,
        expire_time: args.expire_time,
        validate: !args.no_validate,
        skip_block_validation: args.skip_block_validation,
        sync: !args.no_sync,
        pg_log: args.backup_pg_log,
        pg_replslot: false,
        engine: engine(args.run),
        cancel: cancel_on_signals(),
    }
}

pub(super) fn restore(args: RestoreArgs) -> restore::Options {
    restore::Options {
        catalog: args.instance.catalog,
        instance: args.instance.name,
        data_directory: Some(args.pgdata),
        backup_id: args.backup_id,
        target: target(args.target, args.inclusive),
        tablespace_mapping: args.tablespace_mapping,
        external_mapping: args.external_mapping,
        skip_external_dirs: args.skip_external_dirs,
        validate: !args.no_validate,
        force: args.force,
        sync: !args.no_sync,
        check: check(args.run, args.skip_block_validation),
    }
}

pub(super) fn validate(args: ValidateArgs) -> Result<validate::Options, Error> {
    if args.target.is_some() {
        return Err(Error::NotSupportedYet {
            what: "validate with a recovery target".to_owned(),
            instead: "leave the target out: the backups themselves are validated".to_owned(),
        });
    }
    Ok(validate::Options {
        catalog: args.catalog,
        instance: args.instance.map(|instance| instance.name),
        backup_id: args.backup_id,
        check: check(args.run, args.skip_block_validation),
    })
}

pub(super) fn demo(args: DemoArgs) -> demo::Options {
    let fresh = || PathBuf::from(format!("gs_probackup-demo-{}", std::process::id()));
    demo::Options {
        directory: std::path::absolute(args.dir.unwrap_or_else(fresh)).unwrap_or_default(),
        size_bytes: args.size_bytes.unwrap_or(DEMO_BYTES),
        seed: args.seed.unwrap_or(1),
        threads: args.run.threads,
        keep: args.keep,
        cancel: cancel_on_signals(),
    }
}

fn check(run: RunArgs, skip_block_validation: bool) -> CheckOptions {
    CheckOptions {
        threads: run.threads,
        skip_block_validation,
        engine: engine(run),
        cancel: cancel_on_signals(),
    }
}

fn engine(run: RunArgs) -> EngineChoice {
    match run.engine {
        EngineArg::Auto => EngineChoice::Auto,
        EngineArg::Ring => EngineChoice::Ring,
        EngineArg::Sync => EngineChoice::Sync,
    }
}

fn target(target: Option<Target>, inclusive: Option<bool>) -> RecoveryTarget {
    let mut recovery = RecoveryTarget {
        inclusive,
        ..RecoveryTarget::default()
    };
    match target {
        None => {}
        Some(Target::Time { text, seconds }) => recovery.time = Some((text, seconds)),
        Some(Target::Xid(xid)) => recovery.xid = Some((xid.to_string(), xid)),
        Some(Target::Lsn(lsn)) => recovery.lsn = Some((lsn.to_string(), lsn)),
        Some(Target::Name(name)) => recovery.name = Some(name),
        Some(Target::Immediate) => recovery.immediate = true,
    }
    recovery
}

/// A flag that the signals set which ask a program to end. The second one ends it at once.
fn cancel_on_signals() -> Arc<AtomicBool> {
    let cancel = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT] {
        // Where a signal cannot be caught it ends the program at once; a killed run harms nothing.
        let _ = signal_hook::flag::register_conditional_shutdown(signal, 1, cancel.clone());
        let _ = signal_hook::flag::register(signal, cancel.clone());
    }
    cancel
}
