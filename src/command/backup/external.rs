//! External directories (`-E`) and tablespaces: what is in both would be backed up twice, and
//! restored over itself.
//!
//! Source: `check_external_for_tablespaces` in gs_probackup's `backup.cpp`; the texts are its own.

use super::super::Error;
use std::path::{Path, PathBuf};

/// Refuses external directories that contain a tablespace or one another; returns warnings for
/// those that lie in a tablespace.
///
/// An external directory may be a tablespace: [`super::list()`] then leaves it to the external one.
/// Tablespaces with a relative path are those below `pg_location` of the data directory. Paths are
/// compared by their wording.
///
/// # Errors
/// [`Error::Refused`].
pub fn check_external_dirs(
    dirs: &[PathBuf],
    tablespaces: &[PathBuf],
    data_directory: &Path,
) -> Result<Vec<String>, Error> {
    let mut warnings = Vec::new();
    for dir in dirs {
        if dir.as_os_str().as_encoded_bytes().starts_with(b"+") {
            return Err(on_shared_storage(dir));
        }
        for tablespace in tablespaces {
            let tablespace = data_directory.join("pg_location").join(tablespace);
            if contains(dir, &tablespace) {
                return Err(Error::Refused(format!(
                    "External directory path (-E option) \"{}\" contains tablespace \"{}\"",
                    shown(dir),
                    shown(&tablespace)
                )));
            }
            if contains(&tablespace, dir) {
                // The original prints the two the other way round.
                warnings.push(format!(
                    "External directory path (-E option) \"{}\" is in tablespace directory \"{}\"",
                    shown(dir),
                    shown(&tablespace)
                ));
            }
        }
    }
    for (index, dir) in dirs.iter().enumerate() {
        for (other_index, other) in dirs.iter().enumerate() {
            if index != other_index && other.starts_with(dir) {
                return Err(Error::Refused(format!(
                    "External directory path (-E option) \"{}\" contain another external directory \
                     \"{}\"",
                    shown(dir),
                    shown(other)
                )));
            }
        }
    }
    Ok(warnings)
}

/// The error of an external directory that is on shared storage.
pub(super) fn on_shared_storage(dir: &Path) -> Error {
    Error::Refused(format!(
        "External directory path (-E option) \"{}\" contains dss path, which is not allow now",
        shown(dir)
    ))
}

fn contains(outer: &Path, inner: &Path) -> bool {
    inner.starts_with(outer) && inner != outer
}

fn shown(path: &Path) -> String {
    path.display().to_string().escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(dirs: &[&str], tablespaces: &[&str]) -> Result<Vec<String>, String> {
        let paths = |texts: &[&str]| texts.iter().map(PathBuf::from).collect::<Vec<_>>();
        check_external_dirs(&paths(dirs), &paths(tablespaces), Path::new("/data"))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn directories_apart_from_tablespaces_and_one_another_are_fine() {
        for (dirs, tablespaces) in [
            (&["/a", "/b"][..], &["/c", "rel"][..]),
            (&["/a"], &["/a"]),
            (&["/data/pg_location/rel"], &["rel"]),
            (&["/ts/ts1"], &["/ts/ts10"]),
            (&["/ts1", "/ts10"], &[]),
            (&["/a/"], &["/a"]),
        ] {
            assert_eq!(check(dirs, tablespaces), Ok(Vec::new()), "{dirs:?}");
        }
    }

    #[test]
    fn a_directory_around_a_tablespace_is_refused() {
        for (dir, tablespace, shown) in [
            ("/ts", "/ts/ts1", "/ts/ts1"),
            ("/", "/ts/ts1", "/ts/ts1"),
            ("/data", "rel", "/data/pg_location/rel"),
        ] {
            assert_eq!(
                check(&[dir], &[tablespace]),
                Err(format!(
                    "External directory path (-E option) \"{dir}\" contains tablespace \"{shown}\""
                ))
            );
        }
    }

    #[test]
    fn a_directory_in_a_tablespace_is_a_warning() {
        let text = "External directory path (-E option) \"/ts/a\" is in tablespace directory \
                    \"/ts\"";
        assert_eq!(check(&["/ts/a"], &["/ts"]), Ok(vec![text.to_owned()]));
    }

    #[test]
    fn directories_in_one_another_are_refused() {
        let text = "External directory path (-E option) \"/a\" contain another external \
                    directory";
        assert_eq!(check(&["/a/b", "/a"], &[]), Err(format!("{text} \"/a/b\"")));
        assert_eq!(check(&["/a", "/a/b"], &[]), Err(format!("{text} \"/a/b\"")));
        assert_eq!(check(&["/a", "/a"], &[]), Err(format!("{text} \"/a\"")));
    }

    #[test]
    fn a_directory_on_shared_storage_is_refused() {
        let refused = check(&["+data/x"], &[]).unwrap_err();
        assert_eq!(
            refused,
            "External directory path (-E option) \"+data/x\" contains dss path, which is not \
             allow now"
        );
    }
}
