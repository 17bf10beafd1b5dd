//! The source of a `backup` of a running server: backup mode, WAL that is received meanwhile, and
//! what the server says when the backup ends.
//!
//! Order, and why:
//!
//! 1. two connections are made and everything is checked before anything is written
//! 2. the server starts the backup; only then is WAL received and are files listed
//! 3. files are copied while a thread receives WAL; if either fails, both end
//! 4. `pg_control` is read when all files are copied, before the backup is stopped
//! 5. the server stops the backup; the label and the tablespace map that it returns are the
//!    backup's
//! 6. WAL is received until the stop position is durable, and read from start to stop once
//!
//! The backup is non-exclusive: whatever happens to this process or to the connection, the server
//! leaves backup mode when the session ends, and nothing is left in its data directory.

use super::super::Error;
use super::changes::{Extraction, TrackingServer};
use super::content::ContentBuilder;
use super::copier::{Copier, Targets};
use super::external::check_external_dirs;
use super::history;
use super::increment::Changes;
use super::list::{ListOptions, SourceTree};
use super::liveness::work_while_alive;
use super::offline::read_segment;
use super::parent::Parent;
use super::place::Place;
use super::{Ending, Mode, Plan, Run, ServerOptions, check_system_identifier, signed};
use crate::format::catalog::{BackupControl, Root, format_timestamp};
use crate::format::pg_control::{ClusterState, ControlFile, set_min_recovery_point};
use crate::format::tablespace_map;
use crate::format::wal::{RangeRequest, WalRange, check_range};
use crate::limits::{START_BACKUP_SECONDS_MAX, STOP_BACKUP_SECONDS_AT_FAILURE};
use crate::pipeline::{BackedUpFile, PipelineError, WalSegment, WalSegments};
use crate::server::wal_stream::{
    ReceivedWal, Slot, SlotCreation, StopTarget, WaitFor, WalStreamError, WalStreamRequest,
    create_temporary_slot, identify, receive, start_command,
};
use crate::server::{
    BackupSession, ConnectContext, ConnectTarget, Connection, SessionError, StoppedBackup,
};
use crate::storage::{FileKind, Posix, Storage, create_directory_durably};
use crate::types::{Lsn, TimelineId};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A running server that passed all checks.
pub(super) struct RunningServer {
    /// Its control file before the backup.
    pub(super) control: ControlFile,
    place: Place,
    data: Arc<Posix>,
    session: BackupSession<Connection>,
    /// The connection for WAL, until it is given to its thread.
    replication: Option<Connection>,
    /// Logical slots that are backed up.
    slots: BTreeSet<String>,
    /// Where the backup started: what changed later, its WAL brings.
    started: Lsn,
    options: ServerOptions,
}

/// What copying and stopping came to.
struct Copied {
    tree: SourceTree,
    targets: Targets,
    files: Vec<BackedUpFile>,
    control_bytes: Vec<u8>,
    /// The databases but the templates: oid and name.
    databases: Vec<(u32, String)>,
    stopped: StoppedBackup,
}

impl RunningServer {
    /// Connects and checks all that can be checked before the backup.
    ///
    /// # Errors
    /// [`Error`]; the server is as before.
    pub(super) fn connect(
        options: &ServerOptions,
        plan: &Plan,
        cancel: &Arc<AtomicBool>,
    ) -> Result<RunningServer, Error> {
        let place = plan.place.clone();
        let data = Arc::new(Posix::open(&place.data_directory)?);
        let (_, control) = place.read_control()?;
        check_system_identifier(plan, control.system_identifier)?;
        let environment = |name: &str| std::env::var(name).ok();
        let target = ConnectTarget::resolve(&options.connection, &environment, control.flavor)?;
        let ask = options.ask_password.as_ref();
        let ask = ask.map(|prompt| move |text: &str| prompt.ask(text));
        let context = ConnectContext {
            cancel: Arc::clone(cancel),
            ask_password: ask.as_ref().map(|ask| ask as _),
        };
        let connection = Connection::open(&target, &context)?;
        let mut session = BackupSession::examine(connection, control.flavor)?;
        refuse_standby(place.shared.is_some(), session.is_standby())?;
        check_role(&control, session.is_standby(), &place.data_directory)?;
        warn_of_leftovers(&data);
        let mut replication = Connection::open(&target.for_replication(), &context)?;
        let request = stream_request(options, &control, control.timeline, Lsn(0));
        identify(&mut replication, &request)?;
        check_port(&mut session, &data)?;
        Ok(RunningServer {
            control,
            place,
            data,
            session,
            replication: Some(replication),
            slots: BTreeSet::new(),
            started: Lsn::INVALID,
            options: options.clone(),
        })
    }

    /// Whether the server is a standby.
    pub(super) fn is_standby(&self) -> bool {
        self.session.is_standby()
    }

    /// Fills a backup: everything from its empty directory to the status DONE.
    ///
    /// # Errors
    /// [`Error`]; the server is out of backup mode, the record still says RUNNING.
    pub(super) fn back_up(
        &mut self,
        run: &Run<'_>,
        control: &mut BackupControl,
    ) -> Result<(), Error> {
        let filled = self.fill(run, control);
        if filled.is_err() {
            self.leave_backup_mode();
        }
        filled
    }

    fn fill(&mut self, run: &Run<'_>, control: &mut BackupControl) -> Result<(), Error> {
        self.start(run, control)?;
        let segment_bytes = u64::from(self.control.wal_segment_size);
        let wal_directory = self.place.wal_name(self.control.flavor);
        let root = run.dir.root_of(self.place.form().root());
        create_directory_durably(&root, 0o700)?;
        let tree: Arc<dyn Storage> = Arc::new(Posix::open(&root)?);
        tree.create_dir(Path::new(&wal_directory), 0o700)?;
        let mut segments = WalSegments::new(
            Arc::clone(&tree),
            Path::new(&wal_directory),
            control.timeline,
            segment_bytes,
            run.options.sync,
        )?;
        let (mut copied, received) = self.copy_while_receiving(run, control, &mut segments)?;
        let segments = segments.finish(copied.stopped.stop_lsn)?;
        let request = RangeRequest {
            dialect: self.control.flavor.into(),
            timeline: control.timeline,
            segment_bytes,
            system_identifier: Some(self.control.system_identifier),
            start: control.start_lsn,
            stop: copied.stopped.stop_lsn,
        };
        let range = read_wal(&root.join(&wal_directory), &request)?;
        tracing::debug!("stop_lsn: {}", copied.stopped.stop_lsn);
        let ending = Ending {
            // The original's validation reads the record that starts at the stop position. Where
            // none follows, the last record of the backup is as good.
            stop_lsn: received.record_behind.unwrap_or(range.last.start),
            recovery_xid: copied.stopped.xmax,
            recovery_time: range
                .last_time
                .map_or(copied.stopped.time, |micros| micros.div_euclid(1_000_000)),
            control_bytes: Vec::new(),
        };
        self.complete(run, control, &mut copied, &segments, ending)
    }

    /// Puts the server into backup mode and records where recovery starts.
    fn start(&mut self, run: &Run<'_>, control: &mut BackupControl) -> Result<(), Error> {
        if self.is_standby() {
            tracing::info!("Backup {} is going to be taken from standby", control.id());
        }
        self.check_external_dirs(run)?;
        let slots_need = self.logical_slots_start(run)?;
        let label = format!("{} with pg_probackup", format_timestamp(control.start_time));
        run.monitor.waiting("the server's checkpoint");
        let started = self.start_session(run, &label)?;
        run.monitor.waited();
        let (_, now) = self.place.read_control()?;
        if now.redo < started {
            return Err(Error::OtherDataDirectory {
                path: run.plan.place.data_directory.clone(),
                start: started,
                found: now.redo,
            });
        }
        if let Some(parent) = run.parent {
            parent.check_start(started, now.timeline)?;
            history::check(parent, &self.place, &now, started)?;
        }
        self.started = started;
        control.timeline = now.timeline;
        control.start_lsn = slots_need.map_or(started, |lsn| lsn.min(started));
        run.dir.write_control(control)?;
        Ok(())
    }

    /// Starts the backup, which lasts as long as a checkpoint.
    fn start_session(&mut self, run: &Run<'_>, label: &str) -> Result<Lsn, Error> {
        let halt = Arc::new(AtomicBool::new(false));
        let connection = self.session.sql();
        connection.cancel_by(Arc::clone(&halt));
        connection.set_read_timeout(Duration::from_secs(START_BACKUP_SECONDS_MAX));
        let idle = self.replication.as_mut();
        let idle = idle.expect("a server is backed up once after it was connected");
        let (session, fast) = (&mut self.session, self.options.fast_checkpoint);
        let usual = self.options.connection.rw_timeout;
        let cancel = &run.options.cancel;
        let started = work_while_alive(idle, usual, cancel, &halt, || {
            Ok(session.start(label, fast)?)
        });
        let connection = self.session.sql();
        connection.cancel_by(Arc::clone(cancel));
        connection.set_read_timeout(usual);
        started
    }

    /// Refuses external directories that hold a tablespace or each other.
    fn check_external_dirs(&mut self, run: &Run<'_>) -> Result<(), Error> {
        let dirs = run.plan.external_dirs()?;
        if dirs.is_empty() {
            return Ok(());
        }
        let locations = self.session.tablespace_locations()?;
        let tablespaces: Vec<PathBuf> = locations.into_iter().map(PathBuf::from).collect();
        for warning in check_external_dirs(&dirs, &tablespaces, &self.place.data_directory)? {
            tracing::warn!("{warning}");
        }
        Ok(())
    }

    /// Where the WAL begins that the logical slots need which are backed up.
    fn logical_slots_start(&mut self, run: &Run<'_>) -> Result<Option<Lsn>, Error> {
        if !run.options.pg_replslot {
            return Ok(None);
        }
        let slots = self.session.logical_slots()?;
        if !slots.is_empty() {
            tracing::warn!(
                "logical replication slots for subscriptions will be backed up. If don't use them \
                 after restoring, please drop them to avoid affecting xlog recycling."
            );
        }
        let start = slots.iter().filter_map(|slot| slot.restart_lsn).min();
        self.slots = slots.into_iter().map(|slot| slot.name).collect();
        Ok(start)
    }

    /// Copies all files and stops the backup while another thread receives WAL.
    fn copy_while_receiving(
        &mut self,
        run: &Run<'_>,
        control: &mut BackupControl,
        segments: &mut WalSegments,
    ) -> Result<(Copied, ReceivedWal), Error> {
        let replication = self
            .replication
            .take()
            .expect("a server is backed up once after it was connected");
        let request = stream_request(
            &self.options,
            &self.control,
            control.timeline,
            control.start_lsn,
        );
        let stop = StopTarget::new();
        let halt = Arc::new(AtomicBool::new(false));
        let cancel = Arc::clone(&run.options.cancel);
        // The receiver looks at the run's flag and sets this one: so what the session waits for
        // ends with the stream, too.
        self.session.sql().cancel_by(Arc::clone(&halt));
        let result = std::thread::scope(|scope| {
            let (stop, halt) = (&stop, &halt);
            let receiver = scope.spawn(move || {
                let received = receive_wal(replication, &request, segments, stop, &cancel);
                if received.is_err() {
                    // Without its WAL the backup is worth nothing: copying need not go on.
                    halt.store(true, Ordering::Relaxed);
                }
                received
            });
            let copied = self.copy_and_stop(run, control, halt, stop);
            if copied.is_err() {
                stop.abandon();
            }
            if let Ok(copied) = &copied {
                let until = format!("WAL up to {}", copied.stopped.stop_lsn);
                tracing::debug!("Wait for {until} to be streamed");
                run.monitor.waiting(&until);
            }
            let received = receiver
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            run.monitor.waited();
            first_failure(copied, received)
        });
        self.session
            .sql()
            .cancel_by(Arc::clone(&run.options.cancel));
        result
    }

    fn copy_and_stop(
        &mut self,
        run: &Run<'_>,
        control: &mut BackupControl,
        halt: &Arc<AtomicBool>,
        stop: &StopTarget,
    ) -> Result<Copied, Error> {
        let copier = run.copier(&self.control, Some(self.started), Arc::clone(halt));
        let tree = self.list(run, &copier)?;
        let pgdata_bytes = tree.estimated_bytes(|root| root == Root::Data);
        control.pgdata_bytes = Some(signed(pgdata_bytes));
        let increment = match run.parent {
            Some(parent) => {
                let changes = self.changes(run, parent)?;
                Some(run.increment(parent, changes, &tree))
            }
            None => None,
        };
        copier.check_space(&tree, increment.as_ref())?;
        let targets = copier.create_directories(&tree)?;
        let files = copier.copy(&tree, &targets, increment.as_ref())?;
        let (mut control_bytes, _) = self.place.read_control()?;
        // Asked while the connection is needed anyway: behind the stop nothing is.
        let databases = self.session.databases()?;
        let stopped = self.stop(control)?;
        let wait_for = if self.is_standby() {
            fix_min_recovery_point(&mut control_bytes, stopped.stop_lsn, control.timeline)?;
            WaitFor::Lsn
        } else {
            // The server has switched to a new segment; the record of that switch is to be in the
            // backup.
            WaitFor::SegmentEnd
        };
        stop.set(stopped.stop_lsn, wait_for, self.options.archive_timeout);
        Ok(Copied {
            tree,
            targets,
            files,
            control_bytes,
            databases,
            stopped,
        })
    }

    /// What changed since the parent started.
    fn changes(&mut self, run: &Run<'_>, parent: &Parent) -> Result<Changes, Error> {
        let since = parent.control.start_lsn;
        if run.options.mode == Mode::Delta {
            return Ok(Changes::PagesSince(since));
        }
        let extraction = Extraction::begin();
        run.monitor
            .waiting("the server's tracking of changed blocks");
        let source = TrackingServer {
            sql: self.session.sql(),
            data: &self.data,
            threads: run.options.threads,
            // It is the wait for another process's reading of WAL, as the one at the end is.
            patience: self.options.archive_timeout,
            cancel: &run.options.cancel,
        };
        let changed = source.changed_blocks(since..self.started)?;
        run.monitor.waited();
        Ok(extraction.end(changed))
    }

    fn list(&self, run: &Run<'_>, copier: &Copier<'_>) -> Result<SourceTree, Error> {
        copier.list(&ListOptions {
            flavor: self.control.flavor,
            online: true,
            replication_slots: Some(self.slots.clone()),
            pg_log: run.options.pg_log,
            pg_replslot: run.options.pg_replslot,
            external_dirs: run.plan.external_dirs()?,
            shared: self.place.shared.clone(),
        })
    }

    /// Takes the server out of backup mode at the end of a good copy.
    fn stop(&mut self, control: &BackupControl) -> Result<StoppedBackup, Error> {
        self.session.prepare_stop()?;
        if !self.is_standby() {
            let name = format!("pg_probackup, backup_id {}", control.id());
            self.session.create_restore_point(&name)?;
        }
        tracing::info!("wait for pg_stop_backup()");
        let timeout = self.options.archive_timeout;
        self.session.sql().set_read_timeout(timeout);
        let stopped = self.session.stop()?;
        tracing::info!("pg_stop backup() successfully executed");
        Ok(stopped)
    }

    /// Adds what the backup holds beyond copied files, and ends it.
    fn complete(
        &mut self,
        run: &Run<'_>,
        control: &mut BackupControl,
        copied: &mut Copied,
        segments: &[WalSegment],
        mut ending: Ending,
    ) -> Result<(), Error> {
        let form = self.place.form();
        let mut control_bytes = std::mem::take(&mut copied.control_bytes);
        let copied = &*copied;
        let database = &*copied.targets.database;
        let mut content = ContentBuilder::new(&copied.tree, &copied.files, run.options.sync);
        let main = copied.targets.of(form.root());
        content.add_control_file(&**main, form, &mut control_bytes)?;
        ending.control_bytes = control_bytes;
        content.add_generated(&copied.targets, &copied.tree.generated)?;
        content.add_file(database, "backup_label", copied.stopped.label.as_bytes())?;
        let tablespaces = self.tablespaces(copied)?;
        if !tablespaces.is_empty() {
            content.add_tablespace_map(database, &tablespaces)?;
        }
        content.add_database_map(database, copied.databases.clone())?;
        let wal_directory = self.place.wal_name(self.control.flavor);
        content.add_wal(form.root(), &wal_directory, segments);
        run.sync(&copied.targets, &copied.tree)?;
        run.finish(control, &content, &ending)
    }

    /// The tablespaces that the server named when the backup began, and those made since: files of
    /// theirs may be in the backup, and recovery, which makes them again, needs their places.
    fn tablespaces(&self, copied: &Copied) -> Result<Vec<(u32, String)>, Error> {
        let text = &copied.stopped.tablespace_map;
        let named = tablespace_map::parse_from_server(text, self.control.flavor);
        let mut tablespaces = named.map_err(|source| Error::BadTablespaceMap {
            path: "tablespace_map".into(),
            source,
        })?;
        let listed = copied.tree.tablespaces.iter().cloned();
        for (oid, place) in listed.chain(tablespace_links(&*self.place.main()?)?) {
            if tablespaces.iter().any(|(known, _)| *known == oid) {
                continue;
            }
            tracing::warn!(
                "Tablespace {oid} was created at \"{}\" while the backup ran. Recovery from this \
                 backup creates it there again, wherever a restore puts it: do not start a \
                 restored server where the old one runs, or take another backup",
                place.escape_debug()
            );
            tablespaces.push((oid, place));
        }
        Ok(tablespaces)
    }

    /// After a failure: asks the server to end the backup, and does not insist, for it ends with
    /// the session anyway.
    fn leave_backup_mode(&mut self) {
        if !self.session.is_started() {
            return;
        }
        tracing::warn!("backup in progress, stop backup");
        let connection = self.session.sql();
        connection.ignore_cancel(true);
        connection.set_read_timeout(Duration::from_secs(STOP_BACKUP_SECONDS_AT_FAILURE));
        if let Err(error) = self.session.abort() {
            tracing::debug!("the server ends the backup with the session: {error}");
        }
    }
}

/// The tablespaces that are links in the data directory now: oid and where the link points.
fn tablespace_links(data: &dyn Storage) -> Result<Vec<(u32, String)>, Error> {
    let directory = Path::new("pg_tblspc");
    let mut found = Vec::new();
    for entry in data.list(directory)? {
        let oid = entry.name.to_str().and_then(|name| name.parse().ok());
        let Some(oid) = oid.filter(|_| entry.metadata.kind == FileKind::Symlink) else {
            continue;
        };
        match data.read_link(&directory.join(&entry.name)) {
            Ok(place) => match place.into_os_string().into_string() {
                Ok(place) => found.push((oid, place)),
                Err(place) => return Err(Error::UnstorableName { path: place.into() }),
            },
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// Refuses a data directory whose control file says that it plays another part than the server.
fn check_role(control: &ControlFile, is_standby: bool, path: &Path) -> Result<(), Error> {
    let agrees = match control.state {
        ClusterState::InProduction => !is_standby,
        ClusterState::InArchiveRecovery => is_standby,
        _ => false,
    };
    if agrees {
        return Ok(());
    }
    Err(Error::OtherRole {
        path: path.to_owned(),
        state: control.state.words(),
        is_standby,
    })
}

/// Refuses a data directory whose server listens on another port than the one that answers: a
/// standby of the same cluster has the same identifier, and perhaps newer checkpoints.
fn check_port(session: &mut BackupSession<Connection>, data: &Posix) -> Result<(), Error> {
    let name = Path::new("postmaster.pid");
    // Without the file the other checks have to do; it is not there where a server of another
    // machine runs on a mounted directory.
    let Ok(bytes) = data.read(name, 4096) else {
        return Ok(());
    };
    let Some(listed) = postmaster_port(&bytes) else {
        return Ok(());
    };
    let found = session.port()?;
    if found == listed {
        return Ok(());
    }
    Err(Error::OtherPort {
        path: data.display_path(name),
        listed,
        found,
    })
}

/// The port that a postmaster noted in its pid file: the fourth line.
fn postmaster_port(bytes: &[u8]) -> Option<String> {
    let line = std::str::from_utf8(bytes).ok()?.lines().nth(3)?.trim();
    line.parse::<u16>().ok().map(|port| port.to_string())
}

/// Tells of what a backup left that ended without being stopped.
fn warn_of_leftovers(data: &Posix) {
    for name in ["backup_label", "tablespace_map"] {
        if data.metadata(Path::new(name)).is_ok() {
            tracing::warn!(
                "\"{}\" belongs to an exclusive backup that runs, or that ended without being \
                 stopped. This backup does not need it. If no other backup runs, connect to the \
                 server and call pg_stop_backup() once, or remove the file: with it, exclusive \
                 backups are refused, and backup_label may keep the server from starting",
                data.display_path(Path::new(name)).display()
            );
        }
    }
}

fn stream_request(
    options: &ServerOptions,
    control: &ControlFile,
    timeline: TimelineId,
    start: Lsn,
) -> WalStreamRequest {
    let slot = match (&options.slot, options.temporary_slot) {
        (Some(name), false) => Some(Slot::Existing(name.clone())),
        (Some(name), true) => Some(Slot::Temporary(name.clone())),
        (None, true) => Some(Slot::Temporary(format!(
            "gs_probackup_slot_{}",
            std::process::id()
        ))),
        (None, false) => None,
    };
    WalStreamRequest {
        slot,
        stall_timeout: options.connection.rw_timeout,
        ..WalStreamRequest::new(
            control.flavor,
            control.system_identifier,
            timeline,
            start,
            u64::from(control.wal_segment_size),
        )
    }
}

fn receive_wal(
    mut replication: Connection,
    request: &WalStreamRequest,
    segments: &mut WalSegments,
    stop: &StopTarget,
    cancel: &AtomicBool,
) -> Result<ReceivedWal, WalStreamError> {
    if create_temporary_slot(&mut replication, request)? == SlotCreation::Unsupported {
        tracing::warn!("the server has no temporary slots: --temp-slot has no effect");
    }
    let command = start_command(request)?;
    let mut stream = replication
        .start_copy(&command)
        .map_err(|error| WalStreamError::command(&command, error))?;
    tracing::debug!(
        "started streaming WAL at {} (timeline {})",
        request.first_byte(),
        request.timeline
    );
    let received = receive(&mut stream, request, segments, stop, cancel)?;
    tracing::debug!(
        "finished streaming WAL at {} (timeline {})",
        received.received,
        request.timeline
    );
    Ok(received)
}

/// The failure to report where copying, receiving or both failed: the one that is not a
/// consequence of the other.
fn first_failure(
    copied: Result<Copied, Error>,
    received: Result<ReceivedWal, WalStreamError>,
) -> Result<(Copied, ReceivedWal), Error> {
    match (copied, received) {
        (Ok(copied), Ok(received)) => Ok((copied, received)),
        (Err(error), Ok(_)) => Err(error),
        (Ok(_), Err(error)) => Err(error.into()),
        (Err(error), Err(WalStreamError::Abandoned)) => Err(error),
        (
            // What the stream knows of a server that is gone, or of a signal, says more.
            Err(
                Error::Pipeline(PipelineError::Interrupted)
                | Error::Session(SessionError::Server(_)),
            ),
            Err(error),
        ) => Err(error.into()),
        (Err(error), Err(_)) => Err(error),
    }
}

/// A standby's backup is consistent at its stop position: the copied control file has to say so.
fn fix_min_recovery_point(bytes: &mut [u8], stop: Lsn, timeline: TimelineId) -> Result<(), Error> {
    set_min_recovery_point(bytes, stop, timeline).map_err(|source| Error::BadControlFile {
        path: super::offline::CONTROL_FILE.into(),
        source,
    })?;
    Ok(())
}

/// Reads the received WAL from start to stop: proves that it is whole and finds the last time in
/// it.
fn read_wal(directory: &Path, request: &RangeRequest) -> Result<WalRange, Error> {
    tracing::debug!("Getting the Recovery Time from WAL");
    let storage = Posix::open(directory)?;
    let read = |segno| read_segment(&storage, request.timeline, segno, request.segment_bytes);
    check_range(request, read).map_err(|source| Error::WalMissing {
        path: directory.to_owned(),
        start: request.start,
        stop: request.stop,
        source,
    })
}

/// Refuses a standby of a cluster on shared storage: whoever writes to it is another instance.
fn refuse_standby(is_shared: bool, is_standby: bool) -> Result<(), Error> {
    if is_shared && is_standby {
        return Err(Error::Refused(
            "backup only support on primary by dss mode".to_owned(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_postmasters_port_is_in_the_fourth_line_of_its_pid_file() {
        let text = "4711\n/data/main\n1795240367\n5433\n/tmp\n*\n  5433001  0\nready   \n";
        assert_eq!(postmaster_port(text.as_bytes()), Some("5433".to_owned()));
        for other in ["", "4711\n", "1\n2\n3\nno port\n", "1\n2\n3\n70000\n"] {
            assert_eq!(postmaster_port(other.as_bytes()), None, "{other:?}");
        }
        assert_eq!(postmaster_port(b"1\n2\n3\n\xff\n"), None);
    }
    #[test]
    fn a_standby_of_shared_storage_is_refused_in_the_words_of_the_original() {
        let error = refuse_standby(true, true).unwrap_err().to_string();
        assert_eq!(error, "backup only support on primary by dss mode");
        refuse_standby(true, false).unwrap();
        refuse_standby(false, true).unwrap();
    }
}
