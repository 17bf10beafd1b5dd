//! Making a volume group on one device.
//!
//! Refused on any doubt: where the device is a volume already, where a server runs or another
//! process has the device, where what is on it changes while it is looked at.
//!
//! 1. The redo ring becomes zeros: an old batch anywhere in it could have the lsn that will be due
//!    in the new group when it is there.
//! 2. The file table.
//! 3. The second copy of the controls, then the first one, its header left zero. Sync.
//! 4. The header. Sync.
//!
//! Until step 4 the device is no volume, as before, and the command can be repeated; a crash in
//! step 4 leaves one or the other, since a sector is written whole or not at all.

use super::device::Device;
use super::group::GroupSummary;
use super::lock::{in_use, lock_server, open_exclusive};
use super::reader::Reader;
use super::wipe::clear;
use super::{CheckReport, DssError, GroupSpec, VolumeGroup, check};
use crate::format::dss::{COPY_OFFSET, NewGroup, Structure, VolumeHeader};
use crate::io::{EngineChoice, File};
use crate::limits::DSS_QUIET_MS;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The group to make.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Its name.
    pub name: String,
    /// The device or image file; its path becomes part of the group.
    pub device: PathBuf,
    /// Bytes of an allocation unit.
    pub au_bytes: u64,
    /// Home of the server that must not run.
    pub dss_home: Option<PathBuf>,
    /// Seconds since 1970, and microseconds.
    pub time: (u64, u64),
}

/// Makes a group and reads it back.
///
/// # Errors
/// Where it is refused, or the device cannot be written or read. The device is no volume then,
/// unless reading back failed.
pub fn create(options: &CreateOptions, engine: EngineChoice) -> Result<GroupSummary, DssError> {
    let _server = lock_server(options.dss_home.as_deref())?;
    let file = open_exclusive(&options.device)?;
    let size_bytes = file.end().map_err(DssError::Io)?;
    let group = NewGroup {
        name: options.name.clone(),
        device: options.device.display().to_string(),
        au_bytes: options.au_bytes,
        size_bytes,
        time: options.time,
    };
    let writes = group.writes().map_err(|source| DssError::Structure {
        device: options.device.clone(),
        offset: 0,
        source,
    })?;
    refuse_volume(&options.device, engine)?;
    clear(&file, group.ring())?;
    write(&file, &writes)?;
    let spec = GroupSpec {
        name: options.name.clone(),
        devices: vec![options.device.clone()],
    };
    let mut group = VolumeGroup::open(&spec, engine)?;
    let report: CheckReport = check(&mut group)?;
    match report.findings.first() {
        None => Ok(group.summary()),
        Some(finding) => Err(DssError::Damaged {
            group: options.name.clone(),
            what: format!("read back, {} {}", finding.place, finding.problem),
        }),
    }
}

/// Whether the device is a volume, or somebody writes to it.
pub(super) fn refuse_volume(path: &Path, engine: EngineChoice) -> Result<(), DssError> {
    let device = Device::open(path)?;
    let mut reader = Reader::open(engine)?;
    let head = usize::try_from(2 * COPY_OFFSET).expect("2 MiB");
    let before = reader.read(&device, 0, head)?;
    let header = &before[..Structure::VolumeHeader.bytes()];
    if VolumeHeader::is_initialised(header) {
        let group = VolumeHeader::parse(header).map(|header| header.group);
        let problem = match group {
            Ok(group) => format!("is a volume of group {group} already"),
            Err(_) => "is a volume already, and a damaged one".to_owned(),
        };
        return Err(DssError::IsVolume {
            device: path.to_owned(),
            problem,
        });
    }
    std::thread::sleep(Duration::from_millis(DSS_QUIET_MS));
    if reader.read(&device, 0, head)? != before {
        return Err(in_use(path, "is being written to"));
    }
    Ok(())
}

fn write(file: &File, writes: &[(u64, Vec<u8>)]) -> Result<(), DssError> {
    let put = |bytes: &[u8], at| file.write_all_at(bytes, at).map_err(DssError::Io);
    // Each copy as one run, so that what was between the controls is gone too.
    let area_bytes = usize::try_from(COPY_OFFSET).expect("1 MiB");
    let mut area = vec![0; area_bytes];
    let mut header = Vec::new();
    for (at, bytes) in writes {
        match usize::try_from(*at) {
            Ok(at) if at < area_bytes => {
                area[at..at + bytes.len()].copy_from_slice(bytes);
                if at == 0 {
                    header.clone_from(bytes);
                }
            }
            _ if *at >= 2 * COPY_OFFSET => put(bytes, *at)?,
            // The second copy, which is the same.
            _ => {}
        }
    }
    put(&area, COPY_OFFSET)?;
    area[..header.len()].fill(0);
    put(&area, 0)?;
    file.sync().map_err(DssError::Io)?;
    put(&header, 0)?;
    file.sync().map_err(DssError::Io)
}
