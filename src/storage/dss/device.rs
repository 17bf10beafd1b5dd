//! One opened device or image file, to read only.

use super::DssError;
use crate::format::dss::DssFormatError;
use crate::io::File;
use rustix::fs::{FileType, Mode, OFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

/// A volume.
#[derive(Clone, Debug)]
pub(super) struct Device {
    /// What requests are made on.
    pub(super) file: Arc<File>,
    /// Bytes that it has.
    pub(super) bytes: u64,
}

impl Device {
    /// Opens a block device or a regular file.
    pub(super) fn open(path: &Path) -> Result<Device, DssError> {
        let error = |source: io::Error| DssError::Open {
            device: path.to_owned(),
            source,
        };
        let buffered = open(path, OFlags::empty()).map_err(error)?;
        // Where the page cache cannot be gone around, what is read may be old only if another host
        // writes, and then there is a device that can.
        let direct = open(path, OFlags::DIRECT).ok();
        let file = File::from_fds(path.to_owned(), buffered, direct);
        let bytes = file.end().map_err(DssError::Io)?;
        Ok(Device {
            file: Arc::new(file),
            bytes,
        })
    }

    /// The error of a structure on it.
    pub(super) fn structure(&self, offset: u64, source: DssFormatError) -> DssError {
        DssError::Structure {
            device: self.file.path().to_owned(),
            offset,
            source,
        }
    }

    /// The error that it is another volume than it should be.
    pub(super) fn other(&self, problem: String) -> DssError {
        DssError::OtherVolume {
            device: self.file.path().to_owned(),
            problem,
        }
    }
}

fn open(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    // Opening a pipe would wait for its other end.
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile | FileType::BlockDevice => {}
        _ => {
            let problem = "it is neither a block device nor an image file";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
    }
    // On some file systems the flag makes requests of a ring fail instead of waiting.
    rustix::fs::fcntl_setfl(&file, flags & OFlags::DIRECT)?;
    Ok(file)
}
