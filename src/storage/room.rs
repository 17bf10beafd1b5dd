//! Room in trees that give it out in units: what is there, and what files and directories need.
//!
//! A volume group of DSS is such a tree. A file takes whole units for its bytes, and blocks that
//! say which units these are; each name takes a node. Blocks and nodes are in units as well, which
//! are taken when none is left.
//!
//! What waits to be used again gives its nodes and blocks back with its last unit. When that
//! happens depends on the order of all changes; it is taken to be in time, so that nothing is
//! refused that fits. Where nothing waits the numbers are exact.

/// Entries of a block that says which units a file has.
const ENTRIES: u64 = crate::format::dss::FS_BLOCK_ENTRIES as u64;

/// What a tree can give.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnitRoom {
    /// The group, without a plus.
    pub group: String,
    /// Bytes of a unit.
    pub unit_bytes: u64,
    /// Units that were never handed out, and such as wait to be used again.
    pub units: u64,
    /// Nodes that are free or will be.
    pub nodes: u64,
    /// Nodes that fit into a unit.
    pub nodes_per_unit: u64,
    /// Blocks that are free or will be.
    pub blocks: u64,
    /// Blocks that fit into a unit.
    pub blocks_per_unit: u64,
}

impl UnitRoom {
    /// Units of so many bytes.
    #[must_use]
    pub fn units_of(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.unit_bytes)
    }

    /// A file or link that has so many bytes allocated goes.
    pub fn release_file(&mut self, allocated_bytes: u64) {
        let units = self.units_of(allocated_bytes);
        self.units += units;
        self.nodes += 1;
        self.blocks += blocks_of(units);
    }

    /// A directory goes.
    pub fn release_directory(&mut self) {
        self.nodes += 1;
    }

    /// Units that are needed, nodes and blocks included.
    #[must_use]
    pub fn required(&self, need: &UnitNeed) -> u64 {
        let nodes = need.nodes.saturating_sub(self.nodes);
        let blocks = need.blocks.saturating_sub(self.blocks);
        need.units + nodes.div_ceil(self.nodes_per_unit) + blocks.div_ceil(self.blocks_per_unit)
    }
}

/// What is going to be made in a tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UnitNeed {
    /// Units for bytes.
    pub units: u64,
    /// Nodes.
    pub nodes: u64,
    /// Blocks.
    pub blocks: u64,
}

impl UnitNeed {
    /// A directory.
    pub fn add_directory(&mut self) {
        self.nodes += 1;
    }

    /// A link, or a file of so many units.
    pub fn add_file(&mut self, units: u64) {
        self.nodes += 1;
        self.units += units;
        self.blocks += blocks_of(units);
    }

    /// A file of so many units gets more of them.
    pub fn grow_file(&mut self, from: u64, to: u64) {
        self.units += to.saturating_sub(from);
        self.blocks += blocks_of(to).saturating_sub(blocks_of(from));
    }
}

/// The blocks of a file: one, and one for each so many units, the first one always.
fn blocks_of(units: u64) -> u64 {
    1 + units.div_ceil(ENTRIES).max(1)
}

/// Units that a file can have.
pub const UNITS_OF_FILE_MAX: u64 = ENTRIES * ENTRIES;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_nodes_and_blocks_are_needed_only_where_none_are_left() {
        let mut room = UnitRoom {
            group: "data".to_owned(),
            unit_bytes: 2 << 20,
            units: 10,
            nodes: 3,
            nodes_per_unit: 4096,
            blocks: 0,
            blocks_per_unit: 128,
        };
        let mut need = UnitNeed::default();
        assert_eq!(room.required(&need), 0);
        for _ in 0..3 {
            need.add_directory();
        }
        assert_eq!(room.required(&need), 0);
        need.add_file(0);
        // One of nodes, one of blocks.
        assert_eq!(room.required(&need), 2);
        for _ in 0..63 {
            need.add_file(1);
        }
        assert_eq!(room.required(&need), 65);
        need.grow_file(1, 2041);
        assert_eq!(room.required(&need), 65 + 2040);
        need.grow_file(2041, 2042);
        assert_eq!(room.required(&need), 65 + 2042);
        room.release_file(3 << 20);
        room.release_directory();
        assert_eq!((room.units, room.nodes, room.blocks), (12, 5, 2));
        assert_eq!(room.required(&need), 64 + 2042);
    }
}
