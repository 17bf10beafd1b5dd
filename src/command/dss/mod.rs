//! `dss`: looks at files on shared storage, without a server and without writing to a volume.
//!
//! One file an action: [`list`] (`ls` and `stat`), [`read`] (`cat` and `cp`), [`check`]. [`create`]
//! (`cv`, `adv`) makes a volume of a device that is none, [`wipe`] the reverse.

pub mod check;
pub mod create;
pub mod list;
pub mod read;
pub mod wipe;

use super::Error;
use crate::io::EngineChoice;
use crate::storage::dss::{DssError, GroupSpec, VolumeGroups};

/// The volumes to look at, and how.
#[derive(Clone, Debug)]
pub struct Volumes {
    /// The groups.
    pub groups: Vec<GroupSpec>,
    /// How devices are read.
    pub engine: EngineChoice,
}

impl Volumes {
    fn open(&self) -> Result<VolumeGroups, Error> {
        VolumeGroups::open(&self.groups, self.engine).map_err(error)
    }
}

fn error(error: DssError) -> Error {
    Error::Dss(Box::new(error))
}
