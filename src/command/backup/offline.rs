//! The source of `backup --offline`: a cleanly stopped data directory, and the WAL that a start
//! from it needs.
//!
//! A cluster counts as stopped when `pg_control` says so and no postmaster lives. A start needs WAL
//! from the last checkpoint's redo point; after a clean stop that is the shutdown checkpoint's own
//! record, so the backup's start and stop LSN are both its place: the complete record there is what
//! the original's validation asks for. A stopped standby needs WAL up to its minimum recovery point
//! as well.

use super::super::Error;
use super::super::wal_segment::Segment;
use super::changes::{Extraction, read_cbm};
use super::content::ContentBuilder;
use super::history;
use super::increment::Changes;
use super::list::{ListOptions, SourceEntry, SourceTree};
use super::parent::{IncrementError, Parent};
use super::place::Place;
use super::{Ending, Mode, Run, signed};
use crate::command::cluster_control::CONTROL_FILE_BYTES_MAX;
use crate::format::catalog::{BackupControl, Root};
use crate::format::pg_control::{ClusterState, ControlFile};
use crate::format::wal::{RangeRequest, WalReader, changes_no_block, check_range, segment_name};
use crate::pipeline::Content;
use crate::server::cbm::CbmError;
use crate::storage::{Posix, Storage, StorageError};
use crate::types::{Lsn, TimelineId};
use std::path::Path;
use std::sync::Arc;

/// What is known of a stopped data directory.
#[derive(Debug)]
pub(super) struct StoppedCluster {
    /// Its control file.
    pub(super) control: ControlFile,
    /// The bytes of the control file.
    pub(super) control_bytes: Vec<u8>,
    /// First WAL record that a start needs.
    pub(super) start_lsn: Lsn,
    /// Last WAL record that a start needs.
    pub(super) stop_lsn: Lsn,
    /// WAL directory, which may be behind a link.
    pub(super) wal: Arc<dyn Storage>,
    /// Names of the WAL segments that hold these records.
    pub(super) wal_segments: Vec<String>,
}

impl StoppedCluster {
    /// Looks at a data directory.
    ///
    /// # Errors
    /// When it is not that of a cleanly stopped cluster, or WAL that a start needs is missing or
    /// damaged.
    pub(super) fn examine(place: &Place) -> Result<StoppedCluster, Error> {
        let data_directory = &place.data_directory;
        let data = Posix::open(data_directory)?;
        refuse_live_postmaster(&data)?;
        let control_bytes = read_control(place)?;
        let control = place.form().parse(&control_bytes);
        let control = control.map_err(|source| Error::BadControlFile {
            path: place.control_path(),
            source,
        })?;
        let control = control.file;
        if !matches!(
            control.state,
            ClusterState::ShutDown | ClusterState::ShutDownInRecovery
        ) {
            return Err(Error::NotCleanlyStopped {
                path: data_directory.to_owned(),
                state: control.state.words(),
            });
        }
        refuse_other_instances(place, &control_bytes)?;
        for name in ["backup_label", "tablespace_map"] {
            if data.metadata(Path::new(name)).is_ok() {
                return Err(Error::LeftoverLabel {
                    path: data.display_path(Path::new(name)),
                });
            }
        }
        let wal = place.open_wal(control.flavor)?;
        let (stop_lsn, wal_segments) = needed_wal(&control, &*wal)?;
        let start_lsn = control.redo;
        Ok(StoppedCluster {
            control,
            control_bytes,
            start_lsn,
            stop_lsn,
            wal,
            wal_segments,
        })
    }

    /// Whether the cluster was a standby.
    pub(super) fn is_standby(&self) -> bool {
        self.control.state == ClusterState::ShutDownInRecovery
    }

    /// Fills a backup: everything from its empty directory to the status DONE.
    ///
    /// # Errors
    /// [`Error`]; the record then still says RUNNING.
    pub(super) fn back_up(&self, run: &Run<'_>, control: &mut BackupControl) -> Result<(), Error> {
        let place = &run.plan.place;
        let data_directory = &place.data_directory;
        tracing::info!(
            "Offline backup of \"{}\", stopped at {}",
            data_directory.display(),
            self.stop_lsn
        );
        control.start_lsn = self.start_lsn;
        run.dir.write_control(control)?;
        let copier = run.copier(&self.control, None, Arc::clone(&run.options.cancel));
        let mut tree = copier.list(&ListOptions {
            flavor: self.control.flavor,
            online: false,
            replication_slots: None,
            pg_log: run.options.pg_log,
            pg_replslot: run.options.pg_replslot,
            external_dirs: run.plan.external_dirs()?,
            shared: place.shared.clone(),
        })?;
        let pgdata_bytes = tree.estimated_bytes(|root| root == Root::Data);
        control.pgdata_bytes = Some(signed(pgdata_bytes));
        self.add_wal(place, &mut tree)?;
        let increment = match run.parent {
            Some(parent) => {
                parent.check_start(self.start_lsn, control.timeline)?;
                history::check(parent, place, &self.control, self.stop_lsn)?;
                Some(run.increment(parent, self.changes(run, parent)?, &tree))
            }
            None => None,
        };
        copier.check_space(&tree, increment.as_ref())?;
        let targets = copier.create_directories(&tree)?;
        let copied = copier.copy(&tree, &targets, increment.as_ref())?;
        let mut content = ContentBuilder::new(&tree, &copied, run.options.sync);
        let mut control_bytes = self.control_bytes.clone();
        let main = targets.of(place.form().root());
        content.add_control_file(&**main, place.form(), &mut control_bytes)?;
        if !tree.tablespaces.is_empty() {
            content.add_tablespace_map(&*targets.database, &tree.tablespaces)?;
        }
        run.sync(&targets, &tree)?;
        self.check_still_stopped(place)?;
        let ending = Ending {
            stop_lsn: self.stop_lsn,
            recovery_xid: self.control.next_xid,
            recovery_time: self.control.checkpoint_time,
            control_bytes,
        };
        run.finish(control, &content, &ending)
    }

    /// What changed since the parent started.
    fn changes(&self, run: &Run<'_>, parent: &Parent) -> Result<Changes, Error> {
        let since = parent.control.start_lsn;
        if run.options.mode == Mode::Delta {
            return Ok(Changes::PagesSince(since));
        }
        let data = Posix::open(&run.plan.place.data_directory)?;
        let extraction = Extraction::begin();
        let read = |until: Lsn| read_cbm(&data, since..until, run.options.threads);
        let changed = match read(self.start_lsn) {
            Err(Error::Increment(error)) => {
                let until = self.tracked_far_enough(&error, since);
                read(until.ok_or(Error::Increment(error))?)?
            }
            changed => changed?,
        };
        Ok(extraction.end(changed))
    }

    /// The end of tracking if it came as far as it matters: a server that stops no longer tracks
    /// its last records. If these are of checkpoints only, nothing was missed.
    fn tracked_far_enough(&self, error: &IncrementError, since: Lsn) -> Option<Lsn> {
        let IncrementError::Changes(CbmError::Behind { tracked, .. }) = error else {
            return None;
        };
        let from = since.max(*tracked);
        let segment_bytes = u64::from(self.control.wal_segment_size);
        let timeline = self.control.timeline;
        let read = |segno| read_segment(&*self.wal, timeline, segno, segment_bytes);
        let dialect = self.control.flavor.into();
        let mut reader = WalReader::new(dialect, timeline, segment_bytes, from, read)
            .with_system_identifier(self.control.system_identifier);
        loop {
            // Whatever is wrong with this WAL: then it is not known that nothing changed.
            let record = reader.next_record().ok()??;
            if record.start >= self.start_lsn {
                return (record.start == self.start_lsn).then_some(from);
            }
            if !changes_no_block(&record) {
                tracing::debug!("the record at {} was not tracked", record.start);
                return None;
            }
        }
    }

    /// Adds the WAL segments that a start needs; the walk leaves all of them out.
    fn add_wal(&self, place: &Place, tree: &mut SourceTree) -> Result<(), Error> {
        let directory = place.wal_name(self.control.flavor);
        let file_type = place.form().root().file_type().unwrap_or_default();
        tree.roots.push(self.wal.clone());
        for segment in &self.wal_segments {
            let metadata = self.wal.metadata(Path::new(segment))?;
            tree.entries.push(SourceEntry {
                name: format!("{directory}/{segment}").into(),
                root: tree.roots.len() - 1,
                path: Some(Path::new(segment).into()),
                mode: metadata.mode,
                size: metadata.size,
                mtime: metadata.mtime,
                content: Some(Content::Plain),
                db_oid: 0,
                external_dir: 0,
                file_type,
            });
        }
        Ok(())
    }

    /// Makes sure that the cluster was not started meanwhile.
    fn check_still_stopped(&self, place: &Place) -> Result<(), Error> {
        refuse_live_postmaster(&Posix::open(&place.data_directory)?)?;
        if read_control(place)? == self.control_bytes {
            return Ok(());
        }
        Err(Error::StartedMeanwhile {
            path: place.data_directory.clone(),
        })
    }
}

/// The control file's path in a data directory.
pub(super) const CONTROL_FILE: &str = "global/pg_control";

fn read_control(place: &Place) -> Result<Vec<u8>, Error> {
    let path = Path::new(place.form().path());
    let read = place.main()?.read(path, CONTROL_FILE_BYTES_MAX);
    read.map_err(|error| match error.is_not_found() {
        true => Error::NoControlFile {
            path: place.control_path(),
        },
        false => error.into(),
    })
}

/// Fails if another instance of the cluster, with a page of its own, was not shut down.
fn refuse_other_instances(place: &Place, bytes: &[u8]) -> Result<(), Error> {
    for form in &place.others {
        // An instance that never ran has no page.
        let Ok(control) = form.parse(bytes) else {
            continue;
        };
        let state = control.file.state;
        if !matches!(
            state,
            ClusterState::ShutDown | ClusterState::ShutDownInRecovery
        ) {
            return Err(Error::NotCleanlyStopped {
                path: place.control_path(),
                state: state.words(),
            });
        }
    }
    Ok(())
}

/// Fails if `postmaster.pid` names a process that lives.
fn refuse_live_postmaster(data: &Posix) -> Result<(), Error> {
    let name = Path::new("postmaster.pid");
    let text = match data.read(name, 4096) {
        Ok(text) => text,
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let path = data.display_path(name);
    let first = String::from_utf8_lossy(&text);
    let pid = first
        .lines()
        .next()
        .and_then(|line| line.trim().parse::<i32>().ok());
    let Some(pid) = pid.map(i32::abs).and_then(rustix::process::Pid::from_raw) else {
        return Err(Error::UnclearPidFile { path });
    };
    match rustix::process::test_kill_process(pid) {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        // Alive, or alive under another user.
        _ => Err(Error::ServerRuns {
            path,
            pid: pid.as_raw_nonzero().get(),
        }),
    }
}

/// The last record that a start needs, and the segments from the redo point to the end of that
/// record.
fn needed_wal(control: &ControlFile, wal: &dyn Storage) -> Result<(Lsn, Vec<String>), Error> {
    let segment_bytes = u64::from(control.wal_segment_size);
    let timeline = control.timeline;
    let read = |segno: u64| read_segment(wal, timeline, segno, segment_bytes);
    // One byte into the checkpoint record: that record itself must be whole.
    let until = Lsn(control.checkpoint.0 + 1).max(control.min_recovery_point);
    let request = RangeRequest {
        dialect: control.flavor.into(),
        timeline,
        segment_bytes,
        system_identifier: Some(control.system_identifier),
        start: control.redo,
        stop: until,
    };
    let range = check_range(&request, read).map_err(|source| Error::WalMissing {
        path: wal.display_path(Path::new("")),
        start: control.redo,
        stop: until,
        source,
    })?;
    let first = control.redo.0 / segment_bytes;
    let last = (range.last.end.0 - 1) / segment_bytes;
    let names = (first..=last)
        .map(|segno| segment_name(timeline, segno, segment_bytes))
        .collect();
    Ok((range.last.start, names))
}

/// The segment of this number; `None` where there is none.
pub(super) fn read_segment(
    wal: &dyn Storage,
    timeline: TimelineId,
    segno: u64,
    segment_bytes: u64,
) -> Result<Option<Segment<'static>>, StorageError> {
    let name = segment_name(timeline, segno, segment_bytes);
    Segment::find(wal, Path::new(&name))
}
