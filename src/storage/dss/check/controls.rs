//! Controls, headers, sizes.

use super::super::control::{read_area, slot};
use super::super::device::Device;
use super::super::{DssError, VolumeGroup};
use super::owners::{Owner, Owners};
use super::{CheckReport, Severity};
use crate::format::dss::{BlockId, Structure, VolumeHeader, VolumeState, head_bytes};

/// Bytes of the redo ring of a group with units that are not larger.
const REDO_BYTES: u64 = 64 << 20;

pub(super) fn check(
    group: &mut VolumeGroup,
    owners: &mut Owners,
    report: &mut CheckReport,
) -> Result<(), DssError> {
    check_copies(group, report)?;
    check_headers(group, report)?;
    check_slots(group, report);
    let au_bytes = group.state.core.au_bytes;
    for volume in group.devices.by_id.keys() {
        for unit in 0..head_bytes(au_bytes) / au_bytes {
            owners.own(BlockId::new(*volume, unit, 0), Owner::Head, report);
        }
    }
    let redo = &group.state.redo;
    let expected = REDO_BYTES.max(au_bytes);
    let mut bytes = 0_u64;
    for (start, length) in &redo.segments {
        bytes = bytes.saturating_add(*length);
        for unit in 0..length / au_bytes {
            let id = BlockId::new(start.volume(), start.au() + unit, 0);
            owners.own(id, Owner::Redo, report);
        }
    }
    if bytes != expected {
        report.damage(
            "redo control",
            format!("its ring has {bytes} bytes, not {expected}"),
        );
    }
    if let Some(lsn) = group.state.pending {
        let problem = format!(
            "the batch with lsn {lsn} is only begun; all else is checked as if it were applied"
        );
        report.push(Severity::Note, "redo ring", problem);
    }
    check_taken(group, report);
    Ok(())
}

/// Both copies of every control have right checksums, and the second is no newer.
fn check_copies(group: &mut VolumeGroup, report: &mut CheckReport) -> Result<(), DssError> {
    let entry = group.devices.by_id[&0].clone();
    let first = read_area(&mut group.reader, &entry, false)?;
    let second = read_area(&mut group.reader, &entry, true)?;
    for structure in Structure::CONTROLS {
        let name = structure.name();
        let (first, second) = (slot(&first, structure), slot(&second, structure));
        let mut is_good = true;
        for (copy, bytes) in [("first", first), ("second", second)] {
            if let Err(error) = structure.verify(bytes) {
                report.damage(&format!("{copy} copy of the {name}"), error.to_string());
                is_good = false;
            }
        }
        if is_good && first != second {
            let place = format!("second copy of the {name}");
            let number =
                |bytes: &[u8]| u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes"));
            if structure == Structure::VolumeHeader {
                report.warning(&place, "differs from the first");
            } else if number(first) == number(second).wrapping_add(1) {
                report.warning(&place, "is one write older than the first");
            } else {
                report.damage(&place, "differs from the first, and not by one write");
            }
        }
    }
    Ok(())
}

/// The headers are those of their volumes.
fn check_headers(group: &mut VolumeGroup, report: &mut CheckReport) -> Result<(), DssError> {
    let devices: Vec<(u16, Device)> = group
        .devices
        .by_id
        .iter()
        .map(|(id, device)| (*id, device.clone()))
        .collect();
    for (volume, device) in devices {
        let place = format!("header of volume {volume}");
        let bytes = Structure::VolumeHeader.bytes();
        let slot = group.reader.read(&device, 0, bytes)?;
        let header = match VolumeHeader::parse(&slot) {
            Ok(header) => header,
            Err(error) => {
                report.damage(&place, error.to_string());
                continue;
            }
        };
        if header.is_entry != (volume == 0) {
            report.damage(&place, "is of the wrong type");
        }
        if header.volume != volume {
            report.damage(&place, format!("is of volume {}", header.volume));
        }
        let known = &group.state.volumes.slots[usize::from(volume)].device;
        if header.device != *known {
            let (here, there) = (header.device.escape_debug(), known.escape_debug());
            let problem = format!("names device \"{here}\", the volume control \"{there}\"");
            report.warning(&place, problem);
        }
    }
    Ok(())
}

/// Volume control and core control agree on the volumes.
fn check_slots(group: &VolumeGroup, report: &mut CheckReport) {
    let (core, au_bytes) = (&group.state.core, group.state.core.au_bytes);
    let mut count = 0;
    for (volume, slot) in (0_u16..).zip(&group.state.volumes.slots) {
        if slot.state == VolumeState::Free {
            continue;
        }
        count += 1;
        let place = format!("volume {volume}");
        let attributes = core.volumes[usize::from(volume)];
        match slot.state {
            VolumeState::Occupied => {}
            VolumeState::Prepare => {
                report.push(
                    Severity::Note,
                    &place,
                    "was added and is not registered yet",
                );
            }
            state => {
                let name = state.name();
                let problem = format!("its state is {name}: an operation was interrupted");
                report.damage(&place, problem);
            }
        }
        if slot.id != volume || attributes.id != volume {
            let (slot, attributes) = (slot.id, attributes.id);
            report.damage(
                &place,
                format!("is listed as volume {slot} and {attributes}"),
            );
        }
        let (size, used) = (attributes.size_bytes, attributes.used_bytes);
        if used.checked_add(attributes.free_bytes) != Some(size) {
            let free = attributes.free_bytes;
            let problem = format!("{used} bytes in use and {free} free are not {size} in all");
            report.damage(&place, problem);
        }
        if !used.is_multiple_of(au_bytes) {
            report.damage(&place, format!("{used} bytes in use are no whole units"));
        }
        match group.devices.by_id.get(&volume) {
            Some(device) if device.bytes < size => {
                let bytes = device.bytes;
                report.damage(&place, format!("has {size} bytes, its device {bytes}"));
            }
            Some(_) => {}
            None => report.push(Severity::Note, &place, "is not at hand, and holds no data"),
        }
    }
    if count != core.volume_count {
        let problem = format!("counts {} volumes, there are {count}", core.volume_count);
        report.damage("core control", problem);
    }
}

/// The units ever taken are those that are handed out.
fn check_taken(group: &VolumeGroup, report: &mut CheckReport) {
    let core = &group.state.core;
    let head = head_bytes(core.au_bytes) / core.au_bytes;
    let units: u64 = group
        .devices
        .by_id
        .keys()
        .map(|volume| core.volumes[usize::from(*volume)].used_bytes / core.au_bytes)
        .map(|units| units.saturating_sub(head))
        .sum();
    let redo: u64 = group
        .state
        .redo
        .segments
        .iter()
        .map(|(_, bytes)| bytes)
        .sum();
    let expected = units.saturating_sub(redo / core.au_bytes);
    if core.taken_aus != expected {
        let taken = core.taken_aus;
        let problem = format!("counts {taken} units taken, there are {expected}");
        report.damage("core control", problem);
    }
    let recycle = core.recycle;
    let is_there = group.state.table.nodes.get(&recycle).is_some_and(|node| {
        &*node.name == ".recycle" && node.is_directory() && node.parent == group.root().id
    });
    if !is_there {
        let problem = format!("names node {recycle} as .recycle, which is none");
        report.damage("core control", problem);
    }
}
