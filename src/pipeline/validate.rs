//! Validate: every stored byte against its CRC, every stored page against its record, header and
//! checksum.
//!
//! Damage is a result, not an error: it is collected as [`Finding`]s, all of them, and the command
//! decides. Only a broken engine or a signal ends the run early.

use super::chain_file::MemberFile;
use super::crc_parts::CrcParts;
use super::per_thread::PerThread;
use super::records::{PageCheck, check_page, decode, payload_of};
use super::{Kind, PipelineError, Processed, ReadRange, Write};
use crate::codec::Decompressor;
use crate::format::catalog::{HeaderRecords, PageHeaderRecord};
use crate::io::{Buffer, File, IoError};
use crate::limits::{EXTENT_BYTES_MAX, EXTENT_ENCODED_BYTES_MAX, EXTENT_PAGES_MAX};
use crate::types::{CompressAlgorithm, FileBlock, Location, PAGE_SIZE, SegmentNumber};
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// A stored file to validate.
#[derive(Debug)]
pub struct ValidateItem {
    /// For messages: path as the content list has it.
    pub name: String,
    /// The stored file.
    pub member: MemberFile,
    /// Segment and form of its pages; `None` for a file without pages, or when pages are not to be
    /// looked at.
    pub pages: Option<(SegmentNumber, bool)>,
}

/// Something that is wrong with a backup.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Finding {
    /// The file, as the content list names it.
    pub name: String,
    /// What is wrong, in the original's words where it has any.
    pub text: String,
}

/// The validation's use of the transfer loop.
#[derive(Debug)]
pub struct ValidateKind {
    contexts: PerThread<(Decompressor, Box<[u8; PAGE_SIZE]>)>,
    findings: Mutex<Vec<Finding>>,
}

/// A file being validated.
#[derive(Debug)]
pub struct ValidateFile {
    name: Arc<str>,
    member: MemberFile,
    file: Arc<File>,
    pages: Option<Arc<Pages>>,
    next_record: usize,
    read_offset: u64,
    crcs: CrcParts,
    length: u64,
    unreadable: bool,
}

#[derive(Debug)]
struct Pages {
    segno: SegmentNumber,
    compressed: bool,
    algorithm: CompressAlgorithm,
    page_checksums: bool,
    headers: HeaderRecords,
}

impl Pages {
    fn position(&self, index: usize) -> u32 {
        self.headers
            .records
            .get(index)
            .map_or(self.headers.file_bytes, |record| record.position)
    }
}

/// What the CPU stage must know of an extent.
#[derive(Debug)]
pub struct ValidateExtent {
    name: Arc<str>,
    pages: Option<(Arc<Pages>, Range<usize>)>,
}

impl ValidateKind {
    /// Works on `threads` threads.
    #[must_use]
    pub fn new(threads: usize) -> ValidateKind {
        let make = || (Decompressor::new(), Box::new([0; PAGE_SIZE]));
        ValidateKind {
            contexts: PerThread::new(threads, make),
            findings: Mutex::default(),
        }
    }

    /// Everything that is wrong, by name.
    ///
    /// # Panics
    /// When a thread panicked while it added a finding.
    #[must_use]
    pub fn into_findings(self) -> Vec<Finding> {
        let mut findings = self.findings.into_inner().expect("adding does not panic");
        findings.sort();
        findings
    }

    fn find(&self, name: &str, text: String) {
        let finding = Finding {
            name: name.to_owned(),
            text,
        };
        self.findings
            .lock()
            .expect("adding does not panic")
            .push(finding);
    }

    fn check_records(&self, name: &str, pages: &Pages, range: Range<usize>, data: &[u8]) {
        let mut contexts = self.contexts.get();
        let (decompressor, scratch) = &mut *contexts;
        let base = pages.position(range.start);
        for index in range {
            let record = &pages.headers.records[index];
            let [from, to] = [index, index + 1]
                .map(|index| usize::try_from(pages.position(index) - base).expect("32 bits fit"));
            // A short read is found by the CRC and length of the file.
            let Some(stored) = data.get(from..to) else {
                return;
            };
            if let Err(detail) =
                check_record(name, stored, record, pages, decompressor, &mut scratch[..])
            {
                let location = Location::block(name, pages.segno, FileBlock(record.block));
                self.find(name, format!("File: {location}: {detail}"));
            }
        }
    }
}

fn check_record(
    name: &str,
    stored: &[u8],
    record: &PageHeaderRecord,
    pages: &Pages,
    decompressor: &mut Decompressor,
    scratch: &mut [u8],
) -> Result<(), String> {
    let payload = payload_of(stored, record)?;
    let page = if payload.len() == PAGE_SIZE {
        payload
    } else {
        decode(decompressor, pages.algorithm, payload, scratch)?;
        &*scratch
    };
    let block = pages.segno.relation_block(FileBlock(record.block));
    let check = PageCheck {
        name,
        compressed: pages.compressed,
        page_checksums: pages.page_checksums,
        knows_pages: true,
    };
    check_page(page, check, block, record)
}

impl Kind for ValidateKind {
    type Item = ValidateItem;
    type File = ValidateFile;
    type Extent = ValidateExtent;
    type Done = (u32, usize);

    fn open(&self, item: ValidateItem) -> Result<Option<ValidateFile>, PipelineError> {
        let name = item.name.as_str();
        let path = item.member.display_path();
        let file = match item.member.open(true) {
            Ok(file) => file,
            Err(PipelineError::Storage(error)) if error.is_not_found() => {
                self.find(name, format!("Backup file \"{path}\" is not found"));
                return Ok(None);
            }
            Err(error) => {
                self.find(name, describe(&error));
                return Ok(None);
            }
        };
        file.drop_cache();
        let pages = match item.pages {
            None => None,
            Some((segno, compressed)) => match item.member.read_headers() {
                Ok(headers) => {
                    let algorithm = item.member.algorithm;
                    Some(Arc::new(Pages {
                        segno,
                        compressed,
                        algorithm,
                        page_checksums: item.member.page_checksums,
                        headers,
                    }))
                }
                Err(error) => {
                    self.find(name, describe(&error));
                    self.find(name, format!("Cannot get page headers for file \"{path}\""));
                    return Ok(None);
                }
            },
        };
        Ok(Some(ValidateFile {
            name: name.into(),
            member: item.member,
            file,
            pages,
            next_record: 0,
            read_offset: 0,
            crcs: CrcParts::default(),
            length: 0,
            unreadable: false,
        }))
    }

    fn held_bytes(&self, file: &ValidateFile) -> usize {
        let records = file.pages.as_ref().map(|pages| pages.headers.records.len());
        records.unwrap_or(0) * size_of::<PageHeaderRecord>()
    }

    fn next_extent(&self, file: &mut ValidateFile) -> Option<(ReadRange, ValidateExtent)> {
        let left = file.member.size - file.read_offset;
        if left == 0 || file.unreadable {
            return None;
        }
        let offset = file.read_offset;
        let (length, pages) = match &file.pages {
            None => (
                usize::try_from(left)
                    .unwrap_or(usize::MAX)
                    .min(EXTENT_BYTES_MAX),
                None,
            ),
            Some(pages) => {
                let first = file.next_record;
                let last = pages.headers.records.len().min(first + EXTENT_PAGES_MAX);
                file.next_record = last;
                let length = pages.position(last) - pages.position(first);
                let length = usize::try_from(length).expect("32 bits fit");
                debug_assert!(
                    length <= EXTENT_ENCODED_BYTES_MAX,
                    "payloads are at most a page"
                );
                (length, Some((pages.clone(), first..last)))
            }
        };
        file.read_offset += u64::try_from(length).expect("an extent is small");
        let range = ReadRange {
            source: file.file.clone(),
            offset,
            length,
            parts: Vec::new(),
            needs_output: false,
        };
        Some((
            range,
            ValidateExtent {
                name: file.name.clone(),
                pages,
            },
        ))
    }

    fn process(
        &self,
        extent: &mut ValidateExtent,
        _attempt: u32,
        input: &mut Buffer,
        _output: Option<&mut Buffer>,
    ) -> Result<Processed<(u32, usize)>, PipelineError> {
        let data = input.data();
        if let Some((pages, range)) = &extent.pages {
            self.check_records(&extent.name, pages, range.clone(), data);
        }
        Ok(Processed::Done((crc32c::crc32c(data), data.len())))
    }

    fn collect(
        &self,
        file: &mut ValidateFile,
        (crc, length): (u32, usize),
        _input: Buffer,
        _output: Option<Buffer>,
    ) -> Result<Option<Write>, PipelineError> {
        file.crcs.push(crc, length);
        file.length += u64::try_from(length).expect("an extent is small");
        Ok(None)
    }

    fn read_failed(&self, file: &mut ValidateFile, error: IoError) -> Result<(), PipelineError> {
        file.unreadable = true;
        self.find(&file.name, describe(&PipelineError::Io(error)));
        Ok(())
    }

    fn complete(&self, file: &mut ValidateFile) -> Result<(), PipelineError> {
        if file.unreadable {
            return Ok(());
        }
        let path = file.member.display_path();
        if file.length != file.member.size {
            self.find(
                &file.name,
                format!(
                    "Invalid size of backup file \"{path}\" : {}. Expected {}",
                    file.length, file.member.size
                ),
            );
            return Ok(());
        }
        let found = file.crcs.combined();
        if let Some(expected) = file.member.crc.filter(|expected| *expected != found) {
            self.find(
                &file.name,
                format!("Invalid CRC of backup file \"{path}\" : {found:X}. Expected {expected:X}"),
            );
        }
        Ok(())
    }

    fn seal(&self, _file: &mut ValidateFile) -> Result<Option<Arc<File>>, PipelineError> {
        Ok(None)
    }

    fn finish(&self, _file: ValidateFile) -> Result<(), PipelineError> {
        Ok(())
    }
}

/// An error with its causes, in one line.
fn describe(error: &PipelineError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // The number of a system error, which Rust appends, says nothing that its text does not.
        let end = cause_text.find(" (os error ");
        text.push_str(": ");
        text.push_str(&cause_text[..end.unwrap_or(cause_text.len())]);
        source = cause.source();
    }
    text
}
