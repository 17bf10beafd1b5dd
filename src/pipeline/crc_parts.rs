//! The CRC-32C of a file from those of its extents.
//!
//! The loop only gathers them; the CPU stage combines them when the file is complete.

use super::crc_shift::combined;

/// CRCs of consecutive parts of a file.
#[derive(Debug, Default)]
pub(super) struct CrcParts {
    parts: Vec<(u32, u64)>,
}

impl CrcParts {
    /// Appends a part of `length` bytes.
    pub(super) fn push(&mut self, crc: u32, length: usize) {
        let length = u64::try_from(length).expect("a usize fits on every supported platform");
        self.parts.push((crc, length));
    }

    /// The CRC of all parts in their order.
    pub(super) fn combined(&self) -> u32 {
        let mut parts = self.parts.iter();
        let Some((first, _)) = parts.next() else {
            return 0;
        };
        parts.fold(*first, |crc, (next, length)| combined(crc, *next, *length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_the_crc_of_the_whole() {
        let bytes: Vec<u8> = (0_u32..10_000).flat_map(u32::to_le_bytes).collect();
        for sizes in [vec![40_000], vec![1, 39_999], vec![8200, 8200, 0, 23_600]] {
            let mut parts = CrcParts::default();
            let mut rest = &bytes[..];
            for size in sizes {
                let (part, behind) = rest.split_at(size);
                parts.push(crc32c::crc32c(part), part.len());
                rest = behind;
            }
            assert_eq!(parts.combined(), crc32c::crc32c(&bytes));
        }
        assert_eq!(CrcParts::default().combined(), crc32c::crc32c(b""));
    }
}
