//! Where the files of a cluster are: all in its data directory, or the data that its instances
//! share on volumes.

use super::super::Error;
use super::super::shared_storage::{SharedOptions, check_primary};
use super::control_file::read_cluster_control;
use super::shared_list::SharedTree;
use crate::command::cluster_control::ControlForm;
use crate::format::catalog::StorageType;
use crate::format::pg_control::ControlFile;
use crate::format::shared_control::INSTANCE_PAGES;
use crate::storage::dss::DssTree;
use crate::storage::{Posix, Storage, StorageError};
use crate::types::ServerFlavor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the files of a cluster are.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The data directory of the instance.
    pub(super) data_directory: PathBuf,
    /// What the instances share, if the cluster is on volumes.
    pub(super) shared: Option<SharedTree>,
    /// The other instances that have WAL and a page of the control file of their own.
    pub(super) others: Vec<ControlForm>,
}

impl Place {
    /// Opens what the instances share.
    ///
    /// # Errors
    /// Where the groups cannot be read, or hold no control file as it has to be.
    pub(super) fn open(
        data_directory: PathBuf,
        shared: Option<&SharedOptions>,
    ) -> Result<Place, Error> {
        let mut others = Vec::new();
        let shared = match shared {
            Some(options) => {
                let (form, _, bytes) = options.read_control()?;
                let root = format!("+{}", options.data_group);
                let tree = DssTree::open(&options.specs()?, &root);
                let tree = tree.map_err(|error| Error::Dss(Box::new(error)))?;
                let form = match form.instance() {
                    Some(_) => {
                        let numbers = instances(&tree)?;
                        let chosen = choose_instance(&numbers, options.instance_id)?;
                        check_primary(&bytes, chosen)?;
                        let rest = numbers.into_iter().filter(|number| *number != chosen);
                        others.extend(rest.map(|number| form.of_instance(number)));
                        form.of_instance(chosen)
                    }
                    None => form,
                };
                Some(SharedTree { tree, form })
            }
            None => None,
        };
        Ok(Place {
            data_directory,
            shared,
            others,
        })
    }

    pub(super) fn storage_type(&self) -> StorageType {
        match self.shared {
            Some(_) => StorageType::Dss,
            None => StorageType::File,
        }
    }

    /// Where the control file is, and in which form.
    pub(super) fn form(&self) -> ControlForm {
        match &self.shared {
            Some(shared) => shared.form,
            None => ControlForm::of_cluster(StorageType::File, []),
        }
    }

    /// The tree of the control file, the relations and the tablespaces.
    ///
    /// # Errors
    /// Where there is no data directory.
    pub(super) fn main(&self) -> Result<Arc<dyn Storage>, Error> {
        Ok(match &self.shared {
            Some(shared) => Arc::new(shared.tree.clone()),
            None => Arc::new(Posix::open(&self.data_directory)?),
        })
    }

    /// The control file, once it is whole: its bytes and what they say.
    ///
    /// # Errors
    /// As [`read_cluster_control`].
    pub(super) fn read_control(&self) -> Result<(Vec<u8>, ControlFile), Error> {
        read_cluster_control(self.form(), &*self.main()?)
    }

    /// The directory of the WAL, which may be behind a link.
    ///
    /// # Errors
    /// Where there is none.
    pub(super) fn open_wal(&self, flavor: ServerFlavor) -> Result<Arc<dyn Storage>, Error> {
        let directory = self.form().wal_directory(flavor);
        if let Some(shared) = &self.shared {
            let path = shared.tree.display_path(&directory);
            return Ok(Arc::new(shared.tree.tree(&path.to_string_lossy())?));
        }
        let path = self.data_directory.join(directory);
        let path = std::fs::canonicalize(&path)
            .map_err(|error| StorageError::new("open directory", &path, error))?;
        Ok(Arc::new(Posix::open(&path)?))
    }

    /// The name of the WAL's directory in a backup.
    pub(super) fn wal_name(&self, flavor: ServerFlavor) -> String {
        let directory = self.form().wal_directory(flavor);
        directory.to_string_lossy().into_owned()
    }

    /// Where a directory or file of the main tree is, for messages.
    pub(super) fn control_path(&self) -> PathBuf {
        let path = Path::new(self.form().path());
        match &self.shared {
            Some(shared) => shared.tree.display_path(path),
            None => self.data_directory.join(path),
        }
    }
}

/// The instances that have WAL of their own.
fn instances(tree: &DssTree) -> Result<Vec<usize>, Error> {
    let entries = tree.list(Path::new(""))?;
    let numbers = entries.iter().filter_map(|entry| {
        let number = entry.name.to_str()?.strip_prefix("pg_xlog")?.parse().ok()?;
        (number < INSTANCE_PAGES).then_some(number)
    });
    Ok(numbers.collect())
}

/// The instance to back up: the one that is named, or the only one.
fn choose_instance(numbers: &[usize], named: Option<u32>) -> Result<usize, Error> {
    let named = named.and_then(|number| usize::try_from(number).ok());
    match (named, numbers) {
        (Some(number), _) if numbers.contains(&number) => Ok(number),
        (Some(number), _) => Err(Error::Refused(format!(
            "there is no WAL of instance {number} in the volume group: pg_xlog{number}"
        ))),
        (None, [only]) => Ok(*only),
        (None, _) => Err(Error::Refused(
            "each instance has WAL of its own in the volume group: name the primary with \
             --instance-id"
                .to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_instance_is_the_named_one_or_the_only_one() {
        let choose = |numbers: &[usize], named| choose_instance(numbers, named).ok();
        assert_eq!(choose(&[2], None), Some(2));
        assert_eq!(choose(&[0, 1], Some(1)), Some(1));
        assert_eq!(choose(&[0, 1], None), None);
        assert_eq!(choose(&[0, 1], Some(2)), None);
        assert_eq!(choose(&[], None), None);
    }
}
