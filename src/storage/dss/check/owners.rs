//! Who owns an allocation unit.

use super::super::VolumeGroup;
use super::CheckReport;
use crate::format::dss::BlockId;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// What an allocation unit is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    Head,
    Redo,
    FileTable,
    FsBlocks,
    AuxBlocks,
    Data(BlockId),
}

impl Owner {
    fn name(self) -> String {
        match self {
            Owner::Head => "the head of the volume".to_owned(),
            Owner::Redo => "the redo ring".to_owned(),
            Owner::FileTable => "the file table".to_owned(),
            Owner::FsBlocks => "FS blocks".to_owned(),
            Owner::AuxBlocks => "FS-aux blocks".to_owned(),
            Owner::Data(node) => format!("the file of node {node}"),
        }
    }
}

/// The owners that were met; takes memory for units in use only.
#[derive(Debug, Default)]
pub(super) struct Owners {
    by_unit: HashMap<BlockId, Owner>,
}

impl Owners {
    /// Notes an owner; two of one unit are a finding.
    pub(super) fn own(&mut self, unit: BlockId, owner: Owner, report: &mut CheckReport) {
        match self.by_unit.entry(unit) {
            Entry::Vacant(entry) => {
                entry.insert(owner);
            }
            Entry::Occupied(entry) => {
                let (first, second) = (entry.get().name(), owner.name());
                let problem = format!("belongs to {first} and to {second}");
                report.damage(&format!("allocation unit {unit}"), problem);
            }
        }
    }

    /// As [`Owners::own`], for units that many blocks of the same owner are in.
    pub(super) fn share(&mut self, unit: BlockId, owner: Owner, report: &mut CheckReport) {
        if self.by_unit.get(&unit) != Some(&owner) {
            self.own(unit, owner, report);
        }
    }

    /// Units of this owner.
    pub(super) fn count(&self, owner: Owner) -> u64 {
        self.by_unit
            .values()
            .filter(|found| **found == owner)
            .count() as u64
    }

    /// Finds units that nobody owns, and owned ones that were never handed out.
    pub(super) fn check_all(&self, group: &VolumeGroup, report: &mut CheckReport) {
        let core = &group.state.core;
        for volume in group.devices.by_id.keys() {
            let units = core.volumes[usize::from(*volume)].used_bytes / core.au_bytes;
            report.units += units;
            let mut owned: Vec<u64> = self
                .by_unit
                .keys()
                .filter(|unit| unit.volume() == *volume)
                .map(|unit| unit.au())
                .collect();
            owned.sort_unstable();
            let place = format!("volume {volume}");
            let beyond = owned.iter().filter(|unit| **unit >= units).count();
            if beyond > 0 {
                let problem = format!("{beyond} allocation units are used and not handed out");
                report.damage(&place, problem);
            }
            let lost = units.saturating_sub((owned.len() - beyond) as u64);
            if lost > 0 {
                let first = (0..).zip(&owned).find(|(number, unit)| number != *unit);
                let first = first.map_or(owned.len() as u64, |(number, _)| number);
                let problem =
                    format!("{lost} allocation units belong to nobody, unit {first} first");
                report.damage(&place, problem);
            }
        }
        let strange = |unit: &&BlockId| !group.devices.by_id.contains_key(&unit.volume());
        for unit in self.by_unit.keys().filter(strange) {
            let place = format!("allocation unit {unit}");
            report.damage(&place, "is on a volume that the group has not");
        }
    }
}
