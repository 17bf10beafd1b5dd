//! Keeping everybody else away from volumes that are written to.

use super::DssError;
use crate::io::File;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// The error that a device is not to be written to.
pub(super) fn in_use(device: &Path, problem: impl Into<String>) -> DssError {
    DssError::OtherVolume {
        device: device.to_owned(),
        problem: problem.into(),
    }
}

/// Keeps a server from starting, and finds one that runs.
pub(super) fn lock_server(home: Option<&Path>) -> Result<Option<OwnedFd>, DssError> {
    let Some(home) = home else {
        return Ok(None);
    };
    if UnixStream::connect(home.join(".dss_unix_d_socket")).is_ok() {
        return Err(DssError::ServerRuns { home: home.into() });
    }
    let path = home.join("dss.lck");
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let lock = match rustix::fs::open(&path, flags, Mode::empty()) {
        Ok(lock) => lock,
        // No server ever ran.
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(source) => {
            return Err(DssError::Open {
                device: path,
                source: source.into(),
            });
        }
    };
    rustix::fs::fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| DssError::ServerRuns { home: home.into() })?;
    Ok(Some(lock))
}

/// Opens the device for this process alone, to read and write.
pub(super) fn open_exclusive(path: &Path) -> Result<File, DssError> {
    let error = |source: rustix::io::Errno| DssError::Open {
        device: path.to_owned(),
        source: source.into(),
    };
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut fd = rustix::fs::open(path, flags, Mode::empty()).map_err(error)?;
    let stat = rustix::fs::fstat(&fd).map_err(error)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        // Of a device that is mounted or part of another one the kernel refuses this.
        FileType::BlockDevice => {
            fd = rustix::fs::open(path, flags | OFlags::EXCL, Mode::empty()).map_err(error)?;
        }
        _ => return Err(in_use(path, "is neither a block device nor an image file")),
    }
    // Not the other kind of lock, which goes when the file is closed after reading it.
    rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| in_use(path, "is in use by another process"))?;
    // On some file systems the flag makes requests of a ring fail instead of waiting.
    rustix::fs::fcntl_setfl(&fd, OFlags::empty()).map_err(error)?;
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::DIRECT;
    let direct = rustix::fs::open(path, flags, Mode::empty()).ok();
    Ok(File::from_fds(path.to_owned(), fd, direct))
}
