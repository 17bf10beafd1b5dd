//! Pieces of a file that a merge writes from its beginning: runs of at most 128 records.
//!
//! A piece reads its part of the oldest copy, all of it, and puts newer records between. Where no
//! newer one comes in, and what was read lies as direct writes need it, the bytes that were read
//! are written.

use super::PipelineError;
use super::merge_sources::{Sources, Tools, Winner, record_header};
use crate::format::catalog::PageHeaderRecord;
use crate::io::Buffer;
use crate::limits::{DIRECT_IO_ALIGNMENT, EXTENT_ENCODED_BYTES_MAX, EXTENT_PAGES_MAX};
use std::ops::Range;

/// A run of the result.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) winners: Range<usize>,
    /// Records of the oldest copy that are read, for its CRC if for nothing else.
    pub(super) old: Range<usize>,
    /// The records in the input: source, first and count.
    pub(super) input: (usize, usize, usize),
    /// Whether the result is the input as it is.
    pub(super) is_input: bool,
    /// Where the result begins, modulo the alignment of direct writes, if that is known.
    pub(super) lead: usize,
}

/// A run of the result, made.
#[derive(Debug)]
pub struct DonePiece {
    /// CRC and length of what was read of the oldest copy.
    pub(super) old: (u32, usize),
    /// CRC and length of the run.
    pub(super) new: (u32, usize),
    /// Positions count from the run's beginning.
    pub(super) records: Vec<PageHeaderRecord>,
}

/// The next piece, if there is one.
pub(super) fn next_piece(
    sources: &Sources,
    next: (usize, usize),
    expected: usize,
) -> Option<Piece> {
    let oldest = sources.oldest();
    let old = &sources.sources[oldest].file.records;
    let (first, first_old) = next;
    let (mut last, mut last_old) = next;
    while last < sources.winners.len() && last - first < EXTENT_PAGES_MAX {
        let block = sources.record(sources.winners[last]).block;
        let behind = old[last_old..]
            .iter()
            .take(EXTENT_PAGES_MAX + 1)
            .take_while(|record| record.block <= block)
            .count();
        if last_old + behind - first_old > EXTENT_PAGES_MAX {
            break;
        }
        (last, last_old) = (last + 1, last_old + behind);
    }
    if last == first {
        // Records that were cut off later.
        last_old = old.len().min(first_old + EXTENT_PAGES_MAX);
    }
    let (winners, old) = (first..last, first_old..last_old);
    if winners.is_empty() && old.is_empty() {
        return None;
    }
    let input = if old.is_empty() {
        let source = sources.winners[first].source();
        let (first, count) = span_of(sources, &winners, source)?;
        (source, first, count)
    } else {
        (oldest, old.start, old.len())
    };
    let lead = expected % DIRECT_IO_ALIGNMENT;
    let position = sources.sources[input.0].file.position(input.1);
    let position = usize::try_from(position).expect("32 bits fit");
    let lies_right = position % DIRECT_IO_ALIGNMENT == lead;
    let is_input = lies_right && is_input(sources, &winners, input);
    Some(Piece {
        winners,
        old,
        input,
        is_input,
        lead,
    })
}

/// The records of a source from the first to the last one that is wanted of it: first and count.
fn span_of(sources: &Sources, winners: &Range<usize>, source: usize) -> Option<(usize, usize)> {
    let winners = sources.winners[winners.clone()].iter();
    let mut wanted = winners.filter(|winner| winner.source() == source);
    let first = wanted.next()?.index();
    let last = wanted.next_back().map_or(first, |winner| winner.index());
    Some((first, last + 1 - first))
}

/// Whether the winners are these records, all of them and as they are stored.
fn is_input(
    sources: &Sources,
    winners: &Range<usize>,
    (source, first, count): (usize, usize, usize),
) -> bool {
    let is_record = |(ahead, winner): (usize, &Winner)| {
        winner.source() == source
            && winner.index() == first + ahead
            && sources.stays_as_stored(*winner)
    };
    let winners = &sources.winners[winners.clone()];
    winners.len() == count && winners.iter().enumerate().all(is_record)
}

/// What is left of a file that became shorter while it was read.
pub(super) fn check_length(
    sources: &Sources,
    source: usize,
    found: usize,
    wanted: usize,
) -> Result<(), PipelineError> {
    if found == wanted {
        return Ok(());
    }
    let detail = "it became shorter meanwhile".to_owned();
    Err(sources.sources[source].member.damaged(detail))
}

/// The result of a piece: in the input if it is that, else in the output.
pub(super) fn make_piece(
    sources: &Sources,
    piece: &Piece,
    data: &[u8],
    output: Option<&mut Buffer>,
    (tools, scratch): &mut (Tools, Vec<u8>),
) -> Result<DonePiece, PipelineError> {
    let (source, first, count) = piece.input;
    let file = &sources.sources[source].file;
    check_length(sources, source, data.len(), file.span(first, count))?;
    let old = match piece.old.is_empty() {
        true => (0, 0),
        false => (crc32c::crc32c(data), data.len()),
    };
    let winners = &sources.winners[piece.winners.clone()];
    let mut records = Vec::with_capacity(winners.len());
    let spans = read_spans(sources, piece, scratch)?;
    let mut output = output.map(|output| (DIRECT_IO_ALIGNMENT + piece.lead, output));
    let begin = DIRECT_IO_ALIGNMENT + piece.lead;
    let mut length = 0;
    for winner in winners {
        let (from, place) = (winner.source(), winner.index());
        let bytes = sources.stored_bytes(*winner);
        let stored = if from == source {
            let at = file.span(first, place - first);
            &data[at..at + bytes]
        } else {
            let (_, first, base) = spans
                .iter()
                .find(|(source, ..)| *source == from)
                .expect("every source was read");
            let at = base + sources.sources[from].file.span(*first, place - first);
            &scratch[at..at + bytes]
        };
        let record = *sources.record(*winner);
        records.push(PageHeaderRecord {
            position: u32::try_from(length).expect("an extent is small"),
            ..record
        });
        let mut put = |bytes: &[u8]| {
            if let Some((end, output)) = &mut output {
                output.whole_mut()[*end..*end + bytes.len()].copy_from_slice(bytes);
                *end += bytes.len();
            }
            length += bytes.len();
        };
        if from == sources.oldest() {
            put(stored);
            continue;
        }
        let payload = sources.payload((from, place), stored, tools)?;
        put(&record_header(record.block, payload));
        put(payload);
    }
    let new = match output {
        Some((end, output)) => {
            output.set_range(begin..end);
            (crc32c::crc32c(output.data()), length)
        }
        None if piece.is_input && !piece.old.is_empty() => old,
        None if piece.is_input => (crc32c::crc32c(data), length),
        None => (0, 0),
    };
    Ok(DonePiece { old, new, records })
}

/// Reads the records of a piece that are not in its input, those of each source in one request:
/// source, first record, where they begin in `bytes`.
///
/// The CPU stage is not to block, but these records lie scattered between those of the oldest copy,
/// and an extent has one input. The kernel was told of them when the file was opened.
fn read_spans(
    sources: &Sources,
    piece: &Piece,
    bytes: &mut Vec<u8>,
) -> Result<Vec<(usize, usize, usize)>, PipelineError> {
    let mut spans = Vec::new();
    bytes.clear();
    for source in (0..sources.oldest()).filter(|source| *source != piece.input.0) {
        let Some((first, count)) = span_of(sources, &piece.winners, source) else {
            continue;
        };
        let file = &sources.sources[source].file;
        let base = bytes.len();
        bytes.resize(base + file.span(first, count), 0);
        let offset = u64::from(file.position(first));
        file.file.read_exact_at(&mut bytes[base..], offset)?;
        spans.push((source, first, base));
    }
    Ok(spans)
}

// A piece is built behind room for a carry and a lead of up to one alignment each.
const _: () =
    assert!(EXTENT_ENCODED_BYTES_MAX + 2 * DIRECT_IO_ALIGNMENT <= crate::limits::BUFFER_BYTES);
