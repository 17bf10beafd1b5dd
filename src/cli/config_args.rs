//! What the options of the commands on an instance as such mean: `set-config`, `show-config`,
//! `del-instance`.

use super::args::{Prepared, Request, refused};
use crate::catalog::Catalog;
use crate::command::{Error, del_instance, set_config, show_config};
use crate::format::catalog::{InstanceConf, LogLevel};
use crate::types::CompressAlgorithm;

impl Request<'_> {
    /// `set-config`: what is on the command line goes into the file, and nothing of the
    /// environment.
    pub(super) fn set_config(&self) -> Result<set_config::Options, Error> {
        let catalog = self.check_common()?;
        let instance = self.instance(catalog, self.instance_name()?)?;
        self.refuse_backup_id()?;
        self.threads()?;
        let level = self.stored_level(&instance.conf)?;
        self.shared_names(&instance.conf)?;
        let mut given = InstanceConf::default();
        self.options
            .apply_settings(&mut given)
            .map_err(|error| refused(error.message))?;
        if self.options.is_given("pgdata") {
            given.pgdata.clone_from(&instance.conf.pgdata);
        }
        if self.options.flag("compress") {
            given.compress_algorithm = Some(CompressAlgorithm::Zlib);
        }
        if given.compress_level.is_some() {
            given.compress_level = level;
        }
        Ok(set_config::Options {
            catalog: instance.catalog,
            instance: instance.name,
            changes: given,
        })
    }

    // The level as it is stored; unlike elsewhere one may be set without an algorithm.
    fn stored_level(&self, conf: &InstanceConf) -> Result<Option<u32>, Error> {
        let conf = InstanceConf {
            compress_algorithm: Some(conf.compress_algorithm.unwrap_or_default()),
            ..conf.clone()
        };
        let (_, level) = self.compression(&conf)?;
        Ok(conf.compress_level.map(|_| level))
    }

    /// `show-config`, and whether as JSON.
    pub(super) fn show_config(&self) -> Result<(show_config::Options, bool), Error> {
        let json = self.is_json();
        let catalog = self.check_common()?;
        let mut instance = self.instance(catalog, self.instance_name()?)?;
        self.refuse_backup_id()?;
        self.threads()?;
        let (algorithm, level) = self.compression(&instance.conf)?;
        if instance.conf.compress_level.is_some() {
            instance.conf.compress_level = Some(level);
        }
        if self.options.flag("compress") {
            instance.conf.compress_algorithm = Some(algorithm);
        }
        let mut defaults = InstanceConf::default();
        if let Some(database) = &self.environment.database {
            // A name that is no value is none.
            let _ = defaults.set("pgdatabase", "--pgdatabase", database);
        }
        if instance.conf.log_level_file.unwrap_or(LogLevel::Off) != LogLevel::Off
            || instance.conf.error_log_filename.is_some()
        {
            let directory = instance.catalog.join(super::log_options::LOG_DIRECTORY);
            defaults.log_directory = directory.to_str().map(str::to_owned);
        }
        let options = show_config::Options {
            settings: instance.conf,
            defaults,
        };
        Ok((options, json))
    }

    /// `del-instance`. The settings may be gone: then a deletion was interrupted at its end.
    pub(super) fn del_instance(&self) -> Result<Prepared<del_instance::Options>, Error> {
        let catalog = self.check_common()?;
        let name = self.instance_name()?.to_owned();
        let instance = Catalog::open(&catalog)?.instance(&name)?;
        let is_set = instance.conf_path().symlink_metadata().is_ok();
        let conf = is_set.then(|| instance.conf()).transpose()?;
        self.check_supported()?;
        self.refuse_backup_id()?;
        let options = del_instance::Options {
            catalog,
            instance: name,
            check: self.check_options()?,
        };
        Ok(self.prepared(options, conf.and_then(|conf| conf.log_level_console)))
    }

    /// What `--format` asks for; its value was checked when it was read.
    pub(super) fn is_json(&self) -> bool {
        let format = self.options.text("format").unwrap_or("plain");
        "json".starts_with(&format.to_ascii_lowercase())
    }
}
