//! Data directories of standbys: set aside, so that an instance can be initialised in their place
//! and what they held be put back then.
//!
//! The directory gets another name and an empty one takes its place. Killed in between, the empty
//! one is made by the next run.

use super::plan::check_is_data_directory;
use crate::command::{Error, restore};
use crate::storage::{FileKind, Posix, Storage, StorageError};
use std::path::{Path, PathBuf};

/// A data directory of a standby.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standby {
    /// Where it is.
    pub directory: PathBuf,
    /// Where what it holds is to be.
    pub kept: PathBuf,
    /// Whether it is there already.
    pub is_kept: bool,
}

impl Standby {
    /// Looks at a directory.
    ///
    /// # Errors
    /// Where it is no data directory or its server runs; where something is where it should go.
    pub(super) fn plan(directory: &Path) -> Result<Standby, Error> {
        let refused = |problem: &str| {
            let path = directory.display();
            Error::Refused(format!("\"{path}\" cannot be set aside: {problem}"))
        };
        let Some(name) = directory.file_name().filter(|_| directory.is_absolute()) else {
            return Err(refused("name it by its whole path"));
        };
        let mut kept = name.to_owned();
        kept.push(".kept");
        let kept = directory.with_file_name(kept);
        let device = |path: &Path| -> Result<Option<(FileKind, u64)>, Error> {
            let parent = Posix::open(path.parent().unwrap_or(Path::new("/")))?;
            match parent.metadata(Path::new(path.file_name().unwrap_or_default())) {
                Ok(metadata) => Ok(Some((metadata.kind, metadata.device))),
                Err(error) if error.is_not_found() => Ok(None),
                Err(error) => Err(error.into()),
            }
        };
        let is_kept = device(&kept)?.is_some();
        match device(directory)? {
            None if is_kept => {}
            None => return Err(refused("there is none")),
            Some((FileKind::Directory, found)) => {
                let data = Posix::open(directory)?;
                let is_empty = data.list(Path::new(""))?.is_empty();
                if is_kept && !is_empty {
                    let problem = format!("\"{}\" is there already", kept.display());
                    return Err(refused(&problem));
                }
                if is_empty && !is_kept {
                    return Err(refused("it is empty"));
                }
                if !is_kept {
                    check_is_data_directory(&data)?;
                }
                if let Some(reason) = restore::postmaster(&data)? {
                    return Err(Error::Refused(reason));
                }
                let parent = directory.parent().unwrap_or(Path::new("/"));
                if Posix::open(parent)?.metadata(Path::new(""))?.device != found {
                    return Err(refused("it is a file system of its own"));
                }
            }
            Some(_) => return Err(refused("it is no directory; name where it leads")),
        }
        Ok(Standby {
            directory: directory.to_owned(),
            kept,
            is_kept,
        })
    }

    /// Gives what is there its other name, and makes an empty directory in its place.
    pub(super) fn set_aside(&self) -> Result<(), Error> {
        let parent = Posix::open(self.directory.parent().unwrap_or(Path::new("/")))?;
        let name = |path: &Path| PathBuf::from(path.file_name().unwrap_or_default());
        let (directory, kept) = (name(&self.directory), name(&self.kept));
        if !self.is_kept {
            parent.rename(&directory, &kept)?;
            parent.sync_dir(Path::new(""))?;
        }
        let mode = parent.metadata(&kept)?.mode & 0o7777;
        let made: Result<(), StorageError> = parent.create_dir(&directory, mode);
        made.and_then(|()| parent.sync_dir(Path::new("")))?;
        tracing::info!(
            "Standby directory \"{}\" is now \"{}\"",
            self.directory.display(),
            self.kept.display()
        );
        Ok(())
    }
}
