//! The content list of a new backup: what was listed, what became of it, and the files that the
//! backup adds.

use super::super::Error;
use super::copier::Targets;
use super::list::{GeneratedFile, SourceTree};
use crate::command::cluster_control::ControlForm;
use crate::format::catalog::{ContentEntry, EntrySize, FileType, Root};
use crate::format::database_map::{self, Database};
use crate::format::pg_control::PG_CONTROL_SIZE;
use crate::format::tablespace_map;
use crate::format::wal::is_wal_name;
use crate::pipeline::{BackedUpFile, Content, WalSegment};
use crate::storage::Storage;
use std::borrow::Cow;
use std::path::Path;

/// Gathers the entries and sums of a content list.
#[derive(Debug)]
pub(super) struct ContentBuilder<'a> {
    tree: &'a SourceTree,
    /// By index of the tree's entries.
    copied: Vec<Option<&'a BackedUpFile>>,
    generated: Vec<Generated>,
    /// Bytes of generated files that the original leaves out of a backup's uncompressed size.
    uncounted_bytes: u64,
    sync: bool,
}

/// A file that the backup adds.
#[derive(Debug)]
struct Generated {
    name: String,
    file_type: FileType,
    mode: u32,
    size: u64,
    crc: u32,
}

/// Mode of a regular file that only its owner can read and write, type bits included.
const OWNER_FILE_MODE: u32 = 0o100_600;

const DATABASE_MAP: &str = "database_map";

/// Mode of the database map in the original's backups.
const DATABASE_MAP_MODE: u32 = 0o100_644;

impl<'a> ContentBuilder<'a> {
    pub(super) fn new(tree: &'a SourceTree, copied: &'a [BackedUpFile], sync: bool) -> Self {
        let mut by_index = vec![None; tree.entries.len()];
        for file in copied {
            by_index[file.index] = Some(file);
        }
        ContentBuilder {
            tree,
            copied: by_index,
            generated: Vec::new(),
            uncounted_bytes: 0,
            sync,
        }
    }

    /// Writes the control file, as a backup has it, padded to its full page; its entry carries the
    /// CRC of what is in it, not that of the file.
    pub(super) fn add_control_file(
        &mut self,
        main: &dyn Storage,
        form: ControlForm,
        bytes: &mut [u8],
    ) -> Result<(), Error> {
        let name = form.path();
        let made = form.make_backup(bytes);
        let crc = made.map_err(|source| Error::BadControlFile {
            path: name.into(),
            source,
        })?;
        let mut entries = self.tree.entries.iter();
        let entry = entries.find(|entry| entry.tree() == form.root() && &*entry.name == name);
        let mode = entry.map_or(OWNER_FILE_MODE, |entry| entry.mode);
        let file_type = file_type(form.root());
        self.write(main, (name, file_type, mode), &padded(bytes), crc)
    }

    pub(super) fn add_tablespace_map(
        &mut self,
        database: &dyn Storage,
        tablespaces: &[(u32, String)],
    ) -> Result<(), Error> {
        let text =
            tablespace_map::encode(tablespaces).map_err(|source| Error::BadTablespaceMap {
                path: "tablespace_map".into(),
                source,
            })?;
        self.add_file(database, "tablespace_map", text.as_bytes())
    }

    /// Writes a file that only its owner can read.
    pub(super) fn add_file(
        &mut self,
        database: &dyn Storage,
        name: &str,
        bytes: &[u8],
    ) -> Result<(), Error> {
        self.write(
            database,
            (name, FileType::File, OWNER_FILE_MODE),
            bytes,
            crc32c::crc32c(bytes),
        )
    }

    /// Writes files that take the place of some that are left out. As in the original's backups,
    /// an empty file is an entry only.
    pub(super) fn add_generated(
        &mut self,
        targets: &Targets,
        files: &[GeneratedFile],
    ) -> Result<(), Error> {
        for file in files {
            if file.bytes.is_empty() {
                self.generated.push(Generated {
                    name: file.name.clone(),
                    file_type: file.file_type,
                    mode: file.mode,
                    size: 0,
                    crc: 0,
                });
            } else {
                let crc = crc32c::crc32c(&file.bytes);
                let target = match file.file_type {
                    FileType::File => targets.of(Root::Data),
                    FileType::Dss => targets.of(Root::Shared),
                };
                let what = (&*file.name, file.file_type, file.mode);
                self.write(&**target, what, &file.bytes, crc)?;
            }
        }
        Ok(())
    }

    /// Writes the names of the databases, for people and for the original.
    pub(super) fn add_database_map(
        &mut self,
        database: &dyn Storage,
        databases: Vec<(u32, String)>,
    ) -> Result<(), Error> {
        let databases: Vec<Database> = databases
            .into_iter()
            .map(|(oid, name)| Database { oid, name })
            .collect();
        let text = match database_map::encode(&databases) {
            Ok(text) if text.is_empty() => return Ok(()),
            Ok(text) => text,
            Err(error) => {
                // Nothing reads it at a restore; a name that it cannot hold costs no backup.
                tracing::warn!("Failed to get database map: {error}");
                return Ok(());
            }
        };
        let bytes = text.as_bytes();
        let crc = crc32c::crc32c(bytes);
        let what = (DATABASE_MAP, FileType::File, DATABASE_MAP_MODE);
        self.write(database, what, bytes, crc)?;
        self.uncounted_bytes += super::super::words::count(bytes.len());
        Ok(())
    }

    /// Adds WAL segments that are in the backup already.
    pub(super) fn add_wal(&mut self, root: Root, directory: &str, segments: &[WalSegment]) {
        let generated = segments.iter().map(|segment| Generated {
            name: format!("{directory}/{}", segment.name),
            file_type: file_type(root),
            mode: OWNER_FILE_MODE,
            size: segment.size_bytes,
            crc: segment.crc,
        });
        self.generated.extend(generated);
    }

    /// Bytes of the list's files that do not count as uncompressed size.
    pub(super) fn uncounted_bytes(&self) -> u64 {
        self.uncounted_bytes
    }

    fn write(
        &mut self,
        target: &dyn Storage,
        (name, file_type, mode): (&str, FileType, u32),
        bytes: &[u8],
        crc: u32,
    ) -> Result<(), Error> {
        let file = target.create(Path::new(name), mode & 0o7777, false)?;
        file.write_all_at(bytes, 0)?;
        if self.sync {
            file.sync()?;
        }
        let size = u64::try_from(bytes.len()).expect("a usize fits on every supported platform");
        self.generated.push(Generated {
            name: name.to_owned(),
            file_type,
            mode,
            size,
            crc,
        });
        Ok(())
    }

    /// The entries of the list, in the order of the walk.
    pub(super) fn entries(&self) -> impl Iterator<Item = ContentEntry<'_>> {
        let listed = self
            .tree
            .entries
            .iter()
            .enumerate()
            .filter_map(|(index, entry)| {
                if entry.name.is_empty() || self.is_generated(&entry.name, entry.tree()) {
                    return None;
                }
                let mut content = ContentEntry {
                    mode: entry.mode,
                    external_dir: entry.external_dir,
                    file_type: entry.file_type,
                    db_oid: entry.db_oid,
                    ..plain(&entry.name)
                };
                let Some(kind) = entry.content else {
                    return Some(content);
                };
                let file = self.copied[index].filter(|file| !file.vanished)?;
                content.size = match file.unchanged {
                    true => EntrySize::Unchanged,
                    false => EntrySize::Bytes(file.size),
                };
                content.crc = file.crc;
                content.compress_algorithm = file.compress_algorithm;
                if let Content::Pages(segno) | Content::CompressedPages(segno) = kind {
                    content.is_datafile = true;
                    content.segno = segno.0;
                    content.compressed = file.compressed;
                    content.n_blocks = (file.n_blocks > 0).then_some(file.n_blocks);
                    content.headers = file.headers;
                }
                Some(content)
            });
        let generated = self.generated.iter().map(|file| ContentEntry {
            mode: file.mode,
            size: EntrySize::Bytes(file.size),
            crc: file.crc,
            file_type: file.file_type,
            ..plain(&file.name)
        });
        listed.chain(generated)
    }

    fn is_generated(&self, name: &str, root: Root) -> bool {
        let mut generated = self.generated.iter();
        generated.any(|file| file.name == name && root.file_type() == Some(file.file_type))
    }
}

/// What files of a tree are on that is not an external directory.
fn file_type(root: Root) -> FileType {
    root.file_type().unwrap_or_default()
}

/// Whether the original counts the entry as WAL: by its name alone.
pub(crate) fn is_wal_entry(entry: &ContentEntry<'_>) -> bool {
    let name = entry.path.rsplit('/').next().unwrap_or_default();
    entry.external_dir == 0 && !entry.is_directory() && is_wal_name(name)
}

/// The control file as it is stored: at least a whole page.
pub(super) fn padded(bytes: &[u8]) -> Cow<'_, [u8]> {
    if bytes.len() >= PG_CONTROL_SIZE {
        return Cow::Borrowed(bytes);
    }
    let mut page = bytes.to_vec();
    page.resize(PG_CONTROL_SIZE, 0);
    Cow::Owned(page)
}

fn plain(name: &str) -> ContentEntry<'_> {
    ContentEntry::file(name, 0, EntrySize::Bytes(0), 0)
}
