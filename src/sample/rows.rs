//! Pages of rows: heap (layout 6) and ustore (layout 7).
//!
//! Rows are `(id int, changed timestamp, note text, amount numeric)`, laid out as the server lays
//! them out: line pointers grow from the header, rows from the end of the page.
//!
//! Source: `bufpage.h` (HeapPageHeaderData, UHeapPageHeaderData), `htup.h`, `knl_uhtup.h`.

use super::page::{
    self, FLAG_CHECKSUM_FNV1A, FLAG_FREE_LINES, HEAP_HEADER_BYTES, Header, LAYOUT_HEAP,
    LAYOUT_UHEAP, XID_BASE, put_block_id, put_u16, put_u32, put_u64,
};
use super::random::Random;
use super::text::TextPool;
use crate::types::{BlockNumber, PAGE_SIZE};

/// How long the text of a table's rows is.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowShape {
    /// Bytes of the shortest text.
    pub(super) text_bytes_min: usize,
    /// Texts are longer than the shortest one by less than this.
    pub(super) text_bytes_span: usize,
    /// Percent of the page that is left free.
    pub(super) free_percent: usize,
}

impl RowShape {
    fn text_bytes(self, random: &mut Random) -> usize {
        self.text_bytes_min + random.index(self.text_bytes_span)
    }
}

const HEAP_ROW_HEADER_BYTES: usize = 24;
const HEAP_ROW_TEXT_OFFSET: usize = 40;

/// Header of a ustore page and its four transaction slots.
const UHEAP_TD_COUNT: u16 = 4;
const UHEAP_TD_OFFSET: usize = 48;
const UHEAP_HEADER_BYTES: usize = UHEAP_TD_OFFSET + 4 * 16;
const UHEAP_ROW_HEADER_BYTES: usize = 11;

/// Microseconds between 2000-01-01 and a day in 2025: the era of the sample's rows.
const TIMESTAMP_BASE: u64 = 800_000_000_000_000;

/// Fills a zeroed page with heap rows.
pub(super) fn fill_heap(
    page: &mut [u8],
    block: BlockNumber,
    shape: RowShape,
    random: &mut Random,
    texts: &TextPool,
) {
    let free_bytes = PAGE_SIZE * shape.free_percent / 100;
    let mut lower = HEAP_HEADER_BYTES;
    let mut upper = PAGE_SIZE;
    let mut slot: u16 = 1;
    loop {
        let length = shape.text_bytes(random);
        let text = texts.cut(random, length);
        let text_header_bytes = varlena_header_bytes(text.len());
        let text_end = HEAP_ROW_TEXT_OFFSET + text_header_bytes + text.len();
        let row_bytes = text_end + NUMERIC_BYTES;
        let aligned_bytes = row_bytes.next_multiple_of(8);
        if lower + 4 + aligned_bytes + free_bytes > upper {
            break;
        }
        upper -= aligned_bytes;
        page::put_u32(page, lower, page::line_pointer(upper, row_bytes));
        lower += 4;
        let row = &mut page[upper..upper + row_bytes];
        put_heap_row_header(row, block, slot, random);
        put_row_values(row, HEAP_ROW_HEADER_BYTES, block, slot, random);
        put_varlena(&mut row[HEAP_ROW_TEXT_OFFSET..text_end], text);
        put_numeric(&mut row[text_end..], random);
        slot += 1;
    }
    let pruned = random.below(4) == 0;
    let flags = FLAG_CHECKSUM_FNV1A | if pruned { FLAG_FREE_LINES } else { 0 };
    let lsn = page::some_lsn(random);
    Header {
        lsn,
        flags,
        lower,
        upper,
        special: PAGE_SIZE,
        layout: LAYOUT_HEAP,
    }
    .write(page);
    put_u32(page, 20, if pruned { 5 + random.below(40) } else { 0 });
    put_u64(page, 24, XID_BASE);
}

/// Fills a zeroed page with ustore rows.
pub(super) fn fill_uheap(
    page: &mut [u8],
    block: BlockNumber,
    shape: RowShape,
    random: &mut Random,
    texts: &TextPool,
) {
    let free_bytes = PAGE_SIZE * shape.free_percent / 100;
    let mut lower = UHEAP_HEADER_BYTES;
    let mut upper = PAGE_SIZE;
    let mut slot: u16 = 1;
    loop {
        let length = shape.text_bytes(random);
        let text = texts.cut(random, length);
        // Values follow without alignment: id, text with its header, amount.
        let text_start = UHEAP_ROW_HEADER_BYTES + 4;
        let text_end = text_start + varlena_header_bytes(text.len()) + text.len();
        let row_bytes = (text_end + NUMERIC_BYTES).next_multiple_of(8);
        if lower + 4 + row_bytes + free_bytes > upper {
            break;
        }
        upper -= row_bytes;
        put_u32(page, lower, page::line_pointer(upper, row_bytes));
        lower += 4;
        let row = &mut page[upper..upper + row_bytes];
        row[..UHEAP_ROW_HEADER_BYTES].copy_from_slice(&[
            8,
            0,
            0,
            0,
            1,
            0,
            0x02,
            0x80,
            3,
            0,
            UHEAP_ROW_HEADER_LENGTH,
        ]);
        put_u32(row, UHEAP_ROW_HEADER_BYTES, row_id(block, slot));
        put_varlena(&mut row[text_start..text_end], text);
        put_numeric(&mut row[text_end..], random);
        slot += 1;
    }
    let lsn = page::some_lsn(random);
    Header {
        lsn,
        flags: FLAG_CHECKSUM_FNV1A,
        lower,
        upper,
        special: PAGE_SIZE,
        layout: LAYOUT_UHEAP,
    }
    .write(page);
    put_u16(page, 20, page::offset16(upper - lower));
    put_u16(page, 22, UHEAP_TD_COUNT);
    put_u64(page, 24, XID_BASE + 31);
    put_u64(page, 32, XID_BASE);
    put_u64(page, UHEAP_TD_OFFSET, XID_BASE + 8);
    put_u64(
        page,
        UHEAP_TD_OFFSET + 8,
        24 + 42 * u64::from(random.below(20_000)),
    );
}

const UHEAP_ROW_HEADER_LENGTH: u8 = 11;

fn row_id(block: BlockNumber, slot: u16) -> u32 {
    block.0.wrapping_mul(64).wrapping_add(u32::from(slot))
}

/// xmin, xmax, command id, own position, masks of a committed row with four columns, header length.
fn put_heap_row_header(row: &mut [u8], block: BlockNumber, slot: u16, random: &mut Random) {
    put_u32(row, 0, 5 + random.below(3));
    put_u64(row, 4, 0);
    put_block_id(row, 12, block.0);
    put_u16(row, 16, slot);
    put_u16(row, 18, 4);
    put_u16(row, 20, 0x0902);
    put_u16(row, 22, page::offset16(HEAP_ROW_HEADER_BYTES));
}

/// The id and, 8-aligned, the timestamp.
fn put_row_values(row: &mut [u8], at: usize, block: BlockNumber, slot: u16, random: &mut Random) {
    let id = row_id(block, slot);
    put_u32(row, at, id);
    put_u32(row, at + 4, 0);
    let seconds = u64::from(id) * 16 + u64::from(random.below(16));
    put_u64(row, at + 8, TIMESTAMP_BASE + seconds * 1_000_000);
}

/// Bytes of the length word: 1 for short values, else 4.
fn varlena_header_bytes(length: usize) -> usize {
    if length < 126 { 1 } else { 4 }
}

/// A value of variable length that fills `out` but for its length word.
fn put_varlena(out: &mut [u8], value: &[u8]) {
    let total = out.len();
    let header_bytes = total - value.len();
    if header_bytes == 1 {
        out[0] = u8::try_from(total << 1 | 1).expect("short values have at most 127 bytes");
    } else {
        put_u32(
            out,
            0,
            u32::try_from(total << 2).expect("values are shorter than a page"),
        );
    }
    out[header_bytes..].copy_from_slice(value);
}

const NUMERIC_BYTES: usize = 7;

/// A numeric with one digit group before the point and one behind it.
fn put_numeric(out: &mut [u8], random: &mut Random) {
    out[0] = 0x0F;
    put_u16(out, 1, 0x8100);
    put_u16(out, 3, page::offset16(random.index(5000)));
    put_u16(out, 5, page::offset16(random.index(100) * 100));
}
