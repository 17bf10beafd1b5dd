//! The WAL archive of an instance: what the server's `archive_command` put there, by timeline.
//!
//! The directory holds segments, perhaps compressed (`.gz`), segments that were not complete when
//! their timeline ended (`.partial`), labels of backups (`.backup`) and histories of timelines
//! (`<timeline>.history`). Only names and sizes are looked at, the histories are read, and of a
//! segment the header that states the size of all.

use super::CatalogError;
use super::instance::Instance;
use super::layout::read_small_file;
use crate::codec::gunzip;
use crate::format::wal::{
    LONG_HEADER_BYTES, is_wal_name, parse_segment_name, segment_number, stated_segment_size,
};
use crate::limits::{
    CONTROL_FILE_BYTES_MAX, WAL_SEGMENT_BYTES, WAL_SEGMENT_BYTES_MAX, WAL_SEGMENT_BYTES_MIN,
};
use crate::types::{Lsn, TimelineId};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::DirEntry;
use std::io::{Read, Seek, SeekFrom};
use std::ops::RangeInclusive;
use std::path::Path;

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
    /// What its history says.
    pub history: TimelineHistory,
}

/// What is in an archive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WalArchive {
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Timelines, the oldest first.
    pub timelines: Vec<ArchivedTimeline>,
}

/// The files of an archive.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct WalFiles {
    /// Bytes of a segment, where a segment states it or has it.
    pub segment_bytes: Option<u64>,
    /// Timelines of which there is a file, the oldest first.
    pub timelines: BTreeMap<TimelineId, TimelineFiles>,
}

/// The files of a timeline.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct TimelineFiles {
    /// All but its history, by number.
    pub files: Vec<WalFile>,
    /// What its history says.
    pub history: TimelineHistory,
}

/// A file that belongs to a segment.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct WalFile {
    /// Number of the segment.
    pub segno: u64,
    /// Its name in the archive.
    pub name: String,
    /// What it is.
    pub kind: WalFileKind,
    /// Its size.
    pub size_bytes: u64,
}

/// What a file of an archive is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum WalFileKind {
    /// A whole segment, perhaps compressed.
    Segment,
    /// One that was not complete when its timeline ended.
    Partial,
    /// One that is being copied, or whose copying was interrupted.
    Temporary,
    /// The label of a backup that began in the segment.
    Label,
}

/// What an archive tells about the timelines that one branched off.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum TimelineHistory {
    /// There is no file about it.
    #[default]
    Absent,
    /// There is a file that cannot be read.
    Unreadable,
    /// Its ancestors, the oldest first, and where each was left.
    Known(Vec<(TimelineId, Lsn)>),
}

impl TimelineHistory {
    /// The ancestors, the nearest first; none where they are not known.
    pub fn ancestors(&self) -> impl Iterator<Item = (TimelineId, Lsn)> + '_ {
        let known = match self {
            TimelineHistory::Known(known) => known.as_slice(),
            TimelineHistory::Absent | TimelineHistory::Unreadable => &[],
        };
        known.iter().rev().copied()
    }
}

/// A file as the directory lists it.
struct File {
    name: String,
    size_bytes: u64,
}

impl Instance {
    /// Looks at the WAL archive. What is in it and has no name of a WAL file is a warning.
    ///
    /// # Errors
    /// Where the directory cannot be read. That it does not exist is no error.
    pub fn wal_archive(&self) -> Result<WalArchive, CatalogError> {
        let found = self.wal_files()?;
        let timelines = found.timelines.into_iter();
        Ok(WalArchive {
            segment_bytes: found.segment_bytes.unwrap_or(WAL_SEGMENT_BYTES),
            timelines: timelines
                .filter_map(|(tli, found)| found.finish(tli))
                .collect(),
        })
    }

    /// Lists the WAL archive. What is in it and has no name of a WAL file is a warning.
    ///
    /// # Errors
    /// Where the directory cannot be read. That it does not exist is no error.
    pub fn wal_files(&self) -> Result<WalFiles, CatalogError> {
        let directory = self.wal_dir();
        let files = files_of(directory)?;
        let known_bytes = segment_bytes(directory, &files);
        let segment_bytes = known_bytes.unwrap_or(WAL_SEGMENT_BYTES);
        let mut timelines: BTreeMap<TimelineId, TimelineFiles> = BTreeMap::new();
        for file in files {
            match Kind::of(&file.name, segment_bytes) {
                Kind::File(tli, segno, kind) => {
                    let found = timelines.entry(tli).or_default();
                    found.files.push(WalFile {
                        segno,
                        name: file.name,
                        kind,
                        size_bytes: file.size_bytes,
                    });
                }
                Kind::History(tli) => {
                    let history = read_history(&directory.join(&file.name));
                    timelines.entry(tli).or_default().history = history;
                }
                Kind::Unknown => tracing::warn!("unexpected WAL file name \"{}\"", file.name),
            }
        }
        for timeline in timelines.values_mut() {
            timeline.files.sort();
        }
        Ok(WalFiles {
            segment_bytes: known_bytes,
            timelines,
        })
    }
}

impl TimelineFiles {
    /// Numbers of its segments.
    fn segments(&self) -> BTreeSet<u64> {
        let segments = self.files.iter();
        let segments = segments.filter(|file| file.kind == WalFileKind::Segment);
        segments.map(|file| file.segno).collect()
    }

    /// A timeline that has segments.
    fn finish(self, tli: TimelineId) -> Option<ArchivedTimeline> {
        let segments = self.segments();
        let (first, last) = (*segments.first()?, *segments.last()?);
        let mut lost = Vec::new();
        let mut expected = first;
        for segno in &segments {
            if *segno > expected {
                lost.push(expected..=*segno - 1);
            }
            expected = segno + 1;
        }
        let nearest = self.history.ancestors().next();
        let (parent, switchpoint) = nearest.unwrap_or((TimelineId(0), Lsn(0)));
        let sizes = self.files.iter().map(|file| file.size_bytes);
        Some(ArchivedTimeline {
            tli,
            parent,
            switchpoint,
            segments: first..=last,
            segment_count: u64::try_from(segments.len()).unwrap_or(u64::MAX),
            size_bytes: sizes.fold(0, u64::saturating_add),
            lost,
            history: self.history,
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    File(TimelineId, u64, WalFileKind),
    History(TimelineId),
    Unknown,
}

impl Kind {
    fn of(name: &str, segment_bytes: u64) -> Kind {
        let bare = name.strip_suffix(".gz").unwrap_or(name);
        let (stem, suffix) = match bare.split_once('.') {
            Some((stem, suffix)) => (stem, Some(suffix)),
            None => (bare, None),
        };
        let hexadecimal = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if suffix == Some("history") && stem.len() == 8 && hexadecimal(stem) {
            let tli = u32::from_str_radix(stem, 16).map(TimelineId);
            return tli.map_or(Kind::Unknown, Kind::History);
        }
        let kind = match suffix {
            None => WalFileKind::Segment,
            Some("partial") => WalFileKind::Partial,
            Some("part") => WalFileKind::Temporary,
            // `.<offset>.backup`.
            Some(suffix) if suffix.ends_with(".backup") => WalFileKind::Label,
            Some(_) => return Kind::Unknown,
        };
        parse_segment_name(stem, segment_bytes)
            .map_or(Kind::Unknown, |(tli, segno)| Kind::File(tli, segno, kind))
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

// What a segment states in its header, else the size that whole segments have, else that of what is
// in a compressed one. Names mean other positions with another size, so a guess will not do for
// whoever removes files. A segment that is being copied is smaller than the others.
fn segment_bytes(directory: &Path, files: &[File]) -> Option<u64> {
    let is_size = |bytes: &u64| {
        bytes.is_power_of_two() && (WAL_SEGMENT_BYTES_MIN..=WAL_SEGMENT_BYTES_MAX).contains(bytes)
    };
    let whole = || files.iter().filter(|file| is_wal_name(&file.name));
    let stated = whole()
        .take(SEGMENTS_ASKED_MAX)
        .find_map(|file| read_stated(directory, &file.name).filter(is_size));
    let of_files = || whole().map(|file| file.size_bytes).filter(is_size).max();
    let of_compressed = || {
        let compressed = files.iter().filter(|file| {
            let stem = file.name.strip_suffix(".gz");
            stem.is_some_and(is_wal_name)
        });
        compressed
            .take(SEGMENTS_ASKED_MAX)
            .find_map(|file| read_uncompressed_size(&directory.join(&file.name)).filter(is_size))
    };
    stated.or_else(of_files).or_else(of_compressed)
}

/// Segments that are asked for their size; the first one that states any is believed.
const SEGMENTS_ASKED_MAX: usize = 16;

// Believed where the name and the position in the header fit together.
fn read_stated(directory: &Path, name: &str) -> Option<u64> {
    let mut header = [0; LONG_HEADER_BYTES];
    let mut file = std::fs::File::open(directory.join(name)).ok()?;
    file.read_exact(&mut header).ok()?;
    let (bytes, position) = stated_segment_size(&header)?;
    let (_, segno) = parse_segment_name(name, bytes)?;
    (segment_number(position, bytes) == segno).then_some(bytes)
}

// A gzip file ends with the length of what is in it.
fn read_uncompressed_size(path: &Path) -> Option<u64> {
    let mut file = std::fs::File::open(path).ok()?;
    let mut length = [0; 4];
    file.seek(SeekFrom::End(-4)).ok()?;
    file.read_exact(&mut length).ok()?;
    Some(u64::from(u32::from_le_bytes(length)))
}

fn read_history(path: &Path) -> TimelineHistory {
    let mut bytes = match read_small_file(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::warn!("{error}");
            return TimelineHistory::Unreadable;
        }
    };
    if path.extension().is_some_and(|suffix| suffix == "gz") {
        match gunzip(&bytes, CONTROL_FILE_BYTES_MAX) {
            Ok(text) => bytes = text,
            Err(error) => {
                tracing::warn!("history file \"{}\": {error}", path.display());
                return TimelineHistory::Unreadable;
            }
        }
    }
    let history = parse_history(&String::from_utf8_lossy(&bytes));
    history.map_or_else(
        || {
            tracing::warn!(
                "syntax error in history file: {}. Expected a numeric timeline ID and a \
                 transaction log switchpoint location",
                path.display()
            );
            TimelineHistory::Unreadable
        },
        TimelineHistory::Known,
    )
}

// Each line names a timeline and where the next one left it; ids grow. An empty file tells nothing.
fn parse_history(text: &str) -> Option<Vec<(TimelineId, Lsn)>> {
    let mut ancestors: Vec<(TimelineId, Lsn)> = Vec::new();
    let lines = text.lines().map(str::trim);
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let mut words = line.split_ascii_whitespace();
        let tli = TimelineId(words.next()?.parse().ok()?);
        let switchpoint = words.next()?.parse().ok()?;
        if ancestors.last().is_some_and(|(last, _)| *last >= tli) {
            return None;
        }
        ancestors.push((tli, switchpoint));
    }
    Some(ancestors).filter(|ancestors| !ancestors.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;
    use crate::format::catalog::InstanceConf;

    fn archive(files: &[(&str, u64, &str)]) -> WalArchive {
        let files = files.iter();
        let files: Vec<_> = files
            .map(|(name, size, text)| (*name, *size, text.as_bytes()))
            .collect();
        archive_of(&files)
    }

    fn archive_of(files: &[(&str, u64, &[u8])]) -> WalArchive {
        let scratch = tempfile::tempdir().unwrap();
        let catalog = Catalog::init(scratch.path().join("c")).unwrap();
        let instance = catalog
            .add_instance("one", &InstanceConf::default())
            .unwrap();
        for (name, size, bytes) in files {
            let path = instance.wal_dir().join(name);
            std::fs::write(&path, bytes).unwrap();
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

    /// The header of segment 3 of 64 MiB.
    fn header() -> Vec<u8> {
        let mut bytes = vec![0; LONG_HEADER_BYTES];
        bytes[..4].copy_from_slice(&[0x10, 0xD1, 2, 0]);
        bytes[8..16].copy_from_slice(&(3_u64 << 26).to_le_bytes());
        bytes[32..36].copy_from_slice(&(64_u32 << 20).to_le_bytes());
        bytes[36..40].copy_from_slice(&8192_u32.to_le_bytes());
        bytes
    }

    #[test]
    fn what_a_segment_states_counts_before_the_size_of_files() {
        let bytes_of = |first: (&str, u64, &[u8])| {
            let other: (&str, u64, &[u8]) = ("000000010000000000000004", 16 << 20, b"");
            archive_of(&[first, other]).segment_bytes
        };
        let header = header();
        let name = "000000010000000000000003";
        assert_eq!(bytes_of((name, 1 << 20, &header)), 64 << 20);
        // What is there does not belong there.
        assert_eq!(bytes_of(("000000010000000000000002", 0, &header)), 16 << 20);
        // The first one is being copied.
        assert_eq!(bytes_of((name, 1 << 20, b"")), 16 << 20);
    }

    #[test]
    fn a_compressed_segment_tells_how_much_is_in_it() {
        let mut end = vec![0; 100];
        end[96..].copy_from_slice(&(32_u32 << 20).to_le_bytes());
        let found = archive_of(&[("000000010000000000000003.gz", 0, &end)]);
        assert_eq!(found.segment_bytes, 32 << 20);
    }

    #[test]
    fn a_history_names_all_ancestors_or_is_unreadable() {
        let lsn = |text: &str| text.parse::<Lsn>().unwrap();
        let text = "1\t0/5000000\tx\n# c\n2 0/7000100 y\n";
        let known = [
            (TimelineId(1), lsn("0/5000000")),
            (TimelineId(2), lsn("0/7000100")),
        ];
        assert_eq!(parse_history(text), Some(known.to_vec()));
        let history = TimelineHistory::Known(known.to_vec());
        assert_eq!(history.ancestors().next(), Some(known[1]));
        for text in [
            "",
            "#\n",
            "x 0/1",
            "1",
            "1 x",
            "2 0/1\n1 0/2\n",
            "2 0/1\n2 0/2\n",
        ] {
            assert_eq!(parse_history(text), None, "{text:?}");
        }
    }
}
