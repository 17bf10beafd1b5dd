//! The catalog and its instances: finding, listing and adding them.

use super::CatalogError;
use super::backup::{BackupDir, BackupEntry};
use super::layout::{BACKUPS, DIRECTORY_MODE, INSTANCE_CONF, WAL, read_small_file};
use super::lock::{self, LockGuard, LockOptions};
use crate::format::catalog::{BackupControl, InstanceConf};
use crate::io::fault;
use crate::storage::{StorageError, create_directory_durably, sync_directory};
use crate::types::BackupId;
use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A backup catalog.
#[derive(Clone, Debug)]
pub struct Catalog {
    root: PathBuf,
}

/// A cluster that has its backups in a catalog.
#[derive(Clone, Debug)]
pub struct Instance {
    name: String,
    dir: PathBuf,
    wal_dir: PathBuf,
}

impl Catalog {
    /// The catalog at `path`. What is in it is looked at when it is used.
    ///
    /// # Errors
    /// Where the path is not absolute.
    pub fn open(path: impl Into<PathBuf>) -> Result<Catalog, CatalogError> {
        let root = path.into();
        if root.is_absolute() {
            Ok(Catalog { root })
        } else {
            Err(CatalogError::NotAbsolute)
        }
    }

    /// Makes a catalog at `path`, which must not exist or be empty.
    ///
    /// # Errors
    /// [`CatalogError::CatalogExists`] where something is there; otherwise where a directory cannot
    /// be made.
    pub fn init(path: impl Into<PathBuf>) -> Result<Catalog, CatalogError> {
        let catalog = Catalog::open(path)?;
        match std::fs::read_dir(&catalog.root) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(CatalogError::CatalogExists);
                }
            }
            Err(e) if e.kind() == ErrorKind::NotFound => create_with_parents(&catalog.root)?,
            Err(source) => {
                return Err(CatalogError::OpenDirectory {
                    path: catalog.root,
                    source,
                });
            }
        }
        for name in [BACKUPS, WAL] {
            create_directory_durably(&catalog.root.join(name), DIRECTORY_MODE)
                .map_err(CatalogError::Storage)?;
        }
        Ok(catalog)
    }

    /// The catalog's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// All instances, by name.
    ///
    /// # Errors
    /// Where the catalog cannot be read.
    pub fn instances(&self) -> Result<Vec<Instance>, CatalogError> {
        let mut names = directories_of(&self.root.join(BACKUPS))?;
        names.sort();
        Ok(names.iter().map(|name| self.named(name)).collect())
    }

    /// The instance of this name.
    ///
    /// # Errors
    /// [`CatalogError::NoInstance`] where it was not added, [`CatalogError::InstanceName`] where it
    /// cannot have been.
    pub fn instance(&self, name: &str) -> Result<Instance, CatalogError> {
        let instance = self.named(name);
        match std::fs::metadata(&instance.dir) {
            Ok(metadata) if metadata.is_dir() => {
                check_name(name)?;
                Ok(instance)
            }
            Ok(_) => Err(CatalogError::InstanceIsFile),
            Err(error) => {
                tracing::warn!(
                    "Failed to access directory \"{}\": {}",
                    instance.dir.display(),
                    plain(&error)
                );
                let name = name.to_owned();
                Err(CatalogError::NoInstance { name })
            }
        }
    }

    /// Registers an instance with its settings.
    ///
    /// # Errors
    /// Where the catalog was not initialised, the name is taken or not valid, or something cannot
    /// be written; a failure leaves nothing of the instance behind.
    pub fn add_instance(&self, name: &str, conf: &InstanceConf) -> Result<Instance, CatalogError> {
        check_name(name)?;
        for path in [
            self.root.clone(),
            self.root.join(BACKUPS),
            self.root.join(WAL),
        ] {
            if !path.is_dir() {
                return Err(CatalogError::NoDirectory { path });
            }
        }
        let instance = self.named(name);
        for (what, path) in [
            ("backup", &instance.dir),
            ("WAL archive", &instance.wal_dir),
        ] {
            if path.symlink_metadata().is_ok() {
                return Err(CatalogError::InstanceExists {
                    name: name.to_owned(),
                    what,
                    path: path.clone(),
                });
            }
        }
        let added = create_directory_durably(&instance.wal_dir, DIRECTORY_MODE)
            .and_then(|()| create_directory_durably(&instance.dir, DIRECTORY_MODE))
            .map_err(CatalogError::Storage)
            .and_then(|()| instance.write_conf(conf));
        if let Err(error) = added {
            // Both were absent above, so they are ours; what cannot be removed is an instance
            // without settings.
            let _ = std::fs::remove_dir(&instance.dir);
            let _ = std::fs::remove_dir(&instance.wal_dir);
            return Err(error);
        }
        Ok(instance)
    }

    fn named(&self, name: &str) -> Instance {
        Instance {
            name: name.to_owned(),
            dir: self.root.join(BACKUPS).join(name),
            wal_dir: self.root.join(WAL).join(name),
        }
    }
}

impl Instance {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory of its backups.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory of its WAL archive.
    #[must_use]
    pub fn wal_dir(&self) -> &Path {
        &self.wal_dir
    }

    /// The file of its settings.
    #[must_use]
    pub fn conf_path(&self) -> PathBuf {
        self.dir.join(INSTANCE_CONF)
    }

    /// Its settings.
    ///
    /// # Errors
    /// Where the file cannot be read or is not valid.
    pub fn conf(&self) -> Result<InstanceConf, CatalogError> {
        let path = self.conf_path();
        let bytes = read_small_file(&path).map_err(CatalogError::Storage)?;
        InstanceConf::parse(&bytes).map_err(|reason| CatalogError::Conf { path, reason })
    }

    /// All its backups, newest first. A backup whose record cannot be read is among them, with the
    /// reason.
    ///
    /// # Errors
    /// Where the instance's directory cannot be read.
    pub fn backups(&self) -> Result<Vec<BackupEntry>, CatalogError> {
        let mut entries = Vec::new();
        for name in directories_of(&self.dir)? {
            match name.parse::<BackupId>() {
                // The original takes lower case too, but then it would not find the directory again
                // by its id.
                Ok(id) if id.to_string() == name => {
                    entries.push(BackupEntry::read(&BackupDir::new(id, self.dir.join(name))));
                }
                _ => {
                    let path = self.dir.join(name);
                    tracing::warn!(
                        "Skip directory '{}': no backup has this name",
                        path.display()
                    );
                }
            }
        }
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.id));
        Ok(entries)
    }

    /// The backup of this id.
    ///
    /// # Errors
    /// [`CatalogError::NoBackup`] where there is none.
    pub fn backup(&self, id: BackupId) -> Result<BackupDir, CatalogError> {
        let path = self.dir.join(id.to_string());
        if path.is_dir() {
            Ok(BackupDir::new(id, path))
        } else {
            Err(CatalogError::NoBackup { id })
        }
    }

    /// Makes the directory of a new backup, locks it, and writes its first record.
    ///
    /// The lock is there before the record: whoever sees a running backup sees its owner too.
    ///
    /// # Errors
    /// [`CatalogError::BackupExists`] where a backup began in the same second. After a failure
    /// there is no new directory.
    pub fn create_backup(
        &self,
        control: &BackupControl,
    ) -> Result<(BackupDir, LockGuard), CatalogError> {
        let id = control.id();
        let path = self.dir.join(id.to_string());
        let create = || DirBuilder::new().mode(DIRECTORY_MODE).create(&path);
        match fault::step("create directory", &path).and_then(|()| create()) {
            Ok(()) => {}
            // Left by a run that was killed here; taken over if nobody else has it.
            Err(e) if e.kind() == ErrorKind::AlreadyExists && is_empty_directory(&path) => {}
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                return Err(CatalogError::BackupExists { path });
            }
            Err(e) => {
                let error = StorageError::new("create directory", &path, e);
                return Err(CatalogError::Storage(error));
            }
        }
        let begun = self.begin_backup(BackupDir::new(id, path.clone()), control);
        if begun.is_err() {
            // Nothing but an empty directory: with anything in it, it stays.
            let _ = std::fs::remove_dir(&path);
        }
        begun
    }

    /// Locks the directory of a new backup and writes its first record. After a failure the lock is
    /// gone again.
    fn begin_backup(
        &self,
        backup: BackupDir,
        control: &BackupControl,
    ) -> Result<(BackupDir, LockGuard), CatalogError> {
        sync_directory(&self.dir).map_err(CatalogError::Storage)?;
        let guard = lock::lock_exclusive(backup.path(), backup.id(), &LockOptions::FAIL_FAST)
            .map_err(CatalogError::Lock)?;
        if backup.control_path().exists() {
            let path = backup.path().to_owned();
            return Err(CatalogError::BackupExists { path });
        }
        backup.write_control(control)?;
        create_directory_durably(&backup.database(), DIRECTORY_MODE)
            .map_err(CatalogError::Storage)?;
        Ok((backup, guard))
    }
}

fn check_name(name: &str) -> Result<(), CatalogError> {
    let valid = !name.is_empty()
        && !name.starts_with('.')
        && !name.contains(|c: char| c == '/' || c.is_control());
    if valid {
        Ok(())
    } else {
        let name = name.to_owned();
        Err(CatalogError::InstanceName { name })
    }
}

// Names of the directories, or links to directories, in `path` that do not begin with a dot.
fn directories_of(path: &Path) -> Result<Vec<String>, CatalogError> {
    let failed = |source| CatalogError::OpenDirectory {
        path: path.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let is_directory = std::fs::metadata(entry.path()).is_ok_and(|m| m.is_dir());
        match name.into_string() {
            Ok(name) if is_directory && !name.starts_with('.') => names.push(name),
            Err(_) if is_directory => {
                tracing::warn!("Skip directory {:?}: its name is not UTF-8", entry.path());
            }
            _ => {}
        }
    }
    Ok(names)
}

fn is_empty_directory(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

fn create_with_parents(path: &Path) -> Result<(), CatalogError> {
    if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
        create_with_parents(parent)?;
    }
    create_directory_durably(path, DIRECTORY_MODE).map_err(CatalogError::Storage)
}

/// The system's message without the number that Rust appends.
pub(super) fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::catalog::BackupMode;

    fn catalog() -> (tempfile::TempDir, Catalog) {
        let scratch = tempfile::tempdir().unwrap();
        let catalog = Catalog::init(scratch.path().join("deep/er/catalog")).unwrap();
        (scratch, catalog)
    }

    fn conf() -> InstanceConf {
        InstanceConf {
            pgdata: Some("/data".to_owned()),
            system_identifier: 7,
            ..InstanceConf::default()
        }
    }

    #[test]
    fn a_catalog_is_made_only_where_nothing_is() {
        let (_scratch, catalog) = catalog();
        let again = Catalog::init(catalog.path()).unwrap_err();
        assert!(matches!(again, CatalogError::CatalogExists));
        assert!(matches!(
            Catalog::open("relative").unwrap_err(),
            CatalogError::NotAbsolute
        ));
    }

    #[test]
    fn an_instance_is_added_once_and_found_with_its_settings() {
        let (_scratch, catalog) = catalog();
        assert!(catalog.instances().unwrap().is_empty());
        catalog.add_instance("two", &conf()).unwrap();
        catalog.add_instance("one", &conf()).unwrap();
        let names = catalog
            .instances()
            .unwrap()
            .iter()
            .map(|instance| instance.name().to_owned())
            .collect::<Vec<_>>();
        assert_eq!(names, ["one", "two"]);
        let instance = catalog.instance("one").unwrap();
        assert_eq!(instance.conf().unwrap(), conf());
        let error = catalog.add_instance("one", &conf()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "Instance 'one' backup directory already exists: '{}'",
                instance.dir().display()
            )
        );
    }

    #[test]
    fn names_that_lead_elsewhere_are_no_instances() {
        let (_scratch, catalog) = catalog();
        for name in ["", ".", "..", ".hidden", "a/b", "../x", "a\nb"] {
            let error = catalog.add_instance(name, &conf()).unwrap_err();
            assert!(
                matches!(error, CatalogError::InstanceName { .. }),
                "{name:?}"
            );
            assert!(catalog.instance(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_second_backup_of_the_same_second_is_refused() {
        let (_scratch, catalog) = catalog();
        let instance = catalog.add_instance("one", &conf()).unwrap();
        let control = BackupControl::new(BackupMode::Full, 1_795_240_367);
        let (backup, guard) = instance.create_backup(&control).unwrap();
        assert_eq!(backup.read_control().unwrap().0, control);
        assert!(backup.database().is_dir());
        for _ in 0..2 {
            let error = instance.create_backup(&control).unwrap_err();
            assert!(
                matches!(error, CatalogError::BackupExists { .. }),
                "{error}"
            );
        }
        drop(guard);
        assert_eq!(instance.backups().unwrap().len(), 1);
        assert!(instance.backup(control.id()).is_ok());
    }

    #[test]
    fn a_backup_whose_first_record_cannot_be_written_leaves_no_directory() {
        let (_scratch, catalog) = catalog();
        let instance = catalog.add_instance("one", &conf()).unwrap();
        let mut control = BackupControl::new(BackupMode::Full, 1_795_240_367);
        control.note = Some("it's".to_owned());
        assert!(instance.create_backup(&control).is_err());
        assert_eq!(instance.backups().unwrap().len(), 0);
        let left = instance.dir().join(control.id().to_string());
        assert!(!left.exists(), "{}", left.display());
        control.note = None;
        assert!(instance.create_backup(&control).is_ok());
        // Somebody else's backup of that second is not an empty directory.
        assert!(instance.create_backup(&control).is_err());
        assert!(left.join("backup.control").exists());
    }

    #[test]
    fn backups_come_newest_first_and_broken_ones_with_the_reason() {
        let (_scratch, catalog) = catalog();
        let instance = catalog.add_instance("one", &conf()).unwrap();
        for start_time in [1_795_240_367, 1_795_240_399, 1_795_240_380] {
            let control = BackupControl::new(BackupMode::Full, start_time);
            instance.create_backup(&control).unwrap();
        }
        let broken = instance.dir().join("TOU8CZ");
        std::fs::create_dir(&broken).unwrap();
        std::fs::create_dir(instance.dir().join("notes about it")).unwrap();
        std::fs::write(instance.dir().join("TOU8BB_enc"), b"").unwrap();
        let entries = instance.backups().unwrap();
        let ids = entries
            .iter()
            .map(|entry| entry.id.to_string())
            .collect::<Vec<_>>();
        assert_eq!(ids, ["TOU8CZ", "TOU8CV", "TOU8CC", "TOU8BZ"]);
        assert_eq!(
            entries[0].control.as_ref().unwrap_err(),
            &format!(
                "Control file \"{}\" doesn't exist",
                broken.join("backup.control").display()
            )
        );
        assert!(entries[1].control.is_ok());
    }
}
