//! WAL segments from directories: a backup's own, the archive of an instance, one that the user
//! names.
//!
//! A segment is looked for under its name, then as `.gz`, then under both names with `.partial`: a
//! whole one counts before one that an interrupted stream left, in whichever directory it is. What
//! a partial one lacks reads as zeros, at which WAL ends.

use super::wal_segment::Segment;
use crate::codec::gunzip;
use crate::format::wal::{is_wal_name, segment_name};
use crate::storage::StorageError;
use crate::types::TimelineId;
use std::fs::File;
use std::io::{Error, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// What a segment's name may end with, and whether it then may be incomplete.
const SUFFIXES: [(&str, bool); 4] = [
    ("", false),
    (".gz", false),
    (".partial", true),
    (".gz.partial", true),
];

/// Where the segments of one timeline are.
#[derive(Debug)]
pub(super) struct WalArchive<'a> {
    /// In the order in which they are asked.
    pub(super) directories: Vec<PathBuf>,
    pub(super) timeline: TimelineId,
    pub(super) segment_bytes: u64,
    /// Ends reading once it is set.
    pub(super) cancel: Option<&'a AtomicBool>,
}

impl WalArchive<'_> {
    /// A segment, or `None` where no directory has it.
    pub(super) fn read(&self, segno: u64) -> Result<Option<Segment<'_>>, StorageError> {
        let name = segment_name(self.timeline, segno, self.segment_bytes);
        for (suffix, is_partial) in SUFFIXES {
            for directory in &self.directories {
                let path = directory.join(format!("{name}{suffix}"));
                if self.cancel.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
                    let interrupted = Error::from(ErrorKind::Interrupted);
                    return Err(StorageError::new("read", &path, interrupted));
                }
                match self.read_file(&path, suffix.starts_with(".gz"), is_partial) {
                    Ok(segment) => {
                        tracing::debug!("Opening WAL segment \"{}\"", path.display());
                        return Ok(Some(segment));
                    }
                    Err(error) if error.is_not_found() => {}
                    // A stream was interrupted in the middle of it; it holds nothing to go by.
                    Err(error) if is_partial && error.source.kind() == ErrorKind::InvalidData => {
                        tracing::warn!("{}", super::words::describe(&error));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        if let Some(directory) = self.directories.first() {
            let path = directory.join(&name);
            tracing::warn!("WAL segment \"{}\" is absent", path.display());
        }
        Ok(None)
    }

    fn read_file(
        &self,
        path: &Path,
        is_compressed: bool,
        is_partial: bool,
    ) -> Result<Segment<'_>, StorageError> {
        let failed = |e: Error| StorageError::new("read WAL segment", path, e);
        // A pipe under a segment's name would block for ever.
        if !std::fs::metadata(path).map_err(failed)?.is_file() {
            let error = Error::new(ErrorKind::InvalidInput, "it is not a regular file");
            return Err(failed(error));
        }
        let file = File::open(path).map_err(failed)?;
        let segment = if is_compressed {
            // Data that cannot be compressed grows by less than a thousandth.
            let limit = self.segment_bytes + self.segment_bytes / 64 + 4096;
            let mut bytes = Vec::new();
            file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
            let size = usize::try_from(self.segment_bytes).unwrap_or(usize::MAX);
            let bytes = gunzip(&bytes, size);
            Segment::of_bytes(bytes.map_err(|e| failed(Error::new(ErrorKind::InvalidData, e)))?)
        } else {
            let file = crate::io::File::from_fds(path.to_owned(), file.into(), None);
            Segment::of_file(file, self.cancel).map_err(failed)?
        };
        Ok(if is_partial {
            segment.filled_up_to(self.segment_bytes)
        } else {
            segment
        })
    }
}

/// What an archive directory holds.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Holding {
    /// Whole segments, as servers archive them.
    pub(super) plain: bool,
    /// Compressed ones.
    pub(super) compressed: bool,
}

impl Holding {
    /// Looks at the names in a directory; one that does not exist holds nothing.
    pub(super) fn of(directory: &Path) -> Result<Holding, StorageError> {
        let mut holding = Holding::default();
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(holding),
            Err(e) => return Err(StorageError::new("open directory", directory, e)),
        };
        for entry in entries {
            let entry = entry.map_err(|e| StorageError::new("read directory", directory, e))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            holding.plain |= is_wal_name(&name);
            holding.compressed |= name.strip_suffix(".gz").is_some_and(is_wal_name);
            if holding.plain && holding.compressed {
                break;
            }
        }
        Ok(holding)
    }

    pub(super) fn is_empty(self) -> bool {
        self == Holding::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::wal::SegmentBytes;

    const SEGMENT_BYTES: u64 = 1 << 20;

    fn archive(directories: &[&Path]) -> WalArchive<'static> {
        WalArchive {
            directories: directories.iter().map(|path| path.to_path_buf()).collect(),
            timeline: TimelineId(1),
            segment_bytes: SEGMENT_BYTES,
            cancel: None,
        }
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let level = libdeflater::CompressionLvl::default();
        let mut compressor = libdeflater::Compressor::new(level);
        let mut out = vec![0; compressor.gzip_compress_bound(bytes.len())];
        let length = compressor.gzip_compress(bytes, &mut out).unwrap();
        out.truncate(length);
        out
    }

    fn bytes_of(mut segment: Segment<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for offset in (0..segment.size()).step_by(8192) {
            segment.load(offset).unwrap();
            bytes.extend_from_slice(segment.page(offset));
        }
        bytes
    }

    #[test]
    fn a_segment_is_found_under_each_of_its_names_and_whole_before_partial() {
        let scratch = tempfile::tempdir().unwrap();
        let (one, two) = (scratch.path().join("one"), scratch.path().join("two"));
        let name = "000000010000000000000003";
        for directory in [&one, &two] {
            std::fs::create_dir(directory).unwrap();
        }
        let archive = archive(&[&one, &two, &scratch.path().join("absent")]);
        let segment = |fill: u8| vec![fill; 1 << 20];
        let is_absent = || archive.read(3).unwrap().is_none();
        let read = || bytes_of(archive.read(3).unwrap().unwrap());
        assert!(is_absent());
        let mut half = segment(0);
        half[..1 << 19].fill(1);
        std::fs::write(one.join(format!("{name}.gz.partial")), b"torn").unwrap();
        assert!(is_absent());
        std::fs::write(one.join(format!("{name}.partial")), &half[..1 << 19]).unwrap();
        assert!(read() == half);
        std::fs::write(two.join(format!("{name}.gz")), gzip(&segment(2))).unwrap();
        assert!(read() == segment(2));
        std::fs::write(two.join(name), segment(3)).unwrap();
        assert!(read() == segment(3));
        std::fs::write(one.join(name), segment(4)).unwrap();
        assert!(read() == segment(4));
    }

    #[test]
    fn damage_pipes_and_a_cancelled_run_are_errors() {
        let scratch = tempfile::tempdir().unwrap();
        let name = scratch.path().join("000000010000000000000003");
        let archive = archive(&[scratch.path()]);
        std::fs::write(name.with_extension("gz"), gzip(&vec![1; (1 << 20) + 1])).unwrap();
        let text = super::super::words::describe(&archive.read(3).unwrap_err());
        assert!(text.contains("more than 1048576 bytes"), "{text}");
        std::fs::write(name.with_extension("gz"), b"no gzip").unwrap();
        let text = super::super::words::describe(&archive.read(3).unwrap_err());
        assert!(text.ends_with("damaged or not complete"), "{text}");
        std::fs::create_dir(&name).unwrap();
        assert!(archive.read(3).is_err());
        let cancel = AtomicBool::new(true);
        let archive = WalArchive {
            cancel: Some(&cancel),
            directories: archive.directories.clone(),
            ..archive
        };
        let error = archive.read(9).unwrap_err();
        assert_eq!(error.source.kind(), ErrorKind::Interrupted);
    }

    #[test]
    fn an_archive_holds_what_its_names_say() {
        let scratch = tempfile::tempdir().unwrap();
        let holding = || Holding::of(scratch.path()).unwrap();
        assert!(holding().is_empty());
        for name in [
            "00000002.history",
            "000000010000000000000003.partial",
            "x.gz",
        ] {
            std::fs::write(scratch.path().join(name), b"").unwrap();
        }
        assert!(holding().is_empty());
        std::fs::write(scratch.path().join("000000010000000000000003.gz"), b"").unwrap();
        assert!(holding().compressed && !holding().plain);
        std::fs::write(scratch.path().join("000000010000000000000004"), b"").unwrap();
        assert!(holding().plain);
        assert!(
            Holding::of(&scratch.path().join("absent"))
                .unwrap()
                .is_empty()
        );
    }
}
