//! Files of a backup that its content list does not name.
//!
//! A restore never looks at them, but in a backup that nobody touched there are none: each is a
//! sign that somebody did, or that the list lost an entry. Left over by an interrupted or finished
//! merge of the original they are normal.

use super::super::Error;
use super::check::roots_of;
use crate::catalog::BackupDir;
use crate::format::catalog::{BackupControl, ContentList, Root};
use crate::pipeline::Finding;
use crate::storage::{FileKind, Posix, Storage};
use std::path::{Path, PathBuf};

/// The unlisted files.
pub(super) fn unlisted_files(
    dir: &BackupDir,
    control: &BackupControl,
    list: &ContentList,
) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    let mut roots = roots_of(list);
    // Files of shared storage are strange where the list has none.
    roots.insert(Root::Shared);
    for root in roots {
        // A missing directory is found with its files.
        let Ok(tree) = Posix::open(&dir.root_of(root)) else {
            continue;
        };
        let mut pending = vec![PathBuf::new()];
        while let Some(directory) = pending.pop() {
            for entry in tree.list(&directory)? {
                let path = directory.join(&entry.name);
                let is_directory = entry.metadata.kind == FileKind::Directory;
                if is_listed(list, &path, root)
                    || is_leftover(control, &path)
                    || (is_directory && is_made_twice(control, list, &path))
                {
                    if is_directory {
                        pending.push(path);
                    }
                    continue;
                }
                let path = tree.display_path(&path);
                let text = format!(
                    "File \"{}\" is not in the content list of the backup",
                    path.display().to_string().escape_debug()
                );
                findings.push(Finding {
                    name: path.display().to_string(),
                    text,
                });
            }
        }
    }
    Ok(findings)
}

fn is_listed(list: &ContentList, path: &Path, root: Root) -> bool {
    path.to_str()
        .is_some_and(|path| list.find(path, root).is_some())
}

fn is_of_merge(control: &BackupControl) -> bool {
    control.merge_time.is_some() || control.merge_dest_id.is_some()
}

/// Whether it is one of the directories that the original's merge makes in both trees, whichever
/// they are listed in.
fn is_made_twice(control: &BackupControl, list: &ContentList, path: &Path) -> bool {
    is_of_merge(control)
        && [Root::Data, Root::Shared]
            .into_iter()
            .any(|root| is_listed(list, path, root))
}

/// Whether a merge leaves files of such a name.
fn is_leftover(control: &BackupControl, path: &Path) -> bool {
    let name = path.to_string_lossy();
    is_of_merge(control)
        && ["_tmp", "_tmp1", "_tmp2"]
            .iter()
            .any(|suffix| name.ends_with(suffix))
}
