//! The 24 bytes every page begins with.
//!
//! | offset | type | field |
//! |---|---|---|
//! | 0 | u32 | `pd_lsn`, high half |
//! | 4 | u32 | `pd_lsn`, low half |
//! | 8 | u16 | `pd_checksum` |
//! | 10 | u16 | `pd_flags` |
//! | 12 | u16 | `pd_lower`: start of the free space |
//! | 14 | u16 | `pd_upper`: end of the free space |
//! | 16 | u16 | `pd_special`: start of the special space |
//! | 18 | u16 | page size, a multiple of 256, plus layout version |
//! | 20 | u32 | `pd_prune_xid`; ustore keeps two numbers here, see [`super::PageLayout`] |
//!
//! Source: `PageHeaderData` in `src/include/storage/buf/bufpage.h`; what counts as sane is
//! `parse_page` in gs_probackup's `data.cpp`.

use crate::types::{Lsn, PAGE_SIZE};

/// Bytes of the header that all layouts share.
pub(super) const COMMON_HEADER_BYTES: usize = 24;

/// The bit of `pd_lower` by which gs_probackup marks a page of a compressed relation in a backup.
pub(super) const COMPRESSED_MARK: u16 = 0x8000;

/// The bits of `pd_flags` that have a meaning on disk.
const VALID_FLAGS: u16 = 0x01FF;

/// The flag that the server sets on every page as it computes the checksum.
const CHECKSUM_FLAG: u16 = 0x0040;

/// Alignment of the special space.
const SPECIAL_ALIGNMENT: u16 = 8;

const PAGE_SIZE_U16: u16 = 8192;
const HEADER_BYTES_U16: u16 = 24;
const _: () = assert!(PAGE_SIZE_U16 as usize == PAGE_SIZE);
const _: () = assert!(HEADER_BYTES_U16 as usize == COMMON_HEADER_BYTES);

/// What every page begins with, as stored; nothing in it is checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageHeader {
    /// End of the WAL record that last changed the page.
    pub lsn: Lsn,
    /// `pd_checksum`; of a page in the server's compressed form, that of the page before.
    pub checksum: u16,
    /// `pd_flags`.
    pub flags: u16,
    /// Start of the free space.
    pub lower: u16,
    /// End of the free space; 0 in a page never used.
    pub upper: u16,
    /// Start of the special space.
    pub special: u16,
    /// Bytes of the page as it says itself.
    pub page_size: u16,
    /// Number of the layout, see [`super::PageLayout`].
    pub layout_version: u8,
    /// Oldest transaction that leaves something to prune.
    pub prune_xid: u32,
}

impl PageHeader {
    /// Reads the header of `page`.
    ///
    /// # Panics
    ///
    /// Where `page` is shorter than a header.
    #[must_use]
    pub fn parse(page: &[u8]) -> PageHeader {
        let (header, _) = page
            .split_first_chunk::<COMMON_HEADER_BYTES>()
            .expect("a page is longer than its header");
        let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let u32_at = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let [layout_version, _] = u16_at(18).to_le_bytes();
        PageHeader {
            lsn: Lsn::from_halves(u32_at(0), u32_at(4)),
            checksum: u16_at(8),
            flags: u16_at(10),
            lower: u16_at(12),
            upper: u16_at(14),
            special: u16_at(16),
            page_size: u16_at(18) & 0xFF00,
            layout_version,
            prune_xid: u32_at(20),
        }
    }

    /// The header without gs_probackup's mark of compressed pages.
    #[must_use]
    pub(super) fn unmarked(self) -> PageHeader {
        PageHeader {
            lower: self.lower & !COMPRESSED_MARK,
            ..self
        }
    }

    /// Whether the only flag is the one that comes with a checksum.
    #[must_use]
    pub(super) fn has_only_checksum_flag(self) -> bool {
        self.flags == CHECKSUM_FLAG
    }

    /// Whether the fields fit each other; layout version and transactions are not looked at.
    ///
    /// # Errors
    ///
    /// The first [`HeaderDefect`], in the order in which the original reports them.
    pub fn check(&self) -> Result<(), HeaderDefect> {
        let PageHeader {
            lower,
            upper,
            special,
            flags,
            page_size,
            ..
        } = *self;
        if lower < HEADER_BYTES_U16 {
            Err(HeaderDefect::LowerInHeader { lower })
        } else if lower > upper {
            Err(HeaderDefect::LowerAboveUpper { lower, upper })
        } else if upper > special {
            Err(HeaderDefect::UpperAboveSpecial { upper, special })
        } else if special > PAGE_SIZE_U16 {
            Err(HeaderDefect::SpecialBehindPage { special })
        } else if !special.is_multiple_of(SPECIAL_ALIGNMENT) {
            Err(HeaderDefect::SpecialMisaligned { special })
        } else if flags & !VALID_FLAGS != 0 {
            Err(HeaderDefect::UnknownFlags { flags })
        } else if page_size != PAGE_SIZE_U16 {
            Err(HeaderDefect::PageSize { page_size })
        } else {
            Ok(())
        }
    }
}

/// Why a page header cannot be right, in the words of the original.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeaderDefect {
    /// The free space begins inside the header.
    #[error(
        "page header invalid, pd_lower {lower} is less than page header size {HEADER_BYTES_U16}"
    )]
    LowerInHeader {
        /// `pd_lower`.
        lower: u16,
    },
    /// The free space ends before it begins.
    #[error("page header invalid, pd_lower {lower} is greater than pd_upper {upper}")]
    LowerAboveUpper {
        /// `pd_lower`.
        lower: u16,
        /// `pd_upper`.
        upper: u16,
    },
    /// The free space reaches into the special space.
    #[error("page header invalid, pd_upper {upper} is greater than pd_special {special}")]
    UpperAboveSpecial {
        /// `pd_upper`.
        upper: u16,
        /// `pd_special`.
        special: u16,
    },
    /// The special space begins behind the page.
    #[error("page header invalid, pd_special {special} is greater than block size {PAGE_SIZE}")]
    SpecialBehindPage {
        /// `pd_special`.
        special: u16,
    },
    /// The special space begins where nothing can.
    #[error(
        "page header invalid, pd_special {special} is misaligned, expected {}",
        special.next_multiple_of(SPECIAL_ALIGNMENT)
    )]
    SpecialMisaligned {
        /// `pd_special`, at most a page.
        special: u16,
    },
    /// Flags without a meaning are set.
    #[error("page header invalid, pd_flags mask contain illegal bits ({flags:#06X})")]
    UnknownFlags {
        /// `pd_flags`.
        flags: u16,
    },
    /// The page says that it has another size.
    #[error("page header invalid, page size {page_size} is not {PAGE_SIZE}")]
    PageSize {
        /// What the page says.
        page_size: u16,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sane() -> PageHeader {
        PageHeader {
            lsn: Lsn(1),
            checksum: 2,
            flags: 0x40,
            lower: 28,
            upper: 8000,
            special: 8192,
            page_size: 8192,
            layout_version: 5,
            prune_xid: 0,
        }
    }

    #[test]
    fn header_fields_are_where_the_server_puts_them() {
        // First bytes of a btree leaf of the server.
        let mut page = [0; PAGE_SIZE];
        page[..24].copy_from_slice(&[
            0, 0, 0, 0, 0x58, 0x65, 0, 0x0e, 0xb8, 0x05, 0x40, 0, 0xd0, 0x05, 0x08, 0x09, 0xe8,
            0x1f, 0x05, 0x20, 0x01, 0, 0, 0,
        ]);
        assert_eq!(
            PageHeader::parse(&page),
            PageHeader {
                lsn: Lsn(0x0E00_6558),
                checksum: 0x05B8,
                flags: 0x40,
                lower: 1488,
                upper: 2312,
                special: 8168,
                page_size: 8192,
                layout_version: 5,
                prune_xid: 1,
            }
        );
        page[0] = 3;
        assert_eq!(PageHeader::parse(&page).lsn, Lsn(0x3_0E00_6558));
    }

    #[test]
    fn each_impossible_header_has_its_defect_and_words() {
        let cases = [
            (
                PageHeader {
                    lower: 23,
                    ..sane()
                },
                "page header invalid, pd_lower 23 is less than page header size 24",
            ),
            (
                PageHeader {
                    lower: 8001,
                    ..sane()
                },
                "page header invalid, pd_lower 8001 is greater than pd_upper 8000",
            ),
            (
                PageHeader {
                    lower: 0x801C,
                    ..sane()
                },
                "page header invalid, pd_lower 32796 is greater than pd_upper 8000",
            ),
            (
                PageHeader {
                    special: 7992,
                    ..sane()
                },
                "page header invalid, pd_upper 8000 is greater than pd_special 7992",
            ),
            (
                PageHeader {
                    special: 8200,
                    ..sane()
                },
                "page header invalid, pd_special 8200 is greater than block size 8192",
            ),
            (
                PageHeader {
                    special: 8001,
                    ..sane()
                },
                "page header invalid, pd_special 8001 is misaligned, expected 8008",
            ),
            (
                PageHeader {
                    flags: 0x240,
                    ..sane()
                },
                "page header invalid, pd_flags mask contain illegal bits (0x0240)",
            ),
            (
                PageHeader {
                    page_size: 16384,
                    ..sane()
                },
                "page header invalid, page size 16384 is not 8192",
            ),
        ];
        assert_eq!(sane().check(), Ok(()));
        for (header, words) in cases {
            assert_eq!(header.check().unwrap_err().to_string(), words);
        }
    }

    #[test]
    fn limits_of_a_sane_header_are_sane() {
        for header in [
            PageHeader {
                lower: 24,
                upper: 24,
                special: 24,
                ..sane()
            },
            PageHeader {
                lower: 8192,
                upper: 8192,
                special: 8192,
                ..sane()
            },
            PageHeader {
                flags: 0x01FF,
                ..sane()
            },
            PageHeader {
                layout_version: 0xFF,
                ..sane()
            },
            PageHeader {
                lower: 0x801C,
                ..sane()
            }
            .unmarked(),
        ] {
            assert_eq!(header.check(), Ok(()), "{header:?}");
        }
    }
}
