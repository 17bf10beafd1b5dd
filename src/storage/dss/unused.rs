//! Devices that this process has alone: no server runs, nobody else has them or writes to them.

use super::DssError;
use super::device::Device;
use super::lock::{in_use, lock_server, open_exclusive};
use super::reader::Reader;
use crate::io::{EngineChoice, File};
use crate::limits::{DSS_QUIET_MS, DSS_WIPED_BYTES};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Devices that nobody else can take as long as this is held.
#[derive(Debug)]
pub(super) struct Unused {
    /// Opened to read and write, each with the bytes at its start that are wiped first.
    pub(super) devices: Vec<(File, Vec<u8>)>,
    _server: Option<OwnedFd>,
}

/// Takes devices for this process alone.
pub(super) fn take(
    paths: &[PathBuf],
    dss_home: Option<&Path>,
    engine: EngineChoice,
) -> Result<Unused, DssError> {
    let server = lock_server(dss_home)?;
    let files = paths.iter().map(|path| open_exclusive(path));
    let files = files.collect::<Result<Vec<_>, _>>()?;
    let mut reader = Reader::open(engine)?;
    let mut heads = || -> Result<Vec<Vec<u8>>, DssError> {
        let head = |path: &PathBuf| {
            let device = Device::open(path)?;
            let length = device.bytes.min(DSS_WIPED_BYTES);
            reader.read(&device, 0, usize::try_from(length).unwrap_or(0))
        };
        paths.iter().map(head).collect()
    };
    let before = heads()?;
    std::thread::sleep(Duration::from_millis(DSS_QUIET_MS));
    let after = heads()?;
    let mut pairs = before.iter().zip(&after).zip(paths);
    match pairs.find(|((before, after), _)| before != after) {
        None => Ok(Unused {
            devices: files.into_iter().zip(before).collect(),
            _server: server,
        }),
        Some((_, path)) => Err(in_use(path, "is being written to")),
    }
}

/// Fails where a server runs, another process has one of the devices, the kernel uses it, or what
/// is at its start changes while it is looked at. What [`super::wipe()`] asks once more.
///
/// # Errors
/// As said, and where a device cannot be opened or read.
pub fn check_unused(
    devices: &[PathBuf],
    dss_home: Option<&Path>,
    engine: EngineChoice,
) -> Result<(), DssError> {
    take(devices, dss_home, engine).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::FlockOperation;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_device_in_use_and_a_server_that_runs_are_found_and_nothing_is_changed() {
        let scratch = tempfile::tempdir().unwrap();
        let devices = ["one", "two"].map(|name| scratch.path().join(name));
        for device in &devices {
            std::fs::write(device, [0xa5; 100_000]).unwrap();
        }
        let home = scratch.path().join("home");
        std::fs::create_dir(&home).unwrap();
        let check = || check_unused(&devices, Some(&home), EngineChoice::Sync);
        check().unwrap();
        let holder = std::fs::File::open(&devices[1]).unwrap();
        rustix::fs::flock(&holder, FlockOperation::LockExclusive).unwrap();
        let error = check().unwrap_err().to_string();
        assert!(error.contains("in use by another process"), "{error}");
        drop(holder);
        let server = UnixListener::bind(home.join(".dss_unix_d_socket")).unwrap();
        let error = check().unwrap_err();
        assert!(matches!(error, DssError::ServerRuns { .. }), "{error}");
        drop(server);
        check().unwrap();
        for device in &devices {
            assert_eq!(std::fs::read(device).unwrap(), [0xa5; 100_000]);
        }
    }
}
