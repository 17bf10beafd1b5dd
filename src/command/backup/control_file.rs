//! The control file of a running server: it is rewritten at any moment, and a reader may meet half
//! of a write.
//!
//! The file's CRC tells. One that stays wrong is damage, not a torn read.

use super::super::Error;
use crate::command::cluster_control::{CONTROL_FILE_BYTES_MAX, ControlForm};
use crate::format::catalog::StorageType;
use crate::format::pg_control::{ControlFile, ControlFileError};
use crate::limits::{CONTROL_FILE_PAUSE_MS, CONTROL_FILE_READS_MAX};
use crate::storage::{Storage, StorageError};
use std::path::Path;
use std::time::Duration;

/// Reads `global/pg_control` of a data directory until it is whole: its bytes and what they say.
///
/// # Errors
/// [`Error::NoControlFile`] where there is none, [`Error::BadControlFile`] where it is not whole
/// after [`CONTROL_FILE_READS_MAX`] reads or cannot be understood.
pub fn read_control_consistently(data: &dyn Storage) -> Result<(Vec<u8>, ControlFile), Error> {
    read_cluster_control(ControlForm::of_cluster(StorageType::File, []), data)
}

/// Reads the control file of a cluster's main tree until it is whole.
///
/// # Errors
/// As [`read_control_consistently`].
pub(super) fn read_cluster_control(
    form: ControlForm,
    data: &dyn Storage,
) -> Result<(Vec<u8>, ControlFile), Error> {
    let path = Path::new(form.path());
    let parse = |bytes: &[u8]| form.parse(bytes).map(|control| control.file);
    let full = data.display_path(path);
    let pause = Duration::from_millis(CONTROL_FILE_PAUSE_MS);
    match until_whole(pause, parse, || data.read(path, CONTROL_FILE_BYTES_MAX)) {
        Ok((bytes, Ok(control))) => Ok((bytes, control)),
        Ok((_, Err(source))) => Err(Error::BadControlFile { path: full, source }),
        Err(error) if error.is_not_found() => Err(Error::NoControlFile { path: full }),
        Err(error) => Err(error.into()),
    }
}

type Read = (Vec<u8>, Result<ControlFile, ControlFileError>);

/// Reads again while the bytes are those of a write under way: too few, or with a wrong CRC.
fn until_whole(
    pause: Duration,
    parse: impl Fn(&[u8]) -> Result<ControlFile, ControlFileError>,
    mut read: impl FnMut() -> Result<Vec<u8>, StorageError>,
) -> Result<Read, StorageError> {
    let mut reads = 1;
    loop {
        let bytes = read()?;
        let parsed = parse(&bytes);
        let is_torn = matches!(
            parsed,
            Err(ControlFileError::Crc { .. } | ControlFileError::Length { .. })
        );
        if !is_torn || reads >= CONTROL_FILE_READS_MAX {
            return Ok((bytes, parsed));
        }
        tracing::debug!("pg_control was read while it was written, try again");
        reads += 1;
        std::thread::sleep(pause);
    }
}

#[cfg(test)]
mod tests {
    use super::super::offline::CONTROL_FILE;
    use super::*;
    use crate::sample::{self, SampleOptions};
    use crate::storage::Posix;

    fn sample() -> (tempfile::TempDir, Posix) {
        let scratch = tempfile::tempdir().unwrap();
        let options = SampleOptions {
            seed: 1,
            bytes: 1 << 20,
        };
        let sample = sample::create(scratch.path(), &options).unwrap();
        let data = Posix::open(&sample.data_directory).unwrap();
        (scratch, data)
    }

    /// What a run of reads comes to where the first `torn` are of a write under way.
    fn reads(bytes: &[u8], torn: u32) -> (u32, bool) {
        let mut count = 0;
        let read = until_whole(Duration::ZERO, ControlFile::parse, || {
            count += 1;
            Ok(match count {
                1 if torn > 0 => bytes[..bytes.len() / 2].to_vec(),
                _ if count <= torn => {
                    let mut half = bytes.to_vec();
                    half[40] ^= 1;
                    half
                }
                _ => bytes.to_vec(),
            })
        });
        let (found, control) = read.unwrap();
        (count, control.is_ok() && found == bytes)
    }

    #[test]
    fn a_torn_control_file_is_read_again_until_it_is_whole() {
        let (_scratch, data) = sample();
        let (bytes, control) = read_control_consistently(&data).unwrap();
        assert_eq!(ControlFile::parse(&bytes), Ok(control));
        for torn in [0, 1, 3, CONTROL_FILE_READS_MAX - 1] {
            assert_eq!(reads(&bytes, torn), (torn + 1, true));
        }
    }

    #[test]
    fn a_control_file_that_stays_torn_is_damaged() {
        let (_scratch, data) = sample();
        let (bytes, _) = read_control_consistently(&data).unwrap();
        assert_eq!(reads(&bytes, u32::MAX), (CONTROL_FILE_READS_MAX, false));
        let mut wrong = bytes;
        wrong[40] ^= 1;
        data.write_durably(Path::new(CONTROL_FILE), 0o600, &wrong)
            .unwrap();
        let failed = read_control_consistently(&data);
        assert!(matches!(failed, Err(Error::BadControlFile { .. })));
    }

    #[test]
    fn a_control_file_of_another_server_is_not_read_again() {
        let (_scratch, data) = sample();
        let (mut bytes, _) = read_control_consistently(&data).unwrap();
        bytes[8] ^= 1;
        assert_eq!(reads(&bytes, 0), (1, false));
    }

    #[test]
    fn a_missing_control_file_is_said_so() {
        let (_scratch, data) = sample();
        data.remove_file(Path::new(CONTROL_FILE)).unwrap();
        let failed = read_control_consistently(&data);
        assert!(matches!(failed, Err(Error::NoControlFile { .. })));
    }
}
