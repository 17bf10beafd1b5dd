//! `pg_control` of a cluster on shared storage: a control file page for each instance and the
//! record of the reformer.
//!
//! ```text
//! page 0..63   control file pages as in `pg_control.rs`. Clusters that share their log use page 0
//!              alone; in older ones each instance has the page of its number
//! page 64      the reformer's record, which ends with a CRC-32C over all before it:
//!                0  u32  version
//!                8  u64  list_stable     a bit for each instance that is up
//!               16  i32  primaryInstId   the instance that writes
//!               20  i32  recoveryInstId  not used any more
//!               24  i32  clusterStatus
//!               28  i32  clusterRunMode
//!               32  u32  crc
//! ```
//!
//! A backup has no stable instance: a cluster that is started on it has to find out. In the content
//! list the file has neither its own CRC nor that of a page, but one over the structure of the
//! control file page and the whole reformer page. What that page says cannot change it as long as
//! the page's own CRC is right, which is therefore looked at, too.
//!
//! Sources: `src/include/catalog/pg_control.h` (`ss_reformer_ctrl_t`), and `util.cpp` of the
//! original.

use super::little_endian::{i32_at, u32_at, u64_at};
use super::pg_control::{ControlFile, ControlFileError, PG_CONTROL_SIZE, crc_offset};
use std::ops::Range;

/// Control file pages.
pub const INSTANCE_PAGES: usize = 64;

/// Bytes of the file.
pub const SHARED_CONTROL_BYTES: usize = (INSTANCE_PAGES + 1) * PG_CONTROL_SIZE;

const REFORMER: Range<usize> = INSTANCE_PAGES * PG_CONTROL_SIZE..SHARED_CONTROL_BYTES;
const LIST_STABLE: usize = 8;
const REFORMER_CRC: usize = 32;

/// The reformer's record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reformer {
    /// Version of the record; 0 where none was ever written.
    pub version: u32,
    /// A bit for each instance that is up.
    pub list_stable: u64,
    /// The instance that writes.
    pub primary: i32,
}

/// What the file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SharedControl {
    /// The control file page.
    pub control: ControlFile,
    /// The reformer's record.
    pub reformer: Reformer,
    /// The CRC that a content list has for the file.
    pub listed_crc: u32,
}

/// Reads the file, with the control file page of this number.
///
/// # Errors
/// [`ControlFileError`], also where the reformer's record has a wrong CRC.
pub fn parse_shared(bytes: &[u8], page: usize) -> Result<SharedControl, ControlFileError> {
    let control = ControlFile::parse(page_of(bytes, page)?)?;
    let record = &bytes[REFORMER];
    let stored = u32_at(record, REFORMER_CRC);
    let computed = crc32c::crc32c(&record[..REFORMER_CRC]);
    // A cluster that never had a reform has zeros there.
    let is_unused = record.iter().all(|byte| *byte == 0);
    if stored != computed && !is_unused {
        return Err(ControlFileError::Reformer { stored, computed });
    }
    Ok(SharedControl {
        control,
        reformer: reformer(record),
        listed_crc: composite(bytes, page)?,
    })
}

/// The reformer's record of a file that was read by [`parse_shared`]; `None` where it is too short.
#[must_use]
pub fn parse_reformer(bytes: &[u8]) -> Option<Reformer> {
    bytes.get(REFORMER).map(reformer)
}

fn reformer(record: &[u8]) -> Reformer {
    Reformer {
        version: u32_at(record, 0),
        list_stable: u64_at(record, LIST_STABLE),
        primary: i32_at(record, 16),
    }
}

/// Makes the file one of a cluster that no instance runs of, as a backup has it, and returns the
/// CRC that a content list has for it.
///
/// # Errors
/// As [`parse_shared`]: a new CRC must not hide damage.
pub fn forget_stable_instances(bytes: &mut [u8], page: usize) -> Result<u32, ControlFileError> {
    parse_shared(bytes, page)?;
    let record = &mut bytes[REFORMER];
    record[LIST_STABLE..LIST_STABLE + 8].fill(0);
    let crc = crc32c::crc32c(&record[..REFORMER_CRC]);
    record[REFORMER_CRC..REFORMER_CRC + 4].copy_from_slice(&crc.to_le_bytes());
    composite(bytes, page)
}

/// A control file page.
fn page_of(bytes: &[u8], page: usize) -> Result<&[u8], ControlFileError> {
    if bytes.len() != SHARED_CONTROL_BYTES || page >= INSTANCE_PAGES {
        return Err(ControlFileError::Length {
            found: bytes.len(),
            expected: SHARED_CONTROL_BYTES,
        });
    }
    Ok(&bytes[page * PG_CONTROL_SIZE..(page + 1) * PG_CONTROL_SIZE])
}

fn composite(bytes: &[u8], page: usize) -> Result<u32, ControlFileError> {
    let page = page_of(bytes, page)?;
    let crc = crc32c::crc32c(&page[..crc_offset(page)?]);
    Ok(crc32c::crc32c_append(crc, &bytes[REFORMER]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The control file of a cluster whose instances 0 and 2 are up.
    fn made(page: usize) -> Vec<u8> {
        let mut bytes = vec![0; SHARED_CONTROL_BYTES];
        let single = &mut bytes[page * PG_CONTROL_SIZE..(page + 1) * PG_CONTROL_SIZE];
        // Offsets of openGauss: version, page, segment file, WAL page and WAL segment.
        for (at, value) in [
            (8, 923_u32),
            (192, 8192),
            (196, 131_072),
            (200, 8192),
            (204, 1 << 30),
        ] {
            single[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        let crc = crc32c::crc32c(&single[..224]);
        single[224..228].copy_from_slice(&crc.to_le_bytes());
        let record = &mut bytes[REFORMER];
        record[0] = 1;
        record[LIST_STABLE] = 0b101;
        record[16] = 2;
        let crc = crc32c::crc32c(&record[..REFORMER_CRC]);
        record[REFORMER_CRC..REFORMER_CRC + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn a_backup_has_no_stable_instance_and_the_crc_covers_both_pages() {
        for page in [0, 3] {
            let mut bytes = made(page);
            let before = parse_shared(&bytes, page).unwrap();
            assert_eq!(before.reformer.list_stable, 0b101);
            let crc = forget_stable_instances(&mut bytes, page).unwrap();
            let after = parse_shared(&bytes, page).unwrap();
            assert_eq!(after.listed_crc, crc);
            // A record with its CRC behind it leaves no trace in a CRC over both, whatever it says.
            assert_eq!(before.listed_crc, crc);
            assert_eq!(after.control, before.control);
            let Reformer {
                version, primary, ..
            } = after.reformer;
            assert_eq!((version, primary, after.reformer.list_stable), (1, 2, 0));
            // 224 is where the CRC of an openGauss control file is.
            let mut covered = bytes[page * 8192..page * 8192 + 224].to_vec();
            covered.extend_from_slice(&bytes[64 * 8192..]);
            assert_eq!(crc, crc32c::crc32c(&covered));
        }
    }

    #[test]
    fn a_file_of_another_length_or_with_damage_is_refused() {
        let bytes = made(0);
        let refused = |bytes: &[u8]| parse_shared(bytes, 0).unwrap_err();
        let length = refused(&bytes[..PG_CONTROL_SIZE]);
        assert_eq!(
            length.to_string(),
            "unexpected control file size 8192, expected 532480"
        );
        for (at, reformer) in [(10, false), (64 * 8192 + 8, true)] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            let error = refused(&damaged);
            assert_eq!(
                matches!(error, ControlFileError::Reformer { .. }),
                reformer,
                "{error}"
            );
            assert!(forget_stable_instances(&mut damaged, 0).is_err());
        }
        // Another page than that of the cluster holds nothing.
        assert!(parse_shared(&bytes, 1).is_err());
        assert!(parse_shared(&bytes, INSTANCE_PAGES).is_err());
    }

    #[test]
    fn a_cluster_that_never_had_a_reform_is_taken() {
        let mut bytes = made(0);
        bytes[REFORMER].fill(0);
        assert_eq!(parse_shared(&bytes, 0).unwrap().reformer.version, 0);
        forget_stable_instances(&mut bytes, 0).unwrap();
    }
}
