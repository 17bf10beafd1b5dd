//! Names and page order of files of changed block maps.

use super::CbmFault;
use super::page::{CBM_PAGE_BYTES, CbmPage, CbmPageFault};
use crate::types::Lsn;
use std::fmt;

/// What the name of a file says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CbmFileName {
    /// Counts the files.
    pub sequence: u64,
    /// Start of the first batch.
    pub start: Lsn,
    /// End of the last batch; `None` while the file is being written.
    pub end: Option<Lsn>,
}

impl CbmFileName {
    /// Reads a name; `None` for what is no such file, as the results of `pg_cbm_get_merged_file`,
    /// which are in the same directory.
    #[must_use]
    pub fn parse(name: &str) -> Option<CbmFileName> {
        let text = name.strip_prefix("pg_xlog_")?.strip_suffix(".cbm")?;
        let (sequence, text) = text.split_once('_')?;
        let (start, end) = text.split_once('_')?;
        let decimal = !sequence.is_empty() && sequence.bytes().all(|digit| digit.is_ascii_digit());
        let parsed = CbmFileName {
            sequence: sequence.parse().ok().filter(|_| decimal)?,
            start: parse_position(start)?,
            end: Some(parse_position(end)?).filter(|end| !end.is_invalid()),
        };
        let in_order = parsed.end.is_none_or(|end| parsed.start < end);
        (in_order && !parsed.start.is_invalid()).then_some(parsed)
    }
}

impl fmt::Display for CbmFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.end.unwrap_or(Lsn::INVALID);
        write!(
            f,
            "pg_xlog_{}_{:016X}_{:016X}.cbm",
            self.sequence, self.start.0, end.0
        )
    }
}

/// 16 hexadecimal digits.
fn parse_position(text: &str) -> Option<Lsn> {
    let digits = text.len() == 16 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    u64::from_str_radix(text, 16)
        .ok()
        .filter(|_| digits)
        .map(Lsn)
}

/// Bytes of a file up to the end of its last complete batch, and where that batch ends.
///
/// Looks from the end of the file for a page that ends a batch, as the server does: pages behind it
/// are of a batch that is being written, or was when the server died.
#[must_use]
pub fn complete_bytes(file: &[u8]) -> Option<(usize, Lsn)> {
    let pages = file.chunks_exact(CBM_PAGE_BYTES);
    let whole = pages.len();
    pages.rev().enumerate().find_map(|(behind, bytes)| {
        let page = CbmPage::parse(bytes).ok().filter(|page| page.is_last)?;
        Some(((whole - behind) * CBM_PAGE_BYTES, page.end))
    })
}

/// The pages of a file in order, each checked by itself and against the page before.
///
/// Ends with the bytes, which have to end with a batch, or with the first fault.
#[derive(Clone, Debug)]
pub struct CbmPages<'a> {
    rest: &'a [u8],
    offset: u64,
    /// Where the next batch starts.
    next: Lsn,
    /// End of the batch that the page before belongs to, unless that page was its last.
    batch_end: Option<Lsn>,
    /// Where the last batch has to end.
    end: Option<Lsn>,
}

impl<'a> CbmPages<'a> {
    /// The pages of `bytes`, a file of this name; of a file being written, as much as
    /// [`complete_bytes`] says.
    #[must_use]
    pub fn new(name: CbmFileName, bytes: &'a [u8]) -> CbmPages<'a> {
        CbmPages {
            rest: bytes,
            offset: 0,
            next: name.start,
            batch_end: None,
            end: name.end,
        }
    }

    /// Where the batches read so far end.
    #[must_use]
    pub fn tracked(&self) -> Lsn {
        self.next
    }

    fn follow(&mut self, page: &CbmPage<'_>) -> Result<(), CbmPageFault> {
        let fits = page.start == self.next && self.batch_end.is_none_or(|end| end == page.end);
        if !fits {
            return Err(CbmPageFault::Batch {
                start: page.start,
                end: page.end,
                expected: self.next,
            });
        }
        if page.is_last {
            self.next = page.end;
            self.batch_end = None;
        } else {
            self.batch_end = Some(page.end);
        }
        Ok(())
    }

    /// What there is to say when no bytes are left.
    fn finish(&mut self) -> Option<CbmPageFault> {
        let expected = self.batch_end.take().or(self.end.take())?;
        let found = self.next;
        (found != expected).then_some(CbmPageFault::End { found, expected })
    }
}

impl<'a> Iterator for CbmPages<'a> {
    type Item = Result<CbmPage<'a>, CbmFault>;

    fn next(&mut self) -> Option<Self::Item> {
        let offset = self.offset;
        let fail = |fault| CbmFault { offset, fault };
        if self.rest.is_empty() {
            return self.finish().map(|fault| Err(fail(fault)));
        }
        let (bytes, rest) = self.rest.split_at(self.rest.len().min(CBM_PAGE_BYTES));
        self.rest = rest;
        self.offset += bytes.len() as u64;
        let page = CbmPage::parse(bytes).and_then(|page| self.follow(&page).map(|()| page));
        if page.is_err() {
            (self.rest, self.batch_end, self.end) = (&[], None, None);
        }
        Some(page.map_err(fail))
    }
}
