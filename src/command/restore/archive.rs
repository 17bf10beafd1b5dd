//! WAL that a restored server needs beyond its backup: where it is, whether it reaches the recovery
//! target, and the command that brings it.
//!
//! A `restore_command` of the user counts before everything. Without one, the directory that the
//! user names, else the instance's in the catalog, becomes one: the server copies segments from
//! there, or unpacks them.

use super::super::Error;
use super::super::validate::check_target;
use super::super::wal_archive::Holding;
use super::{Options, choose};
use crate::catalog::{BackupEntry, Instance};
use crate::format::catalog::BackupControl;
use std::path::{Path, PathBuf};

/// Directories with WAL, in the order in which they are asked: the one that the user names, then
/// the instance's.
pub(in super::super) fn archives(
    named: Option<&Path>,
    instance: &Instance,
) -> Result<Vec<PathBuf>, Error> {
    let mut archives = Vec::new();
    if let Some(path) = named {
        let failed = |problem| Error::WalArchiveDirectory {
            path: path.to_owned(),
            problem,
        };
        if !path.is_dir() {
            return Err(failed("does not exist or is not a directory"));
        }
        if Holding::of(path)?.is_empty() {
            return Err(failed("holds no WAL segments"));
        }
        archives.push(path.to_owned());
    }
    archives.push(instance.wal_dir().to_owned());
    Ok(archives)
}

/// Checks that WAL goes as far as the target.
pub(super) fn check_reach(
    chain: &[BackupEntry],
    options: &Options,
    archives: &[PathBuf],
) -> Result<(), Error> {
    let Some(last) = chain.last() else {
        return Ok(());
    };
    let control = choose::control(last)?;
    if !options.target.needs_wal(&control) {
        return Ok(());
    }
    if options.restore_command.is_some() && all_empty(archives)? {
        tracing::warn!(
            "Whether WAL goes as far as the recovery target is not known: restore_command brings \
             it from elsewhere. Name the directory with --archive-dir to have it checked"
        );
        return Ok(());
    }
    let (dir, cancel) = (last.open(), &options.check.cancel);
    check_target(&dir, &control, &options.target, archives, cancel)
}

fn all_empty(archives: &[PathBuf]) -> Result<bool, Error> {
    for archive in archives {
        if !Holding::of(archive)?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The command that brings WAL to the server, if there is one.
pub(super) fn restore_command(
    control: &BackupControl,
    options: &Options,
    archives: &[PathBuf],
) -> Result<Option<String>, Error> {
    if options.restore_command.is_some() {
        return Ok(options.restore_command.clone());
    }
    let is_needed = !control.stream || options.target.needs_wal(control);
    if options.archive_dir.is_none() && !is_needed {
        return Ok(None);
    }
    for archive in archives {
        let holding = Holding::of(archive)?;
        if holding.is_empty() {
            continue;
        }
        let Some(path) = archive.to_str() else {
            return Err(Error::WalArchiveDirectory {
                path: archive.clone(),
                problem: "has a name that is not UTF-8, which no configuration file holds",
            });
        };
        let command = copy_command(path, holding);
        tracing::info!("WAL comes by restore_command: {command}");
        return Ok(Some(command));
    }
    Ok(None)
}

/// A shell command with the server's placeholders: `%f` is the segment's name, `%p` where it goes.
fn copy_command(directory: &str, holding: Holding) -> String {
    let directory = directory.replace('\'', "'\\''").replace('%', "%%");
    let copy = format!("cp '{directory}/%f' '%p'");
    if !holding.compressed {
        return copy;
    }
    format!(
        "if test -f '{directory}/%f'; then {copy}; \
         else test -f '{directory}/%f.gz' && gzip -cd '{directory}/%f.gz' > '%p'; fi"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// What a server does with the command.
    fn run(command: &str, name: &str, to: &Path) -> bool {
        let command = command
            .replace("%f", name)
            .replace("%p", to.to_str().unwrap())
            .replace("%%", "%");
        let status = Command::new("sh").args(["-c", &command]).status();
        status.unwrap().success()
    }

    #[test]
    fn the_command_copies_and_unpacks_from_directories_of_any_name() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch
            .path()
            .join("it's 100% a \"WAL\" \\ $HOME `archive`");
        std::fs::create_dir(&directory).unwrap();
        let to = scratch.path().join("to");
        std::fs::write(directory.join("plain"), b"one").unwrap();
        let packed = directory.join("packed");
        std::fs::write(&packed, b"two").unwrap();
        let gzip = Command::new("gzip").arg(&packed).status().unwrap();
        assert!(gzip.success());
        let path = directory.to_str().unwrap();
        let plain = Holding {
            plain: true,
            compressed: false,
        };
        let both = Holding {
            plain: true,
            compressed: true,
        };
        for holding in [plain, both] {
            assert!(run(&copy_command(path, holding), "plain", &to));
            assert_eq!(std::fs::read(&to).unwrap(), b"one");
            assert!(!run(&copy_command(path, holding), "absent", &to));
        }
        assert!(run(&copy_command(path, both), "packed", &to));
        assert_eq!(std::fs::read(&to).unwrap(), b"two");
    }
}
