//! The WAL archive of an instance: what the server's `archive_command` put there, by timeline.
//!
//! The directory holds segments, perhaps compressed (`.gz`), segments that were not complete when
//! their timeline ended (`.partial`), labels of backups (`.backup`) and histories of timelines
//! (`<timeline>.history`). Only names and sizes are looked at, and the histories are read.

use super::CatalogError;
use super::instance::Instance;
use super::layout::read_small_file;
use crate::format::wal::{is_wal_name, parse_segment_name};
use crate::types::{Lsn, TimelineId};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::DirEntry;
use std::ops::RangeInclusive;
use std::path::Path;

/// Bytes of a segment, where the archive does not tell: those of openGauss.
const SEGMENT_BYTES: u64 = 16 << 20;

/// A timeline of which there are segments in the archive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArchivedTimeline {
    /// The timeline.
    pub tli: TimelineId,
    /// The one that it branched off; 0 where the archive does not tell.
    pub parent: TimelineId,
    /// Where it did.
    pub switchpoint: Lsn,
    /// Number of its first segment, and of its last one.
    pub segments: RangeInclusive<u64>,
    /// How many there are of these.
    pub segment_count: u64,
    /// Bytes of all its files.
    pub size_bytes: u64,
    /// Numbers of the segments in between that are not there.
    pub lost: Vec<RangeInclusive<u64>>,
}

/// What is in an archive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WalArchive {
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Timelines, the oldest first.
    pub timelines: Vec<ArchivedTimeline>,
}

/// A file of the archive.
struct File {
    name: String,
    size_bytes: u64,
}

#[derive(Default)]
struct Found {
    segments: BTreeSet<u64>,
    size_bytes: u64,
    parent: Option<(TimelineId, Lsn)>,
}

impl Instance {
    /// Looks at the WAL archive. What is in it and has no name of a WAL file is a warning.
    ///
    /// # Errors
    /// Where the directory cannot be read. That it does not exist is no error.
    pub fn wal_archive(&self) -> Result<WalArchive, CatalogError> {
        let files = files_of(self.wal_dir())?;
        let segment_bytes = segment_bytes(&files);
        let mut timelines: BTreeMap<TimelineId, Found> = BTreeMap::new();
        for file in &files {
            match Kind::of(&file.name, segment_bytes) {
                Kind::Segment(tli, segno) => {
                    let found = timelines.entry(tli).or_default();
                    found.segments.insert(segno);
                    found.size_bytes = found.size_bytes.saturating_add(file.size_bytes);
                }
                Kind::Other(tli) => {
                    let found = timelines.entry(tli).or_default();
                    found.size_bytes = found.size_bytes.saturating_add(file.size_bytes);
                }
                Kind::History(tli) => {
                    let path = self.wal_dir().join(&file.name);
                    timelines.entry(tli).or_default().parent = parent_of(&path);
                }
                Kind::Unknown => tracing::warn!("unexpected WAL file name \"{}\"", file.name),
            }
        }
        Ok(WalArchive {
            segment_bytes,
            timelines: timelines
                .into_iter()
                .filter_map(|(tli, found)| found.finish(tli))
                .collect(),
        })
    }
}

impl Found {
    /// A timeline that has segments.
    fn finish(self, tli: TimelineId) -> Option<ArchivedTimeline> {
        let (first, last) = (*self.segments.first()?, *self.segments.last()?);
        let mut lost = Vec::new();
        let mut expected = first;
        for segno in &self.segments {
            if *segno > expected {
                lost.push(expected..=*segno - 1);
            }
            expected = segno + 1;
        }
        let (parent, switchpoint) = self.parent.unwrap_or((TimelineId(0), Lsn(0)));
        Some(ArchivedTimeline {
            tli,
            parent,
            switchpoint,
            segments: first..=last,
            segment_count: u64::try_from(self.segments.len()).unwrap_or(u64::MAX),
            size_bytes: self.size_bytes,
            lost,
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Segment(TimelineId, u64),
    /// It belongs to the timeline, but is no segment.
    Other(TimelineId),
    History(TimelineId),
    Unknown,
}

impl Kind {
    fn of(name: &str, segment_bytes: u64) -> Kind {
        let bare = name.strip_suffix(".gz").unwrap_or(name);
        if let Some((tli, segno)) = parse_segment_name(bare, segment_bytes) {
            return Kind::Segment(tli, segno);
        }
        let timeline = |text: &str| u32::from_str_radix(text, 16).ok().map(TimelineId);
        let hexadecimal = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let kind = match bare.split_once('.') {
            Some((id, "history")) if id.len() == 8 && hexadecimal(id) => {
                timeline(id).map(Kind::History)
            }
            // `.partial`, `.part`, and `.<offset>.backup`.
            Some((segment, rest))
                if is_wal_name(segment)
                    && (["partial", "part"].contains(&rest) || rest.ends_with(".backup")) =>
            {
                timeline(&segment[..8]).map(Kind::Other)
            }
            _ => None,
        };
        kind.unwrap_or(Kind::Unknown)
    }
}

fn files_of(directory: &Path) -> Result<Vec<File>, CatalogError> {
    let failed = |source| CatalogError::OpenDirectory {
        path: directory.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry: DirEntry = entry.map_err(failed)?;
        // A file that is archived away at this moment is none any more.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        let name = entry.file_name().to_string_lossy().into_owned();
        if metadata.is_file() && !name.starts_with('.') {
            files.push(File {
                name,
                size_bytes: metadata.len(),
            });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

// The size of a whole segment; the servers have other ones than openGauss's only on request.
fn segment_bytes(files: &[File]) -> u64 {
    let whole = files.iter().filter(|file| is_wal_name(&file.name));
    whole
        .map(|file| file.size_bytes)
        .find(|bytes| bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(bytes))
        .unwrap_or(SEGMENT_BYTES)
}

// The last line of a history names the timeline that this one branched off, and where.
fn parent_of(path: &Path) -> Option<(TimelineId, Lsn)> {
    let bytes = match read_small_file(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::warn!("{error}");
            return None;
        }
    };
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines().map(str::trim);
    let last = lines.rfind(|line| !line.is_empty() && !line.starts_with('#'))?;
    let mut words = last.split_ascii_whitespace();
    let parent = words
        .next()
        .and_then(|word| word.parse().ok())
        .map(TimelineId);
    let switchpoint = words.next().and_then(|word| word.parse().ok());
    let Some(found) = parent.zip(switchpoint) else {
        tracing::warn!(
            "syntax error in history file: {}. Expected a numeric timeline ID and a transaction \
             log switchpoint location",
            path.display()
        );
        return None;
    };
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;
    use crate::format::catalog::InstanceConf;

    fn archive(files: &[(&str, u64, &str)]) -> WalArchive {
        let scratch = tempfile::tempdir().unwrap();
        let catalog = Catalog::init(scratch.path().join("c")).unwrap();
        let instance = catalog
            .add_instance("one", &InstanceConf::default())
            .unwrap();
        for (name, size, text) in files {
            let path = instance.wal_dir().join(name);
            std::fs::write(&path, text).unwrap();
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            if *size > 0 {
                file.set_len(*size).unwrap();
            }
        }
        instance.wal_archive().unwrap()
    }

    #[test]
    fn segments_are_counted_by_timeline_and_gaps_are_found() {
        let found = archive(&[
            ("000000010000000000000003", 16 << 20, ""),
            ("000000010000000000000004.gz", 1000, ""),
            ("000000010000000000000007", 16 << 20, ""),
            ("000000010000000000000008.partial", 500, ""),
            ("000000010000000000000003.00000028.backup", 30, ""),
            ("000000020000000000000007", 16 << 20, ""),
            (
                "00000002.history",
                0,
                "# why\n1\t0/7000100\tno recovery target specified\n\n",
            ),
            ("00000003.history", 0, "nonsense\n"),
            ("README", 0, "x"),
        ]);
        assert_eq!(found.segment_bytes, 16 << 20);
        let first = &found.timelines[0];
        assert_eq!((first.tli, first.parent), (TimelineId(1), TimelineId(0)));
        assert_eq!((first.segments.clone(), first.segment_count), (3..=7, 3));
        assert_eq!(first.lost, [5..=6]);
        assert_eq!(first.size_bytes, (32 << 20) + 1530);
        let second = &found.timelines[1];
        assert_eq!(
            (second.parent, second.switchpoint),
            (TimelineId(1), Lsn(0x0700_0100))
        );
        assert!(second.lost.is_empty());
        assert_eq!(
            found.timelines.len(),
            2,
            "a timeline without segments is none"
        );
    }

    #[test]
    fn an_archive_that_is_empty_or_not_there_has_no_timelines() {
        assert_eq!(archive(&[]).timelines, []);
    }

    #[test]
    fn other_sizes_of_segments_are_noticed() {
        let found = archive(&[("0000000100000001000000FF", 1 << 20, "")]);
        assert_eq!(found.segment_bytes, 1 << 20);
        assert_eq!(found.timelines[0].segments, 0x10FF..=0x10FF);
    }
}
