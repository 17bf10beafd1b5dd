//! A generated openGauss cluster: a data directory and a tablespace with pages of the genuine
//! formats, from a seed.
//!
//! For the `demo` command, for tests and for benches: it needs no server, and the same options give
//! the same bytes on every machine. What is in it:
//!
//! * heap, ustore, B-tree and map pages, segment-page storage, undo, each page with a right
//!   checksum;
//! * compressed relations, packed by the server's two algorithms, and column-store files with right
//!   CRCs;
//! * a tablespace, linked from `pg_tblspc`;
//! * `pg_control` of a clean shutdown and the WAL segment with the checkpoint it points to.
//!
//! What it is not: a cluster that a server could start. Rows are plausible, system catalogs are
//! not, and nobody relates one relation to another.

mod columns;
mod compressed;
mod control;
mod files;
mod indexes;
mod page;
mod plan;
mod random;
mod rows;
mod segments;
#[cfg(test)]
mod tests;
mod text;
mod write;

use crate::limits::WAL_SEGMENT_BYTES;
use crate::storage::StorageError;
use crate::types::{Lsn, PAGE_SIZE, TimelineId};
use random::Random;
use std::path::{Path, PathBuf};
use write::Roots;

/// What to generate.
#[derive(Clone, Copy, Debug)]
pub struct SampleOptions {
    /// Equal seeds give equal clusters.
    pub seed: u64,
    /// About how many bytes of relation data; a few MiB come on top, and 16 MiB of WAL.
    pub bytes: u64,
}

/// A generated cluster.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The data directory.
    pub data_directory: PathBuf,
    /// The directory that `pg_tblspc/16385` of the data directory points to.
    pub tablespace: PathBuf,
    /// The cluster's name for itself, in `pg_control` and in WAL.
    pub system_identifier: u64,
    /// The shutdown checkpoint, which is its own redo point.
    pub checkpoint: Lsn,
    /// The timeline of all of its WAL.
    pub timeline: TimelineId,
    /// Relation files in both directories.
    pub relation_files: usize,
    /// Bytes of the relation files by their lengths, holes included.
    pub relation_bytes: u64,
}

/// The end of a cluster's life, see [`shutdown`].
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// What the server writes.
    pub files: [GeneratedFile; 3],
    /// Redo point of the checkpoint before the last one.
    pub first_record: Lsn,
    /// The shutdown checkpoint in that segment, which is its own redo point.
    pub checkpoint: Lsn,
}

/// A file of a data directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GeneratedFile {
    /// Path below the data directory.
    pub path: String,
    /// Its first bytes; what follows is zeros.
    pub bytes: Vec<u8>,
    /// All its bytes.
    pub length: u64,
}

/// Records of a server that does nothing: some kilobytes.
const IDLE_RECORDS: u32 = 32;

/// What a server with WAL segments of `segment_bytes` writes when it is stopped cleanly and its WAL
/// ends in the segment of this number: `pg_control`, its copy, and the segment. The server did
/// nothing before, for so long that the segment tells one history from another.
#[must_use]
pub fn shutdown(system_identifier: u64, number: u64, segment_bytes: u64) -> Shutdown {
    let segment = control::wal_segment(system_identifier, number, segment_bytes, IDLE_RECORDS);
    Shutdown {
        files: files::shutdown_files(system_identifier, &segment),
        first_record: segment.first_record,
        checkpoint: segment.checkpoint,
    }
}

/// A sample cannot be generated.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// There is something where the cluster should go.
    #[error("cannot create a sample in \"{path}\": it is not empty", path = .0.display())]
    Occupied(PathBuf),
    /// A file or directory cannot be written.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Generates a cluster as `data` and `tablespace` below `directory`, which is created where it does
/// not exist.
///
/// Nothing is synced: a sample is worth no more than its seed.
///
/// # Errors
/// Where `directory` has entries already, or something cannot be written; what was written by then
/// stays.
pub fn create(directory: &Path, options: &SampleOptions) -> Result<Sample, SampleError> {
    files::create_directory(directory)?;
    let directory = std::fs::canonicalize(directory)
        .map_err(|e| StorageError::new("open directory", directory, e))?;
    let entries = std::fs::read_dir(&directory)
        .map_err(|e| StorageError::new("read directory", &directory, e))?;
    if entries.count() > 0 {
        return Err(SampleError::Occupied(directory));
    }
    let data_directory = directory.join("data");
    let tablespace = directory.join("tablespace");
    let system_identifier = system_identifier(options.seed);
    let roots = Roots {
        data_directory: &data_directory,
        tablespace: &tablespace,
    };
    let segment = control::wal_segment(
        system_identifier,
        control::FIRST_SEGMENT,
        WAL_SEGMENT_BYTES,
        0,
    );

    files::create_directories(roots)?;
    files::write_small_files(roots, system_identifier, &segment)?;
    let plan = plan::plan_files(options.bytes);
    write::write_files(roots, &plan, options.seed)?;

    let relation_bytes = plan
        .iter()
        .map(|file| u64::from(file.blocks) * PAGE_SIZE as u64)
        .sum();
    Ok(Sample {
        data_directory,
        tablespace,
        system_identifier,
        checkpoint: segment.checkpoint,
        timeline: control::TIMELINE,
        relation_files: plan.len(),
        relation_bytes,
    })
}

impl Sample {
    /// As if the cluster had been started and stopped again: its checkpoint is in the WAL segment
    /// behind the last one. Relations stay as they are.
    ///
    /// # Errors
    /// Where a file cannot be written.
    pub fn start_and_stop(&mut self) -> Result<(), SampleError> {
        let number = self.checkpoint.0 / WAL_SEGMENT_BYTES + 1;
        let segment = control::wal_segment(self.system_identifier, number, WAL_SEGMENT_BYTES, 0);
        for name in ["global/pg_control", "global/pg_control.backup"] {
            let path = self.data_directory.join(name);
            std::fs::remove_file(&path).map_err(|e| StorageError::new("remove", &path, e))?;
        }
        files::write_shutdown(&self.data_directory, self.system_identifier, &segment)?;
        self.checkpoint = segment.checkpoint;
        Ok(())
    }
}

/// Positive and never zero, as a server's, which is made from the time of initdb.
fn system_identifier(seed: u64) -> u64 {
    (Random::of_part(seed, 0x7379_7369).next() >> 2) | 1
}
