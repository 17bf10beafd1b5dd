//! A small volume group in an image file, changed as some bytes say: hostile volumes for tests and
//! fuzzing.
//!
//! The group has a directory, a file, a file that knows its written pages and a link, so that every
//! kind of block is in use. Changes keep checksums right: without that, hardly one would get
//! further than the first look.

use crate::format::dss::{
    BlockId, COPY_OFFSET, FormattedAu, NODE_INNER_INITED, NewGroup, RedoBatch, RedoControl,
    RedoEntry, Structure, formatted_block,
};
use crate::io::EngineChoice;
use crate::storage::dss::{CheckReport, DssError, GroupSpec, VolumeGroup, VolumeGroups, check};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const AU: u64 = 2 << 20;
/// Units of the device; all are handed out.
const UNITS: u64 = 40;
/// Units by what they hold; those before are head, redo ring and file table.
const TABLE: u64 = 34;
const SPACE: u64 = 35;
const AUX: u64 = 36;
const DATA: u64 = 37;
/// Bytes of the file that a server's work is played on.
const PLAIN_BYTES: usize = 1_900_000;
/// Bytes of a batch at most.
const BATCH_BYTES_MAX: u64 = 64 * 1024;
/// Bytes that are read of all files together.
const READ_BYTES_MAX: usize = 256 * 1024;
/// Files that are read.
const READ_FILES_MAX: usize = 8;

/// A group in a file.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    file: File,
    /// What [`Image::change`] wrote over, the first change first.
    before: Vec<(u64, Vec<u8>)>,
}

fn put(bytes: &mut [u8], at: usize, value: u64, width: usize) {
    bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
}

fn id(unit: u64, block: u64) -> BlockId {
    BlockId::new(0, unit, block)
}

impl Image {
    /// Makes the group in a new file.
    ///
    /// # Errors
    /// Where the file cannot be written.
    ///
    /// # Panics
    /// Never: there can be such a group.
    pub fn create(path: &Path) -> io::Result<Image> {
        let group = NewGroup {
            name: "data".to_owned(),
            device: "/dev/gauss/data0".to_owned(),
            au_bytes: AU,
            size_bytes: UNITS * AU,
            time: (1_800_000_000, 0),
        };
        let options = File::options();
        let file = { options }
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        file.set_len(UNITS * AU)?;
        for (at, bytes) in group.writes().expect("there can be such a group") {
            file.write_all_at(&bytes, at)?;
        }
        let image = Image {
            path: path.to_owned(),
            file,
            before: Vec::new(),
        };
        image.format(SPACE, BlockId::NONE)?;
        image.format(AUX, BlockId(0))?;
        image.add_files()?;
        image.set_controls()?;
        Ok(image)
    }

    fn format(&self, unit: u64, previous_first: BlockId) -> io::Result<()> {
        let (structure, formatted) = match unit {
            SPACE => (
                Structure::FsBlock,
                FormattedAu::FileSpace { previous_first },
            ),
            _ => (Structure::AuxBlock, FormattedAu::Aux { previous_first }),
        };
        for block in 0..structure.per_au(AU) {
            let id = id(unit, block);
            let at = id.position(structure, AU).expect("a block of the unit");
            self.file
                .write_all_at(&formatted_block(formatted, AU, id), at)?;
        }
        Ok(())
    }

    /// Changes a slot and makes its checksum right.
    fn edit(&self, structure: Structure, at: u64, act: impl Fn(&mut [u8])) -> io::Result<()> {
        let mut slot = vec![0; structure.bytes()];
        self.file.read_exact_at(&mut slot, at)?;
        act(&mut slot);
        structure.seal(&mut slot);
        self.file.write_all_at(&slot, at)
    }

    fn block(&self, structure: Structure, id: BlockId, act: impl Fn(&mut [u8])) -> io::Result<()> {
        let at = id.position(structure, AU).expect("a block of the unit");
        self.edit(structure, at, act)
    }

    fn add_files(&self) -> io::Result<()> {
        // Type, flags, name, first FS block (the next one down is its second level), unit.
        let nodes: [(u64, u64, &str, u64, u64); 4] = [
            (0, 4, "dir", 0, 0),
            (1, 4, "plain", 127, DATA),
            (1, 4 | u64::from(NODE_INNER_INITED), "inner", 125, DATA + 1),
            (2, 4, "link", 123, DATA + 2),
        ];
        for (number, (kind, flags, name, entry, unit)) in (1..).zip(nodes) {
            let node = id(TABLE, number);
            self.block(Structure::FileTableBlock, node, |slot| {
                slot[24] = 2;
                let node_bytes = &mut slot[256..];
                node_bytes.fill(0);
                put(node_bytes, 0, kind, 4);
                put(node_bytes, 28, flags, 4);
                put(node_bytes, 64, node.0, 8);
                let next = if number == 4 {
                    BlockId::NONE
                } else {
                    id(TABLE, number + 1)
                };
                put(node_bytes, 72, next.0, 8);
                put(node_bytes, 80, id(TABLE, number - 1).0, 8);
                node_bytes[88..88 + name.len()].copy_from_slice(name.as_bytes());
                put(node_bytes, 152, number, 8);
                if kind == 0 {
                    put(node_bytes, 48, BlockId::NONE.0, 8);
                    put(node_bytes, 56, BlockId::NONE.0, 8);
                    return;
                }
                put(node_bytes, 32, AU, 8);
                put(node_bytes, 40, id(SPACE, entry).0, 8);
                put(node_bytes, 160, if kind == 1 { 100_000 } else { 0 }, 8);
            })?;
            if kind == 0 {
                continue;
            }
            let leaf = match name {
                "inner" => id(AUX, 1364).0 | 1 << 61,
                _ => id(unit, 0).0,
            };
            for (block, index, value) in [
                (entry, 0xfffd, id(SPACE, entry - 1).0),
                (entry - 1, 0, leaf),
            ] {
                self.block(Structure::FsBlock, id(SPACE, block), |slot| {
                    slot[24] = 2;
                    put(slot, 32, BlockId::NONE.0, 8);
                    put(slot, 40, node.0, 8);
                    put(slot, 48, 1, 2);
                    put(slot, 52, index, 2);
                    put(slot, 56, value, 8);
                })?;
            }
        }
        self.block(Structure::AuxBlock, id(AUX, 1364), |slot| {
            slot[24] = 2;
            put(slot, 32, BlockId::NONE.0, 8);
            put(slot, 40, id(TABLE, 3).0, 8);
            put(slot, 48, id(DATA + 1, 0).0 | 1 << 61, 8);
            put(slot, 60, 0, 2);
            // Half of the pages were written.
            slot[64..72].fill(0x55);
        })?;
        self.block(Structure::FileTableBlock, id(TABLE, 0), |slot| {
            put(slot, 256 + 72, id(TABLE, 1).0, 8);
        })?;
        self.file.write_all_at(b"+data/plain\0", (DATA + 2) * AU)
    }

    fn set_controls(&self) -> io::Result<()> {
        for copy in [0, COPY_OFFSET] {
            let core = Structure::CoreControl;
            self.edit(core, copy + core.offset(), |slot| {
                put(slot, 32, 122, 8);
                put(slot, 40, id(SPACE, 121).0, 8);
                put(slot, 48, id(SPACE, 0).0, 8);
                put(slot, 104, UNITS - TABLE, 8);
                put(slot, 160, 1364, 8);
                put(slot, 168, id(AUX, 1363).0, 8);
                put(slot, 176, id(AUX, 0).0, 8);
                put(slot, 528, UNITS * AU, 8);
                put(slot, 536, 0, 8);
            })?;
            let root = Structure::RootBlock;
            self.edit(root, copy + root.offset(), |slot| {
                put(slot, 56, 4091, 4);
                put(slot, 64, id(TABLE, 5).0, 8);
                put(slot, 104, 5, 8);
                put(slot, 256 + 40, 5, 4);
                put(slot, 256 + 56, id(TABLE, 4).0, 8);
            })?;
        }
        Ok(())
    }

    /// A transaction as a server makes it: the batch, then every block in place, then the control.
    ///
    /// # Errors
    /// Where the file cannot be written.
    fn transact(
        &self,
        entries: Vec<RedoEntry>,
        blocks: impl Fn(&Image) -> io::Result<()>,
    ) -> io::Result<()> {
        let structure = Structure::RedoControl;
        let mut slot = vec![0; structure.bytes()];
        self.file.read_exact_at(&mut slot, structure.offset())?;
        let redo = RedoControl::parse(&slot, AU).expect("it is kept right");
        let lsn = redo.lsn + 1;
        let time_us = 0;
        let batch = RedoBatch {
            lsn,
            time_us,
            entries,
        };
        let batch = batch.encode();
        let start = redo.segments[0].0.au() * AU;
        self.file.write_all_at(&batch, start + redo.offset)?;
        blocks(self)?;
        let offset = redo.offset + batch.len() as u64;
        let offset = if offset + BATCH_BYTES_MAX > redo.segments[0].1 {
            0
        } else {
            offset
        };
        for copy in [0, COPY_OFFSET] {
            self.edit(structure, copy + structure.offset(), |slot| {
                put(slot, 16, offset, 8);
                put(slot, 24, lsn, 8);
            })?;
        }
        Ok(())
    }

    /// Cuts the file "plain" to nothing, as a server does; what its unit gets afterwards is
    /// another file's.
    ///
    /// # Errors
    /// Where the file cannot be written.
    ///
    /// # Panics
    /// Never: there are such blocks.
    pub fn truncate_plain(&self, others: u8) -> io::Result<()> {
        let node = id(TABLE, 2);
        let size = RedoEntry {
            kind: 7,
            payload: [node.0, 0, AU].map(u64::to_le_bytes).concat(),
        };
        self.transact(vec![size], |image| {
            image.block(Structure::FileTableBlock, node, |slot| {
                let truncations = u64::from_le_bytes(slot[432..440].try_into().expect("8 bytes"));
                put(slot, 288, 0, 8);
                put(slot, 416, 0, 8);
                put(slot, 432, truncations + 1, 8);
            })?;
            image.block(Structure::FsBlock, id(SPACE, 126), |slot| {
                put(slot, 48, 0, 2)
            })
        })?;
        self.file
            .write_all_at(&vec![others; PLAIN_BYTES], DATA * AU)
    }

    /// Gives the file "plain" its unit back, writes to it, and makes that its length.
    ///
    /// # Errors
    /// Where the file cannot be written.
    ///
    /// # Panics
    /// Never: there are such blocks.
    pub fn extend_plain(&self, own: u8) -> io::Result<()> {
        let (node, unit) = (id(TABLE, 2), id(DATA, 0));
        let block = id(SPACE, 126);
        let mut entry = [block.0, unit.0, BlockId::NONE.0]
            .map(u64::to_le_bytes)
            .concat();
        entry.extend([0, 0, 1, 0, 0, 0]);
        let entries = vec![
            RedoEntry {
                kind: 13,
                payload: entry,
            },
            RedoEntry {
                kind: 7,
                payload: [node.0, AU, 0].map(u64::to_le_bytes).concat(),
            },
        ];
        self.transact(entries, |image| {
            image.block(Structure::FsBlock, block, |slot| {
                put(slot, 48, 1, 2);
                put(slot, 56, unit.0, 8);
            })?;
            image.block(Structure::FileTableBlock, node, |slot| {
                put(slot, 288, AU, 8)
            })
        })?;
        self.file.write_all_at(&vec![own; PLAIN_BYTES], DATA * AU)?;
        self.set_plain_length(PLAIN_BYTES as u64)
    }

    /// Gives the unit of the file "inner" bytes that differ from place to place.
    ///
    /// # Errors
    /// Where the file cannot be written.
    ///
    /// # Panics
    /// Never: a remainder is small.
    pub fn write_inner(&self) -> io::Result<()> {
        let byte = |at: u64| u8::try_from(at * at % 251).expect("a remainder is small");
        let bytes: Vec<u8> = (0..AU).map(byte).collect();
        self.file.write_all_at(&bytes, (DATA + 1) * AU)
    }

    /// Sets the length of the file "plain" as its client does that wrote to it: without a
    /// transaction.
    ///
    /// # Errors
    /// Where the file cannot be written.
    ///
    /// # Panics
    /// Never: there is such a block.
    pub fn set_plain_length(&self, bytes: u64) -> io::Result<()> {
        self.block(Structure::FileTableBlock, id(TABLE, 2), |slot| {
            put(slot, 416, bytes, 8);
        })
    }

    /// The bytes of a file.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn content(&self, name: &str) -> Result<Vec<u8>, DssError> {
        let mut groups = VolumeGroups::open(&[self.spec()], EngineChoice::Sync)?;
        let found = groups.find(&format!("+data/{name}"), false)?;
        let mut bytes = Vec::new();
        groups
            .group(found.group)
            .read_file(&found.node, &mut |more| {
                bytes.extend(more);
                Ok(())
            })?;
        Ok(bytes)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Changes the group: of every 13 bytes the first names a structure, the second a block, two a
    /// byte in it, and the rest are written there, eight at most.
    ///
    /// # Errors
    /// Where the file cannot be written.
    ///
    /// # Panics
    /// Never: there are such blocks.
    pub fn change(&mut self, input: &[u8]) -> io::Result<()> {
        for change in input.chunks_exact(13) {
            let near = u64::from(change[1]);
            let block = |structure: Structure, unit| {
                // From both ends: that is where those in use are.
                let count = structure.per_au(AU);
                let number = if near < 128 {
                    near
                } else {
                    count - 1 - (255 - near)
                };
                let id = id(unit, number.min(count - 1));
                (
                    structure,
                    id.position(structure, AU).expect("a block of the unit"),
                )
            };
            let control = |structure: Structure| (structure, structure.offset());
            let (structure, at) = match change[0] % 8 {
                0 => control(Structure::VolumeHeader),
                1 => control(Structure::CoreControl),
                2 => control(Structure::VolumeControl),
                3 => control(Structure::RootBlock),
                4 => control(Structure::RedoControl),
                5 => block(Structure::FileTableBlock, TABLE),
                6 => block(Structure::FsBlock, SPACE),
                _ => block(Structure::AuxBlock, AUX),
            };
            let mut slot = vec![0; structure.bytes()];
            self.file.read_exact_at(&mut slot, at)?;
            self.before.push((at, slot.clone()));
            let place = usize::from(u16::from_le_bytes([change[2], change[3]]));
            let start = place % structure.bytes();
            let length = (structure.bytes() - start).min(1 + usize::from(change[4] % 8));
            slot[start..start + length].copy_from_slice(&change[5..5 + length]);
            structure.seal(&mut slot);
            self.file.write_all_at(&slot, at)?;
        }
        Ok(())
    }

    /// Undoes all changes.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn revert(&mut self) -> io::Result<()> {
        while let Some((at, slot)) = self.before.pop() {
            self.file.write_all_at(&slot, at)?;
        }
        Ok(())
    }

    fn spec(&self) -> GroupSpec {
        GroupSpec {
            name: "data".to_owned(),
            devices: vec![self.path.clone()],
        }
    }

    /// Checks the group.
    ///
    /// # Errors
    /// As the check.
    pub fn check(&self) -> Result<CheckReport, DssError> {
        check(&mut VolumeGroup::open(&self.spec(), EngineChoice::Sync)?)
    }

    /// Lists the group and reads its files, and returns how many names there were. More than the
    /// image can hold make a panic.
    ///
    /// # Errors
    /// Where it cannot be opened.
    ///
    /// # Panics
    /// When the group seems to hold more than it can.
    pub fn look(&self) -> Result<usize, DssError> {
        let mut groups = VolumeGroups::open(&[self.spec()], EngineChoice::Sync)?;
        let mut directories = vec![groups.groups()[0].root().clone()];
        let (mut names, mut bytes, mut files) = (0, 0, 0);
        while let Some(directory) = directories.pop() {
            let Ok(children) = groups.groups()[0].children(&directory) else {
                continue;
            };
            let children: Vec<_> = children.into_iter().cloned().collect();
            for child in children {
                names += 1;
                assert!(names <= 4096, "more names than blocks");
                let path = format!("+data/{}", child.name);
                let _ = groups.find(&path, true);
                let _ = groups.group(0).read_link(&child);
                if child.is_directory() {
                    directories.push(child);
                } else if files < READ_FILES_MAX {
                    files += 1;
                    let _ = groups.group(0).read_file(&child, &mut |read| {
                        bytes += read.len();
                        match bytes > READ_BYTES_MAX {
                            true => Err(io::ErrorKind::BrokenPipe.into()),
                            false => Ok(()),
                        }
                    });
                }
            }
        }
        Ok(names)
    }
}
