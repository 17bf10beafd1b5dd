//! Changing a volume group that no server uses: directories, links, files and their bytes.
//!
//! A change is made as the server makes it, with one redo batch:
//!
//! 1. Each operation turns into redo entries. An entry is applied to the blocks in memory by the
//!    code that replays batches after a crash, so that a change and its replay cannot differ; the
//!    devices stay as they are. Entries of many operations are gathered in one batch.
//! 2. Commit: what files hold that the batch makes visible is synced; the batch is written to the
//!    ring and synced; blocks and the first copies of controls are written in place and synced; the
//!    second copies and the redo control are written. These need not be durable: the next batch
//!    comes with a sync, and until then replaying this one again changes nothing.
//!
//! A crash before the batch is whole leaves the tree as it was, one after it leaves a batch that
//! whoever opens the group next applies: this program, or the server.
//!
//! * An operation is never split over two batches: room for all of its entries is made before it
//!   begins. Only growing and cutting files goes in steps, each complete by itself.
//! * A unit that an operation gave back is not handed out before that is durable: its bytes would
//!   be overwritten, and a crash would bring the old file back.
//! * The length of a file becomes known with a batch of its own, after its bytes are durable; the
//!   server writes it in place, without a batch, to the same effect.
//! * After an error in the middle of a change nothing is written any more: memory and devices may
//!   differ. Opening the group again finishes or undoes it.
//!
//! New files are plain ones: none of their bytes may be left out, for what was on the unit before
//! would be read. So gaps, and the rest of the last unit, become zeros.

mod add;
mod batch;
mod content;
mod nodes;
mod open;
mod space;
mod storage;
#[cfg(test)]
mod tests;
mod tree;

pub use add::add_volumes;
pub use open::WriteOptions;
pub use storage::DssWriteTree;
pub use tree::is_link_target;

use super::DssError;
use super::overlay::{Devices, Overlay};
use crate::format::dss::{BlockId, Controls, Node, RedoControl, RedoEntry, Structure};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::OwnedFd;

/// A volume group to be changed; nobody else can while this is open.
#[derive(Debug)]
pub struct GroupWriter {
    devices: Devices,
    au_bytes: u64,
    /// Volumes that units are taken from, ascending.
    volumes: Vec<u16>,
    /// The metadata as they will be once the batch is committed.
    controls: Controls,
    overlay: Overlay,
    nodes: HashMap<BlockId, Node>,
    /// Names in each directory, of nodes that are not deleted.
    names: HashMap<BlockId, HashMap<Box<str>, BlockId>>,
    redo: RedoControl,
    redo_slot: Vec<u8>,
    /// The batch that is being gathered.
    batch: Vec<RedoEntry>,
    batch_bytes: usize,
    /// The core control changed in ways that no entry says yet.
    is_core_changed: bool,
    /// The batch gives units back.
    gives_back: bool,
    /// The batch makes a file shorter within a unit that it keeps.
    shortens: bool,
    /// The batch makes bytes visible that must be durable before.
    shows_bytes: bool,
    /// Volumes that bytes of files were written to and not synced.
    unsynced: BTreeSet<u16>,
    /// Files whose length changed since it was last recorded.
    lengths: BTreeMap<BlockId, u64>,
    /// Ends of what was prepared to be written to files, perhaps by now.
    claims: HashMap<BlockId, u64>,
    /// What failed in the middle of a change; nothing is written then.
    failure: Option<String>,
    /// What a crash left to be done before the first change.
    unsettled: Option<Box<open::Unsettled>>,
    /// Held as long as the group is open.
    _server: Option<OwnedFd>,
    #[cfg(test)]
    steps: Vec<tests::Step>,
}

impl GroupWriter {
    /// The group's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.devices.group
    }

    /// Bytes of an allocation unit.
    #[must_use]
    pub fn au_bytes(&self) -> u64 {
        self.au_bytes
    }

    /// Bytes that can still be allocated.
    #[must_use]
    pub fn available_bytes(&self) -> u64 {
        self.available_units() * self.au_bytes
    }

    /// Makes all changes durable: bytes, lengths, names.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub fn sync(&mut self) -> Result<(), DssError> {
        self.guarded(|writer| {
            writer.record_lengths()?;
            writer.commit()?;
            let volumes = std::mem::take(&mut writer.unsynced);
            writer.sync_volumes(&volumes)
        })
    }

    /// Does what nothing may go wrong in: an error leaves the group to be opened again.
    fn guarded<T>(
        &mut self,
        act: impl FnOnce(&mut GroupWriter) -> Result<T, DssError>,
    ) -> Result<T, DssError> {
        self.check_usable()?;
        let result = act(self);
        if let Err(error) = &result {
            self.abandon(error);
        }
        result
    }

    fn check_usable(&self) -> Result<(), DssError> {
        match &self.failure {
            None => Ok(()),
            Some(cause) => Err(DssError::Abandoned {
                group: self.devices.group.clone(),
                cause: cause.clone(),
            }),
        }
    }

    fn abandon(&mut self, error: &DssError) {
        if self.failure.is_none() {
            let source = std::error::Error::source(error);
            let source = source.map(|source| format!(": {source}"));
            self.failure = Some(format!("{error}{}", source.unwrap_or_default()));
        }
    }

    /// The error that something does not fit.
    fn damaged(&self, what: String) -> DssError {
        self.devices.damaged(what)
    }

    /// A block as it will be.
    fn block(&self, structure: Structure, id: BlockId) -> Result<Vec<u8>, DssError> {
        if let Some(block) = self.overlay.get(structure, id, self.au_bytes) {
            return Ok(block);
        }
        let (device, at) = self.devices.place(structure, id, self.au_bytes)?;
        let mut block = vec![0; structure.bytes()];
        // Through the page cache, in which what is written here stays.
        device
            .file
            .read_exact_at(&mut block, at)
            .map_err(DssError::Io)?;
        let verified = structure.verify(&block);
        verified.map_err(|source| device.structure(at, source))?;
        Ok(block)
    }
}
