//! The decoder: hostile input gives an error, never a panic and never a byte outside the page.

use super::{GROUP_ITEMS, LONG_MATCH_NIBBLE, MATCH_BYTES_MIN, SHORT_MATCH_BYTES_MAX};
use crate::codec::DecodeError;
use crate::types::CompressAlgorithm;

/// Bytes that a copy moves at once where there is room to write past its end.
const STRIDE: usize = 16;

/// Fills `page` from one stream.
pub(in crate::codec) fn decompress(payload: &[u8], page: &mut [u8]) -> Result<(), DecodeError> {
    let mut output = Output { page, filled: 0 };
    let mut at = 0;
    while at < payload.len() {
        // A ninth bit marks the end of the group, so that shifting alone counts the items.
        let mut control = u32::from(payload[at]) | 1 << GROUP_ITEMS;
        at += 1;
        if at == payload.len() {
            return Err(damaged(payload));
        }
        while control != 1 && at < payload.len() {
            let literals = usize::try_from(control.trailing_zeros()).expect("at most eight");
            if literals > 0 {
                at += output.push_literals(&payload[at..], literals)?;
                control >>= literals;
                continue;
            }
            control >>= 1;
            let (length, distance, item_bytes) =
                parse_match(&payload[at..]).ok_or_else(|| damaged(payload))?;
            if distance == 0 || distance > output.filled {
                return Err(damaged(payload));
            }
            output.push_match(length, distance)?;
            at += item_bytes;
        }
    }
    output.finish()
}

/// Length, distance and size of the match item that `input` begins with; `None` where it is cut
/// off.
fn parse_match(input: &[u8]) -> Option<(usize, usize, usize)> {
    let &[first, low, ref rest @ ..] = input else {
        return None;
    };
    let distance = usize::from(first >> 4) << 8 | usize::from(low);
    let nibble = usize::from(first & 0x0F);
    if nibble == LONG_MATCH_NIBBLE {
        let extra = usize::from(*rest.first()?);
        Some((SHORT_MATCH_BYTES_MAX + 1 + extra, distance, 3))
    } else {
        Some((MATCH_BYTES_MIN + nibble, distance, 2))
    }
}

fn damaged(payload: &[u8]) -> DecodeError {
    DecodeError::Damaged {
        algorithm: CompressAlgorithm::Pglz,
        payload_bytes: payload.len(),
    }
}

/// The page and how much of it is written; bytes after that may hold leftovers of wide copies.
struct Output<'a> {
    page: &'a mut [u8],
    filled: usize,
}

impl Output<'_> {
    /// Copies up to `count` (at most eight) literals from the head of `input`; returns how many
    /// there were.
    fn push_literals(&mut self, input: &[u8], count: usize) -> Result<usize, DecodeError> {
        if let Some((wide, _)) = input.split_first_chunk::<GROUP_ITEMS>()
            && let Some(room) = self.page[self.filled..].first_chunk_mut()
        {
            *room = *wide;
            self.filled += count;
            return Ok(count);
        }
        let count = count.min(input.len());
        self.room(count)?.copy_from_slice(&input[..count]);
        self.filled += count;
        Ok(count)
    }

    /// Repeats `length` bytes from `distance` (1 to `filled`) back.
    fn push_match(&mut self, length: usize, distance: usize) -> Result<(), DecodeError> {
        self.room(length)?;
        let source = self.filled - distance;
        let wide_end = self.filled + length.next_multiple_of(STRIDE);
        if distance >= STRIDE && wide_end <= self.page.len() {
            // Whatever a stride reads was written by an earlier one or before.
            for step in (0..length).step_by(STRIDE) {
                let chunk: [u8; STRIDE] = self.page[source + step..][..STRIDE]
                    .try_into()
                    .expect("a stride long");
                self.page[self.filled + step..][..STRIDE].copy_from_slice(&chunk);
            }
        } else if distance == 1 {
            let byte = self.page[source];
            self.page[self.filled..][..length].fill(byte);
        } else {
            // Each round doubles the length of the pattern that stands ready.
            let mut copied = 0;
            while copied < length {
                let ready = (distance + copied).min(length - copied);
                self.page
                    .copy_within(source..source + ready, self.filled + copied);
                copied += ready;
            }
        }
        self.filled += length;
        Ok(())
    }

    /// The next `count` bytes of the page.
    fn room(&mut self, count: usize) -> Result<&mut [u8], DecodeError> {
        let expected_bytes = self.page.len();
        self.page[self.filled..]
            .get_mut(..count)
            .ok_or(DecodeError::TooLong {
                algorithm: CompressAlgorithm::Pglz,
                expected_bytes,
            })
    }

    fn finish(self) -> Result<(), DecodeError> {
        if self.filled == self.page.len() {
            return Ok(());
        }
        Err(DecodeError::TooShort {
            algorithm: CompressAlgorithm::Pglz,
            found_bytes: self.filled,
            expected_bytes: self.page.len(),
        })
    }
}
