//! What the options `--log-*` mean, for every command that does something to an instance.
//!
//! A setting comes from the command line, else from the instance's file, else it is the original's
//! default. The instance's file is read here before the command reads it, so that what the command
//! itself has to complain about gets into the log file too.

use super::args::Request;
use super::log_file::Target;
use crate::catalog::Catalog;
use crate::command::Error;
use crate::format::catalog::{InstanceConf, LogLevel};
use std::path::{Path, PathBuf};

/// Commands that write no log files: they have no instance, store the options as its settings, or
/// only show something.
const NOT_LOGGED: [&str; 6] = ["init", "add-instance", "show", "show-config", "demo", "dss"];

/// The name of the log file, where none is set.
const LOG_FILENAME: &str = "pg_probackup.log";
/// The directory of the log files in the catalog, where none is set.
pub(super) const LOG_DIRECTORY: &str = "log";

/// Where the log lines of a run go, apart from the console.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct LogOptions {
    /// Lowest level of the log file.
    pub(super) level: LogLevel,
    /// The log file.
    pub(super) log: Target,
    /// The file that gets errors only.
    pub(super) errors: Option<Target>,
}

impl LogOptions {
    /// The log files of a run; `None` where it has none.
    ///
    /// # Errors
    /// Where the directory is not absolute. What else is wrong with the settings, the command says.
    pub(super) fn of(request: &Request<'_>) -> Result<Option<LogOptions>, Error> {
        let options = request.options;
        let catalog = options
            .text("backup-path")
            .map(PathBuf::from)
            .or_else(|| request.environment.backup_path.clone().map(PathBuf::from));
        let Some(catalog) = catalog.filter(|path| path.is_absolute()) else {
            return Ok(None);
        };
        if NOT_LOGGED.contains(&request.command) {
            return Ok(None);
        }
        let mut conf = options
            .text("instance")
            .and_then(|name| stored(&catalog, name))
            .unwrap_or_default();
        if options.apply_settings(&mut conf).is_err() {
            return Ok(None);
        }
        LogOptions::from_conf(&conf, &catalog)
    }

    fn from_conf(conf: &InstanceConf, catalog: &Path) -> Result<Option<LogOptions>, Error> {
        let level = conf.log_level_file.unwrap_or(LogLevel::Off);
        if level == LogLevel::Off && conf.error_log_filename.is_none() {
            return Ok(None);
        }
        let directory = match &conf.log_directory {
            Some(directory) => PathBuf::from(directory),
            None => catalog.join(LOG_DIRECTORY),
        };
        if !directory.is_absolute() {
            let message = "--log-directory must be an absolute path";
            return Err(Error::Refused(message.to_owned()));
        }
        let target = |name: &str| Target {
            directory: directory.clone(),
            name: name.to_owned(),
            rotation_size_kb: conf.log_rotation_size_kb.unwrap_or(0),
            rotation_age_ms: conf.log_rotation_age_ms.unwrap_or(0),
        };
        Ok(Some(LogOptions {
            level,
            log: target(conf.log_filename.as_deref().unwrap_or(LOG_FILENAME)),
            errors: conf.error_log_filename.as_deref().map(target),
        }))
    }
}

// The settings of an instance, where they can be read. It is looked for by listing, so that a name
// that leads elsewhere opens nothing.
fn stored(catalog: &Path, name: &str) -> Option<InstanceConf> {
    let instances = Catalog::open(catalog).ok()?.instances().ok()?;
    instances
        .into_iter()
        .find(|instance| instance.name() == name)?
        .conf()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::super::args::Environment;
    use super::super::options::Options;
    use super::*;
    use std::ffi::OsString;
    use std::sync::Arc;

    fn of(command: &str, words: &str, conf: &str) -> Result<Option<LogOptions>, Error> {
        let scratch = tempfile::tempdir().unwrap();
        let catalog = Catalog::init(scratch.path().join("c")).unwrap();
        let conf = InstanceConf::parse(conf.as_bytes()).unwrap();
        catalog.add_instance("one", &conf).unwrap();
        let words = format!("--instance=one {words}")
            .split_ascii_whitespace()
            .map(OsString::from)
            .collect::<Vec<_>>();
        let environment = Environment {
            backup_path: Some(catalog.path().as_os_str().to_owned()),
            ..Environment::default()
        };
        let request = Request {
            command,
            options: &Options::parse(&words).unwrap(),
            environment: &environment,
            cancel: &Arc::default(),
        };
        let mut found = LogOptions::of(&request)?;
        // The scratch directory has another name in each run.
        if let Some(options) = &mut found
            && let Ok(below) = options.log.directory.strip_prefix(catalog.path())
        {
            options.log.directory = Path::new("/catalog").join(below);
        }
        Ok(found)
    }

    #[test]
    fn without_a_level_or_an_error_log_there_are_no_files() {
        assert_eq!(of("backup", "--log-filename=x", "").unwrap(), None);
        assert_eq!(of("backup", "--log-level-file=off", "").unwrap(), None);
        let errors = of("backup", "--error-log-filename=e", "").unwrap().unwrap();
        assert_eq!(errors.level, LogLevel::Off);
        assert_eq!(errors.errors.unwrap().name, "e");
    }

    #[test]
    fn defaults_are_those_of_the_original() {
        let options = of("restore", "--log-level-file=info", "").unwrap().unwrap();
        assert_eq!(options.level, LogLevel::Info);
        assert_eq!(options.log.directory, Path::new("/catalog/log"));
        assert_eq!(options.log.name, "pg_probackup.log");
        assert_eq!(options.log.rotation_size_kb, 0);
        assert_eq!(options.log.rotation_age_ms, 0);
        assert_eq!(options.errors, None);
    }

    #[test]
    fn the_command_line_overrides_the_instances_file() {
        let conf = "log-level-file = LOG\nlog-filename = a-%d.log\nlog-directory = /var/log/a\n\
                    log-rotation-size = 10MB\nlog-rotation-age = 2d\n";
        let options = of("validate", "", conf).unwrap().unwrap();
        assert_eq!(options.level, LogLevel::Log);
        assert_eq!(options.log.name, "a-%d.log");
        assert_eq!(options.log.directory, Path::new("/var/log/a"));
        assert_eq!(options.log.rotation_size_kb, 10_240);
        assert_eq!(options.log.rotation_age_ms, 172_800_000);
        let words = "--log-level-file=error --log-directory=/b --log-rotation-size=1 \
                     --log-rotation-age=30min";
        let options = of("validate", words, conf).unwrap().unwrap();
        assert_eq!(options.level, LogLevel::Error);
        assert_eq!(options.log.directory, Path::new("/b"));
        assert_eq!(options.log.name, "a-%d.log");
        assert_eq!(options.log.rotation_size_kb, 1);
        assert_eq!(options.log.rotation_age_ms, 1_800_000);
    }

    #[test]
    fn a_relative_directory_is_refused() {
        let error = of("backup", "--log-level-file=log --log-directory=x", "").unwrap_err();
        assert_eq!(
            error.to_string(),
            "--log-directory must be an absolute path"
        );
    }

    #[test]
    fn commands_that_only_show_or_store_have_no_log_file() {
        for command in NOT_LOGGED {
            assert_eq!(of(command, "--log-level-file=log", "").unwrap(), None);
        }
        assert!(of("merge", "--log-level-file=log", "").unwrap().is_some());
    }
}
