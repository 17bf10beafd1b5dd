//! The controls of a group as they are on its entry volume, and the batch that may be pending.

use super::DssError;
use super::device::Device;
use super::overlay::Devices;
use super::reader::Reader;
use crate::format::dss::{COPY_OFFSET, Controls, RedoBatch, RedoControl, Structure, batch_bytes};

/// Bytes from the start of a volume to the end of its last control.
const CONTROL_BYTES: usize = 287_744;

const _: () = assert!(
    Structure::RedoControl.offset() + Structure::RedoControl.bytes() as u64 == CONTROL_BYTES as u64
);

/// The copies that count.
#[derive(Debug)]
pub(super) struct RawControls {
    pub(super) controls: Controls,
    pub(super) redo: Vec<u8>,
}

/// What changes with every transaction of a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    core: Vec<u8>,
    root: Vec<u8>,
    redo: Vec<u8>,
    pending: Option<u64>,
}

/// The first MiB of a volume, or its copy, as far as controls go.
pub(super) fn read_area(
    reader: &mut Reader,
    entry: &Device,
    copy: bool,
) -> Result<Vec<u8>, DssError> {
    let offset = if copy { COPY_OFFSET } else { 0 };
    reader.read(entry, offset, CONTROL_BYTES)
}

/// A structure out of an area.
pub(super) fn slot(area: &[u8], structure: Structure) -> &[u8] {
    let at = usize::try_from(structure.offset()).expect("within an area");
    &area[at..at + structure.bytes()]
}

/// Reads the controls. A first copy whose checksum is wrong gives way to the second, as when the
/// server starts.
pub(super) fn read_controls(reader: &mut Reader, entry: &Device) -> Result<RawControls, DssError> {
    let first = read_area(reader, entry, false)?;
    let mut second = None;
    let mut choose = |structure: Structure| -> Result<Vec<u8>, DssError> {
        let good = slot(&first, structure);
        let Err(error) = structure.verify(good) else {
            return Ok(good.to_vec());
        };
        if second.is_none() {
            second = Some(read_area(reader, entry, true)?);
        }
        let copy = slot(second.as_deref().expect("just read"), structure);
        structure
            .verify(copy)
            .map_err(|_| entry.structure(structure.offset(), error))?;
        Ok(copy.to_vec())
    };
    Ok(RawControls {
        controls: Controls {
            core: choose(Structure::CoreControl)?,
            volumes: choose(Structure::VolumeControl)?,
            root: choose(Structure::RootBlock)?,
        },
        redo: choose(Structure::RedoControl)?,
    })
}

impl RawControls {
    /// To see whether they are still the same.
    pub(super) fn stamp(&self, pending: Option<u64>) -> Stamp {
        Stamp {
            core: self.controls.core[..16].to_vec(),
            root: self.controls.root[..16].to_vec(),
            redo: self.redo.clone(),
            pending,
        }
    }
}

/// The batch after the last one that was applied, if it is whole.
pub(super) fn read_batch(
    reader: &mut Reader,
    devices: &Devices,
    redo: &RedoControl,
    au_bytes: u64,
) -> Result<Option<RedoBatch>, DssError> {
    let sector = read_ring(reader, devices, redo, au_bytes, 512)?;
    let Some(length) = batch_bytes(&sector) else {
        return Ok(None);
    };
    let bytes = read_ring(reader, devices, redo, au_bytes, length)?;
    RedoBatch::parse(&bytes, redo.lsn).map_err(|source| {
        let start = redo.segments[redo.segment].0;
        let offset = start
            .au()
            .saturating_mul(au_bytes)
            .saturating_add(redo.offset);
        match devices.by_id.get(&start.volume()) {
            Some(device) => device.structure(offset, source),
            None => devices.damaged(source.to_string()),
        }
    })
}

fn read_ring(
    reader: &mut Reader,
    devices: &Devices,
    redo: &RedoControl,
    au_bytes: u64,
    length: usize,
) -> Result<Vec<u8>, DssError> {
    let mut bytes = Vec::with_capacity(length);
    for piece in redo.pieces(length) {
        let device = devices.device(piece.start)?;
        let offset = piece
            .start
            .au_position(au_bytes)
            .and_then(|start| start.checked_add(piece.offset))
            .filter(|offset| offset.saturating_add(piece.length) <= device.bytes)
            .ok_or_else(|| devices.damaged("its redo ring ends behind its volume".to_owned()))?;
        let length = usize::try_from(piece.length).expect("no more than a batch");
        bytes.extend(reader.read(&device.clone(), offset, length)?);
    }
    Ok(bytes)
}
