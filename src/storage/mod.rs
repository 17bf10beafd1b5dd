//! Files and directories: where bytes are. Judges no page and prints nothing.
//!
//! A [`Storage`] is one tree of files. Paths are relative to its root and never leave it, whatever
//! names and links the tree holds: a component `..` is refused, and so is any path that goes
//! through a symbolic link. Who wants to follow a link (a tablespace) reads it with
//! [`Storage::read_link`] and opens its target as a tree of its own.

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod conformance_reads;
pub mod dss;
pub mod dss_api;
mod durable;
mod error;
mod posix;
pub mod room;

pub use durable::{
    create_directory_durably, sync_directory, write_file_durably, write_file_durably_as_of,
};
pub use error::StorageError;
pub use posix::Posix;

use crate::io::File;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A pipe, socket or device.
    Other,
}

/// What is known of a file without opening it; links are not followed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Metadata {
    /// What it is.
    pub kind: FileKind,
    /// Type and permission bits, as `st_mode`.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// Time of the last change of content, in seconds since 1970.
    pub mtime: i64,
    /// Bytes that the file occupies; less than `size` where it has holes.
    pub allocated_bytes: u64,
    /// Names that the file has; a directory's number means nothing.
    pub links: u64,
    /// Number of the owner.
    pub uid: u32,
    /// Number of the group.
    pub gid: u32,
    /// Device of the file system; with `inode` the file's identity.
    pub device: u64,
    /// Number of the file in its file system.
    pub inode: u64,
}

/// One name in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    /// The name, without the directory.
    pub name: OsString,
    /// What it stands for.
    pub metadata: Metadata,
}

/// One tree of files. Every path is relative to its root; the empty path is the root.
///
/// What a file grows by, and a gap that a write leaves, reads as zeros, whatever was there before.
///
/// All methods fail with a [`StorageError`] that names the full path. None is repeated in the
/// methods' descriptions.
#[expect(
    clippy::missing_errors_doc,
    reason = "said once above: every method fails when the system call does"
)]
pub trait Storage: Send + Sync + fmt::Debug {
    /// The path as a person knows it, with the tree's root in front.
    fn display_path(&self, path: &Path) -> PathBuf;

    /// Opens a regular file to read; anything else is an error, and pipes and devices do not block.
    /// With `direct`, bulk reads go past the page cache if the file system can.
    fn open_read(&self, path: &Path, direct: bool) -> Result<File, StorageError>;

    /// Creates a file, or empties a regular one that is there, to write and read. Its permission
    /// bits become exactly `mode`, whatever the umask. With `direct`, bulk writes go past the page
    /// cache if the file system can.
    fn create(&self, path: &Path, mode: u32, direct: bool) -> Result<File, StorageError>;

    /// Opens a regular file that is there to read and write, and leaves its content and mode as
    /// they are. With `direct`, bulk requests go past the page cache if the file system can.
    fn open_write(&self, path: &Path, direct: bool) -> Result<File, StorageError>;

    /// The whole content of a regular file. More than `limit` bytes are an error
    /// ([`std::io::ErrorKind::FileTooLarge`]).
    fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>, StorageError>;

    /// `length` bytes from `offset` of a regular file, or fewer where it ends.
    fn read_range(&self, path: &Path, offset: u64, length: usize) -> Result<Vec<u8>, StorageError>;

    /// Replaces a file by `bytes`, durably and at once: a crash leaves the old content or the new.
    fn write_durably(&self, path: &Path, mode: u32, bytes: &[u8]) -> Result<(), StorageError>;

    /// Creates one directory with exactly these permission bits; one that exists gets them.
    fn create_dir(&self, path: &Path, mode: u32) -> Result<(), StorageError>;

    /// Sets the permission bits of a directory.
    fn set_dir_mode(&self, path: &Path, mode: u32) -> Result<(), StorageError>;

    /// What is known of a file, directory or link.
    fn metadata(&self, path: &Path) -> Result<Metadata, StorageError>;

    /// The names in a directory, sorted by bytes. Names that vanish meanwhile are left out.
    fn list(&self, path: &Path) -> Result<Vec<DirEntry>, StorageError>;

    /// Where a symbolic link points.
    fn read_link(&self, path: &Path) -> Result<PathBuf, StorageError>;

    /// Creates a symbolic link that points to `target`, which may be anything.
    fn symlink(&self, target: &Path, path: &Path) -> Result<(), StorageError>;

    /// Removes a file or link.
    fn remove_file(&self, path: &Path) -> Result<(), StorageError>;

    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> Result<(), StorageError>;

    /// Gives a file or directory another name, replacing a file or empty directory that has it.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError>;

    /// Sets the permission bits of a regular file that can be read.
    fn set_file_mode(&self, path: &Path, mode: u32) -> Result<(), StorageError>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> Result<(), StorageError>;

    /// Bytes that can still be written.
    fn available_bytes(&self) -> Result<u64, StorageError>;

    /// What there is to give, where room is given out in units and can be counted.
    fn unit_room(&self) -> Result<Option<room::UnitRoom>, StorageError> {
        Ok(None)
    }

    /// Makes everything in the tree's file system durable.
    fn sync_filesystem(&self) -> Result<(), StorageError>;
}

/// Refuses paths that point out of a tree by their wording.
fn check_path(path: &Path) -> io::Result<()> {
    for component in path.components() {
        match component {
            Component::Normal(_) | Component::CurDir => {}
            Component::ParentDir => return Err(invalid("the path contains \"..\"")),
            Component::RootDir | Component::Prefix(_) => {
                return Err(invalid("the path is absolute"));
            }
        }
    }
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(invalid("the path contains a zero byte"));
    }
    Ok(())
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}
