//! Builds WAL for tests, in segments of four pages so that every boundary comes soon.

use super::WalDialect;
use super::file_name::PAGE_BYTES;
use super::page::header_bytes;
use super::reader::SegmentBytes;
use crate::types::{Lsn, TimelineId};
use std::convert::Infallible;

pub(super) const SEGMENT_BYTES: u64 = 4 * PAGE_BYTES;
pub(super) const TIMELINE: TimelineId = TimelineId(1);
pub(super) const SYSTEM_IDENTIFIER: u64 = 0x1234_5678_9ABC_DEF0;

/// First segment of the WAL built.
pub(super) const FIRST_SEGMENT: u64 = 3;

/// WAL from the start of [`FIRST_SEGMENT`] on.
#[derive(Clone, Debug)]
pub(super) struct WalBuilder {
    pub(super) dialect: WalDialect,
    pub(super) bytes: Vec<u8>,
    prev: Lsn,
}

impl WalBuilder {
    pub(super) fn new(dialect: WalDialect) -> WalBuilder {
        WalBuilder {
            dialect,
            bytes: Vec::new(),
            prev: Lsn(0x28),
        }
    }

    pub(super) fn base() -> Lsn {
        Lsn(FIRST_SEGMENT * SEGMENT_BYTES)
    }

    /// Where the next byte goes.
    pub(super) fn position(&self) -> Lsn {
        Lsn(Self::base().0 + u64::try_from(self.bytes.len()).unwrap())
    }

    pub(super) fn byte(&mut self, lsn: Lsn) -> &mut u8 {
        &mut self.bytes[usize::try_from(lsn.0 - Self::base().0).unwrap()]
    }

    fn on_boundary(&self) -> bool {
        self.position().0.is_multiple_of(PAGE_BYTES)
    }

    /// Starts a page if that is due.
    pub(super) fn page_header(&mut self, missing: usize, flags: u16) {
        if !self.on_boundary() {
            return;
        }
        let page = self.position();
        let long = header_bytes(page, SEGMENT_BYTES) == 40;
        let flags = flags | u16::from(missing > 0) | if long { 2 } else { 0 };
        let magic = self.dialect.magic().unwrap();
        self.bytes.extend(magic.to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(TIMELINE.0.to_le_bytes());
        self.bytes.extend(page.0.to_le_bytes());
        let missing = u32::try_from(missing).unwrap();
        self.bytes.extend(missing.to_le_bytes());
        self.bytes.extend([0; 4]);
        if long {
            let sizes = [SEGMENT_BYTES, PAGE_BYTES].map(|size| u32::try_from(size).unwrap());
            self.bytes.extend(SYSTEM_IDENTIFIER.to_le_bytes());
            self.bytes.extend(sizes[0].to_le_bytes());
            self.bytes.extend(sizes[1].to_le_bytes());
        }
    }

    /// The bytes of a record with this data.
    pub(super) fn record_bytes(&self, rmid: u8, info: u8, data: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        match u8::try_from(data.len()) {
            Ok(0) => {}
            Ok(length) => body.extend([255, length]),
            Err(_) => {
                body.push(254);
                body.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
            }
        }
        body.extend(data);
        let mut header = Vec::new();
        let total = u32::try_from(self.dialect.record_header_bytes() + body.len()).unwrap();
        header.extend(total.to_le_bytes());
        let xid = 77_u32;
        if self.dialect == WalDialect::OpenGauss {
            header.extend(1_u32.to_le_bytes());
            header.extend(u64::from(xid).to_le_bytes());
        } else {
            header.extend(xid.to_le_bytes());
        }
        header.extend(self.prev.0.to_le_bytes());
        header.extend([info, rmid, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&body), &header);
        header.extend(crc.to_le_bytes());
        header.extend(body);
        header
    }

    /// Appends `bytes` of a record over as many pages as they take; returns where they start.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Lsn {
        self.page_header(0, 4);
        let start = self.position();
        for (done, byte) in bytes.iter().enumerate() {
            self.page_header(bytes.len() - done, 4);
            self.bytes.push(*byte);
        }
        start
    }

    /// Appends a record; returns where it starts.
    pub(super) fn record(&mut self, rmid: u8, info: u8, data: &[u8]) -> Lsn {
        let bytes = self.record_bytes(rmid, info, data);
        let start = self.put(&bytes);
        self.align();
        self.prev = start;
        start
    }

    pub(super) fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }

    /// Appends a record that ends `left` bytes before the end of its page.
    pub(super) fn fill_page(&mut self, left: u64) -> Lsn {
        self.page_header(0, 4);
        let header = u64::try_from(self.dialect.record_header_bytes()).unwrap();
        let free = PAGE_BYTES - self.position().0 % PAGE_BYTES;
        // A long data header takes 5 bytes, a short one 2.
        let data = free - left - header;
        let data = if data > 260 { data - 5 } else { data - 2 };
        self.record(9, 0x10, &vec![0xA5; usize::try_from(data).unwrap()])
    }

    /// Appends a switch record and the void behind it, with page headers as openGauss does.
    pub(super) fn switch(&mut self) -> Lsn {
        let start = self.record(0, 0x40, &[]);
        while !self.position().0.is_multiple_of(SEGMENT_BYTES) {
            self.page_header(0, 4);
            self.bytes.push(0);
        }
        start
    }

    /// A source of segments; the last one is filled up with zeros.
    pub(super) fn segments(
        &self,
    ) -> impl FnMut(u64) -> Result<Option<OnePage>, Infallible> + use<> {
        let bytes = self.bytes.clone();
        move |segno| {
            let size = usize::try_from(SEGMENT_BYTES).unwrap();
            let at = usize::try_from(segno - FIRST_SEGMENT).unwrap() * size;
            Ok(bytes.get(at..).filter(|rest| !rest.is_empty()).map(|rest| {
                let mut segment = rest[..rest.len().min(size)].to_vec();
                segment.resize(size, 0);
                OnePage {
                    segment,
                    loaded: None,
                }
            }))
        }
    }
}

/// Both dialects.
pub(super) const DIALECTS: [WalDialect; 2] =
    [WalDialect::OpenGauss, WalDialect::PostgreSql { major: 15 }];

/// Time of the commits built: 2026-11-21 05:52:49 UTC, in the server's count.
pub(super) const COMMIT_TIME: i64 = 848_555_569_000_000;

/// A segment of which one page at a time can be looked at, and each only behind the one before.
#[derive(Clone, Debug)]
pub(super) struct OnePage {
    segment: Vec<u8>,
    loaded: Option<u64>,
}

impl SegmentBytes for OnePage {
    fn size(&self) -> u64 {
        self.segment.size()
    }

    fn load(&mut self, offset: u64) -> std::io::Result<()> {
        assert!(self.loaded.is_none_or(|loaded| loaded <= offset));
        self.loaded = Some(offset);
        Ok(())
    }

    fn page(&self, offset: u64) -> &[u8] {
        assert_eq!(self.loaded, Some(offset));
        self.segment.page(offset)
    }
}
