//! Changing the status of a backup: only that, durably, and sealed all the while.

use super::{Error, seal};
use crate::catalog::{BackupDir, lock};
use crate::format::catalog::{BackupControl, replace_pin_and_note};

/// Writes the status of `control` into the backup's control file; all else there stays as it is.
pub(super) fn set(dir: &BackupDir, control: &BackupControl) -> Result<(), Error> {
    let _alone = alone(dir);
    let change = seal::begin_change(dir, control.status)?;
    let as_of = change.as_ref().and_then(|change| change.as_of);
    dir.set_status_as_of(control.status, as_of)?;
    match change {
        Some(change) => change.finish(dir),
        None => Ok(()),
    }
}

/// Writes pin and note into the backup's control file; all else there stays as it is.
pub(super) fn set_pin_and_note(
    dir: &BackupDir,
    expire_time: Option<i64>,
    note: Option<&str>,
) -> Result<(), Error> {
    let change = seal::begin_change_to(dir, &|bytes| {
        replace_pin_and_note(bytes, expire_time, note).ok()
    })?;
    let as_of = change.as_ref().and_then(|change| change.as_of);
    dir.set_pin_and_note_as_of(expire_time, note, as_of)?;
    match change {
        Some(change) => change.finish(dir),
        None => Ok(()),
    }
}

/// Keeps others from changing the control file while what is returned lives: a status and a note
/// may be set at the same time, under locks that are shared.
pub(super) fn alone(dir: &BackupDir) -> Option<lock::Exclusion> {
    lock::exclude_others(dir.path())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::BackupEntry;
    use crate::format::catalog::{BackupMode, BackupStatus};
    use crate::format::seal::Seal;
    use crate::types::BackupId;
    use std::path::Path;

    const START: i64 = 1_795_240_367;

    /// Bytes from one that is damaged to the next.
    const STRIDE: usize = 16;

    /// A backup that was just finished: DONE, and sealed.
    fn done(directory: &Path) -> BackupDir {
        let dir = BackupEntry {
            id: BackupId::from_start_time(START).unwrap(),
            dir: directory.to_owned(),
            control: Err(String::new()),
            warnings: Vec::new(),
            unfinished_merge: None,
        }
        .open();
        let mut control = BackupControl::new(BackupMode::Full, START);
        control.status = BackupStatus::Done;
        control.note = Some("a note".to_owned());
        let seal = Seal::new(&control.encode(), Some(b"control"));
        seal::write_with_control(&dir, &seal, &control).unwrap();
        dir
    }

    /// Whether control file and seal agree, as validation sees it.
    fn agrees(dir: &BackupDir) -> bool {
        let (Ok((control, warnings)), Ok(Some(seal))) = (dir.read_control(), seal::read(dir))
        else {
            return false;
        };
        warnings.is_empty() && seal::disagreement(dir, &control, &seal).is_none()
    }

    /// Whether bits of both files that a medium flips, which leaves times alone, are noticed: those
    /// of each byte over the runs with every `seed`.
    fn flipped_bits_are_noticed(dir: &BackupDir, seed: usize) -> bool {
        let mut paths = [dir.control_path(), dir.path().join("backup.seal")].into_iter();
        paths.all(|path| {
            let whole = std::fs::read(&path).unwrap();
            let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
            let put = |bytes: &[u8]| {
                std::fs::write(&path, bytes).unwrap();
                let file = std::fs::File::options().write(true).open(&path).unwrap();
                file.set_modified(modified).unwrap();
            };
            let noticed = (seed % STRIDE..whole.len()).step_by(STRIDE).all(|at| {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << (at % 8);
                put(&damaged);
                !agrees(dir)
            });
            put(&whole);
            noticed
        })
    }

    fn control_with(dir: &BackupDir, status: BackupStatus) -> BackupControl {
        let (mut control, _) = dir.read_control().unwrap();
        control.status = status;
        control
    }

    /// Does the steps of a status change up to the one that a crash prevents.
    fn change_until(steps: u32, dir: &BackupDir, status: BackupStatus) {
        let leftover = |name: &str| {
            std::fs::write(dir.path().join(format!("{name}-1.tmp")), b"{half").unwrap();
        };
        leftover("backup.seal");
        if steps == 0 {
            return;
        }
        let change = seal::begin_change(dir, status).unwrap().unwrap();
        leftover("backup.control");
        if steps == 1 {
            return;
        }
        dir.set_status_as_of(status, change.as_of).unwrap();
        if steps == 2 {
            return;
        }
        change.finish(dir).unwrap();
    }

    #[test]
    fn a_crash_at_any_step_leaves_a_control_file_that_is_sealed() {
        for first in 0..4 {
            for second in 0..4 {
                let seed = usize::try_from(4 * first + second).unwrap();
                let scratch = tempfile::tempdir().unwrap();
                let dir = done(scratch.path());
                assert!(agrees(&dir) && flipped_bits_are_noticed(&dir, seed));
                change_until(first, &dir, BackupStatus::Ok);
                assert!(agrees(&dir), "{first}");
                assert!(flipped_bits_are_noticed(&dir, seed), "{first}");
                change_until(second, &dir, BackupStatus::Corrupt);
                assert!(agrees(&dir), "{first} {second}");
                assert!(flipped_bits_are_noticed(&dir, seed), "{first} {second}");
                set(&dir, &control_with(&dir, BackupStatus::Orphan)).unwrap();
                assert!(agrees(&dir) && flipped_bits_are_noticed(&dir, seed));
                let text = std::fs::read_to_string(dir.control_path()).unwrap();
                let seal = seal::read(&dir).unwrap().unwrap();
                assert_eq!((seal.backup_control, seal.next_control), (text, None));
                assert!(
                    Seal::new("", Some(b"control")).pg_control_blake3 == seal.pg_control_blake3
                );
            }
        }
    }

    #[test]
    fn what_another_tool_changed_is_sealed_with_the_next_status_and_damage_is_not() {
        for (from, to, is_good) in [
            ("a note", "another note", true),
            ("block-size = 8192", "block-size = 4096", false),
        ] {
            for steps in 0..4 {
                let scratch = tempfile::tempdir().unwrap();
                let dir = done(scratch.path());
                let text = std::fs::read_to_string(dir.control_path()).unwrap();
                let changed = text.replace(from, to);
                assert_ne!(changed, text);
                std::fs::write(dir.control_path(), changed).unwrap();
                let later = std::time::SystemTime::now() + std::time::Duration::from_secs(1);
                let file = std::fs::File::options();
                let file = file.clone().write(true).open(dir.control_path()).unwrap();
                file.set_modified(later).unwrap();
                assert_eq!(agrees(&dir), is_good);
                change_until(steps, &dir, BackupStatus::Ok);
                assert_eq!(agrees(&dir), is_good, "{to} {steps}");
                set(&dir, &control_with(&dir, BackupStatus::Corrupt)).unwrap();
                assert_eq!(agrees(&dir), is_good, "{to} {steps}");
                assert!(!is_good || flipped_bits_are_noticed(&dir, 0));
            }
        }
    }

    #[test]
    fn a_backup_without_a_seal_gets_its_status_and_no_seal() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = done(scratch.path());
        std::fs::remove_file(dir.path().join("backup.seal")).unwrap();
        set(&dir, &control_with(&dir, BackupStatus::Ok)).unwrap();
        assert_eq!(dir.read_control().unwrap().0.status, BackupStatus::Ok);
        assert!(!dir.path().join("backup.seal").exists());
    }
}
