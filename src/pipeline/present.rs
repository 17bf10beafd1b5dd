//! Which bytes of an extent are in its buffer, where it is read in parts.

use crate::limits::DIRECT_IO_ALIGNMENT;
use crate::types::PAGE_SIZE;
use std::ops::Range;

/// What of an extent was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Present {
    /// All that the file has of it.
    All,
    /// These bytes, in ascending order and apart; the others mean nothing.
    Parts(Vec<Range<usize>>),
}

impl Present {
    /// The runs of whole pages among the first `pages`.
    pub(super) fn whole_pages(&self, pages: usize) -> Vec<Range<usize>> {
        match self {
            Present::All => std::iter::once(0..pages).collect(),
            Present::Parts(parts) => parts
                .iter()
                .map(|part| part.start.div_ceil(PAGE_SIZE)..(part.end / PAGE_SIZE).min(pages))
                .filter(|run| !run.is_empty())
                .collect(),
        }
    }

    /// Whether all these bytes are there.
    fn has(&self, range: &Range<usize>) -> bool {
        match self {
            Present::All => true,
            Present::Parts(parts) => parts
                .iter()
                .any(|part| part.start <= range.start && range.end <= part.end),
        }
    }

    /// Says that everything is about to be there, and what is missing of `length` bytes.
    pub(super) fn complete(&mut self, length: usize) -> Vec<Range<usize>> {
        let Present::Parts(parts) = std::mem::replace(self, Present::All) else {
            return Vec::new();
        };
        let mut missing = Vec::new();
        let mut end = 0;
        for part in parts {
            if end < part.start {
                missing.push(end..part.start);
            }
            end = part.end;
        }
        if end < length {
            missing.push(end..length);
        }
        missing
    }

    /// Says that these bytes are about to be there as well, and what is to be read for that:
    /// aligned, and everything up to `length` at once if it comes to more than half of it.
    pub(super) fn add(
        &mut self,
        wanted: impl Iterator<Item = Range<usize>>,
        length: usize,
    ) -> Vec<Range<usize>> {
        let mut missing: Vec<Range<usize>> = wanted
            .map(|range| {
                let start = range.start - range.start % DIRECT_IO_ALIGNMENT;
                start..range.end.next_multiple_of(DIRECT_IO_ALIGNMENT)
            })
            .filter(|range| !self.has(range))
            .collect();
        missing.sort_unstable_by_key(|range| range.start);
        let missing = joined(missing);
        if missing.iter().map(ExactSizeIterator::len).sum::<usize>() > length / 2 {
            return self.complete(length);
        }
        if let Present::Parts(parts) = self {
            parts.extend(missing.iter().cloned());
            parts.sort_unstable_by_key(|range| range.start);
            *parts = joined(std::mem::take(parts));
        }
        missing
    }
}

/// Ranges in ascending order, those that touch or overlap made one.
fn joined(ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    let mut apart: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match apart.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => apart.push(range),
        }
    }
    apart
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_read_once_and_aligned() {
        let end = 128 * PAGE_SIZE;
        let mut present = Present::Parts(std::iter::once(end - PAGE_SIZE..end).collect());
        let chunks = [9000..9512, 512..1024, 4096..4608, 1024..1536];
        let missing = present.add(chunks.clone().into_iter(), end);
        assert_eq!(missing, std::slice::from_ref(&(0..12_288)));
        assert_eq!(present.add(chunks.into_iter(), end), []);
        let more = [12_288..12_800, 40_960..41_000, end - 512..end];
        let missing = present.add(more.into_iter(), end);
        assert_eq!(missing, [12_288..16_384, 40_960..45_056]);
        assert_eq!(present.whole_pages(128), [0..2, 127..128]);
        assert_eq!(
            present.complete(end),
            [16_384..40_960, 45_056..end - PAGE_SIZE]
        );
        assert_eq!(present, Present::All);
    }

    #[test]
    fn more_than_half_is_read_in_one() {
        let mut present = Present::Parts(std::iter::once(28_672..32_768).collect());
        let missing = present.add([0..9000, 12_300..17_000].into_iter(), 32_768);
        assert_eq!(missing, std::slice::from_ref(&(0..28_672)));
        assert_eq!(present, Present::All);
    }
}
