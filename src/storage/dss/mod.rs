//! Files on raw volumes of DSS, read without a server: volume groups on devices or image files.
//!
//! Reading never writes to a volume, and no server has to run. One may: metadata are read again
//! until they fit together, within limits, and the map of a file is looked at again before what was
//! read by it is handed on, because an allocation unit may have gone to another file meanwhile.
//! Only [`create()`] writes, to a device that is no volume yet, and [`GroupWriter`], to a group
//! that no server uses.
//!
//! How a group is read:
//!
//! 1. The controls, first copies or, where their checksums are wrong, second ones.
//! 2. The redo batch that may be half applied: its effects are made in memory (`overlay`).
//! 3. The file table, all of it, one pass (`table`). Nodes in use are kept, nothing else.
//! 4. The controls again. If they changed, a server was at work: from the beginning.
//! 5. The maps of files only when they are asked for, a second-level block at a time (`map`).
//!
//! So memory is what nodes in use take, whatever the size of the devices. Reads go past the page
//! cache where the device can: another host may have written to it.

mod check;
mod conf;
mod content;
mod control;
mod create;
mod device;
mod error;
mod file_map;
mod group;
mod groups;
mod lock;
mod map;
mod overlay;
mod reader;
mod table;
#[cfg(test)]
mod tests;
mod tree;
mod unused;
mod wipe;
mod write;

pub use check::{CheckReport, Finding, Severity, check};
pub use conf::GroupSpec;
pub use create::{CreateOptions, create};
pub use error::DssError;
pub use group::{GroupSummary, VolumeGroup};
pub use groups::{Found, VolumeGroups};
pub use map::DeviceRange;
pub use tree::DssTree;
pub use unused::check_unused;
pub use wipe::{DeviceContent, DeviceSurvey, GroupSurvey, survey, wipe};
pub use write::{DssWriteTree, GroupWriter, WriteOptions, add_volumes, is_link_target};
