//! Reads WAL record by record, from segments handed over by the caller.
//!
//! What vouches for each byte that reading passes:
//!
//! * record header and body: the record's CRC;
//! * page header: must say what its position and the record before it ask for, all but one flag
//!   ([`PageRule`]);
//! * up to 7 bytes from a record to the next: must be zero, as servers leave them;
//! * the rest of a segment behind a switch record: pages of zeros, with or without a header;
//! * order: each record names the start of the one before.
//!
//! Reading ends cleanly at a record boundary where zeros follow, where the next segment is absent,
//! or where a page of an earlier life of the segment file shows: server files are recycled under
//! new names without being cleared.
//!
//! PostgreSQL marks a page as overwriting when it restarts after a crash that cut a record: the
//! piece of that record is passed over, and the next record names the one before the piece.

use super::WalDialect;
use super::error::{EndOfWal, PageFault, RecordFault, WalError};
use super::file_name::{PAGE_BYTES, is_record_offset, is_segment_size, segment_name};
use super::page::{Arrival, PageKind, PageRule, SHORT_HEADER_BYTES, header_bytes, reserved};
use super::record::{Record, is_switch, parse_record};
use crate::format::little_endian::u32_at;
use crate::limits::{WAL_PAGE_BYTES, WAL_RECORD_BYTES_MAX};
use crate::types::{Lsn, TimelineId};
use std::error::Error;
use std::fmt;

/// Records start at multiples of this.
const RECORD_ALIGNMENT: u64 = 8;

/// The bytes of one segment, of which those that are looked at are in memory.
pub trait SegmentBytes {
    /// How many there are.
    fn size(&self) -> u64;

    /// Has the page at `offset` in memory from now on, until the next call. Offsets rise from call
    /// to call. Not called unless the segment has the size that it has to have.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn load(&mut self, offset: u64) -> std::io::Result<()>;

    /// The page at the `offset` of the last [`SegmentBytes::load`].
    fn page(&self, offset: u64) -> &[u8];
}

/// A segment that is in memory.
impl SegmentBytes for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn load(&mut self, _offset: u64) -> std::io::Result<()> {
        Ok(())
    }

    fn page(&self, offset: u64) -> &[u8] {
        let at = usize::try_from(offset).expect("it is in memory");
        &self[at..at + WAL_PAGE_BYTES]
    }
}

/// Reads the records of one timeline in order.
///
/// `F` is asked for segments by number, each at most once in a row; `None` says that there is no
/// such segment. One segment at most is held, and one record is in memory.
pub struct WalReader<F, S> {
    dialect: WalDialect,
    rule: PageRule,
    segments: F,
    segment: Option<(u64, S)>,
    /// Where the next record starts, or a page boundary before it.
    next: Lsn,
    /// Start of the record read last.
    previous: Option<Lsn>,
    /// Bytes from here to `next` follow a switch record.
    void: Option<Lsn>,
    started: bool,
    end: Option<EndOfWal>,
    /// Where a record over several pages is put together.
    assembled: Vec<u8>,
}

impl<F, S> fmt::Debug for WalReader<F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WalReader")
            .field("rule", &self.rule)
            .field("next", &self.next)
            .field("previous", &self.previous)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

/// What became of the record that starts somewhere.
enum Fetched {
    /// This many bytes, on one page.
    InPage(usize),
    /// In `assembled`, ending here.
    Assembled(Lsn),
    /// Another record starts here instead.
    GivenUp(Lsn),
    /// Nothing starts there.
    End(EndOfWal),
}

impl<F, S, E> WalReader<F, S>
where
    F: FnMut(u64) -> Result<Option<S>, E>,
    S: SegmentBytes,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    /// A reader whose first record starts at `start`. Impossible arguments are reported by the
    /// first [`WalReader::next_record`].
    pub fn new(
        dialect: WalDialect,
        tli: TimelineId,
        segment_bytes: u64,
        start: Lsn,
        segments: F,
    ) -> WalReader<F, S> {
        WalReader {
            dialect,
            rule: PageRule {
                dialect,
                magic: dialect.magic().unwrap_or(0),
                timeline: tli,
                segment_bytes,
                system_identifier: None,
                reserved: 0,
            },
            segments,
            segment: None,
            next: start,
            previous: None,
            void: None,
            started: false,
            end: None,
            assembled: Vec::new(),
        }
    }

    /// Demands that the WAL be that of this cluster. Otherwise the identifiers in the pages are not
    /// looked at.
    #[must_use]
    pub fn with_system_identifier(mut self, system_identifier: u64) -> WalReader<F, S> {
        self.rule.system_identifier = Some(system_identifier);
        self
    }

    /// Why there are no more records, once [`WalReader::next_record`] said so.
    #[must_use]
    pub fn end(&self) -> Option<&EndOfWal> {
        self.end.as_ref()
    }

    /// Where the next record starts, or the page boundary before it.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.next
    }

    /// The next record, or `None` where WAL ends at a record boundary.
    ///
    /// # Errors
    /// Any [`WalError`] but [`WalError::Range`] and [`WalError::EndsEarly`]. The reader stays where
    /// it is.
    pub fn next_record(&mut self) -> Result<Option<Record>, WalError> {
        Ok(self.advance()?.ok())
    }

    /// The next record, or why there is none.
    pub(super) fn advance(&mut self) -> Result<Result<Record, EndOfWal>, WalError> {
        if let Some(end) = &self.end {
            return Ok(Err(end.clone()));
        }
        self.start()?;
        if let Some(from) = self.void {
            self.check_void(from, self.next)?;
            self.void = None;
        }
        let mut start = match self.enter_record()? {
            Ok(start) => start,
            Err(end) => return Ok(Err(self.finish(end))),
        };
        loop {
            let fetched = self.fetch(start)?;
            let (record, raw_end) = match fetched {
                Fetched::End(end) => return Ok(Err(self.finish(end))),
                Fetched::GivenUp(instead) => {
                    start = instead;
                    continue;
                }
                Fetched::InPage(bytes) => {
                    let raw_end = Lsn(start.0 + bytes as u64);
                    let at = page_offset(start);
                    let bytes = &self.page(page_of(start))[at..at + bytes];
                    (self.parse(start, raw_end, bytes)?, raw_end)
                }
                Fetched::Assembled(raw_end) => {
                    (self.parse(start, raw_end, &self.assembled)?, raw_end)
                }
            };
            return self.accept(record, raw_end).map(Ok);
        }
    }

    /// Checks the arguments, and the page that the first record starts on.
    fn start(&mut self) -> Result<(), WalError> {
        if self.started {
            return Ok(());
        }
        if let (None, WalDialect::PostgreSql { major }) = (self.dialect.magic(), self.dialect) {
            return Err(WalError::UnknownDialect { major });
        }
        if !is_segment_size(self.rule.segment_bytes) {
            return Err(WalError::SegmentSize {
                found: self.rule.segment_bytes,
            });
        }
        let lsn = self.next;
        let page = page_of(lsn);
        let in_header = page_offset(lsn) < header_bytes(page, self.rule.segment_bytes);
        // The margin keeps sums of a position and a record's length below 2^64.
        let too_high = lsn.0 > u64::MAX / 2;
        if in_header
            || too_high
            || !is_record_offset(lsn)
            || !lsn.0.is_multiple_of(RECORD_ALIGNMENT)
        {
            return Err(WalError::Start { lsn });
        }
        let first_page = Lsn(lsn.0 - lsn.0 % self.rule.segment_bytes);
        for page in [first_page, page] {
            if self.has_page(page)? {
                self.verify_page(page, Arrival::Start)?;
                self.rule.reserved = reserved(self.page(page));
            }
        }
        self.started = true;
        Ok(())
    }

    fn finish(&mut self, end: EndOfWal) -> EndOfWal {
        self.end.insert(end).clone()
    }

    /// Where the next record starts: steps over the page header where that comes first.
    pub(super) fn enter_record(&mut self) -> Result<Result<Lsn, EndOfWal>, WalError> {
        let page = page_of(self.next);
        if !self.has_page(page)? {
            return Ok(Err(self.absent(page)));
        }
        if page != self.next {
            return Ok(Ok(self.next));
        }
        Ok(match self.verify_page(page, Arrival::Boundary)? {
            PageKind::Zero => Err(EndOfWal::ZeroPage),
            PageKind::Recycled(address) => Err(EndOfWal::RecycledPage { address }),
            PageKind::Regular | PageKind::Overwrites => Ok(Lsn(
                page.0 + header_bytes(page, self.rule.segment_bytes) as u64
            )),
        })
    }

    /// Whether `lsn` lies in, or right behind, the header of the page that the next record starts
    /// on.
    pub(super) fn is_in_header(&self, lsn: Lsn) -> bool {
        let page = page_of(self.next);
        let header = header_bytes(page, self.rule.segment_bytes);
        page == self.next && lsn > page && lsn.0 - page.0 <= header as u64
    }

    /// Finds all bytes of the record at `start`, on a page that is there.
    fn fetch(&mut self, start: Lsn) -> Result<Fetched, WalError> {
        let at = page_offset(start);
        let length = u32_at(self.page(page_of(start)), at);
        if length == 0 {
            return Ok(Fetched::End(EndOfWal::ZeroLength));
        }
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if !(self.dialect.record_header_bytes()..=WAL_RECORD_BYTES_MAX).contains(&bytes) {
            return Err(WalError::Record {
                record: start,
                fault: RecordFault::Length { found: length },
            });
        }
        if bytes <= WAL_PAGE_BYTES - at {
            return Ok(Fetched::InPage(bytes));
        }
        let mut assembled = std::mem::take(&mut self.assembled);
        assembled.clear();
        assembled.extend_from_slice(&self.page(page_of(start))[at..]);
        let fetched = self.assemble(start, length, &mut assembled);
        self.assembled = assembled;
        fetched
    }

    /// Adds what following pages hold of a record of `length` bytes. Grows with what is really
    /// there.
    fn assemble(
        &mut self,
        start: Lsn,
        length: u32,
        assembled: &mut Vec<u8>,
    ) -> Result<Fetched, WalError> {
        let mut page = page_of(start);
        loop {
            page = Lsn(page.0 + PAGE_BYTES);
            let have = u32::try_from(assembled.len()).expect("records are below 4 GiB");
            let missing = length - have;
            if !self.has_page(page)? {
                return Err(WalError::SegmentAbsent {
                    segment: self.name_of(page),
                    record: start,
                });
            }
            let header = header_bytes(page, self.rule.segment_bytes);
            if self.verify_page(page, Arrival::Continued(missing))? == PageKind::Overwrites {
                return Ok(Fetched::GivenUp(Lsn(page.0 + header as u64)));
            }
            let missing = usize::try_from(missing).expect("a length of memory");
            let here = missing.min(WAL_PAGE_BYTES - header);
            assembled.extend_from_slice(&self.page(page)[header..header + here]);
            if here == missing {
                return Ok(Fetched::Assembled(Lsn(page.0 + (header + here) as u64)));
            }
        }
    }

    fn parse(&self, start: Lsn, raw_end: Lsn, bytes: &[u8]) -> Result<Record, WalError> {
        let end = Lsn(raw_end.0.next_multiple_of(RECORD_ALIGNMENT));
        let record =
            parse_record(self.dialect, start, end, bytes).map_err(|fault| WalError::Record {
                record: start,
                fault,
            })?;
        if let Some(expected) = self.previous
            && record.prev != expected
        {
            return Err(WalError::Record {
                record: start,
                fault: RecordFault::Previous {
                    found: record.prev,
                    expected,
                },
            });
        }
        Ok(record)
    }

    /// Moves behind a good record.
    fn accept(&mut self, mut record: Record, raw_end: Lsn) -> Result<Record, WalError> {
        self.check_zeros(record.start, raw_end, record.end)?;
        if is_switch(&record) {
            let segment_end = Lsn(record.end.0.next_multiple_of(self.rule.segment_bytes));
            self.void = (record.end < segment_end).then_some(record.end);
            record.end = segment_end;
        }
        self.previous = Some(record.start);
        self.next = record.end;
        Ok(record)
    }

    /// Where the bytes behind a switch record start that was read last, if there are any.
    pub(super) fn void(&self) -> Option<Lsn> {
        self.void
    }

    /// Checks the bytes behind a switch record up to `until`, in the same segment: pages of zeros,
    /// with or without header.
    pub(super) fn check_void(&mut self, from: Lsn, until: Lsn) -> Result<(), WalError> {
        let record = self.previous.unwrap_or(from);
        let mut at = from;
        while at < until {
            let page = page_of(at);
            // The segment of the switch record is in memory, or was a moment ago.
            if !self.has_page(page)? {
                return Err(WalError::SegmentAbsent {
                    segment: self.name_of(page),
                    record,
                });
            }
            if at == page {
                match self.verify_page(page, Arrival::Boundary)? {
                    PageKind::Recycled(address) => {
                        return Err(WalError::Page {
                            page,
                            fault: PageFault::Address { found: address },
                        });
                    }
                    PageKind::Zero | PageKind::Regular | PageKind::Overwrites => {}
                }
                at = Lsn(page.0 + SHORT_HEADER_BYTES as u64);
            }
            let page_end = Lsn(page.0 + PAGE_BYTES);
            if at < until {
                self.check_zeros(record, at, page_end.min(until))?;
            }
            at = page_end;
        }
        Ok(())
    }

    /// Checks that the bytes from `from` to `until`, on one page that is in memory, are zero.
    fn check_zeros(&self, record: Lsn, from: Lsn, until: Lsn) -> Result<(), WalError> {
        if from == until {
            return Ok(());
        }
        let at = page_offset(from);
        let count = usize::try_from(until.0 - from.0).expect("less than a page");
        let bytes = &self.page(page_of(from))[at..at + count];
        match (from.0..).zip(bytes).find(|&(_, &byte)| byte != 0) {
            None => Ok(()),
            Some((at, _)) => Err(WalError::Record {
                record,
                fault: RecordFault::Padding { at: Lsn(at) },
            }),
        }
    }

    /// Has a page in memory, and its segment at hand; `false` where there is none.
    pub(super) fn has_page(&mut self, page: Lsn) -> Result<bool, WalError> {
        let segno = page.0 / self.rule.segment_bytes;
        if self.segment.as_ref().is_none_or(|have| have.0 != segno) {
            self.segment = None;
            let fetched = (self.segments)(segno).map_err(|source| WalError::Segment {
                segment: self.name_of(page),
                source: source.into(),
            })?;
            let Some(bytes) = fetched else {
                return Ok(false);
            };
            if bytes.size() != self.rule.segment_bytes {
                return Err(WalError::SegmentLength {
                    segment: self.name_of(page),
                    found: bytes.size(),
                    expected: self.rule.segment_bytes,
                });
            }
            self.segment = Some((segno, bytes));
        }
        let (_, bytes) = self.segment.as_mut().expect("it was just put there");
        let loaded = bytes.load(page.0 - segno * self.rule.segment_bytes);
        loaded.map_err(|source| WalError::Segment {
            segment: self.name_of(page),
            source: source.into(),
        })?;
        Ok(true)
    }

    /// The bytes of the page that [`WalReader::has_page`] found last.
    fn page(&self, page: Lsn) -> &[u8] {
        let (segno, bytes) = self.segment.as_ref().expect("the page was found");
        bytes.page(page.0 - segno * self.rule.segment_bytes)
    }

    pub(super) fn verify_page(&self, page: Lsn, arrival: Arrival) -> Result<PageKind, WalError> {
        self.rule
            .verify(self.page(page), page, arrival)
            .map_err(|fault| WalError::Page { page, fault })
    }

    fn name_of(&self, page: Lsn) -> String {
        let segno = page.0 / self.rule.segment_bytes;
        segment_name(self.rule.timeline, segno, self.rule.segment_bytes)
    }

    /// The end of WAL that an absent page is.
    fn absent(&self, page: Lsn) -> EndOfWal {
        EndOfWal::SegmentAbsent {
            segment: self.name_of(page),
        }
    }
}

/// The page that holds the byte at `lsn`.
fn page_of(lsn: Lsn) -> Lsn {
    Lsn(lsn.0 - lsn.0 % PAGE_BYTES)
}

/// The position of `lsn` in its page.
fn page_offset(lsn: Lsn) -> usize {
    usize::try_from(lsn.0 % PAGE_BYTES).expect("less than a page")
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
