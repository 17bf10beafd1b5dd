//! Which pages changed since an earlier backup, by what the pages say themselves.
//!
//! A page names the WAL record that last changed it. A backup starts with a checkpoint: what
//! records before its start did is in the files that it copies. So a page whose record ends before
//! that start is in the backup as it is now.
//!
//! That needs a position in WAL on the page. These have none and count as changed:
//!
//! * pages of zeros: growth is not in WAL, and the backup may have an older life of the block;
//! * position 0, and any before the first segment of WAL: pages that were set up but never logged,
//!   and counters that stand in for positions in relations without WAL;
//! * the page of chunk addresses in a compressed extent of segment-page storage.
//!
//! Pages in the server's compressed form, and encrypted ones, keep the position in clear. A hint
//! bit may change without WAL; then either image of the page is right. What this cannot see:
//! checksums switched on since, which rewrites pages in place, and files replaced by others of the
//! same name. The caller compares the settings of both backups, and takes files as new whose
//! relation is.

use super::PageHeader;
use super::verdict::SEGMENT_PCA_MAGIC;
use crate::limits::WAL_SEGMENT_BYTES_MIN;
use crate::types::Lsn;

/// Whether `page` may differ from what a backup has that started at `since`.
///
/// # Panics
///
/// Where `page` is shorter than a header.
#[must_use]
pub fn page_changed_since(page: &[u8], since: Lsn) -> bool {
    let lsn = PageHeader::parse(page).lsn;
    lsn >= since || lsn.0 < WAL_SEGMENT_BYTES_MIN || page.ends_with(SEGMENT_PCA_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PAGE_SIZE;

    const SINCE: Lsn = Lsn(0x3_0200_0028);

    fn page(lsn: u64) -> Vec<u8> {
        let mut page = vec![7; PAGE_SIZE];
        let high = u32::try_from(lsn >> 32).unwrap();
        let low = u32::try_from(lsn & 0xFFFF_FFFF).unwrap();
        page[..4].copy_from_slice(&high.to_le_bytes());
        page[4..8].copy_from_slice(&low.to_le_bytes());
        page
    }

    #[test]
    fn a_page_is_unchanged_only_if_its_record_ended_before_the_backup_started() {
        for (lsn, changed) in [
            (SINCE.0 - 1, false),
            (SINCE.0, true),
            (SINCE.0 + 1, true),
            (u64::MAX, true),
            (0x2_FFFF_FFFF, false),
            (WAL_SEGMENT_BYTES_MIN, false),
        ] {
            assert_eq!(page_changed_since(&page(lsn), SINCE), changed, "{lsn:x}");
        }
    }

    #[test]
    fn a_page_without_a_position_in_wal_counts_as_changed() {
        assert!(page_changed_since(&[0; PAGE_SIZE], SINCE));
        for lsn in [0, 1, WAL_SEGMENT_BYTES_MIN - 1] {
            assert!(page_changed_since(&page(lsn), SINCE), "{lsn:x}");
        }
        let mut addresses = page(0x2_0000_0000);
        assert!(!page_changed_since(&addresses, SINCE));
        addresses[PAGE_SIZE - 8..].copy_from_slice(b"seg_comp");
        assert!(page_changed_since(&addresses, SINCE));
    }
}
