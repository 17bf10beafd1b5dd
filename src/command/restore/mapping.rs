//! `-T` and `--external-mapping`: which directory of the backed-up machine becomes which of this
//! one.

use super::super::Error;
use crate::storage::StorageError;
use std::fs;
use std::path::{Path, PathBuf};

/// Which option a mapping belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MappingKind {
    /// `-T`, `--tablespace-mapping`.
    Tablespace,
    /// `--external-mapping`.
    External,
}

impl MappingKind {
    /// The original's word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            MappingKind::Tablespace => "tablespace",
            MappingKind::External => "external directory",
        }
    }
}

/// `OLDDIR=NEWDIR`, both absolute.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathMapping {
    /// The directory on the backed-up machine.
    pub old: PathBuf,
    /// The directory here.
    pub new: PathBuf,
}

impl PathMapping {
    /// Reads `OLD=NEW`; a backslash before an equals sign makes it part of a name.
    ///
    /// # Errors
    /// When the text is not such a pair or a directory is not absolute; the text is the original's.
    ///
    /// # Panics
    /// Never: there is always a side to append to.
    pub fn parse(kind: MappingKind, text: &str) -> Result<PathMapping, String> {
        let name = kind.name();
        let mut sides = vec![String::new()];
        let mut characters = text.chars().peekable();
        while let Some(character) = characters.next() {
            let is_second = sides.len() == 2;
            let Some(side) = sides.last_mut() else { break };
            match character {
                '\\' if characters.peek() == Some(&'=') => {
                    side.push('=');
                    characters.next();
                }
                '=' if is_second => {
                    return Err(format!("multiple \"=\" signs in {name} mapping"));
                }
                '=' => sides.push(String::new()),
                _ => side.push(character),
            }
        }
        let [old, new] = &sides[..] else {
            return Err(invalid(name, text));
        };
        if old.is_empty() || new.is_empty() {
            return Err(invalid(name, text));
        }
        for (which, path) in [("old", old), ("new", new)] {
            if !path.starts_with('/') {
                return Err(format!(
                    "{which} directory is not an absolute path in {name} mapping: {path}"
                ));
            }
        }
        Ok(PathMapping {
            old: clean(old),
            new: clean(new),
        })
    }
}

fn invalid(name: &str, text: &str) -> String {
    format!("invalid {name} mapping format \"{text}\", must be \"OLDDIR=NEWDIR\"")
}

/// The path without doubled and trailing slashes and `.` components.
fn clean(path: &str) -> PathBuf {
    Path::new(path).components().collect()
}

/// Where `old` goes: its mapping, or where it was.
pub(super) fn apply(old: &Path, mappings: &[PathMapping]) -> PathBuf {
    let old = clean(&old.to_string_lossy());
    let mapping = mappings.iter().find(|mapping| mapping.old == old);
    mapping.map_or(old, |mapping| mapping.new.clone())
}

/// Every -T must name a tablespace of the backup, and its target be empty or one of `own`: the
/// tablespaces of the cluster that is restored in place.
pub(super) fn check_tablespaces(
    tablespaces: &[(u32, String)],
    mappings: &[PathMapping],
    own: &[PathBuf],
) -> Result<(), Error> {
    for mapping in mappings {
        if !tablespaces
            .iter()
            .any(|(_, path)| clean(path) == mapping.old)
        {
            return Err(Error::UnknownTablespace {
                path: mapping.old.clone(),
            });
        }
    }
    for (_, path) in tablespaces.iter().filter(|(_, path)| !is_relative(path)) {
        let path = apply(Path::new(path), mappings);
        if path.canonicalize().is_ok_and(|path| own.contains(&path)) {
            continue;
        }
        check_empty(&path, |path| Error::TablespaceNotEmpty { path })?;
    }
    Ok(())
}

/// Where the tablespaces of a data directory are that are links.
pub(super) fn own_tablespaces(data_directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let directory = data_directory.join("pg_tblspc");
    let failed = |cause| StorageError::new("list directory", &directory, cause);
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(failed(cause).into()),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        // A link that leads nowhere has nothing to protect.
        if path.is_symlink()
            && let Ok(path) = path.canonicalize()
        {
            found.push(path);
        }
    }
    Ok(found)
}

/// Every mapping must name an external directory of the backup, and every target be empty, unless
/// the restore is in place.
///
/// Where the backup has none, mappings are ignored: the original's rules made scripts pass them
/// along with -T.
pub(super) fn check_external(
    external: &[PathBuf],
    mappings: &[PathMapping],
    in_place: bool,
) -> Result<(), Error> {
    if external.is_empty() {
        return Ok(());
    }
    for path in external {
        if !path.is_absolute() {
            return Err(Error::Refused(format!(
                "external directory \"{}\" of the backup is no absolute path; leave it out with \
                 --skip-external-dirs",
                path.display()
            )));
        }
    }
    for mapping in mappings {
        if !external
            .iter()
            .any(|path| clean(&path.to_string_lossy()) == mapping.old)
        {
            return Err(Error::UnknownExternalDir {
                path: mapping.old.clone(),
            });
        }
    }
    for path in external.iter().filter(|_| !in_place) {
        check_empty(&apply(path, mappings), |path| Error::ExternalNotEmpty {
            path,
        })?;
    }
    Ok(())
}

/// Whether a tablespace lies in the data directory itself (`RELATIVE LOCATION`).
pub(super) fn is_relative(path: &str) -> bool {
    path.contains("/pg_location/")
}

/// A directory that does not exist counts as empty.
pub(super) fn check_empty(path: &Path, error: impl Fn(PathBuf) -> Error) -> Result<(), Error> {
    match fs::read_dir(path) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(error(path.to_owned())),
        },
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(cause) => Err(StorageError::new("open directory", path, cause).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_two_absolute_directories() {
        let parse = |text| PathMapping::parse(MappingKind::Tablespace, text);
        let mapping = parse("/a//b/=/c\\=d/.").unwrap();
        assert_eq!(mapping.old, Path::new("/a/b"));
        assert_eq!(mapping.new, Path::new("/c=d"));
        for (text, message) in [
            ("/a=/b=/c", "multiple \"=\" signs in tablespace mapping"),
            (
                "/a",
                "invalid tablespace mapping format \"/a\", must be \"OLDDIR=NEWDIR\"",
            ),
            (
                "/a=",
                "invalid tablespace mapping format \"/a=\", must be \"OLDDIR=NEWDIR\"",
            ),
            (
                "a=/b",
                "old directory is not an absolute path in tablespace mapping: a",
            ),
            (
                "/a=rel",
                "new directory is not an absolute path in tablespace mapping: rel",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err(), message);
        }
    }

    #[test]
    fn an_external_directory_has_to_be_one_of_a_file_system() {
        let paths = |path: &str| vec![PathBuf::from(path)];
        let error = check_external(&paths("+data/external"), &[], true).unwrap_err();
        assert!(error.to_string().contains("no absolute path"), "{error}");
        check_external(&paths("/nosuch/external"), &[], true).unwrap();
    }

    #[test]
    fn an_unmapped_directory_stays_where_it_was() {
        let mapping = PathMapping {
            old: "/a".into(),
            new: "/b".into(),
        };
        assert_eq!(
            apply(Path::new("/a/"), std::slice::from_ref(&mapping)),
            Path::new("/b")
        );
        assert_eq!(apply(Path::new("/ab"), &[mapping]), Path::new("/ab"));
    }
}
