//! The control file of a cluster and of a backup of one, wherever it is and however many pages it
//! has: what backup, validate and restore ask it.

use crate::catalog::BackupDir;
use crate::format::catalog::{Root, StorageType};
use crate::format::pg_control::{ControlFile, ControlFileError, PG_CONTROL_SIZE};
use crate::format::shared_control::{INSTANCE_PAGES, forget_stable_instances, parse_shared};
use crate::format::wal::WalDialect;
use crate::limits::{DSS_WAL_SEGMENT_BYTES, WAL_SEGMENT_BYTES};
use crate::storage::{Posix, Storage};
use crate::types::ServerFlavor;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Bytes of a control file at most: those of shared storage have 65 pages.
pub(in crate::command) const CONTROL_FILE_BYTES_MAX: u64 = 65 * 8192;

/// Where the WAL of a cluster on shared storage is; older clusters have the number of an instance
/// behind it.
const SHARED_WAL: &str = "pg_xlog";

/// What else is in the group for logs where instances share them.
const SHARED_REPLICATION: &str = "pg_replication";

/// Where a cluster has its control file and how that is to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::command) struct ControlForm {
    storage: StorageType,
    /// The page of the cluster, where there are several.
    page: usize,
    /// Whether each instance has WAL of its own.
    has_own_wal: bool,
}

/// What a control file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::command) struct ClusterControl {
    /// The server's page.
    pub(in crate::command) file: ControlFile,
    /// The CRC that a content list has for the file.
    pub(in crate::command) listed_crc: u32,
}

impl ControlForm {
    /// The form of a cluster whose top directory on shared storage has these names; they matter for
    /// shared storage only.
    pub(in crate::command) fn of_cluster<'a>(
        storage: StorageType,
        names: impl IntoIterator<Item = &'a str>,
    ) -> ControlForm {
        let names = names.into_iter().filter_map(|name| {
            let rest = name.strip_prefix(SHARED_WAL)?;
            Some((!rest.is_empty()).then(|| rest.parse::<usize>().unwrap_or(INSTANCE_PAGES)))
        });
        let mut own = None;
        for number in names {
            match number {
                // Logs are merged: whatever else is there is a leftover.
                None => {
                    own = None;
                    break;
                }
                Some(number) if number < INSTANCE_PAGES => own = own.or(Some(number)),
                Some(_) => {}
            }
        }
        ControlForm {
            storage,
            page: own.filter(|_| storage == StorageType::Dss).unwrap_or(0),
            has_own_wal: own.is_some() && storage == StorageType::Dss,
        }
    }

    /// The form of a cluster that this tree is the main one of.
    pub(in crate::command) fn of_tree(storage: StorageType, tree: &dyn Storage) -> ControlForm {
        let names = match storage {
            StorageType::Dss => tree.list(Path::new("")).unwrap_or_default(),
            StorageType::File | StorageType::Unknown => Vec::new(),
        };
        let names = names.iter().filter_map(|entry| entry.name.to_str());
        ControlForm::of_cluster(storage, names)
    }

    /// The form of a backed-up cluster.
    pub(in crate::command) fn of_backup(storage: StorageType, dir: &BackupDir) -> ControlForm {
        match Posix::open(&dir.root_of(storage.main_root())) {
            Ok(tree) => ControlForm::of_tree(storage, &tree),
            Err(_) => ControlForm::of_cluster(storage, []),
        }
    }

    /// The tree that it is in, with the WAL.
    pub(in crate::command) fn root(self) -> Root {
        self.storage.main_root()
    }

    /// Its path there.
    pub(in crate::command) fn path(self) -> &'static str {
        self.storage.control_file()
    }

    /// What its bytes say.
    pub(in crate::command) fn parse(
        self,
        bytes: &[u8],
    ) -> Result<ClusterControl, ControlFileError> {
        if self.storage == StorageType::Dss {
            let shared = parse_shared(bytes, self.page)?;
            return Ok(ClusterControl {
                file: shared.control,
                listed_crc: shared.listed_crc,
            });
        }
        let file = ControlFile::parse(bytes)?;
        let listed_crc = file.crc;
        Ok(ClusterControl { file, listed_crc })
    }

    /// Whether a name at the top of shared storage is one of another instance, where each has its
    /// own.
    pub(in crate::command) fn is_of_other_instance(self, name: &str) -> bool {
        let numbers = ["pg_xlog", "pg_doublewrite", "p"].into_iter();
        let mut numbers = numbers.filter_map(|own| name.strip_prefix(own)?.parse::<usize>().ok());
        self.has_own_wal && numbers.any(|number| number != self.page)
    }

    /// The bytes of the control file that no server starts without.
    pub(in crate::command) fn page_range(self) -> Range<usize> {
        self.page * PG_CONTROL_SIZE..(self.page + 1) * PG_CONTROL_SIZE
    }

    /// Whether a directory at the top of shared storage is one of the log.
    pub(in crate::command) fn is_log_directory(self, name: &str) -> bool {
        Path::new(name) == self.wal_directory(ServerFlavor::OpenGauss)
            || (name == SHARED_REPLICATION && !self.has_own_wal)
    }

    /// The form with the WAL and the page of one instance.
    pub(in crate::command) fn of_instance(self, number: usize) -> ControlForm {
        ControlForm {
            page: number,
            has_own_wal: true,
            ..self
        }
    }

    /// The instance whose WAL and page count, where each has its own.
    pub(in crate::command) fn instance(self) -> Option<usize> {
        self.has_own_wal.then_some(self.page)
    }

    /// Makes the bytes of a running or stopped cluster those of a backup: no instance runs in it.
    /// Returns the CRC that a content list has for them.
    pub(in crate::command) fn make_backup(self, bytes: &mut [u8]) -> Result<u32, ControlFileError> {
        match self.storage {
            StorageType::Dss => forget_stable_instances(bytes, self.page),
            StorageType::File | StorageType::Unknown => ControlFile::internal_crc(bytes),
        }
    }

    /// The name of a directory of which older clusters have one for each instance.
    pub(in crate::command) fn directory_of_instance(self, name: &str) -> String {
        if self.has_own_wal {
            format!("{name}{}", self.page)
        } else {
            name.to_owned()
        }
    }

    /// Where a server of this flavor has WAL.
    pub(in crate::command) fn wal_directory(self, flavor: ServerFlavor) -> PathBuf {
        match flavor {
            ServerFlavor::PostgreSql { .. } => PathBuf::from("pg_wal"),
            ServerFlavor::OpenGauss if self.has_own_wal => {
                PathBuf::from(format!("{SHARED_WAL}{}", self.page))
            }
            ServerFlavor::OpenGauss => PathBuf::from(SHARED_WAL),
        }
    }
}

/// Where a cluster's WAL is and whose it is, by its control file.
#[derive(Debug)]
pub(in crate::command) struct WalSource {
    /// In the tree of the control file.
    pub(in crate::command) directory: PathBuf,
    pub(in crate::command) dialect: WalDialect,
    pub(in crate::command) segment_bytes: u64,
    pub(in crate::command) system_identifier: Option<u64>,
}

impl WalSource {
    /// That of the cluster whose main tree this is.
    pub(in crate::command) fn of(form: ControlForm, tree: &dyn Storage) -> WalSource {
        let bytes = tree.read(Path::new(form.path()), CONTROL_FILE_BYTES_MAX);
        let control = bytes.ok().and_then(|bytes| form.parse(&bytes).ok());
        let Some(ClusterControl { file, .. }) = control else {
            return WalSource {
                directory: form.wal_directory(ServerFlavor::OpenGauss),
                dialect: WalDialect::OpenGauss,
                segment_bytes: match form.storage {
                    StorageType::Dss => DSS_WAL_SEGMENT_BYTES,
                    StorageType::File | StorageType::Unknown => WAL_SEGMENT_BYTES,
                },
                system_identifier: None,
            };
        };
        WalSource {
            directory: form.wal_directory(file.flavor),
            dialect: file.flavor.into(),
            segment_bytes: u64::from(file.wal_segment_size),
            system_identifier: Some(file.system_identifier),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_other_instances_is_told_by_its_number() {
        let own = ControlForm::of_cluster(StorageType::Dss, ["pg_xlog1"]);
        for name in ["pg_xlog0", "pg_doublewrite2", "pg_xlog63", "p0"] {
            assert!(own.is_of_other_instance(name), "{name}");
        }
        for name in [
            "pg_xlog1",
            "pg_doublewrite1",
            "pg_xlog",
            "base",
            "pg_clog",
            "p1",
        ] {
            assert!(!own.is_of_other_instance(name), "{name}");
        }
        let common = ControlForm::of_cluster(StorageType::Dss, ["pg_xlog"]);
        assert!(!common.is_of_other_instance("pg_xlog0"));
        assert_eq!(own.page_range(), 8192..16384);
    }

    #[test]
    fn the_directory_of_the_wal_tells_whose_page_counts() {
        let form = |names: &[&str]| {
            let form = ControlForm::of_cluster(StorageType::Dss, names.iter().copied());
            (form.page, form.wal_directory(ServerFlavor::OpenGauss))
        };
        for (names, page, directory) in [
            (&["base", "pg_xlog"][..], 0, "pg_xlog"),
            (&["pg_xlog0"][..], 0, "pg_xlog0"),
            (
                &["base", "pg_xlog12", "pg_doublewrite12"][..],
                12,
                "pg_xlog12",
            ),
            (&["pg_xlog3", "pg_xlog"][..], 0, "pg_xlog"),
            (&["pg_xlog64", "pg_xlogs"][..], 0, "pg_xlog"),
            (&[][..], 0, "pg_xlog"),
        ] {
            assert_eq!(form(names), (page, PathBuf::from(directory)), "{names:?}");
        }
        let files = ControlForm::of_cluster(StorageType::File, ["pg_xlog7"]);
        assert_eq!((files.page, files.path()), (0, "global/pg_control"));
        assert_eq!(
            files.wal_directory(ServerFlavor::OpenGauss),
            Path::new("pg_xlog")
        );
    }
}
