//! The decoder: hostile input gives an error, never a panic and never a byte outside the page.

use super::{GROUP_ITEMS, LONG_MATCH_NIBBLE, MATCH_BYTES_MIN};
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
        loop {
            // Also where there are none: a branch for that would be guessed wrong too often.
            let literals = usize::try_from(control.trailing_zeros()).expect("at most eight");
            at += output.push_literals(&payload[at..], literals)?;
            control >>= literals;
            if control == 1 || at == payload.len() {
                break;
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

/// Length, distance and size of the match item at the head of `input`; `None` where it is cut off.
#[inline(always)]
fn parse_match(input: &[u8]) -> Option<(usize, usize, usize)> {
    // A third byte is read where there is one, needed or not, so that the choice needs no branch.
    let (first, low, third) = match *input {
        [first, low, third, ..] => (first, low, Some(third)),
        [first, low] => (first, low, None),
        _ => return None,
    };
    let distance = usize::from(first >> 4) << 8 | usize::from(low);
    let nibble = usize::from(first & 0x0F);
    let is_long = nibble == LONG_MATCH_NIBBLE;
    if is_long && third.is_none() {
        return None;
    }
    let extra = if is_long {
        usize::from(third.unwrap_or(0))
    } else {
        0
    };
    Some((
        MATCH_BYTES_MIN + nibble + extra,
        distance,
        2 + usize::from(is_long),
    ))
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
        let source = self.filled - distance;
        let wide_end = self.filled + length.next_multiple_of(STRIDE);
        if distance >= STRIDE && wide_end <= self.page.len() {
            // Whatever a stride reads was written by an earlier one or before. Few matches need a
            // second one: a loop from the start would be guessed wrong more often.
            self.copy_stride(source, self.filled);
            if length > STRIDE {
                for step in (STRIDE..length).step_by(STRIDE) {
                    self.copy_stride(source + step, self.filled + step);
                }
            }
            self.filled += length;
            return Ok(());
        }
        self.room(length)?;
        if distance == 1 {
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

    #[inline(always)]
    fn copy_stride(&mut self, source: usize, target: usize) {
        let stride: [u8; STRIDE] = self.page[source..source + STRIDE]
            .try_into()
            .expect("a stride long");
        self.page[target..target + STRIDE].copy_from_slice(&stride);
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

#[cfg(test)]
mod tests {
    use super::*;

    type Unpacked = Result<Vec<u8>, DecodeError>;

    fn unpack(payload: &[u8], page_bytes: usize) -> Unpacked {
        let mut page = vec![0; page_bytes];
        decompress(payload, &mut page).map(|()| page)
    }

    #[test]
    fn items_are_told_apart_by_the_control_byte_lowest_bit_first() {
        // Two literals, a match of 3 + 4 from 2 back, a literal.
        let payload = [0b0100, b'a', b'b', 0x04, 2, b'!'];
        assert_eq!(unpack(&payload, 10).unwrap(), b"ababababa!");
    }

    #[test]
    fn a_long_match_has_its_length_in_a_third_byte() {
        for (extra, length) in [(0_u8, 18), (1, 19), (255, 273)] {
            let payload = [0b10, b'x', 0x0F, 1, extra];
            assert_eq!(
                unpack(&payload, 1 + length).unwrap(),
                vec![b'x'; 1 + length]
            );
        }
    }

    #[test]
    fn a_match_reaches_4095_bytes_back() {
        let page: Vec<u8> = (0..4095_u16)
            .map(|at| at.to_le_bytes()[usize::from(at % 2)])
            .collect();
        let mut payload = Vec::new();
        for group in page.chunks(8) {
            payload.push(if group.len() < 8 { 1 << group.len() } else { 0 });
            payload.extend_from_slice(group);
        }
        payload.extend_from_slice(&[0xFF, 0xFF, 0]);
        let mut expected = page.clone();
        expected.extend_from_slice(&page[..18]);
        assert_eq!(unpack(&payload, 4095 + 18).unwrap(), expected);
    }

    #[test]
    fn every_distance_and_length_repeats_what_stands_there() {
        for distance in 1..40_u8 {
            for length in [3_u8, 7, 15, 16, 17, 18, 31, 32, 33, 100] {
                let mut expected: Vec<u8> = (0..distance).collect();
                let mut payload = Vec::new();
                for group in expected.chunks(8) {
                    payload.push(0);
                    payload.extend_from_slice(group);
                }
                // The match is in the last group where that has room, else in one of its own.
                let literals = usize::from(distance) % 8;
                let control_at = if literals == 0 {
                    payload.push(0);
                    payload.len() - 1
                } else {
                    payload.len() - literals - 1
                };
                payload[control_at] = 1 << literals;
                if length > 17 {
                    payload.extend_from_slice(&[0x0F, distance, length - 18]);
                } else {
                    payload.extend_from_slice(&[length - 3, distance]);
                }
                for _ in 0..length {
                    expected.push(expected[expected.len() - usize::from(distance)]);
                }
                let page = unpack(&payload, expected.len());
                assert_eq!(page.unwrap(), expected, "{distance} {length}");
            }
        }
    }

    #[test]
    fn what_the_original_refuses_is_refused() {
        let algorithm = CompressAlgorithm::Pglz;
        let damaged = |payload_bytes| {
            Err(DecodeError::Damaged {
                algorithm,
                payload_bytes,
            })
        };
        let too_long = Err(DecodeError::TooLong {
            algorithm,
            expected_bytes: 4,
        });
        let too_short = |found_bytes| {
            Err(DecodeError::TooShort {
                algorithm,
                found_bytes,
                expected_bytes: 4,
            })
        };
        let cases: [(&str, &[u8], Unpacked); 12] = [
            ("nothing", &[], too_short(0)),
            ("only a control byte", &[0], damaged(1)),
            ("three literals", &[0, 1, 2, 3], too_short(3)),
            ("five literals", &[0, 1, 2, 3, 4, 5], too_long.clone()),
            (
                "an empty group at the end",
                &[0, 1, 2, 3, 4, 5, 6, 7, 8, 0],
                too_long.clone(),
            ),
            ("a match cut after one byte", &[0b10, 1, 0], damaged(3)),
            (
                "a long match without its length",
                &[0b10, 1, 0x0F, 1],
                damaged(4),
            ),
            ("a match at the very begin", &[0b1, 0, 1], damaged(3)),
            ("a match from distance zero", &[0b10, 1, 0, 0], damaged(4)),
            ("a match from before the page", &[0b10, 1, 0, 2], damaged(4)),
            ("a match past the end", &[0b10, 1, 1, 1], too_long),
            ("a match to the end", &[0b10, 1, 0, 1], Ok(vec![1; 4])),
        ];
        for (what, payload, expected) in cases {
            assert_eq!(unpack(payload, 4), expected, "{what}");
        }
        assert_eq!(
            unpack(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 0], 8),
            damaged(10),
            "an empty group after a full page"
        );
    }
}
