//! `backup_content.control` as a whole: streaming reader and writer with the running CRC, and a
//! compact list.
//!
//! A cluster can have millions of files. [`ContentList`] keeps all names in one arena and a record
//! of fixed size an entry; entries are handed out as views on it.

use super::content_entry::{
    CompressedAttributes, ContentEntry, ContentListError, EntrySize, FileType, HeaderMapRef,
};
use super::path_index::{Key, PathIndex};
use super::root::Root;
use crate::limits::CONTENT_LINE_BYTES_MAX;
use crate::types::CompressAlgorithm;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::io::{BufRead, Write};
use std::sync::OnceLock;

/// Reads entries one after the other.
#[derive(Debug)]
pub struct ContentListReader<R> {
    source: R,
    line: Vec<u8>,
    number: u64,
    crc: u32,
}

impl<R: BufRead> ContentListReader<R> {
    /// A reader at the start of a list.
    pub fn new(source: R) -> ContentListReader<R> {
        ContentListReader {
            source,
            line: Vec::new(),
            number: 0,
            crc: 0,
        }
    }

    /// The next entry; `None` at the end.
    ///
    /// # Errors
    /// Where reading fails, a line is no entry, is too long, or the last one has no end.
    pub fn next_entry(&mut self) -> Result<Option<ContentEntry<'_>>, ContentListError> {
        if !self.read_line()? {
            return Ok(None);
        }
        ContentEntry::parse_line(&self.line, self.number).map(Some)
    }

    /// CRC-32C of everything read so far; of the whole list after the last entry.
    #[must_use]
    pub fn finish(self) -> u32 {
        self.crc
    }

    // The next line, without its end, into `self.line`; false at the end of the list.
    fn read_line(&mut self) -> Result<bool, ContentListError> {
        self.line.clear();
        self.number += 1;
        let malformed = |reason| ContentListError::Malformed {
            line: self.number,
            reason,
        };
        loop {
            let available = match self.source.fill_buf() {
                Ok(available) => available,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(ContentListError::Io { source }),
            };
            if available.is_empty() {
                return if self.line.is_empty() {
                    Ok(false)
                } else {
                    Err(malformed("the list is cut short in it"))
                };
            }
            let end = available.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(available.len(), |at| at + 1);
            let part = &available[..taken];
            if self.line.len() + part.len() > CONTENT_LINE_BYTES_MAX {
                return Err(malformed("it is too long"));
            }
            self.line.extend_from_slice(part);
            self.crc = crc32c::crc32c_append(self.crc, part);
            self.source.consume(taken);
            if end.is_some() {
                self.line.pop();
                return Ok(true);
            }
        }
    }
}

/// Writes entries one after the other.
#[derive(Debug)]
pub struct ContentListWriter<W> {
    target: W,
    line: Vec<u8>,
    crc: u32,
}

impl<W: Write> ContentListWriter<W> {
    /// A writer of an empty list. `target` should be buffered.
    pub fn new(target: W) -> ContentListWriter<W> {
        ContentListWriter {
            target,
            line: Vec::new(),
            crc: 0,
        }
    }

    /// Appends an entry.
    ///
    /// # Errors
    /// [`ContentListError::Unstorable`] where the original could not read the entry back; nothing
    /// is written then. [`ContentListError::Io`] where writing fails.
    pub fn write(&mut self, entry: &ContentEntry<'_>) -> Result<(), ContentListError> {
        self.line.clear();
        entry.encode_line(&mut self.line)?;
        self.target
            .write_all(&self.line)
            .map_err(|source| ContentListError::Io { source })?;
        self.crc = crc32c::crc32c_append(self.crc, &self.line);
        Ok(())
    }

    /// The target and the CRC-32C of everything written; the target is not flushed.
    pub fn finish(self) -> (W, u32) {
        (self.target, self.crc)
    }
}

/// All entries of a backup, small in memory.
#[derive(Debug, Default)]
pub struct ContentList {
    names: String,
    records: Vec<Record>,
    /// Indexes of the records by tree and path; made when first needed.
    order: OnceLock<Vec<u32>>,
    /// Made when first needed.
    index: OnceLock<PathIndex>,
}

// An entry without its names, which are in the arena: the path at `name_at`, the link target behind
// it.
#[derive(Clone, Copy, Debug)]
struct Record {
    size: u64,
    header_offset: u64,
    name_at: u32,
    mode: u32,
    crc: u32,
    db_oid: u32,
    external_dir: u32,
    segno: u32,
    n_blocks: u32,
    header_count: u32,
    header_crc: u32,
    header_size: u32,
    chunk_size: u32,
    chunk_algorithm: u32,
    name_bytes: u16,
    linked_bytes: u16,
    compress_algorithm: CompressAlgorithm,
    flags: u8,
}

impl Record {
    const UNCHANGED: u8 = 1;
    const DATAFILE: u8 = 2;
    const CFS: u8 = 4;
    const DSS: u8 = 8;
    const COMPRESSED: u8 = 16;

    fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

// A million entries are to take well below 100 MB with their names.
const _: () = assert!(size_of::<Record>() <= 72);

impl ContentList {
    /// An empty list.
    #[must_use]
    pub fn new() -> ContentList {
        ContentList::default()
    }

    /// The list that `source` holds, and its CRC-32C.
    ///
    /// # Errors
    /// Where reading fails, a line is no entry, or a path is there twice.
    pub fn parse(source: impl BufRead) -> Result<(ContentList, u32), ContentListError> {
        let mut list = ContentList::new();
        let mut reader = ContentListReader::new(source);
        while let Some(entry) = reader.next_entry()? {
            list.push(&entry)?;
        }
        list.refuse_duplicates()?;
        Ok((list, reader.finish()))
    }

    /// Appends an entry. Whether its path is there already is not looked at; see
    /// [`ContentList::refuse_duplicates`].
    ///
    /// # Errors
    /// [`ContentListError::TooLarge`] beyond 4 GiB of names.
    pub fn push(&mut self, entry: &ContentEntry<'_>) -> Result<(), ContentListError> {
        let linked = entry.linked.as_deref().unwrap_or("");
        let too_large = |_| ContentListError::TooLarge;
        let name_at = u32::try_from(self.names.len()).map_err(too_large)?;
        let record = Record {
            size: entry.size.bytes(),
            header_offset: entry.headers.map_or(0, |headers| headers.offset),
            name_at,
            mode: entry.mode,
            crc: entry.crc,
            db_oid: entry.db_oid,
            external_dir: entry.external_dir,
            segno: entry.segno,
            n_blocks: entry.n_blocks.unwrap_or(0),
            header_count: entry.headers.map_or(0, |headers| headers.count),
            header_crc: entry.headers.map_or(0, |headers| headers.crc),
            header_size: entry.headers.map_or(0, |headers| headers.size),
            chunk_size: entry.compressed.map_or(0, |c| c.chunk_size),
            chunk_algorithm: entry.compressed.map_or(0, |c| c.algorithm),
            name_bytes: u16::try_from(entry.path.len()).map_err(too_large)?,
            linked_bytes: u16::try_from(linked.len()).map_err(too_large)?,
            compress_algorithm: entry.compress_algorithm,
            flags: [
                (entry.size == EntrySize::Unchanged, Record::UNCHANGED),
                (entry.is_datafile, Record::DATAFILE),
                (entry.is_cfs, Record::CFS),
                (entry.file_type == FileType::Dss, Record::DSS),
                (entry.compressed.is_some(), Record::COMPRESSED),
            ]
            .into_iter()
            .fold(0, |flags, (set, flag)| flags | if set { flag } else { 0 }),
        };
        self.names.push_str(&entry.path);
        self.names.push_str(linked);
        self.records.push(record);
        self.order.take();
        self.index.take();
        Ok(())
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The entry of this index, in the order of the file; `None` beyond the last.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<ContentEntry<'_>> {
        self.records.get(index).map(|record| self.view(record))
    }

    /// All entries in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = ContentEntry<'_>> {
        self.records.iter().map(|record| self.view(record))
    }

    /// All entries by tree and path: a directory comes before what is in it.
    pub fn iter_sorted(&self) -> impl Iterator<Item = ContentEntry<'_>> {
        self.order()
            .iter()
            .filter_map(|index| self.get(usize::try_from(*index).ok()?))
    }

    /// The index of the entry of this path.
    #[must_use]
    pub fn position(&self, path: &str, root: Root) -> Option<usize> {
        let found = self
            .index()
            .find((root, path), |number| self.key_of(number))?;
        usize::try_from(found).ok()
    }

    /// The entry of this path.
    #[must_use]
    pub fn find(&self, path: &str, root: Root) -> Option<ContentEntry<'_>> {
        self.get(self.position(path, root)?)
    }

    /// Checks that no path is there twice.
    ///
    /// # Errors
    /// [`ContentListError::Duplicate`] for the first that is.
    pub fn refuse_duplicates(&self) -> Result<(), ContentListError> {
        if let Some(number) = self.index().duplicate() {
            let (root, path) = self.key_of(number);
            return Err(ContentListError::Duplicate {
                path: path.to_owned(),
                root,
            });
        }
        Ok(())
    }

    fn index(&self) -> &PathIndex {
        self.index
            .get_or_init(|| PathIndex::new(self.records.len(), |number| self.key_of(number)))
    }

    fn order(&self) -> &[u32] {
        self.order.get_or_init(|| {
            // Names are below 4 GiB and not empty, so an index fits.
            let mut order = (0..=u32::MAX).take(self.records.len()).collect::<Vec<_>>();
            order.sort_unstable_by(|a, b| match (self.record(*a), self.record(*b)) {
                (Some(a), Some(b)) => self.key(a).cmp(&self.key(b)),
                _ => Ordering::Equal,
            });
            order
        })
    }

    fn record(&self, index: u32) -> Option<&Record> {
        self.records.get(usize::try_from(index).ok()?)
    }

    fn key_of(&self, number: u32) -> Key<'_> {
        let at = usize::try_from(number).expect("32 bits fit on every supported platform");
        self.key(&self.records[at])
    }

    fn key(&self, record: &Record) -> Key<'_> {
        let root = match record.external_dir {
            0 if record.is(Record::DSS) => Root::Shared,
            number => Root::of_directory(number),
        };
        (root, self.path(record))
    }

    fn path(&self, record: &Record) -> &str {
        let start = usize::try_from(record.name_at).unwrap_or(usize::MAX);
        &self.names[start..start + usize::from(record.name_bytes)]
    }

    fn view(&self, record: &Record) -> ContentEntry<'_> {
        let path = self.path(record);
        let linked_at = usize::try_from(record.name_at).unwrap_or(usize::MAX) + path.len();
        let linked = &self.names[linked_at..linked_at + usize::from(record.linked_bytes)];
        ContentEntry {
            path: Cow::Borrowed(path),
            size: if record.is(Record::UNCHANGED) {
                EntrySize::Unchanged
            } else {
                EntrySize::Bytes(record.size)
            },
            mode: record.mode,
            is_datafile: record.is(Record::DATAFILE),
            is_cfs: record.is(Record::CFS),
            crc: record.crc,
            compress_algorithm: record.compress_algorithm,
            external_dir: record.external_dir,
            db_oid: record.db_oid,
            file_type: if record.is(Record::DSS) {
                FileType::Dss
            } else {
                FileType::File
            },
            segno: record.segno,
            compressed: record
                .is(Record::COMPRESSED)
                .then_some(CompressedAttributes {
                    chunk_size: record.chunk_size,
                    algorithm: record.chunk_algorithm,
                }),
            linked: (!linked.is_empty()).then_some(Cow::Borrowed(linked)),
            n_blocks: (record.n_blocks > 0).then_some(record.n_blocks),
            headers: (record.header_count > 0).then_some(HeaderMapRef {
                count: record.header_count,
                crc: record.header_crc,
                offset: record.header_offset,
                size: record.header_size,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<ContentEntry<'static>> {
        let mut linked = ContentEntry::directory("pg_tblspc/16385", 0o700);
        linked.linked = Some("/gauss/ts/ts1".into());
        let mut external = ContentEntry::file("base", 0o600, EntrySize::Bytes(5), 9);
        external.external_dir = 1;
        let mut data = ContentEntry::file("base/1/2", 0o600, EntrySize::Bytes(8200), 1);
        data.is_datafile = true;
        data.n_blocks = Some(1);
        data.compress_algorithm = CompressAlgorithm::Zlib;
        data.compressed = Some(CompressedAttributes {
            chunk_size: 512,
            algorithm: 1,
        });
        data.headers = Some(HeaderMapRef {
            count: 1,
            crc: 2,
            offset: 3,
            size: 4,
        });
        let unchanged = ContentEntry::file("base/1/10", 0o600, EntrySize::Unchanged, 0);
        vec![
            linked,
            external,
            data,
            unchanged,
            ContentEntry::directory("base", 0o700),
            ContentEntry {
                file_type: FileType::Dss,
                ..ContentEntry::directory("base", 0o700)
            },
        ]
    }

    fn encode(entries: &[ContentEntry<'_>]) -> (Vec<u8>, u32) {
        let mut writer = ContentListWriter::new(Vec::new());
        for entry in entries {
            writer.write(entry).unwrap();
        }
        writer.finish()
    }

    #[test]
    fn a_list_is_written_and_read_back_with_its_crc() {
        let entries = sample();
        let (bytes, crc) = encode(&entries);
        assert_eq!(crc, crc32c::crc32c(&bytes));
        // A tiny buffer, so that lines come in pieces.
        let source = std::io::BufReader::with_capacity(7, bytes.as_slice());
        let (list, read_crc) = ContentList::parse(source).unwrap();
        assert_eq!(read_crc, crc);
        assert_eq!(list.iter().collect::<Vec<_>>(), entries);
        let paths = list
            .iter_sorted()
            .map(|entry| format!("{}: {}", entry.root(), entry.path))
            .collect::<Vec<_>>();
        assert_eq!(
            paths,
            [
                "data directory: base",
                "data directory: base/1/10",
                "data directory: base/1/2",
                "data directory: pg_tblspc/16385",
                "shared storage: base",
                "external directory 1: base"
            ]
        );
    }

    #[test]
    fn entries_are_found_by_path_and_tree() {
        let mut list = ContentList::new();
        for entry in sample() {
            list.push(&entry).unwrap();
        }
        assert_eq!(list.find("base", Root::External(1)).unwrap().crc, 9);
        assert!(list.find("base", Root::Data).unwrap().is_directory());
        let shared = list.find("base", Root::Shared).unwrap();
        assert_eq!(shared.file_type, FileType::Dss);
        assert_eq!(list.find("base/1/2", Root::Shared), None);
        assert_eq!(list.find("base/1", Root::Data), None);
        list.push(&ContentEntry::directory("base/1", 0o700))
            .unwrap();
        assert!(list.find("base/1", Root::Data).is_some());
    }

    #[test]
    fn a_path_that_is_there_twice_is_refused() {
        let mut entries = sample();
        entries.push(ContentEntry::file(
            "base/1/2",
            0o600,
            EntrySize::Bytes(0),
            0,
        ));
        let (bytes, _) = encode(&entries);
        let error = ContentList::parse(bytes.as_slice()).unwrap_err();
        assert!(
            matches!(error, ContentListError::Duplicate { .. }),
            "{error}"
        );
    }

    #[test]
    fn a_list_that_is_cut_or_has_an_endless_line_is_refused() {
        let (bytes, _) = encode(&sample());
        assert!(ContentList::parse(&bytes[..bytes.len() - 1]).is_err());
        assert!(ContentList::parse(&b"\n"[..]).is_err());
        let endless = std::io::BufReader::new(std::io::repeat(b'x'));
        assert!(ContentList::parse(endless).is_err());
        assert!(ContentList::parse(&b""[..]).unwrap().0.is_empty());
    }
}
