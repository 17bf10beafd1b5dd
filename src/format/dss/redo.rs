//! The redo ring: where the next batch is, and what a batch holds.
//!
//! ```text
//! redo control                           batch, at the control's offset in its ring segment
//! 0    u32  checksum                     0   u32  bytes of head and entries
//! 4    u32  ring segment                 4   u32  hash of the entries
//! 8    u64  version                      8   u64  time, in microseconds
//! 16   u64  offset in it                 16  u64  lsn
//! 24   u64  lsn of the last batch        24  u32  entries
//! 32   8 ids  first AUs of segments      32  entries: u32 type, u32 bytes with these 8, payload
//! 96   8 u32  bytes of segments          and the head again in the last 32 bytes of the sectors
//! 128  u32  segments
//! ```
//!
//! The server writes a batch, then the blocks in place, then the control. So one batch at most may
//! be half applied: the one at the control's offset, if it is whole and its lsn is the next.
//!
//! Source: `dss_redo.h`, `dss_redo_ctrl_t`, `dss_redo_batch_t`; `cm_hash.c`.

use super::{BlockId, DssFormatError, Structure};
use crate::format::little_endian::{put_u32, put_u64, u32_at, u64_at};

const SEGMENTS_MAX: u32 = 8;
const SECTOR: usize = RedoControl::SECTOR_BYTES;
const BATCH_HEAD: usize = 32;
const ENTRY_HEAD: usize = 8;
const BATCH_BYTES_MAX: usize = 64 * 1024;

/// Where the next batch is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RedoControl {
    /// Writes of the structure.
    pub version: u64,
    /// The ring segment of the next batch.
    pub segment: usize,
    /// Its offset in there.
    pub offset: u64,
    /// Lsn of the last batch that was applied.
    pub lsn: u64,
    /// First AU and bytes of each ring segment.
    pub segments: Vec<(BlockId, u64)>,
}

/// A run of bytes of the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingPiece {
    /// First AU of its segment.
    pub start: BlockId,
    /// Bytes from there.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

impl RedoControl {
    /// Bytes that a batch in the ring is a multiple of.
    pub const SECTOR_BYTES: usize = 512;

    /// Reads a slot whose checksum was verified.
    ///
    /// # Errors
    /// Where the ring is impossible.
    ///
    /// # Panics
    /// When `slot` has not the length of the structure.
    pub fn parse(slot: &[u8], au_bytes: u64) -> Result<RedoControl, DssFormatError> {
        let what = Structure::RedoControl.name();
        assert_eq!(slot.len(), Structure::RedoControl.bytes());
        let count = u32_at(slot, 128);
        if !(1..=SEGMENTS_MAX).contains(&count) {
            return Err(DssFormatError::field(
                what,
                "a number of segments:",
                count.into(),
            ));
        }
        let segments: Vec<(BlockId, u64)> = (0..count as usize)
            .map(|number| {
                let start = BlockId(u64_at(slot, 32 + 8 * number));
                (start, u64::from(u32_at(slot, 96 + 4 * number)))
            })
            .collect();
        for (start, bytes) in &segments {
            if *bytes == 0 || !bytes.is_multiple_of(au_bytes) || start.is_nothing() {
                return Err(DssFormatError::field(what, "a segment of bytes", *bytes));
            }
            if start.block() != 0 || start.item() != 0 || start.au() == 0 {
                return Err(DssFormatError::field(what, "a segment at AU", start.0));
            }
        }
        let number = u32_at(slot, 4);
        let offset = u64_at(slot, 16);
        let segment = number as usize;
        match segments.get(segment) {
            Some((_, bytes)) if offset < *bytes && offset.is_multiple_of(SECTOR as u64) => {}
            Some(_) => return Err(DssFormatError::field(what, "offset", offset)),
            None => return Err(DssFormatError::field(what, "segment", number.into())),
        }
        Ok(RedoControl {
            version: u64_at(slot, 8),
            segment,
            offset,
            lsn: u64_at(slot, 24),
            segments,
        })
    }

    /// Where `length` bytes from the control's offset on are; they may go around the ring once.
    #[must_use]
    pub fn pieces(&self, length: usize) -> Vec<RingPiece> {
        let (mut segment, mut offset) = (self.segment, self.offset);
        let mut left = length as u64;
        let mut pieces = Vec::new();
        while left > 0 && pieces.len() <= self.segments.len() {
            let (start, bytes) = self.segments[segment];
            let length = left.min(bytes - offset);
            pieces.push(RingPiece {
                start,
                offset,
                length,
            });
            left -= length;
            offset = 0;
            segment = (segment + 1) % self.segments.len();
        }
        pieces
    }
}

impl RedoControl {
    /// The first sector of the place where the next batch will be.
    #[must_use]
    pub fn next_sector(&self) -> RingPiece {
        RingPiece {
            start: self.segments[self.segment].0,
            offset: self.offset,
            length: SECTOR as u64,
        }
    }

    /// The control once the batch at its offset, of this many bytes in the ring, is applied.
    ///
    /// The next batch is never one that goes around the end of a segment: the server's recovery
    /// can read such batches, but not the shortest ones, and nobody ever saw one.
    ///
    /// # Panics
    /// When it is longer than the ring.
    #[must_use]
    pub fn after(&self, length: usize, lsn: u64) -> RedoControl {
        let pieces = self.pieces(length);
        let last = pieces.last().expect("a batch is not empty");
        let segment = (self.segment + pieces.len() - 1) % self.segments.len();
        let end = last.offset + last.length;
        let is_room = self.segments[segment].1 - end >= BATCH_BYTES_MAX as u64;
        let (segment, offset) = match is_room {
            true => (segment, end),
            false => ((segment + 1) % self.segments.len(), 0),
        };
        RedoControl {
            version: self.version.wrapping_add(1),
            segment,
            offset,
            lsn,
            segments: self.segments.clone(),
        }
    }

    /// Puts the place of the next batch and the lsn into a slot, and seals it.
    ///
    /// # Panics
    /// When `slot` has not the length of the structure.
    pub fn put(&self, slot: &mut [u8]) {
        put_u32(slot, 4, u32::try_from(self.segment).expect("at most 8"));
        put_u64(slot, 16, self.offset);
        put_u64(slot, 24, self.lsn);
        Structure::RedoControl.seal(slot);
    }
}

/// Bytes that a batch with this first sector takes in the ring; `None` if there is none.
#[must_use]
pub fn batch_bytes(sector: &[u8]) -> Option<usize> {
    let size = u32_at(sector, 0) as usize;
    let whole = (size + BATCH_HEAD).next_multiple_of(SECTOR);
    (size > BATCH_HEAD && whole <= BATCH_BYTES_MAX).then_some(whole)
}

/// An entry of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RedoEntry {
    /// What it changes.
    pub kind: u32,
    /// How.
    pub payload: Vec<u8>,
}

impl RedoEntry {
    /// Bytes that it takes in a batch.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        ENTRY_HEAD + self.payload.len()
    }
}

/// A batch that is whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RedoBatch {
    /// Its lsn.
    pub lsn: u64,
    /// When it was written, in microseconds since 2000, by the clock on the server's wall.
    pub time_us: u64,
    /// Its entries, in order.
    pub entries: Vec<RedoEntry>,
}

impl RedoBatch {
    /// The batch of these bytes, as many as [`batch_bytes`] says, if it is whole and the one after
    /// `last_lsn`. Anything else is left from earlier rounds and has nothing to say.
    ///
    /// # Errors
    /// Where a whole batch has entries that do not fit into it.
    pub fn parse(bytes: &[u8], last_lsn: u64) -> Result<Option<RedoBatch>, DssFormatError> {
        if bytes.len() < SECTOR || batch_bytes(bytes) != Some(bytes.len()) {
            return Ok(None);
        }
        let size = u32_at(bytes, 0) as usize;
        let tail = &bytes[bytes.len() - BATCH_HEAD..];
        let lsn = u64_at(bytes, 16);
        // Size, hash and time.
        if tail[..16] != bytes[..16] || Some(lsn) != last_lsn.checked_add(1) {
            return Ok(None);
        }
        if hash(&bytes[BATCH_HEAD..size]) != u32_at(bytes, 4) {
            return Ok(None);
        }
        let mut entries = Vec::new();
        let mut at = BATCH_HEAD;
        while at < size {
            let problem = |kind| DssFormatError::Redo {
                number: entries.len(),
                kind,
                problem: "does not fit into it",
            };
            if size - at < ENTRY_HEAD {
                return Err(problem(0));
            }
            let (kind, length) = (u32_at(bytes, at), u32_at(bytes, at + 4) as usize);
            if length < ENTRY_HEAD || length > size - at {
                return Err(problem(kind));
            }
            let payload = bytes[at + ENTRY_HEAD..at + length].to_vec();
            entries.push(RedoEntry { kind, payload });
            at += length;
        }
        let time_us = u64_at(bytes, 8);
        Ok(Some(RedoBatch {
            lsn,
            time_us,
            entries,
        }))
    }
}

impl RedoBatch {
    /// Seconds from 1970 to 2000, from which the times of batches count.
    pub const EPOCH_SECONDS: u64 = 946_684_800;

    /// Bytes of all entries of a batch at most.
    pub const ENTRIES_BYTES_MAX: usize = BATCH_BYTES_MAX - SECTOR - 2 * BATCH_HEAD;

    /// The batch as a server writes it.
    ///
    /// # Panics
    /// When it is larger than a batch may be.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; BATCH_HEAD];
        for entry in &self.entries {
            let length = u32::try_from(ENTRY_HEAD + entry.payload.len()).expect("a small entry");
            bytes.extend(entry.kind.to_le_bytes());
            bytes.extend(length.to_le_bytes());
            bytes.extend(&entry.payload);
        }
        let size = bytes.len();
        let whole = (size + BATCH_HEAD).next_multiple_of(SECTOR);
        assert!(whole <= BATCH_BYTES_MAX, "a batch of {size} bytes");
        let hash = hash(&bytes[BATCH_HEAD..]);
        put_u32(&mut bytes, 0, u32::try_from(size).expect("at most 64 KiB"));
        put_u32(&mut bytes, 4, hash);
        put_u64(&mut bytes, 8, self.time_us);
        put_u64(&mut bytes, 16, self.lsn);
        let count = u32::try_from(self.entries.len()).expect("at most 8192");
        put_u32(&mut bytes, 24, count);
        bytes.resize(whole, 0);
        bytes.copy_within(..BATCH_HEAD, whole - BATCH_HEAD);
        bytes
    }
}

/// FNV-1 over words of big-endian bytes, the last one filled up with zeros.
fn hash(bytes: &[u8]) -> u32 {
    bytes.chunks(4).fold(0x811c_9dc5, |value: u32, chunk| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        value.wrapping_mul(0x0100_0193) ^ u32::from_be_bytes(word)
    })
}
