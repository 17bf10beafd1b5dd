//! Changing an instance's settings: read, changed and replaced as one step.
//!
//! The original takes no lock, so of two `set-config` at once one is lost. Here the second one
//! waits: whoever changes settings holds an `flock` on the instance's directory meanwhile, which
//! needs no file and ends with its process.

use super::instance::Instance;
use super::{CatalogError, FILE_MODE};
use crate::format::catalog::InstanceConf;
use crate::storage::{StorageError, write_file_durably};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::File;
use std::time::{Duration, Instant};

/// How long another change is waited for: it takes a moment, or its process is stuck.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Between two looks at the lock.
const POLL: Duration = Duration::from_millis(20);

impl Instance {
    /// Changes the settings, and replaces the file of them durably where `change` did something.
    ///
    /// # Errors
    /// What `change` returns; where the file cannot be read or replaced, or another process holds
    /// on to it. The former settings then stay.
    pub fn change_conf<E: From<CatalogError>>(
        &self,
        change: impl FnOnce(&mut InstanceConf) -> Result<(), E>,
    ) -> Result<(), E> {
        let _lock = self.lock_settings()?;
        let mut conf = self.conf()?;
        let before = conf.encode();
        change(&mut conf)?;
        if conf.encode() == before {
            return Ok(());
        }
        Ok(self.write_conf(&conf)?)
    }

    /// Replaces the file of the settings, durably.
    ///
    /// # Errors
    /// Where the original could not read it, or it cannot be written.
    pub(super) fn write_conf(&self, conf: &InstanceConf) -> Result<(), CatalogError> {
        let path = self.conf_path();
        if let Err(reason) = conf.check_lines() {
            return Err(CatalogError::WriteConf { path, reason });
        }
        write_file_durably(&path, FILE_MODE, conf.encode().as_bytes())
            .map_err(CatalogError::Storage)
    }

    /// Puts back a file of settings that was removed.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn restore_conf(&self, bytes: &[u8]) -> Result<(), CatalogError> {
        write_file_durably(&self.conf_path(), FILE_MODE, bytes).map_err(CatalogError::Storage)
    }

    fn lock_settings(&self) -> Result<File, CatalogError> {
        let failed = |source| {
            let error = StorageError::new("open directory", self.dir(), source);
            CatalogError::Storage(error)
        };
        let directory = File::open(self.dir()).map_err(failed)?;
        let until = Instant::now() + WAIT_MAX;
        loop {
            match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(POLL),
                Err(Errno::WOULDBLOCK) => {
                    let name = self.name().to_owned();
                    return Err(CatalogError::ConfInUse { name });
                }
                // Where the file system has no such locks, the rename alone has to do.
                _ => return Ok(directory),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;

    fn instance() -> (tempfile::TempDir, Instance) {
        let scratch = tempfile::tempdir().unwrap();
        let catalog = Catalog::init(scratch.path().join("c")).unwrap();
        let conf = InstanceConf {
            system_identifier: 7,
            ..InstanceConf::default()
        };
        let instance = catalog.add_instance("one", &conf).unwrap();
        (scratch, instance)
    }

    #[test]
    fn changes_made_at_once_are_all_kept() {
        let (_scratch, instance) = instance();
        let keys = ["pguser", "pghost", "pgport", "ssh-options"];
        std::thread::scope(|threads| {
            for key in keys {
                let instance = &instance;
                threads.spawn(move || {
                    for round in 0..20 {
                        let value = format!("{key}-{round}");
                        instance
                            .change_conf(|conf| {
                                conf.set(key, key, &value).unwrap();
                                Ok::<(), CatalogError>(())
                            })
                            .unwrap();
                    }
                });
            }
        });
        let conf = instance.conf().unwrap();
        assert_eq!(conf.system_identifier, 7);
        for key in keys {
            assert_eq!(conf.get(key), Some(format!("{key}-19")));
        }
    }

    #[test]
    fn a_change_that_fails_and_one_that_is_none_leave_the_file_as_it_is() {
        let (_scratch, instance) = instance();
        // Not as this program writes it, so that a rewrite would show.
        let text = "system-identifier=7 # by hand\n";
        std::fs::write(instance.conf_path(), text).unwrap();
        instance
            .change_conf(|_| Ok::<(), CatalogError>(()))
            .unwrap();
        let error = instance
            .change_conf(|conf| {
                conf.pgdata = Some("/x".repeat(600));
                Ok::<(), CatalogError>(())
            })
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("the value of pgdata is too long"),
            "{error}"
        );
        assert_eq!(std::fs::read_to_string(instance.conf_path()).unwrap(), text);
        assert_eq!(std::fs::read_dir(instance.dir()).unwrap().count(), 1);
    }
}
