//! Which tree of a cluster an entry of a content list belongs to.
//!
//! A path alone does not name a file: the data directory of an instance on shared storage and the
//! volume group that all instances share have some of the same paths. The content list tells them
//! apart by `external_dir_num` and `file_type`; a backup keeps each tree in a directory of its own.

use super::backup_words::StorageType;
use super::content_entry::FileType;
use std::fmt;

/// A tree of a cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Root {
    /// The data directory.
    Data,
    /// What the instances of a cluster on shared storage have in common.
    Shared,
    /// The external directory of this number, from 1.
    External(u32),
}

impl Root {
    /// The directory of a file system that has this number in a content list: 0 is the data
    /// directory.
    #[must_use]
    pub fn of_directory(number: u32) -> Root {
        match number {
            0 => Root::Data,
            number => Root::External(number),
        }
    }

    /// What files of the tree are on; `None` of an external directory, which is never shared.
    #[must_use]
    pub fn file_type(self) -> Option<FileType> {
        match self {
            Root::Data => Some(FileType::File),
            Root::Shared => Some(FileType::Dss),
            Root::External(_) => None,
        }
    }

    /// Its number in a content list.
    #[must_use]
    pub fn external_dir(self) -> u32 {
        match self {
            Root::Data | Root::Shared => 0,
            Root::External(number) => number,
        }
    }
}

impl StorageType {
    /// The tree that holds the cluster's own files: relations, control file, WAL.
    #[must_use]
    pub fn main_root(self) -> Root {
        match self {
            StorageType::Dss => Root::Shared,
            StorageType::File | StorageType::Unknown => Root::Data,
        }
    }

    /// Path of the control file in [`StorageType::main_root`].
    #[must_use]
    pub fn control_file(self) -> &'static str {
        match self {
            StorageType::Dss => "pg_control",
            StorageType::File | StorageType::Unknown => "global/pg_control",
        }
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Root::Data => f.write_str("data directory"),
            Root::Shared => f.write_str("shared storage"),
            Root::External(number) => write!(f, "external directory {number}"),
        }
    }
}
